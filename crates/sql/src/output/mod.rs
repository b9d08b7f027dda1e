//! Answers as bytes: JSON, newline-delimited JSON, CSV, Arrow stream and Parquet, each streamed.
//!
//! | format | rows are | an error after the first byte |
//! |---|---|---|
//! | JSON | arrays in `rows` of one object, beside `columns` and `stats` | the object is finished, with `error` in it |
//! | NDJSON | an object a line; repeated column names get `_2`, `_3`, ... | the stream fails |
//! | CSV | RFC 4180 with a header | the stream fails |
//! | Arrow | record batches of the IPC stream format | the stream fails |
//! | Parquet | one file, zstd | the stream fails |
//!
//! Encoding runs on the query threads, a part of a batch at a time. Nothing of an answer is held beyond the deadline of
//! its query, also where its client has stopped reading.

mod json;
mod text;

use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{RecordBatch, new_null_array};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use weir_data::json_rows;

use crate::engine::batch_bytes;
use crate::error::SqlError;
use crate::expiring::Expiring;
use crate::result::{QueryResult, QueryStats, SharedStats};

/// Rows encoded in one go, so that a chunk is never large: a connection that does not take it has it in memory.
const ROWS_A_CHUNK: usize = 1024;
/// Bytes of rows encoded in one go, counted in memory, if it is more than one row.
const BYTES_A_CHUNK: usize = 1 << 20;
/// Bytes a Parquet answer holds back until they are a row group.
const ROW_GROUP_BYTES: usize = 8 << 20;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// One JSON object, in which numbers that JSON does not have are the texts `nan`, `inf` and `-inf`: for who shows an
    /// answer to people.
    JsonAllNumbers,
    /// A JSON object a line.
    NdJson,
    /// Comma-separated values with a header.
    Csv,
    /// The Arrow IPC stream format.
    Arrow,
    /// A Parquet file.
    Parquet,
}

impl Format {
    /// Every format with a media type of its own.
    pub const ALL: [Self; 5] = [Self::Json, Self::NdJson, Self::Csv, Self::Arrow, Self::Parquet];

    /// The media type of an answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::JsonAllNumbers => "application/json; numbers=all",
            Self::NdJson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Whether an answer is one JSON object.
    const fn is_object(self) -> bool {
        matches!(self, Self::Json | Self::JsonAllNumbers)
    }

    /// The format of a media type as it stands in `Accept`, without parameters.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type.trim().to_ascii_lowercase().as_str() {
            "application/json" | "application/*" | "*/*" => Some(Self::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Some(Self::NdJson),
            "text/csv" | "text/*" => Some(Self::Csv),
            "application/vnd.apache.arrow.stream" => Some(Self::Arrow),
            "application/vnd.apache.parquet" | "application/parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// The name of a column's type, as answers give it: `int64`, `float64`, `bool`, `string`,
/// `timestamp`, `list`, `struct` or `map`.
pub fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "bool",
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64 => "int64",
        DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => "float64",
        DataType::Timestamp(..) => "timestamp",
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => "list",
        DataType::Struct(_) => "struct",
        DataType::Map(..) => "map",
        DataType::Dictionary(_, values) => type_name(values),
        DataType::RunEndEncoded(_, values) => type_name(values.data_type()),
        _ => "string",
    }
}

/// The rows of one batch as newline-delimited JSON, an object a row; column names must not repeat.
pub fn lines(batch: &RecordBatch) -> Vec<u8> {
    let names: Vec<String> = batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
    json_rows::lines(batch, &names)
}

/// Turns the rows of a query into bytes. The stream is to be read within a Tokio runtime that has
/// timers; dropping it cancels the query. What nobody has read at the deadline is dropped then, and
/// the answer ends with the error of the deadline.
///
/// # Errors
/// If the format cannot hold a column: there is no answer then that could break off.
pub fn encode(
    result: QueryResult,
    format: Format,
) -> Result<impl Stream<Item = Result<Bytes, SqlError>> + Send + 'static, SqlError> {
    let (deadline, timeout) = result.deadline();
    let (schema, stats) = (Arc::clone(result.schema()), Arc::clone(result.shared_stats()));
    let (encoder, begin) = Encoder::begin(format, &schema)?;
    let state = Encoding { encoder: Some(encoder), format, result, batch: None, phase: Phase::Begin(begin) };
    let parts = futures::stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some(((item, state.phase == Phase::Done), state))
    });
    Ok(Answer {
        parts: Expiring::new(parts.boxed(), deadline),
        format,
        schema,
        stats,
        timeout,
        begun: false,
        over: false,
    })
}

/// The bytes of an answer, with how it ends if nobody reads it.
struct Answer {
    /// Each with whether it is the last one.
    parts: Expiring<BoxStream<'static, (Result<Bytes, SqlError>, bool)>>,
    format: Format,
    schema: SchemaRef,
    stats: Arc<SharedStats>,
    timeout: SqlError,
    begun: bool,
    over: bool,
}

impl Answer {
    /// The end of an answer whose rows are gone.
    fn expired(&self) -> Result<Bytes, SqlError> {
        self.stats.note_failure(&self.timeout);
        if !self.format.is_object() {
            return Err(self.timeout.clone());
        }
        let mut bytes = if self.begun { Vec::new() } else { json::begin(&self.schema) };
        bytes.extend(json::end(&self.stats.read(), Some(&self.timeout)));
        Ok(Bytes::from(bytes))
    }
}

impl Stream for Answer {
    type Item = Result<Bytes, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let part = match ready!(self.parts.poll(context, |parts, context| parts.poll_next_unpin(context))) {
            Some(Some((part, is_last))) => {
                self.begun = true;
                if is_last {
                    // Whole, whenever somebody comes to look whether there is more.
                    self.over = true;
                    self.parts.empty();
                }
                Some(part)
            }
            Some(None) => {
                self.over = true;
                self.parts.empty();
                None
            }
            None => {
                self.over = true;
                Some(self.expired())
            }
        };
        Poll::Ready(part)
    }
}

#[derive(PartialEq, Eq)]
enum Phase {
    /// With the bytes before the first row.
    Begin(Vec<u8>),
    Rows,
    Done,
}

struct Encoding {
    /// Away while a part is encoded elsewhere.
    encoder: Option<Encoder>,
    format: Format,
    result: QueryResult,
    /// What is left of a batch, and how many of its rows are encoded in one go.
    batch: Option<(RecordBatch, usize)>,
    phase: Phase,
}

impl Encoding {
    async fn next(&mut self) -> Option<Result<Bytes, SqlError>> {
        loop {
            let step = match &mut self.phase {
                Phase::Begin(bytes) => {
                    let bytes = std::mem::take(bytes);
                    self.phase = Phase::Rows;
                    Ok(bytes)
                }
                Phase::Rows => self.rows().await,
                Phase::Done => return None,
            };
            match step {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Some(Ok(Bytes::from(bytes))),
                Err(error) => {
                    self.phase = Phase::Done;
                    self.result.shared_stats().note_failure(&error);
                    if self.format.is_object() {
                        return Some(Ok(Bytes::from(json::end(&self.result.stats(), Some(&error)))));
                    }
                    return Some(Err(error));
                }
            }
        }
    }

    /// The next part of the rows, or the end.
    async fn rows(&mut self) -> Result<Vec<u8>, SqlError> {
        let (batch, rows) = match self.batch.take() {
            Some(rest) => rest,
            None => match self.result.next().await {
                Some(batch) => {
                    let batch = batch?;
                    let rows = rows_a_part(&batch);
                    (batch, rows)
                }
                None => {
                    self.phase = Phase::Done;
                    let stats = self.result.stats();
                    let Some(encoder) = self.encoder.take() else { return Err(SqlError::Internal) };
                    return encoder.end(&stats);
                }
            },
        };
        let part = batch.slice(0, rows.min(batch.num_rows()));
        if rows < batch.num_rows() {
            self.batch = Some((batch.slice(rows, batch.num_rows() - rows), rows));
        }
        let Some(mut encoder) = self.encoder.take() else { return Err(SqlError::Internal) };
        let work = self.result.lane().spawn(async move {
            let bytes = encoder.rows(&part);
            (encoder, bytes)
        });
        let (deadline, timeout) = self.result.deadline();
        match tokio::time::timeout_at(deadline, work).await {
            Ok(Ok((encoder, bytes))) => {
                self.encoder = Some(encoder);
                bytes
            }
            Ok(Err(error)) if error.is_cancelled() => Err(SqlError::Cancelled),
            Ok(Err(_panic)) => {
                tracing::error!("encoding an answer panicked");
                Err(SqlError::Internal)
            }
            Err(_elapsed) => Err(timeout),
        }
    }
}

/// How many rows of a batch are encoded in one go.
fn rows_a_part(batch: &RecordBatch) -> usize {
    let row_bytes = batch_bytes(batch) / batch.num_rows().max(1);
    (BYTES_A_CHUNK / row_bytes.max(1)).clamp(1, ROWS_A_CHUNK)
}

/// Where the writers of foreign formats write to; emptied after each step.
#[derive(Clone, Debug, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

enum Encoder {
    Json { any: bool, numbers: json::Numbers },
    NdJson { names: Vec<String> },
    Csv,
    Arrow { writer: Box<StreamWriter<Sink>>, sink: Sink, schema: SchemaRef },
    Parquet { writer: Box<ArrowWriter<Sink>>, sink: Sink, schema: SchemaRef },
}

fn arrow_failed(error: &ArrowError) -> SqlError {
    tracing::error!(%error, "cannot encode an answer");
    SqlError::Internal
}

fn parquet_failed(error: &ParquetError) -> SqlError {
    tracing::error!(%error, "cannot encode an answer");
    SqlError::Internal
}

/// Names without repetition: `a`, `a_2`, `a_3`.
pub(crate) fn unique_names(schema: &Schema) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let mut name = field.name().clone();
        let mut count = 1;
        while names.contains(&name) || (count > 1 && schema.fields().iter().any(|other| other.name() == &name)) {
            count += 1;
            name = format!("{}_{count}", field.name());
        }
        names.push(name);
    }
    names
}

/// The type other programs know: views became common only lately.
fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(plain_field(item)),
        other => other.clone(),
    }
}

fn plain_field(field: &Arc<Field>) -> Arc<Field> {
    Arc::new(field.as_ref().clone().with_data_type(plain_type(field.data_type())))
}

fn plain_schema(schema: &Schema, unique: bool) -> SchemaRef {
    let names = unique_names(schema);
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .zip(names)
        .map(|(field, name)| {
            let field = plain_field(field).as_ref().clone();
            if unique { field.with_name(name) } else { field }
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                cast(column, field.data_type())
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Refuses a column that cannot be written. For some types the writer says so only when it gets rows, and then the
/// answer has begun: so a row without values is written to nowhere first, each column by itself.
fn parquet_holds(schema: &Schema) -> Result<(), SqlError> {
    let trial = |field: &Field| -> Result<(), ParquetError> {
        let field = field.clone().with_nullable(true);
        let nothing = new_null_array(field.data_type(), 1);
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![nothing])?;
        let mut writer = ArrowWriter::try_new(std::io::sink(), batch.schema(), None)?;
        writer.write(&batch)?;
        writer.close().map(|_| ())
    };
    for field in schema.fields() {
        trial(field).map_err(|error| match error {
            ParquetError::ArrowError(_) | ParquetError::NYI(_) | ParquetError::General(_) => {
                let name = field.name();
                SqlError::invalid(if can_cast_types(field.data_type(), &DataType::Utf8) {
                    format!("Parquet cannot hold the column `{name}`; cast it, as in cast({name} as varchar)")
                } else {
                    format!("Parquet cannot hold what is in the column `{name}`; cast the values in it to varchar")
                })
            }
            other => parquet_failed(&other),
        })?;
    }
    Ok(())
}

impl Encoder {
    fn begin(format: Format, schema: &SchemaRef) -> Result<(Self, Vec<u8>), SqlError> {
        let sink = Sink::default();
        let encoder = match format {
            Format::Json | Format::JsonAllNumbers => {
                let numbers = if format == Format::Json { json::Numbers::OfJson } else { json::Numbers::All };
                return Ok((Self::Json { any: false, numbers }, json::begin(schema)));
            }
            Format::NdJson => return Ok((Self::NdJson { names: unique_names(schema) }, Vec::new())),
            Format::Csv => return Ok((Self::Csv, text::header(schema))),
            Format::Arrow => {
                let schema = plain_schema(schema, false);
                let writer = StreamWriter::try_new(sink.clone(), &schema).map_err(|error| arrow_failed(&error))?;
                Self::Arrow { writer: Box::new(writer), sink: sink.clone(), schema }
            }
            Format::Parquet => {
                let schema = plain_schema(schema, true);
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(65_536))
                    .build();
                parquet_holds(&schema)?;
                let writer = ArrowWriter::try_new(sink.clone(), Arc::clone(&schema), Some(properties))
                    .map_err(|error| parquet_failed(&error))?;
                Self::Parquet { writer: Box::new(writer), sink: sink.clone(), schema }
            }
        };
        Ok((encoder, sink.take()))
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, SqlError> {
        match self {
            Self::Json { any, numbers } => {
                let bytes = json::rows(batch, *any, *numbers);
                *any = true;
                Ok(bytes)
            }
            Self::NdJson { names } => Ok(json_rows::lines(batch, names)),
            Self::Csv => Ok(text::rows(batch)),
            Self::Arrow { writer, sink, schema } => {
                let batch = plain_batch(batch, schema).map_err(|error| arrow_failed(&error))?;
                writer.write(&batch).map_err(|error| arrow_failed(&error))?;
                Ok(sink.take())
            }
            Self::Parquet { writer, sink, schema } => {
                let batch = plain_batch(batch, schema).map_err(|error| arrow_failed(&error))?;
                writer.write(&batch).map_err(|error| parquet_failed(&error))?;
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    writer.flush().map_err(|error| parquet_failed(&error))?;
                }
                Ok(sink.take())
            }
        }
    }

    fn end(self, stats: &QueryStats) -> Result<Vec<u8>, SqlError> {
        match self {
            Self::Json { .. } => Ok(json::end(stats, None)),
            Self::NdJson { .. } | Self::Csv => Ok(Vec::new()),
            Self::Arrow { mut writer, sink, .. } => {
                writer.finish().map_err(|error| arrow_failed(&error))?;
                Ok(sink.take())
            }
            Self::Parquet { writer, sink, .. } => {
                writer.close().map_err(|error| parquet_failed(&error))?;
                Ok(sink.take())
            }
        }
    }
}
