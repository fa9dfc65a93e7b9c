//! Comparing what a session has used with its limits. Called by `lib`.

use beadle_plugin::{Call, Decision, Effect, Session};
use policy_kit::Strictest;

use crate::amount::Unit;
use crate::config::{Budget, Limit};

/// Tools that start a sub-agent, over all agents, in lower case.
const STARTS_SUB_AGENT: &[&str] = &["task", "agent", "spawn_agent", "collaborationspawn_agent", "codebase_investigator"];
/// Added to the reasons of limits that are known only when a response is complete.
const LATE: &str = " (known to within one model response)";

/// One limit beside what was used of it.
struct Used<'a> {
    key: &'static str,
    what: &'static str,
    limit: &'a Option<Limit>,
    used: u64,
    unit: Unit,
    note: &'static str,
}

impl Used<'_> {
    /// The limit that is reached, and what it does.
    fn reached(&self) -> Option<(Effect, u64)> {
        let limit = self.limit.as_ref()?;
        let at = |n: &u64| self.used >= *n;
        limit.hard.filter(at).map(|n| (Effect::Deny, n)).or_else(|| limit.soft.filter(at).map(|n| (Effect::Ask, n)))
    }

    fn reason(&self, effect: Effect, limit: u64) -> String {
        let (used, limit) = (self.unit.show(self.used), self.unit.show(limit));
        match effect {
            Effect::Deny => format!("the session's budget is used up: {} {used} of {limit}{}", self.what, self.note),
            _ => format!("the session's budget runs out: {} {used}, asked about from {limit} on{}", self.what, self.note),
        }
    }
}

impl Budget {
    pub(crate) fn judge(&self, session: &Session, call: &Call) -> Decision {
        let mut out = Strictest::default();
        let starts = STARTS_SUB_AGENT.contains(&call.tool.to_ascii_lowercase().as_str());
        let of_calls = [
            Used { key: "calls", what: "calls", limit: &self.calls, used: session.calls, unit: Unit::Count, note: "" },
            Used { key: "denied", what: "denied calls", limit: &self.denied, used: session.denied, unit: Unit::Count, note: "" },
        ];
        let of_agents =
            Used { key: "sub_agents", what: "sub-agents", limit: &self.sub_agents, used: session.sub_agents, unit: Unit::Count, note: "" };
        let all = of_calls.into_iter().chain(starts.then_some(of_agents)).chain(self.of_session(session, call.at_ms));
        for used in all {
            if let Some((effect, limit)) = used.reached() {
                out.add(effect, used.key, || used.reason(effect, limit));
            }
        }
        if let Some(why) = self.unknown_cost(session) {
            out.add(self.unpriced, "unpriced", || why);
        }
        out.decision().unwrap_or_else(Decision::abstain)
    }

    /// Why a further turn must not begin.
    pub(crate) fn refusal(&self, session: &Session, at_ms: u64) -> Option<String> {
        let hard = self.of_session(session, at_ms).into_iter().find_map(|u| match u.reached() {
            Some((Effect::Deny, limit)) => Some(u.reason(Effect::Deny, limit)),
            _ => None,
        });
        hard.or_else(|| self.unknown_cost(session).filter(|_| self.unpriced == Effect::Deny))
    }

    /// The limits that bind turns as well as calls.
    fn of_session(&self, s: &Session, at_ms: u64) -> [Used<'_>; 5] {
        let u = &s.usage;
        let tokens = [u.input, u.output, u.cache_read, u.cache_write].into_iter().fold(0, u64::saturating_add);
        let wall = at_ms.saturating_sub(s.created_at_ms);
        let row = |key, what, limit, used, unit, note| Used { key, what, limit, used, unit, note };
        [
            row("turns", "turns", &self.turns, s.turns, Unit::Count, ""),
            row("wall", "time", &self.wall, wall, Unit::Millis, ""),
            row("tokens", "tokens", &self.tokens, tokens, Unit::Count, LATE),
            row("output_tokens", "output tokens", &self.output_tokens, u.output, Unit::Count, LATE),
            row("cost_usd", "cost", &self.cost, s.cost_nanousd.unwrap_or(0), Unit::Nanousd, LATE),
        ]
    }

    fn unknown_cost(&self, s: &Session) -> Option<String> {
        (self.cost.is_some() && s.unpriced > 0 && self.unpriced != Effect::Abstain).then(|| {
            format!(
                "the session's cost is not known: {} model responses have no known price; give the model a price (`usage.prices`), or set \
                 unpriced = \"ignore\"",
                s.unpriced
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beadle_plugin::Usage;
    use proptest::prelude::*;

    fn judge(config: &str, session: &Session, tool: &str, at_ms: u64) -> Decision {
        Budget::read(config).expect(config).judge(session, &Call { tool: tool.into(), at_ms, ..Call::default() })
    }

    #[test]
    fn each_limit_binds_at_its_number() {
        let base = Session { created_at_ms: 1_000, ..Session::default() };
        let usage = |n| Usage { input: n, output: n, cache_read: n, cache_write: n };
        type Make = fn(u64, &Session) -> Session;
        let makes: [(&str, Make); 5] = [
            ("calls", |n, s| Session { calls: n, ..s.clone() }),
            ("denied", |n, s| Session { denied: n, ..s.clone() }),
            ("turns", |n, s| Session { turns: n, ..s.clone() }),
            ("sub_agents", |n, s| Session { sub_agents: n, ..s.clone() }),
            ("output_tokens", |n, s| Session { usage: Usage { output: n, ..s.usage }, ..s.clone() }),
        ];
        for (key, make) in makes {
            let config = format!(r#"{{"{key}": {{"soft": 3, "hard": 5}}}}"#);
            for (n, want) in [(2, Effect::Abstain), (3, Effect::Ask), (4, Effect::Ask), (5, Effect::Deny), (u64::MAX, Effect::Deny)] {
                let d = judge(&config, &make(n, &base), "Agent", 0);
                assert_eq!(d.effect, want, "{key} {n}");
                assert_eq!(d.rule.is_some(), want != Effect::Abstain);
                assert!(want == Effect::Abstain || d.rule.as_deref() == Some(key));
            }
        }
        let tokens = Session { usage: usage(25), ..base.clone() };
        let d = judge(r#"{"tokens": 100}"#, &tokens, "x", 0);
        assert_eq!(d.effect, Effect::Deny);
        assert!(d.reason.contains("tokens 100 of 100") && d.reason.contains("within one model response"), "{}", d.reason);
        assert_eq!(judge(r#"{"tokens": 101}"#, &tokens, "x", 0).effect, Effect::Abstain);
        assert_eq!(judge(r#"{"sub_agents": 0}"#, &base, "Bash", 0).effect, Effect::Abstain, "only calls that start one");
        for (at, want) in [(60_999, Effect::Abstain), (61_000, Effect::Deny), (0, Effect::Abstain)] {
            assert_eq!(judge(r#"{"wall": "1m"}"#, &base, "x", at).effect, want, "{at}");
        }
    }

    #[test]
    fn a_cost_that_is_not_known_is_said() {
        let s = |cost, unpriced| Session { cost_nanousd: cost, unpriced, ..Session::default() };
        for (config, session, want) in [
            (r#"{"cost_usd": "0.5"}"#, s(Some(499_999_999), 0), Effect::Abstain),
            (r#"{"cost_usd": "0.5"}"#, s(Some(500_000_000), 0), Effect::Deny),
            (r#"{"cost_usd": "0.5"}"#, s(None, 0), Effect::Abstain),
            (r#"{"cost_usd": "0.5"}"#, s(None, 1), Effect::Deny),
            (r#"{"cost_usd": "0.5", "unpriced": "ask"}"#, s(None, 1), Effect::Ask),
            (r#"{"cost_usd": "0.5", "unpriced": "ignore"}"#, s(None, 1), Effect::Abstain),
            (r#"{"calls": 5}"#, s(None, 1), Effect::Abstain),
        ] {
            assert_eq!(judge(config, &session, "x", 0).effect, want, "{config} {session:?}");
        }
        let d = judge(r#"{"cost_usd": 1}"#, &s(Some(2_500_000_000), 0), "x", 0);
        assert!(d.reason.contains("$2.50 of $1.00") && d.reason.contains("within one model response"), "{}", d.reason);
    }

    #[test]
    fn a_prompt_is_refused_when_no_turn_may_begin() {
        let b = Budget::read(r#"{"turns": {"soft": 1, "hard": 2}, "calls": 1, "cost_usd": 1}"#).expect("a config");
        let s = |turns, calls, unpriced| Session { turns, calls, unpriced, ..Session::default() };
        assert_eq!(b.refusal(&s(1, 9, 0), 0), None);
        assert!(b.refusal(&s(2, 0, 0), 0).is_some_and(|r| r.contains("turns 2 of 2")));
        assert!(b.refusal(&s(0, 0, 1), 0).is_some_and(|r| r.contains("no known price")));
    }

    proptest! {
        #[test]
        fn more_use_is_never_looser(soft in 0u64..20, gap in 0u64..20, a in 0u64..60, more in 0u64..60) {
            let config = format!(r#"{{"calls": {{"soft": {soft}, "hard": {}}}}}"#, soft + gap);
            let at = |calls| judge(&config, &Session { calls, ..Session::default() }, "x", 0).effect;
            let rank = |e| [Effect::Abstain, Effect::Allow, Effect::Ask, Effect::Deny].iter().position(|x| *x == e);
            prop_assert!(rank(at(a)) <= rank(at(a + more)));
        }
    }
}
