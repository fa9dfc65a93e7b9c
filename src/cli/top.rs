//! `beadle top`: live sessions and the questions that wait, on a whole screen, answered by key.
//!
//! Invariants: at most the caps of `look` are fetched at a time; the terminal is put back on every way out, a panic included; nothing is
//! answered that was not on the screen.

mod look;
mod state;
mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::args::TopArgs;
use super::exit::{Exit, UsageError};
use super::{Context, Outcome};
use crate::api::client::Client;
use crate::api::types::ApprovalAnswer;
use crate::model::{Clock, SystemClock};
use look::Look;
use state::{Act, State};

/// Keys that may wait.
const KEYS: usize = 64;
/// How often the reader of keys looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(100);

pub async fn top(cx: &mut Context, args: TopArgs) -> Outcome {
    let client = cx.client()?;
    // The first look before the screen is taken: what goes wrong here is told as usual.
    let first = Look::take(&client).await?;
    if cx.printer.json() {
        cx.printer.document(&first)?;
        return Ok(Exit::Done);
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(UsageError(
            "top needs a terminal; use `beadle ls`, `beadle approvals`, or `beadle --json top` for one look".to_owned(),
        )
        .into());
    }
    let colour = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // It also puts the terminal back when something panics.
    let mut terminal = ratatui::try_init()?;
    let outcome = watch(&mut terminal, &client, first, Duration::from_secs(args.interval), view::Look { colour }).await;
    ratatui::restore();
    outcome.map(|()| Exit::Done)
}

/// Reads keys and resizes on a thread of its own; ends soon after this is dropped.
struct Keys {
    events: mpsc::Receiver<Event>,
    over: Arc<AtomicBool>,
}

impl Keys {
    fn start() -> Self {
        let (send, events) = mpsc::channel(KEYS);
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match event::poll(POLL) {
                    Ok(false) => {}
                    Ok(true) => {
                        let sent = event::read().is_ok_and(|e| send.blocking_send(e).is_ok());
                        if !sent {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        });
        Self { events, over }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

async fn watch(terminal: &mut DefaultTerminal, client: &Client, first: Look, every: Duration, look: view::Look) -> anyhow::Result<()> {
    let mut keys = Keys::start();
    let mut state = State::default();
    state.seen(first);
    tell(client, &mut state).await;
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|f| view::draw(f, &state, look, SystemClock.wall_ms()))?;
        let refresh = tokio::select! {
            key = keys.events.recv() => match key {
                // The terminal is gone.
                None => return Ok(()),
                Some(Event::Key(key)) => match state.key(key) {
                    Act::Quit => return Ok(()),
                    Act::Nothing => false,
                    Act::Select => {
                        tell(client, &mut state).await;
                        false
                    }
                    Act::Answer { session, call, effect, reason } => {
                        let done = client.answer(&session, call, &ApprovalAnswer::new(effect, reason)).await;
                        state.message = Some(match done {
                            Ok(d) => format!("{} {}", d.id, d.state.as_str()),
                            Err(e) => e.to_string(),
                        });
                        true
                    }
                },
                Some(_) => false,
            },
            _ = ticks.tick() => true,
        };
        if refresh {
            match Look::take(client).await {
                Ok(seen) => {
                    state.seen(seen);
                    tell(client, &mut state).await;
                }
                Err(e) => state.trouble = Some(e.to_string()),
            }
        }
    }
}

/// Fetches the story of the selected question, once.
async fn tell(client: &Client, state: &mut State) {
    if state.story.is_none()
        && let Some(current) = state.current().cloned()
    {
        state.story = look::story(client, &current).await;
    }
}
