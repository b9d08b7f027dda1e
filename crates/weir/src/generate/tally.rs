//! What has been sent and what became of it, for the line on the terminal and for the summary.

use std::fmt;
use std::time::Duration;

use super::courier::Receipt;

/// Complaints kept for the summary.
const COMPLAINTS_MAX: usize = 10;

/// Counts of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    /// Rows sent.
    pub(crate) sent: u64,
    /// Rows the server stored.
    pub(crate) stored: u64,
    /// Rows it refused; some are sent broken on purpose.
    pub(crate) rejected: u64,
    /// Rows it had stored before, found after a retry.
    pub(crate) deduplicated: u64,
    /// Rows of requests that were not answered as they should have been.
    pub(crate) unaccounted: u64,
    /// Requests answered or given up.
    pub(crate) requests: u64,
    /// Times a request was sent again.
    pub(crate) retries: u64,
    /// How long the run took.
    pub(crate) elapsed: Duration,
    /// How long answers took, half of them at most.
    pub(crate) p50: Duration,
    /// How long answers took, 99 of 100 at most.
    pub(crate) p99: Duration,
    /// What was wrong, at most the first ten.
    pub(crate) complaints: Vec<String>,
}

impl Summary {
    /// Whether every row sent was stored, refused as it had to be, or known before.
    pub(crate) fn is_clean(&self) -> bool {
        self.unaccounted == 0 && self.complaints.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64().max(0.001);
        writeln!(
            formatter,
            "sent {} rows in {} requests over {seconds:.1} s ({:.0} rows/s)",
            self.sent,
            self.requests,
            self.sent as f64 / seconds
        )?;
        writeln!(
            formatter,
            "stored {}, rejected {}, deduplicated {}, unaccounted {}, retries {}",
            self.stored, self.rejected, self.deduplicated, self.unaccounted, self.retries
        )?;
        write!(formatter, "latency p50 {:.1} ms, p99 {:.1} ms", millis(self.p50), millis(self.p99))?;
        for complaint in &self.complaints {
            write!(formatter, "\n  {complaint}")?;
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Durations in buckets that grow by a fifth: enough for percentiles, in constant memory.
#[derive(Debug)]
struct Latencies {
    buckets: [u64; Self::BUCKETS],
    count: u64,
}

impl Latencies {
    const BUCKETS: usize = 128;
    const SMALLEST_S: f64 = 20e-6;
    const GROWTH: f64 = 1.2;

    fn add(&mut self, took: Duration) {
        let bucket = (took.as_secs_f64() / Self::SMALLEST_S).max(1.0).log(Self::GROWTH).ceil() as usize;
        self.buckets[bucket.min(Self::BUCKETS - 1)] += 1;
        self.count += 1;
    }

    fn percentile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return Duration::from_secs_f64(Self::SMALLEST_S * Self::GROWTH.powi(bucket as i32));
            }
        }
        Duration::ZERO
    }
}

/// Counts in the making.
#[derive(Debug)]
pub(super) struct Tally {
    summary: Summary,
    latencies: Latencies,
    shown_sent: u64,
    shown_at: Duration,
}

impl Tally {
    pub(super) fn new(now: Duration) -> Self {
        let latencies = Latencies { buckets: [0; Latencies::BUCKETS], count: 0 };
        Self { summary: Summary::default(), latencies, shown_sent: 0, shown_at: now }
    }

    /// Counts a parcel of `rows` and what became of it.
    pub(super) fn add(&mut self, rows: u64, receipt: Receipt) {
        let summary = &mut self.summary;
        summary.sent += rows;
        summary.requests += 1;
        summary.stored += receipt.stored;
        summary.deduplicated += receipt.deduplicated;
        summary.rejected += receipt.rejected;
        summary.retries += receipt.retries;
        summary.unaccounted += rows.saturating_sub(receipt.stored + receipt.deduplicated + receipt.rejected);
        self.latencies.add(receipt.took);
        if let Some(complaint) = receipt.complaint
            && summary.complaints.len() < COMPLAINTS_MAX
        {
            summary.complaints.push(complaint);
        }
    }

    /// One line on how it goes, with the rate since the line before.
    pub(super) fn line(&mut self, now: Duration, waiting: usize) -> String {
        let seconds = now.saturating_sub(self.shown_at).as_secs_f64().max(0.001);
        let rate = (self.summary.sent - self.shown_sent) as f64 / seconds;
        self.shown_sent = self.summary.sent;
        self.shown_at = now;
        let summary = &self.summary;
        format!(
            "{rate:.0} rows/s, sent {}, stored {}, rejected {}, deduplicated {}, errors {}, retries {}, in flight {waiting}, p50 {:.1} ms, p99 {:.1} ms",
            summary.sent,
            summary.stored,
            summary.rejected,
            summary.deduplicated,
            summary.unaccounted,
            summary.retries,
            millis(self.latencies.percentile(0.5)),
            millis(self.latencies.percentile(0.99)),
        )
    }

    pub(super) fn finish(self, elapsed: Duration) -> Summary {
        let (p50, p99) = (self.latencies.percentile(0.5), self.latencies.percentile(0.99));
        Summary { elapsed, p50, p99, ..self.summary }
    }
}
