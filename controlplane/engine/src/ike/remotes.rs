//! The places where we look for a peer: one after the other, as long as nobody answers.

use std::net::SocketAddr;

use crate::path::{Remote, StreamId};

/// Where a peer may be, and whose turn it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remotes {
    /// The addresses, and behind them the streams.
    all: Vec<Remote>,
    /// The one for the next attempt.
    turn: usize,
    /// The stream in which the peer has proven itself last: it goes before the others, whoever else says that it is the peer.
    proven: Option<StreamId>,
    /// How many were tried in vain since somebody answered, or since all of them were.
    tried: usize,
}

impl Remotes {
    pub(super) fn new(addresses: &[SocketAddr]) -> Remotes {
        Remotes { all: addresses.iter().copied().map(Remote::Udp).collect(), turn: 0, proven: None, tried: 0 }
    }

    pub(super) fn all(&self) -> &[Remote] {
        &self.all
    }

    /// All of them, the one whose turn it is first.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = Remote> {
        let (before, after) = self.all.split_at(self.turn.min(self.all.len()));
        after.iter().chain(before).copied()
    }

    /// The addresses are others now; see [`Remotes::change`].
    pub(super) fn replace(&mut self, addresses: &[SocketAddr]) -> bool {
        let streams = self.all.iter().copied().filter(|remote| remote.address().is_none());
        self.change(addresses.iter().copied().map(Remote::Udp).chain(streams).collect())
    }

    /// The streams are others now; see [`Remotes::change`].
    pub(super) fn replace_streams(&mut self, streams: &[StreamId]) -> bool {
        let addresses = self.all.iter().copied().filter(|remote| remote.address().is_some());
        let (first, others): (Vec<_>, Vec<_>) = streams.iter().copied().partition(|stream| self.proven == Some(*stream));
        self.change(addresses.chain(first.into_iter().chain(others).map(Remote::Stream)).collect())
    }

    /// The peer has proven itself in this stream.
    pub(super) fn prefer(&mut self, stream: StreamId) {
        if self.proven.replace(stream) != Some(stream) {
            let streams: Vec<StreamId> = self.streams().collect();
            self.replace_streams(&streams);
        }
    }

    /// Only the streams.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.all.iter().filter_map(|remote| match remote {
            Remote::Stream(stream) => Some(*stream),
            Remote::Udp(_) => None,
        })
    }

    /// Only the addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.all.iter().filter_map(Remote::address)
    }

    /// They are others now: the one whose turn it is keeps it, if it is still among them. Says whether that changes anything.
    fn change(&mut self, all: Vec<Remote>) -> bool {
        let changed = self.all != all;
        if changed {
            // One in whose turn nobody is being looked for is the first of all again, if it is a stream.
            let keeps = |now: &&Remote| self.tried > 0 || now.address().is_some();
            let turn = self.all.get(self.turn).filter(keeps).and_then(|now| all.iter().position(|one| one == now));
            (self.all, self.turn, self.tried) = (all, turn.unwrap_or(0), 0);
        }
        changed
    }

    /// This one is tried now.
    pub(super) fn began_at(&mut self, remote: Remote) {
        self.turn = self.all.iter().position(|one| *one == remote).unwrap_or(self.turn);
    }

    /// Nobody let us in there: it is another one's turn. Says whether there is one that was not tried yet.
    pub(super) fn failed(&mut self) -> bool {
        self.turn = (self.turn + 1) % self.all.len().max(1);
        self.tried += 1;
        let left = self.tried < self.all.len();
        if !left {
            self.tried = 0;
        }
        left
    }

    /// Somebody let us in. The next time the addresses go first again: a stream is what there is without them.
    pub(super) fn succeeded(&mut self) {
        self.tried = 0;
        if self.all.get(self.turn).is_some_and(|remote| remote.address().is_none()) {
            self.turn = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 4500).into()
    }

    fn in_turn(remotes: &Remotes) -> Vec<String> {
        remotes.in_turn().map(|remote| remote.to_string().replace("192.0.2.", "").replace(":4500", "")).collect()
    }

    #[test]
    fn each_has_its_turn_and_a_change_leaves_the_turn_where_it_was() {
        let mut remotes = Remotes::new(&[at(1), at(2), at(3)]);
        assert_eq!((remotes.failed(), remotes.failed()), (true, true));
        assert_eq!(in_turn(&remotes), ["3", "1", "2"]);
        assert!(!remotes.failed() && remotes.failed(), "all were tried, and it begins anew");
        assert!(!remotes.replace(&[at(1), at(2), at(3)]) && remotes.replace(&[at(2), at(4)]));
        assert_eq!(in_turn(&remotes), ["2", "4"]);
        remotes.began_at(Remote::Udp(at(4)));
        assert!(remotes.replace(&[at(5)]));
        assert_eq!(in_turn(&remotes), ["5"]);
        let mut none = Remotes::default();
        assert!(!none.failed() && none.in_turn().next().is_none());
    }

    #[test]
    fn streams_come_behind_the_addresses_and_stay_when_these_change() {
        let mut remotes = Remotes::new(&[at(1)]);
        assert!(remotes.replace_streams(&[StreamId(7)]) && !remotes.replace_streams(&[StreamId(7)]));
        assert_eq!(in_turn(&remotes), ["1", "stream 0000000000000007"]);
        assert!(remotes.failed() && remotes.replace(&[at(2)]));
        assert_eq!(in_turn(&remotes), ["stream 0000000000000007", "2"], "it is its turn");
        remotes.succeeded();
        assert_eq!(in_turn(&remotes), ["2", "stream 0000000000000007"], "the address goes first again");
        remotes.prefer(StreamId(9));
        assert!(remotes.replace_streams(&[8, 9, 7].map(StreamId)));
        assert_eq!(remotes.streams().collect::<Vec<_>>(), [9, 8, 7].map(StreamId), "where it was before");
        assert!(remotes.replace_streams(&[]));
        assert_eq!(in_turn(&remotes), ["2"]);
    }
}
