//! Programs that take code: shells, `eval`, interpreters, and options of ordinary tools that name a command.
//!
//! Called by `wrap`.

use super::wrap::{DYNAMIC, Effect, OPTIONS, Place, base, code, options, run};
use super::wrap_table::Spec;
use crate::model::Word;

mod git;
mod text;

const SCRIPT: &str = "code in another language";
const FILE: &str = "the code of a file runs in this shell";
const SUBSCRIPT: &str = "a builtin sets a variable that is evaluated or steers programs";

pub(super) fn is_shell(name: &str) -> bool {
    matches!(
        name,
        "sh" | "bash"
            | "dash"
            | "ash"
            | "zsh"
            | "ksh"
            | "ksh93"
            | "mksh"
            | "lksh"
            | "yash"
            | "posh"
            | "rbash"
            | "fish"
            | "csh"
            | "tcsh"
            | "nu"
            | "pwsh"
            | "powershell"
            | "xonsh"
            | "elvish"
            | "osh"
    )
}

/// Code of languages that are not shells.
fn is_interpreter(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    matches!(
        stem,
        "python"
            | "pypy"
            | "perl"
            | "ruby"
            | "jruby"
            | "node"
            | "nodejs"
            | "tsx"
            | "ts-node"
            | "php"
            | "lua"
            | "luajit"
            | "tclsh"
            | "wish"
            | "Rscript"
            | "R"
            | "julia"
            | "groovy"
            | "scala"
            | "guile"
            | "racket"
            | "sbcl"
            | "clisp"
            | "ghc"
            | "runghc"
            | "erl"
            | "elixir"
            | "irb"
            | "ipython"
            | "bpython"
            | "osascript"
            | "gnuplot"
            | "octave"
            | "sqlite"
            | "psql"
            | "mysql"
            | "jshell"
            | "kotlin"
            | "swift"
            | "emacs"
            | "m4"
            | "dc"
    )
}

/// Which options of an interpreter take code, and which take a value that is none.
fn code_letters(name: &str) -> (&'static str, &'static str) {
    if name.starts_with("python") || name.starts_with("pypy") {
        ("c", "WXQ")
    } else if name.starts_with("perl") || name.starts_with("ruby") {
        ("eE", "IMmCFlx0iDTtr")
    } else if name.starts_with("php") {
        ("rBRE", "dczS")
    } else {
        ("ecEpx", "rIlL")
    }
}

/// `None` when the program is not one of those here.
pub(super) fn effects(name: &str, argv: &[Word], stdin: Option<&Option<String>>) -> Option<Vec<Effect>> {
    let args = &argv[1..];
    let any = |test: &dyn Fn(&str) -> bool| args.iter().any(|w| test(&w.text));
    let unknown = |when: bool, reason: &'static str| if when { vec![Effect::Unknown(reason)] } else { Vec::new() };
    Some(match name {
        _ if is_shell(name) => shell(name, argv, stdin),
        "busybox" | "toybox" => match args.first() {
            Some(applet) if applet.exact && !applet.text.starts_with('-') => vec![run(name, args, Place::Apart)],
            Some(_) => vec![Effect::Unknown(OPTIONS)],
            None => Vec::new(),
        },
        "eval" => code("eval", if args.first().is_some_and(|w| w.text == "--") { &args[1..] } else { args }, Place::Shell),
        "source" | "." => vec![Effect::Unknown(FILE), Effect::Cd(super::wrap::Target::Unknown)],
        "trap" => match args {
            [first, rest @ ..] if !rest.is_empty() && !matches!(first.text.as_str(), "-" | "" | "-p" | "-l") => {
                let first = if first.text == "--" { &rest[0] } else { first };
                code("trap", std::slice::from_ref(first), Place::Unknown)
            }
            _ => Vec::new(),
        },
        "alias" => unknown(any(&|t| t.contains('=')) || args.iter().any(|w| !w.exact), "an alias is defined"),
        "let" => unknown(any(&|t| t.contains(|c: char| c.is_ascii_alphabetic() || c == '$')), SUBSCRIPT),
        "read" | "unset" | "mapfile" | "readarray" | "getopts" => unknown(
            args.iter().any(|w| !w.exact || w.text.contains('[') || w.text.starts_with("-C") || super::exec::steers(&w.text)),
            SUBSCRIPT,
        ),
        "wait" => unknown(any(&|t| t.starts_with("-p")), SUBSCRIPT),
        "printf" => unknown(
            args.first().is_some_and(|w| w.text.starts_with("-v") || (!w.exact && w.text.starts_with(['$', '-'])))
                && args.iter().take(2).any(|w| !w.exact || w.text.contains('[') || super::exec::steers(w.text.trim_start_matches("-v"))),
            SUBSCRIPT,
        ),
        "test" | "[" => unknown(
            args.windows(2).any(|w| matches!(w[0].text.as_str(), "-v" | "-R") && (!w[1].exact || w[1].text.contains('['))),
            SUBSCRIPT,
        ),
        "hash" => unknown(any(&|t| t.starts_with("-p")), "a name is bound to another program"),
        "enable" => unknown(!args.is_empty(), "builtins are changed"),
        "bind" | "complete" | "compgen" | "fc" | "zle" | "zmodload" | "autoload" => vec![Effect::Unknown("code is bound to shell events")],
        "shopt" => unknown(
            any(&|t| matches!(t, "expand_aliases" | "extglob" | "lastpipe" | "globasciiranges")) || args.iter().any(|w| !w.exact),
            "the shell's own rules are changed",
        ),
        "setopt" | "unsetopt" | "emulate" => vec![Effect::Unknown("the shell's own rules are changed")],
        "awk" | "gawk" | "mawk" | "nawk" | "original-awk" => text::awk(args),
        "sed" | "gsed" => text::sed(args),
        "git" => git::effects(argv),
        "ssh" => ssh(argv),
        "su" | "runuser" | "script" | "flock" | "scriptreplay" => with_code(name, argv),
        "at" | "batch" => vec![Effect::Unknown("a job is made from stdin")],
        "crontab" => unknown(!any(&|t| t == "-l"), "jobs are set"),
        "tmux" | "screen" | "zellij" => {
            let mut out = unknown(
                !matches!(args.first().map(|w| w.text.as_str()), Some("ls" | "list-sessions" | "-ls" | "-V" | "-v")),
                "a terminal multiplexer runs code",
            );
            if !out.is_empty() {
                out.extend(super::wrap::guesses(name, argv));
            }
            out
        }
        "vi" | "vim" | "nvim" | "view" | "gvim" | "vimdiff" | "ex" | "ed" | "red" | "nano" | "kak" | "hx" | "micro" => with_guesses(
            name,
            argv,
            unknown(
                stdin.is_some()
                    || matches!(name, "ed" | "red" | "ex")
                    || any(&|t| {
                        t.starts_with('+')
                            || t.starts_with("-c")
                            || t.starts_with("-s")
                            || t.starts_with("-S")
                            || t.starts_with("--cmd")
                            || t.starts_with("-u")
                            || t.starts_with("-e")
                            || t.starts_with("-E")
                    }),
                "an editor runs commands",
            ),
        ),
        "deno" => unknown(
            matches!(args.first().map(|w| w.text.as_str()), Some("eval" | "repl") | None) || args.iter().any(|w| w.text == "-"),
            SCRIPT,
        ),
        "jshell" | "m4" | "dc" => vec![Effect::Unknown(SCRIPT)],
        "sqlite3" | "sqlite" | "psql" | "mysql" | "mariadb"
            if stdin.is_some()
                || any(&|t| [".sh", ".sys", ".read", ".load", "\\!", "\\o", "system ", "\\i"].iter().any(|c| t.contains(c))) =>
        {
            vec![Effect::Unknown(SCRIPT)]
        }
        "make" | "gmake"
            if args.windows(2).any(|w| matches!(w[0].text.as_str(), "-f" | "--file" | "--makefile") && w[1].text == "-")
                || any(&|t| t == "-f-") =>
        {
            vec![Effect::Unknown(SCRIPT)]
        }
        _ if is_interpreter(name) => text::with_called(name, args, stdin, interpreter(name, args)),
        _ => return runs(name, args),
    })
}

fn shell(name: &str, argv: &[Word], stdin: Option<&Option<String>>) -> Vec<Effect> {
    let mut out = Vec::new();
    if !matches!(name, "sh" | "bash" | "dash" | "ash" | "rbash") {
        out.push(Effect::Unknown("code of a shell with rules of its own"));
    }
    let (mut takes_code, mut reads_stdin) = (false, false);
    let mut i = 1;
    while let Some(word) = argv.get(i) {
        if !word.exact {
            out.push(Effect::Unknown(DYNAMIC));
            break;
        }
        let text = word.text.as_str();
        match text {
            "-" | "--" => {
                i += 1;
                break;
            }
            "--norc" | "--noprofile" | "--login" | "--posix" | "--noediting" | "--verbose" => {}
            "--version" | "--help" => return out,
            _ if text.starts_with("--") => {
                out.push(Effect::Unknown(OPTIONS));
                if matches!(text, "--rcfile" | "--init-file") {
                    i += 1;
                }
            }
            _ if text.starts_with(['-', '+']) => {
                takes_code |= text.starts_with('-') && text.contains('c');
                reads_stdin |= text.contains('s');
                if text.contains('i') {
                    out.push(Effect::Unknown(FILE));
                }
                // why: -o and -O take a word each.
                i += text.matches(['o', 'O']).count();
            }
            _ => break,
        }
        i += 1;
    }
    let label = if takes_code { format!("{name} -c") } else { name.to_owned() };
    if takes_code {
        match argv.get(i) {
            Some(text) if text.exact => {
                if name != "bash"
                    && (text.text.contains("$'")
                        || text.text.contains("$\"")
                        || text.text.contains("&>")
                        || text.text.contains("<(")
                        || text.text.contains(">(")
                        || text.text.contains("|&")
                        || text.text.contains("<<<")
                        || text.text.contains("[[")
                        || text.text.contains("(("))
                {
                    out.push(Effect::Unknown("shells read this code differently"));
                }
                out.push(Effect::Code { label, text: text.text.clone(), place: Place::Apart });
            }
            _ => out.push(Effect::Unknown(DYNAMIC)),
        }
    } else if reads_stdin || i >= argv.len() {
        match stdin {
            Some(Some(text)) => out.push(Effect::Code { label: format!("{name} <<"), text: text.clone(), place: Place::Apart }),
            _ => out.push(Effect::Unknown("a shell reads its code from stdin")),
        }
    }
    out
}

fn interpreter(name: &str, args: &[Word]) -> Vec<Effect> {
    let (letters, valued) = code_letters(name);
    let mut i = 0;
    while let Some(word) = args.get(i) {
        if !word.exact {
            // why: a script's name may be anything; an option that takes code may not hide in it.
            return if word.text.starts_with('-') || word.text.starts_with('$') { vec![Effect::Unknown(DYNAMIC)] } else { Vec::new() };
        }
        let text = word.text.as_str();
        match text {
            "-" => return vec![Effect::Unknown(SCRIPT)],
            "--version" | "-V" | "-v" | "--help" | "-h" if args.len() == 1 => return Vec::new(),
            "-m" if name.starts_with("python") => return Vec::new(),
            "--test" | "--check" => {}
            _ if text.starts_with("--") => {
                return vec![Effect::Unknown(if text.contains("eval") || text.contains("print") || text.contains("run") {
                    SCRIPT
                } else {
                    OPTIONS
                })];
            }
            _ if text.starts_with('-') => {
                for (at, c) in text[1..].char_indices() {
                    if letters.contains(c) {
                        return vec![Effect::Unknown(SCRIPT)];
                    }
                    if valued.contains(c) {
                        i += usize::from(at + c.len_utf8() + 1 == text.len());
                        break;
                    }
                }
            }
            _ => return Vec::new(),
        }
        i += 1;
    }
    vec![Effect::Unknown(SCRIPT)]
}

fn ssh(argv: &[Word]) -> Vec<Effect> {
    const SPEC: Spec = Spec { flags: "46AaCfGgKkMNnqsTtVvXxYy", valued: "BbcDEeFIiJLlmOopQRSWw", ..Spec::NONE };
    let opts = options(argv, 1, &SPEC);
    let mut out = Vec::new();
    let code_option = opts.given.iter().filter_map(|(n, v)| (n == "o" || n == "F" || n == "E").then_some(*v).flatten()).any(|v| {
        let lower = v.text.to_ascii_lowercase();
        !v.exact
            || ["command", "config", "include", "pkcs11", "provider", "match", "exec"].iter().any(|k| lower.contains(k))
            || !lower.contains('=')
    });
    if opts.unsure || code_option {
        out.push(Effect::Unknown(OPTIONS));
        out.extend(super::wrap::guesses("ssh", &argv[..opts.at.min(argv.len())]));
    }
    // why: options may follow the host too.
    let again = options(argv, opts.at + 1, &SPEC);
    if again.unsure || !again.given.is_empty() {
        out.push(Effect::Unknown(OPTIONS));
    }
    let host = argv.get(opts.at).map_or("", |w| w.text.as_str());
    if again.at >= argv.len() && argv.len() > 1 && !opts.has(&["V", "G", "Q", "N", "W", "O"]) {
        out.push(Effect::Unknown("a shell reads its code from stdin"));
    }
    out.extend(code(&format!("ssh {host}"), argv.get(again.at..).unwrap_or_default(), Place::Remote));
    out
}

/// `su -c CODE`, `script -c CODE`, `flock FILE -c CODE` or `flock FILE command…`.
fn with_code(name: &str, argv: &[Word]) -> Vec<Effect> {
    let mut out = Vec::new();
    if let Some(at) = argv.iter().position(|w| {
        matches!(w.text.as_str(), "-c" | "--command") || (w.text.starts_with('-') && !w.text.starts_with("--") && w.text.ends_with('c'))
    }) {
        out.extend(code(
            &format!("{name} -c"),
            argv.get(at + 1..at + 2).unwrap_or_default(),
            if name.starts_with("su") || name == "runuser" { Place::Unknown } else { Place::Apart },
        ));
        if argv[1..at].iter().chain(argv.get(at + 2..).unwrap_or_default()).any(|w| w.text.starts_with('-') || !w.exact) {
            out.push(Effect::Unknown(OPTIONS));
        }
    } else if name == "flock" {
        const SPEC: Spec = Spec {
            flags: "sexnuoFv",
            valued: "wE",
            long: &["shared", "exclusive", "unlock", "nonblock", "close", "no-fork", "verbose"],
            long_valued: &["timeout", "wait", "conflict-exit-code"],
            ..Spec::NONE
        };
        let opts = options(argv, 1, &SPEC);
        if opts.unsure {
            out.push(Effect::Unknown(OPTIONS));
        }
        if let Some(rest) = argv.get(opts.at + 1..).filter(|r| !r.is_empty()) {
            out.push(run(name, rest, Place::Apart));
        }
    } else {
        out.push(Effect::Unknown(OPTIONS));
        out.extend(super::wrap::guesses(name, argv));
    }
    out
}

/// A reading that is not complete, with what its words could be.
fn with_guesses(name: &str, argv: &[Word], mut out: Vec<Effect>) -> Vec<Effect> {
    if !out.is_empty() {
        out.extend(super::wrap::guesses(name, argv));
    }
    out
}

/// Options of ordinary tools whose value is a command.
const RUNS: &[(&str, &[&str])] = &[
    ("rg", &["--pre", "--hostname-bin"]),
    (
        "tar",
        &[
            "--to-command",
            "--use-compress-program",
            "-I",
            "--checkpoint-action",
            "--rsh-command",
            "-F",
            "--info-script",
            "--new-volume-script",
        ],
    ),
    (
        "gtar",
        &[
            "--to-command",
            "--use-compress-program",
            "-I",
            "--checkpoint-action",
            "--rsh-command",
            "-F",
            "--info-script",
            "--new-volume-script",
        ],
    ),
    ("bsdtar", &["--use-compress-program"]),
    ("rsync", &["-e", "--rsh", "--rsync-path"]),
    ("scp", &["-S", "-o", "-J"]),
    ("sftp", &["-S", "-o", "-b", "-J"]),
    ("sort", &["--compress-program"]),
    ("split", &["--filter"]),
    ("man", &["-P", "--pager", "-H", "--html"]),
    ("zip", &["-TT", "--unzip-command"]),
    ("ctags", &["--options", "--optlib-dir"]),
    ("tcpdump", &["-z"]),
    ("less", &["-k", "--lesskey-file", "--lesskey-src"]),
    ("bat", &["--pager"]),
    ("delta", &["--pager"]),
    ("fzf", &["--preview", "--bind", "--filter-command"]),
    ("npx", &["-c", "--call"]),
    ("npm", &["-c", "--call", "--script-shell", "--node-options"]),
    ("make", &["--eval", "SHELL", "MAKEFLAGS"]),
    ("gmake", &["--eval", "SHELL", "MAKEFLAGS"]),
    ("cargo", &["--config"]),
    ("go", &["-toolexec", "-exec", "-vettool"]),
    ("wget", &["--use-askpass"]),
    ("curl", &["-K", "--config"]),
    ("mutt", &["-e"]),
    ("msgfilter", &[]),
    ("nmap", &["--script"]),
    ("pip", &["--config-settings"]),
];

fn runs(name: &str, args: &[Word]) -> Option<Vec<Effect>> {
    let (_, names) = RUNS.iter().find(|(program, _)| *program == name)?;
    let mut out = Vec::new();
    for (i, word) in args.iter().enumerate() {
        for option in *names {
            let rest = word.text.strip_prefix(option);
            let (glued, value) = match rest {
                Some("") => (false, args.get(i + 1)),
                Some(rest) if rest.starts_with('=') => (true, Some(word)),
                Some(_) if option.len() == 2 => (true, Some(word)),
                _ => continue,
            };
            let Some(value) = value else { continue };
            out.push(Effect::Unknown("an option names a command"));
            if value.exact {
                let text = if glued { rest.unwrap_or_default().trim_start_matches('=') } else { value.text.as_str() };
                let text = text.strip_prefix("exec=").unwrap_or(text).to_owned();
                out.extend(code(&format!("{name} {option}"), &[Word { text, exact: true }], Place::Apart));
            }
        }
        // why: a bundle of short options can hide one of them (`tar -xIf`).
        let bundle = word.text.starts_with('-') && !word.text.starts_with("--") && word.text.len() > 2;
        if bundle && names.iter().any(|o| o.len() == 2 && o.starts_with('-') && word.text[1..].contains(&o[1..])) && out.is_empty() {
            out.push(Effect::Unknown("an option names a command"));
        }
        if !word.exact && word.text.starts_with(['-', '$', '"']) && name.contains("tar") {
            out.push(Effect::Unknown(DYNAMIC));
        }
    }
    // why: some of them (npm, npx) are wrappers too; their table line is read as well.
    if let Some(spec) = super::wrap_table::spec_of(base(name)) {
        let mut argv = vec![Word { text: name.to_owned(), exact: true }];
        argv.extend_from_slice(args);
        out.extend(super::wrap::generic(name, &argv, &spec));
    }
    Some(out)
}
