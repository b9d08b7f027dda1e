//! What is still to be read: files not yet looked into, and row groups, by their newest row.
//!
//! All partitions of a query take from one queue, so that together they go from new to old, however
//! files overlap.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::datasource::physical_plan::parquet::RowGroupAccess;
use tokio::sync::Mutex;

use super::file::{Prepared, Scan};
use super::newest::{Newest, Wanted};
use crate::tables::TableFileView;

/// A row group of a file, and what of it.
pub(super) struct Place {
    pub(super) file: Arc<Prepared>,
    pub(super) group: usize,
    pub(super) access: RowGroupAccess,
}

enum Item {
    File(usize),
    Group(Place),
}

struct Ranked {
    newest: i64,
    /// Of equals the one that was put in first.
    number: Reverse<usize>,
    item: Item,
}

impl Ranked {
    fn rank(&self) -> (i64, Reverse<usize>) {
        (self.newest, self.number)
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// The queue of one execution.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    newest: Option<Arc<Newest>>,
}

struct Inner {
    heap: BinaryHeap<Ranked>,
    count: usize,
    /// Files that are left out by what the catalogue knows of them have been taken out.
    pruned: bool,
}

impl Inner {
    fn push(&mut self, newest: i64, item: Item) {
        self.heap.push(Ranked { newest, number: Reverse(self.count), item });
        self.count += 1;
    }
}

impl Queue {
    /// A queue of the files for which `takes` is true.
    pub(super) fn of(files: &[Arc<dyn TableFileView>], wanted: Option<Wanted>, takes: impl Fn(usize) -> bool) -> Self {
        let mut inner = Inner { heap: BinaryHeap::new(), count: 0, pruned: false };
        for (at, file) in files.iter().enumerate().filter(|(at, _)| takes(*at)) {
            inner.push(file.entry().max_time.0, Item::File(at));
        }
        Self { inner: Mutex::new(inner), newest: wanted.map(|wanted| Arc::new(Newest::new(wanted))) }
    }

    /// What all who take from it have found together.
    pub(super) fn newest(&self) -> Option<Arc<Newest>> {
        self.newest.clone()
    }

    /// The row group with the newest row of all that are left and may have wanted rows.
    pub(super) async fn take(&self, scan: &Scan) -> Result<Option<Place>> {
        let mut inner = self.inner.lock().await;
        if !inner.pruned {
            inner.pruned = true;
            let kept = scan.prune_files()?;
            inner.heap.retain(|ranked| match &ranked.item {
                Item::File(at) => kept.get(*at).copied().unwrap_or(true),
                Item::Group(_) => true,
            });
        }
        while let Some(Ranked { newest, item, .. }) = inner.heap.pop() {
            if newest <= scan.threshold()? {
                // All the others are older still.
                inner.heap.clear();
                break;
            }
            match item {
                Item::Group(place) => return Ok(Some(place)),
                Item::File(at) => {
                    let file = scan.prepare(at).await?;
                    for (group, access) in file.accesses(scan)? {
                        let place = Place { file: Arc::clone(&file), group, access };
                        // What the catalogue says of the file bounds what the footer does not say.
                        let newest = file.newest_of_group(group).unwrap_or(newest).min(newest);
                        inner.push(newest, Item::Group(place));
                    }
                }
            }
        }
        Ok(None)
    }
}
