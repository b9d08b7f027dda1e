//! Rows of one side of a join that are in no index yet, batch by batch.
//!
//! An index over rows costs many times what it costs to look at them once or twice, and a row nobody asks for needs
//! none at all. So rows are put on a pile first. Few rows that ask are compared with all of a batch by a hash of the
//! keys; a batch that many rows ask for goes into the index. A stream that is joined with the results of its own
//! windows, a row for some ten thousand, stays on the pile.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use weir_component::Batch;
use weir_component::operator::OperatorError;
use weir_sql::expressions::key_hashes;

use crate::failing::fatal;
use crate::keys::KeyTable;

/// So often a row is compared before it goes into the index, which costs about as much.
const COMPARED_MAX: usize = 64;
/// What it costs to look at a batch however small, in rows that are compared.
const LOOK: usize = 64;
/// So many hashes are compared at a time.
const CHUNK: usize = 64;

/// How far before and after a row one of the other side may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) before: i64,
    pub(super) after: i64,
}

impl Reach {
    /// The first and last time at which there may be something for these times.
    pub(super) fn of(self, first: i64, last: i64) -> (i64, i64) {
        (first.saturating_sub(self.before), last.saturating_add(self.after))
    }
}

/// Rows with their keys.
pub(super) struct Piled {
    pub(super) batch: Batch,
    pub(super) keys: Vec<ArrayRef>,
    /// The rows as they are in a state, if that never changes.
    pub(super) state: Option<RecordBatch>,
    /// The first and the last of the times.
    first: i64,
    last: i64,
    bytes: usize,
    /// A part of a hash of the keys; empty until somebody asks.
    hashes: Vec<u32>,
    n_compared: usize,
}

impl Piled {
    pub(super) fn new(batch: Batch, keys: Vec<ArrayRef>, state: Option<RecordBatch>) -> Self {
        let batch = Batch { watermarks: None, ..batch };
        let (first, last) = batch.times.iter().fold((i64::MAX, i64::MIN), |(first, last), time| {
            // A loop without branches, for many times.
            (first.min(*time), last.max(*time))
        });
        // Keys that are columns take no memory of their own.
        let is_computed = |key: &&ArrayRef| !batch.rows.columns().iter().any(|column| Arc::ptr_eq(column, key));
        let of_keys: usize = keys.iter().filter(is_computed).map(|key| key.get_array_memory_size()).sum();
        let bytes = batch.bytes() + of_keys;
        Self { bytes, batch, keys, state, first, last, hashes: Vec::new(), n_compared: 0 }
    }

    /// The first and last time at which there may be something for one of the rows.
    pub(super) fn reach(&self, reach: Reach) -> (i64, i64) {
        reach.of(self.first, self.last)
    }

    fn hash(&mut self) -> Result<(), OperatorError> {
        if self.hashes.is_empty() {
            let hashes = key_hashes(&self.keys, self.batch.len()).map_err(|error| fatal(&error))?;
            #[expect(clippy::cast_possible_truncation, reason = "a part of it is enough")]
            self.hashes.extend(hashes.into_iter().map(|hash| hash as u32));
        }
        Ok(())
    }

    fn has_key(&self, row: usize) -> bool {
        self.keys.iter().all(|key| key.is_valid(row))
    }

    /// The rows with the same keys as these that ask, and near enough: pairs of a row of `asking` and one of these.
    pub(super) fn find(
        &mut self,
        asking: &mut Self,
        reach: Reach,
        key_schema: &SchemaRef,
    ) -> Result<Vec<(u32, u32)>, OperatorError> {
        self.hash()?;
        asking.hash()?;
        let mut candidates = Vec::new();
        for (row, hash) in (0_u32..).zip(&asking.hashes) {
            let time = asking.batch.times[row as usize];
            let (first, last) = reach.of(time, time);
            if last < self.first || first > self.last || !asking.has_key(row as usize) {
                continue;
            }
            for (at, chunk) in self.hashes.chunks(CHUNK).enumerate() {
                if !chunk.iter().fold(false, |found, known| found | (known == hash)) {
                    continue;
                }
                for (place, _) in (at * CHUNK..).zip(chunk).filter(|(_, known)| *known == hash) {
                    let other = self.batch.times[place];
                    if other >= first && other <= last && self.has_key(place) {
                        candidates.push((row, u32::try_from(place).unwrap_or(u32::MAX)));
                    }
                }
            }
        }
        if candidates.is_empty() {
            return Ok(candidates);
        }
        // The same hash is not yet the same key.
        let mut table = KeyTable::new(SchemaRef::clone(key_schema))?;
        let mut of = |keys: &[ArrayRef], rows: UInt32Array| {
            let keys: Result<Vec<ArrayRef>, _> = keys.iter().map(|key| take(key, &rows, None)).collect();
            let mut numbers = Vec::new();
            table.numbers(&keys.map_err(OperatorError::internal)?, rows.len(), &mut numbers)?;
            Ok::<_, OperatorError>(numbers)
        };
        let asked = of(&asking.keys, candidates.iter().map(|(row, _)| *row).collect())?;
        let known = of(&self.keys, candidates.iter().map(|(_, place)| *place).collect())?;
        let mut is_same = asked.iter().zip(&known).map(|(asked, known)| asked == known);
        candidates.retain(|_| is_same.next() == Some(true));
        Ok(candidates)
    }
}

/// The batches of one side that are in no index.
#[derive(Default)]
pub(super) struct Pile {
    batches: VecDeque<Piled>,
    n_rows: usize,
    bytes: usize,
}

impl Pile {
    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.n_rows
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, piled: Piled) {
        if !piled.batch.is_empty() {
            self.n_rows += piled.batch.len();
            self.bytes += piled.bytes;
            self.batches.push_back(piled);
        }
    }

    /// So many rows ask for what is between two times. Takes out the batches that are better put into an index.
    pub(super) fn ask(&mut self, n_asking: usize, first: i64, last: i64) -> Vec<Piled> {
        let mut often = Vec::new();
        for at in (0..self.batches.len()).rev() {
            let piled = &mut self.batches[at];
            if piled.first > last || piled.last < first {
                continue;
            }
            piled.n_compared = piled.n_compared.saturating_add(n_asking + LOOK / piled.batch.len());
            if piled.n_compared > COMPARED_MAX {
                often.extend(self.batches.remove(at));
            } else if piled.hashes.is_empty() {
                // They will be there when the rows are compared.
                let bytes = piled.batch.len() * size_of::<u32>();
                piled.bytes += bytes;
                self.bytes += bytes;
            }
        }
        for piled in &often {
            self.forgot(piled);
        }
        // As they came.
        often.reverse();
        often
    }

    /// The batches with rows between two times.
    pub(super) fn near(&mut self, first: i64, last: i64) -> impl Iterator<Item = &mut Piled> {
        self.batches.iter_mut().filter(move |piled| piled.first <= last && piled.last >= first)
    }

    /// Forgets batches none of whose rows can be found any more: their time and this is before the watermark.
    pub(super) fn forget(&mut self, remembered: i64, watermark: i64) {
        let is_over = |piled: &Piled| piled.last.saturating_add(remembered) < watermark;
        // Mostly they stand as they came, the oldest in front.
        while let Some(piled) = self.batches.pop_front_if(|piled| is_over(piled)) {
            self.forgot(&piled);
        }
        if self.batches.iter().any(is_over) {
            let (over, left): (Vec<Piled>, Vec<Piled>) = self.batches.drain(..).partition(is_over);
            self.batches = left.into();
            for piled in &over {
                self.forgot(piled);
            }
        }
        if self.batches.is_empty() {
            *self = Self::default();
        }
    }

    fn forgot(&mut self, piled: &Piled) {
        self.n_rows -= piled.batch.len();
        self.bytes -= piled.bytes;
    }

    /// All batches, as they are in a state.
    pub(super) fn states(&self) -> impl Iterator<Item = RecordBatch> {
        self.batches.iter().filter_map(|piled| piled.state.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::Schema;

    use super::*;

    fn piled(rows: &[(i64, Option<&str>, i64)]) -> Piled {
        let texts: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>());
        let numbers: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>());
        let columns = RecordBatch::try_from_iter([("text", Arc::clone(&texts)), ("number", Arc::clone(&numbers))]);
        let times: Vec<i64> = rows.iter().map(|row| row.0).collect();
        Piled::new(Batch::new(columns.unwrap(), times.into()), vec![texts, numbers], None)
    }

    fn check(is_same_hash: bool) {
        let mut known = piled(&[(10, Some("a"), 1), (20, Some("a"), 2), (30, None, 1), (40, Some("a"), 1)]);
        let mut asking = piled(&[(12, Some("a"), 1), (25, None, 1), (33, Some("a"), 1), (60, Some("a"), 1)]);
        if is_same_hash {
            (known.hashes, asking.hashes) = (vec![0; 4], vec![0; 4]);
        }
        let schema: SchemaRef = Schema::clone(known.batch.rows.schema().as_ref()).into();
        let found = known.find(&mut asking, Reach { before: 19, after: 7 }, &schema).unwrap();
        assert_eq!(found, [(0, 0), (2, 3)]);
    }

    #[test]
    fn pairs_have_the_same_keys_and_are_near() {
        check(false);
        check(true);
    }

    #[test]
    fn what_is_asked_for_often_goes_into_the_index() {
        let mut pile = Pile::default();
        let rows: Vec<(i64, Option<&str>, i64)> = (0..100).map(|time| (time, Some("a"), time)).collect();
        for _ in 0..3 {
            pile.push(piled(&rows));
        }
        pile.push(piled(&[(50, Some("a"), 1)]));
        let left = |pile: &mut Pile| pile.near(i64::MIN, i64::MAX).map(|piled| piled.batch.len()).collect::<Vec<_>>();
        // Nobody asks for them.
        assert!(pile.ask(1000, 100, 200).is_empty() && pile.ask(1000, -10, -1).is_empty());
        // A small batch is looked at as soon in an index.
        let often: Vec<usize> = pile.ask(5, 0, 60).iter().map(|piled| piled.batch.len()).collect();
        assert_eq!((often, left(&mut pile)), (vec![1], vec![100; 3]));
        for _ in 0..11 {
            assert!(pile.ask(5, 0, 60).is_empty());
        }
        assert_eq!((pile.ask(5, 0, 60).len(), pile.len(), pile.bytes()), (3, 0, 0));
        pile.push(piled(&rows));
        assert_eq!(pile.ask(65, 99, 99).len(), 1);
    }

    #[test]
    fn what_is_over_is_forgotten_in_whatever_order_it_came() {
        let mut pile = Pile::default();
        for last in [90, 20, 70, 30] {
            pile.push(piled(&[(10, Some("a"), last), (last, Some("b"), last)]));
        }
        pile.forget(5, 35);
        assert_eq!(pile.len(), 6);
        pile.forget(5, 36);
        assert_eq!(pile.len(), 4);
        pile.forget(5, i64::MAX);
        assert_eq!((pile.len(), pile.bytes()), (0, 0));
    }
}
