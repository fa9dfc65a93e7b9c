//! What the store promises its callers: order, conflicts, projections, frames, listings, removal, the host chain, who may open it.

mod damage;
mod disk;
mod kept;
mod lying;
mod upgrade;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use beadle::model::ledger::{Dimension, LedgerSum};
use beadle::model::{Actor, Approval, ApprovalId, ApprovalState, Approvals, Event, OsEntropy, Session, SessionId, Status, SystemClock};
use beadle::store::chain::{Link, commitment};
use beadle::store::{
    Appended, ApprovalFilter, Batch, Error, Filter, Frame, Hash, HostEvent, LedgerQuery, Options, Store, ToolQuery, Wake, What,
};
use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

type Result<T = (), E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn open(dir: &Path) -> Result<Store, Error> {
    Store::open(dir, Options::default())
}

/// Opens it once more.
fn reopened(dir: &Path) -> Result<Store, Error> {
    // why again: a child that another test starts has the lock's descriptor until it is another program.
    crate::support::until("nobody holds the folder", || match open(dir) {
        Err(e) if e.code() == "BDL-STORE-003" => None,
        opened => Some(opened),
    })
}

fn sql(dir: &Path) -> Result<Connection> {
    let c = Connection::open(dir.join("beadle.db"))?;
    c.busy_timeout(Duration::from_secs(5))?;
    Ok(c)
}

fn event(kind: &str, body: Value) -> Result<Event> {
    Ok(Event::from_parts(kind, body.to_string().as_bytes())?)
}

fn note(text: &str) -> Result<Event> {
    event("note", json!({ "text": text }))
}

fn created(name: &str, label: &str) -> Result<Event> {
    let by = json!({ "role": "host" });
    event(
        "session_created",
        json!({ "name": name, "agent": "claude", "command": ["claude"], "cwd": "/p", "mediation": "gate", "created_by": by,
                "labels": { "team": label }, "beadle_version": "0.1.0" }),
    )
}

fn batch(id: &SessionId, events: Vec<Event>) -> Batch {
    Batch {
        session: id.clone(),
        expected: None,
        attempt: 1,
        at: 1_795_232_000_000,
        events,
        cursor: None,
        frames: Vec::new(),
        taken: None,
        blobs: Vec::new(),
    }
}

fn begin(store: &Store, name: &str) -> Result<SessionId> {
    let id = SessionId::new(name, &SystemClock, &OsEntropy);
    store.append(Batch { expected: Some(0), attempt: 0, ..batch(&id, vec![created(name, "core")?]) }).wait()?;
    Ok(id)
}

fn notes(store: &Store, id: &SessionId, n: usize) -> Result<Appended> {
    let events = (0..n).map(|i| note(&format!("note {i}"))).collect::<Result<_>>()?;
    Ok(store.append(batch(id, events)).wait()?)
}

/// A store with sessions `a` (10 events) and `b` (5), and what it was opened in.
fn filled() -> Result<(TempDir, Store, SessionId, SessionId)> {
    let dir = tempfile::tempdir()?;
    let store = open(dir.path())?;
    let (a, b) = (begin(&store, "a")?, begin(&store, "b")?);
    notes(&store, &a, 9)?;
    notes(&store, &b, 4)?;
    Ok((dir, store, a, b))
}

fn replay(store: &Store, id: &SessionId) -> Result<Session> {
    let mut session: Option<Session> = None;
    for e in store.events(id, 1, 10_000)? {
        match &mut session {
            None => session = Session::begin(&e.envelope),
            Some(s) => s.fold(&e.envelope),
        }
    }
    session.ok_or_else(|| "no session_created".into())
}

fn replayed_approvals(store: &Store, id: &SessionId) -> Result<Vec<Approval>> {
    let mut all = Approvals::default();
    store.events(id, 1, 10_000)?.iter().for_each(|e| all.fold(&e.envelope));
    Ok(all.0.into_values().collect())
}

/// All of a session, by call, read in pages of two.
fn stored_approvals(store: &Store, id: &SessionId) -> Result<Vec<Approval>> {
    let mut f = ApprovalFilter { session: Some(id.clone()), limit: 2, ..ApprovalFilter::default() };
    let mut all = Vec::new();
    loop {
        let page = store.approvals(&f)?;
        all.extend(page.items);
        f.cursor = page.next;
        if f.cursor.is_none() {
            all.sort_by_key(|a| a.call);
            return Ok(all);
        }
    }
}

fn all_waiting(store: &Store) -> Result<Vec<Approval>> {
    Ok(store.approvals(&ApprovalFilter { waiting: true, limit: 1_000, ..ApprovalFilter::default() })?.items)
}

fn found(store: &Store, session: &SessionId, seq: u64, what: What) -> Result<bool> {
    let r = store.verify(None)?;
    Ok(r.findings.iter().any(|f| f.session.as_deref() == Some(session.as_str()) && f.seq == Some(seq) && f.what == what))
}

fn code<T>(r: Result<T, Error>) -> &'static str {
    r.map_or_else(|e| e.code(), |_| "ok")
}

/// The rows of a session's model calls, in any grouping, add up to what its projection says.
fn ledger_is_the_sessions_own(store: &Store, id: &SessionId) -> Result {
    let s = store.session(id)?;
    for by in ["model", "agent", "label:team", "phase", "owner", "tenant", "tree", "day", "attempt", "session", "source"] {
        let by = Dimension::parse(by).ok_or("a dimension")?;
        let query =
            LedgerQuery { by, since: None, until: None, session: Some(id.clone()), agent: None, label: None, offset_minutes: 0, now: 0 };
        let g = store.ledger(&query)?;
        let mut rows = LedgerSum::default();
        g.rows.iter().for_each(|(_, row)| rows.merge(&row.sum));
        assert_eq!(rows, g.all);
        assert_eq!((g.all.usage(), g.all.cost()?), (Some(s.usage), s.cost));
        assert_eq!((g.all.unpriced > 0, &g.all.unpriced_models), (s.unpriced > 0, &s.unpriced_models));
    }
    // And those of its tool calls: what no call is known of has a row too.
    let found = store.tools(&ToolQuery { session: Some(id.clone()), ..ToolQuery::default() })?;
    assert_eq!((found.unreadable, found.truncated), (0, false));
    let all = found.sums.all();
    assert_eq!(
        (all.calls, all.allowed, all.denied, all.asked),
        if s.calls > 0 { (s.calls, s.allowed, s.denied, s.asked) } else { (0, 0, 0, 0) }
    );
    Ok(())
}

fn any_event() -> impl Strategy<Value = (&'static str, Value)> {
    let by = json!({ "role": "host" });
    let usage = json!({ "input": 3, "output": 5, "cache_read": 0, "cache_write": 1 });
    prop_oneof![
        "[a-zé ]{0,300}".prop_map(|t| ("agent_replied", json!({ "text": t }))),
        any::<u32>().prop_map(|p| ("attempt_started", json!({ "argv": ["x"], "pid": p, "shim_pid": 2 }))),
        Just(("attempt_ended", json!({ "outcome": "failed", "exit_code": 3 }))),
        (1u64..6)
            .prop_map(|c| ("approval_requested", json!({ "call": c, "tool": "Bash", "subject": "ls", "reason": "r", "expires_at": 9 }))),
        (1u64..6, 0usize..6).prop_map(move |(c, s)| {
            let state = ["waiting", "approved", "denied", "expired", "cancelled"].get(s);
            let mut body = json!({ "call": c, "effect": if s == 1 { "allow" } else { "deny" }, "reason": "r", "by": by, "rules": ["r-1"] });
            if let Some(s) = state {
                body["state"] = json!(s);
            }
            ("approval_resolved", body)
        }),
        (any::<bool>(), 0usize..4).prop_map(move |(p, m)| {
            let parent = [None, Some("t1"), Some("unattributed")][m % 3];
            let mut body = json!({ "message_id": format!("m{m}"), "model": format!("x{m}"), "usage": usage, "prices": "d" });
            if p {
                body["cost"] = json!(7);
            }
            if let Some(parent) = parent {
                body["parent_call_id"] = json!(parent);
            }
            ("model_responded", body)
        }),
        Just(("turn_ended", json!({ "is_error": false, "result": "done" }))),
        (0usize..3).prop_map(|t| ("tool_reported", json!({ "call_id": format!("t{t}"), "tool": format!("tool {t}") }))),
        (0usize..4, any::<bool>()).prop_map(|(t, e)| {
            ("tool_ended", json!({ "call_id": format!("t{t}"), "is_error": e, "output": { "text": "", "bytes": 0 } }))
        }),
        (1u64..6, 0usize..3).prop_map(|(c, e)| {
            let effect = ["allow", "ask", "deny"][e];
            (
                "tool_decided",
                json!({ "call": c, "effect": effect, "by": "policy", "reason": "r", "answers": [], "input_hash": "", "latency_us": 1 }),
            )
        }),
        Just(("session_stopping", json!({ "by": { "role": "host" }, "how": "stop", "grace_ms": 1 }))),
        Just(("session_ended", json!({ "outcome": "succeeded" }))),
        Just(("mediation_lowered", json!({ "to": "none", "reason": "r" }))),
        Just(("tea_served", json!({ "cups": 2 }))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn a_replay_gives_the_projection(steps in proptest::collection::vec((0usize..3, proptest::collection::vec(any_event(), 0..6), any::<u16>()), 1..30)) {
        let run = || -> Result {
            let dir = tempfile::tempdir()?;
            let store = Store::open(dir.path(), Options { head_every_events: 7, ..Options::default() })?;
            let ids = [begin(&store, "a")?, begin(&store, "b")?, begin(&store, "c")?];
            let mut tickets = Vec::new();
            for (who, events, at) in &steps {
                let events = events.iter().map(|(k, b)| event(k, b.clone())).collect::<Result<_>>()?;
                tickets.push(store.append(Batch { at: i64::from(*at), ..batch(&ids[*who], events) }));
            }
            for t in tickets {
                match t.wait() {
                    Ok(a) => assert_eq!(a.session.last_seq, a.last_seq),
                    // What breaks the order of statuses is refused whole; see the test of the table.
                    Err(e) => assert_eq!(e.code(), "BDL-STORE-030"),
                }
            }
            for id in &ids {
                assert_eq!(store.session(id)?, replay(&store, id)?);
                assert_eq!(stored_approvals(&store, id)?, replayed_approvals(&store, id)?);
                ledger_is_the_sessions_own(&store, id)?;
            }
            let waiting = |id| Ok::<_, Error>(replayed_approvals(&store, id).map_or(0, |a| a.iter().filter(|a| a.state == ApprovalState::Waiting).count()));
            let want = ids.iter().map(waiting).sum::<Result<usize, Error>>()?;
            assert_eq!((all_waiting(&store)?.len(), store.waiting_approvals()?), (want, want as u64));
            let before: Vec<_> = store.approvals_after(0, 1_000)?;
            let report = store.verify(None)?;
            assert!(report.is_sound(), "{:?}", report.findings);
            drop(store);
            // why: a projection of another version is folded anew, and must come out the same with its places.
            sql(dir.path())?.execute_batch("UPDATE meta SET value = '0.0.1' WHERE key = 'folded_by'; DELETE FROM approvals; UPDATE usage SET input = input + 1")?;
            let store = open(dir.path())?;
            assert_eq!(store.approvals_after(0, 1_000)?, before);
            for id in &ids {
                assert_eq!(store.session(id)?, replay(&store, id)?);
                ledger_is_the_sessions_own(&store, id)?;
                notes(&store, id, 1)?;
            }
            assert!(store.verify(None)?.is_sound());
            Ok(())
        };
        run().map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
}

/// What brings a database back to the first schema.
const TO_FIRST: &str = "DROP TABLE memory_words; DROP TABLE memories; DROP TABLE writes; DROP TABLE writers; DROP TABLE approvals; DROP TABLE plugin_states; DROP TABLE sinks; DROP TABLE dead_letters; DROP TABLE session_labels; DROP TABLE usage; DROP TABLE attempts; DROP TABLE tasks; DROP TABLE archives; DROP TABLE redactions; ALTER TABLE events DROP COLUMN commitment; \
    DROP INDEX sessions_by_owner; DROP INDEX sessions_by_mission; DROP INDEX sessions_by_phase; DROP INDEX sessions_by_tenant; DROP INDEX sessions_by_thread; DROP INDEX sessions_by_parent; DROP INDEX sessions_by_outcome; DROP INDEX sessions_by_created; \
    ALTER TABLE sessions DROP COLUMN owner; ALTER TABLE sessions DROP COLUMN mission; ALTER TABLE sessions DROP COLUMN phase; ALTER TABLE sessions DROP COLUMN tenant; ALTER TABLE sessions DROP COLUMN thread; ALTER TABLE sessions DROP COLUMN parent; ALTER TABLE sessions DROP COLUMN outcome; ALTER TABLE sessions DROP COLUMN active_at; ALTER TABLE sessions DROP COLUMN cost; PRAGMA user_version = 1";

/// The table once more, in words of its own.
fn may(from: &str, kind: &str) -> Option<&'static str> {
    match (from, kind) {
        ("starting" | "running" | "paused", "attempt_started") | ("paused", "session_continued") => Some("running"),
        ("running", "session_paused") => Some("paused"),
        ("starting" | "running" | "paused" | "stopping", "session_stopping") => Some("stopping"),
        ("starting" | "running" | "paused" | "stopping", "session_ended") => Some("ended"),
        (_, "note") => Some(""),
        _ => None,
    }
}

fn any_status_event() -> impl Strategy<Value = (&'static str, Value)> {
    let by = json!({ "role": "host" });
    prop_oneof![
        Just(("attempt_started", json!({ "argv": ["x"], "pid": 1, "shim_pid": 2 }))),
        Just(("session_paused", json!({ "reason": "r", "mode": "hold" }))),
        Just(("session_continued", json!({ "mode": "hold", "by": by, "paused_ms": 1 }))),
        Just(("session_stopping", json!({ "by": by, "how": "stop", "grace_ms": 1 }))),
        Just(("session_ended", json!({ "outcome": "stopped" }))),
        Just(("note", json!({ "text": "n" }))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_append_follows_the_table_of_statuses_or_is_refused_whole(batches in proptest::collection::vec(proptest::collection::vec(any_status_event(), 1..4), 1..25)) {
        let run = || -> Result {
            let dir = tempfile::tempdir()?;
            let store = open(dir.path())?;
            let id = begin(&store, "a")?;
            let (mut status, mut last, mut kept) = ("starting", 1, vec!["session_created".to_owned()]);
            for events in &batches {
                let walk = events.iter().try_fold(status, |at, (kind, _)| may(at, kind).map(|to| if to.is_empty() { at } else { to }));
                let batch = batch(&id, events.iter().map(|(k, b)| event(k, b.clone())).collect::<Result<_>>()?);
                let told = store.append(batch).wait();
                match walk {
                    Some(to) => {
                        (status, last) = (to, told?.last_seq);
                        kept.extend(events.iter().map(|(k, _)| (*k).to_owned()));
                    }
                    None => assert_eq!(code(told), "BDL-STORE-030"),
                }
                let s = store.session(&id)?;
                assert_eq!((s.status.as_str(), s.last_seq), (status, last));
                assert_eq!(s.pause.is_some(), status == "paused");
            }
            let log: Vec<String> = store.events(&id, 1, 1_000)?.iter().map(|e| e.envelope.event.kind().to_owned()).collect();
            assert_eq!(log, kept, "what was refused left nothing, and what was taken is all there");
            assert!(store.verify(None)?.is_sound());
            Ok(())
        };
        run().map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
}

/// A session's first event with more of a record.
fn with(name: &str, more: &Value) -> Result<Event> {
    let mut body: Value = serde_json::from_slice(&created(name, "core")?.body_bytes())?;
    for (k, v) in more.as_object().into_iter().flatten() {
        body[k] = v.clone();
    }
    event("session_created", body)
}

#[test]
fn listings_filter_sort_and_page_by_every_part_of_the_record() -> Result {
    use beadle::model::{Outcome, Sort};
    let dir = tempfile::tempdir()?;
    let store = open(dir.path())?;
    let make = |name: &str, at: i64, more: Value| -> Result<SessionId> {
        let id = SessionId::new(name, &SystemClock, &OsEntropy);
        store.append(Batch { expected: Some(0), at, ..batch(&id, vec![with(name, &more)?]) }).wait()?;
        Ok(id)
    };
    let root = make("root", 100, json!({ "owner": "ann", "mission": "m1", "tenant": "t", "labels": { "a": "1", "b": "2" } }))?;
    let mut all = vec![root.clone()];
    for i in 0..9i64 {
        let more = json!({ "owner": if i % 2 == 0 { "ann" } else { "Unassigned" }, "phase": format!("p{}", i % 3), "thread": "th",
                           "parent": root.to_string(), "labels": { "a": "1", "n": i.to_string() } });
        all.push(make(&format!("s{}", 8 - i), 200 + i, more)?);
    }
    let cost = |id: &SessionId, at: i64, nano: u64| {
        let body = json!({ "message_id": "m", "model": "x", "usage": { "input": 1, "output": 1, "cache_read": 0, "cache_write": 0 }, "cost": nano });
        event("model_responded", body).map(|e| store.append(Batch { at, ..batch(id, vec![e]) }).wait())
    };
    cost(&all[3], 900, 7)??;
    cost(&all[5], 800, 9)??;
    store.append(Batch { at: 1_000, ..batch(&all[2], vec![event("session_ended", json!({ "outcome": "missing_report" }))?]) }).wait()?;
    let list = |f: Filter| -> Result<Vec<SessionId>> {
        // In pages of two, so that each filter and order is paged too; a session comes meanwhile.
        let (mut f, mut out) = (Filter { limit: 2, ..f }, Vec::new());
        loop {
            let page = store.sessions(&f)?;
            out.extend(page.items.into_iter().map(|s| s.id));
            f.cursor = page.next;
            if f.cursor.is_none() {
                return Ok(out);
            }
            assert!(out.len() <= 40, "a listing that does not end");
        }
    };
    let some = |t: &str| Some(t.to_owned());
    let newest: Vec<SessionId> = all.iter().rev().cloned().collect();
    let picked = |keep: &dyn Fn(usize) -> bool| -> Vec<SessionId> { (0..10).rev().filter(|i| keep(*i)).map(|i| all[i].clone()).collect() };
    assert_eq!(list(Filter::default())?, newest);
    assert_eq!(list(Filter { reverse: true, ..Filter::default() })?, all);
    assert_eq!(list(Filter { owner: some("ann"), ..Filter::default() })?, picked(&|i| i == 0 || i % 2 == 1));
    assert_eq!(list(Filter { owner: some("Unassigned"), ..Filter::default() })?, picked(&|i| i > 0 && i % 2 == 0));
    assert_eq!(list(Filter { phase: some("p1"), ..Filter::default() })?, picked(&|i| i > 0 && (i - 1) % 3 == 1));
    assert_eq!(list(Filter { mission: some("m1"), tenant: some("t"), ..Filter::default() })?, std::slice::from_ref(&root));
    assert_eq!(list(Filter { thread: some("th"), parent: Some(root.clone()), ..Filter::default() })?, picked(&|i| i > 0));
    assert_eq!(list(Filter { outcome: vec![Outcome::MissingReport], ..Filter::default() })?, [all[2].clone()]);
    assert_eq!(list(Filter { name: some("s4"), ..Filter::default() })?, [all[5].clone()]);
    let label = |l: &[(&str, &str)]| l.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    assert_eq!(list(Filter { labels: label(&[("a", "1")]), ..Filter::default() })?, newest);
    assert_eq!(list(Filter { labels: label(&[("a", "1"), ("n", "4")]), ..Filter::default() })?, [all[5].clone()]);
    assert_eq!(list(Filter { since: Some(203), until: Some(206), ..Filter::default() })?, picked(&|i| (4..7).contains(&i)));
    assert!(list(Filter { since: Some(10_000), ..Filter::default() })?.is_empty());
    let by = |sort, reverse| list(Filter { sort, reverse, ..Filter::default() });
    assert_eq!(by(Sort::Name, false)?, [vec![root.clone()], newest[..9].to_vec()].concat());
    assert_eq!(by(Sort::Name, true)?, [all[1..].to_vec(), vec![root.clone()]].concat());
    let activity = by(Sort::Activity, false)?;
    assert_eq!(activity[..4], [all[2].clone(), all[3].clone(), all[5].clone(), all[9].clone()]);
    assert_eq!(by(Sort::Activity, true)?, activity.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(by(Sort::Cost, false)?[..2], [all[5].clone(), all[3].clone()]);
    assert_eq!((store.children(&root)?, store.children(&all[1])?), (9, 0));
    // A cursor of one order is none in another, and sessions that come meanwhile neither repeat nor push out any.
    let first = store.sessions(&Filter { limit: 3, ..Filter::default() })?;
    let next = first.next.clone();
    assert_eq!(code(store.sessions(&Filter { cursor: next.clone(), sort: Sort::Name, ..Filter::default() })), "BDL-STORE-025");
    make("late", 300, json!({}))?;
    let rest = store.sessions(&Filter { cursor: next, ..Filter::default() })?;
    let seen: Vec<SessionId> = first.items.into_iter().chain(rest.items).map(|s| s.id).collect();
    assert_eq!(seen, newest);
    assert!(store.verify(None)?.is_sound());
    sql(dir.path())?.execute_batch("UPDATE sessions SET owner = 'eve' WHERE name = 's4'; DELETE FROM session_labels WHERE value = '3'")?;
    let report = store.verify(None)?;
    assert_eq!(report.findings.iter().filter(|f| f.what == What::Projection).count(), 2, "{:?}", report.findings);
    drop(store);
    // The projections of an older version are made anew, columns and labels too.
    sql(dir.path())?
        .execute_batch("UPDATE meta SET value = '0.0.1' WHERE key = 'folded_by'; UPDATE sessions SET phase = NULL, cost = 0")?;
    let store = open(dir.path())?;
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn a_conflict_fails_only_its_own_caller() -> Result {
    let (_dir, store, a, b) = filled()?;
    let at = |id: &SessionId, expected| {
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(store.append(Batch { expected: Some(expected), ..batch(id, vec![note("x")?]) }))
    };
    let (first, second, other) = (at(&a, 10)?, at(&a, 10)?, at(&b, 5)?);
    assert_eq!(first.wait()?.last_seq, 11);
    assert!(matches!(second.wait(), Err(Error::Conflict { expected: 10, actual: 11, .. })));
    assert_eq!(other.wait()?.last_seq, 6);
    let unknown = SessionId::parse("nobody-1-aaaaa")?;
    assert_eq!(code(at(&unknown, 3)?.wait()), "BDL-STORE-011");
    assert_eq!(code(store.append(batch(&unknown, vec![note("x")?])).wait()), "BDL-STORE-014");
    assert_eq!(code(store.append(batch(&a, vec![created("a", "x")?])).wait()), "BDL-STORE-014");
    assert_eq!(
        code(store.append(Batch { expected: Some(0), ..batch(&unknown, vec![created("n", "x")?, created("n", "x")?]) }).wait()),
        "BDL-STORE-014"
    );
    Ok(())
}

#[test]
fn frames_and_cursor_travel_with_the_events() -> Result {
    let (dir, store, a, _) = filled()?;
    let frames = |attempt, cursor, nos: &[u64]| {
        let frames = nos.iter().map(|no| Frame { no: *no, bytes: vec![7; 3] }).collect();
        store.append(Batch { attempt, cursor: Some(cursor), frames, ..batch(&a, Vec::new()) }).wait()
    };
    assert_eq!(store.cursor(&a)?, None);
    frames(1, 100, &[1, 2])?;
    assert_eq!(code(frames(1, 100, &[4])), "BDL-STORE-016");
    assert_eq!(code(frames(1, 99, &[])), "BDL-STORE-017");
    assert_eq!(frames(1, 120, &[3])?.last_seq, 10);
    store.append(Batch { attempt: 1, taken: Some(1), ..batch(&a, Vec::new()) }).wait()?;
    drop(store);
    let store = open(dir.path())?;
    assert_eq!(store.frames_after(&a, 1, 0)?.iter().map(|f| f.no).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(store.cursor(&a)?.map(|c| (c.attempt, c.offset)), Some((1, 120)));
    let again = |attempt, no| store.append(Batch { attempt, frames: vec![Frame { no, bytes: vec![] }], ..batch(&a, vec![]) }).wait();
    assert_eq!(
        (code(again(1, 3)), code(again(2, 2)), code(again(2, 1)), code(again(1, 4))),
        ("BDL-STORE-016", "BDL-STORE-016", "ok", "BDL-STORE-016")
    );
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn sessions_are_found_filtered_and_paged() -> Result {
    let dir = tempfile::tempdir()?;
    let store = open(dir.path())?;
    let ids: Vec<_> = ["fix", "fix", "fix-more", "tea"].iter().map(|n| begin(&store, n)).collect::<Result<_>>()?;
    store.append(batch(&ids[3], vec![event("session_ended", json!({ "outcome": "succeeded" }))?])).wait()?;
    assert_eq!((store.find("tea")?, store.find(ids[0].as_str())?, store.find("fix-mo")?), (ids[3].clone(), ids[0].clone(), ids[2].clone()));
    assert!(matches!(store.find("fix"), Err(Error::Ambiguous { candidates, .. }) if candidates.len() == 2));
    for bad in ["", "nope", "%", "f*", "'", &"x".repeat(10_000_000)] {
        assert_eq!(code(store.find(bad)), "BDL-STORE-012");
    }
    let list = |f: Filter| store.sessions(&f).map(|p| (p.items.into_iter().map(|s| s.id).collect::<Vec<_>>(), p.next));
    assert_eq!(list(Filter { status: vec![Status::Ended], ..Filter::default() })?.0, [ids[3].clone()]);
    assert_eq!(
        list(Filter { labels: vec![("team".into(), "core".into())], agent: Some("claude".into()), ..Filter::default() })?.0.len(),
        4
    );
    assert!(list(Filter { labels: vec![("team".into(), "x' OR 1".into())], ..Filter::default() })?.0.is_empty());
    let (first, next) = list(Filter { limit: 3, ..Filter::default() })?;
    let (rest, end) = list(Filter { limit: 3, cursor: next, ..Filter::default() })?;
    assert_eq!(first.into_iter().chain(rest).collect::<Vec<_>>(), ids.into_iter().rev().collect::<Vec<_>>());
    assert_eq!((end, code(list(Filter { cursor: Some("x".into()), ..Filter::default() }))), (None, "BDL-STORE-025"));
    Ok(())
}

fn asked(store: &Store, id: &SessionId, call: u64) -> Result {
    let body = json!({ "call": call, "tool": "Bash", "subject": "ls", "reason": "r", "expires_at": 9 });
    store.append(batch(id, vec![event("approval_requested", body)?])).wait()?;
    Ok(())
}

fn answered(store: &Store, id: &SessionId, call: u64) -> Result {
    let body = json!({ "call": call, "effect": "allow", "reason": "r", "by": { "role": "operator" }, "state": "approved" });
    store.append(batch(id, vec![event("approval_resolved", body)?])).wait()?;
    Ok(())
}

#[test]
fn approvals_are_listed_over_all_sessions_and_followed() -> Result {
    let (_dir, store, a, b) = filled()?;
    asked(&store, &b, 3)?;
    asked(&store, &a, 5)?;
    let from = store.newest_approval_change()?;
    asked(&store, &b, 7)?;
    answered(&store, &a, 5)?;
    let calls = |list: &[Approval]| list.iter().map(|a| (a.session.clone(), a.call)).collect::<Vec<_>>();
    assert_eq!(calls(&all_waiting(&store)?), [(b.clone(), 3), (b.clone(), 7)], "oldest first");
    let newest_first = store.approvals(&ApprovalFilter::default())?.items;
    assert_eq!(calls(&newest_first), [(b.clone(), 7), (a.clone(), 5), (b.clone(), 3)]);
    let changes = store.approvals_after(from, 100)?;
    assert_eq!(
        changes.iter().map(|(_, a)| (a.call, a.state)).collect::<Vec<_>>(),
        [(7, ApprovalState::Waiting), (5, ApprovalState::Approved)]
    );
    assert!(store.approvals_after(store.newest_approval_change()?, 100)?.is_empty());
    let one = store.approval(&ApprovalId { session: a.clone(), call: 5 })?;
    assert_eq!(one.resolution.map(|r| (r.by.role, r.seq)), Some(("operator".to_owned(), 12)));
    assert_eq!(code(store.approval(&ApprovalId { session: a.clone(), call: 6 })), "BDL-STORE-027");
    store.append(batch(&b, vec![event("session_ended", json!({ "outcome": "lost" }))?])).wait()?;
    let together: Vec<_> = store.approvals_after(from, 1)?.into_iter().map(|(_, a)| a.call).collect();
    assert_eq!(together, [5], "the newest change of 7 is the end of its session");
    let ended: Vec<_> =
        store.approvals_after(store.approvals_after(from, 1)?[0].0, 1)?.into_iter().map(|(_, a)| (a.call, a.state)).collect();
    assert_eq!(ended, [(3, ApprovalState::Cancelled), (7, ApprovalState::Cancelled)], "what changes together is given together");
    store.remove(&b, &Actor::host()).wait()?;
    assert_eq!(calls(&store.approvals(&ApprovalFilter::default())?.items), [(a, 5)]);
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn a_changed_row_of_an_approval_is_found() -> Result {
    let (dir, store, a, _) = filled()?;
    asked(&store, &a, 5)?;
    for (sql_text, words) in [
        ("UPDATE approvals SET state = 'approved'", "differs"),
        ("UPDATE approvals SET state = 'waiting', doc = replace(doc, 'ls', 'rm')", "differs"),
        ("UPDATE approvals SET call = 6", "that the log does not have"),
        ("DELETE FROM approvals", "is missing"),
    ] {
        sql(dir.path())?.execute_batch(sql_text)?;
        let report = store.verify(Some(&a))?;
        assert!(
            report.findings.iter().any(|f| f.what == What::Projection && f.detail.contains(words)),
            "{sql_text}: {:?}",
            report.findings
        );
    }
    Ok(())
}

/// A policy's state is a projection: durable with its event, replayed, verified, folded anew by an upgrade, gone with the session.
#[test]
fn what_policies_keep_follows_the_log() -> Result {
    let (dir, store, a, b) = filled()?;
    let changed = |body: Value| event("plugin_state_changed", body);
    let first = changed(json!({"policy": "p", "set": {"n": "1", "raw": {"hex": "ff00"}}}))?;
    let second = changed(json!({"policy": "p", "set": {"n": "2"}, "deleted": ["raw", "none"]}))?;
    let other = changed(json!({"policy": "q", "set": {"n": "9"}}))?;
    store.append(batch(&a, vec![first])).wait()?;
    assert_eq!(store.plugin_states(&a)?.0["p"]["raw"], [0xff, 0]);
    store.append(batch(&a, vec![second, other])).wait()?;
    let want = store.plugin_states(&a)?;
    assert_eq!(want.0["p"], [("n".to_owned(), b"2".to_vec())].into());
    assert_eq!((want.0["q"]["n"].as_slice(), store.plugin_states(&b)?.0.len()), (b"9".as_slice(), 0));
    let mut replay = beadle::model::PluginStates::default();
    for e in store.events(&a, 1, 100)? {
        replay.fold(&e.envelope);
    }
    assert_eq!(replay, want);
    assert!(store.verify(None)?.is_sound());
    sql(dir.path())?.execute_batch("UPDATE plugin_states SET value = x'33' WHERE policy = 'p'")?;
    let report = store.verify(Some(&a))?;
    assert!(report.findings.iter().any(|f| f.what == What::Projection && f.detail.contains("policy p")), "{:?}", report.findings);
    drop(store);
    // Another build folds anew.
    sql(dir.path())?.execute_batch("DELETE FROM meta WHERE key = 'folded_by'")?;
    let store = open(dir.path())?;
    assert_eq!(store.plugin_states(&a)?, want);
    assert!(store.verify(None)?.is_sound());
    store.remove(&a, &Actor::host()).wait()?;
    assert!(store.plugin_states(&a).is_err());
    let left = sql(dir.path())?.query_row("SELECT count(*) FROM plugin_states", [], |r| r.get::<_, i64>(0))?;
    assert_eq!(left, 0);
    Ok(())
}

#[test]
fn a_database_of_the_first_schema_is_copied_and_brought_up_to_date() -> Result {
    let (dir, store, a, _) = filled()?;
    asked(&store, &a, 5)?;
    asked(&store, &a, 7)?;
    answered(&store, &a, 5)?;
    drop(store);
    sql(dir.path())?.execute_batch(TO_FIRST)?;
    let store = open(dir.path())?;
    assert_eq!(all_waiting(&store)?.iter().map(|a| a.call).collect::<Vec<_>>(), [7]);
    assert_eq!(stored_approvals(&store, &a)?, replayed_approvals(&store, &a)?);
    assert!(store.verify(None)?.is_sound());
    let backup = dir.path().join("beadle.db.schema-1");
    let old = Connection::open(&backup)?;
    let had = old.query_row("SELECT count(*) FROM events", [], |r| r.get::<_, i64>(0))?;
    let version = old.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0))?;
    assert_eq!((version, had, backup.metadata()?.permissions().mode() & 0o777), (1, 18, 0o600));
    drop(store);
    sql(dir.path())?.execute_batch(TO_FIRST)?;
    std::fs::remove_file(&backup)?;
    std::fs::create_dir_all(dir.path().join("beadle.db.schema-1.draft/x"))?;
    assert_eq!(code(open(dir.path())), "BDL-STORE-028");
    assert_eq!(sql(dir.path())?.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0))?, 1, "without a copy nothing is changed");
    Ok(())
}

#[test]
fn removal_is_noted_and_leaves_no_rows() -> Result {
    let (dir, store, a, b) = filled()?;
    notes(&store, &a, 3_000)?;
    store.remove(&a, &Actor::host()).wait()?;
    assert_eq!(code(store.session(&a)), "BDL-STORE-012");
    assert_eq!(code(store.remove(&a, &Actor::host()).wait()), "BDL-STORE-012");
    let removed = |e: &beadle::store::HostEntry| matches!(&e.event, HostEvent::SessionRemoved(r) if r.session == a && r.last_seq == 3_010);
    assert!(store.host_entries(1, 100)?.iter().any(removed));
    assert!(store.verify(None)?.is_sound());
    let (c, deadline) = (sql(dir.path())?, Instant::now() + Duration::from_secs(20));
    while c.query_row("SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM removals)", [], |r| r.get::<_, i64>(0))? != 5 {
        assert!(Instant::now() < deadline, "events of a removed session are still there");
        std::thread::yield_now();
    }
    assert_eq!(notes(&store, &b, 1)?.last_seq, 6);
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn a_follower_of_all_sessions_misses_nothing_after_a_removal() -> Result {
    let (dir, store, a, b) = filled()?;
    let before = store.newest_row()?;
    store.remove(&b, &Actor::host()).wait()?;
    let (c, deadline) = (sql(dir.path())?, Instant::now() + Duration::from_secs(20));
    while c.query_row("SELECT count(*) FROM removals", [], |r| r.get::<_, i64>(0))? != 0 {
        assert!(Instant::now() < deadline, "the removal does not end");
        std::thread::yield_now();
    }
    drop(store);
    let store = open(dir.path())?;
    notes(&store, &a, 2)?;
    let seen: Vec<_> = store.events_after_row(before, 100)?.into_iter().map(|(_, e)| e.envelope.seq).collect();
    assert_eq!(seen, [11, 12]);
    Ok(())
}

#[test]
fn blobs_are_stored_once_and_checked() -> Result {
    let (dir, store, a, _) = filled()?;
    let bytes = vec![5; 100_000];
    let digest = Hash::of(&bytes);
    let body = json!({ "is_error": false, "output": { "text": "5", "bytes": 100_000, "blob": digest.to_string() } });
    store.append(Batch { blobs: vec![bytes.clone(), bytes.clone()], ..batch(&a, vec![event("tool_ended", body)?]) }).wait()?;
    assert_eq!(store.blob(&digest)?, bytes);
    assert!(store.verify(None)?.is_sound());
    let hex = digest.to_string();
    std::fs::write(dir.path().join("blobs").join(&hex[..2]).join(&hex[2..]), b"changed")?;
    assert_eq!(code(store.blob(&digest)), "BDL-STORE-020");
    assert!(found(&store, &a, 11, What::Blob)?);
    assert_eq!(store.put_blob(&bytes)?, digest);
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn the_host_chain_tells_the_runs_heads_and_settings() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options { head_every_events: 4, ..Options::default() })?;
    let a = begin(&store, "a")?;
    notes(&store, &a, 4)?;
    store.append(batch(&a, vec![event("session_ended", json!({ "outcome": "stopped" }))?])).wait()?;
    let rule = HostEvent::from_parts("rule_revoked", json!({ "id": "r-1", "by": { "role": "host" } }).to_string().as_bytes())?;
    store.note(rule, vec![("rules".into(), Some("[]".into())), ("old".into(), None)]).wait()?;
    store.set_setting("pins", Some("{}".into())).wait()?;
    assert_eq!((store.setting("rules")?, store.setting("pins")?, store.setting("old")?), (Some("[]".into()), Some("{}".into()), None));
    store.close();
    assert_eq!(code(store.set_setting("pins", None).wait()), "BDL-STORE-022");
    drop(store);
    let store = open(dir.path())?;
    let entries = store.host_entries(1, 100)?;
    let kinds: Vec<_> = entries.iter().map(|e| e.event.kind()).collect();
    assert_eq!(kinds, ["opened", "session_created", "session_head", "session_head", "rule_revoked", "host_head", "closed", "opened"]);
    let heads: Vec<_> = entries.iter().filter_map(|e| if let HostEvent::SessionHead(h) = &e.event { Some(h.seq) } else { None }).collect();
    assert_eq!(heads, [5, 6]);
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn a_follower_is_woken_after_the_commit() -> Result {
    let (_dir, store, a, _) = filled()?;
    let mut wakes = store.watch();
    let last = notes(&store, &a, 2)?.last_seq;
    // why: a wake-up of an earlier commit may still be under way; a lost one would let this wait for ever.
    while wakes.blocking_recv()? != (Wake { session: a.clone(), last_seq: last }) {}
    assert_eq!(store.tail(&a, 2)?.iter().map(|e| e.envelope.seq).collect::<Vec<_>>(), [11, 12]);
    Ok(())
}

#[test]
fn an_export_proves_itself() -> Result {
    let (_dir, store, a, _) = filled()?;
    notes(&store, &a, 250)?;
    let (mut prev, mut n) = (Hash::ZERO, 0);
    for line in store.export(&a)? {
        let line = line?;
        let v: Value = serde_json::from_str(&line)?;
        let body: &serde_json::value::RawValue =
            serde_json::from_str::<std::collections::HashMap<&str, &serde_json::value::RawValue>>(&line)?.get("body").ok_or("no body")?;
        let salt: Hash = v["salt"].as_str().ok_or("no salt")?.parse()?;
        let c = commitment(&salt.0, body.get().as_bytes());
        let text = |k: &str| v[k].as_str().unwrap_or_default();
        n += 1;
        let attempt = u32::try_from(v["attempt"].as_u64().unwrap_or(9))?;
        let link = Link {
            session: a.as_str(),
            seq: n,
            at: v["at"].as_i64().unwrap_or(0),
            attempt,
            kind: text("kind").as_bytes(),
            prev: &prev,
            commitment: &c,
        };
        assert_eq!((text("prev"), text("hash")), (&*prev.to_string(), &*link.hash().to_string()));
        prev = link.hash();
    }
    assert_eq!(n, 260);
    Ok(())
}

#[test]
fn projections_of_another_version_are_folded_anew() -> Result {
    let (dir, store, a, _) = filled()?;
    drop(store);
    sql(dir.path())?.execute_batch("UPDATE meta SET value = '0.0.1'; UPDATE sessions SET doc = '{}', status = 'queued'")?;
    let store = open(dir.path())?;
    assert!(store.verify(None)?.is_sound());
    assert_eq!(notes(&store, &a, 1)?.last_seq, 11);
    Ok(())
}

#[test]
fn what_is_not_ours_to_open_is_refused_with_its_reason() -> Result {
    let (dir, store, ..) = filled()?;
    let second = open(dir.path()).err().ok_or("opened twice")?;
    assert!(second.code() == "BDL-STORE-003" && second.to_string().contains(&std::process::id().to_string()), "{second}");
    drop(store);
    sql(dir.path())?.pragma_update(None, "user_version", 99)?;
    assert_eq!(code(open(dir.path())), "BDL-STORE-004");
    std::fs::write(dir.path().join("beadle.db"), "what is this? ".repeat(1_000))?;
    assert_eq!(code(open(dir.path())), "BDL-STORE-007");
    std::fs::write(dir.path().join("beadle.db"), "")?;
    assert_eq!(code(open(dir.path())), "BDL-STORE-006");
    let foreign = tempfile::tempdir()?;
    sql(foreign.path())?.execute_batch("CREATE TABLE tea (cups)")?;
    assert_eq!(code(open(foreign.path())), "BDL-STORE-005");
    Ok(())
}

#[test]
fn a_read_only_folder_is_refused() -> Result {
    let dir = tempfile::tempdir()?;
    let inner = dir.path().join("data");
    std::fs::create_dir(&inner)?;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    std::fs::set_permissions(&inner, PermissionsExt::from_mode(0o555))?;
    // why: root may write anywhere; the thread's file system identity is another one, for this thread alone.
    let opened = std::thread::spawn(move || {
        // SAFETY: changes nothing but this thread's file system uid; no memory is involved.
        unsafe { libc::setfsuid(65_534) };
        open(&inner).map(drop)
    });
    let e = opened.join().map_err(|_| "panicked")?.err().ok_or("opened a read-only folder")?;
    assert!(e.code() == "BDL-STORE-001" && e.to_string().contains("BEADLE_HOME"), "{e}");
    Ok(())
}
