//! What is kept in memory over sessions, and what a session recalls of it.
//!
//! Invariants: secrets are masked before anything is kept, as in events; what a session adds is an event of its log, made in the same
//! transaction as the entry; a session's recall is an event before it gets the answer; a session reaches one namespace, its own.
//!
//! Called by `api`, and by `host_tools` for what an agent adds and recalls itself.

use std::path::{Path, PathBuf};

use super::keep::blocking;
use super::{Error, Manager, live, mask, start};
use crate::model::{
    Actor, MEMORY_BYTES_MAX, MEMORY_HITS_MAX, MEMORY_QUERY_MAX, Memory, MemoryAdded, MemoryChange, MemoryError, MemoryFilter, MemoryHit,
    MemoryRecalled, MemoryTier, NAMESPACE_ENTRIES_MAX, Session, SessionId, check_memory, memory_id,
};

/// Most entries that one request removes.
pub const MEMORY_REMOVED_MAX: usize = 1_000;

/// What is to be kept.
#[derive(Debug, Clone, Default)]
pub struct NewMemory {
    /// Where nobody says one: that of the session, else that of the folder.
    pub namespace: Option<String>,
    pub cwd: Option<PathBuf>,
    /// The session on whose log it goes.
    pub session: Option<SessionId>,
    pub tier: MemoryTier,
    pub text: String,
    pub tags: Vec<String>,
}

/// The namespace of a folder: the repository that it lies in, else the folder itself.
pub fn namespace_of(cwd: &Path) -> String {
    let cwd = std::fs::canonicalize(cwd).unwrap_or_else(|_| cwd.to_owned());
    start::repository::of(&cwd).map_or_else(|| cwd.to_string_lossy().into_owned(), |r| r.root)
}

/// The namespace of a session: as it was said at its start, else its repository or folder; tenants are kept apart.
pub fn namespace(s: &Session) -> String {
    let place = s.record.repository.as_ref().map_or(s.cwd.as_str(), |r| r.root.as_str());
    s.record.tenant.as_ref().map_or_else(|| place.to_owned(), |t| of_tenant(t, place))
}

/// Escaped, so that no tenant's name may run on into the folder and be another tenant's namespace.
fn of_tenant(tenant: &str, place: &str) -> String {
    format!("{}: {place}", tenant.replace('%', "%25").replace(':', "%3A"))
}

/// In the words of a session's log.
pub(super) fn added(m: Memory) -> MemoryAdded {
    MemoryAdded { id: m.id, tier: m.tier, namespace: m.namespace, text: m.text, tags: m.tags }
}

impl Manager {
    /// Keeps something. Given a session, it is that session's: an event of its log.
    pub async fn add_memory(&self, new: NewMemory, by: Actor) -> Result<Memory, Error> {
        let _one = self.inner.changing_memory.lock().await;
        let session = new.session.as_ref().map(|id| self.inner.store.session(id)).transpose()?;
        let place = match (new.namespace, &session, new.cwd) {
            (Some(n), _, _) => n,
            (None, Some(s), _) => namespace(s),
            (None, None, Some(cwd)) => tokio::task::block_in_place(|| namespace_of(&cwd)),
            (None, None, None) => {
                return Err(Error::Refused { what: "memory".to_owned(), why: "needs a namespace, a folder or a session".to_owned() });
            }
        };
        if new.tier == MemoryTier::Session && session.is_none() {
            let why = "needs a session: only that one would ever see it; give one, or another tier".to_owned();
            return Err(Error::Refused { what: "the tier session".to_owned(), why });
        }
        let mut memory = self.entry(place, new.tier, &new.text, &new.tags)?;
        match session {
            None => self.inner.store.change_memory(MemoryChange::Add(memory.clone()), &by).await.map(drop)?,
            Some(s) => {
                self.append_to(&s.id, vec![added(memory.clone()).into()]).await?;
                let made = self.inner.store.memory(&memory.id)?;
                memory = made.ok_or(MemoryError::NoEntry(memory.id))?;
            }
        }
        Ok(memory)
    }

    /// An entry that may be kept, without secrets. It is when it is written down.
    pub(super) fn entry(&self, place: String, tier: MemoryTier, text: &str, tags: &[String]) -> Result<Memory, Error> {
        check_memory(&place, text, tags)?;
        let memory = Memory {
            id: memory_id(&*self.inner.entropy),
            namespace: place,
            tier,
            text: mask::text(text).into_owned(),
            tags: tags.iter().map(|t| mask::text(t).into_owned()).collect(),
            session: None,
            seq: None,
            created_at: self.inner.clock.wall_ms(),
        };
        self.has_room(&memory)?;
        Ok(memory)
    }

    /// Whether the caps allow one more, with the oldest working entries gone that may go.
    fn has_room(&self, m: &Memory) -> Result<(), Error> {
        let size = self.inner.store.memory_size(&m.namespace)?;
        if size.entries >= NAMESPACE_ENTRIES_MAX && size.working == 0 {
            return Err(MemoryError::NamespaceFull { namespace: live::cut(&m.namespace, 200) }.into());
        }
        if size.bytes.saturating_sub(size.working_bytes) + m.bytes() > MEMORY_BYTES_MAX {
            return Err(MemoryError::Full { bytes: size.bytes }.into());
        }
        Ok(())
    }

    /// Searches for a person: leaves no event.
    pub async fn search_memory(&self, query: &str, filter: MemoryFilter) -> Result<Vec<MemoryHit>, Error> {
        if query.len() > MEMORY_QUERY_MAX {
            return Err(MemoryError::LongQuery(query.len()).into());
        }
        let (store, query) = (self.inner.store.clone(), query.to_owned());
        blocking(move || store.search_memory(&query, &filter)).await
    }

    /// Searches for a session, in its own namespace; answers once the log says what was found.
    pub async fn recall(
        &self,
        id: &SessionId,
        query: &str,
        tier: Option<MemoryTier>,
        tag: Option<String>,
        limit: usize,
    ) -> Result<Vec<MemoryHit>, Error> {
        let session = self.inner.store.session(id)?;
        let (event, found) = self.recalled(&session, query, tier, tag, limit).await?;
        self.append_to(id, vec![event.into()]).await?;
        Ok(found)
    }

    /// What a session finds in its own namespace, and the event that says so.
    pub(super) async fn recalled(
        &self,
        session: &Session,
        query: &str,
        tier: Option<MemoryTier>,
        tag: Option<String>,
        limit: usize,
    ) -> Result<(MemoryRecalled, Vec<MemoryHit>), Error> {
        let place = namespace(session);
        let filter = MemoryFilter {
            namespace: Some(place.clone()),
            tier,
            tag,
            seen_by: Some(session.id.clone()),
            limit: limit.clamp(1, MEMORY_HITS_MAX),
            ..MemoryFilter::default()
        };
        let found = self.search_memory(query, filter).await?;
        let event = MemoryRecalled {
            tier: tier.map_or("any", MemoryTier::as_str).to_owned(),
            namespace: place,
            hits: found.len() as u64,
            // why cut: masked it may be longer than it was, and what is over an excerpt would be a payload that nobody keeps.
            query: Some(live::excerpt(live::cut(&mask::text(query), live::EXCERPT).into_bytes()).0),
            ids: found.iter().map(|h| h.memory.id.clone()).collect(),
        };
        Ok((event, found))
    }

    /// Removes entries; gives those that were there.
    pub async fn remove_memory(&self, ids: Vec<String>, by: &Actor) -> Result<Vec<Memory>, Error> {
        let _one = self.inner.changing_memory.lock().await;
        let mut found = Vec::new();
        for id in ids.iter().take(MEMORY_REMOVED_MAX) {
            let m = self.inner.store.memory(id)?;
            found.push(m.ok_or_else(|| MemoryError::NoEntry(live::cut(id, 80)))?);
        }
        self.inner.store.change_memory(MemoryChange::Remove(ids), by).await?;
        Ok(found)
    }

    /// Takes a text out of every entry that holds it; gives how many did.
    pub(super) async fn erase_memory(&self, text: &str, by: &Actor) -> Result<u64, Error> {
        Ok(self.inner.store.change_memory(MemoryChange::Erase(text.to_owned()), by).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_share_no_namespace() {
        assert_eq!(of_tenant("acme", "/w"), "acme: /w");
        assert_ne!(of_tenant("x: /a", "/b"), of_tenant("x", "/a: /b"));
        assert_ne!(of_tenant("x%3A /a", "/b"), of_tenant("x: /a", "/b"));
    }
}
