//! Tenants: the owners of everything.
//!
//! Deleting one has three steps, so that nothing is left behind and nothing comes back: it is marked
//! ([`Meta::delete_tenant`]; its keys die at once), its files are dropped
//! ([`Meta::drop_table_files`]), and its rows are removed ([`Meta::purge_tenant`]).
//!
//! Invariant: an id is never used twice. Rows of a former owner may still be in the log, and must
//! not turn up in the tables of a new one.

mod former;
pub mod sessions;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_base::error::Kinded;
use weir_base::{Diagnostic, ErrorKind, TenantId, Timestamp};

use self::sessions::SessionSettings;
use crate::checksum::{CheckedTable, Fields, checksum_in, checksum_of};
use crate::error::is_damage;
use crate::limits::{LimitOverrides, Limits, Tier};
use crate::sums::{self, Sums};
use crate::{DamagedRow, Meta, MetaError};
use former::{EVERYBODY, all_sums, is_purged, stored_checksum};
pub(crate) use former::{FORMER_TENANTS, seal_former_tenants};

/// The longest name of a tenant, in bytes.
pub const TENANT_NAME_BYTES_MAX: usize = 200;
/// The most sites one tenant may list.
pub const ALLOWED_ORIGINS_MAX: usize = 100;
pub(crate) static TENANTS: CheckedTable = CheckedTable {
    name: "tenants",
    key: &["id"],
    rest: &["name", "tier", "overrides", "settings", "created_at", "deleted_at"],
};

/// When a reply may be given, as the tenant wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When the rows are on disk (fdatasync). The default.
    #[default]
    Disk,
    /// As soon as the rows are queued; a crash may lose them.
    Memory,
}

/// What a tenant can set for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantSettings {
    /// Sites whose pages may send events from a browser: `https://shop.example`, with a wildcard
    /// `https://*.shop.example`, or `*` for every site. Empty: every site, since the key alone lets a page in.
    pub allowed_origins: Vec<String>,
    /// When requests are answered.
    pub durability: Durability,
    /// How its sessions are made.
    pub sessions: SessionSettings,
}

impl TenantSettings {
    /// Every problem, with `place` as the JSON pointer of the settings.
    pub fn problems(&self, place: &str) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        let mut problem = |at: String, message: String, hint: &str| {
            problems.push(Diagnostic { message, place: at, hint: hint.to_owned() });
        };
        if self.allowed_origins.len() > ALLOWED_ORIGINS_MAX {
            let message = format!("{} sites are more than {ALLOWED_ORIGINS_MAX}", self.allowed_origins.len());
            problem(format!("{place}/allowed_origins"), message, "use a wildcard");
        }
        for (at, origin) in self.allowed_origins.iter().enumerate().filter(|(_, origin)| !is_origin(origin)) {
            let shown: String = origin.chars().take(80).collect();
            problem(
                format!("{place}/allowed_origins/{at}"),
                format!("`{shown}` is not a site"),
                "write scheme, host and perhaps port, as in https://shop.example",
            );
        }
        problems.extend(self.sessions.problems(&format!("{place}/sessions")));
        problems
    }
}

fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some(host) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let host = host.strip_prefix("*.").unwrap_or(host);
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let name_ok = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'[' | b']' | b':'));
    name_ok && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// An owner of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// For people.
    pub name: String,
    /// Its class.
    pub tier: Tier,
    /// Where its limits differ from the tier's.
    pub overrides: LimitOverrides,
    /// What it set for itself.
    pub settings: TenantSettings,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was deleted; its rows are then on their way out.
    pub deleted_at: Option<Timestamp>,
    /// The limits in force: tier's defaults, the configuration's, its own.
    pub limits: Arc<Limits>,
}

/// A tenant to be made.
#[derive(Clone, Debug)]
pub struct NewTenant {
    /// Its id.
    pub id: TenantId,
    /// For people; the id if empty.
    pub name: String,
    /// Its class.
    pub tier: Tier,
}

/// A change of a tenant; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct TenantPatch {
    /// The new name.
    pub name: Option<String>,
    /// The new class.
    pub tier: Option<Tier>,
    /// Changes of the limits: a JSON object in which a value sets an override and `null` takes one
    /// away.
    pub overrides: Option<serde_json::Value>,
    /// The new settings, all of them.
    pub settings: Option<TenantSettings>,
}

/// What is known of an owner of rows. Rows are only given up where there is proof that their owner
/// was deleted: that nothing is found is none, because a damaged database finds nothing either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantState {
    /// Exists.
    Live(Arc<Tenant>),
    /// Was deleted: its row says so, or that it was purged.
    Deleted,
    /// There is no trace of it. If it has rows, the row that made it is lost.
    Unknown,
}

/// A row of the table: a tenant, or its id and why it cannot be read.
#[derive(Clone, Debug)]
enum Slot {
    Good(Arc<Tenant>),
    Damaged(DamagedRow),
}

/// All tenants, in memory. There are thousands at most, and every request needs one.
#[derive(Debug, Default)]
pub(crate) struct TenantCache {
    slots: RwLock<HashMap<TenantId, Slot>>,
    /// Rows were damaged when they were loaded: there may be tenants that are not in `slots`.
    is_incomplete: AtomicBool,
    tier_overrides: RwLock<BTreeMap<Tier, LimitOverrides>>,
}

impl TenantCache {
    fn limits(&self, tier: Tier, overrides: &LimitOverrides) -> Arc<Limits> {
        let defaults = Limits::of_tier(tier);
        let configured = self.tier_overrides.read().get(&tier).map(|tier_overrides| defaults.with(tier_overrides));
        Arc::new(configured.unwrap_or(defaults).with(overrides))
    }

    fn put(&self, tenant: Arc<Tenant>) {
        self.slots.write().insert(tenant.id.clone(), Slot::Good(tenant));
    }

    /// Whether there is a row of that id, in whatever state.
    pub(crate) fn contains(&self, id: &TenantId) -> bool {
        self.slots.read().contains_key(id)
    }

    /// Whether there may be tenants that are not known, because rows are damaged.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.is_incomplete.load(Ordering::Acquire)
    }

    /// Ids of all tenants, damaged and deleted ones included.
    pub(crate) fn ids(&self) -> Vec<TenantId> {
        let mut ids: Vec<TenantId> = self.slots.read().keys().cloned().collect();
        ids.sort();
        ids
    }
}

fn decode(mut fields: Fields) -> Result<Tenant, DamagedRow> {
    let id = fields.text();
    let unreadable = fields.unreadable(&id);
    let parsed = (|| {
        let tenant = TenantId::new(&id).ok()?;
        Some(Tenant {
            id: tenant,
            name: fields.text(),
            tier: Tier::parse(&fields.text())?,
            overrides: serde_json::from_str(&fields.text()).ok()?,
            settings: serde_json::from_str(&fields.text()).ok()?,
            created_at: Timestamp(fields.int()),
            deleted_at: fields.optional_int().map(Timestamp),
            limits: Arc::new(Limits::of_tier(Tier::Free)),
        })
    })();
    parsed.ok_or(unreadable)
}

fn encode(tenant: &Tenant) -> Result<Vec<Value>, MetaError> {
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| MetaError::invalid("/overrides", error.to_string(), ""))
    };
    Ok(TENANTS.sealed(vec![
        Value::Text(tenant.id.to_string()),
        Value::Text(tenant.name.clone()),
        Value::Text(tenant.tier.as_str().to_owned()),
        Value::Text(json(serde_json::to_string(&tenant.overrides))?),
        Value::Text(json(serde_json::to_string(&tenant.settings))?),
        Value::Integer(tenant.created_at.0),
        tenant.deleted_at.map_or(Value::Null, |at| Value::Integer(at.0)),
    ]))
}

fn write(transaction: &Transaction<'_>, tenant: &Tenant) -> Result<(), MetaError> {
    let row = encode(tenant)?;
    let mut sums = all_sums(transaction)?;
    if let Some(before) = stored_checksum(transaction, &tenant.id)? {
        sums.remove(before);
    }
    sums.add(checksum_in(&row));
    sums.finish(transaction)?;
    transaction
        .prepare_cached(&TENANTS.put())
        .and_then(|mut statement| statement.execute(rusqlite::params_from_iter(row)))
        .map_err(|error| MetaError::database("write a tenant", error))?;
    Ok(())
}

/// Whether the tenant exists and is not deleted, whatever the state of the rest of its row: a
/// damaged name must not hold up the table writer.
pub(crate) fn is_live(connection: &Connection, tenant: &TenantId) -> Result<bool, MetaError> {
    connection
        .prepare_cached("SELECT 1 FROM tenants WHERE id = ?1 AND deleted_at IS NULL")
        .and_then(|mut statement| statement.query_row([tenant.as_str()], |_| Ok(())).optional())
        .map(|found| found.is_some())
        .map_err(|error| MetaError::database("look up a tenant", error))
}

/// Whether there is proof that the tenant was deleted: a row that checks out and says so, or no row
/// and the note that it was purged.
pub(crate) fn is_gone(connection: &Connection, tenant: &TenantId) -> Result<bool, MetaError> {
    let row = connection
        .prepare_cached(&TENANTS.select("WHERE id = ?1"))
        .and_then(|mut statement| statement.query_row([tenant.as_str()], |row| TENANTS.read(row)).optional())
        .map_err(|error| MetaError::database("look up a tenant", error))?;
    match row.map(|row| row.and_then(decode)) {
        Some(Ok(found)) => Ok(found.deleted_at.is_some()),
        Some(Err(row)) => Err(MetaError::Corrupt(DamagedRow { tenant: Some(tenant.clone()), ..row })),
        None => is_purged(connection, tenant),
    }
}

fn name_problem(name: &str) -> Option<Diagnostic> {
    let (message, hint) = if name.len() > TENANT_NAME_BYTES_MAX {
        (format!("a name of {} bytes is longer than {TENANT_NAME_BYTES_MAX}", name.len()), "")
    } else if name.chars().any(char::is_control) {
        ("a name has no control characters".to_owned(), "")
    } else {
        return None;
    };
    Some(Diagnostic { message, place: "/name".to_owned(), hint: hint.to_owned() })
}

impl Meta {
    pub(crate) fn load_tenants(&self) -> Result<(), MetaError> {
        let failed = |error| MetaError::database("read the tenants", error);
        let reader = self.reader.lock();
        let mut statement = reader.prepare(&TENANTS.select("")).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut slots = HashMap::new();
        let mut found = Sums::default();
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                // Tenants behind a damaged page are not known, so their keys are refused.
                Err(error) if is_damage(&error) => {
                    self.note_damage(&TENANTS.damaged(&[], "a page of the table cannot be read"));
                    self.tenants.is_incomplete.store(true, Ordering::Release);
                    break;
                }
                Err(error) => return Err(failed(error)),
            };
            let crc = checksum_of(row).map_err(failed)?;
            match TENANTS.read(row).map_err(failed)?.and_then(decode) {
                Ok(mut tenant) => {
                    found.add(crc);
                    tenant.limits = self.tenants.limits(tenant.tier, &tenant.overrides);
                    slots.insert(tenant.id.clone(), Slot::Good(Arc::new(tenant)));
                }
                Err(mut damaged) => {
                    damaged.tenant = TenantId::new(&damaged.key).ok();
                    self.note_damage(&damaged);
                    // The id may be what is damaged.
                    self.tenants.is_incomplete.store(true, Ordering::Release);
                    if let Some(id) = damaged.tenant.clone() {
                        slots.insert(id, Slot::Damaged(damaged));
                    }
                }
            }
        }
        *self.tenants.slots.write() = slots;
        match Sums::read(&reader, &TENANTS, EVERYBODY)? {
            Some(Ok(sums)) if sums != found && !self.tenants.is_incomplete() => {
                self.note_damage(&TENANTS.damaged(&[], sums::PROBLEM));
                self.tenants.is_incomplete.store(true, Ordering::Release);
            }
            Some(Err(row)) => self.note_damage(&row),
            Some(Ok(_)) | None => {}
        }
        Ok(())
    }

    /// The operator's own tenant exists from the first start.
    pub(crate) fn ensure_system_tenant(&self) -> Result<(), MetaError> {
        let id = TenantId::system();
        if self.tenants.slots.read().contains_key(&id) {
            return Ok(());
        }
        let new = NewTenant { id, name: "Weir itself".to_owned(), tier: Tier::Enterprise };
        match self.create_tenant(new) {
            Ok(_) => Ok(()),
            // It exists, behind the damage: then there are no rows about Weir itself, and everybody
            // else is served.
            Err(error)
                if self.tenants.is_incomplete() && matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Corrupt) =>
            {
                let id = TenantId::system();
                let damaged = TENANTS.damaged(&[Value::Text(id.to_string())], "the row cannot be read");
                self.note_damage(&DamagedRow { tenant: Some(id), ..damaged });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Sets what the configuration changes in the tiers' defaults; limits of all tenants follow.
    pub fn set_tier_overrides(&self, overrides: BTreeMap<Tier, LimitOverrides>) {
        *self.tenants.tier_overrides.write() = overrides;
        let mut slots = self.tenants.slots.write();
        for slot in slots.values_mut() {
            if let Slot::Good(tenant) = slot {
                let limits = self.tenants.limits(tenant.tier, &tenant.overrides);
                *tenant = Arc::new(Tenant { limits, ..tenant.as_ref().clone() });
            }
        }
    }

    /// Makes a tenant.
    ///
    /// # Errors
    /// [`MetaError::Conflict`] if the id is or was in use.
    pub fn create_tenant(&self, new: NewTenant) -> Result<Tenant, MetaError> {
        if let Some(problem) = name_problem(&new.name) {
            return Err(MetaError::Invalid(vec![problem]));
        }
        let overrides = LimitOverrides::default();
        let tenant = Tenant {
            limits: self.tenants.limits(new.tier, &overrides),
            name: if new.name.is_empty() { new.id.to_string() } else { new.name },
            id: new.id,
            tier: new.tier,
            overrides,
            settings: TenantSettings::default(),
            created_at: self.clock.now(),
            deleted_at: None,
        };
        let work = |transaction: &Transaction<'_>| {
            let failed = |error| MetaError::database("look up a tenant", error);
            let known: Option<bool> = transaction
                .query_row("SELECT deleted_at IS NOT NULL FROM tenants WHERE id = ?1", [tenant.id.as_str()], |row| {
                    row.get(0)
                })
                .optional()
                .map_err(failed)?;
            match (known, is_purged(transaction, &tenant.id)?) {
                (Some(false), _) => Err(MetaError::conflict("tenant", &tenant.id, "exists already")),
                (Some(true), _) | (_, true) => {
                    Err(MetaError::conflict("tenant", &tenant.id, "was deleted, and an id is never used twice"))
                }
                (None, false) => write(transaction, &tenant),
            }
        };
        self.write_then("create a tenant", work, |()| self.tenants.put(Arc::new(tenant.clone())))?;
        Ok(tenant)
    }

    /// All tenants that can be read, deleted ones included, by id.
    pub fn tenants(&self) -> Result<Vec<Arc<Tenant>>, MetaError> {
        let slots = self.tenants.slots.read();
        let good = slots.values().filter_map(|slot| match slot {
            Slot::Good(tenant) => Some(Arc::clone(tenant)),
            Slot::Damaged(_) => None,
        });
        let mut tenants: Vec<Arc<Tenant>> = good.collect();
        tenants.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(tenants)
    }

    /// The tenant of that id, unless it is deleted.
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] if its row is damaged.
    pub fn tenant(&self, id: &TenantId) -> Result<Option<Arc<Tenant>>, MetaError> {
        match self.tenants.slots.read().get(id) {
            Some(Slot::Good(tenant)) if tenant.deleted_at.is_none() => Ok(Some(Arc::clone(tenant))),
            Some(Slot::Damaged(row)) => Err(MetaError::Corrupt(row.clone())),
            _ => Ok(None),
        }
    }

    /// What is known of a tenant; see [`TenantState`].
    ///
    /// # Errors
    /// [`MetaError::Corrupt`] if its row is damaged.
    pub fn tenant_state(&self, id: &TenantId) -> Result<TenantState, MetaError> {
        let slot = self.tenants.slots.read().get(id).cloned();
        match slot {
            Some(Slot::Good(tenant)) if tenant.deleted_at.is_none() => Ok(TenantState::Live(tenant)),
            Some(Slot::Good(_)) => Ok(TenantState::Deleted),
            Some(Slot::Damaged(row)) => Err(MetaError::Corrupt(row)),
            None if is_purged(&self.reader.lock(), id)? => Ok(TenantState::Deleted),
            None => Ok(TenantState::Unknown),
        }
    }

    /// Deleted tenants of whom something is left, by id: what a deletion that was interrupted still
    /// has to do.
    pub fn tenants_to_purge(&self) -> Vec<TenantId> {
        let slots = self.tenants.slots.read();
        let left = slots.values().filter_map(|slot| match slot {
            Slot::Good(tenant) if tenant.deleted_at.is_some() => Some(tenant.id.clone()),
            Slot::Good(_) | Slot::Damaged(_) => None,
        });
        let mut left: Vec<TenantId> = left.collect();
        left.sort();
        left
    }

    fn live_tenant(&self, id: &TenantId) -> Result<Arc<Tenant>, MetaError> {
        self.tenant(id)?.ok_or_else(|| MetaError::not_found("tenant", id))
    }

    /// Changes a tenant.
    ///
    /// # Errors
    /// [`MetaError::Invalid`] with every problem of the patch.
    pub fn update_tenant(&self, id: &TenantId, patch: TenantPatch) -> Result<Arc<Tenant>, MetaError> {
        let work = |transaction: &Transaction<'_>| {
            // Read under the writer's lock, so that two changes cannot overwrite each other.
            let mut tenant = self.live_tenant(id)?.as_ref().clone();
            let mut problems = Vec::new();
            if let Some(name) = patch.name {
                problems.extend(name_problem(&name));
                tenant.name = name;
            }
            if let Some(tier) = patch.tier {
                tenant.tier = tier;
            }
            if let Some(overrides) = patch.overrides {
                match tenant.overrides.merge(&overrides, "/overrides") {
                    Ok(merged) => tenant.overrides = merged,
                    Err(found) => problems.extend(found),
                }
            }
            if let Some(settings) = patch.settings {
                problems.extend(settings.problems("/settings"));
                tenant.settings = settings;
            }
            if !problems.is_empty() {
                return Err(MetaError::Invalid(problems));
            }
            tenant.limits = self.tenants.limits(tenant.tier, &tenant.overrides);
            write(transaction, &tenant)?;
            Ok(Arc::new(tenant))
        };
        self.write_then("change a tenant", work, |tenant| self.tenants.put(Arc::clone(tenant)))
    }

    /// Marks a tenant as deleted; its keys are refused from now on. Returns false if it was already.
    ///
    /// # Errors
    /// [`MetaError::NotFound`]; [`MetaError::Conflict`] for the system tenant.
    pub fn delete_tenant(&self, id: &TenantId) -> Result<bool, MetaError> {
        if *id == TenantId::system() {
            return Err(MetaError::conflict("tenant", id, "is Weir's own and cannot be deleted"));
        }
        let work = |transaction: &Transaction<'_>| {
            // Read under the writer's lock: a change that comes in between must not undo the deletion.
            let slot = self.tenants.slots.read().get(id).cloned();
            let tenant = match slot {
                Some(Slot::Good(tenant)) => tenant,
                Some(Slot::Damaged(row)) => return Err(MetaError::Corrupt(row)),
                None => return Err(MetaError::not_found("tenant", id)),
            };
            if tenant.deleted_at.is_some() {
                return Ok(None);
            }
            let deleted = Tenant { deleted_at: Some(self.clock.now()), ..tenant.as_ref().clone() };
            write(transaction, &deleted)?;
            Ok(Some(Arc::new(deleted)))
        };
        let deleted = self.write_then("delete a tenant", work, |deleted| {
            if let Some(deleted) = deleted {
                self.tenants.put(Arc::clone(deleted));
                self.keys.forget_tenant(id);
            }
        })?;
        Ok(deleted.is_some())
    }

    /// Removes everything that is known of a deleted tenant whose files are dropped; its id stays
    /// taken. Doing it twice is no error.
    ///
    /// # Errors
    /// [`MetaError::Conflict`] if it is not deleted, or if it still has files.
    pub fn purge_tenant(&self, id: &TenantId) -> Result<(), MetaError> {
        let now = self.clock.now();
        let work = |transaction: &Transaction<'_>| {
            let failed = |error| MetaError::database("purge a tenant", error);
            let deleted: Option<bool> = transaction
                .query_row("SELECT deleted_at IS NOT NULL FROM tenants WHERE id = ?1", [id.as_str()], |row| row.get(0))
                .optional()
                .map_err(failed)?;
            match deleted {
                None if is_purged(transaction, id)? => return Ok(()),
                None => return Err(MetaError::not_found("tenant", id)),
                Some(false) => return Err(MetaError::conflict("tenant", id, "is not deleted")),
                Some(true) => {}
            }
            let has_files: bool = transaction
                .query_row("SELECT count(*) > 0 FROM files WHERE tenant = ?1", [id.as_str()], |row| row.get(0))
                .map_err(failed)?;
            if has_files {
                return Err(MetaError::conflict("tenant", id, "still has files"));
            }
            let mut sums = all_sums(transaction)?;
            if let Some(before) = stored_checksum(transaction, id)? {
                sums.remove(before);
            }
            sums.finish(transaction)?;
            for sql in [
                "DELETE FROM tables WHERE tenant = ?1",
                "DELETE FROM positions WHERE tenant = ?1",
                "DELETE FROM attribute_keys WHERE tenant = ?1",
                "DELETE FROM pipelines WHERE tenant = ?1",
                "DELETE FROM streams WHERE tenant = ?1",
                "DELETE FROM row_sums WHERE tenant = ?1",
                "DELETE FROM keys WHERE tenant = ?1",
                "DELETE FROM tenants WHERE id = ?1",
            ] {
                transaction.execute(sql, [id.as_str()]).map_err(failed)?;
            }
            let note = FORMER_TENANTS.sealed(vec![Value::Text(id.to_string()), Value::Integer(now.0)]);
            transaction.execute(&FORMER_TENANTS.put(), rusqlite::params_from_iter(note)).map_err(failed)?;
            Ok(())
        };
        self.write_then("purge a tenant", work, |()| {
            self.tenants.slots.write().remove(id);
            self.attributes.forget(id);
            self.streams.forget(id);
        })
    }
}

#[cfg(test)]
mod tests;
