//! The projection of what policies keep: one row per key, changed in the transaction of the event that changes it.
//!
//! Called by the writer (`group`), `recover`, the readers and `verify`.

use rusqlite::{Connection, OptionalExtension, params};

use crate::model::{Envelope, Event, PluginStates, SessionId};
use crate::store::error::{Doing, Error, Result};

use super::read::Pool;
use super::rows::{SessionRow, raw_events};

const FOLDING: &str = "folding the state of policies";
const READING: &str = "reading the state of policies";

/// Folds one event that was just written into the rows of its session.
pub(super) fn fold(conn: &Connection, session_no: i64, e: &Envelope) -> Result<()> {
    let Event::PluginStateChanged(c) = &e.event else { return Ok(()) };
    let mut delete = conn.prepare("DELETE FROM plugin_states WHERE session_no = ?1 AND policy = ?2 AND key = ?3").doing(FOLDING)?;
    let mut set =
        conn.prepare("INSERT OR REPLACE INTO plugin_states (session_no, policy, key, value) VALUES (?1, ?2, ?3, ?4)").doing(FOLDING)?;
    for key in &c.deleted {
        delete.execute(params![session_no, c.policy, key]).doing(FOLDING)?;
    }
    for (key, value) in &c.set {
        match value.bytes() {
            Some(v) => set.execute(params![session_no, c.policy, key, v]).doing(FOLDING)?,
            None => delete.execute(params![session_no, c.policy, key]).doing(FOLDING)?,
        };
    }
    Ok(())
}

/// Makes a session's rows anew from its log.
pub(super) fn refold(conn: &Connection, row: &SessionRow) -> Result<()> {
    conn.execute("DELETE FROM plugin_states WHERE session_no = ?1", [row.no]).doing(FOLDING)?;
    raw_events(conn, row.no, 1, u64::MAX, |raw| {
        if raw.kind == b"plugin_state_changed" {
            fold(conn, row.no, &super::decode(&row.id, raw)?)?;
        }
        Ok(true)
    })
}

fn stored(conn: &Connection, session_no: i64) -> Result<PluginStates> {
    let mut stmt = conn.prepare("SELECT policy, key, value FROM plugin_states WHERE session_no = ?1").doing(READING)?;
    let mut rows = stmt.query([session_no]).doing(READING)?;
    let mut out = PluginStates::default();
    while let Some(r) = rows.next().doing(READING)? {
        let (policy, key, value) = (r.get(0).doing(READING)?, r.get(1).doing(READING)?, r.get(2).doing(READING)?);
        out.0.entry(policy).or_default().insert(key, value);
    }
    Ok(out)
}

/// What differs between a session's stored rows and the replay of its log, in words.
pub fn states_differences(conn: &Connection, session_no: i64, replay: &PluginStates) -> Result<Vec<String>> {
    let rows = stored(conn, session_no)?;
    let policies: std::collections::BTreeSet<&String> = rows.0.keys().chain(replay.0.keys()).collect();
    let differs = |p: &&&String| rows.0.get(**p) != replay.0.get(**p);
    Ok(policies.iter().filter(differs).map(|p| format!("the state that policy {p} keeps differs from the replay of the log")).collect())
}

impl Pool {
    /// What the policies of a session keep.
    pub fn plugin_states(&self, id: &SessionId) -> Result<PluginStates> {
        self.with(|c| {
            let no = c.query_row("SELECT no FROM sessions WHERE id = ?1", [id.as_str()], |r| r.get(0)).optional().doing(READING)?;
            stored(c, no.ok_or_else(|| Error::NotFound { given: id.to_string() })?)
        })
    }
}
