//! The tool ledger: what the calls of each tool came to, as a fold over a session's events.
//!
//! | number | of |
//! | --- | --- |
//! | calls | what was asked for, or told of by another program |
//! | allowed, denied, asked | its decisions and questions, as a [`Session`](super::Session) counts them |
//! | ended, failed | results of calls that were not denied; those that were errors |
//! | times | from the start (what is known of it: taken by the agent, decided, asked) to the result, or as its writer told |
//!
//! Invariants:
//! - over the tools of a session the first four add up to what its [`Session`](super::Session) says;
//! - a call counts for the time at which it was asked for, with all that followed;
//! - agents name tools: a name is cut to [`NAME_MAX`], names are capped by [`NAMES_MAX`] and rows by [`GROUPS_MAX`], and what is over
//!   a cap is added up under [`OTHER`];
//! - of one session at most [`CALLS_MAX`] calls are remembered; what is said of an older one counts under [`UNKNOWN`].
//!
//! Called by `store` (which reads the log) and `api`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::Deserialize;

use super::decision::Effect;
use super::event::BodyError;
use super::ledger::{GROUPS_MAX, OTHER};

/// Calls of one session that are remembered at a time.
pub const CALLS_MAX: usize = 65_536;
/// Characters of a tool's name.
pub const NAME_MAX: usize = 100;
/// Names that are told apart before rows are ordered and capped.
pub const NAMES_MAX: usize = 10_000;
/// Name of the row for what is said of calls that are not remembered.
pub const UNKNOWN: &str = "(unknown)";

/// What an event says of a tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolFact {
    Asked { tool: String, call_id: Option<String> },
    Questioned { call: u64 },
    Decided { call: u64, effect: Effect },
    Started { call: u64 },
    Ended { call: Option<u64>, call_id: Option<String>, is_error: bool, took_ms: Option<u64> },
}

#[derive(Deserialize)]
struct Requested {
    call: Named,
}

#[derive(Deserialize)]
struct Named {
    tool: String,
    #[serde(default)]
    call_id: Option<String>,
}

#[derive(Deserialize)]
struct Numbered {
    call: u64,
}

#[derive(Deserialize)]
struct Decided {
    call: u64,
    effect: Effect,
}

#[derive(Deserialize)]
struct Ended {
    #[serde(default)]
    call: Option<u64>,
    #[serde(default)]
    call_id: Option<String>,
    is_error: bool,
    #[serde(default)]
    duration_ms: Option<u64>,
}

impl ToolFact {
    /// Reads what an event says; `None` of kinds that say nothing of calls. Inputs and outputs are passed over, not kept.
    pub fn of(kind: &[u8], body: &[u8]) -> Result<Option<Self>, BodyError> {
        fn read<'b, T: Deserialize<'b>>(kind: &[u8], body: &'b [u8]) -> Result<T, BodyError> {
            serde_json::from_slice(body).map_err(|source| BodyError { kind: String::from_utf8_lossy(kind).into_owned(), source })
        }
        let asked = |n: Named| Self::Asked { tool: n.tool, call_id: n.call_id };
        Ok(Some(match kind {
            b"tool_requested" => asked(read::<Requested>(kind, body)?.call),
            b"tool_reported" => asked(read(kind, body)?),
            b"approval_requested" => Self::Questioned { call: read::<Numbered>(kind, body)?.call },
            b"tool_started" => Self::Started { call: read::<Numbered>(kind, body)?.call },
            b"tool_decided" => {
                let d: Decided = read(kind, body)?;
                Self::Decided { call: d.call, effect: d.effect }
            }
            b"tool_ended" => {
                let e: Ended = read(kind, body)?;
                Self::Ended { call: e.call, call_id: e.call_id, is_error: e.is_error, took_ms: e.duration_ms }
            }
            _ => return Ok(None),
        }))
    }
}

/// What the calls of one tool came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolSum {
    pub sessions: u64,
    pub calls: u64,
    pub allowed: u64,
    pub denied: u64,
    pub asked: u64,
    pub ended: u64,
    pub failed: u64,
    /// How long each took that ended, in milliseconds, in no order.
    times: Vec<u64>,
}

impl ToolSum {
    /// Adds another sum; sessions too, which is right where they are not the same ones.
    pub fn merge(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.calls += other.calls;
        self.allowed += other.allowed;
        self.denied += other.denied;
        self.asked += other.asked;
        self.ended += other.ended;
        self.failed += other.failed;
        self.times.extend(other.times);
    }

    /// The sum of the times, at most what its number holds.
    pub fn duration_ms(&self) -> u64 {
        self.times.iter().fold(0, |sum: u64, ms| sum.saturating_add(*ms))
    }

    /// The time that so many percent of the calls took at most; `None` where none ended.
    pub fn percentile_ms(&mut self, percent: usize) -> Option<u64> {
        let rank = (self.times.len() * percent).div_ceil(100).max(1) - 1;
        (!self.times.is_empty()).then(|| *self.times.select_nth_unstable(rank).1)
    }
}

/// Sums by tool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolSums(HashMap<String, ToolSum>);

impl ToolSums {
    fn of(&mut self, tool: &str) -> &mut ToolSum {
        let is_new = !self.0.contains_key(tool);
        let tool = if is_new && self.0.len() >= NAMES_MAX { OTHER } else { tool };
        self.0.entry(tool.to_owned()).or_default()
    }

    /// Adds the sums of another session.
    pub fn merge(&mut self, other: Self) {
        for (tool, sum) in other.0 {
            self.of(&tool).merge(sum);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum over all tools; its sessions are not known here.
    pub fn all(&self) -> ToolSum {
        let mut all = ToolSum::default();
        self.0.values().for_each(|s| all.merge(s.clone()));
        ToolSum { sessions: 0, ..all }
    }

    /// Rows, most calls first, the rest of them under [`OTHER`]; and how many went there.
    pub fn ordered(self) -> (Vec<(String, ToolSum)>, u64) {
        let mut rows: Vec<(String, ToolSum)> = self.0.into_iter().collect();
        rows.sort_by(|a, b| b.1.calls.cmp(&a.1.calls).then_with(|| a.0.cmp(&b.0)));
        let rest = if rows.len() > GROUPS_MAX { rows.split_off(GROUPS_MAX) } else { Vec::new() };
        let left_out = rest.len() as u64;
        for (_, sum) in rest {
            match rows.iter_mut().find(|(tool, _)| tool == OTHER) {
                // why: they may be the same sessions.
                Some((_, other)) => {
                    let sessions = other.sessions.max(sum.sessions);
                    other.merge(sum);
                    other.sessions = sessions;
                }
                None => rows.push((OTHER.to_owned(), sum)),
            }
        }
        (rows, left_out)
    }
}

/// A call that was asked for.
#[derive(Debug)]
struct Call {
    /// None where it is not in the window.
    tool: Option<String>,
    call_id: Option<String>,
    /// The newest that is known of its start.
    began_at: i64,
    denied: bool,
    ended: bool,
}

/// The fold over one session.
#[derive(Debug)]
pub struct ToolLedger {
    /// Calls asked for at these times count.
    window: Range<i64>,
    calls: BTreeMap<u64, Call>,
    by_id: HashMap<String, u64>,
    sums: ToolSums,
}

impl ToolLedger {
    pub fn new(window: Range<i64>) -> Self {
        Self { window, calls: BTreeMap::new(), by_id: HashMap::new(), sums: ToolSums::default() }
    }

    /// Folds one event of the log, oldest first.
    pub fn fold(&mut self, seq: u64, at: i64, fact: ToolFact) {
        match fact {
            ToolFact::Asked { tool, call_id } => self.asked(seq, at, &tool, call_id),
            ToolFact::Questioned { call } => self.count(call, at, |s| s.asked += 1),
            ToolFact::Decided { call, effect } => {
                if let Some(c) = self.calls.get_mut(&call) {
                    c.began_at = at;
                    c.denied = !matches!(effect, Effect::Allow | Effect::Ask);
                }
                self.count(call, at, |s| match effect {
                    Effect::Allow => s.allowed += 1,
                    Effect::Ask => s.asked += 1,
                    _ => s.denied += 1,
                });
            }
            ToolFact::Started { call } => {
                if let Some(c) = self.calls.get_mut(&call) {
                    c.began_at = at;
                }
            }
            ToolFact::Ended { call, call_id, is_error, took_ms } => {
                let call = call.or_else(|| self.by_id.get(&call_id?).copied());
                // why: of two results of one call the first is its end; an agent answers what was denied with an error of its own.
                let known = call.and_then(|n| self.calls.get_mut(&n)).filter(|c| !c.ended);
                let Some(c) = known else { return };
                c.ended = true;
                if let (false, Some(tool)) = (c.denied, &c.tool) {
                    let span = u64::try_from(at.saturating_sub(c.began_at)).unwrap_or(0);
                    let sum = self.sums.of(tool);
                    sum.ended += 1;
                    sum.failed += u64::from(is_error);
                    sum.times.push(took_ms.unwrap_or(span));
                }
            }
        }
    }

    /// The sums; each tool that was used counts the session.
    pub fn sums(mut self) -> ToolSums {
        self.sums.0.values_mut().for_each(|s| s.sessions = 1);
        self.sums
    }

    fn asked(&mut self, seq: u64, at: i64, tool: &str, call_id: Option<String>) {
        let tool: String = tool.chars().take(NAME_MAX).collect();
        let tool = self.window.contains(&at).then(|| if tool.is_empty() { "-".to_owned() } else { tool });
        if let Some(tool) = &tool {
            self.sums.of(tool).calls += 1;
        }
        if self.calls.len() >= CALLS_MAX
            && let Some((old, Call { call_id: Some(id), .. })) = self.calls.pop_first()
            && self.by_id.get(&id) == Some(&old)
        {
            self.by_id.remove(&id);
        }
        if let Some(id) = &call_id {
            self.by_id.insert(id.clone(), seq);
        }
        self.calls.insert(seq, Call { tool, call_id, began_at: at, denied: false, ended: false });
    }

    fn count(&mut self, call: u64, at: i64, add: impl FnOnce(&mut ToolSum)) {
        match self.calls.get(&call) {
            Some(c) => {
                if let Some(tool) = &c.tool {
                    add(self.sums.of(tool));
                }
            }
            None if self.window.contains(&at) => add(self.sums.of(UNKNOWN)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Excerpt, ToolEnded, ToolReported, ToolStarted};

    fn asked(tool: &str, id: &str) -> ToolFact {
        ToolFact::Asked { tool: tool.to_owned(), call_id: Some(id.to_owned()) }
    }

    fn ended(id: &str, is_error: bool, took_ms: Option<u64>) -> ToolFact {
        ToolFact::Ended { call: None, call_id: Some(id.to_owned()), is_error, took_ms }
    }

    fn fold(window: Range<i64>, facts: Vec<(u64, i64, ToolFact)>) -> Vec<(String, ToolSum)> {
        let mut l = ToolLedger::new(window);
        facts.into_iter().for_each(|(seq, at, f)| l.fold(seq, at, f));
        l.sums().ordered().0
    }

    #[test]
    fn a_call_has_its_decision_its_end_and_its_time() {
        let allow = |call| ToolFact::Decided { call, effect: Effect::Allow };
        let facts = vec![
            (1, 0, asked("Bash", "a")),
            (2, 5, ToolFact::Questioned { call: 1 }),
            (3, 1_000, allow(1)),
            (4, 1_010, ToolFact::Started { call: 1 }),
            (5, 1_040, ended("a", false, None)),
            (6, 2_000, ended("a", true, None)),
            (7, 2_000, asked("Bash", "b")),
            (8, 2_001, ToolFact::Decided { call: 7, effect: Effect::Deny }),
            (9, 2_002, ended("b", true, None)),
            (10, 3_000, asked("Edit", "c")),
            (11, 3_001, ToolFact::Decided { call: 10, effect: Effect::Ask }),
            (12, 9_000, ended("c", true, Some(7))),
            (13, 9_000, ended("never asked", true, None)),
        ];
        let mut rows = fold(0..i64::MAX, facts.clone());
        let bash = ToolSum { sessions: 1, calls: 2, allowed: 1, denied: 1, asked: 1, ended: 1, failed: 0, times: vec![30] };
        let edit = ToolSum { sessions: 1, calls: 1, asked: 1, ended: 1, failed: 1, times: vec![7], ..ToolSum::default() };
        assert_eq!(rows, [("Bash".to_owned(), bash), ("Edit".to_owned(), edit.clone())]);
        assert_eq!((rows[0].1.duration_ms(), rows[0].1.percentile_ms(50), rows[0].1.percentile_ms(95)), (30, Some(30), Some(30)));
        // A call counts for when it was asked for, with all that followed.
        assert_eq!(fold(2_500..3_001, facts), [("Edit".to_owned(), edit)]);
        assert_eq!(ToolSum::default().percentile_ms(95), None);
        let mut many = ToolSum { times: (1..=100).rev().collect(), ..ToolSum::default() };
        assert_eq!((many.percentile_ms(50), many.percentile_ms(95), many.duration_ms()), (Some(50), Some(95), 5_050));
    }

    #[test]
    fn names_rows_and_calls_are_capped_and_the_sums_stay_whole() {
        let n = NAMES_MAX as u64 + 50;
        let mut facts: Vec<_> = (1..=n).map(|i| (i, 0, asked(&format!("t{i}"), "x"))).collect();
        facts.push((n + 1, 0, asked("often", "y")));
        facts.push((n + 2, 0, asked(&"ü".repeat(NAME_MAX * 3), "z")));
        facts.push((n + 3, 0, ToolFact::Decided { call: 99_999_999, effect: Effect::Deny }));
        let mut l = ToolLedger::new(0..1);
        facts.into_iter().for_each(|(seq, at, f)| l.fold(seq, at, f));
        let sums = l.sums();
        assert_eq!((sums.all().calls, sums.all().denied), (n + 2, 1));
        let (rows, left_out) = sums.ordered();
        assert_eq!((rows.len(), left_out, rows[0].0.as_str()), (GROUPS_MAX, NAMES_MAX as u64 + 1 - GROUPS_MAX as u64, OTHER));
        assert_eq!(rows.iter().map(|(_, s)| s.calls).sum::<u64>(), n + 2);
        assert!(rows.iter().all(|(name, _)| name.chars().count() <= NAME_MAX));

        let mut l = ToolLedger::new(0..1);
        for i in 0..=CALLS_MAX as u64 {
            l.fold(i + 1, 0, asked("Bash", &format!("c{i}")));
        }
        for call in [1, 2] {
            l.fold(CALLS_MAX as u64 + 9, 0, ToolFact::Decided { call, effect: Effect::Allow });
        }
        assert_eq!((l.calls.len(), l.by_id.len()), (CALLS_MAX, CALLS_MAX));
        let rows = l.sums().ordered().0;
        assert_eq!(rows.iter().map(|(t, s)| (t.as_str(), s.allowed)).collect::<Vec<_>>(), [("Bash", 1), (UNKNOWN, 1)]);
    }

    #[test]
    fn facts_are_what_events_say() {
        let of = |e: &Event| ToolFact::of(e.kind().as_bytes(), &e.body_bytes()).unwrap();
        let end = ToolEnded {
            call: Some(3),
            call_id: Some("t".into()),
            is_error: true,
            ran: None,
            output: Excerpt { text: "long".into(), bytes: 4, blob: None },
            duration_ms: Some(9),
        };
        let fact = ToolFact::Ended { call: Some(3), call_id: Some("t".into()), is_error: true, took_ms: Some(9) };
        assert_eq!(of(&end.into()), Some(fact));
        assert_eq!(of(&ToolStarted { call: 7 }.into()), Some(ToolFact::Started { call: 7 }));
        let told = ToolReported {
            call_id: "t".into(),
            tool: "Bash".into(),
            input: serde_json::json!({ "tool": "x" }),
            whole: None,
            parent_call_id: None,
        };
        assert_eq!(of(&told.into()), Some(asked("Bash", "t")));
        let body = br#"{"call":{"tool":"Bash","call_id":"t","input":{"call_id":"no"},"agent":"claude"}}"#;
        assert_eq!(ToolFact::of(b"tool_requested", body).unwrap(), Some(asked("Bash", "t")));
        assert!(ToolFact::of(b"tool_requested", b"{}").is_err());
        for kind in ["tool_requested", "tool_reported", "approval_requested", "tool_started", "tool_decided", "tool_ended"] {
            assert!(Event::KINDS.contains(&kind), "{kind}");
        }
        assert_eq!(ToolFact::of(b"note", b"{}").unwrap(), None);
    }
}
