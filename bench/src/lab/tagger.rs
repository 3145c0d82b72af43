//! VLAN tags on kernels without VLAN devices: two small BPF programs on a link (tcx, Linux 6.6) push tags onto every frame that
//! leaves and pop them from every frame that comes, super-frames as they are. A frame without exactly these tags is dropped.
//!
//! Instructions are written out by hand, as linux/bpf.h numbers them; there is no compiler for BPF on a plain system.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::netns::Netns;

const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;
const HELPER_VLAN_PUSH: i32 = 18;
const HELPER_VLAN_POP: i32 = 19;
const VERDICT_PASS: i32 = 0;
const VERDICT_DROP: i32 = 2;
/// Offsets in `struct __sk_buff`.
const VLAN_PRESENT: i16 = 20;
const VLAN_TCI: i16 = 24;
const LOG_BYTES: usize = 4096;

/// A tag: the protocol (0x8100 or 0x88A8) and the VLAN's number.
pub type Tag = (u16, u16);

/// The attached programs; dropping it takes them off.
#[derive(Debug)]
pub struct Tagger(#[expect(dead_code, reason = "held for their descriptors, which keep the programs attached")] [OwnedFd; 2]);

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The beginning of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The beginning of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
#[derive(Default)]
struct Link {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: [u64; 2],
}

impl Tagger {
    /// Tags everything on `link`; the first tag is the outermost on the wire.
    pub fn attach(netns: &Netns, link: &str, tags: &[Tag]) -> Result<Tagger> {
        let line = netns.run(&format!("ip -o link show dev {link}"))?;
        let index: u32 = line.split(':').next().and_then(|number| number.parse().ok()).context("the index of the link")?;
        let one = |program: &[Instruction], hook: u32| -> Result<OwnedFd> {
            let program = load(program, hook).context("the kernel refuses the BPF program")?;
            let link = Link { prog_fd: program.as_raw_fd() as u32, target_ifindex: index, attach_type: hook, ..Link::default() };
            netns.enter(|| bpf(LINK_CREATE, &link)).context("cannot attach the BPF program (tcx needs Linux 6.6)")
        };
        Ok(Tagger([one(&push(tags), TCX_EGRESS)?, one(&pop(tags), TCX_INGRESS)?]))
    }
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, immediate }
}

fn set(register: u8, value: i32) -> Instruction {
    instruction(0xB7, register, 0, 0, value)
}

fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xBF, to, from, 0, 0)
}

fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

fn leave() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}

/// Skips the next two instructions, which drop the frame, when the register has the value.
fn drop_unless(register: u8, value: i32) -> [Instruction; 3] {
    [instruction(0x15, register, 0, 2, value), set(0, VERDICT_DROP), leave()]
}

fn push(tags: &[Tag]) -> Vec<Instruction> {
    let mut program = vec![copy(6, 1)];
    for (protocol, number) in tags.iter().rev() {
        program.extend([copy(1, 6), set(2, i32::from(protocol.to_be())), set(3, i32::from(*number)), call(HELPER_VLAN_PUSH)]);
        program.extend(drop_unless(0, 0));
    }
    program.extend([set(0, VERDICT_PASS), leave()]);
    program
}

fn pop(tags: &[Tag]) -> Vec<Instruction> {
    let mut program = vec![copy(6, 1)];
    for (_, number) in tags {
        program.push(instruction(0x61, 2, 6, VLAN_PRESENT, 0));
        program.extend(drop_unless(2, 1));
        program.push(instruction(0x61, 2, 6, VLAN_TCI, 0));
        program.extend(drop_unless(2, i32::from(*number)));
        program.extend([copy(1, 6), call(HELPER_VLAN_POP)]);
        program.extend(drop_unless(0, 0));
    }
    // No tag may be left.
    program.push(instruction(0x61, 2, 6, VLAN_PRESENT, 0));
    program.extend(drop_unless(2, 0));
    program.extend([set(0, VERDICT_PASS), leave()]);
    program
}

fn load(program: &[Instruction], hook: u32) -> Result<OwnedFd> {
    let license = c"GPL";
    let mut log = vec![0u8; LOG_BYTES];
    let attributes = Load {
        prog_type: SCHED_CLS,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 1,
        log_size: LOG_BYTES as u32,
        log_buf: log.as_mut_ptr() as u64,
        expected_attach_type: hook,
        ..Load::default()
    };
    bpf(PROG_LOAD, &attributes).with_context(|| String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())
}

/// One call of bpf(2) that returns a descriptor.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attributes` is a live structure of the given size, laid out as the beginning of `union bpf_attr`; the addresses in it
    // are those of buffers that the callers keep alive, with their lengths.
    let status = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(status as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{SOON, wait_until};
    use crate::netns::Veth;

    #[test]
    fn two_ends_with_the_same_tags_reach_each_other_and_others_do_not() {
        let (a, b) = (Netns::new("tag-a").unwrap(), Netns::new("tag-b").unwrap());
        let _veth = Veth::between(&a, "eth0", &b, "eth0", 1500).unwrap();
        a.address("eth0", "192.0.2.1/24").unwrap();
        b.address("eth0", "192.0.2.2/24").unwrap();
        let _near = Tagger::attach(&a, "eth0", &[(0x88A8, 5), (0x8100, 7)]).unwrap();
        assert!(a.run("ping -n -c1 -W1 192.0.2.2").is_err());
        let far = Tagger::attach(&b, "eth0", &[(0x88A8, 5), (0x8100, 7)]).unwrap();
        a.run("ping -n -c1 -W2 192.0.2.2").unwrap();
        drop(far);
        let _other = Tagger::attach(&b, "eth0", &[(0x88A8, 5), (0x8100, 8)]).unwrap();
        // The kernel may take its time to take the one before down.
        wait_until("others do not reach it", SOON, || Ok(a.run("ping -n -c1 -W1 192.0.2.2").is_err())).unwrap();
    }
}
