//! What the writer looks at before it starts: how the last run left the database.
//!
//! A damaged session does not keep the others from running: it is listed, and appends to it are refused (see `Group::load`).

use rusqlite::{Connection, OptionalExtension};

use crate::model::{Session, Status};
use crate::store::chain::Hash;
use crate::store::error::{Doing, Error, Result};

use super::group::Ends;
use super::rows::{SessionRow, count, raw_events, session_rows};

/// The version whose folds made the stored projections.
const FOLDED_BY: &str = env!("CARGO_PKG_VERSION");
/// Most damaged sessions that are listed.
const MAX_DAMAGED: usize = 100;

/// Reads the host chain's end; after a crash checks the end of each live session's log; after a change of version folds all
/// projections anew. Gives the damaged sessions too.
pub(super) fn recover(conn: &Connection) -> Result<(Ends, Vec<String>)> {
    const DOING: &str = "reading how it was left";
    let last = conn
        .query_row("SELECT seq, hash, kind FROM host_events ORDER BY seq DESC LIMIT 1", [], |r| {
            Ok((count(r.get(0)?), r.get::<_, Vec<u8>>(1)?, r.get::<_, String>(2)?))
        })
        .optional()
        .doing(DOING)?;
    let (host_seq, head, clean) = last.map_or((0, Hash::ZERO.0.to_vec(), true), |(n, h, kind)| (n, h, kind == "closed"));
    let no_head = || Error::Damaged { session: "of the host".to_owned(), detail: "its last hash is not 32 bytes".to_owned() };
    let host_head = Hash::from_slice(&head).ok_or_else(no_head)?;
    let folded_by = conn.query_row("SELECT value FROM meta WHERE key = 'folded_by'", [], |r| r.get::<_, String>(0)).optional();
    let stale = folded_by.doing(DOING)?.as_deref() != Some(FOLDED_BY);
    let damaged = if stale || !clean { review(conn, stale)? } else { Vec::new() };
    let mut stmt = conn.prepare("SELECT session_no FROM removals").doing(DOING)?;
    let purging = stmt.query_map([], |r| r.get(0)).doing(DOING)?.collect::<rusqlite::Result<_>>().doing(DOING)?;
    let row = super::feed::newest(conn)?;
    Ok((Ends { host_seq, host_head, host_headed: host_seq, purging, row }, damaged))
}

/// Looks at every session in one transaction.
fn review(conn: &Connection, stale: bool) -> Result<Vec<String>> {
    const DOING: &str = "folding projections anew";
    conn.execute_batch("BEGIN IMMEDIATE").doing(DOING)?;
    let all = || {
        let (mut after, mut damaged) = (0, Vec::new());
        loop {
            let rows = session_rows(conn, after)?;
            let Some(last) = rows.last() else { break };
            after = last.no;
            for row in &rows {
                let live = row.status != Status::Ended.as_str();
                let checked = match (stale, live) {
                    (true, _) => refold(conn, row),
                    (false, true) => check_end(conn, row),
                    (false, false) => Ok(()),
                };
                match checked {
                    // why an archive too: the host runs without a file that somebody keeps elsewhere; what that session was stays as it stands.
                    Err(e @ (Error::Damaged { .. } | Error::Body { .. } | Error::Archive { .. })) => {
                        tracing::error!(code = e.code(), error = %e, "opening the store");
                        if damaged.len() < MAX_DAMAGED {
                            damaged.push(row.id.clone());
                        }
                    }
                    r => r?,
                }
            }
        }
        conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('folded_by', ?1)", [FOLDED_BY]).doing(DOING)?;
        conn.execute_batch("COMMIT").doing(DOING)?;
        Ok(damaged)
    };
    all().inspect_err(|_| drop(conn.execute_batch("ROLLBACK")))
}

/// The last event must be the one that the row says; the older ones are `verify`'s.
fn check_end(conn: &Connection, row: &SessionRow) -> Result<()> {
    let mut end = None;
    raw_events(conn, row.no, row.last_seq, 2, |e| {
        end = Some((e.seq, e.hash.to_vec()));
        Ok(true)
    })?;
    if end.is_some_and(|(seq, hash)| seq == row.last_seq && hash == row.head) {
        return Ok(());
    }
    Err(Error::Damaged { session: row.id.clone(), detail: format!("its log does not end at seq {} with the stored head", row.last_seq) })
}

fn refold(conn: &Connection, row: &SessionRow) -> Result<()> {
    check_end(conn, row)?;
    refold_all(conn, row).map(drop)
}

/// Makes every projection of a session anew from its log, and gives the session.
pub(super) fn refold_all(conn: &Connection, row: &SessionRow) -> Result<Session> {
    let damaged = |detail: String| Error::Damaged { session: row.id.clone(), detail };
    let mut session: Option<Session> = None;
    raw_events(conn, row.no, 1, u64::MAX, |raw| {
        let e = super::decode(&row.id, raw)?;
        match &mut session {
            Some(s) => s.fold(&e),
            None => session = Session::begin(&e),
        }
        Ok(true)
    })?;
    let s = session.ok_or_else(|| damaged("it does not begin with session_created".to_owned()))?;
    let doc = serde_json::to_string(&s).map_err(|e| damaged(e.to_string()))?;
    const SQL: &str = "UPDATE sessions SET doc = ?2, status = ?3, name = ?4, agent = ?5 WHERE no = ?1";
    conn.execute(SQL, (row.no, doc, s.status.as_str(), &s.name, &s.agent)).doing("folding projections anew")?;
    super::listing::refold(conn, row.no, &s)?;
    super::approvals::refold(conn, row)?;
    super::states::refold(conn, row)?;
    super::tasks::refold(conn, row)?;
    super::usage::refold(conn, row)?;
    super::attempts::refold(conn, row)?;
    Ok(s)
}
