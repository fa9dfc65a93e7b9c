//! The command line where no daemon is needed: exit code, standard output and standard error of the real program.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const BEADLE: &str = env!("CARGO_BIN_EXE_beadle");

struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("home/config")).unwrap();
        fs::create_dir_all(dir.path().join("project/.git")).unwrap();
        Self { dir }
    }

    fn project(&self) -> std::path::PathBuf {
        self.dir.path().canonicalize().unwrap().join("project")
    }

    fn user_config(&self, text: &str) {
        fs::write(self.dir.path().join("home/config/beadle.toml"), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(BEADLE);
        c.args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("BEADLE_HOME", self.dir.path().join("home"))
            // No verb of these tests may start a daemon: inside a session none is started.
            .env("BEADLE_SESSION", "tests")
            .current_dir(self.project())
            .stdin(Stdio::null());
        c
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Exit code, standard output and standard error, with the temporary folder's name taken out.
    fn snapshot(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let root = self.dir.path().canonicalize().unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).replace(root.to_str().unwrap(), "[root]");
        format!("{}\n--\n{}--\n{}", out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
    }
}

#[test]
fn help_and_version_go_to_standard_output_and_usage_errors_do_not() {
    let home = Home::new();
    let out = home.run(&["--help"]);
    assert_eq!(out.status.code(), Some(0));
    let text = String::from_utf8(out.stdout).unwrap();
    for verb in [
        "demo",
        "run",
        "send",
        "ls",
        "show",
        "ps",
        "logs",
        "events",
        "stop",
        "kill",
        "wait",
        "rm",
        "verify",
        "export",
        "rule",
        "config",
        "trust",
        "host",
        "completions",
    ] {
        assert!(text.lines().any(|l| l.trim_start().starts_with(verb)), "{verb}");
    }
    assert!(!text.contains("demo-agent"));
    assert_eq!(home.run(&["--version"]).status.code(), Some(0));
    for bad in [
        &[][..],
        &["nonsense"],
        &["run", "--nonsense"],
        &["show"],
        &["show", ""],
        &["show", "a\u{1b}b"],
        &["events"],
        &["approve", "x"],
        &["run", "-p", "a", "b"],
        &["ls", "-n", "0"],
        &["run", "-l", "x", "p"],
    ] {
        let out = home.run(bad);
        assert_eq!(out.status.code(), Some(2), "{bad:?}");
        assert!(out.stdout.is_empty() && !out.stderr.is_empty(), "{bad:?}");
    }
}

#[test]
fn a_giant_id_is_refused_with_a_short_message() {
    let home = Home::new();
    // why 100 kB: the kernel takes no longer single argument than 128 KiB.
    let out = home.run(&["show", &"x".repeat(100_000)]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("it has 100000 bytes, over the limit of 200"));
}

#[test]
fn without_a_daemon_the_host_cannot_be_reached() {
    let home = Home::new();
    for args in [&["ls"][..], &["show", "x"], &["host", "status"], &["host", "stop"], &["verify"], &["run", "--", "true"]] {
        let out = home.run(args);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(4), "{args:?}: {err}");
        assert!(err.starts_with("error[BDL-CLIENT-001]: no daemon listens on "), "{err}");
    }
    let out = home.run(&["--json", "ls"]);
    let problem: serde_json::Value = serde_json::from_slice(&out.stderr).unwrap();
    assert_eq!(problem["error"]["code"], "BDL-CLIENT-001");
    assert!(!home.dir.path().join("home/data").exists());
}

#[test]
fn bad_uses_of_run_are_told_before_anything_is_sent() {
    let home = Home::new();
    let table: [(&[&str], &str); 6] = [
        (&["run", "-C", "/nonexistent/x", "p"], "folder /nonexistent/x: No such file"),
        (&["run", "-C", "/dev/null", "p"], "folder /dev/null: it is not a folder"),
        (&["run", "--agent", "generic"], "no command was given"),
        (&["run", " "], "the prompt is empty"),
        (&["run", "-e", "BEADLE_TEST_UNSET", "p"], "--env BEADLE_TEST_UNSET"),
        (&["run", "--mcp-config", "/dev/null", "p"], "--mcp-config /dev/null: not JSON"),
    ];
    for (args, expected) in table {
        let out = home.run(args);
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {err}");
        assert!(err.starts_with(&format!("error[BDL-CLI-001]: {expected}")), "{args:?}: {err}");
    }
}

#[test]
fn config_path_names_files_under_one_home() {
    let home = Home::new();
    let expected = "0\n--\n\
        config   [root]/home/config/beadle.toml\n\
        data     [root]/home/data\n\
        cache    [root]/home/cache\n\
        log      [root]/home/data/daemon.log\n\
        sockets  [root]/home/run/beadle.sock [root]/home/data/run/beadle.sock\n--\n";
    assert_eq!(home.snapshot(&["config", "path"]), expected);
}

#[test]
fn config_show_tells_every_origin_and_what_a_project_may_not_say() {
    let home = Home::new();
    home.user_config("[session]\ngrace_ms = 1234\n[rules]\nallow = [\"Bash(make)\"]\n");
    fs::write(
        home.project().join("beadle.toml"),
        "default = \"deny\"\n[session]\non_breach = \"alert\"\n[rules]\nallow = [\"Bash\"]\ndeny = [\"WebFetch\"]\n",
    )
    .unwrap();
    let out = home.run(&["--json", "config", "show"]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let doc: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let setting = |key: &str| doc["settings"].as_array().unwrap().iter().find(|s| s["key"] == key).unwrap().clone();
    assert_eq!(setting("session.grace_ms")["value"], 1234);
    assert!(setting("session.grace_ms")["origin"].as_str().unwrap().ends_with("home/config/beadle.toml:2"));
    assert_eq!(setting("default")["value"], "deny");
    assert!(setting("default")["origin"].as_str().unwrap().ends_with("project/beadle.toml:1 (project)"));
    assert_eq!(setting("session.on_breach")["origin"], "default");
    assert_eq!(doc["project"]["ignored"], serde_json::json!(["session.on_breach", "rules.allow"]));
    assert_eq!(doc["policies"][1]["name"], "project-rules");
    assert_eq!(doc["policies"][1]["tighten_only"], true);

    let text = home.snapshot(&["config", "show"]);
    assert!(
        text.contains("session.grace_ms") && text.contains("not taken from [root]/project/beadle.toml: session.on_breach, rules.allow"),
        "{text}"
    );
}

#[test]
fn config_check_names_file_line_key_and_what_was_expected() {
    let home = Home::new();
    home.user_config("[session]\n\ngrace = 5\n");
    let expected = "1\n--\n--\nerror[BDL-CONFIG-002]: [root]/home/config/beadle.toml:3: unknown key session.grace; known here: env, grace_ms, require_mediation, require_attested, on_breach, host_tools, restart, owner, tenant, mission, phase, expect_report, read_only_repo, writer_idle_ms\n";
    assert_eq!(home.snapshot(&["config", "check"]).replace(home.dir.path().to_str().unwrap(), "[root]"), expected);
    home.user_config("[rules]\nexamples = [{ command = 3, effect = \"deny\" }]\n");
    let out = home.run(&["config", "check"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("rules.examples.command is 3; expected a string"));
    home.user_config("");
    let out = home.run(&["config", "check"]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_bad_configuration_or_home_is_wrong_usage_for_other_verbs() {
    let home = Home::new();
    home.user_config("x = 1");
    assert_eq!(home.run(&["run", "hello"]).status.code(), Some(2));
    let out = home.command(&["config", "path"]).env("BEADLE_HOME", "relative").output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).starts_with("error[BDL-CONFIG-008]"));
    let out = home.command(&["config", "path"]).env_remove("BEADLE_HOME").output().unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).starts_with("error[BDL-CONFIG-009]"));
}

#[test]
fn nothing_a_file_says_acts_on_the_terminal() {
    let home = Home::new();
    home.user_config("default = \"\\u001b[2J\\u202e\"\n");
    for args in [&["config", "check"][..], &["--json", "config", "check"]] {
        let out = home.run(args);
        let text = [out.stdout, out.stderr].concat();
        assert!(!text.contains(&0x1b) && !String::from_utf8_lossy(&text).contains('\u{202e}'), "{}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn trust_needs_a_file_and_a_person_or_yes() {
    let home = Home::new();
    let text = home.snapshot(&["trust"]);
    assert!(text.starts_with("2\n") && text.contains("has no beadle.toml"), "{text}");
    fs::write(home.project().join("beadle.toml"), "default = \"allow\"\n").unwrap();
    let text = home.snapshot(&["trust"]);
    assert!(text.starts_with("2\n") && text.contains("lets in: default") && text.contains("use --yes"), "{text}");
}

#[test]
fn completions_are_printed_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let out = home.run(&["completions", shell]);
        assert_eq!(out.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&out.stdout).contains("beadle"));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = Home::new();
    let mut child = home.command(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stderr.len()), (Some(0), 0));
}

#[test]
fn a_prompt_on_standard_input_is_bounded_text() {
    let home = Home::new();
    for (bytes, expected) in [(vec![0xffu8, 0xfe], "not UTF-8"), (vec![b'x'; (1 << 20) + 1], "over 1048576 bytes"), (vec![], "is empty")] {
        let mut child = home.command(&["run", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may stop reading at the cap: a broken pipe here is as good.
        let _ = stdin.write_all(&bytes);
        drop(stdin);
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&out.stderr).contains(expected), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn folders_that_are_made_are_private() {
    let home = Home::new();
    let folders = beadle::config::Folders {
        config: home.dir.path().join("c"),
        data: home.dir.path().join("d"),
        cache: home.dir.path().join("k"),
        runtime: home.dir.path().join("r"),
    };
    folders.create().unwrap();
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    fs::set_permissions(&folders.data, fs::Permissions::from_mode(0o755)).unwrap();
    folders.create().unwrap();
    for dir in [&folders.config, &folders.data, &folders.cache, &folders.runtime, &folders.data.join("run")] {
        assert_eq!(mode(dir), 0o700, "{}", dir.display());
    }
    fs::write(home.dir.path().join("file"), "").unwrap();
    let wrong = beadle::config::Folders { data: home.dir.path().join("file/d"), ..folders };
    assert_eq!(wrong.create().unwrap_err().code(), "BDL-CONFIG-010");
}
