//! The command `adit`. All of it is in the library, so that tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    adit_controlplane::cli::main()
}
