//! Taking rows away: by age, and with their tenant.
//!
//! Only whole files go, and only once every row in them is past its time. A row's time is its
//! `time` where that is believable, else when it was received, as for partitions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weir_base::{ErrorKind, StreamName, TenantId, Timestamp};
use weir_meta::catalogue::{FileEntry, FileId};

use crate::StoreError;
use crate::file::TableFile;
use crate::partition::{effective_time_max, end_of};
use crate::seam::Owner;
use crate::store::{Store, catalogue_error};
use crate::table::Table;

/// The guard holds a table so long, by the monotonic clock.
const HELD_MAX: Duration = Duration::from_secs(86_400);

/// How much one pass may take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// At most half of a table's rows; a table with more to expire is left alone and reported, until
    /// an operator confirms ([`Store::confirm_expiry`]) or a day has gone by. A clock that jumped
    /// must not empty every table.
    Guarded,
    /// Everything past its time: the operator has said so.
    Confirmed,
}

/// What one pass of retention did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionReport {
    /// Files taken away.
    pub files: usize,
    /// Their rows.
    pub rows: u64,
    /// Tables that would have lost more than half their rows and were left alone.
    pub held: Vec<(TenantId, StreamName)>,
    /// Deleted tenants whose rows were removed.
    pub dropped_tenants: Vec<TenantId>,
}

/// No row of the file is partitioned or expired by a later time.
pub(crate) fn latest(entry: &FileEntry) -> Timestamp {
    let received = Timestamp(effective_time_max(entry.max_received_at.0));
    let Some(end) = end_of(&entry.partition) else { return received };
    // Without a flagged row every time is believable, and the largest is the bound. The partition
    // is asked all the same: a `time` outside of it cannot be what the rows went by.
    let within = entry.max_time < end && end.since(entry.max_time) <= Duration::from_secs(86_400);
    if within && !entry.columns.contains_key("time_flag") {
        return entry.max_time;
    }
    end.min(received)
}

fn not_deleted(tenant: &TenantId) -> StoreError {
    StoreError::Catalogue {
        attempt: "drop the files of a tenant",
        kind: ErrorKind::Conflict,
        source: format!("tenant `{tenant}` is not deleted").into(),
    }
}

/// The error of a table whose owner the catalogue does not know.
pub(crate) fn ownerless(tenant: &TenantId) -> StoreError {
    StoreError::Corrupt {
        file: "the catalogue".into(),
        offset: 0,
        what: format!("nothing is known of tenant `{tenant}`, which has rows; they are kept"),
    }
}

impl Store {
    /// Expires files by their tenant's limits, and removes what deleted tenants have left.
    ///
    /// # Errors
    /// The first failure; other tables are looked at all the same.
    pub fn retain_once(&self, expiry: Expiry) -> Result<RetentionReport, StoreError> {
        let mut report = RetentionReport::default();
        let mut failure = None;
        let now = self.clock.now();
        for table in self.all_tables() {
            let result = match self.catalogue.owner(&table.tenant, &table.name) {
                Ok(Owner::Deleted) if report.dropped_tenants.contains(&table.tenant) => Ok(()),
                Ok(Owner::Deleted) => self.drop_tenant(&table.tenant).map(|()| {
                    report.dropped_tenants.push(table.tenant.clone());
                }),
                Ok(Owner::Unknown) => Err(ownerless(&table.tenant)),
                Ok(Owner::Keeps(retention)) => self.expire(&table, now.minus(retention), expiry, &mut report),
                Err(error) => Err(catalogue_error("look up the owner of a table")(error)),
            };
            if let Err(error) = result {
                tracing::error!(
                    tenant = %table.tenant,
                    stream = %table.name,
                    error = %weir_base::error::chain(&error),
                    "cannot expire rows"
                );
                failure = failure.or(Some(error));
            }
        }
        // What a deletion has left that was interrupted between its files and its rows.
        if let Err(error) = self.catalogue.purge_deleted() {
            let error = catalogue_error("remove what deleted tenants have left")(error);
            tracing::error!(error = %weir_base::error::chain(&error), "cannot finish a deletion");
            failure = failure.or(Some(error));
        }
        self.retention_held.lock().clone_from(&report.held);
        failure.map_or(Ok(report), Err)
    }

    /// An operator confirms that the next pass of retention may take everything of a table that is
    /// past its time, even if that is most of it. Answers false if there is no such table.
    pub fn confirm_expiry(&self, tenant: &TenantId, stream: &StreamName) -> bool {
        let exists = self.existing(tenant, stream).is_some();
        if exists {
            self.retention_confirmed.lock().insert((tenant.clone(), stream.clone()));
        }
        exists
    }

    /// Whether the guard has held a table for so long that a jump of the clock would have been seen.
    fn is_held_long(&self, key: &(TenantId, StreamName), now: Duration) -> bool {
        self.retention_held_since.lock().get(key).is_some_and(|since| now.saturating_sub(*since) >= HELD_MAX)
    }

    fn expire(
        &self,
        table: &Arc<Table>,
        before: Timestamp,
        expiry: Expiry,
        report: &mut RetentionReport,
    ) -> Result<(), StoreError> {
        let _guard = table.rearranging.lock();
        let files = table.look(|state| Arc::clone(&state.files));
        let expired: Vec<Arc<TableFile>> = files.iter().filter(|file| latest(&file.entry) < before).cloned().collect();
        let key = (table.tenant.clone(), table.name.clone());
        let confirmed = self.retention_confirmed.lock().remove(&key);
        if expired.is_empty() {
            self.retention_held_since.lock().remove(&key);
            return Ok(());
        }
        let rows = |files: &[Arc<TableFile>]| files.iter().map(|file| file.entry.rows).sum::<u64>();
        let total = rows(&files) + table.look(|state| state.unflushed_rows);
        let gone = rows(&expired);
        let now = self.clock.monotonic();
        if expiry == Expiry::Guarded && gone > total / 2 && !confirmed && !self.is_held_long(&key, now) {
            tracing::error!(
                tenant = %table.tenant,
                stream = %table.name,
                rows = gone,
                of = total,
                "retention would take more than half of a table; left alone until an operator confirms, or for a day"
            );
            self.retention_held_since.lock().entry(key.clone()).or_insert(now);
            report.held.push(key);
            return Ok(());
        }
        let ids: Vec<FileId> = expired.iter().map(|file| file.entry.id).collect();
        if let Err(error) = self.commit(table, Vec::new(), &ids, None) {
            if confirmed {
                self.retention_confirmed.lock().insert(key);
            }
            return Err(error);
        }
        self.retention_held_since.lock().remove(&key);
        table.replace_files(&expired, Vec::new());
        self.counters.expired_files.fetch_add(expired.len() as u64, Ordering::Relaxed);
        report.files += expired.len();
        report.rows += gone;
        Ok(())
    }

    /// Removes all files, positions and waiting rows of a tenant. Queries that run keep what they
    /// have pinned until they end.
    ///
    /// # Errors
    /// If the catalogue refuses, as it does unless the tenant is deleted; calling it again, or the next pass of retention, finishes the work.
    pub fn drop_tenant(&self, tenant: &TenantId) -> Result<(), StoreError> {
        let tables: Vec<Arc<Table>> = self.all_tables().into_iter().filter(|table| table.tenant == *tenant).collect();
        // Asked first: a table that is marked takes no more rows.
        if let Some(table) = tables.first() {
            match self.catalogue.owner(tenant, &table.name).map_err(catalogue_error("look up the owner of a table"))? {
                Owner::Deleted => {}
                Owner::Keeps(_) => return Err(not_deleted(tenant)),
                Owner::Unknown => return Err(ownerless(tenant)),
            }
        }
        for table in &tables {
            table.mark_dropped();
        }
        // Flushes and compactions at work see the mark and give up; no new commit can follow.
        for table in &tables {
            drop(table.flushing.lock());
            drop(table.rearranging.lock());
        }
        self.catalogue.drop_table_files(tenant).map_err(catalogue_error("drop the files of a tenant"))?;
        for table in &tables {
            table.clear();
            self.forget_table(table);
            let key = (table.tenant.clone(), table.name.clone());
            self.retention_held_since.lock().remove(&key);
            self.retention_confirmed.lock().remove(&key);
        }
        self.keeper_signal.raise();
        Ok(())
    }
}
