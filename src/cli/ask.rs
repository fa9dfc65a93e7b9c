//! Questions to the person at the terminal.
//!
//! - what was typed before a question was shown never answers it;
//! - a process in the background, or without a terminal, does not ask.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::os::fd::AsRawFd;

use tokio::sync::mpsc;

use crate::api::types::{AlwaysReach, AlwaysRequest, ApprovalAnswer};
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

    /// From here until it is dropped nothing that is typed is shown; what was typed before is forgotten. Call it before the question.
    pub fn hide(&mut self) -> Option<Hidden> {
        let hidden = Hidden::on(self.tty.try_clone().ok()?);
        self.forget();
        hidden
    }

    /// The next line, or `None` on Ctrl-C: what is hidden must be put right before the program ends.
    pub async fn line_or_interrupt(&mut self) -> Option<String> {
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).ok()?;
        tokio::select! {
            line = self.line() => line,
            _ = interrupt.recv() => None,
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

/// Echo switched off until dropped.
pub struct Hidden(File, libc::termios);

impl Hidden {
    fn on(tty: File) -> Option<Self> {
        // SAFETY: the struct is plain data that the call fills; the descriptor is open for both calls.
        unsafe {
            let mut before: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(tty.as_raw_fd(), &mut before) != 0 {
                return None;
            }
            let mut quiet = before;
            quiet.c_lflag &= !(libc::ECHO | libc::ECHOE | libc::ECHOK | libc::ECHONL);
            (libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &quiet) == 0).then_some(Self(tty, before))
        }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // SAFETY: the settings were read from this very terminal; failure leaves it as it is.
        unsafe { libc::tcsetattr(self.0.as_raw_fd(), libc::TCSANOW, &self.1) };
    }
}

/// What a typed line says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    Answer(ApprovalAnswer),
    /// The question stays in the queue; this terminal does not ask it again.
    Later,
}

/// `y`, `n`, `a` (always) and their long forms, each with a reason behind it (behind `a` also a rule), and `l`; anything else is no answer.
pub fn parse(line: &str) -> Option<Typed> {
    let (word, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
    let rest = rest.trim();
    Some(Typed::Answer(match word.to_ascii_lowercase().as_str() {
        "y" | "yes" => ApprovalAnswer::new(Effect::Allow, rest),
        "n" | "no" => ApprovalAnswer::new(Effect::Deny, rest),
        "a" | "always" => {
            let rule = rest.ends_with(')').then(|| rest.to_owned());
            let reason = if rule.is_some() { "" } else { rest };
            let always = Some(AlwaysRequest { rule, reach: AlwaysReach::Folder });
            ApprovalAnswer { always, ..ApprovalAnswer::new(Effect::Allow, reason) }
        }
        "l" | "later" if rest.is_empty() => return Some(Typed::Later),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_word_is_an_answer() {
        let yes = |r: &str| Some(Typed::Answer(ApprovalAnswer::new(Effect::Allow, r)));
        let no = |r: &str| Some(Typed::Answer(ApprovalAnswer::new(Effect::Deny, r)));
        assert_eq!(
            [parse("y"), parse(" YES  once only "), parse("n"), parse("no not now")],
            [yes(""), yes("once only"), no(""), no("not now")]
        );
        let always = |rule: Option<&str>, reason: &str| {
            let always = Some(AlwaysRequest { rule: rule.map(str::to_owned), reach: AlwaysReach::Folder });
            Some(Typed::Answer(ApprovalAnswer { always, ..ApprovalAnswer::new(Effect::Allow, reason) }))
        };
        assert_eq!(
            [parse("a"), parse("always Bash(git push:*)"), parse("a it is safe")],
            [always(None, ""), always(Some("Bash(git push:*)"), ""), always(None, "it is safe")]
        );
        assert_eq!([parse("l"), parse("later")], [Some(Typed::Later), Some(Typed::Later)]);
        assert_eq!(
            [parse(""), parse("yy"), parse("yn"), parse("maybe"), parse("l8r"), parse("later y")],
            [None, None, None, None, None, None]
        );
    }
}
