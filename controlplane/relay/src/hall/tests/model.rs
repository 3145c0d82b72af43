//! Beside a simple model: who is where. Whatever clients do, each sees exactly the peers of its rooms, nothing crosses from one
//! room into another one, and what waits is bounded.

use std::collections::{BTreeMap, BTreeSet};

use adit_proto::relay::{Kind, ToRelay};
use proptest::prelude::*;

use super::super::*;
use super::house::{House, Seen, key, train};
use crate::queue::Bounds;
use crate::quotas::Rate;

const ROOMS: [&str; 3] = ["a", "b", "c"];
const KEYS: u8 = 6;

#[derive(Clone, Debug)]
enum Step {
    /// With a set of rooms, by its bits.
    Enter(u8, u8),
    Leave(u8),
    Read(u8),
    Send(u8, u8, Kind, usize),
    Meet(u8, u8),
    Direct(u8, u8, bool),
    Describe(u8, u8),
    Garbage(u8),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = || 0..KEYS;
    let kinds = prop::sample::select(vec![Kind::Ike, Kind::Esp]);
    let lens = prop_oneof![1usize..200, Just(60_000)];
    let step = prop_oneof![
        4 => (n(), 1u8..8).prop_map(|(n, rooms)| Step::Enter(n, rooms)),
        1 => n().prop_map(Step::Leave),
        3 => n().prop_map(Step::Read),
        6 => (n(), n(), kinds, lens).prop_map(|(from, to, kind, len)| Step::Send(from, to, kind, len)),
        2 => (n(), n()).prop_map(|(from, to)| Step::Meet(from, to)),
        2 => (n(), n(), any::<bool>()).prop_map(|(from, to, on)| Step::Direct(from, to, on)),
        2 => (n(), any::<u8>()).prop_map(|(from, text)| Step::Describe(from, text)),
        1 => n().prop_map(Step::Garbage),
        2 => (0u64..3000).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..150)
}

/// Who is where, as the steps say.
#[derive(Default)]
struct Model {
    /// Of each key: its connection, and its rooms.
    inside: BTreeMap<u8, (ConnId, BTreeSet<&'static str>)>,
    /// Connections that are to be closed.
    leaving: Vec<ConnId>,
    /// What each connection believes of its peers, from what it has read.
    views: BTreeMap<ConnId, BTreeMap<(String, u8), Vec<u8>>>,
    /// What each key says of itself.
    described: BTreeMap<u8, Vec<u8>>,
}

impl Model {
    fn common(&self, one: u8, other: u8) -> bool {
        let rooms = |n: u8| self.inside.get(&n).map(|(_, rooms)| rooms);
        one != other && rooms(one).zip(rooms(other)).is_some_and(|(a, b)| !a.is_disjoint(b))
    }

    fn expected(&self, n: u8) -> BTreeMap<(String, u8), Vec<u8>> {
        let mine = &self.inside[&n].1;
        let others = self.inside.iter().filter(|(other, _)| **other != n);
        let pairs = others.flat_map(|(other, (_, rooms))| rooms.intersection(mine).map(move |room| (*room, *other)));
        pairs.map(|(room, other)| ((room.to_owned(), other), self.described[&other].clone())).collect()
    }

    fn drop_key(&mut self, n: u8) {
        if let Some((conn, _)) = self.inside.remove(&n) {
            self.leaving.push(conn);
        }
    }

    fn key_of(&self, conn: ConnId) -> Option<u8> {
        self.inside.iter().find(|(_, (known, _))| *known == conn).map(|(n, _)| *n)
    }
}

struct Run {
    house: House,
    model: Model,
    /// Makes trains different.
    next: u8,
    /// The introductions that were read, by their number: by whom, and whom to.
    introduced: BTreeMap<u64, Vec<(u8, u8)>>,
}

impl Run {
    fn new(settings: Settings) -> Run {
        Run { house: House::new(settings), model: Model::default(), next: 0, introduced: BTreeMap::new() }
    }

    fn conn(&self, n: u8) -> Option<ConnId> {
        self.model.inside.get(&n).map(|(conn, _)| *conn)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Enter(n, bits) => self.enter(*n, *bits),
            Step::Leave(n) => {
                if let Some(conn) = self.conn(*n) {
                    self.house.leave(conn);
                    self.model.inside.remove(n);
                }
            }
            Step::Read(n) => self.read(*n),
            Step::Send(from, to, kind, len) => {
                // Who sent it and to whom, and then a number.
                let payload = [&[*from, *to, self.next][..], &vec![0; *len]].concat();
                self.next = self.next.wrapping_add(1);
                self.say(*from, ToRelay::Send { to: key(*to), train: train(*kind, &payload) });
            }
            Step::Meet(from, peer) => self.say(*from, ToRelay::Meet { peer: key(*peer) }),
            Step::Direct(from, peer, on) => self.say(*from, ToRelay::Direct { peer: key(*peer), on: *on }),
            Step::Describe(from, text) => {
                let refused = self.house.hall.counters().refused_descriptions;
                self.say(*from, ToRelay::Describe { metadata: &[*text; 40] });
                let is_taken = self.house.hall.counters().refused_descriptions == refused;
                if is_taken && self.conn(*from).is_some() {
                    self.model.described.insert(*from, vec![*text; 40]);
                }
            }
            Step::Garbage(from) => {
                if let Some(conn) = self.conn(*from) {
                    let House { hall, now, dice } = &mut self.house;
                    hall.handle_message(*now, conn, &[1, 2, 3], dice);
                    self.model.drop_key(*from);
                }
            }
            Step::Pass(ms) => self.house.pass(Duration::from_millis(*ms)),
        }
        self.settle();
    }

    /// Whom the hall has given up is not there any more; nobody else is closed.
    fn settle(&mut self) {
        for event in self.house.events() {
            if let Event::Abort(conn) = event
                && let Some(n) = self.model.key_of(conn)
            {
                self.model.drop_key(n);
            }
        }
        for conn in std::mem::take(&mut self.model.leaving) {
            self.house.leave(conn);
            self.model.views.remove(&conn);
        }
        self.house.check();
    }

    fn say(&mut self, from: u8, record: ToRelay) {
        if let Some(conn) = self.conn(from) {
            self.house.send(conn, record);
        }
    }

    fn enter(&mut self, n: u8, bits: u8) {
        let rooms: Vec<&'static str> = (0..3).filter(|bit| bits >> bit & 1 == 1).map(|bit| ROOMS[bit]).collect();
        let older = self.conn(n);
        let Ok(conn) = self.house.try_enter(n, &rooms) else { return };
        if let Some(older) = older {
            assert_eq!(self.house.read_all(older), (vec![Seen::Replaced(60)], Some(LeftReason::REPLACED)));
            self.model.drop_key(n);
        }
        self.model.inside.insert(n, (conn, rooms.into_iter().collect()));
        self.model.described.insert(n, Vec::new());
        self.model.views.insert(conn, BTreeMap::new());
    }

    /// Reads all that there is for one, and compares what it knows then with what is.
    fn read(&mut self, n: u8) {
        let Some(conn) = self.conn(n) else { return };
        let (seen, closed) = self.house.read_all(conn);
        assert_eq!(closed, None, "nobody is closed without a reason");
        let view = self.model.views.get_mut(&conn).expect("it is there");
        for record in seen {
            match record {
                Seen::Joined(room, peer, metadata) => assert_eq!(view.insert((room, peer), metadata), None),
                Seen::Left(room, peer, _) => assert!(view.remove(&(room, peer)).is_some()),
                Seen::Described(room, peer, metadata) => assert!(view.insert((room, peer), metadata).is_some()),
                Seen::Deliver(from, _, payload) => assert_eq!(payload[..2], [from, n]),
                Seen::Introduction { peer, id, .. } => self.introduced.entry(id).or_default().push((n, peer)),
                Seen::PeerDirect(peer, _) | Seen::Absent(peer, _) => assert!(peer < KEYS),
                Seen::Welcome(_) | Seen::Refused(_) => {}
                Seen::Drain(..) | Seen::Replaced(_) | Seen::Pong(_) => panic!("{record:?} was not asked for"),
            }
        }
        assert_eq!(self.model.views[&conn], self.model.expected(n));
    }
}

/// What was taken to be passed on, in trains.
fn taken(run: &Run) -> u64 {
    run.house.hall.counters().trains
}

proptest! {
    #[test]
    fn everybody_sees_the_peers_of_its_rooms_and_nobody_else(steps in steps()) {
        let much = Rate::per_second(1 << 40);
        let settings =
            Settings { ike_bytes: much, bytes: much, room_bytes: much, total_bytes: much, ..Settings::default() };
        let mut run = Run::new(settings);
        for step in &steps {
            let before = taken(&run);
            let may = match step {
                Step::Send(from, to, _, _) => run.model.common(*from, *to),
                _ => false,
            };
            run.step(step);
            // Nothing crosses: a train is taken if and only if both are in one room.
            prop_assert_eq!(taken(&run) - before, u64::from(may), "{:?}", step);
        }
        (0..KEYS).for_each(|n| run.read(n));
        for (one, other) in run.introduced.values().filter_map(|both| Some((both.first()?, both.get(1)?))) {
            prop_assert_eq!(*one, (other.1, other.0), "an introduction has two sides");
        }
        prop_assert!(run.introduced.values().all(|both| both.len() <= 2));
    }

    #[test]
    fn who_does_not_read_costs_bounded_memory_and_only_itself(steps in steps()) {
        let queue = Bounds { control_bytes: 3000, ..Bounds::default() };
        let idle = Duration::from_secs(3600);
        let settings =
            Settings { queue, idle, control_bytes_of_all: 9000, train_bytes_of_all: 300_000, ..Settings::default() };
        let mut run = Run::new(settings);
        run.step(&Step::Enter(0, 7));
        for step in &steps {
            // The first one stays, and reads at once.
            if matches!(step, Step::Enter(0, _) | Step::Leave(0) | Step::Garbage(0)) {
                continue;
            }
            run.step(step);
            prop_assert!(run.conn(0).is_some(), "{:?}", step);
            run.read(0);
        }
    }
}
