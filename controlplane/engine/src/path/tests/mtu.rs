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
    /// Answers every echo that fits, after ten milliseconds; gives how many there were.
    pub(super) fn answering(&mut self, time: Duration, carries: u16, busy: bool) -> usize {
        let (end, mut echoes) = (self.now + time, 0);
        while self.now < end {
            for event in self.run(Duration::from_millis(10)) {
                let PathEvent::Echo { path, id, size, .. } = event else { continue };
                echoes += 1;
                let there = self.paths.status(PEER).into_iter().find(|one| one.path == path).map(|one| one.hop);
                if let Some(there) = there.filter(|_| size <= carries) {
                    let came = there;
                    self.paths.handle_echo_reply(self.now, PEER, id, came, Duration::from_millis(10));
                }
            }
            if busy {
                self.paths.handle_traffic(self.now, PEER);
            }
        }
        echoes
    }
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
