//! The standard policy `egress`: which hosts a session's calls may connect to.
//!
//! # Configuration
//! ```json
//! {
//!   "allow": ["docs.rs", "*.crates.io", "https://github.com", "github.com:22", "10.1.0.0/16"],
//!   "ask":   ["*.example.org"],
//!   "deny":  ["pastebin.com", "169.254.169.254"],
//!   "default": "ask", "private": "ask", "on_uncertain": "ask", "on_implied": "ask",
//!   "fetch": "allow"
//! }
//! ```
//! | key | means | without it |
//! | --- | --- | --- |
//! | `allow`, `ask`, `deny` | hosts: `[scheme://]host[:port]`; the host is a name, `*.name` (subdomains only), `*`, an IP address or a network; `:*` is any port | |
//! | `default` | `ask`, `deny` or `abstain`: a host that no list names | `ask` |
//! | `private` | `ask`, `deny` or `abstain`: this machine, private and link-local addresses, `localhost`, `*.internal`, names without a dot; unless a list names it | `ask` |
//! | `on_uncertain` | `ask` or `deny`: where it goes cannot be told | `ask` |
//! | `on_implied` | `ask`, `deny` or `ignore`: a program that goes where its own settings say (`git push origin`, `npm install`, `gh`) | `ask` |
//! | `fetch` | `allow` or `abstain`: a fetch tool all of whose addresses are on `allow` | `allow` |
//!
//! **Doubt never loosens.** In `allow` an entry is exactly that host, at the scheme's default port unless it says another. In `ask` and
//! `deny` it includes subdomains and every port. Deny over ask over allow. A host is compared without regard to case and its last dot. IP
//! addresses are the same in every spelling (`0x7f.1`, `2130706433`, `[::ffff:127.0.0.1]`), but only the plain one can be allowed.
//!
//! # What it judges
//! - `call.urls` and the `url` field of fetch tools;
//! - commands, also inside `sh -c`, `$(…)`, `xargs`: `curl`, `wget`, `git` (clone, fetch, pull, push, ls-remote, remote, submodule), `ssh`,
//!   `scp`, `sftp`, `rsync`, `nc`, `telnet`, `socat`, `openssl s_client`, `dig` and its kin, `ftp`, `http`, the registries that package
//!   managers are given, `/dev/tcp/host/port`, and every address with a scheme in a word of any other program.
//!
//! Commands are never allowed by it (it abstains), because what else they do is for the rules to say.
//!
//! Not vouched for, so `on_uncertain`: a word that expansion can change; a command that was not read whole; user information with odd
//! characters, backslashes, `%`, letters outside of ASCII in a host; and what sends a program elsewhere than its words say: `--proxy`,
//! `--resolve`, `--connect-to`, `--unix-socket`, `curl -K`, `wget -e` and `-i`, `ssh -J`, `-F`, `-o ProxyCommand`, forwards, `git -c`,
//! proxy variables.
//!
//! # What it cannot see
//! - Programs that open sockets by themselves (`make`, `npm test`, a script without an address in its words).
//! - Where an allowed host redirects to (`curl -L`), and what a name resolves to.
//! - The settings of programs: `~/.curlrc`, `~/.ssh/config` (an alias of a host), `insteadOf` of git, environment variables set earlier.
//!
//! Called by the host as a component, and natively by tests through [`Egress`].

mod config;
mod entry;
mod judge;
mod programs;
mod tables;

pub use config::Egress;

use beadle_plugin::{Call, Decision, Description, Session, export_policy};

impl beadle_plugin::Policy for Egress {
    fn describe() -> Description {
        Description::new("egress", env!("CARGO_PKG_VERSION"), "Says which hosts fetch tools and network commands may connect to.")
            .with_schema(include_str!("config.schema.json"))
    }

    fn configure(config: &str) -> Result<Self, String> {
        Self::read(config)
    }

    fn decide(&self, _session: &Session, call: &Call) -> Decision {
        self.judge(call)
    }
}

export_policy!(Egress);
