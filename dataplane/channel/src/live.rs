//! The table of live SAs: the owning worker writes, the master reads a snapshot at any time (a seqlock per slot).
//!
//! ```text
//!  slot of 16 words: │ version, odd while written │ SPI, peer, suite, direction │ window, child │ seq │ limit │ packets │ bytes │ gone │ serial │ … │
//!  behind the slots: │ how many SAs have gone │ how many were installed │ … │
//! ```
//! A slot whose second word is zero is empty. The reader copies a slot between two looks at the version and keeps the copy
//! only when both were the same even number.
//!
//! An SA that is gone leaves its slot as it was, with its place among those that have gone, until another SA takes the slot: what it
//! carried after the reader's last look at it is still to be counted. SPIs come again; by its serial the reader knows each SA for what
//! it is.

use std::ops::Deref;

use adit_proto::control::{ChildId, Direction, PeerId, Spi};
use adit_proto::suite::Suite;

use crate::sync::{AtomicU64, Ordering, fence};

/// Words of a slot: two cache lines.
pub const SLOT_WORDS: usize = 16;
const FIELDS: usize = 8;
/// The field that holds the place of the SA among those that have gone, from 1 on; 0 for one that is installed.
const GONE: usize = 6;
/// The field that holds its place among those that were installed.
const SERIAL: usize = 7;
/// Looks in vain at slots of a table before its writer is taken for dead. A writer holds a slot for some nanoseconds; only when it
/// loses its core meanwhile does the reader have to wait: it yields, and then sleeps, some ten milliseconds in all.
const LOOKS: u32 = 2_000;

/// Words of a table with so many slots.
pub const fn words(slots: u32) -> usize {
    (slots as usize + 1) * SLOT_WORDS
}

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
    fn to_words(self, serial: u64) -> [u64; FIELDS] {
        let kind = u64::from(self.direction as u8) | u64::from(self.suite as u8) << 8 | u64::from(self.peer.0) << 16;
        let identity = kind | u64::from(self.spi.0) << 32;
        let window = u64::from(self.window) | u64::from(self.child.0) << 16;
        [identity, window, self.seq, self.seq_limit, self.packets, self.bytes, 0, serial]
    }

    fn from_words([identity, window, seq, seq_limit, packets, bytes, ..]: [u64; FIELDS]) -> Option<LiveSa> {
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

/// An SA as a look has found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub sa: LiveSa,
    /// No other SA of the worker has it.
    pub serial: u64,
    pub standing: Standing,
}

/// Whether an SA is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Live,
    /// It went while it was looked: the next look finds it once more.
    Going,
    Gone,
}

/// What one look at the SAs of all workers has found: those that are installed, and those that have gone since they were counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaLook {
    /// Each with its worker.
    pub seen: Vec<(u16, Seen)>,
    /// How many of each worker have gone: those up to here have been found.
    pub gone: Vec<u64>,
    /// Whether none was left out that was installed all the time.
    pub is_whole: bool,
}

impl SaLook {
    /// Those that were installed when the look began, each with its worker.
    pub fn live(&self) -> Vec<(u16, LiveSa)> {
        let live = self.seen.iter().filter(|(_, seen)| seen.standing != Standing::Gone);
        live.map(|(worker, seen)| (*worker, seen.sa)).collect()
    }
}

/// The table, for its writer and for its readers.
#[derive(Debug)]
pub struct LiveTable<M> {
    words: M,
}

impl<M: Deref<Target = [AtomicU64]>> LiveTable<M> {
    /// `words` are [`words`] of some slots.
    pub fn new(words: M) -> LiveTable<M> {
        LiveTable { words }
    }

    fn slots(&self) -> u32 {
        (self.words.len() / SLOT_WORDS).saturating_sub(1) as u32
    }

    fn slot(&self, index: u32) -> Option<&[AtomicU64]> {
        let at = index as usize * SLOT_WORDS;
        (index < self.slots()).then(|| &self.words[at..at + SLOT_WORDS])
    }

    /// How many SAs have gone, and how many were installed.
    fn totals(&self) -> Option<[&AtomicU64; 2]> {
        let at = self.slots() as usize * SLOT_WORDS;
        Some([self.words.get(at)?, self.words.get(at + 1)?])
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
        let Some([_, installed]) = self.totals() else { return false };
        let serial = installed.load(Ordering::Relaxed).wrapping_add(1);
        installed.store(serial, Ordering::Relaxed);
        self.write(index, 0, &sa.to_words(serial))
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

    /// The SA of a slot is gone. What it has carried is there until another SA takes the slot.
    pub fn retire(&self, index: u32) -> bool {
        let Some([gone, _]) = self.totals().filter(|_| index < self.slots()) else { return false };
        let place = gone.load(Ordering::Relaxed).wrapping_add(1);
        self.write(index, GONE, &[place]);
        // Behind the slot: who sees that so many have gone sees the slot as well.
        gone.store(place, Ordering::Release);
        true
    }

    /// A consistent copy of a slot: SA, place among those that have gone, serial; `None` when it is empty or holds nonsense.
    ///
    /// # Errors
    /// It was still being written when `patience` ended.
    fn read(&self, index: u32, patience: &mut u32) -> Result<Option<(LiveSa, u64, u64)>, BeingWritten> {
        let Some(slot) = self.slot(index) else { return Ok(None) };
        loop {
            let before = slot[0].load(Ordering::Acquire);
            let mut fields = [0; FIELDS];
            fields.iter_mut().zip(&slot[1..]).for_each(|(field, word)| *field = word.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before & 1 == 0 && slot[0].load(Ordering::Relaxed) == before {
                return Ok(LiveSa::from_words(fields).map(|sa| (sa, fields[GONE], fields[SERIAL])));
            }
            *patience = patience.checked_sub(1).ok_or(BeingWritten)?;
            pause(*patience);
        }
    }

    /// Adds what is in this worker's table to a look: the SAs that are installed, each consistent in itself, and those that have gone
    /// behind the first `counted` ones, but for whose slot another SA has taken. One that its writer holds all the time is left out. The
    /// time is bounded: the table has one writer, which writes one slot at a time, so all slots share the patience.
    pub fn look(&self, worker: u16, counted: u64, look: &mut SaLook) {
        let all = self.totals().map_or(0, |[gone, _]| gone.load(Ordering::Acquire));
        let mut patience = LOOKS;
        for index in 0..self.slots() {
            let Ok(slot) = self.read(index, &mut patience) else {
                look.is_whole = false;
                continue;
            };
            let Some((sa, place, serial)) = slot else { continue };
            let standing = match place {
                0 => Standing::Live,
                _ if place > all => Standing::Going,
                _ if place > counted => Standing::Gone,
                _ => continue,
            };
            // What has taken its place may be in a slot that was read before.
            look.is_whole &= standing != Standing::Going;
            look.seen.push((worker, Seen { sa, serial, standing }));
        }
        look.gone.push(all);
    }
}

/// Its writer holds a slot, and does not get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BeingWritten;

/// Lets the writer get on: it may have lost its core to us.
#[cfg(feature = "loom")]
fn pause(_turn: u32) {
    loom::thread::yield_now();
}

/// Lets the writer get on: it may have lost its core to us.
#[cfg(not(feature = "loom"))]
fn pause(turn: u32) {
    const ASLEEP: u32 = 100;
    const SLEEP: std::time::Duration = std::time::Duration::from_micros(100);
    if turn < ASLEEP {
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
    use std::time::Duration;

    fn table(slots: u32) -> LiveTable<Arc<[AtomicU64]>> {
        LiveTable::new((0..words(slots)).map(|_| AtomicU64::new(0)).collect())
    }

    fn read(table: &LiveTable<Arc<[AtomicU64]>>, slot: u32) -> Option<LiveSa> {
        let read = table.read(slot, &mut LOOKS.clone()).expect("nobody holds it");
        read.filter(|(_, gone, _)| *gone == 0).map(|(sa, ..)| sa)
    }

    fn look(table: &LiveTable<Arc<[AtomicU64]>>, counted: u64) -> SaLook {
        let mut look = SaLook { is_whole: true, ..SaLook::default() };
        table.look(0, counted, &mut look);
        look
    }

    /// What has gone behind the first ones, and how many have in all.
    fn gone(table: &LiveTable<Arc<[AtomicU64]>>, counted: u64) -> (Vec<LiveSa>, u64) {
        let look = look(table, counted);
        let gone = look.seen.iter().filter(|(_, seen)| seen.standing == Standing::Gone);
        (gone.map(|(_, seen)| seen.sa).collect(), look.gone[0])
    }

    /// What is installed, and whether that is all.
    fn snapshot(table: &LiveTable<Arc<[AtomicU64]>>) -> (Vec<LiveSa>, bool) {
        let look = look(table, u64::MAX);
        (look.live().iter().map(|(_, sa)| *sa).collect(), look.is_whole)
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
        assert!(table.retire(1));
        assert_eq!(read(&table, 1), None);
        assert!(!table.install(3, &sa(1)) && !table.update(u32::MAX, 1, 1, 1) && read(&table, 3).is_none());
    }

    #[test]
    fn what_has_gone_is_told_once_with_all_it_carried_until_its_slot_is_taken() {
        let table = table(3);
        assert_eq!(gone(&table, 0), (vec![], 0));
        (0..3).for_each(|slot| assert!(table.install(slot, &sa(u64::from(slot)))));
        table.update(1, 100, 200, 300);
        assert!(table.retire(1));
        table.retire(0);
        let last = LiveSa { seq: 100, packets: 200, bytes: 300, ..sa(1) };
        assert_eq!(gone(&table, 0), (vec![sa(0), last], 2));
        assert_eq!(gone(&table, 1), (vec![sa(0)], 2));
        assert_eq!(gone(&table, 2), (vec![], 2));
        assert_eq!(snapshot(&table), (vec![sa(2)], true));
        table.install(0, &sa(9));
        assert_eq!(gone(&table, 0), (vec![last], 2));
        assert_eq!(snapshot(&table), (vec![sa(9), sa(2)], true));
        let serials: Vec<u64> = look(&table, 0).seen.iter().map(|(_, seen)| seen.serial).collect();
        assert_eq!(serials, [4, 2, 3]);
        assert!(!table.retire(3), "there is no such slot");
        assert_eq!(gone(&table, 2), (vec![], 2));
    }

    #[test]
    fn what_goes_during_a_look_was_there_and_the_look_is_not_whole() {
        let table = table(2);
        table.install(0, &sa(1));
        table.retire(0);
        // As the look finds it that has read the number of those that have gone before.
        table.words[2 * SLOT_WORDS].store(0, Ordering::Relaxed);
        let found = look(&table, 0);
        assert_eq!((found.live(), found.is_whole, found.gone), (vec![(0, sa(1))], false, vec![0]));
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
            if let Ok(Some((seen, ..))) = reader.read(0, &mut LOOKS.clone()) {
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
        assert_eq!(snapshot(&table), (vec![sa(2)], false));
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
        assert_eq!(snapshot(&table), (vec![sa(1), sa(2)], true));
        writing.join().unwrap();
    }

    proptest! {
        #[test]
        fn any_words_give_an_sa_or_nothing(words: [u64; FIELDS]) {
            if let Some(sa) = LiveSa::from_words(words) {
                prop_assert_eq!(LiveSa::from_words(sa.to_words(words[SERIAL])), Some(sa));
            }
        }
    }
}
