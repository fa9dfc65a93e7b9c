//! What an agent says, line by line: every line means something, the memory of the codec stays small and survives a restart,
//! and each answer is one line that reads back.

#![no_main]

use beadle_fuzz::agent::{Answer, Output, ReadState, driver, mcp, tools};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    for name in ["claude", "demo"] {
        let driver = driver(name).unwrap_or_else(|e| panic!("{e}"));
        let mut state = ReadState::default();
        for line in data.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let said = driver.read(&mut state, line);
            assert!(!said.is_empty(), "a line that means nothing is lost");
            // A new daemon reads on with what was stored.
            let stored = serde_json::to_vec(&state).unwrap_or_else(|e| panic!("{e}"));
            let back: ReadState = serde_json::from_slice(&stored).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(back, state);
            for output in &said {
                if let Output::Mcp { request_id, message, .. } = output {
                    let answer = match mcp::read(message) {
                        mcp::Request::Call { id, call } => {
                            let done = mcp::Act::read(&call.name, &call.arguments);
                            mcp::called(&id, &done.as_ref().err().cloned().unwrap_or_default(), done.is_err())
                        }
                        mcp::Request::Initialize { id, version } => mcp::initialized(&id, version.as_deref()),
                        mcp::Request::Ping { id } => mcp::pong(&id),
                        mcp::Request::List { id } => mcp::list(&id),
                        mcp::Request::Invalid { answer } => answer,
                        mcp::Request::Notification => mcp::noted(),
                    };
                    let frame = driver.mcp_answer(request_id, &answer);
                    assert_eq!(frame.iter().filter(|b| **b == b'\n').count(), usize::from(name == "claude"), "a frame is one line");
                }
                if let Output::Asked(asked) = output {
                    assert!(!asked.request_id.is_empty());
                    for answer in [Answer::Allow { input: &asked.input }, Answer::Deny { reason: "no\nline" }] {
                        let frame = driver.answer(&asked.request_id, answer);
                        assert_eq!(frame.iter().filter(|b| **b == b'\n').count(), 1, "a frame is one line");
                        assert_eq!(frame.last(), Some(&b'\n'));
                        let value: Value = serde_json::from_slice(&frame).unwrap_or_else(|e| panic!("{e}"));
                        assert_eq!(value["response"]["request_id"], asked.request_id);
                    }
                    let _ = tools::read(&asked.tool, &asked.input);
                }
            }
        }
    }
});
