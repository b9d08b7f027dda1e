//! Columns that cost nothing until their first value: of the many an event can have, few do.

use std::sync::Arc;

use arrow::array::{ArrayBuilder, ArrayRef, PrimitiveArray, PrimitiveBuilder, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::ArrowPrimitiveType;
use weir_data::batch::fitted;

/// A text column that costs nothing until its first value. Not Arrow's builder: that one is large to
/// move and slow to finish, which shows where a request has one event.
#[derive(Debug, Default)]
pub(super) struct LazyText {
    text: String,
    /// Where each row's text ends, after the 0 where the first begins; empty before the first value.
    ends: Vec<i32>,
    /// Empty while no row is null.
    valid: Vec<bool>,
}

impl LazyText {
    pub(super) fn append(&mut self, row: usize, rows_hint: usize, text: &str) {
        if self.ends.is_empty() {
            self.ends.reserve(rows_hint + 1);
            self.ends.push(0);
            self.text.reserve(rows_hint * 24);
        }
        self.fill(row);
        self.text.push_str(text);
        self.end_row();
        if !self.valid.is_empty() {
            self.valid.push(true);
        }
    }

    /// Makes the rows before `row` that have no value null.
    fn fill(&mut self, row: usize) {
        let begun = self.ends.len() - 1;
        if begun == row {
            return;
        }
        if self.valid.is_empty() {
            self.valid.resize(begun, true);
        }
        self.valid.resize(row, false);
        let end = self.ends[begun];
        self.ends.resize(row + 1, end);
    }

    fn end_row(&mut self) {
        // Requests are far smaller than 2 GiB; see `body_bytes_max`.
        self.ends.push(i32::try_from(self.text.len()).unwrap_or(i32::MAX));
    }

    pub(super) fn finish(mut self, rows: usize) -> Option<ArrayRef> {
        if self.ends.is_empty() {
            return None;
        }
        self.fill(rows);
        let nulls = (!self.valid.is_empty()).then(|| NullBuffer::from(self.valid));
        let offsets = OffsetBuffer::new(self.ends.into());
        let text = Buffer::from(fitted(self.text.into_bytes()));
        Some(Arc::new(StringArray::new(offsets, text, nulls)))
    }
}

/// A numeric column that costs nothing until its first value.
#[derive(Debug)]
pub(super) struct Lazy<T: ArrowPrimitiveType>(Option<PrimitiveBuilder<T>>);

impl<T: ArrowPrimitiveType> Default for Lazy<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: ArrowPrimitiveType> Lazy<T> {
    pub(super) fn append(&mut self, row: usize, rows_hint: usize, value: T::Native) {
        let builder = self.0.get_or_insert_with(|| PrimitiveBuilder::with_capacity(rows_hint));
        if builder.len() < row {
            builder.append_nulls(row - builder.len());
        }
        builder.append_value(value);
    }

    pub(super) fn finish(self, rows: usize) -> Option<PrimitiveArray<T>> {
        let mut builder = self.0?;
        if builder.len() < rows {
            builder.append_nulls(rows - builder.len());
        }
        Some(builder.finish())
    }
}
