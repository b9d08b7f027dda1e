//! What the table writer costs: CPU time a row of a flush (sort and Parquet) and of a merge, and
//! bytes a row on disk, for events that arrive in records of 100 and for logs in records of 2,000.
//!
//! `cargo run --release -p weir-store --example table_cost [-- DIRECTORY]`; with a directory, the files
//! stay there, for the example `file_bytes`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a program")]

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, TimestampNanosecondArray};
use weir_base::clock::ManualClock;
use weir_base::disk::RealDisk;
use weir_base::secret::Secret;
use weir_base::{Clock, StreamName, TenantId, Timestamp};
use weir_data::attributes::{AttributeKind, AttributesBuilder};
use weir_data::batch::sparse;
use weir_data::streams;
use weir_log::{Commit, Position, Record, Subscriber};
use weir_meta::Meta;
use weir_meta::attributes::AttributeKey;
use weir_meta::limits::Tier;
use weir_meta::tenants::NewTenant;
use weir_store::{Store, StoreOptions};

const NOW: i64 = 1_795_266_000_000_000_000;
const FLUSHES: u64 = 8;

/// Rows of one kind.
struct Shape {
    stream: &'static str,
    record_rows: u64,
    flush_rows: u64,
    promoted_keys_max: usize,
    /// The attribute keys that have a kind.
    keys: &'static [(&'static str, &'static str, AttributeKind)],
    rows: fn(u64, u64) -> RecordBatch,
}

const EVENT_KEYS: &[(&str, &str, AttributeKind)] = &[
    ("properties", "plan", AttributeKind::Text),
    ("properties", "value", AttributeKind::Number),
    ("properties", "beta", AttributeKind::Bool),
];
const LOG_KEYS: &[(&str, &str, AttributeKind)] = &[
    ("attributes", "http.route", AttributeKind::Text),
    ("attributes", "http.request.method", AttributeKind::Text),
    ("attributes", "http.response.status_code", AttributeKind::Number),
    ("attributes", "user.id", AttributeKind::Text),
    ("attributes", "thread.id", AttributeKind::Number),
    ("resource", "service.name", AttributeKind::Text),
];

const SHAPES: &[Shape] = &[
    Shape {
        stream: "events",
        record_rows: 100,
        flush_rows: 170_000,
        promoted_keys_max: 0,
        keys: EVENT_KEYS,
        rows: events,
    },
    Shape {
        stream: "events",
        record_rows: 100,
        flush_rows: 170_000,
        promoted_keys_max: 64,
        keys: EVENT_KEYS,
        rows: events,
    },
    Shape { stream: "logs", record_rows: 2000, flush_rows: 80_000, promoted_keys_max: 64, keys: LOG_KEYS, rows: logs },
];

/// CPU time of this thread in nanoseconds.
fn cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// SplitMix64.
fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn id(seed: u64) -> String {
    let (high, low) = (mix(seed), mix(!seed));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

fn events(from: u64, record_rows: u64) -> RecordBatch {
    let definition = streams::stream("events").unwrap();
    let rows = from..from + record_rows;
    let text = |value: &dyn Fn(u64) -> String| -> Option<ArrayRef> {
        Some(Arc::new(StringArray::from_iter_values(rows.clone().map(value))))
    };
    let times = |early: i64| -> Option<ArrayRef> {
        let values = rows.clone().map(|row| Some(NOW + row as i64 * 10_000 - early * (mix(row) % 1_000_000) as i64));
        Some(Arc::new(values.collect::<TimestampNanosecondArray>().with_timezone("UTC")))
    };
    let mut properties = AttributesBuilder::with_capacity(rows.clone().count());
    for row in rows.clone() {
        properties.push_str("plan", ["free", "paid", "team"][(mix(row) % 3) as usize]);
        properties.push_i64("value", (mix(row) % 1000) as i64);
        properties.push_bool("beta", row % 7 == 0);
        properties.end_row();
    }
    let properties = properties.finish().0;
    let columns = definition
        .schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "time" => times(1),
            "received_at" => times(0),
            "event_id" => text(&|row| id(row)),
            "type" => text(&|row| ["pageview", "click", "custom"][(mix(row) % 3) as usize].to_owned()),
            "name" => text(&|row| format!("event {}", mix(row) % 20)),
            "session_id" => text(&|row| id(mix(row) % 5000)),
            "user_id" => text(&|row| format!("user-{}", mix(row) % 20_000)),
            "url" => text(&|row| format!("https://shop.example/products/{}", mix(row) % 500)),
            "path" => text(&|row| format!("/products/{}", mix(row) % 500)),
            "title" => text(&|row| format!("Product {}", mix(row) % 500)),
            "user_agent" => text(&|row| format!("Mozilla/5.0 (X11; Linux x86_64) Version/{}", mix(row) % 30)),
            "ip" => text(&|row| format!("203.0.113.{}", mix(row) % 250)),
            "properties" => Some(Arc::clone(&properties)),
            _ => None,
        })
        .collect();
    sparse(&definition.schema, columns, record_rows as usize).unwrap()
}

/// As OTLP brings them: one service and one time of arrival a record, times of the last second.
fn logs(from: u64, record_rows: u64) -> RecordBatch {
    const WORDS: [&str; 10] =
        ["request", "completed", "cache", "miss", "retrying", "upstream", "timeout", "connection", "opened", "closed"];
    const ROUTES: [&str; 6] = ["/api/cart", "/api/cart/{id}", "/api/pay", "/api/search", "/api/user/{id}", "/health"];
    let definition = streams::stream("logs").unwrap();
    let rows = from..from + record_rows;
    let text = |value: &dyn Fn(u64) -> String| -> Option<ArrayRef> {
        Some(Arc::new(StringArray::from_iter_values(rows.clone().map(value))))
    };
    let service = format!("service-{}", mix(from) % 8);
    let times = |early: u64| -> Option<ArrayRef> {
        let now = NOW + from as i64 * 5_000;
        let values = rows.clone().map(|row| Some(now - (mix(row) % early) as i64));
        Some(Arc::new(values.collect::<TimestampNanosecondArray>().with_timezone("UTC")))
    };
    let is_error = |row: u64| mix(row).is_multiple_of(50);
    let mut attributes = AttributesBuilder::with_capacity(record_rows as usize);
    let mut resource = AttributesBuilder::with_capacity(record_rows as usize);
    for row in rows.clone() {
        attributes.push_str("http.route", ROUTES[(mix(row) >> 8) as usize % ROUTES.len()]);
        attributes.push_str("http.request.method", "GET");
        attributes.push_i64("http.response.status_code", if is_error(row) { 500 } else { 200 });
        attributes.push_str("user.id", &format!("user-{}", (mix(row) >> 16) % 5000));
        attributes.push_i64("thread.id", (mix(row) >> 40) as i64 % 64);
        attributes.end_row();
        resource.push_str("service.name", &service);
        resource.end_row();
    }
    let (attributes, resource) = (attributes.finish().0, resource.finish().0);
    let body = |row: u64| {
        let words: Vec<&str> =
            (0..6).map(|place| WORDS[(mix(row ^ place << 60) >> 4) as usize % WORDS.len()]).collect();
        format!("{} in {} ms", words.join(" "), mix(row) % 899 + 1)
    };
    let columns = definition
        .schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "time" => times(1_000_000_000),
            "received_at" => times(1),
            "severity_number" => {
                let values = rows.clone().map(|row| Some(if is_error(row) { 17 } else { 9 }));
                Some(Arc::new(values.collect::<Int32Array>()) as ArrayRef)
            }
            "severity_text" => text(&|row| if is_error(row) { "ERROR" } else { "INFO" }.to_owned()),
            "body" => text(&body),
            "trace_id" => text(&|row| format!("{:016x}{:016x}", mix(row), mix(!row))),
            "span_id" => text(&|row| format!("{:016x}", mix(row ^ 1 << 50))),
            "service_name" => text(&|_| service.clone()),
            "attributes" => Some(Arc::clone(&attributes)),
            "resource" => Some(Arc::clone(&resource)),
            _ => None,
        })
        .collect();
    sparse(&definition.schema, columns, record_rows as usize).unwrap()
}

fn main() {
    let scratch = tempfile::tempdir().unwrap();
    let kept = std::env::args().nth(1);
    let dir = kept.as_ref().map_or(scratch.path(), Path::new);
    for (number, shape) in SHAPES.iter().enumerate() {
        measure(shape, &dir.join(number.to_string()));
    }
}

fn measure(shape: &Shape, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let clock: Arc<dyn Clock> = ManualClock::new(Timestamp(NOW));
    let meta = Meta::open(&dir.join("meta.db"), Secret::new([7; 32]), Arc::clone(&clock)).unwrap();
    let (tenant, stream) = (TenantId::new("acme").unwrap(), StreamName::new(shape.stream).unwrap());
    meta.create_tenant(NewTenant { id: tenant.clone(), name: String::new(), tier: Tier::Enterprise }).unwrap();
    let keys: Vec<AttributeKey> = shape
        .keys
        .iter()
        .map(|(column, key, kind)| AttributeKey {
            stream: stream.clone(),
            column: (*column).into(),
            key: (*key).into(),
            kind: *kind,
        })
        .collect();
    meta.declare_attributes(&tenant, &keys, 1000).unwrap();
    let options = StoreOptions {
        dir: dir.join("tables"),
        promoted_keys_max: shape.promoted_keys_max,
        flush_bytes: 1 << 30,
        tail_bytes_max: 1 << 30,
        compaction_files_max: 8,
        ..StoreOptions::default()
    };
    let store = Store::open(options, RealDisk::new(), clock, meta).unwrap();
    let (mut appending, mut flushing, mut bytes) = (0, 0, 0);
    for flush in 0..FLUSHES {
        for record in 0..shape.flush_rows / shape.record_rows {
            let offset = flush * shape.flush_rows + record * shape.record_rows;
            let position = Position { shard: 0, offset };
            let (tenant, stream) = (tenant.clone(), stream.clone());
            let batch = (shape.rows)(offset, shape.record_rows);
            let record = Record { tenant, stream, position, committed_at: Timestamp(NOW), batch };
            let before = cpu();
            store.committed(&Commit { records: vec![record], end: Position { shard: 0, offset: offset + 1 } });
            store.merge_tails();
            appending += cpu() - before;
        }
        let before = cpu();
        bytes += store.flush_all().unwrap().bytes;
        flushing += cpu() - before;
    }
    let rows = shape.flush_rows * FLUSHES;
    let before = cpu();
    let report = store.compact_once().unwrap();
    let merging = cpu() - before;
    println!(
        "{}, promoted keys up to {}: tail {} ns, flush {} ns a row, {:.1} bytes a row; merge of {} files {} ns a row, {:.1} bytes a row",
        shape.stream,
        shape.promoted_keys_max,
        appending / rows,
        flushing / rows,
        bytes as f64 / rows as f64,
        report.files,
        merging / report.rows.max(1),
        report.bytes as f64 / report.rows.max(1) as f64,
    );
    store.unlink_retired();
}
