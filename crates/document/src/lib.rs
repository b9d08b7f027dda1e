//! Documents people write: YAML, TOML or JSON read into a tree in which every part has its place, and
//! checked against a shape that is made from a JSON schema, with all problems at once.
//!
//! The server's configuration and the description of a pipeline are read with this. What is
//! deliberately not here: what any document means, and which settings there are.

pub mod check;
pub mod fill;
mod formats;
mod hints;
pub mod inside;
mod json_schema;
pub mod read;
pub mod shape;
mod shape_of;
mod toml;
pub mod tree;
mod yaml;

pub use check::{Checked, Schema};
pub use fill::{Fills, NoFills, ProcessFills};
pub use read::Syntax;
pub use tree::{Key, Node, Parsed, Place, Problem, Value};
