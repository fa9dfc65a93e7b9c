//! The sample's session and calls as a bench's own bindings have them: `types` is what `bindgen!` made there.
//!
//! Mounted by `instructions.rs` and `peers/decision.rs`, which ask a component without the host in between.

use policy_rules::bench::sample_session;

use super::types;

pub fn call(c: &beadle_plugin::Call) -> types::Call {
    let word = |w: &beadle_plugin::Word| types::Word { text: w.text.clone(), exact: w.exact };
    let access = |a| if a == beadle_plugin::Access::Read { types::Access::Read } else { types::Access::Write };
    let path = |p: &beadle_plugin::PathUse| types::PathUse {
        written: p.written.clone(),
        absolute: p.absolute.clone(),
        resolved: p.resolved.clone(),
        access: access(p.access),
        exact: p.exact,
    };
    let command = |c: &beadle_plugin::Command| types::Command {
        argv: c.argv.iter().map(word).collect(),
        env: Vec::new(),
        redirects: c.redirects.iter().map(|r| types::Redirect { target: word(&r.target), access: access(r.access) }).collect(),
        origin: c.origin.clone(),
        exact: c.exact,
    };
    types::Call {
        agent: "claude".to_owned(),
        tool: c.tool.clone(),
        kind: match c.tool.as_str() {
            "Bash" => types::ToolKind::Execute,
            "Read" => types::ToolKind::Read,
            _ => types::ToolKind::Edit,
        },
        input: c.input.clone(),
        cwd: c.cwd.clone(),
        write_root: None,
        paths: c.paths.iter().map(path).collect(),
        urls: c.urls.clone(),
        commands: c.commands.iter().map(command).collect(),
        parse: types::Parse::Complete,
        parse_reason: None,
        call_id: c.call_id.clone(),
        parent_call_id: None,
        sub_agent: None,
        channel: types::Channel::Driver,
        at_ms: 0,
    }
}

pub fn session() -> types::Session {
    let s = sample_session();
    types::Session {
        id: "fix-the-build-m2k9x1a7-k3v9q".to_owned(),
        name: "test".to_owned(),
        agent: "claude".to_owned(),
        root: s.root,
        home: s.home,
        labels: Vec::new(),
        parent: None,
        attempt: 1,
        mediation: types::Mediation::Gate,
        created_at_ms: 0,
        calls: 0,
        denied: 0,
        sub_agents: 0,
        turns: 0,
        usage: types::Usage { input: 0, output: 0, cache_read: 0, cache_write: 0 },
        cost_nanousd: None,
        unpriced: 0,
        model: None,
    }
}
