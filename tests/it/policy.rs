//! Policies without a session: `policy explain`, `config check`, examples, and what a project may say.

use serde_json::{Value, json};

use crate::support::{Model, TestHost, bash, rules};

#[test]
fn explain_judges_an_agents_own_hook_payloads() {
    let host = TestHost::new();
    host.config(&rules(&["Bash(git status:*)", "Read(./**)"], &[], &["Bash(git push --force:*)"]));
    let lines = [
        json!({"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "git status"}, "cwd": host.work()}),
        json!({"hook_event_name": "BeforeTool", "tool_name": "run_shell_command", "tool_input": {"command": "cd x && 'git' -C . push -f"}, "cwd": host.work()}),
        json!({"command": "$TOOL status"}),
    ];
    let text: String = lines.iter().map(|l| format!("{l}\n")).collect();
    let file = host.file("calls.jsonl", &text).display().to_string();
    let said = host.beadle(["policy", "explain", &file]);
    assert_eq!(said.code, 1, "not all are allowed: {said:?}");
    let got: Vec<Value> = said.lines();
    assert_eq!(got.iter().map(|d| d["effect"].as_str().unwrap_or_default()).collect::<Vec<_>>(), ["allow", "deny", "ask"], "{got:#?}");
    assert_eq!((got[1]["rule"].as_str(), got[1]["call"]["agent"].as_str()), (Some("Bash(git push --force:*)"), Some("gemini")));
    assert_eq!(got[1]["answers"][0]["policy"], "rules");
    assert_eq!(got[2]["call"]["parse"], "partial");
    assert_eq!(host.beadle(["policy", "explain", "-c", "git status"]).code, 0);
    let bad = host.file("bad.jsonl", "{\"tool_name\":\"Bash\",\"tool_input\":3}\n").display().to_string();
    let said = host.beadle(["policy", "explain", &bad]);
    assert!(said.code == 2 && said.err.contains("line 1"), "{said:?}");
    assert!(!host.beadle_home().join("run/beadle.sock").exists(), "no daemon was started");
}

#[test]
fn an_example_that_does_not_hold_fails_the_check_and_denies() {
    let mut host = TestHost::new();
    let config =
        rules(&["Bash(ls:*)"], &[], &[]).replace("deny = []", "deny = []\nexamples = [{ command = \"ls; rm x\", effect = \"allow\" }]");
    host.config(&config);
    let said = host.beadle(["config", "check"]);
    assert!(said.code == 1 && said.err.contains("ls; rm x") && said.err.contains("should be allow"), "{said:?}");
    let model = Model::start(&json!({ "steps": [bash("ls"), { "text": "done" }] }));
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    assert_eq!(host.events_of(&id, "tool_decided")[0]["body"]["effect"], "deny");
    assert_eq!(host.events_of(&id, "plugin_failed")[0]["body"]["cause"], "load");
    host.config(&config.replace("effect = \"allow\"", "effect = \"abstain\""));
    host.beadle(["config", "check"]).ok();
}

#[test]
fn a_bad_rule_or_component_is_named() {
    let host = TestHost::new();
    host.config(&rules(&["Bash(ls"], &[], &[]));
    let said = host.beadle(["config", "check"]);
    assert!(said.code == 1 && said.err.contains("Bash(ls"), "{said:?}");
    let huge = host.home().join("huge.wasm");
    std::fs::File::create(&huge).and_then(|f| f.set_len(1 << 30)).expect("a sparse file");
    let truncated = host.home().join("cut.wasm");
    std::fs::write(&truncated, &beadle::plugin::standard::RULES[..5000]).expect("written");
    let text = host.home().join("text.wasm");
    std::fs::write(&text, "hello").expect("written");
    for (file, word) in
        [(&huge, "bytes"), (&truncated, "BDL-PLUGIN-004"), (&text, "BDL-PLUGIN-002"), (&host.home().join("none.wasm"), "No such file")]
    {
        host.config(&format!("[[policy]]\nname = \"p\"\nplugin = \"{}\"\n", file.display()));
        let said = host.beadle(["config", "check"]);
        assert!(said.code == 1 && said.err.contains(word) && said.err.contains("policy p"), "{word}: {said:?}");
    }
}

#[test]
fn a_project_may_tighten_and_no_more_until_it_is_trusted() {
    let mut host = TestHost::new();
    host.config(&format!("approvals.unattended = \"deny\"\n{}", rules(&["Bash(touch:*)", "Edit(./**)"], &[], &[])));
    host.file(
        "beadle.toml",
        "default = \"allow\"\n[session]\nenv = [\"*\"]\n[rules]\nallow = [\"Bash(rm:*)\"]\ndeny = [\"Bash(touch secret)\"]\n",
    );
    let steps = || json!({ "steps": [bash("touch a"), bash("touch secret"), bash("rm a"), { "text": "done" }] });
    let effects = |host: &TestHost, id: &str| -> Vec<String> {
        host.events_of(id, "tool_decided").iter().map(|e| e["body"]["effect"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let model = Model::start(&steps());
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    assert_eq!(effects(&host, &id), ["allow", "deny", "deny"]);
    let ignored = &host.events_of(&id, "config_ignored")[0]["body"]["keys"];
    for key in ["default", "session.env", "rules.allow"] {
        assert!(ignored.to_string().contains(key), "{key}: {ignored}");
    }
    host.beadle(["trust", "--yes"]).ok();
    let model = Model::start(&steps());
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    assert_eq!(effects(&host, &id), ["allow", "deny", "allow"]);
    // Another digest is another project.
    host.file("beadle.toml", "[rules]\nallow = [\"Bash(rm:*)\"]\n");
    let model = Model::start(&steps());
    let id = host.run_demo(&model, "go", &[]);
    host.ended(&id);
    assert_eq!(effects(&host, &id), ["allow", "allow", "deny"]);
    assert_eq!(host.beadle(["--json", "verify"]).ok().json()["ok"], true);
}

#[test]
fn a_data_folder_that_cannot_be_used_is_named() {
    let host = TestHost::new();
    host.file("plain", "x");
    std::fs::create_dir_all(host.beadle_home()).expect("a folder");
    std::fs::write(host.data(), "a file stands where the folder should").expect("written");
    let said = host.beadle(["ls"]);
    assert!(said.code != 0 && said.err.contains("BDL-") && said.err.contains(&host.data().display().to_string()), "{said:?}");
    std::fs::remove_file(host.data()).expect("removed");
    host.beadle(["ls"]).ok();
}
