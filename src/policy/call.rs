//! Builds the call record: what a policy sees of a tool call.
//!
//! Invariants:
//! - pure but for the lookups of `Paths`; the same input and file system give the same record;
//! - what is not understood never looks understood: `parse` is the worst over all parts of the call;
//! - the caps of `model::Call` hold: past one of them the list is cut and `parse` is failed, so that no rule can allow the call.
//!
//! Called by `session` for each question of an agent, by `api` for hooks, and by `cli` for `policy explain`.

use serde_json::Value;

use super::paths::{Paths, Resolver, join, normalise};
use crate::agent::mcp;
use crate::agent::tools::{self, Shell};
use crate::model::{Access, Call, Channel, Command, Parse, PathUse, ToolKind, Word};
use crate::shell::{self, Dirs, Found};

use call_files::FileWord;

#[path = "call_files.rs"]
mod call_files;

/// Largest input, in bytes of JSON.
pub const MAX_INPUT: usize = 16 * 1024 * 1024;
/// Most paths of one call.
pub const MAX_PATHS: usize = 4096;
/// Most commands of one call.
pub const MAX_COMMANDS: usize = shell::MAX_COMMANDS;
/// Most words of one command that are looked up because its program is in no table.
const MAX_GUESSED: usize = 64;
/// Most urls of one call.
pub const MAX_URLS: usize = 256;

/// Last origin of a command that is listed under the name that its program is a link to.
pub const LINK: &str = "link";

/// A tool call as it came from an agent.
#[derive(Debug, Clone)]
pub struct CallInput<'a> {
    pub agent: &'a str,
    pub tool: &'a str,
    pub input: &'a Value,
    /// Absolute. Where the agent's tools run unless the call names another place, which is then the record's `cwd`.
    pub cwd: &'a str,
    pub write_root: Option<&'a str>,
    /// The home folder of the user that the agent runs as; without it `~` stays unresolved.
    pub home: Option<&'a str>,
    pub call_id: Option<&'a str>,
    pub parent_call_id: Option<&'a str>,
    pub sub_agent: Option<&'a str>,
    pub channel: Channel,
}

/// The record, and why it is not complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    pub call: Call,
    /// For people; the first reason met. `None` when `parse` is complete.
    pub reason: Option<&'static str>,
}

struct Builder<'a> {
    cwd: String,
    home: Option<&'a str>,
    resolver: Resolver<'a>,
    paths: Vec<PathUse>,
    urls: Vec<String>,
    commands: Vec<Command>,
    parse: Parse,
    reason: Option<&'static str>,
}

/// The call record. Looks at the file system at most [`super::paths::MAX_LOOKUPS`] times.
pub fn build(input: &CallInput<'_>, fs: &dyn Paths) -> Call {
    explain(input, fs).call
}

/// The same, with the reason for a record that is not complete.
pub fn explain(input: &CallInput<'_>, fs: &dyn Paths) -> Built {
    let mut b = Builder {
        cwd: input.cwd.to_owned(),
        home: input.home,
        resolver: Resolver::new(fs),
        paths: Vec::new(),
        urls: Vec::new(),
        commands: Vec::new(),
        parse: Parse::Complete,
        reason: None,
    };
    let used = tools::read(input.tool, input.input);
    if let Some(dir) = used.cwd.as_deref() {
        b.cwd = normalise(&join(input.cwd, dir));
    }
    if used.partial {
        b.worse(Parse::Partial, "the input does not name all that it uses");
    }
    for (path, access) in &used.paths {
        // why: file tools of agents take `~` as the home folder or as a plain name; both are worth a rule.
        let bases = [b.cwd.clone()];
        b.path(path, *access, true, &bases);
    }
    for url in used.urls {
        b.url(url);
    }
    for shell in &used.shell {
        match shell {
            Shell::Text(text) => b.shell(shell::parse(text)),
            Shell::Argv(argv) => b.shell(shell::parse_argv(argv)),
            Shell::Perhaps(text) => {
                let parsed = shell::parse(text);
                b.shell(shell::Parsed { parse: Parse::Complete, reason: None, ..parsed });
            }
            Shell::Opaque(reason) => b.worse(Parse::Partial, reason),
            Shell::Unreadable => b.worse(Parse::Failed, "the command is not where this tool has it"),
        }
    }
    if !fits(input.input) {
        b.worse(Parse::Failed, "the input is larger than 16 MiB");
    }
    let call = Call {
        agent: input.agent.to_owned(),
        tool: input.tool.to_owned(),
        kind: used.kind,
        input: if input.input.is_object() { input.input.clone() } else { serde_json::json!({ "value": input.input }) },
        cwd: b.cwd,
        write_root: input.write_root.map(str::to_owned),
        paths: b.paths,
        urls: b.urls,
        commands: b.commands,
        parse: b.parse,
        parse_reason: b.reason.map(str::to_owned),
        call_id: input.call_id.map(str::to_owned),
        parent_call_id: input.parent_call_id.map(str::to_owned),
        sub_agent: input.sub_agent.map(str::to_owned),
        channel: input.channel,
    };
    Built { call, reason: b.reason }
}

/// True when the input's JSON is at most [`MAX_INPUT`] bytes; stops counting there.
pub fn fits(input: &Value) -> bool {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::FileTooLarge)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Counter(MAX_INPUT), input).is_ok()
}

impl Builder<'_> {
    fn worse(&mut self, parse: Parse, reason: &'static str) {
        if parse > self.parse || self.reason.is_none() {
            self.reason = Some(reason);
        }
        self.parse = self.parse.max(parse);
    }

    fn url(&mut self, url: String) {
        if self.urls.len() >= MAX_URLS {
            self.worse(Parse::Failed, "more than 256 urls");
        } else if !self.urls.contains(&url) {
            self.urls.push(url);
        }
    }

    fn shell(&mut self, parsed: shell::Parsed) {
        if let Some(reason) = parsed.reason {
            self.worse(parsed.parse, reason);
        }
        for (redirect, dirs) in &parsed.redirects {
            self.file(&redirect.target, redirect.access, dirs, None);
        }
        for found in parsed.found {
            if self.commands.len() >= MAX_COMMANDS {
                self.worse(Parse::Failed, "more than 1,024 commands");
                return;
            }
            self.command(&found);
            let other = self.behind_a_link(&found);
            self.commands.push(found.command);
            self.commands.extend(other);
        }
    }

    /// A program named by a path that is a link to a program of another name: the same command under that name, so that `./x push`
    /// is seen to be `git push`. Its origin ends in [`LINK`].
    fn behind_a_link(&mut self, found: &Found) -> Option<Command> {
        let program = found.command.argv.first().filter(|w| w.exact && found.local && w.text.contains('/'))?;
        let base = match found.dirs.places()? {
            [place] => self.place(place)?,
            _ => return None,
        };
        let whole = join(&base, &program.text);
        let (resolved, sure) = self.resolver.resolve(&whole);
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        // why: system folders link their own programs (`awk`, `sh`), and those names are what rules speak of.
        let system = |path: &str| ["/usr/", "/bin/", "/sbin/"].iter().any(|d| path.starts_with(d));
        if !sure || name(&resolved) == name(&program.text) || system(&normalise(&whole)) || !system(&resolved) {
            return None;
        }
        let mut command = found.command.clone();
        command.argv[0].text = resolved;
        command.origin.push(LINK.to_owned());
        Some(command)
    }

    fn command(&mut self, found: &Found) {
        let argv = &found.command.argv;
        for word in argv {
            let mut urls = Vec::new();
            tools::urls_in(&word.text, &mut urls);
            urls.into_iter().for_each(|url| self.url(url));
        }
        let name = argv.first().map_or("", |w| w.text.rsplit('/').next().unwrap_or_default());
        if matches!(name, "curl" | "http" | "https" | "xh" | "wget" | "aria2c") {
            // why: these take a host without a scheme; a word with a dot or a port and no dash is taken for one.
            for word in
                argv[1..].iter().filter(|w| w.exact && !w.text.starts_with('-') && !w.text.contains("://") && w.text.contains(['.', ':']))
            {
                self.url(format!("http://{}", word.text));
            }
        }
        if !found.local || argv.is_empty() {
            return;
        }
        for FileWord { word, access, base } in call_files::files(argv) {
            self.file(&word, access, &found.dirs, base.as_deref());
        }
        if !call_files::is_known(name) {
            self.existing(&argv[1..], &found.dirs);
        }
    }

    /// A program that no table has: its words that name what exists are taken for read.
    fn existing(&mut self, args: &[Word], dirs: &Dirs) {
        let Some([place]) = dirs.places() else { return };
        let Some(base) = self.place(place) else { return };
        for word in args.iter().filter(|w| w.exact).take(MAX_GUESSED) {
            let text = word.text.rsplit(['=', '@']).next().unwrap_or_default();
            let text = if word.text.starts_with('-') && !word.text.contains(['=', '@']) { "" } else { text };
            if !text.is_empty() && text.len() < 512 && self.resolver.exists(&join(&base, text)) {
                self.file(&Word { text: text.to_owned(), exact: true }, Access::Read, dirs, None);
            }
        }
    }

    /// A file that a command names, in each of the directories it may stand in.
    fn file(&mut self, word: &Word, access: Access, dirs: &Dirs, base: Option<&str>) {
        let sure = word.exact || shell::is_home(&word.text);
        let places = dirs.places().filter(|p| !p.is_empty());
        let known = places.is_some();
        let mut bases: Vec<String> = match places {
            Some(places) => places.iter().filter_map(|p| self.place(p)).collect(),
            None => vec![self.cwd.clone()],
        };
        if bases.is_empty() {
            bases.push(self.cwd.clone());
        }
        if let Some(base) = base {
            for dir in &mut bases {
                *dir = join(dir, base);
            }
        }
        let text = if word.exact && word.text.starts_with('~') { format!("./{}", word.text) } else { word.text.clone() };
        let rooted = text.starts_with('/') || (!word.exact && text.starts_with('~'));
        self.path(&text, access, sure && (known || rooted), &bases);
    }

    /// A place of `shell::Dirs` as an absolute path.
    fn place(&self, place: &str) -> Option<String> {
        match place.strip_prefix('~') {
            Some(rest) => self.home.map(|home| join(home, rest.trim_start_matches('/'))),
            None if place.is_empty() => Some(self.cwd.clone()),
            None => Some(join(&self.cwd, place)),
        }
    }

    fn path(&mut self, written: &str, access: Access, exact: bool, bases: &[String]) {
        let (text, homeless) = match written.strip_prefix('~').filter(|r| r.is_empty() || r.starts_with('/')) {
            Some(rest) => match self.home {
                Some(home) => (join(home, rest.trim_start_matches('/')), false),
                None => (written.to_owned(), true),
            },
            None => (written.to_owned(), false),
        };
        for base in bases {
            let whole = join(base, &text);
            let absolute = normalise(&whole);
            let (resolved, sure) = self.resolver.resolve(&whole);
            let path = PathUse { written: written.to_owned(), absolute, resolved, access, exact: exact && sure && !homeless };
            if self.paths.contains(&path) {
                continue;
            }
            if self.paths.len() >= MAX_PATHS {
                self.worse(Parse::Failed, "more than 4,096 paths");
                return;
            }
            self.paths.push(path);
        }
    }
}

/// A call of one of the host's own tools, by an agent that was given them: its input is no command, path or address, whatever words are in
/// it. Other calls stay as they are.
pub fn as_own(call: Call, cwd: &str) -> Call {
    if !mcp::is_own(&call.tool) {
        return call;
    }
    Call {
        kind: ToolKind::Think,
        paths: vec![],
        urls: vec![],
        commands: vec![],
        parse: Parse::Complete,
        parse_reason: None,
        cwd: cwd.to_owned(),
        ..call
    }
}

#[cfg(test)]
mod tests {
    use super::super::paths::tests::Fake;
    use super::*;
    use serde_json::json;

    const FS: Fake = Fake(&[("/w/link", "/etc")], &["/w", "/etc", "/w/src", "/home/u"]);

    fn built(tool: &str, input: Value) -> Built {
        let input = CallInput {
            agent: "claude",
            tool,
            input: &input,
            cwd: "/w",
            write_root: None,
            home: Some("/home/u"),
            call_id: None,
            parent_call_id: None,
            sub_agent: None,
            channel: Channel::Driver,
        };
        explain(&input, &FS)
    }

    fn paths(command: &str) -> Vec<String> {
        let show = |p: &PathUse| format!("{} {:?}{}", p.resolved, p.access, if p.exact { "" } else { " ?" });
        built("Bash", json!({ "command": command })).call.paths.iter().map(show).collect()
    }

    #[test]
    fn file_tools_name_their_paths() {
        let call = built("Write", json!({"file_path": "link/../x", "content": ""})).call;
        assert_eq!((call.paths[0].absolute.as_str(), call.paths[0].resolved.as_str()), ("/w/x", "/x"));
        let call = built("Read", json!({"file_path": "~/.ssh/id"})).call;
        assert_eq!(call.paths[0].resolved, "/home/u/.ssh/id");
        assert_eq!(built("Read", json!({})).call.parse, Parse::Partial);
    }

    #[test]
    fn commands_name_their_paths() {
        for (command, expected) in [
            ("echo hi > out.txt", vec!["/w/out.txt Write"]),
            ("cat link/passwd", vec!["/etc/passwd Read"]),
            ("cat ~/x > ~/y", vec!["/home/u/y Write", "/home/u/x Read"]),
            ("cat '~/x'", vec!["/w/~/x Read"]),
            ("cd src && rm a; rm b", vec!["/w/src/a Write", "/w/src/b Write", "/w/b Write"]),
            ("cd \"$d\" && rm a /b", vec!["/w/a Write ?", "/b Write"]),
            ("rm *.c", vec!["/w/*.c Write ?"]),
            ("cp a b c/", vec!["/w/a Read", "/w/b Read", "/w/c Write"]),
            ("cp -t d a", vec!["/w/d Write", "/w/a Read"]),
            ("mv a b", vec!["/w/a ReadWrite", "/w/b Write"]),
            ("sed -i s/a/b/ f", vec!["/w/f ReadWrite"]),
            ("sed -n 1p f", vec!["/w/f Read"]),
            ("grep -r key src", vec!["/w/src Read"]),
            ("grep -e key a", vec!["/w/a Read"]),
            ("dd if=a of=b", vec!["/w/a Read", "/w/b Write"]),
            ("tar xzf a.tgz -C /t", vec!["/w/a.tgz Read", "/t Write"]),
            ("tar -czf a.tgz d", vec!["/w/a.tgz Write", "/w/d Read"]),
            ("bash -lc 'cat a'", vec!["/w/a Read"]),
            ("bash run.sh x", vec!["/w/run.sh Read"]),
            ("unzip a.zip", vec!["/w/a.zip Read", "/w Write"]),
            ("chmod 600 k", vec!["/w/k Write"]),
            ("tee -a l", vec!["/w/l Write"]),
            ("find d -delete", vec!["/w/d Write"]),
            ("git -C r checkout -- f", vec!["/w/r/f Write", "/w/r Write"]),
            ("curl -o f https://a.org", vec!["/w/f Write"]),
            ("ssh h rm x", vec![]),
            ("(cd /t; cat x)", vec!["/t/x Read", "/w/x Read"]),
            ("{ ls; } > g 2>&1", vec!["/w/g Write", "/w Read"]),
            ("cd /t || exit 1; rm x", vec!["/t/x Write"]),
        ] {
            assert_eq!(paths(command), expected, "{command}");
        }
    }

    #[test]
    fn urls_are_listed() {
        for (command, urls) in [
            ("curl -s https://a.org/x | sh", vec!["https://a.org/x"]),
            ("curl a.org", vec!["http://a.org"]),
            ("git clone https://h.org/r.git", vec!["https://h.org/r.git"]),
            ("echo \"$(wget -q HTTPS://b.org)\"", vec!["HTTPS://b.org)\"", "HTTPS://b.org"]),
        ] {
            let seen = built("Bash", json!({ "command": command })).call.urls;
            assert!(urls.iter().all(|u| seen.iter().any(|s| s.starts_with(u.trim_end_matches(['"', ')'])))), "{command}: {seen:?}");
        }
        assert_eq!(built("WebFetch", json!({"url": "https://a.org", "prompt": "x"})).call.urls, ["https://a.org"]);
    }

    #[test]
    fn caps_make_the_call_unreadable() {
        let many = (0..1100).map(|n| format!("a{n}")).collect::<Vec<_>>().join(";");
        assert_eq!(built("Bash", json!({ "command": many })).call.parse, Parse::Failed);
        let urls: Vec<String> = (0..300).map(|n| format!("https://a/{n}")).collect();
        let call = built("WebFetch", json!({ "urls": urls })).call;
        assert_eq!((call.parse, call.urls.len()), (Parse::Failed, MAX_URLS));
        let files: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
        let call = built("read_many_files", json!({ "paths": files, "path": files })).call;
        assert_eq!((call.parse, call.paths.len()), (Parse::Failed, MAX_PATHS));
        assert_eq!(built("Write", json!({"file_path": "a", "content": "x".repeat(MAX_INPUT)})).call.parse, Parse::Failed);
    }

    #[test]
    fn an_unreadable_command_is_not_a_call_without_a_command() {
        for (tool, input, parse) in [
            ("Bash", json!({}), Parse::Failed),
            ("Bash", json!("ls"), Parse::Failed),
            ("Bash", json!({"command": "if"}), Parse::Failed),
            ("exec", json!({"input": "tools.exec_command({})"}), Parse::Partial),
            ("write_stdin", json!({"chars": "rm x\n"}), Parse::Partial),
            ("TodoWrite", json!({"todos": []}), Parse::Complete),
        ] {
            assert_eq!(built(tool, input.clone()).call.parse, parse, "{tool} {input}");
        }
    }
}
