//! Sinks through the real daemon: files and a receiver that fails in every way, `kill -9`, full disks, poison, groups that calls wait for.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::collector::{Collector, Does, Request, firsts};
use crate::support::{Model, TestHost, alive, bash, kill, lines_of, rules, until};

fn host(sinks: &str) -> TestHost {
    let host = TestHost::new();
    configure(&host, sinks);
    host
}

fn configure(host: &TestHost, sinks: &str) {
    host.config(&format!("{sinks}\n{}", rules(&["Bash(echo:*)"], &[], &[])));
}

fn jsonl(name: &str, more: &str) -> String {
    format!("[[sink]]\nname = \"{name}\"\nkind = \"jsonl\"\nconfig = {{ path = \"{name}.jsonl\" }}\n{more}\n")
}

fn http(name: &str, to: &Collector, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"{name}\"\nkind = \"http\"\ntimeout_ms = 1000\nretry_max_ms = 200\n{more}\n[sink.config]\nurl = \"{}\"\n",
        to.url()
    )
}

fn file(host: &TestHost, name: &str) -> PathBuf {
    host.beadle_home().join(format!("config/{name}.jsonl"))
}

/// Every line is whole.
fn written(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn line at the end");
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

fn status(host: &TestHost, name: &str) -> Value {
    let said = host.beadle(["--json", "sink", "status", name]);
    assert!(said.code < 2, "{}", said.err);
    said.json()
}

fn until_delivered(host: &TestHost, name: &str) -> Value {
    until(&format!("{name} has everything"), || Some(status(host, name)).filter(|s| s["lag_events"] == 0))
}

/// A session of `calls` calls, to its end.
fn session(host: &mut TestHost, calls: usize, more: &[&str]) -> String {
    let mut steps: Vec<Value> = (0..calls).map(|n| bash(&format!("echo {n}"))).collect();
    steps.push(json!({ "text": "done" }));
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "go", more);
    host.ended(&id);
    id
}

/// A sink has every event of these sessions: nothing lost, nothing out of order, repeated events equal; and they are those of the log.
fn assert_has(host: &TestHost, got: &[Value], ids: &[String]) {
    let seen = firsts(got);
    for id in ids {
        let log = host.events(id);
        let want: Vec<u64> = (1..=log.len() as u64).collect();
        assert_eq!(seen.get(id), Some(&want), "the events of {id}");
        for e in &log {
            let found = got.iter().find(|g| g["session"] == e["session"] && g["seq"] == e["seq"]).expect("counted above");
            assert_eq!((&found["hash"], &found["kind"], &found["body"]), (&e["hash"], &e["kind"], &e["body"]), "{id}");
        }
    }
    let chain = seen.get("host").expect("records of the host chain");
    assert!(chain.windows(2).all(|w| w[0] < w[1]), "the host chain in order: {chain:?}");
}

/// One request of ten goes wrong, each time in another way.
fn one_of_ten(n: usize, _: &Request) -> Does {
    match (n % 10, n / 10 % 6) {
        (3, 0) => Does::Status(500, String::new()),
        (3, 1) => Does::Closes,
        (3, 2) => Does::Status(429, "retry-after: 0\r\n".to_owned()),
        (3, 3) => Does::ClosesMidBody,
        (3, 4) => Does::TakesAndCloses,
        (3, _) => Does::Hangs,
        (7, _) => Does::TakesPart(2),
        _ => Does::Takes,
    }
}

#[test]
fn nothing_is_lost_or_out_of_order_through_failures_and_kills() {
    let collector = Collector::start(one_of_ten);
    let mut host = host(&format!("{}{}", jsonl("file", ""), http("siem", &collector, "batch_events = 7")));
    let mut ids = Vec::new();
    for round in 0..4 {
        ids.push(session(&mut host, 6, &[]));
        if round % 2 == 0 {
            host.kill_daemon();
        }
    }
    until_delivered(&host, "siem");
    until_delivered(&host, "file");
    assert_has(&host, &collector.taken(), &ids);
    assert_has(&host, &written(&file(&host, "file")), &ids);
    let requests = collector.requests();
    assert!(requests.iter().any(|r| r.header("beadle-attempt") != "1"), "some were tried again");
    assert!(requests.iter().all(|r| r.header("content-type") == "application/cloudevents-batch+json" && r.events.len() <= 7));
    let one = requests.iter().flat_map(|r| &r.events).next().expect("an event");
    assert_eq!((one["specversion"].as_str(), one["source"].as_str().map(|s| s.starts_with("urn:beadle:"))), (Some("1.0"), Some(true)));
    let s = status(&host, "siem");
    assert!(s["delivered"].as_u64() > Some(40) && s["dead_letters"] == 0 && s["cursor"]["row"].as_u64() > Some(40), "{s}");
    // A removed session was delivered first, and its removal comes too.
    host.beadle(["rm", &ids[0]]).ok();
    until("the removal comes", || {
        collector.taken().iter().any(|e| e["kind"] == "host_session_removed" && e["body"]["session"] == *ids[0]).then_some(())
    });
}

#[test]
fn requests_are_signed_and_carry_the_bearer() {
    use hmac::Mac;
    let collector = Collector::start(|_, _| Does::Takes);
    let mut host = host("");
    let secret = |name: &str, text: &str| {
        let path = host.beadle_home().join("config").join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
    };
    secret("key", "s3cret\n");
    secret("token", "t0ken\n");
    let more = "secret_file = \"key\"\nbearer_file = \"token\"\n";
    configure(&host, &format!("{}{more}", http("siem", &collector, "")));
    session(&mut host, 1, &[]);
    until_delivered(&host, "siem");
    for r in collector.requests() {
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"s3cret").expect("a key");
        mac.update(format!("{}.{}", r.header("beadle-timestamp"), r.text).as_bytes());
        let want: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!((r.header("beadle-signature"), r.header("authorization")), (format!("v1={want}").as_str(), "Bearer t0ken"));
    }
}

#[test]
fn a_receiver_that_asks_for_time_is_given_it() {
    let collector = Collector::start(|n, _| if n == 0 { Does::Status(429, "retry-after: 2\r\n".to_owned()) } else { Does::Takes });
    // Of itself it would try again within 200 ms; the host's own records are enough to deliver.
    let host = host(&http("siem", &collector, ""));
    host.daemon();
    let second = until("it is asked again", || collector.requests().get(1).cloned());
    let first = &collector.requests()[0];
    let pause = second.at.duration_since(first.at);
    assert!(pause >= Duration::from_secs(2), "{pause:?}");
    assert_eq!((first.header("beadle-attempt"), second.header("beadle-attempt")), ("1", "2"));
    assert_eq!(second.events.first(), first.events.first(), "the same again");
    until_delivered(&host, "siem");
}

#[test]
fn poison_is_put_aside_and_delivered_when_it_is_asked_for() {
    let is_poison = |e: &Value| e["data"]["kind"] == "turn_ended";
    let collector = Collector::start(move |_, r| match r.events.iter().any(is_poison) {
        true => Does::Status(413, String::new()),
        false => Does::Takes,
    });
    let mut host = host(&http("siem", &collector, "kinds = [\"tool_*\", \"turn_*\", \"host_*\"]"));
    let id = session(&mut host, 3, &[]);
    let poison = host.events_of(&id, "turn_ended").len() as u64;
    assert!(poison > 0);
    let s = until_delivered(&host, "siem");
    assert_eq!(s["dead_letters"].as_u64(), Some(poison), "{s}");
    let got: Vec<(Value, Value)> =
        collector.taken().iter().filter(|e| e["session"] == *id).map(|e| (e["seq"].clone(), e["kind"].clone())).collect();
    let want: Vec<(Value, Value)> = host
        .events(&id)
        .iter()
        .filter(|e| e["kind"].as_str().is_some_and(|k| k.starts_with("tool_")))
        .map(|e| (e["seq"].clone(), e["kind"].clone()))
        .collect();
    assert_eq!(got, want, "the rest, in order, and only what the filter names");
    let letters = host.beadle(["--json", "sink", "dead-letters", "siem"]).ok().lines();
    assert!(letters.len() as u64 == poison && letters[0]["reason"].as_str().is_some_and(|r| r.contains("413")), "{letters:?}");
    assert!(!collector.taken().iter().any(|e| e["kind"] == "host_sink_dead_lettered"), "events about a sink do not go to it");
    // Refused again, they stay; the session they came from may go meanwhile.
    let said = host.beadle(["--json", "sink", "retry", "siem", "--dead-letters"]).ok().json();
    assert_eq!((said["redelivered"].as_u64(), said["dead_letters"].as_u64()), (Some(0), Some(poison)), "{said}");
    host.beadle(["rm", &id]).ok();
    collector.plan(|_, _| Does::Takes);
    let said = host.beadle(["--json", "sink", "retry", "siem", "--dead-letters"]).ok().json();
    assert_eq!((said["redelivered"].as_u64(), said["dead_letters"].as_u64()), (Some(poison), Some(0)), "{said}");
    assert!(collector.taken().iter().any(|e| e["kind"] == "turn_ended" && e["session"] == *id));
}

#[test]
fn calls_wait_for_a_required_sink_then_are_denied_and_come_through_when_it_is_back() {
    let collector = Collector::start(|_, _| Does::Status(503, String::new()));
    let group = |wait| format!("[[sink_group]]\nname = \"audit\"\nrequired = \"all\"\nwait_ms = {wait}\n");
    let required = "mode = \"required\"\ngroup = \"audit\"\nmax_lag_ms = 300\nlabels = [\"team=x\"]";
    let mut host = host(&format!("{}{}{}", http("siem", &collector, required), jsonl("file", ""), group(200)));
    until("it is behind", || (status(&host, "siem")["lagging"] == true).then_some(()));
    let denied = session(&mut host, 1, &["--label", "team=x"]);
    let decided = &host.events_of(&denied, "tool_decided")[0]["body"];
    assert!(decided["effect"] == "deny" && decided["reason"].as_str().is_some_and(|r| r.contains("BDL-SINK-010")), "{decided}");
    let other = session(&mut host, 1, &[]);
    assert_eq!(host.events_of(&other, "tool_decided")[0]["body"]["effect"], "allow", "a session that does not match goes on");
    // Longer patience: the call waits, the sink comes back, the call is allowed.
    configure(&host, &format!("{}{}{}", http("siem", &collector, required), jsonl("file", ""), group(20_000)));
    host.beadle(["host", "stop"]).ok();
    until("it is behind", || (status(&host, "siem")["lagging"] == true).then_some(()));
    let model = Model::start(&json!({ "steps": [bash("echo late"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &["--label", "team=x"]);
    until("the model was asked", || (!model.requests().is_empty()).then_some(()));
    assert!(host.events_of(&id, "tool_decided").is_empty(), "nothing is decided while it is down");
    collector.plan(|_, _| Does::Takes);
    host.beadle(["sink", "retry", "siem"]).ok();
    host.ended(&id);
    assert_eq!(host.events_of(&id, "tool_decided")[0]["body"]["effect"], "allow");
    let about = |kind: &'static str| {
        until(&format!("{kind} is told to the other sink"), || {
            written(&file(&host, "file")).into_iter().find(|e| e["kind"] == kind && e["body"]["sink"] == "siem")
        })
    };
    about("host_sink_lagging");
    about("host_sink_recovered");
    assert!(!collector.taken().iter().any(|e| e["body"]["sink"] == "siem"), "and not to itself");
    // Of sessions it has those with its label, whole, and nothing of the other, which ended between them.
    until_delivered(&host, "siem");
    assert_has(&host, &collector.taken(), &[denied.clone(), id.clone()]);
    let mut sessions: Vec<String> = firsts(&collector.taken()).into_keys().filter(|s| s != "host").collect();
    sessions.sort();
    let mut labelled = [denied, id];
    labelled.sort();
    assert_eq!(sessions, labelled, "without {other}");
    until_delivered(&host, "file");
    assert!(firsts(&written(&file(&host, "file"))).contains_key(&other), "a sink without labels has all");
}

#[test]
fn a_session_is_removed_only_when_its_sinks_have_it_or_a_person_skips() {
    let collector = Collector::start(|_, _| Does::Hangs);
    let mut host =
        host(&format!("{}{}", http("siem", &collector, "timeout_ms = 300").replace("timeout_ms = 1000\n", ""), jsonl("file", "")));
    let id = session(&mut host, 1, &[]);
    until("a try went wrong", || (status(&host, "siem")["failures"].as_u64() > Some(0)).then_some(()));
    let said = host.beadle(["--json", "rm", &id]);
    assert!(said.code != 0 && said.err.contains("BDL-STORE-029") && said.err.contains("siem"), "{said:?}");
    let said = host.beadle(["sink", "skip", "siem", "nobody-1-aaaaa:1"]);
    assert!(said.code != 0 && said.err.contains("BDL-SINK-003"), "{said:?}");
    let mut skipped = 0;
    until("all are skipped", || {
        let said = host.beadle(["--json", "sink", "skip", "siem", "1000"]);
        skipped += if said.code == 0 { said.json()["skipped"].as_u64().expect("a number") } else { 0 };
        // The records of its own skipping are not for it.
        (skipped > 10 && status(&host, "siem")["lag_events"] == 0).then_some(())
    });
    assert_eq!(status(&host, "siem")["dead_letters"].as_u64(), Some(skipped));
    host.beadle(["rm", &id]).ok();
    let note = until("it is on the host chain", || written(&file(&host, "file")).into_iter().find(|e| e["kind"] == "host_sink_skipped"));
    assert_eq!((&note["body"]["sink"], &note["body"]["by"]["role"]), (&json!("siem"), &json!("operator")));
    // Nothing is gone: what was skipped is delivered when it is asked for.
    collector.plan(|_, _| Does::Takes);
    let said = host.beadle(["--json", "sink", "retry", "siem", "--dead-letters"]).ok().json();
    assert_eq!(said["redelivered"].as_u64(), Some(skipped), "{said}");
    assert!(firsts(&collector.taken())[&id].len() > 5);
}

#[test]
fn a_best_effort_sink_holds_nothing_up_and_says_what_it_dropped() {
    let collector = Collector::start(|_, _| Does::Status(503, String::new()));
    let best = http("siem", &collector, "mode = \"best-effort\"\ndrop_after_events = 20\nbatch_events = 5");
    let mut host = host(&format!("{best}{}", jsonl("file", "")));
    let id = session(&mut host, 8, &[]);
    let s = until("it has dropped", || Some(status(&host, "siem")).filter(|s| s["dropped"].as_u64() > Some(0)));
    let note = until("the host chain says so", || written(&file(&host, "file")).into_iter().find(|e| e["kind"] == "host_sink_dropped"));
    assert!(note["body"]["events"].as_u64() > Some(0) && note["body"]["events"].as_u64() <= s["dropped"].as_u64(), "{note}");
    host.beadle(["rm", &id]).ok();
    collector.plan(|_, _| Does::Takes);
    host.beadle(["sink", "retry", "siem"]).ok();
    until_delivered(&host, "siem");
    for (session, seqs) in firsts(&collector.taken()) {
        assert!(seqs.windows(2).all(|w| w[0] < w[1]), "{session}: {seqs:?}");
    }
}

/// Files of this daemon may not grow beyond so many bytes; a write over it fails, as on a full disk.
fn daemon_with_limit(host: &TestHost, bytes: u64) -> std::process::Child {
    let mut c = host.command(["daemon"]);
    c.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    // SAFETY: between fork and exec only two async-signal-safe system calls are made.
    unsafe {
        c.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            if libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) != 0 || libc::signal(libc::SIGXFSZ, libc::SIG_IGN) == libc::SIG_ERR {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = c.spawn().expect("the daemon starts");
    until("the daemon listens", || std::os::unix::net::UnixStream::connect(host.beadle_home().join("run/beadle.sock")).ok());
    child
}

#[test]
fn a_full_disk_under_the_file_tears_no_line_and_loses_nothing() {
    const FULL: u64 = 16 << 20;
    let mut host = host(&jsonl("file", ""));
    let path = file(&host, "file");
    // Nearly at the limit: the first lines fit, then one does not.
    let line = format!("{}\n", json!({ "session": "earlier", "seq": 1, "pad": "x".repeat(1000) }));
    let mut text = line.repeat(usize::try_from(FULL).expect("small") / line.len() - 1);
    text.truncate(text.len() / line.len() * line.len());
    std::fs::write(&path, &text).expect("written");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
    let mut daemon = daemon_with_limit(&host, FULL);
    let id = session(&mut host, 3, &[]);
    let s = until("the disk is full", || Some(status(&host, "file")).filter(|s| s["failures"].as_u64() > Some(1)));
    assert!(s["last_error"]["message"].as_str().is_some_and(|m| m.contains("file.jsonl")) && s["lag_events"].as_u64() > Some(0), "{s}");
    kill(daemon.id());
    let _ = daemon.wait();
    assert!(!alive(daemon.id()));
    until_delivered(&host, "file");
    let lines: Vec<Value> = written(&path).into_iter().filter(|e| e["session"] != "earlier").collect();
    assert_has(&host, &lines, &[id]);
    assert_eq!(lines_of(&path).iter().filter(|l| l.contains("\"earlier\"")).count(), text.len() / line.len(), "what was there stays");
}

#[test]
fn a_plugin_takes_events_asks_for_time_and_names_poison() {
    let host_and = |config: &str| {
        let host = host(&format!("[[sink]]\nname = \"wasm\"\nkind = \"sink.wasm\"\ntimeout_ms = 20000\nconfig = {config}\n"));
        std::fs::write(host.beadle_home().join("config/sink.wasm"), crate::contract::component("sink")).expect("a component");
        host
    };
    let mut host = host_and("{ poison = \"turn_ended\", busy = 60 }");
    let id = session(&mut host, 2, &[]);
    let s = until_delivered(&host, "wasm");
    let poison = host.events_of(&id, "turn_ended").len() as u64;
    assert_eq!((s["kind"].as_str(), s["dead_letters"].as_u64()), (Some("plugin"), Some(poison)), "{s}");
    assert!(s["failures"].as_u64() > Some(0) && s["delivered"].as_u64() > Some(8), "{s}");
    let letters = host.beadle(["--json", "sink", "dead-letters", "wasm"]).ok().lines();
    assert!(letters.iter().all(|l| l["kind"] == "turn_ended"), "{letters:?}");
    // One that cannot be loaded is a sink that is behind, and the daemon runs.
    std::fs::write(host.beadle_home().join("config/sink.wasm"), crate::contract::component("base")).expect("a component");
    host.beadle(["host", "stop"]).ok();
    session(&mut host, 1, &[]);
    let s = until("it fails", || Some(status(&host, "wasm")).filter(|s| s["failures"].as_u64() > Some(0)));
    assert!(s["last_error"]["message"].as_str().is_some_and(|m| m.contains("permission-policy")), "{s}");
}

/// Posts what it is given, where it may.
const SHIPS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/capable_sink.wasm"));

/// A secret that plugins may be granted.
fn private_secret(host: &TestHost, name: &str) {
    let secrets = host.beadle_home().join("config/secrets");
    std::fs::create_dir_all(&secrets).expect("a folder");
    std::fs::write(secrets.join(name), "s3cret-value-77\n").expect("written");
    std::fs::set_permissions(secrets.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
}

/// A component as a file that can be installed.
fn put(host: &TestHost, wasm: &[u8]) -> String {
    let path = host.home().join("sink.wasm");
    std::fs::write(&path, wasm).expect("a component");
    path.display().to_string()
}

/// Every event of a session of the real agent, as one plugin hands it on, and as many for one of the first of this contract.
#[test]
fn plugins_get_all_events_of_a_session_of_the_real_agent() {
    let Some((mut host, program)) = crate::claude::host("plugins_get_all_events_of_a_session_of_the_real_agent") else { return };
    let collector = Collector::start(|_, _| Does::Takes);
    let entry = |name: &str, kind: &str| format!("[[sink]]\nname = \"{name}\"\nkind = \"{kind}\"\ntimeout_ms = 20000\n");
    configure(&host, &format!("{}batch_events = 20\n{}", entry("ships", "installed:ships"), entry("golden", "golden.wasm")));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plugins/0.1/moments_sink.wasm");
    std::fs::copy(golden, host.beadle_home().join("config/golden.wasm")).expect("a component");
    private_secret(&host, "token");
    let to = format!("http:POST:127.0.0.1:{}", collector.port);
    let config = json!({ "url": collector.url() }).to_string();
    let add = ["plugin", "add", &put(&host, SHIPS), "--yes", "--grant", "secret:token", "--grant", &to, "--config", &config];
    host.beadle(add).ok();
    let model = Model::start(&json!({ "steps": [bash("echo one"), bash("echo two"), { "text": "done" }] }));
    let id = crate::claude::run(&mut host, &program, &model, &[]);
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["breach_count"].as_u64()), (Some("succeeded"), Some(0)), "{s:#}");
    let s = until_delivered(&host, "ships");
    assert_has(&host, &collector.taken(), std::slice::from_ref(&id));
    let log = host.events(&id);
    let golden = until_delivered(&host, "golden");
    for s in [s, golden] {
        assert!(s["delivered"].as_u64() > Some(log.len() as u64) && s["dead_letters"] == 0 && s["dropped"] == 0, "{s}");
    }
    for kind in ["session_created", "model_responded", "tool_requested", "tool_decided", "tool_ended", "turn_ended", "session_ended"] {
        assert!(log.iter().any(|e| e["kind"] == kind), "{kind}");
    }
}

#[test]
fn an_installed_plugin_is_a_sink_by_its_name_and_its_digest() {
    let mut host = host("[[sink]]\nname = \"wasm\"\nkind = \"installed:drain\"\ntimeout_ms = 20000\nretry_max_ms = 200\n");
    let failing = |what: &str| {
        until(what, || Some(status(&host, "wasm")).filter(|s| s["last_error"]["message"].as_str().is_some_and(|m| m.contains(what))))
    };
    failing("BDL-REGISTRY-004");
    let wasm = crate::contract::component("sink");
    host.beadle(["plugin", "add", &put(&host, wasm), "--yes", "--as", "drain"]).ok();
    let s = until_delivered(&host, "wasm");
    let digest = blake3::hash(wasm).to_hex().to_string();
    assert_eq!((s["kind"].as_str(), s["plugin"]["digest"].as_str()), (Some("plugin"), Some(digest.as_str())), "{s}");
    assert!(host.beadle(["sink", "status", "wasm"]).ok().out.contains("plugin"));
    // Its own settings, changed while it runs; then it is switched off, and what comes waits.
    host.beadle(["plugin", "set", "drain", "--config", r#"{"poison":"turn_ended"}"#]).ok();
    let id = session(&mut host, 1, &[]);
    let s = until_delivered(&host, "wasm");
    assert_eq!(s["dead_letters"].as_u64(), Some(host.events_of(&id, "turn_ended").len() as u64), "{s}");
    host.beadle(["plugin", "disable", "drain"]).ok();
    let failing = |what: &str| {
        until(what, || Some(status(&host, "wasm")).filter(|s| s["last_error"]["message"].as_str().is_some_and(|m| m.contains(what))))
    };
    let s = failing("plugin drain is disabled");
    assert!(s["lag_events"].as_u64() > Some(0) && s["plugin"].is_null(), "{s}");
    host.beadle(["plugin", "enable", "drain"]).ok();
    until_delivered(&host, "wasm");
    // Another component under the pinned name is not loaded.
    let component = host.data().join("plugins").join(format!("{digest}.wasm"));
    host.kill_daemon();
    std::fs::write(&component, SHIPS).expect("exchanged");
    failing("BDL-REGISTRY-002");
    std::fs::write(&component, wasm).expect("back");
    host.beadle(["sink", "retry", "wasm"]).ok();
    until_delivered(&host, "wasm");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

/// A new version takes over where the one before stood; one that keeps failing is taken back by the host.
#[test]
fn a_sink_plugin_is_upgraded_rolled_back_and_watched() {
    let mut host = host("[[sink]]\nname = \"wasm\"\nkind = \"installed:drain\"\ntimeout_ms = 20000\nretry_max_ms = 200\n");
    let one = crate::contract::component("sink");
    // A custom section of its own makes it another component.
    let two = [one, &[0, 3, 1, b'n', 2]].concat();
    let digest = |wasm: &[u8]| blake3::hash(wasm).to_hex().to_string();
    let in_force = |host: &TestHost, wasm: &[u8], what: &str| {
        let s = until_delivered(host, "wasm");
        assert_eq!(s["plugin"]["digest"], json!(digest(wasm)), "{what}: {s}");
        s["delivered"].as_u64().expect("a count")
    };
    host.beadle(["plugin", "add", &put(&host, one), "--yes", "--as", "drain"]).ok();
    let first = in_force(&host, one, "added");
    host.beadle(["plugin", "upgrade", "drain", &put(&host, &two), "--yes"]).ok();
    let id = session(&mut host, 1, &[]);
    let second = in_force(&host, &two, "upgraded");
    assert!(second >= first + host.events_of(&id, "session_created").len() as u64, "{first} {second}");
    host.beadle(["plugin", "rollback", "drain"]).ok();
    in_force(&host, one, "rolled back");

    host.beadle(["plugin", "upgrade", "drain", &put(&host, &two), "--yes"]).ok();
    in_force(&host, &two, "upgraded again");
    host.beadle(["plugin", "set", "drain", "--config", r#"{"trap":"write"}"#]).ok();
    let lock = until("the version before is in force again", || {
        let doc = host.beadle(["--json", "plugin", "ls", "drain"]).ok().json();
        (doc["digest"] == json!(digest(one))).then_some(doc)
    });
    assert_eq!(lock["config"]["trap"], "write", "{lock}");
    let s = status(&host, "wasm");
    assert!(s["lag_events"].as_u64() > Some(0), "what came meanwhile waits: {s}");
    host.beadle(["plugin", "set", "drain", "--config", "{}"]).ok();
    host.beadle(["sink", "retry", "wasm"]).ok();
    in_force(&host, one, "in order again");
    assert_eq!(status(&host, "wasm")["dead_letters"], 0);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn a_sink_plugin_has_what_it_was_granted_and_no_more() {
    let collector = Collector::start(|_, _| Does::Takes);
    let host = host("[[sink]]\nname = \"ships\"\nkind = \"installed:ships\"\nbatch_events = 20\nretry_max_ms = 200\n");
    private_secret(&host, "token");
    let config = json!({ "url": collector.url() }).to_string();
    let to = format!("http:POST:127.0.0.1:{}", collector.port);
    host.beadle(["plugin", "add", &put(&host, SHIPS), "--yes", "--as", "ships", "--config", &config]).ok();
    let lacks = |word: &str| {
        until(&format!("it lacks {word}"), || {
            let s = status(&host, "ships");
            s["last_error"]["message"].as_str().is_some_and(|m| m.contains(&format!("denied: {word}: it is not granted"))).then_some(())
        })
    };
    lacks("secret:token");
    host.beadle(["plugin", "grant", "ships", "secret:token"]).ok();
    lacks(&to);
    assert!(collector.requests().is_empty(), "nothing left the host");
    host.beadle(["plugin", "grant", "ships", &to]).ok();
    until_delivered(&host, "ships");
    let requests = collector.requests();
    assert!(requests.iter().all(|r| r.header("authorization") == "Bearer s3cret-value-77" && r.events.len() <= 20), "{requests:?}");
    let chain = firsts(&collector.taken());
    assert!(chain["host"].len() > 3 && chain["host"].windows(2).all(|w| w[0] < w[1]), "{chain:?}");
    // A revocation holds at the next batch; the sink's own entry can grant as well.
    let seen = collector.requests().len();
    host.beadle(["plugin", "revoke", "ships", &to]).ok();
    lacks(&to);
    assert_eq!(collector.requests().len(), seen);
    configure(&host, &format!("[[sink]]\nname = \"ships\"\nkind = \"installed:ships\"\ngrants = [\"{to}\"]\n"));
    host.beadle(["host", "stop"]).ok();
    until_delivered(&host, "ships");
    assert!(collector.requests().len() > seen);
}

#[test]
fn a_session_is_ended_while_its_call_waits_for_a_sink() {
    let collector = Collector::start(|_, _| Does::Status(503, String::new()));
    let required = "mode = \"required\"\nmax_lag_ms = 300";
    let group = "[[sink_group]]\nname = \"required\"\nwait_ms = 20000\n";
    let mut host = host(&format!("{}{group}", http("siem", &collector, required)));
    until("it is behind", || (status(&host, "siem")["lagging"] == true).then_some(()));
    for verb in ["stop", "kill"] {
        let model = Model::start(&json!({ "steps": [bash("echo late"), { "text": "done" }] }));
        let id = host.run_demo(&model, "go", &[]);
        until("the call waits", || (!model.requests().is_empty()).then_some(()));
        let begun = std::time::Instant::now();
        host.beadle([verb, &id]).ok();
        host.ended(&id);
        // The wait itself is 20 s.
        assert!(begun.elapsed() < Duration::from_secs(15), "{verb} took {:?}", begun.elapsed());
        for d in host.events_of(&id, "tool_decided") {
            assert!(d["body"]["effect"] == "deny" && d["body"]["reason"].as_str().is_some_and(|r| r.contains("told to end")), "{d}");
        }
        assert!(host.events_of(&id, "tool_ended").iter().all(|e| e["body"]["is_error"] == true), "{verb}: nothing ran");
    }
}

#[test]
fn of_a_group_that_needs_any_one_sink_is_enough() {
    let collector = Collector::start(|_, _| Does::Status(503, String::new()));
    let group = "[[sink_group]]\nname = \"audit\"\nrequired = \"any\"\nwait_ms = 0\n";
    let required = "mode = \"required\"\ngroup = \"audit\"\nmax_lag_ms = 300";
    let mut host = host(&format!("{}{}{group}", http("siem", &collector, required), jsonl("file", required)));
    until("it is behind", || (status(&host, "siem")["lagging"] == true).then_some(()));
    let id = session(&mut host, 1, &[]);
    assert_eq!(host.events_of(&id, "tool_decided")[0]["body"]["effect"], "allow", "the file keeps up");
    // Neither does: the file's place is taken by a folder.
    until_delivered(&host, "file");
    std::fs::rename(file(&host, "file"), host.home().join("moved")).expect("moved away");
    std::fs::create_dir(file(&host, "file")).expect("a folder");
    session(&mut host, 1, &[]);
    until("both are behind", || (status(&host, "file")["lagging"] == true).then_some(()));
    let id = session(&mut host, 1, &[]);
    let decided = &host.events_of(&id, "tool_decided")[0]["body"];
    assert!(
        decided["effect"] == "deny" && decided["reason"].as_str().is_some_and(|r| r.contains("siem") && r.contains("file")),
        "{decided}"
    );
    std::fs::remove_dir(file(&host, "file")).expect("gone again");
    host.beadle(["sink", "retry", "file"]).ok();
    until("one has caught up", || (status(&host, "file")["lagging"] == false).then_some(()));
    let id = session(&mut host, 1, &[]);
    assert_eq!(host.events_of(&id, "tool_decided")[0]["body"]["effect"], "allow");
}

#[test]
fn a_file_is_put_aside_when_it_is_old_and_nothing_is_lost_at_the_seam() {
    let mut host = host("[[sink]]\nname = \"file\"\nkind = \"jsonl\"\nconfig = { path = \"file.jsonl\", max_age_ms = 1 }\n");
    let path = file(&host, "file");
    let aside = |n: usize| PathBuf::from(format!("{}.{n}", path.display()));
    let mut ids = Vec::new();
    until("files are put aside", || {
        ids.push(session(&mut host, 1, &[]));
        until_delivered(&host, "file");
        aside(2).exists().then_some(())
    });
    let last = (1..).take_while(|n| aside(*n).exists()).last().expect("some");
    let mut all: Vec<Value> = (1..=last).rev().flat_map(|n| written(&aside(n))).collect();
    all.extend(written(&path));
    assert_has(&host, &all, &ids);
}

#[test]
fn over_tls_events_go_only_to_a_receiver_that_proves_its_name() {
    let (port, got) = crate::notify::behind_tls(']');
    let deliver = |address: &str, roots: &str| {
        let host = host(&format!("[[sink]]\nname = \"siem\"\nkind = \"http\"\nconfig = {{ url = \"https://{address}:{port}/events\" }}\n"));
        let mut daemon = host.daemon_with("SSL_CERT_FILE", &crate::notify::golden(roots).display().to_string());
        let s = until("it is delivered or not", || {
            Some(status(&host, "siem")).filter(|s| s["delivered"].as_u64() > Some(0) || s["failures"].as_u64() > Some(0))
        });
        host.beadle(["host", "stop"]).ok();
        daemon.wait().expect("the daemon ends");
        s
    };
    let s = deliver("localhost", "ca.pem");
    assert_eq!(s["failures"], 0, "{s}");
    let told = got.lock().expect("no panic holds it").clone();
    assert!(told.first().is_some_and(|t| t.contains("cloudevents-batch") && t.contains("host_opened")), "{told:?}");
    for (address, roots, what) in [("127.0.0.1", "ca.pem", "another name"), ("localhost", "leaf.pem", "an authority that is not trusted")] {
        let s = deliver(address, roots);
        assert!(s["last_error"]["message"].as_str().is_some_and(|e| e.contains("TLS: ")) && s["delivered"] == 0, "{what}: {s}");
    }
    assert_eq!(got.lock().expect("no panic holds it").len(), told.len(), "nothing was said to who could not prove its name");
}

#[test]
fn events_are_skipped_only_by_who_proves_to_be_there() {
    let collector = Collector::start(|_, _| Does::Status(503, String::new()));
    let host = host(&http("siem", &collector, ""));
    let config = std::fs::read_to_string(host.beadle_home().join("config/beadle.toml")).expect("a file");
    host.config(&format!("operator.confirm = \"tty\"\n{config}"));
    until("a try went wrong", || (status(&host, "siem")["failures"].as_u64() > Some(0)).then_some(()));
    let said = host.beadle(["sink", "skip", "siem", "1"]);
    assert!(said.code != 0 && said.err.contains("terminal"), "{said:?}");
    assert_eq!(status(&host, "siem")["skipped"], 0);
    let mut t = crate::support::Terminal::start(host.command(["sink", "skip", "siem", "1"]));
    let code = crate::operator::wait_code(&t);
    assert!(t.screen().contains("siem"), "what it is for is shown: {}", t.screen());
    t.type_line(&code);
    let screen = t.finish();
    assert!(screen.contains("siem: 1 skipped"), "{screen}");
    assert_eq!((status(&host, "siem")["skipped"].as_u64(), status(&host, "siem")["dead_letters"].as_u64()), (Some(1), Some(1)));
}

/// More than this is not kept of one sink.
const DEAD_LETTERS: u64 = 10_000;

#[test]
fn a_sink_without_room_for_dead_letters_waits_until_there_is_some() {
    let is_poison = |e: &Value| e["data"]["kind"] == "turn_ended";
    let collector = Collector::start(move |_, r| match r.events.iter().any(is_poison) {
        true => Does::Status(413, String::new()),
        false => Does::Takes,
    });
    let mut host = host(&http("siem", &collector, "kinds = [\"turn_*\"]"));
    let id = session(&mut host, 1, &[]);
    until("one is put aside", || (status(&host, "siem")["dead_letters"].as_u64() > Some(0)).then_some(()));
    let pid = host.daemon();
    host.beadle(["host", "stop"]).ok();
    until("the daemon is gone", || (!alive(pid)).then_some(()));
    let c = rusqlite::Connection::open(host.data().join("beadle.db")).expect("the database");
    let more = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
        INSERT INTO dead_letters (sink, at, reason, event) SELECT d.sink, d.at, d.reason, d.event FROM dead_letters d, n WHERE d.id = 1";
    c.execute(more, [i64::try_from(DEAD_LETTERS).expect("small")]).expect("as many as there may be");
    drop(c);
    let next = session(&mut host, 1, &[]);
    let s = until("there is no room", || {
        Some(status(&host, "siem")).filter(|s| s["last_error"]["message"].as_str().is_some_and(|m| m.contains("no room")))
    });
    assert!(s["dead_letters"].as_u64() >= Some(DEAD_LETTERS) && s["lag_events"].as_u64() > Some(0), "{s}");
    let said = host.beadle(["sink", "skip", "siem", "1"]);
    assert!(said.code != 0 && said.err.contains("BDL-SINK-005") && said.err.contains("--dead-letters"), "{said:?}");
    // Nothing of it was given up: once it is taken, the one that waited goes too.
    collector.plan(|_, _| Does::Takes);
    until("all dead letters are delivered", || {
        host.beadle(["--json", "sink", "retry", "siem", "--dead-letters"]);
        (status(&host, "siem")["dead_letters"] == 0).then_some(())
    });
    until_delivered(&host, "siem");
    let seen = firsts(&collector.taken());
    for id in [&id, &next] {
        assert_eq!(seen[id].len(), host.events_of(id, "turn_ended").len(), "{id}");
    }
}

#[test]
fn only_the_operators_file_has_sinks_and_a_sink_that_goes_lets_sessions_go() {
    let collector = Collector::start(|_, _| Does::Status(503, String::new()));
    let mut host = host(&http("siem", &collector, ""));
    host.file("beadle.toml", "[[sink]]\nname = \"mine\"\nkind = \"jsonl\"\nconfig = { path = \"stolen.jsonl\" }\n");
    let id = session(&mut host, 1, &[]);
    let names: Vec<Value> = host.beadle(["--json", "sink", "status"]).ok().lines().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, [json!("siem")]);
    assert!(!host.work().join("stolen.jsonl").exists());
    configure(&host, "");
    host.beadle(["host", "stop"]).ok();
    host.beadle(["rm", &id]).ok();
    let said = host.beadle(["sink", "retry", "siem"]);
    assert!(said.code == 3 && said.err.contains("BDL-SINK-001"), "{said:?}");
    assert!(host.beadle(["verify"]).ok().out.contains("whole"));
}

#[test]
fn what_is_delivered_is_counted_where_operators_look() {
    let mut host = host(&jsonl("file", ""));
    session(&mut host, 1, &[]);
    let s = until_delivered(&host, "file");
    let table = host.beadle(["sink", "status"]).ok().out;
    assert!(table.starts_with("NAME") && table.contains("at-least-once") && table.contains("ok"), "{table}");
    assert!(host.beadle(["sink", "status", "file"]).ok().out.contains("cursor"));
    assert_eq!(host.beadle(["-q", "sink", "status"]).ok().out.trim(), "file");
    for key in
        ["name", "kind", "mode", "cursor", "lag_events", "lag_ms", "lagging", "delivered", "dropped", "skipped", "dead_letters", "failures"]
    {
        assert!(!s[key].is_null(), "{key}: {s}");
    }
    let key = host.beadle(["--json", "sink", "key"]).ok().json();
    assert_eq!(key["key"].as_str().map(str::len), Some(64), "{key}");
    assert_eq!(host.beadle(["sink", "status", "none"]).code, 3);
}

#[test]
fn heads_in_a_sinks_file_find_a_log_that_was_rewritten_or_cut() {
    let mut host = host(&jsonl("file", ""));
    let id = session(&mut host, 2, &[]);
    let other = session(&mut host, 1, &[]);
    until_delivered(&host, "file");
    // The host's end signs its chain's head; the next daemon delivers it.
    host.beadle(["host", "stop"]).ok();
    host.daemon();
    until("the host chain's head comes", || written(&file(&host, "file")).iter().any(|e| e["kind"] == "host_host_head").then_some(()));
    let evidence = host.beadle_home().join("carried-away");
    std::fs::copy(file(&host, "file"), &evidence).expect("a copy");
    let evidence = evidence.to_str().expect("text");
    let said = host.beadle(["verify", "--against", evidence]).ok();
    assert!(said.out.contains("agree"), "{}", said.out);
    let one = host.beadle(["verify", &id, "--against", evidence]).ok();
    assert!(one.out.contains("whole"), "{}", one.out);
    // A forged head is not taken for the host's.
    let text = std::fs::read_to_string(evidence).expect("text");
    let forged = host.beadle_home().join("forged");
    let head = text.lines().find(|l| l.contains("host_session_head")).expect("a head");
    let hash = serde_json::from_str::<Value>(head).expect("JSON")["body"]["hash"].as_str().expect("a hash").to_owned();
    std::fs::write(&forged, text.replace(&format!("\"hash\":\"{hash}\""), &format!("\"hash\":\"{}\"", "0".repeat(64)))).expect("written");
    let said = host.beadle(["verify", "--against", forged.to_str().expect("text")]);
    assert!(said.code == 1 && said.out.contains("not signed"), "{}", said.out);
    // Who owns the folder cuts one session's log behind its chain, and takes the other away without a trace.
    let pid = host.daemon();
    host.beadle(["host", "stop"]).ok();
    until("the daemon is gone", || (!alive(pid)).then_some(()));
    let db = host.data().join("beadle.db");
    let c = rusqlite::Connection::open(&db).expect("the database");
    let no = |id: &str| c.query_row("SELECT no FROM sessions WHERE id = ?1", [id], |r| r.get::<_, i64>(0)).expect("a number");
    for (id, from) in [(&id, 4), (&other, 1)] {
        c.execute("DELETE FROM events WHERE session_no = ?1 AND seq >= ?2", (no(id), from)).expect("cut");
    }
    c.execute("DELETE FROM sessions WHERE no = ?1", [no(&other)]).expect("taken away");
    c.execute(
        "UPDATE sessions SET last_seq = 3, head = (SELECT hash FROM events WHERE session_no = ?1 AND seq = 3) WHERE no = ?1",
        [no(&id)],
    )
    .expect("covered up");
    c.execute("DELETE FROM host_events WHERE seq > 1", []).expect("the chain is cut too");
    drop(c);
    let said = host.beadle(["--json", "verify", "--against", evidence]);
    let found = said.json()["findings"].to_string();
    assert!(said.code == 1 && found.contains("once ended at") && found.contains("is not here"), "{found}");
    assert!(found.contains("the host chain differs") || found.contains("the host chain ends at"), "{found}");
    host.expects_breaches();
}
