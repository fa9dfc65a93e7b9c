//! What policies keep between calls: staged in a call, in force when its answer is taken, durable with the record of that answer.
//!
//! Invariants:
//! - a change is seen by later calls only after [`Round::commit`], and by the log with [`States::take_changes`]; a round that is dropped,
//!   or a call that fails or comes too late, leaves nothing;
//! - between a call's first use of `kv` and the end of its round no other call of the same policy in the same session uses it;
//! - keys, values, their number and their sum are capped; an operation over a cap changes nothing.
//!
//! Called by `host` and the bindings (one call), `policy` (rounds) and `session` (loading, recording).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::model::{PluginState, PluginStateChanged, PluginStates, StateValue};

/// Longest key, in bytes.
pub const MAX_KEY: usize = 256;
/// Longest value, in bytes.
pub const MAX_VALUE: usize = 64 << 10;
/// Most keys of one policy in one session.
pub const MAX_KEYS: usize = 1024;
/// All keys and values of one policy in one session, in bytes.
pub const MAX_STATE: usize = 256 << 10;

/// Why `kv` gave nothing; which limit, or what failed, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KvError {
    OverLimit(String),
    Unavailable(String),
}

/// The state of all policies of one session, as the newest recorded or about to be recorded answer left it.
pub struct States {
    inner: Mutex<Inner>,
    freed: Condvar,
}

struct Inner {
    of: Result<HashMap<String, Arc<PluginState>>, String>,
    /// Policies of which a call uses its state.
    busy: HashSet<String>,
    /// In force and not yet handed out to be recorded.
    changes: Vec<Change>,
}

struct Change {
    policy: String,
    staged: Overlay,
    /// What to put back: the values from before.
    before: Overlay,
}

/// Values by key; `None` is a key that goes.
type Overlay = BTreeMap<String, Option<Vec<u8>>>;

impl States {
    pub fn new(states: PluginStates) -> Arc<Self> {
        Self::of(Ok(states.0.into_iter().map(|(policy, state)| (policy, Arc::new(state))).collect()))
    }

    /// State that could not be read: using it fails, with this reason.
    pub fn unreadable(why: String) -> Arc<Self> {
        Self::of(Err(why))
    }

    fn of(of: Result<HashMap<String, Arc<PluginState>>, String>) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner { of, busy: HashSet::new(), changes: Vec::new() }), freed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changes wait to be recorded; for [`Self::take_back`].
    pub fn mark(&self) -> usize {
        self.lock().changes.len()
    }

    /// Undoes the changes after the mark: the answers that they belong to are not recorded.
    pub fn take_back(&self, mark: usize) {
        let mut inner = self.lock();
        while inner.changes.len() > mark {
            let Some(c) = inner.changes.pop() else { return };
            apply(&mut inner.of, &c.policy, &c.before);
        }
    }

    /// What is to be recorded with the next append, in order.
    pub fn take_changes(&self) -> Vec<PluginStateChanged> {
        std::mem::take(&mut self.lock().changes).into_iter().map(|c| event(c.policy, &c.staged)).collect()
    }

    /// Puts in force what the log has, where that is not what the policy wrote (a masked secret).
    pub fn correct(&self, recorded: &PluginStateChanged) {
        let of = recorded.set.iter().map(|(k, v)| (k.clone(), v.bytes())).collect();
        apply(&mut self.lock().of, &recorded.policy, &of);
    }

    /// Waits until no other call of the policy uses its state.
    fn open(self: &Arc<Self>, policy: &str, until: Instant) -> Result<(Lease, Arc<PluginState>), KvError> {
        let mut inner = self.lock();
        while inner.busy.contains(policy) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(KvError::Unavailable(
                    "another call of this policy in this session used its state until the deadline".to_owned(),
                ));
            }
            inner = self.freed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let state = match &inner.of {
            Ok(all) => all.get(policy).cloned().unwrap_or_default(),
            Err(why) => return Err(KvError::Unavailable(why.clone())),
        };
        inner.busy.insert(policy.to_owned());
        Ok((Lease { states: Arc::clone(self), policy: policy.to_owned() }, state))
    }

    fn commit(&self, policy: String, staged: Overlay) {
        if staged.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let before = apply(&mut inner.of, &policy, &staged);
        inner.changes.push(Change { policy, staged, before });
    }
}

/// Puts values in place; gives what was there before.
fn apply(of: &mut Result<HashMap<String, Arc<PluginState>>, String>, policy: &str, values: &Overlay) -> Overlay {
    let Ok(all) = of else { return Overlay::new() };
    let state = Arc::make_mut(all.entry(policy.to_owned()).or_default());
    let mut before = Overlay::new();
    for (key, value) in values {
        let old = match value {
            Some(v) => state.insert(key.clone(), v.clone()),
            None => state.remove(key),
        };
        before.insert(key.clone(), old);
    }
    before
}

fn event(policy: String, staged: &Overlay) -> PluginStateChanged {
    let set = staged.iter().filter_map(|(k, v)| Some((k.clone(), StateValue::of(v.as_ref()?)))).collect();
    let deleted = staged.iter().filter(|(_, v)| v.is_none()).map(|(k, _)| k.clone()).collect();
    PluginStateChanged { policy, set, deleted }
}

/// The right to use a policy's state; given back when it is dropped.
struct Lease {
    states: Arc<States>,
    policy: String,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.states.lock().busy.remove(&self.policy);
        self.states.freed.notify_all();
    }
}

/// One putting of a question to the policies of a chain.
pub struct Round {
    states: Arc<States>,
    /// What answered calls staged; none when the round is over.
    staged: Mutex<Option<Vec<Kept>>>,
}

impl Round {
    pub fn new(states: Arc<States>) -> Arc<Self> {
        Arc::new(Self { states, staged: Mutex::new(Some(Vec::new())) })
    }

    /// Ends the round. What these policies staged is in force; all else is lost, also what comes later.
    pub fn commit(&self, answered: &[&str]) {
        let staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner).take();
        for k in staged.into_iter().flatten().filter(|k| answered.contains(&k.lease.policy.as_str())) {
            // why before the lease goes: the next call must see it.
            self.states.commit(k.lease.policy.clone(), k.staged);
        }
    }

    /// Ends the round with nothing kept.
    pub fn drop_all(&self) {
        self.commit(&[]);
    }
}

/// What a call that was answered leaves to its round.
struct Kept {
    lease: Lease,
    staged: Overlay,
}

/// Where a question's state comes from.
#[derive(Clone)]
pub(super) enum Source {
    Round(Arc<Round>),
    /// A question outside a session: empty, and thrown away.
    Scratch,
    /// A kind of plugin that keeps none.
    None,
}

/// The state of one policy as one call sees it.
pub(super) struct Call {
    lease: Option<Lease>,
    base: Arc<PluginState>,
    staged: Overlay,
    keys: usize,
    bytes: usize,
}

impl Call {
    pub(super) fn open(source: &Source, policy: &str, until: Instant) -> Result<Self, KvError> {
        let (lease, base) = match source {
            Source::Round(r) => r.states.open(policy, until).map(|(lease, state)| (Some(lease), state))?,
            Source::Scratch => (None, Arc::default()),
            Source::None => return Err(KvError::Unavailable("only a policy keeps state, that of its session".to_owned())),
        };
        let (keys, bytes) = (base.len(), base.iter().map(|(k, v)| k.len() + v.len()).sum());
        Ok(Self { lease, base, staged: Overlay::new(), keys, bytes })
    }

    pub(super) fn get(&self, key: &str) -> Option<&Vec<u8>> {
        self.staged.get(key).map_or_else(|| self.base.get(key), Option::as_ref)
    }

    pub(super) fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), KvError> {
        let over = |what: String| Err(KvError::OverLimit(what));
        if key.is_empty() || key.len() > MAX_KEY {
            return over(format!("a key of {} bytes; a key has 1 to {MAX_KEY}", key.len()));
        }
        if value.len() > MAX_VALUE {
            return over(format!("a value of {} bytes; the limit is {MAX_VALUE}", value.len()));
        }
        let old = self.get(&key).map(Vec::len);
        let keys = self.keys + usize::from(old.is_none());
        let bytes = self.bytes + value.len() + old.map_or(key.len(), |_| 0) - old.unwrap_or(0);
        if keys > MAX_KEYS {
            return over(format!("{keys} keys; the limit is {MAX_KEYS}"));
        }
        if bytes > MAX_STATE {
            return over(format!("{bytes} bytes of keys and values; the limit is {MAX_STATE}"));
        }
        (self.keys, self.bytes) = (keys, bytes);
        self.staged.insert(key, Some(value));
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &str) -> bool {
        let Some(old) = self.get(key).map(Vec::len) else { return false };
        self.keys -= 1;
        self.bytes -= old + key.len();
        // why: a key that never was in force needs no record of its going; one that was deleted and set again may not grow the overlay.
        if self.base.contains_key(key) {
            self.staged.insert(key.to_owned(), None)
        } else {
            self.staged.remove(key)
        };
        true
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<String> {
        let staged = self.staged.iter().filter(|(_, v)| v.is_some()).map(|(k, _)| k);
        let base = self.base.keys().filter(|k| !self.staged.contains_key(*k));
        let mut all: Vec<String> = base.chain(staged).filter(|k| k.starts_with(prefix)).cloned().collect();
        all.sort();
        all
    }

    /// The call was answered: hands the changes to the round, or loses them where that is over.
    pub(super) fn keep(self, source: &Source) {
        if let (Source::Round(round), Some(lease)) = (source, self.lease) {
            // why: only the round's end lets the next call in, also where nothing was written.
            let staged = self.staged.into_iter().filter(|(k, v)| self.base.get(k) != v.as_ref()).collect();
            drop(self.base);
            let kept = Kept { lease, staged };
            let mut open = round.staged.lock().unwrap_or_else(PoisonError::into_inner);
            match open.as_mut() {
                Some(all) => all.push(kept),
                None => drop(kept),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    fn call(round: &Arc<Round>) -> (Call, Source) {
        let source = Source::Round(Arc::clone(round));
        (Call::open(&source, "p", soon()).unwrap(), source)
    }

    fn value(states: &Arc<States>, key: &str) -> Option<Vec<u8>> {
        let round = Round::new(Arc::clone(states));
        call(&round).0.get(key).cloned()
    }

    #[test]
    fn only_what_was_answered_and_taken_counts() {
        let states = States::new(PluginStates::default());
        let round = Round::new(Arc::clone(&states));
        let (mut c, source) = call(&round);
        c.set("a".into(), b"1".to_vec()).unwrap();
        c.keep(&source);
        round.commit(&["other"]);
        assert_eq!(value(&states, "a"), None, "its answer was not taken");

        let (mut late, source) = call(&round);
        late.set("a".into(), b"2".to_vec()).unwrap();
        late.keep(&source);
        assert_eq!(value(&states, "a"), None, "the round was over");

        let round = Round::new(Arc::clone(&states));
        let (mut c, source) = call(&round);
        c.set("a".into(), b"3".to_vec()).unwrap();
        c.keep(&source);
        round.commit(&["p"]);
        assert_eq!(value(&states, "a"), Some(b"3".to_vec()));
        let changes = states.take_changes();
        assert_eq!((changes.len(), changes[0].set["a"].bytes()), (1, Some(b"3".to_vec())));
        assert!(states.take_changes().is_empty());
    }

    #[test]
    fn what_is_not_recorded_is_taken_back() {
        let states = States::new(PluginStates([("p".into(), [("a".into(), b"0".to_vec())].into())].into()));
        let mark = states.mark();
        for key in ["a", "b"] {
            let round = Round::new(Arc::clone(&states));
            let (mut c, source) = call(&round);
            c.set(key.into(), b"1".to_vec()).unwrap();
            c.delete("zzz");
            c.keep(&source);
            round.commit(&["p"]);
        }
        states.take_back(mark);
        assert_eq!((value(&states, "a"), value(&states, "b")), (Some(b"0".to_vec()), None));
        assert!(states.take_changes().is_empty());
    }

    #[test]
    fn calls_of_one_policy_wait_for_each_other_and_for_no_other() {
        let states = States::new(PluginStates::default());
        let round = Round::new(Arc::clone(&states));
        let (held, _) = call(&round);
        let source = Source::Round(Arc::clone(&round));
        assert!(Call::open(&source, "q", soon()).is_ok());
        let soon_over = Instant::now() + Duration::from_millis(5);
        assert!(matches!(Call::open(&source, "p", soon_over), Err(KvError::Unavailable(_))));
        drop(held);
        assert!(Call::open(&source, "p", soon()).is_ok());
        let broken = Round::new(States::unreadable("why".into()));
        assert!(matches!(Call::open(&Source::Round(broken), "p", soon()), Err(KvError::Unavailable(w)) if w == "why"));
    }

    #[test]
    fn limits_hold_and_an_operation_over_one_changes_nothing() {
        let mut c = Call::open(&Source::Scratch, "p", soon()).unwrap();
        let over = |r: Result<(), KvError>| matches!(r, Err(KvError::OverLimit(_)));
        assert!(over(c.set(String::new(), vec![])) && over(c.set("k".repeat(MAX_KEY + 1), vec![])));
        assert!(over(c.set("k".into(), vec![0; MAX_VALUE + 1])));
        for n in 0..3 {
            c.set(n.to_string(), vec![0; MAX_VALUE]).unwrap();
        }
        assert!(over(c.set("3".into(), vec![0; MAX_VALUE])), "the keys count too");
        assert!(c.get("3").is_none());
        c.set("0".into(), vec![]).unwrap();
        c.set("3".into(), vec![0; MAX_VALUE]).unwrap();
        let mut c = Call::open(&Source::Scratch, "p", soon()).unwrap();
        for n in 0..MAX_KEYS {
            c.set(n.to_string(), vec![]).unwrap();
        }
        assert!(over(c.set("one more".into(), vec![])));
        assert!(c.delete("7") && !c.delete("7"));
        c.set("one more".into(), vec![]).unwrap();
        assert_eq!(c.list("").len(), MAX_KEYS);
    }

    proptest! {
        /// Whatever a call does, what the round leaves is what a plain map would hold, and the recorded change leads there too.
        #[test]
        fn a_call_is_a_map_and_its_record_replays(
            base in proptest::collection::btree_map("[a-d]{1,2}", proptest::collection::vec(any::<u8>(), 0..3), 0..5),
            steps in proptest::collection::vec(("[a-d]{1,2}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..3))), 0..12),
        ) {
            let before = PluginStates([("p".to_owned(), base.clone())].into());
            let states = States::new(before.clone());
            let round = Round::new(Arc::clone(&states));
            let (mut c, source) = call(&round);
            let mut model = base;
            for (key, value) in steps {
                match value {
                    Some(v) => {
                        c.set(key.clone(), v.clone()).unwrap();
                        model.insert(key, v);
                    }
                    None => prop_assert_eq!(c.delete(&key), model.remove(&key).is_some()),
                }
                prop_assert_eq!(c.list(""), model.keys().cloned().collect::<Vec<_>>());
                prop_assert_eq!((c.keys, c.bytes), (model.len(), model.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()));
            }
            c.keep(&source);
            round.commit(&["p"]);
            let mut replay = before;
            states.take_changes().iter().for_each(|e| replay.change(e));
            prop_assert_eq!(replay.0.get("p").cloned().unwrap_or_default(), model.clone());
            let round = Round::new(states);
            prop_assert_eq!(&*call(&round).0.base, &model);
        }
    }
}
