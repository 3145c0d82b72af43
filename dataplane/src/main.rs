//! `adit-dataplane`: the process. All it does is in the library, in the order of a packet.

use std::process::ExitCode;

use adit_dataplane::config::Config;
use adit_dataplane::{log, start};
use clap::Parser;

fn main() -> ExitCode {
    match start::run(&Config::parse()) {
        Ok(code) => code,
        Err(error) => {
            log::error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
