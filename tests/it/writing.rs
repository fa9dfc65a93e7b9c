//! What cannot be written down does not hold, and nobody is told that it does; what is written holds, whoever is late to note it.
//! Most of it with a manager of sessions in this very process, so that its log can be taken from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use beadle::config::{self, Folders};
use beadle::metrics::Metrics;
use beadle::model::{Actor, Effect, Event, Note, OsEntropy, Outcome, PriceTable, Session, Status, SystemClock};
use beadle::plugin::{Host, HostOptions};
use beadle::policy::Chains;
use beadle::policy::own::OwnFolders;
use beadle::session::{Error, Manager, NewRule, Parts, StartRequest};
use beadle::store::{Batch, Options, Store};
use tempfile::TempDir;

use crate::support::{Model, PATIENCE, Said, TestHost, bash, rules, until};

struct House {
    dir: TempDir,
    store: Store,
    manager: Manager,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bdl").tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        let folders = Folders { config: at("config"), data: at("data"), cache: at("cache"), runtime: at("run") };
        folders.create().expect("folders");
        let config = Arc::new(config::load_for(&folders, None, &|_, _| false).expect("a configuration").config);
        let store = Store::open(&folders.data, Options::default()).expect("a store");
        let shim_bin = beadle::process::install(dir.path()).expect("a shim");
        let run_root = at("s");
        std::fs::create_dir_all(&run_root).expect("a folder");
        let manager = Manager::new(Parts {
            store: store.clone(),
            config,
            chains: Chains::new(folders, Host::new(HostOptions::default()).expect("an engine"), BTreeMap::new()),
            own: OwnFolders::new([]),
            prices: PriceTable::embedded(),
            metrics: Arc::new(Metrics::new(0)),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(OsEntropy),
            shim_bin,
            host_bin: env!("CARGO_BIN_EXE_beadle").into(),
            run_root,
        })
        .expect("a manager");
        Self { dir, store, manager }
    }

    async fn sleeper(&self) -> Session {
        let request = StartRequest {
            name: None,
            agent: "generic".to_owned(),
            program: Some("sleep".to_owned()),
            args: vec!["600".to_owned()],
            unsafe_args: vec![],
            cwd: self.dir.path().to_owned(),
            umask: None,
            env: [("PATH".to_owned(), std::env::var("PATH").unwrap_or_default())].into(),
            prompt: None,
            labels: BTreeMap::new(),
            brief: beadle::session::Brief::default(),
            write_root: None,
            model: None,
            mcp_config: None,
            host_tools: None,
            attach: false,
            keep_open: false,
            compact_at: None,
            context: None,
            going_on: None,
            plan: None,
            limits: Default::default(),
        };
        self.manager.start(request, Actor::host()).await.expect("a session")
    }

    async fn add(&self, rule: &str) -> Result<beadle::session::Rule, Error> {
        let new = NewRule { session: None, dir: None, effect: Effect::Allow, rule: rule.to_owned() };
        self.manager.add_rule(new, Actor::host()).await
    }

    fn rules(&self) -> Vec<String> {
        self.manager.rules(None).into_iter().map(|r| r.rule).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_rules_that_cannot_be_written_changes_nothing() {
    let house = House::new();
    let kept = house.add("Bash(make:*)").await.expect("a rule");
    let other = house.add("Bash(ls:*)").await.expect("a rule");
    house.manager.revoke_rule(&other.id, Actor::host()).await.expect("revoked");
    assert_eq!(house.rules(), ["Bash(make:*)"]);
    house.store.close();
    assert!(house.manager.revoke_rule(&kept.id, Actor::host()).await.is_err());
    assert_eq!(house.rules(), ["Bash(make:*)"], "a rule that is in the store is in force");
    assert!(house.add("Bash(rm:*)").await.is_err());
    assert_eq!(house.rules(), ["Bash(make:*)"], "one that is not there is not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_log_with_another_writer_did_not_take_is_no_success() {
    let house = House::new();
    let session = house.sleeper().await;
    let usurper = Batch {
        taken: None,
        session: session.id.clone(),
        expected: None,
        attempt: 1,
        at: 0,
        events: vec![Event::from(Note { text: "another writer".to_owned() })],
        cursor: None,
        frames: vec![],
        blobs: vec![],
    };
    house.store.append(usurper).await.expect("appended");
    let stopped = house.manager.stop(&session.id, None, false, Actor::host()).await;
    assert!(matches!(stopped, Err(Error::Usurped(_))), "{stopped:?}");
    let ended = house.manager.ended(&session.id, PATIENCE).await.expect("a session");
    assert_eq!((ended.status, ended.outcome), (Status::Ended, Some(Outcome::Failed)), "its agent was ended, and that stands in the log");
    let log = house.store.events(&session.id, 1, 100).expect("events");
    let kinds: Vec<&str> = log.iter().map(|e| e.envelope.event.kind()).collect();
    assert!(kinds.contains(&"note") && !kinds.contains(&"session_stopping"), "{kinds:?}");
    assert!(house.store.verify(None).expect("a report").findings.is_empty());
    // A rule holds and is told, whatever one session's log says.
    house.add("Bash(make:*)").await.expect("a rule");
}

#[test]
fn a_rule_that_is_added_while_a_session_starts_holds_for_its_first_call() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(touch:*)", "Edit(./**)"], &[], &[]));
    let held = host.work().join("held");
    std::fs::create_dir_all(&held).expect("a folder");
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("assembled=wait:{}", held.display()));
    let model = Model::start(&serde_json::json!({ "steps": [bash("touch one"), { "text": "done" }] }));
    host.set("ANTHROPIC_BASE_URL", model.url());
    host.set("ANTHROPIC_API_KEY", "test");
    let starting = host.spawn(["--json", "run", "--agent", "demo", "--detach", "go"]);
    until("the session has its chain and no agent", || held.join("reached").exists().then_some(()));
    host.beadle(["rule", "add", "deny", "Bash(touch:*)"]).ok();
    std::fs::write(held.join("go"), "").expect("written");
    let said: Said = starting.wait_with_output().expect("its output").into();
    let id = said.ok().json()["id"].as_str().expect("an id").to_owned();
    host.ended(&id);
    assert!(!host.work().join("one").exists(), "the rule was there before the agent");
    assert_eq!(host.events_of(&id, "tool_decided")[0]["body"]["effect"], "deny");
    host.beadle(["host", "stop"]).ok();
    until("the daemon has ended", || daemon.try_wait().ok().flatten());
}

#[test]
fn a_session_that_takes_its_time_holds_no_change_of_the_rules_up() {
    let mut host = TestHost::new();
    host.config(&rules(&["Bash(echo:*)", "Edit(./**)"], &[], &[]));
    let held = host.work().join("held");
    std::fs::create_dir_all(&held).expect("a folder");
    let mut daemon = host.daemon_with("BEADLE_FAILPOINT", &format!("decided=wait:{}", held.display()));
    let model = Model::start(&serde_json::json!({ "steps": [bash("echo one"), bash("touch two"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    until("the session's task is held", || held.join("reached").exists().then_some(()));
    let added = host.beadle(["--json", "rule", "add", "allow", "Bash(touch:*)"]).ok().json();
    assert_eq!(host.beadle(["--json", "rule", "ls"]).ok().lines()[0]["id"], added["id"]);
    assert!(host.events_of(&id, "rule_added").is_empty(), "the session is held all the while");
    std::fs::write(held.join("go"), "").expect("written");
    assert_eq!(host.ended(&id)["outcome"], "succeeded");
    assert!(host.work().join("two").exists(), "the rule was in force for its next call");
    let noted = host.events_of(&id, "rule_added");
    assert!(noted.len() == 1 && noted[0]["body"]["id"] == added["id"], "and stands in its log: {noted:?}");
    host.beadle(["host", "stop"]).ok();
    until("the daemon has ended", || daemon.try_wait().ok().flatten());
}
