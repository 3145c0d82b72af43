//! The file as it is written: every key optional, every value with its place. What a value means is judged in `check`; here
//! is found what has no meaning at all, keys that there are not and values of the wrong shape. One run finds every mistake.

use std::collections::BTreeSet;

use adit_engine::shown::Shown;

use super::foreign;
use super::problem::{Place, Problem, nearest};
use super::tree::{Entry, Node, Value, joined};

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    pub at: Place,
    pub value: T,
}

/// A scalar in its own spelling, whatever YAML would take it for.
pub type Text = Spanned<String>;

/// Collects what is wrong while the tree is read.
#[derive(Debug, Default)]
pub struct Reader {
    pub problems: Vec<Problem>,
    /// Keys that were given, so that nobody complains that they are missing, by the place of their block.
    pub given: BTreeSet<(Place, &'static str)>,
}

/// What can be read from a node. `None` where it has another shape, and then the reader has said so.
trait Read: Sized {
    fn read(node: &Node, key: &'static str, reader: &mut Reader) -> Option<Self>;
}

impl Read for String {
    fn read(node: &Node, key: &'static str, reader: &mut Reader) -> Option<String> {
        if let Value::Text(text) = &node.value {
            return Some(text.clone());
        }
        let example = VALUES.iter().find(|(name, _)| *name == key).map(|(_, example)| format!("{key}: {example}"));
        // An item of a list is shown with its list.
        let list =
            || BLOCKS.iter().find(|(name, ..)| *name == key).map_or(format!("{key}: VALUE"), |(_, _, write)| (*write).to_owned());
        let what = format!("`{key}` is not one plain value");
        reader.problems.push(Problem::new(node.at, what, "a word, a number or text in quotes", example.unwrap_or_else(list)));
        None
    }
}

impl Read for bool {
    fn read(node: &Node, key: &'static str, reader: &mut Reader) -> Option<bool> {
        match &node.value {
            Value::Text(text) if text == "true" => Some(true),
            Value::Text(text) if text == "false" => Some(false),
            _ => {
                let what = format!("`{key}` is neither true nor false");
                reader.problems.push(Problem::new(node.at, what, "true or false", format!("{key}: true")));
                None
            }
        }
    }
}

impl<T: Read> Read for Vec<T> {
    fn read(node: &Node, key: &'static str, reader: &mut Reader) -> Option<Vec<T>> {
        match &node.value {
            Value::List(list) => Some(list.iter().filter_map(|node| T::read(node, key, reader)).collect()),
            _ => {
                reader.shape(node.at, key);
                None
            }
        }
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug)]
pub struct Several {
    pub at: Place,
    pub values: Vec<Text>,
    pub is_list: bool,
}

impl Read for Several {
    fn read(node: &Node, key: &'static str, reader: &mut Reader) -> Option<Several> {
        let is_list = matches!(node.value, Value::List(_));
        let values = if is_list { Read::read(node, key, reader)? } else { vec![Read::read(node, key, reader)?] };
        Some(Several { at: node.at, values, is_list })
    }
}

impl<T: Read> Read for Spanned<T> {
    fn read(node: &Node, key: &'static str, reader: &mut Reader) -> Option<Spanned<T>> {
        Some(Spanned { at: node.at, value: T::read(node, key, reader)? })
    }
}

impl Reader {
    /// The entries of a block, each key once.
    fn block<'a>(&mut self, node: &'a Node, key: &'static str) -> Option<Vec<&'a Entry>> {
        let Value::Block(entries) = &node.value else {
            self.shape(node.at, key);
            return None;
        };
        let mut seen = BTreeSet::new();
        let mut list = Vec::new();
        for entry in entries {
            if seen.insert(entry.key.as_str()) {
                list.push(entry);
                continue;
            }
            let what = format!("`{}` is given twice", entry.key);
            let write = format!("one of the two `{}`, and remove the other", entry.key);
            self.problems.push(Problem::new(entry.key_at, what, "each key once", write).of(&entry.key));
        }
        Some(list)
    }

    fn value<T: Read>(&mut self, block: Place, key: &'static str, node: &Node) -> Option<T> {
        if matches!(node.value, Value::Nothing) {
            return None;
        }
        let value = T::read(node, key, self);
        if value.is_none() {
            self.given.insert((block, key));
        }
        value
    }

    /// A value of another shape than its key wants: text where a list belongs, a list where a block belongs.
    fn shape(&mut self, at: Place, key: &'static str) {
        let (_, expected, write) = BLOCKS.iter().find(|(name, ..)| *name == key).copied().unwrap_or(BLOCKS[0]);
        self.problems.push(Problem::new(at, format!("`{key}` is not {expected}"), expected, write));
    }

    /// A key that this block has not: one of another block, one of another program, or a slip of the pen.
    fn unknown(&mut self, block: Place, within: &str, keys: &'static [&'static str], entry: &Entry) {
        let key = entry.key.as_str();
        let shown = Shown::of(key.chars().take(60).collect::<String>());
        let expected = format!("one of {}", keys.join(", "));
        let guess = nearest(key, keys);
        let (what, write) = if let Some(remedy) = foreign::remedy(within, key) {
            (format!("there is no key `{shown}` here: {}", remedy.what), remedy.write.to_owned())
        } else if let Some(guess) = guess {
            self.given.insert((block, guess));
            let what = format!("there is no key `{shown}` here; did you mean `{guess}`?");
            let write = match &entry.value.value {
                Value::Text(text) => format!("{guess}: {}", quoted(text)),
                _ => format!("{guess}:"),
            };
            (what, write)
        } else if let Some(path) = elsewhere(within, key) {
            (format!("there is no key `{shown}` here; it belongs into another block"), format!("{path}, where {key} belongs"))
        } else {
            (format!("there is no key `{shown}` here"), format!("nothing: remove `{shown}`"))
        };
        self.problems.push(Problem::new(entry.key_at, what, expected, write).of(key));
    }
}

/// Text as it can be written in YAML.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if !text.is_empty() && text.chars().all(plain) && !text.starts_with([':', '-']) {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}

/// The block in which there is such a key, nearest to the one where it was written.
fn elsewhere(within: &str, key: &str) -> Option<String> {
    let with = ALL.iter().filter(|(_, keys)| keys.contains(&key));
    // Below where it stands, then above.
    let path = with.max_by_key(|(path, _)| (path.starts_with(within), std::cmp::Reverse(path.len())))?;
    Some(joined(path.0, key))
}

macro_rules! blocks {
    ($($(#[doc = $doc:literal])* $name:ident at $path:literal { $($key:ident: $kind:ty,)* })*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Clone, Debug, Default)]
            pub struct $name {
                $(pub $key: Option<$kind>,)*
            }

            impl Read for $name {
                fn read(node: &Node, key: &'static str, reader: &mut Reader) -> Option<$name> {
                    const KEYS: &[&str] = &[$(name_of!($key),)*];
                    let mut block = $name::default();
                    for entry in reader.block(node, key)? {
                        match entry.key.as_str() {
                            $(name_of!($key) => block.$key = reader.value(node.at, name_of!($key), &entry.value),)*
                            _ => reader.unknown(node.at, $path, KEYS, entry),
                        }
                    }
                    Some(block)
                }
            }
        )*

        /// Every block: its path, and its keys.
        pub const ALL: &[(&str, &[&str])] = &[$(($path, &[$(name_of!($key),)*]),)*];
    };
}

/// `static` is a word of the language.
macro_rules! name_of {
    (pinned) => {
        "static"
    };
    ($key:ident) => {
        stringify!($key)
    };
}

blocks! {
    Root at "" {
        name: Text,
        listen: Text,
        interface: Spanned<Interface>,
        underlay_mtu: Text,
        mode: Text,
        dscp: Text,
        mss_clamp: Text,
        oversize: Text,
        dataplane: Dataplane,
        forwarding: Forwarding,
        ike: Ike,
        peers: Vec<Spanned<Peer>>,
        metrics: Spanned<Metrics>,
        api: Spanned<Api>,
        http_names: Vec<Text>,
        stun: Vec<Text>,
        relay: Spanned<Relay>,
        runtime_dir: Text,
        state_dir: Text,
    }
    Interface at "interface" {
        name: Text,
        mtu: Text,
        bridge: Text,
        addresses: Vec<Text>,
        routes: Vec<Spanned<Route>>,
        mac: Text,
    }
    Route at "interface.routes[]" {
        to: Text,
        via: Text,
    }
    Dataplane at "dataplane" {
        binary: Text,
        workers: Text,
        cores: Spanned<Vec<Text>>,
        roam: Spanned<bool>,
        io: Text,
        crypto: Text,
        replay_window: Text,
        socket_buffer: Text,
        busy_poll_us: Text,
    }
    Forwarding at "forwarding" {
        ageing_s: Text,
        max_entries: Text,
        flood_pps: Text,
        forward: Spanned<bool>,
        pinned: Vec<Spanned<Pin>>,
    }
    Pin at "forwarding.static[]" {
        mac: Text,
        peer: Text,
    }
    Peer at "peers[]" {
        name: Text,
        endpoint: Several,
        from: Several,
        static_key_file: Text,
        ike: Spanned<PeerIke>,
        lanes: Text,
        selectors: Spanned<Vec<Spanned<Selector>>>,
        defer_checksums: Spanned<bool>,
        echo: Spanned<bool>,
        split: Spanned<bool>,
    }
    Selector at "peers[].selectors[]" {
        local: Text,
        remote: Text,
        protocol: Text,
        local_ports: Text,
        remote_ports: Text,
    }
    /// What concerns IKEv2 with every peer.
    Ike at "ike" {
        id: Text,
        key_file: Text,
        certificate_file: Text,
        key_log_dir: Text,
    }
    /// IKEv2 with one peer.
    PeerIke at "peers[].ike" {
        id: Text,
        psk_file: Text,
        public_key_file: Text,
        ca_file: Text,
        role: Text,
        proposals: Vec<Text>,
        esp_proposals: Vec<Text>,
        rekey_s: Text,
        rekey_bytes: Text,
        rekey_packets: Text,
        ike_rekey_s: Text,
        reauth_s: Text,
        dpd_s: Text,
        keepalive_s: Text,
        mobike: Spanned<bool>,
        ppk_file: Text,
        ppk_id: Text,
        ppk_required: Spanned<bool>,
    }
    Api at "api" {
        listen: Text,
        token_file: Text,
    }
    Metrics at "metrics" {
        listen: Text,
    }
    /// The relay over which peers are met.
    Relay at "relay" {
        url: Text,
        pin: Several,
        ca_file: Text,
        rooms: Vec<Text>,
        token_file: Text,
    }
}

/// Keys whose value is a block or a list, and how such a value is written.
const BLOCKS: &[(&str, &str, &str)] = &[
    ("interface", "a block of keys", "interface:\n  name: adit0"),
    ("dataplane", "a block of keys", "dataplane:\n  workers: 2"),
    ("forwarding", "a block of keys", "forwarding:\n  ageing_s: 300"),
    ("metrics", "a block of keys", "metrics:\n  listen: 127.0.0.1:9464"),
    ("api", "a block of keys", "api:\n  listen: 127.0.0.1:9465\n  token_file: api.token"),
    ("http_names", "a list of DNS names", "http_names: [gw1.example.org]"),
    ("stun", "a list of servers", "stun: [stun.example.org]"),
    ("relay", "a block of keys", "relay:\n  url: wss://relay.example.org\n  pin: sha256:…\n  rooms: [lab]"),
    ("rooms", "a list of rooms", "rooms: [lab]"),
    ("ike", "a block of keys", "ike:\n  psk_file: site-b.psk"),
    ("proposals", "a list of proposals", "proposals: [aes256gcm16-prfsha384-x25519-ke1_mlkem768]"),
    ("esp_proposals", "a list of proposals", "esp_proposals: [aes128gcm16]"),
    ("peers", "a list of peers", "peers:\n  - name: site-b\n    endpoint: 192.0.2.2:4500\n    ike: { psk_file: site-b.psk }"),
    ("addresses", "a list of addresses", "addresses: [10.1.0.1/24]"),
    ("routes", "a list of routes", "routes: [{ to: 10.9.0.0/16, via: 10.1.0.2 }]"),
    ("cores", "a list of CPU numbers", "cores: [0, 1]"),
    ("selectors", "a list of selectors", "selectors: [{ local: 10.1.0.0/24, remote: 10.2.0.0/24 }]"),
    ("static", "a list of pinned addresses", "static: [{ mac: \"02:00:00:00:00:0b\", peer: site-b }]"),
];

/// Keys with one plain value, and an example.
const VALUES: &[(&str, &str)] = &[
    ("name", "site-a"),
    ("listen", "0.0.0.0:4500"),
    ("underlay_mtu", "1500"),
    ("mode", "ip"),
    ("dscp", "copy"),
    ("mss_clamp", "auto"),
    ("oversize", "icmp"),
    ("local", "10.1.0.0/24"),
    ("remote", "10.2.0.0/24"),
    ("protocol", "tcp"),
    ("local_ports", "443"),
    ("remote_ports", "1000-2000"),
    ("runtime_dir", "/run/adit/site-a"),
    ("state_dir", "/var/lib/adit/site-a"),
    ("mtu", "1500"),
    ("bridge", "br0"),
    ("mac", "\"02:00:00:00:00:01\""),
    ("to", "10.9.0.0/16"),
    ("via", "10.1.0.2"),
    ("binary", "/usr/local/bin/adit-dataplane"),
    ("workers", "2"),
    ("roam", "true"),
    ("io", "auto"),
    ("crypto", "auto"),
    ("replay_window", "4096"),
    ("socket_buffer", "16777216"),
    ("busy_poll_us", "50"),
    ("ageing_s", "300"),
    ("max_entries", "4096"),
    ("flood_pps", "1000"),
    ("forward", "true"),
    ("peer", "site-b"),
    ("endpoint", "\"192.0.2.2:4500\""),
    ("from", "any"),
    ("static_key_file", "site-b.key"),
    ("id", "site-b.example.org"),
    ("key_file", "site-a.key"),
    ("certificate_file", "site-a.crt"),
    ("key_log_dir", "key-log"),
    ("psk_file", "site-b.psk"),
    ("ppk_file", "site-b.ppk"),
    ("ppk_id", "site-a-site-b"),
    ("token_file", "api.token"),
    ("public_key_file", "site-b.pub"),
    ("ca_file", "ca.crt"),
    ("url", "wss://relay.example.org"),
    ("pin", "sha256:…"),
    ("role", "both"),
    ("rekey_s", "3600"),
    ("rekey_bytes", "0"),
    ("rekey_packets", "68719476736"),
    ("ike_rekey_s", "14400"),
    ("reauth_s", "86400"),
    ("dpd_s", "10"),
    ("keepalive_s", "20"),
    ("lanes", "4"),
    ("defer_checksums", "true"),
    ("echo", "true"),
    ("split", "true"),
    ("mobike", "true"),
    ("ppk_required", "true"),
];

/// Reads the tree of a file.
pub fn read(root: &Node) -> (Root, Reader) {
    let mut reader = Reader::default();
    let top = Node { at: Place::TOP, value: root.value.clone() };
    let read = if let Value::Block(_) = root.value { Root::read(&top, "", &mut reader) } else { None };
    if read.is_none() {
        let what = "the file is not a block of keys";
        let expected = "a configuration with at least the keys name, listen, interface and peers";
        reader.problems.push(Problem::new(root.at, what, expected, super::EXAMPLE));
    }
    (read.unwrap_or_default(), reader)
}

/// YAML forbids tabs as indentation, and parsers complain about them in the strangest places.
pub fn tabs(source: &str) -> Vec<Problem> {
    let tab = |(index, line): (usize, &str)| {
        let column = line.find(|c: char| c != ' ').filter(|at| line[*at..].starts_with('\t'))?;
        (!line.trim().is_empty()).then(|| {
            let at = Place { line: index + 1, column: column + 1, width: 1 };
            let write = format!("{}{}", " ".repeat(column + 2), line.trim_start());
            Problem::new(at, "the line is indented with a tab", "spaces: YAML does not allow tabs as indentation", write)
        })
    };
    source.lines().enumerate().filter_map(tab).collect()
}
