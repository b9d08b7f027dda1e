//! Pipelines: as people describe them, as they are planned, and tried out.
//!
//! [`document`] reads a description and checks it against the tables of components it is given; it
//! knows no component by name. [`sql`] makes steps of the query in a document. [`plan`](mod@plan) checks all
//! steps against what they will really get. [`reference`] lists all components. [`testing`] runs plans without
//! the outside world, [`ends`] is where they run with it. [`letters`] is what becomes of dead letters, for whom tables are read again ([`refreshes`]).

pub mod document;
mod doubt;
pub mod ends;
mod graph;
mod keyed;
pub mod letters;
pub mod plan;
pub mod reference;
pub mod refreshes;
pub mod sql;
pub mod streams;
mod tables;
pub mod testing;
