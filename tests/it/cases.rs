//! Cases of `beadle plugin test` that use what a policy may use beyond its memory: the same grants and denials as in a session, a world of
//! the case's own behind them; and plans that are held to the host's laws.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::Said;

/// Wants everything, and does as the command of a call says.
const WANTING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/capable_wanting.wasm"));
/// A strategy that gives calls of tools another text, which no host takes, and results too.
const STRATEGY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/moments_strategy.wasm"));

struct Bench(TempDir);

impl Bench {
    fn new(wasm: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("probe.wasm"), wasm).expect("written");
        Self(dir)
    }

    fn judge(&self, cases: &Value) -> Said {
        std::fs::write(self.0.path().join("cases.json"), cases.to_string()).expect("written");
        let mut c = Command::new(env!("CARGO_BIN_EXE_beadle"));
        c.current_dir(self.0.path()).stdin(Stdio::null()).env("NO_COLOR", "1").env("BEADLE_HOME", self.0.path().join("none"));
        // What a case must not see.
        c.env("OUTSIDE", "this machine's").env("TMPDIR", self.0.path());
        c.args(["--json", "plugin", "test", "probe.wasm", "--cases", "cases.json"]).output().expect("beadle").into()
    }

    /// All pass.
    fn pass(&self, cases: &Value) -> Value {
        let said = self.judge(cases);
        assert_eq!(said.code, 0, "{said:?}");
        // Its folders went with the cases.
        let left: Vec<String> =
            std::fs::read_dir(self.0.path()).expect("a folder").flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        assert!(left.iter().all(|n| !n.starts_with("beadle-case")), "{left:?}");
        said.json()
    }

    /// The one case fails; what it says.
    fn fail(&self, case: &Value) -> String {
        let said = self.judge(&json!({ "case": [case] }));
        assert_eq!(said.code, 1, "{said:?}");
        said.json()["cases"][0]["mismatches"].to_string()
    }
}

fn probe(steps: &Value) -> String {
    format!("probe '{steps}'")
}

/// What the policy answers to [`probe`], of which a case expects a part.
fn told(texts: &[&str]) -> String {
    json!(texts).to_string()
}

#[test]
fn state_is_carried_through_the_steps_of_a_case_and_no_further() {
    let bench = Bench::new(WANTING);
    let count =
        |n: &str| json!({ "command": probe(&json!([["count"]])), "expect": { "reason": told(&[&format!("ok {n}")]), "kv": { "n": n } } });
    let doc = bench.pass(&json!({ "grants": ["kv"], "case": [
        { "name": "counts", "steps": [count("1"), count("2"), count("3")], "expect": { "kv": { "n": "3", "m": false } } },
        { "name": "begins anew", "steps": [count("1")] },
        { "name": "goes on from what is seeded", "kv": { "n": "41" }, "steps": [count("42")] },
        { "name": "loses what a failed call wrote", "kv": { "n": "7" }, "steps": [
            { "command": probe(&json!([["set", "n", "9"], ["trap"]])), "expect": { "fails": "trap", "kv": { "n": "7" } } },
            count("8"),
        ] },
        { "name": "bytes", "kv": { "b": { "hex": "6162" } }, "command": probe(&json!([["get", "b"], ["keys", ""]])),
          "expect": { "reason": told(&["ok ab", "ok b"]) } },
    ] }));
    assert_eq!(doc["cases"][0]["answer"].as_array().map(Vec::len), Some(3), "{doc:#}");
    let wrong = bench.fail(&json!({ "name": "wrong", "grants": ["kv"], "steps": [count("1"), count("1")] }));
    assert!(wrong.contains("step 2: reason:") && wrong.contains("step 2: kv"), "{wrong}");
}

/// Each capability without its grant, as the twin of what follows.
#[test]
fn without_the_grant_a_case_sees_the_denial_of_a_session() {
    let bench = Bench::new(WANTING);
    for (word, step) in [
        ("kv", json!(["get", "a"])),
        ("clock", json!(["now"])),
        ("random", json!(["random", "4"])),
        ("env:OUTSIDE", json!(["env", "OUTSIDE"])),
        ("secret:token", json!(["secret", "token"])),
        ("fs:read:/lists", json!(["read", "/lists/a"])),
        ("http:GET:a.example.com", json!(["http", "GET", "https://a.example.com/"])),
    ] {
        let case = |grants: &[&str]| {
            json!({ "name": word, "grants": grants, "kv": { "a": "1" }, "secrets": { "token": "t" }, "files": { "/lists/a": "x" },
                "http": [{ "request": "GET https://a.example.com/" }], "command": probe(&json!([step])),
                "expect": { "reason": format!("denied {word}"), "log": format!("denied: {word}: it is not granted"), "requests": [] } })
        };
        bench.pass(&json!({ "case": [case(&[])] }));
        let granted = bench.fail(&case(&[word]));
        assert!(granted.contains("is not in [\\\"ok "), "{word}: {granted}");
    }
}

#[test]
fn behind_the_capabilities_is_the_case_and_nothing_of_this_machine() {
    let bench = Bench::new(WANTING);
    bench.pass(&json!({
        "grants": ["clock", "random", "env:OUTSIDE", "env:MODE", "secret:token", "secret:none", "fs:read:/etc", "fs:write:/out"],
        "env": { "MODE": "strict" },
        "secrets": { "token": "s3cret-value-77" },
        "files": { "/etc/lists/hosts": "a b" },
        "case": [
            { "name": "clock", "command": probe(&json!([["now"], ["mono"]])),
              "expect": { "reason": told(&["ok 1700000000000", "ok 1700000000000000000"]) } },
            { "name": "the clock goes as the steps say", "at_ms": 1000, "steps": [
                { "command": probe(&json!([["now"]])), "expect": { "reason": told(&["ok 1000"]) } },
                { "at_ms": 61000, "command": probe(&json!([["now"]])), "expect": { "reason": told(&["ok 61000"]) } },
                { "command": probe(&json!([["now"]])), "expect": { "reason": told(&["ok 61000"]) } },
            ] },
            { "name": "variables", "command": probe(&json!([["env", "MODE"], ["env", "OUTSIDE"]])), "expect": { "reason": told(&["ok strict", "ok none"]) } },
            { "name": "secrets, masked in its log", "command": probe(&json!([["secret", "token"], ["secret", "none"], ["log", "token"]])),
              "expect": { "reason": "ok s3cret-value-77", "log": "[secret masked]" } },
            { "name": "files", "command": probe(&json!([["read", "/etc/lists/hosts"], ["read", "/etc/passwd"], ["write", "/out/new", "made"], ["list", "/etc"]])),
              "expect": { "reason": told(&["ok a b", "not-found", "ok ", "ok lists:Folder"]), "files": { "/out/new": "made", "/out/other": false } } },
            { "name": "the files of a case are its own", "files": {}, "command": probe(&json!([["read", "/etc/lists/hosts"], ["list", "/out"]])),
              "expect": { "reason": told(&["not-found", "ok "]) } },
        ],
    }));
    let twice =
        json!({ "name": "random", "grants": ["random"], "command": probe(&json!([["random", "4"]])), "expect": { "effect": "allow" } });
    let doc = bench.pass(&json!({ "case": [twice, twice] }));
    assert_eq!(doc["cases"][0]["answer"]["reason"], doc["cases"][1]["answer"]["reason"], "the same in each run");
}

#[test]
fn requests_are_answered_from_a_table_and_never_by_the_network() {
    let bench = Bench::new(WANTING);
    let get = |url: &str| json!(["http", "GET", url]);
    let grants = json!(["http:GET,POST:a.example.com", "http:GET:b.example.com"]);
    bench.pass(&json!({ "grants": grants, "case": [
        { "name": "in turn, the last again and again",
          "http": [
            { "request": "GET https://a.example.com/x", "status": 503, "body": "later" },
            { "request": "GET https://a.example.com/x", "body": { "n": 1 } },
            { "request": "POST https://a.example.com/", "status": 201 },
            { "request": "GET https://b.example.com/", "fails": "timeout" },
          ],
          "command": probe(&json!([get("https://a.example.com/x"), get("https://A.example.com:443/x"), get("https://a.example.com/x"),
                                   ["http", "POST", "https://a.example.com", "sent"], get("https://b.example.com/")])),
          "expect": { "reason": told(&["ok 503 later", "ok 200 {\"n\":1}", "ok 200 {\"n\":1}", "ok 201 ", "timeout"]),
                      "requests": ["GET https://a.example.com/x", "GET", "GET", "POST https://a.example.com/ sent", "b.example.com"] } },
        { "name": "what is not granted is not sent", "command": probe(&json!([["http", "POST", "https://b.example.com/"]])),
          "expect": { "reason": told(&["denied http:POST:b.example.com"]), "requests": [] } },
    ] }));
    let open = bench.fail(&json!({ "name": "no answer", "grants": grants, "command": probe(&json!([get("https://b.example.com/y")])),
        "expect": { "effect": "allow" } }));
    assert!(open.contains("it sent GET https://b.example.com/y, for which the case has no answer"), "{open}");
}

#[test]
fn a_plan_is_held_to_the_hosts_laws() {
    let bench = Bench::new(STRATEGY);
    let result = |pair: &str| json!({ "role": "tool", "kind": "tool_result", "tool": "Bash", "pair": pair, "text": "a line said again ", "repeat": 20 });
    let call = |pair: &str| json!({ "role": "assistant", "kind": "tool_call", "tool": "Bash", "pair": pair, "text": "{\"command\":\"ls -la /project/src\"}" });
    let asked = json!({ "role": "user", "kind": "text", "text": "Look." });
    // Its own call is not in sight of the strategy where it keeps the rest.
    let good = json!([asked, { "role": "tool", "kind": "tool_result", "tool": "Bash", "pair": "x", "text": "a line said again ", "repeat": 20 }, call("b"), result("b")]);
    let doc = bench.pass(&json!({ "config": { "keep": 2 }, "case": [{
        "name": "good", "budget": { "window": 1000, "target": 10 }, "transcript": good,
        "expect": { "edits": 1, "tokens_before": 253, "changed": 1, "dropped": 0, "reached": false },
    }] }));
    assert!(doc["cases"][0]["answer"]["tokens_after"].as_u64() < Some(200), "{doc:#}");
    let bad = json!({ "name": "bad", "budget": { "window": 1000, "target": 10 }, "transcript": [asked, call("a"), result("a"), call("b"), result("b")],
        "expect": { "edits": 2 } });
    let why = bench.fail(&bad);
    assert!(why.contains("it failed (refused): the host would refuse this plan: entry 2 (ToolCall) cannot get another text"), "{why}");
    assert!(why.contains("BDL-COMPACTION-006"), "{why}");
    let mut expected = bad;
    expected["expect"] = json!({ "fails": "refused", "reason": "cannot get another text" });
    bench.pass(&json!({ "case": [expected] }));
}

#[test]
fn what_a_case_cannot_mean_is_named() {
    let bench = Bench::new(WANTING);
    let step = json!({ "command": "ls", "expect": { "effect": "abstain" } });
    for (case, says) in [
        (
            json!({ "name": "a", "steps": [step], "command": "ls", "expect": { "effect": "deny" } }),
            "it has `steps` and asks a question itself",
        ),
        (json!({ "name": "a", "steps": [] }), "it has 0 steps"),
        (json!({ "name": "a", "steps": [{ "command": "ls" }] }), "step 1: it expects nothing"),
        (
            json!({ "name": "a", "steps": [{ "command": "ls", "kv": {}, "expect": { "effect": "deny" } }] }),
            "step 1: `kv` is of the whole case",
        ),
        (json!({ "steps": [step] }), "it has no `name`"),
        (json!({ "name": "a", "files": { "/a/../b": "" }, "steps": [step] }), "`files`: \"/a/../b\""),
        (json!({ "name": "a", "http": [{ "request": "https://a.example" }], "steps": [step] }), "has no method and URL"),
        (json!({ "name": "a", "http": [{ "request": "GET a.example" }], "steps": [step] }), "`http`: the request \"GET a.example\""),
        (json!({ "name": "a", "kv": { "a": { "hex": "x" } }, "steps": [step] }), "the value of \"a\" is no hex"),
        (json!({ "name": "a", "transcript": [], "expect": { "edits": 0 } }), "a transcript goes with `budget"),
    ] {
        let said = bench.judge(&json!({ "case": [case] }));
        assert_eq!(said.code, 2, "{case}: {said:?}");
        let told: Value = serde_json::from_str(&said.err).expect("an error");
        assert!(told["error"]["message"].as_str().is_some_and(|m| m.contains(says)), "{says}: {said:?}");
    }
}
