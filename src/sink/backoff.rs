//! How long to wait after a try that did not work. Pure; the chance comes in as a number.

use std::time::Duration;

/// The wait after the first try.
const FIRST_MS: u64 = 250;
/// The shortest wait that a sink may ask for.
const ASKED_MIN_MS: u64 = 50;
/// The longest.
pub const ASKED_MAX_MS: u64 = 3_600_000;

/// Doubles with each try up to `max_ms`; up to half of it is left to chance (0 to 65,535), so that sinks that failed together come
/// back apart.
pub fn pause(tries: u32, max_ms: u64, chance: u16) -> Duration {
    let base = FIRST_MS.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(max_ms);
    let half = base / 2;
    Duration::from_millis(half + half * u64::from(chance) / u64::from(u16::MAX))
}

/// What a sink asked for, within bounds.
pub fn asked(ms: u64) -> Duration {
    Duration::from_millis(ms.clamp(ASKED_MIN_MS, ASKED_MAX_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_cap_and_differ() {
        for (tries, base) in [(1, 250), (2, 500), (5, 4_000), (9, 60_000), (4_000_000_000, 60_000)] {
            assert_eq!(pause(tries, 60_000, 0).as_millis(), base / 2, "{tries}");
            assert_eq!(pause(tries, 60_000, u16::MAX).as_millis(), base, "{tries}");
        }
        assert_eq!((asked(0).as_millis(), asked(u64::MAX).as_millis()), (50, 3_600_000));
    }
}
