//! `beadle host reload`: a new configuration for sessions that live, or none of it.

use beadle::api::client::{Client, Error};
use beadle::api::types::ReloadRequest;
use beadle::config::Folders;
use serde_json::{Value, json};

use crate::plugin_life::{ALLOWS, DENIES};
use crate::support::{Model, TestHost, bash, rules, runtime, until};

/// A session that waits before each of its calls until a file is there, and what its calls came to.
struct Stepped {
    host: TestHost,
    id: String,
    _model: Model,
}

impl Stepped {
    /// Its calls are `touch f1` and so on.
    fn begin(config: &str, calls: usize) -> Self {
        let host = TestHost::new();
        host.config(config);
        Self::on(host, calls)
    }

    fn on(mut host: TestHost, calls: usize) -> Self {
        let gate =
            |host: &TestHost, n: usize| bash(&format!("until test -e {}; do sleep 0.05; done", host.home().join(n.to_string()).display()));
        let steps = (1..=calls).flat_map(|n| [gate(&host, n), bash(&format!("touch f{n}"))]).chain([json!({ "text": "done" })]);
        let model = Model::start(&json!({ "steps": steps.collect::<Vec<_>>() }));
        let id = host.run_demo(&model, "go", &[]);
        until("the first call waits", || (!host.events_of(&id, "tool_started").is_empty()).then_some(()));
        Self { host, id, _model: model }
    }

    /// Lets the next call be made, and waits for its decision.
    fn step(&self, n: usize) -> String {
        std::fs::write(self.host.home().join(n.to_string()), "").expect("a file");
        // Each step is two calls: the one that waits, and then the one that counts.
        until("it is decided", || {
            let all = self.host.events_of(&self.id, "tool_decided");
            all.get(2 * n - 1)?["body"]["effect"].as_str().map(str::to_owned)
        })
    }

    fn reload(&self) -> Value {
        self.host.beadle(["--json", "host", "reload"]).ok().json()
    }
}

fn allowing(more: &str) -> String {
    format!("{more}\n{}", rules(&["Bash(until:*)", "Bash(test:*)", "Bash(sleep:*)", "Bash(touch:*)"], &[], &[]))
}

fn denying() -> String {
    rules(&["Bash(until:*)", "Bash(test:*)", "Bash(sleep:*)"], &[], &["Bash(touch:*)"])
}

#[test]
fn a_live_session_gets_the_new_policies_and_its_log_says_so() {
    let s = Stepped::begin(&allowing(""), 3);
    assert_eq!(s.step(1), "allow");
    s.host.config(&denying());
    assert_eq!(s.step(2), "allow", "not before it is told to");
    let doc = s.reload();
    assert_eq!((&doc["live_count"], &doc["changed_count"], doc.get("kept")), (&json!(1), &json!(1), None), "{doc:#}");
    assert_eq!(s.step(3), "deny");
    let replaced = &s.host.events_of(&s.id, "plugin_replaced")[0]["body"];
    assert_eq!(replaced["policy"], "rules");
    assert!(replaced["reason"].as_str().is_some_and(|r| r.contains("the configuration was read anew by")), "{replaced}");
    s.host.ended(&s.id);
    assert_eq!(s.reload()["changed_count"], 0);
    let store = rusqlite::Connection::open(s.host.data().join("beadle.db")).expect("the database");
    let mut rows = store.prepare("SELECT body FROM host_events WHERE kind = 'config_reloaded' ORDER BY seq").expect("a query");
    let bodies: Vec<Vec<u8>> = rows.query_map([], |r| r.get(0)).expect("rows").map(|b| b.expect("a body")).collect();
    let first: Value = serde_json::from_slice(&bodies[0]).expect("JSON");
    assert_eq!((bodies.len(), &first["changed"], &first["by"]["role"]), (2, &json!(1), &json!("operator")), "{first}");
}

#[test]
fn a_broken_configuration_changes_nothing_and_says_why() {
    let s = Stepped::begin(&allowing(""), 5);
    for (n, (broken, says)) in [
        ("policy = 3\n".to_owned(), "BDL-CONFIG-"),
        (format!("{}\nnonsense = 1\n", denying()), "nonsense"),
        (format!("{}\n[[policy]]\nname = \"gone\"\nplugin = \"/nonexistent/p.wasm\"\n", denying()), "policy gone does not load"),
    ]
    .into_iter()
    .enumerate()
    {
        s.host.config(&broken);
        let said = s.host.beadle(["host", "reload"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.err.contains(says) && said.err.contains("nothing was changed"), "{says}: {said:?}");
        assert_eq!(s.step(n + 1), "allow", "{says}");
    }
    // A broken file of the project keeps the chain of its session alone.
    s.host.config(&denying());
    s.host.file("beadle.toml", "policy = 3\n");
    let doc = s.reload();
    assert_eq!((&doc["changed_count"], &doc["kept"][0]["session"]), (&json!(0), &json!(s.id)), "{doc:#}");
    assert_eq!(s.step(4), "allow");
    std::fs::remove_file(s.host.work().join("beadle.toml")).expect("removed");
    assert_eq!(s.reload()["changed_count"], 1);
    assert_eq!(s.step(5), "deny");
    s.host.ended(&s.id);
}

#[test]
fn what_would_loosen_is_shown_and_not_taken_until_that_is_accepted() {
    let s = Stepped::begin(&denying(), 4);
    assert_eq!(s.step(1), "deny");
    s.host.config(&allowing(""));
    let refused = |s: &Stepped| {
        let said = s.host.beadle(["host", "reload"]);
        assert_eq!(said.code, 1, "{said:?}");
        for part in ["looser    deny -> allow", "touch f1", "BDL-SESSION-058", "--accept-changes", "nothing was changed"] {
            assert!(said.err.contains(part), "{part}: {said:?}");
        }
    };
    refused(&s);
    // It is the daemon that refuses, whoever asks it and without having looked.
    let home = s.host.beadle_home();
    let folders = Folders { config: home.join("config"), data: home.join("data"), cache: home.join("cache"), runtime: home.join("run") };
    let told = runtime().block_on(Client::without_start(folders).reload(&ReloadRequest::default()));
    assert!(matches!(&told, Err(Error::Refused { status: 409, .. })), "{told:?}");
    assert_eq!(s.step(2), "deny");
    // Nor does a change of something else bring it.
    s.host.beadle(["rule", "add", "deny", "Bash(rm:*)"]).ok();
    assert_eq!(s.step(3), "deny");
    let doc = s.host.beadle(["--json", "host", "reload", "--accept-changes"]).ok().json();
    assert_eq!((&doc["changed_count"], &doc["replay"]["loosened"]), (&json!(1), &json!(3)), "{doc:#}");
    assert_eq!(s.step(4), "allow");
    let replaced = s.host.events_of(&s.id, "plugin_replaced");
    let why = replaced.last().and_then(|e| e["body"]["reason"].as_str()).unwrap_or_default();
    assert!(why.contains("decided less strictly, accepted by operator"), "{replaced:#?}");
    s.host.ended(&s.id);
    // Of a session that has ended, the configuration that was taken last is what it is measured by.
    assert_eq!(s.reload().get("replay"), None, "nothing changes, so nothing is judged");
    s.host.config(&denying());
    let said = s.host.beadle(["host", "reload"]).ok();
    assert!(said.err.contains("stricter  allow -> deny") && said.out.contains("was read anew"), "{said:?}");
    s.host.config(&allowing(""));
    refused(&s);
}

#[test]
fn a_component_in_a_file_is_exchanged_by_a_reload_alone() {
    let host = TestHost::new();
    let file = host.home().join("lively.wasm");
    let put = |wasm: &[u8]| std::fs::write(&file, wasm).expect("a component");
    let policy = format!("[[policy]]\nname = \"lively\"\nplugin = \"{}\"\ndeadline_ms = 10000\n", file.display());
    put(ALLOWS);
    host.config(&format!("approvals.unattended = \"deny\"\n{}\n{policy}", rules(&[], &[], &[])));
    let s = Stepped::on(host, 3);
    assert_eq!(s.step(1), "allow");
    put(DENIES);
    s.host.beadle(["rule", "add", "deny", "Bash(rm:*)"]).ok();
    assert_eq!(s.step(2), "allow", "the file is read when that is asked for");
    assert_eq!(s.reload()["changed_count"], 1, "what is stricter needs nobody's word");
    assert_eq!(s.step(3), "deny");
    s.host.ended(&s.id);
    put(ALLOWS);
    let said = s.host.beadle(["host", "reload"]);
    assert!(said.code == 1 && said.err.contains("looser    deny -> allow") && said.err.contains("BDL-SESSION-058"), "{said:?}");
}

#[test]
fn what_waits_for_a_restart_is_named_and_nobody_is_started_for_it() {
    let host = TestHost::new();
    let said = host.beadle(["host", "reload"]);
    assert_eq!(said.code, 4, "{said:?}");
    host.config("host.log = \"info\"\n");
    host.daemon();
    host.config("host.log = \"debug\"\nhost.linger_ms = 5000000\n[limits]\nlive_sessions = 7\n");
    let said = host.beadle(["host", "reload"]).ok();
    assert!(said.out.contains("0 of 0 live sessions"), "{said:?}");
    assert!(said.err.contains("not yet in force: host.log, host.linger_ms, limits.live_sessions"), "{said:?}");
    // What loosens is confirmed like everything else that does.
    host.config("operator.confirm = \"tty\"\n");
    host.beadle(["host", "stop"]).ok();
    host.daemon();
    let said = host.beadle(["host", "reload"]);
    assert!(said.code != 0 && said.err.contains("terminal"), "{said:?}");
}
