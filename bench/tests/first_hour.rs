//! A new user's first hour as a script that he could have typed: `first_hour.sh`, part by part, in namespaces of its own.

use std::path::PathBuf;
use std::process::Command;

use adit_bench::lab::binary;
use adit_bench::lab::interop::Release;
use anyhow::{Context, Result, ensure};

/// Runs a part of the script with our programs in front of the path, and the root directory of a strongSwan where it needs one. All that
/// it started ends with it.
fn type_in(part: &str, swan: Option<PathBuf>) -> Result<()> {
    let programs = binary("adit")?.parent().context("a folder")?.to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash"])
        .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/first_hour.sh"), part])
        .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display()))
        .env("README", concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))
        .envs(swan.map(|root| ("SWAN", root)))
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{part}: {}\n{}", output.status, String::from_utf8_lossy(&said));
    Ok(())
}

#[test]
fn two_boxes_on_a_line_of_1400_are_connected_used_and_stopped() -> Result<()> {
    type_in("boxes", None)
}

#[test]
fn two_lans_become_one_over_a_line_of_1400() -> Result<()> {
    type_in("lans", None)
}

#[test]
fn three_networks_behind_a_strongswan_are_reached() -> Result<()> {
    type_in("networks", Some(Release::Swan6.root()?))
}

#[test]
fn a_file_is_changed_while_packets_flow() -> Result<()> {
    type_in("change", None)
}

#[test]
fn the_readme_works_as_it_stands_between_two_boxes_and_with_a_strongswan() -> Result<()> {
    type_in("readme", Some(Release::Swan6.root()?))
}
