//! How much memory the server takes, and whether it grows: at full rate, and with many tenants and
//! bursts.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weir_testkit::oracle::server::Server;

use crate::drive::{self, Pace, Senders};
use crate::process::{self, Spent};
use crate::requests::Shape;
use weir_testkit::report::figures::{Figures, Target};

/// The log must not fill the disk meanwhile.
const CONFIG: &str = "log:\n  retention_bytes: 1GiB\n";
/// Growth below this is not told from chance.
const SLOPE_MB_A_MINUTE: f64 = 1.0;

/// One load.
pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) tenants: usize,
    pub(crate) connections: usize,
    pub(crate) shape: Shape,
    pub(crate) pace: Pace,
}

pub(crate) const LOADS: &[Load] = &[
    Load {
        name: "memory at full rate: /ingest, 100 events a request, 16 connections",
        tenants: 1,
        connections: 16,
        shape: Shape::Events { rows: 100 },
        pace: Pace::Full,
    },
    Load {
        name: "memory with 200 tenants: 5,000 events/s, every 30 s ten times that for 5 s",
        tenants: 200,
        connections: 200,
        shape: Shape::Events { rows: 20 },
        pace: Pace::Bursts(5_000),
    },
];

/// Runs a load for so long and watches the memory.
pub(crate) async fn measure(weir: &Path, folder: &Path, load: &Load, time: Duration) -> Result<Figures> {
    let mut server = Server::new(weir, folder, &folder.join("data"), CONFIG)?;
    server.start().await?;
    let process_id = server.process_id().context("the server does not run")?;
    let mut keys = Vec::new();
    for number in 0..load.tenants {
        keys.push(drive::tenant(&server, &format!("bench-{number}")).await?);
    }
    let mut senders = Senders::start(&server, &keys, load.shape, load.connections, load.pace);
    let begin = Instant::now();
    let (mut samples, mut seconds) = (Vec::new(), 0);
    while begin.elapsed() < time {
        tokio::time::sleep(Duration::from_secs(1)).await;
        senders.check().with_context(|| server.log_end())?;
        let (_, rss) = process::memory_mb(process_id)?;
        samples.push((begin.elapsed().as_secs_f64() / 60.0, rss));
        seconds += 1;
        if seconds % 60 == 0 {
            println!("  {} min: RSS {rss:.0} MB, {} rows", seconds / 60, senders.rows());
        }
    }
    let rows = senders.rows() as f64;
    let refused = senders.refused();
    let spent = Spent::by(process_id)?;
    senders.stop().await?;
    let (peak, _) = process::memory_mb(process_id)?;
    let half = &samples[samples.len() / 2..];
    let mut figures = Figures::default();
    figures.compare("RSS peak", peak, "MB", Target::AtMost(300.0));
    figures.compare("RSS growth in the second half", slope(half), "MB/min", Target::AtMost(SLOPE_MB_A_MINUTE));
    figures.add(
        "RSS mean in the second half",
        half.iter().map(|(_, rss)| rss).sum::<f64>() / half.len().max(1) as f64,
        "MB",
    );
    figures.add("acknowledged", rows / begin.elapsed().as_secs_f64(), "rows/s");
    figures.add("asked to send later", refused as f64, "requests");
    figures.add("CPU a row, everything", spent.all.total().as_secs_f64() * 1e6 / rows.max(1.0), "µs");
    figures.add("time", time.as_secs_f64() / 60.0, "min");
    server.stop().await?;
    Ok(figures)
}

/// The slope of the line of least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let above: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let below: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

/// What a server costs nobody sends to, with some data and tenants.
pub(crate) async fn idle(weir: &Path, folder: &Path, time: Duration) -> Result<Figures> {
    let mut server = Server::new(weir, folder, &folder.join("data"), drive::CONFIG)?;
    server.start().await?;
    for number in 0..20 {
        let key = drive::tenant(&server, &format!("bench-{number}")).await?;
        drive::fill(&server, &key, Shape::Events { rows: 100 }, 5_000).await?;
    }
    drive::until_flushed(&server).await?;
    // A new process, as after a deployment: memory of the filling is not its own.
    server.stop().await?;
    server.start().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let process_id = server.process_id().context("the server does not run")?;
    let spent = Spent::by(process_id)?;
    tokio::time::sleep(time).await;
    let spent = Spent::by(process_id)?.since(&spent);
    let mut figures = Figures::default();
    let share = spent.all.total().as_secs_f64() / time.as_secs_f64();
    figures.compare("CPU", share * 100.0, "% of a core", Target::AtMost(1.0));
    let (_, rss) = process::memory_mb(process_id)?;
    figures.compare("RSS", rss, "MB", Target::AtMost(100.0));
    for (name, time_used) in spent.threads.iter().filter(|(_, used)| !used.is_zero()) {
        figures.add(format!("thread {name}"), time_used.as_secs_f64() / time.as_secs_f64() * 100.0, "% of a core");
    }
    server.stop().await?;
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_found_in_noise() {
        let points: Vec<(f64, f64)> = (0..100).map(|x| (f64::from(x), f64::from(x) * 2.0 + f64::from(x % 3))).collect();
        assert!((slope(&points) - 2.0).abs() < 0.01);
        assert_eq!(slope(&points[..1]), 0.0);
    }
}
