//! Which queue of the TAP or TUN a frame goes to: a fixed function of its flow, the same for both directions.
//!
//! By itself the driver remembers for each flow where it was written last, which costs a walk through the headers on every
//! frame and moves a flow to another queue when its answers come in on another worker. A small eBPF program takes the place
//! of that: addresses and ports, each pair joined by exclusive or, mixed. With as many workers at the other end, a flow then
//! has one lane in both directions from its first frame on. Where loading is forbidden the driver's way stays.
//!
//! unsafe here: the two calls that load and attach the program.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use adit_proto::control::Mode;

use super::headers::link_header;

/// `TUNSETSTEERINGEBPF`: _IOR('T', 224, int).
pub const TUNSETSTEERINGEBPF: libc::c_ulong = 0x8004_54e0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

const ETHERTYPE_AT: i32 = 12;
const IPV4: i32 = 0x0800;
const IPV6: i32 = 0x86dd;
const TCP: i32 = 6;
const UDP: i32 = 17;

/// One instruction of eBPF.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The context must be in register 6 for loads; they answer in register 0. The sum is in 7, 8 is scratch, 9 the length of an IPv4 header.
const CONTEXT: u8 = 6;
const LOADED: u8 = 0;
const SUM: u8 = 7;
const SCRATCH: u8 = 8;
const HEADER: u8 = 9;

const MOVE: u32 = 0xb0;
const XOR: u32 = 0xa0;
const AND: u32 = 0x50;
const SHIFT_RIGHT: u32 = 0x70;
const SHIFT_LEFT: u32 = 0x60;
const MULTIPLY: u32 = 0x20;

/// `destination = destination op value`, 32 bits wide.
fn with_value(op: u32, destination: u8, value: i32) -> Instruction {
    Instruction { code: (libc::BPF_ALU | op) as u8, registers: destination, offset: 0, immediate: value }
}

/// `destination = destination op source`, 32 bits wide.
fn with_register(op: u32, destination: u8, source: u8) -> Instruction {
    let code = (libc::BPF_ALU | op | libc::BPF_X) as u8;
    Instruction { code, registers: destination | source << 4, offset: 0, immediate: 0 }
}

/// Loads from the frame, in the byte order of the machine. Beyond the end of the frame the program ends with 0.
fn load(size: u32, at: i32) -> Instruction {
    Instruction { code: (libc::BPF_LD | libc::BPF_ABS | size) as u8, registers: 0, offset: 0, immediate: at }
}

/// Loads a word from the frame, as many bytes behind `at` as the IPv4 header is long.
fn load_behind_header(at: i32) -> Instruction {
    Instruction { code: (libc::BPF_LD | libc::BPF_IND | libc::BPF_W) as u8, registers: HEADER << 4, offset: 0, immediate: at }
}

/// Jumps `offset` instructions further when what was loaded compares so with `value`.
fn jump(compare: u32, value: i32, offset: i16) -> Instruction {
    Instruction { code: (libc::BPF_JMP | compare) as u8, registers: LOADED, offset, immediate: value }
}

const EQUAL: u32 = 0x10;
const NOT_EQUAL: u32 = 0x50;
/// A jump that is to go to the end of the program.
const TO_END: i16 = i16::MAX;

/// Adds both ports, joined, to the sum. `word` loads them.
fn ports(word: Instruction) -> [Instruction; 6] {
    [
        word,
        with_register(MOVE, SCRATCH, LOADED),
        with_value(SHIFT_RIGHT, SCRATCH, 16),
        with_value(AND, LOADED, 0xffff),
        with_register(XOR, SUM, SCRATCH),
        with_register(XOR, SUM, LOADED),
    ]
}

/// Ports follow if the protocol at `at` is TCP or UDP.
fn has_ports(at: i32) -> [Instruction; 3] {
    [load(libc::BPF_B, at), jump(EQUAL, TCP, 1), jump(NOT_EQUAL, UDP, TO_END)]
}

/// What the IP version of a frame is told by: instructions that load it, and its values for IPv4 and IPv6.
fn version(mode: Mode) -> (Vec<Instruction>, i32, i32) {
    match mode {
        Mode::Ethernet => (vec![load(libc::BPF_H, ETHERTYPE_AT)], IPV4, IPV6),
        Mode::Ip => (vec![load(libc::BPF_B, 0), with_value(SHIFT_RIGHT, LOADED, 4)], 4, 6),
    }
}

fn program(mode: Mode) -> Vec<Instruction> {
    let l3 = link_header(mode) as i32;
    let mut v4: Vec<Instruction> = Vec::new();
    for address in [l3 + 12, l3 + 16] {
        v4.extend([load(libc::BPF_W, address), with_register(XOR, SUM, LOADED)]);
    }
    // Fragments have no ports but the first, and must stay together. Options move the ports, and are not in every packet of a flow.
    v4.extend([load(libc::BPF_H, l3 + 6), with_value(AND, LOADED, 0x3fff), jump(NOT_EQUAL, 0, TO_END)]);
    v4.extend([load(libc::BPF_B, l3), with_value(AND, LOADED, 0x0f), with_value(SHIFT_LEFT, LOADED, 2)]);
    v4.push(with_register(MOVE, HEADER, LOADED));
    v4.extend(has_ports(l3 + 9));
    v4.extend(ports(load_behind_header(l3)));
    v4.extend([with_value(MOVE, LOADED, 0), jump(EQUAL, 0, TO_END)]);

    let (load_version, ipv4, ipv6) = version(mode);
    let mut all = vec![
        // The context is a pointer: all 64 bits of it.
        Instruction { code: 0xbf, registers: CONTEXT | 1 << 4, offset: 0, immediate: 0 },
        with_value(MOVE, SUM, 0),
    ];
    all.extend(load_version);
    all.push(jump(NOT_EQUAL, ipv4, v4.len() as i16));
    all.extend(v4);
    all.push(jump(NOT_EQUAL, ipv6, TO_END));
    for word in 0..8 {
        all.extend([load(libc::BPF_W, l3 + 8 + 4 * word), with_register(XOR, SUM, LOADED)]);
    }
    all.extend(has_ports(l3 + 6));
    all.extend(ports(load(libc::BPF_W, l3 + 40)));

    let end = all.len();
    for (at, instruction) in all.iter_mut().enumerate().filter(|(_, instruction)| instruction.offset == TO_END) {
        instruction.offset = (end - at - 1) as i16;
    }
    all.extend([
        with_value(MULTIPLY, SUM, 0x9e37_79b1_u32 as i32),
        with_value(SHIFT_RIGHT, SUM, 16),
        with_register(MOVE, LOADED, SUM),
        Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
    ]);
    all
}

/// The program, loaded: by one who may, for interfaces that come later, too.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// # Errors
    /// The kernel lets nobody load one, or us.
    pub fn load(mode: Mode) -> io::Result<Program> {
        load_program(&program(mode)).map(Program)
    }

    /// Gives the interface of this queue the program. An error leaves the driver's own way in place.
    ///
    /// # Errors
    /// The driver does not take it.
    pub fn attach(&self, queue: BorrowedFd<'_>) -> io::Result<()> {
        let fd: libc::c_int = self.0.as_raw_fd();
        // SAFETY: the driver reads one int from the pointer and takes a reference of its own to the program.
        let result = unsafe { libc::ioctl(queue.as_raw_fd(), TUNSETSTEERINGEBPF as _, &raw const fd) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn load_program(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that BPF_PROG_LOAD needs.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let attributes = Attributes {
        kind: BPF_PROG_TYPE_SOCKET_FILTER,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        licence: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the structure is as long as is said; what it points to outlives the call; the descriptor returned is ours alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<Attributes>());
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as libc::c_int)) }
    }
}
