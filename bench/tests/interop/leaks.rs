//! Nothing outlives the test: not after a drop, and not after a kill of the program that holds everything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use adit_bench::lab::interop::Release::{Swan5, Swan6};
use adit_bench::lab::interop::sites::{Proof, Sites, pair};
use adit_bench::lab::interop::{Guest, StrongSwan};
use adit_bench::lab::{SOON, wait_until};
use adit_bench::netns::{Netns, Signal};
use adit_bench::process::{Process, describe, is_running};
use anyhow::{Context, Result, ensure};

/// Set in the copy of this executable that is killed: where it says that everything stands.
const READY_FILE: &str = "ADIT_LEAKS_READY";

/// Waits until none of these processes is there any more.
fn wait_until_gone(pids: &[u32]) -> Result<()> {
    ensure!(pids.len() >= 4, "two daemons and a guest are more than {pids:?}");
    let left = || pids.iter().copied().filter(|pid| is_running(*pid)).collect::<Vec<u32>>();
    wait_until("all daemons and guests have ended", SOON, || Ok(left().is_empty()))
        .with_context(|| format!("still there: {}", describe(&left())))
}

/// Starts one of each and calls `then` with the ids of all processes of theirs and the folders that they use.
fn with_everything(then: impl FnOnce(&[u32], &[PathBuf]) -> Result<()>) -> Result<()> {
    let sites = Sites::new()?;
    let configs = pair(Proof::Psk)?;
    let a = StrongSwan::start(&sites.a, Swan5, &configs.0)?;
    let b = StrongSwan::start(&sites.b, Swan6, &configs.1)?;
    let guest = Guest::boot("guest", Swan5)?;
    let inside = StrongSwan::start_in(&guest, &configs.1)?;
    let pids = [&sites.a, &sites.b, guest.backplane()].map(Netns::processes).concat();
    let folders = [a.folder(), b.folder(), inside.folder()].map(Path::to_owned);
    then(&pids, &folders)
}

#[test]
fn a_drop_leaves_neither_process_nor_file() -> Result<()> {
    let (mut left, mut used) = (Vec::new(), Vec::new());
    with_everything(|pids, folders| {
        (left, used) = (pids.to_vec(), folders.to_vec());
        Ok(())
    })?;
    wait_until_gone(&left)?;
    ensure!(!used.iter().any(|folder| folder.exists()), "{used:?}");
    Ok(())
}

#[test]
fn a_killed_test_leaves_no_process() -> Result<()> {
    if let Some(ready) = std::env::var_os(READY_FILE) {
        // This is the copy that the test below starts and kills.
        return with_everything(|pids, _| {
            fs::write(&ready, pids.iter().map(|pid| format!("{pid} ")).collect::<String>() + "\n")?;
            loop {
                std::thread::park();
            }
        });
    }
    let dir = tempfile::tempdir()?;
    let ready = dir.path().join("ready");
    let mut copy = Command::new(std::env::current_exe()?);
    copy.args(["--exact", "leaks::a_killed_test_leaves_no_process", "--nocapture"]).env(READY_FILE, &ready);
    // Whoever is killed removes no folders: they lie in one that is.
    copy.env("TMPDIR", dir.path());
    let mut copy = Process::start(&mut copy, dir.path().join("log"))?;
    let reported = |text: &str| {
        text.ends_with('\n').then(|| text.split_whitespace().map(|pid| pid.parse().ok()).collect::<Option<Vec<u32>>>())
    };
    let mut pids = None;
    copy.wait_until("started everything", SOON, |_| {
        pids = fs::read_to_string(&ready).ok().and_then(|text| reported(&text)).flatten();
        pids.is_some()
    })?;
    copy.signal(Signal::Kill)?;
    copy.wait(SOON)?;
    wait_until_gone(&pids.context("the list of processes")?)
}
