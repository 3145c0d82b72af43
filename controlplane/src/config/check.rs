//! What the file means: every value judged, every default filled in, every mistake collected before anything is refused.

mod endpoints;
mod ike_section;
mod network;
mod origin;
mod peers;
mod relay;
mod selectors;
mod stun;
mod traffic;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use adit_engine::identity::Identity;
use adit_proto::control::Mode;
use adit_proto::limits::{BUSY_POLL_US, REPLAY_WINDOW_MAX, REPLAY_WINDOW_MIN, SOCKET_BUFFER};

use super::ike_section::Loaded;
use super::problem::{Place, Problem};
use super::raw::{self, Spanned, Text};
use super::{Api, Config, Crypto, Dataplane, Io, Machine, Oversize, WORKERS_MAX, default_runtime_dir, default_state_dir};

use crate::key_file::Readers;
use crate::limits::{NAME_LEN_MAX, SOCKET_PATH_MAX, WORKERS_DEFAULT_MAX};
use crate::token::Token;

/// Sizes of a replay window, in packets.
const WINDOWS: RangeInclusive<u64> = REPLAY_WINDOW_MIN as u64..=REPLAY_WINDOW_MAX as u64;

/// The judge: collects problems while it reads.
pub struct Check<'a> {
    directory: &'a Path,
    machine: &'a Machine,
    problems: Vec<Problem>,
    /// Keys that are there, though what they say could not be read, by the place of their block.
    given: BTreeSet<(Place, &'static str)>,
    /// The selectors of the peers read so far.
    selectors: Vec<selectors::Placed>,
}

impl<'a> Check<'a> {
    /// Goes on from where the reader found out what it could.
    pub fn new(directory: &'a Path, machine: &'a Machine, read: raw::Reader) -> Check<'a> {
        Check { directory, machine, problems: read.problems, given: read.given, selectors: Vec::new() }
    }

    /// Judges the whole file.
    pub fn root(mut self, mut root: raw::Root) -> Result<Config, Vec<Problem>> {
        let top = Place::TOP;
        let mode = self.choice("mode", root.mode.take(), &Mode::ALL, Mode::name);
        if mode == Mode::Ip {
            self.ethernet_only(&root);
        }
        let name_at = root.name.as_ref().map(|name| name.at);
        let name = self.required(root.name, top, "name", "the name of this gateway, as its peers write it", "name: site-a");
        let name = name.and_then(|name| self.gateway_name("name", name)).unwrap_or_default();
        let listen_at = root.listen.as_ref().map_or(top, |listen| listen.at);
        let (listen, listen_interface) = self.listen(root.listen, top).unzip();
        let (underlay_mtu, dscp) = (self.underlay_mtu(root.underlay_mtu), self.dscp(root.dscp));
        let mss_clamp = self.mss_clamp(root.mss_clamp, mode);
        let oversize = self.choice("oversize", root.oversize, &Oversize::ALL, Oversize::name);
        let dataplane = self.dataplane(root.dataplane.unwrap_or_default());
        let raw_peers = match root.peers {
            Some(peers) => peers,
            None => {
                let write = "peers:\n  - { name: site-b, endpoint: \"192.0.2.2:4500\", ike: { psk_file: site-b.psk } }";
                self.missing(top, "peers", "the list of the gateways at the other end", write);
                Vec::new()
            }
        };
        let own_key = root.ike.as_ref().and_then(|ike| ike.key_file.as_ref()).map(|text| text.at);
        let ike = self.ike(root.ike.unwrap_or_default(), &name);
        let (workers, has_relay, listening) = (dataplane.workers, root.relay.is_some(), listen.map(|listen| (listen, listen_at)));
        let around = peers::Around { name: &name, listen: listening, own_key, workers, mode, has_relay };
        let peers = self.peers(raw_peers, around);
        self.judge_selectors(&peers);
        let interface = self.interface(root.interface, top, &name, (mode, underlay_mtu, listen), &peers);
        let forwarding = self.forwarding(root.forwarding.unwrap_or_default(), &peers);
        let metrics_listen = root.metrics.and_then(|metrics| {
            let at = metrics.at;
            let expected = "the address and TCP port of the metrics page";
            let text = self.required(metrics.value.listen, at, "listen", expected, "listen: 127.0.0.1:9464")?;
            self.socket_address("listen", &text, "an IP address and a TCP port from 1 to 65535", "127.0.0.1:9464")
        });
        let api = root.api.and_then(|api| self.api(api));
        let http_names = self.http_names(root.http_names.unwrap_or_default());
        let stun = self.stun(root.stun.unwrap_or_default());
        let relay = root.relay.and_then(|relay| self.relay(relay));
        let runtime_dir = self.runtime_dir(root.runtime_dir, &name, name_at.unwrap_or(top));
        let state_dir = root.state_dir.map_or_else(|| default_state_dir(&name), |dir| self.path(&dir));
        match (self.problems.is_empty(), listen, interface) {
            (true, Some(listen), Some(interface)) => Ok(Config {
                name,
                listen,
                listen_interface: listen_interface.flatten(),
                interface,
                underlay_mtu,
                mode,
                dscp,
                mss_clamp,
                oversize,
                dataplane,
                forwarding,
                ike,
                peers: peers.into_iter().map(|(peer, _)| peer).collect(),
                metrics_listen,
                api,
                http_names,
                stun,
                relay,
                runtime_dir,
                service: None,
                state_dir,
            }),
            _ => Err(self.problems),
        }
    }

    fn api(&mut self, raw: Spanned<raw::Api>) -> Option<Api> {
        let at = raw.at;
        let expected = "the address and TCP port of the API";
        let listen = self.required(raw.value.listen, at, "listen", expected, "listen: 127.0.0.1:9465");
        let expected = "an IP address and a TCP port from 1 to 65535";
        let listen = listen.and_then(|text| self.socket_address("listen", &text, expected, "127.0.0.1:9465"));
        let expected = "a file with the token that must be sent, that only its owner can read";
        let text = self.required(raw.value.token_file, at, "token_file", expected, "token_file: api.token")?;
        let file = self.path(&text);
        let bytes = self.bytes(&text, &file, Readers::OwnerOnly, expected)?;
        let Some(value) = Token::from_file(&bytes) else {
            let what = format!("{}: a token has at least 20 printable ASCII characters", file.display());
            let write = format!("run: umask 077; openssl rand -hex 32 >{}", file.display());
            self.fail(text.at, what, expected.to_owned(), write);
            return None;
        };
        Some(Api { listen: listen?, token: Loaded { file, value } })
    }

    fn http_names(&mut self, raw: Vec<Text>) -> Vec<String> {
        let is_name = |name: &str| name.parse().is_ok_and(|identity| matches!(identity, Identity::Fqdn(_)));
        for text in raw.iter().filter(|text| !is_name(&text.value)) {
            let what = format!("`{}` is no DNS name", text.value);
            let expected = "a name under which this gateway is asked for over HTTP; addresses and localhost need none";
            self.fail(text.at, what, expected.to_owned(), "http_names: [gw1.example.org]".to_owned());
        }
        raw.into_iter().map(|text| text.value).collect()
    }

    fn dataplane(&mut self, raw: raw::Dataplane) -> Dataplane {
        let workers_default = self.machine.cores.len().clamp(1, WORKERS_DEFAULT_MAX) as u64;
        let workers_at = raw.workers.as_ref().map(|text| text.at);
        let workers_known = workers_at.is_some();
        let workers = self.number("workers", raw.workers, 1..=u64::from(WORKERS_MAX), "workers", workers_default) as u16;
        let have = self.machine.cores.len();
        if let Some(at) = workers_at.filter(|_| raw.cores.is_none() && usize::from(workers) > have) {
            self.fail(
                at,
                format!("{workers} workers need a core each, but adit may use only {have} here: {:?}", self.machine.cores),
                format!("at most {have} workers"),
                format!("workers: {have}"),
            );
        }
        let cores = raw.cores.and_then(|cores| self.cores(cores, workers, workers_known));
        let window_at = raw.replay_window.as_ref().map(|text| text.at);
        let window = self.number("replay_window", raw.replay_window, WINDOWS, "packets", 4096);
        if let Some(at) = window_at.filter(|_| !window.is_power_of_two()) {
            let (below, above, least) = (1u64 << window.ilog2(), window.next_power_of_two(), WINDOWS.start());
            self.fail(
                at,
                format!("the replay window {window} is not a power of two"),
                format!("{0}, {1}, {2} and so on up to {3} packets", least, 2 * least, 4 * least, WINDOWS.end()),
                format!("replay_window: {}", if window - below < above - window { below } else { above }),
            );
        }
        Dataplane {
            binary: raw.binary.map(|binary| self.path(&binary)),
            // Without `workers`, a list of cores says how many.
            workers: cores.as_ref().filter(|_| !workers_known).map_or(workers, |cores| cores.len() as u16),
            roam: raw.roam.map_or(cores.is_none(), |roam| roam.value),
            cores,
            io: self.choice("io", raw.io, &Io::ALL, Io::name),
            crypto: self.choice("crypto", raw.crypto, &Crypto::ALL, Crypto::name),
            replay_window: window as u16,
            socket_buffer: self.number_of("socket_buffer", raw.socket_buffer, SOCKET_BUFFER, "bytes", 16 << 20),
            busy_poll_us: self.number_of("busy_poll_us", raw.busy_poll_us, BUSY_POLL_US, "microseconds", 50),
        }
    }

    fn cores(&mut self, cores: Spanned<Vec<Text>>, workers: u16, workers_known: bool) -> Option<Vec<usize>> {
        let at = cores.at;
        let (first, have) = (self.machine.cores.first().copied().unwrap_or(0), self.machine.cores.len());
        let faults = self.problems.len();
        let mut list = Vec::new();
        for text in &cores.value {
            let place = text.at;
            let core = match text.value.parse::<usize>() {
                Ok(core) if self.machine.cores.contains(&core) => core,
                Ok(core) => {
                    let expected = format!("one of the {have} cores that adit may use here: {:?}", self.machine.cores);
                    self.fail(place, format!("there is no core {core} for adit"), expected, format!("{first}"));
                    continue;
                }
                Err(_) => {
                    let what = format!("`{}` is not the number of a core", text.value);
                    self.fail(place, what, "a number, counted from 0".into(), format!("{first}"));
                    continue;
                }
            };
            if list.contains(&core) {
                let expected = "every core once: two workers on one core only wait for each other".to_owned();
                self.fail(place, format!("core {core} is given twice"), expected, "another core".into());
            }
            list.push(core);
        }
        let count = cores.value.len();
        if count == 0 || (workers_known && count != usize::from(workers)) || count > usize::from(WORKERS_MAX) {
            let suggestion: Vec<_> = self.machine.cores.iter().take(usize::from(workers)).collect();
            let what = format!("the number of cores ({count}) is not the number of workers ({workers})");
            self.fail(at, what, "one core per worker, in their order".into(), format!("cores: {suggestion:?}"));
            return None;
        }
        (self.problems.len() == faults).then_some(list)
    }

    fn runtime_dir(&mut self, text: Option<Text>, name: &str, name_at: Place) -> PathBuf {
        let at = text.as_ref().map_or(name_at, |text| text.at);
        let dir = text.map_or_else(|| default_runtime_dir(name), |text| self.path(&text));
        let length = dir.join("dataplane.sock").as_os_str().len();
        if length > SOCKET_PATH_MAX {
            let room = SOCKET_PATH_MAX - "/dataplane.sock".len();
            self.fail(
                at,
                format!("the runtime directory makes the path of a Unix socket {length} bytes long"),
                format!("a directory of at most {room} bytes: the kernel allows {SOCKET_PATH_MAX} for a socket's path"),
                format!("runtime_dir: /run/adit/{name}"),
            );
        }
        dir
    }

    /// A name that fits into files, metrics and messages.
    fn gateway_name(&mut self, key: &str, name: Text) -> Option<String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let text = name.value;
        if !text.is_empty()
            && text.len() <= NAME_LEN_MAX
            && text.chars().all(good)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        {
            return Some(text);
        }
        let kept: String = text.chars().map(|c| if good(c) { c } else { '-' }).take(NAME_LEN_MAX).collect();
        let kept = kept.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        self.fail(
            name.at,
            format!("`{text}` cannot be the name of a gateway"),
            format!("1 to {NAME_LEN_MAX} letters, digits, `-`, `_` and `.`, with a letter or digit first"),
            format!("{key}: {}", if kept.is_empty() { "site-a" } else { kept }),
        );
        None
    }

    // The tools that all of the above use.

    fn fail(&mut self, at: Place, what: String, expected: String, write: String) {
        self.problems.push(Problem::new(at, what, expected, write));
    }

    fn missing(&mut self, at: Place, key: &str, expected: &str, write: &str) {
        if !self.given.iter().any(|(block, given)| *block == at && *given == key) {
            self.problems.push(Problem::new(at, format!("the key `{key}` is missing"), expected, write).of(key));
        }
    }

    fn required(&mut self, text: Option<Text>, at: Place, key: &str, expected: &str, write: &str) -> Option<Text> {
        if text.is_none() {
            self.missing(at, key, expected, write);
        }
        text
    }

    /// A whole number within a range; the default when it is left out or wrong.
    fn number(&mut self, key: &str, text: Option<Text>, range: RangeInclusive<u64>, unit: &str, default: u64) -> u64 {
        let Some(text) = text else { return default };
        let (low, high) = (*range.start(), *range.end());
        // Underscores between digits are how people write large numbers.
        let parsed = text.value.replace('_', "").parse::<u64>();
        let (what, near) = match parsed {
            Ok(number) if range.contains(&number) => return number,
            Ok(number) => (format!("`{key}` is {number}, out of range"), number.clamp(low, high)),
            Err(_) => (format!("`{key}` is `{}`, not a whole number", text.value), default),
        };
        self.fail(text.at, what, format!("a number of {unit} from {low} to {high}"), format!("{key}: {near}"));
        default
    }

    /// A number of a range that the data plane judges by as well.
    fn number_of(&mut self, key: &str, text: Option<Text>, range: RangeInclusive<u32>, unit: &str, default: u32) -> u32 {
        let (low, high) = range.into_inner();
        self.number(key, text, low.into()..=high.into(), unit, default.into()) as u32
    }

    /// One of some words; the first when it is left out or wrong.
    fn choice<T: Copy>(&mut self, key: &str, text: Option<Text>, all: &[T], name: fn(T) -> &'static str) -> T {
        let Some(text) = text else { return all[0] };
        if let Some(found) = all.iter().find(|one| name(**one) == text.value) {
            return *found;
        }
        let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
        let guess = super::problem::nearest(&text.value, &names).unwrap_or(names[0]);
        let what = format!("`{}` is no value of `{key}`", text.value);
        self.fail(text.at, what, format!("one of {}", names.join(", ")), format!("{key}: {guess}"));
        all[0]
    }

    /// A value with a parser of its own.
    fn parsed<T: FromStr>(&mut self, text: &Text, what: &str, expected: &str, write: &str) -> Option<T> {
        let parsed = text.value.parse().ok();
        if parsed.is_none() {
            self.fail(text.at, format!("`{}` is not {what}", text.value), expected.to_owned(), write.to_owned());
        }
        parsed
    }

    /// A path, which starts at the directory of the file when it is relative.
    fn path(&self, text: &Text) -> PathBuf {
        self.directory.join(&text.value)
    }
}
