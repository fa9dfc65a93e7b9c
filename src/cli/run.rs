//! `beadle run`: starts a session from the caller's own folder, environment and umask.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::args::RunArgs;
use super::ask::Terminal;
use super::attach::{Follow, GENERIC, follow};
use super::confirm::confirmed;
use super::exit::{Exit, UsageError};
use super::plan::plan;
use super::text::safe;
use super::timeline::end;
use super::{Context, Outcome};
use crate::api::types::{ENV_MAX, LABELS_MAX, PROMPT_MAX, RunRequest, SessionDoc};
use crate::config::{self, Config};

/// Largest MCP configuration in bytes.
const MCP_MAX: u64 = 256 << 10;
/// Set in every process of a session: it marks this one, not the next.
const MARKER: &str = "BEADLE_SESSION";

/// Starts it, then follows, waits or returns.
pub async fn run(cx: &mut Context, args: RunArgs) -> Outcome {
    // why: what waits has nothing to follow yet; `beadle attach` follows it when it runs.
    let (detach, wait) = (args.detach || args.queue.queue.is_some() && !args.wait, args.wait);
    let mut terminal = if detach || wait || cx.printer.json() { None } else { Terminal::open() };
    let mut request = request(cx, args)?;
    request.attach = terminal.is_some();
    let doc = confirmed(cx, terminal.as_mut(), async |client| client.run(&request).await).await?;
    started(cx, doc, terminal, detach, wait).await
}

/// A session was started: its id, its end, or its timeline.
pub(super) async fn started(cx: &mut Context, doc: SessionDoc, terminal: Option<Terminal>, detach: bool, wait: bool) -> Outcome {
    let client = cx.client()?;
    if detach {
        if cx.printer.json() {
            cx.printer.document(&doc)?
        } else {
            cx.printer.line(&safe(&doc.id))?
        }
        return Ok(Exit::Done);
    }
    if !wait {
        return follow(cx, &client, &doc.id, Follow { terminal, output: doc.agent == GENERIC, ..Follow::default() }).await;
    }
    cx.printer.note(&format!("waiting for {}", safe(&doc.id)))?;
    let doc = client.wait(&doc.id, None).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        let line = end(&doc);
        cx.printer.toned(line.tone, &line.text)?;
    }
    Ok(Exit::of_session(&doc))
}

fn request(cx: &mut Context, args: RunArgs) -> anyhow::Result<RunRequest> {
    let prompt = args.prompt.or(args.text).map(read_prompt).transpose()?;
    let laddered = args.plan.ladder.is_some();
    if laddered && (args.agent.is_some() || args.program.is_some() || args.model.is_some() || !args.command.is_empty()) {
        return Err(UsageError("--ladder says agents, commands and models itself; leave them out".into()).into());
    }
    let plan = plan(args.plan)?;
    let first = plan.as_ref().and_then(|p| p.tiers.first()).map(|t| if t.agent.is_empty() { "generic" } else { t.agent.as_str() });
    let named = args.agent.or_else(|| first.map(str::to_owned));
    let agent = named.unwrap_or_else(|| if args.command.is_empty() { "claude" } else { "generic" }.to_owned());
    let mut command = args.command;
    let mut program = args.program.map(|p| absolute_program(&p)).transpose()?;
    if agent == "generic" && program.is_none() && !laddered {
        if command.is_empty() {
            return Err(UsageError("no command was given; write it after `--`, as in `beadle run -- make test`".into()).into());
        }
        program = Some(command.remove(0));
    }
    if args.labels.len() > LABELS_MAX {
        return Err(UsageError(format!("{} labels, over the limit of {LABELS_MAX}", args.labels.len())).into());
    }
    let cwd = folder(&args.cwd.unwrap_or_else(|| PathBuf::from(".")))?;
    let settings = config::load_for(&cx.folders()?, None, &|_, _| false)?.config;
    let env = environment(cx, &settings, args.env)?;
    let keep_open = args.keep || (prompt.is_none() && agent != "generic");
    if keep_open && plan.as_ref().is_some_and(|p| !p.is_once()) {
        return Err(
            UsageError("attempts are planned for a prompt or a command that ends; give a prompt, and leave out --keep".into()).into()
        );
    }
    Ok(RunRequest {
        name: args.name,
        agent,
        program,
        args: command,
        unsafe_args: args.unsafe_args,
        cwd,
        umask: umask(),
        env,
        prompt,
        labels: args.labels.into_iter().collect(),
        host_tools: args.no_host_tools.then_some(false),
        brief: args.brief.into(),
        write_root: args.write_root.map(|d| folder(&d)).transpose()?,
        model: args.model,
        mcp_config: args.mcp_config.map(|f| mcp_config(&f)).transpose()?,
        attach: false,
        keep_open,
        limits: args.limits.limits(),
        queue: args.queue.request(),
        compact_at: args.compact_at,
        context: args.context.names(),
        plan,
    })
}

/// `-` is standard input; a prompt is at most [`PROMPT_MAX`] bytes and not empty.
pub fn read_prompt(text: String) -> anyhow::Result<String> {
    let prompt = if text == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(PROMPT_MAX as u64 + 1).read_to_end(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| UsageError("the prompt on standard input is not UTF-8 text".into()))?
    } else {
        text
    };
    if prompt.trim().is_empty() {
        return Err(UsageError("the prompt is empty; say what the agent shall do".into()).into());
    }
    if prompt.len() > PROMPT_MAX {
        return Err(UsageError(format!("the prompt has over {PROMPT_MAX} bytes; put the text in a file and name it in the prompt")).into());
    }
    Ok(prompt)
}

/// A folder's absolute path with links resolved, as text.
fn folder(dir: &Path) -> anyhow::Result<String> {
    let bad = |why: &str| UsageError(format!("folder {}: {why}; give one that is there", safe(&dir.to_string_lossy())));
    let full = dir.canonicalize().map_err(|e| bad(&e.to_string()))?;
    if !full.is_dir() {
        return Err(bad("it is not a folder").into());
    }
    Ok(full.into_os_string().into_string().map_err(|_| bad("its path is not UTF-8"))?)
}

/// A bare name is left to PATH; a path is made absolute here, where it was meant.
fn absolute_program(program: &Path) -> anyhow::Result<String> {
    let full = if program.components().count() > 1 { std::path::absolute(program)? } else { program.to_owned() };
    Ok(full
        .into_os_string()
        .into_string()
        .map_err(|p| UsageError(format!("program {}: its path is not UTF-8", safe(&p.to_string_lossy()))))?)
}

/// Variables that `session.env` lists, and those named on the command line. What is not UTF-8 stays behind, with a remark.
pub(super) fn environment(
    cx: &mut Context,
    settings: &Config,
    named: Vec<(String, Option<String>)>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|n| *n != MARKER && settings.env_allows(n)) else { continue };
        match value.into_string() {
            Ok(value) => drop(out.insert(name.to_owned(), value)),
            Err(_) => cx.printer.note(&format!("variable {} is not UTF-8 and stays behind", safe(name)))?,
        }
    }
    for (name, value) in named {
        let value = match value {
            Some(value) => value,
            None => std::env::var(&name).map_err(|e| UsageError(format!("--env {}: {e}; write NAME=VALUE", safe(&name))))?,
        };
        out.insert(name, value);
    }
    if out.len() > ENV_MAX {
        return Err(UsageError(format!("{} environment variables, over the limit of {ENV_MAX}; narrow session.env", out.len())).into());
    }
    Ok(out)
}

pub(super) fn mcp_config(file: &Path) -> anyhow::Result<serde_json::Value> {
    let bad = |why: String| UsageError(format!("--mcp-config {}: {why}", safe(&file.to_string_lossy())));
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|e| bad(e.to_string()))?;
    opened.take(MCP_MAX + 1).read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
    if bytes.len() as u64 > MCP_MAX {
        return Err(bad(format!("over {MCP_MAX} bytes")).into());
    }
    Ok(serde_json::from_slice(&bytes).map_err(|e| bad(format!("not JSON: {e}")))?)
}

/// The caller's own umask, read without changing it.
pub(super) fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}
