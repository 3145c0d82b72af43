//! Inbound: collects opened frames of one flow into super-frames, each for one write to the TAP.
//!
//! [`Coalescer::push`] takes frames where they lie in the caller's arena, in rising order. A batch is the headers and payload
//! of its first frame (the head) and the payloads of the frames that joined. While frames of one flow follow each other, each
//! payload is moved down to the end of the one before, over headers and tags that nobody needs any more, so that the batch is
//! one piece: the move costs a tenth of what the kernel takes to gather a piece of this size. When another flow lies in
//! between, the payload stays where it is and is a piece of its own. The batch goes out through the [`Sink`] when a frame of its
//! flow cannot join, when it is full or complete, or at [`Coalescer::flush`]. Order inside a flow holds by construction: a frame
//! joins only the one open batch of its flow, and a frame that cannot join sends that batch off first.
//!
//! The rule for joining is that cutting the super-frame up again gives the same frames, byte for byte. The one exception
//! is the identification of atomic IPv4 packets (RFC 6864 section 4.1), which may be constant; the kernel's GRO makes it too.
//!
//! The super-frame's checksum field is left open for the kernel, so what joins must have been right, or a broken frame
//! would be repaired. Either its sender left the checksum open too (then it must hold the right pseudo-header sum, and
//! the AEAD has protected the rest), or it is verified here; both kinds may share a batch since both are known to be good.
//! The head is verified when the second frame comes, so that frames that stay alone cost nothing.

use std::ops::Range;

use adit_proto::control::Mode;
use adit_proto::limits::IP_PACKET_LEN_MAX;

use super::headers::{self, ETHERNET, IPV4, IPV6, Layers, TCP, Transport, UDP_CHECKSUM, be16, be32, be64, put16};
use super::vnet::{self, VnetHeader};
use crate::checksum;

/// Batches open at the same time.
pub const FLOWS: usize = 64;
/// Buckets of the table that finds them.
const BUCKETS: usize = 256;
/// Frames of one super-frame: what `UDP_L4` may have on Linux 6.9 and later.
pub const FRAMES_MAX: usize = 128;
/// Longest super-frame in bytes. From 65,536 on (its `gso_max_size`), the kernel would split it in software when it
/// forwards it to another interface.
const LEN_MAX: usize = IP_PACKET_LEN_MAX;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// What the kernel behind the TAP takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP super-frames.
    pub tso: bool,
    /// UDP super-frames.
    pub uso: bool,
    /// Frames per UDP super-frame: 64 before Linux 6.9, 128 since.
    pub uso_frames: usize,
}

/// Payloads that follow each other in the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub at: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// One write to the TAP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emit<'a> {
    /// virtio-net header, headers and first payloads, contiguous in the arena.
    pub head: Range<usize>,
    /// Payloads that follow.
    pub tails: &'a [Piece],
    /// How many frames this write is made of.
    pub frames: usize,
}

/// Where super-frames go.
pub trait Sink {
    /// Takes one write. `arena` is as it was given to the coalescer, with the headers of this write in place.
    fn emit(&mut self, arena: &[u8], emit: Emit<'_>);
}

/// A super-frame in the making.
#[derive(Clone, Debug)]
struct Batch {
    /// The head frame in the arena, with the payloads that were moved to its end.
    head: Range<usize>,
    layers: Transport,
    /// The head's checksum is open.
    open: bool,
    /// The head is known to be good.
    good: bool,
    /// Where the table has it.
    bucket: u8,
    /// Pseudo-header sum without the length.
    pseudo: u16,
    /// Payload bytes of the head, and so of every frame but the last.
    size: usize,
    /// Bytes of all payloads.
    payload: usize,
    /// Sequence number that the next frame must have.
    sequence: u32,
    /// What the next frame's IPv4 identification is above this one's: 0 or 1, known from the second frame on.
    step: Option<u16>,
    identification: u16,
    frames: usize,
    tails: usize,
    pieces: [Piece; FRAMES_MAX - 1],
}

/// How a frame and the open batch of its flow get on.
enum Join {
    /// It has joined; more may follow.
    Joined,
    /// It has joined as the last one.
    Complete,
    /// It cannot join.
    Refused,
    /// It cannot join any batch.
    Barred,
}

/// The open batches.
pub struct Coalescer {
    mode: Mode,
    limits: Limits,
    batches: Box<[Batch; FLOWS]>,
    /// Which batch a bucket holds, plus one. A bucket holds one flow; another one that comes to it sends the batch off.
    table: [u8; BUCKETS],
    /// Batches in use, one bit each.
    used: u64,
    /// Batches in use, the oldest first.
    order: [u8; FLOWS],
    open: usize,
    /// The batch that took the frame before: between its end and the next frame, nothing in the arena is needed.
    newest: Option<u8>,
}

const _: () = assert!(FLOWS == u64::BITS as usize, "`used` has a bit for each");

impl Coalescer {
    /// Allocates all that it will ever need.
    pub fn new(mode: Mode, limits: Limits) -> Coalescer {
        let batch = Batch {
            head: 0..0,
            layers: Transport { l3: 0, l4: 0, payload: 0, end: 0, v6: false, tcp: false },
            open: false,
            good: false,
            bucket: 0,
            pseudo: 0,
            size: 0,
            payload: 0,
            sequence: 0,
            step: None,
            identification: 0,
            frames: 0,
            tails: 0,
            pieces: [Piece::default(); FRAMES_MAX - 1],
        };
        let uso_frames = limits.uso_frames.min(FRAMES_MAX);
        Coalescer {
            mode,
            limits: Limits { uso: limits.uso && uso_frames > 1, uso_frames, ..limits },
            batches: Box::new(std::array::from_fn(|_| batch.clone())),
            table: [0; BUCKETS],
            used: 0,
            order: [0; FLOWS],
            open: 0,
            newest: None,
        }
    }

    /// The next frame lies behind others that are still to come: what is between it and the newest batch is needed.
    pub fn skip(&mut self) {
        self.newest = None;
    }

    /// Takes the Ethernet frame or IP packet at `at`, in front of which ten bytes are free. Its bytes must stay where they are until the
    /// batch has gone out. `open_checksum`: the sender left the transport checksum open.
    #[inline]
    pub fn push(&mut self, arena: &mut [u8], at: Range<usize>, open_checksum: bool, out: &mut impl Sink) {
        let newest = self.newest.take();
        let frame = &arena[at.clone()];
        let layers = match headers::parse(self.mode, frame) {
            Layers::Transport(layers) => layers,
            Layers::Hidden { l3, v6 } => {
                self.send_off_between(arena, &at, l3, v6, out);
                return emit_alone(arena, at, None, out);
            }
            Layers::Other => return emit_alone(arena, at, None, out),
        };
        let vouched = open_checksum.then_some(&layers);
        if layers.has_options() {
            self.send_off_between(arena, &at, layers.l3, false, out);
            return emit_alone(arena, at, vouched, out);
        }
        let mergeable = self.mergeable(frame, &layers);
        let bucket = bucket_of(frame, &layers);
        let there = usize::from(self.table[bucket]).checked_sub(1);
        if let Some(slot) = there.filter(|slot| self.batches[*slot].is_flow_of(arena, frame, &layers)) {
            let movable = newest == Some(slot as u8);
            let joined = if mergeable { self.join(slot, arena, &at, &layers, open_checksum, movable) } else { Join::Barred };
            match joined {
                Join::Joined => {
                    self.newest = Some(slot as u8);
                    return;
                }
                Join::Complete => return self.send_off(slot, arena, out),
                Join::Refused => self.send_off(slot, arena, out),
                Join::Barred => {
                    self.send_off(slot, arena, out);
                    return emit_alone(arena, at, vouched, out);
                }
            }
        }
        // Nothing joins a frame with PSH.
        if !mergeable || (layers.tcp && arena[at.start + layers.l4 + 13] & PSH != 0) {
            return emit_alone(arena, at, vouched, out);
        }
        if let Some(slot) = usize::from(self.table[bucket]).checked_sub(1) {
            self.send_off(slot, arena, out);
        } else if self.open == FLOWS {
            self.send_off(usize::from(self.order[0]), arena, out);
        }
        self.start(arena, at, layers, open_checksum, bucket);
    }

    /// Sends off all that is open, in the order in which the batches began.
    pub fn flush(&mut self, arena: &mut [u8], out: &mut impl Sink) {
        for &slot in &self.order[..self.open] {
            let batch = &self.batches[usize::from(slot)];
            self.table[usize::from(batch.bucket)] = 0;
            batch.emit(arena, out);
        }
        self.open = 0;
        self.used = 0;
        self.newest = None;
    }

    /// Whether the frame may be part of a super-frame at all, apart from its checksums.
    #[inline(always)]
    fn mergeable(&self, frame: &[u8], layers: &Transport) -> bool {
        let l4 = &frame[layers.l4..layers.payload];
        let fit = if layers.tcp {
            // The low half of byte 12 is reserved.
            self.limits.tso && l4[13] & !(PSH | ECE) == ACK && l4[12] & 0x0f == 0
        } else {
            let len = usize::from(be16(l4, 4));
            self.limits.uso && be16(l4, UDP_CHECKSUM) != 0 && len == layers.end - layers.l4
        };
        fit && layers.end == frame.len() && layers.payload < layers.end
    }

    /// Lets the frame join the batch of its flow, if it can.
    #[inline(always)]
    fn join(&mut self, slot: usize, arena: &mut [u8], at: &Range<usize>, layers: &Transport, open: bool, movable: bool) -> Join {
        let frames_max = if layers.tcp { FRAMES_MAX } else { self.limits.uso_frames };
        let batch = &mut self.batches[slot];
        match batch.fits(arena, at, layers, open) {
            Ok(()) => batch.join(arena, at, layers, movable, frames_max),
            Err(refusal) => refusal,
        }
    }

    /// Opens a batch with the frame as its head. There is a free slot, and nothing in the bucket.
    #[inline(always)]
    fn start(&mut self, arena: &[u8], at: Range<usize>, layers: Transport, open: bool, bucket: usize) {
        let slot = (!self.used).trailing_zeros() as usize;
        self.batches[slot].start(arena, at, layers, open);
        self.batches[slot].bucket = bucket as u8;
        self.table[bucket] = slot as u8 + 1;
        self.used |= 1 << slot;
        self.order[self.open] = slot as u8;
        self.open += 1;
        self.newest = Some(slot as u8);
    }

    /// Sends off one batch.
    fn send_off(&mut self, slot: usize, arena: &mut [u8], out: &mut impl Sink) {
        self.batches[slot].emit(arena, out);
        self.table[usize::from(self.batches[slot].bucket)] = 0;
        self.used &= !(1 << slot);
        if let Some(place) = self.order[..self.open].iter().position(|other| usize::from(*other) == slot) {
            self.order.copy_within(place + 1..self.open, place);
            self.open -= 1;
        }
    }

    /// Sends off all batches between the addresses of the frame at `at`, whose ports cannot be seen.
    #[cold]
    fn send_off_between(&mut self, arena: &mut [u8], at: &Range<usize>, l3: usize, v6: bool, out: &mut impl Sink) {
        let mut place = 0;
        while place < self.open {
            let slot = usize::from(self.order[place]);
            let batch = &self.batches[slot];
            let theirs = addresses(&arena[batch.head.start + batch.layers.l3..], batch.layers.v6);
            if batch.layers.v6 == v6 && theirs == addresses(&arena[at.start + l3..], v6) {
                self.send_off(slot, arena, out);
            } else {
                place += 1;
            }
        }
    }
}

impl Batch {
    fn start(&mut self, arena: &[u8], at: Range<usize>, layers: Transport, open: bool) {
        let frame = &arena[at.clone()];
        let ip = &frame[layers.l3..];
        self.size = layers.end - layers.payload;
        self.payload = self.size;
        if layers.tcp {
            self.sequence = be32(&frame[layers.l4..], 4).wrapping_add(self.size as u32);
        }
        self.identification = be16(ip, 4);
        self.pseudo = pseudo(ip, &layers);
        self.step = None;
        self.frames = 1;
        self.tails = 0;
        self.good = false;
        self.open = open;
        self.layers = layers;
        self.head = at;
    }

    /// Whether the frame has the link header, tags, addresses, protocol and ports of this batch.
    #[inline(always)]
    fn is_flow_of(&self, arena: &[u8], frame: &[u8], layers: &Transport) -> bool {
        let Transport { l3, l4, v6, tcp, .. } = *layers;
        if self.layers.l3 != l3 || self.layers.v6 != v6 || self.layers.tcp != tcp {
            return false;
        }
        let head = &arena[self.head.clone()];
        // The addresses are the last 8 or 32 bytes of the IP header, the ports follow. The Ethernet header has 14, 18 or 22.
        let addresses = if v6 { same::<36>(head, frame, l4 - 32) } else { same::<12>(head, frame, l4 - 8) };
        addresses && (l3 == 0 || (same::<ETHERNET>(head, frame, 0) && same::<8>(head, frame, l3 - 8)))
    }

    /// Whether a frame of the same flow can join. Notes what the frame after it must look like.
    #[inline(always)]
    fn fits(&mut self, arena: &[u8], at: &Range<usize>, layers: &Transport, open: bool) -> Result<(), Join> {
        let head = &arena[self.head.clone()];
        let frame = &arena[at.clone()];
        let size = layers.end - layers.payload;
        let total = layers.payload + self.payload + size;
        if layers.payload != self.layers.payload || size > self.size || total > LEN_MAX {
            return Err(Join::Refused);
        }
        let step = self.continues(head, frame, layers).ok_or(Join::Refused)?;
        if !self.good && !is_good(head, &self.layers, self.pseudo, self.open) {
            return Err(Join::Refused);
        }
        self.good = true;
        if !is_good(frame, layers, self.pseudo, open) {
            return Err(Join::Barred);
        }
        self.step = step;
        self.identification = be16(&frame[layers.l3..], 4);
        self.sequence = self.sequence.wrapping_add(size as u32);
        Ok(())
    }

    /// Takes the frame in. `movable`: nothing between the end of this batch and the frame is needed any more.
    #[inline(always)]
    fn join(&mut self, arena: &mut [u8], at: &Range<usize>, layers: &Transport, movable: bool, frames_max: usize) -> Join {
        let push = layers.tcp && arena[at.start + layers.l4 + 13] & PSH != 0;
        let payload = at.start + layers.payload..at.start + layers.end;
        let size = payload.len();
        let end = self.end();
        if movable && end <= payload.start {
            arena.copy_within(payload, end);
            match self.tails {
                0 => self.head.end += size,
                tails => self.pieces[tails - 1].len += size as u32,
            }
        } else {
            self.pieces[self.tails] = Piece { at: payload.start as u32, len: size as u32 };
            self.tails += 1;
        }
        self.frames += 1;
        self.payload += size;
        if push {
            arena[self.head.start + layers.l4 + 13] |= PSH;
        }
        if push || size < self.size || self.frames == frames_max { Join::Complete } else { Join::Joined }
    }

    /// Where the last payload ends.
    #[inline(always)]
    fn end(&self) -> usize {
        match self.tails {
            0 => self.head.end,
            tails => (self.pieces[tails - 1].at + self.pieces[tails - 1].len) as usize,
        }
    }

    /// Whether the frame's headers say what the next segment of the head would: `None` when not, else the step of the
    /// IPv4 identification.
    #[inline(always)]
    fn continues(&self, head: &[u8], frame: &[u8], layers: &Transport) -> Option<Option<u16>> {
        let Transport { l3, l4, payload, v6, tcp, .. } = *layers;
        let mut step = None;
        if v6 {
            // Version, class, flow label; next header and hop limit.
            if !same::<4>(head, frame, l3) || !same::<2>(head, frame, l3 + 6) {
                return None;
            }
        } else {
            // Version, length, type of service; flags, offset, time to live, protocol.
            let (a, b) = (head[l3..].first_chunk::<IPV4>()?, frame[l3..].first_chunk::<IPV4>()?);
            if be16(a, 0) != be16(b, 0) || be32(a, 6) != be32(b, 6) {
                return None;
            }
            let above = be16(b, 4).wrapping_sub(self.identification);
            let dont_fragment = b[6] & 0x40 != 0;
            if above > 1 || (above == 0 && !dont_fragment) || self.step.is_some_and(|step| step != above) {
                return None;
            }
            step = Some(above);
        }
        if !tcp {
            return Some(step);
        }
        let (a, options) = head[l4..payload].split_first_chunk::<TCP>()?;
        let (b, other_options) = frame[l4..payload].split_first_chunk::<TCP>()?;
        let push = u32::from(PSH) << 16;
        // Acknowledgement; header length, flags and window; urgent pointer; options.
        let same = be32(b, 4) == self.sequence
            && be32(a, 8) == be32(b, 8)
            && (be32(a, 12) ^ be32(b, 12)) & !push == 0
            && be16(a, 18) == be16(b, 18)
            && same_words(options, other_options);
        same.then_some(step)
    }

    /// Finishes the headers and gives the batch to the sink.
    fn emit(&self, arena: &mut [u8], out: &mut impl Sink) {
        let layers = &self.layers;
        if self.frames == 1 {
            return emit_alone(arena, self.head.clone(), self.open.then_some(layers), out);
        }
        let frame = &mut arena[self.head.clone()];
        let l4_len = layers.payload - layers.l4 + self.payload;
        if layers.v6 {
            put16(frame, layers.l3 + 4, l4_len as u16);
        } else {
            put16(frame, layers.l3 + 2, (IPV4 + l4_len) as u16);
            put16(frame, layers.l3 + 10, 0);
            let sum = checksum::sum(&frame[layers.l3..layers.l4]);
            put16(frame, layers.l3 + 10, !sum);
        }
        if !layers.tcp {
            put16(frame, layers.l4 + 4, l4_len as u16);
        }
        put16(frame, layers.l4 + layers.checksum_offset(), checksum::add(self.pseudo, l4_len as u16));
        let header = VnetHeader {
            flags: vnet::NEEDS_CSUM,
            gso_type: match (layers.tcp, layers.v6) {
                (true, false) => vnet::GSO_TCPV4,
                (true, true) => vnet::GSO_TCPV6,
                (false, _) => vnet::GSO_UDP_L4,
            },
            hdr_len: layers.payload as u16,
            gso_size: self.size as u16,
            csum_start: layers.l4 as u16,
            csum_offset: layers.checksum_offset() as u16,
        };
        let tails = &self.pieces[..self.tails];
        let head = with_header(arena, &self.head, &header);
        out.emit(arena, Emit { head, tails, frames: self.frames });
    }
}

/// Gives a frame to the sink as it is. `open`: its checksum is to be completed, and where it is.
#[inline]
fn emit_alone(arena: &mut [u8], at: Range<usize>, open: Option<&Transport>, out: &mut impl Sink) {
    let header = match open {
        Some(layers) => VnetHeader {
            flags: vnet::NEEDS_CSUM,
            csum_start: layers.l4 as u16,
            csum_offset: layers.checksum_offset() as u16,
            ..VnetHeader::default()
        },
        None => VnetHeader::default(),
    };
    let head = with_header(arena, &at, &header);
    out.emit(arena, Emit { head, tails: &[], frames: 1 });
}

/// Writes the virtio-net header right in front of a frame; the range of both.
#[inline(always)]
fn with_header(arena: &mut [u8], at: &Range<usize>, header: &VnetHeader) -> Range<usize> {
    let head = at.start - vnet::LEN..at.end;
    if let Some(bytes) = arena[head.clone()].first_chunk_mut() {
        header.write(bytes);
    }
    head
}

/// Whether all checksums of a frame are right. An open one must be the pseudo-header sum, of which `pseudo` is all but
/// the length.
#[inline(always)]
fn is_good(frame: &[u8], layers: &Transport, pseudo: u16, open: bool) -> bool {
    let l4 = &frame[layers.l4..layers.end];
    if !layers.v6 {
        let Some(ip) = frame[layers.l3..].first_chunk::<IPV4>() else { return false };
        if checksum::sum(ip) != 0xffff {
            return false;
        }
    }
    let sum = checksum::add(pseudo, l4.len() as u16);
    if open { be16(l4, layers.checksum_offset()) == sum } else { checksum::add(sum, checksum::sum(l4)) == 0xffff }
}

/// The pseudo-header sum without the length; `ip` begins with the IP header.
#[inline(always)]
pub fn pseudo(ip: &[u8], layers: &Transport) -> u16 {
    checksum::add(checksum::sum(addresses(ip, layers.v6)), u16::from(layers.protocol()))
}

/// Source and destination address of the IP header with which `ip` begins.
#[inline(always)]
fn addresses(ip: &[u8], v6: bool) -> &[u8] {
    if v6 { &ip[8..IPV6] } else { &ip[12..IPV4] }
}

/// Whether the `N` bytes at `at` are in both and the same.
#[inline(always)]
fn same<const N: usize>(a: &[u8], b: &[u8], at: usize) -> bool {
    a[at..].first_chunk::<N>() == b[at..].first_chunk::<N>()
}

/// Whether two slices of whole 32-bit words are the same; for some words this beats a call of `memcmp`.
#[inline(always)]
fn same_words(a: &[u8], b: &[u8]) -> bool {
    let ((a, _), (b, _)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
}

/// The flow's bucket: source station or tags (if there is a link header), addresses and ports, mixed.
#[inline(always)]
fn bucket_of(frame: &[u8], layers: &Transport) -> usize {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let l4 = layers.l4;
    let mut mixed = be64(frame, l4 - 8);
    if layers.l3 != 0 {
        mixed ^= be64(frame, layers.l3 - 8).rotate_left(9);
    }
    if layers.v6 {
        mixed ^=
            be64(frame, l4 - 16).rotate_left(17) ^ be64(frame, l4 - 24).rotate_left(31) ^ be64(frame, l4 - 32).rotate_left(47);
    }
    mixed = mixed.wrapping_mul(MIX) ^ u64::from(be32(frame, l4));
    (mixed.wrapping_mul(MIX) >> (u64::BITS - BUCKETS.ilog2())) as usize
}
