//! A configuration of 100 rules and calls to judge by it, for benches and size tests.
//!
//! Called by benches of the host and by this crate's tests.

use beadle_plugin::{Access, Call, Command, Effect, PathUse, Redirect, Session, ToolKind, Word};

/// 100 rules such as a project has, as configuration JSON.
pub fn sample_config() -> String {
    let mut allow: Vec<String> = Vec::new();
    for c in [
        "cargo build",
        "cargo test",
        "cargo check",
        "cargo fmt",
        "cargo clippy",
        "git status",
        "git diff",
        "git log",
        "git add",
        "ls",
        "rg",
        "cat",
        "head",
        "tail",
        "wc",
        "npm test",
        "npm run lint",
        "make",
        "pytest",
        "go test",
        "jq",
        "echo",
        "pwd",
        "true",
        "sed -n",
        "find .",
    ] {
        allow.push(format!("Bash({c}:*)"));
    }
    for d in ["src", "tests", "docs", "benches", "examples", "crates", "tools", "scripts", "assets", "wit"] {
        allow.push(format!("Read(./{d}/**)"));
        allow.push(format!("Edit(./{d}/**/*.rs)"));
        allow.push(format!("Write(./{d}/**/*.md)"));
    }
    allow.extend((0..4).map(|i| format!("WebFetch(domain:docs{i}.example.org)")));
    let ask: Vec<String> = [
        "git push",
        "git rebase",
        "git reset",
        "npm publish",
        "cargo publish",
        "docker run",
        "kubectl apply",
        "terraform apply",
        "ssh",
        "scp",
        "rsync",
        "curl",
        "wget",
        "pip install",
        "npm install",
        "apt-get",
        "systemctl",
        "chmod",
    ]
    .iter()
    .map(|c| format!("Bash({c}:*)"))
    .collect();
    let mut deny: Vec<String> =
        ["rm -rf /", "sudo", "dd", "mkfs", "shutdown", "reboot", "chown"].iter().map(|c| format!("Bash({c}:*)")).collect();
    for g in ["git commit * --no-verify", "git push * --force", "chmod 777"] {
        deny.push(format!("Bash({g}:*)"));
    }
    for p in ["./.env", "./.env.*", "./secrets/**", "//etc/**", "~/.ssh/**", "**/*.pem"] {
        deny.push(format!("Read({p})"));
    }
    for p in ["./.git/**", "./.claude/**", "//etc/**", "./Cargo.lock", "./.ci/**", "**/*.pem"] {
        deny.push(format!("Edit({p})"));
    }
    serde_json::json!({ "allow": allow, "ask": ask, "deny": deny, "root": "/home/dev/project", "home": "/home/dev" }).to_string()
}

/// Eight calls with inputs of 500 bytes, and the effect that [`sample_config`] gives each.
pub fn sample_calls() -> Vec<(Call, Effect)> {
    let call = |tool: &str, kind, key: &str, value: &str| {
        let mut text = format!("{{\"{key}\":{},\"description\":\"", serde_json::Value::from(value));
        while text.len() < 498 {
            text.push('x');
        }
        text.push_str("\"}");
        Call { tool: tool.to_owned(), kind, input: text, cwd: "/home/dev/project".to_owned(), ..Call::default() }
    };
    let bash = |text: &str, commands: &[&[&str]]| {
        let commands = commands.iter().map(|c| Command::of(c.iter().copied())).collect();
        Call { commands, ..call("Bash", ToolKind::Execute, "command", text) }
    };
    let file = |tool: &str, kind, path: &str, access| {
        let path = format!("/home/dev/project/{path}");
        Call { paths: vec![PathUse::of(path.as_str(), access)], ..call(tool, kind, "file_path", &path) }
    };
    let mut logged = bash("cargo test > target/log.txt 2>&1", &[&["cargo", "test"]]);
    logged.commands[0].redirects = vec![Redirect { target: Word::exact("target/log.txt"), access: Access::Write }];
    logged.paths = vec![PathUse { written: "target/log.txt".to_owned(), ..PathUse::of("/home/dev/project/target/log.txt", Access::Write) }];
    vec![
        (
            bash(
                "cargo test --workspace --all-features -- --nocapture",
                &[&["cargo", "test", "--workspace", "--all-features", "--", "--nocapture"]],
            ),
            Effect::Allow,
        ),
        (file("Read", ToolKind::Read, "src/daemon/session/store.rs", Access::Read), Effect::Allow),
        (bash("git add -A && git push origin main", &[&["git", "add", "-A"], &["git", "push", "origin", "main"]]), Effect::Ask),
        (file("Edit", ToolKind::Edit, "crates/core/src/lib.rs", Access::Write), Effect::Allow),
        (
            bash("ls -la; sudo rm -rf /var/lib", &[&["ls", "-la"], &["sudo", "rm", "-rf", "/var/lib"], &["rm", "-rf", "/var/lib"]]),
            Effect::Deny,
        ),
        (bash("zig build && ./zig-out/bin/app", &[&["zig", "build"], &["./zig-out/bin/app"]]), Effect::Abstain),
        (logged, Effect::Ask),
        (file("Read", ToolKind::Read, "secrets/prod.json", Access::Read), Effect::Deny),
    ]
}

/// The session that the samples belong to.
pub fn sample_session() -> Session {
    Session { root: "/home/dev/project".to_owned(), home: Some("/home/dev".to_owned()), ..Session::default() }
}
