//! What operators count of a batch: its own rows, not all that its buffers hold.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use weir_data::streams::stream;

use crate::support::{NOON, SECOND, World, batch, file, request, times};

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
    let world = World::new();
    for part in 0..190 {
        world.file("acme", "events", file(part + 1, stream("events").unwrap(), &events(part), 1 << 20));
    }
    for request in 0..3 {
        let parts: Vec<RecordBatch> = (190 + request * 20..210 + request * 20).map(events).collect();
        world.tail("acme", "events", concat_batches(&parts[0].schema(), &parts).unwrap());
    }
    world
}

#[tokio::test]
async fn a_few_rows_of_many_small_files_fit_into_little_memory() {
    let world = world();
    for (sql, expected) in [
        (
            "select count(*), max(n) from (select event_id, row_number() over (partition by user_id order by time, event_id) \
             as n from events)",
            "[[6000,62]]",
        ),
        (
            "select count(*), max(event_id) from (select * from (select distinct event_id, user_id from events) \
             order by user_id, event_id limit 100000)",
            r#"[[6000,"018f3c5e-7d1a-7000-8000-00000000176f"]]"#,
        ),
        (
            "select count(*), min(b.user_id) from events a join events b on a.event_id = b.event_id and a.time = b.time",
            r#"[[6000,"a user with a long name 0"]]"#,
        ),
        (
            "select count(*), min(a.user_id) from events a join (select distinct name from events) b on a.name <= b.name",
            r#"[[6000,"a user with a long name 0"]]"#,
        ),
    ] {
        let mut asked = request(sql);
        asked.limits.memory_bytes = 24 << 20;
        let bytes = world.run("acme", asked, weir_sql::output::Format::Json).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("{error}: {sql}"));
        let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(answer["rows"].to_string(), expected, "{sql}");
    }
}
