//! Questions to the person at the terminal.
//!
//! - what was typed before a question was shown never answers it;
//! - a process in the background, or without a terminal, does not ask;
//! - who stops asking takes nothing of what is typed afterwards.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, PipeReader, PipeWriter, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;

use crate::api::types::{AlwaysReach, AlwaysRequest, ApprovalAnswer};
use crate::model::Effect;

/// Longest line read from the terminal, in bytes.
const LINE_MAX: usize = 4096;
/// Lines that may wait to be read.
const QUEUE: usize = 16;

/// Lines typed at the controlling terminal.
pub struct Terminal {
    tty: File,
    reader: Option<Reader>,
}

impl Terminal {
    /// The terminal, where this process may ask on it: standard error shows there and we are in the foreground.
    pub fn open() -> Option<Self> {
        if !std::io::stderr().is_terminal() {
            return None;
        }
        let tty = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/tty").ok()?;
        // SAFETY: both calls read kernel state; the descriptor is open for the call.
        let (front, own) = unsafe { (libc::tcgetpgrp(tty.as_raw_fd()), libc::getpgrp()) };
        (front == own).then_some(Self { tty, reader: None })
    }

    /// Forgets what was typed so far; call it when a question has been shown.
    pub fn forget(&mut self) {
        // SAFETY: discards input of a terminal that we hold open; failure changes nothing.
        unsafe { libc::tcflush(self.tty.as_raw_fd(), libc::TCIFLUSH) };
        if let Some(reader) = &mut self.reader {
            while reader.lines.try_recv().is_ok() {}
        }
    }

    /// The next line; `None` when the terminal is gone. Dropping the future loses nothing.
    pub async fn line(&mut self) -> Option<String> {
        if self.reader.is_none() {
            self.reader = Reader::start(self.tty.try_clone().ok()?);
        }
        match &mut self.reader {
            Some(reader) => reader.lines.recv().await,
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
}

/// Reads lines on a thread of its own, which has ended once this is dropped.
struct Reader {
    lines: mpsc::Receiver<String>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn start(tty: File) -> Option<Self> {
        let (stopped, stop) = std::io::pipe().ok()?;
        let (sender, lines) = mpsc::channel(QUEUE);
        let thread = std::thread::spawn(move || read(tty, &stopped, &sender));
        Some(Self { lines, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Closed before the pipe: a full queue must not hold the thread that is waited for.
        self.lines.close();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // why ignore: a reader that panicked reads no more either.
            let _ = thread.join();
        }
    }
}

/// Reads until the other end of `stopped` is closed. The terminal is open without blocking, so between two lines it only waits in `poll`.
fn read(mut tty: File, stopped: &PipeReader, lines: &mpsc::Sender<String>) {
    let send = |line: &[u8]| lines.blocking_send(String::from_utf8_lossy(line).trim().to_owned()).is_ok();
    let mut held = Vec::new();
    let mut buf = [0u8; LINE_MAX];
    loop {
        let mut fds = [PollFd::new(&tty, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        match tty.read(&mut buf) {
            Ok(n @ 1..) => held.extend_from_slice(buf.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            // The end of input ends the line that was begun.
            Ok(_) if !held.is_empty() => {
                send(&held);
                return;
            }
            _ => return,
        }
        while let Some(end) = held.iter().position(|b| *b == b'\n').map(|i| i + 1).or((held.len() >= LINE_MAX).then_some(LINE_MAX)) {
            let line: Vec<u8> = held.drain(..end).collect();
            if !send(&line) {
                return;
            }
        }
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
