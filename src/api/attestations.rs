//! Attestations: what `doctor` found of an agent's program, and whether the one there now is that one.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;

use super::App;
use super::confirm::{Asking, Refusal};
use super::error::ApiError;
use super::types::{AttestationDoc, AttestationRequest, AttestationsQuery, Page, ProgramDoc, ProgramQuery};
use crate::model::{AttestedFile, CheckResult, Subject, format_ms};
use crate::operator::Need;
use crate::session::{AttestRequest, Attested};

pub async fn program(State(app): State<App>, query: Result<Query<ProgramQuery>, QueryRejection>) -> Result<Json<ProgramDoc>, ApiError> {
    let Query(q) = query?;
    let seen = app.manager.inspect(&q.agent, q.program.as_deref(), q.path.as_deref()).await?;
    let i = &seen.inspected;
    let file =
        |f: &crate::process::ProgramFile| AttestedFile { path: f.path.display().to_string(), digest: f.digest.clone(), bytes: f.id.size };
    Ok(Json(ProgramDoc {
        agent: q.agent,
        program: i.program.display().to_string(),
        kind: i.kind.as_str().to_owned(),
        digest: i.digest(),
        files: i.files.iter().map(file).collect(),
        covers: i.covers(),
        recipe: seen.recipe,
        attested: seen.why_not.is_none(),
        why_not: seen.why_not,
        attestation: seen.newest.map(doc),
    }))
}

/// Newest last.
pub async fn list(
    State(app): State<App>,
    query: Result<Query<AttestationsQuery>, QueryRejection>,
) -> Result<Json<Page<AttestationDoc>>, ApiError> {
    let Query(q) = query?;
    Ok(Json(Page { items: app.manager.attestations(q.agent.as_deref()).into_iter().map(doc).collect(), next: None }))
}

pub async fn add(
    State(app): State<App>,
    asking: Asking,
    body: Result<Json<AttestationRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<AttestationDoc>), Refusal> {
    let Json(r) = body?;
    // why not of one that failed: it only takes trust away.
    let failed = r.checks.iter().any(|c| c.result == CheckResult::Failed);
    let actor = if failed { asking.actor() } else { asking.confirmed(&app, Need::Configured, attesting(&r)).await? };
    let request = AttestRequest {
        agent: r.agent,
        program: r.program,
        path: r.path,
        digest: r.digest,
        version: r.version,
        beadle_version: r.beadle_version,
        recipe: r.recipe,
        checks: r.checks,
        duration_ms: r.duration_ms,
    };
    Ok((StatusCode::CREATED, Json(doc(app.manager.attest(request, actor).await?))))
}

/// Every part of what is put on record.
fn attesting(r: &AttestationRequest) -> Subject {
    let whole = serde_json::to_vec(r).unwrap_or_default();
    let passed = r.checks.iter().filter(|c| c.result == CheckResult::Ok).count();
    Subject::new("attest an agent's program")
        .with("agent", &r.agent)
        .with("program", &r.program)
        .with("digest", &r.digest)
        .with("checks that passed", passed.to_string())
        .with("request", blake3::hash(&whole).to_hex().to_string())
}

fn doc(a: Attested) -> AttestationDoc {
    let passed = a.attestation.passed();
    let t = a.attestation;
    AttestationDoc {
        agent: t.agent,
        program: t.program,
        kind: t.program_kind,
        digest: t.digest,
        files: t.files,
        version: t.version,
        beadle_version: t.beadle_version,
        recipe: t.recipe,
        passed,
        checks: t.checks,
        duration_ms: t.duration_ms,
        at: format_ms(a.at),
        by: t.by,
    }
}
