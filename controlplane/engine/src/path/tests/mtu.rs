//! How much a path carries: told, looked for, and kept.

use super::*;

#[test]
fn the_mtu_of_the_path_in_use_is_told_to_the_data_plane() {
    let mut world = World::new(terms(true, true, Follow::Both));
    let mut reported = Vec::new();
    let mut echoes = Vec::new();
    for _ in 0..100 {
        for event in world.run(Duration::from_millis(10)) {
            match event {
                PathEvent::Set { mtu, .. } => reported.push(mtu),
                PathEvent::Echo { id, size, .. } if size <= 1400 => echoes.push(id),
                _ => {}
            }
        }
        for id in echoes.drain(..) {
            world.paths.handle_echo_reply(world.now, PEER, id, came(A), Duration::from_millis(10));
        }
    }
    assert_eq!(reported.first(), Some(&1100));
    world.run(Duration::from_secs(5));
    let mtu = world.paths.status(PEER)[0].mtu;
    assert!((1280..=1400).contains(&mtu), "{mtu}: {reported:?}");
}

impl World {
    /// Answers every echo that fits the way on which it goes, after ten milliseconds; gives all that the data plane is told.
    fn answering_on(&mut self, time: Duration, carries: impl Fn(Hop) -> u16, busy: bool) -> Vec<PathEvent> {
        let (end, mut events) = (self.now + time, Vec::new());
        while self.now < end {
            for event in self.run(Duration::from_millis(10)) {
                events.push(event);
                let PathEvent::Echo { path, id, size, .. } = event else { continue };
                let there = self.paths.status(PEER).into_iter().find(|one| one.path == path).map(|one| one.hop);
                if let Some(there) = there.filter(|there| size <= carries(*there)) {
                    self.paths.handle_echo_reply(self.now, PEER, id, there, Duration::from_millis(10));
                }
            }
            if busy {
                self.paths.handle_traffic(self.now, PEER);
            }
        }
        events
    }

    /// The same where all ways carry as much; gives how many echoes there were.
    pub(super) fn answering(&mut self, time: Duration, carries: u16, busy: bool) -> usize {
        let events = self.answering_on(time, |_| carries, busy);
        events.iter().filter(|event| matches!(event, PathEvent::Echo { .. })).count()
    }

    fn size_of(&self, path: PathId) -> Option<u16> {
        self.paths.status(PEER).into_iter().find(|one| one.path == path).map(|one| one.mtu)
    }
}

/// How much each path carries, as the data plane was told last.
fn told(events: &[PathEvent]) -> BTreeMap<PathId, u16> {
    let sizes = events.iter().filter_map(|event| match event {
        PathEvent::Set { path, mtu, .. } => Some((*path, *mtu)),
        _ => None,
    });
    sizes.collect()
}

#[test]
fn each_path_has_a_size_of_its_own_and_keeps_it() {
    let mut world = World::new(terms(true, true, Follow::Both));
    let carries = |there: Hop| if there == hop(B) { 1300 } else { 1500 };
    let mut events = world.answering_on(Duration::from_secs(5), carries, true);
    let first = world.paths.find(PEER, hop(A)).unwrap();
    assert_eq!(told(&events), BTreeMap::from([(first, 1500)]));
    // Nothing is known of the other address: what was found of the first one says nothing about it.
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    events.extend(world.answering_on(Duration::from_secs(10), carries, true));
    assert_eq!(world.used(), both(B));
    let second = world.paths.find(PEER, hop(B)).unwrap();
    let size = world.size_of(second).unwrap();
    assert!((1292..=1300).contains(&size), "{size}");
    assert_eq!(world.size_of(first), Some(1500));
    assert_eq!(told(&events), BTreeMap::from([(first, 1500), (second, size)]));
    // Back on the first one all goes at once that went there before.
    world.paths.handle_path_seen(world.now, PEER, came(A), 100);
    assert_eq!((world.used(), world.size_of(first)), (both(A), Some(1500)));
    let events = world.run(Duration::ZERO);
    assert!(events.contains(&PathEvent::Use { peer: PEER, path: first }), "{events:?}");
    assert!(told(&events).get(&first).is_none_or(|size| *size == 1500), "{events:?}");
}

#[test]
fn the_first_echoes_begin_at_what_the_kernel_knows_of_the_route() {
    // What routers have said is where it begins, what the link takes is not.
    let source = Some([192, 0, 2, 1].into());
    let route = Route { reachable: true, source, mtu: Some(1340), link_mtu: Some(1500), ..Route::default() };
    let mut paths = Paths::new(Box::new(Routes([("198.51.100.1".parse().unwrap(), route)].into())));
    paths.set_terms(PEER, terms(true, true, Follow::Both));
    paths.establish(instant(), PEER, hop(A), true).unwrap();
    let mut world = World { paths, now: instant(), next: 1 };
    let sizes = world.run(Duration::ZERO).into_iter().filter_map(|event| match event {
        PathEvent::Echo { size, .. } => Some(size),
        _ => None,
    });
    assert_eq!(sizes.collect::<Vec<u16>>(), [1340, 1280, 1100]);
}

#[test]
fn where_there_is_traffic_the_path_is_looked_at_more_often() {
    let mut world = World::new(terms(true, true, Follow::Both));
    world.answering(Duration::from_secs(2), 1500, false);
    let [idle, busy] = [false, true].map(|busy| world.answering(Duration::from_secs(60), 1500, busy));
    assert!(idle <= 3 && busy >= 90, "{idle} and {busy}");
}

#[test]
fn a_router_is_heard_on_the_way_that_it_names_alone() {
    let mut world = World::new(terms(false, true, Follow::Both));
    let too_big = |world: &mut World, id, remote: &str| world.paths.handle_too_big(world.now, id, remote.parse().unwrap(), 1300);
    assert!(!too_big(&mut world, PEER, B) && !too_big(&mut world, PeerId(9), A));
    assert_eq!(world.paths.status(PEER)[0].mtu, 1500);
    world.run(Duration::ZERO);
    assert!(too_big(&mut world, PEER, A));
    assert_eq!(world.paths.status(PEER)[0].mtu, 1300);
    let reported = world.run(Duration::ZERO);
    assert!(matches!(reported[..], [PathEvent::Set { mtu: 1300, .. }]), "{reported:?}");
}

#[test]
fn a_size_that_was_proven_is_kept_and_tried_first_next_time() {
    let address: IpAddr = "198.51.100.1".parse().unwrap();
    let mut world = World::new(terms(true, false, Follow::Nothing));
    assert_eq!((world.paths.static_size(PEER), world.paths.kept(PEER)), (None, Some((hop(A), hop(A), 0))));
    assert_eq!(world.paths.sure_size(Some(PEER), hop(A), 0), 1100);
    world.paths.take_sized();
    world.answering(Duration::from_secs(5), 1337, true);
    let size = world.paths.status(PEER)[0].mtu;
    assert!((1330..=1337).contains(&size), "{size}");
    assert_eq!((world.paths.static_size(PEER), world.paths.kept(PEER)), (Some((address, size)), Some((hop(A), hop(A), size))));
    assert_eq!((world.paths.sure_size(Some(PEER), hop(A), 0), world.paths.sure_size(None, hop(B), 1280)), (size, 1280));
    assert!(world.paths.take_sized().contains(&PEER) && world.paths.take_sized().is_empty());
    // The process after this one.
    let mut world = World::new(terms(true, false, Follow::Nothing));
    world.paths.remember_size(PEER, address.into(), size);
    world.answering(Duration::from_millis(40), 1337, false);
    assert_eq!(world.paths.status(PEER)[0].mtu, size);
    // With IKE that is kept with its IKE SAs.
    let mut world = World::new(terms(true, true, Follow::Nothing));
    world.answering(Duration::from_secs(5), 1337, true);
    assert_eq!((world.paths.static_size(PEER), world.paths.kept(PEER).map(|kept| kept.2 > 1300)), (None, Some(true)));
}
