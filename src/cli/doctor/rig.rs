//! One session of the installed agent against a script of its own, and everything that was seen of it.
//!
//! Invariants: each session has a workspace, an agent configuration and a model of its own, so that sessions run side by side; every
//! wait has a deadline, and a session that reaches it is killed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::client::{Client, Item};
use crate::api::types::{AccountDoc, AccountQuery, ApprovalAnswer, Attach, EventsQuery, PAGE_MAX, RunRequest, SessionDoc, StopRequest};
use crate::gateway::{Logged, Options, Script, Server};
use crate::model::{Effect, Event, Status};

/// Longest session of a check.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(15);
/// Most pages of events read of one session.
const PAGES: usize = 20;
/// A key that is none: the scripted model asks for one, as the real API does.
const KEY: &str = "doctor-key-without-value";

/// What every session shares.
#[derive(Debug, Clone)]
pub struct Rig {
    /// The temporary folder.
    pub root: PathBuf,
    pub agent: String,
    /// The agent's program, absolute.
    pub program: String,
    /// The caller's PATH.
    pub path: String,
    /// This executable.
    pub own: PathBuf,
}

/// A session that is about to be played.
pub struct Scene {
    pub dir: PathBuf,
    pub work: PathBuf,
    pub server: Server,
    agent: String,
    program: String,
    env: Vec<(String, String)>,
    pub mcp: Option<Value>,
    pub prompt: String,
    pub attach: bool,
}

/// A session that was played.
#[derive(Debug, Clone)]
pub struct Played {
    pub doc: SessionDoc,
    pub events: Vec<Event>,
    pub requests: Vec<Logged>,
    /// Decisions joined with effects.
    pub account: AccountDoc,
    pub dir: PathBuf,
    pub work: PathBuf,
    /// From the call to the agent's own announcement; none without one.
    pub started_after: Option<Duration>,
}

/// Why a session could not be played, in words.
pub type Told<T> = Result<T, String>;

/// Errors as words: in a report they are what was seen.
pub fn words(e: impl std::fmt::Display) -> String {
    e.to_string()
}

impl Scene {
    pub async fn build(rig: &Rig, name: &str, script: &Value) -> Told<Self> {
        let dir = rig.root.join(name);
        let work = dir.join("work");
        for d in [&work, &dir.join("agent"), &dir.join("home"), &dir.join("bin")] {
            std::fs::create_dir_all(d).map_err(words)?;
        }
        let server = Server::start(Script::parse(&script.to_string()).map_err(words)?, Options::default()).await.map_err(words)?;
        let text = |p: PathBuf| p.display().to_string();
        let env = vec![
            ("PATH".to_owned(), format!("{}:{}", dir.join("bin").display(), rig.path)),
            ("HOME".to_owned(), text(dir.join("home"))),
            ("GIT_CONFIG_NOSYSTEM".to_owned(), "1".to_owned()),
            ("ANTHROPIC_BASE_URL".to_owned(), server.url()),
            ("ANTHROPIC_API_KEY".to_owned(), KEY.to_owned()),
            ("CLAUDE_CONFIG_DIR".to_owned(), text(dir.join("agent"))),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC".to_owned(), "1".to_owned()),
        ];
        let (agent, program) = (rig.agent.clone(), rig.program.clone());
        Ok(Self { dir, work, server, agent, program, env, mcp: None, prompt: "go".to_owned(), attach: false })
    }

    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    pub fn file(&self, name: &str, text: &str) -> Told<PathBuf> {
        let path = self.work.join(name);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(words)?;
        }
        std::fs::write(&path, text).map_err(words)?;
        Ok(path)
    }

    pub async fn start(&self, client: &Client) -> Told<SessionDoc> {
        let name = self.dir.file_name().map(|n| n.to_string_lossy().into_owned());
        let request = RunRequest {
            name,
            agent: self.agent.clone(),
            program: Some(self.program.clone()),
            cwd: self.work.display().to_string(),
            env: self.env.iter().cloned().collect(),
            prompt: Some(self.prompt.clone()),
            attach: self.attach,
            mcp_config: self.mcp.clone(),
            ..RunRequest::default()
        };
        client.run(&request).await.map_err(words)
    }

    /// Starts it and waits for its end.
    pub async fn play(self, client: &Client) -> Told<Played> {
        let doc = self.start(client).await?;
        self.finish(client, &doc.id).await
    }

    /// Waits for the end of a session that was started, and gathers everything.
    pub async fn finish(self, client: &Client, id: &str) -> Told<Played> {
        let mut doc = client.wait(id, Some(PATIENCE)).await.map_err(words)?;
        if doc.status != Status::Ended {
            client.stop(id, StopRequest { grace_ms: None, kill: true }).await.map_err(words)?;
            return Err(format!(
                "the session did not end within {} s (turns: {}, calls: {}) and was killed",
                PATIENCE.as_secs(),
                doc.turn_count,
                doc.call_count
            ));
        }
        let (events, announced) = all_events(client, id).await?;
        doc = client.session(id).await.map_err(words)?;
        let account = client.account(id, &AccountQuery::default()).await.map_err(words)?;
        let started = chrono::DateTime::parse_from_rfc3339(&doc.created_at).ok().map(|t| t.timestamp_millis());
        let started_after = announced.zip(started).and_then(|(a, s)| u64::try_from(a - s).ok()).map(Duration::from_millis);
        Ok(Played { doc, events, requests: self.server.requests(), account, dir: self.dir, work: self.work, started_after })
    }
}

async fn all_events(client: &Client, id: &str) -> Told<(Vec<Event>, Option<i64>)> {
    let (mut out, mut announced, mut from) = (Vec::new(), None, 1);
    for _ in 0..PAGES {
        let page = client.events(id, &EventsQuery { from: Some(from), limit: Some(PAGE_MAX), ..EventsQuery::default() }).await;
        let page = page.map_err(words)?;
        let Some(last) = page.items.last() else { break };
        from = last.seq + 1;
        for doc in &page.items {
            let event = doc.event().map_err(words)?;
            if matches!(event, Event::AgentStarted(_)) && announced.is_none() {
                announced = chrono::DateTime::parse_from_rfc3339(&doc.at).ok().map(|t| t.timestamp_millis());
            }
            out.push(event);
        }
    }
    Ok((out, announced))
}

/// Polls until `look` gives something; `None` after [`PATIENCE`].
pub async fn until<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> Option<T> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(found) = look().await {
            return Some(found);
        }
        tokio::time::sleep(LOOK).await;
    }
    None
}

/// Keeps a reader that can answer attached to a session, over restarts of its daemon; ends with the session.
pub struct Reader(tokio::task::JoinHandle<()>);

impl Reader {
    pub fn attach(client: &Client, id: &str) -> Self {
        let (client, id) = (client.clone(), id.to_owned());
        Self(tokio::spawn(async move {
            let wanted = EventsQuery { attach: Some(Attach::Answer), ..EventsQuery::default() };
            let Ok(mut stream) = client.stream(Some(&id), wanted).await else { return };
            while let Some(Ok(item)) = stream.next().await {
                if matches!(item, Item::End(_)) {
                    return;
                }
            }
        }))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The call of the `n`th question that a person was asked, once it is there.
pub async fn question(client: &Client, id: &str, n: usize) -> Told<u64> {
    let wanted = || EventsQuery { kinds: Some("approval_requested,session_ended".to_owned()), ..EventsQuery::default() };
    let found = until(|| async {
        let page = client.events(id, &wanted()).await.ok()?;
        let asked: Vec<u64> = page.items.iter().filter(|e| e.kind == "approval_requested").filter_map(|e| call_of(e.body.get())).collect();
        let over = page.items.iter().any(|e| e.kind == "session_ended");
        match asked.get(n) {
            Some(call) => Some(Ok(*call)),
            None if over => Some(Err("the session ended without asking".to_owned())),
            None => None,
        }
    });
    found.await.unwrap_or_else(|| Err("nothing was asked in time".to_owned()))
}

fn call_of(body: &str) -> Option<u64> {
    serde_json::from_str::<Value>(body).ok()?["call"].as_u64()
}

pub async fn answer(client: &Client, id: &str, call: u64, effect: Effect, reason: &str) -> Told<()> {
    client.answer(id, call, &ApprovalAnswer::new(effect, reason)).await.map(drop).map_err(words)
}

/// Lines of a file; none when it is not there.
pub fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A step that runs one shell command.
pub fn bash(command: &str) -> Value {
    json!({ "tool": "Bash", "input": { "command": command, "description": "a check" } })
}

/// The same with a tool-use id of its own.
pub fn bash_as(id: &str, command: &str) -> Value {
    json!({ "name": "Bash", "id": id, "input": { "command": command, "description": "a check" } })
}

/// Pids of living processes that carry a session's marker.
pub fn marked(id: &str) -> Vec<u32> {
    let mark = format!("BEADLE_SESSION={id}");
    let Ok(proc) = std::fs::read_dir("/proc") else { return vec![] };
    proc.flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|b| b.split(|c| *c == 0).any(|v| v == mark.as_bytes())))
        .collect()
}

/// Whether a process runs (a zombie does not).
pub fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}
