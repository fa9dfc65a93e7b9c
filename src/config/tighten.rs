//! Settings that one session gets tighter than its configuration has them, on the word of a policy.
//!
//! Invariant: what comes out is never looser; the settings are those that any project may tighten, by the same rule.
//!
//! Called by `session` when a session starts and when it is adopted.

use serde_json::{Value as Json, json};

use super::{Config, HooksAsk, OnBreach, Scope, Unattended, UnknownCost, Unreplaceable, keys};
use crate::model::moment::Tightened;
use crate::model::{Effect, Mediation};

impl Config {
    /// Takes one setting; the error says why it is not taken.
    pub fn tighten(&mut self, t: &Tightened) -> Result<(), String> {
        let Some(key) = keys::find(&t.setting).filter(|k| k.scope == Scope::Tighten) else {
            return Err(format!("{:?} is no setting that can be tightened for a session", t.setting));
        };
        if !key.accepts(&t.value) {
            return Err(format!("{} is no value of {}", t.value, key.name));
        }
        let Some(old) = self.tightenable(key.name) else { return Err(format!("{} cannot be tightened for a session", key.name)) };
        if !key.is_stricter(&old, &t.value) {
            return Err(format!("{} = {} is looser than {old}, which holds", key.name, t.value));
        }
        self.set(key.name, &t.value);
        Ok(())
    }

    /// The present value of a setting with the scope `Tighten`.
    fn tightenable(&self, name: &str) -> Option<Json> {
        Some(match name {
            "default" => json!(self.default.as_str()),
            "session.require_mediation" => json!(self.require_mediation.as_str()),
            "session.require_attested" => json!(self.require_attested),
            "session.on_breach" => json!(self.on_breach.as_str()),
            "session.host_tools" => json!(if self.host_tools { "on" } else { "off" }),
            "session.expect_report" => json!(self.record.expect_report),
            "session.read_only_repo" => json!(self.record.read_only_repo),
            "approvals.timeout_ms" => json!(self.approval_timeout_ms),
            "approvals.unattended" => json!(if self.unattended == Unattended::Deny { "deny" } else { "wait" }),
            "hooks.ask" => json!(self.hooks_ask.as_str()),
            "results.unreplaceable" => json!(if self.unreplaceable == Unreplaceable::Stop { "stop" } else { "tell" }),
            "attempts.feedback_rounds" => json!(self.feedback_rounds),
            "compaction.threshold_percent" => json!(self.compaction.threshold_percent),
            "limits.tree_depth" => json!(self.tree_depth),
            "limits.children" => json!(self.children),
            "limits.waiting_asks" => json!(self.waiting_asks),
            "limits.unknown_cost" => json!(if self.unknown_cost == UnknownCost::Stop { "stop" } else { "warn" }),
            "limits.finish_ms" => json!(self.finish_ms),
            _ => return None,
        })
    }

    /// The value was accepted by the setting's key.
    fn set(&mut self, name: &str, value: &Json) {
        let word = value.as_str().unwrap_or_default();
        let number = value.as_u64().unwrap_or_default();
        match name {
            "default" => self.default = if word == "deny" { Effect::Deny } else { self.default.max(Effect::Ask) },
            "session.require_mediation" => {
                self.require_mediation = if word == "gate" { Mediation::Gate } else { self.require_mediation.max(Mediation::Hooks) }
            }
            "session.require_attested" => self.require_attested |= value == true,
            "session.on_breach" => self.on_breach = if word == "stop" { OnBreach::Stop } else { self.on_breach.max(OnBreach::Pause) },
            "session.host_tools" => self.host_tools &= word != "off",
            "session.expect_report" => self.record.expect_report |= value == true,
            "session.read_only_repo" => self.record.read_only_repo |= value == true,
            "approvals.timeout_ms" => self.approval_timeout_ms = number,
            "approvals.unattended" => self.unattended = if word == "deny" { Unattended::Deny } else { self.unattended },
            "hooks.ask" => self.hooks_ask = if word == "deny" { HooksAsk::Deny } else { self.hooks_ask.max(HooksAsk::Wait) },
            "results.unreplaceable" => self.unreplaceable = if word == "stop" { Unreplaceable::Stop } else { self.unreplaceable },
            "attempts.feedback_rounds" => self.feedback_rounds = number,
            "compaction.threshold_percent" => self.compaction.threshold_percent = number,
            "limits.tree_depth" => self.tree_depth = number,
            "limits.children" => self.children = number,
            "limits.waiting_asks" => self.waiting_asks = number,
            "limits.unknown_cost" => self.unknown_cost = if word == "stop" { UnknownCost::Stop } else { self.unknown_cost },
            "limits.finish_ms" => self.finish_ms = number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KEYS, Kind, Sources, load};

    fn config() -> Config {
        load(&Sources { user: None, cwd: None, env: &|_| None, trusted: &|_, _| false }).expect("defaults").config
    }

    fn tighten(c: &mut Config, setting: &str, value: Json) -> Result<(), String> {
        c.tighten(&Tightened { setting: setting.to_owned(), value })
    }

    /// Each setting that a project may tighten can be read here, set to its strictest value, and then not loosened again.
    #[test]
    fn every_tightenable_setting_goes_one_way() {
        for key in KEYS.iter().filter(|k| k.scope == Scope::Tighten) {
            let mut c = config();
            let (loosest, strictest) = match key.kind {
                Kind::Words(w) => (json!(w[0]), json!(w[w.len() - 1])),
                Kind::Number { min, max } => (json!(max), json!(min)),
                Kind::Flag => (json!(false), json!(true)),
                Kind::Text | Kind::Texts { .. } => panic!("{} has no order", key.name),
            };
            let before = c.tightenable(key.name).unwrap_or_else(|| panic!("{} is not covered", key.name));
            assert!(key.accepts(&before), "{}: {before}", key.name);
            assert_eq!(tighten(&mut c, key.name, strictest.clone()), Ok(()), "{}", key.name);
            assert_eq!(c.tightenable(key.name), Some(strictest), "{}", key.name);
            assert!(tighten(&mut c, key.name, loosest).is_err_and(|e| e.contains("looser")), "{}", key.name);
        }
    }

    #[test]
    fn what_cannot_be_taken_is_named() {
        let mut c = config();
        for (setting, value, says) in [
            ("limits.live_sessions", json!(1), "no setting that can be tightened"),
            ("nonsense", json!(1), "nonsense"),
            ("approvals.timeout_ms", json!("1"), "no value"),
            ("hooks.ask", json!("never"), "no value"),
        ] {
            assert!(tighten(&mut c, setting, value).is_err_and(|e| e.contains(says)), "{setting}");
        }
        assert_eq!(c, config());
    }
}
