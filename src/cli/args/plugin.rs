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
    /// Judge the cases of a project (cases.toml, cases/) on the engine that sessions use, without a daemon
    Test(TestArgs),
    /// Measure time and memory beside what a plugin may use
    Bench(BenchArgs),
    /// Watch a project: build at each change, judge recorded calls and cases anew, say what is different
    Dev(DevArgs),
    /// Print what a plugin has logged, over all sessions, ended ones too; or what the plugins of one live session have
    Logs(PluginLogsArgs),
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
#[derive(Debug, Clone, Args)]
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

#[derive(Debug, Args)]
pub struct TestArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// A file of cases; may be repeated; default: the project's cases.toml and cases/
    #[arg(short, long, value_name = "FILE")]
    pub cases: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// A file of cases whose questions are asked too; may be repeated; default: the project's
    #[arg(short, long, value_name = "FILE")]
    pub cases: Vec<PathBuf>,
    /// How many calls are measured
    #[arg(short = 'n', long, default_value_t = 5000, value_parser = calls)]
    pub calls: usize,
    /// The budget for p99 in microseconds; default: the deadline that policies have, 100 ms
    #[arg(long, value_name = "US")]
    pub p99_us: Option<f64>,
}

#[derive(Debug, Args)]
pub struct DevArgs {
    /// The project
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// Take no package from the network
    #[arg(long)]
    pub offline: bool,
    /// End after so many builds, with exit 1 where the last one did not pass; default: Ctrl-C ends
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub builds: Option<u64>,
}

#[derive(Debug, Args)]
pub struct PluginLogsArgs {
    /// Name of a plugin or policy; else a live session: its id, a unique beginning of that, or its name
    #[arg(value_name = "NAME|SESSION", value_parser = crate::cli::args_check::session_id)]
    pub name: String,
    /// Of a session: only the policy of this name
    #[arg(short, long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Go on with what is logged from now on
    #[arg(short, long, conflicts_with = "policy")]
    pub follow: bool,
    /// Only the newest so many lines, at most 1000
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 1000)]
    pub tail: u64,
}

fn calls(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1_000_000) => Ok(n),
        _ => Err("give a number from 1 to 1000000".to_owned()),
    }
}
