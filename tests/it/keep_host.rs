//! What a host keeps as a whole: garbage goes as the dry run says, and a backup made under load comes back whole elsewhere.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::{Model, TestHost, alive, bash, rules, until};

fn run(host: &TestHost, name: &str, command: &[&str]) -> String {
    let args: Vec<&str> = ["--json", "run", "--wait", "--name", name, "--"].iter().chain(command).copied().collect();
    host.beadle(args).json()["id"].as_str().expect("an id").to_owned()
}

fn verify(host: &TestHost) -> Value {
    let doc = host.beadle(["--json", "verify"]).json();
    assert_eq!(doc["ok"], true, "{doc:#}");
    doc
}

/// Makes a file look as if it was written so long ago.
fn age(path: &Path, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(hours * 3_600);
    std::fs::File::open(path).and_then(|f| f.set_modified(then)).expect("a time");
}

fn names(doc: &Value, kind: &str) -> Vec<String> {
    let items = doc["items"].as_array().expect("items");
    let mut out: Vec<String> = items.iter().filter(|i| i["kind"] == kind).filter_map(|i| i["name"].as_str().map(str::to_owned)).collect();
    out.sort();
    out
}

/// A dry run, then the run: both say the same. Gives what they say.
fn gc(host: &TestHost, args: &[&str]) -> Value {
    let with = |more: &[&str]| {
        let all: Vec<&str> = ["--json", "host", "gc"].iter().chain(args).chain(more).copied().collect();
        host.beadle(all).ok().json()
    };
    let before = host.beadle(["--json", "ls", "--all"]).ok().out;
    let mut dry = with(&["--dry-run"]);
    assert_eq!(host.beadle(["--json", "ls", "--all"]).ok().out, before, "a dry run removes nothing");
    assert_eq!(dry["dry_run"].take(), json!(true));
    let mut done = with(&[]);
    assert_eq!(done["dry_run"].take(), json!(false));
    assert_eq!(done, dry, "what is done is what the dry run said");
    done
}

#[test]
fn ended_sessions_go_by_age_outcome_and_number_and_live_ones_never() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(until:*)", "Bash(test:*)", "Bash(sleep:*)"], &[], &[]));
    let (a, b, c) = (run(&host, "a", &["true"]), run(&host, "b", &["false"]), run(&host, "c", &["true"]));
    let go = host.home().join("go");
    let model =
        Model::start(&json!({ "steps": [bash(&format!("until test -e {}; do sleep 0.05; done", go.display())), { "text": "done" }] }));
    let live = host.run_demo(&model, "go", &[]);
    let child_of = |parent: &str| {
        let args = ["--json", "run", "--wait", "--name", "of", "--parent", parent, "--", "true"];
        host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned()
    };
    let d = child_of(&a);

    assert_eq!(gc(&host, &[])["items"], json!([]), "without an age or a size no session goes");
    assert_eq!(gc(&host, &["--older-than", "1h"])["items"], json!([]));
    let raw = names(&gc(&host, &["--raw-older-than", "0s"]), "raw output");
    let mut all = vec![a.clone(), b.clone(), c.clone(), d.clone()];
    all.sort();
    assert_eq!(raw, all, "their raw output goes, and they stay");
    assert_eq!((host.beadle(["logs", &a]).ok().out.as_str(), host.beadle(["show", &a]).code), ("", 0));
    let failed = host.show(&b)["outcome"].as_str().expect("an outcome").to_owned();
    assert_eq!(names(&gc(&host, &["--older-than", "0s", "--outcome", &failed]), "session"), std::slice::from_ref(&b));
    let doc = gc(&host, &["--older-than", "0s", "--keep", "2"]);
    assert_eq!(names(&doc, "session"), std::slice::from_ref(&a));
    assert_eq!(doc["kept"].as_array().map(Vec::len), Some(2), "{doc:#}");
    for id in [&a, &b] {
        assert_eq!(host.beadle(["show", id]).code, 3, "{id}");
    }
    let doc = gc(&host, &["--over", "1"]);
    let mut want = [c, d];
    want.sort();
    assert_eq!(names(&doc, "session"), want);
    assert_eq!(host.show(&live)["status"], "running");
    std::fs::write(&go, "").expect("a file");
    host.ended(&live);
    verify(&host);
    let chain = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
    let collected: i64 = chain.query_row("SELECT count(*) FROM host_events WHERE kind = 'collected'", [], |r| r.get(0)).expect("a count");
    assert_eq!(collected, 4, "each run that removed something stands on the host chain");
}

#[test]
fn leftovers_go_and_what_is_named_stays() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(cat:*)"], &[], &[]));
    host.file("long.txt", &"line of text\n".repeat(1_000));
    let model = Model::start(&json!({ "steps": [bash("cat long.txt"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let stray = b"nobody names me";
    let digest = blake3::hash(stray).to_hex().to_string();
    let blobs = host.data().join("blobs");
    std::fs::create_dir_all(blobs.join(&digest[..2])).expect("a folder");
    let blob = blobs.join(&digest[..2]).join(&digest[2..]);
    std::fs::write(&blob, stray).expect("a blob");
    for f in walk(&blobs) {
        age(&f, 2);
    }
    let young = blake3::hash(b"young").to_hex().to_string();
    std::fs::create_dir_all(blobs.join(&young[..2])).expect("a folder");
    std::fs::write(blobs.join(&young[..2]).join(&young[2..]), "young").expect("a blob");
    let shim = host.data().join("bin/beadle-shim-0123456789abcdef");
    std::fs::write(&shim, "an older one").expect("a shim");
    age(&shim, 2);
    let folder = host.data().join("s/gone-mwqx60ht-gjq8y");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("out-00000000000000000000.seg"), "x").expect("a segment");
    age(&folder, 2);

    let doc = gc(&host, &[]);
    assert_eq!((names(&doc, "blob"), names(&doc, "shim").len(), names(&doc, "run folder").len()), (vec![digest], 1, 1), "{doc:#}");
    assert!(!blob.exists() && !shim.exists() && !folder.exists());
    assert_eq!(doc["items"].as_array().map(Vec::len), Some(3), "{doc:#}");
    verify(&host);
    // Once its session goes, its payload does.
    assert_eq!(names(&gc(&host, &["--older-than", "0s"]), "blob").len(), 1);
    assert_eq!(walk(&blobs).len(), 1, "the young one");
    verify(&host);
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut out = Vec::new();
    for f in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if f.path().is_dir() { out.extend(walk(&f.path())) } else { out.push(f.path()) }
    }
    out
}

#[test]
fn nothing_goes_that_a_sink_must_still_get() {
    let host = TestHost::new();
    let file = host.home().join("a-file");
    std::fs::write(&file, "").expect("a file");
    host.config(&format!(
        "[[sink]]\nname = \"audit\"\nkind = \"jsonl\"\nmode = \"at-least-once\"\nconfig = {{ path = {:?} }}\n",
        file.join("x.jsonl").display().to_string()
    ));
    let id = run(&host, "a", &["true"]);
    let doc = gc(&host, &["--older-than", "0s"]);
    assert_eq!((names(&doc, "session").len(), doc["kept"][0]["session"].as_str()), (0, Some(id.as_str())), "{doc:#}");
    assert!(doc["kept"][0]["why"].as_str().is_some_and(|w| w.contains("audit")), "{doc:#}");
}

/// A host with an archive, an archive elsewhere, a payload, an erasure and sessions at work.
fn full(host: &mut TestHost) -> (String, Model, std::path::PathBuf) {
    host.config(&rules(&["Bash(echo:*)", "Bash(cat:*)", "Bash(until:*)", "Bash(test:*)", "Bash(sleep:*)"], &[], &[]));
    host.file("long.txt", &"line of text\n".repeat(1_000));
    let model = Model::start(&json!({ "steps": [bash("cat long.txt"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    host.beadle(["redact", &id, "--pattern", "line of text"]).ok();
    host.beadle(["archive", &id, "--below", "5"]).ok();
    let elsewhere = host.home().join("elsewhere.zst");
    host.beadle(["archive", &id, "--to", elsewhere.to_str().expect("text")]).ok();
    run(host, "other", &["true"]);
    let go = host.home().join("go");
    let work = Model::start(
        &json!({ "steps": [bash(&format!("until test -e {}; do sleep 0.05; done", go.display())), bash("echo two"), { "text": "done" }] }),
    );
    (id, work, go)
}

#[test]
fn a_backup_under_load_comes_back_whole_elsewhere() {
    let mut host = TestHost::new();
    let (id, work, go) = full(&mut host);
    let live = host.run_demo(&work, "go", &[]);
    until("a call runs", || (!host.events_of(&live, "tool_started").is_empty()).then_some(()));
    // Sessions come and go while it is made.
    let stop = host.home().join("stop");
    std::thread::scope(|s| {
        let stop_file = &stop;
        let mut load = host.command(["run", "--wait", "--name", "load", "--", "true"]);
        s.spawn(move || {
            while !stop_file.exists() {
                load.output().expect("it runs");
            }
        });
        for to in ["folder", "file.tar.zst"] {
            let to = host.home().join(to);
            let doc = host.beadle(["--json", "host", "backup", to.to_str().expect("text")]).ok().json();
            assert!(doc["file_count"].as_u64() > Some(3) && doc["session_count"].as_u64() >= Some(3), "{doc:#}");
        }
        std::fs::write(stop_file, "").expect("a file");
    });
    std::fs::write(&go, "").expect("a file");
    host.ended(&live);
    let events = host.events(&id);
    for from in ["folder", "file.tar.zst"] {
        let other = TestHost::new();
        other.expects_breaches();
        let from = host.home().join(from);
        let said = other.beadle(["--json", "host", "restore", from.to_str().expect("text")]).ok().json();
        assert!(said["event_count"].as_u64() > Some(20), "{said:#}");
        assert_eq!(other.data().metadata().expect("a folder").permissions().mode() & 0o777, 0o700);
        for f in walk(&other.data()) {
            assert_eq!(f.metadata().expect("a file").permissions().mode() & 0o077, 0, "{}", f.display());
        }
        let doc = verify(&other);
        assert!(doc["archive_count"] == 2 && doc["erased_count"].as_u64() > Some(0), "{doc:#}");
        assert_eq!(other.events(&id), events);
        // What was live there has no process here: it has ended, and is not started a second time.
        let s = other.ended(&live);
        assert_eq!(s["outcome"], "lost", "{s:#}");
        // It goes on: another host key would be found by the host's own chain.
        run(&other, "after", &["true"]);
        verify(&other);
        // In use now: refused while its daemon runs, and over its data only when told.
        let again = other.beadle(["host", "restore", from.to_str().expect("text")]);
        assert!(again.code == 1 && again.err.contains("BDL-STORE-003"), "{again:?}");
        other.beadle(["host", "stop"]).ok();
        // Who was told that it has stopped finds the folder free.
        let again = other.beadle(["host", "restore", from.to_str().expect("text")]);
        assert!(again.code == 1 && again.err.contains("BDL-STORE-045"), "{again:?}");
        let again = other.beadle(["--json", "host", "restore", from.to_str().expect("text"), "--replace"]).ok().json();
        assert!(Path::new(again["aside"].as_str().expect("a folder")).join("beadle.db").exists(), "{again:#}");
        verify(&other);
    }
}

#[test]
fn a_backup_that_is_not_whole_is_not_restored() {
    let mut host = TestHost::new();
    let (_, _work, _) = full(&mut host);
    let to = host.home().join("b");
    let path = to.to_str().expect("text").to_owned();
    host.beadle(["host", "backup", &path]).ok();
    let again = host.beadle(["host", "backup", &path]);
    assert!(again.code == 1 && again.err.contains("BDL-STORE-044"), "nothing is written over: {again:?}");
    let inside = host.data().join("b");
    assert_eq!(host.beadle(["host", "backup", inside.to_str().expect("text")]).code, 2);

    let refused = |why: &str| {
        let other = TestHost::new();
        let said = other.beadle(["host", "restore", &path]);
        assert!(said.code == 1 && said.err.contains("BDL-STORE-044") && said.err.contains(why), "{why}: {said:?}");
        assert!(!other.data().exists(), "nothing was put in place");
    };
    let change = |file: &Path, how: &dyn Fn(&mut Vec<u8>), why: &str| {
        let good = std::fs::read(file).expect("a file");
        let mut bad = good.clone();
        how(&mut bad);
        std::fs::write(file, &bad).expect("written");
        refused(why);
        std::fs::write(file, &good).expect("written");
    };
    let blob = walk(&to.join("blobs")).remove(0);
    change(&blob, &|b| b[0] ^= 1, "has not the bytes");
    change(&to.join("host.key"), &|b| b.truncate(5), "has not the bytes");
    change(&to.join("manifest.json"), &|b| b.truncate(50), "manifest.json");
    change(
        &to.join("manifest.json"),
        &|b| *b = String::from_utf8_lossy(b).replace("host.key", "../x.key").into_bytes(),
        "not a path below it",
    );
    // One who changes the database and its digest does not fool the log.
    let db = to.join("beadle.db");
    let good = (std::fs::read(&db).expect("a file"), std::fs::read_to_string(to.join("manifest.json")).expect("a file"));
    let old = blake3::hash(&good.0).to_hex().to_string();
    rusqlite::Connection::open(&db).expect("it").execute("UPDATE events SET at = at + 1 WHERE seq = 2", []).expect("changed");
    let bytes = std::fs::read(&db).expect("a file");
    let manifest = good
        .1
        .replace(&old, &blake3::hash(&bytes).to_hex())
        .replace(&format!("\"bytes\": {}", good.0.len()), &format!("\"bytes\": {}", bytes.len()));
    std::fs::write(to.join("manifest.json"), manifest).expect("written");
    refused("does not verify");
    std::fs::write(&db, &good.0).expect("written");
    std::fs::write(to.join("manifest.json"), &good.1).expect("written");
    std::fs::remove_file(&blob).expect("removed");
    refused("No such file");
    let daemon = host.daemon();
    assert!(alive(daemon));
}

#[test]
fn a_daemon_that_was_stopped_holds_its_folder_no_more() {
    let host = TestHost::new();
    for _ in 0..10 {
        host.daemon();
        let pid = host.beadle(["--json", "host", "stop"]).ok().json()["pid"].as_u64().expect("a pid");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
}
