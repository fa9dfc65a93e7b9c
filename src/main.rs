//! `beadle`: daemon and command line in one program.

use std::process::ExitCode;

fn main() -> ExitCode {
    beadle::cli::main(std::env::args_os())
}
