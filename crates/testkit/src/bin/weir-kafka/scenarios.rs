//! What is done to pipelines, and what must hold afterwards.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value as Json;

use crate::pipeline::Pipeline;
use crate::topics::{self, Codec, Load, check_ids, committed, create, is_row};
use crate::{serving, sharing};
use weir_testkit::kafka::{Cluster, USER};

/// What scenarios work with.
pub(crate) struct Bench<'a> {
    pub(crate) weir: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) random: ChaCha8Rng,
    pub(crate) cycles: u32,
}

type Scenario = fn(&mut Bench<'_>) -> Result<String>;

/// All scenarios, in the order they run.
pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("errors", errors),
    ("kill", kill),
    ("frozen", frozen),
    ("overtaken", overtaken),
    ("grown", grown),
    ("shared", sharing::shared),
    ("served", serving::served),
    ("locked", locked),
];

/// Partitions of topics that are read.
const PARTITIONS_IN: i32 = 4;
/// Partitions of topics that are written.
pub(crate) const PARTITIONS_OUT: i32 = 3;
/// Rows a second.
pub(crate) const RATE: u64 = 2000;
/// The size of windows, in milliseconds of event time.
const WINDOW_MS: u64 = 1000;
/// How long pipelines may take to come to the end of their input.
const CATCH_UP: Duration = Duration::from_secs(120);

pub(crate) const SCHEMA: &str = "{ id: int64, ts: timestamp, k: text }";

/// The shortest transaction timeout that pipelines with these checkpoints may have.
pub(crate) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(11);

impl Bench<'_> {
    pub(crate) fn create(&self, name: &str, partitions: i32) -> Result<()> {
        self.runtime.block_on(create(self.cluster, name, partitions, &[]))
    }

    fn pipeline(&self, name: &str, from: &str, rest: &str) -> Result<Pipeline> {
        let brokers = self.cluster.brokers();
        let rest = rest.replace("BROKERS", &brokers);
        let document = format!(
            "checkpoint: {{ interval: 500ms }}
from:
  kafka: {{ brokers: \"{brokers}\", topic: {from}, format: json, schema: {SCHEMA} }}
  time: ts
{rest}"
        );
        Pipeline::new(&self.weir, &self.scratch, name, &document)
    }

    /// Rows to a topic by a transaction, and to a file that is committed with it.
    fn carry(&self, name: &str, from: &str, to: &str) -> Result<Pipeline> {
        let timeout = TRANSACTION_TIMEOUT.as_secs();
        let rest = format!(
            "to:
  - kafka: {{ brokers: \"BROKERS\", topic: {to}, key: k, compression: zstd, transaction_timeout: {timeout}s }}
  - file: {{ path: out.ndjson, format: ndjson }}
"
        );
        self.pipeline(name, from, &rest)
    }

    /// Waits until something holds.
    pub(crate) fn until(&self, what: &str, pipeline: &Pipeline, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let begun = Instant::now();
        while !holds()? {
            ensure!(begun.elapsed() < CATCH_UP, "{what} did not happen:\n{}", pipeline.log_end());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// How many of the first messages are rows, with those that close windows.
pub(crate) fn expected_rows(sent: u64, partitions: i32) -> usize {
    usize::try_from((0..sent).filter(|id| is_row(*id)).count() as u64 + partitions as u64).unwrap_or(usize::MAX)
}

/// The bad messages are dead letters, each with its place.
fn check_dead(pipeline: &Pipeline, sent: u64) -> Result<usize> {
    let dead = pipeline.rows("dead.ndjson")?;
    let bad: Vec<u64> = (0..sent).filter(|id| !is_row(*id)).collect();
    let mut found: Vec<u64> = Vec::new();
    for row in &dead {
        let (text, message) = (row["row"].as_str().unwrap_or_default(), row["message"].as_str().unwrap_or_default());
        let place = message.split(": ").next().unwrap_or_default();
        ensure!(place.split('/').count() == 3, "a dead letter without its place: {row}");
        found.push(text.trim_start_matches("no row ").parse().with_context(|| format!("{row} was never sent"))?);
    }
    found.sort_unstable();
    ensure!(found == bad, "{} dead letters of {} bad messages", found.len(), bad.len());
    Ok(found.len())
}

/// Kafka to Kafka, Kafka to files, and windows, killed again and again, with brokers that go down in between.
fn kill(bench: &mut Bench<'_>) -> Result<String> {
    bench.create("kill-in", PARTITIONS_IN)?;
    bench.create("kill-out", PARTITIONS_OUT)?;
    bench.create("kill-counts", PARTITIONS_OUT)?;
    let windows = format!(
        "steps:
  - window: {{ tumbling: {WINDOW_MS}ms, by: [k], select: {{ n: \"count(*)\" }} }}
to:
  - kafka: {{ brokers: \"BROKERS\", topic: kill-counts, key: k, compression: gzip }}
"
    );
    let mut pipelines = [
        bench.carry("kill_carry", "kill-in", "kill-out")?,
        bench.pipeline("kill_count", "kill-in", &windows)?,
        bench.pipeline("kill_file", "kill-in", "to: [ file: { path: out.ndjson, format: ndjson } ]\n")?,
    ];
    let load = Load::start(bench.cluster, "kill-in", PARTITIONS_IN, RATE)?;
    for pipeline in &mut pipelines {
        pipeline.start()?;
    }
    let mut broker_kills = 0;
    for cycle in 0..bench.cycles {
        let life = Duration::from_millis(bench.random.random_range(300..4000));
        // Every third time a broker goes down as well, and comes back while the pipelines run.
        let broker = (cycle % 3 == 2).then(|| bench.random.random_range(0..bench.cluster.len()));
        if let Some(broker) = broker {
            bench.cluster.kill_broker(broker)?;
        }
        std::thread::sleep(life);
        for pipeline in &mut pipelines {
            pipeline.kill().with_context(|| format!("cycle {cycle}"))?;
        }
        if let Some(broker) = broker {
            broker_kills += 1;
            bench.cluster.start_broker(broker)?;
        }
        for pipeline in &mut pipelines {
            pipeline.start()?;
        }
        if broker.is_some() {
            bench.cluster.wait()?;
        }
    }
    let sent = load.finish()?;
    let rows = expected_rows(sent, PARTITIONS_IN);
    bench.until("the end of the input", &pipelines[0], || Ok(pipelines[0].n_rows("out.ndjson") >= rows))?;
    bench.until("the end of the input", &pipelines[2], || Ok(pipelines[2].n_rows("out.ndjson") >= rows))?;
    let expected = topics::windows(sent, WINDOW_MS);
    // Results come with the checkpoint after the last window has closed.
    let counts = |bench: &Bench<'_>| committed(bench.cluster, "kill-counts", PARTITIONS_OUT);
    bench
        .until("the last window", &pipelines[1], || Ok(counts(bench).is_ok_and(|rows| rows.len() >= expected.len())))?;
    for pipeline in &mut pipelines {
        pipeline.stop()?;
    }
    check_ids("kill-out", committed(bench.cluster, "kill-out", PARTITIONS_OUT)?.iter(), sent)?;
    check_ids("the file beside it", pipelines[0].rows("out.ndjson")?.iter(), sent)?;
    check_ids("the file alone", pipelines[2].rows("out.ndjson")?.iter(), sent)?;
    check_windows(&counts(bench)?, &expected)?;
    let dead = check_dead(&pipelines[0], sent)?;
    check_dead(&pipelines[2], sent)?;
    topics::check_codec(bench.cluster, "kill-out", Codec::Zstd)?;
    topics::check_codec(bench.cluster, "kill-counts", Codec::Gzip)?;
    let restarts = bench.cycles * 3;
    Ok(format!("{sent} messages, {restarts} kills, {broker_kills} broker kills, {dead} dead letters"))
}

fn check_windows(rows: &[Json], expected: &BTreeMap<(u64, String), u64>) -> Result<()> {
    let mut found = BTreeMap::new();
    for row in rows {
        let start = row["window"]["start"].as_str().context("a window without a start")?;
        let seconds = seconds_of(start).with_context(|| format!("{start} is no time of this test"))?;
        let key = (seconds * 1000, row["k"].as_str().unwrap_or_default().to_owned());
        let n = row["n"].as_u64().unwrap_or_default();
        ensure!(found.insert(key.clone(), n).is_none(), "the window {key:?} came twice");
    }
    let wrong: Vec<_> = expected.iter().filter(|(key, n)| found.get(*key) != Some(*n)).take(5).collect();
    ensure!(
        wrong.is_empty() && found.len() == expected.len(),
        "{} windows of {}; wrong: {wrong:?}",
        found.len(),
        expected.len()
    );
    Ok(())
}

/// The seconds since 1970 of a time on the first of January 1970.
fn seconds_of(time: &str) -> Option<u64> {
    let time = time.strip_prefix("1970-01-01T")?.strip_suffix('Z')?;
    let mut parts = time.split(':').map(|part| part.parse::<u64>().ok());
    Some(parts.next()?? * 3600 + parts.next()?? * 60 + parts.next()??)
}

/// A process that is stopped for longer than its transaction may last: the brokers give up on the transaction, and
/// when it is woken it begins again by itself.
fn frozen(bench: &mut Bench<'_>) -> Result<String> {
    bench.create("frozen-in", PARTITIONS_IN)?;
    bench.create("frozen-out", PARTITIONS_OUT)?;
    let mut pipeline = bench.carry("frozen", "frozen-in", "frozen-out")?;
    let load = Load::start(bench.cluster, "frozen-in", PARTITIONS_IN, RATE)?;
    pipeline.start()?;
    bench.until("the first checkpoint", &pipeline, || Ok(pipeline.n_rows("out.ndjson") > 0))?;
    pipeline.freeze()?;
    std::thread::sleep(TRANSACTION_TIMEOUT + Duration::from_secs(3));
    pipeline.wake()?;
    std::thread::sleep(Duration::from_secs(2));
    let sent = load.finish()?;
    bench.until("the end of the input", &pipeline, || {
        Ok(pipeline.n_rows("out.ndjson") >= expected_rows(sent, PARTITIONS_IN))
    })?;
    pipeline.stop()?;
    check_ids("frozen-out", committed(bench.cluster, "frozen-out", PARTITIONS_OUT)?.iter(), sent)?;
    check_ids("the file", pipeline.rows("out.ndjson")?.iter(), sent)?;
    let again = if pipeline.log().contains("starting again") { "began again" } else { "went on" };
    Ok(format!("{sent} messages; woken after its transaction was given up, it {again}"))
}

/// The same with a successor that has taken over meanwhile: the one that is woken has no say any more.
fn overtaken(bench: &mut Bench<'_>) -> Result<String> {
    bench.create("overtaken-in", PARTITIONS_IN)?;
    bench.create("overtaken-out", PARTITIONS_OUT)?;
    let to = "to: [ kafka: { brokers: \"BROKERS\", topic: overtaken-out, compression: snappy, transaction_timeout: 11s } ]\n";
    let mut old = bench.pipeline("overtaken", "overtaken-in", to)?;
    let load = Load::start(bench.cluster, "overtaken-in", PARTITIONS_IN, RATE)?;
    old.start()?;
    let stable = |bench: &Bench<'_>| topics::stable(bench.cluster, "overtaken-out", PARTITIONS_OUT);
    let all = |bench: &Bench<'_>| committed(bench.cluster, "overtaken-out", PARTITIONS_OUT);
    bench.until("the first checkpoint", &old, || Ok(stable(bench)? > 0))?;
    old.freeze()?;
    std::thread::sleep(TRANSACTION_TIMEOUT + Duration::from_secs(3));
    let mut new = old.twin()?;
    new.start()?;
    let before = stable(bench)?;
    bench.until("a checkpoint of the successor", &new, || Ok(stable(bench)? > before))?;
    std::thread::sleep(Duration::from_secs(2));
    old.wake()?;
    let status = old.wait(Duration::from_secs(60))?;
    ensure!(!status.success(), "the old process ended as if all were well");
    ensure!(old.log().contains("another process runs this pipeline"), "the old process says:\n{}", old.log_end());
    let sent = load.finish()?;
    bench.until("the end of the input", &new, || {
        Ok(all(bench).is_ok_and(|rows| rows.len() >= expected_rows(sent, PARTITIONS_IN)))
    })?;
    new.stop()?;
    check_ids("overtaken-out", all(bench)?.iter(), sent)?;
    topics::check_codec(bench.cluster, "overtaken-out", Codec::Snappy)?;
    Ok(format!("{sent} messages; the successor was not disturbed"))
}

/// A topic that gets more partitions while it is read, with what Kafka says of messages as columns, at least once.
fn grown(bench: &mut Bench<'_>) -> Result<String> {
    bench.create("grown-in", 1)?;
    bench.create("grown-out", PARTITIONS_OUT)?;
    let brokers = bench.cluster.brokers();
    let metadata = "metadata: { key: key, partition: p, offset: o, topic: t, timestamp: at, headers: h }";
    let document = format!(
        "checkpoint: {{ interval: 500ms }}
from:
  kafka: {{ brokers: \"{brokers}\", topic: grown-in, format: json, schema: {SCHEMA}, discover: 1s, {metadata} }}
  time: ts
to:
  - kafka: {{ brokers: \"{brokers}\", topic: grown-out, delivery: at_least_once, compression: none }}
"
    );
    let mut pipeline = Pipeline::new(&bench.weir, &bench.scratch, "grown", &document)?;
    pipeline.start()?;
    bench.until("the begin", &pipeline, || Ok(pipeline.has_begun()))?;
    let partitions = usize::try_from(PARTITIONS_IN)?;
    bench.runtime.block_on(topics::grow(bench.cluster, "grown-in", partitions))?;
    let load = Load::start(bench.cluster, "grown-in", PARTITIONS_IN, RATE)?;
    std::thread::sleep(Duration::from_secs(5));
    let sent = load.finish()?;
    let all = |bench: &Bench<'_>| committed(bench.cluster, "grown-out", PARTITIONS_OUT);
    bench.until("the end of the input", &pipeline, || Ok(all(bench)?.len() >= expected_rows(sent, PARTITIONS_IN)))?;
    pipeline.stop()?;
    let rows = all(bench)?;
    topics::check_codec(bench.cluster, "grown-out", Codec::None)?;
    // In turn: no partition has more than its part, but for the last round of each batch.
    let by_partition = topics::messages(bench.cluster, "grown-out", PARTITIONS_OUT)?;
    for partition in 0..PARTITIONS_OUT {
        let part = by_partition.iter().filter(|message| message.partition == partition).count();
        let even = rows.len() / usize::try_from(PARTITIONS_OUT)?;
        ensure!(part.abs_diff(even) <= 1 + even / 100, "partition {partition} has {part} of {} rows", rows.len());
    }
    // Nothing failed, so nothing came twice.
    check_ids("grown-out", rows.iter(), sent)?;
    let mut places = BTreeMap::new();
    for row in rows.iter().filter(|row| row["id"].is_u64()) {
        let place = (row["p"].as_u64(), row["o"].as_u64());
        let key = row["id"].to_string();
        ensure!(row["key"].as_str() == Some(key.as_str()) && row["t"] == "grown-in" && row["at"].is_string(), "{row}");
        ensure!(row["h"].is_null() && places.insert(place, ()).is_none(), "{row}");
    }
    Ok(format!("{sent} messages from {PARTITIONS_IN} partitions of which one was there at the start"))
}

/// Through a door with TLS that wants a proof by SCRAM.
fn locked(bench: &mut Bench<'_>) -> Result<String> {
    let (door, ca) = bench.cluster.lock().context("there is no such door")?;
    bench.create("locked-in", PARTITIONS_IN)?;
    bench.create("locked-out", PARTITIONS_OUT)?;
    let (user, password) = USER;
    let ca = format!("${{file:{}}}", ca.display());
    let document = |ca: &str, password: &str| {
        let tls = if ca.is_empty() { String::new() } else { format!("ca: \"{ca}\"") };
        let access =
            format!("tls: {{ {tls} }}, sasl: {{ mechanism: scram_sha_512, username: {user}, password: {password} }}");
        format!(
            "checkpoint: {{ interval: 500ms }}
from:
  kafka: {{ brokers: \"{door}\", topic: locked-in, format: json, schema: {SCHEMA}, {access} }}
to:
  - kafka: {{ brokers: \"{door}\", topic: locked-out, transaction_timeout: 11s, {access} }}
"
        )
    };
    let cases = [
        ("password", document(&ca, "wrong"), "uthentication failed"),
        ("trust", document("", password), "certificate verify failed"),
    ];
    for (name, document, expected) in cases {
        let mut pipeline = Pipeline::new(&bench.weir, &bench.scratch, &format!("locked_{name}"), &document)?;
        pipeline.start()?;
        let status = pipeline.wait(Duration::from_secs(60)).with_context(|| name.to_owned())?;
        let log = pipeline.log();
        ensure!(!status.success() && log.contains(expected), "{name}: {status}, expected \"{expected}\":\n{log}");
    }
    let mut pipeline = Pipeline::new(&bench.weir, &bench.scratch, "locked", &document(&ca, password))?;
    let load = Load::start(bench.cluster, "locked-in", PARTITIONS_IN, RATE)?;
    pipeline.start()?;
    std::thread::sleep(Duration::from_secs(3));
    pipeline.kill()?;
    pipeline.start()?;
    let sent = load.finish()?;
    let rows = expected_rows(sent, PARTITIONS_IN);
    let all = |bench: &Bench<'_>| committed(bench.cluster, "locked-out", PARTITIONS_OUT);
    bench.until("the end of the input", &pipeline, || Ok(all(bench).is_ok_and(|found| found.len() >= rows)))?;
    pipeline.stop()?;
    check_ids("locked-out", all(bench)?.iter(), sent)?;
    Ok(format!("{sent} messages by TLS and SCRAM"))
}

/// What cannot work says so, soon and in words.
fn errors(bench: &mut Bench<'_>) -> Result<String> {
    bench.create("errors-in", 1)?;
    bench.runtime.block_on(create(bench.cluster, "errors-deleting", 1, &[("cleanup.policy", "delete")]))?;
    let (brokers, door) = (bench.cluster.brokers(), bench.cluster.sasl_broker());
    let (user, password) = USER;
    let source = |brokers: &str, topic: &str, more: &str| {
        format!(
            "from: {{ kafka: {{ brokers: \"{brokers}\", topic: {topic}, format: json, schema: {SCHEMA}{more} }} }}\n"
        )
    };
    let sasl = |password: &str| format!(", sasl: {{ mechanism: plain, username: {user}, password: {password} }}");
    let discard = "to: [ discard: {} ]\n";
    let good = source(&brokers, "errors-in", "");
    let cases = [
        ("address", source("127.0.0.1:1", "errors-in", "") + discard, "refused"),
        ("topic", source(&brokers, "errors-none", "") + discard, "there is no topic errors-none"),
        ("password", source(&door, "errors-in", &sasl("wrong")) + discard, "uthentication failed"),
        (
            "target",
            format!("{good}to: [ kafka: {{ brokers: \"{brokers}\", topic: errors-none }} ]\n"),
            "there is no topic errors-none",
        ),
        (
            "target_plain",
            format!("{good}to: [ kafka: {{ brokers: \"{brokers}\", topic: errors-none, delivery: at_least_once }} ]\n"),
            "there is no topic errors-none",
        ),
        (
            "progress",
            format!(
                "{good}to: [ kafka: {{ brokers: \"{brokers}\", topic: errors-in, progress_topic: errors-deleting }} ]\n"
            ),
            "its cleanup.policy is delete",
        ),
        (
            "timeout",
            format!("{good}to: [ kafka: {{ brokers: \"{brokers}\", topic: errors-in, transaction_timeout: 20m }} ]\n"),
            "Transaction timeout is larger",
        ),
        (
            "short",
            format!("{good}to: [ kafka: {{ brokers: \"{brokers}\", topic: errors-in, transaction_timeout: 5s }} ]\n"),
            "is too short for a checkpoint every 10s",
        ),
    ];
    let count = cases.len();
    // All at once: some of them wait for an answer that does not come.
    let mut started = Vec::new();
    for (name, document, expected) in cases {
        let mut pipeline = Pipeline::new(&bench.weir, &bench.scratch, &format!("errors_{name}"), &document)?;
        pipeline.start()?;
        started.push((name, pipeline, expected));
    }
    for (name, mut pipeline, expected) in started {
        let status = pipeline.wait(Duration::from_secs(60)).with_context(|| name.to_owned())?;
        let log = pipeline.log();
        ensure!(!status.success() && log.contains(expected), "{name}: {status}, expected \"{expected}\":\n{log}");
        ensure!(!log.contains("wrong"), "{name}: it shows a password:\n{log}");
    }
    // The right password opens the door.
    let right = source(&door, "errors-in", &sasl(password)) + discard;
    let mut pipeline = Pipeline::new(&bench.weir, &bench.scratch, "errors_none", &right)?;
    pipeline.start()?;
    bench.until("reading through the door", &pipeline, || Ok(pipeline.has_begun()))?;
    // Time enough for signals to be heard.
    std::thread::sleep(Duration::from_secs(1));
    pipeline.stop()?;
    Ok(format!("{count} errors in words"))
}
