//! The way of an author, from the installed binary alone: new, build, check, test, bench, inspect, in a temporary folder, without a daemon;
//! then a policy's whole life as a plugin, with an executable that lies alone in a folder.
//!
//! The projects of all tests share one target folder, so that what they depend on is compiled once; cargo takes nothing from the network
//! where the packages are there already.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Model, Said, TestHost, bash, rules};

const BEADLE: &str = env!("CARGO_BIN_EXE_beadle");

/// A project made by `beadle plugin new`.
struct Project {
    dir: TempDir,
    name: String,
    /// The executable that its author has.
    beadle: PathBuf,
}

/// Where a daemon would keep its things, and the author's home: nothing that is done here needs or makes them.
const ABSENT: [&str; 2] = ["no-such-home", "no-such-user"];

/// A command with what cargo and rustup need of the environment, and nothing of the cargo that runs the tests.
fn command(program: impl AsRef<OsStr>, dir: &Path) -> Command {
    let mut c = Command::new(program);
    c.env_clear().current_dir(dir).stdin(Stdio::null());
    for name in ["PATH", "RUSTUP_TOOLCHAIN", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            c.env(name, value);
        }
    }
    for (name, usual) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        let below = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(usual).into_os_string());
        if let Some(value) = std::env::var_os(name).or_else(below) {
            c.env(name, value);
        }
    }
    c.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("authoring"));
    c.env("BEADLE_HOME", dir.join(ABSENT[0])).env("HOME", dir.join(ABSENT[1])).env("BEADLE_SESSION", "tests").env("NO_COLOR", "1");
    c
}

fn beadle(dir: &Path, args: &[&str]) -> Said {
    command(BEADLE, dir).args(args).output().expect("beadle").into()
}

impl Project {
    fn new(name: &str, kind: &str) -> Self {
        Self::by(BEADLE.into(), tempfile::tempdir().expect("a folder"), name, kind)
    }

    /// By somebody who has the executable, in a folder where nothing else is, and nothing else of ours.
    fn installed(name: &str, kind: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let bin = dir.path().canonicalize().expect("a folder").join("bin");
        std::fs::create_dir(&bin).expect("a folder");
        std::fs::copy(BEADLE, bin.join("beadle")).expect("a copy");
        Self::by(bin.join("beadle"), dir, name, kind)
    }

    fn by(beadle: PathBuf, dir: TempDir, name: &str, kind: &str) -> Self {
        let it = Self { dir, name: name.to_owned(), beadle };
        let said = it.beadle(it.dir.path(), &["--json", "plugin", "new", name, "--kind", kind]).ok().json();
        assert_eq!(said["name"], name);
        it
    }

    fn beadle(&self, dir: &Path, args: &[&str]) -> Said {
        command(&self.beadle, dir).args(args).output().expect("beadle").into()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    fn file(&self) -> PathBuf {
        self.path().join(format!("target/plugin/{}.wasm", self.name))
    }

    fn offline(&self) -> bool {
        static WARM: OnceLock<bool> = OnceLock::new();
        *WARM.get_or_init(|| {
            command("cargo", &self.path()).args(["fetch", "--offline", "--quiet"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        })
    }

    /// A verb that builds; from the network only where packages are missing.
    fn plugin(&self, args: &[&str]) -> Said {
        let mut all = vec!["plugin"];
        all.extend(args);
        all.extend(self.offline().then_some("--offline"));
        self.beadle(&self.path(), &all)
    }

    fn plugin_json(&self, args: &[&str]) -> Said {
        let mut all = vec!["--json"];
        all.extend(args);
        // why: the flag is global, so it may stand behind the noun too.
        self.plugin(&all)
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path().join(file);
        let text = std::fs::read_to_string(&path).expect("a file of the project");
        assert!(text.contains(from), "{file} has {from:?}");
        // In one step: `dev` may be looking.
        let part = self.dir.path().join("part");
        std::fs::write(&part, text.replace(from, to)).expect("written");
        std::fs::rename(part, path).expect("in place");
    }
}

/// Everything that an author does, for one kind.
fn whole_way(project: &Project, kind: &str, world: &str) {
    let name = project.name.as_str();
    for file in ["Cargo.toml", "Cargo.lock", "src/lib.rs", "cases.toml", "README.md", "AGENTS.md", ".gitignore", ".cargo/config.toml"] {
        assert!(project.path().join(file).is_file(), "{file}");
    }
    let built = project.plugin_json(&["build"]).ok().json();
    assert_eq!(
        (built["kind"].as_str(), built["findings"].as_array().map(Vec::len), built["sdk"].as_str()),
        (Some(world), Some(0), Some("current"))
    );
    let bytes = std::fs::read(project.file()).expect("the component");
    assert_eq!(built["bytes"], bytes.len());
    assert!(bytes.len() < 400_000, "{} bytes", bytes.len());

    let check = project.beadle(&project.path(), &["--json", "plugin", "check", &project.file().display().to_string()]).ok().json();
    assert_eq!((check["good"].as_bool(), check["kind"].as_str(), check["built_with"].as_str()), (Some(true), Some(world), Some("current")));
    let inspect = project.plugin_json(&["inspect"]).ok().json();
    assert_eq!(
        (inspect["name"].as_str(), inspect["engine"].as_str(), inspect["snapshotted"].as_bool()),
        (Some(name), Some("small"), Some(true))
    );
    assert_eq!(inspect["digest"], built["digest"]);
    let names = |key: &str| {
        let mut all: Vec<String> = inspect[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        all.sort();
        all
    };
    let imports = names("imports");
    assert!(names("exports").iter().any(|e| e == "configure") && names("exports").len() == 3, "{inspect:#}");
    let (pages, most) = (inspect["memory"]["pages"].as_u64(), inspect["memory"]["most_pages"].as_u64());
    assert!(pages > Some(0) && pages < most && inspect["memory"]["table_elements"].as_u64() > Some(0), "{inspect:#}");
    assert!(inspect["compiled_bytes"].as_u64() > Some(10_000), "{inspect:#}");
    assert_eq!(inspect["wants"].as_array().map(Vec::len), Some(usize::from(kind == "policy")), "{inspect:#}");
    let shown = project.plugin(&["inspect"]).ok().out;
    for part in ["exports", "compiled", "pages of 64 KiB before a call", "engine", "small: fits the pool", "snapshot", "digest"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let expected: &[&str] = match kind {
        "policy" => &["beadle:plugin/kv@0.1.0", "beadle:plugin/log@0.1.0"],
        "compaction" => &["beadle:plugin/log@0.1.0", "beadle:plugin/transcript@0.1.0"],
        _ => &["beadle:plugin/log@0.1.0"],
    };
    assert_eq!(imports, expected, "what is not used is not imported");
    assert_eq!(inspect["config_schema"]["type"], "object");
    assert!(inspect["size"]["names"].as_u64().is_some_and(|n| n > 1000), "names stay for backtraces: {inspect:#}");

    let tested = project.plugin_json(&["test"]).ok().json();
    assert_eq!(tested["failed"], 0, "{tested:#}");
    // The policy's cases have one in steps, which counts in `kv`, and its twin without the grant.
    assert!(tested["passed"].as_u64().is_some_and(|n| n >= if kind == "policy" { 7 } else { 2 }), "{tested:#}");
    let bench = project.plugin_json(&["bench", "--calls", "200"]).ok().json();
    assert_eq!(
        (bench["within"].as_bool(), bench["calls"].as_u64(), bench["failures"].as_u64()),
        (Some(true), Some(200), Some(0)),
        "{bench:#}"
    );
    assert!(bench["p99_us"].as_f64() >= bench["p50_us"].as_f64() && bench["p50_us"].as_f64() > Some(0.0), "{bench:#}");
    assert!(bench["memory"].as_u64().is_some_and(|n| n >= 65_536), "{bench:#}");
    assert_eq!(bench["times_smallest"].is_number(), kind == "policy", "{bench:#}");
    // A nanosecond is over in any case: the gate of somebody's own CI.
    let over = project.plugin_json(&["bench", "--calls", "50", "--p99-us", "0.001"]);
    let doc = over.json();
    assert_eq!((over.code, doc["within"].as_bool(), doc["budget"]["p99_us"].as_f64()), (1, Some(false), Some(0.001)), "{doc:#}");
    assert!(doc["budget"]["p99_ratio"].as_f64() > Some(1.0) && doc["failures"] == 0, "{doc:#}");
    // All of that was without a daemon, which would have made its folders.
    for dir in [project.dir.path(), &project.path()] {
        assert!(ABSENT.iter().all(|name| !dir.join(name).exists()), "{}", dir.display());
    }

    let mut tests = command("cargo", &project.path());
    tests.args(["test", "--quiet"]).args(project.offline().then_some("--offline"));
    Said::from(tests.output().expect("cargo")).ok();
}

/// Cases beside the component that `whole_way` or a build made.
fn cases(project: &Project, text: &str) -> Said {
    let file = project.path().join("more.toml");
    std::fs::write(&file, text).expect("written");
    let (component, file) = (project.file().display().to_string(), file.display().to_string());
    beadle(&project.path(), &["plugin", "test", &component, "--cases", &file])
}

#[test]
fn cases_that_fail_say_what_differs_and_a_panic_is_traced_by_name() {
    let project = Project::new("boom-er", "policy");
    project.edit(
        "src/lib.rs",
        "        let Some(found) =",
        "        beadle_plugin::log::write(beadle_plugin::log::Level::Info, \"judged\");\n        if call.commands.iter().any(|c| c.program() == \"boom\") {\n            explode(call);\n        }\n        let Some(found) =",
    );
    project.edit(
        "src/lib.rs",
        "export_policy!(",
        "#[inline(never)]\nfn explode(call: &Call) {\n    assert!(call.cwd.is_empty(), \"not here\");\n}\n\nexport_policy!(",
    );
    project.plugin(&["build"]).ok();
    let said = cases(
        &project,
        r#"
[[case]]
name = "wrong"
command = "sudo ls"
expect = { effect = "allow", reason = "fine" }
[[case]]
name = "traps"
command = "boom"
expect = { effect = "abstain" }
[[case]]
name = "may trap"
command = "boom"
expect = { fails = "trap" }
[[case]]
name = "is refused"
config = { programs = 3 }
command = "ls"
expect = { fails = "load", reason = "programs: invalid type: integer `3`" }
"#,
    );
    assert_eq!(said.code, 1, "{said:?}");
    for part in [
        "FAIL  wrong",
        "effect: allow expected, it is deny",
        "reason: \"fine\" is not in",
        "FAIL  traps",
        "it failed (trap)",
        "0: boom_er::explode",
        "panicked at src/lib.rs:",
        "not here",
        "ok    may trap",
        "ok    is refused",
        "2 passed, 2 failed",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }

    let mut host = TestHost::new();
    let file = project.file().display().to_string();
    host.config(&format!("[[policy]]\nname = \"boom\"\nplugin = {file:?}\ndeadline_ms = 10000\n"));
    let model = Model::start(&json!({ "steps": [bash("boom"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &["--keep"]);
    crate::support::until("the turn has ended", || (host.show(&id)["turn_count"] == 1).then_some(()));
    let said = host.beadle(["plugin", "logs", &id]).ok();
    for part in ["info  boom judged", "error boom panicked at src/lib.rs:", ": not here", "error boom trap: ", "boom_er::explode"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    let doc = host.beadle(["--json", "plugin", "logs", &id, "--policy", "boom"]).ok().json();
    assert_eq!(
        (doc["policy"].as_str(), doc["dropped_count"].as_u64(), doc["lines"].as_array().map(Vec::len)),
        (Some("boom"), Some(0), Some(3))
    );
    assert_eq!(host.beadle(["plugin", "logs", &id, "--policy", "none"]).code, 3);
    let failed = &host.events_of(&id, "plugin_failed")[0]["body"];
    assert!(failed["detail"].as_str().is_some_and(|d| d.contains("panicked at src/lib.rs:") && d.contains("not here")), "{failed:#}");
    host.beadle(["stop", &id]).ok();
    assert!(host.beadle(["plugin", "logs", &id]).err.contains("has ended"));
    // By its name there is still what it said.
    assert!(host.beadle(["plugin", "logs", "boom"]).ok().out.contains("not here"));

    for (text, says) in [
        ("[[case]]\nname = \"a\"\ncommand = \"ls\"\nexpect = {}", "expects nothing"),
        ("[[case]]\nname = \"a\"\nexpect = { effect = \"deny\" }", "asks no question"),
        ("[[case]]\nname = \"a\"\nrecorded = \"nobody/none\"\nexpect = { effect = \"deny\" }", "claude/bash-ls"),
        ("[[case]]\nname = \"a\"\ncomand = \"ls\"\nexpect = { effect = \"deny\" }", "unknown field `comand`"),
        ("grants = [\"everything\"]\n[[case]]\nname = \"a\"\ncommand = \"ls\"\nexpect = { effect = \"deny\" }", "is no capability"),
        ("[[case]]\nname = \"a\"\ncommand = \"ls\"\nsession = { id = \"x\" }\nexpect = { effect = \"deny\" }", "session.id"),
    ] {
        let said = cases(&project, text);
        assert_eq!(said.code, 2, "{text}: {said:?}");
        assert!(said.err.contains(says), "{says}: {said:?}");
    }
}

#[test]
fn recorded_calls_are_what_agents_really_sent() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut per_agent = std::collections::BTreeMap::<String, usize>::new();
    for agent in std::fs::read_dir(root.join("examples/calls")).expect("a folder").flatten().filter(|e| e.path().is_dir()) {
        for file in std::fs::read_dir(agent.path()).expect("a folder").flatten().map(|e| e.path()) {
            let text = std::fs::read_to_string(&file).expect("text");
            let call: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert_eq!(call["agent"].as_str(), agent.file_name().to_str(), "{}", file.display());
            let recording = std::fs::read_to_string(root.join("tests/golden/captures").join(call["recorded"].as_str().expect("a name")))
                .expect("a recording");
            let whole: Vec<Value> = match serde_json::from_str(&recording) {
                Ok(v) => vec![v],
                Err(_) => recording.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect(),
            };
            let mut seen = Vec::new();
            whole.iter().for_each(|v| crate::captures::calls(v, "/CWD", &mut seen));
            let input = call["input"].to_string();
            let found = seen.iter().any(|s| placed(&s.tool) == call["tool"] && placed(&s.input.to_string()) == input);
            assert!(
                found,
                "{} is not in its recording: {seen_tools:?}",
                file.display(),
                seen_tools = seen.iter().map(|s| &s.tool).collect::<Vec<_>>()
            );
            assert!(!text.contains("/root") && !text.contains("/home") && !text.contains("/work"), "{}", file.display());
            *per_agent.entry(call["agent"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    assert_eq!(per_agent.keys().collect::<Vec<_>>(), ["claude", "codex", "gemini", "opencode"]);
    assert!(per_agent.values().all(|n| *n >= 2), "{per_agent:?}");
}

/// A text of a recording with its folders replaced, as the examples have it.
fn placed(text: &str) -> String {
    let mut out = text.replace("/LAB", "/project").replace("/CWD", "/project");
    while let Some(from) = out.find("/RUN/") {
        let to = out[from..].find("/ws").map_or(out.len(), |n| from + n + 3);
        out.replace_range(from..to, "/project");
    }
    out
}

#[test]
fn dev_says_what_a_change_decides_differently() {
    let project = Project::new("watched", "policy");
    // What it depends on is compiled before anything waits for it.
    project.plugin(&["build"]).ok();
    let offline = project.offline().then_some("--offline");
    let mut child = command(BEADLE, &project.path())
        .args(["--json", "plugin", "dev", "--builds", "3"])
        .args(offline)
        .stdout(Stdio::piped())
        .spawn()
        .expect("beadle");
    let lines = crate::support::Lines::of(&mut child);
    let first = lines.next("the first build");
    assert_eq!(
        (first["error"].as_str(), first["failed"].as_u64(), first["changed"].as_array().map(Vec::len)),
        (None, Some(0), Some(0)),
        "{first:#}"
    );
    assert!(first["judged"].as_u64().is_some_and(|n| n >= 20), "{first:#}");
    project.edit("src/lib.rs", "fn describe()", "fn describe(");
    let broken = lines.next("a build that fails");
    assert!(broken["error"].as_str().is_some_and(|e| e.contains("cargo did not build")), "{broken:#}");
    let path = project.path().join("src/lib.rs");
    let text = std::fs::read_to_string(&path).expect("the plugin").replace("fn describe(", "fn describe()");
    std::fs::write(project.dir.path().join("fixed"), text.replace("p == c.program()", "p == c.program() || c.program() == \"ls\""))
        .expect("written");
    std::fs::rename(project.dir.path().join("fixed"), path).expect("in place");
    let last = lines.next("the last build");
    let changed: Vec<&str> = last["changed"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
    assert!(changed.contains(&"claude/bash-ls") && !changed.contains(&"claude/bash-pwd"), "{last:#}");
    assert!(changed.iter().any(|n| n.contains("a recorded call is left")), "{last:#}");
    assert_eq!(child.wait().expect("its end").code(), Some(1), "a case fails now");
}

#[test]
fn a_strangers_plugin_denies_a_call_of_the_real_claude() {
    let Some((mut host, program)) = crate::claude::host("a_strangers_plugin_denies_a_call_of_the_real_claude") else { return };
    let project = Project::new("no-touch", "policy");
    project.plugin(&["test"]).ok();
    host.config(&rules(&["Bash(touch:*)", "Bash(echo:*)", "Edit(./**)"], &[], &[]));
    let (file, config) = (project.file().display().to_string(), r#"{"programs":["touch"]}"#);
    host.beadle(["plugin", "add", &file, "--yes", "--deadline-ms", "10000", "--config", config]).ok();
    let model = Model::start(&json!({ "steps": [
        bash("echo yes > made.txt"),
        bash("sh -c 'touch denied.txt'"),
        { "text": "done" },
    ]}));
    let id = crate::claude::run(&mut host, &program, &model, &[]);
    let s = host.ended(&id);
    assert_eq!(s["breach_count"], 0, "{s:#}");
    let decided = host.events_of(&id, "tool_decided");
    let last = &decided.last().expect("a decision")["body"];
    assert_eq!((last["effect"].as_str(), last["rule"].as_str()), (Some("deny"), Some("touch")), "{last:#}");
    assert!(host.work().join("made.txt").exists() && !host.work().join("denied.txt").exists());
    let told = model.requests().last().map(Value::to_string).unwrap_or_default();
    assert!(told.contains("find a way without touch"), "the agent is told what to do instead");
}

#[test]
fn a_policy_from_new_to_the_end() {
    let project = Project::installed("no-sudo", "policy");
    whole_way(&project, "policy", "permission-policy");
    lives(&project);
}

/// Effect and rule of each call of a session that runs these commands.
fn judged(host: &mut TestHost, commands: &[&str]) -> Vec<(String, String)> {
    let steps: Vec<Value> = commands.iter().map(|c| bash(c)).chain([json!({ "text": "done" })]).collect();
    let model = Model::start(&json!({ "steps": steps }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    host.events_of(&id, "tool_decided").iter().map(|e| (text(&e["body"]["effect"]), text(&e["body"]["rule"]))).collect()
}

/// What becomes of the policy that its author made, on a host of its own, by every verb that acts on an installed plugin: each is seen in
/// what sessions are allowed.
fn lives(project: &Project) {
    let (name, file) = (project.name.as_str(), project.file().display().to_string());
    let mut host = TestHost::new();
    host.runs(&project.beadle);
    host.config(&rules(&["Bash(touch:*)", "Bash(mkdir:*)"], &[], &[]));
    let own = |program: &str| ("deny".to_owned(), program.to_owned());
    let allowed = |rule: &str| ("allow".to_owned(), format!("Bash({rule}:*)"));
    let shown = |host: &TestHost| host.beadle(["--json", "plugin", "ls", name]).ok().json();
    // One run of its program is free, which it counts by what it was granted.
    let config = r#"{"programs":["touch"],"free":1}"#;
    host.beadle(["plugin", "add", &file, "--yes", "--grant", "kv", "--deadline-ms", "10000", "--config", config]).ok();
    let first = shown(&host);
    assert_eq!((&first["version"], &first["enabled"], &first["grants"]), (&json!("0.1.0"), &json!(true), &json!(["kv"])), "{first:#}");
    let daemon = std::fs::read_link(format!("/proc/{}/exe", host.daemon())).expect("a daemon");
    assert_eq!(daemon, project.beadle, "nothing but the copy runs");
    assert_eq!(judged(&mut host, &["touch a", "touch b"]), [allowed("touch"), own("touch")]);
    assert!(host.work().join("a").exists() && !host.work().join("b").exists());

    // A next version, which `dev` builds and `build` finds built.
    let stricter = "        if call.commands.iter().any(|c| c.program() == \"mkdir\") {\n            return Decision::deny(\"no folders\").because(\"mkdir\");\n        }\n";
    let place = "        // The host parsed the command:";
    project.edit("src/lib.rs", place, &format!("{stricter}{place}"));
    project.edit("Cargo.toml", "version = \"0.1.0\"", "version = \"0.2.0\"");
    let round = project.plugin_json(&["dev", "--builds", "1"]).ok().json();
    assert_eq!((round["error"].as_str(), round["failed"].as_u64()), (None, Some(0)), "{round:#}");
    let built = project.plugin_json(&["build"]).ok().json();
    assert_ne!(built["digest"], first["digest"], "{built:#}");
    host.beadle(["plugin", "upgrade", name, &file, "--yes"]).ok();
    let second = shown(&host);
    assert_eq!(
        (&second["version"], &second["digest"], &second["grants"]),
        (&json!("0.2.0"), &built["digest"], &json!(["kv"])),
        "{second:#}"
    );
    assert_eq!(judged(&mut host, &["mkdir x"]), [own("mkdir")]);
    let said = host.beadle(["plugin", "rollback", name]);
    assert!(said.code == 1 && said.err.contains("BDL-REGISTRY-008"), "what was denied would be allowed: {said:?}");
    host.beadle(["plugin", "rollback", name, "--accept-changes"]).ok();
    assert_eq!(shown(&host)["digest"], first["digest"]);
    assert_eq!(judged(&mut host, &["mkdir x"]), [allowed("mkdir")]);

    host.beadle(["plugin", "disable", name]).ok();
    assert_eq!(judged(&mut host, &["touch c", "touch d"]), [allowed("touch"), allowed("touch")]);
    host.beadle(["plugin", "enable", name]).ok();
    assert_eq!(judged(&mut host, &["touch e", "touch f"]), [allowed("touch"), own("touch")]);
    host.beadle(["plugin", "revoke", name, "kv"]).ok();
    assert_eq!(judged(&mut host, &["touch g"]), [own("touch")], "what it cannot count is not free");
    assert!(host.beadle(["plugin", "logs", name]).ok().out.contains("denied: kv: it is not granted"));
    host.beadle(["plugin", "grant", name, "kv"]).ok();
    assert_eq!(judged(&mut host, &["touch g"]), [allowed("touch")]);
    host.beadle(["plugin", "set", name, "--config", r#"{"programs":["mkdir"]}"#]).ok();
    assert_eq!(judged(&mut host, &["touch h", "mkdir y"]), [allowed("touch"), own("mkdir")]);
    host.beadle(["plugin", "rm", name]).ok();
    assert_eq!(judged(&mut host, &["mkdir y"]), [allowed("mkdir")]);
    assert_eq!((host.beadle(["plugin", "ls", name]).code, host.beadle(["-q", "plugin", "ls"]).ok().out.as_str()), (3, ""));
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn a_strategy_from_new_to_the_end() {
    whole_way(&Project::new("mask-old", "compaction"), "compaction", "compaction-strategy");
}

#[test]
fn a_sink_from_new_to_the_end() {
    whole_way(&Project::new("write-down", "sink"), "sink", "audit-sink");
}

#[test]
fn a_project_is_not_made_over_another_or_under_a_bad_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let here = dir.path();
    assert_eq!(
        beadle(here, &["-q", "plugin", "new", "mine", "--path", "here"]).ok().out.trim(),
        here.canonicalize().unwrap().join("here").display().to_string()
    );
    for (args, code, says) in [
        (["mine", "--path", "here"], 2, "BDL-AUTHOR-002"),
        (["Mine", "--path", "there"], 2, "small letters"),
        (["serde", "--path", "there"], 2, "BDL-AUTHOR-001"),
    ] {
        let said = beadle(here, &[&["plugin", "new"], args.as_slice()].concat());
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.err.contains(says), "{said:?}");
    }
    assert!(!here.join("there").exists());
    let said = beadle(here, &["plugin", "build"]);
    assert!(said.code == 2 && said.err.contains("BDL-AUTHOR-003"), "{said:?}");
}

#[test]
fn without_cargo_the_error_says_what_to_install() {
    let project = Project::new("lonely", "policy");
    let said: Said =
        command(BEADLE, &project.path()).args(["plugin", "build"]).env("PATH", project.dir.path()).output().expect("beadle").into();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("BDL-AUTHOR-005") && said.err.contains("rustup.rs"), "{said:?}");
}

/// A toolchain without the target: it is added through rustup, and where that fails the error names the command.
#[test]
fn a_target_that_is_missing_is_added_or_named() {
    use std::os::unix::fs::PermissionsExt;
    let project = Project::new("targetless", "policy");
    // What cargo makes, once.
    project.plugin(&["build"]).ok();
    let real = Path::new(env!("CARGO_TARGET_TMPDIR")).join("authoring/wasm32-unknown-unknown/release/targetless.wasm");
    assert!(real.is_file(), "{}", real.display());
    std::fs::remove_file(project.file()).expect("removed");
    let dir = project.dir.path().canonicalize().expect("a folder");
    let (fake, lib) = (dir.join("fake"), dir.join("lib"));
    std::fs::create_dir_all(&fake).expect("a folder");
    std::fs::create_dir_all(&lib).expect("a folder");
    let program = |name: &str, text: &str| {
        let path = fake.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho \"{name} $*\" >> {}/said\n{text}\n", dir.display())).expect("a program");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    };
    let manifest = project.path().canonicalize().expect("a folder").join("Cargo.toml");
    let artifact = json!({ "reason": "compiler-artifact", "manifest_path": manifest, "filenames": [real] });
    program("cargo", &format!("[ -e {0}/libstd-x.rlib ] || exit 101\necho '{artifact}'", lib.display()));
    program("rustc", &format!("echo {}", lib.display()));
    program("rustup", "exit 1");
    let build =
        || -> Said { command(BEADLE, &project.path()).args(["plugin", "build"]).env("PATH", &fake).output().expect("beadle").into() };
    let said = build();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("BDL-AUTHOR-006") && said.err.contains("rustup target add wasm32-unknown-unknown"), "{said:?}");
    program("rustup", &format!("touch() {{ : > \"$1\"; }}\ntouch {}/libstd-x.rlib", lib.display()));
    std::fs::remove_file(dir.join("said")).expect("what was called so far");
    build().ok();
    assert!(project.file().is_file());
    let called = std::fs::read_to_string(dir.join("said")).expect("what was called");
    let programs: Vec<&str> = called.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(programs, ["cargo", "rustc", "rustup", "rustc", "cargo"], "{called}");
    assert!(called.contains("rustup target add wasm32-unknown-unknown"), "{called}");
}

#[test]
fn a_mismatch_is_explained_by_name_and_the_sdk_put_back() {
    let project = Project::new("elder", "policy");
    // The types that a component says it has, as the bindings of another contract would say them.
    let mut changed = 0;
    for file in std::fs::read_dir(project.path().join("vendor/beadle-plugin/src/bindings")).expect("the bindings").flatten() {
        let text = std::fs::read_to_string(file.path()).expect("text").replace("\\\n", "");
        let other =
            text.replace("\\x07abstain\\x05allow", "\\x05allow\\x07abstain").replace("at-msw\\x04\\0\\x04call", "at-msy\\x04\\0\\x04call");
        changed += usize::from(other != text);
        std::fs::write(file.path(), other).expect("written");
    }
    assert!(changed >= 5, "{changed}");
    // The target folder is shared, and cargo tells packages apart by name and version.
    project.edit("vendor/beadle-plugin/Cargo.toml", "+kit.", "+elder.");
    let built = project.plugin_json(&["build"]);
    assert_eq!(built.code, 1, "{built:?}");
    assert!(built.json()["sdk"] == "changed", "{built:?}");
    let said = project.plugin(&["check"]);
    assert_eq!(said.code, 1, "{said:?}");
    for part in [
        "beadle:plugin/policy#decide",
        "record call, field at-ms: the contract has u64, the component has u32",
        "enum effect",
        "--update-sdk",
    ] {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
    project.plugin(&["build", "--update-sdk"]).ok();
    project.plugin(&["check"]).ok();

    // Files that are no plugins.
    let file = project.dir.path().join("x.wasm");
    let of = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("written");
        beadle(project.dir.path(), &["plugin", "check", &file.display().to_string()])
    };
    let empty = of(b"\0asm\x0d\0\x01\0");
    assert_eq!(empty.code, 1, "{empty:?}");
    for part in [
        "missing: describe",
        "missing: configure",
        "beadle:plugin/policy or beadle:plugin/compaction or beadle:plugin/audit",
        "export_policy!",
    ] {
        assert!(empty.out.contains(part), "{part}: {empty:?}");
    }
    assert!(of(b"hello").err.contains("BDL-PLUGIN-004"));
    assert_eq!(beadle(project.dir.path(), &["plugin", "check", "none.wasm"]).code, 3);
}
