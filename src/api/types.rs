//! Wire types of the HTTP API, and its routes. JSON over a unix socket, all under `/v1`.
//!
//! | method and path | query or body | answer |
//! | --- | --- | --- |
//! | `POST /v1/sessions` | [`RunRequest`] | 201 [`SessionDoc`], once the agent process runs, or it is in the queue |
//! | `GET /v1/sessions` | [`SessionsQuery`] | [`Page`]`<`[`SessionDoc`]`>`, newest first unless asked for otherwise |
//! | `GET /v1/sessions/{id}` | | [`SessionDetailDoc`] |
//! | `DELETE /v1/sessions/{id}` | [`RemoveQuery`] | [`SessionDoc`] as it was last |
//! | `POST /v1/sessions/{id}/prompts` | [`SendRequest`] | 202 [`SessionDoc`], once the prompt is durable |
//! | `POST /v1/sessions/{id}/compact` | [`CompactRequestDoc`] | [`CompactDoc`]: 200 of a dry run, else 202 once `compaction_began` is durable |
//! | `GET /v1/sessions/{id}/compactions/{seq}/original` | | `application/x-ndjson`: the agent's record before the compaction that event `seq` tells of |
//! | `POST /v1/sessions/{id}/stop` | [`StopRequest`] | 202 [`SessionDoc`], once `session_stopping` is durable |
//! | `GET /v1/sessions/{id}/events` | [`EventsQuery`] | [`Page`]`<`[`EventDoc`]`>`, or SSE when `Accept: text/event-stream` |
//! | `GET /v1/events` | [`EventsQuery`] | SSE over all sessions |
//! | `GET /v1/sessions/{id}/processes` | | [`Page`]`<`[`ProcessDoc`]`>`, parents before children |
//! | `GET /v1/sessions/{id}/account` | [`AccountQuery`] | [`AccountDoc`]: decisions joined with effects |
//! | `GET /v1/sessions/{id}/attempts` | [`AttemptsQuery`] | [`AttemptsDoc`]: every attempt, and sums by agent, phase and session |
//! | `POST /v1/sessions/{id}/checkpoint` | [`CheckpointRequest`] | 201 [`CheckpointDoc`]: its worktree as a commit |
//! | `POST /v1/rollback` | [`RollbackRequest`] | [`RollbackDoc`]: attempts of ended sessions, marked all or none |
//! | `GET /v1/sessions/{id}/logs` | [`LogsQuery`] | octets with the headers [`OFFSET_HEADER`], [`NEXT_HEADER`], [`ENDED_HEADER`] |
//! | `GET /v1/sessions/{id}/plugin-logs` | [`PluginLogsQuery`] | [`Page`]`<`[`PluginLogDoc`]`>` of a live session's chain, in its order |
//! | `POST /v1/sessions/{id}/pause` | [`PauseRequest`] | [`SessionDoc`], paused |
//! | `POST /v1/sessions/{id}/resume` | [`ResumeRequest`] | [`SessionDoc`], running |
//! | `GET /v1/sessions/{id}/tree` | | [`TreeDoc`]: the session with all below it, and what they used together |
//! | `POST /v1/sessions/{id}/tree` | [`TreeActRequest`] | 202 [`TreeActDoc`], once all were told |
//! | `POST /v1/sessions/{id}/branches` | [`BranchRequestDoc`] | 201 [`SessionDoc`] of the new session, once its agent process runs |
//! | `POST /v1/sessions/{id}/handoffs` | [`HandOffRequest`] | [`SessionDoc`], once it is durable |
//! | `GET /v1/sessions/{id}/tasks` | | [`Page`]`<`[`TaskDoc`]`>`, in the order in which they came |
//! | `POST /v1/sessions/{id}/tasks` | [`TaskRequest`] | 201 [`TaskDoc`] |
//! | `POST /v1/sessions/{id}/tasks/{task}` | [`TaskRequest`] | [`TaskDoc`] as it then is |
//! | `GET /v1/sessions/{id}/context` | | [`Page`]`<`[`ContextProviderDoc`]`>`, in the order in which they were added |
//! | `POST /v1/sessions/{id}/context` | [`ContextRequest`] | 201, all as they then are; asked from the next prompt on |
//! | `DELETE /v1/sessions/{id}/context/{name}` | | all that are left |
//! | `GET /v1/sessions/{id}/wait` | [`WaitQuery`] | [`SessionDoc`] when it has ended or the time is over, at most 30 s: repeat |
//! | `GET /v1/sessions/{id}/verify` | | [`VerifyDoc`] |
//! | `GET /v1/sessions/{id}/export` | | `application/x-ndjson`, one event a line with its hash fields |
//! | `GET /v1/sessions/{id}/transcripts` | | [`Page`]`<`[`TranscriptDoc`]`>`: the agent's own records, kept at the end of each attempt |
//! | `GET /v1/sessions/{id}/transcript` | [`TranscriptQuery`] | `application/x-ndjson`: one of them |
//! | `POST /v1/sessions/{id}/archive` | [`ArchiveRequest`] | [`ArchiveDoc`], once the events are in the file and out of the database |
//! | `POST /v1/sessions/{id}/archive/restore` | | [`Page`]`<`[`ArchiveDoc`]`>`: what is back in the database |
//! | `POST /v1/archives` | [`ArchivesRequest`] | [`Page`]`<`[`ArchiveDoc`]`>`, one a session |
//! | `POST /v1/sessions/{id}/redact` | [`RedactRequest`] | [`RedactDoc`], once nothing of it is left |
//! | `GET /v1/verify` | | [`VerifyDoc`] of the whole store |
//! | `POST /v1/verify` | [`VerifyRequest`] | [`VerifyDoc`] |
//! | `POST /v1/writes` | [`WriteRequest`], at most [`WRITE_BODY_MAX`] | 201 [`WroteDoc`], once it is durable; 200 where it was in the log already |
//! | `GET /v1/queue` | | [`QueueDoc`]: each lane in numbers |
//! | `POST /v1/queue` | [`LaneRequest`] | [`QueueDoc`], once it is durable |
//! | `GET /v1/queue/sessions` | [`QueueQuery`] | [`Page`]`<`[`QueuedDoc`]`>`: at most 1,000, in the order of their lanes and places |
//! | `POST /v1/queue/sessions/{id}` | [`QueueMoveRequest`] | [`SessionDoc`], waiting |
//! | `DELETE /v1/queue/sessions/{id}` | | [`SessionDoc`], ended as stopped; its log stays |
//! | `GET /v1/queue/dead` | [`QueueQuery`] | [`Page`]`<`[`SessionDoc`]`>`, newest first, among the newest 10,000 that ended badly |
//! | `POST /v1/queue/dead/{id}` | | 201 [`SessionDoc`]: a new session with the same request |
//! | `POST /v1/queue/leases` | [`LeaseRequest`] | [`LeaseDoc`], once the lease is durable |
//! | `POST /v1/queue/leases/{id}` | [`LeaseWord`] | [`SessionDoc`]; 409 when the lease is over |
//! | `GET /v1/memory` | [`MemoryQuery`] | [`Page`]`<`[`MemoryDoc`]`>`: with `q` the best first, else the newest |
//! | `POST /v1/memory` | [`MemoryAddRequest`] | 201 [`MemoryDoc`], once it is durable |
//! | `DELETE /v1/memory/{id}` | | [`MemoryDoc`] as it was |
//! | `GET /v1/rules` | [`RulesQuery`] | [`Page`]`<`[`RuleDoc`]`>` |
//! | `POST /v1/rules` | [`RuleRequest`] | 201 [`RuleDoc`] |
//! | `DELETE /v1/rules/{id}` | | [`RuleDoc`] |
//! | `GET /v1/approvals` | [`ApprovalsQuery`] | [`Page`]`<`[`ApprovalDoc`]`>`, or SSE when `Accept: text/event-stream` |
//! | `GET /v1/approvals/{session}/{call}` | | [`ApprovalDetailDoc`] |
//! | `POST /v1/approvals/{session}/{call}` | [`ApprovalAnswer`] | [`ApprovalDoc`]; 409 when it was answered before |
//! | `POST /v1/hooks/{agent}` | what the agent's hook was given | 200 with [`EXIT_HEADER`] and the hook's output, or 202: post it again |
//! | `GET /v1/host-tools` | | [`HostToolsDoc`], to a process of the session |
//! | `POST /v1/host-tools` | [`HostToolRequest`] | [`HostToolDoc`], to a process of the session, once it is durable |
//! | `GET /v1/hooks` | | [`HooksDoc`] |
//! | `POST /v1/hooks` | [`HookedRequest`] | [`HooksDoc`] |
//! | `GET /v1/host` | | [`HostDoc`] |
//! | `POST /v1/host/keep` | | 201 [`KeptProgramDoc`]: a copy of its executable, to go back to |
//! | `POST /v1/host/shutdown` | | 202 [`HostDoc`]; sessions go on, the daemon ends |
//! | `POST /v1/host/reload` | [`ReloadRequest`], or nothing | [`ReloadDoc`]; where it is refused (422 broken, 409 looser and not accepted), nothing has changed |
//! | `POST /v1/host/reload/look` | | [`ReloadLookDoc`]: what that would do to recorded calls |
//! | `POST /v1/host/gc` | [`CollectRequestDoc`] | [`CollectDoc`]: what went, or would |
//! | `POST /v1/host/backup` | [`BackupRequest`] | [`BackupDoc`], once all of it is on disk |
//! | `POST /v1/plugin-files` | a component, at most [`COMPONENT_MAX`] | 201 [`ComponentDoc`], once it is durable; nothing is installed by it |
//! | `POST /v1/plugins/look` | [`PluginLookRequest`] | [`PluginLookDoc`]: what the component is, what it asks for |
//! | `GET /v1/plugins` | | [`Page`]`<`[`PluginDoc`]`>` |
//! | `POST /v1/plugins` | [`PluginAddRequest`] | 201 [`PluginDoc`] |
//! | `GET /v1/plugins/{name}` | | [`PluginDoc`] |
//! | `GET /v1/plugins/{name}/logs` | [`KeptLogsQuery`] | [`PluginLogDoc`]: the newest lines of a plugin, over all sessions, ended ones too |
//! | `POST /v1/plugins/{name}` | [`PluginActRequest`] | [`PluginDoc`] as it then is |
//! | `DELETE /v1/plugins/{name}` | | [`PluginDoc`] as it was last |
//! | `GET /v1/programs` | [`ProgramQuery`] | [`ProgramDoc`]: what would run, and whether it is attested |
//! | `GET /v1/attestations` | [`AttestationsQuery`] | [`Page`]`<`[`AttestationDoc`]`>`, newest last |
//! | `POST /v1/attestations` | [`AttestationRequest`] | 201 [`AttestationDoc`] |
//! | `GET /v1/trust` | | [`Page`]`<`[`TrustDoc`]`>` |
//! | `POST /v1/trust` | [`TrustRequest`] | 201 [`TrustDoc`] |
//! | `GET /v1/sinks` | | [`SinksDoc`] |
//! | `GET /v1/sinks/{name}/dead-letters` | [`DeadLettersQuery`] | [`Page`]`<`[`DeadLetterDoc`]`>`, oldest first |
//! | `POST /v1/sinks/{name}/retry` | [`SinkRetryRequest`] | [`SinkRetryDoc`] |
//! | `POST /v1/sinks/{name}/skip` | [`SinkSkipRequest`] | [`SinkSkipDoc`] |
//! | `GET /v1/ledger` | [`LedgerQuery`] | [`LedgerDoc`]: model calls, grouped |
//! | `GET /v1/ledger/tools` | [`ToolsQuery`] | [`ToolsDoc`]: tool calls, by tool |
//! | `GET /v1/stats` | [`StatsQuery`] | [`StatsDoc`] |
//! | `GET /metrics` | | numbers in the text form of Prometheus (OpenMetrics) |
//! | `GET /v1/operator` | | [`OperatorDoc`] |
//! | `POST /v1/operator/keys` | [`OperatorKeyRequest`] | 201 [`OperatorKeyDoc`] |
//! | `DELETE /v1/operator/keys/{name}` | | [`OperatorKeyDoc`] |
//! | `GET /healthz` | | 200 `ok` |
//!
//! `{id}` is a session id, a unique prefix of one, or a name. Every other answer is a [`Problem`] with a fitting status:
//! 400 malformed, 403 role, 404 not found, 409 wrong state or ambiguous, 413 too large, 422 refused value, 5xx the host's own fault.
//!
//! What loosens something may be answered 428 with a [`ChallengeDoc`]: the same request, with the answer in the header
//! [`CONFIRM_HEADER`], is then let through.
//!
//! **SSE.** One event a message: `id:` is an opaque cursor (of one session: the seq), `event: event`, `data:` an [`EventDoc`].
//! `Last-Event-ID` resumes after it, over a restart of the daemon too. `event: missed` with a [`MissedDoc`] tells of events that are not given
//! (its `id:` is the place behind them). A comment every 15 s keeps the link alive. After the last event of an ended session comes
//! `event: end` with its [`SessionDoc`], then the stream closes; `event: problem` with a [`Problem`] closes it too.
//! `attach=answer` marks the reader as a terminal that can answer approvals while it is connected; any operator may answer without it.
//!
//! The stream of approvals has an [`ApprovalDoc`] a message, `event: approval`, as it then is: first those that wait (without `id:`), then
//! `event: ready`, then each change; resumed by `Last-Event-ID` it has the changes since.
//!
//! Invariants: requests refuse unknown fields, answers may grow; model types are turned into documents here; times are
//! RFC 3339 in UTC with milliseconds. Called by the server and by `client`.

use serde::{Deserialize, Serialize};

mod account;
mod approval;
mod attempt;
mod attestation;
mod brief;
mod collect;
mod compaction;
mod context;
mod detail;
mod hook;
mod host;
mod host_tool;
mod keep;
mod ledger;
mod list;
mod memory;
mod operator;
mod pause;
mod plugin;
mod plugin_log;
mod queue;
mod record;
mod session;
mod sink;
mod stats;
mod tree;
mod written;

pub use account::*;
pub use approval::*;
pub use attempt::*;
pub use attestation::*;
pub use brief::*;
pub use collect::*;
pub use compaction::*;
pub use context::*;
pub use detail::*;
pub use hook::*;
pub use host::*;
pub use host_tool::*;
pub use keep::*;
pub use ledger::*;
pub use list::*;
pub use memory::*;
pub use operator::*;
pub use pause::*;
pub use plugin::*;
pub use plugin_log::*;
pub use queue::*;
pub use record::*;
pub use session::*;
pub use sink::*;
pub use stats::*;
pub use tree::*;
pub use written::*;

/// Largest request body in bytes.
pub const REQUEST_MAX: usize = 4 << 20;
/// Largest JSON answer in bytes that the client reads.
pub const ANSWER_MAX: usize = 128 << 20;
/// Longest prompt in bytes.
pub const PROMPT_MAX: usize = 1 << 20;
/// Most items of a page; also cut where the page's bodies pass [`PAGE_BYTES`] (at least one item is given).
pub const PAGE_MAX: usize = 1000;
/// Items of a page when no limit is given.
pub const PAGE_DEFAULT: usize = 50;
/// Bytes of event bodies after which a page is cut.
pub const PAGE_BYTES: usize = 8 << 20;
/// Most bytes of one logs answer.
pub const LOGS_MAX: usize = 1 << 20;
/// Longest wait of one long poll, in milliseconds.
pub const WAIT_MAX_MS: u64 = 30_000;
/// Most labels of a session.
pub const LABELS_MAX: usize = 32;
/// Most environment variables that travel with `run`.
pub const ENV_MAX: usize = 1024;
/// Logs: offset of the first byte of the body in the stream.
pub const OFFSET_HEADER: &str = "beadle-offset";
/// Logs: offset to read on from.
pub const NEXT_HEADER: &str = "beadle-next";
/// Logs: `true` when the stream will not grow and the body reaches its end.
pub const ENDED_HEADER: &str = "beadle-ended";
/// Media type of a server-sent event stream.
pub const SSE_TYPE: &str = "text/event-stream";

/// A part of a list; `next` is given when there is more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Every error body: a stable code, what was wrong with which value, what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_exact_and_short() {
        for (nano, usd) in [(0, "0.00"), (22_987_500, "0.0229875"), (1_500_000_000, "1.50"), (1, "0.000000001")] {
            assert_eq!(Money::from(nano).usd, usd);
        }
    }

    #[test]
    fn requests_refuse_unknown_fields() {
        let e = serde_json::from_str::<RunRequest>(r#"{"agent":"claude","cwd":"/","sudo":true}"#).unwrap_err();
        assert!(e.to_string().contains("sudo"), "{e}");
    }

    #[test]
    fn an_event_keeps_its_body_byte_for_byte_on_the_wire() {
        let wire = r#"{"session":"s","seq":3,"at":"2026-01-01T00:00:00.000Z","attempt":1,"kind":"tool_started","body":{"call": 1.0e0},"hash":"ab"}"#;
        let doc: EventDoc = serde_json::from_str(wire).unwrap();
        assert_eq!(serde_json::to_string(&doc).unwrap(), wire);
        assert!(doc.event().is_err());
    }
}
