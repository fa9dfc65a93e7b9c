//! The chain: all policies are asked, the strictest effect wins, at most one rewrite, and all judge the rewritten call again.
//!
//! Where all abstain the default holds. One thing is not asked about by default: the host's own tools, in a session that has them, called over
//! its own channel. They reach that session's tasks and log, and the memory of its folder within a cap. Any policy's ask or deny wins over
//! that, and so does a default of deny.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use serde_json::Value;

use crate::agent::mcp;
use crate::config::Config;
use crate::model::{Answer, By, Call, Channel, Decision, Effect, FailureCause, Mode, OnFailure, Session, fold};
use crate::plugin::{Plugin, Question, Round, States};

/// Why such a call passes.
const OWN: &str = "no policy has an opinion; a tool of the host's own needs no person's answer";

/// Something that judges calls: a loaded plugin, or a stand-in in tests.
///
/// Called at most twice for a tool call (the second time only when the chain rewrote the input), from any thread.
pub trait Policy: Send + Sync {
    fn decide<'a>(&'a self, subject: &'a Subject<'_>, deadline: Duration) -> BoxFuture<'a, Result<Decision, Failure>>;
    /// BLAKE3 of the component, hex.
    fn digest(&self) -> &str;
    /// What is asked at the optional moments; a stand-in takes part in none.
    fn plugin(&self) -> Option<&Arc<Plugin>> {
        None
    }
}

/// What is judged. The form that plugins take is made once, however many of them are asked.
pub struct Subject<'a> {
    pub session: &'a Session,
    pub call: &'a Call,
    /// Wall time of the request in milliseconds.
    pub at_ms: i64,
    question: OnceLock<Arc<Question>>,
    round: Option<Arc<Round>>,
}

impl<'a> Subject<'a> {
    pub fn new(session: &'a Session, call: &'a Call, at_ms: i64) -> Self {
        Self { session, call, at_ms, question: OnceLock::new(), round: None }
    }

    #[must_use]
    pub fn in_round(self, round: Option<&Arc<Round>>) -> Self {
        Self { round: round.cloned(), ..self }
    }

    pub fn question(&self) -> &Arc<Question> {
        self.question.get_or_init(|| Arc::new(Question::new(self.session, self.call, self.at_ms).in_round(self.round.as_ref())))
    }
}

/// A loaded component as a policy.
pub struct Component(pub Arc<Plugin>);

impl Policy for Component {
    fn decide<'a>(&'a self, subject: &'a Subject<'_>, deadline: Duration) -> BoxFuture<'a, Result<Decision, Failure>> {
        Box::pin(async move {
            let answer = self.0.decide(subject.question(), deadline).await;
            answer.map_err(|f| Failure { cause: f.cause, detail: f.detail })
        })
    }

    fn digest(&self) -> &str {
        self.0.digest()
    }

    fn plugin(&self) -> Option<&Arc<Plugin>> {
        Some(&self.0)
    }
}

/// Why a policy gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub cause: FailureCause,
    pub detail: String,
}

/// One policy of a chain with its settings. A policy that could not be loaded stays in the chain as its failure.
#[derive(Clone)]
pub struct PolicySlot {
    pub name: String,
    pub policy: Result<Arc<dyn Policy>, Failure>,
    pub mode: Mode,
    pub on_failure: OnFailure,
    pub deadline: Duration,
    /// From a project that is not trusted: its allow is an abstain, its rewrite is dropped.
    pub tighten_only: bool,
}

/// An ordered list of policies and what holds when all abstain.
#[derive(Clone)]
pub struct Chain {
    pub slots: Vec<PolicySlot>,
    pub default: Effect,
    /// What its policies keep in a session; without it they begin with nothing and keep nothing.
    pub states: Option<Arc<States>>,
    /// The state of the installed plugins that it was made from; see [`super::Chains::generation`].
    pub generation: u64,
    /// The rules added at run time that it holds; see [`super::Chain::rules_mark`].
    pub rules: u64,
    /// The configuration that it was made of; none where that could not be read.
    pub made_of: Option<Arc<Config>>,
}

impl Chain {
    /// Tells one list of run-time rules from another, within one process.
    pub fn rules_mark<R: Hash>(rules: &[R]) -> u64 {
        let mut hasher = DefaultHasher::new();
        rules.hash(&mut hasher);
        hasher.finish()
    }
}

/// What came out, before any person is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// `Allow`, `Ask` or `Deny`; never `Abstain`.
    pub effect: Effect,
    pub by: By,
    pub reason: String,
    pub rule: Option<String>,
    /// Of the last round.
    pub answers: Vec<Answer>,
    /// Set when the chain rewrote the input.
    pub updated_input: Option<Value>,
    /// Policies that failed, by name, with what they counted as.
    pub failures: Vec<(String, Failure, OnFailure)>,
}

impl Judged {
    /// A decision of the host itself, before any policy.
    pub fn host_deny(reason: String) -> Self {
        Self { effect: Effect::Deny, by: By::Host, reason, rule: None, answers: vec![], updated_input: None, failures: vec![] }
    }
}

impl Chain {
    /// The same chain with what its policies keep.
    #[must_use]
    pub fn keeping(&self, states: &Arc<States>) -> Self {
        Self { states: Some(Arc::clone(states)), ..self.clone() }
    }

    /// Whether any policy may keep state.
    pub fn keeps_state(&self) -> bool {
        self.slots.iter().any(|s| s.policy.as_ref().is_ok_and(|p| p.plugin().is_some_and(|p| p.keeps_state())))
    }

    /// One round of questions; what is staged in it is lost unless it is committed.
    pub(super) fn round(&self) -> Option<Arc<Round>> {
        self.states.as_ref().filter(|_| self.keeps_state()).map(|s| Round::new(Arc::clone(s)))
    }

    /// Judges `call`. `rebuild` makes the call record anew for a rewritten input; its error text means deny.
    pub async fn judge(
        &self,
        session: &Session,
        call: &Call,
        at_ms: i64,
        rebuild: &(dyn Fn(&Value) -> Result<Call, String> + Sync),
    ) -> Judged {
        let mut failures = Vec::new();
        // why not those of hooks: they tell of a call of any agent, whose server may have taken the name.
        let own = session.record.host_tools && call.channel != Channel::Hook && mcp::is_own(&call.tool);
        let round = self.round();
        let answers = self.ask_all(&Subject::new(session, call, at_ms).in_round(round.as_ref()), &mut failures).await;
        let rewrites = rewrites(&answers);
        let Some(first) = rewrites.first() else {
            keep(round, &answers);
            return self.conclude(answers, None, failures, own);
        };
        let before = fold(binding(&answers));
        if before == Effect::Deny {
            keep(round, &answers);
            return self.conclude(answers, None, failures, own);
        }
        if let Some(other) = rewrites.iter().find(|r| r.1 != first.1) {
            let reason = format!("policies {} and {} rewrite the call differently; change one of them", first.0, other.0);
            keep(round, &answers);
            return Judged { effect: Effect::Deny, by: By::Policy, reason, rule: None, answers, updated_input: None, failures };
        }
        let (by, input) = (first.0.clone(), first.1.clone());
        let rewritten = match rebuild(&input) {
            Ok(c) => c,
            Err(why) => {
                let reason = format!("policy {by} rewrote the call to one that cannot stand: {why}");
                keep(round, &answers);
                return Judged { effect: Effect::Deny, by: By::Policy, reason, rule: None, answers, updated_input: None, failures };
            }
        };
        // why: the answers on record are those of the last round, and so is what is kept.
        if let Some(r) = round {
            r.drop_all();
        }
        let round = self.round();
        let again = self.ask_all(&Subject::new(session, &rewritten, at_ms).in_round(round.as_ref()), &mut failures).await;
        keep(round, &again);
        if let Some((name, _)) = self::rewrites(&again).iter().find(|r| r.1 != input) {
            let reason = format!("policy {name} would rewrite the call a second time; one rewrite is the limit");
            return Judged { effect: Effect::Deny, by: By::Policy, reason, rule: None, answers: again, updated_input: None, failures };
        }
        self.conclude(again, Some(input), failures, own)
    }

    async fn ask_all(&self, subject: &Subject<'_>, failures: &mut Vec<(String, Failure, OnFailure)>) -> Vec<Answer> {
        let asked = self.slots.iter().map(|slot| async move {
            let begun = Instant::now();
            let got = match &slot.policy {
                Ok(p) => p.decide(subject, slot.deadline).await,
                Err(f) => Err(f.clone()),
            };
            (slot, got, u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX))
        });
        let mut answers = Vec::with_capacity(self.slots.len());
        for (slot, got, latency_us) in join_all(asked).await {
            let digest = slot.policy.as_ref().map(|p| p.digest().to_owned()).unwrap_or_default();
            let (decision, failed) = match got {
                Ok(d) if slot.tighten_only => (tightened(d), None),
                Ok(d) => (d, None),
                Err(f) => {
                    let reason = format!("policy {} failed ({}): {}", slot.name, f.cause.as_str(), f.detail);
                    let cause = f.cause;
                    failures.push((slot.name.clone(), f, slot.on_failure));
                    (Decision::new(slot.on_failure.effect(), reason), Some(cause))
                }
            };
            answers.push(Answer { policy: slot.name.clone(), digest, mode: slot.mode, decision, failed, latency_us });
        }
        answers
    }

    /// `own`: the call is of a tool of the host's own.
    fn conclude(
        &self,
        answers: Vec<Answer>,
        updated_input: Option<Value>,
        failures: Vec<(String, Failure, OnFailure)>,
        own: bool,
    ) -> Judged {
        let effect = fold(binding(&answers));
        if effect == Effect::Abstain {
            let default = self.default.max(Effect::Allow);
            let (effect, reason) = match default {
                Effect::Ask if own => (Effect::Allow, OWN.to_owned()),
                _ => (default, format!("no policy has an opinion; the default is {}", default.as_str())),
            };
            return Judged { effect, by: By::Default, reason, rule: None, answers, updated_input, failures };
        }
        let (reason, rule) = answers
            .iter()
            .find(|a| a.mode == Mode::Enforce && a.decision.effect == effect)
            .map(|a| (a.decision.reason.clone(), a.decision.rule.clone()))
            .unwrap_or_default();
        Judged { effect, by: By::Policy, reason, rule, answers, updated_input, failures }
    }
}

/// Ends a round: what those who answered staged is in force.
fn keep(round: Option<Arc<Round>>, answers: &[Answer]) {
    if let Some(round) = round {
        let answered: Vec<&str> = answers.iter().filter(|a| a.failed.is_none()).map(|a| a.policy.as_str()).collect();
        round.commit(&answered);
    }
}

fn tightened(mut d: Decision) -> Decision {
    if d.effect == Effect::Allow {
        d.effect = Effect::Abstain;
    }
    d.updated_input = None;
    d
}

fn binding(answers: &[Answer]) -> impl Iterator<Item = Effect> + '_ {
    answers.iter().filter(|a| a.mode == Mode::Enforce).map(|a| a.decision.effect)
}

fn rewrites(answers: &[Answer]) -> Vec<(String, Value)> {
    answers
        .iter()
        .filter(|a| a.mode == Mode::Enforce)
        .filter_map(|a| a.decision.updated_input.clone().map(|v| (a.policy.clone(), v)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Channel, Parse, Status, ToolKind, Usage};
    use serde_json::json;

    type Judge = dyn Fn(&Call) -> Result<Decision, Failure> + Send + Sync;

    struct Says(Box<Judge>);

    impl Policy for Says {
        fn decide<'a>(&'a self, subject: &'a Subject<'_>, _: Duration) -> BoxFuture<'a, Result<Decision, Failure>> {
            let answer = (self.0)(subject.call);
            Box::pin(async move { answer })
        }
        fn digest(&self) -> &str {
            "d"
        }
    }

    fn slot(name: &str, f: impl Fn(&Call) -> Result<Decision, Failure> + Send + Sync + 'static) -> PolicySlot {
        PolicySlot {
            name: name.into(),
            policy: Ok(Arc::new(Says(Box::new(f)))),
            mode: Mode::Enforce,
            on_failure: OnFailure::Deny,
            deadline: Duration::from_secs(1),
            tighten_only: false,
        }
    }

    fn effect(e: Effect) -> impl Fn(&Call) -> Result<Decision, Failure> {
        move |_| Ok(Decision::new(e, e.as_str()))
    }

    fn call_of(input: &Value) -> Call {
        Call {
            agent: "claude".into(),
            tool: "Bash".into(),
            kind: ToolKind::Execute,
            input: input.clone(),
            cwd: "/".into(),
            write_root: None,
            paths: vec![],
            urls: vec![],
            commands: vec![],
            parse: Parse::Complete,
            parse_reason: None,
            call_id: None,
            parent_call_id: None,
            sub_agent: None,
            channel: Channel::Driver,
        }
    }

    fn judge(slots: Vec<PolicySlot>) -> Judged {
        judge_call(slots, Effect::Ask, "Bash", false)
    }

    fn judge_call(slots: Vec<PolicySlot>, default: Effect, tool: &str, host_tools: bool) -> Judged {
        let call = Call { tool: tool.into(), channel: Channel::Driver, ..call_of(&json!({"command": "a"})) };
        judge_of(slots, default, call, host_tools)
    }

    fn judge_of(slots: Vec<PolicySlot>, default: Effect, call: Call, host_tools: bool) -> Judged {
        let Some(mut session) = crate::policy::examples::session(std::path::Path::new("/")) else { panic!("a session stands for any") };
        assert_eq!((session.status, session.usage), (Status::Starting, Usage::default()));
        session.record = Arc::new(crate::model::Record { host_tools, ..(*session.record).clone() });
        let chain = Chain { slots, default, states: None, generation: 0, rules: 0, made_of: None };
        let Ok(rt) = tokio::runtime::Builder::new_current_thread().build() else { panic!("a runtime") };
        rt.block_on(chain.judge(&session, &call, 0, &|v| Ok(call_of(v))))
    }

    fn rewrite_to(v: Value) -> impl Fn(&Call) -> Result<Decision, Failure> {
        move |c| {
            let mut d = Decision::new(Effect::Abstain, "");
            if c.input != v {
                d.updated_input = Some(v.clone());
            }
            Ok(d)
        }
    }

    #[test]
    fn strictest_wins_and_all_abstain_is_the_default() {
        assert_eq!(judge(vec![slot("a", effect(Effect::Allow)), slot("b", effect(Effect::Deny))]).effect, Effect::Deny);
        let j = judge(vec![slot("a", effect(Effect::Abstain))]);
        assert_eq!((j.effect, j.by), (Effect::Ask, By::Default));
        assert_eq!(judge(vec![]).effect, Effect::Ask);
    }

    #[test]
    fn the_hosts_own_tools_need_no_answer_and_every_other_word_wins() {
        const NOTE: &str = "mcp__beadle__note";
        let said = |effect, default, tool: &str, has| {
            let j = judge_call(vec![slot("a", self::effect(effect))], default, tool, has);
            (j.effect, j.by)
        };
        use Effect::{Abstain, Allow, Ask, Deny};
        assert_eq!(said(Abstain, Ask, NOTE, true), (Allow, By::Default));
        assert_eq!(said(Abstain, Ask, NOTE, false), (Ask, By::Default), "a session without them: the name is somebody else's");
        assert_eq!(said(Abstain, Ask, "mcp__beadle__rm", true), (Ask, By::Default));
        assert_eq!(said(Abstain, Ask, "Bash", true), (Ask, By::Default));
        assert_eq!(said(Abstain, Deny, NOTE, true), (Deny, By::Default));
        assert_eq!(said(Ask, Ask, NOTE, true), (Ask, By::Policy));
        assert_eq!(said(Deny, Allow, NOTE, true), (Deny, By::Policy));
        assert!(judge_call(vec![], Ask, NOTE, true).reason.contains("host's own"));
        let hooked = judge_of(vec![], Ask, Call { tool: NOTE.into(), channel: Channel::Hook, ..call_of(&json!({"command": "a"})) }, true);
        assert_eq!((hooked.effect, hooked.by), (Ask, By::Default), "another agent's server may have that name");
    }

    #[test]
    fn a_failure_is_what_on_failure_says_and_monitor_does_not_bind() {
        let fail = |_: &Call| Err(Failure { cause: FailureCause::Trap, detail: "unreachable".into() });
        let j = judge(vec![slot("a", effect(Effect::Allow)), slot("b", fail)]);
        assert_eq!((j.effect, j.failures.len(), j.answers[1].failed), (Effect::Deny, 1, Some(FailureCause::Trap)));
        let mut s = slot("b", fail);
        s.on_failure = OnFailure::Abstain;
        assert_eq!(judge(vec![slot("a", effect(Effect::Allow)), s]).effect, Effect::Allow);
        let mut s = slot("b", effect(Effect::Deny));
        s.mode = Mode::Monitor;
        let j = judge(vec![slot("a", effect(Effect::Allow)), s]);
        assert_eq!((j.effect, j.answers.len()), (Effect::Allow, 2));
    }

    #[test]
    fn an_untrusted_projects_policy_can_only_tighten() {
        let mut s = slot("p", |_: &Call| Ok(Decision { updated_input: Some(json!({"command": "b"})), ..Decision::new(Effect::Allow, "") }));
        s.tighten_only = true;
        let j = judge(vec![s]);
        assert_eq!((j.effect, j.by, j.updated_input), (Effect::Ask, By::Default, None));
        let mut s = slot("p", effect(Effect::Deny));
        s.tighten_only = true;
        assert_eq!(judge(vec![slot("a", effect(Effect::Allow)), s]).effect, Effect::Deny);
    }

    #[test]
    fn one_rewrite_is_judged_again_by_all() {
        let b = json!({"command": "b"});
        let deny_b = |c: &Call| Ok(Decision::new(if c.input["command"] == "b" { Effect::Deny } else { Effect::Allow }, "x"));
        assert_eq!(judge(vec![slot("r", rewrite_to(b.clone())), slot("d", deny_b)]).effect, Effect::Deny);
        let allow_b = |c: &Call| Ok(Decision::new(if c.input["command"] == "b" { Effect::Allow } else { Effect::Ask }, "x"));
        let j = judge(vec![slot("r", rewrite_to(b.clone())), slot("d", allow_b)]);
        assert_eq!((j.effect, j.updated_input), (Effect::Allow, Some(b.clone())));
        let j =
            judge(vec![slot("r", rewrite_to(b.clone())), slot("s", rewrite_to(json!({"command": "c"}))), slot("a", effect(Effect::Allow))]);
        assert_eq!((j.effect, j.updated_input), (Effect::Deny, None));
        let ever = |c: &Call| {
            let mut d = Decision::new(Effect::Allow, "");
            d.updated_input = Some(json!({"command": format!("{}x", c.input["command"])}));
            Ok(d)
        };
        assert_eq!(judge(vec![slot("r", ever)]).effect, Effect::Deny);
    }

    #[test]
    fn a_denied_call_is_not_rewritten() {
        let j = judge(vec![slot("r", rewrite_to(json!({"command": "b"}))), slot("d", effect(Effect::Deny))]);
        assert_eq!((j.effect, j.updated_input), (Effect::Deny, None));
    }
}
