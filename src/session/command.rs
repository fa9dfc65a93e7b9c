//! What others ask of a session's task, and how it answers: prompts, stops, answers of people, events from elsewhere.
//!
//! Called by `run`; commands are sent by `Manager`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::hook::{Heard, Tell};
use super::host_tools::Answered;
use super::live::Report;
use super::run::{Ending, Runner, told};
use super::{Error, failpoint, live, mask, moments};
use crate::agent::mcp::ToolCall;
use crate::model::account::Seen;
use crate::model::moment::NewPrompt;
use crate::model::{Actor, Effect, Event, Note, PauseMode, PromptSubmitted, RuleId, Session, SessionStopping, Witness};
use crate::policy::Chain;
use crate::store::Frame;

/// What a hook says after a call: which tool ran with which input, and how it went.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectReport {
    pub call_id: String,
    pub tool: String,
    pub input: Option<serde_json::Value>,
    pub is_error: bool,
    /// Something was executed: every success, and an error that only an execution gives.
    pub ran: bool,
}

/// What others ask of a session's task.
pub enum Command {
    Prompt {
        text: String,
        by: Actor,
        reply: oneshot::Sender<Result<Session, Error>>,
    },
    Stop {
        grace: Option<Duration>,
        kill: bool,
        by: Actor,
        reply: oneshot::Sender<Result<Session, Error>>,
    },
    Pause {
        mode: Option<PauseMode>,
        reason: String,
        by: Actor,
        reply: oneshot::Sender<Result<Session, Error>>,
    },
    /// Let it go on.
    Continue {
        by: Actor,
        reply: oneshot::Sender<Result<Session, Error>>,
    },
    /// Make the conversation shorter.
    Compact {
        request: super::compact::CompactRequest,
        by: Actor,
        reply: oneshot::Sender<Result<super::compact::CompactReport, Error>>,
    },
    Resolve(Resolve, oneshot::Sender<Result<(), Error>>),
    /// A hook's report of a call that was made.
    Report {
        report: EffectReport,
        reply: oneshot::Sender<Result<Session, Error>>,
    },
    /// Look at the limits of its tree: one is passed.
    Look,
    /// A terminal that can answer came or went.
    Attached(bool),
    /// An agent's hook tells or asks something.
    Hook {
        tell: Box<Tell>,
        reply: oneshot::Sender<Option<Heard>>,
    },
    /// A call of one of the host's own tools, through a server that the agent started; `None` where it must be decided first.
    HostTool {
        call: ToolCall,
        reply: oneshot::Sender<Result<Option<Answered>, Error>>,
    },
    /// Events from elsewhere that belong into this log (rules).
    Record {
        events: Vec<Event>,
        reply: oneshot::Sender<Result<Session, Error>>,
    },
}

/// A person's answer to a waiting call.
pub struct Resolve {
    pub call: u64,
    pub effect: Effect,
    pub reason: String,
    pub by: Actor,
    /// Rules that it adds, and the chain that holds them: in force before the agent gets the answer.
    pub rules: Vec<RuleId>,
    pub chain: Option<Arc<Chain>>,
    /// Public keys of the operators there are.
    pub keys: Vec<String>,
}

/// While it lives, a terminal that can answer approvals is attached.
pub struct AttachGuard {
    pub(super) mailbox: mpsc::Sender<Command>,
}

impl Drop for AttachGuard {
    fn drop(&mut self) {
        // why: a full mailbox is a busy session; the sender task must not block in drop.
        let mailbox = self.mailbox.clone();
        if mailbox.try_send(Command::Attached(false)).is_err()
            && let Ok(rt) = tokio::runtime::Handle::try_current()
        {
            rt.spawn(async move { mailbox.send(Command::Attached(false)).await });
        }
    }
}

impl Runner {
    /// `Some` when an agent that the host did not start says that its session is over.
    pub(super) async fn command(&mut self, command: Command) -> Option<String> {
        match command {
            Command::Hook { tell, reply } => return self.hook(*tell, reply).await,
            // why: who asked was told that the session is busy.
            Command::HostTool { reply, .. } if reply.is_closed() => {}
            Command::HostTool { call, reply } => {
                let answer = self.serve(call).await;
                let _ = reply.send(answer);
            }
            // why kept: the agent is being started anew between turns, and takes it then.
            Command::Prompt { text, by, reply } if self.live.parking.turns_over() => self.keep_prompt(text, by, reply),
            Command::Pause { mode, reason, by, reply } => {
                let answer = self.pause(mode, reason, by).await;
                let _ = reply.send(answer);
            }
            Command::Continue { by, reply } => {
                let answer = self.unpause(by).await;
                let _ = reply.send(answer);
            }
            Command::Compact { reply, .. } if self.is_paused() => {
                let why = "it is paused; let it go on with `beadle resume` first".to_owned();
                let _ = reply.send(Err(Error::Compaction { session: self.id.clone(), why }));
            }
            Command::Compact { request, by, reply } => {
                let answer = self.compact(request, by).await;
                let _ = reply.send(answer);
            }
            Command::Prompt { text, by, reply } => self.prompt(text, by, reply).await,
            Command::Stop { grace, kill, by, reply } => {
                let grace = grace.unwrap_or(Duration::from_millis(self.config.grace_ms));
                let first = self.ending.is_none();
                self.ending = Some(if kill { Ending::Kill } else { self.ending.unwrap_or(Ending::Stop) });
                if first || kill {
                    let how = if kill { "kill" } else { "stop" };
                    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                    self.pending.events.push(SessionStopping { by, how: how.to_owned(), grace_ms }.into());
                    self.commit().await;
                    failpoint::hit("stopping");
                }
                if self.external.is_some() {
                    self.stop_process(kill);
                } else if kill {
                    told(&self.id, self.shim.kill().await);
                } else {
                    told(&self.id, self.shim.stop(grace).await);
                }
                let _ = reply.send(self.recorded());
            }
            Command::Resolve(r, reply) => {
                let mut answer = self.answered(r);
                if answer.is_ok() {
                    self.commit().await;
                    answer = self.recorded().map(drop);
                }
                let _ = reply.send(answer);
            }
            // The limits are looked at after each command.
            Command::Look => {}
            Command::Attached(true) => {
                self.attached += 1;
                self.unattended_since = None;
            }
            Command::Attached(false) => {
                self.attached = self.attached.saturating_sub(1);
                if self.attached == 0 && self.external.is_none() {
                    self.unattended_since = Some(Instant::now());
                }
            }
            Command::Report { report: r, reply } => {
                let seen = Seen { is_error: r.is_error, ran: r.ran };
                let (call_id, tool, input) = (r.call_id.as_str(), r.tool.as_str(), r.input.as_ref());
                self.reported(Report { witness: Witness::Hook, source: "", call_id, tool, input, seen }).await;
                self.pending.events.extend(self.live.observed());
                self.commit().await;
                let _ = reply.send(self.recorded());
            }
            Command::Record { events, reply }
                if super::tasks::is_taken(&events, || self.inner.store.tasks(&self.id).unwrap_or_default()) =>
            {
                let _ = reply.send(Err(Error::Busy));
            }
            Command::Record { events, reply } => {
                events.iter().for_each(|e| self.live.tasks.replay(e));
                self.pending.events.extend(events);
                self.commit().await;
                let _ = reply.send(self.recorded());
            }
        }
        None
    }

    /// Gives the agent a prompt, while somebody waits for that: who was told that nothing came of it may send it again.
    pub(super) async fn prompt(&mut self, text: String, by: Actor, reply: oneshot::Sender<Result<Session, Error>>) {
        if reply.is_closed() {
            return;
        }
        let answer = self.prompted(text, by, || reply.is_closed()).await;
        // why ignored: it has just gone.
        let _ = reply.send(answer);
    }

    async fn prompted(&mut self, text: String, by: Actor, is_given_up: impl Fn() -> bool + Send) -> Result<Session, Error> {
        if self.external.is_some() {
            return Err(Error::NotOurs(self.id.clone()));
        }
        if self.driver.prompt("", &[]).is_none() {
            return Err(Error::NoPrompts(self.driver.name().to_owned()));
        }
        if let Some(call) = self.live.parking.put_away_at() {
            return Err(Error::PutAway { session: self.id.clone(), call });
        }
        if self.input_closed || self.ending.is_some() {
            return Err(Error::InputClosed(self.id.clone()));
        }
        if let Some(why) = self.over_turns() {
            self.commit().await;
            return Err(Error::Refused { what: "the prompt".to_owned(), why: format!("is not given: {why}") });
        }
        let prompt = NewPrompt { text: text.clone(), number: self.live.prompts + 1, role: by.role.clone() };
        let (events, ruling) = moments::judge_prompt(&self.inner, &self.chain_now(), self.driver, &self.session, prompt).await;
        let is_stopping = self.inner.is_stopping(&self.id);
        if is_stopping || is_given_up() {
            // why without these: nothing of it is given, and what is of the start is to be given with the next.
            let rest = events.into_iter().filter(|e| !matches!(e, Event::ContextAdded(_) | Event::PromptJudged(_)));
            self.pending.events.extend(rest);
            let why = if is_stopping { "the session is being stopped" } else { "whoever sent it did not wait" };
            self.pending.events.push(Note { text: format!("a prompt was judged and not given: {why}") }.into());
            self.commit().await;
            return Err(Error::InputClosed(self.id.clone()));
        }
        self.pending.events.extend(events);
        let context = match ruling {
            Ok(c) => c,
            Err(r) => {
                self.commit().await;
                return Err(Error::PromptRefused { session: self.id.clone(), policy: r.policy, reason: r.reason });
            }
        };
        let Some(bytes) = self.driver.prompt(&text, &context) else { return Err(Error::NoPrompts(self.session.agent.clone())) };
        self.close_at = None;
        self.live.prompts += 1;
        self.live.moments.verified = false;
        let (prompt, blob) = live::excerpt(mask::text(&text).into_owned().into_bytes());
        self.pending.events.push(PromptSubmitted { prompt, by }.into());
        self.pending.blobs.extend(blob);
        if self.live.parking.unproven.is_some() {
            self.compaction.given(&bytes);
        }
        let no = self.live.next_frame();
        self.pending.frames.push(Frame { no, bytes });
        self.commit().await;
        self.recorded()
    }
}
