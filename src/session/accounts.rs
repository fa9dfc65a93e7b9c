//! Decisions joined with effects: a session's account, folded from its log.
//!
//! Called by `api`, through [`Manager`].

use super::{Error, Manager};
use crate::model::account::Account;
use crate::model::{Session, SessionId};

/// Events read at a time.
const PAGE: usize = 1000;

impl Manager {
    /// Decisions joined with effects, folded from a session's log.
    pub fn account(&self, id: &SessionId) -> Result<(Session, Account), Error> {
        let session = self.inner.store.session(id)?;
        let mut account = Account::default();
        let mut from = 1;
        while from <= session.last_seq {
            let page = self.inner.store.events(id, from, PAGE)?;
            let Some(last) = page.last() else { break };
            from = last.envelope.seq + 1;
            page.iter().map(|e| &e.envelope).filter(|e| e.seq <= session.last_seq).for_each(|e| account.apply(e));
        }
        Ok((session, account))
    }
}
