//! Lines of what other programs write into sessions of their own, of memory, of what adds context, and of a report that was given.

use super::{LINE_MAX, Line, Tone, brief, count, line, summary};
use crate::model::Event;

/// The lines of one event of these; of others none.
pub fn lines(event: &Event) -> Vec<Line> {
    match event {
        Event::ToolReported(t) => {
            let text = format!("  ▸ {}  {}", brief(&t.tool, 60), summary(&t.input));
            vec![line(Tone::Plain, text.trim_end().to_owned())]
        }
        Event::MemoryRecalled(m) => {
            let text = format!("· recalled {} from {} ({})", count(m.hits), brief(&m.namespace, 60), brief(&m.tier, 40));
            vec![line(Tone::Dim, text)]
        }
        Event::MemoryAdded(m) => {
            let text =
                format!("· kept {} in {} ({}): {}", brief(&m.id, 20), brief(&m.namespace, 60), m.tier.as_str(), brief(&m.text, LINE_MAX));
            vec![line(Tone::Dim, text)]
        }
        Event::ContextProviderAdded(a) => {
            let text = format!("· context from {} ({}) from now on", brief(&a.provider.name, 60), a.provider.source.kind());
            vec![line(Tone::Dim, text)]
        }
        Event::ContextProviderRemoved(r) => vec![line(Tone::Dim, format!("· no more context from {}", brief(&r.name, 60)))],
        // What it gave shows with the prompt.
        Event::ContextAdded(a) => {
            let failed = a.failed.iter().map(|why| format!("! no context from {}: {}", brief(&a.provider, 60), brief(why, LINE_MAX)));
            let left = a.left_out.iter().map(|w| format!("! left out of context {}: {}", brief(&a.provider, 60), brief(w, LINE_MAX)));
            failed.chain(left).map(|text| line(Tone::Question, text)).collect()
        }
        Event::ReportGiven(r) => vec![line(Tone::Plain, format!("· report: {}", brief(&r.report.text, LINE_MAX)))],
        Event::CheckpointResumed(c) => vec![line(Tone::Dim, format!("· goes on from checkpoint {}", brief(&c.checkpoint, 80)))],
        Event::InvocationRecorded(i) => {
            let mut out = Vec::with_capacity(i.attempts.len() + 1);
            for a in &i.attempts {
                let words = [a.tier.as_deref(), a.model.as_deref(), a.verdict.as_deref()];
                let words: Vec<String> = words.into_iter().flatten().map(|w| brief(w, 40)).collect();
                let said = a.feedback.as_ref().map(|f| format!(": {}", brief(&f.text, LINE_MAX))).unwrap_or_default();
                let tone = if a.verdict.as_deref() == Some("accept") { Tone::Good } else { Tone::Changed };
                out.push(line(tone, format!("  ▸ {} try {}: {}{said}", brief(&i.skill, 60), a.number, words.join(", "))));
            }
            let status = i.final_status.as_deref().map_or_else(|| "no status".to_owned(), |s| brief(s, 60));
            out.push(line(Tone::Plain, format!("· skill {}: {status}", brief(&i.skill, 60))));
            out
        }
        Event::Custom(c) => vec![line(Tone::Plain, format!("· {}: {}", brief(&c.name, 60), summary(&c.body)))],
        Event::WritesLost(w) => {
            let text = format!("! {} writes were lost, given up by their emitter: {}", count(w.count), brief(&w.why, LINE_MAX));
            vec![line(Tone::Bad, text)]
        }
        _ => vec![],
    }
}
