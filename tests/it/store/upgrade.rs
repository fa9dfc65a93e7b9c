//! A new schema is tried on a copy before it is in force, and goes back where nobody was told anything since.

use beadle::store::{rehearse, step_back};

use super::*;

fn version(dir: &Path) -> Result<i64> {
    Ok(sql(dir)?.query_row("PRAGMA user_version", [], |r| r.get(0))?)
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let mut out: Vec<String> = std::fs::read_dir(dir)?.flatten().map(|f| f.file_name().to_string_lossy().into_owned()).collect();
    out.retain(|n| n.starts_with("beadle.db") && !n.ends_with("-wal") && !n.ends_with("-shm"));
    out.sort();
    Ok(out)
}

/// As [`reopened`], for the way back.
fn back(dir: &Path, to: i64) -> Result<Option<std::path::PathBuf>, Error> {
    crate::support::until("nobody holds the folder", || match step_back(dir, to) {
        Err(e) if e.code() == "BDL-STORE-003" => None,
        done => Some(done),
    })
}

#[test]
fn a_rehearsal_works_on_a_copy_and_tells_what_it_would_come_to() -> Result {
    let (dir, store, a, _) = filled()?;
    assert_eq!(rehearse(dir.path())?.report.sessions, 0, "nothing is to be done");
    drop(store);
    sql(dir.path())?.execute_batch(TO_FIRST)?;
    // What one that was cut off left is in nobody's way.
    std::fs::write(dir.path().join("beadle.db.rehearsal"), "half a copy")?;
    std::fs::write(dir.path().join("beadle.db.rehearsal-journal"), "and its log")?;
    let done = rehearse(dir.path())?;
    assert_eq!((done.found, done.report.sessions, done.report.events), (Some(1), 2, 15), "{:?}", done.report.findings);
    assert!(done.schema > 1 && done.report.is_sound());
    assert_eq!((version(dir.path())?, names(dir.path())?), (1, vec!["beadle.db".to_owned()]), "it is as it was");

    sql(dir.path())?.execute("UPDATE events SET at = at + 1 WHERE seq = 3", [])?;
    let done = rehearse(dir.path())?;
    assert!(
        done.against().iter().any(|f| f.what == What::Changed && f.session.as_deref() == Some(a.as_str())),
        "{:?}",
        done.report.findings
    );
    sql(dir.path())?.execute("UPDATE events SET at = at - 1 WHERE seq = 3", [])?;
    // Tables in the way of the new ones: it cannot be done at all.
    sql(dir.path())?.execute_batch("CREATE TABLE approvals (x)")?;
    assert_eq!(code(rehearse(dir.path())), "BDL-STORE-010");
    sql(dir.path())?.execute_batch("DROP TABLE approvals")?;

    // A disk on which two copies have no place.
    let database = std::fs::File::options().write(true).open(dir.path().join("beadle.db"))?;
    let size = database.metadata()?.len();
    let long = crate::support::sparse(&dir.path().join("beadle.db"), 6 << 40);
    let said = rehearse(dir.path()).err().ok_or("it was made")?;
    assert!(said.code() == "BDL-STORE-047" && said.to_string().contains(&format!("{} MiB are needed", (long >> 19) + 16)), "{said}");
    // Nor is it begun by a host that was just installed: the disk stays as it is for the one of before.
    assert_eq!(code(reopened(dir.path()).map(drop)), "BDL-STORE-047");
    database.set_len(size)?;
    assert_eq!(names(dir.path())?, ["beadle.db"]);
    assert!(rehearse(dir.path())?.report.is_sound());
    Ok(())
}

#[test]
fn the_database_of_before_comes_back_unless_something_was_written_since() -> Result {
    let (dir, store, a, _) = filled()?;
    let now = rehearse(dir.path())?.schema;
    drop(store);
    assert_eq!(back(dir.path(), now)?, None, "it was not brought up to date");
    sql(dir.path())?.execute_batch(TO_FIRST)?;
    // A removal that is not at its end yet: the newer host goes on with it, and that is nothing which anybody was told.
    let columns = "seq, at, attempt, kind, hash, salt, body";
    let removed = format!("INSERT INTO removals VALUES (77); INSERT INTO events (session_no, {columns}) SELECT 77, {columns} FROM events");
    sql(dir.path())?.execute_batch(&removed.replace("FROM events", "FROM events WHERE session_no = 1"))?;
    let store = reopened(dir.path())?;
    let is_purged = |c: Connection| c.query_row("SELECT NOT EXISTS (SELECT 1 FROM removals)", [], |r| r.get::<_, bool>(0));
    crate::support::until("the rest of it is gone", || sql(dir.path()).and_then(|c| Ok(is_purged(c)?)).unwrap_or(false).then_some(()));
    drop(store);
    assert_eq!(version(dir.path())?, now);
    let failed = back(dir.path(), 1)?.ok_or("it stays")?;
    assert_eq!((version(dir.path())?, failed.clone()), (1, dir.path().canonicalize()?.join(format!("beadle.db.schema-{now}-failed"))));
    let kept = Connection::open(&failed)?.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0))?;
    assert_eq!((kept, names(dir.path())?.len()), (now, 2), "and the newer one is whole");

    // Once more, and this time somebody was told something.
    type Act<'a> = (&'a str, Box<dyn Fn(&Store) -> Result + 'a>);
    let acts: [Act<'_>; 4] = [
        ("events were written", Box::new(|s| notes(s, &a, 1).map(drop))),
        ("settings were changed", Box::new(|s| Ok(s.set_setting("x", Some("1".into())).wait().map(drop)?))),
        (
            "sessions were changed",
            Box::new(|s| {
                let cursor = Some(7);
                Ok(s.append(Batch { cursor, ..batch(&a, vec![]) }).wait().map(drop)?)
            }),
        ),
        (
            "the host chain was told of project_trusted",
            Box::new(|s| {
                let event = beadle::store::ProjectTrusted { dir: "/p".into(), digest: "d".into(), by: Actor::host() };
                Ok(s.note(HostEvent::ProjectTrusted(event), vec![]).wait().map(drop)?)
            }),
        ),
    ];
    for (what, act) in acts {
        let store = reopened(dir.path())?;
        act(&store)?;
        drop(store);
        let said = back(dir.path(), 1).err().ok_or("it went back")?;
        assert!(said.code() == "BDL-STORE-048" && said.to_string().contains(what), "{what}: {said}");
        assert_eq!(version(dir.path())?, now);
        assert!(reopened(dir.path())?.verify(None)?.is_sound());
        // As it was, for the next.
        std::fs::copy(dir.path().join("beadle.db.schema-1"), dir.path().join("beadle.db"))?;
    }
    std::fs::remove_file(dir.path().join("beadle.db.schema-1"))?;
    drop(reopened(dir.path())?);
    std::fs::remove_file(dir.path().join("beadle.db.schema-1"))?;
    assert_eq!(code(back(dir.path(), 1)), "BDL-STORE-048", "there is nothing to go back to");
    Ok(())
}
