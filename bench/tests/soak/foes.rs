//! Those who mean no good, each in a thread: strangers whose floods come one after the other, and the insider.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use adit_bench::lab::capture::Injector;
use adit_bench::lab::insider::{Insider, child};
use adit_bench::lab::router::line;
use adit_bench::lab::stranger::{Kind, Stranger, ethernet, send_evenly, target};
use adit_bench::lab::{Gateway, PORT, WAN};
use adit_bench::netns::Netns;
use adit_engine::ike::ChildConfig;
use adit_proto::ike::{AddressRange, IpSelector};
use anyhow::{Context, Result, anyhow};

use crate::ground::Ground;

/// Datagrams of strangers in a second, several times what a gateway lets through of theirs, and how long a flood of one kind to one port of one gateway lasts.
const RATE: u32 = 1000;
const FLOOD: Duration = Duration::from_secs(2);
/// How long the insider goes on with one IKE SA.
const CAMPAIGN: Duration = Duration::from_secs(2);
/// Between two IKE SAs of the insider, of which it is granted about as many in a second.
const BREATH: Duration = Duration::from_millis(100);
/// Child SAs that it asks for at a time.
const MANY: u8 = 60;

/// How often something was done, and how often at least, or it is no proof.
pub struct Deed {
    pub name: String,
    pub count: u64,
    pub least: u64,
}

/// All foes.
pub struct Foes {
    stop: Arc<AtomicBool>,
    strangers: JoinHandle<Result<Vec<Deed>>>,
    insider: JoinHandle<Result<Vec<Deed>>>,
}

/// One who can be attacked.
#[derive(Clone)]
struct Mark {
    name: String,
    inner: IpAddr,
    outer: IpAddr,
}

impl Foes {
    /// Takes the place of the third gateway.
    pub fn start(ground: &mut Ground) -> Result<Foes> {
        let us = ground.lab.gateways.pop().context("a place for the insider")?;
        let mark = |gateway: &Gateway| Mark { name: gateway.name.clone(), inner: gateway.inner().into(), outer: gateway.outer() };
        let marks: Vec<Mark> = ground.lab.gateways.iter().map(mark).collect();
        let insider = Insiders { us, marks, dir: ground.lab.dir().to_owned() };
        let request = insider.as_peer(0, Vec::new())?.request()?;
        let strangers = strangers(ground, &request)?;
        let stop = Arc::<AtomicBool>::default();
        let (ends, end) = (stop.clone(), stop.clone());
        Ok(Foes {
            stop,
            strangers: thread::Builder::new().name("strangers".into()).spawn(move || flood(&strangers, &ends))?,
            insider: thread::Builder::new().name("insider".into()).spawn(move || insider.go_on(&end))?,
        })
    }

    /// Ends them, and says what they have done.
    pub fn end(self) -> Result<Vec<Deed>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut deeds = self.strangers.join().map_err(|_| anyhow!("the strangers panicked"))?.context("the strangers")?;
        deeds.extend(self.insider.join().map_err(|_| anyhow!("the insider panicked"))?.context("the insider")?);
        Ok(deeds)
    }
}

/// The link by which somebody sends, and who it is.
type Sender = (Injector, Stranger);

/// One for each gateway and port, at the router's end of the line.
fn strangers(ground: &Ground, request: &[u8]) -> Result<Vec<Sender>> {
    let mut senders = Vec::new();
    for (gateway, peer) in [(ground.lab.a(), ground.lab.b()), (ground.lab.b(), ground.lab.a())] {
        let link = line(gateway);
        let header = ethernet(mac(&ground.router.netns, &link)?, mac(&gateway.netns, WAN)?);
        for port in [PORT, 500] {
            let (to, peer) = (target(gateway, port), peer.outer());
            let stranger = Stranger { peer, to, ethernet: header, request: request.to_vec() };
            senders.push((Injector::open(&ground.router.netns, &link)?, stranger));
        }
    }
    Ok(senders)
}

/// The MAC address of a link.
fn mac(netns: &Netns, link: &str) -> Result<[u8; 6]> {
    let said: serde_json::Value = serde_json::from_str(&netns.run(&format!("ip -j link show dev {link}"))?)?;
    let text = said[0]["address"].as_str().context("a MAC address")?;
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>()?;
    Ok(bytes.as_slice().try_into()?)
}

fn flood(senders: &[Sender], stop: &AtomicBool) -> Result<Vec<Deed>> {
    let mut counts = Kind::ALL.map(|kind| (kind, AtomicU64::new(0)));
    'all: for round in 0.. {
        for (kind, count) in &counts {
            let (link, stranger) = &senders[round % senders.len()];
            if stop.load(Ordering::Relaxed) {
                break 'all;
            }
            let datagrams = stranger.datagrams(*kind);
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                let sends = scope.spawn(|| send_evenly(link, &datagrams, RATE, &over, count));
                let until = Instant::now() + FLOOD;
                while Instant::now() < until && !stop.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(50));
                }
                over.store(true, Ordering::Relaxed);
                sends.join().map_err(|_| anyhow!("a sender panicked"))?
            })?;
        }
    }
    let deed = |(kind, count): &mut (Kind, AtomicU64)| Deed {
        name: format!("datagrams of strangers, {kind:?}"),
        count: *count.get_mut(),
        least: 1000,
    };
    Ok(counts.iter_mut().map(deed).collect())
}

/// The third gateway in the hands of somebody else.
struct Insiders {
    us: Gateway,
    marks: Vec<Mark>,
    dir: PathBuf,
}

impl Insiders {
    fn as_peer(&self, of: usize, children: Vec<ChildConfig>) -> Result<Insider> {
        let mark = &self.marks[of];
        Insider::new(&self.us, (&mark.name, mark.outer), &self.dir, children)
    }

    fn go_on(&self, stop: &AtomicBool) -> Result<Vec<Deed>> {
        let [mut sas, mut children, mut stolen, mut rekeys] = [0_u64; 4];
        for round in 0.. {
            let of = round / 4 % self.marks.len();
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match round % 4 {
                0 => sas += self.many_sas(of)?,
                1 => children += self.many_children(of)?,
                2 => stolen += self.selectors_of_others(of)?,
                _ => rekeys += self.storm(of)?,
            }
        }
        let deed = |name: &str, count, least| Deed { name: name.to_owned(), count, least };
        Ok(vec![
            deed("IKE SAs of the insider, each as if there were no other", sas, 20),
            deed("Child SAs that it was granted, of many at a time", children, 2),
            deed("times it was let in and asked for packets of others", stolen, 2),
            deed("commands to replace keys, as fast as they are answered", rekeys, 20),
        ])
    }

    /// What it may have: packets between it and the gateway.
    fn own(&self, of: usize) -> (IpSelector, IpSelector) {
        (host(self.us.inner().into()), host(self.marks[of].inner))
    }

    fn many_sas(&self, of: usize) -> Result<u64> {
        let insider = self.as_peer(of, vec![child("own", Some(self.own(of)))])?;
        let (until, mut up) = (Instant::now() + CAMPAIGN, 0);
        while Instant::now() < until {
            up += u64::from(insider.connect()?.is_some());
            thread::sleep(BREATH);
        }
        Ok(up)
    }

    fn many_children(&self, of: usize) -> Result<u64> {
        let children = (0..MANY).map(|number| child(&format!("own-{number}"), Some(self.own(of)))).collect();
        let insider = self.as_peer(of, children)?;
        let Some(mut endpoint) = insider.connect()? else { return Ok(0) };
        insider.go_on(&mut endpoint, CAMPAIGN)?;
        Ok(Insider::children(&endpoint) as u64)
    }

    /// Asks to have the packets of the other honest gateway, and of everybody.
    fn selectors_of_others(&self, of: usize) -> Result<u64> {
        let (_, remote) = self.own(of);
        let everybody = IpSelector::any_of(AddressRange::ANY_V4);
        let other = host(self.marks[1 - of].inner);
        let wanted = [(other, remote), (everybody, remote), (everybody, everybody), (other, everybody)];
        let children = wanted.into_iter().map(|pair| child("others", Some(pair))).collect();
        let insider = self.as_peer(of, children)?;
        let Some(mut endpoint) = insider.connect()? else { return Ok(0) };
        insider.go_on(&mut endpoint, CAMPAIGN)?;
        Ok(1)
    }

    fn storm(&self, of: usize) -> Result<u64> {
        let insider = self.as_peer(of, vec![child("own", Some(self.own(of)))])?;
        let Some(mut endpoint) = insider.connect()? else { return Ok(0) };
        Ok(u64::from(insider.storm(&mut endpoint, CAMPAIGN)?))
    }
}

fn host(address: IpAddr) -> IpSelector {
    IpSelector::any_of(AddressRange::host(address))
}
