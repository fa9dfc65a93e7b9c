//! Cases in a file: what a plugin is asked, and what it must answer. The calls are judged as a session would judge them.
//!
//! TOML or JSON, by the file's name. A case asks one question, or several in turn (`steps`), between which state is kept as in a session.
//!
//! Invariants: nothing of this machine is in a question or behind a capability (no file system, no home, no network, a fixed clock), so a
//! case means the same everywhere; an unknown key is an error.
//!
//! Called by `test`, `bench` and `dev`.

mod parts;
pub mod scene;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use self::parts::{AnswerPart, File, Given, Part, PromptPart};
use self::scene::Scene;
use super::asked::{Asked, Plan};
use crate::model::moment::{NewPrompt, ToolResult};
use crate::model::{Call, Channel, Grants, PluginState, Session};
use crate::plugin::{AttemptQuestion, Batch, PlanQuestion, PromptQuestion, Question, ResultQuestion, SessionQuestion, kit};
use crate::policy::call::{CallInput, build};
use crate::policy::examples;
use crate::policy::paths::{Entry as Place, Paths};

/// Longest file of cases, and most cases in it.
const MAX_FILE: u64 = 8 << 20;
const MAX_CASES: usize = 10_000;
/// Most steps of a case.
const MAX_STEPS: usize = 1000;
/// Wall time of every question: the fourteenth of November 2023, 22:13:20 UTC.
const AT_MS: i64 = 1_700_000_000_000;
const HOME: &str = "/home/user";
const CWD: &str = "/project";
/// Keys of a session that a case may set.
const SESSION: [&str; 12] =
    ["name", "agent", "labels", "attempt", "mediation", "calls", "denied", "sub_agents", "turns", "cost", "model", "usage"];

/// One case, ready to be asked.
pub struct Case {
    pub name: String,
    pub config: String,
    pub grants: Grants,
    pub deadline_ms: u64,
    /// What the policy has kept when the first step begins.
    pub kv: PluginState,
    /// What is behind the capabilities.
    pub scene: Scene,
    /// Whether it was written as steps.
    pub in_steps: bool,
    pub steps: Vec<Step>,
    /// Of the whole, after the last step; of a case that is one question it is with that.
    pub expect: Map<String, Value>,
}

/// One question of a case.
pub struct Step {
    pub at_ms: i64,
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
    const NOTHING: &str = "it expects nothing; say `expect = { effect = \"deny\" }`, for example";
    if p.name.is_empty() {
        return Err("it has no `name`".to_owned());
    }
    let grants = p.grants.clone().unwrap_or_else(|| file.grants.clone());
    let (mut steps, mut at_ms) = (Vec::new(), AT_MS);
    let mut expect = Map::new();
    if let Some(list) = &p.steps {
        if p.questions() > 0 {
            return Err("it has `steps` and asks a question itself; make that its first step".to_owned());
        }
        if list.is_empty() || list.len() > MAX_STEPS {
            return Err(format!("it has {} steps; give 1 to {MAX_STEPS}", list.len()));
        }
        for (n, s) in list.iter().enumerate() {
            let wrong = |why: String| format!("step {}: {why}", n + 1);
            if let Some(key) = s.of_a_case().first() {
                return Err(wrong(format!("`{key}` is of the whole case, not of one step")));
            }
            if s.expect.is_empty() {
                return Err(wrong(NOTHING.to_owned()));
            }
            at_ms = s.at_ms.or(p.at_ms.filter(|_| n == 0)).unwrap_or(at_ms);
            steps.push(Step { at_ms, asked: asked(file, p, s, at_ms, dir).map_err(wrong)?, expect: s.expect.clone() });
        }
        expect = p.expect.clone();
    } else {
        if p.expect.is_empty() {
            return Err(NOTHING.to_owned());
        }
        at_ms = p.at_ms.unwrap_or(at_ms);
        steps.push(Step { at_ms, asked: asked(file, p, p, at_ms, dir)?, expect: p.expect.clone() });
    }
    let config = p.config.as_ref().or(file.config.as_ref()).map_or_else(|| "{}".to_owned(), Value::to_string);
    let scene = Scene {
        env: p.env.clone().unwrap_or_else(|| file.env.clone()),
        secrets: p.secrets.clone().unwrap_or_else(|| file.secrets.clone()),
        files: p.files.clone().unwrap_or_else(|| file.files.clone()),
        http: p.http.as_ref().unwrap_or(&file.http).iter().map(AnswerPart::read).collect::<Result<_, _>>()?,
    };
    scene.check()?;
    let mut kv = PluginState::new();
    for (key, value) in p.kv.iter().flatten() {
        kv.insert(key.clone(), value.bytes().ok_or_else(|| format!("`kv`: the value of {key:?} is no hex"))?);
    }
    let deadline_ms = p.deadline_ms.or(file.deadline_ms).unwrap_or(1000).clamp(1, 60_000);
    Ok(Case { name: p.name.clone(), config, grants, deadline_ms, kv, scene, in_steps: p.steps.is_some(), steps, expect })
}

/// The question of a part; of `whole` where that is a step.
fn asked(file: &File, whole: &Part, p: &Part, at_ms: i64, dir: &Path) -> Result<Asked, String> {
    if p.questions() != 1 {
        return Err("it asks no question, or several; give one of `command`, `call`, `recorded`, `prompt`, `start`, `attempt`, \
                    `transcript` (with `budget`), `events` and `steps`; `result` goes with a call"
            .to_owned());
    }
    let own = std::ptr::eq(whole, p);
    let session = |cwd: &str| session(cwd, file.session.iter().chain(whole.session.iter().filter(|_| !own)).chain(&p.session));
    let given = match (&p.command, &p.call, &p.recorded) {
        (Some(command), ..) => Some(record(&Given::bash(command))?),
        (_, Some(call), _) => Some(record(call)?),
        (.., Some(name)) => Some(record(&recorded(name, dir)?)?),
        _ => None,
    };
    if let Some(call) = given {
        let session = session(&call.cwd)?;
        return Ok(match &p.result {
            None => Asked::Call(Arc::new(Question::new(&session, &call, at_ms))),
            Some(r) => {
                let (is_error, duration_ms, replaceable) = (r.is_error, r.duration_ms, r.replaceable);
                let result = ToolResult { output: r.output.clone(), is_error, duration_ms, replaceable };
                Asked::Result(Arc::new(ResultQuestion::new(&session, &call, &result, at_ms)))
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
        return Ok(Asked::Prompt(Arc::new(PromptQuestion::new(&s, &prompt, at_ms))));
    }
    if let Some(start) = &p.start {
        return Ok(Asked::Start(Arc::new(SessionQuestion::new(&s, &start.read(), at_ms))));
    }
    if let Some(a) = &p.attempt {
        return Ok(Asked::Attempt(Arc::new(AttemptQuestion::new(&s, &a.read(), at_ms))));
    }
    if let Some(entries) = &p.transcript {
        let budget = p.budget.as_ref().ok_or("a transcript goes with `budget = { window = …, target = … }`")?;
        let folded = Arc::new(budget.fold(entries)?);
        let question = PlanQuestion::new(&s, folded.clone(), &folded.budget(budget.window, budget.target), at_ms);
        return Ok(Asked::Plan(Arc::new(Plan { question: Arc::new(question), folded, target: budget.target })));
    }
    let events = p.events.iter().flatten().enumerate().map(|(i, e)| e.read(i)).collect();
    Ok(Asked::Write(Arc::new(Batch::new(events, 1, at_ms))))
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
        Ok((name, Asked::Call(Arc::new(Question::new(&session, &call, AT_MS)))))
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
