//! Recorded calls judged anew: what would another chain have decided?
//!
//! Invariants:
//! - reading is a fold over a session's events in their order; a call is judged on the session as its policies saw it then;
//! - what a person answered is not what the chain said: an ask stays an ask, however it ended;
//! - nothing is written, no agent is told anything.
//!
//! Called by `session` (before an upgrade) and `cli::policy` (`policy replay`).

use std::collections::HashMap;

use serde_json::Value;

use super::call::{self, CallInput, build};
use super::chain::{Chain, Judged};
use super::paths::RealPaths;
use crate::model::{By, Call, Effect, Envelope, Event, ReplayChange, Session, ToolDecided};

/// Most questions that are remembered while their decision is not read yet.
const OPEN_MAX: usize = 1024;
/// Longest subject of a call, in bytes.
const ABOUT_MAX: usize = 200;

/// What a chain says of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// Allow, ask or deny.
    pub effect: Effect,
    /// Only of an allow.
    pub updated_input: Option<Value>,
    pub rule: Option<String>,
    pub reason: String,
    pub failed: Vec<String>,
}

/// A call with what was said of it.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub session: Session,
    pub seq: u64,
    pub at: i64,
    pub call: Call,
    pub was: Said,
}

/// Reads a session's log.
#[derive(Default)]
pub struct Reader {
    session: Option<Session>,
    open: HashMap<u64, (Session, i64, Call)>,
    skipped: u64,
}

impl Reader {
    /// The next event, from the first on; gives a call when its decision is read.
    pub fn read(&mut self, e: &Envelope) -> Option<Recorded> {
        let Some(session) = &mut self.session else {
            self.session = Session::begin(e);
            return None;
        };
        let mut done = None;
        match &e.event {
            Event::ToolRequested(r) if self.open.len() < OPEN_MAX => {
                self.open.insert(e.seq, (session.clone(), e.at, r.call.clone()));
            }
            Event::ToolRequested(_) => self.skipped += 1,
            Event::ToolDecided(d) => {
                if let Some((session, at, call)) = self.open.remove(&d.call) {
                    match recorded(d) {
                        Some(was) => done = Some(Recorded { session, seq: d.call, at, call, was }),
                        None => self.skipped += 1,
                    }
                }
            }
            _ => {}
        }
        session.fold(e);
        done
    }

    /// Calls that were read and not given: the host decided them, or nobody did.
    pub fn skipped(&self) -> u64 {
        self.skipped + self.open.len() as u64
    }
}

/// What the chain said; `None` where it was not asked.
fn recorded(d: &ToolDecided) -> Option<Said> {
    let effect = match d.by {
        By::Policy | By::Default => d.effect,
        By::Approval | By::Agent | By::Unattended | By::Expired | By::Withdrawn => Effect::Ask,
        By::Host => return None,
    };
    Some(Said {
        effect,
        updated_input: d.updated_input.clone().filter(|_| effect == Effect::Allow),
        rule: d.rule.clone(),
        reason: d.reason.clone(),
        failed: d.answers.iter().filter(|a| a.failed.is_some()).map(|a| a.policy.clone()).collect(),
    })
}

/// What a chain says now.
pub async fn judge(chain: &Chain, r: &Recorded) -> Said {
    let session = &r.session;
    let rebuild = |input: &Value| {
        if !input.is_object() || !call::fits(input) {
            return Err("the input is not a JSON object of at most 16 MiB".to_owned());
        }
        let input = CallInput {
            agent: &r.call.agent,
            tool: &r.call.tool,
            input,
            cwd: &r.call.cwd,
            home: session.home.as_deref(),
            write_root: r.call.write_root.as_deref(),
            call_id: r.call.call_id.as_deref(),
            parent_call_id: r.call.parent_call_id.as_deref(),
            sub_agent: r.call.sub_agent.as_deref(),
            channel: r.call.channel,
        };
        Ok(build(&input, &RealPaths))
    };
    let judged: Judged = chain.judge(session, &r.call, r.at, &rebuild).await;
    let effect = judged.effect;
    Said {
        effect,
        updated_input: judged.updated_input.filter(|_| effect == Effect::Allow),
        rule: judged.rule,
        reason: judged.reason,
        failed: judged.failures.into_iter().map(|f| f.0).collect(),
    }
}

/// The difference, if there is one.
pub fn compare(r: &Recorded, was: &Said, would: &Said) -> Option<ReplayChange> {
    // why only of two allows: of a call that is not allowed, no input is used.
    let both = was.effect == Effect::Allow && would.effect == Effect::Allow;
    let input_differs = both && was.updated_input != would.updated_input;
    if was.effect == would.effect && !input_differs {
        return None;
    }
    Some(ReplayChange {
        session: r.session.id.to_string(),
        call: r.seq,
        tool: cut(&r.call.tool, 128),
        about: about(&r.call),
        was: was.effect,
        would: would.effect,
        input_differs,
        was_rule: was.rule.clone(),
        rule: would.rule.clone(),
        reason: would.reason.clone(),
        failed: would.failed.clone(),
        loosens: would.effect < was.effect || input_differs,
    })
}

fn about(call: &Call) -> String {
    let whole = call.input.get("command").and_then(Value::as_str);
    let whole = whole.or_else(|| call.paths.first().map(|p| p.absolute.as_str())).or_else(|| call.urls.first().map(String::as_str));
    cut(whole.unwrap_or_default(), ABOUT_MAX)
}

fn cut(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Actor, Mediation, Record, SessionCreated, SessionId, ToolRequested};
    use serde_json::json;

    fn envelope(seq: u64, event: Event) -> Envelope {
        let Ok(session) = "a-1-aaaaa".parse::<SessionId>() else { panic!("an id") };
        Envelope { session, seq, at: 5, attempt: 1, event }
    }

    fn created() -> Event {
        let Some(s) = super::super::examples::session(std::path::Path::new("/w")) else { panic!("a session") };
        SessionCreated {
            name: "a".into(),
            agent: "claude".into(),
            command: vec![],
            cwd: s.cwd,
            home: None,
            write_root: None,
            labels: Default::default(),
            env_names: vec![],
            mediation: Mediation::Gate,
            mediation_note: None,
            keep_open: false,
            created_by: Actor::host(),
            unsafe_args: vec![],
            beadle_version: String::new(),
            prompt: None,
            record: Record::default(),
            program: None,
        }
        .into()
    }

    fn requested() -> Event {
        let input = json!({"command": "git push"});
        let input = CallInput {
            agent: "claude",
            tool: "Bash",
            input: &input,
            cwd: "/w",
            home: None,
            write_root: None,
            call_id: None,
            parent_call_id: None,
            sub_agent: None,
            channel: crate::model::Channel::Driver,
        };
        ToolRequested { request_id: None, call: build(&input, &RealPaths) }.into()
    }

    fn decided(call: u64, effect: Effect, by: By) -> Event {
        ToolDecided {
            call,
            effect,
            by,
            reason: "r".into(),
            rule: None,
            answers: vec![],
            input_hash: String::new(),
            updated_input: None,
            approver: None,
            latency_us: 1,
            frame: None,
        }
        .into()
    }

    #[test]
    fn an_ask_stays_an_ask_and_the_hosts_own_decisions_are_left_out() {
        let mut reader = Reader::default();
        assert!(reader.read(&envelope(1, created())).is_none());
        let mut seq = 1;
        let mut read = |effect, by| {
            seq += 2;
            assert!(reader.read(&envelope(seq - 1, requested())).is_none());
            let r = reader.read(&envelope(seq, decided(seq - 1, effect, by)));
            r.map(|r| (r.was.effect, r.session.calls))
        };
        assert_eq!(read(Effect::Allow, By::Policy), Some((Effect::Allow, 0)));
        assert_eq!(read(Effect::Deny, By::Default), Some((Effect::Deny, 1)), "judged on the session as it was before the call");
        assert_eq!(read(Effect::Allow, By::Approval), Some((Effect::Ask, 2)));
        assert_eq!(read(Effect::Deny, By::Expired), Some((Effect::Ask, 3)));
        assert_eq!(read(Effect::Deny, By::Host), None);
        reader.read(&envelope(seq + 1, requested()));
        assert_eq!(reader.skipped(), 2);
    }

    #[test]
    fn looser_and_other_inputs_are_told_from_stricter() {
        let mut reader = Reader::default();
        reader.read(&envelope(1, created()));
        reader.read(&envelope(2, requested()));
        let Some(r) = reader.read(&envelope(3, decided(2, Effect::Ask, By::Policy))) else { panic!("a call") };
        let said = |effect, input: Option<Value>| Said { effect, updated_input: input, rule: None, reason: String::new(), failed: vec![] };
        let loosens = |was: Said, would: Said| compare(&r, &was, &would).map(|c| c.loosens);
        assert_eq!(loosens(said(Effect::Ask, None), said(Effect::Ask, None)), None);
        assert_eq!(loosens(said(Effect::Ask, None), said(Effect::Allow, None)), Some(true));
        assert_eq!(loosens(said(Effect::Allow, None), said(Effect::Deny, None)), Some(false));
        assert_eq!(loosens(said(Effect::Allow, Some(json!({}))), said(Effect::Allow, None)), Some(true), "a rewrite that is gone");
        assert_eq!(compare(&r, &said(Effect::Ask, None), &said(Effect::Deny, None)).map(|c| c.about), Some("git push".to_owned()));
    }
}
