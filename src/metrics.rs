//! Numbers for operators: counters and histograms that the host keeps as it works, in the text form that Prometheus reads.
//!
//! Invariants:
//! - recording is an addition to an atomic, or a short lock around a few of them; it never waits for a reader;
//! - labels are closed sets, or names of the operator's own with a cap ([`POLICIES_MAX`], [`MODELS_MAX`]); what is over it counts under
//!   `other`; nothing that an agent chooses is a label, but for its model's name, cut and capped;
//! - counters begin with the daemon, as Prometheus expects; what is stored (sessions, waiting approvals) is set at the time of reading.
//!
//! Called by `session` (recording) and `api` (reading).

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

mod queue;

pub use queue::QueueNumbers;

use crate::model::{Answer, By, Effect, Event, FailureCause, Nanousd, Status, Usage};

/// Most policies with a label of their own.
pub const POLICIES_MAX: usize = 64;
/// Most models with a label of their own.
pub const MODELS_MAX: usize = 32;
/// Longest label value, in characters.
const LABEL_MAX: usize = 64;
/// What is over a cap counts under this name.
const OTHER: &str = "other";
/// The media type of [`Metrics::text`].
pub const TEXT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Microseconds to seconds: decisions and appends.
const FAST: [f64; 16] = [5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 500e-3, 2.5];

type Label = [(&'static str, String); 1];
type Labels = [(&'static str, String); 2];

const EFFECTS: [Effect; 4] = [Effect::Abstain, Effect::Allow, Effect::Ask, Effect::Deny];
const BYS: [(By, &str); 7] = [
    (By::Policy, "policy"),
    (By::Default, "default"),
    (By::Approval, "approval"),
    (By::Unattended, "unattended"),
    (By::Expired, "expired"),
    (By::Withdrawn, "withdrawn"),
    (By::Host, "host"),
];
const CAUSES: [FailureCause; 7] = [
    FailureCause::Load,
    FailureCause::Trap,
    FailureCause::Deadline,
    FailureCause::Memory,
    FailureCause::BadAnswer,
    FailureCause::Quarantined,
    FailureCause::Busy,
];
const STATUSES: [Status; 6] = [Status::Queued, Status::Starting, Status::Running, Status::Paused, Status::Stopping, Status::Ended];

/// One policy's numbers, looked up once a call.
#[derive(Clone)]
struct OfPolicy {
    answers: [Counter; 4],
    failures: [Counter; 7],
    decide: Histogram,
}

/// One model's numbers.
#[derive(Clone)]
struct OfModel {
    input: Counter,
    output: Counter,
    cache_read: Counter,
    cache_write: Counter,
}

/// Everything that is counted. Shared; cheap to record to.
pub struct Metrics {
    registry: Registry,
    decisions: [[Counter; 7]; 4],
    answers: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
    policy_decide: Family<Label, Histogram>,
    policies: RwLock<HashMap<String, OfPolicy>>,
    /// The whole chain, and what stands before it.
    decide: Histogram,
    /// From handing a batch to the store until it is synced.
    append: Histogram,
    /// From reading a question until the frame with its answer is handed to the shim; calls that a person answers are not in it.
    gate: Histogram,
    /// From the arrival of a hook until its answer; those that hold for a person are not in it.
    hook: Histogram,
    breaches: Counter,
    tokens: Family<Labels, Counter>,
    models: RwLock<HashMap<String, OfModel>>,
    cost: Counter<f64, AtomicU64>,
    unpriced: Counter,
    writes_lost: Counter,
    sessions: [Gauge; 6],
    waiting: Gauge,
    memory: Gauge,
    sinks: OfSinks,
    lanes: queue::OfLanes,
}

/// What is only known by looking: handed in when the numbers are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// By status.
    pub sessions: Vec<(Status, u64)>,
    pub waiting: u64,
    pub resident_bytes: u64,
    pub sinks: Vec<SinkNumbers>,
    pub lanes: Vec<QueueNumbers>,
}

/// One audit sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkNumbers {
    pub name: String,
    pub lag_events: u64,
    pub lag_ms: u64,
    pub delivered: u64,
    pub failures: u64,
    pub dropped: u64,
    pub dead_letters: u64,
}

/// Numbers of sinks; the configuration caps how many there are.
#[derive(Default)]
struct OfSinks {
    lag_events: Family<Label, Gauge>,
    lag: Family<Label, Gauge<f64, AtomicU64>>,
    dead_letters: Family<Label, Gauge>,
    delivered: Family<Label, Counter>,
    failures: Family<Label, Counter>,
    dropped: Family<Label, Counter>,
}

impl OfSinks {
    fn register(r: &mut Registry) -> Self {
        let s = Self::default();
        r.register("sink_lag_events", "Events that a sink has not got yet", s.lag_events.clone());
        r.register_with_unit("sink_lag", "Age of the oldest event that waits for a sink", Unit::Seconds, s.lag.clone());
        r.register("sink_dead_letters", "Events that a sink never took", s.dead_letters.clone());
        r.register("sink_delivered", "Events that a sink took", s.delivered.clone());
        r.register("sink_failures", "Tries that did not work", s.failures.clone());
        r.register("sink_dropped", "Events that a best-effort sink was never given", s.dropped.clone());
        s
    }

    fn set(&self, sinks: &[SinkNumbers]) {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for s in sinks {
            let label = [("sink", s.name.clone())];
            self.lag_events.get_or_create(&label).set(gauge(s.lag_events));
            #[allow(clippy::cast_precision_loss)] // why: an age for a graph.
            self.lag.get_or_create(&label).set(s.lag_ms as f64 / 1e3);
            self.dead_letters.get_or_create(&label).set(gauge(s.dead_letters));
            // why stored, not added: they are counted elsewhere, and only grow.
            for (family, n) in [(&self.delivered, s.delivered), (&self.failures, s.failures), (&self.dropped, s.dropped)] {
                family.get_or_create(&label).inner().store(n, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}

fn counters<const N: usize>(make: impl Fn(usize) -> Counter) -> [Counter; N] {
    std::array::from_fn(make)
}

impl Metrics {
    /// Made once a daemon; `started_at` in milliseconds.
    pub fn new(started_at: i64) -> Self {
        let mut registry = Registry::default();
        let info = Family::<Label, Gauge>::default();
        info.get_or_create(&[("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        registry.register("beadle_build", "The daemon's version; always 1", info);
        let memory = Gauge::default();
        registry.register("process_resident_memory_bytes", "Memory of the daemon in RAM", memory.clone());
        let start = Gauge::<f64, AtomicU64>::default();
        #[allow(clippy::cast_precision_loss)] // why: milliseconds of this century fit a float.
        start.set(started_at as f64 / 1000.0);
        registry.register("process_start_time_seconds", "When the daemon started", start);

        let r = registry.sub_registry_with_prefix("beadle");
        let decided = Family::<Labels, Counter>::default();
        r.register("decisions", "Tool calls decided, by what was decided and by whom", decided.clone());
        let of =
            |e: usize, b: usize| decided.get_or_create(&[("effect", EFFECTS[e].as_str().to_owned()), ("by", BYS[b].1.to_owned())]).clone();
        let answers = Family::default();
        r.register("policy_answers", "Answers of each policy", answers.clone());
        let failures = Family::default();
        r.register("policy_failures", "Failures of each policy, by cause", failures.clone());
        let fast: fn() -> Histogram = || Histogram::new(FAST);
        let policy_decide = Family::new_with_constructor(fast);
        r.register_with_unit("policy_decide", "Time of one policy's answer", Unit::Seconds, policy_decide.clone());
        let mut histogram = |name: &str, help: &str| {
            let h = fast();
            r.register_with_unit(name, help, Unit::Seconds, h.clone());
            h
        };
        let decide = histogram("decide", "Time of a whole judgement: record, host rules, all policies");
        let append = histogram("append", "Time until an append is synced");
        let gate = histogram("gate", "Time from reading a question until its answer is handed to the agent, where no person was asked");
        let hook = histogram("hook", "Time from a hook's arrival until its answer, where no person was asked");
        let breaches = Counter::default();
        r.register("breaches", "Tools that ran without, or against, a decision", breaches.clone());
        let tokens = Family::default();
        r.register("tokens", "Tokens by model and kind", tokens.clone());
        let cost = Counter::<f64, AtomicU64>::default();
        r.register("cost_usd", "Cost of responses with a known price, in US dollars", cost.clone());
        let unpriced = Counter::default();
        r.register("responses_without_price", "Model responses whose cost is unknown", unpriced.clone());
        let writes_lost = Counter::default();
        r.register("writes_lost", "Writes of other programs that their emitters gave up", writes_lost.clone());
        let by_status = Family::<Label, Gauge>::default();
        r.register("sessions", "Sessions by status", by_status.clone());
        let waiting = Gauge::default();
        r.register("approvals_waiting", "Questions that wait for a person", waiting.clone());
        let sinks = OfSinks::register(r);
        let lanes = queue::OfLanes::register(r);
        Self {
            sinks,
            lanes,
            decisions: std::array::from_fn(|e| counters(|b| of(e, b))),
            answers,
            failures,
            policy_decide,
            policies: RwLock::default(),
            decide,
            append,
            gate,
            hook,
            breaches,
            tokens,
            models: RwLock::default(),
            cost,
            unpriced,
            writes_lost,
            sessions: std::array::from_fn(|i| by_status.get_or_create(&[("status", STATUSES[i].as_str().to_owned())]).clone()),
            waiting,
            memory,
            registry,
        }
    }

    fn decided(&self, effect: Effect, by: By) {
        let e = EFFECTS.iter().position(|x| *x == effect).unwrap_or(0);
        let b = BYS.iter().position(|(x, _)| *x == by).unwrap_or(0);
        self.decisions[e][b].inc();
    }

    /// What each policy answered, and how long all of it took.
    pub fn judged(&self, answers: &[Answer], took: Duration) {
        self.decide.observe(took.as_secs_f64());
        for a in answers {
            let record = |p: &OfPolicy| {
                #[allow(clippy::cast_precision_loss)] // why: a latency is far below 2^52 microseconds.
                p.decide.observe(a.latency_us as f64 / 1e6);
                if let Some(cause) = a.failed {
                    p.failures[CAUSES.iter().position(|c| *c == cause).unwrap_or(0)].inc();
                }
                p.answers[EFFECTS.iter().position(|x| *x == a.decision.effect).unwrap_or(0)].inc();
            };
            with(&self.policies, POLICIES_MAX, &a.policy, |name| self.of_policy(name), record);
        }
    }

    /// What an append made durable.
    pub fn recorded(&self, events: &[Event]) {
        for e in events {
            match e {
                Event::ToolDecided(d) => self.decided(d.effect, d.by),
                Event::ModelResponded(m) => self.responded(&m.model, m.usage, m.cost),
                Event::MediationBreached(_) => drop(self.breaches.inc()),
                _ => {}
            }
        }
    }

    pub fn appended(&self, took: Duration) {
        self.append.observe(took.as_secs_f64());
    }

    pub fn answered(&self, took: Duration) {
        self.gate.observe(took.as_secs_f64());
    }

    pub fn hooked(&self, took: Duration) {
        self.hook.observe(took.as_secs_f64());
    }

    /// So many writes of other programs are in no log.
    pub fn writes_lost(&self, count: u64) {
        self.writes_lost.inc_by(count);
    }

    fn responded(&self, model: &str, usage: Usage, cost: Option<Nanousd>) {
        let record = |m: &OfModel| {
            m.input.inc_by(usage.input);
            m.output.inc_by(usage.output);
            m.cache_read.inc_by(usage.cache_read);
            m.cache_write.inc_by(usage.cache_write);
        };
        with(&self.models, MODELS_MAX, model, |name| self.of_model(name), record);
        match cost {
            #[allow(clippy::cast_precision_loss)] // why: a sum for a graph; the log has the exact one.
            Some(nano) => drop(self.cost.inc_by(nano as f64 / 1e9)),
            None => drop(self.unpriced.inc()),
        }
    }

    /// All of it as text, `# EOF` last.
    pub fn text(&self, looked: &Looked) -> String {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for (status, g) in STATUSES.iter().zip(&self.sessions) {
            g.set(gauge(looked.sessions.iter().find(|(s, _)| s == status).map_or(0, |(_, n)| *n)));
        }
        self.waiting.set(gauge(looked.waiting));
        self.memory.set(gauge(looked.resident_bytes));
        self.lanes.set(&looked.lanes);
        self.sinks.set(&looked.sinks);
        let mut out = String::new();
        // why ignore: writing to a string cannot fail.
        let _ = encode(&mut out, &self.registry);
        out
    }

    fn of_policy(&self, name: &str) -> OfPolicy {
        let named = |value: &str| [("policy", name.to_owned()), ("effect", value.to_owned())];
        let caused = |value: &str| [("policy", name.to_owned()), ("cause", value.to_owned())];
        OfPolicy {
            answers: counters(|i| self.answers.get_or_create(&named(EFFECTS[i].as_str())).clone()),
            failures: counters(|i| self.failures.get_or_create(&caused(CAUSES[i].as_str())).clone()),
            decide: self.policy_decide.get_or_create(&[("policy", name.to_owned())]).clone(),
        }
    }

    fn of_model(&self, name: &str) -> OfModel {
        let kind = |kind: &str| self.tokens.get_or_create(&[("model", name.to_owned()), ("kind", kind.to_owned())]).clone();
        OfModel { input: kind("input"), output: kind("output"), cache_read: kind("cache_read"), cache_write: kind("cache_write") }
    }
}

/// Records to the entry of `name`, made when it is new; over the cap, to that of [`OTHER`].
fn with<T>(map: &RwLock<HashMap<String, T>>, max: usize, name: &str, make: impl Fn(&str) -> T, record: impl Fn(&T)) {
    if let Some(entry) = map.read().unwrap_or_else(PoisonError::into_inner).get(name) {
        return record(entry);
    }
    let mut map = map.write().unwrap_or_else(PoisonError::into_inner);
    // why: the name as it came is the key only when it is kept whole; so neither long nor many names grow the map.
    let short = name.chars().count() <= LABEL_MAX;
    let key = if short && (map.contains_key(name) || map.len() < max) { name } else { OTHER };
    record(map.entry(key.to_owned()).or_insert_with(|| make(key)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Decision, Mode};

    fn answer(policy: &str, failed: Option<FailureCause>) -> Answer {
        let decision = Decision::new(Effect::Deny, "r".to_owned());
        Answer { policy: policy.to_owned(), digest: String::new(), mode: Mode::Enforce, decision, failed, latency_us: 20 }
    }

    #[test]
    fn what_is_recorded_is_what_is_read() {
        let m = Metrics::new(1_767_225_600_000);
        m.decided(Effect::Allow, By::Policy);
        m.decided(Effect::Deny, By::Unattended);
        m.judged(&[answer("rules", None), answer("bad", Some(FailureCause::Deadline))], Duration::from_micros(30));
        m.appended(Duration::from_micros(200));
        m.answered(Duration::from_micros(900));
        m.recorded(&[crate::model::MediationBreached { what: "w".into(), detail: "d".into(), call: None, action: "stop".into() }.into()]);
        m.responded(
            "claude-opus-4-8",
            Usage { input: 5, output: 7, cache_read: 11, cache_write: 13, ..Usage::default() },
            Some(1_500_000_000),
        );
        m.responded("claude-opus-4-8", Usage::default(), None);
        let text = m.text(&Looked {
            sessions: vec![(Status::Running, 3)],
            waiting: 2,
            resident_bytes: 4096,
            sinks: vec![SinkNumbers { name: "siem".into(), lag_ms: 1500, delivered: 7, ..SinkNumbers::default() }],
            lanes: vec![QueueNumbers { lane: "wide".into(), depth: 4, wait_p99_ms: Some(250), ended: 9, ..QueueNumbers::default() }],
        });
        for line in [
            "beadle_decisions_total{effect=\"allow\",by=\"policy\"} 1",
            "beadle_decisions_total{effect=\"deny\",by=\"unattended\"} 1",
            "beadle_decisions_total{effect=\"ask\",by=\"policy\"} 0",
            "beadle_policy_answers_total{policy=\"rules\",effect=\"deny\"} 1",
            "beadle_policy_failures_total{policy=\"bad\",cause=\"deadline\"} 1",
            "beadle_policy_decide_seconds_count{policy=\"rules\"} 1",
            "beadle_policy_decide_seconds_bucket{le=\"0.000025\",policy=\"rules\"} 1",
            "beadle_decide_seconds_count 1",
            "beadle_append_seconds_count 1",
            "beadle_gate_seconds_bucket{le=\"0.001\"} 1",
            "beadle_breaches_total 1",
            "beadle_tokens_total{model=\"claude-opus-4-8\",kind=\"cache_read\"} 11",
            "beadle_cost_usd_total 1.5",
            "beadle_responses_without_price_total 1",
            "beadle_sessions{status=\"running\"} 3",
            "beadle_sessions{status=\"ended\"} 0",
            "beadle_approvals_waiting 2",
            "process_resident_memory_bytes 4096",
            "beadle_sink_delivered_total{sink=\"siem\"} 7",
            "beadle_sink_lag_seconds{sink=\"siem\"} 1.5",
            "beadle_queue_sessions{lane=\"wide\",state=\"waiting\"} 4",
            "beadle_queue_wait_seconds{lane=\"wide\",quantile=\"0.99\"} 0.25",
            "beadle_queue_ended_total{lane=\"wide\"} 9",
            "process_start_time_seconds 1767225600.0",
        ] {
            assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn names_that_somebody_else_chooses_do_not_grow_the_page() {
        let m = Metrics::new(0);
        for i in 0..10_000 {
            m.responded(&format!("model-{i}"), Usage { output: 1, ..Usage::default() }, None);
            m.judged(&[answer(&format!("policy-{i}"), None)], Duration::ZERO);
        }
        m.responded(&"x".repeat(100_000), Usage { output: 1, ..Usage::default() }, None);
        m.responded("a\"b\\c\nd", Usage { output: 1, ..Usage::default() }, None);
        let text = m.text(&Looked::default());
        let models = text.lines().filter(|l| l.starts_with("beadle_tokens_total") && l.contains("kind=\"output\"")).count();
        let policies = text.lines().filter(|l| l.starts_with("beadle_policy_decide_seconds_count")).count();
        assert_eq!((models, policies), (MODELS_MAX + 1, POLICIES_MAX + 1));
        assert!(text.contains(&format!("beadle_tokens_total{{model=\"other\",kind=\"output\"}} {}", 10_000 - MODELS_MAX + 2)), "{text}");
        assert!(text.len() < 300_000 && !text.contains("a\"b"), "{} bytes", text.len());
    }
}
