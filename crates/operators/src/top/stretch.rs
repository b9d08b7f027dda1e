//! The first rows of each group of one stretch of time.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, UInt32Array};
use arrow::row::Rows;
use weir_component::Batch;
use weir_component::operator::{OperatorError, Output};

use super::held::{Held, Spot};
use super::ranking::{BATCH_ROWS, Encoder, Evaluated};
use crate::keys::KeyTable;

/// A row among the first of its group.
struct Entry {
    /// What it is ordered by, as bytes.
    order: Box<[u8]>,
    /// Its columns as bytes, once they had to be compared.
    columns: Option<Box<[u8]>>,
    spot: Spot,
    time: i64,
}

pub(super) struct Stretch {
    keys: KeyTable,
    /// By the number of the keys: the first rows, in order.
    groups: Vec<Vec<Entry>>,
    held: Held,
    n_rows: usize,
    /// Bytes of what rows are ordered by.
    order_bytes: usize,
    numbers: Vec<u32>,
}

/// Rows that come, whose columns become bytes when somebody asks.
struct Coming<'a> {
    encoder: &'a Encoder,
    batch: &'a Batch,
    number: u32,
    columns: Option<Rows>,
}

impl Coming<'_> {
    fn columns(&mut self, row: usize) -> Result<&[u8], OperatorError> {
        let columns = match self.columns.take() {
            Some(columns) => columns,
            None => self.encoder.columns_as_bytes(&self.batch.rows)?,
        };
        Ok(self.columns.insert(columns).row(row).data())
    }
}

impl Stretch {
    pub(super) fn new(encoder: &Encoder) -> Result<Self, OperatorError> {
        Ok(Self {
            keys: KeyTable::new(Arc::clone(encoder.key_schema()))?,
            groups: Vec::new(),
            held: Held::default(),
            n_rows: 0,
            order_bytes: 0,
            numbers: Vec::new(),
        })
    }

    /// How many groups there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many rows are among the first.
    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(super) fn bytes(&self) -> usize {
        let entries = self.groups.len() * size_of::<Vec<Entry>>() + self.n_rows * size_of::<Entry>();
        self.keys.bytes() + self.held.bytes() + entries + self.order_bytes
    }

    /// Takes rows, all of which belong here.
    pub(super) fn take_in(&mut self, encoder: &Encoder, rows: &Evaluated) -> Result<(), OperatorError> {
        let Evaluated { batch, keys, order } = rows;
        let order = encoder.order_as_bytes(order)?;
        let mut numbers = std::mem::take(&mut self.numbers);
        self.keys.numbers(keys, batch.len(), &mut numbers)?;
        self.groups.resize_with(self.keys.bound(), Vec::new);
        let mut coming = Coming { encoder, batch, number: self.held.reserve(), columns: None };
        let mut is_held = vec![false; batch.len()];
        for (row, number) in numbers.iter().enumerate() {
            let displaced = self.insert(&mut coming, *number as usize, row, order.row(row).data())?;
            let Some(displaced) = displaced else { continue };
            is_held[row] = true;
            match displaced {
                Some(spot) if spot.batch == coming.number => is_held[spot.row as usize] = false,
                Some(spot) => self.held.forget(spot),
                None => {}
            }
        }
        let number = coming.number;
        self.hold(encoder, batch, number, &numbers, &is_held)?;
        self.numbers = numbers;
        while let Some(moved) = self.held.gather()? {
            for owner in &moved.owners {
                for entry in &mut self.groups[*owner as usize] {
                    entry.spot = moved.spot(entry.spot);
                }
            }
        }
        Ok(())
    }

    /// Puts a row into its place, if it has one; gives where the row is that has none any more.
    fn insert(
        &mut self,
        coming: &mut Coming<'_>,
        group: usize,
        row: usize,
        order: &[u8],
    ) -> Result<Option<Option<Spot>>, OperatorError> {
        let rows_max = coming.encoder.rows_max();
        let group = &mut self.groups[group];
        let is_full = group.len() >= rows_max;
        if is_full && group.last().is_some_and(|last| *last.order < *order) {
            return Ok(None);
        }
        let mut place = group.partition_point(|known| *known.order < *order);
        let tied = group[place..].partition_point(|known| *known.order == *order);
        // Rows that are equal in the order stand in the order of their columns.
        let (mut from, mut to) = (place, place + tied);
        while from < to {
            let middle = usize::midpoint(from, to);
            let known = &mut group[middle];
            if known.columns.is_none() {
                known.columns = Some(match known.spot.batch == coming.number {
                    true => coming.columns(known.spot.row as usize)?.into(),
                    false => coming.encoder.row_as_bytes(self.held.row(known.spot))?,
                });
            }
            let own = coming.columns(row)?;
            match known.columns.as_deref().is_some_and(|known| known <= own) {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        place = from;
        if place >= rows_max {
            return Ok(None);
        }
        if group.capacity() == 0 {
            // Most groups of many have one row.
            group.reserve_exact(1);
        }
        let spot = Spot { batch: coming.number, row: u32::try_from(row).unwrap_or(u32::MAX) };
        self.n_rows += 1;
        self.order_bytes += order.len();
        group.insert(place, Entry { order: order.into(), columns: None, spot, time: coming.batch.times[row] });
        if !is_full {
            return Ok(Some(None));
        }
        let last = group.pop();
        self.n_rows -= 1;
        self.order_bytes -= last.as_ref().map_or(0, |last| last.order.len());
        Ok(Some(last.map(|last| last.spot)))
    }

    /// Holds the rows of a batch that are among the first.
    fn hold(
        &mut self,
        encoder: &Encoder,
        batch: &Batch,
        number: u32,
        numbers: &[u32],
        is_held: &[bool],
    ) -> Result<(), OperatorError> {
        let held: Vec<u32> = (0_u32..).zip(is_held).filter(|(_, is_held)| **is_held).map(|(row, _)| row).collect();
        if held.len() == batch.len() {
            self.held.put(number, encoder.in_state(&batch.rows, batch.times.clone())?, numbers.to_vec());
            return Ok(());
        }
        let owners: Vec<u32> = held.iter().map(|row| numbers[*row as usize]).collect();
        let mut places = vec![0; batch.len()];
        for (place, row) in (0_u32..).zip(&held) {
            places[*row as usize] = place;
        }
        let mut touched = owners.clone();
        touched.sort_unstable();
        touched.dedup();
        for group in touched {
            for entry in self.groups[group as usize].iter_mut().filter(|entry| entry.spot.batch == number) {
                entry.spot.row = places[entry.spot.row as usize];
            }
        }
        let rows = batch.take(&UInt32Array::from(held)).map_err(OperatorError::internal)?;
        self.held.put(number, encoder.in_state(&rows.rows, rows.times)?, owners);
        Ok(())
    }

    /// Puts out all rows.
    pub(super) fn put_out(&self, encoder: &Encoder, output: &mut dyn Output) -> Result<(), OperatorError> {
        let all = self.groups.iter().flat_map(|group| group.iter().zip(1_i64..));
        let (mut spots, mut places, mut times) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = self.n_rows;
        for (entry, place) in all {
            spots.push(entry.spot);
            places.push(place);
            times.push(entry.time);
            rest -= 1;
            if spots.len() < BATCH_ROWS && rest > 0 {
                continue;
            }
            let mut columns = self.held.columns(&spots)?;
            // Their times.
            columns.pop();
            let schema = encoder.output();
            if columns.len() < schema.fields().len() {
                columns.push(Arc::new(Int64Array::from(std::mem::take(&mut places))));
            }
            let rows = RecordBatch::try_new(Arc::clone(schema), columns).map_err(OperatorError::internal)?;
            output.batch(0, Batch::new(rows, std::mem::take(&mut times).into()));
            spots.clear();
            places.clear();
        }
        Ok(())
    }

    /// The rows, as they are in a state.
    pub(super) fn batches(&self) -> impl Iterator<Item = RecordBatch> {
        self.held.batches()
    }
}
