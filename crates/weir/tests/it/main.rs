//! The program from outside: as it is started, killed, and asked on the command line.
#![allow(clippy::unwrap_used, reason = "tests")]

mod generate;
mod log;
mod pipelines;
mod program;
mod queries;
mod run_sinks;
mod run_state;
mod serve;
mod served_changes;
mod served_deadletters;
mod served_latency;
mod served_lookups;
mod served_otlp;
mod served_pipelines;
mod served_revised;
mod served_savepoints;
mod served_sinks;
mod served_streams;
mod sessions;
