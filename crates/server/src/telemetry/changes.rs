//! Which of Weir's own series have changed since they were stored last. Most have not: a pipeline that rests, a table
//! nobody writes to and a limit have dozens of series each, and with hundreds of tenants they would be most of what is
//! stored.

use std::hash::BuildHasher;
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashMap};

use super::metrics::{Sample, Value};

/// Every series is stored so often though it has not changed, so that nobody has to look further back for it.
const ALL_EVERY: Duration = Duration::from_secs(300);

/// What was stored last, as hashes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    hasher: DefaultHashBuilder,
    /// Values by series.
    stored: HashMap<u64, u64>,
    /// When all were stored.
    all_at: Option<Duration>,
}

impl Changes {
    /// Those of the samples that are to be stored now.
    pub(super) fn of(&mut self, mut samples: Vec<Sample>, now: Duration) -> Vec<Sample> {
        if self.all_at.is_none_or(|all_at| now.saturating_sub(all_at) >= ALL_EVERY) {
            self.all_at = Some(now);
            // Series that are gone are forgotten with the others.
            self.stored.clear();
        }
        samples.retain(|sample| {
            let series = self.hasher.hash_one((sample.name, &sample.labels));
            let value = match &sample.value {
                Value::Counter(count) => self.hasher.hash_one(count),
                Value::Gauge(value) => self.hasher.hash_one(value.to_bits()),
                Value::Histogram(histogram) => self.hasher.hash_one((&histogram.counts, histogram.sum.to_bits())),
            };
            self.stored.insert(series, value) != Some(value)
        });
        samples
    }

    /// Nothing of what was stored last is sure to be there.
    pub(super) fn forget(&mut self) {
        self.all_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tenant: &str, value: f64) -> Sample {
        let labels = vec![("tenant", tenant.to_owned())];
        Sample { name: "weir_test", help: "", labels, value: Value::Gauge(value) }
    }

    #[test]
    fn what_has_not_changed_is_stored_every_five_minutes() {
        let mut changes = Changes::default();
        let mut stored = |seconds: u64, samples: &[(&str, f64)]| {
            let samples = samples.iter().map(|(tenant, value)| sample(tenant, *value)).collect();
            let stored = changes.of(samples, Duration::from_secs(seconds));
            stored.iter().map(|sample| sample.labels[0].1.clone()).collect::<Vec<_>>()
        };
        assert_eq!(stored(0, &[("a", 1.0), ("b", 1.0)]), ["a", "b"]);
        assert_eq!(stored(10, &[("a", 1.0), ("b", 2.0)]), ["b"]);
        assert_eq!(stored(20, &[("a", 1.0), ("b", 2.0), ("c", 0.0)]), ["c"]);
        assert_eq!(stored(30, &[("a", 0.0), ("b", 2.0), ("c", 5.0)]), ["a", "c"]);
        assert_eq!(stored(299, &[("a", 0.0), ("b", 2.0)]), [""; 0]);
        assert_eq!(stored(300, &[("a", 0.0), ("b", 2.0)]), ["a", "b"]);
        assert_eq!(stored(310, &[("a", 0.0), ("b", 2.0)]), [""; 0]);
    }

    #[test]
    fn what_failed_to_be_stored_is_stored_again() {
        let mut changes = Changes::default();
        let now = Duration::from_secs(1);
        assert_eq!(changes.of(vec![sample("a", 1.0)], now).len(), 1);
        changes.forget();
        assert_eq!(changes.of(vec![sample("a", 1.0)], now).len(), 1);
    }
}
