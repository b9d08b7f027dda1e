//! Time, memory, rows, bytes and concurrency.

use std::time::Duration;

use futures::StreamExt;
use weir_base::{ErrorKind, Kinded};
use weir_sql::output::Format;
use weir_sql::{QueryLimits, QueryRequest, SqlError};

use crate::support::{NOON, SECOND, World, logs, request, tenant};

fn many(world: &World, rows: i64) {
    for part in 0..rows / 1_000 {
        let bodies: Vec<String> = (0..1_000).map(|at| format!("body number {} of many", part * 1_000 + at)).collect();
        let rows: Vec<(i64, i32, &str, &str)> = bodies
            .iter()
            .enumerate()
            .map(|(at, body)| (NOON + (part * 1_000 + at as i64) * SECOND, 9, body.as_str(), "{}"))
            .collect();
        world.tail("acme", "logs", logs(&rows));
    }
}

fn limited(sql: &str, change: impl FnOnce(&mut QueryLimits)) -> QueryRequest {
    let mut request = request(sql);
    change(&mut request.limits);
    request
}

const ENDLESS: &str = "select count(*) from logs a, logs b, logs c where a.body < b.body and b.body < c.body";

#[tokio::test]
async fn rows_beyond_the_limit_are_left_out_and_said() {
    let world = World::new();
    many(&world, 3_000);
    let bytes = world.run("acme", limited("select body from logs", |limits| limits.rows = 10), Format::Json).await;
    let answer: serde_json::Value = serde_json::from_slice(&bytes.unwrap()).unwrap();
    assert_eq!(answer["rows"].as_array().unwrap().len(), 10);
    assert_eq!(answer["stats"]["truncated"], true);
    assert_eq!(answer["stats"]["rows"], 10);
    // Exactly as many as the limit is not too many.
    let exact = limited("select body from logs limit 10", |limits| limits.rows = 10);
    let answer: serde_json::Value =
        serde_json::from_slice(&world.run("acme", exact, Format::Json).await.unwrap()).unwrap();
    assert_eq!(answer["stats"]["truncated"], false);
    let few = limited("select body from logs", |limits| limits.bytes = 20_000);
    let answer: serde_json::Value =
        serde_json::from_slice(&world.run("acme", few, Format::Json).await.unwrap()).unwrap();
    assert_eq!(answer["stats"]["truncated"], true);
    let rows = answer["rows"].as_array().unwrap().len();
    assert!((1..1_000).contains(&rows), "{rows}");
}

#[tokio::test]
async fn a_query_ends_at_its_deadline() {
    let world = World::new();
    many(&world, 5_000);
    let request = limited(ENDLESS, |limits| limits.time = Duration::from_millis(300));
    let begun = tokio::time::Instant::now();
    let error = world.engine.query(&tenant("acme"), request).await.unwrap_err();
    assert_eq!(error, SqlError::Timeout { limit: Duration::from_millis(300) });
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Its memory is given back and other queries run.
    assert_eq!(world.rows("acme", "select count(*) from logs").await, "[[5000]]");
}

#[tokio::test]
async fn a_dropped_query_gives_its_place_back() {
    let world = World::new();
    many(&world, 5_000);
    for _ in 0..8 {
        // Two at a time may run: if a dropped one kept its place, the third would wait.
        let wanted = limited("select * from logs a, logs b", |limits| {
            limits.concurrent = 2;
            limits.rows = usize::MAX - 1;
            limits.bytes = usize::MAX;
            limits.memory_bytes = 256 << 20;
        });
        let mut result = world.engine.query(&tenant("acme"), wanted).await.unwrap();
        assert!(result.next().await.unwrap().is_ok());
        drop(result);
    }
}

/// What makes many rows of few computes for minutes without a row to give.
#[tokio::test]
async fn a_query_that_does_not_yield_delays_nobody_and_ends_when_nobody_waits() {
    let world = World::new();
    many(&world, 2_000);
    let within = Duration::from_secs(10);
    for endless in [
        ENDLESS,
        "select count(*) from logs a, logs b, logs c, logs d where a.body || b.body || c.body || d.body like '%zz'",
        "select count(*) from logs a, logs b, logs c where a.body = 'no' or b.body = 'no' or c.body = 'no'",
    ] {
        let asked = |sql: &str| {
            limited(sql, |limits| {
                limits.concurrent = 1;
                limits.time = Duration::from_secs(120);
            })
        };
        let acme = tenant("acme");
        let computes = tokio::time::timeout(Duration::from_secs(1), world.engine.query(&acme, asked(endless))).await;
        assert!(computes.is_err(), "it was to take longer: {endless}");
        // That is over now, and its only place is free at once.
        let next = tokio::time::timeout(within, world.engine.query(&acme, asked("select 1"))).await;
        assert!(next.is_ok_and(|next| next.is_ok()), "{endless}");

        let mut computes = std::pin::pin!(world.engine.query(&acme, asked(endless)));
        let _ = tokio::time::timeout(Duration::from_secs(1), computes.as_mut()).await;
        let other = tokio::time::timeout(within, world.rows("globex", "select count(*) from logs")).await;
        assert_eq!(other.as_deref(), Ok("[[0]]"), "{endless}");
    }
}

/// A pipeline that is blocked, or a client that has stopped reading, comes for its rows much later or never.
#[tokio::test]
async fn a_query_that_nobody_reads_gives_its_place_back_at_its_deadline() {
    let world = World::new();
    many(&world, 5_000);
    let asked = |time: Duration| {
        limited("select * from logs a, logs b", |limits| {
            limits.concurrent = 1;
            limits.rows = usize::MAX - 1;
            limits.bytes = usize::MAX;
            limits.memory_bytes = 256 << 20;
            limits.time = time;
        })
    };
    let time = Duration::from_millis(500);
    let mut unread = world.engine.query(&tenant("acme"), asked(time)).await.unwrap();
    let next = world.engine.query(&tenant("acme"), asked(Duration::from_secs(30))).await;
    assert!(next.is_ok(), "the place was free: {next:?}");
    drop(next);
    // What was there before is gone, and why is said.
    assert_eq!(unread.next().await.unwrap().unwrap_err(), SqlError::Timeout { limit: time });
    assert!(unread.next().await.is_none());
}

/// What of a column is in memory, beside the table itself: batches of an answer share its values.
fn held(world: &World) -> impl Fn() -> usize {
    let tables = weir_sql::tables::Tables::snapshot(
        &*world.tables,
        &tenant("acme"),
        &weir_base::StreamName::new("logs").unwrap(),
    )
    .unwrap();
    let columns: Vec<_> =
        tables.tail.iter().map(|part| part.batch().unwrap().column(0).to_data().buffers()[0].clone()).collect();
    let count = move || columns.iter().map(arrow::buffer::Buffer::strong_count).sum::<usize>();
    let before = count();
    move || count() - before
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = tokio::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_nobody_reads_is_dropped_at_the_deadline() {
    let world = World::with(|options| options.partitions = 1);
    // In one batch, so that those of the answer are parts of it.
    let rows: Vec<_> = (0..60_000).map(|at| (NOON + at, 9, "", "{}")).collect();
    world.tail("acme", "logs", logs(&rows));
    let held = held(&world);
    let time = Duration::from_millis(500);
    let asked = || limited("select time from logs", |limits| limits.time = time);
    for format in [None, Some(Format::Json), Some(Format::Csv)] {
        let unread = world.engine.query(&tenant("acme"), asked()).await.unwrap();
        match format {
            None => {
                assert!(held() > 0);
                until("the rows are dropped", || held() == 0).await;
                drop(unread);
            }
            Some(format) => {
                let mut bytes = Box::pin(weir_sql::output::encode(unread, format).unwrap());
                let mut text = bytes.next().await.unwrap().unwrap().to_vec();
                text.extend(bytes.next().await.unwrap().unwrap());
                assert!(held() > 0);
                until("the rows are dropped", || held() == 0).await;
                let expected = SqlError::Timeout { limit: time };
                if format == Format::Json {
                    text.extend(bytes.next().await.unwrap().unwrap());
                    let answer: serde_json::Value = serde_json::from_slice(&text).unwrap();
                    assert_eq!(answer["error"]["code"], "timeout");
                    assert!(!answer["rows"].as_array().unwrap().is_empty());
                } else {
                    assert_eq!(bytes.next().await.unwrap().unwrap_err(), expected);
                }
                assert!(bytes.next().await.is_none());
            }
        }
        assert_eq!(world.engine.memory_used(), 0);
    }
    // All of it was read, but not yet that there is no more.
    for format in [Format::Json, Format::Csv, Format::Arrow, Format::Parquet] {
        let slow = limited("select time from logs limit 3", |limits| limits.time = time);
        let mut bytes = Box::pin(
            weir_sql::output::encode(world.engine.query(&tenant("acme"), slow).await.unwrap(), format).unwrap(),
        );
        let mut whole = Vec::new();
        while let Ok(part) = tokio::time::timeout(time / 2, bytes.next()).await {
            let Some(part) = part else { panic!("{format:?}: the end was to come later") };
            whole.extend(part.unwrap());
            let is_whole = match format {
                Format::Json => serde_json::from_slice::<serde_json::Value>(&whole).is_ok(),
                Format::Csv => whole.iter().filter(|byte| **byte == b'\n').count() == 4,
                Format::Arrow => whole.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
                _ => whole.len() > 4 && whole.ends_with(b"PAR1"),
            };
            if is_whole {
                break;
            }
        }
        tokio::time::sleep(time * 2).await;
        let more = bytes.next().await;
        assert!(more.is_none() || format == Format::Csv, "{format:?}: {more:?}");
    }
    // Not even the first byte was read.
    let unread = world.engine.query(&tenant("acme"), asked()).await.unwrap();
    let mut bytes = Box::pin(weir_sql::output::encode(unread, Format::Json).unwrap());
    tokio::time::sleep(time).await;
    until("the rows are dropped", || held() == 0).await;
    let answer: serde_json::Value = serde_json::from_slice(&bytes.next().await.unwrap().unwrap()).unwrap();
    assert_eq!((&answer["rows"], &answer["error"]["code"]), (&serde_json::json!([]), &"timeout".into()));
}

/// Else any number of answers could be in memory, whose queries count as done.
#[tokio::test]
async fn an_answer_keeps_its_place_until_it_is_read() {
    let world = World::new();
    many(&world, 2_000);
    let asked = |time: Duration| {
        limited("select time from logs", |limits| {
            limits.concurrent = 1;
            limits.time = time;
        })
    };
    let mut unread = world.engine.query(&tenant("acme"), asked(Duration::from_secs(60))).await.unwrap();
    let refused = world.engine.query(&tenant("acme"), asked(Duration::from_millis(300))).await.unwrap_err();
    assert_eq!(refused, SqlError::Busy { limit: 1 });
    while unread.next().await.is_some() {}
    // It is over, though it is not dropped.
    assert!(world.engine.query(&tenant("acme"), asked(Duration::from_secs(60))).await.is_ok());
}

#[tokio::test]
async fn too_many_queries_are_told_so() {
    let world = World::new();
    many(&world, 3_000);
    let slow = || {
        limited(ENDLESS, |limits| {
            limits.concurrent = 1;
            limits.time = Duration::from_secs(3);
        })
    };
    let acme = tenant("acme");
    let running: Vec<_> = (0..7)
        .map(|_| {
            let (engine, acme) = (std::sync::Arc::clone(&world.engine), acme.clone());
            tokio::spawn(async move { engine.query(&acme, slow()).await.map(|_| ()) })
        })
        .collect();
    let mut kinds = Vec::new();
    for query in running {
        kinds.push(query.await.unwrap().unwrap_err().kind());
    }
    assert!(kinds.contains(&ErrorKind::Limit), "{kinds:?}");
    assert!(kinds.contains(&ErrorKind::Timeout), "{kinds:?}");
    // Another tenant is not in that queue.
    assert_eq!(world.rows("rival", "select 1").await, "[[1]]");
}

#[tokio::test]
async fn memory_is_bounded_and_given_back() {
    let world = World::with(|options| options.spill_bytes_max = 1 << 20);
    many(&world, 20_000);
    for sql in [
        "select array_agg(body) from logs",
        "select body, count(*), array_agg(attributes) from logs group by body",
        "select * from logs order by body limit 100000",
        "select a.body from logs a join logs b on a.body = b.body",
    ] {
        let request = limited(sql, |limits| limits.memory_bytes = 300_000);
        let mut outcome = world.engine.query(&tenant("acme"), request).await;
        let error = match &mut outcome {
            Err(error) => error.clone(),
            Ok(result) => {
                let mut failed = None;
                while let Some(batch) = result.next().await {
                    if let Err(error) = batch {
                        failed = Some(error);
                    }
                }
                failed.unwrap_or_else(|| panic!("{sql} was answered with 300 kB"))
            }
        };
        // It had all there is: trying again does not help.
        assert_eq!(error, SqlError::Memory { bytes: 300_000 }, "{sql}");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
    }
    assert_eq!(world.rows("acme", "select count(*) from logs").await, "[[20000]]");
    assert_eq!(world.engine.memory_used(), 0);
}

#[tokio::test]
async fn a_sort_larger_than_memory_spills_into_a_private_directory() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    many(&world, 20_000);
    let request = limited("select body from logs order by body desc", |limits| limits.memory_bytes = 4 << 20);
    let bytes = world.run("acme", request, Format::NdJson).await.unwrap();
    assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 20_000);
    let dir = world.dir.path().join("spill/acme");
    assert_eq!(std::fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn parameters_are_values() {
    let world = World::new();
    many(&world, 1_000);
    let ask = async |sql: &str, params: serde_json::Value| {
        let mut request = request(sql);
        request.params = params.as_array().unwrap().clone();
        match world.run("acme", request, Format::Json).await {
            Ok(bytes) => serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["rows"].to_string(),
            Err(error) => format!("error: {error}"),
        }
    };
    use serde_json::json;
    let ten = "select count(*) from logs where body = $1";
    assert_eq!(ask(ten, json!(["body number 7 of many"])).await, "[[1]]");
    assert_eq!(ask(ten, json!(["' or true --"])).await, "[[0]]");
    assert_eq!(ask("select $2, $1, $3, $4", json!([1, "x", null, true])).await, r#"[["x",1,null,true]]"#);
    assert_eq!(ask("select count(*) from logs where time >= $1", json!(["2026-11-21T12:16:00Z"])).await, "[[40]]");
    assert_eq!(ask("select body from logs order by time limit $1", json!([1])).await, r#"[["body number 0 of many"]]"#);
    assert_eq!(ask("select 1.5 + $1", json!([0.25])).await, "[[1.75]]");
    assert_eq!(
        ask("select $1, $1 > 9223372036854775807, $1 = 18446744073709551614", json!([u64::MAX])).await,
        "[[18446744073709551615,true,false]]"
    );
    assert!(ask(ten, json!([])).await.contains("has 1 parameters ($1 to $1), and 0 values"));
    assert!(ask("select 1", json!([1])).await.contains("has 0 parameters (none), and 1 values"));
    assert!(ask(ten, json!([[1]])).await.contains("a list or an object"));
}

/// A tenant whose limits change does not get a second set of them, and compiling a filter, which
/// knows no limits, does not change them.
#[tokio::test]
async fn changed_limits_count_the_queries_that_run() {
    let world = World::new();
    many(&world, 5_000);
    let name = weir_base::StreamName::new("logs").unwrap();
    let asked = |concurrent: usize, memory_bytes: usize, sql: &str| {
        limited(sql, |limits| {
            limits.concurrent = concurrent;
            limits.memory_bytes = memory_bytes;
            limits.rows = usize::MAX;
            limits.bytes = usize::MAX;
            // Those that run do so for longer than the others wait.
            limits.time = Duration::from_secs(if sql == "select 1" { 2 } else { 60 });
        })
    };
    let endless = "select * from logs a, logs b";
    let acme = tenant("acme");
    let first = world.engine.query(&acme, asked(2, 100 << 20, endless)).await.unwrap();
    let second = world.engine.query(&acme, asked(2, 100 << 20, endless)).await.unwrap();
    world.engine.row_filter(&acme, &name, "body = 'x'").await.unwrap();
    // Two run; whatever changes, neither limit has room for a third.
    for (concurrent, memory) in [(2, 100 << 20), (2, 90 << 20), (1, 90 << 20)] {
        let refused = world.engine.query(&acme, asked(concurrent, memory, "select 1")).await.unwrap_err();
        assert_eq!(refused, SqlError::Busy { limit: concurrent });
    }
    // The next one may begin, because three may run now.
    let third = world.engine.query(&acme, asked(3, 90 << 20, "select 1")).await;
    assert!(third.is_ok(), "{third:?}");
    drop((first, second, third));
    // Places that were given up come back.
    for _ in 0..6 {
        assert!(world.engine.query(&acme, asked(1, 90 << 20, "select 1")).await.is_ok());
    }
}
