//! Programs that run other programs: what an argument list runs in turn.
//!
//! Invariant: when an option before the inner command is not known, or a word there is not exact, `Effect::Unknown` comes along with
//! the best reading, so that the result is never taken for complete.
//!
//! Called by `exec`.

use super::wrap_code;
use super::wrap_table::{Spec, Stand, spec_of};
use crate::model::Word;

/// Where what is run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the same shell: its `cd` counts.
    Shell,
    /// In a process of its own, same directory.
    Apart,
    In(String),
    Unknown,
    /// On another machine or in a container.
    Remote,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Dir(String),
    Home,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Something runs that the text does not show.
    Unknown(&'static str),
    Cd(Target),
    /// The shell ends: nothing after it runs.
    Exit,
    /// An argument list; `open` when more words come at run time.
    Run {
        label: String,
        argv: Vec<Word>,
        env: Vec<Word>,
        place: Place,
        open: bool,
    },
    Code {
        label: String,
        text: String,
        place: Place,
    },
    /// Words that may be a command, beside `Unknown`: listed so that a deny sees them; what they run in turn is not followed.
    Perhaps {
        label: String,
        argv: Vec<Word>,
    },
    /// The same for a text: code where it reads as code, nothing where it does not.
    PerhapsCode {
        label: String,
        text: String,
    },
}

/// Most words of one wrapper that are tried as the start of a command.
const GUESSES: usize = 12;

pub(super) const OPTIONS: &str = "an option of a wrapper is not known";
pub(super) const DYNAMIC: &str = "code or a wrapper's words are not exact";

/// The file name of a program; `.exe` as WSL has it does not make another program.
pub(super) fn base(text: &str) -> &str {
    let name = text.rsplit('/').next().unwrap_or(text);
    name.strip_suffix(".exe").unwrap_or(name)
}

/// What a wrapper whose options are not known could run: any tail of its words, any word that is a line of its own.
pub(super) fn guesses(label: &str, argv: &[Word]) -> Vec<Effect> {
    let mut out = Vec::new();
    for (i, word) in argv.iter().enumerate().skip(1).filter(|(_, w)| w.exact && !w.text.is_empty()).take(GUESSES) {
        let label = label.to_owned();
        if word.text.contains([' ', '\n', ';']) {
            let text = word.text.trim_start_matches(['!', '|', '-', '+']);
            let text = text.split_once('=').map_or(text, |(name, value)| if name.contains(' ') { text } else { value });
            out.push(Effect::PerhapsCode { label, text: text.to_owned() });
        } else if !word.text.starts_with('-') && i + 1 < argv.len() {
            out.push(Effect::Perhaps { label, argv: argv[i..].to_vec() });
        }
    }
    out
}

pub(super) fn run(label: &str, argv: &[Word], place: Place) -> Effect {
    Effect::Run { label: label.to_owned(), argv: argv.to_vec(), env: Vec::new(), place, open: false }
}

/// Code from words, joined by blanks as `eval`, `ssh` and `watch` do.
pub(super) fn code(label: &str, words: &[Word], place: Place) -> Vec<Effect> {
    if words.is_empty() {
        return Vec::new();
    }
    if words.iter().any(|w| !w.exact) {
        return vec![Effect::Unknown(DYNAMIC)];
    }
    let text = words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ");
    vec![Effect::Code { label: label.to_owned(), text, place }]
}

/// Options as read up to the first operand.
#[derive(Debug, Default)]
pub(super) struct Options<'a> {
    /// Names without dashes, with their values.
    pub given: Vec<(String, Option<&'a Word>)>,
    /// Index of the first operand.
    pub at: usize,
    /// An option is not known, or a word is not exact.
    pub unsure: bool,
}

impl<'a> Options<'a> {
    pub(super) fn value(&self, names: &[&str]) -> Option<&'a Word> {
        self.given.iter().find(|(n, v)| v.is_some() && names.contains(&n.as_str())).and_then(|(_, v)| *v)
    }

    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.given.iter().any(|(n, _)| names.contains(&n.as_str()))
    }
}

/// Reads options from index `from` by the wrapper's table line.
pub(super) fn options<'a>(argv: &'a [Word], from: usize, spec: &Spec) -> Options<'a> {
    let mut out = Options { at: from, ..Options::default() };
    while let Some(word) = argv.get(out.at) {
        if !word.exact {
            out.unsure = true;
            // why: a word that may begin with a dash, or be none or several words; the next one is taken for what it seems.
            if !word.text.starts_with('-') {
                return out;
            }
            out.at += 1;
            continue;
        }
        let text = word.text.as_str();
        if text == "--" {
            out.at += 1;
            return out;
        }
        if let Some(long) = text.strip_prefix("--") {
            let name = long.split('=').next().unwrap_or(long);
            let takes = spec.long_valued.contains(&name);
            out.unsure |= !takes && !spec.long.contains(&name);
            let value = if takes && !long.contains('=') {
                out.at += 1;
                argv.get(out.at)
            } else {
                long.contains('=').then_some(word)
            };
            out.given.push((name.to_owned(), value));
        } else if let Some(short) = text.strip_prefix('-').filter(|s| !s.is_empty()) {
            for (i, c) in short.char_indices() {
                if spec.valued.contains(c) {
                    let rest = i + c.len_utf8() < short.len();
                    if !rest {
                        out.at += 1;
                    }
                    out.given.push((c.to_string(), if rest { Some(word) } else { argv.get(out.at) }));
                    break;
                }
                out.unsure |= !spec.flags.contains(c);
                out.given.push((c.to_string(), None));
            }
        } else {
            break;
        }
        out.at += 1;
    }
    out.at = out.at.min(argv.len());
    out
}

/// What an argument list with an exact program runs. `stdin` is the text it reads, where that is shown (`None` inside: not exact).
pub(super) fn effects(argv: &[Word], stdin: Option<&Option<String>>) -> Vec<Effect> {
    let Some(program) = argv.first() else { return Vec::new() };
    let name = base(&program.text);
    if let Some(found) = wrap_code::effects(name, argv, stdin) {
        return found;
    }
    match name {
        "cd" | "chdir" => vec![Effect::Cd(cd_target(argv))],
        // why: `+1` and `-1` turn the stack instead of naming a folder.
        "pushd" => vec![Effect::Cd(if argv.len() == 2 && !argv[1].text.starts_with('+') { cd_target(argv) } else { Target::Unknown })],
        "popd" => vec![Effect::Cd(Target::Unknown)],
        "exit" if argv.len() < 3 && argv[1..].iter().all(|w| w.exact && w.text.bytes().all(|c| c.is_ascii_digit())) => vec![Effect::Exit],
        "find" | "gfind" => find(argv),
        "fd" | "fdfind" => fd(name, argv),
        "env" => env(argv),
        "docker" | "podman" | "nerdctl" | "kubectl" | "oc" | "docker-compose" => super::wrap_container::container(name, argv),
        _ => spec_of(name).map_or_else(Vec::new, |spec| generic(name, argv, &spec)),
    }
}

pub(super) fn generic(name: &str, argv: &[Word], spec: &Spec) -> Vec<Effect> {
    let mut from = 1;
    if !spec.verbs.is_empty() {
        // A program of many verbs, of which one runs a command (`uv run`).
        match argv.iter().skip(1).position(|w| w.exact && spec.verbs.contains(&w.text.as_str())) {
            Some(0) => from = 2,
            Some(n) => {
                let mut out = generic(name, &argv[n..], &Spec { verbs: &[], ..*spec });
                out.push(Effect::Unknown(OPTIONS));
                return out;
            }
            None if argv.iter().skip(1).take(1).all(|w| w.exact) => return Vec::new(),
            None => return vec![Effect::Unknown(DYNAMIC)],
        }
    }
    let opts = options(argv, from, spec);
    let mut out = Vec::new();
    if spec.quiet.iter().any(|q| opts.has(&[q])) {
        return out;
    }
    if opts.unsure {
        out.push(Effect::Unknown(OPTIONS));
    }
    if let Some(reason) = spec.unknown {
        out.push(Effect::Unknown(reason));
    }
    let mut rest = argv.get(opts.at..).unwrap_or_default();
    let mut skip = spec.skip;
    let mut env = Vec::new();
    while let Some(word) = rest.first() {
        if spec.assign && word.text.contains('=') && !word.text.starts_with('=') {
            env.push(word.clone());
        } else if skip > 0 {
            skip -= 1;
        } else {
            break;
        }
        rest = &rest[1..];
    }
    let place = match opts.value(spec.dir) {
        Some(dir) if dir.exact && !dir.text.starts_with('-') => Place::In(dir.text.clone()),
        Some(_) => Place::Unknown,
        None => match spec.place {
            Stand::Shell => Place::Shell,
            Stand::Apart => Place::Apart,
            Stand::Remote => Place::Remote,
        },
    };
    if opts.unsure || spec.unknown == Some(super::wrap_table::UNKNOWN) {
        out.extend(guesses(name, argv));
    }
    if spec.code {
        out.extend(code(name, rest, place));
    } else if rest.first().is_some_and(|w| !w.exact) || !rest.is_empty() {
        let open = spec.open || rest.iter().any(|w| spec.open && w.text.contains("{}"));
        out.push(Effect::Run { label: name.to_owned(), argv: rest.to_vec(), env, place, open });
    }
    out
}

fn cd_target(argv: &[Word]) -> Target {
    let mut physical = false;
    let mut rest = &argv[1..];
    while let Some(word) = rest.first().filter(|w| w.exact && w.text.starts_with('-') && w.text.len() > 1) {
        match word.text.as_str() {
            "-P" => physical = true,
            "-L" | "-e" | "-@" => {}
            "--" => {
                rest = &rest[1..];
                break;
            }
            _ => return Target::Unknown,
        }
        rest = &rest[1..];
    }
    match rest {
        [] => Target::Home,
        [dir] if dir.text == "-" || dir.text.is_empty() => Target::Unknown,
        // why: with -P the shell follows symlinks before it applies `..`.
        [dir] if physical && dir.text.contains("..") => Target::Unknown,
        [dir] if dir.exact && !dir.text.starts_with('~') => Target::Dir(dir.text.clone()),
        [dir] if !dir.exact && super::is_home(&dir.text) => Target::Dir(dir.text.clone()),
        _ => Target::Unknown,
    }
}

/// Operands and tests of find that take one argument, which is no action.
const FIND_VALUED: &[&str] = &[
    "-name",
    "-iname",
    "-path",
    "-ipath",
    "-wholename",
    "-regex",
    "-iregex",
    "-lname",
    "-ilname",
    "-type",
    "-xtype",
    "-size",
    "-mtime",
    "-atime",
    "-ctime",
    "-mmin",
    "-amin",
    "-cmin",
    "-newer",
    "-anewer",
    "-cnewer",
    "-perm",
    "-user",
    "-group",
    "-uid",
    "-gid",
    "-maxdepth",
    "-mindepth",
    "-links",
    "-inum",
    "-samefile",
    "-printf",
    "-regextype",
    "-fstype",
];

fn find(argv: &[Word]) -> Vec<Effect> {
    let mut out = Vec::new();
    let mut i = 1;
    while let Some(word) = argv.get(i) {
        i += 1;
        if !word.exact && !super::is_home(&word.text) && !plain_glob(&word.text) {
            out.push(Effect::Unknown(DYNAMIC));
        } else if FIND_VALUED.contains(&word.text.as_str()) {
            i += 1;
        } else if matches!(word.text.as_str(), "-exec" | "-execdir" | "-ok" | "-okdir") {
            let rest = argv.get(i..).unwrap_or_default();
            let plus = |n: usize| rest[n].text == "+" && n > 0 && rest[n - 1].text == "{}";
            let end = (0..rest.len()).find(|n| rest[*n].text == ";" || plus(*n)).unwrap_or(rest.len());
            let inner = &rest[..end];
            if inner.first().is_some_and(|w| w.text.contains("{}")) {
                out.push(Effect::Unknown("the files found are run"));
            }
            let argv: Vec<Word> = inner.iter().map(|w| Word { text: w.text.clone(), exact: w.exact && !w.text.contains("{}") }).collect();
            if argv.iter().any(|w| w.text.contains("{}")) && inner.len() > 2 && spec_is_shell(&argv) {
                out.push(Effect::Unknown("file names become code"));
            }
            let place = if word.text.ends_with("dir") { Place::Unknown } else { Place::Apart };
            out.push(Effect::Run { label: format!("find {}", word.text), argv, env: Vec::new(), place, open: false });
            i += end + 1;
        }
    }
    out
}

/// A glob that cannot give an option: it starts with plain text.
fn plain_glob(text: &str) -> bool {
    !text.starts_with(['-', '*', '?', '[', '{', '(']) && !text.contains(['$', '`'])
}

fn spec_is_shell(argv: &[Word]) -> bool {
    argv.first().is_some_and(|w| wrap_code::is_shell(base(&w.text)))
}

fn fd(name: &str, argv: &[Word]) -> Vec<Effect> {
    let position = argv.iter().position(|w| matches!(w.text.as_str(), "-x" | "-X" | "--exec" | "--exec-batch"));
    let glued = argv.iter().any(|w| w.text.starts_with("--exec") && w.text.contains('='));
    let mut out = Vec::new();
    if glued || argv[1..].iter().any(|w| !w.exact && !plain_glob(&w.text)) {
        out.push(Effect::Unknown(DYNAMIC));
    }
    if let Some(at) = position {
        out.push(Effect::Unknown("the files found become arguments"));
        let end = argv[at..].iter().position(|w| w.text == ";").map_or(argv.len(), |n| at + n);
        out.push(Effect::Run {
            label: format!("{name} -x"),
            argv: argv[at + 1..end].to_vec(),
            env: Vec::new(),
            place: Place::Apart,
            open: true,
        });
    } else if argv[1..]
        .iter()
        .any(|w| w.text.len() > 2 && w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains(['x', 'X']))
    {
        out.push(Effect::Unknown(OPTIONS));
    }
    out
}

fn env(argv: &[Word]) -> Vec<Effect> {
    const SPEC: Spec = Spec {
        flags: "i0v",
        valued: "uCS",
        long: &["ignore-environment", "null", "debug", "help", "version"],
        long_valued: &["unset", "chdir", "split-string"],
        ..Spec::NONE
    };
    let opts = options(argv, 1, &SPEC);
    let mut out = Vec::new();
    if opts.unsure {
        out.push(Effect::Unknown(OPTIONS));
    }
    let mut at = opts.at;
    // why: a lone dash means -i.
    while argv.get(at).is_some_and(|w| w.text == "-") {
        at += 1;
    }
    let first = at;
    while argv.get(at).is_some_and(|w| w.text.contains('=')) {
        at += 1;
    }
    if argv[first.min(at)..at].iter().any(|w| !w.exact) {
        out.push(Effect::Unknown(DYNAMIC));
    }
    let place = match opts.value(&["C", "chdir"]) {
        Some(dir) if dir.exact && !dir.text.starts_with('-') => Place::In(dir.text.clone()),
        Some(dir) if dir.exact && dir.text.starts_with("--chdir=") => Place::In(dir.text["--chdir=".len()..].to_owned()),
        Some(dir) if dir.exact && dir.text.starts_with("-C") => Place::In(dir.text[2..].to_owned()),
        Some(_) => Place::Unknown,
        None => Place::Apart,
    };
    if let Some(split) = opts.value(&["S", "split-string"]) {
        out.push(Effect::Unknown(OPTIONS));
        let text = split.text.strip_prefix("-S").or_else(|| split.text.strip_prefix("--split-string=")).unwrap_or(&split.text);
        let mut words = vec![Word { text: text.to_owned(), exact: split.exact }];
        words.extend_from_slice(&argv[at..]);
        out.extend(code("env -S", &words, place));
        return out;
    }
    if at < argv.len() {
        let env = argv[first..at].to_vec();
        out.push(Effect::Run { label: "env".to_owned(), argv: argv[at..].to_vec(), env, place, open: false });
    }
    out
}
