//! The table of live SAs: the owning worker writes, the master reads a snapshot at any time (a seqlock per slot).
//!
//! ```text
//!  slot of 16 words: │ version, odd while written │ SPI, peer, suite, direction │ window, child │ seq │ limit │ packets │ bytes │ … │
//! ```
//! A slot whose second word is zero is empty. The reader copies a slot between two looks at the version and keeps the copy
//! only when both were the same even number.

use std::ops::Deref;
use std::time::Duration;

use adit_proto::control::{ChildId, Direction, PeerId, Spi};
use adit_proto::suite::Suite;

use crate::sync::{AtomicU64, Ordering, fence};

/// Words of a slot: two cache lines.
pub const SLOT_WORDS: usize = 16;
const FIELDS: usize = 6;
/// Looks in vain at slots of a table before its writer is taken for dead. A writer holds a slot for some nanoseconds; only when it
/// loses its core meanwhile does the reader have to wait: it yields, and then sleeps, some ten milliseconds in all.
const LOOKS: u32 = 2_000;
const LOOKS_ASLEEP: u32 = 100;
const SLEEP: Duration = Duration::from_micros(100);

/// An SA that a worker has installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSa {
    pub spi: Spi,
    pub direction: Direction,
    pub peer: PeerId,
    pub child: ChildId,
    pub suite: Suite,
    /// Size of the replay window in packets; 0 for an outbound SA.
    pub window: u16,
    /// Outbound: the last sequence number used. Inbound: the highest one accepted.
    pub seq: u64,
    /// Outbound: no packet is sealed above this number. Inbound: 0.
    pub seq_limit: u64,
    /// Packets sealed or opened.
    pub packets: u64,
    /// Bytes of frames sealed or opened.
    pub bytes: u64,
}

impl LiveSa {
    fn to_words(self) -> [u64; FIELDS] {
        let kind = u64::from(self.direction as u8) | u64::from(self.suite as u8) << 8 | u64::from(self.peer.0) << 16;
        let identity = kind | u64::from(self.spi.0) << 32;
        [identity, u64::from(self.window) | u64::from(self.child.0) << 16, self.seq, self.seq_limit, self.packets, self.bytes]
    }

    fn from_words([identity, window, seq, seq_limit, packets, bytes]: [u64; FIELDS]) -> Option<LiveSa> {
        Some(LiveSa {
            spi: Spi((identity >> 32) as u32),
            direction: Direction::from_code(identity as u8).ok()?,
            peer: PeerId((identity >> 16) as u16),
            child: ChildId(u16::try_from(window >> 16).ok()?),
            suite: Suite::from_code((identity >> 8) as u8)?,
            window: window as u16,
            seq,
            seq_limit,
            packets,
            bytes,
        })
    }
}

/// The table, for its writer and for its readers.
#[derive(Debug)]
pub struct LiveTable<M> {
    words: M,
}

impl<M: Deref<Target = [AtomicU64]>> LiveTable<M> {
    /// `words` are whole slots.
    pub fn new(words: M) -> LiveTable<M> {
        LiveTable { words }
    }

    fn slot(&self, index: u32) -> Option<&[AtomicU64]> {
        let at = (index as usize).checked_mul(SLOT_WORDS)?;
        self.words.get(at..at.checked_add(SLOT_WORDS)?)
    }

    /// Writes fields of a slot, from field `first` on. One writer only. False when there is no such slot.
    pub fn write(&self, index: u32, first: usize, fields: &[u64]) -> bool {
        let Some(slot) = self.slot(index) else {
            return false;
        };
        let version = slot[0].load(Ordering::Relaxed) & !1;
        slot[0].store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, &value) in slot[1 + first..].iter().zip(fields) {
            word.store(value, Ordering::Relaxed);
        }
        slot[0].store(version.wrapping_add(2), Ordering::Release);
        true
    }

    /// Puts an SA into a slot.
    pub fn install(&self, index: u32, sa: &LiveSa) -> bool {
        self.write(index, 0, &sa.to_words())
    }

    /// Brings the moving numbers of a slot up to date.
    #[inline]
    pub fn update(&self, index: u32, seq: u64, packets: u64, bytes: u64) -> bool {
        let Some(slot) = self.slot(index) else {
            return false;
        };
        let limit = slot[4].load(Ordering::Relaxed);
        self.write(index, 2, &[seq, limit, packets, bytes])
    }

    /// Changes the limit of the sequence numbers of a slot.
    pub fn set_limit(&self, index: u32, seq_limit: u64) -> bool {
        self.write(index, 3, &[seq_limit])
    }

    /// Empties a slot.
    pub fn remove(&self, index: u32) -> bool {
        self.write(index, 0, &[0; FIELDS])
    }

    /// A consistent copy of a slot; `None` when it is empty or holds nonsense.
    ///
    /// # Errors
    /// It was still being written when `patience` ended.
    fn read(&self, index: u32, patience: &mut u32) -> Result<Option<LiveSa>, BeingWritten> {
        let Some(slot) = self.slot(index) else { return Ok(None) };
        loop {
            let before = slot[0].load(Ordering::Acquire);
            let mut fields = [0; FIELDS];
            fields.iter_mut().zip(&slot[1..]).for_each(|(field, word)| *field = word.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before & 1 == 0 && slot[0].load(Ordering::Relaxed) == before {
                return Ok(LiveSa::from_words(fields));
            }
            *patience = patience.checked_sub(1).ok_or(BeingWritten)?;
            pause(*patience);
        }
    }

    /// All slots in use, each consistent in itself, and whether these are all: one that is being written all the time is left out. The
    /// time is bounded: the table has one writer, which writes one slot at a time, so all slots share the patience.
    pub fn snapshot(&self) -> (Vec<LiveSa>, bool) {
        let slots = (self.words.len() / SLOT_WORDS) as u32;
        let (mut patience, mut is_whole) = (LOOKS, true);
        let mut read = |index| {
            let slot = self.read(index, &mut patience);
            is_whole &= slot.is_ok();
            slot.ok().flatten()
        };
        let sas = (0..slots).filter_map(&mut read).collect();
        (sas, is_whole)
    }
}

/// Its writer holds a slot, and does not get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BeingWritten;

/// Lets the writer get on: it may have lost its core to us.
fn pause(turn: u32) {
    #[cfg(feature = "loom")]
    {
        let _ = turn;
        loom::thread::yield_now();
    }
    #[cfg(not(feature = "loom"))]
    if turn < LOOKS_ASLEEP {
        std::thread::sleep(SLEEP);
    } else if turn.is_multiple_of(64) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn table(slots: usize) -> LiveTable<Arc<[AtomicU64]>> {
        LiveTable::new((0..slots * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    fn read(table: &LiveTable<Arc<[AtomicU64]>>, slot: u32) -> Option<LiveSa> {
        table.read(slot, &mut LOOKS.clone()).expect("nobody holds it")
    }

    fn sa(n: u64) -> LiveSa {
        LiveSa {
            spi: Spi(n as u32),
            direction: if n.is_multiple_of(2) { Direction::Inbound } else { Direction::Outbound },
            peer: PeerId(n as u16),
            child: ChildId((n as u16).wrapping_add(1)),
            suite: Suite::ALL[n as usize % 3],
            window: n as u16,
            seq: n,
            seq_limit: n + 1,
            packets: n + 2,
            bytes: n + 3,
        }
    }

    #[test]
    fn what_is_installed_is_read_until_it_is_removed() {
        let table = table(3);
        assert_eq!(read(&table, 1), None);
        assert!(table.install(1, &sa(7)));
        assert_eq!(read(&table, 1), Some(sa(7)));
        assert!(table.update(1, 100, 200, 300));
        assert!(table.set_limit(1, 1000));
        assert_eq!(read(&table, 1), Some(LiveSa { seq: 100, packets: 200, bytes: 300, seq_limit: 1000, ..sa(7) }));
        assert_eq!((read(&table, 0), read(&table, 2)), (None, None));
        assert!(table.remove(1));
        assert_eq!(read(&table, 1), None);
        assert!(!table.install(3, &sa(1)) && !table.update(u32::MAX, 1, 1, 1) && read(&table, 3).is_none());
    }

    #[test]
    fn a_reader_never_sees_half_a_change() {
        let writer = table(1);
        let reader = LiveTable::new(Arc::clone(&writer.words));
        let started = std::time::Instant::now();
        let writing = std::thread::spawn(move || {
            let mut n = 0;
            while started.elapsed().as_millis() < 300 {
                n += 1;
                writer.install(0, &sa(n));
            }
        });
        let mut reads = 0;
        while !writing.is_finished() {
            if let Ok(Some(seen)) = reader.read(0, &mut LOOKS.clone()) {
                assert_eq!(seen, sa(seen.seq));
                reads += 1;
            }
        }
        writing.join().unwrap();
        assert!(reads > 100, "{reads} reads");
    }

    #[test]
    fn a_writer_that_died_half_way_does_not_hang_the_reader() {
        let table = table(2);
        table.install(0, &sa(1));
        table.words[0].store(5, Ordering::Relaxed);
        table.install(1, &sa(2));
        assert_eq!(table.snapshot(), (vec![sa(2)], false));
    }

    #[test]
    fn a_writer_that_lost_its_core_half_way_is_waited_for() {
        let table = table(2);
        table.install(0, &sa(1));
        table.install(1, &sa(2));
        let version = table.words[0].load(Ordering::Relaxed);
        table.words[0].store(version + 1, Ordering::Relaxed);
        let writer = LiveTable::new(Arc::clone(&table.words));
        let writing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(4));
            writer.install(0, &sa(1));
        });
        assert_eq!(table.snapshot(), (vec![sa(1), sa(2)], true));
        writing.join().unwrap();
    }

    proptest! {
        #[test]
        fn any_words_give_an_sa_or_nothing(words: [u64; FIELDS]) {
            if let Some(sa) = LiveSa::from_words(words) {
                prop_assert_eq!(LiveSa::from_words(sa.to_words()), Some(sa));
            }
        }
    }
}
