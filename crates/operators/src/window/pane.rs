//! The rows of a pane, aggregated: what came lately, and sealed parts of what came before.
//!
//! A checkpoint seals what came since the last one and shares it, so the step stands still as long as that takes and no
//! longer. Parts become one little by little, with every batch of rows.

use std::ops::Range;

use arrow::array::RecordBatch;
use weir_component::batch::bytes_of;
use weir_component::operator::OperatorError;
use weir_sql::expressions::{Aggregation, Arguments, Groups};

use crate::failing::fatal;

/// Sealed parts of a pane are merged when there are so many.
const SEALED_MAX: usize = 8;
/// So many groups are merged with each batch of rows: about a millisecond's work.
const MERGED_WITH_BATCH: usize = 32 * 1024;

/// The rows of a pane, aggregated.
#[derive(Default)]
pub(super) struct Pane {
    /// What was sealed for checkpoints, or for windows that overlap; never changed.
    pub(super) sealed: Vec<RecordBatch>,
    /// What came since.
    pub(super) open: Option<Groups>,
    merging: Option<Merging>,
}

/// Sealed parts on their way to become one.
struct Merging {
    /// Which of them.
    parts: Range<usize>,
    /// What was taken in of them.
    groups: Groups,
    /// What is taken in next: a part, and a group in it.
    part: usize,
    group: usize,
}

impl Pane {
    /// A pane with one sealed part.
    pub(super) fn of(sealed: RecordBatch) -> Self {
        Self { sealed: vec![sealed], ..Self::default() }
    }

    /// Adds rows.
    pub(super) fn update(&mut self, aggregation: &Aggregation, arguments: &Arguments) -> Result<(), OperatorError> {
        let groups = match &mut self.open {
            Some(groups) => groups,
            open => open.insert(aggregation.groups().map_err(|error| fatal(&error))?),
        };
        groups.update(arguments).map_err(|error| fatal(&error))
    }

    /// Makes a part of what came since the last time.
    pub(super) fn seal(&mut self) -> Result<(), OperatorError> {
        if let Some(mut groups) = self.open.take()
            && !groups.is_empty()
        {
            self.sealed.push(groups.take_state().map_err(|error| fatal(&error))?);
        }
        Ok(())
    }

    /// Whether [`Pane::merge`] has something to do.
    pub(super) fn is_merging(&self) -> bool {
        self.merging.is_some() || self.sealed.len() >= SEALED_MAX
    }

    /// Merges a piece of the parts there are too many of.
    pub(super) fn merge(&mut self, aggregation: &Aggregation) -> Result<(), OperatorError> {
        let merging = match &mut self.merging {
            Some(merging) => merging,
            merging => {
                let from = mergeable(&self.sealed);
                let groups = aggregation.groups().map_err(|error| fatal(&error))?;
                merging.insert(Merging { parts: from..self.sealed.len(), groups, part: from, group: 0 })
            }
        };
        let mut left = MERGED_WITH_BATCH;
        while left > 0 && merging.part < merging.parts.end {
            let part = &self.sealed[merging.part];
            let n_groups = left.min(part.num_rows() - merging.group);
            merging.groups.merge(&part.slice(merging.group, n_groups)).map_err(|error| fatal(&error))?;
            (left, merging.group) = (left - n_groups, merging.group + n_groups);
            if merging.group == part.num_rows() {
                (merging.part, merging.group) = (merging.part + 1, 0);
            }
        }
        if merging.part == merging.parts.end {
            let merged = merging.groups.take_state().map_err(|error| fatal(&error))?;
            self.sealed.splice(merging.parts.clone(), [merged]);
            self.merging = None;
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        self.sealed.iter().map(bytes_of).sum::<usize>()
            + self.open.as_ref().map_or(0, Groups::bytes)
            + self.merging.as_ref().map_or(0, |merging| merging.groups.bytes())
    }
}

/// The first of the parts that are merged: a large one is left alone as long as those after it are small, so that none is
/// merged over and over. At least two are merged.
fn mergeable(parts: &[RecordBatch]) -> usize {
    let (mut from, mut n_groups) = (parts.len(), 0);
    for (at, part) in parts.iter().enumerate().rev() {
        if parts.len() - at > 2 && part.num_rows() > 2 * n_groups {
            break;
        }
        n_groups += part.num_rows();
        from = at;
    }
    from
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn parts(sizes: &[i64]) -> Vec<RecordBatch> {
        let part = |size: &i64| {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..*size));
            RecordBatch::try_from_iter([("k", column)]).unwrap()
        };
        sizes.iter().map(part).collect()
    }

    #[test]
    fn a_large_part_waits_until_the_small_ones_are_worth_it() {
        assert_eq!(mergeable(&parts(&[1000, 1, 1, 1, 1, 1, 1, 1])), 1);
        assert_eq!(mergeable(&parts(&[10, 1, 1, 1, 1, 1, 1, 1])), 0);
        assert_eq!(mergeable(&parts(&[10, 10, 10, 10, 10, 10, 10, 10])), 0);
        // Sizes that fall by more than half at each step would never be merged.
        assert_eq!(mergeable(&parts(&[2187, 729, 243, 81, 27, 9, 3, 1])), 6);
    }
}
