//! A gateway, a peer that is honest, and everybody else: who is there, how time passes, and what must hold all the while.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use adit_engine::auth::{LocalAuth, RemoteAuth};
use adit_engine::ike::selectors::SelectorPair;
use adit_engine::ike::{ConnectionState, EndpointConfig, Limits, PeerConfig, PeerId, PeerStatus, Share};
use adit_proto::ike::Message;

use adit_sim::certificates::Authority;
use adit_sim::*;

use super::hand::Hand;
use super::{Campaign, Weakness};

pub const GATEWAY: usize = 0;
pub const HONEST: usize = 1;
/// Machines with the credentials of the other peer, which is up to no good.
pub const INSIDERS: std::ops::Range<usize> = 2..6;
/// Somebody who says that he is the honest peer and has not its secret.
pub const PRETENDER: usize = 6;
/// The honest peer, as the gateway knows it; the other one is [`PEER`].
pub const GUEST: PeerId = PeerId(1);

pub const GUEST_SECRET: &str = "what only the honest peer and the gateway know";
pub const GUEST_NAME: &str = "c.example.org";
/// Messages in a second that an engine takes where nothing stands before it: however many, there are floods of more.
const QUEUE_PER_S: u32 = 300;
/// Time passes in steps of this length.
pub const TICK: Duration = Duration::from_millis(50);

/// Small, so that little fills them.
pub const LIMITS: Limits = Limits {
    half_open: 64,
    half_open_per_address: 8,
    cookie_threshold: 16,
    cookie_threshold_per_address: 4,
    sessions: 32,
    workers: 1,
    unprotected_replies: 64,
    refusals: 3,
};
const ROOMY: Limits = Limits { half_open: 4096, half_open_per_address: 64, ..LIMITS };
pub const SHARE: Share = Share { sas: 24, selectors: 64 };
/// IKE SAs that the gateway itself begins, with both peers.
const OWN_ATTEMPTS: usize = 4;
/// Half-open IKE SAs that each known address may have in any case.
const OWN_PLACES: usize = 4;
/// Bytes of what is kept for a successor: a few IKE SAs of two peers.
const VAULT_MAX: usize = 256 << 10;

/// What was seen to be wrong.
pub type Outcome = Result<(), String>;

pub struct Scene {
    pub world: World,
    pub family: Family,
    /// What the wrong-doers and the operators draw from; the network has its own.
    pub rng: Rng,
    pub campaigns: Vec<Campaign>,
    pub hands: Vec<Hand>,
    /// First messages of the honest peer and of the other one.
    pub templates: [Message; 2],
    /// Begun by somebody who receives at his address and has no key: where, and with what.
    pub begun: VecDeque<(SocketAddr, Message)>,
    /// Messages of the log that the wrong-doers have read.
    pub read: usize,
    /// How late in a tick a datagram may be thrown, where a campaign is paced evenly.
    pub spread: Duration,
    pub configs: [PeerConfig; 3],
    limits: Limits,
    /// What the gateway may not go beyond, though one of its defences is off.
    bounds: Limits,
    /// Whether data planes echo.
    echo: bool,
    /// Packets of the honest peer go both ways, and none may be lost.
    pub carries: bool,
}

/// Limits of the gateway, where one of its defences is off.
fn limits(weakness: Weakness) -> Limits {
    match weakness {
        Weakness::NoCookies => Limits { cookie_threshold: usize::MAX, cookie_threshold_per_address: usize::MAX, ..LIMITS },
        Weakness::Roomy => ROOMY,
        Weakness::NoHalfOpenLimit => Limits { half_open: 1 << 20, half_open_per_address: 1 << 20, ..LIMITS },
        _ => LIMITS,
    }
}

/// By which IP everybody speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    /// A /24 is a /64 here, and a /16 a /48.
    V6,
}

impl Family {
    pub fn at(self, ip: impl Into<Ipv4Addr>) -> SocketAddr {
        let [a, b, c, d] = ip.into().octets();
        let v6 = [0x2001, 0xdb8, u16::from_be_bytes([a, b]), u16::from(c), 0, 0, 0, u16::from(d)];
        let ip = if self == Family::V4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(v6) };
        SocketAddr::new(ip, 4500)
    }
}

impl Scene {
    pub fn new(seed: u64, weakness: Weakness) -> Scene {
        let mut world = World::new(seed);
        let mut rng = Rng::new(seed ^ 0xf0e);
        world.overheard = Some(VecDeque::new());
        let loss = [0, 0, 30, 100][rng.below(4) as usize];
        let slowest = Duration::from_millis(u64::from(2 + rng.below(80)));
        world.net = Net { loss, duplication: rng.below(2) * 60, delay: (Duration::from_millis(1), slowest) };
        let echo = rng.below(2) == 0;
        let config = |secret| EndpointConfig { echo, ..endpoint_config(secret) };
        let limits = limits(weakness);
        let family = [Family::V4, Family::V6][rng.below(2) as usize];
        let mut add = |ip: [u8; 4], config| world.add(&family.at(ip).to_string(), config);
        add([192, 0, 2, 2], EndpointConfig { limits, ..config(2) });
        add([192, 0, 2, 3], config(3));
        for number in INSIDERS {
            add([198, 51, 100, number as u8], config(7));
        }
        add([203, 0, 113, 77], config(8));
        let configs = peers(&mut rng, weakness, family);
        let templates = [1, 2].map(|of| first_message(&configs[of]));
        let gate = if weakness == Weakness::NoScreen { Gate::queue(QUEUE_PER_S) } else { Gate::screen(2) };
        world.nodes[GATEWAY].gate = Some(gate);
        for node in INSIDERS.chain([PRETENDER]) {
            world.nodes[node].on = false;
        }
        let mut scene = Scene {
            world,
            family,
            rng,
            campaigns: Vec::new(),
            hands: Vec::new(),
            templates,
            begun: VecDeque::new(),
            read: 0,
            spread: Duration::ZERO,
            configs,
            limits,
            bounds: if weakness == Weakness::Roomy { ROOMY } else { LIMITS },
            echo,
            carries: false,
        };
        let [honest, insider, _] = scene.configs.clone();
        scene.world.set_peer(GATEWAY, GUEST, honest);
        scene.world.set_peer(GATEWAY, PEER, insider);
        scene
    }

    /// Whether the gateway agrees on an additional key exchange with everybody.
    pub fn proposals_want_more(&self) -> bool {
        self.configs[1].proposals.contains(&hybrid())
    }

    pub fn gateway_config(&self) -> EndpointConfig {
        EndpointConfig { limits: self.limits, ..self.endpoint(2) }
    }

    pub fn endpoint(&self, secret: u8) -> EndpointConfig {
        EndpointConfig { echo: self.echo, ..endpoint_config(secret) }
    }

    /// The honest peer begins.
    pub fn honest_comes(&mut self) {
        let own = self.configs[2].clone();
        self.world.set_peer(HONEST, PEER, own);
    }

    /// Where the gateway is, and where the honest peer is.
    pub fn at(&self, node: usize) -> SocketAddr {
        self.world.nodes[node].address
    }

    /// Lets a little time pass, with all that the wrong-doers do in it, and looks whether all is well.
    pub fn tick(&mut self) -> Outcome {
        if self.carries {
            self.world.send_esp(HONEST);
            self.world.send_esp(GATEWAY);
        }
        self.campaign();
        self.world.run_for(TICK);
        self.check_limits()
    }

    pub fn pass(&mut self, time: Duration) -> Outcome {
        let end = self.world.now + time;
        while self.world.now < end {
            self.tick()?;
        }
        Ok(())
    }

    /// Lets time pass until something is so.
    pub fn until(&mut self, limit: Duration, what: &str, done: impl Fn(&Scene) -> bool) -> Outcome {
        let end = self.world.now + limit;
        while !done(self) {
            if self.world.now >= end {
                return Err(format!("{what}: not after {limit:?}, at {:?}: {}", self.world.elapsed(), self.picture()));
            }
            self.tick()?;
        }
        Ok(())
    }

    /// What every wrong-doer takes is within its share, and what all take within the limits.
    fn check_limits(&self) -> Outcome {
        let gateway = &self.world.nodes[GATEWAY];
        let (sizes, limits) = (gateway.endpoint.sizes(), self.bounds);
        let known = gateway.endpoint.known_addresses().filter(|address| address.port() == 0).count();
        let half_open_max = limits.half_open + limits.cookie_threshold + OWN_PLACES * known;
        let ike_max = half_open_max + 2 * adit_proto::limits::IKE_SAS_OF_PEER_MAX + OWN_ATTEMPTS;
        let of_insider = gateway.data.inbound.values().filter(|keys| keys.peer == PEER);
        let sending = gateway.data.outbound.iter().filter(|keys| keys.peer == PEER).count();
        let ike = gateway.endpoint.status(PEER).map_or(0, |status| status.ike.len());
        let granted = SelectorPair { local: self.configs[1].children[0].local.clone(), remote: insiders_networks() };
        let reported = gateway
            .gate
            .as_ref()
            .map_or(0, |gate| gate.ike.iter().filter(|spis| gateway.endpoint.peer_of(**spis).is_none()).count());
        let bounds = [
            ("IKE SAs that are gone and known to the data plane", reported, 0),
            ("half-open IKE SAs", sizes.half_open, half_open_max),
            ("IKE SAs", sizes.ike_sas, ike_max),
            ("IKE SAs of one peer", ike, adit_proto::limits::IKE_SAS_OF_PEER_MAX),
            ("SAs of one peer", of_insider.clone().count() + sending, 2 * SHARE.sas),
            ("SAs of one peer to receive by", of_insider.clone().count(), SHARE.sas),
            ("SAs to receive by that the engine has forgotten", gateway.data.inbound.len().saturating_sub(sizes.inbound_spis), 0),
            ("refusals", sizes.refusals, 64),
            ("bytes in the vault", gateway.vault.len(), VAULT_MAX),
            ("SAs with networks of others", of_insider.filter(|keys| !granted.covers(&keys.selectors)).count(), 0),
        ];
        match bounds.into_iter().find(|(_, there, most)| there > most) {
            Some((what, there, most)) => Err(format!("{there} {what}, more than {most}, at {:?}", self.world.elapsed())),
            None => Ok(()),
        }
    }

    /// Whether the gateway looks for the honest peer at its address.
    pub fn is_looked_for(&self) -> bool {
        !self.configs[0].remotes.is_empty()
    }

    /// Whether both ends have everything, and the same.
    pub fn is_connected(&self) -> bool {
        let (there, here) = (self.status(GATEWAY), self.status(HONEST));
        let complete = |status: &PeerStatus| {
            status.state == ConnectionState::Established
                && status.ike.len() == 1
                && status.ike[0].children.iter().any(|child| child.is_sending)
        };
        complete(&there) && complete(&here) && there.ike[0].spis == here.ike[0].spis
    }

    pub fn status(&self, node: usize) -> PeerStatus {
        let peer = if node == GATEWAY { GUEST } else { PEER };
        self.world.nodes[node].endpoint.status(peer).expect("the honest peer is configured")
    }

    /// Packets of the honest peer that a gateway has lost: sent so long ago that none of them is on its way any more.
    pub fn lost(&self) -> Vec<String> {
        let long_ago = self.world.now - Duration::from_secs(1);
        let honest = |one: &&Missing| one.by == HONEST || one.by == GATEWAY && one.peer == GUEST;
        let of = |one: &Missing| {
            format!("{:08x} by {} at {:?}", one.spi.0, one.by, self.world.elapsed() - (self.world.now - one.sent))
        };
        self.world.ledger.missing().filter(honest).filter(|one| one.sent < long_ago).map(of).collect()
    }

    pub fn picture(&self) -> String {
        let node = |node| {
            let status = self.status(node);
            let ike: Vec<String> =
                status.ike.iter().map(|ike| format!("{} at {} {}", ike.spis, ike.hop.remote(), ike.children.len())).collect();
            format!("{:?} {:?} {ike:?}", status.state, status.cause)
        };
        let endpoint = &self.world.nodes[GATEWAY].endpoint;
        let names: Vec<&str> = self.campaigns.iter().map(|one| one.name).collect();
        let counters: Vec<_> = endpoint.counters().iter().filter(|(_, count)| *count > 0).collect();
        let dropped = self.world.nodes[GATEWAY].gate.as_ref().map(|gate| gate.dropped);
        format!(
            "{:?} {names:?}\n{}\n{}\n{:?}\n{counters:?}\nbefore it {dropped:?}",
            self.family,
            node(GATEWAY),
            node(HONEST),
            endpoint.sizes()
        )
    }

    /// Somebody, somewhere.
    pub fn anywhere(&mut self) -> SocketAddr {
        let [_, b, c, d] = (self.rng.next() as u32).to_be_bytes();
        let port = [500, 4500, 1024 + (self.rng.below(60_000) as u16)][self.rng.below(3) as usize];
        SocketAddr::new(self.family.at([10, b, c, d]).ip(), port)
    }

    /// Throws an IKE message, which has no marker yet, at a gateway.
    pub fn throw(&mut self, from: SocketAddr, to: SocketAddr, message: &[u8]) {
        let framed = [&[0; 4], message].concat();
        self.throw_load(from, to, Load::Ike(framed));
    }

    pub fn throw_load(&mut self, from: SocketAddr, to: SocketAddr, load: Load) {
        let micros = u32::try_from(self.spread.as_micros()).expect("a short time");
        let late = Duration::from_micros(u64::from(10 + self.rng.below(micros)));
        self.world.inject_after(late, from, to, load);
    }
}

/// What the other peer may have traffic from.
fn insiders_networks() -> Vec<adit_proto::ike::IpSelector> {
    vec![net("10.1.0.0/16")]
}

/// The honest peer and the other one, as the gateway knows them, and the gateway as the honest peer knows it.
fn peers(rng: &mut Rng, weakness: Weakness, family: Family) -> [PeerConfig; 3] {
    let [gateway, at_home] = [family.at([192, 0, 2, 2]), family.at([192, 0, 2, 3])];
    let proposals = [vec![classic()], vec![hybrid()], vec![hybrid(), classic()]][rng.below(3) as usize].clone();
    let child = [esp(), esp_pfs(), esp_hybrid()][rng.below(3) as usize].clone();
    let mobike = rng.below(2) == 0;
    let share = if weakness == Weakness::NoShares { Share { sas: 4096, selectors: 4096 } } else { SHARE };
    let local = Some(gateway);
    let mut insider = PeerConfig { initiate: false, local, remotes: Vec::new(), proposals, mobike, share, ..peer(B) };
    insider.children[0].proposals = vec![child.clone(), esp()];
    let (proof, own_proof) = honest_proofs(rng);
    let (local_auth, remote_auth) = proof;
    let mut honest = PeerConfig { name: "c".into(), local_auth, remote_auth, ..insider.clone() };
    honest.share = SHARE;
    honest.remote_id = GUEST_NAME.parse().expect("an identity");
    honest.children[0].remote = vec![net("10.3.0.0/16")];
    // Looked for at its address, or met from anywhere.
    honest.remotes = [Some(at_home), None][rng.below(2) as usize].into_iter().collect();
    let mut own = PeerConfig { initiate: true, local: Some(at_home), remotes: vec![gateway], ..honest.clone() };
    (own.local_auth, own.remote_auth) = own_proof;
    own.name = "b".into();
    (own.local_id, own.remote_id) = (GUEST_NAME.parse().expect("an identity"), "b.example.org".parse().expect("an identity"));
    let side = &mut own.children[0];
    std::mem::swap(&mut side.local, &mut side.remote);
    [honest, insider, own]
}

/// How the gateway and the honest peer prove themselves to each other: with a secret, or with certificates.
fn honest_proofs(rng: &mut Rng) -> ((LocalAuth, RemoteAuth), (LocalAuth, RemoteAuth)) {
    if rng.below(2) == 0 {
        return (psk(GUEST_SECRET), psk(GUEST_SECRET));
    }
    let ca = Authority::new("CA of the honest ones");
    let proof = |name| (ca.issue_for(&[name]), ca.trusted());
    (proof("b.example.org"), proof(GUEST_NAME))
}

/// What somebody with these proposals sends first.
fn first_message(config: &PeerConfig) -> Message {
    let mut world = pair(1, |_, own| (own.initiate, own.proposals) = (false, config.proposals.clone()));
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    Message::decode(&world.log[0].2[4..]).expect("a request")
}
