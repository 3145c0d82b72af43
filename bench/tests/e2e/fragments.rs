//! IP fragments: datagrams longer than the MTU of the TAP, cut by the sender's kernel and put together by the receiver's.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use adit_bench::lab::{Lab, LabOptions, SOON};
use adit_bench::netns::once_free;
use anyhow::{Context, Result, ensure};

use crate::echoes;

#[test]
fn pings_longer_than_the_mtu_come_back() -> Result<()> {
    let lab = Lab::start(&LabOptions { inner_mtu: Some(1418), ..LabOptions::patient() })?;
    for target in [IpAddr::from(lab.b().inner()), lab.b().inner6().into()] {
        for size in [1400, 4000, 20_000, 60_000] {
            echoes(&lab.a().netns, 5, size, "", target)?;
        }
    }
    Ok(())
}

#[test]
fn long_udp_datagrams_arrive_byte_for_byte() -> Result<()> {
    let lab = Lab::start(&LabOptions { inner_mtu: Some(1418), ..LabOptions::patient() })?;
    let targets: [IpAddr; 2] = [lab.b().inner().into(), lab.b().inner6().into()];
    for target in targets {
        let sink = lab.b().netns.enter(|| once_free(|| UdpSocket::bind((target, 7000))))?;
        sink.set_read_timeout(Some(SOON))?;
        let any: SocketAddr = if target.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
        let source = lab.a().netns.enter(|| UdpSocket::bind(any))?;
        let mut buffer = vec![0; 1 << 16];
        // Around the MTU, around whole multiples of a fragment, and the longest that there is over IPv4.
        for length in [1389, 1390, 1391, 2779, 2780, 4000, 9999, 40_000, 65_507] {
            let content: Vec<u8> = (0..length).map(|index| (index * 7 + length + index / 251) as u8).collect();
            source.send_to(&content, (target, 7000))?;
            let received = sink.recv(&mut buffer).with_context(|| format!("{length} bytes to {target} did not arrive"))?;
            ensure!(buffer[..received] == content[..], "{length} bytes to {target} were harmed");
        }
    }
    Ok(())
}

#[test]
fn fragments_are_not_merged_with_other_datagrams_of_their_flow() -> Result<()> {
    let lab = Lab::start(&LabOptions { inner_mtu: Some(1418), ..LabOptions::patient() })?;
    let target = lab.b().inner();
    let sink = lab.b().netns.enter(|| once_free(|| UdpSocket::bind((target, 7000))))?;
    sink.set_read_timeout(Some(SOON))?;
    let source = lab.a().netns.enter(|| UdpSocket::bind("0.0.0.0:0"))?;
    let contents: Vec<Vec<u8>> = (0..400usize)
        .map(|number| {
            let length = if number % 5 == 3 { 3000 } else { 1200 };
            (0..length).map(|index| (index ^ number) as u8).collect()
        })
        .collect();
    let mut buffer = vec![0; 1 << 16];
    for burst in contents.chunks(20) {
        for content in burst {
            source.send_to(content, (target, 7000))?;
        }
        let mut missing: Vec<&Vec<u8>> = burst.iter().collect();
        for _ in burst {
            let received = sink.recv(&mut buffer).context("a datagram of the burst did not arrive")?;
            let place = missing.iter().position(|content| content[..] == buffer[..received]);
            missing.remove(place.context("a datagram arrived that was not sent like this")?);
        }
    }
    Ok(())
}
