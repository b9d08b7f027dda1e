//! Dead letters: rows that failed, by an id each, and what has become of them since.
//!
//! The rows themselves are in a stream of the tenant, or in a file beside a pipeline that runs by itself, and stay as they
//! were written. An id ([`LetterId`]) is given where they are written ([`identified`]). What has been done with them
//! is kept beside: which were run again and which are not to be seen any more ([`book`]), and which are
//! waiting to be run again ([`queue`]). The pipeline reads these as a source ([`source`]), at whose position in a
//! checkpoint a row has been run again, once.
//!
//! Invariant: a letter is in the queue or noted as run again from the moment somebody has asked for it, and never
//! twice in the queue; so it is run again at most once, and exactly once if the pipeline runs on.

pub mod book;
pub mod identified;
pub mod queue;
pub mod source;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a dead letter: the start of the pipeline that wrote it, and its number among those of that start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// A random number.
    pub start: u64,
    /// From 1.
    pub number: u64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}-{}", self.start, self.number)
    }
}

impl LetterId {
    /// The id as it is written.
    pub fn parse(text: &str) -> Option<Self> {
        let (start, number) = text.split_once('-')?;
        let id = Self { start: u64::from_str_radix(start, 16).ok()?, number: number.parse().ok()? };
        (id.to_string() == text).then_some(id)
    }
}

/// Letters, as ranges of numbers: those of a start are mostly dealt with together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LetterSet {
    /// By start, as it is written in ids: the first and last number of each range, in order and apart.
    starts: BTreeMap<String, Vec<(u64, u64)>>,
}

impl LetterSet {
    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Whether a letter is in it.
    pub fn contains(&self, id: LetterId) -> bool {
        let Some(ranges) = self.starts.get(&format!("{:016x}", id.start)) else { return false };
        let at = ranges.partition_point(|(_, last)| *last < id.number);
        ranges.get(at).is_some_and(|(first, _)| *first <= id.number)
    }

    /// Adds a letter.
    pub fn insert(&mut self, id: LetterId) {
        let ranges = self.starts.entry(format!("{:016x}", id.start)).or_default();
        let number = id.number;
        // The first range that ends at the number before it or later: all others are left of it and apart.
        let at = ranges.partition_point(|(_, last)| last.saturating_add(1) < number);
        match ranges.get_mut(at) {
            Some((first, last)) if *first <= number.saturating_add(1) => {
                *first = number.min(*first);
                *last = number.max(*last);
                if let (Some((_, last)), Some((next, end))) = (ranges.get(at), ranges.get(at + 1))
                    && last.saturating_add(1) >= *next
                {
                    let end = *end;
                    ranges.remove(at + 1);
                    ranges[at].1 = end;
                }
            }
            _ => ranges.insert(at, (number, number)),
        }
    }
}

impl Extend<LetterId> for LetterSet {
    fn extend<T: IntoIterator<Item = LetterId>>(&mut self, ids: T) {
        ids.into_iter().for_each(|id| self.insert(id));
    }
}

#[cfg(test)]
mod tests;
