//! `beadle queue`: lanes and who waits in them, dead letters, and a worker's words.

use std::io::Read;

use super::args::{LeaseArgs, LeaseWordArgs, QueueMoveArgs, QueueVerb};
use super::confirm::confirmed;
use super::exit::{Exit, UsageError};
use super::session::say;
use super::text::{age, brief, count, micros, safe};
use super::{Context, Outcome};
use crate::api::types::{
    LaneAct, LaneDoc, LaneRequest, LeaseAct, LeaseRequest, LeaseWord, QueueDoc, QueueMoveRequest, QueueQuery, QueuedDoc, SessionDoc,
    SessionQueueDoc, WORKER_OUTPUT,
};
use crate::model::{Clock, SystemClock};

pub async fn run(cx: &mut Context, verb: QueueVerb) -> Outcome {
    match verb {
        QueueVerb::Ls(a) => ls(cx, a.lane).await,
        QueueVerb::Stats => {
            let doc = cx.client()?.queue().await?;
            stats(cx, &doc)
        }
        QueueVerb::Start(a) => hold(cx, a.lane, LaneAct::Start).await,
        QueueVerb::Pause(a) => hold(cx, a.lane, LaneAct::Pause).await,
        QueueVerb::Stop(a) => hold(cx, a.lane, LaneAct::Stop).await,
        QueueVerb::Rm { sessions } => {
            let client = cx.client()?;
            for id in &sessions {
                let doc = client.remove_queued(id).await?;
                say(cx, &doc, "is out of the queue; its log stays")?;
            }
            Ok(Exit::Done)
        }
        QueueVerb::Move(a) => move_to(cx, a).await,
        QueueVerb::Dead(a) => dead(cx, a.lane).await,
        QueueVerb::Retry { sessions } => {
            for id in &sessions {
                let doc = confirmed(cx, None, async |client| client.retry_dead(id).await).await?;
                say(cx, &doc, "tries it again")?;
            }
            Ok(Exit::Done)
        }
        QueueVerb::Lease(a) => lease(cx, a).await,
        QueueVerb::Heartbeat(of) => settle(cx, of, word(LeaseAct::Heartbeat), "goes on").await,
        QueueVerb::Complete { of, output, exit_code } => {
            let output = output.map(read_output).transpose()?;
            settle(cx, of, LeaseWord { output, exit_code, ..word(LeaseAct::Complete) }, "is done").await
        }
        QueueVerb::Fail { of, reason, exit_code, last } => {
            settle(cx, of, LeaseWord { reason: Some(reason), exit_code, last, ..word(LeaseAct::Fail) }, "is told as failed").await
        }
        QueueVerb::Release { of, reason } => settle(cx, of, LeaseWord { reason, ..word(LeaseAct::Release) }, "is given back").await,
    }
}

const fn word(act: LeaseAct) -> LeaseWord {
    LeaseWord { lease: 0, act, exit_code: None, output: None, reason: None, last: false }
}

async fn settle(cx: &mut Context, of: LeaseWordArgs, said: LeaseWord, what: &str) -> Outcome {
    let doc = cx.client()?.settle_lease(&of.session, &LeaseWord { lease: of.lease, ..said }).await?;
    say(cx, &doc, what)
}

fn read_output(text: String) -> anyhow::Result<String> {
    if text != "-" {
        return Ok(text);
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(WORKER_OUTPUT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > WORKER_OUTPUT {
        return Err(UsageError(format!("the output has over {WORKER_OUTPUT} bytes; leave it in a file and name that")).into());
    }
    Ok(String::from_utf8(bytes).map_err(|_| UsageError("the output on standard input is not UTF-8 text".into()))?)
}

async fn ls(cx: &mut Context, lane: Option<String>) -> Outcome {
    let page = cx.client()?.queued(&QueueQuery { lane }).await?;
    for item in &page.items {
        match (cx.printer.json(), cx.printer.quiet()) {
            (true, _) => cx.printer.document(item)?,
            (_, true) => cx.printer.line(&safe(&item.session.id))?,
            _ => {}
        }
    }
    if cx.printer.json() || cx.printer.quiet() {
        return Ok(Exit::Done);
    }
    if page.items.is_empty() {
        cx.printer.note("nothing waits; `beadle run --queue` puts a session here")?;
        return Ok(Exit::Done);
    }
    let now = SystemClock.wall_ms();
    let rows: Vec<_> = page.items.iter().map(|i| row(i, now)).collect();
    cx.printer.table(&["PLACE", "ID", "NAME", "LANE", "PRIORITY", "OWNER", "STATE", "FAILED", "AGE"], &rows)?;
    Ok(Exit::Done)
}

fn row(item: &QueuedDoc, now: i64) -> Vec<String> {
    let doc = &item.session;
    let q = doc.queue.as_ref();
    let more = match item.state.as_str() {
        "delayed" => format!(" ({})", micros(item.left_ms.saturating_mul(1000))),
        "blocked" => item.after.first().map(|d| format!(" (after {})", safe(d.session.as_str()))).unwrap_or_default(),
        "leased" => q.and_then(|q| q.lease.as_ref()).map(|l| format!(" ({})", brief(&l.worker, 30))).unwrap_or_default(),
        _ => String::new(),
    };
    vec![
        item.place.map_or_else(|| "-".to_owned(), |p| p.to_string()),
        safe(&doc.id),
        brief(&doc.name, 30),
        q.map(|q| safe(&q.lane)).unwrap_or_default(),
        q.map(|q| q.priority.to_string()).unwrap_or_default(),
        brief(&doc.record.owner, 20),
        format!("{}{more}", safe(&item.state)),
        q.map(|q| q.failure_count.to_string()).unwrap_or_default(),
        q.map(|q| age(&q.queued_at, now)).unwrap_or_default(),
    ]
}

/// One line of `show`: where it stands, or stood.
pub(super) fn story(q: &SessionQueueDoc) -> String {
    let mut out = format!("lane {} ({}), priority {}", safe(&q.lane), q.handler.as_str(), q.priority);
    let mut and = |text: String| {
        out.push_str(", ");
        out.push_str(&text);
    };
    if let Some(at) = &q.not_before {
        and(format!("not before {}", safe(at)));
    }
    for d in &q.after {
        and(format!("after {}:{}", safe(d.session.as_str()), d.outcome));
    }
    if let Some(ms) = q.waited_ms {
        and(format!("waited {}", micros(ms.saturating_mul(1000))));
    }
    if let Some(l) = &q.lease {
        and(format!("lease {} of {}", l.number, brief(&l.worker, 64)));
    }
    if q.failure_count > 0 {
        and(format!("{} failed: {}", q.failure_count, brief(q.reason.as_deref().unwrap_or_default(), 200)));
    }
    if let Some(id) = &q.retry_of {
        and(format!("tries {} again", safe(id)));
    }
    if let Some(id) = &q.retried_as {
        and(format!("tried again as {}", safe(id)));
    }
    if q.is_dead {
        and("dead letter: `beadle queue retry`".to_owned());
    }
    out
}

async fn hold(cx: &mut Context, lane: Option<String>, act: LaneAct) -> Outcome {
    let doc = cx.client()?.hold_lane(&LaneRequest { lane, act }).await?;
    stats(cx, &doc)
}

fn stats(cx: &mut Context, doc: &QueueDoc) -> Outcome {
    if cx.printer.json() {
        cx.printer.document(doc)?;
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        for lane in &doc.lanes {
            cx.printer.line(&format!("{} {}", safe(&lane.lane), lane.depth))?;
        }
        return Ok(Exit::Done);
    }
    if let Some(hold) = &doc.hold {
        cx.printer.note(&format!("the whole queue is {}", safe(hold)))?;
    }
    let ms = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| micros(n.saturating_mul(1000)));
    let row = |l: &LaneDoc| {
        let state = match (&l.hold, l.configured) {
            (_, false) => "not configured".to_owned(),
            (Some(h), _) => safe(h),
            _ => "open".to_owned(),
        };
        vec![
            safe(&l.lane),
            l.handler.as_str().to_owned(),
            state,
            count(l.depth),
            count(l.delayed),
            count(l.blocked),
            format!("{}/{}", count(l.running + l.leased), count(l.concurrency)),
            if l.depth == 0 { "-".to_owned() } else { ms(Some(l.oldest_ms)) },
            ms(l.wait_p50_ms),
            ms(l.wait_p99_ms),
            count(l.ended_last_hour),
            count(l.dead_last_hour),
        ]
    };
    let rows: Vec<_> = doc.lanes.iter().map(row).collect();
    let header = ["LANE", "HANDLER", "STATE", "DEPTH", "DELAYED", "BLOCKED", "RUNNING", "OLDEST", "WAIT P50", "P99", "ENDED/H", "DEAD/H"];
    cx.printer.table(&header, &rows)?;
    Ok(Exit::Done)
}

async fn move_to(cx: &mut Context, a: QueueMoveArgs) -> Outcome {
    let after = if a.after_none { Some(vec![]) } else { Some(a.after).filter(|l| !l.is_empty()) };
    let to = QueueMoveRequest { lane: a.lane, priority: a.priority, at: a.at, delay_ms: a.delay, after };
    if to == QueueMoveRequest::default() {
        return Err(UsageError("nothing to change was said; give --lane, --priority, --at, --in or --after".into()).into());
    }
    let doc = cx.client()?.move_queued(&a.session, &to).await?;
    say(cx, &doc, "is moved")
}

async fn dead(cx: &mut Context, lane: Option<String>) -> Outcome {
    let page = cx.client()?.dead(&QueueQuery { lane }).await?;
    let now = SystemClock.wall_ms();
    let mut rows = Vec::new();
    for doc in &page.items {
        match (cx.printer.json(), cx.printer.quiet()) {
            (true, _) => cx.printer.document(doc)?,
            (_, true) => cx.printer.line(&safe(&doc.id))?,
            _ => rows.push(dead_row(doc, now)),
        }
    }
    if rows.is_empty() && !cx.printer.json() && !cx.printer.quiet() {
        cx.printer.note("there is no dead letter")?;
    } else if !rows.is_empty() {
        cx.printer.table(&["ID", "NAME", "LANE", "OUTCOME", "AGE", "REASON"], &rows)?;
    }
    Ok(Exit::Done)
}

fn dead_row(doc: &SessionDoc, now: i64) -> Vec<String> {
    let why = doc.end_reason.clone().or_else(|| doc.exit_code.map(|c| format!("its agent ended with code {c}"))).unwrap_or_default();
    vec![
        safe(&doc.id),
        brief(&doc.name, 30),
        doc.queue.as_ref().map(|q| safe(&q.lane)).unwrap_or_default(),
        doc.outcome.map_or("", |o| o.as_str()).to_owned(),
        doc.ended_at.as_deref().map(|t| age(t, now)).unwrap_or_default(),
        brief(&why, 120),
    ]
}

/// Exits with 1 where no session is to be had.
async fn lease(cx: &mut Context, a: LeaseArgs) -> Outcome {
    let parent = std::os::unix::process::parent_id();
    let worker = a.worker.unwrap_or_else(|| format!("worker-{parent}"));
    let doc = cx.client()?.lease(&LeaseRequest { worker, lanes: a.lanes, wait_ms: a.wait }).await?;
    let Some(task) = doc.task else {
        if !cx.printer.quiet() && !cx.printer.json() {
            cx.printer.note("no session waits for a worker")?;
        }
        return Ok(Exit::No);
    };
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(&task)?,
        (_, true) => cx.printer.line(&format!("{} {}", safe(&task.session.id), task.lease.number))?,
        _ => {
            let words: Vec<String> = task.program.iter().chain(&task.args).map(|w| safe(w)).collect();
            cx.printer.fields(&[
                ("session", safe(&task.session.id)),
                ("lease", format!("{} for {} of silence", task.lease.number, micros(task.lease.timeout_ms.saturating_mul(1000)))),
                ("agent", safe(&task.agent)),
                ("command", brief(&words.join(" "), 400)),
                ("cwd", brief(&task.cwd, 400)),
                ("prompt", task.prompt.as_deref().map(|p| brief(p, 400)).unwrap_or_default()),
            ])?;
        }
    }
    Ok(Exit::Done)
}
