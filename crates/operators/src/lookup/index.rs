//! One version of a table: its rows by their keys.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use weir_component::batch::bytes_of;
use weir_component::operator::OperatorError;

/// No row.
const NONE: u32 = u32::MAX;

/// The rows of a version as they come.
#[derive(Default)]
pub(super) struct Version {
    pub(super) number: i64,
    /// Keys and what is selected of the rows, batch by batch.
    parts: Vec<(Vec<ArrayRef>, RecordBatch)>,
}

/// The rows of a whole version.
pub(super) struct Index {
    pub(super) number: i64,
    /// What is selected of all rows.
    pub(super) rows: RecordBatch,
    keys: RowConverter,
    /// The first row of each key.
    first: HashMap<Box<[u8]>, u32>,
    /// The next row with the same key, by row.
    next: Vec<u32>,
    bytes: usize,
}

impl Version {
    pub(super) fn new(number: i64) -> Self {
        Self { number, parts: Vec::new() }
    }

    pub(super) fn add(&mut self, keys: Vec<ArrayRef>, rows: RecordBatch) {
        self.parts.push((keys, rows));
    }

    pub(super) fn bytes(&self) -> usize {
        // A key that is a column of what is selected is there once.
        let is_own = |key: &ArrayRef, rows: &RecordBatch| !rows.columns().iter().any(|column| Arc::ptr_eq(column, key));
        let of_keys = |(keys, rows): &(Vec<ArrayRef>, RecordBatch)| -> usize {
            let bytes =
                |key: &ArrayRef| key.to_data().get_slice_memory_size().unwrap_or_else(|_| key.get_array_memory_size());
            keys.iter().filter(|key| is_own(key, rows)).map(bytes).sum()
        };
        self.parts.iter().map(|part| of_keys(part) + bytes_of(&part.1)).sum()
    }

    /// The rows by their keys. Rows of a key stay in the order in which they came.
    pub(super) fn index(self, keys: &SchemaRef, selected: &SchemaRef) -> Result<Index, OperatorError> {
        let fields = keys.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        let converter = RowConverter::new(fields).map_err(OperatorError::internal)?;
        let rows = concat_batches(selected, self.parts.iter().map(|(_, rows)| rows));
        let rows = rows.map_err(OperatorError::internal)?;
        let mut first: HashMap<Box<[u8]>, u32> = HashMap::new();
        let mut last: HashMap<u32, u32> = HashMap::new();
        let mut next = Vec::with_capacity(rows.num_rows());
        let mut bytes = bytes_of(&rows);
        for (columns, part) in &self.parts {
            let encoded = converter.convert_columns(columns).map_err(OperatorError::internal)?;
            for row in 0..part.num_rows() {
                let at = u32::try_from(next.len()).map_err(OperatorError::internal)?;
                next.push(NONE);
                if columns.iter().any(|column| column.is_null(row)) {
                    continue;
                }
                let key = encoded.row(row).data();
                match first.get(key) {
                    Some(begin) => {
                        let before = last.insert(*begin, at).unwrap_or(*begin);
                        next[before as usize] = at;
                    }
                    None => {
                        bytes += key.len() + size_of::<(Box<[u8]>, u32)>();
                        first.insert(key.into(), at);
                    }
                }
            }
        }
        bytes += next.capacity() * size_of::<u32>();
        Ok(Index { number: self.number, rows, keys: converter, first, next, bytes })
    }
}

/// A row may find so many rows of the table: what it becomes is put out at once.
pub(super) const FOUND_MAX: usize = 100;

/// What rows find.
pub(super) struct Found {
    /// Rows, in their order, ...
    pub(super) rows: Vec<u32>,
    /// ... each with one it finds, or none.
    pub(super) found: Vec<Option<u32>>,
    /// Rows that find more than [`FOUND_MAX`], and stand nowhere else.
    pub(super) too_many: Vec<u32>,
    /// Rows that find nothing, wherever they stand beside.
    pub(super) none: Vec<u32>,
}

impl Index {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn keys(&self) -> usize {
        self.first.len()
    }

    /// What rows with such keys find. With `is_left` a row that finds nothing stands beside none.
    pub(super) fn find(&self, keys: &[ArrayRef], n_rows: usize, is_left: bool) -> Result<Found, OperatorError> {
        let encoded = self.keys.convert_columns(keys).map_err(OperatorError::internal)?;
        let (mut rows, mut found) = (Vec::with_capacity(n_rows), Vec::with_capacity(n_rows));
        let (mut too_many, mut none) = (Vec::new(), Vec::new());
        for (row, index) in (0..n_rows).zip(0_u32..) {
            let is_nothing = keys.iter().any(|key| key.is_null(row));
            let first = self.first.get(encoded.row(row).data()).filter(|_| !is_nothing);
            let Some(first) = first else {
                none.push(index);
                if is_left {
                    rows.push(index);
                    found.push(None);
                }
                continue;
            };
            let (begin, mut at) = (rows.len(), *first);
            while at != NONE {
                if rows.len() - begin == FOUND_MAX {
                    rows.truncate(begin);
                    found.truncate(begin);
                    too_many.push(index);
                    break;
                }
                rows.push(index);
                found.push(Some(at));
                at = self.next[at as usize];
            }
        }
        Ok(Found { rows, found, too_many, none })
    }
}
