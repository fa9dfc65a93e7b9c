//! What a plugin says: a bounded, rate-limited ring in memory.
//!
//! Invariants: at most [`LINES`] lines of [`LINE`] bytes; at most [`RATE`] lines a second on average; what was left out
//! is counted. Text is as the guest gave it, so whoever shows it escapes it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use super::kept::KeptLogs;
use crate::model::Clock;

/// Lines kept.
pub const LINES: usize = 256;
/// Longest line, in bytes; the rest is cut off.
pub const LINE: usize = 1 << 10;
/// Secrets left out of a log.
const HIDDEN: usize = 256;
/// Lines a second, and also how many may come at once.
pub const RATE: u64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// One line of a plugin's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Wall milliseconds.
    pub at: i64,
    pub level: Level,
    pub text: String,
}

/// The log of one plugin.
pub struct PluginLog {
    clock: Arc<dyn Clock>,
    ring: Mutex<Ring>,
    /// Secrets that the plugin was given.
    hidden: RwLock<Vec<String>>,
    /// Where its lines are kept beyond its life, and under which name.
    keep: Option<(KeptLogs, String)>,
}

#[derive(Default)]
struct Ring {
    lines: VecDeque<Line>,
    dropped: u64,
    /// Thousandths of a line that may still be written, and the boot time up to which they were counted.
    credit: u64,
    counted: u64,
}

impl PluginLog {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let ring = Ring { credit: RATE * 1000, counted: clock.boot_ms(), ..Ring::default() };
        Self { clock, ring: Mutex::new(ring), hidden: RwLock::default(), keep: None }
    }

    /// The same with its lines kept.
    pub(super) fn kept(self, logs: Option<&KeptLogs>, name: &str) -> Self {
        Self { keep: logs.map(|l| (l.clone(), name.to_owned())), ..self }
    }

    /// The lines kept, oldest first, and how many were left out since the start.
    pub fn read(&self) -> (Vec<Line>, u64) {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        (ring.lines.iter().cloned().collect(), ring.dropped)
    }

    /// From now on this text is left out of the lines. A plugin's grants bound how many there are, but for values that change.
    pub(super) fn hide(&self, secret: &str) {
        let mut hidden = self.hidden.write().unwrap_or_else(PoisonError::into_inner);
        if !hidden.iter().any(|h| h == secret) {
            if hidden.len() >= HIDDEN {
                hidden.remove(0);
            }
            hidden.push(secret.to_owned());
        }
    }

    /// A text without the secrets that the plugin was given.
    pub(super) fn shown(&self, text: &str) -> String {
        let hidden = self.hidden.read().unwrap_or_else(PoisonError::into_inner);
        // why before the cut: a secret that is cut in two is no longer known as one.
        hidden.iter().fold(text.to_owned(), |t, h| if t.contains(h) { t.replace(h, "[secret masked]") } else { t })
    }

    pub(super) fn write(&self, level: Level, text: &str) {
        let now = self.clock.boot_ms();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.saturating_sub(ring.counted).saturating_mul(RATE);
        ring.credit = ring.credit.saturating_add(earned).min(RATE * 1000);
        ring.counted = now;
        if ring.credit < 1000 {
            ring.dropped += 1;
            return;
        }
        ring.credit -= 1000;
        if ring.lines.len() == LINES {
            ring.lines.pop_front();
            ring.dropped += 1;
        }
        let mut text = self.shown(text);
        text.truncate(text.floor_char_boundary(LINE));
        let line = Line { at: self.clock.wall_ms(), level, text };
        if let Some((logs, name)) = &self.keep {
            logs.take(name, &line, now);
        }
        ring.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Still(AtomicU64);

    impl Clock for Still {
        fn wall_ms(&self) -> i64 {
            7
        }
        fn boot_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_flood_is_cut_to_the_rate_and_counted() {
        let clock = Arc::new(Still::default());
        let log = PluginLog::new(clock.clone());
        (0..1000).for_each(|_| log.write(Level::Info, "x"));
        assert_eq!((log.read().0.len(), log.read().1), (100, 900));
        clock.0.store(50, Ordering::Relaxed);
        (0..1000).for_each(|_| log.write(Level::Info, "y"));
        assert_eq!(log.read().0.len(), 105);
        clock.0.store(10_000, Ordering::Relaxed);
        (0..100).for_each(|_| log.write(Level::Info, "z"));
        clock.0.store(20_000, Ordering::Relaxed);
        (0..100).for_each(|_| log.write(Level::Info, "z"));
        assert_eq!(log.read().0.len(), LINES);
    }

    #[test]
    fn a_long_line_is_cut_at_a_character() {
        let log = PluginLog::new(Arc::new(Still::default()));
        log.write(Level::Warn, &"é".repeat(LINE));
        let line = log.read().0.remove(0);
        assert_eq!((line.text.len(), line.at, line.level), (LINE, 7, Level::Warn));
    }
}
