//! What a session was started as: it is on record, shown on one screen, found again, and its bounds hold.

use serde_json::{Value, json};

use crate::support::{Model, TestHost, bash, lines_of, rules, runtime, until};

/// The whole record, as a caller may say it.
const SAID: [&str; 18] = [
    "--target",
    "shop",
    "--owner",
    "ann",
    "--mission",
    "m-1",
    "--assignment",
    "a-2",
    "--phase",
    "recon",
    "--tenant",
    "acme",
    "--thread",
    "t-9",
    "--label",
    "team=core",
    "--label",
    "tier=a,b",
];

fn repository(host: &TestHost) {
    host.file(".git/HEAD", "ref: refs/heads/topic/one\n");
    // A repository that would run something if git were asked.
    host.file(".git/config", "[core]\n\tfsmonitor = touch hooked\n\tpager = touch hooked\n");
}

/// Takes out what differs from run to run.
fn plain(host: &TestHost, mut v: Value, ids: &[(&str, &str)]) -> Value {
    let root = host.work().canonicalize().expect("a folder").display().to_string();
    let mut text = v.to_string().replace(&root, "[work]").replace(&host.data().display().to_string(), "[data]");
    for (id, name) in ids {
        text = text.replace(id, name);
    }
    v = serde_json::from_str(&text).expect("JSON");
    for key in ["created_at", "started_at", "ended_at", "last_activity_at"] {
        assert!(v[key].as_str().is_some_and(|t| t.ends_with('Z')), "{key}: {v:#}");
        v[key] = json!("[time]");
    }
    v
}

#[test]
fn the_whole_record_is_shown_as_it_was_said() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(echo:*)"], &[], &["Bash(rm:*)"]));
    repository(&host);
    let model = Model::start(&json!({ "steps": [bash("echo hi"), bash("rm x"), { "text": "done" }] }));
    let secret = format!("sk-ant-{}", "a1".repeat(20));
    let parent =
        host.beadle(["--json", "run", "--wait", "--name", "parent", "--", "sh", "-c", "exit 0", "one", "two words"]).ok().json()["id"]
            .as_str()
            .expect("an id")
            .to_owned();
    let more: Vec<&str> = SAID.iter().copied().chain(["--name", "child", "--parent", "parent"]).collect();
    let id = host.run_demo(&model, &format!("use {secret} well"), &more);
    let s = host.ended(&id);
    assert!(!host.work().join("hooked").exists(), "nothing of the repository was run");
    let shown = plain(&host, host.show(&id), &[(&id, "[child]"), (&parent, "[parent]")]);
    let want = json!({
        "id": "[child]", "name": "child", "agent": "demo", "status": "ended", "outcome": "succeeded", "mediation": "gate",
        "cwd": "[work]", "labels": { "team": "core", "tier": "a,b" },
        "target": "shop", "owner": "ann", "mission": "m-1", "assignment": "a-2", "phase": "recon", "tenant": "acme", "thread": "t-9",
        "parent": "[parent]", "repository": { "root": "[work]", "branch": "topic/one" },
        "repository_writable": true, "report_expected": false,
        "prompt": { "text": "use [secret masked] well", "bytes": 24 },
        "created_at": "[time]", "started_at": "[time]", "ended_at": "[time]", "last_activity_at": "[time]",
        "attempt": 1, "exit_code": 0, "call_count": 2, "allowed_count": 1, "denied_count": 1, "asked_count": 0, "rewritten_count": 0,
        "waiting_count": 0, "answered_count": 0, "expired_count": 0, "breach_count": 0, "plugin_failure_count": 0, "flagged_count": 0,
    });
    for (key, value) in want.as_object().expect("an object") {
        assert_eq!(&shown[key], value, "{key}: {shown:#}");
    }
    assert_eq!((shown["created_by"]["role"].as_str(), shown["created_by"]["uid"].is_u64()), (Some("operator"), true), "{shown:#}");
    // Every key of the document is known here: a shape changes on purpose only.
    let rest = [
        "command",
        "created_by",
        "agent_session_id",
        "agent_version",
        "permission_mode",
        "model",
        "context_window",
        "context_used",
        "context_percent",
        "usage",
        "cost",
        "unpriced_count",
        "agent_cost",
        "turn_count",
        "last_text",
        "last_seq",
        "program",
        "mediation_note",
        "children",
        "children_count",
        "limits",
        "exceeded",
        "reconciled",
        "unpriced",
        "folder",
    ];
    for key in shown.as_object().expect("an object").keys() {
        assert!(want.get(key).is_some() || rest.contains(&key.as_str()), "{key} is new: {shown:#}");
    }
    let log = host.beadle(["export", &id]).ok().out;
    assert!(!log.contains(&secret), "secrets are masked as everywhere");
    assert_eq!(s["mission"], "m-1");
    let text = host.beadle(["show", &id]).ok().out;
    for part in ["ann", "m-1", "a-2", "recon", "acme", "t-9", "shop", "topic/one", "succeeded", &parent, "use [secret masked] well"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.lines().count() <= 50, "one screen: {text}");
    let (used, window) = (shown["context_used"].as_u64().expect("tokens"), shown["context_window"].as_u64().expect("tokens"));
    assert_eq!(shown["context_percent"].as_u64(), Some(used * 100 / window));
    assert!(text.contains(&format!("tokens ({} %)", used * 100 / window)), "{text}");
    assert_eq!(shown["permission_mode"], "default", "as the agent says");
    assert!(text.lines().any(|l| l.starts_with("permissions") && l.ends_with("default")), "{text}");
    let log = host.show(&id)["folder"].as_str().map(std::path::PathBuf::from).expect("its logs");
    let mut names = std::fs::read_dir(&log).expect("a folder").flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    assert!(names.any(|n| n.starts_with("out-") && n.ends_with(".seg")), "{}", log.display());
    assert!(text.lines().any(|l| l.starts_with("log ") && l.ends_with(&log.display().to_string())), "{text}");
    let (of_parent, document) = (host.beadle(["show", &parent]).ok().out, host.show("parent"));
    assert!(of_parent.contains(&id), "a parent names its children");
    assert_eq!(document["owner"], "Unassigned");
    assert!(document["command"][0].as_str().is_some_and(|c| c.ends_with("sh")), "{document:#}");
    assert_eq!(
        document["command"].as_array().map(|c| &c[1..]),
        Some(&[json!("-c"), json!("exit 0"), json!("one"), json!("two words")][..])
    );
    assert!(of_parent.lines().any(|l| l.starts_with("command") && l.ends_with("sh -c exit 0 one two words")), "{of_parent}");
}

#[test]
fn a_long_prompt_is_kept_once_and_whole() {
    let mut host = TestHost::new();
    let model = Model::start(&json!({ "steps": [{ "text": "done" }] }));
    let prompt = "long ".repeat(2_000);
    let id = host.run_demo(&model, &prompt, &[]);
    host.ended(&id);
    let created = &host.events_of(&id, "session_created")[0]["body"];
    let submitted = &host.events_of(&id, "prompt_submitted")[0]["body"];
    assert_eq!(created["prompt"], submitted["prompt"]);
    let digest = created["prompt"]["blob"].as_str().expect("a blob").to_owned();
    assert_eq!((digest.as_str(), created["prompt"]["bytes"].as_u64()), (blake3::hash(prompt.as_bytes()).to_hex().as_str(), Some(10_000)));
}

#[test]
fn settings_fill_in_what_a_caller_leaves_out_and_a_bad_text_is_named() {
    let host = TestHost::new();
    host.config("[session]\nowner = \"ops\"\ntenant = \"acme\"\nmission = \"m\"\nphase = \"p\"\n");
    host.beadle(["run", "--wait", "--name", "a", "--owner", "ann", "--", "true"]).ok();
    let s = host.show("a");
    let four = |s: &Value| ["owner", "tenant", "mission", "phase"].map(|k| s[k].as_str().unwrap_or_default().to_owned());
    assert_eq!(four(&s), ["ann", "acme", "m", "p"]);
    let long = "x".repeat(201);
    for (option, value, says) in [
        ("--owner", " ", "the owner is empty"),
        ("--phase", long.as_str(), "the phase has 201 bytes, over the limit of 200"),
        ("--target", "a\u{1b}[2J", "the target has the character"),
        ("--allow-tool", "", "an allowed tool is empty"),
    ] {
        let said = host.beadle(["run", "--detach", option, value, "--", "true"]);
        assert!(said.code != 0 && said.err.contains("BDL-SESSION-050") && said.err.contains(says), "{option}: {said:?}");
    }
    let said = host.beadle(["run", "--detach", "--parent", "nobody", "--", "true"]);
    assert!(said.code == 3 && said.err.contains("BDL-STORE-012"), "{said:?}");
    assert_eq!(host.beadle(["--json", "ls"]).ok().lines().len(), 1, "what was refused began nothing");
}

#[test]
fn ls_filters_by_the_record_and_pages_by_a_cursor() {
    let host = TestHost::new();
    for (name, more) in [
        ("a", &["--owner", "ann", "--label", "n=1,2", "--mission", "m"][..]),
        ("b", &["--owner", "bob", "--label", "n=3", "--parent", "a"]),
        ("c", &["--phase", "p", "--tenant", "t", "--thread", "x"]),
    ] {
        host.beadle([&["run", "--wait", "--name", name][..], more, &["--", "true"]].concat()).ok();
    }
    host.beadle(["run", "--wait", "--name", "d", "--", "false"]);
    let names = |args: &[&str]| -> Vec<String> {
        let said = host.beadle([&["--json", "ls"], args].concat()).ok();
        said.lines().iter().filter_map(|s| s["name"].as_str().map(str::to_owned)).collect()
    };
    for (args, want) in [
        (&[][..], &["d", "c", "b", "a"][..]),
        (&["--owner", "ann"], &["a"]),
        (&["--owner", "Unassigned"], &["d", "c"]),
        (&["--label", "n=1,2"], &["a"]),
        (&["--label", "n=3", "--owner", "bob"], &["b"]),
        (&["--parent", "a"], &["b"]),
        (&["--phase", "p"], &["c"]),
        (&["--mission", "m"], &["a"]),
        (&["--tenant", "t", "--thread", "x"], &["c"]),
        (&["--outcome", "failed"], &["d"]),
        (&["--outcome", "exited", "--name", "b"], &["b"]),
        (&["--status", "running"], &[]),
        (&["--since", "1h"], &["d", "c", "b", "a"]),
        (&["--until", "2020-01-01"], &[]),
        (&["--sort", "name"], &["a", "b", "c", "d"]),
        (&["--reverse"], &["a", "b", "c", "d"]),
        (&["--sort", "activity", "--all"], &["d", "c", "b", "a"]),
    ] {
        assert_eq!(names(args), want, "{args:?}");
    }
    let first = host.beadle(["--json", "ls", "-n", "3", "--sort", "name"]).ok().lines();
    assert_eq!(first.len(), 4, "the last document tells where it goes on: {first:?}");
    let next = first[3]["next"].as_str().expect("a cursor").to_owned();
    host.beadle(["run", "--wait", "--name", "aa", "--", "true"]).ok();
    assert_eq!(names(&["-n", "3", "--sort", "name", "--cursor", &next]), ["d"], "what came meanwhile moves nothing");
    let other = host.beadle(["ls", "--cursor", &next]);
    assert!(other.code != 0 && other.err.contains("BDL-STORE-025"), "{other:?}");
    let text = host.beadle(["ls", "-n", "1"]);
    assert!(text.out.contains("OWNER") && text.err.contains("--cursor"), "{text:?}");
    let bad = host.beadle(["ls", "--outcome", "fine"]);
    assert!(bad.code == 2 && bad.err.contains("missing_report"), "{bad:?}");
}

#[test]
fn a_session_that_owes_a_report_has_succeeded_only_with_one() {
    let host = TestHost::new();
    let root = host.file("out/keep", "").parent().expect("a folder").to_owned();
    let root = root.display().to_string();
    let old = host.file("old/report.md", "of yesterday");
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    std::fs::File::options().write(true).open(&old).and_then(|f| f.set_modified(past)).expect("an older file");
    let secret = host.file("elsewhere.md", "x").display().to_string();
    let link = format!("mkdir -p links && cd links && ln -s {secret} report.md");
    let cases: [(&str, &str, &[&str], &str); 8] = [
        ("none", ":", &[], "missing_report"),
        ("here", "echo x > report.md", &[], "succeeded"),
        ("outputs", "rm -f report.md; mkdir outputs; echo x > outputs/report.md", &[], "succeeded"),
        ("root", "rm -rf report.md outputs; echo x > out/report.md", &["--write-root", &root], "succeeded"),
        ("stale", ":", &["--cwd", "old"], "missing_report"),
        ("link", &link, &[], "missing_report"),
        ("failed", "echo x > report.md; exit 3", &[], "failed"),
        ("folder", "rm -f report.md; mkdir report.md", &[], "missing_report"),
    ];
    for (name, script, more, outcome) in cases {
        let said = host.beadle([&["run", "--wait", "--expect-report", "--name", name][..], more, &["--", "sh", "-c", script]].concat());
        let s = host.ended(name);
        assert_eq!(s["outcome"], outcome, "{name}: {s:#}");
        assert_eq!(s["report"].is_string(), outcome == "succeeded", "{name}: {s:#}");
        let code = match outcome {
            "succeeded" => 0,
            "failed" => 3,
            _ => 1,
        };
        assert_eq!(said.code, code, "{name}: {said:?}");
    }
    assert!(host.show("none")["end_reason"].as_str().is_some_and(|r| r.contains("report.md")));
    host.beadle(["run", "--wait", "--name", "plain", "--", "true"]).ok();
    assert_eq!(host.show("plain")["outcome"], "exited", "who owes none ends plainly");
}

#[test]
fn the_bounds_of_a_session_hold_before_any_policy() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(echo:*)", "Write(./**)"], &[], &[]));
    repository(&host);
    let write = json!({ "tool": "Write", "input": { "file_path": "inside", "content": "x" } });
    let model = Model::start(&json!({ "steps": [bash("echo one >> inside"), bash("echo two"), write, { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &["--read-only-repo", "--allow-tool", "Bash"]);
    let s = host.ended(&id);
    let said: Vec<(String, String)> = host
        .events_of(&id, "tool_decided")
        .iter()
        .map(|e| (e["body"]["effect"].as_str().unwrap_or_default().to_owned(), e["body"]["reason"].as_str().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(said.iter().map(|s| s.0.as_str()).collect::<Vec<_>>(), ["deny", "allow", "deny"], "{said:?}");
    assert!(said[0].0 == "deny" && said[0].1.contains("--read-only-repo"), "{said:?}");
    assert!(said[2].0 == "deny" && said[2].1.contains("--allow-tool"), "{said:?}");
    assert_eq!((s["repository_writable"].as_bool(), lines_of(&host.work().join("inside")).len()), (Some(false), 0));
}

/// Nothing is configured: the embedded rules ask about every write.
#[test]
fn a_write_root_holds_without_any_configured_policy() {
    let mut host = TestHost::new();
    let root = host.file("box/keep", "").parent().expect("a folder").to_owned();
    let outside = host.file("outside", "as it was\n");
    std::os::unix::fs::symlink(host.home(), root.join("away")).expect("a link");
    let inside = root.join("made").display().to_string();
    let write = |path: &str| json!({ "tool": "Write", "input": { "file_path": path, "content": "x\n" } });
    let model = Model::start(&json!({ "steps": [
        write(&outside.display().to_string()), bash("echo x > outside"), bash("sh -c 'rm outside'"), bash("mv box/keep keep"),
        write(&root.join("away/x").display().to_string()), write(&inside), { "text": "done" },
    ]}));
    let id = host.run_demo(&model, "go", &["--write-root", "box", "--allow-tool", "Bash", "--allow-tool", "Write"]);
    let waits = until("the write inside is asked about", || {
        host.beadle(["--json", "approvals"]).ok().lines().first().and_then(|a| a["id"].as_str().map(str::to_owned))
    });
    host.beadle(["approve", &waits]).ok();
    host.ended(&id);
    let decided = host.events_of(&id, "tool_decided");
    let of = |e: &Value, key: &str| e["body"][key].as_str().unwrap_or_default().to_owned();
    assert_eq!(decided.iter().map(|e| of(e, "effect")).collect::<Vec<_>>(), ["deny", "deny", "deny", "deny", "deny", "allow"]);
    assert!(decided[..5].iter().all(|e| of(e, "reason").contains("--write-root") && of(e, "by") == "host"), "{decided:#?}");
    assert_eq!((lines_of(&outside), host.home().join("x").exists()), (vec!["as it was".to_owned()], false));
    assert_eq!(lines_of(std::path::Path::new(&inside)), ["x"]);
    let root = root.canonicalize().expect("a path").display().to_string();
    let s = host.show(&id);
    assert_eq!((s["write_root"].as_str(), &s["allowed_tools"]), (Some(root.as_str()), &json!(["Bash", "Write"])), "{s:#}");
    let text = host.beadle(["show", &id]).ok().out;
    assert!(text.lines().any(|l| l.starts_with("write root") && l.ends_with(&root)) && text.contains("Bash, Write"), "{text}");
}

#[test]
fn a_thousand_sessions_at_once_have_a_thousand_ids() {
    use beadle::api::client::Client;
    use beadle::api::types::RunRequest;
    const SESSIONS: usize = 1_000;
    let host = TestHost::new();
    host.config("[limits]\nlive_sessions = 2000\n");
    host.daemon();
    let home = host.beadle_home();
    let folders = beadle::config::Folders {
        config: home.join("config"),
        data: home.join("data"),
        cache: home.join("cache"),
        runtime: home.join("run"),
    };
    let work = host.work().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let ids: Vec<String> = runtime().block_on(async {
        let (client, gate) = (std::sync::Arc::new(Client::new(folders)), std::sync::Arc::new(tokio::sync::Semaphore::new(64)));
        let starts: Vec<_> = (0..SESSIONS)
            .map(|_| {
                let (client, gate) = (client.clone(), gate.clone());
                let request = RunRequest {
                    name: Some("same".to_owned()),
                    agent: "generic".to_owned(),
                    program: Some("true".to_owned()),
                    cwd: work.clone(),
                    env: [("PATH".to_owned(), path.clone())].into(),
                    ..RunRequest::default()
                };
                tokio::spawn(async move {
                    // why: descriptors of this process; the daemon has them all at once, as far as it takes them.
                    let _one = gate.acquire().await.expect("open");
                    client.run(&request).await.unwrap_or_else(|e| panic!("{e}")).id
                })
            })
            .collect();
        let mut ids = Vec::new();
        for s in starts {
            ids.push(s.await.expect("no panic"));
        }
        ids
    });
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), SESSIONS);
    until("all have ended", || {
        let left = host.beadle(["--json", "ls", "--status", "running", "-n", "1"]).ok().lines();
        left.is_empty().then_some(())
    });
    assert_eq!(host.beadle(["-q", "ls", "--name", "same", "--all"]).ok().out.lines().count(), SESSIONS);
}
