//! Who comes in: whether there is room, who has to go for whom, and who may not be there any more.
//!
//! A room has room for those whom it lists before all others. Where it is full of guests, who have its token alone, one of the
//! network that has most of them makes room for one of a network that has fewer: so nobody fills it by making keys.

use std::collections::BTreeMap;
use std::time::Instant;

use adit_engine::random::Random;
use adit_proto::limits::ROOMS_OF_CLIENT_MAX;
use adit_proto::relay::{FromRelay, LeftReason, PeerKey, RoomName};

use super::client::{Client, Shares};
use super::{ConnId, Hall, Newcomer, NotLetIn, upkeep};
use crate::limits::CONNECTIONS_OF_KEY_MAX;
use crate::login::Pass;
use crate::quotas::Network;

impl Hall {
    /// Somebody has proven its key and may be in these rooms. The first record for it is its welcome, and then who is there.
    pub fn connect(&mut self, now: Instant, newcomer: Newcomer, random: &mut dyn Random) -> Result<ConnId, NotLetIn> {
        let Newcomer { key, mut rooms, observed, pass } = newcomer;
        rooms.sort();
        rooms.dedup();
        let network = Network::of(observed.ip());
        let displaced = match self.check(&key, &rooms, &pass, network) {
            Ok(displaced) => displaced,
            Err(why) => {
                self.counters.count_not_let_in(why);
                return Err(why);
            }
        };
        for conn in displaced {
            self.retire(now, conn, LeftReason::DISPLACED);
            self.wake(conn);
        }
        let shares = self.holders.get(&key).copied().map(|older| self.replace(now, older));
        // Whoever was displaced is out of the room before somebody else comes in.
        self.tell_who_left(now);
        let mut client = Client::new(now, key, rooms, observed, &self.settings);
        client.pass = pass;
        client.shares = shares.unwrap_or_default();
        random.fill(&mut client.stun_secret);
        Ok(self.enter(now, client))
    }

    /// Whether there is room, and who has to go for it.
    fn check(&self, key: &PeerKey, rooms: &[RoomName], pass: &Pass, network: Network) -> Result<Vec<ConnId>, NotLetIn> {
        let holder = self.holders.get(key);
        let of_key = self.leaving.get(key).copied().unwrap_or_default() + usize::from(holder.is_some());
        let is_new = |room: &&RoomName| !self.rooms.contains_key(*room);
        if self.draining {
            return Err(NotLetIn::Draining);
        } else if pass.is_probe && holder.is_some() {
            return Err(NotLetIn::InUse);
        } else if of_key >= CONNECTIONS_OF_KEY_MAX {
            return Err(NotLetIn::Replaced);
        } else if rooms.len() > ROOMS_OF_CLIENT_MAX
            || self.clients.len() >= self.settings.clients
            || self.rooms.len() + rooms.iter().filter(is_new).count() > self.settings.rooms
        {
            return Err(NotLetIn::Full);
        }
        let mut displaced = Vec::new();
        for room in rooms {
            let Some(entry) = self.rooms.get(room) else { continue };
            if entry.peers.len() >= self.settings.peers_of_room && !entry.peers.contains_key(key) {
                let guest_of = if pass.listed.contains(room) { None } else { Some(network) };
                displaced.push(self.displaceable(room, guest_of).ok_or(NotLetIn::Full)?);
            }
        }
        displaced.sort_unstable();
        displaced.dedup();
        Ok(displaced)
    }

    /// The guest of a full room who makes room for another guest, of this network, or for one whom the room lists. Of the network
    /// that has most guests it is the one that came last.
    fn displaceable(&self, room: &RoomName, guest_of: Option<Network>) -> Option<ConnId> {
        let mut guests: BTreeMap<Network, (usize, ConnId)> = BTreeMap::new();
        for conn in self.rooms.get(room)?.peers.values() {
            let Some(client) = self.clients.get(conn).filter(|client| !client.pass.listed.contains(room)) else { continue };
            let (count, last) = guests.entry(Network::of(client.observed.ip())).or_insert((0, *conn));
            *count += 1;
            *last = (*last).max(*conn);
        }
        let own = guest_of.map(|network| guests.get(&network).map_or(0, |(count, _)| *count));
        let (most, last) = guests.into_values().max()?;
        // With one more, the newcomer's network must not have more than the one that gives its place away has then.
        own.is_none_or(|own| own + 2 <= most).then_some(last)
    }

    /// A newer connection takes the place of this one, with what is left of its shares.
    fn replace(&mut self, now: Instant, older: ConnId) -> Shares {
        let shares = self.clients.get(&older).map(|client| client.shares);
        self.retire(now, older, LeftReason::REPLACED);
        let wait_s = self.settings.replaced_wait.as_secs().try_into().unwrap_or(u16::MAX);
        if let Ok(record) = (FromRelay::Replaced { wait_s }).encode() {
            // Its queue is empty: there is room.
            let _ = self.with_queue(older, |queue| queue.push_answer(now, record));
        }
        self.wake(older);
        shares.unwrap_or_default()
    }

    fn enter(&mut self, now: Instant, client: Client) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let (key, rooms) = (client.key, client.rooms.clone());
        let welcome = FromRelay::Welcome {
            observed: client.observed,
            stun_key: self.stun_key(conn, &client),
            idle_ms: self.settings.idle.as_millis().try_into().unwrap_or(u32::MAX),
            rooms: rooms.clone(),
        };
        let welcome = welcome.encode();
        self.counters.let_in += 1;
        self.clients.insert(conn, client);
        self.holders.insert(key, conn);
        if let Ok(welcome) = welcome {
            self.say(now, conn, welcome);
        }
        for (number, room) in (0..).zip(rooms) {
            self.departed.forget(&room, key);
            let entry = self.rooms.entry(room.clone()).or_default();
            let peers: Vec<PeerKey> = entry.peers.keys().copied().collect();
            entry.peers.insert(key, conn);
            entry.counts.joined += 1;
            self.with_queue(conn, |queue| peers.into_iter().for_each(|peer| queue.joined(now, number, peer)));
            self.mark_room(&room, conn, |client, number| client.queue.joined(now, number, key));
        }
        self.shed(now);
        self.tell_who_left(now);
        self.next_sweep.get_or_insert(now + upkeep::SWEEP);
        conn
    }

    /// Who may be where has changed: what lets each client in now, `judge` says. Whom nothing lets in any more is told, and closed.
    /// Who those were, and where.
    pub fn review(
        &mut self,
        now: Instant,
        judge: impl Fn(&PeerKey, &[RoomName], &Pass) -> Option<Pass>,
    ) -> Vec<(PeerKey, Vec<RoomName>)> {
        let mut told = Vec::new();
        let mut revoked = Vec::new();
        for conn in self.holders.values() {
            let Some(client) = self.clients.get_mut(conn) else { continue };
            match judge(&client.key, &client.rooms, &client.pass) {
                Some(pass) => client.pass = pass,
                None => {
                    told.push((client.key, client.rooms.clone()));
                    revoked.push(*conn);
                }
            }
        }
        for conn in &revoked {
            self.retire(now, *conn, LeftReason::REVOKED);
            self.wake(*conn);
        }
        self.tell_who_left(now);
        told
    }
}
