//! Whom a client or a server talks to: keys, identities, algorithms, traffic, lifetimes; and the builder for it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_engine::auth::{LocalAuth, LocalKey, Psk, RemoteAuth, TrustAnchors};
use adit_engine::crypto::{PrivateKey, PublicKey, Secret};
use adit_engine::identity::{Identity, Pattern};
use adit_engine::ike::proposal_words;
use adit_engine::ike::selectors::pair_of;
use adit_engine::ike::{Backoff, ChildConfig, ChildProposal, IkeProposal, Lifetime, Mode, PeerConfig, Ppk, Share};
use adit_engine::path::Origin;
use adit_proto::ike::{AddressRange, IpSelector};
use adit_proto::limits::SELECTORS_OF_CONFIG_MAX;

use super::error::Error;
use super::esp::Pace;
use super::limits::CHILDREN_MAX;
use super::selector;

/// A hard limit is this many percent of the soft one.
const HARD_PERCENT: u32 = 150;
/// What the only Child SA is called.
const CHILD: &str = "packets";

/// Whom to talk to and how: for [`Client::connect`](super::Client::connect) the server, for
/// [`Server::bind`](super::Server::bind) a client, or all clients whose identities match a pattern.
///
/// ```
/// use adit_ipsec::Peer;
///
/// let peer = Peer::builder()
///     .local_id("alice@example.org")
///     .remote_id("gw.example.org")
///     .psk("a long random text")
///     .local_traffic(["10.9.0.7"])
///     .remote_traffic(["10.1.0.0/16", "fd00:1::/48"])
///     .build()?;
/// # Ok::<(), adit_ipsec::Error>(())
/// ```
#[derive(Clone)]
pub struct Peer {
    pub(super) config: PeerConfig,
    pub(super) reconnect: bool,
}

/// Builds a [`Peer`]. What cannot be read is told by [`PeerBuilder::build`].
#[derive(Clone, Default)]
pub struct PeerBuilder {
    fault: Option<Error>,
    local_id: Option<Identity>,
    remote_id: Option<Pattern>,
    local_auth: Option<LocalAuth>,
    remote_auth: Option<RemoteAuth>,
    proposals: Vec<IkeProposal>,
    esp_proposals: Vec<ChildProposal>,
    local: Vec<IpSelector>,
    remote: Vec<IpSelector>,
    ppk: Option<Ppk>,
    timing: Timing,
}

#[derive(Clone)]
struct Timing {
    child: Lifetime,
    ike: Lifetime,
    dpd: Duration,
    keepalive: Duration,
    backoff: Backoff,
    reconnect: bool,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            child: Lifetime { hard_percent: HARD_PERCENT, ..Lifetime::CHILD },
            ike: Lifetime { hard_percent: HARD_PERCENT, ..Lifetime::IKE },
            dpd: Duration::from_secs(30),
            keepalive: Duration::from_secs(20),
            backoff: Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) },
            reconnect: true,
        }
    }
}

impl Peer {
    /// Begins with everything at its default, which is safe: ML-KEM-768 beside X25519 where the other end knows it.
    pub fn builder() -> PeerBuilder {
        PeerBuilder::default()
    }

    /// What the other end may be: an identity or a pattern.
    pub fn remote_id(&self) -> String {
        self.config.remote_id.to_string()
    }

    pub(super) fn pace(&self) -> Pace {
        self.config.children.first().map(|child| Pace::of(&child.lifetime)).unwrap_or_default()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({} to {}, …)", self.config.local_id, self.config.remote_id)
    }
}

impl fmt::Debug for PeerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerBuilder(…)")
    }
}

impl PeerBuilder {
    /// Keeps the value, or the first fault.
    fn read<T, E: fmt::Display>(&mut self, setting: &'static str, value: Result<T, E>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fault.get_or_insert_with(|| Error::settings(setting, fault));
                None
            }
        }
    }

    /// Who we are: a domain name, an e-mail address, an IP address, a distinguished name, or `keyid:` with hexadecimal digits.
    #[must_use]
    pub fn local_id(mut self, id: &str) -> PeerBuilder {
        self.local_id = self.read("local_id", id.parse());
        self
    }

    /// Who the other end must prove to be. For a server also a pattern, for many clients: `*.example.org`, `*@example.org`, `*`.
    #[must_use]
    pub fn remote_id(mut self, id: &str) -> PeerBuilder {
        self.remote_id = self.read("remote_id", id.parse());
        self
    }

    /// A key that both ends know: text, hexadecimal digits after `0x`, or base64 after `0s`, at least [`Psk::LEN_MIN`] bytes of it. Make
    /// it random and long: whoever records a handshake and has a quantum computer, or plays the other end, can try keys that people
    /// remember.
    #[must_use]
    pub fn psk(mut self, text: &str) -> PeerBuilder {
        let psk = self.read("psk", Psk::from_text(text).and_then(Psk::long_enough));
        self.set_psk(psk);
        self
    }

    /// The same as bytes.
    #[must_use]
    pub fn psk_bytes(mut self, bytes: &[u8]) -> PeerBuilder {
        let psk = self.read("psk", Psk::from_bytes(bytes).and_then(Psk::long_enough));
        self.set_psk(psk);
        self
    }

    fn set_psk(&mut self, psk: Option<Psk>) {
        self.local_auth = psk.clone().map(LocalAuth::Psk);
        self.remote_auth = psk.map(RemoteAuth::Psk);
    }

    /// Our private key in PEM, Ed25519 or ECDSA with P-256 or P-384; the other end has pinned its public key (RFC 7670).
    #[must_use]
    pub fn key(mut self, private_pem: &str) -> PeerBuilder {
        let key = self.read("key", PrivateKey::from_pem(private_pem.as_bytes()));
        self.local_auth = key.map(|key| LocalAuth::Key(Arc::new(LocalKey::raw(key))));
        self
    }

    /// Our private key with its certificate, and those of intermediate CAs behind it, in PEM.
    #[must_use]
    pub fn certificate(mut self, private_pem: &str, chain_pem: &str) -> PeerBuilder {
        let key = self.read("certificate", PrivateKey::from_pem(private_pem.as_bytes()));
        let key = key.and_then(|key| self.read("certificate", LocalKey::certified(key, chain_pem.as_bytes())));
        self.local_auth = key.map(|key| LocalAuth::Key(Arc::new(key)));
        self
    }

    /// The public key of the other end in PEM, also out of a certificate. Several calls: any of them.
    #[must_use]
    pub fn remote_key(mut self, public_pem: &str) -> PeerBuilder {
        if let Some(key) = self.read("remote_key", PublicKey::from_pem(public_pem.as_bytes())) {
            match &mut self.remote_auth {
                Some(RemoteAuth::PinnedKeys(keys)) => keys.push(key),
                other => *other = Some(RemoteAuth::PinnedKeys(vec![key])),
            }
        }
        self
    }

    /// The CAs, in PEM, one of which must have certified the other end's key for its identity.
    #[must_use]
    pub fn authorities(mut self, pem: &str) -> PeerBuilder {
        let anchors = self.read("authorities", TrustAnchors::from_pem(pem.as_bytes()));
        self.remote_auth = anchors.map(|anchors| RemoteAuth::Ca(Arc::new(anchors)));
        self
    }

    /// A post-quantum preshared key beside everything else (RFC 8784); `mandatory` refuses a peer without it.
    #[must_use]
    pub fn ppk(mut self, id: &[u8], key: &[u8], mandatory: bool) -> PeerBuilder {
        self.ppk = Some(Ppk { id: id.to_vec(), key: Secret::copy_of(key), mandatory });
        self
    }

    /// Algorithms of the IKE SA in the words of strongSwan, as `aes256gcm16-prfsha384-x25519-ke1_mlkem768`, the best first.
    #[must_use]
    pub fn proposals<'a>(mut self, proposals: impl IntoIterator<Item = &'a str>) -> PeerBuilder {
        let read = proposals.into_iter().map(|text| proposal_words::ike(text).map_err(said)).collect();
        self.proposals = self.read::<Vec<_>, _>("proposals", read).unwrap_or_default();
        self
    }

    /// Algorithms of ESP, as `aes256gcm16-x25519-esn`: a key exchange in it makes every rekey a fresh one.
    #[must_use]
    pub fn esp_proposals<'a>(mut self, proposals: impl IntoIterator<Item = &'a str>) -> PeerBuilder {
        let read = proposals.into_iter().map(|text| proposal_words::esp(text).map_err(said)).collect();
        self.esp_proposals = self.read::<Vec<_>, _>("esp_proposals", read).unwrap_or_default();
        self
    }

    /// Our side of the traffic: networks, addresses or ranges, each perhaps with protocol and ports: `10.1.0.0/16`, `fd00::1`,
    /// `10.0.0.1-10.0.0.9[udp/53]`, `::/0[tcp/80-90]`. Default: everything.
    #[must_use]
    pub fn local_traffic<'a>(mut self, selectors: impl IntoIterator<Item = &'a str>) -> PeerBuilder {
        let read = selectors.into_iter().map(selector::parse).collect();
        self.local = self.read::<Vec<_>, _>("local_traffic", read).unwrap_or_default();
        self
    }

    /// The other end's side of it.
    #[must_use]
    pub fn remote_traffic<'a>(mut self, selectors: impl IntoIterator<Item = &'a str>) -> PeerBuilder {
        let read = selectors.into_iter().map(selector::parse).collect();
        self.remote = self.read::<Vec<_>, _>("remote_traffic", read).unwrap_or_default();
        self
    }

    /// For a server: the other end's side of the traffic is one address, as for a client of its own.
    #[must_use]
    pub fn remote_address(mut self, address: IpAddr) -> PeerBuilder {
        self.remote = vec![IpSelector::any_of(AddressRange::host(address))];
        self
    }

    /// Silence after which the other end is probed (dead peer detection, DPD); zero: never. Default: 30 s.
    #[must_use]
    pub fn dpd(mut self, after: Duration) -> PeerBuilder {
        self.timing.dpd = after;
        self
    }

    /// Interval of keepalives where a NAT is on our side (RFC 3948 §4); zero: none. Default: 20 s.
    #[must_use]
    pub fn keepalive(mut self, interval: Duration) -> PeerBuilder {
        self.timing.keepalive = interval;
        self
    }

    /// Age at which the keys of ESP are replaced; zero: none. Default: one hour.
    #[must_use]
    pub fn rekey_after(mut self, age: Duration) -> PeerBuilder {
        self.timing.child.rekey_after = age;
        self
    }

    /// Bytes and packets, in either direction, at which the keys of ESP are replaced; zero: no limit. Default: none, and 2³⁶
    /// packets.
    #[must_use]
    pub fn rekey_volume(mut self, bytes: u64, packets: u64) -> PeerBuilder {
        (self.timing.child.rekey_bytes, self.timing.child.rekey_packets) = (bytes, packets);
        self
    }

    /// Age at which the keys of the IKE SA are replaced; zero: none. Default: four hours.
    #[must_use]
    pub fn ike_rekey_after(mut self, age: Duration) -> PeerBuilder {
        self.timing.ike.rekey_after = age;
        self
    }

    /// For a client: whether a connection that was lost is made anew, and the first and the longest pause between attempts.
    /// Default: it is, after 1 s, then at most 30 s.
    #[must_use]
    pub fn reconnect(mut self, first: Duration, max: Duration) -> PeerBuilder {
        self.timing.reconnect = true;
        self.timing.backoff = Backoff { first, max };
        self
    }

    /// For a client: a connection that was lost stays lost.
    #[must_use]
    pub fn no_reconnect(mut self) -> PeerBuilder {
        self.timing.reconnect = false;
        self
    }

    /// The peer.
    ///
    /// # Errors
    /// [`Error::Settings`]: an identity or a proof is missing, or something could not be read.
    pub fn build(mut self) -> Result<Peer, Error> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let missing = |setting, fault| Error::Settings { setting, fault: String::from(fault) };
        let local_id = self.local_id.ok_or_else(|| missing("local_id", "is missing: say who we are"))?;
        let remote_id = self.remote_id.ok_or_else(|| missing("remote_id", "is missing: say who the other end must be"))?;
        let local_auth =
            self.local_auth.ok_or_else(|| missing("psk", "is missing: give a psk, or a key or certificate of ours"))?;
        let remote_auth = self
            .remote_auth
            .ok_or_else(|| missing("remote_key", "is missing: give the other end's remote_key, or authorities"))?;
        if self.proposals.is_empty() {
            self.proposals = proposal_words::IKE_DEFAULT.iter().filter_map(|text| proposal_words::ike(text).ok()).collect();
        }
        if self.esp_proposals.is_empty() {
            self.esp_proposals = proposal_words::ESP_DEFAULT.iter().filter_map(|text| proposal_words::esp(text).ok()).collect();
        }
        let or_all = |side: Vec<IpSelector>| {
            let all = || [AddressRange::ANY_V4, AddressRange::ANY_V6].map(IpSelector::any_of).to_vec();
            if side.is_empty() { all() } else { side }
        };
        let Timing { child, ike, dpd, keepalive, backoff, reconnect } = self.timing;
        // What was said is wanted, all of it; of what was not, whatever the peer grants.
        let between = |local| self.remote.iter().filter_map(move |remote| pair_of(local, remote));
        let pairs = self.local.iter().flat_map(between).take(SELECTORS_OF_CONFIG_MAX).collect();
        let child = ChildConfig {
            name: CHILD.to_owned(),
            mode: Mode::Tunnel,
            proposals: self.esp_proposals,
            local: or_all(self.local),
            remote: or_all(self.remote),
            pairs,
            lifetime: child,
            lanes: 1,
        };
        let config = PeerConfig {
            name: remote_id.to_string(),
            initiate: false,
            respond: false,
            local: None,
            remotes: Vec::new(),
            awaits_remotes: false,
            in_streams: false,
            from: Origin::Anywhere,
            local_id,
            remote_id,
            local_auth,
            remote_auth,
            proposals: self.proposals,
            children: vec![child],
            ike_lifetime: ike,
            reauth_after: Duration::ZERO,
            ppk: self.ppk,
            dpd,
            keepalive,
            // There is ESP in UDP only: protocol 50 takes a raw socket, and that root.
            force_encapsulation: true,
            mobike: true,
            backoff,
            // One to receive by and one to send by.
            share: Share { sas: 2 * CHILDREN_MAX, ..Share::default() },
        };
        Ok(Peer { config, reconnect })
    }
}

fn said(fault: proposal_words::ProposalFault) -> String {
    format!("{}; expected {}", fault.what, fault.expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(builder: PeerBuilder) -> String {
        let error = builder.build().expect_err("a fault");
        assert_eq!(error.code(), "settings");
        error.to_string()
    }

    #[test]
    fn what_is_missing_or_cannot_be_read_is_said() {
        let named = || Peer::builder().local_id("a").remote_id("b");
        assert!(fault(Peer::builder()).starts_with("local_id: is missing"));
        assert!(fault(Peer::builder().local_id("a")).starts_with("remote_id: is missing"));
        assert!(fault(named()).starts_with("psk: is missing"));
        assert!(fault(named().psk("")).contains("empty"));
        for short in
            [named().psk("fifteen letters"), named().psk("0x00112233445566778899aabbccddee"), named().psk_bytes(&[7; 15])]
        {
            assert!(fault(short).starts_with("psk: a preshared key of 15 bytes can be guessed"));
        }
        assert!(fault(named().key("no PEM")).starts_with("key: "));
        assert!(fault(named().psk("sixteen letters!").proposals(["aes256gmc16"])).contains("did you mean"));
        assert!(fault(named().psk("sixteen letters!").remote_traffic(["10.0.0.0/33"])).starts_with("remote_traffic: "));
        // The first one is told.
        assert!(fault(named().psk("sixteen letters!").local_id("two words").proposals(["y"])).starts_with("local_id: "));
    }

    #[test]
    fn secrets_are_not_printed() {
        let builder = Peer::builder().local_id("a").remote_id("b").psk("0x73656372657473656372657473656372");
        let peer = builder.clone().build().unwrap();
        let said = format!("{builder:?} {peer:?} {:?}", peer.config);
        assert!(!said.contains("secret") && !said.contains("736563"), "{said}");
    }

    #[test]
    fn the_default_offers_ml_kem_and_everything() {
        let peer = Peer::builder().local_id("a").remote_id("*").psk("sixteen letters!").build().unwrap();
        assert_eq!(peer.config.proposals.len(), 2);
        assert_eq!(peer.config.proposals[0].additional.len(), 1);
        assert_eq!(peer.config.children[0].local.len(), 2);
        assert_eq!(peer.remote_id(), "*");
    }
}
