//! Named places at which a test makes the daemon die as by `kill -9`: `BEADLE_FAILPOINT=<name>` or `<name>:<n>` for the nth visit.
//!
//! The names follow a call's life: `requested`, `decided`, `appended`, `synced`, `sent`, `taken`, `ran`, `reported`.
//! Without the variable a visit is one atomic load. Nothing but dying can be asked for, and only by who starts the daemon.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static ARMED: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();

/// Dies here if the environment asks for it.
pub fn hit(name: &str) {
    let armed = ARMED.get_or_init(|| {
        let v = std::env::var("BEADLE_FAILPOINT").ok()?;
        let (name, n) = v.split_once(':').map_or((v.as_str(), 1), |(a, b)| (a, b.parse().unwrap_or(1)));
        Some((name.to_owned(), AtomicU64::new(n)))
    });
    if let Some((at, left)) = armed
        && at == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        std::process::abort();
    }
}
