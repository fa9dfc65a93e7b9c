//! The session loop: one poll over signals, the daemon, and the agent's three streams.
//!
//! Invariants:
//! - output is written to its segment before the daemon hears of it;
//! - a gated agent whose unread output is at the cap, or whose segment cannot be written, is not read: it blocks;
//! - the exit record is written when the agent is dead, its tree is dead (or left on purpose) and its streams are drained;
//! - a removed run folder ends everything: what cannot be recorded must not run;
//! - the lock is held until the record is durable and the daemon has taken it, is gone, or was waited for long enough.
//!
//! Called by `main`.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, RawFd};
use std::process::ExitCode;

use crate::link::{self, Link};
use crate::record;
use crate::setup::{self, Running};
use crate::stream::Stream;
use crate::sys::{self, Scratch};
use crate::tree;
use crate::wire::{EndedBy, ExitRecord, FromShim, Frozen, ProcessId, Status, ToShim};

/// How long descendants that hold the dead agent's output may go on, in milliseconds.
const DRAIN_MS: u64 = 200;
/// Between two tries to write to a full disk, or to kill what does not die, in milliseconds.
const RETRY_MS: u64 = 250;
/// Grace when the machine shuts down (SIGTERM to the shim itself), in milliseconds.
const SHUTDOWN_GRACE_MS: u64 = 5_000;
/// Quiet time after which the read buffer's pages are given back, in milliseconds.
const QUIET_MS: u64 = 200;
/// Between two looks whether the run folder is still there while no daemon listens and nothing is said, in milliseconds.
const LOOK_MS: u64 = 5_000;
/// Tries at killing the tree of a dead agent before its rest is reported as left.
const KILL_TRIES: u32 = 3;
/// Reads of one stream before the others get their turn.
const READS_A_TURN: usize = 4;
/// Last reads of a dead agent's stream, when somebody outside its tree still writes to it.
const LAST_READS: usize = 1024;

/// How the agent ended, and when.
struct Dead {
    status: libc::c_int,
    usage: libc::rusage,
    wall_ms: i64,
    boot_ms: u64,
}

struct Session {
    run: Running,
    out: Stream,
    err: Stream,
    link: Option<Link>,
    scratch: Scratch,
    acked: u64,
    dead: Option<Dead>,
    /// wait4 said that no child is left.
    childless: bool,
    ended_by: EndedBy,
    /// Whether the tree was told to stop, and did; with those that we stopped.
    frozen: Frozen,
    stopped: BTreeSet<ProcessId>,
    /// When the tree is killed, on the boot clock.
    kill_at: Option<u64>,
    kill_tries: u32,
    /// The tree is dead, left on purpose, or given up on.
    settled: bool,
    left: u32,
    record: Option<ExitRecord>,
    record_told: bool,
    record_acked: bool,
    linger_until: u64,
    retry_at: Option<u64>,
    is_abandoned: bool,
    told: (u64, u64),
    told_blocked: i32,
}

/// Runs one agent. Exit code 0 after an exit record was written, 1 when no agent could be started.
pub fn main() -> ExitCode {
    let (Ok(socket), Ok(scratch)) = (setup::take_launch_socket(), Scratch::new()) else { return ExitCode::FAILURE };
    match setup::start(&socket) {
        Ok((run, out, err)) => {
            Session::new(run, out, err, Link::new(socket), scratch).serve();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            sys::write_all_to(socket.as_raw_fd(), &FromShim::Failed(failure).encode());
            ExitCode::FAILURE
        }
    }
}

impl Session {
    fn new(run: Running, out: Stream, err: Stream, link: Link, scratch: Scratch) -> Self {
        Self {
            run,
            out,
            err,
            link: Some(link),
            scratch,
            acked: 0,
            dead: None,
            childless: false,
            ended_by: EndedBy::Itself,
            frozen: Frozen::No,
            stopped: BTreeSet::new(),
            kill_at: None,
            kill_tries: 0,
            settled: false,
            left: 0,
            record: None,
            record_told: false,
            record_acked: false,
            linger_until: 0,
            retry_at: None,
            is_abandoned: false,
            told: (0, 0),
            told_blocked: 0,
        }
    }

    fn serve(mut self) {
        self.greet();
        while !self.is_over() {
            self.turn();
            self.settle();
            self.tell();
        }
        // The name is of no use to anyone now; the lock goes with the process.
        let _ = sys::unlinkat(self.run.dir.as_raw_fd(), c"s");
    }

    fn is_over(&self) -> bool {
        self.is_abandoned || self.record.is_some() && (self.record_acked || self.link.is_none() || sys::boot_ms() >= self.linger_until)
    }

    /// Waits once and handles what is ready.
    fn turn(&mut self) {
        let link = self.link.as_ref().map(|l| (l.fd(), if l.has_unsent() { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN }));
        let out = self.out.wants_read().filter(|_| self.may_read_out());
        let entry = |fd: Option<RawFd>, events| libc::pollfd { fd: fd.unwrap_or(-1), events, revents: 0 };
        let mut fds = [
            entry(Some(self.run.signals.as_raw_fd()), libc::POLLIN),
            entry(Some(self.run.listener.as_raw_fd()), libc::POLLIN),
            entry(link.map(|l| l.0), link.map_or(0, |l| l.1)),
            entry(out, libc::POLLIN),
            entry(self.err.wants_read(), libc::POLLIN),
            entry(self.run.input.wants_write(), libc::POLLOUT),
        ];
        if sys::poll(&mut fds, self.timeout()) == 0 {
            self.scratch.release();
            // why only without a daemon: it would have removed the folder itself, after the end.
            if self.link.is_none() && sys::is_removed(&self.run.dir) {
                self.abandon();
                return;
            }
        }
        let [signals, listener, link, out, err, input] = fds.map(|f| f.revents != 0);
        if signals {
            self.take_signals();
        }
        if link {
            self.hear();
        }
        for _ in 0..if out { READS_A_TURN } else { 0 } {
            if !(self.may_read_out() && self.out.pump(&mut self.scratch)) {
                break;
            }
        }
        for _ in 0..if err { READS_A_TURN } else { 0 } {
            if !self.err.pump(&mut self.scratch) {
                break;
            }
        }
        if input {
            self.run.input.pump();
        }
        if listener {
            self.accept();
        }
        self.make_room();
    }

    /// Milliseconds until something is due; -1 when nothing is.
    fn timeout(&self) -> libc::c_int {
        let now = sys::boot_ms();
        let due = [
            self.kill_at.filter(|_| !self.settled),
            self.retry_at,
            self.record.map(|_| self.linger_until),
            self.scratch.is_used().then_some(now + QUIET_MS),
            self.link.is_none().then_some(now + LOOK_MS),
        ];
        let next = due.into_iter().flatten().min();
        next.map_or(-1, |at| libc::c_int::try_from(at.saturating_sub(now)).unwrap_or(libc::c_int::MAX))
    }

    fn may_read_out(&self) -> bool {
        !self.run.spec.gated || self.settled || self.out.total() - self.acked < self.run.spec.limits.unread_bytes
    }

    fn take_signals(&mut self) {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        while let Ok(n) = sys::read(self.run.signals.as_raw_fd(), &mut info)
            && n == info.len()
        {
            // The number is the first field of the structure.
            if u32::from_ne_bytes([info[0], info[1], info[2], info[3]]) == libc::SIGTERM.unsigned_abs() {
                self.stop(SHUTDOWN_GRACE_MS);
            }
        }
        self.reap();
    }

    fn reap(&mut self) {
        self.childless = !reap(self.run.agent.pid, &mut self.dead);
    }

    fn accept(&mut self) {
        while let Ok(fd) = sys::accept(&self.run.listener) {
            if link::peer_is_welcome(&fd) {
                self.link = Some(Link::new(fd));
                self.greet();
            }
        }
    }

    fn greet(&mut self) {
        let status = self.status();
        self.told = (status.out_bytes, status.err_bytes);
        self.told_blocked = status.blocked;
        self.record_told = false;
        self.send(&FromShim::Status(status));
    }

    fn status(&self) -> Status {
        Status {
            shim: self.run.shim,
            agent: self.run.agent,
            taken: self.run.input.last(),
            out_bytes: self.out.total(),
            err_bytes: self.err.total(),
            acked: self.acked,
            blocked: self.blocked(),
            ended: self.dead.is_some(),
            frozen: self.frozen,
        }
    }

    fn blocked(&self) -> i32 {
        match self.out.blocked() {
            0 => self.err.blocked(),
            e => e,
        }
    }

    fn send(&mut self, frame: &FromShim) {
        if self.link.as_mut().is_some_and(|l| !l.send(frame)) {
            self.link = None;
        }
    }

    /// Reads from the daemon and does what it says.
    fn hear(&mut self) {
        let Some(link) = &mut self.link else { return };
        link.flush();
        if !link.receive(self.scratch.buf()) {
            self.link = None;
            return;
        }
        while let Some(link) = &mut self.link {
            match link.next() {
                Ok(Some(frame)) => self.obey(frame),
                Ok(None) => return,
                Err(_) => self.link = None,
            }
        }
    }

    fn obey(&mut self, frame: ToShim) {
        match frame {
            ToShim::Input { no, bytes } => {
                let answer = self.run.input.offer(no, Some(bytes));
                self.send(&answer);
            }
            ToShim::CloseInput { no } => {
                let answer = self.run.input.offer(no, None);
                self.send(&answer);
            }
            ToShim::Ack { offset } => self.acked = self.acked.max(offset.min(self.out.total())),
            ToShim::Stop { grace_ms } => self.stop(grace_ms),
            ToShim::Kill => self.kill(),
            ToShim::Status => self.send(&FromShim::Status(self.status())),
            ToShim::AckExit => self.record_acked = self.record.is_some(),
            ToShim::Freeze => self.freeze(),
            ToShim::Thaw => self.thaw(),
        }
    }

    /// Also when it is frozen already: somebody else may have let a process go on.
    fn freeze(&mut self) {
        if !self.settled && self.kill_at.is_none() {
            self.frozen = if tree::freeze(&mut self.stopped) { Frozen::Yes } else { Frozen::Partly };
        }
    }

    fn thaw(&mut self) {
        tree::thaw(&mut self.stopped);
        self.frozen = Frozen::No;
    }

    fn stop(&mut self, grace_ms: u64) {
        self.reap();
        if self.settled {
            return;
        }
        if self.dead.is_none() && self.ended_by == EndedBy::Itself {
            self.ended_by = EndedBy::Stop;
        }
        // TERM goes with CONT.
        tree::terminate();
        (self.frozen, self.stopped) = (Frozen::No, BTreeSet::new());
        let at = sys::boot_ms().saturating_add(grace_ms);
        self.kill_at = Some(self.kill_at.map_or(at, |k| k.min(at)));
    }

    fn kill(&mut self) {
        self.reap();
        if self.dead.is_none() {
            self.ended_by = EndedBy::Kill;
        }
        self.kill_at = Some(sys::boot_ms());
    }

    /// Drops old segments: what was read and is beyond the tail kept for `logs`.
    fn make_room(&mut self) {
        let retain = self.run.spec.limits.retain_bytes;
        let tail = self.out.total().saturating_sub(retain);
        self.out.drop_below(if self.run.spec.gated { tail.min(self.acked) } else { tail });
        self.err.drop_below(self.err.total().saturating_sub(retain));
    }

    /// Moves an ending on: kills what is due, drains, writes the record.
    fn settle(&mut self) {
        let now = sys::boot_ms();
        if self.retry_at.is_some_and(|t| now >= t) {
            self.retry_at = None;
            if sys::is_removed(&self.run.dir) {
                // Nothing can be written there ever again, and nobody could read it.
                self.abandon();
                return;
            }
            self.out.retry();
            self.err.retry();
        }
        if self.blocked() != 0 && self.retry_at.is_none() {
            self.retry_at = Some(now + RETRY_MS);
        }
        if self.dead.is_some() && !self.settled {
            let itself = self.ended_by == EndedBy::Itself;
            if self.childless {
                self.settled = true;
            } else if itself && self.out.is_finished() && self.err.is_finished() {
                self.kill_at = Some(now);
            } else {
                self.kill_at.get_or_insert(now + DRAIN_MS);
            }
        }
        if !self.settled && self.kill_at.is_some_and(|t| now >= t) {
            if self.dead.is_some() && self.run.spec.keep_tree && self.ended_by == EndedBy::Itself {
                self.left = tree::descendants().len() as u32;
                self.settled = true;
            } else {
                self.kill_tree();
            }
        }
        if self.settled && self.record.is_none() && self.retry_at.is_none() {
            self.finish();
        }
    }

    /// The run folder was removed: ends the tree and then the shim, without a record.
    fn abandon(&mut self) {
        self.is_abandoned = true;
        self.kill();
        while self.kill_tries < KILL_TRIES && !self.settled {
            self.kill_tries += u32::from(self.dead.is_none());
            self.kill_tree();
        }
    }

    fn kill_tree(&mut self) {
        let (agent, dead, childless) = (self.run.agent.pid, &mut self.dead, &mut self.childless);
        self.left = tree::kill(|| {
            *childless = !reap(agent, dead);
            !*childless
        });
        // The agent's own end is waited for without limit: without it there is no record.
        if self.dead.is_some() {
            self.kill_tries += 1;
            self.settled = self.left == 0 || self.kill_tries >= KILL_TRIES;
        }
        self.kill_at = Some(sys::boot_ms() + RETRY_MS);
    }

    /// Reads what is still in the sockets and writes the record.
    fn finish(&mut self) {
        for stream in [&mut self.out, &mut self.err] {
            for _ in 0..LAST_READS {
                if !stream.pump(&mut self.scratch) {
                    break;
                }
            }
        }
        let Some(dead) = &self.dead else { return };
        let micros = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs();
        let exited = libc::WIFEXITED(dead.status);
        let record = ExitRecord {
            agent: self.run.agent,
            code: exited.then(|| libc::WEXITSTATUS(dead.status)),
            signal: (!exited).then(|| libc::WTERMSIG(dead.status)),
            ended_by: self.ended_by,
            user_us: micros(dead.usage.ru_utime),
            system_us: micros(dead.usage.ru_stime),
            max_rss_kb: dead.usage.ru_maxrss.unsigned_abs(),
            ended_wall_ms: dead.wall_ms,
            started_boot_ms: self.run.started_boot_ms,
            ended_boot_ms: dead.boot_ms,
            out_bytes: self.out.total(),
            err_bytes: self.err.total(),
            left: self.left,
        };
        let is_written =
            self.blocked() == 0 && self.out.sync().is_ok() && self.err.sync().is_ok() && record::write(&self.run.dir, &record).is_ok();
        let now = sys::boot_ms();
        if is_written {
            self.record = Some(record);
            self.linger_until = now.saturating_add(self.run.spec.limits.linger_ms);
        } else {
            self.retry_at = Some(now + RETRY_MS);
        }
    }

    /// Tells the daemon what changed; a slow daemon hears the newest state, not every step.
    fn tell(&mut self) {
        if self.link.as_ref().is_none_or(Link::has_unsent) {
            return;
        }
        let written = (self.out.total(), self.err.total());
        if self.told != written {
            self.told = written;
            self.send(&FromShim::Written { out: written.0, err: written.1 });
        }
        let blocked = self.blocked();
        if self.told_blocked != blocked {
            self.told_blocked = blocked;
            self.send(&FromShim::Blocked { errno: blocked });
        }
        if self.run.input.take_ready() {
            self.send(&FromShim::Ready { last: self.run.input.last() });
        }
        if let Some(record) = self.record
            && !self.record_told
        {
            self.record_told = true;
            self.send(&FromShim::Exited(record));
        }
    }
}

/// Waits for whoever has ended; `false` when no child is left at all.
fn reap(agent: u32, dead: &mut Option<Dead>) -> bool {
    loop {
        let mut status = 0;
        // SAFETY: all zeros is a valid rusage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both are valid to write.
        match unsafe { libc::wait4(-1, &mut status, libc::WNOHANG | libc::__WALL, &mut usage) } {
            0 => return true,
            pid if pid > 0 => {
                if pid.unsigned_abs() == agent && dead.is_none() {
                    *dead = Some(Dead { status, usage, wall_ms: sys::wall_ms(), boot_ms: sys::boot_ms() });
                }
            }
            _ => return sys::errno() != libc::ECHILD,
        }
    }
}
