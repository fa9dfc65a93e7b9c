//! Bodies and queries.

#[path = "../../../../src/api/types/approval.rs"]
mod approval;
#[path = "../../../../src/api/types/attestation.rs"]
mod attestation;
#[path = "../../../../src/api/types/host.rs"]
mod host;
#[path = "../../../../src/api/types/record.rs"]
mod record;
#[path = "../../../../src/api/types/session.rs"]
mod session;

pub use approval::*;
pub use attestation::*;
pub use host::*;
pub use record::*;
pub use session::*;

/// As in the host: the longest answer that a client reads.
pub const ANSWER_MAX: usize = 64 << 20;
