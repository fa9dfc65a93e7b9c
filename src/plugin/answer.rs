//! A policy's answer, as decoded, into a decision: within the limits, and a replaced input is a JSON object.
//!
//! Pure, and apart from the bindings, so that the fuzz target `answers` runs this very code. Called by `v0_1`.

use serde_json::Value;

use crate::model::{Decision, Effect};

/// Longest reason of a decision, in bytes.
pub const MAX_REASON: usize = 4 << 10;
/// Longest rule of a decision, in bytes.
pub const MAX_RULE: usize = 1 << 10;
/// Longest updated input of a decision, in bytes of JSON.
pub const MAX_INPUT: usize = 1 << 20;

/// The decision; the error says which limit the answer broke.
pub fn read(effect: Effect, reason: String, rule: Option<String>, updated_input: Option<&str>) -> Result<Decision, String> {
    within("a reason", &reason, MAX_REASON)?;
    if let Some(rule) = &rule {
        within("a rule", rule, MAX_RULE)?;
    }
    let updated_input = match updated_input {
        None => None,
        Some(text) => {
            within("an updated input", text, MAX_INPUT)?;
            match serde_json::from_str(text) {
                Ok(v @ Value::Object(_)) => Some(v),
                Ok(_) => return Err("an updated input that is not a JSON object".to_owned()),
                Err(e) => return Err(format!("an updated input that is not JSON: {e}")),
            }
        }
    };
    Ok(Decision { effect, reason, rule, updated_input })
}

/// Checks a text of a guest against its limit.
pub fn within(what: &str, text: &str, max: usize) -> Result<(), String> {
    if text.len() > max {
        return Err(format!("{what} of {} bytes; the limit is {max}", text.len()));
    }
    Ok(())
}
