//! Pipelines as people describe them.
//!
//! [`document`] reads a description and checks it against the tables of components it is given. It
//! knows no component by name, plans nothing and starts nothing. [`sql`] makes steps of the query in a
//! document.

pub mod document;
pub mod sql;
