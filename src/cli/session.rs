//! Sessions: list, processes, prompt, stop, kill, wait, remove.

use std::time::Duration;

use super::args::{KillArgs, LsArgs, RmArgs, SendArgs, StopArgs, WaitArgs};
use super::exit::Exit;
use super::run::read_prompt;
use super::text::{age, brief, cost_cell, count, kib, micros, safe};
use super::timeline::end;
use super::{Context, Outcome};
use crate::api::types::{PAGE_MAX, ProcessDoc, SessionDoc, SessionsQuery, StopRequest};
use crate::model::{Clock, Status, SystemClock, TreeAct};

/// Newest first unless asked for otherwise; pages until the limit.
pub async fn ls(cx: &mut Context, args: LsArgs) -> Outcome {
    let client = cx.client()?;
    let mut left = if args.all { usize::MAX } else { usize::try_from(args.limit).unwrap_or(usize::MAX) };
    let mut wanted = SessionsQuery {
        status: args.status,
        outcome: args.outcome,
        agent: args.agent,
        name: args.name,
        owner: args.owner,
        mission: args.mission,
        phase: args.phase,
        tenant: args.tenant,
        thread: args.thread,
        parent: args.parent,
        label: SessionsQuery::label_of(&args.labels),
        since: args.since,
        until: args.until,
        sort: Some(args.sort),
        reverse: args.reverse.then_some(true),
        limit: None,
        cursor: args.cursor,
    };
    let (mut rows, mut listed) = (Vec::new(), Vec::new());
    let now = SystemClock.wall_ms();
    loop {
        wanted.limit = Some(left.min(PAGE_MAX));
        let page = client.sessions(&wanted).await?;
        left = left.saturating_sub(page.items.len());
        for doc in &page.items {
            match (cx.printer.json(), cx.printer.quiet()) {
                (true, _) => cx.printer.document(doc)?,
                (_, true) => cx.printer.line(&safe(&doc.id))?,
                _ if args.tree => listed.push(doc.clone()),
                _ => rows.push(row(doc, now)),
            }
        }
        wanted.cursor = page.next;
        if left == 0 || wanted.cursor.is_none() || page.items.is_empty() {
            break;
        }
    }
    rows.extend(super::tree::placed(&listed).into_iter().map(|(depth, doc)| {
        let mut cells = row(doc, now);
        cells[0].insert_str(0, &super::tree::lead(depth));
        cells
    }));
    match (&wanted.cursor, cx.printer.json(), cx.printer.quiet()) {
        (Some(next), true, _) => cx.printer.document(&serde_json::json!({ "next": next }))?,
        (_, true, _) | (_, _, true) => {}
        (_, _, _) if rows.is_empty() => cx.printer.note("no session; start one with `beadle run`")?,
        (next, ..) => {
            cx.printer.table(&["ID", "NAME", "AGENT", "OWNER", "STATUS", "MEDIATION", "CALLS", "DENIED", "COST", "AGE"], &rows)?;
            if let Some(next) = next {
                cx.printer.note(&format!("there are more: the same command with --cursor {}", safe(next)))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn row(doc: &SessionDoc, now: i64) -> Vec<String> {
    let mut status = doc.outcome.map_or(doc.status.as_str(), |o| o.as_str()).to_owned();
    if let Some(p) = doc.pause.as_ref().filter(|_| doc.status == Status::Paused) {
        status.push_str(&format!(" ({})", p.mode.as_str()));
    }
    if let Some(n) = &doc.scheduled {
        status.push_str(&format!(" (attempt {} follows)", n.attempt));
    }
    if !doc.rolled_back.is_empty() {
        status.push_str(" (rolled back)");
    }
    if doc.waiting_count > 0 {
        status.push_str(&format!(" (asks {})", count(doc.waiting_count)));
    }
    vec![
        safe(&doc.id),
        brief(&doc.name, 30),
        brief(&doc.agent, 20),
        brief(&doc.record.owner, 20),
        status,
        standing(doc),
        count(doc.call_count),
        count(doc.denied_count),
        cost_cell(doc.cost.as_ref(), doc.unpriced_count),
        age(&doc.created_at, now),
    ]
}

/// What stands between the agent and its tools, and whether that was seen to hold for this very program.
fn standing(doc: &SessionDoc) -> String {
    let attested = if doc.program.as_ref().is_some_and(|p| p.attested) { ", attested" } else { "" };
    format!("{}{attested}", doc.mediation.as_str())
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
    if args.tree {
        return super::tree::end(cx, &args.session, TreeAct::Stop, args.grace, !args.no_wait).await;
    }
    end_session(cx, &args.session, StopRequest { grace_ms: args.grace, kill: false }, !args.no_wait).await
}

/// KILL at once; waits for the end.
pub async fn kill(cx: &mut Context, args: KillArgs) -> Outcome {
    if args.tree {
        return super::tree::end(cx, &args.session, TreeAct::Kill, None, true).await;
    }
    end_session(cx, &args.session, StopRequest { grace_ms: None, kill: true }, true).await
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

pub(super) fn say(cx: &mut Context, doc: &SessionDoc, what: &str) -> Outcome {
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
    use crate::cli::show::attested;
    use crate::model::SessionProgram;

    #[test]
    fn a_row_tells_mediation_and_who_waits() {
        let doc = SessionDoc { outcome: None, status: Status::Running, waiting_count: 1, name: "a\x1bb".into(), ..sample::session() };
        let row = row(&doc, 1_767_225_600_000 + 5_000);
        assert_eq!(
            row,
            ["fix-mwpus4jk-bbbbb", "a\\x1bb", "claude", "Unassigned", "running (asks 1)", "gate", "3", "1", "$0.0229875", "5s"]
        );
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
