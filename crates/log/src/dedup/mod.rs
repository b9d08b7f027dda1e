//! Which ids and idempotency keys were stored inside the window.
//!
//! Keys are 128-bit keyed hashes of (tenant, stream, id), looked up by log time. The recent ones are
//! in memory; when there are many, or a *part* of the window ends, they are written to a sorted run by
//! the housekeeper, and runs of one part are merged: a few of the same size into one, and all of a part that
//! is over into one. A run goes when all of it is older than the window, so an id is remembered for the window and
//! at most a part, which is an eighth of it, longer.
//!
//! A look asks every run: some of the part that is not over, and one of each other. Memory for their filters goes to the
//! smallest runs first, as a look costs the same in all of them; the filters of others are read, a sector a look.
//!
//! Invariant: only the writer of the shard adds keys, and only after their commit is durable.

mod filter;
pub(crate) mod run;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher13};
use weir_base::disk::Disk;
use weir_base::{StreamName, TenantId};

use self::run::{Run, RunInfo, run_number};
use crate::state::ProducerState;
use crate::{IdempotencyKey, LogError};

/// A set of hashes; they are random already, so a cheap hash of them is enough.
pub(crate) type KeySet = HashSet<u128, FixedState>;

/// The window has so many parts. One run holds the keys of one of them, or of more where
/// sets waited for long.
const PARTS: u32 = 8;
/// No part is shorter.
const PART_MIN: Duration = Duration::from_secs(60);
/// So many runs of one level in one part become one run of the next level.
const MERGE_RUNS: usize = 4;
/// Keys are few beside so many times as many.
const FEW: u64 = 8;
/// How many sets may wait for the housekeeper before appends with ids are refused.
pub(crate) const FROZEN_MAX: usize = 4;

/// Hashes ids under the key of the log.
#[derive(Clone, Debug)]
pub(crate) struct KeyHasher {
    key: [u8; 16],
}

/// A hasher that has taken in (tenant, stream) already.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScopedHasher(SipHasher13);

impl KeyHasher {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    fn scoped(&self, domain: u8, tenant: &TenantId, stream: &str) -> ScopedHasher {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(&[domain, tenant.as_str().len() as u8]);
        hasher.write(tenant.as_str().as_bytes());
        hasher.write(&[stream.len() as u8]);
        hasher.write(stream.as_bytes());
        ScopedHasher(hasher)
    }

    /// For the ids of rows of a stream.
    pub(crate) fn ids(&self, tenant: &TenantId, stream: &StreamName) -> ScopedHasher {
        self.scoped(1, tenant, stream.as_str())
    }

    /// For the idempotency key of a request.
    pub(crate) fn idempotency(&self, tenant: &TenantId, key: &IdempotencyKey) -> RequestKeys {
        RequestKeys {
            key: self.scoped(3, tenant, "").hash(&key.key),
            request: self.scoped(4, tenant, "").hash(&[&key.body.to_le_bytes(), key.key.as_slice()].concat()),
            before_bodies: self.scoped(2, tenant, "").hash(&key.key),
        }
    }
}

/// What is remembered of a request with an idempotency key, and looked for: two keys of the set in which ids are,
/// so that neither a record nor a run of the log has to have another form for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestKeys {
    /// Of the idempotency key.
    pub(crate) key: u128,
    /// Of the idempotency key and the body it came with.
    pub(crate) request: u128,
    /// Of the idempotency key as it was remembered while bodies were not. Only looked for.
    pub(crate) before_bodies: u128,
}

impl ScopedHasher {
    pub(crate) fn hash(mut self, id: &[u8]) -> u128 {
        self.0.write(id);
        self.0.finish128().as_u128()
    }
}

/// A full set on its way to disk, with everything a checkpoint at its position needs.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) keys: KeySet,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    /// Together with what was frozen before, everything before this offset is covered.
    pub(crate) position: u64,
    pub(crate) producers: Vec<ProducerState>,
    /// Its run is on disk; only the checkpoint is missing.
    written: AtomicBool,
}

/// What lookups see besides the newest keys.
#[derive(Clone, Debug, Default)]
struct View {
    frozen: Vec<Arc<Frozen>>,
    runs: Vec<Arc<Run>>,
}

/// The part shared between writer and housekeeper.
#[derive(Debug)]
pub(crate) struct DedupShared {
    dir: PathBuf,
    log_id: u64,
    shard: u16,
    filter_bytes_max: usize,
    /// The length of a part of the window, in nanoseconds.
    part: i64,
    view: Mutex<Arc<View>>,
    damaged: std::sync::atomic::AtomicU64,
    next_number: std::sync::atomic::AtomicU64,
    /// Numbers of damaged runs, which stay as they are until they expire.
    unmergeable: Mutex<Vec<u64>>,
}

impl DedupShared {
    /// Opens the runs on disk. A run that does not open is left where it is, named in the log and
    /// counted: the ids in it are not known any more.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        log_id: u64,
        shard: u16,
        window: Duration,
        filter_bytes_max: usize,
    ) -> Result<Arc<Self>, LogError> {
        disk.create_dir_all(dir).map_err(|error| LogError::io("create", dir, error))?;
        crate::log::remove_leftovers(disk, dir)?;
        let mut view = View::default();
        let mut damaged = 0;
        let mut next_number = 0;
        let mut entries = disk.list(dir).map_err(|error| LogError::io("list", dir, error))?;
        entries.reverse();
        for entry in entries {
            let path = dir.join(&entry.name);
            let Some(number) = run_number(&entry.name) else { continue };
            next_number = next_number.max(number + 1);
            match Run::open(disk, dir, number) {
                Ok(run) if run.info.log_id == log_id && run.info.shard == shard => view.runs.push(Arc::new(run)),
                Ok(_) => tracing::error!(file = %path.display(), "a run of ids belongs to another log, ignored"),
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    damaged += 1;
                    tracing::error!(file = %path.display(), %error, "a run of ids is damaged, its ids are not known any more");
                }
                Err(error) => return Err(LogError::io("read", &path, error)),
            }
        }
        fit_filters(&mut view.runs, filter_bytes_max);
        let part = (window / PARTS).max(PART_MIN);
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            log_id,
            shard,
            filter_bytes_max,
            part: i64::try_from(part.as_nanos()).unwrap_or(i64::MAX),
            view: Mutex::new(Arc::new(view)),
            damaged: damaged.into(),
            next_number: next_number.into(),
            unmergeable: Mutex::default(),
        }))
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock())
    }

    /// Damaged runs and blocks met so far.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Keys on disk, and the number of runs.
    pub(crate) fn size(&self) -> (u64, usize) {
        let view = self.view();
        (view.runs.iter().map(|run| run.keys).sum(), view.runs.len())
    }

    /// The oldest set that waits to be written.
    pub(crate) fn next_frozen(&self) -> Option<Arc<Frozen>> {
        self.view().frozen.first().cloned()
    }

    /// Writes a set as a run, once. It stays in memory until [`DedupShared::thaw`].
    pub(crate) fn write_run(&self, disk: &dyn Disk, frozen: &Frozen) -> Result<(), LogError> {
        if frozen.keys.is_empty() || frozen.written.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut keys: Vec<u128> = frozen.keys.iter().copied().collect();
        keys.sort_unstable();
        let info = RunInfo {
            log_id: self.log_id,
            shard: self.shard,
            level: 0,
            min_time: frozen.min_time,
            max_time: frozen.max_time,
        };
        let run = Run::create(disk, &self.dir, self.next_number(), info, &keys)
            .map_err(|error| LogError::io("write a run of ids in", &self.dir, error))?;
        self.install(run, &[]);
        frozen.written.store(true, Ordering::Release);
        Ok(())
    }

    /// Forgets the oldest waiting set; its run and a checkpoint are durable now.
    pub(crate) fn thaw(&self) {
        let mut view = self.view.lock();
        let mut next = View::clone(&view);
        if !next.frozen.is_empty() {
            next.frozen.remove(0);
        }
        *view = Arc::new(next);
    }

    fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    /// Runs come and go by the housekeeper alone; what it takes to load their filters keeps nobody waiting.
    fn install(&self, run: Run, replaced: &[Arc<Run>]) {
        let mut runs = self.view().runs.clone();
        runs.retain(|run| !replaced.iter().any(|gone| gone.number == run.number));
        runs.insert(0, Arc::new(run));
        fit_filters(&mut runs, self.filter_bytes_max);
        self.set_runs(runs);
    }

    fn set_runs(&self, runs: Vec<Arc<Run>>) {
        let mut view = self.view.lock();
        *view = Arc::new(View { frozen: view.frozen.clone(), runs });
    }

    /// The part of the window a time is in.
    fn part_of(&self, time: i64) -> i64 {
        time.div_euclid(self.part)
    }

    /// Runs that should become one: a few of one level of a part, or all of a part that is over at `now`.
    fn to_merge(&self, now: i64, unmergeable: &[u64]) -> Vec<Vec<Arc<Run>>> {
        let view = self.view();
        let mut by_level: BTreeMap<(i64, u16), Vec<Arc<Run>>> = BTreeMap::new();
        let mut over: BTreeMap<i64, Vec<Arc<Run>>> = BTreeMap::new();
        for run in view.runs.iter().filter(|run| !unmergeable.contains(&run.number)) {
            let part = self.part_of(run.info.min_time);
            if part < self.part_of(now) {
                over.entry(part).or_default().push(Arc::clone(run));
            } else {
                by_level.entry((part, run.info.level)).or_default().push(Arc::clone(run));
            }
        }
        by_level.retain(|_, runs| runs.len() >= MERGE_RUNS);
        // A run of which the filter is damaged gets a new one. A few keys more are not worth writing all of a part again.
        over.retain(|_, runs| {
            let largest = runs.iter().map(|run| run.keys).max().unwrap_or(0);
            let others = runs.iter().map(|run| run.keys).sum::<u64>() - largest;
            runs.iter().any(|run| run.needs_filter())
                || runs.len() > MERGE_RUNS
                || (runs.len() > 1 && others * FEW >= largest)
        });
        by_level.into_values().chain(over.into_values()).collect()
    }

    /// Merges runs once, if there are many. Runs that cannot be merged do not keep others from it; one
    /// that is damaged is left alone from then on. What it writes takes at most `room` bytes of disk. It may take long:
    /// `between` is called now and then, and says whether to go on.
    pub(crate) fn merge(
        &self,
        disk: &dyn Disk,
        now: i64,
        room: u64,
        between: &mut dyn FnMut() -> bool,
    ) -> Result<(), LogError> {
        let mut unmergeable = self.unmergeable.lock();
        let view = self.view();
        unmergeable.retain(|number| view.runs.iter().any(|run| run.number == *number));
        let mut failed = Ok(());
        let fits = |runs: &Vec<Arc<Run>>| runs.iter().map(|run| run.bytes()).sum::<u64>() <= room;
        for runs in self.to_merge(now, &unmergeable).into_iter().filter(fits) {
            match Run::merge(disk, &self.dir, self.next_number(), &runs, between) {
                Ok(merged) => {
                    self.install(merged, &runs);
                    return self.remove(disk, &runs).and(failed);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return failed,
                Err(error) => {
                    let is_damage = error.kind() == std::io::ErrorKind::InvalidData;
                    for run in runs.iter().filter(|_| is_damage) {
                        if let Err((offset, error)) = run.verify_keys()
                            && error.kind() == std::io::ErrorKind::InvalidData
                        {
                            self.damaged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            tracing::error!(file = %run.path.display(), offset, %error, "a run of ids is damaged, it is not merged");
                            unmergeable.push(run.number);
                        }
                    }
                    failed = failed.and(Err(LogError::io("merge runs of ids in", &self.dir, error)));
                }
            }
        }
        failed
    }

    /// Removes runs all of which is older than the window.
    pub(crate) fn expire(&self, disk: &dyn Disk, now: i64, window: Duration) -> Result<(), LogError> {
        let window = i64::try_from(window.as_nanos()).unwrap_or(i64::MAX);
        let horizon = now.saturating_sub(window);
        let mut expired: Vec<Arc<Run>> =
            self.view().runs.iter().filter(|run| run.info.max_time < horizon).cloned().collect();
        if expired.is_empty() {
            return Ok(());
        }
        expired.sort_by_key(|run| run.info.max_time);
        let mut runs = self.view().runs.clone();
        runs.retain(|run| !expired.iter().any(|gone| gone.number == run.number));
        fit_filters(&mut runs, self.filter_bytes_max);
        self.set_runs(runs);
        self.remove(disk, &expired)
    }

    fn remove(&self, disk: &dyn Disk, runs: &[Arc<Run>]) -> Result<(), LogError> {
        let mut failed = Ok(());
        for run in runs {
            let removed = disk.remove(&run.path).map_err(|error| LogError::io("remove", &run.path, error));
            failed = failed.and(removed);
        }
        failed
    }
}

/// Gives the memory for filters to the smallest runs.
fn fit_filters(runs: &mut [Arc<Run>], bytes_max: usize) {
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|at| runs[*at].filter_bytes());
    let mut bytes = 0_usize;
    for at in order {
        let run = &mut runs[at];
        bytes = bytes.saturating_add(run.filter_bytes());
        if run.filter().is_some() != (bytes <= bytes_max) {
            *run = Arc::new(run.with_filter(bytes <= bytes_max));
        }
    }
}

/// The writer's side.
#[derive(Debug)]
pub(crate) struct Dedup {
    pub(crate) shared: Arc<DedupShared>,
    recent: KeySet,
    min_time: i64,
    max_time: i64,
}

/// Lookups against one state of the index: for the length of a commit.
pub(crate) struct Lookup<'a> {
    recent: &'a KeySet,
    view: Arc<View>,
    shared: &'a DedupShared,
}

impl Dedup {
    pub(crate) fn new(shared: Arc<DedupShared>) -> Self {
        Self { shared, recent: KeySet::default(), min_time: i64::MAX, max_time: i64::MIN }
    }

    pub(crate) fn lookup(&self) -> Lookup<'_> {
        Lookup { recent: &self.recent, view: self.shared.view(), shared: &self.shared }
    }

    /// Takes in the keys of a durable commit.
    pub(crate) fn insert(&mut self, keys: impl IntoIterator<Item = u128>, time: i64) {
        let before = self.recent.len();
        self.recent.extend(keys);
        if self.recent.len() > before {
            self.min_time = self.min_time.min(time);
            self.max_time = self.max_time.max(time);
        }
    }

    /// Keys not yet in a run.
    pub(crate) fn recent_len(&self) -> usize {
        self.recent.len()
    }

    /// Sets waiting for the housekeeper.
    pub(crate) fn frozen_len(&self) -> usize {
        self.shared.view().frozen.len()
    }

    /// Whether the recent keys should go to disk before keys of `time` come.
    pub(crate) fn is_due(&self, time: i64, keys_max: usize) -> bool {
        self.recent.len() >= keys_max
            || (!self.recent.is_empty() && self.shared.part_of(self.min_time) != self.shared.part_of(time))
    }

    /// Hands the recent keys to the housekeeper.
    pub(crate) fn freeze(&mut self, position: u64, producers: Vec<ProducerState>) {
        // As many come again, and a set that grows moves every key more than once.
        let room = KeySet::with_capacity_and_hasher(self.recent.len(), FixedState::default());
        let keys = std::mem::replace(&mut self.recent, room);
        let frozen = Frozen {
            keys,
            min_time: self.min_time,
            max_time: self.max_time,
            position,
            producers,
            written: AtomicBool::new(false),
        };
        (self.min_time, self.max_time) = (i64::MAX, i64::MIN);
        let mut view = self.shared.view.lock();
        let mut next = View::clone(&view);
        next.frozen.push(Arc::new(frozen));
        *view = Arc::new(next);
    }
}

impl Lookup<'_> {
    pub(crate) fn contains(&self, key: u128) -> bool {
        self.recent.contains(&key)
            || self.view.frozen.iter().any(|frozen| frozen.keys.contains(&key))
            || self.view.runs.iter().any(|run| self.is_in(run, key))
    }

    /// Which of the keys are known. One place after the other for all keys, not one key after the
    /// other: nearly every look is a miss of the cache, and misses that do not wait for each other
    /// overlap.
    pub(crate) fn which(&self, keys: &[u128]) -> Vec<bool> {
        let mut known: Vec<bool> = keys.iter().map(|key| self.recent.contains(key)).collect();
        for frozen in &self.view.frozen {
            for (known, key) in known.iter_mut().zip(keys) {
                *known |= frozen.keys.contains(key);
            }
        }
        for run in &self.view.runs {
            match run.filter() {
                Some(filter) => filter.which_perhaps(keys, |at| known[at] = known[at] || self.is_in(run, keys[at])),
                None => {
                    for (known, key) in known.iter_mut().zip(keys) {
                        *known = *known || self.is_in(run, *key);
                    }
                }
            }
        }
        known
    }

    fn is_in(&self, run: &Run, key: u128) -> bool {
        match run.contains(key) {
            Ok(found) => found,
            Err(error) => {
                self.shared.damaged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tracing::error!(file = %run.path.display(), %error, "a run of ids cannot be read");
                false
            }
        }
    }
}
