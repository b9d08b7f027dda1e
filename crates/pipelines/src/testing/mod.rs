//! Runs pipelines without the outside world: sources, sinks and checkpoints in memory, simulated time,
//! and every task under the control of a seed.

pub mod file;
pub mod memory;
pub mod runner;
pub mod schedule;
pub mod table;
pub mod transactions;

#[cfg(test)]
mod refused;
#[cfg(test)]
mod silent_inputs;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod two_inputs;
