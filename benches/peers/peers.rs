//! The peers of the decision bench: the sample's 100 rules in Cedar and in Rego, both in process and without a sandbox.
//!
//! Both get the call already parsed, as our policy does: one request for each simple command, path or host, folded as `rules` folds
//! them. Globs are prefix and suffix tests in both. Policies are parsed and compiled ahead, requests are made ahead. Called by `decision`.

use beadle_plugin::{Access, Call};
use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request};
use regorus::{CompiledPolicy, Engine, Value};
use serde_json::json;

/// What a rule or a request is about.
#[derive(Clone, Copy, PartialEq)]
enum What {
    Bash,
    Read,
    Edit,
    Fetch,
}

impl What {
    const fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Read => "read",
            Self::Edit => "edit",
            Self::Fetch => "fetch",
        }
    }
}

/// One rule as prefix and suffix: `head` alone, or `head` + anything + `tail`.
struct Plain {
    effect: &'static str,
    what: What,
    /// For commands: the whole line. For others: no meaning.
    exact: Option<String>,
    head: String,
    tail: String,
}

fn plain(effect: &'static str, rule: &str) -> Plain {
    let (tool, arg) = rule.trim_end_matches(')').split_once('(').unwrap_or((rule, ""));
    let what = match tool {
        "Bash" => What::Bash,
        "Read" => What::Read,
        "WebFetch" => What::Fetch,
        _ => What::Edit,
    };
    let mut p = Plain { effect, what, exact: None, head: String::new(), tail: String::new() };
    match what {
        What::Bash => {
            let line = arg.trim_end_matches(":*");
            match line.split_once('*') {
                Some((head, tail)) => (p.head, p.tail) = (head.to_owned(), tail.to_owned()),
                None => (p.exact, p.head) = (Some(line.to_owned()), format!("{line} ")),
            }
        }
        What::Fetch => p.head = arg.trim_start_matches("domain:").to_owned(),
        What::Read | What::Edit => {
            let path = if let Some(rest) = arg.strip_prefix("./") {
                format!("/home/dev/project/{rest}")
            } else if let Some(rest) = arg.strip_prefix("~/") {
                format!("/home/dev/{rest}")
            } else {
                arg.strip_prefix('/').unwrap_or(arg).to_owned()
            };
            match path.find('*') {
                Some(at) => {
                    p.head = path[..at].to_owned();
                    p.tail = path.rsplit('*').next().unwrap_or_default().trim_start_matches('/').to_owned();
                }
                None => p.head = path,
            }
        }
    }
    p
}

fn rules(config: &str) -> Vec<Plain> {
    let config: serde_json::Value = serde_json::from_str(config).expect("the sample is JSON");
    let list = |effect: &'static str| {
        let rules = config[effect].as_array().cloned().unwrap_or_default();
        rules.into_iter().map(move |r| plain(effect, r.as_str().unwrap_or_default())).collect::<Vec<_>>()
    };
    ["deny", "ask", "allow"].into_iter().flat_map(list).collect()
}

/// The same rules for the standard policy `cedar`: over its own schema, with the annotation that makes a forbid ask.
pub fn standard_cedar(config: &str) -> String {
    let mut out = String::new();
    for (n, r) in rules(config).iter().enumerate() {
        let (action, attribute) = match r.what {
            What::Bash => ("run", "text"),
            What::Read => ("read_path", "resolved"),
            What::Edit => ("write_path", "resolved"),
            What::Fetch => ("connect", "host"),
        };
        let quote = |s: &str| serde_json::Value::from(s).to_string();
        let like = |s: &str| s.replace('*', "\\*");
        let glob = format!("resource.{attribute} like {}", quote(&format!("{}*{}", like(&r.head), like(&r.tail))).replace("\\\\*", "\\*"));
        let test = match &r.exact {
            Some(line) => format!("resource.{attribute} == {} || {glob}", quote(line)),
            None if r.what == What::Fetch => format!("resource.{attribute} == {}", quote(&r.head)),
            None => glob,
        };
        let (verb, asks) = match r.effect {
            "allow" => ("permit", ""),
            "ask" => ("forbid", "@effect(\"ask\") "),
            _ => ("forbid", ""),
        };
        out += &format!("@id(\"{}-{n}\") {asks}{verb}(principal, action == Action::\"{action}\", resource) when {{ {test} }};\n", r.effect);
    }
    out
}

/// The parts of a call that are judged one by one.
fn parts(call: &Call) -> Vec<(What, String)> {
    let mut out: Vec<(What, String)> = call
        .commands
        .iter()
        .map(|c| (What::Bash, c.argv.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ")))
        .collect();
    for p in &call.paths {
        out.push((if p.access == Access::Read { What::Read } else { What::Edit }, p.resolved.clone()));
    }
    out
}

/// Deny over ask; all allowed is allow, none known is abstain, a mix is asked.
fn fold(effects: impl Iterator<Item = &'static str>) -> &'static str {
    let (mut n, mut allowed, mut known, mut ask) = (0, 0, 0, false);
    for e in effects {
        n += 1;
        match e {
            "deny" => return "deny",
            "ask" => (ask, known) = (true, known + 1),
            "allow" => (allowed, known) = (allowed + 1, known + 1),
            _ => {}
        }
    }
    if ask || (known > 0 && allowed < n) {
        "ask"
    } else if allowed == n {
        "allow"
    } else {
        "abstain"
    }
}

/// Cedar: allow rules permit, ask and deny rules forbid and are told apart by their id.
pub struct Cedar {
    policies: PolicySet,
    entities: Entities,
    authorizer: Authorizer,
    calls: Vec<Vec<Request>>,
}

impl Cedar {
    pub fn new(config: &str, calls: &[Call]) -> Self {
        let mut policies = PolicySet::new();
        for (n, r) in rules(config).iter().enumerate() {
            let verb = if r.effect == "allow" { "permit" } else { "forbid" };
            let quote = |s: &str| serde_json::Value::from(s).to_string();
            let like = |s: &str| s.replace('*', "\\*");
            let glob = format!("context.text like {}", quote(&format!("{}*{}", like(&r.head), like(&r.tail))).replace("\\\\*", "\\*"));
            let test = match &r.exact {
                Some(line) => format!("context.text == {} || {glob}", quote(line)),
                None => glob,
            };
            let text = format!("{verb}(principal, action == Action::\"{}\", resource) when {{ {test} }};", r.what.name());
            let id = PolicyId::new(format!("{}-{n}", r.effect));
            let policy = cedar_policy::Policy::parse(Some(id), text).expect("a policy");
            policies.add(policy).expect("a new id");
        }
        let uid = |text: &str| text.parse::<EntityUid>().expect("a uid");
        let request = |(what, text): (What, String)| {
            let context = Context::from_json_value(json!({ "text": text }), None).expect("a context");
            let action = uid(&format!("Action::\"{}\"", what.name()));
            Request::new(uid("Agent::\"claude\""), action, uid("Session::\"s\""), context, None).expect("a request")
        };
        let calls = calls.iter().map(|c| parts(c).into_iter().map(request).collect()).collect();
        Self { policies, entities: Entities::empty(), authorizer: Authorizer::new(), calls }
    }

    pub fn decide(&self, i: usize) -> &'static str {
        fold(self.calls[i % self.calls.len()].iter().map(|r| {
            let answer = self.authorizer.is_authorized(r, &self.policies, &self.entities);
            if answer.decision() == Decision::Allow {
                return "allow";
            }
            let mut effect = "abstain";
            for id in answer.diagnostics().reason() {
                let id: &str = id.as_ref();
                if id.starts_with("deny") {
                    return "deny";
                }
                effect = "ask";
            }
            effect
        }))
    }
}

const REGO: &str = r#"
package beadle
import rego.v1

default effect := "abstain"
effect := "deny" if hit("deny")
else := "ask" if hit("ask")
else := "allow" if hit("allow")

hit(effect) if {
  some r in data.rules[effect][input.what]
  input.text == r.exact
}
hit(effect) if {
  some r in data.rules[effect][input.what]
  startswith(input.text, r.head)
  endswith(input.text, r.tail)
}
"#;

/// Regorus: the rules are data, the policy is compiled for its one entry point.
pub struct Rego {
    policy: CompiledPolicy,
    calls: Vec<Vec<Value>>,
}

impl Rego {
    pub fn new(config: &str, calls: &[Call]) -> Self {
        let mut data = json!({});
        for r in rules(config) {
            let list = &mut data[r.effect][r.what.name()];
            if !list.is_array() {
                *list = json!([]);
            }
            if let Some(list) = list.as_array_mut() {
                list.push(json!({ "exact": r.exact, "head": r.head, "tail": r.tail }));
            }
        }
        let mut engine = Engine::new();
        engine.add_policy("beadle.rego".to_owned(), REGO.to_owned()).expect("a policy");
        engine.add_data(Value::from_json_str(&json!({ "rules": data }).to_string()).expect("JSON")).expect("data");
        let policy = engine.compile_with_entrypoint(&"data.beadle.effect".into()).expect("compiles");
        let input = |(what, text): (What, String)| {
            Value::from_json_str(&json!({ "what": what.name(), "text": text }).to_string()).expect("JSON")
        };
        let calls = calls.iter().map(|c| parts(c).into_iter().map(input).collect()).collect();
        Self { policy, calls }
    }

    pub fn decide(&self, i: usize) -> &'static str {
        fold(self.calls[i % self.calls.len()].iter().map(|input| {
            let answer = self.policy.eval_with_input(input.clone()).expect("a value");
            match answer.as_string().map(AsRef::as_ref) {
                Ok("deny") => "deny",
                Ok("ask") => "ask",
                Ok("allow") => "allow",
                _ => "abstain",
            }
        }))
    }
}
