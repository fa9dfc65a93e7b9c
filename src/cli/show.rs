//! `beadle show`: the whole story of one session on one screen.
//!
//! Called by `mod.rs`.

use super::approvals::commands;
use super::args::ShowArgs;
use super::exit::Exit;
use super::text::{age, brief, count, micros, money, safe};
use super::timeline::tokens;
use super::{Context, Outcome};
use crate::api::client::Client;
use crate::api::types::{ApprovalDoc, ApprovalsQuery, ChildDoc, PAGE_MAX, SessionDetailDoc, SessionDoc};
use crate::model::{Clock, Record, Status, SystemClock, UsageLimits, usd};

/// Everything known about one session, and the questions that wait for an answer.
pub async fn show(cx: &mut Context, args: ShowArgs) -> Outcome {
    let id = args.session.as_str();
    if args.tree {
        return super::tree::show(cx, id).await;
    }
    let client = cx.client()?;
    let detail = client.session_detail(id).await?;
    if cx.printer.json() {
        cx.printer.document(&detail)?;
        return Ok(Exit::Done);
    }
    let doc = &detail.session;
    cx.printer.fields(&fields(&detail, SystemClock.wall_ms()))?;
    if doc.waiting_count > 0 {
        for line in questions(&client, &doc.id).await? {
            cx.printer.line(&line)?;
        }
    }
    Ok(Exit::Done)
}

/// One screen: what and how it stands, who and why, where, what it did, what it cost.
fn fields(detail: &SessionDetailDoc, now: i64) -> Vec<(&'static str, String)> {
    let doc = &detail.session;
    let text = |v: &Option<String>| v.as_deref().map(|t| brief(t, 200)).unwrap_or_default();
    let labels: Vec<String> = doc.labels.iter().map(|(k, v)| format!("{}={}", safe(k), safe(v))).collect();
    let words: Vec<String> = doc.command.iter().map(|w| safe(w)).collect();
    let ended = match (doc.exit_code, doc.signal) {
        (_, Some(s)) => format!("signal {s}"),
        (Some(c), None) => format!("code {c}"),
        _ => String::new(),
    };
    let note = doc.mediation_note.as_deref().map(|n| format!(" ({})", brief(n, 200))).unwrap_or_default();
    let r = &doc.record;
    let mut fields = vec![
        ("id", safe(&doc.id)),
        ("name", brief(&doc.name, 200)),
        ("agent", format!("{} {}", safe(&doc.agent), text(&doc.agent_version)).trim_end().to_owned()),
        ("status", status(doc)),
        ("why", text(&doc.end_reason)),
        ("exit", ended),
        ("owner", brief(&r.owner, 200)),
        ("target", text(&r.target)),
        ("mission", joined(&[("", &r.mission), ("assignment ", &r.assignment), ("phase ", &r.phase)])),
        ("tenant", joined(&[("", &r.tenant), ("thread ", &r.thread)])),
        ("labels", labels.join(" ")),
        ("parent", r.parent.as_ref().map(|p| safe(p.as_str())).unwrap_or_default()),
        ("goes on from", origin(r)),
        ("goes on in", branches(doc)),
        ("children", children(detail)),
        ("mediation", format!("{}{note}", doc.mediation.as_str())),
        ("attested", attested(doc)),
        ("permissions", text(&doc.permission_mode)),
        ("tools", brief(&r.allowed_tools.join(", "), 400)),
        ("command", brief(&words.join(" "), 400)),
        ("prompt", doc.prompt.as_ref().map(|p| format!("{} ({} bytes)", brief(&p.text, 200), count(p.bytes))).unwrap_or_default()),
        ("cwd", brief(&doc.cwd, 400)),
        ("repository", repository(r)),
        ("queue", doc.queue.as_ref().map(super::queue::story).unwrap_or_default()),
        ("write root", text(&doc.write_root)),
        ("report", report(doc)),
        ("created", format!("{} by {}", safe(&doc.created_at), actor(doc))),
        ("started", text(&doc.started_at)),
        ("ended", text(&doc.ended_at)),
        (
            "last event",
            format!("{} ({} ago), number {}", safe(&doc.last_activity_at), age(&doc.last_activity_at, now), count(doc.last_seq)),
        ),
        ("writer", writer(doc, now)),
        ("lost writes", if doc.writes_lost == 0 { String::new() } else { count(doc.writes_lost) }),
        ("attempt", attempt(doc)),
        ("restart", restart(doc)),
        ("rolled back", doc.rolled_back.iter().map(|n| format!("attempt {n}")).collect::<Vec<_>>().join(", ")),
        ("pid", doc.pid.map(|p| p.to_string()).unwrap_or_default()),
        ("agent's id", text(&doc.agent_session_id)),
    ];
    fields.extend(account(doc));
    fields.push(("last words", text(&doc.last_text)));
    fields.push(("log", detail.folder.as_deref().map(|d| brief(d, 400)).unwrap_or_default()));
    fields
}

/// The newest attempt, what is planned, and what comes next.
fn attempt(doc: &SessionDoc) -> String {
    let planned = doc.planned.as_ref().filter(|p| p.tells_what_follows()).map(|p| {
        let tier = |t: &crate::model::PlannedTier| format!("{} x{}", brief(&t.name, 40), t.attempts);
        format!(" of the plan {}", p.tiers.iter().map(tier).collect::<Vec<_>>().join(", "))
    });
    let next = doc.scheduled.as_ref().map(|n| {
        let why = n.feedback.as_deref().map(|f| format!(": {}", brief(f, 200))).unwrap_or_default();
        format!("; attempt {} follows ({}){why}", n.attempt, brief(&n.why, 40))
    });
    let more = if doc.attempt > 1 { format!("; `beadle attempts {}`", safe(&doc.id)) } else { String::new() };
    let open = if doc.in_attempt && doc.record.writer.is_some() { ", open" } else { "" };
    format!("{}{open}{}{}{more}", doc.attempt, planned.unwrap_or_default(), next.unwrap_or_default())
}

/// Whether its agent is started once more, and whether that was done.
fn restart(doc: &SessionDoc) -> String {
    let Some(restart) = doc.planned.as_ref().map(|p| p.restart).filter(|r| !r.is_no()) else { return String::new() };
    let done = match (doc.restarted, doc.status) {
        (Some(n), _) => format!("done, as attempt {n}"),
        (None, Status::Ended) => "not made".to_owned(),
        (None, _) => "once".to_owned(),
    };
    format!("{} ({done})", restart.as_str())
}

/// How a session that another program writes is known, and since when nothing was heard of it.
fn writer(doc: &SessionDoc, now: i64) -> String {
    let Some(w) = &doc.record.writer else { return String::new() };
    let key = w.key.as_deref().map_or_else(|| "its tenant and thread".to_owned(), |k| format!("key {}", brief(k, 200)));
    if doc.status == Status::Ended {
        return key;
    }
    let limit = w.idle_ms.map(|ms| format!(", ended after {}", micros(ms.saturating_mul(1000)))).unwrap_or_default();
    format!("{key}, silent since {} ({}){limit}", safe(&doc.last_activity_at), age(&doc.last_activity_at, now))
}

/// What it did and what that cost.
fn account(doc: &SessionDoc) -> Vec<(&'static str, String)> {
    let number = |n: u64| if n == 0 { String::new() } else { count(n) };
    let context = match (doc.context_used, doc.context_window, doc.context_percent) {
        (Some(u), Some(w), Some(p)) => format!("{} of {} tokens ({p} %)", count(u), count(w)),
        (Some(u), ..) => format!("{} tokens of a window that is not known", count(u)),
        _ => String::new(),
    };
    let cost = super::text::cost(doc.cost.as_ref(), doc.unpriced_count, &doc.unpriced);
    let calls = counts(&[
        (doc.call_count, "asked for"),
        (doc.allowed_count, "allowed"),
        (doc.denied_count, "denied"),
        (doc.rewritten_count, "changed"),
    ]);
    let approvals = counts(&[
        (doc.asked_count, "asked"),
        (doc.answered_count, "answered"),
        (doc.expired_count, "expired"),
        (doc.waiting_count, "waiting"),
    ]);
    let verdict = doc.verdict.as_ref().map(|v| brief(&format!("{} {}", v.as_str(), v.text()), 400).trim_end().to_owned());
    vec![
        ("model", doc.model.as_deref().map(|m| brief(m, 200)).unwrap_or_default()),
        ("context", context),
        ("compacted at", doc.compact_at.map(|at| if at >= 100 { "never".to_owned() } else { format!("{at} %") }).unwrap_or_default()),
        ("tokens", if doc.usage.total() > 0 { tokens(doc.usage) } else { String::new() }),
        ("cost", cost),
        ("agent's cost", agents_cost(doc)),
        ("limits", doc.limits.as_ref().map(limits).unwrap_or_default()),
        ("limit passed", doc.exceeded.as_ref().map(|x| brief(&x.reason, 300)).unwrap_or_default()),
        ("turns", number(doc.turn_count)),
        ("calls", calls),
        ("approvals", approvals),
        ("tasks", counts(&[(doc.task_open_count, "open"), (doc.task_closed_count, "closed")])),
        ("breaches", number(doc.breach_count)),
        ("plugin failures", number(doc.plugin_failure_count)),
        ("flagged results", number(doc.flagged_count)),
        ("verdict", verdict.unwrap_or_default()),
    ]
}

/// What the agent itself says it cost, and how that stands to ours.
fn agents_cost(doc: &SessionDoc) -> String {
    let Some(theirs) = &doc.agent_cost else { return String::new() };
    doc.reconciled.as_ref().filter(|r| !r.agrees).map_or_else(|| money(theirs), super::text::reconciled)
}

fn limits(l: &UsageLimits) -> String {
    let parts = [
        l.cost_nanousd.map(usd),
        l.tokens.map(|n| format!("{} tokens", count(n))),
        l.turns.map(|n| format!("{} turns", count(n))),
        l.time_ms.map(|ms| micros(ms.saturating_mul(1000))),
        l.tree.then(|| "of the whole tree".to_owned()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Those that are not zero, in words.
fn counts(all: &[(u64, &str)]) -> String {
    all.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{} {word}", count(*n))).collect::<Vec<_>>().join(", ")
}

fn joined(all: &[(&str, &Option<String>)]) -> String {
    let said = all.iter().filter_map(|(word, v)| v.as_deref().map(|v| format!("{word}{}", brief(v, 200))));
    said.collect::<Vec<_>>().join(", ")
}

fn status(doc: &SessionDoc) -> String {
    let word = doc.status.as_str();
    match (&doc.outcome, &doc.pause) {
        (Some(o), _) => format!("{word}, {}", o.as_str()),
        (None, Some(p)) => format!("{word} ({}) since {}: {}", p.mode.as_str(), safe(&p.at), brief(&p.reason, 200)),
        (None, None) => word.to_owned(),
    }
}

fn repository(r: &Record) -> String {
    let Some(repo) = &r.repository else { return String::new() };
    let at = match (&repo.branch, &repo.commit) {
        (Some(b), _) => format!(", branch {}", brief(b, 200)),
        (None, Some(c)) => format!(", commit {}", brief(c, 64)),
        (None, None) => String::new(),
    };
    format!("{}{at}{}", brief(&repo.root, 400), if r.repository_writable { "" } else { ", read only" })
}

fn report(doc: &SessionDoc) -> String {
    match (&doc.report, doc.record.report_expected) {
        (Some(path), _) => brief(path, 400),
        (None, true) => "expected: report.md or outputs/report.md".to_owned(),
        (None, false) => String::new(),
    }
}

fn actor(doc: &SessionDoc) -> String {
    let a = &doc.created_by;
    let who = a.name.as_deref().or(a.via.as_deref()).map(|n| format!(" {}", brief(n, 100))).unwrap_or_default();
    let place = a.tty.as_deref().map(|t| format!(" at {}", brief(t, 100))).unwrap_or_default();
    format!("{}{who}{place}", brief(&a.role, 100))
}

fn origin(r: &Record) -> String {
    let Some(o) = &r.origin else { return String::new() };
    format!("{} at event {} ({}, as {})", safe(o.session.as_str()), o.at, o.how.as_str(), safe(&o.given))
}

fn branches(doc: &SessionDoc) -> String {
    let one = |b: &crate::model::Branch| format!("{} ({} at {})", safe(b.session.as_str()), b.how.as_str(), b.at);
    doc.branches.iter().rev().take(3).map(one).collect::<Vec<_>>().join(", ")
}

fn children(detail: &SessionDetailDoc) -> String {
    let one = |c: &ChildDoc| format!("{} ({})", safe(&c.id), c.outcome.map_or(c.status.as_str(), |o| o.as_str()));
    let named: Vec<String> = detail.children.iter().take(3).map(one).collect();
    match detail.children_count {
        0 => String::new(),
        n if n > named.len() as u64 => format!("{} of {}; `beadle ls --parent {}`", named.join(", "), count(n), safe(&detail.session.id)),
        _ => named.join(", "),
    }
}

/// The calls that nobody has answered yet, and how to.
async fn questions(client: &Client, id: &str) -> anyhow::Result<Vec<String>> {
    let wanted = ApprovalsQuery { session: Some(id.to_owned()), limit: Some(PAGE_MAX), ..ApprovalsQuery::default() };
    let waiting = client.approvals(&wanted).await?.items;
    let line = |a: &ApprovalDoc| {
        let what = format!("? asks     {}  {}  — {}", brief(&a.tool, 30), brief(&a.subject, 120), brief(&a.why, 200));
        format!("{what}\n           {}", commands(&a.id))
    };
    Ok(waiting.iter().map(line).collect())
}

/// The program's attestation in words; empty for agents that have none.
pub(super) fn attested(doc: &SessionDoc) -> String {
    let Some(p) = &doc.program else { return String::new() };
    let digest = p.digest.as_deref().map(|d| format!(" (BLAKE3 {}…)", safe(&d.chars().take(16).collect::<String>()))).unwrap_or_default();
    match (p.attested, &p.note) {
        (true, _) => format!("yes{digest}"),
        (false, Some(note)) => format!("no: {}{digest}", brief(note, 200)),
        (false, None) => format!("no: `beadle doctor {}` was not run", safe(&doc.agent)),
    }
}
