//! `[queue]`: the lanes in which sessions wait, and how many of each may run. Only the operator's file has lanes.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::Error;
use super::value::{At, Source};
use crate::model::Handler;
use crate::model::queue::{DEFAULT_LANE, LANE_NAME_MAX};

/// Most lanes.
pub const LANES_MAX: usize = 64;
/// Most limits of one lane.
const LIMITS_MAX: usize = 64;
const HOUR_MS: u64 = 3_600_000;
const KEYS: &[&str] = &["priority", "concurrency", "handler", "fair", "limits", "attempts", "retry_ms", "lease_ms"];

/// Between whom the places of a lane are shared out in turn.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fair {
    #[default]
    Owner,
    /// The value of this label.
    Label(String),
}

/// How many sessions with a label may run at once, over all lanes that say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelLimit {
    pub key: String,
    /// `None`: each value by itself.
    pub value: Option<String>,
    pub most: u64,
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Lanes with a higher one are served first.
    pub priority: i64,
    /// Sessions of it that run or are leased at once.
    pub concurrency: u64,
    pub handler: Handler,
    pub fair: Fair,
    pub limits: Vec<LabelLimit>,
    /// Tries that come to nothing before a session is a dead letter.
    pub attempts: u32,
    /// Before the second try; each further one waits twice as long, up to an hour.
    pub retry_ms: u64,
    /// A worker that says nothing for so long has lost its session.
    pub lease_ms: u64,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            priority: 0,
            concurrency: 4,
            handler: Handler::Internal,
            fair: Fair::Owner,
            limits: vec![],
            attempts: 3,
            retry_ms: 1_000,
            lease_ms: 60_000,
        }
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Sessions from the queue that the host runs at once.
    pub concurrency: u64,
    /// Most sessions that wait; more are refused.
    pub depth: u64,
    /// There is always one named `default`.
    pub lanes: BTreeMap<String, Lane>,
}

/// Whether a file says anything of lanes.
pub(super) fn mentioned(top: &DeTable<'_>) -> Vec<String> {
    let lanes = top.get("queue").and_then(|v| v.get_ref().as_table()).into_iter().flatten();
    lanes.filter(|(_, v)| is_lane(v.get_ref())).map(|(name, _)| format!("queue.{}", name.get_ref())).collect()
}

pub(super) fn is_lane(value: &DeValue<'_>) -> bool {
    matches!(value, DeValue::Table(_))
}

/// Reads the lanes of one file. Errors name the place and what was expected.
pub(super) fn read(source: &Source<'_>, top: &DeTable<'_>) -> Result<BTreeMap<String, Lane>, Error> {
    let mut lanes = BTreeMap::from([(DEFAULT_LANE.to_owned(), Lane::default())]);
    let Some(table) = top.get("queue").and_then(|v| v.get_ref().as_table()) else { return Ok(lanes) };
    for (name, value) in table.iter().filter(|(_, v)| is_lane(v.get_ref())) {
        let at = At { source, value };
        let name: &str = name.get_ref();
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > LANE_NAME_MAX || !name.chars().all(fits) {
            return Err(at.wrong("queue", format!("lanes named by 1 to {LANE_NAME_MAX} of a-z 0-9 - _, not {name:?}")));
        }
        lanes.insert(name.to_owned(), lane(at, name)?);
        if lanes.len() > LANES_MAX {
            return Err(at.wrong("queue", format!("at most {LANES_MAX} lanes")));
        }
    }
    Ok(lanes)
}

fn lane(at: At<'_, '_>, name: &str) -> Result<Lane, Error> {
    let mut lane = Lane::default();
    for (key, value) in at.fields(&format!("queue.{name}"), KEYS)? {
        let full = format!("queue.{name}.{key}");
        let number = |min, max| value.number(&full, min, max);
        match key {
            "priority" => lane.priority = i64::try_from(number(0, 1_000)?).unwrap_or(0),
            "concurrency" => lane.concurrency = number(1, 100_000)?,
            "handler" => {
                lane.handler = match value.word(&full, &["internal", "external", "hybrid"])? {
                    "external" => Handler::External,
                    "hybrid" => Handler::Hybrid,
                    _ => Handler::Internal,
                }
            }
            "fair" => {
                let text = value.text(&full)?;
                lane.fair = match (text, text.strip_prefix("label:")) {
                    ("owner", _) => Fair::Owner,
                    (_, Some(key)) if !key.is_empty() => Fair::Label(key.to_owned()),
                    _ => return Err(value.wrong(&full, "owner, or label:KEY")),
                }
            }
            "limits" => lane.limits = limits(value, &full)?,
            "attempts" => lane.attempts = u32::try_from(number(1, 100)?).unwrap_or(1),
            "retry_ms" => lane.retry_ms = number(0, HOUR_MS)?,
            _ => lane.lease_ms = number(100, 24 * HOUR_MS)?,
        }
    }
    Ok(lane)
}

/// `{ "repo=x" = 1, "repo=*" = 2 }`.
fn limits(value: At<'_, '_>, full: &str) -> Result<Vec<LabelLimit>, Error> {
    let mut out = Vec::new();
    for (label, most) in value.table(full)? {
        let label: &str = label.get_ref();
        let most = At { source: value.source, value: most }.number(full, 1, 100_000)?;
        let (key, of) = label
            .split_once('=')
            .filter(|(k, _)| !k.is_empty())
            .ok_or_else(|| value.wrong(full, format!("labels as in \"repo=x\" or \"repo=*\", each with a number, not {label:?}")))?;
        out.push(LabelLimit { key: key.to_owned(), value: Some(of.to_owned()).filter(|v| v != "*"), most });
    }
    if out.len() > LIMITS_MAX { Err(value.wrong(full, format!("at most {LIMITS_MAX} limits"))) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(text: &str) -> Result<BTreeMap<String, Lane>, String> {
        let source = Source::new(Path::new("/c"), text);
        let top = source.parse().map_err(|e| e.to_string())?;
        read(&source, &top).map_err(|e| e.to_string())
    }

    #[test]
    fn lanes_are_read_and_the_default_one_is_always_there() {
        assert_eq!(of("").unwrap(), BTreeMap::from([("default".to_owned(), Lane::default())]));
        let lanes =
            of("[queue]\nconcurrency = 2\n[queue.fast]\npriority = 9\nconcurrency = 1\nhandler = \"hybrid\"\nfair = \"label:team\"\n\
                        limits = { \"repo=*\" = 1, \"repo=x\" = 2 }\nattempts = 5\nretry_ms = 10\nlease_ms = 500\n")
            .unwrap();
        let fast = &lanes["fast"];
        assert_eq!((fast.priority, fast.concurrency, fast.handler, &fast.fair), (9, 1, Handler::Hybrid, &Fair::Label("team".into())));
        assert_eq!(fast.limits.len(), 2);
        assert!(fast.limits.iter().any(|l| l.value.is_none() && l.most == 1));
        assert_eq!((fast.attempts, fast.retry_ms, fast.lease_ms, lanes.len()), (5, 10, 500, 2));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("[queue.fast]\nspeed = 1\n", "queue.fast.speed"),
            ("[queue.Fast]\n", "not \"Fast\""),
            ("[queue.a]\nfair = \"label:\"\n", "owner, or label:KEY"),
            ("[queue.a]\nlimits = { repo = 1 }\n", "not \"repo\""),
            ("[queue.a]\nconcurrency = 0\n", "from 1 to"),
            ("[queue.a]\nhandler = \"me\"\n", "internal, external, hybrid"),
        ] {
            let said = of(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
