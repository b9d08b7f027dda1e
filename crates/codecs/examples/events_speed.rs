//! What decoding SDK events costs, from the bytes of `POST /ingest` to Arrow columns.
//!
//! `cargo run --release -p weir-codecs --example events_speed`. With a number of events a request it
//! decodes only such requests, over and over: for a profiler.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, not a program")]

use std::time::Duration;

use weir_base::Timestamp;
use weir_codecs::{RowContext, events};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const PATHS: [&str; 6] = ["/", "/shop", "/shop/shoes", "/cart", "/checkout", "/help"];

/// A request of events of about 300 bytes.
fn body(rows: u64) -> Vec<u8> {
    let event = |row: u64| {
        let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let path = PATHS[(mixed % 6) as usize];
        format!(
            r#"{{"id":"{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}","type":"pageview","timestamp":1763750000123,"session_id":"s-{:08x}","user_id":"user-{}","url":"https://shop.example{path}","path":"{path}","title":"Shop {path}","properties":{{"plan":"free","items":{},"total":{}.5}},"metadata":{{"language":"en","timezone":"Europe/Berlin"}}}}"#,
            mixed >> 32,
            mixed >> 16 & 0xffff,
            mixed & 0xfff,
            mixed >> 4 & 0xfff,
            mixed >> 8 & 0xffff_ffff_ffff,
            mixed % 700,
            mixed % 5000,
            mixed % 9,
            mixed % 200,
        )
    };
    format!(r#"{{"events":[{}]}}"#, (0..rows).map(event).collect::<Vec<_>>().join(",")).into_bytes()
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn main() {
    let context = RowContext {
        tenant: "bench",
        received_at: Timestamp(1_763_750_001_000_000_000),
        client_ip: Some("127.0.0.1"),
        user_agent: None,
        rows_max: 200_000,
        row_bytes_max: 4 << 20,
        value_bytes_max: 1 << 20,
        decoded_bytes_max: 256 << 20,
    };
    if let Some(rows) = std::env::args().nth(1) {
        let body = body(rows.parse().unwrap());
        loop {
            std::hint::black_box(events::decode(&body, &context).unwrap());
        }
    }
    println!("| events a request | bytes an event | CPU an event |\n|---|---|---|");
    for rows in [1, 10, 100, 1000] {
        let body = body(rows);
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let requests = 20_000 / rows;
            let before = cpu();
            for _ in 0..requests {
                let decoded = events::decode(&body, &context).unwrap();
                assert_eq!(decoded.batches[0].batch.num_rows() as u64, rows);
            }
            best = best.min((cpu() - before) / (requests * rows) as u32);
        }
        println!("| {rows} | {} | {} ns |", body.len() as u64 / rows, best.as_nanos());
    }
}
