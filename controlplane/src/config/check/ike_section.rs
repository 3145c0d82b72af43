//! IKEv2: who we are, what a peer has to prove, and which algorithms may be agreed on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adit_engine::auth::{LocalKey, LocalKeyError, Psk, TrustAnchors};
use adit_engine::crypto::{PrivateKey, PublicKey};
use adit_engine::identity::{Identity, Pattern};
use adit_engine::ike::proposal_words::{self, ProposalFault};

use super::Check;
use crate::config::ike_section::{Ike, Loaded, OwnKey, PeerIke, Ppk, Proof, Role};
use crate::config::problem::Place;
use crate::config::raw::{self, Text};
use crate::key_file::{self, KeyFileError, Readers};
use crate::limits::{PPK_ID_LEN_MAX, PPK_LEN_MIN, PROPOSALS_OF_CONFIG_MAX, REAUTH_SECONDS_MIN, SECONDS_MAX};

impl Check<'_> {
    /// The gateway's own part. It exists without being written: an identity is needed for every peer with IKE.
    pub(super) fn ike(&mut self, raw: raw::Ike, gateway: &str) -> Ike {
        let id = match &raw.id {
            Some(text) => self.identity(text),
            None => gateway.parse().ok(),
        };
        let certificate_at = raw.certificate_file.as_ref().map(|text| text.at);
        let key = raw.key_file.and_then(|text| self.own_key(&text, raw.certificate_file.as_ref()));
        if let Some(at) = certificate_at.filter(|_| key.is_none() && self.problems.is_empty()) {
            let expected = "the private key of the certificate beside it".to_owned();
            self.fail(at, "a certificate without its private key".to_owned(), expected, "key_file: site-a.key".to_owned());
        }
        Ike {
            // A fault above is an error anyhow.
            id: id.unwrap_or(Identity::Fqdn("adit".to_owned())),
            key,
            key_log_dir: raw.key_log_dir.map(|text| self.path(&text)),
        }
    }

    fn own_key(&mut self, text: &Text, certificate: Option<&Text>) -> Option<OwnKey> {
        let file = self.path(text);
        let expected = "a private key in PEM, Ed25519 or ECDSA on P-256 or P-384, that only its owner can read";
        // A file of another name: what is there may be a key that somebody needs.
        let other = file.with_extension("ed25519.key");
        let write = format!("run: adit keygen ed25519 -o {}, and name that file", other.display());
        let pem = self.bytes(text, &file, Readers::OwnerOnly, expected)?;
        let key = match PrivateKey::from_pem(&pem) {
            Ok(key) => key,
            Err(error) => {
                self.fail(text.at, format!("{}: {error}", file.display()), expected.to_owned(), write);
                return None;
            }
        };
        let Some(certificate) = certificate else {
            let key = Loaded { file, value: Arc::new(LocalKey::raw(key)) };
            return Some(OwnKey { key, certificate_file: None });
        };
        let chain_file = self.path(certificate);
        let expected = "certificates in PEM: the gateway's own first, then those of its issuers";
        let chain = self.bytes(certificate, &chain_file, Readers::All, expected)?;
        match LocalKey::certified(key, &chain) {
            Ok(local) => Some(OwnKey { key: Loaded { file, value: Arc::new(local) }, certificate_file: Some(chain_file) }),
            Err(error) => {
                let what = format!("{}: {error}", chain_file.display());
                let write = match error {
                    LocalKeyError::OtherKey { .. } => {
                        "certificate_file: site-a.crt      (issued for this key; or in key_file the key of this certificate)"
                    }
                    LocalKeyError::Key(_) | LocalKeyError::Certificate(_) => "certificate_file: site-a.crt",
                };
                self.fail(certificate.at, what, expected.to_owned(), write.to_owned());
                None
            }
        }
    }

    /// A peer's part; `name` is its identity when the file gives none.
    pub(super) fn peer_ike(&mut self, raw: raw::PeerIke, at: Place, name: &str, own_key: Option<Place>) -> Option<PeerIke> {
        let id = match &raw.id {
            Some(text) => self.pattern(text),
            None => name.parse().ok(),
        };
        let proof = self.proof(&raw, at);
        let ppk = self.ppk(&raw, at);
        if let (Some(Proof::PublicKey(_) | Proof::Ca(_)), None) = (&proof, own_key) {
            self.fail(
                at,
                format!("the peer `{name}` proves itself with a key, but this gateway has none to prove itself with"),
                "a private key of this gateway".to_owned(),
                "ike: { key_file: site-a.key }      (at the top of the file)".to_owned(),
            );
        }
        let role = self.choice("role", raw.role, &Role::ALL, Role::name);
        let proposals = self.proposals("proposals", raw.proposals, &proposal_words::IKE_DEFAULT, proposal_words::ike);
        let esp_proposals = self.proposals("esp_proposals", raw.esp_proposals, &proposal_words::ESP_DEFAULT, proposal_words::esp);
        Some(PeerIke {
            role,
            id: id?,
            proof: proof?,
            ppk,
            proposals,
            esp_proposals,
            rekey_s: self.seconds("rekey_s", raw.rekey_s, 3600),
            rekey_bytes: self.number("rekey_bytes", raw.rekey_bytes, 0..=u64::MAX, "bytes, 0 for no limit,", 0),
            rekey_packets: self.number("rekey_packets", raw.rekey_packets, 0..=u64::MAX, "packets, 0 for no limit,", 1 << 36),
            ike_rekey_s: self.seconds("ike_rekey_s", raw.ike_rekey_s, 4 * 3600),
            reauth_s: self.reauth(raw.reauth_s),
            dpd_s: self.seconds("dpd_s", raw.dpd_s, 10),
            keepalive_s: self.seconds("keepalive_s", raw.keepalive_s, 20),
            mobike: raw.mobike.is_none_or(|mobike| mobike.value),
        })
    }

    /// The post-quantum pre-shared key: its file and its name, or nothing of it.
    fn ppk(&mut self, raw: &raw::PeerIke, at: Place) -> Option<Ppk> {
        let (file, id) = match (&raw.ppk_file, &raw.ppk_id) {
            (Some(file), Some(id)) => (file, id),
            (None, None) => {
                if let Some(required) = &raw.ppk_required {
                    let expected = "ppk_file and ppk_id beside it".to_owned();
                    let what = "`ppk_required` without a post-quantum pre-shared key".to_owned();
                    self.fail(required.at, what, expected, "nothing: remove ppk_required".to_owned());
                }
                return None;
            }
            (Some(_), None) => {
                let write = "ppk_id: site-a-site-b";
                self.missing(at, "ppk_id", "the name of the post-quantum pre-shared key, the same at both ends", write);
                return None;
            }
            (None, Some(_)) => {
                let write = "ppk_file: site-b.ppk";
                self.missing(at, "ppk_file", "a file with the post-quantum pre-shared key of this pair", write);
                return None;
            }
        };
        if id.value.is_empty() || id.value.len() > PPK_ID_LEN_MAX || !id.value.bytes().all(|byte| byte.is_ascii_graphic()) {
            let what = "`ppk_id` is no name of a post-quantum pre-shared key".to_owned();
            let expected = format!("1 to {PPK_ID_LEN_MAX} printable ASCII characters without spaces");
            self.fail(id.at, what, expected, "ppk_id: site-a-site-b".to_owned());
            return None;
        }
        let expected = "a file with a post-quantum pre-shared key of 256 bits, that only its owner can read";
        let key = self.shared_secret(file, expected, PPK_LEN_MIN, "post-quantum pre-shared key")?;
        let key = Loaded { file: key.file, value: key.value.into_secret() };
        Some(Ppk { key, id: id.value.clone(), required: raw.ppk_required.as_ref().is_none_or(|required| required.value) })
    }

    fn seconds(&mut self, key: &str, text: Option<Text>, default: u64) -> u32 {
        self.number(key, text, 0..=SECONDS_MAX, "seconds, 0 for never,", default) as u32
    }

    fn reauth(&mut self, text: Option<Text>) -> u32 {
        let is_never = text.as_ref().is_none_or(|text| text.value.parse() == Ok(0));
        let least = if is_never { 0 } else { REAUTH_SECONDS_MIN };
        self.number("reauth_s", text, least..=SECONDS_MAX, "seconds, or 0 for never,", 0) as u32
    }

    fn proof(&mut self, raw: &raw::PeerIke, at: Place) -> Option<Proof> {
        match (&raw.psk_file, &raw.public_key_file, &raw.ca_file) {
            (Some(text), None, None) => self.psk(text).map(Proof::Psk),
            (None, Some(text), None) => self.public_key(text).map(Proof::PublicKey),
            (None, None, Some(text)) => self.ca(text).map(Proof::Ca),
            given => {
                let none = matches!(given, (None, None, None));
                let what = if none {
                    "nothing says how the peer proves who it is"
                } else {
                    "the peer has several ways to prove who it is"
                };
                let expected = "one of psk_file, public_key_file and ca_file".to_owned();
                self.fail(at, what.to_owned(), expected, "psk_file: site-b.psk".to_owned());
                None
            }
        }
    }

    fn psk(&mut self, text: &Text) -> Option<Loaded<Psk>> {
        let expected = "a file with the preshared key of this pair, that only its owner can read";
        self.shared_secret(text, expected, Psk::LEN_MIN, "preshared key")
    }

    /// A secret that both ends have in a file, of so many bytes at least.
    fn shared_secret(&mut self, text: &Text, expected: &str, least: usize, name: &str) -> Option<Loaded<Psk>> {
        let file = self.path(text);
        let make = |new: &Path| format!("run: adit keygen psk -o {}      (and copy the file to the peer)", new.display());
        if matches!(file.try_exists(), Ok(false)) {
            self.fail(text.at, KeyFileError::Missing(file.display().to_string()).to_string(), expected.to_owned(), make(&file));
            return None;
        }
        // A file of another name: what is there may be a key that somebody needs.
        let write = make(&file.with_extension("new.psk")) + ", and name that file";
        let bytes = self.bytes(text, &file, Readers::OwnerOnly, expected)?;
        let what = match std::str::from_utf8(&bytes).map(|key| Psk::from_text(key.trim_end_matches(['\r', '\n']))) {
            Ok(Ok(psk)) if psk.len() >= least => return Some(Loaded { file, value: psk }),
            Ok(Ok(psk)) => {
                format!("{}: a {name} of {} bytes can be guessed; at least {least} are needed", file.display(), psk.len())
            }
            Ok(Err(error)) => format!("{}: {error}", file.display()),
            Err(_) => format!("{}: the {name} is not text; write binary keys as 0x… or 0s…", file.display()),
        };
        self.fail(text.at, what, expected.to_owned(), write);
        None
    }

    fn public_key(&mut self, text: &Text) -> Option<Loaded<PublicKey>> {
        let file = self.path(text);
        let expected = "the peer's public key in PEM";
        let pem = self.bytes(text, &file, Readers::All, expected)?;
        let key = PublicKey::from_pem(&pem);
        let write =
            "on the peer, run: openssl pkey -in KEY_FILE -pubout, copy what it prints to a new file here, and name that file"
                .to_owned();
        self.usable(text, file, key, expected, write)
    }

    fn ca(&mut self, text: &Text) -> Option<Loaded<Arc<TrustAnchors>>> {
        let file = self.path(text);
        let expected = "certificates of CAs in PEM";
        let pem = self.bytes(text, &file, Readers::All, expected)?;
        let anchors = TrustAnchors::from_pem(&pem).map(Arc::new);
        self.usable(text, file, anchors, expected, "ca_file: ca.crt".to_owned())
    }

    fn usable<T, E: std::fmt::Display>(
        &mut self,
        text: &Text,
        file: PathBuf,
        value: Result<T, E>,
        expected: &str,
        write: String,
    ) -> Option<Loaded<T>> {
        match value {
            Ok(value) => Some(Loaded { file, value }),
            Err(error) => {
                self.fail(text.at, format!("{}: {error}", file.display()), expected.to_owned(), write);
                None
            }
        }
    }

    /// The content of a file that the configuration names.
    pub(super) fn bytes(
        &mut self,
        text: &Text,
        file: &Path,
        readers: Readers,
        expected: &str,
    ) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        match key_file::read(file, readers) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.fail(text.at, error.to_string(), expected.to_owned(), error.remedy());
                None
            }
        }
    }

    fn identity(&mut self, text: &Text) -> Option<Identity> {
        self.named(text, "id: site-a.example.org")
    }

    fn pattern(&mut self, text: &Text) -> Option<Pattern> {
        self.named(text, "id: site-b.example.org")
    }

    fn named<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, text: &Text, write: &str) -> Option<T> {
        match text.value.parse() {
            Ok(named) => Some(named),
            Err(error) => {
                let expected = "a domain name, an e-mail address, an IP address, a distinguished name or keyid:HEX, or one with its type before it: fqdn:, email:, ip:, dn:".to_owned();
                self.fail(text.at, error.to_string(), expected, write.to_owned());
                None
            }
        }
    }

    fn proposals<T>(
        &mut self,
        key: &str,
        texts: Option<Vec<Text>>,
        default: &[&str],
        read: impl Fn(&str) -> Result<T, ProposalFault>,
    ) -> Vec<(String, T)> {
        let texts = texts.unwrap_or_default();
        if let Some(extra) = texts.get(PROPOSALS_OF_CONFIG_MAX) {
            let what = format!("`{key}` lists {} proposals", texts.len());
            let expected = format!("at most {PROPOSALS_OF_CONFIG_MAX}: a proposal can hold several algorithms of each kind");
            self.fail(extra.at, what, expected, format!("{key}: [{}]", default[0]));
        }
        if texts.is_empty() {
            return default.iter().filter_map(|text| Some(((*text).to_owned(), read(text).ok()?))).collect();
        }
        let mut list = Vec::new();
        for text in texts.into_iter().take(PROPOSALS_OF_CONFIG_MAX) {
            match read(&text.value) {
                Ok(proposal) => list.push((text.value, proposal)),
                Err(fault) => self.fail(text.at, fault.what, fault.expected, format!("{key}: [{}]", default[0])),
            }
        }
        list
    }
}
