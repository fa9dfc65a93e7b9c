//! Masks old tool results: the oldest first, until the conversation fits, and never one of the newest.

use beadle_plugin::{Budget, Description, Edit, Kind, Replacement, Session, Span, Strategy, Transcript, config, export_strategy};
use schemars::JsonSchema;
use serde::Deserialize;

/// What the operator may set.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// How many of the newest tool results stay as they are.
    keep: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { keep: 3 }
    }
}

struct {{Type}} {
    keep: usize,
}

impl Strategy for {{Type}} {
    fn describe() -> Description {
        Description::new("{{name}}", env!("CARGO_PKG_VERSION"), "Masks old tool results, the oldest first.").with_config::<Config>()
    }

    fn configure(text: &str) -> Result<Self, String> {
        let Config { keep } = config::parse(text)?;
        Ok(Self { keep })
    }

    fn plan(&self, _session: &Session, transcript: &dyn Transcript, budget: &Budget) -> Vec<Edit> {
        let mut results = Vec::new();
        let mut start = 0;
        loop {
            let page = transcript.entries(start, 1000);
            if page.is_empty() {
                break;
            }
            start += page.len() as u32;
            results.extend(page.into_iter().filter(|e| e.kind == Kind::ToolResult));
        }
        let old = results.len().saturating_sub(self.keep);
        let (mut used, mut edits) = (budget.used, Vec::new());
        for entry in results.into_iter().take(old).filter(|e| !e.pinned) {
            if used <= budget.target {
                break;
            }
            let text = format!("[{} bytes of a tool's result are left out]", entry.bytes);
            let tokens = transcript.tokens(&text);
            if tokens < entry.tokens {
                used -= entry.tokens - tokens;
                edits.push(Edit::Replace(Replacement { span: Span { first: entry.id, last: entry.id }, text }));
            }
        }
        edits
    }
}

export_strategy!({{Type}});

#[cfg(test)]
mod tests {
    use beadle_plugin::{Entry, Role, Sample};

    use super::*;

    fn result(id: u64) -> (Entry, String) {
        let entry = Entry {
            id,
            role: Role::Tool,
            kind: Kind::ToolResult,
            tool: Some("Read".into()),
            pair: Some(id.to_string()),
            is_error: false,
            turn: 1,
            tokens: 0,
            bytes: 0,
            pinned: false,
            at_ms: 0,
        };
        (entry, "x".repeat(400))
    }

    fn plan(config: &str, target: u64) -> Vec<Edit> {
        let transcript = Sample::new((1..=5).map(result));
        let budget = Budget { window: 1000, used: 500, target, estimator: "bytes/4".into(), at_ms: 0 };
        {{Type}}::configure(config).expect("a good configuration").plan(&Session::default(), &transcript, &budget)
    }

    #[test]
    fn the_oldest_go_first_and_the_newest_stay() {
        assert_eq!(plan(r#"{"keep":2}"#, 0).len(), 3);
        assert_eq!(plan(r#"{"keep":2}"#, 450).len(), 1);
        assert!(plan(r#"{"keep":9}"#, 0).is_empty());
    }
}
