//! Whether a sed script can do more than edit text: `e` starts programs, `w` writes files, `r` reads them.
//!
//! Invariant: what this small reader does not follow counts as more. Called by `program`.

use beadle_plugin::Word;

/// The first argument by which sed can do more than print and substitute; `None` when there is none.
pub fn power(args: &[Word], spelled: impl Fn(&str) -> bool) -> Option<&Word> {
    let mut rest = args.iter();
    let mut script_seen = false;
    let mut script_option = false;
    let mut bare = None;
    while let Some(word) = rest.next() {
        if spelled(&word.text) {
            script_seen = true;
            continue;
        }
        if !word.exact {
            // A file name by expansion could still become an option that GNU sed takes anywhere.
            match crate::glob::certain_start(&word.text).as_str() {
                "" => return Some(word),
                start if start.starts_with('-') => return Some(word),
                _ => {}
            }
        }
        let text = word.text.as_str();
        match text {
            "-n" | "-E" | "-r" | "-s" | "-u" | "-z" | "-i" | "-nE" | "-En" | "-nr" | "-rn" | "-Ei" | "-ni" | "--quiet" | "--silent"
            | "--regexp-extended" | "--in-place" | "--posix" | "--debug" | "--sandbox" | "--null-data" | "--separate" | "--" => {}
            "-e" | "--expression" | "-ne" | "-Ee" | "-nEe" => {
                script_option = true;
                match rest.next() {
                    Some(script) if script.exact && is_plain(&script.text) => {}
                    script => return script.or(Some(word)),
                }
            }
            _ if text.starts_with("-i.") => {}
            _ if text.starts_with("--expression=") => {
                script_option = true;
                if !is_plain(&text["--expression=".len()..]) {
                    return Some(word);
                }
            }
            _ if text.starts_with('-') && text.len() > 1 => return Some(word),
            _ if bare.is_none() => bare = Some(word),
            _ => {}
        }
    }
    // Without -e the first bare word is the script.
    let script = bare.filter(|_| !script_seen && !script_option)?;
    (!script.exact || !is_plain(&script.text)).then_some(script)
}

/// Whether a script is made only of addresses and commands that touch no file and start nothing.
fn is_plain(script: &str) -> bool {
    let s = script.as_bytes();
    let mut at = 0;
    while at < s.len() {
        match s[at] {
            b' ' | b'\t' | b'\n' | b';' | b'{' | b'}' | b'0'..=b'9' | b'$' | b',' | b'+' | b'~' | b'!' => at += 1,
            b'p' | b'P' | b'd' | b'D' | b'q' | b'Q' | b'=' | b'n' | b'N' | b'h' | b'H' | b'g' | b'G' | b'x' | b'l' | b'z' => at += 1,
            b'/' => match part(s, at + 1, b'/') {
                Some(next) => at = next + usize::from(s.get(next) == Some(&b'I')),
                None => return false,
            },
            kind @ (b's' | b'y') => {
                let Some(&stop) = s.get(at + 1) else { return false };
                if stop == b'\\' || stop == b'\n' || !stop.is_ascii_punctuation() {
                    return false;
                }
                let Some(next) = part(s, at + 2, stop).and_then(|m| part(s, m, stop)) else { return false };
                at = next;
                while kind == b's' && s.get(at).is_some_and(|b| b"gpiI0123456789".contains(b)) {
                    at += 1;
                }
                // Anything but the end of the command (an `e` or `w` flag) is not followed.
                if s.get(at).is_some_and(|b| !b";} \t\n".contains(b)) {
                    return false;
                }
            }
            b'a' | b'i' | b'c' if !script[at..].contains('\n') => return true,
            _ => return false,
        }
    }
    true
}

/// Behind the next `stop` that no backslash precedes.
fn part(s: &[u8], mut at: usize, stop: u8) -> Option<usize> {
    loop {
        match s.get(at)? {
            b'\\' => at += 2,
            b if *b == stop => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts() {
        for s in [
            "1,200p",
            "$p",
            "s/a/b/",
            "s/a\\/b/c/g;s,x,y,2",
            "/foo/,/bar/p",
            "/x/Id",
            "2q;d",
            "1!G;h;$!d",
            "y/abc/xyz/",
            "/x/{p;q}",
            "1i text with w and e",
        ] {
            assert!(is_plain(s), "{s}");
        }
        for s in [
            "1e id",
            "e",
            "s/a/b/e",
            "s/a/b/w out",
            "w out",
            "r /etc/passwd",
            "s/a/b",
            "s/[/]/x/e",
            "1w x",
            "s/a/b/ge",
            "1i x\ne id",
            "W f",
            "s\\a\\b\\e",
        ] {
            assert!(!is_plain(s), "{s}");
        }
    }

    #[test]
    fn arguments() {
        let judged = |words: &[&str]| power(&words.iter().map(|w| Word::exact(*w)).collect::<Vec<_>>(), |_| false).is_none();
        assert!(judged(&["-n", "1,5p", "file"]) && judged(&["-i", "s/a/b/", "x.txt"]) && judged(&["-e", "p", "w"]));
        assert!(!judged(&["-n", "1e id", "file"]) && !judged(&["-f", "x"]) && !judged(&["-e", "p", "-e", "w x"]) && !judged(&["p", "-fx"]));
    }
}
