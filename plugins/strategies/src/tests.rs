//! What the strategies plan, on conversations in memory.

use beadle_plugin::{Budget, Edit, Entry, Kind, Role, Sample, Session, Span, Strategy};

use super::{DropOldest, MaskObservations, StructuredSummary, all};

fn entry(id: u64, turn: u32, role: Role, kind: Kind) -> Entry {
    let pair = matches!(kind, Kind::ToolCall | Kind::ToolResult).then(|| format!("t{}", id / 2));
    let pinned = role == Role::User;
    Entry {
        id,
        role,
        kind,
        tool: pair.as_ref().map(|_| "Bash".to_owned()),
        pair,
        is_error: false,
        turn,
        tokens: 0,
        bytes: 0,
        pinned,
        at_ms: 0,
    }
}

/// Two turns: a prompt, `steps` calls with results of 400 bytes, a reply; and the same again.
fn conversation(steps: u64) -> Sample {
    Sample::new(conversation_of(steps))
}

fn conversation_of(steps: u64) -> Vec<(Entry, String)> {
    let mut all = Vec::new();
    for turn in 1..=2u32 {
        let base = u64::from(turn) * 1000;
        all.push((entry(base, turn, Role::User, Kind::Text), "do it".to_owned()));
        for n in 1..=steps {
            all.push((entry(base + 2 * n, turn, Role::Assistant, Kind::ToolCall), "{}".to_owned()));
            all.push((entry(base + 2 * n + 1, turn, Role::Tool, Kind::ToolResult), format!("first\n{}\nlast", "x".repeat(400))));
        }
        all.push((entry(base + 500, turn, Role::Assistant, Kind::Text), "done".to_owned()));
    }
    all
}

fn budget(t: &Sample, target: u64) -> Budget {
    let used = all(t).iter().map(|e| e.tokens).sum();
    Budget { window: 100_000, used, target, estimator: "bytes/4".into(), at_ms: 0 }
}

fn plan<S: Strategy>(config: &str, t: &Sample, target: u64) -> Vec<Edit> {
    S::configure(config).expect("configured").plan(&Session::default(), t, &budget(t, target))
}

fn spans(edits: &[Edit]) -> Vec<(u64, u64)> {
    let of = |s: &Span| (s.first, s.last);
    edits
        .iter()
        .map(|e| match e {
            Edit::Drop(s) => of(s),
            Edit::Truncate(t) => of(&t.span),
            Edit::Replace(r) => of(&r.span),
            Edit::Summarise(s) => of(&s.span),
        })
        .collect()
}

#[test]
fn nothing_is_planned_for_what_fits() {
    let t = conversation(4);
    assert!(plan::<MaskObservations>("{}", &t, 1 << 40).is_empty());
    assert!(plan::<DropOldest>("{}", &t, 1 << 40).is_empty());
    assert!(plan::<StructuredSummary>("{}", &t, 1 << 40).is_empty());
}

#[test]
fn masks_the_oldest_results_and_keeps_the_newest() {
    let t = conversation(4);
    let edits = plan::<MaskObservations>(r#"{"keep":5,"head":1,"tail":1}"#, &t, 0);
    assert_eq!(spans(&edits), [(1003, 1003), (1005, 1005), (1007, 1007)]);
    let Edit::Replace(r) = &edits[0] else { panic!("{edits:?}") };
    assert!(r.text.starts_with("first\n[result of Bash left out: ") && r.text.ends_with("]\nlast"), "{}", r.text);
    assert_eq!(plan::<MaskObservations>(r#"{"keep":0}"#, &t, budget(&t, 0).used - 1).len(), 1, "it stops at the target");
}

#[test]
fn drops_whole_turns_then_steps() {
    let t = conversation(4);
    let most = budget(&t, 0).used;
    assert_eq!(spans(&plan::<DropOldest>(r#"{"keep_steps":0}"#, &t, most - 1)), [(1002, 1500)], "a turn goes whole; its prompt stays");
    let steps = plan::<DropOldest>(r#"{"keep_steps":0,"keep_turns":2}"#, &t, most - 1);
    assert_eq!(spans(&steps), [(1002, 1003)], "one call with its result");
    assert_eq!(spans(&plan::<DropOldest>(r#"{"keep_steps":0}"#, &t, 0)), [(1002, 1500), (2002, 2500)]);
}

#[test]
fn summarises_the_old_part_in_one_span() {
    let t = conversation(40);
    let edits = plan::<StructuredSummary>(r#"{"keep_steps":2,"max_tokens":200}"#, &t, 4000);
    assert_eq!(edits.len(), 1);
    let (first, last) = spans(&edits)[0];
    assert!(first == 1000 && last > 1500 && last % 2 == 1, "{first} to {last}: it ends with a result");
}

#[test]
fn the_users_words_go_where_they_may_and_with_their_turn_alone() {
    let mut t: Vec<(Entry, String)> = conversation_of(4);
    t.iter_mut().for_each(|(e, _)| e.pinned = false);
    let t = Sample::new(t);
    for (config, wanted) in [
        (r#"{"keep_turns":0,"keep_steps":1}"#, vec![(1002, 1500), (2002, 2009)]),
        // The newest turn goes in part, so the conversation begins with its prompt.
        (r#"{"keep_turns":0,"keep_steps":1,"user_words":true}"#, vec![(1000, 1500), (2002, 2009)]),
        // So does one of which the newest steps are kept.
        (r#"{"keep_turns":0,"keep_steps":7,"user_words":true}"#, vec![(1002, 1009)]),
        (r#"{"keep_turns":0,"keep_steps":0,"user_words":true}"#, vec![(1000, 1500), (2002, 2500)]),
    ] {
        assert_eq!(spans(&plan::<DropOldest>(config, &t, 0)), wanted, "{config}");
    }
}

#[test]
fn settings_that_cannot_be_meant_are_refused_by_name() {
    for (config, says) in
        [("[]", "object"), (r#"{"kep":1}"#, "\"kep\""), (r#"{"keep_steps":-1}"#, "keep_steps"), (r#"{"user_words":1}"#, "user_words")]
    {
        assert!(DropOldest::configure(config).is_err_and(|e| e.contains(says)), "{config}");
    }
    assert!(StructuredSummary::configure(r#"{"max_tokens":5}"#).is_err_and(|e| e.contains("max_tokens")));
}
