//! Wrong answers cost time: after a few, each further one doubles the wait of whoever it was given for.

use std::collections::HashMap;

/// Wrong answers that cost nothing.
const FREE: u32 = 3;
/// Longest wait.
const WAIT_MAX_MS: u64 = 60_000;
/// After so long without a wrong answer all is forgotten.
const FORGET_MS: u64 = 600_000;
/// Most names remembered; the one that may go on soonest is forgotten first.
const REMEMBERED: usize = 1000;

#[derive(Debug, Default, Clone, Copy)]
struct Past {
    wrong: u32,
    last_ms: u64,
}

impl Past {
    fn free_at(self) -> u64 {
        let doublings = self.wrong.saturating_sub(FREE);
        let wait = if doublings == 0 { 0 } else { (1000u64 << (doublings - 1).min(16)).min(WAIT_MAX_MS) };
        self.last_ms + wait
    }
}

/// Counts wrong answers by name.
#[derive(Debug, Default)]
pub struct Throttle(HashMap<String, Past>);

impl Throttle {
    /// Milliseconds to wait before `who` is heard again; 0 for now.
    pub fn wait_ms(&self, who: &str, now_ms: u64) -> u64 {
        self.0.get(who).map_or(0, |p| p.free_at().saturating_sub(now_ms))
    }

    pub fn wrong(&mut self, who: &str, now_ms: u64) {
        self.0.retain(|_, p| now_ms.saturating_sub(p.last_ms) < FORGET_MS);
        if self.0.len() >= REMEMBERED
            && !self.0.contains_key(who)
            && let Some(soonest) = self.0.iter().min_by_key(|(_, p)| p.free_at()).map(|(k, _)| k.clone())
        {
            self.0.remove(&soonest);
        }
        let p = self.0.entry(who.to_owned()).or_default();
        *p = Past { wrong: p.wrong.saturating_add(1), last_ms: now_ms };
    }

    pub fn right(&mut self, who: &str) {
        self.0.remove(who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_are_each_ones_own() {
        let mut t = Throttle::default();
        let waits: Vec<u64> = (0..12)
            .map(|_| {
                t.wrong("a", 5);
                t.wait_ms("a", 5)
            })
            .collect();
        assert_eq!(waits, [0, 0, 0, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]);
        assert_eq!((t.wait_ms("b", 5), t.wait_ms("a", 60_005)), (0, 0));
        t.right("a");
        assert_eq!(t.wait_ms("a", 5), 0);
        for n in 0..2000 {
            t.wrong(&n.to_string(), 5);
        }
        assert!(t.0.len() <= REMEMBERED);
    }
}
