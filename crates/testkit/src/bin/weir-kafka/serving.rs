//! Pipelines of a server: from Kafka into a stream, and from the stream back to Kafka, while the server is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use serde_json::{Value as Json, json};
use weir_testkit::oracle::server::Server;

use crate::scenarios::{Bench, PARTITIONS_OUT, RATE, SCHEMA, TRANSACTION_TIMEOUT, expected_rows};
use crate::topics::{self, Codec, Load, check_ids, is_row};

const TENANT: &str = "acme";
/// Partitions of the topic that is read.
const PARTITIONS: i32 = 4;
/// How long a new stream may take to be there, and everything to arrive.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server with its tenant.
struct Served {
    server: Server,
    weir: std::path::PathBuf,
    folder: std::path::PathBuf,
}

impl Served {
    fn start(bench: &Bench<'_>) -> Result<Self> {
        let folder = bench.scratch.join("served");
        let data = folder.join("data");
        std::fs::create_dir_all(&data)?;
        let settings = "telemetry: { log_format: text }\ntables: { flush_age: 1s }\n";
        let mut server = Server::new(&bench.weir, &folder, &data, settings)?;
        bench.runtime.block_on(async {
            server.start().await?;
            let admin = [("authorization", format!("Bearer {}", server.admin_key))];
            let tenant = json!({ "id": TENANT, "name": TENANT, "tier": "enterprise" });
            server.http.json(&server.addresses.http, "/api/v1/tenants", &admin, &tenant).await
        })?;
        Ok(Self { server, weir: bench.weir.clone(), folder })
    }

    fn restart(&mut self, bench: &Bench<'_>) -> Result<()> {
        bench.runtime.block_on(async {
            self.server.kill().await?;
            self.server.start().await.map(|_| ())
        })
    }

    /// `weir pipeline apply`, until it is taken: a stream that is read must have been written first.
    fn apply(&self, name: &str, document: &str) -> Result<String> {
        let file = self.folder.join(format!("{name}.yaml"));
        std::fs::write(&file, format!("pipeline: {name}\ncheckpoint: {{ interval: 500ms }}\n{document}"))?;
        let begun = Instant::now();
        loop {
            let output = Command::new(&self.weir)
                .args(["pipeline", "apply", "--tenant", TENANT])
                .arg("--data-dir")
                .arg(self.folder.join("data"))
                .arg(&file)
                .output()?;
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            if output.status.success() {
                return Ok(said);
            }
            ensure!(begun.elapsed() < PATIENCE, "{name} is refused: {said}\n{}", self.server.log_end());
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn query(&self, bench: &Bench<'_>, sql: &str) -> Result<Json> {
        let key = format!("Bearer {}", self.server.admin_key);
        let headers = [("authorization", key), ("x-weir-tenant", TENANT.to_owned())];
        let (server, body) = (&self.server, json!({ "sql": sql }));
        let answer = server.http.json(&server.addresses.http, "/api/v1/query", &headers, &body);
        Ok(bench.runtime.block_on(answer)?["rows"].take())
    }
}

/// Kafka into a stream and the stream back to Kafka, with kill -9 of the server in between.
pub(crate) fn served(bench: &mut Bench<'_>) -> Result<String> {
    bench.create("served-in", PARTITIONS)?;
    bench.create("served-out", PARTITIONS_OUT)?;
    bench.create("served-tenant", PARTITIONS_OUT)?;
    let (brokers, timeout) = (bench.cluster.brokers(), TRANSACTION_TIMEOUT.as_secs());
    let mut served = Served::start(bench)?;
    let into = format!(
        "from:
  kafka: {{ brokers: \"{brokers}\", topic: served-in, format: json, schema: {SCHEMA} }}
  time: ts
to: [ stream: landed ]
"
    );
    let back = format!(
        "from: {{ stream: landed }}
steps:
  - keep: [id, k]
to:
  - kafka:
      brokers: \"{brokers}\"
      topic: served-out
      key: \"concat(k, '-', id % 2)\"
      key_with_tenant: true
      compression: gzip
      transaction_timeout: {timeout}s
  - kafka: {{ brokers: \"{brokers}\", topic: served-tenant, partition: tenant, delivery: at_least_once, compression: zstd }}
"
    );
    served.apply("into_weir", &into)?;
    let load = Load::start(bench.cluster, "served-in", PARTITIONS, RATE)?;
    let said = served.apply("back_to_kafka", &back)?;
    let is_said_once = |topic: &str, delivery: &str| {
        said.lines().any(|line| line.contains(topic) && line.matches("once").count() == 1 && line.ends_with(delivery))
    };
    ensure!(
        is_said_once("served-out", "exactly once") && is_said_once("served-tenant", "at least once"),
        "`weir pipeline apply` says:\n{said}"
    );
    let kills = bench.cycles / 2;
    for cycle in 0..kills {
        std::thread::sleep(Duration::from_millis(bench.random.random_range(300..2500)));
        served.restart(bench).with_context(|| format!("cycle {cycle}"))?;
    }
    let sent = load.finish()?;
    let rows = expected_rows(sent, PARTITIONS);
    let begun = Instant::now();
    let found = loop {
        match topics::messages(bench.cluster, "served-out", PARTITIONS_OUT) {
            Ok(found) if found.len() >= rows => break found,
            Ok(found) => ensure!(
                begun.elapsed() < PATIENCE,
                "{} of {rows} rows came back:\n{}",
                found.len(),
                served.server.log_end()
            ),
            Err(error) => ensure!(begun.elapsed() < PATIENCE, "{error:#}"),
        }
        std::thread::sleep(Duration::from_millis(300));
    };
    check_ids("served-out", found.iter().map(|message| &message.value), sent)?;
    // The stream, too, has each row once.
    let counted = served.query(bench, "select count(id) as n, count(distinct id) as d from landed")?;
    let expected = (0..sent).filter(|id| is_row(*id)).count();
    let counts: Vec<Option<u64>> = counted.as_array().and_then(|rows| rows.first()).map_or_else(Vec::new, numbers);
    let expected = Some(u64::try_from(expected)?);
    ensure!(counts == [expected, expected], "the stream has {counted}, and {expected:?} rows were sent");
    // A key is an expression here, with the tenant in front; each is in one partition.
    let mut places: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    for message in &found {
        ensure!(message.tenant.as_deref() == Some(TENANT), "a message without its tenant: {message:?}");
        ensure!(message.value.as_object().is_some_and(|row| row.len() == 2), "more than the row: {message:?}");
        let Some(id) = message.value["id"].as_u64() else { continue };
        let expected = format!("{TENANT}/{}-{}", message.value["k"].as_str().unwrap_or_default(), id % 2);
        ensure!(message.key.as_ref() == Some(&expected), "not the key {expected}: {message:?}");
        places.entry(message.key.as_deref().unwrap_or_default()).or_default().insert(message.partition);
    }
    ensure!(places.values().all(|partitions| partitions.len() == 1), "a key in several partitions: {places:?}");
    let used: BTreeSet<i32> = places.values().flatten().copied().collect();
    ensure!(used.len() == usize::try_from(PARTITIONS_OUT)?, "all keys are in {used:?}");
    let of_tenant = topics::messages(bench.cluster, "served-tenant", PARTITIONS_OUT)?;
    let first = of_tenant.first().context("nothing was written by tenant")?;
    let is_alike =
        |message: &topics::Read| message.partition == first.partition && message.key.as_deref() == Some(TENANT);
    ensure!(of_tenant.iter().all(is_alike), "rows of a tenant are not in one partition under its name");
    topics::check_codec(bench.cluster, "served-out", Codec::Gzip)?;
    topics::check_codec(bench.cluster, "served-tenant", Codec::Zstd)?;
    bench.runtime.block_on(served.server.stop())?;
    Ok(format!("{sent} messages through a server and back, {kills} kills of it"))
}

/// The numbers of a row, which is a list or an object.
fn numbers(row: &Json) -> Vec<Option<u64>> {
    match row {
        Json::Array(cells) => cells.iter().map(number).collect(),
        row => ["n", "d"].iter().map(|name| number(&row[*name])).collect(),
    }
}

fn number(cell: &Json) -> Option<u64> {
    cell.as_u64().or_else(|| cell.as_str()?.parse().ok())
}
