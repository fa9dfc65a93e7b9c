//! Compaction strategies: the transcript as it is lent, the question, and the edits of the answer.
//!
//! Invariant: a guest reads the transcript only while its call runs, and only in pages; the store that holds it goes with the call.

use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance, Resource};

use super::super::limits::{MAX_EDITS, MAX_PLAN};
use super::super::state::State;
use super::exported::compaction as wit;
use super::{Ask, Exports, at, of_session, seed, transcript, types};
use crate::model;
use crate::model::{Budget, Edit, EntryKind, EntryRole, Span};

/// Entries of one page.
const PAGE: u32 = 1000;
/// Bytes of one piece of text.
const PIECE: u32 = 256 << 10;

type PlanParams<'a> = (&'a types::Session, Resource<Lent>, &'a wit::Budget);

/// The transcript of the call's store, as a handle of the guest. There is one in a store, so it carries nothing.
pub struct Lent;

/// Whether the function has the shape of the contract.
pub(super) fn check(index: ComponentExportIndex, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<()> {
    instance.get_typed_func::<PlanParams<'_>, (Vec<wit::Edit>,)>(store, index).map(drop)
}

/// A conversation that is to be made to fit.
pub struct PlanQuestion {
    session: types::Session,
    transcript: Arc<dyn model::Transcript>,
    budget: wit::Budget,
}

impl PlanQuestion {
    pub fn new(session: &model::Session, transcript: Arc<dyn model::Transcript>, budget: &Budget, at_ms: i64) -> Self {
        let b = budget.clone();
        let budget = wit::Budget { window: b.window, used: b.used, target: b.target, estimator: b.estimator, at_ms: at(at_ms) };
        Self { session: of_session(session), transcript, budget }
    }
}

impl Ask for PlanQuestion {
    type Answer = Vec<Edit>;

    fn at_ms(&self) -> u64 {
        self.budget.at_ms
    }

    fn seed(&self) -> [u8; 32] {
        seed(&self.session.id, self.budget.at_ms, "compaction")
    }

    fn prepare(&self, store: &mut Store<State>) {
        store.data_mut().lent = Some(Arc::clone(&self.transcript));
        store.set_hostcall_fuel(MAX_PLAN + MAX_EDITS * 256);
    }

    fn put(&self, exports: &Exports, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<Result<Vec<Edit>, String>> {
        let f = instance.get_typed_func::<PlanParams<'_>, (Vec<wit::Edit>,)>(&mut *store, exports.main)?;
        Ok(to_edits(f.call(store, (&self.session, Resource::new_own(0), &self.budget))?.0))
    }
}

fn to_edits(edits: Vec<wit::Edit>) -> Result<Vec<Edit>, String> {
    if edits.len() > MAX_EDITS {
        return Err(format!("{} edits; the limit is {MAX_EDITS}", edits.len()));
    }
    let mut text = 0;
    let mut out = Vec::with_capacity(edits.len());
    for e in edits {
        let edit = match e {
            wit::Edit::Drop(s) => Edit::Drop { span: span(s) },
            wit::Edit::Truncate(t) => Edit::Truncate { span: span(t.span), head: t.head, tail: t.tail },
            wit::Edit::Replace(r) => {
                text += r.text.len();
                Edit::Replace { span: span(r.span), text: r.text }
            }
            wit::Edit::Summarise(s) => {
                text += s.instructions.len();
                Edit::Summarise { span: span(s.span), instructions: s.instructions, max_tokens: s.max_tokens }
            }
        };
        let Span { first, last } = edit.span();
        if first > last {
            return Err(format!("an edit of the span {first} to {last}, which ends before it begins"));
        }
        out.push(edit);
    }
    if text > MAX_PLAN {
        return Err(format!("edits with {text} bytes of text; the limit is {MAX_PLAN}"));
    }
    let mut spans: Vec<Span> = out.iter().map(Edit::span).collect();
    spans.sort_unstable_by_key(|s| s.first);
    if let Some(w) = spans.windows(2).find(|w| w[1].first <= w[0].last) {
        return Err(format!("two edits of the entry {}", w[1].first));
    }
    Ok(out)
}

const fn span(s: wit::Span) -> Span {
    Span { first: s.first, last: s.last }
}

impl transcript::Host for State {}

impl transcript::HostTranscript for State {
    fn len(&mut self, _: Resource<Lent>) -> u32 {
        self.lent.as_ref().map_or(0, |t| u32::try_from(t.len()).unwrap_or(u32::MAX))
    }

    fn entries(&mut self, _: Resource<Lent>, start: u32, max: u32) -> Vec<transcript::Entry> {
        let Some(t) = &self.lent else { return Vec::new() };
        t.entries(start as usize, max.min(PAGE) as usize).into_iter().map(of_entry).collect()
    }

    fn text(&mut self, _: Resource<Lent>, id: u64, offset: u64, max: u32) -> Option<String> {
        self.lent.as_ref()?.text(id, usize::try_from(offset).ok()?, max.min(PIECE) as usize)
    }

    fn tokens(&mut self, _: Resource<Lent>, text: String) -> u64 {
        self.lent.as_ref().map_or(0, |t| t.tokens(&text))
    }

    fn drop(&mut self, _: Resource<Lent>) -> wasmtime::Result<()> {
        Ok(())
    }
}

fn of_entry(e: model::Entry) -> transcript::Entry {
    transcript::Entry {
        id: e.id,
        role: match e.role {
            EntryRole::System => transcript::Role::System,
            EntryRole::User => transcript::Role::User,
            EntryRole::Assistant => transcript::Role::Assistant,
            EntryRole::Tool => transcript::Role::Tool,
        },
        kind: match e.kind {
            EntryKind::Text => transcript::Kind::Text,
            EntryKind::Thinking => transcript::Kind::Thinking,
            EntryKind::ToolCall => transcript::Kind::ToolCall,
            EntryKind::ToolResult => transcript::Kind::ToolResult,
            EntryKind::Image => transcript::Kind::Image,
            EntryKind::Summary => transcript::Kind::Summary,
            EntryKind::Other => transcript::Kind::Other,
        },
        tool: e.tool,
        pair: e.pair,
        is_error: e.is_error,
        turn: e.turn,
        tokens: e.tokens,
        bytes: e.bytes,
        pinned: e.pinned,
        at_ms: at(e.at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop_of(first: u64, last: u64) -> wit::Edit {
        wit::Edit::Drop(wit::Span { first, last })
    }

    #[test]
    fn plans_that_cannot_be_meant_are_bad_answers() {
        assert_eq!(to_edits(vec![drop_of(5, 6), drop_of(1, 4)]).map(|e| e.len()), Ok(2));
        for (edits, says) in [
            (vec![drop_of(3, 2)], "ends before it begins"),
            (vec![drop_of(1, 4), drop_of(4, 5)], "two edits of the entry 4"),
            (vec![drop_of(1, 1); MAX_EDITS + 1], "10001 edits"),
        ] {
            assert!(to_edits(edits).is_err_and(|e| e.contains(says)), "{says}");
        }
        let text = wit::Edit::Replace(wit::Replacement { span: wit::Span { first: 1, last: 1 }, text: "x".repeat(MAX_PLAN + 1) });
        assert!(to_edits(vec![text]).is_err_and(|e| e.contains("bytes of text")));
    }
}
