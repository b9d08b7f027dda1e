//! How the columns of results become those of a stream.
//!
//! Every stream begins with `time`, `received_at` and `time_flag`. The `time` of a result is its own column of that name,
//! else the start of its window (the first column that is a struct of the timestamps `start` and `end`), else its event
//! time. `received_at` is when the stream got it, whatever the rows say of themselves; where a row has no time, it is
//! its `time`, too. The other columns come after these, as they are.
//!
//! In a stream with a key the rows say which revisions they are. `began_at` is when the pipeline was applied, and
//! `received_at` rises from row to row, so that of two rows nothing else tells apart the later one counts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, TimestampNanosecondType};
use arrow::error::ArrowError;
use weir_base::Timestamp;
use weir_codecs::time_flag;
use weir_data::defined::{BEGAN_AT, kept_rows};
use weir_data::streams::{StreamDef, timestamp_type};

const TIME: &str = "time";
const RECEIVED_AT: &str = "received_at";
const TIME_FLAG: &str = "time_flag";

/// Where the time of a result is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TimeFrom {
    /// In the column of that number.
    Column(usize),
    /// In the start of the window in the column of that number.
    Window(usize),
    /// It is its event time.
    Event,
}

fn is_window(data_type: &DataType) -> bool {
    let DataType::Struct(fields) = data_type else { return false };
    let is_time = |name: &str| {
        fields.iter().any(|field| field.name() == name && matches!(field.data_type(), DataType::Timestamp(..)))
    };
    is_time("start") && is_time("end")
}

fn time_of(schema: &Schema) -> TimeFrom {
    if let Ok(at) = schema.index_of(TIME) {
        return TimeFrom::Column(at);
    }
    match schema.fields().iter().position(|field| is_window(field.data_type())) {
        Some(at) => TimeFrom::Window(at),
        None => TimeFrom::Event,
    }
}

/// The columns of results that are a stream's own. A `time` is among them, so that its type is looked at.
pub(super) fn own_columns(schema: &Schema) -> Schema {
    let own = schema.fields().iter().filter(|field| ![RECEIVED_AT, TIME_FLAG].contains(&field.name().as_str()));
    Schema::new(own.cloned().collect::<Vec<_>>())
}

/// The columns of a key, with `time` where it follows from them: then conditions on it reach the files.
pub(super) fn key_with_time(schema: &Schema, key: &[String]) -> Vec<String> {
    let mut key = key.to_vec();
    if let TimeFrom::Window(at) = time_of(schema)
        && key.contains(schema.field(at).name())
    {
        key.push(TIME.to_owned());
    }
    key
}

/// Makes results rows of a stream.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    stream: Arc<StreamDef>,
    time: TimeFrom,
    /// When the pipeline was applied.
    since: Timestamp,
    /// The last `received_at`, in a stream with a key.
    received: i64,
}

impl Mapping {
    pub(super) fn new(stream: Arc<StreamDef>, schema: &Schema, since: Timestamp) -> Self {
        Self { stream, time: time_of(schema), since, received: i64::MIN }
    }

    /// When each of so many rows came.
    fn received(&mut self, now: Timestamp, count: usize) -> Vec<i64> {
        if !self.stream.is_keyed() {
            return vec![now.0; count];
        }
        let first = now.0.max(self.received.saturating_add(1));
        let all: Vec<i64> = (first..).take(count).collect();
        self.received = all.last().copied().unwrap_or(self.received);
        all
    }

    /// The rows of the stream. `events` are the event times of the results.
    pub(super) fn map(
        &mut self,
        rows: &RecordBatch,
        events: &[i64],
        received_at: Timestamp,
    ) -> Result<RecordBatch, ArrowError> {
        let times: Vec<i64> = match &self.time {
            TimeFrom::Column(at) => {
                let times = cast(rows.column(*at), &timestamp_type())?;
                let times = times.as_primitive::<TimestampNanosecondType>();
                times.iter().map(|time| time.unwrap_or(received_at.0)).collect()
            }
            TimeFrom::Window(at) => {
                let windows = rows.column(*at).as_struct();
                let starts =
                    windows.column_by_name("start").map(|starts| cast(starts, &timestamp_type())).transpose()?;
                let starts = starts.as_ref().map(|starts| starts.as_primitive::<TimestampNanosecondType>());
                let start = |row: usize| starts.filter(|starts| windows.is_valid(row) && starts.is_valid(row));
                (0..rows.num_rows()).map(|row| start(row).map_or(events[row], |starts| starts.value(row))).collect()
            }
            TimeFrom::Event => events.to_vec(),
        };
        let flags: StringArray = times.iter().map(|time| time_flag(Timestamp(*time), received_at)).collect();
        let stamps =
            |values: Vec<i64>| -> ArrayRef { Arc::new(TimestampNanosecondArray::from(values).with_timezone("UTC")) };
        let count = times.len();
        let received = self.received(received_at, count);
        let mut columns: Vec<(String, ArrayRef)> =
            vec![(TIME.to_owned(), stamps(times)), (RECEIVED_AT.to_owned(), stamps(received))];
        if flags.null_count() < count {
            columns.push((TIME_FLAG.to_owned(), Arc::new(flags)));
        }
        for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            let is_first = [TIME, RECEIVED_AT, TIME_FLAG].contains(&field.name().as_str());
            let is_first = is_first || (self.stream.is_keyed() && field.name() == BEGAN_AT);
            // Columns without a value are left out, as everywhere in the log.
            if !is_first && column.null_count() < count {
                columns.push((field.name().clone(), Arc::clone(column)));
            }
        }
        if self.stream.is_keyed() {
            columns.push((BEGAN_AT.to_owned(), stamps(vec![self.since.0; count])));
        }
        kept_rows(&RecordBatch::try_from_iter(columns)?, &self.stream)
    }
}
