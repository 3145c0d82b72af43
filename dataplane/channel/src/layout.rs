//! What lies where in the shared memory. Everything follows from [`Sizes`]; no offset is stored, so none can be forged.
//!
//! ```text
//!  offset (bytes)
//!  0                 header: magic, layout version, fingerprint of the counter lists, the sizes, length of the info
//!  128               info: what the data plane says about itself (PlaneInfo), at most 3968 bytes
//!  4096              block of worker 0        ─┐  each block begins on a page and is one writer's home:
//!  …                 block of worker 1, 2, …  ─┘
//!  │   commands ring   control → data         cursors 256 bytes, data `command_bytes`; wiped after reading (keys)
//!  │   injects ring    control → data         `inject_bytes`
//!  │   events ring     data → control         `event_bytes`
//!  │   punts ring      data → control         `punt_bytes`
//!  │   trains rings    data → control, and control → data: `train_bytes` each, of paths that are streams
//!  │   counters        data                   status word, counts, drops, gauges
//!  │   latencies       data                   histograms of 1024 buckets
//!  │   live SAs        data                   `sa_slots` × 128 bytes, each a seqlock; then totals
//!  │   paths           data                   `path_slots` × 64 bytes: counters of the paths of each peer
//!  │   drops           data                   `peer_slots` × 192 bytes: what was dropped of each peer
//!  …                 vault   control          one word that says which half holds, then two halves of `vault_bytes`
//! ```
//! A word is eight bytes in the byte order of the machine; offsets below are in words.

use std::ops::Range;

use adit_proto::histogram::BUCKETS;
use adit_proto::limits::{PEER_IDS_MAX, WORKERS_MAX};
use adit_proto::peer_drops::PeerDrop;
use adit_proto::stats::{Count, Drop, Gauge, Latency};

use crate::limits::{DATAGRAM_RING_BYTES_MIN, MEMORY_BYTES_MAX, PART_BYTES_MAX, PATH_SLOTS_MAX, RING_BYTES_MIN, SA_SLOTS_MAX};
use crate::ring::HEAD_WORDS;
use crate::sync::{AtomicU64, Ordering};

/// Version of this layout and of the records in the rings. A master of another version is refused.
pub const LAYOUT_VERSION: u32 = 19;

/// "ADITCHAN".
pub const MAGIC: u64 = u64::from_le_bytes(*b"ADITCHAN");
/// Where the info begins.
const INFO_AT: usize = 16;
const PAGE_WORDS: usize = 512;
/// Bytes of a page: header and info lie in the first.
pub const PAGE_BYTES: usize = PAGE_WORDS * size_of::<u64>();
const LINE_WORDS: usize = 16;
/// Paths are counted by the page, so that no two numbers of slots make up the same memory.
pub const PATH_SLOTS_UNIT: u16 = 64;
/// The same of peers.
pub const PEER_SLOTS_UNIT: u16 = 64;
const _: () = assert!(PEER_IDS_MAX.is_multiple_of(PEER_SLOTS_UNIT));

/// How big the parts of the channel are. Rings are rounded up to a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Workers, 1 to 64.
    pub workers: u16,
    /// Live SAs per worker, 1 to 65536.
    pub sa_slots: u32,
    /// Paths per worker that are counted, up to 32768: whole pages, 64 at a time.
    pub path_slots: u16,
    /// Ids of peers whose drops are counted by each worker, up to 32768: whole pages, 64 at a time.
    pub peer_slots: u16,
    /// Bytes of the command ring of each worker, 4 KiB to 64 MiB.
    pub command_bytes: u32,
    /// Bytes of the event ring of each worker, 4 KiB to 64 MiB.
    pub event_bytes: u32,
    /// Bytes of the ring of punted datagrams of each worker, 256 KiB to 64 MiB.
    pub punt_bytes: u32,
    /// Bytes of the ring of injected datagrams of each worker, 256 KiB to 64 MiB.
    pub inject_bytes: u32,
    /// Bytes of each of the two rings of trains of each worker, 256 KiB to 64 MiB.
    pub train_bytes: u32,
    /// Most bytes that the vault keeps, up to 64 MiB.
    pub vault_bytes: u32,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes {
            workers: 1,
            sa_slots: 256,
            path_slots: 256,
            peer_slots: 64,
            command_bytes: 64 << 10,
            event_bytes: 64 << 10,
            punt_bytes: 1 << 20,
            inject_bytes: 1 << 20,
            train_bytes: 1 << 20,
            vault_bytes: 1 << 20,
        }
    }
}

impl Sizes {
    /// The same with rounded rings; `None` when a value is out of range.
    fn rounded(self) -> Option<Sizes> {
        let ring = |bytes: u32, min: u32| (min..=PART_BYTES_MAX).contains(&bytes).then(|| bytes.next_power_of_two());
        if self.workers == 0 || self.workers > WORKERS_MAX || self.sa_slots == 0 || self.sa_slots > SA_SLOTS_MAX {
            return None;
        }
        if self.vault_bytes > PART_BYTES_MAX
            || self.path_slots > PATH_SLOTS_MAX
            || !self.path_slots.is_multiple_of(PATH_SLOTS_UNIT)
        {
            return None;
        }
        if self.peer_slots > PEER_IDS_MAX || !self.peer_slots.is_multiple_of(PEER_SLOTS_UNIT) {
            return None;
        }
        Some(Sizes {
            command_bytes: ring(self.command_bytes, RING_BYTES_MIN)?,
            event_bytes: ring(self.event_bytes, RING_BYTES_MIN)?,
            punt_bytes: ring(self.punt_bytes, DATAGRAM_RING_BYTES_MIN)?,
            inject_bytes: ring(self.inject_bytes, DATAGRAM_RING_BYTES_MIN)?,
            train_bytes: ring(self.train_bytes, DATAGRAM_RING_BYTES_MIN)?,
            ..self
        })
    }
}

/// The parts of a worker's block, as ranges of words in the whole memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerBlock {
    pub commands: Range<usize>,
    pub injects: Range<usize>,
    pub events: Range<usize>,
    pub punts: Range<usize>,
    pub trains_up: Range<usize>,
    pub trains_down: Range<usize>,
    pub counters: Range<usize>,
    pub latencies: Range<usize>,
    pub live: Range<usize>,
    pub paths: Range<usize>,
    pub drops: Range<usize>,
}

/// The whole layout, computed from sizes and kept in private memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub sizes: Sizes,
    pub info: Range<usize>,
    pub workers: Vec<WorkerBlock>,
    pub vault: Range<usize>,
    /// Length of the memory, in words.
    pub words: usize,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// It does not begin with the magic number.
    Magic,
    /// It was made by another version.
    Version(u32),
    /// Its sizes are out of range or do not make up the memory.
    Sizes,
}

/// Gives out ranges one after the other.
struct Placer(usize);

impl Placer {
    fn place(&mut self, words: usize, align: usize) -> Range<usize> {
        let start = self.0.next_multiple_of(align);
        self.0 = start + words;
        start..self.0
    }
}

impl Layout {
    /// Computes the layout; `None` when a size is out of range, or all together are too much. The ranges allowed keep all sums
    /// far below overflow.
    pub fn new(sizes: Sizes) -> Option<Layout> {
        let sizes = sizes.rounded()?;
        let words = |bytes: u32| bytes as usize / size_of::<u64>();
        let mut placer = Placer(PAGE_WORDS);
        let workers = (0..sizes.workers).map(|_| WorkerBlock {
            commands: placer.place(HEAD_WORDS + words(sizes.command_bytes), PAGE_WORDS),
            injects: placer.place(HEAD_WORDS + words(sizes.inject_bytes), LINE_WORDS),
            events: placer.place(HEAD_WORDS + words(sizes.event_bytes), LINE_WORDS),
            punts: placer.place(HEAD_WORDS + words(sizes.punt_bytes), LINE_WORDS),
            trains_up: placer.place(HEAD_WORDS + words(sizes.train_bytes), LINE_WORDS),
            trains_down: placer.place(HEAD_WORDS + words(sizes.train_bytes), LINE_WORDS),
            counters: placer.place(crate::counters::WORDS, LINE_WORDS),
            latencies: placer.place(Latency::COUNT * BUCKETS, LINE_WORDS),
            live: placer.place(crate::live::words(sizes.sa_slots), LINE_WORDS),
            paths: placer.place(usize::from(sizes.path_slots) * crate::paths::SLOT_WORDS, LINE_WORDS),
            drops: placer.place(usize::from(sizes.peer_slots) * crate::drops::SLOT_WORDS, LINE_WORDS),
        });
        let workers = workers.collect();
        let half = words(sizes.vault_bytes.next_multiple_of(8));
        let vault = placer.place(crate::vault::HEAD_WORDS + 2 * half, PAGE_WORDS);
        let end = placer.place(0, PAGE_WORDS).end;
        let layout = Layout { sizes, info: INFO_AT..PAGE_WORDS, workers, vault, words: end };
        Some(layout).filter(|layout| layout.bytes() <= MEMORY_BYTES_MAX)
    }

    /// Length of the memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.words * size_of::<u64>()
    }

    /// Writes the header, magic last. `words` is at least a page.
    pub fn write_header(&self, words: &[AtomicU64], info_len: usize) {
        let s = &self.sizes;
        let tables = [u32::from(s.workers), s.sa_slots, u32::from(s.path_slots), u32::from(s.peer_slots)];
        let bytes = [s.command_bytes, s.event_bytes, s.punt_bytes, s.inject_bytes, s.train_bytes, s.vault_bytes];
        let sizes = tables.into_iter().chain(bytes).map(u64::from);
        let fields = [u64::from(LAYOUT_VERSION), fingerprint()].into_iter().chain(sizes).chain([info_len as u64]);
        for (word, value) in words[1..].iter().zip(fields) {
            word.store(value, Ordering::Relaxed);
        }
        words[0].store(MAGIC, Ordering::Release);
    }

    /// Reads a header that a stranger wrote, for memory of `bytes` bytes. Returns the layout and the length of the info.
    pub fn read_header(words: &[AtomicU64], bytes: u64) -> Result<(Layout, usize), HeaderError> {
        let header = words.first_chunk::<INFO_AT>().ok_or(HeaderError::Sizes)?;
        if header[0].load(Ordering::Acquire) != MAGIC {
            return Err(HeaderError::Magic);
        }
        // Read each field once: the other side may change it under our hands.
        let field = |at: usize| header[at].load(Ordering::Relaxed);
        let size = |at: usize| u32::try_from(field(at)).map_err(|_| HeaderError::Sizes);
        let version = field(1);
        if version != u64::from(LAYOUT_VERSION) || field(2) != fingerprint() {
            return Err(HeaderError::Version(version as u32));
        }
        let sizes = Sizes {
            workers: u16::try_from(field(3)).map_err(|_| HeaderError::Sizes)?,
            sa_slots: size(4)?,
            path_slots: u16::try_from(field(5)).map_err(|_| HeaderError::Sizes)?,
            peer_slots: u16::try_from(field(6)).map_err(|_| HeaderError::Sizes)?,
            command_bytes: size(7)?,
            event_bytes: size(8)?,
            punt_bytes: size(9)?,
            inject_bytes: size(10)?,
            train_bytes: size(11)?,
            vault_bytes: size(12)?,
        };
        let layout = Layout::new(sizes).filter(|layout| layout.sizes == sizes).ok_or(HeaderError::Sizes)?;
        let info_len = usize::try_from(field(13)).map_err(|_| HeaderError::Sizes)?;
        if layout.bytes() as u64 != bytes || info_len > layout.info.len() * size_of::<u64>() {
            return Err(HeaderError::Sizes);
        }
        Ok((layout, info_len))
    }
}

/// A hash (FNV-1a) over the names of all counters in their order: planes that count differently do not understand each other.
fn fingerprint() -> u64 {
    let counts = Count::ALL.iter().map(|count| count.label());
    let drops = Drop::ALL.iter().map(|drop| drop.label());
    let gauges = Gauge::ALL.iter().map(|gauge| gauge.label());
    let latencies = Latency::ALL.iter().map(|latency| latency.label());
    let of_peers = PeerDrop::all().map(PeerDrop::label);
    let labels = counts.chain(["/"]).chain(drops).chain(["/"]).chain(gauges).chain(["/"]).chain(latencies);
    let labels = labels.chain(["/"]).chain(of_peers);
    let bytes = labels.flat_map(|label| label.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header_of(layout: &Layout) -> Vec<AtomicU64> {
        let words: Vec<AtomicU64> = (0..INFO_AT).map(|_| AtomicU64::new(0)).collect();
        layout.write_header(&words, 7);
        words
    }

    #[test]
    fn parts_lie_one_after_the_other() {
        let layout = Layout::new(Sizes { workers: 3, ..Sizes::default() }).unwrap();
        let mut end = layout.info.end;
        for block in &layout.workers {
            assert_eq!(block.commands.start % PAGE_WORDS, 0);
            let parts = [
                &block.commands,
                &block.injects,
                &block.events,
                &block.punts,
                &block.trains_up,
                &block.trains_down,
                &block.counters,
                &block.latencies,
                &block.live,
                &block.paths,
                &block.drops,
            ];
            for part in parts {
                assert!(part.start >= end && part.start % LINE_WORDS == 0 && part.end > part.start);
                end = part.end;
            }
        }
        assert!(layout.vault.start >= end && layout.vault.end <= layout.words);
        assert_eq!(layout.bytes() % 4096, 0);
    }

    #[test]
    fn sizes_out_of_range_have_no_layout() {
        let good = Sizes::default();
        let bad = [
            Sizes { workers: 0, ..good },
            Sizes { workers: 65, ..good },
            Sizes { sa_slots: 0, ..good },
            Sizes { sa_slots: 65537, ..good },
            Sizes { path_slots: 32769, ..good },
            Sizes { path_slots: 65, ..good },
            Sizes { peer_slots: 32800, ..good },
            Sizes { peer_slots: 33, ..good },
            Sizes { command_bytes: 4095, ..good },
            Sizes { punt_bytes: 65536, ..good },
            Sizes { inject_bytes: u32::MAX, ..good },
            Sizes { train_bytes: 65536, ..good },
            Sizes { vault_bytes: u32::MAX, ..good },
        ];
        assert!(bad.into_iter().all(|sizes| Layout::new(sizes).is_none()));
        let max = Sizes {
            workers: 64,
            sa_slots: 65536,
            path_slots: PATH_SLOTS_MAX,
            peer_slots: PEER_IDS_MAX,
            command_bytes: PART_BYTES_MAX,
            event_bytes: PART_BYTES_MAX,
            punt_bytes: PART_BYTES_MAX,
            inject_bytes: PART_BYTES_MAX,
            train_bytes: PART_BYTES_MAX,
            vault_bytes: PART_BYTES_MAX,
        };
        assert_eq!(Layout::new(max), None, "more than a machine can spare");
        let tables = Sizes { sa_slots: SA_SLOTS_MAX, path_slots: PATH_SLOTS_MAX, peer_slots: PEER_IDS_MAX, ..good };
        let most = Sizes { workers: 64, vault_bytes: PART_BYTES_MAX, ..tables };
        assert!(Layout::new(most).is_some(), "a data plane with as many SAs as there can be");
    }

    #[test]
    fn the_header_comes_back() {
        let layout = Layout::new(Sizes { workers: 2, command_bytes: 5000, ..Sizes::default() }).unwrap();
        assert_eq!(layout.sizes.command_bytes, 8192);
        let words = header_of(&layout);
        assert_eq!(Layout::read_header(&words, layout.bytes() as u64), Ok((layout.clone(), 7)));
        assert_eq!(Layout::read_header(&words, layout.bytes() as u64 + 4096), Err(HeaderError::Sizes));
        words[1].store(9, Ordering::Relaxed);
        assert_eq!(Layout::read_header(&words, layout.bytes() as u64), Err(HeaderError::Version(9)));
    }

    proptest! {
        #[test]
        fn a_changed_header_gives_the_same_layout_or_an_error(at in 0usize..14, value in prop_oneof![any::<u64>(), 0u64..1 << 27]) {
            let layout = Layout::new(Sizes::default()).unwrap();
            let words = header_of(&layout);
            words[at].store(value, Ordering::Relaxed);
            if let Ok((read, info_len)) = Layout::read_header(&words, layout.bytes() as u64) {
                prop_assert!(read.words == layout.words && info_len <= 3968);
            }
        }
    }
}
