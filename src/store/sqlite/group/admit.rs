//! Whether appends may be made, looked at before anything is written; several at once are made all or none.
//!
//! Called by `group`.

use super::Group;
use crate::model::{Event, SessionId};
use crate::store::batch::{Append, Appended};
use crate::store::error::{Error, Result};
use crate::store::sqlite::order::{check_order, check_status, is_claim};

impl Group<'_> {
    /// All or none: each is checked before the first is written. They are of different sessions, so none changes what another is checked by.
    pub(super) fn append_all(&mut self, all: &mut [Append]) -> Result<Vec<Appended>> {
        for a in all.iter_mut() {
            self.check(a)?;
        }
        all.iter_mut().map(|a| self.append(a)).collect()
    }

    /// Whether an append may be made, and whether its session is there already. Changes nothing.
    pub(super) fn check(&mut self, a: &mut Append) -> Result<bool> {
        let known = self.knows(&a.session)?;
        let created = a.events.first().is_some_and(|e| matches!(e.envelope.event, Event::SessionCreated(_)));
        let again = a.events.iter().skip(1).any(|e| matches!(e.envelope.event, Event::SessionCreated(_)));
        if !known {
            if let Some(expected) = a.expected.filter(|e| *e != 0) {
                return Err(Error::Conflict { session: a.session.clone(), expected, actual: 0 });
            }
            if again || !created || a.expected != Some(0) {
                return Err(Error::BadBeginning { session: a.session.clone() });
            }
            check_order(a, 0, 0, None)?;
            check_status(a, None)?;
        } else {
            let e = self.cache.get(&a.session).ok_or(Error::Closed)?;
            if let Some(expected) = a.expected.filter(|x| *x != e.last_seq()) {
                return Err(Error::Conflict { session: a.session.clone(), expected, actual: e.last_seq() });
            }
            if created || again {
                return Err(Error::BadBeginning { session: a.session.clone() });
            }
            let (attempt, no) = if is_claim(a) { (0, 0) } else { (e.frame_attempt, e.frame_no) };
            check_order(a, attempt, no, e.cursor)?;
            super::written::admit(a, &e.session)?;
            check_status(a, Some(&e.session))?;
        }
        Ok(known)
    }

    /// Brings a session into the cache; false where there is none.
    pub(super) fn knows(&mut self, id: &SessionId) -> Result<bool> {
        match self.load(id) {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }
}
