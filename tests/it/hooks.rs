//! Hooks of agents that the host did not start: the route, the records it makes, what fails and how, against the real client.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::numbers::{get, value};
use crate::support::{Model, Said, TestHost, bash, kill, rules, until};

/// The payload of one hook.
pub fn payload(host: &TestHost, session: &str, event: &str, more: Value) -> Value {
    let mut v = json!({
        "session_id": session, "transcript_path": "/t.jsonl", "cwd": host.work(), "permission_mode": "default", "hook_event_name": event,
    });
    if let (Some(v), Value::Object(more)) = (v.as_object_mut(), more) {
        v.extend(more);
    }
    v
}

/// A question about one shell command.
pub fn asked(host: &TestHost, session: &str, id: &str, command: &str) -> Value {
    payload(host, session, "PreToolUse", json!({ "tool_name": "Bash", "tool_input": { "command": command }, "tool_use_id": id }))
}

fn ran(host: &TestHost, session: &str, id: &str) -> Value {
    let response = json!({ "stdout": "out", "stderr": "", "interrupted": false });
    payload(host, session, "PostToolUse", json!({ "tool_name": "Bash", "tool_input": {}, "tool_use_id": id, "tool_response": response }))
}

fn shim(host: &TestHost) -> PathBuf {
    host.data().join("bin/beadle-shim")
}

fn socket(host: &TestHost) -> PathBuf {
    host.data().join("run/beadle.sock")
}

/// A payload on its way to the client.
pub struct Begun(PathBuf);

impl Begun {
    /// Whether the client has put an answer on its standard output so far: an allow, as an agent takes it.
    pub fn has_answered(&self) -> bool {
        std::fs::metadata(format!("{}.out", self.0.display())).is_ok_and(|m| m.len() > 0)
    }

    /// Waits for it, and for all that its agent was given before.
    pub fn end_of(&self, agent: &mut Agent) -> Said {
        agent.tell("wait");
        self.end()
    }

    pub fn end(&self) -> Said {
        let read = |end: &str| std::fs::read_to_string(format!("{}.{end}", self.0.display())).ok();
        let code = until("the hook has ended", || read("code")?.trim().parse().ok());
        Said { code, out: read("out").unwrap_or_default(), err: read("err").unwrap_or_default() }
    }
}

/// An agent process of its own, which runs the client as its child for each payload that it is given, all at once.
pub struct Agent {
    child: Child,
    dir: tempfile::TempDir,
    calls: usize,
}

impl Agent {
    pub fn start(host: &TestHost) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let script = r#"all=""
while read -r f more; do
  if [ "$f" = wait ]; then
    for one in $all; do wait "${one%%:*}"; echo $? > "${one#*:}.new"; mv "${one#*:}.new" "${one#*:}.code"; done
    all=""
  else
    "$SHIM" hook claude --socket "$SOCK" $more < "$f" > "$f.out" 2> "$f.err" &
    all="$all $!:$f"
  fi
done"#;
        let child = Command::new("sh")
            .args(["-c", script])
            .env("SHIM", shim(host))
            .env("SOCK", socket(host))
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        Self { child, dir, calls: 0 }
    }

    pub fn tell(&mut self, line: &str) {
        self.child.stdin.as_mut().expect("its input").write_all(format!("{line}\n").as_bytes()).expect("told");
    }

    pub fn begin(&mut self, payload: &[u8], options: &str) -> Begun {
        self.calls += 1;
        let f = self.dir.path().join(format!("p{}", self.calls));
        std::fs::write(&f, payload).expect("a payload");
        self.tell(&format!("{} {options}", f.display()));
        Begun(f)
    }

    fn raw(&mut self, payload: &[u8], options: &str) -> Said {
        let begun = self.begin(payload, options);
        self.tell("wait");
        begun.end()
    }

    pub fn hook(&mut self, payload: &Value) -> Said {
        self.raw(payload.to_string().as_bytes(), "--deadline-ms 60000")
    }

    /// SIGKILL, reaped.
    pub fn die(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The decision in the client's output: `deny` where it is the exit code, else what stands in the JSON, or `none`.
pub fn decision(said: &Said) -> String {
    if said.code == 2 {
        assert_eq!(said.out, "", "a denial has no output");
        return "deny".to_owned();
    }
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{}", said.out);
    if said.out.is_empty() {
        return "none".to_owned();
    }
    let v = said.json();
    assert_eq!(v["hookSpecificOutput"]["hookEventName"], "PreToolUse", "{v}");
    v["hookSpecificOutput"]["permissionDecision"].as_str().expect("a decision").to_owned()
}

fn sessions(host: &TestHost) -> Vec<Value> {
    host.beadle(["--json", "ls"]).ok().lines()
}

pub fn only_session(host: &TestHost) -> String {
    let all = sessions(host);
    assert_eq!(all.len(), 1, "{all:#?}");
    all[0]["id"].as_str().expect("an id").to_owned()
}

#[test]
fn a_session_is_put_on_record_and_judged() {
    let host = TestHost::new();
    let mut config = rules(&["Bash(echo yes:*)", "Bash(git push origin main --dry-run)"], &["Bash(touch:*)"], &["Bash(echo no:*)"]);
    config.push_str("[[policy]]\nname = \"hello\"\nplugin = \"hello\"\n");
    host.config(&config);
    host.daemon();
    let mut agent = Agent::start(&host);
    assert_eq!(agent.hook(&payload(&host, "c1", "SessionStart", json!({ "source": "startup", "model": "m-1" }))).code, 0);
    assert_eq!(agent.hook(&payload(&host, "c1", "UserPromptSubmit", json!({ "prompt": "do it" }))).out, "");
    let yes = agent.hook(&asked(&host, "c1", "t1", "echo yes"));
    assert_eq!(decision(&yes), "allow");
    assert_eq!(agent.hook(&ran(&host, "c1", "t1")).out, "");
    let no = agent.hook(&asked(&host, "c1", "t2", "echo no"));
    assert_eq!(decision(&no), "deny");
    assert!(no.err.contains("echo no"), "the reason reaches the model: {}", no.err);
    let changed = agent.hook(&asked(&host, "c1", "t3", "git push origin main"));
    assert_eq!(decision(&changed), "allow");
    assert_eq!(changed.json()["hookSpecificOutput"]["updatedInput"]["command"], "git push origin main --dry-run");
    assert_eq!(decision(&agent.hook(&asked(&host, "c1", "t4", "touch a"))), "ask");
    assert_eq!(agent.hook(&ran(&host, "c1", "t4")).code, 0);
    for nothing in ["MessageDisplay", "PostToolBatch", "SomethingNew"] {
        let said = agent.hook(&payload(&host, "c1", nothing, json!({})));
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "", ""), "{nothing}");
    }
    agent.hook(&payload(&host, "c1", "Stop", json!({ "last_assistant_message": "All done." })));
    let id = only_session(&host);
    let s = host.show(&id);
    assert_eq!(
        (s["mediation"].as_str(), s["agent"].as_str(), s["status"].as_str()),
        (Some("hooks"), Some("claude"), Some("running")),
        "{s:#}"
    );
    assert_eq!((s["pid"].as_u64(), s["last_text"].as_str()), (Some(u64::from(agent.child.id())), Some("All done.")));
    assert_eq!(s["model"], "m-1", "{s:#}");
    assert_eq!(s["breach_count"], 0);
    // `/clear`: the conversation ends, and another one begins in the same process.
    agent.hook(&payload(&host, "c1", "SessionEnd", json!({ "reason": "clear" })));
    agent.hook(&payload(&host, "c2", "SessionStart", json!({ "source": "clear", "model": "m-1" })));
    let s = host.ended(&id);
    assert_eq!((s["outcome"].as_str(), s["end_reason"].as_str()), (Some("exited"), Some("the agent said that it ended: clear")), "{s:#}");
    let after = sessions(&host).into_iter().find(|s| s["id"] != id.as_str()).expect("the new conversation's session");
    assert_eq!((after["agent_session_id"].as_str(), &after["pid"]), (Some("c2"), &json!(agent.child.id())), "{after:#}");
    let noted = host.events_of(after["id"].as_str().expect("an id"), "note");
    assert_eq!(noted[0]["body"]["text"], "the agent goes on: clear", "{noted:#?}");
    let effects: Vec<Value> = host.events_of(&id, "tool_decided").iter().map(|e| e["body"]["effect"].clone()).collect();
    assert_eq!(effects, ["allow", "deny", "allow", "ask"]);
    let ended: Vec<Value> = host.events_of(&id, "tool_ended").iter().map(|e| e["body"]["call"].clone()).collect();
    let calls: Vec<Value> = host.events_of(&id, "tool_requested").iter().map(|e| e["seq"].clone()).collect();
    assert_eq!(ended, [calls[0].clone(), calls[3].clone()], "results are joined with their calls");
    assert!(host.events_of(&id, "tool_requested").iter().all(|e| e["body"]["call"]["channel"] == "hook"));
    let page = get(&host, "/metrics");
    assert_eq!(value(&page, "beadle_hook_seconds_count"), 4.0, "each question's time, and none of what is only recorded");
    assert!(value(&page, "beadle_hook_seconds_sum") > 0.0, "{page}");
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn tokens_are_counted_once_from_the_agents_own_record() {
    let host = TestHost::new();
    host.config(&rules(&["Bash(true)"], &[], &[]));
    host.daemon();
    let dir = host.home().join("claude/projects/somewhere");
    std::fs::create_dir_all(&dir).expect("folders");
    let path = dir.join("c1.jsonl");
    let said = |id: &str, at: i64, output: u64, more: Value| {
        let at = chrono::DateTime::from_timestamp_millis(at).expect("a time").to_rfc3339();
        let usage =
            json!({ "input_tokens": 10, "output_tokens": output, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 1 });
        let mut v = json!({ "type": "assistant", "timestamp": at,
            "message": { "id": id, "model": "claude-opus-4-8", "role": "assistant", "content": [], "usage": usage } });
        v.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        format!("{v}\n")
    };
    let append = |text: &str| {
        let mut f = std::fs::OpenOptions::new().create(true).append(true).open(&path).expect("the record");
        f.write_all(text.as_bytes()).expect("written");
    };
    let now = || chrono::Utc::now().timestamp_millis();
    // Of a conversation that goes on: counted where it was had, if at all.
    append(&said("m0", now() - 60_000, 999, json!({})));
    let with = |event: &str, more: Value| {
        let mut v = payload(&host, "c1", event, more);
        v["transcript_path"] = json!(path);
        v
    };
    let mut agent = Agent::start(&host);
    agent.hook(&with("SessionStart", json!({ "source": "resume" })));
    agent.hook(&with("UserPromptSubmit", json!({ "prompt": "go" })));
    let id = only_session(&host);
    let output = |want: u64| until("the tokens are counted", || (host.show(&id)["usage"]["output"] == want).then_some(()));
    // Two blocks of one message, then a torn line.
    append(&said("m1", now(), 5, json!({})));
    append(&said("m1", now(), 30, json!({})));
    let next = said("m2", now(), 4, json!({ "isSidechain": true, "agentId": "a1" }));
    append(&next[..40]);
    output(30);
    append(&next[40..]);
    output(34);
    // The next daemon reads all of it again and counts none of it again.
    host.kill_daemon();
    host.daemon();
    append(&said("m3", now(), 1, json!({})));
    output(35);
    append(&said("m4", now(), 7, json!({})));
    agent.hook(&with("SessionEnd", json!({ "reason": "other" })));
    let s = host.ended(&id);
    assert_eq!((&s["usage"]["output"], &s["usage"]["input"], &s["usage"]["cache_read"]), (&json!(42), &json!(40), &json!(400)), "{s:#}");
    assert!(s["cost"]["nanousd"].as_u64().is_some_and(|n| n > 0), "{s:#}");
    let responded = host.events_of(&id, "model_responded");
    let ids: Vec<&str> = responded.iter().filter_map(|e| e["body"]["message_id"].as_str()).collect();
    assert!(!ids.contains(&"m0") && ["m1", "m2", "m3", "m4"].iter().all(|m| ids.contains(m)), "{ids:?}");
}

#[test]
fn a_session_that_was_found_has_its_repository_and_the_configured_record_and_bounds() {
    let host = TestHost::new();
    let set = "[session]\nowner = \"ops\"\nmission = \"m1\"\nread_only_repo = true\nexpect_report = true\n";
    host.config(&format!("{}{set}", rules(&["Bash(true)", "Write"], &[], &[])));
    let git = host.work().join(".git");
    std::fs::create_dir(&git).expect("made");
    std::fs::write(git.join("HEAD"), "ref: refs/heads/topic\n").expect("written");
    host.daemon();
    let mut agent = Agent::start(&host);
    agent.hook(&payload(&host, "c1", "SessionStart", json!({ "source": "startup" })));
    assert_eq!(decision(&agent.hook(&asked(&host, "c1", "t1", "true"))), "allow");
    let write = |path: &str| json!({ "tool_name": "Write", "tool_input": { "file_path": path, "content": "x" }, "tool_use_id": path });
    let inside = host.work().join("a.txt").display().to_string();
    assert_eq!(decision(&agent.hook(&payload(&host, "c1", "PreToolUse", write(&inside)))), "deny");
    let id = only_session(&host);
    let s = host.show(&id);
    assert_eq!((s["owner"].as_str(), s["mission"].as_str(), s["repository_writable"].as_bool()), (Some("ops"), Some("m1"), Some(false)));
    assert_eq!((s["repository"]["branch"].as_str(), s["report_expected"].as_bool().unwrap_or(false)), (Some("topic"), false), "{s:#}");
}

#[test]
fn whatever_is_broken_blocks() {
    let host = TestHost::new();
    host.config(&rules(&["Bash(true)"], &[], &[]));
    let pid = host.daemon();
    let mut agent = Agent::start(&host);
    let call = asked(&host, "c1", "t", "true");
    assert_eq!(decision(&agent.hook(&call)), "allow");
    let blocked = |said: Said, why: &str| {
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{why}: {}", said.err);
        assert!(said.err.starts_with("beadle: blocked") && said.err.lines().count() == 1, "{why}: {}", said.err);
    };
    for garbage in [&b""[..], b"{", b"[]", b"null", &[0xff; 100], br#"{"session_id":"x","cwd":"/","hook_event_name":"PreToolUse"}"#] {
        blocked(agent.raw(garbage, ""), &String::from_utf8_lossy(garbage));
    }
    blocked(agent.raw(&vec![b' '; (18 << 20) + 1], ""), "too large an input");
    let text = call.to_string();
    let other =
        Command::new(shim(&host)).args(["hook", "gemini", "--socket"]).arg(socket(&host)).stdin(Stdio::null()).output().expect("ends");
    assert_eq!(other.status.code(), Some(2), "an agent without a codec");
    let stop =
        |signal| rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).expect("a pid"), signal).expect("signalled");
    stop(rustix::process::Signal::STOP);
    blocked(agent.raw(text.as_bytes(), "--deadline-ms 300"), "a daemon that hangs");
    let seen = agent.raw(text.as_bytes(), "--deadline-ms 300 --observe");
    assert_eq!((seen.code, seen.out.as_str()), (1, ""), "an event that waits for no decision is only noted: {}", seen.err);
    stop(rustix::process::Signal::CONT);
    assert_eq!(decision(&agent.hook(&asked(&host, "c1", "u", "true"))), "allow", "it goes on when the daemon does");
    kill(pid);
    blocked(agent.raw(text.as_bytes(), ""), "a daemon that is dead");
}

#[test]
fn a_large_input_and_parallel_hooks_are_whole() {
    let host = TestHost::new();
    host.config(&rules(&["Edit(./**)", "Bash(echo:*)"], &[], &["Bash(echo no:*)"]));
    host.daemon();
    let mut agent = Agent::start(&host);
    let content = "x".repeat(2 << 20);
    let big =
        json!({ "tool_name": "Write", "tool_input": { "file_path": host.work().join("a.txt"), "content": content }, "tool_use_id": "big" });
    assert_eq!(decision(&agent.hook(&payload(&host, "c1", "PreToolUse", big))), "allow");
    let begun: Vec<(usize, Begun)> = (0..16)
        .map(|i| {
            let word = if i % 4 == 0 { "no" } else { "yes" };
            let p = asked(&host, "c1", &format!("t{i}"), &format!("echo {word}"));
            (i, agent.begin(p.to_string().as_bytes(), "--deadline-ms 60000"))
        })
        .collect();
    agent.tell("wait");
    for (i, c) in begun {
        assert_eq!(decision(&c.end()), if i % 4 == 0 { "deny" } else { "allow" }, "{i}");
    }
    let id = only_session(&host);
    assert_eq!(host.events_of(&id, "tool_decided").len(), 17);
    assert_eq!(host.events_of(&id, "tool_requested")[0]["body"]["call"]["input"]["content"].as_str().map(str::len), Some(2 << 20));
}

#[test]
fn first_hooks_at_the_same_moment_are_one_session_and_the_same_call_twice_is_one() {
    let host = TestHost::new();
    host.config(&rules(&["Bash(echo:*)"], &[], &["Bash(rm:*)"]));
    host.daemon();
    let mut agent = Agent::start(&host);
    let p = asked(&host, "c1", "t1", "rm x").to_string();
    let begun: Vec<Begun> = (0..8).map(|_| agent.begin(p.as_bytes(), "--deadline-ms 60000")).collect();
    agent.tell("wait");
    for c in begun {
        assert_eq!(decision(&c.end()), "deny");
    }
    let id = only_session(&host);
    assert_eq!(host.events_of(&id, "tool_requested").len(), 1, "hooks in two settings files are one call");
    for words in ["echo x", "echo y"] {
        assert_eq!(decision(&agent.hook(&asked(&host, "c1", "t2", words))), "allow", "other words under the same id are judged anew");
    }
    assert_eq!(host.events_of(&id, "tool_requested").len(), 3);
    agent.hook(&ran(&host, "c1", "t2"));
    assert_eq!(decision(&agent.hook(&asked(&host, "c1", "t2", "echo x"))), "allow");
    assert_eq!(host.events_of(&id, "tool_requested").len(), 4, "after its result, the same words are a new call");
}

#[test]
fn a_conversation_belongs_to_one_process() {
    let host = TestHost::new();
    host.config(&rules(&["Bash(true)"], &[], &[]));
    host.daemon();
    let mut agent = Agent::start(&host);
    assert_eq!(decision(&agent.hook(&asked(&host, "c1", "t1", "true"))), "allow");
    let first = only_session(&host);
    let mut other = Agent::start(&host);
    let stranger = other.hook(&asked(&host, "c1", "t2", "true"));
    assert_eq!((stranger.code, stranger.out.as_str()), (2, ""), "{}", stranger.err);
    let ending = payload(&host, "c1", "SessionEnd", json!({ "reason": "other" }));
    assert_eq!(other.raw(ending.to_string().as_bytes(), "--observe").code, 1, "nor can it end the session");
    assert_eq!(host.show(&first)["status"], "running");
    agent.die();
    assert_eq!(host.ended(&first)["outcome"], "lost", "the end of the process is the end of the session");
    let mut next = Agent::start(&host);
    assert_eq!(decision(&next.hook(&asked(&host, "c1", "t3", "true"))), "allow");
    let all = sessions(&host);
    let second = all.iter().find(|s| s["id"] != first.as_str()).expect("a second record");
    assert_eq!(second["labels"]["resumes"], first.as_str(), "{all:#?}");
}

#[test]
fn what_the_agent_started_has_its_role_and_not_its_voice() {
    let host = TestHost::new();
    host.config("default = \"allow\"\n");
    host.daemon();
    let mut agent = Agent::start(&host);
    agent.hook(&asked(&host, "c1", "t1", "true"));
    let id = only_session(&host);
    // A shell below the agent: what an allowed Bash call could do.
    let beadle = env!("CARGO_BIN_EXE_beadle");
    let forged = agent.dir.path().join("forged");
    std::fs::write(&forged, payload(&host, "c1", "SessionEnd", json!({ "reason": "other" })).to_string()).expect("written");
    let script = host.program(
        "below",
        &format!(
            "#!/bin/sh\nexport BEADLE_HOME={}\n{beadle} ls > {out}/ls 2>&1; echo $? > {out}/ls.code\n{} hook claude --socket {} < {} > {out}/hook 2>&1; echo $? > {out}/hook.code\n",
            host.beadle_home().display(),
            shim(&host).display(),
            socket(&host).display(),
            forged.display(),
            out = agent.dir.path().display(),
        ),
    );
    let mut runner = Command::new("sh");
    runner.args(["-c", "read -r f; \"$SHIM\" hook claude --socket \"$SOCK\" < $f > /dev/null; sh \"$BELOW\"; read -r rest"]);
    runner.env("SHIM", shim(&host)).env("SOCK", socket(&host)).env("BELOW", &script).stdin(Stdio::piped());
    let mut runner = runner.spawn().expect("a shell");
    let first = agent.dir.path().join("first");
    std::fs::write(&first, asked(&host, "c2", "t1", "true").to_string()).expect("written");
    runner.stdin.as_mut().expect("its input").write_all(format!("{}\n", first.display()).as_bytes()).expect("told");
    let read = |name: &str| std::fs::read_to_string(agent.dir.path().join(name)).ok().filter(|t| t.ends_with('\n'));
    let code = until("the attempts have been made", || read("hook.code"));
    assert_eq!(code.trim(), "2", "{:?}", read("hook"));
    assert_eq!(read("ls.code").as_deref(), Some("1\n"), "{:?}", read("ls"));
    assert!(read("ls").unwrap_or_default().contains("BDL-API-001"), "{:?}", read("ls"));
    assert_eq!(host.show(&id)["status"], "running", "the other conversation goes on");
    let _ = runner.kill();
    let _ = runner.wait();
}

#[test]
fn a_restarted_daemon_takes_sessions_up_again() {
    let host = TestHost::new();
    host.config(&rules(&["Bash(true)"], &[], &["Bash(rm:*)"]));
    host.daemon();
    let mut agent = Agent::start(&host);
    agent.hook(&asked(&host, "c1", "t1", "true"));
    agent.hook(&asked(&host, "c1", "t2", "rm x"));
    let mut dies = Agent::start(&host);
    dies.hook(&asked(&host, "c2", "t1", "true"));
    let id = sessions(&host).iter().find(|s| s["agent_session_id"] == "c1").expect("the first")["id"].as_str().expect("an id").to_owned();
    let lost =
        sessions(&host).iter().find(|s| s["agent_session_id"] == "c2").expect("the second")["id"].as_str().expect("an id").to_owned();
    host.kill_daemon();
    dies.die();
    host.daemon();
    assert_eq!(host.ended(&lost)["outcome"], "lost");
    assert_eq!(host.show(&id)["status"], "running");
    assert_eq!(decision(&agent.hook(&asked(&host, "c1", "t2", "rm x"))), "deny");
    assert_eq!(host.events_of(&id, "tool_requested").len(), 2, "what was judged is not judged again");
    agent.hook(&ran(&host, "c1", "t1"));
    assert_eq!(host.events_of(&id, "tool_ended")[0]["body"]["call"], host.events_of(&id, "tool_requested")[0]["seq"]);
    assert_eq!(sessions(&host).len(), 2);
    agent.die();
    host.ended(&id);
}

#[test]
fn an_ask_waits_for_an_answer_here_and_outlives_the_daemon() {
    let host = TestHost::new();
    host.config(&format!("[hooks]\nask = \"wait\"\n{}", rules(&[], &["Bash(touch:*)"], &[])));
    host.daemon();
    let mut agent = Agent::start(&host);
    let waits = "--deadline-ms 20000 --wait-ms 120000";
    let ask = |agent: &mut Agent, id: &str| {
        let begun = agent.begin(asked(&host, "c1", id, "touch a").to_string().as_bytes(), waits);
        agent.tell("wait");
        begun
    };
    let waiting = |n: u64| {
        until("the call waits", || {
            let s = sessions(&host);
            let s = s.first()?;
            (s["waiting_count"] == n).then(|| s["id"].as_str().map(str::to_owned))?
        })
    };
    let first = ask(&mut agent, "t1");
    let id = waiting(1);
    let call = host.events_of(&id, "tool_requested")[0]["seq"].as_u64().expect("a number");
    host.kill_daemon();
    host.daemon();
    host.beadle(["approve", &format!("{id}:{call}"), "--reason", "fine"]).ok();
    assert_eq!(decision(&first.end()), "allow");
    let d = &host.events_of(&id, "tool_decided")[0]["body"];
    assert_eq!((d["by"].as_str(), d["effect"].as_str()), (Some("approval"), Some("allow")));
    assert_eq!(host.events_of(&id, "tool_requested").len(), 1, "the client that asked again after the restart was joined");
    let second = ask(&mut agent, "t2");
    waiting(1);
    let call = host.events_of(&id, "tool_requested")[1]["seq"].as_u64().expect("a number");
    host.beadle(["deny", &format!("{id}:{call}"), "--reason", "not today"]).ok();
    let said = second.end();
    assert_eq!(decision(&said), "deny");
    assert!(said.err.contains("not today"), "{}", said.err);
    // A client that cannot wait is denied at once.
    let said = agent.hook(&asked(&host, "c1", "t3", "touch b"));
    assert_eq!(decision(&said), "deny");
    assert_eq!(value(&get(&host, "/metrics"), "beadle_hook_seconds_count"), 1.0, "a person's time is not the host's");
}

#[test]
fn an_ask_is_denied_where_nobody_would_be_asked() {
    for (ask, mode, decided) in [("agent", "default", "ask"), ("agent", "bypassPermissions", "deny"), ("deny", "default", "deny")] {
        let host = TestHost::new();
        host.config(&format!("[hooks]\nask = \"{ask}\"\n{}", rules(&[], &["Bash(touch:*)"], &[])));
        host.daemon();
        let mut agent = Agent::start(&host);
        let mut p = asked(&host, "c1", "t1", "touch a");
        p["permission_mode"] = json!(mode);
        assert_eq!(decision(&agent.hook(&p)), decided, "{ask} {mode}");
    }
}

#[test]
fn a_denied_call_that_ran_is_a_breach_and_nothing_more_runs() {
    let host = TestHost::new();
    host.expects_breaches();
    host.config(&rules(&["Bash(true)"], &[], &["Bash(rm:*)"]));
    host.daemon();
    let mut agent = Agent::start(&host);
    assert_eq!(decision(&agent.hook(&asked(&host, "c1", "t1", "rm x"))), "deny");
    agent.hook(&ran(&host, "c1", "t1"));
    let id = only_session(&host);
    let b = host.events_of(&id, "mediation_breached");
    assert_eq!((b.len(), b[0]["body"]["action"].as_str()), (1, Some("deny")), "{b:#?}");
    assert_eq!(decision(&agent.hook(&asked(&host, "c1", "t2", "true"))), "deny", "nothing more runs in it");
    host.kill_daemon();
    host.daemon();
    let told = decision(&agent.hook(&asked(&host, "c1", "t3", "true")));
    assert_eq!(told, "deny", "nor after a restart: {}", host.beadle(["ls"]).out);
}

/// An agent inside a session of the host's own speaks for that session, and its calls are told apart from the session's.
#[test]
fn a_hook_inside_a_started_session_is_that_sessions() {
    let host = TestHost::new();
    host.config(&rules(&["Bash(true)"], &[], &["Bash(rm:*)"]));
    host.daemon();
    let script = |p: &Value, n: &str| {
        let file = host.home().join(n);
        std::fs::write(&file, p.to_string()).expect("written");
        format!(
            "{} hook claude --socket {} < {} > {n}.out 2>&1; echo $? > {n}.code",
            shim(&host).display(),
            socket(&host).display(),
            file.display()
        )
    };
    let allow = script(&asked(&host, "inner", "t1", "true"), "allow");
    let deny = script(&asked(&host, "inner", "t2", "rm x"), "deny");
    let end = script(&payload(&host, "inner", "SessionEnd", json!({ "reason": "other" })), "end");
    let id = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", &format!("{allow}; {deny}; {end}")]).ok().json();
    let id = id["id"].as_str().expect("an id").to_owned();
    host.ended(&id);
    let code = |n: &str| std::fs::read_to_string(host.work().join(format!("{n}.code"))).unwrap_or_default();
    assert_eq!(
        (code("allow").trim().to_owned(), code("deny").trim().to_owned(), code("end").trim().to_owned()),
        ("0".into(), "2".into(), "0".into())
    );
    let ids: Vec<Value> = host.events_of(&id, "tool_requested").iter().map(|e| e["body"]["call"]["call_id"].clone()).collect();
    assert_eq!(ids, ["inner/t1", "inner/t2"]);
    assert_eq!(sessions(&host).len(), 1, "no second session");
    assert_eq!(host.show(&id)["mediation"], "none", "it promises no more than before");
}

pub fn settings_of(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("settings")).expect("json")
}

/// Wherever the daemon dies on the way of a call, the client that may wait gets one answer from the next one, and the log has it once.
#[test]
fn a_daemon_that_dies_at_any_point_of_a_call_decides_it_once() {
    for point in ["requested", "decided", "appended", "synced"] {
        let host = TestHost::new();
        host.config(&rules(&["Bash(echo yes:*)"], &[], &["Bash(echo no:*)"]));
        host.daemon();
        let mut agent = Agent::start(&host);
        agent.hook(&payload(&host, "c1", "SessionStart", json!({ "source": "startup" })));
        for (i, (word, effect)) in [("yes", "allow"), ("no", "deny")].into_iter().enumerate() {
            host.beadle(["host", "stop"]).ok();
            let mut daemon = host.daemon_with("BEADLE_FAILPOINT", point);
            let p = asked(&host, "c1", &format!("t{i}"), &format!("echo {word}"));
            let begun = agent.begin(p.to_string().as_bytes(), "--deadline-ms 60000 --wait-ms 60000");
            agent.tell("wait");
            until("the daemon has died", || daemon.try_wait().ok().flatten());
            host.daemon();
            assert_eq!(decision(&begun.end()), effect, "{point}");
        }
        let id = only_session(&host);
        assert_eq!(host.events_of(&id, "tool_requested").len(), 2, "{point}");
        assert_eq!(host.events_of(&id, "tool_decided").len(), 2, "{point}");
        assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true, "{point}");
    }
}

/// The first thing that a started command does is no earlier than its role.
#[test]
fn a_command_is_never_the_operator_not_even_at_its_first_moment() {
    let host = TestHost::new();
    host.daemon();
    let beadle = env!("CARGO_BIN_EXE_beadle");
    for i in 0..10 {
        let script = format!("BEADLE_HOME={} {beadle} ls > {i}.txt 2>&1; echo $? > {i}.code", host.beadle_home().display());
        let id = host.beadle(["--json", "run", "--detach", "--", "sh", "-c", &script]).ok().json();
        host.ended(id["id"].as_str().expect("an id"));
        let read = |n: String| std::fs::read_to_string(host.work().join(n)).unwrap_or_default();
        assert_eq!(read(format!("{i}.code")).trim(), "1", "{}", read(format!("{i}.txt")));
        assert!(read(format!("{i}.txt")).contains("BDL-API-001"));
    }
}

/// What stands in a settings file after `install` and `uninstall`, and what `status` says meanwhile.
#[test]
fn install_is_idempotent_and_uninstall_is_exact() {
    let mut host = TestHost::new();
    let dir = host.home().join("cfg");
    host.set("CLAUDE_CONFIG_DIR", dir.display().to_string());
    let path = dir.join("settings.json");
    std::fs::create_dir_all(&dir).expect("a folder");
    let theirs = "{\n\t\"zeta\": 1,\n\t\"hooks\": {\n\t\t\"Stop\": [ {\"hooks\": [ {\"type\":\"command\",\"command\":\"theirs\"} ] } ]\n\t},\n\t\"alpha\": [1,   2]\n}\n";
    std::fs::write(&path, theirs).expect("written");
    let printed = host.beadle(["hook", "install", "claude", "--print"]).ok().out;
    assert_eq!(std::fs::read_to_string(&path).expect("settings"), theirs, "--print writes nothing");
    let said = host.beadle(["--json", "hook", "install", "claude"]).ok().json();
    assert_eq!((said["changed"].as_bool(), said["path"].as_str()), (Some(true), path.to_str()));
    let with = std::fs::read_to_string(&path).expect("settings");
    assert_eq!(with, printed);
    assert!(with.contains("theirs") && with.contains("\"alpha\": [1,   2]"), "{with}");
    let handler = &settings_of(&path)["hooks"]["PreToolUse"][0]["hooks"][0];
    assert_eq!(handler["command"].as_str(), shim(&host).to_str());
    assert!(handler["args"].is_array(), "exec form: no shell in between");
    assert_eq!(host.beadle(["--json", "hook", "install", "claude"]).ok().json()["changed"], false);
    assert_eq!(std::fs::read_to_string(&path).expect("settings"), with);
    let status = host.beadle(["--json", "hook", "status"]).ok().json();
    assert_eq!((status["in_force"].as_bool(), status["client"]["ok"].as_bool()), (Some(true), Some(true)), "{status:#}");
    assert!(status["daemon"]["probe_us"].as_u64().is_some_and(|n| n > 0));
    for args in [&["hook", "status"][..], &["-q", "hook", "status"]] {
        let said = host.beadle(args).ok();
        assert!(said.out.contains("in force") && !said.out.contains('\u{1b}'), "{}", said.out);
    }
    host.beadle(["hook", "uninstall", "claude"]).ok();
    assert_eq!(std::fs::read_to_string(&path).expect("settings"), theirs);
    assert_eq!(std::fs::read_dir(&dir).expect("the folder").count(), 1, "no file is left behind");
    assert_eq!(host.beadle(["--json", "hook", "uninstall", "claude"]).ok().json()["changed"], false);
    let said = host.beadle(["--json", "hook", "status"]);
    assert_eq!((said.code, said.json()["in_force"].as_bool()), (1, Some(false)));
    // Where there was no file, none is left.
    let project = host.work().join("p");
    std::fs::create_dir_all(&project).expect("a folder");
    let p = project.display().to_string();
    host.beadle(["hook", "install", "claude", "--project", &p]).ok();
    assert!(project.join(".claude/settings.local.json").exists());
    host.beadle(["hook", "uninstall", "claude", "--project", &p]).ok();
    assert!(!project.join(".claude/settings.local.json").exists());
}

#[test]
fn what_is_no_settings_file_is_refused_and_left_alone() {
    let mut host = TestHost::new();
    let dir = host.home().join("cfg");
    host.set("CLAUDE_CONFIG_DIR", dir.display().to_string());
    let path = dir.join("settings.json");
    std::fs::create_dir_all(&dir).expect("a folder");
    for garbage in ["[]", "{ // comment\n}", "{\"a\":1,}", "{\"hooks\": 7}"] {
        std::fs::write(&path, garbage).expect("written");
        for verb in ["install", "uninstall"] {
            let said = host.beadle(["hook", verb, "claude"]);
            assert_eq!(said.code, 1, "{garbage}");
            assert!(said.err.contains("BDL-HOOK-003") && said.err.contains("settings.json"), "{}", said.err);
        }
        assert_eq!(std::fs::read_to_string(&path).expect("settings"), garbage);
    }
    let real = host.home().join("real.json");
    std::fs::write(&real, "{}").expect("written");
    std::fs::remove_file(&path).expect("removed");
    std::os::unix::fs::symlink(&real, &path).expect("a link");
    let said = host.beadle(["hook", "install", "claude"]);
    assert!(said.code == 1 && said.err.contains("real.json"), "{}", said.err);
    assert_eq!(std::fs::read_to_string(&real).expect("settings"), "{}");
}

#[test]
fn an_installed_hook_keeps_the_daemon() {
    let mut host = TestHost::new();
    host.set("CLAUDE_CONFIG_DIR", host.home().display().to_string());
    host.config("[host]\nlinger_ms = 2000\n");
    let gone = |what| until(what, || (host.beadle(["host", "status"]).code == 4).then_some(()));
    host.beadle(["ls"]).ok();
    gone("a daemon without hooks has gone");
    host.beadle(["hook", "install", "claude"]).ok();
    until("the time is over after which it would have gone", || {
        host.beadle(["host", "logs"]).out.contains("hooks are installed, so it stays").then_some(())
    });
    host.beadle(["host", "status"]).ok();
    assert_eq!(host.beadle(["--json", "hook", "uninstall", "claude"]).ok().json()["changed"], true);
    gone("it goes when the hooks have gone");
}

/// The real agent in its plain mode, started by nobody of ours, with the hooks that `beadle hook install` wrote.
pub mod real {
    use super::*;

    pub struct Real {
        pub host: TestHost,
        pub program: PathBuf,
        pub model: Model,
    }

    impl Real {
        /// `None` (said by name) where the agent is not installed.
        pub fn new(test: &str, config: &str, steps: Value) -> Option<Self> {
            let (mut host, program) = crate::claude::host(test)?;
            host.config(config);
            let model = Model::start(&json!({ "steps": steps }));
            host.set("ANTHROPIC_BASE_URL", model.url());
            host.beadle(["hook", "install", "claude"]).ok();
            Some(Self { host, program, model })
        }

        /// One run of the agent, Bash and file tools pre-allowed by its own settings: without hooks, everything runs.
        pub fn run(&self, more: &[&str]) -> Value {
            let said = self.said(more);
            serde_json::from_str(said.out.trim()).unwrap_or_else(|e| panic!("{e}: {}\n{}", said.out, said.err))
        }

        /// The same, whatever it prints.
        pub fn said(&self, more: &[&str]) -> Said {
            let home = self.host.home();
            let out = Command::new(&self.program)
                .args(["-p", "go", "--output-format", "json", "--allowedTools", "Bash,Read,Write,Edit"])
                .args(more)
                .current_dir(self.host.work())
                .env_clear()
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("HOME", &home)
                .env("CLAUDE_CONFIG_DIR", home.join("claude"))
                .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
                .env("ANTHROPIC_API_KEY", "test")
                .env("ANTHROPIC_BASE_URL", self.model.url())
                .env("IS_SANDBOX", "1")
                .stdin(Stdio::null())
                .output()
                .expect("the agent starts");
            Said::from(out)
        }

        fn settings(&self) -> PathBuf {
            self.host.home().join("claude/settings.json")
        }

        pub fn told_the_model(&self, text: &str) -> bool {
            self.model.requests().iter().any(|r| r.to_string().contains(text))
        }

        pub fn there(&self, name: &str) -> bool {
            self.host.work().join(name).exists()
        }
    }

    #[test]
    fn allow_deny_rewrite_and_ask() {
        let mut config =
            rules(&["Bash(touch yes)", "Bash(git push origin main --dry-run)", "Read(./**)"], &["Bash(touch asked)"], &["Bash(touch no)"]);
        config.push_str("[[policy]]\nname = \"hello\"\nplugin = \"hello\"\n");
        let steps = json!([bash("touch yes"), bash("touch no"), bash("git push origin main"), bash("touch asked"), { "text": "done" }]);
        let Some(r) = Real::new("real::allow_deny_rewrite_and_ask", &config, steps) else { return };
        let result = r.run(&[]);
        assert!(r.there("yes") && !r.there("no") && !r.there("asked"));
        assert!(r.told_the_model("is denied by Bash(touch no)") || r.told_the_model("touch no"), "the model has the reason");
        let id = only_session(&r.host);
        let s = r.host.ended(&id);
        assert_eq!(
            (s["mediation"].as_str(), s["outcome"].as_str(), s["breach_count"].as_u64()),
            (Some("hooks"), Some("exited"), Some(0)),
            "{s:#}"
        );
        let total = |kind: &str| {
            let of_models = result["modelUsage"].as_object().expect("the agent's own sums").values();
            of_models.map(|m| m[kind].as_u64().unwrap_or_default()).sum::<u64>()
        };
        let counted = |kind: &str| s["usage"][kind].as_u64().unwrap_or_default();
        assert!(counted("output") > 0, "{s:#}");
        assert_eq!((counted("input"), counted("output")), (total("inputTokens"), total("outputTokens")), "{result:#}");
        let d = r.host.events_of(&id, "tool_decided");
        let effects: Vec<&Value> = d.iter().map(|e| &e["body"]["effect"]).collect();
        assert_eq!(effects, ["allow", "deny", "allow", "ask"]);
        assert_eq!(d[2]["body"]["updated_input"]["command"], "git push origin main --dry-run");
        assert!(r.told_the_model("dry-run") || r.host.events_of(&id, "tool_ended").len() >= 2);
        let prompts = r.host.events_of(&id, "prompt_submitted");
        assert_eq!((prompts.len(), prompts[0]["body"]["prompt"]["text"].as_str()), (1, Some("go")));
        assert_eq!(r.host.events_of(&id, "turn_ended").len(), 1);
        let status = r.host.beadle(["--json", "hook", "status"]).ok().json();
        assert_eq!((status["in_force"].as_bool(), status["problems"].as_array().map(Vec::len)), (Some(true), Some(0)), "{status:#}");
    }

    #[test]
    fn nothing_runs_without_a_sound_daemon() {
        let steps = json!([bash("touch a"), { "text": "done" }]);
        let Some(r) = Real::new("real::nothing_runs_without_a_sound_daemon", "default = \"allow\"\n", steps.clone()) else { return };
        let pid = r.host.daemon();
        let signal = |s| rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).expect("a pid"), s).expect("signalled");
        signal(rustix::process::Signal::STOP);
        r.run(&[]);
        signal(rustix::process::Signal::CONT);
        assert!(!r.there("a"), "it ran past a daemon that hangs");
        assert!(r.told_the_model("beadle: blocked"), "the model is told why");
        // A client that has been broken: no daemon is asked, and the agent must be told no.
        std::fs::write(r.settings(), std::fs::read_to_string(r.settings()).expect("settings").replace("beadle.sock", "nowhere.sock"))
            .expect("written");
        let model = Model::start(&json!({ "steps": steps }));
        let r = Real { model, ..r };
        r.run(&[]);
        assert!(!r.there("a"), "it ran without a daemon");
    }

    #[test]
    fn the_first_hook_starts_the_daemon() {
        let steps = json!([bash("touch a"), bash("touch b"), { "text": "done" }]);
        let config = rules(&["Bash(touch a)"], &[], &["Bash(touch b)"]);
        let Some(r) = Real::new("real::the_first_hook_starts_the_daemon", &config, steps) else { return };
        r.host.kill_daemon();
        r.run(&[]);
        assert!(r.there("a") && !r.there("b"), "{:#?}", sessions(&r.host));
    }

    #[test]
    fn an_agent_in_bypass_mode_is_denied_all_the_same() {
        let steps = json!([bash("touch no"), bash("touch asked"), { "text": "done" }]);
        let config = rules(&[], &["Bash(touch asked)"], &["Bash(touch no)"]);
        let Some(r) = Real::new("real::an_agent_in_bypass_mode_is_denied_all_the_same", &config, steps) else { return };
        r.run(&["--dangerously-skip-permissions"]);
        assert!(!r.there("no") && !r.there("asked"));
    }

    /// What hooks do not hold, said where it is asked: a repository that switches them off.
    #[test]
    fn a_repository_can_switch_hooks_off_and_status_says_so() {
        let steps = json!([bash("touch no"), { "text": "done" }]);
        let config = rules(&[], &[], &["Bash(touch no)"]);
        let Some(r) = Real::new("real::a_repository_can_switch_hooks_off_and_status_says_so", &config, steps) else { return };
        r.host.file(".claude/settings.json", "{\"disableAllHooks\": true}");
        r.run(&[]);
        assert!(r.there("no"), "hooks hold against `disableAllHooks` now: say so in the README");
        let said = r.host.beadle(["--json", "hook", "status"]);
        assert_eq!(said.code, 1);
        let status = said.json();
        assert_eq!(status["in_force"], false);
        assert!(status["problems"].to_string().contains("disableAllHooks"), "{status:#}");
    }

    #[test]
    fn the_agent_cannot_take_its_own_hooks_out() {
        let config = "default = \"allow\"\n";
        let Some(probe) = Real::new("real::the_agent_cannot_take_its_own_hooks_out", config, json!([{ "text": "x" }])) else { return };
        let path = probe.settings().display().to_string();
        let steps = json!([
            { "tool": "Write", "input": { "file_path": path, "content": "{}" } },
            bash(&format!("echo '{{}}' > {path}")),
            bash("touch a"),
            { "text": "done" },
        ]);
        let r = Real { model: Model::start(&json!({ "steps": steps })), ..probe };
        let before = std::fs::read_to_string(r.settings()).expect("settings");
        r.run(&[]);
        assert_eq!(std::fs::read_to_string(r.settings()).expect("settings"), before);
        assert!(r.there("a"), "other calls run");
    }
}
