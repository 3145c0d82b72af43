//! The file as it is written: every key optional, every value with its place. What a value means is judged in `check`,
//! so that one run finds every mistake.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::problem::{Place, Problem, nearest};

/// A scalar in its own spelling, whatever YAML would take it for.
pub type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename = "the configuration")]
pub struct Root {
    pub name: Option<Text>,
    pub listen: Option<Text>,
    pub interface: Option<Spanned<Interface>>,
    pub underlay_mtu: Option<Text>,
    pub mode: Option<Text>,
    pub dataplane: Option<Dataplane>,
    pub forwarding: Option<Forwarding>,
    pub ike: Option<Ike>,
    pub peers: Option<Vec<Spanned<Peer>>>,
    pub metrics: Option<Spanned<Metrics>>,
    pub api: Option<Spanned<Api>>,
    pub runtime_dir: Option<Text>,
    pub state_dir: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    pub name: Option<Text>,
    pub mtu: Option<Text>,
    pub bridge: Option<Text>,
    pub addresses: Option<Vec<Text>>,
    pub routes: Option<Vec<Spanned<Route>>>,
    pub mac: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub to: Option<Text>,
    pub via: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataplane {
    pub binary: Option<Text>,
    pub workers: Option<Text>,
    pub cores: Option<Spanned<Vec<Text>>>,
    pub io: Option<Text>,
    pub crypto: Option<Text>,
    pub replay_window: Option<Text>,
    pub socket_buffer: Option<Text>,
    pub busy_poll_us: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarding {
    pub ageing_s: Option<Text>,
    pub max_entries: Option<Text>,
    pub flood_pps: Option<Text>,
    #[serde(rename = "static")]
    pub pinned: Option<Vec<Spanned<Pin>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pub mac: Option<Text>,
    pub peer: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub name: Option<Text>,
    pub endpoint: Option<Text>,
    pub static_key_file: Option<Text>,
    pub ike: Option<Spanned<PeerIke>>,
    pub lanes: Option<Text>,
    pub selectors: Option<Spanned<Vec<Spanned<Selector>>>>,
    pub defer_checksums: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    pub local: Option<Text>,
    pub remote: Option<Text>,
    pub protocol: Option<Text>,
    pub local_ports: Option<Text>,
    pub remote_ports: Option<Text>,
}

/// What concerns IKEv2 with every peer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ike {
    pub id: Option<Text>,
    pub key_file: Option<Text>,
    pub certificate_file: Option<Text>,
    pub key_log_dir: Option<Text>,
}

/// IKEv2 with one peer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerIke {
    pub id: Option<Text>,
    pub psk_file: Option<Text>,
    pub public_key_file: Option<Text>,
    pub ca_file: Option<Text>,
    pub role: Option<Text>,
    pub proposals: Option<Vec<Text>>,
    pub esp_proposals: Option<Vec<Text>>,
    pub rekey_s: Option<Text>,
    pub rekey_bytes: Option<Text>,
    pub rekey_packets: Option<Text>,
    pub ike_rekey_s: Option<Text>,
    pub dpd_s: Option<Text>,
    pub keepalive_s: Option<Text>,
    pub mobike: Option<Spanned<bool>>,
    pub ppk_file: Option<Text>,
    pub ppk_id: Option<Text>,
    pub ppk_required: Option<Spanned<bool>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    pub listen: Option<Text>,
    pub token_file: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub listen: Option<Text>,
}

/// Keys whose value is a block or a list, and how such a value is written.
const BLOCKS: &[(&str, &str, &str)] = &[
    ("interface", "a block of keys", "interface:\n  name: adit0"),
    ("dataplane", "a block of keys", "dataplane:\n  workers: 2"),
    ("forwarding", "a block of keys", "forwarding:\n  ageing_s: 300"),
    ("metrics", "a block of keys", "metrics:\n  listen: 127.0.0.1:9464"),
    ("api", "a block of keys", "api:\n  listen: 127.0.0.1:9465\n  token_file: api.token"),
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
    ("local", "10.1.0.0/24"),
    ("remote", "10.2.0.0/24"),
    ("protocol", "tcp"),
    ("local_ports", "443"),
    ("remote_ports", "1000-2000"),
    ("runtime_dir", "/run/adit/site-a"),
    ("state_dir", "/var/lib/adit/site-a"),
    ("mtu", "1418"),
    ("bridge", "br0"),
    ("mac", "\"02:00:00:00:00:01\""),
    ("to", "10.9.0.0/16"),
    ("via", "10.1.0.2"),
    ("binary", "/usr/local/bin/adit-dataplane"),
    ("workers", "2"),
    ("io", "auto"),
    ("crypto", "auto"),
    ("replay_window", "4096"),
    ("socket_buffer", "16777216"),
    ("busy_poll_us", "50"),
    ("ageing_s", "300"),
    ("max_entries", "4096"),
    ("flood_pps", "1000"),
    ("peer", "site-b"),
    ("endpoint", "\"192.0.2.2:4500\""),
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
    ("role", "both"),
    ("rekey_s", "3600"),
    ("rekey_bytes", "0"),
    ("rekey_packets", "68719476736"),
    ("ike_rekey_s", "14400"),
    ("dpd_s", "10"),
    ("keepalive_s", "20"),
    ("lanes", "4"),
    ("defer_checksums", "true"),
    ("mobike", "true"),
    ("ppk_required", "true"),
];

/// Keys whose value is true or false.
const BOOLEANS: &[&str] = &["defer_checksums", "mobike", "ppk_required"];

/// Reads the text of a file.
///
/// # Errors
/// The first fault in the YAML itself, or a value of the wrong shape, an unknown key, a key given twice.
pub fn parse(source: &str) -> Result<Root, Problem> {
    if let Some(problem) = tabs(source) {
        return Err(problem);
    }
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    if source.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim() == "---") {
        return Err(Problem {
            at: Place::FILE,
            what: "the file is empty".into(),
            expected: "a configuration with at least the keys name, listen, interface and peers".into(),
            write: "name: site-a\nlisten: 0.0.0.0:4500\ninterface: { name: adit0, addresses: [10.1.0.1/24] }\npeers:\n  - { name: site-b, endpoint: \"192.0.2.2:4500\", ike: { psk_file: site-b.psk } }".into(),
        });
    }
    serde_saphyr::from_str_with_options(source, options).map_err(|error| explain(source, &error))
}

/// YAML forbids tabs as indentation, and parsers complain about them in the strangest places.
fn tabs(source: &str) -> Option<Problem> {
    source.lines().enumerate().find_map(|(index, line)| {
        let column = line.find(|c: char| c != ' ').filter(|at| line[*at..].starts_with('\t'))?;
        (!line.trim().is_empty()).then(|| Problem {
            at: Place { line: index + 1, column: column + 1, width: 1 },
            what: "the line is indented with a tab".into(),
            expected: "spaces: YAML does not allow tabs as indentation".into(),
            write: format!("{}{}", " ".repeat(column + 2), line.trim_start()),
        })
    })
}

fn explain(source: &str, error: &serde_saphyr::Error) -> Problem {
    use serde_saphyr::Error as E;
    let at = error.location().map_or(Place::FILE, Place::from);
    let line = at.line.checked_sub(1).and_then(|index| source.lines().nth(index)).unwrap_or_default();
    let problem = |what: String, expected: String, write: String| Problem { at, what, expected, write };
    match error.without_snippet() {
        E::SerdeUnknownField { field, expected, .. } => {
            let at = Place { width: field.chars().count().max(1), ..at };
            let guess = nearest(field, expected);
            let what = match guess {
                Some(guess) => format!("there is no key `{field}` here; did you mean `{guess}`?"),
                None => format!("there is no key `{field}` here"),
            };
            let write = match guess {
                Some(guess) => line.replacen(field.as_str(), guess, 1).trim_start().trim_start_matches("- ").to_owned(),
                None => format!("nothing: remove `{field}`"),
            };
            Problem { at, what, expected: format!("one of {}", expected.join(", ")), write }
        }
        E::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or("this key");
            problem(
                format!("`{key}` is given twice"),
                "each key once".into(),
                format!("one of the two `{key}`, and remove the other"),
            )
        }
        E::InvalidBooleanStrict { .. } | E::SerdeInvalidType { .. } | E::InvalidScalar { .. }
            if boolean_of(source, at).is_some() =>
        {
            let key = boolean_of(source, at).unwrap_or_default();
            problem(format!("`{key}` is neither true nor false"), "true or false".into(), format!("{key}: true"))
        }
        E::MultipleDocuments { .. } => problem(
            "a second document begins here".into(),
            "one configuration per file".into(),
            "nothing: remove the line `---` and what follows, or move it to a file of its own".into(),
        ),
        E::ExternalMessage { msg, .. } => problem(
            format!("this is not YAML: {msg}"),
            "keys and values as `key: value`, blocks indented by two spaces, text with special characters in double quotes"
                .into(),
            "the line so that brackets, quotes and indentation close".into(),
        ),
        _ => shape(source, at, error),
    }
}

/// The key whose value begins at a place, if it takes true or false.
fn boolean_of(source: &str, at: Place) -> Option<&str> {
    key_of(source, at).filter(|key| BOOLEANS.contains(key))
}

/// A value of another shape than its key wants: a block where text belongs, text where a list belongs.
fn shape(source: &str, at: Place, error: &serde_saphyr::Error) -> Problem {
    let key = key_of(source, at).unwrap_or_default();
    if let Some((_, expected, write)) = BLOCKS.iter().find(|(name, ..)| *name == key) {
        let what = format!("`{key}` is not {expected}");
        return Problem { at, what, expected: (*expected).to_owned(), write: (*write).to_owned() };
    }
    match VALUES.iter().find(|(name, _)| *name == key) {
        Some((_, example)) => {
            let what = format!("`{key}` is not one plain value");
            Problem { at, what, expected: "a word, a number or text in quotes".into(), write: format!("{key}: {example}") }
        }
        None => Problem {
            at,
            what: format!("the value does not fit: {}", error.without_snippet()),
            expected: "what the key takes".into(),
            write: "the value as `adit config show` prints such values".into(),
        },
    }
}

/// The key whose value begins at a place: before it on its line, or at the end of an earlier, less indented line.
fn key_of(source: &str, at: Place) -> Option<&str> {
    fn ends_in_key(text: &str) -> Option<&str> {
        let text = text.trim_end().strip_suffix(':')?;
        let start = text.rfind(|c: char| !(c.is_ascii_lowercase() || c == '_')).map_or(0, |index| index + 1);
        Some(&text[start..])
    }
    let lines: Vec<&str> = source.lines().take(at.line).collect();
    let (line, above) = lines.split_last()?;
    let before = line.char_indices().nth(at.column.saturating_sub(1)).map_or(*line, |(index, _)| &line[..index]);
    ends_in_key(before).or_else(|| {
        let indent = before.len() - before.trim_start().len();
        above.iter().rev().filter(|line| line.len() - line.trim_start().len() <= indent).find_map(|line| ends_in_key(line))
    })
}
