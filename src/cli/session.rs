//! Sessions: list, show, processes, prompt, stop, kill, wait, remove.

use std::time::Duration;

use super::approvals::commands;
use super::args::{LsArgs, RmArgs, SendArgs, StopArgs, WaitArgs};
use super::exit::Exit;
use super::run::read_prompt;
use super::text::{age, brief, count, kib, micros, money, safe};
use super::timeline::{end, tokens};
use super::{Context, Outcome};
use crate::api::client::Client;
use crate::api::types::{ApprovalDoc, ApprovalsQuery, PAGE_MAX, ProcessDoc, SessionDoc, SessionsQuery, StopRequest};
use crate::model::{Clock, Status, SystemClock};

/// Newest first; pages until the limit.
pub async fn ls(cx: &mut Context, args: LsArgs) -> Outcome {
    let client = cx.client()?;
    let label = args.label.map(|(k, v)| format!("{k}={v}"));
    let mut left = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut wanted = SessionsQuery { status: args.status, agent: args.agent, label, ..SessionsQuery::default() };
    let mut rows = Vec::new();
    let now = SystemClock.wall_ms();
    loop {
        wanted.limit = Some(left.min(PAGE_MAX));
        let page = client.sessions(&wanted).await?;
        left = left.saturating_sub(page.items.len());
        for doc in &page.items {
            match (cx.printer.json(), cx.printer.quiet()) {
                (true, _) => cx.printer.document(doc)?,
                (_, true) => cx.printer.line(&safe(&doc.id))?,
                _ => rows.push(row(doc, now)),
            }
        }
        wanted.cursor = page.next;
        if left == 0 || wanted.cursor.is_none() || page.items.is_empty() {
            break;
        }
    }
    if !cx.printer.json() && !cx.printer.quiet() {
        if rows.is_empty() {
            cx.printer.note("no session; start one with `beadle run`")?;
        } else {
            cx.printer.table(&["ID", "NAME", "AGENT", "STATUS", "MEDIATION", "CALLS", "DENIED", "COST", "AGE"], &rows)?;
        }
    }
    Ok(Exit::Done)
}

fn row(doc: &SessionDoc, now: i64) -> Vec<String> {
    let mut status = doc.outcome.map_or(doc.status.as_str(), |o| o.as_str()).to_owned();
    if doc.waiting_count > 0 {
        status.push_str(&format!(" (asks {})", count(doc.waiting_count)));
    }
    vec![
        safe(&doc.id),
        brief(&doc.name, 30),
        brief(&doc.agent, 20),
        status,
        standing(doc),
        count(doc.call_count),
        count(doc.denied_count),
        doc.cost.as_ref().map(money).unwrap_or_else(|| "-".to_owned()),
        age(&doc.created_at, now),
    ]
}

/// What stands between the agent and its tools, and whether that was seen to hold for this very program.
fn standing(doc: &SessionDoc) -> String {
    let attested = if doc.program.as_ref().is_some_and(|p| p.attested) { ", attested" } else { "" };
    format!("{}{attested}", doc.mediation.as_str())
}

/// The program's attestation in words; empty for agents that have none.
fn attested(doc: &SessionDoc) -> String {
    let Some(p) = &doc.program else { return String::new() };
    let digest = p.digest.as_deref().map(|d| format!(" (BLAKE3 {}…)", safe(&d.chars().take(16).collect::<String>()))).unwrap_or_default();
    match (p.attested, &p.note) {
        (true, _) => format!("yes{digest}"),
        (false, Some(note)) => format!("no: {}{digest}", brief(note, 200)),
        (false, None) => format!("no: `beadle doctor {}` was not run", safe(&doc.agent)),
    }
}

/// Everything known about one session, and the questions that wait for an answer.
pub async fn show(cx: &mut Context, id: &str) -> Outcome {
    let client = cx.client()?;
    let doc = client.session(id).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
        return Ok(Exit::Done);
    }
    cx.printer.fields(&fields(&doc))?;
    if doc.waiting_count > 0 {
        for line in questions(&client, &doc.id).await? {
            cx.printer.line(&line)?;
        }
    }
    Ok(Exit::Done)
}

fn fields(doc: &SessionDoc) -> Vec<(&'static str, String)> {
    let text = |v: &Option<String>| v.as_deref().map(|t| brief(t, 200)).unwrap_or_default();
    let number = |n: u64| if n == 0 { String::new() } else { count(n) };
    let labels: Vec<String> = doc.labels.iter().map(|(k, v)| format!("{}={}", safe(k), safe(v))).collect();
    let words: Vec<String> = doc.command.iter().map(|w| safe(w)).collect();
    let ended = match (doc.exit_code, doc.signal) {
        (_, Some(s)) => format!("signal {s}"),
        (Some(c), None) => format!("code {c}"),
        _ => String::new(),
    };
    let context = match (doc.context_used, doc.context_window) {
        (Some(u), Some(w)) => format!("{} of {} tokens", count(u), count(w)),
        (Some(u), None) => format!("{} tokens", count(u)),
        _ => String::new(),
    };
    let cost = match (&doc.cost, doc.unpriced_count) {
        (Some(c), 0) => money(c),
        (Some(c), n) => format!("{} and {n} responses without a known price", money(c)),
        (None, 0) => String::new(),
        (None, n) => format!("unknown ({n} responses without a known price)"),
    };
    let note = doc.mediation_note.as_deref().map(|n| format!(" ({})", brief(n, 200))).unwrap_or_default();
    vec![
        ("id", safe(&doc.id)),
        ("name", brief(&doc.name, 200)),
        ("agent", format!("{} {}", safe(&doc.agent), text(&doc.agent_version)).trim_end().to_owned()),
        ("status", doc.outcome.map_or_else(|| doc.status.as_str().to_owned(), |o| format!("{}, {}", doc.status.as_str(), o.as_str()))),
        ("exit", ended),
        ("mediation", format!("{}{note}", doc.mediation.as_str())),
        ("attested", attested(doc)),
        ("command", brief(&words.join(" "), 400)),
        ("cwd", brief(&doc.cwd, 400)),
        ("write root", text(&doc.write_root)),
        ("labels", labels.join(" ")),
        ("created", safe(&doc.created_at)),
        ("started", text(&doc.started_at)),
        ("ended", text(&doc.ended_at)),
        ("attempt", doc.attempt.to_string()),
        ("pid", doc.pid.map(|p| p.to_string()).unwrap_or_default()),
        ("agent's id", text(&doc.agent_session_id)),
        ("model", text(&doc.model)),
        ("context", context),
        ("tokens", if doc.usage.total() > 0 { tokens(doc.usage) } else { String::new() }),
        ("cost", cost),
        ("agent's cost", doc.agent_cost.as_ref().map(money).unwrap_or_default()),
        ("turns", number(doc.turn_count)),
        ("calls", number(doc.call_count)),
        ("allowed", number(doc.allowed_count)),
        ("denied", number(doc.denied_count)),
        ("asked", number(doc.asked_count)),
        ("changed", number(doc.rewritten_count)),
        ("waiting", number(doc.waiting_count)),
        ("breaches", number(doc.breach_count)),
        ("plugin failures", number(doc.plugin_failure_count)),
        ("flagged results", number(doc.flagged_count)),
        (
            "verdict",
            doc.verdict.as_ref().map(|v| brief(&format!("{} {}", v.as_str(), v.text()), 400).trim_end().to_owned()).unwrap_or_default(),
        ),
        ("last words", text(&doc.last_text)),
        ("events", count(doc.last_seq)),
    ]
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

/// The tree of a session's processes.
pub async fn ps(cx: &mut Context, id: &str) -> Outcome {
    let page = cx.client()?.processes(id).await?;
    if cx.printer.json() {
        for doc in &page.items {
            cx.printer.document(doc)?;
        }
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        cx.printer.note("no process is left")?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = page.items.iter().map(|p| process_row(p, &page.items)).collect();
    cx.printer.table(&["PID", "ROLE", "RSS", "PSS", "CPU", "COMMAND"], &rows)?;
    Ok(Exit::Done)
}

fn process_row(p: &ProcessDoc, all: &[ProcessDoc]) -> Vec<String> {
    let words: Vec<String> = p.cmdline.iter().map(|w| safe(w)).collect();
    let command = if words.is_empty() { format!("[{}]", safe(&p.name)) } else { brief(&words.join(" "), 120) };
    vec![
        p.pid.to_string(),
        safe(&p.role),
        kib(p.rss_kb),
        p.pss_kb.map_or_else(|| "-".to_owned(), kib),
        micros(p.cpu_ms.saturating_mul(1000)),
        format!("{}{command}", "  ".repeat(depth(p, all))),
    ]
}

/// How many ancestors are in the list; bounded, since a list could hold a circle.
fn depth(p: &ProcessDoc, all: &[ProcessDoc]) -> usize {
    let parent = |ppid: u32| all.iter().find(|q| q.pid == ppid);
    std::iter::successors(parent(p.ppid), |q| parent(q.ppid)).take(20).count()
}

/// The next prompt.
pub async fn send(cx: &mut Context, args: SendArgs) -> Outcome {
    let prompt = read_prompt(args.prompt)?;
    let doc = cx.client()?.send_prompt(&args.session, &prompt).await?;
    say(cx, &doc, "has the prompt")
}

/// TERM, grace, KILL; waits for the end unless told not to.
pub async fn stop(cx: &mut Context, args: StopArgs) -> Outcome {
    end_session(cx, &args.session, StopRequest { grace_ms: args.grace, kill: false }, !args.no_wait).await
}

/// KILL at once; waits for the end.
pub async fn kill(cx: &mut Context, id: &str) -> Outcome {
    end_session(cx, id, StopRequest { grace_ms: None, kill: true }, true).await
}

async fn end_session(cx: &mut Context, id: &str, how: StopRequest, wait: bool) -> Outcome {
    let client = cx.client()?;
    let mut doc = client.stop(id, how).await?;
    if wait {
        doc = client.wait(&doc.id, None).await?;
    }
    let word = doc.outcome.map_or(doc.status.as_str(), |o| o.as_str());
    say(cx, &doc, word)
}

/// Waits for the end; the exit is the agent's own.
pub async fn wait(cx: &mut Context, args: WaitArgs) -> Outcome {
    let doc = cx.client()?.wait(&args.session, args.timeout.map(Duration::from_secs)).await?;
    if doc.status != Status::Ended {
        cx.printer.notice(super::printer::Tone::Bad, &format!("{} has not ended: {}", safe(&doc.id), doc.status.as_str()))?;
        return Ok(Exit::No);
    }
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else if !cx.printer.quiet() {
        let line = end(&doc);
        cx.printer.toned(line.tone, &line.text)?;
    }
    Ok(Exit::of_session(&doc))
}

/// Removes sessions one by one; the first that cannot be removed ends it.
pub async fn rm(cx: &mut Context, args: RmArgs) -> Outcome {
    let client = cx.client()?;
    for id in &args.sessions {
        let doc = client.remove(id, args.force).await?;
        say(cx, &doc, "removed")?;
    }
    Ok(Exit::Done)
}

fn say(cx: &mut Context, doc: &SessionDoc, what: &str) -> Outcome {
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(doc)?,
        (_, true) => cx.printer.line(&safe(&doc.id))?,
        _ => cx.printer.line(&format!("{} {what}", safe(&doc.id)))?,
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;
    use crate::model::SessionProgram;

    #[test]
    fn a_row_tells_mediation_and_who_waits() {
        let doc = SessionDoc { outcome: None, status: Status::Running, waiting_count: 1, name: "a\x1bb".into(), ..sample::session() };
        let row = row(&doc, 1_767_225_600_000 + 5_000);
        assert_eq!(row, ["fix-mwpus4jk-bbbbb", "a\\x1bb", "claude", "running (asks 1)", "gate", "3", "1", "$0.0229875", "5s"]);
    }

    #[test]
    fn a_row_and_the_fields_tell_whether_the_program_is_attested() {
        let program = |digest: Option<&str>, attested, note: Option<&str>| {
            let program = SessionProgram { digest: digest.map(str::to_owned), attested, note: note.map(str::to_owned) };
            SessionDoc { program: Some(program), ..sample::session() }
        };
        let yes = program(Some("0123456789abcdef01"), true, None);
        assert_eq!((standing(&yes).as_str(), attested(&yes).as_str()), ("gate, attested", "yes (BLAKE3 0123456789abcdef…)"));
        let no = program(None, false, None);
        assert_eq!((standing(&no).as_str(), attested(&no).as_str()), ("gate", "no: `beadle doctor claude` was not run"));
        assert_eq!(attested(&program(None, false, Some("why\x1b"))), "no: why\\x1b");
        assert_eq!(attested(&sample::session()), "");
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let p = |pid, ppid| ProcessDoc {
            pid,
            ppid,
            start: 1,
            role: "descendant".into(),
            name: "x".into(),
            cmdline: vec![],
            rss_kb: 1,
            pss_kb: None,
            cpu_ms: 0,
        };
        assert_eq!(depth(&p(1, 2), &[p(1, 2), p(2, 1)]), 20);
        assert_eq!(depth(&p(3, 2), &[p(2, 9), p(3, 2)]), 1);
    }
}
