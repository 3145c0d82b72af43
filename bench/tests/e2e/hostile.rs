//! Datagrams of an attacker: truncated, too long, replayed, bit-flipped, with a wrong SPI or suite, in trains, alone, idle and under
//! load. Each is dropped under its name, answered by nothing, and harms nothing else.
//!
//! The attacker sits in the namespace of gateway b and puts frames straight onto the link, some from b's own address and port.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use adit_bench::lab::capture::{Capture, Datagram, Injector};
use adit_bench::lab::traffic::start;
use adit_bench::lab::{Gateway, Lab, LabOptions, PORT, SOON, WAN, wait_until};
use adit_bench::netns::once_free;
use adit_proto::demux::STUN_COOKIE;
use adit_proto::esp::sealed_len;
use adit_proto::stats::{Count, Drop};
use anyhow::{Context, Result, ensure};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde_json::Value;

use crate::ike_tunnel::{patient, spis};
use crate::paths::path_in_use;
use crate::{GIB, Pings, reaches};

/// Shortest ESP packet: header, IV, one word of ciphertext, tag.
const ESP_MIN: usize = 8 + 8 + 4 + 16;
/// The datagram in which an echo request as `ping` sends it travels: EtherIP, Ethernet, IPv4 with 64 bytes of ICMP.
const ECHO_LEN: usize = sealed_len(2 + 14 + 20 + 64);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);

/// A small generator of numbers, so that a failure can be repeated (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

fn is_tunnel(from: &Gateway, to: &Gateway) -> impl Fn(&Datagram) -> bool {
    let (from, to) = (from.outer(), to.outer());
    move |datagram| {
        *datagram.from.ip() == from && *datagram.to.ip() == to && datagram.to.port() == PORT && datagram.payload.len() > ESP_MIN
    }
}

/// Valid datagrams from b to a that a has received and accepted, each with an echo request: whatever else the hosts say, as when they
/// look for each other, has another length.
pub fn valid(lab: &Lab, count: usize) -> Result<Vec<Datagram>> {
    let mut capture = Capture::open(&lab.b().netns, WAN)?;
    lab.b().netns.run(&format!("ping -n -q -c{count} -i0.001 -W2 {}", lab.a().inner()))?;
    let found =
        capture.collect(count, SOON, |datagram| is_tunnel(lab.b(), lab.a())(datagram) && datagram.payload.len() == ECHO_LEN)?;
    ensure!(found.len() == count, "captured {} datagrams instead of {count}", found.len());
    Ok(found)
}

/// Rules of the kernel in gateway a's namespace that count what should never leave it.
fn watch_answers(lab: &Lab) -> Result<()> {
    let a = &lab.a().netns;
    a.run("nft add table ip watch")?;
    a.run("nft add counter ip watch strangers")?;
    a.run("nft add counter ip watch ports")?;
    a.run("nft add counter ip watch errors")?;
    a.run("nft add chain ip watch out { type filter hook output priority 0 ; }")?;
    // Whatever goes over the outer link to anybody but b's tunnel port.
    a.run(&format!("nft add rule ip watch out oifname {WAN} ip daddr {STRANGER} counter name strangers"))?;
    a.run(&format!("nft add rule ip watch out oifname {WAN} udp dport != {PORT} counter name ports"))?;
    a.run(&format!("nft add rule ip watch out oifname {WAN} meta l4proto icmp counter name errors")).map(|_| ())
}

fn ensure_no_answer(lab: &Lab) -> Result<()> {
    let listing = lab.a().netns.run("nft list counters table ip watch")?;
    let packets = listing.lines().filter(|line| line.contains("packets ")).collect::<Vec<_>>();
    ensure!(packets.len() == 3, "three counters in:\n{listing}");
    ensure!(packets.iter().all(|line| line.contains("packets 0 bytes 0")), "something was answered:\n{listing}");
    Ok(())
}

fn with(datagram: &Datagram, payload: Vec<u8>) -> Datagram {
    Datagram { payload, ..datagram.clone() }
}

fn flipped(datagram: &Datagram, at: usize, bit: usize) -> Datagram {
    let mut payload = datagram.payload.clone();
    payload[at] ^= 1 << bit;
    with(datagram, payload)
}

/// A datagram with the next sequence number, sealed by another suite.
fn of_another_suite(datagram: &Datagram) -> Result<Datagram> {
    let mut payload = datagram.payload.clone();
    let sequence = u64::from_be_bytes(payload[8..16].try_into()?) + 1;
    payload[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
    payload[8..16].copy_from_slice(&sequence.to_be_bytes());
    let mut nonce = [7; 12];
    nonce[4..].copy_from_slice(&payload[8..16]);
    let mut aad = [0; 12];
    aad[..4].copy_from_slice(&payload[..4]);
    aad[4..].copy_from_slice(&sequence.to_be_bytes());
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[9; 32])?);
    let end = payload.len() - 16;
    let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut payload[16..end])?;
    payload[end..].copy_from_slice(tag.as_ref());
    Ok(with(datagram, payload))
}

/// Sends datagrams and waits until exactly as many more drops of one name are counted.
fn expect_drops(lab: &Lab, link: &Injector, what: &str, name: Drop, datagrams: &[Datagram]) -> Result<()> {
    let before = lab.a().metrics()?;
    for datagram in datagrams {
        link.send(datagram)?;
    }
    let count = datagrams.len() as u64;
    let mut seen = 0;
    wait_until(&format!("{count} datagrams are dropped as {}", name.label()), SOON, || {
        seen = lab.a().metrics()?.dropped(name) - before.dropped(name);
        Ok(seen >= count)
    })
    .with_context(|| format!("{what}: {seen} so far"))?;
    ensure!(seen == count, "{what}: {seen} drops for {count} datagrams");
    let after = lab.a().metrics()?;
    for other in Drop::ALL.iter().filter(|other| **other != name) {
        let strays = after.dropped(*other) - before.dropped(*other);
        ensure!(strays == 0, "{what}: {strays} were counted as {} instead of {}", other.label(), name.label());
    }
    Ok(())
}

#[test]
fn every_kind_of_bad_datagram_is_dropped_under_its_own_name() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let good = valid(&lab, 200)?;
    watch_answers(&lab)?;
    let link = Injector::open(&lab.b().netns, WAN)?;
    let mut dice = Dice(0x5EED);
    let each = |change: &mut dyn FnMut(&Datagram) -> Datagram| good.iter().map(change).collect::<Vec<_>>();

    let short = each(&mut |datagram| with(datagram, datagram.payload[..dice.roll(ESP_MIN)].to_vec()));
    // One byte 0xFF would be a keepalive; none of ours begins so.
    expect_drops(&lab, &link, "truncated below the shortest ESP packet", Drop::TooShort, &short)?;
    expect_drops(&lab, &link, "replayed", Drop::Replay, &good)?;
    let stranger = each(&mut |datagram| Datagram { from: SocketAddrV4::new(STRANGER, 999), ..datagram.clone() });
    expect_drops(&lab, &link, "replayed from elsewhere", Drop::Replay, &stranger)?;
    let wrong_spi = each(&mut |datagram| flipped(datagram, 1 + dice.roll(2), dice.roll(8)));
    expect_drops(&lab, &link, "wrong SPI", Drop::UnknownSpi, &wrong_spi)?;
    let not_esp = each(&mut |datagram| {
        let mut payload = datagram.payload.clone();
        payload[0] = 4 + dice.roll(0x3C) as u8;
        with(datagram, payload)
    });
    expect_drops(&lab, &link, "neither ESP nor IKE nor STUN", Drop::Unclassified, &not_esp)?;

    // From here on with sequence numbers that were not seen before.
    let fresh = |datagram: &Datagram| {
        let mut payload = datagram.payload.clone();
        let sequence = u64::from_be_bytes(payload[8..16].try_into().expect("eight bytes")) + 100_000;
        payload[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
        payload[8..16].copy_from_slice(&sequence.to_be_bytes());
        with(datagram, payload)
    };
    let forged = each(&mut |datagram| fresh(datagram));
    expect_drops(&lab, &link, "with another sequence number", Drop::BadTag, &forged)?;
    let flips = each(&mut |datagram| {
        let datagram = fresh(datagram);
        let length = datagram.payload.len();
        flipped(&datagram, 16 + dice.roll(length - 16), dice.roll(8))
    });
    expect_drops(&lab, &link, "with a flipped bit", Drop::BadTag, &flips)?;
    let cut = each(&mut |datagram| {
        let datagram = fresh(datagram);
        let length = ESP_MIN + dice.roll(datagram.payload.len() - ESP_MIN);
        with(&datagram, datagram.payload[..length].to_vec())
    });
    expect_drops(&lab, &link, "truncated", Drop::BadTag, &cut)?;
    let longer = each(&mut |datagram| {
        let datagram = fresh(datagram);
        let mut payload = datagram.payload.clone();
        payload.resize(1400, 0xA5);
        with(&datagram, payload)
    });
    expect_drops(&lab, &link, "with bytes appended", Drop::BadTag, &longer)?;
    let foreign = good.iter().map(|datagram| of_another_suite(&fresh(datagram))).collect::<Result<Vec<_>>>()?;
    expect_drops(&lab, &link, "of another suite", Drop::BadTag, &foreign)?;

    // Past the window of 4096 packets, what was new once is old.
    lab.b().netns.run(&format!("ping -n -q -f -c5000 {}", lab.a().inner()))?;
    expect_drops(&lab, &link, "replayed late", Drop::ReplayOld, &good)?;

    ensure_no_answer(&lab)?;
    reaches(&lab.a().netns, lab.b().inner())
}

#[test]
fn datagrams_of_64_kib_are_dropped_and_counted() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let good = valid(&lab, 1)?;
    watch_answers(&lab)?;
    let before = lab.a().metrics()?;
    // Through a socket: the kernel cuts them into fragments. 65507 bytes are the most that UDP over IPv4 carries.
    let socket = lab.b().netns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    let target = SocketAddr::new(lab.a().outer(), PORT);
    for length in [2000, 9000, 40_000, 65_000, 65_507] {
        let mut payload = good[0].payload.clone();
        payload.resize(length, 0x5A);
        // A sequence number to come, so that the tag is what fails.
        payload[6] ^= 1;
        payload[14] ^= 1;
        for _ in 0..20 {
            socket.send_to(&payload, target)?;
        }
    }
    let dropped = || -> Result<u64> {
        let now = lab.a().metrics()?;
        let new = |name: Drop| now.dropped(name) - before.dropped(name);
        Ok(new(Drop::BadTag) + new(Drop::TooLong))
    };
    wait_until("100 long datagrams are dropped", SOON, || Ok(dropped()? >= 100))?;
    ensure!(dropped()? == 100);
    ensure_no_answer(&lab)?;
    reaches(&lab.a().netns, lab.b().inner())
}

#[test]
fn a_bad_datagram_in_the_middle_of_a_train_does_not_harm_the_others() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let (a, b) = (lab.a(), lab.b());
    let sink = a.netns.enter(|| once_free(|| UdpSocket::bind((a.inner(), 7000))))?;
    sink.set_read_timeout(Some(SOON))?;
    let source = b.netns.enter(|| UdpSocket::bind((b.inner(), 0)))?;
    source.send_to(&[0xEE; 40], (a.inner(), 7000))?;
    let mut buffer = [0; 2048];
    sink.recv(&mut buffer).context("the path works before")?;

    // Twenty datagrams leave b, are seen on the link, and do not reach a.
    a.netns.run("nft add table ip hold")?;
    a.netns.run("nft add chain ip hold in { type filter hook prerouting priority -300 ; }")?;
    a.netns.run(&format!("nft add rule ip hold in iifname {WAN} udp dport {PORT} drop"))?;
    let mut capture = Capture::open(&b.netns, WAN)?;
    for number in 0..20u8 {
        source.send_to(&[number; 700], (a.inner(), 7000))?;
    }
    let held = capture.collect(20, SOON, |datagram| is_tunnel(b, a)(datagram) && (700..900).contains(&datagram.payload.len()))?;
    ensure!(held.len() == 20, "captured {}", held.len());
    a.netns.run("nft delete table ip hold")?;

    let before = a.metrics()?;
    let mut train = held.clone();
    train[7] = flipped(&held[7], 100, 3);
    train[12] = flipped(&held[12], 2, 5);
    train[13] = held[11].clone();
    let link = Injector::open(&b.netns, WAN)?;
    link.send_train(&train)?;
    let expected = (0..20u8).filter(|number| ![7, 12, 13].contains(number));
    for number in expected {
        let length = sink.recv(&mut buffer).with_context(|| format!("datagram {number} of the train was lost"))?;
        ensure!(buffer[..length] == [number; 700], "expected {number}, got {} × {}", length, buffer[0]);
    }
    let after = a.metrics()?;
    for name in [Drop::BadTag, Drop::UnknownSpi, Drop::Replay] {
        let new = after.dropped(name) - before.dropped(name);
        ensure!(new == 1, "{} rose by {new}", name.label());
    }
    // What was bad in the train is still new when it comes whole.
    link.send(&held[13])?;
    let length = sink.recv(&mut buffer).context("the datagram whose place was taken was lost for good")?;
    ensure!(buffer[..length] == [13; 700]);
    Ok(())
}

/// Who stands on the way holds back what a peer sends, ESP and IKE, and sends it on as from somewhere else, before the peer is
/// heard again: it is authentic and new. That moves nothing, and no more goes to that place than came from there.
#[test]
fn what_was_held_back_and_comes_from_elsewhere_moves_nothing() -> Result<()> {
    const PINGS: u64 = 20;
    let lab = Lab::start(&patient(&["role: responder, dpd_s: 0", "role: initiator, dpd_s: 0"]))?;
    let (a, b) = (lab.a(), lab.b());
    wait_until("packets pass", SOON, || Ok(reaches(&b.netns, a.inner()).is_ok()))?;
    watch_answers(&lab)?;
    a.netns.run("nft add table ip hold")?;
    a.netns.run("nft add chain ip hold in { type filter hook prerouting priority -300 ; }")?;
    a.netns.run(&format!("nft add rule ip hold in iifname {WAN} ip saddr {} udp dport {PORT} drop", b.outer()))?;
    let mut capture = Capture::open(&b.netns, WAN)?;
    let old = spis(b)?;
    b.adit("rekey --ike site-a")?;
    let pings = b.netns.run(&format!("ping -n -q -c{PINGS} -i0.01 -W0.1 {}", a.inner()));
    ensure!(pings.is_err(), "what is held back arrives");
    let is_ike = |datagram: &Datagram| datagram.payload.starts_with(&[0; 4]);
    let (link, mut sent, mut kinds) = (Injector::open(&b.netns, WAN)?, 0, [0, 0]);
    let opened = a.metrics()?.count(Count::Opened);
    for held in capture.drain()?.iter().filter(|held| is_tunnel(b, a)(held)) {
        link.send(&Datagram { from: SocketAddrV4::new(STRANGER, PORT), ..held.clone() })?;
        sent += held.payload.len() + 28;
        kinds[usize::from(is_ike(held))] += 1;
    }
    ensure!(kinds[0] >= PINGS && kinds[1] > 0, "ESP and IKE: {kinds:?}");
    // Without sealed echoes, which are counted by themselves.
    wait_until("what was held back is opened", SOON, || Ok(a.metrics()?.count(Count::Opened) >= opened + PINGS))
        .with_context(|| format!("{kinds:?}, {opened} before\n{}", lab.logs()))?;
    std::thread::sleep(Duration::from_secs(1));
    let at = |path: Value| path["remote"].as_str().is_some_and(|remote| remote.starts_with(&b.outer().to_string()));
    ensure!(at(path_in_use(a)?), "{}\n{}", path_in_use(a)?, lab.logs());
    a.netns.run("nft delete table ip hold")?;
    wait_until("the IKE SA is replaced", SOON, || Ok(spis(b)?.0 != old.0)).with_context(|| lab.logs())?;
    reaches(&a.netns, b.inner())?;
    ensure!(at(path_in_use(a)?), "{}\n{}", path_in_use(a)?, lab.logs());
    let listing = a.netns.run("nft list counter ip watch strangers")?;
    let answered = listing.split_whitespace().skip_while(|word| *word != "bytes").nth(1).and_then(|bytes| bytes.parse().ok());
    let answered: usize = answered.with_context(|| listing.clone())?;
    ensure!(answered <= sent, "{answered} bytes for {sent}");
    println!("{answered} bytes for {sent}: {kinds:?}");
    Ok(())
}

/// One of ten kinds of bad datagram.
fn mutated(good: &Datagram, number: usize, dice: &mut Dice) -> Result<Datagram> {
    let mut payload = good.payload.clone();
    let length = payload.len();
    let from = match number % 3 {
        0 => good.from,
        1 => SocketAddrV4::new(*good.from.ip(), 4501),
        _ => SocketAddrV4::new(STRANGER, 1024 + (number % 5000) as u16),
    };
    let datagram = match number % 10 {
        0 => with(good, payload[..dice.roll(ESP_MIN)].to_vec()),
        1 => with(good, payload[..ESP_MIN + dice.roll(length - ESP_MIN)].to_vec()),
        2 => good.clone(),
        3 => flipped(good, dice.roll(length), dice.roll(8)),
        4 => {
            // A sequence number far ahead.
            let sequence = u64::from_be_bytes(payload[8..16].try_into()?) + (1 << 30);
            payload[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
            payload[8..16].copy_from_slice(&sequence.to_be_bytes());
            with(good, payload)
        }
        5 => flipped(good, 1 + dice.roll(2), dice.roll(8)),
        6 => of_another_suite(good)?,
        7 => {
            payload.resize(1200 + dice.roll(200), 0);
            with(good, payload)
        }
        8 => {
            payload.iter_mut().for_each(|byte| *byte = dice.roll(256) as u8);
            // Random bytes must not be what the control plane would be handed.
            payload[0] = payload[0].max(4);
            with(good, payload)
        }
        _ => {
            // Begins as IKE or STUN, and is neither.
            payload[..4].copy_from_slice(if number % 20 == 9 { &[0, 0, 0, 0] } else { &[0, 1, 0, 0] });
            if number % 40 == 19 {
                payload[4..8].copy_from_slice(&STUN_COOKIE);
            }
            with(good, payload)
        }
    };
    Ok(Datagram { from, ..datagram })
}

#[test]
fn ten_thousand_mutated_datagrams_under_load_have_no_effect() -> Result<()> {
    let lab = Lab::start(&LabOptions { workers: vec![2, 1], ..LabOptions::default() })?;
    let (a, b) = (lab.a(), lab.b());
    let good = valid(&lab, 200)?;
    watch_answers(&lab)?;
    let before = a.metrics()?;
    let link = Injector::open(&b.netns, WAN)?;
    let there = start(&a.netns, &b.netns, b.inner().into(), 2 * GIB)?;
    let back = start(&b.netns, &a.netns, a.inner().into(), 2 * GIB)?;
    let pings = Pings::start(&lab, a, b.inner(), Duration::from_millis(5))?;

    let mut dice = Dice(0xADD1);
    let mut sent = 0;
    while sent < 10_000 {
        let mark = back.moved();
        for _ in 0..50 {
            link.send(&mutated(&good[sent % good.len()], sent, &mut dice)?)?;
            sent += 1;
        }
        // A train of replays with a broken one in the middle.
        let mut train: Vec<Datagram> = good[..5].to_vec();
        train[2] = flipped(&good[2], 20, 1);
        link.send_train(&train)?;
        // Spread over the transfers: they go on before the next fifty.
        let deadline = Instant::now() + SOON;
        while back.is_running() && back.moved() < mark + (4 << 20) {
            ensure!(Instant::now() < deadline, "the transfer stalled after {sent} datagrams");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    ensure!(there.is_running() || back.is_running(), "the transfers were over before the attack was");
    let (there, back) = (there.finish()?, back.finish()?);
    there.verify(2 * GIB)?;
    back.verify(2 * GIB)?;
    ensure_no_answer(&lab)?;

    let after = a.metrics()?;
    for gateway in &lab.gateways {
        let metrics = gateway.metrics()?;
        let drops: Vec<_> =
            Drop::ALL.iter().map(|name| (name.label(), metrics.dropped(*name))).filter(|(_, count)| *count > 0).collect();
        println!("{}: {drops:?}", gateway.name);
    }
    pings.none_lost(&lab, 1)?;
    let new = |name: Drop| after.dropped(name) - before.dropped(name);
    // What repeats an old sequence number is dropped before its tag is looked at.
    for (name, at_least) in
        [(Drop::TooShort, 900), (Drop::BadTag, 900), (Drop::ReplayOld, 3000), (Drop::UnknownSpi, 900), (Drop::Unclassified, 200)]
    {
        ensure!(new(name) >= at_least, "{} rose by {} only", name.label(), new(name));
    }
    let punted = after.count(Count::Punted) - before.count(Count::Punted);
    ensure!(punted >= 200, "{punted} datagrams that look like IKE or STUN reached the control plane");
    let accounted: u64 = Drop::ALL.iter().map(|name| new(*name)).sum::<u64>() + punted;
    ensure!(accounted >= 11_000, "of 11000 bad datagrams only {accounted} are accounted for");
    println!("there {:.2} Gbit/s, back {:.2} Gbit/s", there.gbits(), back.gbits());
    Ok(())
}

#[test]
fn gateways_with_keys_of_different_suites_exchange_nothing_and_say_why() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    // The same secret, another suite: what one seals is noise to the other, or not even addressed to it.
    let file = lab.dir().join("site-a-site-b.key");
    let other = lab.dir().join("other.key");
    let text = std::fs::read_to_string(&file)?;
    ensure!(text.contains("aes-128-gcm"), "{}", text.lines().filter(|line| line.starts_with('#')).collect::<String>());
    std::fs::copy(&file, &other)?;
    let suite =
        text.lines().find(|line| !line.starts_with('#') && line.contains("aes-128-gcm")).context("the line of the suite")?;
    std::fs::write(&other, text.replace(suite, &suite.replace("aes-128-gcm", "chacha20-poly1305")))?;
    let config = std::fs::read_to_string(&lab.b().config)?;
    std::fs::write(&lab.b().config, config.replace("site-a-site-b.key", "other.key"))?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    let (a, b) = (lab.a(), lab.b());
    for gateway in [a, b] {
        wait_until("the gateway serves metrics", SOON, || {
            Ok(gateway
                .metrics()
                .is_ok_and(|metrics| metrics.gauge(0, adit_proto::stats::Gauge::OutboundSas).unwrap_or(0.0) > 0.0))
        })?;
    }
    let output = a.netns.run(&format!("ping -n -c5 -i0.1 -W1 {}", b.inner()));
    ensure!(output.is_err(), "the ping passed between different suites");
    let now = b.metrics()?;
    ensure!(now.dropped(Drop::BadTag) + now.dropped(Drop::UnknownSpi) > 0, "nothing was counted as bad_tag or unknown_spi");
    ensure!(b.metrics()?.count(Count::Opened) == 0);
    Ok(())
}
