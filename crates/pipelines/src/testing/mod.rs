//! Runs pipelines without the outside world: sources, sinks and checkpoints in memory, simulated time,
//! and every task under the control of a seed.

pub mod memory;
pub mod schedule;

#[cfg(test)]
mod simulation;
