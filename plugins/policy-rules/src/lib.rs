//! The standard policy `rules`: allow, ask and deny in the notation that agents' users know.
//!
//! # Configuration
//! ```json
//! {
//!   "allow": ["Read(./**)", "Bash(git status:*)", "mcp__docs__*"],
//!   "ask":   [{"rule": "Bash(git push:*)", "reason": "pushes are read by a person"}],
//!   "deny":  ["Read(~/.ssh/**)", "Bash(git push --force:*)"],
//!   "examples": [{"command": "git -C . push -f", "effect": "deny"}]
//! }
//! ```
//! Further keys: `root` and `home` replace the session's own folders, `recursive` is `"ask"` (default) or `"ignore"`.
//! An unknown key, a rule that does not parse or that could never match is an error that names the rule, the byte and
//! what was expected. Examples are judged by the host when it loads the policy; here only their shape is checked.
//!
//! # What a rule speaks of
//! | rule | speaks of |
//! | --- | --- |
//! | `*` | every call |
//! | `Bash(git push:*)` | commands that begin with these words, of any tool that runs commands, inside `sh -c`, `$(…)`, `xargs` and so on too |
//! | `Bash(npm run test)` | exactly this command |
//! | `Bash(git * main)` | a lone `*` is any number of words |
//! | `Bash` | every command |
//! | `Read(./src/**)` | what is read, by a file tool, a search or recognisably by a command (redirections, `cat`, …) |
//! | `Edit(…)`, `Write(…)` | what is written, deleted or moved, in the same way; the two are one |
//! | `WebFetch(domain:example.org)` | addresses; `*.example.org` for subdomains only |
//! | `Agent(type)`, `Task(type)` | sub-agents by type |
//! | `mcp__server__tool`, `mcp__server__*`, `mcp__server` | tools by their own name; `*` stands for any run of characters |
//!
//! Paths: `./x` and `x` from the session's folder, `~/x` from the home folder, `//x` absolute; `*`, `?`, `**` as in
//! gitignore. Comparison is by bytes: neither case nor look-alike letters are folded.
//!
//! # How it decides
//! Deny over ask over allow; where no rule speaks, it abstains. Doubt never loosens:
//! - **Deny** and **ask** bind when any command, path or address of the call matches. They look through paths to the
//!   program (`./git`, `/usr/bin/git`), options before and between words (`git -C . push`), their other spellings
//!   (`rm -r -f`, `--recursive`), `busybox`, `git-push`. A path matches by its written or its resolved form, and
//!   everything below it matches too; a bare name (`.env`) matches at any depth; `domain:x` includes subdomains.
//!   Where an expansion, an unknown option or an address that readers could disagree about *could* make a deny match,
//!   the answer is ask.
//! - **Allow** wants every simple command covered: exact words in their places, the program by its name or from a
//!   system folder (`./git` is not `git`), no assignment that can change what runs (`LD_PRELOAD=`, `PATH=`, all but a
//!   short list), no argument by which a known program runs another one or writes elsewhere (`git -c`, `rg --pre`,
//!   `tar --to-command`, `find -delete`, …) unless the rule spells it. What a command redirects into must be covered by
//!   an Edit or Write rule (`/dev/null`, `/dev/stdout` and `/dev/stderr` are free). A command that matches but for one
//!   of these is asked. Both the written and the resolved path must be covered.
//! - **A Read rule allows programs that only read** (`cat`, `head`, `grep`, `rg`, `find`, `sed -n`, `sort`, …) on what it allows to be
//!   read: every file that the call reads is covered, written and resolved, and each option is on a short list that names no other
//!   file, starts nothing and writes nothing. `grep -R`, `tail -f`, `sort -o`, `find -exec` are not, and need a rule of their own.
//! - A command that was not parsed whole is never allowed: it is asked, with what is not known as the reason.
//! - **Wrappers** that only run their command (`timeout`, `nice`, `nohup`, `time`, `stdbuf`, `ionice`, `env` with
//!   harmless assignments, `sh -c`) are covered when what they run is listed and covered. `sudo`, `ssh`, `docker`, `su`
//!   and the like need a rule of their own besides one for what they run. `cd` below the session's folder, `test`,
//!   `true`, `false`, `:`, `pwd` and `exit` ride along with a covered command.
//! - A path that only the shell knows (`cat "$f"`) asks as soon as any deny or ask rule speaks of such a use; a glob asks
//!   only where it could name what is denied.
//! - A recursive use (`grep -r`, `rg`, `rm -r`, a Grep tool) of a folder above a denied place asks, because it can reach
//!   it; `"recursive": "ignore"` turns this off.
//!
//! Limits: what an allowed program then does is not seen here (`make`, `npm test` run what the project says); a deny for
//! one spelling of an effect does not stop another (`git push` and a script that pushes). Rules are at most
//! [`notation::RULE_LIMIT`] bytes, [`policy::RULES_LIMIT`] in all.
//!
//! Called by the host as a component, and natively by tests and benches through [`Policy::compile`] and
//! [`Policy::decide`].

mod allow;
pub mod bench;
mod command;
mod config;
mod covers;
mod glob;
mod hits;
mod host;
mod judge;
pub mod notation;
mod options;
mod place;
pub mod policy;
mod program;
mod reader;
mod reason;
mod sed;

pub use policy::Policy;

use beadle_plugin::{Call, Decision, Description, Session, export_policy};

/// Whether a rule speaks of something; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    No,
    /// What is not known could make it so.
    May,
    Yes,
}

/// The folders that paths in rules start from, without a trailing slash.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Roots<'a> {
    pub root: &'a str,
    pub home: Option<&'a str>,
}

/// JSON Schema of the configuration.
const SCHEMA: &str = include_str!("config.schema.json");

impl beadle_plugin::Policy for Policy {
    fn describe() -> Description {
        Description::new(
            "rules",
            env!("CARGO_PKG_VERSION"),
            "Allows, asks and denies by rules such as Bash(git push:*) and Read(./src/**).",
        )
        .with_schema(SCHEMA)
    }

    fn configure(config: &str) -> Result<Self, String> {
        Self::compile(config)
    }

    fn decide(&self, session: &Session, call: &Call) -> Decision {
        Self::decide(self, session, call)
    }
}

export_policy!(Policy);
