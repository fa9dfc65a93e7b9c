//! Scripts of the scripted model: any text is read or refused, and any request gets an answer.

#![no_main]

use beadle_fuzz::gateway::{Script, play};
use beadle_fuzz::take::Take;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let mut take = Take(data);
    let Ok(mut script) = Script::parse(&take.text()) else { return };
    let request: Value = serde_json::from_str(&take.text()).unwrap_or_else(|_| {
        json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "go"}], "tools": [{"name": "Bash", "input_schema": {}}]})
    });
    for _ in 0..3 {
        assert!(play(&mut script, &request) > 0);
    }
    script.reset();
    let _ = script.state();
});
