//! The orders that a listing of sessions may have. Shared by store, API and command line.

use serde::{Deserialize, Serialize};

/// The order of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// Newest first.
    #[default]
    Created,
    /// Last event first.
    Activity,
    /// A to Z by bytes.
    Name,
    /// Dearest first; those without a known cost last.
    Cost,
}

impl Sort {
    pub const ALL: [Self; 4] = [Self::Created, Self::Activity, Self::Name, Self::Cost];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Activity => "activity",
            Self::Name => "name",
            Self::Cost => "cost",
        }
    }
}
