//! Rules against attackers: the corpus through the real component, and through `beadle policy explain`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use beadle::model::{Effect, Grants};
use beadle::plugin::{Host, HostOptions, Limits, LoadSpec, Plugin, Question, standard};

use serde_json::{Value, json};

use crate::support::TestHost;

#[path = "../attacks/mod.rs"]
pub mod corpus;

#[path = "attacks/wraps.rs"]
mod wraps;

use corpus::{Case, Stage};

const DEADLINE: Duration = Duration::from_secs(10);

/// The standard policy `rules` as a component.
fn rules_policy(host: &Host, rules: &str) -> Arc<Plugin> {
    let spec = LoadSpec {
        name: "rules".to_owned(),
        wasm: Cow::Borrowed(standard::RULES),
        config: rules.to_owned(),
        limits: Limits::default(),
        grants: Grants::default(),
    };
    host.load(spec).unwrap_or_else(|e| panic!("{rules}: {e}"))
}

#[test]
fn no_attack_of_the_corpus_is_allowed_and_the_innocent_are() {
    let stage = Stage::new();
    let (session, cases) = (stage.session(), corpus::load(&stage));
    let host = Host::new(HostOptions::default()).expect("an engine");
    let mut sets: Vec<(&str, Vec<&Case>)> = Vec::new();
    for case in &cases {
        match sets.iter_mut().find(|(rules, _)| *rules == case.rules) {
            Some((_, of)) => of.push(case),
            None => sets.push((&case.rules, vec![case])),
        }
    }
    let judge = |(rules, of): &(&str, Vec<&Case>)| {
        let policy = rules_policy(&host, rules);
        let mut wrong = Vec::new();
        for case in of {
            let call = stage.call(&case.tool, &case.input);
            let got = policy.decide_here(&Question::new(&session, &call, 0), DEADLINE).expect("a decision");
            if !case.want.holds(got.effect.as_str()) {
                let (why, is, shown) = (call.parse_reason.as_deref().unwrap_or_default(), got.effect.as_str(), case.shown());
                wrong.push(format!("{}: wanted {:?}, got {is}: {shown}\n    {} {why} ({})", case.class, case.want, got.reason, case.from));
            }
        }
        wrong
    };
    let half = sets.len() / 2;
    let wrong = std::thread::scope(|s| {
        let first = s.spawn(|| sets[..half].iter().flat_map(judge).collect::<Vec<_>>());
        let mut wrong: Vec<String> = sets[half..].iter().flat_map(judge).collect();
        wrong.extend(first.join().expect("a thread"));
        wrong.sort();
        wrong
    });
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let counts = corpus::counts(&cases);
    for (class, (attacks, innocent)) in &counts {
        assert!(*attacks >= 8 && *innocent >= 8, "{class}: {attacks} attacks, {innocent} innocent cases");
    }
    assert!(counts.len() >= 15, "{counts:?}");
}

/// Cases of each class that `explain` is asked about, attacks and innocent ones each.
const SAMPLE: usize = 6;

#[test]
fn explain_says_the_same() {
    let stage = Stage::new();
    let (session, cases) = (stage.session(), corpus::load(&stage));
    let engine = Host::new(HostOptions::default()).expect("an engine");
    let mut host = TestHost::new();
    host.set("HOME", stage.home());
    let mut by_class: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in &cases {
        by_class.entry(&case.class).or_default().push(case);
    }
    let mut wrong = Vec::new();
    for (class, of) in &by_class {
        // One set of rules for each class: that of its first case.
        let rules = &of[0].rules;
        let some = |attack: bool| {
            let same: Vec<&Case> = of.iter().filter(|c| c.attack == attack && c.rules == *rules).copied().collect();
            let step = same.len().div_ceil(SAMPLE).max(1);
            same.into_iter().step_by(step)
        };
        let picked: Vec<&Case> = some(true).chain(some(false)).collect();
        assert!(picked.len() >= SAMPLE, "{class}: {} cases", picked.len());
        let policy = json!({ "policy": [{ "name": "rules", "plugin": "rules", "deadline_ms": 10_000,
            "config": serde_json::from_str::<Value>(rules).expect("JSON") }] });
        host.config(&toml::to_string(&policy).expect("TOML"));
        let line = |c: &&Case| format!("{}\n", json!({ "tool_name": c.tool, "tool_input": c.input, "cwd": stage.root() }));
        let lines: String = picked.iter().map(line).collect();
        let file = host.file("calls.jsonl", &lines).display().to_string();
        let said = host.beadle(["policy", "explain", "--cwd", &stage.root(), &file]);
        let effects: Vec<String> = said.lines().iter().map(|d| d["effect"].as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!(effects.len(), picked.len(), "{class}: {}", said.err);
        let gate = rules_policy(&engine, rules);
        for (case, got) in picked.iter().zip(&effects) {
            let at_gate =
                gate.decide_here(&Question::new(&session, &stage.call(&case.tool, &case.input), 0), DEADLINE).expect("a decision");
            // What no rule speaks of is asked by default.
            let at_gate = if at_gate.effect == Effect::Abstain { Effect::Ask } else { at_gate.effect };
            if at_gate.as_str() != got {
                wrong.push(format!("{class}: explained as {got}, judged {}: {}", at_gate.as_str(), case.shown()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
