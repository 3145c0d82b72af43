//! What a router says of a packet that was too big, towards a peer that answers no echoes: believed where it quotes an SPI that lives, and
//! counted where it does not, whatever the kernel makes of it.
//!
//! ```text
//!   gateway a ── 1500 ── router ── 1300 ── gateway b
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use adit_bench::lab::capture::Capture;
use adit_bench::lab::router::Router;
use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Lab, LabOptions, PORT, SOON, wait_until};
use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::paths::path_in_use;
use crate::{echoes, edit};

const NARROW: u16 = 1300;
const MIB: u64 = 1 << 20;

/// The gateways with a router between them. Dropped in this order.
struct Routed {
    lab: Lab,
    router: Router,
}

impl Routed {
    fn start(options: &LabOptions) -> Result<Routed> {
        let mut lab = Lab::prepare(options)?;
        let router = Router::between(&lab.gateways, &[1500, NARROW])?;
        for gateway in &mut lab.gateways {
            edit(gateway, "endpoint:", "echo: false, endpoint:")?;
            gateway.start_control()?;
        }
        lab.wait_until_up()?;
        Ok(Routed { lab, router })
    }

    fn counted(&self, verdict: &str) -> Result<u64> {
        let count = self.lab.a().metrics()?.sum("adit_icmp_too_big_total", &[("verdict", verdict)]);
        count.map(|count| count as u64).context("a metric")
    }

    /// An SPI under which the first gateway sends.
    fn spi(&self) -> Result<u32> {
        let (a, b) = (self.lab.a(), self.lab.b());
        let mut capture = Capture::open(&self.router.netns, "to-1")?;
        echoes(&a.netns, 1, 100, "", b.inner())?;
        let sent = |from: SocketAddr, bytes: &[u8]| from.ip() == a.outer() && bytes.len() > 100;
        let seen = capture.collect(1, SOON, |datagram| sent(datagram.from.into(), &datagram.payload))?;
        let word = seen.first().and_then(|datagram| datagram.payload.first_chunk().copied()).context("a packet of ESP")?;
        Ok(u32::from_be_bytes(word))
    }

    /// Somebody tells the first gateway, in the router's name, that its packet with this SPI was too big.
    fn forge(&self, spi: u32, mtu: u16) -> Result<()> {
        let mut message = vec![3, 4, 0, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        // The packet that is quoted: IPv4, UDP, and the start of ESP.
        message.extend([0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        message.extend([PORT.to_be_bytes(), PORT.to_be_bytes(), 1480_u16.to_be_bytes(), [0, 0]].concat());
        message.extend(spi.to_be_bytes());
        message.extend([0; 24]);
        let sum: u32 = message.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.router.netns.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
            socket.send_to(&message, &SocketAddr::new(self.lab.a().outer(), 0).into())?;
            Ok(())
        })
    }

    fn wait_for_mtu(&self, mtu: u16) -> Result<()> {
        wait_until(&format!("packets of {mtu} bytes are sent"), SOON, || Ok(path_in_use(self.lab.a())?["mtu"] == mtu))
            .with_context(|| self.lab.logs())
    }
}

#[test]
fn a_router_is_believed_where_it_quotes_a_packet_of_ours() -> Result<()> {
    for outer_ipv6 in [false, true] {
        let routed = Routed::start(&LabOptions { outer_ipv6, ip_mode: true, ..LabOptions::patient() })?;
        let (a, b) = (routed.lab.a(), routed.lab.b());
        ensure!(path_in_use(a)?["mtu"] == 1500, "{}", path_in_use(a)?);
        // TCP is told by the other end what its line takes; this is not, until a first one is lost.
        wait_until("a long packet arrives", SOON, || {
            Ok(a.netns.run(&format!("ping -n -c1 -W1 -M dont -s 1400 {}", b.inner())).is_ok())
        })?;
        routed.wait_for_mtu(NARROW)?;
        ensure!(routed.counted("believed")? >= 1, "{}", a.metrics_page()?);
        echoes(&a.netns, 3, 1400, "-M dont", b.inner())?;
        transfer(&a.netns, &b.netns, b.inner().into(), 8 * MIB)?.verify(8 * MIB)?;
    }
    Ok(())
}

#[test]
fn a_forged_message_of_a_router_changes_nothing_and_is_counted() -> Result<()> {
    let routed = Routed::start(&LabOptions { ip_mode: true, ..LabOptions::patient() })?;
    let (a, b) = (routed.lab.a(), routed.lab.b());
    let spi = routed.spi()?;
    let before = routed.counted("ignored")?;
    routed.forge(spi ^ 0x100, 600)?;
    wait_until("it is counted", SOON, || Ok(routed.counted("ignored")? == before + 1))?;
    // The kernel, which looks at the ports alone, believes it.
    ensure!(a.netns.path_mtu(b.outer())? == Some(600), "{}", a.netns.run("ip route get 192.0.2.2")?);
    echoes(&a.netns, 3, 100, "", b.inner())?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(path_in_use(a)?["mtu"] == 1500, "{}", path_in_use(a)?);
    // Who is on the way may say so much, and no less than every host takes.
    routed.forge(spi, 68)?;
    routed.wait_for_mtu(576)?;
    echoes(&a.netns, 3, 1000, "-M dont", b.inner())
}
