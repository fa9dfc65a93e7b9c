//! Reads a strategy's configuration: a JSON object of whole numbers and truth values, unknown keys refused.

use serde_json::{Map, Value};

/// The object of a configuration.
pub struct Settings(Map<String, Value>);

impl Settings {
    /// Keys that are not `known` are refused by name.
    pub fn read(config: &str, known: &[&str]) -> Result<Self, String> {
        let value: Value = serde_json::from_str(config).map_err(|e| format!("the configuration is not JSON: {e}"))?;
        let Value::Object(map) = value else { return Err("the configuration must be an object".to_owned()) };
        match map.keys().find(|k| !known.contains(&k.as_str())) {
            Some(k) => Err(format!("there is no setting {k:?}; known are {}", known.join(", "))),
            None => Ok(Self(map)),
        }
    }

    pub fn number(&self, key: &str, default: u64, max: u64) -> Result<u64, String> {
        match self.0.get(key) {
            None => Ok(default),
            Some(v) => v.as_u64().filter(|n| *n <= max).ok_or_else(|| format!("{key} is {v}; it must be a whole number from 0 to {max}")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<bool, String> {
        match self.0.get(key) {
            None => Ok(false),
            Some(v) => v.as_bool().ok_or_else(|| format!("{key} is {v}; it must be true or false")),
        }
    }
}
