//! The configuration, read and compiled once. Called by `lib`.

use beadle_plugin::Effect;
use policy_kit::config::{Keys, parse};

use crate::entry::Entry;

/// Most entries of one list.
const ENTRIES: usize = 4_096;

/// The compiled policy.
#[derive(Debug)]
pub struct Egress {
    pub(crate) allow: Vec<Entry>,
    pub(crate) ask: Vec<Entry>,
    pub(crate) deny: Vec<Entry>,
    pub(crate) default: Effect,
    pub(crate) private: Effect,
    pub(crate) on_uncertain: Effect,
    pub(crate) on_implied: Effect,
    pub(crate) fetch: Effect,
}

impl Egress {
    /// Reads a configuration (JSON, see the crate's documentation). The error is for the operator.
    pub fn read(config: &str) -> Result<Self, String> {
        let map = parse(config)?;
        let keys = Keys::of(&map, &["allow", "ask", "deny", "default", "private", "on_uncertain", "on_implied", "fetch"])?;
        let list = |key: &str| {
            let one = |(at, text): (String, &str)| Entry::parse(text).map_err(|e| format!("{at}: {e}, got {text:?}"));
            keys.list(key, ENTRIES)?.unwrap_or_default().into_iter().map(one).collect::<Result<Vec<_>, String>>()
        };
        let effect = |key: &str, words: &[&'static str]| {
            Ok::<_, String>(match keys.word(key, words)? {
                "ask" => Effect::Ask,
                "deny" => Effect::Deny,
                "allow" => Effect::Allow,
                _ => Effect::Abstain,
            })
        };
        Ok(Self {
            allow: list("allow")?,
            ask: list("ask")?,
            deny: list("deny")?,
            default: effect("default", &["ask", "deny", "abstain"])?,
            private: effect("private", &["ask", "deny", "abstain"])?,
            on_uncertain: keys.effect("on_uncertain", Effect::Ask)?,
            on_implied: effect("on_implied", &["ask", "deny", "ignore"])?,
            fetch: effect("fetch", &["allow", "abstain"])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_where_and_what() {
        let e = Egress::read("{}").expect("the defaults");
        assert_eq!((e.default, e.private, e.on_implied, e.fetch), (Effect::Ask, Effect::Ask, Effect::Ask, Effect::Allow));
        for (config, says) in [
            (r#"{"allowed": []}"#, "unknown key \"allowed\""),
            (r#"{"allow": ["https://a.org/path"]}"#, "allow[0]: expected [scheme://]host[:port]"),
            (r#"{"deny": ["a.org", "b_\u00e4.org"]}"#, "deny[1]: expected"),
            (r#"{"default": "allow"}"#, "default: expected \"ask\" or \"deny\" or \"abstain\""),
            (r#"{"on_uncertain": "ignore"}"#, "on_uncertain: expected"),
        ] {
            let e = Egress::read(config).expect_err(config);
            assert!(e.contains(says), "{config}: {e}");
        }
    }
}
