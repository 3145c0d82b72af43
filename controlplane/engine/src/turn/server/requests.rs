//! What a known client may ask for: Allocate, Refresh, CreatePermission, ChannelBind (RFC 8656 §7 to §12), and why it is refused.
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::allocation::{Allocation, ChannelError, Family, Relayed};
use super::super::allowed::{Verdict, is_tunnelled};
use super::super::link::Tuple;
use super::super::{channel, method};
use super::admission::Known;
use super::{Now, Outside, Server};
use crate::limits::{TURN_PERMISSIONS_MAX, TURN_PORTS_TRIED_MAX};
use crate::stun::codec::{Class, Message, Writer, error_value, kind};

/// RFC 8656 §7.2 and §18.3: ten minutes unless asked for more, and an hour at most.
pub(super) const LIFE_DEFAULT: u32 = 600;
pub(super) const LIFE_LONGEST: u32 = 3600;
/// RFC 8656 §18.5: the port behind an even one is to be reserved as well.
const EVEN_PORT_AND_NEXT: u8 = 0x80;
/// RFC 8656 §18.7: UDP, the only transport towards peers.
const UDP: u8 = 17;

/// Why a question is not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    BadRequest,
    /// The peer is where nobody may send.
    Forbidden,
    Unknown(Vec<u16>),
    /// There is an allocation where there must be none, or none where there must be one.
    Mismatch,
    /// A family of addresses that is not lent here.
    Family,
    WrongCredentials,
    Transport,
    /// The allocation has no address of the peer's family.
    PeerFamily,
    Quota,
    Capacity,
}

impl Refusal {
    fn number(&self) -> u16 {
        match self {
            Refusal::BadRequest => 400,
            Refusal::Forbidden => 403,
            Refusal::Unknown(_) => 420,
            Refusal::Mismatch => 437,
            Refusal::Family => 440,
            Refusal::WrongCredentials => 441,
            Refusal::Transport => 442,
            Refusal::PeerFamily => 443,
            Refusal::Quota => 486,
            Refusal::Capacity => 508,
        }
    }

    pub(super) fn answer(&self, to: &Message<'_>) -> Writer {
        let mut out = Writer::answer(Class::Error, to);
        out.put_error(self.number());
        if let Refusal::Unknown(kinds) = self {
            out.put(kind::UNKNOWN_ATTRIBUTES, &kinds.iter().flat_map(|kind| kind.to_be_bytes()).collect::<Vec<u8>>());
        }
        out
    }
}

/// The answer, or why there is none.
type Granted = Result<Writer, Refusal>;

/// Which families an Allocate asks for (RFC 8656 §7.2): both, where the second may be missing in the end.
struct Wanted {
    first: Family,
    second: Option<Family>,
    /// The port of the first is to be an even number.
    even: bool,
}

impl Server {
    /// Does what a known client asks for.
    pub(super) fn grant(
        &mut self,
        now: Now,
        from: Tuple,
        message: &Message<'_>,
        known: &Known<'_>,
        outside: &mut Outside<'_>,
    ) -> Granted {
        let (of_method, needs_allocation): (&[u16], bool) = match message.method {
            method::ALLOCATE => (
                &[
                    kind::REQUESTED_TRANSPORT,
                    kind::LIFETIME,
                    kind::DONT_FRAGMENT,
                    kind::REQUESTED_ADDRESS_FAMILY,
                    kind::EVEN_PORT,
                    kind::RESERVATION_TOKEN,
                ],
                false,
            ),
            method::REFRESH => (&[kind::LIFETIME, kind::REQUESTED_ADDRESS_FAMILY], true),
            method::CREATE_PERMISSION => (&[kind::XOR_PEER_ADDRESS], true),
            method::CHANNEL_BIND => (&[kind::XOR_PEER_ADDRESS, kind::CHANNEL_NUMBER], true),
            _ => return Err(Refusal::BadRequest),
        };
        let unknown = message.unknown(of_method);
        if !unknown.is_empty() {
            return Err(Refusal::Unknown(unknown));
        }
        match self.allocation(from) {
            // RFC 8656 §5: every question after Allocate must come with the credentials that it came with.
            Some((_, allocation)) if needs_allocation && *allocation.identity != *known.identity => {
                return Err(Refusal::WrongCredentials);
            }
            None if needs_allocation => return Err(Refusal::Mismatch),
            _ => {}
        }
        match message.method {
            method::ALLOCATE => self.allocate(now, from, message, known, outside),
            method::REFRESH => self.refresh(now, from, message),
            method::CREATE_PERMISSION => self.create_permission(now, from, message),
            _ => self.bind_channel(now, from, message),
        }
    }

    fn allocate(
        &mut self,
        now: Now,
        from: Tuple,
        message: &Message<'_>,
        known: &Known<'_>,
        outside: &mut Outside<'_>,
    ) -> Granted {
        if let Some((_, allocation)) = self.allocation(from) {
            // RFC 8656 §7.2: the answer may have been lost.
            let is_repeat = allocation.transaction == message.transaction && *allocation.identity == *known.identity;
            return if is_repeat { Ok(self.allocated(now, from, message, None)) } else { Err(Refusal::Mismatch) };
        }
        // RFC 8656 §21.4.
        if is_tunnelled(from.client.ip()) {
            return Err(Refusal::Forbidden);
        }
        let wanted = self.wanted(message)?;
        let mine = self.by_identity.get(known.identity).map_or(0, |owner| owner.allocations);
        if mine >= self.config.of_identity_max {
            return Err(Refusal::Quota);
        }
        if self.draining || self.by_tuple.len() >= self.config.total_max {
            return Err(Refusal::Capacity);
        }
        let until = now.at + Duration::from_secs(life(message).max(LIFE_DEFAULT).into());
        let mut relayed = [None; 2];
        let at = self.open(wanted.first, wanted.even, outside).ok_or(Refusal::Capacity)?;
        relayed[wanted.first as usize] = Some(Relayed { at, until });
        let mut missing = None;
        if let Some(second) = wanted.second {
            relayed[second as usize] = self.open(second, false, outside).map(|at| Relayed { at, until });
            // RFC 8656 §7.2: the client gets the one, and is told why not the other.
            let number = if self.config.relayed(second).is_none() { Refusal::Family } else { Refusal::Capacity };
            missing = relayed[second as usize].is_none().then_some((second, number));
        }
        self.insert(Allocation::new(from, known.identity, message.transaction, relayed));
        Ok(self.allocated(now, from, message, missing))
    }

    /// The attributes of Allocate, in the order of RFC 8656 §7.2.
    fn wanted(&self, message: &Message<'_>) -> Result<Wanted, Refusal> {
        match message.fixed(kind::REQUESTED_TRANSPORT) {
            Some([UDP, _, _, _]) => {}
            Some(_) => return Err(Refusal::Transport),
            None => return Err(Refusal::BadRequest),
        }
        let family = |kind| match (message.get(kind), message.fixed::<4>(kind)) {
            (None, _) => Ok(None),
            (Some(_), Some([number, ..])) => Family::from_number(number).map(Some).ok_or(Refusal::Family),
            (Some(_), None) => Err(Refusal::BadRequest),
        };
        let (requested, additional) = (family(kind::REQUESTED_ADDRESS_FAMILY)?, family(kind::ADDITIONAL_ADDRESS_FAMILY)?);
        let reserved = message.get(kind::RESERVATION_TOKEN).is_some();
        let even = match (message.get(kind::EVEN_PORT), message.fixed::<1>(kind::EVEN_PORT)) {
            (None, _) => None,
            (Some(_), Some([flags])) => Some(flags & EVEN_PORT_AND_NEXT != 0),
            (Some(_), None) => return Err(Refusal::BadRequest),
        };
        let is_odd = (reserved && (even.is_some() || requested.is_some() || additional.is_some()))
            || (requested.is_some() && additional.is_some())
            || (even.is_some() && additional.is_some())
            || additional == Some(Family::V4);
        if is_odd {
            return Err(Refusal::BadRequest);
        }
        // Pairs of ports were for RTP. Nobody here needs them, and RFC 8656 §7.2 names the answer for who cannot give them.
        if reserved || even == Some(true) {
            return Err(Refusal::Capacity);
        }
        let first = requested.unwrap_or(Family::V4);
        if self.config.relayed(first).is_some() {
            return Ok(Wanted { first, second: additional, even: even.is_some() });
        }
        Err(Refusal::Family)
    }

    /// Opens a socket at a port that nobody can foretell (RFC 8656 §7.2, RFC 6056).
    fn open(&self, family: Family, even: bool, outside: &mut Outside<'_>) -> Option<SocketAddr> {
        let ip = self.config.relayed(family)?;
        let (low, high) = (u32::from(*self.config.ports.start()), u32::from(*self.config.ports.end()));
        let count = (high + 1).saturating_sub(low).max(1);
        let drawn: [u32; TURN_PORTS_TRIED_MAX] = std::array::from_fn(|_| outside.random.u32() % count);
        // Where most are taken, all others are looked at in turn; what somebody else on this machine has is tried so often only.
        let in_turn = (0..count).map(|more| (drawn[0] + more) % count);
        let ports = drawn.into_iter().chain(in_turn).map(|offset| low + offset).filter(|port| !even || port.is_multiple_of(2));
        let places = ports.filter_map(|port| Some(SocketAddr::new(ip, u16::try_from(port).ok()?)));
        let mut free = places.filter(|at| !self.by_relayed.contains_key(at)).take(2 * TURN_PORTS_TRIED_MAX);
        free.find(|at| (outside.open)(*at))
    }

    /// The answer to Allocate.
    fn allocated(&self, now: Now, from: Tuple, message: &Message<'_>, missing: Option<(Family, Refusal)>) -> Writer {
        let mut out = Writer::answer(Class::Success, message);
        let relayed = self.allocation(from).map(|(_, allocation)| allocation.relayed).unwrap_or_default();
        let mut left = Duration::ZERO;
        for relayed in relayed.iter().flatten() {
            out.put_address(kind::XOR_RELAYED_ADDRESS, self.config.outward(relayed.at));
            left = left.max(relayed.until.saturating_duration_since(now.at));
        }
        out.put(kind::LIFETIME, &u32::try_from(left.as_secs()).unwrap_or(LIFE_LONGEST).to_be_bytes());
        out.put_address(kind::XOR_MAPPED_ADDRESS, from.client);
        if let Some((family, refusal)) = missing {
            let [_, _, class, number] = error_value(refusal.number());
            out.put(kind::ADDRESS_ERROR_CODE, &[family.number(), 0, class, number]);
        }
        out
    }

    fn refresh(&mut self, now: Now, from: Tuple, message: &Message<'_>) -> Granted {
        let family = match (message.get(kind::REQUESTED_ADDRESS_FAMILY), message.fixed::<4>(kind::REQUESTED_ADDRESS_FAMILY)) {
            (None, _) => None,
            (Some(_), Some([number, ..])) => Some(Family::from_number(number).ok_or(Refusal::PeerFamily)?),
            (Some(_), None) => return Err(Refusal::BadRequest),
        };
        let (index, allocation) = self.allocation(from).ok_or(Refusal::Mismatch)?;
        // RFC 8656 §8.2: the family must be one that the allocation has.
        let concerned: Vec<usize> = match family {
            Some(family) if allocation.relayed[family as usize].is_none() => return Err(Refusal::PeerFamily),
            Some(family) => vec![family as usize],
            None => vec![0, 1],
        };
        let asked = life(message);
        let life = if asked == 0 { 0 } else { asked.max(LIFE_DEFAULT) };
        for family in concerned {
            match life {
                0 => self.end_relayed(index, family),
                _ => self.prolong(from, family, now.at + Duration::from_secs(life.into())),
            }
        }
        let mut out = Writer::answer(Class::Success, message);
        out.put(kind::LIFETIME, &life.to_be_bytes());
        Ok(out)
    }

    /// Where a peer must be for anything to go there (RFC 8656 §9.2 and §12.2).
    fn check_peer(&self, allocation: &Allocation, peer: Option<SocketAddr>) -> Result<SocketAddr, Refusal> {
        let peer = peer.ok_or(Refusal::BadRequest)?;
        if self.config.allowed.judge(peer.ip()) == Verdict::Forbidden {
            return Err(Refusal::Forbidden);
        }
        if allocation.relayed[Family::of(peer) as usize].is_none() {
            return Err(Refusal::PeerFamily);
        }
        Ok(peer)
    }

    fn create_permission(&mut self, now: Now, from: Tuple, message: &Message<'_>) -> Granted {
        let (_, allocation) = self.allocation(from).ok_or(Refusal::Mismatch)?;
        let peers = message.addresses(kind::XOR_PEER_ADDRESS).map(|peer| self.check_peer(allocation, peer).map(|peer| peer.ip()));
        let mut ips: Vec<IpAddr> = peers.take(TURN_PERMISSIONS_MAX + 1).collect::<Result<_, _>>()?;
        ips.sort_unstable();
        ips.dedup();
        if ips.is_empty() {
            return Err(Refusal::BadRequest);
        }
        if !allocation.has_room_for(&ips, now.at) {
            return Err(Refusal::Capacity);
        }
        let allocation = self.allocation_mut(from).ok_or(Refusal::Mismatch)?;
        for ip in ips {
            allocation.permit(ip, now.at);
        }
        Ok(Writer::answer(Class::Success, message))
    }

    fn bind_channel(&mut self, now: Now, from: Tuple, message: &Message<'_>) -> Granted {
        let (_, allocation) = self.allocation(from).ok_or(Refusal::Mismatch)?;
        let peer = self.check_peer(allocation, message.address(kind::XOR_PEER_ADDRESS))?;
        // No packet can go there. Permissions are of addresses alone (RFC 8656 §9).
        if peer.port() == 0 {
            return Err(Refusal::BadRequest);
        }
        let number = message.fixed::<4>(kind::CHANNEL_NUMBER).map(|[high, low, ..]| u16::from_be_bytes([high, low]));
        let number = number.filter(|number| channel::is_channel(*number)).ok_or(Refusal::BadRequest)?;
        let allocation = self.allocation_mut(from).ok_or(Refusal::Mismatch)?;
        allocation.bind(number, peer, now.at).map_err(|error| match error {
            ChannelError::Taken => Refusal::BadRequest,
            ChannelError::Full => Refusal::Capacity,
        })?;
        Ok(Writer::answer(Class::Success, message))
    }
}

/// The lifetime that a message asks for, in seconds, as far as it can be had.
fn life(message: &Message<'_>) -> u32 {
    message.fixed(kind::LIFETIME).map_or(LIFE_DEFAULT, u32::from_be_bytes).min(LIFE_LONGEST)
}
