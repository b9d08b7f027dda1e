//! What goes into the log and what comes out of it.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use weir_base::{StreamName, TenantId, Timestamp};

/// A place in the log: everything before it has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The shard; tenants are spread over shards by a hash of their id.
    pub shard: u16,
    /// Bytes since the beginning of the shard's first segment; never reused, never goes back.
    pub offset: u64,
}

/// No log comes to this offset: beyond it there would be no room to go on.
pub(crate) const OFFSET_MAX: u64 = u64::MAX / 2;

/// When the reply may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// After fdatasync.
    #[default]
    Disk,
    /// As soon as the rows are queued for the next commit. A crash may lose them.
    Memory,
}

/// A sequence number of a producer: a repeat of (producer, epoch, sequence) is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSequence {
    /// The producer.
    pub producer: u128,
    /// A larger epoch fences every smaller one.
    pub epoch: u32,
    /// Rises by any amount within an epoch.
    pub sequence: u64,
}

/// One request's rows. All parts are committed together or not at all.
#[derive(Clone, Debug)]
pub struct Append {
    /// The owner of all parts.
    pub tenant: TenantId,
    /// The rows, by stream.
    pub parts: Vec<AppendPart>,
    /// The request's idempotency key. A second request with the same key and the same body inside the dedup
    /// window stores nothing; one with the key and another body is refused.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The producer's sequence, if it has one.
    pub producer: Option<ProducerSequence>,
    /// When the reply may be given.
    pub durability: Durability,
}

/// What a client calls a request, to say later that it is the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The key, scoped by the caller (by route; the tenant is added here).
    pub key: Vec<u8>,
    /// A hash of the request's body, as stable as the stored log. It finds mistakes of clients and need not
    /// withstand them: who makes two bodies with one hash loses rows of their own.
    pub body: u64,
}

/// The rows of one stream.
#[derive(Clone, Debug)]
pub struct AppendPart {
    /// The stream.
    pub stream: StreamName,
    /// The rows; columns that are all null may be missing.
    pub batch: RecordBatch,
    /// The name of the text column that identifies rows; rows whose id was stored inside the dedup
    /// window are left out. Null ids are never duplicates.
    pub id_column: Option<&'static str>,
}

/// What became of an [`Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// One outcome a part, in the same order.
    pub parts: Vec<PartOutcome>,
    /// The request's idempotency key or producer sequence was known: nothing was stored now, and
    /// the original is durable.
    pub repeated: bool,
    /// The place after the rows.
    pub end: Position,
}

/// What became of one part.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PartOutcome {
    /// Rows stored.
    pub stored: usize,
    /// Indexes of the rows that were known already.
    pub duplicates: Vec<u32>,
}

/// Rows of one (tenant, stream) at one place in the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// The owner.
    pub tenant: TenantId,
    /// The stream.
    pub stream: StreamName,
    /// Where the record begins.
    pub position: Position,
    /// When the commit was made, by the wall clock.
    pub committed_at: Timestamp,
    /// The rows; all-null columns may be missing.
    pub batch: RecordBatch,
}

/// One durable commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The rows.
    pub records: Vec<Record>,
    /// The place after the commit.
    pub end: Position,
}

/// Stored bytes that do not check out, below the durable watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// The byte offset in the file where the damage begins.
    pub file_offset: u64,
    /// The damaged range of the log: from this place ...
    pub from: Position,
    /// ... up to this one.
    pub to: Position,
    /// Whose rows are gone; `None` if that cannot be told.
    pub streams: Option<Vec<(TenantId, StreamName)>>,
}

/// Somebody who sees every durable commit, in order, before its appenders are answered. Called on
/// the writer's thread: must be quick and must not block.
pub trait Subscriber: Send + Sync {
    /// While opening: whether the rows of this record are still wanted. Records nobody wants are
    /// not decoded. Of one stream, what comes after a wanted record is wanted too: a closed segment
    /// whose last record of every stream is not wanted is not read.
    fn wants(&self, tenant: &TenantId, stream: &StreamName, position: Position) -> bool;

    /// A commit has become durable, or was found by recovery.
    fn committed(&self, commit: &Commit);

    /// Recovery found damage below the durable watermark.
    fn damaged(&self, damage: &Damage);
}
