//! Reads one raw word: its text after quote removal where that is certain, and the code that hides in it.
//!
//! Invariants: `exact` only when no shell option or variable can change the word (globs, braces, tildes and `$` make it inexact);
//! every command substitution in it, at any depth of quoting, is in `subs`.
//!
//! Called by `walk` for every word that the grammar found.

use super::lex::{Refused, skip_ansi, skip_backquote, skip_dollar, skip_double, skip_single};

/// What a raw word says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// After quote removal; meaningful only when `exact`.
    pub text: String,
    pub exact: bool,
    /// Code in it: how it is written (`$()` or two backquotes), and the text.
    pub subs: Vec<(&'static str, String)>,
    /// Something in it can run code that is not in the text.
    pub hazard: Option<&'static str>,
}

struct Reader<'a> {
    src: &'a str,
    depth: usize,
    out: Reading,
    brace: Option<(usize, bool)>,
    bracket: bool,
}

/// Reads a word as the grammar gives it (quotes kept). `depth` is the nesting it stands in.
pub(super) fn read(raw: &str, depth: usize) -> Result<Reading, Refused> {
    let mut reader = Reader::new(raw, depth);
    reader.unquoted()?;
    Ok(reader.out)
}

/// Reads the body of a here-document whose tag is not quoted: only `$`, backquotes and backslashes mean something.
pub(super) fn read_here(body: &str, depth: usize) -> Result<Reading, Refused> {
    let mut reader = Reader::new(body, depth);
    reader.quoted(0, body.len(), false)?;
    Ok(reader.out)
}

impl<'a> Reader<'a> {
    fn new(src: &'a str, depth: usize) -> Self {
        let out = Reading { exact: true, ..Reading::default() };
        Self { src, depth, out, brace: None, bracket: false }
    }

    fn unquoted(&mut self) -> Result<(), Refused> {
        let (src, b) = (self.src, self.src.as_bytes());
        let mut i = 0;
        while let Some(&c) = b.get(i) {
            i = match c {
                b'\\' if b.get(i + 1) == Some(&b'\n') => i + 2,
                b'\\' => self.push_char(i + 1),
                b'\'' => {
                    let end = skip_single(b, i + 1)?;
                    self.out.text.push_str(&src[i + 1..end - 1]);
                    end
                }
                b'"' => {
                    let end = skip_double(src, i + 1, self.depth + 1)?;
                    self.quoted(i + 1, end - 1, true)?;
                    end
                }
                b'$' => self.dollar(i, false)?,
                b'`' => self.backquote(i, false)?,
                _ => {
                    self.expansion(i, c);
                    self.push_char(i)
                }
            };
        }
        Ok(())
    }

    /// Notes whether the unquoted character at `i` takes part in an expansion of the whole word.
    fn expansion(&mut self, i: usize, c: u8) {
        let b = self.src.as_bytes();
        match c {
            b'*' | b'?' => self.out.exact = false,
            b'[' => self.bracket = true,
            b']' if self.bracket => self.out.exact = false,
            b'~' if i == 0 || matches!(b[i - 1], b'=' | b':') => self.out.exact = false,
            b'{' => self.brace = Some((i, false)),
            b',' => self.brace = self.brace.map(|(at, _)| (at, true)),
            b'.' if b.get(i + 1) == Some(&b'.') => self.brace = self.brace.map(|(at, _)| (at, true)),
            b'}' if self.brace.is_some_and(|(_, splits)| splits) => self.out.exact = false,
            // why: a word with a bare bracket is an array value; its elements are not told apart here.
            b'(' | b')' => self.out.exact = false,
            _ => {}
        }
    }

    fn push_char(&mut self, i: usize) -> usize {
        match self.src.get(i..).and_then(|s| s.chars().next()) {
            Some(c) => {
                self.out.text.push(c);
                i + c.len_utf8()
            }
            None => self.src.len().max(i),
        }
    }

    /// The inside of double quotes (or of a here-document, where `"` is plain).
    fn quoted(&mut self, from: usize, to: usize, quotes: bool) -> Result<(), Refused> {
        let b = self.src.as_bytes();
        let mut i = from;
        while i < to {
            i = match b[i] {
                b'\\' => match b.get(i + 1) {
                    Some(b'\n') => i + 2,
                    Some(b'$' | b'`' | b'\\') => self.push_char(i + 1),
                    Some(b'"') if quotes => self.push_char(i + 1),
                    _ => self.push_char(i),
                },
                b'$' => self.dollar(i, true)?,
                b'`' => self.backquote(i, quotes)?,
                _ => self.push_char(i),
            };
        }
        Ok(())
    }

    fn backquote(&mut self, i: usize, quotes: bool) -> Result<usize, Refused> {
        let end = skip_backquote(self.src.as_bytes(), i + 1)?;
        let mut code = String::new();
        let mut chars = self.src[i + 1..end - 1].chars().peekable();
        while let Some(c) = chars.next() {
            match (c, chars.peek()) {
                ('\\', Some('$' | '`' | '\\')) => {}
                ('\\', Some('"')) if quotes => {}
                _ => code.push(c),
            }
            if c == '\\' && chars.peek().is_some_and(|n| matches!(n, '$' | '`' | '\\') || (quotes && *n == '"')) {
                code.extend(chars.next());
            }
        }
        self.out.exact = false;
        self.out.subs.push(("``", code));
        Ok(end)
    }

    fn dollar(&mut self, i: usize, quoted: bool) -> Result<usize, Refused> {
        let (src, b) = (self.src, self.src.as_bytes());
        let end = skip_dollar(src, i, quoted, self.depth + 1)?;
        match b.get(i + 1) {
            Some(b'\'') if !quoted => {
                // why: skip_dollar already found the end, so both skips agree.
                let end = skip_ansi(b, i + 2)?;
                match ansi(&src[i + 2..end - 1]) {
                    Some(text) => self.out.text.push_str(&text),
                    None => self.out.exact = false,
                }
                return Ok(end);
            }
            Some(b'"') if !quoted => {
                // why: a translation catalogue may change it.
                self.out.exact = false;
                self.quoted(i + 2, end - 1, true)?;
            }
            Some(b'(') if b.get(i + 2) == Some(&b'(') => {
                self.out.exact = false;
                self.arithmetic(&src[i + 3..end - 2])?;
            }
            Some(b'(') => {
                self.out.exact = false;
                self.out.subs.push(("$()", src[i + 2..end - 1].to_owned()));
            }
            Some(b'{') => {
                self.out.exact = false;
                self.parameter(&src[i + 2..end - 1])?;
            }
            Some(c) if c.is_ascii_alphanumeric() || matches!(c, b'_' | b'@' | b'*' | b'#' | b'?' | b'-' | b'$' | b'!') => {
                self.out.exact = false;
                // why: the name itself is not text; `@` and `*` would read as globs, and `#` is harmless.
                return Ok(if *c == b'$' { end } else { i + 2 });
            }
            _ => self.out.text.push('$'),
        }
        Ok(end)
    }

    /// Inside `$((…))`: a name's value is evaluated again, and an array subscript in that value can run code.
    fn arithmetic(&mut self, inner: &str) -> Result<(), Refused> {
        if inner.bytes().any(|c| c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'`')) {
            self.out.hazard = Some("arithmetic on names evaluates their values");
        }
        self.nested(inner)
    }

    /// Inside `${…}`.
    fn parameter(&mut self, inner: &str) -> Result<(), Refused> {
        let name = inner.strip_prefix('#').unwrap_or(inner);
        let len = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(name.len());
        let mut rest = &name[len..];
        if inner.starts_with('!') {
            self.out.hazard = Some("an indirect expansion");
        }
        if let Some(subscript) = rest.strip_prefix('[') {
            let close = subscript.find(']').unwrap_or(subscript.len());
            let plain = matches!(&subscript[..close], "@" | "*") || subscript[..close].bytes().all(|c| c.is_ascii_digit());
            if !plain {
                self.out.hazard = Some("a subscript is evaluated");
            }
            rest = subscript.get(close + 1..).unwrap_or_default();
        }
        if rest.starts_with("@P") {
            self.out.hazard = Some("a prompt expansion evaluates the value");
        }
        if rest.starts_with([':', '=']) && rest.trim_start_matches(':').starts_with('=') && super::exec::steers(&name[..len]) {
            self.out.hazard = Some("a variable that steers which program runs is set");
        }
        let offset = rest.strip_prefix(':').filter(|r| !r.starts_with(['-', '=', '?', '+']));
        if offset.is_some_and(|o| !o.bytes().all(|c| c.is_ascii_digit() || matches!(c, b':' | b' ' | b'-'))) {
            self.out.hazard = Some("arithmetic on names evaluates their values");
        }
        self.nested(inner)
    }

    /// Collects code and hazards of text that stands inside an expansion.
    fn nested(&mut self, inner: &str) -> Result<(), Refused> {
        let mut reader = Reader::new(inner, self.depth + 1);
        reader.unquoted()?;
        self.out.subs.append(&mut reader.out.subs);
        self.out.hazard = self.out.hazard.or(reader.out.hazard);
        Ok(())
    }
}

/// Decodes the inside of `$'…'`; `None` when the result is not certain (a NUL, a byte that is not UTF-8, a control form).
fn ansi(inner: &str) -> Option<String> {
    let mut out: Vec<u8> = Vec::new();
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let kind = chars.next()?;
        let mut number = |radix: u32, most: usize, first: Option<char>| {
            let mut value = first.and_then(|c| c.to_digit(radix));
            let mut taken = usize::from(first.is_some());
            while taken < most {
                let Some(digit) = chars.peek().and_then(|c| c.to_digit(radix)) else { break };
                value = Some(value.unwrap_or(0) * radix + digit);
                chars.next();
                taken += 1;
            }
            value
        };
        match kind {
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            'r' => out.push(b'\r'),
            'a' => out.push(7),
            'b' => out.push(8),
            'e' | 'E' => out.push(27),
            'f' => out.push(12),
            'v' => out.push(11),
            '\\' | '\'' | '"' | '?' => out.push(kind as u8),
            '0'..='7' => out.push(u8::try_from(number(8, 3, Some(kind))?).ok()?),
            'x' => out.push(u8::try_from(number(16, 2, None)?).ok()?),
            'u' | 'U' => {
                let c = char::from_u32(number(16, if kind == 'u' { 4 } else { 8 }, None)?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    if out.contains(&0) { None } else { String::from_utf8(out).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(raw: &str) -> Option<String> {
        let reading = read(raw, 0).expect(raw);
        reading.exact.then_some(reading.text)
    }

    #[test]
    fn quotes_are_removed_as_bash_does() {
        for (raw, text) in [
            ("g\\it", "git"),
            ("'a b'", "a b"),
            ("\"a\\\"b\"", "a\"b"),
            ("\"a\\nb\"", "a\\nb"),
            ("p''u\"s\"h", "push"),
            ("$'\\x67it'", "git"),
            ("$'\\147it'", "git"),
            ("$'\\u0067it'", "git"),
            ("{}", "{}"),
            ("a{b}", "a{b}"),
            ("[", "["),
            ("a~b", "a~b"),
            ("\"*\"", "*"),
            ("\\*", "*"),
            ("a$", "a$"),
            ("é", "é"),
        ] {
            assert_eq!(exact(raw).as_deref(), Some(text), "{raw}");
        }
    }

    #[test]
    fn expansions_are_not_exact() {
        for raw in [
            "*", "a?", "[ab]", "{a,b}", "{1..3}", "~", "~/x", "a=~/x", "$x", "\"$x\"", "${x}", "$1", "$@", "`a`", "$(a)", "$((1))",
            "$\"a\"", "$'a\\0b'", "$'\\cx'",
        ] {
            assert_eq!(exact(raw), None, "{raw}");
        }
    }

    #[test]
    fn code_is_found_at_any_depth_of_quoting() {
        for (raw, code) in [
            ("$(a b)", vec!["a b"]),
            ("x\"y$(a 'b)')z\"", vec!["a 'b)'"]),
            ("${x:-$(a)}", vec!["a"]),
            ("\"${x:-`a`}\"", vec!["a"]),
            ("$((1+$(a)))", vec!["a"]),
            ("`a \\`b\\` \\$c`", vec!["a `b` $c"]),
            ("\"`a \\\"b\\\"`\"", vec!["a \"b\""]),
        ] {
            let reading = read(raw, 0).expect(raw);
            assert_eq!(reading.subs.iter().map(|(_, c)| c.as_str()).collect::<Vec<_>>(), code, "{raw}");
        }
        assert_eq!(read_here("it's $(a) \\$(b) \"`c`\"", 0).expect("here").subs.len(), 2);
    }

    #[test]
    fn evaluated_values_are_a_hazard() {
        for raw in ["$((x))", "$(( $x ))", "${!x}", "${x@P}", "${a[i]}", "${x:y}"] {
            assert!(read(raw, 0).expect(raw).hazard.is_some(), "{raw}");
        }
        for raw in ["$((1+2))", "${x:-y}", "${a[0]}", "${a[@]}", "${x:1:2}", "${#x}", "${x%.*}"] {
            assert!(read(raw, 0).expect(raw).hazard.is_none(), "{raw}");
        }
    }
}
