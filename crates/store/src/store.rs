//! The store: all tables of one data directory, and everything that happens to them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use parking_lot::{Condvar, Mutex, RwLock};
use weir_base::disk::Disk;
use weir_base::{Clock, StreamName, TenantId};
use weir_data::defined::StreamRegistry;
use weir_data::streams::{self, StreamDef};
use weir_log::{Commit, Damage, Position, Subscriber};
use weir_meta::catalogue::FileEntry;

use crate::file::{FileContext, TableFile};
use crate::metadata_cache::MetadataCache;
use crate::seam::{Catalogue, CatalogueContents, DamagedEntry, Owner, RecordSource, SeamError};
use crate::table::{Snapshot, Table, TableDamage};
use crate::tail::TailMemory;
use crate::write::{ASIDE, FINISHED};
use crate::{StoreError, StoreOptions};

/// What the store has done since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) flushes: AtomicU64,
    pub(crate) flush_failures: AtomicU64,
    pub(crate) flushed_rows: AtomicU64,
    pub(crate) flushed_bytes: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compaction_failures: AtomicU64,
    pub(crate) compacted_rows: AtomicU64,
    pub(crate) compacted_bytes: AtomicU64,
    pub(crate) expired_files: AtomicU64,
    pub(crate) orphans_removed: AtomicU64,
}

/// Wakes one background thread.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Mutex<bool>,
    condition: Condvar,
}

impl Signal {
    pub(crate) fn raise(&self) {
        *self.raised.lock() = true;
        self.condition.notify_one();
    }

    /// Waits until raised, or for as long as `timeout`. Says whether it was raised.
    pub(crate) fn wait(&self, timeout: std::time::Duration) -> bool {
        let mut raised = self.raised.lock();
        if !*raised {
            self.condition.wait_for(&mut raised, timeout);
        }
        std::mem::take(&mut *raised)
    }
}

/// All tables. See the crate's documentation for what happens in which order.
pub struct Store {
    pub(crate) options: StoreOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) catalogue: Arc<dyn Catalogue>,
    /// Which streams there are.
    streams: Arc<StreamRegistry>,
    pub(crate) files: Arc<FileContext>,
    pub(crate) epoch: u64,
    /// Another writer has taken over: nothing is written any more.
    pub(crate) fenced: AtomicBool,
    pub(crate) memory: Arc<TailMemory>,
    pub(crate) dirs: Mutex<()>,
    pub(crate) counters: Counters,
    pub(crate) flush_signal: Signal,
    pub(crate) keeper_signal: Signal,
    /// Tables whose tails have many small chunks. Bounded by the number of tables.
    pub(crate) to_merge: Mutex<HashSet<(TenantId, StreamName)>>,
    tables: RwLock<HashMap<(TenantId, StreamName), Arc<Table>>>,
    /// The end of the last commit seen, by shard.
    ends: Mutex<BTreeMap<u16, u64>>,
    /// Damage of the log whose streams cannot be told, until the log is handed over.
    unknown_damage: Mutex<Vec<Damage>>,
    /// Damage of the catalogue, for tables that have no entry otherwise.
    catalogue_damage: Vec<DamagedEntry>,
    pub(crate) retention_held: Mutex<Vec<(TenantId, StreamName)>>,
    /// Since when retention has left alone each of these, by the monotonic clock.
    pub(crate) retention_held_since: Mutex<HashMap<(TenantId, StreamName), Duration>>,
    /// Tables whose next expiry an operator has confirmed. Bounded by the number of tables.
    pub(crate) retention_confirmed: Mutex<HashSet<(TenantId, StreamName)>>,
    /// Files of transactions that were reported as failed and may be there after a crash. They stay
    /// until a later transaction has succeeded, which takes the place of the failed one.
    pub(crate) doubtful: Mutex<Vec<FileEntry>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("dir", &self.options.dir).finish_non_exhaustive()
    }
}

pub(crate) fn catalogue_error(attempt: &'static str) -> impl FnOnce(SeamError) -> StoreError {
    move |SeamError { kind, source, .. }| StoreError::Catalogue { attempt, kind, source }
}

impl Store {
    /// Opens the tables of a directory: fences every earlier writer, loads the catalogue, and
    /// removes files that were written and never became part of a table.
    ///
    /// The log is opened afterwards, with the store as a subscriber, and then handed over with
    /// [`Store::attach`].
    pub fn open(
        options: StoreOptions,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        catalogue: Arc<dyn Catalogue>,
    ) -> Result<Arc<Self>, StoreError> {
        disk.create_dir_all(&options.dir).map_err(|source| StoreError::Io {
            attempt: "create",
            path: options.dir.clone(),
            source,
        })?;
        let epoch = catalogue.begin_writer().map_err(catalogue_error("begin writing"))?;
        let contents = catalogue.contents().map_err(catalogue_error("read the files and positions"))?;
        let store = Arc::new(Self {
            files: Arc::new(FileContext {
                disk,
                dir: options.dir.clone(),
                metadata: MetadataCache::new(options.metadata_bytes_max),
                unlink: Mutex::default(),
            }),
            options,
            clock,
            streams: catalogue.streams(),
            catalogue,
            epoch,
            fenced: AtomicBool::new(false),
            memory: Arc::default(),
            dirs: Mutex::new(()),
            counters: Counters::default(),
            flush_signal: Signal::default(),
            keeper_signal: Signal::default(),
            to_merge: Mutex::default(),
            tables: RwLock::default(),
            ends: Mutex::default(),
            unknown_damage: Mutex::default(),
            catalogue_damage: contents.damaged.clone(),
            retention_held: Mutex::default(),
            retention_held_since: Mutex::default(),
            retention_confirmed: Mutex::default(),
            doubtful: Mutex::default(),
        });
        store.remove_orphans(&contents);
        store.load(contents);
        Ok(store)
    }

    fn load(&self, contents: CatalogueContents) {
        let mut by_table: HashMap<(TenantId, StreamName), Vec<Arc<TableFile>>> = HashMap::new();
        for entry in contents.files {
            let key = (entry.tenant.clone(), entry.stream.clone());
            by_table.entry(key).or_default().push(Arc::new(TableFile::new(entry, Arc::clone(&self.files))));
        }
        for ((tenant, stream), files) in by_table {
            self.table(&tenant, &stream).replace_files(&[], files);
        }
        for position in contents.positions {
            let (tenant, stream) = (&position.tenant, &position.stream);
            // One without files would be there again until the next pass of retention.
            if self.existing(tenant, stream).is_none()
                && matches!(self.catalogue.owner(tenant, stream), Ok(Owner::Deleted))
            {
                continue;
            }
            let table = self.table(tenant, stream);
            table.change(|state| state.positions.insert(position.shard, position.offset));
        }
    }

    /// Removes files below the tables' directory that the catalogue does not name. Where a row of
    /// the catalogue is damaged its file looks like an orphan, so nothing of that tenant is touched.
    fn remove_orphans(&self, contents: &CatalogueContents) {
        if contents.damaged.iter().any(|entry| entry.tenant.is_none()) {
            tracing::warn!("the catalogue has damaged rows: unknown table files are left where they are");
            return;
        }
        let known: HashSet<&str> = contents.files.iter().map(|entry| entry.path.as_str()).collect();
        let list = |path: &Path| match self.files.disk.list(path) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot look for unfinished table files");
                Vec::new()
            }
        };
        for tenant in list(&self.options.dir).into_iter().filter(|entry| entry.is_dir) {
            if contents.damaged.iter().any(|entry| entry.tenant.as_ref().is_some_and(|id| id.as_str() == tenant.name)) {
                continue;
            }
            let tenant_dir = self.options.dir.join(&tenant.name);
            for stream in list(&tenant_dir).into_iter().filter(|entry| entry.is_dir) {
                let stream_dir = tenant_dir.join(&stream.name);
                for partition in list(&stream_dir).into_iter().filter(|entry| entry.is_dir) {
                    let partition_dir = stream_dir.join(&partition.name);
                    for file in list(&partition_dir).into_iter().filter(|entry| !entry.is_dir) {
                        let relative = format!("{}/{}/{}/{}", tenant.name, stream.name, partition.name, file.name);
                        let ours = file.name.ends_with(FINISHED) || file.name.ends_with(ASIDE);
                        if !ours || known.contains(relative.as_str()) {
                            continue;
                        }
                        let path = partition_dir.join(&file.name);
                        match self.files.disk.remove(&path) {
                            Ok(()) => {
                                self.counters.orphans_removed.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished table file");
                            }
                        }
                    }
                    // What a deletion has left that was interrupted. A directory with files refuses.
                    let _ = self.files.disk.remove_dir(&partition_dir);
                }
                let _ = self.files.disk.remove_dir(&stream_dir);
            }
            let _ = self.files.disk.remove_dir(&tenant_dir);
        }
    }

    /// Hands over the log: for reading back rows that left memory, and for releasing what is in
    /// files. The store does not keep it alive.
    pub fn attach(&self, log: Arc<dyn RecordSource>) {
        self.memory.attach(Arc::downgrade(&log));
        for damage in std::mem::take(&mut *self.unknown_damage.lock()) {
            self.apply_unknown_damage(&damage, log.as_ref());
        }
    }

    /// Damage that may have taken rows of any table: of those there are, that were not yet written
    /// past it. Tables that are made later have lost nothing to it, also after the next start, when
    /// the log reports the same damage again: which tables there were is kept.
    fn apply_unknown_damage(&self, damage: &Damage, log: &dyn RecordSource) {
        let shard = damage.to.shard;
        let name = format!("log_damage/{shard}/{}-{}", damage.from.offset, damage.to.offset);
        let kept = self.catalogue.note(&name);
        if let Err(error) = &kept {
            let error = weir_base::error::chain(error.source.as_ref());
            tracing::error!(error, "which tables damage of the log may have hit is not known: it counts for all");
        }
        let named = |table: &Table| format!("{}/{}", table.tenant, table.name);
        let (known, is_kept) = match &kept {
            Ok(Some(text)) => (Some(text.lines().collect::<HashSet<_>>()), true),
            Ok(None) => (None, false),
            // Not to be overwritten by more.
            Err(_) => (None, true),
        };
        let mut hit = Vec::new();
        for table in self.all_tables().into_iter().filter(|table| log.shard_of(&table.tenant) == shard) {
            if known.as_ref().is_none_or(|known| known.contains(named(&table).as_str())) {
                hurt(&table, damage);
                hit.push(named(&table));
            }
        }
        if !is_kept && let Err(error) = self.catalogue.keep_note(&name, &hit.join("\n")) {
            let error = weir_base::error::chain(error.source.as_ref());
            tracing::error!(error, "cannot keep which tables damage of the log may have hit");
        }
    }

    /// The table of a stream, made if it is not there. Rows are only ever stored of streams that are defined: one that
    /// is not known has lost its definition, and its table is damaged.
    pub(crate) fn table(&self, tenant: &TenantId, stream: &StreamName) -> Arc<Table> {
        if let Some(table) = self.existing(tenant, stream) {
            return table;
        }
        let mut tables = self.tables.write();
        let table = tables.entry((tenant.clone(), stream.clone())).or_insert_with(|| {
            let mut damage = self.damage_of_catalogue(tenant, stream);
            let definition = self.streams.get(tenant, stream.as_str()).unwrap_or_else(|| {
                let what = format!("the columns of the stream {stream} are not known any more");
                tracing::error!(%tenant, %stream, "the definition of a stream is damaged or gone");
                damage.get_or_insert(TableDamage { file: "the catalogue".into(), offset: 0, what });
                Arc::new(StreamDef::unreadable(stream))
            });
            let table = Table::new(tenant.clone(), stream.clone(), definition);
            table.change(|state| state.damage = damage);
            Arc::new(table)
        });
        Arc::clone(table)
    }

    /// Whether the tenant has the stream.
    pub(crate) fn is_known(&self, tenant: &TenantId, stream: &StreamName) -> bool {
        self.streams.get(tenant, stream.as_str()).is_some()
    }

    pub(crate) fn existing(&self, tenant: &TenantId, stream: &StreamName) -> Option<Arc<Table>> {
        let table = self.tables.read().get(&(tenant.clone(), stream.clone())).cloned()?;
        // Streams of tenants get more columns.
        if streams::stream(stream.as_str()).is_none()
            && let Some(now) = self.streams.get(tenant, stream.as_str())
        {
            table.redefine(now);
        }
        Some(table)
    }

    /// All tables there are.
    pub(crate) fn all_tables(&self) -> Vec<Arc<Table>> {
        self.tables.read().values().cloned().collect()
    }

    pub(crate) fn forget_table(&self, table: &Table) {
        self.tables.write().remove(&(table.tenant.clone(), table.name.clone()));
    }

    fn damage_of_catalogue(&self, tenant: &TenantId, stream: &StreamName) -> Option<TableDamage> {
        let touches = |entry: &&DamagedEntry| {
            entry.tenant.as_ref().is_some_and(|id| id == tenant)
                && entry.stream.as_ref().is_none_or(|name| name == stream)
        };
        let entry = self.catalogue_damage.iter().find(touches)?;
        Some(TableDamage { file: "the catalogue".into(), offset: 0, what: entry.what.clone() })
    }

    /// What a query reads: files and tail of one moment. Cheap.
    ///
    /// # Errors
    /// [`StoreError::UnknownStream`], and [`StoreError::Corrupt`] where the table is damaged.
    pub fn snapshot(&self, tenant: &TenantId, stream: &StreamName) -> Result<Arc<Snapshot>, StoreError> {
        let table = match self.existing(tenant, stream) {
            Some(table) => table,
            None => {
                let definition = self.streams.get(tenant, stream.as_str());
                let definition = definition.ok_or_else(|| StoreError::UnknownStream(stream.clone()))?;
                // Asking must not make tables: tenants can ask for anything.
                let table = Table::new(tenant.clone(), stream.clone(), definition);
                if let Some(damage) = self.damage_of_catalogue(tenant, stream) {
                    return Err(damage.error());
                }
                Arc::new(table)
            }
        };
        table.snapshot()
    }

    /// Why a table is not served, if it is not. A damaged table takes no more files: what is lost
    /// must not be papered over. Rows appended to it wait in the log, which they hold. Cheap enough
    /// to be asked for every request.
    pub fn damage(&self, tenant: &TenantId, stream: &StreamName) -> Option<StoreError> {
        match self.existing(tenant, stream) {
            Some(table) => table_damage(&table),
            None => self.damage_of_catalogue(tenant, stream).map(|damage| damage.error()),
        }
    }

    /// Tells the log what is not needed any more: everything before the first row that is in no
    /// file and before the first that somebody may still read back.
    pub fn release(&self) {
        let Some(log) = self.memory.source() else { return };
        // Taken before the tables are looked at: a commit that arrives meanwhile lies behind it.
        let ends = self.ends.lock().clone();
        let tables = self.all_tables();
        for (shard, end) in ends {
            let unflushed = tables.iter().filter_map(|table| table.first_unflushed(shard)).min();
            let needed = unflushed.into_iter().chain(self.memory.first_pin(shard)).fold(end, u64::min);
            log.release(Position { shard, offset: needed });
        }
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    pub(crate) fn path_of(&self, entry: &FileEntry) -> std::path::PathBuf {
        self.options.dir.join(&entry.path)
    }
}

/// Why a table is not served, if it is not.
pub(crate) fn table_damage(table: &Table) -> Option<StoreError> {
    table.look(|state| state.damage.as_ref().map(TableDamage::error))
}

/// Damage of the log costs a table that is not written past it.
fn hurt(table: &Table, damage: &Damage) {
    if table.position(damage.to.shard) < damage.to.offset {
        table.change(|state| {
            state.damage.get_or_insert_with(|| damage_of_log(damage));
        });
    }
}

fn damage_of_log(damage: &Damage) -> TableDamage {
    TableDamage {
        file: damage.file.clone(),
        offset: damage.file_offset,
        what: "acknowledged rows of the log do not check out".to_owned(),
    }
}

impl Subscriber for Store {
    fn wants(&self, tenant: &TenantId, stream: &StreamName, position: Position) -> bool {
        // Definitions go with their tenant, and what is in the log of it is not wanted either.
        // Nor is a table made for it again.
        let is_there = self.is_known(tenant, stream) && self.existing(tenant, stream).is_some();
        if !is_there && matches!(self.catalogue.owner(tenant, stream), Ok(Owner::Deleted)) {
            return false;
        }
        let table = self.table(tenant, stream);
        if position.offset < table.position(position.shard) {
            return false;
        }
        // Rows are only given up when the catalogue is sure that their owner is gone.
        match self.catalogue.owner(tenant, stream) {
            Ok(Owner::Deleted) => false,
            Ok(Owner::Keeps(_) | Owner::Unknown) | Err(_) => true,
        }
    }

    fn committed(&self, commit: &Commit) {
        let now = self.clock.monotonic();
        let mut flush_wanted = false;
        for record in &commit.records {
            let table = self.table(&record.tenant, &record.stream);
            if table.append(record, &self.memory, now) {
                self.to_merge.lock().insert((record.tenant.clone(), record.stream.clone()));
                self.keeper_signal.raise();
            }
            flush_wanted |= table.look(|state| state.unflushed_bytes >= self.options.flush_bytes);
        }
        if self.memory.source().is_none() {
            // The log is being recovered: there is no thread yet that would do it.
            self.merge_tails();
        }
        self.memory.make_room(self.options.tail_bytes_max);
        {
            let mut ends = self.ends.lock();
            let end = ends.entry(commit.end.shard).or_default();
            *end = commit.end.offset.max(*end);
        }
        let held = self.memory.bytes() + self.memory.spilled_bytes();
        if flush_wanted || held >= self.options.unflushed_bytes_max {
            self.flush_signal.raise();
        }
    }

    fn damaged(&self, damage: &Damage) {
        tracing::error!(
            file = %damage.file.display(),
            offset = damage.file_offset,
            "acknowledged rows of the log do not check out"
        );
        let Some(streams) = &damage.streams else {
            match self.memory.source() {
                Some(log) => self.apply_unknown_damage(damage, log.as_ref()),
                // Which tables it may have hit is known when the log is recovered.
                None => self.unknown_damage.lock().push(damage.clone()),
            }
            return;
        };
        for (tenant, stream) in streams {
            hurt(&self.table(tenant, stream), damage);
        }
    }
}
