//! Opening a shard: what is on disk is checked, what is damaged is named, and what nobody had
//! confirmed durable is made so before anyone sees it.
//!
//! Below the watermark everything must check out; what does not is reported as [`Damage`] and the
//! rest stays readable. Above it (at most the last block, since a commit is built only when the one
//! before is durable) a torn block is cut, and a whole one is copied into a new segment and synced.
//! The base of a segment bounds the one before it, so what is left behind is never read again.

pub(crate) mod inventory;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use hashbrown::HashMap;
use weir_base::disk::Disk;
use weir_base::{StreamName, TenantId, Timestamp};

use self::inventory::{Inventory, lost_newest, take_inventory};
use crate::dedup::{Dedup, KeyHasher};
use crate::format::{ALIGN, BlockBuilder, BlockFrame, BlockKind, Entry, IndexEntry, Malformed, SegmentHeader};
use crate::producers::Producers;
use crate::rows::{decode_batch, decode_column, decode_schema, for_each_id};
use crate::segment::{Block, Found, ScanEnd, SegmentFile, Spare, segment_path};
use crate::shard::{SCHEMAS_MAX, Segment, distinct};
use crate::state::Checkpoint;
use crate::{Commit, Damage, LogError, Position, Record, Subscriber};

/// After a segment that is missing altogether the shard goes on this much further, past every
/// offset that may have been given out in it.
pub(crate) const JUMP: u64 = 1 << 40;

/// Everything recovery needs to know.
pub(crate) struct Recovery<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: &'a Path,
    pub(crate) log_id: u64,
    pub(crate) shard: u16,
    pub(crate) now: Timestamp,
    pub(crate) dedup_window: Duration,
    pub(crate) hasher: &'a KeyHasher,
    /// The end is here at least.
    pub(crate) floor: u64,
    pub(crate) subscribers: &'a [Arc<dyn Subscriber>],
    pub(crate) checkpoint: Checkpoint,
}

/// What recovery found.
pub(crate) struct Recovered {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) schemas: HashMap<u64, SchemaRef>,
    pub(crate) end: u64,
    pub(crate) next_number: u64,
    pub(crate) dedup: Dedup,
    pub(crate) producers: Producers,
    pub(crate) damages: u64,
    pub(crate) checkpoint: Checkpoint,
    /// When the newest commit was made; `None` without one.
    pub(crate) newest: Option<Timestamp>,
}

struct Replay<'a> {
    recovery: &'a Recovery<'a>,
    schemas: HashMap<u64, SchemaRef>,
    messages: HashMap<u64, Vec<u8>>,
    dedup: Dedup,
    producers: Producers,
    damages: u64,
    newest: Option<Timestamp>,
    /// Ids of older commits are not needed any more.
    dedup_horizon: Timestamp,
}

impl Recovery<'_> {
    /// Opens the shard; commits that subscribers want are handed to them in order.
    pub(crate) fn run(mut self, dedup: Dedup) -> Result<Recovered, LogError> {
        let mut inventory = take_inventory(self.disk, self.dir, self.log_id, self.shard)?;
        inventory.next_number = inventory.next_number.max(self.checkpoint.newest_number.saturating_add(1));
        self.finish_removal(&mut inventory)?;
        let mut producers = Producers::default();
        for state in &self.checkpoint.producers {
            producers.insert(&state.tenant, state.last, state.time);
        }
        let mut checkpoint = std::mem::take(&mut self.checkpoint);
        // Rows came at least until the newest segment was made. The wall clock alone may be wrong at a
        // start, and would have every id forgotten.
        let headers = inventory.segments.iter().rev().filter_map(|(_, header)| header.as_ref());
        let lived = headers.map(|header| Timestamp(header.created_at)).next().unwrap_or(Timestamp(i64::MIN));
        let mut replay = Replay {
            recovery: &self,
            schemas: HashMap::new(),
            messages: HashMap::new(),
            dedup,
            producers,
            damages: 0,
            newest: None,
            dedup_horizon: self.now.min(lived).minus(self.dedup_window),
        };
        let (segments, end) = replay.segments(&mut inventory, &mut checkpoint)?;
        let Replay { schemas, dedup, producers, damages, newest, .. } = replay;
        Ok(Recovered {
            segments,
            schemas,
            end,
            next_number: inventory.next_number,
            dedup,
            producers,
            damages,
            checkpoint,
            newest,
        })
    }

    /// Removes what a removal before the last stop left: segments before the oldest that should be.
    fn finish_removal(&self, inventory: &mut Inventory) -> Result<(), LogError> {
        while let [(first, _), (second, _), ..] = inventory.segments.as_slice()
            && second.base <= self.checkpoint.oldest
            && first.base < self.checkpoint.oldest
        {
            self.disk.remove(&first.path).map_err(|error| LogError::io("remove", &first.path, error))?;
            inventory.segments.remove(0);
        }
        Ok(())
    }
}

impl Replay<'_> {
    fn segments(
        &mut self,
        inventory: &mut Inventory,
        checkpoint: &mut Checkpoint,
    ) -> Result<(Vec<Arc<Segment>>, u64), LogError> {
        let dir = self.recovery.dir;
        let mut known = Vec::new();
        let mut end = checkpoint.oldest;
        // With its header the first block may be lost, too: the one after it only seemed to be where the segment begins.
        if let Some((first, None)) = inventory.segments.first_mut()
            && let Some(before) = first.base.checked_sub(checkpoint.oldest)
            && let Some(header_len) = first.header_len.checked_sub(before).filter(|len| *len >= ALIGN)
        {
            (first.base, first.header_len) = (checkpoint.oldest, header_len);
        }
        if let Some((first, _)) = inventory.segments.first()
            && first.base > checkpoint.oldest
        {
            let missing = segment_path(dir, first.number.saturating_sub(1));
            self.damage(&missing, 0, checkpoint.oldest, first.base, None);
        }
        let segments = std::mem::take(&mut inventory.segments);
        for (at, (segment, header)) in segments.iter().enumerate() {
            // Every segment holds the schemas of its records; those of others only help out.
            if self.schemas.len() > SCHEMAS_MAX {
                self.schemas.clear();
                self.messages.clear();
            }
            if let Some(header) = header {
                for (id, message) in &header.schemas {
                    self.learn(*id, message);
                }
            }
            match segments.get(at + 1) {
                Some((next, _)) => {
                    known.push(self.inner(segment, next, checkpoint.position)?);
                    end = next.base;
                }
                None => end = self.last(segment, inventory, &mut known, checkpoint.position)?,
            }
        }
        inventory.segments = segments;
        if let Some((lost, to)) = lost_newest(inventory, checkpoint, end) {
            self.damage(&segment_path(dir, lost), 0, end, to, None);
            end = to;
            // An empty segment behind the hole keeps it known, and what follows at its place.
            let empty = self.make(inventory, end, Vec::new(), &[])?;
            known.push(self::known(&empty, end, self.recovery.now.0));
        }
        end = self.raise(inventory, checkpoint, &mut known, end)?;
        Ok((known, end))
    }

    /// Goes on at the floor, if the log ends before it: offsets below are taken, by a log that is
    /// gone or was longer. The checkpoint knows how far it reached once, too.
    fn raise(
        &mut self,
        inventory: &mut Inventory,
        checkpoint: &mut Checkpoint,
        segments: &mut Vec<Arc<Segment>>,
        end: u64,
    ) -> Result<u64, LogError> {
        let Recovery { disk, dir, shard, .. } = *self.recovery;
        let floor = self.recovery.floor.max(checkpoint.position);
        if end >= floor {
            return Ok(end);
        }
        tracing::error!(
            shard,
            end,
            floor,
            "the log is shorter than it was or than what tables took out of it, or is another one"
        );
        if segments.is_empty() {
            // A new log that begins there.
            checkpoint.oldest = floor;
            checkpoint.store(disk, dir)?;
            return Ok(floor);
        }
        let missing = segment_path(dir, inventory.next_number);
        self.damage(&missing, 0, end, floor, None);
        // An empty segment behind the hole keeps it known, and what follows at its place.
        let empty = self.make(inventory, floor, Vec::new(), &[])?;
        segments.push(known(&empty, floor, self.recovery.now.0));
        Ok(floor)
    }

    fn make(
        &self,
        inventory: &mut Inventory,
        base: u64,
        schemas: Vec<(u64, Vec<u8>)>,
        blocks: &[u8],
    ) -> Result<SegmentFile, LogError> {
        let recovery = self.recovery;
        let header = SegmentHeader {
            log_id: recovery.log_id,
            shard: recovery.shard,
            number: inventory.next_number,
            base,
            created_at: recovery.now.0,
            capacity: 0,
            schemas,
        };
        inventory.next_number = inventory.next_number.saturating_add(1);
        let aside = recovery.dir.join("recovered.tmp");
        let len = header.encode().len() as u64 + blocks.len() as u64;
        let spare = Spare::create(recovery.disk, &aside, len, false)?;
        spare.promote(recovery.disk, recovery.dir, &header, blocks)
    }

    /// A segment that another one follows: all of it is below the watermark.
    fn inner(&mut self, segment: &SegmentFile, next: &SegmentFile, covered: u64) -> Result<Arc<Segment>, LogError> {
        let limit = next.base;
        let footer = segment.footer()?;
        if let Some(footer) = &footer
            && footer.header.offset == limit
            && self.is_cold(footer, covered)
        {
            self.newest = self.newest.max(Some(Timestamp(footer.header.time)));
            return Ok(known(segment, limit, footer.header.time));
        }
        let index = self.learn_footer(footer.as_ref());
        let mut last_time = i64::MIN;
        let end = segment.scan(Some(limit), false, &mut |found| {
            match found {
                Found::Block(block) => {
                    last_time = last_time.max(block.header.time);
                    self.deliver(segment, &block, covered);
                }
                Found::Gap { from, to } => self.gap(segment, from, to, index.as_ref()),
            }
            Ok(())
        })?;
        if end.at < limit {
            if footer.as_ref().is_some_and(|footer| footer.header.offset == end.at) {
                // Closed in good order before the limit: the file in between is missing.
                let missing = segment_path(self.recovery.dir, segment.number.saturating_add(1));
                self.damage(&missing, 0, end.at, limit, None);
            } else {
                self.gap(segment, end.at, limit, index.as_ref());
            }
        }
        if last_time == i64::MIN {
            last_time = self.recovery.now.0;
        }
        if footer.is_none() {
            self.trim(segment, limit);
        }
        Ok(known(segment, limit, last_time))
    }

    /// Whether nobody needs the rows of a closed segment: then it is checked when somebody reads it.
    fn is_cold(&self, footer: &Block, covered: u64) -> bool {
        footer.header.offset <= covered
            && !footer.entries.iter().any(|entry| match entry {
                Entry::Index(index) => self.wanted(&index.tenant, &index.stream, index.last),
                _ => false,
            })
    }

    /// The footer repeats the schemas, so records stay readable when the block is damaged that held
    /// one first; and it tells which streams are where.
    fn learn_footer(&mut self, footer: Option<&Block>) -> Option<Vec<IndexEntry>> {
        let footer = footer?;
        self.learn_all(footer);
        let index = footer.entries.iter().filter_map(|entry| match entry {
            Entry::Index(index) => Some(index.clone()),
            _ => None,
        });
        Some(index.collect())
    }

    /// The last segment: its last block is above the watermark, unless something says otherwise.
    fn last(
        &mut self,
        segment: &SegmentFile,
        inventory: &mut Inventory,
        known_segments: &mut Vec<Arc<Segment>>,
        covered: u64,
    ) -> Result<u64, LogError> {
        let footer = segment.footer()?;
        if let Some(footer) = &footer
            && self.is_cold(footer, covered)
        {
            self.newest = self.newest.max(Some(Timestamp(footer.header.time)));
            known_segments.push(known(segment, footer.header.offset, footer.header.time));
            return Ok(footer.header.offset);
        }
        let index = self.learn_footer(footer.as_ref());
        let mut pending: Option<Block> = None;
        let mut last_time = i64::MIN;
        let ended: ScanEnd = segment.scan(None, false, &mut |found| {
            if let Some(block) = pending.take() {
                self.deliver(segment, &block, covered);
            }
            match found {
                Found::Block(block) => {
                    last_time = last_time.max(block.header.time);
                    pending = Some(block);
                }
                Found::Gap { from, to } => self.gap(segment, from, to, index.as_ref()),
            }
            Ok(())
        })?;
        if last_time == i64::MIN {
            last_time = self.recovery.now.0;
        }
        let mut end = ended.at;
        let mut kept = None;
        if let Some(block) = pending {
            // A block in a wrong place also tells how far the log was durable.
            let durable = ended.watermark >= block.header.end() || ended.cut || block.header.kind == BlockKind::Hole;
            if durable {
                self.deliver(segment, &block, covered);
            } else if block.bad.is_empty() {
                kept = Some(block);
            } else {
                end = block.header.offset;
            }
        }
        let damaged = ended.cut || ended.watermark > end;
        if !damaged && !ended.footer && (ended.leftover || end < ended.at) {
            tracing::warn!(file = %segment.path.display(), offset = segment.file_offset(end), "torn tail cut");
        }
        let trusted = kept.as_ref().map_or(end, |block| block.header.offset);
        known_segments.push(known(segment, trusted, last_time));
        if damaged {
            // A file that was cut may have held anything behind.
            let to = if ended.cut { ended.claimed + JUMP } else { ended.watermark.max(ended.claimed) };
            self.gap(segment, end, to, None);
            end = to;
            // An empty segment behind the damage keeps it known, and what follows at its place.
            let empty = self.make(inventory, end, Vec::new(), &[])?;
            known_segments.push(known(&empty, end, self.recovery.now.0));
        } else if let Some(block) = kept {
            let copy = self.copy(&block, inventory)?;
            end = copy.base + (copy.len - copy.header_len);
            known_segments.push(known(&copy, end, block.header.time));
            self.deliver(&copy, &block, covered);
            // The newer segment bounds this one; the rest of the file is only space.
            self.trim(segment, trusted);
        }
        Ok(end)
    }

    fn trim(&self, segment: &SegmentFile, end: u64) {
        let len = segment.file_offset(end);
        if segment.len <= len {
            return;
        }
        let cut = self.recovery.disk.open(&segment.path).and_then(|file| file.set_len(len));
        if let Err(error) = cut {
            tracing::warn!(file = %segment.path.display(), %error, "cannot give unused space back");
        }
    }

    /// Copies the block above the watermark, at its own offset, into a segment of its own, with a
    /// watermark behind it.
    fn copy(&mut self, block: &Block, inventory: &mut Inventory) -> Result<SegmentFile, LogError> {
        let recovery = self.recovery;
        let own: Vec<u64> = block
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Schema { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        let mut carried: Vec<u64> = block
            .entries
            .iter()
            .filter_map(|entry| match entry {
                Entry::Rows(rows) if !own.contains(&rows.schema) => Some(rows.schema),
                _ => None,
            })
            .collect();
        carried.sort_unstable();
        carried.dedup();
        let schemas =
            carried.into_iter().filter_map(|id| self.messages.get(&id).map(|message| (id, message.clone()))).collect();
        let mut bytes = block.bytes.clone();
        let mut watermark = Vec::new();
        let frame = BlockFrame {
            log_id: recovery.log_id,
            shard: recovery.shard,
            kind: BlockKind::Commit,
            offset: block.header.end(),
            watermark: block.header.end(),
            time: block.header.time,
        };
        BlockBuilder::default().finish(&frame, &mut watermark);
        bytes.extend_from_slice(&watermark);
        self.make(inventory, block.header.offset, schemas, &bytes)
    }

    fn wanted(&self, tenant: &TenantId, stream: &StreamName, offset: u64) -> bool {
        let position = Position { shard: self.recovery.shard, offset };
        self.recovery.subscribers.iter().any(|subscriber| subscriber.wants(tenant, stream, position))
    }

    fn learn(&mut self, id: u64, message: &[u8]) {
        if !self.schemas.contains_key(&id)
            && let Ok(schema) = decode_schema(message)
        {
            self.schemas.insert(id, schema);
            self.messages.insert(id, message.to_vec());
        }
    }

    fn learn_all(&mut self, block: &Block) {
        for (number, entry) in block.entries.iter().enumerate() {
            if let Entry::Schema { id, .. } = entry
                && !block.bad.contains(&number)
            {
                self.learn(*id, block.body(number));
            }
        }
    }

    /// Takes in one durable block.
    fn deliver(&mut self, segment: &SegmentFile, block: &Block, covered: u64) {
        self.learn_all(block);
        let offset = block.header.offset;
        let time = Timestamp(block.header.time);
        self.newest = self.newest.max(Some(time));
        let uncovered = offset >= covered;
        let remembered = uncovered && time >= self.dedup_horizon;
        let mut keys = Vec::new();
        let mut records = Vec::new();
        let mut number = 0;
        for (at, entry) in block.entries.iter().enumerate() {
            match entry {
                Entry::Request(request) => {
                    if let Some(sequence) = request.producer
                        && uncovered
                    {
                        self.producers.insert(&request.tenant, sequence, time.0);
                    }
                    keys.extend(request.idempotency.filter(|_| remembered));
                }
                Entry::Lost(_) => number += 1,
                Entry::Rows(rows) => {
                    let position = Position { shard: self.recovery.shard, offset: offset + number };
                    number += 1;
                    let wanted = self.wanted(&rows.tenant, &rows.stream, position.offset);
                    let id_column = rows.id_column.as_deref().filter(|_| remembered);
                    if block.bad.contains(&at) {
                        self.lost(segment, block, position, rows);
                        continue;
                    }
                    if !wanted && id_column.is_none() {
                        continue;
                    }
                    let body = block.body(at);
                    let decoded = match (self.schemas.get(&rows.schema), id_column) {
                        (None, _) => Err(Malformed("the schema is missing")),
                        (Some(schema), Some(column)) if !wanted => decode_column(body, schema, rows.rows, column),
                        (Some(schema), _) => decode_batch(body, schema, rows.rows).map(Some),
                    };
                    let batch = match decoded {
                        Ok(Some(batch)) => batch,
                        // Without the column there are no ids.
                        Ok(None) => continue,
                        Err(Malformed(_)) => {
                            self.lost(segment, block, position, rows);
                            continue;
                        }
                    };
                    if let Some(column) = id_column {
                        let scope = self.recovery.hasher.ids(&rows.tenant, &rows.stream);
                        for_each_id(&batch, column, |_, id| keys.push(scope.hash(id.as_bytes())));
                    }
                    if wanted {
                        records.push(Record {
                            tenant: rows.tenant.clone(),
                            stream: rows.stream.clone(),
                            position,
                            committed_at: time,
                            batch,
                        });
                    }
                }
                Entry::Schema { .. } | Entry::Index(_) => {}
            }
        }
        self.dedup.insert(keys, time.0);
        self.publish(records, block.header.end());
    }

    fn publish(&self, records: Vec<Record>, end: u64) {
        if records.is_empty() {
            return;
        }
        let commit = Commit { records, end: Position { shard: self.recovery.shard, offset: end } };
        for subscriber in self.recovery.subscribers {
            let wants = |record: &Record| subscriber.wants(&record.tenant, &record.stream, record.position);
            if commit.records.iter().all(wants) {
                subscriber.committed(&commit);
                continue;
            }
            let records: Vec<Record> = commit.records.iter().filter(|record| wants(record)).cloned().collect();
            if !records.is_empty() {
                subscriber.committed(&Commit { records, end: commit.end });
            }
        }
    }

    fn lost(&mut self, segment: &SegmentFile, block: &Block, position: Position, rows: &crate::format::RowsEntry) {
        let streams = Some(vec![(rows.tenant.clone(), rows.stream.clone())]);
        let at = segment.file_offset(block.header.offset);
        self.damage(&segment.path, at, position.offset, position.offset + 1, streams);
    }

    /// Damage over whole blocks. The index of a closed segment narrows down whose rows they held.
    fn gap(&mut self, segment: &SegmentFile, from: u64, to: u64, index: Option<&Vec<IndexEntry>>) {
        let streams = index.map(|index| {
            distinct(
                index
                    .iter()
                    .filter(|entry| entry.first < to && entry.last >= from)
                    .map(|entry| (entry.tenant.clone(), entry.stream.clone())),
            )
        });
        self.damage(&segment.path, segment.file_offset(from), from, to, streams);
    }

    fn damage(
        &mut self,
        file: &Path,
        file_offset: u64,
        from: u64,
        to: u64,
        streams: Option<Vec<(TenantId, StreamName)>>,
    ) {
        self.damages += 1;
        let shard = self.recovery.shard;
        let damage = Damage {
            file: file.to_owned(),
            file_offset,
            from: Position { shard, offset: from },
            to: Position { shard, offset: to },
            streams,
        };
        tracing::error!(
            file = %damage.file.display(), offset = file_offset, from, to, streams = ?damage.streams,
            "the log is damaged below its durable watermark"
        );
        for subscriber in self.recovery.subscribers {
            subscriber.damaged(&damage);
        }
    }
}

fn known(segment: &SegmentFile, end: u64, last_time: i64) -> Arc<Segment> {
    Arc::new(Segment {
        number: segment.number,
        base: segment.base,
        header_len: segment.header_len,
        path: segment.path.clone(),
        end: AtomicU64::new(end),
        bytes: AtomicU64::new(segment.len),
        last_time: AtomicI64::new(last_time),
    })
}
