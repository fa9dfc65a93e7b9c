//! One notice: what is told of an approval, as JSON for programs and as two short texts for people. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::model::{Approval, ApprovalId, ApprovalState, format_ms, printable};

/// Longest text of an agent that leaves in a notice, in characters.
const TEXT_MAX: usize = 500;
/// Longest line on the desktop, in characters.
const LINE_MAX: usize = 200;

/// An approval as it now stands, and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    pub approval: Approval,
    pub session_name: String,
    pub labels: BTreeMap<String, String>,
}

impl Notice {
    pub fn id(&self) -> ApprovalId {
        self.approval.id()
    }

    /// `approval_requested`, `approval_endorsed`, `approval_approved`, `approval_denied`, `approval_expired`, `approval_cancelled`.
    pub fn kind(&self) -> String {
        match self.approval.state {
            ApprovalState::Waiting if !self.approval.endorsed.is_empty() => "approval_endorsed".to_owned(),
            ApprovalState::Waiting => "approval_requested".to_owned(),
            state => format!("approval_{}", state.as_str()),
        }
    }

    /// The webhook's document.
    pub fn document(&self, delivery: &str) -> Value {
        let a = &self.approval;
        let id = self.id().to_string();
        let mut out = json!({
            "type": self.kind(),
            "delivery": delivery,
            "approval": {
                "id": id,
                "session": a.session.as_str(),
                "session_name": self.session_name,
                "labels": self.labels,
                "call": a.call,
                "state": a.state.as_str(),
                "tool": cut(&a.tool, TEXT_MAX),
                "command": cut(&a.subject, TEXT_MAX),
                "reason": cut(&a.reason, TEXT_MAX),
                "rule": a.rule.as_deref().map(|r| cut(r, TEXT_MAX)),
                "requested_at": format_ms(a.requested_at),
                "expires_at": format_ms(a.expires_at),
                "two_person": a.two_person,
                "endorsed_by": a.endorsed.iter().filter_map(|e| e.by.name.clone()).collect::<Vec<_>>(),
            },
        });
        match &a.resolution {
            Some(r) => {
                out["resolution"] = json!({
                    "effect": r.effect.as_str(),
                    "reason": cut(&r.reason, TEXT_MAX),
                    "by": r.by.name.as_ref().unwrap_or(&r.by.role),
                    "at": format_ms(r.at),
                });
            }
            None => out["answer"] = json!({ "approve": format!("beadle approve {id}"), "deny": format!("beadle deny {id} --reason TEXT") }),
        }
        out
    }

    /// Head and body for the desktop.
    pub fn texts(&self) -> (String, String) {
        let a = &self.approval;
        let what = format!("{}  {}", cut(&printable(&a.tool), 60), cut(&printable(&a.subject), LINE_MAX));
        let name = cut(&printable(&self.session_name), 60);
        match (&a.resolution, a.endorsed.first()) {
            (Some(r), _) => {
                let by = r.by.name.as_ref().unwrap_or(&r.by.role);
                (format!("{name}: {} by {}", a.state.as_str(), printable(by)), what)
            }
            (None, Some(first)) => {
                let by = first.by.name.as_ref().unwrap_or(&first.by.role);
                (format!("{name} needs a second person"), format!("{what}\nallowed by {}\nbeadle approve {}", printable(by), self.id()))
            }
            (None, None) => {
                let why = cut(&printable(&a.reason), LINE_MAX);
                (format!("{name} waits for an answer"), format!("{what}\n{why}\nbeadle approve {}", self.id()))
            }
        }
    }
}

fn cut(text: &str, max: usize) -> String {
    let mut out: String = text.chars().take(max).collect();
    if text.chars().nth(max).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Actor, Effect, Resolution, SessionId};

    fn notice() -> Notice {
        let approval = Approval {
            session: SessionId::parse("fix-1-aaaaa").unwrap(),
            call: 7,
            asked: 8,
            state: ApprovalState::Waiting,
            requested_at: 0,
            expires_at: 1000,
            tool: "Bash".into(),
            subject: format!("echo \x1b[2J{}", "x".repeat(1000)),
            reason: "asked by a rule".into(),
            rule: Some("Bash(echo:*)".into()),
            two_person: false,
            endorsed: vec![],
            resolution: None,
        };
        Notice { approval, session_name: "fix".into(), labels: BTreeMap::new() }
    }

    #[test]
    fn a_request_says_how_to_answer_and_a_resolution_how_it_ended() {
        let mut n = notice();
        let d = n.document("d1");
        assert_eq!(
            (d["type"].as_str(), d["answer"]["approve"].as_str()),
            (Some("approval_requested"), Some("beadle approve fix-1-aaaaa:7"))
        );
        assert_eq!(d["approval"]["command"].as_str().unwrap().chars().count(), TEXT_MAX + 1);
        n.approval.state = ApprovalState::Expired;
        let by = Actor::host();
        n.approval.resolution = Some(Resolution { at: 5, seq: 9, effect: Effect::Deny, reason: "late".into(), by, rules: vec![] });
        let d = n.document("d1");
        assert_eq!((d["type"].as_str(), d["resolution"]["by"].as_str(), d.get("answer")), (Some("approval_expired"), Some("host"), None));
    }

    #[test]
    fn texts_for_people_cannot_act_on_their_screen() {
        let (head, body) = notice().texts();
        assert_eq!(head, "fix waits for an answer");
        assert!(!body.contains('\x1b') && body.contains("beadle approve fix-1-aaaaa:7"), "{body}");
        assert!(body.lines().all(|l| l.chars().count() <= LINE_MAX + 70));
    }
}
