//! What the log of a gateway looks like to who reads it.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use adit_bench::lab::surroundings::wrapped;
use adit_bench::lab::{Lab, LabOptions, METRICS_PORT, SOON, wait_until};
use adit_bench::process::is_running;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use socket2::SockRef;

#[test]
fn for_programs_each_message_of_both_planes_is_one_object() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let mut command = lab.a().command()?;
    command.env("ADIT_LOG_FORMAT", "json");
    lab.gateways[0].start(&mut command)?;
    lab.gateways[1].start_control()?;
    lab.wait_until_up()?;
    // The data plane says it last.
    lab.a().wait_for_log("protections: ", SOON)?;
    // To its end: each line is whole then.
    lab.gateways[0].stop()?;
    let log = lab.a().log();
    let mut of_data_plane = 0;
    for line in log.lines() {
        let object: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let [time, level, message] = ["timestamp", "level", "message"].map(|key| object[key].as_str());
        ensure!(time.is_some_and(|time| time.ends_with('Z')) && level.is_some(), "{line}");
        let message = message.with_context(|| line.to_owned())?;
        // Its own words, and not an object in another one.
        ensure!(!message.contains("{\""), "{line}");
        of_data_plane += usize::from(message.starts_with("dataplane: ") && level == Some("INFO"));
    }
    ensure!(of_data_plane > 0, "{log}");
    Ok(())
}

/// The other end of standard error is a pipe that is closed, as where a program that collected messages has died; and so are
/// connections of those who asked for something.
#[test]
fn pipes_and_sockets_that_nobody_reads_end_neither_plane() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let bash = lab.a().netns.command("bash");
    let mut command = wrapped(bash, &["-c", "exec \"$@\" 2> >(exec true)", "bash"], &lab.a().command()?);
    lab.gateways[0].start(&mut command)?;
    lab.gateways[1].start_control()?;
    lab.wait_until_up()?;
    let old = lab.a().data_plane().context("a data plane")?;
    for _ in 0..10 {
        // Who asks, and has gone before the answer.
        let mut asker = lab.a().netns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS_PORT)))?;
        asker.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        // With something unread, the end is a reset.
        SockRef::from(&asker).set_linger(Some(Duration::ZERO))?;
        drop(asker);
        // There is nothing to read, and it has its say in the log.
        lab.a().adit("reload")?;
    }
    lab.a().kill_data_plane()?;
    wait_until("there is another data plane", SOON, || Ok(lab.a().data_plane().is_some_and(|pid| pid != old)))?;
    lab.wait_until_up()?;
    ensure!(is_running(lab.gateways[0].control()?.pid()), "adit has ended");
    ensure!(!lab.a().log().contains("attached"), "the log was read after all: {}", lab.a().log());
    Ok(())
}
