//! Context providers: what adds context beside prompts of a session, from memory, from files of its folder, or from a command.
//!
//! Invariants: names, lists and sizes have caps; a file's path stays below the session's folder as far as its words go; a command is named
//! by an absolute path or looked up on PATH, so that no repository brings its own.
//!
//! Called by `config`, `session::context`, `api` and the event bodies.

use serde::{Deserialize, Serialize};

use super::memory::{MEMORY_HITS_MAX, MEMORY_TAG_MAX, MemoryTier};

/// Most providers of one session, and of one configuration.
pub const CONTEXT_PROVIDERS_MAX: usize = 16;
/// Longest name in bytes.
pub const CONTEXT_NAME_MAX: usize = 64;
/// Most bytes that one provider adds at a time, and what it may add where nobody says.
pub const CONTEXT_BYTES_MAX: u64 = 64 << 10;
pub const CONTEXT_BYTES: u64 = 8 << 10;
/// Most entries of memory where nobody says.
pub const CONTEXT_HITS: usize = 5;
/// Most paths of one provider, and the longest of them in bytes.
pub const CONTEXT_PATHS_MAX: usize = 32;
const PATH_MAX: usize = 1_024;
/// Most words of a command, and the longest of them in bytes.
pub const CONTEXT_WORDS_MAX: usize = 64;
const WORD_MAX: usize = 4_096;
/// Most bytes of all of them: they stand in the session's row, which each append writes anew.
const COMMAND_MAX: usize = 8 << 10;
/// How long a command may take, in milliseconds: at least, at most, and where nobody says.
pub const CONTEXT_TIMEOUT_MS: (u64, u64, u64) = (100, 20_000, 5_000);

/// When a provider is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextAt {
    /// With the first prompt of a conversation, or the first after it was added; where that failed with the next.
    Start,
    /// With every prompt.
    Prompt,
}

impl ContextAt {
    pub const WORDS: [&'static str; 2] = ["start", "prompt"];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Prompt => "prompt",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        [Self::Start, Self::Prompt].into_iter().find(|a| a.as_str() == word)
    }
}

/// Where the context comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ContextSource {
    /// What is kept in memory and has any of the prompt's words, best first.
    Memory {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tier: Option<MemoryTier>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        limit: usize,
    },
    /// Files below the session's folder: plain paths, or patterns with `*`, `?` and `**`.
    Files { paths: Vec<String> },
    /// What a command prints, run in the session's folder.
    Command { command: Vec<String>, timeout_ms: u64 },
}

impl ContextSource {
    pub const WORDS: [&'static str; 3] = ["memory", "files", "command"];

    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "memory",
            Self::Files { .. } => "files",
            Self::Command { .. } => "command",
        }
    }
}

/// One provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextProvider {
    pub name: String,
    #[serde(flatten)]
    pub source: ContextSource,
    pub at: Vec<ContextAt>,
    pub max_bytes: u64,
    /// A prompt that it cannot add to is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
}

/// A provider of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionContext {
    #[serde(flatten)]
    pub provider: ContextProvider,
    /// It was asked since it was added, and did not fail.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
}

impl SessionContext {
    /// As what it is asked beside a prompt; `first`: of a conversation. None: it is not.
    pub fn due(&self, first: bool) -> Option<ContextAt> {
        let at = |a| self.provider.at.contains(&a);
        match at(ContextAt::Start) && (first || !self.asked) {
            true => Some(ContextAt::Start),
            false => at(ContextAt::Prompt).then_some(ContextAt::Prompt),
        }
    }
}

/// What is wrong with a provider, or with what is done with one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    #[error("{name:?} is no name of a context provider; it has 1 to {CONTEXT_NAME_MAX} of a-z A-Z 0-9 - _ .")]
    Name { name: String },
    #[error("{key} of context provider {name} is {found}; expected {expected}")]
    Setting { name: String, key: &'static str, found: String, expected: String },
    #[error("no context provider {name:?} is configured; {known}")]
    Unknown { name: String, known: String },
    #[error("session {session} has no context provider {name:?}; `beadle context ls {session}` shows them")]
    NotThere { session: String, name: String },
    #[error("session {session} has a context provider {name:?} already; remove it first, or take another name")]
    There { session: String, name: String },
    #[error(
        "session {session} has {CONTEXT_PROVIDERS_MAX} context providers, the most there can be; remove one with `beadle context remove`"
    )]
    Full { session: String },
    #[error("workers of this lane run it elsewhere, where no context provider is asked; leave them out, or use a lane that this host runs")]
    Elsewhere,
    #[error("agent {agent} has no way to take context apart from its user's words; give it in the prompt")]
    NotTaken { agent: String },
}

impl ContextError {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } | Self::Setting { .. } => "BDL-CONTEXT-001",
            Self::Unknown { .. } => "BDL-CONTEXT-002",
            Self::NotThere { .. } => "BDL-CONTEXT-003",
            Self::There { .. } => "BDL-CONTEXT-004",
            Self::Full { .. } => "BDL-CONTEXT-005",
            Self::NotTaken { .. } => "BDL-CONTEXT-006",
            Self::Elsewhere => "BDL-CONTEXT-007",
        }
    }
}

/// Whether a path can only lie below the folder that it starts from.
fn is_below(path: &str) -> bool {
    let fits = !path.is_empty() && path.len() <= PATH_MAX && !path.chars().any(char::is_control);
    fits && !path.starts_with(['/', '~']) && !path.contains(['[', '{', '\\']) && path.split('/').all(|n| n != "..")
}

impl ContextProvider {
    /// Checks names, lists and sizes.
    pub fn check(&self) -> Result<(), ContextError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > CONTEXT_NAME_MAX || !self.name.chars().all(fits) {
            return Err(ContextError::Name { name: self.name.chars().take(CONTEXT_NAME_MAX).collect() });
        }
        let wrong = |key, found: String, expected: String| {
            Err(ContextError::Setting { name: self.name.clone(), key, found: found.chars().take(200).collect(), expected })
        };
        if self.at.is_empty() || self.at.len() > 2 {
            return wrong("at", format!("a list of {}", self.at.len()), "start, prompt or both".to_owned());
        }
        if !(1..=CONTEXT_BYTES_MAX).contains(&self.max_bytes) {
            return wrong("max_bytes", self.max_bytes.to_string(), format!("a whole number from 1 to {CONTEXT_BYTES_MAX}"));
        }
        match &self.source {
            ContextSource::Memory { tag, limit, .. } => {
                if !(1..=MEMORY_HITS_MAX).contains(limit) {
                    return wrong("limit", limit.to_string(), format!("a whole number from 1 to {MEMORY_HITS_MAX}"));
                }
                if let Some(t) = tag.as_ref().filter(|t| t.is_empty() || t.len() > MEMORY_TAG_MAX || t.chars().any(char::is_control)) {
                    return wrong("tag", format!("{t:?}"), format!("1 to {MEMORY_TAG_MAX} bytes without control characters"));
                }
            }
            ContextSource::Files { paths } => {
                if paths.is_empty() || paths.len() > CONTEXT_PATHS_MAX {
                    return wrong("paths", format!("a list of {}", paths.len()), format!("1 to {CONTEXT_PATHS_MAX} paths"));
                }
                if let Some(p) = paths.iter().find(|p| !is_below(p)) {
                    let expected =
                        "a path below the session's folder, without `..`; `*`, `?` and `**` are patterns, classes and braces none";
                    return wrong("paths", format!("{p:?}"), expected.to_owned());
                }
            }
            ContextSource::Command { command, timeout_ms } => {
                let (min, max, _) = CONTEXT_TIMEOUT_MS;
                if !(min..=max).contains(timeout_ms) {
                    return wrong("timeout_ms", timeout_ms.to_string(), format!("a whole number from {min} to {max}"));
                }
                let (words, bytes) = (1..=CONTEXT_WORDS_MAX, command.iter().map(String::len).sum::<usize>());
                let is_long = bytes > COMMAND_MAX || command.iter().any(|w| w.len() > WORD_MAX);
                if !words.contains(&command.len()) || is_long || command.iter().any(|w| w.contains('\0')) {
                    let expected = format!("1 to {CONTEXT_WORDS_MAX} words of at most {WORD_MAX} bytes, {COMMAND_MAX} together");
                    return wrong("command", format!("a list of {}", command.len()), expected);
                }
                // why: a relative path would run what the repository put there, and a provider is for many.
                let program = command.first().map_or("", String::as_str);
                if program.is_empty() || (program.contains('/') && !program.starts_with('/')) {
                    return wrong("command", format!("{program:?}"), "a program's name on PATH, or its absolute path".to_owned());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn provider(source: ContextSource) -> ContextProvider {
        ContextProvider { name: "a".into(), source, at: vec![ContextAt::Prompt], max_bytes: 100, required: false }
    }

    fn files(path: &str) -> ContextProvider {
        provider(ContextSource::Files { paths: vec![path.into()] })
    }

    fn command(words: &[&str], timeout_ms: u64) -> ContextProvider {
        provider(ContextSource::Command { command: words.iter().map(|w| (*w).to_owned()).collect(), timeout_ms })
    }

    #[test]
    fn what_cannot_be_a_provider_is_refused() {
        for path in ["a", "a/b", "**/*.md", "./a", ".github/x", "a b"] {
            assert_eq!(files(path).check(), Ok(()), "{path}");
        }
        for path in ["", "/etc/passwd", "~/x", "../x", "a/../../x", "a\nb", "[a]", "{a,b}"] {
            assert!(files(path).check().is_err(), "{path:?}");
        }
        assert_eq!(command(&["git", "status"], 1_000).check(), Ok(()));
        assert_eq!(command(&["/usr/bin/git"], 1_000).check(), Ok(()));
        for (words, timeout) in
            [(&["./x"][..], 1_000), (&["a/b"], 1_000), (&[], 1_000), (&[""], 1_000), (&["git"], 1), (&["git"], 60_000), (&["a", "\0"], 500)]
        {
            assert!(command(words, timeout).check().is_err(), "{words:?} {timeout}");
        }
        let long = "x".repeat(WORD_MAX);
        assert_eq!(command(&[&long, &long], 500).check(), Ok(()));
        assert!(command(&[&long, &long, "x"], 500).check().is_err());
        let good = files("a");
        for bad in [
            ContextProvider { name: "a b".into(), ..good.clone() },
            ContextProvider { at: vec![], ..good.clone() },
            ContextProvider { max_bytes: 0, ..good.clone() },
            ContextProvider { max_bytes: CONTEXT_BYTES_MAX + 1, ..good },
            provider(ContextSource::Memory { tier: None, tag: Some(String::new()), limit: 1 }),
            provider(ContextSource::Memory { tier: None, tag: None, limit: 0 }),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_of_the_start_is_asked_once_and_again_in_a_new_conversation() {
        let of = |at: &[ContextAt], asked, first| {
            let provider = ContextProvider { at: at.to_vec(), ..files("a") };
            SessionContext { provider, asked }.due(first)
        };
        use ContextAt::{Prompt, Start};
        assert_eq!([of(&[Start], false, true), of(&[Start], false, false)], [Some(Start); 2]);
        assert_eq!([of(&[Start], true, false), of(&[Start], true, true)], [None, Some(Start)]);
        assert_eq!([of(&[Start, Prompt], true, false), of(&[Prompt], false, true)], [Some(Prompt); 2]);
    }

    #[test]
    fn wire_shapes_are_stable() {
        let p = SessionContext { provider: command(&["git", "status"], 500), asked: true };
        let v = json!({"name": "a", "kind": "command", "command": ["git", "status"], "timeout_ms": 500, "at": ["prompt"],
                       "max_bytes": 100, "asked": true});
        assert_eq!(serde_json::to_value(&p).ok(), Some(v.clone()));
        assert_eq!(serde_json::from_value(v).ok(), Some(p));
    }
}
