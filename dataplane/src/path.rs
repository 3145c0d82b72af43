//! The paths of a peer, as one worker knows them: the way that datagrams take, and how long they may be. The control plane sets
//! them and says which is in use; where packets come from is noted here and told, and moves nothing.

use adit_proto::control::{LocalEnd, PATHS_MAX, PathId, Refusal};

use crate::udp::{Endpoint, Hop, Source};

/// Paths that lie in the table of peers itself: few peers have more.
const INLINE: usize = 4;

/// The slot of a path that is not counted.
pub const NO_SLOT: u16 = u16::MAX;

/// One path of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    pub hop: Hop,
    /// Longest Ethernet frame or IP packet that fits, in bytes: what is longer is cut, or fragmented inside.
    pub frame_max: u16,
    /// The same for what can neither be cut nor fragmented, and what its senders are told.
    pub frame_reported: u16,
    /// Where it is counted; [`NO_SLOT`] when there was no room.
    pub slot: u16,
    /// `UDP_SEGMENT` does not work on it: packets go one by one until this is looked into again.
    pub gso_disabled: bool,
}

const _: () = assert!(size_of::<Option<Path>>() <= 64, "a cache line");
// A hop over TURN will have the number of a channel, too, which is two bytes (RFC 8656 §12). Eight more would not fit: 57 are taken.
const _: () = assert!(size_of::<(Endpoint, Source, u16)>() <= size_of::<Hop>(), "a channel fits");

/// All paths of a peer.
#[derive(Debug)]
pub struct Paths {
    first: [Option<Path>; INLINE],
    more: Option<Box<[Option<Path>; PATHS_MAX - INLINE]>>,
    in_use: Option<PathId>,
    seen: Seen,
}

/// What the control plane was told of where packets come from.
#[derive(Debug)]
struct Seen {
    /// The way of the packets, as it was told last.
    last: Option<(Endpoint, LocalEnd)>,
    /// That is the path in use: there is nothing to say as long as it stays so. Any other way is told again every second, for what
    /// came of it may have been forgotten.
    is_used: bool,
    /// The second in which it was last told of each path, and of ways that are none.
    reported_s: [u32; PATHS_MAX + 1],
}

/// No second yet.
const NEVER: u32 = u32::MAX;

/// A way of arrival that is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The path that it belongs to.
    pub path: Option<PathId>,
    /// Packets came another way before.
    pub is_change: bool,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            first: [None; INLINE],
            more: None,
            in_use: None,
            seen: Seen { last: None, is_used: false, reported_s: [NEVER; PATHS_MAX + 1] },
        }
    }
}

impl Paths {
    /// The path on which the peer is sent to.
    #[inline]
    pub fn used(&self) -> Option<(PathId, &Path)> {
        let id = self.in_use?;
        self.get(id).map(|path| (id, path))
    }

    #[inline]
    pub fn get(&self, id: PathId) -> Option<&Path> {
        match self.first.get(id.index()) {
            Some(path) => path.as_ref(),
            None => self.more.as_ref()?[id.index() - INLINE].as_ref(),
        }
    }

    pub fn get_mut(&mut self, id: PathId) -> Option<&mut Path> {
        match self.first.get_mut(id.index()) {
            Some(path) => path.as_mut(),
            None => self.more.as_mut()?[id.index() - INLINE].as_mut(),
        }
    }

    /// Adds a path, or changes it.
    pub fn set(&mut self, id: PathId, path: Path) {
        match self.first.get_mut(id.index()) {
            Some(place) => *place = Some(path),
            None => self.more.get_or_insert_default()[id.index() - INLINE] = Some(path),
        }
    }

    /// Sends by this path from here on.
    pub fn put_to_use(&mut self, id: PathId) -> Result<(), Refusal> {
        self.get(id).ok_or(Refusal::NoSuchPath)?;
        self.in_use = Some(id);
        self.seen.is_used = false;
        Ok(())
    }

    /// Removes a path and says what it was.
    pub fn remove(&mut self, id: PathId) -> Result<Path, Refusal> {
        let place = match self.first.get_mut(id.index()) {
            Some(place) => Some(place),
            None => self.more.as_mut().map(|more| &mut more[id.index() - INLINE]),
        };
        let path = place.and_then(Option::take).ok_or(Refusal::NoSuchPath)?;
        self.in_use = self.in_use.filter(|used| *used != id);
        Ok(path)
    }

    /// The path on which something came from `from` to `to`; of several, the one in use.
    pub fn of(&self, from: &Endpoint, to: &LocalEnd) -> Option<PathId> {
        let is_it = |id: &PathId| self.get(*id).is_some_and(|path| path.hop.to == *from && path.hop.source.is_at(to));
        self.in_use.filter(is_it).or_else(|| PathId::all().find(is_it))
    }

    /// An authentic packet, newer than all before, came this way: whether the control plane is to be told.
    #[inline]
    pub fn sighting(&mut self, from: &Endpoint, to: &LocalEnd, now_s: u32) -> Option<Sighting> {
        let is_same = self.seen.last == Some((*from, *to));
        if is_same && self.seen.is_used {
            return None;
        }
        let path = self.of(from, to);
        self.seen.is_used = path.is_some() && path == self.in_use;
        if is_same && self.seen.is_used {
            return None;
        }
        let due = self.seen.reported_s[seen_at(path)] != now_s;
        due.then_some(Sighting { path, is_change: self.seen.last.is_some() && !is_same })
    }

    /// The control plane has been told.
    pub fn reported(&mut self, from: &Endpoint, to: &LocalEnd, now_s: u32, sighting: Sighting) {
        self.seen.last = Some((*from, *to));
        self.seen.reported_s[seen_at(sighting.path)] = now_s;
    }

    /// What comes next is news, whatever was told before: to a control plane that may not have heard it.
    pub fn tell_anew(&mut self) {
        self.seen.last = None;
    }

    /// Tries trains on every path again: routes and devices change.
    pub fn retry_gso(&mut self) {
        let more = self.more.iter_mut().flat_map(|more| more.iter_mut());
        self.first.iter_mut().chain(more).flatten().for_each(|path| path.gso_disabled = false);
    }
}

/// Where the second stands in which was last told of a path.
fn seen_at(path: Option<PathId>) -> usize {
    path.map_or(PATHS_MAX, PathId::index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(port: u16) -> Hop {
        Hop::to(Endpoint::new(([192, 0, 2, 9], port).into(), false))
    }

    fn path(port: u16) -> Path {
        Path { hop: hop(port), frame_max: 1400, frame_reported: 1400, slot: NO_SLOT, gso_disabled: false }
    }

    fn id(number: u8) -> PathId {
        PathId::new(number).unwrap()
    }

    fn end(host: u8) -> LocalEnd {
        LocalEnd { address: [198, 51, 100, host].into(), interface: 2 }
    }

    #[test]
    fn all_eight_paths_can_be_set_used_and_removed() {
        let mut paths = Paths::default();
        assert_eq!(paths.used(), None);
        assert_eq!(paths.put_to_use(id(7)), Err(Refusal::NoSuchPath));
        assert_eq!(paths.remove(id(7)), Err(Refusal::NoSuchPath));
        PathId::all().for_each(|id| paths.set(id, path(1000 + id.index() as u16)));
        for id in PathId::all() {
            let expected = path(1000 + id.index() as u16);
            paths.put_to_use(id).unwrap();
            assert_eq!(paths.used(), Some((id, &expected)));
            assert_eq!(paths.of(&expected.hop.to, &end(1)), Some(id));
            paths.get_mut(id).unwrap().gso_disabled = true;
        }
        paths.retry_gso();
        assert!(PathId::all().all(|id| paths.get(id).is_some_and(|path| !path.gso_disabled)));
        for id in PathId::all() {
            assert_eq!(paths.remove(id).map(|path| path.hop), Ok(hop(1000 + id.index() as u16)));
            assert_eq!(paths.get(id), None);
            assert_eq!(paths.remove(id), Err(Refusal::NoSuchPath));
        }
        assert_eq!(paths.used(), None, "the one in use went too");
    }

    #[test]
    fn of_two_paths_to_one_end_the_one_in_use_is_meant() {
        let mut paths = Paths::default();
        let source = |host: u8| Hop::new("192.0.2.9:7".parse().unwrap(), Some([198, 51, 100, host].into()), 0, false).unwrap();
        for (number, hop) in [(0, hop(7)), (1, source(1)), (2, source(2))] {
            paths.set(id(number), Path { hop, ..path(7) });
        }
        let from = hop(7).to;
        assert_eq!(paths.of(&from, &end(2)), Some(id(0)), "the first that takes any source");
        paths.put_to_use(id(2)).unwrap();
        assert_eq!((paths.of(&from, &end(2)), paths.of(&from, &end(1))), (Some(id(2)), Some(id(0))));
        paths.remove(id(0)).unwrap();
        assert_eq!((paths.of(&from, &end(1)), paths.of(&from, &end(3))), (Some(id(1)), None));
    }

    /// Sees a packet; says whether and of which path that was told.
    fn see(paths: &mut Paths, port: u16, host: u8, now_s: u32) -> Option<Option<PathId>> {
        let sighting = paths.sighting(&hop(port).to, &end(host), now_s)?;
        paths.reported(&hop(port).to, &end(host), now_s, sighting);
        Some(sighting.path)
    }

    #[test]
    fn a_new_way_is_told_at_once_and_ways_that_alternate_once_a_second() {
        let mut paths = Paths::default();
        paths.set(id(0), path(1));
        paths.set(id(1), path(2));
        assert_eq!(see(&mut paths, 1, 1, 5), Some(Some(id(0))));
        assert_eq!(see(&mut paths, 1, 1, 5), None);
        assert_eq!(see(&mut paths, 2, 1, 5), Some(Some(id(1))), "of another path");
        assert_eq!(see(&mut paths, 1, 1, 5), None, "that was told in this second");
        assert_eq!(see(&mut paths, 1, 1, 6), Some(Some(id(0))));
        assert_eq!(see(&mut paths, 9, 1, 6), Some(None), "of no path");
        assert_eq!(see(&mut paths, 8, 1, 6), None, "all of those together");
        assert_eq!(see(&mut paths, 8, 1, 7), Some(None));
        assert_eq!(see(&mut paths, 8, 2, 8), Some(None), "it came to another address");
        paths.tell_anew();
        assert_eq!(see(&mut paths, 8, 2, 9), Some(None));
    }

    #[test]
    fn what_could_not_be_told_stays_news() {
        let mut paths = Paths::default();
        let sighting = Some(Sighting { path: None, is_change: false });
        assert_eq!(paths.sighting(&hop(9).to, &end(1), 5), sighting);
        assert_eq!(paths.sighting(&hop(9).to, &end(1), 5), sighting);
    }
}
