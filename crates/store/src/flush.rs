//! From tail to files.
//!
//! Order: write the files aside, sync, rename, sync the directory, then one transaction of the
//! catalogue that adds the files and moves the table's position, then swap the snapshot. A crash
//! before the transaction leaves orphans, which the next start removes; after it, the log is not
//! asked for these rows again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, TimestampNanosecondType};
use hashbrown::{HashMap, HashSet};
use weir_base::{ErrorKind, Kinded, StreamName, TenantId};
use weir_data::attributes::AttributeKind;
use weir_meta::catalogue::{FileEntry, FileId, PromotedKey, TableCommit};

use crate::StoreError;
use crate::file::TableFile;
use crate::order::{RowAt, align, sorted_runs};
use crate::partition::{Width, effective_time};
use crate::promote::{choose, file_schema};
use crate::retain::ownerless;
use crate::seam::{CatalogueContents, Owner, SeamError};
use crate::sorted::Sorted;
use crate::store::{Store, table_damage};
use crate::table::{FlushInput, Table};
use crate::write::{NewFile, Target, discard};

const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What one flush did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Files that became part of tables.
    pub files: usize,
    /// Rows in them.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl FlushReport {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

impl Store {
    /// Writes all rows of one tail to files.
    ///
    /// # Errors
    /// Whatever stopped it; the tail is then as it was, and nothing is lost or doubled.
    pub fn flush(&self, tenant: &TenantId, stream: &StreamName) -> Result<FlushReport, StoreError> {
        if self.existing(tenant, stream).is_none() && !self.is_known(tenant, stream) {
            return Err(StoreError::UnknownStream(stream.clone()));
        }
        self.flush_table(&self.table(tenant, stream))
    }

    /// Writes all rows of all tails to files. A table that fails does not stop the others; the
    /// first error is returned.
    pub fn flush_all(&self) -> Result<FlushReport, StoreError> {
        let mut report = FlushReport::default();
        let mut failure = None;
        for table in self.all_tables() {
            match self.flush_table(&table) {
                Ok(more) => report.add(&more),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        self.release();
        failure.map_or(Ok(report), Err)
    }

    /// Flushes what is due: large tails, old tails, and the largest when all tails of a shard
    /// together hold too much. Called by the background thread.
    pub(crate) fn flush_due(&self, stop: &dyn Fn() -> bool) {
        let now = self.clock.monotonic();
        let mut due = Vec::new();
        let mut unflushed: HashMap<u16, u64> = HashMap::new();
        for table in self.all_tables() {
            let (bytes, shard, wanted, ready) = table.look(|state| {
                let old = state.oldest.is_some_and(|oldest| now.saturating_sub(oldest) >= self.options.flush_age);
                let large = state.unflushed_bytes >= self.options.flush_bytes;
                let shard = state.tail.first().map(|chunk| chunk.shard);
                (state.unflushed_bytes, shard, old || large, state.retry_at <= now)
            });
            let Some(shard) = shard else { continue };
            // What cannot be flushed now must not make others pay for it: they would be flushed
            // again and again without making room.
            if ready && table_damage(&table).is_none() {
                *unflushed.entry(shard).or_default() += bytes;
                due.push((bytes, wanted, shard, table));
            }
        }
        due.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        let mut flushed = false;
        for (bytes, wanted, shard, table) in due {
            let held = unflushed.entry(shard).or_default();
            if !wanted && *held <= self.options.unflushed_bytes_max {
                continue;
            }
            if stop() || self.is_fenced() {
                return;
            }
            // The error is kept with the table and tried again later.
            if self.flush_table(&table).is_ok() {
                *held = held.saturating_sub(bytes);
                flushed = true;
            }
        }
        if flushed {
            self.release();
        }
    }

    pub(crate) fn flush_table(&self, table: &Arc<Table>) -> Result<FlushReport, StoreError> {
        let _guard = table.flushing.lock();
        let mut report = FlushReport::default();
        // What is there now: rows that arrive meanwhile must not keep this table at work while
        // others wait.
        let wanted = table.look(|state| state.unflushed_rows);
        while report.rows < wanted {
            if self.is_fenced() {
                return Err(StoreError::Fenced);
            }
            if let Some(damage) = table_damage(table) {
                return Err(damage);
            }
            if let Ok(Owner::Unknown) = self.catalogue.owner(&table.tenant, &table.name) {
                // The catalogue would refuse, after all the work.
                let error = ownerless(&table.tenant);
                self.note_flush_failure(table, &error);
                return Err(error);
            }
            // Half more than what makes a table due: a little more than that should be one file.
            let bytes_max = self.options.flush_bytes.saturating_add(self.options.flush_bytes / 2);
            let Some(input) = table.flush_input(bytes_max) else { break };
            match self.flush_some(table, &input) {
                Ok(more) => report.add(&more),
                Err(error) => {
                    self.note_flush_failure(table, &error);
                    return Err(error);
                }
            }
        }
        Ok(report)
    }

    fn note_flush_failure(&self, table: &Table, error: &StoreError) {
        if error.kind() == ErrorKind::Cancelled {
            return;
        }
        self.counters.flush_failures.fetch_add(1, Ordering::Relaxed);
        let text = weir_base::error::chain(error);
        tracing::error!(tenant = %table.tenant, stream = %table.name, error = %text, "cannot write rows to table files; they stay in the log");
        let now = self.clock.monotonic();
        table.look(|state| {
            state.failures = state.failures.saturating_add(1);
            let backoff = RETRY_MIN.saturating_mul(1 << state.failures.min(10)).min(RETRY_MAX);
            state.retry_at = now + backoff;
            state.last_error = Some(text);
        });
    }

    fn flush_some(&self, table: &Arc<Table>, input: &FlushInput) -> Result<FlushReport, StoreError> {
        let entries = self.write_tail(table, input)?;
        let report = FlushReport {
            files: entries.len(),
            rows: entries.iter().map(|entry| entry.rows).sum(),
            bytes: entries.iter().map(|entry| entry.bytes).sum(),
        };
        let files = self.commit(table, entries, &[], Some((input.shard, input.from, input.to)))?;
        table.flushed(input, files, self.clock.monotonic());
        self.counters.flushes.fetch_add(1, Ordering::Relaxed);
        self.counters.flushed_rows.fetch_add(report.rows, Ordering::Relaxed);
        self.counters.flushed_bytes.fetch_add(report.bytes, Ordering::Relaxed);
        Ok(report)
    }

    /// Writes the rows into one sorted file a partition.
    fn write_tail(&self, table: &Arc<Table>, input: &FlushInput) -> Result<Vec<FileEntry>, StoreError> {
        let batches = input.chunks.iter().map(|chunk| chunk.batch()).collect::<Result<Vec<_>, _>>()?;
        let (schema, mut batches) =
            align(&table.definition().schema, &batches).map_err(StoreError::rows("align the rows of a tail"))?;
        let mut written = Vec::new();
        let mut partitions = self.partitions(table, &batches).into_iter().peekable();
        while let Some((partition, rows)) = partitions.next() {
            if table.is_dropped() {
                self.discard_all(&written);
                return Err(StoreError::Stopped);
            }
            // The last file, mostly the only one, may use the rows up.
            let own = if partitions.peek().is_none() { std::mem::take(&mut batches) } else { batches.clone() };
            match self.write_sorted(table, &partition, &schema, own, &rows) {
                Ok(entry) => written.push(entry),
                Err(error) => {
                    self.discard_all(&written);
                    return Err(error);
                }
            }
        }
        Ok(written)
    }

    fn write_sorted(
        &self,
        table: &Arc<Table>,
        partition: &str,
        schema: &SchemaRef,
        batches: Vec<RecordBatch>,
        rows: &[RowAt],
    ) -> Result<FileEntry, StoreError> {
        let runs = sorted_runs(&batches, table.definition().sort, rows)
            .map_err(StoreError::rows("sort the rows of a tail"))?;
        let kind = |column: &str, key: &str| self.kind(table, column, key);
        let promoted = choose(&table.definition(), &batches, rows, self.options.promoted_keys_max, &kind);
        let file_schema = file_schema(schema, &promoted);
        let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let failed = StoreError::rows("prepare the rows of a tail");
        if rows.len() * 2 > total {
            let sorted = Sorted::prepared(batches, &runs, &promoted, &file_schema).map_err(failed)?;
            self.write_rows(table, partition, sorted, &promoted)
        } else {
            // Of many partitions each has a few of the rows: the others are not worth preparing.
            let sorted = Sorted::plain(schema, &batches, &runs, &promoted, &file_schema).map_err(failed)?;
            self.write_rows(table, partition, sorted, &promoted)
        }
    }

    fn write_rows(
        &self,
        table: &Arc<Table>,
        partition: &str,
        mut sorted: Sorted<'_>,
        promoted: &[PromotedKey],
    ) -> Result<FileEntry, StoreError> {
        let failed = || StoreError::rows("gather sorted rows");
        let Some(first) = sorted.next().map_err(failed())? else { return Err(StoreError::Stopped) };
        let mut file = NewFile::begin(self.target(table, partition, 0), &sorted.coding, promoted.to_vec(), &first)?;
        file.write(&first, &sorted.coding)?;
        while let Some(batch) = sorted.next().map_err(failed())? {
            file.write(&batch, &sorted.coding)?;
        }
        file.finish(&sorted.coding)
    }

    /// How an attribute key reads, if that is known for sure.
    pub(crate) fn kind(&self, table: &Table, column: &str, key: &str) -> Option<AttributeKind> {
        self.catalogue.kind(&table.tenant, &table.name, column, key).unwrap_or_default()
    }

    pub(crate) fn target<'a>(&'a self, table: &'a Table, partition: &'a str, level: u32) -> Target<'a> {
        Target {
            disk: &self.files.disk,
            dir: &self.options.dir,
            dirs: &self.dirs,
            tenant: &table.tenant,
            stream: table.definition(),
            partition,
            level,
            now: self.clock.now(),
            row_group_rows_max: self.options.row_group_rows_max,
            row_group_bytes_max: self.options.row_group_bytes_max,
            search_index: self.options.search_index,
        }
    }

    /// The rows by partition, in the order of the partitions' names.
    fn partitions(&self, table: &Table, batches: &[RecordBatch]) -> Vec<(String, Vec<RowAt>)> {
        let narrow = match self.catalogue.owner(&table.tenant, &table.name) {
            Ok(Owner::Keeps(retention)) => retention <= self.options.hourly_retention_max,
            Ok(Owner::Deleted | Owner::Unknown) | Err(_) => false,
        };
        let by_hour = by_hour(batches);
        let mut bytes_by_day: HashMap<String, u64> = HashMap::new();
        for file in table.look(|state| Arc::clone(&state.files)).iter() {
            let day = file.entry.partition.get(..10).unwrap_or(&file.entry.partition);
            *bytes_by_day.entry_ref(day).or_default() += file.entry.bytes;
        }
        let mut out: Vec<(String, Vec<RowAt>)> = Vec::new();
        for (hour, rows) in by_hour {
            let day = Width::Day.name(hour.div_euclid(24));
            let by_the_hour =
                narrow || bytes_by_day.get(day.as_str()).is_some_and(|bytes| *bytes > self.options.day_bytes_max);
            let name = if by_the_hour { Width::Hour.name(hour) } else { day };
            match out.last_mut() {
                Some((last, so_far)) if *last == name => so_far.extend(rows),
                _ => out.push((name, rows)),
            }
        }
        for (_, rows) in &mut out {
            // Back into the order of the log, which decides between equal rows.
            if !rows.is_sorted() {
                rows.sort_unstable();
            }
        }
        out
    }

    pub(crate) fn discard_all(&self, entries: &[FileEntry]) {
        for entry in entries {
            discard(&self.files.disk, &self.path_of(entry));
        }
    }

    /// One transaction of the catalogue. If it is refused the new files are removed again; if
    /// nobody can tell whether it took place they stay: the next attempt finds the table moved or
    /// not, and after a crash the next start finds files the catalogue names or orphans.
    pub(crate) fn commit(
        &self,
        table: &Table,
        entries: Vec<FileEntry>,
        remove: &[FileId],
        position: Option<(u16, u64, u64)>,
    ) -> Result<Vec<Arc<TableFile>>, StoreError> {
        if table.is_dropped() {
            self.discard_all(&entries);
            return Err(StoreError::Stopped);
        }
        // Taken before the transaction: only what failed earlier is settled by its success.
        let doubtful = std::mem::take(&mut *self.doubtful.lock());
        let result = self.catalogue.commit_table(TableCommit {
            tenant: table.tenant.clone(),
            stream: table.name.clone(),
            writer_epoch: self.epoch,
            add: entries.clone(),
            remove: remove.to_vec(),
            position,
        });
        let named = |entries: Vec<FileEntry>, ids: Vec<FileId>| {
            let named = entries.into_iter().zip(ids).map(|(mut entry, id)| {
                entry.id = id;
                Arc::new(TableFile::new(entry, Arc::clone(&self.files)))
            });
            named.collect::<Vec<_>>()
        };
        let SeamError { kind, is_refusal, source } = match result {
            Ok(ids) => {
                self.settle(doubtful);
                return Ok(named(entries, ids));
            }
            Err(error) => error,
        };
        self.doubtful.lock().extend(doubtful);
        let error = StoreError::Catalogue { attempt: "commit table files", kind, source };
        if is_refusal {
            self.discard_all(&entries);
        } else {
            self.doubtful.lock().extend(entries.iter().cloned());
        }
        // If the catalogue cannot be asked, the next attempt or the next start decides.
        let Ok(contents) = self.catalogue.contents() else { return Err(error) };
        // What is part of a table now goes the way of other files: queries may hold it.
        self.doubtful.lock().retain(|entry| contents.files.iter().all(|file| file.path != entry.path));
        if !is_refusal && let Some(ids) = committed_after_all(&contents, &entries, remove, position, table) {
            return Ok(named(entries, ids));
        }
        let owner = || self.catalogue.owner(&table.tenant, &table.name);
        if kind == ErrorKind::NotFound && matches!(owner(), Ok(Owner::Deleted)) {
            // The tenant is being deleted; retention clears its tables away.
            return Err(StoreError::Stopped);
        }
        if kind == ErrorKind::Conflict {
            // Whoever commits holds one of the two locks. Without the other a commit could come
            // between reading the catalogue and taking its word; waiting for it could be forever.
            let other = if position.is_some() { &table.rearranging } else { &table.flushing };
            let Some(_guard) = other.try_lock() else { return Err(error) };
            let Ok(contents) = self.catalogue.contents() else { return Err(error) };
            if !self.reload(table, &contents, remove, position) {
                self.fenced.store(true, Ordering::Release);
                tracing::error!("another process has taken over the tables; this one writes no more");
                return Err(StoreError::Fenced);
            }
        }
        Err(error)
    }

    /// Removes files of failed transactions that a later one has made sure never took place.
    fn settle(&self, doubtful: Vec<FileEntry>) {
        if doubtful.is_empty() {
            return;
        }
        let Ok(contents) = self.catalogue.contents() else {
            self.doubtful.lock().extend(doubtful);
            return;
        };
        if !contents.damaged.is_empty() {
            // What is not named may be what a damaged row named.
            return;
        }
        let known: HashSet<&str> = contents.files.iter().map(|file| file.path.as_str()).collect();
        let gone: Vec<FileEntry> = doubtful.into_iter().filter(|entry| !known.contains(entry.path.as_str())).collect();
        self.discard_all(&gone);
    }

    /// Takes the catalogue's word for a table that is not where it was believed to be: an earlier
    /// transaction took place although it was reported as failed. Answers false if the table is
    /// where it was believed, so that only a second writer explains the conflict. The caller holds
    /// both locks of the table.
    fn reload(
        &self,
        table: &Table,
        contents: &CatalogueContents,
        remove: &[FileId],
        position: Option<(u16, u64, u64)>,
    ) -> bool {
        let own = |tenant: &TenantId, stream: &StreamName| *tenant == table.tenant && *stream == table.name;
        let positions: Vec<(u16, u64)> = contents
            .positions
            .iter()
            .filter(|at| own(&at.tenant, &at.stream))
            .map(|at| (at.shard, at.offset))
            .collect();
        let files: Vec<&FileEntry> = contents.files.iter().filter(|file| own(&file.tenant, &file.stream)).collect();
        let moved = position.is_some_and(|(shard, from, _)| {
            positions.iter().find(|(at, _)| *at == shard).map_or(0, |(_, offset)| *offset) != from
        });
        let gone = remove.iter().any(|id| files.iter().all(|file| file.id != *id));
        if !moved && !gone {
            return false;
        }
        tracing::warn!(tenant = %table.tenant, stream = %table.name, "the table is not where it was believed to be; taking the catalogue's word");
        table.reload(positions, |known| {
            files
                .iter()
                .map(|entry| match known.iter().find(|file| file.entry.id == entry.id) {
                    Some(file) => Arc::clone(file),
                    None => Arc::new(TableFile::new((*entry).clone(), Arc::clone(&self.files))),
                })
                .collect()
        });
        true
    }
}

/// The rows by the hour they count to.
fn by_hour(batches: &[RecordBatch]) -> BTreeMap<i64, Vec<RowAt>> {
    let mut by_hour: BTreeMap<i64, Vec<RowAt>> = BTreeMap::new();
    for (source, batch) in (0_u32..).zip(batches) {
        let column = |name: &str| {
            batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>())
        };
        let (times, received) = (column("time"), column("received_at"));
        let hour = |row: usize| {
            let received = received.map_or(0, |column| column.value(row));
            Width::Hour.number(effective_time(times.map_or(received, |column| column.value(row)), received))
        };
        // Neighbours mostly share the hour: the map is asked when it changes.
        let mut row = 0;
        while row < batch.num_rows() {
            let here = hour(row);
            let end = (row + 1..batch.num_rows()).find(|next| hour(*next) != here).unwrap_or(batch.num_rows());
            by_hour.entry(here).or_default().extend((row..end).map(|row| (source, row as u32)));
            row = end;
        }
    }
    by_hour
}

/// Whether a transaction that was reported as failed took place: the ids of its files if it did.
fn committed_after_all(
    contents: &CatalogueContents,
    entries: &[FileEntry],
    remove: &[FileId],
    position: Option<(u16, u64, u64)>,
    table: &Table,
) -> Option<Vec<FileId>> {
    let ids: Vec<FileId> = entries
        .iter()
        .filter_map(|entry| contents.files.iter().find(|file| file.path == entry.path).map(|file| file.id))
        .collect();
    if !entries.is_empty() {
        return (ids.len() == entries.len()).then_some(ids);
    }
    // Nothing was added: the position, or the removed files, tell.
    let moved = position.is_none_or(|(shard, _, to)| {
        contents
            .positions
            .iter()
            .any(|at| at.tenant == table.tenant && at.stream == table.name && at.shard == shard && at.offset == to)
    });
    let removed = remove.iter().all(|id| contents.files.iter().all(|file| file.id != *id));
    (moved && removed).then_some(ids)
}
