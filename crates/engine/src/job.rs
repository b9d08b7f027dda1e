//! A pipeline that can run: its tasks, and what they share.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use weir_base::Clock;
use weir_component::checkpoint::CheckpointStore;
use weir_component::source::PlannedSource;

use crate::board::Board;
use crate::chain::ChainTask;
use crate::coordinator::Coordinator;
use crate::error::JobError;
use crate::outbox_task::OutboxTask;
use crate::replay::ReplayTask;
use crate::sink_task::SinkTask;
use crate::source_task::SourceTask;
use crate::stats::Progress;

/// What a task did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something; there may be more.
    Worked,
    /// Nothing: somebody has to do something first, and will wake it.
    Wait,
    /// Nothing: worth trying again after so long, or when it is woken.
    Sleep(Duration),
    /// It has come to its end.
    Finished,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All input was read, all windows are closed, all results committed.
    Finished,
    /// It was stopped, and can go on from its last checkpoint.
    Stopped,
}

/// How a job runs.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// A name for this start of the pipeline that no other start ever has: a name of the process, a dot,
    /// and a number.
    pub writer: String,
    /// How long after a checkpoint the next one begins, if something has come by then. `None`: soon after results
    /// that wait for it, as far as what one costs and the sinks allow, and at the latest after [`crate::LONGEST_INTERVAL`].
    pub checkpoint_interval: Option<Duration>,
    /// Rows that wait between two tasks before the first of them waits, too.
    pub lane_rows_max: usize,
    /// Where there are several sinks: bytes of rows that are kept in memory of what one was given and has not prepared, so that
    /// others need not wait for it; and as many of what waits for it. What is more goes to the store. Less where states may not
    /// take much.
    pub kept_bytes_max: usize,
    /// Bytes that are kept in the store for each sink that does not take them, whatever [`crate::BreakerOptions`] say.
    pub backlog_bytes_max: u64,
    /// Bytes the state of all steps may take.
    pub state_bytes_max: usize,
    /// How long something that fails for a reason that may pass is tried again.
    pub retry_time_max: Duration,
    /// It goes on from an earlier start in this process: if another one has taken over meanwhile, it must not.
    pub is_again: bool,
    /// Begin anew although a sink may have decided something. The store must be empty then.
    pub begin_anew: bool,
    /// What rows that failed before come from, to be run again where they did: rows of [`crate::replay_schema`].
    pub replays: Option<Replays>,
    /// Where it is said what is being opened.
    pub opening: Opening,
}

/// What a job that is being opened waits for: a part that connects to something may take long to find out that it cannot.
#[derive(Clone, Debug, Default)]
pub struct Opening(Arc<Mutex<Option<String>>>);

impl Opening {
    /// What the part does that is being opened; the last one once all are.
    pub fn part(&self) -> Option<String> {
        self.0.lock().clone()
    }

    pub(crate) fn say(&self, part: String) {
        *self.0.lock() = Some(part);
    }
}

/// A source of rows that are run again.
#[derive(Clone)]
pub struct Replays(pub Arc<dyn PlannedSource>);

impl std::fmt::Debug for Replays {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Replays").field(&self.0.describe()).finish()
    }
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            writer: format!("{:032x}.1", u128::from_be_bytes(weir_base::random::bytes())),
            checkpoint_interval: None,
            lane_rows_max: 32 * 1024,
            kept_bytes_max: 16 << 20,
            backlog_bytes_max: u64::MAX,
            state_bytes_max: 1 << 30,
            retry_time_max: Duration::from_secs(300),
            is_again: false,
            begin_anew: false,
            replays: None,
            opening: Opening::default(),
        }
    }
}

impl JobOptions {
    /// Those of the next start in the same process, after [`crate::JobError::Undecided`].
    #[must_use]
    pub fn again(&self) -> Self {
        let (process, start) = self.writer.split_once('.').unwrap_or((&self.writer, "1"));
        let start = 1 + start.parse::<u64>().unwrap_or(1);
        Self { writer: format!("{process}.{start}"), is_again: true, begin_anew: false, ..self.clone() }
    }
}

/// A pipeline that can run.
pub struct Job {
    pub(crate) sources: Vec<SourceTask>,
    pub(crate) replay: Option<ReplayTask>,
    pub(crate) chains: Vec<ChainTask>,
    pub(crate) sinks: Vec<SinkTask>,
    /// Those that do not wait for each other.
    pub(crate) outboxes: Vec<OutboxTask>,
    pub(crate) coordinator: Coordinator,
    pub(crate) board: Arc<Board>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) generation: u64,
    pub(crate) resumed: Option<u64>,
    pub(crate) is_finished: bool,
}

/// What a job needs of the world.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) store: Arc<dyn CheckpointStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: JobOptions,
}

impl Job {
    /// Counters.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The epoch it goes on from; `None` if it begins anew.
    pub fn resumed(&self) -> Option<u64> {
        self.resumed
    }

    /// The epoch [`crate::keep`] would keep.
    pub fn to_keep(&self) -> u64 {
        self.resumed.filter(|_| self.is_finished).unwrap_or_else(|| self.coordinator.next())
    }

    /// Whether its checkpoint says that all input was read; then there is nothing left to run.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Of one that is finished: what has come to a source since, in a few words. Only looks.
    ///
    /// # Errors
    /// If what was read is not what is there now.
    pub fn come_since(&self) -> Result<Option<String>, JobError> {
        for task in &self.sources {
            let came = task.source.come_since().map_err(|error| JobError::source(&task.id, error))?;
            if came.is_some() {
                return Ok(came);
            }
        }
        Ok(None)
    }

    /// Which start of the pipeline this is, from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// Waits between attempts: each twice as long as the one before, up to a bound, a little more or less
/// so that many that failed together do not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    clock: Arc<dyn Clock>,
    time_max: Duration,
    attempts: u32,
    since: Option<Duration>,
    /// No attempt is made before this.
    until: Option<Duration>,
    seed: u64,
}

/// The wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl Backoff {
    pub(crate) fn new(clock: Arc<dyn Clock>, time_max: Duration, seed: u64) -> Self {
        Self { clock, time_max, attempts: 0, since: None, until: None, seed }
    }

    /// It went well.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
        self.since = None;
        self.until = None;
    }

    /// No attempt is made for so long.
    pub(crate) fn rest(&mut self, time: Duration) -> Turn {
        self.until = Some(self.clock.monotonic() + time);
        Turn::Sleep(time)
    }

    /// How long to wait before the next attempt; a task may be woken for other reasons meanwhile.
    pub(crate) fn waits(&self) -> Option<Turn> {
        let left = self.until?.saturating_sub(self.clock.monotonic());
        (!left.is_zero()).then_some(Turn::Sleep(left))
    }

    /// When to try again after `error`; the error itself if that has gone on for too long.
    pub(crate) fn next(&mut self, error: JobError) -> Result<Turn, JobError> {
        self.next_after(error, Duration::ZERO)
    }

    /// The same, not before so long.
    pub(crate) fn next_after(&mut self, error: JobError, least: Duration) -> Result<Turn, JobError> {
        let now = self.clock.monotonic();
        let since = *self.since.get_or_insert(now);
        if now.saturating_sub(since) > self.time_max {
            return Err(error);
        }
        let whole = FIRST_WAIT.saturating_mul(1 << self.attempts.min(16)).min(LONGEST_WAIT);
        self.attempts += 1;
        // Between three quarters and five quarters (the multiplier is that of Knuth's MMIX generator).
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = 75 + u32::try_from((self.seed >> 33) % 51).unwrap_or(0);
        if self.attempts.is_power_of_two() {
            tracing::warn!(%error, attempts = self.attempts, "failed, and is tried again");
        }
        let wait = (whole * share / 100).max(least);
        self.until = Some(now + wait);
        Ok(Turn::Sleep(wait))
    }
}
