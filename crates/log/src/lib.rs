//! The embedded log: the durable record of every stream. Appending to it is what "accepted" means.
//!
//! One shard is a sequence of segment files; a commit is one block, written and fdatasynced before
//! anyone sees it. See `types` for the contract towards the rest of Weir.

mod types;

pub use types::{
    Append, AppendPart, Appended, Commit, Damage, Durability, PartOutcome, Position, ProducerSequence, Record,
    Subscriber,
};
