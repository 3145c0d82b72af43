//! The configuration of a relay: YAML text → every key read and judged, every mistake found → [`Config`], with every default
//! filled in and all files that it names read.

mod reach;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_proto::limits::RELAYS_OF_DRAIN_MAX;
use adit_proto::relay::{HostPort, PeerKey, RoomName};
use serde_yaml::Value;

pub(crate) use reach::REALM;
pub use reach::Reaching;
use read::{Block, Reader, repeated, shown};
pub use read::{Mistake, Mistakes};

use crate::hall::Settings;
use crate::limits::{
    CONNECTIONS_ASKED_MAX, CONNECTIONS_ASKED_MIN, DRAIN_SECONDS_MAX, HANDSHAKES_ASKED_MAX, IDLE_SECONDS_MAX, IDLE_SECONDS_MIN,
    KEYS_OF_ROOM_MAX, LISTENERS_MAX, LOGIN_SECONDS_MAX, PEERS_OF_ROOM_MAX, RATE_ASKED_MAX, ROOMS_MAX, STRANGERS_ASKED_MAX,
    TOKEN_LEN_MIN, TOKENS_OF_ROOM_MAX,
};
use crate::login::{Access, Guests, Token};
use crate::quotas::{DoorSettings, Rate};
use crate::secret_file::{self, FileError, Readers};
use crate::tls::{Credentials, CredentialsError};

/// The shortest configuration that does something.
const EXAMPLE: &str = "listen: \"[::]:443\"\ncertificate: relay.crt\nkey: relay.key\nrooms:\n  lab: { token_file: lab.token }";
/// The keys of `limits`.
const LIMITS: [&str; 11] = [
    "strangers",
    "login_s",
    "connections",
    "connections_of_address",
    "handshakes_per_s",
    "handshakes_of_network_per_s",
    "peers_of_room",
    "records_per_s",
    "bytes_per_s",
    "room_bytes_per_s",
    "total_bytes_per_s",
];
const ROOM: &str = "lab: { token_file: lab.token }";
/// Connections that have not logged in, and seconds that each has for it, where the file does not say.
const STRANGERS: u64 = 1024;
const LOGIN_SECONDS: u64 = 5;
/// How long drained clients have to go where the file does not say, in seconds.
const DRAIN_SECONDS: u64 = 10;

/// A relay's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients come, by TCP. Port 0: the system chooses.
    pub listen: Vec<SocketAddr>,
    pub credentials: Credentials,
    pub access: Access,
    pub pages: Option<Pages>,
    /// How many may come, and how fast.
    pub door: DoorSettings,
    /// Connections at a time that have not logged in, and how long each may take for it.
    pub strangers: usize,
    pub login_within: Duration,
    /// How much those who are in may have.
    pub hall: Settings,
    pub drain: Drain,
    /// The files that it names, each of which was read.
    pub files: Vec<PathBuf>,
    /// STUN and TURN; nothing where the file says nothing of them.
    pub reach: Option<Reaching>,
}

/// Pages for people and programs that watch the relay.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Where they are also shown without TLS.
    pub listen: Option<SocketAddr>,
    /// Opens all of them.
    pub token: Token,
}

/// What clients are told when the relay ends.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Other relays with the same rooms.
    pub to: Vec<HostPort>,
    /// After so long those that are still there are left.
    pub within: Duration,
}

impl Config {
    /// Reads a file, and those that it names.
    ///
    /// # Errors
    /// All mistakes of it.
    pub fn load(file: &Path) -> Result<Config, Mistakes> {
        let mut reader = Reader::default();
        let read = match secret_file::read(file, Readers::All) {
            Ok(text) => match std::str::from_utf8(&text) {
                Ok(text) => Config::read(&mut reader, text, file.parent().unwrap_or(Path::new(""))),
                Err(_) => {
                    reader.fail("", "the file is not text in UTF-8", "YAML", EXAMPLE);
                    None
                }
            },
            Err(error) => {
                let write = match error {
                    FileError::Missing(_) => "run: adit relay init (it makes one, with key, certificate and token)".to_owned(),
                    _ => error.remedy(),
                };
                reader.fail("", error.to_string(), "a file that only its owner can change", write);
                None
            }
        };
        match read {
            Some(config) if reader.mistakes.is_empty() => Ok(config),
            _ => Err(Mistakes { file: file.to_owned(), list: reader.mistakes }),
        }
    }

    /// How many descriptors its connections need at the most, and the addresses that it lends.
    pub fn descriptors(&self) -> u64 {
        self.door.connections as u64 + self.reach.as_ref().map_or(0, Reaching::descriptors)
    }

    /// Reads the text of a file; paths in it begin at `directory`.
    fn read(reader: &mut Reader, text: &str, directory: &Path) -> Option<Config> {
        let root: Value = match serde_yaml::from_str(text) {
            Ok(root) => root,
            Err(error) => {
                let expected = "keys and values as `key: value`, each key once, blocks indented by two spaces";
                reader.fail("", format!("this is not YAML: {error}"), expected, EXAMPLE);
                return None;
            }
        };
        let keys = ["listen", "certificate", "key", "rooms", "pages", "limits", "idle_s", "drain", "stun", "turn"];
        let root = reader.block("", Some(&root), &keys, EXAMPLE);
        let mut check = Check { reader, directory, files: Vec::new() };
        let listen = check.listen(&root);
        let credentials = check.credentials(&root);
        let access = check.rooms(&root);
        let pages = check.pages(&root);
        let limits = check.reader.block("limits", root.get("limits"), &LIMITS, "limits: { connections: 1000 }");
        let (door, hall) = check.limits(&limits);
        let strangers = check.strangers(&limits, door.connections as u64);
        let login_s = check.reader.number(&limits, "login_s", 1..=LOGIN_SECONDS_MAX, "seconds", LOGIN_SECONDS);
        let idle_s = check.reader.number(&root, "idle_s", IDLE_SECONDS_MIN..=IDLE_SECONDS_MAX, "seconds", hall.idle.as_secs());
        let hall = Settings { idle: Duration::from_secs(idle_s), ..hall };
        let drain = check.drain(&root, &listen);
        let reach = check.reach(&root);
        let (credentials, pages, login_within) = (credentials?, pages?, Duration::from_secs(login_s));
        let files = check.files;
        Some(Config { listen, credentials, access, pages, door, strangers, login_within, hall, drain, reach, files })
    }
}

/// Judges what was read.
struct Check<'a> {
    reader: &'a mut Reader,
    directory: &'a Path,
    files: Vec<PathBuf>,
}

impl Check<'_> {
    fn listen(&mut self, root: &Block<'_>) -> Vec<SocketAddr> {
        let (expected, example) = ("an address of this machine and a TCP port", "\"[::]:443\"");
        let list = self.reader.texts(root, "listen", expected, example);
        if list.is_empty() && !matches!(root.get("listen"), Some(Value::Mapping(_))) {
            let write = format!("listen: {example}");
            self.reader.fail("listen", "`listen` names no address", expected, write);
        }
        if list.len() > LISTENERS_MAX {
            let what = format!("`listen` has {} addresses", list.len());
            self.reader.fail("listen", what, format!("at most {LISTENERS_MAX}"), "listen: \"[::]:443\" for all of IPv6 and IPv4");
        }
        for (at, text) in repeated(&list) {
            self.reader.fail(&at, format!("`{text}` is given twice"), "each address once", "another address, or nothing");
        }
        let all: Vec<_> = list.iter().filter_map(|(at, text)| Some((at, self.address(at, text, expected, example)?))).collect();
        for (at, address) in &all {
            let is_in = |(_, other): &(&String, SocketAddr)| {
                other.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && other.port() == address.port()
            };
            if address.is_ipv4() && address.port() != 0 && all.iter().any(is_in) {
                let what = format!("`{address}` is part of `[::]:{}`, which takes IPv4 as well", address.port());
                self.reader.fail(at, what, "each address once", "nothing: remove it");
            }
        }
        all.into_iter().map(|(_, address)| address).collect()
    }

    fn address(&mut self, at: &str, text: &str, expected: &str, example: &str) -> Option<SocketAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            let what = format!("{} is no address with a port", shown(&Value::String(text.to_owned())));
            self.reader.fail(at, what, expected, format!("{example} (IPv6 in brackets and quotes)"));
        }
        address
    }

    fn credentials(&mut self, root: &Block<'_>) -> Option<Credentials> {
        let expected = "a file with the certificate of this relay as PEM, and those between it and its CA behind";
        let certificate = self.reader.text(root, "certificate", expected, "relay.crt");
        let expected = "a file with the private key of the certificate as PEM, for its owner alone";
        let key = self.reader.text(root, "key", expected, "relay.key");
        let (certificate, key) = (self.directory.join(certificate?), self.directory.join(key?));
        self.files.extend([certificate.clone(), key.clone()]);
        match Credentials::load(&certificate, &key) {
            Ok(credentials) => Some(credentials),
            Err(error) => {
                let key = match &error {
                    CredentialsError::Key(_) | CredentialsError::NoKey(_) | CredentialsError::Mismatch(..) => "key",
                    CredentialsError::Certificate(_) | CredentialsError::NoCertificate(_) | CredentialsError::TooMany(_) => {
                        "certificate"
                    }
                };
                self.reader.fail(key, error.to_string(), "certificate and key of this relay", error.remedy());
                None
            }
        }
    }

    fn rooms(&mut self, root: &Block<'_>) -> Access {
        let mut access = Access::default();
        let entries = match root.get("rooms") {
            Some(Value::Mapping(entries)) if !entries.is_empty() => entries,
            _ => {
                let expected = "the rooms of this relay, each with who may be in it: peers of a room see and reach each other";
                self.reader.fail("rooms", "`rooms` names no room", expected, format!("rooms:\n  {ROOM}"));
                return access;
            }
        };
        if entries.len() > ROOMS_MAX {
            let what = format!("`rooms` has {} rooms", entries.len());
            self.reader.fail("rooms", what, format!("at most {ROOMS_MAX}"), "fewer rooms, or a second relay");
        }
        for (key, value) in entries {
            let text = match key {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                other => shown(other),
            };
            let at = format!("rooms.{text}");
            let guests = self.guests(&at, value);
            match RoomName::new(&text) {
                Ok(room) if access.0.contains_key(&room) => {
                    let what = format!("the room `{room}` is given twice, once as a number");
                    self.reader.fail(&at, what, "each room once", "one of the two, with all keys");
                }
                Ok(room) => drop(access.0.insert(room, guests)),
                Err(error) => {
                    self.reader.fail(&at, format!("{} is no name of a room", shown(key)), error.to_string(), ROOM);
                }
            }
        }
        access
    }

    fn guests(&mut self, at: &str, value: &Value) -> Guests {
        let block = self.reader.block(at, Some(value), &["keys", "token_file"], ROOM);
        let expected = "keys of clients, as `adit` and this relay print them (43 letters, digits, `-` and `_`)";
        let example = "Jk3v0m4yX8e2Yk0m1e9c0d1b2a3f4e5d6c7b8a9f0E0";
        let list = self.reader.texts(&block, "keys", expected, example);
        if list.len() > KEYS_OF_ROOM_MAX {
            let what = format!("the room has {} keys", list.len());
            self.reader.fail(&block.at("keys"), what, format!("at most {KEYS_OF_ROOM_MAX}"), "fewer keys, or a token_file");
        }
        let mut keys: BTreeSet<PeerKey> = BTreeSet::new();
        for (at, text) in &list {
            match text.parse() {
                Ok(key) => drop(keys.insert(key)),
                Err(_) => {
                    let what = format!("{} is no key of a client", shown(&Value::String(text.clone())));
                    self.reader.fail(at, what, expected, format!("keys: [{example}]"));
                }
            }
        }
        for (at, text) in repeated(&list) {
            self.reader.fail(&at, format!("the key `{text}` is given twice"), "each key once", "nothing: remove it");
        }
        let tokens = self.tokens(&block);
        if list.is_empty() && block.get("token_file").is_none() {
            let what = "nobody may be in this room: it has neither `keys` nor `token_file`";
            self.reader.fail(at, what, "keys of clients, a file with a token, or both", ROOM);
        }
        Guests { keys, tokens }
    }

    /// One of a room, or several while one takes the place of another.
    fn tokens(&mut self, block: &Block<'_>) -> Vec<Token> {
        let files = self.reader.texts(block, "token_file", "a file with a token, for its owner alone", "lab.token");
        if files.len() > TOKENS_OF_ROOM_MAX {
            let (what, expected) = (format!("the room has {} tokens", files.len()), format!("at most {TOKENS_OF_ROOM_MAX}"));
            self.reader.fail(
                &block.at("token_file"),
                what,
                expected,
                "token_file: [new.token, old.token], and later the new one alone",
            );
        }
        files.iter().filter_map(|(at, name)| self.token_of(at, name)).collect()
    }

    fn token(&mut self, block: &Block<'_>) -> Option<Token> {
        let expected = "a file with a token, for its owner alone";
        let name = self.reader.optional_text(block, "token_file", expected, "lab.token")?;
        self.token_of(&block.at("token_file"), &name)
    }

    fn token_of(&mut self, at: &str, name: &str) -> Option<Token> {
        let (expected, file) = ("a file with a token, for its owner alone", self.directory.join(name));
        self.files.push(file.clone());
        match secret_file::read(&file, Readers::OwnerOnly) {
            Ok(text) => {
                let token = Token::from_file(&text);
                if token.is_none() {
                    let what =
                        format!("{} holds no token of at least {TOKEN_LEN_MIN} printable ASCII characters", file.display());
                    let give = secret_file::and_give(&file.display().to_string());
                    let write = format!("run: (umask 077; openssl rand -hex 32 >{}){give}", file.display());
                    self.reader.fail(at, what, expected, write);
                }
                token
            }
            Err(error) => {
                self.reader.fail(at, error.to_string(), expected, error.remedy());
                None
            }
        }
    }

    /// None where something is wrong.
    fn pages(&mut self, root: &Block<'_>) -> Option<Option<Pages>> {
        let example = "pages: { token_file: pages.token }";
        let Some(value) = root.get("pages") else { return Some(None) };
        let block = self.reader.block("pages", Some(value), &["listen", "token_file"], example);
        let (expected, address) = ("an address of this machine, best 127.0.0.1, and a TCP port", "127.0.0.1:9466");
        let listen = self.reader.optional_text(&block, "listen", expected, address);
        let listen = listen.and_then(|text| self.address(&block.at("listen"), &text, expected, address));
        if block.get("token_file").is_none() {
            let expected = "a file with the token by which the pages are opened, for its owner alone";
            self.reader.fail("pages.token_file", "the key `token_file` is missing", expected, "token_file: pages.token");
        }
        Some(Some(Pages { listen, token: self.token(&block)? }))
    }

    fn limits(&mut self, block: &Block<'_>) -> (DoorSettings, Settings) {
        let (door, hall) = (DoorSettings::default(), Settings::default());
        let (asked, usual) = (CONNECTIONS_ASKED_MIN..=CONNECTIONS_ASKED_MAX as u64, door.connections as u64);
        let connections = self.reader.number(block, "connections", asked, "connections", usual) as usize;
        let mut number = |key: &str, most: u64, unit: &str, usual: u64| self.reader.number(block, key, 1..=most, unit, usual);
        let most = CONNECTIONS_ASKED_MAX as u64;
        let of_address = number("connections_of_address", most, "connections", door.connections_of_address.into()) as u32;
        let (most, unit) = (HANDSHAKES_ASKED_MAX.into(), "handshakes in a second");
        let handshakes_per_s = number("handshakes_per_s", most, unit, door.handshakes_per_s.into()) as u32;
        let of_network = number("handshakes_of_network_per_s", most, unit, door.handshakes_of_network_per_s.into()) as u32;
        let peers_of_room = number("peers_of_room", PEERS_OF_ROOM_MAX as u64, "peers", hall.peers_of_room as u64) as usize;
        let records = number("records_per_s", RATE_ASKED_MAX, "records in a second", hall.records.amount);
        let mut bytes = |key: &str, usual: Rate| Rate::per_second(number(key, RATE_ASKED_MAX, "bytes in a second", usual.amount));
        let (of_client, of_room, of_all) = (
            bytes("bytes_per_s", hall.bytes),
            bytes("room_bytes_per_s", hall.room_bytes),
            bytes("total_bytes_per_s", hall.total_bytes),
        );
        let door = DoorSettings {
            connections,
            connections_of_address: of_address,
            handshakes_per_s,
            handshakes_of_network_per_s: of_network,
            ..door
        };
        let hall = Settings {
            clients: connections,
            peers_of_room,
            // Twice as many at once: who comes into a full room greets all of it.
            records: Rate { burst: 2 * records, ..Rate::per_second(records) },
            bytes: of_client,
            room_bytes: of_room,
            total_bytes: of_all,
            ..hall
        };
        (door, hall)
    }

    /// Fewer than there may be connections, or strangers could take them all.
    fn strangers(&mut self, block: &Block<'_>, connections: u64) -> usize {
        let usual = STRANGERS.min(connections / 4).max(1);
        let strangers = self.reader.number(block, "strangers", 1..=STRANGERS_ASKED_MAX, "connections", usual);
        if strangers >= connections {
            let what =
                format!("`strangers` is {strangers}, and there may be {connections} connections: strangers could take them all");
            let expected = "fewer than `connections`, of which they are a part";
            self.reader.fail("limits.strangers", what, expected, format!("strangers: {usual}, or more connections"));
        }
        strangers as usize
    }

    fn drain(&mut self, root: &Block<'_>, listen: &[SocketAddr]) -> Drain {
        let block = self.reader.block("drain", root.get("drain"), &["to", "within_s"], "drain: { within_s: 10 }");
        let (expected, example) = ("another relay with the same rooms, as host:port", "relay2.example.org:443");
        let list = self.reader.texts(&block, "to", expected, example);
        if list.len() > RELAYS_OF_DRAIN_MAX {
            let what = format!("`drain.to` names {} relays", list.len());
            self.reader.fail("drain.to", what, format!("at most {RELAYS_OF_DRAIN_MAX}"), format!("to: [{example}]"));
        }
        let mut to = Vec::new();
        for (at, text) in &list {
            match HostPort::new(text) {
                Ok(_) if text.parse().is_ok_and(|address| listen.contains(&address)) => {
                    let what = format!("`{text}` is this relay, which ends when its clients go there");
                    self.reader.fail(at, what, expected, format!("to: [{example}]"));
                }
                Ok(relay) => to.push(relay),
                Err(error) => {
                    let what = format!("{} names no relay", shown(&Value::String(text.clone())));
                    self.reader.fail(at, what, error.to_string(), format!("to: [{example}]"));
                }
            }
        }
        let within = self.reader.number(&block, "within_s", 0..=DRAIN_SECONDS_MAX, "seconds", DRAIN_SECONDS);
        Drain { to, within: Duration::from_secs(within) }
    }
}
