//! The events that stand before one sink, and what each answer of it does to them. Pure.
//!
//! Invariants:
//! - events leave from the front only, and each in one way: delivered, or put among the dead letters;
//! - the place that a step gives lies behind exactly the events that left;
//! - a refusal of a whole batch is narrowed down to one event before that event is called undeliverable;
//! - a receiver that refuses everything loses nothing: after [`REFUSED_MAX`] such events in a row it is failing, not they.
//!
//! Called by `worker`.

use std::collections::VecDeque;

use crate::model::{Delivery, SinkEvent};
use crate::store::{SinkItem, SinkPage, SinkPlace};

/// Events refused in a row, none taken between, after which nothing more is called undeliverable.
pub const REFUSED_MAX: u32 = 8;

/// A sink's answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// As the contract of plugins has it.
    Said(Delivery),
    /// It takes none of it, ever, and does not say which event is at fault.
    Refused { reason: String },
    /// It did not work; a later try may.
    Failed { why: String },
}

/// When to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pause {
    /// At once.
    None,
    /// After a pause that grows with the tries.
    Backoff { why: String },
    /// After so long, as the sink asked.
    For { ms: u64, why: String },
}

/// What an answer did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where the sink is now; `None` where nothing left.
    pub place: Option<SinkPlace>,
    pub delivered: u64,
    /// Event and reason.
    pub dead: Vec<(SinkEvent, String)>,
    pub pause: Pause,
}

/// See the module.
#[derive(Debug)]
pub struct Line {
    items: VecDeque<SinkItem>,
    /// Behind everything that was read.
    end: SinkPlace,
    /// Events of the next batch at most; less than `max` while a refusal is narrowed down.
    limit: usize,
    max: usize,
    max_bytes: usize,
    /// Tries of the front that did not work.
    tries: u32,
    refused: u32,
}

impl Line {
    pub fn new(place: SinkPlace, max: usize, max_bytes: usize) -> Self {
        Self { items: VecDeque::new(), end: place, limit: max, max, max_bytes, tries: 0, refused: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Where to read on.
    pub fn end(&self) -> SinkPlace {
        self.end
    }

    pub fn front(&self) -> Option<&SinkItem> {
        self.items.front()
    }

    /// Tries of the next batch so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Takes what was read after [`Self::end`], as far as it is wanted.
    pub fn load(&mut self, page: SinkPage, wanted: impl Fn(&SinkEvent) -> bool) {
        self.end = page.end;
        self.items.extend(page.items.into_iter().filter(|i| wanted(&i.event)));
    }

    /// Forgets what waits and goes on from `place`: it is dropped, or was changed behind our back.
    pub fn restart(&mut self, place: SinkPlace) {
        *self = Self::new(place, self.max, self.max_bytes);
    }

    /// The next try begins at once.
    pub fn hurry(&mut self) {
        self.tries = 0;
    }

    /// The events to try next.
    pub fn batch(&self) -> Vec<SinkEvent> {
        let mut bytes = 0;
        let fits = |(i, item): &(usize, &SinkItem)| {
            bytes += item.event.body.len();
            *i == 0 || bytes <= self.max_bytes
        };
        self.items.iter().enumerate().take(self.limit).take_while(fits).map(|(_, item)| item.event.clone()).collect()
    }

    /// Takes events off the front; gives them and the place behind them.
    pub fn take(&mut self, n: usize) -> (Vec<SinkEvent>, Option<SinkPlace>) {
        let taken: Vec<SinkItem> = self.items.drain(..n.min(self.items.len())).collect();
        let place = if self.items.is_empty() { Some(self.end) } else { taken.last().map(|i| i.place) };
        let place = place.filter(|_| !taken.is_empty());
        (taken.into_iter().map(|i| i.event).collect(), place)
    }

    /// What the answer to a batch of `len` events does. `room`: a dead letter can be kept.
    pub fn apply(&mut self, len: usize, answer: Answer, room: bool) -> Step {
        let stay = |pause| Step { place: None, delivered: 0, dead: vec![], pause };
        match answer {
            Answer::Said(Delivery::Accepted { count: 0 }) => {
                self.tries += 1;
                stay(Pause::Backoff { why: "it took none of the events".to_owned() })
            }
            Answer::Said(Delivery::Accepted { count }) => {
                let (taken, place) = self.take(count.min(len));
                (self.tries, self.refused) = (0, 0);
                self.limit = self.limit.saturating_mul(2).min(self.max);
                Step { place, delivered: taken.len() as u64, dead: vec![], pause: Pause::None }
            }
            Answer::Said(Delivery::RetryAfter { ms }) => {
                self.tries += 1;
                stay(Pause::For { ms, why: format!("it asked to be tried again after {ms} ms") })
            }
            Answer::Failed { why } => {
                self.tries += 1;
                stay(Pause::Backoff { why })
            }
            Answer::Refused { reason } if len > 1 => {
                self.limit = (len / 2).max(1);
                // why counted: the parts are further tries, whatever they hold.
                self.tries += 1;
                let _ = reason;
                stay(Pause::None)
            }
            Answer::Refused { reason } if self.refused >= REFUSED_MAX => {
                self.tries += 1;
                stay(Pause::Backoff { why: format!("it refuses every event: {reason}") })
            }
            Answer::Refused { reason } => self.bury(0, reason, room),
            Answer::Said(Delivery::Poison { index, reason }) => self.bury(index.min(len.saturating_sub(1)), reason, room),
        }
    }

    /// Those before `index` were taken, the one there never will be.
    fn bury(&mut self, index: usize, reason: String, room: bool) -> Step {
        let (taken, mut place) = self.take(index);
        if !room {
            self.tries += 1;
            let why = format!("an event cannot be delivered ({reason}), and there is no room for another dead letter");
            return Step { place, delivered: taken.len() as u64, dead: vec![], pause: Pause::Backoff { why } };
        }
        let (dead, behind) = self.take(1);
        place = behind.or(place);
        self.refused = if index == 0 { self.refused + 1 } else { 1 };
        self.tries = 0;
        let dead = dead.into_iter().map(|e| (e, reason.clone())).collect();
        Step { place, delivered: taken.len() as u64, dead, pause: Pause::None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn item(n: u64) -> SinkItem {
        let event = SinkEvent {
            session: format!("s{}", n % 3),
            seq: n / 3 + 1,
            at: 0,
            attempt: 1,
            kind: "note".to_owned(),
            body: format!("{{\"n\":{n}}}"),
            hash: format!("{n:x}"),
            labels: BTreeMap::new(),
        };
        SinkItem { place: SinkPlace { host_seq: 0, row: n + 1 }, event }
    }

    fn page(from: u64, to: u64) -> SinkPage {
        SinkPage { items: (from..to).map(item).collect(), end: SinkPlace { host_seq: 0, row: to }, more: false }
    }

    /// What a flaky sink does with one batch.
    #[derive(Debug, Clone)]
    enum Does {
        Takes,
        TakesPart(usize),
        Later,
        Fails,
        /// It took part of it and the answer was lost.
        TakesAndFails(usize),
        /// The host is killed after the sink took the batch, before the cursor moved.
        Killed,
    }

    fn does() -> impl Strategy<Value = Does> {
        prop_oneof![
            4 => Just(Does::Takes),
            2 => (0usize..40).prop_map(Does::TakesPart),
            1 => Just(Does::Later),
            2 => Just(Does::Fails),
            1 => (0usize..40).prop_map(Does::TakesAndFails),
            1 => Just(Does::Killed),
        ]
    }

    proptest! {
        /// Whatever a sink does, and wherever the host is killed: each event is taken at least once or is a dead letter once, only the
        /// bad ones are dead letters, and the first deliveries are in order.
        #[test]
        fn nothing_is_lost_and_nothing_is_out_of_order(
            total in 0u64..200,
            max in 1usize..64,
            bad in proptest::collection::btree_set(0u64..200, 0..6),
            blind in any::<bool>(),
            plan in proptest::collection::vec(does(), 0..60),
        ) {
            let mut plan = plan.into_iter();
            let mut stored = SinkPlace::default();
            let mut line = Line::new(stored, max, 1 << 20);
            let (mut got, mut dead): (Vec<SinkEvent>, Vec<SinkEvent>) = (vec![], vec![]);
            let is_bad = |e: &SinkEvent| bad.iter().any(|b| item(*b).event == *e);
            let mut rounds = 0;
            while stored.row < total {
                rounds += 1;
                prop_assert!(rounds < 5_000, "it does not end");
                if line.is_empty() {
                    let from = line.end().row;
                    line.load(page(from, total.min(from + 50)), |_| true);
                }
                let batch = line.batch();
                prop_assert!(!batch.is_empty() && batch.len() <= max);
                let answer = match (batch.iter().position(is_bad), plan.next().unwrap_or(Does::Takes)) {
                    (_, Does::Later) => Answer::Said(Delivery::RetryAfter { ms: 1 }),
                    (_, Does::Fails) => Answer::Failed { why: String::new() },
                    (Some(_), _) if blind => Answer::Refused { reason: "bad".to_owned() },
                    (Some(index), _) => {
                        got.extend_from_slice(&batch[..index]);
                        Answer::Said(Delivery::Poison { index, reason: "bad".to_owned() })
                    }
                    (None, Does::TakesPart(n)) => {
                        let n = n.min(batch.len());
                        got.extend_from_slice(&batch[..n]);
                        Answer::Said(Delivery::Accepted { count: n })
                    }
                    (None, Does::TakesAndFails(n)) => {
                        got.extend_from_slice(&batch[..n.min(batch.len())]);
                        Answer::Failed { why: String::new() }
                    }
                    (None, Does::Killed) => {
                        got.extend_from_slice(&batch);
                        line = Line::new(stored, max, 1 << 20);
                        continue;
                    }
                    (None, Does::Takes) => {
                        got.extend_from_slice(&batch);
                        Answer::Said(Delivery::Accepted { count: batch.len() })
                    }
                };
                let step = line.apply(batch.len(), answer, true);
                dead.extend(step.dead.into_iter().map(|(e, _)| e));
                if let Some(place) = step.place {
                    prop_assert!(place.row > stored.row, "the cursor only moves forward");
                    stored = place;
                }
            }
            let all: Vec<SinkEvent> = (0..total).map(|n| item(n).event).collect();
            let (lost, good): (Vec<_>, Vec<_>) = all.into_iter().partition(is_bad);
            prop_assert_eq!(dead, lost);
            let mut first: Vec<SinkEvent> = vec![];
            for e in got {
                if !first.contains(&e) {
                    first.push(e);
                }
            }
            prop_assert_eq!(first, good);
        }
    }

    #[test]
    fn a_receiver_that_refuses_everything_loses_nothing_more() {
        let mut line = Line::new(SinkPlace::default(), 16, 1 << 20);
        line.load(page(0, 40), |_| true);
        let mut dead = 0;
        for _ in 0..500 {
            let n = line.batch().len();
            dead += line.apply(n, Answer::Refused { reason: "no".to_owned() }, true).dead.len();
        }
        assert_eq!((dead, line.items.len()), (REFUSED_MAX as usize, 40 - REFUSED_MAX as usize));
        let n = line.batch().len();
        assert_eq!(
            line.apply(n, Answer::Said(Delivery::Accepted { count: n }), true).delivered,
            1,
            "one event at a time until it takes some"
        );
    }

    #[test]
    fn without_room_for_dead_letters_it_waits() {
        let mut line = Line::new(SinkPlace::default(), 16, 1 << 20);
        line.load(page(0, 4), |_| true);
        let step = line.apply(4, Answer::Said(Delivery::Poison { index: 2, reason: "no".to_owned() }), false);
        assert_eq!((step.delivered, step.dead.len(), line.items.len()), (2, 0, 2));
        assert!(matches!(step.pause, Pause::Backoff { why } if why.contains("no room")));
    }

    #[test]
    fn unwanted_events_are_passed_with_the_last_wanted_one() {
        let mut line = Line::new(SinkPlace::default(), 16, 1 << 20);
        line.load(page(0, 10), |e| e.session == "s0");
        assert_eq!(line.items.len(), 4);
        let step = line.apply(4, Answer::Said(Delivery::Accepted { count: 4 }), true);
        assert_eq!(step.place, Some(SinkPlace { host_seq: 0, row: 10 }));
        line.load(page(10, 12), |_| false);
        assert!(line.is_empty() && line.end().row == 12);
    }

    #[test]
    fn a_batch_ends_before_its_bytes_do_but_holds_one_event() {
        let mut line = Line::new(SinkPlace::default(), 16, 10);
        line.load(page(0, 4), |_| true);
        assert_eq!(line.batch().len(), 1);
    }
}
