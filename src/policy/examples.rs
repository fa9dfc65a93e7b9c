//! Examples in a policy's configuration: each names a call and the effect it must have, and is judged when the policy is loaded.
//!
//! Called by `assemble`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::call::{CallInput, build};
use super::chain::{Policy, Subject};
use super::paths::RealPaths;
use crate::model::{Actor, Channel, Effect, Envelope, Mediation, Record, Session, SessionCreated, SessionId};

/// Time that one example may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// One example: `{ command = "git push", effect = "deny" }` or `{ call = { tool, input, cwd }, effect = … }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    tool: String,
    input: Value,
    cwd: Option<String>,
    effect: Effect,
    text: String,
}

/// Takes the examples out of a configuration: the host judges them, the plugin never sees them.
pub fn take(config: &mut Value) -> Vec<Example> {
    let Some(Value::Array(list)) = config.as_object_mut().and_then(|c| c.remove("examples")) else { return vec![] };
    list.iter().filter_map(one).collect()
}

// why filter: shapes were checked, with line and key, when the configuration was read.
fn one(v: &Value) -> Option<Example> {
    let effect = serde_json::from_value(v.get("effect")?.clone()).ok()?;
    if let Some(command) = v.get("command").and_then(Value::as_str) {
        return Some(Example { tool: "Bash".into(), input: json!({ "command": command }), cwd: None, effect, text: command.to_owned() });
    }
    let call = v.get("call")?;
    let tool = call.get("tool")?.as_str()?.to_owned();
    let input = call.get("input").cloned().unwrap_or_else(|| json!({}));
    let cwd = call.get("cwd").and_then(Value::as_str).map(str::to_owned);
    Some(Example { text: format!("{tool} {input}"), tool, input, cwd, effect })
}

/// Judges all; the error says which example had which effect instead.
pub async fn hold(policy: &dyn Policy, examples: &[Example]) -> Result<(), String> {
    for e in examples {
        let cwd = e.cwd.clone().unwrap_or_else(|| "/project".to_owned());
        let Some(session) = session(Path::new(&cwd)) else { return Ok(()) };
        let input = CallInput {
            agent: "claude",
            tool: &e.tool,
            input: &e.input,
            cwd: &cwd,
            home: None,
            write_root: None,
            call_id: None,
            parent_call_id: None,
            sub_agent: None,
            channel: Channel::Driver,
        };
        let call = build(&input, &RealPaths);
        let got = policy
            .decide(&Subject::new(&session, &call, 0), DEADLINE)
            .await
            .map_err(|f| format!("example {:?}: the policy failed: {}", e.text, f.detail))?;
        if got.effect != e.effect {
            let by = got.rule.map(|r| format!(" by {r}")).unwrap_or_default();
            return Err(format!(
                "example {:?} should be {} and is {}{by}; correct the rule or the example",
                e.text,
                e.effect.as_str(),
                got.effect.as_str()
            ));
        }
    }
    Ok(())
}

/// A session that stands for any: policies judge calls of some session, and examples have none.
pub fn session(cwd: &Path) -> Option<Session> {
    let created = SessionCreated {
        name: "example".into(),
        agent: "claude".into(),
        command: vec![],
        cwd: cwd.display().to_string(),
        home: std::env::var("HOME").ok(),
        write_root: None,
        labels: Default::default(),
        env_names: vec![],
        mediation: Mediation::Gate,
        mediation_note: None,
        keep_open: false,
        created_by: Actor::host(),
        unsafe_args: vec![],
        beadle_version: env!("CARGO_PKG_VERSION").into(),
        prompt: None,
        record: Record::default(),
        program: None,
    };
    let id = SessionId::parse("example").ok()?;
    Session::begin(&Envelope { session: id, seq: 1, at: 0, attempt: 1, event: created.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_leave_the_config() {
        let mut c = json!({"deny": ["Bash"], "examples": [
            {"command": "git push", "effect": "deny"},
            {"call": {"tool": "Read", "input": {"file_path": "/x"}, "cwd": "/"}, "effect": "abstain"},
        ]});
        let got = take(&mut c);
        assert_eq!(c, json!({"deny": ["Bash"]}));
        assert_eq!(
            got.iter().map(|e| (e.tool.as_str(), e.effect)).collect::<Vec<_>>(),
            [("Bash", Effect::Deny), ("Read", Effect::Abstain)]
        );
    }
}
