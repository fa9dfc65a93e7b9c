//! What a session may use: options of `run`.

use clap::Args;

use crate::model::UsageLimits;

#[derive(Debug, Args, Default)]
pub struct LimitArgs {
    /// Dollars it may cost, as in 2.50: it is stopped between calls when they are spent, with the outcome `budget`
    #[arg(long, value_name = "USD", value_parser = dollars)]
    pub max_cost: Option<u64>,
    /// Tokens of all kinds that it may use, as in 500000, 500k or 2M
    #[arg(long, value_name = "N", value_parser = amount)]
    pub max_tokens: Option<u64>,
    /// Prompts that it may answer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_turns: Option<u64>,
    /// How long it may take from its start, waiting included: 90s, 30m, 2h or 1d
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub max_time: Option<u64>,
    /// These limits count all sessions below this one, too; when one is passed, the whole tree is stopped
    #[arg(long)]
    pub tree_limits: bool,
}

impl LimitArgs {
    pub const fn limits(&self) -> UsageLimits {
        let (cost_nanousd, tokens, turns, time_ms) = (self.max_cost, self.max_tokens, self.max_turns, self.max_time);
        UsageLimits { cost_nanousd, tokens, turns, time_ms, tree: self.tree_limits }
    }
}

/// Dollars with at most 9 decimals as billionths; nothing is rounded.
fn dollars(text: &str) -> Result<u64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let read = || {
        if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        let parts: u64 = format!("{fraction:0<9}").parse().ok()?;
        whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(parts)
    };
    read().ok_or_else(|| "expected dollars as in 2.50, with at most 9 decimals".to_owned())
}

/// A whole number, with `k` or `M` for thousands or millions.
fn amount(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .ok_or_else(|| "expected a whole number as in 500000, 500k or 2M".to_owned())
}

/// Milliseconds of `90s`, `30m`, `2h`, `1d`.
pub(super) fn time(text: &str) -> Result<u64, String> {
    let units = [('s', 1_000u64), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000)];
    let read = units.iter().find_map(|(unit, ms)| text.strip_suffix(*unit)?.parse::<u64>().ok()?.checked_mul(*ms));
    read.filter(|ms| *ms > 0 && *ms <= 365 * 86_400_000).ok_or_else(|| "expected 90s, 30m, 2h or 1d, at most 365d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_or_refused() {
        assert_eq!(
            [dollars("2.50"), dollars("0.000000001"), dollars("3")].map(Result::ok),
            [Some(2_500_000_000), Some(1), Some(3_000_000_000)]
        );
        assert_eq!([amount("500k"), amount("2M"), amount("7")].map(Result::ok), [Some(500_000), Some(2_000_000), Some(7)]);
        assert_eq!([time("90s"), time("30m"), time("1d")].map(Result::ok), [Some(90_000), Some(1_800_000), Some(86_400_000)]);
        for bad in ["", "-1", "1e3", ".5", "1.", "0.0000000001", "99999999999999"] {
            assert!(dollars(bad).is_err(), "{bad}");
        }
        for bad in ["", "k", "1.5k", "-3", "99999999999999999999"] {
            assert!(amount(bad).is_err(), "{bad}");
        }
        for bad in ["", "5", "0s", "400d", "1.5h", "h"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
