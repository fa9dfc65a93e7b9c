//! Attestations: that a program was driven against the scripted model and its gate held.
//!
//! An attestation names the program by digest, the host's version and the launch recipe; with another of these it says nothing.

use serde::{Deserialize, Serialize};

use super::event::Actor;

/// Checks without which no attestation passes, whatever else was skipped: the gate itself, and what policies of results rest on.
#[rustfmt::skip]
pub const REQUIRED_CHECKS: &[&str] = &[
    "recipe", "allow", "deny", "ask", "read_only", "parallel", "sub_agent", "daemon_dead", "daemon_back", "channel_closed", "results",
];

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    Ok,
    Failed,
    /// It could not be made, and says why; nothing is known of what it would have shown.
    Skipped,
}

impl CheckResult {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One check by its stable name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestedCheck {
    pub name: String,
    pub result: CheckResult,
}

/// A file that the program's digest covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestedFile {
    pub path: String,
    /// BLAKE3, hex.
    pub digest: String,
    pub bytes: u64,
}

/// What was found of one program, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    pub agent: String,
    /// As it was asked for, absolute.
    pub program: String,
    /// `binary`, `script` or `wrapper`.
    pub program_kind: String,
    /// Names the content of `files` together.
    pub digest: String,
    pub files: Vec<AttestedFile>,
    /// As the program said itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub beadle_version: String,
    /// Names the arguments and environment that the agent is started with.
    pub recipe: String,
    pub checks: Vec<AttestedCheck>,
    pub duration_ms: u64,
    pub by: Actor,
}

impl Attestation {
    /// Whether the gate was seen to hold: nothing failed, nothing required was left out, and what runs is known.
    pub fn passed(&self) -> bool {
        let ok = |name: &str| self.checks.iter().any(|c| c.name == name && c.result == CheckResult::Ok);
        self.program_kind != "wrapper"
            && self.checks.iter().all(|c| c.result != CheckResult::Failed)
            && REQUIRED_CHECKS.iter().all(|r| ok(r))
    }
}

/// The program of a session as it was when the session started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionProgram {
    /// Absent where it was not read: there was nothing to compare it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// An attestation of this very content by this version's recipe passed.
    pub attested: bool,
    /// Why it is not attested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(result: CheckResult) -> Attestation {
        let checks = REQUIRED_CHECKS.iter().map(|n| AttestedCheck { name: (*n).to_owned(), result: CheckResult::Ok });
        let more = AttestedCheck { name: "more".to_owned(), result };
        Attestation {
            agent: "claude".to_owned(),
            program: "/p".to_owned(),
            program_kind: "binary".to_owned(),
            digest: "d".to_owned(),
            files: vec![],
            version: None,
            beadle_version: "1".to_owned(),
            recipe: "r".to_owned(),
            checks: checks.chain([more]).collect(),
            duration_ms: 1,
            by: Actor::host(),
        }
    }

    #[test]
    fn what_failed_is_missing_or_unknown_does_not_pass() {
        assert!(made(CheckResult::Ok).passed() && made(CheckResult::Skipped).passed());
        assert!(!made(CheckResult::Failed).passed());
        for (i, name) in REQUIRED_CHECKS.iter().enumerate() {
            let mut without = made(CheckResult::Ok);
            without.checks[i].result = CheckResult::Skipped;
            assert!(!without.passed(), "{name} was skipped");
            without.checks.remove(i);
            assert!(!without.passed(), "{name} is missing");
        }
        let wrapper = Attestation { program_kind: "wrapper".to_owned(), ..made(CheckResult::Ok) };
        assert!(!wrapper.passed());
        let none = Attestation { checks: vec![], ..made(CheckResult::Ok) };
        assert!(!none.passed());
    }
}
