//! Questions to a person: the one way in for every human answer, and the feed of what changes.
//!
//! Invariants:
//! - an approval is answered once: the session's task takes one answer, the next one is told who was first and when;
//! - an answer is given only through [`Manager::answer`], wherever it comes from: command line, attached terminal, HTTP, later others.
//!   Whoever must be convinced first that it is a person (a terminal, a key, a second person) is asked there, before the task is;
//! - the queue is the store's projection, so it survives terminals, daemons and the machine; nothing of it is only in memory.
//!
//! Called by `api`; notifications follow [`Manager::approval_changes`].

mod always;
mod detail;
mod diff;

use std::time::Duration;

use tokio::sync::broadcast;

use super::command::{Command, Resolve};
use super::rules::{self, NewRule};
use super::{Error, Manager};
use crate::model::{Actor, Approval, ApprovalId, ApprovalState, Effect, SessionId, format_ms};
use crate::store::{ApprovalFilter, Page, Wake};

pub use always::{Always, Reach};
pub use detail::ApprovalDetail;

/// Longest reason that is recorded, in bytes.
pub const REASON_MAX: usize = 4096;
/// Changes read from the store at a time.
const READ: usize = 256;
/// A follower looks at the store at least so often, whatever wake-ups say.
const POLL: Duration = Duration::from_secs(5);

/// What a person says to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `Allow` or `Deny`.
    pub effect: Effect,
    /// Empty: a plain word stands in the log.
    pub reason: String,
    /// With `Allow`: rules to be added, so that the like is not asked about again.
    pub always: Option<Always>,
    /// Who says it and from where, as the host sees it (never as the peer says).
    pub actor: Actor,
    /// Public keys of the operators there are now: an earlier yes by another key counts no more.
    pub keys: Vec<String>,
}

impl Manager {
    /// A person's answer to a waiting question; returns the approval as it then stands, once that is durable.
    ///
    /// Errors: there is no such approval; it was answered before (names who and when); its session is gone; no rule stands for the call
    /// (then nothing was answered).
    pub async fn answer(&self, id: &ApprovalId, answer: Answer) -> Result<Approval, Error> {
        if !matches!(answer.effect, Effect::Allow | Effect::Deny) {
            return Err(Error::Refused { what: format!("answer {}", answer.effect.as_str()), why: "is not allow or deny".to_owned() });
        }
        let Answer { effect, reason, always, actor, keys } = answer;
        let default = if effect == Effect::Allow { "approved" } else { "refused by a person" };
        let reason = if reason.is_empty() { default.to_owned() } else { super::live::cut(&reason, REASON_MAX) };
        let approval = self.inner.store.approval(id)?;
        waits(&approval)?;
        let mut to_add = Vec::new();
        let mut chain = None;
        if let Some(always) = always.filter(|_| effect == Effect::Allow) {
            let session = self.inner.store.session(&id.session)?;
            let (call, asked) = self.recorded(&approval)?;
            let plan = always::plan(&self.inner, &session, &call, asked.updated_input.as_ref(), &always).await;
            let plan = plan.map_err(|why| Error::NoSuchRule { id: id.clone(), why })?;
            to_add = plan.rules.into_iter().map(|rule| Self::new_rule(rule, &session, always.reach)).collect();
            chain = Some(plan.chain);
        }
        let prepared = rules::prepare(&self.inner, id, to_add, &actor).await?;
        let resolve = Resolve { call: id.call, effect, reason, by: actor, rules: prepared.clone(), chain, keys };
        let done = self.command(&id.session, |reply| Command::Resolve(resolve, reply)).await.and_then(|taken| taken);
        let after = self.inner.store.approval(id)?;
        match done {
            Ok(()) => {
                let lost = |e: Error| Error::RuleLost { id: id.clone(), why: e.to_string() };
                rules::settle(&self.inner, &prepared, true).await.map_err(lost)?;
                Ok(after)
            }
            // why not settled: a task that is only slow may take the answer yet; the next daemon sees what became of it.
            Err(Error::Busy) => Err(Error::Busy),
            Err(e) => {
                rules::settle(&self.inner, &prepared, false).await?;
                // why: it may have been answered between the look and the asking; then that is the thing to tell.
                Err(waits(&after).err().unwrap_or(e))
            }
        }
    }

    fn new_rule(rule: String, session: &crate::model::Session, reach: Reach) -> NewRule {
        NewRule {
            session: (reach == Reach::Session).then(|| session.id.clone()),
            dir: (reach == Reach::Folder).then(|| session.cwd.clone()),
            effect: Effect::Allow,
            rule,
        }
    }

    /// The approval meant by a session's id, unique prefix or name and the call's number.
    pub fn approval(&self, session: &str, call: u64) -> Result<Approval, Error> {
        let session = self.inner.store.find(session)?;
        Ok(self.inner.store.approval(&ApprovalId { session, call })?)
    }

    /// Those that wait, oldest first, or all, newest first.
    pub fn approvals(
        &self,
        session: Option<SessionId>,
        waiting: bool,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Page<Approval>, Error> {
        Ok(self.inner.store.approvals(&ApprovalFilter { session, waiting, limit, cursor })?)
    }

    /// Follows approvals over all sessions: first what changed after `after` (`None`: only from now on), then each change as it comes.
    ///
    /// This is where notifications subscribe. What is given is the approval as it stands now, so a question that was asked and answered
    /// between two looks comes once, answered. The position given with it resumes after it, in another process too.
    pub fn approval_changes(&self, after: Option<u64>) -> Result<ApprovalChanges, Error> {
        // why first: a change between this and the reading wakes the follower.
        let wake = self.inner.store.watch();
        let after = match after {
            Some(n) => n,
            None => self.inner.store.newest_approval_change()?,
        };
        Ok(ApprovalChanges { manager: self.clone(), wake, after, ready: Vec::new().into_iter() })
    }
}

/// An error when an approval waits no more.
fn waits(a: &Approval) -> Result<(), Error> {
    match (a.state, &a.resolution) {
        (ApprovalState::Waiting, _) | (_, None) => Ok(()),
        (state, Some(r)) => Err(Error::Answered {
            id: a.id(),
            state: state.as_str(),
            by: who(&r.by),
            at: format_ms(r.at),
            reason: super::live::cut(&r.reason, 200),
        }),
    }
}

/// Who answered, in words: `the host`, or `operator (uid 1000, pid 77, /usr/bin/beadle, /dev/pts/3)`.
fn who(a: &Actor) -> String {
    if *a == Actor::host() {
        return "the host".to_owned();
    }
    let parts = [a.uid.map(|n| format!("uid {n}")), a.pid.map(|n| format!("pid {n}")), a.exe.clone(), a.tty.clone()];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { a.role.clone() } else { format!("{} ({})", a.role, parts.join(", ")) }
}

/// A follower of approvals. Slow ones cost nothing: they read the store later.
pub struct ApprovalChanges {
    manager: Manager,
    wake: broadcast::Receiver<Wake>,
    after: u64,
    ready: std::vec::IntoIter<(u64, Approval)>,
}

impl ApprovalChanges {
    /// Where it stands: everything up to here was given.
    pub fn position(&self) -> u64 {
        self.after
    }

    /// The next change with its position. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<(u64, Approval), Error> {
        loop {
            if let Some((at, approval)) = self.ready.next() {
                self.after = at;
                return Ok((at, approval));
            }
            let list = self.manager.inner.store.approvals_after(self.after, READ)?;
            if list.is_empty() {
                // why ignore: a lagged or silent channel is answered by reading again.
                let _ = tokio::time::timeout(POLL, self.wake.recv()).await;
            } else {
                self.ready = list.into_iter();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answered_is_told_with_where_from() {
        let a = Actor {
            role: "operator".into(),
            uid: Some(7),
            pid: None,
            exe: Some("/b".into()),
            tty: Some("/dev/pts/3".into()),
            ..Actor::default()
        };
        assert_eq!(who(&a), "operator (uid 7, /b, /dev/pts/3)");
        assert_eq!(who(&Actor::host()), "the host");
    }
}
