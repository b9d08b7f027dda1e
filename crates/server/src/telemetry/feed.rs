//! Writes Weir's own metrics and log lines into tenant `system`, and each tenant's usage into its
//! `_usage` stream. Goes straight to the log: what it writes is not counted, so it cannot grow by
//! itself.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch, StringBuilder,
    TimestampNanosecondBuilder,
};
use arrow::error::ArrowError;
use futures::future::join_all;
use tracing::{Level, warn};
use weir_base::shutdown::Shutdown;
use weir_base::{Clock, TenantId, Timestamp};
use weir_data::attributes::AttributesBuilder;
use weir_data::{batch, streams};
use weir_log::{Append, AppendPart, Durability, Log};

use super::Telemetry;
use super::changes::Changes;
use super::logs::{Line, LineBuffer, without_collecting};
use super::metrics::{Sample, Value};
use super::{Usage, UsageKey};
use crate::ingest::builtin;

/// How often log lines are stored.
const LINES_EVERY: Duration = Duration::from_secs(1);
/// The most lines stored at once.
const LINES_BATCH_MAX: usize = 1_000;
/// The most values of metrics stored at once: about a megabyte.
const METRICS_BATCH_MAX: usize = 5_000;

/// What the feed needs.
pub struct Feed {
    /// Where rows go.
    pub log: Arc<Log>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub telemetry: Arc<Telemetry>,
    /// Lines waiting to be stored.
    pub lines: Arc<LineBuffer>,
    /// Reads every metric of the process. Takes its time where there are many tenants.
    pub samples: Arc<dyn Fn() -> Vec<Sample> + Send + Sync>,
    /// How often metrics are stored.
    pub metrics_every: Duration,
    /// How often usage is stored.
    pub usage_every: Duration,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl Feed {
    /// Runs until shutdown, then stores what is left.
    pub async fn run(self, shutdown: Shutdown) {
        let mut changes = Changes::default();
        let (mut metrics_at, mut usage_at) = (Duration::ZERO, Duration::ZERO);
        let begun = self.clock.monotonic();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LINES_EVERY) => {}
                () = shutdown.begun() => break,
            }
            let elapsed = self.clock.monotonic().saturating_sub(begun);
            self.store_lines().await;
            if elapsed >= metrics_at + self.metrics_every {
                metrics_at = elapsed;
                changes = self.store_metrics(changes).await;
            }
            if elapsed >= usage_at + self.usage_every {
                usage_at = elapsed;
                self.store_usage().await;
            }
        }
        self.store_metrics(changes).await;
        self.store_usage().await;
        self.store_lines().await;
    }

    async fn append(&self, tenant: TenantId, stream: &'static str, batch: Result<RecordBatch, ArrowError>) -> bool {
        let result = match batch {
            Ok(batch) => {
                let append = Append {
                    tenant,
                    parts: vec![AppendPart { stream: builtin(stream), batch, id_column: None }],
                    idempotency_key: None,
                    producer: None,
                    durability: Durability::Disk,
                };
                self.log.append(append).await.map(|_| ()).map_err(|error| weir_base::error::chain(&error))
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = &result {
            without_collecting(|| warn!(stream, %error, "own rows were not stored"));
        }
        result.is_ok()
    }

    async fn store_lines(&self) {
        loop {
            let lines = self.lines.take(LINES_BATCH_MAX);
            if lines.is_empty() || !self.append(TenantId::system(), "logs", lines_batch(&lines, self.clock.now())).await
            {
                return;
            }
        }
    }

    /// Stores what has changed. Several appends where that is much: each is a commit of moderate size, between which
    /// others have theirs.
    async fn store_metrics(&self, mut changes: Changes) -> Changes {
        let (samples, now) = (Arc::clone(&self.samples), self.clock.monotonic());
        let read = tokio::task::spawn_blocking(move || {
            let samples = changes.of(samples(), now);
            (samples, changes)
        });
        // A panic of who reads the metrics is told to the log by its hook.
        let Ok((samples, mut changes)) = read.await else { return Changes::default() };
        for samples in samples.chunks(METRICS_BATCH_MAX) {
            let batch = metrics_batch(samples, self.telemetry.started_at, self.clock.now());
            if !self.append(TenantId::system(), "metrics", batch).await {
                changes.forget();
            }
        }
        changes
    }

    /// Stores the use of all tenants, in few commits.
    async fn store_usage(&self) {
        let mut taken = self.telemetry.take_usage();
        taken.sort_by(|left, right| left.0.cmp(&right.0));
        let appends = taken.chunk_by(|left, right| left.0.0 == right.0.0).map(|rows| async move {
            let tenant = rows[0].0.0.clone();
            let is_stored = self.append(tenant, "_usage", usage_batch(rows, self.clock.now())).await;
            (!is_stored).then_some(rows)
        });
        let failed = join_all(appends).await;
        self.telemetry.return_usage(failed.into_iter().flatten().flatten().cloned().collect());
    }
}

fn times(rows: usize, at: Timestamp) -> ArrayRef {
    let mut builder = TimestampNanosecondBuilder::with_capacity(rows).with_timezone("UTC");
    for _ in 0..rows {
        builder.append_value(at.0);
    }
    Arc::new(builder.finish())
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    let mut builder = StringBuilder::new();
    for value in values {
        if value.is_empty() { builder.append_null() } else { builder.append_value(value) }
    }
    Arc::new(builder.finish())
}

fn build(
    stream: &str,
    rows: usize,
    mut column: impl FnMut(&str) -> Option<ArrayRef>,
) -> Result<RecordBatch, ArrowError> {
    let Some(definition) = streams::stream(stream) else {
        return Err(ArrowError::SchemaError(format!("no stream {stream}")));
    };
    let columns = definition.schema.fields().iter().map(|field| column(field.name())).collect();
    batch::sparse(&definition.schema, columns, rows)
}

fn lines_batch(lines: &[Line], now: Timestamp) -> Result<RecordBatch, ArrowError> {
    let rows = lines.len();
    build("logs", rows, |column| match column {
        "time" => {
            let mut builder = TimestampNanosecondBuilder::with_capacity(rows).with_timezone("UTC");
            for line in lines {
                builder.append_value(line.time.0);
            }
            Some(Arc::new(builder.finish()))
        }
        "received_at" => Some(times(rows, now)),
        "severity_number" => {
            let mut builder = Int32Builder::with_capacity(rows);
            for line in lines {
                builder.append_value(severity_number(line.level));
            }
            Some(Arc::new(builder.finish()))
        }
        "severity_text" => Some(texts(lines.iter().map(|line| line.level.as_str()))),
        "body" => Some(texts(lines.iter().map(|line| line.message.as_str()))),
        "service_name" => Some(texts(lines.iter().map(|_| "weir"))),
        "scope_name" => Some(texts(lines.iter().map(|line| line.target))),
        "attributes" => {
            let mut builder = AttributesBuilder::with_capacity(rows);
            for line in lines {
                for (name, value) in &line.fields {
                    builder.push_str(name, value);
                }
                builder.end_row();
            }
            Some(builder.finish().0)
        }
        _ => None,
    })
}

/// Severity numbers of the OpenTelemetry logs data model.
fn severity_number(level: Level) -> i32 {
    match level {
        Level::TRACE => 1,
        Level::DEBUG => 5,
        Level::INFO => 9,
        Level::WARN => 13,
        Level::ERROR => 17,
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_wrap, reason = "counts stay far below 2^53")]
fn metrics_batch(samples: &[Sample], started_at: Timestamp, now: Timestamp) -> Result<RecordBatch, ArrowError> {
    let rows = samples.len();
    build("metrics", rows, |column| match column {
        "time" | "received_at" => Some(times(rows, now)),
        "start_time" => Some(times(rows, started_at)),
        "name" => Some(texts(samples.iter().map(|sample| sample.name))),
        "description" => Some(texts(samples.iter().map(|sample| sample.help))),
        "service_name" => Some(texts(samples.iter().map(|_| "weir"))),
        "type" => Some(texts(samples.iter().map(|sample| match sample.value {
            Value::Counter(_) => "sum",
            Value::Gauge(_) => "gauge",
            Value::Histogram(_) => "histogram",
        }))),
        "temporality" => Some(texts(
            samples.iter().map(|sample| if matches!(sample.value, Value::Gauge(_)) { "" } else { "cumulative" }),
        )),
        "is_monotonic" => {
            let mut builder = BooleanBuilder::with_capacity(rows);
            for sample in samples {
                builder.append_option(matches!(sample.value, Value::Counter(_)).then_some(true));
            }
            Some(Arc::new(builder.finish()))
        }
        "value" => {
            let mut builder = Float64Builder::with_capacity(rows);
            for sample in samples {
                builder.append_option(match sample.value {
                    Value::Counter(value) => Some(value as f64),
                    Value::Gauge(value) => Some(value),
                    Value::Histogram(_) => None,
                });
            }
            Some(Arc::new(builder.finish()))
        }
        "value_int" => {
            let mut builder = Int64Builder::with_capacity(rows);
            for sample in samples {
                builder.append_option(match sample.value {
                    Value::Counter(value) => Some(value as i64),
                    _ => None,
                });
            }
            Some(Arc::new(builder.finish()))
        }
        "count" => {
            let mut builder = Int64Builder::with_capacity(rows);
            for sample in samples {
                builder.append_option(match &sample.value {
                    Value::Histogram(value) => Some(value.counts.iter().sum::<u64>() as i64),
                    _ => None,
                });
            }
            Some(Arc::new(builder.finish()))
        }
        "sum" => {
            let mut builder = Float64Builder::with_capacity(rows);
            for sample in samples {
                builder.append_option(match &sample.value {
                    Value::Histogram(value) => Some(value.sum),
                    _ => None,
                });
            }
            Some(Arc::new(builder.finish()))
        }
        "bounds" => {
            let mut builder = ListBuilder::new(Float64Builder::new());
            for sample in samples {
                if let Value::Histogram(value) = &sample.value {
                    builder.values().append_slice(&value.bounds);
                    builder.append(true);
                } else {
                    builder.append(false);
                }
            }
            Some(Arc::new(builder.finish()))
        }
        "bucket_counts" => {
            let mut builder = ListBuilder::new(Int64Builder::new());
            for sample in samples {
                if let Value::Histogram(value) = &sample.value {
                    for count in &value.counts {
                        builder.values().append_value(*count as i64);
                    }
                    builder.append(true);
                } else {
                    builder.append(false);
                }
            }
            Some(Arc::new(builder.finish()))
        }
        "attributes" => {
            let mut builder = AttributesBuilder::with_capacity(rows);
            for sample in samples {
                for (name, value) in &sample.labels {
                    builder.push_str(name, value);
                }
                builder.end_row();
            }
            Some(builder.finish().0)
        }
        _ => None,
    })
}

fn usage_batch(rows: &[(UsageKey, Usage)], now: Timestamp) -> Result<RecordBatch, ArrowError> {
    let int = |value: fn(&Usage) -> u64| {
        let mut builder = Int64Builder::with_capacity(rows.len());
        for (_, usage) in rows {
            builder.append_value(i64::try_from(value(usage)).unwrap_or(i64::MAX));
        }
        Some(Arc::new(builder.finish()) as ArrayRef)
    };
    build("_usage", rows.len(), |column| match column {
        "time" | "received_at" => Some(times(rows.len(), now)),
        "stream" => Some(texts(rows.iter().map(|(key, _)| key.1))),
        "source" => Some(texts(rows.iter().map(|(key, _)| key.2))),
        "requests" => int(|usage| usage.requests),
        "bytes" => int(|usage| usage.bytes),
        "rows_received" => int(|usage| usage.rows_received),
        "rows_stored" => int(|usage| usage.rows_stored),
        "rows_rejected" => int(|usage| usage.rows_rejected),
        "rows_deduplicated" => int(|usage| usage.rows_deduplicated),
        "queries" => int(|usage| usage.queries),
        "query_ms" => int(|usage| usage.query_ms),
        "query_rows" => int(|usage| usage.query_rows),
        _ => None,
    })
}
