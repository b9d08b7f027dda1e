//! SIGTERM under load: what was begun is finished, what was acknowledged is there, and it ends in
//! time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use weir_testkit::oracle::server::Addresses;

use crate::Outcome;
use crate::sender::{Outcome as Sent, Protocol, Sender, compare};
use crate::stage::Stage;

const DEADLINE: Duration = Duration::from_secs(10);
const CONFIG: &str = "shutdown_deadline: 10s\n";
/// The last moments: the tables' threads and the log end after the requests.
const AFTER_DEADLINE: Duration = Duration::from_secs(3);
/// Requests whose second half comes only after the signal.
const HALVES: usize = 4;

pub(crate) async fn run(weir: &Path) -> Result<Outcome> {
    let mut stage = Stage::start(weir, CONFIG).await?;
    let outcome = scenario(&mut stage).await;
    stage.explain(outcome)
}

async fn scenario(stage: &mut Stage) -> Result<Outcome> {
    let key = stage.tenant("drain", "enterprise", &json!({})).await?;
    let addresses = stage.server.addresses.clone();
    let mut load = JoinSet::new();
    for protocol in Protocol::ALL {
        for number in 0..3 {
            let sender = Sender::new("drain", &key, &format!("{protocol:?}-{number}"), protocol).large(20, 100);
            load.spawn(until_the_end(sender, addresses.clone()));
        }
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut halves = JoinSet::new();
    let mut signals = Vec::new();
    for number in 0..HALVES {
        let sender = Sender::new("drain", &key, &format!("half-{number}"), Protocol::Ingest).large(50, 100);
        let (signal, signalled) = oneshot::channel();
        signals.push(signal);
        halves.spawn(half_and_half(sender, addresses.http.clone(), key.clone(), signalled));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begin = Instant::now();
    let (stopped, ()) = tokio::join!(stage.server.stop(), async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        for signal in signals {
            // Whoever does not wait any more has failed and says so itself.
            let _ = signal.send(());
        }
    });
    stopped?;
    let took = begin.elapsed();
    ensure!(took < DEADLINE + AFTER_DEADLINE, "it took {took:?} to stop, and the deadline is {DEADLINE:?}");
    let left = stage.data_dir.join("addresses.json");
    ensure!(!left.exists(), "addresses.json is still there");
    let mut senders = Vec::new();
    while let Some(joined) = load.join_next().await {
        senders.push(joined.context("a sender panicked")??);
    }
    while let Some(joined) = halves.join_next().await {
        senders.push(joined.context("a sender panicked")??);
    }
    stage.server.start().await.context("cannot start again")?;
    let n_rows = compare(stage, &senders).await?;
    ensure!(n_rows > 0, "nothing was acknowledged before the signal");
    stage.no_panics().await?;
    Ok(Outcome::Kept(format!(
        "stopped in {:.1} s under load, {HALVES} half-sent requests answered, {n_rows} acknowledged rows are there",
        took.as_secs_f64()
    )))
}

/// Sends until the server takes no more.
async fn until_the_end(mut sender: Sender, addresses: Addresses) -> Result<Sender> {
    let mut n_refused = 0;
    loop {
        let begin = Instant::now();
        match sender.send(&addresses).await? {
            Sent::Acknowledged => {}
            // 503, or UNAVAILABLE.
            Sent::Refused { status: 503 | 14, .. } if n_refused < 1000 => {
                n_refused += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Sent::Refused { text, .. } => bail!("a server that stops answered {text}"),
            // The connection went away between two requests, or there is no server any more.
            Sent::Unanswered(problem) => {
                let time = begin.elapsed();
                ensure!(time < DEADLINE, "a request was left unanswered for {time:?}: {problem}");
                return Ok(sender);
            }
        }
    }
}

/// Sends half a request, waits for the signal, sends the rest: it is under way while the server
/// stops, and has to be answered.
async fn half_and_half(
    mut sender: Sender,
    address: String,
    key: String,
    signalled: oneshot::Receiver<()>,
) -> Result<Sender> {
    let body = sender.body()?;
    let mut stream = TcpStream::connect(&address).await.context("cannot connect")?;
    let head = format!(
        "POST /ingest HTTP/1.1\r\nhost: weir\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let (one, other) = body.split_at(body.len() / 2);
    stream.write_all(&[head.as_bytes(), one].concat()).await?;
    signalled.await.context("no signal came")?;
    stream.write_all(other).await.context("the server hung up in the middle of a request")?;
    let mut said = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut said)).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(matches!(read, Ok(Ok(_))), "the reply was cut off ({read:?}): {said}");
    match said.get(..12) {
        Some("HTTP/1.1 200") => sender.acknowledge(),
        Some("HTTP/1.1 503") => sender.leave_open()?,
        _ => bail!("a request under way while the server stops was answered `{said}`"),
    }
    Ok(sender)
}
