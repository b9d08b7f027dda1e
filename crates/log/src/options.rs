//! How a log is opened.

use std::path::PathBuf;
use std::time::Duration;

/// How a log is opened. All sizes are bytes.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The directory of the log; created if absent.
    pub dir: PathBuf,
    /// Shards of a new log. An existing log keeps the number it was made with.
    pub shards: u16,
    /// By shard, the offset below which nothing may be appended: how far tables have taken in the
    /// log. A log that ends before it is not the one they know, and goes on there. What is given
    /// past the last shard holds for every shard.
    pub floors: Vec<u64>,
    /// Size of a segment file, reserved and zero-filled ahead. Smaller when the disk is.
    pub segment_bytes: u64,
    /// A commit takes waiting appends up to about this many bytes in memory. One append that is
    /// larger is a commit of its own.
    pub commit_bytes_max: usize,
    /// Bytes in memory of all appends that wait or are being committed, a shard; past it appends
    /// are refused. One tenant may hold half of it.
    pub queue_bytes_max: usize,
    /// Segments that nobody needs are removed after this time.
    pub retention: Duration,
    /// Segments that nobody needs are removed sooner when the log is larger than this; 0 means a
    /// fifth of the space that the log has and could have.
    pub retention_bytes: u64,
    /// How long ids and idempotency keys are remembered; at most an eighth of it longer, or a minute.
    pub dedup_window: Duration,
    /// Ids kept in memory before they are written to a sorted run on disk, a shard.
    pub dedup_memory_ids_max: usize,
    /// Memory for the filters in front of the runs on disk, a shard. Those without read 512 bytes a look.
    pub dedup_filter_bytes_max: usize,
    /// Memory for the newest commits, a shard, while somebody reads the log; readers that are further behind read
    /// from the disk.
    pub recent_bytes_max: usize,
    /// Producers whose last sequence is remembered, a shard; the longest silent are forgotten.
    pub producers_max: usize,
    /// Disk space held back and given free when the disk is full, so that checkpoints, table
    /// commits and deletes still work.
    pub reserve_bytes: u64,
    /// After this time without an append a shard writes the watermark behind its last commit.
    pub idle_watermark: Duration,
}

impl LogOptions {
    /// The defaults, for a log in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("log"),
            shards: 1,
            floors: Vec::new(),
            segment_bytes: 64 << 20,
            commit_bytes_max: 4 << 20,
            queue_bytes_max: 64 << 20,
            retention: Duration::from_secs(24 * 3600),
            retention_bytes: 0,
            dedup_window: Duration::from_secs(24 * 3600),
            dedup_memory_ids_max: 256 * 1024,
            dedup_filter_bytes_max: 32 << 20,
            recent_bytes_max: 8 << 20,
            producers_max: 100_000,
            reserve_bytes: 64 << 20,
            idle_watermark: Duration::from_millis(20),
        }
    }
}
