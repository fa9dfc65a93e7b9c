//! The agent's own side of the gate: its question stays unanswered and the channel is closed under it. No host stands between.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::rig::{PATIENCE, Scene, Told, lines, words};
use crate::agent::{self, LaunchRequest, Output, ReadState};

/// How long the agent may go on after its channel is closed.
const AFTER: Duration = Duration::from_secs(10);
/// Longest line read.
const LINE_MAX: usize = 16 << 20;

/// What was seen.
#[derive(Debug, Clone)]
pub struct Closed {
    /// The tool it had asked about.
    pub tool: String,
    /// Whether the call ran all the same.
    pub ran: bool,
    /// How the agent ended; none when it had to be killed.
    pub ended: Option<String>,
}

/// Starts the agent by its recipe, reads until it asks, then closes both directions. `trace` is the file that the call would make.
pub async fn closed_while_asked(scene: &Scene, agent: &str, program: &str, trace: &str) -> Told<Closed> {
    let driver = agent::driver(agent).map_err(words)?;
    let launch = driver
        .launch(&LaunchRequest {
            program: Some(PathBuf::from(program)),
            env: scene.env().iter().map(|(k, v)| (k.into(), v.into())).collect(),
            cwd: scene.work.clone(),
            prompt: Some(scene.prompt.clone()),
            agent_session_id: "5e55104e-d0c7-4000-8000-000000000001".to_owned(),
            ..LaunchRequest::default()
        })
        .map_err(words)?;
    let pair = || -> std::io::Result<(UnixStream, OwnedFd)> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs.into()))
    };
    let (mut input, stdin) = pair().map_err(words)?;
    let (output, stdout) = pair().map_err(words)?;
    let mut command = tokio::process::Command::new(&launch.program);
    command.args(&launch.args).env_clear().envs(&launch.env).current_dir(&scene.work);
    command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::null()).process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(words)?;
    drop(command);
    let group = child.id().and_then(|p| i32::try_from(p).ok()).and_then(rustix::process::Pid::from_raw);
    for frame in &launch.frames {
        input.write_all(frame).await.map_err(words)?;
    }
    let mut reader = BufReader::new(output);
    let asked = tokio::time::timeout(PATIENCE, first_question(&mut reader, driver)).await;
    let tool = asked.unwrap_or_else(|_| Err("it asked nothing in time".to_owned()));
    drop((input, reader));
    let ended = tokio::time::timeout(AFTER, child.wait()).await.ok().and_then(Result::ok).map(|s| s.to_string());
    if let Some(group) = group {
        // why ignore: an empty group is what is hoped for.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    Ok(Closed { tool: tool?, ran: !lines(&scene.work.join(trace)).is_empty(), ended })
}

async fn first_question(reader: &mut BufReader<UnixStream>, driver: &dyn agent::Driver) -> Told<String> {
    let (mut line, mut state) = (Vec::new(), ReadState::default());
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).await.map_err(words)? == 0 {
            return Err("it ended without asking".to_owned());
        }
        if line.len() > LINE_MAX {
            return Err(format!("it wrote a line of over {LINE_MAX} bytes"));
        }
        let end = line.len() - usize::from(line.ends_with(b"\n"));
        for out in driver.read(&mut state, &line[..end]) {
            if let Output::Asked(asked) = out {
                return Ok(asked.tool);
            }
        }
    }
}
