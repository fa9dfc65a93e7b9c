//! What a caller says of a new session, and the record it becomes with the configuration's defaults and bounds.
//!
//! Called by `start`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::{Error, Inner};
use super::repository;
use crate::config::RecordDefaults;
use crate::model::{Origin, Record, Repository, SessionId, UNASSIGNED};

/// Whose the session is, what for, and within which bounds; see `RunRequest` of the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    pub target: Option<String>,
    pub owner: Option<String>,
    pub mission: Option<String>,
    pub assignment: Option<String>,
    pub phase: Option<String>,
    pub tenant: Option<String>,
    pub thread: Option<String>,
    /// By id, unique prefix of one, or name.
    pub parent: Option<String>,
    pub allowed_tools: Vec<String>,
    pub read_only_repo: bool,
    pub expect_report: bool,
    /// The log that it goes on from.
    pub origin: Option<Origin>,
}

impl Brief {
    /// The parent's whole id.
    pub(in crate::session) fn parent(&self, inner: &Inner) -> Result<Option<SessionId>, Error> {
        self.parent.as_deref().map(|key| inner.store.find(key)).transpose().map_err(Error::from)
    }

    /// The record that a session with this brief begins with. Errors name the text that cannot be kept.
    pub(in crate::session) fn record(
        &self,
        set: &RecordDefaults,
        parent: Option<SessionId>,
        repository: Option<Repository>,
    ) -> Result<Record, Error> {
        let or = |said: &Option<String>, set: &Option<String>| said.clone().or_else(|| set.clone());
        let record = Record {
            target: self.target.clone(),
            owner: or(&self.owner, &set.owner).unwrap_or_else(|| UNASSIGNED.to_owned()),
            mission: or(&self.mission, &set.mission),
            assignment: self.assignment.clone(),
            phase: or(&self.phase, &set.phase),
            tenant: or(&self.tenant, &set.tenant),
            thread: self.thread.clone(),
            parent,
            origin: self.origin.clone(),
            repository,
            allowed_tools: self.allowed_tools.clone(),
            repository_writable: !(self.read_only_repo || set.read_only_repo),
            report_expected: self.expect_report || set.expect_report,
            // Of the configuration and the agent: `start` knows both.
            host_tools: false,
            writer: None,
        };
        record.check()?;
        Ok(record)
    }
}

/// The record of a session that the host did not start: whose it is and its bounds as configured, and the repository that it works in.
/// No report is expected of it: nobody told its agent to write one.
pub(in crate::session) fn record_of_found(cwd: &Path, set: &RecordDefaults) -> Result<Record, Error> {
    let set = RecordDefaults { expect_report: false, ..set.clone() };
    Brief::default().record(&set, None, repository::of(cwd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_says_goes_before_settings_and_bounds_only_add_up() {
        let set = RecordDefaults {
            owner: Some("ops".into()),
            mission: Some("m".into()),
            expect_report: true,
            read_only_repo: true,
            ..RecordDefaults::default()
        };
        let r = Brief { owner: Some("me".into()), ..Brief::default() }.record(&set, None, None).unwrap();
        assert_eq!((r.owner.as_str(), r.mission.as_deref(), r.report_expected, r.repository_writable), ("me", Some("m"), true, false));
        let r = Brief::default().record(&RecordDefaults::default(), None, None).unwrap();
        assert_eq!((r.owner.as_str(), r.report_expected, r.repository_writable), (UNASSIGNED, false, true));
        let bad = Brief { phase: Some("a\nb".into()), ..Brief::default() }.record(&set, None, None);
        assert_eq!(bad.unwrap_err().code(), "BDL-SESSION-050");
    }
}
