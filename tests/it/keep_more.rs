//! What is kept or erased where a part cannot be: the rest is done, what is not is named, and the exit code says so.

use std::path::Path;

use serde_json::{Value, json};

use crate::keep::{HUSH, ended, files_below, holding, is_whole};
use crate::operator::wait_code;
use crate::support::{Model, Terminal, TestHost, bash, fifo, rules, sparse, until};

fn run(host: &TestHost, command: &[&str]) -> String {
    let args: Vec<&str> = ["--json", "run", "--wait", "--"].iter().chain(command).copied().collect();
    host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn list(doc: &Value, field: &str) -> Vec<String> {
    doc[field].as_array().into_iter().flatten().map(|v| v.as_str().expect("text").to_owned()).collect()
}

#[test]
fn an_erasure_beside_an_archive_that_is_away_does_the_rest_and_ends_later() {
    let mut host = TestHost::new();
    let (id, _) = ended(&mut host);
    let other = run(&host, &["true"]);
    let (file, away) = (host.home().join("other.zst"), host.home().join("away"));
    host.beadle(["archive", &other, "--to", text(&file)]).ok();
    std::fs::rename(&file, &away).expect("moved");
    let said = host.beadle(["--json", "redact", &id, "--pattern", HUSH]);
    let doc = said.json();
    let failed = list(&doc, "failed");
    assert!(said.code == 1 && doc["events"].as_array().is_some_and(|e| e.len() >= 4), "{said:?}");
    assert!(failed.len() == 1 && failed[0].contains("payload") && failed[0].contains("other.zst"), "{failed:?}");
    assert!(doc["blobs"] == json!([]) && !list(&doc, "overwritten").is_empty() && doc["scrubbed"] == true, "{doc:#}");
    let left = holding(&host, HUSH);
    assert!(left.len() == 1 && left[0].starts_with(host.data().join("blobs")), "nothing but the payload: {left:?}");
    // Of the session whose own archive is away nothing can be folded anew: that is the answer, and it is named.
    let said = host.beadle(["redact", &other, "--pattern", "true"]);
    assert!(said.code == 1 && said.err.contains("other.zst"), "{said:?}");
    std::fs::rename(&away, &file).expect("moved");
    let doc = host.beadle(["--json", "redact", &id, "--pattern", HUSH]).ok().json();
    assert_eq!((doc["blobs"].as_array().map(Vec::len), &doc["failed"]), (Some(1), &Value::Null), "{doc:#}");
    assert_eq!(holding(&host, HUSH), Vec::<std::path::PathBuf>::new());
    is_whole(&host);
}

#[test]
fn a_backup_without_an_archive_that_is_away_says_so_and_comes_back() {
    let host = TestHost::new();
    let ids: Vec<String> = (0..4).map(|_| run(&host, &["true"])).collect();
    let elsewhere = host.home().join("elsewhere.zst");
    host.beadle(["archive", &ids[0], "--to", text(&elsewhere)]).ok();
    for id in &ids[1..3] {
        host.beadle(["archive", id]).ok();
    }
    let inside = |id: &str| files_below(&host.data().join("archives")).into_iter().find(|p| text(p).contains(id)).expect("its archive");
    std::fs::remove_file(&elsewhere).expect("removed");
    std::fs::remove_file(inside(&ids[1])).expect("removed");
    let damaged = inside(&ids[2]);
    let mut bytes = std::fs::read(&damaged).expect("an archive");
    bytes[9] ^= 1;
    std::fs::write(&damaged, bytes).expect("written");
    for name in ["folder", "file.tar.zst"] {
        let to = host.home().join(name);
        let said = host.beadle(["--json", "host", "backup", text(&to)]);
        let missing = said.json()["missing"].clone();
        let of =
            |n: usize| missing.as_array().into_iter().flatten().find(|m| m["session"] == ids[n].as_str()).cloned().expect("it is named");
        assert!(said.code == 1 && missing.as_array().map(Vec::len) == Some(3), "{said:?}");
        assert!(of(0)["file"] == text(&elsewhere) && of(0)["error"]["code"] == "BDL-STORE-040", "{missing:#}");
        assert!(of(2)["error"]["message"].as_str().is_some_and(|m| m.contains("not those that were written")), "{missing:#}");
        let other = TestHost::new();
        other.expects_breaches();
        let doc = other.beadle(["--json", "host", "restore", text(&to)]).ok().json();
        assert_eq!(doc["missing"], missing);
        let found = other.beadle(["--json", "verify"]).json()["findings"].clone();
        assert_eq!(found.as_array().map(Vec::len), Some(3), "those and no others: {found:#}");
        assert_eq!(other.events(&ids[3]), host.events(&ids[3]));
        assert!(other.beadle(["events", &ids[1]]).err.contains("BDL-STORE-040"));
    }
    let said = host.beadle(["host", "backup", text(&host.home().join("third"))]);
    assert!(said.code == 1 && said.err.contains("not in it as it was written") && said.err.contains(text(&elsewhere)), "{said:?}");
    host.expects_breaches();
}

#[test]
fn what_a_person_must_give_away_is_confirmed() {
    let mut host = crate::operator::host("tty", "");
    host.config(&format!(
        "[operator]\nconfirm = \"tty\"\n{}",
        rules(&["Bash(until:*)", "Bash(test:*)", "Bash(sleep:*)", "Bash(echo:*)"], &[], &[])
    ));
    let go = host.home().join("go");
    let wait = bash(&format!("until test -e {}; do sleep 0.05; done", go.display()));
    let model = Model::start(&json!({ "steps": [bash("echo one"), wait, { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    until("the second call runs", || (host.events_of(&id, "tool_started").len() == 2).then_some(()));
    let archived = || host.events_of(&id, "session_archived");
    let confirmed = |args: &[&str], shows: &str| {
        let before = archived().len();
        assert_eq!(host.beadle(args).code, 1, "nobody sits at a terminal");
        let mut t = Terminal::start(host.command(args));
        let code = wait_code(&t);
        assert!(t.screen().contains("beadle: archive a log") && t.screen().contains(shows), "{}", t.screen());
        assert_eq!(archived().len(), before, "not before it is confirmed");
        t.type_line(&code);
        assert!(t.finish().contains("archived to"));
        let by = archived().last().expect("an event")["body"]["by"]["via"].clone();
        assert!(archived().len() == before + 1 && by.as_str().is_some_and(|v| v.starts_with("tty:")), "{by}");
    };
    confirmed(&["archive", &id, "--below", "4"], "up to 3");
    std::fs::write(&go, "").expect("a file");
    host.ended(&id);
    let file = host.home().join("mine.zst");
    confirmed(&["archive", &id, "--below", "6", "--to", text(&file)], "mine.zst");
    // What has ended goes into the host's own folder without a word.
    host.beadle(["archive", &id, "--below", "8"]).ok();
    let own = host.data().join("archives/../archives/own.zst");
    host.beadle(["archive", &id, "--to", text(&own)]).ok();
    is_whole(&host);
}

#[test]
fn what_waits_in_the_queue_is_in_a_backup_and_runs_where_it_is_restored() {
    let host = TestHost::new();
    host.beadle(["queue", "pause", "default"]).ok();
    let out = host.home().join("out");
    let script = format!("echo $TERM >> {}", out.display());
    let args = ["--json", "run", "--queue", "--", "sh", "-c", &script];
    let id = host.beadle(args).ok().json()["id"].as_str().expect("an id").to_owned();
    for name in ["folder", "file.tar.zst"] {
        let to = host.home().join(name);
        host.beadle(["host", "backup", text(&to)]).ok();
        let other = TestHost::new();
        other.beadle(["host", "restore", text(&to)]).ok();
        assert_eq!(other.show(&id)["status"], "queued");
        assert!(!out.exists(), "the lane is held there too");
        other.beadle(["queue", "start", "default"]).ok();
        assert_eq!(other.ended(&id)["outcome"], "exited");
        assert_eq!(std::fs::read_to_string(&out).expect("it ran").lines().count(), 1);
        std::fs::remove_file(&out).expect("removed");
        is_whole(&other);
    }
    assert_eq!(host.show(&id)["status"], "queued");
}

#[test]
fn files_that_an_erasure_does_not_change_are_named() {
    let mut host = TestHost::new();
    let (id, _) = ended(&mut host);
    let file = host.home().join("mine.jsonl.zst");
    host.beadle(["archive", &id, "--to", text(&file)]).ok();
    host.beadle(["archive", "restore", &id]).ok();
    assert!(file.exists(), "a file elsewhere is its owner's");
    let backup = host.home().join("backup");
    host.beadle(["host", "backup", text(&backup)]).ok();
    host.beadle(["queue", "pause", "default"]).ok();
    let script = format!("echo {HUSH}");
    let queued = host.beadle(["--json", "run", "--queue", "--", "sh", "-c", &script]).ok().json()["id"].as_str().expect("an id").to_owned();
    host.beadle(["run", "--queue", "--", "true"]).ok();
    let doc = host.beadle(["--json", "redact", &id, "--pattern", HUSH]).ok().json();
    let left = list(&doc, "left");
    let names = |part: &str| left.iter().filter(|l| l.contains(part)).count();
    assert_eq!((left.len(), names(text(&file)), names(text(&backup)), names(&format!("{queued}.queue.json"))), (3, 1, 1, 1), "{left:#?}");
    // An archive in force is changed, and the file from before goes; what does not hold the text is not named.
    std::fs::remove_dir_all(&backup).expect("removed");
    std::fs::remove_file(&file).expect("removed");
    host.beadle(["archive", &queued, "--below", "2", "--to", text(&host.home().join("live.zst"))]).ok();
    let doc = host.beadle(["--json", "redact", &queued, "--pattern", HUSH]).ok().json();
    let left = list(&doc, "left");
    assert!(left.len() == 1 && left[0].contains(&format!("{queued}.queue.json")), "{left:#?}");
    is_whole(&host);
}

#[test]
fn a_restore_that_was_cut_off_is_ended_by_the_next_start() {
    let host = TestHost::new();
    let id = run(&host, &["true"]);
    let events = host.events(&id);
    host.beadle(["host", "stop"]).ok();
    // Where two folders cannot be exchanged in one step, this is what stands in between.
    let ready = host.beadle_home().join("data.restored");
    until("the daemon is gone", || (!host.beadle_home().join("run/beadle.sock").exists()).then_some(()));
    std::fs::rename(host.data(), &ready).expect("renamed");
    assert_eq!(host.events(&id), events);
    assert!(!ready.exists() && host.data().exists());
    is_whole(&host);
    // A folder in use is not touched by one, and one that was cut off before it changed anything does not wait for the folder to go.
    std::fs::create_dir(&ready).expect("a folder");
    std::fs::write(ready.join("kept"), "").expect("a file");
    host.kill_daemon();
    assert_eq!(host.events(&id), events);
    assert!(!ready.exists() && host.beadle_home().join("data.restoring-0/kept").exists());
}

#[test]
fn a_backup_that_says_less_or_more_than_fits_is_refused() {
    let host = TestHost::new();
    run(&host, &["true"]);
    let (folder, file) = (host.home().join("folder"), host.home().join("file.tar.zst"));
    for to in [&folder, &file] {
        host.beadle(["host", "backup", text(to)]).ok();
    }
    let refused = |from: &Path, code: &str, why: &str| {
        let other = TestHost::new();
        let said = other.beadle(["host", "restore", text(from)]);
        assert!(said.code == 1 && said.err.contains(code) && said.err.contains(why), "{why}: {said:?}");
        let left: Vec<_> = std::fs::read_dir(other.beadle_home()).into_iter().flatten().flatten().map(|f| f.file_name()).collect();
        assert!(!left.iter().any(|n| n.to_string_lossy().starts_with("data")), "nothing is left: {left:?}");
    };
    let tar = zstd::stream::decode_all(std::fs::File::open(&file).expect("the backup")).expect("it is packed");
    let packed = |tar: &[u8]| std::fs::write(&file, zstd::bulk::compress(tar, 3).expect("packed")).expect("written");
    // A few kilobytes that grow without end: behind its end, or as a file more than it has.
    packed(&[&tar[..], &vec![0; 64 << 20]].concat());
    refused(&file, "BDL-STORE-044", "something follows its end");
    let key = tar.windows(9).position(|w| w == b"host.key\0").expect("an entry");
    let mut more = tar.clone();
    more[key..key + 9].copy_from_slice(b"host.kez\0");
    let sum = |h: &[u8]| h.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum::<u32>();
    let line = format!("{:06o}\0 ", sum(&more[key..key + 512]));
    more[key + 148..key + 156].copy_from_slice(line.as_bytes());
    packed(&more);
    refused(&file, "BDL-STORE-044", "is not one that was written");
    let mut longer = tar;
    longer[key + 124..key + 135].copy_from_slice(b"77777777777");
    packed(&longer);
    refused(&file, "BDL-STORE-044", "32 were written");
    // One that says how large it is, and has no place.
    let manifest = folder.join("manifest.json");
    let said = std::fs::read_to_string(&manifest).expect("the manifest");
    std::fs::write(&manifest, said.replacen("\"bytes\": 32", &format!("\"bytes\": {}", 6_u64 << 40), 1)).expect("written");
    refused(&folder, "BDL-STORE-047", "are needed on the disk");
    // A file that is larger than it says is read no further.
    std::fs::write(&manifest, &said).expect("written");
    sparse(&folder.join("host.key"), 1 << 40);
    refused(&folder, "BDL-STORE-044", "has not the bytes");
}

/// Where no data folder is yet, a daemon that began in one while the backup is read would lose it.
#[test]
fn a_restore_holds_its_folder_from_its_beginning() {
    let host = TestHost::new();
    let id = run(&host, &["true"]);
    let (events, to) = (host.events(&id), host.home().join("folder"));
    host.beadle(["host", "backup", text(&to)]).ok();
    // A pipe in place of a file: the restore stands still at it.
    let key = std::fs::read(to.join("host.key")).expect("a key");
    std::fs::remove_file(to.join("host.key")).expect("removed");
    let reads = fifo(&to.join("host.key"));
    let other = TestHost::new();
    let restore = other.spawn(["--json", "host", "restore", text(&to)]);
    let mut pipe = reads();
    let open = beadle::store::Store::open(&other.data(), beadle::store::Options::default());
    assert_eq!(open.err().map(|e| e.code()), Some("BDL-STORE-003"));
    std::io::Write::write_all(&mut pipe, &key).expect("written");
    drop(pipe);
    let out = restore.wait_with_output().expect("it ends");
    let doc: Value = serde_json::from_slice(&out.stdout).expect("a document");
    assert!(out.status.success() && doc["aside"].is_null(), "{out:?}");
    assert_eq!(other.events(&id), events);
    let left: Vec<_> = std::fs::read_dir(other.beadle_home()).into_iter().flatten().flatten().map(|f| f.file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().starts_with("data.")), "{left:?}");
    is_whole(&other);
}

#[test]
fn an_erasure_that_fails_leaves_a_live_session_at_work() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(until:*)", "Bash(test:*)", "Bash(sleep:*)", "Bash(echo:*)"], &[], &[]));
    let gate = host.home().join("gate");
    std::fs::create_dir(&gate).expect("a folder");
    let go = host.home().join("on");
    let wait = bash(&format!("until test -e {}; do sleep 0.05; done", go.display()));
    let model = Model::start(&json!({ "steps": [bash("echo one"), wait, bash("echo two"), { "text": "done" }] }));
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("redaction_staged=wait:{}", gate.display()));
    let id = host.run_demo(&model, "go", &[]);
    until("the second call runs", || (host.events_of(&id, "tool_started").len() == 2).then_some(()));
    let seq = host.events_of(&id, "tool_ended")[0]["seq"].as_u64().expect("a number").to_string();
    let file = host.home().join("mine.zst");
    host.beadle(["archive", &id, "--below", "3", "--to", text(&file)]).ok();
    let redact = host.spawn(["redact", &id, &seq]);
    until("the erasure is prepared", || gate.join("reached").exists().then_some(()));
    // Damaged only now: the session's own task finds it.
    let bytes = std::fs::read(&file).expect("the archive");
    std::fs::write(&file, vec![0; bytes.len()]).expect("written");
    std::fs::write(gate.join("go"), "").expect("a file");
    let out = redact.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && said.contains("BDL-STORE-040"), "{said}");
    std::fs::write(&go, "").expect("a file");
    until("it went on beside the damage", || {
        let said = host.beadle(["--json", "show", &id]);
        (said.code == 0 && said.json()["status"] == "ended").then_some(())
    });
    std::fs::write(&file, &bytes).expect("written");
    assert_eq!((host.show(&id)["outcome"].as_str(), host.show(&id)["call_count"].as_u64()), (Some("succeeded"), Some(3)));
    assert_eq!(host.events_of(&id, "secret_redacted"), Vec::<Value>::new());
    let notes = host.events_of(&id, "note");
    assert!(notes.iter().any(|n| n["body"]["text"].as_str().is_some_and(|t| t.contains("secret_redacted event was refused"))), "{notes:?}");
    host.beadle(["redact", &id, &seq]).ok();
    is_whole(&host);
    host.beadle(["host", "stop"]).ok();
    daemon.wait().expect("it has ended");
}

#[test]
fn copies_that_were_cut_off_are_named_and_a_due_rewrite_keeps_no_host_down() {
    let mut host = TestHost::new();
    let (id, _) = ended(&mut host);
    host.beadle(["host", "stop"]).ok();
    // Two backups end with their daemon: before the copy, and when it is whole.
    let (begun, whole) = (host.home().join("begun"), host.home().join("whole.tar.zst"));
    for (point, to) in [("backup_begun", &begun), ("backup_copied", &whole)] {
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        assert_ne!(host.beadle(["host", "backup", text(to)]).code, 0);
        daemon.wait().expect("it died");
    }
    // As one that dies in the middle leaves it.
    let draft = host.home().join("begun.draft");
    std::fs::create_dir(&draft).expect("a folder");
    let aside = host.beadle_home().join("data.before-9999999999999");
    std::fs::create_dir(&aside).expect("a folder");
    std::fs::create_dir(host.beadle_home().join("data.before-1")).expect("from long before the session");
    let (rehearsal, copy) = (host.data().join("beadle.db.rehearsal"), host.data().join("beadle.db.schema-1-failed"));
    for file in [&rehearsal, &copy] {
        std::fs::write(file, HUSH).expect("a file");
    }
    let doc = host.beadle(["--json", "redact", &id, "--pattern", HUSH]).ok().json();
    let left = list(&doc, "left");
    let named = |p: &Path| left.iter().any(|l| l.ends_with(text(p)));
    assert!([&draft, &whole, &aside, &copy].into_iter().all(|p| named(p)) && left.len() == 4, "{left:#?}");
    assert!(!rehearsal.exists(), "a trial that nobody is at goes with the next start");
    // What is done in the end is not named any more.
    std::fs::remove_dir(&draft).expect("removed");
    host.beadle(["host", "backup", text(&begun)]).ok();
    is_whole(&host);
}
