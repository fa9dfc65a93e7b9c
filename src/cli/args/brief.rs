//! Options of `run` that say whose a session is, what for, and within which bounds.

use clap::Args;

use crate::api::types::BriefRequest;

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Record")]
pub struct BriefArgs {
    /// What it works on: a service, a site, an issue
    #[arg(long, value_name = "TEXT")]
    pub target: Option<String>,
    /// Whose session it is; default: session.owner, else Unassigned
    #[arg(long, value_name = "NAME")]
    pub owner: Option<String>,
    /// The larger work that it belongs to; default: session.mission
    #[arg(long, value_name = "ID")]
    pub mission: Option<String>,
    /// The part of it that this session does
    #[arg(long, value_name = "ID")]
    pub assignment: Option<String>,
    /// The stage of the work; default: session.phase
    #[arg(long, value_name = "NAME")]
    pub phase: Option<String>,
    /// The party that it is run for; default: session.tenant
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// The conversation or ticket that it belongs to
    #[arg(long, value_name = "ID")]
    pub thread: Option<String>,
    /// The session that it is started for
    #[arg(long, value_name = "SESSION", value_parser = crate::cli::args_check::session_id)]
    pub parent: Option<String>,
    /// A tool that it may use; may be repeated, and then all others are denied
    #[arg(long = "allow-tool", value_name = "TOOL")]
    pub allowed_tools: Vec<String>,
    /// Deny calls that would write into its repository
    #[arg(long)]
    pub read_only_repo: bool,
    /// It has succeeded only when it leaves report.md or outputs/report.md in its working directory or write root
    #[arg(long)]
    pub expect_report: bool,
}

impl From<BriefArgs> for BriefRequest {
    fn from(a: BriefArgs) -> Self {
        Self {
            target: a.target,
            owner: a.owner,
            mission: a.mission,
            assignment: a.assignment,
            phase: a.phase,
            tenant: a.tenant,
            thread: a.thread,
            parent: a.parent,
            allowed_tools: a.allowed_tools,
            read_only_repo: a.read_only_repo,
            expect_report: a.expect_report,
        }
    }
}
