//! Checking a log that is not open, and taking damage out of the way.
//!
//! A log opens with damage in it too, and names it each time. Repair is the operator's word that
//! the damaged rows are given up: their bytes are copied into `quarantine/`, and the place is marked
//! in the log, so that the streams they belonged to serve again.

use std::io;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;
use weir_base::Timestamp;
use weir_base::disk::{Disk, with_suffix};
use weir_base::{StreamName, TenantId};

use crate::dedup::run::{Run, run_number};
use crate::format::{Entry, IndexEntry, SegmentHeader, hole, reencode_head};
use crate::recovery::JUMP;
use crate::recovery::inventory::{Inventory, lost_newest, take_inventory};
use crate::rows::{decode_batch, decode_schema};
use crate::segment::{Block, Found, SegmentFile};
use crate::shard::distinct;
use crate::state::{Checkpoint, Identity};
use crate::{Damage, LogError, Position};

/// What fsck found, and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// One a shard.
    pub shards: Vec<ShardReport>,
    /// Files of which one copy is damaged or missing; the other serves.
    pub copies_damaged: Vec<PathBuf>,
    /// Files of which no copy can be read; what was in them is made out of the segments.
    pub copies_lost: Vec<PathBuf>,
    /// Whether what was found was also repaired.
    pub repaired: bool,
}

/// What fsck found in a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardReport {
    /// The shard.
    pub shard: u16,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Segments that should be there and are not, as ranges of the log.
    pub missing: Vec<Damage>,
    /// Files named like segments that are none of this log.
    pub strays: Vec<PathBuf>,
    /// Runs of the dedup index that are whole.
    pub runs: usize,
    /// Runs that are damaged, with the offset in the file and what is wrong.
    pub runs_damaged: Vec<(PathBuf, u64, String)>,
}

/// What fsck found in a segment file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file.
    pub file: PathBuf,
    /// Its number.
    pub number: u64,
    /// The offset of its first block.
    pub base: u64,
    /// The offset after its last good block.
    pub end: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Blocks that check out, those partly damaged included.
    pub blocks: u64,
    /// Blocks of which a wrong bit can be put right; of these nothing is lost.
    pub wrong_bits: u64,
    /// Records that check out.
    pub records: u64,
    /// Rows in them.
    pub rows: u64,
    /// It was closed in good order.
    pub closed: bool,
    /// The header is damaged; everything else was read without it.
    pub header_damaged: bool,
    /// What does not check out below the watermark.
    pub damage: Vec<Damage>,
    /// Bytes above the watermark that are no whole block: a write that was under way.
    pub torn_bytes: u64,
}

impl FsckReport {
    /// Whether no rows are lost. A torn tail is no loss: nobody was told that it was stored.
    pub fn is_sound(&self) -> bool {
        self.copies_damaged.is_empty()
            && self.copies_lost.is_empty()
            && self.shards.iter().all(|shard| {
                shard.missing.is_empty()
                    && shard.strays.is_empty()
                    && shard.runs_damaged.is_empty()
                    && shard.segments.iter().all(|segment| segment.damage.is_empty() && !segment.header_damaged)
            })
    }
}

/// Checks the log in `dir`; with `repair`, cuts torn tails and moves what is damaged aside. Nobody
/// may have the log open.
pub fn fsck(dir: &Path, disk: &dyn Disk, repair: bool) -> Result<FsckReport, LogError> {
    if let Err(error) = disk.list(dir) {
        return Err(LogError::io("list", dir, error));
    }
    let _lock = crate::log::lock(disk, dir)?;
    let Some((identity, whole)) = Identity::load(disk, dir)? else {
        return Err(LogError::Options(format!("there is no log in {}", dir.display())));
    };
    let mut report = FsckReport { repaired: repair, ..FsckReport::default() };
    if !whole {
        report.copies_damaged.push(dir.join("identity"));
        if repair {
            identity.store(disk, dir)?;
        }
    }
    for shard in 0..identity.shards {
        let shard_dir = dir.join(format!("shard-{shard}"));
        match disk.list(&shard_dir) {
            Ok(_) => {}
            // A crash between making the log and its first shard.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(LogError::io("list", &shard_dir, error)),
        }
        let (checkpoint, damaged) = Checkpoint::load(disk, &shard_dir)?;
        if damaged {
            let of = if checkpoint.is_some() { &mut report.copies_damaged } else { &mut report.copies_lost };
            of.push(shard_dir.join("checkpoint"));
        }
        let mut check = Check {
            disk,
            dir: &shard_dir,
            log_id: identity.log_id,
            shard,
            repair,
            checkpoint: checkpoint.unwrap_or_default(),
            checkpoint_changed: damaged,
            schemas: HashMap::new(),
            quarantined: 0,
        };
        report.shards.push(check.run()?);
    }
    Ok(report)
}

struct Check<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    log_id: u64,
    shard: u16,
    repair: bool,
    checkpoint: Checkpoint,
    checkpoint_changed: bool,
    schemas: HashMap<u64, arrow::datatypes::SchemaRef>,
    quarantined: u64,
}

/// Something to be done to a segment file.
enum Mend {
    /// Put a hole over `[from, to)`.
    Hole { from: u64, to: u64 },
    /// Mark records of a block as lost.
    Lost { block: Block, entries: Vec<usize> },
    /// Write a block as it was before bits of it were wrong.
    Bits { block: Block },
    /// Cut the file at this offset.
    Cut { at: u64 },
}

impl Check<'_> {
    fn run(&mut self) -> Result<ShardReport, LogError> {
        let inventory = take_inventory(self.disk, self.dir, self.log_id, self.shard)?;
        let mut report = ShardReport { shard: self.shard, ..ShardReport::default() };
        report.strays = inventory.strays.iter().map(|(path, _)| path.clone()).collect();
        if let Some((first, _)) = inventory.segments.first()
            && first.base > self.checkpoint.oldest
        {
            report.missing.push(self.damage(&first.path, 0, self.checkpoint.oldest, first.base, None));
            self.checkpoint.oldest = first.base;
            self.checkpoint_changed = true;
        }
        for at in 0..inventory.segments.len() {
            let segment = self.segment(&inventory, at)?;
            report.segments.push(segment);
        }
        self.newest(&inventory, &mut report)?;
        self.runs(&mut report)?;
        if self.repair {
            for stray in &report.strays {
                let aside = with_suffix(stray, ".stray");
                self.disk.rename(stray, &aside).map_err(|error| LogError::io("rename", stray, error))?;
            }
            if self.checkpoint_changed {
                self.checkpoint.store(self.disk, self.dir)?;
            }
            self.disk.sync_dir(self.dir).map_err(|error| LogError::io("sync", self.dir, error))?;
        }
        Ok(report)
    }

    fn segment(&mut self, inventory: &Inventory, at: usize) -> Result<SegmentReport, LogError> {
        let (segment, header) = &inventory.segments[at];
        let limit = inventory.segments.get(at + 1).map(|(next, _)| next.base);
        let mut report = SegmentReport {
            file: segment.path.clone(),
            number: segment.number,
            base: segment.base,
            bytes: segment.len,
            header_damaged: header.is_none(),
            ..SegmentReport::default()
        };
        for (id, message) in header.iter().flat_map(|header| &header.schemas) {
            self.learn(*id, message);
        }
        let footer = segment.footer()?;
        report.closed = footer.is_some();
        let index: Option<Vec<IndexEntry>> = footer.map(|footer| {
            self.learn_all(&footer);
            footer
                .entries
                .into_iter()
                .filter_map(|entry| match entry {
                    Entry::Index(index) => Some(index),
                    _ => None,
                })
                .collect()
        });
        let mut mends = Vec::new();
        let mut pending: Option<Block> = None;
        let end = segment.scan(limit, true, &mut |found| {
            if let Some(block) = pending.take() {
                self.block(segment, block, &mut report, &mut mends);
            }
            match found {
                Found::Block(block) => pending = Some(block),
                Found::Gap { from, to } => {
                    self.gap(segment, from, to, index.as_ref(), &mut report);
                    mends.push(Mend::Hole { from, to });
                }
            }
            Ok(())
        })?;
        report.end = end.at;
        if let Some(block) = pending {
            let durable = limit.is_some() || end.cut || end.watermark >= block.header.end();
            if durable || block.bad.is_empty() {
                self.block(segment, block, &mut report, &mut mends);
            } else {
                report.end = block.header.offset;
            }
        }
        report.closed |= end.footer;
        let durable_to = match limit {
            Some(limit) => limit,
            None if end.cut => end.claimed + JUMP,
            None if end.watermark > end.at => end.watermark.max(end.claimed),
            None => 0,
        };
        if end.at < durable_to {
            self.gap(segment, end.at, durable_to, index.as_ref(), &mut report);
            mends.push(Mend::Hole { from: end.at, to: durable_to });
            report.end = durable_to;
        } else if limit.is_none() && !end.footer && (end.leftover || report.end < end.at) {
            report.torn_bytes = segment.len.saturating_sub(segment.file_offset(report.end));
            mends.push(Mend::Cut { at: report.end });
        }
        if self.repair {
            self.mend(segment, header.is_none(), mends)?;
        }
        Ok(report)
    }

    fn block(&mut self, segment: &SegmentFile, block: Block, report: &mut SegmentReport, mends: &mut Vec<Mend>) {
        self.learn_all(&block);
        report.blocks += 1;
        let mut lost = Vec::new();
        let mut number = 0;
        for (at, entry) in block.entries.iter().enumerate() {
            let Entry::Rows(rows) = entry else {
                number += u64::from(matches!(entry, Entry::Lost(_)));
                continue;
            };
            let decoded = !block.bad.contains(&at)
                && self
                    .schemas
                    .get(&rows.schema)
                    .is_some_and(|schema| decode_batch(block.body(at), schema, rows.rows).is_ok());
            if decoded {
                report.records += 1;
                report.rows += u64::from(rows.rows);
            } else {
                let from = block.header.offset + number;
                let streams = Some(vec![(rows.tenant.clone(), rows.stream.clone())]);
                let file_offset = segment.file_offset(block.header.offset);
                report.damage.push(self.damage(&segment.path, file_offset, from, from + 1, streams));
                lost.push(at);
            }
            number += 1;
        }
        report.wrong_bits += u64::from(block.mended);
        if block.mended {
            mends.push(Mend::Bits { block: block.clone() });
        }
        if !lost.is_empty() {
            mends.push(Mend::Lost { block, entries: lost });
        }
    }

    fn gap(
        &self,
        segment: &SegmentFile,
        from: u64,
        to: u64,
        index: Option<&Vec<IndexEntry>>,
        report: &mut SegmentReport,
    ) {
        let streams = index.map(|index| {
            distinct(
                index
                    .iter()
                    .filter(|entry| entry.first < to && entry.last >= from)
                    .map(|entry| (entry.tenant.clone(), entry.stream.clone())),
            )
        });
        report.damage.push(self.damage(&segment.path, segment.file_offset(from), from, to, streams));
    }

    fn damage(
        &self,
        file: &Path,
        file_offset: u64,
        from: u64,
        to: u64,
        streams: Option<Vec<(TenantId, StreamName)>>,
    ) -> Damage {
        let position = |offset| Position { shard: self.shard, offset };
        Damage { file: file.to_owned(), file_offset, from: position(from), to: position(to), streams }
    }

    fn learn(&mut self, id: u64, message: &[u8]) {
        if let Ok(schema) = decode_schema(message) {
            self.schemas.entry(id).or_insert(schema);
        }
    }

    fn learn_all(&mut self, block: &Block) {
        for (at, entry) in block.entries.iter().enumerate() {
            if let Entry::Schema { id, .. } = entry
                && !block.bad.contains(&at)
            {
                self.learn(*id, block.body(at));
            }
        }
    }

    /// The newest segment known to have existed must be there.
    fn newest(&mut self, inventory: &Inventory, report: &mut ShardReport) -> Result<(), LogError> {
        let end = report.segments.last().map_or(self.checkpoint.oldest, |segment| segment.end);
        let Some((lost, to)) = lost_newest(inventory, &self.checkpoint, end) else { return Ok(()) };
        let path = crate::segment::segment_path(self.dir, lost);
        report.missing.push(self.damage(&path, 0, end, to, None));
        // Without any segment left there is nothing to mend; opening the log begins a new one.
        if self.repair
            && let Some((last, _)) = inventory.segments.last()
        {
            self.mend(last, false, vec![Mend::Hole { from: end, to }])?;
            self.checkpoint.newest_number = last.number;
            self.checkpoint.newest_base = last.base;
            self.checkpoint_changed = true;
        }
        Ok(())
    }

    fn mend(&mut self, segment: &SegmentFile, header_damaged: bool, mends: Vec<Mend>) -> Result<(), LogError> {
        if mends.is_empty() && !header_damaged {
            return Ok(());
        }
        let failed = |error| LogError::io("repair", &segment.path, error);
        let file = self.disk.open(&segment.path).map_err(failed)?;
        let quarantine = self.dir.join("quarantine");
        self.disk.create_dir_all(&quarantine).map_err(|error| LogError::io("create", &quarantine, error))?;
        if header_damaged {
            let header = SegmentHeader {
                log_id: self.log_id,
                shard: self.shard,
                number: segment.number,
                base: segment.base,
                created_at: 0,
                capacity: segment.len,
                schemas: Vec::new(),
            };
            self.keep_aside(segment, &quarantine, 0, segment.header_len)?;
            let bytes = header.encode_padded(segment.header_len);
            file.write_all_at(&bytes, 0).map_err(failed)?;
        }
        for mend in mends {
            match mend {
                Mend::Hole { from, to } => {
                    let at = segment.file_offset(from);
                    self.keep_aside(segment, &quarantine, at, segment.file_offset(to))?;
                    let mut bytes = hole(self.log_id, self.shard, from, to, Timestamp::default().0).to_vec();
                    bytes.resize(crate::format::ALIGN as usize, 0);
                    file.write_all_at(&bytes, at).map_err(failed)?;
                }
                Mend::Lost { mut block, entries } => {
                    let at = segment.file_offset(block.header.offset);
                    self.keep_aside(segment, &quarantine, at, at + u64::from(block.header.len))?;
                    for number in entries {
                        if let Some(entry) = block.entries.get_mut(number)
                            && let Entry::Rows(rows) = entry
                        {
                            *entry = Entry::Lost(rows.clone());
                        }
                    }
                    let head = reencode_head(&block.header, &block.entries);
                    file.write_all_at(&head, at).map_err(failed)?;
                }
                Mend::Bits { block } => {
                    let at = segment.file_offset(block.header.offset);
                    self.keep_aside(segment, &quarantine, at, at + u64::from(block.header.len))?;
                    file.write_all_at(&block.header.encode(), at).map_err(failed)?;
                    file.write_all_at(&block.bytes, at).map_err(failed)?;
                }
                Mend::Cut { at } => {
                    let at = segment.file_offset(at);
                    self.keep_aside(segment, &quarantine, at, segment.len)?;
                    file.set_len(at).map_err(failed)?;
                }
            }
        }
        // What is missing of a file that was cut is behind a hole now.
        if file.len().map_err(failed)? < segment.capacity.max(segment.len) {
            file.set_len(segment.capacity.max(segment.len)).map_err(failed)?;
        }
        file.sync_all().map_err(failed)
    }

    /// Copies bytes of a segment into a file of their own, durably, before they are touched.
    fn keep_aside(&mut self, segment: &SegmentFile, quarantine: &Path, from: u64, to: u64) -> Result<(), LogError> {
        const CHUNK: u64 = 1 << 20;
        let to = to.min(segment.len);
        if from >= to {
            return Ok(());
        }
        let (file, path) = loop {
            let path = quarantine.join(format!("{:020}-{from}-{}.bin", segment.number, self.quarantined));
            self.quarantined += 1;
            match self.disk.create(&path) {
                Ok(file) => break (file, path),
                // From an earlier repair.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(LogError::io("create", &path, error)),
            }
        };
        let mut at = from;
        while at < to {
            let mut bytes = vec![0; CHUNK.min(to - at) as usize];
            if segment.file.read_exact_at(&mut bytes, at).is_err() {
                bytes.fill(0);
            }
            file.write_all_at(&bytes, at - from).map_err(|error| LogError::io("write", &path, error))?;
            at += bytes.len() as u64;
        }
        file.sync_all()
            .and_then(|()| self.disk.sync_dir(quarantine))
            .map_err(|error| LogError::io("write", &path, error))
    }

    fn runs(&self, report: &mut ShardReport) -> Result<(), LogError> {
        let dir = self.dir.join("ids");
        let entries = match self.disk.list(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(LogError::io("list", &dir, error)),
        };
        for entry in entries {
            let Some(number) = run_number(&entry.name) else { continue };
            let path = dir.join(&entry.name);
            let checked = Run::open(self.disk, &dir, number).map_err(|error| (0, error)).and_then(|run| run.verify());
            let Err((offset, error)) = checked else {
                report.runs += 1;
                continue;
            };
            report.runs_damaged.push((path.clone(), offset, error.to_string()));
            if self.repair {
                let aside = with_suffix(&path, ".damaged");
                self.disk
                    .rename(&path, &aside)
                    .and_then(|()| self.disk.sync_dir(&dir))
                    .map_err(|error| LogError::io("rename", &path, error))?;
            }
        }
        Ok(())
    }
}
