//! The machine that capabilities reach: this one, or one that stands in for it where cases are judged.
//!
//! Invariant: both keys of a use are checked, and its limits counted, by the same code before any machine is asked.
//!
//! Called by the bindings (`v0_1::capabilities`), through `Surroundings`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What is beyond a plugin's memory. What is not given is as on this machine.
pub trait Machine: Send + Sync {
    /// An environment variable of the host.
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    /// Wall time, in milliseconds.
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    /// Time that never goes back, from an arbitrary moment.
    fn monotonic_ns(&self) -> u64 {
        static BEGUN: OnceLock<Instant> = OnceLock::new();
        u64::try_from(BEGUN.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Fills with random bytes; the error says why it cannot.
    fn random(&self, bytes: &mut [u8]) -> Result<(), String> {
        getrandom::fill(bytes).map_err(|e| e.to_string())
    }

    /// The folder that stands for `/`, where it is another.
    fn root(&self) -> Option<PathBuf> {
        None
    }

    /// What answers in the network's place; none where the network itself does.
    fn answer(&self, _request: &Sent<'_>) -> Option<Result<Canned, NoAnswer>> {
        None
    }
}

/// This machine.
pub struct ThisMachine;

impl Machine for ThisMachine {}

/// A request that was granted and would be sent now.
#[derive(Debug)]
pub struct Sent<'a> {
    pub method: &'a str,
    pub url: &'a str,
    pub body: &'a [u8],
}

/// A response that was prepared.
#[derive(Debug, Clone)]
pub struct Canned {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug, Clone)]
pub enum NoAnswer {
    Timeout,
    /// The name leads to an address that is not public.
    Forbidden(String),
    Unavailable(String),
}
