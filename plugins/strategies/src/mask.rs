//! `mask-observations`: old tool results become one line that says what stood there. The calls stay, so the model knows what it did.

use beadle_plugin::{Budget, Description, Edit, Kind, Replacement, Session, Span, Strategy, Transcript};

use crate::settings::Settings;

/// Results shorter than this are not worth a mask, in tokens.
const WORTH: u64 = 40;
/// Most bytes of one line kept.
const LINE: usize = 200;
/// Bytes read of a result's beginning, and of its end.
const ENDS: u64 = 16 << 10;
/// Most edits of a plan that the host takes, less some.
const EDITS: usize = 9_900;

/// See the module.
pub struct MaskObservations {
    keep: u64,
    head: u64,
    tail: u64,
    errors: bool,
}

impl Strategy for MaskObservations {
    fn describe() -> Description {
        Description::new("mask-observations", "0.1.0", "Replaces old tool results by a line that says what was there.").with_schema(
            r#"{"type":"object","additionalProperties":false,"properties":{
"keep":{"type":"integer","minimum":0,"maximum":10000,"default":10,"description":"newest results that stay whole"},
"head":{"type":"integer","minimum":0,"maximum":100,"default":0,"description":"lines kept of a result's beginning"},
"tail":{"type":"integer","minimum":0,"maximum":100,"default":0,"description":"lines kept of a result's end"},
"errors":{"type":"boolean","default":false,"description":"mask results that are errors, too"}}}"#,
        )
    }

    fn configure(config: &str) -> Result<Self, String> {
        let s = Settings::read(config, &["keep", "head", "tail", "errors"])?;
        Ok(Self {
            keep: s.number("keep", 10, 10_000)?,
            head: s.number("head", 0, 100)?,
            tail: s.number("tail", 0, 100)?,
            errors: s.flag("errors")?,
        })
    }

    fn plan(&self, _session: &Session, transcript: &dyn Transcript, budget: &Budget) -> Vec<Edit> {
        let mut results: Vec<_> = crate::all(transcript).into_iter().filter(|e| e.kind == Kind::ToolResult).collect();
        results.truncate(results.len().saturating_sub(self.keep as usize));
        let (mut edits, mut left) = (Vec::new(), budget.used);
        for e in results.iter().filter(|e| !e.pinned && e.tokens > WORTH && (self.errors || !e.is_error)) {
            if left <= budget.target || edits.len() >= EDITS {
                break;
            }
            let text = self.mask(transcript, e.id, e.bytes, e.tokens, e.tool.as_deref().unwrap_or("tool"));
            let tokens = transcript.tokens(&text);
            if tokens < e.tokens {
                left -= e.tokens - tokens;
                edits.push(Edit::Replace(Replacement { span: Span { first: e.id, last: e.id }, text }));
            }
        }
        edits
    }
}

impl MaskObservations {
    fn mask(&self, transcript: &dyn Transcript, id: u64, bytes: u64, tokens: u64, tool: &str) -> String {
        let begins = if self.head > 0 { transcript.text(id, 0, ENDS as u32).unwrap_or_default() } else { String::new() };
        let ends =
            if self.tail > 0 { transcript.text(id, bytes.saturating_sub(ENDS), ENDS as u32).unwrap_or_default() } else { String::new() };
        let mut out: Vec<String> = begins.lines().take(self.head as usize).map(short).collect();
        out.push(format!("[result of {tool} left out: {tokens} tokens, {bytes} bytes; call it again if it is needed]"));
        let tail: Vec<String> = ends.lines().rev().take(self.tail as usize).map(short).collect();
        out.extend(tail.into_iter().rev());
        out.join("\n")
    }
}

fn short(line: &str) -> String {
    line[..line.floor_char_boundary(LINE.min(line.len()))].to_owned()
}
