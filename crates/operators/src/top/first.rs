//! Rows among the first of their group, and where one that comes stands among them.
//!
//! A row is compared by what it is ordered by, as bytes; its time is the last of that. Only rows for which all of it is
//! equal are compared by their columns, which become bytes when somebody asks.

use arrow::row::Rows;
use weir_component::Batch;
use weir_component::operator::OperatorError;

use super::held::{Held, Spot};
use super::ranking::Encoder;

/// A row among the first of its group.
#[derive(Debug)]
pub(super) struct Entry {
    /// What it is ordered by, as bytes.
    pub(super) order: Box<[u8]>,
    /// Its columns as bytes, once they had to be compared.
    columns: Option<Box<[u8]>>,
    pub(super) spot: Spot,
    pub(super) time: i64,
}

/// Rows that come, as the batch of that number among those that are held.
pub(super) struct Coming {
    pub(super) number: u32,
    columns: Option<Rows>,
}

impl Entry {
    pub(super) fn new(order: &[u8], spot: Spot, time: i64) -> Self {
        Self { order: order.into(), columns: None, spot, time }
    }
}

impl Coming {
    pub(super) fn new(number: u32) -> Self {
        Self { number, columns: None }
    }

    fn columns(&mut self, encoder: &Encoder, batch: &Batch, row: usize) -> Result<&[u8], OperatorError> {
        let columns = match self.columns.take() {
            Some(columns) => columns,
            None => encoder.columns_as_bytes(&batch.rows)?,
        };
        Ok(self.columns.insert(columns).row(row).data())
    }

    /// Where one of the rows of `batch` stands in a group: behind those that are equal in everything.
    pub(super) fn place(
        &mut self,
        encoder: &Encoder,
        held: &Held,
        group: &mut [Entry],
        (batch, row, order): (&Batch, usize, &[u8]),
    ) -> Result<usize, OperatorError> {
        let from = group.partition_point(|known| *known.order < *order);
        let tied = group[from..].partition_point(|known| *known.order == *order);
        // Rows that are equal in the order stand in the order of their columns.
        let (mut from, mut to) = (from, from + tied);
        while from < to {
            let middle = usize::midpoint(from, to);
            let known = &mut group[middle];
            if known.columns.is_none() {
                known.columns = Some(match known.spot.batch == self.number {
                    true => self.columns(encoder, batch, known.spot.row as usize)?.into(),
                    false => encoder.row_as_bytes(held.row(known.spot))?,
                });
            }
            let own = self.columns(encoder, batch, row)?;
            match known.columns.as_deref().is_some_and(|known| known <= own) {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        Ok(from)
    }
}
