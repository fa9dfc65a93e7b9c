//! What a policy keeps in `kv`: the event of its changes, and the fold that a store's rows must equal.
//!
//! Invariant: the events of a session alone give the state of all its policies; a value that cannot be read counts as absent.
//!
//! Written by `session`, folded by `store`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Envelope, Event};

/// Keys and values of one policy.
pub type PluginState = BTreeMap<String, Vec<u8>>;

/// Changes that one answered question made to a policy's state; in the append that holds the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PluginStateChanged {
    pub policy: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, StateValue>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
}

/// A value as it stands in the log: text where it is text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StateValue {
    Text(String),
    Bytes { hex: String },
}

impl StateValue {
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { hex: bytes.iter().map(|b| format!("{b:02x}")).collect() },
        }
    }

    /// None where the hex is none.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Bytes { hex } => {
                let hex = hex.as_bytes();
                let digit = |b: u8| char::from(b).to_digit(16);
                let pair = |p: &[u8]| match p {
                    [hi, lo] => u8::try_from((digit(*hi)? << 4) | digit(*lo)?).ok(),
                    _ => None,
                };
                hex.chunks(2).map(pair).collect()
            }
        }
    }
}

/// The state of all policies of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PluginStates(pub BTreeMap<String, PluginState>);

impl PluginStates {
    pub fn fold(&mut self, e: &Envelope) {
        if let Event::PluginStateChanged(c) = &e.event {
            self.change(c);
        }
    }

    pub fn change(&mut self, c: &PluginStateChanged) {
        let state = self.0.entry(c.policy.clone()).or_default();
        for key in &c.deleted {
            state.remove(key);
        }
        for (key, value) in &c.set {
            match value.bytes() {
                Some(v) => drop(state.insert(key.clone(), v)),
                None => drop(state.remove(key)),
            }
        }
        if state.is_empty() {
            self.0.remove(&c.policy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_survives_the_log(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let json = serde_json::to_string(&StateValue::of(&bytes)).unwrap();
            prop_assert_eq!(serde_json::from_str::<StateValue>(&json).unwrap().bytes(), Some(bytes));
        }

        #[test]
        fn no_hex_panics(hex in "\\PC{0,12}") {
            let _ = StateValue::Bytes { hex }.bytes();
        }
    }
}
