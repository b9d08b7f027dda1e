//! Tables out of plain batches and Parquet files in memory, and short ways to query them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::WriterProperties;
use weir_base::clock::SystemClock;
use weir_base::{StreamName, TenantId, Timestamp};
use weir_data::attributes::{AttributeKind, AttributesBuilder};
use weir_data::defined::StreamRegistry;
use weir_data::streams::{StreamDef, stream};
use weir_meta::catalogue::{Bound, ColumnStats, FileEntry, FileId};
use weir_sql::output::{Format, encode};
use weir_sql::tables::{AttributeKindLookup, TableFileView, TableView, Tables, TailView};
use weir_sql::{QueryEngine, QueryLimits, QueryOptions, QueryRequest, SqlError};

pub(crate) const SECOND: i64 = 1_000_000_000;
/// 2026-11-21T12:00:00Z.
pub(crate) const NOON: i64 = 1_795_262_400 * SECOND;

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

#[derive(Debug, Default)]
pub(crate) struct TestTables {
    tables: Mutex<HashMap<(TenantId, String), TableView>>,
    kinds: Mutex<HashMap<TenantId, TestKinds>>,
    streams: StreamRegistry,
}

#[derive(Clone, Debug, Default)]
struct TestKinds(HashMap<(String, String, String), AttributeKind>);

impl AttributeKindLookup for TestKinds {
    fn kind(&self, stream: &str, column: &str, key: &str) -> Option<AttributeKind> {
        self.0.get(&(stream.to_owned(), column.to_owned(), key.to_owned())).copied()
    }
}

impl Tables for TestTables {
    fn snapshot(&self, tenant: &TenantId, name: &StreamName) -> Result<TableView, SqlError> {
        let key = (tenant.clone(), name.to_string());
        Ok(self.tables.lock().get(&key).cloned().unwrap_or_else(|| empty(name.as_str())))
    }

    fn streams(&self, tenant: &TenantId) -> Vec<Arc<StreamDef>> {
        self.streams.all(tenant)
    }

    fn attribute_kinds(&self, tenant: &TenantId) -> Result<Arc<dyn AttributeKindLookup>, SqlError> {
        Ok(Arc::new(self.kinds.lock().get(tenant).cloned().unwrap_or_default()))
    }
}

fn empty(name: &str) -> TableView {
    TableView { stream: Arc::clone(stream(name).unwrap()), files: Vec::new(), tail: Vec::new() }
}

#[derive(Debug)]
struct Part(RecordBatch);

impl TailView for Part {
    fn rows(&self) -> Option<usize> {
        Some(self.0.num_rows())
    }
    fn is_resident(&self) -> bool {
        true
    }
    fn batch(&self) -> Result<RecordBatch, SqlError> {
        Ok(self.0.clone())
    }
}

#[derive(Debug)]
pub(crate) struct MemoryFile {
    entry: FileEntry,
    bytes: Bytes,
    metadata: Arc<ParquetMetaData>,
    pub(crate) read: Arc<AtomicU64>,
    pub(crate) broken: bool,
}

impl TableFileView for MemoryFile {
    fn entry(&self) -> &FileEntry {
        &self.entry
    }
    fn reader(&self) -> Box<dyn AsyncFileReader + Send> {
        Box::new(MemoryReader {
            bytes: self.bytes.clone(),
            metadata: Arc::clone(&self.metadata),
            read: Arc::clone(&self.read),
            broken: self.broken,
        })
    }
}

struct MemoryReader {
    bytes: Bytes,
    metadata: Arc<ParquetMetaData>,
    read: Arc<AtomicU64>,
    broken: bool,
}

impl AsyncFileReader for MemoryReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        if self.broken {
            let damage = SqlError::Corrupt { message: "stored rows are damaged: file 7, byte 65536".to_owned() };
            return std::future::ready(Err(parquet::errors::ParquetError::External(Box::new(damage)))).boxed();
        }
        self.read.fetch_add(range.end - range.start, Ordering::Relaxed);
        let slice = self.bytes.slice(range.start as usize..range.end as usize);
        std::future::ready(Ok(slice)).boxed()
    }
    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        std::future::ready(Ok(Arc::clone(&self.metadata))).boxed()
    }
}

/// A Parquet file of `batch`, which must be sorted as the stream's files are.
pub(crate) fn file(id: i64, stream: &'static StreamDef, batch: &RecordBatch, row_group_rows: usize) -> MemoryFile {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(row_group_rows))
        .build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    let bytes = Bytes::from(out);
    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Optional)
        .parse_and_finish(&bytes)
        .unwrap();
    let times = batch.column_by_name("time").unwrap();
    let times = times.as_any().downcast_ref::<TimestampNanosecondArray>().unwrap();
    let columns: BTreeMap<String, ColumnStats> = batch
        .schema()
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| {
            let mut stats = ColumnStats { nulls: column.null_count() as u64, ..ColumnStats::default() };
            if let Some(texts) = column.as_any().downcast_ref::<StringArray>() {
                stats.min = texts.iter().flatten().min().map(|text| Bound::Text(text.to_owned()));
                stats.max = texts.iter().flatten().max().map(|text| Bound::Text(text.to_owned()));
            }
            (field.name().clone(), stats)
        })
        .collect();
    let entry = FileEntry {
        id: FileId(id),
        tenant: tenant("nobody"),
        stream: StreamName::new(&stream.name).unwrap(),
        partition: "2026-11-21".to_owned(),
        path: format!("/secret/place/{id}.parquet"),
        bytes: bytes.len() as u64,
        rows: batch.num_rows() as u64,
        min_time: Timestamp(times.iter().flatten().min().unwrap()),
        max_time: Timestamp(times.iter().flatten().max().unwrap()),
        max_received_at: Timestamp(NOON),
        level: 0,
        columns,
        promoted: Vec::new(),
        block_crcs: Vec::new(),
        footer_bytes: 0,
        created_at: Timestamp(NOON),
    };
    MemoryFile { entry, bytes, metadata: Arc::new(metadata), read: Arc::default(), broken: false }
}

pub(crate) fn times(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from_iter_values(values).with_timezone("UTC"))
}

pub(crate) fn texts<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

/// A batch of a stream out of some of its columns.
pub(crate) fn batch(stream_name: &str, columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let stream = stream(stream_name).unwrap();
    let rows = columns[0].1.len();
    let given: HashMap<&str, ArrayRef> = columns.into_iter().collect();
    let columns = stream.schema.fields().iter().map(|field| given.get(field.name().as_str()).cloned()).collect();
    weir_data::batch::sparse(&stream.schema, columns, rows).unwrap()
}

/// Logs with a time, a severity, a body and attributes.
pub(crate) fn logs(rows: &[(i64, i32, &str, &str)]) -> RecordBatch {
    let mut attributes = AttributesBuilder::with_capacity(rows.len());
    for row in rows {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(row.3).unwrap();
        for (key, value) in object {
            attributes.push_json(&key, &value.to_string());
        }
        attributes.end_row();
    }
    batch(
        "logs",
        vec![
            ("time", times(rows.iter().map(|row| row.0))),
            ("received_at", times(rows.iter().map(|row| row.0))),
            ("severity_number", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.1)))),
            ("body", texts(rows.iter().map(|row| Some(row.2)))),
            ("attributes", attributes.finish().0),
        ],
    )
}

pub(crate) fn metrics(rows: &[(i64, &str, f64, i64)]) -> RecordBatch {
    batch(
        "metrics",
        vec![
            ("time", times(rows.iter().map(|row| row.0))),
            ("received_at", times(rows.iter().map(|row| row.0))),
            ("name", texts(rows.iter().map(|row| Some(row.1)))),
            ("value", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.2)))),
            ("value_int", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3)))),
        ],
    )
}

pub(crate) struct World {
    pub(crate) tables: Arc<TestTables>,
    pub(crate) engine: Arc<QueryEngine>,
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut QueryOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tables = Arc::new(TestTables::default());
        let mut options = QueryOptions { spill_dir: dir.path().join("spill"), threads: 2, ..QueryOptions::default() };
        change(&mut options);
        let engine =
            QueryEngine::with_tables(Arc::clone(&tables) as Arc<dyn Tables>, SystemClock::new(), options).unwrap();
        Self { tables, engine, dir }
    }

    pub(crate) fn tail(&self, owner: &str, name: &str, batch: RecordBatch) -> &Self {
        let mut tables = self.tables.tables.lock();
        let view = tables.entry((tenant(owner), name.to_owned())).or_insert_with(|| empty(name));
        view.tail.push(Arc::new(Part(batch)));
        drop(tables);
        self
    }

    /// A stream of the tenant's own, with some rows.
    pub(crate) fn own(&self, owner: &str, stream: Arc<StreamDef>, batches: Vec<RecordBatch>) -> &Self {
        self.tables.streams.set(&tenant(owner), Arc::clone(&stream));
        let key = (tenant(owner), stream.name.to_string());
        let tail = batches.into_iter().map(|batch| Arc::new(Part(batch)) as Arc<dyn TailView>).collect();
        self.tables.tables.lock().insert(key, TableView { stream, files: Vec::new(), tail });
        self
    }

    pub(crate) fn file(&self, owner: &str, name: &str, file: MemoryFile) -> Arc<AtomicU64> {
        let read = Arc::clone(&file.read);
        let mut tables = self.tables.tables.lock();
        let view = tables.entry((tenant(owner), name.to_owned())).or_insert_with(|| empty(name));
        view.files.push(Arc::new(file));
        read
    }

    pub(crate) fn kind(&self, owner: &str, name: &str, column: &str, key: &str, kind: AttributeKind) -> &Self {
        let mut kinds = self.tables.kinds.lock();
        let own = kinds.entry(tenant(owner)).or_default();
        own.0.insert((name.to_owned(), column.to_owned(), key.to_owned()), kind);
        drop(kinds);
        self
    }

    pub(crate) async fn run(&self, owner: &str, request: QueryRequest, format: Format) -> Result<Vec<u8>, SqlError> {
        let result = self.engine.query(&tenant(owner), request).await?;
        let mut stream = std::pin::pin!(encode(result, format)?);
        let mut out = Vec::new();
        while let Some(bytes) = stream.next().await {
            out.extend_from_slice(&bytes?);
        }
        Ok(out)
    }

    pub(crate) async fn json(&self, owner: &str, sql: &str) -> Result<serde_json::Value, SqlError> {
        let bytes = self.run(owner, request(sql), Format::Json).await?;
        Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            panic!("not JSON: {error}: {}", String::from_utf8_lossy(&bytes));
        }))
    }

    /// The rows, as compact JSON text.
    pub(crate) async fn rows(&self, owner: &str, sql: &str) -> String {
        match self.json(owner, sql).await {
            Ok(answer) => match answer.get("error") {
                Some(error) => format!("error: {}", error["detail"].as_str().unwrap()),
                None => answer["rows"].to_string(),
            },
            Err(error) => format!("error: {error}"),
        }
    }
}

pub(crate) fn request(sql: &str) -> QueryRequest {
    QueryRequest { sql: sql.to_owned(), params: Vec::new(), limits: QueryLimits::default() }
}

/// Logs as a file keeps them whose keys `n` (number), `t` (text) and `b` (bool) have columns of
/// their own: what a column says wholly is not in the map.
pub(crate) fn promoted_logs(rows: &[(i64, i32, &str, &str)]) -> RecordBatch {
    use arrow::array::{BooleanArray, Float64Array};
    use arrow::datatypes::{DataType, Field, Schema};
    let objects: Vec<serde_json::Map<String, serde_json::Value>> =
        rows.iter().map(|row| serde_json::from_str(row.3).unwrap()).collect();
    let rest: Vec<String> = objects
        .iter()
        .map(|object| {
            let mut rest = object.clone();
            rest.retain(|key, value| match key.as_str() {
                "n" => !(value.is_i64() || value.as_f64().is_some_and(|value| value.fract() != 0.0)),
                "t" => !value.is_string(),
                "b" => !value.is_boolean(),
                _ => true,
            });
            serde_json::Value::Object(rest).to_string()
        })
        .collect();
    let kept: Vec<(i64, i32, &str, &str)> =
        rows.iter().zip(&rest).map(|(row, rest)| (row.0, row.1, row.2, rest.as_str())).collect();
    let batch = logs(&kept);
    let numbers =
        Float64Array::from_iter(objects.iter().map(|object| object.get("n").and_then(|value| value.as_f64())));
    let flags = BooleanArray::from_iter(objects.iter().map(|object| object.get("b").and_then(|value| value.as_bool())));
    let words = StringArray::from_iter(objects.iter().map(|object| match object.get("t") {
        Some(serde_json::Value::String(text)) => Some(text.clone()),
        Some(value @ (serde_json::Value::Array(_) | serde_json::Value::Object(_))) => Some(value.to_string()),
        _ => None,
    }));
    let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    for (name, kind, column) in [
        ("attributes.b", DataType::Boolean, Arc::new(flags) as ArrayRef),
        ("attributes.n", DataType::Float64, Arc::new(numbers)),
        ("attributes.t", DataType::Utf8, Arc::new(words)),
    ] {
        fields.push(Arc::new(Field::new(name, kind, true)));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}
