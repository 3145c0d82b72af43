//! The io-uring crate by itself: as many receives in flight as there are slots; each completion becomes a send from the same buffer,
//! and that one's completion a receive again. One io_uring_enter submits and waits.

use std::io;
use std::mem::ManuallyDrop;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::{SLOT_LEN, SLOTS};

/// In user_data beside the slot: the completion is that of a send.
const SEND: u64 = 1 << 32;

pub fn relay(from: UdpSocket, to: UdpSocket, stop: &Arc<AtomicBool>) -> io::Result<()> {
    let mut ring = ring()?;
    // Freed only when nothing is in flight: an early return leaks them.
    let mut buffers = ManuallyDrop::new(vec![[0u8; SLOT_LEN]; SLOTS]);
    let mut next: Vec<squeue::Entry> = Vec::with_capacity(SLOTS);
    let receive = |slot: usize, buffer: &mut [u8; SLOT_LEN]| {
        opcode::Recv::new(types::Fd(from.as_raw_fd()), buffer.as_mut_ptr(), SLOT_LEN as u32).build().user_data(slot as u64)
    };
    next.extend(buffers.iter_mut().enumerate().map(|(slot, buffer)| receive(slot, buffer)));
    let mut flying = 0;
    loop {
        flying += next.len();
        for entry in next.drain(..) {
            // SAFETY: the entry's buffer belongs to its slot, which has this one operation in flight; the buffers stay where they
            // are and outlive all operations, because they are freed only when none is in flight.
            unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        }
        if flying == 0 {
            drop(ManuallyDrop::into_inner(buffers));
            return Ok(());
        }
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        let completed: Vec<cqueue::Entry> = ring.completion().collect();
        flying -= completed.len();
        for completion in completed {
            let slot = (completion.user_data() & (SEND - 1)) as usize;
            let buffer = &mut buffers[slot];
            match u32::try_from(completion.result()) {
                Ok(length) if completion.user_data() & SEND == 0 => {
                    let send = opcode::Send::new(types::Fd(to.as_raw_fd()), buffer.as_ptr(), length).build();
                    next.push(send.user_data(slot as u64 | SEND));
                }
                // Sent, or failed (nobody there, no room): a lost datagram.
                _ if !stop.load(Ordering::Relaxed) => next.push(receive(slot, buffer)),
                _ => {}
            }
        }
    }
}

fn ring() -> io::Result<IoUring> {
    let entries = (2 * SLOTS) as u32;
    // The flags came with Linux 6.1; without them it is a little slower.
    let fast = IoUring::builder().setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun().build(entries);
    fast.or_else(|_| IoUring::new(entries))
}
