//! Event bodies about memory.

use serde::{Deserialize, Serialize};

use crate::model::MemoryTier;

/// The session gave the host something to keep; the entry is made in the same transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryAdded {
    pub id: String,
    pub tier: MemoryTier,
    pub namespace: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}
