//! ICMP errors are about the packet that they enclose: they pass where the answers to that one would (RFC 4301 §6), whoever on the way
//! has sent them.

use std::net::Ipv4Addr;

use crate::support::*;

/// Of the networks behind the two ends; no selector has it.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
const TOO_BIG: (u8, u8) = (3, 4);
const ECHO: (u8, u8) = (8, 0);

/// An ICMP message to whoever has sent the packet that it encloses.
fn icmp(source: Ipv4Addr, destination: Ipv4Addr, (kind, code): (u8, u8), about: &[u8]) -> Vec<u8> {
    let about = &about[..28];
    let mut packet = udp(source, destination, &[]);
    packet.truncate(20);
    packet[3] = 20 + 8 + about.len() as u8;
    packet[9] = 1;
    packet.extend([kind, code, 0, 0, 0, 0, 0x05, 0x00]);
    packet.extend(about);
    packet
}

/// The same of IPv6: what it encloses is a packet of [`udp6`] in its other direction.
fn icmp6(router: u8) -> Vec<u8> {
    let mut about = udp6(b"");
    about[8..24].fill(0xfe);
    about[24..40].fill(0xfd);
    let mut packet = udp6(&about);
    packet[6] = 58;
    packet[8..24].fill(router);
    packet[24..40].fill(0xfe);
    packet[40..48].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0x05, 0]);
    packet
}

#[tokio::test]
async fn icmp_errors_pass_where_the_answers_to_what_they_enclose_would() {
    // UDP to port 2000 in both directions, between the two addresses.
    let server = client().remote_traffic(["10.0.0.1[udp]"]).local_traffic(["10.0.0.2[udp/2000]"]);
    let pair = pair(gateway(), server).await;
    let there = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"there");
    let mut back = udp(SERVER_ADDRESS, CLIENT_ADDRESS, b"back");
    back[20..24].copy_from_slice(&[0x07, 0xd0, 0x03, 0xe8]);
    for (from, to, about, sender) in
        [(&*pair.client, &pair.session, &back, SERVER_ADDRESS), (&pair.session, &*pair.client, &there, CLIENT_ADDRESS)]
    {
        // From a router, and from the other end of what is enclosed.
        for source in [ROUTER, if sender == SERVER_ADDRESS { CLIENT_ADDRESS } else { SERVER_ADDRESS }] {
            let error = icmp(source, sender, TOO_BIG, about);
            from.send_packet(&error).await.unwrap();
            assert_eq!(soon("the error", to.recv_packet()).await.unwrap(), error);
        }
        let mut other_port = about.clone();
        other_port[20..24].fill(9);
        let refused = [
            icmp(ROUTER, sender, ECHO, about),
            icmp(ROUTER, sender, TOO_BIG, &other_port),
            icmp(ROUTER, sender, TOO_BIG, if sender == SERVER_ADDRESS { &there } else { &back }),
            icmp(ROUTER, ROUTER, TOO_BIG, about),
        ];
        for error in refused {
            assert_eq!(from.send_packet(&error).await.unwrap_err().code(), "selectors", "{error:x?}");
        }
    }
}

#[tokio::test]
async fn icmpv6_errors_pass_where_the_answers_to_what_they_enclose_would() {
    let (ours, theirs) = (format!("{}[udp]", net("fd")), format!("{}[udp]", net("fe")));
    let pair = pair(gateway(), client().remote_traffic([&*ours]).local_traffic([&*theirs])).await;
    let error = icmp6(0xaa);
    pair.client.send_packet(&error).await.unwrap();
    assert_eq!(soon("the error", pair.session.recv_packet()).await.unwrap(), error);
    assert_eq!(pair.session.send_packet(&error).await.unwrap_err().code(), "selectors", "it goes to the other side");
}

/// The address of which every byte is this one.
fn net(byte: &str) -> String {
    vec![byte.repeat(2); 8].join(":")
}
