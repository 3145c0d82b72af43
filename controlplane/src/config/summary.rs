//! What a gateway with a configuration would do, in a few lines for people.

use std::fmt;

use adit_engine::path::Origin;
use adit_proto::control::Mode;
use adit_proto::relay::RoomName;

use super::ike_section::Role;
use super::{Config, KEY_LOG_WARNING, Keys, MacText, Peer};

/// Where a peer is, and from where it may come.
fn place(peer: &Peer, has_relay: bool) -> String {
    let waits = peer.ike().is_some_and(|ike| ike.role == Role::Responder);
    let at = match (peer.endpoints.is_empty() && has_relay, waits) {
        (true, false) => "met at the relay".to_owned(),
        (true, true) => "at any, or met at the relay".to_owned(),
        (false, _) => format!("at {}", peer.endpoint_text()),
    };
    match &peer.from {
        Origin::Anywhere => at,
        Origin::Endpoints => format!("{at} and nowhere else"),
        Origin::Networks(networks) => {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            format!("{at} or from {}", networks.join(", "))
        }
    }
}

/// What a gateway with this configuration would do, for people.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { interface, dataplane, forwarding, .. } = self;
        writeln!(f, "gateway {} receives on UDP {}", self.name, self.listen_text())?;
        if let Some(dir) = &self.ike.key_log_dir {
            writeln!(f, "WARNING: the keys of every SA go to {}: {KEY_LOG_WARNING}", dir.display())?;
        }
        write!(f, "interface {}, MTU {}", interface.name, interface.mtu)?;
        match self.mode {
            Mode::Ethernet => write!(f, ", MAC {}", MacText(interface.mac))?,
            Mode::Ip => f.write_str(", for IP packets")?,
        }
        if let Some(bridge) = &interface.bridge {
            write!(f, ", in bridge {bridge}")?;
        }
        for address in &interface.addresses {
            write!(f, ", {address}")?;
        }
        writeln!(f)?;
        for route in self.routes() {
            match route.via {
                Some(via) => writeln!(f, "route {} via {via}", route.to)?,
                None => writeln!(f, "route {} through {}", route.to, interface.name)?,
            }
        }
        let cores = dataplane.cores.as_ref().map_or(String::new(), |cores| format!(" on cores {cores:?}"));
        writeln!(f, "{} workers{cores}, I/O {}, crypto {}", dataplane.workers, dataplane.io.name(), dataplane.crypto.name())?;
        if self.mode == Mode::Ethernet {
            writeln!(f, "{} pinned addresses, {} learned at most", forwarding.pinned.len(), forwarding.max_entries)?;
        }
        if let Some(relay) = &self.relay {
            let by = if relay.token_file.is_some() { "by token" } else { "by the key of this gateway" };
            let rooms: Vec<&str> = relay.rooms.iter().map(RoomName::as_str).collect();
            let word = if rooms.len() == 1 { "room" } else { "rooms" };
            writeln!(f, "relay wss://{} {word} {}, {by}", relay.at, rooms.join(", "))?;
        }
        for peer in &self.peers {
            let at = place(peer, self.relay.is_some());
            match &peer.keys {
                Keys::Static { secret, .. } => {
                    writeln!(f, "peer {} {at}, {} lanes of {}", peer.name, peer.lanes, secret.suite())?
                }
                Keys::Ike(ike) => {
                    write!(f, "peer {} {at}, by IKE as {} ({})", peer.name, ike.id, ike.role.name())?;
                    match &ike.ppk {
                        Some(ppk) if ppk.required => writeln!(f, ", with the post-quantum pre-shared key {}", ppk.id)?,
                        Some(ppk) => writeln!(f, ", with the post-quantum pre-shared key {} where the peer has it", ppk.id)?,
                        None => writeln!(f)?,
                    }
                }
            }
        }
        for (peer, selector) in self.peers.iter().flat_map(|peer| peer.selectors.iter().map(move |selector| (peer, selector))) {
            writeln!(f, "packets {selector} belong to {}", peer.name)?;
        }
        if let Some(listen) = self.metrics_listen {
            writeln!(f, "metrics on http://{listen}/metrics")?;
        }
        if let Some(api) = &self.api {
            writeln!(f, "API on http://{}/v1, with the token in {}", api.listen, api.token.file.display())?;
        }
        writeln!(f, "runs in {}, keeps sequence numbers in {}", self.runtime_dir.display(), self.state_dir.display())
    }
}
