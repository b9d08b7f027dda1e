//! What the table writer costs: CPU time a row of a flush (sort and Parquet) and of a merge, and
//! bytes a row on disk, for events that arrive in records of 100.
//!
//! `cargo run --release -p weir-store --example table_cost`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a program")]

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, TimestampNanosecondArray};
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
const RECORD_ROWS: u64 = 100;
const FLUSH_ROWS: u64 = 170_000;
const FLUSHES: u64 = 8;

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

fn events(from: u64) -> arrow::array::RecordBatch {
    let definition = streams::stream("events").unwrap();
    let rows = from..from + RECORD_ROWS;
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
    sparse(&definition.schema, columns, RECORD_ROWS as usize).unwrap()
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    for promoted_keys_max in [0, 64] {
        let dir = dir.path().join(promoted_keys_max.to_string());
        std::fs::create_dir(&dir).unwrap();
        let clock: Arc<dyn Clock> = ManualClock::new(Timestamp(NOW));
        let meta = Meta::open(&dir.join("meta.db"), Secret::new([7; 32]), Arc::clone(&clock)).unwrap();
        let (tenant, stream) = (TenantId::new("acme").unwrap(), StreamName::new("events").unwrap());
        meta.create_tenant(NewTenant { id: tenant.clone(), name: String::new(), tier: Tier::Enterprise }).unwrap();
        let keys = [("plan", AttributeKind::Text), ("value", AttributeKind::Number), ("beta", AttributeKind::Bool)];
        let keys = keys.map(|(key, kind)| AttributeKey {
            stream: stream.clone(),
            column: "properties".into(),
            key: key.into(),
            kind,
        });
        meta.declare_attributes(&tenant, &keys, 1000).unwrap();
        let options = StoreOptions {
            dir: dir.join("tables"),
            promoted_keys_max,
            flush_bytes: 1 << 30,
            tail_bytes_max: 1 << 30,
            compaction_files_max: 8,
            ..StoreOptions::default()
        };
        let store = Store::open(options, RealDisk::new(), clock, meta).unwrap();
        let (mut appending, mut flushing, mut bytes) = (0, 0, 0);
        for flush in 0..FLUSHES {
            for record in 0..FLUSH_ROWS / RECORD_ROWS {
                let offset = flush * FLUSH_ROWS + record * RECORD_ROWS;
                let position = Position { shard: 0, offset };
                let (tenant, stream) = (tenant.clone(), stream.clone());
                let batch = events(offset);
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
        let rows = FLUSH_ROWS * FLUSHES;
        let before = cpu();
        let report = store.compact_once().unwrap();
        let merging = cpu() - before;
        println!(
            "promoted keys up to {promoted_keys_max}: tail {} ns, flush {} ns a row, {:.1} bytes a row; merge of {} files {} ns a row, {:.1} bytes a row",
            appending / rows,
            flushing / rows,
            bytes as f64 / rows as f64,
            report.files,
            merging / report.rows.max(1),
            report.bytes as f64 / report.rows.max(1) as f64,
        );
    }
}
