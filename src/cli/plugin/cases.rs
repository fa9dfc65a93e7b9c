//! Cases in a file: what a plugin is asked, and what it must answer. The calls are judged as a session would judge them.
//!
//! TOML or JSON, by the file's name. Invariants: nothing of this machine is in a question (no file system, no home, a fixed clock), so a
//! case means the same everywhere; an unknown key is an error.
//!
//! Called by `test`, `bench` and `dev`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::model::moment::{AttemptSeen, NewPrompt, SessionStart, ToolResult};
use crate::model::{Budget, Call, Channel, Entry, EntryKind, EntryRole, Grants, Session, SinkEvent, Transcript};
use crate::plugin::{AttemptQuestion, Batch, PlanQuestion, PromptQuestion, Question, ResultQuestion, SessionQuestion, kit};
use crate::policy::call::{CallInput, build};
use crate::policy::examples;
use crate::policy::paths::{Entry as Place, Paths};

use super::asked::Asked;

/// Longest file of cases, and most cases in it.
const MAX_FILE: u64 = 8 << 20;
const MAX_CASES: usize = 10_000;
/// Wall time of every question: the fourteenth of November 2023, 22:13:20 UTC.
const AT_MS: i64 = 1_700_000_000_000;
const HOME: &str = "/home/user";
const CWD: &str = "/project";
/// Keys of a session that a case may set.
const SESSION: [&str; 12] =
    ["name", "agent", "labels", "attempt", "mediation", "calls", "denied", "sub_agents", "turns", "cost", "model", "usage"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    config: Option<Value>,
    #[serde(default)]
    grants: Grants,
    deadline_ms: Option<u64>,
    session: Option<Map<String, Value>>,
    #[serde(rename = "case")]
    cases: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    name: String,
    config: Option<Value>,
    grants: Option<Grants>,
    deadline_ms: Option<u64>,
    session: Option<Map<String, Value>>,
    command: Option<String>,
    call: Option<Given>,
    recorded: Option<String>,
    prompt: Option<PromptPart>,
    start: Option<StartPart>,
    result: Option<ResultPart>,
    attempt: Option<AttemptPart>,
    transcript: Option<Vec<EntryPart>>,
    budget: Option<BudgetPart>,
    events: Option<Vec<EventPart>>,
    expect: Map<String, Value>,
}

/// A tool call as an agent made it; also the form of recorded calls.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    #[serde(default = "claude")]
    agent: String,
    tool: String,
    #[serde(default)]
    input: Value,
    cwd: Option<String>,
    write_root: Option<String>,
    call_id: Option<String>,
    parent_call_id: Option<String>,
    sub_agent: Option<String>,
    channel: Option<Channel>,
    /// Where it was recorded.
    #[serde(default, rename = "recorded")]
    _recorded: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PromptPart {
    Text(String),
    Whole { text: String, number: Option<u64>, role: Option<String> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StartPart {
    program: String,
    args: Vec<String>,
    unsafe_args: Vec<String>,
    env_names: Vec<String>,
    write_root: Option<String>,
    model: Option<String>,
    prompt: Option<String>,
    keep_open: bool,
    role: String,
}

impl Default for StartPart {
    fn default() -> Self {
        let (args, unsafe_args, env_names) = Default::default();
        let (program, role) = (claude(), "operator".to_owned());
        Self { program, args, unsafe_args, env_names, write_root: None, model: None, prompt: None, keep_open: false, role }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultPart {
    output: Value,
    #[serde(default)]
    is_error: bool,
    duration_ms: Option<u64>,
    #[serde(default = "yes")]
    replaceable: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AttemptPart {
    number: u32,
    round: u32,
    succeeded: Option<bool>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    last_words: String,
    duration_ms: u64,
    can_continue: bool,
}

impl Default for AttemptPart {
    fn default() -> Self {
        let (exit_code, signal) = (None, None);
        Self {
            number: 1,
            round: 0,
            succeeded: Some(true),
            exit_code,
            signal,
            last_words: String::new(),
            duration_ms: 0,
            can_continue: true,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryPart {
    role: EntryRole,
    kind: EntryKind,
    #[serde(default)]
    text: String,
    /// How often the text stands there.
    repeat: Option<usize>,
    tool: Option<String>,
    pair: Option<String>,
    #[serde(default)]
    is_error: bool,
    turn: Option<u32>,
    #[serde(default)]
    pinned: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetPart {
    window: u64,
    target: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventPart {
    kind: String,
    #[serde(default)]
    body: Value,
    session: Option<String>,
    seq: Option<u64>,
    at: Option<i64>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

fn claude() -> String {
    "claude".to_owned()
}

const fn yes() -> bool {
    true
}

/// One case, ready to be asked.
pub struct Case {
    pub name: String,
    pub config: String,
    pub grants: Grants,
    pub deadline_ms: u64,
    pub asked: Asked,
    pub expect: Map<String, Value>,
}

/// The files of cases of a project: `cases.toml`, `cases.json`, and those in `cases/`.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let is_cases = |p: &PathBuf| p.extension().is_some_and(|x| x == "toml" || x == "json");
    let mut out: Vec<PathBuf> = ["cases.toml", "cases.json"].iter().map(|n| dir.join(n)).filter(|p| p.is_file()).collect();
    let mut more: Vec<PathBuf> =
        std::fs::read_dir(dir.join("cases")).into_iter().flatten().flatten().map(|e| e.path()).filter(is_cases).collect();
    more.sort();
    out.append(&mut more);
    out
}

/// Reads a file of cases; the error says where it is wrong.
pub fn read(path: &Path) -> Result<Vec<Case>, String> {
    let shown = path.display();
    let text = read_text(path)?;
    let file: File = if path.extension().is_some_and(|x| x == "json") {
        serde_json::from_str(&text).map_err(|e| format!("{shown}: {e}"))?
    } else {
        toml::from_str(&text).map_err(|e| format!("{shown}: {e}"))?
    };
    if file.cases.len() > MAX_CASES {
        return Err(format!("{shown}: {} cases; the limit is {MAX_CASES} in one file", file.cases.len()));
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    let one = |p: &Part| case(&file, p, dir).map_err(|e| format!("{shown}: case {:?}: {e}", p.name));
    file.cases.iter().map(one).collect()
}

fn read_text(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|e| format!("{shown}: {e}"))?.len();
    if size > MAX_FILE {
        return Err(format!("{shown}: {size} bytes; the limit is {MAX_FILE}"));
    }
    std::fs::read_to_string(path).map_err(|e| format!("{shown}: {e}"))
}

fn case(file: &File, p: &Part, dir: &Path) -> Result<Case, String> {
    if p.expect.is_empty() {
        return Err("it expects nothing; say `expect = { effect = \"deny\" }`, for example".to_owned());
    }
    let config = p.config.as_ref().or(file.config.as_ref()).map_or_else(|| "{}".to_owned(), Value::to_string);
    Ok(Case {
        name: p.name.clone(),
        config,
        grants: p.grants.clone().unwrap_or_else(|| file.grants.clone()),
        deadline_ms: p.deadline_ms.or(file.deadline_ms).unwrap_or(1000).clamp(1, 60_000),
        asked: asked(file, p, dir)?,
        expect: p.expect.clone(),
    })
}

fn asked(file: &File, p: &Part, dir: &Path) -> Result<Asked, String> {
    let given = match (&p.command, &p.call, &p.recorded) {
        (None, None, None) => None,
        (Some(command), None, None) => Some(record(&Given::bash(command))?),
        (None, Some(call), None) => Some(record(call)?),
        (None, None, Some(name)) => Some(record(&recorded(name, dir)?)?),
        _ => return Err("it names more than one of `command`, `call` and `recorded`".to_owned()),
    };
    let session = |cwd: &str| session(cwd, file.session.iter().chain(&p.session));
    let others = [p.prompt.is_some(), p.start.is_some(), p.attempt.is_some(), p.transcript.is_some(), p.events.is_some()];
    if others.iter().filter(|o| **o).count() + usize::from(given.is_some()) != 1 {
        return Err("it asks no question, or several; give one of `command`, `call`, `recorded`, `prompt`, `start`, `attempt`, \
                    `transcript` (with `budget`) and `events`; `result` goes with a call"
            .to_owned());
    }
    if let Some(call) = given {
        let session = session(&call.cwd)?;
        return Ok(match &p.result {
            None => Asked::call(Question::new(&session, &call, AT_MS)),
            Some(r) => {
                let (is_error, duration_ms, replaceable) = (r.is_error, r.duration_ms, r.replaceable);
                let result = ToolResult { output: r.output.clone(), is_error, duration_ms, replaceable };
                Asked::Result(Arc::new(ResultQuestion::new(&session, &call, &result, AT_MS)))
            }
        });
    }
    let s = session(CWD)?;
    if let Some(prompt) = &p.prompt {
        let prompt = match prompt {
            PromptPart::Text(text) => NewPrompt { text: text.clone(), number: 1, role: "operator".to_owned() },
            PromptPart::Whole { text, number, role } => {
                NewPrompt { text: text.clone(), number: number.unwrap_or(1), role: role.clone().unwrap_or_else(|| "operator".to_owned()) }
            }
        };
        return Ok(Asked::Prompt(Arc::new(PromptQuestion::new(&s, &prompt, AT_MS))));
    }
    if let Some(start) = &p.start {
        return Ok(Asked::Start(Arc::new(SessionQuestion::new(&s, &start.read(), AT_MS))));
    }
    if let Some(a) = &p.attempt {
        return Ok(Asked::Attempt(Arc::new(AttemptQuestion::new(&s, &a.read(), AT_MS))));
    }
    if let Some(entries) = &p.transcript {
        let budget = p.budget.as_ref().ok_or("a transcript goes with `budget = { window = …, target = … }`")?;
        let sample = Sample::new(entries);
        let used = sample.0.iter().map(|(e, _)| e.tokens).sum();
        let budget = Budget { window: budget.window, used, target: budget.target, estimator: "bytes/4".to_owned() };
        return Ok(Asked::Plan(Arc::new(PlanQuestion::new(&s, Arc::new(sample), &budget, AT_MS))));
    }
    let events = p.events.iter().flatten().enumerate().map(|(i, e)| e.read(i)).collect();
    Ok(Asked::Write(Arc::new(Batch::new(events, 1, AT_MS))))
}

impl Given {
    fn bash(command: &str) -> Self {
        let (cwd, write_root, call_id, parent_call_id, sub_agent) = Default::default();
        let (input, tool) = (json!({ "command": command }), "Bash".to_owned());
        Self { agent: claude(), tool, input, cwd, write_root, call_id, parent_call_id, sub_agent, channel: None, _recorded: None }
    }
}

/// The call record as a session would build it, on a machine without files.
fn record(g: &Given) -> Result<Call, String> {
    struct Nothing;
    impl Paths for Nothing {
        fn entry(&self, _: &str) -> Place {
            Place::Missing
        }
    }
    let cwd = g.cwd.as_deref().unwrap_or(CWD);
    if !cwd.starts_with('/') {
        return Err(format!("`cwd` is {cwd:?}; give an absolute path"));
    }
    let input = CallInput {
        agent: &g.agent,
        tool: &g.tool,
        input: &g.input,
        cwd,
        write_root: g.write_root.as_deref(),
        home: Some(HOME),
        call_id: g.call_id.as_deref(),
        parent_call_id: g.parent_call_id.as_deref(),
        sub_agent: g.sub_agent.as_deref(),
        channel: g.channel.unwrap_or(Channel::Driver),
    };
    Ok(build(&input, &Nothing))
}

/// A recorded call by its name: of the project's `calls` folder, else of those that beadle carries.
fn recorded(name: &str, dir: &Path) -> Result<Given, String> {
    let file = format!("{name}.json");
    if name.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(format!("{name:?} is no name of a recorded call"));
    }
    let own = dir.join("calls").join(&file);
    let text = if own.is_file() {
        read_text(&own)?
    } else {
        let known: Vec<&str> = kit::CALLS.iter().filter_map(|(p, _)| p.strip_suffix(".json")).collect();
        let carried = kit::CALLS.iter().find(|(p, _)| *p == file);
        carried.map(|(_, text)| (*text).to_owned()).ok_or_else(|| {
            format!("there is no recorded call {name:?}, neither {} nor one that beadle carries: {}", own.display(), known.join(", "))
        })?
    };
    serde_json::from_str(&text).map_err(|e| format!("the recorded call {name}: {e}"))
}

/// Every recorded call that policies can be asked about: those that beadle carries, then the project's own.
pub fn all_recorded(dir: Option<&Path>) -> Result<Vec<(String, Asked)>, String> {
    let mut names: Vec<String> = kit::CALLS.iter().filter_map(|(p, _)| p.strip_suffix(".json").map(str::to_owned)).collect();
    if let Some(calls) = dir.map(|d| d.join("calls")) {
        let mut open = vec![calls.clone()];
        while let Some(folder) = open.pop() {
            for path in std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()) {
                if names.len() > MAX_CASES {
                    return Err(format!("{}: more than {MAX_CASES} recorded calls", calls.display()));
                }
                if path.is_dir() {
                    open.push(path);
                } else if let Some(name) = path.strip_prefix(&calls).ok().and_then(|p| p.to_str()?.strip_suffix(".json").map(str::to_owned))
                {
                    names.push(name);
                }
            }
        }
    }
    names.sort();
    names.dedup();
    let dir = dir.unwrap_or(Path::new("."));
    let one = |name: String| {
        let call = record(&recorded(&name, dir)?)?;
        let session = session(&call.cwd, std::iter::empty())?;
        Ok((name, Asked::call(Question::new(&session, &call, AT_MS))))
    };
    names.into_iter().map(one).collect()
}

/// A session that stands for any, with what a case sets of it.
fn session<'a>(cwd: &str, more: impl Iterator<Item = &'a Map<String, Value>>) -> Result<Session, String> {
    let mut session = examples::session(Path::new(cwd)).ok_or("no session stands for this case")?;
    session.home = Some(HOME.to_owned());
    let mut value = serde_json::to_value(&session).map_err(|e| e.to_string())?;
    for (key, set) in more.flatten() {
        if !SESSION.contains(&key.as_str()) {
            return Err(format!("`session.{key}` cannot be set; known here: {}", SESSION.join(", ")));
        }
        value[key] = set.clone();
    }
    serde_json::from_value(value).map_err(|e| format!("`session`: {e}"))
}

impl StartPart {
    fn read(&self) -> SessionStart {
        SessionStart {
            program: self.program.clone(),
            args: self.args.clone(),
            unsafe_args: self.unsafe_args.clone(),
            env_names: self.env_names.clone(),
            write_root: self.write_root.clone(),
            model: self.model.clone(),
            prompt: self.prompt.clone(),
            keep_open: self.keep_open,
            role: self.role.clone(),
        }
    }
}

impl AttemptPart {
    fn read(&self) -> AttemptSeen {
        AttemptSeen {
            number: self.number,
            round: self.round,
            succeeded: self.succeeded,
            exit_code: self.exit_code,
            signal: self.signal,
            last_words: self.last_words.clone(),
            duration_ms: self.duration_ms,
            can_continue: self.can_continue,
        }
    }
}

impl EventPart {
    fn read(&self, place: usize) -> SinkEvent {
        SinkEvent {
            session: self.session.clone().unwrap_or_else(|| "example".to_owned()),
            seq: self.seq.unwrap_or(place as u64 + 1),
            at: self.at.unwrap_or(AT_MS),
            attempt: 1,
            kind: self.kind.clone(),
            body: if self.body.is_null() { "{}".to_owned() } else { self.body.to_string() },
            hash: "0".repeat(64),
            labels: self.labels.clone(),
        }
    }
}

/// A conversation in memory. Four bytes count as a token.
struct Sample(Vec<(Entry, String)>);

impl Sample {
    fn new(parts: &[EntryPart]) -> Self {
        let one = |(i, p): (usize, &EntryPart)| {
            let text = p.text.repeat(p.repeat.unwrap_or(1).min(MAX_FILE as usize / p.text.len().max(1)));
            let bytes = text.len() as u64;
            let (role, kind, tool, pair) = (p.role, p.kind, p.tool.clone(), p.pair.clone());
            let (is_error, turn, pinned) = (p.is_error, p.turn.unwrap_or(1), p.pinned);
            let entry =
                Entry { id: i as u64 + 1, role, kind, tool, pair, is_error, turn, tokens: bytes.div_ceil(4), bytes, pinned, at: AT_MS };
            (entry, text)
        };
        Self(parts.iter().enumerate().map(one).collect())
    }
}

impl Transcript for Sample {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn entries(&self, start: usize, max: usize) -> Vec<Entry> {
        self.0.iter().skip(start).take(max).map(|(e, _)| e.clone()).collect()
    }

    fn text(&self, id: u64, offset: usize, max: usize) -> Option<String> {
        let text = &self.0.iter().find(|(e, _)| e.id == id)?.1;
        let from = text.ceil_char_boundary(offset.min(text.len()));
        let to = text.floor_char_boundary(from.saturating_add(max).min(text.len()));
        Some(text[from..to.max(from)].to_owned())
    }

    fn tokens(&self, text: &str) -> u64 {
        (text.len() as u64).div_ceil(4)
    }
}
