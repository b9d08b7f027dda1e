//! What is known of all tenants together: who was one, and the sums of their rows.

use rusqlite::{Connection, OptionalExtension, Transaction};
use weir_base::TenantId;

use super::TENANTS;
use crate::checksum::{CheckedTable, checksum_of};
use crate::sums::{self, Sums};
use crate::{DamagedRow, MetaError};

/// Ids that were in use. Under a checksum too: that an id stands here is the proof on which rows are
/// given up.
pub(crate) static FORMER_TENANTS: CheckedTable =
    CheckedTable { name: "former_tenants", key: &["id"], rest: &["purged_at"] };

/// Who the sums of tenants belong to: no id of a tenant.
pub(super) const EVERYBODY: &str = "*";

/// Whether the tenant was purged. A note that does not check out proves nothing.
pub(super) fn is_purged(connection: &Connection, tenant: &TenantId) -> Result<bool, MetaError> {
    let row = connection
        .prepare_cached(&FORMER_TENANTS.select("WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row([tenant.as_str()], |row| FORMER_TENANTS.read(row)).optional())
        .map_err(|error| MetaError::database("look up a purged tenant", error))?;
    match row {
        None => Ok(false),
        Some(Ok(_)) => Ok(true),
        Some(Err(row)) => Err(MetaError::Corrupt(DamagedRow { tenant: Some(tenant.clone()), ..row })),
    }
}

/// Takes over the notes of a schema that kept them without a checksum.
pub(crate) fn seal_former_tenants(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("SELECT id, purged_at FROM purged_tenants")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let sealed = FORMER_TENANTS.sealed(vec![row.get(0)?, row.get(1)?]);
        transaction.execute(&FORMER_TENANTS.insert(), rusqlite::params_from_iter(sealed))?;
    }
    drop(rows);
    drop(statement);
    transaction.execute_batch("DROP TABLE purged_tenants")
}

/// The sums of all tenants, which belong to none of them.
pub(super) fn all_sums(transaction: &Transaction<'_>) -> Result<sums::Change, MetaError> {
    Sums::change(transaction, &TENANTS, EVERYBODY, "?1 <> ''")
}

pub(super) fn stored_checksum(transaction: &Transaction<'_>, tenant: &TenantId) -> Result<Option<u32>, MetaError> {
    transaction
        .prepare_cached("SELECT crc FROM tenants WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([tenant.as_str()], checksum_of).optional())
        .map_err(|error| MetaError::database("look up a tenant", error))
}
