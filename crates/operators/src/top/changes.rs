//! The first of all rows so far: told again each time the row in a place becomes another one.
//!
//! Rows are taken in the order of event time, so that which changes there are depends on the rows alone. What comes in
//! one microsecond is one change, and the number of a revision is that of the microsecond.
//!
//! A row may change every place behind its own, so what comes of rows can be many times as much as they are. It is put
//! out some thousand rows at a time: what is left is due, and comes when there is room for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{Operator, OperatorError, OperatorState, Output, Share};
use weir_component::revision::{Revision, Revisions};

use super::first::{Coming, Entry};
use super::groups::{Group, Groups};
use super::held::{Held, Spot};
use super::ranking::{BATCH_ROWS, Encoded, Encoder, Evaluated, Ranking};
use crate::clock;
use crate::late::on_time;
use crate::sorted::Sorter;

/// The length of what is one change.
const MICROSECOND: i64 = 1_000;

/// Who holds rows that have not been taken.
const PENDING: u32 = u32::MAX - 1;

pub(super) struct Changes {
    /// After so long without a row a key is forgotten.
    keep: Option<i64>,
    lateness: i64,
    ranking: Arc<Ranking>,
    encoder: Encoder,
    waiting: Sorter,
    /// Rows that are due, in order, and were not taken yet.
    due: VecDeque<Batch>,
    /// The same, as they are held: the first ones.
    taking: VecDeque<Taking>,
    held: Held,
    /// Rows that are not among the first any more, or never were, and may be about to be put out nevertheless.
    left: Vec<Spot>,
    /// What is to be put out.
    told: Vec<Told>,
    groups: Groups,
    /// What has changed in the microsecond at hand: by key the first place that has.
    changed: BTreeMap<Arc<[u8]>, usize>,
    /// The time of the last row that was taken.
    now: i64,
    /// The latest watermark, less the lateness, in whole microseconds.
    watermark: i64,
    /// What was promised: the watermark, as soon as all that is due before it has been put out.
    promised: i64,
    /// Bytes of what rows are ordered by.
    order_bytes: usize,
    n_rows: usize,
    expired: u64,
}

/// Rows that are taken one after the other.
struct Taking {
    encoded: Encoded,
    coming: Coming,
    next: usize,
}

/// A row to be put out.
struct Told {
    spot: Spot,
    place: usize,
    time: i64,
    revision: Revision,
}

const WAITING: &str = "waiting";
const FIRST: &str = "first";
const GROUPS: &str = "groups";

/// The number of a revision at a time: microseconds since the first time there is, so none is below 1.
pub(super) fn number_at(time: i64) -> i64 {
    time.div_euclid(MICROSECOND) - i64::MIN.div_euclid(MICROSECOND) + 1
}

impl Changes {
    pub(super) fn new(keep: Option<i64>, lateness: i64, ranking: Arc<Ranking>) -> Result<Self, OperatorError> {
        let encoder = Encoder::new(Arc::clone(&ranking))?;
        Ok(Self {
            keep,
            lateness,
            waiting: Sorter::new(Arc::clone(&ranking.schema))?,
            due: VecDeque::new(),
            taking: VecDeque::new(),
            held: Held::default(),
            left: Vec::new(),
            told: Vec::new(),
            groups: Groups::new(keep, &encoder),
            encoder,
            ranking,
            changed: BTreeMap::new(),
            now: i64::MIN,
            watermark: i64::MIN,
            promised: i64::MIN,
            order_bytes: 0,
            n_rows: 0,
            expired: 0,
        })
    }

    /// Whether there is enough to be put out.
    fn is_full(&self) -> bool {
        self.told.len() >= BATCH_ROWS
    }

    /// Takes the rows that are due until there is enough to be put out, or none is left.
    fn take_in(&mut self, output: &mut dyn Output) -> Result<(), OperatorError> {
        while !self.is_full() {
            if let Some(mut taking) = self.taking.pop_front() {
                if !self.take(&mut taking)? {
                    self.taking.push_front(taking);
                }
                continue;
            }
            let Some(batch) = self.due.pop_front() else { return Ok(()) };
            for rows in self.encoder.evaluate(batch, output)? {
                let taking = self.hold(rows)?;
                self.taking.push_back(taking);
            }
        }
        Ok(())
    }

    /// Holds rows, none of which has a place yet.
    fn hold(&mut self, rows: Evaluated) -> Result<Taking, OperatorError> {
        let encoded = self.encoder.encoded(rows)?;
        let number = self.held.reserve();
        let Batch { rows, times, .. } = &encoded.batch;
        self.held.put(number, self.encoder.in_state(rows, times.clone())?, vec![PENDING; times.len()]);
        Ok(Taking { encoded, coming: Coming::new(number), next: 0 })
    }

    /// Takes rows, which are in order. Says whether all of them could be.
    fn take(&mut self, taking: &mut Taking) -> Result<bool, OperatorError> {
        while let Some(time) = taking.encoded.batch.times.get(taking.next).copied() {
            if time.div_euclid(MICROSECOND) != self.now.div_euclid(MICROSECOND) {
                self.tell();
            }
            self.expire(time);
            if self.is_full() {
                return Ok(false);
            }
            self.now = time;
            let row = taking.next;
            taking.next += 1;
            let number = self.groups.touch(taking.encoded.key(row), time);
            if let Some(place) = self.insert(taking, row, number)?
                && let Some(group) = self.groups.get(number)
            {
                let first = self.changed.entry(Arc::clone(&group.key)).or_insert(place);
                *first = place.min(*first);
            }
        }
        Ok(true)
    }

    /// Puts a row into its place in a group, if it has one.
    fn insert(&mut self, taking: &mut Taking, row: usize, number: u32) -> Result<Option<usize>, OperatorError> {
        let Taking { encoded, coming, .. } = taking;
        let rows_max = self.ranking.rows_max;
        let spot = Spot { batch: coming.number, row: u32::try_from(row).unwrap_or(u32::MAX) };
        let Some(group) = self.groups.get_mut(number) else { return Ok(None) };
        let (entries, order) = (&mut group.entries, encoded.order(row));
        let is_behind = entries.len() >= rows_max && entries.last().is_some_and(|last| *last.order < *order);
        let place = match is_behind {
            true => rows_max,
            false => coming.place(&self.encoder, &self.held, entries, (&encoded.batch, row, order))?,
        };
        if place >= rows_max {
            self.left.push(spot);
            return Ok(None);
        }
        entries.insert(place, Entry::new(order, spot, encoded.batch.times[row]));
        self.held.give(spot, number);
        self.n_rows += 1;
        self.order_bytes += order.len();
        if entries.len() > rows_max
            && let Some(last) = entries.pop()
        {
            self.n_rows -= 1;
            self.order_bytes -= last.order.len();
            self.left.push(last.spot);
        }
        Ok(Some(place))
    }

    /// Says what has changed, key by key, until there is enough to be put out.
    fn tell(&mut self) {
        let revision = Revision { number: number_at(self.now), is_final: false, is_retracted: false };
        while !self.is_full()
            && let Some((key, from)) = self.changed.pop_first()
        {
            let number = self.groups.number(&key);
            let Some(group) = number.and_then(|number| self.groups.get(number)) else { continue };
            let places = group.entries.iter().enumerate().skip(from);
            let told = places.map(|(place, entry)| Told { spot: entry.spot, place, time: self.now, revision });
            self.told.extend(told);
        }
    }

    /// Forgets the keys whose time is over, until there is enough to be put out: their rows are final.
    fn expire(&mut self, time: i64) {
        while !self.is_full()
            && self.groups.next_end().is_some_and(|end| end <= time)
            && let Some((end, group)) = self.groups.pop_end()
        {
            // Before whatever the key may begin anew with.
            self.forget(group, end, number_at(end) - 1);
        }
    }

    /// All places of a group, for the last time.
    fn forget(&mut self, group: Group, time: i64, number: i64) {
        self.expired += 1;
        self.n_rows -= group.entries.len();
        let revision = Revision { number, is_final: true, is_retracted: false };
        for (place, Entry { order, spot, .. }) in group.entries.into_iter().enumerate() {
            self.order_bytes -= order.len();
            self.told.push(Told { spot, place, time, revision });
            self.left.push(spot);
        }
    }

    /// Nothing comes any more: everything is final.
    fn end(&mut self) {
        self.expire(i64::MAX);
        // Where keys are not forgotten there is one.
        while !self.is_full()
            && let Some(group) = self.groups.pop()
        {
            let last = group.last;
            self.forget(group, last, number_at(last) + 1);
        }
    }

    /// Puts out what is to be.
    fn put_out(&mut self, output: &mut dyn Output) -> Result<(), OperatorError> {
        let told = std::mem::take(&mut self.told);
        for told in told.chunks(BATCH_ROWS) {
            let spots: Vec<Spot> = told.iter().map(|told| told.spot).collect();
            let mut columns = self.held.columns(&spots)?;
            // Their times.
            columns.pop();
            let places = told.iter().map(|told| i64::try_from(told.place + 1).unwrap_or(i64::MAX));
            columns.push(Arc::new(places.collect::<Int64Array>()));
            let rows = RecordBatch::try_new(Arc::clone(self.encoder.output()), columns);
            let times: Vec<i64> = told.iter().map(|told| told.time).collect();
            let mut batch = Batch::new(rows.map_err(OperatorError::internal)?, times.into());
            batch.revisions = told.iter().map(|told| Some(told.revision)).collect::<Option<Revisions>>();
            output.batch(0, batch);
        }
        self.tidy()
    }

    /// Lets go of rows that are not among the first, now that none of them is about to be put out.
    fn tidy(&mut self) -> Result<(), OperatorError> {
        for spot in self.left.drain(..) {
            self.held.forget(spot);
        }
        // Rows that have not been taken are where they were.
        while self.taking.is_empty()
            && let Some(moved) = self.held.gather()?
        {
            for owner in &moved.owners {
                for entry in self.groups.get_mut(*owner).into_iter().flat_map(|group| &mut group.entries) {
                    entry.spot = moved.spot(entry.spot);
                }
            }
        }
        Ok(())
    }
}

impl Operator for Changes {
    fn on_batch(&mut self, _input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let margin = self.keep.unwrap_or(0).saturating_add(MICROSECOND);
        self.waiting.push(on_time(batch, self.lateness, self.watermark, margin, output)?);
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Timestamp, output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        let watermark = match clock::less(watermark, self.lateness) {
            i64::MAX => i64::MAX,
            // A microsecond is taken as a whole.
            time => time.saturating_sub(time.rem_euclid(MICROSECOND)),
        };
        self.watermark = self.watermark.max(watermark);
        self.due.extend(self.waiting.release(self.watermark)?);
        self.take_in(output)?;
        if self.due.is_empty() && self.taking.is_empty() {
            self.tell();
            match self.watermark {
                i64::MAX => self.end(),
                watermark => self.expire(watermark),
            }
        }
        self.put_out(output)?;
        if !self.has_more() {
            self.promised = self.watermark;
        }
        Ok(Timestamp(self.promised))
    }

    fn has_more(&self) -> bool {
        !self.due.is_empty()
            || !self.taking.is_empty()
            || !self.changed.is_empty()
            || self.groups.next_end().is_some_and(|end| end <= self.watermark)
            || (self.watermark == i64::MAX && self.groups.len() > 0)
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        state.tables.insert(WAITING.to_owned(), self.waiting.snapshot()?);
        let groups = self.groups.seal(&self.encoder)?;
        if !groups.is_empty() {
            state.tables.insert(GROUPS.to_owned(), groups);
            state.tables.insert(FIRST.to_owned(), self.held.batches().collect());
        }
        clock::put(&mut state, &[("watermark", self.watermark)])?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        for state in states {
            self.watermark = self.watermark.max(clock::get(state, "watermark")?);
        }
        self.promised = self.watermark;
        for state in states {
            self.waiting.restore(state.table(WAITING), self.ranking.by.key_hash(), share)?;
            if state.table(GROUPS).is_empty() != state.table(FIRST).is_empty() {
                return Err(OperatorError::state("the first rows and their groups do not fit together"));
            }
            self.groups.restore(state.table(GROUPS), &self.encoder, share, self.watermark)?;
            for table in state.table(FIRST) {
                let rows = self.encoder.owned(table, share)?;
                self.put_back(rows)?;
            }
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        let due: usize = self.due.iter().map(Batch::bytes).sum();
        let entries = self.n_rows * size_of::<Entry>() + self.order_bytes;
        self.waiting.bytes() + due + self.held.bytes() + self.groups.bytes() + entries
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let (waiting, keys) = (self.waiting.len() as u64, self.groups.len() as u64);
        vec![("waiting_rows", waiting), ("keys", keys), ("rows", self.n_rows as u64)]
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        vec![("expired_keys", self.expired)]
    }
}

impl Changes {
    /// Takes over rows of a state: those that are among the first. With them are some that were not any more, or were of a
    /// group that was forgotten.
    fn put_back(&mut self, rows: Evaluated) -> Result<(), OperatorError> {
        if rows.batch.is_empty() {
            return Ok(());
        }
        let mut taking = self.hold(rows)?;
        for row in 0..taking.encoded.batch.len() {
            let time = taking.encoded.batch.times[row];
            let number = self.groups.number(taking.encoded.key(row));
            let number = number.filter(|number| self.groups.get(*number).is_some_and(|group| group.begun <= time));
            match number {
                Some(number) => drop(self.insert(&mut taking, row, number)?),
                None => {
                    self.left.push(Spot { batch: taking.coming.number, row: u32::try_from(row).unwrap_or(u32::MAX) })
                }
            }
        }
        self.tidy()
    }
}
