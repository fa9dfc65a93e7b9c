//! A session for tests of what is shown.

use crate::api::types::{Money, SessionDoc};
use crate::model::{Mediation, Outcome, Status, Usage};

/// Ended well: three calls, tokens and cost as in the recorded payloads.
pub fn session() -> SessionDoc {
    let at = "2026-01-01T00:00:00.000Z".to_owned();
    SessionDoc {
        id: "fix-mwpus4jk-bbbbb".into(),
        name: "fix".into(),
        agent: "claude".into(),
        status: Status::Ended,
        outcome: Some(Outcome::Succeeded),
        mediation: Mediation::Gate,
        mediation_note: None,
        program: None,
        command: vec!["claude".into()],
        cwd: "/p".into(),
        write_root: None,
        labels: [("team".to_owned(), "a".to_owned())].into(),
        created_at: at.clone(),
        started_at: Some(at.clone()),
        ended_at: Some(at.clone()),
        last_activity_at: at,
        attempt: 1,
        pid: None,
        exit_code: Some(0),
        signal: None,
        agent_session_id: None,
        agent_version: None,
        model: Some("claude-opus-4-8".into()),
        context_window: Some(200_000),
        context_used: Some(6_750),
        usage: Usage { input: 3600, output: 102, cache_read: 3000, cache_write: 150, reasoning: None },
        cost: Some(Money::from(22_987_500)),
        unpriced_count: 0,
        agent_cost: Some(Money::from(22_987_500)),
        turn_count: 1,
        call_count: 3,
        allowed_count: 2,
        denied_count: 1,
        asked_count: 0,
        rewritten_count: 0,
        waiting_count: 0,
        breach_count: 0,
        plugin_failure_count: 0,
        flagged_count: 0,
        verdict: None,
        last_text: Some("Done.".into()),
        last_seq: 19,
    }
}
