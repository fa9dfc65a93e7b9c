//! The account: decisions joined with effects, one row a call, as a fold over the events of a session.
//!
//! | end | what it says |
//! | --- | --- |
//! | `ran` | allowed, and a witness saw its result |
//! | `denied` | denied, and no witness saw it run |
//! | `refused` | the agent answered it with an error of its own and never asked: it did not run |
//! | `unfinished` | allowed, or handed to the agent's own user, and the agent ended before a result was seen |
//! | `open` | it waits or runs |
//! | `undecided` | it ran and was never decided |
//! | `contradicted` | it ran against its decision or before it, was not what was decided, or its witnesses disagree |
//!
//! Invariants:
//! - of a session that another program writes nothing is decided here, so nothing is unexplained: its calls ran, or are unfinished or open;
//! - the last two are unexplained, and only they; each makes one breach, whatever number of witnesses repeat it;
//! - the live session and a replay of its log use the same joins, so both give the same rows;
//! - a result counts once a witness: a second one for the same call is a call of its own, and undecided if it ran;
//! - at most [`ROWS`] rows are kept, the oldest go first and are counted; what a transcript then says of unknown calls is not judged.
//!
//! Called by `session` (live) and `api` (the account of a session).

use std::collections::{BTreeMap, HashMap};

use super::decision::Effect;
use super::event::{Envelope, Event, Witness};
use super::session::Mediation;

/// Rows kept of one session.
pub const ROWS: usize = 65_536;

/// How a call ended; see the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    Ran,
    Denied,
    Refused,
    Unfinished,
    Open,
    Undecided,
    Contradicted,
}

impl End {
    pub const ALL: [Self; 7] = [Self::Ran, Self::Denied, Self::Refused, Self::Unfinished, Self::Open, Self::Undecided, Self::Contradicted];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Unfinished => "unfinished",
            Self::Open => "open",
            Self::Undecided => "undecided",
            Self::Contradicted => "contradicted",
        }
    }

    /// Whether the log explains it.
    pub const fn explained(self) -> bool {
        !matches!(self, Self::Undecided | Self::Contradicted)
    }
}

/// Tools that start a sub-agent, over all agents, in lower case.
pub const STARTS_SUB_AGENT: [&str; 5] = ["agent", "task", "spawn_agent", "collaborationspawn_agent", "codebase_investigator"];

/// What one witness said of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub is_error: bool,
    pub ran: bool,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// seq of its `tool_requested` event; none for what was never asked about.
    pub call: Option<u64>,
    /// The agent's own id of it.
    pub call_id: Option<String>,
    pub tool: String,
    /// `allow` or `deny` once decided, `ask` where the agent's own prompt was told to ask its user.
    pub effect: Option<Effect>,
    /// It was told to use another input than it asked for.
    pub changed: bool,
    pub stream: Option<Seen>,
    pub transcript: Option<Seen>,
    pub hook: Option<Seen>,
    /// Another program told of it: nobody here was to decide.
    pub told: bool,
    /// What is unexplained about it.
    pub unexplained: Option<String>,
    /// The transcript file that told of it.
    source: Option<String>,
}

impl Row {
    fn seen(&mut self, by: Witness) -> &mut Option<Seen> {
        match by {
            Witness::Stream => &mut self.stream,
            Witness::Transcript => &mut self.transcript,
            Witness::Hook => &mut self.hook,
        }
    }

    const fn by(&self, by: Witness) -> Option<Seen> {
        match by {
            Witness::Stream => self.stream,
            Witness::Transcript => self.transcript,
            Witness::Hook => self.hook,
        }
    }

    fn witnesses(&self) -> impl Iterator<Item = Seen> {
        [self.stream, self.transcript, self.hook].into_iter().flatten()
    }

    /// Whether the call can still do what it is for.
    fn may_start(&self) -> bool {
        self.effect != Some(Effect::Deny) && self.unexplained.is_none() && self.witnesses().next().is_none()
    }

    /// Whether any witness saw it run.
    pub fn ran(&self) -> bool {
        self.witnesses().any(|s| s.ran)
    }

    /// Whether any witness saw it fail.
    pub fn failed(&self) -> bool {
        self.witnesses().any(|s| s.is_error)
    }

    /// How it ended; `over` when the agent has ended.
    pub fn end(&self, over: bool) -> End {
        if self.told {
            let seen = self.witnesses().next().is_some();
            return if seen {
                End::Ran
            } else if over {
                End::Unfinished
            } else {
                End::Open
            };
        }
        match (self.call, &self.unexplained, self.effect) {
            (None, Some(_), _) => End::Undecided,
            (Some(_), Some(_), _) => End::Contradicted,
            (None, None, _) => End::Refused,
            (Some(_), None, Some(Effect::Deny)) => End::Denied,
            (Some(_), None, Some(Effect::Allow | Effect::Ask)) if self.witnesses().next().is_some() => End::Ran,
            (Some(_), None, Some(Effect::Allow | Effect::Ask)) if over => End::Unfinished,
            // why: a question that was never answered let nothing run; the agent is gone.
            (Some(_), None, _) if over => End::Denied,
            (Some(_), None, _) => End::Open,
        }
    }
}

/// A `mediation_breached` event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub seq: u64,
    pub at: i64,
    pub what: String,
    pub detail: String,
    pub call: Option<u64>,
    pub action: String,
}

/// What joining one effect gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Joined {
    pub call: Option<u64>,
    /// Why it is a breach; given once a call.
    pub breach: Option<&'static str>,
}

/// The account of one session.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Account {
    /// In order of appearance.
    rows: BTreeMap<u64, Row>,
    next: u64,
    by_call: HashMap<u64, u64>,
    by_id: HashMap<String, Vec<u64>>,
    /// Rows of calls that may start a sub-agent and are not seen to have started it.
    starting: Vec<u64>,
    /// Rows no longer kept.
    pub forgotten: u64,
    /// Breaches in order, at most [`ROWS`].
    pub breaches: Vec<Breach>,
    /// Effects that a transcript reported of calls that are no longer kept.
    pub unjoined: u64,
    /// The agent has ended.
    pub over: bool,
    /// Who tells of results in `tool_ended` events: in a session that was not started here, its hooks.
    pub reporter: Witness,
    /// Another program writes the session.
    told: bool,
}

impl Account {
    /// Folds one event of the log, oldest first.
    pub fn apply(&mut self, e: &Envelope) {
        match &e.event {
            Event::SessionCreated(c) if c.mediation == Mediation::Hooks => self.reporter = Witness::Hook,
            Event::SessionCreated(c) if c.record.writer.is_some() => self.told = true,
            Event::ToolReported(r) => self.requested(e.seq, Some(&r.call_id), &r.tool),
            Event::ToolRequested(r) => self.requested(e.seq, r.call.call_id.as_deref(), &r.call.tool),
            Event::ToolDecided(d) => self.decided(d.call, d.effect, d.updated_input.is_some()),
            Event::SubAgentInvoked(s) => self.sub_agent_started(s.call_id.as_deref()),
            Event::ToolEnded(t) => {
                if let Some(id) = &t.call_id {
                    self.effect(self.reporter, "", id, Seen { is_error: t.is_error, ran: t.ran() });
                }
            }
            Event::EffectsObserved(o) => {
                for s in &o.effects {
                    self.effect(o.witness, &o.source, &s.call_id, Seen { is_error: s.is_error, ran: s.ran });
                }
            }
            Event::MediationBreached(b) => {
                if let Some(call) = b.call {
                    self.contradicted(call, &b.what);
                }
                if self.breaches.len() < ROWS {
                    let (what, detail, action) = (b.what.clone(), b.detail.clone(), b.action.clone());
                    self.breaches.push(Breach { seq: e.seq, at: e.at, what, detail, call: b.call, action });
                }
            }
            // A call that a pause waits for is open: its agent comes back.
            Event::AttemptStarted(_) | Event::SessionPaused(_) => self.over = false,
            Event::AttemptEnded(_) | Event::SessionEnded(_) => self.over = true,
            _ => {}
        }
    }

    /// A call was asked about: its result is expected once it is decided.
    pub fn requested(&mut self, seq: u64, call_id: Option<&str>, tool: &str) {
        let row = Row { call: Some(seq), call_id: call_id.map(str::to_owned), tool: tool.to_owned(), ..Row::default() };
        let n = self.insert(row);
        self.by_call.insert(seq, n);
        if STARTS_SUB_AGENT.contains(&tool.to_ascii_lowercase().as_str()) {
            let rows = &self.rows;
            self.starting.retain(|n| rows.get(n).is_some_and(Row::may_start));
            self.starting.push(n);
        }
    }

    /// A sub-agent was started: by the call of this id, else by the oldest that may have.
    pub fn sub_agent_started(&mut self, call_id: Option<&str>) {
        let rows = &self.rows;
        let by = |n: &u64| rows.get(n).is_some_and(|r| r.may_start() && (call_id.is_none() || r.call_id.as_deref() == call_id));
        if let Some(at) = self.starting.iter().position(by) {
            self.starting.remove(at);
        }
    }

    /// Sub-agents that calls are about to start: allowed or not decided yet, without a result, and not seen to have started one.
    pub fn sub_agents_starting(&self) -> u64 {
        self.starting.iter().map(|n| u64::from(self.rows.get(n).is_some_and(Row::may_start))).sum()
    }

    /// The first decision of a call holds.
    pub fn decided(&mut self, call: u64, effect: Effect, changed: bool) {
        if let Some(row) = self.row_mut(call).filter(|r| r.effect.is_none()) {
            row.effect = Some(effect);
            row.changed = changed;
        }
    }

    /// Something about a call cannot be explained. The first reason stays.
    pub fn contradicted(&mut self, call: u64, why: &str) {
        if let Some(row) = self.row_mut(call) {
            row.unexplained.get_or_insert_with(|| why.to_owned());
        }
    }

    /// A witness reports the result of a call; `source` is the file it stands in.
    pub fn effect(&mut self, by: Witness, source: &str, call_id: &str, seen: Seen) -> Joined {
        let known = self.by_id.get(call_id).map(Vec::as_slice).unwrap_or_default();
        let free = |denied: bool| {
            let fits = |n: &&u64| self.rows.get(n).is_some_and(|r| r.by(by).is_none() && (denied || r.effect != Some(Effect::Deny)));
            known.iter().find(fits).copied()
        };
        // why: hooks tell of no result of a denied call, so where another of the same id may run, the result is that one's.
        let n = match free(by != Witness::Hook).or_else(|| free(true)) {
            Some(n) => n,
            // why: a sub-agent's record may begin with a copy of its parent's.
            None if by == Witness::Transcript && known.iter().any(|n| self.rows[n].source.as_deref() != Some(source)) => {
                return Joined::default();
            }
            None if by == Witness::Transcript && known.is_empty() && self.forgotten > 0 => {
                self.unjoined += 1;
                return Joined::default();
            }
            None => self.insert(Row { call_id: Some(call_id.to_owned()), ..Row::default() }),
        };
        let alone = self.by_id.get(call_id).is_none_or(|l| l.len() == 1);
        let Some(row) = self.rows.get_mut(&n) else { return Joined::default() };
        *row.seen(by) = Some(seen);
        if by == Witness::Transcript {
            row.source = Some(source.to_owned());
        }
        let breach = if row.unexplained.is_some() { None } else { row.breach(alone) };
        if let Some(why) = breach {
            row.unexplained = Some(why.to_owned());
        }
        Joined { call: row.call, breach }
    }

    /// Whether a call of this id was asked about or seen.
    pub fn knows(&self, call_id: &str) -> bool {
        self.by_id.contains_key(call_id)
    }

    /// The newest call of this id that was asked about.
    pub fn call_of(&self, call_id: &str) -> Option<u64> {
        self.by_id.get(call_id)?.iter().rev().find_map(|n| self.rows.get(n)?.call)
    }

    /// What was decided of a call.
    pub fn effect_of(&self, call: u64) -> Option<Effect> {
        self.by_call.get(&call).and_then(|n| self.rows.get(n)?.effect)
    }

    /// The first call of this id that was asked about.
    pub fn asked_at(&self, call_id: &str) -> Option<u64> {
        self.by_id.get(call_id)?.iter().find_map(|n| self.rows.get(n)?.call)
    }

    /// Whether a call that may have begun has no result yet.
    pub fn is_running(&self) -> bool {
        let may_run = |r: &Row| r.call.is_some() && r.effect == Some(Effect::Allow) && r.may_start();
        !self.over && self.rows().any(may_run)
    }

    /// Rows in order of appearance.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = &Row> {
        self.rows.values()
    }

    pub fn counts(&self) -> BTreeMap<End, u64> {
        let mut counts = BTreeMap::new();
        for row in self.rows() {
            *counts.entry(row.end(self.over)).or_default() += 1;
        }
        counts
    }

    /// Calls that the log does not explain.
    pub fn unexplained(&self) -> u64 {
        self.rows().map(|r| u64::from(!r.end(self.over).explained())).sum()
    }

    fn row_mut(&mut self, call: u64) -> Option<&mut Row> {
        self.by_call.get(&call).and_then(|n| self.rows.get_mut(n))
    }

    fn insert(&mut self, row: Row) -> u64 {
        let row = Row { told: self.told, ..row };
        if self.rows.len() >= ROWS {
            self.forget_oldest();
        }
        let n = self.next;
        self.next += 1;
        if let Some(id) = &row.call_id {
            self.by_id.entry(id.clone()).or_default().push(n);
        }
        self.rows.insert(n, row);
        n
    }

    fn forget_oldest(&mut self) {
        let Some((n, row)) = self.rows.pop_first() else { return };
        self.forgotten += 1;
        if let Some(call) = row.call {
            self.by_call.remove(&call);
        }
        if let Some(id) = row.call_id
            && let Some(list) = self.by_id.get_mut(&id)
        {
            list.retain(|m| *m != n);
            if list.is_empty() {
                self.by_id.remove(&id);
            }
        }
    }
}

impl Row {
    /// `alone`: no other call has the same id, so the witnesses speak of the same one.
    fn breach(&self, alone: bool) -> Option<&'static str> {
        if self.told {
            return None;
        }
        let ran = self.ran();
        match (self.call, self.effect) {
            (None, _) => ran.then_some("a result without a decided call"),
            (Some(_), Some(Effect::Deny)) if ran => Some("a denied call has a result"),
            (Some(_), Some(Effect::Allow | Effect::Ask | Effect::Deny)) => {
                let differ = |a: Option<Seen>, b: Option<Seen>| matches!((a, b), (Some(a), Some(b)) if a.is_error != b.is_error);
                (alone && differ(self.stream, self.transcript)).then_some("stream and transcript disagree about a call")
            }
            (Some(_), _) => ran.then_some("a call that waits for its decision has a result"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        AttemptEnded, By, Call, EffectSeen, EffectsObserved, Excerpt, MediationBreached, Outcome, SessionId, ToolDecided, ToolEnded,
        ToolRequested,
    };
    use proptest::prelude::*;

    const OK: Seen = Seen { is_error: false, ran: true };
    const ERR: Seen = Seen { is_error: true, ran: false };

    fn ends(a: &Account) -> Vec<End> {
        a.rows().map(|r| r.end(a.over)).collect()
    }

    #[test]
    fn each_call_has_one_end() {
        let mut a = Account::default();
        for (seq, id) in [(1, "a"), (3, "b"), (5, "c"), (7, "d")] {
            a.requested(seq, Some(id), "Bash");
        }
        a.decided(1, Effect::Allow, false);
        a.decided(3, Effect::Deny, false);
        a.decided(5, Effect::Allow, true);
        assert_eq!(a.effect(Witness::Stream, "", "a", OK).breach, None);
        assert_eq!(a.effect(Witness::Stream, "", "b", ERR).breach, None);
        assert_eq!(a.effect(Witness::Stream, "", "never asked", ERR).breach, None, "the agent refused it itself");
        assert_eq!(ends(&a), [End::Ran, End::Denied, End::Open, End::Open, End::Refused]);
        a.over = true;
        assert_eq!(ends(&a), [End::Ran, End::Denied, End::Unfinished, End::Denied, End::Refused]);
        assert_eq!(a.unexplained(), 0);
    }

    #[test]
    fn a_sub_agent_counts_as_starting_until_it_is_seen_or_cannot_come() {
        let mut a = Account::default();
        for (seq, id, tool) in [(1, "a", "Agent"), (3, "b", "Task"), (5, "c", "Agent"), (7, "d", "Agent"), (9, "e", "Bash")] {
            a.requested(seq, Some(id), tool);
        }
        assert_eq!(a.sub_agents_starting(), 4);
        a.decided(1, Effect::Allow, false);
        a.decided(3, Effect::Deny, false);
        assert_eq!(a.sub_agents_starting(), 3, "a denied one starts nothing");
        a.sub_agent_started(Some("a"));
        a.sub_agent_started(Some("a"));
        a.sub_agent_started(Some("x"));
        assert_eq!(a.sub_agents_starting(), 2, "once a call, and only its own");
        a.effect(Witness::Stream, "", "c", ERR);
        assert_eq!(a.sub_agents_starting(), 1, "one that failed starts nothing");
        a.sub_agent_started(None);
        assert_eq!(a.sub_agents_starting(), 0, "hooks do not say whose it is");
    }

    #[test]
    fn what_runs_against_or_without_its_decision_is_unexplained_once() {
        let mut a = Account::default();
        a.requested(1, Some("a"), "Bash");
        a.decided(1, Effect::Deny, false);
        assert_eq!(a.effect(Witness::Stream, "", "a", ERR).breach, None);
        assert_eq!(a.effect(Witness::Transcript, "f", "a", OK).breach, Some("a denied call has a result"));
        assert_eq!(a.effect(Witness::Hook, "", "a", OK).breach, None, "told once");
        a.requested(3, Some("w"), "Bash");
        assert_eq!(a.effect(Witness::Transcript, "f", "w", OK).breach, Some("a call that waits for its decision has a result"));
        let failed = Seen { is_error: true, ran: true };
        assert_eq!(a.effect(Witness::Stream, "", "x", failed).breach, Some("a result without a decided call"));
        assert_eq!(a.effect(Witness::Transcript, "f", "x", failed).breach, None);
        assert_eq!(ends(&a), [End::Contradicted, End::Contradicted, End::Undecided]);
    }

    #[test]
    fn a_result_counts_once_a_witness_and_ids_may_repeat() {
        let mut a = Account::default();
        for seq in [1, 3] {
            a.requested(seq, Some("t"), "Bash");
        }
        a.decided(1, Effect::Allow, false);
        a.decided(3, Effect::Deny, false);
        assert_eq!(a.effect(Witness::Stream, "", "t", OK), Joined { call: Some(1), breach: None });
        assert_eq!(a.effect(Witness::Stream, "", "t", OK), Joined { call: Some(3), breach: Some("a denied call has a result") });
        assert_eq!(a.effect(Witness::Stream, "", "t", OK), Joined { call: None, breach: Some("a result without a decided call") });
    }

    #[test]
    fn hooks_that_are_dropped_leave_a_call_undecided() {
        // No question came through the hooks: the report after the call, or the transcript, tells of it all the same.
        for by in [Witness::Hook, Witness::Transcript] {
            let mut a = Account { reporter: Witness::Hook, ..Account::default() };
            assert_eq!(a.effect(by, "", "t", OK).breach, Some("a result without a decided call"));
            assert_eq!(ends(&a), [End::Undecided]);
        }
        // Denied through one hook, allowed through another with the same id: the result is of the second.
        let mut a = Account { reporter: Witness::Hook, ..Account::default() };
        for (seq, effect) in [(1, Effect::Deny), (3, Effect::Ask)] {
            a.requested(seq, Some("t"), "Bash");
            a.decided(seq, effect, false);
        }
        assert_eq!(a.effect(Witness::Hook, "", "t", OK), Joined { call: Some(3), breach: None });
        assert_eq!(ends(&a), [End::Denied, End::Ran]);
        assert!(a.knows("t") && !a.knows("u"));
    }

    #[test]
    fn witnesses_that_disagree_are_a_contradiction() {
        let mut a = Account::default();
        a.requested(1, Some("t"), "Bash");
        a.decided(1, Effect::Allow, false);
        a.effect(Witness::Transcript, "f", "t", OK);
        assert_eq!(a.effect(Witness::Stream, "", "t", ERR).breach, Some("stream and transcript disagree about a call"));
        assert_eq!(ends(&a), [End::Contradicted]);
    }

    #[test]
    fn a_copy_in_another_transcript_is_no_second_run() {
        let mut a = Account::default();
        a.requested(1, Some("t"), "Bash");
        a.decided(1, Effect::Allow, false);
        a.effect(Witness::Transcript, "main", "t", OK);
        assert_eq!(a.effect(Witness::Transcript, "sub", "t", OK), Joined::default());
        assert_eq!(a.effect(Witness::Transcript, "main", "t", OK).breach, Some("a result without a decided call"));
    }

    #[test]
    fn forgotten_calls_are_counted_and_not_judged_again() {
        let mut a = Account::default();
        for n in 0..(ROWS as u64 + 2) {
            a.requested(n + 1, Some(&format!("t{n}")), "Bash");
            a.decided(n + 1, Effect::Allow, false);
        }
        assert_eq!((a.rows().count(), a.forgotten), (ROWS, 2));
        assert_eq!(a.effect(Witness::Transcript, "f", "t0", OK), Joined::default());
        assert_eq!((a.unjoined, a.unexplained()), (1, 0));
    }

    fn envelope(seq: u64, event: Event) -> Envelope {
        Envelope { session: SessionId::parse("a").unwrap(), seq, at: 0, attempt: 1, event }
    }

    fn call(id: String) -> Call {
        let mut c: Call = serde_json::from_value(serde_json::json!({"agent": "claude", "tool": "Bash", "kind": "execute", "input": {}, "cwd": "/", "parse": "complete", "channel": "driver"})).unwrap();
        c.call_id = Some(id);
        c
    }

    /// A log as a session writes it, from small numbers: which call, decided how, seen by whom.
    fn log(steps: &[(u8, u8, u8)]) -> Vec<Envelope> {
        let mut out: Vec<Envelope> = Vec::new();
        for (id, effect, witness) in steps {
            let id = format!("t{}", id % 6);
            let seq = out.len() as u64 + 1;
            let event: Event = match (effect % 4, witness % 4) {
                (0, 0 | 1) => ToolRequested { request_id: None, call: call(id) }.into(),
                (1 | 2, 0 | 1) => ToolDecided {
                    call: 1 + u64::from(witness / 4) % seq.max(1),
                    effect: if effect % 4 == 1 { Effect::Allow } else { Effect::Deny },
                    by: By::Policy,
                    reason: String::new(),
                    rule: None,
                    answers: vec![],
                    input_hash: String::new(),
                    updated_input: None,
                    approver: None,
                    latency_us: 0,
                    frame: None,
                }
                .into(),
                (3, 0) => AttemptEnded::with(Outcome::Exited).into(),
                (3, 1) => MediationBreached { what: "x".into(), detail: String::new(), call: Some(seq / 2), action: String::new() }.into(),
                (is_error, 2) => {
                    let (is_error, text) = (is_error != 0, Excerpt::default());
                    ToolEnded {
                        call: None,
                        call_id: Some(id),
                        is_error,
                        ran: (effect % 4 == 3).then_some(true),
                        output: text,
                        duration_ms: None,
                    }
                    .into()
                }
                (is_error, _) => {
                    let effects = vec![EffectSeen { call_id: id, is_error: is_error != 0, ran: is_error != 1 }];
                    let witness = if witness % 8 < 4 { Witness::Transcript } else { Witness::Hook };
                    EffectsObserved { witness, source: "f".into(), upto: None, effects }.into()
                }
            };
            out.push(envelope(seq, event));
        }
        out
    }

    proptest! {
        #[test]
        fn whatever_ran_without_an_allow_is_unexplained_and_nothing_else_is_without_a_reason(steps in proptest::collection::vec(any::<(u8, u8, u8)>(), 0..60)) {
            let mut a = Account::default();
            for e in log(&steps) {
                a.apply(&e);
                // The law holds after each event, but for a decision that comes after its effect: that is a breach already.
                for r in a.rows() {
                    let end = r.end(a.over);
                    if r.ran() && !matches!(r.effect, Some(Effect::Allow | Effect::Ask)) {
                        prop_assert!(!end.explained(), "{r:?}");
                    }
                    prop_assert_eq!(end.explained(), r.unexplained.is_none());
                    if end == End::Denied {
                        prop_assert!(!r.ran());
                    }
                }
            }
            prop_assert_eq!(a.counts().values().sum::<u64>(), a.rows().count() as u64);
            let rows: Vec<&Row> = a.rows().collect();
            prop_assert!(a.unexplained() as usize <= rows.len());
        }

        #[test]
        fn honest_runs_have_nothing_unexplained(calls in proptest::collection::vec((any::<bool>(), any::<bool>(), 0u8..4), 0..40), order in any::<u64>()) {
            let mut a = Account::default();
            let mut late = Vec::new();
            for (n, (allow, fails, seen)) in calls.iter().enumerate() {
                let (seq, id) = (2 * n as u64 + 1, format!("t{n}"));
                a.requested(seq, Some(&id), "Bash");
                a.decided(seq, if *allow { Effect::Allow } else { Effect::Deny }, false);
                let said = match (allow, fails) {
                    (true, false) => OK,
                    (true, true) => Seen { is_error: true, ran: true },
                    (false, _) => ERR,
                };
                for (bit, by) in [(1, Witness::Stream), (2, Witness::Transcript)] {
                    if seen & bit != 0 {
                        late.push((by, id.clone(), said));
                    }
                }
            }
            // Results come in any order, from any witness.
            let mut seed = order | 1;
            while !late.is_empty() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (by, id, said) = late.swap_remove((seed >> 33) as usize % late.len());
                prop_assert_eq!(a.effect(by, "f", &id, said).breach, None);
            }
            a.over = true;
            prop_assert_eq!(a.unexplained(), 0);
        }
    }
}
