//! IPv6 extension headers: UDP behind a destination options header (RFC 8200 §4.6), alone and in bursts that invite merging.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use adit_bench::lab::{Lab, LabOptions, SOON};
use adit_bench::netns::once_free;
use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

const DESTINATION_OPTIONS: i32 = 60;
const UDP: u8 = 17;

/// Destination options (8 bytes, only padding), UDP header with its checksum, payload.
fn packet(from: Ipv6Addr, to: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut udp = Vec::new();
    udp.extend(7001u16.to_be_bytes());
    udp.extend(port.to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let mut summed = Vec::new();
    summed.extend(from.octets());
    summed.extend(to.octets());
    summed.extend(u32::from(length).to_be_bytes());
    summed.extend([0, 0, 0, UDP]);
    summed.extend(&udp);
    if summed.len() % 2 == 1 {
        summed.push(0);
    }
    let mut sum: u32 = summed.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    let checksum = match !(sum as u16) {
        0 => 0xFFFF,
        other => other,
    };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    // Next header, length 0 (eight bytes), PadN with four bytes.
    let mut packet = vec![UDP, 0, 1, 4, 0, 0, 0, 0];
    packet.extend(udp);
    packet
}

#[test]
fn udp_behind_destination_options_passes_unharmed() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let (from, to) = (lab.a().inner6(), lab.b().inner6());
    let sink = lab.b().netns.enter(|| once_free(|| UdpSocket::bind((to, 7000))))?;
    sink.set_read_timeout(Some(SOON))?;
    let raw = lab
        .a()
        .netns
        .enter(|| Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(DESTINATION_OPTIONS))))
        .context("cannot open a raw socket")?;
    let target = SocketAddr::from((to, 0)).into();
    let mut buffer = vec![0; 2048];
    for burst in 0..20u8 {
        let payloads: Vec<Vec<u8>> =
            (0..25u8).map(|number| vec![burst ^ number; if burst % 2 == 0 { 1000 } else { 18 }]).collect();
        for payload in &payloads {
            raw.send_to(&packet(from, to, 7000, payload), &target)?;
        }
        // All of them, in whatever order the kernel's queues between the namespaces leave them.
        let mut missing = payloads.clone();
        while !missing.is_empty() {
            let came = sink.recv_from(&mut buffer);
            let (length, sender) = came.with_context(|| format!("burst {burst}: {} datagrams did not arrive", missing.len()))?;
            ensure!(sender.ip() == from, "from {sender}");
            let place = missing.iter().position(|payload| buffer[..length] == payload[..]);
            missing.remove(place.with_context(|| format!("burst {burst}: {length} bytes that nobody sent, or a second time"))?);
        }
    }
    Ok(())
}

#[test]
fn a_wrong_inner_checksum_stays_wrong() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let (from, to) = (lab.a().inner(), lab.b().inner());
    let sink = lab.b().netns.enter(|| once_free(|| UdpSocket::bind((to, 7000))))?;
    sink.set_read_timeout(Some(SOON))?;
    let raw = lab.a().netns.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)))?;
    let target = SocketAddr::from((to, 0)).into();
    // Equal sizes of one flow, so that they would be merged, and merging must not repair the broken ones.
    for number in 0..60u8 {
        let mut udp = Vec::new();
        udp.extend(7001u16.to_be_bytes());
        udp.extend(7000u16.to_be_bytes());
        udp.extend(26u16.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend([number; 18]);
        let mut sum: u32 = udp.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        for octets in [from.octets(), to.octets()] {
            sum += octets.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
        }
        sum += u32::from(UDP) + 26;
        while sum > 0xFFFF {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        let broken = number % 3 == 1;
        let checksum = !(sum as u16) ^ if broken { 0x0101 } else { 0 };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        raw.send_to(&udp, &target)?;
    }
    let mut buffer = [0; 100];
    for number in (0..60u8).filter(|number| number % 3 != 1) {
        let length = sink.recv(&mut buffer).with_context(|| format!("datagram {number} did not arrive"))?;
        ensure!(buffer[..length] == [number; 18], "expected {number}, got {:?}", &buffer[..length]);
    }
    sink.set_read_timeout(Some(Duration::from_millis(100)))?;
    ensure!(sink.recv(&mut buffer).is_err(), "a datagram with a broken checksum was repaired on its way");
    Ok(())
}
