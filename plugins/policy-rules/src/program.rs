//! What is known of programs: their options, and which of them do more than their name says.
//!
//! Invariants: the tables only ever make an answer stricter for programs and options that are in them, save three
//! short lists that loosen an allow ([`harmless_env`], [`harmless_globals`], [`is_transparent`]); those hold only what
//! neither starts another program nor writes a file. Called by `command` and `judge`.

use crate::options::GLOBALS;
use beadle_plugin::Word;

use crate::glob::{can_split, certain_start};
use crate::sed;

/// What a word that starts with `-` does to the word after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    Alone,
    TakesNext,
    NotKnown,
}

/// Reads an exact option of a program.
pub fn option_kind(program: &str, option: &str) -> OptionKind {
    if option.contains('=') {
        return OptionKind::Alone;
    }
    match GLOBALS.iter().find(|g| g.program == program) {
        Some(g) if g.valued.contains(&option) => OptionKind::TakesNext,
        Some(g) if g.alone.contains(&option) => OptionKind::Alone,
        _ => OptionKind::NotKnown,
    }
}

/// Whether the program writes options of several letters with one dash, so that `-delete` is no cluster.
pub fn long_with_one_dash(program: &str) -> bool {
    matches!(
        program,
        "find"
            | "terraform"
            | "tofu"
            | "java"
            | "javac"
            | "go"
            | "openssl"
            | "gcc"
            | "cc"
            | "clang"
            | "ffmpeg"
            | "convert"
            | "xcodebuild"
            | "cmake"
            | "ip"
    )
}

/// Long spellings of short options, where both are common and dangerous.
const SPELLINGS: &[(&str, u8, &str)] = &[
    ("rm", b'r', "--recursive"),
    ("rm", b'R', "--recursive"),
    ("rm", b'f', "--force"),
    ("cp", b'r', "--recursive"),
    ("cp", b'f', "--force"),
    ("mv", b'f', "--force"),
    ("ln", b'f', "--force"),
    ("chmod", b'R', "--recursive"),
    ("chown", b'R', "--recursive"),
    ("chgrp", b'R', "--recursive"),
    ("git", b'f', "--force"),
    ("git", b'd', "--delete"),
    ("git", b'n', "--no-verify"),
    ("git", b'a', "--all"),
    ("sed", b'i', "--in-place"),
    ("tar", b'x', "--extract"),
    ("curl", b'o', "--output"),
    ("npm", b'g', "--global"),
    ("npm", b'f', "--force"),
    ("docker", b'v', "--volume"),
];

/// Whether `long` is another spelling of the short option `letter`.
pub fn same_option(program: &str, letter: u8, long: &str) -> bool {
    SPELLINGS.iter().any(|(p, s, l)| *p == program && *s == letter && *l == long)
        || (program == "rm" && matches!(letter, b'r' | b'R') && long.len() == 2 && long.ends_with(['r', 'R']))
}

/// Whether an environment assignment changes no more than how output looks.
pub fn harmless_env(assignment: &Word) -> bool {
    const NAMES: &[&str] = &[
        "CI",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "COLORTERM",
        "COLUMNS",
        "DEBIAN_FRONTEND",
        "FORCE_COLOR",
        "GIT_OPTIONAL_LOCKS",
        "GIT_TERMINAL_PROMPT",
        "LANG",
        "LANGUAGE",
        "LINES",
        "NODE_ENV",
        "NO_COLOR",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONUNBUFFERED",
        "RUST_BACKTRACE",
        "RUST_LOG",
        "TERM",
        "CARGO_TERM_COLOR",
        "CARGO_TERM_PROGRESS_WHEN",
        "TZ",
        "PYTHONIOENCODING",
    ];
    let Some((name, value)) = assignment.text.split_once('=') else { return false };
    match name {
        "PAGER" | "GIT_PAGER" | "MANPAGER" => assignment.exact && matches!(value, "" | "cat"),
        _ => NAMES.contains(&name) || (name.starts_with("LC_") && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')),
    }
}

/// How many leading arguments are options that an allow rule need not spell.
pub fn harmless_globals(program: &str, args: &[Word]) -> usize {
    let list: &[&str] = match program {
        "git" => &["-P", "--no-pager", "--no-optional-locks", "--no-advice", "--literal-pathspecs", "--no-replace-objects"],
        "cargo" => &["-v", "-vv", "--verbose", "-q", "--quiet", "--locked", "--offline", "--frozen"],
        "npm" => &["-s", "--silent", "-q", "--quiet"],
        _ => return 0,
    };
    args.iter().take_while(|w| w.exact && list.contains(&w.text.as_str())).count()
}

/// Options with which a program starts another one or overwrites files: an allow rule must spell them.
/// `("git", "grep", …)` is for one subcommand, `""` for all; an entry that ends in `=` matches words that contain it.
const POWERS: &[(&str, &str, &[&str])] = &[
    ("rg", "", &["--pre", "--hostname-bin"]),
    ("fd", "", &["-x", "-X", "--exec", "--exec-batch"]),
    ("fdfind", "", &["-x", "-X", "--exec", "--exec-batch"]),
    (
        "tar",
        "",
        &[
            "--to-command",
            "--checkpoint-action",
            "-I",
            "--use-compress-program",
            "-F",
            "--info-script",
            "--new-volume-script",
            "--rsh-command",
            "--rmt-command",
        ],
    ),
    ("find", "", &["-delete", "-fprint", "-fprint0", "-fprintf", "-fls", "-exec", "-execdir", "-ok", "-okdir", "-files0-from"]),
    ("sort", "", &["--compress-program", "-o", "--output"]),
    ("split", "", &["--filter"]),
    ("zip", "", &["-T", "-TT", "--unzip-command"]),
    ("rsync", "", &["-e", "--rsh", "--rsync-path"]),
    ("scp", "", &["-S", "-o", "-F", "-D"]),
    ("ssh", "", &["-o", "-F", "-P", "-I", "-E", "-S"]),
    ("sftp", "", &["-S", "-o", "-F", "-D"]),
    (
        "curl",
        "",
        &[
            "-K",
            "--config",
            "-o",
            "-O",
            "--output",
            "--output-dir",
            "--remote-name",
            "--remote-name-all",
            "-J",
            "-D",
            "--dump-header",
            "-c",
            "--cookie-jar",
            "--trace",
            "--trace-ascii",
            "--stderr",
            "--engine",
            "--unix-socket",
            "--abstract-unix-socket",
            "--proto",
            "--libcurl",
            "--etag-save",
            "--hsts",
            "--alt-svc",
        ],
    ),
    ("wget", "", &["--use-askpass", "-e", "--execute", "--config"]),
    ("make", "", &["SHELL=", "--eval", "-f", "--file", "--makefile", "-C", "--directory", "-I", "--include-dir"]),
    ("gmake", "", &["SHELL=", "--eval", "-f", "--file", "--makefile", "-C", "--directory", "-I", "--include-dir"]),
    ("go", "", &["-exec", "-toolexec", "-vettool", "-C", "-overlay"]),
    ("cargo", "", &["--config", "-Z", "-C", "--manifest-path"]),
    ("npm", "", &["--script-shell", "--prefix", "-C", "--node-options", "--userconfig", "--globalconfig"]),
    ("pnpm", "", &["--script-shell", "--prefix", "-C", "--dir"]),
    ("yarn", "", &["--cwd", "--use-yarnrc"]),
    ("pip", "", &["--python"]),
    ("gcc", "", &["-wrapper", "-fplugin", "-specs", "-B"]),
    ("clang", "", &["-fplugin", "-Xclang", "-B"]),
    ("man", "", &["-P", "--pager", "-H", "--html", "-C", "--config-file", "-p", "--preprocessor"]),
    ("less", "", &["-o", "-O", "-k", "--lesskey-file", "--lesskey-src", "--log-file", "--LOG-FILE", "+"]),
    ("bat", "", &["--pager"]),
    ("vim", "", &["-c", "--cmd", "-S", "-u", "-U", "-s", "-w", "-W"]),
    ("openssl", "", &["-engine", "-provider", "-provider-path", "-config"]),
    ("tcpdump", "", &["-z", "-w"]),
    ("nc", "", &["-e", "-c", "--exec", "--sh-exec", "--lua-exec"]),
    ("ncat", "", &["-e", "-c", "--exec", "--sh-exec", "--lua-exec"]),
    ("date", "", &["-s", "--set", "-f", "--file"]),
    ("file", "", &["-m", "--magic-file", "-C", "--compile", "-f", "--files-from"]),
    ("diff", "", &["--to-file", "--from-file"]),
    ("jq", "", &["-f", "--from-file", "-L"]),
    ("strings", "", &["--plugin"]),
    ("dot", "", &["-o", "-O", "-l"]),
    ("cmake", "", &["-P", "-E"]),
    ("ninja", "", &["-C", "-f"]),
    ("gradle", "", &["-I", "--init-script", "-b", "--build-file", "-c", "--settings-file", "-p", "--project-dir"]),
    ("terraform", "", &["-chdir"]),
    ("tofu", "", &["-chdir"]),
    ("helm", "", &["--post-renderer"]),
    ("composer", "", &["-d", "--working-dir"]),
    ("apt-get", "", &["-o", "--option", "-c", "--config-file"]),
    ("dpkg", "", &["--pre-invoke", "--post-invoke", "--root", "--admindir"]),
    ("ip", "", &["-b", "-batch", "exec"]),
    ("hg", "", &["--config", "--cwd", "-R", "--repository"]),
    ("svn", "", &["--diff-cmd", "--diff3-cmd", "--editor-cmd", "--config-option", "--config-dir", "--merge-cmd"]),
    ("nginx", "", &["-c", "-g", "-p"]),
    ("rake", "", &["-f", "--rakefile", "-r", "--require", "-I", "--libdir"]),
    ("gem", "", &["--config-file"]),
    ("systemctl", "", &["-H", "--host", "-M", "--machine", "edit"]),
    ("install", "", &["--strip-program"]),
    ("cpio", "", &["--rsh-command"]),
    ("gpg", "", &["--photo-viewer", "--agent-program", "--exec-path", "--options", "--homedir", "--dirmngr-program"]),
    ("tree", "", &["-o"]),
    ("pytest", "", &["-p", "-c", "--confcutdir", "--rootdir"]),
    ("node", "", &["-r", "--require", "--import", "--loader", "--experimental-loader"]),
    ("git", "", &["-c", "-C", "--config-env", "--exec-path", "--git-dir", "--work-tree", "--paginate", "-p"]),
    ("git", "grep", &["-O", "--open-files-in-pager", "--textconv"]),
    ("git", "diff", &["--ext-diff", "--textconv", "--output", "--no-index"]),
    ("git", "log", &["--ext-diff", "--textconv", "--output"]),
    ("git", "show", &["--ext-diff", "--textconv", "--output"]),
    ("git", "blame", &["--contents", "-S", "--ignore-revs-file"]),
    ("git", "fetch", &["--upload-pack"]),
    ("git", "pull", &["--upload-pack", "-s", "--strategy"]),
    ("git", "clone", &["-u", "--upload-pack", "-c", "--config", "--template", "--separate-git-dir"]),
    ("git", "ls-remote", &["--upload-pack", "--exec"]),
    ("git", "push", &["--receive-pack", "--exec"]),
    ("git", "archive", &["--exec", "--output", "-o", "--remote"]),
    ("git", "rebase", &["-x", "--exec", "-s", "--strategy"]),
    ("git", "merge", &["-s", "--strategy"]),
    ("git", "commit", &["--gpg-sign", "-S"]),
    ("git", "init", &["--template", "--separate-git-dir"]),
    ("git", "difftool", &["-x", "--extcmd"]),
    ("git", "bisect", &["run"]),
    ("git", "submodule", &["foreach"]),
    ("git", "send-email", &["--sendmail-cmd", "--smtp-server"]),
];

/// The first argument by which the command can do more than the spelled words of a rule allow; `None` when there is none.
///
/// `spelled` tells whether the rule itself has that word, `inner_listed` whether what `-exec` starts is listed apart.
pub fn power<'a>(program: &str, args: &'a [Word], spelled: impl Fn(&str) -> bool, inner_listed: bool) -> Option<&'a Word> {
    if program == "sed" {
        return sed::power(args, spelled);
    }
    if matches!(program, "uniq" | "xxd") {
        // The second operand is written.
        return args.iter().filter(|w| !w.exact || !w.text.starts_with('-') || w.text == "-").nth(1).filter(|w| !spelled(&w.text));
    }
    if !POWERS.iter().any(|(p, ..)| *p == program) {
        return None;
    }
    let sub_at = if program == "git" { subcommand(args) } else { 0 };
    let sub = args.get(sub_at).filter(|w| w.exact).map_or("", |w| w.text.as_str());
    for (at, word) in args.iter().enumerate() {
        if word.exact && word.text == "--" {
            return None;
        }
        if is_message(program, args, at) {
            continue;
        }
        let lists = POWERS.iter().filter(|(p, s, _)| {
            *p == program
                && if program == "git" { if at < sub_at { s.is_empty() } else { !s.is_empty() && *s == sub } } else { s.is_empty() }
        });
        for option in lists.flat_map(|(.., options)| options.iter()) {
            let exec_is_listed = inner_listed && (option.starts_with("-exec") || option.starts_with("-ok"));
            if !spelled(option) && !exec_is_listed && is_option(program, word, option, at == 0) {
                return Some(word);
            }
        }
        // An unknown subcommand can be anything.
        if program == "git" && at == sub_at && !word.exact {
            return Some(word);
        }
    }
    None
}

/// Whether an inexact word is for certain the message of a commit, and so no option.
pub fn is_message(program: &str, args: &[Word], at: usize) -> bool {
    let before = at.checked_sub(1).map(|i| &args[i]).filter(|w| w.exact).map_or("", |w| w.text.as_str());
    let takes =
        before == "--message" || (before.starts_with('-') && !before.starts_with("--") && before.ends_with('m') && before.len() <= 4);
    program == "git" && takes && !args[at].exact && !can_split(&args[at].text)
}

/// Whether a word is the value of git's `-m`, whatever it looks like.
pub fn is_commit_message(program: &str, args: &[Word], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|i| &args[i]).filter(|w| w.exact) else { return false };
    let takes = before.text == "--message" || before.text == "-m" || (before.text == "-am" && args[at].exact);
    program == "git" && takes && args.get(subcommand(args)).is_some_and(|w| w.exact && matches!(w.text.as_str(), "commit" | "tag"))
}

/// Git's subcommand where it is known.
pub fn git_subcommand(args: &[Word]) -> &str {
    args.get(subcommand(args)).filter(|w| w.exact).map_or("", |w| w.text.as_str())
}

/// Where git's subcommand stands; the number of arguments when there is none.
fn subcommand(args: &[Word]) -> usize {
    let mut at = 0;
    while let Some(w) = args.get(at) {
        if !w.exact || !w.text.starts_with('-') {
            break;
        }
        at += if option_kind("git", &w.text) == OptionKind::TakesNext { 2 } else { 1 };
    }
    at.min(args.len())
}

/// Whether a word is, or can be, this option.
fn is_option(program: &str, word: &Word, option: &str, first: bool) -> bool {
    if !word.exact {
        // A process substitution is the name of a pipe.
        if matches!(word.text.as_str(), "<()" | ">()") {
            return false;
        }
        // What starts with an expansion could become any option, and `--pre=$x` is one already.
        let start = certain_start(&word.text);
        return if option.ends_with('=') || !option.starts_with('-') {
            start.is_empty()
        } else {
            start.is_empty() || option.starts_with(&start) || start.starts_with(option)
        };
    }
    let text = word.text.as_str();
    if let Some(name) = option.strip_suffix('=') {
        return text.strip_prefix(name).is_some_and(|rest| rest.starts_with(['=', ':', '+', '?', '!']));
    }
    if text == option || (option == "+" && text.starts_with('+')) {
        return true;
    }
    if option.starts_with("--") {
        let name = text.split('=').next().unwrap_or(text);
        // GNU and git programs take any unambiguous beginning of a long option.
        return name == option || (name.len() >= 5 && option.starts_with(name));
    }
    if let Some(letter) = option.strip_prefix('-').filter(|o| o.len() == 1) {
        let cluster = match text.strip_prefix('-') {
            Some(rest) if !rest.starts_with('-') => rest,
            None if program == "tar" && first => text,
            _ => return false,
        };
        return if long_with_one_dash(program) { cluster.starts_with(letter) } else { cluster.contains(letter) };
    }
    long_with_one_dash(program) && text.split('=').next() == Some(option)
}

/// Whether the program only runs the command that its arguments name, so that an allow for that command covers it too.
/// `sudo`, `ssh`, `docker`, `su`, `chroot` and the like change who or where, and never are.
pub fn is_transparent(program: &str, args: &[Word]) -> bool {
    let mut rest = args.iter();
    match program {
        "nohup" | "time" | "command" | "builtin" | "nice" | "ionice" | "stdbuf" | "timeout" | "env" => {}
        "sh" | "bash" | "dash" | "zsh" | "ksh" => {
            // Only `-c` with harmless letters (`-lc` is how Codex calls it); the string itself was parsed into the commands that are listed.
            let Some(first) = rest.next() else { return false };
            let letters = first.text.strip_prefix('-').unwrap_or("");
            return first.exact
                && letters.contains('c')
                && letters.bytes().all(|b| b"celux".contains(&b))
                && rest.next().is_some_and(|w| w.exact);
        }
        _ => return false,
    }
    let (valued, alone): (&[&str], &[&str]) = match program {
        "timeout" => (&["-k", "--kill-after", "-s", "--signal"], &["--preserve-status", "--foreground", "-v", "--verbose"]),
        "nice" => (&["-n", "--adjustment"], &[]),
        "ionice" => (&["-c", "-n", "--class", "--classdata"], &["-t"]),
        "stdbuf" => (&["-i", "-o", "-e"], &[]),
        "time" => (&[], &["-p", "-v"]),
        "env" => (&["-u", "--unset"], &["-i", "-", "--ignore-environment"]),
        _ => (&[], &[]),
    };
    while let Some(word) = rest.next() {
        if !word.exact {
            return false;
        }
        let text = word.text.as_str();
        if !text.starts_with('-') {
            if program == "env" && text.contains('=') {
                if !harmless_env(word) {
                    return false;
                }
                continue;
            }
            return true;
        }
        let name = text.split('=').next().unwrap_or(text);
        let attached = text.len() > 2 && !text.starts_with("--") && valued.iter().any(|v| v.len() == 2 && text.starts_with(v));
        if valued.contains(&text) {
            rest.next();
        } else if !(text == "--" || attached || alone.contains(&text) || (text.contains('=') && valued.contains(&name)))
            && !(program == "nice" && text[1..].bytes().all(|b| b.is_ascii_digit()))
        {
            return false;
        }
    }
    false
}

/// Whether the command may go down into the folders it is given, and so reads or changes what is not named.
pub fn goes_deep(program: &str, args: &[Word]) -> bool {
    let flag = |letters: &str, longs: &[&str]| {
        args.iter().any(|w| {
            !w.exact && certain_start(&w.text).is_empty()
                || longs.contains(&w.text.as_str())
                || (w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains(|c| letters.contains(c)))
        })
    };
    match program {
        "rg" | "ag" | "ack" | "mv" | "rsync" | "tar" | "zip" | "unzip" | "7z" | "cpio" | "bfs" | "shred" | "srm" => true,
        "grep" | "egrep" | "fgrep" | "zgrep" => flag("rR", &["--recursive", "--dereference-recursive", "--directories=recurse"]),
        "cp" => flag("rRa", &["--recursive", "--archive"]),
        "rm" | "chmod" | "chown" | "chgrp" | "scp" | "diff" => flag("rR", &["--recursive"]),
        "find" => args.iter().any(|w| !w.exact || w.text.starts_with("-exec") || w.text.starts_with("-ok") || w.text == "-delete"),
        "fd" | "fdfind" => flag("xX", &["--exec", "--exec-batch"]),
        "git" => args
            .get(subcommand(args))
            .is_some_and(|w| matches!(w.text.as_str(), "grep" | "checkout" | "restore" | "clean" | "reset" | "rm" | "mv" | "stash")),
        _ => false,
    }
}
