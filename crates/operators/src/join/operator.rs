//! Both sides of a join, and how a row finds those of the other.
//!
//! Invariant: a pair is put out once, when the later one of its rows comes, whichever that is. Whether it is put
//! out depends on the two rows alone: both were on time by their own partitions, and near enough.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{KeyHash, Operator, OperatorError, OperatorState, Output, Share};

use super::Half;
use super::side::{NONE, Side, Stored};
use crate::keys::KeyTable;
use crate::{clock, failing, late};

/// Results are put out in batches of so many rows.
const BATCH_ROWS: usize = 8192;
/// The tables of a state.
const TABLES: [&str; 2] = ["left", "right"];

pub(super) struct Join {
    halves: [Half; 2],
    lateness: i64,
    is_outer: bool,
    output: SchemaRef,
    sides: [Side; 2],
    keys: KeyTable,
    /// The latest watermark, less the lateness.
    watermark: i64,
    numbers: Vec<u32>,
}

/// Pairs that were found: rows of the batch at hand, and places of the other side.
#[derive(Default)]
struct Pairs {
    rows: Vec<u32>,
    places: Vec<u32>,
    times: Vec<i64>,
}

impl Join {
    pub(super) fn new(
        halves: [Half; 2],
        lateness: i64,
        is_outer: bool,
        output: SchemaRef,
    ) -> Result<Self, OperatorError> {
        let sides = [0, 1].map(|side: usize| Side::new(Arc::clone(&halves[side].schema), halves[side].remembered));
        let keys = KeyTable::new(Arc::clone(&halves[0].by.schema))?;
        Ok(Self { halves, lateness, is_outer, output, sides, keys, watermark: i64::MIN, numbers: Vec::new() })
    }

    /// The number of each row's key; [`NONE`] where a part of it is null.
    fn numbers(&mut self, keys: &[ArrayRef], n_rows: usize) -> Result<Vec<u32>, OperatorError> {
        let mut numbers = std::mem::take(&mut self.numbers);
        self.keys.numbers(keys, n_rows, &mut numbers)?;
        if keys.iter().all(|key| key.null_count() == 0) {
            return Ok(numbers);
        }
        let mut nobodys = Vec::new();
        for (row, number) in numbers.iter_mut().enumerate() {
            if keys.iter().any(|key| key.is_null(row)) {
                nobodys.push(std::mem::replace(number, NONE));
            }
        }
        nobodys.sort_unstable();
        nobodys.dedup();
        for key in nobodys {
            self.forget_key(key);
        }
        Ok(numbers)
    }

    /// Forgets a key of which neither side has a row.
    fn forget_key(&mut self, key: u32) {
        if key != NONE && self.sides.iter().all(|side| side.first(key) == NONE) {
            self.keys.remove(key);
        }
    }

    fn take_in(
        &mut self,
        side: usize,
        batch: Batch,
        keys: &[ArrayRef],
        output: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        let numbers = self.numbers(keys, batch.len())?;
        let [left, right] = &self.halves;
        // How far before and after a row of this side one of the other may be.
        let (before, after) =
            if side == 0 { (right.remembered, left.remembered) } else { (left.remembered, right.remembered) };
        let mut is_matched = vec![false; batch.len()];
        let mut pairs = Pairs::default();
        for (row, key) in numbers.iter().enumerate() {
            if *key == NONE {
                continue;
            }
            let time = batch.times[row];
            let (first, last) = (time.saturating_sub(before), time.saturating_add(after));
            let mut place = self.sides[1 - side].first(*key);
            while place != NONE {
                let Stored { time: other, next, .. } = *self.sides[1 - side].row(place);
                if other >= first && other <= last {
                    is_matched[row] = true;
                    self.sides[1 - side].mark(place);
                    pairs.rows.push(u32::try_from(row).unwrap_or(NONE));
                    pairs.places.push(place);
                    pairs.times.push(time.max(other));
                    if pairs.rows.len() == BATCH_ROWS {
                        self.put_out(side, &batch, std::mem::take(&mut pairs), output)?;
                    }
                }
                place = next;
            }
        }
        self.put_out(side, &batch, pairs, output)?;
        self.sides[side].store(batch, &numbers, &is_matched);
        self.numbers = numbers;
        Ok(())
    }

    fn put_out(&self, side: usize, batch: &Batch, pairs: Pairs, output: &mut dyn Output) -> Result<(), OperatorError> {
        let Pairs { rows, places, times } = pairs;
        if rows.is_empty() {
            return Ok(());
        }
        let rows = UInt32Array::from(rows);
        let own = batch.rows.columns().iter().map(|column| take(column, &rows, None));
        let own: Vec<ArrayRef> = own.collect::<Result<_, _>>().map_err(OperatorError::internal)?;
        let other = self.sides[1 - side].columns(&places)?;
        let columns = if side == 0 { [own, other] } else { [other, own] };
        let rows = RecordBatch::try_new(Arc::clone(&self.output), columns.concat());
        output.batch(0, Batch::new(rows.map_err(OperatorError::internal)?, times.into()));
        Ok(())
    }

    /// Left rows for which none came, with the time at which that is known.
    fn put_out_alone(&self, places: &[u32], output: &mut dyn Output) -> Result<(), OperatorError> {
        for places in places.chunks(BATCH_ROWS) {
            let mut columns = self.sides[0].columns(places)?;
            let right = &self.output.fields()[columns.len()..];
            columns.extend(right.iter().map(|field| new_null_array(field.data_type(), places.len())));
            let rows = RecordBatch::try_new(Arc::clone(&self.output), columns).map_err(OperatorError::internal)?;
            let known = |place: &u32| self.sides[0].row(*place).time.saturating_add(self.halves[0].remembered);
            output.batch(0, Batch::new(rows, places.iter().map(known).collect::<Vec<_>>().into()));
        }
        Ok(())
    }
}

impl Operator for Join {
    fn on_batch(&mut self, input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let margin = self.halves.iter().map(|half| half.remembered).max().unwrap_or(0);
        let batch = late::on_time(batch, self.lateness, self.watermark, margin, output)?;
        if batch.is_empty() {
            return Ok(());
        }
        let by = Arc::clone(&self.halves[input].by);
        for (batch, keys) in failing::apply(batch, output, &mut |batch| by.columns(&batch.rows))? {
            self.take_in(input, batch, &keys, output)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.watermark = self.watermark.max(clock::less(watermark, self.lateness));
        for side in 0..self.sides.len() {
            let mut over = Vec::new();
            while let Some(place) = self.sides[side].next_over(self.watermark) {
                over.push(place);
            }
            if side == 0 && self.is_outer {
                let is_alone = |place: &u32| !self.sides[0].row(*place).is_matched;
                let alone: Vec<u32> = over.iter().copied().filter(is_alone).collect();
                self.put_out_alone(&alone, output)?;
            }
            for place in over {
                let key = self.sides[side].row(place).key;
                self.sides[side].forget(place);
                self.forget_key(key);
            }
        }
        Ok(Timestamp(self.watermark))
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        for (name, side) in TABLES.into_iter().zip(&self.sides) {
            state.tables.insert(name.to_owned(), side.snapshot()?);
        }
        clock::put(&mut state, &[("watermark", self.watermark)])?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
        }
        for state in states {
            for (side, name) in TABLES.into_iter().enumerate() {
                let by = Arc::clone(&self.halves[side].by);
                for table in state.table(name) {
                    let (mut batch, mut matched) = self.sides[side].of_state(table, self.watermark)?;
                    if share.count > 1 {
                        let owned = |hash: u64| Some(share.owns(hash));
                        let own: BooleanArray = by.hashes(&batch)?.into_iter().map(owned).collect();
                        batch = batch.filter(&own).map_err(OperatorError::internal)?;
                        let kept = arrow::compute::filter(&matched, &own).map_err(OperatorError::internal)?;
                        matched = BooleanArray::from(kept.to_data());
                    }
                    if batch.is_empty() {
                        continue;
                    }
                    let keys = by.columns(&batch.rows).map_err(|error| failing::fatal(&error))?;
                    let numbers = self.numbers(&keys, batch.len())?;
                    let matched: Vec<bool> = matched.iter().map(|matched| matched == Some(true)).collect();
                    self.sides[side].store(batch, &numbers, &matched);
                    self.numbers = numbers;
                }
            }
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.keys.bytes() + self.sides.iter().map(Side::bytes).sum::<usize>()
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let [left, right] = &self.sides;
        vec![("left_rows", left.len() as u64), ("right_rows", right.len() as u64), ("keys", self.keys.len() as u64)]
    }
}
