//! What can go wrong in the store, each with a stable code, the value and the next step.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{BodyError, SessionId, TransitionError};

use super::chain::Hash;

/// Short form of the module's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store did not do what was asked. Unless the text says otherwise nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "data folder {path}: cannot {doing}: {source}; check that the folder exists and is yours to write, or set BEADLE_HOME to another one"
    )]
    Folder { path: PathBuf, doing: &'static str, source: io::Error },
    #[error("data folder {path} is on {kind}, where locks and shared memory do not hold; set BEADLE_HOME to a folder on a local disk")]
    NetworkFolder { path: PathBuf, kind: &'static str },
    #[error("data folder {path} is in use by process {holder}; stop it with `beadle host stop`, or set BEADLE_HOME to another folder")]
    InUse { path: PathBuf, holder: String },
    #[error("database {path} has schema {found}, newer than {known} which this version knows; use the newer beadle that wrote it")]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error("database {path} must be upgraded, but its backup {backup} cannot be made: {detail}; nothing was changed")]
    Backup { path: PathBuf, backup: PathBuf, detail: String },
    #[error("file {path} is not a beadle database ({detail}); move it away or set BEADLE_HOME to another folder")]
    NotOurs { path: PathBuf, detail: String },
    #[error(
        "database {path} is missing, though the folder was used before ({trace} is there); restore it from a backup, or move the whole folder away to begin anew"
    )]
    DatabaseMissing { path: PathBuf, trace: PathBuf },
    #[error("the database is damaged while {doing}: {source}; stop the host, copy the data folder, and restore the newest backup")]
    Corrupt { doing: &'static str, source: Arc<rusqlite::Error> },
    #[error("no space is left while {doing}: {source}; free space on the data folder's disk, or remove old sessions with `beadle rm`")]
    Full { doing: &'static str, source: Arc<rusqlite::Error> },
    #[error("the data folder cannot be written while {doing}: {source}; remount it writable or set BEADLE_HOME to another folder")]
    ReadOnly { doing: &'static str, source: Arc<rusqlite::Error> },
    #[error(
        "the database failed while {doing}: {source}; whether this change survives is known after the host's next start; check the disk (`dmesg`)"
    )]
    Engine { doing: &'static str, source: Arc<rusqlite::Error> },
    #[error("session {session} is at seq {actual}, not {expected} as the append expected; read the newer events and decide again")]
    Conflict { session: SessionId, expected: u64, actual: u64 },
    #[error("no session {given:?}; `beadle ls` shows their ids and names")]
    NotFound { given: String },
    #[error("{given:?} fits {}{}; give more of the id", candidates.join(", "), if *.more { " and more" } else { "" })]
    Ambiguous { given: String, candidates: Vec<String>, more: bool },
    #[error("session {session} has no events; its log must begin with one session_created event, expected seq 0, and hold no second one")]
    BadBeginning { session: SessionId },
    #[error("{what} of {len} bytes or items is over the limit of {cap}; make it smaller, or store it as a blob")]
    TooLarge { what: &'static str, len: u64, cap: u64 },
    #[error(
        "frame {got} of session {session}, attempt {attempt}, is not the next one ({want}); frames are numbered gapless from 1 in each attempt, and attempts only go up"
    )]
    FrameOrder { session: SessionId, attempt: u32, got: u64, want: u64 },
    #[error("inbox cursor {got} of session {session}, attempt {attempt}, lies before {have}, which is stored; a cursor only moves forward")]
    CursorOrder { session: SessionId, attempt: u32, got: u64, have: u64 },
    #[error("the log of session {session} is damaged: {detail}; run `beadle verify {session}` for the place, then restore a backup")]
    Damaged { session: String, detail: String },
    #[error("session {session}, seq {seq}: {source}")]
    Body { session: String, seq: u64, source: BodyError },
    #[error("blob {digest} is missing or differs from its digest; run `beadle verify`, then restore the file from a backup")]
    Blob { digest: Hash },
    #[error("the store has {pending} changes waiting, its limit; the disk is slow or stuck; try again later")]
    Busy { pending: usize },
    #[error("the store is closed; start the host again")]
    Closed,
    #[error(
        "signing key {path} is not readable as 32 bytes; restore it from a backup, or remove the file: a new key is then made and the change is noted"
    )]
    Key { path: PathBuf },
    #[error("the checkpoint document is not valid: {detail}; use a file written by this host, unchanged")]
    Checkpoint { detail: String },
    #[error("cursor {given:?} is not one that a listing gave; leave it out to begin at the newest session")]
    BadCursor { given: String },
    #[error("there is no approval {id}; `beadle approvals --all` lists them")]
    NoApproval { id: String },
    #[error(
        "session {session} is not removed: {} {} not got all its events yet; see `beadle sink status`, and try again when they were delivered or skipped",
        if sinks.len() == 1 { "sink" } else { "sinks" }, format_args!("{} {}", sinks.join(", "), if sinks.len() == 1 { "has" } else { "have" })
    )]
    Undelivered { session: SessionId, sinks: Vec<String> },
    #[error(
        "archive {path} of session {session} {}: {detail}; {}",
        if *.missing { "is not there" } else { "is damaged" },
        if *.missing { "put the file back where it was" } else { "restore the file from a copy" }
    )]
    Archive { session: String, path: PathBuf, missing: bool, detail: String },
    #[error("nothing of session {session} is archived: {why}")]
    NothingToArchive { session: String, why: String },
    #[error(
        "nothing of session {session} is archived: {} {} not got those events yet; see `beadle sink status`, and try again when they were delivered or skipped",
        if sinks.len() == 1 { "sink" } else { "sinks" }, format_args!("{} {}", sinks.join(", "), if sinks.len() == 1 { "has" } else { "have" })
    )]
    NotArchived { session: String, sinks: Vec<String> },
    #[error("event {seq} of session {session} is not erased: {why}")]
    NotErased { session: String, seq: u64, why: String },
    #[error("backup {path}: {detail}; nothing was changed")]
    BadBackup { path: PathBuf, detail: String },
    #[error("data folder {path} is in use already; restore into another one (BEADLE_HOME), or say --replace: the old one is moved aside")]
    NotEmpty { path: PathBuf },
    #[error(
        "agents of {} session(s) still run in data folder {path} ({}): stop them first, or their processes would belong to nobody",
        sessions.len(), sessions.iter().take(5).cloned().collect::<Vec<_>>().join(", ")
    )]
    StillRunning { path: PathBuf, sessions: Vec<String> },
    #[error(
        "{} MiB are needed on the disk of {path} {what}, and {} MiB are free; make room there and try again; nothing was changed",
        needed.div_ceil(1 << 20), free >> 20
    )]
    NoRoom { path: PathBuf, needed: u64, free: u64, what: &'static str },
    #[error(
        "database {path} does not go back to schema {to}: {why}; nothing was changed. Its copy from before is {copy}: put that in its place by hand only to give up what was written since"
    )]
    NoWayBack { path: PathBuf, to: i64, copy: PathBuf, why: String },
    #[error("the append to session {session} breaks the order of its status: {source}")]
    Transition { session: SessionId, source: TransitionError },
    /// Within the store only: it came up when statements had run already, and is for its own caller.
    #[error(transparent)]
    Midway(Box<Error>),
    #[error(transparent)]
    Write(#[from] super::written::WriteRefusal),
    #[error("{given:?} is not a digest of 64 hexadecimal digits; copy it from the event")]
    BadDigest { given: String },
}

impl Error {
    /// The stable code that documentation and scripts use.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Folder { .. } => "BDL-STORE-001",
            Self::NetworkFolder { .. } => "BDL-STORE-002",
            Self::InUse { .. } => "BDL-STORE-003",
            Self::NewerSchema { .. } => "BDL-STORE-004",
            Self::NotOurs { .. } => "BDL-STORE-005",
            Self::DatabaseMissing { .. } => "BDL-STORE-006",
            Self::Corrupt { .. } => "BDL-STORE-007",
            Self::Full { .. } => "BDL-STORE-008",
            Self::ReadOnly { .. } => "BDL-STORE-009",
            Self::Engine { .. } => "BDL-STORE-010",
            Self::Conflict { .. } => "BDL-STORE-011",
            Self::NotFound { .. } => "BDL-STORE-012",
            Self::Ambiguous { .. } => "BDL-STORE-013",
            Self::BadBeginning { .. } => "BDL-STORE-014",
            Self::TooLarge { .. } => "BDL-STORE-015",
            Self::FrameOrder { .. } => "BDL-STORE-016",
            Self::CursorOrder { .. } => "BDL-STORE-017",
            Self::Damaged { .. } => "BDL-STORE-018",
            Self::Body { .. } => "BDL-STORE-019",
            Self::Blob { .. } => "BDL-STORE-020",
            Self::Busy { .. } => "BDL-STORE-021",
            Self::Closed => "BDL-STORE-022",
            Self::Key { .. } => "BDL-STORE-023",
            Self::Checkpoint { .. } => "BDL-STORE-024",
            Self::BadCursor { .. } => "BDL-STORE-025",
            Self::BadDigest { .. } => "BDL-STORE-026",
            Self::NoApproval { .. } => "BDL-STORE-027",
            Self::Backup { .. } => "BDL-STORE-028",
            Self::Undelivered { .. } => "BDL-STORE-029",
            Self::Transition { .. } => "BDL-STORE-030",
            Self::Archive { .. } => "BDL-STORE-040",
            Self::NothingToArchive { .. } => "BDL-STORE-041",
            Self::NotArchived { .. } => "BDL-STORE-042",
            Self::NotErased { .. } => "BDL-STORE-043",
            Self::BadBackup { .. } => "BDL-STORE-044",
            Self::NotEmpty { .. } => "BDL-STORE-045",
            Self::StillRunning { .. } => "BDL-STORE-046",
            Self::NoRoom { .. } => "BDL-STORE-047",
            Self::NoWayBack { .. } => "BDL-STORE-048",
            Self::Midway(e) => e.code(),
            Self::Write(w) => w.code(),
        }
    }

    /// Sorts an error of SQLite by what the operator can do about it.
    pub(super) fn sqlite(doing: &'static str, e: rusqlite::Error) -> Self {
        Self::shared(doing, Arc::new(e))
    }

    /// The same for an error that several callers get.
    pub(super) fn shared(doing: &'static str, source: Arc<rusqlite::Error>) -> Self {
        use rusqlite::ErrorCode as C;
        match source.sqlite_error_code() {
            Some(C::DatabaseCorrupt | C::NotADatabase) => Self::Corrupt { doing, source },
            Some(C::DiskFull) => Self::Full { doing, source },
            Some(C::ReadOnly | C::PermissionDenied) => Self::ReadOnly { doing, source },
            _ => Self::Engine { doing, source },
        }
    }
}

/// `?` with the words for what was being done.
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T>;
}

impl<T> Doing<T> for rusqlite::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|e| Error::sqlite(doing, e))
    }
}
