//! The standard compaction strategies. The components are this crate's examples.
//!
//! All three leave what is pinned alone and plan nothing for what already fits. Each takes the oldest first and stops when the target is
//! reached; the newest part of the conversation is kept whole by setting.

mod drop;
mod mask;
mod settings;
mod summary;

use beadle_plugin::{Entry, Span, Transcript};

pub use drop::DropOldest;
pub use mask::MaskObservations;
pub use summary::StructuredSummary;

/// Entries of one page.
const PAGE: u32 = 1000;

/// Every entry of a conversation, without texts.
fn all(transcript: &dyn Transcript) -> Vec<Entry> {
    let mut out: Vec<Entry> = Vec::with_capacity(transcript.len() as usize);
    loop {
        let page = transcript.entries(out.len() as u32, PAGE);
        if page.is_empty() {
            return out;
        }
        out.extend(page);
    }
}

/// Places where the conversation can be parted: before an entry that no call is open at, so that each part has its pairs whole.
fn seams(entries: &[Entry]) -> Vec<usize> {
    let mut open = 0usize;
    let mut out = Vec::new();
    for (at, e) in entries.iter().enumerate() {
        if open == 0 {
            out.push(at);
        }
        match e.kind {
            beadle_plugin::Kind::ToolCall => open += 1,
            beadle_plugin::Kind::ToolResult => open = open.saturating_sub(1),
            _ => {}
        }
    }
    if open == 0 {
        out.push(entries.len());
    }
    out
}

fn span(entries: &[Entry]) -> Option<Span> {
    Some(Span { first: entries.first()?.id, last: entries.last()?.id })
}

#[cfg(test)]
mod tests;
