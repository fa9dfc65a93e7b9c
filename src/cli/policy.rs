//! `beadle policy explain`: judges calls given as JSON lines against the effective chain, without a session or a daemon.
//!
//! A line is an agent's own hook payload (`tool_name`, `tool_input`, `cwd`), or `{"command": "…"}` for a shell command. One decision a
//! line comes out, with each plugin's answer, rule and reason; payloads of the hooks at a prompt, a result, a start and a stop are
//! put to the policies that take part in that moment. The exit is 0 when every call would be allowed and all else passes as it is,
//! 1 when one would not.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::args::ExplainArgs;
use super::exit::{Coded, Exit, UsageError};
use super::text::safe;
use super::{Context, Outcome};
use crate::agent::{self, mcp};
use crate::config::{Config, Folders};
use crate::model::{Answer, By, Call, Channel, Clock, Effect, Event, Moment, Record, SystemClock};
use crate::plugin::{Host, HostOptions};
use crate::policy::call::{Built, CallInput, as_own, explain as build};
use crate::policy::own::OwnFolders;
use crate::policy::paths::RealPaths;
use crate::policy::{Assembled, Chains, Judged, examples};

/// Longest line in bytes.
const LINE_MAX: usize = 32 << 20;

mod list;
mod moments;
pub mod replay;

pub use list::ls;

/// One line of the answer.
#[derive(Serialize)]
struct Explained<'a> {
    line: u64,
    effect: Effect,
    by: By,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    answers: &'a [Answer],
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_input: Option<&'a Value>,
    /// Why the command is not understood whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_understood: Option<&'a str>,
    call: &'a Call,
}

/// One call as given.
#[derive(Debug)]
struct Given {
    agent: String,
    tool: String,
    input: Value,
    cwd: Option<String>,
    /// Another moment than before the call, with the payload.
    at: Option<(Moment, Value)>,
    /// What a hook tells: a call of any agent. Others are taken for those of an agent that the host starts.
    hooked: bool,
}

/// Where a chain is put together: the folder, and the operator's folders with another configuration where one was given.
struct Scratch {
    cwd: PathBuf,
    folders: Folders,
    _config: Option<Override>,
}

impl Scratch {
    fn of(cx: &Context, cwd: Option<&Path>, config: Option<&Path>) -> anyhow::Result<Self> {
        let cwd = cwd.unwrap_or(Path::new(".")).canonicalize()?;
        let config = config.map(Override::make).transpose()?;
        let folders = cx.folders()?;
        let folders = if let Some(o) = &config { Folders { config: o.dir.clone(), ..folders } } else { folders };
        Ok(Self { cwd, folders, _config: config })
    }
}

pub async fn explain(cx: &mut Context, args: ExplainArgs) -> Outcome {
    let folders = cx.folders()?;
    let own = OwnFolders::new([&folders.config, &folders.data, &folders.cache, &folders.runtime].map(PathBuf::clone));
    let Scratch { cwd, folders, _config } = Scratch::of(cx, args.cwd.as_deref(), args.config.as_deref())?;
    let plugins = Host::new(HostOptions::default()).map_err(|e| coded(e.code(), &e))?;
    let chains = Chains::new(folders, plugins, Default::default());
    let assembled = chains.assemble(Some(&cwd), &[]).await?;
    let mut worst = Effect::Allow;
    if let Some(command) = &args.command {
        let given = Given {
            agent: args.agent.clone(),
            tool: "Bash".into(),
            input: json!({ "command": command }),
            cwd: None,
            at: None,
            hooked: false,
        };
        worst = worst.max(one(cx, &assembled, &own, &cwd, 1, given).await?);
    } else {
        let file: Box<dyn Read> = match &args.file {
            Some(f) => Box::new(std::fs::File::open(f).map_err(|e| UsageError(format!("{}: {e}", safe(&f.to_string_lossy()))))?),
            None => Box::new(std::io::stdin()),
        };
        let mut reader = std::io::BufReader::new(file);
        let mut number = 0;
        while let Some(line) = next_line(&mut reader)? {
            number += 1;
            if line.trim().is_empty() {
                continue;
            }
            let given = read(&line, &args.agent).map_err(|why| UsageError(format!("line {number}: {why}")))?;
            worst = worst.max(one(cx, &assembled, &own, &cwd, number, given).await?);
        }
    }
    Ok(if worst == Effect::Allow { Exit::Done } else { Exit::No })
}

/// Loads every policy of a configuration and judges its examples; the error names each one that fails.
pub async fn check(cx: &Context, config: &Config) -> anyhow::Result<()> {
    let plugins = Host::new(HostOptions::default()).map_err(|e| coded(e.code(), &e))?;
    let (_, events) = Chains::new(cx.folders()?, plugins, Default::default()).chain_of(config, &[]).await;
    let failed: Vec<String> = events
        .iter()
        .filter_map(|e| if let Event::PluginFailed(f) = e { Some(format!("policy {}: {}", f.policy, f.detail)) } else { None })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Coded { exit: Exit::No, code: "BDL-POLICY-001".to_owned(), message: failed.join("\n") }.into())
}

async fn one(cx: &mut Context, assembled: &Assembled, own: &OwnFolders, root: &Path, line: u64, given: Given) -> anyhow::Result<Effect> {
    let root = root.display().to_string();
    let cwd = given.cwd.clone().unwrap_or_else(|| root.clone());
    let home = std::env::var("HOME").ok();
    let takes = agent::driver(&given.agent).is_ok_and(|d| d.takes_host_tools());
    let own_tool = takes && !given.hooked && assembled.config.host_tools && mcp::is_own(&given.tool);
    let record = |input: &Value| {
        let input = CallInput {
            agent: &given.agent,
            tool: &given.tool,
            input,
            cwd: &cwd,
            write_root: None,
            home: home.as_deref(),
            call_id: None,
            parent_call_id: None,
            sub_agent: None,
            channel: if own_tool { Channel::Driver } else { Channel::Hook },
        };
        let built = build(&input, &RealPaths);
        if own_tool { Built { call: as_own(built.call, &cwd), reason: None } } else { built }
    };
    let built = record(&given.input);
    let mut session = examples::session(Path::new(&root)).ok_or_else(|| UsageError("no session stands for this call".into()))?;
    session.record = Arc::new(Record { host_tools: own_tool, ..(*session.record).clone() });
    if let Some((moment, payload)) = &given.at {
        let call = (*moment == Moment::JudgeResult).then_some(&built.call);
        let heard = moments::hear(&assembled.chain, &session, *moment, payload, call, line, SystemClock.wall_ms()).await;
        let heard = heard.map_err(|why| UsageError(format!("line {line}: {why}")))?;
        cx.printer.document(&heard)?;
        return Ok(if heard.passes { Effect::Allow } else { Effect::Deny });
    }
    let judged = match own.check(&built.call) {
        Some(why) => Judged::host_deny(why),
        None => {
            let rebuild = |input: &Value| {
                let call = record(input).call;
                own.check(&call).map_or(Ok(call), Err)
            };
            assembled.chain.judge(&session, &built.call, SystemClock.wall_ms(), &rebuild).await
        }
    };
    cx.printer.document(&Explained {
        line,
        effect: judged.effect,
        by: judged.by,
        reason: &judged.reason,
        rule: judged.rule.as_deref(),
        answers: &judged.answers,
        updated_input: judged.updated_input.as_ref(),
        not_understood: built.reason,
        call: &built.call,
    })?;
    Ok(judged.effect)
}

/// Reads one line; hook payloads of Claude, Codex and Gemini have the same words for tool and input.
fn read(line: &str, agent: &str) -> Result<Given, String> {
    let v: Value = serde_json::from_str(line).map_err(|e| format!("not JSON: {e}"))?;
    let text = |key: &str| v.get(key).and_then(Value::as_str).map(str::to_owned);
    let agent = text("agent").unwrap_or_else(|| of_payload(&v).unwrap_or(agent).to_owned());
    let cwd = text("cwd");
    if cwd.as_deref().is_some_and(|c| !c.starts_with('/')) {
        return Err("`cwd` is not an absolute path".into());
    }
    let at = moments::of(&v);
    let hooked = v.get("hook_event_name").is_some();
    if let Some(moment) = at.filter(|m| *m != Moment::JudgeResult) {
        return Ok(Given { agent, tool: String::new(), input: json!({}), cwd, at: Some((moment, v)), hooked });
    }
    if let (Some(command), None) = (text("command"), v.get("tool_name")) {
        return Ok(Given { agent, tool: "Bash".into(), input: json!({ "command": command }), cwd, at: None, hooked });
    }
    let tool = text("tool_name").or_else(|| text("tool")).ok_or("it names no tool (`tool_name`)")?;
    let input = v.get("tool_input").or_else(|| v.get("input")).cloned().unwrap_or_else(|| json!({}));
    if !input.is_object() {
        return Err("`tool_input` is not an object".into());
    }
    Ok(Given { agent, tool, input, cwd, at: at.map(|m| (m, v)), hooked })
}

fn of_payload(v: &Value) -> Option<&'static str> {
    match v.get("hook_event_name")?.as_str()? {
        "BeforeTool" | "AfterTool" => Some("gemini"),
        _ if v.get("turn_id").is_some() && v.get("model").is_some() => Some("codex"),
        _ => Some("claude"),
    }
}

fn next_line(reader: &mut dyn BufRead) -> anyhow::Result<Option<String>> {
    let mut bytes = Vec::new();
    let n = reader.take(LINE_MAX as u64 + 1).read_until(b'\n', &mut bytes)?;
    if n == 0 {
        return Ok(None);
    }
    if n > LINE_MAX {
        return Err(UsageError(format!("a line is over {LINE_MAX} bytes")).into());
    }
    Ok(Some(String::from_utf8(bytes).map_err(|_| UsageError("a line is not UTF-8".into()))?))
}

/// A folder that holds the given file as `beadle.toml`, gone afterwards.
struct Override {
    dir: PathBuf,
}

impl Override {
    fn make(file: &Path) -> anyhow::Result<Self> {
        let name = safe(&file.to_string_lossy());
        let file = file.canonicalize().map_err(|e| UsageError(format!("--config {name}: {e}")))?;
        let dir = std::env::temp_dir().join(format!("beadle-explain-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        let made = Self { dir };
        std::os::unix::fs::symlink(&file, made.dir.join("beadle.toml"))?;
        Ok(made)
    }
}

impl Drop for Override {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn coded(code: &str, e: &dyn std::error::Error) -> Coded {
    Coded { exit: Exit::Internal, code: code.to_owned(), message: e.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_of_agents_are_read_as_they_are() {
        let g =
            read(r#"{"hook_event_name":"BeforeTool","tool_name":"run_shell_command","tool_input":{"command":"ls"},"cwd":"/w"}"#, "claude");
        assert_eq!(g.map(|g| (g.agent, g.tool, g.cwd)), Ok(("gemini".into(), "run_shell_command".into(), Some("/w".into()))));
        assert_eq!(read(r#"{"command":"ls"}"#, "claude").map(|g| g.tool), Ok("Bash".into()));
        assert!(read("[]", "claude").is_err());
        assert!(read(r#"{"tool_name":"Bash","tool_input":3}"#, "claude").is_err());
    }
}
