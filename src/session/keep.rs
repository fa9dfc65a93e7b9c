//! What is kept of sessions and where: archives of older events, their way back, and the erasure of what must not be kept.
//!
//! Invariants: one such act at a time; each is put in force by an event of the session's own log, which a live session's task writes;
//! what is done to the disk before that can be thrown away, what is done after it can be done again.
//!
//! Called by `api`.

use std::path::PathBuf;
use std::sync::Arc;

use super::overwrite::overwrite;
use super::{Error, Manager, failpoint};
use crate::model::{Actor, ArchiveRestored, Event, SecretRedacted, Session, SessionArchived, SessionId, Status};
use crate::store::{self, Archive, Batch, Erase, Filter, Redaction, Store};

/// Most events of one session that one request erases.
pub const ERASED_MAX: usize = 100;

/// What became of an erasure.
#[derive(Debug, Clone, Default)]
pub struct Erased {
    pub events: Vec<(u64, String)>,
    /// More events hold it: ask again.
    pub more: bool,
    /// Payloads that went with them.
    pub blobs: Vec<String>,
    /// Payloads that stay, since this event names them too.
    pub shared: Vec<(String, String, u64)>,
    /// Entries of memory that held the text, of whatever session.
    pub memories: u64,
    /// Files of the session's folder in which it was overwritten.
    pub overwritten: Vec<PathBuf>,
    /// Where it may still stand.
    pub left: Vec<String>,
    /// What should have been done and was not, with why.
    pub failed: Vec<String>,
    /// Nothing of it is left in the files of the database.
    pub scrubbed: bool,
}

impl Manager {
    /// Appends events about a session in one step, whoever writes its log.
    pub(super) async fn note_on(&self, id: &SessionId, events: Vec<Event>) -> Result<(), Error> {
        if self.inner.live().contains_key(id) {
            match self.record(id, events.clone()).await {
                Err(Error::Ended(_)) => {}
                done => return done.map(drop),
            }
        }
        let attempt = self.inner.store.session(id)?.attempt;
        let at = self.inner.clock.wall_ms();
        let batch =
            Batch { session: id.clone(), expected: None, attempt, at, events, cursor: None, frames: vec![], taken: None, blobs: vec![] };
        Ok(self.inner.store.append(batch).await.map(drop)?)
    }

    /// Moves events up to `last` to a file; by default all there are, which only an ended session may give up.
    pub async fn archive(&self, id: &SessionId, last: Option<u64>, file: Option<PathBuf>, by: Actor) -> Result<SessionArchived, Error> {
        let (manager, id) = (self.clone(), id.clone());
        self.alone(async move { manager.archive_now(&id, last, file, by).await }).await
    }

    async fn archive_now(&self, id: &SessionId, last: Option<u64>, file: Option<PathBuf>, by: Actor) -> Result<SessionArchived, Error> {
        let session = self.inner.store.session(id)?;
        if last.is_none() && session.status != Status::Ended {
            return Err(Error::NotEnded(id.clone(), session.status.as_str()));
        }
        let (store, of) = (self.inner.store.clone(), id.clone());
        let upto = last.unwrap_or(session.last_seq);
        let archive = blocking(move || store.write_archive(&of, upto, file.as_deref())).await?;
        failpoint::hit("archive_written");
        let event = SessionArchived {
            first: archive.first,
            last: archive.last,
            file: archive.file.clone(),
            digest: archive.digest.to_string(),
            bytes: archive.bytes,
            by,
        };
        let staged = self.inner.store.stage_archive(&archive).await;
        if let Err(e) = staged {
            self.inner.store.drop_file(&archive.path)?;
            return Err(e.into());
        }
        failpoint::hit("archive_staged");
        self.note_on(id, vec![event.clone().into()]).await?;
        failpoint::hit("archived");
        Ok(event)
    }

    /// The same for every session that ended before a time (milliseconds) and is not archived whole. Each answer stands for itself.
    pub async fn archive_ended(&self, before: i64, by: &Actor) -> Result<Vec<(SessionId, Result<SessionArchived, Error>)>, Error> {
        let (manager, by) = (self.clone(), by.clone());
        self.alone(async move { manager.archive_ended_now(before, &by).await }).await
    }

    async fn archive_ended_now(&self, before: i64, by: &Actor) -> Result<Vec<(SessionId, Result<SessionArchived, Error>)>, Error> {
        let mut out = Vec::new();
        for s in ended(&self.inner.store, before)? {
            let newest = self.inner.store.archives(&s.id)?.last().map_or(0, |a| a.last);
            // why not the rest: an archive leaves the event that tells of it.
            if s.last_seq <= newest + 1 {
                continue;
            }
            let done = self.archive_now(&s.id, None, None, by.clone()).await;
            out.push((s.id, done));
        }
        Ok(out)
    }

    /// Puts what was archived of a session back into the database; files in the data folder go, others stay.
    pub async fn restore_archives(&self, id: &SessionId, by: Actor) -> Result<Vec<ArchiveRestored>, Error> {
        let (manager, id) = (self.clone(), id.clone());
        self.alone(async move { manager.restore_archives_now(&id, by).await }).await
    }

    async fn restore_archives_now(&self, id: &SessionId, by: Actor) -> Result<Vec<ArchiveRestored>, Error> {
        let mut out = Vec::new();
        // why the newest first: what is in archives is always the beginning of the log.
        for a in self.inner.store.archives(id)?.into_iter().rev() {
            let event = ArchiveRestored { first: a.first, last: a.last, by: by.clone() };
            let (store, archive) = (self.inner.store.clone(), a.clone());
            blocking(move || store.restore_archive(&archive, &mut || failpoint::hit("archive_piece"))).await?;
            failpoint::hit("archive_restored");
            self.note_on(id, vec![event.clone().into()]).await?;
            if a.is_ours() {
                self.inner.store.drop_file(&a.path)?;
            }
            out.push(event);
        }
        Ok(out)
    }

    /// Erases one event, or a text from it, or the text from every event of the session (at most [`ERASED_MAX`] at a time).
    pub async fn redact(&self, id: &SessionId, seq: Option<u64>, what: Erase, reason: String, by: Actor) -> Result<Erased, Error> {
        let (manager, id) = (self.clone(), id.clone());
        self.alone(async move { manager.redact_now(&id, seq, what, reason, by).await }).await
    }

    async fn redact_now(&self, id: &SessionId, seq: Option<u64>, what: Erase, reason: String, by: Actor) -> Result<Erased, Error> {
        let session = self.inner.store.session(id)?;
        let (mut done, mut refused) = (Erased::default(), None);
        let (store, of, how) = (self.inner.store.clone(), id.clone(), what.clone());
        let found = blocking(move || {
            store.forget_pieces(Some(of.as_str()))?;
            store.check_archives(&of)?;
            match (seq, &how) {
                (Some(seq), _) => Ok(vec![seq]),
                (None, Erase::Text(text)) => store.holding(&of, text, ERASED_MAX + 1),
                (None, Erase::Whole) => Ok(vec![]),
            }
        });
        let seqs = match found.await {
            Ok(seqs) => seqs,
            Err(e) if seq.is_some() => return Err(e),
            Err(e) => {
                done.failed.push(format!("the log: {e}"));
                refused = Some(e);
                vec![]
            }
        };
        done.more = seqs.len() > ERASED_MAX;
        let one = seq.is_some();
        let seqs: Arc<[u64]> = seqs.into_iter().take(ERASED_MAX).collect();
        let mut together = Vec::new();
        for seq in seqs.iter().copied() {
            match self.redact_one(id, seq, &what, &seqs).await {
                Ok(None) => {}
                // why at once: the next event of that archive is erased from what this makes of it.
                Ok(Some(r)) if r.archive.is_some() => self.in_force(id, vec![r], (&reason, &by), &mut done, &mut refused).await,
                Ok(Some(r)) => together.push(r),
                // why not for one that was named: there the refusal is the answer.
                Err(e) if one => return Err(e),
                Err(e @ Error::Store(store::Error::NotErased { .. })) => {
                    done.left.push(format!("event {seq}: {e}"));
                    refused = refused.or(Some(e));
                }
                Err(e) => {
                    done.failed.push(format!("event {seq}: {e}"));
                    refused = refused.or(Some(e));
                }
            }
        }
        // why together: the session is folded anew once for all of them, and every other session's decisions wait for it.
        if !together.is_empty() {
            self.in_force(id, together, (&reason, &by), &mut done, &mut refused).await;
        }
        if one && let Some(e) = refused.take_if(|_| done.events.is_empty()) {
            return Err(e);
        }
        // From here on all is tried, whatever fails: the more is gone the better.
        if let (None, Erase::Text(text)) = (seq, &what) {
            match self.erase_memory(text, &by).await {
                Ok(n) => done.memories = n,
                Err(e) => done.failed.push(format!("memory: {e}")),
            }
        }
        self.drop_payloads(&mut done).await;
        self.raw(&session, &what, &mut done).await;
        failpoint::hit("redaction_finished");
        let untaken = self.inner.store.holds_untaken(id, &what)?;
        let told = untaken && self.inner.store.session(id)?.status != Status::Ended;
        if told {
            done.left.push("what its agent was told and has not taken yet; ask again once the session has ended".to_owned());
        }
        // why also where nothing was found: what an agent took since lies in pages that the database has given up.
        let asked_again = seq.is_none() && matches!(what, Erase::Text(_)) && self.inner.store.session(id)?.status == Status::Ended;
        if !done.events.is_empty() || done.memories > 0 || asked_again {
            match self.inner.store.scrub().await {
                Ok(all) => done.scrubbed = all && !told,
                Err(e) => done.failed.push(format!("the database's files: {e}")),
            }
        }
        match refused {
            Some(e) if done.events.is_empty() && done.memories == 0 && done.blobs.is_empty() && done.overwritten.is_empty() => Err(e),
            _ => Ok(done),
        }
    }

    /// Prepares and stages one erasure of several; `None` where nothing of the event is to go.
    async fn redact_one(&self, id: &SessionId, seq: u64, what: &Erase, going: &Arc<[u64]>) -> Result<Option<Redaction>, Error> {
        let (store, of, how, going) = (self.inner.store.clone(), id.clone(), what.clone(), Arc::clone(going));
        let Some(r) = blocking(move || store.prepare_redaction(&of, seq, &how, &going)).await? else { return Ok(None) };
        failpoint::hit("redaction_written");
        self.inner.store.stage_redaction(&r).await?;
        failpoint::hit("redaction_staged");
        Ok(Some(r))
    }

    /// Puts what is staged in force.
    async fn in_force(
        &self,
        id: &SessionId,
        all: Vec<Redaction>,
        (reason, by): (&str, &Actor),
        done: &mut Erased,
        refused: &mut Option<Error>,
    ) {
        if let Err(e) = self.note_on(id, all.iter().map(|r| told(r, reason, by).into()).collect()).await {
            let seqs: Vec<String> = all.iter().map(|r| r.seq.to_string()).collect();
            done.failed.push(format!("event {}: {e}", seqs.join(", ")));
            refused.get_or_insert(e);
            return;
        }
        failpoint::hit("redacted");
        for r in all {
            done.events.push((r.seq, r.kind.clone()));
            done.shared.extend(r.shared.iter().map(|(d, s, n)| (d.to_string(), s.clone(), *n)));
            let store = self.inner.store.clone();
            if let Err(e) = blocking(move || store.finish_redaction(&r)).await {
                done.failed.push(format!("the archive as it was before: {e}"));
            }
        }
    }

    /// Deletes payloads of erased events, those that an earlier erasure had to leave too.
    async fn drop_payloads(&self, done: &mut Erased) {
        let store = self.inner.store.clone();
        match blocking(move || store.drop_erased()).await {
            Ok((gone, left)) => {
                done.blobs.extend(gone.iter().map(ToString::to_string));
                done.failed.extend(left.iter().map(|(d, why)| format!("payload {d} stays: {why}")));
            }
            Err(e) => done.failed.push(format!("payloads of erased events: {e}")),
        }
    }

    /// What stands outside the log: the agent's raw output, which is overwritten once nobody writes it, older copies of the database, and
    /// files that nobody changes.
    async fn raw(&self, session: &Session, what: &Erase, done: &mut Erased) {
        let dir = self.inner.run_dir(&session.id, 1);
        if dir.is_dir() {
            match what {
                Erase::Text(text) if session.status == Status::Ended => {
                    let (text, below) = (text.clone(), dir.clone());
                    match blocking(move || Ok(overwrite(&below, &text))).await {
                        Ok(raw) => {
                            done.overwritten = raw.files;
                            done.left.extend(raw.left);
                        }
                        Err(e) => done.failed.push(format!("the agent's raw output in {}: {e}", dir.display())),
                    }
                }
                _ => done.left.push(format!("the agent's raw output in {}", dir.display())),
            }
        }
        let copies = self.inner.store.older_copies().into_iter();
        done.left.extend(copies.map(|p| format!("a copy of the database from an upgrade, {}", p.display())));
        let (store, id, since, what) = (self.inner.store.clone(), session.id.clone(), session.created_at, what.clone());
        match blocking(move || store.remains(&id, since, &what)).await {
            Ok(found) => done.left.extend(found),
            Err(e) => done.failed.push(format!("looking for other files that hold it: {e}")),
        }
    }
}

impl Manager {
    /// What erasures of an earlier run left to be done, while sessions go on. What cannot be done stays due.
    pub async fn finish_erasures(&self) {
        let store = self.inner.store.clone();
        match self.alone(async move { blocking(move || store.finish_erasures()).await }).await {
            Ok(left) => {
                for (digest, why) in left {
                    tracing::warn!(%digest, why, "a payload of an erased event stays");
                }
            }
            Err(e) => tracing::error!(code = e.code(), error = %e, "an erasure of an earlier run is not finished"),
        }
    }
}

fn told(r: &Redaction, reason: &str, by: &Actor) -> SecretRedacted {
    SecretRedacted {
        seq: r.seq,
        reason: reason.to_owned(),
        by: by.clone(),
        digest: Some(r.digest.to_string()),
        blobs: r.blobs.iter().map(ToString::to_string).collect(),
        archive: r.archive.as_ref().map(|(a, _): &(Archive, _)| a.digest.to_string()),
    }
}

/// Sessions that ended before a time, oldest first.
pub(super) fn ended(store: &Store, before: i64) -> Result<Vec<Session>, store::Error> {
    let mut filter = Filter { status: vec![Status::Ended], limit: crate::store::MAX_SESSIONS, ..Filter::default() };
    let mut out = Vec::new();
    loop {
        let page = store.sessions(&filter)?;
        out.extend(page.items.into_iter().filter(|s| s.ended_at.is_some_and(|t| t < before)));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            out.sort_by_key(|s| s.ended_at);
            return Ok(out);
        }
    }
}

impl Manager {
    /// One such act at a time, and each to its end.
    pub(super) async fn alone<T: Send + 'static>(&self, act: impl Future<Output = Result<T, Error>> + Send + 'static) -> Result<T, Error> {
        let one = Arc::clone(&self.inner.keeping).lock_owned().await;
        to_the_end(async move {
            let _one = one;
            act.await
        })
        .await
    }
}

/// Runs an act in a task of its own: who asked for it may go away in the middle, and half of it must not stay.
pub(super) async fn to_the_end<T: Send + 'static>(act: impl Future<Output = Result<T, Error>> + Send + 'static) -> Result<T, Error> {
    tokio::spawn(act).await.map_err(|_| store::Error::Closed)?
}

/// Runs what blocks elsewhere.
pub(super) async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T, store::Error> + Send + 'static) -> Result<T, Error> {
    Ok(tokio::task::spawn_blocking(f).await.map_err(|_| store::Error::Closed)??)
}
