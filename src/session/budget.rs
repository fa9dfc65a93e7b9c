//! Limits that count a whole tree: what all sessions below one used together, held against that one's limits.
//!
//! Each session of such a tree adds its own numbers here before each call and looks at the sum, so no call of any of them is allowed past
//! the limit; who finds it passed first wakes the others, and each records it and stops between its calls (`usage`). The limit holds
//! after its own session has ended, and over a restart: the sums are read from the store when they are not here.
//!
//! Invariants: a session's numbers are in a sum once, and only grow; at most [`KEPT`] sums are held, and one that is not is read again.
//!
//! Called by `usage` and `tree`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::command::Command;
use super::tree::{TREE_MAX, TreeError};
use super::{Error, Inner};
use crate::agent::Driver;
use crate::model::limits::Used;
use crate::model::{Session, SessionId, Steady, UsageLimits};

/// Sums held at one time.
const KEPT: usize = 1_024;

/// One tree's limits and what was used so far.
#[derive(Debug, Clone)]
struct Budget {
    limits: UsageLimits,
    started: Option<Steady>,
    used: HashMap<SessionId, Used>,
    sum: Used,
    /// The others know that it is passed.
    told: bool,
}

impl Budget {
    fn put(&mut self, id: &SessionId, now: &Used) {
        let was = self.used.get(id).cloned().unwrap_or_default();
        let now = now.at_least(&was);
        self.sum.grow(&was, &now);
        self.used.insert(id.clone(), now);
    }
}

/// All that are held.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<HashMap<SessionId, Budget>>);

impl Budgets {
    fn held(&self) -> MutexGuard<'_, HashMap<SessionId, Budget>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a tree stands.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub limits: UsageLimits,
    /// With the start of the session whose limits they are.
    pub sum: Used,
    /// By a clock that was not set since then.
    pub now: i64,
}

impl Inner {
    /// The sessions, itself among them, whose limits count this one.
    pub(super) fn budget_roots(&self, session: &Session) -> Vec<SessionId> {
        let counts = |s: &Session| s.limits.is_some_and(|l| l.tree);
        let own = counts(session).then(|| session.id.clone());
        if session.record.parent.is_none() {
            return own.into_iter().collect();
        }
        let above = self.store.ancestors(&session.id).unwrap_or_else(|e| {
            tracing::error!(session = %session.id, code = e.code(), error = %e, "limits of the sessions above it cannot be read");
            vec![]
        });
        own.into_iter().chain(above.into_iter().filter(|(_, s)| counts(s)).map(|(_, s)| s.id)).collect()
    }

    /// Adds what a session has used by now; where its tree stands then. `None` where that has no such limits any more.
    pub(super) fn count_in(&self, root: &SessionId, id: &SessionId, used: &Used) -> Option<Standing> {
        self.load_budget(root);
        let mut held = self.trees.budgets.held();
        let b = held.get_mut(root)?;
        b.put(id, used);
        let now = b.started.map_or_else(|| self.clock.wall_ms(), |m| m.now_ms(&*self.clock));
        Some(Standing { limits: b.limits, sum: Used { started_at: b.started.map(Steady::wall_ms), ..b.sum.clone() }, now })
    }

    /// How long a tree may go on, where it has a limit of time: until that is passed.
    pub(super) fn tree_left(&self, root: &SessionId) -> Option<Duration> {
        self.load_budget(root);
        let held = self.trees.budgets.held();
        let b = held.get(root)?;
        let (max, started) = b.limits.time_ms.zip(b.started)?;
        Some(Duration::from_millis(max.saturating_add(1).saturating_sub(started.passed_ms(&*self.clock))))
    }

    /// Wakes the sessions of a tree: one of its limits is passed. Once.
    pub(super) fn tell_tree(&self, root: &SessionId) {
        let ids: Vec<SessionId> = {
            let mut held = self.trees.budgets.held();
            let Some(b) = held.get_mut(root).filter(|b| !b.told) else { return };
            b.told = true;
            b.used.keys().cloned().collect()
        };
        let live = self.live();
        for id in ids {
            if let Some(l) = live.get(&id) {
                // why ignored: a full mailbox wakes it as well.
                let _ = l.mailbox.try_send(Command::Look);
            }
        }
    }

    /// Whether one more may begin below `parent`, by the limits that would count it.
    pub(super) fn within_budgets(&self, parent: &SessionId, driver: &dyn Driver) -> Result<(), Error> {
        let session = match self.store.session(parent) {
            // One that waited in the queue outlived it: nothing is above that counts.
            Err(crate::store::Error::NotFound { .. }) => return Ok(()),
            found => found?,
        };
        for root in self.budget_roots(&session) {
            // why the parent's own numbers: they are in the sum, and only grow.
            let Some(s) = self.count_in(&root, parent, &Used::of(&session, session.turns)) else { continue };
            if s.limits.needs_reports() && !driver.speaks() {
                return Err(TreeError::Unmeasured { root, agent: driver.name().to_owned() }.into());
            }
            if let Some(x) = s.limits.passed(&s.sum, s.now, Some(&root)) {
                return Err(TreeError::Spent { root, reason: x.reason }.into());
            }
        }
        Ok(())
    }

    fn load_budget(&self, root: &SessionId) {
        if self.trees.budgets.held().contains_key(root) {
            return;
        }
        let found = match self.store.tree(root, TREE_MAX) {
            Ok(found) => found,
            Err(e) => {
                tracing::error!(root = %root, code = e.code(), error = %e, "what a tree used cannot be read");
                return;
            }
        };
        let Some((_, first)) = found.first() else { return };
        let Some(limits) = first.limits.filter(|l| l.tree) else { return };
        let mut b = Budget {
            limits,
            started: first.started_at.map(|at| Steady::of(at, &*self.clock)),
            used: HashMap::new(),
            sum: Used::default(),
            told: false,
        };
        for (_, s) in &found {
            b.put(&s.id, &Used::of(s, s.turns));
        }
        let mut held = self.trees.budgets.held();
        if held.len() >= KEPT {
            held.clear();
        }
        held.entry(root.clone()).or_insert(b);
    }
}
