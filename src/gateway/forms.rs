//! Values of the script that have a short and a long form: conditions (a text or an object) and failures (a status or an
//! object). Pure; errors keep the name of an unknown key, which an untagged enum would lose.

use serde::de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::anthropic::Request;

/// A condition on a request; all parts that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Condition {
    pub anywhere: Option<String>,
    pub opening: Option<String>,
    pub last: Option<String>,
    pub model: Option<String>,
    pub tools: Option<bool>,
}

impl Condition {
    /// Whether all parts hold for `request`.
    pub(super) fn holds(&self, request: &Request<'_>) -> bool {
        let text = |needle: &Option<String>, found: &dyn Fn(&str) -> bool| needle.as_deref().is_none_or(found);
        self.tools.is_none_or(|t| t == request.offers_tools())
            && text(&self.model, &|n| request.model() == n)
            && text(&self.last, &|n| request.last_contains(n))
            && text(&self.opening, &|n| request.opening_contains(n))
            && text(&self.anywhere, &|n| request.contains(n))
    }
}

/// An HTTP error as the API gives it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Failure {
    pub status: u16,
    pub kind: Option<String>,
    pub message: Option<String>,
    pub retry_after: Option<u64>,
    pub body: Option<Value>,
}

/// Reads `Short`'s plain form or the object form; errors keep the name of an unknown key.
struct ShortOrObject<T>(std::marker::PhantomData<T>);

trait Short: Sized {
    const EXPECTED: &'static str;
    type Object: for<'de> Deserialize<'de> + Into<Self>;
    fn from_text(_: &str) -> Option<Self> {
        None
    }
    fn from_number(_: u64) -> Option<Self> {
        None
    }
}

impl<'de, T: Short> Visitor<'de> for ShortOrObject<T> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).ok_or_else(|| E::invalid_type(serde::de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<T, E> {
        T::from_number(n).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(n), &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        Ok(T::Object::deserialize(MapAccessDeserializer::new(map))?.into())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionObject {
    anywhere: Option<String>,
    opening: Option<String>,
    last: Option<String>,
    model: Option<String>,
    tools: Option<bool>,
}

impl From<ConditionObject> for Condition {
    fn from(o: ConditionObject) -> Self {
        Self { anywhere: o.anywhere, opening: o.opening, last: o.last, model: o.model, tools: o.tools }
    }
}

impl Short for Condition {
    const EXPECTED: &'static str = "a text, or an object with `anywhere`, `opening`, `last`, `model`, `tools`";
    type Object = ConditionObject;

    fn from_text(text: &str) -> Option<Self> {
        Some(Self { anywhere: Some(text.to_owned()), ..Self::default() })
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let condition = d.deserialize_any(ShortOrObject::<Self>(std::marker::PhantomData))?;
        let texts = [&condition.anywhere, &condition.opening, &condition.last, &condition.model];
        if texts.into_iter().flatten().any(String::is_empty) {
            return Err(D::Error::custom("a condition's text is empty: it would always hold"));
        }
        Ok(condition)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailureObject {
    status: u16,
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<String>,
    retry_after: Option<u64>,
    body: Option<Value>,
}

impl From<FailureObject> for Failure {
    fn from(o: FailureObject) -> Self {
        Self { status: o.status, kind: o.kind, message: o.message, retry_after: o.retry_after, body: o.body }
    }
}

impl Short for Failure {
    const EXPECTED: &'static str = "an HTTP status, or an object with `status`, `type`, `message`, `retry_after`, `body`";
    type Object = FailureObject;

    fn from_number(n: u64) -> Option<Self> {
        Some(Self { status: u16::try_from(n).ok()?, ..Self::default() })
    }
}

impl<'de> Deserialize<'de> for Failure {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ShortOrObject::<Self>(std::marker::PhantomData))
    }
}
