//! The configuration, read once. Called by `lib`.

use beadle_plugin::Effect;
use policy_kit::config::{Keys, parse};

use crate::amount::Unit;

/// From `soft` on calls are asked about, from `hard` on denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// The limits of a session; what is not set does not bind.
#[derive(Debug)]
pub struct Budget {
    pub(crate) calls: Option<Limit>,
    pub(crate) denied: Option<Limit>,
    pub(crate) sub_agents: Option<Limit>,
    pub(crate) turns: Option<Limit>,
    pub(crate) wall: Option<Limit>,
    pub(crate) tokens: Option<Limit>,
    pub(crate) output_tokens: Option<Limit>,
    pub(crate) cost: Option<Limit>,
    /// What a session with a limit on its cost gets while the cost is only a lower bound; abstain for `ignore`.
    pub(crate) unpriced: Effect,
}

const KEYS: &[&str] = &["calls", "denied", "sub_agents", "turns", "wall", "tokens", "output_tokens", "cost_usd", "unpriced"];

impl Budget {
    /// Reads a configuration (JSON, see the crate's documentation). The error is for the operator.
    pub fn read(config: &str) -> Result<Self, String> {
        let map = parse(config)?;
        let keys = Keys::of(&map, KEYS)?;
        let count = |key| limit(&keys, key, Unit::Count);
        Ok(Self {
            calls: count("calls")?,
            denied: count("denied")?,
            sub_agents: count("sub_agents")?,
            turns: count("turns")?,
            wall: limit(&keys, "wall", Unit::Millis)?,
            tokens: count("tokens")?,
            output_tokens: count("output_tokens")?,
            cost: limit(&keys, "cost_usd", Unit::Nanousd)?,
            unpriced: match keys.word("unpriced", &["deny", "ask", "ignore"])? {
                "ask" => Effect::Ask,
                "ignore" => Effect::Abstain,
                _ => Effect::Deny,
            },
        })
    }
}

fn limit(keys: &Keys<'_>, key: &str, unit: Unit) -> Result<Option<Limit>, String> {
    let Some(value) = keys.get(key) else { return Ok(None) };
    if !value.is_object() {
        let hard = unit.read(value).ok_or_else(|| keys.wrong(key, value, unit.expected()))?;
        return Ok(Some(Limit { soft: None, hard: Some(hard) }));
    }
    let Some(inner) = keys.object(key, &["soft", "hard"])? else { return Ok(None) };
    let part = |name: &str| {
        let Some(v) = inner.get(name) else { return Ok(None) };
        unit.read(v).map(Some).ok_or_else(|| inner.wrong(name, v, unit.expected()))
    };
    let limit = Limit { soft: part("soft")?, hard: part("hard")? };
    match limit {
        Limit { soft: None, hard: None } => Err(keys.wrong(key, value, unit.expected())),
        Limit { soft: Some(s), hard: Some(h) } if s > h => {
            Err(format!("{}: soft ({}) is above hard ({}), so it would never hold", keys.name(key), unit.show(s), unit.show(h)))
        }
        _ => Ok(Some(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_numbers_or_pairs() {
        let b = Budget::read(r#"{"calls": 5, "wall": {"soft": "1m"}, "cost_usd": {"soft": 1, "hard": "2.5"}}"#).expect("a config");
        assert_eq!(b.calls, Some(Limit { soft: None, hard: Some(5) }));
        assert_eq!(b.wall, Some(Limit { soft: Some(60_000), hard: None }));
        assert_eq!(b.cost, Some(Limit { soft: Some(1_000_000_000), hard: Some(2_500_000_000) }));
        assert_eq!((b.unpriced, b.turns), (Effect::Deny, None));
    }

    #[test]
    fn errors_say_where_and_what() {
        for (config, says) in [
            (r#"{"call": 5}"#, "unknown key \"call\"; expected one of calls"),
            (r#"{"calls": -5}"#, "calls: expected a whole number"),
            (r#"{"calls": {}}"#, "calls: expected"),
            (r#"{"calls": {"hrad": 5}}"#, "unknown key \"calls.hrad\""),
            (r#"{"calls": {"soft": 9, "hard": 5}}"#, "calls: soft (9) is above hard (5)"),
            (r#"{"wall": "5 weeks"}"#, "wall: expected seconds"),
            (r#"{"cost_usd": {"hard": "1.1234567891"}}"#, "cost_usd.hard: expected dollars"),
            (r#"{"unpriced": "allow"}"#, "unpriced: expected"),
        ] {
            let e = Budget::read(config).expect_err(config);
            assert!(e.contains(says), "{config}: {e}");
        }
    }
}
