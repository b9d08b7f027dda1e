//! Weir's own metrics: counters, gauges and histograms with bounded labels, as Prometheus text and
//! as rows of tenant `system`.
//!
//! A family admits a fixed number of label sets; what comes after is counted under the label value
//! `other`, so that a hostile client cannot grow the process or a scrape.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

/// Upper bounds of the buckets of every duration histogram, in seconds.
pub const DURATION_BUCKETS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The most label sets of one family; later ones are counted under `other`.
pub const LABEL_SETS_MAX: usize = 10_000;

/// The longest label value, in bytes; longer ones are counted under `other`.
const LABEL_BYTES_MAX: usize = 128;

/// A count that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `by`.
    pub fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// The count.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `by`, which may be negative.
    pub fn add(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; DURATION_BUCKETS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Records one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let at = DURATION_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(DURATION_BUCKETS.len());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn snapshot(&self) -> HistogramValue {
        HistogramValue {
            bounds: DURATION_BUCKETS.to_vec(),
            counts: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }
}

/// The state of a histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramValue {
    /// Upper bounds of the buckets.
    pub bounds: Vec<f64>,
    /// Observations a bucket, the last one being those above every bound.
    pub counts: Vec<u64>,
    /// The sum of all observations in seconds.
    pub sum: f64,
}

/// One value of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A counter.
    Counter(u64),
    /// A gauge.
    Gauge(f64),
    /// A histogram.
    Histogram(HistogramValue),
}

/// One series of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Label names and values.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// A metric with labels: one instrument a label set.
#[derive(Debug)]
pub struct Family<T, const N: usize> {
    name: &'static str,
    help: &'static str,
    label_names: [&'static str; N],
    series: RwLock<HashMap<[Arc<str>; N], Arc<T>>>,
}

/// A label set to look up: every request looks for about ten, and must not make texts for that. It
/// hashes as the texts it is compared with.
#[derive(Hash)]
struct Labels<'a, const N: usize>([&'a str; N]);

impl<const N: usize> Equivalent<[Arc<str>; N]> for Labels<'_, N> {
    fn equivalent(&self, key: &[Arc<str>; N]) -> bool {
        self.0.iter().zip(key).all(|(label, known)| **label == **known)
    }
}

impl<T: Default, const N: usize> Family<T, N> {
    /// A family without series.
    pub fn new(name: &'static str, help: &'static str, label_names: [&'static str; N]) -> Self {
        Self { name, help, label_names, series: RwLock::new(HashMap::new()) }
    }

    /// The instrument of a label set, made if it is new.
    pub fn with(&self, labels: [&str; N]) -> Arc<T> {
        let labels = labels.map(|label| if label.len() > LABEL_BYTES_MAX { "other" } else { label });
        if let Some(found) = self.series.read().get(&Labels(labels)) {
            return Arc::clone(found);
        }
        let owned = labels.map(Arc::<str>::from);
        let mut series = self.series.write();
        let key = if series.len() >= LABEL_SETS_MAX && !series.contains_key(&owned) {
            labels.map(|_| Arc::<str>::from("other"))
        } else {
            owned
        };
        Arc::clone(series.entry(key).or_default())
    }

    /// Forgets the series whose label `at` has this value (a deleted tenant's).
    pub fn forget(&self, at: usize, value: &str) {
        self.series.write().retain(|labels, _| &*labels[at] != value);
    }

    fn collect(&self, into: &mut Vec<Sample>, read: impl Fn(&T) -> Value) {
        let mut samples: Vec<_> = self
            .series
            .read()
            .iter()
            .map(|(labels, instrument)| Sample {
                name: self.name,
                help: self.help,
                labels: self.label_names.iter().copied().zip(labels.iter().map(ToString::to_string)).collect(),
                value: read(instrument),
            })
            .collect();
        samples.sort_by(|left, right| left.labels.cmp(&right.labels));
        into.append(&mut samples);
    }
}

impl<const N: usize> Family<Counter, N> {
    /// Appends the samples of this family.
    pub fn samples(&self, into: &mut Vec<Sample>) {
        self.collect(into, |counter| Value::Counter(counter.value()));
    }
}

impl<const N: usize> Family<Gauge, N> {
    /// Appends the samples of this family.
    #[allow(clippy::cast_precision_loss, reason = "gauges stay far below 2^53")]
    pub fn samples(&self, into: &mut Vec<Sample>) {
        self.collect(into, |gauge| Value::Gauge(gauge.value() as f64));
    }
}

impl<const N: usize> Family<Histogram, N> {
    /// Appends the samples of this family.
    pub fn samples(&self, into: &mut Vec<Sample>) {
        self.collect(into, |histogram| Value::Histogram(histogram.snapshot()));
    }
}

/// A counter read elsewhere.
pub fn counter(name: &'static str, help: &'static str, value: u64) -> Sample {
    Sample { name, help, labels: Vec::new(), value: Value::Counter(value) }
}

/// A gauge read elsewhere.
#[allow(clippy::cast_precision_loss, reason = "gauges stay far below 2^53")]
pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Sample {
    Sample { name, help, labels: Vec::new(), value: Value::Gauge(value as f64) }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn labels_text(labels: &[(&'static str, String)], extra: Option<(&str, &str)>) -> String {
    let mut parts: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    if let Some((name, value)) = extra {
        parts.push(format!("{name}=\"{value}\""));
    }
    if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) }
}

/// The samples in the Prometheus text format, version 0.0.4: those of one metric stand together under the one line that
/// says its type, at the place of the first.
pub fn prometheus_text(samples: &[Sample]) -> String {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut ordered: Vec<(usize, &Sample)> = Vec::with_capacity(samples.len());
    for sample in samples {
        let next = places.len();
        ordered.push((*places.entry(sample.name).or_insert(next), sample));
    }
    ordered.sort_by_key(|(place, _)| *place);
    let mut out = String::with_capacity(samples.len() * 96);
    let mut last = "";
    for (_, sample) in ordered {
        if sample.name != last {
            let kind = match sample.value {
                Value::Counter(_) => "counter",
                Value::Gauge(_) => "gauge",
                Value::Histogram(_) => "histogram",
            };
            let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", sample.name, sample.help, sample.name);
            last = sample.name;
        }
        let labels = labels_text(&sample.labels, None);
        match &sample.value {
            Value::Counter(value) => {
                let _ = writeln!(out, "{}{labels} {value}", sample.name);
            }
            Value::Gauge(value) => {
                let _ = writeln!(out, "{}{labels} {value}", sample.name);
            }
            Value::Histogram(value) => {
                let mut total = 0;
                for (at, count) in value.counts.iter().enumerate() {
                    total += count;
                    let bound = value.bounds.get(at).map_or("+Inf".to_owned(), ToString::to_string);
                    let labels = labels_text(&sample.labels, Some(("le", &bound)));
                    let _ = writeln!(out, "{}_bucket{labels} {total}", sample.name);
                }
                let _ =
                    writeln!(out, "{}_sum{labels} {}\n{}_count{labels} {total}", sample.name, value.sum, sample.name);
            }
        }
    }
    out
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
