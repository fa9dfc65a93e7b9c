//! Why a component could not be loaded.

use crate::model::FailureCause;

use super::call::CallFailure;
use super::limits::{MAX_COMPONENT, MAX_CONFIG};

pub type Result<T> = std::result::Result<T, Error>;

/// A plugin that cannot be loaded; the daemon keeps it as data with its fail mode.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("plugin {plugin}: the component has {size} bytes, the limit is {MAX_COMPONENT}; leave out what it does not need")]
    TooLarge { plugin: String, size: usize },

    #[error("plugin {plugin}: not a WebAssembly file (it begins with {found}); give the path of a component")]
    NotWasm { plugin: String, found: String },

    #[error("plugin {plugin}: this is a core module, and a plugin is a component; wrap it with `wasm-tools component new`")]
    CoreModule { plugin: String },

    #[error("plugin {plugin}: damaged, truncated or using what the host does not support: {detail}; build it again")]
    Invalid { plugin: String, detail: String },

    #[error(
        "plugin {plugin}: imports {imports}, which the host does not give to its kind of plugin; only `beadle:plugin/log`, the \
         capabilities (`kv`, `clock`, `random`, `env`, `secret`, `fs`, `http`), for compaction strategies `beadle:plugin/transcript`, and \
         WASI 0.2 (inert) can be imported; what plugins export is called by the host alone"
    )]
    ForbiddenImport { plugin: String, imports: String },

    #[error(
        "plugin {plugin}: not a {world}: it lacks the exports {missing} (it has: {found}); build it for the world \
         `{world}` of `beadle:plugin@0.1`"
    )]
    WrongWorld { plugin: String, world: &'static str, missing: String, found: String },

    #[error("plugin {plugin}: it is a {kind} and is named where a {wanted} is needed; give the path of another component")]
    OtherKind { plugin: String, kind: &'static str, wanted: &'static str },

    #[error("plugin {plugin}: it exports the interfaces of {kinds}; a component is of one kind, so build one for each")]
    SeveralKinds { plugin: String, kinds: String },

    #[error("plugin {plugin}: its exports do not have the shapes of `beadle:plugin@0.1`: {detail}; build it against that WIT")]
    WrongShape { plugin: String, detail: String },

    #[error("plugin {plugin}: it does not start ({}): {}; look at what runs before its first function, and at its memory", .failure.cause.as_str(), .failure.detail)]
    Start { plugin: String, failure: CallFailure },

    #[error("plugin {plugin}: `describe` failed ({}): {}; it must answer without configuration", .failure.cause.as_str(), .failure.detail)]
    Describe { plugin: String, failure: CallFailure },

    #[error("plugin {plugin}: its configuration has {size} bytes, the limit is {MAX_CONFIG}; shorten it")]
    ConfigTooLarge { plugin: String, size: usize },

    #[error("plugin {plugin} refuses its configuration: {reason}")]
    ConfigRefused { plugin: String, reason: String },

    #[error("plugin {plugin}: `configure` failed ({}): {}; check the configuration, or ask the plugin's author", .failure.cause.as_str(), .failure.detail)]
    Configure { plugin: String, failure: CallFailure },

    #[error("plugin {plugin}: not compiled within {budget_ms} ms; raise the budget or use a smaller component")]
    CompileBudget { plugin: String, budget_ms: u128 },

    #[error("the module does not become a component: {detail}; it has to name its plugin once with one of the SDK's export macros")]
    NoComponent { detail: String },

    #[error("no plugin engine on this machine: {detail}; `beadle` needs address space for it (check `ulimit -v`)")]
    Engine { detail: String },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "BDL-PLUGIN-001",
            Self::NotWasm { .. } => "BDL-PLUGIN-002",
            Self::CoreModule { .. } => "BDL-PLUGIN-003",
            Self::Invalid { .. } => "BDL-PLUGIN-004",
            Self::ForbiddenImport { .. } => "BDL-PLUGIN-005",
            Self::WrongWorld { .. } => "BDL-PLUGIN-006",
            Self::WrongShape { .. } => "BDL-PLUGIN-007",
            Self::Describe { .. } => "BDL-PLUGIN-008",
            Self::ConfigTooLarge { .. } => "BDL-PLUGIN-009",
            Self::ConfigRefused { .. } => "BDL-PLUGIN-010",
            Self::Configure { .. } => "BDL-PLUGIN-011",
            Self::CompileBudget { .. } => "BDL-PLUGIN-012",
            Self::Engine { .. } => "BDL-PLUGIN-013",
            Self::Start { .. } => "BDL-PLUGIN-014",
            Self::OtherKind { .. } => "BDL-PLUGIN-015",
            Self::SeveralKinds { .. } => "BDL-PLUGIN-016",
            Self::NoComponent { .. } => "BDL-PLUGIN-017",
        }
    }

    /// What kind of failure it was, for the `plugin failed` event.
    pub const fn cause(&self) -> FailureCause {
        FailureCause::Load
    }
}
