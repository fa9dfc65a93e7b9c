//! Sessions that belong together: caps, roll-up, acts on a whole tree over a killed daemon, limits of a tree, handoffs, tasks, sub-agents.

use serde_json::{Value, json};

use crate::claude;
use crate::support::{Model, TestHost, alive, bash, kill, marked, rules, until};

const ALLOW: &[&str] = &["Bash(echo:*)", "Bash(touch:*)", "Bash(sleep:*)", "Bash(until:*)", "Agent", "TaskCreate", "TaskUpdate"];

/// A session that does nothing until the file `end` is there.
fn idle(host: &TestHost, name: &str, more: &[&str]) -> String {
    let args = [&["--json", "run", "--detach", "--name", name][..], more, &["--", "sh", "-c", "until [ -e end ]; do sleep 0.05; done"]];
    host.beadle(args.concat()).ok().json()["id"].as_str().expect("an id").to_owned()
}

fn refused(host: &TestHost, args: &[&str], code: &str, words: &[&str]) {
    let said = host.beadle(args);
    assert!(said.code == 1 && said.err.contains(code), "{args:?}: {said:?}");
    assert!(words.iter().all(|w| said.err.contains(w)), "{args:?}: {said:?}");
}

fn nodes(host: &TestHost, id: &str) -> Vec<Value> {
    host.beadle(["--json", "show", "--tree", id]).ok().json()["nodes"].as_array().expect("nodes").clone()
}

fn status(host: &TestHost, id: &str) -> String {
    let s = host.show(id);
    s["outcome"].as_str().or(s["status"].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn children_stand_below_their_parents_as_deep_and_broad_as_is_configured() {
    let host = TestHost::new();
    host.config("[limits]\ntree_depth = 2\nchildren = 2\n");
    let a = idle(&host, "a", &[]);
    let b = idle(&host, "b", &["--parent", "a"]);
    let c = idle(&host, "c", &["--parent", "a"]);
    let d = idle(&host, "d", &["--parent", "b"]);
    refused(&host, &["run", "--detach", "--parent", "a", "--", "true"], "BDL-TREE-002", &["2 children", "limits.children"]);
    refused(&host, &["run", "--detach", "--parent", "d", "--", "true"], "BDL-TREE-001", &["generation 3", "limits.tree_depth"]);
    let other = idle(&host, "other", &[]);
    let shown: Vec<(u64, String)> = nodes(&host, "a")
        .iter()
        .map(|n| (n["depth"].as_u64().expect("a depth"), n["session"]["name"].as_str().expect("a name").to_owned()))
        .collect();
    let want = [(0, "a"), (1, "b"), (2, "d"), (1, "c")].map(|(n, s)| (n, s.to_owned()));
    assert_eq!(shown, want, "each is followed by those below it");
    let listed = host.beadle(["ls", "--tree"]).ok().out;
    let at: Vec<usize> = [&other, &a, &c, &b, &d].iter().map(|id| listed.find(id.as_str()).expect("it is listed")).collect();
    assert!(at.is_sorted(), "newest first, each below its parent: {listed}");
    assert!(
        listed.contains(&format!("└ {b}")) && listed.contains(&format!("  └ {d}")) && !listed.contains(&format!("└ {other}")),
        "{listed}"
    );
    assert_eq!(host.beadle(["-q", "show", "--tree", "a"]).ok().out.lines().collect::<Vec<_>>(), [&a, &b, &d, &c]);
    let s = host.show("a");
    assert_eq!((s["children_count"].as_u64(), s["children"][1]["id"].as_str()), (Some(2), Some(b.as_str())), "{s:#}");
    // A place becomes free with an end.
    host.beadle(["kill", &c]).ok();
    idle(&host, "e", &["--parent", "a"]);
    refused(&host, &["run", "--detach", "--parent", "a", "--", "true"], "BDL-TREE-002", &[]);
    host.beadle(["kill", "--tree", "a"]).ok();
}

#[test]
fn as_many_starts_at_once_as_there_are_places_left() {
    let host = TestHost::new();
    host.config("[limits]\nchildren = 3\n");
    idle(&host, "a", &[]);
    let all: Vec<_> = (0..8).map(|_| host.spawn(["run", "--detach", "--parent", "a", "--", "sleep", "600"])).collect();
    let codes: Vec<i32> = all.into_iter().map(|c| c.wait_with_output().expect("it ends").status.code().expect("a code")).collect();
    assert_eq!(codes.iter().filter(|c| **c == 0).count(), 3, "{codes:?}");
    assert_eq!(host.show("a")["children_count"], 3);
    host.beadle(["kill", "--tree", "a"]).ok();
}

#[test]
fn a_process_of_a_session_starts_no_child() {
    let host = TestHost::new();
    let script = format!("{} run --detach --parent self -- touch grown; echo $? > code", env!("CARGO_BIN_EXE_beadle"));
    host.beadle(["run", "--wait", "--name", "self", "--env", "BEADLE_HOME", "--", "sh", "-c", &script]);
    let code = std::fs::read_to_string(host.work().join("code")).expect("it ran");
    assert_ne!(code.trim(), "0", "only an operator starts sessions");
    assert_eq!(host.show("self")["children_count"], 0);
    assert!(!host.work().join("grown").exists());
}

#[test]
fn a_stop_of_a_tree_goes_on_in_the_next_daemon_and_nothing_begins_meanwhile() {
    let host = TestHost::new();
    let reached = host.work().join("fp");
    std::fs::create_dir(&reached).expect("a folder");
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("tree_told:1=wait:{}", reached.display()));
    let a = idle(&host, "a", &[]);
    let b = idle(&host, "b", &["--parent", "a"]);
    let c = idle(&host, "c", &["--parent", "b"]);
    let other = idle(&host, "other", &[]);
    let mut stopping = host.spawn(["stop", "--tree", "a"]);
    until("the root was told", || reached.join("reached").exists().then_some(()));
    refused(&host, &["run", "--detach", "--parent", "c", "--", "true"], "BDL-TREE-003", &[&a, "a stop of its whole tree"]);
    assert_eq!(host.events_of(&b, "session_stopping").len(), 0, "the root is told first");
    kill(daemon.id());
    let _ = daemon.wait();
    // The client tries again while it can; what it says does not matter here.
    host.daemon();
    for id in [&a, &b, &c] {
        assert_eq!(host.ended(id)["outcome"], "stopped", "{id}");
        assert!(marked(id).is_empty());
    }
    let _ = stopping.kill();
    let _ = stopping.wait();
    let done = until("the end of it is on record", || host.events_of(&a, "tree_act_ended").first().cloned());
    assert_eq!((done["body"]["act"].as_str(), done["body"]["failed"].is_null()), (Some("stop"), true), "{done:#}");
    assert_eq!(host.events_of(&a, "tree_act_began").len(), 1);
    assert_eq!(status(&host, &other), "running", "only the tree");
    // Afterwards something can begin there again.
    until("it is taken off", || (host.beadle(["run", "--wait", "--parent", "c", "--", "true"]).code == 0).then_some(()));
    host.beadle(["kill", &other]).ok();
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn a_stop_of_a_tree_goes_on_when_its_client_goes_away() {
    let host = TestHost::new();
    let reached = host.work().join("fp");
    std::fs::create_dir(&reached).expect("a folder");
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("tree_told:1=wait:{}", reached.display()));
    let a = idle(&host, "a", &[]);
    let b = idle(&host, "b", &["--parent", "a"]);
    let c = idle(&host, "c", &["--parent", "b"]);
    let mut stopping = host.spawn(["stop", "--tree", "a"]);
    until("the root was told", || reached.join("reached").exists().then_some(()));
    stopping.kill().expect("it runs");
    stopping.wait().expect("it ends");
    std::fs::write(reached.join("go"), "").expect("a file");
    for id in [&a, &b, &c] {
        assert_eq!(host.ended(id)["outcome"], "stopped", "{id}");
    }
    until("the end of it is on record", || (host.events_of(&a, "tree_act_ended").len() == 1).then_some(()));
    until("it is taken off", || (host.beadle(["run", "--wait", "--parent", "c", "--", "true"]).code == 0).then_some(()));
    daemon.kill().expect("it runs");
    daemon.wait().expect("it ends");
}

#[test]
fn a_slow_start_takes_its_place_and_holds_up_no_other_tree() {
    let host = TestHost::new();
    host.config("limits.children = 1\n");
    let reached = host.work().join("fp");
    std::fs::create_dir(&reached).expect("a folder");
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("assembled:3=wait:{}", reached.display()));
    let (a, b) = (idle(&host, "a", &[]), idle(&host, "b", &[]));
    let slow = host.spawn(["run", "--wait", "--name", "slow", "--parent", "a", "--", "true"]);
    until("a start below the first one stands still", || reached.join("reached").exists().then_some(()));
    refused(&host, &["run", "--detach", "--parent", "a", "--", "true"], "BDL-TREE-002", &[&a]);
    let c = idle(&host, "c", &["--parent", "b"]);
    host.beadle(["stop", "--tree", "b"]).ok();
    assert_eq!([&b, &c].map(|id| host.ended(id)["outcome"].clone()), ["stopped"; 2]);
    std::fs::write(reached.join("go"), "").expect("a file");
    assert_eq!(slow.wait_with_output().expect("it ends").status.code(), Some(0));
    assert_eq!(host.beadle(["run", "--wait", "--parent", "a", "--", "true"]).code, 0, "its place is free again");
    host.beadle(["kill", &a]).ok();
    daemon.kill().expect("it runs");
    daemon.wait().expect("it ends");
}

#[test]
fn a_tree_is_killed_paused_and_goes_on_as_one() {
    let host = TestHost::new();
    let a = idle(&host, "a", &[]);
    let b = idle(&host, "b", &["--parent", "a"]);
    let c = idle(&host, "c", &["--parent", "b"]);
    host.beadle(["kill", &b]).ok();
    let d = idle(&host, "d", &["--parent", "a"]);
    let said = host.beadle(["--json", "pause", "--tree", "a", "--reason", "lunch"]).ok().json();
    assert_eq!(said["done"], json!([a, d, c]), "root first, the ended one left out");
    assert_eq!([&a, &c, &d].map(|id| status(&host, id)), ["paused"; 3]);
    assert_eq!(host.show(&c)["pause"]["reason"], "lunch");
    let again = host.beadle(["--json", "pause", "--tree", "a"]).ok().json();
    assert_eq!((&again["done"], &again["failed"]), (&json!([]), &json!([])), "it stands still already");
    let said = host.beadle(["--json", "resume", "--tree", "a"]).ok().json();
    assert_eq!(said["done"], json!([c, d, a]), "leaves first");
    assert_eq!([&a, &c, &d].map(|id| status(&host, id)), ["running"; 3]);
    let pids: Vec<u32> = [&a, &c, &d].into_iter().flat_map(|id| marked(id)).collect();
    assert!(pids.len() >= 3);
    host.beadle(["kill", "--tree", "a"]).ok();
    assert_eq!([&a, &c, &d].map(|id| status(&host, id)), ["killed"; 3]);
    assert!(pids.into_iter().all(|p| !alive(p)));
    assert!(host.beadle(["kill", "--tree", "a"]).ok().err.contains("nothing to do"));
    assert_eq!(host.beadle(["stop", "--tree", "nobody"]).code, 3);
}

#[test]
fn usage_rolls_up_once_and_a_limit_of_the_tree_ends_all_of_it() {
    let mut host = TestHost::new();
    host.config(&format!("limits.finish_ms = 200\n{}", rules(ALLOW, &[], &[])));
    let usage = json!({ "in": 1000, "out": 100, "cache_read": 0, "cache_write": 0 });
    let text = |t: &str| json!({ "text": t, "usage": usage });
    let one = Model::start(&json!({ "steps": [text("done"), text("again")] }));
    let root = host.run_demo(&one, "go", &["--keep", "--name", "root", "--max-tokens", "4000", "--tree-limits"]);
    let used =
        until("the root's turn ends", || host.show(&root)["turn_count"].as_u64().filter(|n| *n == 1).map(|_| total(&host.show(&root))));
    assert!(used > 0 && used < 2000, "{used}");
    // One below it that waits in a call, and one that ends.
    let waits = Model::start(&json!({ "steps": [{ "tool": "Bash", "input": { "command": "sleep 600" }, "usage": usage }, text("done")] }));
    let waiting = host.run_demo(&waits, "go", &["--parent", "root"]);
    until("its call runs", || (!host.events_of(&waiting, "tool_decided").is_empty()).then_some(()));
    let ends = Model::start(&json!({ "steps": [text("done")] }));
    let ended = host.run_demo(&ends, "go", &["--parent", &waiting]);
    host.ended(&ended);
    let tree = nodes(&host, "root");
    let own: u64 = tree.iter().map(|n| total(&n["session"])).sum();
    assert_eq!((tree.len(), tokens(&tree[0]["together"]["usage"])), (3, own), "{tree:#?}");
    assert_eq!(tokens(&tree[1]["together"]["usage"]), total(&tree[1]["session"]) + total(&tree[2]["session"]));
    let stats = host.beadle(["--json", "stats", "--by", "tree"]).ok().json();
    assert_eq!((stats["rows"][0]["key"].as_str(), tokens(&stats["rows"][0]["usage"])), (Some(root.as_str()), own), "{stats:#}");
    assert_eq!(stats["rows"].as_array().map(Vec::len), Some(1));
    assert!(own <= 4000, "{own}");
    refused(&host, &["run", "--detach", "--parent", "root", "--", "true"], "BDL-TREE-007", &["does not tell what it uses"]);
    // The daemon dies: what was used before counts on.
    host.kill_daemon();
    let over = Model::start(&json!({ "steps": [text("one"), text("two")] }));
    let last = host.run_demo(&over, "go", &["--parent", "root", "--keep"]);
    for id in [&last, &root, &waiting] {
        let s = host.ended(id);
        assert_eq!(s["outcome"], "budget", "{s:#}");
        let x = host.events_of(id, "usage_limit_exceeded");
        assert_eq!(
            (x.len(), x[0]["body"]["tree"].as_str(), x[0]["body"]["limit"].as_str()),
            (1, Some(root.as_str()), Some("tokens")),
            "{x:#?}"
        );
    }
    refused(&host, &["run", "--detach", "--agent", "demo", "--parent", "root", "go"], "BDL-TREE-006", &["over the tree's"]);
    assert_eq!(host.show(&ended)["outcome"], "succeeded");
}

fn tokens(usage: &Value) -> u64 {
    ["input", "output", "cache_read", "cache_write"].iter().filter_map(|k| usage[*k].as_u64()).sum()
}

fn total(session: &Value) -> u64 {
    tokens(&session["usage"])
}

#[test]
fn time_of_a_tree_runs_from_its_roots_start_after_that_has_ended_too() {
    let host = TestHost::new();
    let root = host.beadle(["--json", "run", "--wait", "--max-time", "3s", "--tree-limits", "--", "true"]).ok().json();
    let root = root["id"].as_str().expect("an id").to_owned();
    let child = idle(&host, "child", &["--parent", &root]);
    let s = host.ended(&child);
    assert_eq!(s["outcome"], "budget", "{s:#}");
    assert_eq!(host.events_of(&child, "usage_limit_exceeded")[0]["body"]["tree"], root.as_str());
    refused(&host, &["run", "--detach", "--parent", &root, "--", "true"], "BDL-TREE-006", &["ms"]);
}

#[test]
fn a_handoff_is_on_record_on_both_sides() {
    let host = TestHost::new();
    let a = idle(&host, "a", &[]);
    host.beadle(["run", "--wait", "--name", "b", "--", "true"]).ok();
    let secret = format!("sk-ant-{}", "a1".repeat(20));
    let reason = format!("reproduce it with {secret}");
    host.beadle(["handoff", "a", "tester", "--from", "coder", "--session", "b", "--reason", &reason]).ok();
    host.beadle(["handoff", "b", "nobody else"]).ok();
    let first = &host.events_of("a", "agent_handed_off")[0]["body"];
    let other = host.events_of("b", "agent_handed_off");
    let b = host.show("b")["id"].as_str().expect("an id").to_owned();
    assert_eq!(
        (first["from"].as_str(), first["to"].as_str(), first["session"].as_str()),
        (Some("coder"), Some("tester"), Some(b.as_str()))
    );
    assert_eq!(first["reason"]["text"], "reproduce it with [secret masked]");
    assert_eq!((other.len(), other[0]["body"]["session"].as_str(), other[1]["body"]["from"].is_null()), (2, Some(a.as_str()), true));
    for (args, code, says) in [
        (vec!["handoff", "a", ""], "BDL-SESSION-050", "the agent's name is empty"),
        (vec!["handoff", "a", "x", "--session", "a"], "BDL-TREE-008", "to itself"),
    ] {
        let said = host.beadle(&args);
        assert!(said.code != 0 && said.err.contains(code) && said.err.contains(says), "{args:?}: {said:?}");
    }
    assert!(host.beadle(["events", "--timeline", "a"]).ok().out.contains("handed off from coder to tester"));
    host.beadle(["kill", "a"]).ok();
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn tasks_are_kept_with_every_change_over_a_killed_daemon() {
    let host = TestHost::new();
    idle(&host, "a", &[]);
    let first = host.beadle(["--json", "task", "add", "a", "read the parser", "--owner", "ann"]).ok().json();
    assert_eq!((first["id"].as_str(), first["status"].as_str(), first["source"].as_str()), (Some("1"), Some("pending"), Some("host")));
    host.beadle(["task", "add", "a", "mend it"]).ok();
    host.beadle(["task", "set", "a", "1", "--status", "in_progress", "--note", "line 7"]).ok();
    host.kill_daemon();
    host.beadle(["kill", "a"]).ok();
    // It has ended: its list goes on.
    host.beadle(["task", "set", "a", "1", "--status", "completed", "--owner", ""]).ok();
    host.beadle(["task", "add", "a", "tell ann"]).ok();
    let list = host.beadle(["--json", "task", "ls", "a"]).ok().lines();
    let short: Vec<_> =
        list.iter().map(|t| [&t["id"], &t["status"], &t["title"]].map(|v| v.as_str().unwrap_or_default().to_owned())).collect();
    assert_eq!(
        short,
        [["1", "completed", "read the parser"], ["2", "pending", "mend it"], ["3", "pending", "tell ann"]].map(|t| t.map(str::to_owned))
    );
    assert!(list[0]["owner"].is_null() && list[0]["note"] == "line 7" && list[0]["created_at"] != list[0]["updated_at"], "{list:#?}");
    let changes = host.events_of("a", "task_updated");
    let was: Vec<_> = changes.iter().map(|e| e["body"]["was"].as_str().unwrap_or("new").to_owned()).collect();
    assert_eq!(was, ["new", "new", "pending", "in_progress", "new"]);
    let s = host.show("a");
    assert_eq!((s["task_open_count"].as_u64(), s["task_closed_count"].as_u64()), (Some(2), Some(1)));
    assert_eq!(host.beadle(["-q", "task", "ls", "a", "--open"]).ok().out, "2\n3\n");
    for (args, code, says) in [
        (vec!["task", "set", "a", "9", "--status", "completed"], "BDL-TREE-009", "no task \"9\""),
        (vec!["task", "add", "a", " "], "BDL-SESSION-050", "the title is empty"),
    ] {
        let said = host.beadle(&args);
        assert!(said.code != 0 && said.err.contains(code) && said.err.contains(says), "{args:?}: {said:?}");
    }
    assert_eq!(host.beadle(["task", "add", "a", "x", "--status", "maybe"]).code, 2);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn the_agents_own_tasks_and_sub_agents_are_seen_on_the_real_one() {
    let Some((mut host, program)) = claude::host("tree: the_agents_own_tasks_and_sub_agents_are_seen_on_the_real_one") else { return };
    host.config(&rules(ALLOW, &[], &["Bash(touch b)"]));
    let task = |tool: &str, input: Value| json!({ "tool": tool, "input": input });
    let model = Model::start(&json!({
        "lanes": [{ "name": "sub", "match": { "opening": "SUBPROMPT" }, "steps": [bash("touch a"), bash("touch b"), { "text": "sub done" }] }],
        "steps": [
            task("TaskCreate", json!({ "subject": "read it", "description": "all of it" })),
            task("TaskCreate", json!({ "subject": "mend it", "description": "some of it" })),
            task("TaskUpdate", json!({ "taskId": "1", "status": "completed" })),
            { "tool": "Task", "input": { "description": "look around", "prompt": "SUBPROMPT", "subagent_type": "general-purpose", "run_in_background": false } },
            { "text": "done" },
        ],
    }));
    let id = claude::run(&mut host, &program, &model, &[]);
    let s = host.ended(&id);
    assert_eq!(s["outcome"], "succeeded", "{s:#}");
    let list = host.beadle(["--json", "task", "ls", &id]).ok().lines();
    let short: Vec<_> =
        list.iter().map(|t| ["id", "status", "title", "source"].map(|k| t[k].as_str().unwrap_or_default().to_owned())).collect();
    assert_eq!(
        short,
        [["a1", "completed", "read it", "agent"], ["a2", "pending", "mend it", "agent"]].map(|t| t.map(str::to_owned)),
        "{:#?}",
        host.events(&id)
    );
    let tree = nodes(&host, &id);
    let subs = tree[0]["sub_agents"].as_array().expect("sub-agents");
    assert_eq!(subs.len(), 1, "{tree:#?}");
    let sub = &subs[0];
    assert_eq!(
        (sub["agent_type"].as_str(), sub["description"].as_str(), sub["call_count"].as_u64(), sub["denied_count"].as_u64()),
        (Some("general-purpose"), Some("look around"), Some(2), Some(1)),
        "{sub:#}"
    );
    assert!(sub["ended_at"].is_string() && sub["is_error"] == false, "{sub:#}");
    assert!(tokens(&sub["usage"]) > 0 && tokens(&sub["usage"]) < total(&s), "{sub:#}");
    assert_eq!(tree[0]["together"]["usage"], s["usage"], "what sub-agents used is in the session's ledger, once");
    assert!(host.beadle(["show", "--tree", &id]).ok().out.contains("sub-agent general-purpose"));
}
