//! Reads one source: stamps its rows with event time, and puts barriers between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::{cast, is_not_null, is_null};
use arrow::datatypes::{DataType, TimeUnit, TimestampNanosecondType};
use weir_base::Clock;
use weir_component::Batch;
use weir_component::operator::{Aside, AsideNotes, AsideReason};
use weir_component::source::{Next, PartitionName, Source, SourcePosition, SourceRows};
use weir_component::table::{Part, is_table};

use crate::align::Alignment;
use crate::aside::{self, Origin};
use crate::board::{Board, Ending, Report, Request};
use crate::chain::{Outlets, StateBudget};
use crate::error::JobError;
use crate::idleness::Idleness;
use crate::insight::{Blocking, SAID_EVERY, SourceView};
use crate::job::{Backoff, Turn};
use crate::lane::{Message, Waker};
use crate::stats::NodeStats;
use crate::time::SourceTime;

/// How often it is looked whether a source that has nothing has come further on nevertheless.
const LOOKED_EVERY: Duration = Duration::from_secs(10);

/// How soon it is looked again whether a source that waits for another may go on.
const ALIGN_WAIT: Duration = Duration::from_millis(20);

pub(crate) struct SourceTask {
    pub(crate) index: usize,
    pub(crate) id: String,
    pub(crate) source: Box<dyn Source>,
    pub(crate) time_column: Option<usize>,
    pub(crate) disorder: i64,
    pub(crate) idle: Option<Duration>,
    /// How far it may be ahead of the slowest source.
    pub(crate) align: Option<i64>,
    pub(crate) alignment: Arc<Alignment>,
    /// What others know of time while it is silent.
    pub(crate) idleness: Arc<Idleness>,
    /// The sources, by index.
    pub(crate) names: Arc<[String]>,
    pub(crate) time: SourceTime,
    pub(crate) outlets: Outlets,
    pub(crate) board: Arc<Board>,
    pub(crate) waker: Waker,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) stats: Arc<NodeStats>,
    pub(crate) backoff: Backoff,
    pub(crate) budget: Arc<StateBudget>,
    /// Bytes the source holds, as it said last.
    pub(crate) held: usize,
    /// How many attempts the source had lost in a row when it was asked last.
    pub(crate) lost: u64,
    /// The partitions as the source named them last.
    pub(crate) partitions: Option<Arc<[PartitionName]>>,
    /// Whether those after it know of the watermark there was at the start. Who reads several sources waits for
    /// each of them, and one that is quiet would not rise above what it told before.
    pub(crate) has_told: bool,
    /// Whether others know that nobody has to wait for it.
    pub(crate) told_idle: bool,
    /// When the source last said that it has nothing.
    pub(crate) silent_since: Option<Duration>,
    /// The partition that held back the others when the source was asked last, and had nothing then; and when.
    pub(crate) behind_since: Option<(String, Duration)>,
    /// The latest arrival given to a row, where the source knows none.
    pub(crate) arrived: i64,
    /// It gives nothing more than barriers.
    pub(crate) is_ending: bool,
    pub(crate) is_done: bool,
    /// The newest epoch whose barrier was sent.
    pub(crate) epoch: u64,
    /// The newest epoch the source was told of.
    pub(crate) committed: u64,
    pub(crate) blocking: Blocking,
    /// When it said last how its partitions are.
    pub(crate) said: Option<Duration>,
    /// Where the source stood at the last barrier.
    pub(crate) at_barrier: SourcePosition,
    /// When it was last looked whether the source, which has nothing, stands further on.
    pub(crate) looked: Option<Duration>,
}

impl SourceTask {
    /// Sends one batch or one barrier. May be dropped while the source is being asked.
    pub(crate) async fn turn(&mut self) -> Result<Turn, JobError> {
        if !std::mem::replace(&mut self.has_told, true) {
            self.told_idle = self.time.is_idle();
            self.idleness.lock().begin(self.index, &self.outlets, self.time.told(), self.told_idle);
        }
        // Before the source is told what was committed: what is over was.
        let is_over = self.board.is_over();
        if let Some((epoch, position)) = self.board.to_commit(self.index, self.committed) {
            // The checkpoint stands without it; the next one will tell the source again.
            if let Err(error) = self.source.committed(&position).await {
                tracing::warn!(source = %self.id, %error, "the source could not note what was committed");
            }
            // Should this turn have been dropped before, the source is told once more.
            self.committed = epoch;
        }
        if self.is_ending && is_over {
            self.outlets.tell(&Message::End);
            return Ok(Turn::Finished);
        }
        let is_blocked = self.outlets.is_full();
        self.blocking.note(is_blocked, || self.clock.monotonic(), &self.stats.blocked);
        if is_blocked {
            // Nobody asks the source meanwhile, so it is not silent.
            self.silent_since = None;
            self.behind_since = None;
            return Ok(Turn::Wait);
        }
        if let Some(request) = self.board.requested(self.epoch) {
            self.barrier(request);
            return Ok(Turn::Worked);
        }
        if self.is_ending {
            return Ok(Turn::Wait);
        }
        if let Some(turn) = self.backoff.waits() {
            return Ok(turn);
        }
        if self.is_done {
            return Ok(Turn::Wait);
        }
        if self.source.wants_checkpoint() {
            self.board.hurry();
        }
        if self.told_idle {
            self.time.follow(self.idleness.lock().told(self.index));
            self.stats.watermark.store(self.time.told().unwrap_or(i64::MIN), Ordering::Relaxed);
        }
        let behind = self.time.behind(self.disorder).map(str::to_owned);
        self.alignment.note(self.index, self.time.holds_back());
        if let Some(slowest) = self.align.and_then(|most| self.alignment.waits_for(self.index, most)) {
            self.say(behind.as_deref(), Some(slowest));
            // Nobody asks the source meanwhile, so it is not silent.
            self.silent_since = None;
            self.behind_since = None;
            return Ok(Turn::Sleep(ALIGN_WAIT));
        }
        self.say(behind.as_deref(), None);
        let next = self.source.next(behind.as_deref()).await;
        self.note_source()?;
        match next {
            Ok(Next::Rows(rows)) => {
                self.backoff.reset();
                // A table is read anew by every start: whoever goes back to a savepoint misses nothing of it.
                if !is_table(rows.rows.schema_ref()) {
                    self.board.has_read(self.epoch + 1);
                }
                self.note_behind(behind.filter(|behind| behind.as_str() != rows.partition.as_ref()));
                self.silent_since = None;
                self.rows(rows)?;
                self.note_partitions();
                self.tell_time();
                Ok(Turn::Worked)
            }
            Ok(Next::Time(partition, time)) => {
                // No rows: it is as silent as it was.
                self.backoff.reset();
                self.time.pass(&partition, time);
                self.note_partitions();
                self.tell_time();
                self.note_moved();
                Ok(Turn::Worked)
            }
            Ok(Next::Nothing(wait)) => {
                self.backoff.reset();
                self.note_partitions();
                self.note_behind(behind);
                // Only time between two answers of this kind counts: not that in which nobody asked.
                let now = self.clock.monotonic();
                if let (Some(idle), Some(since)) = (self.idle, self.silent_since) {
                    self.time.quiet(now.saturating_sub(since), idle);
                }
                self.silent_since = Some(now);
                self.tell_time();
                self.note_moved();
                Ok(Turn::Sleep(wait))
            }
            Ok(Next::Done) => {
                self.is_done = true;
                // It is silent from now on.
                if let Some(idle) = self.idle {
                    self.time.quiet(idle, idle);
                    self.note_idle();
                }
                self.alignment.note(self.index, None);
                // Time ends with the last barrier and not before: a checkpoint in between could be gone on from
                // with more input.
                self.board.report(Report::SourceDone);
                Ok(Turn::Worked)
            }
            Err(error) if JobError::may_pass(error.kind) => {
                let error = JobError::source(&self.id, error);
                NodeStats::add(&self.stats.retries, 1);
                self.backoff.next(error)
            }
            Err(error) => Err(JobError::source(&self.id, error)),
        }
    }

    /// Sends a barrier, and says where the source stands.
    fn barrier(&mut self, request: Request) {
        let Request { epoch, ending } = request;
        let position = self.source.position();
        let share = self.source.share();
        let mut places = self.idleness.lock();
        if self.told_idle {
            self.time.follow(places.told(self.index));
        }
        let time = self.time.clone();
        if ending == Some(Ending::Finish) {
            places.rise(self.index, i64::MAX);
        }
        self.at_barrier.clone_from(&position);
        self.board.report(Report::Source { source: self.index, epoch, position, time, share });
        self.outlets.tell(&Message::Barrier(epoch));
        if ending.is_some() {
            // Nothing comes after it.
            places.set_idle(self.index, false);
        }
        (self.epoch, self.is_ending) = (epoch, ending.is_some());
    }

    /// Takes note of what the source holds, and of what it goes on without.
    fn note_source(&mut self) -> Result<(), JobError> {
        let trouble = self.source.trouble();
        let lost = trouble.map_or(0, |trouble| trouble.attempts);
        if lost != self.lost {
            NodeStats::add(&self.stats.retries, usize::try_from(lost.saturating_sub(self.lost)).unwrap_or(0));
            self.stats.source.say_trouble(trouble.cloned());
            self.lost = lost;
        }
        let bytes = self.source.held_bytes();
        if bytes == self.held {
            return Ok(());
        }
        self.stats.state_bytes.store(bytes as u64, Ordering::Relaxed);
        self.budget.measure(&mut self.held, bytes)
    }

    /// Takes note of partitions that have begun or ended, if the source knows.
    pub(crate) fn note_partitions(&mut self) {
        let now = self.source.partitions();
        let is_same = match (&now, &self.partitions) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (None, _) => true,
            (Some(_), None) => false,
        };
        if let (false, Some(names)) = (is_same, &now) {
            self.time.set_partitions(names);
            self.partitions = now;
        }
    }

    /// Takes note that the source, which has nothing, has passed over what is not for it. Not each time: a position is
    /// put together for it.
    fn note_moved(&mut self) {
        let now = self.clock.monotonic();
        if self.looked.is_none_or(|looked| now.saturating_sub(looked) >= LOOKED_EVERY) {
            self.looked = Some(now);
            if self.source.position() != self.at_barrier {
                self.board.has_moved(self.epoch + 1);
            }
        }
    }

    /// Takes note that a partition, if one, has nothing at the moment although it holds back the others.
    fn note_behind(&mut self, behind: Option<String>) {
        let (Some(idle), Some(behind), true) = (self.idle, behind, self.source.prefers_behind()) else {
            self.behind_since = None;
            return;
        };
        let now = self.clock.monotonic();
        // Between two answers that there is nothing at all, time passes for all partitions alike.
        if self.silent_since.is_none()
            && let Some((name, since)) = &self.behind_since
            && *name == behind
        {
            self.time.quiet_one(&behind, now.saturating_sub(*since), idle);
        }
        self.behind_since = Some((behind, now));
    }

    /// Says how the partitions are, for whoever wants to know; not each time, for there may be many.
    fn say(&mut self, behind: Option<&str>, waits_for: Option<usize>) {
        let now = self.clock.monotonic();
        if self.said.is_none_or(|said| now.saturating_sub(said) >= SAID_EVERY) {
            self.said = Some(now);
            let (mut partitions, behind) = (self.time.partitions(self.disorder), behind.map(str::to_owned));
            let lags: BTreeMap<PartitionName, u64> = self.source.lags().into_iter().collect();
            for partition in &mut partitions {
                partition.lag_rows = lags.get(partition.name.as_str()).copied();
            }
            let waits_for = waits_for.and_then(|source| self.names.get(source).cloned());
            self.stats.source.say(SourceView { partitions, behind, lag_rows: self.source.lag_rows(), waits_for });
        }
    }

    fn tell_time(&mut self) {
        self.note_idle();
        if let Some(time) = self.time.risen(self.disorder) {
            self.stats.watermark.store(time, Ordering::Relaxed);
            self.idleness.lock().rise(self.index, time);
        }
    }

    /// Takes note that others no longer have to wait for the source, or have to again: what is over by then is over for it.
    fn note_idle(&mut self) {
        self.set_idle(self.time.is_idle());
    }

    fn set_idle(&mut self, is_idle: bool) {
        if std::mem::replace(&mut self.told_idle, is_idle) != is_idle {
            let mut places = self.idleness.lock();
            places.set_idle(self.index, is_idle);
            self.time.follow(places.told(self.index));
        }
    }

    fn rows(&mut self, rows: SourceRows) -> Result<(), JobError> {
        let SourceRows { partition, rows, arrived, rejects, bytes } = rows;
        // What says that a version of a table is whole is no row of anybody.
        let of_table = is_table(rows.schema_ref()).then(|| Part::of(&rows)).flatten();
        match &of_table {
            Some(part) => NodeStats::add(&self.stats.table_rows, part.len() + rejects.len()),
            None => NodeStats::add(&self.stats.rows_in, rows.num_rows() + rejects.len()),
        }
        if let Some(part) = of_table.filter(|part| !part.is_empty()) {
            self.stats.tap.pass(&part.rows);
        }
        NodeStats::add(&self.stats.batches, 1);
        NodeStats::add(&self.stats.bytes, usize::try_from(bytes).unwrap_or(0));
        if !rejects.is_empty() {
            NodeStats::add(&self.stats.dead, rejects.len());
            self.outlets.aside(false, aside::of_source(&self.id, &rejects)?);
        }
        let internal = |error: arrow::error::ArrowError| JobError::internal(&self.id, error);
        let (rows, arrived, times) = match self.time_column {
            None => {
                // A clock that is put back makes nobody late.
                self.arrived = self.arrived.max(self.clock.now().0);
                let now = self.arrived;
                let times = arrived.clone().unwrap_or_else(|| vec![now; rows.num_rows()].into());
                (rows, arrived, times)
            }
            Some(column) => {
                let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
                let times = cast(rows.column(column), &nanos).map_err(internal)?;
                let times = times.as_primitive::<TimestampNanosecondType>();
                if times.null_count() == 0 {
                    (rows, arrived, times.values().clone())
                } else {
                    let no_times = vec![0; rows.num_rows()].into();
                    let whole = Batch { watermarks: arrived, ..Batch::new(rows, no_times) };
                    let missing = whole.filter(&is_null(times).map_err(internal)?).map_err(internal)?;
                    let there: BooleanArray = is_not_null(times).map_err(internal)?;
                    let kept = whole.filter(&there).map_err(internal)?;
                    let times = arrow::compute::filter(times, &there).map_err(internal)?;
                    NodeStats::add(&self.stats.dead, missing.len());
                    let notes = AsideNotes::None;
                    let aside = Aside { reason: AsideReason::NoTime, rows: missing.rows, times: None, notes };
                    self.outlets.aside(false, aside::of_step(&self.id, &aside, Origin::SOURCE)?);
                    (kept.rows, kept.watermarks, times.as_primitive::<TimestampNanosecondType>().values().clone())
                }
            }
        };
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.set_idle(false);
        let stamped = self.time.stamp(&partition, &times, arrived.as_deref(), self.disorder);
        if !is_table(rows.schema_ref()) {
            NodeStats::add(&self.stats.rows_out, rows.num_rows());
            self.stats.tap.pass(&rows);
        }
        let batch = Batch { watermarks: stamped.watermarks, ..Batch::new(rows, times) };
        self.outlets.rows(0, batch).map_err(|error| JobError::operator(&self.id, error))
    }
}
