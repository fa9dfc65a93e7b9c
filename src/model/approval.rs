//! Approvals: one question to a person, from the asking to its one answer. A projection of a session's log.
//!
//! Invariants:
//! - an approval is answered once: what comes after the first answer changes nothing;
//! - the same events always give the same approvals, whoever folds them (the store's writer, `verify`, a test).
//!
//! Called by `store` (writes and checks the projection), `session` and `api`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::decision::Effect;
use super::event::{Actor, Envelope, Event};
use super::id::{ApprovalId, RuleId, SessionId};

/// Where an approval stands. All but `Waiting` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    Waiting,
    /// A person said yes.
    Approved,
    /// A person said no, or nobody could be asked.
    Denied,
    /// Nobody answered in time; the call was denied.
    Expired,
    /// The question went away: the agent withdrew it or ended. The call was denied.
    Cancelled,
}

impl ApprovalState {
    pub const ALL: [Self; 5] = [Self::Waiting, Self::Approved, Self::Denied, Self::Expired, Self::Cancelled];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The one answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    pub at: i64,
    /// seq of the event that brought it.
    pub seq: u64,
    /// `allow` or `deny`: what the agent was told.
    pub effect: Effect,
    pub reason: String,
    /// A person with where it came from, or the host.
    pub by: Actor,
    /// Rules that the answer added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleId>,
}

/// One yes of two that are needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endorsement {
    pub at: i64,
    /// seq of the event that brought it.
    pub seq: u64,
    pub reason: String,
    pub by: Actor,
}

/// One question and, once there is one, its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub session: SessionId,
    /// seq of the call's `tool_requested` event.
    pub call: u64,
    /// seq of the `approval_requested` event.
    pub asked: u64,
    pub state: ApprovalState,
    pub requested_at: i64,
    pub expires_at: i64,
    pub tool: String,
    /// The command, path or address that the call is about, shortened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// Why a person must answer.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Two persons must allow it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub two_person: bool,
    /// Who of the two has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endorsed: Vec<Endorsement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
}

impl Approval {
    /// The approval that an event begins, if it is an `approval_requested`.
    pub fn begin(e: &Envelope) -> Option<Self> {
        let Event::ApprovalRequested(a) = &e.event else { return None };
        Some(Self {
            session: e.session.clone(),
            call: a.call,
            asked: e.seq,
            state: ApprovalState::Waiting,
            requested_at: e.at,
            expires_at: a.expires_at,
            tool: a.tool.clone(),
            subject: a.subject.clone(),
            reason: a.reason.clone(),
            rule: a.rule.clone(),
            two_person: a.two_person,
            endorsed: vec![],
            resolution: None,
        })
    }

    pub fn id(&self) -> ApprovalId {
        ApprovalId { session: self.session.clone(), call: self.call }
    }

    /// Folds a later event of the same session in; true when it changed this approval.
    pub fn fold(&mut self, e: &Envelope) -> bool {
        if self.state != ApprovalState::Waiting {
            return false;
        }
        let (state, effect, reason, by, rules) = match &e.event {
            Event::ApprovalEndorsed(x) if x.call == self.call => {
                self.endorsed.push(Endorsement { at: e.at, seq: e.seq, reason: x.reason.clone(), by: x.by.clone() });
                return true;
            }
            Event::ApprovalResolved(r) if r.call == self.call => (r.state(), r.effect, r.reason.clone(), r.by.clone(), r.rules.clone()),
            Event::SessionEnded(_) => {
                (ApprovalState::Cancelled, Effect::Deny, "the session ended before the answer".to_owned(), Actor::host(), vec![])
            }
            _ => return false,
        };
        self.state = state;
        self.resolution = Some(Resolution { at: e.at, seq: e.seq, effect, reason, by, rules });
        true
    }
}

/// All approvals of one session, by call: the replay that the stored projection must equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Approvals(pub BTreeMap<u64, Approval>);

impl Approvals {
    /// Whether an event of this kind can change any approval.
    pub fn concerns(event: &Event) -> bool {
        matches!(event, Event::ApprovalRequested(_) | Event::ApprovalEndorsed(_) | Event::ApprovalResolved(_) | Event::SessionEnded(_))
    }

    /// Folds one event in, oldest first. A second question about the same call changes nothing.
    pub fn fold(&mut self, e: &Envelope) {
        match &e.event {
            Event::ApprovalRequested(a) => {
                if let Some(begun) = Approval::begin(e) {
                    self.0.entry(a.call).or_insert(begun);
                }
            }
            Event::ApprovalEndorsed(x) => {
                if let Some(a) = self.0.get_mut(&x.call) {
                    a.fold(e);
                }
            }
            Event::ApprovalResolved(r) => {
                if let Some(a) = self.0.get_mut(&r.call) {
                    a.fold(e);
                }
            }
            Event::SessionEnded(_) => {
                for a in self.0.values_mut() {
                    a.fold(e);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ApprovalRequested, ApprovalResolved, Outcome, SessionEnded};

    fn at(seq: u64, event: Event) -> Envelope {
        let session = SessionId::parse("s-1-aaaaa").unwrap();
        Envelope { session, seq, at: i64::try_from(seq).unwrap() * 10, attempt: 1, event }
    }

    fn asked(call: u64) -> Event {
        ApprovalRequested { call, expires_at: 99, tool: "Bash".into(), ..ApprovalRequested::default() }.into()
    }

    fn answered(call: u64, effect: Effect, state: Option<ApprovalState>, role: &str) -> Event {
        let by = Actor { role: role.into(), ..Actor::default() };
        ApprovalResolved { call, effect, reason: "r".into(), by, state, rules: vec![] }.into()
    }

    #[test]
    fn the_first_answer_holds_and_the_end_cancels_what_waits() {
        let mut all = Approvals::default();
        let events = [
            asked(2),
            asked(4),
            asked(6),
            answered(2, Effect::Allow, Some(ApprovalState::Approved), "operator"),
            answered(2, Effect::Deny, Some(ApprovalState::Denied), "operator"),
            answered(4, Effect::Deny, Some(ApprovalState::Expired), "host"),
            asked(4),
            SessionEnded { outcome: Outcome::Stopped, reason: None, report: None }.into(),
        ];
        for (seq, e) in (10..).zip(events) {
            all.fold(&at(seq, e));
        }
        let seen: Vec<_> = all.0.values().map(|a| (a.call, a.state, a.resolution.as_ref().map(|r| (r.seq, r.effect)))).collect();
        assert_eq!(
            seen,
            [
                (2, ApprovalState::Approved, Some((13, Effect::Allow))),
                (4, ApprovalState::Expired, Some((15, Effect::Deny))),
                (6, ApprovalState::Cancelled, Some((17, Effect::Deny))),
            ]
        );
    }

    #[test]
    fn an_endorsement_is_kept_and_answers_nothing() {
        let mut all = Approvals::default();
        let by = Actor { role: "operator".into(), name: Some("alice".into()), ..Actor::default() };
        let endorsed = |call| Event::from(crate::model::ApprovalEndorsed { call, reason: "r".into(), by: by.clone() });
        for (seq, e) in (10..).zip([asked(2), endorsed(2), endorsed(9), answered(2, Effect::Deny, None, "operator"), endorsed(2)]) {
            all.fold(&at(seq, e));
        }
        let a = &all.0[&2];
        assert_eq!((a.state, a.endorsed.len(), a.endorsed[0].by.name.as_deref()), (ApprovalState::Denied, 1, Some("alice")));
        assert_eq!(all.0.len(), 1);
    }

    #[test]
    fn an_answer_of_before_states_were_recorded_is_told_by_who_gave_it() {
        for (effect, role, want) in [
            (Effect::Allow, "operator", ApprovalState::Approved),
            (Effect::Deny, "operator", ApprovalState::Denied),
            (Effect::Deny, "host", ApprovalState::Cancelled),
        ] {
            let mut all = Approvals::default();
            all.fold(&at(5, asked(2)));
            all.fold(&at(6, answered(2, effect, None, role)));
            assert_eq!(all.0[&2].state, want);
        }
    }
}
