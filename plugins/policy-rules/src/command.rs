//! `Bash(…)`: patterns over the words of one simple command.
//!
//! A pattern is read with the shell's quoting. `git push:*` and `git push *` mean these words and then anything; a lone
//! `*` stands for any number of words; a `*` within a word stays inside that word in allow rules and may run over words
//! in ask and deny rules.
//!
//! Invariants:
//! - `Pattern::covers` (allow) compares exact words in their places; nothing unknown is ever taken for a match;
//! - [`Pattern::hits`] (ask, deny) looks through paths to the program, options before and between the words, other
//!   orders and spellings of options, and answers [`Fit::May`] where an unknown word could make the match.
//!
//! `hits` and `covers` hold those two. Called by `policy` (compiling) and `judge`.

use std::borrow::Cow;

use beadle_plugin::{Command, Word};

use crate::Fit;
use crate::glob::{self, STAR};
use crate::notation::Fault;

/// Most words of one pattern: positions are bits of a 64-bit set.
const WORD_LIMIT: usize = 48;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Exact(Box<str>),
    Glob(Box<[u8]>),
    /// A lone `*`.
    Many,
}

impl Piece {
    pub(crate) fn is(&self, text: &str) -> bool {
        match self {
            Self::Exact(want) => **want == *text,
            Self::Glob(glob) => glob::matches(glob, text.as_bytes()),
            Self::Many => true,
        }
    }

    fn starts_dashed(&self) -> bool {
        match self {
            Self::Exact(w) => w.len() > 1 && w.starts_with('-'),
            Self::Glob(g) => g.starts_with(b"-"),
            Self::Many => false,
        }
    }
}

/// A compiled command pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Assignments that stand before the program.
    pub(crate) env: Vec<Piece>,
    pub(crate) program: Piece,
    pub(crate) rest: Vec<Piece>,
    /// Anything may follow.
    pub(crate) open: bool,
    /// `rest` without its options, and these: how ask and deny rules look at a command.
    pub(crate) places: Vec<Piece>,
    pub(crate) options: Vec<Piece>,
    /// The whole pattern over the words joined by blanks, where it has a star inside a word.
    pub(crate) joined: Option<Box<[u8]>>,
}

/// A command as rules look at it.
#[derive(Debug, Clone)]
pub struct View<'a> {
    pub command: &'a Command,
    /// Program without its folders; empty when it is not known.
    pub name: &'a str,
    pub program: &'a Word,
    pub args: Cow<'a, [Word]>,
}

impl<'a> View<'a> {
    /// `None` for a command without words, which the host never sends.
    pub fn of(command: &'a Command) -> Option<Self> {
        let (program, args) = command.argv.split_first()?;
        let name = if program.exact || below_home(program) { base_name(&program.text) } else { "" };
        Some(Self { command, name, program, args: Cow::Borrowed(args) })
    }

    /// The same command by its plain name: `busybox rm x` is `rm x`, `git-push x` is `git push x`.
    pub fn plain(&self) -> Option<Self> {
        if matches!(self.name, "busybox" | "toybox") {
            let (applet, args) = self.args.split_first()?;
            let program = self.command.argv.get(1)?;
            let name = if applet.exact { base_name(&program.text) } else { "" };
            return Some(Self { name, program, args: Cow::Owned(args.to_vec()), ..self.clone() });
        }
        let sub = self.name.strip_prefix("git-")?;
        let mut args = vec![Word { text: sub.to_owned(), exact: true }];
        args.extend_from_slice(&self.args);
        Some(Self { name: "git", args: Cow::Owned(args), ..self.clone() })
    }
}

/// The file name of a program; `.exe`, as WSL has it, does not make another program.
pub(crate) fn base_name(path: &str) -> &str {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    name.strip_suffix(".exe").unwrap_or(name)
}

/// `~/bin/x` is known but for the home folder, which does not change what the program is called.
pub(crate) fn below_home(word: &Word) -> bool {
    word.text.starts_with("~/") && !word.text.contains(['$', '`', '\'', '"', '\\', '*', '?', '[', '{', '('])
}

impl Pattern {
    /// Compiles a specifier that starts at byte `at` of its rule. `None` means any command.
    pub fn parse(specifier: &str, at: usize) -> Result<Option<Self>, Fault> {
        let (body, mut open) = match specifier.strip_suffix(":*") {
            Some(body) if body.trim().is_empty() => return Err(Fault::new(at, "a command before `:*`")),
            Some(body) => (body, true),
            None => (specifier, false),
        };
        let mut pieces = words(body, at)?;
        if pieces.len() > WORD_LIMIT {
            return Err(Fault::new(at, format!("at most {WORD_LIMIT} words")));
        }
        if pieces.iter().all(|p| *p == Piece::Many) {
            return Ok(None);
        }
        while !open && pieces.len() > 1 && pieces.last() == Some(&Piece::Many) {
            pieces.pop();
            open = true;
        }
        let joined = (pieces.iter().any(|p| matches!(p, Piece::Glob(_)))).then(|| joined(&pieces, open));
        let first = pieces.iter().position(|p| !is_assignment(p)).unwrap_or(pieces.len());
        let mut rest = pieces.split_off(first);
        if rest.is_empty() {
            return Err(Fault::new(at + specifier.len(), "a command after the assignments"));
        }
        let program = rest.remove(0);
        let (options, places) = rest.iter().cloned().partition(Piece::starts_dashed);
        Ok(Some(Self { env: pieces, program, rest, open, places, options, joined }))
    }

    /// The program's own name to index by, where the pattern has one.
    pub fn key(&self) -> Option<&str> {
        match &self.program {
            Piece::Exact(name) => Some(base_name(name)),
            _ => None,
        }
    }
}

/// Whether a word of which only the start is certain can become what the piece wants.
pub(crate) fn may_become(piece: &Piece, start: &str) -> Fit {
    let can = match piece {
        Piece::Exact(want) => want.starts_with(start),
        Piece::Glob(glob) => glob::can_match(glob, [glob::Piece::Known(start), glob::Piece::Unknown].into_iter()),
        Piece::Many => true,
    };
    if can { Fit::May } else { Fit::No }
}

fn is_assignment(piece: &Piece) -> bool {
    let name_of = |text: &[u8]| {
        text.iter()
            .position(|b| *b == b'=')
            .is_some_and(|i| i > 0 && text[..i].iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') && !text[0].is_ascii_digit())
    };
    match piece {
        Piece::Exact(text) => name_of(text.as_bytes()),
        Piece::Glob(glob) => name_of(glob),
        Piece::Many => false,
    }
}

fn joined(pieces: &[Piece], open: bool) -> Box<[u8]> {
    let mut out = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        match piece {
            Piece::Exact(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Glob(glob) => out.extend_from_slice(glob),
            Piece::Many => out.push(STAR),
        }
    }
    if open {
        out.push(STAR);
    }
    out.into()
}

/// Cuts a pattern into words with the shell's quoting.
fn words(body: &str, at: usize) -> Result<Vec<Piece>, Fault> {
    let mut out = Vec::new();
    let mut word: Option<(Vec<u8>, bool)> = None;
    let mut chars = body.char_indices();
    while let Some((i, c)) = chars.next() {
        let here = at + i;
        if c == ' ' {
            out.extend(word.take().map(finish));
            continue;
        }
        let (text, glob) = word.get_or_insert_with(Default::default);
        match c {
            '\'' | '"' => loop {
                match chars.next() {
                    Some((_, q)) if q == c => break,
                    Some((_, '\\')) if c == '"' => match chars.next() {
                        Some((_, q)) => push(text, q),
                        None => return Err(Fault::new(here, format!("a closing {c}"))),
                    },
                    Some((i, q @ ('$' | '`'))) if c == '"' => {
                        return Err(Fault::new(at + i, format!("no {q}, whose value is not known; write \\{q} for the character itself")));
                    }
                    Some((_, q)) => push(text, q),
                    None => return Err(Fault::new(here, format!("a closing {c}"))),
                }
            },
            '\\' => match chars.next() {
                Some((_, q)) => push(text, q),
                None => return Err(Fault::new(here, "a character after `\\`")),
            },
            '*' => {
                text.push(STAR);
                *glob = true;
            }
            ':' if body[i..].starts_with(":* ") => return Err(Fault::new(here, "`:*` at the end only; write ` * ` for words in between")),
            '&' | '|' | ';' => {
                return Err(Fault::new(here, format!("one simple command, without {c}; each command of a line is judged by itself")));
            }
            '<' | '>' => return Err(Fault::new(here, format!("no {c}; files are ruled by Read(…) and Edit(…)"))),
            '$' | '`' => return Err(Fault::new(here, format!("no {c}, whose value is not known; write \\{c} for the character itself"))),
            c => push(text, c),
        }
    }
    out.extend(word.take().map(finish));
    Ok(out)
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn finish((text, glob): (Vec<u8>, bool)) -> Piece {
    if !glob {
        return Piece::Exact(String::from_utf8_lossy(&text).into());
    }
    if text.iter().all(|b| *b == STAR) { Piece::Many } else { Piece::Glob(text.into()) }
}
