//! Opening the source: which partitions there are, and where each is read from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use serde_json::Value as Json;
use weir_base::ErrorKind;
use weir_component::source::{SourceError, SourcePosition};

use super::reader::KafkaSource;
use super::{PartOf, Plan, Start, parked};
use crate::client::{ANSWER_TIMEOUT, Context, LEADER_TIMEOUT, ask, ask_for, blocking, kind_of_code, text_of_code};

/// How long a pipeline may be held up by its sinks, or take for the checkpoint before it gives partitions back,
/// until the group goes on without it.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// A client that reads.
pub(super) type Client = BaseConsumer<Context>;

/// Where a partition is read from: the topic and the number, and the offset of the next message.
pub(super) type Places = BTreeMap<(String, i32), i64>;

/// The name of a partition in checkpoints. No topic has a slash in its name.
pub(super) fn name(topic: &str, partition: i32) -> String {
    format!("{topic}/{partition}")
}

pub(super) async fn open(plan: Plan, position: Option<SourcePosition>) -> Result<KafkaSource, SourceError> {
    position.as_ref().map_or(Ok(()), |position| check_part(&plan, position))?;
    let position = position.map(|position| read_position(&position)).transpose()?;
    let opened = blocking("open", move || {
        if plan.is_shared
            && let Some(parked) = parked::take(&plan)
        {
            return KafkaSource::resume(plan, parked);
        }
        let client = client(&plan)?;
        if plan.is_shared {
            // Whether the topics are there.
            partitions(&plan, &client)?;
            return KafkaSource::join(plan, client, position);
        }
        let places = places(&plan, &client, position.as_ref())?;
        let is_unplaced = position.is_none() && plan.start == Start::Latest;
        KafkaSource::new(plan, client, &places, is_unplaced)
    });
    opened.await.map_err(|error| SourceError::new(ErrorKind::Transient, format!("cannot start a thread: {error}")))?
}

/// A checkpoint of another part has read partitions that are not of this one, or has left out some that are.
pub(super) fn check_part(plan: &Plan, position: &SourcePosition) -> Result<(), SourceError> {
    let part = plan.part.map(|part| part.to_string());
    let other = position.partitions.values().map(|place| place.get("part").and_then(Json::as_str));
    let Some(before) = other.into_iter().find(|before| *before != part.as_deref()) else { return Ok(()) };
    let shown =
        |part: Option<&str>| part.map_or("all partitions".to_owned(), |part| format!("part {part} of the partitions"));
    let message = format!(
        "the pipeline has read {} so far, and is to read {} now: it has to begin anew for that",
        shown(before),
        shown(part.as_deref())
    );
    Err(SourceError::new(ErrorKind::Config, message))
}

/// The places of a checkpoint.
pub(super) fn read_position(position: &SourcePosition) -> Result<Places, SourceError> {
    let entry = |(name, place): (&String, &Json)| {
        let (topic, partition) = name.rsplit_once('/')?;
        Some(((topic.to_owned(), partition.parse().ok()?), place.get("offset")?.as_i64()?))
    };
    let corrupt = || SourceError::new(ErrorKind::Corrupt, "the position is not one of a Kafka source");
    position.partitions.iter().map(|pair| entry(pair).ok_or_else(corrupt)).collect()
}

/// A position of a checkpoint.
pub(super) fn write_position(part: Option<PartOf>, places: impl Iterator<Item = (String, i64)>) -> SourcePosition {
    let place = |offset: i64| match part {
        Some(part) => serde_json::json!({ "offset": offset, "part": part.to_string() }),
        None => serde_json::json!({ "offset": offset }),
    };
    SourcePosition { partitions: places.map(|(name, offset)| (name, place(offset))).collect() }
}

fn client(plan: &Plan) -> Result<Client, SourceError> {
    let mut config: ClientConfig = plan.cluster.config();
    let refresh = if plan.is_shared { plan.discover.as_millis() } else { 30_000 };
    config
        .set("group.id", &plan.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A place that is not there is an error, never a reason to read from elsewhere.
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("statistics.interval.ms", "2000")
        .set("fetch.wait.max.ms", "100")
        // How long a partition of which enough waits is not fetched from. The library's own second is longer than what
        // waits lasts.
        .set("fetch.queue.backoff.ms", "10")
        .set("topic.metadata.refresh.interval.ms", refresh.to_string())
        .set("queued.min.messages", "100000")
        .set("queued.max.messages.kbytes", (plan.fetch_bytes_max / 1024).max(1).to_string())
        .set("fetch.max.bytes", plan.fetch_bytes_max.clamp(1 << 20, 50 << 20).to_string())
        .set("fetch.message.max.bytes", plan.fetch_bytes_max.clamp(1024, 1 << 20).to_string());
    if plan.is_shared {
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", plan.session.as_millis().to_string())
            .set("heartbeat.interval.ms", (plan.session.as_millis() / 5).to_string())
            .set("max.poll.interval.ms", plan.session.max(SILENCE_MAX).as_millis().to_string());
    }
    let context = Context::default();
    let told = Arc::clone(&context.0);
    BaseConsumer::from_config_and_context(&config, context).map_err(|error| {
        let (kind, reason) = told.explain(&error);
        SourceError::new(kind, format!("cannot make a client of Kafka: {reason}"))
    })
}

/// Lets the library say what is wrong, which it does by events.
fn serve(client: &Client) {
    // Nothing is assigned yet, so there are no messages.
    while client.poll(Duration::from_millis(10)).is_some() {}
}

/// An error of a question to the cluster.
fn unanswered(client: &Client, plan: &Plan, doing: &str, error: &KafkaError) -> SourceError {
    serve(client);
    let (kind, reason) = client.client().context().0.explain(error);
    SourceError::new(kind, format!("cannot {doing} Kafka at {}: {reason}", plan.cluster.brokers()))
}

/// The partitions there are that this pipeline reads.
pub(super) fn read_of(plan: &Plan, counts: &BTreeMap<String, i32>) -> Vec<(String, i32)> {
    let all = counts.iter().flat_map(|(topic, count)| (0..*count).map(move |number| (topic.clone(), number)));
    all.filter(|(_, number)| plan.part.is_none_or(|part| part.has(*number))).collect()
}

/// How many partitions each topic has.
pub(super) fn partitions(plan: &Plan, client: &Client) -> Result<BTreeMap<String, i32>, SourceError> {
    let mut counts = BTreeMap::new();
    for topic in &plan.topics {
        let metadata = ask(|| {
            serve(client);
            client.fetch_metadata(Some(topic), ANSWER_TIMEOUT)
        })
        .map_err(|error| unanswered(client, plan, "reach", &error))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Err(SourceError::new(ErrorKind::Transient, format!("the brokers say nothing about topic {topic}")));
        };
        if let Some(error) = found.error() {
            let code = rdkafka::error::RDKafkaErrorCode::from(error);
            let place = format!("topic {topic} of Kafka at {}", plan.cluster.brokers());
            return Err(match kind_of_code(code) {
                ErrorKind::NotFound => SourceError::new(ErrorKind::Config, format!("there is no {place}")),
                kind => SourceError::new(kind, format!("cannot read {place}: {}", text_of_code(code))),
            });
        }
        counts.insert(topic.clone(), i32::try_from(found.partitions().len()).unwrap_or(i32::MAX));
    }
    client.client().context().0.well();
    Ok(counts)
}

/// Where each partition is read from.
fn places(plan: &Plan, client: &Client, position: Option<&Places>) -> Result<Places, SourceError> {
    let counts = partitions(plan, client)?;
    let mut places = Places::new();
    for (topic, partition) in read_of(plan, &counts) {
        let (oldest, end) = ask_for(LEADER_TIMEOUT, || client.fetch_watermarks(&topic, partition, ANSWER_TIMEOUT))
            .map_err(|error| {
                unanswered(client, plan, &format!("ask for the ends of {topic}/{partition} of"), &error)
            })?;
        let key = (topic.clone(), partition);
        let place = match position.and_then(|position| position.get(&key)) {
            Some(place) => {
                check_place(&name(&topic, partition), *place, oldest, end)?;
                *place
            }
            // One that has come up since the checkpoint is new as a whole.
            None if position.is_some() || plan.start == Start::Earliest => oldest,
            None => end,
        };
        places.insert(key, place);
    }
    for (topic, partition) in position.into_iter().flat_map(Places::keys) {
        if !places.contains_key(&(topic.clone(), *partition)) {
            let message = format!("{} was read before and is not there any more", name(topic, *partition));
            return Err(SourceError::new(ErrorKind::NotFound, message));
        }
    }
    Ok(places)
}

pub(super) fn check_place(name: &str, place: i64, oldest: i64, end: i64) -> Result<(), SourceError> {
    if place < oldest {
        return Err(gone(name, place, Some(oldest)));
    }
    if place > end {
        let message =
            format!("{name} ends at offset {end}, and was read up to {place}; it is not the same topic any more");
        return Err(SourceError::new(ErrorKind::Conflict, message));
    }
    Ok(())
}

/// Messages were removed before they were read.
pub(super) fn gone(name: &str, place: i64, oldest: Option<i64>) -> SourceError {
    let oldest = oldest.map(|oldest| format!(" (the oldest there is has offset {oldest})")).unwrap_or_default();
    let message = format!("{name}: messages from offset {place} on were removed before they were read{oldest}");
    SourceError::new(ErrorKind::NotFound, message)
}
