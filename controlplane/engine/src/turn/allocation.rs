//! One allocation: the relayed addresses of a client, whom it lets in and which channels it has.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::link::Tuple;
use crate::limits::{TURN_CHANNELS_MAX, TURN_PERMISSIONS_MAX};
use crate::stun::codec::Transaction;

/// RFC 8656 §9: not a second more or less.
pub(crate) const PERMISSION_LIFE: Duration = Duration::from_secs(300);
/// RFC 8656 §12.
pub(crate) const CHANNEL_LIFE: Duration = Duration::from_secs(600);
/// RFC 8656 §12: after its end a channel leads to no other peer for so long, since packets may still be on their way.
pub(crate) const CHANNEL_REST: Duration = Duration::from_secs(300);

/// An address family, as an index too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4 = 0,
    V6 = 1,
}

impl Family {
    pub(crate) fn of(address: SocketAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// RFC 8656 §18.6.
    pub(crate) fn from_number(number: u8) -> Option<Family> {
        [None, Some(Family::V4), Some(Family::V6)].get(usize::from(number)).copied().flatten()
    }

    pub(crate) fn number(self) -> u8 {
        self as u8 + 1
    }
}

/// A relayed address and until when it is lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relayed {
    pub(crate) at: SocketAddr,
    pub(crate) until: Instant,
}

#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) tuple: Tuple,
    pub(crate) identity: Box<str>,
    /// Of the question that made it: it is answered again.
    pub(crate) transaction: Transaction,
    /// By family.
    pub(crate) relayed: [Option<Relayed>; 2],
    /// Until when each address is let in.
    permissions: HashMap<IpAddr, Instant>,
    /// Where each channel leads, and until when; and the number of each peer's.
    channels: HashMap<u16, (SocketAddr, Instant)>,
    numbers: HashMap<SocketAddr, u16>,
}

/// Why a channel is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelError {
    /// The number leads to another peer, or the peer has another number.
    Taken,
    Full,
}

impl Allocation {
    pub(crate) fn new(tuple: Tuple, identity: &str, transaction: Transaction, relayed: [Option<Relayed>; 2]) -> Allocation {
        Allocation {
            tuple,
            identity: identity.into(),
            transaction,
            relayed,
            permissions: HashMap::new(),
            channels: HashMap::new(),
            numbers: HashMap::new(),
        }
    }

    /// The address from which packets to this peer go.
    pub(crate) fn towards(&self, peer: SocketAddr, now: Instant) -> Option<SocketAddr> {
        self.relayed[Family::of(peer) as usize].filter(|relayed| now < relayed.until).map(|relayed| relayed.at)
    }

    pub(crate) fn permits(&self, ip: IpAddr, now: Instant) -> bool {
        self.permissions.get(&ip).is_some_and(|until| now < *until)
    }

    /// Installs or renews a permission, if there is room.
    pub(crate) fn permit(&mut self, ip: IpAddr, now: Instant) -> bool {
        let until = now + PERMISSION_LIFE;
        if let Some(known) = self.permissions.get_mut(&ip) {
            *known = until;
            return true;
        }
        self.permissions.retain(|_, until| now < *until);
        let has_room = self.permissions.len() < TURN_PERMISSIONS_MAX;
        if has_room {
            self.permissions.insert(ip, until);
        }
        has_room
    }

    /// Whether so many more addresses find room: all of one request are permitted, or none.
    pub(crate) fn has_room_for(&self, ips: &[IpAddr], now: Instant) -> bool {
        let living = self.permissions.values().filter(|until| now < **until).count();
        living + ips.iter().filter(|ip| !self.permits(**ip, now)).count() <= TURN_PERMISSIONS_MAX
    }

    /// Binds a channel or renews it, and its permission with it (RFC 8656 §12.2).
    pub(crate) fn bind(&mut self, number: u16, peer: SocketAddr, now: Instant) -> Result<(), ChannelError> {
        self.channels.retain(|_, (_, until)| now < *until + CHANNEL_REST);
        self.numbers.retain(|_, number| self.channels.contains_key(number));
        if !self.has_room_for(&[peer.ip()], now) {
            return Err(ChannelError::Full);
        }
        let until = now + CHANNEL_LIFE;
        let is_full = self.channels.len() >= TURN_CHANNELS_MAX;
        match (self.channels.get_mut(&number), self.numbers.get(&peer)) {
            (Some((leads_to, known)), Some(_)) if *leads_to == peer => *known = until,
            (None, None) if is_full => return Err(ChannelError::Full),
            (None, None) => {
                self.channels.insert(number, (peer, until));
                self.numbers.insert(peer, number);
            }
            _ => return Err(ChannelError::Taken),
        }
        self.permit(peer.ip(), now);
        Ok(())
    }

    pub(crate) fn peer_of(&self, number: u16, now: Instant) -> Option<SocketAddr> {
        self.channels.get(&number).filter(|(_, until)| now < *until).map(|(peer, _)| *peer)
    }

    pub(crate) fn channel_of(&self, peer: SocketAddr, now: Instant) -> Option<u16> {
        self.numbers.get(&peer).copied().filter(|number| self.peer_of(*number, now).is_some())
    }
}
