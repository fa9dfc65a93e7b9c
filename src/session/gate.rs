//! The gate: one question of the agent becomes a record, a judgement and an answer.
//!
//! Invariants:
//! - request, decision and the frame that carries the answer are collected together, so that one append holds all three;
//! - what cannot be recorded or judged is denied;
//! - an ask waits in the queue until a person answers, its time is over, or the question goes away; it is answered once.
//!
//! Called by `run` and `finish`.

use std::sync::Arc;

use serde_json::Value;

use super::command::Resolve;
use super::live::{self, Question};
use super::run::Runner;
use super::{Error, bounds, failpoint, mask};
use crate::agent::{self, Asked};
use crate::config::Unattended;
use crate::model::{
    Actor, ApprovalEndorsed, ApprovalRequested, ApprovalResolved, ApprovalState, By, Call, Channel, Effect, OnFailure, PluginFailed,
    RuleId, Session, ToolDecided, ToolRequested,
};
use crate::policy::paths::RealPaths;
use crate::policy::{Chain, Failure, Judged, call as calls};
use crate::store::Frame;
use crate::whole::apart;

/// Longest subject of a question, in bytes.
const SUBJECT_MAX: usize = 1024;

impl Runner {
    /// One question of the agent: record, judge, answer.
    pub(super) async fn question(&mut self, asked: Asked) {
        let begun = std::time::Instant::now();
        failpoint::hit("requested");
        match self.live.question(&asked) {
            Question::New => {}
            Question::Repeat => return,
            Question::Forged => {
                return self
                    .breach(
                        "request id reused",
                        format!("request {} came again with other content", live::cut(&asked.request_id, 128)),
                        None,
                    )
                    .await;
            }
        }
        if self.reasked(&asked).await {
            return;
        }
        let call = match self.record(&asked, &asked.input) {
            Ok(c) => Arc::new(c),
            Err(why) => return self.refuse(&asked, why, begun),
        };
        if self.input_closed {
            let judged = Judged::host_deny("the agent's input is closed, so no answer can reach it".to_owned());
            let seq = self.requested(&asked, &call, vec![]);
            self.settle(seq, &asked.request_id, &call, judged, None, 0, false);
            return;
        }
        let seq = self.next_seq();
        if let Some(m) = self.live.changed(seq, &asked) {
            self.decide(&asked, call, Judged::host_deny(format!("{}: {}", m.what, m.detail)), begun);
            return self.breach(m.what, m.detail, Some(seq)).await;
        }
        let judged = self.judge(&asked, &call).await;
        self.inner.metrics.judged(&judged.answers, begun.elapsed());
        super::plugins::watchdog::saw(&self.inner, &judged.answers);
        failpoint::hit("decided");
        if judged.effect == Effect::Ask {
            if self.config.unattended == Unattended::Deny && !self.can_ask() {
                let why = format!(
                    "{}; it needs a person's answer and no terminal is attached",
                    or(&judged.reason, "this call must be asked about")
                );
                return self.decide(&asked, call, Judged { effect: Effect::Deny, by: By::Unattended, reason: why, ..judged }, begun);
            }
            if self.live.waiting.len() as u64 >= self.config.waiting_asks {
                let why = format!("{} calls wait for an answer already, the limit `limits.waiting_asks`", self.live.waiting.len());
                return self.decide(&asked, call, Judged { effect: Effect::Deny, by: By::Host, reason: why, ..judged }, begun);
            }
            return self.ask(&asked, call, judged, None);
        }
        self.decide(&asked, call, judged, begun);
    }

    /// Whether a terminal is attached, or the grace for one to come back runs. Counts only with `approvals.unattended = "deny"`.
    pub(super) fn can_ask(&self) -> bool {
        self.attached > 0 || self.unattended_since.is_some_and(|t| t.elapsed() < super::run::REATTACH)
    }

    /// The host denies it; an input that cannot be recorded is left out.
    pub(super) fn refuse(&mut self, asked: &Asked, why: String, begun: std::time::Instant) {
        let call = self.record(asked, &asked.input).unwrap_or_else(|_| {
            let none = Value::Object(serde_json::Map::new());
            calls::build(&self.call_input(asked, &none), &RealPaths)
        });
        self.decide(asked, Arc::new(call), Judged::host_deny(why), begun);
    }

    pub(super) async fn judge(&mut self, asked: &Asked, call: &Arc<Call>) -> Judged {
        if let Some(why) = self.inner.own.check(call).or_else(|| bounds::check(&self.session.record, call)) {
            return Judged::host_deny(why);
        }
        if let Some(x) = &self.limits.over {
            return Judged::host_deny(x.reason.clone());
        }
        if let Some(why) = self.inner.let_go(&self.id, &self.session.labels).await {
            return Judged::host_deny(why);
        }
        let chain = self.chain_now();
        let at = self.inner.clock.wall_ms();
        let own = &self.inner.own;
        let rebuild = |input: &Value| {
            let c = self.record(asked, input)?;
            own.check(&c).or_else(|| bounds::check(&self.session.record, &c)).map_or(Ok(c), Err)
        };
        let session = self.session_seen();
        chain.judge(&session, call, at, &rebuild).await
    }

    /// The session as policies see it, so that no limit is passed by questions that come at once: what this append already holds is
    /// counted, and a sub-agent from the moment that its call is asked about.
    pub(super) fn session_seen(&self) -> Session {
        let mut session = self.session.clone();
        let (at, attempt) = (session.last_activity_at, session.attempt);
        self.pending.events.iter().for_each(|e| session.fold_event(e, at, attempt));
        session.sub_agents = session.sub_agents.saturating_add(self.live.account.sub_agents_starting());
        session
    }

    /// The chain in force, with the default that a policy may have tightened for this session, and what its policies keep.
    pub(super) fn chain_now(&self) -> Arc<Chain> {
        let chain = self.chain.borrow().clone();
        let keeps = chain.keeps_state();
        if self.config.default <= chain.default && !keeps {
            return chain;
        }
        let states = keeps.then(|| self.states().clone());
        Arc::new(Chain { default: self.config.default.max(chain.default), states, ..(*chain).clone() })
    }

    pub(super) fn record(&self, asked: &Asked, input: &Value) -> Result<Call, String> {
        if !input.is_object() {
            return Err("the tool's input is not a JSON object".to_owned());
        }
        if !calls::fits(input) {
            return Err(format!("the tool's input is over the cap of {} bytes", calls::MAX_INPUT));
        }
        // why apart: a call that cannot be read is denied, and ends nothing else.
        let call = apart(|| calls::build(&self.call_input(asked, input), &RealPaths))
            .map_err(|why| format!("the host failed on its input: {why}"))?;
        Ok(self.as_own(call))
    }

    pub(super) fn call_input<'a>(&'a self, asked: &'a Asked, input: &'a Value) -> calls::CallInput<'a> {
        calls::CallInput {
            agent: self.driver.name(),
            tool: &asked.tool,
            input,
            cwd: &self.session.cwd,
            home: self.session.home.as_deref(),
            write_root: self.session.write_root.as_deref(),
            call_id: asked.call_id.as_deref(),
            parent_call_id: asked.parent_call_id.as_deref(),
            sub_agent: asked.sub_agent.as_deref(),
            channel: Channel::Driver,
        }
    }

    /// seq that the next collected event will have.
    pub(super) fn next_seq(&self) -> u64 {
        self.session.last_seq + self.pending.events.len() as u64 + 1
    }

    pub(super) fn requested(&mut self, asked: &Asked, call: &Arc<Call>, failures: Vec<(String, Failure, OnFailure)>) -> u64 {
        let seq = self.next_seq();
        self.live.account.requested(seq, asked.call_id.as_deref(), &asked.tool);
        self.pending.events.push(ToolRequested { request_id: Some(asked.request_id.clone()), call: (**call).clone() }.into());
        for (policy, f, on_failure) in failures {
            self.pending
                .events
                .push(PluginFailed { policy, cause: f.cause, detail: live::cut(&f.detail, 1024), on_failure, call: Some(seq) }.into());
        }
        seq
    }

    /// Collects request, decision and the frame that carries it: one append holds all three.
    fn decide(&mut self, asked: &Asked, call: Arc<Call>, judged: Judged, begun: std::time::Instant) {
        let seq = self.requested(asked, &call, judged.failures.clone());
        let latency_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.pending.read_at.push(begun);
        self.settle(seq, &asked.request_id, &call, judged, None, latency_us, true);
    }

    /// Records a decision, and collects the frame that tells it where the gate waits for one.
    #[allow(clippy::too_many_arguments)] // why: the fields of one record; a struct of them would be `ToolDecided` again.
    pub(super) fn settle(
        &mut self,
        seq: u64,
        request_id: &str,
        call: &Call,
        judged: Judged,
        approver: Option<Actor>,
        latency_us: u64,
        answer: bool,
    ) -> ToolDecided {
        let effect = if judged.effect == Effect::Allow { Effect::Allow } else { Effect::Deny };
        let reason = or(&judged.reason, if effect == Effect::Allow { "allowed" } else { "denied" });
        let input = judged.updated_input.as_ref().unwrap_or(&call.input);
        let frame = (answer && call.channel == Channel::Driver && !self.live.hooks.has(seq)).then(|| self.live.next_frame());
        if let Some(no) = frame {
            let told = match effect {
                Effect::Allow => agent::Answer::Allow { input },
                _ => agent::Answer::Deny { reason: &reason },
            };
            self.pending.frames.push(Frame { no, bytes: self.driver.answer(request_id, told) });
            if effect == Effect::Allow {
                self.live.untaken.insert(no, seq);
            }
        }
        let input_hash = input_hash(input);
        let decided = ToolDecided {
            call: seq,
            effect,
            by: judged.by,
            reason,
            rule: judged.rule,
            answers: judged.answers,
            input_hash,
            updated_input: judged.updated_input.filter(|_| effect == Effect::Allow),
            approver,
            latency_us,
            frame,
        };
        self.live.decided(&decided, call.call_id.as_deref());
        self.live.host_tools.decided(&decided, call);
        self.live.hooks.told(seq, effect, &decided.reason, decided.updated_input.as_ref());
        self.pending.events.push(decided.clone().into());
        decided
    }

    /// `held`: the agent waits before its gate, for a decision on the input of this hash.
    pub(super) fn ask(&mut self, asked: &Asked, call: Arc<Call>, judged: Judged, held: Option<String>) {
        let seq = self.requested(asked, &call, judged.failures);
        let expires_at = self.inner.clock.wall_ms().saturating_add(i64::try_from(self.config.approval_timeout_ms).unwrap_or(i64::MAX));
        let request = ApprovalRequested {
            call: seq,
            tool: live::cut(&call.tool, 128),
            subject: subject(&call),
            reason: judged.reason,
            rule: judged.rule,
            answers: judged.answers,
            updated_input: judged.updated_input,
            expires_at,
            two_person: self.config.needs_two(&self.session.labels),
            held,
        };
        let waiting =
            live::Waiting { request_id: asked.request_id.clone(), call, asked: request.clone(), endorsed: vec![], is_from_log: false };
        self.live.waiting.insert(seq, waiting);
        self.pending.events.push(request.into());
    }

    /// A person's answer: it resolves the call, or is the first of two that allow it.
    pub(super) fn answered(&mut self, r: Resolve) -> Result<(), Error> {
        let gone = || Error::NothingWaits { session: self.id.clone(), call: r.call };
        let w = self.live.waiting.get_mut(&r.call).ok_or_else(gone)?;
        if r.effect == Effect::Allow && w.lacks_words() {
            let why = "cannot be allowed any more: it held a secret, which the log does not keep, and the daemon was restarted since; \
                       deny it, and the agent can ask again";
            return Err(Error::Refused { what: format!("call {} of session {}", r.call, self.id), why: why.to_owned() });
        }
        if r.effect == Effect::Allow
            && let Some(held) = self.inner.held(&self.session.labels)
        {
            let why = format!("cannot be allowed now: {}; answer again when they have caught up", held.reason());
            return Err(Error::Refused { what: format!("call {} of session {}", r.call, self.id), why });
        }
        if r.effect == Effect::Allow && w.asked.two_person {
            let counts = |a: &Actor| a.key.as_ref().is_some_and(|k| r.keys.contains(k));
            let Some(name) = r.by.name.as_ref().filter(|_| counts(&r.by)) else {
                return Err(Error::Unnamed { session: self.id.clone(), call: r.call });
            };
            if !r.rules.is_empty() {
                return Err(Error::Refused {
                    what: "a rule with this answer".to_owned(),
                    why: "is not added: two persons must allow each call".to_owned(),
                });
            }
            // why now: a key that was removed since speaks for nobody, whatever its name stands for today.
            w.endorsed.retain(counts);
            // why by name: two terminals of one person are one person.
            if w.endorsed.iter().any(|a| a.name.as_ref() == Some(name)) {
                return Err(Error::Endorsed { session: self.id.clone(), call: r.call, name: name.clone() });
            }
            if w.endorsed.is_empty() {
                w.endorsed.push(r.by.clone());
                self.pending.events.push(ApprovalEndorsed { call: r.call, reason: r.reason, by: r.by }.into());
                return Ok(());
            }
        }
        // why the generation: a chain that was made before a change of plugins would undo that; the newest comes with the rule.
        let chain = r.chain.filter(|c| c.generation == self.inner.chains.generation());
        if let (Some(chain), Some(live)) = (chain, self.inner.live().get(&self.id)) {
            live.chain.send_replace(chain);
        }
        self.resolve(r.call, r.effect, By::Approval, r.reason, (r.by, r.rules), !self.input_closed);
        Ok(())
    }

    /// A waiting call gets its answer: from a person, or from the host when nobody can give one.
    pub(super) fn resolve(&mut self, seq: u64, effect: Effect, by: By, reason: String, (actor, rules): (Actor, Vec<RuleId>), answer: bool) {
        let Some(w) = self.live.waiting.remove(&seq) else { return };
        let state = match (by, effect) {
            (By::Expired, _) => ApprovalState::Expired,
            (By::Withdrawn, _) => ApprovalState::Cancelled,
            (_, Effect::Allow) => ApprovalState::Approved,
            _ => ApprovalState::Denied,
        };
        self.pending
            .events
            .push(ApprovalResolved { call: seq, effect, reason: reason.clone(), by: actor.clone(), state: Some(state), rules }.into());
        let judged = Judged {
            effect,
            by,
            reason,
            rule: w.asked.rule.clone(),
            answers: w.asked.answers.clone(),
            updated_input: w.asked.updated_input.clone(),
            failures: vec![],
        };
        let approver = (by == By::Approval).then_some(actor);
        let held = w.asked.held.is_some();
        let decided = self.settle(seq, &w.request_id, &w.call, judged, approver, 0, answer && !held);
        if held {
            self.held_decided(&w, &decided);
        }
    }

    /// The host denies everything that waits.
    pub(super) fn resolve_all(&mut self, by: By, why: &str, answer: bool) {
        let waiting: Vec<u64> = self.live.waiting.keys().copied().collect();
        for seq in waiting {
            let asked = self.live.waiting.get(&seq).map(|w| w.asked.reason.clone()).unwrap_or_default();
            let reason = if asked.is_empty() { why.to_owned() } else { format!("{asked}; {why}") };
            self.resolve(seq, Effect::Deny, by, reason, (Actor::host(), vec![]), answer);
        }
    }

    pub(super) fn cancelled(&mut self, request_id: &str) {
        let seq = self.live.waiting.iter().find(|(_, w)| w.request_id == request_id).map(|(s, _)| *s);
        if let Some(seq) = seq {
            self.resolve(seq, Effect::Deny, By::Withdrawn, "the agent withdrew its question".to_owned(), (Actor::host(), vec![]), false);
        }
    }
}

/// What a call is about, in one line of at most [`SUBJECT_MAX`] bytes: its command, else its path or address.
fn subject(call: &Call) -> String {
    let whole = call.input.get("command").and_then(Value::as_str).map(str::to_owned);
    let whole = whole.or_else(|| call.paths.first().map(|p| p.absolute.clone())).or_else(|| call.urls.first().cloned()).unwrap_or_default();
    // why masked here: a secret that is cut in two is no longer known as one when the event is masked.
    live::cut(&mask::text(&whole), SUBJECT_MAX)
}

/// BLAKE3 of an input's canonical JSON, hex.
pub(super) fn input_hash(input: &Value) -> String {
    blake3::hash(input.to_string().as_bytes()).to_hex().to_string()
}

fn or(text: &str, fallback: &str) -> String {
    if text.is_empty() { fallback.to_owned() } else { text.to_owned() }
}
