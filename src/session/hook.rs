//! Questions that come through an agent's hooks: the same judgement as at the gate, answered to the hook's own connection.
//!
//! Invariants:
//! - the decision is synced before anyone is told of it, as at the gate;
//! - the same call told twice (hooks in two settings files, a client that asks again while a person is awaited, a daemon that was
//!   restarted in between) is one call with one answer, until its result is seen; after that the same words are a new call;
//! - in a session that the gate holds, the hooks of its own agent decide nothing: the gate does;
//! - a question whose client has gone away is withdrawn, so that nobody approves what will not run.
//!
//! Called by `command` for [`Command::Hook`](super::command::Command).

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::live;
use super::run::Runner;
use super::{Error, bounds, failpoint, mask};
use crate::agent::hook::{Hook, HookAnswer, HookAsked, HookEvent, HookReply};
use crate::agent::{Asked, Output};
use crate::config::HooksAsk;
use crate::model::{Actor, AgentStarted, By, Call, Channel, Effect, Event, Mediation, Note, PromptContext, ToolDecided, ToolEnded};
use crate::policy::paths::RealPaths;
use crate::policy::{Judged, call as policy_call};
use crate::process::ProcessId;

mod calls;

pub use calls::GONE;
pub(super) use calls::HookCalls;
use calls::digest;

/// One hook call as it reached the host.
#[derive(Debug)]
pub struct HookCall {
    pub agent: String,
    /// What the hook was given, as it came.
    pub body: Vec<u8>,
    /// The client's user.
    pub uid: u32,
    /// The client and its parents, nearest first.
    pub chain: Vec<ProcessId>,
    /// Whether the client asks again when it is told to wait.
    pub can_wait: bool,
    /// How long it waits for this answer.
    pub hold: Duration,
    /// When it arrived.
    pub begun: std::time::Instant,
}

impl HookCall {
    /// The agent: what started the client.
    pub(super) fn parent(&self) -> Result<ProcessId, Error> {
        let parent = self.chain.get(1).copied().filter(|p| p.pid > 1);
        parent.ok_or_else(|| Error::Refused { what: "a hook".to_owned(), why: "that no agent started is not answered".to_owned() })
    }

    pub(super) fn actor(&self) -> Actor {
        Actor { role: "agent".to_owned(), uid: Some(self.uid), pid: self.chain.get(1).map(|p| p.pid), ..Actor::default() }
    }
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookOutcome {
    Reply(HookReply),
    /// A person is asked; ask again.
    Wait,
}

/// The circumstances of one question.
struct Ask {
    agent: &'static str,
    cwd: String,
    prompts: bool,
    can_wait: bool,
    channel: Channel,
}

/// What a session's task gets.
pub struct Tell {
    /// Whose hook it is: inside a session of the host's own it may be another agent than the session's.
    pub agent: &'static str,
    pub hook: Hook,
    pub by: Actor,
    pub can_wait: bool,
    /// `Hook`, or `Proxy` where a tool of the host's own is asked for.
    pub channel: Channel,
}

/// What a hook is answered; `None` in its place where there is nothing to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    Decided(Told),
    /// The prompt is not taken, and why.
    Refused(String),
    Context(Vec<PromptContext>),
    /// What the model sees in place of the result.
    Instead(Value),
}

impl Heard {
    pub(super) fn as_answer(&self) -> HookAnswer<'_> {
        match self {
            Self::Decided(told) => told.as_answer(),
            Self::Refused(reason) => HookAnswer::Refuse { reason },
            Self::Context(context) => HookAnswer::Context(context),
            Self::Instead(output) => HookAnswer::Instead(output),
        }
    }

    /// Whether it says how long the host took for a decision.
    pub(super) const fn is_timed(&self) -> bool {
        matches!(self, Self::Decided(told) if !told.by_person)
    }
}

/// The answer of a call, as it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    effect: Effect,
    reason: String,
    input: Option<Value>,
    /// A person was asked, so the time until here says nothing of the host.
    by_person: bool,
}

/// Where a hook waits for its answer.
pub(super) type Client = oneshot::Sender<Option<Heard>>;

impl Told {
    pub(super) const fn effect(&self) -> Effect {
        self.effect
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// What the agent shall use in place of its own.
    pub(super) const fn input(&self) -> Option<&Value> {
        self.input.as_ref()
    }

    fn as_answer(&self) -> HookAnswer<'_> {
        match self.effect {
            Effect::Allow => HookAnswer::Allow { reason: &self.reason, input: self.input.as_ref() },
            Effect::Ask => HookAnswer::Ask { reason: &self.reason },
            Effect::Deny | Effect::Abstain => HookAnswer::Deny { reason: &self.reason },
        }
    }
}

impl Runner {
    /// One hook call. `Some` when the agent says with it that the session is over.
    pub(super) async fn hook(&mut self, tell: Tell, reply: Client) -> Option<String> {
        let proxied = tell.channel == Channel::Proxy;
        let gated = self.external.is_none() && self.session.mediation == Mediation::Gate && !proxied;
        let gate_decides = gated && self.session.agent_session_id.as_deref() == Some(tell.hook.agent_session_id.as_str());
        if self.is_paused() && matches!(tell.hook.event, HookEvent::Asked(_)) && !gate_decides {
            self.hold_hook(tell, reply);
            return None;
        }
        let Tell { agent, hook, by, can_wait, channel } = tell;
        let own = self.external.is_some() || proxied;
        if gate_decides {
            // why: the gate decides each of these calls; a second judgement would be a second call in the log.
            let _ = reply.send(None);
            return None;
        }
        // why: ids of an agent inside the session must not meet those of the session's own.
        let name = |id: String| if own { id } else { format!("{}/{id}", live::cut(&hook.agent_session_id, 64)) };
        let mut heard = None;
        match hook.event {
            HookEvent::Asked(asked) => {
                let asked = HookAsked { call_id: asked.call_id.map(name), ..asked };
                let ask = Ask { agent, cwd: hook.cwd, prompts: hook.prompts, can_wait, channel };
                self.hook_question(asked, ask, reply).await;
                return None;
            }
            HookEvent::Ended { reason } if own => {
                let _ = reply.send(None);
                return Some(reason);
            }
            HookEvent::Started { source, model } if own => {
                if model.is_some() && model != self.session.model {
                    self.pending.events.push(AgentStarted { model, ..AgentStarted::default() }.into());
                }
                if !matches!(source.as_str(), "" | "startup") {
                    self.pending.events.push(Note { text: format!("the agent goes on: {}", live::cut(&source, 64)) }.into());
                }
            }
            HookEvent::Prompt { text } if own => heard = self.hooked_prompt(text, by).await,
            HookEvent::Shown { result, said } => {
                let (said, instead) = if own { self.hooked_result(*result, *said).await } else { (*said, None) };
                heard = instead;
                self.hook_said(said, own, &name).await;
            }
            HookEvent::Said(said) => {
                for out in said {
                    self.hook_said(out, own, &name).await;
                }
            }
            HookEvent::Started { .. } | HookEvent::Prompt { .. } | HookEvent::Ended { .. } | HookEvent::Other => {}
        }
        self.commit().await;
        let _ = reply.send(heard);
        None
    }

    async fn hook_said(&mut self, out: Output, own: bool, name: &(dyn Fn(String) -> String + Sync)) {
        let out = match out {
            Output::ToolResult { call_id, is_error, ran, content, parent_call_id } => {
                let call_id = name(call_id);
                if !self.live.account.knows(&call_id) && (!own || self.session.calls == 0) {
                    // why: hooks that were installed while a call ran see only its end; inside a session of ours it is nobody's.
                    if own {
                        let (output, blob) = live::excerpt(mask::text(&content).into_owned().into_bytes());
                        self.pending.blobs.extend(blob);
                        self.pending
                            .events
                            .push(ToolEnded { call: None, call_id: Some(call_id), is_error, ran: None, output, duration_ms: None }.into());
                    }
                    return;
                }
                Output::ToolResult { call_id, is_error, ran, content, parent_call_id }
            }
            other if own => other,
            _ => return,
        };
        let out = if own { self.reported_result(out).await } else { out };
        let step = self.live.step(out, self.inner.prices.at(self.inner.clock.wall_ms()));
        self.pending.blobs.extend(step.blobs);
        for e in step.events {
            match e {
                Event::MediationBreached(b) => self.breach(&b.what, b.detail, b.call).await,
                Event::ToolEnded(t) => {
                    if let Some(seq) = t.call {
                        self.live.hooks.ended(seq);
                    }
                    self.pending.events.push(t.into());
                }
                e => self.pending.events.push(e),
            }
        }
    }

    async fn hook_question(&mut self, asked: HookAsked, ask: Ask, reply: Client) {
        let begun = std::time::Instant::now();
        failpoint::hit("requested");
        let digest = asked.call_id.as_deref().map(|id| digest(id, &asked.tool, &asked.input));
        let reply = match &digest {
            Some(d) => match self.live.hooks.join(d, reply) {
                Some(reply) => reply,
                None => return,
            },
            None => reply,
        };
        let seq = self.next_seq();
        let nameless = digest.is_none();
        // why: without an id nothing else can ever be joined with it, so any value that repeats nowhere will do.
        self.live.hooks.insert(seq, digest.unwrap_or_else(|| *blake3::hash(&seq.to_le_bytes()).as_bytes()), Some(reply));
        let asked = Asked {
            request_id: format!("hook-{seq}"),
            call_id: asked.call_id,
            tool: asked.tool,
            input: asked.input,
            parent_call_id: None,
            sub_agent: asked.sub_agent,
        };
        let (call, judged) = self.judge_hook(&asked, &ask).await;
        failpoint::hit("decided");
        if judged.effect != Effect::Ask {
            let seq = self.requested(&asked, &call, judged.failures.clone());
            let latency = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.settle(seq, &asked.request_id, &call, judged, None, latency, false);
            return self.commit().await;
        }
        let reason = if judged.reason.is_empty() { "this call must be asked about" } else { judged.reason.as_str() };
        // why: no agent asks its user about a tool of the host's own.
        let answers = if ask.channel == Channel::Proxy { HooksAsk::Wait } else { self.config.hooks_ask };
        let deny = match answers {
            HooksAsk::Deny => Some(format!("{reason}; it needs a person's answer, and `hooks.ask` is deny")),
            HooksAsk::Agent if !ask.prompts => {
                Some(format!("{reason}; it needs a person's answer, and the agent runs in a mode that asks nobody"))
            }
            HooksAsk::Wait if !ask.can_wait || nameless => {
                Some(format!("{reason}; it needs a person's answer, and this hook cannot wait for one"))
            }
            HooksAsk::Wait if self.live.waiting.len() as u64 >= self.config.waiting_asks => {
                Some(format!("{} calls wait for an answer already, the limit `limits.waiting_asks`", self.live.waiting.len()))
            }
            HooksAsk::Agent | HooksAsk::Wait => None,
        };
        match (deny, answers) {
            (Some(reason), _) => {
                let seq = self.requested(&asked, &call, judged.failures.clone());
                let judged = Judged { effect: Effect::Deny, by: By::Unattended, reason, ..judged };
                self.settle(seq, &asked.request_id, &call, judged, None, 0, false);
            }
            (None, HooksAsk::Wait) => {
                self.live.hooks.waits(seq);
                self.ask(&asked, call, judged, None);
            }
            (None, _) => self.hand_over(&asked, &call, judged, begun),
        }
        self.commit().await;
    }

    /// The agent's own prompt asks its user; what comes of it is seen by the result.
    fn hand_over(&mut self, asked: &Asked, call: &Arc<Call>, judged: Judged, begun: std::time::Instant) {
        let seq = self.requested(asked, call, judged.failures);
        let reason = if judged.reason.is_empty() { "this call must be asked about".to_owned() } else { judged.reason };
        self.live.hooks.told(seq, Effect::Ask, &reason, None);
        let decided = ToolDecided {
            call: seq,
            effect: Effect::Ask,
            by: By::Agent,
            reason,
            rule: judged.rule,
            answers: judged.answers,
            input_hash: blake3::hash(call.input.to_string().as_bytes()).to_hex().to_string(),
            updated_input: None,
            approver: None,
            latency_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
            frame: None,
        };
        self.live.decided(&decided, call.call_id.as_deref());
        self.pending.events.push(decided.into());
    }

    async fn judge_hook(&self, asked: &Asked, ask: &Ask) -> (Arc<Call>, Judged) {
        let record = |input: &Value| {
            let call = policy_call::build(
                &policy_call::CallInput {
                    agent: ask.agent,
                    tool: &asked.tool,
                    input,
                    cwd: &ask.cwd,
                    home: self.session.home.as_deref(),
                    write_root: self.session.write_root.as_deref(),
                    call_id: asked.call_id.as_deref(),
                    parent_call_id: None,
                    sub_agent: asked.sub_agent.as_deref(),
                    channel: ask.channel,
                },
                &RealPaths,
            );
            if ask.channel == Channel::Proxy { policy_call::as_own(call, &self.session.cwd) } else { call }
        };
        let hooked = |call: &Call| self.inner.own.check(call).or_else(|| self.inner.hooked.check(call));
        let own = |call: &Call| hooked(call).or_else(|| bounds::check(&self.session.record, call));
        let rebuild = |input: &Value| {
            if !input.is_object() || !policy_call::fits(input) {
                return Err("the input is not a JSON object of at most 16 MiB".to_owned());
            }
            let call = record(input);
            own(&call).map_or(Ok(call), Err)
        };
        let call = Arc::new(record(&asked.input));
        if let Some(why) = self.goes_no_further() {
            return (call, Judged::host_deny(why));
        }
        if let Some(why) = own(&call) {
            return (call, Judged::host_deny(why));
        }
        if let Some(why) = self.inner.let_go(&self.id, &self.session.labels).await {
            return (call, Judged::host_deny(why));
        }
        let chain = self.chain_now();
        let judged = chain.judge(&self.session_seen(), &call, self.inner.clock.wall_ms(), &rebuild).await;
        super::plugins::watchdog::saw(&self.inner, &judged.answers);
        (call, judged)
    }

    /// Withdraws questions whose client asks no more.
    pub(super) fn withdraw_gone(&mut self, now: Instant) {
        for seq in self.live.hooks.gone(now) {
            if self.live.waiting.contains_key(&seq) {
                self.resolve(
                    seq,
                    Effect::Deny,
                    By::Withdrawn,
                    "the agent withdrew its question".to_owned(),
                    (Actor::host(), vec![]),
                    false,
                );
            } else {
                self.live.hooks.ended(seq);
            }
        }
    }
}
