//! Tokens and money. Unknown is not zero: a missing price gives no cost, never a cost of nothing.

use serde::{Deserialize, Serialize};

/// Money in billionths of a US dollar.
pub type Nanousd = u64;

/// Most tokens of one kind that one report is believed: sums over a session stay far from the end of their numbers.
pub const TOKENS_MAX: u64 = 1_000_000_000_000;

/// Parent of usage that belongs to no message of the stream: the agent's own totals tell of it, and of nothing else.
pub const UNATTRIBUTED: &str = "unattributed";
/// The parent of what sub-agents did whose call is not known: an imported record does not name it.
pub const SIDECHAIN: &str = "sidechain";

/// `$0.02`: dollars with as many places as they need, two at least.
pub fn usd(nanousd: Nanousd) -> String {
    let fraction = format!("{:09}", nanousd % 1_000_000_000);
    let kept = fraction.trim_end_matches('0').len().max(2);
    format!("${}.{}", nanousd / 1_000_000_000, &fraction[..kept])
}

/// Token counts of model responses, normalised over agents: `input` excludes what was read from or written to a cache, `output`
/// includes reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
    /// Part of `cache_write` that is kept for an hour, where the agent tells it; the rest is kept for five minutes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_1h: u64,
    /// Part of `output`, where the agent tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<u64>,
}

impl Usage {
    /// Saturating sum; reasoning is known as soon as one side knows it.
    pub fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write: self.cache_write.saturating_add(other.cache_write),
            cache_write_1h: self.cache_write_1h.saturating_add(other.cache_write_1h),
            reasoning: match (self.reasoning, other.reasoning) {
                (None, None) => None,
                (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
            },
        }
    }

    /// What is in `self` and not in `known`, kind by kind; never below zero.
    pub fn beyond(self, known: Self) -> Self {
        let write = self.cache_write.saturating_sub(known.cache_write);
        Self {
            input: self.input.saturating_sub(known.input),
            output: self.output.saturating_sub(known.output),
            cache_read: self.cache_read.saturating_sub(known.cache_read),
            cache_write: write,
            cache_write_1h: self.cache_write_1h.saturating_sub(known.cache_write_1h).min(write),
            reasoning: self.reasoning.map(|r| r.saturating_sub(known.reasoning.unwrap_or(0))),
        }
    }

    /// Field-wise maximum: a later report of the same message never lowers recorded usage.
    pub fn max(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            output: self.output.max(other.output),
            cache_read: self.cache_read.max(other.cache_read),
            cache_write: self.cache_write.max(other.cache_write),
            cache_write_1h: self.cache_write_1h.max(other.cache_write_1h),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }

    /// Each kind at most [`TOKENS_MAX`], and parts at most their whole: what an agent reports is data.
    pub fn capped(self) -> Self {
        let (output, cache_write) = (self.output.min(TOKENS_MAX), self.cache_write.min(TOKENS_MAX));
        Self {
            input: self.input.min(TOKENS_MAX),
            output,
            cache_read: self.cache_read.min(TOKENS_MAX),
            cache_write,
            cache_write_1h: self.cache_write_1h.min(cache_write),
            reasoning: self.reasoning.map(|r| r.min(output)),
        }
    }

    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output).saturating_add(self.cache_read).saturating_add(self.cache_write)
    }
}

// why by reference: serde calls it so.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_repeated_report_never_lowers_usage() {
        let a = Usage { output: 40, ..Usage::default() };
        let b = Usage { output: 1, input: 3, ..Usage::default() };
        assert_eq!(a.max(b), Usage { output: 40, input: 3, ..Usage::default() });
    }

    #[test]
    fn what_an_agent_reports_is_capped_and_its_parts_fit() {
        let u = Usage { output: 5, cache_write: 3, cache_write_1h: 9, reasoning: Some(9), input: u64::MAX, ..Usage::default() }.capped();
        assert_eq!((u.input, u.cache_write_1h, u.reasoning), (TOKENS_MAX, 3, Some(5)));
    }

    fn any_usage() -> impl Strategy<Value = Usage> {
        let n = || 0u64..1000;
        (n(), n(), n(), n(), n(), proptest::option::of(n())).prop_map(|(input, output, cache_read, cache_write, hour, reasoning)| {
            Usage { input, output, cache_read, cache_write, cache_write_1h: hour, reasoning }.capped()
        })
    }

    proptest! {
        /// However a message's counts are repeated, what is recorded as differences adds up to the largest of each.
        #[test]
        fn differences_add_up_to_the_maximum(reports in proptest::collection::vec(any_usage(), 1..6)) {
            let (mut known, mut sum) = (Usage::default(), Usage::default());
            for r in &reports {
                let grown = known.max(*r);
                sum = sum.plus(grown.beyond(known));
                known = grown;
            }
            prop_assert_eq!((sum.input, sum.output, sum.cache_read, sum.cache_write), (known.input, known.output, known.cache_read, known.cache_write));
            prop_assert_eq!(sum.reasoning.unwrap_or(0), known.reasoning.unwrap_or(0));
        }
    }
}
