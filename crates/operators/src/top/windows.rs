//! The first rows of each stretch of event time. Results of windows are in stretches of one nanosecond: all results
//! of a window have the same time, and those of another one have another, or another key.
//!
//! Invariant: whether a row counts depends on the watermark of its own source partition, as in windows.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{Operator, OperatorError, OperatorState, Output, Share};

use super::ranking::{Encoder, Evaluated, Ranking};
use super::stretch::Stretch;
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

    /// The rows of each stretch, by its end. Rows mostly come in order, so most are in the stretch of the row before.
    fn cut(&self, times: &[i64]) -> BTreeMap<i64, Vec<u32>> {
        let mut stretches: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        let mut at = 0;
        while at < times.len() {
            let (start, end) = (self.start_of(times[at]), self.end_of(times[at]));
            let next = times[at..].iter().position(|time| *time < start || *time >= end);
            let next = next.map_or(times.len(), |n| at + n.max(1));
            let rows = (at..next).map(|row| u32::try_from(row).unwrap_or(u32::MAX));
            stretches.entry(end).or_default().extend(rows);
            at = next;
        }
        stretches
    }
}

pub(super) struct TopOfWindows {
    stretches: Stretches,
    lateness: i64,
    encoder: Encoder,
    /// By the end of a stretch.
    open: BTreeMap<i64, Stretch>,
    /// The latest watermark, less the lateness.
    watermark: i64,
    expired: u64,
}

const FIRST: &str = "first";

impl TopOfWindows {
    pub(super) fn new(stretches: Stretches, lateness: i64, ranking: Arc<Ranking>) -> Result<Self, OperatorError> {
        Ok(Self {
            stretches,
            lateness,
            encoder: Encoder::new(ranking)?,
            open: BTreeMap::new(),
            watermark: i64::MIN,
            expired: 0,
        })
    }

    fn take_in(&mut self, rows: &Evaluated) -> Result<(), OperatorError> {
        let stretches = self.stretches.cut(&rows.batch.times);
        let is_one = stretches.len() == 1;
        for (end, of_stretch) in stretches {
            let stretch = match self.open.entry(end) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => place.insert(Stretch::new(&self.encoder)?),
            };
            match is_one {
                true => stretch.take_in(&self.encoder, rows)?,
                false => stretch.take_in(&self.encoder, &rows.take(of_stretch)?)?,
            }
        }
        Ok(())
    }
}

impl Operator for TopOfWindows {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let stretches = self.stretches;
        let limit = Limit { lateness: self.lateness, passed: self.watermark, margin: stretches.length };
        let batch = on_time_until(batch, limit, &|time| stretches.end_of(time), output)?;
        for rows in self.encoder.evaluate(batch, output)? {
            self.take_in(&rows)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.watermark = self.watermark.max(clock::less(watermark, self.lateness));
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() <= self.watermark) {
            entry.remove().put_out(&self.encoder, output)?;
            self.expired += 1;
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
        let batches: Vec<_> = self.open.values().flat_map(Stretch::batches).collect();
        if !batches.is_empty() {
            state.tables.insert(FIRST.to_owned(), batches);
        }
        clock::put(&mut state, &[("watermark", self.watermark)])?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
            for table in state.table(FIRST) {
                let rows = self.encoder.owned(table, share)?;
                self.take_in(&rows)?;
            }
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.open.values().map(Stretch::bytes).sum()
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let sum = |count: fn(&Stretch) -> usize| self.open.values().map(count).sum::<usize>() as u64;
        vec![("open_windows", self.open.len() as u64), ("keys", sum(Stretch::len)), ("rows", sum(Stretch::n_rows))]
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        vec![("expired_windows", self.expired)]
    }
}
