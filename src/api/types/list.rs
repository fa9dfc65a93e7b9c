//! Which sessions to list, in which order, from where on.

use serde::{Deserialize, Serialize};

use crate::model::{Outcome, Sort, Status};

/// Which sessions to list; every part that is given must hold.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionsQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Unassigned` for those of nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mission: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// By id, unique prefix of one, or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// `key=value`; several are separated by commas, and a comma or backslash of a value stands behind a backslash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Created at this time (RFC 3339) or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Created before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<Sort>,
    /// The other way round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// `next` of the page before, which had the same order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl SessionsQuery {
    /// Labels as [`label`](Self::label) has them; `None` where there are none.
    pub fn label_of(labels: &[(String, String)]) -> Option<String> {
        let escaped = |t: &str| t.replace('\\', "\\\\").replace(',', "\\,");
        let each = labels.iter().map(|(k, v)| format!("{}={}", escaped(k), escaped(v)));
        (!labels.is_empty()).then(|| each.collect::<Vec<_>>().join(","))
    }

    /// The labels to look for; the error is the part that is none.
    pub fn labels(&self) -> Result<Vec<(String, String)>, String> {
        let mut parts = vec![String::new()];
        let mut chars = self.label.as_deref().unwrap_or_default().chars();
        while let Some(c) = chars.next() {
            match (c, parts.last_mut()) {
                (',', _) => parts.push(String::new()),
                ('\\', Some(part)) => part.extend(chars.next()),
                (c, Some(part)) => part.push(c),
                (_, None) => {}
            }
        }
        let pair = |p: String| p.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or(p);
        if self.label.is_none() { Ok(vec![]) } else { parts.into_iter().map(pair).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn labels_survive_the_query(labels in proptest::collection::vec(("[a-z]{1,3}", "[a-z,\\\\=]{0,6}"), 0..4)) {
            let q = SessionsQuery { label: SessionsQuery::label_of(&labels), ..SessionsQuery::default() };
            prop_assert_eq!(q.labels(), Ok(labels));
        }
    }

    #[test]
    fn a_part_that_is_no_label_is_named() {
        let q = |l: &str| SessionsQuery { label: Some(l.into()), ..SessionsQuery::default() }.labels();
        assert_eq!((q("a=b,c"), q("")), (Err("c".to_owned()), Err(String::new())));
        assert!(serde_json::from_str::<SessionsQuery>(r#"{"colour":"red"}"#).is_err());
    }
}
