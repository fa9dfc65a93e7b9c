//! Options of `import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// JSON lines; `-` reads standard input
    pub file: PathBuf,
    /// Whose lines they are; auto looks at the first that is whole
    #[arg(short, long, value_enum, default_value_t = ImportFormat::Auto)]
    pub format: ImportFormat,
    /// What the sessions worked on, where the lines do not tell
    #[arg(long, value_name = "TEXT")]
    pub target: Option<String>,
    /// End each session when its lines are in; an agent's own record is always ended, but for --open
    #[arg(long, conflicts_with = "open")]
    pub end: bool,
    /// Leave each session open: its file may grow and be imported again
    #[arg(long)]
    pub open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    Auto,
    /// A line per skill invocation, with its attempts
    Hyperguild,
    /// Audit logs: agent_start, tool_start, tool_end, llm_response, agent_end
    Shannon,
    /// A Claude Code transcript
    Claude,
    /// A Codex rollout
    Codex,
    /// A Gemini CLI transcript
    Gemini,
    /// What `opencode run --format json` prints
    Opencode,
    /// What `beadle export` prints
    Beadle,
}
