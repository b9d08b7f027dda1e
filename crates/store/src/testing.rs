//! A catalogue and a log in memory, with faults on demand, and rows to put into tables.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use parking_lot::Mutex;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use weir_base::clock::ManualClock;
use weir_base::disk::{Disk, RealDisk};
use weir_base::{Clock, ErrorKind, StreamName, TenantId, Timestamp};
use weir_data::attributes::{AttributeKind, AttributesBuilder};
use weir_data::batch::{conform, sparse};
use weir_data::defined::StreamRegistry;
use weir_data::streams::{self, StreamDef};
use weir_log::{Commit, Position, Record, Subscriber};
use weir_meta::catalogue::{FileEntry, FileId, TableCommit, TablePosition};

use crate::seam::{Catalogue, CatalogueContents, DamagedEntry, Owner, RecordSource, SeamError};
use crate::{Snapshot, Store, StoreError, StoreOptions, TableFile};

/// 2026-11-21T13:00:00Z.
pub(crate) const NOW: i64 = 1_795_266_000_000_000_000;
pub(crate) const SECOND: i64 = 1_000_000_000;

pub(crate) fn tenant(id: &str) -> TenantId {
    TenantId::new(id).unwrap()
}

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

/// What happens to the next transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and changes nothing.
    Refused,
    /// It takes place and is reported as failed.
    Unheard,
    /// As `Unheard`, and the catalogue cannot be read right afterwards.
    Silent,
    /// It is reported as failed and not seen, and it has taken place after a restart, unless another
    /// one succeeds before: as where the sync of a commit fails.
    Late,
}

#[derive(Clone, Default)]
struct Contents {
    epoch: u64,
    next_id: i64,
    files: BTreeMap<FileId, FileEntry>,
    positions: BTreeMap<(TenantId, StreamName, u16), u64>,
    fault: Option<Fault>,
    mute: bool,
    deleted: BTreeSet<TenantId>,
    lost: BTreeSet<TenantId>,
    damaged: Vec<DamagedEntry>,
    retention: HashMap<TenantId, Duration>,
    kinds: HashMap<String, AttributeKind>,
    notes: HashMap<String, String>,
    /// What is there after a restart.
    late: Option<Box<Contents>>,
}

/// A catalogue in memory.
#[derive(Default)]
pub(crate) struct ModelCatalogue {
    contents: Mutex<Contents>,
    /// Which streams there are.
    pub(crate) streams: Mutex<Arc<StreamRegistry>>,
}

fn refused(kind: ErrorKind, text: &str) -> SeamError {
    // A transient failure says nothing of what has happened.
    SeamError { kind, is_refusal: kind != ErrorKind::Transient, source: text.to_owned().into() }
}

impl ModelCatalogue {
    fn fork(&self) -> Self {
        let streams = Mutex::new(Arc::clone(&self.streams.lock()));
        Self { contents: Mutex::new(self.contents.lock().clone()), streams }
    }

    pub(crate) fn fail_next(&self, fault: Fault) {
        self.contents.lock().fault = Some(fault);
    }

    /// Loses the rows of a table's files, and says so.
    pub(crate) fn damage(&self, tenant: &TenantId, stream: &StreamName) {
        let mut contents = self.contents.lock();
        contents.files.retain(|_, file| file.tenant != *tenant || file.stream != *stream);
        let (tenant, stream) = (Some(tenant.clone()), Some(stream.clone()));
        contents.damaged.push(DamagedEntry { tenant, stream, what: "row 7 of files is damaged".to_owned() });
    }

    pub(crate) fn delete(&self, tenant: &TenantId) {
        self.contents.lock().deleted.insert(tenant.clone());
    }

    /// Loses the row of a tenant.
    pub(crate) fn lose(&self, tenant: &TenantId) {
        self.contents.lock().lost.insert(tenant.clone());
    }

    pub(crate) fn retain(&self, tenant: &TenantId, retention: Duration) {
        self.contents.lock().retention.insert(tenant.clone(), retention);
    }

    pub(crate) fn declare(&self, key: &str, kind: AttributeKind) {
        self.contents.lock().kinds.insert(key.to_owned(), kind);
    }

    pub(crate) fn files(&self) -> Vec<FileEntry> {
        self.contents.lock().files.values().cloned().collect()
    }
}

impl Catalogue for ModelCatalogue {
    fn begin_writer(&self) -> Result<u64, SeamError> {
        let mut contents = self.contents.lock();
        if let Some(late) = contents.late.take() {
            *contents = *late;
        }
        contents.epoch += 1;
        contents.fault = None;
        contents.mute = false;
        Ok(contents.epoch)
    }

    fn streams(&self) -> Arc<StreamRegistry> {
        Arc::clone(&self.streams.lock())
    }

    fn contents(&self) -> Result<CatalogueContents, SeamError> {
        let mut contents = self.contents.lock();
        if std::mem::take(&mut contents.mute) {
            return Err(refused(ErrorKind::Transient, "the catalogue does not answer"));
        }
        let positions = contents.positions.iter().map(|((tenant, stream, shard), offset)| TablePosition {
            tenant: tenant.clone(),
            stream: stream.clone(),
            shard: *shard,
            offset: *offset,
        });
        Ok(CatalogueContents {
            positions: positions.collect(),
            files: contents.files.values().cloned().collect(),
            damaged: contents.damaged.clone(),
        })
    }

    fn commit_table(&self, commit: TableCommit) -> Result<Vec<FileId>, SeamError> {
        let mut guard = self.contents.lock();
        let fault = guard.fault.take();
        let mut late = (fault == Some(Fault::Late)).then(|| Box::new(Contents { late: None, ..guard.clone() }));
        let contents = late.as_deref_mut().unwrap_or(&mut guard);
        if fault == Some(Fault::Refused) {
            return Err(refused(ErrorKind::Transient, "the catalogue refuses"));
        }
        if commit.writer_epoch != contents.epoch {
            return Err(refused(ErrorKind::Conflict, "fenced"));
        }
        if contents.deleted.contains(&commit.tenant) || contents.lost.contains(&commit.tenant) {
            return Err(refused(ErrorKind::NotFound, "no such tenant"));
        }
        if commit.remove.iter().any(|id| !contents.files.contains_key(id)) {
            return Err(refused(ErrorKind::Conflict, "no such file"));
        }
        if let Some((shard, from, to)) = commit.position {
            let key = (commit.tenant.clone(), commit.stream.clone(), shard);
            let at = contents.positions.entry(key).or_default();
            if *at != from {
                return Err(refused(ErrorKind::Conflict, "moved"));
            }
            *at = to;
        }
        for id in &commit.remove {
            contents.files.remove(id);
        }
        let mut ids = Vec::new();
        for mut entry in commit.add {
            contents.next_id += 1;
            entry.id = FileId(contents.next_id);
            ids.push(entry.id);
            contents.files.insert(entry.id, entry);
        }
        match fault {
            None => {
                contents.late = None;
                Ok(ids)
            }
            Some(Fault::Late) => {
                guard.late = late;
                Err(refused(ErrorKind::Transient, "the disk failed at the commit"))
            }
            Some(fault) => {
                contents.mute = fault == Fault::Silent;
                Err(refused(ErrorKind::Transient, "the catalogue does not answer"))
            }
        }
    }

    fn drop_table_files(&self, tenant: &TenantId) -> Result<Vec<FileEntry>, SeamError> {
        let mut contents = self.contents.lock();
        if !contents.deleted.contains(tenant) {
            return Err(refused(ErrorKind::Conflict, "not deleted"));
        }
        let (gone, left) =
            std::mem::take(&mut contents.files).into_iter().partition(|(_, file)| file.tenant == *tenant);
        contents.files = left;
        let gone: BTreeMap<FileId, FileEntry> = gone;
        Ok(gone.into_values().collect())
    }

    fn purge_deleted(&self) -> Result<(), SeamError> {
        Ok(())
    }

    fn note(&self, name: &str) -> Result<Option<String>, SeamError> {
        Ok(self.contents.lock().notes.get(name).cloned())
    }

    fn keep_note(&self, name: &str, text: &str) -> Result<(), SeamError> {
        self.contents.lock().notes.insert(name.to_owned(), text.to_owned());
        Ok(())
    }

    fn owner(&self, tenant: &TenantId, _stream: &StreamName) -> Result<Owner, SeamError> {
        let contents = self.contents.lock();
        if contents.deleted.contains(tenant) {
            return Ok(Owner::Deleted);
        }
        if contents.lost.contains(tenant) {
            return Ok(Owner::Unknown);
        }
        let year = Duration::from_secs(365 * 86_400);
        Ok(Owner::Keeps(contents.retention.get(tenant).copied().unwrap_or(year)))
    }

    fn kind(&self, _: &TenantId, _: &StreamName, _: &str, key: &str) -> Result<Option<AttributeKind>, SeamError> {
        Ok(self.contents.lock().kinds.get(key).copied())
    }
}

/// A log in memory that never forgets, so that it can be replayed.
#[derive(Default)]
pub(crate) struct ModelLog {
    records: Mutex<BTreeMap<Position, Record>>,
    next: AtomicU64,
    pub(crate) released: AtomicU64,
}

impl RecordSource for ModelLog {
    fn read(&self, position: Position) -> Result<Record, SeamError> {
        if position.offset < self.released.load(Ordering::SeqCst) {
            return Err(refused(ErrorKind::Internal, "this place was released"));
        }
        let records = self.records.lock();
        records.get(&position).cloned().ok_or_else(|| refused(ErrorKind::Internal, "no record there"))
    }

    fn release(&self, position: Position) {
        self.released.fetch_max(position.offset, Ordering::SeqCst);
    }

    fn shard_of(&self, _tenant: &TenantId) -> u16 {
        0
    }
}

impl ModelLog {
    fn fork(&self) -> Self {
        Self {
            records: Mutex::new(self.records.lock().clone()),
            next: AtomicU64::new(self.next.load(Ordering::SeqCst)),
            released: AtomicU64::new(self.released.load(Ordering::SeqCst)),
        }
    }

    /// Commits one record a batch.
    pub(crate) fn append(&self, store: &Store, rows: Vec<(TenantId, StreamName, RecordBatch)>) {
        let records: Vec<Record> = rows
            .into_iter()
            .map(|(tenant, stream, batch)| {
                let offset = self.next.fetch_add(100, Ordering::SeqCst);
                let position = Position { shard: 0, offset };
                Record { tenant, stream, position, committed_at: Timestamp(NOW), batch }
            })
            .collect();
        let mut all = self.records.lock();
        all.extend(records.iter().map(|record| (record.position, record.clone())));
        drop(all);
        let end = Position { shard: 0, offset: self.next.load(Ordering::SeqCst) };
        store.committed(&Commit { records, end });
    }

    /// Gives a newly opened store what it still wants.
    pub(crate) fn replay(&self, store: &Store) {
        let records: Vec<Record> = self.records.lock().values().cloned().collect();
        let released = self.released.load(Ordering::SeqCst);
        for record in records {
            let end = Position { shard: 0, offset: record.position.offset + 100 };
            let wanted = store.wants(&record.tenant, &record.stream, record.position);
            assert!(!wanted || record.position.offset >= released, "{:?} was released and is wanted", record.position);
            let records = if wanted { vec![record] } else { Vec::new() };
            store.committed(&Commit { records, end });
        }
    }
}

/// Everything around one store.
pub(crate) struct Bench {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) catalogue: Arc<ModelCatalogue>,
    pub(crate) log: Arc<ModelLog>,
    pub(crate) options: StoreOptions,
    pub(crate) store: Arc<Store>,
    _dir: Option<tempfile::TempDir>,
}

impl Bench {
    pub(crate) fn new(change: impl FnOnce(&mut StoreOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = StoreOptions { dir: dir.path().join("tables"), ..StoreOptions::default() };
        change(&mut options);
        let mut bench = Self::on(RealDisk::new(), options).unwrap();
        bench._dir = Some(dir);
        bench
    }

    pub(crate) fn on(disk: Arc<dyn Disk>, options: StoreOptions) -> Result<Self, StoreError> {
        let clock = ManualClock::new(Timestamp(NOW));
        let catalogue = Arc::new(ModelCatalogue::default());
        let log = Arc::new(ModelLog::default());
        let store = open(&options, &disk, &clock, &catalogue, &log)?;
        Ok(Self { disk, clock, catalogue, log, options, store, _dir: None })
    }

    /// What a crash leaves: the same catalogue and log, another disk.
    pub(crate) fn after_crash(&self, disk: Arc<dyn Disk>) -> Self {
        // Copies, so that one crash can be looked at in several ways.
        let (clock, log) = (self.clock.clone(), Arc::new(self.log.fork()));
        let catalogue = Arc::new(self.catalogue.fork());
        let store = open(&self.options, &disk, &clock, &catalogue, &log).unwrap();
        Self { disk, clock, catalogue, log, options: self.options.clone(), store, _dir: None }
    }

    /// Opens again what is on the disk and in the catalogue, and replays the log.
    pub(crate) fn reopen(&mut self) -> Result<(), StoreError> {
        self.store = open(&self.options, &self.disk, &self.clock, &self.catalogue, &self.log)?;
        Ok(())
    }

    pub(crate) fn append(&self, tenant_id: &str, name: &str, batch: RecordBatch) {
        self.log.append(&self.store, vec![(tenant(tenant_id), stream(name), batch)]);
    }

    pub(crate) fn snapshot(&self, tenant_id: &str, name: &str) -> Arc<Snapshot> {
        self.store.snapshot(&tenant(tenant_id), &stream(name)).unwrap()
    }

    /// The `flags` of all rows of the tenant's logs, sorted.
    pub(crate) fn ids(&self, tenant_id: &str) -> Vec<i64> {
        ids(&self.snapshot(tenant_id, "logs")).unwrap()
    }

    /// Paths of all files below the tables' directory.
    pub(crate) fn files_on_disk(&self) -> Vec<String> {
        fn walk(disk: &Arc<dyn Disk>, path: &std::path::Path, out: &mut Vec<String>) {
            for entry in disk.list(path).unwrap() {
                let path = path.join(&entry.name);
                if entry.is_dir {
                    walk(disk, &path, out);
                } else {
                    out.push(path.to_string_lossy().into_owned());
                }
            }
        }
        let mut out = Vec::new();
        walk(&self.disk, &self.options.dir, &mut out);
        out.sort();
        out
    }
}

fn open(
    options: &StoreOptions,
    disk: &Arc<dyn Disk>,
    clock: &Arc<ManualClock>,
    catalogue: &Arc<ModelCatalogue>,
    log: &Arc<ModelLog>,
) -> Result<Arc<Store>, StoreError> {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    let store = Store::open(options.clone(), Arc::clone(disk), clock, Arc::clone(catalogue) as Arc<dyn Catalogue>)?;
    log.replay(&store);
    store.attach(Arc::clone(log) as Arc<dyn RecordSource>);
    Ok(store)
}

/// Log rows: `flags` is the id, the body names it, time is given relative to [`NOW`] in seconds.
pub(crate) fn log_rows(rows: &[(i64, i64)]) -> RecordBatch {
    let definition = streams::stream("logs").unwrap();
    let times = |f: &dyn Fn(&(i64, i64)) -> i64| -> ArrayRef {
        Arc::new(rows.iter().map(|row| Some(f(row))).collect::<TimestampNanosecondArray>().with_timezone("UTC"))
    };
    let columns = definition
        .schema
        .fields()
        .iter()
        .map(|field| -> Option<ArrayRef> {
            match field.name().as_str() {
                "time" => Some(times(&|(_, second)| NOW + second * SECOND)),
                "received_at" => Some(times(&|_| NOW)),
                "flags" => Some(Arc::new(rows.iter().map(|(id, _)| Some(*id)).collect::<Int64Array>())),
                "body" => Some(Arc::new(rows.iter().map(|(id, _)| Some(format!("row {id}"))).collect::<StringArray>())),
                "attributes" => Some(attributes_of(rows)),
                _ => None,
            }
        })
        .collect();
    sparse(&definition.schema, columns, rows.len()).unwrap()
}

fn attributes_of(rows: &[(i64, i64)]) -> ArrayRef {
    let mut attributes = AttributesBuilder::with_capacity(rows.len());
    for (id, _) in rows {
        attributes.push_i64("id", *id);
        if id % 3 == 0 {
            attributes.push_str("color", if id % 2 == 0 { "red" } else { "blue" });
        }
        attributes.end_row();
    }
    attributes.finish().0
}

/// All rows of a file of a built-in stream, in its order, with the stream's own columns.
pub(crate) fn read_file(file: &Arc<TableFile>) -> Result<Vec<RecordBatch>, StoreError> {
    read_file_of(file, streams::stream(file.entry.stream.as_str()).unwrap())
}

pub(crate) fn read_file_of(file: &Arc<TableFile>, definition: &StreamDef) -> Result<Vec<RecordBatch>, StoreError> {
    let failed = |error| StoreError::parquet("read", file.path(), error);
    let metadata = ArrowReaderMetadata::try_new(file.metadata()?, ArrowReaderOptions::new()).map_err(failed)?;
    let blocks = file.blocks();
    let reader =
        ParquetRecordBatchReaderBuilder::new_with_metadata(blocks.clone(), metadata).build().map_err(failed)?;
    let mut out = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| blocks.failure(error))?;
        let batch = crate::promote::restore_map(&batch, &file.entry)?;
        out.push(conform(&batch, &definition.schema).unwrap());
    }
    Ok(out)
}

/// All rows of a snapshot: files, then tail.
pub(crate) fn read_all(snapshot: &Snapshot) -> Result<Vec<RecordBatch>, StoreError> {
    let mut out = Vec::new();
    for file in snapshot.files.iter() {
        out.extend(read_file_of(file, &snapshot.stream)?);
    }
    for record in &snapshot.tail {
        out.push(conform(&record.batch()?, &snapshot.stream.schema).unwrap());
    }
    Ok(out)
}

pub(crate) fn ids(snapshot: &Snapshot) -> Result<Vec<i64>, StoreError> {
    let mut ids = Vec::new();
    for batch in read_all(snapshot)? {
        let flags = batch.column_by_name("flags").unwrap().as_primitive::<Int64Type>();
        let bodies = batch.column_by_name("body").unwrap().as_string::<i32>();
        for row in 0..batch.num_rows() {
            assert_eq!(bodies.value(row), format!("row {}", flags.value(row)), "columns of different rows were mixed");
            ids.push(flags.value(row));
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// The `time` column of all rows of a file.
pub(crate) fn times(file: &Arc<TableFile>) -> Vec<i64> {
    let batches = read_file(file).unwrap();
    batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<TimestampNanosecondType>().values().to_vec())
        .collect()
}
