//! Applies the commands of the control plane between batches, a bounded number per turn; sends what it injects.
//!
//! Every command is checked against the tables and answered, applied or refused: the control plane is not trusted.

use adit_channel::LiveSa;
use adit_proto::control::{self, ChildId, Command, Direction, Event, Hop, Mode, PathId, PeerId, Refusal, Spi};
use adit_proto::esp;
use adit_proto::limits::{FDB_AGEING_S, FLOOD_PPS, IPV4_MTU_MIN, WORKERS_MAX};
use adit_proto::stats::{Count, Drop, Gauge};

use crate::echo::Asked;
use crate::environment::Environment;
use crate::limits::{COMMANDS_PER_TURN, INJECTS_PER_TURN};
use crate::path::{NO_SLOT, Path};
use crate::registry::Claim;
use crate::state::State;
use crate::udp;

/// Applies what waits, as much as one turn may. True when there may be more: nobody will signal again for that.
#[inline]
pub fn apply(state: &mut State, env: &mut Environment) -> bool {
    let more = commands(state, env);
    inject(state, env) || more
}

fn commands(state: &mut State, env: &mut Environment) -> bool {
    for _ in 0..COMMANDS_PER_TURN {
        let Some((ticket, command)) = env.port.next_command() else { return false };
        let result = command.map_err(|_| Refusal::Malformed).and_then(|command| one(&command, state, env));
        // By which Child SA a packet goes depends on all of this.
        state.policy.forget_recent();
        match result {
            Ok(()) => {
                env.port.count(Count::CommandsApplied, 1);
                env.port.emit(&Event::Applied { ticket });
            }
            Err(why) => {
                env.port.emit(&Event::Refused { ticket, why });
            }
        }
        show(state, env);
    }
    true
}

fn one(command: &Command, state: &mut State, env: &mut Environment) -> Result<(), Refusal> {
    match *command {
        Command::PeerSet { peer, tag, echo, split } => {
            // What the one before had learned and was given must not serve the one that comes.
            if state.tables.peer(peer).is_some_and(|before| before.tag != tag) {
                remove_peer(peer, state, env)?;
            }
            state.tables.set_peer(peer, tag, echo, split.then_some(env.frame_max))?;
            env.port.peer_install(peer, tag);
            state.fdb.share_among(state.tables.peer_count());
            Ok(())
        }
        Command::IkeSaAdd { .. }
        | Command::IkeSaRemove { .. }
        | Command::IkeAddressAdd { .. }
        | Command::IkeAddressRemove { .. }
        | Command::IkeKnownClear => state.punts.apply(command).unwrap_or(Ok(())),
        Command::Echo { peer, path, id, size, answer } => {
            let now_ns = state.now_ns();
            state.echoes.request(&Asked { peer, path, id, size, answer }, now_ns, &mut state.tables, env)
        }
        Command::PeerRemove { peer } => remove_peer(peer, state, env),
        Command::PathSet { peer, path, hop, mtu, mtu_reported } => {
            let (slot, is_new) = state.tables.set_path(peer, path, path_of(&hop, mtu, mtu_reported, env)?)?;
            if is_new {
                env.port.path_install(slot, peer, path);
            }
            Ok(())
        }
        Command::PathUse { peer, path } => state.tables.peer(peer).ok_or(Refusal::NoSuchPeer)?.paths.put_to_use(path),
        Command::PathRemove { peer, path } => {
            env.port.path_remove(state.tables.remove_path(peer, path)?);
            Ok(())
        }
        Command::OutboundSaInstall(ref sa) => install_outbound(sa, state, env),
        Command::InboundSaInstall(ref sa) => install_inbound(sa, state, env),
        Command::SaRemove { peer, spi, direction } => remove_sa(peer, spi, direction, state, env),
        Command::FdbPin { .. } | Command::FdbUnpin { .. } | Command::ForwardingSet { .. } if env.mode != Mode::Ethernet => {
            Err(Refusal::WrongMode)
        }
        Command::FdbPin { mac, peer } => pin(mac, peer, state),
        Command::ForwardingSet { ageing_s, flood_pps } => {
            if !FDB_AGEING_S.contains(&ageing_s) || !FLOOD_PPS.contains(&flood_pps) {
                return Err(Refusal::BadValue);
            }
            state.fdb.set_ageing(ageing_s);
            state.flood.set_rate(flood_pps);
            state.hub.iter_mut().for_each(|shares| shares.set_rate(flood_pps));
            Ok(())
        }
        Command::ChildSet { .. } | Command::ChildRemove { .. } => child(command, state, env),
        Command::SelectorAdd { .. }
        | Command::SelectorRemove { .. }
        | Command::ChildSelectorAdd { .. }
        | Command::ChildSelectorRemove { .. } => selector(command, state, env),
        Command::FdbUnpin { mac } => {
            state.fdb.unpin(mac);
            Ok(())
        }
        Command::SeqLimit { peer, spi, seq_limit } => {
            let slot = state.tables.extend_outbound(peer, spi, seq_limit)?;
            env.port.sa_limit(slot, seq_limit);
            Ok(())
        }
    }
}

/// Child SAs of peers; what there is of their SAs goes with them.
fn child(command: &Command, state: &mut State, env: &mut Environment) -> Result<(), Refusal> {
    match *command {
        Command::ChildSet { lanes, .. } if lanes > WORKERS_MAX => Err(Refusal::BadValue),
        Command::ChildSet { child, .. } if env.mode == Mode::Ethernet && child != ChildId::ONLY => Err(Refusal::WrongMode),
        Command::ChildSet { peer, child, lanes } => state.tables.set_child(peer, child, lanes),
        Command::ChildRemove { peer, child } => {
            state.policy.forget_child(peer, child);
            state.tables.remove_child(peer, child, |direction, spi, slot| forget_sa(peer, spi, direction, slot, env))
        }
        // The caller knows which commands come here.
        _ => Err(Refusal::Malformed),
    }
}

/// What belongs to whom, and goes by which Child SA.
fn selector(command: &Command, state: &mut State, env: &Environment) -> Result<(), Refusal> {
    if env.mode != Mode::Ip {
        return Err(Refusal::WrongMode);
    }
    match *command {
        Command::SelectorAdd { peer, ref selector } => match state.tables.peer(peer) {
            Some(_) => state.policy.add(peer, selector),
            None => Err(Refusal::NoSuchPeer),
        },
        Command::SelectorRemove { peer, ref selector } => state.policy.remove(peer, selector),
        Command::ChildSelectorAdd { peer, child, ref selector } => {
            state.tables.peer(peer).ok_or(Refusal::NoSuchPeer)?.child(child).ok_or(Refusal::NoSuchChild)?;
            state.policy.add_to_child(peer, child, selector)
        }
        Command::ChildSelectorRemove { peer, child, ref selector } => state.policy.remove_from_child(peer, child, selector),
        // The caller knows which commands come here.
        _ => Err(Refusal::Malformed),
    }
}

/// A path as it is ordered, if this gateway can send that way. Whether trains go there is found out anew.
fn path_of(hop: &Hop, mtu: u16, mtu_reported: u16, env: &Environment) -> Result<Path, Refusal> {
    if mtu < IPV4_MTU_MIN || mtu_reported < mtu {
        return Err(Refusal::BadValue);
    }
    let (kernel_hop, v6) = match hop {
        Hop::Udp(hop) if hop.socket != 0 => return Err(Refusal::BadValue),
        Hop::Udp(hop) => {
            let kernel_hop = udp::Hop::of(hop, env.udp.mapped).ok_or(Refusal::BadValue)?;
            (kernel_hop, hop.remote.ip().to_canonical().is_ipv6())
        }
        Hop::Stream(stream) => (udp::Hop::to(udp::Endpoint::of_stream(*stream)), false),
    };
    let [frame_max, frame_reported] = [mtu, mtu_reported].map(|mtu| esp::frame_len_max(env.mode, mtu, v6) as u16);
    Ok(Path { hop: kernel_hop, frame_max, frame_reported, slot: NO_SLOT, gso_disabled: false })
}

fn remove_peer(peer: PeerId, state: &mut State, env: &mut Environment) -> Result<(), Refusal> {
    match env.mode {
        Mode::Ethernet => state.fdb.forget_peer(peer),
        Mode::Ip => state.policy.forget_peer(peer),
    }
    for slot in PathId::all().filter_map(|path| state.tables.remove_path(peer, path).ok()) {
        env.port.path_remove(slot);
    }
    state.tables.remove_peer(peer, |direction, spi, slot| forget_sa(peer, spi, direction, slot, env))?;
    env.port.peer_remove(peer);
    state.fdb.share_among(state.tables.peer_count());
    Ok(())
}

/// The SPI is the peer's choice and says nothing about our workers; which of them has the SA is the control plane's choice, once.
fn install_outbound(sa: &control::OutboundSa, state: &mut State, env: &mut Environment) -> Result<(), Refusal> {
    let child = state.tables.peer(sa.peer).ok_or(Refusal::NoSuchPeer)?.child(sa.child).ok_or(Refusal::NoSuchChild)?;
    // Only the EtherIP header has a bit that says that a checksum is open.
    if sa.defer_checksums && env.mode != Mode::Ethernet {
        return Err(Refusal::WrongMode);
    }
    if !child.has_lane(env.id) {
        return Err(Refusal::WrongWorker);
    }
    let claim = env.registry.claim_outbound(env.id, sa.peer, sa.spi)?;
    let (slot, before) = match state.tables.install_outbound(sa) {
        Ok(installed) => installed,
        Err(why) => {
            if claim == Claim::New {
                env.registry.release_outbound(env.id, sa.peer, sa.spi);
            }
            return Err(why);
        }
    };
    env.port.sa_install(
        slot,
        &LiveSa {
            spi: sa.spi,
            direction: Direction::Outbound,
            peer: sa.peer,
            child: sa.child,
            suite: sa.suite,
            window: 0,
            seq: sa.seq_next - 1,
            seq_limit: sa.seq_limit,
            packets: 0,
            bytes: 0,
        },
    );
    let Some((spi, old)) = before else { return Ok(()) };
    if old != slot {
        env.port.sa_remove(old);
    }
    if spi != sa.spi {
        env.registry.release_outbound(env.id, sa.peer, spi);
    }
    Ok(())
}

fn install_inbound(sa: &control::InboundSa, state: &mut State, env: &mut Environment) -> Result<(), Refusal> {
    if esp::worker_of(sa.spi, env.handover.workers()) != env.id {
        return Err(Refusal::WrongWorker);
    }
    let slot = state.tables.install_inbound(sa)?;
    env.registry.add_inbound(env.id, sa.spi);
    env.port.sa_install(
        slot,
        &LiveSa {
            spi: sa.spi,
            direction: Direction::Inbound,
            peer: sa.peer,
            child: sa.child,
            suite: sa.suite,
            window: sa.window,
            seq: sa.seq_top,
            seq_limit: 0,
            packets: 0,
            bytes: 0,
        },
    );
    Ok(())
}

fn remove_sa(peer: PeerId, spi: Spi, direction: Direction, state: &mut State, env: &mut Environment) -> Result<(), Refusal> {
    let slot = match direction {
        Direction::Inbound => state.tables.remove_inbound(peer, spi)?,
        Direction::Outbound => state.tables.remove_outbound(peer, spi)?,
    };
    forget_sa(peer, spi, direction, slot, env);
    Ok(())
}

/// Takes back what others were told of an SA that is gone.
fn forget_sa(peer: PeerId, spi: Spi, direction: Direction, slot: u32, env: &Environment) {
    env.port.sa_remove(slot);
    match direction {
        Direction::Inbound => env.registry.remove_inbound(env.id, spi),
        Direction::Outbound => env.registry.release_outbound(env.id, peer, spi),
    }
}

fn pin(mac: control::Mac, peer: PeerId, state: &mut State) -> Result<(), Refusal> {
    if state.tables.peer(peer).is_none() {
        return Err(Refusal::NoSuchPeer);
    }
    state.fdb.pin(mac, peer)
}

/// Shows the sizes of the tables.
fn show(state: &State, env: &mut Environment) {
    env.port.gauge(Gauge::Selectors, state.policy.len() as i64);
    env.port.gauge(Gauge::Peers, state.tables.peer_count() as i64);
    env.port.gauge(Gauge::InboundSas, state.tables.inbound_count() as i64);
    env.port.gauge(Gauge::OutboundSas, state.tables.outbound_count() as i64);
    env.port.gauge(Gauge::FdbEntries, state.fdb.len() as i64);
    env.port.gauge(Gauge::HalvesBytes, state.tables.halves_bytes() as i64);
}

/// Sends what the control plane wants sent from the port that the data uses. True when there is more.
#[inline]
fn inject(state: &mut State, env: &mut Environment) -> bool {
    env.port.has_injects() && inject_some(state, env)
}

fn inject_some(state: &mut State, env: &mut Environment) -> bool {
    for _ in 0..INJECTS_PER_TURN {
        let Some((header, len)) = env.port.next_inject(&mut env.inject) else { break };
        let hop = udp::Hop::new(header.to, header.local, header.interface, env.udp.mapped);
        let (class, datagram) = (header.class, &env.inject[..len]);
        state.punts.sent(datagram, state.now_us());
        let sent = hop.is_some_and(|hop| match header.fragments {
            true => env.udp.send_in_fragments(&hop, class, datagram).is_ok(),
            false => env.udp.send(&hop, class, datagram, len).is_ok(),
        });
        if sent {
            env.port.count(Count::Injected, 1);
        } else {
            env.port.drop(Drop::InjectBad, 1);
        }
    }
    env.port.has_injects()
}
