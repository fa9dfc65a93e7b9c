//! Context providers of a session.

use serde::{Deserialize, Serialize};

use crate::model::{ContextAt, ContextSource, MemoryTier, SessionContext};

/// One provider of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextProviderDoc {
    pub name: String,
    /// `memory`, `files` or `command`.
    pub kind: String,
    pub at: Vec<ContextAt>,
    pub max_bytes: u64,
    /// A prompt that it cannot add to is refused.
    pub required: bool,
    /// It was asked since it was added.
    pub asked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<MemoryTier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

impl From<&SessionContext> for ContextProviderDoc {
    fn from(c: &SessionContext) -> Self {
        let p = &c.provider;
        let mut doc = Self {
            name: p.name.clone(),
            kind: p.source.kind().to_owned(),
            at: p.at.clone(),
            max_bytes: p.max_bytes,
            required: p.required,
            asked: c.asked,
            tier: None,
            tag: None,
            limit: None,
            paths: vec![],
            command: vec![],
            timeout_ms: None,
        };
        match &p.source {
            ContextSource::Memory { tier, tag, limit } => (doc.tier, doc.tag, doc.limit) = (*tier, tag.clone(), Some(*limit)),
            ContextSource::Files { paths } => doc.paths.clone_from(paths),
            ContextSource::Command { command, timeout_ms } => {
                doc.command.clone_from(command);
                doc.timeout_ms = Some(*timeout_ms);
            }
        }
        doc
    }
}

/// A provider for a live session. With `name` alone it is one of the configuration, else this one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextRequest {
    pub name: String,
    /// `memory`, `files` or `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// With every prompt where nobody says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at: Vec<ContextAt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<MemoryTier>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}
