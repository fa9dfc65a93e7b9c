//! `beadle session ...`: what another program writes into a session of its own.
//!
//! Called by `mod.rs`.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde_json::Value;

use super::args::session::{AppendArgs, AttemptEndArgs, AttemptStartArgs, CreateArgs, EndArgs, SessionVerb, WhichArgs, document};
use super::exit::{Exit, UsageError};
use super::printer::Tone;
use super::run::read_prompt;
use super::text::safe;
use super::{Context, Outcome};
use crate::api::client::{Client, Error, losses};
use crate::api::types::{BriefRequest, OpenRequest, WRITE_BODY_MAX, WriteRequest, WroteDoc};
use crate::model::written::{AttemptEnd, AttemptStart, End, WRITES_MAX, Write, Written};

/// How long an emitter that must not block waits, from its first byte sent to the answer.
const NO_WAIT: Duration = Duration::from_millis(100);

pub async fn run(cx: &mut Context, verb: SessionVerb) -> Outcome {
    match verb {
        SessionVerb::Create(args) => create(cx, args).await,
        SessionVerb::AttemptStart(args) => attempt_start(cx, args).await,
        SessionVerb::AttemptEnd(args) => attempt_end(cx, args).await,
        SessionVerb::Append(args) => append(cx, args).await,
        SessionVerb::End(args) => end(cx, args).await,
    }
}

async fn create(cx: &mut Context, args: CreateArgs) -> Outcome {
    let cwd = match args.cwd {
        Some(dir) => Some(dir.canonicalize().map_err(|e| UsageError(format!("--cwd {}: {e}", dir.display())))?.display().to_string()),
        None => None,
    };
    let open = OpenRequest {
        key: args.key,
        name: args.name,
        agent: args.agent,
        cwd,
        prompt: args.prompt.map(read_prompt).transpose()?,
        labels: args.labels.into_iter().collect(),
        brief: args.brief.into(),
        idle_ms: args.idle_ms,
    };
    let until = args.no_wait.then(|| tokio::time::Instant::now() + NO_WAIT);
    match send(cx, until, &WriteRequest { open: Some(open), ..WriteRequest::default() }).await? {
        Ok(doc) => say(cx, &doc, if doc.opened { "is open" } else { "was open already" }),
        // why not counted: no event is lost, and what is asked here can be asked again.
        Err(why) => {
            cx.printer.notice(Tone::Bad, &format!("given up: {why}; the next write that names it opens it"))?;
            if cx.printer.json() {
                cx.printer.document(&serde_json::json!({ "acknowledged": false, "key": null }))?;
            }
            Ok(Exit::Done)
        }
    }
}

async fn attempt_start(cx: &mut Context, args: AttemptStartArgs) -> Outcome {
    let what = AttemptStart {
        number: args.number,
        agent: args.agent,
        phase: args.phase,
        tier: args.tier,
        model: args.model,
        warm: args.warm.then_some(true),
        prompt: args.prompt.map(read_prompt).transpose()?,
    };
    write(cx, args.which, vec![Written::AttemptStarted(what).into()], "has a new attempt").await
}

async fn attempt_end(cx: &mut Context, args: AttemptEndArgs) -> Outcome {
    let what = AttemptEnd {
        number: args.number,
        success: Some(args.success),
        duration_ms: args.duration_ms,
        cost_nanousd: args.cost_nanousd,
        error: args.error,
        model: args.model,
        checkpoint: args.checkpoint,
        is_final: args.is_final,
        output_summary: args.summary,
        runner_output: None,
    };
    write(cx, args.which, vec![Written::AttemptEnded(what).into()], "has no open attempt").await
}

async fn append(cx: &mut Context, args: AppendArgs) -> Outcome {
    let writes = match args.event.as_slice() {
        [] => from_lines(args.file.as_deref())?,
        [kind, rest @ ..] => vec![read(document(kind, rest.first().map(String::as_str)).map_err(UsageError)?, kind)?],
    };
    write(cx, args.which, writes, "is written to").await
}

async fn end(cx: &mut Context, args: EndArgs) -> Outcome {
    let what = End { success: Some(args.success), reason: args.reason };
    write(cx, args.which, vec![Written::SessionEnded(what).into()], "has ended").await
}

/// Events of a file or of standard input, one a line; the first that is none is named.
fn from_lines(file: Option<&std::path::Path>) -> anyhow::Result<Vec<Write>> {
    let source: Box<dyn Read> = match file.filter(|f| f.as_os_str() != "-") {
        Some(path) => Box::new(std::fs::File::open(path).map_err(|e| UsageError(format!("{}: {e}", path.display())))?),
        None => Box::new(std::io::stdin().lock()),
    };
    let mut writes = Vec::new();
    for (n, line) in BufReader::new(source.take(WRITE_BODY_MAX as u64 + 1)).lines().enumerate() {
        let line = line.map_err(|e| UsageError(format!("line {}: {e}", n + 1)))?;
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(&line).map_err(|e| UsageError(format!("line {} is not JSON: {e}", n + 1)))?;
        writes.push(read(value, &format!("line {}", n + 1))?);
        if writes.len() > WRITES_MAX {
            return Err(UsageError(format!("over {WRITES_MAX} events; `append` writes all or none, so give it fewer at a time")).into());
        }
    }
    if writes.is_empty() {
        return Err(UsageError("there is no event to write; give --event, --file, or JSON lines on standard input".to_owned()).into());
    }
    Ok(writes)
}

fn read(value: Value, place: &str) -> anyhow::Result<Write> {
    let write: Write = serde_json::from_value(value).map_err(|e| UsageError(format!("{place} is no event that can be written: {e}")))?;
    write.check().map_err(|e| UsageError(format!("{place}: {e}")))?;
    Ok(write)
}

/// Sends writes, with what was given up before.
async fn write(cx: &mut Context, which: WhichArgs, writes: Vec<Write>, done: &str) -> Outcome {
    let how = which.how;
    let open = match (&which.session, &which.open, &which.thread) {
        (Some(_), None, None) => None,
        (None, Some(_), _) | (None, None, Some(_)) => {
            let brief = BriefRequest { target: which.target, tenant: which.tenant, thread: which.thread, ..BriefRequest::default() };
            Some(OpenRequest { key: which.open, brief, ..OpenRequest::default() })
        }
        _ => return Err(UsageError("no session is named; give its id or name, or --open KEY, or --thread ID".to_owned()).into()),
    };
    let key = how.idempotency_key.clone().or_else(|| how.no_wait.then(losses::key));
    let request = WriteRequest { session: which.session, open, key, writes, lost: None };
    let folder = cx.folders()?.data.join(losses::FOLDER);
    let until = how.no_wait.then(|| tokio::time::Instant::now() + NO_WAIT);
    let mut given_up = None;
    // why before the write: it may be the session's last.
    while let Some((pending, lost)) = losses::Pending::of(&folder, &request) {
        let report = WriteRequest { key: None, writes: vec![], lost: Some(lost), ..request.clone() };
        match send(cx, until, &report).await? {
            Ok(doc) => {
                pending.told();
                if doc.lost > 0 {
                    cx.printer.notice(Tone::Bad, &format!("{} writes of before were lost; an event says so", doc.lost))?;
                }
            }
            Err(why) => {
                given_up = Some(why);
                break;
            }
        }
    }
    let sent = match given_up {
        Some(why) => Err(why),
        None => send(cx, until, &request).await?,
    };
    match sent {
        Ok(doc) => say(cx, &doc, if doc.repeated { "has it already" } else { done }),
        Err(why) => {
            losses::note(&folder, &request)?;
            cx.printer.notice(Tone::Bad, &format!("given up, and counted: {why}"))?;
            if cx.printer.json() {
                cx.printer.document(&serde_json::json!({ "acknowledged": false, "key": request.key }))?;
            }
            Ok(Exit::Done)
        }
    }
}

/// The inner error is why it was given up, by an emitter that must not block.
async fn send(cx: &Context, until: Option<tokio::time::Instant>, request: &WriteRequest) -> anyhow::Result<Result<WroteDoc, String>> {
    let Some(until) = until else { return Ok(Ok(cx.client()?.write(request).await?)) };
    // why no daemon is started: that takes longer than such an emitter may wait.
    let client = Client::without_start(cx.folders()?);
    match tokio::time::timeout_at(until, client.write(request)).await {
        Ok(Ok(doc)) => Ok(Ok(doc)),
        Ok(Err(e @ Error::Refused { status: 400..=499, .. })) => Err(e.into()),
        Ok(Err(e)) => Ok(Err(e.to_string())),
        Err(_) => Ok(Err(format!("no answer within {} ms", NO_WAIT.as_millis()))),
    }
}

fn say(cx: &mut Context, doc: &WroteDoc, what: &str) -> Outcome {
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(doc)?,
        (_, true) => cx.printer.line(&safe(&doc.session.id))?,
        _ => cx.printer.line(&format!("{} {what}", safe(&doc.session.id)))?,
    }
    Ok(Exit::Done)
}
