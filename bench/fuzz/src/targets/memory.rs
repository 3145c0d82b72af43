//! Memory that another process writes: rings, the table of live SAs, what the data plane says about itself, the vault.

use std::sync::Arc;

use adit_channel::live::{LiveTable, SLOT_WORDS};
use adit_channel::ring::{Consumer, HEAD_WORDS, Next, Producer};
use adit_channel::{AtomicU64, Ordering, PlaneInfo, SaLook};
use adit_controlplane::vault;
use adit_proto::control::{Command, Event, RECORD_LEN_MAX};

use super::Input;

const RING_WORDS: usize = 64;

fn words(count: usize) -> Arc<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

/// A ring whose other side writes anything anywhere between our steps: every record lies within it, and a ring that contradicts
/// itself stays closed.
pub fn channel_ring(data: &[u8]) {
    let mut input = Input::new(data);
    let memory = words(HEAD_WORDS + RING_WORDS);
    let wipe = input.u8() & 1 == 1;
    for word in memory.iter().skip(HEAD_WORDS) {
        word.store(input.u64(), Ordering::Relaxed);
    }
    memory[0].store(input.u64() & 0xffff_ffff_ffff, Ordering::Relaxed);
    memory[16].store(memory[0].load(Ordering::Relaxed).wrapping_sub(u64::from(input.u8())), Ordering::Relaxed);
    let (Ok(mut consumer), Ok(mut producer)) = (Consumer::attach(memory.clone(), wipe), Producer::attach(memory.clone())) else {
        return;
    };
    let (mut prefix, mut body) = ([0; 4], [0; RECORD_LEN_MAX]);
    for _ in 0..200 {
        match input.u8() % 5 {
            0 if input.is_empty() => break,
            0 => {
                let at = [0, 16, HEAD_WORDS + usize::from(input.u8()) % RING_WORDS][usize::from(input.u8()) % 3];
                memory[at].store(input.u64(), Ordering::Relaxed);
            }
            1 => {
                let body = input.part();
                let _ = producer.push(7, &[1, 2], body);
            }
            _ => {
                let closed = consumer.is_corrupt();
                match consumer.take(&mut prefix, &mut body) {
                    Next::Record { len, .. } => {
                        assert!(!closed && len <= body.len() && len <= RING_WORDS * 8);
                        let _ = (Command::decode(&body[..len]), Event::decode(&body[..len]));
                    }
                    Next::Corrupt => assert!(consumer.is_corrupt()),
                    Next::Empty | Next::Skipped { .. } => assert!(!closed),
                }
            }
        }
    }
}

/// The same bytes as slots of the table, as the record of the data plane, and as the vault.
pub fn channel_tables(data: &[u8]) {
    let slots = data.len() / (SLOT_WORDS * 8) + 1;
    let memory = words(slots * SLOT_WORDS);
    for (word, chunk) in memory.iter().zip(data.chunks(8)) {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }
    // A slot that is for ever being written would only cost time.
    for word in memory.iter().step_by(SLOT_WORDS) {
        word.fetch_and(!1, Ordering::Relaxed);
    }
    let (mut look, counted) = (SaLook::default(), data.first().copied().unwrap_or(0));
    LiveTable::new(memory).look(0, counted.into(), &mut look);
    assert!(look.seen.len() < slots && look.gone.len() == 1, "the last one is none");
    if let Ok(info) = PlaneInfo::decode(data) {
        let mut out = vec![0; data.len()];
        assert_eq!(info.encode(&mut out), Some(data.len()));
        assert_eq!(PlaneInfo::decode(&out), Ok(info));
    }
    let left = vault::split(data);
    assert!(left.ike.len() <= data.len());
    if let Some(installed) = left.installed {
        let whole = vault::join(&installed.to_vault(), &left.ike);
        assert_eq!(vault::split(&whole).ike, left.ike);
    }
}
