//! Which values are frequent, in bounded memory, and the same in whatever order they come.
//!
//! As long as there are few values they are counted exactly. Of more, counts are kept in a table of counters that values
//! share (Cormode and Muthukrishnan, "An improved data stream summary: the count-min sketch and its applications",
//! 2005), which is a sum, and so the same in any order; beside it the values that seem to be frequent are remembered.
//! Which those are at some moment does depend on the order. But a value is only forgotten while as many others as are
//! remembered ([`Frequent::candidates`]) have counters at least as large, and counters never fall: so a value that has
//! a larger share of the rows than so many values can have, is never forgotten. What is put out are values with such
//! a share, with their counters; who is remembered beside them makes no difference.

use std::collections::HashMap;

use super::quantiles::Reading;

/// How many counters a value has, in rows of their own.
const DEPTH: usize = 4;
/// How many counters a row has for each candidate.
const WIDTH: usize = 8;
/// The first byte of a state.
const FORMAT: u8 = 1;

/// Values and how often they come. A value is bytes.
#[derive(Clone, Debug)]
pub(super) struct Frequent {
    /// How many values are remembered.
    candidates: usize,
    /// How many rows there were.
    rows: u64,
    /// Exact counts; with `counters`, candidates.
    known: HashMap<Box<[u8]>, u64>,
    /// [`DEPTH`] rows of counters, once there were more values than candidates.
    counters: Option<Vec<u64>>,
    bytes: usize,
}

/// A frequent value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) value: Box<[u8]>,
    /// Never too small.
    pub(super) count: u64,
}

/// A hash that stays as it is, because counters are kept in checkpoints (FNV-1a, and the finish of SplitMix64).
fn hash(value: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in value {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

impl Frequent {
    pub(super) fn new(candidates: usize) -> Self {
        let candidates = candidates.next_power_of_two();
        Self { candidates, rows: 0, known: HashMap::new(), counters: None, bytes: 0 }
    }

    fn width(&self) -> usize {
        self.candidates * WIDTH
    }

    /// The counters of a value: one in each row.
    fn places(&self, value: &[u8]) -> [usize; DEPTH] {
        // Rows are mixed on their own: values that share a counter in one row mostly do not in another. The width is a
        // power of two.
        let (hash, mask) = (hash(value), self.width() as u64 - 1);
        std::array::from_fn(|row| {
            let column = mixed(hash.wrapping_add((row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))) & mask;
            row * self.width() + usize::try_from(column).unwrap_or(0)
        })
    }

    /// How often a value came, or more often.
    fn estimate(&self, value: &[u8]) -> u64 {
        match &self.counters {
            None => self.known.get(value).copied().unwrap_or(0),
            Some(counters) => self.places(value).into_iter().map(|place| counters[place]).min().unwrap_or(0),
        }
    }

    /// A value came so often.
    pub(super) fn add(&mut self, value: &[u8], count: u64) {
        self.rows += count;
        let places = self.counters.is_some().then(|| self.places(value));
        if let (Some(counters), Some(places)) = (&mut self.counters, places) {
            places.into_iter().for_each(|place| counters[place] += count);
        }
        self.remember(value, count);
    }

    fn remember(&mut self, value: &[u8], count: u64) {
        match self.known.get_mut(value) {
            Some(known) => *known += count,
            None => {
                self.bytes += value.len() + size_of::<(Box<[u8]>, u64)>();
                self.known.insert(value.into(), count);
            }
        }
        if self.counters.is_none() && self.known.len() > self.candidates {
            self.begin_to_share();
        }
        if self.counters.is_some() && self.known.len() > 2 * self.candidates {
            self.forget();
        }
    }

    /// There are too many values to count each.
    fn begin_to_share(&mut self) {
        let mut counters = vec![0; DEPTH * self.width()];
        for (value, count) in &self.known {
            self.places(value).into_iter().for_each(|place| counters[place] += count);
        }
        self.counters = Some(counters);
    }

    /// Forgets all but the candidates with the largest counters.
    fn forget(&mut self) {
        let mut known: Vec<(u64, Box<[u8]>)> =
            std::mem::take(&mut self.known).into_keys().map(|value| (self.estimate(&value), value)).collect();
        known.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        known.truncate(self.candidates);
        self.bytes = known.iter().map(|(_, value)| value.len() + size_of::<(Box<[u8]>, u64)>()).sum();
        self.known = known.into_iter().map(|(count, value)| (value, count)).collect();
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let Some(theirs) = &other.counters else {
            other.known.iter().for_each(|(value, count)| self.add(value, *count));
            return;
        };
        if self.counters.is_none() {
            self.begin_to_share();
        }
        self.rows += other.rows;
        if let Some(counters) = &mut self.counters {
            counters.iter_mut().zip(theirs).for_each(|(own, their)| *own += their);
        }
        other.known.keys().for_each(|value| self.remember(value, 0));
    }

    /// The most frequent values, at most so many, most frequent first; those that come as often in the order of their
    /// bytes. Not those with a share below [`Frequent::share_min`].
    pub(super) fn most(&self, n_values: usize) -> Vec<Counted> {
        let least = self.least();
        let counted = self.known.keys().map(|value| Counted { value: value.clone(), count: self.estimate(value) });
        let mut counted: Vec<Counted> = counted.filter(|counted| counted.count >= least).collect();
        counted.sort_unstable_by(|one, other| other.count.cmp(&one.count).then_with(|| one.value.cmp(&other.value)));
        counted.truncate(n_values);
        counted
    }

    /// The least count a value is put out with: two of as many parts of the rows as there are candidates.
    fn least(&self) -> u64 {
        if self.counters.is_some() { (2 * self.rows).div_ceil(self.candidates as u64) } else { 0 }
    }

    /// By how much a count may be too large: by more only once in e^4 times. Euler's number of parts of the rows that
    /// one row of counters has.
    pub(super) fn error(&self) -> u64 {
        if self.counters.is_some() { (self.rows * 2719).div_ceil(1000 * self.width() as u64) } else { 0 }
    }

    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.bytes + self.counters.as_ref().map_or(0, |counters| counters.len() * size_of::<u64>())
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend((self.candidates as u64).to_le_bytes());
        bytes.extend(self.rows.to_le_bytes());
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_unstable();
        bytes.extend((known.len() as u64).to_le_bytes());
        for (value, count) in known {
            bytes.extend((value.len() as u64).to_le_bytes());
            bytes.extend(value.iter());
            bytes.extend(count.to_le_bytes());
        }
        for counter in self.counters.iter().flatten() {
            bytes.extend(counter.to_le_bytes());
        }
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reading = Reading(bytes);
        if reading.take::<1>()? != [FORMAT] {
            return None;
        }
        let candidates = usize::try_from(u64::from_le_bytes(reading.take()?)).ok()?;
        if !candidates.is_power_of_two() || candidates > 1 << 20 {
            return None;
        }
        let mut parsed = Self::new(candidates);
        let rows = u64::from_le_bytes(reading.take()?);
        for _ in 0..u64::from_le_bytes(reading.take()?) {
            let len = usize::try_from(u64::from_le_bytes(reading.take()?)).ok()?;
            let value = reading.slice(len)?;
            let count = u64::from_le_bytes(reading.take()?);
            parsed.bytes += value.len() + size_of::<(Box<[u8]>, u64)>();
            parsed.known.insert(value.into(), count);
        }
        parsed.rows = rows;
        if !reading.0.is_empty() {
            let counters = reading.0.chunks_exact(size_of::<u64>());
            if reading.0.len() != DEPTH * parsed.width() * size_of::<u64>() {
                return None;
            }
            let counter = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
            parsed.counters = Some(counters.map(counter).collect::<Option<_>>()?);
        }
        Some(parsed)
    }
}
