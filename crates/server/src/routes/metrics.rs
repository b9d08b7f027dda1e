//! `GET /metrics`: everything that is counted, in the Prometheus text format.
//!
//! An administrator's key sees every series, a tenant's key with scope `query` the series of its
//! tenant. Without a key the answer has sums over all tenants and names none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hashbrown::HashMap;
use http::header::CONTENT_TYPE;
use weir_component::table;
use weir_engine::{Circuit, NodeStats, Plan};

use crate::app::App;
use crate::auth::MaybeCaller;
use crate::pipelines::Status;
use crate::problem::{Problem, Result};
use crate::telemetry::metrics::{HistogramValue, Sample, Value, counter, gauge, prometheus_text};

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>, MaybeCaller(caller): MaybeCaller) -> Result<Response> {
    let text = tokio::task::spawn_blocking(move || {
        let samples = samples(&app);
        let shown = match caller {
            None => without_tenants(samples),
            Some(caller) if caller.is_administrator() => samples,
            Some(caller) => {
                caller.require_query()?;
                let own = ("tenant", caller.tenant.id.to_string());
                samples.into_iter().filter(|sample| sample.labels.contains(&own)).collect()
            }
        };
        Ok::<_, Problem>(prometheus_text(&shown))
    });
    let text = text.await.map_err(|error| Problem::internal(error.to_string()))??;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// The samples summed over tenants; what only makes sense for one tenant is left out.
fn without_tenants(samples: Vec<Sample>) -> Vec<Sample> {
    let mut kept: Vec<Sample> = Vec::with_capacity(samples.len());
    let mut places: HashMap<(&'static str, Vec<(&'static str, String)>), usize> = HashMap::new();
    for mut sample in samples {
        if sample.name == TENANT_LIMIT {
            continue;
        }
        sample.labels.retain(|(name, _)| *name != "tenant");
        let key = (sample.name, sample.labels.clone());
        match places.get(&key) {
            Some(at) => add(&mut kept[*at].value, &sample.value),
            None => {
                places.insert(key, kept.len());
                kept.push(sample);
            }
        }
    }
    kept
}

fn add(sum: &mut Value, value: &Value) {
    match (sum, value) {
        (Value::Counter(sum), Value::Counter(value)) => *sum += value,
        (Value::Gauge(sum), Value::Gauge(value)) => *sum += value,
        (Value::Histogram(sum), Value::Histogram(value)) => {
            sum.sum += value.sum;
            for (sum, value) in sum.counts.iter_mut().zip(&value.counts) {
                *sum += value;
            }
        }
        _ => {}
    }
}

const TENANT_LIMIT: &str = "weir_tenant_limit";

/// Every metric of the process.
pub(crate) fn samples(app: &App) -> Vec<Sample> {
    let mut samples = app.telemetry.samples();
    log_samples(app, &mut samples);
    store_samples(app, &mut samples);
    limit_samples(app, &mut samples);
    pipeline_samples(app, &mut samples);
    samples.extend([
        gauge("weir_connections_open", "Connections open.", app.net.connections_open() as u64),
        counter("weir_connections_refused_total", "Connections refused.", app.net.connections_refused()),
        counter(
            "weir_connections_of_address_refused_total",
            "Connections refused because their address had connections_per_address_max.",
            app.net.connections_of_address_refused(),
        ),
        gauge(
            "weir_decoded_bytes_in_flight",
            "Bytes requests hold before their rows are in the log.",
            app.bodies.budget().in_use() as u64,
        ),
        gauge("weir_query_memory_bytes", "Memory reserved by queries.", app.engine.memory_used() as u64),
        counter("weir_own_lines_dropped_total", "Own log lines not stored in tenant system.", app.lines.dropped()),
        gauge("weir_start_time_seconds", "When the process began.", app.telemetry.started_at.as_millis() as u64 / 1000),
        gauge("weir_resident_memory_bytes", "Memory of the process.", resident_bytes()),
        counter(
            "weir_panics_total",
            "Panics that were caught; each is a bug.",
            app.telemetry.panics.with([]).value() + app.workers.panics(),
        ),
    ]);
    samples
}

fn log_samples(app: &App, samples: &mut Vec<Sample>) {
    let log = app.log.stats();
    samples.extend([
        counter("weir_log_commits_total", "Durable commits.", log.commits),
        counter("weir_log_appends_total", "Appends answered with success.", log.appends),
        counter("weir_log_rows_total", "Rows stored.", log.rows),
        counter("weir_log_rows_deduplicated_total", "Rows left out as known.", log.rows_deduplicated),
        counter("weir_log_appends_repeated_total", "Appends that repeated a key or sequence.", log.appends_repeated),
        counter("weir_log_appends_failed_total", "Appends whose commit failed.", log.appends_failed),
        counter("weir_log_refused_full_total", "Appends refused because the disk is full.", log.refused_full),
        counter("weir_log_refused_queue_total", "Appends refused because the queue is full.", log.refused_queue),
        counter("weir_log_written_bytes_total", "Bytes of commits.", log.bytes_written),
        counter("weir_log_syncs_total", "Calls of fdatasync.", log.syncs),
        counter("weir_log_segments_failed_total", "Segments given up after an error.", log.segments_failed),
        counter("weir_log_damages_total", "Damaged ranges found.", log.damages),
        gauge("weir_log_queue_bytes", "Bytes of appends that wait.", log.queue_bytes),
        gauge("weir_log_segments", "Segment files.", log.segments),
        gauge("weir_log_segment_bytes", "Bytes of segment files.", log.segment_bytes),
        gauge("weir_log_dedup_keys", "Ids remembered.", log.dedup_recent_keys + log.dedup_run_keys),
        gauge("weir_log_full", "1 while rows are refused because the disk is full.", u64::from(log.is_full)),
    ]);
    samples.push(Sample {
        name: "weir_log_commit_seconds",
        help: "Time of a commit, from taking the requests to their durability.",
        labels: Vec::new(),
        value: Value::Histogram(HistogramValue {
            bounds: weir_log::COMMIT_BUCKETS_MS.iter().map(|bound| bound / 1000.0).collect(),
            counts: log.commit_latency.to_vec(),
            sum: std::time::Duration::from_nanos(log.commit_latency_sum_ns).as_secs_f64(),
        }),
    });
}

fn store_samples(app: &App, samples: &mut Vec<Sample>) {
    let store = app.store.stats();
    let tables: [(&'static str, &'static str, fn(&weir_store::TableStats) -> u64); 6] = [
        ("weir_table_files", "Files of a table.", |table| table.files as u64),
        ("weir_table_bytes", "Bytes of a table's files.", |table| table.bytes),
        ("weir_table_rows", "Rows in a table's files.", |table| table.rows),
        ("weir_table_tail_rows", "Rows not in files yet.", |table| table.tail_rows),
        ("weir_table_tail_bytes", "Decoded bytes of rows not in files yet.", |table| table.tail_bytes),
        (
            "weir_table_damaged",
            "1 where a table is not served because of damage, or reads found a damaged file.",
            |table| u64::from(table.damage.is_some() || table.files_damaged > 0),
        ),
    ];
    for (name, help, value) in tables {
        for table in &store.tables {
            let mut sample = gauge(name, help, value(table));
            sample.labels = vec![("tenant", table.tenant.to_string()), ("stream", table.stream.to_string())];
            samples.push(sample);
        }
    }
    samples.extend([
        gauge("weir_tail_memory_bytes", "Bytes of tails in memory.", store.tail_memory_bytes),
        gauge("weir_tail_spilled_bytes", "Bytes of tails read back from the log on demand.", store.tail_spilled_bytes),
        counter("weir_flushes_total", "Flushes that succeeded.", store.flushes),
        counter("weir_flush_failures_total", "Flushes that failed and are tried again.", store.flush_failures),
        counter("weir_flushed_rows_total", "Rows written by flushes.", store.flushed_rows),
        counter("weir_flushed_bytes_total", "Bytes written by flushes.", store.flushed_bytes),
        counter("weir_compactions_total", "Merges that succeeded.", store.compactions),
        counter("weir_compaction_failures_total", "Merges that failed.", store.compaction_failures),
        counter("weir_compacted_rows_total", "Rows written by merges.", store.compacted_rows),
        counter("weir_compacted_bytes_total", "Bytes written by merges.", store.compacted_bytes),
        counter("weir_expired_files_total", "Files removed by retention.", store.expired_files),
        gauge(
            "weir_retention_held_tables",
            "Tables retention leaves alone until an operator confirms.",
            store.retention_held.len() as u64,
        ),
    ]);
}

/// The limits of each tenant beside its usage, so that "how close" is one division away.
fn limit_samples(app: &App, samples: &mut Vec<Sample>) {
    for tenant in app.meta.tenants().unwrap_or_default().iter().filter(|tenant| tenant.deleted_at.is_none()) {
        for (limit, value) in tenant.limits.gauges() {
            samples.push(Sample {
                name: TENANT_LIMIT,
                help: "A tenant's limits; bytes, rows, counts or seconds.",
                labels: vec![("tenant", tenant.id.to_string()), ("limit", limit.to_owned())],
                value: Value::Gauge(value),
            });
        }
    }
}

/// A counter of the parts of pipelines.
type PartCounter = (&'static str, &'static str, fn(&NodeStats) -> u64);

/// Counters of the parts of pipelines; they begin anew when a pipeline is started.
const PART_COUNTERS: [PartCounter; 7] = [
    ("weir_pipeline_rows_in_total", "Rows that came into a part of a pipeline.", |stats| {
        NodeStats::get(&stats.rows_in)
    }),
    ("weir_pipeline_table_rows_total", "Rows read of a table, of all its versions.", |stats| {
        NodeStats::get(&stats.table_rows)
    }),
    ("weir_pipeline_rows_out_total", "Rows a part of a pipeline gave.", |stats| NodeStats::get(&stats.rows_out)),
    ("weir_pipeline_rows_late_total", "Rows that were too late.", |stats| NodeStats::get(&stats.late)),
    ("weir_pipeline_rows_dead_total", "Rows that can never succeed.", |stats| NodeStats::get(&stats.dead)),
    ("weir_pipeline_retries_total", "Failures that were tried again.", |stats| NodeStats::get(&stats.retries)),
    ("weir_pipeline_busy_milliseconds_total", "Work of a part of a pipeline.", |stats| {
        NodeStats::get(&stats.busy_ns) / 1_000_000
    }),
];

/// The most partitions of a source that have a lag of their own.
const PARTITIONS_MAX: usize = 100;

fn pipeline_samples(app: &App, samples: &mut Vec<Sample>) {
    for (tenant, pipeline, view) in app.pipelines.views() {
        let labels = [("tenant", tenant.to_string()), ("pipeline", pipeline)];
        let mut put = |sample: Sample, part: Option<&str>| {
            let part = part.map(|part| ("part", part.to_owned()));
            let own = sample.labels.iter().cloned();
            samples.push(Sample { labels: labels.iter().cloned().chain(part).chain(own).collect(), ..sample });
        };
        let runs = u64::from(matches!(view.status, Status::Running { .. }));
        put(gauge("weir_pipeline_running", "Whether a pipeline runs.", runs), None);
        let failed = u64::from(matches!(view.status, Status::Waiting { .. } | Status::Failed(_) | Status::Overrun(_)));
        put(gauge("weir_pipeline_failed", "Whether a pipeline has failed and does not run.", failed), None);
        put(counter("weir_pipeline_restarts_total", "Starts after a failure.", view.restarts), None);
        let Some(progress) = view.progress else { continue };
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        put(counter("weir_pipeline_checkpoints_total", "The newest epoch.", load(&progress.epoch)), None);
        let nanos = load(&progress.checkpoint_ns) / 1_000_000;
        put(gauge("weir_pipeline_checkpoint_milliseconds", "How long the last checkpoint took.", nanos), None);
        for (part, stats) in &progress.sources {
            let said = stats.source.view();
            if let Some(lag) = said.lag_rows {
                put(gauge("weir_pipeline_lag_rows", "Rows a source has not read yet.", lag), Some(part));
            }
            if is_table(part, view.plan.as_deref()) {
                let lost = stats.source.trouble().map_or(0, |trouble| trouble.attempts);
                let help = "Attempts in a row to read a table again that have failed.";
                put(gauge("weir_pipeline_table_failures", help, lost), Some(part));
            }
            // Those furthest behind: a topic may have thousands.
            let mut lags: Vec<_> = said
                .partitions
                .into_iter()
                .filter_map(|partition| Some((partition.lag_rows?, partition.name)))
                .collect();
            lags.sort_by(|(lag, name), (other, after)| other.cmp(lag).then_with(|| name.cmp(after)));
            for (lag, partition) in lags.into_iter().take(PARTITIONS_MAX) {
                let help = "Rows of a partition a source has not read yet; of the hundred that are furthest behind.";
                let sample = gauge("weir_pipeline_partition_lag_rows", help, lag);
                let labels = sample.labels.into_iter().chain([("partition", partition)]).collect();
                put(Sample { labels, ..sample }, Some(part));
            }
        }
        for (part, stats) in &progress.sinks {
            let seen = stats.circuit.seen();
            let is_open = u64::from(seen.circuit != Circuit::Closed);
            let help = "Whether a sink fails so often that it is left alone for a while.";
            put(gauge("weir_pipeline_circuit_open", help, is_open), Some(part));
            let help = "How often the circuit of a sink has opened.";
            put(counter("weir_pipeline_circuit_opened_total", help, seen.opened), Some(part));
        }
        for (part, stats) in progress.sources.iter().chain(&progress.steps).chain(&progress.sinks) {
            for (name, help, value) in PART_COUNTERS {
                put(counter(name, help, value(stats)), Some(part));
            }
            let state = NodeStats::get(&stats.state_bytes);
            put(gauge("weir_pipeline_state_bytes", "State of a part of a pipeline.", state), Some(part));
            for (what, count) in stats.held.gauges() {
                let sample = gauge("weir_pipeline_state_entries", "What the state of a part holds.", count);
                let labels = sample.labels.into_iter().chain([("what", what.to_owned())]).collect();
                put(Sample { labels, ..sample }, Some(part));
            }
            if let Some(expired) = stats.held.totals().get("expired_windows") {
                put(
                    counter("weir_pipeline_expired_windows_total", "Windows that were done with.", *expired),
                    Some(part),
                );
            }
            let watermark = stats.watermark.load(Ordering::Relaxed);
            // The extremes stand for: none yet, and the end of all time.
            if watermark > 0 && watermark != i64::MAX {
                let seconds = watermark.unsigned_abs() / 1_000_000_000;
                put(gauge("weir_pipeline_watermark_seconds", "Event time of a part, since 1970.", seconds), Some(part));
            }
        }
    }
}

/// Whether a source of a pipeline is a table.
fn is_table(part: &str, plan: Option<&Plan>) -> bool {
    let source = plan.and_then(|plan| plan.sources.iter().find(|source| source.id == part));
    source.is_some_and(|source| table::is_table(&source.source.schema()))
}

/// The resident set of this process, as Linux tells it; 0 elsewhere.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()))
        .unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
