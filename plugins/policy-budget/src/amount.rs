//! Amounts as people write them, and as reasons show them: counts, spans of time, money to the billionth of a dollar.
//!
//! Invariant: nothing is rounded; what cannot be held exactly is an error. Called by `config` and `judge`.

use serde_json::Value;

/// Billionths in a dollar.
const NANO: u64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Count,
    Millis,
    Nanousd,
}

impl Unit {
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Count => "a whole number, or an object with soft, hard or both",
            Self::Millis => "seconds, or a text such as \"90s\", \"30m\", \"2h\", \"1d\", or an object with soft, hard or both",
            Self::Nanousd => "dollars as a number or a text such as \"12.50\" (at most 9 decimals), or an object with soft, hard or both",
        }
    }

    pub fn read(self, value: &Value) -> Option<u64> {
        match (self, value) {
            (Self::Count, v) => v.as_u64(),
            (Self::Millis, Value::String(s)) => {
                let unit = s.chars().next_back()?;
                let seconds = match unit {
                    's' => 1,
                    'm' => 60,
                    'h' => 3_600,
                    'd' => 86_400,
                    _ => return None,
                };
                digits(&s[..s.len() - 1])?.checked_mul(seconds * 1_000)
            }
            (Self::Millis, v) => v.as_u64()?.checked_mul(1_000),
            (Self::Nanousd, Value::String(s)) => money(s),
            // why by its text: that is the number as it was written, a binary fraction is not.
            (Self::Nanousd, Value::Number(n)) => money(&n.to_string()),
            (Self::Nanousd, _) => None,
        }
    }

    pub fn show(self, n: u64) -> String {
        match self {
            Self::Count => n.to_string(),
            Self::Millis => {
                let (h, m, s) = (n / 3_600_000, n / 60_000 % 60, n / 1_000 % 60);
                match (h, m) {
                    (0, 0) => format!("{s} s"),
                    (0, _) => format!("{m} min {s} s"),
                    _ => format!("{h} h {m} min"),
                }
            }
            Self::Nanousd => {
                let fraction = format!("{:09}", n % NANO);
                let cut = fraction.trim_end_matches('0');
                format!("${}.{cut:0<2}", n / NANO)
            }
        }
    }
}

fn digits(s: &str) -> Option<u64> {
    (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok())?
}

fn money(s: &str) -> Option<u64> {
    let (whole, fraction) = s.split_once('.').unwrap_or((s, "0"));
    if fraction.len() > 9 {
        return None;
    }
    let parts = digits(fraction)?.checked_mul(10u64.pow(9 - u32::try_from(fraction.len()).ok()?))?;
    digits(whole)?.checked_mul(NANO)?.checked_add(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn amounts_are_exact_or_refused() {
        for (unit, value, want) in [
            (Unit::Count, json!(5), Some(5)),
            (Unit::Count, json!(-1), None),
            (Unit::Count, json!(1.5), None),
            (Unit::Count, json!("5"), None),
            (Unit::Millis, json!(90), Some(90_000)),
            (Unit::Millis, json!("2h"), Some(7_200_000)),
            (Unit::Millis, json!("h"), None),
            (Unit::Millis, json!("1.5h"), None),
            (Unit::Millis, json!("5w"), None),
            (Unit::Millis, json!("9999999999999999999d"), None),
            (Unit::Millis, json!("5µ"), None),
            (Unit::Nanousd, json!(12), Some(12 * NANO)),
            (Unit::Nanousd, json!(0.1), Some(NANO / 10)),
            (Unit::Nanousd, json!("0.000000001"), Some(1)),
            (Unit::Nanousd, json!("0.0000000001"), None),
            (Unit::Nanousd, json!("-1"), None),
            (Unit::Nanousd, json!("1e3"), None),
            (Unit::Nanousd, json!("."), None),
            (Unit::Nanousd, json!("20000000000"), None),
        ] {
            assert_eq!(unit.read(&value), want, "{unit:?} {value}");
        }
    }

    #[test]
    fn shown_as_people_write_them() {
        assert_eq!((Unit::Nanousd.show(1_500_000_000), Unit::Nanousd.show(1)), ("$1.50".into(), "$0.000000001".into()));
        assert_eq!((Unit::Millis.show(7_261_000), Unit::Millis.show(61_000)), ("2 h 1 min".into(), "1 min 1 s".into()));
    }

    proptest! {
        #[test]
        fn money_shown_is_read_back(n in 0u64..u64::MAX) {
            let text = Unit::Nanousd.show(n);
            prop_assert_eq!(Unit::Nanousd.read(&json!(text.trim_start_matches('$'))), Some(n));
        }
    }
}
