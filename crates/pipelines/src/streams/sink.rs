//! A stream as a sink: each row is appended to the log once.
//!
//! The rows of an epoch become objects beside the pipeline's checkpoints, durable before the epoch is prepared. Once it
//! is decided they are appended under the name of this sink as a producer: the generation that prepared them as its
//! epoch, and a sequence made of the number of the pipeline's epoch and the number of the append in it. The log refuses
//! what it has under such a number, so appending is repeated without harm, by this process or the next: after a kill
//! between an append and its answer as well.
//!
//! Every start settles the last epoch that was decided, and then raises the producer's epoch to its own generation: from
//! there on the log refuses whatever an older one still appends.
//!
//! Where rows are delivered at least once, they are appended as they come: [`at_once`].
//!
//! Invariant: the objects of an epoch stay until the next one is committed. Whoever takes over finds them.

mod at_once;

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use siphasher::sip128::SipHasher13;
use weir_base::{ErrorKind, Kinded, StreamName};
use weir_component::batch::bytes_of;
use weir_component::checkpoint::CheckpointError;
use weir_component::sink::{Delivery, Opening, PlannedSink, Receipt, Sink, SinkError};
use weir_component::spec::Fault;
use weir_data::batch::concat_sparse;
use weir_data::defined::{ColumnsError, has_columns};
use weir_data::streams::{self, StreamDef};
use weir_log::{Append, AppendPart, Durability, LogError, ProducerSequence};

use super::Shared;
use super::rows::{Mapping, key_with_time, own_columns};
use at_once::AtOnce;

/// Rows of one append; each batch of an object is one.
const APPEND_ROWS: usize = if cfg!(test) { 3 } else { 8192 };
/// Bytes of one append, unless a single row has more.
const APPEND_BYTES: usize = 4 << 20;
/// Rows wait in memory up to so many bytes, then they are an object.
const OBJECT_BYTES: usize = if cfg!(test) { 512 } else { 16 << 20 };
/// Bits of a sequence for the appends of an epoch.
const APPEND_BITS: u32 = 20;

/// A stream that can be written.
pub(super) struct StreamSinkPlan {
    shared: Arc<Shared>,
    name: String,
    /// The columns a result is known by; empty if every row stands for itself.
    key: Vec<String>,
    delivery: Delivery,
}

impl StreamSinkPlan {
    pub(super) fn new(shared: &Arc<Shared>, name: String, key: Vec<String>, delivery: Delivery) -> Self {
        Self { shared: Arc::clone(shared), name, key, delivery }
    }

    /// The stream as it has to be for rows with these columns, durable if it is to be.
    fn define(&self, schema: &SchemaRef, is_kept: bool) -> Result<Arc<StreamDef>, SinkError> {
        let Shared { definitions, options, .. } = self.shared.as_ref();
        let (columns, key) = (own_columns(schema), key_with_time(schema, &self.key));
        let failed = |error: ColumnsError| SinkError::new(ErrorKind::Config, error.to_string());
        match streams::stream(&self.name) {
            Some(built_in) => {
                has_columns(built_in, &columns, &key).map_err(failed)?;
                Ok(Arc::clone(built_in))
            }
            None if is_kept => definitions.define(&options.tenant, &self.name, &columns, &key),
            None => {
                let before = definitions.registry().get(&options.tenant, &self.name);
                let stream = StreamDef::define(&self.name, before.as_deref(), &columns, &key);
                stream.map(Arc::new).map_err(failed)
            }
        }
    }
}

#[async_trait]
impl PlannedSink for StreamSinkPlan {
    fn delivery(&self) -> Delivery {
        self.delivery
    }

    async fn open(&self, schema: SchemaRef, opened: Opening) -> Result<Box<dyn Sink>, SinkError> {
        let options = &self.shared.options;
        let stream = self.define(&schema, true)?;
        let name = StreamName::new(&self.name).map_err(|error| SinkError::new(ErrorKind::Config, error.to_string()))?;
        let generation = epoch_of(opened.generation)?;
        let mut sink = StreamSink {
            producer: producer(options.tenant.as_str(), &options.pipeline, options.incarnation, &self.name),
            mapping: Mapping::new(Arc::clone(&stream), &schema, options.since),
            shared: Arc::clone(&self.shared),
            stream,
            name,
            generation,
            waiting: Vec::new(),
            waiting_bytes: 0,
            objects: Vec::new(),
            count: 0,
            committed: Vec::new(),
        };
        // Also where it was delivered exactly once until now: what was decided is carried out.
        sink.settle(opened.last).await?;
        Ok(match self.delivery {
            Delivery::ExactlyOnce => Box::new(sink),
            Delivery::AtLeastOnce => Box::new(AtOnce::new(sink)),
        })
    }

    fn describe(&self) -> String {
        match self.key.as_slice() {
            [] => format!("writes the stream {}", self.name),
            key => format!("writes the stream {}, by {}", self.name, key.join(", ")),
        }
    }

    fn check(&self, schema: &SchemaRef) -> Vec<Fault> {
        match self.define(schema, false) {
            Ok(_) => Vec::new(),
            Err(error) => {
                vec![Fault::new("", error.message, "rename the column, cast it, or write another stream")]
            }
        }
    }

    fn stream(&self) -> Option<&str> {
        Some(&self.name)
    }
}

fn epoch_of(generation: u64) -> Result<u32, SinkError> {
    u32::try_from(generation)
        .map_err(|_| SinkError::new(ErrorKind::Internal, "the pipeline was started too often to be told apart"))
}

/// The name of a sink as a producer of the log.
fn producer(tenant: &str, pipeline: &str, incarnation: u64, stream: &str) -> u128 {
    // None of them has a zero byte in it.
    let whole = format!("{tenant}\0{pipeline}\0{incarnation}\0{stream}");
    SipHasher13::new().hash(whole.as_bytes()).as_u128()
}

/// What [`Sink::commit`] needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamReceipt {
    /// The start of the pipeline that prepared the epoch.
    generation: u32,
    /// Where its rows are, in their order.
    objects: Vec<String>,
}

fn decode_receipt(receipt: &Receipt) -> Result<StreamReceipt, SinkError> {
    StreamReceipt::deserialize(&receipt.0)
        .map_err(|error| SinkError::new(ErrorKind::Corrupt, format!("the receipt of a stream makes no sense: {error}")))
}

struct StreamSink {
    shared: Arc<Shared>,
    stream: Arc<StreamDef>,
    name: StreamName,
    mapping: Mapping,
    producer: u128,
    generation: u32,
    /// Rows that are in no object yet.
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    /// Objects of the epoch that is being written.
    objects: Vec<String>,
    /// Objects made by this start of the pipeline.
    count: u64,
    /// Objects of the epoch that was committed last.
    committed: Vec<String>,
}

fn internal(doing: &str, error: &arrow::error::ArrowError) -> SinkError {
    SinkError::new(ErrorKind::Internal, format!("cannot {doing}: {error}"))
}

fn of_store(error: CheckpointError) -> SinkError {
    SinkError::new(error.kind, error.message)
}

impl StreamSink {
    /// What all objects of this sink begin with. No name of a stream has a dot in it.
    fn prefix(&self) -> String {
        format!("rows.{}.", self.name)
    }

    /// Commits the epoch that was decided last, fences older generations, and removes what they left.
    async fn settle(&mut self, last: Option<(u64, Receipt)>) -> Result<(), SinkError> {
        let mut kept = Vec::new();
        if let Some((epoch, receipt)) = last.filter(|(_, receipt)| !receipt.0.is_null()) {
            let receipt = decode_receipt(&receipt)?;
            self.append_all(epoch, &receipt).await?;
            kept = receipt.objects;
        }
        let fence = self.append(self.generation, 0, Vec::new()).await;
        fence.map_err(|error| self.of_log(&error))?;
        let prefix = self.prefix();
        for name in self.shared.store.list().await.map_err(of_store)? {
            if name.starts_with(&prefix) && !kept.contains(&name) {
                self.shared.store.delete(&name).await.map_err(of_store)?;
            }
        }
        self.committed = kept;
        Ok(())
    }

    fn appending(&self, batches: Vec<RecordBatch>, producer: Option<ProducerSequence>) -> Append {
        let part = |batch| AppendPart { stream: self.name.clone(), batch, id_column: None };
        Append {
            tenant: self.shared.options.tenant.clone(),
            parts: batches.into_iter().map(part).collect(),
            idempotency_key: None,
            producer,
            durability: Durability::Disk,
        }
    }

    async fn append(&self, epoch: u32, sequence: u64, batches: Vec<RecordBatch>) -> Result<(), LogError> {
        let producer = ProducerSequence { producer: self.producer, epoch, sequence };
        self.shared.appends.append(self.appending(batches, Some(producer))).await.map(|_| ())
    }

    /// Rows as the stream has them, if the tenant may store them.
    fn mapped(&mut self, rows: &RecordBatch, times: &ScalarBuffer<i64>) -> Result<RecordBatch, SinkError> {
        self.shared.definitions.admit(&self.shared.options.tenant)?;
        let rows = self.mapping.map(rows, times, self.shared.clock.now());
        rows.map_err(|error| internal("make rows of a stream", &error))
    }

    fn of_log(&self, error: &LogError) -> SinkError {
        if let LogError::Fenced { current, .. } = error {
            let message = format!("another process runs this pipeline since generation {current}");
            return SinkError::new(ErrorKind::Conflict, message);
        }
        let kind = match error.kind() {
            // The log is closed because the server stops, and comes back.
            _ if matches!(error, LogError::Closed) => ErrorKind::Transient,
            kind => kind,
        };
        SinkError::new(kind, format!("cannot append to the stream `{}`: {}", self.name, weir_base::error::chain(error)))
    }

    /// Appends the rows of an epoch; those the log has already are not stored again.
    async fn append_all(&self, epoch: u64, receipt: &StreamReceipt) -> Result<(), SinkError> {
        let mut number = 0_u64;
        for name in &receipt.objects {
            let bytes = self.shared.store.read(name).await.map_err(of_store)?;
            let bytes = bytes.ok_or_else(|| {
                let message =
                    format!("the rows of epoch {epoch} for the stream `{}` are gone: there is no {name}", self.name);
                SinkError::new(ErrorKind::Corrupt, message)
            })?;
            let reader = StreamReader::try_new(Cursor::new(bytes), None)
                .map_err(|error| internal("read rows that were prepared", &error))?;
            for batch in reader {
                let batch = batch.map_err(|error| internal("read rows that were prepared", &error))?;
                number += 1;
                if number >> APPEND_BITS > 0 {
                    return Err(SinkError::new(ErrorKind::TooLarge, "an epoch has more rows than can be numbered"));
                }
                let sequence = epoch << APPEND_BITS | number;
                match self.append(receipt.generation, sequence, vec![batch]).await {
                    Ok(()) => {}
                    // A start of the pipeline fences older ones once it has settled what they have decided.
                    Err(LogError::Fenced { current, .. }) if current <= self.generation => return Ok(()),
                    Err(error) => return Err(self.of_log(&error)),
                }
            }
        }
        Ok(())
    }

    /// Makes an object of the rows that wait.
    async fn make_object(&mut self) -> Result<(), SinkError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let name = format!("{}{:010}.{:010}", self.prefix(), self.generation, self.count + 1);
        let bytes = encode(&self.stream, &self.waiting).map_err(|error| internal("prepare rows", &error))?;
        // One of this name was written by an attempt before, out of the same rows.
        self.shared.store.create(&name, &bytes).await.map_err(of_store)?;
        self.count += 1;
        self.objects.push(name);
        self.waiting.clear();
        self.waiting_bytes = 0;
        Ok(())
    }
}

/// How many of these rows are appended at once.
fn append_rows(rows: &RecordBatch) -> usize {
    let per_row = bytes_of(rows) / rows.num_rows().max(1) + 1;
    (APPEND_BYTES / per_row).clamp(1, APPEND_ROWS)
}

/// Rows as an object: an Arrow IPC stream in which each batch is what is appended at once.
fn encode(stream: &StreamDef, batches: &[RecordBatch]) -> Result<Vec<u8>, arrow::error::ArrowError> {
    let rows = concat_sparse(&stream.schema, batches)?;
    let whole = concat_batches(&rows.schema(), [&rows])?;
    let step = append_rows(&whole);
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, whole.schema_ref())?;
    for begin in (0..whole.num_rows()).step_by(step) {
        writer.write(&whole.slice(begin, step.min(whole.num_rows() - begin)))?;
    }
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

#[async_trait]
impl Sink for StreamSink {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        let now = self.shared.clock.now().0;
        self.write_timed(rows, &vec![now; rows.num_rows()].into()).await
    }

    async fn write_timed(&mut self, rows: &RecordBatch, times: &ScalarBuffer<i64>) -> Result<(), SinkError> {
        if self.waiting_bytes >= OBJECT_BYTES {
            self.make_object().await?;
        }
        if rows.num_rows() > 0 {
            // Here, and not where rows are appended: what was decided is carried out.
            let rows = self.mapped(rows, times)?;
            self.waiting_bytes += bytes_of(&rows);
            self.waiting.push(rows);
        }
        Ok(())
    }

    async fn prepare(&mut self, _epoch: u64) -> Result<Receipt, SinkError> {
        self.make_object().await?;
        let receipt = StreamReceipt { generation: self.generation, objects: std::mem::take(&mut self.objects) };
        let receipt = serde_json::to_value(receipt)
            .map_err(|error| SinkError::new(ErrorKind::Internal, format!("cannot write a receipt: {error}")))?;
        Ok(Receipt(receipt))
    }

    async fn commit(&mut self, epoch: u64, receipt: &Receipt) -> Result<(), SinkError> {
        let receipt = decode_receipt(receipt)?;
        self.append_all(epoch, &receipt).await?;
        for name in std::mem::take(&mut self.committed) {
            // What stays is removed by the next start.
            if !receipt.objects.contains(&name)
                && let Err(error) = self.shared.store.delete(&name).await
            {
                tracing::debug!(stream = %self.name, %error, "rows that are in the log could not be removed");
            }
        }
        self.committed = receipt.objects;
        Ok(())
    }
}
