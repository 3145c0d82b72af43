//! Against the ESP of a kernel, which knows extended sequence numbers, and puts ESP into UDP only where a NAT is claimed.

use adit_bench::lab::interop::sites::{CHILD, CONNECTION, LINK, Proof, Site, pair};
use adit_bench::lab::interop::{Guest, Release, StrongSwan};
use adit_bench::netns::Netns;
use adit_engine::ike::{ConnectionState, EndpointConfig};
use adit_proto::echo::{Answer, Echo, Kind};
use anyhow::{Context, Result, ensure};

use super::gateway::{Gateway, PEER};
use super::{SOON, compare, peer};

/// Pings from the guest until they come back; on a busy machine `ping` gives up too early.
fn reach(guest: &Guest) -> Result<()> {
    (0..5).map(|_| Site::B.reach(|line| guest.run(line))).find(Result::is_ok).context("no answer to five times three pings")?
}

#[test]
fn a_claimed_nat_and_extended_sequence_numbers_reach_the_esp_of_a_kernel() -> Result<()> {
    let near = Netns::new("adit-a")?;
    let guest = Guest::boot("guest-b", Release::Swan5)?;
    guest.plug(&near, LINK)?;
    Site::A.settle(&near)?;
    Site::B.settle_guest(&guest)?;
    let (a, mut b) = pair(Proof::Psk)?;
    b.connections[0].children[0].proposals = vec!["aes256gcm16-esn-noesn".to_owned()];
    let swan = StrongSwan::start_in(&guest, &b)?;
    let mut config = peer::config(Site::A, &a.connections[0])?;
    config.force_encapsulation = true;
    let adit = Gateway::start(&near, EndpointConfig::default(), config)?;
    let check = || -> Result<()> {
        adit.wait_for("a connection with a Child SA", SOON, |view| {
            (view.status().state == ConnectionState::Established && view.data.pairs() == 1).then_some(())
        })?;
        reach(&guest)?;
        swan.wait_for("the same SAs at both ends", SOON, |sas| adit.with(|view| compare(view, sas)).ok())?;
        // A sealed echo is a dummy packet to who does not know echoes, and discarded without a word. An answer would be a fault.
        let echo = Echo { kind: Kind::Request, answer: Answer::AsItCame, size: 1280, id: 7, stamp: 0 };
        let mut inside = [0; 1200];
        ensure!(echo.encode(&mut inside));
        (0..3).try_for_each(|_| adit.send_dummy(&inside))?;
        reach(&guest).context("after echoes that nobody had asked for")?;
        let (keys, faults) = adit.with(|view| (view.data.outbound[0].keys.clone(), view.data.faults.clone()));
        ensure!(keys.esn && faults.is_empty(), "ESN: {}, {faults:?}", keys.esn);
        let (states, theirs) = (guest.run("ip xfrm state")?, format!("spi 0x{:08x}", keys.spi.0));
        ensure!(["espinudp", "esn", theirs.as_str()].iter().all(|part| states.contains(*part)), "{theirs}: {states}");
        Ok(())
    };

    adit.act(|endpoint, now| endpoint.connect(now, PEER))?;
    check().with_context(|| format!("begun by Adit: {}", adit.explain()))?;
    swan.rekey_child(CONNECTION, CHILD)?;
    swan.rekey_ike(CONNECTION)?;
    check().with_context(|| format!("rekeyed: {}", adit.explain()))?;
    adit.act(|endpoint, now| endpoint.disconnect(now, PEER))?;
    swan.wait_until_idle(SOON)?;

    swan.initiate(CONNECTION, CHILD).with_context(|| adit.explain())?;
    check().with_context(|| format!("begun by strongSwan: {}", adit.explain()))
}
