//! Rows: the streams Weir knows, their columns, and how open-ended attributes are kept.
//!
//! A batch is an Arrow [`RecordBatch`](arrow::record_batch::RecordBatch) whose columns are a subset
//! of its stream's schema, in schema order: a column that would be all null is left out.
//! [`batch::conform`] puts such columns back.

pub mod attributes;
pub mod batch;
pub mod defined;
pub mod json;
pub mod json_rows;
pub mod reject;
pub mod streams;

pub use reject::{Reject, RejectCode};
