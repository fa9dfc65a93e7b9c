//! Following a session live: its timeline, its questions, Ctrl-C. Used by `run`, `attach` and the demo.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::approvals::{added, card, commands, second};
use super::ask::{Terminal, Typed, parse};
use super::confirm::confirmed;
use super::exit::Exit;
use super::logs;
use super::printer::Tone;
use super::text::safe;
use super::timeline::{Timeline, end};
use super::{Context, Outcome};
use crate::api::client::{Client, Error, Item};
use crate::api::types::{Attach, EventDoc, EventsQuery, SessionDoc, StopRequest};
use crate::model::{ApprovalState, Clock, Event, SystemClock};

/// Within this time a second Ctrl-C stops the session instead of leaving it.
const SECOND_PRESS: Duration = Duration::from_secs(2);

/// The agent whose output is only text.
pub const GENERIC: &str = "generic";

/// How to follow.
#[derive(Default)]
pub struct Follow {
    /// Asks on this terminal.
    pub terminal: Option<Terminal>,
    /// First event to show; all when `None`.
    pub from: Option<u64>,
    /// Show what the command writes too: for agents whose output is no protocol.
    pub output: bool,
    /// Someone else answers: no hint how to.
    pub answered_elsewhere: bool,
}

struct Follower<'a> {
    cx: &'a mut Context,
    client: Client,
    id: String,
    terminal: Option<Terminal>,
    timeline: Timeline,
    /// Calls that are asked about; the first one is the question on the screen.
    pending: VecDeque<u64>,
    answered_elsewhere: bool,
    presses: u32,
}

/// `beadle attach`: from the first event on.
pub async fn attach(cx: &mut Context, session: &str) -> Outcome {
    let client = cx.client()?;
    let doc = client.session(session).await?;
    let terminal = if cx.printer.json() { None } else { Terminal::open() };
    follow(cx, &client, &doc.id, Follow { terminal, output: doc.agent == GENERIC, ..Follow::default() }).await
}

/// Shows a session until it has ended, or until the person leaves it. The exit is the agent's own, or done when left.
pub async fn follow(cx: &mut Context, client: &Client, id: &str, how: Follow) -> Outcome {
    let attach = how.terminal.is_some().then_some(Attach::Answer);
    let wanted = EventsQuery { from: how.from, attach, ..EventsQuery::default() };
    let mut stream = client.stream(Some(id), wanted).await?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut me = Follower {
        cx,
        client: client.clone(),
        id: id.to_owned(),
        terminal: how.terminal,
        timeline: Timeline::default(),
        pending: VecDeque::new(),
        answered_elsewhere: how.answered_elsewhere,
        presses: 0,
    };
    let mut leave_at = None;
    let mut output = (how.output && !me.cx.printer.json()).then(|| logs::feed(client.clone(), id.to_owned()));
    loop {
        tokio::select! {
            piece = read(&mut output) => match piece {
                Some(text) => me.cx.printer.octets(text.as_bytes())?,
                None => output = None,
            },
            item = stream.next() => match item {
                Some(Ok(Item::Event(doc))) => me.event(&doc).await?,
                Some(Ok(Item::Approval(_) | Item::Ready | Item::Missed(_))) => {}
                Some(Ok(Item::End(doc))) => {
                    while let Some(pieces) = &mut output
                        && let Some(text) = pieces.recv().await
                    {
                        me.cx.printer.octets(text.as_bytes())?;
                    }
                    return me.ended(&doc);
                }
                Some(Err(e)) => return Err(e.into()),
                None => return Ok(Exit::Done),
            },
            line = typed(&mut me.terminal), if !me.pending.is_empty() => me.typed(line).await?,
            _ = interrupt.recv() => {
                leave_at = me.interrupted().await?.then(|| Instant::now() + SECOND_PRESS);
            }
            () = tokio::time::sleep_until(leave_at.unwrap_or_else(Instant::now)), if leave_at.is_some() => return Ok(Exit::Done),
        }
    }
}

/// The next piece of the command's output; after its end, and without one, it never comes.
async fn read(output: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match output {
        Some(pieces) => pieces.recv().await,
        None => std::future::pending().await,
    }
}

async fn typed(terminal: &mut Option<Terminal>) -> Option<String> {
    match terminal {
        Some(terminal) => terminal.line().await,
        None => std::future::pending().await,
    }
}

impl Follower<'_> {
    async fn event(&mut self, doc: &EventDoc) -> anyhow::Result<()> {
        if self.cx.printer.json() {
            self.cx.printer.document(doc)?;
            return Ok(());
        }
        for line in self.timeline.lines(doc) {
            if !self.cx.printer.quiet() {
                self.cx.printer.toned(line.tone, &line.text)?;
            }
        }
        match doc.event() {
            Ok(Event::ApprovalRequested(asked)) if self.terminal.is_some() => {
                self.pending.push_back(asked.call);
                if self.pending.len() == 1 {
                    self.ask().await?;
                }
            }
            Ok(Event::ApprovalRequested(asked)) if !self.answered_elsewhere => self.hint(asked.call, &doc.session).await?,
            Ok(Event::ApprovalResolved(r)) => self.settled(r.call).await?,
            Ok(Event::ToolDecided(d)) => self.settled(d.call).await?,
            Ok(Event::SessionEnded(_)) => self.pending.clear(),
            _ => {}
        }
        Ok(())
    }

    /// A question was answered here, elsewhere, or by time, or was put off: the next one comes up.
    async fn settled(&mut self, call: u64) -> anyhow::Result<()> {
        let shown = self.pending.front() == Some(&call);
        self.pending.retain(|c| *c != call);
        if shown && !self.pending.is_empty() {
            self.ask().await?;
        }
        Ok(())
    }

    /// Shows the first question that still waits.
    async fn ask(&mut self) -> anyhow::Result<()> {
        while let Some(call) = self.pending.front().copied() {
            let doc = match self.client.approval(&self.id, call).await {
                Ok(doc) if doc.approval.state == ApprovalState::Waiting => doc,
                // Of an earlier time: the timeline shows what became of it.
                Ok(_) | Err(Error::Refused { .. }) => {
                    self.pending.pop_front();
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            for (tone, text) in card(&doc, SystemClock.wall_ms()) {
                self.cx.printer.notice(tone, &text)?;
            }
            self.cx.printer.notice(Tone::Question, "   y allow, n deny, a always, l later; a reason behind it if you like:")?;
            if let Some(terminal) = &mut self.terminal {
                terminal.forget();
            }
            return Ok(());
        }
        Ok(())
    }

    /// Nobody can answer here: says where.
    async fn hint(&mut self, call: u64, session: &str) -> anyhow::Result<()> {
        let waits = self.client.approval(session, call).await.is_ok_and(|d| d.approval.state == ApprovalState::Waiting);
        if waits {
            let text = format!("   waits for an answer from another terminal: {}", commands(&format!("{session}:{call}")));
            self.cx.printer.notice(Tone::Question, &text)?;
        }
        Ok(())
    }

    async fn typed(&mut self, line: Option<String>) -> anyhow::Result<()> {
        let Some(line) = line else {
            self.terminal = None;
            self.pending.clear();
            self.cx.printer.notice(Tone::Bad, "the terminal is gone: questions wait for `beadle approvals` elsewhere")?;
            return Ok(());
        };
        let Some(call) = self.pending.front().copied() else { return Ok(()) };
        let answer = match parse(&line) {
            None => return Ok(self.cx.printer.notice(Tone::Question, "   y, n, a or l, please:")?),
            Some(Typed::Later) => {
                let text = format!("   left in the queue: {}", commands(&format!("{}:{call}", self.id)));
                self.cx.printer.notice(Tone::Dim, &text)?;
                return self.settled(call).await;
            }
            Some(Typed::Answer(answer)) => answer,
        };
        let (id, terminal) = (&self.id, self.terminal.as_mut());
        let sent = confirmed(self.cx, terminal, async |client| client.answer(id, call, &answer).await).await;
        match sent.map_err(|e| e.downcast::<Error>()) {
            Ok(doc) => {
                if doc.answer.is_none() {
                    self.cx.printer.notice(Tone::Question, &format!("   {}", second(&doc)))?;
                }
                for line in added(&self.client, &doc).await? {
                    self.cx.printer.notice(Tone::Dim, &format!("   {line}"))?;
                }
            }
            Err(Ok(e @ Error::Refused { status, .. })) => {
                self.cx.printer.notice(Tone::Bad, &safe(&format!("not taken: {e}")))?;
                // It still waits, only not so: no rule stands for it, or it may not be answered this way.
                if status != 409 && status != 404 {
                    return Ok(self.cx.printer.notice(Tone::Question, "   y, n, a or l, please:")?);
                }
            }
            Err(Ok(e)) => return Err(e.into()),
            // Nothing was typed where a code or a passphrase was asked for.
            Err(Err(e)) => {
                self.cx.printer.notice(Tone::Bad, &safe(&format!("not taken: {e}")))?;
                return Ok(self.cx.printer.notice(Tone::Question, "   y, n, a or l, please:")?);
            }
        }
        self.settled(call).await
    }

    /// True when the session is about to be left.
    async fn interrupted(&mut self) -> anyhow::Result<bool> {
        self.presses += 1;
        let id = safe(&self.id);
        match self.presses {
            1 => {
                let text = format!("\nleaving; the session goes on: `beadle attach {id}`. Ctrl-C again now stops it.");
                self.cx.printer.notice(Tone::Strong, &text)?;
                Ok(true)
            }
            n => {
                let kill = n > 2;
                let text = if kill { "killing" } else { "stopping; Ctrl-C again kills" };
                self.cx.printer.notice(Tone::Strong, &format!("\n{text}"))?;
                match self.client.stop(&self.id, StopRequest { grace_ms: None, kill }).await {
                    // It may have ended meanwhile.
                    Ok(_) | Err(Error::Refused { status: 409, .. }) => Ok(false),
                    Err(e) => Err(e.into()),
                }
            }
        }
    }

    fn ended(&mut self, doc: &SessionDoc) -> Outcome {
        if self.cx.printer.json() {
            self.cx.printer.document(doc)?;
        } else {
            let line = end(doc);
            self.cx.printer.toned(line.tone, &line.text)?;
        }
        Ok(Exit::of_session(doc))
    }
}
