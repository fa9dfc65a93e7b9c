//! `structured-summary`: the old part of the conversation becomes a summary in sections, which the host writes; the user's own words and the
//! newest steps stay.

use beadle_plugin::{Budget, Description, Edit, Entry, Session, Strategy, Summary, Transcript};

use crate::settings::Settings;
use crate::{seams, span};

/// What the host is asked for.
const SECTIONS: &str = "goals, constraints, files touched, commands, errors, decisions, open tasks";

/// See the module.
pub struct StructuredSummary {
    keep_steps: u64,
    max_tokens: u64,
}

impl Strategy for StructuredSummary {
    fn describe() -> Description {
        Description::new("structured-summary", "0.1.0", "Puts a summary in sections in the place of the old part.").with_schema(
            r#"{"type":"object","additionalProperties":false,"properties":{
"keep_steps":{"type":"integer","minimum":0,"maximum":10000,"default":10,"description":"newest steps that stay whole"},
"max_tokens":{"type":"integer","minimum":100,"maximum":100000,"default":4000,"description":"longest summary"}}}"#,
        )
    }

    fn configure(config: &str) -> Result<Self, String> {
        let s = Settings::read(config, &["keep_steps", "max_tokens"])?;
        let max_tokens = s.number("max_tokens", 4000, 100_000)?;
        if max_tokens < 100 {
            return Err(format!("max_tokens is {max_tokens}; it must be at least 100"));
        }
        Ok(Self { keep_steps: s.number("keep_steps", 10, 10_000)?, max_tokens })
    }

    fn plan(&self, _session: &Session, transcript: &dyn Transcript, budget: &Budget) -> Vec<Edit> {
        if budget.used <= budget.target {
            return Vec::new();
        }
        let entries = crate::all(transcript);
        let seams = seams(&entries);
        let Some(end) = seams.len().checked_sub(self.keep_steps as usize + 1).map(|at| seams[at]) else { return Vec::new() };
        // Of the old part as much as is needed: the summary itself counts, too.
        let over = budget.used - budget.target + self.max_tokens;
        let mut gone = 0;
        let mut upto = 0;
        for w in seams.windows(2).filter(|w| w[1] <= end) {
            if gone >= over {
                break;
            }
            gone += entries[w[0]..w[1]].iter().filter(|e| !e.pinned).map(|e| e.tokens).sum::<u64>();
            upto = w[1];
        }
        let old: &[Entry] = &entries[..upto];
        match span(old) {
            Some(span) if gone > 0 => {
                vec![Edit::Summarise(Summary { span, instructions: SECTIONS.to_owned(), max_tokens: self.max_tokens })]
            }
            _ => Vec::new(),
        }
    }
}
