//! Rules added at run time, for one session, for those of a folder, or for all: durable, an event each, in force at the next call.
//!
//! Rules that outlive a session live on the host chain and in a host document of the store; a session's own also stand in its log.
//!
//! Called by `Manager`.

use std::sync::Arc;

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

    /// True when there were any.
    fn drop_session(&mut self, id: &SessionId) -> bool {
        let before = self.list.len();
        self.list.retain(|r| r.session.as_ref() != Some(id));
        self.list.len() != before
    }
}

pub(super) async fn add(inner: &Arc<Inner>, new: NewRule, by: Actor) -> Result<Rule, Error> {
    let rule = checked(inner, new, by, None).await?;
    inner.rules().list.push(rule.clone());
    if let Err(e) = announce(inner, &rule).await {
        inner.rules().list.retain(|r| r.id != rule.id);
        return Err(e);
    }
    Ok(rule)
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

async fn announce(inner: &Arc<Inner>, rule: &Rule) -> Result<(), Error> {
    let event = RuleAdded { id: rule.id.clone(), effect: rule.effect, rule: rule.rule.clone(), dir: rule.dir.clone(), by: rule.by.clone() };
    publish(inner, rule, event.clone().into(), HostEvent::RuleAdded(event)).await
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
    inner.rules().list.extend(rules);
    if let Err(e) = inner.store.set_setting(DOCUMENT, Some(document(inner))).await {
        inner.rules().list.retain(|r| !ids.contains(&r.id));
        return Err(e.into());
    }
    Ok(ids)
}

/// The answer was taken, or not: the prepared rules hold, or go.
pub(super) async fn settle(inner: &Arc<Inner>, ids: &[RuleId], taken: bool) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    if !taken {
        inner.rules().list.retain(|r| !ids.contains(&r.id));
        inner.store.set_setting(DOCUMENT, Some(document(inner))).await?;
        return Ok(());
    }
    let mut added = Vec::new();
    for r in inner.rules().list.iter_mut().filter(|r| ids.contains(&r.id)) {
        r.pending = None;
        added.push(r.clone());
    }
    for rule in &added {
        announce(inner, rule).await?;
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
    inner.rules().list.retain(|r| r.id != *id);
    let event = RuleRevoked { id: id.clone(), by };
    publish(inner, &rule, event.clone().into(), HostEvent::RuleRevoked(event)).await?;
    Ok(rule)
}

/// Takes the rules of a removed session out of the list, which its log no longer explains.
pub(super) async fn forget(inner: &Inner, id: &SessionId) -> Result<(), Error> {
    if inner.rules().drop_session(id) {
        inner.store.set_setting(DOCUMENT, Some(document(inner))).await?;
    }
    Ok(())
}

fn document(inner: &Inner) -> String {
    serde_json::to_string(&inner.rules().list).unwrap_or_default()
}

/// Writes the change down, then swaps the chains of the live sessions that it concerns.
async fn publish(inner: &Arc<Inner>, rule: &Rule, event: Event, host: HostEvent) -> Result<(), Error> {
    let document = document(inner);
    match &rule.session {
        None => inner.store.note(host, vec![(DOCUMENT.to_owned(), Some(document))]).await?,
        Some(_) => inner.store.set_setting(DOCUMENT, Some(document)).await?,
    };
    let holds = |id: &SessionId, l: &super::LiveSession| {
        rule.session.as_ref().is_none_or(|s| s == id) && rule.dir.as_ref().is_none_or(|d| l.cwd.as_os_str() == d.as_str())
    };
    let concerned: Vec<(SessionId, super::LiveSession)> =
        inner.live().iter().filter(|(id, l)| holds(id, l)).map(|(id, l)| (id.clone(), l.clone())).collect();
    let manager = Manager { inner: inner.clone() };
    for (id, live) in concerned {
        let rules = inner.rules().for_session(&id, &live.cwd.to_string_lossy(), live.two_person);
        live.chain.send_replace(inner.chains.assemble_or_deny(&live.cwd, &rules).await);
        match manager.record(&id, vec![event.clone()]).await {
            // why: a session that ended meanwhile needs no rule, and must not undo it for the others.
            Ok(_) | Err(Error::Ended(_)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
