//! The configuration: policies parsed, given their ids, and validated against the schema. Called by `lib`.

use std::collections::HashMap;

use beadle_plugin::Effect;
use cedar_policy::{ActionConstraint, Authorizer, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use policy_kit::config::{Keys, parse};

use crate::SCHEMA;
use crate::request::Names;

/// Most text of all policies together, in bytes.
pub const TEXT: usize = 512 << 10;
/// Most policies.
pub const POLICIES: usize = 2_048;
/// Most texts.
const TEXTS: usize = 256;
/// Longest id, and longest reason, in bytes.
const ID: usize = 128;
const REASON: usize = 1_000;
/// Most errors that are told at once.
const TOLD: usize = 5;

/// What the annotations of a policy say.
#[derive(Debug)]
pub(crate) struct Note {
    pub id: String,
    pub reason: Option<String>,
    /// `@effect("ask")`.
    pub asks: bool,
}

/// The compiled policy.
#[derive(Debug)]
pub struct Cedar {
    /// By action, those that can speak of it: Cedar looks at every policy of a set for each request.
    pub(crate) sets: HashMap<&'static str, PolicySet>,
    pub(crate) notes: HashMap<PolicyId, Note>,
    pub(crate) authorizer: Authorizer,
    pub(crate) names: Names,
    pub(crate) on_uncertain: Effect,
}

impl Cedar {
    /// Reads a configuration (JSON, see the crate's documentation). The error is for the operator.
    pub fn read(config: &str) -> Result<Self, String> {
        let map = parse(config)?;
        let keys = Keys::of(&map, &["policies", "on_uncertain"])?;
        let texts = match keys.get("policies") {
            Some(serde_json::Value::Array(_)) => keys.list("policies", TEXTS)?.unwrap_or_default(),
            _ => keys.text("policies")?.map(|t| ("policies".to_owned(), t)).into_iter().collect(),
        };
        let size: usize = texts.iter().map(|(_, t)| t.len()).sum();
        if size > TEXT {
            return Err(format!("policies: expected at most {TEXT} bytes of text, got {size}"));
        }
        let (mut sets, mut notes) = (HashMap::new(), HashMap::new());
        let validator = Validator::new(schema()?);
        for (place, text) in texts {
            one_text(&place, text, &validator, &mut sets, &mut notes)?;
        }
        Ok(Self {
            sets,
            notes,
            authorizer: Authorizer::new(),
            names: Names::new()?,
            on_uncertain: match keys.word("on_uncertain", &["ask", "deny", "ignore"])? {
                "deny" => Effect::Deny,
                "ignore" => Effect::Abstain,
                _ => Effect::Ask,
            },
        })
    }
}

/// The actions of the schema.
#[rustfmt::skip]
pub(crate) const ACTIONS: [&str; 14] = [
    "read", "edit", "delete", "move", "search", "execute", "think", "fetch", "other",
    "run", "assign", "read_path", "write_path", "connect",
];

/// Whether a policy can speak of an action. The schema has no groups of actions, so a list names them one by one.
fn speaks_of(policy: &Policy, action: &str) -> bool {
    let is = |uid: &cedar_policy::EntityUid| uid.id().unescaped() == action;
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::In(uids) => uids.iter().any(is),
        ActionConstraint::Eq(uid) => is(&uid),
    }
}

/// The schema of sessions and calls, parsed.
pub fn schema() -> Result<Schema, String> {
    Schema::from_cedarschema_str(SCHEMA).map(|(schema, _)| schema).map_err(|e| format!("the schema of the policy itself: {e}"))
}

fn one_text(
    place: &str,
    text: &str,
    validator: &Validator,
    sets: &mut HashMap<&'static str, PolicySet>,
    notes: &mut HashMap<PolicyId, Note>,
) -> Result<(), String> {
    let parsed: PolicySet =
        text.parse().map_err(|e: cedar_policy::ParseErrors| told(place, text, e.iter().map(|e| (e.to_string(), at(e, text)))))?;
    if parsed.templates().next().is_some() {
        return Err(format!("{place}: templates (?principal, ?resource) are not linked here; write out the policy"));
    }
    let checked = validator.validate(&parsed, ValidationMode::Strict);
    if !checked.validation_passed() {
        return Err(told(place, text, checked.validation_errors().map(|e| (e.to_string(), at(e, text)))));
    }
    let mut policies: Vec<&Policy> = parsed.policies().collect();
    // Their own ids are policy0, policy1 …: in the order of the text.
    policies.sort_by_key(|p| p.id().to_string().trim_start_matches("policy").parse::<usize>().unwrap_or(usize::MAX));
    for policy in policies {
        let count = notes.len();
        if count >= POLICIES {
            return Err(format!("{place}: expected at most {POLICIES} policies"));
        }
        let id = match policy.annotation("id") {
            Some(id) if id.is_empty() || id.len() > ID => return Err(format!("{place}: @id({id:?}): expected 1 to {ID} bytes")),
            Some(id) => id.to_owned(),
            None => format!("policy{count}"),
        };
        let reason = policy.annotation("reason").map(str::to_owned);
        if reason.as_ref().is_some_and(|r| r.len() > REASON) {
            return Err(format!("{place}: the @reason of {id}: expected at most {REASON} bytes"));
        }
        let asks = match policy.annotation("effect") {
            None => false,
            Some("ask") => true,
            Some(other) => return Err(format!("{place}: @effect({other:?}) of {id}: expected @effect(\"ask\")")),
        };
        if let Some((key, _)) = policy.annotations().find(|(k, _)| !matches!(*k, "id" | "reason" | "effect" | "description" | "author")) {
            return Err(format!("{place}: @{key} of {id}: expected one of @id, @reason, @effect, @description, @author"));
        }
        let uid = PolicyId::new(&id);
        if notes.contains_key(&uid) {
            return Err(format!("{place}: two policies have the id {id:?}"));
        }
        for action in ACTIONS.into_iter().filter(|a| speaks_of(policy, a)) {
            let set: &mut PolicySet = sets.entry(action).or_default();
            set.add(policy.new_id(uid.clone())).map_err(|e| format!("{place}: {e}"))?;
        }
        notes.insert(uid, Note { id, reason, asks });
    }
    Ok(())
}

/// The line of an error, where it has a place.
fn at(e: &impl Diagnostic, text: &str) -> Option<usize> {
    let label = e.labels()?.next()?;
    Some(1 + text.get(..label.offset().min(text.len()))?.matches('\n').count())
}

fn told(place: &str, text: &str, errors: impl Iterator<Item = (String, Option<usize>)>) -> String {
    let mut lines: Vec<String> = errors
        .map(|(what, line)| match line {
            Some(n) => {
                let shown: String = text.lines().nth(n - 1).unwrap_or_default().trim().chars().take(120).collect();
                format!("{place}, line {n}: {what} (in `{shown}`)")
            }
            None => format!("{place}: {what}"),
        })
        .collect();
    lines.sort();
    lines.dedup();
    let more = lines.len().saturating_sub(TOLD);
    lines.truncate(TOLD);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(policies: &str) -> String {
        Cedar::read(&serde_json::json!({ "policies": policies }).to_string()).expect_err(policies)
    }

    #[test]
    fn errors_name_the_line_and_what_is_wrong() {
        for (policies, says) in [
            ("permit(principal, action, resource);\n\nforbid(principal, action resource);", "policies, line 3: "),
            ("permit(principal, action == Action::\"walk\", resource);", "walk"),
            ("\npermit(principal, action == Action::\"run\", resource) when { resource.txt == \"x\" };", "policies, line 2: "),
            ("permit(principal, action == Action::\"run\", resource) when { resource.txt == \"x\" };", "txt"),
            ("permit(principal, action, resource) when { context.calls == \"5\" };", "line 1"),
            ("permit(principal == ?principal, action, resource);", "templates"),
            ("@effect(\"allow\") forbid(principal, action, resource);", "@effect(\"allow\") of policy0: expected @effect(\"ask\")"),
            ("@reson(\"x\") forbid(principal, action, resource);", "@reson of policy0: expected one of @id"),
            (
                "@id(\"a\") permit(principal, action, resource);\n@id(\"a\") forbid(principal, action, resource);",
                "two policies have the id \"a\"",
            ),
        ] {
            let e = error(policies);
            assert!(e.contains(says), "{policies}\n{e}");
        }
        assert!(Cedar::read(r#"{"policy": ""}"#).expect_err("a key").contains("unknown key \"policy\""));
        assert!(Cedar::read(r#"{"policies": ["permit(principal, action, resource);", "x"]}"#).expect_err("a text").contains("policies[1]"));
        assert!(Cedar::read(r#"{"policies": 5}"#).expect_err("a number").contains("policies: expected a string"));
    }

    #[test]
    fn the_actions_are_those_of_the_schema_and_policies_stand_where_they_can_speak() {
        let schema = schema().expect("the schema");
        let mut of_schema: Vec<String> = schema.actions().map(|a| a.id().unescaped().to_owned()).collect();
        let mut ours = ACTIONS.map(str::to_owned).to_vec();
        of_schema.sort();
        ours.sort();
        assert_eq!(of_schema, ours);
        let one = "permit(principal, action == Action::\"run\", resource); forbid(principal, action in [Action::\"read_path\", Action::\"write_path\"], resource);";
        let c = Cedar::read(&serde_json::json!({ "policies": format!("{one} forbid(principal, action, resource);") }).to_string())
            .expect("policies");
        let count = |action: &str| c.sets.get(action).map_or(0, |s| s.policies().count());
        assert_eq!((count("run"), count("read_path"), count("write_path"), count("execute")), (2, 2, 2, 1));
    }

    #[test]
    fn ids_count_over_all_texts() {
        let all = "permit(principal, action, resource);";
        let c = Cedar::read(&serde_json::json!({ "policies": [all, format!("@id(\"x\") {all} {all}")] }).to_string()).expect("policies");
        let mut ids: Vec<&str> = c.notes.values().map(|n| n.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["policy0", "policy2", "x"]);
        assert!(Cedar::read("{}").is_ok());
    }
}
