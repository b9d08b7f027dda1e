//! Steps driven as the engine drives them: rows spread over instances, cut in any way, in any order within the
//! disorder, with checkpoints in between that are taken over by another number of instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use proptest::prelude::*;
use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{Distribution, Moment, Operator, PlannedStep, Share};

use super::Kept;

pub(crate) fn batch(rows: &[Row]) -> Batch {
    let column = |value: fn(&Row) -> i64| Arc::new(rows.iter().map(value).collect::<Int64Array>()) as ArrayRef;
    let columns = RecordBatch::try_from_iter([("k", column(|row| row.key)), ("v", column(|row| row.value))]).unwrap();
    let mut batch = Batch::new(columns, rows.iter().map(|row| row.time).collect::<Vec<_>>().into());
    if rows.iter().any(|row| row.time < row.watermark) {
        batch.watermarks = Some(rows.iter().map(|row| row.watermark).collect::<Vec<_>>().into());
    }
    batch
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) time: i64,
    pub(crate) key: i64,
    pub(crate) value: i64,
    /// The watermark of its partition before it.
    pub(crate) watermark: i64,
}

/// Instances of a step with the rows spread as the engine does it.
pub(crate) struct Instances {
    pub(crate) step: Arc<dyn PlannedStep>,
    pub(crate) operators: Vec<Box<dyn Operator>>,
    pub(crate) kept: Kept,
}

impl Instances {
    pub(crate) fn new(step: &Arc<dyn PlannedStep>, count: usize) -> Self {
        let operators = (0..count).map(|_| step.make().unwrap()).collect();
        Self { step: Arc::clone(step), operators, kept: Kept::default() }
    }

    pub(crate) fn send(&mut self, rows: &[Row]) {
        self.send_to(0, rows);
    }

    pub(crate) fn send_to(&mut self, input: usize, rows: &[Row]) {
        self.send_batch(input, batch(rows));
    }

    pub(crate) fn send_batch(&mut self, input: usize, batch: Batch) {
        match self.step.distribution(input) {
            Distribution::ByKey(keys) => {
                let hashes = keys.hashes(&batch).unwrap();
                for owner in 0..self.operators.len() {
                    let is_own = |hash: &u64| Some(Share::owner(*hash, self.operators.len()) == owner);
                    let part = batch.filter(&hashes.iter().map(is_own).collect()).unwrap();
                    if !part.is_empty() {
                        self.operators[owner].on_batch(input, part, &mut self.kept).unwrap();
                    }
                }
            }
            _ => self.operators[0].on_batch(input, batch, &mut self.kept).unwrap(),
        }
    }

    pub(crate) fn watermark(&mut self, time: i64) -> i64 {
        let mut promised = Vec::new();
        for operator in &mut self.operators {
            let mut told = operator.on_watermark(Timestamp(time), &mut self.kept).unwrap().0;
            while operator.has_more() {
                let before = std::mem::replace(&mut told, i64::MIN);
                told = operator.on_watermark(Timestamp(time), &mut self.kept).unwrap().0;
                assert!(told >= before, "a promise is kept");
            }
            promised.push(told);
        }
        assert!(promised.iter().all(|promise| *promise == promised[0]));
        promised[0]
    }

    /// The moment has come for what waits for it.
    pub(crate) fn moment(&mut self, moment: Moment) {
        for operator in &mut self.operators {
            let waiting = operator.waiting();
            if if moment == Moment::Early { waiting.early } else { waiting.changed } {
                operator.on_moment(moment, &mut self.kept).unwrap();
            }
        }
    }

    /// Nothing is left of windows that have been put out.
    pub(crate) fn assert_empty(&self) {
        for operator in &self.operators {
            let left: Vec<_> = operator.gauges().into_iter().filter(|(_, count)| *count > 0).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    pub(crate) fn restart(&mut self, count: usize) {
        let states: Vec<_> = self.operators.iter_mut().map(|operator| operator.snapshot().unwrap()).collect();
        // A state does not change after it was given away, whatever happens to who gave it.
        let before = states.clone();
        let _ = self.operators.iter_mut().map(|operator| operator.snapshot().unwrap()).collect::<Vec<_>>();
        assert_eq!(before, states);
        self.operators = (0..count).map(|_| self.step.make().unwrap()).collect();
        for (index, operator) in self.operators.iter_mut().enumerate() {
            operator.restore(&states, Share { index, count }).unwrap();
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Act {
    Rows(Vec<(u8, i64, i64, i64)>),
    Restart(usize),
}

pub(crate) fn acts() -> impl Strategy<Value = Vec<Act>> {
    // Partition, step of its time, key, value.
    let row = (0_u8..2, -30_i64..40, 0_i64..4, 0_i64..10);
    let act = prop_oneof![
        6 => prop::collection::vec(row, 1..12).prop_map(Act::Rows),
        1 => (1_usize..4).prop_map(Act::Restart),
    ];
    prop::collection::vec(act, 1..20)
}

/// What became of rows that were sent in some order, with restarts.
pub(crate) struct Ran {
    pub(crate) instances: Instances,
    /// The rows that were on time.
    pub(crate) taken: Vec<Row>,
    pub(crate) late: usize,
}

pub(crate) fn run(
    step: &Arc<dyn PlannedStep>,
    acts: Vec<Act>,
    disorder: i64,
    lateness: i64,
    slow: u8,
    by_key: bool,
) -> Ran {
    let mut instances = Instances::new(step, 2);
    let (mut taken, mut late) = (Vec::new(), 0);
    let mut newest = [i64::MIN; 2];
    let (mut told, mut base) = (i64::MIN, -50);
    for act in acts {
        let rows = match act {
            Act::Restart(count) => {
                instances.restart(count);
                continue;
            }
            Act::Rows(rows) => rows,
        };
        let mut sent = Vec::new();
        for (partition, step, key, value) in rows {
            let newest = &mut newest[usize::from(partition)];
            let watermark = if *newest == i64::MIN { i64::MIN } else { *newest - disorder };
            base += 1;
            let row = Row { time: base + step, key: if by_key { key } else { 0 }, value, watermark };
            *newest = (*newest).max(row.time);
            if row.time >= watermark.saturating_sub(lateness) {
                taken.push(row);
            } else {
                late += 1;
            }
            sent.push(row);
        }
        instances.send(&if slow == 1 { resorted(&sent) } else { sent });
        if slow != 2 && newest.iter().all(|newest| *newest > i64::MIN) {
            let watermark = newest.iter().min().unwrap() - disorder;
            if watermark > told {
                told = watermark;
                let before = instances.kept.batches.len();
                assert_eq!(instances.watermark(told), told - lateness);
                for batch in &instances.kept.batches[before..] {
                    assert!(batch.times.iter().all(|time| *time < told - lateness));
                }
            }
        }
    }
    instances.watermark(i64::MAX);
    instances.assert_empty();
    Ran { instances, taken, late }
}

impl Ran {
    /// The rows of each key that were on time, in order.
    pub(crate) fn sorted(&self) -> Vec<Vec<Row>> {
        let mut keys: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
        for row in &self.taken {
            keys.entry(row.key).or_default().push(*row);
        }
        for rows in keys.values_mut() {
            rows.sort_by_key(|row| (row.time, row.value));
        }
        keys.into_values().collect()
    }
}

/// The rows in another order between batches of one send: an operator does not rely on it.
pub(crate) fn resorted(rows: &[Row]) -> Vec<Row> {
    rows.iter().rev().copied().collect()
}
