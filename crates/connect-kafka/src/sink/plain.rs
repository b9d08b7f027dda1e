//! At least once: messages without transactions, acknowledged by all replicas before a checkpoint is made.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use rdkafka::producer::Producer;
use weir_base::ErrorKind;
use weir_component::sink::{Receipt, Sink, SinkError};

use super::Plan;
use super::messages::Messages;
use super::producer::{Client, config};
use crate::client::blocking;

/// How long a checkpoint waits for acknowledgements before it is said that they are missing.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

struct Plain {
    topic: String,
    client: Arc<Client>,
    messages: Messages,
}

pub(super) async fn open(plan: Plan, schema: &SchemaRef) -> Result<impl Sink + use<>, SinkError> {
    let mut config = config(&plan);
    // The library goes on trying; how long the pipeline waits for it is the engine's to say.
    config.set("message.timeout.ms", "0");
    let client = Arc::new(Client::new(&plan, &config)?);
    let asked = Arc::clone(&client);
    let topic = plan.topic.clone();
    let n_partitions = blocking("open", move || asked.partitions(&topic)).await.map_err(no_thread)??;
    Ok(Plain { messages: Messages::new(&plan, schema, n_partitions), topic: plan.topic, client })
}

/// A thread could not be started, or panicked.
#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
pub(super) fn no_thread(error: std::io::Error) -> SinkError {
    SinkError::new(ErrorKind::Transient, format!("cannot talk to Kafka: {error}"))
}

/// Waits until every message was answered for. Blocks.
pub(super) fn flush(client: &Client) -> Result<(), SinkError> {
    let flushed = client.producer.flush(FLUSH_TIMEOUT);
    client.check()?;
    flushed.map_err(|error| {
        let left = client.producer.in_flight_count();
        let error = client.failed("reach", &error);
        SinkError::new(error.kind, format!("{left} messages are not acknowledged: {}", error.message))
    })
}

#[async_trait]
impl Sink for Plain {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        self.client.send(&self.topic, &mut self.messages, rows).await
    }

    async fn prepare(&mut self, _: u64) -> Result<Receipt, SinkError> {
        let client = Arc::clone(&self.client);
        blocking("flush", move || flush(&client)).await.map_err(no_thread)??;
        Ok(Receipt::default())
    }

    async fn commit(&mut self, _: u64, _: &Receipt) -> Result<(), SinkError> {
        Ok(())
    }
}
