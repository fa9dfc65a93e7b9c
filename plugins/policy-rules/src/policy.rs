//! Compiling: rules into three tiers, indexed by what they speak of, so that a call meets only rules that could concern it.
//!
//! Invariant: a compiled policy is immutable; all allocation is done here, once. Called by `lib`; read by `judge`.

use crate::command::Pattern;
use crate::config::{self, Written};
use crate::host::Domain;
use crate::notation::{self, Fault, Subject};
use crate::place::Place;

/// Most rules of one policy, the three lists together.
pub const RULES_LIMIT: usize = 4_096;

/// A compiled set of rules.
#[derive(Debug)]
pub struct Policy {
    pub(crate) deny: Tier,
    pub(crate) ask: Tier,
    pub(crate) allow: Tier,
    pub(crate) root: Option<String>,
    pub(crate) home: Option<String>,
    /// Recursive uses of a folder above a denied place ask.
    pub(crate) deep_asks: bool,
}

/// A rule as written.
#[derive(Debug)]
pub(crate) struct Rule {
    pub text: String,
    pub reason: Option<String>,
}

/// Index of a rule in its tier.
pub(crate) type RuleId = usize;

/// Patterns with their rules.
type Patterns = Vec<(Pattern, RuleId)>;

/// The rules of one effect. Each list pairs what a rule looks for with the rule.
#[derive(Debug, Default)]
pub(crate) struct Tier {
    pub rules: Vec<Rule>,
    /// `*`
    pub everything: Option<RuleId>,
    /// Tool names as patterns.
    pub names: Vec<(Box<[u8]>, RuleId)>,
    /// `Bash`
    pub any_command: Option<RuleId>,
    /// Patterns by program, sorted by it.
    pub programs: Vec<(Box<str>, Patterns)>,
    /// Patterns without a fixed program.
    pub loose: Patterns,
    pub any_read: Option<RuleId>,
    pub reads: Vec<(Place, RuleId)>,
    pub any_edit: Option<RuleId>,
    pub edits: Vec<(Place, RuleId)>,
    pub any_fetch: Option<RuleId>,
    pub fetches: Vec<(Domain, RuleId)>,
    pub any_agent: Option<RuleId>,
    pub agents: Vec<(Box<[u8]>, RuleId)>,
}

impl Policy {
    /// Compiles a configuration (JSON, see the crate's documentation). The error is for the operator.
    pub fn compile(config: &str) -> Result<Self, String> {
        let config = config::read(config)?;
        let count = config.allow.len() + config.ask.len() + config.deny.len();
        if count > RULES_LIMIT {
            return Err(format!("{count} rules are too many; expected at most {RULES_LIMIT}"));
        }
        Ok(Self {
            deny: Tier::compile("deny", config.deny, true)?,
            ask: Tier::compile("ask", config.ask, true)?,
            allow: Tier::compile("allow", config.allow, false)?,
            root: config.root,
            home: config.home,
            deep_asks: config.deep_asks,
        })
    }

    /// Whether any rule speaks of what a command may do.
    pub(crate) fn speaks_of_commands(&self) -> bool {
        [&self.deny, &self.ask, &self.allow].into_iter().any(|t| {
            t.everything.is_some()
                || t.any_command.is_some()
                || !t.programs.is_empty()
                || !t.loose.is_empty()
                || [t.any_read, t.any_edit, t.any_fetch].iter().any(Option::is_some)
                || !t.reads.is_empty()
                || !t.edits.is_empty()
                || !t.fetches.is_empty()
        })
    }
}

impl Tier {
    fn compile(list: &str, written: Vec<Written>, strict: bool) -> Result<Self, String> {
        let mut tier = Self::default();
        for (i, Written { rule, reason }) in written.into_iter().enumerate() {
            let text = rule.trim().to_owned();
            tier.add(&text, strict).map_err(|Fault { at, expected }| {
                let shown: String = text.chars().take(200).collect();
                format!("{list}[{i}] {shown:?}: at byte {at}: expected {expected}")
            })?;
            tier.rules.push(Rule { text, reason });
        }
        tier.programs.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(tier)
    }

    fn add(&mut self, text: &str, strict: bool) -> Result<(), Fault> {
        let parts = notation::parts(text)?;
        let id = self.rules.len();
        let anything = matches!(parts.specifier, None | Some(("*" | "**", _)));
        let set = |slot: &mut Option<RuleId>| {
            slot.get_or_insert(id);
        };
        match (parts.subject, parts.specifier) {
            (Subject::Everything, _) => set(&mut self.everything),
            (Subject::Name, _) => self.add_name(parts.tool, id),
            (Subject::Command, _) if anything => set(&mut self.any_command),
            (Subject::Read, _) if anything => set(&mut self.any_read),
            (Subject::Edit, _) if anything => set(&mut self.any_edit),
            (Subject::Fetch, _) if anything => set(&mut self.any_fetch),
            (Subject::Agent, _) if anything => set(&mut self.any_agent),
            (Subject::Command, Some((spec, at))) => match Pattern::parse(spec, at)? {
                None => set(&mut self.any_command),
                Some(pattern) => self.add_command(pattern, id),
            },
            (Subject::Read, Some((spec, at))) => self.reads.push((Place::parse(spec, at, strict)?, id)),
            (Subject::Edit, Some((spec, at))) => self.edits.push((Place::parse(spec, at, strict)?, id)),
            (Subject::Fetch, Some((spec, at))) => self.fetches.push((Domain::parse(spec, at)?, id)),
            (Subject::Agent, Some((spec, _))) => self.agents.push((stars(spec), id)),
            // No specifier was handled above.
            (_, None) => {}
        }
        Ok(())
    }

    /// `mcp__server` means all of that server's tools.
    fn add_name(&mut self, tool: &str, id: RuleId) {
        self.names.push((stars(tool), id));
        if tool.strip_prefix("mcp__").is_some_and(|server| !server.contains("__") && !server.contains('*')) {
            self.names.push((stars(&format!("{tool}__*")), id));
        }
    }

    fn add_command(&mut self, pattern: Pattern, id: RuleId) {
        let Some(key) = pattern.key().map(Box::<str>::from) else {
            self.loose.push((pattern, id));
            return;
        };
        match self.programs.iter_mut().find(|(name, _)| *name == key) {
            Some((_, list)) => list.push((pattern, id)),
            None => self.programs.push((key, vec![(pattern, id)])),
        }
    }

    /// The patterns that can concern a program of this name.
    pub fn patterns(&self, name: &str) -> impl Iterator<Item = &(Pattern, RuleId)> {
        let own = self.programs.binary_search_by(|(n, _)| (**n).cmp(name)).map_or(&[][..], |i| &self.programs[i].1);
        own.iter().chain(&self.loose)
    }

    /// All patterns: for a program whose name is not known.
    pub fn all_patterns(&self) -> impl Iterator<Item = &(Pattern, RuleId)> {
        self.programs.iter().flat_map(|(_, list)| list).chain(&self.loose)
    }
}

fn stars(text: &str) -> Box<[u8]> {
    text.bytes().map(|b| if b == b'*' { crate::glob::STAR } else { b }).collect()
}
