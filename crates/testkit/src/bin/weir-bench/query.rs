//! How long questions take over many rows.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use weir_testkit::oracle::server::Server;

use crate::drive;
use crate::requests::Shape;

/// Each is asked so often after a first time that does not count; the best counts.
const REPEATS: usize = 4;

const QUESTIONS: &[(&str, &str)] = &[
    ("common word, newest 100", "select time, body from logs where body like '%timeout%' order by time desc limit 100"),
    (
        "rare string, newest 100",
        "select time, body from logs where body like '%cache cache cache cache cache%' order by time desc limit 100",
    ),
    (
        "absent string, newest 100",
        "select time, body from logs where body like '%zebra crossing%' order by time desc limit 100",
    ),
    (
        "group by service and severity",
        "select service_name, severity_number, count(*), avg(severity_number) from logs group by service_name, severity_number",
    ),
    ("count of an attribute", "select attributes['http.route'], count(*) from logs group by 1"),
    ("count", "select count(*) from logs"),
];

/// Fills a table, lets the background finish, and asks.
pub(crate) async fn measure(weir: &Path, scratch: &Path, rows: u64) -> Result<String> {
    let mut server = Server::new(weir, scratch, &scratch.join("data"), "tables:\n  flush_age: 5s\n")?;
    server.start().await?;
    let key = drive::tenant(&server, "bench").await?;
    let shape = Shape::Logs { rows: 1000 };
    println!("sending {rows} rows ...");
    let begin = Instant::now();
    drive::fill(&server, &key, shape, rows).await?;
    println!("sent in {:.0} s; waiting for flushes and compaction ...", begin.elapsed().as_secs_f64());
    settle(&server, scratch).await?;
    let mut table =
        format!("{rows} rows of `{}`, warm, best of {REPEATS}\n\n| question | ms |\n|---|---|\n", shape.table());
    for (name, sql) in QUESTIONS {
        let mut best = Duration::MAX;
        for repeat in 0..=REPEATS {
            let headers = [("authorization", format!("Bearer {key}"))];
            let begin = Instant::now();
            server.http.json(&server.addresses.http, "/api/v1/query", &headers, &json!({ "sql": sql })).await?;
            if repeat > 0 {
                best = best.min(begin.elapsed());
            }
        }
        let line = format!("| {name}: `{}` | {:.1} |\n", sql.replace('|', "\\|"), best.as_secs_f64() * 1e3);
        print!("{line}");
        table.push_str(&line);
    }
    server.stop().await?;
    Ok(table)
}

/// Waits until the table files have not changed for a while.
async fn settle(server: &Server, scratch: &Path) -> Result<()> {
    let mut quiet_since = Instant::now();
    let mut before = Vec::new();
    let begin = Instant::now();
    while quiet_since.elapsed() < Duration::from_secs(15) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut files = Vec::new();
        // Files come and go while compaction runs.
        let _ = weir_testkit::oracle::server::walk(&scratch.join("data/tables"), &mut |path| {
            if path.extension().is_some_and(|extension| extension == "parquet") {
                files.push(path.to_owned());
            }
        });
        files.sort();
        if files != before {
            before = files;
            quiet_since = Instant::now();
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(900), "tables are still busy\n{}", server.log_end());
    }
    Ok(())
}
