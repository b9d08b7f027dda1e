//! The first of all rows so far: told again each time the row in a place becomes another one.
//!
//! Rows are taken in the order of event time, so that which changes there are depends on the rows alone. What comes in
//! one microsecond is one change, and the number of a revision is that of the microsecond.
//!
//! A row may change every place behind its own, so what comes of rows can be many times as much as they are. It is put
//! out some thousand rows at a time: what is left is due, and comes when there is room for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{Operator, OperatorError, OperatorState, Output, Share};
use weir_component::revision::Revision;

use super::ranking::{BATCH_ROWS, Encoded, Encoder, Entry, First, Placed, Ranking};
use crate::clock;
use crate::late::on_time;
use crate::sorted::Sorter;

/// The length of what is one change.
const MICROSECOND: i64 = 1_000;

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
    /// What is to be put out.
    told: Vec<Told>,
    /// By keys, as bytes.
    groups: HashMap<Arc<[u8]>, Group>,
    /// When keys are forgotten.
    ends: BTreeSet<(i64, Arc<[u8]>)>,
    /// What has changed in the microsecond at hand: by key the first place that has.
    changed: BTreeMap<Arc<[u8]>, usize>,
    /// The time of the last row that was taken.
    now: i64,
    /// The latest watermark, less the lateness, in whole microseconds.
    watermark: i64,
    /// What was promised: the watermark, as soon as all that is due before it has been put out.
    promised: i64,
    bytes: isize,
    expired: u64,
}

/// Rows that are taken one after the other.
struct Taking {
    encoded: Encoded,
    entries: VecDeque<(usize, Entry)>,
}

/// A row to be put out.
struct Told {
    entry: Entry,
    place: usize,
    time: i64,
    revision: Revision,
}

#[derive(Debug, Default)]
struct Group {
    first: First,
    /// The time of its last row.
    last: i64,
}

const WAITING: &str = "waiting";
const FIRST: &str = "first";
const LAST: &str = "last";

/// The number of a revision at a time: microseconds since the first time there is, so none is below 1.
pub(super) fn number_at(time: i64) -> i64 {
    time.div_euclid(MICROSECOND) - i64::MIN.div_euclid(MICROSECOND) + 1
}

impl Changes {
    pub(super) fn new(keep: Option<i64>, lateness: i64, ranking: Arc<Ranking>) -> Result<Self, OperatorError> {
        Ok(Self {
            keep,
            lateness,
            waiting: Sorter::new(Arc::clone(&ranking.schema))?,
            due: VecDeque::new(),
            taking: VecDeque::new(),
            told: Vec::new(),
            encoder: Encoder::new(Arc::clone(&ranking))?,
            ranking,
            groups: HashMap::new(),
            ends: BTreeSet::new(),
            changed: BTreeMap::new(),
            now: i64::MIN,
            watermark: i64::MIN,
            promised: i64::MIN,
            bytes: 0,
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
                if !self.take(&mut taking) {
                    self.taking.push_front(taking);
                }
                continue;
            }
            let Some(batch) = self.due.pop_front() else { return Ok(()) };
            for encoded in self.encoder.encode(batch, output)? {
                let rows: Vec<u32> = (0_u32..).take(encoded.batch.len()).collect();
                let entries: VecDeque<(usize, Entry)> = self.encoder.entries(&encoded, &rows)?.collect();
                self.taking.push_back(Taking { encoded, entries });
            }
        }
        Ok(())
    }

    /// Takes rows, which are in order. Says whether all of them could be.
    fn take(&mut self, taking: &mut Taking) -> bool {
        while let Some((_, entry)) = taking.entries.front() {
            let time = entry.time;
            if time.div_euclid(MICROSECOND) != self.now.div_euclid(MICROSECOND) {
                self.tell();
            }
            self.expire(time);
            if self.is_full() {
                return false;
            }
            self.now = time;
            if let Some((row, entry)) = taking.entries.pop_front()
                && let Some((key, place)) = self.insert(taking.encoded.key(row), entry, time)
            {
                let first = self.changed.entry(key).or_insert(place);
                *first = place.min(*first);
            }
        }
        true
    }

    /// Puts a row into its place, if it has one; its key is kept in any case.
    fn insert(&mut self, key: &[u8], entry: Entry, last: i64) -> Option<(Arc<[u8]>, usize)> {
        let key: Arc<[u8]> = match self.groups.get_key_value(key) {
            Some((known, _)) => Arc::clone(known),
            None => {
                let key: Arc<[u8]> = key.into();
                self.bytes += key_size(&key);
                self.groups.insert(Arc::clone(&key), Group { last, ..Group::default() });
                key
            }
        };
        let group = self.groups.get_mut(&key)?;
        if let Some(keep) = self.keep {
            self.ends.remove(&(group.last.saturating_add(keep), Arc::clone(&key)));
            group.last = group.last.max(last);
            self.ends.insert((group.last.saturating_add(keep), Arc::clone(&key)));
        } else {
            group.last = group.last.max(last);
        }
        let (place, bytes) = group.first.insert(entry, self.ranking.rows_max)?;
        self.bytes += bytes;
        Some((key, place))
    }

    /// Says what has changed, key by key, until there is enough to be put out.
    fn tell(&mut self) {
        let revision = Revision { number: number_at(self.now), is_final: false, is_retracted: false };
        while !self.is_full()
            && let Some((key, from)) = self.changed.pop_first()
        {
            let Some(group) = self.groups.get(&key) else { continue };
            let places = group.first.0.iter().enumerate().skip(from);
            let told = places.map(|(place, entry)| Told { entry: entry.clone(), place, time: self.now, revision });
            self.told.extend(told);
        }
    }

    /// Forgets the keys whose time is over, until there is enough to be put out: their rows are final.
    fn expire(&mut self, time: i64) {
        while !self.is_full()
            && self.ends.first().is_some_and(|(end, _)| *end <= time)
            && let Some((end, key)) = self.ends.pop_first()
        {
            let Some(group) = self.groups.remove(&key) else { continue };
            // Before whatever the key may begin anew with.
            self.forget(&key, group, end, number_at(end) - 1);
        }
    }

    /// All places of a group, for the last time.
    fn forget(&mut self, key: &[u8], group: Group, time: i64, number: i64) {
        self.bytes -= group.first.size() + key_size(key);
        self.expired += 1;
        let revision = Revision { number, is_final: true, is_retracted: false };
        let places = group.first.0.into_iter().enumerate();
        self.told.extend(places.map(|(place, entry)| Told { entry, place, time, revision }));
    }

    /// Nothing comes any more: everything is final.
    fn end(&mut self) {
        self.expire(i64::MAX);
        // Where keys are not forgotten there is one.
        while !self.is_full()
            && let Some(key) = self.groups.keys().min().cloned()
        {
            let Some(group) = self.groups.remove(&key) else { continue };
            let last = group.last;
            self.forget(&key, group, last, number_at(last) + 1);
        }
    }

    /// Puts out what is to be.
    fn put_out(&mut self, output: &mut dyn Output) -> Result<(), OperatorError> {
        let told = std::mem::take(&mut self.told);
        let placed = told.iter().map(|Told { entry, place, time, revision }| Placed {
            entry,
            place: *place,
            time: *time,
            revision: Some(*revision),
        });
        self.encoder.put_out(&placed.collect::<Vec<_>>(), output)
    }
}

/// What a group takes beside its rows: it is held here, and in the order of the ends.
fn key_size(key: &[u8]) -> isize {
    (key.len() + size_of::<(Arc<[u8]>, Group)>() + size_of::<(i64, Arc<[u8]>)>()).cast_signed()
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
        let is_over = |end: i64| end <= self.watermark;
        !self.due.is_empty()
            || !self.taking.is_empty()
            || !self.changed.is_empty()
            || self.ends.first().is_some_and(|(end, _)| is_over(*end))
            || (self.watermark == i64::MAX && !self.groups.is_empty())
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        state.tables.insert(WAITING.to_owned(), self.waiting.snapshot()?);
        if !self.groups.is_empty() {
            let entries = self.groups.values().flat_map(|group| &group.first.0);
            state.tables.insert(FIRST.to_owned(), self.encoder.tables(entries)?);
            // A row of each group beside the time of its last one, which need not be among the first.
            let one = |group: &Group| group.first.0.first().map(|entry| entry.at(group.last));
            let last: Vec<Entry> = self.groups.values().filter_map(one).collect();
            state.tables.insert(LAST.to_owned(), self.encoder.tables(last.iter())?);
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
            for table in state.table(FIRST) {
                let encoded = self.encoder.restore(table, share)?;
                self.put_back(&encoded)?;
            }
            for table in state.table(LAST) {
                self.put_back_ends(&self.encoder.restore(table, share)?);
            }
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        let due: usize = self.due.iter().map(Batch::bytes).sum();
        let taking: isize = self.taking.iter().flat_map(|taking| &taking.entries).map(|(_, entry)| entry.size()).sum();
        self.waiting.bytes() + due + usize::try_from(self.bytes + taking).unwrap_or(0)
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let rows: usize = self.groups.values().map(|group| group.first.0.len()).sum();
        vec![("waiting_rows", self.waiting.len() as u64), ("keys", self.groups.len() as u64), ("rows", rows as u64)]
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        vec![("expired_keys", self.expired)]
    }
}

impl Changes {
    fn put_back(&mut self, encoded: &Encoded) -> Result<(), OperatorError> {
        let rows: Vec<u32> = (0_u32..).take(encoded.batch.len()).collect();
        for (row, entry) in self.encoder.entries(encoded, &rows)? {
            let time = entry.time;
            self.insert(encoded.key(row), entry, time);
        }
        Ok(())
    }

    /// The times of the last rows of groups that have been put back.
    fn put_back_ends(&mut self, encoded: &Encoded) {
        for row in 0..encoded.batch.len() {
            let Some((key, _)) = self.groups.get_key_value(encoded.key(row)) else { continue };
            let key = Arc::clone(key);
            let Some(group) = self.groups.get_mut(&key) else { continue };
            let last = encoded.batch.times[row];
            if let Some(keep) = self.keep {
                self.ends.remove(&(group.last.saturating_add(keep), Arc::clone(&key)));
                self.ends.insert((last.saturating_add(keep), key));
            }
            group.last = last;
        }
    }
}
