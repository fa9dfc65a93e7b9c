//! Byte patterns with stars, as compiled from rules.
//!
//! Invariants: [`STAR`] and [`ONE`] are bytes that UTF-8 text never holds, so a quoted or escaped star in a rule is
//! just a star. Matching is linear in practice and never recursive. Called by `command`, `place` and `policy`.

/// Any run of bytes, also none.
pub const STAR: u8 = 0xff;
/// Exactly one character.
pub const ONE: u8 = 0xfe;

/// Whether the whole text fits the whole pattern.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(&STAR) => {
                back = Some((p, t));
                p += 1;
                continue;
            }
            Some(&ONE) => {
                p += 1;
                t += width(text, t);
                continue;
            }
            Some(b) if *b == text[t] => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        let Some((star, at)) = back else { return false };
        (p, t) = (star + 1, at + 1);
        back = Some((star, at + 1));
    }
    pattern[p..].iter().all(|b| *b == STAR)
}

/// Bytes of the character at `at`.
fn width(text: &[u8], at: usize) -> usize {
    1 + text[at + 1..].iter().take_while(|b| **b & 0xc0 == 0x80).count()
}

/// A text of which some stretches are not known.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    Known(&'a str),
    Unknown,
}

/// Whether some text that the pieces can stand for fits the pattern. `ONE` counts as one byte here.
pub fn can_match<'a>(pattern: &[u8], pieces: impl Iterator<Item = Piece<'a>>) -> bool {
    let end = pattern.len();
    let mut now = vec![false; end + 1];
    let mut next = vec![false; end + 1];
    now[0] = true;
    close(pattern, &mut now);
    for piece in pieces {
        match piece {
            Piece::Unknown => {
                let Some(first) = now.iter().position(|b| *b) else { return false };
                now[first..].fill(true);
            }
            Piece::Known(text) => {
                for b in text.bytes() {
                    next.fill(false);
                    for (p, live) in now.iter().enumerate().take(end) {
                        if *live && pattern[p] == STAR {
                            next[p] = true;
                        } else if *live && (pattern[p] == b || pattern[p] == ONE) {
                            next[p + 1] = true;
                        }
                    }
                    close(pattern, &mut next);
                    core::mem::swap(&mut now, &mut next);
                }
            }
        }
    }
    now[end]
}

/// Adds what stars reach without taking a byte.
fn close(pattern: &[u8], states: &mut [bool]) {
    for p in 0..pattern.len() {
        if states[p] && pattern[p] == STAR {
            states[p + 1] = true;
        }
    }
}

/// What an inexact shell word is certain to begin with; empty when nothing is.
///
/// Reads the word as written: quotes are taken off, and the first character that the shell would work on ends it.
pub fn certain_start(written: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    for c in written.chars() {
        match c {
            '"' => quoted = !quoted,
            '$' | '`' | '\\' => break,
            '*' | '?' | '[' | '{' | '~' | '\'' | '(' | ')' | '<' | '>' | '!' | '+' | '@' if !quoted => break,
            c => out.push(c),
        }
    }
    out
}

/// Whether an inexact word can become another number of words than one.
///
/// One word for certain: all of it in one pair of double quotes without a list in it, also when it is the usual
/// `"$(cat <<'EOF' … EOF )"` around plain text.
pub fn can_split(written: &str) -> bool {
    let Some(inner) = written.strip_prefix('"').and_then(|w| w.strip_suffix('"')) else { return true };
    if let Some(body) = inner.strip_prefix("$(cat <<'EOF'\n") {
        return body.split_once("\nEOF\n").is_none_or(|(_, end)| end.trim_start() != ")");
    }
    inner.contains(['"', '\\']) || ["$@", "${@", "[@]", "${!"].iter().any(|list| inner.contains(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Vec<u8> {
        text.bytes()
            .map(|b| {
                if b == b'*' {
                    STAR
                } else if b == b'?' {
                    ONE
                } else {
                    b
                }
            })
            .collect()
    }

    #[test]
    fn stars_and_single_characters() {
        for (p, t, want) in [
            ("", "", true),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b*", "xbxax", false),
            ("a?c", "a\u{e9}c", true),
            ("a?c", "ac", false),
            ("abc", "ab", false),
        ] {
            assert_eq!(matches(&pattern(p), t.as_bytes()), want, "{p} {t}");
            if !p.contains('?') {
                assert_eq!(can_match(&pattern(p), [Piece::Known(t)].into_iter()), want, "{p} {t}");
            }
        }
    }

    #[test]
    fn unknown_stretches_can_be_anything() {
        let known = Piece::Known;
        assert!(can_match(&pattern("*--force*"), [known("git push "), Piece::Unknown].into_iter()));
        assert!(!can_match(&pattern("git push*"), [known("git st"), Piece::Unknown].into_iter()));
        assert!(can_match(&pattern("git push"), [known("git "), Piece::Unknown].into_iter()));
        assert!(!can_match(&pattern("git push"), [Piece::Unknown, known("x")].into_iter()));
    }

    #[test]
    fn certain_starts() {
        for (w, want) in [
            ("$X", ""),
            ("pu$X", "pu"),
            ("\"$X\"", ""),
            ("\"a b$X\"", "a b"),
            ("*.rs", ""),
            ("src/*.rs", "src/"),
            ("~/x", ""),
            ("a'b'$c", "a"),
        ] {
            assert_eq!(certain_start(w), want, "{w}");
        }
        assert!(can_split("$X") && can_split("\"$@\"") && can_split("\"$X\"y\"z\"") && !can_split("\"$X\"") && !can_split("\"a@b.c $X\""));
        assert!(!can_split("\"$(cat <<'EOF'\nsays \"hi\"\nEOF\n)\"") && can_split("\"$(cat <<'EOF'\nx\nEOF\n)\"$Z\"\""));
    }
}
