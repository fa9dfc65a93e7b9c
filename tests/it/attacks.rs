//! Rules against attackers: the corpus through the real component, and through `beadle policy explain`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use beadle::plugin::{Host, HostOptions, Limits, LoadSpec, Plugin, Question, standard};

use crate::support::{TestHost, rules};

#[path = "../attacks/mod.rs"]
pub mod corpus;

#[path = "attacks/wraps.rs"]
mod wraps;

use corpus::{Case, Stage};

const DEADLINE: Duration = Duration::from_secs(10);

/// The standard policy `rules` as a component.
fn rules_policy(host: &Host, rules: &str) -> Arc<Plugin> {
    let spec =
        LoadSpec { name: "rules".to_owned(), wasm: Cow::Borrowed(standard::RULES), config: rules.to_owned(), limits: Limits::default() };
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

#[test]
fn explain_says_the_same() {
    let stage = Stage::new();
    let host = TestHost::new();
    host.config(&rules(&["*"], &[], &["Bash(git push:*)", "Bash(rm -rf:*)", "Bash(rm:*)", "Bash(curl:*)", "Read(./.env)"]));
    let picked = ["chaining", "wrappers", "quoting"];
    let cases: Vec<Case> = corpus::load(&stage)
        .into_iter()
        .filter(|c| c.attack && c.tool == "Bash" && picked.contains(&c.class.as_str()) && c.rules.contains("\"allow\":[\"*\"]"))
        .filter(|c| !c.shown().contains("env"))
        .collect();
    let lines: String =
        cases.iter().map(|c| format!("{}\n", serde_json::json!({ "command": c.input["command"], "cwd": stage.root() }))).collect();
    let file = host.file("attacks.jsonl", &lines).display().to_string();
    let said = host.beadle(["policy", "explain", "--cwd", &stage.root(), &file]);
    let effects: Vec<String> = said.lines().iter().map(|d| d["effect"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(cases.len() > 150 && effects.len() == cases.len(), "{} cases, {} answers: {}", cases.len(), effects.len(), said.err);
    let wrong: Vec<String> =
        cases.iter().zip(&effects).filter(|(c, e)| !c.want.holds(e)).map(|(c, e)| format!("{e}: {}", c.shown())).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
