//! Judging one call: deny, then ask, then doubt, then allow.
//!
//! Invariant: nothing is allowed before every deny and ask rule was looked at, and whatever is not known only makes the
//! answer stricter. No state, no clock. Called by `lib` (as a guest) and natively.

use beadle_plugin::{Access, Call, Command, Decision, Effect, Parse, PathUse, Session, ToolKind, Word};

use crate::command::View;
use crate::glob;
use crate::notation::{AGENT_TOOLS, LISTING_TOOLS, WEB_SEARCH_TOOLS};
use crate::policy::{Policy, RuleId, Tier};
use crate::program;
use crate::reason;
use crate::{Fit, Roots};

/// What in a call a rule was met by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    Tool,
    Command(&'a Command),
    /// `deep` when only something below it could be meant.
    Path(&'a PathUse, bool),
    Url(&'a str),
}

/// The strictest meeting of a call with the rules of one tier.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub fit: Fit,
    pub rule: RuleId,
    pub what: What<'a>,
}

/// What is worked out once for a call.
pub(crate) struct Facts<'a> {
    pub roots: Roots<'a>,
    pub is_command: bool,
    pub is_agent: bool,
    /// Type of the sub-agent, read from the input when some rule asks for it.
    pub agent_type: Option<String>,
    /// Uses of folders that may reach what lies below.
    deep_reads: bool,
    deep_writes: bool,
    /// The tool lists names and reads no content, so a pattern it is given is no path that could be denied.
    lists: bool,
    /// The folder that a search without a path searches.
    here: Option<PathUse>,
}

impl Policy {
    /// Judges one call.
    pub fn decide(&self, session: &Session, call: &Call) -> Decision {
        let facts = self.facts(session, call);
        let denied = self.deny.find(call, &facts);
        if let Some(found) = denied.filter(|f| f.fit == Fit::Yes) {
            return reason::of_rule(Effect::Deny, &self.deny.rules[found.rule], found);
        }
        if let Some(found) = self.ask.find(call, &facts) {
            return reason::of_rule(Effect::Ask, &self.ask.rules[found.rule], found);
        }
        if call.parse != Parse::Complete && self.speaks_of_commands() {
            return Decision::ask(reason::of_parse(call));
        }
        if let Some(found) = denied {
            return reason::of_rule(Effect::Ask, &self.deny.rules[found.rule], found);
        }
        if self.allow.rules.is_empty() || call.parse != Parse::Complete {
            return Decision::abstain();
        }
        match self.allow.allows(call, &facts) {
            Ok(rule) => Decision::allow().because(self.allow.rules[rule].text.as_str()),
            Err(miss) => reason::of_miss(&miss, &self.allow),
        }
    }

    fn facts<'a>(&'a self, session: &'a Session, call: &'a Call) -> Facts<'a> {
        let trim = |path: &'a str| path.trim_end_matches('/');
        let root = match (self.root.as_deref(), session.root.as_str()) {
            (Some(root), _) => root,
            (None, "") => trim(&call.cwd),
            (None, root) => trim(root),
        };
        let home = self.home.as_deref().or(session.home.as_deref().map(trim)).filter(|h| !h.is_empty());
        let is_command = !call.commands.is_empty() || call.kind == ToolKind::Execute;
        let is_agent = AGENT_TOOLS.contains(&call.tool.as_str());
        let wants_type = is_agent && [&self.deny, &self.ask, &self.allow].iter().any(|t| !t.agents.is_empty());
        let deep_command = self.deep_asks
            && call.commands.iter().filter_map(View::of).any(|v| {
                let plain = v.plain();
                let v = plain.as_ref().unwrap_or(&v);
                program::goes_deep(v.name, &v.args)
            });
        let searches = call.kind == ToolKind::Search
            && !LISTING_TOOLS.contains(&call.tool.as_str())
            && !WEB_SEARCH_TOOLS.contains(&call.tool.as_str());
        let deep_reads = self.deep_asks && (deep_command || searches);
        let no_path = call.paths.iter().all(|p| p.access == Access::Write);
        let here = match call.kind {
            ToolKind::Search if no_path && !WEB_SEARCH_TOOLS.contains(&call.tool.as_str()) => {
                Some(PathUse::of(call.cwd.as_str(), Access::Read))
            }
            _ if deep_command && call.commands.iter().any(|c| searches_here(c, call)) => Some(folder_of_commands(call)),
            _ => None,
        };
        Facts {
            roots: Roots { root, home },
            is_command,
            is_agent,
            agent_type: if wants_type { agent_type(&call.input) } else { None },
            deep_reads,
            lists: call.kind == ToolKind::Search && LISTING_TOOLS.contains(&call.tool.as_str()),
            deep_writes: self.deep_asks && (deep_command || matches!(call.kind, ToolKind::Delete | ToolKind::Move)),
            here,
        }
    }
}

impl Facts<'_> {
    /// The paths of the call, with the folder that is meant where none is named.
    pub fn paths<'a>(&'a self, call: &'a Call) -> impl Iterator<Item = &'a PathUse> {
        call.paths.iter().chain(&self.here)
    }
}

impl Tier {
    /// For ask and deny: the strictest meeting, certain before possible.
    fn find<'a>(&self, call: &'a Call, facts: &'a Facts<'_>) -> Option<Found<'a>> {
        if self.rules.is_empty() {
            return None;
        }
        let mut best: Option<Found<'a>> = None;
        let mut meet = |fit: Fit, rule: RuleId, what: What<'a>| {
            if fit > best.map_or(Fit::No, |b| b.fit) {
                best = Some(Found { fit, rule, what });
            }
            fit == Fit::Yes
        };
        if let Some(rule) = self.everything.or_else(|| self.named(&call.tool)).or(self.any_agent.filter(|_| facts.is_agent)) {
            meet(Fit::Yes, rule, What::Tool);
            return best;
        }
        if let Some(rule) = self.any_command.filter(|_| facts.is_command) {
            meet(Fit::Yes, rule, What::Tool);
            return best;
        }
        if facts.is_agent {
            for (pattern, rule) in &self.agents {
                let fit =
                    facts.agent_type.as_ref().map_or(Fit::May, |t| if glob::matches(pattern, t.as_bytes()) { Fit::Yes } else { Fit::No });
                if meet(fit, *rule, What::Tool) {
                    return best;
                }
            }
        }
        for command in &call.commands {
            let Some(view) = View::of(command) else { continue };
            if self.meets_command(&view, &mut |fit, rule| meet(fit, rule, What::Command(command))) {
                return best;
            }
        }
        if matches!(call.kind, ToolKind::Read | ToolKind::Search)
            && !facts.is_command
            && let Some(rule) = self.any_read
        {
            meet(Fit::Yes, rule, What::Tool);
            return best;
        }
        if matches!(call.kind, ToolKind::Edit | ToolKind::Delete | ToolKind::Move)
            && let Some(rule) = self.any_edit
        {
            meet(Fit::Yes, rule, What::Tool);
            return best;
        }
        for path in facts.paths(call) {
            let pattern = facts.lists && !path.written.contains(['$', '`', '~']) && !path.written.contains("..");
            let exact = (path.exact || pattern) && call.parse == Parse::Complete;
            let device = path.exact && is_device(&path.absolute);
            for (applies, any, places, deep) in [
                (path.access != Access::Write, self.any_read, &self.reads, facts.deep_reads),
                (path.access != Access::Read && !device, self.any_edit, &self.edits, facts.deep_writes),
            ] {
                if !applies {
                    continue;
                }
                if let Some(rule) = any {
                    meet(Fit::Yes, rule, What::Path(path, false));
                    return best;
                }
                for (place, rule) in places {
                    let fit = place.hits(path, exact, deep, &facts.roots);
                    if fit != Fit::No && meet(fit, *rule, What::Path(path, path.exact)) {
                        return best;
                    }
                }
            }
        }
        let fetches = call.kind == ToolKind::Fetch && !WEB_SEARCH_TOOLS.contains(&call.tool.as_str());
        if let Some(rule) = self.any_fetch.filter(|_| fetches || !call.urls.is_empty()) {
            meet(Fit::Yes, rule, What::Tool);
            return best;
        }
        for url in &call.urls {
            for (domain, rule) in &self.fetches {
                if meet(domain.hits(url), *rule, What::Url(url)) {
                    return best;
                }
            }
        }
        if let Some((_, rule)) = self.fetches.first().filter(|_| fetches && call.urls.is_empty()) {
            meet(Fit::May, *rule, What::Tool);
        }
        best
    }

    /// Offers each pattern that could concern the command to `meet`; true when it is satisfied.
    fn meets_command(&self, view: &View<'_>, meet: &mut impl FnMut(Fit, RuleId) -> bool) -> bool {
        if view.program.exact || !view.name.is_empty() {
            if self.patterns(view.name).any(|(pattern, rule)| meet(pattern.hits(view), *rule)) {
                return true;
            }
            return view.plain().is_some_and(|plain| self.meets_command(&plain, meet));
        }
        self.all_patterns().any(|(pattern, rule)| meet(pattern.hits(view), *rule))
    }

    /// The rule that names this tool.
    pub fn named(&self, tool: &str) -> Option<RuleId> {
        self.names.iter().find(|(pattern, _)| glob::matches(pattern, tool.as_bytes())).map(|(_, rule)| *rule)
    }
}

/// Whether a search program is given none of the paths that the call reads, and so searches the folder it stands in.
fn searches_here(command: &Command, call: &Call) -> bool {
    let searches = match command.program() {
        "rg" | "ag" | "ack" | "grep" | "egrep" | "fgrep" | "zgrep" => true,
        "git" => command.has("grep"),
        _ => false,
    };
    let given = |w: &Word| call.paths.iter().any(|p| p.access != Access::Write && p.written == w.text);
    searches && View::of(command).is_some_and(|v| program::goes_deep(v.name, &v.args) && !v.args.iter().any(given))
}

/// The folder that commands of a call stand in; not exact where a `cd` leads to what is not known.
fn folder_of_commands(call: &Call) -> PathUse {
    let mut moves = call.commands.iter().filter(|c| matches!(c.program(), "cd" | "pushd" | "popd"));
    let unknown = || PathUse { written: "$PWD".to_owned(), exact: false, ..PathUse::of(call.cwd.as_str(), Access::Read) };
    match (moves.next().map(|c| c.argv.as_slice()), moves.next()) {
        (None, _) => PathUse::of(call.cwd.as_str(), Access::Read),
        (Some([_, dir]), None)
            if dir.exact && !dir.text.starts_with(['-', '~']) && !dir.text.split('/').any(|n| matches!(n, "." | ".." | "")) =>
        {
            PathUse::of(format!("{}/{}", call.cwd.trim_end_matches('/'), dir.text), Access::Read)
        }
        _ => unknown(),
    }
}

/// Files that take and give nothing that lasts.
pub(crate) fn is_device(path: &str) -> bool {
    matches!(path, "/dev/null" | "/dev/stdout" | "/dev/stderr")
}

/// The type of the sub-agent in a tool's input.
fn agent_type(input: &str) -> Option<String> {
    let input: serde_json::Value = serde_json::from_str(input).ok()?;
    ["subagent_type", "agent_type", "agent", "type"].iter().find_map(|key| input.get(key)?.as_str().map(str::to_owned))
}
