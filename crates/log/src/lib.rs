//! The embedded log: the durable record of every stream. Appending to it is what "accepted" means.
//!
//! One shard is a sequence of segment files; a commit is one block, written and fdatasynced before
//! anyone sees it. See `types` for the contract towards the rest of Weir, `format` for the bytes,
//! `writer` for how a commit is made and `recovery` for what happens after a crash.
//!
//! Invariant: nobody sees past the durable end of a shard, and no damaged row is ever handed out.

mod dedup;
mod error;
mod format;
mod fsck;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod housekeeping;
mod log;
mod mend;
mod options;
mod presence;
mod producers;
mod queue;
mod reader;
mod recent;
mod recovery;
mod rows;
mod segment;
mod shard;
mod space;
mod state;
mod stats;
mod types;
mod watch;
mod writer;

pub use error::LogError;
pub use fsck::{FsckReport, SegmentReport, ShardReport, fsck};
pub use log::{Appending, Log};
pub use options::LogOptions;
pub use presence::{Absent, LogMark, absent, begin_anew};
pub use reader::{LogReader, Lost, Read};
pub use space::Room;
pub use stats::{COMMIT_BUCKETS_MS, LogStats};
pub use types::{
    Append, AppendPart, Appended, Commit, Damage, Durability, IdempotencyKey, PartOutcome, Position, ProducerSequence,
    Record, Subscriber,
};
