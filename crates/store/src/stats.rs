//! What the tables hold and have done, for metrics and the health report.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weir_base::{StreamName, TenantId};

use crate::store::{Store, table_damage};

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableStats {
    /// The owner.
    pub tenant: TenantId,
    /// The stream.
    pub stream: StreamName,
    /// Files.
    pub files: usize,
    /// Bytes of the files.
    pub bytes: u64,
    /// Rows in files.
    pub rows: u64,
    /// Rows waiting in the tail.
    pub tail_rows: u64,
    /// Decoded bytes of the rows waiting in the tail, in memory or not.
    pub tail_bytes: u64,
    /// How long the oldest row has been waiting.
    pub tail_age: Duration,
    /// Why the table is not served, if it is not.
    pub damage: Option<String>,
    /// Files in which reads have found damage, or that were missing. The table is served; what reads them fails.
    pub files_damaged: usize,
    /// Why the last flush failed, if it did.
    pub flush_error: Option<String>,
}

/// All tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Every table, by tenant and stream.
    pub tables: Vec<TableStats>,
    /// Decoded bytes of tails held in memory.
    pub tail_memory_bytes: u64,
    /// Bytes of tails that left memory and are read back from the log on demand.
    pub tail_spilled_bytes: u64,
    /// Bytes of parsed file footers held in memory.
    pub metadata_bytes: u64,
    /// Files waiting to be unlinked.
    pub files_to_unlink: usize,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Flushes that failed and are tried again.
    pub flush_failures: u64,
    /// Rows written by flushes.
    pub flushed_rows: u64,
    /// Bytes written by flushes.
    pub flushed_bytes: u64,
    /// Merges that succeeded.
    pub compactions: u64,
    /// Merges that failed.
    pub compaction_failures: u64,
    /// Rows written by merges.
    pub compacted_rows: u64,
    /// Bytes written by merges.
    pub compacted_bytes: u64,
    /// Files expired by retention.
    pub expired_files: u64,
    /// Unfinished files removed at the start.
    pub orphans_removed: u64,
    /// Tables retention leaves alone until an operator confirms, because more than half would go.
    pub retention_held: Vec<(TenantId, StreamName)>,
    /// Another process has taken over; nothing is written any more.
    pub fenced: bool,
}

impl Store {
    /// A picture of all tables.
    pub fn stats(&self) -> StoreStats {
        let now = self.clock.monotonic();
        let mut tables: Vec<TableStats> = self
            .all_tables()
            .iter()
            .map(|table| {
                let damage = table_damage(table).map(|error| error.to_string());
                table.look(|state| TableStats {
                    tenant: table.tenant.clone(),
                    stream: table.name.clone(),
                    files: state.files.len(),
                    bytes: state.files.iter().map(|file| file.entry.bytes).sum(),
                    rows: state.files.iter().map(|file| file.entry.rows).sum(),
                    tail_rows: state.unflushed_rows,
                    tail_bytes: state.unflushed_bytes,
                    tail_age: state.oldest.map_or(Duration::ZERO, |oldest| now.saturating_sub(oldest)),
                    damage,
                    files_damaged: state.files.iter().filter(|file| file.damage().is_some()).count(),
                    flush_error: state.last_error.clone(),
                })
            })
            .collect();
        tables.sort_by(|left, right| (&left.tenant, &left.stream).cmp(&(&right.tenant, &right.stream)));
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        StoreStats {
            tables,
            tail_memory_bytes: self.memory.bytes(),
            tail_spilled_bytes: self.memory.spilled_bytes(),
            metadata_bytes: self.files.metadata.bytes(),
            files_to_unlink: self.files.unlink.lock().len(),
            flushes: read(&counters.flushes),
            flush_failures: read(&counters.flush_failures),
            flushed_rows: read(&counters.flushed_rows),
            flushed_bytes: read(&counters.flushed_bytes),
            compactions: read(&counters.compactions),
            compaction_failures: read(&counters.compaction_failures),
            compacted_rows: read(&counters.compacted_rows),
            compacted_bytes: read(&counters.compacted_bytes),
            expired_files: read(&counters.expired_files),
            orphans_removed: read(&counters.orphans_removed),
            retention_held: self.retention_held.lock().clone(),
            fenced: self.is_fenced(),
        }
    }
}
