//! Exit codes: one table, one mapping from errors.

use std::io;

use crate::api::client;
use crate::api::types::SessionDoc;
use crate::config;
use crate::model::Outcome;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0
    Done,
    /// 1: the answer is no, or the session failed.
    No,
    /// 2
    Usage,
    /// 3
    NotFound,
    /// 4
    Unreachable,
    /// 125
    Internal,
    /// The agent's own code, passed on.
    Agent(u8),
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unreachable => 4,
            Self::Internal => 125,
            Self::Agent(n) => n,
        }
    }

    /// Of an ended session: the agent's own code, 128 + signal, or 1 where it failed without either.
    pub fn of_session(doc: &SessionDoc) -> Self {
        let good = matches!(doc.outcome, Some(Outcome::Succeeded | Outcome::Exited));
        match (doc.exit_code, doc.signal) {
            (Some(0), _) | (None, None) => {
                if good {
                    Self::Done
                } else {
                    Self::No
                }
            }
            (Some(n), _) => u8::try_from(n).map_or(Self::No, Self::Agent),
            (None, Some(s)) => u8::try_from(s).ok().and_then(|s| s.checked_add(128)).map_or(Self::No, Self::Agent),
        }
    }
}

/// A wrong use that clap cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// An error of a module that only one file of `cli` may name, with what the others need of it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Coded {
    pub exit: Exit,
    pub code: String,
    pub message: String,
}

/// What an error is to the caller: its exit, its stable code, its hint.
pub struct Class<'a> {
    pub exit: Exit,
    pub code: Option<&'a str>,
    pub hint: Option<&'a str>,
}

/// Classifies an error; `None` means the reader of our output has gone, which is no error.
pub fn classify(error: &anyhow::Error) -> Option<Class<'_>> {
    for cause in error.chain() {
        let io_error = cause.downcast_ref::<io::Error>();
        if io_error.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return None;
        }
        if let Some(e) = cause.downcast_ref::<client::Error>() {
            if matches!(e, client::Error::Output(e) if e.kind() == io::ErrorKind::BrokenPipe) {
                return None;
            }
            let exit = match e.exit() {
                1 => Exit::No,
                2 => Exit::Usage,
                3 => Exit::NotFound,
                4 => Exit::Unreachable,
                _ => Exit::Internal,
            };
            return Some(Class { exit, code: Some(e.code()), hint: e.hint() });
        }
        if let Some(e) = cause.downcast_ref::<config::Error>() {
            return Some(Class { exit: Exit::Usage, code: Some(e.code()), hint: None });
        }
        if let Some(e) = cause.downcast_ref::<Coded>() {
            return Some(Class { exit: e.exit, code: Some(&e.code), hint: None });
        }
        if cause.downcast_ref::<UsageError>().is_some() {
            return Some(Class { exit: Exit::Usage, code: Some("BDL-CLI-001"), hint: None });
        }
    }
    Some(Class { exit: Exit::Internal, code: Some("BDL-CLI-002"), hint: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;

    #[test]
    fn a_session_passes_on_the_agents_own_code() {
        let table = [
            (Some(Outcome::Succeeded), Some(0), None, 0),
            (Some(Outcome::Exited), Some(0), None, 0),
            (Some(Outcome::Failed), Some(0), None, 1),
            (Some(Outcome::Failed), Some(7), None, 7),
            (Some(Outcome::Killed), None, Some(9), 137),
            (Some(Outcome::Lost), None, None, 1),
            (Some(Outcome::Failed), Some(300), None, 1),
        ];
        for (outcome, exit_code, signal, code) in table {
            let doc = SessionDoc { outcome, exit_code, signal, ..sample::session() };
            assert_eq!(Exit::of_session(&doc).code(), code, "{outcome:?} {exit_code:?} {signal:?}");
        }
    }

    #[test]
    fn a_broken_pipe_is_no_error_and_the_rest_has_a_code() {
        let pipe = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("writing");
        assert!(classify(&pipe).is_none());
        assert!(classify(&client::Error::Output(io::ErrorKind::BrokenPipe.into()).into()).is_none());
        let usage = anyhow::Error::from(UsageError("x".into()));
        assert_eq!(classify(&usage).unwrap().exit, Exit::Usage);
        assert_eq!(classify(&config::Error::NoHome.into()).unwrap().code, Some("BDL-CONFIG-009"));
        assert_eq!(classify(&anyhow::anyhow!("x")).unwrap().exit.code(), 125);
    }
}
