//! Configuration: layers of TOML and the environment, resolved to one [`Config`] in which every value knows its origin.
//!
//! Layers, each over the one before: embedded defaults, the operator's `beadle.toml`, the project's `beadle.toml`, environment
//! variables (`BEADLE_HOST_LOG` for `host.log`).
//!
//! Invariants:
//! - unknown keys and wrong types are errors that name file, line, key and what was expected;
//! - a project that is not trusted by digest only tightens: what it may not say is listed in [`Project::ignored`], never taken;
//! - settings of the host itself are never taken from a project;
//! - resolving is a pure function of the files, the environment and the trust asked for.
//!
//! Called by `daemon` (its own, and one per session's folder), `session`, `policy` and `cli`.

mod context;
mod error;
mod folders;
mod keys;
mod operator;
mod otlp;
mod policies;
mod prices;
mod project;
mod queue;
mod record;
mod sinks;
mod tighten;
mod user;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value as Json;

use crate::model::queue::DEFAULT_LANE;
use crate::model::{Effect, Mediation};

pub use context::ContextEntry;
pub use error::Error;
pub use folders::{Folders, SUN_PATH_MAX, ShortPath, create_private, short_path};
pub use keys::{KEYS, Key, Kind, Scope};
pub use operator::{Confirm, Notify};
pub use otlp::OtlpConfig;
pub use policies::{DEADLINE_MS, Entry, INSTALLED, POLICIES_MAX, PROJECT_RULES, Plugin, RULES, RULES_MAX};
pub use prices::PRICES_FILE;
pub use project::{FILE as PROJECT_FILE, Found, find as find_project, read as read_project};
pub use queue::{Fair, LabelLimit, Lane, QueueConfig};
pub use record::RecordDefaults;
pub use sinks::{GROUP as SINK_GROUP, HttpConfig, JsonlConfig, SINKS_MAX, SinkEntry, SinkGroup, SinkKind, SinkMode, SinkPlugin};
pub use user::{UserFile, load_for, load_with};
pub use value::FILE_MAX;

const DEFAULTS: &str = include_str!("defaults.toml");

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Embedded,
    User { path: PathBuf, line: usize },
    Project { path: PathBuf, line: usize, trusted: bool },
    Environment { name: String },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("default"),
            Self::User { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Project { path, line, trusted: true } => write!(f, "{}:{line} (trusted project)", path.display()),
            Self::Project { path, line, trusted: false } => write!(f, "{}:{line} (project)", path.display()),
            Self::Environment { name } => write!(f, "${name}"),
        }
    }
}

/// When and how conversations are made shorter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compaction {
    /// Of the model's window; 100 is never.
    pub threshold_percent: u64,
    pub target_percent: u64,
    /// The name of a standard or an installed strategy, or a component's absolute path.
    pub strategy: String,
    /// JSON.
    pub config: String,
    /// How long a strategy may plan.
    pub deadline_ms: u64,
    /// What plans where the strategy fails at the threshold, as `strategy`; empty for nothing.
    pub fallback: String,
}

/// What to do when a tool ran without, or against, a decision. Ordered by strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnBreach {
    Alert,
    /// Its tree is frozen until somebody has looked.
    Pause,
    Stop,
}

impl OnBreach {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Pause => "pause",
            Self::Stop => "stop",
        }
    }
}

/// What becomes of a question when no terminal is attached to its session. Ordered by strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unattended {
    /// It waits in the queue for `beadle approve`, as with a terminal.
    Wait,
    /// It is denied at once.
    Deny,
}

/// What an ask becomes that reaches the host through an agent's hook. Ordered by strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HooksAsk {
    /// The agent's own prompt asks its user.
    Agent,
    /// The hook waits for a person to answer here.
    Wait,
    Deny,
}

impl HooksAsk {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Wait => "wait",
            Self::Deny => "deny",
        }
    }
}

/// What becomes of a result that a policy replaces where the agent does not allow it. Ordered by strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreplaceable {
    /// It passes, and the log says so.
    Tell,
    /// The session is stopped.
    Stop,
}

/// What becomes of a session with a limit of money whose cost is not known. Ordered by strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnknownCost {
    /// It goes on, and the log says so.
    Warn,
    /// It is stopped, as if the limit were passed.
    Stop,
}

/// Everything resolved. Times in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What a call gets when all policies abstain: allow, ask or deny.
    pub default: Effect,
    /// Filter of the daemon's log.
    pub log: String,
    /// The daemon ends after so long without a live session; `None` = never.
    pub linger_ms: Option<u64>,
    /// Names of environment variables that travel; a final `*` matches any rest.
    pub env: Vec<String>,
    pub grace_ms: u64,
    pub require_mediation: Mediation,
    /// An agent we know is only started when its very program passed `beadle doctor`.
    pub require_attested: bool,
    pub on_breach: OnBreach,
    /// Agents that take them get the host's own tools.
    pub host_tools: bool,
    pub record: RecordDefaults,
    pub approval_timeout_ms: u64,
    pub unattended: Unattended,
    /// A session that waits for nothing else is put away after so long; `None` = never.
    pub park_after_ms: Option<u64>,
    pub hooks_ask: HooksAsk,
    pub unreplaceable: Unreplaceable,
    /// How often feedback on an attempt becomes a further prompt.
    pub feedback_rounds: u64,
    pub compaction: Compaction,
    /// Where sessions wait for a place.
    pub queue: QueueConfig,
    pub live_sessions: u64,
    /// Generations below a session without a parent, and open children of one session.
    pub tree_depth: u64,
    pub children: u64,
    pub waiting_asks: u64,
    pub unknown_cost: UnknownCost,
    /// Calls that run when a limit is passed may go on for so long.
    pub finish_ms: u64,
    /// Absolute path of a price table that replaces the embedded one; see [`Config::price_table`].
    pub prices: Option<PathBuf>,
    /// What must prove that a person loosens something.
    pub confirm: Confirm,
    /// Labels, `key=value` or `key=*`, of sessions whose calls two persons must allow.
    pub two_person: Vec<String>,
    pub notify: Notify,
    /// What may add context beside prompts, by name.
    pub context: BTreeMap<String, ContextEntry>,
    /// In the order in which they are asked.
    pub policies: Vec<Entry>,
    /// Where events are delivered.
    pub sinks: Vec<SinkEntry>,
    /// Groups of required sinks that are not as by default.
    pub sink_groups: Vec<SinkGroup>,
}

/// The project's part in a resolved configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub dir: PathBuf,
    pub path: PathBuf,
    pub digest: String,
    pub trusted: bool,
    /// Keys that were not taken.
    pub ignored: Vec<String>,
}

/// A setting as `config show` prints it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub key: String,
    pub value: Json,
    pub origin: Origin,
}

/// A resolved configuration and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub settings: Vec<Shown>,
    pub project: Option<Project>,
}

/// What to resolve from.
pub struct Sources<'a> {
    /// The operator's file; it need not exist.
    pub user: Option<&'a Path>,
    /// The session's working directory: its project's file is looked for from here upwards.
    pub cwd: Option<&'a Path>,
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether the operator has pinned this digest for this folder.
    pub trusted: &'a dyn Fn(&Path, &str) -> bool,
}

/// The files of [`Sources`] as they were read.
pub struct Files<'a> {
    pub user: Option<(&'a Path, &'a str)>,
    pub project: Option<&'a Found>,
}

type Settings = BTreeMap<&'static str, (Json, Origin)>;

/// Reads the files and resolves all layers.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Error> {
    let user = sources.user.map(UserFile::read).transpose()?;
    let project = sources.cwd.map(project::find).transpose()?.flatten();
    resolve(&Files { user: user.as_ref().and_then(UserFile::layer), project: project.as_ref() }, sources.env, sources.trusted)
}

/// Resolves all layers of what was read; touches nothing but its arguments.
pub fn resolve(files: &Files<'_>, env: &dyn Fn(&str) -> Option<OsString>, trusted: &dyn Fn(&Path, &str) -> bool) -> Result<Loaded, Error> {
    let (mut settings, mut chain) = embedded()?.clone();
    let mut sinks = sinks::Read::default();
    let mut lanes = BTreeMap::from([(DEFAULT_LANE.to_owned(), Lane::default())]);
    let mut context = BTreeMap::new();
    if let Some((path, text)) = files.user {
        let source = value::Source::new(path, text);
        let top = source.parse()?;
        let origin = |line| Origin::User { path: path.to_owned(), line };
        for (key, value, line) in keys::read_all(&source, &top)? {
            settings.insert(key.name, (value, origin(line)));
        }
        policies::layer(&mut chain, policies::read(&source, &top, &origin)?);
        sinks = sinks::read(&source, &top)?;
        lanes = queue::read(&source, &top)?;
        context = context::read(&source, &top)?;
    }
    let project = files.project.map(|f| layer_project(f, trusted, &mut settings, &mut chain, &mut context)).transpose()?;
    for key in KEYS {
        let name = key.variable();
        if let Some(text) = env(&name) {
            let value = key.read_variable(&text.to_string_lossy())?;
            if key.scope == Scope::Guard
                && let Some((old, _)) = settings.get(key.name)
                && !key.is_stricter(old, &value)
            {
                let expected = format!("nothing looser than {old}, which the file says");
                return Err(Error::WrongVariable { name, found: value::cut(&text.to_string_lossy()), expected });
            }
            settings.insert(key.name, (value, Origin::Environment { name }));
        }
    }
    if chain.len() > POLICIES_MAX {
        let path = project.map(|p| p.path).or(files.user.map(|(path, _)| path.to_owned())).unwrap_or_default();
        return Err(Error::TooManyPolicies { path, count: chain.len(), max: POLICIES_MAX });
    }
    let shown = settings.iter().map(|(k, (v, o))| Shown { key: (*k).to_owned(), value: v.clone(), origin: o.clone() });
    Ok(Loaded { settings: shown.collect(), config: build(&settings, chain, sinks, lanes, context)?, project })
}

/// The lowest layer, read once: it is part of the binary.
fn embedded() -> Result<&'static (Settings, Vec<Entry>), Error> {
    static EMBEDDED: OnceLock<(Settings, Vec<Entry>)> = OnceLock::new();
    if let Some(read) = EMBEDDED.get() {
        return Ok(read);
    }
    let source = value::Source::new(Path::new("defaults.toml"), DEFAULTS);
    let top = source.parse()?;
    let settings = keys::read_all(&source, &top)?.into_iter().map(|(key, value, _)| (key.name, (value, Origin::Embedded))).collect();
    let mut chain = Vec::new();
    policies::layer(&mut chain, policies::read(&source, &top, &|_| Origin::Embedded)?);
    Ok(EMBEDDED.get_or_init(|| (settings, chain)))
}

fn layer_project(
    found: &Found,
    trusted: &dyn Fn(&Path, &str) -> bool,
    settings: &mut Settings,
    chain: &mut Vec<Entry>,
    context: &mut BTreeMap<String, ContextEntry>,
) -> Result<Project, Error> {
    let trusted = trusted(&found.dir, &found.digest);
    let source = value::Source::new(&found.path, &found.text);
    let top = source.parse()?;
    let origin = |line| Origin::Project { path: found.path.clone(), line, trusted };
    let mut ignored = Vec::new();
    for (key, value, line) in keys::read_all(&source, &top)? {
        let taken = match settings.get(key.name) {
            _ if trusted && matches!(key.scope, Scope::Session | Scope::Tighten) => Some(value),
            Some((old, _)) => key.tightened(old, &value),
            None => None,
        };
        match taken {
            Some(value) => drop(settings.insert(key.name, (value, origin(line)))),
            None => ignored.push(key.name.to_owned()),
        }
    }
    // why also of a trusted one: who is told is the operator's matter alone.
    ignored.extend(sinks::mentioned(&top));
    ignored.extend(queue::mentioned(&top));
    let (read, added) = (policies::read(&source, &top, &origin)?, context::read(&source, &top)?);
    if trusted {
        policies::layer(chain, read);
        ignored.extend(context::layer(context, added));
    } else {
        // why none of them: what is said to the agent beside the user's words is theirs to say.
        ignored.extend(context::mentioned(&top));
        ignored.extend(policies::tighten(chain, read, &found.dir));
    }
    Ok(Project { dir: found.dir.clone(), path: found.path.clone(), digest: found.digest.clone(), trusted, ignored })
}

fn build(
    settings: &Settings,
    policies: Vec<Entry>,
    sinks: sinks::Read,
    lanes: BTreeMap<String, Lane>,
    context: BTreeMap<String, ContextEntry>,
) -> Result<Config, Error> {
    let missing = |key: &str| Error::Embedded { key: key.to_owned() };
    let get = |key: &str| settings.get(key).map(|(v, _)| v).ok_or_else(|| missing(key));
    let text = |key: &str| get(key)?.as_str().ok_or_else(|| missing(key));
    let number = |key: &str| get(key)?.as_u64().ok_or_else(|| missing(key));
    let env = get("session.env")?.as_array().ok_or_else(|| missing("session.env"))?;
    Ok(Config {
        default: match text("default")? {
            "allow" => Effect::Allow,
            "deny" => Effect::Deny,
            _ => Effect::Ask,
        },
        log: text("host.log")?.to_owned(),
        linger_ms: Some(number("host.linger_ms")?).filter(|n| *n > 0),
        env: env.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
        grace_ms: number("session.grace_ms")?,
        require_mediation: match text("session.require_mediation")? {
            "none" => Mediation::None,
            "hooks" => Mediation::Hooks,
            _ => Mediation::Gate,
        },
        require_attested: get("session.require_attested")?.as_bool().ok_or_else(|| missing("session.require_attested"))?,
        on_breach: match text("session.on_breach")? {
            "alert" => OnBreach::Alert,
            "pause" => OnBreach::Pause,
            _ => OnBreach::Stop,
        },
        host_tools: text("session.host_tools")? == "on",
        record: record::defaults(settings)?,
        approval_timeout_ms: number("approvals.timeout_ms")?,
        unattended: match text("approvals.unattended")? {
            "deny" => Unattended::Deny,
            _ => Unattended::Wait,
        },
        park_after_ms: Some(number("approvals.park_after_ms")?).filter(|n| *n > 0),
        hooks_ask: match text("hooks.ask")? {
            "agent" => HooksAsk::Agent,
            "wait" => HooksAsk::Wait,
            _ => HooksAsk::Deny,
        },
        unreplaceable: match text("results.unreplaceable")? {
            "tell" => Unreplaceable::Tell,
            _ => Unreplaceable::Stop,
        },
        feedback_rounds: number("attempts.feedback_rounds")?,
        compaction: Compaction {
            threshold_percent: number("compaction.threshold_percent")?,
            target_percent: number("compaction.target_percent")?,
            strategy: strategy(settings, "compaction.strategy")?,
            config: text("compaction.config")?.to_owned(),
            deadline_ms: number("compaction.deadline_ms")?,
            fallback: strategy(settings, "compaction.fallback")?,
        },
        queue: QueueConfig { concurrency: number("queue.concurrency")?, depth: number("queue.depth")?, lanes },
        live_sessions: number("limits.live_sessions")?,
        tree_depth: number("limits.tree_depth")?,
        children: number("limits.children")?,
        waiting_asks: number("limits.waiting_asks")?,
        unknown_cost: if text("limits.unknown_cost")? == "warn" { UnknownCost::Warn } else { UnknownCost::Stop },
        finish_ms: number("limits.finish_ms")?,
        prices: file(settings, "usage.prices")?,
        confirm: operator::confirm(settings)?,
        two_person: operator::two_person(settings)?,
        notify: operator::notify(settings)?,
        context,
        policies,
        sinks: sinks.sinks,
        sink_groups: sinks.groups,
    })
}

/// A strategy's name stays; what looks like a path is one, relative to the file that says so.
fn strategy(settings: &Settings, key: &str) -> Result<String, Error> {
    let named = settings.get(key).and_then(|(v, _)| v.as_str()).unwrap_or_default();
    if !named.contains('/') && !named.ends_with(".wasm") {
        return Ok(named.to_owned());
    }
    Ok(file(settings, key)?.map_or_else(String::new, |p| p.display().to_string()))
}

/// A path, relative to the file that says so; `None` when it is empty.
fn file(settings: &Settings, key: &str) -> Result<Option<PathBuf>, Error> {
    let (value, origin) = settings.get(key).ok_or_else(|| Error::Embedded { key: key.to_owned() })?;
    let base = match origin {
        Origin::User { path, .. } | Origin::Project { path, .. } => path.parent(),
        _ => None,
    };
    let text = value.as_str().filter(|p| !p.is_empty());
    Ok(text.map(|p| base.unwrap_or(Path::new("/")).join(p)))
}

impl Config {
    /// Whether an environment variable of this name travels to the agent.
    pub fn env_allows(&self, name: &str) -> bool {
        self.env.iter().any(|p| p.strip_suffix('*').map_or(p == name, |prefix| name.starts_with(prefix)))
    }
}

#[cfg(test)]
mod tests;
