//! A record of a new conversation that holds what an older one does up to one moment: the beginning of a fork, or of work taken up again.
//!
//! What counts is told by the log: words by the model message that said them, calls by their result. So a call stands there with its result or
//! not at all, and the record ends with the last of these; a prompt that nobody answered is not given twice. Called by the driver.

use serde_json::{Value, json};

use super::{Object, block_id, blocks, field, is_sidechain, kind, message_id, road};
use crate::agent::{Cut, Reached};

/// What Claude Code 2.1.197 says of itself where its record ends with a call's result, that is in a turn; not in ours to leave out.
const ADDS: &str = "the agent's own words \"Continue from where you left off.\" and \"No response requested.\": its record ends in a turn";

/// See [`crate::agent::Driver::cut`].
pub fn cut(record: &[u8], upto: &Reached, conversation: &str) -> Result<Cut, String> {
    let lines = road(record)?;
    let results: std::collections::HashSet<String> =
        lines.iter().flat_map(blocks).filter_map(|b| block_id(b, "tool_result", "tool_use_id")).collect();
    let ended = |id: &String| results.contains(id) && upto.calls.as_ref().is_none_or(|c| c.contains(id));
    let said = |l: &Object| upto.messages.as_ref().is_none_or(|m| message_id(l).is_some_and(|id| m.contains(&id)));
    let mut kept: Vec<Object> = Vec::new();
    // Lines up to the last that counts.
    let mut whole = 0;
    let mut open = 0u64;
    for mut line in lines.into_iter().filter(|l| !is_sidechain(l)) {
        let counts = match kind(&line) {
            "assistant" => {
                let words = said(&line);
                open += drop_blocks(&mut line, |b| block_id(b, "tool_use", "id").is_none_or(|id| ended(&id)));
                let speaks = |b: &Value| field(b, "type") == "text" && words;
                let calls = |b: &Value| field(b, "type") == "tool_use";
                blocks(&line).iter().any(|b| speaks(b) || calls(b))
            }
            "user" => {
                drop_blocks(&mut line, |b| block_id(b, "tool_result", "tool_use_id").is_none_or(|id| ended(&id)));
                blocks(&line).iter().any(|b| field(b, "type") == "tool_result")
            }
            _ => false,
        };
        let is_empty = line.get("message").and_then(|m| m.get("content")).and_then(Value::as_array).is_some_and(Vec::is_empty);
        if is_empty {
            continue;
        }
        kept.push(line);
        if counts {
            whole = kept.len();
        }
    }
    let prompts = kept[whole..].iter().filter(|l| super::is_prompt(l)).count();
    kept.truncate(whole);
    if kept.is_empty() {
        return Err("nothing was said before that".to_owned());
    }
    let adds = kept.last().filter(|l| kind(l) == "user").map(|_| ADDS);
    let mut bytes = Vec::new();
    let mut parent = Value::Null;
    for mut line in kept {
        line.insert("parentUuid".to_owned(), parent);
        line.insert("sessionId".to_owned(), json!(conversation));
        parent = line.get("uuid").cloned().unwrap_or_default();
        // why ignored: JSON values with text keys always have a text form.
        _ = serde_json::to_writer(&mut bytes, &line);
        bytes.push(b'\n');
    }
    let mut left_out = Vec::new();
    if open > 0 && upto.calls.is_none() {
        left_out.push(format!("{open} calls without a result"));
    }
    if prompts > 0 && upto.calls.is_none() {
        left_out.push(format!("{prompts} prompts without an answer"));
    }
    Ok(Cut { bytes, adds, left_out: (!left_out.is_empty()).then(|| left_out.join(", ")) })
}

/// Whether the record holds the message and the call that were the last to count.
pub fn holds(record: &[u8], message: Option<&str>, call: Option<&str>) -> bool {
    let Ok(lines) = road(record) else { return false };
    let has_message = |m: &str| lines.iter().any(|l| message_id(l).as_deref() == Some(m));
    let has_result = |c: &str| lines.iter().flat_map(blocks).any(|b| block_id(b, "tool_result", "tool_use_id").as_deref() == Some(c));
    message.is_none_or(has_message) && call.is_none_or(has_result)
}

/// Takes blocks of a line's message away; how many.
fn drop_blocks(line: &mut Object, stays: impl Fn(&Value) -> bool) -> u64 {
    let Some(list) = line.get_mut("message").and_then(|m| m.get_mut("content")).and_then(Value::as_array_mut) else { return 0 };
    let had = list.len();
    list.retain(|b| stays(b));
    let gone = (had - list.len()) as u64;
    if gone > 0 {
        line.remove("toolUseResult");
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A conversation: prompts, and messages with a text and calls.
    fn record(turns: &[Vec<(bool, u8, u8)>]) -> Vec<u8> {
        let (mut out, mut parent, mut n) = (String::new(), Value::Null, 0);
        let mut put = |kind: &str, message: Value| {
            n += 1;
            let uuid = format!("u{n}");
            out.push_str(
                &json!({ "type": kind, "uuid": uuid, "parentUuid": parent, "isSidechain": false, "sessionId": "old", "message": message })
                    .to_string(),
            );
            out.push('\n');
            parent = json!(uuid);
        };
        for (t, messages) in turns.iter().enumerate() {
            put("user", json!({ "role": "user", "content": format!("prompt {t}") }));
            for (m, (has_text, calls, done)) in messages.iter().enumerate() {
                let id = format!("m{t}-{m}");
                if *has_text {
                    put(
                        "assistant",
                        json!({ "role": "assistant", "id": id, "content": [{ "type": "text", "text": format!("said {id}") }] }),
                    );
                }
                for c in 0..*calls {
                    let call = json!([{ "type": "tool_use", "id": format!("c{t}-{m}-{c}"), "name": "Bash", "input": {} }]);
                    put("assistant", json!({ "role": "assistant", "id": id, "content": call }));
                }
                for c in 0..(*done).min(*calls) {
                    let result = json!([{ "type": "tool_result", "tool_use_id": format!("c{t}-{m}-{c}"), "content": "out" }]);
                    put("user", json!({ "role": "user", "content": result }));
                }
            }
        }
        out.into_bytes()
    }

    fn ids(bytes: &[u8], kind: &str, key: &str) -> Vec<String> {
        let lines = String::from_utf8(bytes.to_vec()).expect("text");
        lines
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).expect("JSON"))
            .flat_map(|l| l["message"]["content"].as_array().cloned().unwrap_or_default())
            .filter_map(|b| block_id(&b, kind, key))
            .collect()
    }

    proptest! {
        /// Wherever it is cut: each call with its result, nothing that the log had not reached, one road.
        #[test]
        fn a_call_stands_with_its_result_or_not_at_all(
            turns in proptest::collection::vec(proptest::collection::vec((any::<bool>(), 0u8..4, 0u8..4), 0..4), 1..4),
            reached in proptest::collection::btree_set((0usize..4, 0usize..4, 0u8..4), 0..20),
            words in proptest::collection::btree_set((0usize..4, 0usize..4), 0..12),
            all in any::<bool>(),
        ) {
            let bytes = record(&turns);
            let calls: BTreeSet<String> = reached.iter().map(|(t, m, c)| format!("c{t}-{m}-{c}")).collect();
            let messages: BTreeSet<String> = words.iter().map(|(t, m)| format!("m{t}-{m}")).collect();
            let upto = if all { Reached::default() } else { Reached { calls: Some(calls.clone()), messages: Some(messages) } };
            let Ok(cut) = cut(&bytes, &upto, "new") else { return Ok(()) };
            let (asked, answered) = (ids(&cut.bytes, "tool_use", "id"), ids(&cut.bytes, "tool_result", "tool_use_id"));
            let (mut a, mut b) = (asked.clone(), answered);
            a.sort();
            b.sort();
            prop_assert_eq!(&a, &b);
            prop_assert!(all || asked.iter().all(|c| calls.contains(c)));
            let mut parent = Value::Null;
            for line in String::from_utf8_lossy(&cut.bytes).lines() {
                let l: Value = serde_json::from_str(line).expect("JSON");
                prop_assert_eq!(&l["parentUuid"], &parent);
                prop_assert_eq!(&l["sessionId"], "new");
                parent = l["uuid"].clone();
            }
            // What was cut reads as a conversation, and cutting it again changes nothing.
            let again = super::cut(&cut.bytes, &Reached::default(), "new").expect("a conversation");
            prop_assert_eq!(again.bytes, cut.bytes);
        }
    }

    #[test]
    fn unanswered_words_are_left_out_and_named() {
        let bytes = record(&[vec![(true, 1, 1)], vec![(true, 2, 1)], vec![]]);
        let cut = cut(&bytes, &Reached::default(), "new").expect("a conversation");
        assert_eq!(cut.left_out.as_deref(), Some("1 calls without a result, 1 prompts without an answer"));
        assert_eq!(cut.adds, Some(ADDS));
        let text = String::from_utf8(cut.bytes).expect("text");
        assert!(text.contains("c1-1-0") || text.contains("c1-0-0"), "{text}");
        assert!(!text.contains("prompt 2") && text.contains("said m1-0"), "{text}");
        assert!(super::cut(&record(&[vec![]]), &Reached::default(), "new").is_err());
        assert!(
            holds(&bytes, Some("m1-0"), Some("c1-0-0")) && !holds(&bytes, Some("m1-0"), Some("c1-0-1")) && !holds(b"", Some("m"), None)
        );
    }
}
