//! What happens behind the writer's back, on one thread for all shards: segments are made ahead,
//! ids go to disk, old segments go away, and a full disk is looked at again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weir_base::Timestamp;

use crate::LogError;
use crate::format::ALIGN;
use crate::shard::{Segment, Shard};
use crate::space::Space;
use crate::state::Checkpoint;

/// How often everything is looked at without being asked; a full disk recovers within this.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// A wall clock that cannot run away: between two looks it advances at most twice as fast as the
/// monotonic clock, so that a jump does not expire everything at once.
#[derive(Debug)]
pub(crate) struct SteadyTime {
    time: Timestamp,
    monotonic: Duration,
}

impl SteadyTime {
    pub(crate) fn new(time: Timestamp, monotonic: Duration) -> Self {
        Self { time, monotonic }
    }

    pub(crate) fn look(&mut self, time: Timestamp, monotonic: Duration) -> Timestamp {
        let passed = monotonic.saturating_sub(self.monotonic);
        self.monotonic = monotonic;
        self.time = time.min(self.time.plus(passed.saturating_mul(2)));
        self.time
    }
}

/// What there is to keep in order.
pub(crate) struct World<'a> {
    pub(crate) space: &'a Space,
    pub(crate) shards: &'a [Arc<Shard>],
    /// The log is to be closed: what can be done another time is.
    pub(crate) is_closing: &'a dyn Fn() -> bool,
}

type Task = fn(&Shard, Timestamp, &World<'_>) -> Result<(), LogError>;

/// One pass over everything. Errors are logged; the next pass tries again.
pub(crate) fn pass(world: &World<'_>, now: Timestamp) {
    for shard in world.shards {
        let tasks: [(&str, Task); 5] = [
            ("expire ids", |shard, now, _| shard.dedup.expire(shard.disk.as_ref(), now.0, shard.options.dedup_window)),
            ("write ids to disk", |shard, _, _| write_ids(shard)),
            ("merge ids", merge_ids),
            ("remove segments", |shard, now, _| remove_segments(shard, now)),
            ("make a segment ahead", |shard, _, _| make_ahead(shard)),
        ];
        for (what, task) in tasks {
            if let Err(error) = task(shard, now, world) {
                tracing::warn!(shard = shard.number, error = %weir_base::error::chain(&error), "cannot {what}");
            }
        }
    }
    if let Err(error) = look_at_space(world.space, world.shards) {
        tracing::warn!(error = %weir_base::error::chain(&error), "cannot look for space");
    }
}

/// Writes the sets that wait, each followed by a checkpoint that says so.
pub(crate) fn write_ids(shard: &Shard) -> Result<(), LogError> {
    while let Some(frozen) = shard.dedup.next_frozen() {
        shard.dedup.write_run(shard.disk.as_ref(), &frozen)?;
        change_checkpoint(shard, |checkpoint| {
            checkpoint.position = frozen.position;
            checkpoint.producers.clone_from(&frozen.producers);
        })?;
        shard.dedup.thaw();
    }
    let newest = shard.segments.read().last().map_or(0, |segment| segment.number);
    if newest > shard.checkpoint.lock().newest_number {
        change_checkpoint(shard, |_| ())?;
    }
    Ok(())
}

/// Notes in the checkpoint that there is a newer segment, before anything in it is acknowledged: if it is lost, it is
/// missed. Where that fails, the next pass does it.
pub(crate) fn note_newest(shard: &Shard) {
    let newest = shard.segments.read().last().map_or(0, |segment| segment.number);
    let is_known = newest <= shard.checkpoint.lock().newest_number;
    if !is_known && let Err(error) = change_checkpoint(shard, |_| ()) {
        let error = weir_base::error::chain(&error);
        tracing::warn!(error, "cannot note the newest segment of the log yet: nobody would miss it");
    }
}

/// Merges runs of ids. Those of a long time are gigabytes: what writers wait for is done in between, and where the disk
/// has no room for them, or the log is to be closed, they stay as they are.
fn merge_ids(shard: &Shard, now: Timestamp, world: &World<'_>) -> Result<(), LogError> {
    let World { space, shards, is_closing } = world;
    let free = || shard.disk.free_bytes(&shard.dir).map_err(|error| LogError::io("look at", &shard.dir, error));
    let kept = 2 * space.reserve_bytes.max(shard.options.segment_bytes);
    shard.dedup.merge(shard.disk.as_ref(), now.0, free()?.saturating_sub(kept), &mut || {
        for other in *shards {
            for result in [write_ids(other), remove_segments(other, now), make_ahead(other)] {
                if let Err(error) = result {
                    // The pass this is part of tries again.
                    tracing::debug!(shard = other.number, error = %weir_base::error::chain(&error), "cannot do what is urgent");
                }
            }
        }
        !is_closing() && !space.is_full() && free().is_ok_and(|free| free >= kept)
    })
}

/// Changes the checkpoint, on disk and then in memory, and notes the newest segment in it. What could
/// not be stored is not known in memory either, so that the next pass stores it.
fn change_checkpoint(shard: &Shard, change: impl FnOnce(&mut Checkpoint)) -> Result<(), LogError> {
    let mut checkpoint = shard.checkpoint.lock();
    let mut next = checkpoint.clone();
    change(&mut next);
    if let Some(newest) = shard.segments.read().last()
        && newest.number > next.newest_number
    {
        next.newest_number = newest.number;
        next.newest_base = newest.base;
    }
    let stored = next.store(shard.disk.as_ref(), &shard.dir);
    // A sequence is used once, also if only one of the copies was written.
    checkpoint.sequence = next.sequence;
    stored?;
    *checkpoint = next;
    Ok(())
}

/// Removes segments that nobody needs and that are old, or too many, or in the way.
fn remove_segments(shard: &Shard, now: Timestamp) -> Result<(), LogError> {
    let free = shard.disk.free_bytes(&shard.dir).map_err(|error| LogError::io("look at", &shard.dir, error))?;
    let mut bytes: u64 = shard.segments.read().iter().map(|segment| segment.bytes.load(Ordering::Relaxed)).sum();
    let bytes_max = match shard.options.retention_bytes {
        0 => (bytes + free) / 5,
        bytes_max => bytes_max,
    };
    let pressed = shard.space.is_full() || free < shard.space.reserve_bytes.max(shard.options.segment_bytes);
    let horizon = now.minus(shard.options.retention);
    let released = shard.released.load(Ordering::Acquire);
    let mut doomed: Vec<Arc<Segment>> = Vec::new();
    let mut oldest = None;
    {
        let segments = shard.segments.read();
        let covered = shard.checkpoint.lock().position;
        for pair in segments.windows(2) {
            let [segment, next] = pair else { break };
            let end = segment.end.load(Ordering::Acquire);
            let old = Timestamp(segment.last_time.load(Ordering::Acquire)) < horizon;
            if end > released || end > next.base || !(old || pressed || bytes > bytes_max) {
                break;
            }
            if end > covered {
                // Its ids and producers are not on disk yet; ask for that and come again.
                shard.freeze_wanted.store(true, Ordering::Relaxed);
                break;
            }
            bytes = bytes.saturating_sub(segment.bytes.load(Ordering::Relaxed));
            doomed.push(Arc::clone(segment));
            oldest = Some(next.base);
        }
    }
    let Some(oldest) = oldest else { return Ok(()) };
    // First the checkpoint, so that a segment that is gone is not missed.
    change_checkpoint(shard, |checkpoint| checkpoint.oldest = oldest)?;
    shard.segments.write().retain(|segment| !doomed.iter().any(|gone| gone.number == segment.number));
    for segment in &doomed {
        shard.disk.remove(&segment.path).map_err(|error| LogError::io("remove", &segment.path, error))?;
    }
    shard.disk.sync_dir(&shard.dir).map_err(|error| LogError::io("sync", &shard.dir, error))
}

fn make_ahead(shard: &Shard) -> Result<(), LogError> {
    if shard.space.is_full() || shard.spare.lock().is_some() {
        return Ok(());
    }
    match shard.make_spare(0, true) {
        Ok(spare) => {
            *shard.spare.lock() = Some(spare);
            Ok(())
        }
        // The current segment still has room; the writer decides when there is none.
        Err(LogError::Full { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives the reserve to others when they need it, and ends the refusal of appends once there is room
/// for the reserve and a segment.
///
/// Segments are reserved ahead, so appends can go on for a while on a disk that is full; but tables,
/// the metadata database and deletes need room that nobody reserved for them.
fn look_at_space(space: &Space, shards: &[Arc<Shard>]) -> Result<(), LogError> {
    let free = space.disk.free_bytes(&space.dir).map_err(|error| LogError::io("look at", &space.dir, error))?;
    if !space.is_full() {
        if free < space.reserve_bytes / 4 {
            space.give_reserve()?;
        } else if free >= 2 * space.reserve_bytes {
            space.take_reserve()?;
        }
        return Ok(());
    }
    let needs: u64 =
        shards.iter().map(|shard| shard.options.segment_bytes.min(1 << 20) + ALIGN).sum::<u64>() + space.not_held();
    if free < needs || !space.take_reserve()? {
        return Ok(());
    }
    for shard in shards {
        if shard.spare.lock().is_some() {
            continue;
        }
        match shard.make_spare(0, true) {
            Ok(spare) => *shard.spare.lock() = Some(spare),
            Err(error) => {
                space.give_reserve()?;
                return match error {
                    LogError::Full { .. } => Ok(()),
                    error => Err(error),
                };
            }
        }
    }
    space.full.store(false, Ordering::Release);
    tracing::info!(dir = %space.dir.display(), "there is space again, appends are accepted");
    Ok(())
}
