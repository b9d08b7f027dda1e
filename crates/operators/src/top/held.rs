//! Rows that are held in the batches they came in: none is copied to be held, and a checkpoint shares them.
//!
//! A row that is not held any more stays in its batch until few rows of that are left, which then move into a batch
//! with others. In a state such rows stand, too; whoever takes it over finds that others come before them. Small
//! batches become one as well, so that there are never many.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::interleave;
use weir_component::batch::bytes_of;
use weir_component::operator::OperatorError;

/// Nobody holds a row.
const NOBODY: u32 = u32::MAX;
/// A batch with fewer rows that are held is small.
const SMALL: usize = 1024;
/// A batch is sparse if no more than one of so many rows is held.
const SPARSE: usize = 4;
/// Batches that are small or sparse become one when there are so many, or when they have so many rows. Tests have few.
const POOR_MAX: usize = if cfg!(test) { 3 } else { 32 };
const POOR_ROWS_MAX: usize = 32 * 1024;

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) batch: u32,
    pub(super) row: u32,
}

struct HeldBatch {
    rows: RecordBatch,
    /// Who holds each row.
    owners: Vec<u32>,
    n_left: usize,
    bytes: usize,
    is_poor: bool,
}

#[derive(Default)]
pub(super) struct Held {
    batches: Vec<Option<HeldBatch>>,
    free: Vec<u32>,
    /// Batches that are small or sparse.
    poor: Vec<u32>,
    poor_rows: usize,
    bytes: usize,
}

/// Rows that are in another batch now.
pub(super) struct Moved {
    /// Who holds them, each once.
    pub(super) owners: Vec<u32>,
    to: u32,
    /// By batch: where each of its rows is in the new one.
    rows: Vec<Option<Vec<u32>>>,
}

impl Moved {
    /// Where a row is now.
    pub(super) fn spot(&self, spot: Spot) -> Spot {
        match self.rows.get(spot.batch as usize) {
            Some(Some(rows)) => Spot { batch: self.to, row: rows[spot.row as usize] },
            _ => spot,
        }
    }
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of a batch that will be [put](Self::put) here.
    pub(super) fn reserve(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.batches.push(None);
            number(self.batches.len() - 1)
        })
    }

    /// Holds rows, each for one of `owners`, as the batch that was reserved.
    pub(super) fn put(&mut self, batch: u32, rows: RecordBatch, owners: Vec<u32>) {
        if owners.is_empty() {
            self.free.push(batch);
            return;
        }
        let bytes = bytes_of(&rows) + owners.len() * size_of::<u32>();
        self.bytes += bytes;
        let n_left = owners.len();
        self.batches[batch as usize] = Some(HeldBatch { rows, owners, n_left, bytes, is_poor: false });
        self.look_at(batch);
    }

    /// Somebody holds a row that was [put](Self::put) here for another one.
    pub(super) fn give(&mut self, spot: Spot, owner: u32) {
        if let Some(batch) = &mut self.batches[spot.batch as usize] {
            batch.owners[spot.row as usize] = owner;
        }
    }

    /// Nobody holds that row any more.
    pub(super) fn forget(&mut self, spot: Spot) {
        let Some(batch) = &mut self.batches[spot.batch as usize] else { return };
        batch.owners[spot.row as usize] = NOBODY;
        batch.n_left -= 1;
        self.look_at(spot.batch);
    }

    /// Finds out whether a batch is poor, or not needed any more.
    fn look_at(&mut self, at: u32) {
        let Some(batch) = &mut self.batches[at as usize] else { return };
        if batch.n_left == 0 {
            self.bytes -= batch.bytes;
            if batch.is_poor {
                self.poor_rows -= batch.owners.len();
                self.poor.retain(|poor| *poor != at);
            }
            self.batches[at as usize] = None;
            self.free.push(at);
        } else if !batch.is_poor && (batch.n_left < SMALL || batch.n_left * SPARSE <= batch.owners.len()) {
            batch.is_poor = true;
            self.poor_rows += batch.owners.len();
            self.poor.push(at);
        }
    }

    /// Makes one of batches that are poor, if there are many.
    pub(super) fn gather(&mut self) -> Result<Option<Moved>, OperatorError> {
        if self.poor.len() < 2 || (self.poor.len() < POOR_MAX && self.poor_rows < POOR_ROWS_MAX) {
            return Ok(None);
        }
        let mut moved = Moved { owners: Vec::new(), to: 0, rows: vec![None; self.batches.len()] };
        let mut from = Vec::with_capacity(self.poor.len());
        let (mut spots, mut owners) = (Vec::new(), Vec::new());
        for at in std::mem::take(&mut self.poor) {
            let Some(batch) = self.batches[at as usize].take() else { continue };
            self.free.push(at);
            self.bytes -= batch.bytes;
            let mut places = vec![NOBODY; batch.owners.len()];
            for (row, owner) in batch.owners.iter().enumerate().filter(|(_, owner)| **owner != NOBODY) {
                places[row] = number(spots.len());
                spots.push((from.len(), row));
                owners.push(*owner);
            }
            moved.rows[at as usize] = Some(places);
            from.push(batch.rows);
        }
        self.poor_rows = 0;
        let Some(schema) = from.first().map(RecordBatch::schema) else { return Ok(None) };
        let columns = interleaved(&from.iter().collect::<Vec<_>>(), &spots)?;
        let rows = RecordBatch::try_new(schema, columns).map_err(OperatorError::internal)?;
        moved.owners.clone_from(&owners);
        moved.owners.sort_unstable();
        moved.owners.dedup();
        moved.to = self.reserve();
        self.put(moved.to, rows, owners);
        Ok(Some(moved))
    }

    /// The columns of rows, in this order.
    pub(super) fn columns(&self, spots: &[Spot]) -> Result<Vec<ArrayRef>, OperatorError> {
        // Only batches that are asked for take part.
        let mut local = vec![NOBODY; self.batches.len()];
        let mut batches = Vec::new();
        let mut indices = Vec::with_capacity(spots.len());
        for spot in spots {
            let at = &mut local[spot.batch as usize];
            if *at == NOBODY
                && let Some(batch) = &self.batches[spot.batch as usize]
            {
                *at = number(batches.len());
                batches.push(&batch.rows);
            }
            indices.push((*at as usize, spot.row as usize));
        }
        interleaved(&batches, &indices)
    }

    /// One row, as a batch.
    pub(super) fn row(&self, spot: Spot) -> Option<RecordBatch> {
        self.batches[spot.batch as usize].as_ref().map(|batch| batch.rows.slice(spot.row as usize, 1))
    }

    /// The batches, with rows that are not held any more among them.
    pub(super) fn batches(&self) -> impl Iterator<Item = RecordBatch> {
        self.batches.iter().flatten().map(|batch| batch.rows.clone())
    }
}

fn interleaved(batches: &[&RecordBatch], indices: &[(usize, usize)]) -> Result<Vec<ArrayRef>, OperatorError> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let column = |column: usize| {
        if let [one] = batches
            && indices.len() == one.num_rows()
            && indices.iter().enumerate().all(|(at, (_, row))| at == *row)
        {
            return Ok(Arc::clone(one.column(column)));
        }
        let columns: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        interleave(&columns, indices).map_err(OperatorError::internal)
    };
    (0..first.num_columns()).map(column).collect()
}

fn number(at: usize) -> u32 {
    // The state of a step is bounded in bytes long before.
    u32::try_from(at).unwrap_or(NOBODY)
}
