//! A configuration read by hand, so that each error names key, value and what was expected.

use serde_json::{Map, Value};

use beadle_plugin::Effect;

/// The keys of one object of a configuration.
#[derive(Debug)]
pub struct Keys<'a> {
    place: String,
    map: &'a Map<String, Value>,
}

/// The whole configuration as JSON.
pub fn parse(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(wrong("the config", &other, "an object")),
        Err(e) => Err(format!("the config is not JSON: {e}")),
    }
}

impl<'a> Keys<'a> {
    /// Takes the object apart; a key that is not known is an error. `examples` are the host's own and may stand in each.
    pub fn of(map: &'a Map<String, Value>, known: &[&str]) -> Result<Self, String> {
        Self::below(String::new(), map, known)
    }

    fn below(place: String, map: &'a Map<String, Value>, known: &[&str]) -> Result<Self, String> {
        match map.keys().find(|k| !known.contains(&k.as_str()) && (*k != "examples" || !place.is_empty())) {
            Some(key) => Err(format!("unknown key {:?}; expected one of {}", format!("{place}{key}"), known.join(", "))),
            None => Ok(Self { place, map }),
        }
    }

    /// The name of a key with the place of its object.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.place)
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    /// An object in an object.
    pub fn object(&self, key: &str, known: &[&str]) -> Result<Option<Keys<'a>>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Self::below(format!("{}.", self.name(key)), map, known).map(Some),
            Some(other) => Err(self.wrong(key, other, &format!("an object with {}", known.join(", ")))),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, v, "a string"))).transpose()
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        self.get(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| self.wrong(key, v, "true or false")))
    }

    /// One of these words; the first where there is none.
    pub fn word(&self, key: &str, words: &[&'static str]) -> Result<&'static str, String> {
        let Some(v) = self.get(key) else { return Ok(words[0]) };
        let found = v.as_str().and_then(|s| words.iter().find(|w| **w == s).copied());
        found.ok_or_else(|| self.wrong(key, v, &words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(" or ")))
    }

    /// `"ask"` or `"deny"`.
    pub fn effect(&self, key: &str, default: Effect) -> Result<Effect, String> {
        match self.get(key).map(|v| (v, v.as_str())) {
            None => Ok(default),
            Some((_, Some("ask"))) => Ok(Effect::Ask),
            Some((_, Some("deny"))) => Ok(Effect::Deny),
            Some((v, _)) => Err(self.wrong(key, v, "\"ask\" or \"deny\"")),
        }
    }

    /// A list of strings, at most so many; each is given with its place.
    pub fn list(&self, key: &str, most: usize) -> Result<Option<Vec<(String, &'a str)>>, String> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let Some(items) = v.as_array() else { return Err(self.wrong(key, v, "a list of strings")) };
        if items.len() > most {
            return Err(format!("{}: expected at most {most} entries, got {}", self.name(key), items.len()));
        }
        let one = |(i, item): (usize, &'a Value)| {
            let place = format!("{}[{i}]", self.name(key));
            match item.as_str() {
                Some(s) => Ok((place, s)),
                None => Err(wrong(&place, item, "a string")),
            }
        };
        items.iter().enumerate().map(one).collect::<Result<_, _>>().map(Some)
    }

    pub fn wrong(&self, key: &str, value: &Value, expected: &str) -> String {
        wrong(&self.name(key), value, expected)
    }
}

/// What was expected at a place, and what stands there.
pub fn wrong(place: &str, value: &Value, expected: &str) -> String {
    let shown: String = value.to_string().chars().take(80).collect();
    format!("{place}: expected {expected}, got {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_key_value_and_what_was_expected() {
        let map = parse(r#"{"a": 1, "b": {"c": [2]}, "w": "x", "examples": []}"#).expect("JSON");
        assert!(Keys::of(&map, &["a", "b"]).unwrap_err().contains("unknown key \"w\"; expected one of a, b"));
        let keys = Keys::of(&map, &["a", "b", "w"]).expect("known keys");
        assert_eq!(keys.text("a").unwrap_err(), "a: expected a string, got 1");
        assert_eq!(keys.word("w", &["y", "z"]).unwrap_err(), "w: expected \"y\" or \"z\", got \"x\"");
        assert_eq!(keys.effect("w", Effect::Ask).unwrap_err(), "w: expected \"ask\" or \"deny\", got \"x\"");
        let b = keys.object("b", &["c"]).expect("an object").expect("there");
        assert_eq!(b.list("c", 9).unwrap_err(), "b.c[0]: expected a string, got 2");
        assert_eq!(b.list("c", 0).unwrap_err(), "b.c: expected at most 0 entries, got 1");
        assert!(keys.object("b", &["d"]).unwrap_err().contains("\"b.c\""));
        assert!(parse("[1]").unwrap_err().contains("an object") && parse("{").unwrap_err().contains("not JSON"));
    }
}
