//! `adit-bench`: measures Adit and its parts beside others, prints a table, and writes the figures as JSON.

use adit_bench::tunnel::{self, TunnelArgs};
use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Measures Adit and its parts beside others.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Tunnel(TunnelArgs),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Tunnel(args) => tunnel::run(&args),
    }
}
