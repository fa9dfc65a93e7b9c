//! `beadle task`: tasks of a session.

use super::args::TaskVerb;
use super::exit::Exit;
use super::text::{brief, safe};
use super::{Context, Outcome};
use crate::api::types::{TaskDoc, TaskRequest};

pub async fn run(cx: &mut Context, verb: TaskVerb) -> Outcome {
    let client = cx.client()?;
    match verb {
        TaskVerb::Add { session, title, status, owner, note } => {
            let request = TaskRequest { title: Some(title), status, owner, note };
            let task = client.add_task(&session, &request).await?;
            said(cx, &task)
        }
        TaskVerb::Set { session, task, status, title, owner, note } => {
            let task = client.set_task(&session, &task, &TaskRequest { title, status, owner, note }).await?;
            said(cx, &task)
        }
        TaskVerb::Ls { session, open } => {
            let mut tasks = client.tasks(&session).await?.items;
            tasks.retain(|t| !open || t.status.is_open());
            ls(cx, &tasks)
        }
    }
}

fn said(cx: &mut Context, task: &TaskDoc) -> Outcome {
    match (cx.printer.json(), cx.printer.quiet()) {
        (true, _) => cx.printer.document(task)?,
        (_, true) => cx.printer.line(&safe(&task.id))?,
        _ => cx.printer.line(&format!("task {} {}: {}", safe(&task.id), task.status.as_str(), brief(&task.title, 200)))?,
    }
    Ok(Exit::Done)
}

fn ls(cx: &mut Context, tasks: &[TaskDoc]) -> Outcome {
    let mut rows = Vec::new();
    for t in tasks {
        match (cx.printer.json(), cx.printer.quiet()) {
            (true, _) => cx.printer.document(t)?,
            (_, true) => cx.printer.line(&safe(&t.id))?,
            _ => rows.push(vec![
                safe(&t.id),
                t.status.as_str().to_owned(),
                t.source.as_str().to_owned(),
                t.owner.as_deref().map(|o| brief(o, 30)).unwrap_or_default(),
                brief(&t.title, 100),
                t.note.as_deref().map(|n| brief(n, 60)).unwrap_or_default(),
            ]),
        }
    }
    if rows.is_empty() && tasks.is_empty() && !cx.printer.json() && !cx.printer.quiet() {
        cx.printer.note("no task; add one with `beadle task add`")?;
    } else if !rows.is_empty() {
        cx.printer.table(&["TASK", "STATUS", "LIST", "OWNER", "TITLE", "NOTE"], &rows)?;
    }
    Ok(Exit::Done)
}
