//! Bodies of the API, stored events, and the reader of event streams: what is read is written back the same, and a stream reads
//! the same in pieces of any size.

#![no_main]

use std::fmt::Debug;

use beadle_fuzz::api::client::sse::{Message, SseReader};
use beadle_fuzz::api::types::{
    AccountQuery, ApprovalAnswer, ApprovalsQuery, EventsQuery, HookedRequest, LogsQuery, OperatorKeyRequest, RuleRequest, RunRequest,
    SendRequest, SessionsQuery, StatsQuery, StopRequest, TrustRequest,
};
use beadle_fuzz::model::{ApprovalId, Session, SessionId};
use beadle_fuzz::take::Take;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn read<T: DeserializeOwned + Serialize + Debug>(body: &[u8]) {
    if let Ok(first) = serde_json::from_slice::<T>(body) {
        let text = serde_json::to_string(&first).unwrap_or_else(|e| panic!("{e}"));
        let again: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let value = |t: &T| serde_json::to_value(t).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(value(&first), value(&again));
    }
}

fn stream(bytes: &[u8], piece: usize) -> Vec<Message> {
    let (mut reader, mut out) = (SseReader::default(), vec![]);
    for part in bytes.chunks(piece.max(1)) {
        assert!(reader.push(part));
        out.extend(std::iter::from_fn(|| reader.message()));
    }
    out
}

fuzz_target!(|data: &[u8]| {
    let mut take = Take(data);
    let (kind, piece) = (take.byte(), usize::from(take.byte()));
    let body = take.0;
    match kind % 17 {
        0 => read::<RunRequest>(body),
        1 => read::<SessionsQuery>(body),
        2 => read::<RuleRequest>(body),
        3 => read::<ApprovalAnswer>(body),
        4 => read::<EventsQuery>(body),
        5 => read::<LogsQuery>(body),
        6 => read::<SendRequest>(body),
        7 => read::<StopRequest>(body),
        8 => read::<TrustRequest>(body),
        9 => read::<Session>(body),
        11 => read::<AccountQuery>(body),
        12 => read::<ApprovalsQuery>(body),
        13 => read::<HookedRequest>(body),
        14 => read::<OperatorKeyRequest>(body),
        15 => read::<StatsQuery>(body),
        10 => assert_eq!(stream(body, piece), stream(body, body.len())),
        _ => {
            let text = String::from_utf8_lossy(body);
            if let Ok(id) = SessionId::parse(&text) {
                assert_eq!(id.to_string(), text);
            }
            if let Ok(id) = text.parse::<ApprovalId>() {
                assert_eq!(id.to_string().parse::<ApprovalId>().ok(), Some(id));
            }
            let _ = serde_json::from_str::<Value>(&text);
        }
    }
});
