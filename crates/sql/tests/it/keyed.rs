//! Streams with a key: the table shows of each key what counts, `<name>_history` shows all revisions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray, StructArray};
use arrow::record_batch::RecordBatch;
use weir_data::streams::StreamDef;
use weir_sql::QueryLimits;

use crate::support::{NOON, SECOND, World, file, request, times};

/// A row: path, minute, views, when the pipeline began, revision, whether it is final, whether it takes back.
type Row<'a> = (&'a str, i64, i64, i64, Option<i64>, bool, bool);

fn rows_of(received: i64, rows: &[Row<'_>]) -> RecordBatch {
    let minute = |row: &Row<'_>| NOON + row.1 * 60 * SECOND;
    let window = StructArray::try_from(vec![
        ("start", times(rows.iter().map(minute))),
        ("end", times(rows.iter().map(|row| minute(row) + 60 * SECOND))),
    ]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("time", times(rows.iter().map(minute))),
        ("received_at", times((0_i64..).zip(rows).map(|(at, _)| NOON + received * SECOND + at))),
        ("window", Arc::new(window.unwrap())),
        ("path", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)))),
        ("views", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2)))),
        ("is_final", Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.5))))),
        ("revision", Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.4)))),
        ("retracted", Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.6))))),
        ("began_at", times(rows.iter().map(|row| NOON - SECOND + row.3))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn stream(key: &[&str]) -> &'static StreamDef {
    let columns = rows_of(0, &[("", 0, 0, 0, None, false, false)]).schema();
    let key: Vec<String> = key.iter().map(ToString::to_string).collect();
    Box::leak(Box::new(StreamDef::define("visits", None, &columns, &key).unwrap()))
}

const EARLY: [Row<'_>; 3] = [
    ("/a", 0, 1, 0, Some(1), false, false),
    ("/b", 0, 5, 0, Some(1), true, false),
    ("/c", 0, 9, 0, Some(1), false, false),
];
const LATER: [Row<'_>; 3] = [
    ("/a", 0, 3, 0, Some(2), true, false),
    ("/c", 0, 9, 0, Some(2), true, true),
    ("/a", 1, 4, 0, Some(1), false, false),
];

/// The same rows, in the tail or in files.
fn worlds(key: &[&str], batches: &[RecordBatch]) -> Vec<World> {
    let stream = stream(key);
    let (tail, files, both) = (World::new(), World::new(), World::new());
    tail.own("acme", Arc::new(stream.clone()), batches.to_vec());
    files.own("acme", Arc::new(stream.clone()), vec![]);
    both.own("acme", Arc::new(stream.clone()), batches[1..].to_vec());
    for (id, batch) in (1..).zip(batches) {
        files.file("acme", "visits", file(id, stream, batch, 1024));
    }
    both.file("acme", "visits", file(9, stream, &batches[0], 1024));
    vec![tail, files, both]
}

#[tokio::test]
async fn the_newest_revision_counts_and_what_is_taken_back_is_hidden() {
    for key in [&["window", "path"][..], &["time", "path"]] {
        for world in worlds(key, &[rows_of(1, &EARLY), rows_of(2, &LATER)]) {
            let sql = "select path, extract(minute from time), views, revision, is_final from visits order by 2, 1";
            let expected = r#"[["/a",0,3,2,true],["/b",0,5,1,true],["/a",1,4,1,false]]"#;
            assert_eq!(world.rows("acme", sql).await, expected, "{key:?}");
            let sql = "select count(*), count(*) filter (where retracted) from visits_history";
            assert_eq!(world.rows("acme", sql).await, "[[6,1]]");
            let sql = "select h.revision from visits_history h join visits v on h.path = v.path and h.time = v.time \
                       where v.path = '/a' and v.views = 3 order by 1";
            assert_eq!(world.rows("acme", sql).await, "[[1],[2]]", "both tables in one query");
        }
    }
}

#[tokio::test]
async fn a_pipeline_that_began_anew_counts_its_revisions_anew() {
    let anew: [Row<'_>; 1] = [("/a", 0, 7, 1, Some(1), false, false)];
    for world in worlds(&["time", "path"], &[rows_of(1, &EARLY), rows_of(2, &LATER), rows_of(0, &anew)]) {
        let sql = "select views from visits where path = '/a' and time = '2026-11-21T12:00:00Z'";
        assert_eq!(world.rows("acme", sql).await, "[[7]]");
    }
}

#[tokio::test]
async fn rows_nobody_numbers_count_in_the_order_they_came() {
    let unnumbered = |path, views| (path, 0, views, 0, None, true, false);
    let (first, second) = ([unnumbered("/a", 1), unnumbered("/a", 2)], [unnumbered("/b", 3), unnumbered("/a", 4)]);
    for world in worlds(&["path"], &[rows_of(2, &second), rows_of(1, &first)]) {
        assert_eq!(world.rows("acme", "select path, views from visits order by 1").await, r#"[["/a",4],["/b",3]]"#);
    }
}

#[tokio::test]
async fn conditions_on_the_key_reach_the_files() {
    let world = World::new();
    let stream = stream(&["time", "path"]);
    world.own("acme", Arc::new(stream.clone()), vec![]);
    let day = 86_400 / 60;
    let read: Vec<_> = (0..3)
        .map(|at| {
            let rows: Vec<Row<'_>> = (0..500).map(|n| ("/a", at * day + n, n, 0, Some(1), true, false)).collect();
            world.file("acme", "visits", file(at, stream, &rows_of(at, &rows), 1024))
        })
        .collect();
    // A condition on another column must not: an older revision would count again.
    let sql = "select count(*) from visits where time >= '2026-11-23T00:00:00Z' and views < 10";
    assert_eq!(world.rows("acme", sql).await, "[[10]]");
    let read: Vec<u64> = read.iter().map(|read| read.load(Ordering::Relaxed)).collect();
    assert!(read[0] == 0 && read[1] == 0 && read[2] > 0, "{read:?}");
    let revised: [Row<'_>; 1] = [("/a", 2 * day, 1_000, 0, Some(2), true, false)];
    world.file("acme", "visits", file(9, stream, &rows_of(9, &revised), 1024));
    assert_eq!(world.rows("acme", sql).await, "[[9]]");
}

#[tokio::test]
async fn what_is_shown_is_described() {
    let world = &worlds(&["window", "path"], &[rows_of(1, &EARLY), rows_of(2, &LATER)])[0];
    let sql = "select table_name, table_type from information_schema.tables where table_name like 'visits%' order by 1";
    assert_eq!(world.rows("acme", sql).await, r#"[["visits","VIEW"],["visits_history","BASE TABLE"]]"#);
    let sql = "select table_name, column_name from information_schema.columns \
               where table_name like 'visits%' and column_name in ('revision', 'retracted', 'began_at') order by 1, 2";
    let expected = r#"[["visits","revision"],["visits_history","began_at"],["visits_history","retracted"],["visits_history","revision"]]"#;
    assert_eq!(world.rows("acme", sql).await, expected);
    assert!(world.rows("acme", "show tables").await.contains("visits_history"));
    let star = world.json("acme", "select * from visits").await.unwrap();
    let names: Vec<&str> = star["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["time", "received_at", "time_flag", "window", "path", "views", "is_final", "revision"]);
    let error = world.rows("acme", "select * from visits_histry").await;
    assert!(error.contains("did you mean `visits_history`"), "{error}");
    assert!(world.rows("rival", "select * from visits_history").await.starts_with("error: there is no table"));
    let error = world.rows("acme", "select retracted from visits").await;
    assert!(error.starts_with("error: "), "{error}");
}

/// Many keys with wide rows and little memory: sorting goes to disk, and the answer comes.
#[tokio::test]
async fn memory_is_bounded() {
    let stream = stream(&["path"]);
    let world = World::new();
    let paths: Vec<String> = (0..200_000).map(|n| format!("/{:064}", n % 100_000)).collect();
    let batches = paths.chunks(8_192).enumerate().map(|(at, paths)| {
        let at = i64::try_from(at).unwrap();
        let rows: Vec<Row<'_>> = paths.iter().map(|path| (path.as_str(), 0, at, 0, Some(at), false, false)).collect();
        rows_of(at, &rows)
    });
    world.own("acme", Arc::new(stream.clone()), batches.collect());
    let mut asked = request("select count(*), min(views), max(views) from visits");
    asked.limits =
        QueryLimits { memory_bytes: 48 << 20, time: std::time::Duration::from_secs(600), ..QueryLimits::default() };
    let answer = world.run("acme", asked, weir_sql::output::Format::Json).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["rows"].to_string(), "[[100000,12,24]]");
}
