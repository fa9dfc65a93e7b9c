use std::fs;

use proptest::prelude::*;

use super::*;

struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new(user: &str, project: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("p/.git")).unwrap();
        fs::create_dir_all(dir.path().join("p/sub")).unwrap();
        fs::write(dir.path().join("user.toml"), user).unwrap();
        if !project.is_empty() {
            fs::write(dir.path().join("p/beadle.toml"), project).unwrap();
        }
        Self { dir }
    }

    fn load(&self, trust: bool, env: &[(&str, &str)]) -> Result<Loaded, Error> {
        let get = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| OsString::from(v));
        let user = self.dir.path().join("user.toml");
        let cwd = self.dir.path().join("p/sub");
        load(&Sources { user: Some(&user), cwd: Some(&cwd), env: &get, trusted: &|_, _| trust })
    }

    /// The error's text with the folder cut off.
    fn error(&self) -> String {
        let e = self.load(false, &[]).unwrap_err();
        format!("{} {}", e.code(), e.to_string().replace(&format!("{}/", self.dir.path().display()), ""))
    }
}

fn origin(l: &Loaded, key: &str) -> String {
    let o = l.settings.iter().find(|s| s.key == key).unwrap().origin.to_string();
    o.rsplit('/').next().unwrap().to_owned()
}

#[test]
fn defaults_have_every_key_and_the_rules() {
    let l = Case::new("", "").load(false, &[]).unwrap();
    assert_eq!(l.settings.len(), KEYS.len());
    assert!(l.settings.iter().all(|s| s.origin == Origin::Embedded));
    assert_eq!(l.config.default, Effect::Ask);
    assert_eq!(l.config.policies.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["rules"]);
    assert!(l.config.env_allows("LC_ALL") && l.config.env_allows("PATH"));
    assert!(!l.config.env_allows("LD_PRELOAD") && !l.config.env_allows("PATHX") && !l.config.env_allows("DBUS_SESSION_BUS_ADDRESS"));
    assert_eq!(l.config.prices, None);
}

#[test]
fn layers_override_and_tell_where_from() {
    let c = Case::new("[session]\ngrace_ms = 7\n[usage]\nprices = \"p.json\"\n", "");
    let l = c.load(false, &[("BEADLE_HOST_LOG", "debug"), ("BEADLE_HOST_LINGER_MS", "0")]).unwrap();
    assert_eq!((l.config.grace_ms, l.config.log.as_str(), l.config.linger_ms), (7, "debug", None));
    assert_eq!(origin(&l, "session.grace_ms"), "user.toml:2");
    assert_eq!(origin(&l, "host.log"), "$BEADLE_HOST_LOG");
    assert_eq!(l.config.prices, Some(c.dir.path().join("p.json")));
}

#[test]
fn a_project_only_tightens_until_it_is_trusted() {
    let project = r#"
default = "allow"
[host]
log = "trace"
[session]
on_breach = "alert"
env = ["*"]
[approvals]
timeout_ms = 10
[limits]
waiting_asks = 9999999
"#;
    assert!(Case::new("", project).error().contains("limits.waiting_asks"));
    let c = Case::new("", &project.replace("9999999", "3"));
    let l = c.load(false, &[]).unwrap();
    let p = l.project.as_ref().unwrap();
    assert_eq!(p.ignored, ["default", "host.log", "session.env", "session.on_breach"]);
    assert_eq!((l.config.approval_timeout_ms, l.config.waiting_asks, l.config.on_breach), (10, 3, OnBreach::Stop));
    assert_eq!(l.config.default, Effect::Ask);
    assert_eq!(origin(&l, "approvals.timeout_ms"), "beadle.toml:9 (project)");
    let l = c.load(true, &[]).unwrap();
    assert_eq!(l.project.unwrap().ignored, ["host.log"]);
    assert_eq!((l.config.default, l.config.on_breach), (Effect::Allow, OnBreach::Alert));
}

#[test]
fn context_is_the_operators_and_a_trusted_projects() {
    let command = |name: &str, word: &str| format!("[context.{name}]\nkind = \"command\"\ncommand = [\"{word}\"]\n");
    let c = Case::new(&command("git", "mine"), &[command("git", "theirs"), command("other", "theirs")].concat());
    let l = c.load(false, &[]).unwrap();
    assert_eq!(l.project.unwrap().ignored, ["context.git", "context.other"]);
    assert_eq!(l.config.context.keys().collect::<Vec<_>>(), ["git"]);
    let l = c.load(true, &[]).unwrap();
    assert!(l.project.unwrap().ignored.is_empty());
    assert_eq!(l.config.context.keys().collect::<Vec<_>>(), ["git", "other"]);
    assert!(format!("{:?}", l.config.context["git"]).contains("mine"), "a project replaces none");
    // Those of both are no more than a session can have, and the operator's are among them.
    let many: String = (0..16).map(|n| command(&format!("a{n:02}"), "theirs")).collect();
    let l = Case::new(&[command("rules", "mine"), command("a03", "mine")].concat(), &many).load(true, &[]).unwrap();
    assert_eq!(l.project.unwrap().ignored, ["context.a15"]);
    assert!(l.config.context.len() == 16 && l.config.context.contains_key("rules"));
    let wrong = Case::new("[context.a]\nkind = \"files\"\n\npaths = [\"/etc\"]", "").error();
    assert!(wrong.starts_with("BDL-CONFIG-003 user.toml:1: context.a is"), "{wrong}");
}

#[test]
fn grants_are_the_operators() {
    let policy = |grants: &str| format!("[[policy]]\nname = \"mine\"\nplugin = \"./p.wasm\"\ngrants = {grants}\n");
    let c = Case::new(&policy(r#"["random", "kv", "http:POST,GET:api.example.com"]"#), "");
    let chain = c.load(false, &[]).unwrap().config.policies;
    assert_eq!(chain[1].grants.words(), ["kv", "random", "http:GET,POST:api.example.com"]);
    assert!(chain[0].grants.is_empty());
    let wrong = Case::new(&policy(r#"["kv", "env:*"]"#), "").error();
    assert!(wrong.contains("user.toml:4") && wrong.contains("env:*") && wrong.contains("BDL-GRANT-003"), "{wrong}");
    // A project's are not taken, until it is trusted.
    let c = Case::new("", &policy(r#"["kv"]"#));
    let l = c.load(false, &[]).unwrap();
    assert_eq!(l.project.unwrap().ignored, ["policy.mine.grants"]);
    assert!(l.config.policies[1].grants.is_empty());
    assert_eq!(c.load(true, &[]).unwrap().config.policies[1].grants.words(), ["kv"]);
}

#[test]
fn a_project_cannot_replace_remove_or_allow() {
    let project = r#"
[[policy]]
name = "rules"
plugin = "rules"
[[policy]]
name = "own"
plugin = "rules"
config = { allow = ["*"], deny = ["Bash(rm:*)"] }
[[policy]]
name = "far"
plugin = "../evil.wasm"
[[policy]]
name = "near"
plugin = "./policy.wasm"
[rules]
allow = ["Bash"]
deny = ["WebFetch"]
"#;
    let c = Case::new("[rules]\nallow = [\"Bash(make)\"]\n", project);
    let l = c.load(false, &[]).unwrap();
    let names: Vec<_> = l.config.policies.iter().map(|p| (p.name.as_str(), p.tighten_only)).collect();
    assert_eq!(names, [("rules", false), ("own", true), ("near", true), ("project-rules", true)]);
    assert_eq!(l.project.unwrap().ignored, ["policy.rules", "policy.own.config.allow", "policy.far", "rules.allow"]);
    assert_eq!(l.config.policies[1].config, serde_json::json!({"deny": ["Bash(rm:*)"]}));
    assert_eq!(l.config.policies[3].config, serde_json::json!({"deny": ["WebFetch"]}));
    let allow = l.config.policies[0].config["allow"].as_array().unwrap();
    assert!(allow.contains(&"Bash(make)".into()) && !allow.contains(&"Bash".into()));
    let trusted = c.load(true, &[]).unwrap().config.policies;
    assert!(trusted.iter().all(|p| !p.tighten_only));
    assert_eq!(trusted[0].config["allow"], serde_json::json!(["Bash"]));
}

#[test]
fn errors_name_file_line_key_and_what_was_expected() {
    let table = [
        (
            "x = 1",
            "BDL-CONFIG-002 user.toml:1: unknown key x; known here: default, host, session, approvals, hooks, results, attempts, compaction, operator, notify, queue, limits, usage, rules, policy, sink, sink_group, context",
        ),
        ("[host]\n\nlogg = 1", "BDL-CONFIG-002 user.toml:3: unknown key host.logg; known here: log, linger_ms"),
        (
            "[session]\ngrace_ms = \"5s\"",
            "BDL-CONFIG-003 user.toml:2: session.grace_ms is \"5s\"; expected a whole number from 0 to 3600000",
        ),
        ("[session]\ngrace_ms = -1", "BDL-CONFIG-003 user.toml:2: session.grace_ms is -1; expected a whole number from 0 to 3600000"),
        ("host = 3", "BDL-CONFIG-003 user.toml:1: host is 3; expected a table"),
        ("default = \"maybe\"", "BDL-CONFIG-003 user.toml:1: default is \"maybe\"; expected one of allow, ask, deny"),
        ("[session]\nenv = [\"A\", 3]", "BDL-CONFIG-003 user.toml:2: session.env is 3; expected a string"),
        (
            "[[policy]]\nname = \"a b\"\nplugin = \"rules\"",
            "BDL-CONFIG-003 user.toml:2: policy.name is \"a b\"; expected 1 to 64 of a-z A-Z 0-9 - _ .",
        ),
        (
            "[[policy]]\nname = \"a\"",
            "BDL-CONFIG-003 user.toml:1: policy.plugin is a value of type table; expected the name of a standard policy or the path of a .wasm file",
        ),
        (
            "[[policy]]\nname = \"a\"\nplugin = \"rules\"\nsecret = 1",
            "BDL-CONFIG-002 user.toml:4: unknown key policy.secret; known here: name, plugin, mode, on_failure, deadline_ms, config, enabled",
        ),
        (
            "[rules]\ndeny = [\"ok\", { reason = \"x\" }]",
            "BDL-CONFIG-003 user.toml:2: rules.deny is a value of type table; expected a rule such as \"Bash(git push:*)\", or { rule = …, reason = … }",
        ),
        (
            "[[policy]]\nname = \"b\"\nplugin = \"budget\"\n[policy.config]\nexamples = [{ command = \"ls\" }]",
            "BDL-CONFIG-003 user.toml:5: policy.config.examples is a value of type table; expected { command = \"…\", effect = \"deny\" } or { call = { tool = \"…\", input = {…} }, effect = \"deny\" }",
        ),
        (
            "[rules]\nexamples = [{ command = \"ls\" }]",
            "BDL-CONFIG-003 user.toml:2: rules.examples is a value of type table; expected { command = \"…\", effect = \"deny\" } or { call = { tool = \"…\", input = {…} }, effect = \"deny\" }",
        ),
        ("[host\n", "BDL-CONFIG-001 user.toml:1: not TOML: "),
    ];
    for (text, expected) in table {
        let got = Case::new(text, "").error();
        assert!(got.starts_with(expected), "\n got {got}\nwant {expected}");
    }
}

#[test]
fn a_project_file_that_is_a_link_or_a_pipe_is_refused() {
    let c = Case::new("", "");
    let path = c.dir.path().join("p/beadle.toml");
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    assert!(c.error().contains("symbolic link"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(c.error().starts_with("BDL-CONFIG-006"));
    fs::remove_dir(&path).unwrap();
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(c.error().starts_with("BDL-CONFIG-007"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "[\\[\\]a-z=\"\\.\n {}0-9,_-]{0,200}") {
        let source = value::Source::new(Path::new("x"), &text);
        if let Ok(top) = source.parse() {
            let _ = keys::read_all(&source, &top);
            let _ = policies::read(&source, &top, &|_| Origin::Embedded);
        }
    }

    #[test]
    fn an_untrusted_project_never_loosens(grace in 0u64..9_000_000, asks in 0u64..5000, default in 0usize..3, breach in 0usize..3, unattended in 0usize..2, strict: bool) {
        let (d, b, u) = (["allow", "ask", "deny"][default], ["alert", "pause", "stop"][breach], ["wait", "deny"][unattended]);
        let project = format!("default = \"{d}\"\n[session]\non_breach = \"{b}\"\n[approvals]\nunattended = \"{u}\"\ntimeout_ms = {grace}\n[limits]\nwaiting_asks = {asks}\n");
        let user = if strict { "approvals.unattended = \"deny\"" } else { "" };
        let base = Case::new(user, "").load(false, &[]).unwrap().config;
        if let Ok(l) = Case::new(user, &project).load(false, &[]) {
            prop_assert!(l.config.unattended >= base.unattended);
            prop_assert!(l.config.default >= base.default);
            prop_assert!(l.config.on_breach >= base.on_breach);
            prop_assert!(l.config.approval_timeout_ms <= base.approval_timeout_ms);
            prop_assert!(l.config.waiting_asks <= base.waiting_asks);
        }
    }
}

#[test]
fn the_operator_is_guarded_against_projects_and_the_environment() {
    let c = Case::new(
        "[operator]\nconfirm = \"key\"\n[approvals]\ntwo_person = [\"env=prod\"]\n",
        "[operator]\nconfirm = \"none\"\n[approvals]\ntwo_person = [\"tier=*\"]\n[notify]\nwebhook = \"https://evil.example.org/\"\n",
    );
    for trust in [false, true] {
        let l = c.load(trust, &[]).unwrap();
        assert_eq!(
            (l.config.confirm, l.config.two_person.as_slice()),
            (Confirm::Key, ["env=prod".to_owned(), "tier=*".to_owned()].as_slice())
        );
        assert_eq!(l.config.notify.webhook, None);
        assert_eq!(l.project.unwrap().ignored, ["notify.webhook", "operator.confirm"]);
        let labels = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
        assert!(l.config.needs_two(&labels("env", "prod")) && l.config.needs_two(&labels("tier", "x")));
        assert!(!l.config.needs_two(&labels("env", "dev")) && !l.config.needs_two(&BTreeMap::new()));
    }
    assert_eq!(c.load(false, &[("BEADLE_OPERATOR_CONFIRM", "none")]).unwrap_err().code(), "BDL-CONFIG-004");
    assert_eq!(Case::new("", "").load(false, &[("BEADLE_OPERATOR_CONFIRM", "tty")]).unwrap().config.confirm, Confirm::Tty);
}

#[test]
fn two_persons_need_keys_and_a_webhook_needs_tls() {
    for (text, code) in [
        ("[approvals]\ntwo_person = [\"env=prod\"]\n", "BDL-CONFIG-021 approvals.two_person is set (user.toml:2)"),
        ("[operator]\nconfirm = \"tty\"\n[approvals]\ntwo_person = [\"env=prod\"]\n", "BDL-CONFIG-021"),
        ("[operator]\nconfirm = \"key\"\n[approvals]\ntwo_person = [\"prod\"]\n", "BDL-CONFIG-020 approvals.two_person is \"prod\""),
        ("[notify]\nwebhook = \"http://example.org/\"\n", "BDL-CONFIG-020 notify.webhook is"),
        ("[notify]\nsecret_env = \"SECRET\"\n", "BDL-CONFIG-020 notify.secret_env is"),
        ("[notify]\ndesktop = \"yes\"\n", "BDL-CONFIG-003 user.toml:2: notify.desktop is \"yes\"; expected true or false"),
    ] {
        let got = Case::new(text, "").error();
        assert!(got.starts_with(code), "\n got {got}\nwant {code}");
    }
}
