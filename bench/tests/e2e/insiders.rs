//! A peer with good credentials that takes all that it can get, beside an honest one: that one keeps its packets and its rekeys.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, wait_until};
use adit_engine::auth::{LocalAuth, Psk, RemoteAuth};
use adit_engine::ike::proposal_words;
use adit_engine::ike::{
    Backoff, ChildConfig, ConnectionState, Endpoint, EndpointConfig, Lifetime, Mode, Now, PeerConfig, PeerId, Share,
};
use adit_engine::path::{Arrival, Origin};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::ike_tunnel::spis;
use crate::{Pings, reaches};

/// How long the insider goes on.
const LONG: Duration = Duration::from_secs(4);
/// More than it may have at one time.
const ENOUGH: usize = 10;

/// The third gateway's part, played by somebody who has its key.
struct Insider {
    socket: UdpSocket,
    came: Arrival,
    config: PeerConfig,
}

impl Insider {
    fn new(lab: &Lab) -> Result<Insider> {
        let [us, them] = [&lab.gateways[2], lab.a()].map(|gateway: &Gateway| SocketAddr::new(gateway.outer(), 4500));
        let socket = lab.gateways[2].netns.enter(|| UdpSocket::bind(us))?;
        socket.connect(them)?;
        socket.set_read_timeout(Some(Duration::from_millis(5)))?;
        let psk = Psk::from_text(fs::read_to_string(lab.dir().join("site-a-site-c.psk"))?.trim())?;
        let esp = proposal_words::ESP_DEFAULT.iter().filter_map(|text| proposal_words::esp(text).ok()).collect();
        let child = ChildConfig {
            name: "ethernet".into(),
            mode: Mode::Ethernet,
            proposals: esp,
            local: Vec::new(),
            remote: Vec::new(),
            pairs: Vec::new(),
            lifetime: Lifetime::CHILD,
            lanes: 1,
        };
        let config = PeerConfig {
            name: "site-a".into(),
            initiate: true,
            respond: false,
            local: Some(us),
            remotes: vec![them],
            awaits_remotes: false,
            from: Origin::Anywhere,
            local_id: "site-c".parse()?,
            remote_id: "site-a".parse()?,
            local_auth: LocalAuth::Psk(psk.clone()),
            remote_auth: RemoteAuth::Psk(psk),
            proposals: proposal_words::IKE_DEFAULT.iter().filter_map(|text| proposal_words::ike(text).ok()).collect(),
            children: vec![child],
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
        Ok(Insider { socket, came: Arrival::new(us, them), config })
    }

    /// Begins one IKE SA after the other, of which none knows of those before: how many there were.
    fn connect_again_and_again(&self) -> Result<usize> {
        let (mut up, began) = (0, Instant::now());
        // A machine that is busy lets it in less often.
        while began.elapsed() < LONG || (up < ENOUGH && began.elapsed() < SOON) {
            let random = |out: &mut [u8]| aws_lc_rs::rand::fill(out).expect("random numbers of the system");
            let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(random));
            endpoint.set_peer(now(), PeerId(0), self.config.clone())?;
            endpoint.start(now());
            up += usize::from(self.goes_up(&mut endpoint)?);
        }
        Ok(up)
    }

    fn goes_up(&self, endpoint: &mut Endpoint) -> Result<bool> {
        let mut buffer = vec![0; 65_536];
        let patience = Instant::now() + Duration::from_millis(500);
        while Instant::now() < patience {
            while endpoint.poll_event().is_some() {}
            while let Some(transmit) = endpoint.poll_transmit() {
                self.socket.send(&transmit.payload)?;
            }
            match endpoint.status(PeerId(0)).context("the peer")?.state {
                ConnectionState::Connecting => {}
                state => return Ok(state.is_up()),
            }
            if let Ok(len) = self.socket.recv(&mut buffer) {
                endpoint.handle_message(now(), self.came, &buffer[..len]);
            }
        }
        Ok(false)
    }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Now { instant: Instant::now(), unix }
}

/// What the first gateway says of the third one.
fn insider(gateway: &Gateway) -> Result<Value> {
    let status: Value = serde_json::from_str(&gateway.adit("status --json")?)?;
    let peers = status["peers"].as_array().context("no peers")?;
    peers.iter().find(|peer| peer["name"] == "site-c").cloned().context("no third peer")
}

#[test]
fn ike_sas_without_end_cost_an_honest_peer_nothing() -> Result<()> {
    let ike = ["role: responder", "role: initiator"].map(str::to_owned).to_vec();
    let mut lab = Lab::prepare(&LabOptions { gateways: 3, ike, ..LabOptions::default() })?;
    for gateway in &mut lab.gateways[..2] {
        gateway.start_control()?;
    }
    wait_until("the honest peer is there", SOON, || Ok(reaches(&lab.b().netns, lab.a().inner()).is_ok()))
        .with_context(|| lab.logs())?;
    let pings = Pings::start(&lab, lab.b(), lab.a().inner(), Duration::from_millis(1))?;
    let insider_of = Insider::new(&lab)?;
    let up = std::thread::scope(|scope| {
        let takes = scope.spawn(|| insider_of.connect_again_and_again());
        while !takes.is_finished() {
            for command in ["rekey site-a", "rekey --ike site-a"] {
                let before = spis(lab.b())?;
                lab.b().adit(command)?;
                wait_until("the keys are others", SOON, || Ok(spis(lab.b())? != before)).with_context(|| lab.logs())?;
            }
        }
        takes.join().expect("the insider")
    })?;
    ensure!(up >= ENOUGH, "the insider was let in {up} times\n{}", lab.logs());
    let sas = insider(lab.a())?["ike"]["sas"].as_array().map_or(0, Vec::len);
    ensure!(sas <= 8, "it has {sas} IKE SAs");
    let refused = lab.a().log().lines().filter(|line| line.contains("the data plane refused")).count();
    ensure!(refused == 0, "{}", lab.logs());
    pings.none_lost(&lab, 1000)?;
    reaches(&lab.a().netns, lab.b().inner())
}
