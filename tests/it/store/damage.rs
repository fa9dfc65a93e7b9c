//! Damage and death: kill -9, disk errors, flipped, cut, swapped and torn bytes, rewritten logs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use beadle::model::{Actor, SessionId};
use beadle::store::{Batch, Checkpoint, Filter, Options, Store, What};

use super::{Result, batch, begin, code, event, filled, found, note, notes, open, replay, sql};

const CHILD: &str = "BEADLE_TEST_STORE_CHILD";

/// Starts this test binary anew as the child named `what`.
fn child(what: &str, dir: &Path) -> Result<Command> {
    let module = module_path!().split_once("::").map_or("", |(_, m)| m);
    let mut c = Command::new(std::env::current_exe()?);
    c.args(["--exact", &format!("{module}::in_a_child"), "--nocapture"]).env(CHILD, what).env("BEADLE_TEST_STORE_DIR", dir);
    Ok(c)
}

/// Not a test by itself: what the tests below run in a process of their own.
#[test]
fn in_a_child() -> Result {
    let (Ok(what), Ok(dir)) = (std::env::var(CHILD), std::env::var("BEADLE_TEST_STORE_DIR")) else { return Ok(()) };
    let store = open(Path::new(&dir))?;
    match what.as_str() {
        "append" => append_and_tell(&store),
        _ => outgrow_the_file_limit(&store),
    }
}

fn append_and_tell(store: &Store) -> Result {
    let ids: Vec<_> = store.sessions(&Filter::default())?.items.into_iter().map(|s| s.id).collect();
    loop {
        let tickets: Vec<_> = ids.iter().cycle().take(12).map(|id| Ok(store.append(batch(id, vec![note("x")?])))).collect::<Result<_>>()?;
        for t in tickets {
            let a = t.wait()?;
            writeln!(std::io::stdout(), "acked {} {}", a.session.id, a.last_seq)?;
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() -> Result {
    let dir = tempfile::tempdir()?;
    let store = open(dir.path())?;
    let ids = [begin(&store, "a")?, begin(&store, "b")?, begin(&store, "c")?];
    drop(store);
    for round in 0..6 {
        let mut running = child("append", dir.path())?.stdout(Stdio::piped()).spawn()?;
        let out = running.stdout.take().ok_or("no stdout")?;
        let (mut acked, mut told) = (std::collections::HashMap::new(), 0);
        for line in BufReader::new(out).lines() {
            let line = line?;
            if let Some((id, seq)) = line.strip_prefix("acked ").and_then(|l| l.split_once(' ')) {
                acked.insert(id.to_owned(), seq.parse::<u64>()?);
                told += 1;
            }
            if told == 40 * (round + 1) {
                running.kill()?;
            }
        }
        running.wait()?;
        let store = open(dir.path())?;
        assert!(store.damaged().is_empty());
        for id in &ids {
            let (last, told) = (store.session(id)?.last_seq, acked.get(id.as_str()).copied().unwrap_or(0));
            assert!(told > 0 && last >= told, "{id}: told {told}, kept {last}");
            assert_eq!(store.events(id, 1, 10_000)?.len() as u64, last);
            assert_eq!(store.session(id)?, replay(&store, id)?);
        }
        let report = store.verify(None)?;
        assert!(report.is_sound(), "{:?}", report.findings);
    }
    Ok(())
}

/// A real I/O error at any write: the file size limit of the process.
fn outgrow_the_file_limit(store: &Store) -> Result {
    let id = begin(store, "a")?;
    let limit = |bytes| {
        let max = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: both calls only change this process's own limits and signal handling; the pointer is to a live value.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) != libc::SIG_ERR && libc::setrlimit(libc::RLIMIT_FSIZE, &raw const max) == 0 }
    };
    assert!(limit(512 << 10));
    let big = "x".repeat(20_000);
    let (mut kept, mut failed) = (1, 0);
    while failed < 5 {
        match store.append(batch(&id, vec![note(&big)?])).wait() {
            Ok(a) => kept = a.last_seq,
            Err(e) => failed += u32::from(e.code() == "BDL-STORE-010" || e.code() == "BDL-STORE-008"),
        }
    }
    assert!(limit(libc::RLIM_INFINITY));
    assert_eq!(notes(store, &id, 1)?.first_seq, kept + 1);
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn a_write_error_fails_its_caller_and_the_writer_goes_on() -> Result {
    let dir = tempfile::tempdir()?;
    let out = child("limit", dir.path())?.output()?;
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(open(dir.path())?.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn a_full_disk_fails_the_large_append_and_not_the_small_ones_of_its_group() -> Result {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path(), Options { max_bytes: Some(1 << 20), ..Options::default() })?;
    let (a, b) = (begin(&store, "a")?, begin(&store, "b")?);
    let small: Vec<_> = (0..20).map(|_| Ok(store.append(batch(&a, vec![note("small")?])))).collect::<Result<_>>()?;
    let large = store.append(batch(&b, vec![note(&"x".repeat(2 << 20))?]));
    let after = store.append(batch(&a, vec![note("after")?]));
    small.into_iter().try_for_each(|t| t.wait().map(drop))?;
    assert_eq!(code(large.wait()), "BDL-STORE-008");
    assert_eq!(after.wait()?.last_seq, 22);
    assert_eq!(notes(&store, &b, 1)?.last_seq, 2);
    assert!(store.verify(None)?.is_sound());
    Ok(())
}

#[test]
fn any_changed_column_is_named() -> Result {
    let (dir, store, a, b) = filled()?;
    let c = sql(dir.path())?;
    let no: i64 = c.query_row("SELECT no FROM sessions WHERE id = ?1", [a.as_str()], |r| r.get(0))?;
    for seq in [1u64, 5, 10] {
        let row = i64::try_from(seq)?;
        for column in ["body", "salt", "hash"] {
            let read = format!("SELECT {column} FROM events WHERE session_no = ?1 AND seq = ?2");
            let write = format!("UPDATE events SET {column} = ?3 WHERE session_no = ?1 AND seq = ?2");
            let sound: Vec<u8> = c.query_row(&read, (no, row), |r| r.get(0))?;
            for i in 0..sound.len() {
                let mut bad = sound.clone();
                bad[i] ^= 1 << (i % 8);
                c.execute(&write, (no, row, bad))?;
                if i % 8 == 0 || i + 1 == sound.len() {
                    assert!(found(&store, &a, seq, What::Changed)?, "{column} byte {i} of seq {seq}");
                }
            }
            c.execute(&write, (no, row, sound))?;
        }
        for (change, back) in [
            ("kind = kind || 'x'", "kind = substr(kind, 1, length(kind) - 1)"),
            ("at = at + 1", "at = at - 1"),
            ("attempt = attempt + 1", "attempt = attempt - 1"),
        ] {
            c.execute(&format!("UPDATE events SET {change} WHERE session_no = ?1 AND seq = ?2"), (no, row))?;
            assert!(found(&store, &a, seq, What::Changed)?, "{change} of seq {seq}");
            c.execute(&format!("UPDATE events SET {back} WHERE session_no = ?1 AND seq = ?2"), (no, row))?;
        }
    }
    assert!(store.verify(None)?.is_sound());
    c.execute("UPDATE host_events SET body = CAST(replace(CAST(body AS TEXT), 'a-', 'b-') AS BLOB) WHERE seq = 2", [])?;
    assert!(store.verify(Some(&b))?.findings.iter().any(|f| f.session.is_none() && f.seq == Some(2) && f.what == What::Changed));
    Ok(())
}

#[test]
fn cuts_gaps_and_swaps_are_named() -> Result {
    let edits = [
        ("DELETE FROM events WHERE session_no = 1 AND seq = 10", 10, What::Cut),
        ("DELETE FROM events WHERE session_no = 1 AND seq IN (4, 5)", 4, What::Gap),
        ("DELETE FROM events WHERE session_no = 1 AND seq = 1", 1, What::Gap),
        ("UPDATE events SET seq = CASE seq WHEN 103 THEN 6 WHEN 106 THEN 3 ELSE seq END WHERE session_no = 1", 3, What::Changed),
        ("UPDATE sessions SET last_seq = 9 WHERE no = 1", 10, What::Cut),
    ];
    for (edit, seq, what) in edits {
        let (dir, store, a, _) = filled()?;
        let c = sql(dir.path())?;
        c.execute("UPDATE events SET seq = seq + 100 WHERE session_no = 1 AND seq IN (3, 6) AND ?1 = 'Changed'", [format!("{what:?}")])?;
        c.execute(edit, [])?;
        assert!(found(&store, &a, seq, what)?, "{edit}: {:?}", store.verify(None)?.findings);
    }
    for (edit, what) in [
        ("UPDATE sessions SET doc = replace(doc, '\"turns\":0', '\"turns\":1') WHERE no = 1", What::Projection),
        ("UPDATE sessions SET status = 'ended' WHERE no = 1", What::Projection),
        ("UPDATE sessions SET name = 'z' WHERE no = 1", What::Projection),
        ("DELETE FROM sessions WHERE no = 1", What::Missing),
        ("DELETE FROM host_events WHERE seq = 2", What::Missing),
    ] {
        let (dir, store, a, _) = filled()?;
        assert_eq!(sql(dir.path())?.execute(edit, [])?, 1);
        let report = store.verify(None)?;
        assert!(
            report.findings.iter().any(|f| f.session.as_deref() == Some(a.as_str()) && f.what == what),
            "{edit}: {:?}",
            report.findings
        );
    }
    Ok(())
}

#[test]
fn an_append_never_builds_upon_a_damaged_end() -> Result {
    let (dir, store, a, b) = filled()?;
    drop(store);
    sql(dir.path())?
        .execute_batch("DELETE FROM events WHERE session_no = 1 AND seq = 10; DELETE FROM host_events WHERE kind = 'closed'")?;
    let store = open(dir.path())?;
    assert_eq!(store.damaged(), [a.to_string()]);
    assert_eq!(code(store.append(batch(&a, vec![note("x")?])).wait()), "BDL-STORE-018");
    assert_eq!(notes(&store, &b, 1)?.last_seq, 6);
    Ok(())
}

#[test]
fn a_checkpoint_finds_what_a_chain_alone_cannot() -> Result {
    let (dir, store, a, _) = filled()?;
    drop(store);
    let older = tempfile::tempdir()?;
    for f in ["beadle.db", "host.key"] {
        std::fs::copy(dir.path().join(f), older.path().join(f))?;
    }
    let store = open(dir.path())?;
    notes(&store, &a, 3)?;
    let c = begin(&store, "c")?;
    let saved = serde_json::to_vec(&store.checkpoint()?)?;
    let checkpoint = Checkpoint::from_json(&saved)?;
    assert!(store.verify_against(None, &checkpoint)?.is_sound());
    // why: removal in order is noted and no finding; the older copy stands for a cut tail, a lost session and a cut host chain.
    store.remove(&c, &Actor::host()).wait()?;
    assert!(store.verify_against(None, &checkpoint)?.is_sound());
    let cut = open(older.path())?;
    assert!(cut.verify(None)?.is_sound());
    let report = cut.verify_against(None, &checkpoint)?;
    let has =
        |s: Option<&SessionId>, what| report.findings.iter().any(|f| f.session.as_deref() == s.map(SessionId::as_str) && f.what == what);
    assert!(has(Some(&a), What::Cut) && has(Some(&c), What::Missing) && has(None, What::Cut), "{:?}", report.findings);
    // The same ids and length with other content: a whole log written anew.
    let events = [note("other")?, note("other")?, note("other")?];
    cut.append(batch(&a, events.to_vec())).wait()?;
    assert!(cut.verify(None)?.is_sound());
    let report = cut.verify_against(Some(&a), &checkpoint)?;
    assert!(report.findings.iter().any(|f| f.what == What::Head && f.seq == Some(13)), "{:?}", report.findings);
    let forged = String::from_utf8(saved)?.replace("\"seq\":13", "\"seq\":12");
    assert_eq!(code(Checkpoint::from_json(forged.as_bytes())), "BDL-STORE-024");
    Ok(())
}

#[test]
fn a_torn_log_keeps_a_prefix_or_is_reported() -> Result {
    let (dir, store, a, _) = filled()?;
    for _ in 0..40 {
        notes(&store, &a, 1)?;
    }
    let whole = store.events(&a, 1, 1_000)?;
    let len = std::fs::metadata(dir.path().join("beadle.db-wal"))?.len();
    let copy = |torn: &dyn Fn(&std::fs::File) -> std::io::Result<()>| -> Result<u64> {
        let to = tempfile::tempdir()?;
        for f in ["beadle.db", "beadle.db-wal", "host.key"] {
            std::fs::copy(dir.path().join(f), to.path().join(f))?;
        }
        torn(&std::fs::OpenOptions::new().write(true).open(to.path().join("beadle.db-wal"))?)?;
        let Ok(store) = open(to.path()) else { return Ok(0) };
        let Ok(events) = store.events(&a, 1, 1_000) else { return Ok(0) };
        assert_eq!(events, whole[..events.len()]);
        let report = store.verify(None)?;
        assert!(report.is_sound(), "{:?}", report.findings);
        Ok(events.len() as u64)
    };
    assert_eq!(copy(&|_| Ok(()))?, whole.len() as u64);
    let mut kept = std::collections::BTreeSet::new();
    for i in 1..40 {
        let at = len * i / 40 + i;
        kept.insert(copy(&|f| f.set_len(at.min(len)))?);
        kept.insert(copy(&|f| f.write_all_at(&[0xA5; 64], at.min(len - 64)))?);
    }
    assert!(kept.len() > 5, "torn logs kept {kept:?}");
    Ok(())
}

/// A branch names what it goes on from by a hash, so a first log that was rewritten as a whole is found by those that came from it.
#[test]
fn a_branch_finds_that_the_log_it_goes_on_from_is_another_one() -> Result {
    let (_dir, store, first, _) = filled()?;
    let hash = store.events(&first, 3, 1)?[0].hash.to_string();
    let branch = |name: &str, at: u64, hash: &str| -> Result<SessionId> {
        let id: SessionId = format!("{name}-1-bbbbb").parse()?;
        let origin = serde_json::json!({ "how": "fork", "session": first.as_str(), "at": at, "hash": hash, "given": "replay" });
        let body = serde_json::json!({ "name": name, "agent": "claude", "command": ["claude"], "cwd": "/p", "mediation": "gate",
            "created_by": { "role": "host" }, "labels": {}, "beadle_version": "0.1.0", "origin": origin });
        store.append(Batch { expected: Some(0), ..batch(&id, vec![event("session_created", body)?]) }).wait()?;
        Ok(id)
    };
    branch("true", 3, &hash)?;
    assert!(store.verify(None)?.is_sound(), "{:?}", store.verify(None)?.findings);
    let (other, beyond) = (branch("other", 4, &hash)?, branch("beyond", 99, &hash)?);
    assert!(found(&store, &other, 1, What::Head)? && found(&store, &beyond, 1, What::Head)?);
    assert_eq!(store.verify(None)?.findings.len(), 2);
    // Where the first log is removed in the open, nothing is left to compare with.
    store.remove(&first, &Actor::host()).wait()?;
    assert_eq!(store.verify(None)?.findings.len(), 0);
    Ok(())
}
