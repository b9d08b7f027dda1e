//! What decoding newline-delimited JSON into declared columns costs, an event:
//! `cargo run --release -p weir-codecs --example ndjson_speed`. The columns are all members of the
//! event, then three of them; beside it, what finding the lines and checking UTF-8 cost by themselves.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, reason = "a measuring tool")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use weir_codecs::rows::{ColumnType, Columns, Inference, NdjsonDecoder, infer_ndjson};

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const EVENTS: usize = 100_000;
const ROUNDS: usize = 15;

fn main() {
    let mut text = String::new();
    for n in 0..EVENTS {
        text.push_str(&format!(
            "{{\"id\":\"018c{n:08x}-7d3e-7a44-9c0f-{n:012x}\",\"type\":\"pageview\",\"timestamp\":\"2026-03-01T12:{:02}:{:02}.{:03}Z\",\"session_id\":\"s-{}\",\"user_id\":\"user-{}\",\"path\":\"/products/{}\",\"title\":\"Product {} - The Shop\",\"status\":{},\"load_ms\":{}.{},\"bot\":{},\"properties\":{{\"plan\":\"pro\",\"n\":{n}}}}}\n",
            n / 60_000 % 60,
            n / 1000 % 60,
            n % 1000,
            n % 5000,
            n % 900,
            n % 300,
            n % 300,
            if n % 50 == 0 { 500 } else { 200 },
            n % 700,
            n % 10,
            n % 97 == 0,
        ));
    }
    let bytes = text.as_bytes();
    println!("{EVENTS} events of {} bytes", bytes.len() / EVENTS);
    let mut guess = Inference::default();
    infer_ndjson(&mut guess, &bytes[..100_000], false, 1000);
    let all = guess.columns();
    let some: Vec<(String, ColumnType)> =
        all.iter().filter(|(name, _)| ["timestamp", "path", "status"].contains(&name.as_str())).cloned().collect();

    measure("lines and UTF-8 alone", || {
        for line in bytes.split(|byte| *byte == b'\n') {
            black_box(std::str::from_utf8(line).unwrap());
        }
        EVENTS
    });
    for (what, columns) in [("all columns", all), ("three columns", some)] {
        let columns = Arc::new(Columns::new(columns));
        measure(what, || {
            let mut decoder = NdjsonDecoder::new(Arc::clone(&columns), 1 << 20);
            let (mut at, mut rows) = (0, 0);
            while at < bytes.len() {
                let end = (at + (1 << 20)).min(bytes.len());
                let progress = decoder.read(&bytes[at..end], end == bytes.len());
                at += progress.bytes;
                if decoder.is_full() {
                    let taken = decoder.take();
                    assert!(taken.rejects.is_empty());
                    rows += black_box(taken.rows).num_rows();
                }
            }
            rows + decoder.take().rows.num_rows()
        });
    }
}

fn measure(what: &str, mut run: impl FnMut() -> usize) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        assert_eq!(run(), EVENTS);
        best = best.min(begun.elapsed().as_secs_f64());
    }
    println!(
        "{what}: {:.0} ns an event, {:.2} million a second",
        best / EVENTS as f64 * 1e9,
        EVENTS as f64 / best / 1e6
    );
}
