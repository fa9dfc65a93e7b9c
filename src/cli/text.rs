//! Words for people: everything that an agent, a repository or a log said is untrusted, and goes through [`safe`] first.

use chrono::{DateTime, Utc};

use crate::api::types::Money;
use crate::model::{Reconciliation, acts_on_terminal, printable, printable_lines, usd};

/// Longest agent text in one line of a timeline, in characters.
pub const LINE_MAX: usize = 200;

/// One line: control characters, line ends and invisible or reordering characters are shown as escapes.
pub fn safe(text: &str) -> String {
    printable(text)
}

/// Many lines: the same, with `\n` and `\t` kept.
pub fn safe_lines(text: &str) -> String {
    printable_lines(text)
}

/// One safe line of at most `max` characters, its first line only if there are more.
pub fn brief(text: &str, max: usize) -> String {
    let mut lines = text.trim().lines();
    let first = lines.next().unwrap_or_default();
    let mut out: String = safe(first).chars().take(max).collect();
    if lines.next().is_some() || safe(first).chars().nth(max).is_some() {
        out.push('…');
    }
    out
}

/// JSON text in which no character can act on a terminal; the value is unchanged.
pub fn safe_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if acts_on_terminal(c) {
            let mut units = [0u16; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `$0.02`, with as many places as it needs.
pub fn money(m: &Money) -> String {
    format!("${}", safe(&m.usd))
}

/// A cost in words: known, a lower bound that names the models without a price, unknown, or nothing to say.
pub fn cost(known: Option<&Money>, unpriced: u64, models: &std::collections::BTreeSet<String>) -> String {
    let named = || unpriced_models(models);
    match (known, unpriced) {
        (Some(c), 0) => money(c),
        (Some(c), n) => format!("at least {}; {} without a known price{}", money(c), responses(n), named()),
        (None, 0) => String::new(),
        (None, n) => format!("unknown: {} without a known price{}", responses(n), named()),
    }
}

/// The agent's own total, and how ours stands to it.
pub fn reconciled(r: &Reconciliation) -> String {
    let than = match r.difference {
        Some(_) if r.agrees => format!("the same as ours, to within {}", usd(r.tolerance)),
        Some(d) if d < 0 => format!("ours is {} less", usd(d.unsigned_abs())),
        Some(d) => format!("ours is {} more", usd(d.unsigned_abs())),
        None => "ours is not known".to_owned(),
    };
    let why = r.why.as_deref().map(|w| format!(": {}", brief(w, 300))).unwrap_or_default();
    format!("{}; {than}{why}", usd(r.theirs))
}

fn responses(n: u64) -> String {
    if n == 1 { "1 response".to_owned() } else { format!("{} responses", count(n)) }
}

fn unpriced_models(models: &std::collections::BTreeSet<String>) -> String {
    let names: Vec<String> = models.iter().map(|m| brief(m, 60)).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

/// The same in a narrow cell: `$0.02`, `≥ $0.02`, `unknown`, or `-`.
pub fn cost_cell(known: Option<&Money>, unpriced: u64) -> String {
    match (known, unpriced) {
        (Some(c), 0) => money(c),
        (Some(c), _) => format!("≥ {}", money(c)),
        (None, 0) => "-".to_owned(),
        (None, _) => "unknown".to_owned(),
    }
}

/// `950`, `12.3k`, `4.56M`, `7.89G`: three digits at least, cut, never rounded up.
pub fn short(n: u64) -> String {
    for (unit, size) in [("T", 1_000_000_000_000u64), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)] {
        if n >= size {
            let (whole, part) = (n / size, n % size);
            return match whole {
                0..10 => format!("{whole}.{:02}{unit}", part / (size / 100)),
                10..100 => format!("{whole}.{}{unit}", part / (size / 10)),
                _ => format!("{whole}{unit}"),
            };
        }
    }
    n.to_string()
}

/// `850 us`, `12 ms`, `3.4 s`, `5 min`.
pub fn micros(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        10_000..1_000_000 => format!("{} ms", us / 1000),
        1_000_000..120_000_000 => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
        _ => format!("{} min", us / 60_000_000),
    }
}

/// `12 KB`, `3.4 MB` from KiB.
pub fn kib(n: u64) -> String {
    if n < 1024 { format!("{n} KB") } else { format!("{}.{} MB", n / 1024, n % 1024 * 10 / 1024) }
}

/// `4s`, `3m`, `2h`, `5d` since an RFC 3339 time; the text itself when it is not one.
pub fn age(at: &str, now_ms: i64) -> String {
    let Ok(t) = DateTime::parse_from_rfc3339(at) else { return safe(at) };
    let s = (now_ms - t.with_timezone(&Utc).timestamp_millis()).max(0) / 1000;
    match s {
        0..120 => format!("{s}s"),
        120..7_200 => format!("{}m", s / 60),
        7_200..172_800 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_agent_cannot_move_the_cursor_or_reorder_text() {
        assert_eq!(safe("a\x1b[2Jb\r\nc\u{9b}1m\u{202e}x"), "a\\x1b[2Jb\\r\\nc\\x9b1m\\u{202e}x");
        assert_eq!(safe_lines("a\n\tb\x07"), "a\n\tb\\x07");
        assert_eq!(brief("one\ntwo", 10), "one…");
        assert_eq!(brief("abcdef", 3), "abc…");
    }

    #[test]
    fn amounts_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1_000, 12_345, 999_999, 4_567_890].map(short), ["0", "999", "1.00k", "12.3k", "999k", "4.56M"]);
        assert_eq!([7, 1_250, 12_000, 3_400_000, 300_000_000].map(micros), ["7 us", "1.2 ms", "12 ms", "3.4 s", "5 min"]);
        assert_eq!([12, 3_482].map(kib), ["12 KB", "3.4 MB"]);
        assert_eq!(age("2026-01-01T00:00:00.000Z", 1_767_225_600_000 + 130_000), "2m");
    }

    proptest! {
        #[test]
        fn safe_text_has_no_unsafe_character(text in any::<String>()) {
            prop_assert!(!safe(&text).chars().any(acts_on_terminal));
            prop_assert!(!brief(&text, 20).chars().any(acts_on_terminal));
        }

        #[test]
        fn safe_json_means_the_same(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let escaped = safe_json(&json);
            prop_assert!(!escaped.chars().any(acts_on_terminal));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
        }
    }
}
