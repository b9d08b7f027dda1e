//! Groups of rows while they are being aggregated.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::CONTEXT;
use super::aggregate::{Aggregate, Aggregation, Arguments};
use super::tally::{self, Tally};
use crate::error::{SqlError, from_datafusion};

/// A hash of the keys of each row; the same for the same keys, however text is held.
///
/// # Errors
/// If a key has a type without equality.
pub fn key_hashes(keys: &[ArrayRef], rows: usize) -> Result<Vec<u64>, SqlError> {
    let mut hashes = vec![0; rows];
    if !keys.is_empty() {
        create_hashes(keys, &KEY_SEED, &mut hashes).map_err(failed)?;
    }
    Ok(hashes)
}

/// Not that of the tables groups are in: keys of one instance would fall into few of its buckets.
static KEY_SEED: RandomState = RandomState::with_seed(0x5765_6972);

/// Aggregates of groups that the caller tells apart: it says which group each row belongs to.
pub struct Slots {
    accumulators: Vec<Accumulator>,
    /// How many columns the state of each accumulator has.
    states: Vec<usize>,
    len: usize,
}

impl fmt::Debug for Slots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Slots").field("len", &self.len).finish_non_exhaustive()
    }
}

enum Accumulator {
    /// One that knows each group by itself.
    Tally(Box<dyn Tally>),
    /// One of DataFusion, which gives all groups or none.
    All(Box<dyn GroupsAccumulator>),
}

/// The groups of one window, or of one part of it.
pub struct Groups {
    /// `None`: there are no keys, and one group.
    keys: Option<Box<dyn GroupValues>>,
    slots: Slots,
    state_schema: SchemaRef,
    /// The group of each row of the batch at hand.
    of_row: Vec<usize>,
    is_empty: bool,
}

impl fmt::Debug for Groups {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Groups").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Groups that get no more rows.
#[derive(Debug)]
pub struct Finished {
    pub(super) keys: Vec<ArrayRef>,
    pub(super) values: Vec<ArrayRef>,
    pub(super) rows: usize,
}

impl Finished {
    /// Groups of which only the keys are known.
    pub fn of_keys(keys: Vec<ArrayRef>, rows: usize) -> Self {
        Self { keys, values: Vec::new(), rows }
    }

    /// The keys, one array a key.
    pub fn keys(&self) -> &[ArrayRef] {
        &self.keys
    }

    /// How many groups there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `len` of the groups from `start`.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        let part = |columns: &[ArrayRef]| columns.iter().map(|column| column.slice(start, len)).collect();
        Self { keys: part(&self.keys), values: part(&self.values), rows: len }
    }
}

fn failed(error: DataFusionError) -> SqlError {
    from_datafusion(&error, CONTEXT)
}

fn accumulator(aggregate: &Aggregate) -> Result<Accumulator, DataFusionError> {
    let function = &aggregate.function;
    if function.groups_accumulator_supported() {
        return Ok(Accumulator::All(function.create_groups_accumulator()?));
    }
    let function = Arc::clone(function);
    Ok(Accumulator::All(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator()))))
}

/// Gives an aggregate a row without values.
pub(super) fn try_out(aggregate: &Aggregate, types: &[DataType]) -> Result<(), DataFusionError> {
    let Accumulator::All(mut accumulator) = accumulator(aggregate)? else { return Ok(()) };
    let values: Vec<ArrayRef> = types.iter().map(|of| new_null_array(of, 1)).collect();
    accumulator.update_batch(&values, &[0], None, 1)?;
    accumulator.state(EmitTo::All).map(|_| ())
}

impl Slots {
    pub(super) fn new(aggregation: &Aggregation) -> Result<Self, SqlError> {
        let accumulators = aggregation.aggregates.iter().map(accumulator).collect::<Result<_, _>>().map_err(failed)?;
        Ok(Self::with(aggregation, accumulators))
    }

    /// Slots of which some can be looked at and begun anew, if all aggregates are such that they can be tallied.
    pub(super) fn single(aggregation: &Aggregation) -> Result<Self, SqlError> {
        let tallied = aggregation.aggregates.iter().map(|aggregate| tally::of(&aggregate.function));
        match tallied.collect::<Option<Vec<_>>>() {
            Some(tallies) => Ok(Self::with(aggregation, tallies.into_iter().map(Accumulator::Tally).collect())),
            None => Self::new(aggregation),
        }
    }

    fn with(aggregation: &Aggregation, accumulators: Vec<Accumulator>) -> Self {
        Self { accumulators, states: aggregation.aggregates.iter().map(|aggregate| aggregate.states).collect(), len: 0 }
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes they take.
    pub fn bytes(&self) -> usize {
        let bytes = |accumulator: &Accumulator| match accumulator {
            Accumulator::Tally(tally) => tally.bytes(),
            Accumulator::All(all) => all.size(),
        };
        self.accumulators.iter().map(bytes).sum()
    }

    /// Whether some of the groups can be looked at and begun anew without the others.
    pub fn are_single(&self) -> bool {
        self.accumulators.iter().all(|accumulator| matches!(accumulator, Accumulator::Tally(_)))
    }

    /// The state of some groups, which stay as they are; `None` if that of all has to be taken.
    pub fn some(&self, groups: &[usize]) -> Option<Vec<ArrayRef>> {
        let mut columns = Vec::with_capacity(self.states.iter().sum());
        for accumulator in &self.accumulators {
            match accumulator {
                Accumulator::Tally(tally) => columns.extend(tally.some(groups)),
                Accumulator::All(_) => return None,
            }
        }
        Some(columns)
    }

    /// Begins a group anew, where that can be done.
    pub fn clear(&mut self, group: usize) {
        for accumulator in &mut self.accumulators {
            if let Accumulator::Tally(tally) = accumulator {
                tally.clear(group);
            }
        }
    }

    /// Adds rows: `of_row` is the group of each, and there are `len` groups now, each of which has had a row.
    ///
    /// # Errors
    /// If an aggregate fails, for example because a sum overflows; the groups are of no use then.
    pub fn update(&mut self, arguments: &Arguments, of_row: &[usize], len: usize) -> Result<(), SqlError> {
        self.len = len;
        for (at, accumulator) in self.accumulators.iter_mut().enumerate() {
            let (values, filter) = (&arguments.values[at], arguments.filters[at].as_ref());
            match accumulator {
                Accumulator::Tally(tally) => tally.update(values, of_row, filter, len),
                Accumulator::All(all) => all.update_batch(values, of_row, filter, len).map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Adds groups that were taken with [`Slots::take_state`]: `of_row` is the group each row of `state`
    /// becomes part of, and there are `len` groups now.
    ///
    /// # Errors
    /// If it is not a state of this aggregation.
    pub fn merge(&mut self, state: &[ArrayRef], of_row: &[usize], len: usize) -> Result<(), SqlError> {
        self.len = len;
        let mut from = 0;
        for (accumulator, states) in self.accumulators.iter_mut().zip(&self.states) {
            match accumulator {
                Accumulator::Tally(tally) => tally.merge(&state[from..from + states], of_row, len),
                Accumulator::All(all) => {
                    all.merge_batch(&state[from..from + states], of_row, len).map_err(failed)?;
                }
            }
            from += states;
        }
        Ok(())
    }

    /// Takes what is needed to go on with these groups elsewhere, a row a group, and forgets them.
    ///
    /// # Errors
    /// If an aggregate cannot give its state.
    pub fn take_state(&mut self) -> Result<Vec<ArrayRef>, SqlError> {
        self.len = 0;
        let mut columns = Vec::with_capacity(self.states.iter().sum());
        for accumulator in &mut self.accumulators {
            match accumulator {
                Accumulator::Tally(tally) => columns.extend(tally.take()),
                Accumulator::All(all) => columns.extend(all.state(EmitTo::All).map_err(failed)?),
            }
        }
        Ok(columns)
    }

    /// The results of all groups, which are forgotten; `keys` are their keys.
    ///
    /// # Errors
    /// If an aggregate has no result.
    pub fn finish(&mut self, keys: Vec<ArrayRef>) -> Result<Finished, SqlError> {
        let rows = std::mem::take(&mut self.len);
        let value = |accumulator: &mut Accumulator| match accumulator {
            Accumulator::Tally(tally) => Ok(tally.finish()),
            Accumulator::All(all) => all.evaluate(EmitTo::All),
        };
        let values = self.accumulators.iter_mut().map(value).collect::<Result<_, _>>().map_err(failed)?;
        Ok(Finished { keys, values, rows })
    }
}

impl Groups {
    pub(super) fn new(aggregation: &Aggregation) -> Result<Self, SqlError> {
        let keys = if aggregation.n_keys() == 0 {
            None
        } else {
            Some(new_group_values(Arc::clone(&aggregation.key_schema), &GroupOrdering::None).map_err(failed)?)
        };
        Ok(Self {
            keys,
            slots: Slots::new(aggregation)?,
            state_schema: Arc::clone(aggregation.state_schema()),
            of_row: Vec::new(),
            is_empty: true,
        })
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        match &self.keys {
            Some(keys) => keys.len(),
            None => usize::from(!self.is_empty),
        }
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Bytes they take.
    pub fn bytes(&self) -> usize {
        self.keys.as_ref().map_or(0, |keys| keys.size()) + self.slots.bytes()
    }

    fn find(&mut self, keys: &[ArrayRef], rows: usize) -> Result<usize, SqlError> {
        self.is_empty = false;
        match &mut self.keys {
            Some(values) => {
                values.intern(keys, &mut self.of_row).map_err(failed)?;
                Ok(values.len())
            }
            None => {
                // There is nothing but zeros in it.
                self.of_row.resize(rows, 0);
                Ok(1)
            }
        }
    }

    /// Adds rows.
    ///
    /// # Errors
    /// If an aggregate fails, for example because a sum overflows; the groups are of no use then.
    pub fn update(&mut self, arguments: &Arguments) -> Result<(), SqlError> {
        if arguments.rows == 0 {
            return Ok(());
        }
        let total = self.find(&arguments.keys, arguments.rows)?;
        self.slots.update(arguments, &self.of_row, total)
    }

    /// Adds groups that were taken with [`Groups::take_state`].
    ///
    /// # Errors
    /// If it is not a state of this aggregation.
    pub fn merge(&mut self, state: &RecordBatch) -> Result<(), SqlError> {
        if state.num_rows() == 0 {
            return Ok(());
        }
        let columns = state.columns();
        let n_keys = columns.len() - self.slots.states.iter().sum::<usize>();
        let total = self.find(&columns[..n_keys], state.num_rows())?;
        self.slots.merge(&columns[n_keys..], &self.of_row, total)
    }

    /// Takes what is needed to go on with these groups elsewhere, and forgets them.
    ///
    /// # Errors
    /// If an aggregate cannot give its state.
    pub fn take_state(&mut self) -> Result<RecordBatch, SqlError> {
        let rows = self.len();
        if rows == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.state_schema)));
        }
        let mut columns = self.take_keys()?;
        columns.extend(self.slots.take_state()?);
        self.is_empty = true;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.state_schema), columns, &options)
            .map_err(|error| failed(error.into()))
    }

    /// The results of all groups, which are forgotten.
    ///
    /// # Errors
    /// If an aggregate has no result.
    pub fn finish(&mut self) -> Result<Finished, SqlError> {
        let rows = self.len();
        let keys = self.take_keys()?;
        self.is_empty = true;
        Ok(Finished { rows, ..self.slots.finish(keys)? })
    }

    fn take_keys(&mut self) -> Result<Vec<ArrayRef>, SqlError> {
        match &mut self.keys {
            Some(keys) => keys.emit(EmitTo::All).map_err(failed),
            None => Ok(Vec::new()),
        }
    }
}
