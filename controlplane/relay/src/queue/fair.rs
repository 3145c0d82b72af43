//! Trains of many senders for one client: a line for each sender, and whose turn it is.
//!
//! Networks take turns by bytes, and so do the senders of one network among each other (start-time fair queueing; Goyal, Vin and
//! Cheng, 1996): whoever makes many keys has no more of the client's line than one. Where there is no room, who has most of it
//! loses his oldest train.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::quotas::Network;

use super::cost;

/// Who has sent something: from which network, and on which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    pub network: Network,
    pub conn: u64,
}

/// What waits of one sender.
#[derive(Debug)]
struct Flow {
    /// Since when it waits, its number among all that came, and the train.
    records: VecDeque<(Instant, u64, Vec<u8>)>,
    bytes: usize,
    /// When its turn comes, in bytes.
    turn: u64,
}

/// What the senders of one network have together.
#[derive(Clone, Copy, Debug, Default)]
struct Together {
    senders: u64,
    bytes: usize,
}

/// The lines of all senders.
#[derive(Debug, Default)]
pub(super) struct Fair {
    flows: BTreeMap<Source, Flow>,
    turns: BTreeSet<(u64, Source)>,
    /// Of whom nothing waits, but who has had more than his turn.
    spent: BTreeSet<(u64, Source)>,
    networks: BTreeMap<Network, Together>,
    /// By what they have here, in bytes: networks, and senders in each of them.
    largest_networks: BTreeSet<(usize, Network)>,
    largest: BTreeSet<(Network, usize, u64)>,
    /// The oldest first.
    ages: BTreeSet<(Instant, u64, Source)>,
    /// The turn of what went last.
    clock: u64,
    next: u64,
    bytes: usize,
}

impl Fair {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.ages.len()
    }

    pub fn push(&mut self, now: Instant, source: Source, record: Vec<u8>) {
        let (number, bytes, clock) = (self.next, cost(&record), self.clock);
        self.next += 1;
        let new = || Flow { records: VecDeque::new(), bytes: 0, turn: clock };
        let flow = self.flows.entry(source).or_insert_with(new);
        if flow.records.is_empty() {
            self.spent.remove(&(flow.turn, source));
            flow.turn = flow.turn.max(clock);
            self.turns.insert((flow.turn, source));
        }
        flow.records.push_back((now, number, record));
        self.ages.insert((now, number, source));
        self.count(source, bytes, 0);
    }

    /// The train whose turn it is.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        let (turn, source) = *self.turns.first()?;
        self.clock = turn;
        let senders = self.networks.get(&source.network).map_or(1, |together| together.senders.max(1));
        let flow = self.flows.get_mut(&source)?;
        let (_, _, record) = flow.records.front()?;
        self.turns.remove(&(turn, source));
        flow.turn = turn + record.len() as u64 * senders;
        self.turns.insert((flow.turn, source));
        let record = self.take_first(source);
        while let Some((turn, source)) = self.spent.first().copied().filter(|(turn, _)| *turn <= self.clock) {
            self.spent.remove(&(turn, source));
            self.flows.remove(&source);
        }
        record
    }

    /// Drops what has waited longer than it may; how many those were.
    pub fn expire(&mut self, now: Instant, sojourn: Duration) -> u64 {
        let mut dropped = 0;
        while let Some((since, _, source)) = self.ages.first().copied() {
            if now.saturating_duration_since(since) <= sojourn || self.take_first(source).is_none() {
                break;
            }
            dropped += 1;
        }
        dropped
    }

    /// Drops what is oldest of those who have most, until no more than so many bytes are left; how many those were.
    pub fn shrink(&mut self, most: usize) -> u64 {
        let mut dropped = 0;
        while self.bytes > most {
            let Some((_, network)) = self.largest_networks.last().copied() else { break };
            let of_network = (network, 0, 0)..=(network, usize::MAX, u64::MAX);
            let Some((_, _, conn)) = self.largest.range(of_network).next_back().copied() else { break };
            if self.take_first(Source { network, conn }).is_none() {
                break;
            }
            dropped += 1;
        }
        dropped
    }

    /// The first of one line, and everything that is counted of it.
    fn take_first(&mut self, source: Source) -> Option<Vec<u8>> {
        let flow = self.flows.get_mut(&source)?;
        let (since, number, record) = flow.records.pop_front()?;
        let (turn, was_last) = (flow.turn, flow.records.is_empty());
        self.ages.remove(&(since, number, source));
        self.count(source, 0, cost(&record));
        if was_last {
            self.turns.remove(&(turn, source));
            // Who has had more than his turn is remembered until it is over, or he would begin anew with each train.
            if let Some(flow) = self.flows.get_mut(&source).filter(|_| turn > self.clock) {
                flow.records = VecDeque::new();
                self.spent.insert((turn, source));
            } else {
                self.flows.remove(&source);
            }
        }
        if self.ages.is_empty() {
            self.flows.clear();
            self.spent.clear();
            self.clock = 0;
        }
        Some(record)
    }

    /// So many bytes of a sender have come, and so many gone.
    fn count(&mut self, source: Source, come: usize, gone: usize) {
        let Some(flow) = self.flows.get_mut(&source) else { return };
        let together = self.networks.entry(source.network).or_default();
        self.largest.remove(&(source.network, flow.bytes, source.conn));
        self.largest_networks.remove(&(together.bytes, source.network));
        together.senders += u64::from(flow.bytes == 0);
        flow.bytes = flow.bytes + come - gone;
        together.bytes = together.bytes + come - gone;
        self.bytes = self.bytes + come - gone;
        if flow.bytes == 0 {
            together.senders -= 1;
        } else {
            self.largest.insert((source.network, flow.bytes, source.conn));
        }
        if together.bytes == 0 {
            self.networks.remove(&source.network);
        } else {
            self.largest_networks.insert((together.bytes, source.network));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::start;

    fn source(network: u8, conn: u64) -> Source {
        Source { network: Network::of(Ipv4Addr::new(192, 0, network, 1).into()), conn }
    }

    fn push(fair: &mut Fair, from: Source, len: usize) {
        fair.push(start(), from, vec![from.conn as u8; len]);
    }

    /// How many bytes of each sender come out among the first ones.
    fn served(fair: &mut Fair, bytes: usize) -> BTreeMap<u8, usize> {
        let (mut all, mut of) = (0, BTreeMap::new());
        while all < bytes {
            let record = fair.pop().expect("enough");
            all += record.len();
            *of.entry(record[0]).or_default() += record.len();
        }
        of
    }

    #[test]
    fn many_small_trains_and_few_long_ones_have_the_same_part() {
        let mut fair = Fair::default();
        (0..3000).for_each(|_| push(&mut fair, source(1, 1), 100));
        (0..30).for_each(|_| push(&mut fair, source(2, 2), 10_000));
        let of = served(&mut fair, 200_000);
        assert!(of[&1].abs_diff(of[&2]) <= 20_000, "{of:?}");
    }

    #[test]
    fn a_hundred_keys_of_one_network_have_the_part_of_one() {
        let mut fair = Fair::default();
        for conn in 100..200 {
            (0..20).for_each(|_| push(&mut fair, source(1, conn), 1000));
        }
        (0..200).for_each(|_| push(&mut fair, source(2, 2), 1000));
        let of = served(&mut fair, 300_000);
        assert!((100_000..=200_000).contains(&of[&2]), "{}", of[&2]);
    }

    #[test]
    fn who_sends_one_at_a_time_has_no_more_than_his_turn() {
        let mut fair = Fair::default();
        (0..100).for_each(|_| push(&mut fair, source(1, 1), 1000));
        let mut of = [0; 2];
        for _ in 0..60 {
            if fair.flows.get(&source(2, 2)).is_none_or(|flow| flow.records.is_empty()) {
                push(&mut fair, source(2, 2), 1000);
            }
            of[usize::from(fair.pop().expect("one")[0]) - 1] += 1;
        }
        assert!((29..=31).contains(&of[0]), "{of:?}");
    }

    #[test]
    fn where_there_is_no_room_who_has_most_of_it_loses() {
        let mut fair = Fair::default();
        (0..3).for_each(|_| push(&mut fair, source(1, 1), 1000));
        // More in one network, though each of them has less.
        (10..20).for_each(|conn| push(&mut fair, source(2, conn), 900));
        let most = fair.bytes() - 2000;
        assert_eq!(fair.shrink(most), 2);
        assert_eq!(fair.networks[&source(2, 0).network].senders, 8);
        assert_eq!(fair.flows[&source(1, 1)].records.len(), 3);
    }

    proptest! {
        /// Whatever comes and goes: each sender's trains in their order, and all that is counted is right.
        #[test]
        fn nothing_is_lost_or_counted_wrong(steps in prop::collection::vec((0u8..5, 0u64..8, 1usize..3000, 0u64..40), 1..300)) {
            let (mut fair, mut now, mut inside) = (Fair::default(), start(), BTreeMap::<u64, VecDeque<Vec<u8>>>::new());
            let mut number = 0u32;
            for (what, conn, len, pause) in steps {
                now += Duration::from_millis(pause);
                match what {
                    0..3 => {
                        let record = [&[conn as u8][..], &number.to_be_bytes(), &vec![0; len]].concat();
                        number += 1;
                        inside.entry(conn).or_default().push_back(record.clone());
                        fair.push(now, source((conn % 3) as u8, conn), record);
                    }
                    3 => {
                        let record = fair.pop();
                        prop_assert_eq!(record.is_none(), inside.values().all(VecDeque::is_empty));
                        if let Some(record) = record {
                            let first = inside.get_mut(&u64::from(record[0])).and_then(VecDeque::pop_front);
                            prop_assert_eq!(first, Some(record));
                        }
                    }
                    _ => {
                        let before = fair.len();
                        let dropped = fair.expire(now, Duration::from_millis(100)) + fair.shrink(8000);
                        prop_assert_eq!(before - fair.len(), dropped as usize);
                        prop_assert!(fair.bytes() <= 8000);
                        for (conn, line) in &mut inside {
                            let left = fair.flows.get(&source((conn % 3) as u8, *conn)).map_or(0, |flow| flow.records.len());
                            line.drain(..line.len() - left);
                        }
                    }
                }
                let flows = || fair.flows.values();
                prop_assert_eq!(fair.bytes, flows().map(|flow| flow.bytes).sum::<usize>());
                prop_assert_eq!(fair.bytes, fair.networks.values().map(|together| together.bytes).sum::<usize>());
                prop_assert_eq!(fair.len(), flows().map(|flow| flow.records.len()).sum::<usize>());
                let waiting = flows().filter(|flow| !flow.records.is_empty()).count();
                prop_assert_eq!((fair.turns.len(), fair.largest.len()), (waiting, waiting));
                prop_assert_eq!(fair.flows.len(), waiting + fair.spent.len());
                prop_assert_eq!(fair.largest_networks.len(), fair.networks.len());
            }
        }
    }
}
