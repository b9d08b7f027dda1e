//! What it costs to know which ids were stored before, by how many were in the window: CPU per event of the
//! writer of the log and of its housekeeper.
//!
//! `cargo run --release -p weir-log --example ids_cost [DIR] [MILLIONS] [HOURS]`; ids come at an even rate through so many hours.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampNanosecondArray};
use weir_base::clock::{Clock, ManualClock, SystemClock};
use weir_base::disk::RealDisk;
use weir_base::{StreamName, TenantId, Timestamp};
use weir_log::{Append, AppendPart, Durability, Log, LogOptions};

const ROWS: u64 = 1000;
const WAITING: usize = 16;

fn batch(first: u64, now: Timestamp) -> RecordBatch {
    let stream = weir_data::streams::stream("events").unwrap();
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_value(now.0, ROWS as usize).with_timezone("UTC"));
    let ids: ArrayRef =
        Arc::new(StringArray::from_iter_values((first..first + ROWS).map(|number| format!("{number:032x}"))));
    let columns = stream.schema.fields().iter().map(|field| match field.name().as_str() {
        "time" | "received_at" => Some(Arc::clone(&times)),
        "event_id" => Some(Arc::clone(&ids)),
        _ => None,
    });
    weir_data::batch::sparse(&stream.schema, columns.collect(), ROWS as usize).unwrap()
}

/// CPU time of the threads whose name begins with `thread`.
fn cpu(thread: &str) -> Duration {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        if std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with(thread)) {
            let stat = std::fs::read_to_string(path.join("stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    Duration::from_millis(ticks * 10)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(std::env::temp_dir, Into::into).join("weir-ids-cost");
    let millions: u64 = arguments.next().map_or(40, |text| text.parse().unwrap());
    let hours: u64 = arguments.next().map_or(24, |text| text.parse().unwrap());
    let _ = std::fs::remove_dir_all(&dir);
    let clock = ManualClock::new(SystemClock::new().now());
    let mut options = LogOptions::new(&dir);
    options.retention_bytes = 256 << 20;
    let log = Log::open(options, RealDisk::new(), clock.clone(), Vec::new()).unwrap();
    let tenant = TenantId::new("bench").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let requests = millions * 1_000_000 / ROWS;
    let pause = Duration::from_secs(hours * 3600) / u32::try_from(requests).unwrap();
    let mut answers = VecDeque::new();
    let (mut writer, mut keeper) = (Duration::ZERO, Duration::ZERO);
    println!("{:>12} {:>18} {:>18} {:>6}", "ids", "writer, us/event", "keeper, us/event", "runs");
    for request in 0..requests {
        let batch = batch(request * ROWS, clock.now());
        let parts = vec![AppendPart { stream: StreamName::new("events").unwrap(), batch, id_column: Some("event_id") }];
        let append = Append {
            tenant: tenant.clone(),
            parts,
            idempotency_key: None,
            producer: None,
            durability: Durability::Disk,
        };
        if answers.len() == WAITING {
            let answer: weir_log::Appending = answers.pop_front().unwrap();
            runtime.block_on(answer).unwrap();
        }
        answers.push_back(log.append(append));
        clock.advance(pause);
        if (request + 1) % (requests / 10) == 0 {
            let before = (writer, keeper);
            (writer, keeper) = (cpu("log-0"), cpu("log-house"));
            let per = |time: Duration| time.as_secs_f64() * 1e7 / (requests * ROWS) as f64;
            let (ids, runs) = ((request + 1) * ROWS, log.stats().dedup_runs);
            println!("{ids:>12} {:>18.2} {:>18.2} {runs:>6}", per(writer - before.0), per(keeper - before.1));
            log.release(log.end(0));
        }
    }
    drop(answers);
    log.close();
    drop(log);
    std::fs::remove_dir_all(&dir).unwrap();
}
