//! Rules added at run time, for one session, for those of a folder, or for all: durable, an event each, in force at the next call.
//!
//! Rules that outlive a session live on the host chain and in a host document of the store; a session's own also stand in its log.
//!
//! Called by `Manager`.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Error, Inner, Manager};
use crate::model::{Actor, ApprovalId, Effect, Event, RuleAdded, RuleId, RuleRevoked, SessionId, Status};
use crate::policy::RuntimeRule;
use crate::store::{HostEvent, Store};

/// Most rules in force at once.
pub const RULES_MAX: usize = 1000;
/// Longest rule in bytes.
const RULE_MAX: usize = 512;
/// Name of the host document that holds them.
const DOCUMENT: &str = "rules";
/// How long a change waits for the logs of the sessions that it concerns.
const NOTED_WITHIN: Duration = Duration::from_secs(2);

/// One rule in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub id: RuleId,
    pub effect: Effect,
    pub rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// It holds for sessions started in this folder only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    pub added_at: i64,
    pub by: Actor,
    /// The approval (`<session>:<call>`) whose answer is to add it: until that is taken, it does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pending: Option<String>,
}

/// A rule to add.
#[derive(Debug, Clone)]
pub struct NewRule {
    pub session: Option<SessionId>,
    pub dir: Option<String>,
    pub effect: Effect,
    pub rule: String,
}

/// All rules in force, in order of adding.
#[derive(Debug, Default)]
pub struct Rules {
    list: Vec<Rule>,
}

impl Rules {
    pub(super) fn load(store: &Store) -> Result<Self, Error> {
        let list = match store.setting(DOCUMENT)? {
            Some(text) => serde_json::from_str(&text).map_err(|e| Error::Refused {
                what: "the stored list of rules".to_owned(),
                why: format!("cannot be read ({e}); run `beadle verify`"),
            })?,
            None => vec![],
        };
        Ok(Self { list })
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Those that outlive a session, or all that hold for one (by id and working directory).
    pub(super) fn list(&self, session: Option<(&SessionId, &str)>) -> Vec<Rule> {
        let holds = |r: &&Rule| match session {
            None => r.session.is_none(),
            Some((id, cwd)) => r.session.as_ref().is_none_or(|s| s == id) && r.dir.as_ref().is_none_or(|d| d == cwd),
        };
        self.list.iter().filter(|r| r.pending.is_none()).filter(holds).cloned().collect()
    }

    pub(super) fn all(&self) -> Vec<Rule> {
        self.list.clone()
    }

    /// What the chain of a session takes. Where two persons must allow a call, one person's rule allows nothing.
    pub(super) fn for_session(&self, id: &SessionId, cwd: &str, two_person: bool) -> Vec<RuntimeRule> {
        let counts = |r: &Rule| !(two_person && r.effect == Effect::Allow);
        self.list(Some((id, cwd))).into_iter().filter(counts).map(|r| RuntimeRule { effect: r.effect, rule: r.rule }).collect()
    }
}

pub(super) async fn add(inner: &Arc<Inner>, new: NewRule, by: Actor) -> Result<Rule, Error> {
    let rule = checked(inner, new, by, None).await?;
    change(inner, Some(HostEvent::RuleAdded(added(&rule))), &rule, |list| list.push(rule.clone())).await?;
    spread(inner, &rule, added(&rule).into()).await;
    Ok(rule)
}

fn added(r: &Rule) -> RuleAdded {
    RuleAdded { id: r.id.clone(), effect: r.effect, rule: r.rule.clone(), dir: r.dir.clone(), by: r.by.clone() }
}

/// Changes the list: durable first, then in memory. What could not be written down changes nothing.
async fn change(inner: &Inner, host: Option<HostEvent>, rule: &Rule, f: impl FnOnce(&mut Vec<Rule>)) -> Result<(), Error> {
    // why only then: a rule of one session stands in its own log.
    let host = host.filter(|_| rule.session.is_none());
    change_list(inner, host, f).await
}

async fn change_list(inner: &Inner, host: Option<HostEvent>, f: impl FnOnce(&mut Vec<Rule>)) -> Result<(), Error> {
    let _changing = inner.changing_rules.lock().await;
    let mut list = inner.rules().list.clone();
    f(&mut list);
    let document = Some(serde_json::to_string(&list).unwrap_or_default());
    match host {
        Some(event) => inner.store.note(event, vec![(DOCUMENT.to_owned(), document)]).await?,
        None => inner.store.set_setting(DOCUMENT, document).await?,
    };
    inner.rules().list = list;
    Ok(())
}

async fn checked(inner: &Inner, new: NewRule, by: Actor, pending: Option<String>) -> Result<Rule, Error> {
    let NewRule { session, dir, effect, rule: text } = new;
    let bad = |why: &str| Error::BadRule { rule: super::live::cut(&text, 200), why: why.to_owned() };
    if effect == Effect::Abstain {
        return Err(bad("the effect must be allow, ask or deny"));
    }
    if text.is_empty() || text.len() > RULE_MAX {
        return Err(bad("a rule has 1 to 512 bytes"));
    }
    if inner.rules().list.len() >= RULES_MAX {
        return Err(bad("1000 rules are in force, the limit; revoke some"));
    }
    if let Some(id) = &session
        && inner.store.session(id)?.status == Status::Ended
    {
        return Err(Error::Ended(id.clone()));
    }
    inner.chains.check_rule(&RuntimeRule { effect, rule: text.clone() }).await.map_err(|why| bad(&why))?;
    let id = RuleId::new(inner.entropy.as_ref());
    Ok(Rule { id, effect, rule: text, session, dir, added_at: inner.clock.wall_ms(), by, pending })
}

/// Writes rules down that hold once an approval's answer was taken: whatever dies in between, they hold exactly if the answer names them.
pub(super) async fn prepare(inner: &Inner, approval: &ApprovalId, new: Vec<NewRule>, by: &Actor) -> Result<Vec<RuleId>, Error> {
    let mut rules = Vec::with_capacity(new.len());
    for rule in new {
        rules.push(checked(inner, rule, by.clone(), Some(approval.to_string())).await?);
    }
    let ids: Vec<RuleId> = rules.iter().map(|r| r.id.clone()).collect();
    if ids.is_empty() {
        return Ok(ids);
    }
    change_list(inner, None, |list| list.extend(rules)).await?;
    Ok(ids)
}

/// The answer was taken, or not: the prepared rules hold, or go.
pub(super) async fn settle(inner: &Arc<Inner>, ids: &[RuleId], taken: bool) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    if !taken {
        return change_list(inner, None, |list| list.retain(|r| !ids.contains(&r.id))).await;
    }
    let settled: Vec<Rule> = inner.rules().list.iter().filter(|r| ids.contains(&r.id)).cloned().collect();
    for rule in settled {
        let holds = |list: &mut Vec<Rule>| list.iter_mut().filter(|r| r.id == rule.id).for_each(|r| r.pending = None);
        change(inner, Some(HostEvent::RuleAdded(added(&rule))), &rule, holds).await?;
        spread(inner, &rule, added(&rule).into()).await;
    }
    Ok(())
}

/// At boot: which prepared rules a durable answer names, and which nobody does. They hold at once; `settle` writes that down.
pub(super) fn decided(inner: &Inner) -> (Vec<RuleId>, Vec<RuleId>) {
    let mut rules = inner.rules();
    let (mut hold, mut gone) = (Vec::new(), Vec::new());
    for r in &mut rules.list {
        let Some(approval) = &r.pending else { continue };
        let answer = approval.parse().ok().and_then(|id| inner.store.approval(&id).ok()).and_then(|a| a.resolution);
        if answer.is_some_and(|a| a.rules.contains(&r.id)) {
            r.pending = None;
            hold.push(r.id.clone());
        } else {
            gone.push(r.id.clone());
        }
    }
    (hold, gone)
}

pub(super) async fn revoke(inner: &Arc<Inner>, id: &RuleId, by: Actor) -> Result<Rule, Error> {
    let rule = inner
        .rules()
        .list
        .iter()
        .find(|r| r.id == *id && r.pending.is_none())
        .cloned()
        .ok_or_else(|| Error::NoRule(super::live::cut(&id.0, 100)))?;
    let event = RuleRevoked { id: id.clone(), by };
    change(inner, Some(HostEvent::RuleRevoked(event.clone())), &rule, |list| list.retain(|r| r.id != *id)).await?;
    spread(inner, &rule, event.into()).await;
    Ok(rule)
}

/// Takes the rules of a removed session out of the list, which its log no longer explains.
pub(super) async fn forget(inner: &Inner, id: &SessionId) -> Result<(), Error> {
    if inner.rules().list.iter().any(|r| r.session.as_ref() == Some(id)) {
        change_list(inner, None, |list| list.retain(|r| r.session.as_ref() != Some(id))).await?;
    }
    Ok(())
}

/// Brings a change that holds already to the live sessions that it concerns: their chains first, then their logs.
async fn spread(inner: &Arc<Inner>, rule: &Rule, event: Event) {
    let holds = |id: &SessionId, l: &super::LiveSession| {
        rule.session.as_ref().is_none_or(|s| s == id) && rule.dir.as_ref().is_none_or(|d| l.cwd.as_os_str() == d.as_str())
    };
    // why held: the chain that is swapped in last must hold the newest list.
    let changing = inner.changing_rules.lock().await;
    let concerned: Vec<(SessionId, super::LiveSession)> =
        inner.live().iter().filter(|(id, l)| holds(id, l)).map(|(id, l)| (id.clone(), l.clone())).collect();
    let mut notes = tokio::task::JoinSet::new();
    for (id, live) in concerned {
        let rules = inner.rules().for_session(&id, &live.cwd.to_string_lossy(), live.two_person);
        let old = live.chain.borrow().clone();
        live.chain.send_replace(inner.chains.again(&old, None, &live.cwd, &rules).await.0);
        let (manager, event) = (Manager { inner: inner.clone() }, event.clone());
        notes.spawn(async move {
            match manager.record(&id, vec![event]).await {
                // why: a session that ended meanwhile needs no rule.
                Ok(_) | Err(Error::Ended(_)) => {}
                Err(e) => tracing::warn!(session = %id, code = e.code(), error = %e, "a change of the rules does not stand in its log yet"),
            }
        });
    }
    drop(changing);
    // why not waited out: the change is durable and in force; a session whose disk is full or whose task is busy writes its note later
    // (it lies in its mailbox), and must neither hold up who changed the rule nor undo it for the others.
    let all = async { while notes.join_next().await.is_some() {} };
    if tokio::time::timeout(NOTED_WITHIN, all).await.is_err() {
        notes.detach_all();
    }
}
