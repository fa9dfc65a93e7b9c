//! Writes a line of its log for each event of the kinds that its configuration names.

use beadle_plugin::log::{self, Level};
use beadle_plugin::{Batch, Description, Outcome, Sink, config, export_sink};
use schemars::JsonSchema;
use serde::Deserialize;

/// What the operator may set.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Kinds of events that are written; all where it is empty.
    kinds: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { kinds: vec!["tool_decided".to_owned()] }
    }
}

struct {{Type}} {
    kinds: Vec<String>,
}

impl {{Type}} {
    fn wants(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|k| k == kind)
    }
}

impl Sink for {{Type}} {
    fn describe() -> Description {
        Description::new("{{name}}", env!("CARGO_PKG_VERSION"), "Writes events to its log.").with_config::<Config>()
    }

    fn configure(text: &str) -> Result<Self, String> {
        let Config { kinds } = config::parse(text)?;
        Ok(Self { kinds })
    }

    fn write(&self, batch: &Batch) -> Outcome {
        for event in batch.events.iter().filter(|e| self.wants(&e.kind)) {
            log::write(Level::Info, &format!("{} {} {} {}", event.session, event.seq, event.kind, event.body));
        }
        // All of the batch counts as delivered, what was passed over too.
        Outcome::Accepted(batch.events.len() as u32)
    }
}

export_sink!({{Type}});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_chosen_by_name_and_none_means_all() {
        let some = {{Type}}::configure("{}").expect("a good configuration");
        assert!(some.wants("tool_decided") && !some.wants("note"));
        assert!({{Type}}::configure(r#"{"kinds":[]}"#).expect("a good configuration").wants("note"));
    }

    #[test]
    fn a_batch_is_delivered_whole() {
        let batch = Batch { events: Vec::new(), attempt: 1, at_ms: 0 };
        let sink = {{Type}}::configure("{}").expect("a good configuration");
        assert!(matches!(sink.write(&batch), Outcome::Accepted(0)));
    }
}
