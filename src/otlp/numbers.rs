//! The sums of metrics, cumulative from when a sink began. Pure.
//!
//! Invariants: a point counts once; the number of series has a cap, over which points count in one overflow series a metric; what is
//! stored is read back as it was, or, where a later version counts otherwise, begun anew with a new start time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::conventions::{METRICS, Metric, OVERFLOW, SCHEMA_URL, Shape};
use super::message::{
    self, Data, Histogram, HistogramPoint, KeyValue, MetricsRequest, Number, NumberPoint, Resource, ResourceMetrics, ScopeMetrics, Sum,
    Temporality,
};
use super::parts::cut;

/// Most series of one metric with attributes of their own.
pub const SERIES_MAX: usize = 250;
/// Longest value of an attribute, in bytes.
const VALUE_MAX: usize = 64;

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    metric: &'static str,
    attributes: Vec<(String, String)>,
    value: f64,
}

impl Point {
    pub fn new(metric: &Metric, value: f64, attributes: &[(&str, &str)]) -> Self {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), cut(v, VALUE_MAX).to_owned())).collect();
        Self { metric: metric.name, attributes, value }
    }
}

/// One series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct One {
    metric: String,
    attributes: Vec<(String, String)>,
    count: u64,
    sum: f64,
    /// One more than there are bounds; none for a sum.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    buckets: Vec<u64>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// Wall clock in milliseconds.
    start: i64,
    all: BTreeMap<(String, Vec<(String, String)>), One>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    start: i64,
    series: Vec<One>,
}

impl Series {
    /// Nothing counted yet.
    pub fn begin(now: i64) -> Self {
        Self { start: now, all: BTreeMap::new() }
    }

    /// What was stored; begun anew where it cannot be read, or was counted in other buckets.
    pub fn read(bytes: &[u8], now: i64) -> Self {
        let fits = |o: &One| METRICS.iter().any(|m| m.name == o.metric && buckets(m) == o.buckets.len());
        match serde_json::from_slice::<Stored>(bytes) {
            Ok(s) if s.series.iter().all(fits) => {
                Self { start: s.start, all: s.series.into_iter().map(|o| ((o.metric.clone(), o.attributes.clone()), o)).collect() }
            }
            _ => Self::begin(now),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        // why never: plain data with string keys; serialising it cannot fail.
        serde_json::to_vec(&Stored { start: self.start, series: self.all.values().cloned().collect() }).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn add(&mut self, point: &Point) {
        let Some(metric) = METRICS.iter().find(|m| m.name == point.metric) else { return };
        let mut key = (point.metric.to_owned(), point.attributes.clone());
        if !self.all.contains_key(&key) && self.all.keys().filter(|k| k.0 == key.0).count() >= SERIES_MAX {
            key.1 = vec![(OVERFLOW.to_owned(), "true".to_owned())];
        }
        let one = self.all.entry(key).or_insert_with_key(|(name, attributes)| One {
            metric: name.clone(),
            attributes: attributes.clone(),
            count: 0,
            sum: 0.0,
            buckets: vec![0; buckets(metric)],
        });
        one.count += 1;
        one.sum += point.value;
        if let Shape::Histogram(bounds) = metric.shape {
            // why at or below: an upper bound belongs to its bucket.
            one.buckets[bounds.iter().position(|b| point.value <= *b).unwrap_or(bounds.len())] += 1;
        }
    }

    /// All of it, as of now.
    pub fn request(&self, resource: Resource, now: i64) -> MetricsRequest {
        let (start, time) = (super::parts::nanos(self.start), super::parts::nanos(now.max(self.start)));
        let metrics = METRICS.iter().filter_map(|m| self.metric(m, start, time)).collect();
        let scope = ScopeMetrics { scope: Some(super::scope()), metrics, schema_url: SCHEMA_URL.to_owned() };
        let of = ResourceMetrics { resource: Some(resource), scope_metrics: vec![scope], schema_url: SCHEMA_URL.to_owned() };
        MetricsRequest { resource_metrics: vec![of] }
    }

    fn metric(&self, m: &Metric, start: u64, time: u64) -> Option<message::Metric> {
        let of: Vec<&One> = self.all.values().filter(|o| o.metric == m.name).collect();
        if of.is_empty() {
            return None;
        }
        let attributes = |o: &One| o.attributes.iter().map(|(k, v)| attribute(k, v)).collect();
        let cumulative = Temporality::Cumulative.into();
        let data = match m.shape {
            Shape::Sum => Data::Sum(Sum {
                data_points: of
                    .iter()
                    .map(|o| NumberPoint {
                        start_time_unix_nano: start,
                        time_unix_nano: time,
                        value: Some(Number::Double(o.sum)),
                        attributes: attributes(o),
                    })
                    .collect(),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            }),
            Shape::Histogram(bounds) => Data::Histogram(Histogram {
                data_points: of
                    .iter()
                    .map(|o| HistogramPoint {
                        start_time_unix_nano: start,
                        time_unix_nano: time,
                        count: o.count,
                        sum: Some(o.sum),
                        bucket_counts: o.buckets.clone(),
                        explicit_bounds: bounds.to_vec(),
                        attributes: attributes(o),
                    })
                    .collect(),
                aggregation_temporality: cumulative,
            }),
        };
        Some(message::Metric { name: m.name.to_owned(), description: m.help.to_owned(), unit: m.unit.to_owned(), data: Some(data) })
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    if key == OVERFLOW { KeyValue::new(key, true) } else { KeyValue::new(key, value) }
}

const fn buckets(m: &Metric) -> usize {
    match m.shape {
        Shape::Sum => 0,
        Shape::Histogram(bounds) => bounds.len() + 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::conventions::{OPERATION_DURATION, SESSION_ENDS, TOKEN_USAGE};
    use super::*;

    fn point(n: u64) -> Point {
        let metric = [&TOKEN_USAGE, &OPERATION_DURATION, &SESSION_ENDS][usize::try_from(n % 3).unwrap_or(0)];
        Point::new(metric, (n % 700) as f64, &[("model", ["a", "b"][usize::try_from(n / 3 % 2).unwrap_or(0)])])
    }

    proptest! {
        /// Stored after any of them and read back, as a daemon that was killed does: the sums are those of one that never was.
        #[test]
        fn a_restart_changes_no_sum(points in proptest::collection::vec(any::<u64>(), 0..80), cut in 0usize..80) {
            let mut whole = Series::begin(7);
            points.iter().for_each(|n| whole.add(&point(*n)));
            let mut first = Series::begin(7);
            let cut = cut.min(points.len());
            points[..cut].iter().for_each(|n| first.add(&point(*n)));
            let mut second = Series::read(&first.bytes(), 99);
            points[cut..].iter().for_each(|n| second.add(&point(*n)));
            prop_assert_eq!(&second, &whole);
            prop_assert!(whole.all.values().all(|o| o.buckets.is_empty() || o.buckets.iter().sum::<u64>() == o.count));
        }
    }

    #[test]
    fn series_over_the_cap_count_together() {
        let mut s = Series::begin(0);
        for n in 0..SERIES_MAX + 50 {
            s.add(&Point::new(&SESSION_ENDS, 1.0, &[("x", &n.to_string())]));
        }
        assert_eq!(s.all.len(), SERIES_MAX + 1);
        let request = s.request(Resource::default(), 5);
        let Some(Data::Sum(sum)) = &request.resource_metrics[0].scope_metrics[0].metrics[0].data else { panic!("a sum") };
        let over = sum.data_points.iter().find(|p| p.attributes[0].key == OVERFLOW).expect("the overflow series");
        assert_eq!((over.value, sum.is_monotonic), (Some(Number::Double(50.0)), true));
    }

    #[test]
    fn what_another_version_counted_otherwise_is_begun_anew() {
        let mut s = Series::begin(7);
        s.add(&Point::new(&TOKEN_USAGE, 16.0, &[]));
        assert_eq!(s.all.values().next().map(|o| o.buckets[2]), Some(1), "a bound belongs to its bucket");
        let text = String::from_utf8(s.bytes()).expect("text");
        assert_eq!(Series::read(text.replacen("[0,", "[0,0,", 1).as_bytes(), 50), Series::begin(50));
        assert_eq!(Series::read(b"torn", 50), Series::begin(50));
    }
}
