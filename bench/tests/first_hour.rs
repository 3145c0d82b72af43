//! A new user's first hour as a script that he could have typed: `first_hour.sh`, part by part, in namespaces of its own.

use std::process::Command;

use adit_bench::lab::binary;
use anyhow::{Context, Result, ensure};

/// Runs a part of the script with our programs in front of the path. All that it started ends with it.
fn type_in(part: &str) -> Result<()> {
    let programs = binary("adit")?.parent().context("a folder")?.to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"])
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/first_hour.sh"), part])
        .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display()))
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{part}: {}\n{}", output.status, String::from_utf8_lossy(&said));
    Ok(())
}

#[test]
fn two_boxes_on_a_line_of_1400_are_connected_used_and_stopped() -> Result<()> {
    type_in("boxes")
}
