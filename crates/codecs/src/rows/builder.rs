//! Columns under construction, one row at a time, each row whole or not at all.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};

use super::{
    BATCH_BYTES_MAX, BATCH_CELLS_MAX, BATCH_ROWS_MAX, ColumnType, Columns, DecodedRows, EpochUnit, JSON_NESTING_MAX,
    RejectedRecord,
};
use crate::json_reader::{Reader, Value};
use crate::json_time::{self, Notation};

/// Collects rows and rejects.
///
/// Invariant: between rows all columns have `n_rows` values.
#[derive(Debug)]
pub(super) struct RowsBuilder {
    columns: Arc<Columns>,
    builders: Vec<ColumnBuilder>,
    rows_max: usize,
    n_rows: usize,
    /// Columns of the row being built that have a value.
    n_set: usize,
    text_bytes: usize,
    rejects: Vec<RejectedRecord>,
    reject_bytes: usize,
    scratch: String,
}

#[derive(Debug)]
struct ColumnBuilder {
    kind: ColumnType,
    values: Values,
    valid: Vec<bool>,
    n_nulls: usize,
}

#[derive(Debug)]
enum Values {
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Texts { bytes: Vec<u8>, ends: Vec<i32> },
}

impl ColumnBuilder {
    /// A column with room for `rows` values.
    fn new(kind: ColumnType, rows: usize) -> Self {
        let values = match kind {
            ColumnType::Int64 | ColumnType::Timestamp(_) => Values::Ints(Vec::with_capacity(rows)),
            ColumnType::Float64 => Values::Floats(Vec::with_capacity(rows)),
            ColumnType::Bool => Values::Bools(Vec::with_capacity(rows)),
            ColumnType::Text | ColumnType::Json => {
                let mut ends = Vec::with_capacity(rows + 1);
                ends.push(0);
                Values::Texts { bytes: Vec::new(), ends }
            }
        };
        Self { kind, values, valid: Vec::with_capacity(rows), n_nulls: 0 }
    }

    #[inline]
    fn push_text(&mut self, text: &str) {
        if let Values::Texts { bytes, ends } = &mut self.values {
            bytes.extend_from_slice(text.as_bytes());
            // A batch is full long before its texts reach 2 GiB.
            ends.push(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
            self.valid.push(true);
        }
    }

    #[inline]
    fn push_int(&mut self, value: i64) {
        if let Values::Ints(ints) = &mut self.values {
            ints.push(value);
            self.valid.push(true);
        }
    }

    #[inline]
    fn push_float(&mut self, value: f64) {
        if let Values::Floats(floats) = &mut self.values {
            floats.push(value);
            self.valid.push(true);
        }
    }

    #[inline]
    fn push_bool(&mut self, value: bool) {
        if let Values::Bools(bools) = &mut self.values {
            bools.push(value);
            self.valid.push(true);
        }
    }

    #[inline]
    fn push_null(&mut self) {
        match &mut self.values {
            Values::Ints(ints) => ints.push(0),
            Values::Floats(floats) => floats.push(0.0),
            Values::Bools(bools) => bools.push(false),
            Values::Texts { ends, .. } => ends.push(ends.last().copied().unwrap_or(0)),
        }
        self.valid.push(false);
        self.n_nulls += 1;
    }

    fn truncate(&mut self, rows: usize) {
        self.n_nulls -= self.valid.iter().skip(rows).filter(|valid| !**valid).count();
        self.valid.truncate(rows);
        match &mut self.values {
            Values::Ints(ints) => ints.truncate(rows),
            Values::Floats(floats) => floats.truncate(rows),
            Values::Bools(bools) => bools.truncate(rows),
            Values::Texts { bytes, ends } => {
                ends.truncate(rows + 1);
                bytes.truncate(ends.last().and_then(|end| usize::try_from(*end).ok()).unwrap_or(0));
            }
        }
    }

    /// The values, leaving room for `rows` others.
    fn finish(&mut self, rows: usize) -> ArrayRef {
        let valid = std::mem::replace(&mut self.valid, Vec::with_capacity(rows));
        let nulls = (std::mem::take(&mut self.n_nulls) > 0).then(|| NullBuffer::new(BooleanBuffer::from(valid)));
        let kind = self.kind;
        match &mut self.values {
            Values::Ints(ints) => {
                let ints = std::mem::replace(ints, Vec::with_capacity(rows));
                if matches!(kind, ColumnType::Timestamp(_)) {
                    Arc::new(TimestampNanosecondArray::new(ScalarBuffer::from(ints), nulls).with_timezone("UTC"))
                } else {
                    Arc::new(Int64Array::new(ScalarBuffer::from(ints), nulls))
                }
            }
            Values::Floats(floats) => {
                let floats = std::mem::replace(floats, Vec::with_capacity(rows));
                Arc::new(Float64Array::new(ScalarBuffer::from(floats), nulls))
            }
            Values::Bools(bools) => {
                let bools = std::mem::replace(bools, Vec::with_capacity(rows));
                Arc::new(BooleanArray::new(BooleanBuffer::from(bools), nulls))
            }
            Values::Texts { bytes, ends } => {
                // The next batch is likely as large as this one.
                let capacity = bytes.len().min(BATCH_BYTES_MAX);
                let bytes = std::mem::replace(bytes, Vec::with_capacity(capacity));
                let mut next_ends = Vec::with_capacity(rows + 1);
                next_ends.push(0);
                let ends = std::mem::replace(ends, next_ends);
                texts(bytes, ends, nulls)
            }
        }
    }
}

fn texts(bytes: Vec<u8>, ends: Vec<i32>, nulls: Option<NullBuffer>) -> ArrayRef {
    let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
    // Checks once more that it is UTF-8: a fraction of what decoding costs, and no `unsafe`.
    match StringArray::try_new(offsets, Buffer::from_vec(bytes), nulls) {
        Ok(array) => Arc::new(array),
        // Only whole `&str` were appended.
        Err(error) => unreachable!("texts of a batch: {error}"),
    }
}

impl RowsBuilder {
    pub(super) fn new(columns: Arc<Columns>) -> Self {
        let rows_max = (BATCH_CELLS_MAX / columns.columns().len().max(1)).clamp(1, BATCH_ROWS_MAX);
        let builders = columns.columns().iter().map(|(_, kind)| ColumnBuilder::new(*kind, rows_max)).collect();
        let (rejects, scratch) = (Vec::new(), String::new());
        Self { columns, builders, rows_max, n_rows: 0, n_set: 0, text_bytes: 0, rejects, reject_bytes: 0, scratch }
    }

    pub(super) fn columns(&self) -> &Arc<Columns> {
        &self.columns
    }

    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(super) fn n_rejects(&self) -> usize {
        self.rejects.len()
    }

    /// Whether no more may be collected before [`Self::take`].
    pub(super) fn is_full(&self) -> bool {
        self.n_rows + self.rejects.len() >= self.rows_max
            || self.text_bytes >= BATCH_BYTES_MAX
            || self.reject_bytes >= BATCH_BYTES_MAX
    }

    pub(super) fn reject(&mut self, reject: RejectedRecord) {
        self.reject_bytes += reject.bytes();
        self.rejects.push(reject);
    }

    /// Sets a column of the row being built; the last value counts.
    #[inline]
    pub(super) fn set(&mut self, column: usize, value: Value<'_>) -> Result<(), String> {
        self.room(column);
        let builder = &mut self.builders[column];
        match (builder.kind, value) {
            (_, Value::Null) => builder.push_null(),
            (ColumnType::Text, Value::Text(text)) if !text.has_lone_surrogate() => builder.push_text(&text.decode()),
            (ColumnType::Int64, Value::Number(number)) => match int(number) {
                Some(value) => builder.push_int(value),
                None => return Err(self.not_whole(column, number)),
            },
            (ColumnType::Float64, Value::Number(number)) => match finite(number) {
                Some(value) => builder.push_float(value),
                None => return Err(self.problem(column, &format!("{} is out of range", cut(number)))),
            },
            (ColumnType::Bool, Value::Bool(value)) => builder.push_bool(value),
            (ColumnType::Timestamp(_), Value::Text(text)) => {
                match json_time::parse(&text.decode(), Notation::Iso8601) {
                    Some(time) => builder.push_int(time.0),
                    None => return Err(self.not_a_time(column, &text.decode())),
                }
            }
            (ColumnType::Timestamp(unit), Value::Number(number)) => match number_time(number, unit) {
                Some(time) => builder.push_int(time),
                None => return Err(self.not_a_time(column, number)),
            },
            (ColumnType::Json | ColumnType::Text, value) => return self.set_json(column, value),
            (kind, value) => {
                let message = format!("expected {}, got {}", kind.expected(), value.describe());
                return Err(self.problem(column, &message));
            }
        }
        Ok(())
    }

    fn set_json(&mut self, column: usize, value: Value<'_>) -> Result<(), String> {
        if value.has_lone_surrogate() {
            return Err(self.problem(column, "half of a surrogate pair is no text"));
        }
        if value.depth() > JSON_NESTING_MAX {
            let message = format!("nested {} deep, more than {JSON_NESTING_MAX}", value.depth());
            return Err(self.problem(column, &message));
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        self.builders[column].push_text(value.compact(&mut scratch));
        self.scratch = scratch;
        Ok(())
    }

    /// Sets a column of the row being built from text, as a cell of a CSV file.
    pub(super) fn set_text(&mut self, column: usize, text: &str) -> Result<(), String> {
        self.room(column);
        let builder = &mut self.builders[column];
        match builder.kind {
            ColumnType::Text => builder.push_text(text),
            ColumnType::Int64 => match int(text) {
                Some(value) => builder.push_int(value),
                None => return Err(self.not_whole(column, text)),
            },
            ColumnType::Float64 => match text.parse::<f64>() {
                Ok(value) if value.is_nan() => builder.push_null(),
                Ok(value) if value.is_finite() => builder.push_float(value),
                Ok(_) => return Err(self.problem(column, &format!("{} is out of range", cut(text)))),
                Err(_) => return Err(self.problem(column, &format!("expected a number, got `{}`", cut(text)))),
            },
            ColumnType::Bool => match text {
                "true" | "TRUE" | "True" => builder.push_bool(true),
                "false" | "FALSE" | "False" => builder.push_bool(false),
                _ => return Err(self.problem(column, &format!("expected true or false, got `{}`", cut(text)))),
            },
            ColumnType::Timestamp(unit) => {
                let time = json_time::parse(text, Notation::Iso8601).map(|time| time.0);
                match time.or_else(|| number_time(text, unit)) {
                    Some(time) => builder.push_int(time),
                    None => return Err(self.not_a_time(column, text)),
                }
            }
            ColumnType::Json => {
                let mut reader = Reader::new(text);
                return match reader.value().and_then(|value| reader.end().map(|()| value)) {
                    Ok(Value::Null) => {
                        self.builders[column].push_null();
                        Ok(())
                    }
                    Ok(value) => self.set_json(column, value),
                    Err(syntax) => {
                        Err(self.problem(column, &format!("not valid JSON: {} at byte {}", syntax.what, syntax.at)))
                    }
                };
            }
        }
        Ok(())
    }

    /// Sets a column of the row being built to null.
    pub(super) fn set_null(&mut self, column: usize) {
        self.room(column);
        self.builders[column].push_null();
    }

    /// Makes the column ready for its value of the row being built.
    #[inline]
    fn room(&mut self, column: usize) {
        let builder = &mut self.builders[column];
        if builder.valid.len() > self.n_rows {
            builder.truncate(self.n_rows);
        } else {
            self.n_set += 1;
        }
    }

    /// The row is complete: what has no value is null.
    #[inline]
    pub(super) fn end_row(&mut self, record_bytes: usize) {
        if self.n_set < self.builders.len() {
            for builder in &mut self.builders {
                if builder.valid.len() == self.n_rows {
                    builder.push_null();
                }
            }
        }
        self.n_rows += 1;
        self.n_set = 0;
        // What texts a record leaves is no longer than the record.
        self.text_bytes += record_bytes;
    }

    /// The row being built is none.
    pub(super) fn undo_row(&mut self) {
        if self.n_set == 0 {
            return;
        }
        for builder in &mut self.builders {
            builder.truncate(self.n_rows);
        }
        self.n_set = 0;
    }

    /// Everything collected since the last time.
    pub(super) fn take(&mut self) -> DecodedRows {
        let columns = self.builders.iter_mut().map(|builder| builder.finish(self.rows_max)).collect();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.n_rows));
        let rows = match RecordBatch::try_new_with_options(Arc::clone(self.columns.schema()), columns, &options) {
            Ok(rows) => rows,
            Err(error) => unreachable!("rows of a batch: {error}"),
        };
        (self.n_rows, self.text_bytes, self.reject_bytes) = (0, 0, 0);
        DecodedRows { rows, rejects: std::mem::take(&mut self.rejects) }
    }

    fn problem(&self, column: usize, what: &str) -> String {
        format!("column `{}`: {what}", self.columns.columns()[column].0)
    }

    fn not_whole(&self, column: usize, text: &str) -> String {
        self.problem(column, &format!("expected an int64, got `{}`", cut(text)))
    }

    fn not_a_time(&self, column: usize, text: &str) -> String {
        let message =
            format!("expected {}, got `{}`", ColumnType::Timestamp(EpochUnit::ByMagnitude).expected(), cut(text));
        self.problem(column, &message)
    }
}

/// The beginning of a text, for a message.
fn cut(text: &str) -> String {
    const CHARACTERS: usize = 60;
    match text.char_indices().nth(CHARACTERS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A whole number, also one written as `2.0` or `1e3`.
#[inline]
fn int(text: &str) -> Option<i64> {
    let first = text.as_bytes().first()?;
    if *first == b'+' {
        return None;
    }
    text.parse().ok().or_else(|| {
        if !text.contains(['.', 'e', 'E']) {
            return None;
        }
        // Exact below 2^53, and beyond it no fraction could be told from none.
        let value = text.parse::<f64>().ok()?;
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
        (value.trunc() == value && value.abs() < 9_007_199_254_740_992.0).then_some(value as i64)
    })
}

#[inline]
fn finite(number: &str) -> Option<f64> {
    number.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// The moment a number names, to the nanosecond if it has a fraction.
fn number_time(number: &str, unit: EpochUnit) -> Option<i64> {
    if let Some(whole) = int(number) {
        return super::epoch(whole, unit);
    }
    let (whole, fraction) = number.split_once('.')?;
    let digits = fraction.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let negative = whole.starts_with('-');
    let whole = whole.parse::<i64>().ok()?;
    let unit = match unit {
        EpochUnit::ByMagnitude => EpochUnit::Millis,
        unit => unit,
    };
    let mut nanos = 0;
    let mut worth = super::nanos_of(unit) / 10;
    for digit in digits {
        nanos += i64::from(digit - b'0') * worth;
        worth /= 10;
    }
    whole.checked_mul(super::nanos_of(unit))?.checked_add(if negative { -nanos } else { nanos })
}
