//! The one shell reader: a command line to the simple commands that it would run.
//!
//! Two readers must agree: tokens come from our own lexer (`lex`), must equal those of brush-parser, and only then the grammar of
//! brush-parser builds the tree. Words are read by `word`, so nothing of a command stays in brush's process-wide caches.
//!
//! When is the result what ([`Parse`])?
//! - `Failed`: a syntax error, a NUL, a construct that shells read differently, the readers disagree, or a cap is passed: text over
//!   [`MAX_BYTES`] ([`MAX_WORK`] over all nesting), nesting over [`MAX_DEPTH`], brackets and `case` over [`MAX_GROUPING`], more than [`MAX_COMMANDS`] commands. Nothing
//!   of the command is listed then.
//! - `Partial`: something runs that the text does not show: a program name or code that is not exact (`$x`, `sh -c "$x"`, `eval "$x"`,
//!   `source f`), interpreters given code, alias definitions, a call of a function defined in the text, arguments made from stdin
//!   (`xargs`), wrappers whose options are not known, variables that steer which program runs (`PATH=`), arithmetic on names (it
//!   evaluates their values). What was recognised is listed all the same.
//! - `Complete`: every simple command that can run is listed. An argument that is not exact (`rm $x`, `ls *.c`) leaves the result
//!   complete; that word and its command have `exact = false`. So do relative paths behind `cd $x`: their directory is unknown.
//!
//! Text is read as bash reads it, extended globs off. Other shells (zsh, dash) read it alike but for constructs that are refused;
//! `sh -c` text in which they differ makes the result partial.
//!
//! A program named exactly is one command, whatever it runs in turn (`make`, `./run.sh`, `bash run.sh`).
//!
//! Called by `policy::call`.

mod dirs;
mod exec;
mod lex;
mod walk;
mod word;
mod wrap;
mod wrap_code;
mod wrap_container;
mod wrap_table;

#[cfg(test)]
mod tests;

pub use dirs::{Dirs, MAX_PLACES};

use std::sync::Arc;

use brush_parser::{ParserOptions, SourcePosition, SourceSpan, Token, TokenizerOptions};

use crate::model::{Command, Parse, Redirect};
use crate::whole::apart;

use lex::{Refused, Tok};

/// Longest command text read, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;
/// Deepest nesting over all kinds of it: groups, substitutions, `sh -c` strings, wrappers.
pub const MAX_DEPTH: usize = 64;
/// Deepest nesting of brackets and `case`, on which the grammar's work doubles each time.
pub const MAX_GROUPING: usize = 10;
/// Most text read and listed for one command line, over all nesting: code in code is read again at each level.
pub const MAX_WORK: usize = 16 * MAX_BYTES;
/// Most commands listed.
pub const MAX_COMMANDS: usize = 1024;

/// A command with what the record does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub command: Command,
    /// Where it would run.
    pub dirs: Dirs,
    /// True when it would run on this machine (false behind `ssh` or in a container).
    pub local: bool,
}

/// A command line as understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// In document order, a wrapper before what it wraps.
    pub found: Vec<Found>,
    /// Every file redirection, those of groups and of no command included, with its directory.
    pub redirects: Vec<(Redirect, Dirs)>,
    pub parse: Parse,
    /// Why it is not complete: the first reason met.
    pub reason: Option<&'static str>,
}

impl Parsed {
    /// The commands of the call record.
    pub fn commands(&self) -> impl Iterator<Item = &Command> {
        self.found.iter().map(|f| &f.command)
    }

    fn failed(reason: &'static str) -> Self {
        Self { found: Vec::new(), redirects: Vec::new(), parse: Parse::Failed, reason: Some(reason) }
    }
}

/// Reads a command line. Never panics; time is bounded by the caps.
pub fn parse(command: &str) -> Parsed {
    let mut walk = walk::Walk::default();
    match walk.text(command, &Dirs::start(), &walk::At::default()) {
        Ok(_) => walk.finish(),
        Err(Refused(reason)) => Parsed::failed(reason),
    }
}

/// Reads an argument list that runs without a shell around it (`["/bin/bash", "-lc", "…"]`).
pub fn parse_argv(argv: &[String]) -> Parsed {
    if argv.is_empty() {
        return Parsed::failed("an empty argument list");
    }
    if argv.iter().map(String::len).sum::<usize>() > MAX_BYTES {
        return Parsed::failed("longer than 16 KiB");
    }
    let mut walk = walk::Walk::default();
    match walk.argv(argv) {
        Ok(()) => walk.finish(),
        Err(Refused(reason)) => Parsed::failed(reason),
    }
}

/// True for a word that is not exact only because of a leading `~/`: text that the host can expand itself.
pub fn is_home(text: &str) -> bool {
    (text == "~" || text.starts_with("~/")) && !text.contains(['$', '`', '\'', '"', '\\', '*', '?', '[', '{', '(', ')', ':', '='])
}

/// The tree of a text at nesting `depth`, and the tokens' own depth checked.
fn tree(src: &str, depth: usize) -> Result<brush_parser::ast::Program, Refused> {
    if src.len() > MAX_BYTES {
        return Err(Refused("longer than 16 KiB"));
    }
    if src.contains('\0') {
        return Err(Refused("a NUL character"));
    }
    let ours = lex::lex(src, depth)?;
    let options = ParserOptions { enable_extended_globbing: false, ..ParserOptions::default() };
    let tokens: Vec<Token> = ours.iter().map(token).collect();
    // why: the parser has unwraps on numbers; the lexer refuses what is known to reach them, this holds the rest.
    apart(|| {
        let theirs =
            brush_parser::uncached_tokenize_str(src, &TokenizerOptions { enable_extended_globbing: false, ..TokenizerOptions::default() })
                .map_err(|_| Refused("a syntax error"))?;
        if !agree(&ours, &theirs) {
            return Err(Refused("two readers of the command disagree"));
        }
        brush_parser::parse_tokens(&tokens, &options).map_err(|_| Refused("a syntax error"))
    })
    .unwrap_or(Err(Refused("the parser gave up")))
}

fn token(tok: &Tok) -> Token {
    let span = |from: usize, to: usize| {
        let at = |index: usize| Arc::new(SourcePosition { index, line: 1, column: index + 1 });
        SourceSpan { start: at(from), end: at(to) }
    };
    match tok {
        Tok::Word(text, from, to) => Token::Word(text.clone(), span(*from, *to)),
        Tok::Op(text, from, to) => Token::Operator((*text).to_owned(), span(*from, *to)),
    }
}

/// Same tokens, blanks and line continuations aside (the other reader drops some inside substitutions).
fn agree(ours: &[Tok], theirs: &[Token]) -> bool {
    fn dense(text: &str) -> impl Iterator<Item = char> + '_ {
        let joined = text.char_indices().filter(move |(i, c)| !(*c == '\\' && text[i + 1..].starts_with('\n'))).map(|(_, c)| c);
        joined.filter(|c| !matches!(c, ' ' | '\t' | '\n'))
    }
    ours.len() == theirs.len()
        && ours.iter().zip(theirs).all(|(a, b)| match (a, b) {
            (Tok::Word(x, ..), Token::Word(y, _)) => dense(x).eq(dense(y)),
            (Tok::Op(x, ..), Token::Operator(y, _)) => *x == y.as_str(),
            _ => false,
        })
}
