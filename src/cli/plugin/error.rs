//! What can go wrong for an author before a component is there.

use std::io;

use crate::cli::exit::{Coded, Exit};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the name {name:?} {why}; take small letters, digits and single hyphens, as in `no-sudo`, at most 64")]
    Name { name: String, why: &'static str },

    #[error("{path} is there already and not empty; name another folder with --path")]
    Taken { path: String },

    #[error("{path} is no project: it has no Cargo.toml; `beadle plugin new NAME` makes one")]
    NoProject { path: String },

    #[error("{path}: {why}; a plugin's package has a `name` and a library of crate-type \"cdylib\"")]
    Manifest { path: String, why: String },

    #[error("cargo cannot be started ({source}); install Rust from https://rustup.rs, or put cargo on PATH")]
    NoCargo { source: io::Error },

    #[error(
        "this toolchain has no standard library for {target}, and it could not be added; run `rustup target add {target}` (or install \
         your distribution's package of that target), then build again"
    )]
    NoTarget { target: &'static str },

    #[error("cargo did not build the plugin ({status}); its own errors are above")]
    Failed { status: String },

    #[error("cargo built no module: the library of the package needs crate-type = [\"cdylib\", \"rlib\"] in its [lib]")]
    NoModule,

    #[error("reading {path}: {source}")]
    Read { path: String, source: io::Error },

    #[error("writing {path}: {source}")]
    Write { path: String, source: io::Error },
}

impl Error {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "BDL-AUTHOR-001",
            Self::Taken { .. } => "BDL-AUTHOR-002",
            Self::NoProject { .. } => "BDL-AUTHOR-003",
            Self::Manifest { .. } => "BDL-AUTHOR-004",
            Self::NoCargo { .. } => "BDL-AUTHOR-005",
            Self::NoTarget { .. } => "BDL-AUTHOR-006",
            Self::Failed { .. } => "BDL-AUTHOR-007",
            Self::NoModule => "BDL-AUTHOR-008",
            Self::Read { .. } => "BDL-AUTHOR-009",
            Self::Write { .. } => "BDL-AUTHOR-010",
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Name { .. } | Self::Taken { .. } | Self::NoProject { .. } | Self::Manifest { .. } => Exit::Usage,
            Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::No,
        }
    }

    /// With its exit and code, for the one place that prints errors.
    pub fn coded(self) -> Coded {
        Coded { exit: self.exit(), code: self.code().to_owned(), message: self.to_string() }
    }
}
