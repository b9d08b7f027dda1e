//! Rows that were taken out of the flow, in the one form they are delivered in.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::json::LineDelimitedWriter;
use weir_component::Batch;
use weir_component::operator::{Aside, AsideNotes, AsideReason};
use weir_component::source::SourceReject;

use crate::error::JobError;
use crate::replay::Letter;

/// The longest row that is kept, in bytes of its JSON text; what is longer is cut, and cannot be read any more.
pub(crate) const ROW_BYTES_MAX: usize = 64 * 1024;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("time", time, true),
        Field::new("step", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("late_by_ns", DataType::Int64, true),
        Field::new("message", DataType::Utf8, true),
        Field::new("row", DataType::Utf8, true),
        Field::new("input", DataType::Int64, true),
        Field::new("attempts", DataType::Int64, false),
    ]))
});

/// The columns of rows that were set aside: `time` (the row's event time, if it has one),
/// `step` (the id of the source or step), `reason`, `late_by_ns` (how far behind the watermark of its
/// partition a late row was; `None` of one that is run again after the end of all input), `message`, `row` (the row as JSON), `input` (at which input of the step it came; `None`
/// if it is not a row as it came there) and `attempts` (how often this has happened to it there).
pub fn aside_schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// Where rows were that were set aside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    /// The input of the step they came at as they are.
    pub(crate) input: Option<usize>,
    /// How often they have failed there, this time included.
    pub(crate) attempts: u64,
}

impl Origin {
    /// Rows of a source, for the first time.
    pub(crate) const SOURCE: Self = Self { input: None, attempts: 1 };
}

/// What a step set aside.
pub(crate) fn of_step(step: &str, aside: &Aside, origin: Origin) -> Result<Batch, JobError> {
    let rows = aside.rows.num_rows();
    let late_by: ArrayRef = match &aside.notes {
        AsideNotes::LateBy(by) => {
            Arc::new(by.iter().enumerate().map(|(row, by)| late_by(aside, row, *by)).collect::<Int64Array>())
        }
        _ => Arc::new(Int64Array::new_null(rows)),
    };
    let messages: ArrayRef = match &aside.notes {
        AsideNotes::Messages(messages) => Arc::new(StringArray::from_iter_values(messages)),
        _ => Arc::new(StringArray::new_null(rows)),
    };
    let texts = row_texts(&aside.rows).map_err(|error| JobError::internal(step, error))?;
    let texts = Arc::new(StringArray::from_iter_values(texts));
    assemble(step, aside.reason, aside.times.clone(), [late_by, messages, texts], origin)
}

/// By how much a row is late: by nothing that can be said, if time had come to its end.
fn late_by(aside: &Aside, row: usize, by: i64) -> Option<i64> {
    let time = aside.times.as_ref().map_or(0, |times| times[row]);
    (by.saturating_add(time.max(0)) < i64::MAX).then_some(by)
}

/// What a source could not make into rows.
pub(crate) fn of_source(source: &str, rejects: &[SourceReject]) -> Result<Batch, JobError> {
    let messages = rejects.iter().map(|reject| format!("{}: {}", reject.place, reject.message));
    let rows = rejects.iter().map(|reject| cut(&reject.payload));
    let late_by = Arc::new(Int64Array::new_null(rejects.len()));
    let messages = Arc::new(StringArray::from_iter_values(messages));
    let texts = Arc::new(StringArray::from_iter_values(rows));
    assemble(source, AsideReason::Malformed, None, [late_by, messages, texts], Origin::SOURCE)
}

/// A row that was run again and came to nothing, with what was known of it.
pub(crate) fn again(letter: &Letter<'_>, message: &str) -> Result<Batch, JobError> {
    let late_by = Arc::new(Int64Array::new_null(1));
    let message = Arc::new(StringArray::from_iter_values([message]));
    let text = Arc::new(StringArray::from_iter_values([letter.row]));
    let times = Some(vec![letter.time].into());
    let origin = Origin { input: letter.input, attempts: letter.attempts + 1 };
    assemble(letter.step, letter.reason, times, [late_by, message, text], origin)
}

fn assemble(
    step: &str,
    reason: AsideReason,
    times: Option<ScalarBuffer<i64>>,
    [late_by, messages, texts]: [ArrayRef; 3],
    origin: Origin,
) -> Result<Batch, JobError> {
    let rows = texts.len();
    let time = match &times {
        Some(times) => TimestampNanosecondArray::new(times.clone(), None),
        None => TimestampNanosecondArray::new_null(rows),
    };
    let time = time.with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(time),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(step, rows))),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(reason.as_str(), rows))),
        late_by,
        messages,
        texts,
        Arc::new(Int64Array::from(vec![origin.input.and_then(|input| i64::try_from(input).ok()); rows])),
        Arc::new(Int64Array::from(vec![i64::try_from(origin.attempts).unwrap_or(i64::MAX); rows])),
    ];
    let batch = RecordBatch::try_new(aside_schema(), columns).map_err(|error| JobError::internal(step, error))?;
    Ok(Batch::new(batch, times.unwrap_or_else(|| vec![0; rows].into())))
}

/// Each row as a JSON object; columns that are null are left out.
fn row_texts(rows: &RecordBatch) -> Result<Vec<String>, arrow::error::ArrowError> {
    let mut bytes = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut bytes);
    writer.write(rows)?;
    writer.finish()?;
    drop(writer);
    let text = String::from_utf8_lossy(&bytes);
    let mut texts: Vec<String> = text.lines().map(|line| cut(line).to_owned()).collect();
    texts.resize(rows.num_rows(), "{}".to_owned());
    Ok(texts)
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(ROW_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
