//! What is kept stays kept, and what must go goes, where folders are links, secrets are quoted, acts meet and removals fail.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Model, TestHost, alive, bash, fifo, rules, until};

fn run(host: &TestHost, name: &str) -> String {
    host.beadle(["--json", "run", "--wait", "--name", name, "--", "echo", name]).ok().json()["id"].as_str().expect("an id").to_owned()
}

fn is_whole(host: &TestHost) {
    let doc = host.beadle(["--json", "verify"]).json();
    assert_eq!(doc["ok"], true, "{doc:#}");
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for f in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if f.path().is_dir() { out.extend(files_below(&f.path())) } else { out.push(f.path()) }
    }
    out
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn archives_stay_where_the_home_folder_is_a_link() {
    let mut host = TestHost::new();
    std::fs::create_dir_all(host.beadle_home()).expect("a folder");
    let link = host.home().join("link");
    std::os::unix::fs::symlink(host.beadle_home(), &link).expect("a link");
    host.set("BEADLE_HOME", text(&link));
    let (id, other) = (run(&host, "a"), run(&host, "b"));
    host.beadle(["archive", &id]).ok();
    // Named by its place in the folder, though the way there was another one.
    host.beadle(["archive", &other, "--to", text(&link.join("data/archives/mine.jsonl.zst"))]).ok();
    let events = host.events(&id);
    host.kill_daemon();
    assert_eq!(host.events(&id), events);
    is_whole(&host);
    assert_eq!(files_below(&host.data().join("archives")).len(), 2);
    host.beadle(["redact", &id, "--pattern", "echo"]).ok();
    host.kill_daemon();
    is_whole(&host);
}

#[test]
fn nothing_is_tidied_away_while_an_archive_is_missing() {
    let host = TestHost::new();
    let id = run(&host, "a");
    host.beadle(["archive", &id]).ok();
    let archive = files_below(&host.data().join("archives")).remove(0);
    let renamed = archive.with_file_name("put-back-under-another-name.zst");
    host.beadle(["host", "stop"]).ok();
    std::fs::rename(&archive, &renamed).expect("moved");
    assert_eq!(host.beadle(["--json", "verify"]).json()["ok"], false);
    assert!(renamed.exists(), "it may be the one that is missing");
    host.beadle(["host", "stop"]).ok();
    std::fs::rename(&renamed, &archive).expect("moved");
    std::fs::write(archive.with_file_name("stray.zst"), "x").expect("a file");
    host.daemon();
    is_whole(&host);
    assert_eq!(files_below(&host.data().join("archives")), [archive]);
}

#[test]
fn a_secret_of_several_lines_goes_from_payloads_and_raw_output() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(cat:*)"], &[], &[]));
    // Over two lines and with quotes: within the agent's JSON lines it stands escaped.
    let secret = "zebra-key \"one\"\nzebra-key-two";
    let long = format!("{}{secret}\n", "line of text\n".repeat(1_000));
    host.file("long.txt", &long);
    // A payload in which the text stands as JSON does.
    host.file("long.json", &json!({ "pad": "x".repeat(20_000), "k": secret }).to_string());
    let model = Model::start(&json!({ "steps": [bash("cat long.txt"), bash("cat long.json"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let holding = || {
        let holds = |p: &PathBuf| String::from_utf8_lossy(&std::fs::read(p).unwrap_or_default()).contains("zebra-key-two");
        files_below(&host.data()).into_iter().filter(holds).collect::<Vec<_>>()
    };
    assert!(holding().iter().any(|p| p.extension().is_some_and(|e| e == "seg")), "{:?}", holding());
    let doc = host.beadle(["--json", "redact", &id, "--pattern", secret]).ok().json();
    assert_eq!((&doc["left"], doc["blobs"].as_array().map(Vec::len)), (&json!([]), Some(2)), "{doc:#}");
    assert_eq!(holding(), Vec::<PathBuf>::new());
    is_whole(&host);
}

#[test]
fn a_file_that_cannot_be_looked_through_is_named() {
    let host = TestHost::new();
    let id = run(&host, "hush-zebra");
    let huge = host.data().join("s").join(&id).join("huge");
    std::fs::File::create(&huge).and_then(|f| f.set_len((256 << 20) + 1)).expect("a sparse file");
    let doc = host.beadle(["--json", "redact", &id, "--pattern", "hush-zebra"]).ok().json();
    assert!(doc["left"][0].as_str().is_some_and(|l| l.contains("huge (over 256 MiB)")), "{doc:#}");
}

#[test]
fn a_restore_waits_for_agents_and_theirs_stay_agents() {
    let host = TestHost::new();
    run(&host, "a");
    let backup = host.home().join("backup");
    host.beadle(["host", "backup", text(&backup)]).ok();
    let (go, told) = (host.home().join("go"), host.home().join("told"));
    let ask = format!("BEADLE_HOME={} {} host stop", host.beadle_home().display(), env!("CARGO_BIN_EXE_beadle"));
    let script = format!(
        "until test -e {}; do sleep 0.05; done; {ask} > {told} 2>&1; echo \"code $?\" >> {told}",
        go.display(),
        told = told.display()
    );
    let live = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", &script]).ok().json();
    let live = live["id"].as_str().expect("an id");
    host.kill_daemon();
    let said = host.beadle(["host", "restore", text(&backup), "--replace"]);
    assert!(said.code == 1 && said.err.contains("BDL-STORE-046") && said.err.contains(live), "{said:?}");
    assert!(host.beadle(["--json", "ps", live]).code == 0, "nothing has changed");

    // Who moves the folder by hand gets a host that does not know the session; its processes are no operator's for that.
    host.kill_daemon();
    std::fs::rename(host.data(), host.beadle_home().join("data.before-1")).expect("moved");
    let daemon = host.daemon();
    std::fs::write(&go, "").expect("a file");
    let said = until("the agent was answered", || std::fs::read_to_string(&told).ok().filter(|t| t.contains("code ")));
    assert!(!said.contains("code 0") && said.contains("does not know"), "{said}");
    assert!(alive(daemon));
}

#[test]
fn a_removal_waits_for_a_backup_that_still_needs_its_archive() {
    let host = TestHost::new();
    let (a, b) = (run(&host, "a"), run(&host, "b"));
    let elsewhere = host.home().join("elsewhere.zst");
    host.beadle(["archive", &a, "--to", text(&elsewhere)]).ok();
    host.beadle(["archive", &b]).ok();
    let gate = host.home().join("gate");
    std::fs::create_dir(&gate).expect("a folder");
    host.beadle(["host", "stop"]).ok();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("backup_begun=wait:{}", gate.display()));
    let backup = host.home().join("backup");
    let made = host.spawn(["host", "backup", text(&backup)]);
    until("the backup stands still", || gate.join("reached").exists().then_some(()));
    let removed = host.spawn(["rm", &b]);
    for _ in 0..30 {
        assert_eq!(host.beadle(["show", &b]).code, 0, "it is in the backup's database, and so must its archive be");
    }
    std::fs::write(gate.join("go"), "").expect("a file");
    for child in [made, removed] {
        let out = child.wait_with_output().expect("it ends");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let other = TestHost::new();
    other.beadle(["host", "restore", text(&backup)]).ok();
    is_whole(&other);
    assert_eq!(other.beadle(["show", &b]).code, 0);
    host.beadle(["host", "stop"]).ok();
    daemon.wait().expect("it has ended");
}

#[test]
fn a_pipe_in_the_place_of_an_archive_holds_nobody_up() {
    let host = TestHost::new();
    let a = run(&host, "a");
    let elsewhere = host.home().join("elsewhere.zst");
    host.beadle(["archive", &a, "--to", text(&elsewhere)]).ok();
    let bytes = std::fs::read(&elsewhere).expect("the archive");
    std::fs::remove_file(&elsewhere).expect("removed");
    let _writes = fifo(&elsewhere);
    for args in [&["archive", "restore", &a][..], &["events", &a], &["redact", &a, "--pattern", "nobody wrote this"]] {
        let said = host.beadle(args);
        assert!(said.code == 1 && said.err.contains("BDL-STORE-040") && said.err.contains("it is not a file"), "{said:?}");
    }
    let said = host.beadle(["--json", "host", "backup", text(&host.home().join("backup"))]);
    assert!(said.code == 1 && said.json()["missing"][0]["file"] == text(&elsewhere), "{said:?}");
    std::fs::remove_file(&elsewhere).expect("removed");
    std::fs::write(&elsewhere, &bytes).expect("written");
    host.beadle(["archive", "restore", &a]).ok();
    is_whole(&host);
}

#[test]
fn a_payload_stays_where_its_session_could_not_be_removed() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(cat:*)"], &[], &[]));
    let ids: Vec<String> = ["one", "two"]
        .iter()
        .map(|n| {
            host.file("long.txt", &format!("line of {n}\n").repeat(1_000));
            let model = Model::start(&json!({ "steps": [bash("cat long.txt"), { "text": "done" }] }));
            let id = host.run_demo(&model, "go", &[]);
            host.ended(&id);
            id
        })
        .collect();
    for f in files_below(&host.data().join("blobs")) {
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(7_200);
        std::fs::File::open(f).and_then(|f| f.set_modified(then)).expect("a time");
    }
    let db = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
    db.busy_timeout(std::time::Duration::from_secs(10)).expect("set");
    let refuse = format!("CREATE TRIGGER no BEFORE DELETE ON sessions WHEN old.id = '{}' BEGIN SELECT RAISE(ABORT, 'no'); END", ids[0]);
    db.execute_batch(&refuse).expect("a trigger");
    let doc = host.beadle(["--json", "host", "gc", "--older-than", "0s"]).json();
    let of = |kind: &str, failed: bool| {
        let items = doc["items"].as_array().expect("items").iter();
        items.filter(|i: &&Value| i["kind"] == kind && i["failed"].is_string() == failed).count()
    };
    assert_eq!((of("session", true), of("session", false)), (1, 1), "{doc:#}");
    assert_eq!((of("blob", true), of("blob", false)), (1, 1), "the payload of the one that stays does too: {doc:#}");
    db.execute_batch("DROP TRIGGER no").expect("dropped");
    drop(db);
    is_whole(&host);
    assert_eq!(host.beadle(["show", &ids[0]]).code, 0);
}

#[test]
fn a_text_that_is_also_the_agents_name_leaves_the_log_sound() {
    let host = TestHost::new();
    let id = run(&host, "a");
    let agent = host.show(&id)["agent"].as_str().expect("a name").to_owned();
    host.beadle(["redact", &id, "--pattern", &agent]).ok();
    is_whole(&host);
    host.kill_daemon();
    is_whole(&host);
    host.expects_breaches();
}

#[test]
fn files_of_others_are_not_taken_for_drafts_or_leftovers() {
    let host = TestHost::new();
    let id = run(&host, "a");
    let mine = host.home().join("backup.draft/mine");
    std::fs::create_dir(host.home().join("backup.draft")).expect("a folder");
    let (target, kept) = (host.home().join("target"), host.home().join("kept"));
    for file in [&mine, &target, &kept] {
        std::fs::write(file, "mine").expect("a file");
    }
    std::os::unix::fs::symlink(&target, host.home().join("a.zst.draft")).expect("a link");
    host.beadle(["host", "backup", text(&host.home().join("backup"))]).ok();
    host.beadle(["archive", &id, "--to", text(&host.home().join("a.zst"))]).ok();
    host.beadle(["host", "stop"]).ok();
    // A row of a foreign database, staged and never in force.
    let db = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
    let sql = "INSERT INTO archives (session_no, first, last, file, digest, head, bytes, places, staged) SELECT no, 900, 901, ?1, X'', X'', 0, '[]', 1 FROM sessions";
    for file in [text(&kept), "archives/../../../user/kept"] {
        db.execute(&sql.replace("900", if file.starts_with('/') { "900" } else { "800" }), [file]).expect("a row");
    }
    drop(db);
    host.daemon();
    for file in [&mine, &target, &kept] {
        assert_eq!(std::fs::read_to_string(file).ok().as_deref(), Some("mine"), "{}", file.display());
    }
    is_whole(&host);
}
