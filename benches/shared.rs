//! What several benches use.

use beadle::model::{OsEntropy, SessionCreated, SessionId, SystemClock};
use beadle::store::Batch;

/// The first append of a session.
pub fn created(name: &str) -> serde_json::Result<Batch> {
    let session = SessionId::new(name, &SystemClock, &OsEntropy);
    // why: through the wire shape, so that a field added later needs no change here.
    let created: SessionCreated = serde_json::from_value(serde_json::json!({
        "name": name, "agent": "claude", "command": ["claude"], "cwd": "/home/user/project", "labels": { "team": "core" },
        "env_names": ["PATH", "HOME"], "mediation": "gate", "created_by": { "role": "host" }, "beadle_version": "0.1.0",
    }))?;
    Ok(Batch {
        session,
        expected: Some(0),
        attempt: 0,
        at: 1_795_232_000_000,
        events: vec![created.into()],
        cursor: None,
        frames: Vec::new(),
        taken: None,
        blobs: Vec::new(),
    })
}
