//! A call as Cedar requests: entities and context as the schema has them.
//!
//! Invariants:
//! - every request conforms to the schema (a test validates them);
//! - a program that is named by a path is asked about twice, as it is written and by its name alone; the second is for forbids, so
//!   that `/usr/bin/git` does not get around what is said of `git`, and `./git` is not permitted as `git` is.
//!
//! Called by `judge`.

use std::collections::{BTreeSet, HashMap, HashSet};

use beadle_plugin::{Access, Call, Channel, Command, Mediation, Parse, Session, ToolKind, Word, quote};
use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression as Value, Schema};
use policy_kit::host::{Destination, Host};

use crate::config::ACTIONS;

/// The requests of one call; the first is about the call itself.
pub(crate) struct Requests {
    pub entities: Entities,
    pub requests: Vec<One>,
    /// Nothing of the call can change by expansion, and it was read whole.
    pub exact: bool,
}

/// One request.
pub(crate) struct One {
    pub action: &'static str,
    pub request: Request,
    /// A second look at what another request is about: its permits count for nothing.
    pub forbids_only: bool,
}

/// The names of the schema, parsed once: parsing one takes Cedar longer than evaluating a policy.
#[derive(Debug)]
pub(crate) struct Names {
    session: EntityUid,
    agent: EntityTypeName,
    kinds: HashMap<&'static str, EntityTypeName>,
    actions: HashMap<&'static str, EntityUid>,
}

impl Names {
    pub(crate) fn new() -> Result<Self, String> {
        let name = |kind: &str| kind.parse::<EntityTypeName>().map_err(|e| e.to_string());
        let (session, action) = (name("Session")?, name("Action")?);
        let of = |kind: &EntityTypeName, id: &str| EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id));
        Ok(Self {
            session: of(&session, "session"),
            agent: name("Agent")?,
            kinds: ["Call", "Command", "Assignment", "Path", "Url"]
                .into_iter()
                .map(|k| Ok((k, name(k)?)))
                .collect::<Result<_, String>>()?,
            actions: ACTIONS.into_iter().map(|a| (a, of(&action, a))).collect(),
        })
    }

    fn part(&self, kind: &str, id: usize) -> Result<EntityUid, String> {
        let kind = self.kinds.get(kind).ok_or_else(|| format!("no entities {kind}"))?;
        Ok(EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id.to_string())))
    }
}

type Attributes = HashMap<String, Value>;

/// Entities and what is asked about them, as they are put together.
struct Parts<'n> {
    names: &'n Names,
    entities: Vec<Entity>,
    targets: Vec<(EntityUid, &'static str, bool)>,
}

impl Parts<'_> {
    fn add(&mut self, kind: &str, actions: &[&'static str], forbids_only: bool, attributes: Attributes) -> Result<(), String> {
        let uid = self.names.part(kind, self.entities.len())?;
        self.targets.extend(actions.iter().map(|a| (uid.clone(), *a, forbids_only)));
        self.entities.push(Entity::new(uid, attributes, HashSet::new()).map_err(|e| e.to_string())?);
        Ok(())
    }
}

/// Puts the requests together. With a schema they are validated against it, which the tests do.
pub(crate) fn requests(names: &Names, session: &Session, call: &Call, schema: Option<&Schema>) -> Result<Requests, String> {
    let principal = names.session.clone();
    let agent = EntityUid::from_type_name_and_id(names.agent.clone(), EntityId::new(&session.agent));
    let entities = vec![Entity::new_no_attrs(agent.clone(), HashSet::new()), of_session(session, call, principal.clone(), agent)?];
    let mut parts = Parts { names, entities, targets: Vec::new() };
    let kind = kind(call.kind);
    parts.add("Call", &[kind], false, record([("tool", text(&call.tool)), ("kind", text(kind)), ("input", text(&call.input))]))?;
    for c in &call.commands {
        let written = c.argv.first().filter(|w| w.exact).map_or("", |w| w.text.as_str());
        parts.add("Command", &["run"], false, of_command(c, written))?;
        if written != c.program() {
            parts.add("Command", &["run"], true, of_command(c, c.program()))?;
        }
        for w in &c.env {
            parts.add("Assignment", &["assign"], false, of_assignment(w, c))?;
        }
    }
    for p in &call.paths {
        let actions: &[&str] = match p.access {
            Access::Read => &["read_path"],
            Access::Write => &["write_path"],
            Access::ReadWrite => &["read_path", "write_path"],
        };
        let attributes = record([
            ("written", text(&p.written)),
            ("absolute", text(&p.absolute)),
            ("resolved", text(&p.resolved)),
            ("exact", Value::new_bool(p.exact)),
        ]);
        parts.add("Path", actions, false, attributes)?;
    }
    let urls: Vec<Destination> = call.urls.iter().map(|u| Destination::of_url(u, "http")).collect();
    for d in &urls {
        let mut attributes = record([("text", text(&d.written)), ("scheme", text(&d.scheme)), ("host", text(&host(d)))]);
        if let Some(port) = d.port_or_default() {
            attributes.insert("port".to_owned(), Value::new_long(port.into()));
        }
        parts.add("Url", &["connect"], false, attributes)?;
    }
    let exact = call.parse == Parse::Complete
        && call.commands.iter().all(|c| c.exact && c.env.iter().all(|w| w.exact))
        && call.paths.iter().all(|p| p.exact)
        && urls.iter().all(|d| !matches!(d.host, Host::Unclear(_)));
    let context = Context::from_pairs(of_call(session, call, &urls, exact)).map_err(|e| e.to_string())?;
    let request = |(resource, action, forbids_only): (EntityUid, &'static str, bool)| {
        let uid = names.actions.get(action).ok_or_else(|| format!("no action {action}"))?.clone();
        let request = Request::new(principal.clone(), uid, resource, context.clone(), schema).map_err(|e| e.to_string())?;
        Ok(One { action, request, forbids_only })
    };
    let requests = parts.targets.into_iter().map(request).collect::<Result<_, String>>()?;
    let entities = Entities::from_entities(parts.entities, schema).map_err(|e| e.to_string())?;
    Ok(Requests { entities, requests, exact })
}

fn of_session(s: &Session, call: &Call, uid: EntityUid, agent: EntityUid) -> Result<Entity, String> {
    let mediation = match s.mediation {
        Mediation::None => "none",
        Mediation::Hooks => "hooks",
        Mediation::Gate => "gate",
    };
    let mut attributes = record([
        ("id", text(&s.id)),
        ("name", text(&s.name)),
        ("agent", text(&s.agent)),
        ("root", text(&s.root)),
        ("mediation", text(mediation)),
        ("attempt", Value::new_long(s.attempt.into())),
        ("age_ms", long(call.at_ms.saturating_sub(s.created_at_ms))),
    ]);
    maybe(&mut attributes, "home", s.home.as_deref());
    maybe(&mut attributes, "model", s.model.as_deref());
    let tags = s.labels.iter().map(|(k, v)| (k.clone(), text(v)));
    Entity::new_with_tags(uid, attributes, [agent], tags).map_err(|e| e.to_string())
}

/// A command whose program is called so.
fn of_command(c: &Command, program: &str) -> Attributes {
    let mut words: Vec<&str> = c.argv.iter().map(|w| w.text.as_str()).collect();
    if let (Some(first), false) = (words.first_mut(), program.is_empty()) {
        *first = program;
    }
    let exact = c.argv.iter().all(|w| w.exact);
    let shown = words.iter().map(|w| if exact { quote(w) } else { (*w).to_owned() }).collect::<Vec<_>>().join(" ");
    record([
        ("program", text(program)),
        ("text", text(&shown)),
        ("args", set(words.iter().skip(1).copied())),
        ("origin", set(c.origin.iter().map(String::as_str))),
        ("exact", Value::new_bool(c.exact)),
    ])
}

fn of_assignment(w: &Word, c: &Command) -> Attributes {
    let (name, value) = w.text.split_once('=').unwrap_or((&w.text, ""));
    record([("name", text(name)), ("value", text(value)), ("program", text(c.program())), ("exact", Value::new_bool(w.exact))])
}

fn of_call(s: &Session, call: &Call, urls: &[Destination], exact: bool) -> Attributes {
    let channel = match call.channel {
        Channel::Driver => "driver",
        Channel::Hook => "hook",
        Channel::Proxy => "proxy",
    };
    let parse = match call.parse {
        Parse::Complete => "complete",
        Parse::Partial => "partial",
        Parse::Failed => "failed",
    };
    let mut out = record([
        ("tool", text(&call.tool)),
        ("kind", text(kind(call.kind))),
        ("cwd", text(&call.cwd)),
        ("channel", text(channel)),
        ("parse", text(parse)),
        ("exact", Value::new_bool(exact)),
        ("at_ms", long(call.at_ms)),
        ("programs", set(call.commands.iter().map(Command::program))),
        ("paths", set(call.paths.iter().map(|p| p.resolved.as_str()))),
        ("hosts", Value::new_set(urls.iter().map(host).collect::<BTreeSet<_>>().iter().map(|h| text(h)))),
        ("calls", long(s.calls)),
        ("denied", long(s.denied)),
        ("sub_agents", long(s.sub_agents)),
        ("turns", long(s.turns)),
        ("input_tokens", long(s.usage.input)),
        ("output_tokens", long(s.usage.output)),
        ("cache_read_tokens", long(s.usage.cache_read)),
        ("cache_write_tokens", long(s.usage.cache_write)),
        ("unpriced", long(s.unpriced)),
    ]);
    maybe(&mut out, "write_root", call.write_root.as_deref());
    maybe(&mut out, "sub_agent", call.sub_agent.as_deref());
    if let Some(cost) = s.cost_nanousd {
        out.insert("cost_nanousd".to_owned(), long(cost));
    }
    out
}

fn host(d: &Destination) -> String {
    match &d.host {
        Host::Name(n) => n.clone(),
        Host::Ip { ip, .. } => ip.to_string(),
        Host::Unclear(_) => String::new(),
    }
}

const fn kind(k: ToolKind) -> &'static str {
    match k {
        ToolKind::Read => "read",
        ToolKind::Edit => "edit",
        ToolKind::Delete => "delete",
        ToolKind::Move => "move",
        ToolKind::Search => "search",
        ToolKind::Execute => "execute",
        ToolKind::Think => "think",
        ToolKind::Fetch => "fetch",
        ToolKind::Other => "other",
    }
}

fn record<const N: usize>(pairs: [(&str, Value); N]) -> Attributes {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

fn maybe(to: &mut Attributes, key: &str, value: Option<&str>) {
    if let Some(v) = value {
        to.insert(key.to_owned(), text(v));
    }
}

fn text(s: &str) -> Value {
    Value::new_string(s.to_owned())
}

fn set<'a>(items: impl Iterator<Item = &'a str>) -> Value {
    Value::new_set(items.map(text))
}

/// The largest number that Cedar has, for what is larger.
fn long(n: u64) -> Value {
    Value::new_long(i64::try_from(n).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use beadle_plugin::PathUse;

    #[test]
    fn every_request_conforms_to_the_schema() {
        let (schema, names) = (crate::config::schema().expect("the schema"), Names::new().expect("names"));
        let path = |access| PathUse { written: "x".into(), absolute: "/w/x".into(), resolved: "/w/x".into(), access, exact: true };
        let full = Call {
            tool: "Bash".into(),
            kind: ToolKind::Execute,
            write_root: Some("/w".into()),
            sub_agent: Some("a".into()),
            commands: vec![
                Command { env: vec![Word::exact("A=b"), Word::dynamic("C=$D")], ..Command::of(["git", "push", "push"]) },
                Command { argv: vec![Word::dynamic("$X")], ..Command::of(["x"]) },
                Command::of(["/usr/bin/git", "push"]),
            ],
            paths: vec![path(Access::Read), path(Access::Write), path(Access::ReadWrite)],
            urls: vec!["https://a.org:8443/x".into(), "https://a%.org".into(), "http://10.0.0.1".into()],
            at_ms: u64::MAX,
            ..Call::default()
        };
        let session = Session {
            home: Some("/h".into()),
            model: Some("m".into()),
            labels: vec![("team".into(), "a".into())],
            cost_nanousd: Some(u64::MAX),
            ..Session::default()
        };
        let all = requests(&names, &session, &full, Some(&schema)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((all.requests.len(), all.exact), (1 + (3 + 1) + 2 + 4 + 3, false));
        assert_eq!(all.requests.iter().filter(|r| r.forbids_only).count(), 1, "the program that is named by a path");
        for kind in [
            ToolKind::Read,
            ToolKind::Edit,
            ToolKind::Delete,
            ToolKind::Move,
            ToolKind::Search,
            ToolKind::Think,
            ToolKind::Fetch,
            ToolKind::Other,
        ] {
            let call = Call { kind, ..Call::default() };
            let all = requests(&names, &Session::default(), &call, Some(&schema)).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((all.requests.len(), all.exact), (1, true));
        }
    }
}
