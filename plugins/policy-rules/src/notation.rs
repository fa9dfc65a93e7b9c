//! The notation of one rule: `Tool`, `Tool(specifier)`, and which subject a tool name stands for.
//!
//! Invariant: a rule that could never do what its author meant is an error with a position, not a rule that never
//! matches. Called by `policy`; `command`, `place` and `host` read the specifiers.

/// Longest rule, in bytes: it must fit into a decision's `rule`.
pub const RULE_LIMIT: usize = 1_000;

/// A syntax error: where in the rule (byte, from 0) and what was expected there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub at: usize,
    pub expected: String,
}

impl Fault {
    pub fn new(at: usize, expected: impl Into<String>) -> Self {
        Self { at, expected: expected.into() }
    }
}

/// What a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// `*`: every call.
    Everything,
    /// Commands, of whatever tool runs them.
    Command,
    /// What is read, by whatever tool or command.
    Read,
    /// What is written, deleted or moved, by whatever tool or command.
    Edit,
    /// What is fetched, by whatever tool or command.
    Fetch,
    /// Sub-agents by type.
    Agent,
    /// One tool by its own name, `*` in it included.
    Name,
}

/// A rule cut into its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    pub tool: &'a str,
    pub subject: Subject,
    /// Text between the parentheses and where it starts.
    pub specifier: Option<(&'a str, usize)>,
}

/// Rule names by subject: Claude Code's, and what the other agents call the same tool.
const SUBJECTS: &[(&str, Subject)] = &[
    ("Bash", Subject::Command),
    ("bash", Subject::Command),
    ("shell", Subject::Command),
    ("run_shell_command", Subject::Command),
    ("exec_command", Subject::Command),
    ("Read", Subject::Read),
    ("read", Subject::Read),
    ("read_file", Subject::Read),
    ("Edit", Subject::Edit),
    ("MultiEdit", Subject::Edit),
    ("NotebookEdit", Subject::Edit),
    ("Write", Subject::Edit),
    ("edit", Subject::Edit),
    ("write", Subject::Edit),
    ("write_file", Subject::Edit),
    ("replace", Subject::Edit),
    ("apply_patch", Subject::Edit),
    ("WebFetch", Subject::Fetch),
    ("webfetch", Subject::Fetch),
    ("web_fetch", Subject::Fetch),
    ("Agent", Subject::Agent),
    ("Task", Subject::Agent),
    ("task", Subject::Agent),
];

/// Tools that only list names: a search over them reads no content.
pub const LISTING_TOOLS: &[&str] = &["Glob", "LS", "glob", "list", "list_directory", "ls"];

/// Tools that search the web rather than fetch one address; `WebFetch` rules do not speak of them.
pub const WEB_SEARCH_TOOLS: &[&str] = &["WebSearch", "google_web_search", "websearch", "web_search"];

/// Tools that start a sub-agent.
pub const AGENT_TOOLS: &[&str] = &["Agent", "Task", "task", "spawn_agent", "collaborationspawn_agent"];

/// Cuts a rule into tool and specifier.
pub fn parts(rule: &str) -> Result<Parts<'_>, Fault> {
    if rule.len() > RULE_LIMIT {
        return Err(Fault::new(RULE_LIMIT, format!("at most {RULE_LIMIT} bytes")));
    }
    if let Some(at) = rule.find(char::is_control) {
        return Err(Fault::new(at, "no control character"));
    }
    let name_end = rule.find(|c: char| !(c.is_alphanumeric() || "_-.:/*".contains(c))).unwrap_or(rule.len());
    let tool = &rule[..name_end];
    if tool.is_empty() {
        return Err(Fault::new(0, "a tool name such as Bash, Read, Edit, WebFetch, Agent, mcp__server__*, or *"));
    }
    let specifier = match rule.as_bytes().get(name_end) {
        None => None,
        Some(b'(') => {
            if !rule.ends_with(')') {
                return Err(Fault::new(rule.len(), "`)` at the end"));
            }
            let inner = &rule[name_end + 1..rule.len() - 1];
            if inner.trim().is_empty() {
                return Err(Fault::new(name_end + 1, format!("a specifier; write {tool} alone for every use of it")));
            }
            Some((inner, name_end + 1))
        }
        Some(_) => return Err(Fault::new(name_end, "`(` or the end of the rule")),
    };
    let subject = match SUBJECTS.iter().find(|(name, _)| *name == tool) {
        Some((_, subject)) => *subject,
        None if tool == "*" => Subject::Everything,
        None => Subject::Name,
    };
    if let (Subject::Everything | Subject::Name, Some((_, at))) = (subject, specifier) {
        let hint = match tool {
            "Grep" | "Glob" | "LS" | "Search" => "; places to read are given by Read(…)",
            _ => "; only Bash, Read, Edit, Write, WebFetch and Agent take one",
        };
        return Err(Fault::new(at - 1, format!("no specifier after {tool}{hint}")));
    }
    Ok(Parts { tool, subject, specifier })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_specifiers() {
        assert_eq!(parts("Read").unwrap(), Parts { tool: "Read", subject: Subject::Read, specifier: None });
        assert_eq!(parts("Bash(a (b) c)").unwrap().specifier, Some(("a (b) c", 5)));
        assert_eq!(parts("run_shell_command(git:*)").unwrap().subject, Subject::Command);
        assert_eq!(parts("mcp__github__*").unwrap().subject, Subject::Name);
        assert_eq!(parts("*").unwrap().subject, Subject::Everything);
    }

    #[test]
    fn faults_name_the_place() {
        for (rule, at) in
            [("", 0), ("(x)", 0), ("Bash(x", 6), ("Bash x", 4), ("Bash()", 5), ("Bash(x) ", 8), ("Grep(x)", 4), ("*(x)", 1), ("Ba\nsh", 2)]
        {
            assert_eq!(parts(rule).unwrap_err().at, at, "{rule:?}");
        }
        assert!(parts(&format!("Bash({})", "x".repeat(RULE_LIMIT))).is_err());
    }
}
