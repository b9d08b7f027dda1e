//! Rows on their way: cut into requests, as objects beside the checkpoints, and what was refused of them.
//!
//! An object `rows.START.NUMBER` is an Arrow IPC stream, and each batch of it a request. START is a random number of
//! the start that wrote it, so the name of an object and the number of a request in it are a key no other request has.
//! It is removed once all its requests were answered. What was refused of it is another object first, `refused.` and
//! `unnamed.` with the same ending: the rows, with the message in one column more.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use weir_component::batch::bytes_of;
use weir_component::operator::{Aside, AsideNotes, AsideReason};

/// The column with the message of a refusal.
const MESSAGE: &str = "_refusal";
const TIME: &str = "time";

/// Rows as they are sent: with a time, where they have none of their own.
pub(super) fn with_time(rows: &RecordBatch, times: &[i64]) -> Result<RecordBatch, ArrowError> {
    if rows.schema_ref().index_of(TIME).is_ok() {
        return Ok(rows.clone());
    }
    let data_type = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let field = Arc::new(Field::new(TIME, data_type, false));
    let fields: Vec<_> = rows.schema_ref().fields().iter().cloned().chain([field]).collect();
    let time: ArrayRef = Arc::new(TimestampNanosecondArray::from(times.to_vec()).with_timezone("UTC"));
    let columns = rows.columns().iter().cloned().chain([time]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// Cuts rows into requests of at most so many rows and, as far as can be told before they are encoded, bytes.
pub(super) fn requests(
    batches: &[RecordBatch],
    rows_max: usize,
    bytes_max: usize,
) -> Result<Vec<RecordBatch>, ArrowError> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let whole = concat_batches(first.schema_ref(), batches)?;
    let per_row = bytes_of(&whole) / whole.num_rows().max(1) + 1;
    let step = (bytes_max / per_row).clamp(1, rows_max);
    let part = |begin: usize| whole.slice(begin, step.min(whole.num_rows() - begin));
    Ok((0..whole.num_rows()).step_by(step).map(part).collect())
}

/// Batches as the bytes of an object.
pub(super) fn encode(batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let mut bytes = Vec::new();
    let Some(first) = batches.first() else { return Ok(bytes) };
    let mut writer = StreamWriter::try_new(&mut bytes, first.schema_ref())?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// The batches in an object.
pub(super) fn decode(bytes: Vec<u8>) -> Result<Vec<RecordBatch>, ArrowError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    StreamReader::try_new(Cursor::new(bytes), None)?.collect()
}

/// What was refused of one object or, where rows are sent as they come, since it was asked last.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals {
    /// Rows, with the message in the last column.
    rows: Vec<RecordBatch>,
    /// Rows that are not known.
    unnamed: Vec<RecordBatch>,
}

fn with_message(rows: &RecordBatch, messages: StringArray) -> Result<RecordBatch, ArrowError> {
    let field = Arc::new(Field::new(MESSAGE, DataType::Utf8, false));
    let fields: Vec<_> = rows.schema_ref().fields().iter().cloned().chain([field]).collect();
    let messages: ArrayRef = Arc::new(messages);
    let columns = rows.columns().iter().cloned().chain([messages]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

impl Refusals {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.unnamed.is_empty()
    }

    /// Rows, each with a message.
    pub(super) fn add(&mut self, rows: &RecordBatch, messages: &[String]) -> Result<(), ArrowError> {
        self.rows.push(with_message(rows, StringArray::from_iter_values(messages))?);
        Ok(())
    }

    /// So many of the rows of a request, nobody knows which.
    pub(super) fn add_unnamed(&mut self, refused: u64, of: usize, key: &str, message: &str) -> Result<(), ArrowError> {
        let refused = usize::try_from(refused).unwrap_or(usize::MAX).min(of);
        let number = |number: usize| -> ArrayRef {
            Arc::new(Int64Array::from(vec![i64::try_from(number).unwrap_or(i64::MAX); refused]))
        };
        let keys: ArrayRef = Arc::new(StringArray::from(vec![key; refused]));
        let columns = [("refused", number(refused)), ("of", number(of)), ("request", keys)];
        let message =
            format!("one of {refused} rows of a request of {of} that were refused, which is not said: {message}");
        let rows = RecordBatch::try_from_iter(columns)?;
        self.unnamed.push(with_message(&rows, StringArray::from(vec![message; refused]))?);
        Ok(())
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.unnamed.extend(other.unnamed);
    }

    /// What objects they are: what the name begins with, and the bytes.
    pub(super) fn objects(&self) -> Result<Vec<(&'static str, Vec<u8>)>, ArrowError> {
        let mut objects = Vec::new();
        for (prefix, batches) in [(REFUSED, &self.rows), (UNNAMED, &self.unnamed)] {
            if !batches.is_empty() {
                objects.push((prefix, encode(batches)?));
            }
        }
        Ok(objects)
    }

    /// Those in an object.
    pub(super) fn of_object(bytes: Vec<u8>) -> Result<Self, ArrowError> {
        // What they are does not matter any more: rows that are known have the columns of the sink.
        Ok(Self { rows: decode(bytes)?, unnamed: Vec::new() })
    }

    /// As the engine takes them. Rows have the columns of `schema` where they are those the sink was given.
    pub(super) fn asides(self, schema: &SchemaRef) -> Vec<Aside> {
        self.rows.into_iter().chain(self.unnamed).filter_map(|batch| aside(&batch, schema)).collect()
    }
}

/// What objects of rows begin with.
pub(super) const ROWS: &str = "rows.";
/// What objects of rows that were refused begin with.
pub(super) const REFUSED: &str = "refused.";
/// The same of rows that are not known.
pub(super) const UNNAMED: &str = "unnamed.";

fn aside(batch: &RecordBatch, schema: &SchemaRef) -> Option<Aside> {
    let last = batch.num_columns().checked_sub(1)?;
    let messages = batch.column(last).as_string_opt::<i32>()?;
    let messages = messages.iter().map(|message| message.unwrap_or_default().to_owned()).collect();
    let fields = batch.schema_ref().fields();
    // Without the message, and without a time it has been given here.
    let own = schema.fields().len();
    let is_own = own <= last && fields[..own].iter().eq(schema.fields().iter());
    let count = if is_own { own } else { last };
    let mut rows = batch.project(&(0..count).collect::<Vec<_>>()).ok()?;
    if is_own {
        rows = rows.with_schema(Arc::clone(schema)).ok()?;
    }
    Some(Aside { reason: AsideReason::Refused, rows, times: None, notes: AsideNotes::Messages(messages) })
}
