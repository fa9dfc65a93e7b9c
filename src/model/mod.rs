//! The vocabulary: plain data and pure functions that every floor shares.
//!
//! Invariants:
//! - imports nothing of ours and does no I/O; clock and randomness come in through [`Clock`] and [`Entropy`];
//! - a wire shape, once released, only grows; unknown event kinds survive a round trip;
//! - projections are folds over events: the same events always give the same [`Session`].
//!
//! Called by everyone.

pub mod account;
mod approval;
mod attempts;
mod attestation;
mod call;
mod clock;
mod compaction;
mod context;
mod decision;
mod delivery;
mod event;
pub mod grant;
mod id;
mod installed;
pub mod ledger;
pub mod limits;
mod listing;
mod memory;
pub mod moment;
mod operator;
mod plan;
mod price;
pub mod queue;
mod reconcile;
mod replay;
mod session;
mod sub_agent;
mod task;
mod text;
pub mod tool_ledger;
pub mod tree;
mod usage;
pub mod written;

/// Ends the name of a data folder that a restore has ready, beside the one whose place it takes.
pub const RESTORED: &str = ".restored";

pub use approval::{Approval, ApprovalState, Approvals, Endorsement, Resolution};
pub use attempts::{ATTEMPTS_MAX, Attempt, Attempts};
pub use attestation::{Attestation, AttestedCheck, AttestedFile, CheckResult, REQUIRED_CHECKS, SessionProgram};
pub use call::{Access, Call, Channel, Command, Parse, PathUse, Redirect, ToolKind, Word};
pub use clock::{Clock, Entropy, OsEntropy, Steady, SystemClock, format_ms};
pub use compaction::{Budget, Edit, Entry, EntryKind, EntryRole, Piece, Rewrite, Span, Transcript};
pub use context::{
    CONTEXT_BYTES, CONTEXT_BYTES_MAX, CONTEXT_HITS, CONTEXT_PROVIDERS_MAX, CONTEXT_TIMEOUT_MS, ContextAt, ContextError, ContextProvider,
    ContextSource, SessionContext,
};
pub use decision::{Answer, By, Decision, Effect, FailureCause, Mode, OnFailure, fold};
pub use delivery::{AuditHold, Delivery, Held, SinkEvent};
pub use event::*;
pub use grant::{Grant, GrantError, Grants, Wants};
pub use id::{ApprovalId, IdError, RuleId, SessionId, slug};
pub use installed::{
    INSTALLED_CONFIG_MAX, INSTALLED_MAX, Installed, LOCK_FORMAT, POLICY_KIND, PluginAct, PluginLock, PluginVersion, VERSIONS_MAX, Wanted,
    is_plugin_name,
};
pub use limits::{LimitKind, UsageLimits};
pub use listing::Sort;
pub use memory::{
    MEMORY_BYTES_MAX, MEMORY_HITS, MEMORY_HITS_MAX, MEMORY_QUERY_MAX, MEMORY_TEXT_MAX, Memory, MemoryChange, MemoryError, MemoryFilter,
    MemoryHit, MemorySize, MemoryTier, NAMESPACE_ENTRIES_MAX, NAMESPACE_MAX, check_memory, memory_id,
};
pub use moment::{Moment, Verdict};
pub use operator::{KeyDerivation, OPERATOR_NAME_MAX, OperatorKey, Subject, is_operator_name};
pub use plan::{AttemptPlan, BACKOFF_MAX_MS, Checkpointing, PlanTier, PlanVerifier, Restart, TIER_ATTEMPTS_MAX, TIERS_MAX, VERIFY_MAX_MS};
pub use price::{PriceError, PriceTable, PricesAt};
pub use queue::{BootTime, Dependency, Handler, Lease, NotBefore, QueueState};
pub use reconcile::Reconciliation;
pub use replay::{REPLAY_LIMITS, Replay, ReplayChange};
pub use session::check_text;
pub use session::{
    ALLOWED_TOOLS_MAX, Branch, Mediation, Origin, Outcome, Pause, Record, RecordError, Repository, Session, Status, TARGET_MAX, TEXT_MAX,
    TransitionError, UNASSIGNED, Writer, status_of,
};
pub use sub_agent::{SUB_AGENTS_MAX, SubAgent, SubAgents};
pub use task::{TASK_ID_MAX, TASK_NOTE_MAX, TASK_TITLE_MAX, TASKS_MAX, Task, TaskSource, TaskStatus, Tasks};
pub use text::{acts_on_terminal, printable, printable_lines};
pub use usage::{Nanousd, SIDECHAIN, TOKENS_MAX, UNATTRIBUTED, Usage, usd};
