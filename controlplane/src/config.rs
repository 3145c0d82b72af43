//! The configuration of a gateway: YAML text → [`tree`] (with places) → [`raw`] (the keys that there are) → [`check`] (what it
//! means, every mistake
//! found) → [`Config`] (nothing left to doubt). [`show`] writes a `Config` back as YAML, with every default filled in.

mod check;
pub mod endpoint;
mod foreign;
pub mod ike_section;
mod problem;
mod raw;
pub mod relay_file;
mod show;
mod summary;
mod tree;

use std::fmt;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use adit_channel::SA_SLOTS_MAX;
use adit_engine::path::Origin;
use adit_proto::class::Dscp;
use adit_proto::control::{Mac, Mode, Selector};
use adit_proto::esp;
use adit_proto::limits::{IPV6_MTU_MIN, SELECTORS_OF_TABLE_MAX};
use adit_proto::relay::{HostPort, RoomName};
use adit_relay::tls::Pin;
use ipnet::IpNet;

pub use endpoint::Endpoint;
pub use foreign::Remedy;
pub use problem::{Place, Problem, Problems};

use crate::limits::{CHILDREN_MIN, CONFIG_BYTES_MAX};
use crate::service;
use crate::static_key::Secret;

pub use adit_proto::limits::WORKERS_MAX;
/// What is to be known by whoever has the keys logged.
pub const KEY_LOG_WARNING: &str =
    "who can read them reads all that was captured or will be. Take ike.key_log_dir out when the analysis is done";
/// The shortest configuration that does something.
const EXAMPLE: &str = "name: site-a\nlisten: 0.0.0.0:4500\ninterface: { name: adit0, addresses: [10.1.0.1/24] }\npeers:\n  - { name: site-b, endpoint: \"192.0.2.2:4500\", ike: { psk_file: site-b.psk } }";

/// A gateway's configuration with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub name: String,
    /// The port is 0 where the system is to choose one.
    pub listen: SocketAddr,
    /// The interface of a link-local address in it.
    pub listen_interface: Option<String>,
    pub interface: Interface,
    /// Largest outer IP packet on the way to the peers, in bytes.
    pub underlay_mtu: u16,
    /// What it carries.
    pub mode: Mode,
    /// What the outer headers say of the class of what is carried.
    pub dscp: Dscp,
    /// The MSS in SYNs is brought down to what the path takes. Only in IP mode.
    pub mss_clamp: MssClamp,
    /// What becomes of what is too long for the path and cannot be cut.
    pub oversize: Oversize,
    pub dataplane: Dataplane,
    pub forwarding: Forwarding,
    pub ike: ike_section::Ike,
    pub peers: Vec<Peer>,
    pub metrics_listen: Option<SocketAddr>,
    pub api: Option<Api>,
    /// DNS names under which metrics and API may be asked for over TCP, beside addresses and `localhost`.
    pub http_names: Vec<String>,
    /// Servers that say where we are seen, for `adit nat`.
    pub stun: Vec<Endpoint>,
    /// The relay over which peers are met that cannot be reached otherwise.
    pub relay: Option<Relay>,
    pub runtime_dir: PathBuf,
    /// The data plane is a service of its own, with this name: not a key of the file, but how this process was started.
    pub service: Option<String>,
    pub state_dir: PathBuf,
}

/// A relay, and how this gateway comes in.
#[derive(Clone, Debug, PartialEq)]
pub struct Relay {
    pub at: HostPort,
    pub trust: RelayTrust,
    /// At least one.
    pub rooms: Vec<RoomName>,
    /// Without one, the rooms list the key of this gateway.
    pub token_file: Option<PathBuf>,
}

/// By what a relay is known.
#[derive(Clone, Debug, PartialEq)]
pub enum RelayTrust {
    /// One of these is the hash of its key.
    Pins(Vec<Pin>),
    /// The CAs in this file.
    Ca(PathBuf),
}

/// The TAP interface and what the kernel is told about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    pub name: String,
    /// MTU for IP inside the tunnel, in bytes.
    pub mtu: u16,
    /// The bridge that it is a port of.
    pub bridge: Option<String>,
    pub addresses: Vec<IpNet>,
    pub routes: Vec<Route>,
    /// The same after every restart, or the neighbours would talk to an address that is gone.
    pub mac: Mac,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub to: IpNet,
    pub via: Option<IpAddr>,
    /// Longest packet on it, in bytes, when that is said of it.
    pub mtu: Option<u16>,
}

/// How the data plane is started.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataplane {
    /// The program; without it `adit-dataplane` beside this program, else in PATH.
    pub binary: Option<PathBuf>,
    pub workers: u16,
    /// One CPU per worker; without it the data plane chooses.
    pub cores: Option<Vec<usize>>,
    /// Whether a worker with little to do may leave its core: if not said, where no cores are named.
    pub roam: bool,
    pub io: Io,
    pub crypto: Crypto,
    /// In packets.
    pub replay_window: u16,
    /// In bytes, per worker and direction.
    pub socket_buffer: u32,
    /// For how long an idle worker looks for an answer before it sleeps, in microseconds.
    pub busy_poll_us: u32,
}

/// Whether the MSS in SYNs is brought down to what the path takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssClamp {
    Auto,
    Off,
}

impl MssClamp {
    pub const ALL: [MssClamp; 2] = [MssClamp::Auto, MssClamp::Off];

    pub const fn name(self) -> &'static str {
        match self {
            MssClamp::Auto => "auto",
            MssClamp::Off => "off",
        }
    }
}

/// What becomes of what is too long for the path and cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// Its sender is told by ICMP what fits.
    Icmp,
    /// It goes in two sealed packets to peers that say the same, and to others as above.
    Split,
}

impl Oversize {
    pub const ALL: [Oversize; 2] = [Oversize::Icmp, Oversize::Split];

    pub const fn name(self) -> &'static str {
        match self {
            Oversize::Icmp => "icmp",
            Oversize::Split => "split",
        }
    }
}

/// How workers wait for packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    Auto,
    IoUring,
    Poll,
}

/// The library that seals and opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crypto {
    Auto,
    AwsLc,
    IpsecMb,
    RustCrypto,
}

impl Io {
    pub const ALL: [Io; 3] = [Io::Auto, Io::IoUring, Io::Poll];

    pub const fn name(self) -> &'static str {
        match self {
            Io::Auto => "auto",
            Io::IoUring => "io_uring",
            Io::Poll => "poll",
        }
    }
}

impl Crypto {
    pub const ALL: [Crypto; 4] = [Crypto::Auto, Crypto::AwsLc, Crypto::IpsecMb, Crypto::RustCrypto];

    pub const fn name(self) -> &'static str {
        match self {
            Crypto::Auto => "auto",
            Crypto::AwsLc => "aws-lc",
            Crypto::IpsecMb => "ipsec-mb",
            Crypto::RustCrypto => "rustcrypto",
        }
    }
}

/// The table that says behind which peer an address lives.
#[derive(Clone, Debug, PartialEq)]
pub struct Forwarding {
    pub ageing_s: u32,
    pub max_entries: u32,
    /// Flooded frames per second and worker.
    pub flood_pps: u32,
    /// Frames go on from peer to peer.
    pub forward: bool,
    /// Addresses that always live behind one peer, which is named by its place in the list of peers.
    pub pinned: Vec<(Mac, usize)>,
}

/// A gateway at the other end.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    pub name: String,
    /// Where it receives, the preferred one first. Only a peer that comes to us by IKE may do without.
    pub endpoints: Vec<Endpoint>,
    /// From where it may come and to where it may move, beside that.
    pub from: Origin,
    pub keys: Keys,
    /// SAs in each direction. With a static key, the same number at both ends; with IKE, the most that we ask for.
    pub lanes: u16,
    /// Only with Ethernet.
    pub defer_checksums: bool,
    /// With a static key: the other end answers sealed echoes. By IKE it says so itself.
    pub echo: bool,
    /// With a static key: the other end has `oversize: split`. By IKE it says so itself.
    pub split: bool,
    /// Which packets are for it, in IP mode.
    pub selectors: Vec<Selector>,
}

/// Where the keys of a peer's SAs come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    Static { file: PathBuf, secret: Secret },
    Ike(Box<ike_section::PeerIke>),
}

impl Peer {
    /// The static key, if the peer has one.
    pub fn secret(&self) -> Option<&Secret> {
        match &self.keys {
            Keys::Static { secret, .. } => Some(secret),
            Keys::Ike(_) => None,
        }
    }

    /// What IKE agrees on, if it is to make the keys.
    pub fn ike(&self) -> Option<&ike_section::PeerIke> {
        match &self.keys {
            Keys::Static { .. } => None,
            Keys::Ike(ike) => Some(ike),
        }
    }

    /// Where its keys come from, in the API and in metrics.
    pub const fn keys_from(&self) -> &'static str {
        match self.keys {
            Keys::Static { .. } => "static_key",
            Keys::Ike(_) => "ike",
        }
    }

    /// Its addresses and names, for people.
    pub fn endpoint_text(&self) -> String {
        if self.endpoints.is_empty() {
            return "any".to_owned();
        }
        self.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Whether it may be reached over IPv6: one such way is enough to leave room for the longer header.
    fn may_be_ipv6(&self, listen: SocketAddr) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.is_ipv6().unwrap_or(listen.is_ipv6()))
    }
}

/// The API over TCP.
#[derive(Clone, Debug, PartialEq)]
pub struct Api {
    pub listen: SocketAddr,
    /// Who has it may do everything.
    pub token: ike_section::Loaded<crate::token::Token>,
}

/// Facts about the machine that a configuration is judged against.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The CPUs that this process may run on.
    pub cores: Vec<usize>,
}

impl Machine {
    /// The machine that this process runs on.
    pub fn here() -> Machine {
        let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
        Machine { cores: (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect() }
    }
}

impl Config {
    /// Reads and judges the file, and the key files that it names. `-` is standard input.
    ///
    /// # Errors
    /// Every mistake in it; when the YAML itself is broken, the first.
    pub fn load(file: &Path, machine: &Machine) -> Result<Config, Problems> {
        Config::of_text(file, &Config::text(file)?, machine)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// It cannot be read, or is no text.
    pub fn text(file: &Path) -> Result<String, Problems> {
        let fail = |what: String, write: String| {
            let expected = format!("a readable file of UTF-8 text, at most {} MiB", CONFIG_BYTES_MAX >> 20);
            Problems::new(file.to_owned(), "", vec![Problem::new(Place::FILE, what, expected, write)])
        };
        let unreadable =
            |error: std::io::Error| fail(format!("the file cannot be read: {error}"), "the path of a file that exists".into());
        let mut bytes = Vec::new();
        let most = CONFIG_BYTES_MAX + 1;
        if file == Path::new("-") {
            std::io::stdin().take(most).read_to_end(&mut bytes).map_err(unreadable)?;
        } else {
            let opened = std::fs::File::open(file).map_err(unreadable)?;
            opened.take(most).read_to_end(&mut bytes).map_err(unreadable)?;
        }
        if bytes.len() as u64 == most {
            return Err(fail("the file is too long".to_owned(), "a shorter file".into()));
        }
        String::from_utf8(bytes).map_err(|error| {
            fail(format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()), "the file in UTF-8 encoding".into())
        })
    }

    /// Judges the text of this file, and the files that it names.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of_text(file: &Path, text: &str, machine: &Machine) -> Result<Config, Problems> {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        Config::from_yaml(text, &directory, machine).map_err(|list| Problems::new(file.to_owned(), text, list))
    }

    /// Judges the text of a file; relative paths in it start at `directory`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_yaml(source: &str, directory: &Path, machine: &Machine) -> Result<Config, Vec<Problem>> {
        let tabs = raw::tabs(source);
        if !tabs.is_empty() {
            return Err(tabs);
        }
        let tree = tree::parse(source).map_err(|problem| vec![problem])?;
        if matches!(tree.value, tree::Value::Nothing) {
            let expected = "a configuration with at least the keys name, listen, interface and peers";
            return Err(vec![Problem::new(Place::FILE, "the file is empty", expected, EXAMPLE)]);
        }
        if let Some(problem) = relay_file::is_relays(&tree) {
            return Err(vec![problem]);
        }
        let (root, read) = raw::read(&tree);
        check::Check::new(directory, machine, read).root(root).map_err(|mut problems| {
            let paths = tree::paths(&tree);
            for problem in &mut problems {
                let path = paths.get(&(problem.at.line, problem.at.column)).map_or("", String::as_str);
                problem.key = if problem.key.is_empty() { path.to_owned() } else { tree::joined(path, &problem.key) };
            }
            problems
        })
    }

    /// The whole configuration as YAML that `load` reads back to the same value. Keys of ciphers are never part of it.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_yaml(&self) -> anyhow::Result<String> {
        show::to_yaml(self)
    }

    /// `listen` as it is written.
    pub fn listen_text(&self) -> String {
        match &self.listen_interface {
            Some(interface) => format!("[{}%{interface}]:{}", self.listen.ip(), self.listen.port()),
            None => self.listen.to_string(),
        }
    }

    /// The socket over which the planes meet.
    pub fn channel_socket(&self) -> PathBuf {
        match &self.service {
            Some(service) => service::socket(service),
            None => self.runtime_dir.join("dataplane.sock"),
        }
    }

    /// The socket of the API.
    pub fn api_socket(&self) -> PathBuf {
        self.runtime_dir.join("api.sock")
    }

    /// Whether what is too long goes to this peer, with a static key, in two packets.
    pub fn splits(&self, peer: &Peer) -> bool {
        self.oversize == Oversize::Split && peer.split
    }

    /// Routes through the interface: those of the file, and in IP mode one to each remote network of a peer, connected or not, with
    /// the length of the packets that fit the way to that peer.
    pub fn routes(&self) -> Vec<Route> {
        self.routes_where(|_| None)
    }

    /// The same, with the longest packet that fits the way to a peer where that is known, by the peer's place.
    pub fn routes_where(&self, known: impl Fn(usize) -> Option<u16>) -> Vec<Route> {
        let mut routes = self.interface.routes.clone();
        for (place, peer) in self.peers.iter().enumerate() {
            let ipv6_outer = peer.may_be_ipv6(self.listen);
            let most = || u16::try_from(esp::frame_len_max(Mode::Ip, self.underlay_mtu, ipv6_outer)).unwrap_or(u16::MAX);
            let fits = known(place).unwrap_or_else(most).min(self.interface.mtu);
            for selector in &peer.selectors {
                let (first, prefix) =
                    (selector.remote.first(), selector.remote.prefix_len().and_then(|len| u8::try_from(len).ok()));
                let to = prefix.and_then(|len| IpNet::new(first, len).ok());
                let new = to.filter(|to| routes.iter().all(|route: &Route| route.to != *to));
                // No route of IPv6 takes less.
                let least = if first.is_ipv6() { IPV6_MTU_MIN } else { 0 };
                routes.extend(new.map(|to| Route { to, via: None, mtu: Some(fits.max(least)) }));
            }
        }
        routes
    }

    /// Selectors that a policy table of the data plane has room for: twice what is configured, for changes while it runs.
    pub fn max_selectors(&self) -> u32 {
        let need: usize = self.peers.iter().map(|peer| peer.selectors.len()).sum();
        u32::try_from((need * 2).next_power_of_two().max(1024)).unwrap_or(u32::MAX).min(SELECTORS_OF_TABLE_MAX)
    }

    /// Peers that the tables of the data plane have room for: twice what is configured, for changes while it runs.
    pub fn max_peers(&self) -> u16 {
        u16::try_from((self.peers.len() * 2).next_power_of_two().max(64)).unwrap_or(u16::MAX)
    }

    /// SAs that a peer needs in the table of a worker.
    pub fn sas_of(&self, peer: &Peer) -> u32 {
        worker_sas(peer, self.dataplane.workers) + spare_sas(peer)
    }

    /// SAs that all peers need in the table of a worker.
    pub fn sas_needed(&self) -> u32 {
        self.peers.iter().map(|peer| self.sas_of(peer)).sum()
    }

    /// SAs that one worker has room for: twice what it needs, for changes while it runs, as far as there can be so many.
    pub fn sa_slots(&self) -> u32 {
        (self.sas_needed() * 2).next_power_of_two().clamp(256, SA_SLOTS_MAX)
    }
}

/// SAs with a peer that a worker has at most: its share of the inbound ones, and one to send with. By IKE there are twice as many
/// lanes during a rekey. All peers together may have [`SA_SLOTS_MAX`], with [`spare_sas`]: the one limit on peers, lanes and Child SAs.
fn worker_sas(peer: &Peer, workers: u16) -> u32 {
    let inbound = match peer.keys {
        Keys::Static { .. } => peer.lanes.div_ceil(workers),
        Keys::Ike(_) => (2 * peer.lanes).div_ceil(workers).max(CHILDREN_MIN),
    };
    u32::from(inbound) + 1
}

/// SAs that a peer needs on top where it is of another make, and makes a Child SA for each selector: all of these are on one worker, one to
/// send with and, during a rekey, two to receive with. What make a peer is of is not configured, so every one may need them.
fn spare_sas(peer: &Peer) -> u32 {
    let more = if peer.ike().is_some() { peer.selectors.len().saturating_sub(1) } else { 0 };
    3 * u32::try_from(more).unwrap_or(0)
}

/// Every key that there is, by the block that it belongs to: `("peers[].ike", ["id", …])`. The block at the top has no name.
pub fn keys() -> &'static [(&'static str, &'static [&'static str])] {
    raw::ALL
}

/// What other programs call the same: names without case, `-` and `_`, and what somebody is told who writes one of them.
pub fn foreign_words() -> &'static [(&'static [&'static str], Remedy)] {
    foreign::FOREIGN
}

/// The place of the runtime directory when the file names none.
pub fn default_runtime_dir(name: &str) -> PathBuf {
    Path::new("/run/adit").join(name)
}

/// The place of the state directory when the file names none.
pub fn default_state_dir(name: &str) -> PathBuf {
    Path::new("/var/lib/adit").join(name)
}

/// The MAC address of an interface for which the file gives none: locally administered, and the same after every restart.
pub fn default_mac(gateway: &str, interface: &str) -> Mac {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("adit mac {gateway} {interface}").as_bytes());
    let mut mac = [0x02; 6];
    mac[1..].copy_from_slice(&hash.as_ref()[..5]);
    mac
}

/// A MAC address in its usual spelling.
pub struct MacText(pub Mac);

impl fmt::Display for MacText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
