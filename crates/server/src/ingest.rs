//! The one way into Weir for pushed rows: decoded rows in, durable and queryable rows out, every
//! row accounted for.
//!
//! Invariant: [`Ingest::accept`] returns success only after the log has made the rows durable and
//! the tables see them (or, for a tenant that asked for `durability: memory`, says so).
//! Invariant: received = stored + deduplicated + rejected, for every request.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringBuilder, TimestampNanosecondBuilder};
use arrow::error::ArrowError;
use hashbrown::HashMap;
use parking_lot::RwLock;
use weir_base::{Clock, ErrorKind, Kinded, StreamName, TenantId, Timestamp};
use weir_codecs::{Decoded, DecodedBatch};
use weir_data::{Reject, batch, streams};
use weir_log::{Append, AppendPart, Durability, IdempotencyKey, Log, LogError};
use weir_meta::attributes::AttributeKey;
use weir_meta::tenants::{Durability as TenantDurability, Tenant};
use weir_meta::{Meta, MetaError};
use weir_store::{Store, StoreError};

use crate::problem::Problem;
use crate::telemetry::Telemetry;

mod gather;

use gather::Gatherings;

/// Why rows were not accepted. Nothing of the request was stored.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The log did not take the rows.
    #[error("storing rows of tenant {tenant}")]
    Log {
        /// The tenant.
        tenant: TenantId,
        /// Why.
        source: LogError,
    },
    /// The metadata database did not take new attribute keys.
    #[error("declaring attribute keys of tenant {tenant}")]
    Meta {
        /// The tenant.
        tenant: TenantId,
        /// Why.
        source: MetaError,
    },
    /// A batch could not be built; a bug.
    #[error("building a batch for {stream}")]
    Batch {
        /// The stream.
        stream: &'static str,
        /// Why.
        source: ArrowError,
    },
    /// The table of the rows is damaged and cannot be written: rows would be acknowledged and never
    /// be seen, and would hold the log for everybody.
    #[error("the table {stream} of tenant {tenant} is damaged")]
    Damaged {
        /// The tenant.
        tenant: TenantId,
        /// The stream.
        stream: StreamName,
        /// Where, and what is wrong.
        source: Box<StoreError>,
    },
    /// The tenant's files take as much room as they may.
    #[error("the tenant stores as much as it may")]
    Storage {
        /// The limit `storage_bytes_max`.
        max: u64,
        /// What is stored.
        stored: u64,
    },
    /// The blocking pool is gone; Weir is stopping.
    #[error("the server is stopping")]
    Stopping,
}

impl Kinded for IngestError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Log { source, .. } => source.kind(),
            Self::Meta { source, .. } => source.kind(),
            Self::Batch { .. } => ErrorKind::Internal,
            Self::Damaged { source, .. } => source.kind(),
            Self::Storage { .. } => ErrorKind::Limit,
            Self::Stopping => ErrorKind::Transient,
        }
    }
}

impl IngestError {
    /// What [`Problem`] says beyond the kind and the message.
    pub(crate) fn describe(&self, problem: Problem) -> Problem {
        match self {
            Self::Storage { max, stored } => problem
                .limit("storage_bytes_max", *max, Some(*stored))
                .hint("shorten the tenant's retention or raise its limit"),
            Self::Log { source: LogError::KeyReused, .. } => problem
                .code("idempotency_key_reused")
                .pointer("Idempotency-Key")
                .hint("a key is for one request and its repetitions: send another request under a key of its own"),
            _ => problem,
        }
    }
}

/// Bytes of each tenant's table files, as of a few seconds ago.
#[derive(Debug, Default)]
pub struct StorageUse(RwLock<HashMap<TenantId, u64>>);

impl StorageUse {
    /// Looks at the tables again.
    pub fn refresh(&self, store: &Store) {
        let mut bytes: HashMap<TenantId, u64> = HashMap::new();
        for table in store.stats().tables {
            *bytes.entry(table.tenant).or_default() += table.bytes;
        }
        *self.0.write() = bytes;
    }

    /// What a tenant stores.
    pub fn bytes(&self, tenant: &TenantId) -> u64 {
        self.0.read().get(tenant).copied().unwrap_or(0)
    }
}

/// A tenant's stateless step between decoding and the log: enrich, redact, filter, route. Steps run
/// in order, per request, off the I/O threads.
pub trait PrepareStep: Send + Sync {
    /// Changes a batch. Rows it takes out are given back as rejects, so that they stay accounted
    /// for.
    fn prepare(&self, tenant: &Tenant, batch: DecodedBatch) -> Result<(Option<DecodedBatch>, Vec<Reject>), ArrowError>;
}

/// What surrounds the rows of one request.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// The owner of the rows.
    pub tenant: &'a Arc<Tenant>,
    /// The key that was used.
    pub key_id: &'a str,
    /// How the rows came: `ingest`, `segment`, `otlp_http`, `otlp_grpc`, ...
    pub source: &'static str,
    /// The stream the rows were meant for, for rejected ones and for counting.
    pub stream: &'static str,
    /// The id of the request.
    pub request_id: &'a str,
    /// The client's idempotency key, if it sent one, and a hash of the body it came with.
    pub idempotency_key: Option<(&'a str, u64)>,
    /// Bytes of the body as they came over the wire.
    pub wire_bytes: usize,
    /// When the request arrived.
    pub received_at: Timestamp,
}

/// What became of a request's rows.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows in the request.
    pub received: usize,
    /// Rows stored by this request.
    pub stored: usize,
    /// Rows that were stored before.
    pub deduplicated: usize,
    /// Rows refused.
    pub rejects: Vec<Reject>,
    /// The rows are not on disk yet, because the tenant asked for `durability: memory`.
    pub memory_only: bool,
}

/// The way in. One for the whole server.
pub struct Ingest {
    meta: Arc<Meta>,
    log: Arc<Log>,
    clock: Arc<dyn Clock>,
    telemetry: Arc<Telemetry>,
    store: Arc<Store>,
    storage: Arc<StorageUse>,
    steps: Vec<Box<dyn PrepareStep>>,
    gatherings: Gatherings,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ingest").field("steps", &self.steps.len()).finish_non_exhaustive()
    }
}

impl Ingest {
    /// The way into `log`.
    pub fn new(
        meta: Arc<Meta>,
        log: Arc<Log>,
        clock: Arc<dyn Clock>,
        telemetry: Arc<Telemetry>,
        store: Arc<Store>,
        storage: Arc<StorageUse>,
        steps: Vec<Box<dyn PrepareStep>>,
    ) -> Self {
        Self { meta, log, clock, telemetry, store, storage, steps, gatherings: Gatherings::default() }
    }

    /// What each tenant stores, as the limit on it is decided.
    pub fn storage(&self) -> &StorageUse {
        &self.storage
    }

    /// Makes the rows of one request durable and queryable.
    pub async fn accept(&self, envelope: Envelope<'_>, decoded: Decoded) -> Result<Outcome, IngestError> {
        let result = self.store(&envelope, decoded).await;
        self.count(&envelope, result.as_ref().ok());
        result
    }

    /// Counts a request that was answered; `outcome` is `None` if it failed as a whole.
    pub(crate) fn count(&self, envelope: &Envelope<'_>, outcome: Option<&Outcome>) {
        let took = self.clock.now().since(envelope.received_at);
        self.telemetry.ingested(envelope, outcome, took);
    }

    /// Whether small requests of this tenant may be gathered: steps answer for the rows of one
    /// request, and who does without the disk does not wait for others.
    pub(crate) fn gathers(&self, tenant: &Tenant) -> bool {
        self.steps.is_empty() && tenant.settings.durability == TenantDurability::Disk
    }

    /// Refuses rows of a tenant that stores as much as it may.
    fn check_storage(&self, tenant: &Tenant) -> Result<(), IngestError> {
        let max = tenant.limits.storage_bytes_max.0;
        if max == 0 {
            return Ok(());
        }
        let stored = self.storage.bytes(&tenant.id);
        if stored < max { Ok(()) } else { Err(IngestError::Storage { max, stored }) }
    }

    /// Refuses rows for a table that is damaged.
    fn check_damage(&self, tenant: &Tenant, stream: &StreamName) -> Result<(), IngestError> {
        match self.store.damage(&tenant.id, stream) {
            None => Ok(()),
            Some(source) => {
                let (tenant, stream) = (tenant.id.clone(), stream.clone());
                Err(IngestError::Damaged { tenant, stream, source: Box::new(source) })
            }
        }
    }

    async fn store(&self, envelope: &Envelope<'_>, decoded: Decoded) -> Result<Outcome, IngestError> {
        let tenant = envelope.tenant;
        self.check_storage(tenant)?;
        let received = decoded.received;
        let mut rejects = decoded.rejects;
        let batches = self.prepare(tenant, decoded.batches, &mut rejects)?;
        let fresh = self.undeclared(tenant, &batches);
        if !fresh.is_empty() {
            self.declare(tenant, fresh).await?;
        }

        let mut parts = Vec::with_capacity(batches.len() + 1);
        for decoded in &batches {
            parts.push(AppendPart {
                stream: builtin(decoded.stream),
                batch: decoded.batch.clone(),
                id_column: id_column(decoded.stream),
            });
        }
        let good: usize = parts.iter().map(|part| part.batch.num_rows()).sum();
        if !rejects.is_empty() {
            let batch = rejected_batch(&rejects, envelope)
                .map_err(|source| IngestError::Batch { stream: "_rejected", source })?;
            parts.push(AppendPart { stream: builtin("_rejected"), batch, id_column: None });
        }
        let memory_only = tenant.settings.durability == TenantDurability::Memory;
        if parts.is_empty() {
            return Ok(Outcome { received, memory_only, ..Outcome::default() });
        }

        for part in &parts {
            self.check_damage(tenant, &part.stream)?;
        }

        let append = Append {
            tenant: tenant.id.clone(),
            parts,
            idempotency_key: envelope.idempotency_key.map(|(key, body)| IdempotencyKey {
                key: [envelope.source.as_bytes(), b"\0", envelope.stream.as_bytes(), b"\0", key.as_bytes()].concat(),
                body,
            }),
            producer: None,
            durability: if memory_only { Durability::Memory } else { Durability::Disk },
        };
        let appended =
            self.log.append(append).await.map_err(|source| IngestError::Log { tenant: tenant.id.clone(), source })?;
        let stored: usize =
            if appended.repeated { 0 } else { appended.parts.iter().take(batches.len()).map(|part| part.stored).sum() };
        Ok(Outcome { received, stored, deduplicated: good - stored, rejects, memory_only })
    }

    fn prepare(
        &self,
        tenant: &Tenant,
        batches: Vec<DecodedBatch>,
        rejects: &mut Vec<Reject>,
    ) -> Result<Vec<DecodedBatch>, IngestError> {
        if self.steps.is_empty() {
            return Ok(batches);
        }
        let mut prepared = Vec::with_capacity(batches.len());
        for batch in batches {
            let stream = batch.stream;
            let mut left = Some(batch);
            for step in &self.steps {
                let Some(batch) = left.take() else { break };
                let (rest, mut refused) =
                    step.prepare(tenant, batch).map_err(|source| IngestError::Batch { stream, source })?;
                rejects.append(&mut refused);
                left = rest;
            }
            prepared.extend(left);
        }
        Ok(prepared)
    }

    /// The keys never seen before, up to the tenant's bound.
    fn undeclared(&self, tenant: &Tenant, batches: &[DecodedBatch]) -> Vec<AttributeKey> {
        let keys_max = keys_max(tenant);
        // Where a stored kind is damaged queries fail, and rows are still taken.
        let kinds = self.meta.attribute_kinds(&tenant.id).ok();
        let mut fresh = Vec::new();
        for batch in batches {
            if kinds.as_ref().is_some_and(|kinds| kinds.len(batch.stream) >= keys_max) {
                continue;
            }
            for (column, observed) in &batch.observed {
                for key in observed {
                    if kinds.as_ref().and_then(|kinds| kinds.get(batch.stream, column, &key.key)).is_none() {
                        fresh.push(AttributeKey {
                            stream: builtin(batch.stream),
                            column: (*column).to_owned(),
                            key: key.key.clone(),
                            kind: key.kind,
                        });
                    }
                }
            }
        }
        fresh
    }

    /// Fixes the kind of keys never seen before, so that every later query reads them alike.
    async fn declare(&self, tenant: &Tenant, fresh: Vec<AttributeKey>) -> Result<(), IngestError> {
        let (meta, id, keys_max) = (Arc::clone(&self.meta), tenant.id.clone(), keys_max(tenant));
        match tokio::task::spawn_blocking(move || meta.declare_attributes(&id, &fresh, keys_max)).await {
            Ok(declared) => {
                declared.map(|_| ()).map_err(|source| IngestError::Meta { tenant: tenant.id.clone(), source })
            }
            Err(_) => Err(IngestError::Stopping),
        }
    }
}

fn keys_max(tenant: &Tenant) -> usize {
    usize::try_from(tenant.limits.attribute_keys_max).unwrap_or(usize::MAX)
}

/// The column that identifies the rows of a built-in stream.
fn id_column(stream: &str) -> Option<&'static str> {
    streams::stream(stream).and_then(|definition| definition.id_column)
}

/// The name of a built-in stream.
///
/// # Panics
/// If the text is not a stream name; built-in names are.
pub(crate) fn builtin(name: &'static str) -> StreamName {
    #[expect(clippy::expect_used, reason = "the names of built-in streams are valid")]
    StreamName::new(name).expect("a built-in stream's name")
}

fn rejected_batch(rejects: &[Reject], envelope: &Envelope<'_>) -> Result<arrow::array::RecordBatch, ArrowError> {
    let rows = rejects.len();
    let time = || {
        let mut builder = TimestampNanosecondBuilder::with_capacity(rows).with_timezone("UTC");
        for _ in 0..rows {
            builder.append_value(envelope.received_at.0);
        }
        Some(Arc::new(builder.finish()) as ArrayRef)
    };
    let text = |value: &dyn Fn(&Reject) -> String| {
        let mut builder = StringBuilder::with_capacity(rows, rows * 32);
        for reject in rejects {
            let value = value(reject);
            if value.is_empty() { builder.append_null() } else { builder.append_value(value) }
        }
        Some(Arc::new(builder.finish()) as ArrayRef)
    };
    let Some(definition) = streams::stream("_rejected") else {
        return Err(ArrowError::SchemaError("no stream _rejected".into()));
    };
    let columns = definition
        .schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "time" | "received_at" => time(),
            "stream" => text(&|_| envelope.stream.to_owned()),
            "source" => text(&|_| envelope.source.to_owned()),
            "code" => text(&|reject| reject.code.as_str().to_owned()),
            "message" => text(&|reject| reject.message.clone()),
            "field" => text(&|reject| reject.field.clone()),
            "payload" => text(&|reject| reject.payload.clone()),
            "request_id" => text(&|_| envelope.request_id.to_owned()),
            "key_id" => text(&|_| envelope.key_id.to_owned()),
            _ => None,
        })
        .collect();
    batch::sparse(&definition.schema, columns, rows)
}
