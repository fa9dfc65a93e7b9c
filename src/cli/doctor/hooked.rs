//! The hook client while no daemon runs: the agent's own program in its plain mode, started by nobody of ours, with the settings that
//! `beadle hook install` writes and a socket that nobody listens on.
//!
//! Invariant: without hooks the call would run, for the agent's own permissions allow it; so a call that did not run was blocked by the
//! hook, and the words of the hook client among what the model heard are the evidence.
//!
//! Called by `doctor` (playing) and `checks` (judging).

use std::process::Stdio;

use serde_json::json;

use super::rig::{PATIENCE, Rig, Scene, Told, bash, words};
use crate::agent::claude::settings::{self, Hooks};
use crate::api::client::Client;

/// What the hook client says when it blocks.
const BLOCKED: &str = "beadle: blocked";
/// The file that the call would leave.
const MARK: &str = "hooked.txt";

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hooked {
    /// The call ran.
    pub ran: bool,
    /// The model heard that it was blocked, by the client's own words.
    pub told: bool,
    /// Requests to the model that carried a result of the call.
    pub answered: usize,
}

pub async fn play(rig: &Rig, client: &Client) -> Told<Hooked> {
    let script = json!({ "steps": [bash(&format!("echo ran >> {MARK}")), { "text": "done" }] });
    let scene = Scene::build(rig, "hooked", &script).await?;
    let text = |name: &str| scene.dir.join(name).display().to_string();
    let hooks = Hooks {
        client: client.hooks().await.map_err(words)?.shim,
        socket: text("nobody.sock"),
        // why one that is not there: no conversation of a check may start a daemon.
        host: text("nothing/beadle"),
        home: None,
    };
    let settings = settings::install("", &hooks).map_err(words)?;
    std::fs::write(scene.dir.join("agent/settings.json"), settings).map_err(words)?;
    let mut command = tokio::process::Command::new(&rig.program);
    command.args(["-p", "go", "--output-format", "json", "--allowedTools", "Bash"]);
    command.current_dir(&scene.work).env_clear().envs(scene.env().iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.status()).await;
    ended.map_err(|_| format!("the agent did not end within {} s", PATIENCE.as_secs()))?.map_err(words)?;
    let bodies: Vec<String> = scene.server.requests().iter().map(|r| r.body.to_string()).collect();
    Ok(Hooked {
        ran: scene.work.join(MARK).exists(),
        told: bodies.iter().any(|b| b.contains(BLOCKED)),
        answered: bodies.iter().filter(|b| b.contains("tool_result")).count(),
    })
}
