//! IP mode: SYNs of both directions say what the path takes, and nothing else is touched.

mod support;

use adit_proto::stats::Count;
use support::{Bed, eventually, in_namespace, opened_ip, peer_opens, peer_seals, received, sealed_ip};

/// What a path of 1500 bytes over IPv4 takes, less the headers of IP and TCP.
const FITS_V4: u16 = 1438 - 40;
const FITS_V6: u16 = 1438 - 60;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A TCP packet between hosts of `support::hosts`, with an MSS, all checksums right.
fn tcp(v6: bool, from: u8, to: u8, flags: u8, mss: u16) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    let mut tcp = vec![0x30, 1, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x70, flags, 0x40, 0, 0, 0, 0, 0, 1, 2, 4, high, low, 0, 0, 0];
    let mut ip = if v6 {
        let host = |last| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        [&[0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64][..], &host(from), &host(to)].concat()
    } else {
        vec![0x45, 0, 0, 20 + tcp.len() as u8, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, from, 10, 0, 0, to]
    };
    let addresses = if v6 { 8..40 } else { 12..20 };
    let check = !folded(sum(&ip[addresses]) + 6 + tcp.len() as u32 + sum(&tcp));
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
    if !v6 {
        let check = !folded(sum(&ip));
        ip[10..12].copy_from_slice(&check.to_be_bytes());
    }
    [ip, tcp].concat()
}

#[test]
fn syns_out_and_in_are_brought_down_to_what_the_path_takes() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        let (mut seals, mut opens) = (peer_seals(0), peer_opens(0));
        for (v6, fits) in [(false, FITS_V4), (true, FITS_V6)] {
            for (flags, mss, expected) in
                [(SYN, 1460, fits), (SYN, fits - 1, fits - 1), (SYN | ACK, 9000, fits), (ACK, 9000, 9000)]
            {
                bed.tap.send(&tcp(v6, 1, 11, flags, mss));
                assert_eq!(opened_ip(&mut opens, received(&bed.peer)), tcp(v6, 1, 11, flags, expected), "out, {flags:x}");
                bed.send(&sealed_ip(&mut seals, &tcp(v6, 11, 1, flags, mss)));
                assert_eq!(bed.tap.receive(), tcp(v6, 11, 1, flags, expected), "in, {flags:x}");
            }
        }
        eventually("all are counted", || bed.count(Count::MssClamped) == 8);
        assert_eq!(bed.drops(), []);
    });
}

#[test]
fn in_frames_no_syn_is_touched_and_off_is_off() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        let (mut seals, mut opens) = (peer_seals(0), peer_opens(0));
        let frame = [&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0][..], &tcp(false, 1, 11, SYN, 1460)].concat();
        bed.tap.send(&frame);
        assert_eq!(support::opened(&mut opens, received(&bed.peer)), frame);
        bed.send(&support::sealed(&mut seals, &frame));
        assert_eq!(bed.tap.receive(), frame);
        assert_eq!((bed.count(Count::MssClamped), bed.drops()), (0, vec![]));
    });
    in_namespace(|| {
        let mut bed = Bed::start_ip_with(1, "poll", 1, &["--mss-clamp", "off"]);
        let mut opens = peer_opens(0);
        bed.tap.send(&tcp(false, 1, 11, SYN, 1460));
        assert_eq!(opened_ip(&mut opens, received(&bed.peer)), tcp(false, 1, 11, SYN, 1460));
    });
}
