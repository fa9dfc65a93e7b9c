//! From a command to its decision by the standard rules: a denied program that the parser sees is never allowed, and what is
//! allowed consists of what the rules allow.

#![no_main]

use std::sync::LazyLock;

use beadle_fuzz::model::{Access, Channel, Parse};
use beadle_fuzz::policy::call::{CallInput, explain};
use beadle_fuzz::policy::paths::{Entry, Paths};
use beadle_fuzz::wit::to_wit;
use beadle_plugin as wit;
use libfuzzer_sys::fuzz_target;
use policy_rules::Policy;
use serde_json::{Value, json};

/// A file system where everything stands and nothing is a link.
struct Plain;

impl Paths for Plain {
    fn entry(&self, _path: &str) -> Entry {
        Entry::Other
    }
}

const CONFIG: &str = r#"{"allow": ["Bash(echo:*)", "Bash(git status:*)", "Read(./**)", "Edit(./src/**)"], "ask": ["Bash(curl:*)"],
    "deny": ["Bash(rm:*)", "Bash(git push:*)", "Read(./.env)"], "root": "/home/dev/project", "home": "/home/dev"}"#;

static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy::compile(CONFIG).unwrap_or_else(|e| panic!("{e}")));

const ROOT: &str = "/home/dev/project";

/// Programs that only read, which the Read rule allows on what lies in the project.
const READERS: [&str; 32] = [
    "cat",
    "head",
    "tail",
    "wc",
    "tac",
    "rev",
    "nl",
    "md5sum",
    "sha1sum",
    "sha224sum",
    "sha256sum",
    "sha384sum",
    "sha512sum",
    "b2sum",
    "cksum",
    "sum",
    "cmp",
    "comm",
    "cut",
    "sort",
    "uniq",
    "tr",
    "basename",
    "dirname",
    "stat",
    "file",
    "du",
    "grep",
    "egrep",
    "fgrep",
    "rg",
    "find",
];

/// Programs that an allowed command may have: allowed ones, wrappers that only run their command, and what rides along.
const MAY: [&str; 24] = [
    "echo", "git", "timeout", "nice", "nohup", "time", "stdbuf", "ionice", "env", "sh", "bash", "dash", "zsh", "ksh", "cd", "test", "[",
    "true", "false", ":", "pwd", "exit", "command", "builtin",
];

fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

fuzz_target!(|data: &[u8]| {
    let (tool, input) = match data.split_first() {
        Some((b'R', rest)) => ("Read", json!({"file_path": String::from_utf8_lossy(rest)})),
        Some((b'E', rest)) => ("Edit", json!({"file_path": String::from_utf8_lossy(rest), "old_string": "a", "new_string": "b"})),
        Some((b'J', rest)) => match serde_json::from_slice::<Value>(rest) {
            Ok(v @ Value::Object(_)) => ("Bash", v),
            _ => return,
        },
        _ => ("Bash", json!({"command": String::from_utf8_lossy(data)})),
    };
    let given = CallInput {
        agent: "claude",
        tool,
        input: &input,
        cwd: ROOT,
        write_root: None,
        home: Some("/home/dev"),
        call_id: None,
        parent_call_id: None,
        sub_agent: None,
        channel: Channel::Driver,
    };
    let built = explain(&given, &Plain);
    let call = built.call;
    assert_eq!(call.parse == Parse::Complete, built.reason.is_none());
    let decision = POLICY.decide(&policy_rules::bench::sample_session(), &to_wit(&call));
    assert!(decision.reason.len() <= 4 << 10 && decision.rule.as_ref().is_none_or(|r| r.len() <= 1 << 10), "over the contract's limits");
    let first = |c: &beadle_fuzz::model::Command| c.argv.first().map(|w| base(&w.text).to_owned()).unwrap_or_default();
    if decision.effect == wit::Effect::Allow {
        assert_eq!(call.parse, Parse::Complete, "{call:?}");
        for c in &call.commands {
            let name = first(c);
            let reads = READERS.contains(&name.as_str()) || name == "sed";
            assert!(reads || MAY.contains(&name.as_str()), "{c:?} is let through by {:?}", decision.rule);
            if reads {
                assert!(c.argv.iter().all(|w| w.exact), "{c:?}");
                for p in call.paths.iter().filter(|p| p.access != Access::Write) {
                    let inside = p.absolute.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                    assert!(inside && p.exact, "{p:?} is read by {c:?}");
                }
            }
        }
    }
    if call.commands.iter().any(|c| c.argv[0].exact && first(c) == "rm") {
        assert_eq!(decision.effect, wit::Effect::Deny, "{call:?}");
    }
});
