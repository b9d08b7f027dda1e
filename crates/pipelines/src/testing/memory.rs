//! Sources, sinks and a store of checkpoints that live in memory and outlive a job, as their real
//! counterparts outlive a process.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;
use weir_base::ErrorKind;
use weir_component::checkpoint::{CheckpointError, CheckpointStore, Created};
use weir_component::sink::{Delivery, Opening, PlannedSink, Receipt, Sink, SinkError};
use weir_component::source::{Next, PartitionName, PlannedSource, Source, SourceError, SourcePosition, SourceRows};

/// A stream of rows in partitions, to which more can be added while it is read.
#[derive(Debug)]
pub struct MemoryStream {
    schema: SchemaRef,
    /// Rows by partition; never removed, so that they can be read again.
    partitions: Mutex<BTreeMap<String, Vec<RecordBatch>>>,
    ended: Mutex<bool>,
    /// Decides how many rows are read at a time; 0: all there are.
    rows_at_a_time: Mutex<VecDeque<usize>>,
}

impl MemoryStream {
    /// A stream with partitions and no rows.
    pub fn new(schema: SchemaRef, partitions: &[&str]) -> Arc<Self> {
        Arc::new(Self {
            schema,
            partitions: Mutex::new(partitions.iter().map(|name| ((*name).to_owned(), Vec::new())).collect()),
            ended: Mutex::new(false),
            rows_at_a_time: Mutex::default(),
        })
    }

    /// Its columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Adds rows at the end of a partition.
    pub fn send(&self, partition: &str, rows: RecordBatch) {
        self.partitions.lock().entry(partition.to_owned()).or_default().push(rows);
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.partitions.lock().values().flatten().map(RecordBatch::num_rows).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// No more rows come.
    pub fn end(&self) {
        *self.ended.lock() = true;
    }

    /// The sizes of the batches read next; after these, batches are as large as they can be.
    pub fn cut(&self, sizes: impl IntoIterator<Item = usize>) {
        *self.rows_at_a_time.lock() = sizes.into_iter().collect();
    }
}

/// How long a reader that has nothing waits at most. Time only passes when a test lets it.
const NOTHING: Duration = Duration::from_millis(1);

/// A stream, as a source of a plan.
#[derive(Clone, Debug)]
pub struct MemorySource {
    /// The rows.
    pub stream: Arc<MemoryStream>,
    /// The column with the event time where a document does not name one.
    pub time: Option<&'static str>,
}

#[async_trait]
impl PlannedSource for MemorySource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.stream.schema)
    }

    fn is_bounded(&self) -> bool {
        false
    }

    async fn open(&self, position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        let mut read = BTreeMap::new();
        for (partition, place) in position.unwrap_or_default().partitions {
            let row = place.as_u64().and_then(|row| usize::try_from(row).ok());
            let row = row.ok_or_else(|| SourceError::new(ErrorKind::Corrupt, "the position is not a row"))?;
            read.insert(partition, row);
        }
        Ok(Box::new(Reader { stream: Arc::clone(&self.stream), read }))
    }

    fn describe(&self) -> String {
        "rows in memory".to_owned()
    }

    fn time(&self) -> Option<&str> {
        self.time
    }
}

/// What was sent last to a stream, as a table of a plan: all its rows, and then the end.
#[derive(Clone, Debug)]
pub struct MemoryWhole(pub Arc<MemoryStream>);

#[async_trait]
impl PlannedSource for MemoryWhole {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn is_bounded(&self) -> bool {
        true
    }

    async fn open(&self, _position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        let newest = self.0.partitions.lock().values().filter_map(|sent| sent.last().cloned()).next_back();
        Ok(Box::new(WholeReader(newest)))
    }

    fn describe(&self) -> String {
        "what was sent last".to_owned()
    }
}

struct WholeReader(Option<RecordBatch>);

#[async_trait]
impl Source for WholeReader {
    async fn next(&mut self, _behind: Option<&str>) -> Result<Next, SourceError> {
        Ok(self.0.take().map_or(Next::Done, |rows| {
            Next::Rows(SourceRows { partition: "all".into(), rows, arrived: None, rejects: Vec::new(), bytes: 0 })
        }))
    }

    fn position(&self) -> SourcePosition {
        SourcePosition::default()
    }
}

struct Reader {
    stream: Arc<MemoryStream>,
    /// Rows read by partition.
    read: BTreeMap<String, usize>,
}

impl Reader {
    /// The next rows of a partition, at most `max` of them.
    fn rows(&self, batches: &[RecordBatch], from: usize, max: usize) -> Option<RecordBatch> {
        let all = concat_batches(&self.stream.schema, batches).ok()?;
        let count = (all.num_rows() - from).min(max);
        (count > 0).then(|| all.slice(from, count))
    }
}

#[async_trait]
impl Source for Reader {
    async fn next(&mut self, behind: Option<&str>) -> Result<Next, SourceError> {
        let partitions = self.stream.partitions.lock();
        let ready = |name: &str| {
            let rows: usize = partitions.get(name)?.iter().map(RecordBatch::num_rows).sum();
            (rows > self.read.get(name).copied().unwrap_or(0)).then(|| name.to_owned())
        };
        let Some(name) = behind.and_then(ready).or_else(|| partitions.keys().find_map(|name| ready(name))) else {
            return Ok(if *self.stream.ended.lock() { Next::Done } else { Next::Nothing(NOTHING) });
        };
        let max = match self.stream.rows_at_a_time.lock().pop_front() {
            None | Some(0) => usize::MAX,
            Some(max) => max,
        };
        let from = self.read.get(&name).copied().unwrap_or(0);
        let rows = self.rows(&partitions[&name], from, max);
        let Some(rows) = rows else {
            return Err(SourceError::new(ErrorKind::Internal, "rows of a stream in memory have different columns"));
        };
        drop(partitions);
        self.read.insert(name.clone(), from + rows.num_rows());
        Ok(Next::Rows(SourceRows { partition: name.into(), rows, arrived: None, rejects: Vec::new(), bytes: 0 }))
    }

    fn partitions(&self) -> Option<Arc<[PartitionName]>> {
        Some(self.stream.partitions.lock().keys().map(|name| name.as_str().into()).collect())
    }

    fn lags(&self) -> Vec<(PartitionName, u64)> {
        let partitions = self.stream.partitions.lock();
        let lag = |(name, batches): (&String, &Vec<RecordBatch>)| {
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            (name.as_str().into(), rows.saturating_sub(self.read.get(name).copied().unwrap_or(0)) as u64)
        };
        partitions.iter().map(lag).collect()
    }

    fn position(&self) -> SourcePosition {
        SourcePosition { partitions: self.read.iter().map(|(name, row)| (name.clone(), json!(row))).collect() }
    }
}

/// What was written to a sink, as the outside sees it.
#[derive(Debug, Default)]
pub struct MemoryTable {
    state: Mutex<TableState>,
}

#[derive(Debug, Default)]
struct TableState {
    /// Prepared rows by generation and epoch; not seen by anybody.
    staged: BTreeMap<(u64, u64), Vec<RecordBatch>>,
    /// Rows of committed epochs.
    committed: BTreeMap<u64, Vec<RecordBatch>>,
    /// So many calls fail, before or after they have done what they should.
    down: usize,
    /// An answer comes when it was asked for so often.
    slow: usize,
}

impl MemoryTable {
    /// All committed rows, by epoch.
    pub fn rows(&self) -> Vec<RecordBatch> {
        self.state.lock().committed.values().flatten().cloned().collect()
    }

    /// So many calls from now on fail.
    pub fn down(&self, calls: usize) {
        self.state.lock().down = calls;
    }

    /// From now on an answer comes when it was asked for so often.
    pub fn slow(&self, times: usize) {
        self.state.lock().slow = times;
    }

    /// Answers, in its time, and fails if it is down.
    async fn answer(&self) -> Result<(), SinkError> {
        let mut asked = 0;
        std::future::poll_fn(|_| {
            asked += 1;
            if asked > self.state.lock().slow { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.is_up()
    }

    /// Fails if it is down.
    fn is_up(&self) -> Result<(), SinkError> {
        let mut state = self.state.lock();
        if state.down == 0 {
            return Ok(());
        }
        state.down -= 1;
        Err(SinkError::new(ErrorKind::Transient, "the table did not answer"))
    }

    fn commit(&self, epoch: u64, receipt: &Receipt) -> Result<(), SinkError> {
        let mut state = self.state.lock();
        if state.committed.contains_key(&epoch) {
            return Ok(());
        }
        let generation = receipt.0.as_u64().unwrap_or(0);
        let rows = state.staged.remove(&(generation, epoch));
        let rows =
            rows.ok_or_else(|| SinkError::new(ErrorKind::Corrupt, format!("epoch {epoch} was never prepared")))?;
        state.committed.insert(epoch, rows);
        Ok(())
    }
}

/// A table, as a sink of a plan that delivers exactly once.
#[derive(Clone, Debug, Default)]
pub struct MemorySink(pub Arc<MemoryTable>);

#[async_trait]
impl PlannedSink for MemorySink {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn open(&self, _schema: SchemaRef, opening: Opening) -> Result<Box<dyn Sink>, SinkError> {
        if let Some((epoch, receipt)) = &opening.last {
            self.0.commit(*epoch, receipt)?;
            self.0.is_up()?;
        }
        self.0.state.lock().staged.retain(|(generation, _), _| *generation >= opening.generation);
        Ok(Box::new(Writer { table: Arc::clone(&self.0), generation: opening.generation, rows: Vec::new() }))
    }

    fn describe(&self) -> String {
        "a table in memory".to_owned()
    }
}

struct Writer {
    table: Arc<MemoryTable>,
    generation: u64,
    rows: Vec<RecordBatch>,
}

#[async_trait]
impl Sink for Writer {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        self.table.answer().await?;
        self.rows.push(rows.clone());
        Ok(())
    }

    async fn prepare(&mut self, epoch: u64) -> Result<Receipt, SinkError> {
        self.table.answer().await?;
        let rows = std::mem::take(&mut self.rows);
        self.table.state.lock().staged.insert((self.generation, epoch), rows);
        Ok(Receipt(json!(self.generation)))
    }

    async fn commit(&mut self, epoch: u64, receipt: &Receipt) -> Result<(), SinkError> {
        // It may have done it when it fails.
        self.table.commit(epoch, receipt)?;
        self.table.answer().await
    }
}

/// What goes wrong at a call of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// It does nothing and fails.
    Fails,
    /// It does what it should, and the answer is lost.
    AnswerLost,
}

/// A store of checkpoints.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What goes wrong at the next calls that write.
    faults: Mutex<VecDeque<Option<StoreFault>>>,
}

impl MemoryStore {
    /// What goes wrong at the next calls that write.
    pub fn fail(&self, faults: impl IntoIterator<Item = Option<StoreFault>>) {
        *self.faults.lock() = faults.into_iter().collect();
    }

    /// Bytes of all objects whose names begin so.
    pub fn bytes(&self, prefix: &str) -> usize {
        let objects = self.objects.lock();
        objects.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, bytes)| bytes.len()).sum()
    }

    /// The names of all objects.
    pub fn names(&self) -> Vec<String> {
        self.objects.lock().keys().cloned().collect()
    }
}

fn lost() -> CheckpointError {
    CheckpointError::new(ErrorKind::Transient, "the store did not answer")
}

#[async_trait]
impl CheckpointStore for MemoryStore {
    async fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, CheckpointError> {
        let fault = self.faults.lock().pop_front().flatten();
        if fault == Some(StoreFault::Fails) {
            return Err(lost());
        }
        let mut objects = self.objects.lock();
        let created = if objects.contains_key(name) {
            Created::Before
        } else {
            objects.insert(name.to_owned(), bytes.to_vec());
            Created::Now
        };
        if fault == Some(StoreFault::AnswerLost) { Err(lost()) } else { Ok(created) }
    }

    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        Ok(self.objects.lock().get(name).cloned())
    }

    async fn list(&self) -> Result<Vec<String>, CheckpointError> {
        Ok(self.names())
    }

    async fn delete(&self, name: &str) -> Result<(), CheckpointError> {
        self.objects.lock().remove(name);
        Ok(())
    }
}
