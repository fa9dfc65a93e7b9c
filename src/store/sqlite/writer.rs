//! The one thread that writes. It takes all that waits, writes it as one transaction, syncs once, then answers everyone.
//!
//! Invariants: an answer `Ok` means synced; after an error (a full disk, an I/O error) the thread goes on; it ends when the queue is
//! closed and empty, after the last heads and the `closed` event.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::broadcast;

use crate::model::{Clock, Entropy};
use crate::store::batch::Ticket;
use crate::store::error::{Error, Result};
use crate::store::folder::fail;
use crate::store::host::{HostClosed, HostEvent};
use crate::store::queue::{Queue, Work};
use crate::store::seal::Key;
use crate::store::watch::Wake;

use super::Database;
use super::archives::Keep;
use super::group::Group;
use super::maintain::Maintainer;
use super::recover::recover;

/// Most changes in one transaction.
const GROUP: usize = 512;
/// Most bytes in one transaction, a single larger change excepted.
const GROUP_BYTES: usize = 8 << 20;

pub struct WriterOptions {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub head_every_events: u64,
    pub head_every_ms: u64,
}

/// The running thread.
pub struct Writer(Option<JoinHandle<()>>);

impl Writer {
    /// Looks at how it was left, and starts the thread. Also gives the sessions (at most 100) whose logs turned
    /// out damaged; appends to these are refused.
    pub fn start(
        conn: Connection,
        db: &Database,
        key: Key,
        options: WriterOptions,
        queue: Arc<Queue>,
        wakes: broadcast::Sender<Wake>,
    ) -> Result<(Self, Vec<String>)> {
        let (ends, damaged) = recover(&conn)?;
        let maintainer = Maintainer::start(db)?;
        let (ready, started) = sync_channel(1);
        let run = move || {
            let _end = End(Arc::clone(&queue));
            let group = match Group::new(&conn, ends, key, Arc::new(options)) {
                Ok(g) => g,
                Err(e) => return drop(ready.send(Err(e))),
            };
            let _ = ready.send(Ok(()));
            run(&conn, group, maintainer, &queue, &wakes);
        };
        let thread =
            std::thread::Builder::new().name("store-writer".to_owned()).spawn(run).map_err(fail(&db.path, "start a thread for it"))?;
        started.recv().unwrap_or(Err(Error::Closed))?;
        Ok((Self(Some(thread)), damaged))
    }

    /// Waits until the thread has written what was left; the queue must be closed.
    pub fn join(&mut self) {
        if let Some(t) = self.0.take() {
            let _ = t.join();
        }
    }
}

/// However the thread ends, a panic included, nobody waits for it for ever.
struct End(Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn run(conn: &Connection, mut group: Group<'_>, mut maintainer: Maintainer, queue: &Queue, wakes: &broadcast::Sender<Wake>) {
    let mut works = Vec::with_capacity(GROUP);
    while queue.wait(group.idle()).is_ok() {
        // why: an idle turn commits only when there is something to purge or a head is due.
        match transact(&mut group, queue, &mut works) {
            Ok(()) => {
                if std::mem::take(&mut group.scrub) {
                    scrub(conn, &mut works);
                }
                answer(&mut group, &mut works, wakes);
            }
            Err(e) => {
                tracing::error!(error = %e, "writing to the store");
                group.roll_back();
                one_by_one(conn, &mut group, e, &mut works, wakes);
            }
        }
        maintainer.wrote(std::mem::take(&mut group.pages), conn);
    }
    close(&mut group);
    maintainer.finish(conn);
}

/// Between two transactions: nothing else may be open on the connection.
fn scrub(conn: &Connection, works: &mut [Work]) {
    let mut done = super::archives::scrub(conn).inspect_err(|e| tracing::error!(error = %e, "rewriting the database"));
    for w in works {
        if let Work::Keep { keep, reply } = w
            && matches!(**keep, Keep::Scrub)
        {
            let all = matches!(done, Ok(true));
            reply.set(std::mem::replace(&mut done, Ok(all)));
        }
    }
}

fn transact(group: &mut Group<'_>, queue: &Queue, works: &mut Vec<Work>) -> Result<()> {
    let mut bytes = queue.take(works, GROUP, GROUP_BYTES);
    if works.is_empty() && !group.is_purging() && !group.head_due() {
        return Ok(());
    }
    group.begin()?;
    let mut done = 0;
    // why: callers that were answered a moment ago come back while this group is still being written; let them in.
    while done < works.len() {
        for w in &mut works[done..] {
            group.apply(w)?;
        }
        done = works.len();
        if done < GROUP && bytes < GROUP_BYTES {
            bytes += queue.take(works, GROUP - done, GROUP_BYTES - bytes);
        }
    }
    group.commit()
}

fn answer(group: &mut Group<'_>, works: &mut Vec<Work>, wakes: &broadcast::Sender<Wake>) {
    works.drain(..).for_each(Work::send);
    let listened = wakes.receiver_count() > 0;
    group.settle(|session, last_seq| {
        if listened {
            let _ = wakes.send(Wake { session: session.clone(), last_seq });
        }
    });
}

/// After a failed group: each change alone, so that one that cannot be made (too big for the disk, beside an archive that cannot be read)
/// takes no other with it.
fn one_by_one(conn: &Connection, group: &mut Group<'_>, cause: Error, works: &mut Vec<Work>, wakes: &broadcast::Sender<Wake>) {
    let retry = works.len() > 1 && matches!(cause, Error::Full { .. } | Error::Midway(_));
    if !retry {
        return fail_all(cause, works.drain(..));
    }
    for mut w in std::mem::take(works) {
        let r = group.begin().and_then(|()| group.apply(&mut w)).and_then(|()| group.commit());
        match r {
            Ok(()) => {
                if std::mem::take(&mut group.scrub) {
                    scrub(conn, std::slice::from_mut(&mut w));
                }
                answer(group, &mut vec![w], wakes);
            }
            Err(e) => {
                group.roll_back();
                fail_all(e, std::iter::once(w));
            }
        }
    }
}

fn fail_all(cause: Error, mut works: impl Iterator<Item = Work>) {
    let shared = match cause {
        // Of a change that was alone.
        Error::Midway(own) => {
            if let Some(w) = works.next() {
                w.send_error(*own);
            }
            None
        }
        Error::Corrupt { doing, source }
        | Error::Full { doing, source }
        | Error::ReadOnly { doing, source }
        | Error::Engine { doing, source } => Some((doing, source)),
        _ => None,
    };
    for w in works {
        w.send_error(shared.as_ref().map_or(Error::Closed, |(doing, source)| Error::shared(doing, Arc::clone(source))));
    }
}

/// The last transaction: a head for each session that has none yet, and the end of the host's run.
fn close(group: &mut Group<'_>) {
    let (reply, _ticket) = Ticket::new();
    let mut closed = Work::Host { event: Some(HostEvent::Closed(HostClosed {})), settings: Vec::new(), reply };
    let r = group.begin().and_then(|()| group.sign_all()).and_then(|()| group.apply(&mut closed)).and_then(|()| group.commit());
    if let Err(e) = r {
        tracing::error!(error = %e, "closing the store");
        group.roll_back();
    }
}
