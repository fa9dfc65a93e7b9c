//! Lists one simple command and follows what it runs in turn.
//!
//! Called by `walk` for each simple command of a tree, and by itself for what wrappers run.

use super::dirs::Dirs;
use super::lex::Refused;
use super::walk::{At, Flow, Invocation, Result, Walk};
use super::wrap::{self, Effect, Place, Target};
use super::{Found, MAX_COMMANDS};
use crate::model::{Command, Word};

/// Variables that decide which program or code runs although the command does not show it.
const STEERING: &[&str] = &[
    "PATH",
    "IFS",
    "BASH_ENV",
    "ENV",
    "SHELLOPTS",
    "BASHOPTS",
    "PS4",
    "PROMPT_COMMAND",
    "CDPATH",
    "HOME",
    "PWD",
    "GLOBIGNORE",
    "SHELL",
    "PERL5OPT",
    "PERL5LIB",
    "PERL5DB",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "RUBYOPT",
    "RUBYLIB",
    "NODE_OPTIONS",
    "NODE_PATH",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "GCONV_PATH",
    "XDG_CONFIG_HOME",
    "RUSTC",
    "RUSTC_WRAPPER",
    "CARGO_HOME",
    "MAKEFLAGS",
    "npm_config_script_shell",
    "DOCKER_HOST",
    "ZDOTDIR",
    "GIT_DIR",
];
const STEERING_PREFIXES: &[&str] = &["LD_", "DYLD_", "BASH_FUNC_", "GIT_CONFIG", "CARGO_TARGET_"];
/// Variables whose value is a command line that some program runs.
const COMMANDS: &[&str] = &[
    "GIT_SSH_COMMAND",
    "GIT_SSH",
    "GIT_PAGER",
    "GIT_EDITOR",
    "GIT_SEQUENCE_EDITOR",
    "GIT_ASKPASS",
    "GIT_EXTERNAL_DIFF",
    "GIT_PROXY_COMMAND",
    "GIT_EXEC_PATH",
    "SSH_ASKPASS",
    "SUDO_ASKPASS",
    "PAGER",
    "MANPAGER",
    "EDITOR",
    "VISUAL",
    "BROWSER",
    "LESSOPEN",
    "LESSCLOSE",
    "SYSTEMD_PAGER",
    "FCEDIT",
];
/// Builtins whose arguments are assignments.
const DECLARES: &[&str] = &["export", "declare", "typeset", "readonly", "local"];

/// True for a variable that decides which program or code runs.
pub(super) fn steers(name: &str) -> bool {
    STEERING.contains(&name) || COMMANDS.contains(&name) || STEERING_PREFIXES.iter().any(|p| name.starts_with(p))
}

impl Walk {
    /// Lists the command, then what it runs; `Flow` says where the shell stands after it.
    pub(super) fn exec(&mut self, call: Invocation, dirs: &Dirs, at: &At) -> Result<Flow> {
        let Invocation { argv, env, redirects, stdin, open } = call;
        for word in &env {
            self.assignment(word, dirs, at, argv.is_empty())?;
        }
        let Some(program) = argv.first() else { return Ok(Flow::same(dirs)) };
        if self.found.len() >= MAX_COMMANDS {
            return Err(Refused("more than 1,024 commands"));
        }
        self.spend(argv.iter().map(|w| w.text.len() + 1).sum())?;
        let exact = !open && argv.iter().chain(&env).chain(redirects.iter().map(|r| &r.target)).all(|w| w.exact);
        let command = Command { argv: argv.clone(), env, redirects, origin: at.origin.clone(), exact };
        self.found.push(Found { command, dirs: dirs.clone(), local: !at.remote });
        if !program.exact {
            self.partial("a program's name is not exact");
            return Ok(Flow::same(&Dirs::unknown()));
        }
        if DECLARES.contains(&program.text.as_str()) {
            for word in &argv[1..] {
                // why: -i evaluates the value as arithmetic, -n makes one variable stand for another.
                if word.text.starts_with('-') && word.text.contains(['i', 'n']) {
                    self.partial("a variable is declared with an attribute that evaluates it");
                }
                self.assignment(word, dirs, at, true)?;
            }
        }
        let mut flow = Flow::same(dirs);
        for effect in wrap::effects(&argv, stdin.as_ref()) {
            if let Some(next) = self.effect(effect, stdin.as_ref(), dirs, at)? {
                flow = next;
            }
        }
        Ok(flow)
    }

    fn effect(&mut self, effect: Effect, stdin: Option<&Option<String>>, dirs: &Dirs, at: &At) -> Result<Option<Flow>> {
        match effect {
            Effect::Unknown(reason) => {
                self.partial(reason);
                Ok(None)
            }
            Effect::Exit => Ok(Some(Flow { ok: Dirs::nowhere(), fail: Dirs::nowhere() })),
            Effect::Cd(target) => {
                let ok = match target {
                    Target::Dir(path) => dirs.enter(&path),
                    Target::Home => dirs.enter("~"),
                    Target::Unknown => Dirs::unknown(),
                };
                Ok(Some(Flow { ok, fail: dirs.clone() }))
            }
            Effect::Run { label, argv, env, place, open } => {
                let (from, inner) = self.place(&place, dirs, at, &label)?;
                // why: what a wrapper runs has the wrapper's stdin (`sudo bash <<E`).
                let flow = self.exec(Invocation { argv, env, open, stdin: stdin.cloned(), ..Invocation::default() }, &from, &inner)?;
                Ok((place == Place::Shell).then_some(flow))
            }
            Effect::Perhaps { label, argv } => {
                let inner = at.inside(&label)?;
                self.spend(argv.iter().map(|w| w.text.len() + 1).sum())?;
                if self.found.len() < MAX_COMMANDS {
                    let command = Command { argv, env: Vec::new(), redirects: Vec::new(), origin: inner.origin, exact: false };
                    self.found.push(Found { command, dirs: Dirs::unknown(), local: !at.remote });
                }
                Ok(None)
            }
            Effect::PerhapsCode { label, text } => {
                self.perhaps(&text, &at.inside(&label)?)?;
                Ok(None)
            }
            Effect::Code { label, text, place } => {
                let (from, inner) = self.place(&place, dirs, at, &label)?;
                let flow = self.text(&text, &from, &inner)?;
                Ok((place == Place::Shell).then_some(flow))
            }
        }
    }

    /// Reads a text that may be code: when it is none, only that is known. The caps of the whole line hold all the same.
    fn perhaps(&mut self, text: &str, at: &At) -> Result<()> {
        self.partial("a text that may be code");
        self.spend(text.len())?;
        if let Ok(program) = super::tree(text, at.depth) {
            for list in &program.complete_commands {
                self.list(list, &Dirs::unknown(), at)?;
            }
        }
        Ok(())
    }

    fn place(&self, place: &Place, dirs: &Dirs, at: &At, label: &str) -> Result<(Dirs, At)> {
        let mut inner = at.inside(label)?;
        let from = match place {
            Place::Shell | Place::Apart => dirs.clone(),
            Place::In(dir) => dirs.enter(dir),
            Place::Unknown => Dirs::unknown(),
            Place::Remote => {
                inner.remote = true;
                Dirs::unknown()
            }
        };
        Ok((from, inner))
    }

    /// Judges `NAME=value`; `lasting` when it holds for later commands too.
    fn assignment(&mut self, word: &Word, dirs: &Dirs, at: &At, lasting: bool) -> Result<()> {
        let Some((name, value)) = word.text.split_once('=') else {
            if !word.exact {
                self.partial("a variable's name is not exact");
            }
            return Ok(());
        };
        let name = name.strip_suffix('+').unwrap_or(name);
        if name.contains(['[', '$', '`']) && !name.ends_with("]") {
            self.partial("a subscript is evaluated");
        }
        if let Some((_, subscript)) = name.split_once('[')
            && !subscript.trim_end_matches(']').bytes().all(|c| c.is_ascii_digit())
        {
            self.partial("a subscript is evaluated");
        }
        if STEERING.contains(&name) || STEERING_PREFIXES.iter().any(|p| name.starts_with(p)) {
            self.partial("a variable that steers which program runs is set");
        } else if COMMANDS.contains(&name) && !value.is_empty() {
            if word.exact && value == "cat" && name.ends_with("PAGER") {
                // why: the usual way to say "no pager".
            } else if word.exact {
                let code = value.trim_start_matches(['|', '-']);
                if super::tree(code, at.depth).is_ok() {
                    self.text(code, dirs, &at.inside(name)?)?;
                } else {
                    self.partial("a variable's value does not read as a command");
                }
            } else {
                self.partial("a variable that holds a command is not exact");
            }
        } else if lasting && value.contains("[$(") {
            self.partial("a value holds code");
        }
        Ok(())
    }
}
