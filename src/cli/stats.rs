//! `beadle stats`: totals over sessions.

use std::collections::BTreeMap;

use super::args::StatsArgs;
use super::exit::Exit;
use super::text::{brief, count, micros, money, safe};
use super::timeline::tokens;
use super::{Context, Outcome};
use crate::api::types::{StatsDoc, StatsQuery, Sums};

pub async fn stats(cx: &mut Context, args: StatsArgs) -> Outcome {
    let label = args.label.map(|(k, v)| format!("{k}={v}"));
    let doc = cx.client()?.stats(&StatsQuery { since: args.since, agent: args.agent, label }).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        cx.printer.line(&doc.all.session_count.to_string())?;
        return Ok(Exit::Done);
    }
    cx.printer.fields(&fields(&doc))?;
    for (title, rows) in [("AGENT", &doc.by_agent), ("MODEL", &doc.by_model)] {
        if !rows.is_empty() {
            cx.printer.line("")?;
            let rows: Vec<_> = rows.iter().map(|(name, s)| row(name, s)).collect();
            cx.printer.table(&[title, "SESSIONS", "CALLS", "DENIED", "TOKENS", "COST", "TIME"], &rows)?;
        }
    }
    Ok(Exit::Done)
}

fn cost(s: &Sums) -> String {
    match (&s.cost, s.unpriced_count) {
        (Some(c), 0) => money(c),
        (Some(c), n) => format!("{} and {} responses without a known price", money(c), count(n)),
        (None, 0) => String::new(),
        (None, n) => format!("unknown ({} responses without a known price)", count(n)),
    }
}

fn counted(map: &BTreeMap<String, u64>) -> String {
    map.iter().map(|(name, n)| format!("{} {}", count(*n), safe(name))).collect::<Vec<_>>().join(", ")
}

fn fields(doc: &StatsDoc) -> Vec<(&'static str, String)> {
    let s = &doc.all;
    let some = |n: u64| if n == 0 { String::new() } else { count(n) };
    let left_out = if doc.truncated { " (the newest; older ones are left out)" } else { "" };
    let calls = format!(
        "{}: {} allowed ({} changed), {} denied; {} asked about",
        count(s.call_count),
        count(s.allowed_count),
        count(s.rewritten_count),
        count(s.denied_count),
        count(s.asked_count)
    );
    vec![
        ("since", doc.since.as_deref().map(safe).unwrap_or_default()),
        ("sessions", format!("{}{left_out}", count(s.session_count))),
        ("status", counted(&doc.by_status)),
        ("outcome", counted(&doc.by_outcome)),
        ("turns", some(s.turn_count)),
        ("calls", calls),
        ("waiting", some(doc.waiting_count)),
        ("breaches", some(s.breach_count)),
        ("plugin failures", some(s.plugin_failure_count)),
        ("tokens", if s.usage.total() > 0 { tokens(s.usage) } else { String::new() }),
        ("cost", cost(s)),
        ("time", micros(s.duration_ms.saturating_mul(1000))),
    ]
}

fn row(name: &str, s: &Sums) -> Vec<String> {
    let cost = match (&s.cost, s.unpriced_count) {
        (Some(c), 0) => money(c),
        (Some(c), _) => format!("{} + unknown", money(c)),
        (None, 0) => "-".to_owned(),
        (None, _) => "unknown".to_owned(),
    };
    vec![
        brief(name, 40),
        count(s.session_count),
        count(s.call_count),
        count(s.denied_count),
        count(s.usage.total()),
        cost,
        micros(s.duration_ms.saturating_mul(1000)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Money;

    #[test]
    fn an_unknown_cost_is_said_and_never_zero() {
        let sums = |cost: Option<u64>, unpriced_count| Sums { cost: cost.map(Money::from), unpriced_count, ..Sums::default() };
        assert_eq!(cost(&sums(None, 3)), "unknown (3 responses without a known price)");
        assert_eq!(cost(&sums(Some(20_000_000), 1)), "$0.02 and 1 responses without a known price");
        let cell = |s: &Sums| row("a\x1bb", s)[5].clone();
        assert_eq!([cell(&sums(None, 0)), cell(&sums(None, 1)), cell(&sums(Some(0), 0))], ["-", "unknown", "$0.00"]);
        assert_eq!(row("a\x1bb", &Sums::default())[0], "a\\x1bb");
    }
}
