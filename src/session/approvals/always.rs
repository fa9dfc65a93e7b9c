//! `--always`: allow rules that stand for exactly one call, and whether they would decide it.
//!
//! Invariants:
//! - a derived rule names words, files and hosts of the call and nothing wider; what has no such rule is refused with the reason;
//! - no rule is added before the very chain that will hold it has judged the call anew and allowed it.
//!
//! Called by `Manager::answer` (before the answer is taken) and for the showing of an approval.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::super::rules::RULES_MAX;
use super::super::{Inner, mask};
use crate::model::{Call, Command, Effect, Parse, PathUse, Session, ToolKind};
use crate::policy::paths::RealPaths;
use crate::policy::{Chain, RuntimeRule, call as calls};

/// Most rules that one answer adds.
const RULES_OF_ONE: usize = 8;

/// For which sessions the rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// This session only.
    Session,
    /// Sessions started in the same folder, now and later.
    #[default]
    Folder,
    All,
}

/// That an allow is to hold for later calls too.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Always {
    /// A rule of the person's own; `None` derives one from the call.
    pub rule: Option<String>,
    pub reach: Reach,
}

/// Rules that would decide the call, and the chain that holds them.
pub(in crate::session) struct Plan {
    pub rules: Vec<String>,
    pub chain: Arc<Chain>,
}

/// Finds the rules and tries them. The error is the reason why there are none.
pub(in crate::session) async fn plan(
    inner: &Inner,
    session: &Session,
    call: &Call,
    updated: Option<&Value>,
    always: &Always,
) -> Result<Plan, String> {
    let final_call = match updated {
        Some(input) => rebuild(inner, session, call, input)?,
        None => call.clone(),
    };
    let mut rules = match &always.rule {
        Some(rule) => vec![rule.clone()],
        None => derive(&final_call, always.reach)?,
    };
    if inner.rules().len() + rules.len() > RULES_MAX {
        return Err(format!("{RULES_MAX} rules are in force, the limit; revoke some"));
    }
    for rule in &rules {
        inner.chains.check_rule(&allow(rule)).await.map_err(|why| format!("{rule:?} is not a rule: {why}"))?;
    }
    let mut chain = tried(inner, session, call, &rules).await?;
    // why: what existing rules and wrappers cover already needs no rule of its own.
    let mut at = 0;
    while always.rule.is_none() && rules.len() > 1 && at < rules.len() {
        let mut fewer = rules.clone();
        fewer.remove(at);
        match tried(inner, session, call, &fewer).await {
            Ok(holds) => (rules, chain) = (fewer, holds),
            Err(_) => at += 1,
        }
    }
    Ok(Plan { rules, chain })
}

fn allow(rule: &str) -> RuntimeRule {
    RuntimeRule { effect: Effect::Allow, rule: rule.to_owned() }
}

/// The chain with these rules, if it allows the call.
async fn tried(inner: &Inner, session: &Session, call: &Call, rules: &[String]) -> Result<Arc<Chain>, String> {
    let cwd = Path::new(&session.cwd);
    let two_person = inner.config_of(std::path::Path::new(&session.cwd)).needs_two(&session.labels);
    let mut all = inner.rules().for_session(&session.id, &session.cwd, two_person);
    all.extend(rules.iter().map(|r| allow(r)));
    let live = inner.live().get(&session.id).map(|l| l.chain.borrow().clone());
    let chain = match live {
        Some(old) => inner.chains.again(&old, None, cwd, &all).await.0,
        None => inner.chains.assemble(Some(cwd), &all).await.map_err(|e| e.to_string())?.chain,
    };
    let again = |input: &Value| rebuild(inner, session, call, input);
    let judged = chain.judge(session, call, inner.clock.wall_ms(), &again).await;
    if judged.effect == Effect::Allow {
        return Ok(chain);
    }
    let by = judged.rule.map(|r| format!(" (rule {r})")).unwrap_or_default();
    let rules = rules.join(", ");
    Err(format!("with {rules} the call would still get {}: {}{by}", judged.effect.as_str(), judged.reason))
}

/// The record of the same call with another input.
fn rebuild(inner: &Inner, session: &Session, call: &Call, input: &Value) -> Result<Call, String> {
    let built = calls::build(
        &calls::CallInput {
            agent: &call.agent,
            tool: &call.tool,
            input,
            cwd: &session.cwd,
            home: session.home.as_deref(),
            write_root: session.write_root.as_deref(),
            call_id: call.call_id.as_deref(),
            parent_call_id: call.parent_call_id.as_deref(),
            sub_agent: call.sub_agent.as_deref(),
            channel: call.channel,
        },
        &RealPaths,
    );
    inner.own.check(&built).map_or(Ok(built), Err)
}

/// Rules that stand for exactly this call.
fn derive(call: &Call, reach: Reach) -> Result<Vec<String>, String> {
    if call.parse != Parse::Complete {
        let why = call.parse_reason.as_deref().unwrap_or("something in it only the shell will know");
        return Err(format!("the call is not understood whole ({why}), so no rule stands for exactly it"));
    }
    if call.input.to_string().contains(mask::MARK) {
        return Err("the call holds a secret, which is not kept, so no rule stands for exactly it".to_owned());
    }
    let mut rules = Vec::new();
    match call.kind {
        ToolKind::Execute => {
            for c in &call.commands {
                rules.push(command(c, reach)?);
            }
            for p in call.paths.iter().filter(|p| redirected(call, p)) {
                rules.extend(places("Edit", p)?);
            }
        }
        ToolKind::Read | ToolKind::Search => {
            for p in &call.paths {
                rules.extend(places("Read", p)?);
            }
        }
        ToolKind::Edit | ToolKind::Delete | ToolKind::Move => {
            for p in &call.paths {
                rules.extend(places("Edit", p)?);
            }
        }
        ToolKind::Fetch => {
            for url in &call.urls {
                let host = host(url).ok_or_else(|| format!("the host of {url:?} is not clear"))?;
                rules.push(format!("WebFetch(domain:{host})"));
            }
        }
        ToolKind::Think | ToolKind::Other => {}
    }
    let mut seen = std::collections::BTreeSet::new();
    rules.retain(|r| seen.insert(r.clone()));
    match rules.len() {
        0 => {
            Err(format!("the only rule for this call is {0}, every use of the tool; if that is meant, give it: --always '{0}'", call.tool))
        }
        1..=RULES_OF_ONE => Ok(rules),
        n => Err(format!("it would take {n} rules, more than {RULES_OF_ONE}; give one that you choose: --always RULE")),
    }
}

/// One simple command, word for word.
fn command(c: &Command, reach: Reach) -> Result<String, String> {
    let shown = c.argv.first().map(|w| w.text.clone()).unwrap_or_default();
    let exact = c.exact && c.argv.iter().chain(&c.env).all(|w| w.exact);
    if !exact || shown.is_empty() || shown.contains('=') {
        return Err(format!("the command {shown:?} is not known word for word"));
    }
    if shown.contains('/') && !shown.starts_with('/') && reach == Reach::All {
        return Err(format!("{shown} is another program in each folder; let the rule hold for this folder or session"));
    }
    let mut words = Vec::with_capacity(c.argv.len() + c.env.len());
    for env in &c.env {
        // why: the name of an assignment stays bare, or it would be read as the program.
        let (name, value) = env.text.split_once('=').ok_or_else(|| format!("the assignment {:?} is not known", env.text))?;
        words.push(format!("{name}={}", quoted(value)?));
    }
    for w in &c.argv {
        words.push(quoted(&w.text)?);
    }
    Ok(format!("Bash({})", words.join(" ")))
}

/// A word in the quoting that rules are read with.
fn quoted(word: &str) -> Result<String, String> {
    if word.chars().any(char::is_control) {
        return Err("a word of the command has a line end or control character, which no rule can hold".to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:@%+=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return Ok(word.to_owned());
    }
    if !word.contains('\'') {
        return Ok(format!("'{word}'"));
    }
    Ok(word.chars().fold(String::new(), |mut out, c| {
        if !plain(c) {
            out.push('\\');
        }
        out.push(c);
        out
    }))
}

/// Whether a path of a command is where output goes: that needs a rule beside the command's.
fn redirected(call: &Call, p: &PathUse) -> bool {
    use crate::model::Access;
    let device = matches!(p.absolute.as_str(), "/dev/null" | "/dev/stdout" | "/dev/stderr");
    p.access != Access::Read && !device && call.input.get("command").and_then(Value::as_str).is_none_or(|c| c.contains('>'))
}

/// The file itself, as named and where links lead.
fn places(tool: &str, p: &PathUse) -> Result<Vec<String>, String> {
    let place = |path: &str| {
        if !p.exact || path.contains(['*', '?', '[', ']', '{', '}', '\\', ')', '(']) || path.chars().any(char::is_control) {
            return Err(format!("the path {:?} is not known exactly, or has characters that mean something in a rule", p.written));
        }
        Ok(format!("{tool}(/{path})"))
    };
    let mut rules = vec![place(&p.absolute)?];
    if p.resolved != p.absolute {
        rules.push(place(&p.resolved)?);
    }
    Ok(rules)
}

/// The host of an http(s) address, where it is plain.
fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let host = host.split_once(':').map_or(host, |(name, _)| name);
    (!host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Channel, Word};
    use serde_json::json;

    fn call(tool: &str, input: Value) -> Call {
        let input = calls::CallInput {
            agent: "claude",
            tool,
            input: &input,
            cwd: "/w",
            home: Some("/h"),
            write_root: None,
            call_id: None,
            parent_call_id: None,
            sub_agent: None,
            channel: Channel::Driver,
        };
        calls::build(&input, &RealPaths)
    }

    fn bash(command: &str) -> Result<Vec<String>, String> {
        derive(&call("Bash", json!({ "command": command })), Reach::Folder)
    }

    #[test]
    fn a_rule_names_the_words_of_the_call_and_nothing_wider() {
        for (given, want) in [
            ("npm test", vec!["Bash(npm test)"]),
            ("git commit -m 'fix: the bug'", vec!["Bash(git commit -m 'fix: the bug')"]),
            ("echo \"it's\"", vec!["Bash(echo it\\'s)"]),
            ("grep '*' x", vec!["Bash(grep '*' x)"]),
            ("git push ':*'", vec!["Bash(git push ':*')"]),
            ("cd sub && make", vec!["Bash(cd sub)", "Bash(make)"]),
            ("npm test; npm test", vec!["Bash(npm test)"]),
            ("CI=1 make", vec!["Bash(CI=1 make)"]),
            ("echo x > out.txt", vec!["Bash(echo x)", "Edit(//w/out.txt)"]),
            ("make > /dev/null", vec!["Bash(make)"]),
        ] {
            assert_eq!(bash(given).unwrap_or_else(|e| panic!("{given}: {e}")), want);
        }
        assert_eq!(derive(&call("Edit", json!({ "file_path": "/w/a b.rs" })), Reach::All).unwrap(), ["Edit(//w/a b.rs)"]);
        assert_eq!(derive(&call("WebFetch", json!({ "url": "https://Docs.rs:443/x" })), Reach::All).unwrap(), ["WebFetch(domain:Docs.rs)"]);
    }

    #[test]
    fn what_no_rule_stands_for_is_refused_with_the_reason() {
        for (given, word) in [
            ("rm -rf $DIR", "not known word for word"),
            ("echo $(date)", "not known word for word"),
            ("eval \"$X\"", "not understood whole"),
            ("echo 'a\nb'", "line end"),
            ("a; b; c; d; e; f; g; h; i", "9 rules"),
            ("echo [secret masked]", "a secret"),
            ("echo x > 'a*b'", "not known exactly"),
        ] {
            let why = bash(given).expect_err(given);
            assert!(why.contains(word), "{given}: {why}");
        }
        let tool = derive(&call("mcp__github__merge", json!({})), Reach::All).unwrap_err();
        assert!(tool.contains("--always 'mcp__github__merge'"), "{tool}");
        let relative = derive(&call("Bash", json!({ "command": "./build.sh" })), Reach::All).unwrap_err();
        assert!(relative.contains("another program in each folder"), "{relative}");
        let glob =
            Command { argv: vec![Word { text: "a*".into(), exact: false }], env: vec![], redirects: vec![], origin: vec![], exact: false };
        assert!(command(&glob, Reach::Folder).is_err());
    }
}
