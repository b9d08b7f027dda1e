//! Rows of keys as they are written, with the sums of their tenants, and the look at all of them at the
//! start.

use std::collections::HashMap;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction};
use weir_base::error::Kinded;
use weir_base::{ErrorKind, TenantId, Timestamp};

use super::{KEYS, KeyKind, StoredKey, decode, encode};
use crate::checksum::{checksum_in, checksum_of};
use crate::error::is_damage;
use crate::sums::{self, OF_TENANT, SUMS, Sums};
use crate::{DamagedRow, Meta, MetaError};

pub(crate) fn write_key(transaction: &Transaction<'_>, key: &StoredKey) -> Result<(), MetaError> {
    let row = encode(key);
    let mut sums = Sums::change(transaction, &KEYS, key.record.tenant.as_str(), OF_TENANT)?;
    if let Some(before) = stored_checksum(transaction, key.id(), &key.record.tenant)? {
        sums.remove(before);
    }
    sums.add(checksum_in(&row));
    sums.finish(transaction)?;
    transaction
        .prepare_cached(&KEYS.put())
        .and_then(|mut statement| statement.execute(rusqlite::params_from_iter(row)))
        .map_err(|error| MetaError::database("write a key", error))?;
    Ok(())
}

/// Removes what is left of a damaged key.
pub(super) fn remove_key(transaction: &Transaction<'_>, id: &str, tenant: &TenantId) -> Result<bool, MetaError> {
    let Some(crc) = stored_checksum(transaction, id, tenant)? else { return Ok(false) };
    let mut sums = Sums::change(transaction, &KEYS, tenant.as_str(), OF_TENANT)?;
    sums.remove(crc);
    sums.finish(transaction)?;
    transaction
        .execute("DELETE FROM keys WHERE id = ?1 AND tenant = ?2", (id, tenant.as_str()))
        .map(|n_rows| n_rows > 0)
        .map_err(|error| MetaError::database("remove a damaged key", error))
}

fn stored_checksum(transaction: &Transaction<'_>, id: &str, tenant: &TenantId) -> Result<Option<u32>, MetaError> {
    transaction
        .prepare_cached("SELECT crc FROM keys WHERE id = ?1 AND tenant = ?2")
        .and_then(|mut statement| statement.query_row([id, tenant.as_str()], checksum_of).optional())
        .map_err(|error| MetaError::database("look up a key", error))
}

impl Meta {
    /// Notes every damaged row of keys, and every tenant whose keys are not all there or not as they
    /// were last: a damaged key is refused anyway, but one that was revoked may be back.
    pub(crate) fn look_for_damaged_keys(&self) -> Result<(), MetaError> {
        let failed = |error| MetaError::database("read the keys", error);
        let reader = self.reader.lock();
        let mut statement = reader.prepare(&KEYS.select("")).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut found: HashMap<TenantId, Sums> = HashMap::new();
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) if is_damage(&error) => {
                    self.note_damage(&KEYS.damaged(&[], "a page of the table cannot be read"));
                    break;
                }
                Err(error) => return Err(failed(error)),
            };
            let crc = checksum_of(row).map_err(failed)?;
            match KEYS.read(row).map_err(failed)?.and_then(decode) {
                Ok(key) => found.entry(key.record.tenant).or_default().add(crc),
                Err(row) => self.note_damage(&row),
            }
        }
        for tenant in self.tenants.ids() {
            let found = found.get(&tenant).copied().unwrap_or_default();
            let damaged = match Sums::read(&reader, &KEYS, tenant.as_str()) {
                Ok(Some(Ok(sums))) if sums != found => KEYS.damaged(&[Value::Text(tenant.to_string())], sums::PROBLEM),
                Ok(Some(Err(row))) => row,
                Ok(_) => continue,
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    SUMS.damaged(&[], "a page of the table cannot be read")
                }
                Err(error) => return Err(error),
            };
            self.note_damage(&DamagedRow { tenant: Some(tenant), ..damaged });
        }
        Ok(())
    }
}

/// Whether there is another administrator's key than this one that works.
pub(super) fn has_other_administrator(connection: &Connection, id: &str, now: Timestamp) -> Result<bool, MetaError> {
    let failed = |error| MetaError::database("look for administrators' keys", error);
    let mut statement = connection.prepare_cached(&KEYS.select("WHERE kind = ?1 AND id <> ?2")).map_err(failed)?;
    let rows = statement.query_map([KeyKind::Admin.as_str(), id], |row| KEYS.read(row)).map_err(failed)?;
    for row in rows {
        if let Ok(key) = row.map_err(failed)?.and_then(decode)
            && key.record.is_live(now)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
