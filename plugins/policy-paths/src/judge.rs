//! Judging a call: its paths, its shell text that was not read whole, trees it goes over, and names inside code.
//!
//! Called by `lib`.

use beadle_plugin::{Access, Call, Command, Decision, Parse, PathUse, Session, ToolKind};
use policy_kit::{Strictest, shown};

use crate::config::Paths;
use crate::place::{Place, Roots};

/// Written and read by everyone; nothing is kept there.
const DEVICES: &[&str] = &["/dev/null", "/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/zero", "/dev/urandom"];
/// Programs whose words are text, or file names that the host lists, and never code that opens files.
const TEXT: &[&str] = &["echo", "printf", "grep", "egrep", "fgrep", "rg", "ag", "ack", "which", "type", "test", "[", "cd", "export", "ls"];
/// Most words of a call that are looked into for names.
const WORDS: usize = 4_096;

impl Paths {
    /// Denies, asks or abstains.
    pub fn judge(&self, session: &Session, call: &Call) -> Decision {
        let roots = Roots { root: &session.root, home: session.home.as_deref(), write_root: call.write_root.as_deref() };
        let mut out = Strictest::default();
        for path in &call.paths {
            self.path(path, &roots, &mut out);
        }
        if call.parse != Parse::Complete {
            out.add(self.on_uncertain, "uncertain", || {
                let why = call.parse_reason.as_deref().unwrap_or("it was not read whole");
                format!("which files this call uses cannot be told: {why}")
            });
        }
        if self.trees
            && !self.secrets.is_empty()
            && let Some(what) = tree(call)
        {
            out.add(self.on_uncertain, "recursive", || {
                format!("{what} reads whole folders and can reach secret files in them; name the files, or set recursive = \"ignore\"")
            });
        }
        self.names(call, &roots, &mut out);
        out.decision().unwrap_or_else(Decision::abstain)
    }

    fn path(&self, path: &PathUse, roots: &Roots<'_>, out: &mut Strictest) {
        // why as written: another road to the same name may go through a link.
        if DEVICES.contains(&path.written.as_str())
            || path.written.strip_prefix("/dev/fd/").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        {
            return;
        }
        let (writes, reads) = (path.access != Access::Read, path.access != Access::Write);
        let verb = if writes { "written" } else { "read" };
        for place in [path.absolute.as_str(), &path.resolved].into_iter().flat_map(|p| [Some(p), behind_proc(p)]).flatten() {
            if let Some(secret) = self.secret(place, roots) {
                out.add(self.on_secret, format!("secrets: {}", secret.text), || {
                    format!("{} is a secret file ({}) and must not be {verb}", shown(&path.written), secret.text)
                });
            }
        }
        let inside = |folders: &[crate::place::Folder]| folders.iter().any(|f| f.holds(&path.resolved, roots));
        if !path.exact {
            out.add(self.on_uncertain, "uncertain", || {
                format!("{} is {verb}, and where that leads cannot be told before it runs", shown(&path.written))
            });
            // why: only what begins at the root is known to lie outside before any expansion; that needs no question.
            if !path.written.starts_with('/') {
                return;
            }
        }
        if writes && !inside(&self.write) {
            out.add(self.on_outside, "write", || {
                format!(
                    "{} would be written at {}, outside of the folders that this session may write; write below {} instead",
                    shown(&path.written),
                    shown(&path.resolved),
                    shown(roots.write_root.unwrap_or(roots.root))
                )
            });
        }
        if let (true, Some(read)) = (reads, &self.read)
            && !inside(read)
            && !inside(&self.write)
        {
            out.add(self.on_outside, "read", || {
                format!(
                    "{} would be read at {}, outside of the folders that this session may read",
                    shown(&path.written),
                    shown(&path.resolved)
                )
            });
        }
    }

    /// The place of the list that an absolute path belongs to.
    fn secret(&self, path: &str, roots: &Roots<'_>) -> Option<&Place> {
        let secret = self.secrets.iter().find(|p| p.holds(path, roots))?;
        self.except.iter().all(|p| !p.holds(path, roots)).then_some(secret)
    }

    /// Names of secrets inside words that no table knows as files: code, unknown options, patterns of a search tool.
    fn names(&self, call: &Call, roots: &Roots<'_>, out: &mut Strictest) {
        let mut look = |word: &str| {
            for piece in word.split(|c: char| !(c.is_alphanumeric() || "._/~*?-+%".contains(c))) {
                let piece = piece.trim_start_matches('-');
                // why two characters: `.` and `/` are in every code, and no secret is called so.
                if piece.len() < 2 || call.paths.iter().any(|p| p.written == word) {
                    continue;
                }
                let path = match (piece.strip_prefix("~/"), roots.home) {
                    (Some(rest), Some(home)) => format!("{home}/{rest}"),
                    _ if piece.starts_with('/') => piece.to_owned(),
                    _ => format!("{}/{piece}", call.cwd),
                };
                if let Some(secret) = self.secret(&path, roots) {
                    out.add(self.on_uncertain, format!("secrets: {}", secret.text), || {
                        format!("{} names a secret file ({}), and what is done with it cannot be told", shown(piece), secret.text)
                    });
                }
            }
        };
        let words = call.commands.iter().filter(|c| !TEXT.contains(&c.program())).flat_map(|c| messages_left_out(c).chain(c.env.iter()));
        words.take(WORDS).for_each(|w| look(&w.text));
        if call.kind == ToolKind::Search
            && let Ok(input) = serde_json::from_str::<serde_json::Value>(&call.input)
        {
            ["glob", "include"].iter().filter_map(|k| input.get(k)?.as_str()).for_each(look);
        }
    }
}

/// The arguments of a command but for the text of `git commit -m`.
fn messages_left_out(c: &Command) -> impl Iterator<Item = &beadle_plugin::Word> {
    let git = c.program() == "git";
    let is_message = move |before: Option<&beadle_plugin::Word>, w: &beadle_plugin::Word| {
        git && (before.is_some_and(|b| matches!(b.text.as_str(), "-m" | "-am" | "--message")) || w.text.starts_with("--message="))
    };
    c.argv.iter().enumerate().skip(1).filter(move |(i, w)| !is_message(c.argv.get(i - 1), w)).map(|(_, w)| w)
}

/// What a process's own view of the file system leads to: `/proc/self/root/etc/shadow` is `/etc/shadow`.
fn behind_proc(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/proc/")?;
    let at = rest.find("/root/")?;
    Some(&rest[at + "/root".len()..])
}

/// What in a call reads the contents of whole folders.
fn tree(call: &Call) -> Option<String> {
    let tool = call.tool.to_ascii_lowercase();
    if call.kind == ToolKind::Search && (tool.contains("grep") || tool == "search_file_content" || tool == "codesearch") {
        return Some(format!("the tool {}", shown(&call.tool)));
    }
    let over_trees = |c: &&Command| {
        let short = |letters: &[char]| {
            c.argv.iter().skip(1).any(|w| w.text.strip_prefix('-').is_some_and(|l| !l.starts_with('-') && l.contains(letters)))
        };
        let long = |name: &str| c.argv.iter().skip(1).any(|w| w.text.starts_with(name));
        match c.program() {
            "rg" | "ag" | "ack" | "ugrep" | "rgrep" => true,
            "grep" | "egrep" | "fgrep" | "zgrep" => {
                short(&['r', 'R']) || long("--recursive") || long("--dereference-recursive") || long("--directories=rec")
            }
            "cp" | "scp" => short(&['r', 'R', 'a']) || long("--recursive") || long("--archive"),
            "rsync" => short(&['r', 'a']) || long("--recursive") || long("--archive"),
            "diff" => short(&['r']) || long("--recursive"),
            "tar" | "gtar" | "bsdtar" => {
                let first = c.argv.get(1).map_or("", |w| w.text.as_str());
                (!first.starts_with("--") && first.contains(['c', 'r', 'u'])) || long("--create") || long("--append") || long("--update")
            }
            "zip" | "7z" | "7za" => short(&['r']) || c.has("a"),
            "git" => c.has("grep") && c.has("--no-index"),
            _ => false,
        }
    };
    call.commands.iter().find(over_trees).map(|c| shown(c.program()))
}

#[cfg(test)]
mod tests;
