//! Lines of what sessions have to do with each other, and of tasks.

use super::{LINE_MAX, Line, Tone, brief, line, safe};
use crate::model::{BranchKind, Event};

/// The lines of one event of these; of others none.
pub fn lines(event: &Event) -> Vec<Line> {
    match event {
        Event::SessionForked(f) => {
            let word = if f.how == BranchKind::Fork { "forked" } else { "taken up again" };
            vec![line(Tone::Strong, format!("▸ {word} at event {} as {}", f.at, safe(f.to.as_str())))]
        }
        Event::AgentHandedOff(h) => {
            let from = h.from.as_deref().map(|f| format!(" from {}", brief(f, 60))).unwrap_or_default();
            let session = h.session.as_ref().map(|s| format!(" (session {})", safe(s.as_str()))).unwrap_or_default();
            let reason = h.reason.as_ref().map(|r| format!(": {}", brief(&r.text, LINE_MAX))).unwrap_or_default();
            vec![line(Tone::Strong, format!("▸ handed off{from} to {}{session}{reason}", brief(&h.to, 60)))]
        }
        Event::TreeActBegan(t) => vec![line(Tone::Strong, format!("· {} of the whole tree begins", t.act.as_str()))],
        Event::TreeActEnded(t) => {
            let tone = if t.failed.is_empty() { Tone::Dim } else { Tone::Bad };
            let mut out = vec![line(tone, format!("· {} of the whole tree is done: {} sessions", t.act.as_str(), t.done))];
            out.extend(t.failed.iter().map(|f| line(Tone::Bad, format!("! not done: {}", brief(f, LINE_MAX)))));
            out
        }
        Event::TaskUpdated(t) => {
            let mark = if t.status.is_open() { "☐" } else { "☑" };
            vec![line(Tone::Plain, format!("{mark} task {} {}: {}", safe(&t.task), t.status.as_str(), brief(&t.title, LINE_MAX)))]
        }
        _ => vec![],
    }
}
