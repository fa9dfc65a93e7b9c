//! `beadle attempts`, `checkpoint` and `rollback`: what attempts took and what became of them, kept and taken back.

use std::collections::BTreeMap;

use super::args::{AttemptsArgs, RollbackArgs};
use super::exit::{Exit, UsageError};
use super::text::{brief, cost_cell, count, micros, safe};
use super::{Context, Outcome};
use crate::api::types::{AttemptDoc, AttemptSumDoc, AttemptsDoc, AttemptsQuery, RollbackRequest};

pub async fn attempts(cx: &mut Context, args: AttemptsArgs) -> Outcome {
    let doc = cx.client()?.attempts(&args.session, AttemptsQuery { tree: args.tree }).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        for a in &doc.items {
            let name = if args.tree { format!("{} {}", safe(&a.session), a.number) } else { a.number.to_string() };
            cx.printer.line(&name)?;
        }
        return Ok(Exit::Done);
    }
    if doc.items.is_empty() {
        cx.printer.note("no attempt has begun")?;
        return Ok(Exit::Done);
    }
    let many = doc.by_session.len() > 1;
    let titles = ["SESSION", "NO", "AGENT", "TIER", "MODEL", "ENDED", "VERDICT", "CHECKPOINT", "COST", "TIME"];
    let rows: Vec<_> = doc.items.iter().map(|a| row(a).split_off(usize::from(!many))).collect();
    cx.printer.table(&titles[usize::from(!many)..], &rows)?;
    for a in &doc.items {
        if let Some(text) = remark(a) {
            cx.printer.line(&text)?;
        }
    }
    sums(cx, &doc)?;
    if doc.truncated {
        cx.printer.note("there are more attempts than are shown; their use is in no sum")?;
    }
    Ok(Exit::Done)
}

fn row(a: &AttemptDoc) -> Vec<String> {
    let text = |t: &Option<String>, max| t.as_deref().map_or_else(|| "-".to_owned(), |t| brief(t, max));
    let mut ended = a.outcome.map_or("-", |o| o.as_str()).to_owned();
    if a.rolled_back_at.is_some() {
        ended.push_str(", rolled back");
    } else if a.is_final {
        ended.push_str(", final");
    }
    vec![
        brief(&a.session_name, 20),
        a.number.to_string(),
        brief(&a.agent, 16),
        text(&a.tier, 16),
        text(&a.model, 24),
        ended,
        a.verdict.as_ref().map_or("-", |v| v.as_str()).to_owned(),
        a.checkpoint.as_deref().map_or_else(|| "-".to_owned(), |c| safe(c.get(..12).unwrap_or(c))),
        cost_cell(a.cost.as_ref(), a.unpriced_count),
        a.duration_ms.map_or_else(|| "-".to_owned(), |ms| micros(ms.saturating_mul(1000))),
    ]
}

/// Why an attempt was not good, or what was said of it.
fn remark(a: &AttemptDoc) -> Option<String> {
    let said = a.verdict.as_ref().map(|v| v.text()).filter(|t| !t.is_empty()).or(a.error.as_deref());
    let said = said.or(a.output_summary.as_ref().map(|s| s.text.as_str()))?;
    Some(format!("{:>4}  {}", a.number, brief(said, 200)))
}

fn sums(cx: &mut Context, doc: &AttemptsDoc) -> anyhow::Result<()> {
    let grouped: [(&str, &BTreeMap<String, AttemptSumDoc>); 3] =
        [("BY AGENT", &doc.by_agent), ("BY PHASE", &doc.by_phase), ("BY SESSION", &doc.by_session)];
    let mut rows = vec![sum("all", &doc.all)];
    for (title, sums) in grouped.iter().filter(|(_, sums)| sums.len() > 1) {
        rows.extend(sums.iter().map(|(key, s)| sum(&format!("{} {}", title.to_lowercase(), brief(key, 24)), s)));
    }
    cx.printer.line("")?;
    cx.printer.table(&["SUM", "ATTEMPTS", "GOOD", "ROLLED BACK", "COST", "TIME", "FINAL"], &rows)?;
    Ok(())
}

fn sum(key: &str, s: &AttemptSumDoc) -> Vec<String> {
    vec![
        key.to_owned(),
        count(s.attempt_count),
        count(s.succeeded_count),
        count(s.rolled_back_count),
        cost_cell(s.cost.as_ref(), s.unpriced_count),
        micros(s.duration_ms.saturating_mul(1000)),
        micros(s.final_duration_ms.saturating_mul(1000)),
    ]
}

/// The worktree as it is now.
pub async fn checkpoint(cx: &mut Context, id: &str) -> Outcome {
    let doc = cx.client()?.checkpoint(id).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else if cx.printer.quiet() {
        cx.printer.line(&safe(&doc.commit))?;
    } else {
        cx.printer.line(&format!(
            "{} attempt {} is kept as {} ({})",
            safe(&doc.session),
            doc.attempt,
            safe(&doc.commit),
            safe(&doc.reference)
        ))?;
    }
    Ok(Exit::Done)
}

/// All that is selected, or nothing.
pub async fn roll_back(cx: &mut Context, args: RollbackArgs) -> Outcome {
    let text = |d: std::path::PathBuf| {
        let full = std::path::absolute(&d)?;
        full.into_os_string().into_string().map_err(|_| anyhow::Error::from(UsageError("--restore: its path is not UTF-8".into())))
    };
    let restore = args.restore.map(text).transpose()?;
    let request =
        RollbackRequest { sessions: args.sessions, attempt: args.attempt, agent: args.agent, phase: args.phase, tree: args.tree, restore };
    let doc = cx.client()?.roll_back(&request).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        cx.printer.line(&doc.marked_count.to_string())?;
        return Ok(Exit::Done);
    }
    for t in &doc.items {
        let what = if t.marked { "is rolled back" } else { "was rolled back before" };
        cx.printer.line(&format!("{} attempt {} {what}", safe(&t.session), t.attempt))?;
    }
    if let Some(r) = &doc.restored {
        let commit = r.commit.get(..12).unwrap_or(&r.commit);
        cx.printer.line(&format!("attempt {} ({}) is restored in {}", r.attempt, safe(commit), safe(&r.folder)))?;
    }
    Ok(Exit::Done)
}
