//! Bodies and queries.

#[path = "../../../../src/api/types/account.rs"]
mod account;
#[path = "../../../../src/api/types/approval.rs"]
mod approval;
#[path = "../../../../src/api/types/attestation.rs"]
mod attestation;
#[path = "../../../../src/api/types/brief.rs"]
mod brief;
#[path = "../../../../src/api/types/hook.rs"]
mod hook;
#[path = "../../../../src/api/types/host.rs"]
mod host;
#[path = "../../../../src/api/types/keep.rs"]
mod keep;
#[path = "../../../../src/api/types/list.rs"]
mod list;
#[path = "../../../../src/api/types/operator.rs"]
mod operator;
#[path = "../../../../src/api/types/pause.rs"]
mod pause;
#[path = "../../../../src/api/types/queue.rs"]
mod queue;
#[path = "../../../../src/api/types/record.rs"]
mod record;
#[path = "../../../../src/api/types/session.rs"]
mod session;
#[path = "../../../../src/api/types/stats.rs"]
mod stats;

pub use account::*;
pub use approval::*;
pub use attestation::*;
pub use brief::*;
pub use hook::*;
pub use host::*;
pub use keep::*;
pub use list::*;
pub use operator::*;
pub use pause::*;
pub use queue::*;
pub use record::*;
pub use session::*;
pub use stats::*;

/// As in the host: the longest answer that a client reads.
pub const ANSWER_MAX: usize = 128 << 20;

/// As in the host: the body of an error.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    pub code: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
