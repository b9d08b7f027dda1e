//! What is in topics: bids, results, and how far a group has read.
#![allow(clippy::disallowed_methods, reason = "an outside look has the wall clock and nothing else")]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampNanosecondType};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use weir_testkit::kafka::Cluster;

use crate::tables::{TIME, Table};

const ANSWER: Duration = Duration::from_secs(30);
/// Results are complete when nothing has come for so long.
const QUIET: Duration = Duration::from_secs(3);
/// How long a window of q7 is, in milliseconds.
const WINDOW: i64 = 10_000;
/// The last bid of each partition, long after all others, so that their windows are over.
const LAST: &str = "{\"auction\":0,\"bidder\":0,\"price\":0,\"channel\":\"\",\"url\":\"\",\"date_time\":\"2027-01-01T00:00:00Z\",\"extra\":\"\"}";

/// Makes a topic.
pub(super) async fn create(cluster: &Cluster, name: &str, partitions: i32) -> Result<()> {
    let client: AdminClient<DefaultClientContext> = cluster.config().create()?;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for made in client.create_topics([&topic], &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("cannot create {topic}: {code}"))?;
    }
    Ok(())
}

/// Makes a topic that is empty.
pub(super) async fn anew(cluster: &Cluster, name: &str, partitions: i32) -> Result<()> {
    let client: AdminClient<DefaultClientContext> = cluster.config().create()?;
    for removed in client.delete_topics(&[name], &AdminOptions::new()).await? {
        match removed {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => bail!("cannot remove {topic}: {code}"),
        }
    }
    let begun = Instant::now();
    loop {
        match create(cluster, name, partitions).await {
            // It is being removed still.
            Err(_) if begun.elapsed() < ANSWER => tokio::time::sleep(Duration::from_millis(200)).await,
            made => return made,
        }
    }
}

/// Forgets what a group has read.
pub(super) async fn forget(cluster: &Cluster, group: &str) -> Result<()> {
    let client: AdminClient<DefaultClientContext> = cluster.config().create()?;
    let begun = Instant::now();
    loop {
        let forgotten = client.delete_groups(&[group], &AdminOptions::new()).await?;
        match forgotten.into_iter().find_map(Result::err) {
            None | Some((_, RDKafkaErrorCode::GroupIdNotFound)) => return Ok(()),
            // The first question makes the brokers a place for groups.
            Some((
                _,
                RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::CoordinatorLoadInProgress,
            )) if begun.elapsed() < ANSWER => tokio::time::sleep(Duration::from_millis(200)).await,
            Some((group, code)) => bail!("cannot remove the group {group}: {code}"),
        }
    }
}

/// Sends a table, a JSON object a row, and then the last bid of each partition. Returns how many messages that is.
pub(super) fn send(cluster: &Cluster, topic: &str, partitions: i32, table: &Table) -> Result<i64> {
    let producer: BaseProducer = cluster
        .config()
        .set("enable.idempotence", "true")
        .set("compression.codec", "lz4")
        .set("linger.ms", "20")
        .set("batch.size", "262144")
        .create()?;
    let mut sent = 0;
    let mut send = |line: &[u8], partition: i32| -> Result<()> {
        loop {
            let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).payload(line).partition(partition);
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    producer.poll(Duration::from_millis(20));
                }
                Err((error, _)) => return Err(error).context("cannot send a bid"),
            }
        }
        sent += 1;
        Ok(())
    };
    let mut partition = 0;
    for batch in table.batches.iter() {
        for line in lines(batch)?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            send(line, partition)?;
            partition = (partition + 1) % partitions;
        }
    }
    for partition in 0..partitions {
        send(LAST.as_bytes(), partition)?;
    }
    producer.flush(Duration::from_secs(60)).context("cannot send all bids")?;
    Ok(sent)
}

fn lines(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

fn all_of(topic: &str, partitions: i32, offset: Offset) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, offset)?;
    }
    Ok(list)
}

/// How far a group has read.
pub(super) struct Progress {
    client: BaseConsumer,
    list: TopicPartitionList,
}

impl Progress {
    pub(super) fn of(cluster: &Cluster, group: &str, topic: &str, partitions: i32) -> Result<Self> {
        let client = cluster.config().set("group.id", group).set("enable.auto.commit", "false").create()?;
        Ok(Self { client, list: all_of(topic, partitions, Offset::Invalid)? })
    }

    /// How many messages it has committed.
    pub(super) fn rows(&mut self) -> Result<i64> {
        let committed = self.client.committed_offsets(self.list.clone(), ANSWER)?;
        Ok(committed.elements().iter().filter_map(|element| element.offset().to_raw()).map(|at| at.max(0)).sum())
    }
}

/// Waits until nothing is added to a topic any more, and no transaction is open.
pub(super) fn wait_for_end(cluster: &Cluster, topic: &str, partitions: i32) -> Result<()> {
    let committed: BaseConsumer = cluster.config().set("isolation.level", "read_committed").create()?;
    let anything: BaseConsumer = cluster.config().set("isolation.level", "read_uncommitted").create()?;
    let ends = |client: &BaseConsumer| -> Result<Vec<i64>> {
        (0..partitions).map(|partition| Ok(client.fetch_watermarks(topic, partition, ANSWER)?.1)).collect()
    };
    let begun = Instant::now();
    let (mut last, mut since) = (Vec::new(), Instant::now());
    while since.elapsed() < QUIET {
        let now = ends(&committed)?;
        if now != last || now != ends(&anything)? {
            (last, since) = (now, Instant::now());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "a transaction of {topic} stays open");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The rows of a result, in whatever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Results {
    pub(super) rows: u64,
    /// The sum of the hashes of all rows.
    checksum: u64,
}

/// A result as it is read. Times are written as everybody likes.
#[derive(Deserialize)]
struct Row<'a> {
    auction: i64,
    bidder: i64,
    price: f64,
    date_time: &'a str,
    extra: &'a str,
}

impl Results {
    /// Adds a row; its price in thousandths, its time in milliseconds since 1970.
    fn add(&mut self, row: (i64, i64, i64, i64, &str)) {
        let mut hasher = DefaultHasher::new();
        row.hash(&mut hasher);
        self.rows += 1;
        self.checksum = self.checksum.wrapping_add(hasher.finish());
    }
}

/// A price in thousandths: what a calculation comes to in whatever order it is done.
fn thousandths(price: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "at most 100 thousand million")]
    let thousandths = (price * 1000.0).round() as i64;
    thousandths
}

fn millis_of(time: &str) -> Result<i64> {
    let time: jiff::Timestamp = time.parse().with_context(|| format!("{time} is no time"))?;
    Ok(time.as_millisecond())
}

/// All committed rows of a topic.
pub(super) fn results(cluster: &Cluster, topic: &str, partitions: i32) -> Result<Results> {
    let client: BaseConsumer = cluster
        .config()
        .set("group.id", "nexmark-results")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .create()?;
    client.assign(&all_of(topic, partitions, Offset::Beginning)?)?;
    let (mut results, mut ended) = (Results::default(), 0);
    while ended < partitions {
        match client.poll(ANSWER) {
            Some(Ok(message)) => {
                let row: Row<'_> = serde_json::from_slice(message.payload().context("a message without a value")?)?;
                let time = millis_of(row.date_time)?;
                results.add((row.auction, row.bidder, thousandths(row.price), time, row.extra));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(error).with_context(|| format!("cannot read {topic}")),
            None => bail!("{topic} cannot be read to its end"),
        }
    }
    Ok(results)
}

/// What the results of a query should be.
pub(super) fn expected(query: &str, bids: &Table) -> Result<Results> {
    let mut results = Results::default();
    // The highest price of each window.
    let mut highest: BTreeMap<i64, i64> = BTreeMap::new();
    let is_windowed = query == "q7";
    if is_windowed {
        for batch in bids.batches.iter() {
            rows(batch, &mut |(_, _, price, time, _)| {
                let best = highest.entry(time.div_euclid(WINDOW)).or_insert(price);
                *best = (*best).max(price);
            })?;
        }
    }
    for batch in bids.batches.iter() {
        rows(batch, &mut |(auction, bidder, price, time, extra)| {
            if !is_windowed {
                results.add((auction, bidder, thousandths(0.908 * price as f64), time, extra));
            } else if highest.get(&time.div_euclid(WINDOW)) == Some(&price) {
                results.add((auction, bidder, thousandths(price as f64), time, extra));
            }
        })?;
    }
    if !is_windowed {
        let time = millis_of("2027-01-01T00:00:00Z")?;
        for _ in 0..super::PARTITIONS {
            results.add((0, 0, 0, time, ""));
        }
    }
    Ok(results)
}

/// The rows of a batch: auction, bidder, price, time in milliseconds, and the rest.
fn rows(batch: &RecordBatch, each: &mut dyn FnMut((i64, i64, i64, i64, &str))) -> Result<()> {
    let column = |name: &str| batch.column_by_name(name).with_context(|| format!("there is no column {name}"));
    let (auction, bidder, price) = (column("auction")?, column("bidder")?, column("price")?);
    let numbers = [auction, bidder, price].map(|column| column.as_primitive::<Int64Type>());
    let (time, extra) = (column(TIME)?.as_primitive::<TimestampNanosecondType>(), column("extra")?.as_string::<i32>());
    for row in 0..batch.num_rows() {
        let [auction, bidder, price] = numbers.map(|column| column.value(row));
        each((auction, bidder, price, time.value(row) / 1_000_000, extra.value(row)));
    }
    Ok(())
}
