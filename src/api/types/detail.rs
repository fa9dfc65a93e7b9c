//! One session with what lies around it: the sessions started for it, and where its files are.

use serde::{Deserialize, Serialize};

use super::SessionDoc;
use crate::model::{Outcome, Status};

/// Children that a detail names; more are counted.
pub const CHILDREN_SHOWN: usize = 20;

/// The answer to `GET /v1/sessions/{id}`: the session's own document, and more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionDetailDoc {
    #[serde(flatten)]
    pub session: SessionDoc,
    /// The newest sessions that were started for it, at most [`CHILDREN_SHOWN`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildDoc>,
    #[serde(default)]
    pub children_count: u64,
    /// Where the output of its newest attempt lies, while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildDoc {
    pub id: String,
    pub name: String,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}
