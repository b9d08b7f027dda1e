//! Rows of a table on which an expression fails: set aside once, and not again with each version they are still in.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::row::{RowConverter, SortField};
use weir_component::Batch;
use weir_component::operator::{Aside, AsideNotes, OperatorError, Output};

/// Which rows have failed, by digests of them.
#[derive(Default)]
pub(super) struct Failed {
    /// Those of the version that counts.
    known: HashSet<u64>,
    /// Those of the version that is coming in.
    coming: HashSet<u64>,
}

/// Takes what is set aside, and nothing else: expressions put out nothing.
#[derive(Default)]
pub(super) struct Asides(pub(super) Vec<Aside>);

impl Output for Asides {
    fn batch(&mut self, _branch: usize, _batch: Batch) {}

    fn aside(&mut self, aside: Aside) {
        self.0.push(aside);
    }
}

impl Failed {
    /// Another version begins to come in.
    pub(super) fn begin(&mut self) {
        self.coming.clear();
    }

    /// The version is whole, and counts.
    pub(super) fn whole(&mut self) {
        self.known = std::mem::take(&mut self.coming);
    }

    pub(super) fn bytes(&self) -> usize {
        (self.known.capacity() + self.coming.capacity()) * size_of::<u64>()
    }

    /// Those rows that have not failed in the version before; `None` if all have.
    pub(super) fn new_ones(&mut self, aside: Aside) -> Result<Option<Aside>, OperatorError> {
        let Some(digests) = digests(&aside.rows)? else { return Ok(Some(aside)) };
        let is_new = |row: &usize| !self.known.contains(&digests[*row]);
        let rows: Vec<usize> = (0..digests.len()).filter(is_new).collect();
        self.coming.extend(&digests);
        if rows.is_empty() {
            return Ok(None);
        }
        let indices = rows.iter().map(|row| u32::try_from(*row)).collect::<Result<Vec<u32>, _>>();
        let indices = UInt32Array::from(indices.map_err(OperatorError::internal)?);
        let notes = match aside.notes {
            AsideNotes::Messages(messages) => {
                AsideNotes::Messages(rows.iter().filter_map(|row| messages.get(*row).cloned()).collect())
            }
            notes => notes,
        };
        Ok(Some(Aside {
            rows: take_record_batch(&aside.rows, &indices).map_err(OperatorError::internal)?,
            times: aside.times.map(|times| rows.iter().map(|row| times[*row]).collect()),
            notes,
            reason: aside.reason,
        }))
    }
}

/// A digest of each row; `None` if rows with such columns cannot be told apart.
fn digests(rows: &RecordBatch) -> Result<Option<Vec<u64>>, OperatorError> {
    let fields = rows.schema_ref().fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let fields: Vec<SortField> = fields.collect();
    if !RowConverter::supports_fields(&fields) {
        return Ok(None);
    }
    let converter = RowConverter::new(fields).map_err(OperatorError::internal)?;
    let encoded = converter.convert_columns(rows.columns()).map_err(OperatorError::internal)?;
    let digest = |row: usize| {
        let mut hasher = DefaultHasher::new();
        encoded.row(row).data().hash(&mut hasher);
        hasher.finish()
    };
    Ok(Some((0..rows.num_rows()).map(digest).collect()))
}
