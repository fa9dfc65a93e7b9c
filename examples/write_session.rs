//! A program that Beadle did not start writes a session of its own: `cargo run --release --example write_session -- KEY`.
//!
//! It begins the session with its first write, tells of an attempt with a tool call and a model's answer, and ends it. Run it twice with the
//! same KEY: the second run finds the session ended, and says so. `beadle show KEY` and `beadle events KEY --timeline` show what it wrote.
#![allow(clippy::print_stdout, reason = "an example's output is its purpose")]

use beadle::api::client::{Client, Writer};
use beadle::api::types::{BriefRequest, OpenRequest};
use beadle::config::Folders;
use beadle::model::Usage;
use beadle::model::written::{AttemptEnd, AttemptStart, End, Response, ToolEnd, ToolStart, Written};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = std::env::args().nth(1).unwrap_or_else(|| format!("example-{}", std::process::id()));
    let brief = BriefRequest { target: Some("the example shop".to_owned()), ..BriefRequest::default() };
    let open = OpenRequest { key: Some(key), agent: Some("example".to_owned()), brief, ..OpenRequest::default() };
    // Finds the daemon that `beadle ls` would: by BEADLE_HOME, else by the XDG folders.
    let writer = Writer::open(Client::without_start(Folders::from_env()?), open);

    let prompt = Some("count the files".to_owned());
    let started = writer.write(vec![Written::AttemptStarted(AttemptStart { prompt, ..AttemptStart::default() }).into()]).await?;
    println!("session {}", started.session.id);

    let input = serde_json::json!({ "command": "ls | wc -l" });
    let tool = ToolStart { call_id: "1".to_owned(), tool: "Bash".to_owned(), input, parent_call_id: None };
    let result = ToolEnd { call_id: "1".to_owned(), output: Some("3".to_owned()), ..ToolEnd::default() };
    let answer = Response {
        message_id: "m-1".to_owned(),
        model: "claude-opus-4-8".to_owned(),
        usage: Usage { input: 1_200, output: 34, ..Usage::default() },
        text: Some("There are three.".to_owned()),
        ..Response::default()
    };
    // Several at once are one transaction: all of them, or none.
    writer
        .write(vec![Written::ToolStarted(tool).into(), Written::ToolEnded(result).into(), Written::ModelResponded(answer).into()])
        .await?;

    let over = AttemptEnd { success: Some(true), is_final: true, ..AttemptEnd::default() };
    let end = End { success: Some(true), reason: None };
    let done = writer.write(vec![Written::AttemptEnded(over).into(), Written::SessionEnded(end).into()]).await?;
    println!("{} events, {}", done.session.last_seq, done.session.cost.map_or_else(String::new, |c| format!("${}", c.usd)));
    Ok(())
}
