//! Requests that are small on the wire and large inside, many at once, while somebody else only
//! wants to send an event now and then.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use weir_testkit::oracle::wire::Http;

use crate::stage::{Stage, memory};
use crate::{Outcome, pulse};

const CONNECTIONS: usize = 32;
const TIME: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;
const MEMORY_PEAK_MAX: u64 = 512 * MIB;
const MEMORY_AFTER_MAX: u64 = 128 * MIB;
const MEMORY_BACK_WITHIN: Duration = Duration::from_secs(10);
const SLOWEST_MAX: Duration = Duration::from_secs(5);

/// One way to hurt.
struct Bomb {
    name: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// What it may be answered besides 400, 413 and 429.
    or_else: Option<u16>,
}

pub(crate) async fn run(weir: &Path) -> Result<Outcome> {
    let stage = Stage::start(weir, "").await?;
    let outcome = scenario(&stage).await;
    stage.explain(outcome)
}

async fn scenario(stage: &Stage) -> Result<Outcome> {
    // No rate limits: the bombs shall be looked at, every one.
    let attacker = stage.tenant("attacker", "paid", &json!({ "rows_per_second": 0, "bytes_per_second": "0B" })).await?;
    let healthy_key = stage.tenant("healthy", "paid", &json!({})).await?;
    let address = stage.server.addresses.http.clone();
    let bombs: Arc<[Bomb]> = bombs()?.into();
    warm_up(stage, &healthy_key).await?;
    let baseline = stage.memory()?;
    let process = stage.server.process_id().context("the server does not run")?;

    let healthy = pulse::begin(&address, &healthy_key, Duration::from_millis(20));
    let mut attack = JoinSet::new();
    let end = Instant::now() + TIME;
    for connection in 0..CONNECTIONS {
        let (bombs, address, attacker) = (Arc::clone(&bombs), address.clone(), attacker.clone());
        attack.spawn(async move { throw(&bombs, connection, &address, &attacker, end).await });
    }
    let mut peak = baseline;
    let mut n_thrown = 0;
    while !attack.is_empty() {
        tokio::select! {
            Some(joined) = attack.join_next() => n_thrown += joined.context("an attacker panicked")??,
            () = tokio::time::sleep(Duration::from_millis(50)) => peak = peak.max(memory(process)?),
        }
    }
    let healthy = healthy.end().await?;
    let over = peak.saturating_sub(baseline);
    ensure!(over <= MEMORY_PEAK_MAX, "memory rose by {} MiB from {} MiB", over / MIB, baseline / MIB);
    let begin = Instant::now();
    let after = loop {
        let after = memory(process)?.saturating_sub(baseline);
        if after <= MEMORY_AFTER_MAX {
            break after;
        }
        ensure!(
            begin.elapsed() < MEMORY_BACK_WITHIN,
            "{MEMORY_BACK_WITHIN:?} after the attack memory is still {} MiB over its {} MiB (peak {} MiB over)",
            after / MIB,
            baseline / MIB,
            over / MIB
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    stage.no_panics().await?;
    healthy.expect_success(99)?;
    ensure!(healthy.slowest() <= SLOWEST_MAX, "bombs slow down others: {healthy}");
    Ok(Outcome::Kept(format!(
        "{n_thrown} bombs, memory {} MiB, then {} MiB over {} MiB; {healthy}",
        over / MIB,
        after / MIB,
        baseline / MIB
    )))
}

/// What a server does once, it shall have done before its memory is looked at.
async fn warm_up(stage: &Stage, key: &str) -> Result<()> {
    let warm = pulse::begin(&stage.server.addresses.http, key, Duration::from_millis(20));
    tokio::time::sleep(Duration::from_secs(1)).await;
    warm.end().await?.expect_success(100)?;
    let rows = stage.query("healthy", "select count(*) from events").await?;
    ensure!(rows[0][0].as_u64() > Some(0), "no rows before the attack: {rows:?}");
    Ok(())
}

/// One attacker; returns how many bombs it threw.
async fn throw(bombs: &[Bomb], first: usize, address: &str, key: &str, end: Instant) -> Result<u64> {
    let http = Http::default();
    let mut number = first;
    let mut n_thrown = 0;
    while Instant::now() < end {
        // One in as many is the one that only claims to be large.
        let turn = number % (bombs.len() + 1);
        number += 1;
        n_thrown += 1;
        match bombs.get(turn) {
            Some(bomb) => {
                one(&http, bomb, address, key, number).await.with_context(|| format!("bomb `{}`", bomb.name))?
            }
            None => claim(address, key).await.context("a body of 100 MB that does not come")?,
        }
    }
    Ok(n_thrown)
}

async fn one(http: &Http, bomb: &Bomb, address: &str, key: &str, number: usize) -> Result<()> {
    let mut headers = bomb.headers.clone();
    headers.push(("authorization", format!("Bearer {key}")));
    let body = if bomb.body.is_empty() { many_keys(number) } else { bomb.body.clone() };
    let reply = match http.request(Method::POST, address, bomb.path, &headers, body).await? {
        Ok(reply) => reply,
        // A server that has refused a body need not read the rest of it, and the connection breaks.
        Err(problem) if !problem.contains("no answer within") => return Ok(()),
        Err(problem) => bail!(problem),
    };
    match reply.status {
        status if Some(status) == bomb.or_else => Ok(()),
        400 | 413 | 429 => {
            let media_type = reply.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or("");
            // OTLP has its own form of an error.
            if bomb.path == "/ingest" {
                let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                let is_problem = media_type.starts_with("application/problem+json");
                ensure!(is_problem && problem["code"].is_string(), "not a problem: {media_type} {}", reply.text());
            }
            Ok(())
        }
        _ => bail!("answered {}", reply.text()),
    }
}

/// Declares a body of 100 MB and sends none of it.
async fn claim(address: &str, key: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address).await.context("cannot connect")?;
    let head = format!(
        "POST /ingest HTTP/1.1\r\nhost: weir\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: 100000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut said = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await;
    let said = String::from_utf8_lossy(&said);
    ensure!(read.is_ok(), "the connection stays open; so far: {said}");
    ensure!(said.starts_with("HTTP/1.1 413") && said.contains("\"code\""), "answered `{said}`");
    Ok(())
}

fn bombs() -> Result<Vec<Bomb>> {
    let json = |encoding: &str| {
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if !encoding.is_empty() {
            headers.push(("content-encoding", encoding.to_owned()));
        }
        headers
    };
    let protobuf = || vec![("content-type", "application/x-protobuf".to_owned())];
    let bomb = |name, path, headers, body| Bomb { name, path, headers, body, or_else: None };
    let small = gzip(&vec![0; 10 << 20])?;
    let members: Bytes = small.repeat(100).into();
    let twice = gzip(&members)?;
    Ok(vec![
        bomb("10 MiB of zeros in gzip", "/ingest", json("gzip"), small),
        bomb("1 GiB of zeros in 100 members of gzip", "/ingest", json("gzip"), members),
        bomb("1 GiB of zeros in zstd", "/ingest", json("zstd"), zstd_bomb(8192)),
        bomb("gzip in gzip", "/ingest", json("gzip, gzip"), twice.clone()),
        bomb("gzip in gzip, undeclared", "/ingest", json("gzip"), twice),
        bomb("millions of empty spans", "/v1/traces", protobuf(), empty_spans()),
        // The body is JSON; it is the row that is refused.
        Bomb { or_else: Some(422), ..bomb("JSON 100,000 deep", "/ingest", json(""), deep(100_000)) },
        // Large, but not wrong. The body is made for each request.
        Bomb { or_else: Some(200), ..bomb("1,000 new keys", "/ingest", json(""), Bytes::new()) },
    ])
}

fn gzip(bytes: &[u8]) -> Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?.into())
}

/// A zstd frame (RFC 8878) of blocks that each say "128 KiB of zeros" in four bytes.
fn zstd_bomb(blocks: usize) -> Bytes {
    const BLOCK_BYTES: u32 = 128 << 10;
    const RUN_LENGTH: u32 = 1 << 1;
    // Magic number; no content size, no checksum; a window of 2 MiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    for block in 1..=blocks {
        let header = BLOCK_BYTES << 3 | RUN_LENGTH | u32::from(block == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame.into()
}

/// 4 MiB of protobuf: one resource, one scope, and two million spans of no bytes each.
fn empty_spans() -> Bytes {
    let spans = [0x12, 0x00].repeat(2 << 20);
    let scope = field(2, &spans);
    field(1, &scope).into()
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend_from_slice(content);
    bytes
}

fn deep(depth: usize) -> Bytes {
    let value = "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    format!("{{\"events\":[{{\"type\":\"custom\",\"name\":\"deep\",\"properties\":{value}}}]}}").into()
}

/// One event with keys nobody has seen before.
fn many_keys(salt: usize) -> Bytes {
    let salt = format!("{salt:x}{:08x}", u32::from_le_bytes(weir_base::random::bytes()));
    let properties: serde_json::Map<String, Value> =
        (0..1000).map(|number| (format!("k{salt}{number}"), json!(number))).collect();
    json!({ "events": [{ "type": "custom", "name": "keys", "properties": properties }] }).to_string().into()
}
