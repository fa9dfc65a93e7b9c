//! Forged, broken and random lines. The recorded ones are replayed by `tests/it/claude_codec.rs`.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(v: &Value) -> Output {
    let mut out = line(&mut ReadState::default(), v.to_string().as_bytes());
    assert_eq!(out.len(), 1, "{out:?}");
    out.remove(0)
}

fn ask() -> Value {
    json!({"type": "control_request", "request_id": "r1", "request":
        {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}, "tool_use_id": "t1"}})
}

#[test]
fn a_question_is_read_whole() {
    let asked = Asked {
        request_id: "r1".into(),
        call_id: Some("t1".into()),
        tool: "Bash".into(),
        input: json!({"command": "ls"}),
        parent_call_id: None,
        sub_agent: None,
    };
    assert_eq!(one(&ask()), Output::Asked(asked));
}

#[test]
fn a_message_to_a_tool_server_of_the_hosts_is_read_whole() {
    let say = |request: Value| one(&json!({"type": "control_request", "request_id": "r1", "request": request}));
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let said = say(json!({"subtype": "mcp_message", "server_name": "beadle", "message": message}));
    assert_eq!(said, Output::Mcp { request_id: "r1".into(), server: "beadle".into(), message });
    for wrong in [
        json!({"server_name": "beadle"}),
        json!({"message": {}}),
        json!({"server_name": "", "message": {}}),
        json!({"server_name": "beadle", "message": []}),
    ] {
        let mut request = wrong.clone();
        request["subtype"] = json!("mcp_message");
        assert!(matches!(say(request), Output::Forged { .. }), "{wrong}");
    }
}

fn callback() -> Value {
    json!({"type": "control_request", "request_id": "r1", "request": {"subtype": "hook_callback", "callback_id": "bdl-hold", "tool_use_id": "t1",
        "input": {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "ls"}, "tool_use_id": "t1"}}})
}

#[test]
fn the_callback_before_a_tool_use_names_the_same_call() {
    let (Output::Asked(gate), Output::Held(held)) = (one(&ask()), one(&callback())) else { panic!("a question and a held call") };
    assert_eq!(gate, held);
    let mut sub = callback();
    sub["request"]["input"]["agent_id"] = json!("a1");
    let Output::Held(held) = one(&sub) else { panic!("{sub}") };
    assert_eq!(held.sub_agent.as_deref(), Some("a1"));
    for (path, wrong) in [
        ("/request/callback_id", json!("other")),
        ("/request/input/hook_event_name", json!("PostToolUse")),
        ("/request/input/tool_name", json!("")),
        ("/request/input/tool_use_id", json!(7)),
        ("/request/input/tool_input", json!("ls")),
        ("/request/input", json!(null)),
    ] {
        let mut v = callback();
        *v.pointer_mut(path).expect("path") = wrong;
        assert!(matches!(one(&v), Output::Forged { .. }), "{v}");
    }
}

#[test]
fn a_turn_that_ends_at_a_deferred_call_names_it() {
    let turn = |more: Value| {
        let mut v =
            json!({"type": "result", "subtype": "success", "is_error": false, "num_turns": 1, "result": "", "usage": {"input_tokens": 5}});
        v.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let Output::TurnEnded(t) = one(&v) else { panic!("{v}") };
        t.deferred
    };
    assert_eq!(turn(json!({})), None);
    let deferred = json!({"id": "t1", "name": "Bash", "input": {"command": "ls"}});
    assert_eq!(turn(json!({"terminal_reason": "tool_deferred", "deferred_tool_use": deferred})).as_deref(), Some("t1"));
    for odd in [json!("t1"), json!({"id": 7}), json!({"id": ""}), json!([])] {
        assert_eq!(turn(json!({"deferred_tool_use": odd})), None);
    }
}

#[test]
fn control_lines_that_are_not_as_expected_are_forgeries() {
    let set = |path: &str, value: Value| {
        let mut v = ask();
        *v.pointer_mut(path).expect("path") = value;
        v
    };
    let long = "x".repeat(ID_MAX + 1);
    let mut lines = vec![
        json!({"type": "control_response", "response": {"subtype": "success", "request_id": "r1", "response": {"behavior": "allow"}}}),
        json!({"type": "control_response", "response": {"subtype": "odd", "request_id": "bdl-x"}}),
        json!({"type": "control_response"}),
        json!({"type": "control_cancel_request"}),
        json!({"type": "control_cancel_request", "request_id": ["r1"]}),
        json!({"type": "control_surprise"}),
        json!({"type": "control_request", "request_id": "r1"}),
        json!({"type": "control_request", "request_id": "r1", "request": {"subtype": 7}}),
    ];
    for s in [
        "hook_callback",
        "mcp_message",
        "set_permission_mode",
        "initialize",
        "interrupt",
        "apply_flag_settings",
        "oauth_token_refresh",
        "unheard_of",
    ] {
        lines.push(set("/request/subtype", json!(s)));
    }
    for wrong in [json!(null), json!(7), json!(""), json!([]), json!({}), json!(long)] {
        for path in ["/request_id", "/request/tool_name", "/request/tool_use_id"] {
            lines.push(set(path, wrong.clone()));
        }
        if !wrong.is_object() {
            lines.push(set("/request/input", wrong.clone()));
        }
        if !wrong.is_null() {
            let mut v = ask();
            v["request"]["agent_id"] = wrong;
            lines.push(v);
        }
    }
    for l in lines {
        assert!(matches!(one(&l), Output::Forged { .. }), "{l}");
    }
}

#[test]
fn a_key_that_stands_twice_is_no_question() {
    let twice = ask().to_string().replacen(r#""tool_name":"Bash""#, r#""tool_name":"Read","tool_name":"Bash""#, 1);
    assert!(
        matches!(&line(&mut ReadState::default(), twice.as_bytes())[..], [Output::Unparsed { reason }] if reason.contains("tool_name"))
    );
}

#[test]
fn questions_to_the_user_are_declined() {
    let mut v = ask();
    v["request"] = json!({"subtype": "elicitation", "mcp_server_name": "mine", "message": "who?"});
    let Output::Declined { request_id, what, answer } = one(&v) else { panic!("not declined") };
    let answer: Value = serde_json::from_slice(&answer).expect("json");
    assert_eq!((request_id.as_str(), &answer["response"]["response"]), ("r1", &json!({"action": "decline"})));
    assert!(what.contains("mine"));
    v["request"] = json!({"subtype": "request_user_dialog", "dialog_kind": "x", "payload": {}});
    assert!(matches!(one(&v), Output::Declined { .. }));
}

#[test]
fn lines_that_are_not_of_the_protocol_are_kept_raw() {
    let deep = "[".repeat(10_000);
    let lines: [&[u8]; 14] = [
        b"plain text",
        b"\xff\xfe",
        br#"{"type":"assistant","mess"#,
        b"[]",
        b"7",
        b"{}",
        br#"{"type":7}"#,
        br#"{"type":"surprise"}"#,
        br#"{"type":"system"}"#,
        br#"{"type":"system","subtype":"surprise"}"#,
        br#"{"type":"result","subtype":"success"}"#,
        br#"{"type":"user","message":{}}"#,
        br#"{"type":"result","subtype":"success","is_error":false,"total_cost_usd":1e999}"#,
        deep.as_bytes(),
    ];
    for l in lines {
        let out = line(&mut ReadState::default(), l);
        assert!(matches!(&out[..], [Output::Unparsed { .. }]), "{out:?}");
    }
}

#[test]
fn wrong_types_never_become_results_or_counts() {
    let result = json!({"type": "user", "message": {"role": "user", "content": [
        {"type": "tool_result", "content": "x"}, {"type": "tool_result", "tool_use_id": "t", "is_error": "no"}, {"type": "text", "text": "note"}]}});
    let out = line(&mut ReadState::default(), result.to_string().as_bytes());
    assert!(out.len() == 2 && out.iter().all(|o| matches!(o, Output::Unparsed { .. })), "{out:?}");
    let message = json!({"type": "assistant", "message": {"id": "m", "model": "c", "content": [{"type": "text", "text": "hi"}],
        "usage": {"input_tokens": -4, "output_tokens": 1.5, "cache_read_input_tokens": "9"}}});
    assert!(matches!(one(&message), Output::Replied { .. }));
}

#[test]
fn final_counts_need_the_message_they_belong_to() {
    let start = json!({"type": "stream_event", "event": {"type": "message_start", "message":
        {"id": "m1", "model": "c", "usage": {"input_tokens": 3, "output_tokens": 1}}}, "parent_tool_use_id": null});
    let delta =
        json!({"type": "stream_event", "event": {"type": "message_delta", "usage": {"output_tokens": 40}}, "parent_tool_use_id": null});
    let other =
        json!({"type": "stream_event", "event": {"type": "message_delta", "usage": {"output_tokens": 99}}, "parent_tool_use_id": "t9"});
    let mut state = ReadState::default();
    let mut say = |v: &Value| line(&mut state, v.to_string().as_bytes());
    assert_eq!(say(&delta), [Output::Quiet]);
    assert_eq!(say(&start), [Output::Quiet]);
    assert_eq!(say(&other), [Output::Quiet]);
    let usage = Usage { input: 3, output: 40, ..Default::default() };
    assert_eq!(say(&delta), [Output::Usage { message_id: "m1".into(), model: "c".into(), usage, parent_call_id: None }]);
    say(&json!({"type": "stream_event", "event": {"type": "message_stop"}}));
    assert_eq!(say(&delta), [Output::Quiet]);
}

#[test]
fn sub_agents_are_remembered_up_to_the_cap() {
    let mut state = ReadState::default();
    for i in 0..ReadState::SUB_AGENTS + 3 {
        let v = json!({"type": "system", "subtype": "task_started", "task_type": "local_agent", "task_id": format!("a{i}"), "tool_use_id": format!("t{i}")});
        line(&mut state, v.to_string().as_bytes());
    }
    assert_eq!(state.sub_agents.len(), ReadState::SUB_AGENTS);
    let mut parent = |agent: &str| {
        let mut v = ask();
        v["request"]["agent_id"] = json!(agent);
        match line(&mut state, v.to_string().as_bytes()).remove(0) {
            Output::Asked(a) => a.parent_call_id,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((parent("a5"), parent("a0")), (Some("t5".to_owned()), None));
}

#[test]
fn a_turn_without_any_model_request_is_not_a_success() {
    let turn = json!({"type": "result", "subtype": "success", "is_error": false, "num_turns": 0, "result": "", "usage": {}});
    assert!(matches!(one(&turn), Output::TurnEnded(t) if t.is_error && t.subtype.as_deref() == Some("no_model_request")));
    let mut state = ReadState::default();
    line(&mut state, br#"{"type":"system","subtype":"compact_boundary","compact_metadata":{"trigger":"manual"}}"#);
    assert!(matches!(&line(&mut state, turn.to_string().as_bytes())[..], [Output::TurnEnded(t)] if !t.is_error));
}

/// Any JSON, small.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("(type|subtype|message|content|request|request_id|id|usage|event|model)", inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// One value inside `v`, chosen by `pick`, replaced.
fn mutate(v: &mut Value, pick: &mut usize, with: &Value) {
    if *pick == 0 {
        *v = with.clone();
    }
    *pick = pick.wrapping_sub(1);
    match v {
        Value::Array(a) => a.iter_mut().for_each(|x| mutate(x, pick, with)),
        Value::Object(o) => o.values_mut().for_each(|x| mutate(x, pick, with)),
        _ => {}
    }
}

proptest! {
    #[test]
    fn any_bytes_say_something_and_nothing_that_counts(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let out = line(&mut ReadState::default(), &bytes);
        let kept_raw = matches!(&out[..], [Output::Unparsed { .. }]);
        prop_assert!(kept_raw, "{:?}", out);
    }

    #[test]
    fn any_object_of_a_known_type_is_read_without_panic(kind in 0usize..9, mut body in any_json()) {
        let kinds = ["control_request", "control_response", "control_cancel_request", "system", "assistant", "user", "stream_event", "result", "keep_alive"];
        if let Value::Object(o) = &mut body {
            o.insert("type".into(), kinds[kind].into());
        }
        let mut state = ReadState::default();
        prop_assert!(!line(&mut state, body.to_string().as_bytes()).is_empty());
    }

    #[test]
    fn a_broken_question_is_never_a_question_with_other_content(pick in 0usize..12, with in any_json()) {
        let mut v = ask();
        mutate(&mut v, &mut { pick }, &with);
        // why: the text is what the agent says; reading it twice must not differ, whatever becomes of a float's last digit.
        let text = v.to_string();
        let v: Value = serde_json::from_str(&text).expect("json");
        for out in line(&mut ReadState::default(), text.as_bytes()) {
            if let Output::Asked(a) = out {
                prop_assert_eq!(Some(a.request_id.as_str()), v["request_id"].as_str());
                prop_assert_eq!(Some(a.tool.as_str()), v["request"]["tool_name"].as_str());
                prop_assert_eq!(&a.input, &v["request"]["input"]);
            }
        }
    }
}
