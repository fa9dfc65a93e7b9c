//! The agent's own side of the gate, with no host between: its question stays unanswered and the channel is closed under it; its results
//! are answered with others.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::rig::{PATIENCE, Scene, Told, lines, words};
use crate::agent::{self, Answer, LaunchRequest, Output, ReadState};

/// How long the agent may go on after its channel is closed.
const AFTER: Duration = Duration::from_secs(10);
/// Longest line read.
const LINE_MAX: usize = 16 << 20;

/// What a call prints that fails.
pub const FAILURE: &str = "doctor-failure-4711";

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

/// What was seen of two results that the host was shown first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Results {
    /// Results of a call that succeeded, and of one that failed, which the agent held back until they were answered.
    pub held: usize,
    pub failed_held: usize,
    /// The model got what was given in place of the first.
    pub replaced: bool,
    /// The model saw what was replaced.
    pub leaked: bool,
}

/// An agent that was started by its recipe, over a channel of ours.
struct Open {
    driver: &'static dyn agent::Driver,
    child: tokio::process::Child,
    input: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Open {
    async fn start(scene: &Scene, agent: &str, program: &str, results: bool) -> Told<Self> {
        let driver = agent::driver(agent).map_err(words)?;
        let launch = driver
            .launch(&LaunchRequest {
                program: Some(PathBuf::from(program)),
                env: scene.env().iter().map(|(k, v)| (k.into(), v.into())).collect(),
                cwd: scene.work.clone(),
                prompt: Some(scene.prompt.clone()),
                agent_session_id: "5e55104e-d0c7-4000-8000-000000000001".to_owned(),
                results,
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
        let child = command.spawn().map_err(words)?;
        drop(command);
        for frame in &launch.frames {
            input.write_all(frame).await.map_err(words)?;
        }
        Ok(Self { driver, child, input, reader: BufReader::new(output) })
    }

    /// Closes the channel and waits a while; what is left of the agent then is killed. How it ended by itself, if it did.
    async fn close(self) -> Option<String> {
        let Self { mut child, input, reader, .. } = self;
        let group = child.id().and_then(|p| i32::try_from(p).ok()).and_then(rustix::process::Pid::from_raw);
        drop((input, reader));
        let ended = tokio::time::timeout(AFTER, child.wait()).await.ok().and_then(Result::ok).map(|s| s.to_string());
        if let Some(group) = group {
            // why ignore: an empty group is what is hoped for.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        ended
    }
}

/// Starts the agent, reads until it asks, then closes both directions. `trace` is the file that the call would make.
pub async fn closed_while_asked(scene: &Scene, agent: &str, program: &str, trace: &str) -> Told<Closed> {
    let mut open = Open::start(scene, agent, program, false).await?;
    let asked = tokio::time::timeout(PATIENCE, first_question(&mut open.reader, open.driver)).await;
    let tool = asked.unwrap_or_else(|_| Err("it asked nothing in time".to_owned()));
    let ended = open.close().await;
    Ok(Closed { tool: tool?, ran: !lines(&scene.work.join(trace)).is_empty(), ended })
}

/// Starts the agent as for policies that judge results, allows each call, and gives `instead` in the place of what succeeded and prints
/// `secret`.
pub async fn results_replaced(scene: &Scene, agent: &str, program: &str, secret: &str, instead: &str) -> Told<Results> {
    let mut open = Open::start(scene, agent, program, true).await?;
    let played = tokio::time::timeout(PATIENCE, answer_all(&mut open, scene, secret, instead)).await;
    let played = played.unwrap_or_else(|_| Err(format!("its turn did not end within {} s", PATIENCE.as_secs())));
    open.close().await;
    played
}

async fn answer_all(open: &mut Open, scene: &Scene, secret: &str, instead: &str) -> Told<Results> {
    let model_has = |text: &str| scene.server.requests().iter().any(|r| r.body.to_string().contains(text));
    let (mut line, mut state, mut seen) = (Vec::new(), ReadState::default(), Results::default());
    loop {
        line.clear();
        if open.reader.read_until(b'\n', &mut line).await.map_err(words)? == 0 {
            return Err("it ended before its turn did".to_owned());
        }
        if line.len() > LINE_MAX {
            return Err(format!("it wrote a line of over {LINE_MAX} bytes"));
        }
        let end = line.len() - usize::from(line.ends_with(b"\n"));
        for out in open.driver.read(&mut state, &line[..end]) {
            let answer = match out {
                Output::Asked(a) => open.driver.answer(&a.request_id, Answer::Allow { input: &a.input }),
                Output::Shown(s) if s.is_error => {
                    // A failed call's message can be replaced by nobody: what counts is that the host could end the session here.
                    seen.failed_held += usize::from(!model_has(FAILURE));
                    open.driver.result_answer(&s.request_id, None)
                }
                Output::Shown(s) => {
                    seen.held += usize::from(!model_has(secret));
                    let text = s.output.to_string().replace(secret, instead);
                    let new: serde_json::Value = serde_json::from_str(&text).map_err(words)?;
                    open.driver.result_answer(&s.request_id, Some(&new))
                }
                Output::TurnEnded(_) => {
                    return Ok(Results { replaced: model_has(instead), leaked: model_has(secret), ..seen });
                }
                _ => continue,
            };
            open.input.write_all(&answer).await.map_err(words)?;
        }
    }
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
