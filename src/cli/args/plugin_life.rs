//! Arguments of the verbs of `beadle plugin` that act on installed plugins.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::model::{Mode, OnFailure};

#[derive(Debug, Subcommand)]
pub enum PluginLifeVerb {
    /// Install a plugin: shows what it is and asks for, and asks you
    ///
    /// A policy is then asked about every call, in sessions that run too. What it wants and you do not grant, it does not get.
    Add(PluginAddArgs),
    /// List installed plugins, or show one
    Ls { name: Option<String> },
    /// Take a plugin out of use and keep it
    Disable { name: String },
    /// Put a plugin into use again
    Enable { name: String },
    /// Remove a plugin with all its versions
    Rm { name: String },
    /// Change how an installed plugin is asked
    Set(PluginSetArgs),
    /// Give a plugin what it asks for, as in `kv` or `http:GET:example.com`
    Grant {
        name: String,
        #[arg(required = true, value_name = "GRANT")]
        grants: Vec<String>,
    },
    /// Take grants back
    Revoke {
        name: String,
        #[arg(required = true, value_name = "GRANT")]
        grants: Vec<String>,
    },
    /// Put another version of a plugin into use
    ///
    /// The versions before are kept, five in all, for `rollback`. Sessions that run get it between two calls. It keeps the grants of the
    /// version before that it asks for too; what it wants besides, you are asked about.
    ///
    /// The newest recorded calls are judged with both versions first: where the new one is less strict, it is refused without
    /// --accept-changes. A version that fails more than three times within a minute, in its first ten minutes, is rolled back by the host.
    Upgrade(PluginUpgradeArgs),
    /// Go back to the version before, or to a kept one
    Rollback {
        name: String,
        /// Its number, or the beginning of its digest
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
        /// Although recorded calls would be decided less strictly
        #[arg(long)]
        accept_changes: bool,
    },
}

#[derive(Debug, Args)]
pub struct PluginAddArgs {
    /// The component, a .wasm file
    pub file: PathBuf,
    /// What to call it; else what it calls itself
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
    /// Grant this; may be repeated
    #[arg(short, long = "grant", value_name = "GRANT")]
    pub grants: Vec<String>,
    /// Do not ask; grants nothing by itself
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub settings: PluginSettings,
}

#[derive(Debug, Args)]
pub struct PluginSetArgs {
    pub name: String,
    #[command(flatten)]
    pub settings: PluginSettings,
}

#[derive(Debug, Args)]
pub struct PluginUpgradeArgs {
    pub name: String,
    /// The new component, a .wasm file
    pub file: PathBuf,
    /// Grant this besides; may be repeated
    #[arg(short, long = "grant", value_name = "GRANT")]
    pub grants: Vec<String>,
    /// Do not ask; grants nothing by itself
    #[arg(short, long)]
    pub yes: bool,
    /// Although recorded calls would be decided less strictly
    #[arg(long)]
    pub accept_changes: bool,
}

#[derive(Debug, Args)]
pub struct PluginSettings {
    /// Whether a policy's answers bind, or are only written down
    #[arg(long, value_enum)]
    pub mode: Option<ModeWord>,
    /// What a policy that fails counts as
    #[arg(long, value_enum)]
    pub on_failure: Option<FailureWord>,
    /// How long one call may take, in milliseconds
    #[arg(long, value_name = "MS")]
    pub deadline_ms: Option<u64>,
    /// Its configuration: a JSON object, or @FILE
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
}

impl PluginSettings {
    pub const fn is_empty(&self) -> bool {
        self.mode.is_none() && self.on_failure.is_none() && self.deadline_ms.is_none() && self.config.is_none()
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ModeWord {
    Enforce,
    Monitor,
}

impl From<ModeWord> for Mode {
    fn from(w: ModeWord) -> Self {
        match w {
            ModeWord::Enforce => Self::Enforce,
            ModeWord::Monitor => Self::Monitor,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FailureWord {
    Deny,
    Ask,
    Abstain,
}

impl From<FailureWord> for OnFailure {
    fn from(w: FailureWord) -> Self {
        match w {
            FailureWord::Deny => Self::Deny,
            FailureWord::Ask => Self::Ask,
            FailureWord::Abstain => Self::Abstain,
        }
    }
}
