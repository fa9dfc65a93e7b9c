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
mod attestation;
mod call;
mod clock;
mod compaction;
mod decision;
mod delivery;
mod event;
pub mod grant;
mod id;
mod installed;
pub mod moment;
mod operator;
mod replay;
mod session;
mod text;
mod usage;

pub use approval::{Approval, ApprovalState, Approvals, Endorsement, Resolution};
pub use attestation::{Attestation, AttestedCheck, AttestedFile, CheckResult, REQUIRED_CHECKS, SessionProgram};
pub use call::{Access, Call, Channel, Command, Parse, PathUse, Redirect, ToolKind, Word};
pub use clock::{Clock, Entropy, OsEntropy, SystemClock, format_ms};
pub use compaction::{Budget, Edit, Entry, EntryKind, EntryRole, Piece, Rewrite, Span, Transcript};
pub use decision::{Answer, By, Decision, Effect, FailureCause, Mode, OnFailure, fold};
pub use delivery::{AuditHold, Delivery, Held, SinkEvent};
pub use event::*;
pub use grant::{Grant, GrantError, Grants, Wants};
pub use id::{ApprovalId, IdError, RuleId, SessionId, slug};
pub use installed::{
    INSTALLED_CONFIG_MAX, INSTALLED_MAX, Installed, LOCK_FORMAT, POLICY_KIND, PluginAct, PluginLock, PluginVersion, VERSIONS_MAX, Wanted,
    is_plugin_name,
};
pub use moment::{Moment, Verdict};
pub use operator::{KeyDerivation, OPERATOR_NAME_MAX, OperatorKey, Subject, is_operator_name};
pub use replay::{REPLAY_LIMITS, Replay, ReplayChange};
pub use session::{Mediation, Outcome, Session, Status, TransitionError};
pub use text::{acts_on_terminal, printable, printable_lines};
pub use usage::{Nanousd, Price, PriceTable, Usage};
