//! The laws of a plan, against plans that no honest strategy would make.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::compaction::{Unpinned, fold};

fn piece(id: u64, role: EntryRole, kind: EntryKind, pair: Option<&str>, message: u32, text: &str) -> Piece {
    let entry = Entry {
        id,
        role,
        kind,
        tool: pair.map(|_| "Bash".to_owned()),
        pair: pair.map(str::to_owned),
        is_error: false,
        turn: 1,
        tokens: 0,
        bytes: 0,
        pinned: false,
        at: 0,
    };
    Piece { entry, text: text.to_owned(), message }
}

/// Conversations as agents make them: prompts, replies with thoughts, messages of one or more calls that their results follow.
fn conversation() -> impl Strategy<Value = Vec<Piece>> {
    proptest::collection::vec((0u8..6, 1usize..4, "[a-zäß\\n .]{0,120}", any::<bool>()), 1..25).prop_map(|units| {
        let mut out = vec![piece(16, EntryRole::User, EntryKind::Text, None, 1, "the first prompt")];
        let (mut id, mut message, mut call) = (16, 1, 0);
        for (what, n, text, thinks) in units {
            message += 1;
            let mut put = |role, kind, pair: Option<&str>, message, text: &str| {
                id += 16;
                out.push(piece(id, role, kind, pair, message, text));
            };
            match what {
                0 => put(EntryRole::User, EntryKind::Text, None, message, &text),
                1 => put(EntryRole::System, EntryKind::Other, None, message, &text),
                2 => put(EntryRole::Assistant, EntryKind::Text, None, message, &text),
                _ => {
                    if thinks {
                        put(EntryRole::Assistant, EntryKind::Thinking, None, message, "a thought");
                    }
                    put(EntryRole::Assistant, EntryKind::Text, None, message, &text);
                    let ids: Vec<String> = (0..n).map(|i| format!("t{}", call + i)).collect();
                    call += n;
                    ids.iter().for_each(|t| put(EntryRole::Assistant, EntryKind::ToolCall, Some(t), message, r#"{"command":"ls"}"#));
                    message += 1;
                    ids.iter().for_each(|t| put(EntryRole::Tool, EntryKind::ToolResult, Some(t), message, &text.repeat(n)));
                }
            }
        }
        out
    })
}

fn plans() -> impl Strategy<Value = Vec<(u8, usize, usize, u64, u64, String)>> {
    proptest::collection::vec((0u8..4, 0usize..60, 0usize..12, 0u64..40, 0u64..40, "[a-zö ]{0,60}"), 0..6)
}

/// Edits of spans that may overlap, split pairs, name what is not there, or grow.
fn hostile(pieces: &[Piece], plan: Vec<(u8, usize, usize, u64, u64, String)>) -> Vec<Edit> {
    let id = |at: usize| pieces.get(at).map_or(16 * at as u64 + 7, |p| p.entry.id);
    plan.into_iter()
        .map(|(what, at, len, a, b, text)| {
            let span = Span { first: id(at), last: id(at + len) };
            match what {
                0 => Edit::Drop { span },
                1 => Edit::Truncate { span, head: a, tail: b },
                2 => Edit::Replace { span, text },
                _ => Edit::Summarise { span, instructions: text, max_tokens: a * 10 },
            }
        })
        .collect()
}

/// What the model's protocol asks: each call has its result right behind its message, and no message is a thought alone.
fn sound(pieces: &[Piece]) -> Result<(), String> {
    let halves = pieces.iter().filter(|p| p.entry.pair.is_some()).count();
    let pairs = fold::pairs(pieces);
    if pairs.len() * 2 != halves {
        return Err(format!("{} pairs of {halves} halves", pairs.len()));
    }
    for (c, r) in pairs {
        let between = &pieces[c + 1..r];
        let stranger =
            between.iter().find(|p| p.message != pieces[c].message && !matches!(p.entry.role, EntryRole::Tool | EntryRole::System));
        if let Some(p) = stranger {
            return Err(format!("entry {} stands between a call and its result", p.entry.id));
        }
    }
    for p in pieces.iter().filter(|p| p.entry.kind == EntryKind::Thinking) {
        if !pieces.iter().any(|q| q.message == p.message && q.entry.kind != EntryKind::Thinking && q.entry.kind != EntryKind::Summary) {
            return Err(format!("the thought {} is alone", p.entry.id));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_plan_is_refused_or_gives_a_sound_conversation(pieces in conversation(), plan in plans(), user: bool, system: bool) {
        prop_assert_eq!(sound(&pieces), Ok(()), "the generator is at fault");
        let folded = Folded::new(pieces, Unpinned { user, system }).expect("folded");
        let edits = hostile(folded.pieces(), plan);
        let Ok(done) = check(&folded, &edits) else { return Ok(()) };
        prop_assert_eq!(sound(&done.pieces), Ok(()));
        prop_assert!(done.tokens_after <= done.tokens_before);
        prop_assert_eq!(done.tokens_after, done.pieces.iter().map(|p| p.entry.tokens).sum::<u64>());
        prop_assert!(done.pieces.windows(2).all(|w| w[0].entry.id < w[1].entry.id), "order");
        let old: BTreeMap<u64, &Piece> = folded.pieces().iter().map(|p| (p.entry.id, p)).collect();
        let new: BTreeMap<u64, &Piece> = done.pieces.iter().map(|p| (p.entry.id, p)).collect();
        for p in folded.pieces().iter().filter(|p| p.entry.pinned) {
            prop_assert_eq!(new.get(&p.entry.id).map(|n| &n.text), Some(&p.text), "what is pinned stays");
        }
        for p in &done.pieces {
            match old.get(&p.entry.id) {
                Some(o) => prop_assert!(p.entry.tokens <= o.entry.tokens, "no entry grows"),
                None => prop_assert!(p.entry.kind == EntryKind::Summary && done.rewrite.summaries.values().any(|s| *s == p.text)),
            }
        }
        let roles = |ps: &[Piece]| ps.iter().find(|p| p.entry.role != EntryRole::System).map(|p| p.entry.role);
        prop_assert_eq!(roles(&done.pieces), Some(EntryRole::User));
        prop_assert_eq!(check(&folded, &edits), Ok(done), "the same again");
    }
}

/// A prompt, a message with two calls, their results, a reply, a prompt, a call with its result, a reply.
fn small() -> Folded {
    use EntryKind::{Text, ToolCall, ToolResult};
    use EntryRole::{Assistant, Tool, User};
    let long = "word ".repeat(60);
    let p = [
        piece(10, User, Text, None, 1, "do this"),
        piece(20, Assistant, ToolCall, Some("a"), 2, "{}"),
        piece(30, Assistant, ToolCall, Some("b"), 2, "{}"),
        piece(40, Tool, ToolResult, Some("a"), 3, &long),
        piece(50, Tool, ToolResult, Some("b"), 3, &long),
        piece(60, Assistant, Text, None, 4, &long),
        piece(70, User, Text, None, 5, "and that"),
        piece(80, Assistant, ToolCall, Some("c"), 6, "{}"),
        piece(90, Tool, ToolResult, Some("c"), 7, &long),
        piece(100, Assistant, Text, None, 8, "done"),
    ];
    Folded::new(p.into(), Unpinned::default()).expect("folded")
}

fn one(edit: Edit) -> Result<Checked, Error> {
    check(&small(), &[edit])
}

const fn span(first: u64, last: u64) -> Span {
    Span { first, last }
}

fn ids(c: &Checked) -> Vec<u64> {
    c.pieces.iter().map(|p| p.entry.id).collect()
}

#[test]
fn each_law_has_its_refusal() {
    let text = |s: &str| s.to_owned();
    let table = [
        (Edit::Drop { span: span(20, 30) }, Error::SplitPair { call: 20, result: 40 }),
        (Edit::Drop { span: span(40, 60) }, Error::SplitPair { call: 20, result: 40 }),
        (Edit::Drop { span: span(11, 20) }, Error::NoEntry { first: 11, last: 20, missing: 11 }),
        (Edit::Drop { span: span(50, 40) }, Error::NoEntry { first: 50, last: 40, missing: 50 }),
        (Edit::Replace { span: span(20, 20), text: text("x") }, Error::NotText { id: 20, kind: EntryKind::ToolCall }),
        (Edit::Replace { span: span(40, 40), text: String::new() }, Error::Empty { first: 40, last: 40 }),
        (Edit::Replace { span: span(40, 40), text: "x".repeat(303) }, Error::Grows { first: 40, last: 40, from: 100, to: 101 }),
        (Edit::Replace { span: span(40, 50), text: text("x") }, Error::NothingSaid { first: 40, last: 50 }),
    ];
    for (edit, error) in table {
        assert_eq!(one(edit.clone()).map(|c| ids(&c)), Err(error), "{edit:?}");
    }
    let twice = [Edit::Drop { span: span(20, 50) }, Edit::Truncate { span: span(50, 60), head: 1, tail: 1 }];
    assert_eq!(check(&small(), &twice).map(|c| ids(&c)), Err(Error::Overlap { id: 50 }));
    let words: HashSet<&str> = [Error::NothingLeft, Error::Headless { id: 1 }].iter().map(Error::code).collect();
    assert_eq!(words.len(), 2);
}

#[test]
fn pinned_words_stay_in_a_span_that_goes() {
    let c = one(Edit::Drop { span: span(10, 90) }).expect("applied");
    assert_eq!((ids(&c), c.dropped, c.spared), (vec![10, 70, 100], 7, 2));
    let free = Folded::new(small().pieces().to_vec(), Unpinned { user: true, system: false }).expect("folded");
    assert_eq!(check(&free, &[Edit::Drop { span: span(10, 90) }]), Err(Error::Headless { id: 100 }));
    let late = check(&free, &[Edit::Drop { span: span(20, 90) }]).expect("applied");
    assert_eq!(ids(&late), [10, 100], "the operator let the second prompt go, too");
}

#[test]
fn a_text_stands_in_front_of_the_message_that_it_is_of() {
    let c = one(Edit::Replace { span: span(30, 60), text: "short".into() });
    assert_eq!(c.map(|c| ids(&c)), Err(Error::SplitPair { call: 20, result: 40 }));
    let c = one(Edit::Replace { span: span(20, 60), text: "short".into() }).expect("applied");
    assert_eq!(ids(&c), [10, 19, 70, 80, 90, 100]);
    assert_eq!((c.pieces[1].text.as_str(), c.pieces[1].entry.role), ("short", EntryRole::User));
    let c = one(Edit::Replace { span: span(90, 90), text: "masked".into() }).expect("applied");
    assert_eq!((ids(&c).len(), c.pieces[8].text.as_str(), c.pieces[8].entry.pair.as_deref()), (10, "masked", Some("c")));
}

#[test]
fn a_cut_result_keeps_its_ends() {
    let c = one(Edit::Truncate { span: span(10, 100), head: 2, tail: 2 }).expect("applied");
    assert_eq!(ids(&c).len(), 10);
    assert_eq!(c.pieces[3].text, "word w\n[96 tokens left out]\n word ");
    assert_eq!((c.pieces[1].text.as_str(), c.changed), ("{}", 4), "calls are what ran");
    let c = one(Edit::Truncate { span: span(40, 40), head: 80, tail: 40 }).expect("applied");
    assert_eq!(c.changed, 0, "what would not be shorter stays");
}

#[test]
fn a_summary_is_of_the_entries_own_words() {
    let mut pieces = small().pieces().to_vec();
    pieces[1].text = r#"{"file_path":"/w/src/lib.rs"}"#.into();
    pieces[3].text = format!("{}\nerror[E0425]: cannot find value `x`", "noise\n".repeat(60));
    pieces[5].text = format!("I decided to keep the old name. {}", "and so on ".repeat(40));
    let folded = Folded::new(pieces, Unpinned::default()).expect("folded");
    let c = check(&folded, &[Edit::Summarise { span: span(10, 60), instructions: String::new(), max_tokens: 100 }]).expect("applied");
    assert_eq!(ids(&c), [10, 19, 70, 80, 90, 100]);
    let text = &c.pieces[1].text;
    for said in ["Files touched:\n- /w/src/lib.rs (Bash)", "error[E0425]: cannot find value `x`", "I decided to keep the old name."] {
        assert!(text.contains(said), "{said} is not in {text}");
    }
    assert!(c.pieces[1].entry.tokens <= 100, "{}", c.pieces[1].entry.tokens);
    let none = check(&folded, &[Edit::Summarise { span: span(10, 60), instructions: String::new(), max_tokens: 3 }]).expect("applied");
    assert!(none.rewrite.is_empty(), "what cannot be said in so little stays");
}
