//! `beadle import`: another system's log, line by line, into sessions of their own.
//!
//! Invariants: memory is bounded (one line of at most [`lines::LINE_BYTES_MAX`], one batch a session, [`SESSIONS_MAX`] sessions); a line that
//! is torn, too long or none of the format is left out and named, and the others go on; each write has a key made of its line, so the
//! same file again adds nothing, and a file that has grown adds what is new where its session was left open (`--open`); where it was ended
//! the error says so.
//!
//! Called by `mod.rs`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use super::args::import::{ImportArgs, ImportFormat};
use super::exit::{Coded, Exit, UsageError};
use super::printer::Tone;
use super::text::{brief, count, safe};
use super::{Context, Outcome};
use crate::api::client::{self, Client};
use crate::api::types::{BriefRequest, OpenRequest, WriteRequest, WroteDoc};
use crate::model::Status;
use crate::model::written::{AttemptEnd, AttemptStart, End, Write, Written};

mod agents;
pub mod lines;
mod read;

use lines::{LINE_BYTES_MAX, Line, SENT_BYTES_MAX};
use read::{Found, Reader};

/// Most sessions of one file.
const SESSIONS_MAX: usize = 1_000;
/// Writes, and bytes of lines, that are collected before they are sent.
const BATCH_WRITES: usize = 200;
const BATCH_BYTES: usize = 1 << 20;
/// Lines left out that are named; the rest are counted.
const NAMED_MAX: usize = 100;
/// Lines without a format that are passed over while it is looked for.
const GUESS_LINES: u64 = 100;

/// One session of the file.
#[derive(Debug)]
struct Part {
    open: OpenRequest,
    /// In the log by id, once it was written to.
    id: Option<String>,
    waiting: Vec<Write>,
    bytes: usize,
    attempt: bool,
    new: u64,
    known: u64,
    last_at: Option<String>,
}

/// What was left out.
#[derive(Debug, Default)]
struct LeftOut {
    named: Vec<(u64, String)>,
    count: u64,
}

impl LeftOut {
    fn add(&mut self, line: u64, why: String) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push((line, why));
        }
    }
}

struct Import {
    client: Client,
    format: ImportFormat,
    target: Option<String>,
    reader: Reader,
    /// Tells files of one session apart: made of its first whole line.
    file: Option<String>,
    parts: BTreeMap<String, Part>,
    left_out: LeftOut,
    /// Lines whose long texts were cut.
    shortened: u64,
    lines: u64,
}

pub async fn import(cx: &mut Context, args: ImportArgs) -> Outcome {
    let source: Box<dyn Read> = match args.file.to_str() {
        Some("-") => Box::new(std::io::stdin().lock()),
        _ => Box::new(std::fs::File::open(&args.file).map_err(|e| UsageError(format!("{}: {e}", args.file.display())))?),
    };
    let name = args.file.file_stem().map_or_else(|| "import".to_owned(), |n| n.to_string_lossy().into_owned());
    let mut import = Import {
        client: cx.client()?,
        format: args.format,
        target: args.target,
        reader: Reader::default(),
        file: None,
        parts: BTreeMap::new(),
        left_out: LeftOut::default(),
        shortened: 0,
        lines: 0,
    };
    let mut from = BufReader::with_capacity(256 << 10, source);
    import.all(&mut from, &name).await?;
    if import.format == ImportFormat::Auto {
        let why = "no line tells whose they are; give --format hyperguild, shannon, claude, codex, gemini, opencode or beadle";
        return Err(UsageError(format!("{}: {why}", args.file.display())).into());
    }
    let is_transcript = !matches!(import.format, ImportFormat::Hyperguild | ImportFormat::Shannon);
    import.finish(args.end || (is_transcript && !args.open)).await?;
    report(cx, &import)
}

impl Import {
    async fn all(&mut self, from: &mut impl BufRead, name: &str) -> anyhow::Result<()> {
        while let Some(line) = lines::next(from, LINE_BYTES_MAX)? {
            self.lines += 1;
            let (bytes, torn) = match line {
                Line::TooLong(len) => {
                    self.left_out.add(self.lines, format!("it has {len} bytes, over the limit of {LINE_BYTES_MAX}"));
                    continue;
                }
                Line::Whole { bytes, torn } => (bytes, torn),
            };
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let mut value: Value = match serde_json::from_slice(&bytes) {
                Ok(value) => value,
                Err(_) if self.is_header(&bytes) => continue,
                Err(e) if torn => {
                    self.left_out.add(self.lines, format!("it is torn: the file ends within it ({e})"));
                    continue;
                }
                Err(e) => {
                    self.left_out.add(self.lines, format!("it is not JSON: {e}"));
                    continue;
                }
            };
            if self.format == ImportFormat::Auto {
                match read::guess(&value) {
                    Some(format) => self.format = format,
                    None if self.lines <= GUESS_LINES => {
                        self.left_out.add(self.lines, "nothing tells whose line it is".to_owned());
                        continue;
                    }
                    None => return Ok(()),
                }
            }
            let is_long = bytes.len() > SENT_BYTES_MAX;
            if is_long && !lines::fit(&mut value, SENT_BYTES_MAX) {
                self.left_out
                    .add(self.lines, format!("it has {} bytes, and without its long texts still over {SENT_BYTES_MAX}", bytes.len()));
                continue;
            }
            self.shortened += u64::from(is_long);
            if let Err(why) = self.line(&value, &bytes, name).await? {
                self.left_out.add(self.lines, why);
            }
        }
        Ok(())
    }

    fn is_header(&mut self, bytes: &[u8]) -> bool {
        let may_be = matches!(self.format, ImportFormat::Auto | ImportFormat::Shannon);
        may_be && self.file.is_none() && std::str::from_utf8(bytes).is_ok_and(|l| self.reader.header(l))
    }

    /// The inner error is why the line is left out.
    async fn line(&mut self, value: &Value, bytes: &[u8], name: &str) -> anyhow::Result<Result<(), String>> {
        let found = match self.reader.line(self.format, self.lines, value) {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        let digest = blake3::hash(bytes).to_hex();
        let file = self.file.get_or_insert_with(|| digest[..12].to_owned()).clone();
        if found.writes.is_empty() && found.session.is_none() {
            return Ok(Ok(()));
        }
        for w in &found.writes {
            if let Err(e) = w.check() {
                return Ok(Err(e.to_string()));
            }
        }
        let session = found.session.clone().or_else(|| self.reader.session.clone()).unwrap_or_else(|| name.to_owned());
        let key: String = format!("{}:{session}", self.word()).chars().filter(|c| !c.is_control()).collect();
        let key = key[..key.floor_char_boundary(200)].to_owned();
        if !self.parts.contains_key(&key) {
            if found.writes.is_empty() {
                return Ok(Ok(()));
            }
            if self.parts.len() >= SESSIONS_MAX {
                return Ok(Err(format!("it is of one more session than {SESSIONS_MAX}, the limit of a file")));
            }
            let part = self.begin(&key, &session, &found);
            self.parts.insert(key.clone(), part);
        }
        let Some(part) = self.parts.get_mut(&key) else { return Ok(Ok(())) };
        for (i, mut w) in found.writes.into_iter().enumerate() {
            let needs_attempt = !matches!(w.what, Written::AttemptStarted(_) | Written::InvocationRecorded(_));
            if needs_attempt && !part.attempt {
                let what = Written::AttemptStarted(AttemptStart::default());
                part.waiting.push(Write { at: w.at.clone(), key: Some(format!("{file}:{}:attempt", self.lines)), what });
                part.attempt = true;
            }
            match &w.what {
                Written::AttemptStarted(_) if part.attempt => {
                    let what = Written::AttemptEnded(AttemptEnd::default());
                    part.waiting.push(Write { at: w.at.clone(), key: Some(format!("{file}:{}:over", self.lines)), what });
                }
                Written::AttemptStarted(_) => part.attempt = true,
                Written::AttemptEnded(_) => part.attempt = false,
                _ => {}
            }
            w.key = Some(format!("{file}:{}:{}.{i}", self.lines, &digest[..16]));
            part.last_at = w.at.clone().or(part.last_at.take());
            part.waiting.push(w);
        }
        part.bytes += bytes.len();
        if part.waiting.len() >= BATCH_WRITES || part.bytes >= BATCH_BYTES {
            flush(&self.client, part).await?;
        }
        Ok(Ok(()))
    }

    const fn word(&self) -> &'static str {
        match self.format {
            ImportFormat::Auto => "auto",
            ImportFormat::Hyperguild => "hyperguild",
            ImportFormat::Shannon => "shannon",
            ImportFormat::Claude => "claude",
            ImportFormat::Codex => "codex",
            ImportFormat::Gemini => "gemini",
            ImportFormat::Opencode => "opencode",
            ImportFormat::Beadle => "beadle",
        }
    }

    fn begin(&self, key: &str, session: &str, found: &Found) -> Part {
        let told = found.target.clone().or_else(|| self.reader.target.clone());
        let clean = |t: String| t.chars().filter(|c| !c.is_control()).take(250).collect::<String>();
        let target = self.target.clone().or_else(|| told.map(clean).filter(|t| !t.trim().is_empty())).unwrap_or_else(|| key.to_owned());
        let open = OpenRequest {
            key: Some(key.to_owned()),
            name: Some(clean(session.to_owned())),
            agent: Some(found.agent.clone().unwrap_or_else(|| self.word().to_owned())),
            cwd: found.cwd.clone(),
            labels: [("imported".to_owned(), self.word().to_owned())].into(),
            brief: BriefRequest { target: Some(target), ..BriefRequest::default() },
            ..OpenRequest::default()
        };
        Part { open, id: None, waiting: vec![], bytes: 0, attempt: false, new: 0, known: 0, last_at: None }
    }

    /// Sends what waits, and ends the sessions where that is wanted.
    async fn finish(&mut self, end: bool) -> anyhow::Result<()> {
        for part in self.parts.values_mut() {
            if end {
                let at = part.last_at.clone();
                if part.attempt {
                    let what = Written::AttemptEnded(AttemptEnd::default());
                    part.waiting.push(Write { at: at.clone(), key: Some("import:attempt over".to_owned()), what });
                }
                let what = Written::SessionEnded(End { success: None, reason: Some("imported".to_owned()) });
                part.waiting.push(Write { at, key: Some("import:end".to_owned()), what });
            }
            flush(&self.client, part).await?;
        }
        Ok(())
    }
}

/// Sends what waits of one session.
async fn flush(client: &Client, part: &mut Part) -> anyhow::Result<()> {
    if part.waiting.is_empty() {
        return Ok(());
    }
    let writes = std::mem::take(&mut part.waiting);
    part.bytes = 0;
    let all = writes.len() as u64;
    let (session, open) = match &part.id {
        Some(id) => (Some(id.clone()), None),
        None => (None, Some(part.open.clone())),
    };
    let request = WriteRequest { session, open, writes, ..WriteRequest::default() };
    let wrote: WroteDoc = match client.write(&request).await {
        Ok(wrote) => wrote,
        Err(e) => return Err(ended_before(client, part, e).await),
    };
    part.id = Some(wrote.session.id.clone());
    part.known += if wrote.repeated { all } else { 0 };
    part.new += if wrote.repeated { 0 } else { all };
    Ok(())
}

/// Why a session that an earlier import ended takes no more, in words of imports; other errors as they are.
async fn ended_before(client: &Client, part: &Part, e: client::Error) -> anyhow::Error {
    // Another time in the key of the end, or another line.
    if !matches!(e.code(), "BDL-WRITE-004" | "BDL-WRITE-006") {
        return e.into();
    }
    let name = part.id.as_deref().or(part.open.name.as_deref()).unwrap_or_default();
    let Ok(session) = client.session(name).await else { return e.into() };
    if session.status != Status::Ended || !part.open.labels.iter().all(|l| session.labels.get(l.0) == Some(l.1)) {
        return e.into();
    }
    let id = session.id;
    let message = format!(
        "session {id} was ended by an earlier import, and there are other lines of it now; none of them is written. Import what still grows with --open each time; for this one, `beadle rm {id}` and import it again"
    );
    Coded { exit: Exit::No, code: e.code().to_owned(), message }.into()
}

fn report(cx: &mut Context, import: &Import) -> Outcome {
    for (line, why) in &import.left_out.named {
        cx.printer.notice(Tone::Bad, &format!("line {line} is left out: {}", brief(why, 300)))?;
    }
    let unnamed = import.left_out.count - import.left_out.named.len() as u64;
    if unnamed > 0 {
        cx.printer.notice(Tone::Bad, &format!("and {} more lines", count(unnamed)))?;
    }
    if import.shortened > 0 {
        let what = format!(
            "{} lines over {SENT_BYTES_MAX} bytes are shortened: their longest texts say where they were cut",
            count(import.shortened)
        );
        cx.printer.notice(Tone::Bad, &what)?;
    }
    for (key, part) in &import.parts {
        let id = part.id.as_deref().unwrap_or_default();
        if cx.printer.json() {
            let lines: Vec<Value> = import.left_out.named.iter().map(|(n, why)| serde_json::json!({ "line": n, "why": why })).collect();
            cx.printer.document(&serde_json::json!({
                "session": id, "key": key, "format": import.word(), "lines": import.lines,
                "written": part.new, "known": part.known, "left_out_count": import.left_out.count, "left_out": lines,
                "shortened_count": import.shortened,
            }))?;
        } else if cx.printer.quiet() {
            cx.printer.line(&safe(id))?;
        } else {
            let what = if part.new == 0 { "has all of it already".to_owned() } else { format!("{} writes sent", count(part.new)) };
            cx.printer.line(&format!("{} {what}", safe(id)))?;
        }
    }
    if import.parts.is_empty() {
        cx.printer.note("there is nothing to import in it")?;
    }
    Ok(if import.left_out.count > 0 { Exit::No } else { Exit::Done })
}
