//! `adit-bench`: measures Adit and its parts beside others, prints a table, and writes the figures as JSON.

use std::process::ExitCode;

use adit_bench::crypto::{self, CryptoArgs};
use adit_bench::handshake::{self, HandshakeArgs};
use adit_bench::io::{self, IoArgs};
use adit_bench::scale::{self, ScaleArgs};
use adit_bench::tunnel::{self, TunnelArgs};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about = "Measures Adit and its parts beside others.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Scale(ScaleArgs),
    Crypto(CryptoArgs),
    Tunnel(TunnelArgs),
    Handshake(HandshakeArgs),
    Io(IoArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Scale(args) => scale::run(&args),
        Command::Crypto(args) => crypto::run(args),
        Command::Tunnel(args) => tunnel::run(&args),
        Command::Handshake(args) => handshake::run(&args),
        Command::Io(args) => io::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("adit-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
