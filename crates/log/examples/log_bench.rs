//! What the log costs: CPU per event by rows a request, and commits with many single-row appenders.
//!
//! `cargo run --release -p weir-log --example log_bench [DIR]`; DIR should be on the disk in question.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampNanosecondArray};
use weir_base::clock::{Clock, SystemClock};
use weir_base::disk::RealDisk;
use weir_base::{StreamName, TenantId};
use weir_log::{Append, AppendPart, COMMIT_BUCKETS_MS, Durability, Log, LogOptions};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Events of about 300 bytes of JSON: page views with an id, a session, a path and two properties.
fn events(rows: usize, now: i64) -> RecordBatch {
    let stream = weir_data::streams::stream("events").unwrap();
    let first = NEXT.fetch_add(rows as u64, Ordering::Relaxed);
    let numbers = first..first + rows as u64;
    let text =
        |make: &dyn Fn(u64) -> String| Arc::new(StringArray::from_iter_values(numbers.clone().map(make))) as ArrayRef;
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_value(now, rows).with_timezone("UTC"));
    let columns = stream
        .schema
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "time" | "received_at" => Some(Arc::clone(&times)),
            "event_id" => {
                Some(text(&|number| format!("{:016x}-{:08x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number)))
            }
            "type" => Some(text(&|_| "pageview".to_owned())),
            "name" => Some(text(&|number| format!("view-{}", number % 20))),
            "session_id" => Some(text(&|number| format!("{:024x}", (number / 7).wrapping_mul(0x2545_f491_4f6c_dd1d)))),
            "user_id" => Some(text(&|number| format!("user-{}", number % 5000))),
            "url" => Some(text(&|number| format!("https://shop.example/products/{}", number % 900))),
            "path" => Some(text(&|number| format!("/products/{}", number % 900))),
            "title" => Some(text(&|number| format!("Product {}", number % 900))),
            "user_agent" => Some(text(&|_| "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101".to_owned())),
            "ip" => Some(text(&|number| format!("10.0.{}.{}", number / 250 % 250, number % 250))),
            "language" => Some(text(&|_| "en-GB".to_owned())),
            _ => None,
        })
        .collect();
    weir_data::batch::sparse(&stream.schema, columns, rows).unwrap()
}

/// CPU time of this process, user and system, and of the calling thread.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn append(tenant: &TenantId, batch: RecordBatch) -> Append {
    Append {
        tenant: tenant.clone(),
        parts: vec![AppendPart { stream: StreamName::new("events").unwrap(), batch, id_column: Some("event_id") }],
        idempotency_key: None,
        producer: None,
        durability: Durability::Disk,
    }
}

fn main() {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into).join("weir-log-bench");
    let _ = std::fs::remove_dir_all(&dir);
    let clock = SystemClock::new();
    let open = || Log::open(LogOptions::new(&dir), RealDisk::new(), SystemClock::new(), Vec::new()).unwrap();

    println!("CPU per event, all threads of the log, batches made beforehand");
    for (rows, requests, waiting) in [(1, 40_000, 64), (1, 40_000, 200), (100, 8_000, 16), (1000, 1_200, 16)] {
        let log = open();
        let tenant = TenantId::new("bench").unwrap();
        let now = clock.now().0;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut wall, mut used, mut done) = (Duration::ZERO, Duration::ZERO, 0);
        // In portions, so that the prepared batches need little memory.
        while done < requests {
            let portion = (requests - done).min(2_000);
            let batches: Vec<RecordBatch> = (0..portion).map(|_| events(rows, now)).collect();
            let (started, before) = (clock.monotonic(), cpu());
            let mut answers = std::collections::VecDeque::new();
            for batch in batches {
                if answers.len() == waiting {
                    let answer: weir_log::Appending = answers.pop_front().unwrap();
                    runtime.block_on(answer).unwrap();
                }
                answers.push_back(log.append(append(&tenant, batch)));
            }
            for answer in answers {
                runtime.block_on(answer).unwrap();
            }
            used += cpu() - before;
            wall += clock.monotonic() - started;
            done += portion;
        }
        let stats = log.stats();
        let events = (rows * requests) as f64;
        println!(
            "  {rows:>5} rows a request, {waiting:>3} in flight: {:>7.2} us CPU/event, {:>9.0} events/s, {:>6.0} commits/s, {:>5.0} B/event",
            used.as_secs_f64() * 1e6 / events,
            events / wall.as_secs_f64(),
            stats.commits as f64 / wall.as_secs_f64(),
            stats.bytes_written as f64 / events,
        );
        log.close();
        drop(log);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    println!("64 threads, each appending one row and waiting for it, 5 s");
    let log = open();
    let stop = Duration::from_secs(5) + clock.monotonic();
    let started = cpu();
    let done: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|number| {
                let (log, clock) = (&log, &clock);
                scope.spawn(move || {
                    let tenant = TenantId::new(&format!("tenant-{}", number % 8)).unwrap();
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    let mut done = 0;
                    while clock.monotonic() < stop {
                        runtime.block_on(log.append(append(&tenant, events(1, clock.now().0)))).unwrap();
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let stats = log.stats();
    println!(
        "  {} appends/s, {} commits/s, {:.1} us CPU/append (client threads included)",
        done / 5,
        stats.commits / 5,
        (cpu() - started).as_secs_f64() * 1e6 / done as f64
    );
    let mut seen = 0;
    for (bucket, count) in stats.commit_latency.iter().enumerate() {
        seen += count;
        let bound = COMMIT_BUCKETS_MS.get(bucket).map_or("more".to_owned(), |bound| format!("{bound} ms"));
        if *count > 0 {
            println!("  commit within {bound}: {:.1} %", seen as f64 * 100.0 / stats.commits as f64);
        }
    }
    log.close();
    drop(log);
    let started = clock.monotonic();
    let log = open();
    println!("open again: {:?}", clock.monotonic() - started);
    drop(log);
    std::fs::remove_dir_all(&dir).unwrap();
}
