//! The topic of progress: for each transactional id the newest decision, and who took over last.
//!
//! It is compacted and has one partition. A decision is written in the transaction it decides. To know the newest
//! one, a process that has fenced the others commits a note of its own, and reads until it sees that note: whatever
//! was committed before stands in front of it. (The end of the partition would not do: what the brokers call the
//! end for readers of committed messages is the first open transaction, of whichever pipeline.)

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use weir_base::{Clock, ErrorKind};
use weir_component::sink::{Decision, SinkError};

use super::Plan;
use crate::client::{ANSWER_TIMEOUT, Context, Told, kind_of, kind_of_code, text_of, text_of_code};

/// How long the topic may take to be read. Another pipeline's open transaction can stand in the way until the
/// brokers give up on it.
const READ_TIMEOUT: Duration = Duration::from_secs(180);

/// A note of who took over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) writer: String,
}

/// The key of the note of who took over.
pub(super) fn start_key(transactional_id: &str) -> String {
    format!("{transactional_id}#start")
}

/// What the topic says of one transactional id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) decided: Option<Decision>,
    pub(super) writer: Option<String>,
}

impl Progress {
    /// Takes note of a message; later ones count.
    fn note(&mut self, transactional_id: &str, key: &[u8], value: &[u8]) -> Result<(), serde_json::Error> {
        if key == transactional_id.as_bytes() {
            self.decided = Some(serde_json::from_slice(value)?);
        } else if key == start_key(transactional_id).as_bytes() {
            self.writer = Some(serde_json::from_slice::<Start>(value)?.writer);
        }
        Ok(())
    }
}

fn failed(plan: &Plan, doing: &str, (kind, reason): (ErrorKind, String)) -> SinkError {
    SinkError::new(
        kind,
        format!("cannot {doing} topic {} of Kafka at {}: {reason}", plan.progress_topic, plan.cluster.brokers()),
    )
}

/// Reads committed messages: up to that offset, or, without one, those that are there. Blocks.
pub(super) fn read(
    plan: &Plan,
    transactional_id: &str,
    until: Option<i64>,
    clock: &dyn Clock,
) -> Result<Progress, SinkError> {
    let mut config = plan.cluster.config();
    config
        // It is needed to be assigned a partition, and never used.
        .set("group.id", "weir.progress")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20");
    let context = Context::default();
    let told = std::sync::Arc::clone(&context.0);
    let trouble = |error: &KafkaError| failed(plan, "read", told.explain(error));
    let client: BaseConsumer<Context> =
        BaseConsumer::from_config_and_context(&config, context).map_err(|error| trouble(&error))?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&plan.progress_topic, 0, Offset::Beginning).map_err(|error| trouble(&error))?;
    client.assign(&list).map_err(|error| trouble(&error))?;
    let mut progress = Progress::default();
    let begun = clock.monotonic();
    loop {
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let (key, value) = (message.key().unwrap_or_default(), message.payload().unwrap_or_default());
                progress.note(transactional_id, key, value).map_err(|error| {
                    failed(
                        plan,
                        "read",
                        (ErrorKind::Corrupt, format!("offset {} is no progress: {error}", message.offset())),
                    )
                })?;
                if until.is_some_and(|until| message.offset() >= until) {
                    return Ok(progress);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) if until.is_none() => return Ok(progress),
            // A topic that has just been made is not known to every broker at once.
            Some(Err(error))
                if !matches!(kind_of(&error), ErrorKind::Transient | ErrorKind::Timeout | ErrorKind::NotFound) =>
            {
                return Err(trouble(&error));
            }
            // Whatever passes by itself is left to the library.
            Some(Err(_)) | None => {}
        }
        if clock.monotonic().saturating_sub(begun) > READ_TIMEOUT {
            let (_, reason) = told.explain(&KafkaError::Canceled);
            let message =
                format!("it took more than {} s; is a transaction open there? {reason}", READ_TIMEOUT.as_secs());
            return Err(failed(plan, "read", (ErrorKind::Timeout, message)));
        }
    }
}

/// Makes the topic, if it is not there, and checks that it keeps what is written to it.
pub(super) async fn ensure(plan: &Plan, is_there: bool) -> Result<(), SinkError> {
    let context = Context::default();
    let told = std::sync::Arc::clone(&context.0);
    let client: AdminClient<Context> = AdminClient::from_config_and_context(&plan.cluster.config(), context)
        .map_err(|error| failed(plan, "make", (kind_of(&error), text_of(&error))))?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT)).operation_timeout(Some(ANSWER_TIMEOUT));
    // Only then, because making it takes the controller, which may be the broker that has just gone.
    if !is_there && make(plan, &client, &options, &told).await? {
        // As it was just wished for. A broker that does not know of it yet would say nothing of it.
        return Ok(());
    }
    let described = client.describe_configs([&ResourceSpecifier::Topic(&plan.progress_topic)], &options).await;
    let Ok([Ok(described)]) = described.as_deref() else {
        // Not everybody may ask.
        tracing::warn!(topic = %plan.progress_topic, "cannot see how the topic is configured; it must be compacted");
        return Ok(());
    };
    let policy = described.get("cleanup.policy").and_then(|entry| entry.value.as_deref()).unwrap_or_default();
    // Nothing: another pipeline has made it at this moment, and the broker that was asked does not know of it.
    if !matches!(policy, "" | "compact") {
        let message = format!("its cleanup.policy is {policy}, and would remove progress; it must be compact");
        return Err(failed(plan, "use", (ErrorKind::Config, message)));
    }
    Ok(())
}

/// Makes the topic; false if it was there already, or may be.
async fn make(
    plan: &Plan,
    client: &AdminClient<Context>,
    options: &AdminOptions,
    told: &Told,
) -> Result<bool, SinkError> {
    // How many replicas is the brokers' to say. Small segments, because only whole ones are compacted.
    let topic = NewTopic::new(&plan.progress_topic, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact")
        .set("segment.bytes", "16777216")
        .set("segment.ms", "3600000")
        .set("min.cleanable.dirty.ratio", "0.1");
    let made = client.create_topics([&topic], options).await;
    match made.as_deref() {
        Ok([Ok(_)]) => Ok(true),
        Ok([Err((_, Code::TopicAlreadyExists))]) => Ok(false),
        // Whether it is there already is seen when it is read.
        Ok([Err((_, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed))]) => Ok(false),
        Ok([Err((_, code))]) => Err(failed(plan, "make", (kind_of_code(*code), text_of_code(*code)))),
        Ok(_) => Err(failed(plan, "make", (ErrorKind::Transient, "the brokers did not answer".to_owned()))),
        Err(error) => Err(failed(plan, "make", told.explain(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_note_of_the_own_id_counts() {
        let mut progress = Progress::default();
        for (key, value) in [
            ("weir/local/p/kafka", r#"{"epoch":1,"manifest":"a"}"#),
            ("weir/local/p/kafka#start", r#"{"writer":"w.1"}"#),
            ("weir/local/p/kafka", r#"{"epoch":2,"manifest":"b"}"#),
            ("weir/local/p/kafka_2", r#"{"epoch":9,"manifest":"z"}"#),
            ("weir/local/q/kafka#start", r#"{"writer":"other"}"#),
        ] {
            progress.note("weir/local/p/kafka", key.as_bytes(), value.as_bytes()).unwrap();
        }
        let decided = Some(Decision { epoch: 2, manifest: "b".to_owned() });
        assert_eq!(progress, Progress { decided, writer: Some("w.1".to_owned()) });
        assert!(progress.note("p", b"p", b"{}").is_err());
    }
}
