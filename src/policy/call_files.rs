//! Which files the common tools name on their command lines, and how they use them.
//!
//! A table, on the safe side: a word that may be a file is taken for one, a tool that is not here names none. Paths of rules are a
//! second line; the first is the rule on the command itself.
//!
//! Called by `call`.

use crate::model::{Access, Word};

#[path = "call_tools.rs"]
mod call_tools;
#[path = "call_trees.rs"]
mod call_trees;

/// A word of a command that names a file; `text` for a part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWord {
    pub word: Word,
    pub access: Access,
    /// The directory it is relative to, from an option such as `-C`, joined to the command's own.
    pub base: Option<String>,
}

use Access::{Read as R, ReadWrite as RW, Write as W};
use call_tools::{Operands, TOOLS, Tool};

fn word(text: &str, exact: bool) -> Word {
    Word { text: text.to_owned(), exact }
}

/// Whether the words of a program are told apart here, or are plainly no files.
pub fn is_known(name: &str) -> bool {
    matches!(
        name,
        "dd" | "sed"
            | "gsed"
            | "find"
            | "gfind"
            | "tar"
            | "gtar"
            | "bsdtar"
            | "unzip"
            | "bsdunzip"
            | "git"
            | "echo"
            | "printf"
            | "test"
            | "["
            | "cd"
            | "pushd"
            | "export"
            | "declare"
            | "local"
            | "readonly"
            | "unset"
            | "set"
            | "shift"
            | "which"
            | "type"
            | "command"
            | "kill"
            | "sleep"
            | "seq"
            | "expr"
            | "basename"
            | "dirname"
            | "tr"
            | "date"
            | "alias"
            | "eval"
            | "sh"
            | "bash"
            | "dash"
            | "zsh"
            | "env"
            | "sudo"
            | "mkdir"
            | "cargo"
            | "npm"
            | "make"
    ) || TOOLS.iter().any(|t| t.names.contains(&name))
}

/// The files that a command line names. `argv` is not empty.
pub fn files(argv: &[Word]) -> Vec<FileWord> {
    let name = argv[0].text.rsplit('/').next().unwrap_or_default();
    let mut out = Vec::new();
    match name {
        "dd" => {
            for arg in &argv[1..] {
                for (key, access) in [("of=", W), ("if=", R)] {
                    if let Some(path) = arg.text.trim_start_matches(['"', '\'']).strip_prefix(key) {
                        out.push(FileWord { word: word(path, arg.exact), access, base: None });
                    }
                }
            }
        }
        "sed" | "gsed" => {
            let inline = argv[1..].iter().any(|w| {
                w.text.starts_with("--in-place") || (w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains('i'))
            });
            let given = &["-e", "-f", "--expression", "--file"];
            out = operands(
                &argv[1..],
                &Tool {
                    names: &[],
                    operands: Operands::AfterFirst(if inline { RW } else { R }, given),
                    valued: &["-e", "--expression", "-l"],
                    files: &[("-f", R), ("--file", R)],
                },
            );
        }
        "find" | "gfind" => {
            let deletes = argv.iter().any(|w| w.text == "-delete");
            let access = if deletes { W } else { R };
            let starts = argv[1..]
                .iter()
                .skip_while(|w| matches!(w.text.as_str(), "-H" | "-L" | "-P"))
                .take_while(|w| !w.text.starts_with(['-', '(', '!']));
            out.extend(starts.map(|w| FileWord { word: w.clone(), access, base: None }));
            if out.is_empty() {
                out.push(FileWord { word: word(".", true), access, base: None });
            }
            for pair in argv.windows(2).filter(|p| p[0].text.starts_with("-fprint") || p[0].text == "-fls") {
                out.push(FileWord { word: pair[1].clone(), access: W, base: None });
            }
        }
        "tar" | "gtar" | "bsdtar" => call_trees::tar(&argv[1..], &mut out),
        "unzip" | "bsdunzip" => {
            let to = argv.windows(2).find(|p| p[0].text == "-d").map(|p| p[1].clone());
            let glued = argv[1..].iter().find_map(|w| w.text.strip_prefix("-d").filter(|d| !d.is_empty()).map(|d| word(d, w.exact)));
            let lists = argv[1..].iter().any(|w| w.text.starts_with('-') && w.text.contains(['l', 't', 'p', 'Z', 'v']));
            out.extend(argv[1..].iter().find(|w| !w.text.starts_with('-')).map(|w| FileWord { word: w.clone(), access: R, base: None }));
            if !lists {
                out.push(FileWord { word: to.or(glued).unwrap_or_else(|| word(".", true)), access: W, base: None });
            }
        }
        "git" => call_trees::git(argv, &mut out),
        "bash" | "sh" | "dash" | "ash" | "zsh" | "ksh" | "fish" | "python" | "python2" | "python3" | "perl" | "ruby" | "node" | "php"
        | "lua" | "tsx" | "ts-node" => {
            // why: with an option that takes code (`-c`, `-lc`, `-ne`), or a module, the operands are no script.
            let code = |w: &Word| w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains(['c', 'e', 'E', 'm', 'r']);
            let first = argv[1..].iter().find(|w| code(w) || !w.text.starts_with(['-', '+']));
            let given = first.is_some_and(code);
            out.extend(first.filter(|w| !code(w)).map(|w| FileWord { word: w.clone(), access: R, base: None }));
            if given && matches!(name, "perl" | "ruby") {
                // why: with -n and -p the words behind the code are the files it goes over.
                out.extend(argv[1..].iter().filter(|w| !w.text.starts_with('-')).skip(1).map(|w| FileWord {
                    word: w.clone(),
                    access: R,
                    base: None,
                }));
            }
        }
        _ => {
            if let Some(tool) = TOOLS.iter().find(|t| t.names.contains(&name)) {
                out = operands(&argv[1..], tool);
            }
            if out.is_empty() && matches!(name, "ls" | "dir" | "vdir" | "tree" | "du" | "exa" | "eza" | "lsd" | "rg" | "ag" | "ack") {
                out.push(FileWord { word: word(".", true), access: R, base: None });
            }
            if name == "curl" {
                let remote_name = argv[1..].iter().any(|w| {
                    w.text == "--remote-name"
                        || w.text == "--remote-name-all"
                        || (w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains('O'))
                });
                if remote_name {
                    out.push(FileWord { word: word(".", true), access: W, base: None });
                }
                for arg in &argv[1..] {
                    if let Some(path) = arg.text.strip_prefix("file://") {
                        out.push(FileWord { word: word(path, arg.exact), access: R, base: None });
                    } else if let Some((_, path)) = arg.text.split_once("=<") {
                        out.push(FileWord { word: word(path, arg.exact), access: R, base: None });
                    } else if let Some((_, path)) = arg.text.split_once('@').filter(|(before, _)| {
                        before.is_empty() || before.ends_with('=') || before.starts_with("-d") || before.starts_with("-F")
                    }) {
                        out.push(FileWord { word: word(path, arg.exact), access: R, base: None });
                    }
                }
            } else if name == "wget" && !out.iter().any(|f| f.access == W) && argv.len() > 1 {
                out.push(FileWord { word: word(".", true), access: W, base: None });
            }
        }
    }
    out
}

/// Whether a bundle of short options ends in one that takes the next word (`grep -rne x`).
fn takes_next(text: &str, tool: &Tool) -> bool {
    let Some(letters) = text.strip_prefix('-').filter(|l| !l.starts_with('-') && l.len() > 1) else { return false };
    let valued = |c: char| tool.valued.iter().any(|o| o.len() == 2 && o.ends_with(c));
    letters.chars().position(valued).is_some_and(|at| at + 1 == letters.chars().count())
}

/// A file option at the end of a bundle of short ones (`curl -fsSLo f`, `wget -qOf`).
fn bundled(text: &str, next: Option<&Word>, tool: &Tool) -> Option<(Option<Word>, Access, usize)> {
    let letters = text.strip_prefix('-').filter(|l| !l.starts_with('-') && l.len() > 1)?;
    for (at, letter) in letters.char_indices() {
        let is = |option: &str| option.strip_prefix('-') == Some(&letters[at..at + letter.len_utf8()]);
        if let Some((_, access)) = tool.files.iter().find(|(option, _)| is(option)) {
            let rest = &letters[at + letter.len_utf8()..];
            return Some(if rest.is_empty() { (next.cloned(), *access, 1) } else { (Some(word(rest, true)), *access, 0) });
        }
        if tool.valued.iter().any(|option| is(option)) {
            return None;
        }
    }
    None
}

fn operands(args: &[Word], tool: &Tool) -> Vec<FileWord> {
    let mut out = Vec::new();
    let mut plain: Vec<&Word> = Vec::new();
    let (mut i, mut only, mut given, mut target) = (0, false, false, false);
    while let Some(arg) = args.get(i) {
        i += 1;
        let text = arg.text.as_str();
        if only || !text.starts_with('-') || text == "-" {
            if text != "-" {
                plain.push(arg);
            }
            continue;
        }
        if text == "--" {
            only = true;
            continue;
        }
        if let Operands::AfterFirst(_, options) = tool.operands {
            given |= options
                .iter()
                .any(|o| text == *o || text.strip_prefix(o).is_some_and(|r| r.starts_with('=') || (o.len() == 2 && !r.is_empty())));
        }
        let file = tool.files.iter().find_map(|(option, access)| {
            let rest = text.strip_prefix(option)?;
            match rest {
                "" => Some((args.get(i).cloned(), *access, 1)),
                _ if rest.starts_with('=') => Some((Some(word(&rest[1..], arg.exact)), *access, 0)),
                _ if option.len() == 2 => Some((Some(word(rest, arg.exact)), *access, 0)),
                _ => None,
            }
        });
        let file = file.or_else(|| bundled(text, args.get(i), tool));
        if let Some((path, access, skip)) = file {
            i += skip;
            target |= access == W && matches!(tool.operands, Operands::ToLast(_));
            out.extend(path.map(|word| FileWord { word, access, base: None }));
        } else if tool.valued.contains(&text) || takes_next(text, tool) {
            i += 1;
        }
    }
    let count = plain.len();
    for (n, arg) in plain.into_iter().enumerate() {
        let access = match tool.operands {
            Operands::All(access) => access,
            Operands::AfterFirst(access, _) if n > 0 || given => access,
            Operands::ToLast(access) => {
                if n + 1 == count && !target {
                    W
                } else {
                    access
                }
            }
            Operands::FirstWritten if n == 0 => W,
            Operands::FirstRead | Operands::SecondWritten if n == 0 => R,
            Operands::SecondWritten => W,
            _ => continue,
        };
        out.push(FileWord { word: arg.clone(), access, base: None });
    }
    out
}
