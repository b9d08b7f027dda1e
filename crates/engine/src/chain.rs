//! A run of steps without an exchange between them: one task, one instance of each step.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::UInt32Array;
use arrow::datatypes::SchemaRef;
use weir_base::{Clock, Timestamp};
use weir_component::Batch;
use weir_component::operator::{Aside, KeyHash, Operator, OperatorError, Output, Share};
use weir_component::revision::Revisions;
use weir_component::table::is_table;

use crate::aside::{self, Origin};
use crate::board::{Board, ChainTimes, Report};
use crate::error::JobError;
use crate::insight::{Blocking, HeldBy};
use crate::job::Turn;
use crate::lane::{Arrival, Inlets, Lane, Message, Replay, Waker};
use crate::moments::Moments;
use crate::stats::NodeStats;

/// The state is measured after so many messages: measuring looks at every window.
const MEASURED_EVERY: usize = 64;

/// Where the rows of one output go.
pub(crate) struct Outlet {
    pub(crate) branch: usize,
    /// One for each instance of the reader.
    pub(crate) lanes: Vec<Arc<Lane>>,
    pub(crate) spread: Spread,
}

/// To which instance of the reader a row goes.
pub(crate) enum Spread {
    /// All to this one.
    To(usize),
    /// By a hash of its keys.
    ByKey(Arc<dyn KeyHash>),
}

/// All outlets of a task, those for rows set aside among them.
#[derive(Default)]
pub(crate) struct Outlets {
    pub(crate) outlets: Vec<Outlet>,
    pub(crate) late: Option<Arc<Lane>>,
    pub(crate) dead: Option<Arc<Lane>>,
}

impl Outlets {
    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.outlets.iter().flat_map(|outlet| &outlet.lanes).chain(&self.late).chain(&self.dead)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.lanes().any(|lane| lane.is_full())
    }

    /// Sends a watermark, a barrier or the end to everybody.
    pub(crate) fn tell(&self, message: &Message) {
        for lane in self.lanes() {
            lane.push(message.clone());
        }
    }

    /// Sends rows of output `branch`.
    pub(crate) fn rows(&self, branch: usize, batch: Batch) -> Result<(), OperatorError> {
        let mut outlets = self.outlets.iter().filter(|outlet| outlet.branch == branch).peekable();
        while let Some(outlet) = outlets.next() {
            if outlets.peek().is_none() {
                return outlet.send(batch);
            }
            outlet.send(batch.clone())?;
        }
        Ok(())
    }

    pub(crate) fn aside(&self, is_late: bool, batch: Batch) {
        if let Some(lane) = if is_late { &self.late } else { &self.dead } {
            lane.push(Message::Rows(batch));
        }
    }
}

impl Outlet {
    fn send(&self, batch: Batch) -> Result<(), OperatorError> {
        let keys = match &self.spread {
            Spread::To(at) => {
                self.lanes[*at].push(Message::Rows(batch));
                return Ok(());
            }
            Spread::ByKey(keys) => keys,
        };
        if let [lane] = self.lanes.as_slice() {
            lane.push(Message::Rows(batch));
            return Ok(());
        }
        let mut parts: Vec<Vec<u32>> = vec![Vec::new(); self.lanes.len()];
        for (hash, row) in keys.hashes(&batch)?.into_iter().zip(0_u32..) {
            parts[Share::owner(hash, self.lanes.len())].push(row);
        }
        for (part, lane) in parts.into_iter().zip(&self.lanes) {
            if part.len() == batch.len() {
                lane.push(Message::Rows(batch));
                return Ok(());
            }
            if !part.is_empty() {
                let part = batch.take(&UInt32Array::from(part)).map_err(OperatorError::internal)?;
                lane.push(Message::Rows(part));
            }
        }
        Ok(())
    }
}

/// One step of a chain.
pub(crate) struct Link {
    pub(crate) id: String,
    pub(crate) operator: Box<dyn Operator>,
    pub(crate) stats: Arc<NodeStats>,
    pub(crate) takes_revisions: bool,
    pub(crate) moments: Moments,
    /// The columns of rows that wait in it, for time or for a table, if they are not those of the table.
    pub(crate) waiting: Option<SchemaRef>,
    /// The watermark it was told last.
    pub(crate) told: i64,
}

/// Bytes of state of a whole job, and its bound.
#[derive(Debug)]
pub(crate) struct StateBudget {
    used: AtomicUsize,
    /// Bytes of rows that wait for sinks. They give way to states, for they can leave memory.
    kept: AtomicUsize,
    max: usize,
}

impl StateBudget {
    pub(crate) fn new(max: usize) -> Self {
        Self { used: 0.into(), kept: 0.into(), max }
    }

    /// Takes note that somebody who kept `measured` bytes for a sink keeps `bytes` now. Says whether there is room for them.
    pub(crate) fn keep(&self, measured: &mut usize, bytes: usize) -> bool {
        let before = std::mem::replace(measured, bytes);
        let kept = self.kept.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.kept.fetch_sub(before, Ordering::Relaxed);
        self.used.load(Ordering::Relaxed) + kept - before <= self.max
    }

    /// Takes note that somebody who held `measured` bytes holds `bytes` now.
    pub(crate) fn measure(&self, measured: &mut usize, bytes: usize) -> Result<(), JobError> {
        let before = std::mem::replace(measured, bytes);
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.used.fetch_sub(before, Ordering::Relaxed);
        let used = used - before;
        if used > self.max {
            return Err(JobError::StateTooLarge { bytes: used, max: self.max });
        }
        Ok(())
    }
}

pub(crate) struct ChainTask {
    pub(crate) index: usize,
    pub(crate) instance: usize,
    pub(crate) links: Vec<Link>,
    pub(crate) inlets: Inlets,
    pub(crate) outlets: Outlets,
    pub(crate) board: Arc<Board>,
    pub(crate) waker: Waker,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) budget: Arc<StateBudget>,
    /// Bytes of state, as measured last.
    pub(crate) measured: usize,
    pub(crate) messages: usize,
    pub(crate) watermark: i64,
    /// What those after it know of the watermark: nothing yet after a start, also if there is one.
    pub(crate) told: i64,
    pub(crate) blocking: Blocking,
}

/// What a step puts out flows through the steps after it.
struct Flow<'a> {
    id: &'a str,
    stats: &'a NodeStats,
    rest: &'a mut [Link],
    outlets: &'a Outlets,
    error: &'a mut Option<JobError>,
    /// The rows that came, if it was rows: at which input, and their columns.
    came: Option<(usize, SchemaRef)>,
    /// How often they have failed here before.
    failed: u64,
}

impl Output for Flow<'_> {
    fn batch(&mut self, branch: usize, batch: Batch) {
        if self.error.is_some() || batch.is_empty() {
            return;
        }
        NodeStats::add(&self.stats.rows_out, batch.len());
        self.stats.tap.pass(&batch.rows);
        let result = match self.rest.split_first_mut() {
            None => self.outlets.rows(branch, batch).map_err(|error| JobError::operator(self.id, error)),
            Some((link, rest)) => on_batch(link, rest, self.outlets, 0, batch, 0),
        };
        *self.error = result.err();
    }

    fn aside(&mut self, aside: Aside) {
        if self.error.is_some() {
            return;
        }
        let is_late = aside.reason.is_late();
        NodeStats::add(if is_late { &self.stats.late } else { &self.stats.dead }, aside.rows.num_rows());
        // What is set aside may be something that was made of the rows; only the rows themselves can be run again.
        let came = self.came.as_ref().filter(|(_, schema)| *schema == *aside.rows.schema_ref());
        let origin = Origin { input: came.map(|(input, _)| *input), attempts: self.failed + 1 };
        match aside::of_step(self.id, &aside, origin) {
            Ok(batch) => self.outlets.aside(is_late, batch),
            Err(error) => *self.error = Some(error),
        }
    }
}

fn on_batch(
    link: &mut Link,
    rest: &mut [Link],
    outlets: &Outlets,
    input: usize,
    batch: Batch,
    failed: u64,
) -> Result<(), JobError> {
    let batch = if link.takes_revisions || batch.revisions.is_none() {
        batch
    } else {
        let finals = batch.finals().map_err(|error| JobError::internal(&link.id, error))?;
        if finals.is_empty() {
            return Ok(());
        }
        finals
    };
    // A result that was put out before, or will be again, cannot be run again by itself.
    let is_whole = batch.revisions.as_ref().is_none_or(Revisions::are_only_first);
    let came = if is_table(batch.rows.schema_ref()) {
        // With a table that is whole those rows are worked on that have waited for it.
        link.waiting.clone().map(|waiting| (0, waiting))
    } else {
        NodeStats::add(&link.stats.rows_in, batch.len());
        is_whole.then(|| (input, batch.rows.schema()))
    };
    NodeStats::add(&link.stats.batches, 1);
    work(link, rest, outlets, (came, failed), |operator, flow| operator.on_batch(input, batch, flow))
}

/// Lets a step do something, whose results flow through the steps after it. Rows that came for it are those that may
/// be set aside as they are: at which input, their columns, and how often they have failed here before.
fn work<T>(
    link: &mut Link,
    rest: &mut [Link],
    outlets: &Outlets,
    (came, failed): (Option<(usize, SchemaRef)>, u64),
    act: impl FnOnce(&mut dyn Operator, &mut dyn Output) -> Result<T, OperatorError>,
) -> Result<T, JobError> {
    let mut error = None;
    let Link { id, operator, stats, .. } = link;
    let mut flow = Flow { id, stats, rest, outlets, error: &mut error, came, failed };
    let result = act(operator.as_mut(), &mut flow);
    match error {
        Some(error) => Err(error),
        None => result.map_err(|error| JobError::operator(id, error)),
    }
}

impl ChainTask {
    /// Takes one message.
    pub(crate) fn turn(&mut self) -> Result<Turn, JobError> {
        let is_blocked = self.outlets.is_full();
        if let Some(first) = self.links.first() {
            self.blocking.note(is_blocked, || self.clock.monotonic(), &first.stats.blocked);
        }
        if is_blocked {
            return Ok(Turn::Wait);
        }
        let begun = self.clock.monotonic();
        // The last one first: what comes of one before it comes to a step that has nothing left.
        if let Some(at) = self.links.iter().rposition(|link| link.operator.has_more()) {
            let time = self.links[at].told;
            self.advance_from(at, time)?;
            self.measure()?;
            self.note_busy(begun);
            return Ok(Turn::Worked);
        }
        if self.moments(begun)? {
            self.note_busy(begun);
            return Ok(Turn::Worked);
        }
        let turn = match self.inlets.take() {
            Arrival::Empty => {
                let due = self.links.iter().filter_map(|link| link.moments.next()).min();
                return Ok(due.map_or(Turn::Wait, |due| Turn::Sleep(due.saturating_sub(begun))));
            }
            Arrival::Nothing => Turn::Worked,
            Arrival::Rows { input, batch } => {
                let (first, rest) = self.links.split_first_mut().ok_or_else(no_steps)?;
                on_batch(first, rest, &self.outlets, input, batch, 0)?;
                self.measure()?;
                Turn::Worked
            }
            Arrival::Replay(replay) => {
                self.replay(*replay)?;
                self.measure()?;
                Turn::Worked
            }
            Arrival::Watermark(time) => {
                self.advance_from(0, time)?;
                self.measure()?;
                Turn::Worked
            }
            Arrival::Barrier(epoch) => {
                self.snapshot(epoch)?;
                self.say_held();
                Turn::Worked
            }
            Arrival::End => {
                self.outlets.tell(&Message::End);
                Turn::Finished
            }
        };
        self.note_busy(begun);
        Ok(turn)
    }

    fn note_busy(&self, begun: Duration) {
        if let Some(first) = self.links.first() {
            let busy = self.clock.monotonic().saturating_sub(begun);
            NodeStats::add(&first.stats.busy_ns, usize::try_from(busy.as_nanos()).unwrap_or(0));
        }
    }

    /// Lets steps put out results that are not final, if their moment has come. Says whether one has.
    fn moments(&mut self, now: Duration) -> Result<bool, JobError> {
        let mut has_come = false;
        for at in 0..self.links.len() {
            let (before, rest) = self.links.split_at_mut(at + 1);
            let Some(link) = before.last_mut() else { continue };
            for moment in link.moments.come(link.operator.waiting(), now) {
                work(link, rest, &self.outlets, (None, 0), |operator, flow| operator.on_moment(moment, flow))?;
                has_come = true;
            }
        }
        Ok(has_come)
    }

    /// A row that is run again counts as one that comes now: what is over for all others is over for it.
    fn replay(&mut self, replay: Replay) -> Result<(), JobError> {
        let Replay { link, input, mut batch, attempts } = replay;
        let watermark = self.inlets.watermark().max(self.watermark);
        batch.watermarks = Some(vec![watermark; batch.len()].into());
        let (_, links) = self.links.split_at_mut_checked(link).ok_or_else(no_steps)?;
        let (first, rest) = links.split_first_mut().ok_or_else(no_steps)?;
        on_batch(first, rest, &self.outlets, input, batch, attempts)
    }

    /// Tells the steps from one on of a watermark.
    fn advance_from(&mut self, first: usize, time: i64) -> Result<(), JobError> {
        let mut time = Timestamp(time);
        for at in first..self.links.len() {
            let (before, rest) = self.links.split_at_mut(at + 1);
            let Some(link) = before.last_mut() else { continue };
            link.told = time.0;
            let act = |operator: &mut dyn Operator, flow: &mut dyn Output| operator.on_watermark(time, flow);
            let waited = link.waiting.clone().map(|waiting| (0, waiting));
            time = work(link, rest, &self.outlets, (waited, 0), act)?;
            link.stats.watermark.store(time.0, Ordering::Relaxed);
        }
        self.watermark = self.watermark.max(time.0);
        if self.watermark > self.told {
            self.told = self.watermark;
            self.outlets.tell(&Message::Watermark(self.watermark));
        }
        Ok(())
    }

    fn snapshot(&mut self, epoch: u64) -> Result<(), JobError> {
        let mut states = Vec::with_capacity(self.links.len());
        for link in &mut self.links {
            let begun = self.clock.monotonic();
            let state = link.operator.snapshot().map_err(|error| JobError::operator(&link.id, error))?;
            states.push((link.id.clone(), state));
            let took = self.clock.monotonic().saturating_sub(begun);
            link.stats.snapshot_ns.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            NodeStats::add(&link.stats.snapshots, 1);
        }
        // The barrier goes on before anybody has written a byte of the state.
        self.outlets.tell(&Message::Barrier(epoch));
        let times = ChainTimes { reached: self.inlets.watermark(), told: self.watermark };
        self.board.report(Report::Chain { chain: self.index, instance: self.instance, epoch, states, times });
        Ok(())
    }

    /// Says what the states hold, for whoever wants to know.
    fn say_held(&self) {
        for link in &self.links {
            let held = HeldBy { gauges: link.operator.gauges(), totals: link.operator.totals() };
            link.stats.held.say(self.instance, held);
        }
    }

    fn measure(&mut self) -> Result<(), JobError> {
        self.messages += 1;
        if !self.messages.is_multiple_of(MEASURED_EVERY) {
            return Ok(());
        }
        let mut bytes = 0;
        for link in &self.links {
            let own = link.operator.state_bytes();
            link.stats.state_bytes.store(own as u64, Ordering::Relaxed);
            bytes += own;
        }
        self.budget.measure(&mut self.measured, bytes)
    }
}

fn no_steps() -> JobError {
    JobError::internal("chain", "a chain without steps")
}
