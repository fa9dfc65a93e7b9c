//! The table of settings: name, type, and whether a project may set it. Reading, `config show` and the tightening rule all follow it.

use serde_json::Value as Json;

use super::Error;
use super::value::{At, Source};

/// What a setting holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    /// `false` is the looser one.
    Flag,
    Number {
        min: u64,
        max: u64,
    },
    /// Closed set, from the loosest to the strictest.
    Words(&'static [&'static str]),
    Texts {
        max: usize,
    },
}

/// What the configuration of a project that is not trusted may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The daemon's own: never from a project, trusted or not.
    Host,
    /// Of a session: only from a trusted project.
    Session,
    /// Of a session: a lower number, or a stricter word, from any project.
    Tighten,
    /// Of a session: a list that only grows; a project, trusted or not, adds to it.
    Grow,
    /// The daemon's own, and guards it: never from a project, and the environment only makes it stricter.
    Guard,
}

/// One setting.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub scope: Scope,
}

const HOUR_MS: u64 = 3_600_000;

/// Every setting outside `[[policy]]` and `[rules]`.
pub const KEYS: &[Key] = &[
    Key { name: "default", kind: Kind::Words(&["allow", "ask", "deny"]), scope: Scope::Tighten },
    Key { name: "host.log", kind: Kind::Text, scope: Scope::Host },
    Key { name: "host.linger_ms", kind: Kind::Number { min: 0, max: 365 * 24 * HOUR_MS }, scope: Scope::Host },
    Key { name: "session.env", kind: Kind::Texts { max: 1000 }, scope: Scope::Session },
    Key { name: "session.grace_ms", kind: Kind::Number { min: 0, max: HOUR_MS }, scope: Scope::Session },
    Key { name: "session.require_mediation", kind: Kind::Words(&["none", "hooks", "gate"]), scope: Scope::Tighten },
    Key { name: "session.require_attested", kind: Kind::Flag, scope: Scope::Tighten },
    Key { name: "session.on_breach", kind: Kind::Words(&["alert", "pause", "stop"]), scope: Scope::Tighten },
    Key { name: "session.host_tools", kind: Kind::Words(&["on", "off"]), scope: Scope::Tighten },
    Key { name: "session.restart", kind: Kind::Words(&crate::model::Restart::WORDS), scope: Scope::Session },
    Key { name: "session.owner", kind: Kind::Text, scope: Scope::Session },
    Key { name: "session.tenant", kind: Kind::Text, scope: Scope::Session },
    Key { name: "session.mission", kind: Kind::Text, scope: Scope::Session },
    Key { name: "session.phase", kind: Kind::Text, scope: Scope::Session },
    Key { name: "session.expect_report", kind: Kind::Flag, scope: Scope::Tighten },
    Key { name: "session.read_only_repo", kind: Kind::Flag, scope: Scope::Tighten },
    Key { name: "session.writer_idle_ms", kind: Kind::Number { min: 0, max: 365 * 24 * HOUR_MS }, scope: Scope::Host },
    Key { name: "approvals.timeout_ms", kind: Kind::Number { min: 0, max: 30 * 24 * HOUR_MS }, scope: Scope::Tighten },
    Key { name: "approvals.unattended", kind: Kind::Words(&["wait", "deny"]), scope: Scope::Tighten },
    Key { name: "approvals.park_after_ms", kind: Kind::Number { min: 0, max: 30 * 24 * HOUR_MS }, scope: Scope::Host },
    Key { name: "hooks.ask", kind: Kind::Words(&["agent", "wait", "deny"]), scope: Scope::Tighten },
    Key { name: "results.unreplaceable", kind: Kind::Words(&["tell", "stop"]), scope: Scope::Tighten },
    Key { name: "attempts.feedback_rounds", kind: Kind::Number { min: 0, max: 100 }, scope: Scope::Tighten },
    Key { name: "compaction.threshold_percent", kind: Kind::Number { min: 1, max: 100 }, scope: Scope::Tighten },
    Key { name: "compaction.target_percent", kind: Kind::Number { min: 1, max: 99 }, scope: Scope::Session },
    Key { name: "compaction.strategy", kind: Kind::Text, scope: Scope::Session },
    Key { name: "compaction.config", kind: Kind::Text, scope: Scope::Session },
    Key { name: "compaction.deadline_ms", kind: Kind::Number { min: 10, max: 60_000 }, scope: Scope::Session },
    Key { name: "compaction.fallback", kind: Kind::Text, scope: Scope::Session },
    Key { name: "queue.concurrency", kind: Kind::Number { min: 1, max: 100_000 }, scope: Scope::Host },
    Key { name: "queue.depth", kind: Kind::Number { min: 1, max: 100_000 }, scope: Scope::Host },
    Key { name: "limits.live_sessions", kind: Kind::Number { min: 1, max: 100_000 }, scope: Scope::Host },
    Key { name: "limits.tree_depth", kind: Kind::Number { min: 0, max: 60 }, scope: Scope::Tighten },
    Key { name: "limits.children", kind: Kind::Number { min: 0, max: 10_000 }, scope: Scope::Tighten },
    Key { name: "limits.waiting_asks", kind: Kind::Number { min: 0, max: 4096 }, scope: Scope::Tighten },
    Key { name: "limits.unknown_cost", kind: Kind::Words(&["warn", "stop"]), scope: Scope::Tighten },
    Key { name: "limits.finish_ms", kind: Kind::Number { min: 0, max: HOUR_MS }, scope: Scope::Tighten },
    Key { name: "usage.prices", kind: Kind::Text, scope: Scope::Host },
    Key { name: "operator.confirm", kind: Kind::Words(&["none", "tty", "key"]), scope: Scope::Guard },
    Key { name: "approvals.two_person", kind: Kind::Texts { max: 100 }, scope: Scope::Grow },
    Key { name: "notify.webhook", kind: Kind::Text, scope: Scope::Host },
    Key { name: "notify.secret_file", kind: Kind::Text, scope: Scope::Host },
    Key { name: "notify.secret_env", kind: Kind::Text, scope: Scope::Host },
    Key { name: "notify.timeout_ms", kind: Kind::Number { min: 100, max: 60_000 }, scope: Scope::Host },
    Key { name: "notify.desktop", kind: Kind::Flag, scope: Scope::Host },
];

/// The tables at the top of a file, for the text of errors.
pub const SECTIONS: &[&str] = &[
    "default",
    "host",
    "session",
    "approvals",
    "hooks",
    "results",
    "attempts",
    "compaction",
    "operator",
    "notify",
    "queue",
    "limits",
    "usage",
    "rules",
    "policy",
    "sink",
    "sink_group",
    "context",
];

/// A setting by its full name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.name == name)
}

impl Key {
    /// Reads the value from a file; errors name file, line, key and what was expected.
    pub fn read(&self, at: At<'_, '_>) -> Result<Json, Error> {
        Ok(match self.kind {
            Kind::Text => Json::from(at.text(self.name)?),
            Kind::Flag => Json::from(at.flag(self.name)?),
            Kind::Number { min, max } => Json::from(at.number(self.name, min, max)?),
            Kind::Words(words) => Json::from(at.word(self.name, words)?),
            Kind::Texts { max } => Json::from(at.texts(self.name, max)?),
        })
    }

    /// The environment variable that sets it: `BEADLE_HOST_LOG` for `host.log`.
    pub fn variable(&self) -> String {
        format!("BEADLE_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// Reads the value from an environment variable; lists are separated by commas.
    pub fn read_variable(&self, text: &str) -> Result<Json, Error> {
        let wrong = |expected: String| Error::WrongVariable { name: self.variable(), found: super::value::cut(text), expected };
        match self.kind {
            Kind::Text => Ok(Json::from(text)),
            Kind::Flag => text.parse::<bool>().map(Json::from).map_err(|_| wrong("true or false".to_owned())),
            Kind::Number { min, max } => text
                .parse::<u64>()
                .ok()
                .filter(|n| (min..=max).contains(n))
                .map(Json::from)
                .ok_or_else(|| wrong(format!("a whole number from {min} to {max}"))),
            Kind::Words(words) if words.contains(&text) => Ok(Json::from(text)),
            Kind::Words(words) => Err(wrong(format!("one of {}", words.join(", ")))),
            Kind::Texts { max } => {
                let list: Vec<&str> = text.split(',').map(str::trim).filter(|t| !t.is_empty()).collect();
                if list.len() > max { Err(wrong(format!("at most {max} names"))) } else { Ok(Json::from(list)) }
            }
        }
    }

    /// What a project that is not trusted makes of `old` (both already of this kind); `None` when its word is not taken.
    pub fn tightened(&self, old: &Json, new: &Json) -> Option<Json> {
        match self.scope {
            Scope::Tighten => self.is_stricter(old, new).then(|| new.clone()),
            Scope::Grow => Some(grown(old, new)),
            Scope::Host | Scope::Session | Scope::Guard => None,
        }
    }

    /// Whether a value is of its kind.
    pub fn accepts(&self, v: &Json) -> bool {
        match self.kind {
            Kind::Text => v.is_string(),
            Kind::Flag => v.is_boolean(),
            Kind::Number { min, max } => v.as_u64().is_some_and(|n| (min..=max).contains(&n)),
            Kind::Words(words) => v.as_str().is_some_and(|w| words.contains(&w)),
            Kind::Texts { max } => v.as_array().is_some_and(|l| l.len() <= max && l.iter().all(Json::is_string)),
        }
    }

    /// Whether `new` is at least as strict as `old`.
    pub fn is_stricter(&self, old: &Json, new: &Json) -> bool {
        match self.kind {
            Kind::Flag => new.as_bool() >= old.as_bool(),
            Kind::Number { .. } => new.as_u64() <= old.as_u64(),
            Kind::Words(words) => {
                let rank = |v: &Json| words.iter().position(|w| v.as_str() == Some(*w));
                rank(new) >= rank(old)
            }
            Kind::Text | Kind::Texts { .. } => false,
        }
    }
}

/// Both lists, each item once.
pub fn grown(old: &Json, new: &Json) -> Json {
    let mut out: Vec<Json> = old.as_array().cloned().unwrap_or_default();
    for item in new.as_array().into_iter().flatten() {
        if !out.contains(item) {
            out.push(item.clone());
        }
    }
    Json::Array(out)
}

/// All settings of one file, with their lines; an unknown section or key is an error.
pub fn read_all(source: &Source<'_>, top: &toml::de::DeTable<'_>) -> Result<Vec<(&'static Key, Json, usize)>, Error> {
    let mut out = Vec::new();
    for (name, value) in top {
        let section: &str = name.get_ref();
        let at = At { source, value };
        if let Some(key) = find(section) {
            out.push((key, key.read(at)?, at.line()));
            continue;
        }
        if matches!(section, "policy" | "rules" | "sink" | "sink_group" | "context") {
            continue;
        }
        let prefix = format!("{section}.");
        let known: Vec<&'static str> = KEYS.iter().filter_map(|k| k.name.strip_prefix(&prefix)).collect();
        if known.is_empty() {
            return Err(source.unknown(name.span().start, section.to_owned(), SECTIONS));
        }
        let fields = if section == "queue" { at.plain_fields(section, &known) } else { at.fields(section, &known) };
        for (field, at) in fields? {
            if let Some(key) = find(&format!("{prefix}{field}")) {
                out.push((key, key.read(at)?, at.line()));
            }
        }
    }
    Ok(out)
}
