//! The metadata database: tenants, keys, limits, attribute kinds, pipelines, and the catalogue of table
//! files.
//!
//! One SQLite file, written through one connection. What requests need on their way (tenants,
//! verified keys, attribute kinds) is kept in memory, so reads rarely touch it.
//!
//! Stock SQLite does not notice a flipped bit, so rows that matter carry a CRC32C over their columns
//! and primary key ([`checksum`]), and each table of the catalogue a count and a sum of its rows.
//!
//! Invariant: a damaged row harms its tenant (or its key) and nobody else, and is never returned.
//!
//! Invariant: this process is the only writer while it runs (the data directory is locked); the
//! caches rely on it. [`Meta::begin_writer`] is the second fence behind that lock.

pub mod attributes;
pub mod bootstrap;
pub mod catalogue;
mod checksum;
mod database;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod keys;
pub mod limits;
mod migrations;
pub mod pepper;
pub mod pipelines;
pub mod streams;
mod sums;
pub mod tenants;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use weir_base::Clock;
use weir_base::secret::Secret;

pub use error::{DamagedRow, MetaError};

/// The open metadata database. Every method is quick: reads come from memory or one indexed row,
/// writes are one transaction with one fsync.
#[derive(Debug)]
pub struct Meta {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// The one connection that writes.
    writer: Mutex<rusqlite::Connection>,
    /// Reads that must not wait for a writer's fsync.
    reader: Mutex<rusqlite::Connection>,
    tenants: tenants::TenantCache,
    keys: keys::KeyStore,
    attributes: attributes::AttributeCache,
    streams: streams::StreamCache,
    damage: error::DamageList,
}

impl Meta {
    /// Opens the database at `path`, creating it if it is absent, and brings its schema up to date.
    ///
    /// `pepper` is the secret under which keys are hashed; a database made with another one is
    /// refused, because every key would be.
    ///
    /// # Errors
    /// [`MetaError::NewerSchema`] for a database of a later version of Weir,
    /// [`MetaError::WrongPepper`], or whatever SQLite reports. Damaged rows are no error: see
    /// [`Meta::damage`].
    pub fn open(path: &Path, pepper: Secret<[u8; 32]>, clock: Arc<dyn Clock>) -> Result<Arc<Self>, MetaError> {
        let damage = error::DamageList::default();
        let mut writer = database::open_writer(path, &damage)?;
        migrations::apply(&mut writer, clock.now())?;
        migrations::check_schema(&writer)?;
        let reader = database::open_reader(path)?;
        database::sync_directory(path)?;
        let meta = Self {
            path: path.to_owned(),
            keys: keys::KeyStore::new(&pepper),
            clock,
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            tenants: tenants::TenantCache::default(),
            attributes: attributes::AttributeCache::default(),
            streams: streams::StreamCache::default(),
            damage,
        };
        meta.check_pepper()?;
        meta.load_tenants()?;
        meta.ensure_system_tenant()?;
        meta.load_streams()?;
        meta.look_for_damaged_keys()?;
        Ok(Arc::new(meta))
    }

    /// The database file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Damage found so far, each piece once.
    pub fn damage(&self) -> Vec<DamagedRow> {
        self.damage.list()
    }

    /// Runs `work` in one transaction of the writer; an error rolls it back.
    fn write<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, MetaError>,
    ) -> Result<T, MetaError> {
        self.write_then(action, work, |_| ())
    }

    /// As `write`; once the transaction is committed, and before the next may begin, `then` brings
    /// the caches up to date. They never show what was not committed, nor an older state after a
    /// newer one.
    fn write_then<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, MetaError>,
        then: impl FnOnce(&T),
    ) -> Result<T, MetaError> {
        let mut connection = self.writer.lock();
        let transaction = connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(|error| MetaError::database(action, error))?;
        let value = work(&transaction)?;
        transaction.commit().map_err(|error| MetaError::database(action, error))?;
        then(&value);
        drop(connection);
        Ok(value)
    }

    /// Takes note of damage: once in the log, and in [`Meta::damage`].
    fn note_damage(&self, row: &DamagedRow) {
        self.damage.note(row);
    }
}
