//! Sessions and all below them: `show --tree`, `ls --tree`, what is done to a whole tree, and `beadle handoff`.
//!
//! Called by `mod.rs`, `session`, `show` and `pause`.

use std::collections::BTreeMap;

use super::args::HandoffArgs;
use super::exit::Exit;
use super::printer::Tone;
use super::run::read_prompt;
use super::session::say;
use super::text::{brief, cost_cell, count, safe, short};
use super::{Context, Outcome};
use crate::api::types::{HandOffRequest, SessionDoc, SubAgentDoc, TreeActRequest, TreeDoc, TreeNodeDoc};
use crate::model::TreeAct;

/// Generations that are shown by their place; deeper ones stand at the last.
const SHOWN: u32 = 20;

/// The whole tree with what was used together.
pub async fn show(cx: &mut Context, id: &str) -> Outcome {
    let tree = cx.client()?.tree(id).await?;
    if cx.printer.json() {
        cx.printer.document(&tree)?;
        return Ok(Exit::Done);
    }
    if cx.printer.quiet() {
        for n in &tree.nodes {
            cx.printer.line(&safe(&n.session.id))?;
        }
        return Ok(Exit::Done);
    }
    let rows = rows(&tree);
    cx.printer.table(&["SESSION", "NAME", "AGENT", "STATUS", "CALLS", "TOKENS", "COST", "WITH ALL BELOW"], &rows)?;
    if tree.truncated {
        cx.printer.note(&format!("only the first {} sessions are shown and added up", count(tree.nodes.len() as u64)))?;
    }
    Ok(Exit::Done)
}

fn rows(tree: &TreeDoc) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    for n in &tree.nodes {
        let s = &n.session;
        out.push(vec![
            format!("{}{}", lead(n.depth), safe(&s.id)),
            brief(&s.name, 30),
            brief(&s.agent, 20),
            s.outcome.map_or(s.status.as_str(), |o| o.as_str()).to_owned(),
            count(s.call_count),
            short(s.usage.total()),
            cost_cell(s.cost.as_ref(), s.unpriced_count),
            together(n),
        ]);
        out.extend(n.sub_agents.iter().map(|a| sub_agent(a, n)));
    }
    out
}

/// What all of them used; nothing where it is the session alone.
fn together(n: &TreeNodeDoc) -> String {
    let t = &n.together;
    if t.session_count < 2 {
        return String::new();
    }
    let cost = cost_cell(t.cost.as_ref(), t.unpriced_count);
    format!("{} sessions, {} tokens, {cost}", count(t.session_count), short(t.usage.total()))
}

fn sub_agent(a: &SubAgentDoc, of: &TreeNodeDoc) -> Vec<String> {
    let nested = |id: &str| of.sub_agents.iter().find(|b| b.call_id == id).and_then(|b| b.parent_call_id.clone());
    let above = std::iter::successors(a.parent_call_id.clone(), |id| nested(id)).take(SHOWN as usize).count();
    let status = match (&a.ended_at, a.is_error) {
        (None, _) => "at work",
        (Some(_), true) => "failed",
        (Some(_), false) => "done",
    };
    let used = a.usage.total();
    vec![
        format!("{}{}", lead(of.depth + 1 + u32::try_from(above).unwrap_or(SHOWN)), brief(&a.call_id, 40)),
        brief(&a.description, 30),
        format!("sub-agent {}", brief(&a.agent_type, 20)),
        status.to_owned(),
        count(a.call_count),
        if used == 0 { "-".to_owned() } else { short(used) },
        if used == 0 { "-".to_owned() } else { cost_cell(a.cost.as_ref(), a.unpriced_count) },
        "in its session's".to_owned(),
    ]
}

/// What stands before a row so that its depth is seen.
pub fn lead(depth: u32) -> String {
    if depth == 0 { String::new() } else { format!("{}└ ", "  ".repeat(depth.min(SHOWN) as usize - 1)) }
}

/// The listed sessions, each below the one that it was started for where that is listed, too.
pub fn placed(listed: &[SessionDoc]) -> Vec<(u32, &SessionDoc)> {
    let there: BTreeMap<&str, usize> = listed.iter().enumerate().map(|(i, s)| (s.id.as_str(), i)).collect();
    let parent = |s: &SessionDoc| s.record.parent.as_ref().and_then(|p| there.get(p.as_str()).copied());
    let mut below: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut stack = Vec::new();
    for (i, s) in listed.iter().enumerate().rev() {
        match parent(s).filter(|p| *p != i) {
            Some(p) => below.entry(p).or_default().push(i),
            None => stack.push((0, i)),
        }
    }
    let mut out = Vec::with_capacity(listed.len());
    while let Some((depth, i)) = stack.pop() {
        stack.extend(below.remove(&i).into_iter().flatten().map(|c| (depth + 1, c)));
        out.push((depth, &listed[i]));
    }
    // What is left could only be a circle, which is shown all the same.
    out.extend(below.into_values().flatten().map(|i| (0, &listed[i])));
    out
}

/// Ends a whole tree; waits for the ends unless told not to.
pub async fn end(cx: &mut Context, id: &str, act: TreeAct, grace_ms: Option<u64>, wait: bool) -> Outcome {
    let client = cx.client()?;
    let done = client.act_on_tree(id, &TreeActRequest { act, grace_ms, mode: None, reason: None }).await?;
    if wait {
        for id in &done.done {
            client.wait(id, None).await?;
        }
    }
    told(cx, &done)
}

/// Pauses a whole tree or lets it go on.
pub async fn act(cx: &mut Context, id: &str, request: TreeActRequest) -> Outcome {
    let done = super::confirm::confirmed(cx, None, async |client| client.act_on_tree(id, &request).await).await?;
    told(cx, &done)
}

fn told(cx: &mut Context, done: &crate::api::types::TreeActDoc) -> Outcome {
    if cx.printer.json() {
        cx.printer.document(done)?;
    } else {
        let word = match done.act {
            TreeAct::Stop => "stopped",
            TreeAct::Kill => "killed",
            TreeAct::Pause => "paused",
            TreeAct::Resume => "goes on",
        };
        for id in &done.done {
            let id = safe(id);
            cx.printer.line(&if cx.printer.quiet() { id } else { format!("{id} {word}") })?;
        }
        for f in &done.failed {
            cx.printer.notice(Tone::Bad, &format!("not {word}: {}", brief(f, 500)))?;
        }
        if done.done.is_empty() && done.failed.is_empty() {
            cx.printer.note("there was nothing to do")?;
        }
    }
    Ok(if done.failed.is_empty() { Exit::Done } else { Exit::No })
}

pub async fn hand_off(cx: &mut Context, args: HandoffArgs) -> Outcome {
    let reason = args.reason.map(read_prompt).transpose()?;
    let request = HandOffRequest { from: args.from, to: args.to, session: args.other, reason };
    let doc = cx.client()?.hand_off(&args.session, &request).await?;
    say(cx, &doc, &format!("is handed to {}", brief(&request.to, 100)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::sample;
    use crate::model::Record;

    #[test]
    fn each_stands_below_its_parent_where_that_is_listed() {
        let doc = |id: &str, parent: Option<&str>| SessionDoc {
            id: id.into(),
            record: Record { parent: parent.map(|p| p.parse().expect("an id")), ..Record::default() },
            ..sample::session()
        };
        let (a, b, c, d) = ("a-mwpus4jk-aaaaa", "b-mwpus4jk-aaaaa", "c-mwpus4jk-aaaaa", "d-mwpus4jk-aaaaa");
        let list = [doc(d, Some("x-mwpus4jk-aaaaa")), doc(c, Some(a)), doc(b, Some(c)), doc(a, None)];
        let ids: Vec<_> = placed(&list).into_iter().map(|(depth, s)| (depth, s.id.as_str())).collect();
        assert_eq!(ids, [(0, d), (0, a), (1, c), (2, b)]);
        assert_eq!((lead(0).as_str(), lead(1).as_str(), lead(3).as_str()), ("", "└ ", "    └ "));
        let circle = [doc(a, Some(b)), doc(b, Some(a))];
        assert_eq!(placed(&circle).len(), 2);
    }
}
