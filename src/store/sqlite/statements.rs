//! What the writer says to the database again and again, prepared once. Called by `group`.

use rusqlite::{Connection, Statement};

use super::rows::SessionRow;

pub(super) struct Statements<'c> {
    pub begin: Statement<'c>,
    pub commit: Statement<'c>,
    pub load: Statement<'c>,
    pub tail: Statement<'c>,
    pub event: Statement<'c>,
    pub frame: Statement<'c>,
    pub taken: Statement<'c>,
    pub session: Statement<'c>,
    pub update: Statement<'c>,
    pub status: Statement<'c>,
    pub host: Statement<'c>,
}

impl<'c> Statements<'c> {
    pub(super) fn new(c: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            begin: c.prepare("BEGIN IMMEDIATE")?,
            commit: c.prepare("COMMIT")?,
            load: c.prepare(&SessionRow::by_id_sql())?,
            tail: c.prepare("SELECT seq, hash FROM events WHERE session_no = ?1 ORDER BY seq DESC LIMIT 1")?,
            event: c.prepare(
                "INSERT INTO events (session_no, seq, at, attempt, kind, hash, salt, body, id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?,
            frame: c.prepare("INSERT INTO frames (session_no, attempt, no, bytes) VALUES (?1, ?2, ?3, ?4)")?,
            // why: frames of earlier attempts can never be sent again.
            taken: c.prepare("DELETE FROM frames WHERE session_no = ?1 AND (attempt < ?2 OR (attempt = ?2 AND no <= ?3))")?,
            session: c.prepare(
                "INSERT INTO sessions (id, name, agent, status, created_at, last_seq, head, headed_seq, frame_attempt, frame_no, doc) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 0, 0, '{}')",
            )?,
            update: c.prepare(
                "UPDATE sessions SET last_seq = ?2, head = ?3, headed_seq = ?4, cursor_attempt = ?5, cursor_offset = ?6, \
                 frame_attempt = ?7, frame_no = ?8, doc = ?9, active_at = ?10, cost = ?11 WHERE no = ?1",
            )?,
            status: c.prepare("UPDATE sessions SET status = ?2, outcome = ?3 WHERE no = ?1")?,
            host: c.prepare("INSERT INTO host_events (seq, at, kind, hash, salt, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?,
        })
    }
}
