//! Whether the allow rules cover all of a call.
//!
//! Invariant: every simple command, every path and every address must be covered; what cannot be told from the record
//! counts as not covered. Called by `judge` after deny, ask and doubt.

use beadle_plugin::{Access, Call, Command, PathUse, ToolKind, Word};

use crate::command::View;
use crate::covers::{Cover, Gap};
use crate::glob;
use crate::judge::{Facts, What, is_device};
use crate::notation::WEB_SEARCH_TOOLS;
use crate::policy::{RuleId, Tier};
use crate::program;
use crate::reader;

/// What kept a call from being allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Miss<'a> {
    /// Nothing speaks of it: no opinion.
    Uncovered(What<'a>),
    /// A rule speaks of the command, but for this.
    But(&'a Command, RuleId, &'static str, &'a Word),
    /// The commands are covered, but not what they write.
    Writes(&'a PathUse),
    /// A command is redirected to what the record does not name exactly.
    Redirects(&'a Word),
}

impl Tier {
    /// The rule that covers the call, or the first of several.
    pub(crate) fn allows<'a>(&self, call: &'a Call, facts: &'a Facts<'_>) -> Result<RuleId, Miss<'a>> {
        if let Some(rule) = self.everything {
            return Ok(rule);
        }
        let named = self.named(&call.tool);
        if facts.is_command {
            let rule = match named.or(self.any_command) {
                Some(rule) => rule,
                None => self.commands(call, facts)?,
            };
            return self.redirects(call, facts).map(|()| rule);
        }
        if let Some(rule) = named {
            return Ok(rule);
        }
        let uncovered = Err(Miss::Uncovered(What::Tool));
        if facts.is_agent {
            let listed = facts.agent_type.as_ref().and_then(|t| self.agents.iter().find(|(p, _)| glob::matches(p, t.as_bytes())));
            return self.any_agent.or(listed.map(|(_, rule)| *rule)).ok_or(Miss::Uncovered(What::Tool));
        }
        match call.kind {
            ToolKind::Read | ToolKind::Search if !WEB_SEARCH_TOOLS.contains(&call.tool.as_str()) => self.files(call, facts, self.any_read),
            ToolKind::Edit | ToolKind::Delete | ToolKind::Move => self.files(call, facts, self.any_edit),
            ToolKind::Fetch if !WEB_SEARCH_TOOLS.contains(&call.tool.as_str()) => self.addresses(call),
            _ => uncovered,
        }
    }

    fn files<'a>(&self, call: &'a Call, facts: &'a Facts<'_>, bare: Option<RuleId>) -> Result<RuleId, Miss<'a>> {
        let edits = !matches!(call.kind, ToolKind::Read | ToolKind::Search);
        let mut first = None;
        for path in facts.paths(call) {
            // An edit reads the file it changes; that needs no Read rule.
            let read = path.access == Access::Read || (path.access == Access::ReadWrite && !edits);
            let write = path.access != Access::Read;
            let listing = call.kind == ToolKind::Search;
            for (applies, as_read) in [(read, true), (write, false)] {
                if applies {
                    let rule = self.path(path, as_read, listing, facts).ok_or(Miss::Uncovered(What::Path(path, false)))?;
                    first = first.or(Some(rule));
                }
            }
        }
        first.or(bare).ok_or(Miss::Uncovered(What::Tool))
    }

    /// The rule that covers a path as written and as resolved.
    fn path(&self, path: &PathUse, read: bool, listing: bool, facts: &Facts<'_>) -> Option<RuleId> {
        let (any, places) = if read { (self.any_read, &self.reads) } else { (self.any_edit, &self.edits) };
        if any.is_some() {
            return any;
        }
        let pattern = listing && !path.written.contains(['$', '`', '~']) && !path.written.contains("..");
        if !path.exact && !pattern {
            return None;
        }
        let covering = |text: &str| {
            places.iter().find(|(p, _)| p.covers(text, read, &facts.roots) && (path.exact || p.is_whole_folder())).map(|(_, rule)| *rule)
        };
        let rule = covering(&path.absolute)?;
        (path.resolved == path.absolute || covering(&path.resolved).is_some()).then_some(rule)
    }

    fn addresses<'a>(&self, call: &'a Call) -> Result<RuleId, Miss<'a>> {
        let mut first = None;
        for url in &call.urls {
            let listed = || self.fetches.iter().find(|(d, _)| d.covers(url)).map(|(_, rule)| *rule);
            first = first.or(Some(self.any_fetch.or_else(listed).ok_or(Miss::Uncovered(What::Url(url)))?));
        }
        first.or(self.any_fetch).ok_or(Miss::Uncovered(What::Tool))
    }

    /// Every command covered by a pattern, or as the wrapper of covered ones, or riding along with one.
    fn commands<'a>(&self, call: &'a Call, facts: &Facts<'_>) -> Result<RuleId, Miss<'a>> {
        let mut first = None;
        let cds = call.commands.iter().any(|c| matches!(c.program(), "cd" | "pushd" | "popd"));
        let reads = self.all_reads(call, facts);
        let at_root = !cds && call.cwd.trim_end_matches('/') == facts.roots.root;
        for (i, command) in call.commands.iter().enumerate() {
            let uncovered = Miss::Uncovered(What::Command(command));
            let Some(view) = View::of(command) else { return Err(uncovered) };
            let inner = runs_listed(call, i, view.name);
            let here = at_root && command.origin.iter().all(|o| stays_here(o));
            let mut but = None;
            let own = self.patterns(view.name).find(|(pattern, rule)| match pattern.covers(&view, here, inner, &facts.roots) {
                Cover::Yes => true,
                Cover::But(gap) => {
                    let (why, word) = match gap {
                        Gap::Unknown(w) => ("only the shell knows what becomes of", w),
                        Gap::Assignment(w) => ("what runs can be changed by", w),
                        Gap::Power(w) => ("the rule does not spell, and more than its command could come of,", w),
                    };
                    // The words live in the call, or in a view of it that does not outlive this loop.
                    but = but.or_else(|| find_word(command, word).map(|word| Miss::But(command, *rule, why, word)));
                    false
                }
                Cover::No => false,
            });
            // A program behind a link was listed under the name it leads to; the rule that covers the link names that very file.
            if command.origin.last().is_some_and(|o| o == "link") && i > 0 {
                continue;
            }
            if let Some((_, rule)) = own {
                first = first.or(Some(*rule));
                continue;
            }
            let plain_env = command.env.iter().all(program::harmless_env);
            let by_name = view.program.exact && !view.program.text.contains('/');
            let wraps = inner
                && (by_name || view.program.text.starts_with("/usr/bin/") || view.program.text.starts_with("/bin/"))
                && program::is_transparent(view.name, &view.args);
            if plain_env && (wraps || (by_name && rides_along(&view, facts))) {
                continue;
            }
            if plain_env
                && by_name
                && let Some(rule) = reads
                && reader::only_reads(view.name, &view.args, call)
            {
                first = first.or(Some(rule));
                continue;
            }
            return Err(but.unwrap_or(uncovered));
        }
        first.ok_or_else(|| Miss::Uncovered(call.commands.first().map_or(What::Tool, What::Command)))
    }

    /// The Read rule that covers all that the call reads, or the first of several; of a call that names no file, the first there is.
    fn all_reads(&self, call: &Call, facts: &Facts<'_>) -> Option<RuleId> {
        let mut first = self.any_read.or_else(|| self.reads.first().map(|(_, rule)| *rule))?;
        for (at, path) in facts.paths(call).filter(|p| p.access != Access::Write).enumerate() {
            let rule = self.path(path, true, false, facts)?;
            first = if at == 0 { rule } else { first };
        }
        Some(first)
    }

    /// What commands are redirected into needs an Edit rule of its own.
    ///
    /// A redirection of a group (`{ …; } > f`) or of nothing (`> f`) stands only in `paths`, beside what file tools
    /// write. So wherever the input has a `>` that is not known to be harmless, every written path needs its rule.
    fn redirects<'a>(&self, call: &'a Call, facts: &Facts<'_>) -> Result<(), Miss<'a>> {
        let mut redirected = false;
        for redirect in call.commands.iter().flat_map(|c| &c.redirects) {
            let target = &redirect.target;
            let network = target.text.starts_with("/dev/tcp/") || target.text.starts_with("/dev/udp/");
            if redirect.access == Access::Read && !network {
                continue;
            }
            if target.exact && is_device(&target.text) {
                continue;
            }
            redirected = true;
            // Whether the place is known is judged below, on the paths: the host itself expands `~/`.
            if network || !call.paths.iter().any(|p| p.written == target.text && p.access != Access::Read) {
                return Err(Miss::Redirects(target));
            }
        }
        if call.paths.iter().all(|p| p.access == Access::Read) || !(redirected || may_redirect(&call.input)) {
            return Ok(());
        }
        let written = call.paths.iter().filter(|p| p.access != Access::Read && !(p.exact && is_device(&p.absolute)));
        for path in written {
            if self.path(path, false, false, facts).is_none() {
                return Err(Miss::Writes(path));
            }
        }
        Ok(())
    }
}

/// The same word in the command, so that it lives as long as the call; for words that a view made up, the program.
fn find_word<'a>(command: &'a Command, word: &Word) -> Option<&'a Word> {
    command.argv.iter().chain(&command.env).find(|w| *w == word).or(command.argv.first())
}

/// Whether what the wrapper at `at` runs is listed behind it.
fn runs_listed(call: &Call, at: usize, name: &str) -> bool {
    let around = &call.commands[at].origin;
    call.commands[at + 1..].iter().take_while(|c| c.origin.len() > around.len() && c.origin.starts_with(around)).any(|c| {
        let label = c.origin[around.len()].as_str();
        label.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')) && !name.is_empty()
    })
}

/// Whether commands in this wrapper start in the folder that the wrapper stands in.
fn stays_here(origin: &str) -> bool {
    matches!(
        origin.split(' ').next(),
        Some("timeout" | "nice" | "nohup" | "time" | "ionice" | "stdbuf" | "sh" | "bash" | "dash" | "zsh" | "$()")
    )
}

/// Builtins that do nothing outside their shell; `cd` only below the session's folder.
fn rides_along(view: &View<'_>, facts: &Facts<'_>) -> bool {
    match view.name {
        "true" | "false" | ":" | "pwd" | "exit" => true,
        "test" | "[" => view.args.iter().all(|w| w.exact),
        "wait" => view.args.iter().all(|w| w.exact && !w.text.starts_with("-p")),
        "cd" => match view.args.as_ref() {
            [dir] if dir.exact && !dir.text.starts_with('-') && !dir.text.split('/').any(|n| n == "..") => {
                let root = facts.roots.root;
                !dir.text.starts_with('/') || dir.text.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            _ => false,
        },
        _ => false,
    }
}

/// Whether a command text, as it stands in JSON, can hold a redirection into a file.
fn may_redirect(input: &str) -> bool {
    // An escaped character could be the sign itself.
    if input.contains("\\u003") {
        return true;
    }
    let mut rest = input;
    while let Some(at) = rest.find('>') {
        rest = &rest[at + 1..];
        let after = rest.strip_prefix('>').unwrap_or(rest);
        let to_number = after
            .strip_prefix('&')
            .is_some_and(|n| n.starts_with(['1', '2']) && !n[1..].starts_with(|c: char| c.is_ascii_alphanumeric() || "/._-".contains(c)));
        let target = after.trim_start_matches(' ');
        let to_null =
            target.strip_prefix("/dev/null").is_some_and(|n| n.is_empty() || n.starts_with([' ', ';', '&', '|', ')', '"', '}', '\\']));
        if !to_number && !to_null {
            return true;
        }
        rest = after;
    }
    false
}
