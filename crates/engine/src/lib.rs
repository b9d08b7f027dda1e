//! Runs pipelines: tasks, the lanes between them, event time, checkpoints, and what is delivered once.
//!
//! A plan ([`Plan`]) is a graph of checked components. It becomes a [`Job`]: one task for each source and
//! sink, and for each run of steps as many instances as the plan wants. A task is a state machine
//! that does one thing at a time (`turn`); [`run`] gives each a Tokio task, and the simulator of the
//! tests calls them one by one in an order drawn from a seed. Both run the same code.
//!
//! Invariants:
//! - A checkpoint is a consistent cut: a barrier flows from every source through every lane, and a
//!   task with several inputs waits until it has come through all of them.
//! - The manifest of an epoch is written once, after everything it names is durable. It is the decision:
//!   before it, recovery goes back to the epoch before; after it, sinks commit, again if need be. In a
//!   pipeline with a sink that decides it is a proposal, and the decision is that sink's commit.
//! - Whether a row is late depends on its own partition only ([`time`]).
//! - Nothing here reads a clock, a disk or the network but through what it is given.

mod align;
mod aside;
mod board;
mod breaker;
mod build;
mod chain;
mod check;
mod coordinator;
mod decision;
mod error;
mod idleness;
mod insight;
mod job;
mod kept;
mod lane;
mod manifest;
#[cfg(test)]
mod memory;
mod moments;
mod outbox;
mod outbox_task;
mod pace;
mod patience;
mod plan;
mod recovery;
mod replay;
mod run;
mod savepoint;
mod sink_end;
mod sink_task;
mod sink_work;
mod source_task;
mod states;
mod stats;
mod steps;
mod tap;
mod time;
mod whose;
mod writing;

pub use aside::aside_schema;
pub use breaker::{BreakerOptions, Circuit, CircuitView, Seen};
pub use error::JobError;
pub use insight::{Blocked, Held, PartitionView, SaidOfSource, SourceView};
pub use job::{End, Job, JobOptions, Opening, Replays};
pub use manifest::Manifest;
pub use pace::LONGEST_INTERVAL;
pub use plan::{Input, Plan, PlanAside, PlanSink, PlanSource, PlanStep};
pub use recovery::replayed;
pub use replay::{Letter, REPLAY_ID, replay_schema};
pub use run::{Control, keep, run};
pub use savepoint::{Saved, Since, begin_at, restore_savepoint, saved, savepoint, since};
pub use stats::{NodeStats, Progress};
pub use steps::{Stepped, Steps};
pub use tap::{Listening, Tap};
pub use whose::{Whose, pipeline_fields};
