//! Time and randomness as values, so that tests can hold them still.

use chrono::{DateTime, SecondsFormat, Utc};

/// Where time comes from. Wall time is for people; order is `seq`, durations use the boot clock.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn wall_ms(&self) -> i64;
    /// Milliseconds since boot, sleep included; never goes backwards.
    fn boot_ms(&self) -> u64;
}

/// Where unpredictable bytes come from (ids, salts, keys).
pub trait Entropy: Send + Sync {
    /// Fills `buf` whole. An operating system that cannot is a broken machine: implementations may panic.
    fn fill(&self, buf: &mut [u8]);
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> i64 {
        Utc::now().timestamp_millis()
    }

    fn boot_ms(&self) -> u64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
    }
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, buf: &mut [u8]) {
        // why: getrandom(2) cannot fail after boot on a supported kernel; going on without it would be worse.
        getrandom::fill(buf).expect("getrandom(2) failed: the operating system gives no randomness");
    }
}

/// RFC 3339 in UTC with milliseconds; out-of-range values print as the number itself.
pub fn format_ms(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms).map_or_else(|| ms.to_string(), |t| t.to_rfc3339_opts(SecondsFormat::Millis, true))
}
