//! The projection of approvals: one row per question to a person, changed in the transaction of the events that change it.
//!
//! The fold itself is [`Approval`]'s; here is only where rows lie. Called by the writer (`group`), `recover`, the readers and `verify`.

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use crate::model::{Approval, ApprovalId, ApprovalState, Approvals, Envelope, Event, SessionId};
use crate::store::error::{Doing, Error, Result};

use super::read::{MAX_SESSIONS, Page, Pool};
use super::rows::{SessionRow, count, int, raw_events};

const FOLDING: &str = "folding approvals";
const LISTING: &str = "listing approvals";
const WAITING: &str = ApprovalState::Waiting.as_str();

/// Which approvals a listing gives.
#[derive(Debug, Clone, Default)]
pub struct ApprovalFilter {
    pub session: Option<SessionId>,
    /// True: only those that wait, oldest first. False: all, newest first.
    pub waiting: bool,
    /// At most 1,000; 0 means 50.
    pub limit: usize,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

/// Folds one event that was just written as row `row` into the rows of its session. Only the engine's own errors come back: the event
/// is the truth, and a row that cannot be read is found by `verify`.
pub(super) fn fold(conn: &Connection, session_no: i64, row: u64, e: &Envelope) -> Result<()> {
    match &e.event {
        Event::ApprovalRequested(a) => {
            let Some(begun) = Approval::begin(e) else { return Ok(()) };
            // why: a second question about the same call changes nothing, as in the fold.
            const SQL: &str = "INSERT INTO approvals (no, session_no, call, state, changed, doc) VALUES (?1, ?2, ?3, ?4, ?1, ?5) \
                               ON CONFLICT (session_no, call) DO NOTHING";
            let mut stmt = conn.prepare(SQL).doing(FOLDING)?;
            stmt.execute(params![int(row), session_no, int(a.call), begun.state.as_str(), doc(&begun)]).doing(FOLDING).map(drop)
        }
        Event::ApprovalEndorsed(x) => answer(conn, session_no, row, Some(x.call), e),
        Event::ApprovalResolved(r) => answer(conn, session_no, row, Some(r.call), e),
        Event::SessionEnded(_) => answer(conn, session_no, row, None, e),
        _ => Ok(()),
    }
}

/// Folds an answer, or a half of one, into the one that waits under `call`, or into all that wait.
fn answer(conn: &Connection, session_no: i64, row: u64, call: Option<u64>, e: &Envelope) -> Result<()> {
    const FIND: &str = "SELECT no, doc FROM approvals WHERE session_no = ?1 AND state = ?2 AND (?3 IS NULL OR call = ?3)";
    const CHANGE: &str = "UPDATE approvals SET state = ?2, changed = ?3, doc = ?4 WHERE no = ?1";
    let mut find = conn.prepare(FIND).doing(FOLDING)?;
    let found = find.query_map(params![session_no, WAITING, call.map(int)], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?)));
    let found: Vec<_> = found.and_then(Iterator::collect::<rusqlite::Result<_>>).doing(FOLDING)?;
    for (no, text) in found {
        match serde_json::from_str::<Approval>(&text) {
            Ok(mut a) => {
                if a.fold(e) {
                    conn.execute(CHANGE, params![no, a.state.as_str(), int(row), doc(&a)]).doing(FOLDING)?;
                }
            }
            Err(error) => tracing::error!(session = %e.session, %error, "the row of an approval cannot be read; run `beadle verify`"),
        }
    }
    Ok(())
}

/// Makes a session's rows anew from its log.
pub(super) fn refold(conn: &Connection, row: &SessionRow) -> Result<()> {
    conn.execute("DELETE FROM approvals WHERE session_no = ?1", [row.no]).doing(FOLDING)?;
    raw_events(conn, row.no, 1, u64::MAX, |raw| {
        if matches!(raw.kind, b"approval_requested" | b"approval_endorsed" | b"approval_resolved" | b"session_ended") {
            fold(conn, row.no, count(raw.row), &super::decode(&row.id, raw)?)?;
        }
        Ok(true)
    })
}

/// What differs between a session's stored rows and the replay of its log, in words.
pub fn differences(conn: &Connection, session_no: i64, replay: &Approvals) -> Result<Vec<String>> {
    const DOING: &str = "reading approvals";
    let mut stmt = conn.prepare("SELECT call, state, doc FROM approvals WHERE session_no = ?1 ORDER BY call").doing(DOING)?;
    let mut rows = stmt.query([session_no]).doing(DOING)?;
    let (mut out, mut missing) = (Vec::new(), replay.0.clone());
    while let Some(r) = rows.next().doing(DOING)? {
        let call = count(r.get(0).doing(DOING)?);
        let (state, text): (String, String) = (r.get(1).doing(DOING)?, r.get(2).doing(DOING)?);
        match missing.remove(&call) {
            None => out.push(format!("there is an approval of call {call} that the log does not have")),
            Some(a) if a.state.as_str() != state || serde_json::from_str::<Approval>(&text).ok().as_ref() != Some(&a) => {
                out.push(format!("the approval of call {call} differs from the replay of the log"));
            }
            Some(_) => {}
        }
    }
    out.extend(missing.into_keys().map(|call| format!("the approval of call {call} is missing")));
    Ok(out)
}

fn doc(a: &Approval) -> String {
    // why: plain data with string keys; serialising it cannot fail.
    serde_json::to_string(a).unwrap_or_default()
}

fn read(session: &str, text: &str) -> Result<Approval> {
    serde_json::from_str(text)
        .map_err(|e| Error::Damaged { session: session.to_owned(), detail: format!("the row of an approval cannot be read ({e})") })
}

impl Pool {
    /// One approval, whatever its state.
    pub fn approval(&self, id: &ApprovalId) -> Result<Approval> {
        const SQL: &str = "SELECT a.doc FROM approvals a JOIN sessions s ON s.no = a.session_no WHERE s.id = ?1 AND a.call = ?2";
        self.with(|c| {
            let found = c.query_row(SQL, params![id.session.as_str(), int(id.call)], |r| r.get::<_, String>(0)).optional();
            let text = found.doing("reading an approval")?.ok_or_else(|| Error::NoApproval { id: id.to_string() })?;
            read(id.session.as_str(), &text)
        })
    }

    /// A page of approvals over all sessions, or of one.
    pub fn approvals(&self, f: &ApprovalFilter) -> Result<Page<Approval>> {
        let limit = if f.limit == 0 { 50 } else { f.limit.min(MAX_SESSIONS) };
        let beyond = match f.cursor.as_deref() {
            None if f.waiting => 0,
            None => i64::MAX,
            Some(t) => t.parse().map_err(|_| Error::BadCursor { given: t.chars().take(40).collect() })?,
        };
        let mut values: Vec<rusqlite::types::Value> = vec![beyond.into()];
        // why `'waiting'` in the text: the partial index is taken only for a constant.
        let (condition, order) = if f.waiting { ("a.no > ? AND a.state = 'waiting'", "ASC") } else { ("a.no < ?", "DESC") };
        let mut sql = format!("SELECT a.no, s.id, a.doc FROM approvals a JOIN sessions s ON s.no = a.session_no WHERE {condition}");
        if let Some(id) = &f.session {
            sql.push_str(" AND s.id = ?");
            values.push(id.as_str().to_owned().into());
        }
        sql.push_str(&format!(" ORDER BY a.no {order} LIMIT {}", limit + 1));
        self.with(|c| {
            let mut stmt = c.prepare(&sql).doing(LISTING)?;
            let mut rows = stmt.query(params_from_iter(values)).doing(LISTING)?;
            let (mut items, mut last, mut next) = (Vec::new(), 0, None);
            while let Some(r) = rows.next().doing(LISTING)? {
                if items.len() == limit {
                    next = Some(last.to_string());
                    break;
                }
                let text = |at| r.get_ref(at).and_then(|v| Ok(v.as_str()?)).doing(LISTING);
                last = r.get::<_, i64>(0).doing(LISTING)?;
                items.push(read(text(1)?, text(2)?)?);
            }
            Ok(Page { items, next })
        })
    }

    /// How many wait, over all sessions.
    pub fn waiting_approvals(&self) -> Result<u64> {
        self.with(|c| c.query_row("SELECT count(*) FROM approvals WHERE state = 'waiting'", [], |r| r.get(0)).map(count).doing(LISTING))
    }

    /// The newest change of any approval: where a follower begins.
    pub fn newest_approval_change(&self) -> Result<u64> {
        self.with(|c| c.query_row("SELECT coalesce(max(changed), 0) FROM approvals", [], |r| r.get(0)).map(count).doing(LISTING))
    }

    /// Approvals that changed after `change`, in the order of their newest change, each as it is now. About `limit`: those that one
    /// event changed together are never parted.
    pub fn approvals_after(&self, change: u64, limit: usize) -> Result<Vec<(u64, Approval)>> {
        const SQL: &str = "SELECT a.changed, s.id, a.doc FROM approvals a JOIN sessions s ON s.no = a.session_no \
                           WHERE a.changed > ?1 AND a.changed <= (SELECT max(changed) FROM \
                           (SELECT changed FROM approvals WHERE changed > ?1 ORDER BY changed LIMIT ?2)) ORDER BY a.changed, a.no";
        self.with(|c| {
            let mut stmt = c.prepare(SQL).doing(LISTING)?;
            let mut rows = stmt.query((int(change), int(limit.min(MAX_SESSIONS) as u64))).doing(LISTING)?;
            let mut out = Vec::new();
            while let Some(r) = rows.next().doing(LISTING)? {
                let text = |at| r.get_ref(at).and_then(|v| Ok(v.as_str()?)).doing(LISTING);
                out.push((count(r.get(0).doing(LISTING)?), read(text(1)?, text(2)?)?));
            }
            Ok(out)
        })
    }
}
