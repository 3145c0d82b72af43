//! The text of swanctl.conf(5) and strongswan.conf(5).

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::super::pki::Certificate;
use super::{Child, Config, Connection, Daemon, Esp, Fragmentation, LocalAuth, Mode, RemoteAuth, Start, Unique};

/// What the daemon of either release loads; ESP in the kernel or in a library of its own comes on top.
const PLUGINS: &str = "random nonce drbg aes sha1 sha2 hmac kdf gcm ccm ctr chapoly cmac xcbc curve25519 gmp openssl pem pkcs1 pkcs8 \
    x509 pubkey constraints socket-default updown vici";
/// Marks the daemon's own packets, so that they do not take the routes of the tunnels. Only in the daemon's namespace.
const OWN_PACKETS: &str = "0x42";
/// From the soft end of a lifetime to the hard one. The daemon's own choice, a tenth, is nothing for the lifetimes of tests.
const GRACE: Duration = Duration::from_secs(60);
/// The same for lifetimes that are not times.
const GRACE_FACTOR: u64 = 10;

/// Text of nested sections; a `#` or brace in a value must not be taken for syntax, so values are quoted.
#[derive(Default)]
struct Sections {
    text: String,
    depth: usize,
}

impl Sections {
    fn section(&mut self, name: &str, inside: impl FnOnce(&mut Sections)) {
        self.line(&format!("{name} {{"));
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.line("}");
    }

    fn set(&mut self, key: &str, value: impl std::fmt::Display) {
        let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        self.line(&format!("{key} = \"{value}\""));
    }

    fn set_if(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{:width$}{line}", "", width = self.depth * 2);
    }
}

/// A file below the folder of swanctl.conf.
pub(in super::super) struct ConfigFile {
    pub(in super::super) path: PathBuf,
    pub(in super::super) text: String,
}

/// Where a daemon runs.
pub(in super::super) struct Place {
    pub(in super::super) esp: Esp,
    /// Where it takes commands: `unix://…` or `tcp://…`.
    pub(in super::super) socket: &'static str,
    pub(in super::super) log: &'static str,
}

impl Config {
    /// swanctl.conf and the keys and certificates that it names.
    pub(in super::super) fn swanctl_files(&self) -> Vec<ConfigFile> {
        let mut files = Vec::new();
        let mut text = Sections::default();
        text.section("connections", |text| self.connections.iter().for_each(|connection| connection.write(text, &mut files)));
        text.section("secrets", |text| self.connections.iter().for_each(|connection| connection.write_secret(text)));
        files.push(ConfigFile { path: "swanctl.conf".into(), text: text.text });
        files
    }

    /// strongswan.conf for daemon and swanctl.
    pub(in super::super) fn strongswan_conf(&self, place: &Place) -> String {
        let mut text = Sections::default();
        text.section("charon-systemd", |text| self.daemon.write(text, place));
        text.section("swanctl", |text| text.set("load", "pem pkcs1 pkcs8 x509 pubkey openssl random sha1 sha2"));
        text.text
    }
}

/// `5s`; less than a second counts as one.
fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs().max(1))
}

fn yes(on: bool) -> &'static str {
    if on { "yes" } else { "no" }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

impl Connection {
    fn write(&self, text: &mut Sections, files: &mut Vec<ConfigFile>) {
        text.section(&self.name, |text| {
            text.set("version", 2);
            text.set_if("local_addrs", self.local_address);
            text.set_if("remote_addrs", self.remote_address);
            text.set("proposals", self.proposals.join(","));
            text.set("encap", yes(self.encap));
            text.set("mobike", yes(self.mobike));
            text.set("fragmentation", self.fragmentation.word());
            text.set("unique", self.unique.word());
            text.set_if("dpd_delay", self.dpd_delay.map(seconds));
            if let Some(time) = self.rekey_time {
                text.set("rekey_time", seconds(time));
                text.set("rand_time", "0s");
                text.set("over_time", seconds(GRACE));
            }
            text.set("keyingtries", self.keying_tries);
            text.set("send_cert", "always");
            self.extra.iter().for_each(|line| text.line(line));
            text.section("local", |text| self.write_local(text, files));
            text.section("remote", |text| self.write_remote(text, files));
            text.section("children", |text| self.children.iter().for_each(|child| child.write(text)));
        });
    }

    fn write_local(&self, text: &mut Sections, files: &mut Vec<ConfigFile>) {
        text.set("id", &self.local.id);
        let mut file = |folder: &str, what: &str, pem: String| {
            let name = format!("{}-{what}.pem", self.name);
            files.push(ConfigFile { path: [folder, &name].iter().collect(), text: pem });
            name
        };
        match &self.local.auth {
            LocalAuth::Psk => text.set("auth", "psk"),
            LocalAuth::RawKey(key) => {
                text.set("auth", "pubkey");
                file("private", "own", key.private_pem());
                text.set("pubkeys", file("pubkey", "own", key.public_pem()));
            }
            LocalAuth::Certificate(credential) => {
                text.set("auth", "pubkey");
                file("private", "own", credential.key.private_pem());
                text.set("certs", file("x509", "own", credential.certificate.pem().to_owned()));
                for (number, above) in credential.chain.iter().enumerate() {
                    file("x509", &format!("above{number}"), above.pem().to_owned());
                }
            }
        }
    }

    fn write_remote(&self, text: &mut Sections, files: &mut Vec<ConfigFile>) {
        text.set("id", &self.remote.id);
        let mut named = |folder: &str, pems: &mut dyn Iterator<Item = &str>| {
            let mut names = Vec::new();
            for (number, pem) in pems.enumerate() {
                let name = format!("{}-peer{number}.pem", self.name);
                files.push(ConfigFile { path: [folder, &name].iter().collect(), text: pem.to_owned() });
                names.push(name);
            }
            names.join(",")
        };
        match &self.remote.auth {
            RemoteAuth::Psk => text.set("auth", "psk"),
            RemoteAuth::RawKeys(keys) => {
                text.set("auth", "pubkey");
                text.set("pubkeys", named("pubkey", &mut keys.iter().map(String::as_str)));
            }
            RemoteAuth::Authorities(roots) => {
                text.set("auth", "pubkey");
                text.set("cacerts", named("x509ca", &mut roots.iter().map(Certificate::pem)));
            }
        }
    }

    /// The daemon looks a secret up by the identities of both ends.
    fn write_secret(&self, text: &mut Sections) {
        if !matches!((&self.local.auth, &self.remote.auth), (LocalAuth::Psk, _) | (_, RemoteAuth::Psk)) {
            return;
        }
        text.section(&format!("ike-{}", self.name), |text| {
            text.set("id-local", &self.local.id);
            text.set("id-remote", &self.remote.id);
            text.set("secret", hex(&self.secret));
        });
    }
}

impl Child {
    fn write(&self, text: &mut Sections) {
        text.section(&self.name, |text| {
            text.set("mode", if self.mode == Mode::Tunnel { "tunnel" } else { "transport" });
            text.set_if("local_ts", (!self.local_ts.is_empty()).then(|| self.local_ts.join(",")));
            text.set_if("remote_ts", (!self.remote_ts.is_empty()).then(|| self.remote_ts.join(",")));
            text.set("esp_proposals", self.proposals.join(","));
            if let Some(time) = self.rekey_time {
                text.set("rekey_time", seconds(time));
                text.set("rand_time", "0s");
                text.set("life_time", seconds(time + GRACE));
            }
            if let Some(bytes) = self.rekey_bytes {
                text.set("rekey_bytes", bytes);
                text.set("rand_bytes", 0);
                text.set("life_bytes", bytes.saturating_mul(GRACE_FACTOR));
            }
            if let Some(packets) = self.rekey_packets {
                text.set("rekey_packets", packets);
                text.set("rand_packets", 0);
                text.set("life_packets", packets.saturating_mul(GRACE_FACTOR));
            }
            text.set("start_action", self.start.word());
            text.set("dpd_action", if self.restart_on_dpd { "restart" } else { "clear" });
            self.extra.iter().for_each(|line| text.line(line));
        });
    }
}

impl Daemon {
    fn write(&self, text: &mut Sections, place: &Place) {
        let kernel = if place.esp == Esp::UserSpace { "kernel-libipsec kernel-netlink" } else { "kernel-netlink" };
        text.set("load", format!("{} {kernel}", self.plugins.unwrap_or(PLUGINS)));
        text.set_if("fragment_size", self.fragment_size);
        if let Some(retransmit) = self.retransmit {
            text.set("retransmit_timeout", retransmit.timeout.as_secs_f64());
            text.set("retransmit_base", retransmit.base);
            text.set("retransmit_tries", retransmit.tries);
        }
        text.set_if("cookie_threshold", self.cookie_threshold);
        self.extra.iter().for_each(|line| text.line(line));
        text.section("start-scripts", |_| {});
        text.section("stop-scripts", |_| {});
        text.section("journal", |text| text.set("default", -1));
        text.section("syslog", |text| text.section("daemon", |text| text.set("default", -1)));
        text.section("filelog", |text| {
            text.section("lab", |text| {
                text.set("path", place.log);
                text.set("append", "yes");
                text.set("flush_line", "yes");
                text.set("time_format", "%H:%M:%S");
                text.set("time_add_ms", "yes");
                text.set("ike_name", "yes");
                text.set("default", self.log_level);
                text.set("lib", 0);
            });
        });
        text.section("plugins", |text| {
            text.section("vici", |text| text.set("socket", place.socket));
            if place.esp == Esp::UserSpace {
                text.section("kernel-libipsec", |text| text.set("allow_peer_ts", "yes"));
                text.section("kernel-netlink", |text| text.set("fwmark", format!("!{OWN_PACKETS}")));
                text.section("socket-default", |text| text.set("fwmark", OWN_PACKETS));
            }
        });
    }
}

impl Start {
    fn word(self) -> &'static str {
        match self {
            Start::Never => "none",
            Start::AtOnce => "start",
            Start::OnTraffic => "trap",
        }
    }
}

impl Fragmentation {
    fn word(self) -> &'static str {
        match self {
            Fragmentation::No => "no",
            Fragmentation::Accept => "accept",
            Fragmentation::Yes => "yes",
        }
    }
}

impl Unique {
    fn word(self) -> &'static str {
        match self {
            Unique::Never => "never",
            Unique::No => "no",
            Unique::Replace => "replace",
            Unique::Keep => "keep",
        }
    }
}
