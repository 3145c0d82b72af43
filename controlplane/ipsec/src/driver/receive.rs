//! What comes to the socket: ESP is opened, checked against the traffic selectors and queued; IKE goes to the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use adit_engine::ike::{PeerId, Usage};
use adit_engine::path::{Arrival, Hop};
use adit_proto::control::Spi;
use adit_proto::demux::{Kind, classify};
use adit_proto::esp::{Header, NEXT_HEADER_NONE};

use super::{BATCH, Driver, now};
use crate::esp::{Inbound, Pace, Refusal};
use crate::link::{Fate, Link};
use crate::packet::Flow;

/// An inbound SA, and what belongs to it.
pub struct InboundSa {
    pub sa: Inbound,
    pub link: Arc<Link>,
    /// How the last packet came, and whether that is not the way to the peer.
    pub came: Option<Hop>,
    pub strays: bool,
    /// The outbound SA of the same pair, once it is installed.
    pub outbound: Option<Spi>,
    /// What the engine was told last.
    pub reported: Usage,
    pub pace: Pace,
    /// Its successor was asked for because its numbers run out.
    pub sequence_soft_limit: bool,
}

impl Driver {
    /// Takes what the socket has, up to a batch.
    pub(super) fn receive(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..BATCH {
            // An error is that there is nothing, or of an earlier datagram of ours, as an ICMP message about it.
            let Ok((len, came)) = self.socket.try_receive(&mut buffer) else { break };
            let Some(came) = came else { continue };
            let datagram = &mut buffer[..len];
            match classify(datagram) {
                Kind::Esp => self.receive_esp(came, datagram),
                Kind::Ike => {
                    self.receive_ike(came, datagram);
                    // Before the next datagram, which may be of an SA that this one has made.
                    self.settle();
                }
                Kind::Keepalive | Kind::Stun | Kind::Unknown | Kind::TooShort => {}
            }
        }
        self.buffer = buffer;
    }

    fn receive_ike(&mut self, came: Arrival, datagram: &[u8]) {
        if !self.admission.admits(Instant::now(), came.remote, datagram) {
            return;
        }
        self.from = Some(came.remote);
        self.endpoint.handle_message(now(), came, datagram);
    }

    fn receive_esp(&mut self, came: Arrival, packet: &mut [u8]) {
        let bytes = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let Some(header) = Header::parse(packet) else { return };
        let Some(one) = self.inbound.get_mut(&header.spi) else { return };
        let opened = match one.sa.open(packet) {
            Ok(opened) => opened,
            Err(refusal) => {
                return one.link.dropped(match refusal {
                    Refusal::Replayed => Fate::Replayed,
                    Refusal::BadTag => Fate::BadTag,
                    Refusal::BadTrailer => Fate::Malformed,
                });
            }
        };
        deliver(one, opened);
        let reported = (one.reported.inbound_packets, one.reported.inbound_bytes);
        let due = one.pace.is_due((one.sa.packets(), one.sa.bytes), reported);
        let peer = one.link.peer;
        let news = due || one.sa.packets() == 1;
        let moved = one.came.replace(came.hop()) != Some(came.hop()) || one.strays;
        if moved {
            // Authentic and new: the peer is there now (RFC 7296 §2.23). The engine decides whether we follow. It asks for a proof
            // once as many bytes have come from there as the question has, so it is told of each packet until then.
            self.endpoint.handle_path_seen(now(), peer, came, bytes);
            one.strays = self.endpoint.all_paths().esp_hop(peer) != Some(came.hop());
        }
        if news {
            // With the first one the peer sends on it, so it can receive on its other half: the engine waits for that.
            let usage = self.usage_of(header.spi).into_iter().collect();
            self.endpoint.handle_usage(now(), &usage);
        }
        if news || moved {
            self.settle();
        }
    }

    fn usage_of(&mut self, spi: Spi) -> Option<(Spi, Usage)> {
        let one = self.inbound.get_mut(&spi)?;
        let (outbound_packets, outbound_bytes, _) = one.outbound.and_then(|spi| one.link.usage(spi)).unwrap_or((
            one.reported.outbound_packets,
            one.reported.outbound_bytes,
            false,
        ));
        let usage = Usage { inbound_bytes: one.sa.bytes, inbound_packets: one.sa.packets(), outbound_bytes, outbound_packets };
        let news = usage != one.reported;
        one.reported = usage;
        news.then_some((spi, usage))
    }

    /// Tells the engine what went through the SAs, where that is news.
    pub(super) fn report_usage(&mut self) {
        let spis: Vec<Spi> = self.inbound.keys().copied().collect();
        let usage: BTreeMap<Spi, Usage> = spis.iter().filter_map(|spi| self.usage_of(*spi)).collect();
        self.endpoint.handle_usage(now(), &usage);
        let mut to_rekey: Vec<PeerId> = Vec::new();
        for one in self.inbound.values_mut().filter(|one| !one.sequence_soft_limit) {
            one.sequence_soft_limit =
                one.outbound.and_then(|spi| one.link.usage(spi)).is_some_and(|(_, _, soft_limit)| soft_limit);
            to_rekey.extend(one.sequence_soft_limit.then_some(one.link.peer));
        }
        for peer in to_rekey {
            // Not connected: then it goes anyhow.
            let _ = self.endpoint.rekey(now(), peer);
        }
    }
}

/// What to do with a packet that is authentic (RFC 4301 §5.2 step 4: is it one that the peer may send here?).
fn deliver(one: &InboundSa, (next_header, payload): (u8, &[u8])) {
    let link = &one.link;
    if next_header == NEXT_HEADER_NONE {
        // A dummy packet (RFC 4303 §2.6).
        return;
    }
    match Flow::of(payload) {
        Ok(flow) if flow.next_header() != next_header => link.dropped(Fate::Malformed),
        Ok(flow) if !flow.is_covered(&one.sa.selectors.remote, &one.sa.selectors.local) => link.dropped(Fate::Selectors),
        Ok(flow) => link.take(&payload[..flow.len]),
        Err(_) => link.dropped(Fate::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use adit_proto::echo::{self, Answer, Echo};
    use tokio::sync::mpsc;

    use super::super::{Listener, open};
    use super::*;
    use crate::command::Command;
    use crate::{Client, Options, Peer, PeerBuilder, Session};

    fn peer(local: &str, remote: &str) -> PeerBuilder {
        Peer::builder().local_id(local).remote_id(remote).psk("a key for all tests")
    }

    /// A server whose task is this test, and a client that has connected to `hit`.
    async fn connected(
        peer_of_server: PeerBuilder,
        bind: &str,
        hit: &str,
    ) -> (Driver, mpsc::UnboundedSender<Command>, Session, Client) {
        let (mut server, commands) = open(bind.parse().unwrap(), None, Options::default()).unwrap();
        let ((accepted, mut sessions), (refused, _)) = (mpsc::channel(1), mpsc::channel(1));
        let peers = vec![peer_of_server.build().unwrap()];
        server.listener = Some(Listener { peers, accepted, refused, commands: commands.downgrade(), next_id: 0 });
        server.make_room().unwrap();
        let to = SocketAddr::new(hit.parse().unwrap(), server.local().port());
        let client = tokio::spawn(Client::connect(to, peer("client", "server").build().unwrap()));
        let session = loop {
            let _ = tokio::time::timeout(Duration::from_millis(20), server.socket.readable()).await;
            server.receive();
            server.on_time();
            server.settle();
            if let Ok(session) = sessions.try_recv() {
                break session;
            }
        };
        (server, commands, session, client.await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn nat_detection_and_paths_have_the_address_that_was_hit() {
        for (bind, hit) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "127.0.0.3"), ("[::]:0", "::1")] {
            let (server, _commands, _session, client) = connected(peer("server", "client"), bind, hit).await;
            let hit = SocketAddr::new(hit.parse().unwrap(), server.local().port());
            let status = server.endpoint.status(PeerId(0)).expect("the peer");
            // The client says that a NAT may be on its side, so that ESP goes in UDP; on ours there is none.
            assert!(!status.ike[0].nat.here && status.ike[0].nat.there, "{bind} {hit}: {:?}", status.ike[0].nat);
            let esp = server.endpoint.all_paths().esp_hop(PeerId(0)).expect("a path");
            assert_eq!((esp, status.ike[0].hop), (Hop::new(hit, client_address(&client, hit)), esp));
        }
    }

    fn client_address(client: &Client, hit: SocketAddr) -> SocketAddr {
        let ip = if hit.is_ipv4() { [127, 0, 0, 1].into() } else { hit.ip() };
        SocketAddr::new(ip, client.local_addr().port())
    }

    /// An IPv4 packet that ends with its transport header.
    fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], upper: &[u8]) -> Vec<u8> {
        let header = [&[0x45, 0, 0, 20 + upper.len() as u8, 0, 0, 0, 0, 64, protocol, 0, 0], &source[..], &destination].concat();
        [&header, upper].concat()
    }

    #[tokio::test]
    async fn what_no_selector_covers_is_dropped_but_for_icmp_errors_about_ours() {
        let narrow = peer("server", "client").remote_traffic(["10.0.0.1[udp]"]).local_traffic(["10.0.0.2[udp/2000]"]);
        let (server, _commands, session, _client) = connected(narrow, "127.0.0.1:0", "127.0.0.1").await;
        let one = server.inbound.values().next().expect("an SA");
        let (theirs, ours, router) = ([10, 0, 0, 1], [10, 0, 0, 2], [10, 9, 9, 9]);
        let to_port = |port: u8| [3, 232, 7, port, 0, 8, 0, 0];
        let error = |about: &[u8]| ipv4(1, router, ours, &[&[3, 1, 0, 0, 0, 0, 0, 0], about].concat());
        let sent = |port: u8| ipv4(17, ours, theirs, &[7, port, 3, 232, 0, 8, 0, 0]);
        for (packet, passes) in [
            (ipv4(17, theirs, ours, &to_port(208)), true),
            (ipv4(17, theirs, ours, &to_port(209)), false),
            (ipv4(17, router, ours, &to_port(208)), false),
            (ipv4(17, ours, theirs, &to_port(208)), false),
            (ipv4(6, theirs, ours, &to_port(208)), false),
            (error(&sent(208)), true),
            (error(&sent(209)), false),
            (error(&ipv4(17, theirs, ours, &to_port(208))), false),
            (ipv4(1, router, ours, &[8, 0, 0, 0, 0, 0, 0, 0]), false),
        ] {
            let before = session.stats();
            deliver(one, (4, &packet));
            let after = session.stats();
            let counted = (after.received_packets - before.received_packets, after.dropped_selectors - before.dropped_selectors);
            assert_eq!(counted, (passes.into(), (!passes).into()), "{packet:x?}");
        }
        // A dummy packet is none, whatever is in it: a sealed echo, which this library does not know, as well.
        let before = session.stats();
        let mut request = [0; 100];
        assert!(Echo { kind: echo::Kind::Request, answer: Answer::AsItCame, size: 1280, id: 7, stamp: 0 }.encode(&mut request));
        for inside in [&request[..], &[], &ipv4(17, theirs, ours, &to_port(208))[..], &ipv4(17, theirs, ours, &to_port(209))[..]]
        {
            deliver(one, (NEXT_HEADER_NONE, inside));
            assert_eq!(session.stats(), before, "{inside:x?}");
        }
        // Another version than ESP has said.
        deliver(one, (41, &ipv4(17, theirs, ours, &to_port(208))));
        assert_eq!(session.stats().dropped_malformed, 1);
    }
}
