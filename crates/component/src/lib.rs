//! The contracts between the engine and what it runs: sources, operators, sinks, the store of
//! checkpoints, and the table entry (`Spec`) that describes a component.
//!
//! The engine owns the loops, timers, retries, checkpoints and metrics. A component is a small state
//! machine that is easy to test without the engine. Operators are synchronous and touch nothing
//! outside themselves; sources and sinks are asynchronous, because they stand at the edge.
//!
//! What is deliberately not here: anything that does something.

pub mod batch;
pub mod checkpoint;
pub mod operator;
pub mod revision;
pub mod sink;
pub mod source;
pub mod spec;
pub mod streams;
pub mod table;

pub use batch::Batch;
