//! How many rows a second go through the parts of a pipeline.

use std::collections::HashMap;
use std::time::Duration;

use weir_engine::{NodeStats, Progress};

/// How often rows are counted.
pub(super) const SAMPLED_EVERY: Duration = Duration::from_secs(2);

/// Rows that came in, and how many a second, by part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rates {
    at: Option<Duration>,
    parts: HashMap<Part, Rate>,
}

/// A part: an id is unique only among those of its role.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Source(String),
    Step(String),
    Sink(String),
}

#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    rows: u64,
    per_second: f64,
}

impl Rates {
    /// Takes note of the rows that have come by `now`.
    pub(super) fn sample(&mut self, now: Duration, progress: &Progress) {
        let seconds = self.at.map(|at| now.saturating_sub(at).as_secs_f64()).filter(|seconds| *seconds > 0.0);
        self.at = Some(now);
        let sources = progress.sources.iter().map(|(id, stats)| (Part::Source(id.clone()), stats));
        let steps = progress.steps.iter().map(|(id, stats)| (Part::Step(id.clone()), stats));
        let sinks = progress.sinks.iter().map(|(id, stats)| (Part::Sink(id.clone()), stats));
        for (part, stats) in sources.chain(steps).chain(sinks) {
            let rate = self.parts.entry(part).or_default();
            let rows = NodeStats::get(&stats.rows_in);
            #[expect(clippy::cast_precision_loss, reason = "rows of two seconds")]
            let more = rows.saturating_sub(rate.rows) as f64;
            *rate = Rate { rows, per_second: seconds.map_or(0.0, |seconds| more / seconds) };
        }
    }

    /// Rows that came into a part a second, over the last sample.
    pub(crate) fn of(&self, part: &Part) -> f64 {
        self.parts.get(part).map_or(0.0, |rate| rate.per_second)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn rows_of_the_last_sample_count() {
        let stats: Arc<NodeStats> = Arc::default();
        let progress = Progress { steps: vec![("w".to_owned(), Arc::clone(&stats))], ..Progress::default() };
        let (mut rates, part) = (Rates::default(), Part::Step("w".to_owned()));
        let mut after = |seconds: u64, rows: u64| {
            stats.rows_in.store(rows, Ordering::Relaxed);
            rates.sample(Duration::from_secs(seconds), &progress);
            (rates.of(&part), rates.of(&Part::Sink("w".to_owned())))
        };
        assert_eq!(after(10, 500), (0.0, 0.0));
        assert_eq!(after(12, 700), (100.0, 0.0));
        assert_eq!(after(14, 700), (0.0, 0.0));
    }
}
