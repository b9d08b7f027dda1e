//! What rows cost once they are in files: merging, bytes on disk, and starting with much of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weir_testkit::oracle::server::Server;

use crate::counts::Counts;
use crate::drive::{self, Pace, Senders};
use crate::process::Spent;
use crate::requests::Shape;
use weir_testkit::report::figures::{Figures, Target};

/// How long no merge must have begun for merging to be over.
const QUIET: Duration = Duration::from_secs(8);

/// Fills a table, lets merging come to its end, and looks at what it cost and what is left.
pub(crate) async fn compaction(weir: &Path, folder: &Path, shape: Shape, rows: u64, of_json: f64) -> Result<Figures> {
    let mut server = Server::new(weir, folder, &folder.join("data"), &format!("{}{LOG}", drive::CONFIG))?;
    server.start().await?;
    let process_id = server.process_id().context("the server does not run")?;
    let key = drive::tenant(&server, "bench").await?;
    drive::fill(&server, &key, shape, rows).await.with_context(|| server.log_end())?;
    drive::until_flushed(&server).await?;
    let counts = until_merged(&server, process_id).await?;
    let spent = Spent::by(process_id)?;
    let micros = |time: Duration, rows: f64| time.as_secs_f64() * 1e6 / rows.max(1.0);
    let mut figures = Figures::default();
    figures.compare(
        "CPU of merging, a row of the table",
        micros(spent.compacting, counts.table_rows),
        "µs",
        Target::AtMost(1.2),
    );
    figures.add("CPU of merging, a row that was merged", micros(spent.compacting, counts.compacted_rows), "µs");
    let amplification = (counts.flushed_bytes + counts.compacted_bytes) / counts.flushed_bytes.max(1.0);
    figures.compare("bytes written to table files, of those flushed", amplification, "times", Target::AtMost(2.0));
    let bytes = counts.table_bytes / counts.table_rows.max(1.0);
    figures.add("table files a row", bytes, "B");
    let json = shape.json_bytes();
    figures.add("raw JSON a row", json, "B");
    figures.compare("table files, of the raw JSON", bytes / json * 100.0, "%", Target::AtMost(of_json));
    figures.add("rows", counts.table_rows, "rows");
    figures.add("files", counts.table_files, "files");
    server.stop().await?;
    Ok(figures)
}

const LOG: &str = "log:\n  retention_bytes: 1GiB\n";

/// Waits until nothing is merged any more.
async fn until_merged(server: &Server, process_id: u32) -> Result<Counts> {
    let (mut before, mut since) = (Spent::by(process_id)?.compacting, Instant::now());
    let begin = Instant::now();
    while since.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = Spent::by(process_id)?.compacting;
        if now > before + Duration::from_millis(50) {
            (before, since) = (now, Instant::now());
        }
        anyhow::ensure!(begin.elapsed() < Duration::from_secs(1800), "merging does not end\n{}", server.log_end());
    }
    Counts::of(server).await
}

/// How soon a server with much data answers, after a good end and after a bad one.
pub(crate) async fn start(weir: &Path, folder: &Path, gigabytes: f64) -> Result<Figures> {
    const RANDOM_BYTES: usize = 600;
    // About this much of a row is left in a table file.
    const ROW_BYTES: f64 = 430.0;
    let config = format!("tables:\n  flush_age: 60s\n{LOG}");
    let mut server = Server::new(weir, folder, &folder.join("data"), &config)?;
    server.start().await?;
    let key = drive::tenant(&server, "bench").await?;
    let shape = Shape::LargeEvents { rows: 500, random_bytes: RANDOM_BYTES };
    let rows = gigabytes * 1e9 / ROW_BYTES;
    println!("  filling with {:.0} million rows ...", rows / 1e6);
    drive::fill(&server, &key, shape, rows as u64).await.with_context(|| server.log_end())?;
    drive::until_flushed(&server).await?;
    let counts = Counts::of(&server).await?;
    let mut figures = Figures::default();
    figures.add("table files", counts.table_bytes / 1e9, "GB");
    figures.add("files", counts.table_files, "files");
    figures.add("rows", counts.table_rows / 1e6, "million");
    server.stop().await?;
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let ready = server.start().await?;
        best = best.min(ready);
        server.stop().await?;
    }
    figures.compare("ready after a stop, best of 3", best.as_secs_f64(), "s", Target::AtMost(2.0));
    server.start().await?;
    // Enough to have hundreds of megabytes in the tail when it is killed.
    let mut senders = Senders::start(&server, &[key], Shape::Events { rows: 100 }, 16, Pace::Full);
    tokio::time::sleep(Duration::from_secs(10)).await;
    senders.check()?;
    let tail = Counts::of(&server).await?.tail_rows;
    server.kill().await?;
    // What is left of the senders fails with the server.
    let _ = senders.stop().await;
    let ready = server.start().await?;
    figures.compare("ready after SIGKILL at full rate", ready.as_secs_f64(), "s", Target::AtMost(2.0));
    figures.add("rows then in the tail, about", tail, "rows");
    server.stop().await?;
    Ok(figures)
}
