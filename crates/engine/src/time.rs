//! Event time of one source: what is known of it in each partition, and in all of them.
//!
//! The watermark of a partition is its newest event time less the disorder it may have; no row before it
//! is expected. A row's own watermark is that of its partition just before the row. It alone decides
//! whether the row is late, so that the decision is the same however partitions are interleaved.
//! A row advances time by the smaller one of its event time and its arrival, so that one wrong clock
//! in the future does not make everybody late.
//!
//! The watermark of the source is the smallest of its partitions; once all are idle, that of other sources
//! ([`crate::idleness`]). A partition that begins later, or comes back after it was idle, begins at the watermark the
//! source has then: it cannot go back.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use arrow::buffer::ScalarBuffer;
use serde::{Deserialize, Serialize};
use weir_component::source::PartitionName;

use crate::insight::PartitionView;

/// What is known of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Partition {
    /// The newest time seen.
    newest: Option<i64>,
    /// Where it began: no row of it is on time before this.
    floor: i64,
    /// It does not hold back the others.
    idle: bool,
    /// It has been there since the beginning or has said something.
    #[serde(skip)]
    quiet: Duration,
}

/// Event time of one source, as it stands in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceTime {
    partitions: BTreeMap<String, Partition>,
    /// The watermark of all, as it was told last.
    told: Option<i64>,
    /// How long it has been silent while it had no partition.
    #[serde(skip)]
    without: Duration,
    /// That was long enough.
    #[serde(skip)]
    is_without: bool,
}

/// What a batch of rows is, seen by its partition.
#[derive(Debug)]
pub(crate) struct Stamped {
    /// The watermark of each row, if one of them is behind its own.
    pub(crate) watermarks: Option<ScalarBuffer<i64>>,
}

impl Partition {
    fn be_quiet(&mut self, passed: Duration, idle: Duration) {
        self.quiet = self.quiet.saturating_add(passed);
        if self.quiet >= idle {
            self.idle = true;
        }
    }

    fn watermark(&self, disorder: i64) -> Option<i64> {
        match self.newest {
            Some(newest) => Some(newest.saturating_sub(disorder).max(self.floor)),
            None if self.floor > i64::MIN => Some(self.floor),
            None => None,
        }
    }
}

impl SourceTime {
    /// The partitions there are now. New ones begin at the watermark of the source; ended ones are
    /// forgotten.
    pub(crate) fn set_partitions(&mut self, names: &[PartitionName]) {
        let known: HashSet<&str> = names.iter().map(AsRef::as_ref).collect();
        self.partitions.retain(|name, _| known.contains(name.as_str()));
        let floor = self.told.unwrap_or(i64::MIN);
        for name in names {
            if !self.partitions.contains_key(name.as_ref()) {
                let begun = Partition { newest: None, floor, idle: false, quiet: Duration::ZERO };
                self.partitions.insert(name.to_string(), begun);
            }
        }
    }

    /// Takes note of rows of a partition, in their order.
    pub(crate) fn stamp(
        &mut self,
        name: &PartitionName,
        times: &[i64],
        arrived: Option<&[i64]>,
        disorder: i64,
    ) -> Stamped {
        let floor = self.told.unwrap_or(i64::MIN);
        let partition = self.partitions.entry(name.to_string()).or_insert(Partition {
            newest: None,
            floor,
            idle: false,
            quiet: Duration::ZERO,
        });
        if partition.idle {
            partition.idle = false;
            partition.floor = partition.floor.max(floor);
        }
        partition.quiet = Duration::ZERO;
        let advance = |row: usize| arrived.map_or(times[row], |arrived| times[row].min(arrived[row]));
        let before = partition.watermark(disorder).unwrap_or(i64::MIN);
        // Most batches are in order within the disorder, from their first row to their last; those that are not are looked
        // at row by row, and only rows behind the watermark of one of them need one each.
        let least = times.iter().copied().min().unwrap_or(i64::MAX);
        let most = match arrived {
            None => times.iter().copied().max(),
            Some(arrived) => times.iter().zip(arrived).map(|(time, arrived)| *time.min(arrived)).max(),
        };
        let newest = partition.newest.max(most);
        let is_plain = newest.is_none_or(|newest| least >= newest.saturating_sub(disorder).max(before));
        let is_behind = !is_plain && {
            let mut newest = partition.newest;
            (0..times.len()).any(|row| {
                let watermark = newest.map_or(before, |newest| newest.saturating_sub(disorder).max(before));
                newest = newest.max(Some(advance(row)));
                times[row] < watermark
            })
        };
        let watermarks = is_behind.then(|| {
            let mut newest = partition.newest;
            let watermark = |(row, _): (usize, &i64)| {
                let watermark = newest.map_or(before, |newest| newest.saturating_sub(disorder).max(before));
                newest = Some(newest.map_or(advance(row), |newest| newest.max(advance(row))));
                watermark
            };
            times.iter().enumerate().map(watermark).collect::<Vec<i64>>().into()
        });
        partition.newest = newest;
        Stamped { watermarks }
    }

    /// Time has passed in a partition without rows: as if a row of `time` had come.
    pub(crate) fn pass(&mut self, name: &PartitionName, time: i64) {
        let floor = self.told.unwrap_or(i64::MIN);
        let begun = Partition { newest: None, floor, idle: false, quiet: Duration::ZERO };
        let partition = self.partitions.entry(name.to_string()).or_insert(begun);
        partition.newest = Some(partition.newest.map_or(time, |newest| newest.max(time)));
    }

    /// The watermark of the source, if it has risen.
    pub(crate) fn risen(&mut self, disorder: i64) -> Option<i64> {
        let active = || self.partitions.values().filter(|partition| !partition.idle);
        let smallest = active().map(|partition| partition.watermark(disorder)).min()??;
        if self.told.is_some_and(|told| told >= smallest) {
            return None;
        }
        self.told = Some(smallest);
        Some(smallest)
    }

    /// The watermark of the source, as it was told last.
    pub(crate) fn told(&self) -> Option<i64> {
        self.told
    }

    /// Time has come as far as that without rows, because others have that it is read together with: rows of no partition are on
    /// time before it.
    pub(crate) fn follow(&mut self, told: Option<i64>) {
        if told > self.told {
            self.told = told;
            let floor = told.unwrap_or(i64::MIN);
            for partition in self.partitions.values_mut() {
                partition.floor = partition.floor.max(floor);
            }
        }
    }

    /// Whether other sources need not wait for it: it has been silent for so long in all its partitions, or has none.
    pub(crate) fn is_idle(&self) -> bool {
        if self.partitions.is_empty() {
            self.is_without
        } else {
            self.partitions.values().all(|partition| partition.idle)
        }
    }

    /// The watermark of the source, if others have to wait for it: it has one, and not all partitions are idle.
    pub(crate) fn holds_back(&self) -> Option<i64> {
        self.partitions.values().any(|partition| !partition.idle).then_some(self.told).flatten()
    }

    /// Some time passed in which the source was asked and had nothing. Partitions that were quiet for
    /// `idle` do not hold back the others any more; if all are, time goes on with other sources only.
    pub(crate) fn quiet(&mut self, passed: Duration, idle: Duration) {
        self.without = if self.partitions.is_empty() { self.without.saturating_add(passed) } else { Duration::ZERO };
        self.is_without = self.without >= idle;
        for partition in self.partitions.values_mut() {
            partition.be_quiet(passed, idle);
        }
    }

    /// Some time passed in which one partition had nothing, while others had.
    pub(crate) fn quiet_one(&mut self, name: &str, passed: Duration, idle: Duration) {
        if let Some(partition) = self.partitions.get_mut(name) {
            partition.be_quiet(passed, idle);
        }
    }

    /// The partitions, by name.
    pub(crate) fn partitions(&self, disorder: i64) -> Vec<PartitionView> {
        let view = |(name, partition): (&String, &Partition)| PartitionView {
            name: name.clone(),
            watermark: partition.watermark(disorder),
            idle: partition.idle,
            lag_rows: None,
        };
        self.partitions.iter().map(view).collect()
    }

    /// The partition that holds back the others.
    pub(crate) fn behind(&self, disorder: i64) -> Option<&str> {
        let active = self.partitions.iter().filter(|(_, partition)| !partition.idle);
        active.min_by_key(|(_, partition)| partition.watermark(disorder)).map(|(name, _)| name.as_str())
    }
}

#[cfg(test)]
mod tests;
