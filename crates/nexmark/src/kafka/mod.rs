//! From a topic to a topic, exactly once: the shipped `weir run` beside Apache Flink, on the same broker with the same bids.
//!
//! How far a program has come is what it has committed to its group of the topic it reads, at each checkpoint. Both do
//! that, so both are measured by the same outside look, which costs them nothing. The first part of the bids is not
//! measured: until then a Java has compiled what it runs often.

mod program;
mod topics;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use weir_testkit::kafka::{Cluster, Purpose};
use weir_testkit::report::figures::number;

use crate::tables::Tables;
use program::{Measured, Program};
use topics::Results;

/// What takes part, and where it is.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The folder with the classes of Kafka.
    pub(crate) libs: PathBuf,
    /// The folder with the classes of Flink, and of the program that uses them.
    pub(crate) flink: PathBuf,
    /// The Java for both.
    pub(crate) java: PathBuf,
    /// The program that is measured.
    pub(crate) weir: PathBuf,
    /// How often each is run, in turns; the one that took the least CPU time counts.
    pub(crate) runs: usize,
}

/// The queries.
const QUERIES: [(&str, &str); 2] = [
    ("q1", include_str!("../../../../tests/nexmark/q1_kafka.yaml")),
    ("q7", include_str!("../../../../tests/nexmark/q7_kafka.yaml")),
];
/// The topic with the bids, and how many partitions it and those of the results have.
const BIDS: &str = "bid";
const PARTITIONS: i32 = 2;
/// So much of the bids is not measured.
const WARM_UP: f64 = 1.0 / 3.0;
/// What Weir should reach of Flink.
const TARGET: f64 = 2.0;

/// Runs the queries with all programs over the bids of `tables`, and puts what they took into a table.
pub(crate) fn measure(setting: &Setting, tables: &Tables, folder: &Path) -> Result<String> {
    let places = (setting.java.as_path(), setting.libs.as_path());
    let cluster = Cluster::start(Purpose::Measure, places, folder, 1, false)?;
    let runtime = crate::run::runtime(1)?;
    runtime.block_on(topics::create(&cluster, BIDS, PARTITIONS))?;
    let sent = topics::send(&cluster, BIDS, PARTITIONS, &tables.bid)?;
    println!("{sent} bids are in a topic");
    let mut table = format!(
        "**Kafka to Kafka, {} bids as JSON, exactly once, a checkpoint every second**\n\n\
         | query | program | rows/s | rows per CPU-second | of the faster Flink: rows/s | rows per CPU-second | target | results | RSS peak |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        number(sent as f64)
    );
    for (query, document) in QUERIES {
        let expected = topics::expected(query, &tables.bid)?;
        let programs = [
            Program::weir(query, &setting.weir, document, &cluster, folder)?,
            Program::flink("SQL", "sql", query, setting, &cluster, folder),
            Program::flink("DataStream", "functions", query, setting, &cluster, folder),
        ];
        let mut measured: Vec<Option<Measured>> = vec![None; programs.len()];
        // In turns, so that a broker that has just begun is not the disadvantage of the first.
        for _ in 0..setting.runs.max(1) {
            for (program, best) in programs.iter().zip(&mut measured) {
                let now = once(program, &cluster, &runtime, &expected, sent);
                let now = now.with_context(|| format!("{query} with {}", program.name))?;
                println!("{query} {}: {now:?}", program.name);
                if best.is_none_or(|best| now.cpu < best.cpu) {
                    *best = Some(now);
                }
            }
        }
        let measured: Vec<Measured> = measured.into_iter().flatten().collect();
        let [own, others @ ..] = measured.as_slice() else { continue };
        let faster = |rate: fn(&Measured) -> f64| others.iter().map(rate).fold(0.0, f64::max);
        let (of_wall, of_cpu) = (own.rate() / faster(Measured::rate), own.cpu_rate() / faster(Measured::cpu_rate));
        let verdict = if of_wall.min(of_cpu) >= TARGET { "reached" } else { "missed" };
        for (at, (program, measured)) in programs.iter().zip(&measured).enumerate() {
            let shares = match at {
                0 => format!("{of_wall:.2} | {of_cpu:.2} | {TARGET:.0}: {verdict}"),
                _ => " | | ".to_owned(),
            };
            table.push_str(&format!(
                "| {query} | {} | {} | {} | {shares} | {} | {:.0} MB |\n",
                program.name,
                number(measured.rate()),
                number(measured.cpu_rate()),
                number(expected.rows as f64),
                measured.rss_peak / 1e6,
            ));
        }
    }
    table.push_str(
        "\n`weir run` with the documents `tests/nexmark/q1_kafka.yaml` and `q7_kafka.yaml`; one broker on the same machine, two partitions, parallelism 2; what is read and what is written is compressed with \
         lz4. Rows/s are by the clock, from the checkpoint with which a third of the bids is committed to the one with which all \
         are; CPU time is that of the program alone, without the broker's. All programs have put the same rows into their \
         topics, which are those the bids should give (number and checksum, read back with `read_committed`). Flink 2.2 has \
         its state in memory, uses objects again, has 3 GB of memory and the parallel collector; DataStream is with functions \
         written for the query, JSON token by token (`tests/nexmark/flink`).\n",
    );
    Ok(table)
}

/// Runs a program once, and checks what it has put out.
fn once(
    program: &Program,
    cluster: &Cluster,
    runtime: &tokio::runtime::Runtime,
    expected: &Results,
    sent: i64,
) -> Result<Measured> {
    runtime.block_on(topics::anew(cluster, &program.topic, PARTITIONS))?;
    runtime.block_on(topics::forget(cluster, &program.group))?;
    #[expect(clippy::cast_possible_truncation, reason = "a number of rows")]
    let measured = program.run(cluster, (sent as f64 * WARM_UP) as i64, sent)?;
    let found = topics::results(cluster, &program.topic, PARTITIONS)?;
    ensure!(found == *expected, "the results are {found:?}, and should be {expected:?}");
    Ok(measured)
}
