//! Sessions that belong together: those below one, and those above it, by the parents that they were created with.
//!
//! A parent is there before its children and never changes, so there is no circle; walks are bounded all the same. Called by the readers.

use rusqlite::Connection;

use crate::model::{Session, SessionId};
use crate::store::error::{Doing, Result};

use super::read::{Pool, session_of};

const READING: &str = "reading a tree of sessions";
/// Generations that are followed at most.
pub const MAX_GENERATIONS: u32 = 64;

impl Pool {
    /// The session and all below it with their depth, parents before children, the older first; at most `limit`.
    pub fn tree(&self, root: &SessionId, limit: usize) -> Result<Vec<(u32, Session)>> {
        const SQL: &str = "WITH RECURSIVE t (no, id, depth) AS (SELECT no, id, 0 FROM sessions WHERE id = ?1 UNION ALL \
                           SELECT s.no, s.id, t.depth + 1 FROM t JOIN sessions AS s ON s.parent = t.id WHERE t.depth < ?2) \
                           SELECT t.depth, t.id, s.doc FROM t JOIN sessions AS s ON s.no = t.no ORDER BY t.depth, t.no LIMIT ?3";
        self.with(|c| collect(c, SQL, root, limit))
    }

    /// Those above the session with their distance, the nearest first. One whose parent was removed is the uppermost.
    pub fn ancestors(&self, id: &SessionId) -> Result<Vec<(u32, Session)>> {
        const SQL: &str = "WITH RECURSIVE t (no, id, parent, depth) AS (SELECT no, id, parent, 0 FROM sessions WHERE id = ?1 UNION ALL \
                           SELECT s.no, s.id, s.parent, t.depth + 1 FROM t JOIN sessions AS s ON s.id = t.parent WHERE t.depth < ?2) \
                           SELECT t.depth, t.id, s.doc FROM t JOIN sessions AS s ON s.no = t.no WHERE t.depth > 0 ORDER BY t.depth LIMIT ?3";
        self.with(|c| collect(c, SQL, id, MAX_GENERATIONS as usize))
    }
}

fn collect(c: &Connection, sql: &str, id: &SessionId, limit: usize) -> Result<Vec<(u32, Session)>> {
    let mut stmt = c.prepare(sql).doing(READING)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = stmt.query((id.as_str(), MAX_GENERATIONS, limit)).doing(READING)?;
    let mut out = Vec::new();
    while let Some(r) = rows.next().doing(READING)? {
        let text = |at| r.get_ref(at).and_then(|v| Ok(v.as_str()?)).doing(READING);
        out.push((r.get(0).doing(READING)?, session_of(text(1)?, text(2)?)?));
    }
    Ok(out)
}
