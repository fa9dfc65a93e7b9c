//! `beadle hook`: its arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum HookVerb {
    /// Write hooks into an agent's settings, so that sessions not started here are judged too
    Install(HookInstallArgs),
    /// Take exactly those hooks out again
    Uninstall(HookUninstallArgs),
    /// Say what is in force: files, switches that undo it, the client, the daemon
    Status(HookStatusArgs),
    /// Run by the agent when a conversation begins: starts the daemon
    #[command(hide = true)]
    Begin {
        agent: HookAgent,
        #[arg(long, value_name = "DIR")]
        home: Option<PathBuf>,
    },
}

/// Agents whose hooks are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HookAgent {
    Claude,
}

#[derive(Debug, Args)]
pub struct HookPlace {
    /// The user's own settings, for all their sessions (the default)
    #[arg(long, conflicts_with = "project")]
    pub user: bool,
    /// The local settings of the project in this folder
    #[arg(long, value_name = "DIR")]
    pub project: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct HookInstallArgs {
    pub agent: HookAgent,
    #[command(flatten)]
    pub place: HookPlace,
    /// Print the settings as they would be, and write nothing
    #[arg(long)]
    pub print: bool,
}

#[derive(Debug, Args)]
pub struct HookUninstallArgs {
    pub agent: HookAgent,
    #[command(flatten)]
    pub place: HookPlace,
}

#[derive(Debug, Args)]
pub struct HookStatusArgs {
    #[arg(default_value = "claude")]
    pub agent: HookAgent,
    /// The project whose settings count too; default: the present folder
    #[arg(long, value_name = "DIR")]
    pub project: Option<PathBuf>,
}
