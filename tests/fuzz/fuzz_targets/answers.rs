//! What policies answer, from the fields that the engine decoded: the host reads each within its limits or as a failure, and
//! through the chain the strictest holds, a failure counts as the operator said, and there is one rewrite at most.

#![no_main]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use beadle_fuzz::model::{By, Call, Channel, Decision, Effect, FailureCause, Mode, OnFailure, Session};
use beadle_fuzz::plugin::answer::{MAX_REASON, MAX_RULE, read};
use beadle_fuzz::policy::call::{CallInput, build};
use beadle_fuzz::policy::chain::{Chain, Failure, Policy, PolicySlot, Subject};
use beadle_fuzz::policy::paths::{Entry, Paths};
use beadle_fuzz::take::Take;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

struct Nothing;

impl Paths for Nothing {
    fn entry(&self, _path: &str) -> Entry {
        Entry::Missing
    }
}

/// Gives the first answer, then the second.
struct Says {
    answers: [Result<Decision, Failure>; 2],
    asked: AtomicUsize,
}

impl Policy for Says {
    fn decide<'a>(&'a self, _subject: &'a Subject<'_>, _deadline: Duration) -> BoxFuture<'a, Result<Decision, Failure>> {
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        assert!(n < 2, "asked a third time");
        let answer = self.answers[n].clone();
        async move { answer }.boxed()
    }

    fn digest(&self) -> &str {
        "digest"
    }
}

fn effect(n: u8) -> Effect {
    [Effect::Abstain, Effect::Allow, Effect::Ask, Effect::Deny][usize::from(n % 4)]
}

/// An answer as the engine decoded it, read by the host: `kind` is its effect, and what else it has.
fn answer(kind: u8, text: String) -> Result<Decision, Failure> {
    let failure = |cause, detail| Failure { cause, detail };
    if kind & 0x80 != 0 {
        return Err(failure(FailureCause::Trap, "said so".to_owned()));
    }
    // Longer than its limit, now and then: an input of the fuzzer is short.
    let text = if kind & 0x08 != 0 { text.repeat(1 + MAX_RULE / 16) } else { text };
    let input = (kind & 0x40 != 0).then_some(text.as_str());
    let rule = (kind & 0x20 != 0).then(|| text.clone());
    let reason = if kind & 0x10 != 0 { text.clone() } else { String::new() };
    let read = read(effect(kind), reason, rule, input);
    if let Ok(d) = &read {
        assert!(d.reason.len() <= MAX_REASON && d.rule.as_ref().is_none_or(|r| r.len() <= MAX_RULE));
        assert!(d.effect == effect(kind) && d.updated_input.is_some() == input.is_some());
        assert!(d.updated_input.as_ref().is_none_or(Value::is_object));
    }
    read.map_err(|why| failure(FailureCause::BadAnswer, why))
}

fn call(input: &Value) -> Call {
    let given = CallInput {
        agent: "claude",
        tool: "Bash",
        input,
        cwd: "/w",
        write_root: None,
        home: None,
        call_id: None,
        parent_call_id: None,
        sub_agent: None,
        channel: Channel::Driver,
    };
    build(&given, &Nothing)
}

fuzz_target!(|data: &[u8]| {
    let mut take = Take(data);
    let (slots, default) = (usize::from(take.byte() % 5), effect(take.byte()));
    let kinds: Vec<[u8; 3]> = (0..slots).map(|_| [take.byte(), take.byte(), take.byte()]).collect();
    let policies: Vec<Arc<Says>> = kinds
        .iter()
        .map(|k| Arc::new(Says { answers: [answer(k[0], take.text()), answer(k[1], take.text())], asked: AtomicUsize::new(0) }))
        .collect();
    let slots = policies.iter().zip(&kinds).enumerate().map(|(n, (p, k))| PolicySlot {
        name: format!("p{n}"),
        policy: if k[2] & 0x10 == 0 {
            Ok(Arc::clone(p) as Arc<dyn Policy>)
        } else {
            Err(Failure { cause: FailureCause::Load, detail: String::new() })
        },
        mode: if k[2] & 1 == 0 { Mode::Enforce } else { Mode::Monitor },
        on_failure: [OnFailure::Deny, OnFailure::Ask, OnFailure::Abstain][usize::from((k[2] >> 1) % 3)],
        deadline: Duration::from_secs(1),
        tighten_only: k[2] & 8 != 0,
    });
    let chain = Chain { slots: slots.collect(), default, states: None, generation: 0, rules: 0, made_of: None };
    let input = json!({"command": "true"});
    let judged = chain
        .judge(&session(), &call(&input), 0, &|v| if v.is_object() { Ok(call(v)) } else { Err("no object".to_owned()) })
        .now_or_never()
        .unwrap_or_else(|| panic!("nothing here waits"));

    assert_ne!(judged.effect, Effect::Abstain);
    assert_eq!(judged.answers.len(), chain.slots.len());
    let binding: Vec<&_> = judged.answers.iter().filter(|a| a.mode == Mode::Enforce).collect();
    let strictest = binding.iter().map(|a| a.decision.effect).max().unwrap_or(Effect::Abstain);
    assert!(judged.effect >= strictest, "looser than an answer that binds");
    if judged.effect == Effect::Allow {
        assert!(strictest <= Effect::Allow && (strictest == Effect::Allow || default <= Effect::Allow));
        assert!(judged.by == By::Default || chain.slots.iter().any(|s| !s.tighten_only && s.mode == Mode::Enforce));
    }
    for (slot, answer) in chain.slots.iter().zip(&judged.answers) {
        if answer.failed.is_some() {
            assert_eq!(answer.decision.effect, slot.on_failure.effect());
        } else if slot.tighten_only {
            assert!(answer.decision.effect != Effect::Allow && answer.decision.updated_input.is_none());
        }
    }
    if let Some(new) = &judged.updated_input {
        // All that could judge it did, and nobody wanted a further change.
        assert!(new.is_object());
        for (p, slot) in policies.iter().zip(&chain.slots) {
            assert_eq!(p.asked.load(Ordering::Relaxed), if slot.policy.is_ok() { 2 } else { 0 });
        }
        assert!(binding.iter().all(|a| a.decision.updated_input.as_ref().is_none_or(|v| v == new)));
    }
});

fn session() -> Session {
    serde_json::from_value(json!({
        "id": "fix-the-build-m2k9x1a7-k3v9q", "name": "test", "agent": "claude", "status": "running", "mediation": "gate",
        "command": [], "cwd": "/w", "created_at": 0, "last_activity_at": 0,
        "attempt": 1, "usage": {"input": 0, "output": 0, "cache_read": 0, "cache_write": 0}, "unpriced": 0, "turns": 0,
        "sub_agents": 0, "calls": 0, "allowed": 0, "denied": 0, "asked": 0, "rewritten": 0, "waiting": 0, "breaches": 0,
        "plugin_failures": 0, "last_seq": 1
    }))
    .unwrap_or_else(|e| panic!("{e}"))
}
