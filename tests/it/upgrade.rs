//! `host upgrade` over a change of the store's schema: tried on a copy first, and taken back with the store from before.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Said, TestHost, alive, until};

/// A host with one ended session; gives its id.
fn host() -> (TestHost, String) {
    let host = TestHost::new();
    let id = host.beadle(["--json", "run", "--wait", "--", "true"]).ok().json()["id"].as_str().expect("an id").to_owned();
    (host, id)
}

fn schema(host: &TestHost) -> i64 {
    host.beadle(["--json", "daemon", "--check"]).ok().json()["schema"].as_i64().expect("a number")
}

/// An executable of the next schema: its check is the real one's but for that, its rehearsal says `tried`, and its daemon does `daemon`
/// once it has changed the schema, with a copy from before as the real one makes it (`copy` is where that comes from).
fn next(host: &TestHost, tried: &str, copy: &str, daemon: &str) -> PathBuf {
    let (real, now) = (env!("CARGO_BIN_EXE_beadle"), schema(host));
    let db = host.data().join("beadle.db");
    let db = db.display().to_string();
    let copy = copy.replace("{db}", &db);
    host.program(
        "next",
        &format!(
            "#!/bin/sh\ncase \"$*\" in\n\
             *--rehearse*) {tried} ;;\n\
             *--check*) {real} \"$@\" | sed 's/\"schema\":{now}/\"schema\":{then}/'; exit ;;\n\
             esac\n\
             while test -s {db}-wal; do sleep 0.02; done\n\
             cp {copy} {db}.schema-{now}\n\
             printf '\\{then:03o}' | dd of={db} bs=1 seek=63 conv=notrunc 2> /dev/null\n\
             {daemon}\n",
            then = now + 1
        ),
    )
}

fn sound(host: &TestHost, findings: u64) -> String {
    let now = schema(host);
    let doc = json!({ "version": "9.9.9", "schema": now + 1, "found_schema": now, "session_count": 1, "event_count": 5,
        "finding_count": findings, "first_finding": "a-session: its hash was changed" });
    format!("echo '{doc}'; exit")
}

fn upgrade(host: &TestHost, to: &std::path::Path, more: &[&str]) -> Said {
    let args = ["--json", "host", "upgrade", "--to", to.to_str().expect("text")];
    host.beadle(args.iter().chain(more))
}

fn version(host: &TestHost) -> i64 {
    let db = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
    db.query_row("PRAGMA user_version", [], |r| r.get(0)).expect("a number")
}

fn is_whole(host: &TestHost) -> Value {
    let doc = host.beadle(["--json", "verify"]).json();
    assert_eq!(doc["ok"], true, "{doc:#}");
    doc
}

#[test]
fn a_schema_that_does_not_fit_a_copy_changes_nothing() {
    let (host, _) = host();
    let (pid, now) = (host.daemon(), schema(&host));
    for (tried, says) in [
        ("echo 'error BDL-STORE-047: 9 MiB are needed' >&2; exit 125".to_owned(), "9 MiB are needed"),
        (sound(&host, 2), "does not verify (2 findings; the first: a-session: its hash was changed)"),
    ] {
        let said = upgrade(&host, &next(&host, &tried, "{db}", "exit 7"), &[]);
        assert!(said.code == 1 && said.err.contains("BDL-CLI-040") && said.err.contains(says), "{said:?}");
        assert!(said.err.contains("nothing was changed"), "{said:?}");
    }
    assert_eq!((host.daemon(), version(&host)), (pid, now), "the same daemon all the while");
    let doc = host.beadle(["--json", "daemon", "--check", "--rehearse"]).ok().json();
    assert_eq!((doc["finding_count"].as_u64(), doc["schema"].as_i64()), (Some(0), Some(now)), "{doc:#}");
}

#[test]
fn the_store_of_before_comes_back_with_the_executable_of_before() {
    let (host, id) = host();
    let (pid, now, events) = (host.daemon(), schema(&host), host.events(&id));
    // A large store takes its time: it is waited for as long as it lives.
    let said = upgrade(&host, &next(&host, &sound(&host, 0), "{db}", "sleep 11; exit 7"), &[]);
    let doc = said.json();
    let why = doc["rolled_back"].as_str().expect("why");
    assert!(said.code == 1 && why.contains("exit status: 7") && why.contains("the store is the one of before again"), "{said:?}");
    assert!(!alive(pid) && host.daemon() != pid);
    assert_eq!((version(&host), host.events(&id)), (now, events));
    let failed = host.data().join(format!("beadle.db.schema-{}-failed", now + 1));
    assert!(failed.exists() && why.contains(&failed.display().to_string()), "{why}");
    is_whole(&host);
    // One that hangs is ended first, once its time is up.
    let said = upgrade(&host, &next(&host, &sound(&host, 2), "{db}", "exec sleep 1000"), &["--force", "--within", "5s"]);
    assert!(said.code == 1 && said.json()["rolled_back"].as_str().is_some_and(|w| w.contains("of before again")), "{said:?}");
    assert_eq!(version(&host), now);
    is_whole(&host);
}

#[test]
fn the_store_of_before_stays_away_where_somebody_was_told_something() {
    let (host, _) = host();
    let now = schema(&host);
    let old = host.home().join("old.db");
    host.beadle(["host", "stop"]).ok();
    let db = host.data().join("beadle.db");
    until("the database is whole", || db.with_extension("db-wal").metadata().map_or(true, |m| m.len() == 0).then_some(()));
    std::fs::copy(&db, &old).expect("a copy");
    // What the copy from before does not have: as if the new executable had written it.
    let id = host.beadle(["--json", "run", "--wait", "--", "true"]).ok().json()["id"].as_str().expect("an id").to_owned();
    let said = upgrade(&host, &next(&host, &sound(&host, 0), &old.display().to_string(), "exit 7"), &[]);
    assert!(said.code == 1 && said.err.contains("BDL-CLI-041"), "{said:?}");
    assert!(said.err.contains("events were written since, which would be lost") && said.err.contains("no daemon runs"), "{said:?}");
    assert_eq!(version(&host), now + 1, "nothing was put in its place");
    assert!(db.with_extension(format!("db.schema-{now}")).exists());
    // Only a test can know that it is the same schema.
    rusqlite::Connection::open(&db).expect("the database").pragma_update(None, "user_version", now).expect("set");
    assert_eq!(host.show(&id)["status"], "ended");
    is_whole(&host);
}
