//! Calls that came through hooks, and who waits for their answers.
//!
//! Invariant: the same words under the same id are one call with one answer, until its result is seen.
//!
//! Called by `hook`, and by `live` for the fold.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{Client, Heard, Told};
use crate::model::{Channel, Effect, Envelope, Event, ToolEnded};
use crate::session::mask;

/// Calls remembered until their result is seen; the oldest that has its answer is forgotten first.
const OPEN: usize = 4096;
/// Clients that wait for the same call.
const CLIENTS: usize = 16;
/// How long a call waits for a client that no longer asks.
pub const GONE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Open {
    digest: [u8; 32],
    told: Option<Told>,
    clients: Vec<Client>,
    asked_at: Instant,
    by_person: bool,
}

/// Calls that came through hooks, by the number of their request, until their result is seen.
#[derive(Debug, Default)]
pub(in crate::session) struct HookCalls {
    open: BTreeMap<u64, Open>,
}

impl HookCalls {
    /// Rebuilds from one event of the log, oldest first.
    pub(in crate::session) fn replay(&mut self, e: &Envelope) {
        match &e.event {
            Event::ToolRequested(r) if r.call.channel != Channel::Driver => {
                // why: a masked record is not the call that the agent asked about; it is judged anew then.
                if let Some(digest) =
                    r.call.call_id.as_deref().map(|id| digest(id, &r.call.tool, &r.call.input)).filter(|_| !masked(&e.event))
                {
                    self.insert(e.seq, digest, None);
                }
            }
            Event::ApprovalRequested(a) => self.waits(a.call),
            Event::ToolDecided(d) if masked(&e.event) => self.ended(d.call),
            Event::ToolDecided(d) => self.told(d.call, d.effect, &d.reason, d.updated_input.as_ref()),
            Event::ToolEnded(ToolEnded { call: Some(seq), .. }) => drop(self.open.remove(seq)),
            _ => {}
        }
    }

    pub(in crate::session) fn insert(&mut self, seq: u64, digest: [u8; 32], client: Option<Client>) {
        if self.open.len() >= OPEN
            && let Some(old) = self.open.iter().find(|(_, o)| o.told.is_some()).map(|(s, _)| *s)
        {
            self.open.remove(&old);
        }
        self.open
            .insert(seq, Open { digest, told: None, clients: client.into_iter().collect(), asked_at: Instant::now(), by_person: false });
    }

    /// Whether this call came through a hook: no frame carries its answer.
    pub(in crate::session) fn has(&self, seq: u64) -> bool {
        self.open.contains_key(&seq)
    }

    pub(in crate::session) fn told(&mut self, seq: u64, effect: Effect, reason: &str, input: Option<&Value>) {
        if let Some(o) = self.open.get_mut(&seq) {
            o.told = Some(Told { effect, reason: reason.to_owned(), input: input.cloned(), by_person: o.by_person });
        }
    }

    /// A person is asked about this call.
    pub(in crate::session) fn waits(&mut self, seq: u64) {
        if let Some(o) = self.open.get_mut(&seq) {
            o.by_person = true;
        }
    }

    pub(in crate::session) fn ended(&mut self, seq: u64) {
        self.open.remove(&seq);
    }

    /// Tells every client whose call is decided in what is synced up to `last`.
    pub(in crate::session) fn answer(&mut self, last: u64) {
        for (_, o) in self.open.range_mut(..=last) {
            let Some(told) = o.told.as_ref().filter(|_| !o.clients.is_empty()) else { continue };
            for client in o.clients.drain(..) {
                // why ignore: a client that has gone away runs nothing.
                let _ = client.send(Some(Heard::Decided(told.clone())));
            }
        }
    }

    /// Joins a further client with an open call of the same words; gives it back when there is none.
    pub(in crate::session) fn join(&mut self, digest: &[u8; 32], client: Client) -> Option<Client> {
        let Some(o) = self.open.values_mut().rev().find(|o| o.digest == *digest) else { return Some(client) };
        o.asked_at = Instant::now();
        match &o.told {
            Some(told) => drop(client.send(Some(Heard::Decided(told.clone())))),
            None => {
                o.clients.retain(|c| !c.is_closed());
                if o.clients.len() >= CLIENTS {
                    o.clients.remove(0);
                }
                o.clients.push(client);
            }
        }
        None
    }

    /// When the first undecided call has waited long enough for its client.
    pub(in crate::session) fn next_gone(&self) -> Option<Instant> {
        self.open.values().filter(|o| o.told.is_none()).map(|o| o.asked_at + GONE).min()
    }

    /// Undecided calls whose clients ask no more.
    pub(in crate::session) fn gone(&self, now: Instant) -> Vec<u64> {
        self.open.iter().filter(|(_, o)| o.told.is_none() && now >= o.asked_at + GONE).map(|(s, _)| *s).collect()
    }
}

fn masked(e: &Event) -> bool {
    e.body().to_string().contains(mask::MARK)
}

pub(super) fn digest(call_id: &str, tool: &str, input: &Value) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    for part in [call_id, tool, &input.to_string()] {
        h.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        h.update(part.as_bytes());
    }
    *h.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn client() -> (Client, tokio::sync::oneshot::Receiver<Option<Heard>>) {
        tokio::sync::oneshot::channel()
    }

    #[test]
    fn the_same_words_are_one_call_until_its_result() {
        let mut h = HookCalls::default();
        let d = digest("t1", "Bash", &json!({"command": "ls"}));
        assert_ne!(d, digest("t1", "Bash", &json!({"command": "rm"})), "other words under the same id are another call");
        let (a, mut got_a) = client();
        h.insert(5, d, Some(a));
        let (b, mut got_b) = client();
        assert!(h.join(&d, b).is_none(), "a second client waits for the same answer");
        h.answer(9);
        assert!(got_a.try_recv().is_err() && got_b.try_recv().is_err(), "nothing is told before it is decided");
        h.told(5, Effect::Deny, "no", None);
        h.answer(4);
        assert!(got_a.try_recv().is_err(), "nothing is told before it is synced");
        h.answer(5);
        let deny = Some(Heard::Decided(Told { effect: Effect::Deny, reason: "no".into(), input: None, by_person: false }));
        assert_eq!((got_a.try_recv(), got_b.try_recv()), (Ok(deny.clone()), Ok(deny.clone())));
        let (c, mut got_c) = client();
        assert!(h.join(&d, c).is_none());
        assert_eq!(got_c.try_recv(), Ok(deny), "decided is decided");
        h.ended(5);
        assert!(h.join(&d, client().0).is_some(), "after its result the same words are a new call");
    }

    #[test]
    fn memory_is_bounded_and_waiting_calls_are_kept() {
        let mut h = HookCalls::default();
        for seq in 1..=(OPEN as u64 + 10) {
            h.insert(seq, *blake3::hash(&seq.to_le_bytes()).as_bytes(), None);
            if seq > 3 {
                h.told(seq, Effect::Allow, "", None);
            }
        }
        assert!(h.open.len() <= OPEN && [1, 2, 3].iter().all(|s| h.has(*s)), "{}", h.open.len());
        let now = Instant::now();
        assert_eq!((h.gone(now), h.gone(now + GONE).len()), (vec![], 3));
    }
}
