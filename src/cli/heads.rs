//! Signed heads out of what a sink wrote: lines of `jsonl`, or CloudEvents one a line. What is signed is judged by the daemon.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::{Value, json};

/// Longest line in bytes; an event body has at most 32 MiB.
const LINE_MAX: u64 = 64 << 20;
/// Sessions whose newest head is taken.
const SESSIONS_MAX: usize = 8_000;

/// The newest head of each session, and of the host chain; `None` when the file holds none. Errors say what is wrong with which line.
pub fn read(path: &Path) -> Result<Option<Value>, String> {
    let mut reader = BufReader::new(std::fs::File::open(path).map_err(|e| e.to_string())?);
    let (mut sessions, mut host): (BTreeMap<String, Value>, Option<Value>) = (BTreeMap::new(), None);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let n = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
        if n == 0 {
            break;
        }
        if n as u64 == LINE_MAX {
            return Err(format!("line {number} is over {LINE_MAX} bytes"));
        }
        // why: most lines are no heads, and need not be parsed.
        if !line.windows(5).any(|w| w == b"_head") {
            continue;
        }
        let mut event: Value = serde_json::from_slice(&line).map_err(|e| format!("line {number} is not JSON: {e}"))?;
        if event.get("specversion").is_some() {
            event = event["data"].take();
        }
        let (kind, body) = (event["kind"].take(), event["body"].take());
        let seq = |v: &Value| v["seq"].as_u64().unwrap_or(0);
        match kind.as_str() {
            Some("host_session_head") => {
                let id = body["session"].as_str().unwrap_or_default().to_owned();
                if sessions.get(&id).is_none_or(|have| seq(have) <= seq(&body)) {
                    sessions.insert(id, body);
                }
            }
            Some("host_host_head") if host.as_ref().is_none_or(|have| seq(have) <= seq(&body)) => host = Some(body),
            _ => {}
        }
        if sessions.len() > SESSIONS_MAX {
            return Err(format!("it holds heads of more than {SESSIONS_MAX} sessions; give the newest of its files"));
        }
    }
    if sessions.is_empty() && host.is_none() {
        return Ok(None);
    }
    Ok(Some(json!({ "heads": sessions.into_values().collect::<Vec<_>>(), "host_head": host })))
}
