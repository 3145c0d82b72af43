//! The addresses where we look for a peer: one after the other, as long as nobody answers.

use std::net::SocketAddr;

/// Where a peer may be, and whose turn it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remotes {
    all: Vec<SocketAddr>,
    /// The one for the next attempt.
    turn: usize,
    /// How many were tried in vain since somebody answered, or since all of them were.
    tried: usize,
}

impl Remotes {
    pub(super) fn new(all: Vec<SocketAddr>) -> Remotes {
        Remotes { all, turn: 0, tried: 0 }
    }

    pub(super) fn all(&self) -> &[SocketAddr] {
        &self.all
    }

    /// All of them, the one whose turn it is first.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = SocketAddr> {
        let (before, after) = self.all.split_at(self.turn.min(self.all.len()));
        after.iter().chain(before).copied()
    }

    /// They are others now: the one whose turn it is keeps it, if it is still among them. Says whether that changes anything.
    pub(super) fn replace(&mut self, all: Vec<SocketAddr>) -> bool {
        let changed = self.all != all;
        if changed {
            let turn = self.all.get(self.turn).and_then(|now| all.iter().position(|one| one == now));
            *self = Remotes { all, turn: turn.unwrap_or(0), tried: 0 };
        }
        changed
    }

    /// This one is tried now.
    pub(super) fn began_at(&mut self, remote: SocketAddr) {
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

    /// Somebody let us in.
    pub(super) fn succeeded(&mut self) {
        self.tried = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 4500).into()
    }

    #[test]
    fn each_has_its_turn_and_a_change_leaves_the_turn_where_it_was() {
        let mut remotes = Remotes::new(vec![at(1), at(2), at(3)]);
        assert_eq!((remotes.failed(), remotes.failed()), (true, true));
        assert_eq!(remotes.in_turn().collect::<Vec<_>>(), [at(3), at(1), at(2)]);
        assert!(!remotes.failed() && remotes.failed(), "all were tried, and it begins anew");
        assert!(!remotes.replace(vec![at(1), at(2), at(3)]) && remotes.replace(vec![at(2), at(4)]));
        assert_eq!(remotes.in_turn().collect::<Vec<_>>(), [at(2), at(4)]);
        remotes.began_at(at(4));
        assert!(remotes.replace(vec![at(5)]));
        assert_eq!(remotes.in_turn().collect::<Vec<_>>(), [at(5)]);
        let mut none = Remotes::default();
        assert!(!none.failed() && none.in_turn().next().is_none());
    }
}
