//! The bounds tables work within. Every one of them is a budget with a name.

use std::path::PathBuf;
use std::time::Duration;

/// How tables are kept.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory of the table files.
    pub dir: PathBuf,
    /// A table is written to files once its tail holds this many bytes.
    pub flush_bytes: u64,
    /// A table is written to files once its oldest row has waited this long.
    pub flush_age: Duration,
    /// Once the tails of one shard hold this many bytes together, the largest are written to files.
    pub unflushed_bytes_max: u64,
    /// Bytes of decoded rows all tails together keep in memory; past it the oldest rows are read
    /// back from the log when they are needed.
    pub tail_bytes_max: u64,
    /// Bytes of parsed file footers kept in memory.
    pub metadata_bytes_max: u64,
    /// A file of about this size is not compacted again.
    pub compaction_bytes: u64,
    /// Compaction makes no file larger than about this.
    pub compaction_bytes_max: u64,
    /// So many files of one level are merged once they reach `compaction_bytes` together.
    pub compaction_files: usize,
    /// So many files of one level are merged whatever their size.
    pub compaction_files_max: usize,
    /// The remaining small files of a partition are merged when it has been quiet for this long.
    pub compaction_quiet: Duration,
    /// Bytes of decoded rows one compaction holds in memory.
    pub compaction_memory_max: u64,
    /// A day that holds more than this gets a partition an hour.
    pub day_bytes_max: u64,
    /// Tables kept no longer than this get a partition an hour, so that retention can take small
    /// steps.
    pub hourly_retention_max: Duration,
    /// How often expired files are looked for.
    pub retention_interval: Duration,
    /// The largest number of rows in a row group.
    pub row_group_rows_max: usize,
    /// The largest encoded size of a row group.
    pub row_group_bytes_max: usize,
    /// The largest number of attribute keys of one open column that get a column of their own in a
    /// file. Whoever reads files that have such columns must know [`crate::promote`]; 0 makes none.
    pub promoted_keys_max: usize,
    /// Whether files get a search index of the columns people search. A file without one is read
    /// whole instead.
    pub search_index: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            dir: PathBuf::new(),
            flush_bytes: 20 * MIB,
            flush_age: Duration::from_secs(600),
            unflushed_bytes_max: 512 * MIB,
            tail_bytes_max: 32 * MIB,
            metadata_bytes_max: 32 * MIB,
            compaction_bytes: 48 * MIB,
            compaction_bytes_max: 512 * MIB,
            compaction_files: 8,
            compaction_files_max: 24,
            compaction_quiet: Duration::from_secs(3600),
            compaction_memory_max: 64 * MIB,
            day_bytes_max: 4096 * MIB,
            hourly_retention_max: Duration::from_secs(48 * 3600),
            retention_interval: Duration::from_secs(60),
            row_group_rows_max: 128 * 1024,
            row_group_bytes_max: 64 << 20,
            promoted_keys_max: 64,
            search_index: true,
        }
    }
}
