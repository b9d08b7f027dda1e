//! What is read for an answer, and what is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_data::streams::stream;

use crate::support::{NOON, SECOND, World, file, logs, metrics};

const ROWS: i64 = 20_000;
const GROUP: usize = 1_000;

/// Two files of twenty row groups each, the second newer, and a small tail.
fn search_world() -> (World, Vec<Arc<AtomicU64>>, u64) {
    let world = World::new();
    let mut reads = Vec::new();
    let mut bytes = 0;
    for at in 0..2 {
        let bodies: Vec<String> = (0..ROWS)
            .map(|row| {
                let word = if row % 5 == 0 { "common" } else { "other" };
                let rare = if row == 17 { " needle" } else { "" };
                format!(
                    "{word} request {:016x} took a while{rare}",
                    (row * 7_919 + at).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64)
                )
            })
            .collect();
        let rows: Vec<(i64, i32, &str, &str)> = bodies
            .iter()
            .enumerate()
            .map(|(row, body)| {
                (NOON + (at * ROWS + row as i64) * SECOND, 9, body.as_str(), r#"{"k":"some value","n":1}"#)
            })
            .collect();
        let file = file(at + 1, stream("logs").unwrap(), &logs(&rows), GROUP);
        bytes += weir_sql::tables::TableFileView::entry(&file).bytes;
        reads.push(world.file("acme", "logs", file));
    }
    world.tail("acme", "logs", logs(&[(NOON + 2 * ROWS * SECOND, 9, "tail", "{}")]));
    (world, reads, bytes)
}

fn total(reads: &[Arc<AtomicU64>]) -> u64 {
    reads.iter().map(|read| read.swap(0, Ordering::Relaxed)).sum()
}

#[tokio::test]
async fn the_newest_matches_are_found_without_reading_the_rest() {
    let (world, reads, bytes) = search_world();
    let found = world.rows("acme", "select * from logs where body like '%common%' order by time desc limit 10").await;
    assert!(found.matches("common").count() == 10, "{found}");
    let read = total(&reads);
    // Twenty row groups a file: the newest one of each partition, and little else.
    assert!(read * 5 < bytes, "read {read} of {bytes}");
    let newest = world.rows("acme", "select time from logs order by time desc limit 3").await;
    assert!(newest.contains("2026-11-21T23:06:40Z"), "{newest}");
    let read = total(&reads);
    assert!(read * 8 < bytes, "read {read} of {bytes}");
}

#[tokio::test]
async fn a_search_for_something_rare_reads_only_what_it_searches() {
    let (world, reads, bytes) = search_world();
    let all = world.rows("acme", "select count(*) from (select * from logs where body like '%needle%')").await;
    assert_eq!(all, "[[2]]");
    total(&reads);
    let found = world.rows("acme", "select * from logs where body like '%needle%' order by time desc limit 10").await;
    assert_eq!(found.matches("needle").count(), 2);
    let read = total(&reads);
    assert!(read < bytes, "read {read} of {bytes}");
}

#[tokio::test]
async fn counts_and_bounds_of_time_read_nothing() {
    let (world, reads, _) = search_world();
    assert_eq!(world.rows("acme", "select count(*) from logs").await, format!("[[{}]]", 2 * ROWS + 1));
    assert_eq!(total(&reads), 0);
}

#[tokio::test]
async fn files_outside_the_asked_time_are_not_opened() {
    let (world, reads, _) = search_world();
    let sql = format!(
        "select count(*) from logs where time >= to_timestamp({}) and body like '%o%'",
        NOON / SECOND + 2 * ROWS
    );
    assert_eq!(world.rows("acme", &sql).await, "[[0]]");
    assert_eq!(total(&reads), 0);
    let sql = "select body from logs where time = '2026-11-21T12:00:17Z'";
    assert!(world.rows("acme", sql).await.contains("needle"));
    assert_eq!(reads[1].load(Ordering::Relaxed), 0);
}

/// However rows are spread over files and tail, answers are those of one plain batch of them.
#[tokio::test]
async fn where_rows_are_kept_does_not_matter() {
    let queries = [
        "select count(*), sum(value_int), min(time), max(time) from metrics",
        "select name, count(*), sum(value_int), max(value) from metrics group by name order by name",
        "select time, name, value from metrics order by time desc, name, value limit 17",
        "select time, name, value from metrics order by time, name, value limit 17 offset 5",
        "select name, time from metrics where name >= 'm3' and value > 20 order by name desc, time, value limit 9",
        "select count(*) from metrics where time between '2026-11-21T12:01:00Z' and '2026-11-21T12:03:00Z'",
        "select value_int from metrics where name = 'm1' or value < 3 order by value_int",
        "select a.name, count(*) from metrics a join metrics b on a.value_int = b.value_int - 1 group by a.name order by 1",
        "select distinct unit, time_flag from metrics",
        "select name, value_int, row_number() over (partition by name order by value_int) from metrics order by 1, 2",
        "select value_int from metrics where value_int in (select max(value_int) from metrics group by name) order by 1",
    ];
    let mut seed: u64 = 0x5EED;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..6 {
        let names: Vec<String> = (0..7).map(|at| format!("m{at}")).collect();
        let mut rows: Vec<(i64, &str, f64, i64)> = (0..200)
            .map(|at| {
                let name = names[random(7) as usize].as_str();
                (NOON + random(300) as i64 * SECOND, name, random(50) as f64, at)
            })
            .collect();
        let (plain, spread) = (World::new(), World::new());
        plain.tail("acme", "metrics", metrics(&rows));
        let mut id = 0;
        while !rows.is_empty() {
            let mut part = rows.split_off(rows.len() - (1 + random(60) as usize).min(rows.len()));
            if random(3) == 0 {
                spread.tail("acme", "metrics", metrics(&part));
            } else {
                // As files are sorted: by name, series (null here) and time.
                part.sort_by(|left, right| (left.1, left.0).cmp(&(right.1, right.0)));
                id += 1;
                let group = 1 + random(20) as usize;
                spread.file("acme", "metrics", file(id, stream("metrics").unwrap(), &metrics(&part), group));
            }
        }
        for sql in queries {
            assert_eq!(spread.rows("acme", sql).await, plain.rows("acme", sql).await, "round {round}: {sql}");
        }
    }
}
