//! A call record of the host as the policy's crate has it, for those that judge natively: without a component in between.
//!
//! Used by `plugins/policy-rules/tests/attacks.rs` and the fuzz target `rules`, each with the host's modules mounted as its own.

use beadle_plugin as wit;

use crate::model::{Access, Call, Parse, ToolKind, Word};

pub fn to_wit(c: &Call) -> wit::Call {
    let word = |w: &Word| wit::Word { text: w.text.clone(), exact: w.exact };
    let access = |a| match a {
        Access::Read => wit::Access::Read,
        Access::Write => wit::Access::Write,
        Access::ReadWrite => wit::Access::ReadWrite,
    };
    wit::Call {
        agent: c.agent.clone(),
        tool: c.tool.clone(),
        kind: match c.kind {
            ToolKind::Read => wit::ToolKind::Read,
            ToolKind::Edit => wit::ToolKind::Edit,
            ToolKind::Delete => wit::ToolKind::Delete,
            ToolKind::Move => wit::ToolKind::Move,
            ToolKind::Search => wit::ToolKind::Search,
            ToolKind::Execute => wit::ToolKind::Execute,
            ToolKind::Think => wit::ToolKind::Think,
            ToolKind::Fetch => wit::ToolKind::Fetch,
            ToolKind::Other => wit::ToolKind::Other,
        },
        input: c.input.to_string(),
        cwd: c.cwd.clone(),
        write_root: c.write_root.clone(),
        paths: c
            .paths
            .iter()
            .map(|p| wit::PathUse {
                written: p.written.clone(),
                absolute: p.absolute.clone(),
                resolved: p.resolved.clone(),
                access: access(p.access),
                exact: p.exact,
            })
            .collect(),
        urls: c.urls.clone(),
        commands: c
            .commands
            .iter()
            .map(|c| wit::Command {
                argv: c.argv.iter().map(word).collect(),
                env: c.env.iter().map(word).collect(),
                redirects: c.redirects.iter().map(|r| wit::Redirect { target: word(&r.target), access: access(r.access) }).collect(),
                origin: c.origin.clone(),
                exact: c.exact,
            })
            .collect(),
        parse: match c.parse {
            Parse::Complete => wit::Parse::Complete,
            Parse::Partial => wit::Parse::Partial,
            Parse::Failed => wit::Parse::Failed,
        },
        parse_reason: c.parse_reason.clone(),
        call_id: None,
        parent_call_id: None,
        sub_agent: None,
        channel: wit::Channel::Driver,
        at_ms: 0,
    }
}
