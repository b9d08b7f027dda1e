//! What the parts of one shard share: the queue, the list of segments, the durable end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex, RwLock};
use weir_base::clock::Clock;
use weir_base::disk::{Disk, DiskFile};
use weir_base::{StreamName, TenantId, Timestamp};

use crate::dedup::DedupShared;
use crate::format::{ALIGN, BlockHeader, Entry, body_ranges};
use crate::queue::Queue;
use crate::recent::Recent;
use crate::rows::{decode_batch, decode_schema};
use crate::segment::{Found, SegmentFile, Spare};
use crate::space::Space;
use crate::state::Checkpoint;
use crate::stats::{Counters, add};
use crate::watch::Watched;
use crate::{Damage, LogError, LogOptions, Position, Record, Subscriber};

/// Schemas kept in memory, a shard; those of one segment may be more. Others are read again from
/// the segment of their record.
pub(crate) const SCHEMAS_MAX: usize = 4096;

/// Wakes the housekeeper.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Mutex<bool>,
    condition: Condvar,
}

impl Signal {
    pub(crate) fn raise(&self) {
        *self.raised.lock() = true;
        self.condition.notify_all();
    }

    /// Waits until raised, at most `timeout`, and lowers it.
    pub(crate) fn wait(&self, timeout: std::time::Duration) {
        let mut raised = self.raised.lock();
        if !*raised {
            self.condition.wait_for(&mut raised, timeout);
        }
        *raised = false;
    }
}

/// A segment as the shard knows it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) base: u64,
    pub(crate) header_len: u64,
    pub(crate) path: PathBuf,
    /// Everything from the base up to here is durable in this file.
    pub(crate) end: AtomicU64,
    /// Length of the file.
    pub(crate) bytes: AtomicU64,
    /// Time of the newest commit in it.
    pub(crate) last_time: AtomicI64,
}

/// Everything about one shard that more than its writer touches.
pub(crate) struct Shard {
    pub(crate) number: u16,
    pub(crate) log_id: u64,
    pub(crate) dir: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Arc<LogOptions>,
    pub(crate) subscribers: Arc<[Arc<dyn Subscriber>]>,
    pub(crate) space: Arc<Space>,
    pub(crate) housekeeper: Arc<Signal>,
    pub(crate) queue: Queue,
    /// Oldest first.
    pub(crate) segments: RwLock<Vec<Arc<Segment>>>,
    pub(crate) schemas: RwLock<HashMap<u64, SchemaRef>>,
    pub(crate) durable: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) spare: Mutex<Option<Spare>>,
    pub(crate) spare_number: AtomicU64,
    pub(crate) dedup: Arc<DedupShared>,
    pub(crate) checkpoint: Mutex<Checkpoint>,
    /// The housekeeper wants the recent ids on disk, to let segments go.
    pub(crate) freeze_wanted: AtomicBool,
    pub(crate) counters: Counters,
    /// The newest commits, for readers.
    pub(crate) recent: Recent,
    /// The streams that are read.
    pub(crate) watched: Watched,
    /// A time not after that of the commit that is being made; the largest there is while none is.
    pub(crate) committing: AtomicI64,
}

impl Shard {
    pub(crate) fn position(&self, offset: u64) -> Position {
        Position { shard: self.number, offset }
    }

    /// A name for the next file made ahead.
    pub(crate) fn spare_path(&self) -> PathBuf {
        self.dir.join(format!("spare-{}.tmp", self.spare_number.fetch_add(1, Ordering::Relaxed)))
    }

    /// Makes a segment file of at least `needed` bytes: as large as configured, less on a small or
    /// nearly full disk.
    pub(crate) fn make_spare(&self, needed: u64, fill: bool) -> Result<Spare, LogError> {
        const SMALL: u64 = 1 << 20;
        let needed = crate::format::align(needed + ALIGN);
        let free = self.disk.free_bytes(&self.dir).map_err(|error| LogError::io("look at", &self.dir, error))?;
        // Rows must not eat up what was given free so that tables, metadata and deletes can go on.
        let free = free.saturating_sub(self.space.not_for_segments());
        let least = needed.max(self.options.segment_bytes.min(SMALL));
        let mut len = self.options.segment_bytes.min(free / 4).max(least);
        loop {
            if len <= free {
                match Spare::create(self.disk.as_ref(), &self.spare_path(), len, fill) {
                    Err(LogError::Full { .. }) if len > least => {}
                    other => return other,
                }
            } else if len == least {
                return Err(LogError::Full { dir: self.dir.clone() });
            }
            len = (len / 2).max(least);
        }
    }

    /// Tells everybody about damage.
    pub(crate) fn report(&self, damage: &Damage) {
        add(&self.counters.damages, 1);
        tracing::error!(
            file = %damage.file.display(),
            offset = damage.file_offset,
            from = damage.from.offset,
            to = damage.to.offset,
            streams = ?damage.streams,
            "the log is damaged below its durable watermark"
        );
        for subscriber in self.subscribers.iter() {
            subscriber.damaged(damage);
        }
    }

    /// Takes in the schemas of a commit or of a segment.
    pub(crate) fn keep_schemas(&self, fresh: HashMap<u64, SchemaRef>) {
        let mut schemas = self.schemas.write();
        if schemas.len() + fresh.len() > SCHEMAS_MAX {
            *schemas = fresh;
        } else {
            schemas.extend(fresh);
        }
    }

    pub(crate) fn open_segment(&self, segment: &Segment) -> Result<SegmentFile, LogError> {
        let failed = |error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                return LogError::Gone { shard: self.number, offset: segment.base };
            }
            LogError::io("read", &segment.path, error)
        };
        let file: Arc<dyn DiskFile> = self.disk.open_read(&segment.path).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        Ok(SegmentFile {
            file,
            path: segment.path.clone(),
            log_id: self.log_id,
            shard: self.number,
            number: segment.number,
            base: segment.base,
            header_len: segment.header_len,
            len,
            capacity: 0,
        })
    }

    /// Reads the schemas that a segment holds.
    fn load_schemas(&self, segment: &Segment, file: &SegmentFile) -> Result<HashMap<u64, SchemaRef>, LogError> {
        let mut schemas = HashMap::new();
        let mut take = |id: u64, message: &[u8]| {
            if let hashbrown::hash_map::Entry::Vacant(place) = schemas.entry(id)
                && let Ok(schema) = decode_schema(message)
            {
                place.insert(schema);
            }
        };
        for (id, message) in file.carried_schemas()? {
            take(id, &message);
        }
        let mut learn = |block: &crate::segment::Block| {
            for (number, entry) in block.entries.iter().enumerate() {
                if let Entry::Schema { id, .. } = entry
                    && !block.bad.contains(&number)
                {
                    take(*id, block.body(number));
                }
            }
        };
        let end = segment.end.load(Ordering::Acquire);
        if let Some(footer) = file.footer()? {
            learn(&footer);
        } else {
            file.scan(Some(end), false, &mut |found| {
                if let Found::Block(block) = found {
                    learn(&block);
                }
                Ok(())
            })?;
        }
        Ok(schemas)
    }

    /// A schema whose copies in a record's own segment are damaged, from another segment. fsck looks there, too, so a
    /// record that it leaves in place can be read.
    fn schema_elsewhere(&self, segment: &Segment, id: u64) -> Option<SchemaRef> {
        let others: Vec<_> =
            self.segments.read().iter().filter(|other| other.number != segment.number).cloned().collect();
        others.iter().rev().find_map(|other| {
            let file = self.open_segment(other).ok()?;
            let schemas = self.load_schemas(other, &file).ok()?;
            let schema = schemas.get(&id).cloned()?;
            self.keep_schemas(schemas);
            Some(schema)
        })
    }

    /// Reads one record back.
    pub(crate) fn read(&self, offset: u64) -> Result<Record, LogError> {
        let gone = LogError::Gone { shard: self.number, offset };
        if offset >= self.durable.load(Ordering::Acquire) {
            return Err(gone);
        }
        let segment = {
            let segments = self.segments.read();
            let at = segments.partition_point(|segment| segment.base <= offset);
            // Several segments may begin at one offset; all but one of them are empty.
            segments[..at].iter().rev().find(|segment| offset < segment.end.load(Ordering::Acquire)).cloned()
        };
        let Some(segment) = segment else { return Err(gone) };
        let file = self.open_segment(&segment)?;
        let block = offset / ALIGN * ALIGN;
        let number = (offset % ALIGN) as usize;
        let corrupt = |what: &str| LogError::Corrupt {
            file: segment.path.clone(),
            offset: file.file_offset(block),
            what: what.to_owned(),
        };
        let (header, entries) = file.read_directory(block)?.ok_or_else(|| corrupt("the block does not check out"))?;
        let (at, entry) = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| matches!(entry, Entry::Rows(_) | Entry::Lost(_)))
            .nth(number)
            .ok_or(gone)?;
        if matches!(entry, Entry::Lost(_)) {
            return Err(corrupt("the record was damaged and moved away"));
        }
        self.record(&segment, &file, (&header, &entries), at, offset)
    }

    /// Reads the rows of one entry of a block; `offset` is the position of the record.
    pub(crate) fn record(
        &self,
        segment: &Segment,
        file: &SegmentFile,
        (header, entries): (&BlockHeader, &[Entry]),
        at: usize,
        offset: u64,
    ) -> Result<Record, LogError> {
        let block = header.offset;
        let corrupt = |what: &str| LogError::Corrupt {
            file: segment.path.clone(),
            offset: file.file_offset(block),
            what: what.to_owned(),
        };
        let Some(Entry::Rows(rows)) = entries.get(at) else { return Err(corrupt("the entry holds no rows")) };
        let range = body_ranges(header, entries).and_then(|ranges| ranges.get(at).cloned());
        let range = range.ok_or_else(|| corrupt("the record reaches past its block"))?;
        let mut body = vec![0; range.len()];
        file.file
            .read_exact_at(&mut body, file.file_offset(block) + range.start as u64)
            .map_err(|error| LogError::io("read", &segment.path, error))?;
        if !rows.body.check(&body, block, at) {
            return Err(corrupt("the checksum of a record does not match"));
        }
        let mut schema = self.schemas.read().get(&rows.schema).cloned();
        if schema.is_none() {
            let schemas = self.load_schemas(segment, file)?;
            schema = schemas.get(&rows.schema).cloned();
            self.keep_schemas(schemas);
        }
        let schema = schema.or_else(|| self.schema_elsewhere(segment, rows.schema));
        let schema = schema.ok_or_else(|| corrupt("the schema of a record is missing"))?;
        let batch = decode_batch(&body, &schema, rows.rows).map_err(|malformed| corrupt(malformed.0))?;
        Ok(Record {
            tenant: rows.tenant.clone(),
            stream: rows.stream.clone(),
            position: self.position(offset),
            committed_at: Timestamp(header.time),
            batch,
        })
    }
}

/// The (tenant, stream) pairs, each once.
pub(crate) fn distinct(pairs: impl Iterator<Item = (TenantId, StreamName)>) -> Vec<(TenantId, StreamName)> {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    pairs.dedup();
    pairs
}
