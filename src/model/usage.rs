//! Tokens and money. Unknown is not zero: a missing price gives no cost, never a cost of nothing.

use serde::{Deserialize, Serialize};

/// Money in billionths of a US dollar: every published price per million tokens is a whole number of them per token.
pub type Nanousd = u64;

/// Token counts of model responses, normalised over agents: `input` excludes what was read from or written to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
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
            reasoning: match (self.reasoning, other.reasoning) {
                (None, None) => None,
                (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
            },
        }
    }

    /// Field-wise maximum: a later report of the same message never lowers recorded usage.
    pub fn max(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            output: self.output.max(other.output),
            cache_read: self.cache_read.max(other.cache_read),
            cache_write: self.cache_write.max(other.cache_write),
            reasoning: self.reasoning.max(other.reasoning),
        }
    }

    pub fn total(self) -> u64 {
        self.input.saturating_add(self.output).saturating_add(self.cache_read).saturating_add(self.cache_write)
    }
}

/// Price of one model, in [`Nanousd`] per token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// A prefix of the model's name; the longest that fits wins.
    pub model: String,
    pub input: Nanousd,
    pub output: Nanousd,
    pub cache_read: Nanousd,
    pub cache_write: Nanousd,
}

/// Prices by model, read from a data file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTable {
    /// When and where the prices were read.
    pub source: String,
    pub prices: Vec<Price>,
}

impl PriceTable {
    /// The table inside the binary.
    pub fn embedded() -> Self {
        // why: the file is part of the source and its parsing is a test; an unreadable table means unknown prices.
        serde_json::from_str(include_str!("prices.json")).unwrap_or_default()
    }

    /// Cost of `usage` on `model`, or `None` when the model has no price.
    pub fn cost(&self, model: &str, usage: Usage) -> Option<Nanousd> {
        let p = self.prices.iter().filter(|p| model.starts_with(&p.model)).max_by_key(|p| p.model.len())?;
        let part = |tokens: u64, price: Nanousd| tokens.saturating_mul(price);
        Some(
            part(usage.input, p.input)
                .saturating_add(part(usage.output, p.output))
                .saturating_add(part(usage.cache_read, p.cache_read))
                .saturating_add(part(usage.cache_write, p.cache_write)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_table_gives_what_claude_code_itself_computes() {
        // captures: 3,600 in, 102 out, 3,000 cache read, 150 cache write = 0.0229875 USD.
        let u = Usage { input: 3600, output: 102, cache_read: 3000, cache_write: 150, reasoning: None };
        assert_eq!(PriceTable::embedded().cost("claude-opus-4-8", u), Some(22_987_500));
        assert_eq!(PriceTable::embedded().cost("nobody-knows-1", u), None);
    }

    #[test]
    fn a_repeated_report_never_lowers_usage() {
        let a = Usage { output: 40, ..Usage::default() };
        let b = Usage { output: 1, input: 3, ..Usage::default() };
        assert_eq!(a.max(b), Usage { output: 40, input: 3, ..Usage::default() });
    }
}
