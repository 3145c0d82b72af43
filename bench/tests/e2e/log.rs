//! What the log of a gateway looks like to who reads it.

use adit_bench::lab::{Lab, LabOptions, SOON};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

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
