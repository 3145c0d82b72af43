//! What should be: one model, derived from one reading of the configuration, that everybody works from. A reload makes another one
//! and puts it in its place as a whole, so that nobody sees half of a change.
//!
//! [`static_key`] derives the SAs of static keys; those of IKE are what both ends agree on ([`crate::ike`]).

pub mod difference;
pub mod reload;
pub mod static_key;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use adit_proto::control::{Direction, PeerTag, Spi};
use aws_lc_rs::digest::{SHA256, digest};

use crate::config::ike_section::Proof;
use crate::config::{Config, Keys, Machine, Problems, RelayTrust};
use crate::request::RequestError;
use crate::static_key::KeyId;
use static_key::WantedSa;

/// Readings of a configuration whose files change meanwhile.
const READINGS: usize = 3;

/// SHA-256 of what is in a file.
pub type Digest = [u8; 32];

/// The model.
#[derive(Clone, Debug)]
pub struct Desired {
    pub config: Config,
    /// What the peers are called where their names are too long.
    pub tags: Vec<PeerTag>,
    /// The SAs of all peers with static keys.
    pub sas: Vec<WantedSa>,
    /// Their keys by direction and SPI: several, where peers chose the same.
    keys: BTreeMap<(u8, Spi), Vec<KeyId>>,
    /// Where it was read; nowhere in a test.
    pub source: Option<Source>,
    /// What the file says and is not done yet, because it needs another data plane or another start of adit.
    pub pending: Vec<String>,
}

/// The file of a configuration, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub file: PathBuf,
    pub read_at: SystemTime,
    digest: Option<Digest>,
    text: Arc<str>,
    /// The files that it names, with what was in them: keys, certificates and the token.
    contents: BTreeMap<PathBuf, Option<Digest>>,
    /// How they looked from outside, before they were read.
    stamps: Stamps,
}

/// How files look from outside: whether one is another one now, without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(Vec<Option<[i64; 7]>>);

impl Stamps {
    /// Of these files, in this order.
    pub fn of<'a>(files: impl Iterator<Item = &'a Path>) -> Stamps {
        let stamp = |file: &Path| {
            let facts = std::fs::metadata(file).ok()?;
            let changed = [facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec()];
            let [mtime, mtime_ns, ctime, ctime_ns] = changed;
            Some([facts.dev() as i64, facts.ino() as i64, facts.size() as i64, mtime, mtime_ns, ctime, ctime_ns])
        };
        Stamps(files.map(stamp).collect())
    }
}

impl Desired {
    pub fn new(config: Config) -> Desired {
        let tags = config.peers.iter().map(|peer| static_key::tag(&peer.name)).collect();
        let sas = static_key::sas(&config);
        let mut keys: BTreeMap<(u8, Spi), Vec<KeyId>> = BTreeMap::new();
        sas.iter().for_each(|want| keys.entry((want.direction as u8, want.spi)).or_default().push(want.key_id));
        Desired { config, tags, sas, keys, source: None, pending: Vec::new() }
    }

    /// The place of a peer in the configuration.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn place_named(&self, name: &str) -> Result<usize, RequestError> {
        let peers = &self.config.peers;
        peers.iter().position(|peer| peer.name == name).ok_or_else(|| {
            let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).take(20).collect();
            RequestError::NoSuchPeer(name.to_owned(), names.join(", "))
        })
    }

    /// Reads the file, and the files that it names. What came by standard input (`-`) cannot be read again: it has no source.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn read(file: &Path, machine: &Machine) -> Result<Desired, Problems> {
        if file == Path::new("-") {
            // Standard input comes once.
            return Config::load(file, machine).map(Desired::new);
        }
        // It is read again later, from wherever we are then.
        let file = &std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let (config, source) = read_whole(|| {
            let text = Config::text(file)?;
            let config = Config::of_text(file, &text, machine)?;
            let source = Source::of(file, text.into(), &config);
            Ok((config, source))
        })?;
        Ok(Desired { source: Some(source), ..Desired::new(config) })
    }

    /// The same configuration, as it was read, with what is in the files that it names now; but for static keys, which stay.
    ///
    /// # Errors
    /// Every mistake in these files.
    pub fn renewed(&self, machine: &Machine) -> Result<Desired, Problems> {
        let Some(before) = &self.source else { return Ok(self.clone()) };
        let (mut config, mut source) = read_whole(|| {
            let config = Config::of_text(&before.file, &before.text, machine)?;
            let source = Source::of(&before.file, before.text.clone(), &config);
            Ok((config, source))
        })?;
        (source.read_at, source.digest) = (before.read_at, before.digest);
        // A port that the system has chosen is none of the file.
        config.listen = self.config.listen;
        config.listen_interface.clone_from(&self.config.listen_interface);
        let running: BTreeMap<&str, &Keys> = self.config.peers.iter().map(|peer| (peer.name.as_str(), &peer.keys)).collect();
        for peer in &mut config.peers {
            if let (Keys::Static { file, .. }, Some(keys @ Keys::Static { .. })) = (&peer.keys, running.get(peer.name.as_str())) {
                if let Some(content) = before.contents.get(file) {
                    source.contents.insert(file.clone(), *content);
                }
                peer.keys = (*keys).clone();
            }
        }
        Ok(Desired { source: Some(source), ..Desired::new(config) })
    }

    /// The keys of the SAs with this SPI: outbound, one for each peer that chose it.
    pub fn keys(&self, direction: Direction, spi: Spi) -> &[KeyId] {
        self.keys.get(&(direction as u8, spi)).map_or(&[], Vec::as_slice)
    }

    /// Whether the file has been changed since it was read.
    pub fn is_outdated(&self) -> bool {
        self.source.as_ref().is_some_and(|source| content(&source.file) != source.digest)
    }
}

/// Reads until two readings in a row are of the same files: what was read is what the digests are of only if nothing has changed
/// between two looks.
fn read_whole(read: impl Fn() -> Result<(Config, Source), Problems>) -> Result<(Config, Source), Problems> {
    let (mut config, mut source) = read()?;
    for _ in 1..READINGS {
        let (again, source_again) = read()?;
        let same = (source_again.digest, &source_again.contents) == (source.digest, &source.contents);
        (config, source) = (again, source_again);
        if same {
            break;
        }
    }
    Ok((config, source))
}

impl Source {
    /// SHA-256 of the configuration file as it was read, in hexadecimal, as `sha256sum` prints it.
    pub fn digest(&self) -> Option<String> {
        Some(self.digest?.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn of(file: &Path, text: Arc<str>, config: &Config) -> Source {
        let files: BTreeSet<&Path> = files(config).into_iter().collect();
        let stamps = Stamps::of(files.iter().copied());
        let contents = files.into_iter().map(|file| (file.to_owned(), content(file))).collect();
        let digest = digest_of(text.as_bytes());
        Source { file: file.to_owned(), read_at: SystemTime::now(), digest, text, contents, stamps }
    }

    /// How the files that it names looked when they were read.
    pub fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    /// How they look now.
    pub fn stamps_now(&self) -> Stamps {
        Stamps::of(self.contents.keys().map(PathBuf::as_path))
    }

    /// What was in a file that it names; none where it does not name it, or where it could not be read.
    pub fn content_of(&self, file: &Path) -> Option<Digest> {
        self.contents.get(file).copied().flatten()
    }

    /// Whether a file that both name has the same content in both.
    fn agrees_on(&self, other: &Source, file: &Path) -> bool {
        match (self.contents.get(file), other.contents.get(file)) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        }
    }
}

/// A hash of a file's content; `None` when it cannot be read.
fn content(file: &Path) -> Option<Digest> {
    let read: io::Result<Vec<u8>> = std::fs::read(file);
    let bytes = zeroize::Zeroizing::new(read.ok()?);
    digest_of(&bytes)
}

fn digest_of(bytes: &[u8]) -> Option<Digest> {
    digest(&SHA256, bytes).as_ref().try_into().ok()
}

/// All files that a configuration names.
fn files(config: &Config) -> Vec<&Path> {
    let mut files: Vec<&Path> = gateway_files(config).into_iter().map(|(_, file)| file).collect();
    files.extend(config.peers.iter().flat_map(|peer| peer_files(&peer.keys)).map(|(_, file)| file));
    files
}

/// The files that concern the gateway as a whole, by their keys in the configuration.
fn gateway_files(config: &Config) -> Vec<(&'static str, &Path)> {
    let mut files: Vec<(&str, &Path)> = Vec::new();
    if let Some(own) = &config.ike.key {
        files.push(("ike.key_file", &own.key.file));
        files.extend(own.certificate_file.as_deref().map(|file| ("ike.certificate_file", file)));
    }
    files.extend(config.api.as_ref().map(|api| ("api.token_file", api.token.file.as_path())));
    if let Some(relay) = &config.relay {
        files.extend(relay.token_file.as_deref().map(|file| ("relay.token_file", file)));
        if let RelayTrust::Ca(file) = &relay.trust {
            files.push(("relay.ca_file", file));
        }
    }
    files
}

/// The files of one peer, likewise.
fn peer_files(keys: &Keys) -> Vec<(&'static str, &Path)> {
    match keys {
        Keys::Static { file, .. } => vec![("static_key_file", file)],
        Keys::Ike(ike) => {
            let proof: (&str, &Path) = match &ike.proof {
                Proof::Psk(psk) => ("ike.psk_file", &psk.file),
                Proof::PublicKey(key) => ("ike.public_key_file", &key.file),
                Proof::Ca(anchors) => ("ike.ca_file", &anchors.file),
            };
            let ppk = ike.ppk.as_ref().map(|ppk| ("ike.ppk.file", ppk.key.file.as_path()));
            [proof].into_iter().chain(ppk).collect()
        }
    }
}
