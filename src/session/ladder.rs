//! Attempts in a row: what is done when an agent has ended by itself in a session with a plan, until the next one starts or the session ends.
//!
//! | stage | what holds | left by |
//! | --- | --- | --- |
//! | running | an agent works | its end |
//! | judging | no agent; its worktree is kept as a commit, the verifier command runs ([`verify`]) | `attempt_verified`, and then one of the next two |
//! | waiting | `attempt_ended` and `attempt_scheduled` are on record; nothing runs | its time: the next agent starts ([`again`]) |
//! | lost | as waiting, for the one restart of [`restart`] | |
//! | ended | `attempt_ended` (final) and `session_ended` | |
//!
//! Invariants:
//! - judging is not on record: a daemon that dies in it finds the agent ended and begins it again, with the verifier that runs, and the
//!   same worktree gives the same commit;
//! - waiting is on record with its time, so it goes on after any daemon's death, and an attempt starts once;
//! - who stopped the session, a breach and a passed limit end it whatever the plan says, and a lost agent but for a restart;
//! - a verifier's processes are the session's: they have its role, and end with a stop of it.
//!
//! Called by `run` and `park` (an agent's end), `finish` and `timers`.

use std::ffi::OsString;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::park::stage::Stage;
use super::run::{Runner, told};
use super::{checkpoint, failpoint, finish, live, relaunch};
use crate::model::{
    AttemptCheckpointed, AttemptEnded, AttemptVerified, AttemptsPlanned, Checkpointing, Event, Note, Outcome, PlannedVerifier,
    PromptContext, SessionId, Verdict,
};
use crate::process::ExitRecord;

mod again;
pub(super) mod kept;
mod restart;
mod state;
mod verify;

pub(super) use state::Ladder;
pub(super) use verify::{exit as run_exit, from_a_word, kill as end_run};

/// The end of an attempt, before what follows from it is decided.
pub(super) struct Concluded {
    pub outcome: Outcome,
    pub reason: Option<String>,
    pub report: Option<String>,
}

/// What the task knows of an attempt that is over.
#[derive(Default)]
pub(super) struct Climb {
    concluded: Option<Concluded>,
    judging: Option<Judging>,
    /// The agent was stopped because its time was over.
    pub timed_out: bool,
    asked: Option<Asked>,
}

/// What was found out beside the next attempt's prompt, so that nobody is asked anew where only the start has to be tried again.
struct Asked {
    prompt: String,
    generation: u64,
    events: Vec<Event>,
    context: Vec<PromptContext>,
}

struct Judging {
    record: ExitRecord,
    end: Concluded,
    done: oneshot::Receiver<Done>,
    cancel: watch::Sender<bool>,
}

/// What was found out beside the task.
struct Done {
    ran: Option<verify::Ran>,
    checkpoint: Option<Result<Option<AttemptCheckpointed>, String>>,
}

/// What the task does next.
pub(super) enum Step {
    On,
    /// The session ends with this attempt.
    Finish(Box<ExitRecord>),
    /// It ends between two, with the reason where that is not an operator's.
    Away(Option<String>),
}

/// A worktree to keep.
struct Snapshot {
    cwd: std::path::PathBuf,
    scratch: std::path::PathBuf,
    id: SessionId,
    attempt: u32,
    at: i64,
    always: bool,
}

impl Climb {
    /// The end that was settled already.
    pub fn take(&mut self) -> Option<Concluded> {
        self.concluded.take()
    }

    pub fn is_judging(&self) -> bool {
        self.judging.is_some()
    }

    /// Resolves when what runs beside the task has ended. Cancel-safe.
    pub async fn examined(&mut self) -> Option<Examined> {
        match &mut self.judging {
            Some(j) => {
                let done = (&mut j.done).await.ok();
                Some(Examined(done))
            }
            None => std::future::pending().await,
        }
    }
}

pub(super) struct Examined(Option<Done>);

impl Runner {
    /// The agent of an attempt has ended: true when the session goes on without it for now.
    pub(super) async fn climbs(&mut self, record: &ExitRecord) -> bool {
        let Some(plan) = self.live.ladder.plan.clone() else { return false };
        if self.climb.concluded.is_some() || self.is_usurped {
            return false;
        }
        let end = self.conclude(record).await;
        self.commit().await;
        let good = matches!(end.outcome, Outcome::Succeeded | Outcome::Exited) && self.ends_by_itself();
        let verifier = plan.verifier.clone().filter(|_| good);
        let always = plan.checkpoint == Checkpointing::Always.as_str() && self.ends_by_itself();
        let keeps = always || (good && plan.checkpoint == Checkpointing::Success.as_str());
        if verifier.is_none() && !keeps {
            return self.follow(record, end).await;
        }
        failpoint::hit("examining");
        let job = verifier.map(|v| self.job(&plan, &v)).transpose();
        let job = match job {
            Ok(job) => job,
            Err(why) => {
                let end = Concluded { outcome: Outcome::Failed, reason: Some(why), report: end.report };
                self.climb.concluded = Some(end);
                return false;
            }
        };
        let dir = self.inner.run_dir(&self.id, self.session.attempt);
        let snapshot = keeps.then(|| Snapshot {
            cwd: self.session.cwd.clone().into(),
            scratch: dir.join("checkpoint"),
            id: self.id.clone(),
            attempt: self.session.attempt,
            at: record.ended_wall_ms,
            always,
        });
        let (cancel, cancelled) = watch::channel(false);
        let (done, when_done) = oneshot::channel();
        // why kept where one runs: its processes have the session's role by that entry.
        let goes_on = verifier_dir(&dir).exists();
        tokio::spawn(async move {
            if let Some(found) = examine(job, snapshot, cancelled).await {
                // why ignored: the session may have ended meanwhile.
                let _ = done.send(found);
            }
        });
        self.climb.judging = Some(Judging { record: *record, end, done: when_done, cancel });
        self.without_agent(Stage::Judging, !goes_on);
        true
    }

    fn ends_by_itself(&self) -> bool {
        self.ending.is_none() && self.limits.over.is_none()
    }

    fn job(&self, plan: &AttemptsPlanned, v: &PlannedVerifier) -> Result<verify::Job, String> {
        let kept = again::kept(&self.inner, &self.id, plan)?;
        let mut env: Vec<(OsString, OsString)> = kept.env.iter().map(|(k, v)| (k.into(), v.into())).collect();
        env.push(("BEADLE_ATTEMPT".into(), self.session.attempt.to_string().into()));
        if let Some(tier) = self.live.ladder.tier() {
            env.push(("BEADLE_TIER".into(), tier.name.clone().into()));
        }
        Ok(verify::Job {
            inner: self.inner.clone(),
            id: self.id.clone(),
            dir: verifier_dir(&self.inner.run_dir(&self.id, self.session.attempt)),
            command: kept.verifier.ok_or("the plan that was kept has no verifier")?,
            env,
            cwd: kept.cwd.into(),
            umask: kept.umask,
            deadline: Duration::from_millis(v.deadline_ms),
        })
    }

    /// What was found out of an attempt is put on record, with what follows. Some when that is the session's end.
    pub(super) async fn examined(&mut self, found: Examined) -> Option<ExitRecord> {
        let Judging { record, mut end, .. } = self.climb.judging.take()?;
        let Done { ran, checkpoint } = found.0.unwrap_or(Done {
            ran: Some((Verdict::Error("what judges the attempt ended abnormally; see `beadle host logs`".to_owned()), None, None)),
            checkpoint: None,
        });
        if let Some((verdict, run, blob)) = ran {
            let said = live::cut(verdict.text(), 1024);
            (end.outcome, end.reason) = match &verdict {
                Verdict::Accept => (Outcome::Succeeded, None),
                Verdict::Escalate(_) => (Outcome::Failed, Some(colon("the verifier does not accept the attempt", &said))),
                Verdict::Error(_) => (Outcome::Failed, Some(colon("the attempt could not be verified", &said))),
            };
            self.live.moments.verdict = Some(verdict.clone());
            let round = self.live.moments.round;
            let event = AttemptVerified { verdict, round, given: false, not_given: None, answers: vec![], verifier: run };
            self.pending.events.push(event.into());
            self.pending.blobs.extend(blob);
        }
        match checkpoint {
            Some(Ok(Some(kept))) => self.pending.events.push(kept.into()),
            Some(Err(why)) => {
                let text = format!("the worktree was not kept as a commit: {}", live::cut(&why, 1024));
                self.pending.events.push(Note { text }.into());
            }
            Some(Ok(None)) | None => {}
        }
        if self.follow(&record, end).await { None } else { Some(record) }
    }

    /// Schedules the attempt that follows; false where none does, and the end is settled.
    async fn follow(&mut self, record: &ExitRecord, end: Concluded) -> bool {
        let mut spread = [0u8; 8];
        self.inner.entropy.fill(&mut spread);
        let (number, now) = (self.session.attempt, self.inner.clock.wall_ms());
        let why = end.reason.clone().unwrap_or_else(|| finish::how(end.outcome, record));
        let verdict = self.live.moments.verdict.as_ref();
        let next = self.live.ladder.after(number, end.outcome, verdict, &why, now, u64::from_le_bytes(spread));
        let Some(next) = next.filter(|_| self.ends_by_itself() && !self.is_usurped && !self.is_breached_late()) else {
            self.climb.concluded = Some(end);
            return false;
        };
        let ended = finish::attempt_ended(end.outcome, record, end.reason);
        // why not of one that is started again although it was good: that is no judgement of it.
        let good = matches!(end.outcome, Outcome::Succeeded | Outcome::Exited)
            && self.live.moments.verdict.as_ref().is_none_or(|v| *v == Verdict::Accept);
        let ended = if good { ended } else { AttemptEnded { success: Some(false), error: Some(live::cut(&why, 1024)), ..ended } };
        self.schedule(ended, next).await;
        true
    }

    /// The agent has gone: nothing is read, nothing told. `entry`: for others, too.
    pub(super) fn without_agent(&mut self, stage: Stage, entry: bool) {
        self.live.parking.stage = stage;
        self.input_closed = true;
        (self.shim, self.shim_events) = crate::process::ShimHandle::gone(&self.inner.run_dir(&self.id, self.session.attempt));
        if entry && let Some(entry) = self.inner.live().get_mut(&self.id) {
            entry.shim = self.shim.clone();
        }
    }

    /// What is due between two attempts, and when the time of one is over.
    pub(super) async fn climb_on(&mut self) -> Step {
        if !self.live.ladder.is_planned() {
            return Step::On;
        }
        if self.ending.is_some()
            && let Some(mut judging) = self.climb.judging.take()
        {
            // why ignored: a job that has ended needs no word.
            let _ = judging.cancel.send(true);
            let _ = (&mut judging.done).await;
            judging.end.outcome = self.outcome(&judging.record);
            judging.end.reason = Some("it was ended while its attempt was judged".to_owned());
            self.climb.concluded = Some(judging.end);
            return Step::Finish(Box::new(judging.record));
        }
        if self.live.parking.stage == Stage::Waiting {
            if self.ending.is_some() {
                return Step::Away(None);
            }
            return self.wait().await;
        }
        if self.tier_due().is_some_and(|t| t <= Instant::now()) {
            self.climb.timed_out = true;
            let ms = self.live.ladder.tier().and_then(|t| t.time_ms).unwrap_or_default();
            self.pending.events.push(Note { text: format!("the attempt has taken the {ms} ms of its tier, and is ended") }.into());
            self.commit().await;
            told(&self.id, self.shim.stop(Duration::from_millis(self.config.grace_ms)).await);
        }
        Step::On
    }

    /// When something is due here without anything being said.
    pub(super) fn climb_due(&self) -> Option<Instant> {
        let waits = self.live.parking.stage == Stage::Waiting && !self.session.is_held();
        self.next_attempt_at().filter(|_| waits).or_else(|| self.tier_due())
    }

    fn tier_due(&self) -> Option<Instant> {
        if self.climb.timed_out || self.ending.is_some() || self.live.parking.stage != Stage::Running {
            return None;
        }
        let ms = self.live.ladder.tier()?.time_ms?;
        self.attempt_at(ms)
    }
}

/// `what: more`, or only what.
fn colon(what: &str, more: &str) -> String {
    if more.trim().is_empty() { what.to_owned() } else { format!("{what}: {more}") }
}

/// Keeps the worktree, judges, and names the commit where the attempt is good. None: it was cancelled.
async fn examine(job: Option<verify::Job>, snapshot: Option<Snapshot>, mut cancelled: watch::Receiver<bool>) -> Option<Done> {
    let made = match snapshot {
        Some(s) => {
            let making = tokio::task::spawn_blocking(move || (checkpoint::make(&s.cwd, &s.scratch, &s.id, s.attempt, s.at), s));
            tokio::select! {
                made = making => Some(made.map_err(|e| e.to_string())),
                // why not waited for: it may take its minute. What it makes has no name, and is git's to clear away.
                () = verify::cancelled(&mut cancelled) => return None,
            }
        }
        None => None,
    };
    let ran = match job {
        Some(job) => Some(verify::run(job, cancelled).await?),
        None => None,
    };
    let accepted = ran.as_ref().is_none_or(|r| r.0 == Verdict::Accept);
    let checkpoint = match made {
        None => None,
        Some(Err(e)) => Some(Err(e)),
        Some(Ok((_, s))) if !accepted && !s.always => None,
        Some(Ok((Err(e), _))) => Some(Err(e)),
        Some(Ok((Ok(None), _))) => Some(Ok(None)),
        Some(Ok((Ok(Some(made)), s))) => {
            let kept = tokio::task::spawn_blocking(move || checkpoint::keep(&made, &s.id, s.attempt)).await;
            Some(kept.unwrap_or_else(|e| Err(e.to_string())).map(Some))
        }
    };
    failpoint::hit("checkpointed");
    Some(Done { ran, checkpoint })
}

/// Where the verifier of an attempt runs.
pub(super) fn verifier_dir(attempt_dir: &std::path::Path) -> std::path::PathBuf {
    attempt_dir.join("verify")
}

/// What was judged is on record: the verifier's own files are of no more use, and nothing of them is to be found later.
pub(super) fn clear(attempt_dir: &std::path::Path) {
    for name in ["verify", "checkpoint"] {
        let dir = attempt_dir.join(name);
        if dir.exists()
            && let Err(e) = std::fs::remove_dir_all(&dir)
        {
            tracing::warn!(path = %dir.display(), error = %e, "what judged an attempt stays");
        }
    }
}

/// The session ends, or has: nothing of its plan is started.
pub(super) fn forget(run_dir: &std::path::Path) {
    relaunch::forget_file(run_dir, kept::FILE);
}
