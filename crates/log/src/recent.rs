//! The newest commits as they were decoded, for readers that are close to the end: however many there are, they
//! share this one copy. Kept only while there is a reader, up to a number of bytes; who is further behind reads
//! from the disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use weir_base::{StreamName, TenantId};

use crate::Record;
use crate::format::ALIGN;

/// A commit: everything from one offset up to another.
#[derive(Debug)]
struct Entry {
    offset: u64,
    end: u64,
    bytes: usize,
    records: Vec<Record>,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first, without gaps.
    entries: VecDeque<Entry>,
    bytes: usize,
}

/// The newest commits of a shard.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    state: Mutex<State>,
    readers: AtomicUsize,
}

/// What the newest commits hold for a reader.
#[derive(Debug)]
pub(crate) enum Held {
    /// A record, and where to go on after it.
    Record(Box<Record>, u64),
    /// Nothing up to here.
    Passed(u64),
    /// What it wants is older, or newer.
    Elsewhere,
}

impl Recent {
    pub(crate) fn begin_reader(&self) {
        self.readers.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn end_reader(&self) {
        if self.readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.state.lock() = State::default();
        }
    }

    /// A commit has become durable.
    pub(crate) fn push(&self, offset: u64, end: u64, records: &[Record], bytes_max: usize) {
        if self.readers.load(Ordering::Acquire) == 0 {
            return;
        }
        let bytes = records.iter().map(|record| record.batch.get_array_memory_size()).sum();
        let mut state = self.state.lock();
        if state.entries.back().is_some_and(|last| last.end != offset) {
            *state = State::default();
        }
        state.entries.push_back(Entry { offset, end, bytes, records: records.to_vec() });
        state.bytes += bytes;
        while state.bytes > bytes_max || state.entries.len() > ENTRIES_MAX {
            let Some(gone) = state.entries.pop_front() else { break };
            state.bytes -= gone.bytes;
        }
    }

    /// How many rows of a stream there are from `at` on; `None` if some of them may be older than what is here.
    pub(crate) fn rows(&self, tenant: &TenantId, stream: &StreamName, at: u64) -> Option<u64> {
        let state = self.state.lock();
        let first = state.entries.partition_point(|entry| entry.end <= at);
        state.entries.get(first).filter(|entry| entry.offset <= at)?;
        let records = state.entries.range(first..).flat_map(|entry| &entry.records);
        let wanted = records
            .filter(|record| record.position.offset >= at && record.stream == *stream && record.tenant == *tenant);
        Some(wanted.map(|record| record.batch.num_rows() as u64).sum())
    }

    /// The first record of a stream at `at` or after it.
    pub(crate) fn find(&self, tenant: &TenantId, stream: &StreamName, at: u64) -> Held {
        let state = self.state.lock();
        let first = state.entries.partition_point(|entry| entry.end <= at);
        match state.entries.get(first) {
            Some(entry) if entry.offset <= at => {}
            _ => return Held::Elsewhere,
        }
        let mut end = at;
        for entry in state.entries.range(first..) {
            let mut wanted = entry
                .records
                .iter()
                .filter(|record| record.position.offset >= at && record.stream == *stream && record.tenant == *tenant);
            if let Some(record) = wanted.next() {
                let after = match wanted.next() {
                    Some(_) => after(record.position.offset, entry.end),
                    None => entry.end,
                };
                return Held::Record(Box::new(record.clone()), after);
            }
            end = entry.end;
        }
        Held::Passed(end)
    }
}

/// So many commits, however small.
const ENTRIES_MAX: usize = 1024;

/// The place after a record of a block that ends at `end`.
pub(crate) fn after(record: u64, end: u64) -> u64 {
    // The number of a record stands in the low bits: the last one has no place after it but the end.
    if (record + 1).is_multiple_of(ALIGN) { end } else { record + 1 }
}
