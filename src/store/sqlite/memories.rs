//! Rows of memory and their full text index, changed together.
//!
//! Invariants: the index has exactly the rows of the table; words of a query are quoted, so that none of them is an operator; of equal rank
//! the newer comes first. Called by the writer (`group`, `archives`) and the readers.

use rusqlite::{Connection, OptionalExtension, params};

use crate::model::{
    Actor, Envelope, Event, MEMORY_BYTES_MAX, MEMORY_HITS_MAX, Memory, MemoryChange, MemoryFilter, MemoryHit, MemorySize, MemoryTier,
    NAMESPACE_ENTRIES_MAX, SessionId,
};
use crate::store::erase;
use crate::store::error::{Doing, Error, Result};
use crate::store::host::{HostEvent, MemoryChanged};

use super::read::{MAX_SESSIONS, Page, Pool};
use super::rows::{count, int};

const CHANGING: &str = "changing what is kept in memory";
const READING: &str = "reading what is kept in memory";
/// Most words of a query that count.
const WORDS_MAX: usize = 32;
/// Most ids that one record of the host chain names.
const TOLD_MAX: usize = 100;

const COLUMNS: &str = "m.id, m.namespace, m.tier, m.text, m.tags, m.session, m.seq, m.created_at, m.no";

fn read(r: &rusqlite::Row<'_>) -> rusqlite::Result<(i64, Memory)> {
    let (tier, tags): (String, String) = (r.get(2)?, r.get(4)?);
    let m = Memory {
        id: r.get(0)?,
        namespace: r.get(1)?,
        // why lenient: what was changed by hand is shown as kept longest, never lost.
        tier: MemoryTier::parse(&tier).unwrap_or_default(),
        text: r.get(3)?,
        tags: serde_json::from_str(&tags).unwrap_or_default(),
        session: r.get::<_, Option<String>>(5)?.and_then(|s| SessionId::parse(&s).ok()),
        seq: r.get::<_, Option<i64>>(6)?.map(count),
        created_at: r.get(7)?,
    };
    Ok((r.get(8)?, m))
}

fn tags_of(m: &Memory) -> String {
    // why: a list of texts; serialising it cannot fail.
    serde_json::to_string(&m.tags).unwrap_or_default()
}

fn insert(conn: &Connection, m: &Memory) -> Result<()> {
    const SQL: &str = "INSERT OR IGNORE INTO memories (id, namespace, tier, text, tags, session, seq, bytes, created_at) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let tags = tags_of(m);
    let session = m.session.as_ref().map(SessionId::as_str);
    let row = params![m.id, m.namespace, m.tier.as_str(), m.text, tags, session, m.seq.map(int), int(m.bytes()), m.created_at];
    if conn.prepare(SQL).and_then(|mut s| s.execute(row)).doing(CHANGING)? == 0 {
        return Ok(());
    }
    let no = conn.last_insert_rowid();
    index(conn, no, &m.text, &tags)?;
    make_room(conn, &m.namespace, no)
}

fn index(conn: &Connection, no: i64, text: &str, tags: &str) -> Result<()> {
    conn.execute("INSERT INTO memory_words (rowid, text, tags) VALUES (?1, ?2, ?3)", params![no, text, tags]).doing(CHANGING).map(drop)
}

/// Takes a row out of the index, which must be told what it had.
fn unindex(conn: &Connection, no: i64) -> Result<()> {
    const SQL: &str =
        "INSERT INTO memory_words (memory_words, rowid, text, tags) SELECT 'delete', no, text, tags FROM memories WHERE no = ?1";
    conn.execute(SQL, [no]).doing(CHANGING).map(drop)
}

fn delete(conn: &Connection, no: i64) -> Result<()> {
    unindex(conn, no)?;
    conn.execute("DELETE FROM memories WHERE no = ?1", [no]).doing(CHANGING).map(drop)
}

/// The oldest of the tier `working` go while there are more entries, or bytes, than there may be, and never the one just made.
fn make_room(conn: &Connection, namespace: &str, made: i64) -> Result<()> {
    const OLDEST: &str = "SELECT no, bytes FROM memories WHERE namespace = ?1 AND tier = 'working' AND no <> ?2 ORDER BY no LIMIT 1";
    let mut size = size(conn, namespace)?;
    while size.entries > NAMESPACE_ENTRIES_MAX || size.bytes > MEMORY_BYTES_MAX {
        let oldest = conn.query_row(OLDEST, params![namespace, made], |r| Ok((r.get(0)?, count(r.get(1)?)))).optional().doing(CHANGING)?;
        let Some((no, bytes)) = oldest else { break };
        delete(conn, no)?;
        (size.entries, size.bytes) = (size.entries.saturating_sub(1), size.bytes.saturating_sub(bytes));
    }
    Ok(())
}

/// Makes the entry that an event tells of.
pub(super) fn fold(conn: &Connection, e: &Envelope) -> Result<()> {
    let Event::MemoryAdded(m) = &e.event else { return Ok(()) };
    let memory = Memory {
        id: m.id.clone(),
        namespace: m.namespace.clone(),
        tier: m.tier,
        text: m.text.clone(),
        tags: m.tags.clone(),
        session: Some(e.session.clone()),
        seq: Some(e.seq),
        created_at: e.at,
    };
    insert(conn, &memory)
}

/// What a session kept for itself goes with it.
pub(super) fn forget(conn: &Connection, id: &SessionId) -> Result<()> {
    for no in numbers(conn, "SELECT no FROM memories WHERE session = ?1 AND tier = 'session'", id.as_str())? {
        delete(conn, no)?;
    }
    Ok(())
}

/// The event that made an entry has another body now: the entry follows it, and goes where nothing is left of its words.
pub(super) fn redacted(conn: &Connection, session: &str, seq: u64, body: &[u8]) -> Result<()> {
    const SQL: &str = "SELECT no FROM memories WHERE session = ?1 AND seq = ?2";
    let no = conn.query_row(SQL, (session, int(seq)), |r| r.get::<_, i64>(0)).optional().doing(CHANGING)?;
    let Some(no) = no else { return Ok(()) };
    match serde_json::from_slice::<crate::model::MemoryAdded>(body) {
        Ok(m) if m.text != erase::MARK => rewrite(conn, no, &m.text, &m.tags),
        _ => delete(conn, no),
    }
}

fn rewrite(conn: &Connection, no: i64, text: &str, tags: &[String]) -> Result<()> {
    unindex(conn, no)?;
    let bytes = text.len() + tags.iter().map(String::len).sum::<usize>();
    let tags = serde_json::to_string(tags).unwrap_or_default();
    const SQL: &str = "UPDATE memories SET text = ?2, tags = ?3, bytes = ?4 WHERE no = ?1";
    conn.execute(SQL, params![no, text, tags, int(bytes as u64)]).doing(CHANGING)?;
    index(conn, no, text, &tags)
}

fn numbers(conn: &Connection, sql: &str, of: &str) -> Result<Vec<i64>> {
    let mut stmt = conn.prepare(sql).doing(READING)?;
    let rows = stmt.query_map([of], |r| r.get(0)).doing(READING)?;
    rows.collect::<rusqlite::Result<_>>().doing(READING)
}

/// Makes a change; gives how many entries it touched, and what the host chain is told.
pub(super) fn change(conn: &Connection, change: &MemoryChange, by: &Actor) -> Result<(u64, Option<HostEvent>)> {
    let (act, ids) = match change {
        MemoryChange::Add(m) => {
            insert(conn, m)?;
            ("added", vec![m.id.clone()])
        }
        MemoryChange::Remove(ids) => {
            let mut gone = Vec::new();
            for id in ids {
                if let Some(no) = numbers(conn, "SELECT no FROM memories WHERE id = ?1", id)?.first() {
                    delete(conn, *no)?;
                    gone.push(id.clone());
                }
            }
            ("removed", gone)
        }
        MemoryChange::Erase(text) => ("erased", erase_text(conn, text)?),
    };
    let n = ids.len() as u64;
    let told = ids.into_iter().take(TOLD_MAX).collect();
    let event = MemoryChanged { act: act.to_owned(), ids: told, entries: n, by: by.clone() };
    Ok((n, (n > 0).then_some(HostEvent::MemoryChanged(event))))
}

/// Takes a text out of every entry that holds it in whatever form; gives their ids.
fn erase_text(conn: &Connection, text: &str) -> Result<Vec<String>> {
    if text.is_empty() {
        return Ok(vec![]);
    }
    let forms = erase::forms(text);
    let any: Vec<String> = (1..=forms.len()).map(|n| format!("instr(text, ?{n}) > 0")).collect();
    // why all that have tags: these are stored as JSON, in which a form may stand escaped once more.
    let sql = format!("SELECT no FROM memories WHERE {} OR tags <> '[]'", any.join(" OR "));
    let holding: Vec<i64> = {
        let mut stmt = conn.prepare(&sql).doing(READING)?;
        let rows = stmt.query_map(rusqlite::params_from_iter(&forms), |r| r.get(0)).doing(READING)?;
        rows.collect::<rusqlite::Result<_>>().doing(READING)?
    };
    let sql = format!("SELECT {COLUMNS} FROM memories m WHERE m.no = ?1");
    let mut out = Vec::new();
    for no in holding {
        let (_, m) = conn.query_row(&sql, [no], read).doing(READING)?;
        let rest = erase::cut_text(&m.text, &forms);
        let tags: Vec<Option<String>> = m.tags.iter().map(|t| erase::cut_text(t, &forms)).collect();
        if rest.is_none() && tags.iter().all(Option::is_none) {
            continue;
        }
        let tags: Vec<String> = tags.into_iter().zip(&m.tags).map(|(cut, was)| cut.unwrap_or_else(|| was.clone())).collect();
        match rest {
            Some(rest) if rest == erase::MARK => delete(conn, no)?,
            rest => rewrite(conn, no, &rest.unwrap_or(m.text), &tags)?,
        }
        out.push(m.id);
    }
    if !out.is_empty() {
        // why noted: should the host die before its files are rewritten, its next start does it.
        conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('scrub', '')", []).doing(CHANGING)?;
    }
    Ok(out)
}

fn size(conn: &Connection, namespace: &str) -> Result<MemorySize> {
    const SQL: &str = "SELECT count(*), coalesce(sum(tier = 'working'), 0), coalesce(sum(bytes) FILTER (WHERE tier = 'working'), 0) \
                       FROM memories WHERE namespace = ?1";
    let numbers = conn.query_row(SQL, [namespace], |r| Ok((count(r.get(0)?), count(r.get(1)?), count(r.get(2)?)))).doing(READING)?;
    let (entries, working, working_bytes) = numbers;
    const ALL: &str = "SELECT coalesce(sum(bytes), 0) FROM memories";
    let bytes = conn.query_row(ALL, [], |r| r.get(0)).map(count).doing(READING)?;
    Ok(MemorySize { entries, working, working_bytes, bytes })
}

/// The words of a query, each quoted, any of which may be there. `None` when there is no word in it.
fn quoted(query: &str) -> Option<String> {
    let words = query.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| w.chars().any(char::is_alphanumeric));
    let all: Vec<String> = words.take(WORDS_MAX).map(|w| format!("\"{}\"", w.replace('"', "\"\""))).collect();
    (!all.is_empty()).then(|| all.join(" OR "))
}

/// What the columns of a filter must be; the numbers are those of [`given`].
const WHERE: &str = "(?1 IS NULL OR m.namespace = ?1) AND (?2 IS NULL OR m.tier = ?2) AND (?3 IS NULL OR m.session = ?3) \
                     AND (?4 IS NULL OR EXISTS (SELECT 1 FROM json_each(m.tags) t WHERE t.value = ?4)) \
                     AND (?5 IS NULL OR m.tier <> 'session' OR m.session = ?5)";

type Given<'f> = (Option<&'f str>, Option<&'static str>, Option<&'f str>, Option<&'f str>, Option<&'f str>);

fn given(f: &MemoryFilter) -> Given<'_> {
    (
        f.namespace.as_deref(),
        f.tier.map(MemoryTier::as_str),
        f.session.as_ref().map(SessionId::as_str),
        f.tag.as_deref(),
        f.seen_by.as_ref().map(SessionId::as_str),
    )
}

impl Pool {
    pub fn memory(&self, id: &str) -> Result<Option<Memory>> {
        let sql = format!("SELECT {COLUMNS} FROM memories m WHERE m.id = ?1");
        self.with(|c| c.query_row(&sql, [id], read).optional().doing(READING)).map(|found| found.map(|(_, m)| m))
    }

    pub fn memories(&self, f: &MemoryFilter) -> Result<Page<Memory>> {
        let before = match f.cursor.as_deref().map(str::parse::<i64>) {
            None => i64::MAX,
            Some(Ok(n)) => n,
            Some(Err(_)) => return Err(Error::BadCursor { given: f.cursor.clone().unwrap_or_default().chars().take(100).collect() }),
        };
        let limit = f.limit.clamp(1, MAX_SESSIONS);
        let sql = format!("SELECT {COLUMNS} FROM memories m WHERE {WHERE} AND m.no < ?6 ORDER BY m.no DESC LIMIT ?7");
        let (a, b, s, t, v) = given(f);
        let mut rows: Vec<(i64, Memory)> = self.with(|c| {
            let mut stmt = c.prepare(&sql).doing(READING)?;
            let rows = stmt.query_map(params![a, b, s, t, v, before, int(limit as u64 + 1)], read).doing(READING)?;
            rows.collect::<rusqlite::Result<_>>().doing(READING)
        })?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|(no, _)| no.to_string());
        Ok(Page { items: rows.into_iter().map(|(_, m)| m).collect(), next })
    }

    pub fn search_memory(&self, query: &str, f: &MemoryFilter) -> Result<Vec<MemoryHit>> {
        let Some(words) = quoted(query) else { return Ok(vec![]) };
        let limit = f.limit.clamp(1, MEMORY_HITS_MAX);
        let sql = format!(
            "SELECT {COLUMNS}, bm25(memory_words) FROM memory_words JOIN memories m ON m.no = memory_words.rowid \
             WHERE {WHERE} AND memory_words MATCH ?6 ORDER BY bm25(memory_words), m.no DESC LIMIT ?7"
        );
        let (a, b, s, t, v) = given(f);
        self.with(|c| {
            let mut stmt = c.prepare(&sql).doing(READING)?;
            let hit = |r: &rusqlite::Row<'_>| Ok(MemoryHit { memory: read(r)?.1, rank: r.get(9)? });
            let rows = stmt.query_map(params![a, b, s, t, v, words, int(limit as u64)], hit).doing(READING)?;
            rows.collect::<rusqlite::Result<_>>().doing(READING)
        })
    }

    pub fn memory_size(&self, namespace: &str) -> Result<MemorySize> {
        self.with(|c| size(c, namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("PRAGMA trusted_schema = OFF").unwrap();
        conn.execute_batch("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)").unwrap();
        conn.execute_batch(include_str!("migrations/20261122_first_memories.sql")).unwrap();
        conn
    }

    fn entry(id: &str, tier: MemoryTier, text: &str) -> Memory {
        Memory { id: id.into(), namespace: "n".into(), tier, text: text.into(), tags: vec![], session: None, seq: None, created_at: 0 }
    }

    fn found(conn: &Connection, query: &str) -> rusqlite::Result<i64> {
        let Some(words) = quoted(query) else { return Ok(0) };
        conn.query_row("SELECT count(*) FROM memory_words WHERE memory_words MATCH ?1", [words], |r| r.get(0))
    }

    #[test]
    fn what_is_removed_or_erased_is_found_no_more() {
        let conn = table();
        for (id, text) in [("m-1", "the gate listens on port 8080"), ("m-2", "hunter2 is the password"), ("m-3", "hunter2")] {
            insert(&conn, &entry(id, MemoryTier::LongTerm, text)).unwrap();
        }
        assert_eq!((found(&conn, "ports").unwrap(), found(&conn, "hunter2 port").unwrap()), (1, 3), "word stems, any word");
        let erase = |text: &str| change(&conn, &MemoryChange::Erase(text.into()), &Actor::host()).unwrap();
        let (n, note) = erase("hunter2");
        assert_eq!((n, found(&conn, "hunter2").unwrap(), found(&conn, "password").unwrap()), (2, 0, 1));
        assert!(!format!("{note:?}").contains("hunter2"));
        let left = "SELECT count(*) FROM memory_words_data WHERE instr(block, CAST('hunter2' AS BLOB)) > 0";
        assert_eq!(conn.query_row(left, [], |r| r.get::<_, i64>(0)).unwrap(), 0, "the index itself has the word no more");
        assert_eq!(change(&conn, &MemoryChange::Remove(vec!["m-1".into(), "m-9".into()]), &Actor::host()).unwrap().0, 1);
        assert_eq!(found(&conn, "port").unwrap(), 0);
        // In whatever form: as it is, as JSON has it, and as JSON within JSON; in tags too, which stand as JSON in their column.
        let secret = "zebra \"7\u{e9}\"";
        let line = serde_json::json!({ "k": secret }).to_string();
        let texts = [
            secret.to_owned(),
            format!("a {secret} b"),
            line.clone(),
            line.replace('\u{e9}', "\\u00e9"),
            serde_json::json!([line]).to_string(),
        ];
        for (n, text) in texts.iter().enumerate() {
            insert(&conn, &entry(&format!("m-2{n}"), MemoryTier::LongTerm, text)).unwrap();
        }
        let tagged = Memory { tags: vec!["kept".into(), secret.into(), line], ..entry("m-30", MemoryTier::LongTerm, "plain words") };
        insert(&conn, &tagged).unwrap();
        assert_eq!((erase(secret).0, found(&conn, "zebra").unwrap(), found(&conn, "plain").unwrap()), (6, 0, 1));
        let tags: String = conn.query_row("SELECT tags FROM memories WHERE id = 'm-30'", [], |r| r.get(0)).unwrap();
        assert_eq!(tags, r#"["kept","[erased]","{\"k\":\"[erased]\"}"]"#);
        assert_eq!(numbers(&conn, "SELECT no FROM memories WHERE id = ?1", "m-20").unwrap(), Vec::<i64>::new(), "nothing of it was left");
        conn.execute_batch("INSERT INTO memory_words (memory_words, rank) VALUES ('integrity-check', 1)").unwrap();
    }

    #[test]
    fn the_oldest_working_entries_make_room_and_no_others() {
        let conn = table();
        let tx = conn.unchecked_transaction().unwrap();
        insert(&tx, &entry("m-kept", MemoryTier::LongTerm, "kept")).unwrap();
        for n in 0..NAMESPACE_ENTRIES_MAX + 2 {
            insert(&tx, &entry(&format!("m-{n}"), MemoryTier::Working, "w")).unwrap();
        }
        tx.commit().unwrap();
        assert_eq!(size(&conn, "n").unwrap().entries, NAMESPACE_ENTRIES_MAX);
        let left = |id: &str| !numbers(&conn, "SELECT no FROM memories WHERE id = ?1", id).unwrap().is_empty();
        assert_eq!([left("m-kept"), left("m-0"), left("m-2"), left("m-3")], [true, false, false, true]);
        let full = size(&conn, "n").unwrap();
        assert_eq!((full.working, full.working_bytes), (NAMESPACE_ENTRIES_MAX - 1, NAMESPACE_ENTRIES_MAX - 1));
        conn.execute("UPDATE memories SET tier = 'long-term'", []).unwrap();
        insert(&conn, &entry("m-new", MemoryTier::Working, "w")).unwrap();
        assert!(left("m-new"), "what is acknowledged is there; whether there is room was asked before");
    }

    proptest! {
        #[test]
        fn no_query_is_an_error_or_has_a_meaning_of_its_own(query in "\\PC{0,60}|[\"'*()^:+\\-{} NEARORAND\\x00]{0,40}") {
            let conn = table();
            insert(&conn, &entry("m-1", MemoryTier::LongTerm, "zzz")).unwrap();
            prop_assert_eq!(found(&conn, &query).unwrap(), i64::from(quoted(&query).is_some() && query.to_lowercase().contains("zzz")));
        }
    }
}
