//! Arguments of `plugin`: the verbs of authors, and those of installed plugins beside them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::plugin_life::PluginLifeVerb;

#[derive(Debug, Subcommand)]
pub enum PluginVerb {
    /// Start a plugin project in Rust that builds, with tests that pass
    New(NewArgs),
    /// Build the component of a project
    Build(BuildArgs),
    /// Say what a component is, and by name what differs from the contract
    Check(CheckArgs),
    /// Show all about a component: who it is, digest, sizes, how it runs
    Inspect(CheckArgs),
    #[command(flatten)]
    Life(PluginLifeVerb),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NewKind {
    Policy,
    Compaction,
    Sink,
}

#[derive(Debug, Args)]
pub struct NewArgs {
    /// Name of the plugin and its package: small letters, digits and single hyphens
    pub name: String,
    /// What it shall be
    #[arg(short, long, value_enum, default_value = "policy")]
    pub kind: NewKind,
    /// Folder of the project; default: one of the plugin's name
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The project
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Where the component goes; default: target/plugin/NAME.wasm
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Take no package from the network
    #[arg(long)]
    pub offline: bool,
    /// First replace vendor/beadle-plugin by the SDK of this beadle
    #[arg(long)]
    pub update_sdk: bool,
}

/// A component, or the project that makes one.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// A component, or a project, which is built first
    #[arg(default_value = ".")]
    pub target: PathBuf,
    /// Take no package from the network when building
    #[arg(long)]
    pub offline: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Configuration to load it with, as JSON; default: {}
    #[arg(short, long, value_name = "JSON", default_value = "{}")]
    pub config: String,
}
