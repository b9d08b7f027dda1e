//! What happens to rows between source and sink.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::SchemaRef;
use weir_base::{ErrorKind, Kinded, Timestamp};

use crate::Batch;

/// A state machine over rows. Plain functions: no input or output beside its arguments, no clock,
/// no randomness, no threads; so the same calls give the same rows.
pub trait Operator: Send {
    /// Rows have come at input `input`.
    ///
    /// # Errors
    /// If the pipeline cannot go on. A row that alone is at fault is set aside instead.
    fn on_batch(&mut self, input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError>;

    /// No row older than `watermark` will come at any input, save rows that are late by the watermark
    /// of their own source. Larger at each call. Returns the same promise for what the operator puts out,
    /// which never goes back; results that become due are put out before.
    ///
    /// # Errors
    /// If the pipeline cannot go on.
    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        let _ = output;
        Ok(watermark)
    }

    /// Whether the last call of [`Operator::on_watermark`] has put out only a part of what is due, so that what comes
    /// out at once is bounded. It is called again with the same watermark, before anything else, when there is room for
    /// more.
    fn has_more(&self) -> bool {
        false
    }

    /// Whether results that are not final wait to be put out.
    fn waiting(&self) -> Waiting {
        Waiting::default()
    }

    /// The moment for results that are not final has come: those that wait for it are put out. When that is does not
    /// change what becomes final, only how often it is said before.
    ///
    /// # Errors
    /// If the pipeline cannot go on.
    fn on_moment(&mut self, moment: Moment, output: &mut dyn Output) -> Result<(), OperatorError> {
        let _ = (moment, output);
        Ok(())
    }

    /// What has to be known to go on from here. Cheap: it shares its batches with the operator and
    /// is written to the checkpoint elsewhere.
    ///
    /// # Errors
    /// If the pipeline cannot go on.
    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        Ok(OperatorState::default())
    }

    /// Takes over what belongs to `share` of the states all instances of this operator had.
    /// Called once, before anything else.
    ///
    /// # Errors
    /// If a state is not one of this operator.
    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        let _ = share;
        match states.iter().all(OperatorState::is_empty) {
            true => Ok(()),
            false => Err(OperatorError::state("a step without state was given one")),
        }
    }

    /// Bytes of memory the state takes.
    fn state_bytes(&self) -> usize {
        0
    }

    /// What the state holds, for metrics: name and count, such as `open_windows`.
    fn gauges(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// What became of the state since the operator was made, for metrics: name and count, such as `expired_windows`.
    fn totals(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// When results are put out that are not final. The clock of the wall says only when; what is put out depends on
/// the rows, and what was put out is part of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Soon after something changed that is known already, or is due.
    Changed,
    /// As often as the step has [`PlannedStep::early`] results.
    Early,
}

/// For which moments there is something to put out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// For [`Moment::Changed`].
    pub changed: bool,
    /// For [`Moment::Early`].
    pub early: bool,
}

/// Where an operator puts its results.
pub trait Output {
    /// Rows for everything connected to output `branch`.
    fn batch(&mut self, branch: usize, batch: Batch);

    /// Rows that do not go on, with the reason.
    fn aside(&mut self, aside: Aside);
}

/// Rows that were taken out of the flow: late ones, and ones that can never succeed.
#[derive(Clone, Debug)]
pub struct Aside {
    /// Why.
    pub reason: AsideReason,
    /// The rows as they came.
    pub rows: RecordBatch,
    /// Their event times, in nanoseconds since 1970, if they have any.
    pub times: Option<ScalarBuffer<i64>>,
    /// What is to be said of each row.
    pub notes: AsideNotes,
}

/// What is said of each row that was set aside.
#[derive(Clone, Debug)]
pub enum AsideNotes {
    /// Nothing beyond the reason.
    None,
    /// By how much each row was too late, in nanoseconds.
    LateBy(Vec<i64>),
    /// What was wrong with each row.
    Messages(Vec<String>),
}

/// Why rows were taken out of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AsideReason {
    /// The window it belongs to has been closed.
    Late,
    /// There is no event time in it.
    NoTime,
    /// It could not be decoded.
    Malformed,
    /// An expression failed on it.
    Failed,
    /// There were as many rows as may pass.
    OverLimit,
    /// Whoever it was sent to will never take it.
    Refused,
}

impl AsideReason {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::NoTime => "no_time",
            Self::Malformed => "malformed",
            Self::Failed => "failed",
            Self::OverLimit => "over_limit",
            Self::Refused => "refused",
        }
    }

    /// The reasons of dead letters, which are their classes.
    pub const CLASSES: [Self; 5] = [Self::Malformed, Self::NoTime, Self::Failed, Self::OverLimit, Self::Refused];

    /// The reason with that text.
    pub fn parse(text: &str) -> Option<Self> {
        Self::CLASSES.into_iter().chain([Self::Late]).find(|reason| reason.as_str() == text)
    }

    /// The class of dead letters with that text.
    ///
    /// # Errors
    /// What is wrong with it, with the classes there are.
    pub fn class(text: &str) -> Result<Self, String> {
        let class = Self::CLASSES.into_iter().find(|class| class.as_str() == text);
        class.ok_or_else(|| {
            let classes = Self::CLASSES.map(Self::as_str).join(", ");
            format!("there is no class `{text}` of dead letters; the classes are {classes}")
        })
    }

    /// Whether the row goes to the stream of late rows; all others are dead letters.
    pub const fn is_late(self) -> bool {
        matches!(self, Self::Late)
    }
}

/// Why a pipeline cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OperatorError {
    /// What kind of error.
    pub kind: ErrorKind,
    /// What was attempted and what came of it: lower case, no full stop.
    pub message: String,
}

impl OperatorError {
    /// An error of some kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A bug.
    pub fn internal(error: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, error.to_string())
    }

    /// A state that cannot be taken over.
    pub fn state(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }
}

impl Kinded for OperatorError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// The state of one operator, as named tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorState {
    /// Table by name; the batches of a table have one schema.
    pub tables: BTreeMap<String, Vec<RecordBatch>>,
}

impl OperatorState {
    /// Whether there is nothing to know.
    pub fn is_empty(&self) -> bool {
        self.tables.values().all(Vec::is_empty)
    }

    /// The batches of a table; none if there is no such table.
    pub fn table(&self, name: &str) -> &[RecordBatch] {
        self.tables.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Which part of the keys an instance of an operator owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which instance, from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Share {
    /// All of the keys.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// The index of the instance that owns a key, of `count`.
    pub fn owner(hash: u64, count: usize) -> usize {
        // By the upper bits: tables of the instances use the lower ones.
        usize::try_from((u128::from(hash) * count as u128) >> 64).unwrap_or(0)
    }

    /// Whether this instance owns a key.
    pub fn owns(self, hash: u64) -> bool {
        Self::owner(hash, self.count) == self.index
    }
}

/// A step of a pipeline after its check: what it will put out, and how to make it.
pub trait PlannedStep: Send + Sync {
    /// The columns of each output. There is at least one.
    fn outputs(&self) -> Vec<Branch>;

    /// How rows at input `input` must be spread over instances.
    fn distribution(&self, input: usize) -> Distribution;

    /// Makes an instance, without state.
    ///
    /// # Errors
    /// If something it needs cannot be had.
    fn make(&self) -> Result<Box<dyn Operator>, OperatorError>;

    /// What has to be the same for a state to be taken over, as text; `None` if it keeps none.
    fn state_fingerprint(&self) -> Option<String> {
        None
    }

    /// One line for people: what it does.
    fn describe(&self) -> String;

    /// By what the rows of each output are told apart, if they are results of windows; `inputs` says the same of
    /// what it reads. A step that passes results on, and says so here, is given all revisions of them; every other
    /// one is given final ones only, which are ordinary rows to it.
    fn identities(&self, inputs: &[Option<Identity>]) -> Vec<Option<Identity>> {
        let _ = inputs;
        vec![None; self.outputs().len()]
    }

    /// Whether it is given all revisions of results.
    fn takes_revisions(&self) -> bool {
        false
    }

    /// Whether it holds rows of its one input back as they came, and may set them aside long after that.
    fn holds_rows(&self) -> bool {
        false
    }

    /// The same step for readers who know results by these parts of their identity and want all revisions; `None`
    /// if it puts out nothing before it is final.
    fn revising(&self, known_by: KnownBy) -> Option<Arc<dyn PlannedStep>> {
        let _ = known_by;
        None
    }

    /// How often it puts out results that are not final, of windows that take rows.
    fn early(&self) -> Option<Duration> {
        None
    }
}

/// By what results are told apart that may be revised: the window, and what they are grouped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What each column of the rows is.
    pub parts: Vec<Part>,
    /// What results are grouped by, as it was called first, for people.
    pub by: Vec<String>,
    /// Which bounds of a window tell it from others with the same groups.
    pub bounds: Bounds,
    /// Whether no result is final as long as rows may come, whatever their time.
    pub is_endless: bool,
}

impl Identity {
    /// What a column is. Where something above is wrong, steps are checked with columns that may not be there.
    pub fn part(&self, column: usize) -> Part {
        self.parts.get(column).copied().unwrap_or(Part::Value)
    }
}

/// What a column is, for telling results apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The window.
    Window,
    /// Its start.
    Start,
    /// Its end.
    End,
    /// One of the values results are grouped by.
    By(usize),
    /// Anything else, which may change with the rows.
    Value,
}

/// Which bounds of a window tell it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Either of them.
    Either,
    /// The end: windows begin together.
    End,
    /// The start; both change as long as the window takes rows.
    Start,
    /// There is no window: results are told apart by what they are grouped by alone.
    None,
}

/// By which bounds results are known to their readers, where both may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownBy {
    /// The start: a later end is a revision of the same result.
    Start,
    /// Both: a result with a later end is another one, and the one before is gone.
    Both,
}

/// One output of a step.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The name, of a route; empty for the only output of a step.
    pub name: String,
    /// The columns.
    pub schema: SchemaRef,
}

/// How rows must be spread over the instances of a step.
#[derive(Clone)]
pub enum Distribution {
    /// In any way; rows are worked on one by one.
    Any,
    /// All to the same instance.
    Single,
    /// All rows with the same keys to the same instance.
    ByKey(Arc<dyn KeyHash>),
}

impl fmt::Debug for Distribution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Any => "Any",
            Self::Single => "Single",
            Self::ByKey(_) => "ByKey",
        })
    }
}

/// The keys rows are spread by.
pub trait KeyHash: Send + Sync {
    /// A hash of the keys of each row: equal for equal keys, whatever batch they are in.
    ///
    /// # Errors
    /// If they cannot be computed.
    fn hashes(&self, batch: &Batch) -> Result<Vec<u64>, OperatorError>;
}
