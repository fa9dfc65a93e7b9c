//! Which blobs an event names: every place where the whole of a text, or a file, is kept beside the log.
//!
//! Invariants: what an event only speaks of, because it was erased, is not named; nor is a digest within what an agent or a writer said.
//! A new body with an [`Excerpt`] is added here.
//!
//! Called by `store` (`verify` looks each one up).

use super::{Event, Excerpt};

impl Event {
    /// Digests (BLAKE3, hex) of the blobs that the event needs.
    pub fn blobs(&self) -> Vec<&str> {
        let texts: Vec<Option<&Excerpt>> = match self {
            Self::PromptSubmitted(p) => vec![Some(&p.prompt)],
            Self::SessionCreated(c) => vec![c.prompt.as_ref(), c.record.origin.as_ref().and_then(|o| o.text.as_ref())],
            Self::ToolEnded(t) => vec![Some(&t.output)],
            Self::ToolReported(t) => vec![t.whole.as_ref()],
            Self::OutputUnparsed(o) => vec![Some(&o.raw)],
            Self::AttemptVerified(v) => vec![v.verifier.as_ref().map(|run| &run.output)],
            Self::AttemptEnded(a) => vec![a.output_summary.as_ref(), a.runner_output.as_ref()],
            Self::AgentHandedOff(h) => vec![h.reason.as_ref()],
            Self::MemoryRecalled(m) => vec![m.query.as_ref()],
            Self::ReportGiven(r) => vec![Some(&r.report)],
            Self::InvocationRecorded(i) => {
                let tries = i.attempts.iter().flat_map(|t| [&t.feedback, &t.output_summary, &t.runner_output]);
                [&i.input, &i.message].into_iter().chain(tries).map(Option::as_ref).collect()
            }
            Self::ContextCompacted(c) => vec![c.host.as_ref().map(|h| &h.edits)],
            _ => vec![],
        };
        let mut out: Vec<&str> = texts.into_iter().flatten().filter_map(|e| e.blob.as_deref()).collect();
        match self {
            Self::TranscriptKept(t) => out.extend(t.files.iter().filter_map(|f| f.blob.as_deref())),
            Self::ContextCompacted(c) => out.extend(c.host.as_ref().and_then(|h| h.copy.as_deref())),
            _ => {}
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_place_is_found_and_what_an_agent_says_is_none() {
        let e = |n: usize| json!({ "text": "t", "bytes": 9, "blob": format!("{n:064x}") });
        for (kind, body, count) in [
            ("prompt_submitted", json!({ "prompt": e(1), "by": { "role": "host" } }), 1),
            ("tool_reported", json!({ "call_id": "c", "tool": "T", "input": { "blob": "0".repeat(64) }, "whole": e(1) }), 1),
            ("tool_reported", json!({ "call_id": "c", "tool": "T", "input": { "blob": "0".repeat(64) } }), 0),
            ("attempt_ended", json!({ "outcome": "failed", "output_summary": e(1), "runner_output": e(2) }), 2),
            ("agent_handed_off", json!({ "to": "b", "reason": e(1) }), 1),
            ("report_given", json!({ "report": e(1) }), 1),
            ("memory_recalled", json!({ "tier": "t", "namespace": "n", "hits": 1, "query": e(1) }), 1),
            (
                "invocation_recorded",
                json!({ "skill": "s", "input": e(1), "message": e(2), "attempts": [{ "number": 1, "feedback": e(3), "output_summary": e(4), "runner_output": e(5) }] }),
                5,
            ),
            ("secret_redacted", json!({ "seq": 1, "reason": "r", "by": { "role": "host" }, "blobs": ["a"] }), 0),
        ] {
            let event = Event::from_parts(kind, body.to_string().as_bytes()).unwrap_or_else(|e| panic!("{kind}: {e}"));
            assert!(!matches!(event, Event::Unknown(_)), "{kind}");
            let mut found = event.blobs();
            found.sort_unstable();
            let want: Vec<String> = (1..=count).map(|n| format!("{n:064x}")).collect();
            assert_eq!(found, want, "{kind}");
        }
    }
}
