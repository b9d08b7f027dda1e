//! What operators hold of a batch: its own rows, not all that was in memory with them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use futures::StreamExt;
use weir_data::streams::stream;

use crate::support::{NOON, SECOND, World, batch, file, request, tenant, times};

/// Rows of one file of many small ones.
const ROWS: i64 = 24;

fn texts(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn events(part: i64) -> RecordBatch {
    let numbers = || (0..ROWS).map(|row| part * ROWS + row);
    batch(
        "events",
        vec![
            ("time", times(numbers().map(|at| NOON + at * SECOND))),
            ("received_at", times(numbers().map(|at| NOON + at * SECOND))),
            ("name", texts(numbers().map(|_| "page_view".to_owned()))),
            ("event_id", texts(numbers().map(|at| format!("018f3c5e-7d1a-7000-8000-{at:012x}")))),
            ("user_id", texts(numbers().map(|at| format!("a user with a long name {}", at % 97)))),
        ],
    )
}

/// Small files, and a tail of requests that have come since.
fn world() -> World {
    let world = World::with(|options| options.memory_bytes = 1 << 30);
    for part in 0..190 {
        world.file("acme", "events", file(part + 1, stream("events").unwrap(), &events(part), 1 << 20));
    }
    for request in 0..3 {
        let parts: Vec<RecordBatch> = (190 + request * 20..210 + request * 20).map(events).collect();
        world.tail("acme", "events", concat_batches(&parts[0].schema(), &parts).unwrap());
    }
    world
}

/// The bytes of texts, and those that are held for them.
async fn texts_of(world: &World, sql: &str, megabytes: usize) -> (usize, usize) {
    let mut asked = request(sql);
    asked.limits.memory_bytes = megabytes << 20;
    let result = world.engine.query(&tenant("acme"), asked).await;
    let mut rows = result.unwrap_or_else(|error| panic!("{megabytes} MB: {error}: {sql}"));
    let (mut used, mut held) = (0, 0);
    while let Some(batch) = rows.next().await {
        let batch = batch.unwrap_or_else(|error| panic!("{megabytes} MB: {error}: {sql}"));
        for texts in batch.columns().iter().filter_map(|column| column.as_string_view_opt()) {
            used += texts.total_buffer_bytes_used();
            held += texts.data_buffers().iter().map(Buffer::capacity).sum::<usize>();
        }
    }
    (used, held)
}

/// A repartition leaves a buffer of up to 1 MiB behind for every few rows of a small file, and what sorts them would
/// hold it.
#[tokio::test]
async fn a_sort_of_rows_of_many_small_files_holds_little_more_than_them() {
    let world = world();
    for sql in [
        "select event_id, row_number() over (partition by user_id order by time, event_id) as n from events",
        "select a.event_id, row_number() over (partition by b.user_id order by a.time) as n \
         from events a join events b on a.event_id = b.event_id and a.time = b.time",
    ] {
        // With little memory a repartition spills, which takes the waste away.
        for megabytes in [24, 120, 1024] {
            let (used, held) = texts_of(&world, sql, megabytes).await;
            assert_eq!(used, 36 * 6_000, "{sql}");
            assert!(held < 8 * used, "{megabytes} MB: {held} bytes for {used}: {sql}");
        }
    }
}
