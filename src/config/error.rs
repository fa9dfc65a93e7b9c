//! What can be wrong with configuration and folders.

use std::io;
use std::path::PathBuf;

/// Each message names place, key, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}:{line}: not TOML: {detail}; correct the line", path = .path.display())]
    Syntax { path: PathBuf, line: usize, detail: String },
    #[error("{path}:{line}: unknown key {key}; known here: {known}", path = .path.display())]
    UnknownKey { path: PathBuf, line: usize, key: String, known: String },
    #[error("{path}:{line}: {key} is {found}; expected {expected}", path = .path.display())]
    WrongValue { path: PathBuf, line: usize, key: String, found: String, expected: String },
    #[error("environment variable {name} is {found:?}; expected {expected}")]
    WrongVariable { name: String, found: String, expected: String },
    #[error("cannot read {path}: {source}; correct its permissions or move it away", path = .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} has over {max} bytes, or is not a regular file; a configuration is a small text file", path = .path.display())]
    NotAFile { path: PathBuf, max: u64 },
    #[error("{path} is not UTF-8 text; save it as UTF-8", path = .path.display())]
    NotText { path: PathBuf },
    #[error("{name} is {path}, which is not absolute; give the whole path", path = .path.display())]
    RelativeFolder { name: &'static str, path: PathBuf },
    #[error("there is no HOME and no BEADLE_HOME; set one to say where data may lie")]
    NoHome,
    #[error("cannot use {path}: {source}; make it writable for you, or choose another place with BEADLE_HOME", path = .path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} belongs to user {owner}, not to {uid}; choose another place with BEADLE_HOME", path = .path.display())]
    ForeignFolder { path: PathBuf, owner: u32, uid: u32 },
    #[error("socket path {path} is too long even through its folder; choose a shorter BEADLE_HOME", path = .path.display())]
    SocketTooLong { path: PathBuf },
    #[error("the embedded configuration has no usable {key}; this binary is damaged: install it again")]
    Embedded { key: String },
    #[error("{path}: {count} policies, over the limit of {max}; take some out", path = .path.display())]
    TooManyPolicies { path: PathBuf, count: usize, max: usize },
    #[error("price table {path}: {source}; correct the file, or move it away to use the built-in prices", path = .path.display())]
    Prices {
        path: PathBuf,
        #[source]
        source: crate::model::PriceError,
    },
    #[error("price table {path} is not there; write it, or unset usage.prices", path = .path.display())]
    NoPrices { path: PathBuf },
    #[error("{key} is {found:?} ({origin}); expected {expected}")]
    BadSetting { key: &'static str, found: String, origin: String, expected: &'static str },
    #[error(
        "approvals.two_person is set ({origin}) and operator.confirm is {confirm:?}: two persons are told apart by their keys only; \
         set operator.confirm = \"key\" and add a key for each with `beadle operator key add`"
    )]
    TwoPersonWithoutKeys { origin: String, confirm: &'static str },
}

impl Error {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "BDL-CONFIG-001",
            Self::UnknownKey { .. } => "BDL-CONFIG-002",
            Self::WrongValue { .. } => "BDL-CONFIG-003",
            Self::WrongVariable { .. } => "BDL-CONFIG-004",
            Self::Unreadable { .. } => "BDL-CONFIG-005",
            Self::NotAFile { .. } => "BDL-CONFIG-006",
            Self::NotText { .. } => "BDL-CONFIG-007",
            Self::RelativeFolder { .. } => "BDL-CONFIG-008",
            Self::NoHome => "BDL-CONFIG-009",
            Self::Folder { .. } => "BDL-CONFIG-010",
            Self::ForeignFolder { .. } => "BDL-CONFIG-011",
            Self::SocketTooLong { .. } => "BDL-CONFIG-012",
            Self::Embedded { .. } => "BDL-CONFIG-013",
            Self::TooManyPolicies { .. } => "BDL-CONFIG-014",
            Self::Prices { .. } => "BDL-CONFIG-022",
            Self::NoPrices { .. } => "BDL-CONFIG-023",
            Self::BadSetting { .. } => "BDL-CONFIG-020",
            Self::TwoPersonWithoutKeys { .. } => "BDL-CONFIG-021",
        }
    }
}
