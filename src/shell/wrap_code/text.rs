//! awk and sed: text tools whose little languages can run commands and write files.
//!
//! Code that plainly does neither is let through; all else makes the reading not complete.
//!
//! Called by `wrap_code`.

use super::super::wrap::{Effect, OPTIONS};
use crate::model::Word;

pub(super) fn awk(args: &[Word]) -> Vec<Effect> {
    let mut i = 0;
    while let Some(word) = args.get(i) {
        match word.text.as_str() {
            "-F" | "-v" => i += 1,
            t if t.starts_with("-F") || t.starts_with("-v") => {}
            "--" => {}
            t if t.starts_with('-') && t.len() > 1 => return vec![Effect::Unknown(OPTIONS)],
            t => {
                // why: output, pipes, system and input from commands all need one of these.
                let plain = word.exact
                    && !t.contains(['|', '>', '@'])
                    && !["system", "getline", "close", "extension"].iter().any(|f| t.contains(f));
                let unknown = vec![Effect::Unknown("awk code can run commands and write files")];
                return if plain { Vec::new() } else { with_called("awk", args, None, unknown) };
            }
        }
        i += 1;
    }
    Vec::new()
}

pub(super) fn sed(args: &[Word]) -> Vec<Effect> {
    let mut scripts: Vec<&Word> = Vec::new();
    let mut operands: Vec<&Word> = Vec::new();
    let mut i = 0;
    while let Some(word) = args.get(i) {
        let t = word.text.as_str();
        if matches!(t, "-e" | "--expression") {
            i += 1;
            scripts.extend(args.get(i));
        } else if t.starts_with("-f")
            || t.starts_with("--file")
            || (t.starts_with("-") && !t.starts_with("--") && t.len() > 2 && !t.starts_with("-i") && t.contains(['e', 'f']))
            || t.starts_with("--expression=")
        {
            return vec![Effect::Unknown("sed code can run commands and write files")];
        } else if !t.starts_with('-') {
            operands.push(word);
        }
        i += 1;
    }
    if scripts.is_empty() {
        scripts.extend(operands.first());
    }
    if scripts.iter().all(|w| w.exact && sed_is_plain(&w.text)) {
        Vec::new()
    } else {
        let mut out = vec![Effect::Unknown("sed code can run commands and write files")];
        for script in scripts {
            let runs = script.text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ',' | '$' | ' '));
            if let Some(code) = runs.strip_prefix('e').filter(|c| c.starts_with(' ')) {
                out.push(Effect::PerhapsCode { label: "sed e".to_owned(), text: code.to_owned() });
            }
        }
        out
    }
}

/// Functions of common languages that run a command line.
const CALLS: &[&str] = &[
    "system",
    "popen",
    "exec",
    "execSync",
    "spawn",
    "spawnSync",
    "run",
    "call",
    "check_call",
    "check_output",
    "Popen",
    "shell_exec",
    "passthru",
    "execute",
    "getoutput",
    "getstatusoutput",
    "cmd",
    "sh",
];

/// Adds the texts that code in another language plainly runs (`os.system("…")`), so that a deny sees them.
pub(super) fn with_called(name: &str, args: &[Word], stdin: Option<&Option<String>>, mut out: Vec<Effect>) -> Vec<Effect> {
    if out.is_empty() {
        return out;
    }
    let given = stdin.and_then(Option::as_deref);
    for code in args.iter().map(|w| w.text.as_str()).chain(given) {
        for (at, quote) in code.char_indices().filter(|(_, c)| matches!(c, '"' | '\'')).take(64) {
            let before = code[..at].trim_end_matches([' ', '(']);
            let called = before.len() < at && CALLS.iter().any(|f| before.ends_with(f));
            if called && let Some(end) = code[at + 1..].find(quote) {
                out.push(Effect::PerhapsCode { label: name.to_owned(), text: code[at + 1..at + 1 + end].to_owned() });
            }
        }
    }
    out
}

/// True for sed code that only prints, deletes and substitutes.
fn sed_is_plain(script: &str) -> bool {
    let mut chars = script.chars().peekable();
    let until = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, stop: char| {
        while let Some(c) = chars.next() {
            match c {
                '\\' => {
                    chars.next();
                }
                c if c == stop => return true,
                '[' | '\n' => return false,
                _ => {}
            }
        }
        false
    };
    while let Some(c) = chars.next() {
        match c {
            '0'..='9' | ',' | '$' | '!' | ' ' | ';' | '\n' | '{' | '}' | '~' | '+' => {}
            'p' | 'P' | 'd' | 'D' | 'q' | 'Q' | '=' | 'n' | 'N' | 'g' | 'G' | 'h' | 'H' | 'x' | 'l' => {
                if chars.peek().is_some_and(|n| !matches!(n, ' ' | ';' | '\n' | '}' | '0'..='9')) {
                    return false;
                }
            }
            '/' => {
                if !until(&mut chars, '/') {
                    return false;
                }
                if chars.peek() == Some(&'I') {
                    chars.next();
                }
            }
            's' | 'y' => {
                let Some(delimiter) = chars.next().filter(|d| !d.is_alphanumeric() && !matches!(d, '\\' | '\n' | ' ')) else {
                    return false;
                };
                let bracketed = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
                    // why: inside a bracket expression the delimiter is plain text to some seds and not to others.
                    let mut whole = chars.clone();
                    let found = until(&mut whole, delimiter);
                    if found {
                        *chars = whole;
                    }
                    found
                };
                if !bracketed(&mut chars) || !until(&mut chars, delimiter) {
                    return false;
                }
                while let Some(flag) = chars.peek().copied() {
                    match flag {
                        'g' | 'p' | 'i' | 'I' | 'm' | 'M' | '0'..='9' => {
                            chars.next();
                        }
                        ' ' | ';' | '\n' | '}' => break,
                        _ => return false,
                    }
                }
            }
            _ => return false,
        }
    }
    true
}
