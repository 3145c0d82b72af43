//! A ring of records in shared memory, from one producer to one consumer, each in a process that does not trust the other.
//!
//! ```text
//!  word 0                16                32                                                32 + capacity
//!  ┌─────────────────────┬─────────────────┬──────────────────────────────────────────────────┐
//!  │ producer's cursor   │ consumer's      │ data: records, one after the other, wrapping     │
//!  │ (own 128 bytes)     │ cursor (128)    │ around word by word                              │
//!  └─────────────────────┴─────────────────┴──────────────────────────────────────────────────┘
//!       record = │ length in bytes (low 32 bits), tag (high 32) │ prefix words │ body, padded to 8 bytes │
//! ```
//! A cursor counts words since the beginning and never goes back; its place in the data is `cursor & (capacity − 1)`. The
//! producer writes a record and then moves its cursor (release): a producer that dies half-way through a record leaves
//! nothing. Each side keeps its own cursor in private memory and only publishes it; of the other's it believes nothing
//! but a value between empty and full. The data are atomic words too, so that a hostile writer can make them wrong, but
//! never undefined.
//!
//! Sleeping: the producer tells whether the consumer had read everything before (`push` returns true); only then does the
//! consumer possibly sleep and need a signal. Both sides publish their cursor, fence, and look at the other's: one of
//! the two sees the other's step.

use std::ops::Deref;

use crate::sync::{AtomicU64, Ordering, fence};

/// Words before the data of a ring.
pub const HEAD_WORDS: usize = 32;

const PRODUCER_AT: usize = 0;
const CONSUMER_AT: usize = 16;
const WORD: usize = 8;

/// The two cursors of a ring contradict each other: the other side, or a predecessor, wrote nonsense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// Why a record was not taken into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// There is no room now.
    Full,
    /// The record is longer than the ring.
    TooLong,
    /// The ring is corrupt and stays so.
    Corrupt,
}

/// What came out of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is no record.
    Empty,
    /// A record, copied: its tag and the length of its body in bytes.
    Record { tag: u32, len: usize },
    /// A record was passed over: too short for its prefix or too long for the buffer.
    Skipped { tag: u32 },
    /// The ring is corrupt and stays so.
    Corrupt,
}

/// Words of data in the memory of a ring, when there is a power of two of them.
fn capacity_of(words: &[AtomicU64]) -> Result<u64, Corrupt> {
    let capacity = words.len().checked_sub(HEAD_WORDS).ok_or(Corrupt)?;
    if capacity.is_power_of_two() { Ok(capacity as u64) } else { Err(Corrupt) }
}

/// The `len` words of data from `cursor` on: up to the end of the data, and from its beginning. `len` ≤ capacity.
fn span(words: &[AtomicU64], cursor: u64, len: usize) -> (&[AtomicU64], &[AtomicU64]) {
    let data = &words[HEAD_WORDS..];
    let at = cursor as usize & (data.len() - 1);
    let first = len.min(data.len() - at);
    (&data[at..at + first], &data[..len - first])
}

/// The end of a ring that puts records in.
#[derive(Debug)]
pub struct Producer<M> {
    words: M,
    capacity: u64,
    /// Our cursor; the shared one is a copy for the other side.
    head: u64,
    /// The consumer's cursor as last seen.
    tail: u64,
    corrupt: bool,
}

impl<M: Deref<Target = [AtomicU64]>> Producer<M> {
    /// Takes over where the producer before stopped. `words` is [`HEAD_WORDS`] and a power of two of data.
    pub fn attach(words: M) -> Result<Producer<M>, Corrupt> {
        let capacity = capacity_of(&words)?;
        let head = words[PRODUCER_AT].load(Ordering::Acquire);
        let tail = words[CONSUMER_AT].load(Ordering::Acquire);
        if head.wrapping_sub(tail) > capacity {
            return Err(Corrupt);
        }
        Ok(Producer { words, capacity, head, tail, corrupt: false })
    }

    /// Appends a record. True when the consumer had read all before it, so that it may sleep and wants a signal.
    pub fn push<const N: usize>(&mut self, tag: u32, prefix: &[u64; N], body: &[u8]) -> Result<bool, PushError> {
        let len = u32::try_from(N * WORD + body.len()).map_err(|_| PushError::TooLong)?;
        let body_words = body.len().div_ceil(WORD);
        let need = (1 + N + body_words) as u64;
        if need > self.capacity {
            return Err(PushError::TooLong);
        }
        self.make_room(need)?;
        let before = self.head;
        let store = |(word, value): (&AtomicU64, u64)| word.store(value, Ordering::Relaxed);
        let (first, second) = span(&self.words, before, 1 + N);
        let head = [u64::from(len) | u64::from(tag) << 32];
        first.iter().chain(second).zip(head.into_iter().chain(*prefix)).for_each(store);

        let (chunks, rest) = body.as_chunks::<WORD>();
        let (first, second) = span(&self.words, before.wrapping_add(1 + N as u64), body_words);
        let (early, late) = chunks.split_at(first.len().min(chunks.len()));
        first.iter().zip(early.iter().map(|&chunk| u64::from_le_bytes(chunk))).for_each(store);
        second.iter().zip(late.iter().map(|&chunk| u64::from_le_bytes(chunk))).for_each(store);
        if let Some(last) = second.last().or(first.last()).filter(|_| !rest.is_empty()) {
            let mut padded = [0; WORD];
            padded[..rest.len()].copy_from_slice(rest);
            store((last, u64::from_le_bytes(padded)));
        }
        self.publish(before.wrapping_add(need))
    }

    fn make_room(&mut self, need: u64) -> Result<(), PushError> {
        if self.corrupt {
            return Err(PushError::Corrupt);
        }
        if self.capacity - self.head.wrapping_sub(self.tail) < need {
            self.look_at_consumer()?;
            if self.capacity - self.head.wrapping_sub(self.tail) < need {
                return Err(PushError::Full);
            }
        }
        Ok(())
    }

    fn publish(&mut self, head: u64) -> Result<bool, PushError> {
        let before = self.head;
        self.head = head;
        self.words[PRODUCER_AT].store(head, Ordering::Release);
        fence(Ordering::SeqCst);
        self.look_at_consumer()?;
        Ok(self.tail == before)
    }

    fn look_at_consumer(&mut self) -> Result<(), PushError> {
        let tail = self.words[CONSUMER_AT].load(Ordering::Acquire);
        if self.head.wrapping_sub(tail) > self.capacity {
            self.corrupt = true;
            return Err(PushError::Corrupt);
        }
        self.tail = tail;
        Ok(())
    }

    /// Overwrites all words that hold no record: what a predecessor left there, which may be half a key.
    pub fn wipe_free(&mut self) {
        if self.look_at_consumer().is_ok() {
            let free = self.capacity - self.head.wrapping_sub(self.tail);
            let (first, second) = span(&self.words, self.head, free as usize);
            first.iter().chain(second).for_each(|word| word.store(0, Ordering::Relaxed));
        }
    }

    /// Whether the other side has written nonsense.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }
}

/// The end of a ring that takes records out.
#[derive(Debug)]
pub struct Consumer<M> {
    words: M,
    capacity: u64,
    /// Our cursor; the shared one is a copy for the other side.
    tail: u64,
    /// The producer's cursor as last seen.
    head: u64,
    /// A record was released since the last fence.
    released: bool,
    /// Records are overwritten with zeros once read.
    wipe: bool,
    corrupt: bool,
}

impl<M: Deref<Target = [AtomicU64]>> Consumer<M> {
    /// Takes over where the consumer before stopped. `words` is [`HEAD_WORDS`] and a power of two of data. With `wipe`
    /// every record is overwritten after it was read.
    pub fn attach(words: M, wipe: bool) -> Result<Consumer<M>, Corrupt> {
        let capacity = capacity_of(&words)?;
        let tail = words[CONSUMER_AT].load(Ordering::Acquire);
        let head = words[PRODUCER_AT].load(Ordering::Acquire);
        if head.wrapping_sub(tail) > capacity {
            return Err(Corrupt);
        }
        Ok(Consumer { words, capacity, tail, head, released: true, wipe, corrupt: false })
    }

    /// Takes the next record, copying its prefix and body out. One load when there is none.
    #[inline]
    pub fn take<const N: usize>(&mut self, prefix: &mut [u64; N], body: &mut [u8]) -> Next {
        if !self.is_ready() {
            return if self.corrupt { Next::Corrupt } else { Next::Empty };
        }
        self.take_record(prefix, body)
    }

    /// Whether there is something to take. One load when there is not.
    #[inline]
    pub fn is_ready(&mut self) -> bool {
        self.tail != self.head || self.look_at_producer()
    }

    /// Whether there is a record now.
    fn look_at_producer(&mut self) -> bool {
        if self.corrupt {
            return false;
        }
        if self.released {
            fence(Ordering::SeqCst);
            self.released = false;
        }
        let head = self.words[PRODUCER_AT].load(Ordering::Acquire);
        if head.wrapping_sub(self.tail) > self.capacity {
            self.corrupt = true;
            return false;
        }
        self.head = head;
        head != self.tail
    }

    fn take_record<const N: usize>(&mut self, prefix: &mut [u64; N], body: &mut [u8]) -> Next {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        // Read once: the other side may change it under our hands.
        let header = load(&span(&self.words, self.tail, 1).0[0]);
        let (len, tag) = (header as u32 as usize, (header >> 32) as u32);
        let words = 1 + len.div_ceil(WORD);
        if words as u64 > self.head.wrapping_sub(self.tail) {
            // From here on the borders of records are lost.
            (self.corrupt, self.head) = (true, self.tail);
            return Next::Corrupt;
        }
        let next = match len.checked_sub(N * WORD) {
            Some(len) if len <= body.len() => {
                let (first, second) = span(&self.words, self.tail.wrapping_add(1), N);
                prefix.iter_mut().zip(first.iter().chain(second)).for_each(|(value, word)| *value = load(word));
                self.copy_body(self.tail.wrapping_add(1 + N as u64), &mut body[..len]);
                Next::Record { tag, len }
            }
            _ => Next::Skipped { tag },
        };
        self.release(words);
        next
    }

    fn copy_body(&self, cursor: u64, body: &mut [u8]) {
        let (first, second) = span(&self.words, cursor, body.len().div_ceil(WORD));
        let (chunks, rest) = body.as_chunks_mut::<WORD>();
        let (early, late) = chunks.split_at_mut(first.len().min(chunks.len()));
        let load = |(chunk, word): (&mut [u8; WORD], &AtomicU64)| *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        early.iter_mut().zip(first).for_each(load);
        late.iter_mut().zip(second).for_each(load);
        if let Some(last) = second.last().or(first.last()) {
            let len = rest.len();
            rest.copy_from_slice(&last.load(Ordering::Relaxed).to_le_bytes()[..len]);
        }
    }

    fn release(&mut self, words: usize) {
        if self.wipe {
            let (first, second) = span(&self.words, self.tail, words);
            first.iter().chain(second).for_each(|word| word.store(0, Ordering::Relaxed));
        }
        self.tail = self.tail.wrapping_add(words as u64);
        self.words[CONSUMER_AT].store(self.tail, Ordering::Release);
        self.released = true;
    }

    /// Whether the other side has written nonsense.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }
}
