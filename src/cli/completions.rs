//! Completion scripts.

use super::exit::Exit;
use super::{Context, Outcome, command};

/// Prints the script for one shell.
pub fn print(cx: &mut Context, shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "beadle", &mut script);
    cx.printer.octets(&script)?;
    Ok(Exit::Done)
}
