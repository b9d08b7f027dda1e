//! Counters of a job, for people and metrics. They are not part of checkpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::breaker::CircuitView;
use crate::insight::{Blocked, Held, SaidOfSource};
use crate::tap::Tap;

/// Counters of one source, step or sink, over all its instances.
#[derive(Debug, Default)]
pub struct NodeStats {
    /// Rows that came in; of a source, rows read. Rows of tables are not among them.
    pub rows_in: AtomicU64,
    /// Of a table: rows read of all its versions.
    pub table_rows: AtomicU64,
    /// Rows that went out; of a sink, rows written.
    pub rows_out: AtomicU64,
    /// Batches that came in.
    pub batches: AtomicU64,
    /// Bytes a source was read from.
    pub bytes: AtomicU64,
    /// Rows that were too late.
    pub late: AtomicU64,
    /// Rows that can never succeed.
    pub dead: AtomicU64,
    /// Failures that were tried again.
    pub retries: AtomicU64,
    /// Nanoseconds of work.
    pub busy_ns: AtomicU64,
    /// Bytes of state.
    pub state_bytes: AtomicU64,
    /// How often it was asked for its part of a checkpoint.
    pub snapshots: AtomicU64,
    /// How long it stood still for the last of them, in nanoseconds; of several instances, one of them.
    pub snapshot_ns: AtomicU64,
    /// The watermark, in nanoseconds since 1970; the smallest number while there is none.
    pub watermark: AtomicI64,
    /// How long it could not work because what comes after it was full.
    pub blocked: Blocked,
    /// What the state of a step holds.
    pub held: Held,
    /// What a source says of its partitions.
    pub source: SaidOfSource,
    /// Of a sink: whether it is tried at the moment.
    pub circuit: CircuitView,
    /// The rows that go out of it; of a sink, those that came in.
    pub tap: Tap,
}

impl NodeStats {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { watermark: AtomicI64::new(i64::MIN), ..Self::default() })
    }

    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// The value of a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// What can be seen of a job while it runs and afterwards.
#[derive(Debug, Default)]
pub struct Progress {
    /// Sources by id, in the order of the plan.
    pub sources: Vec<(String, Arc<NodeStats>)>,
    /// Steps by id.
    pub steps: Vec<(String, Arc<NodeStats>)>,
    /// Sinks by id.
    pub sinks: Vec<(String, Arc<NodeStats>)>,
    /// Rows that were run again.
    pub replayed: AtomicU64,
    /// The newest epoch that was committed.
    pub epoch: AtomicU64,
    /// How long barriers took through the whole graph, in nanoseconds, the last one.
    pub checkpoint_ns: AtomicU64,
    /// Bytes of state in the last checkpoint, also of what was not written again.
    pub checkpoint_bytes: AtomicU64,
}

impl Progress {
    /// Rows that were too late, over all steps.
    pub fn late(&self) -> u64 {
        self.steps.iter().map(|(_, stats)| NodeStats::get(&stats.late)).sum()
    }

    /// Rows that can never succeed, over all sources and steps.
    pub fn dead(&self) -> u64 {
        let all = self.sources.iter().chain(&self.steps).chain(&self.sinks);
        all.map(|(_, stats)| NodeStats::get(&stats.dead)).sum()
    }
}
