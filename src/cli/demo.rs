//! `beadle demo`: a real session on a small repository, held to two policies, without key or network, ended by `verify`.
//!
//! Everything lies in one temporary folder: the host's own data, the repository, the agent's configuration. The model is the
//! scripted one, in this process. The session runs under a real daemon of its own, as any session does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::args::DemoArgs;
use super::ask::Terminal;
use super::attach::{Follow, follow};
use super::exit::{Coded, Exit, UsageError};
use super::printer::Tone;
use super::stage::{PrivateHost, temporary};
use super::{Context, Outcome};
use crate::api::client::{Client, Item};
use crate::api::types::{ApprovalAnswer, Attach, EventsQuery, RunRequest, SessionDoc, StopRequest, VerifyRequest};
use crate::demo::{self, workspace};
use crate::gateway::{self, Options, Script, Server};
use crate::model::Effect;

/// How long a question stands on the screen before `--yes` answers it.
const SHOWN: Duration = Duration::from_millis(1200);
/// A key that is none: the scripted model asks for one, as the real API does.
const KEY: &str = "demo-key-without-value";

/// The agent's own process (hidden command).
pub fn agent(runtime: &tokio::runtime::Runtime, args: Vec<OsString>) -> ExitCode {
    runtime.block_on(demo::agent_main(args))
}

pub async fn run(cx: &mut Context, args: DemoArgs) -> Outcome {
    if !matches!(args.agent.as_str(), "demo" | "claude") {
        return Err(UsageError(format!("the demo knows the agents demo (built in) and claude, not {:?}", args.agent)).into());
    }
    let stage = Stage::build()?;
    let server = Server::start(Script::parse(workspace::SCRIPT).map_err(coded)?, Options::default()).await.map_err(coded)?;
    introduce(cx, &args, &stage)?;
    let host = PrivateHost::start(&stage.root.join("beadle"), workspace::CONFIG).await?;
    let outcome = play(cx, &args, &stage, host.client(), &server).await;
    host.stop().await;
    server.stop().await;
    if args.keep {
        cx.printer.note(&format!("kept: {}", stage.root.display()))?;
    } else if let Err(e) = std::fs::remove_dir_all(&stage.root) {
        cx.printer.note(&format!("{} is left behind: {e}", stage.root.display()))?;
    }
    outcome
}

fn introduce(cx: &mut Context, args: &DemoArgs, stage: &Stage) -> anyhow::Result<()> {
    let who = match args.agent.as_str() {
        "claude" => "the installed Claude Code, in a temporary configuration".to_owned(),
        _ => demo::NAME.to_owned(),
    };
    let p = &mut cx.printer;
    p.notice(Tone::Strong, "beadle demo: a real session, a policy that denies, a log that proves it")?;
    p.notice(Tone::Dim, &format!("agent   {who}"))?;
    p.notice(Tone::Dim, "model   scripted, on loopback: no key, no network")?;
    p.notice(Tone::Dim, "policy  rules + hello, two WebAssembly components (examples/demo.toml)")?;
    p.notice(Tone::Dim, &format!("folder  {}\n", stage.work.display()))?;
    Ok(())
}

async fn play(cx: &mut Context, args: &DemoArgs, stage: &Stage, client: &Client, server: &Server) -> Outcome {
    let terminal = if args.yes || cx.printer.json() { None } else { Terminal::open() };
    let request = stage.request(args, server, terminal.is_some() || args.yes);
    let doc = client.run(&request).await?;
    let answering = args.yes.then(|| tokio::spawn(say_yes(client.clone(), doc.id.clone())));
    let left = follow(cx, client, &doc.id, Follow { terminal, answered_elsewhere: args.yes, ..Follow::default() }).await;
    if let Some(task) = answering {
        task.abort();
    }
    left?;
    let mut doc = client.session(&doc.id).await?;
    if doc.outcome.is_none() {
        // The person left with Ctrl-C: the demo's host goes away now, so its session does too.
        client.stop(&doc.id, StopRequest { grace_ms: None, kill: true }).await?;
        doc = client.wait(&doc.id, None).await?;
    }
    conclude(cx, client, &doc).await
}

async fn conclude(cx: &mut Context, client: &Client, doc: &SessionDoc) -> Outcome {
    let proof = client.verify(&VerifyRequest { session: Some(doc.id.clone()), against: None }).await?;
    let p = &mut cx.printer;
    let cost = doc.cost.as_ref().map_or("unknown".to_owned(), |c| format!("{} USD", c.usd));
    let counts = format!(
        "calls   {}: {} allowed ({} rewritten), {} denied, {} asked",
        doc.call_count, doc.allowed_count, doc.rewritten_count, doc.denied_count, doc.asked_count
    );
    p.notice(Tone::Plain, &format!("\n{counts}"))?;
    p.notice(Tone::Plain, &format!("cost    {cost} at the model's list price, {} tokens", doc.usage.total()))?;
    let sound = format!("verify  {} events, hash chain whole, each decision durable before its call ran", proof.event_count);
    if proof.ok {
        p.notice(Tone::Good, &sound)?;
    } else {
        p.notice(Tone::Bad, &format!("verify  {} findings: the log is not whole", proof.finding_count))?;
    }
    p.notice(Tone::Dim, "\nyour own agent:  beadle run --agent claude \"fix the failing test\"")?;
    let shown = doc.allowed_count > 0 && doc.denied_count > 0 && doc.rewritten_count > 0;
    Ok(if proof.ok && shown && doc.outcome == Some(crate::model::Outcome::Succeeded) { Exit::Done } else { Exit::No })
}

/// Answers every question with yes, after it has stood on the screen.
async fn say_yes(client: Client, id: String) {
    let wanted = EventsQuery { kinds: Some("approval_requested".to_owned()), attach: Some(Attach::Answer), ..EventsQuery::default() };
    let Ok(mut stream) = client.stream(Some(&id), wanted).await else { return };
    while let Some(Ok(item)) = stream.next().await {
        let Item::Event(event) = item else { continue };
        let Some(call) = serde_json::from_str::<serde_json::Value>(event.body.get()).ok().and_then(|b| b["call"].as_u64()) else {
            continue;
        };
        tokio::time::sleep(SHOWN).await;
        let answer = ApprovalAnswer::new(Effect::Allow, "answered by --yes");
        // why ignore: a question that was answered meanwhile needs no second answer.
        let _ = client.answer(&event.session, call, &answer).await;
    }
}

/// The temporary folder.
struct Stage {
    root: PathBuf,
    work: PathBuf,
}

impl Stage {
    fn build() -> anyhow::Result<Self> {
        let root = temporary("beadle-demo")?;
        let stage = Self { work: root.join("greet"), root };
        let write = |path: PathBuf, text: &str| -> std::io::Result<()> {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::write(path, text)
        };
        for (name, text) in workspace::workspace_files() {
            write(stage.work.join(name), text)?;
        }
        for dir in ["home", "agent"] {
            std::fs::create_dir_all(stage.root.join(dir))?;
        }
        for git in workspace::git_setup() {
            let done = Command::new("git")
                .args(*git)
                .current_dir(&stage.work)
                .env("HOME", stage.root.join("home"))
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .stdin(Stdio::null())
                .output()
                .map_err(|e| UsageError(format!("the demo needs git: {e}; install it")))?;
            if !done.status.success() {
                let why = String::from_utf8_lossy(&done.stderr).into_owned();
                return Err(UsageError(format!("git {} failed: {}", git.join(" "), super::text::safe(&why))).into());
            }
        }
        Ok(stage)
    }

    fn request(&self, args: &DemoArgs, server: &Server, attach: bool) -> RunRequest {
        let text = |p: &Path| p.display().to_string();
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
        let env = [
            ("PATH", path),
            ("HOME", text(&self.root.join("home"))),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("ANTHROPIC_BASE_URL", server.url()),
            ("ANTHROPIC_API_KEY", KEY.to_owned()),
            ("CLAUDE_CONFIG_DIR", text(&self.root.join("agent"))),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
        ];
        RunRequest {
            name: Some("demo".to_owned()),
            agent: args.agent.clone(),
            program: args.program.as_ref().map(|p| std::path::absolute(p).map_or_else(|_| text(p), |p| text(&p))),
            cwd: text(&self.work),
            env: env.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
            prompt: Some(workspace::PROMPT.to_owned()),
            attach,
            ..RunRequest::default()
        }
    }
}

fn coded(e: gateway::Error) -> Coded {
    Coded { exit: Exit::Internal, code: e.code().to_owned(), message: e.to_string() }
}
