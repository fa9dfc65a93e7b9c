//! The corpus of attacks on rules: `tests/golden/attacks/<class>.toml`, the project that its cases speak of, and their call records.
//!
//! A file is one class: `[rules]` holds for all its groups, `[[attack]]` and `[[innocent]]` are groups of cases with one wanted
//! effect, and `from` says who met them. `@ROOT@` and `@HOME@` stand for the folders of the stage, `@UP@` for the name of the folder
//! above the project. `deny` and `allow` in a group replace those of the class.
//!
//! Used by `tests/it/attacks.rs` through the component, and natively by `plugins/policy-rules/tests/attacks.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use beadle::model::{Call, Channel, Session};
use beadle::policy::call::{CallInput, build};
use beadle::policy::paths::RealPaths;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Want {
    Allow,
    Deny,
    Ask,
    /// Whatever it is, it is not allowed.
    Stopped,
}

impl Want {
    pub fn holds(self, effect: &str) -> bool {
        match self {
            Self::Allow => effect == "allow",
            Self::Deny => effect == "deny",
            Self::Ask => effect == "ask",
            Self::Stopped => effect != "allow",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassFile {
    rules: Rules,
    #[serde(default)]
    attack: Vec<Group>,
    #[serde(default)]
    innocent: Vec<Group>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    from: String,
    effect: Option<Want>,
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
    #[serde(default)]
    commands: Vec<String>,
    #[serde(default)]
    calls: Vec<ToolCall>,
    #[serde(default)]
    repeats: Vec<Repeat>,
    /// Judged with the embedded defaults instead of these rules.
    #[serde(default)]
    defaults: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCall {
    tool: String,
    input: toml::Table,
}

/// A command made of one text many times.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Repeat {
    times: usize,
    text: String,
    #[serde(default)]
    before: String,
    #[serde(default)]
    after: String,
    #[serde(default)]
    close: String,
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    pub class: String,
    pub attack: bool,
    pub want: Want,
    /// The configuration of the policy `rules`, as JSON.
    pub rules: String,
    pub tool: String,
    pub input: Value,
    pub from: String,
}

impl Case {
    /// For a failure's text.
    pub fn shown(&self) -> String {
        let text = self.input["command"]
            .as_str()
            .filter(|_| self.tool == "Bash")
            .map_or_else(|| format!("{} {}", self.tool, self.input), str::to_owned);
        if text.chars().count() > 300 { format!("{}…", text.chars().take(300).collect::<String>()) } else { text }
    }
}

/// Cases of all classes, in the order of their files.
pub fn load(stage: &Stage) -> Vec<Case> {
    let dir =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|d| d.join("tests/golden/attacks")).find(|d| d.is_dir()).expect("the corpus");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir).expect("the corpus").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    let mut out = Vec::new();
    for file in files {
        let class = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).expect("readable");
        let read: ClassFile = toml::from_str(&text).unwrap_or_else(|e| panic!("{class}: {e}"));
        for (attack, group) in read.attack.iter().map(|g| (true, g)).chain(read.innocent.iter().map(|g| (false, g))) {
            let sound = if attack { group.effect.is_some() } else { matches!(group.effect, None | Some(Want::Ask)) };
            assert!(sound, "{class}: an attack says its effect, an innocent case is allowed, or `ask` with the reason in `from`");
            let rules = if group.defaults {
                defaults()
            } else {
                let deny = group.deny.as_ref().unwrap_or(&read.rules.deny);
                json!({ "allow": group.allow.as_ref().unwrap_or(&read.rules.allow), "deny": deny }).to_string()
            };
            let mut add = |tool: &str, input: Value| {
                out.push(Case {
                    class: class.clone(),
                    attack,
                    want: group.effect.unwrap_or(Want::Allow),
                    rules: rules.clone(),
                    tool: tool.to_owned(),
                    input,
                    from: group.from.clone(),
                });
            };
            for command in &group.commands {
                add("Bash", json!({ "command": stage.fill(command) }));
            }
            for call in &group.calls {
                let text = serde_json::to_string(&call.input).expect("JSON");
                add(&call.tool, serde_json::from_str(&stage.fill(&text)).expect("JSON"));
            }
            for r in &group.repeats {
                let command = format!("{}{}{}{}", r.before, r.text.repeat(r.times), r.after, r.close.repeat(r.times));
                add("Bash", json!({ "command": command }));
            }
        }
    }
    out
}

/// The rules of the embedded configuration.
pub fn defaults() -> String {
    let text = include_str!("../../src/config/defaults.toml");
    let table: toml::Table = toml::from_str(text).expect("the defaults");
    let policy = table["policy"].as_array().and_then(|p| p.iter().find(|p| p["name"].as_str() == Some("rules"))).expect("the rules");
    serde_json::to_string(&policy["config"]).expect("JSON")
}

/// A home and a project with the files and links that the cases name.
pub struct Stage {
    dir: TempDir,
}

impl Stage {
    pub fn new() -> Self {
        let stage = Self { dir: tempfile::Builder::new().prefix("attacks").tempdir().expect("a folder") };
        for folder in [
            "home/.ssh",
            "home/.aws",
            "project/src/generated",
            "project/secrets",
            "project/.git/hooks",
            "project/out",
            "project/tools",
            "project/venv",
        ] {
            std::fs::create_dir_all(stage.dir.path().join(folder)).expect("a folder");
        }
        for file in [
            "home/.ssh/id_rsa",
            "home/.bashrc",
            "home/.netrc",
            "home/.aws/credentials",
            "project/src/a.rs",
            "project/README.md",
            "project/.env",
            "project/.env.example",
            "project/secrets/key.pem",
            "project/.git/config",
            "project/out/a",
            "project/run.sh",
            "project/x.json",
        ] {
            std::fs::write(stage.dir.path().join(file), "x\n").expect("a file");
        }
        for (link, to) in [
            ("project/envlink", ".env"),
            ("project/link", "../home/.ssh"),
            ("project/hooklink", ".git/hooks"),
            ("project/src/up", ".."),
            ("project/loop", "loop"),
            ("project/mygit", "/usr/bin/git"),
            ("project/tools/eraser", "/bin/rm"),
            ("project/venv/python", "/usr/bin/python3"),
        ] {
            std::os::unix::fs::symlink(to, stage.dir.path().join(link)).expect("a link");
        }
        stage
    }

    pub fn root(&self) -> String {
        self.dir.path().join("project").to_string_lossy().into_owned()
    }

    pub fn home(&self) -> String {
        self.dir.path().join("home").to_string_lossy().into_owned()
    }

    /// A text with the stage's own folders in place of their names.
    pub fn fill(&self, text: &str) -> String {
        let up = self.dir.path().file_name().expect("a name").to_string_lossy();
        text.replace("@ROOT@", &self.root()).replace("@HOME@", &self.home()).replace("@UP@", &up)
    }

    /// The call record as the host builds it for a question of an agent.
    pub fn call(&self, tool: &str, input: &Value) -> Call {
        let (cwd, home) = (self.root(), self.home());
        build(
            &CallInput {
                agent: "claude",
                tool,
                input,
                cwd: &cwd,
                home: Some(&home),
                write_root: None,
                call_id: None,
                parent_call_id: None,
                sub_agent: None,
                channel: Channel::Driver,
            },
            &RealPaths,
        )
    }

    pub fn session(&self) -> Session {
        serde_json::from_value(json!({
            "id": "attack-m2k9x1a7-k3v9q", "name": "attack", "agent": "claude", "status": "running", "mediation": "gate", "command": [],
            "cwd": self.root(), "home": self.home(), "created_at": 0, "last_activity_at": 0, "attempt": 1,
            "usage": {"input": 0, "output": 0, "cache_read": 0, "cache_write": 0}, "unpriced": 0, "turns": 0, "sub_agents": 0, "calls": 0,
            "allowed": 0, "denied": 0, "asked": 0, "rewritten": 0, "waiting": 0, "breaches": 0, "plugin_failures": 0, "last_seq": 1
        }))
        .expect("a session")
    }
}

/// Cases by class: attacks and innocent ones.
pub fn counts(cases: &[Case]) -> BTreeMap<&str, (usize, usize)> {
    let mut out: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for case in cases {
        let count = out.entry(&case.class).or_default();
        if case.attack {
            count.0 += 1;
        } else {
            count.1 += 1;
        }
    }
    out
}
