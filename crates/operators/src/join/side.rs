//! The rows of one side of a join that can still be found by the other.
//!
//! Rows stay in the batches they came in; a batch goes when its last row does. Rows of a key are a list, so that
//! finding and forgetting one looks at no others.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use weir_component::Batch;
use weir_component::operator::OperatorError;

/// No row, no key.
pub(super) const NONE: u32 = u32::MAX;
/// Columns of a state. No name of a user has a space in front.
const TIME: &str = " time";
const MATCHED: &str = " matched";

/// A row that is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) time: i64,
    pub(super) key: u32,
    /// The next and the previous row of the same key.
    pub(super) next: u32,
    previous: u32,
    batch: u32,
    row: u32,
    /// A row of the other side was found for it.
    pub(super) is_matched: bool,
}

struct Kept {
    batch: Batch,
    /// As it is in a state, if that never changes.
    state: Option<RecordBatch>,
    bytes: usize,
    /// How many of its rows are still remembered.
    n_left: usize,
    /// The place of each of its rows; [`NONE`] for those that are forgotten.
    places: Vec<u32>,
    /// Its rows by time, unless they stand like that.
    order: Option<Vec<u32>>,
    /// How many of them, by time, were over.
    n_over: usize,
}

impl Kept {
    fn new(batch: Batch, state: Option<RecordBatch>, places: Vec<u32>) -> Self {
        let batch = Batch { watermarks: None, ..batch };
        let order = (!batch.times.is_sorted()).then(|| {
            let mut order: Vec<u32> = (0..batch.len()).map(number).collect();
            order.sort_by_key(|row| batch.times[*row as usize]);
            order
        });
        let n_numbers = places.len() + order.as_ref().map_or(0, Vec::len);
        let bytes = batch.bytes() + n_numbers * size_of::<u32>();
        Self { bytes, n_left: batch.len(), batch, state, places, order, n_over: 0 }
    }

    /// The next row to be over; `None` if all were.
    fn next_over(&self) -> Option<usize> {
        match &self.order {
            Some(order) => order.get(self.n_over).map(|row| *row as usize),
            None => (self.n_over < self.batch.len()).then_some(self.n_over),
        }
    }
}

pub(super) struct Side {
    schema: SchemaRef,
    state_schema: SchemaRef,
    remembered: i64,
    rows: Vec<Stored>,
    free: Vec<u32>,
    batches: Vec<Option<Kept>>,
    free_batches: Vec<u32>,
    /// By key: its first row.
    first: Vec<u32>,
    /// When the next row of each batch is forgotten. Batches mostly follow one another in time, so the one on top stays
    /// there for many rows.
    due: BinaryHeap<Reverse<(i64, u32)>>,
    /// No row is later than this.
    newest: i64,
    bytes: usize,
}

impl Side {
    pub(super) fn new(schema: SchemaRef, remembered: i64) -> Self {
        Self {
            state_schema: state_schema(&schema),
            schema,
            remembered,
            rows: Vec::new(),
            free: Vec::new(),
            batches: Vec::new(),
            free_batches: Vec::new(),
            first: Vec::new(),
            due: BinaryHeap::new(),
            newest: i64::MIN,
            bytes: 0,
        }
    }

    /// How many rows are remembered.
    pub(super) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let n_numbers = self.free.capacity() + self.first.capacity();
        self.bytes + self.rows.capacity() * size_of::<Stored>() + n_numbers * size_of::<u32>()
    }

    pub(super) fn row(&self, place: u32) -> &Stored {
        &self.rows[place as usize]
    }

    pub(super) fn mark(&mut self, place: u32) {
        self.rows[place as usize].is_matched = true;
    }

    /// The first row of a key.
    pub(super) fn first(&self, key: u32) -> u32 {
        self.first.get(key as usize).copied().unwrap_or(NONE)
    }

    /// Whether there may be a row between two times.
    pub(super) fn may_have(&self, first: i64, last: i64) -> bool {
        let oldest = self.due.peek().map(|Reverse((due, _))| due.saturating_sub(self.remembered));
        oldest.is_some_and(|oldest| oldest <= last) && self.newest >= first
    }

    /// Remembers rows. The key of a row that is equal to none is [`NONE`]; of no row of `is_matched` none was found.
    /// `state` is the batch as it is in a state, if it does not matter there for which rows others are found.
    pub(super) fn store(&mut self, batch: Batch, state: Option<RecordBatch>, keys: &[u32], is_matched: &[bool]) {
        if batch.is_empty() {
            return;
        }
        let at = self.free_batches.pop().unwrap_or_else(|| {
            self.batches.push(None);
            number(self.batches.len() - 1)
        });
        let mut places = Vec::with_capacity(batch.len());
        for (row, (key, time)) in keys.iter().zip(batch.times.iter()).enumerate() {
            let (key, time) = (*key, *time);
            self.newest = self.newest.max(time);
            let is_matched = is_matched.get(row) == Some(&true);
            let next = if key == NONE { NONE } else { self.first(key) };
            let stored = Stored { time, key, next, previous: NONE, batch: at, row: number(row), is_matched };
            let place = match self.free.pop() {
                Some(place) => {
                    self.rows[place as usize] = stored;
                    place
                }
                None => {
                    self.rows.push(stored);
                    number(self.rows.len() - 1)
                }
            };
            if next != NONE {
                self.rows[next as usize].previous = place;
            }
            if key != NONE {
                if self.first.len() <= key as usize {
                    self.first.resize(key as usize + 1, NONE);
                }
                self.first[key as usize] = place;
            }
            places.push(place);
        }
        let kept = Kept::new(batch, state, places);
        self.bytes += kept.bytes;
        if let Some(row) = kept.next_over() {
            self.due.push(Reverse((kept.batch.times[row].saturating_add(self.remembered), at)));
        }
        self.batches[at as usize] = Some(kept);
    }

    /// Whether there is a row that nobody can find any more.
    pub(super) fn has_over(&self, watermark: i64) -> bool {
        self.due.peek().is_some_and(|Reverse((due, _))| *due < watermark)
    }

    /// The next row that nobody can find any more, because all rows to come are at `watermark` or later.
    pub(super) fn next_over(&mut self, watermark: i64) -> Option<u32> {
        let mut top = self.due.peek_mut()?;
        let Reverse((due, batch)) = *top;
        if due >= watermark {
            return None;
        }
        // A batch is there until its last row is forgotten.
        let kept = self.batches[batch as usize].as_mut()?;
        let place = kept.next_over().map(|row| kept.places[row]);
        kept.n_over += 1;
        match kept.next_over() {
            Some(row) => *top = Reverse((kept.batch.times[row].saturating_add(self.remembered), batch)),
            None => {
                PeekMut::pop(top);
            }
        }
        place
    }

    /// Forgets a row that is over.
    pub(super) fn forget(&mut self, place: u32) {
        let Stored { key, next, previous, batch, row, .. } = *self.row(place);
        if next != NONE {
            self.rows[next as usize].previous = previous;
        }
        if previous != NONE {
            self.rows[previous as usize].next = next;
        } else if key != NONE {
            self.first[key as usize] = next;
        }
        self.free.push(place);
        if let Some(kept) = &mut self.batches[batch as usize] {
            kept.places[row as usize] = NONE;
            kept.n_left -= 1;
            if kept.n_left == 0 {
                self.bytes -= kept.bytes;
                self.batches[batch as usize] = None;
                self.free_batches.push(batch);
            }
        }
        if self.free.len() == self.rows.len() {
            // Whoever had many rows once does not keep the room for them.
            let (schema, remembered) = (Arc::clone(&self.schema), self.remembered);
            *self = Self::new(schema, remembered);
        }
    }

    /// The columns of rows, in this order.
    pub(super) fn columns(&self, places: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        // Only batches that are asked for take part.
        let mut local = vec![NONE; self.batches.len()];
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut indices = Vec::with_capacity(places.len());
        for place in places {
            let Stored { batch, row, .. } = self.row(*place);
            let at = &mut local[*batch as usize];
            if *at == NONE
                && let Some(kept) = &self.batches[*batch as usize]
            {
                *at = number(batches.len());
                batches.push(&kept.batch.rows);
            }
            indices.push((*at as usize, *row as usize));
        }
        let column = |column: usize| {
            let columns: Vec<&dyn arrow::array::Array> =
                batches.iter().map(|batch| batch.column(column).as_ref()).collect();
            interleave(&columns, &indices).map_err(OperatorError::internal)
        };
        (0..self.schema.fields().len()).map(column).collect()
    }

    /// The batches with rows that are remembered, each with the times and whether rows have been found. Rows that
    /// are forgotten are there, too, and known by their time.
    pub(super) fn snapshot(&self) -> Result<Vec<RecordBatch>, OperatorError> {
        let with_times = |kept: &Kept| {
            if let Some(state) = &kept.state {
                return Ok(state.clone());
            }
            let is_matched = |place: &u32| Some(*place == NONE || self.row(*place).is_matched);
            self.in_state(&kept.batch, kept.places.iter().map(is_matched).collect())
        };
        self.batches.iter().flatten().map(with_times).collect()
    }

    /// Rows as they are in a state.
    pub(super) fn in_state(&self, batch: &Batch, matched: BooleanArray) -> Result<RecordBatch, OperatorError> {
        let mut columns = batch.rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::new(batch.times.clone(), None)));
        columns.push(Arc::new(matched));
        RecordBatch::try_new(Arc::clone(&self.state_schema), columns).map_err(OperatorError::internal)
    }

    /// The rows of a batch of a state that are remembered still, and whether others were found for them.
    pub(super) fn of_state(&self, batch: &RecordBatch, watermark: i64) -> Result<(Batch, BooleanArray), OperatorError> {
        let n_columns = self.schema.fields().len();
        let times = batch.columns().get(n_columns).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let matched = batch.columns().get(n_columns + 1).and_then(|column| column.as_boolean_opt());
        let (Some(times), Some(matched)) = (times, matched) else {
            return Err(OperatorError::state("the rows of a join have other columns than it gets"));
        };
        if batch.schema().fields() != self.state_schema.fields() {
            return Err(OperatorError::state("the rows of a join have other columns than it gets"));
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns()[..n_columns].to_vec());
        let rows = Batch::new(rows.map_err(OperatorError::internal)?, times.values().clone());
        let is_kept = |time: &i64| Some(time.saturating_add(self.remembered) >= watermark);
        let kept: BooleanArray = times.values().iter().map(is_kept).collect();
        let matched = arrow::compute::filter(matched, &kept).map_err(OperatorError::internal)?;
        Ok((rows.filter(&kept).map_err(OperatorError::internal)?, matched.as_boolean().clone()))
    }
}

fn state_schema(schema: &SchemaRef) -> SchemaRef {
    let more: [FieldRef; 2] =
        [Arc::new(Field::new(TIME, DataType::Int64, false)), Arc::new(Field::new(MATCHED, DataType::Boolean, true))];
    Arc::new(Schema::new(schema.fields().iter().map(Arc::clone).chain(more).collect::<Vec<_>>()))
}

fn number(at: usize) -> u32 {
    // The state of a step is bounded in bytes long before.
    u32::try_from(at).unwrap_or(NONE)
}
