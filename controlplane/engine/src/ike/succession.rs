//! One IKE SA among those of its peer: what it follows, what follows it, and whether it may speak.
//!
//! There are two of them during a rekey (RFC 7296 §2.8), which both ends may begin at once (§2.8.2), and during a reauthentication
//! (§2.8.3).

use std::time::{Duration, Instant};

use crate::timer::earlier;

use super::facts::SaId;

/// How long the other end may take to delete an SA that it has replaced, before we do it.
pub(super) const REPLACED_PATIENCE: Duration = Duration::from_secs(30);
/// How long the responder sends no request on the new IKE SA unless the peer has shown that it has it.
const UNCONFIRMED_PATIENCE: Duration = Duration::from_secs(15);

/// The peer's rekey of an IKE SA that we are rekeying, too (RFC 7296 §2.8.2).
#[derive(Debug)]
pub(super) struct IkeRekeyCollision {
    pub lowest_nonce: Vec<u8>,
    /// The IKE SA that it made; `None` while additional key exchanges are under way.
    pub sa: Option<SaId>,
}

/// Two IKE SAs of one peer during a reauthentication.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside {
    /// The one before this one: to be deleted by us once this one has all its Child SAs.
    before: Option<SaId>,
    /// The one that has been authenticated after this one and takes its place.
    after: Option<SaId>,
    /// When this one is deleted by us.
    delete_at: Option<Instant>,
    /// The peer has not shown yet that it has this one, and that it believes us: the one before it is used meanwhile.
    hold: Option<Hold>,
}

/// What waits until the peer has shown that it has an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// The peer has forgotten all IKE SAs before this one (INITIAL_CONTACT, RFC 7296 §2.4).
    pub restarted: bool,
}

impl Beside {
    pub(super) fn is_alone(&self) -> bool {
        self.after.is_none() && self.before.is_none() && self.hold.is_none()
    }
}

/// What has become of an IKE SA with the others of its peer.
#[derive(Debug, Default)]
pub(super) struct Succession {
    /// Our rekey of this IKE SA is under way.
    rekeying: bool,
    collision: Option<IkeRekeyCollision>,
    /// The IKE SA that has taken over, and since when.
    successor: Option<(SaId, Instant)>,
    /// The peer may not have this IKE SA yet: it is not to be spoken to before.
    silent_until: Option<Instant>,
    /// The IKE SA whose Child SAs this one, made by the peer, inherits when it is clear that it stays.
    predecessor: Option<SaId>,
    /// Since when another IKE SA of the peer is the one to stay.
    redundant_since: Option<Instant>,
    beside: Beside,
}

/// What is written down of it, and read again.
pub(super) struct SuccessionParts {
    pub successor: Option<(SaId, Instant)>,
    pub redundant_since: Option<Instant>,
    pub silent_until: Option<Instant>,
    pub predecessor: Option<SaId>,
    pub collision: Option<(SaId, Vec<u8>)>,
    pub hold: Option<Hold>,
}

impl Succession {
    /// Of an IKE SA that the peer has made in a rekey of that one.
    pub(super) fn after(predecessor: SaId, now: Instant) -> Succession {
        let silent_until = Some(now + UNCONFIRMED_PATIENCE);
        Succession { predecessor: Some(predecessor), silent_until, ..Succession::default() }
    }

    /// Without a rekey or reauthentication of ours that is under way: who takes over begins these anew. That the peer has not shown yet
    /// that it has this one is kept.
    pub(super) fn parts(&self) -> SuccessionParts {
        let collision = self.collision.as_ref().and_then(|collision| Some((collision.sa?, collision.lowest_nonce.clone())));
        SuccessionParts {
            successor: self.successor,
            redundant_since: self.redundant_since,
            silent_until: self.silent_until,
            predecessor: self.predecessor,
            collision,
            hold: self.beside.hold,
        }
    }

    pub(super) fn of_parts(parts: SuccessionParts) -> Succession {
        Succession {
            collision: parts.collision.map(|(sa, lowest_nonce)| IkeRekeyCollision { lowest_nonce, sa: Some(sa) }),
            successor: parts.successor,
            silent_until: parts.silent_until,
            predecessor: parts.predecessor,
            redundant_since: parts.redundant_since,
            beside: Beside { hold: parts.hold, ..Beside::default() },
            ..Succession::default()
        }
    }

    /// Whether the peer has this IKE SA, and it is not on its way out.
    pub(super) fn may_speak(&self, now: Instant) -> bool {
        self.successor.is_none() && self.silent_until.is_none_or(|until| until <= now)
    }

    /// The peer has shown that it has this IKE SA.
    pub(super) fn confirmed(&mut self) {
        self.silent_until = None;
    }

    /// The time may have come to speak.
    pub(super) fn end_silence(&mut self, now: Instant) {
        self.silent_until = self.silent_until.filter(|until| *until > now);
    }

    pub(super) fn is_rekeying(&self) -> bool {
        self.rekeying
    }

    /// Whether we may begin a rekey: nobody has yet.
    pub(super) fn may_rekey(&self) -> bool {
        self.successor.is_none() && self.collision.is_none()
    }

    pub(super) fn set_rekeying(&mut self, under_way: bool) {
        self.rekeying = under_way;
    }

    pub(super) fn successor(&self) -> Option<SaId> {
        self.successor.map(|(successor, _)| successor)
    }

    pub(super) fn has_successor(&self) -> bool {
        self.successor.is_some()
    }

    /// From here on this one says nothing but its own end.
    pub(super) fn leave_to(&mut self, successor: SaId, now: Instant) {
        self.successor = Some((successor, now));
    }

    /// The IKE SA that had taken over is gone.
    pub(super) fn come_back(&mut self) {
        self.successor = None;
    }

    /// Whether the peer has had the time to delete this one.
    pub(super) fn is_replaced_for_long(&self, now: Instant) -> bool {
        self.successor.is_some_and(|(_, since)| since + REPLACED_PATIENCE <= now)
    }

    pub(super) fn collision(&self) -> Option<&IkeRekeyCollision> {
        self.collision.as_ref()
    }

    /// The IKE SA that the peer's rekey has made.
    pub(super) fn made_by_peer(&self) -> Option<SaId> {
        self.collision.as_ref().and_then(|collision| collision.sa)
    }

    /// The peer rekeys this IKE SA, or has.
    pub(super) fn collide(&mut self, lowest_nonce: Vec<u8>, sa: Option<SaId>) {
        self.collision = Some(IkeRekeyCollision { lowest_nonce, sa });
    }

    /// The peer's rekey came to nothing, or has lost; the IKE SA that it made.
    pub(super) fn end_collision(&mut self) -> Option<SaId> {
        self.collision.take().and_then(|collision| collision.sa)
    }

    pub(super) fn predecessor(&self) -> Option<SaId> {
        self.predecessor
    }

    /// Whether the Child SAs of the one before are still to come.
    pub(super) fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// What there was to inherit has come, or never will.
    pub(super) fn forget_predecessor(&mut self) -> Option<SaId> {
        self.predecessor.take()
    }

    pub(super) fn is_redundant(&self) -> bool {
        self.redundant_since.is_some()
    }

    /// Another IKE SA of the peer is the one to stay: the other end has a while to close this one.
    pub(super) fn be_redundant(&mut self, now: Instant) {
        self.redundant_since = Some(now);
    }

    /// Whether the other end has not closed this one in time. Said once.
    pub(super) fn take_redundant_for_long(&mut self, now: Instant) -> bool {
        self.redundant_since.take_if(|since| *since + REPLACED_PATIENCE <= now).is_some()
    }

    /// Another one takes its place, or is about to.
    pub(super) fn is_going(&self) -> bool {
        self.successor.is_some() || self.redundant_since.is_some()
    }

    /// The one before that is to be deleted by us.
    pub(super) fn set_before(&mut self, before: Option<SaId>) {
        self.beside.before = before;
    }

    pub(super) fn before(&self) -> Option<SaId> {
        self.beside.before
    }

    /// Everything is there to take the place of the one before: said once.
    pub(super) fn take_before(&mut self) -> Option<SaId> {
        self.beside.before.take()
    }

    /// The one that was authenticated after this one.
    pub(super) fn next(&self) -> Option<SaId> {
        self.beside.after
    }

    /// That one has been authenticated after this one.
    pub(super) fn give_place_to(&mut self, next: SaId, now: Instant) {
        self.beside.after = Some(next);
        self.redundant_since = Some(now);
    }

    /// The one that was to take the place of this one is gone.
    pub(super) fn stand_alone(&mut self, without: SaId) {
        if self.beside.after == Some(without) {
            self.beside.after = None;
            self.beside.delete_at = None;
            self.redundant_since = None;
        }
    }

    /// It is deleted by us then.
    pub(super) fn delete_at(&mut self, at: Instant) {
        self.beside.delete_at = Some(at);
    }

    /// The one that takes its place, where the time has come to delete this one. Said once.
    pub(super) fn take_delete(&mut self, now: Instant) -> Option<SaId> {
        let after = self.beside.after?;
        self.beside.delete_at.take_if(|at| *at <= now).map(|_| after)
    }

    /// Nothing of it is used before the peer has shown that it has it.
    pub(super) fn hold(&mut self, restarted: bool) {
        self.beside.hold = Some(Hold { restarted });
    }

    pub(super) fn holds(&self) -> bool {
        self.beside.hold.is_some()
    }

    /// The peer has shown that it has it. Gives what had to wait for that.
    pub(super) fn end_hold(&mut self) -> Option<Hold> {
        self.beside.hold.take()
    }

    /// Gives its part in a reauthentication to its successor.
    pub(super) fn take_beside(&mut self) -> Beside {
        std::mem::take(&mut self.beside)
    }

    /// Takes the part of the one before in a reauthentication.
    pub(super) fn inherit_beside(&mut self, beside: Beside, now: Instant) {
        self.beside = beside;
        self.redundant_since = beside.after.map(|_| now);
    }

    /// Who referred to one IKE SA as the one before or after refers to another one; `own` is this one.
    pub(super) fn rename(&mut self, own: SaId, from: SaId, to: SaId) {
        let renamed = |one: Option<SaId>| if one == Some(from) { Some(to).filter(|to| *to != own) } else { one };
        self.beside.before = renamed(self.beside.before);
        self.beside.after = renamed(self.beside.after);
    }

    /// When something of it is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let end = self.successor.map(|(_, since)| since + REPLACED_PATIENCE);
        let end = earlier(end, self.redundant_since.map(|since| since + REPLACED_PATIENCE));
        if self.successor.is_some() { end } else { earlier(end, earlier(self.beside.delete_at, self.silent_until)) }
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::IkeSpi;

    use super::*;
    use crate::ike::testing::instant;

    fn sa(number: u64) -> SaId {
        SaId(IkeSpi(number))
    }

    #[test]
    fn it_speaks_once_the_peer_has_it_and_until_another_one_took_over() {
        let now = instant();
        let mut succession = Succession::after(sa(1), now);
        assert!(succession.has_predecessor() && !succession.may_speak(now));
        let patient = succession.deadline().expect("a time");
        assert!(succession.may_speak(patient));
        succession.confirmed();
        assert!(succession.may_speak(now));
        succession.leave_to(sa(2), now);
        assert!(!succession.may_speak(now) && succession.is_going() && !succession.may_rekey());
        let over = succession.deadline().expect("a time");
        assert!(!succession.is_replaced_for_long(now) && succession.is_replaced_for_long(over));
        succession.come_back();
        assert!(succession.may_speak(now) && succession.may_rekey());
    }

    #[test]
    fn one_that_is_redundant_says_so_once_and_not_if_it_stands_alone_again() {
        let now = instant();
        let mut succession = Succession::default();
        succession.give_place_to(sa(2), now);
        let over = succession.deadline().expect("a time");
        assert!(!succession.take_redundant_for_long(now) && succession.take_redundant_for_long(over));
        assert!(!succession.take_redundant_for_long(over));
        succession.give_place_to(sa(2), now);
        succession.delete_at(now);
        succession.stand_alone(sa(3));
        assert_eq!(succession.next(), Some(sa(2)), "another one is gone");
        succession.stand_alone(sa(2));
        assert_eq!((succession.next(), succession.take_delete(now), succession.deadline()), (None, None, None));
    }

    #[test]
    fn what_is_written_down_is_read_again() {
        let now = instant();
        let mut succession = Succession::after(sa(1), now);
        succession.set_rekeying(true);
        succession.collide(vec![1, 2], None);
        let read = Succession::of_parts(succession.parts());
        assert_eq!((read.predecessor(), read.is_rekeying(), read.made_by_peer()), (Some(sa(1)), false, None));
        assert!(read.collision().is_none(), "it has made no IKE SA yet");
        succession.collide(vec![1, 2], Some(sa(4)));
        let read = Succession::of_parts(succession.parts());
        assert_eq!((read.made_by_peer(), read.deadline()), (Some(sa(4)), succession.deadline()));
        assert!(!read.holds());
        succession.hold(true);
        assert_eq!(Succession::of_parts(succession.parts()).end_hold(), Some(Hold { restarted: true }));
    }

    #[test]
    fn nothing_that_is_written_down_is_lost() {
        let now = instant();
        let later = now + Duration::from_secs(7);
        let mut succession = Succession::after(sa(1), now);
        succession.leave_to(sa(2), later);
        succession.be_redundant(now);
        succession.collide(vec![1, 2], Some(sa(3)));
        succession.hold(false);
        assert_eq!(format!("{:?}", Succession::of_parts(succession.parts())), format!("{succession:?}"));
    }

    #[test]
    fn a_part_in_a_reauthentication_goes_to_the_successor_whole() {
        let now = instant();
        let parts: [fn(&mut Succession, Instant); 3] =
            [|one, _| one.set_before(Some(sa(1))), |one, now| one.give_place_to(sa(2), now), |one, _| one.hold(true)];
        for take in parts {
            let (mut old, mut new) = (Succession::default(), Succession::default());
            assert!(old.take_beside().is_alone());
            take(&mut old, now);
            let expected = (old.before(), old.next(), old.holds(), old.is_going());
            let beside = old.take_beside();
            assert!(!beside.is_alone() && old.take_beside().is_alone());
            new.inherit_beside(beside, now);
            assert_eq!((new.before(), new.next(), new.holds(), new.is_redundant()), expected);
        }
    }

    #[test]
    fn who_was_rekeyed_is_known_by_its_new_name_and_never_as_oneself() {
        let mut succession = Succession::default();
        succession.set_before(Some(sa(1)));
        succession.give_place_to(sa(2), instant());
        succession.rename(sa(9), sa(1), sa(3));
        assert_eq!((succession.before(), succession.next()), (Some(sa(3)), Some(sa(2))));
        succession.rename(sa(9), sa(2), sa(4));
        assert_eq!((succession.before(), succession.next()), (Some(sa(3)), Some(sa(4))));
        succession.rename(sa(9), sa(4), sa(9));
        assert_eq!((succession.take_before(), succession.next(), succession.before()), (Some(sa(3)), None, None));
    }

    #[test]
    fn what_has_taken_over_has_its_time_and_nothing_else_is_due() {
        let (now, patience) = (instant(), REPLACED_PATIENCE);
        let mut succession = Succession::default();
        assert_eq!(succession.deadline(), None);
        succession.give_place_to(sa(2), now + patience);
        succession.delete_at(now + Duration::from_secs(1));
        assert_eq!(succession.deadline(), Some(now + Duration::from_secs(1)));
        assert_eq!((succession.take_delete(now), succession.take_delete(now + patience)), (None, Some(sa(2))));
        assert_eq!((succession.take_delete(now + patience), succession.deadline()), (None, Some(now + 2 * patience)));
        succession.leave_to(sa(2), now);
        assert_eq!((succession.successor(), succession.deadline()), (Some(sa(2)), Some(now + patience)));
    }
}
