//! What is kept and what must not be: archives with the chain whole over the seam, erasures that leave nothing, at every crash.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Model, TestHost, alive, bash, lines_of, rules, until};

pub const HUSH: &str = "hush-4e1b-zebra";

/// A host with one ended session whose events and payloads hold [`HUSH`]; gives its id and the number of its newest event.
pub fn ended(host: &mut TestHost) -> (String, u64) {
    host.config(&rules(&["Bash(echo:*)", "Bash(cat:*)"], &[], &[]));
    // Long enough that the output is a payload of its own.
    host.file("long.txt", &format!("{}{HUSH}\n", "line of text\n".repeat(1_000)));
    let steps = json!({ "steps": [bash(&format!("echo {HUSH}")), bash("cat long.txt"), { "text": "done" }] });
    let model = Model::start(&steps);
    let id = host.run_demo(&model, &format!("say {HUSH}"), &[]);
    host.ended(&id);
    let last = newest(host, &id);
    (id, last)
}

fn newest(host: &TestHost, id: &str) -> u64 {
    host.events(id).last().and_then(|e| e["seq"].as_u64()).expect("an event")
}

fn verify(host: &TestHost) -> Value {
    host.beadle(["--json", "verify"]).json()
}

pub fn is_whole(host: &TestHost) -> Value {
    let doc = verify(host);
    assert_eq!(doc["ok"], true, "{doc:#}");
    doc
}

/// What `show` says, without what keeping house may change.
fn projection(host: &TestHost, id: &str) -> Value {
    host.show(id)
}

fn rows(host: &TestHost, id: &str) -> u64 {
    let db = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
    let sql = "SELECT count(*) FROM events e JOIN sessions s ON s.no = e.session_no WHERE s.id = ?1";
    db.query_row(sql, [id], |r| r.get::<_, i64>(0)).expect("a count").unsigned_abs()
}

fn archive_file(host: &TestHost) -> PathBuf {
    let mut files: Vec<PathBuf> = files_below(&host.data().join("archives"));
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for f in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if f.path().is_dir() { out.extend(files_below(&f.path())) } else { out.push(f.path()) }
    }
    out
}

/// Files of the data folder that hold a text, archives unpacked.
pub fn holding(host: &TestHost, text: &str) -> Vec<PathBuf> {
    let holds = |p: &PathBuf| {
        let mut bytes = std::fs::read(p).unwrap_or_default();
        if p.extension().is_some_and(|e| e == "zst") {
            bytes = zstd::stream::decode_all(bytes.as_slice()).expect("an archive");
        }
        bytes.windows(text.len()).any(|w| w == text.as_bytes())
    };
    files_below(&host.data()).into_iter().filter(holds).collect()
}

#[test]
fn archived_events_read_as_before_and_the_chain_holds_over_the_seam() {
    let mut host = TestHost::new();
    let (id, last) = ended(&mut host);
    let (events, shown) = (host.events(&id), projection(&host, &id));
    let exported = host.beadle(["export", &id]).ok().out;
    let account = host.beadle(["--json", "account", &id]).ok().json();
    let ledgers = |host: &TestHost| ["model", "tool"].map(|by| host.beadle(["--json", "stats", "--by", by]).ok().out);
    let ledger = ledgers(&host);

    let half = last / 2;
    let doc = host.beadle(["--json", "archive", &id, "--below", &(half + 1).to_string()]).ok().json();
    assert_eq!((doc["first_seq"].as_u64(), doc["last_seq"].as_u64()), (Some(1), Some(half)), "{doc}");
    assert_eq!(rows(&host, &id), last - half + 1, "what is archived is out of the database, and one event tells of it");
    let doc = host.beadle(["--json", "archive", &id]).ok().json();
    assert_eq!((doc["first_seq"].as_u64(), doc["last_seq"].as_u64()), (Some(half + 1), Some(last + 1)), "{doc}");
    assert_eq!(rows(&host, &id), 1);

    // Two archives and one event, and nobody who reads can tell.
    let without = |mut v: Value| {
        v.as_object_mut().expect("an object").remove("last_seq");
        v
    };
    let now = host.events(&id);
    assert_eq!(now[..events.len()], events[..]);
    assert_eq!(now.len() as u64, last + 2);
    assert_eq!(host.beadle(["--json", "events", &id, "--from", "3"]).ok().lines()[0], events[2]);
    assert_eq!(host.beadle(["--json", "events", &id, "--tail", "4"]).ok().lines().len(), 4);
    assert!(host.beadle(["export", &id]).ok().out.starts_with(&exported));
    assert_eq!(without(host.beadle(["--json", "account", &id]).ok().json()), without(account));
    assert_eq!(ledgers(&host), ledger);
    assert_eq!(without(projection(&host, &id)), without(shown));
    let doc = is_whole(&host);
    assert_eq!((doc["archive_count"].as_u64(), doc["event_count"].as_u64()), (Some(2), Some(last + 2)), "{doc:#}");
    let said = host.beadle(["archive", &id, "--below", "3"]);
    assert!(said.code == 1 && said.err.contains("BDL-STORE-041"), "{said:?}");

    // After a restart the projections are still what the log gives, and everything can come back.
    host.kill_daemon();
    is_whole(&host);
    let back = host.beadle(["--json", "archive", "restore", &id]).ok().lines();
    assert_eq!(back.len(), 2, "{back:?}");
    assert_eq!(host.events(&id)[..events.len()], events[..]);
    assert_eq!((rows(&host, &id), files_below(&host.data().join("archives"))), (last + 4, vec![]));
    is_whole(&host);
}

#[test]
fn a_live_session_gives_its_past_away_and_goes_on() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(until:*)", "Bash(test:*)", "Bash(sleep:*)", "Bash(echo:*)"], &[], &[]));
    let go = host.home().join("go");
    let wait = bash(&format!("until test -e {}; do sleep 0.05; done", go.display()));
    let model = Model::start(&json!({ "steps": [bash("echo one"), wait, bash("echo two"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    until("the second call runs", || (host.events_of(&id, "tool_started").len() == 2).then_some(()));
    let before = host.events(&id);
    let said = host.beadle(["archive", &id]);
    assert!(said.code == 1 && said.err.contains("BDL-SESSION-007"), "without a watermark only an ended one: {said:?}");
    host.beadle(["archive", &id, "--below", "6"]).ok();
    std::fs::write(&go, "").expect("a file");
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["call_count"].as_u64()), (Some("succeeded"), Some(3)), "{s:#}");
    assert_eq!(host.events(&id)[..5], before[..5]);
    assert_eq!(host.events_of(&id, "session_archived").len(), 1);
    is_whole(&host);
}

#[test]
fn a_missing_a_damaged_and_a_forged_archive_are_told_apart() {
    let mut host = TestHost::new();
    let (id, last) = ended(&mut host);
    let elsewhere = host.home().join("mine.jsonl.zst");
    host.beadle(["archive", &id, "--below", &last.to_string(), "--to", elsewhere.to_str().expect("text")]).ok();
    is_whole(&host);
    let said = host.beadle(["archive", &id, "--to", elsewhere.to_str().expect("text")]);
    assert!(said.code != 0, "a file that is there is somebody's: {said:?}");
    let finding = || {
        let doc = verify(&host);
        assert_eq!(doc["findings"].as_array().map(Vec::len), Some(1), "{doc:#}");
        doc["findings"][0]["what"].as_str().expect("a text").to_owned()
    };
    let bytes = std::fs::read(&elsewhere).expect("the archive");

    std::fs::rename(&elsewhere, host.home().join("aside")).expect("moved");
    let what = finding();
    assert!(what.contains("is not there") && what.contains("mine.jsonl.zst"), "{what}");
    let said = host.beadle(["events", &id]);
    assert!(said.code == 1 && said.err.contains("BDL-STORE-040"), "{said:?}");
    // What was kept can still be read.
    assert_eq!(host.beadle(["--json", "events", &id, "--from", &last.to_string()]).ok().lines().len(), 2);

    let mut torn = bytes.clone();
    let middle = torn.len() / 2;
    torn[middle] ^= 1;
    std::fs::write(&elsewhere, &torn).expect("written");
    assert!(finding().contains("is damaged"), "{}", finding());

    // A forger who rewrites the file and the database's word on it does not have the log's.
    let lines = String::from_utf8(zstd::stream::decode_all(bytes.as_slice()).expect("an archive")).expect("text");
    let forged = zstd::bulk::compress(lines.replace(HUSH, "hush-4e1b-zebrA").as_bytes(), 3).expect("packed");
    std::fs::write(&elsewhere, &forged).expect("written");
    host.beadle(["host", "stop"]).ok();
    let db = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
    let (digest, places) = (blake3::hash(&forged), json!([[1, 0, forged.len(), lines.len()]]).to_string());
    db.execute(
        "UPDATE archives SET digest = ?1, places = ?2, bytes = ?3",
        (digest.as_bytes(), places, i64::try_from(forged.len()).expect("small")),
    )
    .expect("changed");
    drop(db);
    let doc = verify(&host);
    let whats: Vec<&str> = doc["findings"].as_array().expect("findings").iter().filter_map(|f| f["what"].as_str()).collect();
    assert!(
        whats.iter().any(|w| w.contains("was changed")) && whats.iter().any(|w| w.contains("not one that the log tells of")),
        "{whats:#?}"
    );
    assert!(!whats.iter().any(|w| w.contains("is damaged") || w.contains("is not there")), "{whats:#?}");

    std::fs::write(&elsewhere, &bytes).expect("written");
    host.beadle(["host", "stop"]).ok();
    let db = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
    db.execute("DELETE FROM archives", []).expect("changed");
    drop(db);
    assert!(
        verify(&host)["findings"][0]["what"].as_str().is_some_and(|w| w.contains("are missing")),
        "an archive that nobody names is a gap"
    );
    host.expects_breaches();
}

#[test]
fn a_crash_at_each_step_of_an_archive_leaves_the_log_whole() {
    for (place, archived) in [("archive_written", false), ("archive_staged", false), ("archived", true)] {
        let mut host = TestHost::new();
        let (id, last) = ended(&mut host);
        let events = host.events(&id);
        host.beadle(["host", "stop"]).ok();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", place);
        let said = host.beadle(["archive", &id]);
        assert_ne!(said.code, 0, "{place}");
        until("the daemon is dead", || (!alive(daemon.id())).then_some(()));
        let _ = daemon.wait();
        assert_eq!(host.events(&id)[..events.len()], events[..], "{place}");
        is_whole(&host);
        assert_eq!(rows(&host, &id), if archived { 1 } else { last }, "{place}");
        assert_eq!(files_below(&host.data().join("archives")).len(), usize::from(archived), "{place}: no file that nobody needs");
        host.beadle(["archive", &id, "--below", "3"]);
        is_whole(&host);
    }
    for (place, restored) in [("archive_piece", false), ("archive_restored", true)] {
        let mut host = TestHost::new();
        let (id, last) = ended(&mut host);
        let events = host.events(&id);
        host.beadle(["archive", &id]).ok();
        host.beadle(["host", "stop"]).ok();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", place);
        assert_ne!(host.beadle(["archive", "restore", &id]).code, 0, "{place}");
        until("the daemon is dead", || (!alive(daemon.id())).then_some(()));
        let _ = daemon.wait();
        assert_eq!(rows(&host, &id), last + 1, "{place}: some came back, or all");
        assert_eq!(host.events(&id)[..events.len()], events[..], "{place}");
        is_whole(&host);
        if !restored {
            until("what came back in vain is gone", || (rows(&host, &id) == 1).then_some(()));
            host.beadle(["archive", "restore", &id]).ok();
        }
        assert_eq!(host.events(&id)[..events.len()], events[..], "{place}");
        assert_eq!(files_below(&host.data().join("archives")), Vec::<PathBuf>::new(), "{place}");
        is_whole(&host);
    }
}

#[test]
fn sessions_that_ended_long_ago_are_archived_together() {
    let host = TestHost::new();
    let ids: Vec<String> = (0..3)
        .map(|n| {
            host.beadle(["--json", "run", "--wait", "--name", &format!("n{n}"), "--", "true"]).ok().json()["id"]
                .as_str()
                .expect("an id")
                .to_owned()
        })
        .collect();
    assert_eq!(host.beadle(["--json", "archive", "--ended-before", "1h"]).ok().out, "");
    let done = host.beadle(["--json", "archive", "--ended-before", "0s"]).ok().lines();
    let mut named: Vec<&str> = done.iter().filter_map(|d| d["session"].as_str()).collect();
    named.sort_unstable();
    let mut all: Vec<&str> = ids.iter().map(String::as_str).collect();
    all.sort_unstable();
    assert_eq!(named, all);
    assert_eq!(host.beadle(["--json", "archive", "--ended-before", "0s"]).ok().out, "", "there is nothing left to do");
    is_whole(&host);
    for id in &ids {
        host.beadle(["rm", id]).ok();
    }
    is_whole(&host);
    assert_eq!(files_below(&host.data().join("archives")), Vec::<PathBuf>::new(), "an archive goes with its session");
}

#[test]
fn an_erased_text_is_nowhere_in_the_data_folder() {
    let mut host = TestHost::new();
    let (id, last) = ended(&mut host);
    // Some of it archived, some not.
    host.beadle(["archive", &id, "--below", &(last / 2).to_string()]).ok();
    assert!(holding(&host, HUSH).len() >= 3, "the database, an archive, a payload: {:?}", holding(&host, HUSH));
    let calls = host.show(&id)["call_count"].clone();
    let doc = host.beadle(["--json", "redact", &id, "--pattern", HUSH, "--reason", "a token of the shop"]).ok().json();
    let erased = doc["events"].as_array().expect("a list").len();
    assert!(erased >= 4 && !doc["blobs"].as_array().expect("a list").is_empty(), "{doc:#}");
    assert_eq!((doc["scrubbed"].as_bool(), &doc["left"], &doc["more"]), (Some(true), &json!([]), &json!(false)), "{doc:#}");
    assert_eq!(holding(&host, HUSH), Vec::<PathBuf>::new());

    let whole = is_whole(&host);
    assert_eq!(whole["erased_count"].as_u64(), Some(erased as u64), "{whole:#}");
    let said = host.beadle(["verify"]).ok().out;
    assert!(said.contains("its body was erased, as the log tells") && said.contains("every hash holds"), "{said}");
    let told = host.events_of(&id, "secret_redacted");
    assert_eq!(told.len(), erased);
    assert_eq!(
        (told[0]["body"]["reason"].as_str(), told[0]["body"]["by"]["role"].as_str()),
        (Some("a token of the shop"), Some("operator"))
    );
    let s = host.show(&id);
    assert!(s["call_count"] == calls && s["prompt"]["text"] == "say [erased]", "{s:#}");
    // Over a restart, and nothing is left to erase.
    host.kill_daemon();
    is_whole(&host);
    let said = host.beadle(["redact", &id, "--pattern", HUSH]);
    assert!(said.code == 1 && said.err.contains("no event holds it"), "{said:?}");
}

#[test]
fn a_whole_event_is_erased_and_what_is_changed_behind_that_is_a_forgery() {
    let mut host = TestHost::new();
    let (id, _) = ended(&mut host);
    let seq = host.events_of(&id, "tool_ended")[0]["seq"].as_u64().expect("a number").to_string();
    let doc = host.beadle(["--json", "redact", &id, &seq]).ok().json();
    assert_eq!(doc["events"][0]["kind"], "tool_ended");
    assert!(doc["left"][0].as_str().is_some_and(|l| l.contains("raw output")), "what is not erased is said: {doc:#}");
    let event = &host.beadle(["--json", "events", &id, "--from", &seq]).ok().lines()[0];
    assert_eq!(event["body"]["output"]["text"], "[erased]", "{event:#}");
    is_whole(&host);
    let said = host.beadle(["redact", &id, "1"]);
    assert!(said.code == 1 && said.err.contains("BDL-STORE-043") && said.err.contains("--pattern"), "{said:?}");
    let said = host.beadle(["redact", &id, "99999"]);
    assert!(said.code == 1 && said.err.contains("there is none"), "{said:?}");
    assert_eq!(host.beadle(["redact", &id]).code, 2);

    // Who erases without the log's word, or writes something else where a body was, is found.
    let found = |sql: &str, words: &str| {
        host.beadle(["host", "stop"]).ok();
        let db = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
        assert_eq!(db.execute(sql, []).expect("changed"), 1);
        drop(db);
        let doc = verify(&host);
        assert!(
            doc["findings"].as_array().expect("findings").iter().any(|f| f["what"].as_str().is_some_and(|w| w.contains(words))),
            "{doc:#}"
        );
    };
    found(
        &format!("UPDATE events SET body = CAST(replace(CAST(body AS TEXT), '[erased]', 'invented') AS BLOB) WHERE seq = {seq}"),
        "in place of its erased body was changed",
    );
    found(
        "UPDATE events SET commitment = (SELECT commitment FROM events WHERE commitment IS NOT NULL), salt = X'' WHERE kind = 'turn_ended'",
        "no event tells of an erasure",
    );
    host.expects_breaches();
}

#[test]
fn a_crash_at_each_step_of_an_erasure_ends_with_it_done_or_not_begun() {
    for (place, begun) in [("redaction_written", false), ("redaction_staged", false), ("redacted", true), ("redaction_finished", true)] {
        let mut host = TestHost::new();
        let (id, _) = ended(&mut host);
        let ends = host.events_of(&id, "tool_ended");
        let seq = ends.last().and_then(|e| e["seq"].as_u64()).expect("a number").to_string();
        host.beadle(["host", "stop"]).ok();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", place);
        assert_ne!(host.beadle(["redact", &id, &seq, "--pattern", HUSH]).code, 0, "{place}");
        until("the daemon is dead", || (!alive(daemon.id())).then_some(()));
        let _ = daemon.wait();
        is_whole(&host);
        assert_eq!(host.events_of(&id, "secret_redacted").len(), usize::from(begun), "{place}");
        let blobs = || holding(&host, HUSH).iter().filter(|p| p.starts_with(host.data().join("blobs"))).count();
        // What an erasure left to be done is done once the host is up.
        until("the payload is gone, or stays", || (blobs() == usize::from(!begun)).then_some(()));
        // The whole of it, however far the first try came.
        host.beadle(["redact", &id, "--pattern", HUSH]).ok();
        assert_eq!(holding(&host, HUSH), Vec::<PathBuf>::new(), "{place}");
        is_whole(&host);
    }
}

#[test]
fn sinks_hear_of_an_erasure_and_get_no_erased_word_late() {
    let mut host = TestHost::new();
    let out = host.home().join("sink.jsonl");
    let policy = rules(&["Bash(echo:*)", "Bash(cat:*)"], &[], &[]);
    host.config(&policy);
    let steps = json!({ "steps": [bash(&format!("echo {HUSH}")), { "text": "done" }] });
    let model = Model::start(&steps);
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    host.beadle(["redact", &id, "--pattern", HUSH]).ok();
    host.beadle(["host", "stop"]).ok();
    host.config(&format!(
        "{policy}\n[[sink]]\nname = \"file\"\nkind = \"jsonl\"\nbegin = \"oldest\"\nconfig = {{ path = {:?} }}\n",
        out.display().to_string()
    ));
    host.daemon();
    until("the sink has the erasure", || lines_of(&out).iter().any(|l| l.contains("secret_redacted")).then_some(()));
    assert!(!lines_of(&out).iter().any(|l| l.contains(HUSH)));
}

#[test]
fn nothing_is_archived_that_a_sink_must_still_deliver() {
    let mut host = TestHost::new();
    let target = host.home().join("a-file");
    std::fs::write(&target, "").expect("a file");
    let policy = rules(&["Bash(echo:*)"], &[], &[]);
    let sink = |path: &Path| {
        format!("{policy}\n[[sink]]\nname = \"audit\"\nkind = \"jsonl\"\nconfig = {{ path = {:?} }}\n", path.display().to_string())
    };
    // A folder that is a file: nothing can be written there.
    host.config(&sink(&target.join("x.jsonl")));
    let model = Model::start(&json!({ "steps": [bash("echo one"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let said = host.beadle(["archive", &id]);
    assert!(said.code == 1 && said.err.contains("BDL-STORE-042") && said.err.contains("audit"), "{said:?}");
    assert_eq!(files_below(&host.data().join("archives")), Vec::<PathBuf>::new());
    host.beadle(["host", "stop"]).ok();
    host.config(&sink(&host.home().join("x.jsonl")));
    until("it is archived once it was delivered", || (host.beadle(["archive", &id]).code == 0).then_some(()));
    is_whole(&host);
    assert!(archive_file(&host).exists());
}

#[test]
fn the_agents_own_record_is_kept_though_the_vendor_deletes_it() {
    let Some((mut host, program)) = crate::claude::host("the_agents_own_record_is_kept_though_the_vendor_deletes_it") else { return };
    host.config(&rules(&["Bash(echo:*)"], &[], &[]));
    let secret = format!("sk-ant-{}", "a1".repeat(20));
    let model = Model::start(&json!({ "steps": [bash("echo one"), { "text": format!("done, and {secret}") }] }));
    let id = crate::claude::run(&mut host, &program, &model, &[]);
    let s = host.ended(&id);
    assert_eq!(s["outcome"], "succeeded", "{s:#}");
    let own = files_below(&host.home().join("claude/projects"));
    let own = std::fs::read_to_string(own.first().expect("the agent's record")).expect("text");
    std::fs::remove_dir_all(host.home().join("claude/projects")).expect("the vendor cleans up");
    let listed = host.beadle(["--json", "transcript", &id, "--list"]).ok().json();
    assert_eq!((listed["attempt"].as_u64(), listed["session"].as_str()), (Some(1), Some(id.as_str())), "{listed:#}");
    let kept = host.beadle(["transcript", &id]).ok().out;
    assert_eq!(listed["bytes"].as_u64(), Some(kept.len() as u64));
    assert!(own.contains(&secret) && !kept.contains(&secret) && kept.contains("echo one"), "whole, but for what is masked");
    assert_eq!(kept.lines().count(), own.lines().count());
    assert_eq!(host.events_of(&id, "transcript_kept").len(), 1);
    is_whole(&host);
    // It goes through an archive, and an erasure takes from it too.
    host.beadle(["archive", &id]).ok();
    assert_eq!(host.beadle(["transcript", &id, "--attempt", "1"]).ok().out, kept);
    assert_eq!(host.beadle(["transcript", &id, "--attempt", "7"]).code, 3);
    host.beadle(["redact", &id, "--pattern", "echo one"]).ok();
    assert!(!host.beadle(["transcript", &id]).ok().out.contains("echo one"));
    is_whole(&host);
    let plain = host.beadle(["--json", "run", "--wait", "--", "true"]).ok().json()["id"].as_str().expect("an id").to_owned();
    let said = host.beadle(["transcript", &plain]);
    assert!(said.code == 3 && said.err.contains("BDL-SESSION-090"), "{said:?}");
}

#[test]
fn logs_follow_over_segments_and_say_what_was_rotated_away() {
    let host = TestHost::new();
    let go = host.work().join("go");
    // Three segments of 16 MiB and a bit; who follows from the start is there when each begins.
    let begin = host.work().join("begin");
    let until_is = |p: &Path| format!("until test -e {}; do sleep 0.05; done", p.display());
    let script = format!("echo begin; {}; seq 10000000 | head -c 35999994; {}; echo end", until_is(&begin), until_is(&go));
    let id = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", &script]).ok().json()["id"].as_str().expect("an id").to_owned();
    let dir = host.data().join("s").join(&id);
    let first = dir.join("out-00000000000000000000.seg");
    let mut early = host.spawn(["logs", "-f", &id]);
    let mut bytes = early.stdout.take().expect("a pipe");
    let mut first_line = [0u8; 6];
    std::io::Read::read_exact(&mut bytes, &mut first_line).expect("it follows");
    std::fs::write(&begin, "").expect("a file");
    let early_reader = std::thread::spawn(move || {
        let mut all = first_line.to_vec();
        std::io::Read::read_to_end(&mut bytes, &mut all).expect("read");
        (all, early.wait_with_output().expect("it ends"))
    });
    let segments = || {
        files_below(&dir).into_iter().filter(|p| p.extension().is_some_and(|e| e == "seg") && p.to_string_lossy().contains("/out-")).count()
    };
    until("all is written", || {
        let all: u64 = files_below(&dir)
            .iter()
            .filter(|p| p.to_string_lossy().contains("/out-"))
            .filter_map(|p| p.metadata().ok())
            .map(|m| m.len())
            .sum();
        (all == 36_000_000).then_some(())
    });
    assert_eq!(segments(), 3);
    let all = host.beadle(["logs", &id]).ok();
    assert_eq!(all.out.len(), 36_000_000);
    let size = first.metadata().expect("the first segment").len();
    std::fs::remove_file(&first).expect("rotated away");
    let follower = host.spawn(["logs", "-f", &id]);
    let reader = std::thread::spawn(move || follower.wait_with_output().expect("it ends"));
    std::fs::write(&go, "").expect("a file");
    let out = reader.join().expect("no panic");
    host.ended(&id);
    let (followed, of_early) = early_reader.join().expect("no panic");
    let mut want = b"begin\n".to_vec();
    let numbers = std::process::Command::new("sh").args(["-c", "seq 10000000 | head -c 35999994"]).output().expect("seq");
    want.extend_from_slice(&numbers.stdout);
    want.extend_from_slice(b"end\n");
    assert!(followed == want, "every byte, once, in order: {} of {}", followed.len(), want.len());
    assert!(of_early.status.success() && of_early.stderr.is_empty(), "{of_early:?}");
    assert_eq!((out.stdout.len() as u64, out.stdout.ends_with(b"end\n")), (36_000_000 - size + 4, true));
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(err.contains(&format!("the first {size} bytes were rotated away")), "{err}");
    assert_eq!(host.beadle(["logs", &id, "--tail", "4"]).ok().out, "end\n");
}

#[test]
fn an_erasure_is_confirmed_where_the_operator_wants_that() {
    use crate::operator::{host, wait_code};
    let host = host("tty", "");
    let args = ["run", "--wait", "--name", HUSH, "--", "true"];
    let mut t = crate::support::Terminal::start(host.command(args));
    let code = wait_code(&t);
    t.type_line(&code);
    t.finish();
    let id = host.beadle(["--json", "ls"]).ok().json()["id"].as_str().expect("an id").to_owned();
    let before = host.events(&id);
    let said = host.beadle(["redact", &id, "--pattern", HUSH]);
    assert_eq!(said.code, 1, "nobody sits at a terminal: {said:?}");
    assert_eq!(host.events(&id), before);
    let mut t = crate::support::Terminal::start(host.command(["redact", &id, "--pattern", HUSH, "--reason", "it leaked"]));
    let code = wait_code(&t);
    assert!(t.screen().contains("beadle: erase from the log") && t.screen().contains("a text of 15 bytes"), "{}", t.screen());
    assert_eq!(host.events(&id), before, "not before it is confirmed");
    t.type_line(&code);
    assert!(t.finish().contains("erased (session_created)"));
    let by = host.events_of(&id, "secret_redacted")[0]["body"]["by"]["via"].clone();
    assert!(by.as_str().is_some_and(|v| v.starts_with("tty:")), "{by}");
    assert_eq!(host.show(&id)["name"], "[erased]");
    is_whole(&host);
}
