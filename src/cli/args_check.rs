//! Checks of single arguments: what is wrong is said before anything is sent.

use crate::model::{Clock, Outcome, Sort, Status, SystemClock, TaskStatus, format_ms};

/// Longest id, prefix or name in bytes.
const NAME_MAX: usize = 200;

/// A session's id, a beginning of it, or a name.
pub fn session_id(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty; give the id or name shown by `beadle ls`".to_owned());
    }
    if text.len() > NAME_MAX {
        return Err(format!("it has {} bytes, over the limit of {NAME_MAX}; give the id or name shown by `beadle ls`", text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("it has the control character {c:?}; give the id or name shown by `beadle ls`")),
        None => Ok(text.to_owned()),
    }
}

/// `KEY=VALUE`: key 1 to 64 of a-z A-Z 0-9 - _ . /, value at most 256 bytes.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if key.is_empty() || key.len() > 64 || !key.chars().all(fits) {
        return Err("the key must be 1 to 64 of a-z A-Z 0-9 - _ . /".to_owned());
    }
    if value.len() > 256 || value.chars().any(char::is_control) {
        return Err("the value must be at most 256 bytes without control characters".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `NAME` (value of the caller) or `NAME=VALUE`.
pub fn environment(text: &str) -> Result<(String, Option<String>), String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v.to_owned())));
    if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
        return Err("expected NAME or NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), value))
}

/// `70%`, `70`, or `off`, which is 100.
pub fn percent_or_off(text: &str) -> Result<u64, String> {
    if text == "off" {
        return Ok(100);
    }
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.filter(|n| (1..=99).contains(n)).ok_or_else(|| "expected 1% to 99%, or off".to_owned())
}

/// Where a task stands.
pub fn task_status(text: &str) -> Result<TaskStatus, String> {
    let names = || TaskStatus::ALL.map(TaskStatus::as_str).join(", ");
    TaskStatus::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("expected one of {}", names()))
}

/// `500M`, `2G`, `1024`: bytes, in powers of 1,024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let (number, shift) = units.into_iter().find_map(|(u, n)| Some((text.strip_suffix(u)?, n))).unwrap_or((text, 0));
    let n: Option<u64> = number.parse().ok();
    n.and_then(|n| n.checked_mul(1 << shift)).ok_or_else(|| "expected a size such as 500M or 2G".to_owned())
}

/// A status word.
pub fn status(text: &str) -> Result<Status, String> {
    use Status::{Ended, Paused, Queued, Running, Starting, Stopping};
    let all = [Queued, Starting, Running, Paused, Stopping, Ended];
    let names = || all.map(Status::as_str).join(", ");
    all.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("expected one of {}", names()))
}

/// What tool calls are grouped by, beside the [`dimension`]s of model calls.
pub const TOOL: &str = "tool";

/// What model calls are grouped by, or [`TOOL`].
pub fn dimension(text: &str) -> Result<String, String> {
    if text == TOOL {
        return Ok(text.to_owned());
    }
    crate::model::ledger::Dimension::parse(text)
        .map(|d| d.name())
        .ok_or_else(|| format!("expected {TOOL}, {}", crate::model::ledger::Dimension::NAMES))
}

/// An outcome word.
pub fn outcome(text: &str) -> Result<Outcome, String> {
    let names = || Outcome::ALL.map(Outcome::as_str).join(", ");
    Outcome::ALL.into_iter().find(|o| o.as_str() == text).ok_or_else(|| format!("expected one of {}", names()))
}

/// A word for the order of a listing.
pub fn sort(text: &str) -> Result<Sort, String> {
    let names = || Sort::ALL.map(Sort::as_str).join(", ");
    Sort::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("expected one of {}", names()))
}

/// `90m`, `24h`, `7d` before now, a day, or a whole time; gives RFC 3339.
pub fn since(text: &str) -> Result<String, String> {
    since_at(text, SystemClock.wall_ms())
}

/// The same for either end of a time span.
pub fn moment(text: &str) -> Result<String, String> {
    since(text)
}

fn since_at(text: &str, now_ms: i64) -> Result<String, String> {
    let units = [('s', 1_000i64), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000)];
    for (unit, ms) in units {
        if let Some(n) = text.strip_suffix(unit).and_then(|n| n.parse::<u32>().ok()) {
            return Ok(format_ms(now_ms.saturating_sub(i64::from(n).saturating_mul(ms)).max(0)));
        }
    }
    let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|d| d.and_hms_opt(0, 0, 0));
    let at = day.map(|d| d.and_utc().timestamp_millis());
    let at = at.or_else(|| chrono::DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_millis()));
    at.map(format_ms).ok_or_else(|| "expected 90m, 24h, 7d, 2026-01-31 or 2026-01-31T08:00:00Z".to_owned())
}

/// A day or a whole time that is to come; gives RFC 3339.
pub fn time(text: &str) -> Result<String, String> {
    let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|d| d.and_hms_opt(0, 0, 0));
    let at = day.map(|d| d.and_utc().timestamp_millis());
    let at = at.or_else(|| chrono::DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_millis()));
    at.map(format_ms).ok_or_else(|| "expected 2026-01-31 or 2026-01-31T08:00:00Z".to_owned())
}

/// `500ms`, `90s`, `10m`, `2h`, `1d` in milliseconds, at most a year.
pub fn duration(text: &str) -> Result<u64, String> {
    const YEAR: u64 = 365 * 86_400_000;
    let units = [("ms", 1u64), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let found = units.iter().find_map(|(unit, ms)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*ms));
    found.filter(|ms| *ms <= YEAR).ok_or_else(|| "expected 500ms, 90s, 10m, 2h or 1d, at most 365d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_ids_are_refused_before_anything_is_sent() {
        assert!(session_id("").is_err() && session_id(&"x".repeat(10_000_000)).is_err() && session_id("a\x1b").is_err());
        assert_eq!(session_id("fix it"), Ok("fix it".to_owned()));
    }

    #[test]
    fn labels_and_variables_have_their_form() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(label("a").is_err() && label("=b").is_err() && label("a b=c").is_err() && label("a=\n").is_err());
        assert_eq!(environment("A"), Ok(("A".to_owned(), None)));
        assert_eq!(environment("A="), Ok(("A".to_owned(), Some(String::new()))));
        assert!(environment("=x").is_err());
    }

    #[test]
    fn a_length_of_time_has_a_unit_and_an_end() {
        for (text, ms) in [("500ms", 500), ("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("1d", 86_400_000)] {
            assert_eq!(duration(text), Ok(ms));
        }
        assert!(
            duration("5").is_err() && duration("-1s").is_err() && duration("366d").is_err() && duration("99999999999999999999s").is_err()
        );
    }

    #[test]
    fn a_time_may_be_said_in_many_ways() {
        let now = 1_767_225_600_000 + 86_400_000;
        let day = "2026-01-01T00:00:00.000Z";
        for text in ["24h", "1d", "1440m", "86400s", "2026-01-01", "2026-01-01T01:00:00+01:00"] {
            assert_eq!(since_at(text, now).as_deref(), Ok(day), "{text}");
        }
        assert_eq!(since_at("4294967295d", now).as_deref(), Ok("1970-01-01T00:00:00.000Z"));
        for text in ["", "h", "-1h", "yesterday", "1.5h", "2026-13-01"] {
            assert!(since_at(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn statuses_are_words_of_the_model() {
        assert_eq!(status("running"), Ok(Status::Running));
        assert_eq!(status("x").unwrap_err(), "expected one of queued, starting, running, paused, stopping, ended");
    }
}
