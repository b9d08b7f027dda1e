//! Tables: streams at rest. Every stream of every tenant has one: sorted Parquet files, plus the
//! tail of rows that are durable in the log and not yet in files. Queries read both as one.
//!
//! Rows arrive through [`weir_log::Subscriber`], wait in the tail, are flushed to files, and files
//! are merged, expired and removed in the background. What makes up a table is decided by one
//! transaction of the catalogue each time; files are immutable.
//!
//! Invariant: a row is in the tail or in one file, never in both, for whoever holds a [`Snapshot`].
//!
//! Invariant: the log is never released past a row that is in no committed file.
//!
//! Invariant: no file is named by the catalogue before it is durable, and none is unlinked while a
//! snapshot or the catalogue names it.

mod compact;
mod error;
mod file;
mod flush;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod metadata_cache;
mod options;
mod order;
mod partition;
pub mod promote;
mod retain;
mod row_groups;
pub mod seam;
pub mod search;
mod sorted;
mod stats;
mod store;
mod table;
mod tail;
mod texts;
mod worker;
mod write;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use compact::CompactionReport;
pub use error::StoreError;
pub use file::{TableFile, TableFileReader};
pub use flush::FlushReport;
pub use options::StoreOptions;
pub use retain::{Expiry, RetentionReport};
pub use stats::{StoreStats, TableStats};
pub use store::Store;
pub use table::Snapshot;
pub use tail::TailRecord;
pub use worker::Workers;
