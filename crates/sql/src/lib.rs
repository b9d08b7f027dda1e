//! SQL over one tenant's tables: parsing, planning and running queries with DataFusion, predicates
//! for live tails, and encoders for the answers.
//!
//! DataFusion is an embedded engine, not an authorisation boundary. Isolation here comes from
//! absence: a session is built for one request of one tenant and contains that tenant's tables and
//! an allow list of functions; there is no file system, no other catalogue, no setting and no
//! statement but a query in it. Cost is bounded before planning (`gate`), after planning
//! (`plan_gate`) and while running (memory, time, rows, bytes, concurrency).
//!
//! This is the only crate that names DataFusion; none of its types is in the public signatures.

mod aggregates;
mod arithmetic;
mod attributes;
mod blocks;
mod budget;
mod catalog;
mod compacting;
mod engine;
mod environment;
mod error;
mod expiring;
pub mod expressions;
mod filter;
mod functions;
mod gate;
mod grouping;
mod hidden;
mod joining;
mod lanes;
mod latest;
pub mod output;
mod plan_gate;
mod promoted;
mod result;
mod scan;
mod store_tables;
pub mod streaming;
pub mod tables;

pub use engine::{QueryEngine, QueryLimits, QueryOptions, QueryRequest};
pub use error::{SqlError, TextPosition, nearest};
pub use filter::RowFilter;
pub use gate::SQL_BYTES_MAX;
pub use hidden::{HiddenRows, Hides};
pub use result::{QueryResult, QueryStats};
