//! A healthy client: one event at a steady pace, whatever came of the one before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::json;
use tokio::task::{JoinHandle, JoinSet};
use weir_testkit::oracle::wire::Http;

/// What came of a healthy client's requests.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    times: Vec<Duration>,
    refused: Vec<String>,
}

/// A healthy client that is running.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Pulse>>,
}

/// Begins to send.
pub(crate) fn begin(address: &str, key: &str, every: Duration) -> Running {
    let stop = Arc::new(AtomicBool::new(false));
    let (address, key) = (address.to_owned(), key.to_owned());
    let stopped = Arc::clone(&stop);
    let task = tokio::spawn(async move {
        let http = Arc::new(Http::default());
        let mut requests = JoinSet::new();
        let mut interval = tokio::time::interval(every);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !stopped.load(Ordering::Relaxed) {
            interval.tick().await;
            let (http, address) = (Arc::clone(&http), address.clone());
            let headers = [("authorization", format!("Bearer {key}")), ("content-type", "application/json".to_owned())];
            requests.spawn(async move {
                let body = json!({ "events": [{ "type": "custom", "name": "pulse" }] }).to_string();
                let begin = Instant::now();
                let replied = http.request(Method::POST, &address, "/ingest", &headers, body.into()).await;
                (replied, begin.elapsed())
            });
        }
        let mut pulse = Pulse::default();
        while let Some(joined) = requests.join_next().await {
            let (replied, time) = joined.context("a healthy request panicked")?;
            pulse.times.push(time);
            match replied? {
                Ok(reply) if (200..300).contains(&reply.status) => {}
                Ok(reply) => pulse.refused.push(reply.text()),
                Err(problem) => pulse.refused.push(problem),
            }
        }
        pulse.times.sort_unstable();
        Ok(pulse)
    });
    Running { stop, task }
}

impl Running {
    /// Stops sending, and waits for the last reply.
    pub(crate) async fn end(self) -> Result<Pulse> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.context("the healthy client panicked")?
    }
}

impl Pulse {
    pub(crate) fn p99(&self) -> Duration {
        self.times.get((self.times.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }

    pub(crate) fn slowest(&self) -> Duration {
        self.times.last().copied().unwrap_or_default()
    }

    /// At least so many of a hundred requests were taken.
    pub(crate) fn expect_success(&self, percent: usize) -> Result<()> {
        ensure!(self.times.len() >= 20, "the healthy client sent only {} requests", self.times.len());
        let taken = self.times.len() - self.refused.len();
        ensure!(
            taken * 100 >= self.times.len() * percent,
            "only {taken} of {} requests of the healthy client were taken; one of the others: {}",
            self.times.len(),
            self.refused.first().map_or("", String::as_str)
        );
        Ok(())
    }
}

impl std::fmt::Display for Pulse {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} of {} healthy requests taken, p99 {} ms, slowest {} ms",
            self.times.len() - self.refused.len(),
            self.times.len(),
            self.p99().as_millis(),
            self.slowest().as_millis()
        )?;
        match self.refused.first() {
            Some(refusal) => write!(formatter, ", one refusal: {refusal}"),
            None => Ok(()),
        }
    }
}
