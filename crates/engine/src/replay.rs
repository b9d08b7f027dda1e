//! Rows that failed before, run again where they did.
//!
//! Such a row comes from a source of its own ([`replay_schema`]), whose position is part of every checkpoint: so it is run
//! again once, whatever dies meanwhile. It goes straight to the step that had set it aside, at the same input, and not
//! through what is before that step: that has been done with it. What a source set aside goes to all who read the source.
//!
//! It counts as a row that comes now: windows that are closed for others are closed for it. If it fails at the same step, it is
//! set aside again, and how often that has happened is counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampNanosecondType};
use arrow::json::ReaderBuilder;
use serde_json::Value as Json;
use weir_base::ErrorKind;
use weir_component::Batch;
use weir_component::operator::{AsideReason, KeyHash, Share};
use weir_component::source::{Next, Source};
use weir_component::table::{is_table, own_columns};

use crate::aside::{self, ROW_BYTES_MAX};
use crate::board::{Board, Report};
use crate::chain::Outlets;
use crate::error::JobError;
use crate::job::{Backoff, Turn};
use crate::lane::{Lane, Message, Replay, Waker};
use crate::plan::{Plan, PlanSource};
use crate::stats::Progress;
use crate::time::SourceTime;

/// What the source of rows that are run again is called in checkpoints.
pub const REPLAY_ID: &str = "_replay";

/// The columns of rows that are run again: `step`, `reason`, `input`, `attempts` and `row` as they were set aside
/// ([`crate::aside_schema`]), and `time`, their event time in nanoseconds since 1970.
pub fn replay_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("step", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("input", DataType::Int64, true),
        Field::new("attempts", DataType::Int64, false),
        Field::new("time", DataType::Int64, false),
        Field::new("row", DataType::Utf8, false),
    ]))
}

/// A row that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter<'a> {
    /// The id of the source or step; of a sink it is behind `to `.
    pub step: &'a str,
    /// Why.
    pub reason: AsideReason,
    /// At which input of the step it had come.
    pub input: Option<usize>,
    /// How often it has failed there.
    pub attempts: u64,
    /// Its event time.
    pub time: i64,
    /// The row as JSON; of a source that could not make a row of it, what it read.
    pub row: &'a str,
}

/// What a sink is called as the place where a row was refused; no source or step has a space in its id.
pub(crate) fn sink_door(sink: &str) -> String {
    format!("to {sink}")
}

impl Plan {
    /// Whether a row that was set aside can be run again.
    ///
    /// # Errors
    /// Why not: lower case, no full stop.
    pub fn can_replay(&self, letter: &Letter<'_>) -> Result<(), String> {
        if let Some(source) = self.sources.iter().find(|source| source.id == letter.step) {
            return read_again(source, letter).map(|_| ());
        }
        if let Some(sink) = self.sinks.iter().find(|sink| sink_door(&sink.id) == letter.step) {
            return decode(letter, pick(&[self.schema_of(sink.input)], letter)?).map(|_| ());
        }
        let step = self.steps.iter().find(|step| step.id == letter.step).ok_or_else(|| no_step(letter.step))?;
        let inputs: Vec<SchemaRef> = step.inputs.iter().map(|input| self.schema_of(*input)).collect();
        let letter = &waited(letter, &inputs);
        if letter.input.is_none() && inputs.iter().any(|input| is_table(input)) {
            // What such a step sets aside is a row as it came, or one of the table without its version.
            return Err(format!(
                "it is a row of the table of {}, which is read again with it: repair it there",
                step.id
            ));
        }
        decode(letter, pick(&inputs, letter)?).map(|_| ())
    }
}

fn no_step(step: &str) -> String {
    format!("there is no source, step or sink `{step}` in the pipeline any more")
}

/// The letter with its input, where it is of a time when that was not kept: a row that had waited for a table has columns that
/// the table has not.
fn waited<'a>(letter: &Letter<'a>, inputs: &[SchemaRef]) -> Letter<'a> {
    let Some((rows, others)) = inputs.split_first() else { return *letter };
    let tables: Option<Vec<SchemaRef>> = others.iter().map(own_columns).collect();
    let (None, Some(tables)) = (letter.input, tables.filter(|tables| !tables.is_empty())) else { return *letter };
    let row: serde_json::Map<String, Json> = serde_json::from_str(letter.row).unwrap_or_default();
    let has = |schema: &SchemaRef, name: &str| schema.column_with_name(name).is_some();
    let is_row =
        row.keys().all(|name| has(rows, name)) && row.keys().any(|name| tables.iter().all(|table| !has(table, name)));
    Letter { input: is_row.then_some(0), ..*letter }
}

/// The input it came at.
fn pick<'a, T>(inputs: &'a [T], letter: &Letter<'_>) -> Result<&'a T, String> {
    let no_row = || format!("what {} set aside is not a row as it came there", letter.step);
    inputs
        .get(letter.input.ok_or_else(no_row)?)
        .ok_or_else(|| format!("the step {} does not have the input any more the row came at", letter.step))
}

/// The row, with the columns of `schema`. What is not in the row is null, what is not in the schema is left out.
fn decode(letter: &Letter<'_>, schema: &SchemaRef) -> Result<RecordBatch, String> {
    if letter.row.len() >= ROW_BYTES_MAX - 3 {
        return Err(format!("the row is longer than the {ROW_BYTES_MAX} bytes that are kept of one"));
    }
    let failed =
        |error: arrow::error::ArrowError| format!("the row does not fit the columns of {}: {error}", letter.step);
    let mut decoder = ReaderBuilder::new(Arc::clone(schema)).build_decoder().map_err(failed)?;
    let read = decoder.decode(letter.row.as_bytes()).map_err(failed)?;
    let rows = decoder.flush().map_err(failed)?.filter(|rows| rows.num_rows() == 1 && read == letter.row.len());
    rows.ok_or_else(|| format!("the row does not fit the columns of {}: it is not one row", letter.step))
}

/// A row of a source, with its event time.
fn read_again(source: &PlanSource, letter: &Letter<'_>) -> Result<Batch, String> {
    let rows = if letter.reason == AsideReason::Malformed {
        source.source.again(letter.row).ok_or_else(|| {
            let what = source.source.describe();
            format!("what could not be read by itself cannot be tried again: the source that {what} has no way to")
        })??
    } else {
        decode(letter, &source.source.schema())?
    };
    let Some(column) = source.time else {
        let times = vec![letter.time; rows.num_rows()];
        return Ok(Batch::new(rows, times.into()));
    };
    let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let times = cast(rows.column(column), &nanos).map_err(|error| format!("its time cannot be read: {error}"))?;
    let times = times.as_primitive::<TimestampNanosecondType>();
    if times.null_count() > 0 {
        return Err("there is no event time in it".to_owned());
    }
    Ok(Batch::new(rows, times.values().clone()))
}

/// A way to a reader.
#[derive(Clone)]
pub(crate) struct Way {
    /// One lane for each of its instances.
    pub(crate) lanes: Vec<Arc<Lane>>,
    /// The step of the task and its input; `None` for a sink.
    pub(crate) to: Option<(usize, usize)>,
    /// To which instance.
    pub(crate) keys: Option<Arc<dyn KeyHash>>,
}

impl Way {
    /// Sends rows, each by itself: what becomes of one is said of it alone.
    fn send(&self, batch: &Batch, attempts: u64) -> Result<(), JobError> {
        let failed = |error| JobError::operator(REPLAY_ID, error);
        let hashes = match &self.keys {
            Some(keys) if self.lanes.len() > 1 => keys.hashes(batch).map_err(failed)?,
            _ => vec![0; batch.len()],
        };
        for (at, hash) in hashes.into_iter().enumerate() {
            let batch = batch.slice(at, 1);
            let lane = &self.lanes[Share::owner(hash, self.lanes.len())];
            lane.push(match self.to {
                Some((link, input)) => Message::Replay(Box::new(Replay { link, input, batch, attempts })),
                None => Message::Rows(batch),
            });
        }
        Ok(())
    }
}

/// Where rows come back in.
#[derive(Default)]
pub(crate) struct Doors {
    /// By the id of a source: itself, and all who read it.
    pub(crate) sources: BTreeMap<String, (PlanSource, Vec<Way>)>,
    /// By the id of a step, or of a sink behind `to `: the columns of each input, and the way there.
    pub(crate) steps: BTreeMap<String, Vec<(SchemaRef, Way)>>,
    /// All lanes.
    pub(crate) lanes: Vec<Arc<Lane>>,
}

impl Doors {
    fn is_full(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_full())
    }

    fn tell(&self, message: &Message) {
        for lane in &self.lanes {
            lane.push(message.clone());
        }
    }

    /// Sends a row on its way.
    ///
    /// # Errors
    /// Outside, if the pipeline cannot go on; inside, what is wrong with the row.
    fn send(&self, letter: &Letter<'_>) -> Result<Result<(), String>, JobError> {
        if let Some((source, ways)) = self.sources.get(letter.step) {
            let batch = match read_again(source, letter) {
                Ok(batch) => batch,
                Err(message) => return Ok(Err(message)),
            };
            for way in ways {
                way.send(&batch, 0)?;
            }
            return Ok(Ok(()));
        }
        let found = self.steps.get(letter.step).ok_or_else(|| no_step(letter.step));
        let inputs: Vec<SchemaRef> =
            found.iter().flat_map(|inputs| inputs.iter()).map(|(input, _)| Arc::clone(input)).collect();
        let letter = &waited(letter, &inputs);
        let found = found.and_then(|inputs| pick(inputs, letter));
        match found.and_then(|(schema, way)| Ok((decode(letter, schema)?, way))) {
            Ok((rows, way)) => {
                way.send(&Batch::new(rows, vec![letter.time].into()), letter.attempts)?;
                Ok(Ok(()))
            }
            Err(message) => Ok(Err(message)),
        }
    }
}

/// Gives the rows that are run again to those they belong to.
pub(crate) struct ReplayTask {
    pub(crate) index: usize,
    pub(crate) source: Box<dyn Source>,
    pub(crate) doors: Doors,
    /// For rows that are set aside again.
    pub(crate) outlets: Outlets,
    pub(crate) board: Arc<Board>,
    pub(crate) waker: Waker,
    pub(crate) backoff: Backoff,
    pub(crate) progress: Arc<Progress>,
    /// It gives nothing more than barriers.
    pub(crate) is_ending: bool,
    /// Whether it has said that the pipeline need not wait for it to come to its end.
    pub(crate) has_said_done: bool,
    /// The newest epoch whose barrier was sent.
    pub(crate) epoch: u64,
    /// The newest epoch the source was told of.
    pub(crate) committed: u64,
}

impl ReplayTask {
    fn tell(&self, message: &Message) {
        self.doors.tell(message);
        self.outlets.tell(message);
    }

    /// Sends some rows or one barrier. May be dropped while the source is being asked.
    pub(crate) async fn turn(&mut self) -> Result<Turn, JobError> {
        let is_over = self.board.is_over();
        if let Some((epoch, position)) = self.board.to_commit(self.index, self.committed) {
            if let Err(error) = self.source.committed(&position).await {
                tracing::warn!(%error, "it could not be noted which rows were run again");
            }
            self.committed = epoch;
        }
        if self.is_ending && is_over {
            self.tell(&Message::End);
            return Ok(Turn::Finished);
        }
        if self.doors.is_full() || self.outlets.is_full() {
            return Ok(Turn::Wait);
        }
        if let Some(request) = self.board.requested(self.epoch) {
            self.epoch = request.epoch;
            let (position, time) = (self.source.position(), SourceTime::default());
            let (source, epoch) = (self.index, request.epoch);
            self.board.report(Report::Source { source, epoch, position, time, share: None });
            self.tell(&Message::Barrier(request.epoch));
            self.is_ending = request.ending.is_some();
            return Ok(Turn::Worked);
        }
        if self.is_ending {
            return Ok(Turn::Wait);
        }
        if let Some(turn) = self.backoff.waits() {
            return Ok(turn);
        }
        match self.source.next(None).await {
            Ok(Next::Rows(rows)) => {
                self.backoff.reset();
                self.board.has_read(self.epoch + 1);
                self.send(&rows.rows)?;
                Ok(Turn::Worked)
            }
            Ok(Next::Time(..)) => Ok(Turn::Worked),
            Ok(Next::Nothing(wait)) => {
                self.backoff.reset();
                self.say_done();
                Ok(Turn::Sleep(wait))
            }
            Ok(Next::Done) => {
                self.say_done();
                Ok(Turn::Wait)
            }
            Err(error) if JobError::may_pass(error.kind) => self.backoff.next(JobError::source(REPLAY_ID, error)),
            Err(error) => Err(JobError::source(REPLAY_ID, error)),
        }
    }

    /// A pipeline whose input ends does not wait for rows that somebody may want to run again later.
    fn say_done(&mut self) {
        if !std::mem::replace(&mut self.has_said_done, true) {
            self.board.report(Report::SourceDone);
        }
    }

    fn send(&self, rows: &RecordBatch) -> Result<(), JobError> {
        let damaged = || JobError::Component {
            node: REPLAY_ID.to_owned(),
            kind: ErrorKind::Corrupt,
            message: "rows that are to be run again are not what was kept".to_owned(),
        };
        let text = |name: &str| rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        let number = |name: &str| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(steps), Some(reasons), Some(texts)) = (text("step"), text("reason"), text("row")) else {
            return Err(damaged());
        };
        let (Some(inputs), Some(attempts), Some(times)) = (number("input"), number("attempts"), number("time")) else {
            return Err(damaged());
        };
        for row in 0..rows.num_rows() {
            let letter = Letter {
                step: steps.value(row),
                reason: AsideReason::parse(reasons.value(row)).ok_or_else(damaged)?,
                input: inputs.is_valid(row).then(|| usize::try_from(inputs.value(row)).unwrap_or(usize::MAX)),
                attempts: u64::try_from(attempts.value(row)).unwrap_or(0),
                time: times.value(row),
                row: texts.value(row),
            };
            self.progress.replayed.fetch_add(1, Ordering::Relaxed);
            if let Err(message) = self.doors.send(&letter)? {
                self.outlets.aside(false, aside::again(&letter, &message)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
