//! Taking attempts back: many in one append, all or none, and a checkpoint restored beside the work where that is wanted.
//!
//! Invariants: nothing of a worktree is changed or removed by it: a checkpoint goes into a folder that is new or empty; what was taken back
//! stays in the log and in every sum, marked; the same call again marks nothing twice; only sessions that have ended are touched, since the
//! log of others belongs to their task.
//!
//! Called by `api` through [`Manager`].

use std::path::{Path, PathBuf};

use super::{Error, Manager, checkpoint};
use crate::model::{Actor, Attempt, AttemptCheckpointed, AttemptRolledBack, Attempts, Event, Session, Status};
use crate::store::Batch;

/// How often an append is tried that others were faster than.
const TRIES: usize = 5;

/// Which attempts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    pub attempt: Option<u32>,
    pub agent: Option<String>,
    pub phase: Option<String>,
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenBack {
    pub session: String,
    pub attempt: u32,
    /// False: it had been taken back before.
    pub marked: bool,
}

/// The worktree that holds a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub session: String,
    pub attempt: u32,
    pub commit: String,
    pub folder: PathBuf,
}

impl Selection {
    fn holds(&self, s: &Session, a: &Attempt) -> bool {
        let agent = a.agent.as_deref().unwrap_or(&s.agent);
        let phase = a.phase.as_deref().or(s.record.phase.as_deref());
        self.attempt.is_none_or(|n| n == a.number)
            && self.agent.as_deref().is_none_or(|w| w == agent)
            && self.phase.as_deref().is_none_or(|w| Some(w) == phase)
    }
}

impl Manager {
    /// Takes back what `which` selects of these sessions. `restore`: a folder for the checkpoint that the first named session goes back to.
    pub async fn roll_back(
        &self,
        sessions: &[Session],
        which: &Selection,
        restore: Option<&Path>,
        by: &Actor,
    ) -> Result<(Vec<TakenBack>, Option<Restored>), Error> {
        let mut last = None;
        // why the checkpoint first: what cannot be restored is told before anything is marked.
        let mut restored = None;
        for _ in 0..TRIES {
            let (all, batches) = tokio::task::block_in_place(|| self.selected(sessions, which, restored.as_ref(), by))?;
            if let (Some(to), None) = (restore, &restored) {
                restored = Some(self.restore(sessions, &all, to).await?);
                continue;
            }
            if batches.is_empty() {
                return Ok((all, restored));
            }
            match self.inner.store.append_all(batches).await {
                Ok(_) => return Ok((all, restored)),
                Err(e @ crate::store::Error::Conflict { .. }) => last = Some(e),
                Err(e) => return Err(e.into()),
            }
        }
        Err(last.map_or(Error::Busy, Error::from))
    }

    /// What is selected as it stands now, and the appends that mark what is not marked yet.
    fn selected(
        &self,
        sessions: &[Session],
        which: &Selection,
        restored: Option<&Restored>,
        by: &Actor,
    ) -> Result<(Vec<TakenBack>, Vec<Batch>), Error> {
        let (mut all, mut batches) = (Vec::new(), Vec::new());
        for s in sessions {
            let s = self.inner.store.session(&s.id)?;
            if s.status != Status::Ended {
                return Err(Error::NotEnded(s.id.clone(), s.status.as_str()));
            }
            let rows = self.inner.store.attempts(&s.id)?;
            let mut events: Vec<Event> = Vec::new();
            for a in rows.0.values().filter(|a| which.holds(&s, a)) {
                let marked = a.rolled_back_at.is_none();
                all.push(TakenBack { session: s.id.to_string(), attempt: a.number, marked });
                if marked {
                    let restored_to = restored.filter(|r| r.session == s.id.as_str()).map(|r| r.folder.display().to_string());
                    events.push(AttemptRolledBack { attempt: a.number, by: by.clone(), restored_to }.into());
                }
            }
            if !events.is_empty() {
                batches.push(Batch {
                    session: s.id.clone(),
                    expected: Some(s.last_seq),
                    attempt: s.attempt.max(1),
                    at: self.inner.clock.wall_ms(),
                    events,
                    cursor: None,
                    frames: vec![],
                    blobs: vec![],
                    taken: None,
                });
            }
        }
        if all.is_empty() {
            let why = "selects no attempt of these sessions; see `beadle attempts`".to_owned();
            return Err(Error::Refused { what: "the selection".to_owned(), why });
        }
        Ok((all, batches))
    }

    /// Restores the newest checkpoint of the first session that is not itself taken back; of an attempt that was named, its own.
    async fn restore(&self, sessions: &[Session], all: &[TakenBack], to: &Path) -> Result<Restored, Error> {
        let refused = |why: String| Error::Refused { what: format!("folder {}", to.display()), why: format!("is not made: {why}") };
        let Some(s) = sessions.first() else { return Err(refused("no session is named".to_owned())) };
        if !to.is_absolute() {
            return Err(refused("its path is not absolute".to_owned()));
        }
        let rows = self.inner.store.attempts(&s.id)?;
        let taken: Vec<u32> = all.iter().filter(|t| t.session == s.id.as_str()).map(|t| t.attempt).collect();
        let a = checkpoint_before(&rows, &taken).ok_or_else(|| refused(format!("session {} has no checkpoint to go back to", s.id)))?;
        let (commit, reference, cwd) = (
            a.checkpoint.clone().unwrap_or_default(),
            a.checkpoint_ref.clone().unwrap_or_default(),
            a.worktree.clone().unwrap_or_default(),
        );
        let kept = AttemptCheckpointed { attempt: a.number, commit: commit.clone(), reference, tree: String::new(), cwd };
        let (number, folder) = (a.number, to.to_owned());
        let scratch = self.inner.run_root.join(format!("restore-{}", super::start::uuid(&self.inner)));
        let name = format!("{}-{number}", s.id);
        let made = tokio::task::spawn_blocking(move || checkpoint::restore(&kept, &folder, &scratch, &name)).await;
        made.map_err(|e| refused(e.to_string()))?.map_err(refused)?;
        Ok(Restored { session: s.id.to_string(), attempt: number, commit, folder: to.to_owned() })
    }
}

impl Manager {
    /// Keeps the worktree of a session as a commit now, as that of its newest attempt.
    pub async fn checkpoint(&self, session: &Session) -> Result<AttemptCheckpointed, Error> {
        let refused =
            |why: String| Error::Refused { what: format!("the worktree of session {}", session.id), why: format!("is not kept: {why}") };
        let (id, attempt, at) = (session.id.clone(), session.attempt.max(1), self.inner.clock.wall_ms());
        let scratch = self.inner.run_root.join(format!("checkpoint-{}", super::start::uuid(&self.inner)));
        let cwd = PathBuf::from(&session.cwd);
        let work = move || match checkpoint::make(&cwd, &scratch, &id, attempt, at)? {
            Some(made) => checkpoint::keep(&made, &id, attempt),
            None => Err(format!("{} is in no git repository", cwd.display())),
        };
        let kept = tokio::task::spawn_blocking(work).await.map_err(|e| refused(e.to_string()))?.map_err(refused)?;
        if session.status != Status::Ended {
            match self.record(&session.id, vec![kept.clone().into()]).await {
                Ok(_) => return Ok(kept),
                // It has ended meanwhile.
                Err(Error::Ended(_)) => {}
                Err(e) => return Err(e),
            }
        }
        let event = Batch {
            session: session.id.clone(),
            expected: None,
            attempt,
            at,
            events: vec![kept.clone().into()],
            cursor: None,
            frames: vec![],
            blobs: vec![],
            taken: None,
        };
        self.inner.store.append(event).await?;
        Ok(kept)
    }
}

/// The newest checkpoint before the first attempt that is taken back; where there is none, the newest that is taken back now: then what it
/// left is looked at beside the work.
fn checkpoint_before<'a>(rows: &'a Attempts, taken: &[u32]) -> Option<&'a Attempt> {
    let first = taken.iter().min().copied().unwrap_or(u32::MAX);
    let kept = || rows.0.values().rev().filter(|a| a.checkpoint.is_some());
    kept().find(|a| a.number < first && a.rolled_back_at.is_none()).or_else(|| kept().find(|a| taken.contains(&a.number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_goes_back_to_what_was_before() {
        let row = |number: u32, kept: bool| (number, Attempt { number, checkpoint: kept.then(|| "c".to_owned()), ..Attempt::default() });
        let rows = Attempts([row(1, true), row(2, true), row(3, false)].into());
        assert_eq!(checkpoint_before(&rows, &[3]).map(|a| a.number), Some(2));
        assert_eq!(checkpoint_before(&rows, &[2, 3]).map(|a| a.number), Some(1));
        assert_eq!(checkpoint_before(&rows, &[1, 2]).map(|a| a.number), Some(2), "nothing is before it");
        assert_eq!(checkpoint_before(&Attempts::default(), &[1]), None);
    }
}
