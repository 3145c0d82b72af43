//! The key log: what passed on the cable is opened by tshark, whom the engine told nothing but the lines of its log.

use std::fmt::Write as _;
use std::fs;

use adit_bench::lab::capture::{Capture, Datagram};
use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::sites::{LINK, Proof, Site};
use adit_bench::lab::tshark::Analysis;
use adit_bench::workdir::WorkDir;
use adit_engine::ike::{EndpointConfig, Event, KeyLog, KeyLogFile};
use adit_proto::suite::Suite;
use anyhow::{Result, ensure};

use super::{Pair, peer};

const IKE_AUTH: &str = "isakmp.exchangetype == 35";
const CREATE_CHILD_SA: &str = "isakmp.exchangetype == 36";
/// What the echo test sends from host b.
const ECHO: &str = "ip.src == 10.2.0.1 && ip.dst == 10.1.0.1 && udp.dstport == 7";

/// What tshark makes of it with these keys.
fn analysis(datagrams: &[Datagram], logs: &[KeyLog]) -> Result<Analysis> {
    let dir = WorkDir::new("keys")?;
    for file in KeyLogFile::ALL {
        let mut text = String::new();
        logs.iter().filter(|log| log.file() == file).try_for_each(|log| writeln!(text, "{}", *log.line()))?;
        fs::write(dir.path().join(file.name()), text)?;
    }
    Analysis::new(datagrams, dir.path())
}

/// A connection with both rekeys and packets before and after them; what was seen of it and what the engine said.
fn recorded(release: Release, key_log: bool, suite: Suite, hybrid: bool) -> Result<(Vec<Datagram>, Vec<KeyLog>)> {
    let endpoint = EndpointConfig { key_log, ..EndpointConfig::default() };
    let pair = Pair::with(release, Proof::Psk, endpoint, |config, swan| {
        let word = if suite == Suite::Aes128Gcm { "aes128gcm16" } else { "aes256gcm16" };
        let proposal = if hybrid { peer::hybrid() } else { peer::classic() };
        config.proposals = vec![adit_engine::ike::IkeProposal { suites: vec![suite], ..proposal }];
        config.children[0].proposals[0].suites = vec![suite];
        let additional = if hybrid { "-ke1_mlkem768" } else { "" };
        swan.connections[0].proposals = vec![format!("{word}-prfsha384-x25519{additional}")];
        swan.connections[0].children[0].proposals = vec![word.to_owned()];
    })?;
    let mut capture = Capture::open(&pair.sites.b, LINK)?;
    pair.connect()?;
    pair.echo(|sent| sent < 2)?;
    pair.rekey_child()?;
    pair.rekey_ike()?;
    pair.agree()?;
    pair.echo(|sent| sent < 1)?;
    let logs = pair.adit.with(|view| {
        let key_log = |event: &Event| if let Event::KeyLog(log) = event { Some((**log).clone()) } else { None };
        view.events.iter().filter_map(key_log).collect()
    });
    Ok((capture.drain()?, logs))
}

#[test]
fn tshark_opens_ike_and_esp_with_the_key_log() -> Result<()> {
    for (release, suite, hybrid) in [(Swan5, Suite::Aes256Gcm, false), (Swan6, Suite::Aes128Gcm, true)] {
        let (datagrams, logs) = recorded(release, true, suite, hybrid)?;
        let analysis = analysis(&datagrams, &logs)?;
        let names = analysis.values(IKE_AUTH, "isakmp.id.data.fqdn")?;
        let both = [Site::A, Site::B].iter().all(|site| names.iter().any(|line| line.contains(site.id())));
        ensure!(both, "{release:?}: the identities are not in {names:?}");
        // Child SA, IKE SA; the selectors of the new Child SA can be seen, and the new IKE SA opens what comes on it.
        let selectors = analysis.values(CREATE_CHILD_SA, "isakmp.ts.start_ipv4")?;
        ensure!(selectors.iter().any(|line| line.contains("10.1.0.0")), "{release:?}: {selectors:?}");
        let deletes = analysis.values("isakmp.delete.spi && isakmp.exchangetype == 37", "isakmp.delete.spi")?;
        ensure!(deletes.len() >= 2, "{release:?}: {deletes:?}");
        // Two datagrams before the rekeys and one after them, and no tag that is wrong.
        let echoes = analysis.values(ECHO, "esp.spi")?;
        let spis: std::collections::BTreeSet<_> = echoes.iter().collect();
        ensure!(echoes.len() == 3 && spis.len() == 2, "{release:?}: {echoes:?}");
        let (good, bad) = (analysis.values("esp.icv_good == 1", "esp.spi")?, analysis.values("esp.icv_bad == 1", "esp.spi")?);
        ensure!(good.len() == 6 && bad.is_empty(), "{release:?}: good {good:?}, bad {bad:?}");
    }
    Ok(())
}

#[test]
fn without_being_told_the_engine_tells_no_keys_and_tshark_sees_nothing() -> Result<()> {
    let (datagrams, logs) = recorded(Swan5, false, Suite::Aes256Gcm, false)?;
    ensure!(logs.is_empty(), "{logs:?}");
    let analysis = analysis(&datagrams, &logs)?;
    ensure!(analysis.values(IKE_AUTH, "isakmp.exchangetype")?.len() == 2, "the exchange is in the capture");
    let names = analysis.values(&format!("{IKE_AUTH} && isakmp.id.data.fqdn"), "isakmp.id.data.fqdn")?;
    ensure!(names.is_empty() && analysis.values(ECHO, "esp.spi")?.is_empty(), "{names:?}");
    Ok(())
}
