//! The forwarding table: which peer has a MAC address. One per worker, so that a look-up takes no lock.
//!
//! Frames of peers teach where their source address is (never addresses of groups); what is not heard of ages; pinned
//! entries do neither. Frames go from the TAP to peers and from peers to the TAP, never from peer to peer (split horizon),
//! so a mesh cannot loop.
//!
//! But a hub hands on frames between its peers ([`crate::hub`]). Its table knows the stations behind the TAP too, as those of
//! [`HERE`], and damps: an address that moves to and fro, as every address does in a loop, is in dispute for some seconds.

use std::hash::{BuildHasher, RandomState};

use adit_proto::control::{Mac, PeerId, Refusal};

use crate::limits::{AGED_PER_TURN, PROBES_MAX, STATION_MOVES_MAX};
use adit_proto::limits::PEER_IDS_MAX;

/// What a look-up says about a frame from the TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Peer(PeerId),
    /// Broadcast, multicast or an unknown address: to all peers.
    Flood,
}

/// What learning an address changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Nothing: known, or pinned.
    Known,
    /// Known, but not heard of for a while.
    Refreshed,
    /// Known, but not all other workers have heard of it yet.
    Unreported,
    New,
    Moved,
    /// It moves to and fro, and stays where it is. Only in a table that damps.
    Disputed,
    /// It is pinned to another peer.
    Elsewhere,
    /// The table is full, or the peer has taught as many as it may.
    Full,
    /// A group address cannot be a source.
    Group,
}

#[derive(Clone, Copy)]
struct Entry {
    mac: Mac,
    peer: PeerId,
    state: State,
    /// The other workers must hear of what changed here, or they flood and age.
    unreported: bool,
    /// The second in which it was reported to them last, less what does not fit.
    reported_s: u8,
    moves: Moves,
    heard_s: u32,
}

/// How often an address has moved in a stretch of [`DISPUTE_S`] seconds: the number of the stretch, less what does not fit, and the
/// count in the low three bits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Moves(u8);

impl Moves {
    /// Forgets what is of another stretch.
    #[inline]
    fn keep(&mut self, now_s: u32) {
        let stretch = Moves::stretch(now_s);
        if self.0 & !7 != stretch {
            self.0 = stretch;
        }
    }

    /// One more. To be called behind `keep`.
    fn add(&mut self) {
        self.0 += u8::from(self.0 & 7 < 7);
    }

    fn are_too_many(self) -> bool {
        self.0 & 7 >= STATION_MOVES_MAX
    }

    fn stretch(now_s: u32) -> u8 {
        ((now_s / DISPUTE_S) as u8) << 3
    }
}

const _: () = assert!(size_of::<Entry>() == 16, "four to a cache line");

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Learned,
    Pinned,
}

const FREE: Entry =
    Entry { mac: [0; 6], peer: PeerId(0), state: State::Free, unreported: false, reported_s: 0, moves: Moves(0), heard_s: 0 };

/// Stands for the side of the TAP in the table of a hub. No peer has this id.
pub const HERE: PeerId = PeerId(u16::MAX);
const _: () = assert!(PEER_IDS_MAX < HERE.0, "ids of peers are below");

/// A dispute ends with the stretch of so many seconds in which it began.
const DISPUTE_S: u32 = 8;

/// The table of one worker. Times are seconds of any clock that does not go back.
pub struct ForwardingTable {
    /// Open addressing with backward-shift deletion; a power of two, at most half full.
    entries: Box<[Entry]>,
    used: usize,
    limit: usize,
    ageing_s: u32,
    hash: Hash,
    /// Addresses that move to and fro come into dispute.
    damps: bool,
    /// Addresses learned from each peer, and behind them those of [`HERE`].
    learned_from: Box<[u32]>,
    /// What one peer may teach.
    quota: usize,
    /// The place that is looked at next for ageing, how many are left of this round, and when it began.
    sweep_at: usize,
    sweep_left: usize,
    swept_s: u32,
}

impl ForwardingTable {
    /// A table for `limit` addresses behind peers with ids below `max_peers`.
    pub fn new(limit: u32, ageing_s: u32, max_peers: u16) -> ForwardingTable {
        let size = (2 * limit as usize).next_power_of_two().max(PROBES_MAX);
        ForwardingTable {
            entries: vec![FREE; size].into_boxed_slice(),
            used: 0,
            limit: limit as usize,
            ageing_s,
            hash: Hash::new(size),
            damps: false,
            learned_from: vec![0; usize::from(max_peers) + 1].into_boxed_slice(),
            quota: limit as usize,
            sweep_at: 0,
            sweep_left: 0,
            swept_s: 0,
        }
    }

    /// The same table for a hub: it damps.
    pub fn damping(self) -> ForwardingTable {
        ForwardingTable { damps: true, ..self }
    }

    /// Says how many peers there are. When there are several, one may teach half of what fits: none can fill the table alone.
    pub fn share_among(&mut self, peers: usize) {
        self.quota = if peers > 1 { self.limit.div_ceil(2) } else { self.limit };
    }

    /// Addresses from which nothing came are forgotten after so long from now on.
    pub fn set_ageing(&mut self, ageing_s: u32) {
        self.ageing_s = ageing_s;
    }

    /// Where a frame for `destination` goes.
    #[inline]
    pub fn route(&self, destination: Mac, now_s: u32) -> Route {
        if is_group(destination) {
            return Route::Flood;
        }
        match self.find(destination) {
            Some(entry) if entry.state == State::Pinned || now_s.saturating_sub(entry.heard_s) < self.ageing_s => {
                Route::Peer(entry.peer)
            }
            _ => Route::Flood,
        }
    }

    /// A frame with this source address came from `peer`.
    #[inline]
    pub fn learn(&mut self, source: Mac, peer: PeerId, now_s: u32) -> Learned {
        if is_group(source) {
            return Learned::Group;
        }
        let Some(at) = self.place(source) else { return Learned::Full };
        let refresh_s = self.ageing_s / 4;
        let entry = &mut self.entries[at];
        if self.damps {
            entry.moves.keep(now_s);
        }
        match entry.state {
            State::Pinned if entry.peer != peer => Learned::Elsewhere,
            State::Pinned => Learned::Known,
            State::Learned if self.damps && entry.moves.are_too_many() => Learned::Disputed,
            State::Learned if entry.peer != peer => {
                entry.moves.add();
                let before = std::mem::replace(&mut entry.peer, peer);
                (entry.heard_s, entry.unreported) = (now_s, true);
                self.count_learned(before, -1);
                self.count_learned(peer, 1);
                Learned::Moved
            }
            State::Learned if now_s.saturating_sub(entry.heard_s) > refresh_s => {
                (entry.heard_s, entry.unreported) = (now_s, true);
                Learned::Refreshed
            }
            State::Learned if entry.unreported => Learned::Unreported,
            State::Learned => Learned::Known,
            State::Free => self.add(at, source, peer, now_s),
        }
    }

    fn add(&mut self, at: usize, mac: Mac, peer: PeerId, now_s: u32) -> Learned {
        if self.used >= self.limit || self.learned_from(peer) >= self.quota {
            return Learned::Full;
        }
        let reported_s = now_s.wrapping_sub(1) as u8;
        self.entries[at] =
            Entry { mac, peer, state: State::Learned, unreported: true, reported_s, moves: Moves(0), heard_s: now_s };
        self.used += 1;
        self.count_learned(peer, 1);
        Learned::New
    }

    /// Learns what another worker has learned.
    pub fn hear(&mut self, source: Mac, peer: PeerId, now_s: u32) {
        self.learn(source, peer, now_s);
        if let Some(at) = self.place(source) {
            self.entries[at].unreported = false;
        }
    }

    /// Tells the others of an address, once a second at most: one that jumps to and fro must not keep them busy. `announce` says
    /// whether all have heard; if not, it is reported to them again later.
    pub fn report(&mut self, mac: Mac, now_s: u32, announce: impl FnOnce() -> bool) {
        let Some(at) = self.place(mac) else { return };
        let entry = &mut self.entries[at];
        if entry.unreported && entry.reported_s != now_s as u8 {
            entry.reported_s = now_s as u8;
            entry.unreported = !announce();
        }
    }

    /// Pins an address to a peer.
    pub fn pin(&mut self, mac: Mac, peer: PeerId) -> Result<(), Refusal> {
        if is_group(mac) {
            return Err(Refusal::BadValue);
        }
        let at = self.place(mac).ok_or(Refusal::FdbFull)?;
        match self.entries[at] {
            Entry { state: State::Free, .. } if self.used >= self.limit => return Err(Refusal::FdbFull),
            Entry { state: State::Free, .. } => self.used += 1,
            Entry { state: State::Learned, peer, .. } => self.count_learned(peer, -1),
            Entry { state: State::Pinned, .. } => {}
        }
        self.entries[at] = Entry { mac, peer, state: State::Pinned, ..FREE };
        Ok(())
    }

    /// Forgets an address, pinned or not.
    pub fn unpin(&mut self, mac: Mac) {
        if let Some(at) = self.place(mac).filter(|&at| self.entries[at].state != State::Free) {
            self.delete(at);
        }
    }

    /// Forgets every address of a peer.
    pub fn forget_peer(&mut self, peer: PeerId) {
        let mut at = 0;
        while at < self.entries.len() {
            if self.entries[at].state != State::Free && self.entries[at].peer == peer {
                // The entry that moves into the gap is looked at next.
                self.delete(at);
            } else {
                at += 1;
            }
        }
    }

    /// Forgets what has aged, and reports to the others what they have not heard yet, as a station that moved twice within a second:
    /// it may be silent from now on, and they would send to its old place. A part of the table at a time; a round through all of it
    /// begins once a second. Returns how many were forgotten.
    #[inline]
    pub fn age(&mut self, now_s: u32, announce: impl FnMut(Mac, PeerId) -> bool) -> usize {
        if self.sweep_left == 0 {
            if now_s == self.swept_s {
                return 0;
            }
            (self.swept_s, self.sweep_left) = (now_s, self.entries.len());
        }
        self.sweep(now_s, announce)
    }

    fn sweep(&mut self, now_s: u32, mut announce: impl FnMut(Mac, PeerId) -> bool) -> usize {
        let before = self.used;
        for _ in 0..AGED_PER_TURN.min(self.sweep_left) {
            let entry = &mut self.entries[self.sweep_at];
            if entry.state == State::Learned && now_s.saturating_sub(entry.heard_s) >= self.ageing_s {
                // The entry that moves into the gap is looked at next.
                self.delete(self.sweep_at);
            } else {
                if entry.state == State::Learned && entry.unreported && entry.reported_s != now_s as u8 {
                    entry.reported_s = now_s as u8;
                    entry.unreported = !announce(entry.mac, entry.peer);
                }
                self.sweep_at = (self.sweep_at + 1) & (self.entries.len() - 1);
                self.sweep_left -= 1;
            }
        }
        before - self.used
    }

    pub fn len(&self) -> usize {
        self.used
    }

    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    #[inline]
    fn find(&self, mac: Mac) -> Option<&Entry> {
        let entry = &self.entries[self.place(mac)?];
        (entry.state != State::Free).then_some(entry)
    }

    /// Where the address is, or the free place where it would go; none when there is none near enough.
    #[inline]
    fn place(&self, mac: Mac) -> Option<usize> {
        let mask = self.entries.len() - 1;
        let mut at = self.hash.of(mac);
        for _ in 0..PROBES_MAX {
            let entry = &self.entries[at];
            if entry.mac == mac || entry.state == State::Free {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Frees a place and moves later entries of the same run forward, so that no search stops short.
    fn delete(&mut self, mut gap: usize) {
        let mask = self.entries.len() - 1;
        self.used -= 1;
        if self.entries[gap].state == State::Learned {
            self.count_learned(self.entries[gap].peer, -1);
        }
        let mut next = (gap + 1) & mask;
        while self.entries[next].state != State::Free {
            let home = self.hash.of(self.entries[next].mac);
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.entries[gap] = self.entries[next];
                gap = next;
            }
            next = (next + 1) & mask;
        }
        self.entries[gap] = FREE;
    }

    fn learned_from(&self, peer: PeerId) -> usize {
        self.learned_from.get(self.count_at(peer)).map_or(0, |count| *count as usize)
    }

    fn count_at(&self, peer: PeerId) -> usize {
        if peer == HERE { self.learned_from.len() - 1 } else { peer.0.into() }
    }

    fn count_learned(&mut self, peer: PeerId, change: i32) {
        if let Some(count) = self.learned_from.get_mut(self.count_at(peer)) {
            *count = count.saturating_add_signed(change);
        }
    }
}

/// The lowest bit of the first byte marks broadcast and multicast.
#[inline]
pub fn is_group(mac: Mac) -> bool {
    mac[0] & 1 == 1
}

/// Multiplicative hashing with secrets of its own for each table, so that nobody can make addresses that fall into one place.
struct Hash {
    mask: u64,
    multiplier: u64,
    shift: u32,
}

impl Hash {
    /// For a table of `size` places, a power of two and at least 2.
    fn new(size: usize) -> Hash {
        let random = RandomState::new();
        let shift = u64::BITS - size.trailing_zeros();
        Hash { mask: random.hash_one(0u8), multiplier: random.hash_one(1u8) | 1, shift }
    }

    #[inline]
    fn of(&self, mac: Mac) -> usize {
        let word = u64::from_be_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0]);
        // Both halves of the product, and multiplied again: with some multipliers one round would leave numbers in a row close
        // together.
        let product = u128::from(word ^ self.mask) * u128::from(self.multiplier);
        let folded = product as u64 ^ (product >> 64) as u64;
        (folded.wrapping_mul(self.multiplier) >> self.shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn mac(n: u8) -> Mac {
        [2, 0, 0, 0, 0, n]
    }

    #[test]
    fn an_address_is_learned_moves_ages_and_is_never_a_group() {
        let mut table = ForwardingTable::new(4, 300, 4);
        assert_eq!(table.route(mac(1), 0), Route::Flood);
        assert_eq!(table.learn(mac(1), PeerId(1), 0), Learned::New);
        table.report(mac(1), 0, || true);
        assert_eq!(table.learn(mac(1), PeerId(1), 10), Learned::Known);
        assert_eq!(table.learn(mac(1), PeerId(1), 80), Learned::Refreshed);
        assert_eq!(table.learn(mac(1), PeerId(2), 81), Learned::Moved);
        assert_eq!(table.route(mac(1), 380), Route::Peer(PeerId(2)));
        assert_eq!(table.route(mac(1), 381), Route::Flood, "aged, though not swept yet");
        assert_eq!((table.age(381, |_, _| true), table.len()), (1, 0));
        assert_eq!(table.learn([0xff; 6], PeerId(1), 0), Learned::Group);
        assert_eq!(table.route([1, 0, 0x5e, 0, 0, 1], 0), Route::Flood);
    }

    #[test]
    fn others_are_told_until_all_have_heard_and_at_most_once_a_second() {
        let mut table = ForwardingTable::new(4, 300, 4);
        let reported = |table: &mut ForwardingTable, now_s: u32, heard: bool| {
            let mut calls = 0;
            table.report(mac(1), now_s, || {
                calls += 1;
                heard
            });
            calls
        };
        assert_eq!(table.learn(mac(1), PeerId(1), 0), Learned::New);
        assert_eq!(reported(&mut table, 0, false), 1);
        assert_eq!(table.learn(mac(1), PeerId(1), 0), Learned::Unreported);
        assert_eq!(reported(&mut table, 0, true), 0, "not twice in a second");
        assert_eq!(reported(&mut table, 1, true), 1);
        assert_eq!(table.learn(mac(1), PeerId(1), 1), Learned::Known);
        for peer in [2, 1, 2] {
            assert_eq!(table.learn(mac(1), PeerId(peer), 1), Learned::Moved);
            assert_eq!(reported(&mut table, 1, true), 0);
        }
        assert_eq!(reported(&mut table, 2, true), 1);
        assert_eq!(table.learn(mac(1), PeerId(2), 80), Learned::Refreshed);
        table.hear(mac(1), PeerId(1), 80);
        assert_eq!(reported(&mut table, 80, true), 0, "what others say is not reported back to them");
        assert_eq!(table.route(mac(1), 80), Route::Peer(PeerId(1)));
    }

    #[test]
    fn a_station_that_moves_twice_in_a_second_and_is_silent_is_reported() {
        let mut table = ForwardingTable::new(4, 300, 4);
        table.learn(mac(1), PeerId(1), 5);
        table.report(mac(1), 5, || true);
        assert_eq!(table.learn(mac(1), PeerId(2), 5), Learned::Moved);
        table.report(mac(1), 5, || unreachable!("once a second"));
        let mut reported = Vec::new();
        for (now_s, heard) in [(5, true), (6, false), (6, true), (7, true), (8, true)] {
            table.age(now_s, |mac, peer| {
                reported.push((now_s, mac, peer));
                heard
            });
        }
        assert_eq!(reported, [(6, mac(1), PeerId(2)), (7, mac(1), PeerId(2))], "until all have heard it");
    }

    #[test]
    fn an_address_that_moves_to_and_fro_is_in_dispute_for_a_while() {
        let mut table = ForwardingTable::new(4, 300, 4).damping();
        table.learn(mac(1), PeerId(0), 16);
        for n in 0..STATION_MOVES_MAX {
            let peer = if n % 2 == 0 { HERE } else { PeerId(0) };
            assert_eq!(table.learn(mac(1), peer, 16), Learned::Moved);
        }
        for peer in [PeerId(0), PeerId(1), HERE] {
            assert_eq!(table.learn(mac(1), peer, 23), Learned::Disputed, "whoever says it");
        }
        assert_eq!(table.route(mac(1), 23), Route::Peer(PeerId(0)), "it stays where it was");
        assert_ne!(table.learn(mac(1), PeerId(0), 24), Learned::Disputed, "until the stretch ends");
        assert_ne!(table.learn(mac(1), PeerId(0), 16 + 256), Learned::Disputed, "and it is forgotten");
        assert_eq!(table.learn(mac(1), PeerId(3), 16 + 256), Learned::Moved, "one move is a move");
        let mut plain = ForwardingTable::new(4, 300, 4);
        assert!((0..100).all(|n| plain.learn(mac(1), PeerId(n % 2), 16) != Learned::Disputed), "only a hub damps");
    }

    #[test]
    fn stations_of_this_side_have_their_share_of_the_table_too() {
        let mut table = ForwardingTable::new(4, 300, 2).damping();
        table.share_among(2);
        assert_eq!([1, 2, 3].map(|n| table.learn(mac(n), HERE, 0)), [Learned::New, Learned::New, Learned::Full]);
        assert_eq!(table.route(mac(1), 0), Route::Peer(HERE));
        assert_eq!(table.learn(mac(4), PeerId(1), 0), Learned::New);
        assert_eq!(table.learn(mac(1), PeerId(0), 0), Learned::Moved);
        assert_eq!(table.learn(mac(5), HERE, 0), Learned::New, "what moved away makes room");
    }

    #[test]
    fn a_pinned_address_neither_moves_nor_ages_and_a_full_table_stays() {
        let mut table = ForwardingTable::new(2, 300, 4);
        table.pin(mac(1), PeerId(1)).unwrap();
        assert_eq!(table.learn(mac(1), PeerId(2), 0), Learned::Elsewhere);
        assert_eq!(table.learn(mac(1), PeerId(1), 0), Learned::Known);
        assert_eq!(table.learn(mac(2), PeerId(2), 0), Learned::New);
        assert_eq!(table.learn(mac(3), PeerId(2), 0), Learned::Full);
        assert_eq!(table.pin(mac(3), PeerId(2)), Err(Refusal::FdbFull));
        table.age(10_000, |_, _| true);
        assert_eq!(table.route(mac(1), 10_000), Route::Peer(PeerId(1)));
        table.unpin(mac(1));
        assert!(table.is_empty());
    }

    #[test]
    fn one_peer_fills_half_the_table_and_moves_count_for_the_new_one() {
        let mut table = ForwardingTable::new(8, 300, 4);
        table.share_among(2);
        let learned = |table: &mut ForwardingTable, range: std::ops::Range<u8>, peer: u16| {
            range.filter(|&n| table.learn(mac(n), PeerId(peer), 0) == Learned::New).count()
        };
        assert_eq!(learned(&mut table, 0..8, 1), 4);
        assert_eq!(learned(&mut table, 10..18, 2), 4);
        assert_eq!(table.learn(mac(0), PeerId(2), 0), Learned::Moved, "an address that is known moves in any case");
        assert_eq!(table.learn(mac(20), PeerId(1), 0), Learned::Full, "the table itself");
        table.forget_peer(PeerId(2));
        assert_eq!((table.len(), learned(&mut table, 20..28, 1)), (3, 1));
        table.share_among(1);
        assert_eq!(learned(&mut table, 30..40, 1), 4, "a peer without others may have all of it");
        table.pin(mac(1), PeerId(1)).unwrap();
        table.share_among(2);
        table.unpin(mac(2));
        assert_eq!((table.len(), table.learned_from(PeerId(1))), (7, 6), "what is pinned is not learned");
    }

    #[test]
    fn a_table_that_is_full_finds_all_it_took_and_ages_in_bounded_steps() {
        let mut table = ForwardingTable::new(20_000, 300, 2);
        let mac = |n: u32| [2, 0, 0, (n >> 16) as u8, (n >> 8) as u8, n as u8];
        let learned: Vec<u32> = (0..20_000).filter(|&n| table.learn(mac(n), PeerId(1), 0) == Learned::New).collect();
        assert!(learned.len() > 19_900, "{} of 20000 found a place near enough", learned.len());
        assert!(learned.iter().all(|&n| table.route(mac(n), 1) == Route::Peer(PeerId(1))));
        let steps: Vec<usize> = std::iter::from_fn(|| Some(table.age(300, |_, _| true)).filter(|_| !table.is_empty())).collect();
        assert!(steps.iter().all(|&aged| aged <= AGED_PER_TURN) && steps.len() > 20, "{steps:?}");
        assert_eq!(table.learned_from(PeerId(1)), 0);
    }

    #[test]
    fn addresses_in_a_row_spread_whatever_the_secret_is() {
        for _ in 0..300 {
            let mut table = ForwardingTable::new(4096, 300, 2);
            let learned = (0..4096u16).filter(|&n| {
                let [high, low] = n.to_be_bytes();
                table.learn([2, 0, 0, 0, high, low], PeerId(1), 0) == Learned::New
            });
            let learned = learned.count();
            assert!(learned > 4090, "{learned} of 4096 found a place near enough");
        }
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_map(steps in prop::collection::vec((0u8..40, 0u16..3, 0u8..8), 1..400)) {
            let mut table = ForwardingTable::new(64, 300, 4);
            let mut model: HashMap<Mac, PeerId> = HashMap::new();
            for (n, peer, action) in steps {
                match action {
                    0 => { table.unpin(mac(n)); model.remove(&mac(n)); }
                    1 => { table.forget_peer(PeerId(peer)); model.retain(|_, owner| *owner != PeerId(peer)); }
                    _ => { table.learn(mac(n), PeerId(peer), 0); model.insert(mac(n), PeerId(peer)); }
                }
                prop_assert_eq!(table.len(), model.len());
                for n in 0..40 {
                    let expected = model.get(&mac(n)).map_or(Route::Flood, |peer| Route::Peer(*peer));
                    prop_assert_eq!(table.route(mac(n), 0), expected);
                }
            }
        }
    }
}
