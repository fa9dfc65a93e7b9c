//! Where a session stands between being put away and coming back, as a fold over its events and what the stream says.
//!
//! Invariants: a fold of the log gives what the living task holds, but for calls of the model that only the stream shows: of those that an
//! earlier daemon read nothing is known, and a session is not put away on what is not known.
//!
//! Called by `live` (the fold) and `park`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::agent::Output;
use crate::model::account::Account;
use crate::model::{By, CompactionBegan, Effect, Envelope, Event, PauseMode, ToolDecided, TranscriptNamed};
use crate::session::live::Waiting;

/// Decisions of held calls that may wait for their gate; the oldest is forgotten first, and its call is then asked about anew.
const DECIDED: usize = 4096;
/// Calls of the model followed until their results.
const OPEN: usize = 4096;
/// How long an agent may take to end after it was told to defer; then it is stopped, and the session ends.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(120);
/// How long a resumed agent may take to ask about its call.
pub const ASK_WITHIN: Duration = Duration::from_secs(120);

/// See `park`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stage {
    #[default]
    Running,
    Deferring {
        call: u64,
        call_id: String,
        /// The agent ended its turn there.
        confirmed: bool,
    },
    Paused {
        call: Option<u64>,
    },
    Resuming {
        call: Option<u64>,
    },
    Expecting {
        call: u64,
    },
    /// On the way out between turns, to go on with a shorter conversation.
    Compacting(Box<CompactionBegan>),
    /// The agent has ended and its attempt is judged; not on record (`ladder`).
    Judging,
    /// The next attempt is on record and has not begun (`ladder`).
    Waiting,
}

/// A decision that the gate has not been told.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    pub call_id: String,
    pub tool: String,
    pub effect: Effect,
    pub reason: String,
    /// Hash of the input that the gate must ask about.
    pub input: String,
    pub updated_input: Option<Value>,
}

/// A conversation that was made shorter, whose agent has not shown yet that it took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    pub trigger: String,
    pub strategy: String,
    /// The conversation before.
    pub from: String,
}

/// What of a session concerns parking. All but the last four fields are folded from its events.
#[derive(Debug, Default)]
pub struct Parking {
    pub stage: Stage,
    /// Digest of what was kept for a relaunch.
    pub kept: Option<String>,
    /// Calls are held before the gate.
    pub holds: bool,
    pub conversation: String,
    /// The folder of the agent's own records.
    pub root: String,
    pub unproven: Option<Unproven>,
    /// What the agent said it runs on.
    pub model: Option<String>,
    /// By call, oldest first.
    pub decided: BTreeMap<u64, Decided>,
    /// seq with which the attempt began; 0 in the first.
    pub began: u64,
    sub_agents: bool,
    /// The model's calls without a result, in order; not known of what an earlier daemon read.
    open: Vec<String>,
    newest: Option<String>,
    /// When to look whether the session can be put away.
    pub park_at: Option<Instant>,
    /// When to give the agent up that leaves or comes back.
    pub give_up: Option<Instant>,
}

impl Parking {
    /// Folds one event of the log, oldest first; `waiting` as it is before the event.
    pub fn replay(&mut self, e: &Envelope, waiting: &BTreeMap<u64, Waiting>) {
        match &e.event {
            Event::RelaunchKept(k) => (self.kept, self.holds) = (Some(k.digest.clone()), k.holds),
            Event::CompactionBegan(c) => self.stage = Stage::Compacting(Box::new(c.clone())),
            Event::ContextCompacted(c) if c.host.is_some() => {
                let (trigger, strategy) = self.compacting().map_or_else(Default::default, |b| (b.trigger.clone(), b.strategy.clone()));
                self.compacted(&trigger, &strategy);
            }
            Event::CompactionFailed(_) | Event::AgentReplied(_) | Event::ModelResponded(_) | Event::ToolRequested(_) => {
                self.unproven = None
            }
            Event::TranscriptNamed(t) => self.named(t),
            Event::AgentStarted(a) => self.started(a.model.as_deref()),
            Event::SubAgentInvoked(_) => self.sub_agents = true,
            Event::ToolDeferred(d) => {
                let id = waiting.get(&d.call).and_then(|w| w.call.call_id.clone());
                self.deferring(d.call, id.unwrap_or_default());
            }
            Event::ToolDecided(d) => {
                if let Some(w) = waiting.get(&d.call) {
                    self.decided(d, w);
                }
            }
            Event::TurnEnded(t) => {
                self.unproven = None;
                self.turn_ended(t.deferred.as_deref());
            }
            Event::SessionPaused(p) if p.mode == PauseMode::Away => self.stage = Stage::Paused { call: p.call },
            Event::AttemptScheduled(_) => self.stage = Stage::Waiting,
            Event::SessionResumed(r) => self.stage = Stage::Resuming { call: r.call },
            Event::AttemptStarted(_) => self.begin(e.seq),
            Event::ToolAnswered(a) => self.answered(a.call),
            Event::ToolEnded(t) if t.is_error && !t.ran() && t.call.is_some() && t.call == self.expected() => {
                self.answered(t.call.unwrap_or_default());
            }
            _ => {}
        }
    }

    /// The session was started so that its agent can be started anew.
    pub fn ready(&mut self, kept: String, holds: bool) {
        (self.kept, self.holds) = (Some(kept), holds);
    }

    /// The conversation is about to be another, shorter one.
    pub fn compacted(&mut self, trigger: &str, strategy: &str) {
        let (trigger, strategy) = (trigger.to_owned(), strategy.to_owned());
        self.unproven = Some(Unproven { trigger, strategy, from: self.conversation.clone() });
    }

    /// The conversation that the agent goes on with.
    pub fn named(&mut self, t: &TranscriptNamed) {
        self.conversation.clone_from(&t.conversation);
        self.root.clone_from(&t.root);
    }

    pub fn started(&mut self, model: Option<&str>) {
        if let Some(model) = model {
            self.model = Some(model.to_owned());
        }
    }

    /// An attempt begins with the event `seq`.
    pub fn begin(&mut self, seq: u64) {
        let expected = match &self.stage {
            Stage::Paused { call } | Stage::Resuming { call } => *call,
            Stage::Waiting => None,
            _ => return,
        };
        self.stage = expected.map_or(Stage::Running, |call| Stage::Expecting { call });
        self.began = seq;
        self.sub_agents = false;
        self.open.clear();
        (self.newest, self.park_at, self.give_up) = (None, None, None);
    }

    pub fn deferring(&mut self, call: u64, call_id: String) {
        self.stage = Stage::Deferring { call, call_id, confirmed: false };
    }

    /// A held call was decided: its gate is told when it asks.
    pub fn decided(&mut self, d: &ToolDecided, w: &Waiting) {
        let (Some(input), Some(call_id)) = (&w.asked.held, &w.call.call_id) else { return };
        if d.by == By::Withdrawn {
            return;
        }
        if self.decided.len() >= DECIDED {
            self.decided.pop_first();
        }
        let decided = Decided {
            call_id: call_id.clone(),
            tool: w.call.tool.clone(),
            effect: d.effect,
            reason: d.reason.clone(),
            input: input.clone(),
            updated_input: d.updated_input.clone(),
        };
        self.decided.insert(d.call, decided);
    }

    pub fn answered(&mut self, call: u64) {
        self.decided.remove(&call);
        if self.stage == (Stage::Expecting { call }) {
            self.stage = Stage::Running;
            self.give_up = None;
        }
    }

    /// True when the turn ended at the call that was deferred. A turn that ends otherwise ends the deferral.
    pub fn turn_ended(&mut self, at: Option<&str>) -> bool {
        let Stage::Deferring { call_id, confirmed, .. } = &mut self.stage else { return false };
        if at == Some(call_id.as_str()) {
            *confirmed = true;
            return true;
        }
        self.stage = Stage::Running;
        false
    }

    /// Follows which calls of the model have no result yet.
    pub fn said(&mut self, out: &Output) {
        if is_work(out) {
            self.unproven = None;
        }
        match out {
            Output::ToolUse { call_id, parent_call_id: None, .. } => {
                if self.open.len() < OPEN {
                    self.open.push(call_id.clone());
                }
                self.newest = Some(call_id.clone());
            }
            Output::ToolResult { call_id, .. } => self.open.retain(|id| id != call_id),
            Output::SubAgent { .. } => self.sub_agents = true,
            Output::Started { model, .. } => self.started(model.as_deref()),
            _ => {}
        }
    }

    /// No agent: it was put away, and not yet started anew.
    pub fn away(&self) -> bool {
        matches!(self.stage, Stage::Paused { .. } | Stage::Resuming { .. } | Stage::Judging | Stage::Waiting)
    }

    /// On the way out, or not yet back at its call: an end now is not an end of the agent's own work.
    pub fn between(&self) -> bool {
        matches!(self.stage, Stage::Deferring { .. } | Stage::Expecting { .. } | Stage::Compacting(_))
    }

    /// On its way out, to be started anew: what ends now does not end the session.
    pub fn leaving(&self) -> bool {
        matches!(self.stage, Stage::Deferring { .. } | Stage::Compacting(_))
    }

    /// What the agent is ended for between turns.
    pub fn compacting(&self) -> Option<&CompactionBegan> {
        if let Stage::Compacting(began) = &self.stage { Some(began) } else { None }
    }

    /// No prompt reaches the agent now, and one that is kept reaches it soon.
    pub fn turns_over(&self) -> bool {
        matches!(self.stage, Stage::Compacting(_) | Stage::Paused { call: None } | Stage::Resuming { call: None })
    }

    /// A sub-agent was started in this attempt; whether it has ended is not known.
    pub fn had_sub_agents(&self) -> bool {
        self.sub_agents
    }

    /// Calls of the model have no result yet.
    pub fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The call at which the agent is put away, or on its way out.
    pub fn put_away_at(&self) -> Option<u64> {
        match self.stage {
            Stage::Deferring { call, .. } => Some(call),
            Stage::Paused { call } | Stage::Resuming { call } => Some(call.unwrap_or_default()),
            Stage::Running | Stage::Expecting { .. } | Stage::Compacting(_) | Stage::Judging | Stage::Waiting => None,
        }
    }

    pub fn deferring_at(&self) -> Option<u64> {
        if let Stage::Deferring { call, .. } = self.stage { Some(call) } else { None }
    }

    /// The agent ended its turn at the deferred call.
    pub fn confirmed(&self) -> bool {
        matches!(self.stage, Stage::Deferring { confirmed: true, .. })
    }

    pub fn expected(&self) -> Option<u64> {
        if let Stage::Expecting { call } = self.stage { Some(call) } else { None }
    }

    /// Whether what the agent says is more than getting ready, while it must first ask about its call. What it holds is passed on to the
    /// gate, where it asks.
    pub fn out_of_turn(&self, out: &Output) -> bool {
        is_work(out) && self.expected().is_some()
    }

    /// The call that the agent must ask about first, where it answers that with an error of its own instead: nothing ran.
    pub fn refuses(&self, out: &Output) -> Option<u64> {
        let Output::ToolResult { call_id, is_error: true, ran: false, .. } = out else { return None };
        let call = self.expected()?;
        self.decided.get(&call).filter(|d| d.call_id == *call_id).map(|_| call)
    }

    /// Whether the call was asked about in an earlier attempt.
    pub fn of_earlier(&self, account: &Account, call_id: &str) -> bool {
        self.began > 0 && account.asked_at(call_id).is_some_and(|call| call < self.began)
    }

    /// Whether the agent would come back whole at this call, as far as the stream tells.
    pub fn comes_back(&self, call_id: &str) -> bool {
        !self.sub_agents && self.newest.as_deref() == Some(call_id) && self.open == [call_id]
    }

    /// When to look again, for whatever reason.
    pub fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Running => self.park_at,
            Stage::Deferring { .. } | Stage::Expecting { .. } | Stage::Compacting(_) => self.give_up,
            _ => None,
        }
    }

    /// A task takes the session up: what is under way gets its time.
    pub fn arm(&mut self, now: Instant) {
        self.give_up = match self.stage {
            Stage::Deferring { .. } | Stage::Compacting(_) => Some(now + LEAVE_WITHIN),
            Stage::Expecting { .. } => Some(now + ASK_WITHIN),
            _ => None,
        };
    }
}

/// More than getting ready.
fn is_work(out: &Output) -> bool {
    matches!(
        out,
        Output::ToolUse { .. }
            | Output::ToolResult { .. }
            | Output::Replied { .. }
            | Output::Usage { .. }
            | Output::TurnEnded(_)
            | Output::SubAgent { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ApprovalRequested, AttemptStarted, Call, RelaunchKept, SessionId, SessionPaused, SessionResumed, ToolAnswered, ToolDeferred,
        TurnEnded,
    };
    use proptest::prelude::*;
    use serde_json::json;

    fn at(seq: u64, event: impl Into<Event>) -> Envelope {
        Envelope { session: SessionId::parse("s-1-aaaaa").unwrap(), seq, at: 0, attempt: 1, event: event.into() }
    }

    fn waiting(call: u64, id: &str, held: bool) -> BTreeMap<u64, Waiting> {
        let asked = ApprovalRequested { call, held: held.then(|| "h".to_owned()), ..Default::default() };
        let asked_about: Call =
            serde_json::from_value(json!({"agent": "claude", "tool": "Bash", "kind": "execute", "input": {}, "cwd": "/",
            "parse": "complete", "call_id": id, "channel": "driver"}))
            .unwrap();
        BTreeMap::from([(
            call,
            Waiting { request_id: "r".into(), call: std::sync::Arc::new(asked_about), asked, endorsed: vec![], is_from_log: true },
        )])
    }

    fn decided(call: u64, by: By) -> ToolDecided {
        serde_json::from_value(
            json!({"call": call, "effect": "allow", "by": by, "reason": "", "answers": [], "input_hash": "h", "latency_us": 0}),
        )
        .unwrap()
    }

    fn started() -> AttemptStarted {
        AttemptStarted { pid: 1, shim_pid: 1, ..AttemptStarted::default() }
    }

    #[test]
    fn out_and_back_in() {
        let mut p = Parking::default();
        let w = waiting(5, "t", true);
        p.replay(&at(1, RelaunchKept { digest: "d".into(), holds: true }), &w);
        p.replay(&at(2, started()), &w);
        assert_eq!((p.stage.clone(), p.began), (Stage::Running, 0), "a first start is no return");
        p.replay(&at(7, ToolDeferred { call: 5, frame: 3 }), &w);
        assert!(p.between() && !p.confirmed() && !p.away());
        p.replay(&at(8, TurnEnded { deferred: Some("t".into()), ..Default::default() }), &w);
        assert!(p.confirmed());
        p.replay(&at(9, SessionPaused { call: Some(5), ..SessionPaused::default() }), &w);
        assert!(p.away() && p.due().is_none());
        p.replay(&at(10, decided(5, By::Approval)), &w);
        p.replay(&at(11, SessionResumed { from: "c".into(), call: Some(5) }), &BTreeMap::new());
        assert!(p.away());
        p.replay(&at(12, started()), &BTreeMap::new());
        assert_eq!((p.stage.clone(), p.began), (Stage::Expecting { call: 5 }, 12));
        assert_eq!(p.decided.len(), 1);
        p.replay(&at(13, ToolAnswered { call: 5, request_id: "q".into(), frame: 2 }), &BTreeMap::new());
        assert_eq!((p.stage.clone(), p.decided.len()), (Stage::Running, 0));
    }

    #[test]
    fn a_turn_that_ends_elsewhere_is_no_deferral() {
        for other in [None, Some("u"), Some("")] {
            let mut p = Parking::default();
            p.replay(&at(7, ToolDeferred { call: 5, frame: 3 }), &waiting(5, "t", true));
            assert!(!p.turn_ended(other));
            assert_eq!(p.stage, Stage::Running);
        }
        assert!(!Parking::default().turn_ended(Some("t")), "nothing was deferred");
    }

    #[test]
    fn only_decisions_of_held_calls_wait_for_their_gate() {
        for (held, by, waits) in [(true, By::Approval, 1), (true, By::Expired, 1), (true, By::Withdrawn, 0), (false, By::Approval, 0)] {
            let mut p = Parking::default();
            p.replay(&at(9, decided(5, by)), &waiting(5, "t", held));
            assert_eq!(p.decided.len(), waits, "{held} {by:?}");
        }
    }

    fn using(id: &str, parent: Option<&str>) -> Output {
        Output::ToolUse { call_id: id.into(), tool: "Bash".into(), input: json!({}), parent_call_id: parent.map(str::to_owned) }
    }

    fn result(id: &str) -> Output {
        Output::ToolResult { call_id: id.into(), is_error: false, ran: true, content: String::new(), parent_call_id: None }
    }

    #[test]
    fn only_the_last_call_of_a_message_comes_back_and_only_alone() {
        let comes = |said: &[Output]| {
            let mut p = Parking::default();
            said.iter().for_each(|o| p.said(o));
            p.comes_back("t")
        };
        assert!(comes(&[using("t", None)]));
        assert!(comes(&[using("a", None), using("t", None), result("a")]));
        assert!(!comes(&[]), "an earlier daemon read it");
        assert!(!comes(&[using("a", None), using("t", None)]), "another is open");
        assert!(!comes(&[using("t", None), using("b", None), result("b")]), "it is not the last");
        let sub = Output::SubAgent { call_id: None, agent_type: "x".into(), description: String::new() };
        assert!(!comes(&[sub, using("t", None)]));
    }

    #[test]
    fn a_resumed_agent_asks_before_anything_else() {
        let mut p = Parking { stage: Stage::Expecting { call: 5 }, ..Parking::default() };
        for o in [using("t", None), result("t"), Output::TurnEnded(Default::default())] {
            assert!(p.out_of_turn(&o), "{o:?}");
        }
        assert!(!p.out_of_turn(&Output::Quiet));
        p.replay(&at(9, decided(5, By::Approval)), &waiting(5, "t", true));
        let error =
            |id: &str, ran| Output::ToolResult { call_id: id.into(), is_error: true, ran, content: String::new(), parent_call_id: None };
        assert_eq!(p.refuses(&error("t", false)), Some(5));
        assert_eq!([p.refuses(&error("u", false)), p.refuses(&error("t", true)), p.refuses(&result("t"))], [None; 3]);
        p.stage = Stage::Running;
        assert!(!p.out_of_turn(&result("t")));
    }

    proptest! {
        /// Whatever order events come in, an agent is away only between a pause and an attempt, and expected only after one.
        #[test]
        fn no_order_of_events_confuses_the_stages(kinds in proptest::collection::vec(0u8..7, 0..40)) {
            let mut p = Parking::default();
            let w = waiting(5, "t", true);
            let mut last = None;
            for (seq, k) in (1u64..).zip(kinds) {
                let e: Event = match k {
                    0 => ToolDeferred { call: 5, frame: 1 }.into(),
                    1 => TurnEnded { deferred: Some("t".into()), ..Default::default() }.into(),
                    2 => SessionPaused { call: Some(5), ..SessionPaused::default() }.into(),
                    3 => SessionResumed { from: "c".into(), call: Some(5) }.into(),
                    4 => started().into(),
                    5 => ToolAnswered { call: 5, request_id: "q".into(), frame: 1 }.into(),
                    _ => decided(5, By::Approval).into(),
                };
                if matches!(k, 2..=4) { last = Some(k); }
                p.replay(&at(seq, e), &w);
                prop_assert!(!p.away() || matches!(last, Some(2 | 3)));
                prop_assert!(p.expected().is_none() || last == Some(4));
            }
        }
    }
}
