//! What the standard policies share: reading a configuration by key, folding answers to the strictest, patterns of names, addresses.
//!
//! Invariants: nothing here panics on input; every text that comes from a call is cut and escaped before it goes into a reason.
//!
//! Called by the crates `policy-paths`, `policy-budget`, `policy-egress` and `policy-cedar`. `policy-rules` has its own, made for speed.

pub mod config;
pub mod glob;
pub mod host;

use beadle_plugin::{Decision, Effect};

/// Longest piece of a call that a reason quotes, in characters.
const SHOWN: usize = 160;

/// A piece of a call for a reason: quoted, escaped, and cut.
pub fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{:?} (cut)", &text[..at]),
        None => format!("{text:?}"),
    }
}

/// Folds answers: the strictest holds, and of equally strict ones the first.
#[derive(Debug, Default)]
pub struct Strictest(Option<Decision>);

impl Strictest {
    /// `reason` is made only where the effect counts.
    pub fn add(&mut self, effect: Effect, rule: impl Into<String>, reason: impl FnOnce() -> String) {
        if self.0.as_ref().is_none_or(|d| rank(d.effect) < rank(effect)) {
            self.0 = Some(Decision::new(effect, reason()).because(rule));
        }
    }

    /// What came of it; `None` where nothing spoke.
    pub fn decision(self) -> Option<Decision> {
        self.0
    }
}

const fn rank(e: Effect) -> u8 {
    match e {
        Effect::Abstain => 0,
        Effect::Allow => 1,
        Effect::Ask => 2,
        Effect::Deny => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_holds_and_the_first_of_equals() {
        let mut s = Strictest::default();
        s.add(Effect::Ask, "a", || "first".into());
        s.add(Effect::Ask, "b", || panic!("not needed"));
        s.add(Effect::Deny, "c", || "denied".into());
        s.add(Effect::Allow, "d", || panic!("not needed"));
        let d = s.decision().expect("an answer");
        assert_eq!((d.effect, d.rule.as_deref(), d.reason.as_str()), (Effect::Deny, Some("c"), "denied"));
        assert!(Strictest::default().decision().is_none());
    }

    #[test]
    fn what_is_shown_is_short_and_plain() {
        assert_eq!(shown("a\u{202e}\n"), r#""a\u{202e}\n""#);
        assert!(shown(&"ä".repeat(5000)).len() < 400);
    }
}
