//! Sources and sinks that need no heavy client: files, a generator, the console, OTLP, and nothing at all;
//! streams of Weir, as far as the pipeline is given any; and a folder as the store of checkpoints.
//!
//! Each is one folder and one line in [`SOURCES`] or [`SINKS`], from which reference pages, schemas,
//! the list of components and the contract tests follow.

pub mod checkpoints;
pub mod config;
pub mod console;
pub mod discard;
pub mod file;
pub mod generator;
pub mod otlp;
pub mod stream;

use weir_component::spec::{SinkSpec, SourceSpec};

/// The sources of this crate.
pub const SOURCES: &[SourceSpec] = &[file::source::SPEC, generator::SPEC, stream::SOURCE];

/// What can be read as a whole, as a table rows are looked up in.
pub const TABLES: &[SourceSpec] = &[file::source::SPEC, stream::TABLE];

/// The sinks of this crate.
pub const SINKS: &[SinkSpec] = &[console::SPEC, discard::SPEC, file::sink::SPEC, otlp::SPEC, stream::SINK];

/// What a future gives that waits for nothing, as those of files do.
#[cfg(test)]
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits for something"),
    }
}
