//! Streams that tenants have defined: their columns, kept for as long as there is a row of them anywhere.
//!
//! All definitions are in memory ([`StreamRegistry`]), where everybody looks who meets a row. One that is damaged or gone
//! is left out there: the table of such a stream is not served, and holds its rows in the log.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use parking_lot::RwLock;
use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Transaction};
use weir_base::{StreamName, TenantId};
use weir_data::defined::StreamRegistry;
use weir_data::streams::StreamDef;

use crate::checksum::{CheckedTable, Fields, checksum_in, checksum_of};
use crate::error::is_damage;
use crate::sums::{self, OF_TENANT, Sums};
use crate::{DamagedRow, Meta, MetaError};

/// Streams of its own a tenant has at most.
pub const STREAMS_MAX: u64 = 2_000;

pub(crate) static STREAMS: CheckedTable =
    CheckedTable { name: "streams", key: &["tenant", "name"], rest: &["columns", "created_at", "changed_at"] };

/// The definitions in memory.
#[derive(Debug, Default)]
pub(crate) struct StreamCache {
    registry: Arc<StreamRegistry>,
    /// Tenants of which definitions are damaged or gone: nobody knows which of their streams there are.
    damaged: RwLock<HashMap<TenantId, DamagedRow>>,
}

impl StreamCache {
    pub(crate) fn forget(&self, tenant: &TenantId) {
        self.registry.forget(tenant);
        self.damaged.write().remove(tenant);
    }
}

struct StreamRecord {
    tenant: TenantId,
    stream: StreamDef,
    created_at: i64,
}

fn decode(mut fields: Fields) -> Result<StreamRecord, DamagedRow> {
    let (tenant, name) = (fields.text(), fields.text());
    let unreadable = fields.unreadable(&format!("{tenant}/{name}"));
    let (columns, created_at) = (fields.blob(), fields.int());
    let parsed = (|| {
        let (tenant, name) = (TenantId::new(&tenant).ok()?, StreamName::new(&name).ok()?);
        let stream = StreamDef::decode(&name, &columns).ok()?;
        Some(StreamRecord { tenant, stream, created_at })
    })();
    parsed.ok_or(unreadable)
}

fn failed(error: rusqlite::Error) -> MetaError {
    MetaError::database("read the streams of tenants", error)
}

fn read(transaction: &Transaction<'_>, tenant: &TenantId, name: &str) -> Result<Option<StreamRecord>, MetaError> {
    let row = transaction
        .prepare_cached(&STREAMS.select("WHERE tenant = ?1 AND name = ?2"))
        .and_then(|mut statement| statement.query_row([tenant.as_str(), name], |row| STREAMS.read(row)).optional())
        .map_err(failed)?;
    match row.map(|row| row.and_then(decode)) {
        None => Ok(None),
        Some(Ok(record)) => Ok(Some(record)),
        Some(Err(row)) => Err(MetaError::Corrupt(DamagedRow { tenant: Some(tenant.clone()), ..row })),
    }
}

impl Meta {
    /// All streams there are. Always as the database is.
    pub fn streams(&self) -> &Arc<StreamRegistry> {
        &self.streams.registry
    }

    /// Reads the definitions. Damage is noted and costs the streams it hits.
    pub(crate) fn load_streams(&self) -> Result<(), MetaError> {
        let reader = self.reader.lock();
        let mut statement = reader.prepare(&STREAMS.select("ORDER BY tenant, name")).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut found: HashMap<String, Sums> = HashMap::new();
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) if is_damage(&error) => {
                    self.note_damage(&STREAMS.damaged(&[], "a page of the table cannot be read"));
                    break;
                }
                Err(error) => return Err(failed(error)),
            };
            let crc = checksum_of(row).map_err(failed)?;
            match STREAMS.read(row).map_err(failed)?.and_then(decode) {
                Ok(record) => {
                    found.entry(record.tenant.to_string()).or_default().add(crc);
                    self.streams.registry.set(&record.tenant, Arc::new(record.stream));
                }
                Err(damaged) => self.note_damage(&damaged),
            }
        }
        for tenant in self.tenants.ids() {
            let found = found.get(tenant.as_str()).copied().unwrap_or_default();
            let damaged = match Sums::read(&reader, &STREAMS, tenant.as_str())? {
                Some(Ok(sums)) if sums != found => STREAMS.damaged(&[Value::Text(tenant.to_string())], sums::PROBLEM),
                Some(Err(row)) => row,
                Some(Ok(_)) | None => continue,
            };
            let damaged = DamagedRow { tenant: Some(tenant.clone()), ..damaged };
            self.note_damage(&damaged);
            self.streams.damaged.write().insert(tenant, damaged);
        }
        Ok(())
    }

    /// Sees to it that a tenant has a stream with these columns and this key: made if it is not there, with new columns at
    /// its end if it lacks some. Durable when this returns; costs nothing if nothing changes.
    ///
    /// # Errors
    /// [`MetaError::Invalid`] if the name is taken, a column cannot be kept or the key is another one, [`MetaError::Limit`] past
    /// [`STREAMS_MAX`], [`MetaError::Corrupt`] if definitions of the tenant are damaged.
    pub fn define_stream(
        &self,
        tenant: &TenantId,
        name: &str,
        columns: &Schema,
        key: &[String],
    ) -> Result<Arc<StreamDef>, MetaError> {
        let invalid = |error: weir_data::defined::ColumnsError| MetaError::invalid("/stream", error.to_string(), "");
        if let Some(known) = self.streams.registry.get(tenant, name) {
            let defined = StreamDef::define(name, Some(&known), columns, key).map_err(invalid)?;
            if defined.schema == known.schema {
                return Ok(known);
            }
        } else if let Some(damaged) = self.streams.damaged.read().get(tenant) {
            return Err(MetaError::Corrupt(damaged.clone()));
        }
        let now = self.clock.now();
        let work = |transaction: &Transaction<'_>| {
            if !crate::tenants::is_live(transaction, tenant)? {
                return Err(MetaError::not_found("tenant", tenant));
            }
            let before = read(transaction, tenant, name)?;
            if before.is_none() {
                let current: i64 = transaction
                    .query_row("SELECT count(*) FROM streams WHERE tenant = ?1", [tenant.as_str()], |row| row.get(0))
                    .map_err(failed)?;
                let current = u64::try_from(current).unwrap_or(0);
                if current >= STREAMS_MAX {
                    return Err(MetaError::Limit { name: "streams", value: STREAMS_MAX, current });
                }
            }
            let stream =
                StreamDef::define(name, before.as_ref().map(|before| &before.stream), columns, key).map_err(invalid)?;
            let bytes = stream
                .encode()
                .map_err(|error| MetaError::invalid("/stream", format!("the columns cannot be stored: {error}"), ""))?;
            let row = STREAMS.sealed(vec![
                Value::Text(tenant.to_string()),
                Value::Text(name.to_owned()),
                Value::Blob(bytes),
                Value::Integer(before.map_or(now.0, |before| before.created_at)),
                Value::Integer(now.0),
            ]);
            let mut sums = Sums::change(transaction, &STREAMS, tenant.as_str(), OF_TENANT)?;
            let stored = transaction
                .prepare_cached("SELECT crc FROM streams WHERE tenant = ?1 AND name = ?2")
                .and_then(|mut found| found.query_row([tenant.as_str(), name], checksum_of).optional())
                .map_err(failed)?;
            if let Some(stored) = stored {
                sums.remove(stored);
            }
            sums.add(checksum_in(&row));
            sums.finish(transaction)?;
            transaction
                .prepare_cached(&STREAMS.put())
                .and_then(|mut statement| statement.execute(rusqlite::params_from_iter(row)))
                .map_err(|error| MetaError::database("write the definition of a stream", error))?;
            Ok(Arc::new(stream))
        };
        self.write_then("define a stream", work, |stream| self.streams.registry.set(tenant, Arc::clone(stream)))
    }
}

#[cfg(test)]
mod tests;
