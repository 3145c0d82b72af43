//! Hosts that bring their cookies and go no further: what they receive is theirs, so each IKE SA that they begin takes a place.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use adit_proto::ike::{IkeSpi, Message, Notify, NotifyType, Payload};
use anyhow::Result;

use super::{Gateway, PORT, WAN};

/// So long after each other the hosts ask.
const EVERY: Duration = Duration::from_micros(400);

/// Hosts in several networks, all in the place of one gateway that does not run.
#[derive(Debug)]
pub struct Halfway {
    hosts: Vec<UdpSocket>,
    /// Without a cookie.
    request: Message,
}

impl Halfway {
    /// So many hosts in each of so many networks, which ask `them` as `request` does, a message without its marker.
    pub fn new(us: &Gateway, them: &Gateway, (networks, hosts): (u8, u8), request: &[u8]) -> Result<Halfway> {
        them.netns.run(&format!("ip route add 10.50.0.0/16 via {} dev {WAN}", us.outer()))?;
        us.netns.run("ip address add 10.50.0.1/16 dev lo")?;
        let places = (0..networks).flat_map(|network| (1..=hosts).map(move |host| Ipv4Addr::new(10, 50, network, host)));
        let bound = |place| -> Result<UdpSocket> {
            let socket = us.netns.enter(|| UdpSocket::bind((place, PORT)))?;
            socket.connect(SocketAddr::new(them.outer(), PORT))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        Ok(Halfway { hosts: places.map(bound).collect::<Result<_>>()?, request: Message::decode(request)? })
    }

    /// One host after the other begins an IKE SA, until it is enough; `begun` counts those that were answered with one.
    pub fn go_on(&self, stop: &AtomicBool, begun: &AtomicU64) -> Result<()> {
        let mut spi = 1;
        while !stop.load(Ordering::Relaxed) {
            for host in &self.hosts {
                spi += 1;
                self.ask(host, IkeSpi(spi), None)?;
                std::thread::sleep(EVERY);
                self.hear(host, begun)?;
            }
        }
        Ok(())
    }

    fn ask(&self, host: &UdpSocket, spi: IkeSpi, cookie: Option<Vec<u8>>) -> Result<()> {
        let mut request = self.request.clone();
        request.header.initiator_spi = spi;
        if let Some(cookie) = cookie {
            request.payloads.insert(0, Notify::new(NotifyType::COOKIE).with_data(cookie).into());
        }
        // What does not fit into a queue on the way is lost, as with everybody.
        let _ = host.send(&[&[0; 4], request.encode()?.as_slice()].concat());
        Ok(())
    }

    fn hear(&self, host: &UdpSocket, begun: &AtomicU64) -> Result<()> {
        let mut buffer = [0; 4096];
        while let Ok(length) = host.recv(&mut buffer) {
            let Ok(answer) = Message::decode(buffer.get(4..length).unwrap_or_default()) else { continue };
            match answer.payloads.first() {
                Some(Payload::Notify(notify)) if notify.kind == NotifyType::COOKIE => {
                    self.ask(host, answer.header.initiator_spi, Some(notify.data.clone()))?;
                }
                Some(Payload::Sa(_)) => drop(begun.fetch_add(1, Ordering::Relaxed)),
                _ => {}
            }
        }
        Ok(())
    }
}
