//! Sessions that belong together: who may begin below whom, what they come to together, and what is done to all of them at once.
//!
//! | act | order | why |
//! | --- | --- | --- |
//! | stop, kill, pause | root first | who started the others is told before them: it cannot answer their end by starting the work anew |
//! | resume | leaves first | who waits for others finds them at work again |
//!
//! Invariants:
//! - a parent is there before its children and never changes, so there is no circle; depth and breadth are capped by configuration;
//! - an act is written down ([`SETTING`]) before it is done, and taken off when everything below was told (and for a stop or kill has
//!   ended): a daemon that dies in between is followed by one that goes on with it;
//! - while an act goes on nothing new begins below its root: a start holds its tree's gate ([`Trees::starts`]) from its check until its
//!   session is live, and the act waits for those before it looks for whom to tell; one tree does not wait for another;
//! - sessions that cannot be told are named in `tree_act_ended`, never passed over in silence.
//!
//! Called by `start`, `api` and, once at boot, by `recovery`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, RwLock, oneshot};

use super::{Error, Inner, Manager, failpoint, live};
use crate::agent::Driver;
use crate::model::tree::{Together, rolled_up};
use crate::model::{
    Actor, AgentHandedOff, Event, PauseMode, Session, SessionId, Status, SubAgent, SubAgents, TreeAct, TreeActBegan, TreeActEnded,
};
use crate::store::{Filter, Store};

mod error;

pub use error::TreeError;

/// Sessions of one tree that are read at most.
pub const TREE_MAX: usize = 10_000;
/// Acts that may go on at one time.
const ACTS_MAX: usize = 256;
/// Failures that the end of an act names.
const FAILED_MAX: usize = 100;
/// Where acts under way are written down.
const SETTING: &str = "tree_acts";
/// How long one end is waited for before it is looked again.
const END: Duration = Duration::from_secs(30);
/// How often a session that is just starting is asked to pause.
const PAUSE_LOOKS: u32 = 100;
const PAUSE_LOOK: Duration = Duration::from_millis(50);
/// Sub-agents' events read at a time.
const PAGE: usize = 1_000;
/// Longest name of an agent that work is handed to, in bytes.
const NAME_MAX: usize = 200;

/// One act under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Act {
    root: SessionId,
    act: TreeAct,
    #[serde(default)]
    grace_ms: Option<u64>,
    #[serde(default)]
    mode: Option<PauseMode>,
    #[serde(default)]
    reason: String,
    by: Actor,
}

/// What a caller wants done to a tree.
#[derive(Debug, Clone, Default)]
pub struct ActRequest {
    pub grace: Option<Duration>,
    pub mode: Option<PauseMode>,
    pub reason: String,
}

/// What came of it so far: for a stop or kill, ends may still be waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActReport {
    pub done: Vec<SessionId>,
    pub failed: Vec<String>,
}

/// One session of a tree.
#[derive(Debug, Clone)]
pub struct Node {
    pub depth: u32,
    pub session: Session,
    /// With all below it.
    pub together: Together,
    pub sub_agents: Vec<SubAgent>,
}

/// A session and all below it, parents before their children, each followed by its own.
#[derive(Debug, Clone)]
pub struct Tree {
    pub nodes: Vec<Node>,
    /// There are more than [`TREE_MAX`]; the sums lack them.
    pub truncated: bool,
}

/// What all sessions share of trees.
pub(super) struct Trees {
    /// By the uppermost session: read by starts in its tree, from their check until they are live; written by an act that begins.
    starts: Mutex<HashMap<SessionId, Weak<RwLock<()>>>>,
    /// Held while places below a session are counted and taken: no two take the same last one.
    counting: tokio::sync::Mutex<()>,
    /// Places below each session that starts under way have taken, whose sessions are not on record yet.
    taken: Mutex<HashMap<SessionId, u64>>,
    acts: Mutex<Vec<Act>>,
    pub(super) budgets: super::budget::Budgets,
}

impl Trees {
    pub fn load(store: &Store) -> Result<Self, Error> {
        let text = store.setting(SETTING)?.unwrap_or_else(|| "[]".to_owned());
        let acts = serde_json::from_str(&text).map_err(|e| TreeError::Stored(e.to_string()))?;
        let (starts, counting, taken) = Default::default();
        Ok(Self { starts, counting, taken, acts: Mutex::new(acts), budgets: super::budget::Budgets::default() })
    }

    /// The gate of a tree; it is there as long as anybody is in it or waits before it.
    fn gate(&self, top: &SessionId) -> Arc<RwLock<()>> {
        let mut gates = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(top).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, g| g.strong_count() > 0);
        let gate = Arc::default();
        gates.insert(top.clone(), Arc::downgrade(&gate));
        gate
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<SessionId, u64>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acts(&self) -> MutexGuard<'_, Vec<Act>> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what goes on.
    async fn save(&self, store: &Store) -> Result<(), Error> {
        let text = serde_json::to_string(&*self.acts()).unwrap_or_default();
        store.set_setting(SETTING, Some(text).filter(|t| t != "[]")).await?;
        Ok(())
    }

    async fn begin(&self, store: &Store, act: Act) -> Result<(), Error> {
        let above = store.ancestors(&act.root)?;
        let gate = self.gate(above.last().map_or(&act.root, |(_, s)| &s.id));
        let gate = gate.write().await;
        {
            let mut acts = self.acts();
            if acts.len() >= ACTS_MAX {
                return Err(TreeError::Busy(ACTS_MAX).into());
            }
            if !acts.contains(&act) {
                acts.push(act.clone());
            }
        }
        let saved = self.save(store).await;
        drop(gate);
        if saved.is_err() {
            self.acts().retain(|a| *a != act);
        }
        saved
    }

    async fn end(&self, store: &Store, act: &Act) -> Result<(), Error> {
        self.acts().retain(|a| a != act);
        self.save(store).await
    }
}

/// A start below a session, under way. While it is held, no act on a tree begins.
pub(super) struct Start<'a> {
    _gate: OwnedRwLockReadGuard<()>,
    trees: &'a Trees,
    parent: SessionId,
    counting: Option<tokio::sync::MutexGuard<'a, ()>>,
    place: Option<Place<'a>>,
}

/// A place below a session, taken and not on record.
struct Place<'a>(&'a Trees, SessionId);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.0.taken();
        if let Some(n) = taken.get_mut(&self.1) {
            *n -= 1;
            if *n == 0 {
                taken.remove(&self.1);
            }
        }
    }
}

impl Start<'_> {
    /// It takes a while until its session is on record (policies are asked): its place is kept, and others are counted meanwhile.
    pub fn keeping_place(mut self) -> Self {
        *self.trees.taken().entry(self.parent.clone()).or_default() += 1;
        self.place = Some(Place(self.trees, self.parent.clone()));
        self.counting = None;
        self
    }

    /// Its session is about to be put on record, which counts instead of the place from then on.
    pub async fn count(start: &mut Option<Self>) {
        if let Some(start) = start {
            start.counting = Some(start.trees.counting.lock().await);
            start.place = None;
        }
    }

    /// Its session is on record, so that the next start counts it.
    pub fn recorded(&mut self) {
        self.counting = None;
    }
}

impl Inner {
    /// Whether a session may begin below `parent`; one that `waited` in the queue is counted there already. What comes back is held until it is live.
    pub(super) async fn may_begin(
        &self,
        parent: Option<&SessionId>,
        driver: &dyn Driver,
        cwd: &std::path::Path,
        waited: bool,
    ) -> Result<Option<Start<'_>>, Error> {
        let Some(parent) = parent else { return Ok(None) };
        let config = self.config_of(cwd);
        let above = self.store.ancestors(parent)?;
        let gate = self.trees.gate(above.last().map_or(parent, |(_, s)| &s.id)).read_owned().await;
        let counting = self.trees.counting.lock().await;
        let of_tree = |id: &SessionId| id == parent || above.iter().any(|(_, s)| s.id == *id);
        let going_on = self.trees.acts().iter().find(|a| of_tree(&a.root)).map(|a| (a.root.clone(), a.act));
        if let Some((root, act)) = going_on {
            return Err(TreeError::GoesOn { root, act: act.as_str() }.into());
        }
        let depth = above.len() as u64 + 1;
        if depth > config.tree_depth {
            return Err(TreeError::TooDeep { parent: parent.clone(), depth, max: config.tree_depth }.into());
        }
        let most = config.children.saturating_add(u64::from(waited));
        let taken = self.trees.taken().get(parent).copied().unwrap_or(0);
        if self.open_children(parent, most)? + taken >= most {
            return Err(TreeError::TooMany { parent: parent.clone(), max: config.children }.into());
        }
        self.within_budgets(parent, driver)?;
        Ok(Some(Start { _gate: gate, trees: &self.trees, parent: parent.clone(), counting: Some(counting), place: None }))
    }

    /// How many there are that have not ended, counted as far as `most`.
    fn open_children(&self, parent: &SessionId, most: u64) -> Result<u64, Error> {
        let mut filter = Filter {
            parent: Some(parent.clone()),
            status: super::recovery::OPEN.to_vec(),
            limit: crate::store::MAX_SESSIONS,
            ..Filter::default()
        };
        let mut open = 0;
        loop {
            let page = self.store.sessions(&filter)?;
            open += page.items.len() as u64;
            match page.next {
                Some(next) if open < most => filter.cursor = Some(next),
                _ => return Ok(open),
            }
        }
    }
}

impl Manager {
    /// The session with all below it.
    pub fn tree(&self, root: &SessionId) -> Result<Tree, Error> {
        let mut found = self.inner.store.tree(root, TREE_MAX + 1)?;
        let truncated = found.len() > TREE_MAX;
        found.truncate(TREE_MAX);
        let mut sums = rolled_up(found.iter().map(|(_, s)| s));
        let mut nodes = Vec::with_capacity(found.len());
        for (depth, session) in in_order(found) {
            let sub_agents = if session.sub_agents > 0 { self.sub_agents(&session)? } else { vec![] };
            let together = sums.remove(&session.id).unwrap_or_default();
            nodes.push(Node { depth, session, together, sub_agents });
        }
        Ok(Tree { nodes, truncated })
    }

    /// The sub-agents of a session's agent, from its log.
    fn sub_agents(&self, session: &Session) -> Result<Vec<SubAgent>, Error> {
        let (mut from, mut found) = (1, SubAgents::default());
        loop {
            let page = self.inner.store.events(&session.id, from, PAGE)?;
            let Some(last) = page.last() else { return Ok(found.all) };
            from = last.envelope.seq + 1;
            page.iter().for_each(|e| found.fold(&e.envelope));
        }
    }

    /// Does something to a session and all below it. Returns once all were told; ends are waited for beside it.
    pub async fn act_on_tree(&self, root: &SessionId, act: TreeAct, request: ActRequest, by: Actor) -> Result<ActReport, Error> {
        self.inner.store.session(root)?;
        let grace_ms = request.grace.map(|g| u64::try_from(g.as_millis()).unwrap_or(u64::MAX));
        let act = Act { root: root.clone(), act, grace_ms, mode: request.mode, reason: request.reason, by };
        let (manager, (tell, told)) = (self.clone(), oneshot::channel());
        // why a task of its own: who asked may go away, and what has begun goes on all the same.
        tokio::spawn(async move {
            if let Err(e) = manager.begin_act(&act).await {
                // why ignored, here and below: nobody listens any more.
                let _ = tell.send(Err(e));
                return;
            }
            let report = manager.carry_out(&act).await;
            let _ = tell.send(Ok(report.clone()));
            manager.see_through(act, report).await;
        });
        told.await.unwrap_or(Err(Error::ShuttingDown))
    }

    async fn begin_act(&self, act: &Act) -> Result<(), Error> {
        self.inner.trees.begin(&self.inner.store, act.clone()).await?;
        failpoint::hit("tree_began");
        let begun = TreeActBegan { act: act.act, by: act.by.clone() };
        if let Err(e) = self.append_to(&act.root, vec![begun.into()]).await {
            // why taken off: nothing was done, and it must not hold up starts for ever.
            self.inner.trees.end(&self.inner.store, act).await?;
            return Err(e);
        }
        Ok(())
    }

    /// Goes on with the acts that an earlier daemon did not see the end of.
    pub(super) fn go_on_with_trees(&self) {
        let acts = self.inner.trees.acts().clone();
        for act in acts {
            tracing::info!(root = %act.root, act = act.act.as_str(), "going on with what an earlier daemon began on a tree");
            let manager = self.clone();
            tokio::spawn(async move {
                let report = manager.carry_out(&act).await;
                manager.see_through(act, report).await;
            });
        }
    }

    /// Tells each session that is open. Goes on until a look finds nobody new.
    async fn carry_out(&self, act: &Act) -> ActReport {
        let mut report = ActReport::default();
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let found = match self.inner.store.tree(&act.root, TREE_MAX) {
                Ok(found) => found,
                Err(e) => {
                    report.failed.push(format!("{}: {e} [{}]", act.root, e.code()));
                    return report;
                }
            };
            let mut open: Vec<SessionId> =
                found.into_iter().filter(|(_, s)| s.status != Status::Ended && !seen.contains(&s.id)).map(|(_, s)| s.id).collect();
            if open.is_empty() {
                return report;
            }
            if act.act == TreeAct::Resume {
                open.reverse();
            }
            for id in open {
                match self.tell(act, &id).await {
                    Ok(true) => report.done.push(id.clone()),
                    Ok(false) => {}
                    Err(e) if report.failed.len() < FAILED_MAX => report.failed.push(live::cut(&format!("{id}: {e} [{}]", e.code()), 500)),
                    Err(_) => {}
                }
                seen.insert(id);
                failpoint::hit("tree_told");
            }
        }
    }

    /// True when it was done, false when there was nothing to do.
    async fn tell(&self, act: &Act, id: &SessionId) -> Result<bool, Error> {
        let by = act.by.clone();
        let mut looks = 0;
        loop {
            let session = self.inner.store.session(id)?;
            let told = match act.act {
                TreeAct::Stop | TreeAct::Kill => {
                    self.stop(id, act.grace_ms.map(Duration::from_millis), act.act == TreeAct::Kill, by.clone()).await
                }
                TreeAct::Pause if session.status == Status::Paused => return Ok(false),
                TreeAct::Pause => self.pause(id, act.mode, act.reason.clone(), by.clone()).await,
                TreeAct::Resume if !session.is_held() => return Ok(false),
                TreeAct::Resume => self.unpause(id, by.clone()).await,
            };
            let Err(e) = told else { return Ok(true) };
            let now = self.inner.store.session(id)?.status;
            match now {
                Status::Ended => return Ok(false),
                Status::Starting if looks < PAUSE_LOOKS => {
                    looks += 1;
                    tokio::time::sleep(PAUSE_LOOK).await;
                }
                Status::Stopping if act.act != TreeAct::Kill => return Ok(false),
                _ => return Err(e),
            }
        }
    }

    /// Waits for the ends where there will be some, records the act's own, and lets new sessions begin again.
    async fn see_through(&self, act: Act, report: ActReport) {
        if matches!(act.act, TreeAct::Stop | TreeAct::Kill) {
            let mut shutdown = self.inner.shutdown.subscribe();
            for id in &report.done {
                loop {
                    let ended = tokio::select! {
                        // why nothing is taken off: the next daemon goes on with it.
                        _ = shutdown.changed() => return,
                        ended = self.ended(id, END) => ended,
                    };
                    match ended {
                        Ok(s) if s.status != Status::Ended => {}
                        // An error: it was removed meanwhile.
                        _ => break,
                    }
                }
            }
        }
        failpoint::hit("tree_done");
        let ended = TreeActEnded { act: act.act, done: report.done.len() as u64, failed: report.failed };
        if let Err(e) = self.append_to(&act.root, vec![ended.into()]).await {
            tracing::warn!(root = %act.root, code = e.code(), error = %e, "the end of an act on a tree is not on record");
        }
        if let Err(e) = self.inner.trees.end(&self.inner.store, &act).await {
            tracing::error!(root = %act.root, code = e.code(), error = %e, "an act on a tree stays written down; the next daemon does it again");
        }
    }

    /// Records that the work of a session goes to another agent. In the log of the session that takes it over, too, where that is named.
    pub async fn hand_off(&self, id: &SessionId, handed: HandOff, by: Actor) -> Result<Session, Error> {
        for name in handed.from.iter().chain([&handed.to]) {
            crate::model::check_text("the agent's name", name, NAME_MAX)?;
        }
        let session = handed.session.as_deref().map(|key| self.find(key)).transpose()?.map(|s| s.id);
        if session.as_ref() == Some(id) {
            return Err(TreeError::ToItself(id.clone()).into());
        }
        let reason = handed.reason.map(|r| live::excerpt(super::mask::text(&r).into_owned().into_bytes()));
        let (reason, blob) = reason.map_or((None, None), |(r, blob)| (Some(r), blob));
        // Kept until the events are written.
        let _held = blob.map(|blob| tokio::task::block_in_place(|| self.inner.store.put_blob_for_event(&blob))).transpose()?;
        let event = AgentHandedOff { from: handed.from, to: handed.to, session: session.clone(), reason, by };
        let done = self.append_to(id, vec![Event::from(event.clone())]).await?;
        if let Some(other) = session {
            // why the giver's id: in that log it is the other one.
            self.append_to(&other, vec![AgentHandedOff { session: Some(id.clone()), ..event }.into()]).await?;
        }
        Ok(done)
    }
}

/// Who hands what to whom.
#[derive(Debug, Clone, Default)]
pub struct HandOff {
    pub from: Option<String>,
    pub to: String,
    /// By id, unique prefix of one, or name: the session in which the other agent goes on.
    pub session: Option<String>,
    pub reason: Option<String>,
}

/// Each session followed by those below it, the older first.
fn in_order(found: Vec<(u32, Session)>) -> Vec<(u32, Session)> {
    let mut below: std::collections::BTreeMap<SessionId, Vec<(u32, Session)>> = std::collections::BTreeMap::new();
    let mut out = Vec::with_capacity(found.len());
    let mut stack = Vec::new();
    for (i, (depth, s)) in found.into_iter().enumerate() {
        match s.record.parent.clone().filter(|_| i > 0) {
            Some(parent) => below.entry(parent).or_default().push((depth, s)),
            None => stack.push((depth, s)),
        }
    }
    while let Some((depth, s)) = stack.pop() {
        stack.extend(below.remove(&s.id).into_iter().flatten().rev());
        out.push((depth, s));
    }
    out
}
