//! The corpus of attacks, natively: the host's own reading of each call, judged by this crate without a component in between.
//!
//! The host's modules are mounted by path, so that nothing of its engine is built.

#![allow(dead_code, unused_imports, clippy::all, reason = "the host uses more of these modules than this test, and they are checked there")]

// The corpus is written for a crate of that name.
extern crate self as beadle;

#[path = "../../../src/agent/mod.rs"]
mod agent;
#[path = "../../../tests/attacks/mod.rs"]
mod corpus;
#[path = "../../../src/model/mod.rs"]
mod model;
#[path = "host/policy.rs"]
mod policy;
#[path = "../../../src/shell/mod.rs"]
mod shell;
#[path = "../../../src/whole.rs"]
mod whole;
#[path = "../../../tests/attacks/wit.rs"]
mod wit;

use std::collections::BTreeMap;

use policy_rules::Policy;

#[test]
fn no_attack_of_the_corpus_is_allowed_and_the_innocent_are() {
    let stage = corpus::Stage::new();
    let session = beadle_plugin::Session { root: stage.root(), home: Some(stage.home()), ..Default::default() };
    let cases = corpus::load(&stage);
    let mut policies: BTreeMap<&str, Policy> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let policy =
            policies.entry(&case.rules).or_insert_with(|| Policy::compile(&case.rules).unwrap_or_else(|e| panic!("{}: {e}", case.class)));
        let call = stage.call(&case.tool, &case.input);
        let got = policy.decide(&session, &wit::to_wit(&call));
        let effect = format!("{:?}", got.effect).to_lowercase();
        let effect = effect.trim_start_matches("effect::");
        if !case.want.holds(effect) {
            let why = call.parse_reason.as_deref().unwrap_or_default();
            wrong.push(format!(
                "{}: wanted {:?}, got {effect}: {}\n    {} {why} ({})",
                case.class,
                case.want,
                case.shown(),
                got.reason,
                case.from
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    for (class, (attacks, innocent)) in corpus::counts(&cases) {
        assert!(attacks >= 8 && innocent >= 8, "{class}: {attacks} attacks, {innocent} innocent cases");
    }
}
