//! A producer of the library, as far as both kinds of delivery need it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Statistics};
use tokio::sync::Notify;
use weir_base::clock::SystemClock;
use weir_base::{Clock, ErrorKind};
use weir_component::sink::SinkError;

use super::Plan;
use super::messages::Messages;
use crate::client::{ANSWER_TIMEOUT, Context, ask, kind_of, kind_of_code, text_of, text_of_code};

/// What messages may take that have not been answered for.
const QUEUE_BYTES_MAX: u64 = 32 << 20;
/// How long a writer that found the queue full waits for an answer before it looks again.
const QUEUE_PATIENCE: Duration = Duration::from_millis(100);

/// What became of messages.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// The first message that was not delivered.
    failed: Mutex<Option<(ErrorKind, String)>>,
    /// The offset of the last message of the progress topic.
    pub(super) progress_offset: Mutex<Option<i64>>,
    /// Somebody waits for messages to be answered for.
    waits: AtomicBool,
    /// Told then.
    answered: Notify,
}

/// What marks a message. It goes through the library and back with each of them, so it is a number: nothing has to be
/// allocated for it.
pub(super) type Mark = usize;
/// A row.
pub(super) const ROW: Mark = 0;
/// A note of progress.
pub(super) const PROGRESS: Mark = 1;

#[derive(Clone, Debug, Default)]
pub(super) struct ProducerTold {
    base: Context,
    pub(super) delivered: Arc<Delivered>,
}

impl ClientContext for ProducerTold {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        self.base.log(level, facility, message);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        self.base.error(error, reason);
    }
}

impl ProducerContext for ProducerTold {
    type DeliveryOpaque = Mark;

    fn delivery(&self, result: &DeliveryResult<'_>, mark: Mark) {
        match result {
            Ok(message) if mark == PROGRESS => {
                *self.delivered.progress_offset.lock() = Some(message.offset());
            }
            Ok(_) => {}
            Err((error, message)) => {
                let mut failed = self.delivered.failed.lock();
                if failed.is_none() {
                    let reason = text_of(error);
                    let topic = message.topic();
                    *failed = Some((kind_of(error), format!("a message for {topic} was not delivered: {reason}")));
                }
            }
        }
        if self.delivered.waits.load(Ordering::Relaxed) && self.delivered.waits.swap(false, Ordering::AcqRel) {
            self.delivered.answered.notify_one();
        }
    }
}

/// A producer, and what it was told.
pub(super) struct Client {
    pub(super) producer: ThreadedProducer<ProducerTold>,
    pub(super) told: ProducerTold,
    brokers: String,
    clock: Arc<SystemClock>,
}

/// The settings of a producer.
pub(super) fn config(plan: &Plan) -> ClientConfig {
    let mut config = plan.cluster.config();
    config
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.codec", plan.compression.as_str())
        .set("linger.ms", plan.linger.as_millis().to_string())
        .set("message.max.bytes", plan.message_bytes_max.to_string())
        .set("queue.buffering.max.kbytes", (QUEUE_BYTES_MAX.max(2 * plan.message_bytes_max) / 1024).to_string())
        .set("queue.buffering.max.messages", "200000")
        .set("batch.size", plan.message_bytes_max.clamp(1 << 16, 1 << 20).to_string());
    config
}

impl Client {
    /// A producer of these settings. Nothing is connected yet.
    pub(super) fn new(plan: &Plan, config: &ClientConfig) -> Result<Self, SinkError> {
        let told = ProducerTold::default();
        let producer = ThreadedProducer::from_config_and_context(config, told.clone());
        let producer = producer.map_err(|error| {
            SinkError::new(kind_of(&error), format!("cannot make a producer for Kafka: {}", text_of(&error)))
        })?;
        Ok(Self { producer, told, brokers: plan.cluster.brokers().to_owned(), clock: SystemClock::new() })
    }

    /// How many partitions a topic has. Blocks.
    pub(super) fn partitions(&self, topic: &str) -> Result<i32, SinkError> {
        let metadata = ask(|| self.producer.client().fetch_metadata(Some(topic), ANSWER_TIMEOUT));
        let metadata = metadata.map_err(|error| self.failed("reach", &error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        if let Some(error) = found.and_then(|found| found.error()) {
            let code = Code::from(error);
            let place = format!("topic {topic} of Kafka at {}", self.brokers);
            return Err(match kind_of_code(code) {
                ErrorKind::NotFound => SinkError::new(ErrorKind::Config, format!("there is no {place}")),
                kind => SinkError::new(kind, format!("cannot write {place}: {}", text_of_code(code))),
            });
        }
        Ok(found.map_or(0, |found| i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)))
    }

    /// An error of the library, with the trouble it comes from.
    pub(super) fn failed(&self, doing: &str, error: &KafkaError) -> SinkError {
        let (kind, reason) = self.told.base.0.explain(error);
        SinkError::new(kind, format!("cannot {doing} Kafka at {}: {reason}", self.brokers))
    }

    /// Whether a message was not delivered.
    pub(super) fn check(&self) -> Result<(), SinkError> {
        match self.told.delivered.failed.lock().clone() {
            None => Ok(()),
            Some((kind, message)) => Err(SinkError::new(kind, message)),
        }
    }

    /// Gives rows to the library, as fast as it takes them.
    pub(super) async fn send(&self, topic: &str, messages: &mut Messages, rows: &RecordBatch) -> Result<(), SinkError> {
        let mut row = 0;
        while row < rows.num_rows() {
            self.check()?;
            let is_full = {
                let mut writer = messages.of(rows);
                self.send_some(topic, &mut writer, &mut row, rows.num_rows())?
            };
            if is_full {
                // Should the last answer come before this is seen, the next look is soon enough.
                self.told.delivered.waits.store(true, Ordering::Release);
                let _ = tokio::time::timeout(QUEUE_PATIENCE, self.told.delivered.answered.notified()).await;
            }
        }
        Ok(())
    }

    /// Gives rows from `row` on until the queue is full.
    fn send_some(
        &self,
        topic: &str,
        writer: &mut super::messages::RowMessages<'_>,
        row: &mut usize,
        end: usize,
    ) -> Result<bool, SinkError> {
        // Otherwise the library asks for the time of each message.
        let sent_at = self.clock.now().0 / 1_000_000;
        while *row < end {
            let message = writer.message(*row);
            let mut record: BaseRecord<'_, str, str, Mark> =
                BaseRecord::with_opaque_to(topic, ROW).payload(message.value);
            record.key = message.key;
            record.partition = message.partition;
            record.headers = message.headers;
            record.timestamp = Some(sent_at);
            match self.producer.send(record) {
                Ok(()) => *row += 1,
                Err((error, _)) if error.rdkafka_error_code() == Some(Code::QueueFull) => return Ok(true),
                Err((error, _)) => {
                    let kind = kind_of(&error);
                    let bytes = message_bytes(&error, message.value);
                    return Err(SinkError::new(
                        kind,
                        format!("cannot write a row{bytes} to {topic}: {}", text_of(&error)),
                    ));
                }
            }
        }
        Ok(false)
    }
}

/// How long a message is, where that is what is wrong.
fn message_bytes(error: &KafkaError, value: &str) -> String {
    match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge) => format!(" of {} bytes (message_bytes_max)", value.len()),
        _ => String::new(),
    }
}
