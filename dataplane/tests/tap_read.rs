//! A frame that the kernel cannot give to the data plane is lost and counted; the worker goes on.

mod support;

use std::fs;
use std::os::fd::RawFd;

use adit_proto::stats::{Count, Drop};
use support::{Bed, broadcast, eventually, in_namespace};

/// `TUNSETVNETHDRSZ`: _IOW('T', 216, int).
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
/// Length of the virtio-net header that the data plane reads.
const VNET_LEN: libc::c_int = 10;

/// The only TAP of this process.
fn tap() -> RawFd {
    let is_tap = |fd: &RawFd| fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|path| path.ends_with("net/tun"));
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_tap).expect("the data plane's TAP")
}

fn set_header_len(len: libc::c_int) {
    support::ioctl_int(tap(), TUNSETVNETHDRSZ, len);
}

#[test]
fn a_read_that_the_kernel_refuses_is_a_counted_drop_and_no_end() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "io_uring", 1);
        // With a header longer than the buffer the kernel has no room to describe a frame: it drops it and says EINVAL.
        set_header_len(1 << 20);
        for _ in 0..3 {
            bed.tap.send(&broadcast(1));
        }
        eventually("three frames are lost", || bed.dropped(Drop::BadOffload) == 3);
        set_header_len(VNET_LEN);
        bed.tap.send(&broadcast(1));
        eventually("the next one goes", || bed.count(Count::Sealed) == 1);
        assert_eq!(bed.drops(), [("bad_offload", 3)]);
    });
}
