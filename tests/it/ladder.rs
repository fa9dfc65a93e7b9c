//! Attempts of a session: what each took, its own log, retries, the ladder with its verifier, checkpoints, taking back.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Model, TestHost, bash, lines_of, marked, rules, until};

fn run(host: &TestHost, args: &[&str]) -> String {
    let all: Vec<&str> = ["--json", "run", "--detach"].iter().chain(args).copied().collect();
    host.beadle(all).ok().json()["id"].as_str().expect("an id").to_owned()
}

fn attempts(host: &TestHost, id: &str) -> Value {
    host.beadle(["--json", "attempts", id]).ok().json()
}

fn sound(host: &TestHost) {
    let said = host.beadle(["verify"]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn an_attempt_is_shown_with_what_it_took_and_has_its_own_log() {
    let host = TestHost::new();
    let id = run(&host, &["--phase", "build", "--", "sh", "-c", "echo made; echo odd >&2; exit 3"]);
    host.ended(&id);
    let doc = attempts(&host, &id);
    let a = &doc["items"][0];
    assert_eq!((doc["items"].as_array().map(Vec::len), a["number"].as_u64(), a["agent"].as_str()), (Some(1), Some(1), Some("generic")));
    assert_eq!((a["outcome"].as_str(), a["exit_code"].as_i64(), a["success"].as_bool()), (Some("failed"), Some(3), Some(false)));
    assert_eq!(a["error"], "the agent ended with exit code 3");
    assert_eq!(
        (a["phase"].as_str(), a["warm"].as_bool(), a["is_final"].as_bool(), a["cost"].is_null()),
        (Some("build"), Some(false), Some(true), true)
    );
    assert_eq!(doc["all"]["duration_ms"], a["duration_ms"]);
    assert_eq!(doc["by_phase"]["build"]["attempt_count"], 1);
    assert_eq!(host.beadle(["logs", "--attempt", "1", &id]).ok().out, "made\n");
    assert_eq!(host.beadle(["logs", "--attempt", "1", "--err", &id]).ok().out, "odd\n");
    let none = host.beadle(["logs", "--attempt", "2", &id]);
    assert!(none.code == 3 && none.err.contains("BDL-API-040") && none.err.contains("attempts 1 to 1"), "{none:?}");
    assert_eq!(host.beadle(["--json", "events", "--attempt", "1", &id]).ok().lines().len(), host.events(&id).len());
    assert!(host.beadle(["events", "--attempt", "2", &id]).ok().out.is_empty());
    let shown = host.beadle(["attempts", &id]).ok().out;
    assert!(shown.contains("failed, final") && shown.contains("ATTEMPTS"), "{shown}");
    assert_eq!(host.beadle(["-q", "attempts", &id]).ok().out, "1\n");
    assert_eq!(host.beadle(["attempts", "nobody"]).code, 3);
    sound(&host);
}

#[test]
fn what_attempts_cost_is_summed_over_a_tree_by_agent_and_phase() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash"], &[], &[]));
    let model = Model::start(&json!({"steps": [bash("true"), {"text": "Done."}]}));
    let parent = host.run_demo(&model, "go", &["--phase", "plan"]);
    host.ended(&parent);
    let child = run(&host, &["--parent", &parent, "--phase", "build", "--", "true"]);
    host.ended(&child);
    let own = attempts(&host, &parent);
    let cost = own["all"]["cost"]["nanousd"].as_u64();
    assert!(cost.is_some() && cost == host.show(&parent)["cost"]["nanousd"].as_u64(), "{own}");
    let tree = host.beadle(["--json", "attempts", "--tree", &parent]).ok().json();
    assert_eq!((tree["all"]["attempt_count"].as_u64(), tree["all"]["cost"]["nanousd"].as_u64()), (Some(2), cost));
    assert_eq!(tree["by_agent"]["demo"]["attempt_count"], 1);
    let model = host.show(&parent)["model"].clone();
    assert!(model.is_string() && own["items"][0]["model"] == model && own["items"][0]["error"].is_null(), "{own:#}");
    assert_eq!(tree["by_agent"]["generic"]["cost"], Value::Null, "not known is not zero");
    assert_eq!(tree["by_phase"]["plan"]["cost"]["nanousd"].as_u64(), cost);
    assert_eq!(tree["by_session"][&child]["attempt_count"], 1);
    let stats = host.beadle(["--json", "stats", "--by", "attempt", "--session", &parent]).ok().json();
    assert_eq!((stats["rows"][0]["key"].as_str(), stats["rows"][0]["cost"]["nanousd"].as_u64()), (Some("1"), cost));
    sound(&host);
}

/// A command that fails until it was run `n` times.
fn from_try(n: u32) -> String {
    format!("echo run >> runs; echo try $(wc -l < runs); [ $(wc -l < runs) -ge {n} ]")
}

fn runs(host: &TestHost) -> usize {
    lines_of(&host.work().join("runs")).len()
}

fn field<'a>(doc: &'a Value, name: &str) -> Vec<&'a str> {
    doc["items"].as_array().into_iter().flatten().map(|a| a[name].as_str().unwrap_or("-")).collect()
}

#[test]
fn a_failed_attempt_is_tried_again_in_the_same_session() {
    let host = TestHost::new();
    let id = run(&host, &["--retries", "4", "--backoff", "20", "--", "sh", "-c", &from_try(3)]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64(), runs(&host)), (Some("exited"), Some(3), 3), "{s:#}");
    let doc = attempts(&host, &id);
    assert_eq!((field(&doc, "outcome"), field(&doc, "why")), (vec!["failed", "failed", "exited"], vec!["-", "retry", "retry"]));
    let finals: Vec<_> = doc["items"].as_array().into_iter().flatten().map(|a| a["is_final"].as_bool()).collect();
    assert_eq!(finals, [Some(false), Some(false), Some(true)]);
    let errors = field(&doc, "error");
    assert_eq!(errors, ["the agent ended with exit code 1", "the agent ended with exit code 1", "-"]);
    for n in 1..=3 {
        let log = host.beadle(["logs", "--attempt", &n.to_string(), &id]).ok().out;
        assert_eq!(log, format!("try {n}\n"), "a log for each");
    }
    assert_eq!(host.events_of(&id, "session_created").len(), 1);
    let waits: Vec<i64> = host
        .events_of(&id, "attempt_scheduled")
        .iter()
        .map(|e| {
            let at = chrono::DateTime::parse_from_rfc3339(e["at"].as_str().unwrap_or_default()).map(|t| t.timestamp_millis());
            e["body"]["not_before"].as_i64().unwrap_or_default() - at.unwrap_or_default()
        })
        .collect();
    assert!(waits.len() == 2 && waits[0] <= 20 && waits[1] <= 40, "doubled at most: {waits:?}");
    assert!(host.beadle(["show", &id]).ok().out.contains("beadle attempts"), "show says where the rest is");
    std::fs::remove_file(host.work().join("runs")).expect("the first session's");
    let followed = host.beadle(["run", "--retries", "4", "--backoff", "20", "--", "sh", "-c", &from_try(3)]).out;
    assert!((1..=3).all(|n| followed.contains(&format!("try {n}\n"))), "who follows sees each: {followed}");
    sound(&host);
}

#[test]
fn what_was_stopped_or_passed_a_limit_is_not_tried_again() {
    let host = TestHost::new();
    let id = run(&host, &["--retries", "3", "--backoff", "10", "--", "sh", "-c", "echo run >> runs; sleep 600"]);
    until("it runs", || (runs(&host) == 1).then_some(()));
    host.beadle(["stop", &id]).ok();
    assert_eq!(host.ended(&id)["outcome"], "stopped");
    assert_eq!((runs(&host), attempts(&host, &id)["all"]["attempt_count"].as_u64()), (1, Some(1)));
    let id = run(&host, &["--retries", "3", "--backoff", "10", "--max-time", "1s", "--", "sh", "-c", "echo run >> runs; sleep 600"]);
    assert_eq!(host.ended(&id)["outcome"], "budget");
    assert_eq!(runs(&host), 2);
    let id = run(&host, &["--retries", "3", "--backoff", "3600000", "--", "false"]);
    until("it waits", || host.show(&id)["scheduled"]["attempt"].as_u64());
    assert!(host.beadle(["ls"]).ok().out.contains("attempt 2 follows"));
    host.beadle(["stop", &id]).ok();
    assert_eq!(host.ended(&id)["outcome"], "stopped", "in its backoff");
    let id = run(&host, &["--retries", "1", "--backoff", "10", "--", "false"]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64(), s["exit_code"].as_i64()), (Some("failed"), Some(2), Some(1)));
    let bad = host.beadle(["run", "--retries", "1", "--keep", "--agent", "demo", "x"]);
    assert!(bad.code == 2 && bad.err.contains("--keep"), "{bad:?}");
    sound(&host);
}

#[test]
fn a_killed_daemon_loses_no_attempt_and_starts_none_twice() {
    for point in ["scheduled:1", "tried:1"] {
        let host = TestHost::new();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        let id = run(&host, &["--retries", "3", "--backoff", "20", "--", "sh", "-c", &from_try(3)]);
        until("the daemon has died", || daemon.try_wait().ok().flatten());
        host.daemon();
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64(), runs(&host)), (Some("exited"), Some(3), 3), "{point}: {s:#}");
        assert_eq!(host.events_of(&id, "attempt_started").len(), 3, "{point}");
        sound(&host);
    }
    let host = TestHost::new();
    let id = run(&host, &["--retries", "3", "--backoff", "1500", "--", "sh", "-c", &from_try(2)]);
    until("it waits", || host.show(&id)["scheduled"]["attempt"].as_u64());
    host.kill_daemon();
    host.daemon();
    assert_eq!((host.ended(&id)["outcome"].as_str(), runs(&host)), (Some("exited"), 2));
}

/// Two tiers: a small one that leaves `small` in `out`, and one that does what it is told.
fn ladder(host: &TestHost, verify: &str, more: &str) -> String {
    let text = format!(
        "verify = [\"/bin/sh\", \"-c\", {}]\n{more}\n[[tier]]\nname = \"small\"\nkind = \"local\"\ncommand = [\"sh\", \"-c\", \"cat > asked; echo small > out\"]\n\
         [[tier]]\nname = \"big\"\nkind = \"managed\"\ncommand = [\"sh\", \"-c\", \"cat > told; printenv BEADLE_FEEDBACK > fed; echo big > out\"]\n",
        json!(verify)
    );
    host.file("ladder.toml", &text).display().to_string()
}

const WANTS_BIG: &str = "if grep -q big out; then echo '{\"verdict\": \"accept\", \"summary\": \"it is big\"}'; else echo '{\"verdict\": \"escalate\", \
                         \"feedback\": \"out must be big\"}'; fi";

#[test]
fn the_next_tier_gets_the_verifiers_feedback_in_its_prompt() {
    let host = TestHost::new();
    let file = ladder(&host, WANTS_BIG, "");
    let id = run(&host, &["--ladder", &file, "make it"]);
    let s = host.ended(&id);
    assert_eq!(
        (s["outcome"].as_str(), s["verdict"]["verdict"].as_str(), s["attempt"].as_u64()),
        (Some("succeeded"), Some("accept"), Some(2)),
        "{s:#}"
    );
    let doc = attempts(&host, &id);
    assert_eq!((field(&doc, "tier"), field(&doc, "why")), (vec!["small", "big"], vec!["-", "escalate"]));
    let (a, b) = (&doc["items"][0], &doc["items"][1]);
    assert_eq!((a["verdict"]["verdict"].as_str(), a["verdict"]["text"].as_str()), (Some("escalate"), Some("out must be big")));
    assert_eq!((a["success"].as_bool(), b["success"].as_bool(), b["verified"].as_bool()), (Some(false), Some(true), Some(true)));
    assert_eq!(b["output_summary"]["text"], "it is big");
    assert!(b["runner_output"]["text"].as_str().is_some_and(|t| t.contains("accept")), "{b}");
    let read = |name: &str| std::fs::read_to_string(host.work().join(name)).unwrap_or_default();
    assert_eq!((read("asked").as_str(), read("fed").as_str()), ("make it\n", "out must be big\n"));
    assert!(read("told").starts_with("make it\n") && read("told").contains("out must be big"), "{}", read("told"));
    let prompts = host.events_of(&id, "prompt_submitted");
    assert!(
        prompts.len() == 2 && prompts[1]["body"]["prompt"]["text"].as_str().is_some_and(|t| t.contains("out must be big")),
        "in the open"
    );
    assert_eq!(host.show(&id)["prompt"]["text"], "make it", "the snapshot is the first one's");
    assert!(host.beadle(["attempts", &id]).ok().out.contains("it is big"));
    sound(&host);
}

/// What a plugin says of an attempt is handed on as what a verifier's command says.
#[test]
fn a_policys_feedback_goes_to_the_next_tier_in_its_prompt() {
    use crate::moments::{configure, policy};
    let host = TestHost::new();
    let house = policy(&host, "house", "attempt", "", &json!({ "verdicts": ["escalate: out must be big"] }));
    configure(&host, "", &[house]);
    let file = ladder(&host, "unused", "");
    let text = std::fs::read_to_string(&file).expect("a ladder");
    std::fs::write(&file, text.split_once('\n').expect("its verifier").1).expect("without it");
    let id = run(&host, &["--ladder", &file, "make it"]);
    let s = host.ended(&id);
    // It never has enough: the last tier is not accepted either.
    assert_eq!(
        (s["outcome"].as_str(), s["verdict"]["verdict"].as_str(), s["attempt"].as_u64()),
        (Some("failed"), Some("escalate"), Some(2)),
        "{s:#}"
    );
    let doc = attempts(&host, &id);
    assert_eq!((field(&doc, "tier"), field(&doc, "why")), (vec!["small", "big"], vec!["-", "escalate"]));
    assert_eq!(doc["items"][0]["verdict"]["text"], "out must be big");
    let read = |name: &str| std::fs::read_to_string(host.work().join(name)).unwrap_or_default();
    assert_eq!(read("fed"), "out must be big\n");
    assert!(read("told").starts_with("make it\n") && read("told").contains("out must be big"), "{}", read("told"));
    let by = &host.events_of(&id, "attempt_verified")[0]["body"];
    assert!(by["verifier"].is_null() && by["answers"][0]["policy"] == "house", "{by:#}");
    sound(&host);
}

#[test]
fn a_tier_that_fails_or_takes_too_long_hands_over_and_a_missing_one_is_found_before_the_start() {
    let host = TestHost::new();
    let file = |first: &str, second: &str| {
        let text = format!("backoff_ms = 10\n[[tier]]\nname = \"a\"\n{first}\n[[tier]]\nname = \"b\"\n{second}\n");
        host.file("l.toml", &text).display().to_string()
    };
    let good = "command = [\"sh\", \"-c\", \"true\"]";
    let path = file("kind = \"sub-agent\"\ncommand = [\"sh\", \"-c\", \"echo run >> runs; exit 4\"]\nattempts = 2", good);
    let id = run(&host, &["--ladder", &path]);
    let s = host.ended(&id);
    assert_eq!(s["outcome"], "exited");
    let planned = &host.events_of(&id, "attempts_planned")[0]["body"]["tiers"];
    for tiers in [planned, &s["planned"]["tiers"]] {
        assert_eq!((tiers[0]["kind"].as_str(), tiers[1]["kind"].as_str()), (Some("sub-agent"), None), "{tiers:#}");
    }
    let bad = host.beadle(["run", "--ladder", &file("kind = \"elsewhere\"\ncommand = [\"true\"]", good)]);
    assert!(bad.code == 2 && bad.err.contains("local, sub-agent and managed"), "{bad:?}");
    assert_eq!((runs(&host), field(&attempts(&host, &id), "tier")), (2, vec!["a", "a", "b"]));
    let path = file("command = [\"sleep\", \"600\"]\ntime_ms = 200", good);
    let id = run(&host, &["--ladder", &path]);
    assert_eq!(host.ended(&id)["outcome"], "exited");
    assert_eq!(field(&attempts(&host, &id), "outcome"), ["timed_out", "exited"]);
    let path = file(good, "command = [\"/no/such/program\"]");
    let none = host.beadle(["run", "--ladder", &path]);
    assert!(none.code == 2 && none.err.contains("/no/such/program"), "{none:?}");
    let path = file(good, "agent = \"nobody\"");
    assert!(host.beadle(["run", "--ladder", &path]).err.contains("nobody"));
    let both = host.beadle(["run", "--ladder", &path, "--", "true"]);
    assert_eq!(both.code, 2, "{both:?}");
    sound(&host);
}

#[test]
fn a_verifier_that_hangs_lies_floods_or_talks_nonsense_is_an_error_and_accepts_nothing() {
    let host = TestHost::new();
    for (verify, said) in [
        ("sleep 600 & sleep 600", "did not end within"),
        ("echo '{\"verdict\": \"accept\"}'; exit 1", "says accept and ends with exit code 1"),
        ("echo '{\"verdict\": \"splendid\"}'", "none of accept"),
        ("echo '{\"verdict\": '", "not understood"),
        ("head -c 3000000 /dev/zero", "printed over"),
        ("echo '{\"verdict\": \"accept\"}'; kill -9 $$", "signal 9"),
        ("exit 127", "could not run"),
        ("echo '{\"verdict\": \"error\", \"feedback\": \"no database\"}'", "no database"),
    ] {
        let id = run(&host, &["--retries", "3", "--backoff", "10", "--verify-time", "1s", "--verify", verify, "--", "true"]);
        let s = host.ended(&id);
        assert_eq!(
            (s["outcome"].as_str(), s["verdict"]["verdict"].as_str(), s["attempt"].as_u64()),
            (Some("failed"), Some("error"), Some(1)),
            "{verify}: {s:#}"
        );
        assert!(s["verdict"]["text"].as_str().is_some_and(|t| t.contains(said)), "{verify}: {s:#}");
        until("nothing is left", || marked(&id).is_empty().then_some(()));
    }
    let id = run(&host, &["--verify", "echo fine", "--", "true"]);
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
    let id = run(
        &host,
        &[
            "--retries",
            "1",
            "--backoff",
            "10",
            "--verify",
            "echo 2 of 9 fail; exit 2",
            "--",
            "sh",
            "-c",
            "printenv BEADLE_FEEDBACK >> fed; true",
        ],
    );
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("failed"), Some(2)), "sent back once: {s:#}");
    assert_eq!(lines_of(&host.work().join("fed")), ["2 of 9 fail"]);
    sound(&host);
}

#[test]
fn a_daemon_killed_while_an_attempt_is_judged_judges_it_once() {
    for point in ["examining:1", "verifying:1", "checkpointed:1"] {
        let host = TestHost::new();
        let top = host.work();
        git(&top, &["init", "-q", "-b", "main"]);
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        let verify = "echo v >> ../verified; sleep 0.3; grep -q done out";
        let id = run(&host, &["--verify", verify, "--", "sh", "-c", "echo run >> runs; echo done > out"]);
        until("the daemon has died", || daemon.try_wait().ok().flatten());
        host.daemon();
        let s = host.ended(&id);
        assert_eq!((s["outcome"].as_str(), runs(&host)), (Some("succeeded"), 1), "{point}: {s:#}");
        assert_eq!(lines_of(&top.join("../verified")).len(), 1, "{point}: the verifier ran once");
        let kept = host.events_of(&id, "attempt_checkpointed");
        assert_eq!((kept.len(), host.events_of(&id, "attempt_verified").len()), (1, 1), "{point}");
        let named = git(&top, &["for-each-ref", "--format=%(objectname) %(refname)", "refs/beadle"]);
        assert_eq!(named.trim(), format!("{} refs/beadle/{id}/1", kept[0]["body"]["commit"].as_str().unwrap_or_default()), "{point}");
        until("nothing is left", || marked(&id).is_empty().then_some(()));
        sound(&host);
    }
}

#[test]
fn a_stop_ends_a_verifier_and_its_processes_have_the_sessions_role() {
    let host = TestHost::new();
    let beadle = env!("CARGO_BIN_EXE_beadle");
    let verify = format!("{beadle} ls > role 2>&1; echo $? >> role; sleep 600");
    let id = run(&host, &["--env", "BEADLE_HOME", "--verify", &verify, "--", "true"]);
    let said = until("the verifier has asked", || {
        let lines = lines_of(&host.work().join("role"));
        (lines.len() >= 2).then_some(lines)
    });
    assert!(said.iter().any(|l| l.contains("BDL-API-001")), "{said:?}");
    host.beadle(["stop", &id]).ok();
    assert_eq!(host.ended(&id)["outcome"], "stopped");
    until("nothing is left", || marked(&id).is_empty().then_some(()));
}

fn git(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("git").args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(args).current_dir(dir).output().expect("git");
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Bytes of what a checkpoint must leave as it is.
fn bytes_of(top: &Path) -> Vec<(String, Vec<u8>)> {
    ["a", ".git/index", ".git/HEAD", ".git/logs/HEAD", ".git/refs/stash", ".git/refs/heads/main", ".git/config"]
        .iter()
        .map(|n| ((*n).to_owned(), std::fs::read(top.join(n)).unwrap_or_default()))
        .collect()
}

#[test]
fn a_checkpoint_leaves_uncommitted_and_staged_work_alone_and_is_restored_beside_it() {
    let host = TestHost::new();
    let top = host.work();
    git(&top, &["init", "-q", "-b", "main"]);
    host.file("a", "one");
    git(&top, &["add", "."]);
    git(&top, &["commit", "-q", "-m", "first"]);
    host.file("a", "stashed");
    git(&top, &["stash", "-q"]);
    host.file("staged", "staged");
    git(&top, &["add", "staged"]);
    host.file("a", "uncommitted");
    let trap = host.program("trap", "#!/bin/sh\necho \"$0 $*\" >> \"$(dirname \"$0\")/trapped\"\ncat\n");
    let config = format!(
        "[core]\n repositoryformatversion = 0\n fsmonitor = {t}\n hooksPath = {d}\n[filter \"x\"]\n clean = {t}\n smudge = {t}\n required = true\n\
         [commit]\n gpgSign = true\n[gpg]\n program = {t}\n",
        t = trap.display(),
        d = trap.parent().unwrap_or(&trap).display()
    );
    std::fs::write(top.join(".git/config"), config).expect("config");
    host.file(".gitattributes", "* filter=x\n");
    let before = bytes_of(&top);
    let id = run(&host, &["--checkpoint", "success", "--", "sh", "-c", "echo new > made"]);
    assert_eq!(host.ended(&id)["outcome"], "exited");
    assert_eq!(bytes_of(&top), before);
    let doc = attempts(&host, &id);
    let commit = doc["items"][0]["checkpoint"].as_str().expect("a checkpoint").to_owned();
    let kept = std::fs::read_to_string(top.join(format!(".git/refs/beadle/{id}/1"))).unwrap_or_default();
    assert_eq!(kept.trim(), commit);
    host.file("made", "worse");
    let to = host.home().join("back");
    let to_text = to.display().to_string();
    let back = host.beadle(["--json", "rollback", &id, "--attempt", "1", "--restore", &to_text]).ok().json();
    assert_eq!((back["marked_count"].as_u64(), back["restored"]["commit"].as_str()), (Some(1), Some(commit.as_str())), "{back}");
    let read = |p: &Path| std::fs::read_to_string(p).unwrap_or_default();
    assert_eq!(
        (read(&to.join("made")).as_str(), read(&to.join("a")).as_str(), read(&top.join("made")).as_str()),
        ("new\n", "uncommitted", "worse")
    );
    assert_eq!(bytes_of(&top), before, "nor does a rollback touch it");
    assert!(lines_of(&trap.parent().unwrap_or(&trap).join("trapped")).is_empty(), "nothing of the repository ran");
    let again = host.beadle(["rollback", &id, "--restore", &to_text]);
    assert!(again.code == 2 && again.err.contains("not empty"), "{again:?}");
    let now = host.beadle(["--json", "checkpoint", &id]).ok().json();
    assert!(now["commit"].as_str().is_some_and(|c| c != commit && c.len() == 40), "{now}");
    assert_eq!(bytes_of(&top), before);
    let failed = run(&host, &["--checkpoint", "success", "--", "false"]);
    host.ended(&failed);
    assert!(host.events_of(&failed, "attempt_checkpointed").is_empty(), "of good attempts only");
    let always = run(&host, &["--checkpoint", "always", "--", "false"]);
    host.ended(&always);
    assert_eq!(host.events_of(&always, "attempt_checkpointed").len(), 1);
    let elsewhere = host.home().join("plain");
    std::fs::create_dir_all(&elsewhere).expect("a folder");
    let none = run(&host, &["-C", &elsewhere.display().to_string(), "--checkpoint", "success", "--", "true"]);
    assert_eq!(host.ended(&none)["outcome"], "exited", "no repository is no error");
    sound(&host);
}

#[test]
fn rollback_marks_all_that_is_selected_or_nothing_and_once() {
    let host = TestHost::new();
    let parent = run(&host, &["--phase", "plan", "--retries", "1", "--backoff", "10", "--", "false"]);
    host.ended(&parent);
    let child = run(&host, &["--parent", &parent, "--phase", "build", "--", "true"]);
    host.ended(&child);
    let other = run(&host, &["--phase", "build", "--", "true"]);
    host.ended(&other);
    let live = run(&host, &["--parent", &parent, "--", "sleep", "600"]);
    let refused = host.beadle(["rollback", "--tree", &parent]);
    assert!(refused.code == 1 && refused.err.contains("BDL-SESSION-007"), "{refused:?}");
    assert!(
        host.events_of(&parent, "attempt_rolled_back").is_empty() && host.events_of(&child, "attempt_rolled_back").is_empty(),
        "all or none"
    );
    host.beadle(["kill", &live]).ok();
    host.ended(&live);
    let doc = host.beadle(["--json", "rollback", "--tree", &parent, "--phase", "build"]).ok().json();
    assert_eq!((doc["items"].as_array().map(Vec::len), doc["items"][0]["session"].as_str()), (Some(1), Some(child.as_str())), "{doc}");
    let doc = host.beadle(["--json", "rollback", &parent, "--attempt", "2"]).ok().json();
    assert_eq!(doc["marked_count"], 1);
    let doc = host.beadle(["--json", "rollback", "--tree", &parent, "--agent", "generic"]).ok().json();
    assert_eq!((doc["items"].as_array().map(Vec::len), doc["marked_count"].as_u64()), (Some(4), Some(2)), "each once: {doc}");
    let doc = host.beadle(["--json", "rollback", "--tree", &parent]).ok().json();
    assert_eq!(doc["marked_count"], 0, "again changes nothing");
    let seqs: Vec<u64> = [&parent, &child].iter().map(|id| host.show(id)["last_seq"].as_u64().unwrap_or_default()).collect();
    host.beadle(["rollback", "--tree", &parent]).ok();
    assert_eq!([&parent, &child].iter().map(|id| host.show(id)["last_seq"].as_u64().unwrap_or_default()).collect::<Vec<_>>(), seqs);
    assert!(host.beadle(["ls"]).ok().out.contains("rolled back"));
    assert!(host.beadle(["show", &parent]).ok().out.contains("attempt 1, attempt 2"));
    assert_eq!(host.beadle(["--json", "stats"]).ok().json()["rolled_back_count"], 3);
    assert_eq!(attempts(&host, &parent)["all"]["rolled_back_count"], 2);
    assert!(host.show(&other)["rolled_back"].is_null(), "what was not selected stays");
    let none = host.beadle(["rollback", &parent, "--attempt", "9"]);
    assert!(none.code == 2 && none.err.contains("selects no attempt"), "{none:?}");
    assert_eq!(host.beadle(["rollback", "nobody"]).code, 3);
    sound(&host);
}

#[test]
fn the_real_claude_is_a_tier_and_is_told_what_the_verifier_said() {
    let Some((mut host, program)) = crate::claude::host("the_real_claude_is_a_tier_and_is_told_what_the_verifier_said") else { return };
    host.config(&rules(&["Bash(echo:*)", "Edit(./**)"], &[], &[]));
    let model = Model::start(&json!({"steps": [bash("echo big > out"), {"text": "Done."}]}));
    host.set("ANTHROPIC_BASE_URL", model.url());
    let text = format!(
        "verify = [\"/bin/sh\", \"-c\", {}]\n[[tier]]\nname = \"small\"\nkind = \"local\"\ncommand = [\"sh\", \"-c\", \"cat > asked; echo small > out\"]\n\
         [[tier]]\nname = \"big\"\nkind = \"managed\"\nagent = \"claude\"\nprogram = {}\n",
        json!(WANTS_BIG),
        json!(program.display().to_string())
    );
    let file = host.file("l.toml", &text).display().to_string();
    let id = run(&host, &["--ladder", &file, "make it"]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64(), s["breach_count"].as_u64()), (Some("succeeded"), Some(2), Some(0)), "{s:#}");
    assert!(model.requests().iter().any(|r| r.to_string().contains("out must be big")), "the model saw the feedback");
    let doc = attempts(&host, &id);
    assert_eq!((field(&doc, "agent"), field(&doc, "outcome")), (vec!["generic", "claude"], vec!["failed", "succeeded"]));
    assert!(doc["items"][1]["cost"]["nanousd"].as_u64().is_some_and(|n| n > 0) && doc["items"][0]["cost"].is_null(), "{doc:#}");
    assert_eq!(doc["by_agent"]["claude"]["cost"], doc["all"]["cost"]);
    host.assert_accounted(&id);
    sound(&host);
}

#[test]
fn an_agent_that_ended_before_its_start_was_on_record_was_the_first_attempt() {
    let host = TestHost::new();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "queue_launched");
    let script = from_try(2);
    let mut asking = host.spawn(["run", "--detach", "--name", "job", "--retries", "1", "--backoff", "10", "--", "sh", "-c", &script]);
    until("the daemon has died", || daemon.try_wait().ok().flatten());
    until("the agent has ended", || {
        let names = std::fs::read_dir(host.data().join("s")).into_iter().flatten().flatten().map(|e| e.file_name());
        let ids: Vec<String> = names.filter_map(|n| n.into_string().ok()).collect();
        (runs(&host) == 1 && ids.iter().all(|id| marked(id).is_empty())).then_some(())
    });
    host.daemon();
    let s = host.ended("job");
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64(), runs(&host)), (Some("exited"), Some(2), 2), "{s:#}");
    assert_eq!(field(&attempts(&host, "job"), "outcome"), ["failed", "exited"]);
    // The client may have tried again.
    let _ = asking.kill();
    let _ = asking.wait();
    sound(&host);
}

#[test]
fn a_limit_of_turns_counts_all_attempts() {
    let mut host = TestHost::new();
    let model = Model::start(&json!({ "steps": [{ "text": "one" }, { "text": "two" }, { "text": "three" }] }));
    let more = ["--retries", "5", "--backoff", "10", "--max-turns", "2", "--verify", "echo no; exit 1"];
    let id = host.run_demo(&model, "go", &more);
    let s = host.ended(&id);
    assert_eq!(
        (s["outcome"].as_str(), s["attempt"].as_u64(), s["exceeded"]["limit"].as_str()),
        (Some("budget"), Some(2), Some("turns")),
        "{s:#}"
    );
    assert!(marked(&id).is_empty());
    sound(&host);
}

#[test]
fn the_agent_that_holds_the_conversation_goes_on_and_no_tier_beside_it() {
    let host = TestHost::new();
    let agent = host.program("agent.sh", "#!/bin/sh\nhead -c 1 > /dev/null\n").display().to_string();
    let file = |tiers: [&str; 2]| {
        let text = |t: &str| match t {
            "agent" => format!("[[tier]]\nname = \"agent\"\nagent = \"claude\"\nprogram = {agent:?}\n"),
            _ => "[[tier]]\nname = \"plain\"\ncommand = [\"sh\", \"-c\", \"true\"]\n".to_owned(),
        };
        let verify = "verify = [\"sh\", \"-c\", \"[ $BEADLE_ATTEMPT = 2 ]\"]";
        host.file("l.toml", &format!("{verify}\n{}{}", text(tiers[0]), text(tiers[1]))).display().to_string()
    };
    for tiers in [["agent", "plain"], ["plain", "agent"]] {
        let id = run(&host, &["--ladder", &file(tiers), "make it"]);
        assert_eq!(field(&attempts(&host, host.ended(&id)["id"].as_str().expect("an id")), "tier"), tiers);
        let said = host.beadle(["--json", "resume", &id, "--replay", "--detach", "go on"]).ok().json();
        assert_eq!((said["agent"].as_str(), said["command"][0].as_str()), (Some("claude"), Some(agent.as_str())), "{said:#}");
        let left_out = said["origin"]["left_out"].as_str().unwrap_or_default();
        assert_eq!(left_out.contains("the arguments of its tier"), tiers[1] == "agent", "{said:#}");
        host.ended(said["id"].as_str().expect("an id"));
    }
}

/// What an earlier daemon started and the next one does not go on with ends with its session.
#[test]
fn nothing_that_a_killed_daemon_had_begun_outlives_its_session() {
    let host = TestHost::new();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "tried");
    let script = "echo run >> runs; [ $(wc -l < runs) = 1 ] && exit 1; sleep 600";
    let id = run(&host, &["--retries", "1", "--backoff", "10", "--", "sh", "-c", script]);
    until("the daemon has died", || daemon.try_wait().ok().flatten());
    assert!(!marked(&id).is_empty(), "the second attempt's agent runs and is not on record");
    std::fs::remove_file(host.data().join("s").join(&id).join("plan.json")).expect("the plan is kept");
    host.daemon();
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["attempt"].as_u64()), (Some("failed"), Some(1)), "{s:#}");
    assert!(marked(&id).is_empty(), "it ended before the session did");

    let host = TestHost::new();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "stopping");
    let id = run(&host, &["--verify", "touch judging; sleep 600", "--", "true"]);
    until("it is judged", || host.work().join("judging").exists().then_some(()));
    let mut stopping = host.spawn(["stop", &id]);
    until("the daemon has died", || daemon.try_wait().ok().flatten());
    assert!(!marked(&id).is_empty(), "the verifier runs");
    assert_eq!(host.ended(&id)["outcome"], "stopped");
    assert!(marked(&id).is_empty(), "it ended before the session did");
    stopping.wait().expect("it ends");
    sound(&host);
}

#[test]
fn a_verifier_that_stops_its_shim_is_no_operator_and_ends_with_its_session() {
    let host = TestHost::new();
    let beadle = env!("CARGO_BIN_EXE_beadle");
    let verify =
        format!("kill -STOP $PPID; touch ../still; until [ -e ../up ]; do sleep 0.02; done; {beadle} rule add deny 'Bash(x:*)'; sleep 600");
    let id = run(&host, &["--env", "BEADLE_HOME", "--verify", &verify, "--", "true"]);
    until("its shim stands still", || host.home().join("../still").exists().then_some(()));
    host.kill_daemon();
    host.daemon();
    std::fs::write(host.home().join("../up"), "").expect("a file");
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["verdict"]["verdict"].as_str()), (Some("failed"), Some("error")), "{s:#}");
    assert!(marked(&id).is_empty(), "it ended before the session did");
    assert!(host.beadle(["--json", "rule", "ls"]).ok().lines().is_empty(), "it is the session, and no operator");
    sound(&host);
}
