//! Exactly once: one transaction from checkpoint to checkpoint, whose commit decides.
//!
//! The library cannot go on with a prepared transaction in another process, so nothing can be decided first and
//! committed to Kafka afterwards. The commit itself is the decision: it holds the rows, and a note in the topic of
//! progress that names the manifest they belong to. Whoever starts fences every earlier producer first (the
//! transactional id is always the same), then reads that note, and goes on from the manifest it names. If the
//! outcome of a commit is not known, nothing is guessed: the sink is given up, and the same start answers.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer};
use weir_base::clock::SystemClock;
use weir_base::{Clock, ErrorKind};
use weir_component::sink::{Decision, Opening, Owner, Receipt, Sink, SinkError, TakenOver};
use weir_component::source::Share;

use super::Plan;
use super::messages::Messages;
use super::plain::{flush, no_thread};
use super::producer::{Client, PROGRESS, config};
use super::progress::{self, Start, start_key};
use crate::client::{ANSWER_TIMEOUT, blocking, kind_of, text_of};
use crate::source::{ClaimError, Member};

/// How long the brokers may take to end the transaction of an earlier producer.
const FENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the brokers may take to note how far was read.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an open transaction is given to be aborted when the sink is given up.
const ABORT_TIMEOUT: Duration = Duration::from_secs(3);

/// A producer that has fenced all earlier ones.
pub(super) struct Fenced {
    plan: Plan,
    id: String,
    client: Arc<Client>,
    n_partitions: i32,
    decided: Option<Decision>,
    cluster: Option<String>,
}

pub(super) async fn take_over(plan: Plan, owner: Owner) -> Result<Fenced, SinkError> {
    let id = plan.transactional_id(&owner);
    let (connected, name) = (plan.clone(), id.clone());
    // First, because a producer says why it cannot reach the brokers, and the client that makes topics does not.
    let (client, n_partitions, has_progress) =
        blocking("connect", move || connect(&connected, &name)).await.map_err(no_thread)??;
    progress::ensure(&plan, has_progress).await?;
    blocking("take-over", move || fence(plan, id, (client, n_partitions), &owner)).await.map_err(no_thread)?
}

/// A producer under that name, which nobody notices yet, how many partitions the topic has, and whether the topic of
/// progress is there. Blocks.
fn connect(plan: &Plan, id: &str) -> Result<(Client, i32, bool), SinkError> {
    let mut config = config(plan);
    config
        .set("transactional.id", id)
        .set("transaction.timeout.ms", plan.transaction_timeout.as_millis().to_string())
        .set("message.timeout.ms", plan.transaction_timeout.as_millis().to_string());
    let client = Client::new(plan, &config)?;
    let n_partitions = client.partitions(&plan.topic)?;
    let has_progress = client.partitions(&plan.progress_topic).is_ok_and(|count| count > 0);
    Ok((client, n_partitions, has_progress))
}

/// Fences all earlier producers of that name, and reads what they have decided. Blocks.
fn fence(plan: Plan, id: String, (client, n_partitions): (Client, i32), owner: &Owner) -> Result<Fenced, SinkError> {
    let clock = SystemClock::new();
    if owner.is_again {
        let progress = progress::read(&plan, &id, None, clock.as_ref())?;
        if let Some(writer) = progress.writer.filter(|writer| !owner.may_follow(writer)) {
            let message = format!("another process runs this pipeline now (transactional id {id}, start {writer})");
            return Err(SinkError::new(ErrorKind::Conflict, message));
        }
    }
    let begun = clock.monotonic();
    while let Err(error) = client.producer.init_transactions(FENCE_TIMEOUT) {
        let is_retriable = matches!(&error, KafkaError::Transaction(error) if error.is_retriable());
        if !is_retriable || clock.monotonic().saturating_sub(begun) > FENCE_TIMEOUT {
            return Err(client.failed(&format!("begin to write as {id} to"), &error));
        }
    }
    // From here on nobody else commits anything under this id.
    let note = serde_json::to_string(&Start { writer: owner.writer.clone() }).unwrap_or_default();
    client.producer.begin_transaction().map_err(|error| client.failed("begin a transaction of", &error))?;
    note_progress(&client, &plan.progress_topic, &start_key(&id), &note)?;
    flush(&client)?;
    let committed = client.producer.commit_transaction(FENCE_TIMEOUT);
    committed.map_err(|error| client.failed("note the start of the pipeline in", &error))?;
    let Some(offset) = *client.told.delivered.progress_offset.lock() else {
        return Err(SinkError::new(ErrorKind::Internal, "a note of progress was delivered without an offset"));
    };
    let decided = progress::read(&plan, &id, Some(offset), clock.as_ref())?.decided;
    let cluster = owner.member.as_ref().and_then(|_| client.producer.client().fetch_cluster_id(ANSWER_TIMEOUT));
    Ok(Fenced { plan, id, client: Arc::new(client), n_partitions, decided, cluster })
}

/// Writes to the topic of progress, in the transaction that is open.
fn note_progress(client: &Client, topic: &str, key: &str, value: &str) -> Result<(), SinkError> {
    let record = BaseRecord::with_opaque_to(topic, PROGRESS).partition(0).key(key).payload(value);
    client.producer.send(record).map_err(|(error, _)| client.failed(&format!("write {topic} of"), &error))
}

#[async_trait]
impl TakenOver for Fenced {
    fn decided(&self) -> Option<&Decision> {
        self.decided.as_ref()
    }

    async fn open(self: Box<Self>, schema: SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Transactions {
            messages: Messages::new(&self.plan, &schema, self.n_partitions),
            topic: self.plan.topic,
            progress_topic: self.plan.progress_topic,
            id: self.id,
            client: self.client,
            is_open: false,
            noted: None,
            has_offsets: false,
            cluster: self.cluster,
        }))
    }
}

/// A sink whose transactions decide.
struct Transactions {
    topic: String,
    progress_topic: String,
    id: String,
    client: Arc<Client>,
    messages: Messages,
    /// A transaction has begun.
    is_open: bool,
    /// The decision that was written in it.
    noted: Option<Decision>,
    /// It has how far shares of sources were read.
    has_offsets: bool,
    /// The cluster, as it calls itself, where sources are shared.
    cluster: Option<String>,
}

/// What is left after an error within a transaction: it cannot be committed any more as it was meant, so only the next
/// start shows what holds. Except a row that no start would get through.
fn given_up(error: SinkError) -> SinkError {
    match error.kind {
        ErrorKind::TooLarge => error,
        kind => SinkError::undecided(kind, error.message),
    }
}

impl Transactions {
    /// Puts how far shares were read into the transaction, once.
    async fn commit_with(&mut self, shares: &[Share]) -> Result<(), SinkError> {
        if self.has_offsets || shares.is_empty() {
            return Ok(());
        }
        let (client, shares, cluster) = (Arc::clone(&self.client), shares.to_vec(), self.cluster.clone());
        let sent = blocking("offsets", move || {
            shares.iter().try_for_each(|share| send_offsets(&client, share, cluster.as_deref()))
        });
        sent.await.map_err(no_thread)??;
        self.has_offsets = true;
        Ok(())
    }

    fn begin(&mut self) -> Result<(), SinkError> {
        if !self.is_open {
            let begun = self.client.producer.begin_transaction();
            begun.map_err(|error| given_up(self.client.failed("begin a transaction of", &error)))?;
            self.is_open = true;
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for Transactions {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.begin()?;
        self.client.send(&self.topic, &mut self.messages, rows).await.map_err(given_up)
    }

    async fn prepare(&mut self, _: u64) -> Result<Receipt, SinkError> {
        let client = Arc::clone(&self.client);
        match blocking("flush", move || flush(&client)).await.map_err(no_thread)? {
            Ok(()) => Ok(Receipt::default()),
            // Still on their way: they may be waited for some more.
            Err(error) if self.client.check().is_ok() => Err(error),
            Err(error) => Err(given_up(error)),
        }
    }

    async fn commit(&mut self, _: u64, _: &Receipt) -> Result<(), SinkError> {
        Ok(())
    }

    async fn decide(&mut self, decision: &Decision, shares: &[Share]) -> Result<(), SinkError> {
        self.begin()?;
        self.commit_with(shares).await?;
        if self.noted.as_ref() != Some(decision) {
            let note = serde_json::to_string(decision).unwrap_or_default();
            note_progress(&self.client, &self.progress_topic, &self.id, &note).map_err(given_up)?;
            self.noted = Some(decision.clone());
        }
        let client = Arc::clone(&self.client);
        let committed = blocking("commit", move || {
            flush(&client).map_err(given_up)?;
            // Without a bound of its own: the library keeps to that of the transaction, and any other leaves it not
            // knowing where it stands.
            client.producer.commit_transaction(None).map_err(|error| commit_error("commit the transaction", &error))
        });
        committed.await.map_err(no_thread)??;
        for share in shares {
            if let Some(member) = share.membership.downcast_ref::<Member>() {
                member.committed(&share.position);
            }
        }
        self.is_open = false;
        self.noted = None;
        self.has_offsets = false;
        Ok(())
    }
}

/// Puts how far a share was read into the open transaction. Blocks.
fn send_offsets(client: &Client, share: &Share, cluster: Option<&str>) -> Result<(), SinkError> {
    let Ok(member) = Arc::clone(&share.membership).downcast::<Member>() else {
        return Err(SinkError::new(ErrorKind::Config, "the shared source is none of Kafka"));
    };
    if member.cluster.as_deref() != cluster {
        let message =
            "the shared source is of another cluster, whose offsets cannot be committed together with rows of this one";
        return Err(SinkError::new(ErrorKind::Config, message));
    }
    let claim = match member.claim(&share.position) {
        Ok(claim) => claim,
        Err(ClaimError::Lost(reason)) => return Err(SinkError::undecided(ErrorKind::Conflict, reason)),
        Err(ClaimError::Unanswered(reason)) => {
            let message = format!("cannot see what the group has committed: {reason}");
            return Err(SinkError::new(ErrorKind::Transient, message));
        }
    };
    let Some(claim) = claim else { return Ok(()) };
    let sent = client.producer.send_offsets_to_transaction(&claim.offsets, &claim.metadata, OFFSETS_TIMEOUT);
    sent.map_err(|error| commit_error("commit how far was read", &error))
}

/// What an error at the end of a transaction means: either the same call may be made again, or nobody knows.
fn commit_error(doing: &str, error: &KafkaError) -> SinkError {
    let (kind, text) = (kind_of(error), format!("cannot {doing}: {}", text_of(error)));
    match error {
        KafkaError::Transaction(error) if error.is_retriable() && !error.is_fatal() && !error.txn_requires_abort() => {
            SinkError::new(ErrorKind::Transient, text)
        }
        _ => SinkError::undecided(kind, text),
    }
}

impl Drop for Transactions {
    /// An open transaction stands in the way of readers until the brokers give up on it.
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        let client = Arc::clone(&self.client);
        let (done, waits) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("kafka-abort".to_owned()).spawn(move || {
            // What does not work out now is done by the next start, or by the brokers.
            if let Err(error) = client.producer.abort_transaction(ABORT_TIMEOUT) {
                tracing::debug!(%error, "an open transaction could not be aborted");
            }
            let _ = done.send(());
        });
        if thread.is_ok() {
            let _ = waits.recv_timeout(ABORT_TIMEOUT);
        }
    }
}
