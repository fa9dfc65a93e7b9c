//! `host gc`: what is removed because nobody needs it any more, and what an operator gives up by age, size and outcome.
//!
//! Invariants:
//! - a plan is made first, and a dry run is that plan; what is done is what the plan says, item by item;
//! - nothing of a live session, no session that a live one was started for, and no event that a sink must still get;
//! - an item that is gone already is no error; one that cannot be removed is reported and the others go on.
//!
//! Called by `api`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::keep::{blocking, ended};
use super::{Error, Manager, failpoint};
use crate::model::{Actor, Outcome, Session, SessionId, Status};
use crate::store::{self, Collected, Filter, Hash, HostEvent, Store, older};

/// Leftovers younger than this may be of something that is only just beginning.
const GRACE: Duration = Duration::from_secs(3_600);

/// What an operator gives up. Without an age or a size no session goes.
#[derive(Debug, Clone, Default)]
pub struct CollectRequest {
    /// Wall milliseconds: sessions that ended before, files not used since.
    pub before: Option<i64>,
    /// Wall milliseconds: raw output of sessions that ended before; the sessions stay.
    pub raw_before: Option<i64>,
    /// Bytes: of the rest, the longest ended go until all sessions together have no more.
    pub over: Option<u64>,
    /// Only sessions that ended so; empty for all.
    pub outcomes: Vec<Outcome>,
    /// So many of those that ended last stay in any case.
    pub keep: usize,
    pub dry_run: bool,
}

/// What one item is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Session(SessionId),
    Blob(Hash),
    Folder(PathBuf),
    File(PathBuf),
}

/// One thing that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    what: What,
    /// `session`, `blob`, `raw output`, `run folder`, `shim`, `compiled plugin`, `plugin log`, `database copy`.
    pub kind: &'static str,
    pub name: String,
    pub bytes: u64,
    pub why: String,
    /// Why it is still there, after a run that was no dry one.
    pub failed: Option<String>,
}

/// What goes, and which sessions would but stay.
#[derive(Debug, Clone, Default)]
pub struct Collection {
    pub items: Vec<Item>,
    pub kept: Vec<(String, String)>,
}

/// Folders outside of the store that are looked through.
#[derive(Debug, Clone)]
pub struct Places {
    pub data: PathBuf,
    pub cache: PathBuf,
}

impl Manager {
    /// Makes the plan and, unless it is a dry run, does it. What was removed stands on the host chain.
    pub async fn collect(&self, request: CollectRequest, places: Places, by: Actor) -> Result<Collection, Error> {
        let manager = self.clone();
        self.alone(async move { manager.collect_now(request, places, by).await }).await
    }

    async fn collect_now(&self, request: CollectRequest, places: Places, by: Actor) -> Result<Collection, Error> {
        let (manager, wanted) = (self.clone(), request.clone());
        let mut plan = blocking(move || plan(&manager, &wanted, &places)).await?;
        if request.dry_run {
            return Ok(plan);
        }
        let (mut removed, mut failed, mut done, mut bytes) = (HashSet::new(), false, 0, 0);
        // The plan has sessions first: a payload goes with the last session that names it.
        let mut orphans: Option<HashSet<Hash>> = None;
        for item in &mut plan.items {
            if failed && orphans.is_none() && matches!(item.what, What::Blob(_)) {
                let (store, without) = (self.inner.store.clone(), removed.clone());
                let now = blocking(move || store.orphaned_blobs(&without)).await?;
                orphans = Some(now.into_iter().map(|o| o.digest).collect());
            }
            let gone = match &item.what {
                What::Session(id) => {
                    let gone = self.remove_now(id, &by).await;
                    match &gone {
                        Ok(_) => removed.insert(id.to_string()),
                        Err(_) => std::mem::replace(&mut failed, true),
                    };
                    gone.map(drop).map_err(|e| e.to_string())
                }
                What::Blob(digest) if orphans.as_ref().is_some_and(|o| !o.contains(digest)) => {
                    Err("a session that names it could not be removed".to_owned())
                }
                What::Blob(digest) => match self.inner.store.drop_blob(digest) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err("it was stored again meanwhile".to_owned()),
                    Err(e) => Err(e.to_string()),
                },
                What::Folder(path) => gone(std::fs::remove_dir_all(path)),
                What::File(path) => gone(std::fs::remove_file(path)),
            };
            match gone {
                Ok(()) => (done, bytes) = (done + 1, bytes + item.bytes),
                Err(why) => item.failed = Some(why),
            }
        }
        let sessions = removed.len() as u64;
        if done > 0 {
            self.inner.store.note(HostEvent::Collected(Collected { sessions, items: done, bytes, by }), Vec::new()).await?;
        }
        Ok(plan)
    }
}

fn gone(removed: std::io::Result<()>) -> Result<(), String> {
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.to_string()),
        _ => Ok(()),
    }
}

fn plan(manager: &Manager, r: &CollectRequest, places: &Places) -> Result<Collection, store::Error> {
    let store = &manager.inner.store;
    let mut out = Collection::default();
    sessions(manager, r, &mut out)?;
    let going: HashSet<String> = out.items.iter().map(|i| i.name.clone()).collect();
    if let Some(before) = r.raw_before {
        for s in ended(store, before)?.iter().filter(|s| !going.contains(s.id.as_str())) {
            let path = manager.inner.run_dir(&s.id, 1);
            let bytes = size_of(&path);
            if bytes > 0 {
                let (name, why) = (s.id.to_string(), "its session ended before that time".to_owned());
                out.items.push(Item { what: What::Folder(path), kind: "raw output", name, bytes, why, failed: None });
            }
        }
    }
    for o in store.orphaned_blobs(&going)? {
        let item = Item {
            what: What::Blob(o.digest),
            kind: "blob",
            name: o.digest.to_string(),
            bytes: o.bytes,
            why: "no event names it".to_owned(),
            failed: None,
        };
        out.items.push(item);
    }
    run_folders(manager, &mut out)?;
    files(r, places, &manager.inner.shim_bin, &mut out);
    Ok(out)
}

fn sessions(manager: &Manager, r: &CollectRequest, out: &mut Collection) -> Result<(), store::Error> {
    if r.before.is_none() && r.over.is_none() {
        return Ok(());
    }
    let store = &manager.inner.store;
    let parents = live_parents(store)?;
    let in_store = store.session_sizes()?;
    let size = |s: &Session| in_store.get(s.id.as_str()).copied().unwrap_or(0) + size_of(&manager.inner.run_dir(&s.id, 1));
    let all = ended(store, i64::MAX)?;
    let newest: HashSet<&str> = all.iter().rev().take(r.keep).map(|s| s.id.as_str()).collect();
    let sizes: HashMap<&str, u64> = all.iter().map(|s| (s.id.as_str(), size(s))).collect();
    // why of all: what live sessions take is taken, though none of it goes.
    let mut total = in_store.values().sum::<u64>() + all.iter().map(|s| size_of(&manager.inner.run_dir(&s.id, 1))).sum::<u64>();
    for s in &all {
        let bytes = sizes.get(s.id.as_str()).copied().unwrap_or(0);
        let old = r.before.is_some_and(|b| s.ended_at.is_some_and(|t| t < b));
        let large = r.over.is_some_and(|o| total > o);
        if !(old || large) || !(r.outcomes.is_empty() || s.outcome.is_some_and(|o| r.outcomes.contains(&o))) {
            continue;
        }
        let waiting = store.waiting_sinks(&s.id)?;
        let stays = if newest.contains(s.id.as_str()) {
            Some(format!("it is one of the {} that ended last", r.keep))
        } else if parents.contains(s.id.as_str()) {
            Some("a session that it started is live".to_owned())
        } else if !waiting.is_empty() {
            Some(format!("not delivered to {} yet", waiting.join(", ")))
        } else {
            None
        };
        if let Some(why) = stays {
            out.kept.push((s.id.to_string(), why));
            continue;
        }
        total = total.saturating_sub(bytes);
        let why = if old { "it ended before that time" } else { "all sessions together are over that size" };
        let name = s.id.to_string();
        out.items.push(Item { what: What::Session(s.id.clone()), kind: "session", name, bytes, why: why.to_owned(), failed: None });
    }
    Ok(())
}

/// Sessions above those that have not ended.
fn live_parents(store: &Store) -> Result<HashSet<String>, store::Error> {
    let live = vec![Status::Queued, Status::Starting, Status::Running, Status::Paused, Status::Stopping];
    let mut filter = Filter { status: live, limit: store::MAX_SESSIONS, ..Filter::default() };
    let mut out = HashSet::new();
    loop {
        let page = store.sessions(&filter)?;
        for s in page.items {
            out.extend(s.queue.iter().flat_map(|q| &q.after).map(|d| d.session.to_string()));
            let mut above = s.record.parent.clone();
            while let Some(id) = above.take().filter(|id| out.insert(id.to_string())) {
                above = store.session(&id).ok().and_then(|p| p.record.parent.clone());
            }
        }
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return Ok(out);
        }
    }
}

/// Folders of runs whose session is not there.
fn run_folders(manager: &Manager, out: &mut Collection) -> Result<(), store::Error> {
    for entry in std::fs::read_dir(&manager.inner.run_root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(meta) = entry.metadata() else { continue };
        if !meta.is_dir() || !meta.modified().is_ok_and(|t| older(t, GRACE)) {
            continue;
        }
        let known = name.parse::<SessionId>().ok().map(|id| manager.inner.store.session(&id).map(drop));
        if matches!(known, None | Some(Err(store::Error::NotFound { .. }))) {
            let path = entry.path();
            let (bytes, why) = (size_of(&path), "no session has it".to_owned());
            out.items.push(Item { what: What::Folder(path), kind: "run folder", name, bytes, why, failed: None });
        }
    }
    Ok(())
}

fn files(r: &CollectRequest, places: &Places, shim: &Path, out: &mut Collection) {
    let before = r.before.and_then(|ms| u64::try_from(ms).ok()).map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
    let running = executables();
    let mut add = |dir: &Path, kind: &'static str, why: &str, goes: &dyn Fn(&Path, &str, SystemTime) -> bool| {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            if meta.is_file() && meta.modified().is_ok_and(|t| goes(&path, &name, t)) {
                out.items.push(Item { what: What::File(path), kind, name, bytes: meta.len(), why: why.to_owned(), failed: None });
            }
        }
    };
    add(&places.data.join("bin"), "shim", "an older one that nothing runs", &|path, name, t| {
        name.starts_with("beadle-shim-") && path != shim && !running.contains(path) && older(t, GRACE)
    });
    let unused = |t: SystemTime| before.is_some_and(|b| t < b);
    add(&places.cache.join("plugins"), "compiled plugin", "not used since", &|_, _, t| unused(t));
    add(&places.data.join("plugin-logs"), "plugin log", "not written since", &|_, _, t| unused(t));
    add(&places.data, "database copy", "from an upgrade", &|_, name, t| store::is_copy(name) && unused(t));
}

/// What processes run, as far as this user may see it.
fn executables() -> HashSet<PathBuf> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|e| std::fs::read_link(e.path().join("exe")).ok()).collect()
}

fn size_of(dir: &Path) -> u64 {
    let of = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => size_of(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(of).sum()
}

/// A copy of everything, while sessions go on. Nothing is moved or erased meanwhile.
impl Manager {
    pub async fn backup(&self, to: PathBuf, by: Actor) -> Result<store::Manifest, Error> {
        let store = self.inner.store.clone();
        self.alone(async move {
            let (copied, target) = (store.clone(), to.clone());
            let (setting, begun) = store.backup_begun(&to, true)?;
            // why first: should the host die in the middle, an erasure can name what is left of it.
            store.set_setting(&setting, begun).await?;
            failpoint::hit("backup_begun");
            let made = blocking(move || copied.backup(&target)).await;
            failpoint::hit("backup_copied");
            let (setting, begun) = store.backup_begun(&to, false)?;
            if made.is_err() {
                store.set_setting(&setting, begun.clone()).await?;
            }
            let made = made?;
            let event = store::BackupMade { to: to.display().to_string(), bytes: made.bytes(), by };
            store.note(HostEvent::BackupMade(event), vec![(setting, begun)]).await?;
            Ok(made)
        })
        .await
    }
}
