//! Splits a command line into shell tokens by bash's own quoting rules, and finds where substitutions end.
//!
//! Invariants:
//! - linear in the text times its nesting, recursion bounded by [`super::MAX_DEPTH`]: the grammar (brush-parser) recurses once per
//!   opener and would abort the process when nested deeply, so openers are counted here, before it sees anything;
//! - a construct whose reading differs between shells, or which this lexer does not know, is refused: the command then counts as
//!   not parsed. No guess is made.
//!
//! Called by `shell::parse` for the command and for each substitution in it, and by `word` to find extents.

use super::{MAX_DEPTH, MAX_GROUPING};

/// Why a text is not read at all. A static, human-readable reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused(pub &'static str);

type Result<T> = std::result::Result<T, Refused>;

/// One token with its byte range in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tok {
    /// Raw text with its quotes; an unquoted backslash-newline is gone.
    Word(String, usize, usize),
    Op(&'static str, usize, usize),
}

impl Tok {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Word(text, ..) => text,
            Self::Op(text, ..) => text,
        }
    }
}

/// Operators, longest first.
const OPERATORS: &[&str] = &[
    "<<<", "<<-", ";;&", "&>>", "&&", "||", "|&", ";;", ";&", "&>", "<<", ">>", "<&", ">&", "<>", ">|", "&", "|", ";", "<", ">", "(", ")",
    "\n",
];

/// Words after which a command may start, so that an opener there is an opener.
const LEADS: &[&str] = &["if", "then", "else", "elif", "do", "while", "until", "{", "!", "time", "-p", "coproc", "in", "--"];

struct Here {
    /// Where its body and end tag go in the token list.
    at: usize,
    tag: String,
    literal: bool,
    strip_tabs: bool,
}

/// Tokens of a whole text. `depth` is how deep the text itself stands.
pub(super) fn lex(src: &str, depth: usize) -> Result<Vec<Tok>> {
    Ok(tokens(src, 0, false, depth)?.0)
}

fn tokens(src: &str, start: usize, nested: bool, depth: usize) -> Result<(Vec<Tok>, usize)> {
    let b = src.as_bytes();
    let mut out: Vec<Tok> = Vec::new();
    let mut open = Openers { base: depth, stack: Vec::new(), loose: 0, closed: false };
    let mut pending: Vec<Here> = Vec::new();
    let mut wants_tag: Option<bool> = None;
    let mut parens = 0usize;
    let mut i = start;
    loop {
        match b.get(i) {
            None if nested => return Err(Refused("a substitution has no end")),
            None if !pending.is_empty() || wants_tag.is_some() => return Err(Refused("a here-document has no end line")),
            None => return Ok((out, i)),
            Some(b' ' | b'\t') => i += 1,
            Some(b'\\') if b.get(i + 1) == Some(&b'\n') => i += 2,
            Some(b'#') => {
                while b.get(i).is_some_and(|c| *c != b'\n') {
                    i += 1;
                }
            }
            Some(c) if is_meta(*c) => {
                let op = operator(&src[i..]);
                if b[i + op.len()..].starts_with(b"\\\n") && op != "\n" && op != "(" && op != ")" {
                    return Err(Refused("an operator is followed by a line continuation"));
                }
                if wants_tag.is_some() {
                    return Err(Refused("a here-document has no tag"));
                }
                if op == "(" {
                    parens += 1;
                } else if op == ")" {
                    if parens == 0 && nested {
                        return if pending.is_empty() { Ok((out, i + 1)) } else { Err(Refused("a here-document has no end line")) };
                    }
                    parens = parens.saturating_sub(1);
                }
                open.operator(op)?;
                if matches!(op, "<<" | "<<-") {
                    wants_tag = Some(op == "<<-");
                }
                out.push(Tok::Op(op, i, i + op.len()));
                i += op.len();
                if op == "\n" && !pending.is_empty() {
                    i = read_bodies(src, i, &mut out, std::mem::take(&mut pending))?;
                }
            }
            Some(_) => {
                let (raw, end) = read_word(src, i, depth + open.depth())?;
                if b.get(end).is_some_and(|c| matches!(c, b'<' | b'>')) {
                    check_descriptor(&raw)?;
                }
                if let Some(strip_tabs) = wants_tag.take() {
                    if raw.contains(['$', '`', '\n']) {
                        return Err(Refused("a here-document's tag is not plain"));
                    }
                    let literal = raw.contains(['\'', '"', '\\']);
                    let tag = raw.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
                    pending.push(Here { at: out.len() + 1, tag, literal, strip_tabs });
                } else {
                    open.word(&raw, &out)?;
                }
                check_subscript(&raw)?;
                out.push(Tok::Word(raw, i, end));
                i = end;
            }
        }
    }
}

/// Reads the bodies that start at `i`, and puts each with its end tag behind its tag. Returns where the line after them starts.
fn read_bodies(src: &str, mut i: usize, out: &mut Vec<Tok>, pending: Vec<Here>) -> Result<usize> {
    for (done, here) in pending.into_iter().enumerate() {
        let from = i;
        let mut body = String::new();
        let mut joined = false;
        loop {
            if i >= src.len() {
                return Err(Refused("a here-document has no end line"));
            }
            let stop = src[i..].find('\n').map_or(src.len(), |n| i + n);
            let mut line = &src[i..stop];
            if here.strip_tabs {
                line = line.trim_start_matches('\t');
            }
            let next = (stop + 1).min(src.len());
            if line == here.tag {
                if joined {
                    return Err(Refused("a here-document's end line follows a line continuation"));
                }
                i = next;
                break;
            }
            joined = !here.literal && line.ends_with('\\');
            body.push_str(line);
            body.push('\n');
            i = next;
        }
        let at = here.at + done * 2;
        out.insert(at, Tok::Word(body, from, i));
        out.insert(at + 1, Tok::Word(here.tag, i, i));
    }
    Ok(i)
}

/// What is open at a place of the text, for the depth caps.
struct Openers {
    base: usize,
    stack: Vec<&'static str>,
    /// Prefixes that nest without a closing word.
    loose: usize,
    /// The last word closed something.
    closed: bool,
}

impl Openers {
    fn depth(&self) -> usize {
        self.stack.len() + self.loose
    }

    fn push(&mut self, what: &'static str) -> Result<()> {
        self.stack.push(what);
        // why: the grammar tries several readings of each bracket and of the last case item, so its work doubles with each of them.
        if self.stack.iter().filter(|o| matches!(**o, "(" | "case")).count() > MAX_GROUPING {
            return Err(Refused("brackets or case are nested too deeply"));
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.base + self.depth() > MAX_DEPTH { Err(Refused("nested too deeply")) } else { Ok(()) }
    }

    fn close(&mut self, of: &[&str]) -> bool {
        let closes = self.stack.last().is_some_and(|top| of.contains(top));
        if closes {
            self.stack.pop();
        }
        closes
    }

    fn operator(&mut self, op: &'static str) -> Result<()> {
        self.closed = false;
        match op {
            "(" => self.push("("),
            ")" => {
                self.close(&["("]);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn word(&mut self, raw: &str, before: &[Tok]) -> Result<()> {
        // why: as an argument a closing word closes nothing, and the count must never be too low.
        let may_close = self.closed || raw == "]]" || before.last().is_none_or(|t| matches!(t, Tok::Op(..)));
        self.closed = may_close
            && match raw {
                "}" => self.close(&["{"]),
                "fi" => self.close(&["if"]),
                "done" => self.close(&["for", "while", "until"]),
                "esac" => self.close(&["case"]),
                "]]" => self.close(&["[["]),
                _ => false,
            };
        let leads = |t: &Tok| matches!(t, Tok::Op(..)) || LEADS.contains(&t.text());
        let named = before.len() >= 2 && matches!(before[before.len() - 2].text(), "function" | "coproc");
        if !before.last().is_none_or(leads) && !named {
            return Ok(());
        }
        match raw {
            "{" => self.push("{"),
            "if" => self.push("if"),
            "for" => self.push("for"),
            "while" => self.push("while"),
            "until" => self.push("until"),
            "case" => self.push("case"),
            "[[" => self.push("[["),
            "!" | "coproc" => {
                self.loose += 1;
                self.check()
            }
            _ => Ok(()),
        }
    }
}

pub(super) const fn is_meta(c: u8) -> bool {
    matches!(c, b'|' | b'&' | b';' | b'(' | b')' | b'<' | b'>' | b'\n')
}

fn operator(rest: &str) -> &'static str {
    // why: every metacharacter is an operator by itself, so the search always succeeds when called on one.
    OPERATORS.iter().find(|op| rest.starts_with(**op)).copied().unwrap_or("\n")
}

/// `{name}>f` gives the descriptor a variable instead of an argument, and very long numbers are no descriptors the grammar takes.
fn check_descriptor(raw: &str) -> Result<()> {
    let named = raw.strip_prefix('{').and_then(|r| r.strip_suffix('}')).is_some_and(|n| !n.is_empty());
    let long = raw.len() > 9 && raw.bytes().all(|c| c.is_ascii_digit());
    if named || long { Err(Refused("a redirection has an unusual descriptor")) } else { Ok(()) }
}

/// The grammar's reading of subscripts backtracks; only small ones are passed on.
fn check_subscript(raw: &str) -> Result<()> {
    let name = raw.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(raw.len());
    let busy = |what: char| raw.matches(what).count() > 4;
    if name > 0 && raw[name..].starts_with('[') && (busy('[') || busy('$') || busy('(') || busy('`') || busy('"')) {
        return Err(Refused("a subscript is too involved"));
    }
    Ok(())
}

/// A word's raw text from `start` up to the metacharacter or blank that ends it.
fn read_word(src: &str, start: usize, depth: usize) -> Result<(String, usize)> {
    let b = src.as_bytes();
    let mut raw = String::new();
    let mut i = start;
    while let Some(&c) = b.get(i) {
        let end = match c {
            b' ' | b'\t' => break,
            b'@' | b'!' | b'?' | b'+' | b'*' if b.get(i + 1) == Some(&b'(') => return Err(Refused("an extended glob")),
            c if is_meta(c) => break,
            b'\\' if b.get(i + 1) == Some(&b'\n') => {
                i += 2;
                continue;
            }
            b'\\' => match src[i + 1..].chars().next() {
                Some(escaped) => i + 1 + escaped.len_utf8(),
                None => return Err(Refused("a backslash at the end")),
            },
            b'\'' => skip_single(b, i + 1)?,
            b'"' => skip_double(src, i + 1, depth + 1)?,
            b'$' => skip_dollar(src, i, false, depth + 1)?,
            b'`' => skip_backquote(b, i + 1)?,
            _ => i + src[i..].chars().next().map_or(1, char::len_utf8),
        };
        raw.push_str(&src[i..end]);
        i = end;
    }
    Ok((raw, i))
}

/// From behind the opening quote to behind the closing one.
pub(super) fn skip_single(b: &[u8], i: usize) -> Result<usize> {
    b[i..].iter().position(|c| *c == b'\'').map(|n| i + n + 1).ok_or(Refused("a single quote has no end"))
}

pub(super) fn skip_ansi(b: &[u8], mut i: usize) -> Result<usize> {
    while let Some(c) = b.get(i) {
        match c {
            // why: readers differ on a line continuation in here.
            b'\\' if b.get(i + 1) == Some(&b'\n') => return Err(Refused("a line continuation in $'…'")),
            b'\\' => i += 2,
            b'\'' => return Ok(i + 1),
            _ => i += 1,
        }
    }
    Err(Refused("a single quote has no end"))
}

pub(super) fn skip_backquote(b: &[u8], mut i: usize) -> Result<usize> {
    while let Some(c) = b.get(i) {
        match c {
            b'\\' => i += 2,
            b'`' => return Ok(i + 1),
            _ => i += 1,
        }
    }
    Err(Refused("a backquote has no end"))
}

pub(super) fn skip_double(src: &str, mut i: usize, depth: usize) -> Result<usize> {
    let b = src.as_bytes();
    while let Some(c) = b.get(i) {
        i = match c {
            b'\\' => i + 2,
            b'"' => return Ok(i + 1),
            b'$' => skip_dollar(src, i, true, depth)?,
            b'`' => skip_backquote(b, i + 1)?,
            _ => i + 1,
        };
    }
    Err(Refused("a double quote has no end"))
}

/// From a `$` to behind what it introduces. A name is left to the caller: only its `$` is skipped.
pub(super) fn skip_dollar(src: &str, i: usize, quoted: bool, depth: usize) -> Result<usize> {
    let b = src.as_bytes();
    if depth > MAX_DEPTH {
        return Err(Refused("nested too deeply"));
    }
    // why: the shell joins the lines before it looks what the dollar introduces.
    if b[i + 1..].starts_with(b"\\\n") || b[i + 1..].starts_with(b"(\\\n") {
        return Err(Refused("a dollar is followed by a line continuation"));
    }
    match b.get(i + 1) {
        Some(b'(') if b.get(i + 2) == Some(&b'(') => skip_arithmetic(src, i + 3, depth + 1),
        Some(b'(') => Ok(tokens(src, i + 2, true, depth + 1)?.1),
        Some(b'{') => skip_braces(src, i + 2, quoted, depth + 1),
        Some(b'[') => Err(Refused("the old form of arithmetic")),
        Some(b'\'') if !quoted => skip_ansi(b, i + 2),
        Some(b'"') if !quoted => skip_double(src, i + 2, depth + 1),
        Some(b'$') if matches!(b.get(i + 2), Some(b'\'' | b'"')) => Err(Refused("a quote right behind $$")),
        Some(b'$') => Ok(i + 2),
        _ => Ok(i + 1),
    }
}

fn skip_arithmetic(src: &str, mut i: usize, depth: usize) -> Result<usize> {
    let b = src.as_bytes();
    let mut open = 2usize;
    while let Some(&c) = b.get(i) {
        i = match c {
            b'(' => {
                open += 1;
                i + 1
            }
            b')' if open == 2 => {
                return if b.get(i + 1) == Some(&b')') { Ok(i + 2) } else { Err(Refused("a substitution that starts with a bracket")) };
            }
            b')' => {
                open -= 1;
                i + 1
            }
            b'$' => skip_dollar(src, i, true, depth)?,
            b'`' => skip_backquote(b, i + 1)?,
            b'\'' | b'"' | b';' | b'\\' | b'#' | b'\n' => return Err(Refused("unusual text in arithmetic")),
            _ => i + 1,
        };
        if open > MAX_GROUPING {
            return Err(Refused("brackets or case are nested too deeply"));
        }
    }
    Err(Refused("arithmetic has no end"))
}

fn skip_braces(src: &str, mut i: usize, quoted: bool, depth: usize) -> Result<usize> {
    let b = src.as_bytes();
    if b.get(i).is_none_or(|c| !(c.is_ascii_alphanumeric() || matches!(c, b'_' | b'#' | b'!' | b'@' | b'*' | b'?' | b'$' | b'-'))) {
        return Err(Refused("an unknown form of ${…}"));
    }
    while let Some(&c) = b.get(i) {
        i = match c {
            b'}' => return Ok(i + 1),
            b'\\' if b.get(i + 1) == Some(&b'\n') => return Err(Refused("a line continuation in ${…}")),
            b'\\' => i + 2,
            b'\'' | b'"' if quoted => return Err(Refused("quotes inside a quoted ${…}")),
            b'\'' => skip_single(b, i + 1)?,
            b'"' => skip_double(src, i + 1, depth)?,
            b'`' => skip_backquote(b, i + 1)?,
            b'{' => return Err(Refused("a brace inside ${…}")),
            b'<' | b'>' if b.get(i + 1) == Some(&b'(') => return Err(Refused("a process substitution inside ${…}")),
            // why: `$}` and `${$}`: the dollar is a name there, not an introducer.
            b'$' if b.get(i + 1) == Some(&b'}') => i + 1,
            b'$' => skip_dollar(src, i, quoted, depth)?,
            _ => i + 1,
        };
    }
    Err(Refused("${…} has no end"))
}
