//! A peer with good credentials that does not mean well: the third gateway's part, played by an engine of the test, which tells the truth
//! about nothing but its key.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use adit_engine::auth::{LocalAuth, LocalKey, Psk, RemoteAuth};
use adit_engine::crypto::PrivateKey;
use adit_engine::ike::proposal_words;
use adit_engine::ike::{
    Backoff, ChildConfig, ConnectionState, Endpoint, EndpointConfig, Lifetime, Mode, Now, PeerConfig, PeerId, Share,
};
use adit_engine::path::{Arrival, Origin};
use adit_proto::ike::IpSelector;
use anyhow::{Context, Result};

use crate::netns::once_free;

use super::{Gateway, PORT, SOON};

/// How long it waits for an answer that may have been refused it.
const PATIENCE: Duration = Duration::from_millis(500);
/// The one peer of each of its engines.
const PEER: PeerId = PeerId(0);

/// Somebody who has the key of a gateway.
#[derive(Debug)]
pub struct Insider {
    socket: UdpSocket,
    came: Arrival,
    config: PeerConfig,
}

impl Insider {
    /// Takes the place of `us`, which does not run, towards the gateway with this name and address, with the preshared key of both in a
    /// file below `dir`; and asks for these Child SAs.
    pub fn new(us: &Gateway, them: (&str, IpAddr), dir: &Path, children: Vec<ChildConfig>) -> Result<Insider> {
        let (them, theirs) = (them.0, SocketAddr::new(them.1, PORT));
        let ours = SocketAddr::new(us.outer(), PORT);
        let socket = us.netns.enter(|| once_free(|| UdpSocket::bind(ours)))?;
        socket.connect(theirs)?;
        socket.set_read_timeout(Some(Duration::from_millis(5)))?;
        let psk = Psk::from_text(fs::read_to_string(dir.join(format!("{them}-{}.psk", us.name)))?.trim())?;
        let config = PeerConfig {
            name: them.into(),
            initiate: true,
            respond: false,
            local: Some(ours),
            remotes: vec![theirs],
            awaits_remotes: false,
            in_streams: false,
            from: Origin::Anywhere,
            local_id: us.name.parse()?,
            remote_id: them.parse()?,
            local_auth: LocalAuth::Psk(psk.clone()),
            remote_auth: RemoteAuth::Psk(psk),
            proposals: proposal_words::IKE_DEFAULT.iter().filter_map(|text| proposal_words::ike(text).ok()).collect(),
            children,
            ike_lifetime: Lifetime::IKE,
            reauth_after: Duration::ZERO,
            ppk: None,
            dpd: Duration::ZERO,
            keepalive: Duration::ZERO,
            force_encapsulation: true,
            mobike: false,
            backoff: Backoff::default(),
            share: Share::default(),
        };
        Ok(Insider { socket, came: Arrival::new(ours, theirs), config })
    }

    /// The same with another client's name and key.
    pub fn with_the_key_of(mut self, owner: &str, dir: &Path) -> Result<Insider> {
        let psk = Psk::from_text(fs::read_to_string(dir.join(format!("{}-{owner}.psk", self.config.name)))?.trim())?;
        (self.config.local_auth, self.config.remote_auth) = (LocalAuth::Psk(psk.clone()), RemoteAuth::Psk(psk));
        self.config.local_id = owner.parse()?;
        Ok(self)
    }

    /// The same with another name.
    pub fn with_name(mut self, name: &str) -> Result<Insider> {
        self.config.local_id = name.parse()?;
        Ok(self)
    }

    /// The same, but it proves itself with a key of its own and these certificates, all in PEM.
    pub fn with_certificates(mut self, key: &str, chain: &str) -> Result<Insider> {
        self.config.local_auth = LocalKey::certified(PrivateKey::from_pem(key.as_bytes())?, chain.as_bytes())?.into();
        Ok(self)
    }

    /// The same, but it finds that who answers has another key than it should.
    pub fn in_doubt(mut self) -> Result<Insider> {
        self.config.remote_auth = RemoteAuth::Psk(Psk::from_text("another key than that of the other end")?);
        Ok(self)
    }

    /// The same, but it waits until the other end begins.
    pub fn answering(mut self) -> Insider {
        (self.config.initiate, self.config.respond) = (false, true);
        self
    }

    /// Is there until the other end has connected to it, or it is too late.
    pub fn meet(&self) -> Result<Option<Endpoint>> {
        let (mut endpoint, until) = (self.begin()?, Instant::now() + SOON);
        while Instant::now() < until {
            self.turn(&mut endpoint)?;
            if state(&endpoint)?.is_up() {
                return Ok(Some(endpoint));
            }
        }
        Ok(None)
    }

    /// Begins an IKE SA that knows of none before, and returns the engine that has it if it was let in.
    pub fn connect(&self) -> Result<Option<Endpoint>> {
        let mut endpoint = self.begin()?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.turn(&mut endpoint)?;
            match state(&endpoint)? {
                ConnectionState::Connecting => {}
                state => return Ok(state.is_up().then_some(endpoint)),
            }
        }
        Ok(None)
    }

    /// The request with which an IKE SA begins, without its marker.
    pub fn request(&self) -> Result<Vec<u8>> {
        let transmit = self.begin()?.poll_transmit().context("nothing is sent")?;
        Ok(transmit.payload[4..].to_vec())
    }

    /// Goes on with an IKE SA for some time, asking for new keys of one kind or the other whenever it may; says how often it did.
    pub fn storm(&self, endpoint: &mut Endpoint, duration: Duration) -> Result<u32> {
        let (until, mut asked) = (Instant::now() + duration, 0);
        while Instant::now() < until {
            if state(endpoint)? == ConnectionState::Established {
                let command = if asked % 2 == 0 { Endpoint::rekey } else { Endpoint::rekey_ike };
                command(endpoint, now(), PEER)?;
                asked += 1;
            }
            self.turn(endpoint)?;
        }
        Ok(asked)
    }

    /// Child SAs that an engine has.
    pub fn children(endpoint: &Endpoint) -> usize {
        endpoint.status(PEER).map_or(0, |status| status.ike.iter().map(|ike| ike.children.len()).sum())
    }

    /// Goes on with an IKE SA for some time.
    pub fn go_on(&self, endpoint: &mut Endpoint, duration: Duration) -> Result<()> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            self.turn(endpoint)?;
        }
        Ok(())
    }

    fn begin(&self) -> Result<Endpoint> {
        let random = |out: &mut [u8]| aws_lc_rs::rand::fill(out).expect("random numbers of the system");
        let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(random));
        endpoint.set_peer(now(), PEER, self.config.clone())?;
        endpoint.start(now());
        Ok(endpoint)
    }

    /// Sends what there is to send, and takes one answer if there is one soon.
    fn turn(&self, endpoint: &mut Endpoint) -> Result<()> {
        while endpoint.poll_event().is_some() {}
        while let Some(transmit) = endpoint.poll_transmit() {
            // Whoever is to be hurt may just not be there.
            let _ = self.socket.send(&transmit.payload);
        }
        let mut buffer = [0; 4096];
        if let Ok(length) = self.socket.recv(&mut buffer) {
            endpoint.handle_message(now(), self.came, &buffer[..length]);
        }
        if endpoint.poll_timeout().is_some_and(|due| due <= Instant::now()) {
            endpoint.handle_timeout(now());
        }
        Ok(())
    }
}

/// A Child SA with the default algorithms, for Ethernet frames where no selectors are given, else for packets from `local` to `remote`.
pub fn child(name: &str, selectors: Option<(IpSelector, IpSelector)>) -> ChildConfig {
    ChildConfig {
        name: name.into(),
        mode: if selectors.is_some() { Mode::Tunnel } else { Mode::Ethernet },
        proposals: proposal_words::ESP_DEFAULT.iter().filter_map(|text| proposal_words::esp(text).ok()).collect(),
        local: selectors.iter().map(|(local, _)| *local).collect(),
        remote: selectors.iter().map(|(_, remote)| *remote).collect(),
        pairs: Vec::new(),
        lifetime: Lifetime::CHILD,
        lanes: 1,
    }
}

fn state(endpoint: &Endpoint) -> Result<ConnectionState> {
    Ok(endpoint.status(PEER).context("the peer")?.state)
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Now { instant: Instant::now(), unix }
}
