//! Ids of traces and spans: BLAKE3 of what they stand for, so that what is sent again is the same span.

/// Keeps these hashes apart from all others. Changing it gives every span another id.
const CONTEXT: &str = "beadle 2026 otlp span ids";

/// The trace of a session.
pub fn trace(session: &str) -> Vec<u8> {
    id::<16>(&["trace", session])
}

/// The root span of a session.
pub fn session(session: &str) -> Vec<u8> {
    id::<8>(&["session", session])
}

pub fn attempt(session: &str, attempt: u32) -> Vec<u8> {
    id::<8>(&["attempt", session, &attempt.to_string()])
}

/// A tool call by the agent's own id of it, which is all that a sub-agent's messages name.
pub fn call(session: &str, attempt: u32, call_id: &str) -> Vec<u8> {
    id::<8>(&["call", session, &attempt.to_string(), call_id])
}

/// What one event tells: a model call, a decision, a breach.
pub fn event(session: &str, seq: u64) -> Vec<u8> {
    id::<8>(&["event", session, &seq.to_string()])
}

fn id<const N: usize>(parts: &[&str]) -> Vec<u8> {
    let mut h = blake3::Hasher::new_derive_key(CONTEXT);
    for p in parts {
        h.update(&(p.len() as u64).to_le_bytes());
        h.update(p.as_bytes());
    }
    let mut out = [0; N];
    h.finalize_xof().fill(&mut out);
    // why: an id of zeros is no id.
    if out == [0; N] {
        out[N - 1] = 1;
    }
    out.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These are in receivers' databases: a change would tear every trace that is under way in two.
    #[test]
    fn ids_stay_what_they_are() {
        let hex = |b: Vec<u8>| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!((trace("a").len(), session("a").len()), (16, 8));
        assert_eq!(hex(session("fix-1-abcde")), hex(session("fix-1-abcde")));
        let all = [session("s"), attempt("s", 1), attempt("s", 2), call("s", 1, "x"), call("s", 2, "x"), event("s", 1), event("s", 11)];
        assert!(all.iter().enumerate().all(|(i, a)| all.iter().skip(i + 1).all(|b| a != b)), "all differ");
        assert_ne!(call("s", 1, "1x"), call("s", 11, "x"), "parts do not run together");
    }
}
