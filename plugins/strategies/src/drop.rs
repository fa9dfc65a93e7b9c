//! `drop-oldest`: the oldest turns go, whole. When only those are left that must stay, the oldest steps of them go: a call with its result.

use beadle_plugin::{Budget, Description, Edit, Entry, Kind, Role, Session, Strategy, Transcript};

use crate::settings::Settings;
use crate::{seams, span};

/// Most edits of a plan that the host takes, less some.
const EDITS: usize = 9_900;

/// See the module.
pub struct DropOldest {
    keep_turns: u64,
    keep_steps: u64,
    user_words: bool,
}

impl Strategy for DropOldest {
    fn describe() -> Description {
        Description::new("drop-oldest", "0.1.0", "Drops the oldest turns, then the oldest calls with their results.").with_schema(
            r#"{"type":"object","additionalProperties":false,"properties":{
"keep_turns":{"type":"integer","minimum":0,"maximum":10000,"default":1,"description":"newest turns that do not go whole"},
"keep_steps":{"type":"integer","minimum":0,"maximum":10000,"default":10,"description":"newest steps that stay in any case"},
"user_words":{"type":"boolean","default":false,"description":"drop the user's own words too, with the whole of their turn, where the operator unpinned them"}}}"#,
        )
    }

    fn configure(config: &str) -> Result<Self, String> {
        let s = Settings::read(config, &["keep_turns", "keep_steps", "user_words"])?;
        Ok(Self {
            keep_turns: s.number("keep_turns", 1, 10_000)?,
            keep_steps: s.number("keep_steps", 10, 10_000)?,
            user_words: s.flag("user_words")?,
        })
    }

    fn plan(&self, _session: &Session, transcript: &dyn Transcript, budget: &Budget) -> Vec<Edit> {
        let entries = crate::all(transcript);
        let seams = seams(&entries);
        let newest = entries.last().map_or(0, |e| e.turn);
        let may_go_whole = |turn: u32| u64::from(turn) + self.keep_turns <= u64::from(newest);
        let steps: Vec<&[Entry]> = seams.windows(2).map(|w| &entries[w[0]..w[1]]).collect();
        let last = steps.len().saturating_sub(self.keep_steps as usize);
        let (mut left, mut gone) = (budget.used, Vec::new());
        let mut turn = None;
        for (at, step) in steps.iter().enumerate() {
            let of = step[0].turn;
            // A turn that was begun goes to its end, unless it is one of those that stay.
            let goes_on = turn == Some(of) && may_go_whole(of);
            if at >= last || (left <= budget.target && !goes_on) {
                break;
            }
            turn = Some(of);
            let worth: u64 = step.iter().filter(|e| self.goes(e, may_go_whole(of))).map(|e| e.tokens).sum();
            left = left.saturating_sub(worth);
            gone.push(at);
        }
        self.edits(&entries, gone.last().map_or(0, |at| seams[at + 1]))
    }
}

impl DropOldest {
    /// The user's own words go with the whole of their turn only: a conversation begins with them, and so must what is left of it.
    fn goes(&self, e: &Entry, is_whole: bool) -> bool {
        let words = e.role == Role::User && e.kind != Kind::ToolResult && e.kind != Kind::Summary;
        !e.pinned && (!words || self.user_words && is_whole)
    }

    /// Drops of all that may go before `end`, in spans as long as can be.
    fn edits(&self, entries: &[Entry], end: usize) -> Vec<Edit> {
        let mut edits = Vec::new();
        let old = &entries[..end];
        let first_left = entries.get(end).or(entries.last()).map(|e| e.turn);
        let mut at = 0;
        while at < old.len() && edits.len() < EDITS {
            let run = old[at..].iter().take_while(|e| self.goes(e, Some(e.turn) != first_left)).count();
            edits.extend(span(&old[at..at + run]).map(Edit::Drop));
            at += run.max(1);
        }
        edits
    }
}
