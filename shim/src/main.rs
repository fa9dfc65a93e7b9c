//! `beadle-shim`: the parent of one agent (`session`), and the client that agents' hooks run (`hook <agent>`).
//!
//! Invariants:
//! - one thread; the session loop never blocks on the daemon, on the agent or on a full disk;
//! - the agent's stdio is made of socketpairs: nothing that an agent may run can reopen them through `/proc`;
//! - what the agent said is written before it is told of, and never dropped while the agent is gated;
//! - a hook whose decision is not known prints nothing and exits 2, which every agent takes for *blocked*.
//!
//! Started by the daemon (`session`, with the spec on a socket as stdin) and by agents (`hook`).

mod agent;
mod hook;
mod input;
mod link;
mod oom;
mod record;
mod segment;
mod session;
mod setup;
mod stream;
mod sys;
mod tree;
#[path = "../../src/wire.rs"]
#[allow(dead_code, reason = "each side uses its half of the wire")]
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let verb = args.next().unwrap_or_default();
    match (verb.to_str(), args.next(), args.next()) {
        (Some("session"), None, _) => session::main(),
        (Some("hook"), Some(agent), option) => hook::main(&agent, option.into_iter().chain(args)),
        (Some("--version"), None, _) => {
            sys::write_all_to(1, concat!("beadle-shim ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
            ExitCode::SUCCESS
        }
        _ => {
            sys::write_all_to(2, b"beadle-shim: usage: beadle-shim hook <agent> [--socket PATH] [--deadline-ms N] [--wait-ms N] [--observe]  (`session` is for the daemon)\n");
            ExitCode::from(2)
        }
    }
}
