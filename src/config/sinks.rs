//! `[[sink]]` and `[[sink_group]]`: where events are delivered, and how much may be outstanding. Only the operator's file has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use toml::de::DeTable;
use url::Url;

use super::Error;
use super::policies::{INSTALLED, grants_of};
use super::value::{At, Source};
use crate::model::{Grants, is_plugin_name};

/// Most sinks.
pub const SINKS_MAX: usize = 32;
/// Most kinds, and most labels, of one filter.
const FILTER_MAX: usize = 256;
/// Group of a required sink that names none.
pub const GROUP: &str = "required";
const HOUR_MS: u64 = 3_600_000;
/// Longest wait of a call for a group; a session's task is busy meanwhile, and whoever stops it waits too.
pub const WAIT_MAX_MS: u64 = 20_000;

const KEYS: &[&str] = &[
    "name",
    "kind",
    "mode",
    "group",
    "kinds",
    "labels",
    "begin",
    "batch_events",
    "timeout_ms",
    "retry_max_ms",
    "max_lag_events",
    "max_lag_ms",
    "drop_after_events",
    "config",
    "grants",
];

/// What a sink promises, and what it may hold up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkMode {
    /// Drops the oldest when too much waits; holds nothing up.
    BestEffort,
    /// Keeps everything until it is taken; holds up the removal of sessions.
    AtLeastOnce,
    /// The same, and calls wait while its group is too far behind.
    Required,
}

impl SinkMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BestEffort => "best-effort",
            Self::AtLeastOnce => "at-least-once",
            Self::Required => "required",
        }
    }
}

/// A file of JSON lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonlConfig {
    pub path: PathBuf,
    /// The file is put aside before it grows over this.
    pub max_bytes: u64,
    /// And when it is older than this; 0 = never.
    pub max_age_ms: u64,
    /// Files put aside that are kept; 0 = all.
    pub keep: u64,
}

/// Batches of CloudEvents by POST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    pub url: Url,
    pub secret_file: Option<PathBuf>,
    pub secret_env: Option<String>,
    pub bearer_file: Option<PathBuf>,
    pub bearer_env: Option<String>,
}

/// Where a sink's component comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkPlugin {
    /// A `.wasm` file, absolute.
    File(PathBuf),
    /// One that `beadle plugin add` installed, by name.
    Installed(String),
}

/// What takes the events.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkKind {
    Jsonl(JsonlConfig),
    Http(HttpConfig),
    Otlp(Box<super::OtlpConfig>),
    Plugin {
        from: SinkPlugin,
        /// A JSON object; where it is left out, an installed plugin has its own.
        config: Option<Json>,
        /// What it may use, besides what an installed one was granted.
        grants: Grants,
    },
}

impl SinkKind {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Jsonl(_) => "jsonl",
            Self::Http(_) => "http",
            Self::Otlp(_) => "otlp",
            Self::Plugin { .. } => "plugin",
        }
    }
}

/// One sink.
#[derive(Debug, Clone, PartialEq)]
pub struct SinkEntry {
    pub name: String,
    pub kind: SinkKind,
    pub mode: SinkMode,
    pub group: String,
    /// Kinds of events, a final `*` matching any rest; empty for all.
    pub kinds: Vec<String>,
    /// Label and value (`*` for any) of sessions of which one must fit; empty for all.
    pub labels: Vec<(String, String)>,
    /// A new sink begins with what there is already.
    pub from_oldest: bool,
    pub batch_events: usize,
    pub timeout_ms: u64,
    pub retry_max_ms: u64,
    pub max_lag_events: u64,
    pub max_lag_ms: u64,
    /// Best effort: with more than this undelivered, the oldest half is dropped.
    pub drop_after_events: u64,
}

impl SinkEntry {
    /// Whether events of a session with these labels are for this sink.
    pub fn wants_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.is_empty() || self.labels.iter().any(|(k, v)| labels.get(k).is_some_and(|have| v == "*" || v == have))
    }

    pub fn wants_kind(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|k| k.strip_suffix('*').map_or(k == kind, |p| kind.starts_with(p)))
    }
}

/// Sinks of which all, or any one, must keep up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkGroup {
    pub name: String,
    /// All of them must keep up; else one is enough.
    pub all: bool,
    /// How long a call waits for it before it is denied.
    pub wait_ms: u64,
}

/// What a file says of sinks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Read {
    pub sinks: Vec<SinkEntry>,
    pub groups: Vec<SinkGroup>,
}

/// Whether a file says anything of sinks.
pub fn mentioned(top: &DeTable<'_>) -> Vec<String> {
    ["sink", "sink_group"].iter().filter(|k| top.contains_key(**k)).map(|k| (*k).to_owned()).collect()
}

/// Reads the tables of one file. Errors name the place and what was expected.
pub fn read(source: &Source<'_>, top: &DeTable<'_>) -> Result<Read, Error> {
    let mut out = Read::default();
    if let Some(value) = top.get("sink") {
        for at in (At { source, value }).items("sink", SINKS_MAX)? {
            let new = entry(at)?;
            if out.sinks.iter().any(|e| e.name == new.name) {
                return Err(at.wrong("sink.name", format!("a name that no other sink has, not {:?} twice", new.name)));
            }
            out.sinks.push(new);
        }
    }
    if let Some(value) = top.get("sink_group") {
        for at in (At { source, value }).items("sink_group", SINKS_MAX)? {
            let new = group(at)?;
            if out.groups.iter().any(|g| g.name == new.name) {
                return Err(at.wrong("sink_group.name", format!("a name that no other group has, not {:?} twice", new.name)));
            }
            if !out.sinks.iter().any(|s| s.mode == SinkMode::Required && s.group == new.name) {
                return Err(
                    at.wrong("sink_group.name", format!("the group of a sink with mode = \"required\", which {:?} is not", new.name))
                );
            }
            out.groups.push(new);
        }
    }
    Ok(out)
}

fn group(at: At<'_, '_>) -> Result<SinkGroup, Error> {
    let (mut group, mut named) = (SinkGroup { name: GROUP.to_owned(), all: true, wait_ms: 10_000 }, false);
    for (key, value) in at.fields("sink_group", &["name", "required", "wait_ms"])? {
        match key {
            "name" => (group.name, named) = (name(value, "sink_group.name")?, true),
            "required" => group.all = value.word("sink_group.required", &["all", "any"])? == "all",
            _ => group.wait_ms = value.number("sink_group.wait_ms", 0, WAIT_MAX_MS)?,
        }
    }
    if named { Ok(group) } else { Err(at.wrong("sink_group.name", "the name of a group")) }
}

fn entry(at: At<'_, '_>) -> Result<SinkEntry, Error> {
    let mut sink = SinkEntry {
        name: String::new(),
        kind: SinkKind::Plugin { from: SinkPlugin::File(PathBuf::new()), config: None, grants: Grants::default() },
        mode: SinkMode::AtLeastOnce,
        group: GROUP.to_owned(),
        kinds: vec![],
        labels: vec![],
        from_oldest: true,
        batch_events: 1_000,
        timeout_ms: 10_000,
        retry_max_ms: 60_000,
        max_lag_events: 10_000,
        max_lag_ms: 60_000,
        drop_after_events: 100_000,
    };
    let (mut kind, mut config, mut grouped, mut granted) = (None, None, None, None);
    for (key, value) in at.fields("sink", KEYS)? {
        let number = |min, max| value.number(&format!("sink.{key}"), min, max);
        match key {
            "name" => sink.name = name(value, "sink.name")?,
            "kind" => kind = Some(value),
            "mode" => {
                sink.mode = match value.word("sink.mode", &["best-effort", "at-least-once", "required"])? {
                    "best-effort" => SinkMode::BestEffort,
                    "required" => SinkMode::Required,
                    _ => SinkMode::AtLeastOnce,
                }
            }
            "group" => {
                sink.group = name(value, "sink.group")?;
                grouped = Some(value);
            }
            "kinds" => sink.kinds = value.texts("sink.kinds", FILTER_MAX)?,
            "labels" => sink.labels = labels(value)?,
            "begin" => sink.from_oldest = value.word("sink.begin", &["oldest", "newest"])? == "oldest",
            "batch_events" => sink.batch_events = usize::try_from(number(1, 1_000)?).unwrap_or(1_000),
            "timeout_ms" => sink.timeout_ms = number(100, 120_000)?,
            "retry_max_ms" => sink.retry_max_ms = number(100, HOUR_MS)?,
            "max_lag_events" => sink.max_lag_events = number(1, 100_000_000)?,
            "max_lag_ms" => sink.max_lag_ms = number(100, 24 * HOUR_MS)?,
            "drop_after_events" => sink.drop_after_events = number(2, 100_000_000)?,
            "grants" => granted = Some(value),
            _ => {
                value.table("sink.config")?;
                config = Some(value);
            }
        }
    }
    if sink.name.is_empty() {
        return Err(at.wrong("sink.name", "a name for the sink"));
    }
    if let Some(given) = grouped.filter(|_| sink.mode != SinkMode::Required) {
        return Err(given.wrong("sink.group", "no group: only a sink with mode = \"required\" has one"));
    }
    let expected = "jsonl, http, otlp, installed: and the name of an installed plugin, or the path of a .wasm file";
    let kind = kind.ok_or_else(|| at.wrong("sink.kind", expected))?;
    let base = at.source.path.parent().unwrap_or(Path::new("/"));
    let from = match kind.text("sink.kind")? {
        native @ ("jsonl" | "http" | "otlp") => {
            if let Some(given) = granted {
                return Err(given.wrong("sink.grants", format!("no grants: {native} is part of the host, only a plugin has them")));
            }
            let (given, at) = (config.is_some(), config.unwrap_or(at));
            sink.kind = match native {
                "jsonl" => jsonl(at, given, base)?,
                "otlp" => super::otlp::read(at, given, base)?,
                _ => http(at, given, base)?,
            };
            return Ok(sink);
        }
        other => match other.strip_prefix(INSTALLED) {
            Some(name) if is_plugin_name(name) => SinkPlugin::Installed(name.to_owned()),
            None if other.ends_with(".wasm") && other.len() <= 4096 && !other.contains('\0') => SinkPlugin::File(base.join(other)),
            _ => return Err(kind.wrong("sink.kind", expected)),
        },
    };
    let grants = granted.map_or_else(|| Ok(Grants::default()), |g| grants_of(g, "sink.grants"))?;
    sink.kind = SinkKind::Plugin { from, config: config.map(|c| c.json("sink.config")).transpose()?, grants };
    Ok(sink)
}

fn jsonl(at: At<'_, '_>, given: bool, base: &Path) -> Result<SinkKind, Error> {
    let mut out = JsonlConfig { path: PathBuf::new(), max_bytes: 256 << 20, max_age_ms: 0, keep: 0 };
    let fields = if given { at.fields("sink.config", &["path", "max_bytes", "max_age_ms", "keep"])? } else { vec![] };
    for (key, value) in fields {
        let number = |min, max| value.number(&format!("sink.config.{key}"), min, max);
        match key {
            "path" => out.path = path(value, "sink.config.path", base)?,
            "max_bytes" => out.max_bytes = number(1 << 10, 1 << 50)?,
            "max_age_ms" => out.max_age_ms = number(0, 366 * 24 * HOUR_MS)?,
            _ => out.keep = number(0, 10_000)?,
        }
    }
    if out.path.as_os_str().is_empty() {
        return Err(at.wrong("sink.config.path", "the path of the file that lines are written to"));
    }
    Ok(SinkKind::Jsonl(out))
}

fn http(at: At<'_, '_>, given: bool, base: &Path) -> Result<SinkKind, Error> {
    const URL: &str = "an https:// address without user name or password (http:// only to 127.0.0.1, [::1] or localhost)";
    let mut url = None;
    let (mut secret_file, mut secret_env, mut bearer_file, mut bearer_env) = (None, None, None, None);
    let keys = ["url", "secret_file", "secret_env", "bearer_file", "bearer_env"];
    let fields = if given { at.fields("sink.config", &keys)? } else { vec![] };
    for (key, value) in fields {
        let name = format!("sink.config.{key}");
        match key {
            "url" => {
                let parsed = super::operator::address(value.text(&name)?);
                // why not the value: an address may hold a token.
                url = Some(parsed.ok_or_else(|| at.wrong(&name, URL))?);
            }
            "secret_file" => secret_file = Some(path(value, &name, base)?),
            "bearer_file" => bearer_file = Some(path(value, &name, base)?),
            "secret_env" => secret_env = Some(variable(value, &name)?),
            _ => bearer_env = Some(variable(value, &name)?),
        }
    }
    let url = url.ok_or_else(|| at.wrong("sink.config.url", URL))?;
    Ok(SinkKind::Http(HttpConfig { url, secret_file, secret_env, bearer_file, bearer_env }))
}

pub(super) fn path(at: At<'_, '_>, key: &str, base: &Path) -> Result<PathBuf, Error> {
    let text = at.text(key)?;
    if text.is_empty() || text.len() > 4096 || text.contains('\0') {
        return Err(at.wrong(key, "the path of a file"));
    }
    Ok(base.join(text))
}

pub(super) fn variable(at: At<'_, '_>, key: &str) -> Result<String, Error> {
    let text = at.text(key)?;
    // why: no other variable reaches the daemon, whose environment is cleaned when it is started.
    if text.starts_with("BEADLE_") { Ok(text.to_owned()) } else { Err(at.wrong(key, "the name of a variable that begins with BEADLE_")) }
}

fn labels(at: At<'_, '_>) -> Result<Vec<(String, String)>, Error> {
    let wrong = || at.wrong("sink.labels", "labels as \"key=value\" or \"key=*\"");
    let pair = |t: String| t.split_once('=').filter(|(k, v)| !k.is_empty() && !v.is_empty()).map(|(k, v)| (k.to_owned(), v.to_owned()));
    at.texts("sink.labels", FILTER_MAX)?.into_iter().map(|t| pair(t).ok_or_else(wrong)).collect()
}

fn name(at: At<'_, '_>, key: &str) -> Result<String, Error> {
    let s = at.text(key)?;
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if s.is_empty() || s.len() > 64 || !s.chars().all(ok) {
        return Err(at.wrong(key, "1 to 64 of a-z A-Z 0-9 - _ ."));
    }
    Ok(s.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Read, Error> {
        let source = Source::new(Path::new("/etc/b/beadle.toml"), text);
        read(&source, &source.parse()?)
    }

    #[test]
    fn a_sink_is_read_with_its_defaults_and_paths_beside_the_file() {
        let read = parsed(
            "[[sink]]\nname = \"a\"\nkind = \"jsonl\"\nlabels = [\"team=*\"]\nkinds = [\"tool_*\"]\nconfig = { path = \"audit.jsonl\" }",
        )
        .unwrap();
        let s = &read.sinks[0];
        assert_eq!((s.mode, s.batch_events, s.from_oldest), (SinkMode::AtLeastOnce, 1_000, true));
        assert!(matches!(&s.kind, SinkKind::Jsonl(j) if j.path == Path::new("/etc/b/audit.jsonl") && j.keep == 0));
        assert!(s.wants_kind("tool_decided") && !s.wants_kind("host_opened"));
        let label = |v: &str| BTreeMap::from([("team".to_owned(), v.to_owned())]);
        assert!(s.wants_labels(&label("x")) && !s.wants_labels(&BTreeMap::new()));
    }

    #[test]
    fn a_plugin_is_named_or_a_file_and_has_grants() {
        let kind = |text: &str| parsed(&format!("[[sink]]\nname = \"a\"\n{text}")).map(|r| r.sinks[0].kind.clone());
        let plugin = |from, config, words: &[&str]| SinkKind::Plugin { from, config, grants: Grants::parse(words).unwrap() };
        let installed = SinkPlugin::Installed("ship.1".into());
        assert_eq!(kind("kind = \"installed:ship.1\"").unwrap(), plugin(installed.clone(), None, &[]));
        let more = "kind = \"installed:ship.1\"\ngrants = [\"http:POST:a.example\", \"secret:TOKEN\"]\nconfig = { n = 1 }";
        let given = plugin(installed, Some(serde_json::json!({"n": 1})), &["http:POST:a.example", "secret:TOKEN"]);
        assert_eq!(kind(more).unwrap(), given);
        let file = SinkPlugin::File("/etc/b/x/s.wasm".into());
        assert_eq!(kind("kind = \"x/s.wasm\"").unwrap(), plugin(file, None, &[]));
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_with_its_place() {
        let jsonl = "kind = \"jsonl\"\nconfig = { path = \"a\" }";
        for (text, says) in [
            ("[[sink]]\nname = \"a\"\nkind = \"jsonl\"".to_owned(), "sink.config.path"),
            (format!("[[sink]]\n{jsonl}"), "sink.name"),
            ("[[sink]]\nname = \"a\"\nkind = \"syslog\"".to_owned(), "sink.kind"),
            ("[[sink]]\nname = \"a\"\nkind = \"installed:../x\"".to_owned(), "sink.kind"),
            ("[[sink]]\nname = \"a\"\nkind = \"installed:x\"\ngrants = [\"everything\"]".to_owned(), "sink.grants"),
            (format!("[[sink]]\nname = \"a\"\n{jsonl}\ngrants = [\"kv\"]"), "sink.grants"),
            ("[[sink]]\nname = \"a\"\nkind = \"http\"\nconfig = { url = \"http://example.org/\" }".to_owned(), "sink.config.url"),
            (format!("[[sink]]\nname = \"a\"\ngroup = \"g\"\n{jsonl}"), "sink.group"),
            (format!("[[sink]]\nname = \"a\"\nbatch_events = 1001\n{jsonl}"), "sink.batch_events"),
            (format!("[[sink]]\nname = \"a\"\n{jsonl}\n[[sink]]\nname = \"a\"\n{jsonl}"), "sink.name"),
            ("[[sink_group]]\nname = \"g\"".to_owned(), "sink_group.name"),
            (format!("[[sink]]\nname = \"a\"\nspeed = 1\n{jsonl}"), "sink.speed"),
        ] {
            let e = parsed(&text).expect_err(&text).to_string();
            assert!(e.contains(says) && e.contains("beadle.toml:"), "{text}: {e}");
        }
    }
}
