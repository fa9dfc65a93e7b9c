//! Reading a call, and building one in a test.

use serde_json::Value;

use crate::{Access, Call, Channel, Command, Mediation, Parse, PathUse, Session, ToolKind, Usage, Word};

impl Word {
    /// A word that no expansion can change.
    pub fn exact(text: impl Into<String>) -> Self {
        Self { text: text.into(), exact: true }
    }

    /// A word that only the shell will know, as written.
    pub fn dynamic(text: impl Into<String>) -> Self {
        Self { text: text.into(), exact: false }
    }
}

impl Command {
    /// An exact top-level command of these words; for tests.
    pub fn of<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        Self { argv: words.into_iter().map(Word::exact).collect(), env: Vec::new(), redirects: Vec::new(), origin: Vec::new(), exact: true }
    }

    /// The program's name without its folders: `git` for `/usr/bin/git`. Empty when the shell alone knows it.
    pub fn program(&self) -> &str {
        match self.argv.first() {
            Some(w) if w.exact => w.text.rsplit('/').next().unwrap_or_default(),
            _ => "",
        }
    }

    /// Whether one of the arguments is exactly this word.
    pub fn has(&self, word: &str) -> bool {
        self.argv.iter().skip(1).any(|w| w.exact && w.text == word)
    }

    /// The command as shell text, each word quoted where it must be; `None` when a word is not exact.
    pub fn to_shell(&self) -> Option<String> {
        let words: Option<Vec<String>> = self.argv.iter().map(|w| w.exact.then(|| quote(&w.text))).collect();
        words.map(|w| w.join(" "))
    }
}

impl Call {
    /// The one simple command that this call runs, when it is certain that there is no other and that nothing
    /// (assignments, redirections, wrappers, expansions) stands around it.
    pub fn only_command(&self) -> Option<&Command> {
        match self.commands.as_slice() {
            [c] if self.parse == Parse::Complete && c.exact && c.env.is_empty() && c.redirects.is_empty() && c.origin.is_empty() => Some(c),
            _ => None,
        }
    }

    /// The input with one string value of its top level replaced; `None` when there is no such string.
    pub fn input_with(&self, key: &str, value: &str) -> Option<String> {
        let mut input: Value = serde_json::from_str(&self.input).ok()?;
        match input.get_mut(key)? {
            Value::String(s) => value.clone_into(s),
            _ => return None,
        }
        Some(input.to_string())
    }
}

/// One shell word that stands for this text, quoted only where it must be.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    // A leading `=` or `%` means something to some shells, and an assignment must not become one.
    if !text.is_empty() && text.chars().all(plain) && !text.starts_with(['=', '%']) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Default for Call {
    /// A call of no tool with an empty input; for tests: `Call { tool: "Read".into(), ..Call::default() }`.
    fn default() -> Self {
        Self {
            agent: "claude".to_owned(),
            tool: String::new(),
            kind: ToolKind::Other,
            input: "{}".to_owned(),
            cwd: "/".to_owned(),
            write_root: None,
            paths: Vec::new(),
            urls: Vec::new(),
            commands: Vec::new(),
            parse: Parse::Complete,
            parse_reason: None,
            call_id: None,
            parent_call_id: None,
            sub_agent: None,
            channel: Channel::Driver,
            at_ms: 0,
        }
    }
}

impl Default for Session {
    /// A gated session that has done nothing yet; for tests.
    fn default() -> Self {
        Self {
            id: "test".to_owned(),
            name: "test".to_owned(),
            agent: "claude".to_owned(),
            root: "/".to_owned(),
            home: None,
            labels: Vec::new(),
            parent: None,
            attempt: 1,
            mediation: Mediation::Gate,
            created_at_ms: 0,
            calls: 0,
            denied: 0,
            sub_agents: 0,
            turns: 0,
            usage: Usage { input: 0, output: 0, cache_read: 0, cache_write: 0 },
            cost_nanousd: None,
            unpriced: 0,
            model: None,
        }
    }
}

impl PathUse {
    /// An exact path without symlinks; for tests.
    pub fn of(path: impl Into<String>, access: Access) -> Self {
        let path = path.into();
        Self { written: path.clone(), absolute: path.clone(), resolved: path, access, exact: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_the_base_name_and_empty_when_dynamic() {
        assert_eq!(Command::of(["/usr/bin/git", "push"]).program(), "git");
        let mut c = Command::of(["x"]);
        c.argv[0] = Word::dynamic("$EDITOR");
        assert_eq!(c.program(), "");
        c.argv.clear();
        assert_eq!(c.program(), "");
    }

    #[test]
    fn quoting_keeps_words_apart() {
        for (text, want) in [
            ("plain-1.2/x", "plain-1.2/x"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$HOME", "'$HOME'"),
            ("~", "'~'"),
            ("=x", "'=x'"),
            ("*", "'*'"),
        ] {
            assert_eq!(quote(text), want);
        }
    }

    #[test]
    fn only_command_wants_certainty() {
        let push = Command::of(["git", "push"]);
        let call = Call { commands: vec![push.clone()], ..Call::default() };
        assert_eq!(call.only_command(), Some(&push));
        assert!(Call { parse: Parse::Partial, ..call.clone() }.only_command().is_none());
        assert!(Call { commands: vec![push.clone(), push.clone()], ..call.clone() }.only_command().is_none());
        let wrapped = Command { origin: vec!["sh -c".to_owned()], ..push };
        assert!(Call { commands: vec![wrapped], ..call }.only_command().is_none());
    }

    #[test]
    fn input_keeps_its_other_keys() {
        let call = Call { input: r#"{"command":"a","timeout":3,"n":[1]}"#.to_owned(), ..Call::default() };
        let out: serde_json::Value = serde_json::from_str(&call.input_with("command", "b \"c\"").unwrap()).unwrap();
        assert_eq!(out, serde_json::json!({"command": "b \"c\"", "n": [1], "timeout": 3}));
        assert_eq!(call.input_with("timeout", "b"), None);
        assert_eq!(call.input_with("none", "b"), None);
        assert_eq!(Call { input: "[".to_owned(), ..call }.input_with("command", "b"), None);
    }
}
