//! Questions to a table's files, asked of Weir's engine and of stock DataFusion in turn, in one process:
//! quicker than the benchmark of the server where the engine is being worked on.
//!
//! `cargo run --release -p weir-sql --example beside_datafusion -- DIR ROWS [WORD]` writes ROWS logs to a
//! store at DIR, if there is none, and asks the questions whose name has WORD in it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a program")]
#![allow(clippy::disallowed_methods, reason = "stock DataFusion is asked in the ordinary way, and time is measured")]

#[path = "../src/bin/weir-stock/session.rs"]
mod session;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray, TimestampNanosecondArray};
use futures::StreamExt;
use weir_base::clock::{ManualClock, SystemClock};
use weir_base::disk::RealDisk;
use weir_base::secret::Secret;
use weir_base::{Clock, StreamName, TenantId, Timestamp};
use weir_data::attributes::AttributesBuilder;
use weir_data::batch::sparse;
use weir_data::streams;
use weir_log::{Commit, Position, Record, Subscriber};
use weir_meta::Meta;
use weir_meta::limits::Tier;
use weir_meta::tenants::NewTenant;
use weir_sql::{QueryEngine, QueryLimits, QueryOptions, QueryRequest};
use weir_store::{Store, StoreOptions};

const NOW: i64 = 1_795_266_000_000_000_000;
const RECORD_ROWS: u64 = 1000;
const REPEATS: usize = 5;
const THREADS: usize = 2;

const QUESTIONS: &[(&str, &str)] = &[
    ("common word", "select time, body from logs where body like '%timeout%' order by time desc limit 100"),
    ("rare string", "select time, body from logs where body like '%disk quota exceeded%' order by time desc limit 100"),
    ("rare number", "select time, body from logs where body like '%order 4711 %' order by time desc limit 100"),
    ("absent string", "select time, body from logs where body like '%zebra crossing%' order by time desc limit 100"),
    ("group by", "select service_name, severity_number, count(*), avg(severity_number) from logs group by 1, 2"),
    ("whole rows", "select * from logs where body ilike '%DISK quota%' order by time desc limit 100"),
    ("newest", "select * from logs order by time desc limit 100"),
    ("count", "select count(*) from logs where body like '%disk quota exceeded%'"),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [dir, rows, word @ ..] => both(Path::new(dir), rows.parse().unwrap(), word.first().map(String::as_str)),
        _ => println!("DIR ROWS [WORD]"),
    }
}

/// SplitMix64.
fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn body(row: u64) -> String {
    const WORDS: [&str; 10] =
        ["request", "completed", "cache", "miss", "retrying", "upstream", "timeout", "connection", "opened", "closed"];
    let random = mix(row);
    let words: Vec<&str> = (0..6).map(|at| WORDS[(random >> (at * 6)) as usize % 10]).collect();
    let rare = if mix(!row).is_multiple_of(16_000) { " disk quota exceeded" } else { "" };
    format!("{} in {} ms for order {} {rare}", words.join(" "), random % 900, mix(row ^ 77) % 20_000)
}

fn logs(from: u64) -> RecordBatch {
    let definition = streams::stream("logs").unwrap();
    let rows = from..from + RECORD_ROWS;
    let text = |value: &dyn Fn(u64) -> String| -> Option<ArrayRef> {
        Some(Arc::new(StringArray::from_iter_values(rows.clone().map(value))))
    };
    let times = || -> Option<ArrayRef> {
        let values = rows.clone().map(|row| Some(NOW + row as i64 * 100_000 + (mix(row) % 50_000_000) as i64));
        Some(Arc::new(values.collect::<TimestampNanosecondArray>().with_timezone("UTC")))
    };
    let mut attributes = AttributesBuilder::with_capacity(rows.clone().count());
    for row in rows.clone() {
        attributes.push_str("http.route", ["/api/cart", "/api/pay", "/health"][(mix(row) % 3) as usize]);
        attributes.push_i64("http.response.status_code", 200);
        attributes.push_str("user.id", &format!("user-{}", mix(row) % 5000));
        attributes.end_row();
    }
    let attributes = attributes.finish().0;
    let columns = definition
        .schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "time" | "received_at" => times(),
            "severity_number" => Some(Arc::new(Int32Array::from_iter_values(
                rows.clone().map(|row| if mix(row).is_multiple_of(50) { 17 } else { 9 }),
            )) as ArrayRef),
            "severity_text" => text(&|_| "INFO".to_owned()),
            "service_name" => text(&|row| {
                ["checkout", "cart", "search", "payment", "mail", "users", "stock", "web"][(mix(row) >> 8) as usize % 8]
                    .to_owned()
            }),
            "trace_id" => text(&|row| format!("{:016x}{:016x}", mix(row), mix(row ^ 0xff))),
            "body" => text(&body),
            "attributes" => Some(Arc::clone(&attributes)),
            _ => None,
        })
        .collect();
    sparse(&definition.schema, columns, RECORD_ROWS as usize).unwrap()
}

fn open(dir: &Path, rows: u64) -> (Arc<Store>, Arc<Meta>, TenantId) {
    let there = dir.join("meta.db").exists();
    std::fs::create_dir_all(dir).unwrap();
    let clock: Arc<dyn Clock> = ManualClock::new(Timestamp(NOW));
    let meta = Meta::open(&dir.join("meta.db"), Secret::new([7; 32]), Arc::clone(&clock)).unwrap();
    let options = StoreOptions { dir: dir.join("tables"), ..StoreOptions::default() };
    let store = Store::open(options, RealDisk::new(), clock, Arc::clone(&meta) as _).unwrap();
    let tenant = TenantId::new("bench").unwrap();
    if there {
        return (store, meta, tenant);
    }
    meta.create_tenant(NewTenant { id: tenant.clone(), name: String::new(), tier: Tier::Enterprise }).unwrap();
    let begin = Instant::now();
    for from in (0..rows).step_by(RECORD_ROWS as usize) {
        let record = Record {
            tenant: tenant.clone(),
            stream: StreamName::new("logs").unwrap(),
            position: Position { shard: 0, offset: from },
            committed_at: Timestamp(NOW),
            batch: logs(from),
        };
        store.committed(&Commit { records: vec![record], end: Position { shard: 0, offset: from + 1 } });
        store.merge_tails();
        if (from / RECORD_ROWS).is_multiple_of(150) {
            store.flush_all().unwrap();
        }
    }
    store.flush_all().unwrap();
    println!("flushed in {:?}", begin.elapsed());
    while store.compact_once().unwrap().merges > 0 {}
    println!("compacted in {:?}", begin.elapsed());
    (store, meta, tenant)
}

fn both(dir: &Path, rows: u64, word: Option<&str>) {
    let (store, meta, tenant) = open(dir, rows);
    for table in store.stats().tables {
        println!(
            "{} files, {} rows, {:.1} bytes a row",
            table.files,
            table.rows,
            table.bytes as f64 / table.rows as f64
        );
    }
    let options = QueryOptions {
        threads: THREADS,
        partitions: THREADS,
        spill_dir: dir.join("spill"),
        memory_bytes: 1 << 30,
        ..QueryOptions::default()
    };
    let engine = QueryEngine::new(store, meta, SystemClock::new(), options).unwrap();
    let ask = async |sql: &str| {
        let limits = QueryLimits { memory_bytes: 512 << 20, time: Duration::from_secs(300), ..QueryLimits::default() };
        let request = QueryRequest { sql: sql.to_owned(), params: Vec::new(), limits };
        let begin = Instant::now();
        let mut result = engine.query(&tenant, request).await.unwrap();
        let mut batches = Vec::new();
        while let Some(batch) = result.next().await {
            batches.push(batch.unwrap());
        }
        (begin.elapsed(), batches)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
    runtime.block_on(async {
        let context = session::open(&dir.join("tables"), THREADS).await.unwrap();
        for (name, sql) in QUESTIONS.iter().filter(|(name, _)| word.is_none_or(|word| name.contains(word))) {
            let (mut weir, mut stock) = (Duration::MAX, Duration::MAX);
            let (mut from_weir, mut from_stock) = (Vec::new(), Vec::new());
            for repeat in 0..=REPEATS {
                let ours = ask(sql).await;
                let theirs = session::ask(&context, sql).await.unwrap();
                (from_weir, from_stock) = (ours.1, theirs.1);
                if repeat > 0 {
                    weir = weir.min(ours.0);
                    stock = stock.min(theirs.0);
                }
            }
            let same = sql.contains('*') && !sql.contains("count(*)")
                || session::shown(&from_weir).unwrap() == session::shown(&from_stock).unwrap();
            println!(
                "{name:14} weir {:8.2} ms  stock {:8.2} ms  ratio {:.3}  {}",
                weir.as_secs_f64() * 1e3,
                stock.as_secs_f64() * 1e3,
                weir.as_secs_f64() / stock.as_secs_f64(),
                if same { "same rows" } else { "DIFFERENT ROWS" }
            );
        }
    });
}
