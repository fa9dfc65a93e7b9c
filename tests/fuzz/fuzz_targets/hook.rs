//! What an agent gives its hook command: understood exactly or an error, and an answer that denies never looks like one that allows.

#![no_main]

use beadle_fuzz::agent::hook::{HookAnswer, HookEvent};
use beadle_fuzz::agent::{driver, tools};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let claude = driver("claude").unwrap_or_else(|e| panic!("{e}"));
    let denied = claude.hook_answer(HookAnswer::Deny { reason: &String::from_utf8_lossy(data) });
    assert!(denied.exit == 2 && denied.body.len() > 1, "{denied:?}");
    let hook = match claude.hook(data) {
        Ok(h) => h,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            return;
        }
    };
    assert!(!hook.agent_session_id.is_empty() && hook.cwd.starts_with('/'));
    let HookEvent::Asked(asked) = &hook.event else { return };
    assert!(asked.input.is_object() && !asked.tool.is_empty());
    let _ = tools::read(&asked.tool, &asked.input);
    for (answer, word) in [
        (HookAnswer::Allow { reason: "r", input: Some(&asked.input) }, "allow"),
        (HookAnswer::Allow { reason: "r", input: None }, "allow"),
        (HookAnswer::Ask { reason: "r" }, "ask"),
    ] {
        let reply = claude.hook_answer(answer);
        assert_eq!(reply.exit, 0);
        let said: Value = serde_json::from_slice(&reply.body).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(said["hookSpecificOutput"]["permissionDecision"], word);
        assert_ne!(said["continue"], false);
        if let HookAnswer::Allow { input: Some(input), .. } = answer {
            assert_eq!(&said["hookSpecificOutput"]["updatedInput"], input);
        }
    }
});
