//! How long questions take over many rows, beside stock DataFusion on the same files.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use weir_testkit::oracle::server::Server;

use crate::drive;
use crate::requests::Shape;

const TENANT: &str = "bench";

/// Each is asked so often after a first time that does not count; the best counts.
const REPEATS: usize = 4;

/// A question, and at most what part of stock DataFusion's time it should take.
struct Question {
    name: &'static str,
    sql: &'static str,
    target: Option<f64>,
}

const QUESTIONS: &[Question] = &[
    Question {
        name: "common word, newest 100",
        sql: "select time, body from logs where body like '%timeout%' order by time desc limit 100",
        target: Some(1.0 / 15.0),
    },
    Question {
        name: "rare string, newest 100",
        sql: "select time, body from logs where body like '%disk quota exceeded%' order by time desc limit 100",
        target: Some(0.2),
    },
    Question {
        name: "absent string, newest 100",
        sql: "select time, body from logs where body like '%zebra crossing%' order by time desc limit 100",
        target: Some(0.1),
    },
    Question {
        name: "group by service and severity",
        sql: "select service_name, severity_number, count(*), avg(severity_number) from logs group by service_name, severity_number",
        target: Some(0.9),
    },
    Question {
        name: "rare string, counted",
        sql: "select count(*) from logs where body ilike '%DISK quota%'",
        target: None,
    },
    Question { name: "count", sql: "select count(*) from logs", target: None },
];

/// What cannot be asked of files that do not say what an attribute is.
const OURS_ALONE: &[(&str, &str)] =
    &[("count of an attribute", "select attributes['http.route'], count(*) from logs group by 1")];

/// Fills a table, lets the background finish, and asks: first the server, then DataFusion.
pub(crate) async fn measure(weir: &Path, stock: Option<&Path>, scratch: &Path, rows: u64) -> Result<String> {
    let mut server = Server::new(weir, scratch, &scratch.join("data"), "tables:\n  flush_age: 5s\n")?;
    server.start().await?;
    let key = drive::tenant(&server, TENANT).await?;
    let shape = Shape::Logs { rows: 1000 };
    println!("sending {rows} rows ...");
    let begin = Instant::now();
    drive::fill(&server, &key, shape, rows).await?;
    println!("sent in {:.0} s; waiting for flushes and compaction ...", begin.elapsed().as_secs_f64());
    settle(&server, scratch).await?;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (files, bytes) = files(&scratch.join("data/tables").join(TENANT));
    let mut table = format!(
        "{rows} rows of `{}` in {files} files, {:.1} bytes a row; {threads} threads, warm, best of {REPEATS}\n\n\
         | question | ms | stock DataFusion, ms | ratio | target |\n|---|---|---|---|---|\n",
        shape.table(),
        bytes as f64 / rows as f64,
    );
    let theirs = match stock {
        Some(stock) => ask_stock(stock, scratch, threads).await?,
        None => Vec::new(),
    };
    for (at, question) in QUESTIONS.iter().enumerate() {
        let (ms, answer) = ask(&server, &key, question.sql).await?;
        let shown_sql = question.sql.replace('|', "\\|");
        let target = question.target.map_or(String::new(), |target| format!("{target:.3}"));
        let (stock_ms, ratio) = match theirs.get(at) {
            Some((stock_ms, stock_rows)) => {
                anyhow::ensure!(rows_of(&answer) == *stock_rows, "other rows than DataFusion's for: {}", question.sql);
                (format!("{stock_ms:.1}"), format!("{:.3}", ms / stock_ms))
            }
            None => Default::default(),
        };
        let line = format!("| {}: `{shown_sql}` | {ms:.1} | {stock_ms} | {ratio} | {target} |\n", question.name);
        print!("{line}");
        table.push_str(&line);
    }
    for (name, sql) in OURS_ALONE {
        let (ms, _) = ask(&server, &key, sql).await?;
        let line = format!("| {name}: `{sql}` | {ms:.1} | | | |\n");
        print!("{line}");
        table.push_str(&line);
    }
    server.stop().await?;
    Ok(table)
}

/// The best time over HTTP, in milliseconds, and the answer.
async fn ask(server: &Server, key: &str, sql: &str) -> Result<(f64, Value)> {
    let (mut best, mut answer) = (Duration::MAX, Value::Null);
    for repeat in 0..=REPEATS {
        let headers = [("authorization", format!("Bearer {key}"))];
        let begin = Instant::now();
        answer = server.http.json(&server.addresses.http, "/api/v1/query", &headers, &json!({ "sql": sql })).await?;
        if repeat > 0 {
            best = best.min(begin.elapsed());
        }
    }
    Ok((best.as_secs_f64() * 1e3, answer))
}

/// Has the same questions answered from the same files by stock DataFusion, in a process of its own.
async fn ask_stock(program: &Path, scratch: &Path, threads: usize) -> Result<Vec<(f64, Vec<String>)>> {
    let mut child = tokio::process::Command::new(program)
        .arg(scratch.join("data/tables").join(TENANT).join("logs"))
        .args([threads.to_string(), REPEATS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let questions: Vec<&str> = QUESTIONS.iter().map(|question| question.sql).collect();
    let mut input = child.stdin.take().context("no standard input")?;
    input.write_all(&serde_json::to_vec(&questions)?).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    anyhow::ensure!(output.status.success(), "DataFusion failed");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).context("DataFusion's answer is not JSON")?;
    let parse = |answer: &Value| {
        let rows = answer["rows"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut rows: Vec<String> = rows.map(|row| row.split('\t').map(canonical).collect()).collect();
        rows.sort();
        Some((answer["ms"].as_f64()?, rows))
    };
    answers.iter().map(|answer| parse(answer).context("an answer has no time")).collect()
}

/// Rows of the server's answer, as [`ask_stock`] has them.
fn rows_of(answer: &Value) -> Vec<String> {
    let value = |value: &Value| match value {
        Value::String(text) => canonical(text),
        other => canonical(&other.to_string()),
    };
    let rows = answer["rows"].as_array().into_iter().flatten();
    let mut rows: Vec<String> =
        rows.map(|row| row.as_array().into_iter().flatten().map(value).collect::<String>()).collect();
    rows.sort();
    rows
}

/// A value, however it is written: `9.0` is `9`, and fractions of a second end where their zeros begin.
fn canonical(text: &str) -> String {
    if let Ok(number) = text.parse::<f64>() {
        return format!("{number:.9}|");
    }
    let is_time = text.ends_with('Z') && text.len() > 19 && text.as_bytes()[10] == b'T';
    let text = if is_time { text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.') } else { text };
    format!("{text}|")
}

/// How many table files there are, and their bytes.
fn files(tables: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    let _ = weir_testkit::oracle::server::walk(tables, &mut |path| {
        if path.extension().is_some_and(|extension| extension == "parquet") && path.to_string_lossy().contains("/logs/")
        {
            sum.0 += 1;
            sum.1 += path.metadata().map_or(0, |metadata| metadata.len());
        }
    });
    sum
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
        let _ = weir_testkit::oracle::server::walk(&scratch.join("data/tables").join(TENANT), &mut |path| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_compare_equal_however_they_are_written() {
        let answer = json!({ "rows": [["web", 9, 3, 9.0], ["2026-11-21T12:00:00.5Z", null, true, "x"]] });
        let theirs = ["2026-11-21T12:00:00.500Z", "null", "true", "x"].map(canonical).concat();
        assert_eq!(rows_of(&answer), [theirs, ["web", "9.0", "3", "9"].map(canonical).concat()]);
        assert_ne!(canonical("9.1"), canonical("9"));
    }
}
