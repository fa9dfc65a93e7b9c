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

use std::collections::BTreeMap;
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
use crate::model::{
    Actor, AgentStarted, By, Call, Channel, Effect, Envelope, Event, Mediation, Note, PromptContext, ToolDecided, ToolEnded,
};
use crate::policy::paths::RealPaths;
use crate::policy::{Judged, call as calls};
use crate::process::ProcessId;

/// Calls remembered until their result is seen; the oldest that has its answer is forgotten first.
const OPEN: usize = 4096;
/// Clients that wait for the same call.
const CLIENTS: usize = 16;
/// How long a call waits for a client that no longer asks.
const GONE: Duration = Duration::from_secs(20);

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
}

/// What a session's task gets.
pub struct Tell {
    /// Whose hook it is: inside a session of the host's own it may be another agent than the session's.
    pub agent: &'static str,
    pub hook: Hook,
    pub by: Actor,
    pub can_wait: bool,
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

#[derive(Debug)]
struct Open {
    digest: [u8; 32],
    told: Option<Told>,
    clients: Vec<Client>,
    asked_at: Instant,
    by_person: bool,
}

/// Calls that came through hooks, by the number of their request, until their result is seen.
#[derive(Debug, Default)]
pub(super) struct HookCalls {
    open: BTreeMap<u64, Open>,
}

impl HookCalls {
    /// Rebuilds from one event of the log, oldest first.
    pub(super) fn replay(&mut self, e: &Envelope) {
        match &e.event {
            Event::ToolRequested(r) if r.call.channel == Channel::Hook => {
                // why: a masked record is not the call that the agent asked about; it is judged anew then.
                if let Some(digest) =
                    r.call.call_id.as_deref().map(|id| digest(id, &r.call.tool, &r.call.input)).filter(|_| !masked(&e.event))
                {
                    self.insert(e.seq, digest, None);
                }
            }
            Event::ApprovalRequested(a) => self.waits(a.call),
            Event::ToolDecided(d) if masked(&e.event) => self.ended(d.call),
            Event::ToolDecided(d) => self.told(d.call, d.effect, &d.reason, d.updated_input.as_ref()),
            Event::ToolEnded(ToolEnded { call: Some(seq), .. }) => drop(self.open.remove(seq)),
            _ => {}
        }
    }

    fn insert(&mut self, seq: u64, digest: [u8; 32], client: Option<Client>) {
        if self.open.len() >= OPEN
            && let Some(old) = self.open.iter().find(|(_, o)| o.told.is_some()).map(|(s, _)| *s)
        {
            self.open.remove(&old);
        }
        self.open
            .insert(seq, Open { digest, told: None, clients: client.into_iter().collect(), asked_at: Instant::now(), by_person: false });
    }

    /// Whether this call came through a hook: no frame carries its answer.
    pub(super) fn has(&self, seq: u64) -> bool {
        self.open.contains_key(&seq)
    }

    pub(super) fn told(&mut self, seq: u64, effect: Effect, reason: &str, input: Option<&Value>) {
        if let Some(o) = self.open.get_mut(&seq) {
            o.told = Some(Told { effect, reason: reason.to_owned(), input: input.cloned(), by_person: o.by_person });
        }
    }

    /// A person is asked about this call.
    fn waits(&mut self, seq: u64) {
        if let Some(o) = self.open.get_mut(&seq) {
            o.by_person = true;
        }
    }

    pub(super) fn ended(&mut self, seq: u64) {
        self.open.remove(&seq);
    }

    /// Tells every client whose call is decided in what is synced up to `last`.
    pub(super) fn answer(&mut self, last: u64) {
        for (_, o) in self.open.range_mut(..=last) {
            let Some(told) = o.told.as_ref().filter(|_| !o.clients.is_empty()) else { continue };
            for client in o.clients.drain(..) {
                // why ignore: a client that has gone away runs nothing.
                let _ = client.send(Some(Heard::Decided(told.clone())));
            }
        }
    }

    /// Joins a further client with an open call of the same words; gives it back when there is none.
    fn join(&mut self, digest: &[u8; 32], client: Client) -> Option<Client> {
        let Some(o) = self.open.values_mut().rev().find(|o| o.digest == *digest) else { return Some(client) };
        o.asked_at = Instant::now();
        match &o.told {
            Some(told) => drop(client.send(Some(Heard::Decided(told.clone())))),
            None => {
                o.clients.retain(|c| !c.is_closed());
                if o.clients.len() >= CLIENTS {
                    o.clients.remove(0);
                }
                o.clients.push(client);
            }
        }
        None
    }

    /// When the first undecided call has waited long enough for its client.
    pub(super) fn next_gone(&self) -> Option<Instant> {
        self.open.values().filter(|o| o.told.is_none()).map(|o| o.asked_at + GONE).min()
    }

    /// Undecided calls whose clients ask no more.
    pub(super) fn gone(&self, now: Instant) -> Vec<u64> {
        self.open.iter().filter(|(_, o)| o.told.is_none() && now >= o.asked_at + GONE).map(|(s, _)| *s).collect()
    }
}

impl Told {
    fn as_answer(&self) -> HookAnswer<'_> {
        match self.effect {
            Effect::Allow => HookAnswer::Allow { reason: &self.reason, input: self.input.as_ref() },
            Effect::Ask => HookAnswer::Ask { reason: &self.reason },
            Effect::Deny | Effect::Abstain => HookAnswer::Deny { reason: &self.reason },
        }
    }
}

fn masked(e: &Event) -> bool {
    e.body().to_string().contains(mask::MARK)
}

fn digest(call_id: &str, tool: &str, input: &Value) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    for part in [call_id, tool, &input.to_string()] {
        h.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        h.update(part.as_bytes());
    }
    *h.finalize().as_bytes()
}

impl Runner {
    /// One hook call. `Some` when the agent says with it that the session is over.
    pub(super) async fn hook(&mut self, tell: Tell, reply: Client) -> Option<String> {
        let gated = self.external.is_none() && self.session.mediation == Mediation::Gate;
        let gate_decides = gated && self.session.agent_session_id.as_deref() == Some(tell.hook.agent_session_id.as_str());
        if self.is_paused() && matches!(tell.hook.event, HookEvent::Asked(_)) && !gate_decides {
            self.hold_hook(tell, reply);
            return None;
        }
        let Tell { agent, hook, by, can_wait } = tell;
        let own = self.external.is_some();
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
                let ask = Ask { agent, cwd: hook.cwd, prompts: hook.prompts, can_wait };
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
        let (call, judged) = self.judge_hook(&asked, ask.agent, &ask.cwd).await;
        failpoint::hit("decided");
        if judged.effect != Effect::Ask {
            let seq = self.requested(&asked, &call, judged.failures.clone());
            let latency = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.settle(seq, &asked.request_id, &call, judged, None, latency, false);
            return self.commit().await;
        }
        let reason = if judged.reason.is_empty() { "this call must be asked about" } else { judged.reason.as_str() };
        let deny = match self.config.hooks_ask {
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
        match (deny, self.config.hooks_ask) {
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

    async fn judge_hook(&self, asked: &Asked, agent: &str, cwd: &str) -> (Arc<Call>, Judged) {
        let record = |input: &Value| {
            calls::build(
                &calls::CallInput {
                    agent,
                    tool: &asked.tool,
                    input,
                    cwd,
                    home: self.session.home.as_deref(),
                    write_root: self.session.write_root.as_deref(),
                    call_id: asked.call_id.as_deref(),
                    parent_call_id: None,
                    sub_agent: asked.sub_agent.as_deref(),
                    channel: Channel::Hook,
                },
                &RealPaths,
            )
        };
        let hooked = |call: &Call| self.inner.own.check(call).or_else(|| self.inner.hooked.check(call));
        let own = |call: &Call| hooked(call).or_else(|| bounds::check(&self.session.record, call));
        let rebuild = |input: &Value| {
            if !input.is_object() || !calls::fits(input) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn client() -> (Client, oneshot::Receiver<Option<Heard>>) {
        oneshot::channel()
    }

    #[test]
    fn the_same_words_are_one_call_until_its_result() {
        let mut h = HookCalls::default();
        let d = digest("t1", "Bash", &json!({"command": "ls"}));
        assert_ne!(d, digest("t1", "Bash", &json!({"command": "rm"})), "other words under the same id are another call");
        let (a, mut got_a) = client();
        h.insert(5, d, Some(a));
        let (b, mut got_b) = client();
        assert!(h.join(&d, b).is_none(), "a second client waits for the same answer");
        h.answer(9);
        assert!(got_a.try_recv().is_err() && got_b.try_recv().is_err(), "nothing is told before it is decided");
        h.told(5, Effect::Deny, "no", None);
        h.answer(4);
        assert!(got_a.try_recv().is_err(), "nothing is told before it is synced");
        h.answer(5);
        let deny = Some(Heard::Decided(Told { effect: Effect::Deny, reason: "no".into(), input: None, by_person: false }));
        assert_eq!((got_a.try_recv(), got_b.try_recv()), (Ok(deny.clone()), Ok(deny.clone())));
        let (c, mut got_c) = client();
        assert!(h.join(&d, c).is_none());
        assert_eq!(got_c.try_recv(), Ok(deny), "decided is decided");
        h.ended(5);
        assert!(h.join(&d, client().0).is_some(), "after its result the same words are a new call");
    }

    #[test]
    fn memory_is_bounded_and_waiting_calls_are_kept() {
        let mut h = HookCalls::default();
        for seq in 1..=(OPEN as u64 + 10) {
            h.insert(seq, *blake3::hash(&seq.to_le_bytes()).as_bytes(), None);
            if seq > 3 {
                h.told(seq, Effect::Allow, "", None);
            }
        }
        assert!(h.open.len() <= OPEN && [1, 2, 3].iter().all(|s| h.has(*s)), "{}", h.open.len());
        let now = Instant::now();
        assert_eq!((h.gone(now), h.gone(now + GONE).len()), (vec![], 3));
    }
}
