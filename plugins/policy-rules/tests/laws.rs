//! What must hold for every rule set and every call.

mod support;

use beadle_plugin::{Call, Effect, Parse};
use proptest::prelude::*;
use support::{bash, config, decide, file};

const RULES: &[&str] = &[
    "Bash",
    "*",
    "Bash(git:*)",
    "Bash(git status:*)",
    "Bash(git push:*)",
    "Bash(git push --force:*)",
    "Bash(rm:*)",
    "Bash(rm -rf:*)",
    "Bash(ls)",
    "Bash(echo:*)",
    "Bash(*--force*)",
    "Bash(git * main)",
    "Bash(sudo:*)",
    "Bash(timeout:*)",
    "Read",
    "Read(./**)",
    "Read(.env)",
    "Read(./src/*.rs)",
    "Edit(./**)",
    "Edit(./out/**)",
    "Edit(.git)",
    "Write",
    "Read(~/.ssh/**)",
    "Bash(npm run test)",
    "Bash(find:*)",
];

const COMMANDS: &[&str] = &[
    "git status",
    "git push",
    "git push --force origin main",
    "git -C . push",
    "git $X",
    "rm -rf x",
    "rm x",
    "rm -r -f .",
    "ls",
    "echo hi",
    "echo hi > out/a",
    "echo hi > .git/x",
    "cat .env",
    "cat src/a.rs",
    "cat *",
    "cat ~/.ssh/id",
    "npm run test",
    "sudo ls",
    "find . -delete",
    "$X y",
    "git merge main",
    "make",
];

const WRAPPERS: &[&str] = &[
    "sh -c '{}'",
    "timeout 5 {}",
    "nohup {}",
    "env {}",
    "sudo {}",
    "xargs {}",
    "nice -n 3 {}",
    "true && {}",
    "{} | ls",
    "ls; {}",
    "ssh host {}",
    "bash -lc '{}'",
    "find . -exec {} ';'",
];

/// A deny rule and a command that it denies.
const DENIED: &[(&str, &str)] = &[
    ("Bash(git push:*)", "git push --force origin"),
    ("Bash(git push --force:*)", "git -C . push origin --force"),
    ("Bash(rm:*)", "/bin/rm -rf x"),
    ("Bash(rm -rf:*)", "rm -f -r x"),
    ("Bash(*--force*)", "git push --force"),
    ("Bash(git * main)", "git --no-pager merge main"),
];

fn rules() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(proptest::sample::select(RULES), 0..6)
}

fn call() -> impl Strategy<Value = Call> {
    let commands = proptest::collection::vec(proptest::sample::select(COMMANDS), 1..4).prop_map(|c| bash(&c.join(" && ")));
    let parse = prop_oneof![8 => Just(None), 1 => Just(Some(Parse::Partial)), 1 => Just(Some(Parse::Failed))];
    let commands = (commands, parse).prop_map(|(c, p)| Call { parse: p.unwrap_or(c.parse), ..c });
    let files = (
        proptest::sample::select(&["Read", "Edit", "Grep", "Glob", "Delete"][..]),
        proptest::sample::select(&["src/a.rs", ".env", "x/.env", "out/x", ".", "/etc/x", "~/.ssh/id", "src/*.rs"][..]),
    )
        .prop_map(|(t, p)| file(t, p));
    prop_oneof![3 => commands, 1 => files]
}

fn compile(allow: &[&str], ask: &[&str], deny: &[&str]) -> policy_rules::Policy {
    policy_rules::Policy::compile(&config(allow, ask, deny)).expect("rules of the table compile")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_deny_or_ask_rule_never_loosens(allow in rules(), ask in rules(), deny in rules(), more in proptest::sample::select(RULES), call in call()) {
        let before = decide(&compile(&allow, &ask, &deny), &call).effect;
        let denied = decide(&compile(&allow, &ask, &[&deny[..], &[more]].concat()), &call).effect;
        prop_assert!(denied >= before, "deny {more}: {before:?} became {denied:?}");
        let asked = decide(&compile(&allow, &[&ask[..], &[more]].concat(), &deny), &call).effect;
        prop_assert!(asked >= before, "ask {more}: {before:?} became {asked:?}");
    }

    #[test]
    fn an_allow_rule_never_overrides_a_rule_or_doubt(allow in rules(), ask in rules(), deny in rules(), more in proptest::sample::select(RULES), call in call()) {
        let before = decide(&compile(&allow, &ask, &deny), &call);
        let after = decide(&compile(&[&allow[..], &[more]].concat(), &ask, &deny), &call);
        let by_rule = before.effect == Effect::Deny || (before.effect == Effect::Ask && before.rule.is_some());
        if by_rule {
            prop_assert_eq!(&after, &before);
        }
        if call.parse != Parse::Complete {
            prop_assert!(after.effect != Effect::Allow);
        }
    }

    #[test]
    fn the_order_of_rules_does_not_change_the_effect(allow in rules(), ask in rules(), deny in rules(), call in call()) {
        let turn = |v: &[&'static str]| v.iter().rev().copied().collect::<Vec<_>>();
        let one = decide(&compile(&allow, &ask, &deny), &call).effect;
        prop_assert_eq!(decide(&compile(&turn(&allow), &turn(&ask), &turn(&deny)), &call).effect, one);
    }

    #[test]
    fn a_denied_command_stays_denied_in_wrappers(allow in rules(), pair in proptest::sample::select(DENIED),
        wraps in proptest::collection::vec(proptest::sample::select(WRAPPERS), 0..3)) {
        let (deny, command) = pair;
        // Quotes of the small language do not nest: at most one wrapper with a quoted script, the innermost.
        let mut text = command.to_owned();
        let mut quoted = false;
        for w in wraps {
            let quotes = w.contains('\'');
            if quotes && quoted || w.contains("find") && text.contains(['\'', ';']) || text.contains("&&") || text.contains('|') || text.contains(';') {
                continue;
            }
            quoted |= quotes;
            text = w.replace("{}", &text);
        }
        prop_assert_eq!(decide(&compile(&allow, &[], &[deny]), &bash(&text)).effect, Effect::Deny, "{}", text);
    }

    #[test]
    fn no_input_panics(rule in "\\PC{0,40}", tool in "(Bash|Read|Edit|WebFetch|Agent|mcp__x|\\PC{0,5})", text in "\\PC{0,60}") {
        for written in [rule.clone(), format!("{tool}({rule})"), format!("{tool}({rule}:*)")] {
            let json = serde_json::json!({ "allow": [written], "ask": [written], "deny": [written] }).to_string();
            if let Ok(policy) = policy_rules::Policy::compile(&json) {
                let _ = decide(&policy, &bash("git push $X"));
                for exact in [true, false] {
                    let word = beadle_plugin::Word { text: text.clone(), exact };
                    let command = beadle_plugin::Command { argv: vec![word.clone(), word.clone()], env: vec![word.clone()], ..beadle_plugin::Command::of(["x"]) };
                    let call = Call { commands: vec![command], urls: vec![text.clone()], paths: vec![support::path_use(&text, beadle_plugin::Access::ReadWrite, exact)], ..bash("x") };
                    let _ = decide(&policy, &call);
                }
            }
        }
    }
}
