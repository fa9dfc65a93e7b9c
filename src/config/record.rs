//! What a session's record says where the caller says nothing, and the bounds that hold whatever the caller says.
//!
//! Called by `config` when settings are read; used by `session` when one starts.

use super::{Error, Settings};
use crate::model::Restart;

/// The `session.*` settings of that kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordDefaults {
    pub owner: Option<String>,
    pub tenant: Option<String>,
    pub mission: Option<String>,
    pub phase: Option<String>,
    /// Every session must leave a report.
    pub expect_report: bool,
    /// No session writes into its repository.
    pub read_only_repo: bool,
    /// When an agent is started once more.
    pub restart: Restart,
    /// Milliseconds without a write after which a session that another program writes is ended; 0 is never.
    pub writer_idle_ms: u64,
}

pub(super) fn defaults(settings: &Settings) -> Result<RecordDefaults, Error> {
    let get = |key: &str| settings.get(key).map(|(v, _)| v).ok_or_else(|| Error::Embedded { key: key.to_owned() });
    let text = |key: &str| get(key).map(|v| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned));
    let flag = |key: &str| get(key).map(|v| v.as_bool().unwrap_or_default());
    Ok(RecordDefaults {
        owner: text("session.owner")?,
        tenant: text("session.tenant")?,
        mission: text("session.mission")?,
        phase: text("session.phase")?,
        expect_report: flag("session.expect_report")?,
        read_only_repo: flag("session.read_only_repo")?,
        restart: text("session.restart")?.and_then(|t| Restart::parse(&t)).unwrap_or_default(),
        writer_idle_ms: get("session.writer_idle_ms").map(|v| v.as_u64().unwrap_or_default())?,
    })
}
