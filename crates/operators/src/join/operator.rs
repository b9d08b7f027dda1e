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

use super::pile::{Pile, Piled, Reach};
use super::side::{NONE, Side, Stored};
use super::{Half, Time};
use crate::keys::KeyTable;
use crate::{clock, failing, late};

/// Results are put out in batches of so many rows.
const BATCH_ROWS: usize = 8192;
/// Of each side so many rows are forgotten, and put out if there was none for them, before there is room for more.
const DUE_ROWS_MAX: usize = 8 * BATCH_ROWS;
/// The tables of a state.
const TABLES: [&str; 2] = ["left", "right"];

/// How rows are joined, beside what is equal and near.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) lateness: i64,
    /// Of each side: whether its rows come also where none was found for them.
    pub(super) keeps: [bool; 2],
    /// Which time results have.
    pub(super) time: Time,
}

pub(super) struct Join {
    halves: [Half; 2],
    settings: Settings,
    output: SchemaRef,
    /// Rows that are in an index.
    sides: [Side; 2],
    keys: KeyTable,
    /// Rows that are in none yet.
    piles: [Pile; 2],
    /// The latest watermark, less the lateness.
    watermark: i64,
    /// What was told of it behind this step.
    told: i64,
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
    pub(super) fn new(halves: [Half; 2], settings: Settings, output: SchemaRef) -> Result<Self, OperatorError> {
        let sides = [0, 1].map(|side: usize| Side::new(Arc::clone(&halves[side].schema), halves[side].remembered));
        let keys = KeyTable::new(Arc::clone(&halves[0].by.schema))?;
        let (piles, numbers) = (Default::default(), Vec::new());
        let (watermark, told) = (i64::MIN, i64::MIN);
        Ok(Self { halves, settings, output, sides, keys, piles, watermark, told, numbers })
    }

    /// Whether it is put out when a row of this side is forgotten for which none was found. Such rows are looked at one
    /// by one then, so they are always in the index.
    fn is_counted(&self, side: usize) -> bool {
        self.settings.keeps[side]
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
        keys: Vec<ArrayRef>,
        output: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        let [left, right] = &self.halves;
        let reach = match side {
            0 => Reach { before: right.remembered, after: left.remembered },
            _ => Reach { before: left.remembered, after: right.remembered },
        };
        let mut asking = self.piled(side, batch, keys)?;
        let (first, last) = asking.reach(reach);
        let other = 1 - side;
        for piled in self.piles[other].ask(asking.batch.len(), first, last) {
            self.index(other, piled, &[])?;
        }
        let mut is_matched = vec![false; if self.is_counted(side) { asking.batch.len() } else { 0 }];
        self.look_through(side, &mut asking, reach, &mut is_matched, output)?;
        if self.sides[other].may_have(first, last) {
            self.look_up(side, &asking, reach, &mut is_matched, output)?;
        }
        match self.is_counted(side) {
            true => self.index(side, asking, &is_matched)?,
            false => self.piles[side].push(asking),
        }
        Ok(())
    }

    /// Rows of a side, before it is known whether somebody asks for them.
    fn piled(&self, side: usize, batch: Batch, keys: Vec<ArrayRef>) -> Result<Piled, OperatorError> {
        let state = match self.is_counted(side) {
            true => None,
            false => Some(self.sides[side].in_state(&batch, vec![false; batch.len()].into())?),
        };
        Ok(Piled::new(batch, keys, state))
    }

    /// Puts rows into the index of a side.
    fn index(&mut self, side: usize, piled: Piled, is_matched: &[bool]) -> Result<(), OperatorError> {
        let Piled { batch, keys, state, .. } = piled;
        let numbers = self.numbers(&keys, batch.len())?;
        self.sides[side].store(batch, state, &numbers, is_matched);
        self.numbers = numbers;
        Ok(())
    }

    /// Puts out the pairs of these rows with those of the other side that are in no index.
    fn look_through(
        &mut self,
        side: usize,
        asking: &mut Piled,
        reach: Reach,
        is_matched: &mut [bool],
        output: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        let (first, last) = asking.reach(reach);
        let (key_schema, time) = (&self.halves[0].by.schema, self.settings.time);
        for piled in self.piles[1 - side].near(first, last) {
            let found = piled.find(asking, reach, key_schema)?;
            for found in found.chunks(BATCH_ROWS) {
                let mut pairs = Pairs::default();
                for (row, place) in found.iter().copied() {
                    if let Some(is_matched) = is_matched.get_mut(row as usize) {
                        *is_matched = true;
                    }
                    pairs.rows.push(row);
                    pairs.places.push(place);
                    pairs.times.push(time.of(
                        side,
                        asking.batch.times[row as usize],
                        piled.batch.times[place as usize],
                    ));
                }
                let others = columns(&piled.batch, std::mem::take(&mut pairs.places))?;
                put_out(&self.output, (side, &asking.batch), pairs, others, output)?;
            }
        }
        Ok(())
    }

    /// Puts out the pairs of these rows with those of the other side that are in the index.
    fn look_up(
        &mut self,
        side: usize,
        asking: &Piled,
        reach: Reach,
        is_matched: &mut [bool],
        output: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        let batch = &asking.batch;
        let mut numbers = std::mem::take(&mut self.numbers);
        // Null is in no index.
        self.keys.lookup(&asking.keys, batch.len(), &mut numbers)?;
        let (is_counted, of_pair) = (self.is_counted(1 - side), self.settings.time);
        let other = &mut self.sides[1 - side];
        let mut pairs = Pairs::default();
        let mut rest = |pairs: Pairs, other: &Side| {
            if pairs.rows.is_empty() {
                return Ok(());
            }
            let others = other.columns(&pairs.places)?;
            put_out(&self.output, (side, batch), pairs, others, output)
        };
        for (row, (key, time)) in numbers.iter().zip(batch.times.iter()).enumerate() {
            let (first, last) = reach.of(*time, *time);
            let mut place = other.first(*key);
            while place != NONE {
                let Stored { time: known, next, .. } = *other.row(place);
                if known >= first && known <= last {
                    if let Some(is_matched) = is_matched.get_mut(row) {
                        *is_matched = true;
                    }
                    if is_counted {
                        other.mark(place);
                    }
                    pairs.rows.push(u32::try_from(row).unwrap_or(NONE));
                    pairs.places.push(place);
                    pairs.times.push(of_pair.of(side, *time, known));
                    if pairs.rows.len() == BATCH_ROWS {
                        rest(std::mem::take(&mut pairs), other)?;
                    }
                }
                place = next;
            }
        }
        rest(pairs, other)?;
        self.numbers = numbers;
        Ok(())
    }

    /// Rows of a side for which none came.
    fn put_out_alone(&self, side: usize, places: &[u32], output: &mut dyn Output) -> Result<(), OperatorError> {
        let (left, right) = self.output.fields().split_at(self.halves[0].schema.fields().len());
        let others = if side == 0 { right } else { left };
        // The later time is that at which one could have come last.
        let more = if self.settings.time == Time::Later { self.halves[side].remembered } else { 0 };
        for places in places.chunks(BATCH_ROWS) {
            let own = self.sides[side].columns(places)?;
            let others = others.iter().map(|field| new_null_array(field.data_type(), places.len())).collect();
            let columns = if side == 0 { [own, others] } else { [others, own] };
            let rows = RecordBatch::try_new(Arc::clone(&self.output), columns.concat());
            let time = |place: &u32| self.sides[side].row(*place).time.saturating_add(more);
            let times = places.iter().map(time).collect::<Vec<_>>().into();
            output.batch(0, Batch::new(rows.map_err(OperatorError::internal)?, times));
        }
        Ok(())
    }

    /// No result is before that time any more.
    fn promise(&self) -> i64 {
        clock::less(Timestamp(self.watermark), self.held_back())
    }

    /// How far behind the watermark a result may be: one of a pair is not, and the other may be as far from it as a row
    /// is remembered.
    fn held_back(&self) -> i64 {
        let [left, right] = [0, 1].map(|side: usize| self.halves[side].remembered);
        let keeps = self.settings.keeps;
        match self.settings.time {
            Time::Later => 0,
            Time::Left => {
                if keeps[1] {
                    left.max(right)
                } else {
                    left
                }
            }
            Time::Right => {
                if keeps[0] {
                    left.max(right)
                } else {
                    right
                }
            }
        }
    }
}

/// The columns of rows of a batch.
fn columns(batch: &Batch, rows: Vec<u32>) -> Result<Vec<ArrayRef>, OperatorError> {
    let rows = UInt32Array::from(rows);
    let columns = batch.rows.columns().iter().map(|column| take(column, &rows, None));
    columns.collect::<Result<_, _>>().map_err(OperatorError::internal)
}

/// Puts out pairs of rows of a batch and others.
fn put_out(
    schema: &SchemaRef,
    (side, batch): (usize, &Batch),
    pairs: Pairs,
    others: Vec<ArrayRef>,
    output: &mut dyn Output,
) -> Result<(), OperatorError> {
    let Pairs { rows, times, .. } = pairs;
    let own = columns(batch, rows)?;
    let columns = if side == 0 { [own, others] } else { [others, own] };
    let rows = RecordBatch::try_new(Arc::clone(schema), columns.concat()).map_err(OperatorError::internal)?;
    output.batch(0, Batch::new(rows, times.into()));
    Ok(())
}

impl Operator for Join {
    fn on_batch(&mut self, input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let margin = self.halves.iter().map(|half| half.remembered).max().unwrap_or(0);
        let batch = late::on_time(batch, self.settings.lateness, self.watermark, margin, output)?;
        if batch.is_empty() {
            return Ok(());
        }
        let by = Arc::clone(&self.halves[input].by);
        for (batch, keys) in failing::apply(batch, output, &mut |batch| by.columns(&batch.rows))? {
            self.take_in(input, batch, keys, output)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.watermark = self.watermark.max(clock::less(watermark, self.settings.lateness));
        for side in 0..self.sides.len() {
            let mut over = Vec::new();
            while over.len() < DUE_ROWS_MAX
                && let Some(place) = self.sides[side].next_over(self.watermark)
            {
                over.push(place);
            }
            if self.is_counted(side) {
                let is_alone = |place: &u32| !self.sides[side].row(*place).is_matched;
                let alone: Vec<u32> = over.iter().copied().filter(is_alone).collect();
                self.put_out_alone(side, &alone, output)?;
            }
            for place in over {
                let key = self.sides[side].row(place).key;
                self.sides[side].forget(place);
                self.forget_key(key);
            }
            self.piles[side].forget(self.halves[side].remembered, self.watermark);
        }
        if !self.has_more() {
            self.told = self.promise();
        }
        Ok(Timestamp(self.told))
    }

    fn has_more(&self) -> bool {
        self.sides.iter().any(|side| side.has_over(self.watermark))
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        for (name, (side, pile)) in TABLES.into_iter().zip(self.sides.iter().zip(&self.piles)) {
            let mut batches = side.snapshot()?;
            batches.extend(pile.states());
            state.tables.insert(name.to_owned(), batches);
        }
        clock::put(&mut state, &[("watermark", self.watermark)])?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
        }
        self.told = self.promise();
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
                    let piled = self.piled(side, batch, keys)?;
                    match self.is_counted(side) {
                        true => {
                            let matched: Vec<bool> = matched.iter().map(|matched| matched == Some(true)).collect();
                            self.index(side, piled, &matched)?;
                        }
                        false => self.piles[side].push(piled),
                    }
                }
            }
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        let sides: usize = self.sides.iter().map(Side::bytes).sum();
        self.keys.bytes() + sides + self.piles.iter().map(Pile::bytes).sum::<usize>()
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let rows = |side: usize| (self.sides[side].len() + self.piles[side].len()) as u64;
        vec![("left_rows", rows(0)), ("right_rows", rows(1)), ("keys", self.keys.len() as u64)]
    }
}
