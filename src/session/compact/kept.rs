//! The conversation as it was before a compaction: the copy that was kept with it.
//!
//! Called by `api`, through `Manager`.

use crate::model::{Event, SessionId};
use crate::session::{Error, Manager};
use crate::store;

impl Manager {
    /// The agent's record, without secrets, as it was before the compaction that this event tells of. Blocks.
    pub fn original(&self, id: &SessionId, seq: u64) -> Result<Vec<u8>, Error> {
        let none = |why: &str| Error::NoOriginal { session: id.clone(), seq, why: why.to_owned() };
        let found = self.inner.store.events(id, seq, 1)?.into_iter().next().filter(|e| e.envelope.seq == seq);
        let Some(Event::ContextCompacted(compacted)) = found.map(|e| e.envelope.event) else {
            return Err(none("it tells of no compaction; `beadle compact show` lists those that there were"));
        };
        let host = compacted.host.ok_or_else(|| none("the agent did it by itself, and keeps its own record"))?;
        let Some(copy) = host.copy else {
            return Err(none(&format!("it had over {} bytes; the agent's own record is {}", store::MAX_BLOB, host.original)));
        };
        let digest = copy.parse().map_err(|_| none("its digest is damaged; run `beadle verify`"))?;
        Ok(self.inner.store.blob(&digest)?)
    }
}
