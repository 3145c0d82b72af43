//! What a strongSwan peer is to do, as types, and the files that tell it so: swanctl.conf(5) and strongswan.conf(5).
//!
//! Everything that is left out is strongSwan's own default. Algorithms are written in strongSwan's words
//! (`aes256gcm16-prfsha384-x25519-ke1_mlkem768`), because they are what a test varies.

mod render;

use std::net::IpAddr;
use std::time::Duration;

use super::pki::{Certificate, Credential, SigningKey};
pub(super) use render::Place;

/// All that one daemon is told.
#[derive(Debug, Default)]
pub struct Config {
    pub connections: Vec<Connection>,
    pub daemon: Daemon,
}

/// One peer, as the section `connections.NAME`. One connection per pair of identities: of two that fit, the daemon takes the first.
#[derive(Debug)]
pub struct Connection {
    /// Letters, digits, `-` and `_`.
    pub name: String,
    /// Any address when left out.
    pub local_address: Option<IpAddr>,
    pub remote_address: Option<IpAddr>,
    pub local: Local,
    pub remote: Remote,
    /// The pre-shared key where one end or both prove themselves by it.
    pub secret: Vec<u8>,
    pub proposals: Vec<String>,
    pub children: Vec<Child>,
    /// Act as if there were a NAT, so that ESP is in UDP. With user-space ESP that is so in any case.
    pub encap: bool,
    pub mobike: bool,
    pub fragmentation: Fragmentation,
    pub unique: Unique,
    /// How long silence may last before the peer is probed; never when left out.
    pub dpd_delay: Option<Duration>,
    /// Soft lifetime of the IKE SA, without jitter; 4 h with jitter when left out.
    pub rekey_time: Option<Duration>,
    /// How often to begin anew when nobody answers; 0 is for ever.
    pub keying_tries: u32,
    /// Further lines of the section, as they are.
    pub extra: Vec<String>,
}

/// Who we are. Identities as swanctl.conf takes them: `a.example`, `me@example`, `192.0.2.1`, `C=CH, CN=x`, `keyid:0xabcd`.
#[derive(Debug)]
pub struct Local {
    pub id: String,
    pub auth: LocalAuth,
}

/// How we prove it.
#[derive(Debug)]
pub enum LocalAuth {
    /// By [`Connection::secret`].
    Psk,
    /// A key that the peer knows by itself.
    RawKey(SigningKey),
    Certificate(Credential),
}

/// Who the peer is.
#[derive(Debug)]
pub struct Remote {
    pub id: String,
    pub auth: RemoteAuth,
}

/// How the peer proves it.
#[derive(Debug)]
pub enum RemoteAuth {
    /// By [`Connection::secret`].
    Psk,
    /// By one of these keys (SubjectPublicKeyInfo, PEM).
    RawKeys(Vec<String>),
    /// By a certificate under one of these roots.
    Authorities(Vec<Certificate>),
}

/// One Child SA, as the section `children.NAME`.
#[derive(Clone, Debug)]
pub struct Child {
    pub name: String,
    pub mode: Mode,
    /// Such as `10.1.0.0/24` or `10.1.0.1/32[tcp/80]`; the address of the IKE SA itself when empty.
    pub local_ts: Vec<String>,
    pub remote_ts: Vec<String>,
    pub proposals: Vec<String>,
    /// Soft lifetime, without jitter; 1 h with jitter when left out.
    pub rekey_time: Option<Duration>,
    /// Soft lifetimes in bytes and in packets of one direction; none when left out.
    pub rekey_bytes: Option<u64>,
    pub rekey_packets: Option<u64>,
    pub start: Start,
    /// What follows when the peer is found dead: nothing, or beginning anew.
    pub restart_on_dpd: bool,
    /// Further lines of the section, as they are.
    pub extra: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Tunnel,
    /// Kernel ESP only.
    Transport,
}

/// When a Child SA is set up, besides on command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Never,
    AtOnce,
    /// With the first packet for it; kernel ESP only.
    OnTraffic,
}

/// RFC 7383.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmentation {
    No,
    /// Announced and accepted, never sent.
    Accept,
    /// Messages that are longer than [`Daemon::fragment_size`] are sent in fragments.
    Yes,
}

/// What becomes of an older IKE SA with the same identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unique {
    /// INITIAL_CONTACT is neither sent nor heeded.
    Never,
    /// Replaced only when the peer sends INITIAL_CONTACT.
    No,
    Replace,
    Keep,
}

/// Settings of the whole daemon.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Largest IKE datagram before it is fragmented, in bytes with the IP header.
    pub fragment_size: Option<u32>,
    pub retransmit: Option<Retransmit>,
    /// Half-open IKE SAs from which on cookies are demanded; 0 is always.
    pub cookie_threshold: Option<u32>,
    /// 1 is one line per event, 2 shows decisions, 4 shows keys.
    pub log_level: u8,
    /// The plugins to load, in order of preference, without those for ESP; a set that does everything when left out.
    pub plugins: Option<&'static str>,
    /// Further lines of the section `charon-systemd`, as they are.
    pub extra: Vec<String>,
}

/// `timeout * base ^ n` before the nth retransmission; after `tries` of them the peer is dead.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retransmit {
    pub timeout: Duration,
    pub base: f64,
    pub tries: u32,
}

/// Who does ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Esp {
    /// strongSwan itself (kernel-libipsec): always in UDP, tunnel mode, no ESN.
    UserSpace,
    /// The kernel (kernel-netlink).
    Kernel,
}

impl Default for Daemon {
    fn default() -> Daemon {
        Daemon { fragment_size: None, retransmit: None, cookie_threshold: None, log_level: 1, plugins: None, extra: Vec::new() }
    }
}

impl Connection {
    /// The same with a pre-shared key both ways.
    pub fn psk(name: &str, local_id: &str, remote_id: &str, secret: &str) -> Connection {
        let local = Local { id: local_id.to_owned(), auth: LocalAuth::Psk };
        let remote = Remote { id: remote_id.to_owned(), auth: RemoteAuth::Psk };
        Connection { secret: secret.as_bytes().to_vec(), ..Connection::new(name, local, remote) }
    }

    /// A connection with one child `net` in tunnel mode, that is initiated on command: X25519, AES-256-GCM, SHA-384.
    pub fn new(name: &str, local: Local, remote: Remote) -> Connection {
        Connection {
            name: name.to_owned(),
            local_address: None,
            remote_address: None,
            local,
            remote,
            secret: Vec::new(),
            proposals: vec!["aes256gcm16-prfsha384-x25519".to_owned()],
            children: vec![Child::new("net")],
            encap: false,
            mobike: true,
            fragmentation: Fragmentation::Yes,
            unique: Unique::No,
            dpd_delay: None,
            rekey_time: None,
            keying_tries: 1,
            extra: Vec::new(),
        }
    }
}

impl Child {
    /// Tunnel mode between the addresses of the IKE SA, on command.
    pub fn new(name: &str) -> Child {
        Child {
            name: name.to_owned(),
            mode: Mode::Tunnel,
            local_ts: Vec::new(),
            remote_ts: Vec::new(),
            proposals: vec!["aes256gcm16".to_owned()],
            rekey_time: None,
            rekey_bytes: None,
            rekey_packets: None,
            start: Start::Never,
            restart_on_dpd: false,
            extra: Vec::new(),
        }
    }

    /// The same between two networks.
    pub fn between(self, local: &str, remote: &str) -> Child {
        Child { local_ts: vec![local.to_owned()], remote_ts: vec![remote.to_owned()], ..self }
    }
}
