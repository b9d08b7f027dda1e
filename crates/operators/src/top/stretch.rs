//! The first rows of each group of one stretch of time.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, UInt32Array};
use weir_component::Batch;
use weir_component::operator::{OperatorError, Output};

use super::Ties;
use super::first::{Coming, Entry};
use super::held::{Held, Spot};
use super::ranking::{BATCH_ROWS, Encoder, Evaluated};
use crate::keys::KeyTable;

pub(super) struct Stretch {
    keys: KeyTable,
    /// By the number of the keys: the first rows, in order.
    groups: Vec<Vec<Entry>>,
    /// By the number of the keys, where that is what counts: how many places there are.
    places: Vec<u32>,
    held: Held,
    n_rows: usize,
    /// Bytes of what rows are ordered by.
    order_bytes: usize,
    numbers: Vec<u32>,
}

impl Stretch {
    pub(super) fn new(encoder: &Encoder) -> Result<Self, OperatorError> {
        Ok(Self {
            keys: KeyTable::new(Arc::clone(encoder.key_schema()))?,
            groups: Vec::new(),
            places: Vec::new(),
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
        let entries = self.groups.len() * size_of::<Vec<Entry>>()
            + self.places.len() * size_of::<u32>()
            + self.n_rows * size_of::<Entry>();
        self.keys.bytes() + self.held.bytes() + entries + self.order_bytes
    }

    /// Takes rows, all of which belong here.
    pub(super) fn take_in(&mut self, encoder: &Encoder, rows: &Evaluated) -> Result<(), OperatorError> {
        let Evaluated { batch, keys, order } = rows;
        let order = encoder.order_as_bytes(order)?;
        let mut numbers = std::mem::take(&mut self.numbers);
        self.keys.numbers(keys, batch.len(), &mut numbers)?;
        self.groups.resize_with(self.keys.bound(), Vec::new);
        if encoder.ties() == Ties::Dense {
            self.places.resize(self.keys.bound(), 0);
        }
        let mut coming = Coming::new(self.held.reserve());
        let mut is_held = vec![false; batch.len()];
        for (row, number) in numbers.iter().enumerate() {
            let group = *number as usize;
            if !self.insert(encoder, &mut coming, group, (batch, row, order.row(row).data()))? {
                continue;
            }
            is_held[row] = true;
            let left = self.first_displaced(encoder, group);
            for displaced in self.groups[group].drain(left..) {
                self.n_rows -= 1;
                self.order_bytes -= displaced.order.len();
                match displaced.spot.batch == coming.number {
                    true => is_held[displaced.spot.row as usize] = false,
                    false => self.held.forget(displaced.spot),
                }
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

    /// Whether a row behind all others of a group has no place in it.
    fn is_full(&self, encoder: &Encoder, group: usize) -> bool {
        match encoder.ties() {
            Ties::Dense => self.places[group] as usize >= encoder.rows_max(),
            Ties::Broken | Ties::Shared => self.groups[group].len() >= encoder.rows_max(),
        }
    }

    /// Puts a row into its place; says whether it has one.
    fn insert(
        &mut self,
        encoder: &Encoder,
        coming: &mut Coming,
        number: usize,
        (batch, row, order): (&Batch, usize, &[u8]),
    ) -> Result<bool, OperatorError> {
        let is_full = self.is_full(encoder, number);
        let group = &mut self.groups[number];
        let is_behind = |last: &Entry| match encoder.ties() {
            Ties::Broken => *last.order < *order,
            Ties::Shared | Ties::Dense => encoder.without_time(&last.order) < encoder.without_time(order),
        };
        if is_full && group.last().is_some_and(is_behind) {
            return Ok(false);
        }
        let place = coming.place(encoder, &self.held, group, (batch, row, order))?;
        match encoder.ties() {
            Ties::Broken if place >= encoder.rows_max() => return Ok(false),
            Ties::Broken | Ties::Shared => {}
            Ties::Dense => {
                let is_equal = |other: &Entry| encoder.without_time(&other.order) == encoder.without_time(order);
                let mut neighbours = place.checked_sub(1).into_iter().chain([place]);
                if !neighbours.any(|at| group.get(at).is_some_and(is_equal)) {
                    self.places[number] += 1;
                }
            }
        }
        if group.capacity() == 0 {
            // Most groups of many have one row.
            group.reserve_exact(1);
        }
        let spot = Spot { batch: coming.number, row: u32::try_from(row).unwrap_or(u32::MAX) };
        self.n_rows += 1;
        self.order_bytes += order.len();
        group.insert(place, Entry::new(order, spot, batch.times[row]));
        Ok(true)
    }

    /// Where the rows of a group begin that have no place any more, now that one has come. They are in one place: there
    /// was room for all others before.
    fn first_displaced(&mut self, encoder: &Encoder, number: usize) -> usize {
        let (group, rows_max) = (&self.groups[number], encoder.rows_max());
        let last_place = || {
            let last = group.last().map_or(&[][..], |last| encoder.without_time(&last.order));
            group.partition_point(|known| encoder.without_time(&known.order) < last)
        };
        match encoder.ties() {
            Ties::Broken => group.len().min(rows_max),
            Ties::Shared if group.len() > rows_max => match last_place() {
                place if place >= rows_max => place,
                _ => group.len(),
            },
            Ties::Dense if self.places[number] as usize > rows_max => {
                self.places[number] -= 1;
                last_place()
            }
            Ties::Shared | Ties::Dense => group.len(),
        }
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
        let all = self.groups.iter().flat_map(|group| placed(encoder, group));
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

/// The rows of a group with their places, from 1.
fn placed<'a>(encoder: &'a Encoder, group: &'a [Entry]) -> impl Iterator<Item = (&'a Entry, i64)> {
    let (ties, mut place) = (encoder.ties(), 0);
    group.iter().zip(1_i64..).zip(0_usize..).map(move |((entry, number), at)| {
        let without_time = |entry: &'a Entry| encoder.without_time(&entry.order);
        let is_shared = ties != Ties::Broken && at > 0 && without_time(&group[at - 1]) == without_time(entry);
        place = match ties {
            _ if is_shared => place,
            Ties::Dense => place + 1,
            Ties::Broken | Ties::Shared => number,
        };
        (entry, place)
    })
}
