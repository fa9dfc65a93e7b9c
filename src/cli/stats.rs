//! `beadle stats`: totals over sessions, model calls grouped by one dimension, and tool calls by tool.

use std::collections::BTreeMap;

use super::args::StatsArgs;
use super::args_check::TOOL;
use super::exit::Exit;
use super::text::{brief, cost, cost_cell, count, micros, reconciled, safe, short};
use super::timeline::tokens;
use super::{Context, Outcome};
use crate::api::types::{LedgerDoc, LedgerQuery, LedgerRow, LedgerSumDoc, StatsDoc, StatsQuery, Sums, ToolRow, ToolsDoc, ToolsQuery};

/// Width of the first column, so that a row fits 100 columns.
const KEY_WIDTH: usize = 24;

pub async fn stats(cx: &mut Context, args: StatsArgs) -> Outcome {
    let label = args.label.as_ref().map(|(k, v)| format!("{k}={v}"));
    if args.by.as_deref() == Some(TOOL) {
        return by_tool(cx, args, label).await;
    }
    if args.by.is_some() || args.session.is_some() {
        return grouped(cx, args, label).await;
    }
    let doc = cx.client()?.stats(&StatsQuery { since: args.since, until: args.until, agent: args.agent, label }).await?;
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

/// Model calls by one dimension.
async fn grouped(cx: &mut Context, args: StatsArgs, label: Option<String>) -> Outcome {
    let client = cx.client()?;
    let utc_offset_minutes = args.local.then(|| chrono::Local::now().offset().local_minus_utc() / 60);
    let wanted = LedgerQuery {
        by: args.by,
        since: args.since,
        until: args.until,
        session: args.session.clone(),
        agent: args.agent,
        label,
        utc_offset_minutes,
    };
    let doc = client.ledger(&wanted).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        for r in &doc.rows {
            cx.printer.line(&safe(&r.key))?;
        }
        return Ok(Exit::Done);
    }
    cx.printer.fields(&head(&doc))?;
    if doc.rows.is_empty() {
        cx.printer.note("no model call")?;
        return Ok(Exit::Done);
    }
    cx.printer.line("")?;
    let is_timed = doc.rows.iter().any(|r| r.duration_ms.is_some());
    let mut titles = vec![doc.by.to_ascii_uppercase()];
    titles.extend(["SESSIONS", "CALLS", "IN", "OUT", "READ", "WRITTEN", "COST"].map(str::to_owned));
    if is_timed {
        titles.push("TIME".to_owned());
    }
    titles[0] = brief(&titles[0], KEY_WIDTH);
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let rows: Vec<_> = doc.rows.iter().map(|r| cells(r, is_timed)).collect();
    cx.printer.table(&titles, &rows)?;
    if doc.left_out_count > 0 {
        cx.printer.note(&format!("{} more rows are added up under (others)", count(doc.left_out_count)))?;
    }
    Ok(Exit::Done)
}

/// Tool calls by tool.
async fn by_tool(cx: &mut Context, args: StatsArgs, label: Option<String>) -> Outcome {
    let wanted = ToolsQuery { since: args.since, until: args.until, session: args.session, agent: args.agent, label };
    let doc = cx.client()?.tools(&wanted).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        for r in &doc.rows {
            cx.printer.line(&safe(&r.key))?;
        }
        return Ok(Exit::Done);
    }
    cx.printer.fields(&tool_head(&doc))?;
    if doc.rows.is_empty() {
        cx.printer.note("no tool call")?;
        return Ok(Exit::Done);
    }
    cx.printer.line("")?;
    let rows: Vec<_> = doc.rows.iter().map(tool_cells).collect();
    cx.printer.table(&TOOL_TITLES, &rows)?;
    if doc.left_out_count > 0 {
        cx.printer.note(&format!("{} more tools are added up under (others)", count(doc.left_out_count)))?;
    }
    Ok(Exit::Done)
}

const TOOL_TITLES: [&str; 9] = ["TOOL", "CALLS", "ALLOWED", "DENIED", "ASKED", "FAILED", "TIME", "MEDIAN", "P95"];

fn tool_head(doc: &ToolsDoc) -> Vec<(&'static str, String)> {
    let s = &doc.all;
    let some = |t: &Option<String>| t.as_deref().map(safe).unwrap_or_default();
    let left_out = match doc.unreadable_count {
        0 => String::new(),
        n => format!("{} whose log cannot be read; see `beadle verify`", count(n)),
    };
    let calls = format!(
        "{}: {} allowed, {} denied; {} asked about; {} ended, {} failed",
        count(s.call_count),
        count(s.allowed_count),
        count(s.denied_count),
        count(s.asked_count),
        count(s.ended_count),
        count(s.failed_count)
    );
    let older = if doc.truncated { " (the newest; there are too many events to read, so narrow it with --since or --session)" } else { "" };
    vec![
        ("session", some(&doc.session)),
        ("since", some(&doc.since)),
        ("until", some(&doc.until)),
        ("sessions", format!("{}{older}", count(s.session_count))),
        ("left out", left_out),
        ("tool calls", calls),
        ("time", micros(s.duration_ms.saturating_mul(1000))),
    ]
}

fn tool_cells(r: &ToolRow) -> Vec<String> {
    let s = &r.sum;
    let mut out = vec![brief(&r.key, KEY_WIDTH - 1)];
    out.extend([s.call_count, s.allowed_count, s.denied_count, s.asked_count, s.failed_count].map(short));
    let ms = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |ms| micros(ms.saturating_mul(1000)));
    out.extend([s.median_ms.map(|_| s.duration_ms), s.median_ms, s.p95_ms].map(ms));
    out
}

fn head(doc: &LedgerDoc) -> Vec<(&'static str, String)> {
    let s = &doc.all;
    let some = |t: &Option<String>| t.as_deref().map(safe).unwrap_or_default();
    let days = if doc.by == "day" { offset(doc.utc_offset_minutes) } else { String::new() };
    vec![
        ("session", some(&doc.session)),
        ("since", some(&doc.since)),
        ("until", some(&doc.until)),
        ("days of", days),
        ("sessions", count(s.session_count)),
        ("model calls", count(s.call_count)),
        ("tokens", if s.usage.total() > 0 { tokens(s.usage) } else { String::new() }),
        ("cost", all_cost(s)),
        ("agent's total", doc.reconciled.as_ref().map(reconciled).unwrap_or_default()),
    ]
}

fn all_cost(s: &LedgerSumDoc) -> String {
    cost(s.cost.as_ref(), s.unpriced_count, &s.unpriced)
}

/// `UTC+02:00`.
fn offset(minutes: i32) -> String {
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("UTC{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

fn cells(r: &LedgerRow, is_timed: bool) -> Vec<String> {
    let u = &r.sum.usage;
    let mut out = vec![brief(&r.key, KEY_WIDTH - 1), count(r.sum.session_count), short(r.sum.call_count)];
    out.extend([u.input, u.output, u.cache_read, u.cache_write].map(short));
    out.push(cost_cell(r.sum.cost.as_ref(), r.sum.unpriced_count));
    if is_timed {
        out.push(r.duration_ms.map_or_else(|| "-".to_owned(), |ms| micros(ms.saturating_mul(1000))));
    }
    out
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
        ("until", doc.until.as_deref().map(safe).unwrap_or_default()),
        ("sessions", format!("{}{left_out}", count(s.session_count))),
        ("status", counted(&doc.by_status)),
        ("outcome", counted(&doc.by_outcome)),
        ("turns", some(s.turn_count)),
        ("calls", calls),
        ("waiting", some(doc.waiting_count)),
        ("breaches", some(s.breach_count)),
        ("plugin failures", some(s.plugin_failure_count)),
        ("lost writes", some(s.writes_lost_count)),
        ("rolled back", some(s.rolled_back_count)),
        ("tokens", if s.usage.total() > 0 { tokens(s.usage) } else { String::new() }),
        ("cost", cost(s.cost.as_ref(), s.unpriced_count, &s.unpriced)),
        ("time", micros(s.duration_ms.saturating_mul(1000))),
    ]
}

fn row(name: &str, s: &Sums) -> Vec<String> {
    vec![
        brief(name, 40),
        count(s.session_count),
        count(s.call_count),
        count(s.denied_count),
        count(s.usage.total()),
        cost_cell(s.cost.as_ref(), s.unpriced_count),
        micros(s.duration_ms.saturating_mul(1000)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{Money, ToolSumDoc};
    use crate::model::Usage;

    #[test]
    fn an_unknown_cost_is_said_and_never_zero() {
        let odd = || ["odd-1".to_owned(), "o\x1bdd-2".to_owned()].into();
        let sums = |known: Option<u64>, unpriced_count| Sums {
            cost: known.map(Money::from),
            unpriced_count,
            unpriced: if unpriced_count > 0 { odd() } else { Default::default() },
            ..Sums::default()
        };
        let said = |s: &Sums| fields(&StatsDoc { all: s.clone(), ..StatsDoc::default() }).into_iter().find(|f| f.0 == "cost").unwrap().1;
        assert_eq!(said(&sums(None, 3)), "unknown: 3 responses without a known price (o\\x1bdd-2, odd-1)");
        assert_eq!(said(&sums(Some(20_000_000), 1)), "at least $0.02; 1 response without a known price (o\\x1bdd-2, odd-1)");
        assert_eq!((said(&sums(Some(0), 0)).as_str(), said(&sums(None, 0)).as_str()), ("$0.00", ""));
        let cell = |s: &Sums| row("a\x1bb", s)[5].clone();
        assert_eq!(
            [cell(&sums(None, 0)), cell(&sums(None, 1)), cell(&sums(Some(0), 0)), cell(&sums(Some(0), 1))],
            ["-", "unknown", "$0.00", "≥ $0.00"]
        );
        assert_eq!(row("a\x1bb", &Sums::default())[0], "a\\x1bb");
    }

    #[test]
    fn a_row_fits_a_hundred_columns() {
        let n = 123_456_789;
        let sum = LedgerSumDoc {
            session_count: 99_999,
            call_count: n,
            usage: Usage { input: n * 1000, output: n, cache_read: n, cache_write: n, ..Usage::default() },
            cost: Some(Money::from(123_456_780_000_000)),
            unpriced_count: 3,
            ..LedgerSumDoc::default()
        };
        let row = LedgerRow { key: "x".repeat(200), sum, tool_call_count: None, duration_ms: Some(600 * 60_000) };
        let cells = cells(&row, true);
        let titles = ["", "SESSIONS", "CALLS", "IN", "OUT", "READ", "WRITTEN", "COST", "TIME"];
        let width: usize = cells.iter().zip(titles).map(|(c, t)| c.chars().count().max(t.len()) + 2).sum();
        assert!(width - 2 <= 100, "{width}: {cells:?}");
        assert_eq!((offset(120), offset(-570)), ("UTC+02:00".to_owned(), "UTC-09:30".to_owned()));
        let sum = ToolSumDoc { call_count: n, duration_ms: n * 60_000, median_ms: Some(119_999), p95_ms: Some(n), ..ToolSumDoc::default() };
        let cells = tool_cells(&ToolRow { key: "x\x1b".repeat(200), sum });
        let width: usize = cells.iter().zip(TOOL_TITLES).map(|(c, t)| c.chars().count().max(t.len()) + 2).sum();
        assert!(width - 2 <= 100 && !cells[0].contains('\x1b'), "{width}: {cells:?}");
        assert_eq!(tool_cells(&ToolRow::default())[6..], ["-", "-", "-"]);
    }
}
