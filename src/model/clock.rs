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

/// A moment that was told by the wall clock and is held by the boot clock, so that a wall clock that is set neither brings nor puts off what
/// is due. Only for as long as this process runs: the next one takes the wall clock's word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steady {
    wall_ms: i64,
    /// Before 0 where it lies before the machine's start.
    boot_ms: i64,
}

impl Steady {
    pub fn of(wall_ms: i64, clock: &dyn Clock) -> Self {
        Self { wall_ms, boot_ms: boot(clock).saturating_add(wall_ms.saturating_sub(clock.wall_ms())) }
    }

    /// Holds `wall_ms` from now on, unless it does already.
    pub fn hold(slot: &mut Option<Self>, wall_ms: Option<i64>, clock: &dyn Clock) {
        if slot.map(|m| m.wall_ms) != wall_ms {
            *slot = wall_ms.map(|at| Self::of(at, clock));
        }
    }

    /// As it was told.
    pub const fn wall_ms(self) -> i64 {
        self.wall_ms
    }

    /// Milliseconds until then; 0 when it is over.
    pub fn left_ms(self, clock: &dyn Clock) -> u64 {
        self.left_at(clock.boot_ms())
    }

    /// The same, as the boot clock says.
    pub fn left_at(self, boot_ms: u64) -> u64 {
        u64::try_from(self.boot_ms.saturating_sub(i64::try_from(boot_ms).unwrap_or(i64::MAX))).unwrap_or(0)
    }

    /// Milliseconds since then; 0 before it.
    pub fn passed_ms(self, clock: &dyn Clock) -> u64 {
        u64::try_from(boot(clock).saturating_sub(self.boot_ms)).unwrap_or(0)
    }

    /// What a wall clock says now that has not been set since.
    pub fn now_ms(self, clock: &dyn Clock) -> i64 {
        self.wall_ms.saturating_add(boot(clock).saturating_sub(self.boot_ms))
    }
}

fn boot(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.boot_ms()).unwrap_or(i64::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    struct At(i64, u64);

    impl Clock for At {
        fn wall_ms(&self) -> i64 {
            self.0
        }

        fn boot_ms(&self) -> u64 {
            self.1
        }
    }

    #[test]
    fn a_clock_that_is_set_moves_no_moment() {
        let due = Steady::of(1_500, &At(1_000, 70));
        for wall in [1_100, 999_999, -999_999] {
            let then = At(wall, 170);
            assert_eq!((due.left_ms(&then), due.passed_ms(&then), due.now_ms(&then)), (400, 0, 1_100), "{wall}");
        }
        let later = At(0, 1_070);
        assert_eq!((due.left_ms(&later), due.passed_ms(&later), due.now_ms(&later)), (0, 500, 2_000));
        let before = Steady::of(-5_000, &At(0, 10));
        assert_eq!((before.passed_ms(&At(0, 10)), before.left_ms(&At(0, 10))), (5_000, 0), "it lies before the machine's start");
    }

    #[test]
    fn another_stamp_is_another_moment() {
        let mut slot = None;
        Steady::hold(&mut slot, Some(100), &At(50, 0));
        let first = slot;
        Steady::hold(&mut slot, Some(100), &At(5_000, 1));
        assert_eq!(slot, first);
        Steady::hold(&mut slot, Some(200), &At(150, 1));
        assert_eq!(slot.map(|m| (m.wall_ms(), m.left_ms(&At(0, 1)))), Some((200, 50)));
        Steady::hold(&mut slot, None, &At(0, 2));
        assert_eq!(slot, None);
    }
}
