//! The log as the rest of Weir sees it.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use siphasher::sip::SipHasher13;
use tokio::sync::oneshot;
use weir_base::clock::Clock;
use weir_base::disk::{Disk, DiskLock};
use weir_base::{TenantId, Timestamp};

use crate::dedup::{Dedup, DedupShared, KeyHasher};
use crate::format::RECORDS_MAX;
use crate::housekeeping::{self, SteadyTime};
use crate::queue::{Pending, Queue, Work};
use crate::recent::Recent;
use crate::recovery::Recovery;
use crate::rows::storable;
use crate::shard::{Shard, Signal};
use crate::space::{Room, Space};
use crate::state::{Checkpoint, Identity};
use crate::stats::{LogStats, add};
use crate::types::OFFSET_MAX;
use crate::watch::Watched;
use crate::writer::{Writer, WriterStart, merge_schema};
use crate::{Append, Appended, LogError, LogOptions, Position, Record, Subscriber};

/// A log that is open. Closed by [`Log::close`], at the latest when dropped.
pub struct Log {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Inner {
    shards: Vec<Arc<Shard>>,
    writers: Vec<Mutex<Writer>>,
    options: Arc<LogOptions>,
    clock: Arc<dyn Clock>,
    space: Arc<Space>,
    housekeeper: Arc<Signal>,
    steady: Mutex<SteadyTime>,
    stopping: AtomicBool,
    lock: Mutex<Option<Box<dyn DiskLock>>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Log").field("dir", &self.inner.options.dir).finish_non_exhaustive()
    }
}

/// The answer to an append, once there is one. The append is under way whether or not this is
/// polled; dropping it forgets the answer, not the rows.
#[derive(Debug)]
#[must_use = "the append is not known to be durable before this resolves"]
pub struct Appending {
    state: AppendingState,
}

#[derive(Debug)]
enum AppendingState {
    Refused(Option<LogError>),
    Waiting(oneshot::Receiver<Result<Appended, LogError>>),
}

impl Future for Appending {
    type Output = Result<Appended, LogError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            AppendingState::Refused(error) => Poll::Ready(Err(error.take().unwrap_or(LogError::Closed))),
            AppendingState::Waiting(receiver) => Pin::new(receiver).poll(context).map(|answer| {
                answer.unwrap_or_else(|_| Err(LogError::Internal("the writer of the log has stopped".to_owned())))
            }),
        }
    }
}

impl Appending {
    /// The answer if there is one already; for callers that drive the log by [`Log::step`].
    pub fn now(mut self) -> Option<Result<Appended, LogError>> {
        match &mut self.state {
            AppendingState::Refused(error) => error.take().map(Err),
            AppendingState::Waiting(receiver) => receiver.try_recv().ok(),
        }
    }
}

impl Log {
    /// Opens the log in `options.dir`, making it if there is none: recovers, hands the commits that
    /// subscribers want to them, and starts the threads.
    pub fn open(
        options: LogOptions,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        subscribers: Vec<Arc<dyn Subscriber>>,
    ) -> Result<Arc<Self>, LogError> {
        let log = Self::open_without_threads(options, disk, clock, subscribers)?;
        let mut threads = log.threads.lock();
        let spawn = |name: String, body: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name)
                .spawn(body)
                .map_err(|error| LogError::Internal(format!("cannot start a thread of the log: {error}")))
        };
        for number in 0..log.inner.shards.len() {
            let inner = Arc::clone(&log.inner);
            threads.push(spawn(format!("log-{number}"), Box::new(move || inner.write_loop(number)))?);
        }
        let inner = Arc::clone(&log.inner);
        threads.push(spawn("log-housekeeper".to_owned(), Box::new(move || inner.housekeeping_loop()))?);
        drop(threads);
        Ok(log)
    }

    /// Opens the log without any thread: nothing happens but in [`Log::step`]. For simulation.
    pub fn open_without_threads(
        options: LogOptions,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        subscribers: Vec<Arc<dyn Subscriber>>,
    ) -> Result<Arc<Self>, LogError> {
        check_options(&options)?;
        let dir = options.dir.clone();
        disk.create_dir_all(&dir).map_err(|error| LogError::io("create", &dir, error))?;
        let lock = lock(disk.as_ref(), &dir)?;
        let space = Arc::new(Space::new(Arc::clone(&disk), dir.clone(), options.reserve_bytes));
        // Recovery may need room when the disk is full; the reserve is for that.
        space.give_all()?;
        let identity = Identity::load_or_create(disk.as_ref(), &dir, options.shards)?;
        let mut opening = Opening {
            options: Arc::new(options),
            disk,
            clock: Arc::clone(&clock),
            subscribers: subscribers.into(),
            space: Arc::clone(&space),
            housekeeper: Arc::new(Signal::default()),
            identity,
            newest: None,
        };
        let mut shards = Vec::new();
        let mut writers = Vec::new();
        for number in 0..opening.identity.shards {
            let (shard, writer) = opening.shard(number)?;
            shards.push(Arc::new(shard));
            writers.push(Mutex::new(writer));
        }
        space.take_reserve()?;
        // Not the wall clock alone: it may be wrong at a start, and everything would expire at once.
        let now = clock.now();
        let steady = SteadyTime::new(opening.newest.map_or(now, |newest| newest.min(now)), clock.monotonic());
        let inner = Inner {
            shards,
            writers,
            options: Arc::clone(&opening.options),
            clock,
            space,
            housekeeper: Arc::clone(&opening.housekeeper),
            steady: Mutex::new(steady),
            stopping: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
        };
        Ok(Arc::new(Self { inner: Arc::new(inner), threads: Mutex::default() }))
    }

    /// Appends the rows of one request; all of it or nothing. The append is queued by this call;
    /// the future gives the answer and needs no runtime.
    pub fn append(&self, append: Append) -> Appending {
        match self.inner.enqueue(append) {
            Ok(receiver) => Appending { state: AppendingState::Waiting(receiver) },
            Err(error) => Appending { state: AppendingState::Refused(Some(error)) },
        }
    }

    /// Reads one record back, by the position it was published with.
    pub fn read(&self, position: Position) -> Result<Record, LogError> {
        match self.inner.shards.get(usize::from(position.shard)) {
            Some(shard) => shard.read(position.offset),
            None => Err(LogError::Gone { shard: position.shard, offset: position.offset }),
        }
    }

    /// Nothing before `position` is needed by the table writer any more.
    pub fn release(&self, position: Position) {
        if let Some(shard) = self.inner.shards.get(usize::from(position.shard)) {
            shard.released.fetch_max(position.offset, Ordering::AcqRel);
        }
    }

    /// The durable end of a shard.
    pub fn end(&self, shard: u16) -> Position {
        let offset = self.inner.shards.get(usize::from(shard)).map_or(0, |shard| shard.durable.load(Ordering::Acquire));
        Position { shard, offset }
    }

    /// Which log this is: a random number from when it was made.
    pub fn id(&self) -> u64 {
        self.inner.shards.first().map_or(0, |shard| shard.log_id)
    }

    /// The shard of a tenant's rows.
    pub fn shard_of(&self, tenant: &TenantId) -> u16 {
        self.inner.shard_of(tenant)
    }

    pub(crate) fn shard(&self, number: u16) -> Option<&Arc<Shard>> {
        self.inner.shards.get(usize::from(number))
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.inner.shards.len() as u16
    }

    /// Counters and sizes.
    pub fn stats(&self) -> LogStats {
        let mut stats = LogStats { is_full: self.inner.space.is_full(), ..LogStats::default() };
        for shard in &self.inner.shards {
            shard.counters.add_to(&mut stats);
            let (bytes, requests) = shard.queue.size();
            stats.queue_bytes += bytes as u64;
            stats.queue_appends += requests as u64;
            let segments = shard.segments.read();
            stats.segments += segments.len() as u64;
            stats.segment_bytes += segments.iter().map(|segment| segment.bytes.load(Ordering::Relaxed)).sum::<u64>();
            let end = shard.durable.load(Ordering::Acquire);
            stats.oldest.push(segments.first().map_or(end, |segment| segment.base));
            stats.end.push(end);
            let (keys, runs) = shard.dedup.size();
            stats.dedup_run_keys += keys;
            stats.dedup_runs += runs as u64;
            stats.dedup_damages += shard.dedup.damaged();
        }
        stats
    }

    /// Room for a delete or for a key while the disk is full: the last quarter of the reserve, which is kept for that, until
    /// what is returned is dropped.
    pub fn room(&self) -> Room {
        self.inner.space.room()
    }

    /// Does what the threads would do now: commits everything that waits, writes a watermark that is
    /// due, keeps house. Only for logs opened without threads.
    pub fn step(&self) {
        for (shard, writer) in self.inner.shards.iter().zip(&self.inner.writers) {
            let mut writer = writer.lock();
            loop {
                let requests = shard.queue.take(shard.options.commit_bytes_max);
                if requests.is_empty() {
                    break;
                }
                writer.commit(shard, requests);
            }
            writer.idle(shard);
        }
        self.inner.keep_house();
    }

    /// Refuses new appends, commits what waits, and ends the threads. Calling it again changes
    /// nothing.
    pub fn close(&self) {
        for shard in &self.inner.shards {
            shard.queue.close();
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.housekeeper.raise();
        for thread in threads {
            // A panic in a thread was logged where it was caught.
            let _ = thread.join();
        }
        let Some(lock) = self.inner.lock.lock().take() else { return };
        for (shard, writer) in self.inner.shards.iter().zip(&self.inner.writers) {
            let mut writer = writer.lock();
            loop {
                let requests = shard.queue.take(shard.options.commit_bytes_max);
                if requests.is_empty() {
                    break;
                }
                writer.commit(shard, requests);
            }
            writer.finish(shard);
            // The next open need not read the ids out of the log.
            if let Err(error) = housekeeping::write_ids(shard) {
                tracing::warn!(error = %weir_base::error::chain(&error), "cannot write the ids at closing");
            }
        }
        drop(lock);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes the lock of a log directory.
pub(crate) fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn DiskLock>, LogError> {
    let path = dir.join("lock");
    disk.lock(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => LogError::InUse { dir: dir.to_owned() },
        _ => LogError::io("lock", &path, error),
    })
}

/// Removes files under temporary names that a crash left. Their removal, also one by an earlier
/// process, is durable before such a name is used again: no renaming can bring an old file up.
pub(crate) fn remove_leftovers(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    for entry in disk.list(dir).map_err(|error| LogError::io("list", dir, error))? {
        if entry.name.ends_with(".tmp") {
            let path = dir.join(&entry.name);
            disk.remove(&path).map_err(|error| LogError::io("remove", &path, error))?;
        }
    }
    disk.sync_dir(dir).map_err(|error| LogError::io("sync", dir, error))
}

/// The offset below which a shard must not append.
fn floor(options: &LogOptions, shards: u16, number: u16) -> u64 {
    let own = options.floors.get(usize::from(number)).copied();
    let beyond = options.floors.iter().skip(usize::from(shards)).copied();
    crate::format::align(beyond.chain(own).max().unwrap_or(0))
}

fn check_options(options: &LogOptions) -> Result<(), LogError> {
    let problem = if options.shards == 0 {
        "shards must be at least 1"
    } else if options.segment_bytes < 4096 {
        "segment_bytes must be at least 4096"
    } else if options.commit_bytes_max == 0 || options.queue_bytes_max < options.commit_bytes_max {
        "queue_bytes_max must be at least commit_bytes_max, and both more than 0"
    } else if options.queue_bytes_max > 2 << 30 {
        "queue_bytes_max must be at most 2 GiB"
    } else if options.floors.iter().any(|floor| *floor > OFFSET_MAX) {
        "floors must be less than half of all offsets"
    } else if options.dedup_memory_ids_max == 0 || options.producers_max == 0 {
        "dedup_memory_ids_max and producers_max must be at least 1"
    } else {
        return Ok(());
    };
    Err(LogError::Options(problem.to_owned()))
}

struct Opening {
    options: Arc<LogOptions>,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    subscribers: Arc<[Arc<dyn Subscriber>]>,
    space: Arc<Space>,
    housekeeper: Arc<Signal>,
    identity: Identity,
    /// When the newest commit was made that is in the log.
    newest: Option<Timestamp>,
}

impl Opening {
    fn shard(&mut self, number: u16) -> Result<(Shard, Writer), LogError> {
        let disk = self.disk.as_ref();
        let dir = self.options.dir.join(format!("shard-{number}"));
        disk.create_dir_all(&dir).map_err(|error| LogError::io("create", &dir, error))?;
        remove_leftovers(disk, &dir)?;
        let (mut checkpoint, damaged) = Checkpoint::load(disk, &dir)?;
        if checkpoint.is_none() && !damaged {
            // By it a shard is known to have been there (see `presence`).
            checkpoint.insert(Checkpoint::default()).store(disk, &dir)?;
        }
        let log_id = self.identity.log_id;
        let filter_bytes_max = self.options.dedup_filter_bytes_max;
        let dedup =
            DedupShared::open(disk, &dir.join("ids"), log_id, number, self.options.dedup_window, filter_bytes_max)?;
        let hasher = KeyHasher::new(self.identity.dedup_key);
        let now = self.clock.now();
        let recovery = Recovery {
            disk,
            dir: &dir,
            log_id,
            shard: number,
            now,
            dedup_window: self.options.dedup_window,
            hasher: &hasher,
            floor: floor(&self.options, self.identity.shards, number),
            subscribers: &self.subscribers,
            checkpoint: checkpoint.unwrap_or_default(),
        };
        let recovered = recovery.run(Dedup::new(Arc::clone(&dedup)))?;
        self.newest = self.newest.max(recovered.newest);
        let writer = Writer::new(WriterStart {
            dedup: recovered.dedup,
            producers: recovered.producers,
            hasher,
            next_number: recovered.next_number,
            end: recovered.end,
            frozen_to: recovered.checkpoint.position,
        })?;
        let shard = Shard {
            number,
            log_id,
            dir,
            disk: Arc::clone(&self.disk),
            clock: Arc::clone(&self.clock),
            options: Arc::clone(&self.options),
            subscribers: Arc::clone(&self.subscribers),
            space: Arc::clone(&self.space),
            housekeeper: Arc::clone(&self.housekeeper),
            queue: Queue::new(self.options.queue_bytes_max),
            segments: RwLock::new(recovered.segments),
            schemas: RwLock::new(recovered.schemas),
            durable: AtomicU64::new(recovered.end),
            released: AtomicU64::new(0),
            spare: Mutex::new(None),
            spare_number: AtomicU64::new(0),
            dedup,
            checkpoint: Mutex::new(recovered.checkpoint),
            freeze_wanted: AtomicBool::new(false),
            counters: crate::stats::Counters::default(),
            recent: Recent::default(),
            watched: Watched::new(recovered.end),
            committing: AtomicI64::new(i64::MAX),
        };
        add(&shard.counters.damages, recovered.damages);
        Ok((shard, writer))
    }
}

impl Inner {
    fn shard_of(&self, tenant: &TenantId) -> u16 {
        let hash = SipHasher13::new().hash(tenant.as_str().as_bytes());
        (hash % self.shards.len() as u64) as u16
    }

    fn enqueue(&self, append: Append) -> Result<oneshot::Receiver<Result<Appended, LogError>>, LogError> {
        let shard = &self.shards[usize::from(self.shard_of(&append.tenant))];
        if self.space.is_full() {
            add(&shard.counters.refused_full, 1);
            return Err(LogError::Full { dir: shard.dir.clone() });
        }
        if append.parts.len() > RECORDS_MAX {
            return Err(LogError::TooLarge { size: append.parts.len(), unit: "parts", max: RECORDS_MAX });
        }
        let mut size = std::mem::size_of::<Pending>();
        let mut schemas = Vec::with_capacity(append.parts.len());
        for part in &append.parts {
            let schema = part.batch.schema_ref();
            storable(schema).map_err(|problem| LogError::Schema { stream: part.stream.to_string(), problem })?;
            schemas.push(merge_schema(&part.stream, schema)?);
            size += part.batch.get_array_memory_size();
        }
        let max = self.options.queue_bytes_max;
        if size > max {
            return Err(LogError::TooLarge { size, unit: "bytes", max });
        }
        let (sender, receiver) = oneshot::channel();
        let pending = Pending { append, schemas, size, reply: Some(sender) };
        shard.queue.push(pending).inspect_err(|error| {
            if matches!(error, LogError::QueueFull { .. }) {
                add(&shard.counters.refused_queue, 1);
            }
        })?;
        Ok(receiver)
    }

    fn write_loop(&self, number: usize) {
        let (Some(shard), Some(writer)) = (self.shards.get(number), self.writers.get(number)) else { return };
        let run = std::panic::AssertUnwindSafe(|| {
            let idle_watermark = shard.options.idle_watermark;
            loop {
                let dirty = writer.lock().is_dirty();
                let wait = if dirty { idle_watermark } else { housekeeping::PERIOD };
                match shard.queue.wait(shard.options.commit_bytes_max, wait) {
                    Work::Commit(requests) => writer.lock().commit(shard, requests),
                    Work::Idle => writer.lock().idle(shard),
                    Work::Closed => return,
                }
            }
        });
        if std::panic::catch_unwind(run).is_err() {
            // What subscribers have seen is not known any more: nothing is accepted until a restart.
            tracing::error!(shard = number, "the writer of the log panicked, the shard accepts nothing any more");
            shard.queue.close();
            while !shard.queue.take(usize::MAX).is_empty() {}
        }
    }

    fn keep_house(&self) {
        let now = self.steady.lock().look(self.clock.now(), self.clock.monotonic());
        let is_closing = || self.stopping.load(Ordering::Acquire);
        let world = housekeeping::World { space: &self.space, shards: &self.shards, is_closing: &is_closing };
        housekeeping::pass(&world, now);
    }

    fn housekeeping_loop(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            let run = std::panic::AssertUnwindSafe(|| self.keep_house());
            if std::panic::catch_unwind(run).is_err() {
                tracing::error!("keeping house for the log panicked");
            }
            self.housekeeper.wait(housekeeping::PERIOD);
        }
    }
}
