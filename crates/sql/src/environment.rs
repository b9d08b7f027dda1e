//! What the queries of one tenant share: memory, room to spill, and nothing else.

use std::fmt;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::{DataFusionError, Result, exec_err, resources_datafusion_err};
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weir_base::TenantId;

use crate::error::SqlError;
use crate::scan::FILES_URL;

/// Bytes all queries of the process may hold together.
#[derive(Debug)]
pub(crate) struct ProcessMemory {
    used: AtomicUsize,
    max: usize,
}

impl ProcessMemory {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn try_take(&self, bytes: usize) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.max)
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
        self.own.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.process.give_back(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if !self.process.try_take(additional) {
            return Err(resources_datafusion_err!("the memory of all queries is used up"));
        }
        self.own.try_grow(reservation, additional).inspect_err(|_| self.process.give_back(additional))
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
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

/// One tenant's part of the query engine.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) runtime: Arc<RuntimeEnv>,
    pub(crate) running: Arc<Semaphore>,
    pub(crate) memory_bytes: usize,
    pub(crate) concurrent_max: usize,
    waiting: Arc<AtomicUsize>,
}

/// A place in the queue of a tenant's queries.
pub(crate) struct Place {
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// Waits for the turn, first come first served. `None` if there will be none.
    pub(crate) async fn acquire(self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.running).acquire_owned().await.ok()
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
        let pool =
            TenantPool { own: FairSpillPool::new(memory_bytes), process: Arc::clone(process), bytes: memory_bytes };
        // The id was checked where it entered: it has no dots and no slashes.
        let dir = spill_dir.join(tenant.as_str());
        private_directory(&dir).map_err(|error| {
            tracing::error!(%tenant, %error, "cannot make the spill directory");
            SqlError::Transient { message: "there is no room for intermediate results at the moment".to_owned() }
        })?;
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(pool))
            .with_disk_manager_builder(
                DiskManagerBuilder::default()
                    .with_mode(DiskManagerMode::Directories(vec![dir]))
                    .with_max_temp_directory_size(spill_bytes),
            )
            .with_cache_manager(CacheManagerConfig::default())
            .with_object_store_registry(Arc::new(NoStores(Arc::new(InMemory::new()))))
            .build_arc()
            .map_err(|error: DataFusionError| {
                tracing::error!(%tenant, %error, "cannot make the query environment");
                SqlError::Internal
            })?;
        Ok(Self {
            runtime,
            running: Arc::new(Semaphore::new(concurrent_max)),
            memory_bytes,
            concurrent_max,
            waiting: Arc::default(),
        })
    }
}

/// Makes a directory nobody else can look into.
pub(crate) fn private_directory(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}
