//! `beadle top`: live sessions and the questions that wait, on a whole screen, answered by key.
//!
//! Invariants: at most the caps of `look` are fetched at a time; the terminal is put back on every way out, a panic included (`screen`);
//! nothing is answered that was not on the screen; a yes takes the same road as `beadle approve`, and a session goes on as by `beadle
//! resume`: where `operator.confirm` wants a proof, the ordinary screen comes back for it, and nobody else reads the keys meanwhile.

mod look;
mod screen;
mod state;
mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::approvals::second;
use super::args::TopArgs;
use super::confirm::confirmed;
use super::exit::{Exit, UsageError};
use super::text::brief;
use super::{Context, Outcome};
use crate::api::client::{self, Client};
use crate::api::types::{ApprovalAnswer, PauseRequest, SessionDoc};
use crate::model::{Clock, Effect, SystemClock};
use look::Look;
use screen::Screen;
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
    let mut screen = Screen::take()?;
    watch(cx, &mut screen, &client, first, Duration::from_secs(args.interval), view::Look { colour }).await?;
    Ok(Exit::Done)
}

/// Reads keys and resizes on a thread of its own; ends soon after this is dropped.
struct Keys {
    events: mpsc::Receiver<Event>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keys {
    fn start() -> Self {
        let (send, events) = mpsc::channel(KEYS);
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
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
        Self { events, over, thread: Some(thread) }
    }

    /// From here on nothing that is typed goes to this reader.
    async fn stop(mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.events.close();
        if let Some(thread) = self.thread.take() {
            // why ignore: a reader that panicked reads no more either.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

async fn watch(
    cx: &mut Context,
    screen: &mut Screen,
    client: &Client,
    first: Look,
    every: Duration,
    look: view::Look,
) -> anyhow::Result<()> {
    let mut keys = Keys::start();
    let mut state = State::default();
    state.seen(first);
    tell(client, &mut state).await;
    let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        screen.draw(|f| view::draw(f, &state, look, SystemClock.wall_ms()))?;
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
                        let answer = ApprovalAnswer::new(effect, reason);
                        let done = if effect == Effect::Allow && proof_is_wanted(client).await {
                            keys.stop().await;
                            screen.lend()?;
                            let done = prove(cx, async |client| client.answer(&session, call, &answer).await).await;
                            screen.back()?;
                            keys = Keys::start();
                            done
                        } else {
                            client.answer(&session, call, &answer).await.map_err(Into::into)
                        };
                        state.message = Some(match done {
                            Ok(d) if d.answer.is_none() => format!("{} {}", d.id, second(&d)),
                            Ok(d) => format!("{} {}", d.id, d.state.as_str()),
                            Err(e) => format!("{e:#}"),
                        });
                        true
                    }
                    Act::Pause { session } => {
                        let request = PauseRequest { mode: None, reason: None };
                        let done = client.pause(&session, &request).await.map_err(Into::into);
                        state.message = Some(stands(done));
                        true
                    }
                    Act::Resume { session, breached } => {
                        let done = if breached && proof_is_wanted(client).await {
                            keys.stop().await;
                            screen.lend()?;
                            let done = prove(cx, async |client| client.resume(&session).await).await;
                            screen.back()?;
                            keys = Keys::start();
                            done
                        } else {
                            client.resume(&session).await.map_err(Into::into)
                        };
                        state.message = Some(stands(done));
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

/// How a session stands after it was told to pause or to go on.
fn stands(told: anyhow::Result<SessionDoc>) -> String {
    match told {
        Ok(d) => match &d.pause {
            Some(p) => format!("{} is paused ({}); p lets it go on", brief(&d.name, 60), p.mode.as_str()),
            None => format!("{} goes on", brief(&d.name, 60)),
        },
        Err(e) => format!("{e:#}"),
    }
}

/// Whether a yes must be proved. Asked before it is sent: the daemon writes its code on the screen that is there then.
async fn proof_is_wanted(client: &Client) -> bool {
    // why: who cannot be asked for it gives its own error to the answer, too.
    client.operator().await.is_ok_and(|o| o.confirm != "none")
}

/// What needs a proof, with it, on the ordinary screen; Ctrl-C takes it back.
async fn prove<T>(cx: &mut Context, send: impl AsyncFn(&Client) -> Result<T, client::Error>) -> anyhow::Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        done = confirmed(cx, None, send) => done,
        _ = interrupt.recv() => Err(UsageError("nothing was sent".to_owned()).into()),
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
