//! Column builders that can take a row back.
//!
//! Arrow's own builders cannot shrink, and a row is often found bad after half of it is written.
//! A column here costs nothing until its first value: rows before it are filled in then, so the
//! fields a sender does not use are free.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, ListArray, PrimitiveArray, StringArray, StructArray,
    TimestampNanosecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, ArrowPrimitiveType, DataType, Field, Fields};
use weir_data::batch::fitted;

/// What every column can do, and every struct of columns that makes the elements of a list.
pub(super) trait Column {
    /// Forgets the rows from `rows` on.
    fn truncate(&mut self, rows: usize);
    /// The column filled up to `rows` rows; `None` if no row has a value.
    fn finish(&mut self, rows: usize) -> Option<ArrayRef>;
}

/// Arrow counts in signed 32-bit offsets; the budget of a request is far below, see
/// [`super::budget`].
fn offset(length: usize) -> i32 {
    assert!(length <= i32::MAX as usize, "columns stay below 2 GiB");
    length as i32
}

/// The validity of a column that has at least one value.
fn nulls(valid: Vec<bool>) -> Option<NullBuffer> {
    let nulls = NullBuffer::from(valid);
    (nulls.null_count() > 0).then_some(nulls)
}

/// What is wrong with text that is not.
pub(super) const NOT_UTF8: &str = "the text is not valid UTF-8";

/// The two lower-case hexadecimal digits of every byte.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
};

/// A text column.
#[derive(Debug, Default)]
pub(super) struct Text {
    bytes: Vec<u8>,
    /// The end of every row.
    ends: Vec<i32>,
    valid: Vec<bool>,
}

impl Text {
    fn pad(&mut self, rows: usize) {
        if self.valid.len() < rows {
            self.ends.resize(rows, offset(self.bytes.len()));
            self.valid.resize(rows, false);
        }
    }

    fn close(&mut self) {
        self.ends.push(offset(self.bytes.len()));
        self.valid.push(true);
    }

    /// Sets the value of `row`, which must not be set yet.
    pub(super) fn set(&mut self, row: usize, value: &str) {
        self.pad(row);
        self.bytes.extend_from_slice(value.as_bytes());
        self.close();
    }

    /// Sets the value of `row` unless it is empty, which in protobuf is the same as absent. Most
    /// text is ASCII, and that is seen far faster than that text is UTF-8.
    #[inline]
    pub(super) fn set_some(&mut self, row: usize, value: &[u8]) -> Result<(), &'static str> {
        if value.is_empty() {
            return Ok(());
        }
        if !value.is_ascii() && str::from_utf8(value).is_err() {
            return Err(NOT_UTF8);
        }
        self.pad(row);
        self.bytes.extend_from_slice(value);
        self.close();
        Ok(())
    }

    /// Sets `row` to the lower-case hexadecimal of `value`, which has at most 32 bytes.
    pub(super) fn set_hex(&mut self, row: usize, value: &[u8]) {
        self.pad(row);
        let mut digits = [0; 64];
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(value) {
            *pair = HEX[usize::from(*byte)];
        }
        self.bytes.extend_from_slice(&digits[..value.len() * 2]);
        self.close();
    }

    /// Sets `times` rows from `row` on to the same value, unless it is empty.
    pub(super) fn fill(&mut self, row: usize, value: &str, times: usize) {
        if value.is_empty() || times == 0 {
            return;
        }
        self.pad(row);
        self.bytes.reserve(value.len() * times);
        for _ in 0..times {
            self.bytes.extend_from_slice(value.as_bytes());
            self.close();
        }
    }
}

impl Column for Text {
    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.valid.truncate(rows);
        self.bytes.truncate(self.ends.last().map_or(0, |end| end.as_usize()));
    }

    fn finish(&mut self, rows: usize) -> Option<ArrayRef> {
        if !self.valid.contains(&true) {
            return None;
        }
        self.pad(rows);
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        offsets.append(&mut self.ends);
        let bytes = Buffer::from(fitted(std::mem::take(&mut self.bytes)));
        let valid = std::mem::take(&mut self.valid);
        Some(Arc::new(StringArray::new(OffsetBuffer::new(offsets.into()), bytes, nulls(valid))))
    }
}

/// A column of numbers or times.
#[derive(Debug)]
pub(super) struct Numbers<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    valid: Vec<bool>,
}

impl<T: ArrowPrimitiveType> Default for Numbers<T> {
    fn default() -> Self {
        Self { values: Vec::new(), valid: Vec::new() }
    }
}

pub(super) type Ints = Numbers<arrow::datatypes::Int64Type>;
pub(super) type Ints32 = Numbers<arrow::datatypes::Int32Type>;
pub(super) type Floats = Numbers<arrow::datatypes::Float64Type>;
pub(super) type Times = Numbers<arrow::datatypes::TimestampNanosecondType>;

impl<T: ArrowPrimitiveType> Numbers<T> {
    fn pad(&mut self, rows: usize) {
        if self.valid.len() < rows {
            self.values.resize(rows, T::Native::default());
            self.valid.resize(rows, false);
        }
    }

    /// Sets the value of `row`, which must not be set yet.
    pub(super) fn set(&mut self, row: usize, value: T::Native) {
        self.pad(row);
        self.values.push(value);
        self.valid.push(true);
    }

    /// Sets the value of `row` if there is one.
    pub(super) fn set_some(&mut self, row: usize, value: Option<T::Native>) {
        if let Some(value) = value {
            self.set(row, value);
        }
    }

    fn truncate_values(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.valid.truncate(rows);
    }

    fn finish_array(&mut self, rows: usize) -> Option<PrimitiveArray<T>> {
        if !self.valid.contains(&true) {
            return None;
        }
        self.pad(rows);
        let values = ScalarBuffer::from(fitted(std::mem::take(&mut self.values)));
        Some(PrimitiveArray::new(values, nulls(std::mem::take(&mut self.valid))))
    }
}

impl Ints {
    /// Sets the value of `row` unless it is zero, which in protobuf is the same as absent.
    pub(super) fn set_nonzero(&mut self, row: usize, value: u32) {
        if value != 0 {
            self.set(row, i64::from(value));
        }
    }
}

macro_rules! plain_numbers {
    ($($column:ty => $array:ty),*) => { $(
        impl Column for $column {
            fn truncate(&mut self, rows: usize) {
                self.truncate_values(rows);
            }

            fn finish(&mut self, rows: usize) -> Option<ArrayRef> {
                let array: $array = self.finish_array(rows)?;
                Some(Arc::new(array))
            }
        }
    )* };
}

plain_numbers!(Ints => Int64Array, Ints32 => Int32Array, Floats => Float64Array);

impl Column for Times {
    fn truncate(&mut self, rows: usize) {
        self.truncate_values(rows);
    }

    fn finish(&mut self, rows: usize) -> Option<ArrayRef> {
        let array: TimestampNanosecondArray = self.finish_array(rows)?;
        Some(Arc::new(array.with_timezone("UTC")))
    }
}

/// A boolean column.
#[derive(Debug, Default)]
pub(super) struct Bools {
    values: Vec<bool>,
    valid: Vec<bool>,
}

impl Bools {
    fn pad(&mut self, rows: usize) {
        if self.valid.len() < rows {
            self.values.resize(rows, false);
            self.valid.resize(rows, false);
        }
    }

    /// Sets `times` rows from `row` on to the same value.
    pub(super) fn fill(&mut self, row: usize, value: bool, times: usize) {
        self.pad(row);
        self.values.resize(row + times, value);
        self.valid.resize(row + times, true);
    }
}

impl Column for Bools {
    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.valid.truncate(rows);
    }

    fn finish(&mut self, rows: usize) -> Option<ArrayRef> {
        if !self.valid.contains(&true) {
            return None;
        }
        self.pad(rows);
        let valid = std::mem::take(&mut self.valid);
        Some(Arc::new(BooleanArray::new(std::mem::take(&mut self.values).into(), nulls(valid))))
    }
}

/// The rows of a list column; its elements are columns of their own.
#[derive(Debug, Default)]
pub(super) struct Lists<E> {
    /// The elements of all rows, end to end. Their "rows" are numbered by [`Lists::elements`].
    pub(super) items: E,
    elements: usize,
    /// The end of every row, counted in elements.
    ends: Vec<i32>,
    valid: Vec<bool>,
}

impl<E: Column> Lists<E> {
    /// The number of the element being added.
    pub(super) fn elements(&self) -> usize {
        self.elements
    }

    /// How many elements the row being read has so far.
    pub(super) fn open_len(&self) -> usize {
        self.elements - self.ended()
    }

    /// Ends an element whose values are set.
    pub(super) fn end_element(&mut self) {
        self.elements += 1;
    }

    /// How many elements the rows that have ended hold.
    fn ended(&self) -> usize {
        self.ends.last().map_or(0, |end| end.as_usize())
    }

    /// Ends `row`: a list of the elements added since the last one, null if there are none.
    pub(super) fn end_row(&mut self, row: usize) {
        let begun = self.ended();
        if self.elements > begun {
            self.ends.resize(row, offset(begun));
            self.valid.resize(row, false);
            self.ends.push(offset(self.elements));
            self.valid.push(true);
        }
    }

    /// Forgets the rows from `rows` on, and elements that belong to none.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.valid.truncate(rows);
        self.elements = self.ended();
        self.items.truncate(self.elements);
    }

    /// The column filled up to `rows` rows; `None` if no row has a list.
    pub(super) fn finish(&mut self, rows: usize, item: DataType) -> Option<ArrayRef> {
        if !self.valid.contains(&true) {
            return None;
        }
        self.ends.resize(rows, offset(self.elements));
        self.valid.resize(rows, false);
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        offsets.append(&mut self.ends);
        let items = self.items.finish(self.elements)?;
        let valid = std::mem::take(&mut self.valid);
        let field = Arc::new(Field::new("item", item, true));
        Some(Arc::new(ListArray::new(field, OffsetBuffer::new(offsets.into()), items, nulls(valid))))
    }
}

impl<T: ArrowPrimitiveType> Lists<Numbers<T>> {
    /// Adds an element to the row being read.
    pub(super) fn push(&mut self, value: T::Native) {
        self.items.set(self.elements, value);
        self.elements += 1;
    }
}

/// A struct array of `fields` out of columns, of which all-null ones may be missing.
pub(super) fn structs(fields: Fields, columns: Vec<Option<ArrayRef>>, rows: usize) -> ArrayRef {
    let columns = fields
        .iter()
        .zip(columns)
        .map(|(field, column)| column.unwrap_or_else(|| arrow::array::new_null_array(field.data_type(), rows)))
        .collect();
    Arc::new(StructArray::new(fields, columns, None))
}
