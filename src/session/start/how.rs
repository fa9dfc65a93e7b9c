//! How a session begins: at once, by waiting in the queue, or with its turn there.
//!
//! Called by `start`; `queue` says which.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::ids::Reserved;
use super::super::queue::Wish;
use super::super::{Error, Inner, failpoint};
use crate::agent::Driver;
use crate::config::Config;
use crate::model::{Handler, Mediation, Session, SessionClaimed, SessionId, UsageLimits};

pub(in crate::session) enum How<'a> {
    Now,
    /// Everything that can be checked is; its agent is not started.
    Wait(Wish),
    /// Its log is there, and ends with the entry into the queue.
    Claim(&'a Session, SessionClaimed),
}

impl How<'_> {
    /// Whether it gets the host's own tools; `now` is what the settings say. Of a queued session its first event says what it gets at most,
    /// and its claim that it gets less.
    pub(super) fn host_tools(&mut self, now: bool) -> bool {
        let Self::Claim(session, claim) = self else { return now };
        claim.without_host_tools = session.record.host_tools && !now;
        session.record.host_tools && now
    }

    /// Workers may run it where this host cannot look.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Wait(w) if w.handler == Handler::External)
    }

    /// Workers may be given it.
    pub(super) fn may_be_elsewhere(&self) -> bool {
        matches!(self, Self::Wait(w) if w.handler != Handler::Internal)
    }

    /// Whether whoever runs it tells what a limit needs.
    pub(super) fn can_hold(&self, limits: &UsageLimits, driver: &dyn Driver) -> Result<(), Error> {
        if !limits.needs_reports() || (driver.speaks() && !self.may_be_elsewhere()) {
            return Ok(());
        }
        let who = if driver.speaks() { "a worker" } else { "the agent" };
        let why = format!("cannot be held: {who} does not tell what it uses; limit its time");
        Err(Error::Refused { what: "a limit of cost, tokens or turns".to_owned(), why })
    }

    /// What a session must have that workers may be given: an agent that is known here is not theirs where its gate, or its program, is
    /// required.
    pub(super) fn bounds_workers(&self, driver: &dyn Driver, config: &Config) -> Result<(), Error> {
        if !self.may_be_elsewhere() || !driver.speaks() {
            return Ok(());
        }
        if config.require_mediation > Mediation::None {
            return Err(Error::Mediation {
                agent: driver.name().to_owned(),
                got: Mediation::None.as_str(),
                want: config.require_mediation.as_str(),
                hint: "workers of this lane run it without a gate: use an internal lane, or lower session.require_mediation",
            });
        }
        if config.require_attested {
            let why = "workers of this lane run a program that is not seen here; use an internal lane".to_owned();
            return Err(Error::NotAttested { agent: driver.name().to_owned(), program: "theirs".to_owned(), why });
        }
        Ok(())
    }

    pub(super) fn needs_room(&self) -> bool {
        !matches!(self, Self::Wait(_))
    }

    pub(super) fn name(&self) -> Option<String> {
        if let Self::Claim(s, _) = self { Some(s.name.clone()) } else { None }
    }

    /// Known already, and not looked up again: its name may be another session's by now.
    pub(super) fn parent(&self) -> Option<Option<SessionId>> {
        if let Self::Claim(s, _) = self { Some(s.record.parent.clone()) } else { None }
    }

    pub(super) fn reserve<'i>(&self, inner: &'i Inner, name: &str) -> Result<Reserved<'i>, Error> {
        if let Self::Claim(s, _) = self { Ok(inner.reserve_known(&s.id)) } else { inner.reserve(name) }
    }

    pub(super) fn last_seq(&self) -> u64 {
        if let Self::Claim(s, _) = self { s.last_seq } else { 0 }
    }

    pub(super) fn attempt(&self) -> u32 {
        if let Self::Claim(s, _) = self { s.attempt + 1 } else { 1 }
    }

    /// Labels are of a session's beginning: what policies would add to them later would hold nowhere.
    pub(super) fn same_labels(&self, labels: &BTreeMap<String, String>) -> Result<(), Error> {
        match self {
            Self::Claim(s, _) if s.labels != *labels => Err(Error::Refused {
                what: format!("session {}", s.id),
                why: "would get other labels from the policies than when it was queued; queue it anew".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Its claim is on record, and nothing was started.
    pub(super) fn claimed(&self, inner: &Inner, id: &SessionId) -> Result<(), Error> {
        let Self::Claim(s, _) = self else { return Ok(()) };
        failpoint::hit("queue_claimed");
        // why: folders of later attempts lie in the session's own, which a worker's attempt has not made.
        if s.attempt > 0 { Ok(crate::config::create_private(&inner.run_dir(id, 1))?) } else { Ok(()) }
    }

    /// The agent was not started. What becomes of one that waited is the queue's to say.
    pub(super) async fn failed(&self, inner: &Arc<Inner>, session: &Session, why: &Error) -> Result<(), Error> {
        if !matches!(self, Self::Claim(..)) {
            super::failed(inner, session, why.to_string()).await?;
        }
        Ok(())
    }
}
