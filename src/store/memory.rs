//! What is kept in memory: entries that outlive the log of the session which added them. An entry of a session is made in the transaction
//! of its event `memory_added`; what others change goes through [`Store::change_memory`].
//!
//! Called by `session::memory`.

use crate::model::{Actor, Memory, MemoryChange, MemoryFilter, MemoryHit, MemorySize};

use super::Store;
use super::batch::Ticket;
use super::error::Result;
use super::queue::Work;
use super::sqlite::Page;

impl Store {
    /// Answers how many entries changed; with a note on the host chain.
    pub fn change_memory(&self, change: MemoryChange, by: &Actor) -> Ticket<u64> {
        let (reply, ticket) = Ticket::new();
        self.0.queue.push(Work::Memory { change: Box::new(change), by: by.clone(), reply });
        ticket
    }

    /// One entry.
    pub fn memory(&self, id: &str) -> Result<Option<Memory>> {
        self.0.pool.memory(id)
    }

    /// Entries, newest first; at most 1,000 a page.
    pub fn memories(&self, filter: &MemoryFilter) -> Result<Page<Memory>> {
        self.0.pool.memories(filter)
    }

    /// Entries that have any word of the query, best first, then the newer. Blocks; no text of the query has a meaning but its words.
    pub fn search_memory(&self, query: &str, filter: &MemoryFilter) -> Result<Vec<MemoryHit>> {
        self.0.pool.search_memory(query, filter)
    }

    pub fn memory_size(&self, namespace: &str) -> Result<MemorySize> {
        self.0.pool.memory_size(namespace)
    }
}
