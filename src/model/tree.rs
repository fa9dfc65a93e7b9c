//! What sessions used together: each session's own ledger, and with it those of all sessions below.
//!
//! Invariants: a session's own numbers count in itself and in each session above it, once; what sub-agents of an agent used is in that
//! session's own ledger already; a session that goes on from another's log begins with an empty ledger, so nothing inherited counts again.
//!
//! Called by `session::tree`, `session::budget` and `api`.

use std::collections::BTreeMap;

use super::id::SessionId;
use super::session::{Session, Status};
use super::usage::{Nanousd, Usage};

/// A sum over sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Together {
    pub sessions: u64,
    /// Those that have not ended.
    pub open: u64,
    pub usage: Usage,
    /// Sum over responses with a known price.
    pub cost: Option<Nanousd>,
    pub unpriced: u64,
    pub turns: u64,
    pub calls: u64,
    pub denied: u64,
    pub breaches: u64,
    pub sub_agents: u64,
}

impl Together {
    /// One session's own part.
    pub fn own(s: &Session) -> Self {
        Self {
            sessions: 1,
            open: u64::from(s.status != Status::Ended),
            usage: s.usage,
            cost: s.cost,
            unpriced: s.unpriced,
            turns: s.turns,
            calls: s.calls,
            denied: s.denied,
            breaches: s.breaches,
            sub_agents: s.sub_agents,
        }
    }

    /// Saturating sum; cost is known as soon as one side knows it.
    #[must_use]
    pub fn plus(self, o: Self) -> Self {
        let cost = match (self.cost, o.cost) {
            (None, None) => None,
            (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
        };
        Self {
            sessions: self.sessions.saturating_add(o.sessions),
            open: self.open.saturating_add(o.open),
            usage: self.usage.plus(o.usage),
            cost,
            unpriced: self.unpriced.saturating_add(o.unpriced),
            turns: self.turns.saturating_add(o.turns),
            calls: self.calls.saturating_add(o.calls),
            denied: self.denied.saturating_add(o.denied),
            breaches: self.breaches.saturating_add(o.breaches),
            sub_agents: self.sub_agents.saturating_add(o.sub_agents),
        }
    }
}

/// Each session's own part with those of all below it. A session whose parent is not among them counts in no other.
pub fn rolled_up<'a>(sessions: impl IntoIterator<Item = &'a Session>) -> BTreeMap<SessionId, Together> {
    let all: Vec<&Session> = sessions.into_iter().collect();
    let parents: BTreeMap<&SessionId, Option<&SessionId>> = all.iter().map(|s| (&s.id, s.record.parent.as_ref())).collect();
    let mut out: BTreeMap<SessionId, Together> = BTreeMap::new();
    for s in &all {
        let own = Together::own(s);
        let mut at = Some(&s.id);
        // why bounded: damage could hold a circle of parents.
        for _ in 0..=parents.len() {
            let Some(id) = at else { break };
            let sum = out.entry(id.clone()).or_default();
            *sum = sum.plus(own);
            at = parents.get(id).copied().flatten().filter(|p| parents.contains_key(p) && **p != s.id);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Actor, Envelope, Event, Mediation, ModelResponded, Origin, Record, SessionCreated};
    use proptest::prelude::*;

    fn id(n: usize) -> SessionId {
        format!("s-{n:08}-aaaaa").parse().expect("an id")
    }

    fn session(n: usize, parent: Option<usize>, origin: Option<usize>, responses: &[(u64, Option<u64>)]) -> Session {
        let from = |o| Origin {
            how: crate::model::BranchKind::Fork,
            session: id(o),
            at: 1,
            hash: String::new(),
            given: "conversation".into(),
            conversation: None,
            left_out: None,
            text: None,
            added: None,
        };
        let record = Record { parent: parent.map(id), origin: origin.map(from), ..Record::default() };
        let created = SessionCreated {
            name: "s".into(),
            agent: "demo".into(),
            command: vec![],
            cwd: "/".into(),
            home: None,
            write_root: None,
            labels: BTreeMap::new(),
            env_names: vec![],
            mediation: Mediation::Gate,
            mediation_note: None,
            keep_open: false,
            created_by: Actor::default(),
            unsafe_args: vec![],
            beadle_version: String::new(),
            program: None,
            prompt: None,
            record,
        };
        let at = |seq, event| Envelope { session: id(n), seq, at: 1, attempt: 1, event };
        let mut s = Session::begin(&at(1, created.into())).expect("a session");
        for (i, (tokens, cost)) in responses.iter().enumerate() {
            let m = ModelResponded {
                message_id: format!("m{i}"),
                model: "m".into(),
                usage: Usage { input: *tokens, ..Usage::default() },
                cost: *cost,
                context_used: None,
                parent_call_id: (i % 2 == 1).then(|| "call".to_owned()),
                prices: None,
            };
            s.fold(&at(2 + i as u64, Event::from(m)));
        }
        s
    }

    proptest! {
        /// Any forest, in which some sessions go on from others: own and children once each, and the roots are all there is.
        #[test]
        fn usage_rolls_up_exactly_once(
            nodes in proptest::collection::vec(
                (proptest::option::of(0usize..40), proptest::option::of(0usize..40),
                 proptest::collection::vec((0u64..1000, proptest::option::of(0u64..1000)), 0..4)),
                1..40)
        ) {
            let all: Vec<Session> = nodes.iter().enumerate().map(|(n, (parent, origin, responses))| {
                session(n, parent.filter(|p| *p < n), origin.filter(|o| *o < n), responses)
            }).collect();
            let sums = rolled_up(&all);
            prop_assert_eq!(sums.len(), all.len());
            for s in &all {
                let children = all.iter().filter(|c| c.record.parent.as_ref() == Some(&s.id));
                let want = children.fold(Together::own(s), |sum, c| sum.plus(sums[&c.id]));
                prop_assert_eq!(sums[&s.id], want);
            }
            let roots = all.iter().filter(|s| s.record.parent.is_none()).fold(Together::default(), |sum, s| sum.plus(sums[&s.id]));
            let own = all.iter().fold(Together::default(), |sum, s| sum.plus(Together::own(s)));
            prop_assert_eq!(roots, own);
            let tokens: u64 = nodes.iter().flat_map(|n| &n.2).map(|r| r.0).sum();
            prop_assert_eq!(roots.usage.total(), tokens);
        }
    }

    #[test]
    fn a_circle_of_parents_ends_and_a_missing_parent_is_none() {
        let (a, b, c) = (session(1, Some(2), None, &[(1, None)]), session(2, Some(1), None, &[(2, None)]), session(3, Some(9), None, &[]));
        let sums = rolled_up([&a, &b, &c]);
        assert_eq!((sums.len(), sums[&c.id].sessions), (3, 1));
    }
}
