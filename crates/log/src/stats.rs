//! What the log counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the commit latency buckets, in milliseconds; the last bucket has none.
pub const COMMIT_BUCKETS_MS: [f64; 13] =
    [0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 10_000.0];

/// The state of a log at one moment. Counters count from opening.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogStats {
    /// Commits made durable.
    pub commits: u64,
    /// Appends answered with success.
    pub appends: u64,
    /// Rows stored.
    pub rows: u64,
    /// Rows left out because their id was known.
    pub rows_deduplicated: u64,
    /// Appends that repeated an idempotency key or a producer sequence.
    pub appends_repeated: u64,
    /// Appends refused because the disk is full.
    pub refused_full: u64,
    /// Appends refused because the queue is full.
    pub refused_queue: u64,
    /// Appends whose commit failed.
    pub appends_failed: u64,
    /// Bytes of commits, padding included.
    pub bytes_written: u64,
    /// Calls of fdatasync by the writers.
    pub syncs: u64,
    /// Segment files given up after a failed write or sync.
    pub segments_failed: u64,
    /// Damaged ranges found since opening.
    pub damages: u64,
    /// Damaged runs or blocks of the dedup index met.
    pub dedup_damages: u64,
    /// Commit latencies (from taking the requests to their durability) by the buckets of
    /// [`COMMIT_BUCKETS_MS`] and one beyond; not cumulative.
    pub commit_latency: [u64; COMMIT_BUCKETS_MS.len() + 1],
    /// Sum of the commit latencies, in nanoseconds.
    pub commit_latency_sum_ns: u64,
    /// Bytes of appends that wait or are being committed.
    pub queue_bytes: u64,
    /// Appends that wait.
    pub queue_appends: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes of the segment files.
    pub segment_bytes: u64,
    /// Keys of the dedup index in memory.
    pub dedup_recent_keys: u64,
    /// Keys of the dedup index on disk.
    pub dedup_run_keys: u64,
    /// Runs of the dedup index.
    pub dedup_runs: u64,
    /// Producers known.
    pub producers: u64,
    /// The oldest offset still there, one a shard.
    pub oldest: Vec<u64>,
    /// The durable end, one a shard.
    pub end: Vec<u64>,
    /// Whether appends are refused because the disk is full.
    pub is_full: bool,
}

/// The counters of one shard.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) appends: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) rows_deduplicated: AtomicU64,
    pub(crate) appends_repeated: AtomicU64,
    pub(crate) refused_full: AtomicU64,
    pub(crate) refused_queue: AtomicU64,
    pub(crate) appends_failed: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) segments_failed: AtomicU64,
    pub(crate) damages: AtomicU64,
    pub(crate) recent_keys: AtomicU64,
    pub(crate) producers: AtomicU64,
    latency: [AtomicU64; COMMIT_BUCKETS_MS.len() + 1],
    latency_sum_ns: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn observe_commit(&self, took: Duration) {
        let millis = took.as_secs_f64() * 1e3;
        let bucket = COMMIT_BUCKETS_MS.partition_point(|bound| *bound < millis);
        add(&self.latency[bucket], 1);
        add(&self.latency_sum_ns, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds this shard's counters to the sums.
    pub(crate) fn add_to(&self, stats: &mut LogStats) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.commits += of(&self.commits);
        stats.appends += of(&self.appends);
        stats.rows += of(&self.rows);
        stats.rows_deduplicated += of(&self.rows_deduplicated);
        stats.appends_repeated += of(&self.appends_repeated);
        stats.refused_full += of(&self.refused_full);
        stats.refused_queue += of(&self.refused_queue);
        stats.appends_failed += of(&self.appends_failed);
        stats.bytes_written += of(&self.bytes_written);
        stats.syncs += of(&self.syncs);
        stats.segments_failed += of(&self.segments_failed);
        stats.damages += of(&self.damages);
        stats.dedup_recent_keys += of(&self.recent_keys);
        stats.producers += of(&self.producers);
        for (sum, bucket) in stats.commit_latency.iter_mut().zip(&self.latency) {
            *sum += of(bucket);
        }
        stats.commit_latency_sum_ns += of(&self.latency_sum_ns);
    }
}
