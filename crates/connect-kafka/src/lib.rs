//! Apache Kafka as source and sink of pipelines, by way of librdkafka.
//!
//! Both are ordinary components: one line each in [`SOURCES`] and [`SINKS`]. Calls of librdkafka that block
//! run on threads of their own ([`client::blocking`]), so that no thread of the runtime waits for a broker.
//!
//! A pipeline of one process reads all partitions of its topics itself, from the places its checkpoint names; the
//! offsets it commits to its group are for people to look at. One that is shared (`source::group`) is a member of the
//! group, and the offsets are what counts.

mod client;
pub mod sink;
pub mod source;

use weir_component::spec::{SinkSpec, SourceSpec};

/// The sources of this crate.
pub const SOURCES: &[SourceSpec] = &[source::SPEC];

/// The sinks of this crate.
pub const SINKS: &[SinkSpec] = &[sink::SPEC];
