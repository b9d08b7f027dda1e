//! A log with transactions in memory, as far as Kafka's matter to what is delivered once: producers with
//! epochs, of which a later one fences the earlier; rows that are seen once the transaction they were written in
//! is committed, and none beyond the first of an open one; a broker that gives up on transactions; and
//! commits whose answer is lost.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use parking_lot::Mutex;
use weir_base::ErrorKind;
use weir_component::sink::{
    Decider, Decision, Delivery, Opening, Owner, PlannedSink, Receipt, Sink, SinkError, TakenOver,
};
use weir_component::source::Share;

/// What goes wrong at a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// Nothing is committed, and the answer is lost.
    Lost,
    /// It is committed, and the answer is lost.
    AnswerLost,
    /// Nothing is done yet; the same call may be made again.
    Again,
    /// The broker gave up on the transaction before.
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    Committed,
    Aborted,
}

#[derive(Debug)]
enum Record {
    Rows(RecordBatch),
    Decision(Decision),
    Owner(String),
}

#[derive(Debug, Default)]
struct State {
    /// Every record with its transaction, in the order they were written.
    records: Vec<(usize, Record)>,
    transactions: Vec<Outcome>,
    /// The producer that may write, and its open transaction.
    epoch: u64,
    open: Option<usize>,
    faults: VecDeque<Option<CommitFault>>,
}

/// The log.
#[derive(Debug, Default)]
pub struct TransactionLog {
    state: Mutex<State>,
}

fn fenced() -> SinkError {
    SinkError::undecided(ErrorKind::Conflict, "the producer was fenced")
}

impl State {
    /// The records that can be seen: committed, and before the first of an open transaction.
    fn visible(&self) -> impl Iterator<Item = &Record> {
        let stable =
            self.records.iter().take_while(|(transaction, _)| self.transactions[*transaction] != Outcome::Open);
        stable
            .filter(|(transaction, _)| self.transactions[*transaction] == Outcome::Committed)
            .map(|(_, record)| record)
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(open) = self.open.take() {
            self.transactions[open] = outcome;
        }
    }

    fn write(&mut self, epoch: u64, record: Record) -> Result<(), SinkError> {
        if epoch != self.epoch {
            return Err(fenced());
        }
        let open = *self.open.get_or_insert_with(|| {
            self.transactions.push(Outcome::Open);
            self.transactions.len() - 1
        });
        self.records.push((open, record));
        Ok(())
    }
}

impl TransactionLog {
    /// All rows that can be seen.
    pub fn rows(&self) -> Vec<RecordBatch> {
        let state = self.state.lock();
        let rows = state.visible().filter_map(|record| match record {
            Record::Rows(rows) => Some(rows.clone()),
            _ => None,
        });
        rows.collect()
    }

    /// Whether a transaction is open, beyond which nothing can be seen.
    pub fn is_open(&self) -> bool {
        self.state.lock().open.is_some()
    }

    /// What goes wrong at the next commits.
    pub fn fail(&self, faults: impl IntoIterator<Item = Option<CommitFault>>) {
        self.state.lock().faults = faults.into_iter().collect();
    }

    /// The broker gives up on the open transaction, as it does after a time, and on its producer.
    pub fn time_out(&self) {
        let mut state = self.state.lock();
        if state.open.is_some() {
            state.end(Outcome::Aborted);
            state.epoch += 1;
        }
    }

    /// Everything that was decided is lost.
    pub fn forget(&self) {
        self.state.lock().records.retain(|(_, record)| matches!(record, Record::Rows(_)));
    }
}

/// A log with transactions, as the sink of a plan that decides.
#[derive(Clone, Debug, Default)]
pub struct TransactionSink(pub Arc<TransactionLog>);

#[async_trait]
impl PlannedSink for TransactionSink {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn open(&self, _: SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        Err(SinkError::new(ErrorKind::Internal, "it has to be taken over"))
    }

    fn describe(&self) -> String {
        "a log with transactions in memory".to_owned()
    }

    fn decider(&self) -> Option<&dyn Decider> {
        Some(self)
    }
}

#[async_trait]
impl Decider for TransactionSink {
    async fn take_over(&self, owner: Owner) -> Result<Box<dyn TakenOver>, SinkError> {
        let mut state = self.0.state.lock();
        let last = state.visible().filter_map(|record| match record {
            Record::Owner(writer) => Some(writer),
            _ => None,
        });
        if last.last().is_some_and(|writer| !owner.may_follow(writer)) {
            return Err(SinkError::new(ErrorKind::Conflict, "another process has taken over"));
        }
        state.end(Outcome::Aborted);
        state.epoch += 1;
        let epoch = state.epoch;
        state.write(epoch, Record::Owner(owner.writer))?;
        state.end(Outcome::Committed);
        if state.faults.pop_front().flatten() == Some(CommitFault::Lost) {
            return Err(SinkError::new(ErrorKind::Transient, "the broker did not answer"));
        }
        let decided = state.visible().filter_map(|record| match record {
            Record::Decision(decision) => Some(decision.clone()),
            _ => None,
        });
        let decided = decided.last();
        Ok(Box::new(Producer { log: Arc::clone(&self.0), epoch, decided }))
    }
}

struct Producer {
    log: Arc<TransactionLog>,
    epoch: u64,
    decided: Option<Decision>,
}

#[async_trait]
impl TakenOver for Producer {
    fn decided(&self) -> Option<&Decision> {
        self.decided.as_ref()
    }

    async fn open(self: Box<Self>, _: SchemaRef, _: Opening) -> Result<Box<dyn Sink>, SinkError> {
        Ok(self)
    }
}

#[async_trait]
impl Sink for Producer {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        self.log.state.lock().write(self.epoch, Record::Rows(rows.clone()))
    }

    async fn prepare(&mut self, _: u64) -> Result<Receipt, SinkError> {
        Ok(Receipt::default())
    }

    async fn commit(&mut self, _: u64, _: &Receipt) -> Result<(), SinkError> {
        Ok(())
    }

    async fn decide(&mut self, decision: &Decision, _: &[Share]) -> Result<(), SinkError> {
        let mut state = self.log.state.lock();
        let fault = state.faults.pop_front().flatten();
        if fault == Some(CommitFault::Again) {
            return Err(SinkError::new(ErrorKind::Transient, "the broker is busy"));
        }
        if fault == Some(CommitFault::TimedOut) && state.epoch == self.epoch {
            state.end(Outcome::Aborted);
            state.epoch += 1;
        }
        state.write(self.epoch, Record::Decision(decision.clone()))?;
        if fault == Some(CommitFault::Lost) {
            return Err(SinkError::undecided(ErrorKind::Transient, "the broker did not answer"));
        }
        state.end(Outcome::Committed);
        match fault {
            Some(CommitFault::AnswerLost) => {
                Err(SinkError::undecided(ErrorKind::Transient, "the broker did not answer"))
            }
            _ => Ok(()),
        }
    }
}
