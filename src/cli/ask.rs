//! Questions to the person at the terminal, and `approve` / `deny` from elsewhere.
//!
//! - what was typed before a question was shown never answers it;
//! - a process in the background, or without a terminal, does not ask.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::os::fd::AsRawFd;

use tokio::sync::mpsc;

use super::args::AnswerArgs;
use super::exit::Exit;
use super::text::safe;
use super::{Context, Outcome};
use crate::api::types::ApprovalAnswer;
use crate::model::Effect;

/// Longest line read from the terminal, in bytes.
const LINE_MAX: u64 = 4096;
/// Lines that may wait to be read.
const QUEUE: usize = 16;

/// Lines typed at the controlling terminal.
pub struct Terminal {
    tty: File,
    lines: Option<mpsc::Receiver<String>>,
}

impl Terminal {
    /// The terminal, where this process may ask on it: standard error shows there and we are in the foreground.
    pub fn open() -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let tty = File::open("/dev/tty").ok()?;
        // SAFETY: both calls read kernel state; the descriptor is open for the call.
        let (front, own) = unsafe { (libc::tcgetpgrp(tty.as_raw_fd()), libc::getpgrp()) };
        (front == own).then_some(Self { tty, lines: None })
    }

    /// Forgets what was typed so far; call it when a question has been shown.
    pub fn forget(&mut self) {
        // SAFETY: discards input of a terminal that we hold open; failure changes nothing.
        unsafe { libc::tcflush(self.tty.as_raw_fd(), libc::TCIFLUSH) };
        if let Some(lines) = &mut self.lines {
            while lines.try_recv().is_ok() {}
        }
    }

    /// The next line; `None` when the terminal is gone. Dropping the future loses nothing.
    pub async fn line(&mut self) -> Option<String> {
        if self.lines.is_none() {
            self.lines = self.read();
        }
        match &mut self.lines {
            Some(lines) => lines.recv().await,
            None => None,
        }
    }

    /// A thread of its own: a read of a terminal cannot be cancelled, and must not hold the runtime.
    fn read(&self) -> Option<mpsc::Receiver<String>> {
        let mut reader = BufReader::new(self.tty.try_clone().ok()?);
        let (sender, receiver) = mpsc::channel(QUEUE);
        std::thread::spawn(move || {
            loop {
                let mut line = Vec::new();
                match (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line) {
                    Ok(n) if n > 0 => {}
                    _ => return,
                }
                if sender.blocking_send(String::from_utf8_lossy(&line).trim().to_owned()).is_err() {
                    return;
                }
            }
        });
        Some(receiver)
    }
}

/// `y`, `yes`, `n`, `no`, each with a reason behind it; anything else is no answer.
pub fn parse(line: &str) -> Option<ApprovalAnswer> {
    let (word, reason) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
    let effect = match word.to_ascii_lowercase().as_str() {
        "y" | "yes" => Effect::Allow,
        "n" | "no" => Effect::Deny,
        _ => return None,
    };
    Some(ApprovalAnswer { effect, reason: reason.trim().to_owned() })
}

/// Allows one pending call.
pub async fn approve(cx: &mut Context, args: AnswerArgs) -> Outcome {
    answer(cx, args, Effect::Allow).await
}

/// Denies one pending call.
pub async fn deny(cx: &mut Context, args: AnswerArgs) -> Outcome {
    answer(cx, args, Effect::Deny).await
}

async fn answer(cx: &mut Context, args: AnswerArgs, effect: Effect) -> Outcome {
    let doc = cx.client()?.answer(&args.approval, &ApprovalAnswer { effect, reason: args.reason }).await?;
    if cx.printer.json() {
        cx.printer.document(&doc)?;
    } else {
        let word = if doc.effect == Effect::Allow { "allowed" } else { "denied" };
        cx.printer.line(&format!("{} {word}", safe(&doc.id)))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_word_is_an_answer() {
        let yes = |r: &str| Some(ApprovalAnswer { effect: Effect::Allow, reason: r.into() });
        let no = |r: &str| Some(ApprovalAnswer { effect: Effect::Deny, reason: r.into() });
        assert_eq!(
            [parse("y"), parse(" YES  once only "), parse("n"), parse("no not now")],
            [yes(""), yes("once only"), no(""), no("not now")]
        );
        assert_eq!([parse(""), parse("yy"), parse("yn"), parse("maybe"), parse("?")], [None, None, None, None, None]);
    }
}
