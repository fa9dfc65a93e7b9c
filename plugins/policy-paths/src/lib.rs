//! The standard policy `paths`: where a session may write and read, and which files are secret.
//!
//! # Configuration
//! ```json
//! {
//!   "write": ["@write-root", "/tmp/scratch"],
//!   "read": [".", "/usr"],
//!   "secrets": ["./config/prod.toml", "*.kdbx"],
//!   "except": [".env.ci"],
//!   "standard_secrets": true,
//!   "on_outside": "deny", "on_secret": "deny", "on_uncertain": "ask",
//!   "recursive": "ask"
//! }
//! ```
//! | key | means | without it |
//! | --- | --- | --- |
//! | `write` | folders that may be written; `@write-root` is the session's write root, or its folder where it has none | `["@write-root"]` |
//! | `read` | folders that may be read, besides those that may be written | anything that is not secret may be read |
//! | `secrets` | places that are neither read nor written, added to the standard list | |
//! | `except` | places that are not secret although a pattern says so, added to the standard exceptions | |
//! | `standard_secrets` | `false` turns the standard lists off ([`STANDARD`], [`EXCEPTIONS`]) | `true` |
//! | `on_outside`, `on_secret` | `deny` or `ask` | `deny` |
//! | `on_uncertain` | `ask` or `deny`: what cannot be told never passes | `ask` |
//! | `recursive` | `ask` or `ignore`: a read of a whole tree (`grep -r`, `rg`, `cp -r`, `tar`, a Grep tool) can reach a secret | `ask` |
//!
//! Folders are real paths (no symlinks in them): `/x`, `~/x`, `.` or `./x` from the session's folder. Places: `/x`, `~/x` and `./x` as
//! there, anything else at any depth (`.env`, `.ssh/**`); `*` and `?` stay in one name, `**` is any number of folders; what is below a
//! place belongs to it. Case: folders are compared byte by byte, secrets without regard to the case of ASCII letters.
//!
//! # How it decides
//! It denies, asks or abstains; it never allows, so the other policies still decide. It judges `call.paths`: what file tools name, and
//! what the host makes of a command's redirections and arguments. A write counts where it really lands (symlinks and `..` followed), a
//! secret counts by its written and by its real place. A path that expansion can change, a place under `/proc`, and a command that
//! was not read whole are uncertain. So is a word inside a program's code (`python -c "open('.env')"`) that names a secret.
//! `/dev/null`, `/dev/stdin`, `/dev/stdout`, `/dev/stderr`, `/dev/tty`, `/dev/zero`, `/dev/urandom` and `/dev/fd/N` are free.
//!
//! # What it cannot see
//! - What an allowed program opens by itself (`make`, `npm test`, a script): that is for the process plane.
//! - Hard links: a second name of a secret file looks like any other file. Making one with `ln` is seen, as a read of the secret.
//! - Links that change between the decision and the call.
//! - The content of what is written: a copy of a secret's text is not a secret by its name.
//!
//! Called by the host as a component, and natively by tests through [`Paths`].

mod config;
mod judge;
mod place;
mod standard;

pub use config::Paths;
pub use standard::{EXCEPTIONS, STANDARD};

use beadle_plugin::{Call, Decision, Description, Session, export_policy};

impl beadle_plugin::Policy for Paths {
    fn describe() -> Description {
        Description::new("paths", env!("CARGO_PKG_VERSION"), "Keeps writes inside the write root, and secret files unread and unwritten.")
            .with_schema(include_str!("config.schema.json"))
    }

    fn configure(config: &str) -> Result<Self, String> {
        Self::read(config)
    }

    fn decide(&self, session: &Session, call: &Call) -> Decision {
        self.judge(session, call)
    }
}

export_policy!(Paths);
