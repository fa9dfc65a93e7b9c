//! Recorded streams of Claude Code 2.1.197, replayed through the driver.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use beadle::agent::{Output, ReadState, Turn, driver};
use beadle::model::Usage;
use serde_json::Value;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/claude/2.1.197")
}

/// The agent's lines of one recording; those of the host are left out.
fn lines(path: &Path) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(path).expect("a recording");
    text.lines()
        .filter_map(|l| {
            let v: Value = serde_json::from_str(l).expect("json");
            match v.get("dir").and_then(Value::as_str) {
                Some("<-agent") => Some(v["msg"].to_string().into_bytes()),
                Some(_) => None,
                None => Some(l.as_bytes().to_vec()),
            }
        })
        .collect()
}

fn replay(name: &str) -> Vec<Output> {
    let d = driver("claude").expect("driver");
    let mut state = ReadState::default();
    lines(&golden().join(name)).iter().flat_map(|l| d.read(&mut state, l)).collect()
}

fn asked(out: &[Output]) -> Vec<(String, Option<String>, Option<String>)> {
    out.iter()
        .filter_map(|o| match o {
            Output::Asked(a) => Some((a.tool.clone(), a.sub_agent.clone(), a.parent_call_id.clone())),
            _ => None,
        })
        .collect()
}

fn turns(out: &[Output]) -> Vec<&Turn> {
    out.iter()
        .filter_map(|o| match o {
            Output::TurnEnded(t) => Some(t),
            _ => None,
        })
        .collect()
}

/// Greatest count per message, then sums by model and by whether a sub-agent made them.
fn counted(out: &[Output]) -> (BTreeMap<String, Usage>, BTreeMap<String, Usage>) {
    let mut messages: BTreeMap<&str, (&str, Usage)> = BTreeMap::new();
    for o in out {
        if let Output::Usage { message_id, model, usage, .. } = o {
            let m = messages.entry(message_id).or_insert((model, *usage));
            m.1 = m.1.max(*usage);
        }
    }
    let mut by_model: BTreeMap<String, Usage> = BTreeMap::new();
    for (model, usage) in messages.values() {
        let sum = by_model.entry((*model).to_owned()).or_default();
        *sum = sum.plus(*usage);
    }
    let by_message = messages.iter().map(|(id, (_, u))| ((*id).to_owned(), *u)).collect();
    (by_message, by_model)
}

fn recordings(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            recordings(&path, into);
        } else {
            into.push(path);
        }
    }
}

#[test]
fn every_recorded_line_is_known() {
    let d = driver("claude").expect("driver");
    let mut files = Vec::new();
    recordings(&golden(), &mut files);
    assert!(files.len() >= 28, "{}", files.len());
    for file in files {
        let mut state = ReadState::default();
        for line in lines(&file) {
            let shown = String::from_utf8_lossy(&line[..line.len().min(300)]).into_owned();
            let out = d.read(&mut state, &line);
            assert!(!out.is_empty());
            for o in &out {
                match o {
                    Output::Unparsed { reason } => panic!("{}: {reason}: {shown}", file.display()),
                    // The recordings under control-protocol were made by a host with other request ids and hooks of its own.
                    Output::Forged { what, .. } => {
                        assert!(file.parent().is_some_and(|p| p.ends_with("control-protocol")), "{}: {shown}", file.display());
                        assert!(matches!(what.as_str(), "control_response" | "hook_callback"), "{what}: {shown}");
                    }
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn a_fresh_state_at_any_line_says_less_and_nothing_else() {
    let d = driver("claude").expect("driver");
    let mut files = Vec::new();
    recordings(&golden(), &mut files);
    for file in files {
        let all = lines(&file);
        let mut state = ReadState::default();
        for line in &all {
            let with = d.read(&mut state, line);
            for o in d.read(&mut ReadState::default(), line) {
                let same = with.iter().any(|w| match (w, &o) {
                    (Output::Asked(a), Output::Asked(b)) => a.request_id == b.request_id && a.input == b.input && a.tool == b.tool,
                    (Output::TurnEnded(a), Output::TurnEnded(b)) => a.model_usage == b.model_usage && a.agent_cost == b.agent_cost,
                    (w, o) => w == o,
                });
                assert!(same || matches!(o, Output::Started { .. } | Output::Quiet), "{o:?} but {with:?}");
            }
        }
    }
}

#[test]
fn allow_and_deny_rounds() {
    let out = replay("control-protocol/s_perm_allow.jsonl");
    assert_eq!(asked(&out), [("Bash".into(), None, None)]);
    let results: Vec<_> = out
        .iter()
        .filter_map(|o| if let Output::ToolResult { is_error, content, .. } = o { Some((*is_error, content.as_str())) } else { None })
        .collect();
    assert_eq!(results, [(false, "(Bash completed with no output)"), (false, "out.txt")]);
    let t = turns(&out);
    assert_eq!(
        (t.len(), t[0].is_error, t[0].agent_cost, t[0].context_window, t[0].denials),
        (1, false, Some(22_987_500), Some(1_000_000), Some(0))
    );

    let out = replay("control-protocol/s_perm_deny.jsonl");
    assert!(out.iter().any(|o| matches!(o, Output::ToolResult { is_error: true, .. })));
    assert_eq!(turns(&out)[0].denials, Some(1));
}

#[test]
fn sub_agents_are_joined_to_their_call_and_counts_add_up() {
    let out = replay("stream/sub_agent.jsonl");
    let calls = asked(&out);
    assert_eq!(calls.iter().map(|c| c.0.as_str()).collect::<Vec<_>>(), ["Bash", "Bash", "Agent", "Bash"]);
    let of_sub = &calls[3];
    let began = out.iter().find_map(|o| {
        if let Output::SubAgent { call_id, agent_type, .. } = o { Some((call_id.clone(), agent_type.clone())) } else { None }
    });
    assert_eq!(began, Some((of_sub.2.clone(), "general-purpose".to_owned())));
    assert!(of_sub.1.is_some() && of_sub.2.is_some());
    // The model calls it Task, the question Agent: both are given as the agent wrote them.
    assert!(out.iter().any(|o| matches!(o, Output::ToolUse { tool, call_id, .. } if tool == "Task" && Some(call_id) == of_sub.2.as_ref())));

    let (by_message, mut sums) = counted(&out);
    let mut outputs: Vec<u64> = by_message.values().map(|u| u.output).collect();
    outputs.sort_unstable();
    // Final for the main agent (77, 55, 22); the sub-agent's stream tells only the first token of one of its two messages.
    assert_eq!(outputs, [1, 22, 55, 77]);
    let t = turns(&out)[0];
    for (model, rest) in t.unaccounted(&sums) {
        let sum = sums.entry(model).or_default();
        *sum = sum.plus(rest);
    }
    assert_eq!(sums, t.model_usage);
    assert_eq!(sums["claude-opus-4-8"], Usage { input: 3612, output: 231, cache_read: 4005, cache_write: 203, ..Usage::default() });
    assert!(t.unaccounted(&sums).is_empty());
}

#[test]
fn counts_of_the_main_agent_are_final_without_the_result_line() {
    let out = replay("stream/two_prompts.jsonl");
    let (by_message, sums) = counted(&out);
    assert_eq!(by_message.len(), 2);
    let t = turns(&out);
    assert_eq!(t.len(), 2);
    assert_eq!(sums, t[1].model_usage);
    assert!(t[1].unaccounted(&sums).is_empty());
    assert_eq!(out.iter().filter(|o| matches!(o, Output::Started { .. })).count(), 1);
}

#[test]
fn questions_of_mcp_servers_are_declined_and_calls_are_asked() {
    let out = replay("stream/mcp_elicitation.jsonl");
    assert_eq!(asked(&out), [("mcp__mine__echo".into(), None, None)]);
    assert_eq!(out.iter().filter(|o| matches!(o, Output::Declined { .. })).count(), 1);
    assert!(out.iter().any(|o| matches!(o, Output::ToolResult { content, .. } if content.contains("decline"))));
    assert!(out.iter().any(|o| matches!(o, Output::Started { mcp_servers, .. } if mcp_servers == &["mine"])));
}

#[test]
fn an_interrupt_withdraws_the_question() {
    let out = replay("stream/interrupt.jsonl");
    let id = out.iter().find_map(|o| if let Output::Asked(a) = o { Some(a.request_id.clone()) } else { None }).expect("a question");
    assert!(out.contains(&Output::Cancelled { request_id: id }));
    let t = turns(&out);
    assert_eq!((t[0].is_error, t[0].subtype.as_deref()), (true, Some("error_during_execution")));
    assert!(!t[1].is_error);
}

#[test]
fn compaction_is_an_event_and_a_done_turn() {
    let out = replay("stream-json.compact.jsonl");
    assert!(out.contains(&Output::Compacted { trigger: "manual".into(), tokens_before: Some(2284), tokens_after: Some(629) }));
    assert!(turns(&out).iter().all(|t| !t.is_error));
    let out = replay("stream/slash.jsonl");
    assert_eq!(out.iter().filter(|o| matches!(o, Output::Compacted { .. })).count(), 1);
    // The request that wrote the summary is in no message of the stream, only in the totals.
    let (_, sums) = counted(&out);
    let last = *turns(&out).last().expect("a turn");
    assert_eq!(last.unaccounted(&sums).values().map(|u| u.output).sum::<u64>(), 34);
}

#[test]
fn errors_of_the_model_end_the_turn_as_errors_and_count_nothing() {
    let out = replay("stream/api_error.jsonl");
    let t = turns(&out)[0];
    assert_eq!((t.is_error, t.subtype.as_deref(), t.result.as_deref()), (true, Some("success"), Some("API Error: 400 bad")));
    assert!(counted(&out).0.is_empty());
    for (name, subtype) in [("u_budget", "error_max_budget_usd"), ("u_maxturn", "error_max_turns")] {
        let out = replay(&format!("results/{name}.jsonl"));
        let t = turns(&out)[0];
        assert_eq!((t.is_error, t.subtype.as_deref()), (true, Some(subtype)));
    }
}
