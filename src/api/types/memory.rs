//! What is kept in memory over sessions.

use serde::{Deserialize, Serialize};

use crate::model::{Memory, MemoryHit, MemoryTier, format_ms};

/// One entry; `rank` is there in answers to a search: the smaller, the better it fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryDoc {
    pub id: String,
    pub namespace: String,
    pub tier: MemoryTier,
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The session that added it; absent where a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    pub created_at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<f64>,
}

impl From<&Memory> for MemoryDoc {
    fn from(m: &Memory) -> Self {
        Self {
            id: m.id.clone(),
            namespace: m.namespace.clone(),
            tier: m.tier,
            text: m.text.clone(),
            tags: m.tags.clone(),
            session: m.session.as_ref().map(ToString::to_string),
            created_at: format_ms(m.created_at),
            rank: None,
        }
    }
}

impl From<&MemoryHit> for MemoryDoc {
    fn from(h: &MemoryHit) -> Self {
        Self { rank: Some(h.rank), ..Self::from(&h.memory) }
    }
}

/// What is to be kept. Without a namespace it is that of the session, else of the repository or folder `cwd`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryAddRequest {
    pub text: String,
    #[serde(default)]
    pub tier: MemoryTier,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// By id, unique prefix of one, or name: it becomes an event of this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// Which entries are wanted: with `q` those with any of its words, best first; else all, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only the namespace of this folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<MemoryTier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only what this session added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
