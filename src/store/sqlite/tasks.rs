//! The projection of tasks: one row each, changed in the transaction of the event that changes it.
//!
//! The fold is [`Tasks`]'s; here is only where rows lie. Called by the writer (`group`), `recover`, the readers and `verify`.

use rusqlite::{Connection, params};

use crate::model::{Envelope, Event, SessionId, TASKS_MAX, Task, Tasks};
use crate::store::error::{Doing, Error, Result};

use super::read::Pool;
use super::rows::{SessionRow, count, int, raw_events};

const FOLDING: &str = "folding tasks";
const READING: &str = "reading tasks";

/// Folds one event that was just written into the rows of its session.
pub(super) fn fold(conn: &Connection, session_no: i64, e: &Envelope) -> Result<()> {
    if !matches!(e.event, Event::TaskUpdated(_)) {
        return Ok(());
    }
    let mut made = Tasks::default();
    made.fold(e);
    let Some(new) = made.0.into_values().next() else { return Ok(()) };
    // why the old numbers stay: a task keeps its place and its beginning.
    const SQL: &str = "INSERT INTO tasks (session_no, id, began, doc) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (session_no, id) DO UPDATE \
                       SET doc = json_set(excluded.doc, '$.began', began, '$.created_at', json_extract(doc, '$.created_at'))";
    let mut stmt = conn.prepare(SQL).doing(FOLDING)?;
    stmt.execute(params![session_no, new.id, int(new.began), doc(&new)]).doing(FOLDING).map(drop)
}

/// Makes a session's rows anew from its log.
pub(super) fn refold(conn: &Connection, row: &SessionRow) -> Result<()> {
    conn.execute("DELETE FROM tasks WHERE session_no = ?1", [row.no]).doing(FOLDING)?;
    let mut tasks = Tasks::default();
    raw_events(conn, row.no, 1, u64::MAX, |raw| {
        if raw.kind == b"task_updated" {
            tasks.fold(&super::decode(&row.id, raw)?);
        }
        Ok(true)
    })?;
    let mut stmt = conn.prepare("INSERT INTO tasks (session_no, id, began, doc) VALUES (?1, ?2, ?3, ?4)").doing(FOLDING)?;
    for t in tasks.0.values() {
        stmt.execute(params![row.no, t.id, int(t.began), doc(t)]).doing(FOLDING)?;
    }
    Ok(())
}

/// What differs between a session's stored rows and the replay of its log, in words.
pub fn task_differences(conn: &Connection, session_no: i64, replay: &Tasks) -> Result<Vec<String>> {
    let stored = rows(conn, session_no, usize::MAX)?;
    let mut missing = replay.0.clone();
    let mut out = Vec::new();
    for (id, began, text) in stored {
        let short: String = id.chars().take(64).collect();
        match missing.remove(&began) {
            Some(t) if t.id == id && serde_json::from_str::<Task>(&text).ok().as_ref() == Some(&t) => {}
            Some(_) => out.push(format!("task {short:?} differs from the replay of the log")),
            None => out.push(format!("there is a task {short:?} that the log does not have")),
        }
    }
    out.extend(missing.into_values().map(|t| format!("task {:?} is missing", t.id)));
    Ok(out)
}

fn rows(conn: &Connection, session_no: i64, limit: usize) -> Result<Vec<(String, u64, String)>> {
    const SQL: &str = "SELECT id, began, doc FROM tasks WHERE session_no = ?1 ORDER BY began LIMIT ?2";
    let mut stmt = conn.prepare(SQL).doing(READING)?;
    let read = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, count(r.get(1)?), r.get(2)?));
    let rows = stmt.query_map((session_no, i64::try_from(limit).unwrap_or(i64::MAX)), read).doing(READING)?;
    rows.collect::<rusqlite::Result<_>>().doing(READING)
}

fn doc(t: &Task) -> String {
    // why: plain data with string keys; serialising it cannot fail.
    serde_json::to_string(t).unwrap_or_default()
}

impl Pool {
    /// A session's tasks in the order in which they came.
    pub fn tasks(&self, id: &SessionId) -> Result<Vec<Task>> {
        let no = self.place(id)?.0;
        self.with(|c| {
            let read = |text: &str| {
                let bad = |e: serde_json::Error| Error::Damaged { session: id.to_string(), detail: format!("the row of a task ({e})") };
                serde_json::from_str(text).map_err(bad)
            };
            rows(c, no, TASKS_MAX)?.iter().map(|(_, _, text)| read(text)).collect()
        })
    }
}
