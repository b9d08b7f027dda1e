//! How attribute keys read: the kind of a key is fixed when it is first seen, for good.
//!
//! A row that is gone is noticed by the sums of its tenant ([`crate::sums`]): a number that suddenly
//! reads as text would make wrong answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rusqlite::types::Value;
use weir_base::{StreamName, TenantId};
use weir_data::attributes::AttributeKind;

use crate::checksum::{CheckedTable, checksum_in, checksum_of};
use crate::sums::{self, OF_TENANT, Sums};
use crate::{DamagedRow, Meta, MetaError};

/// The longest key that gets a kind of its own, in bytes; a longer one reads as text.
pub const ATTRIBUTE_BYTES_MAX: usize = 256;

pub(crate) static ATTRIBUTE_KEYS: CheckedTable =
    CheckedTable { name: "attribute_keys", key: &["tenant", "stream", "open_column", "attribute"], rest: &["kind"] };

/// A key within an open column of a stream, and how it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeKey {
    /// The stream.
    pub stream: StreamName,
    /// The open column, for example `attributes`.
    pub column: String,
    /// The key.
    pub key: String,
    /// How it reads.
    pub kind: AttributeKind,
}

/// The keys of one stream: column, then key.
#[derive(Clone, Debug, Default)]
struct StreamKeys {
    columns: HashMap<String, HashMap<String, AttributeKind>>,
    n_keys: usize,
}

/// The kinds of one tenant's attribute keys, at one moment.
#[derive(Clone, Debug, Default)]
pub struct AttributeKinds {
    streams: HashMap<StreamName, Arc<StreamKeys>>,
    damaged: Vec<DamagedRow>,
    n_refused: Arc<AtomicU64>,
}

impl AttributeKinds {
    /// How a key reads; `None` for one without a kind, which reads as text.
    pub fn get(&self, stream: &str, column: &str, key: &str) -> Option<AttributeKind> {
        self.streams.get(stream)?.columns.get(column)?.get(key).copied()
    }

    /// How many keys of a stream have a kind.
    pub fn len(&self, stream: &str) -> usize {
        self.streams.get(stream).map_or(0, |keys| keys.n_keys)
    }

    /// Whether no key of a stream has a kind.
    pub fn is_empty(&self, stream: &str) -> bool {
        self.len(stream) == 0
    }

    /// The keys of an open column, in no order.
    pub fn keys(&self, stream: &str, column: &str) -> impl Iterator<Item = (&str, AttributeKind)> {
        let keys = self.streams.get(stream).and_then(|keys| keys.columns.get(column));
        keys.into_iter().flatten().map(|(key, kind)| (key.as_str(), *kind))
    }

    /// How often a key got no kind because the tenant's `attribute_keys_max` was reached, or because
    /// it was too long, since this process started. The same key counts each time it is declared.
    pub fn refused(&self) -> u64 {
        self.n_refused.load(Ordering::Relaxed)
    }

    fn add(&mut self, key: &AttributeKey) {
        let stream = Arc::make_mut(self.streams.entry(key.stream.clone()).or_default());
        let column = stream.columns.entry(key.column.clone()).or_default();
        if !column.contains_key(&key.key) {
            column.insert(key.key.clone(), key.kind);
            stream.n_keys += 1;
        }
    }
}

/// The kinds of every tenant that was asked for. Bounded by the tenants and their
/// `attribute_keys_max`.
#[derive(Debug, Default)]
pub(crate) struct AttributeCache {
    tenants: RwLock<HashMap<TenantId, Arc<AttributeKinds>>>,
}

impl AttributeCache {
    pub(crate) fn forget(&self, tenant: &TenantId) {
        self.tenants.write().remove(tenant);
    }
}

impl Meta {
    /// The kinds of a tenant's attribute keys, for reading.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] if one of the tenant's rows is damaged: a key that suddenly reads as
    /// another kind would make wrong answers.
    pub fn attribute_kinds(&self, tenant: &TenantId) -> Result<Arc<AttributeKinds>, MetaError> {
        let kinds = self.loaded_kinds(tenant)?;
        match kinds.damaged.first() {
            Some(row) => Err(MetaError::Corrupt(row.clone())),
            None => Ok(kinds),
        }
    }

    fn loaded_kinds(&self, tenant: &TenantId) -> Result<Arc<AttributeKinds>, MetaError> {
        if let Some(kinds) = self.attributes.tenants.read().get(tenant) {
            return Ok(Arc::clone(kinds));
        }
        // The writer's lock keeps a declaration from coming between reading and keeping.
        let connection = self.writer.lock();
        if let Some(kinds) = self.attributes.tenants.read().get(tenant) {
            return Ok(Arc::clone(kinds));
        }
        let failed = |error| MetaError::database("read attribute kinds", error);
        let mut kinds = AttributeKinds::default();
        let mut statement = connection.prepare_cached(&ATTRIBUTE_KEYS.select("WHERE tenant = ?1")).map_err(failed)?;
        let rows = statement
            .query_map([tenant.as_str()], |row| Ok((ATTRIBUTE_KEYS.read(row)?, checksum_of(row)?)))
            .map_err(failed)?;
        let mut found = Sums::default();
        for row in rows {
            let (row, crc) = row.map_err(failed)?;
            let decoded = row.and_then(|mut fields| {
                let (_, stream, column, key, kind) =
                    (fields.text(), fields.text(), fields.text(), fields.text(), fields.text());
                let stream = StreamName::new(&stream).ok();
                let decoded = stream.zip(AttributeKind::parse(&kind));
                match decoded {
                    Some((stream, kind)) => Ok(AttributeKey { stream, column, key, kind }),
                    None => Err(fields.unreadable(&format!("{tenant}/{column}/{key}"))),
                }
            });
            match decoded {
                Ok(key) => {
                    found.add(crc);
                    kinds.add(&key);
                }
                Err(damaged) => kinds.damaged.push(damaged),
            }
        }
        match Sums::read(&connection, &ATTRIBUTE_KEYS, tenant.as_str())? {
            Some(Ok(sums)) if sums != found && kinds.damaged.is_empty() => {
                let key = [Value::Text(tenant.to_string())];
                kinds.damaged.push(ATTRIBUTE_KEYS.damaged(&key, sums::PROBLEM));
            }
            Some(Err(damaged)) => kinds.damaged.push(damaged),
            Some(Ok(_)) | None => {}
        }
        for damaged in &mut kinds.damaged {
            damaged.tenant = Some(tenant.clone());
            self.note_damage(damaged);
        }
        let kinds = Arc::new(kinds);
        // A tenant that does not exist must not take room.
        if self.tenants.contains(tenant) {
            self.attributes.tenants.write().insert(tenant.clone(), Arc::clone(&kinds));
        }
        Ok(kinds)
    }

    /// Gives keys their kinds, unless they have one already: the first kind stays. Keys beyond
    /// `keys_max` of a stream get none, read as text and are counted
    /// ([`AttributeKinds::refused`]). Costs nothing if there is nothing new.
    ///
    /// Works also while a row of the tenant is damaged, so that ingest goes on.
    pub fn declare_attributes(
        &self,
        tenant: &TenantId,
        keys: &[AttributeKey],
        keys_max: usize,
    ) -> Result<Arc<AttributeKinds>, MetaError> {
        let known = self.loaded_kinds(tenant)?;
        let Acceptable { accepted, n_refused } = acceptable(&known, keys, keys_max);
        if accepted.is_empty() {
            known.n_refused.fetch_add(n_refused, Ordering::Relaxed);
            return Ok(known);
        }
        let mut connection = self.writer.lock();
        // Somebody may have declared keys since; under the lock nobody can.
        let current = self.attributes.tenants.read().get(tenant).cloned().unwrap_or(known);
        let Acceptable { accepted, n_refused } = acceptable(&current, keys, keys_max);
        current.n_refused.fetch_add(n_refused, Ordering::Relaxed);
        if accepted.is_empty() {
            return Ok(current);
        }
        let failed = |error| MetaError::database("declare attribute kinds", error);
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(failed)?;
        if !crate::tenants::is_live(&transaction, tenant)? {
            return Err(MetaError::not_found("tenant", tenant));
        }
        let mut kinds = current.as_ref().clone();
        let mut sums = Sums::change(&transaction, &ATTRIBUTE_KEYS, tenant.as_str(), OF_TENANT)?;
        {
            let sql = format!("{} ON CONFLICT DO NOTHING", ATTRIBUTE_KEYS.insert());
            let mut statement = transaction.prepare_cached(&sql).map_err(failed)?;
            for key in accepted {
                let row = ATTRIBUTE_KEYS.sealed(vec![
                    Value::Text(tenant.to_string()),
                    Value::Text(key.stream.to_string()),
                    Value::Text(key.column.clone()),
                    Value::Text(key.key.clone()),
                    Value::Text(key.kind.as_str().to_owned()),
                ]);
                // No row means that a damaged one has its place; the key stays without a kind.
                let crc = checksum_in(&row);
                if statement.execute(rusqlite::params_from_iter(row)).map_err(failed)? == 1 {
                    kinds.add(key);
                    sums.add(crc);
                }
            }
        }
        sums.finish(&transaction)?;
        transaction.commit().map_err(failed)?;
        let kinds = Arc::new(kinds);
        self.attributes.tenants.write().insert(tenant.clone(), Arc::clone(&kinds));
        Ok(kinds)
    }
}

struct Acceptable<'a> {
    accepted: Vec<&'a AttributeKey>,
    n_refused: u64,
}

/// The keys that are new and fit.
fn acceptable<'a>(known: &AttributeKinds, keys: &'a [AttributeKey], keys_max: usize) -> Acceptable<'a> {
    let mut found = Acceptable { accepted: Vec::new(), n_refused: 0 };
    let mut added: HashMap<&StreamName, usize> = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for key in keys {
        let is_known = known.get(key.stream.as_str(), &key.column, &key.key).is_some();
        if is_known || !seen.insert((&key.stream, &key.column, &key.key)) {
            continue;
        }
        let added = added.entry(&key.stream).or_default();
        if key.key.len() > ATTRIBUTE_BYTES_MAX || known.len(key.stream.as_str()) + *added >= keys_max {
            found.n_refused += 1;
        } else {
            *added += 1;
            found.accepted.push(key);
        }
    }
    found
}

#[cfg(test)]
mod tests;
