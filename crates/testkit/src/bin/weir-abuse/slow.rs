//! Senders that trickle: headers and bodies a byte at a time. They are cut off, and nobody else
//! notices.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::stage::Stage;
use crate::{Outcome, pulse};

const CONFIG: &str = "\
limits:
  header_timeout: 2s
  body_timeout: 2s
";
const SLOW_HEADERS: usize = 200;
const SLOW_BODIES: usize = 50;
/// The timeouts above, and patience for a busy machine.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(8);
const HEALTHY_P99_MAX: Duration = Duration::from_millis(1500);

pub(crate) async fn run(weir: &Path) -> Result<Outcome> {
    let stage = Stage::start(weir, CONFIG).await?;
    let outcome = scenario(&stage).await;
    stage.explain(outcome)
}

async fn scenario(stage: &Stage) -> Result<Outcome> {
    let key = stage.tenant("slow", "paid", &json!({})).await?;
    let healthy = stage.tenant("healthy", "paid", &json!({})).await?;
    let address = &stage.server.addresses.http;
    let healthy = pulse::begin(address, &healthy, Duration::from_millis(50));
    let head = format!(
        "POST /ingest HTTP/1.1\r\nhost: weir\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: 100000\r\n\r\n"
    );
    let mut trickling = JoinSet::new();
    for number in 0..SLOW_HEADERS + SLOW_BODIES {
        let at_once = if number < SLOW_HEADERS { String::new() } else { head.clone() };
        trickling.spawn(trickle(address.clone(), at_once));
    }
    let mut longest = Duration::ZERO;
    let mut n_timeouts = 0;
    while let Some(joined) = trickling.join_next().await {
        let (time, said) = joined.context("a slow sender panicked")??;
        longest = longest.max(time);
        // A slow body has a request to answer; slow headers are no request yet.
        n_timeouts += usize::from(said.starts_with("HTTP/1.1 408"));
        ensure!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "a slow sender was answered: {said}");
    }
    let healthy = healthy.end().await?;
    healthy.expect_success(100)?;
    ensure!(healthy.p99() <= HEALTHY_P99_MAX, "slow senders slow down others: {healthy}");
    ensure!(n_timeouts == SLOW_BODIES, "{n_timeouts} of {SLOW_BODIES} slow bodies were answered 408");
    stage.no_panics().await?;
    Ok(Outcome::Kept(format!(
        "{} slow senders cut off, the last after {:.1} s; {healthy}",
        SLOW_HEADERS + SLOW_BODIES,
        longest.as_secs_f64()
    )))
}

/// Sends something at once, then a byte each second, until the server has closed the connection;
/// returns how long that took, and what the server said.
async fn trickle(address: String, at_once: String) -> Result<(Duration, String)> {
    let mut stream = TcpStream::connect(&address).await.context("cannot connect")?;
    let begin = Instant::now();
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    let mut rest = b"POST /ingest HTTP/1.1\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a'));
    stream.write_all(at_once.as_bytes()).await.context("cannot send")?;
    loop {
        ensure!(begin.elapsed() < CUT_OFF_WITHIN, "a slow sender is still connected after {CUT_OFF_WITHIN:?}");
        let byte = [*rest.next().unwrap_or(&b'a')];
        // The server may have closed already; the read says so.
        let _ = stream.write_all(&byte).await;
        let until_next = tokio::time::timeout(Duration::from_secs(1), async {
            loop {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(length) => said.extend_from_slice(&buffer[..length]),
                }
            }
        });
        if until_next.await.is_ok() {
            return Ok((begin.elapsed(), String::from_utf8_lossy(&said).into_owned()));
        }
    }
}
