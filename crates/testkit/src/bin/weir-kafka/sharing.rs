//! Several processes of one pipeline that divide the partitions of a topic among them: they come, go, die, and are
//! taken for dead.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;

use crate::pipeline::Pipeline;
use crate::scenarios::{Bench, PARTITIONS_OUT, RATE, SCHEMA, TRANSACTION_TIMEOUT, expected_rows};
use crate::topics::{self, Codec, Load, check_ids, committed, is_row};

/// After how long the group goes on without a process: the shortest time brokers allow.
const SESSION: Duration = Duration::from_secs(6);
/// Partitions of the topic that is read, in the end.
const PARTITIONS: i32 = 6;
const GROUP: &str = "weir-kafka-shared";

/// Processes of one pipeline.
struct Herd {
    processes: Vec<Pipeline>,
}

impl Herd {
    /// How many partitions each member of the group has, once they have settled for what is expected.
    fn settle(&self, bench: &Bench<'_>, expected: &[usize], within: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let shares = topics::shares(bench.cluster, GROUP).unwrap_or_default();
            if shares == expected {
                return Ok(());
            }
            let logs = || self.processes.iter().map(Pipeline::log_end).collect::<Vec<_>>().join("\n--\n");
            ensure!(begun.elapsed() < within, "the members have {shares:?}, not {expected:?}, partitions:\n{}", logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Two and three processes that read together, with everything that can happen to them.
pub(crate) fn shared(bench: &mut Bench<'_>) -> Result<String> {
    bench.create("shared-in", PARTITIONS / 2)?;
    bench.create("shared-out", PARTITIONS_OUT)?;
    let (brokers, timeout, session) = (bench.cluster.brokers(), TRANSACTION_TIMEOUT.as_secs(), SESSION.as_secs());
    let document = format!(
        "checkpoint: {{ interval: 500ms }}
from:
  kafka:
    brokers: \"{brokers}\"
    topic: shared-in
    format: json
    schema: {SCHEMA}
    discover: 1s
    shared: true
    session: {session}s
    group: {GROUP}
  time: ts
steps:
  - filter: \"id is null or id >= 0\"
  - set: {{ shout: \"upper(k)\" }}
to:
  - kafka: {{ brokers: \"{brokers}\", topic: shared-out, key: k, transaction_timeout: {timeout}s }}
"
    );
    let first = Pipeline::new(&bench.weir, &bench.scratch, "shared", &document)?;
    let (second, third) = (first.beside("second"), first.beside("third"));
    let mut herd = Herd { processes: vec![first, second, third] };
    let soon = Duration::from_secs(20);
    let after_session = soon + SESSION;
    for process in &mut herd.processes[..2] {
        process.start()?;
    }
    // Partitions that come up while they run are divided as well.
    herd.settle(bench, &[1, 2], soon)?;
    bench.runtime.block_on(topics::grow(bench.cluster, "shared-in", usize::try_from(PARTITIONS)?))?;
    let load = Load::start(bench.cluster, "shared-in", PARTITIONS, RATE)?;
    herd.settle(bench, &[3, 3], soon)?;
    // One comes, one goes.
    herd.processes[2].start()?;
    herd.settle(bench, &[2, 2, 2], soon)?;
    std::thread::sleep(Duration::from_secs(1));
    herd.processes[1].stop()?;
    // It has said so, so nobody waits for the end of its session.
    herd.settle(bench, &[3, 3], SESSION - Duration::from_secs(1))?;
    // One dies and does not come back: its transaction is given up by the brokers.
    herd.processes[1].start()?;
    herd.settle(bench, &[2, 2, 2], soon)?;
    std::thread::sleep(Duration::from_millis(bench.random.random_range(0..1000)));
    herd.processes[2].kill()?;
    herd.settle(bench, &[3, 3], after_session)?;
    // One is stopped until it is taken for dead and its transaction is given up, and then woken.
    let stable = topics::stable(bench.cluster, "shared-out", PARTITIONS_OUT)?;
    herd.processes[0].freeze()?;
    herd.settle(bench, &[6], after_session)?;
    std::thread::sleep(Duration::from_secs(1));
    herd.processes[0].wake()?;
    herd.settle(bench, &[3, 3], after_session)?;
    ensure!(herd.processes[0].log().contains("starting again"), "it did not notice:\n{}", herd.processes[0].log_end());
    bench.until("a checkpoint after that", &herd.processes[0], || {
        Ok(topics::stable(bench.cluster, "shared-out", PARTITIONS_OUT)? > stable)
    })?;
    // Killed and started again at any moment, also in the middle of giving partitions away.
    let kills = bench.cycles.div_ceil(2);
    herd.processes[2].start()?;
    for cycle in 0..kills {
        std::thread::sleep(Duration::from_millis(bench.random.random_range(100..1500)));
        let victim = bench.random.random_range(0..herd.processes.len());
        herd.processes[victim].kill().with_context(|| format!("cycle {cycle}"))?;
        herd.processes[victim].start()?;
    }
    let sent = load.finish()?;
    let rows = expected_rows(sent, PARTITIONS);
    let all = |bench: &Bench<'_>| committed(bench.cluster, "shared-out", PARTITIONS_OUT);
    let last = &herd.processes[0];
    bench.until("the end of the input", last, || Ok(all(bench).is_ok_and(|found| found.len() >= rows)))?;
    for process in &mut herd.processes {
        process.stop()?;
    }
    let found = all(bench)?;
    check_ids("shared-out", found.iter(), sent)?;
    ensure!(found.iter().all(|row| row["shout"].is_string()), "a row that has not gone through the steps");
    topics::check_codec(bench.cluster, "shared-out", Codec::Lz4)?;
    // What could not be read is set aside by whoever read it, once as well.
    let mut dead: Vec<String> = Vec::new();
    for process in &herd.processes {
        let rows = process.rows("dead.ndjson").unwrap_or_default();
        dead.extend(rows.iter().map(|row| row["row"].as_str().unwrap_or_default().to_owned()));
    }
    dead.sort_unstable();
    let mut bad: Vec<String> = (0..sent).filter(|id| !is_row(*id)).map(|id| format!("no row {id}")).collect();
    bad.sort_unstable();
    ensure!(dead == bad, "{} dead letters of {} bad messages: {dead:?}", dead.len(), bad.len());
    Ok(format!("{sent} messages divided among up to 3 processes, {} kills", kills + 1))
}
