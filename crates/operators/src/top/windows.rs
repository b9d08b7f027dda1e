//! The first rows of each stretch of event time. Results of windows are in stretches of one nanosecond: all results
//! of a window have the same time, and those of another one have another, or another key.
//!
//! Invariant: whether a row counts depends on the watermark of its own source partition, as in windows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{Operator, OperatorError, OperatorState, Output, Share};

use super::ranking::{Encoded, Encoder, First, Placed, Ranking};
use crate::clock;
use crate::late::{Limit, on_time_until};

/// How event time is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretches {
    /// The length of each.
    pub(super) length: i64,
    /// Where they begin; less than the length.
    pub(super) offset: i64,
}

impl Stretches {
    /// Where the stretch of a time begins.
    fn start_of(&self, time: i64) -> i64 {
        let into = (i128::from(time) - i128::from(self.offset)).rem_euclid(i128::from(self.length));
        i64::try_from(i128::from(time) - into).unwrap_or(i64::MIN)
    }

    /// The first time that is not in the stretch of a time any more.
    fn end_of(&self, time: i64) -> i64 {
        self.start_of(time).saturating_add(self.length)
    }
}

pub(super) struct TopOfWindows {
    stretches: Stretches,
    lateness: i64,
    rows_max: usize,
    encoder: Encoder,
    /// By the end of a stretch and the keys, as bytes.
    open: BTreeMap<i64, HashMap<Box<[u8]>, First>>,
    /// The latest watermark, less the lateness.
    watermark: i64,
    bytes: isize,
    expired: u64,
}

const FIRST: &str = "first";

impl TopOfWindows {
    pub(super) fn new(stretches: Stretches, lateness: i64, ranking: Arc<Ranking>) -> Result<Self, OperatorError> {
        Ok(Self {
            stretches,
            lateness,
            rows_max: ranking.rows_max,
            encoder: Encoder::new(ranking)?,
            open: BTreeMap::new(),
            watermark: i64::MIN,
            bytes: 0,
            expired: 0,
        })
    }

    fn take_in(&mut self, encoded: &Encoded) -> Result<(), OperatorError> {
        let ends: Vec<i64> = encoded.batch.times.iter().map(|time| self.stretches.end_of(*time)).collect();
        let mut rows = Vec::new();
        for (row, index) in (0..encoded.batch.len()).zip(0_u32..) {
            let first = self.open.get(&ends[row]).and_then(|groups| groups.get(encoded.key(row)));
            if first.is_none_or(|first| first.may_take(encoded.order(row), self.rows_max)) {
                rows.push(index);
            }
        }
        for (row, entry) in self.encoder.entries(encoded, &rows)? {
            let groups = self.open.entry(ends[row]).or_default();
            let key = encoded.key(row);
            if let Some(first) = groups.get_mut(key) {
                self.bytes += first.insert(entry, self.rows_max).map_or(0, |(_, bytes)| bytes);
                continue;
            }
            let mut first = First::default();
            let bytes = first.insert(entry, self.rows_max).map_or(0, |(_, bytes)| bytes);
            self.bytes += bytes + key_size(key);
            groups.insert(key.into(), first);
        }
        Ok(())
    }

    fn put_out(&mut self, mut groups: Vec<(Box<[u8]>, First)>, output: &mut dyn Output) -> Result<(), OperatorError> {
        groups.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (key, first) in &groups {
            self.bytes -= first.size() + key_size(key);
        }
        let mut placed = Vec::new();
        for (_, first) in &groups {
            let of_group = first.0.iter().enumerate();
            placed.extend(of_group.map(|(place, entry)| Placed { entry, place, time: entry.time, revision: None }));
        }
        self.expired += 1;
        self.encoder.put_out(&placed, output)
    }
}

/// What a group takes beside its rows.
fn key_size(key: &[u8]) -> isize {
    (key.len() + size_of::<(Box<[u8]>, First)>()).cast_signed()
}

impl Operator for TopOfWindows {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let stretches = self.stretches;
        let limit = Limit { lateness: self.lateness, passed: self.watermark, margin: stretches.length };
        let batch = on_time_until(batch, limit, &|time| stretches.end_of(time), output)?;
        for encoded in self.encoder.encode(batch, output)? {
            self.take_in(&encoded)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.watermark = self.watermark.max(clock::less(watermark, self.lateness));
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() <= self.watermark) {
            let groups = entry.remove().into_iter().collect();
            self.put_out(groups, output)?;
        }
        // Rows have their own times, also those that wait for the end of their stretch.
        let promise = match self.watermark {
            i64::MAX => i64::MAX,
            watermark => self.stretches.start_of(watermark),
        };
        Ok(Timestamp(promise))
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        let entries = self.open.values().flat_map(HashMap::values).flat_map(|first| &first.0);
        let tables = self.encoder.tables(entries)?;
        if !tables.is_empty() {
            state.tables.insert(FIRST.to_owned(), tables);
        }
        clock::put(&mut state, &[("watermark", self.watermark)])?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
            for table in state.table(FIRST) {
                let encoded = self.encoder.restore(table, share)?;
                self.take_in(&encoded)?;
            }
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(0)
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let groups = || self.open.values().flat_map(HashMap::values);
        let rows: usize = groups().map(|first| first.0.len()).sum();
        vec![("open_windows", self.open.len() as u64), ("keys", groups().count() as u64), ("rows", rows as u64)]
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        vec![("expired_windows", self.expired)]
    }
}
