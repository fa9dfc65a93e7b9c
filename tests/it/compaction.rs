//! Compaction on the real Claude Code: what the next model request holds, and that a conversation is never lost on the way.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::claude::{host as claude_host, run};
use crate::support::{Model, TestHost, bash, lines_of, rules, until};

/// A strategy that gives calls another text, too.
const STRATEGY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/moments_strategy.wasm"));

fn host(test: &str) -> Option<(TestHost, PathBuf)> {
    let (host, program) = claude_host(&format!("compaction: {test}"))?;
    configure(&host, "");
    Some((host, program))
}

fn configure(host: &TestHost, more: &str) {
    host.config(&format!("{more}\n{}", rules(&["Bash(echo:*)", "Bash(seq:*)", "Read(./**)", "Edit(./**)"], &[], &[])));
}

/// Two turns of calls with results of some size, a third of one call.
fn turns() -> Model {
    Model::start(&json!({ "steps": [
        bash("seq 10001 10400"), bash("seq 20001 20400"), { "text": "first turn done" },
        bash("seq 30001 30400"), { "text": "second turn done" },
        bash("echo three >> out.txt"), { "text": "third turn done" },
        bash("echo four >> out.txt"), { "text": "fourth turn done" },
    ]}))
}

fn turn_ends(host: &TestHost, id: &str, n: u64) {
    until(&format!("turn {n} has ended"), || {
        let s = host.show(id);
        assert_ne!(s["status"], "ended", "{s:#} {:#?}", host.events(id));
        (s["turn_count"] == n).then_some(())
    });
}

fn two_turns(host: &mut TestHost, program: &Path, model: &Model) -> String {
    let id = run(host, program, model, &["--keep"]);
    turn_ends(host, &id, 1);
    host.beadle(["--json", "send", &id, "the second prompt"]).ok();
    turn_ends(host, &id, 2);
    id
}

/// Messages of the newest model request that has tools: the main agent's.
fn newest(model: &Model) -> Vec<Value> {
    let all = model.requests();
    let main = all.iter().rev().find_map(|r| {
        let body = if r["messages"].is_array() { r } else { &r["body"] };
        body["tools"].as_array().filter(|t| !t.is_empty())?;
        body["messages"].as_array().cloned()
    });
    main.unwrap_or_else(|| panic!("no request with messages: {}", all.last().cloned().unwrap_or_default()))
}

fn blocks<'a>(messages: &'a [Value], kind: &str, key: &str) -> Vec<&'a str> {
    let all = messages.iter().flat_map(|m| m["content"].as_array().into_iter().flatten());
    all.filter(|b| b["type"] == kind).filter_map(|b| b[key].as_str()).collect()
}

/// Every call has its result and the other way round.
fn no_dangling(messages: &[Value]) {
    let (calls, results) = (blocks(messages, "tool_use", "id"), blocks(messages, "tool_result", "tool_use_id"));
    assert_eq!(calls, results, "{messages:#?}");
}

/// The agent's records, by conversation, oldest first.
fn records(host: &TestHost, id: &str) -> Vec<(String, String)> {
    let root = host.home().join("claude/projects");
    let named = host.events_of(id, "transcript_named");
    named
        .iter()
        .map(|e| {
            let conversation = e["body"]["conversation"].as_str().expect("a conversation").to_owned();
            let folders = std::fs::read_dir(&root).expect("records").flatten();
            let file = folders.map(|f| f.path().join(format!("{conversation}.jsonl"))).find(|p| p.exists());
            let text = file.map(|f| std::fs::read_to_string(f).expect("a record")).unwrap_or_default();
            (conversation, text)
        })
        .collect()
}

#[test]
fn the_next_request_holds_the_compacted_messages() {
    let Some((mut host, program)) = host("the_next_request_holds_the_compacted_messages") else { return };
    let model = turns();
    let id = two_turns(&mut host, &program, &model);
    let old = records(&host, &id);
    let dry = host.beadle([
        "--json",
        "compact",
        &id,
        "--strategy",
        "mask-observations",
        "--config",
        r#"{"keep":1}"#,
        "--target",
        "1",
        "--dry-run",
    ]);
    let dry = dry.ok().json();
    assert_eq!(
        (dry["changed_count"].as_u64(), dry["dropped_count"].as_u64(), dry["dry_run"].as_bool()),
        (Some(2), Some(0), Some(true)),
        "{dry:#}"
    );
    assert_eq!(host.events_of(&id, "compaction_began").len(), 0, "a dry run does nothing");
    let done = host.beadle(["--json", "compact", &id, "--config", r#"{"keep":1}"#, "--target", "1"]).ok().json();
    assert_eq!(done["tokens_after"], dry["tokens_after"], "{done:#}");
    host.beadle(["--json", "send", &id, "the third prompt"]).ok();
    turn_ends(&host, &id, 3);
    let messages = newest(&model);
    let text = json!(messages).to_string();
    no_dangling(&messages);
    assert_eq!(blocks(&messages, "tool_use", "id").len(), 4, "the calls stay");
    for (there, what) in [
        (false, "10200"),
        (false, "20200"),
        (true, "30200"),
        (true, "result of Bash left out"),
        (true, "second prompt"),
        (true, "third prompt"),
        (true, "first turn done"),
    ] {
        assert_eq!(text.contains(what), there, "{what}: {text}");
    }
    let s = host.show(&id);
    assert_eq!((s["status"].as_str(), s["attempt"].as_u64(), s["breach_count"].as_u64()), (Some("running"), Some(2), Some(0)), "{s:#}");
    let event = &host.events_of(&id, "context_compacted")[0]["body"];
    assert_eq!(
        (event["trigger"].as_str(), event["host"]["estimator"].as_str(), event["host"]["changed"].as_u64()),
        (Some("manual"), Some("bytes/3"), Some(2)),
        "{event:#}"
    );
    // What it was before can be read.
    let shown = host.beadle(["compact", "show", &id]).ok().out;
    assert!(shown.contains("mask-observations") && shown.contains("2 changed") && shown.contains("original kept"), "{shown}");
    assert_eq!(host.beadle(["--json", "compact", "show", &id]).ok().lines()[0]["kind"], "context_compacted");
    let original = host.beadle(["compact", "show", &id, "--original"]).ok().out;
    assert_eq!(event["host"]["copy"].as_str(), Some(blake3_of(&original).as_str()));
    assert!(original.contains("10200") && original.contains("second prompt"), "{original}");
    let seq = host.beadle(["-q", "compact", "show", &id]).ok().out;
    assert_eq!(host.beadle(["compact", "show", &id, "--original", "--seq", seq.trim()]).ok().out, original);
    let said = host.beadle(["compact", "show", &id, "--original", "--seq", "1"]);
    assert!(said.code == 3 && said.err.contains("BDL-SESSION-057"), "{said:?}");
    let now = records(&host, &id);
    assert!(now.len() == 2 && now[0].1.starts_with(&old[0].1), "the old record is as the agent left it");
    assert_eq!(event["host"]["original_digest"].as_str(), Some(blake3_of(&now[0].1).as_str()));
    assert!(
        now[1].1.contains(&format!("\"sessionId\":\"{}\"", now[1].0)) && !now[1].1.contains(&now[0].0),
        "the new one names only itself"
    );
    assert_eq!(lines_of(&host.work().join("out.txt")), ["three"]);
    host.beadle(["stop", &id]).ok();
    host.ended(&id);
    host.assert_accounted(&id);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

fn blake3_of(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

#[test]
fn the_daemon_is_killed_at_each_step() {
    let Some((mut host, program)) = host("the_daemon_is_killed_at_each_step") else { return };
    let points =
        ["compacting", "compaction_began", "compaction_left", "compaction_written", "compacted", "resuming", "resumed", "relaunched"];
    for point in points {
        let _ = std::fs::remove_file(host.work().join("out.txt"));
        host.beadle(["host", "stop"]);
        let model = turns();
        let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
        let id = two_turns(&mut host, &program, &model);
        // why not ok: the daemon dies under it.
        host.beadle(["compact", &id, "--config", r#"{"keep":1}"#, "--target", "1"]);
        until(&format!("the daemon has died at {point}"), || daemon.try_wait().ok().flatten());
        until(&format!("the prompt is taken after {point}"), || {
            (host.beadle(["--json", "send", &id, "the third prompt"]).code == 0).then_some(())
        });
        turn_ends(&host, &id, 3);
        let messages = newest(&model);
        no_dangling(&messages);
        let text = json!(messages).to_string();
        let is_old = point == "compacting";
        for (there, what) in [(is_old, "10200"), (!is_old, "result of Bash left out"), (true, "second prompt"), (true, "third prompt")] {
            assert_eq!(text.contains(what), there, "{point}: {what}");
        }
        let s = host.show(&id);
        assert_eq!((s["status"].as_str(), s["breach_count"].as_u64()), (Some("running"), Some(0)), "{point}: {s:#}");
        assert_eq!(host.events_of(&id, "context_compacted").len(), usize::from(!is_old), "{point}");
        assert_eq!(lines_of(&host.work().join("out.txt")), ["three"], "{point}: it ran once");
        host.beadle(["kill", &id]).ok();
        host.ended(&id);
        assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true, "{point}");
    }
}

#[test]
fn a_session_in_a_turn_or_at_an_open_question_is_not_compacted() {
    let Some((mut host, program)) = host("a_session_in_a_turn_or_at_an_open_question_is_not_compacted") else { return };
    host.config(&rules(&["Bash(sleep:*)"], &["Bash(echo:*)"], &[]));
    for (command, says) in [("sleep 300", "in a turn"), ("echo one", "waits for an answer")] {
        let model = Model::start(&json!({ "steps": [bash(command), { "text": "done" }] }));
        let id = run(&mut host, &program, &model, &["--keep"]);
        let kind = if says == "in a turn" { "tool_started" } else { "approval_requested" };
        until("the call is there", || (!host.events_of(&id, kind).is_empty()).then_some(()));
        let said = host.beadle(["--json", "compact", &id]);
        assert!(said.code == 1 && said.err.contains("BDL-SESSION-041") && said.err.contains(says), "{said:?}");
        assert_eq!(host.events_of(&id, "compaction_began").len(), 0);
        host.beadle(["kill", &id]).ok();
        host.ended(&id);
        let said = host.beadle(["--json", "compact", &id]);
        assert!(said.code == 1 && said.err.contains("BDL-SESSION-004"), "{said:?}");
    }
}

#[test]
fn each_standard_strategy_leaves_a_conversation_that_the_agent_goes_on_with() {
    let Some((mut host, program)) = host("each_standard_strategy_leaves_a_conversation_that_the_agent_goes_on_with") else { return };
    let settings = [
        ("drop-oldest", r#"{"keep_turns":1,"keep_steps":1}"#, "first turn done", false),
        ("structured-summary", r#"{"keep_steps":1,"max_tokens":300}"#, "made by the session host from their own words", true),
    ];
    for (strategy, config, what, there) in settings {
        let model = turns();
        let id = two_turns(&mut host, &program, &model);
        let done = host.beadle(["--json", "compact", &id, "--strategy", strategy, "--config", config, "--target", "1"]).ok().json();
        assert!(done["dropped_count"].as_u64().is_some_and(|n| n >= 4), "{done:#}");
        host.beadle(["--json", "send", &id, "the third prompt"]).ok();
        turn_ends(&host, &id, 3);
        let messages = newest(&model);
        no_dangling(&messages);
        let text = json!(messages).to_string();
        assert!(text.contains(what) == there && !text.contains("10200") && text.contains("second prompt"), "{strategy}: {text}");
        assert!(text.contains("\"go"), "{strategy}: the user's own words stay: {text}");
        // A second time, from the record that the host wrote; once with the user's own words.
        let both = strategy == "drop-oldest";
        if both {
            users_words_go_where_both_say_so(&host, &id);
        }
        let all = json!({ "keep_turns": 0, "keep_steps": 1, "user_words": both }).to_string();
        let mut args = vec!["compact", &id, "--strategy", "drop-oldest", "--config", &all, "--target", "1"];
        args.extend(if both { &["--unpin", "user"][..] } else { &[] });
        host.beadle(args).ok();
        let began = &host.events_of(&id, "compaction_began")[1]["body"];
        assert_eq!(began["unpinned_user"].as_bool(), both.then_some(true), "{began:#}");
        host.beadle(["--json", "send", &id, "the fourth prompt"]).ok();
        turn_ends(&host, &id, 4);
        let messages = newest(&model);
        no_dangling(&messages);
        let text = json!(messages).to_string();
        for (there, what) in [(!both, "\"go"), (!both, "second prompt"), (true, "third prompt"), (true, "fourth prompt")] {
            assert_eq!(text.contains(what), there, "{strategy}: {what}: {text}");
        }
        assert_eq!(host.show(&id)["breach_count"], 0);
        host.beadle(["kill", &id]).ok();
        host.ended(&id);
    }
}

/// What would be dropped of a conversation, by the strategy's word and the operator's: only where both say so the user's own words too.
fn users_words_go_where_both_say_so(host: &TestHost, id: &str) {
    let dry = |wants: bool, unpinned: bool| {
        let config = json!({ "keep_turns": 0, "keep_steps": 1, "user_words": wants }).to_string();
        let mut args = vec!["--json", "compact", id, "--dry-run", "--strategy", "drop-oldest", "--target", "1", "--config", &config];
        args.extend(if unpinned { &["--unpin", "user"][..] } else { &[] });
        host.beadle(args).ok().json()
    };
    let neither = dry(false, false);
    let dropped = neither["dropped_count"].as_u64().expect("a count");
    for (wants, unpinned) in [(true, false), (false, true)] {
        let one = dry(wants, unpinned);
        assert_eq!((&one["edits"], &one["dropped_count"]), (&neither["edits"], &neither["dropped_count"]), "{wants} {unpinned}: {one:#}");
    }
    let both = dry(true, true);
    // Of three prompts two: what is left of the third turn begins with its own.
    assert_eq!(both["dropped_count"].as_u64(), Some(dropped + 2), "{neither:#} {both:#}");
    assert!(both["tokens_after"].as_u64() < neither["tokens_after"].as_u64(), "{neither:#} {both:#}");
}

#[test]
fn a_context_over_its_threshold_is_compacted_at_the_end_of_the_turn() {
    let Some((mut host, program)) = host("a_context_over_its_threshold_is_compacted_at_the_end_of_the_turn") else { return };
    configure(&host, "compaction.threshold_percent = 1\ncompaction.config = '{\"keep\":0}'\n");
    let usage = json!({ "in": 900_000, "out": 34 });
    let model = Model::start(&json!({ "steps": [
        { "tool": "Bash", "input": { "command": "seq 10001 10400", "description": "test" } },
        { "text": "first turn done", "usage": usage },
        { "text": "second turn done" },
    ] }));
    let id = run(&mut host, &program, &model, &["--keep"]);
    let event = until("the conversation is compacted", || host.events_of(&id, "context_compacted").first().cloned());
    assert_eq!((event["body"]["trigger"].as_str(), event["body"]["host"]["changed"].as_u64()), (Some("auto"), Some(1)), "{event:#}");
    host.beadle(["--json", "send", &id, "the second prompt"]).ok();
    turn_ends(&host, &id, 2);
    let messages = newest(&model);
    no_dangling(&messages);
    let text = json!(messages).to_string();
    assert!(!text.contains("10200") && text.contains("result of Bash left out"), "{text}");
    assert_eq!(host.events_of(&id, "context_compacted").len(), 1, "once");
}

#[test]
fn without_configuration_the_threshold_is_four_fifths_of_the_window() {
    let Some((mut host, program)) = host("without_configuration_the_threshold_is_four_fifths_of_the_window") else { return };
    // What the model says was used is written before the window is known, so there is a step for each window that models have.
    let used = |share: u64, window: u64| json!({ "in": share * window / 100 - 34, "out": 34 });
    let asks = |share: u64, window: u64| format!("fill {share} of {window}");
    let mut steps: Vec<Value> = (10..24).map(|n| bash(&format!("seq {n}0001 {n}0400"))).collect();
    steps.push(json!({ "text": "first turn done" }));
    for window in [200_000, 1_000_000] {
        let step = |share| json!({ "when": { "last": asks(share, window) }, "text": "done", "usage": used(share, window) });
        steps.extend([79, 81].map(step));
    }
    let model = Model::start(&json!({ "steps": steps }));
    let id = run(&mut host, &program, &model, &["--keep"]);
    turn_ends(&host, &id, 1);
    let window = host.show(&id)["context_window"].as_u64().expect("a window");
    for (turn, share) in [(2, 79), (3, 81)] {
        host.beadle(["--json", "send", &id, &asks(share, window)]).ok();
        turn_ends(&host, &id, turn);
        if share == 79 {
            assert_eq!(host.show(&id)["context_used"].as_u64(), Some(share * window / 100));
        }
    }
    until("the conversation is compacted", || host.events_of(&id, "context_compacted").first().cloned());
    let (began, ended) = (host.events_of(&id, "compaction_began"), host.events_of(&id, "turn_ended"));
    assert_eq!((began.len(), ended.len(), began[0]["body"]["trigger"].as_str()), (1, 3, Some("auto")), "{began:#?}");
    assert!(began[0]["seq"].as_u64() > ended[2]["seq"].as_u64(), "at 81 %, not at 79 %: {began:#?} {ended:#?}");
}

#[test]
fn a_fork_and_a_resume_go_on_from_the_compacted_conversation_and_a_fork_from_the_one_before() {
    let Some((mut host, program)) = host("a_fork_and_a_resume_go_on_from_the_compacted_conversation_and_a_fork_from_the_one_before") else {
        return;
    };
    let done = |t: &str| json!({ "text": t });
    let model = Model::start(&json!({ "steps": [
        bash("seq 10001 10400"), bash("seq 20001 20400"), done("first turn done"), bash("seq 30001 30400"), done("second turn done"),
        done("third turn done"), done("forked"), done("forked before"), done("taken up"),
    ]}));
    let id = two_turns(&mut host, &program, &model);
    host.beadle(["--json", "compact", &id, "--config", r#"{"keep":1}"#, "--target", "1"]).ok();
    host.beadle(["--json", "send", &id, "the third prompt"]).ok();
    turn_ends(&host, &id, 3);
    let whole = newest(&model);
    let ends: Vec<String> = host.events_of(&id, "turn_ended").iter().map(|e| e["seq"].to_string()).collect();
    let goes_on = |args: &[&str]| {
        let said = host.beadle([&["--json"][..], args, &["--detach"]].concat()).ok().json();
        let new = said["id"].as_str().expect("an id").to_owned();
        let s = host.ended(&new);
        assert_eq!((s["outcome"].as_str(), s["origin"]["given"].as_str()), (Some("succeeded"), Some("conversation")), "{s:#}");
        let messages = newest(&model);
        no_dangling(&messages);
        (json!(messages).to_string(), messages)
    };
    // Behind the compaction: what the agent was asked with then, word for word.
    let (text, messages) = goes_on(&["fork", &id, "another way", "--at", &ends[2]]);
    let calls = |m: &[Value]| [blocks(m, "tool_use", "id"), blocks(m, "tool_result", "content")].concat().join("\n");
    assert_eq!(calls(&messages), calls(&whole));
    assert!(text.contains("result of Bash left out") && !text.contains("10200"), "{text}");
    assert!(["third turn done", "another way"].iter().all(|t| text.contains(t)), "{text}");
    // Before it: what there was.
    let (text, _) = goes_on(&["fork", &id, "yet another way", "--at", &ends[0]]);
    assert!(
        text.contains("10200") && text.contains("20200") && !text.contains("left out") && !text.contains("the second prompt"),
        "{text}"
    );
    host.beadle(["stop", &id]).ok();
    host.ended(&id);
    let (text, messages) = goes_on(&["resume", &id, "go on"]);
    assert_eq!(calls(&messages), calls(&whole));
    assert!(["third turn done", "go on", "result of Bash left out"].iter().all(|t| text.contains(t)) && !text.contains("10200"), "{text}");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn who_starts_a_session_says_where_its_threshold_lies() {
    let Some((mut host, program)) = host("who_starts_a_session_says_where_its_threshold_lies") else { return };
    for bad in ["0", "100%", "much"] {
        let said = host.beadle(["run", "--compact-at", bad, "go"]);
        assert!(said.code == 2 && said.err.contains("1% to 99%"), "{said:?}");
    }
    for (at, configured, compacted) in [("1%", 80, true), ("off", 1, false)] {
        configure(&host, &format!("compaction.threshold_percent = {configured}\n"));
        host.beadle(["host", "stop"]);
        let usage = json!({ "in": 100_000, "out": 34 });
        let mut steps: Vec<Value> = (10..24).map(|n| bash(&format!("seq {n}0001 {n}0400"))).collect();
        steps.push(json!({ "text": "first turn done", "usage": usage }));
        steps.push(json!({ "text": "second turn done", "usage": usage }));
        let model = Model::start(&json!({ "steps": steps }));
        let id = run(&mut host, &program, &model, &["--keep", "--compact-at", at]);
        turn_ends(&host, &id, 1);
        let shown = host.beadle(["show", &id]).ok().out;
        let line = shown.lines().find(|l| l.trim_start().starts_with("compacted at")).map(str::trim);
        assert!(line.is_some_and(|l| l.ends_with(if compacted { "1 %" } else { "never" })), "{shown}");
        let set = &host.events_of(&id, "compaction_set")[0]["body"];
        let percent = if compacted { 1 } else { 100 };
        assert_eq!((set["threshold_percent"].as_u64(), set["by"]["role"].as_str()), (Some(percent), Some("operator")));
        if compacted {
            until("it is compacted", || host.events_of(&id, "context_compacted").first().cloned());
        }
        // The next daemon knows it too, and a turn passes.
        host.kill_daemon();
        until("the prompt is taken", || (host.beadle(["--json", "send", &id, "the second prompt"]).code == 0).then_some(()));
        turn_ends(&host, &id, 2);
        host.beadle(["--json", "compact", &id, "--dry-run"]).ok();
        assert_eq!(host.events_of(&id, "context_compacted").len(), usize::from(compacted), "{at}");
        host.beadle(["kill", &id]).ok();
        host.ended(&id);
    }
}

#[test]
fn a_plan_against_the_laws_is_refused_and_nothing_happens() {
    let Some((mut host, program)) = host("a_plan_against_the_laws_is_refused_and_nothing_happens") else { return };
    let guest = host.home().join("strategy.wasm");
    std::fs::write(&guest, STRATEGY).expect("a component");
    let model = turns();
    let id = two_turns(&mut host, &program, &model);
    let guest = guest.display().to_string();
    // It gives calls another text, too.
    let said = host.beadle(["--json", "compact", &id, "--strategy", &guest, "--target", "1"]);
    assert!(said.code == 1 && said.err.contains("BDL-COMPACTION-006"), "{said:?}");
    let said = host.beadle(["--json", "compact", &id, "--strategy", "nobody"]);
    assert!(said.code == 1 && said.err.contains("structured-summary"), "{said:?}");
    let said = host.beadle(["--json", "compact", &id, "--target", "1000000"]);
    assert!(said.code == 1 && said.err.contains("nothing that saves tokens"), "{said:?}");
    let s = host.show(&id);
    assert_eq!((s["status"].as_str(), s["attempt"].as_u64()), (Some("running"), Some(1)), "{s:#}");
}

/// Installs the strategy of the tests under a name, with settings.
fn installed(host: &TestHost, name: &str, config: &str) {
    let file = host.home().join(format!("{name}.wasm"));
    std::fs::write(&file, STRATEGY).expect("a component");
    host.beadle(["plugin", "add", &file.display().to_string(), "--yes", "--as", name, "--config", config]).ok();
}

#[test]
fn an_installed_strategy_is_found_by_its_name_and_held_to_its_digest() {
    let Some((mut host, program)) = host("an_installed_strategy_is_found_by_its_name_and_held_to_its_digest") else { return };
    configure(&host, "compaction.strategy = \"house\"\n");
    let model = turns();
    let id = two_turns(&mut host, &program, &model);
    let said = host.beadle(["--json", "compact", &id, "--dry-run"]);
    assert!(said.code == 1 && said.err.contains("BDL-SESSION-054") && said.err.contains("there is no strategy"), "{said:?}");
    // It touches all but the newest entries, of which there are fewer than these: so its plan is good, and empty.
    installed(&host, "house", r#"{"keep":1000}"#);
    for strategy in [&[][..], &["--strategy", "house"], &["--strategy", "installed:house"]] {
        let doc = host.beadle([&["--json", "compact", &id, "--dry-run", "--target", "1"][..], strategy].concat()).ok().json();
        let digest = blake3::hash(STRATEGY).to_hex().to_string();
        assert_eq!((doc["digest"].as_str(), doc["changed_count"].as_u64()), (Some(digest.as_str()), Some(0)), "{strategy:?}: {doc:#}");
    }
    // Settings of the caller come before its own; this plan is against the laws.
    let said = host.beadle(["--json", "compact", &id, "--dry-run", "--target", "1", "--config", r#"{"keep":0}"#]);
    assert!(said.code == 1 && said.err.contains("BDL-SESSION-054") && said.err.contains("BDL-COMPACTION-006"), "{said:?}");
    // A new version that keeps failing is taken back by the host; a custom section of its own makes it another component.
    let two = host.home().join("two.wasm");
    std::fs::write(&two, [STRATEGY, &[0, 3, 1, b'n', 2]].concat()).expect("a component");
    host.beadle(["plugin", "upgrade", "house", &two.display().to_string(), "--yes"]).ok();
    host.beadle(["plugin", "set", "house", "--config", r#"{"trap":"plan"}"#]).ok();
    let in_force = |host: &TestHost| host.beadle(["--json", "plugin", "ls", "house"]).ok().json()["digest"].clone();
    let first = json!(blake3::hash(STRATEGY).to_hex().to_string());
    for n in 0..4 {
        assert_ne!(in_force(&host), first, "{n} failures are not too many");
        let said = host.beadle(["--json", "compact", &id, "--dry-run"]);
        assert!(said.code == 1 && said.err.contains("failed (trap)"), "{said:?}");
    }
    until("the version before is in force again", || (in_force(&host) == first).then_some(()));
    let disabled = |says: &str| {
        let said = host.beadle(["--json", "compact", &id, "--dry-run"]);
        assert!(said.code == 1 && said.err.contains("BDL-SESSION-054") && said.err.contains(says), "{said:?}");
    };
    host.beadle(["plugin", "disable", "house"]).ok();
    disabled("is disabled");
    host.beadle(["plugin", "enable", "house"]).ok();
    let component = host.data().join("plugins").join(format!("{}.wasm", blake3::hash(STRATEGY).to_hex()));
    std::fs::write(&component, b"\0asm exchanged").expect("exchanged");
    disabled("BDL-REGISTRY-002");
}

/// One turn that leaves the context over the threshold, and two more.
fn over_the_threshold() -> Model {
    let usage = json!({ "in": 900_000, "out": 34 });
    let mut steps: Vec<Value> = (10..24).map(|n| bash(&format!("seq {n}0001 {n}0400"))).collect();
    steps.extend(["first", "second", "third"].map(|n| json!({ "text": format!("{n} turn done"), "usage": usage })));
    Model::start(&json!({ "steps": steps }))
}

#[test]
fn where_a_strategy_fails_at_the_threshold_another_plans() {
    let Some((mut host, program)) = host("where_a_strategy_fails_at_the_threshold_another_plans") else { return };
    for (name, config, says) in [
        ("traps", r#"{"trap":"plan"}"#, "failed (trap)"),
        ("loops", r#"{"loop":"plan"}"#, "failed (deadline)"),
        ("lies", r#"{"keep":0}"#, "BDL-COMPACTION-006"),
    ] {
        installed(&host, name, config);
        configure(
            &host,
            &format!(
                "compaction.threshold_percent = 1\ncompaction.target_percent = 1\ncompaction.strategy = \"{name}\"\ncompaction.deadline_ms = 300\n"
            ),
        );
        let model = over_the_threshold();
        let id = run(&mut host, &program, &model, &["--keep"]);
        turn_ends(&host, &id, 1);
        let said = host.beadle(["--json", "compact", &id, "--dry-run"]);
        assert!(said.code == 1 && said.err.contains("BDL-SESSION-054") && said.err.contains(says), "{name}: {said:?}");
        let failed = until("it failed", || host.events_of(&id, "compaction_failed").first().cloned());
        let b = &failed["body"];
        assert_eq!(
            (b["trigger"].as_str(), b["strategy"].as_str(), b["stage"].as_str(), b["code"].as_str(), b["fallback"].as_str()),
            (Some("auto"), Some(name), Some("plan"), Some("BDL-SESSION-054"), Some("mask-observations")),
            "{failed:#}"
        );
        assert!(b["reason"].as_str().is_some_and(|r| r.contains(says)), "{failed:#}");
        let done = until("another plans", || host.events_of(&id, "context_compacted").first().cloned());
        let h = &done["body"]["host"];
        assert!(h["strategy"] == "mask-observations" && h["changed"].as_u64() > Some(0) && done["body"]["trigger"] == "auto", "{done:#}");
        host.beadle(["kill", &id]).ok();
        host.ended(&id);
    }
}

#[test]
fn a_try_that_comes_to_nothing_is_not_repeated_at_every_turn() {
    let Some((mut host, program)) = host("a_try_that_comes_to_nothing_is_not_repeated_at_every_turn") else { return };
    installed(&host, "traps", r#"{"trap":"plan"}"#);
    configure(&host, "compaction.threshold_percent = 1\ncompaction.strategy = \"traps\"\ncompaction.fallback = \"\"\n");
    let model = over_the_threshold();
    let id = run(&mut host, &program, &model, &["--keep"]);
    turn_ends(&host, &id, 1);
    let failed = until("it failed", || host.events_of(&id, "compaction_failed").first().cloned());
    let (used, again) = (host.show(&id)["context_used"].as_u64(), failed["body"]["again_at"].as_u64());
    assert!(failed["body"]["fallback"].is_null() && again > used && used.is_some(), "{failed:#}");
    for (n, prompt) in [(2, "second"), (3, "third")] {
        host.beadle(["--json", "send", &id, prompt]).ok();
        turn_ends(&host, &id, n);
    }
    // A command asks the session's task, which has looked at the threshold before.
    let said = host.beadle(["--json", "compact", &id]);
    assert!(said.code == 1 && said.err.contains("BDL-SESSION-054") && said.err.contains("trap"), "{said:?}");
    assert_eq!(host.events_of(&id, "compaction_failed").len(), 1, "the context has not grown since");
    assert_eq!(host.show(&id)["attempt"], 1);
}

/// Goes on with the old conversation: the session lives, the prompt is answered with all that was said.
fn goes_on_with_the_old(host: &TestHost, id: &str, model: &Model) {
    until("the prompt is taken", || (host.beadle(["--json", "send", id, "the third prompt"]).code == 0).then_some(()));
    turn_ends(host, id, 3);
    let failed = host.events_of(id, "compaction_failed");
    let b = &failed[0]["body"];
    let old = host.events_of(id, "transcript_named")[0]["body"]["conversation"].clone();
    assert_eq!((failed.len(), b["stage"].as_str(), &b["back_to"]), (1, Some("resume"), &old), "{failed:#?}");
    let messages = newest(model);
    no_dangling(&messages);
    let text = json!(messages).to_string();
    for (there, what) in [(true, "10200"), (false, "result of Bash left out"), (true, "second prompt"), (true, "third prompt")] {
        assert_eq!(text.contains(what), there, "{what}: {text}");
    }
    assert_eq!(text.matches("the third prompt").count(), 1, "it was given once");
    let s = host.show(id);
    assert_eq!((s["status"].as_str(), s["attempt"].as_u64(), s["breach_count"].as_u64()), (Some("running"), Some(3), Some(0)), "{s:#}");
    assert_eq!(lines_of(&host.work().join("out.txt")), ["three"]);
    host.beadle(["stop", id]).ok();
    host.ended(id);
    host.assert_accounted(id);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn an_agent_that_does_not_take_the_new_record_goes_on_with_the_old_one() {
    let Some((mut host, program)) = host("an_agent_that_does_not_take_the_new_record_goes_on_with_the_old_one") else { return };
    // Between the new record and the agent's return the host dies and the record is damaged.
    let model = turns();
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", "compacted");
    let id = two_turns(&mut host, &program, &model);
    host.beadle(["compact", &id, "--config", r#"{"keep":1}"#, "--target", "1"]);
    until("the daemon has died", || daemon.try_wait().ok().flatten());
    let folder = std::fs::read_dir(host.home().join("claude/projects")).expect("records").flatten().next().expect("a folder").path();
    let new = {
        let c = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
        let body: Vec<u8> = c
            .query_row("SELECT body FROM events WHERE kind = 'transcript_named' ORDER BY id DESC LIMIT 1", [], |r| r.get(0))
            .expect("an event");
        serde_json::from_slice::<Value>(&body).expect("JSON")["conversation"].as_str().expect("a conversation").to_owned()
    };
    let record = folder.join(format!("{new}.jsonl"));
    assert!(record.exists());
    std::fs::write(&record, "no record at all\n").expect("damaged");
    goes_on_with_the_old(&host, &id, &model);
}

#[test]
fn an_agent_that_dies_at_the_new_record_is_given_its_prompts_again() {
    let Some((mut host, program)) = host("an_agent_that_dies_at_the_new_record_is_given_its_prompts_again") else { return };
    // It takes the first prompt after the compaction and dies of it; nothing was said.
    let script = host.home().join("claude-code");
    let once = host.home().join("died");
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *--resume=*) if [ ! -e {once} ]; then : > {once}; while read -r line; do case \"$line\" in *'third prompt'*) exit 7;; esac; done; fi;; esac\nexec {program} \"$@\"\n",
        once = once.display(),
        program = program.display()
    );
    std::fs::write(&script, text).expect("a script");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("runs");
    let model = turns();
    let id = two_turns(&mut host, &script, &model);
    host.beadle(["compact", &id, "--config", r#"{"keep":1}"#, "--target", "1"]).ok();
    goes_on_with_the_old(&host, &id, &model);
}

/// A record of `calls` calls, with a fact in an early result and another in a reply.
fn recorded(dir: &Path, name: &str, calls: usize) {
    let mut lines = Vec::new();
    let mut parent = Value::Null;
    let mut put = |role: &str, message: Value| {
        let uuid = format!("{name}-{}", lines.len());
        lines.push(json!({ "uuid": uuid, "parentUuid": parent, "type": role, "isSidechain": false, "message": message }).to_string());
        parent = json!(uuid);
    };
    put("user", json!({ "role": "user", "content": "Mend the parser. Never touch LICENSE." }));
    for n in 0..calls {
        let input = json!({ "file_path": format!("/w/src/f{n}.rs") });
        let call = json!([{ "type": "tool_use", "id": format!("t{n}"), "name": "Read", "input": input }]);
        put("assistant", json!({ "role": "assistant", "id": format!("m{n}"), "content": call }));
        let text = if n == 3 { "error[E0308]: mismatched types in f3".to_owned() } else { format!("port {n} {}", "line\n".repeat(200)) };
        let result = json!([{ "type": "tool_result", "tool_use_id": format!("t{n}"), "content": text, "is_error": n == 3 }]);
        put("user", json!({ "role": "user", "content": result }));
    }
    put("assistant", json!({ "role": "assistant", "id": "last", "content": [{ "type": "text", "text": "done" }] }));
    std::fs::write(dir.join(format!("{name}.jsonl")), lines.join("\n")).expect("a record");
    let probes = json!({ "label": "replayed", "facts": ["port 5 "], "constraints": ["Never touch LICENSE."] });
    std::fs::write(dir.join(format!("{name}.probes.json")), probes.to_string()).expect("probes");
}

#[test]
fn the_scoreboard_counts_what_each_strategy_saves_and_loses() {
    let host = TestHost::new();
    let dir = host.work().join("corpus");
    std::fs::create_dir(&dir).expect("a folder");
    recorded(&dir, "a", 40);
    recorded(&dir, "b", 60);
    let begun = std::time::Instant::now();
    let rows = host.beadle(["--json", "compact", "bench", "corpus"]).ok().lines();
    let took = u64::try_from(begun.elapsed().as_micros()).expect("a time");
    assert_eq!(rows.len(), 6, "three strategies, two records");
    let micros =
        |key: &str| rows.iter().map(|r| r[key].as_u64().filter(|us| *us > 0).unwrap_or_else(|| panic!("{key}: {r:#}"))).sum::<u64>();
    assert!(micros("plan_us") + micros("apply_us") < took, "{took} us: {rows:#?}");
    for r in &rows {
        let (before, after) = (r["tokens_before"].as_u64().expect("tokens"), r["tokens_after"].as_u64().expect("tokens"));
        assert!(after < before && r["dangling"] == 0 && r["label"] == "replayed" && r["refused"].is_null(), "{r:#}");
        assert_eq!(
            (r["constraints"]["kept"].as_u64(), r["constraints"]["of"].as_u64()),
            (Some(1), Some(1)),
            "the user's own words stay: {r:#}"
        );
        assert_eq!(r["reached"], after <= before / 2, "{r:#}");
    }
    let of = |strategy: &str| rows.iter().find(|r| r["strategy"] == strategy).cloned().expect("a row");
    let (mask, drop, summary) = (of("mask-observations"), of("drop-oldest"), of("structured-summary"));
    assert_eq!(
        (mask["paths"]["kept"].as_u64(), mask["errors"]["kept"].as_u64(), mask["facts"]["kept"].as_u64()),
        (Some(40), Some(1), Some(0))
    );
    // What a prompt cache still holds ends where the first result is masked, or the first call goes; the summary goes in front.
    let tokens = |text: &str| text.len().div_ceil(3) as u64;
    let prompt = tokens("Mend the parser. Never touch LICENSE.");
    let prefix = |row: &Value| row["prefix_tokens"].as_u64().expect("tokens");
    assert_eq!(prefix(&mask), prompt + tokens(r#"{"file_path":"/w/src/f0.rs"}"#));
    assert_eq!((prefix(&drop), prefix(&summary)), (prompt, prompt), "{drop:#} {summary:#}");
    assert!(drop["paths"]["kept"].as_u64() < Some(40) && drop["errors"]["kept"] == 0, "{drop:#}");
    assert!(summary["errors"]["kept"] == 1 && summary["paths"]["kept"].as_u64() > drop["paths"]["kept"].as_u64(), "{summary:#}");
    let said = host.beadle(["compact", "bench", "corpus", "--strategy", "drop-oldest"]).ok();
    assert!(said.out.contains("drop-oldest") && !said.out.contains("mask"), "{}", said.out);
    for column in ["STRATEGY", "PREFIX", "PLAN p50", "APPLY p50"] {
        assert!(said.out.contains(column), "{column}: {}", said.out);
    }
    let said = host.beadle(["compact", "bench", "nowhere"]);
    assert!(said.code == 2 && said.err.contains("nowhere"), "{said:?}");
}

/// Runs a script of `tests/corpus` into the folder `corpus`. Where what it fetches, or Python, is out of reach, `test` is skipped by name;
/// CI has them.
fn brought(host: &TestHost, test: &str, script: &str, args: &[&str]) -> bool {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(script);
    let made = std::process::Command::new("python3").arg(script).arg(host.work().join("corpus")).args(args).output();
    if made.as_ref().is_ok_and(|m| m.status.success()) {
        return true;
    }
    #[allow(clippy::print_stderr)] // why: a test that cannot run must say so.
    {
        eprintln!("skipped compaction::{test}: {made:?}");
    }
    assert!(std::env::var_os("CI").is_none(), "CI must be able to make the corpus: {made:?}");
    false
}

#[test]
fn the_generator_makes_what_its_manifest_pins() {
    let host = TestHost::new();
    if !brought(&host, "the_generator_makes_what_its_manifest_pins", "make.py", &["--only", "toml_datetime"]) {
        return;
    }
    let rows = host.beadle(["--json", "compact", "bench", "corpus", "--strategy", "mask-observations"]).ok().lines();
    assert!(rows.len() == 1 && rows[0]["call_count"].as_u64().is_some_and(|n| n >= 30), "{rows:#?}");
    assert_eq!((rows[0]["label"].as_str(), rows[0]["dangling"].as_u64()), (Some("replayed"), Some(0)));
    // A pinned pair that gives too few calls is no silent gap: of a version to itself nothing is edited.
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let manifest: Vec<Value> = serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).expect("a manifest")).expect("JSON");
    assert!(manifest.len() >= 20, "{}", manifest.len());
    let pinned = manifest.iter().find(|m| m["crate"] == "toml_datetime").expect("it is pinned");
    let same = json!([{ "crate": "toml_datetime", "old": pinned["new"], "new": pinned["new"], "old_sha256": pinned["new_sha256"], "new_sha256": pinned["new_sha256"] }]);
    let file = host.work().join("manifest.json");
    std::fs::write(&file, same.to_string()).expect("a manifest");
    let mut make = std::process::Command::new("python3");
    make.arg(dir.join("make.py")).arg(host.work().join("corpus")).args(["--only", "toml_datetime", "--manifest"]).arg(&file);
    let said = crate::support::Said::from(make.output().expect("python3"));
    let version = pinned["new"].as_str().expect("a version");
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains(&format!("pinned and not made: toml_datetime {version} {version}: only ")), "{said:?}");
}

#[test]
fn a_real_record_stays_whole_under_each_strategy() {
    let host = TestHost::new();
    if !brought(&host, "a_real_record_stays_whole_under_each_strategy", "real.py", &[]) {
        return;
    }
    let rows = host.beadle(["--json", "compact", "bench", "corpus"]).ok().lines();
    let strategies: Vec<&str> = rows.iter().filter_map(|r| r["strategy"].as_str()).collect();
    assert_eq!(strategies, ["mask-observations", "drop-oldest", "structured-summary"]);
    for r in &rows {
        let (before, after) = (r["tokens_before"].as_u64().expect("tokens"), r["tokens_after"].as_u64().expect("tokens"));
        assert!(r["label"] == "real" && r["call_count"].as_u64().is_some_and(|n| n >= 30), "{r:#}");
        assert!(r["dangling"] == 0 && r["refused"].is_null() && after < before, "{r:#}");
    }
    // Another file than the pinned one is refused, and nothing of it is taken.
    let (other, out) = (host.file("other.whl", "no package"), host.work().join("none"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/real.py");
    let said = std::process::Command::new("python3").arg(script).arg(&out).arg("--wheel").arg(other).output().expect("python3");
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("pinned is"), "{said:?}");
    assert_eq!(std::fs::read_dir(&out).map_or(0, |d| d.count()), 0);
}
