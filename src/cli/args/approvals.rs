//! Arguments of `approvals`, `approve` and `deny`.

use clap::{Args, ValueEnum};

use crate::cli::args_check::session_id;

/// One question: a session (id, unique prefix or name) and the number of its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalKey {
    pub session: String,
    pub call: u64,
}

/// `<session>:<call>` or `<session>/<call>`.
pub fn approval(text: &str) -> Result<ApprovalKey, String> {
    let form = || "expected <session>:<call>, as shown by `beadle approvals`".to_owned();
    let (session, call) = text.rsplit_once([':', '/']).ok_or_else(form)?;
    Ok(ApprovalKey { session: session_id(session)?, call: call.parse().map_err(|_| form())? })
}

#[derive(Debug, Args)]
pub struct ApprovalsArgs {
    /// Show this one whole, whatever became of it
    #[arg(value_parser = approval, conflicts_with_all = ["follow", "all", "session"])]
    pub approval: Option<ApprovalKey>,
    /// Go on as more come and are answered
    #[arg(short, long, conflicts_with = "all")]
    pub follow: bool,
    /// Also those that were answered, newest first
    #[arg(short, long)]
    pub all: bool,
    /// Of this session only
    #[arg(short, long, value_parser = session_id)]
    pub session: Option<String>,
    /// Most to list
    #[arg(short = 'n', long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
}

#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// `<session>:<call>`, as shown by `approvals`, `show` and in the timeline
    #[arg(value_parser = approval)]
    pub approval: ApprovalKey,
    /// Add a rule, so that the like is not asked about again: for exactly this call, or RULE as in `Bash(git push:*)`
    #[arg(long, value_name = "RULE", num_args = 0..=1, default_missing_value = "")]
    pub always: Option<String>,
    /// For which sessions the rule holds
    #[arg(long, value_enum, default_value_t = RuleReach::Folder, requires = "always", value_name = "REACH")]
    pub reach: RuleReach,
    /// Recorded with the answer
    #[arg(short, long, default_value = "")]
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuleReach {
    /// This session
    Session,
    /// Sessions started in the same folder
    Folder,
    /// Every session
    All,
}

#[derive(Debug, Args)]
pub struct DenyArgs {
    /// `<session>:<call>`, as shown by `approvals`, `show` and in the timeline
    #[arg(value_parser = approval)]
    pub approval: ApprovalKey,
    /// Recorded, and told to the agent
    #[arg(short, long, default_value = "")]
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_id_are_taken_and_bad_ones_are_refused_before_anything_is_sent() {
        let key = |s: &str, call| Ok(ApprovalKey { session: s.to_owned(), call });
        assert_eq!(
            [approval("fix-1-a:7"), approval("fix-1-a/7"), approval("my name:7")],
            [key("fix-1-a", 7), key("fix-1-a", 7), key("my name", 7)]
        );
        for bad in ["", "x", ":7", "x:", "x:y", "x:-1", "a\x1b:1", "x:99999999999999999999"] {
            assert!(approval(bad).is_err(), "{bad:?}");
        }
    }
}
