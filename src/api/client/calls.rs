//! One function a route.

use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use hyper::{Response, header::HeaderMap};

use super::super::types::{
    AccountDoc, AccountQuery, ApprovalAnswer, ApprovalDetailDoc, ApprovalDoc, ApprovalsQuery, AttemptsDoc, AttemptsQuery, AttestationDoc,
    AttestationRequest, AttestationsQuery, CheckpointDoc, CheckpointRequest, CompactDoc, CompactRequestDoc, ComponentDoc, ENDED_HEADER,
    EventDoc, EventsQuery, HookedRequest, HooksDoc, HostDoc, HostToolDoc, HostToolRequest, HostToolsDoc, KeptLogsQuery, KeptProgramDoc,
    LedgerDoc, LedgerQuery, LogsQuery, NEXT_HEADER, OFFSET_HEADER, OperatorDoc, OperatorKeyDoc, OperatorKeyRequest, Page, PauseRequest,
    PluginActRequest, PluginAddRequest, PluginDoc, PluginLogDoc, PluginLogsQuery, PluginLookDoc, PluginLookRequest, ProcessDoc, ProgramDoc,
    ProgramQuery, ReloadDoc, ReloadLookDoc, ReloadRequest, RemoveQuery, ResumeRequest, RollbackDoc, RollbackRequest, RuleDoc, RuleRequest,
    RulesQuery, RunRequest, SendRequest, SessionDetailDoc, SessionDoc, SessionsQuery, StatsDoc, StatsQuery, StopRequest, ToolsDoc,
    ToolsQuery, TrustDoc, TrustRequest, VerifyDoc, VerifyRequest, WAIT_MAX_MS, WaitQuery, WriteRequest, WroteDoc,
};
use super::stream::{RECONNECT_DEADLINE, RECONNECT_PAUSE};
use super::{Client, Error, Result, collect, escape, query};
use crate::model::Status;

/// A piece of an agent's output.
#[derive(Debug, Clone)]
pub struct LogChunk {
    /// Of the first byte; larger than asked for when older output was rotated away.
    pub offset: u64,
    /// To read on from.
    pub next: u64,
    /// Nothing will follow.
    pub ended: bool,
    pub bytes: Bytes,
}

impl Client {
    pub async fn run(&self, request: &RunRequest) -> Result<SessionDoc> {
        self.post("/v1/sessions", request).await
    }

    pub async fn sessions(&self, wanted: &SessionsQuery) -> Result<Page<SessionDoc>> {
        self.get(&format!("/v1/sessions{}", query(wanted)?)).await
    }

    pub async fn session(&self, id: &str) -> Result<SessionDoc> {
        self.get(&session_path(id, "")).await
    }

    /// The same with what lies around it.
    pub async fn session_detail(&self, id: &str) -> Result<SessionDetailDoc> {
        self.get(&session_path(id, "")).await
    }

    pub async fn remove(&self, id: &str, force: bool) -> Result<SessionDoc> {
        let path = format!("{}{}", session_path(id, ""), query(&RemoveQuery { force })?);
        self.call(Method::DELETE, &path, Bytes::new()).await
    }

    pub async fn send_prompt(&self, id: &str, prompt: &str) -> Result<SessionDoc> {
        self.post(&session_path(id, "/prompts"), &SendRequest { prompt: prompt.to_owned() }).await
    }

    pub async fn compact(&self, id: &str, request: &CompactRequestDoc) -> Result<CompactDoc> {
        self.post(&session_path(id, "/compact"), request).await
    }

    pub async fn stop(&self, id: &str, request: StopRequest) -> Result<SessionDoc> {
        self.post(&session_path(id, "/stop"), &request).await
    }

    pub async fn pause(&self, id: &str, request: &PauseRequest) -> Result<SessionDoc> {
        self.post(&session_path(id, "/pause"), request).await
    }

    pub async fn resume(&self, id: &str) -> Result<SessionDoc> {
        self.post(&session_path(id, "/resume"), &ResumeRequest {}).await
    }

    pub async fn events(&self, id: &str, wanted: &EventsQuery) -> Result<Page<EventDoc>> {
        self.get(&format!("{}{}", session_path(id, "/events"), query(wanted)?)).await
    }

    pub async fn attempts(&self, id: &str, wanted: AttemptsQuery) -> Result<AttemptsDoc> {
        self.get(&format!("{}{}", session_path(id, "/attempts"), query(&wanted)?)).await
    }

    pub async fn checkpoint(&self, id: &str) -> Result<CheckpointDoc> {
        self.post(&session_path(id, "/checkpoint"), &CheckpointRequest {}).await
    }

    pub async fn roll_back(&self, request: &RollbackRequest) -> Result<RollbackDoc> {
        self.post("/v1/rollback", request).await
    }

    pub async fn processes(&self, id: &str) -> Result<Page<ProcessDoc>> {
        self.get(&session_path(id, "/processes")).await
    }

    pub async fn logs(&self, id: &str, wanted: &LogsQuery) -> Result<LogChunk> {
        let path = format!("{}{}", session_path(id, "/logs"), query(wanted)?);
        let response = self.send(Method::GET, &path, Bytes::new(), None, None).await?;
        let headers = response.headers().clone();
        let bytes = collect(response.into_body()).await?;
        let offset = number(&headers, OFFSET_HEADER)?;
        let ended = headers.get(ENDED_HEADER).is_some_and(|v| v.as_bytes() == b"true");
        Ok(LogChunk { offset, next: number(&headers, NEXT_HEADER)?, ended, bytes })
    }

    /// Waits until the session has ended, or for `timeout`; the answer's status tells which. Outlives a restart of the daemon.
    pub async fn wait(&self, id: &str, timeout: Option<Duration>) -> Result<SessionDoc> {
        let begun = Instant::now();
        let mut id = id.to_owned();
        let (mut seen, mut lost_since) = (false, None);
        loop {
            let left = timeout.map_or(u64::MAX, |t| u64::try_from(t.saturating_sub(begun.elapsed()).as_millis()).unwrap_or(u64::MAX));
            let wanted = WaitQuery { timeout_ms: Some(left.min(WAIT_MAX_MS)) };
            let path = format!("{}{}", session_path(&id, "/wait"), query(&wanted)?);
            match self.get::<SessionDoc>(&path).await {
                Ok(doc) if doc.status == Status::Ended || left <= WAIT_MAX_MS => return Ok(doc),
                Ok(doc) => {
                    // The whole id from here on: a name may come to mean another session.
                    id = doc.id;
                    (seen, lost_since) = (true, None);
                }
                Err(Error::Broken(_) | Error::Unreachable { .. })
                    if seen && lost_since.get_or_insert_with(Instant::now).elapsed() < RECONNECT_DEADLINE =>
                {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes to a session that other programs write; safe to repeat where the writes have keys.
    pub async fn write(&self, request: &WriteRequest) -> Result<WroteDoc> {
        self.post("/v1/writes", request).await
    }

    pub async fn account(&self, id: &str, wanted: &AccountQuery) -> Result<AccountDoc> {
        self.get(&format!("{}{}", session_path(id, "/account"), query(wanted)?)).await
    }

    pub async fn verify(&self, request: &VerifyRequest) -> Result<VerifyDoc> {
        self.post("/v1/verify", request).await
    }

    /// Copies the session's log, one JSON event a line, to `out`.
    pub async fn export(&self, id: &str, out: &mut dyn Write) -> Result<()> {
        self.copy(&session_path(id, "/export"), out).await
    }

    /// Copies the agent's record as it was before a compaction, named by its event, to `out`.
    pub async fn original(&self, id: &str, seq: u64, out: &mut dyn Write) -> Result<()> {
        self.copy(&session_path(id, &format!("/compactions/{seq}/original")), out).await
    }

    pub(super) async fn copy(&self, path: &str, out: &mut dyn Write) -> Result<()> {
        let response: Response<Incoming> = self.send(Method::GET, path, Bytes::new(), None, None).await?;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Error::Broken(format!("the answer is not whole: {e}")))?;
            if let Some(data) = frame.data_ref() {
                out.write_all(data).map_err(Error::Output)?;
            }
        }
        out.flush().map_err(Error::Output)
    }

    pub async fn plugin_logs(&self, id: &str, policy: Option<&str>) -> Result<Page<PluginLogDoc>> {
        let path = format!("{}{}", session_path(id, "/plugin-logs"), query(&PluginLogsQuery { policy: policy.map(str::to_owned) })?);
        self.get(&path).await
    }

    /// What is kept of a plugin's log behind a number.
    pub async fn kept_plugin_logs(&self, name: &str, after: u64, limit: Option<u64>) -> Result<PluginLogDoc> {
        self.get(&format!("/v1/plugins/{}/logs{}", escape(name), query(&KeptLogsQuery { after: Some(after), limit })?)).await
    }

    pub async fn rules(&self, session: Option<&str>) -> Result<Page<RuleDoc>> {
        self.get(&format!("/v1/rules{}", query(&RulesQuery { session: session.map(str::to_owned) })?)).await
    }

    pub async fn add_rule(&self, request: &RuleRequest) -> Result<RuleDoc> {
        self.post("/v1/rules", request).await
    }

    pub async fn revoke_rule(&self, id: &str) -> Result<RuleDoc> {
        self.call(Method::DELETE, &format!("/v1/rules/{}", escape(id)), Bytes::new()).await
    }

    pub async fn approvals(&self, wanted: &ApprovalsQuery) -> Result<Page<ApprovalDoc>> {
        self.get(&format!("/v1/approvals{}", query(wanted)?)).await
    }

    /// `session` is an id, a unique prefix of one, or a name.
    pub async fn approval(&self, session: &str, call: u64) -> Result<ApprovalDetailDoc> {
        self.get(&format!("/v1/approvals/{}/{call}", escape(session))).await
    }

    pub async fn answer(&self, session: &str, call: u64, answer: &ApprovalAnswer) -> Result<ApprovalDoc> {
        self.post(&format!("/v1/approvals/{}/{call}", escape(session)), answer).await
    }

    pub async fn operator(&self) -> Result<OperatorDoc> {
        self.get("/v1/operator").await
    }

    pub async fn add_operator_key(&self, request: &OperatorKeyRequest) -> Result<OperatorKeyDoc> {
        self.post("/v1/operator/keys", request).await
    }

    pub async fn remove_operator_key(&self, name: &str) -> Result<OperatorKeyDoc> {
        self.call(Method::DELETE, &format!("/v1/operator/keys/{}", escape(name)), Bytes::new()).await
    }

    /// Tells what an agent's hook was given; the answer is of no use to who calls this.
    pub async fn hook(&self, agent: &str, payload: Bytes) -> Result<()> {
        self.send(Method::POST, &format!("/v1/hooks/{}", escape(agent)), payload, None, None).await.map(drop)
    }

    /// Whose tools a server of this process's serves.
    pub async fn host_tools(&self) -> Result<HostToolsDoc> {
        self.get("/v1/host-tools").await
    }

    pub async fn host_tool(&self, request: &HostToolRequest) -> Result<HostToolDoc> {
        self.post("/v1/host-tools", request).await
    }

    pub async fn hooks(&self) -> Result<HooksDoc> {
        self.get("/v1/hooks").await
    }

    pub async fn set_hooked(&self, request: &HookedRequest) -> Result<HooksDoc> {
        self.post("/v1/hooks", request).await
    }

    pub async fn host(&self) -> Result<HostDoc> {
        self.get("/v1/host").await
    }

    pub async fn reload(&self, request: &ReloadRequest) -> Result<ReloadDoc> {
        self.post("/v1/host/reload", request).await
    }

    pub async fn look_at_reload(&self) -> Result<ReloadLookDoc> {
        self.call(Method::POST, "/v1/host/reload/look", Bytes::new()).await
    }

    pub async fn shutdown(&self) -> Result<HostDoc> {
        self.call(Method::POST, "/v1/host/shutdown", Bytes::new()).await
    }

    pub async fn keep_program(&self) -> Result<KeptProgramDoc> {
        self.call(Method::POST, "/v1/host/keep", Bytes::new()).await
    }

    /// Hands a component over; nothing is installed by it.
    pub async fn stage_plugin(&self, wasm: Bytes) -> Result<ComponentDoc> {
        self.call(Method::POST, "/v1/plugin-files", wasm).await
    }

    pub async fn look_at_plugin(&self, request: &PluginLookRequest) -> Result<PluginLookDoc> {
        self.post("/v1/plugins/look", request).await
    }

    pub async fn plugins(&self) -> Result<Page<PluginDoc>> {
        self.get("/v1/plugins").await
    }

    pub async fn plugin(&self, name: &str) -> Result<PluginDoc> {
        self.get(&format!("/v1/plugins/{}", escape(name))).await
    }

    pub async fn add_plugin(&self, request: &PluginAddRequest) -> Result<PluginDoc> {
        self.post("/v1/plugins", request).await
    }

    pub async fn change_plugin(&self, name: &str, request: &PluginActRequest) -> Result<PluginDoc> {
        self.post(&format!("/v1/plugins/{}", escape(name)), request).await
    }

    pub async fn remove_plugin(&self, name: &str) -> Result<PluginDoc> {
        self.call(Method::DELETE, &format!("/v1/plugins/{}", escape(name)), Bytes::new()).await
    }

    pub async fn program(&self, wanted: &ProgramQuery) -> Result<ProgramDoc> {
        self.get(&format!("/v1/programs{}", query(wanted)?)).await
    }

    pub async fn attestations(&self, agent: Option<&str>) -> Result<Page<AttestationDoc>> {
        self.get(&format!("/v1/attestations{}", query(&AttestationsQuery { agent: agent.map(str::to_owned) })?)).await
    }

    pub async fn attest(&self, request: &AttestationRequest) -> Result<AttestationDoc> {
        self.post("/v1/attestations", request).await
    }

    pub async fn stats(&self, wanted: &StatsQuery) -> Result<StatsDoc> {
        self.get(&format!("/v1/stats{}", query(wanted)?)).await
    }

    pub async fn ledger(&self, wanted: &LedgerQuery) -> Result<LedgerDoc> {
        self.get(&format!("/v1/ledger{}", query(wanted)?)).await
    }

    pub async fn tools(&self, wanted: &ToolsQuery) -> Result<ToolsDoc> {
        self.get(&format!("/v1/ledger/tools{}", query(wanted)?)).await
    }

    pub async fn trusted(&self) -> Result<Page<TrustDoc>> {
        self.get("/v1/trust").await
    }

    pub async fn trust(&self, request: &TrustRequest) -> Result<TrustDoc> {
        self.post("/v1/trust", request).await
    }
}

fn session_path(id: &str, rest: &str) -> String {
    format!("/v1/sessions/{}{rest}", escape(id))
}

fn number(headers: &HeaderMap, name: &str) -> Result<u64> {
    let value = headers.get(name).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    value.ok_or_else(|| Error::NotUnderstood(format!("logs without a number in the header {name}")))
}
