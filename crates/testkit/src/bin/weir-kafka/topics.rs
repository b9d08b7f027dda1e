//! What goes into topics, and what is found in them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value as Json, json};

use weir_testkit::kafka::Cluster;

/// Keys of rows.
pub(crate) const N_KEYS: u64 = 7;
/// How far apart the event times of rows are.
const STEP_MS: u64 = 10;
/// Every so manieth message is no row.
const BAD_EVERY: u64 = 500;

/// Makes a topic.
pub(crate) async fn create(cluster: &Cluster, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
    let client: AdminClient<DefaultClientContext> = cluster.config().create()?;
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    for (key, value) in settings {
        topic = topic.set(key, value);
    }
    let made = client.create_topics([&topic], &AdminOptions::new()).await?;
    for made in made {
        made.map_err(|(topic, code)| anyhow::anyhow!("cannot create {topic}: {code}"))?;
    }
    Ok(())
}

/// Gives a topic more partitions.
pub(crate) async fn grow(cluster: &Cluster, name: &str, partitions: usize) -> Result<()> {
    let client: AdminClient<DefaultClientContext> = cluster.config().create()?;
    let grown = client.create_partitions([&NewPartitions::new(name, partitions)], &AdminOptions::new()).await?;
    for grown in grown {
        grown.map_err(|(topic, code)| anyhow::anyhow!("cannot give {topic} more partitions: {code}"))?;
    }
    Ok(())
}

/// Sends numbered rows from a thread, until it is told to stop.
pub(crate) struct Load {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

/// The message with a number; some are no rows.
fn value(id: u64) -> String {
    if id % BAD_EVERY == BAD_EVERY - 1 {
        return format!("no row {id}");
    }
    json!({ "id": id, "ts": id * STEP_MS, "k": format!("k{}", id % N_KEYS) }).to_string()
}

/// Whether the message with a number is a row.
pub(crate) fn is_row(id: u64) -> bool {
    id % BAD_EVERY != BAD_EVERY - 1
}

/// How many rows each window of `size_ms` and key has, of the first `sent` messages.
pub(crate) fn windows(sent: u64, size_ms: u64) -> BTreeMap<(u64, String), u64> {
    let mut windows = BTreeMap::new();
    for id in (0..sent).filter(|id| is_row(*id)) {
        *windows.entry((id * STEP_MS / size_ms * size_ms, format!("k{}", id % N_KEYS))).or_insert(0) += 1;
    }
    windows
}

impl Load {
    /// Begins to send to all partitions in turn, about so many a second.
    pub(crate) fn start(cluster: &Cluster, topic: &str, partitions: i32, rate: u64) -> Result<Self> {
        let producer: BaseProducer = cluster
            .config()
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "5")
            .create()?;
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopped, topic) = (Arc::clone(&sent), Arc::clone(&stop), topic.to_owned());
        let thread = std::thread::spawn(move || {
            let begun = Instant::now();
            let mut id = 0;
            while !stopped.load(Ordering::Acquire) {
                let due = u64::try_from(begun.elapsed().as_millis())? * rate / 1000;
                while id < due {
                    let partition = i32::try_from(id % u64::try_from(partitions)?)?;
                    let (value, key) = (value(id), format!("{id}"));
                    let record = BaseRecord::to(&topic).payload(&value).key(&key).partition(partition);
                    match producer.send(record) {
                        Ok(()) => id += 1,
                        Err(_) => producer.poll(Duration::from_millis(20)),
                    };
                }
                counter.store(id, Ordering::Release);
                producer.poll(Duration::from_millis(5));
            }
            // The last one of each partition closes the windows.
            let end = json!({ "id": null, "ts": 9_000_000_000_000_u64, "k": "end" }).to_string();
            for partition in 0..partitions {
                let record: BaseRecord<'_, str, str> =
                    BaseRecord::to(&topic).payload(end.as_str()).partition(partition);
                producer.send(record).map_err(|(error, _)| error)?;
            }
            producer.flush(Duration::from_secs(60)).context("cannot send everything")
        });
        Ok(Self { sent, stop, thread })
    }

    /// Stops, and says how many messages were sent.
    pub(crate) fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        Ok(self.sent.load(Ordering::Acquire))
    }
}

/// A message as it is read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) value: Json,
    pub(crate) key: Option<String>,
    pub(crate) partition: i32,
    /// The header with the tenant.
    pub(crate) tenant: Option<String>,
}

/// The values of all committed messages of a topic.
pub(crate) fn committed(cluster: &Cluster, topic: &str, partitions: i32) -> Result<Vec<Json>> {
    Ok(messages(cluster, topic, partitions)?.into_iter().map(|message| message.value).collect())
}

/// Reads all committed messages of a topic, and checks that no open transaction stands in the way of any.
pub(crate) fn messages(cluster: &Cluster, topic: &str, partitions: i32) -> Result<Vec<Read>> {
    let client = |isolation: &str| -> Result<BaseConsumer> {
        Ok(cluster
            .config()
            .set("group.id", "weir-kafka-oracle")
            .set("isolation.level", isolation)
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .create()?)
    };
    let (reader, anything) = (client("read_committed")?, client("read_uncommitted")?);
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        let timeout = Duration::from_secs(20);
        let (_, stable) = reader.fetch_watermarks(topic, partition, timeout)?;
        let (_, end) = anything.fetch_watermarks(topic, partition, timeout)?;
        ensure!(stable == end, "{topic}/{partition}: a transaction is open at {stable}, before the end at {end}");
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    reader.assign(&list)?;
    let (mut messages, mut ended) = (Vec::new(), 0);
    let begun = Instant::now();
    while ended < partitions {
        match reader.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => {
                let value = message.payload().context("a message without a value")?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = message.headers();
                let tenant = headers.and_then(|all| all.iter().find(|header| header.key == "weir-tenant"));
                messages.push(Read {
                    value: serde_json::from_slice(value)?,
                    key: message.key().map(text),
                    partition: message.partition(),
                    tenant: tenant.and_then(|header| header.value).map(text),
                });
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(error).context(format!("cannot read {topic}")),
            None => ensure!(begun.elapsed() < Duration::from_secs(120), "{topic} cannot be read to its end"),
        }
    }
    Ok(messages)
}

/// How batches are compressed, by its number in their attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

/// Checks in the files of the brokers that batches of a topic are compressed so; small ones need not be.
pub(crate) fn check_codec(cluster: &Cluster, topic: &str, codec: Codec) -> Result<()> {
    let mut found = [0_u32; 8];
    for folder in cluster.folders(topic) {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                count_codecs(&std::fs::read(&path)?, &mut found);
            }
        }
    }
    let others = found.iter().enumerate().filter(|(number, _)| *number != 0 && *number != codec as usize);
    let others: u32 = others.map(|(_, count)| count).sum();
    ensure!(found[codec as usize] > 0 && others == 0, "{topic}: batches by codec are {found:?}, not {codec:?}");
    Ok(())
}

/// Counts batches by codec. A batch: offset (8 bytes), length of what follows (4), epoch of the leader (4), format (1),
/// checksum (4), attributes (2), and more. What follows the last whole one is being written.
fn count_codecs(mut bytes: &[u8], found: &mut [u32; 8]) {
    /// Of a batch that says how transactions end.
    const CONTROL: u8 = 0x20;
    while let Some((head, rest)) = bytes.split_first_chunk::<12>()
        && let Some(length) = head.last_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize)
        && let Some((batch, rest)) = rest.split_at_checked(length)
        && let Some(attributes) = batch.get(10)
    {
        if attributes & CONTROL == 0 {
            found[usize::from(attributes & 7)] += 1;
        }
        bytes = rest;
    }
}

/// How far readers of committed messages can come, over all partitions.
pub(crate) fn stable(cluster: &Cluster, topic: &str, partitions: i32) -> Result<i64> {
    let client: BaseConsumer = cluster.config().set("isolation.level", "read_committed").create()?;
    let mut sum = 0;
    for partition in 0..partitions {
        sum += client.fetch_watermarks(topic, partition, Duration::from_secs(20))?.1;
    }
    Ok(sum)
}

/// How many partitions each member of a group has, the least first.
pub(crate) fn shares(cluster: &Cluster, group: &str) -> Result<Vec<usize>> {
    let client: BaseConsumer = cluster.config().create()?;
    let groups = client.fetch_group_list(Some(group), Duration::from_secs(20))?;
    let group = groups.groups().first().context("there is no such group")?;
    ensure!(group.state() == "Stable", "it is {}", group.state());
    let mut shares = Vec::new();
    for member in group.members() {
        shares.push(n_assigned(member.assignment().unwrap_or_default()).context("an assignment of another kind")?);
    }
    shares.sort_unstable();
    Ok(shares)
}

/// How many partitions there are in an assignment of the consumer protocol: a version, and by topic a name and
/// numbers of partitions.
fn n_assigned(mut bytes: &[u8]) -> Option<usize> {
    let mut take = |count: usize| {
        let (head, rest) = bytes.split_at_checked(count)?;
        bytes = rest;
        Some(head.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    take(2)?;
    let mut sum = 0;
    for _ in 0..take(4)? {
        let name = take(2)?;
        take(name)?;
        let count = take(4)?;
        sum += count;
        take(4 * count)?;
    }
    Some(sum)
}

/// The numbers of rows, checked against what was sent: each once, and no other.
pub(crate) fn check_ids<'a>(what: &str, rows: impl Iterator<Item = &'a Json>, sent: u64) -> Result<u64> {
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for row in rows {
        // Those that close the windows have no number.
        if let Some(id) = row.get("id").and_then(Json::as_u64) {
            *seen.entry(id).or_insert(0) += 1;
        }
    }
    let missing: Vec<u64> = (0..sent).filter(|id| is_row(*id) && !seen.contains_key(id)).collect();
    let twice: Vec<u64> = seen.iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id).collect();
    let strange = seen.keys().filter(|id| **id >= sent || !is_row(**id)).count();
    ensure!(
        missing.is_empty() && twice.is_empty() && strange == 0,
        "{what}: {} of {sent} missing ({:?} ...), {} twice ({:?} ...), {strange} that were never sent",
        missing.len(),
        &missing[..missing.len().min(5)],
        twice.len(),
        &twice[..twice.len().min(5)],
    );
    Ok(seen.len() as u64)
}
