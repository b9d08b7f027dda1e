//! What the queries of one tenant share: memory, room to spill, and nothing else.

use std::fmt;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use datafusion::common::{DataFusionError, Result, exec_err, resources_datafusion_err};
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weir_base::TenantId;

use crate::error::{ErrorContext, SqlError};
use crate::scan::FILES_URL;

/// Bytes all queries of the process, or of a tenant, may hold together.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    used: AtomicUsize,
    max: AtomicUsize,
}

impl ProcessMemory {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max: AtomicUsize::new(max) })
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn try_take(&self, bytes: usize) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= max)
        });
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A tenant's share of the memory, within the process's. Operators that can spill share it
/// fairly, so that one of them is told to spill before another fails.
struct TenantPool {
    own: FairSpillPool,
    /// All pools of the tenant: there are several while queries run that began with other limits.
    tenant: Arc<ProcessMemory>,
    process: Arc<ProcessMemory>,
    bytes: usize,
}

impl fmt::Debug for TenantPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TenantPool").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl fmt::Display for TenantPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "tenant pool of {} bytes", self.bytes)
    }
}

impl MemoryPool for TenantPool {
    fn name(&self) -> &str {
        "tenant"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.process.take(additional);
        self.tenant.take(additional);
        self.own.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.tenant.give_back(shrink);
        self.process.give_back(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if !self.process.try_take(additional) {
            return Err(resources_datafusion_err!("the memory of all queries is used up"));
        }
        if !self.tenant.try_take(additional) {
            self.process.give_back(additional);
            return Err(resources_datafusion_err!("the memory of the tenant's queries is used up"));
        }
        self.own.try_grow(reservation, additional).inspect_err(|_| {
            self.tenant.give_back(additional);
            self.process.give_back(additional);
        })
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}

/// One query's part of the tenant's pool. It is the same pool; but who holds what has to be known to say whether a
/// refusal is the fault of the query alone, which then fails whenever it is tried.
pub(crate) struct QueryPool {
    pool: Arc<dyn MemoryPool>,
    tenant: Arc<ProcessMemory>,
    process: Arc<ProcessMemory>,
    /// What of the pool's memory is the query's. Locked while the pool is asked: else what one of its partitions has just
    /// been given would look to another as if other queries held it.
    held: Mutex<usize>,
    /// The last refusal would have been none without what other queries hold.
    crowded: AtomicBool,
}

impl fmt::Debug for QueryPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("QueryPool").field("held", &self.held).finish_non_exhaustive()
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "query in {}", self.pool)
    }
}

impl QueryPool {
    /// The most bytes the query could have if it were alone.
    fn bytes_max(&self) -> usize {
        self.tenant.max.load(Ordering::Relaxed).min(self.process.max.load(Ordering::Relaxed))
    }

    /// What the translation of an error of the query has to know.
    pub(crate) fn context(&self) -> ErrorContext {
        ErrorContext { memory_bytes: self.bytes_max(), crowded: self.crowded.load(Ordering::Relaxed) }
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        let mut held = self.held.lock();
        self.pool.grow(reservation, additional);
        *held += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut held = self.held.lock();
        self.pool.shrink(reservation, shrink);
        *held -= shrink;
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut held = self.held.lock();
        let outcome = self.pool.try_grow(reservation, additional);
        match &outcome {
            Ok(()) => *held += additional,
            Err(_) => {
                // A pool that shares fairly also refuses where there is room: that is the query's own doing.
                let is_short = |memory: &ProcessMemory| {
                    memory.used().saturating_add(additional) > memory.max.load(Ordering::Relaxed)
                };
                let fits_alone = held.saturating_add(additional) <= self.bytes_max();
                let crowded = fits_alone && (is_short(&self.tenant) || is_short(&self.process));
                self.crowded.store(crowded, Ordering::Relaxed);
            }
        }
        outcome
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}

/// Knows one made-up place, which has nothing in it.
#[derive(Debug)]
struct NoStores(Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for NoStores {
    fn register_store(&self, _url: &url::Url, _store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &url::Url) -> Result<Arc<dyn ObjectStore>> {
        // Asked for when a scan begins; its files are opened by handle and never through this.
        if url.as_str().trim_end_matches('/') == FILES_URL {
            Ok(Arc::clone(&self.0))
        } else {
            exec_err!("there is no such place")
        }
    }
}

/// The most queries of a tenant that run at once, whatever its limit says.
const CONCURRENT_MAX: usize = 1 << 16;

/// How many queries of a tenant run: a number that can change while they do.
#[derive(Debug)]
struct Running {
    permits: Arc<Semaphore>,
    /// How many may run, and how many of those that run are to end without a successor.
    counts: Mutex<(usize, usize)>,
}

impl Running {
    fn new(max: usize) -> Arc<Self> {
        let max = max.min(CONCURRENT_MAX);
        Arc::new(Self { permits: Arc::new(Semaphore::new(max)), counts: Mutex::new((max, 0)) })
    }

    fn resize(&self, max: usize) {
        let max = max.min(CONCURRENT_MAX);
        let mut counts = self.counts.lock();
        let (before, surplus) = *counts;
        if max >= before {
            let kept = surplus.min(max - before);
            self.permits.add_permits(max - before - kept);
            *counts = (max, surplus - kept);
        } else {
            let gone = self.permits.forget_permits(before - max);
            *counts = (max, surplus + (before - max - gone));
        }
    }
}

/// The right to run. Dropping it lets the next query begin.
#[derive(Debug)]
pub(crate) struct Permit {
    running: Arc<Running>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.running.counts.lock();
        if counts.1 > 0
            && let Some(permit) = self.permit.take()
        {
            counts.1 -= 1;
            permit.forget();
        }
    }
}

/// One tenant's part of the query engine.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) runtime: Arc<RuntimeEnv>,
    pub(crate) memory_bytes: usize,
    pub(crate) concurrent_max: usize,
    running: Arc<Running>,
    waiting: Arc<AtomicUsize>,
    tenant: Arc<ProcessMemory>,
    process: Arc<ProcessMemory>,
}

/// A place in the queue of a tenant's queries.
pub(crate) struct Place {
    running: Arc<Running>,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// Waits for the turn, first come first served. `None` if there will be none.
    pub(crate) async fn acquire(self) -> Option<Permit> {
        let permit = Arc::clone(&self.running.permits).acquire_owned().await.ok()?;
        Some(Permit { running: Arc::clone(&self.running), permit: Some(permit) })
    }
}

impl Environment {
    /// A place in the queue, if fewer than `waiting_max` queries wait.
    pub(crate) fn place(&self, waiting_max: usize) -> Option<Place> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place { running: Arc::clone(&self.running), waiting: Arc::clone(&self.waiting) };
        (before < waiting_max).then_some(place)
    }

    pub(crate) fn new(
        tenant: &TenantId,
        memory_bytes: usize,
        concurrent_max: usize,
        spill_dir: &Path,
        spill_bytes: u64,
        process: &Arc<ProcessMemory>,
    ) -> Result<Self, SqlError> {
        // The id was checked where it entered: it has no dots and no slashes.
        let dir = spill_dir.join(tenant.as_str());
        private_directory(&dir).map_err(|error| {
            tracing::error!(%tenant, %error, "cannot make the spill directory");
            SqlError::Transient { message: "there is no room for intermediate results at the moment".to_owned() }
        })?;
        let used = ProcessMemory::new(memory_bytes);
        let runtime = runtime(
            tenant_pool(memory_bytes, &used, process),
            DiskManagerBuilder::default()
                .with_mode(DiskManagerMode::Directories(vec![dir]))
                .with_max_temp_directory_size(spill_bytes),
        )?;
        Ok(Self {
            runtime,
            memory_bytes,
            concurrent_max,
            running: Running::new(concurrent_max),
            waiting: Arc::default(),
            tenant: used,
            process: Arc::clone(process),
        })
    }

    /// What one query runs in.
    pub(crate) fn for_query(&self) -> (Arc<RuntimeEnv>, Arc<QueryPool>) {
        let pool = Arc::new(QueryPool {
            pool: Arc::clone(&self.runtime.memory_pool),
            tenant: Arc::clone(&self.tenant),
            process: Arc::clone(&self.process),
            held: Mutex::default(),
            crowded: AtomicBool::new(false),
        });
        let mut runtime = self.runtime.as_ref().clone();
        runtime.memory_pool = Arc::clone(&pool) as Arc<dyn MemoryPool>;
        (Arc::new(runtime), pool)
    }

    /// The same with other limits. Queries that run keep what they have, and count: they are as
    /// many, and spill into the same room, as if they had begun now.
    pub(crate) fn with_limits(&self, memory_bytes: usize, concurrent_max: usize) -> Self {
        self.running.resize(concurrent_max);
        let mut runtime = self.runtime.as_ref().clone();
        if memory_bytes != self.memory_bytes {
            self.tenant.max.store(memory_bytes, Ordering::Relaxed);
            runtime.memory_pool = tenant_pool(memory_bytes, &self.tenant, &self.process);
        }
        Self {
            runtime: Arc::new(runtime),
            memory_bytes,
            concurrent_max,
            running: Arc::clone(&self.running),
            waiting: Arc::clone(&self.waiting),
            tenant: Arc::clone(&self.tenant),
            process: Arc::clone(&self.process),
        }
    }
}

fn tenant_pool(bytes: usize, tenant: &Arc<ProcessMemory>, process: &Arc<ProcessMemory>) -> Arc<dyn MemoryPool> {
    Arc::new(TenantPool {
        own: FairSpillPool::new(bytes),
        tenant: Arc::clone(tenant),
        process: Arc::clone(process),
        bytes,
    })
}

fn runtime(pool: Arc<dyn MemoryPool>, disk: DiskManagerBuilder) -> Result<Arc<RuntimeEnv>, SqlError> {
    RuntimeEnvBuilder::new()
        .with_memory_pool(pool)
        .with_disk_manager_builder(disk)
        .with_cache_manager(CacheManagerConfig::default())
        .with_object_store_registry(Arc::new(NoStores(Arc::new(InMemory::new()))))
        .build_arc()
        .map_err(|error: DataFusionError| {
            tracing::error!(%error, "cannot make the query environment");
            SqlError::Internal
        })
}

/// For what needs the form of an environment only: nothing to reserve, and no room to spill.
pub(crate) fn nothing_shared() -> Result<Arc<RuntimeEnv>, SqlError> {
    runtime(Arc::new(FairSpillPool::new(0)), DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
}

/// Makes a directory nobody else can look into.
pub(crate) fn private_directory(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests;
