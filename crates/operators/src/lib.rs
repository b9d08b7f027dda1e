//! The steps of pipelines: what happens to rows between source and sink.
//!
//! Each step is one module and one line in [`STEPS`]. A step is checked against the columns it will get
//! before anything runs; what comes out of the check makes as many instances as the engine wants.
//!
//! Invariant: the rows a step puts out depend on the rows it gets and on nothing else: not on how
//! they are cut into batches, not on the order in which rows of different keys come.

mod by;
mod clock;
mod columns;
mod dedupe;
mod explode;
mod failing;
mod filter;
mod join;
mod keys;
mod late;
mod limit;
mod lookup;
mod route;
mod set;
mod sorted;
mod step;
mod template;
mod top;
mod union;
mod window;

pub use step::{Expressions, Read, StepContext, StepSpec};

/// Every step there is.
pub const STEPS: &[StepSpec] = &[
    filter::SPEC,
    set::SPEC,
    columns::DROP,
    columns::KEEP,
    columns::RENAME,
    explode::SPEC,
    route::SPEC,
    union::SPEC,
    join::SPEC,
    lookup::SPEC,
    limit::SPEC,
    dedupe::SPEC,
    top::SPEC,
    window::SPEC,
];

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
