//! Keys: who may send and read, for whom.
//!
//! Only a keyed hash (HMAC-SHA-256 under the pepper) of a key is stored. A fast hash is right here:
//! the secret has 256 bits, so there is nothing to guess, and a slow hash would let anybody without
//! a key keep the processor busy.
//!
//! Invariant: every refusal looks the same from outside; the reason is for the audit log only.

mod cache;
mod format;
mod stored;

use std::sync::Arc;

use hmac::{Hmac, Mac};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use weir_base::error::Kinded;
use weir_base::secret::Secret;
use weir_base::{ErrorKind, TenantId, Timestamp};

use crate::checksum::{CheckedTable, Fields};
use crate::database::write_setting;
use crate::{DamagedRow, Meta, MetaError};

pub(crate) use cache::KeyStore;
#[cfg(any(test, fuzzing))]
pub(crate) use format::check_of;
pub(crate) use stored::write_key;
use stored::{has_other_administrator, remove_key};

/// The longest name of a key, in bytes.
pub const KEY_NAME_BYTES_MAX: usize = 200;
/// The version of the pepper in use; stored with each key, so that peppers can be rotated.
const PEPPER_VERSION: i64 = 1;
/// The setting by which a wrong pepper is recognised.
const PEPPER_CHECK: &str = "pepper_check";

pub(crate) static KEYS: CheckedTable = CheckedTable {
    name: "keys",
    key: &["id"],
    rest: &["tenant", "kind", "scopes", "name", "digest", "pepper", "created_at", "expires_at", "revoked_at"],
};

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// A tenant's key: `weir_key_...`.
    Key,
    /// An administrator's key: `weir_adm_...`. Belongs to tenant `system` and may name another.
    Admin,
}

impl KeyKind {
    /// As it stands in the key.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Admin => "adm",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Key, Self::Admin].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What a key allows. As JSON a list of names: `["ingest","query"]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes {
    /// Sending rows.
    pub ingest: bool,
    /// Queries and live tails.
    pub query: bool,
    /// Managing keys and settings.
    pub admin: bool,
}

impl Scopes {
    /// Everything.
    pub const ALL: Self = Self { ingest: true, query: true, admin: true };
    /// The names of the scopes.
    pub const NAMES: [&'static str; 3] = ["ingest", "query", "admin"];

    /// The names of what is allowed.
    pub fn names(self) -> Vec<&'static str> {
        let flags = [self.ingest, self.query, self.admin];
        Self::NAMES.into_iter().zip(flags).filter(|(_, allowed)| *allowed).map(|(name, _)| name).collect()
    }

    /// The scopes of these names; the first unknown name is the error.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut scopes = Self::default();
        for name in names {
            match name {
                "ingest" => scopes.ingest = true,
                "query" => scopes.query = true,
                "admin" => scopes.admin = true,
                _ => return Err(name.chars().take(40).collect()),
            }
        }
        Ok(scopes)
    }

    /// Whether everything `other` allows is allowed.
    pub fn contains(self, other: Self) -> bool {
        (self.ingest || !other.ingest) && (self.query || !other.query) && (self.admin || !other.admin)
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Self::from_names(names.iter().map(String::as_str)).map_err(|name| {
            serde::de::Error::custom(format_args!("`{name}` is not a scope; known are {}", Self::NAMES.join(", ")))
        })
    }
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// For whom it acts.
    pub tenant: TenantId,
    /// What it is for.
    pub kind: KeyKind,
    /// What it allows.
    pub scopes: Scopes,
    /// For people; may be empty.
    pub name: String,
    /// When it ends; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// What is known of a key; never the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The public part.
    pub id: String,
    /// For whom it acts.
    pub tenant: TenantId,
    /// What it is for.
    pub kind: KeyKind,
    /// What it allows.
    pub scopes: Scopes,
    /// For people.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last accepted, to the minute.
    pub last_used_at: Option<Timestamp>,
}

impl KeyRecord {
    /// Whether it is neither revoked nor expired.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }
}

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// For whom it acts.
    pub tenant: TenantId,
    /// The public part of its key.
    pub key_id: String,
    /// What the key is for.
    pub kind: KeyKind,
    /// What it allows.
    pub scopes: Scopes,
    /// When the key ends; long connections must end with it.
    pub expires_at: Option<Timestamp>,
}

/// Why a key was refused. Never shown to the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusedReason {
    /// Length, characters or check are wrong.
    Malformed,
    /// There is no such key id.
    Unknown,
    /// The id exists and the secret is another.
    WrongSecret,
    /// The tenant named before the key is not the key's.
    OtherTenant,
    /// The key has ended.
    Expired,
    /// The key was revoked.
    Revoked,
    /// The key's tenant is deleted, or its row is damaged.
    NoTenant,
    /// The key's row is damaged.
    Damaged,
    /// The database could not be asked. The one reason that is not the sender's fault, and the one
    /// that is told: a sender must not drop its rows for it.
    Unavailable,
}

impl RefusedReason {
    /// For the audit log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::WrongSecret => "wrong_secret",
            Self::OtherTenant => "other_tenant",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::NoTenant => "no_tenant",
            Self::Damaged => "damaged",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A key was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRefused {
    /// Why; for the audit log only.
    pub reason: RefusedReason,
    /// The public part of the key, if it has the form of one; for the audit log only.
    pub key_id: Option<String>,
    /// The tenant of the key, if the key exists; for the audit log only.
    pub tenant: Option<TenantId>,
}

impl std::fmt::Display for AuthRefused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.reason {
            RefusedReason::Unavailable => "the key cannot be checked at the moment",
            _ => "the key is not valid",
        })
    }
}

impl std::error::Error for AuthRefused {}

impl Kinded for AuthRefused {
    fn kind(&self) -> ErrorKind {
        match self.reason {
            RefusedReason::Unavailable => ErrorKind::Transient,
            _ => ErrorKind::Unauthenticated,
        }
    }
}

/// The keyed hash of a key.
pub(crate) type Digest = [u8; 32];

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct StoredKey {
    record: KeyRecord,
    digest: Digest,
}

fn decode(mut fields: Fields) -> Result<StoredKey, DamagedRow> {
    let id = fields.text();
    let unreadable = fields.unreadable(&id);
    let parsed = (|| {
        let tenant = TenantId::new(&fields.text()).ok()?;
        let kind = KeyKind::parse(&fields.text())?;
        let scopes = serde_json::from_str(&fields.text()).ok()?;
        let name = fields.text();
        let digest = fields.blob().try_into().ok()?;
        fields.int();
        let record = KeyRecord {
            id,
            tenant,
            kind,
            scopes,
            name,
            created_at: Timestamp(fields.int()),
            expires_at: fields.optional_int().map(Timestamp),
            revoked_at: fields.optional_int().map(Timestamp),
            last_used_at: None,
        };
        Some(StoredKey { record, digest })
    })();
    parsed.ok_or(unreadable)
}

fn encode(key: &StoredKey) -> Vec<Value> {
    let record = &key.record;
    let optional = |at: Option<Timestamp>| at.map_or(Value::Null, |at| Value::Integer(at.0));
    let scopes: Vec<String> = record.scopes.names().into_iter().map(|name| format!("\"{name}\"")).collect();
    KEYS.sealed(vec![
        Value::Text(record.id.clone()),
        Value::Text(record.tenant.to_string()),
        Value::Text(record.kind.as_str().to_owned()),
        Value::Text(format!("[{}]", scopes.join(","))),
        Value::Text(record.name.clone()),
        Value::Blob(key.digest.to_vec()),
        Value::Integer(PEPPER_VERSION),
        Value::Integer(record.created_at.0),
        optional(record.expires_at),
        optional(record.revoked_at),
    ])
}

fn read_key(connection: &Connection, id: &str) -> Result<Option<Result<StoredKey, DamagedRow>>, MetaError> {
    let failed = |error| MetaError::database("look up a key", error);
    let mut statement = connection.prepare_cached(&KEYS.select("WHERE id = ?1")).map_err(failed)?;
    let row = statement.query_row([id], |row| KEYS.read(row)).optional().map_err(failed)?;
    Ok(row.map(|row| row.and_then(decode)))
}

impl Meta {
    /// Compares the pepper with the one the database was made with.
    pub(crate) fn check_pepper(&self) -> Result<(), MetaError> {
        let check: String =
            self.keys.digest("weir pepper check").iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        match self.setting(PEPPER_CHECK) {
            Ok(Some(stored)) if stored == check => Ok(()),
            Ok(Some(_)) => Err(MetaError::WrongPepper),
            Ok(None) => self.write("note the pepper", |transaction| write_setting(transaction, PEPPER_CHECK, &check)),
            // The check is a help for people; the keys themselves tell if the pepper is right.
            Err(error) if error.kind() == ErrorKind::Corrupt => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A new key that is not stored yet, and its text.
    pub(crate) fn prepare_key(&self, new: NewKey) -> (StoredKey, Secret<String>) {
        let (id, text) = format::generate(new.kind.as_str());
        let body = format::parse(&text).map_or("", |parsed| parsed.body);
        let record = KeyRecord {
            id,
            tenant: new.tenant,
            kind: new.kind,
            scopes: new.scopes,
            name: new.name,
            created_at: self.clock.now(),
            expires_at: new.expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        (StoredKey { record, digest: self.keys.digest(body) }, Secret::new(text))
    }

    /// Makes a key and returns it, this once.
    ///
    /// # Errors
    /// [`MetaError::Limit`] at the tenant's `keys_max`; [`MetaError::Invalid`] for a key that would
    /// be of no use.
    pub fn create_key(&self, new: NewKey) -> Result<(KeyRecord, Secret<String>), MetaError> {
        let tenant = self.tenant(&new.tenant)?.ok_or_else(|| MetaError::not_found("tenant", &new.tenant))?;
        let now = self.clock.now();
        if new.name.len() > KEY_NAME_BYTES_MAX || new.name.chars().any(char::is_control) {
            let message = format!("a name has at most {KEY_NAME_BYTES_MAX} bytes and no control characters");
            return Err(MetaError::invalid("/name", message, ""));
        }
        if new.scopes == Scopes::default() {
            return Err(MetaError::invalid("/scopes", "a key needs a scope", "known are ingest, query, admin"));
        }
        if new.kind == KeyKind::Admin && (new.tenant != TenantId::system() || !new.scopes.admin) {
            let message = "an administrator's key belongs to tenant `system` and has the scope admin";
            return Err(MetaError::invalid("/kind", message, ""));
        }
        if new.expires_at.is_some_and(|at| at <= now) {
            return Err(MetaError::invalid("/expires_at", "the time has passed already", ""));
        }
        let (key, secret) = self.prepare_key(new);
        self.write("create a key", |transaction| {
            if !crate::tenants::is_live(transaction, &key.record.tenant)? {
                return Err(MetaError::not_found("tenant", &key.record.tenant));
            }
            let current: i64 = transaction
                .query_row(
                    "SELECT count(*) FROM keys WHERE tenant = ?1 AND revoked_at IS NULL
                     AND (expires_at IS NULL OR expires_at > ?2)",
                    (key.record.tenant.as_str(), now.0),
                    |row| row.get(0),
                )
                .map_err(|error| MetaError::database("count keys", error))?;
            let current = u64::try_from(current).unwrap_or(0);
            let value = tenant.limits.keys_max;
            if current >= value {
                return Err(MetaError::Limit { name: "keys_max", value, current });
            }
            write_key(transaction, &key)
        })?;
        Ok((key.record, secret))
    }

    /// The keys of a tenant, revoked and expired ones included, oldest first. Damaged rows are left
    /// out and noted in [`Meta::damage`].
    pub fn keys(&self, tenant: &TenantId) -> Result<Vec<KeyRecord>, MetaError> {
        let failed = |error| MetaError::database("list keys", error);
        let reader = self.reader.lock();
        let mut keys = Vec::new();
        {
            let mut statement = reader.prepare_cached(&KEYS.select("WHERE tenant = ?1")).map_err(failed)?;
            let rows = statement.query_map([tenant.as_str()], |row| KEYS.read(row)).map_err(failed)?;
            for row in rows {
                match row.map_err(failed)?.and_then(decode) {
                    Ok(key) => keys.push(key.record),
                    Err(mut damaged) => {
                        damaged.tenant = Some(tenant.clone());
                        self.note_damage(&damaged);
                    }
                }
            }
        }
        let mut statement = reader.prepare_cached("SELECT last_used_at FROM key_uses WHERE id = ?1").map_err(failed)?;
        for key in &mut keys {
            let stored: Option<i64> = statement.query_row([&key.id], |row| row.get(0)).optional().map_err(failed)?;
            key.last_used_at = stored.map(Timestamp).max(self.keys.last_used(&key.id));
        }
        keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(keys)
    }

    /// Revokes a key of that tenant, at once. Returns whether there was a live one of that id.
    ///
    /// # Errors
    /// [`MetaError::Conflict`] for the last administrator's key: nobody could make another.
    pub fn revoke_key(&self, tenant: &TenantId, key_id: &str) -> Result<bool, MetaError> {
        let now = self.clock.now();
        let revoked = self.write("revoke a key", |transaction| {
            match read_key(transaction, key_id)? {
                None => Ok(false),
                Some(Ok(key)) if key.record.tenant != *tenant || key.record.revoked_at.is_some() => Ok(false),
                Some(Ok(mut key)) => {
                    let is_administrators = key.record.kind == KeyKind::Admin && key.record.is_live(now);
                    if is_administrators && !has_other_administrator(transaction, key_id, now)? {
                        let reason = "is the last administrator's key: make another one before it is revoked";
                        return Err(MetaError::conflict("the key", key_id, reason));
                    }
                    key.record.revoked_at = Some(now);
                    write_key(transaction, &key)?;
                    Ok(true)
                }
                // It is refused already; what is left of it can go.
                Some(Err(_)) => remove_key(transaction, key_id, tenant),
            }
        });
        // Also after an error: whether a failed commit took effect is not known.
        self.keys.forget(key_id);
        revoked
    }

    /// Checks a key, as sent: `weir_...` or `<tenant>:weir_...`.
    ///
    /// # Errors
    /// One and the same refusal for every reason but [`RefusedReason::Unavailable`].
    pub fn verify_key(&self, presented: &str) -> Result<Arc<Principal>, AuthRefused> {
        let refused = |reason, key_id: Option<&str>, tenant: Option<&TenantId>| AuthRefused {
            reason,
            key_id: key_id.map(str::to_owned),
            tenant: tenant.cloned(),
        };
        let (named_tenant, text) = match presented.split_once(':') {
            Some((tenant, text)) => (Some(tenant), text),
            None => (None, presented),
        };
        let Some(parsed) = format::parse(text) else {
            return Err(refused(RefusedReason::Malformed, None, None));
        };
        let id = Some(parsed.id);
        let found = self.find_key(parsed.id);
        // An unknown id costs the same hash and comparison as a known one.
        let digest = self.keys.digest(parsed.body);
        let expected = found.as_ref().map_or([0; 32], |entry| entry.digest);
        let equal = bool::from(digest.ct_eq(&expected));
        let entry = found.map_err(|reason| refused(reason, id, None))?;
        let principal = &entry.principal;
        let tenant = Some(&principal.tenant);
        if !equal {
            return Err(refused(RefusedReason::WrongSecret, id, tenant));
        }
        if entry.is_revoked {
            return Err(refused(RefusedReason::Revoked, id, tenant));
        }
        let now = self.clock.now();
        if principal.expires_at.is_some_and(|at| at <= now) {
            return Err(refused(RefusedReason::Expired, id, tenant));
        }
        if named_tenant.is_some_and(|named| named != principal.tenant.as_str()) {
            return Err(refused(RefusedReason::OtherTenant, id, tenant));
        }
        if !matches!(self.tenant(&principal.tenant), Ok(Some(_))) {
            return Err(refused(RefusedReason::NoTenant, id, tenant));
        }
        entry.used(now);
        Ok(Arc::clone(principal))
    }

    /// A key from the cache, or from the database.
    fn find_key(&self, id: &str) -> Result<Arc<cache::Entry>, RefusedReason> {
        let monotonic = self.clock.monotonic();
        if let Some(entry) = self.keys.cached(id, monotonic) {
            return Ok(entry);
        }
        let generation = self.keys.generation();
        match read_key(&self.reader.lock(), id) {
            Ok(None) => Err(RefusedReason::Unknown),
            Ok(Some(Ok(key))) => Ok(self.keys.remember(key, monotonic, generation)),
            Ok(Some(Err(damaged))) => {
                self.note_damage(&damaged);
                Err(RefusedReason::Damaged)
            }
            Err(error) => {
                tracing::error!(error = %weir_base::error::chain(&error), "key cannot be looked up");
                Err(RefusedReason::Unavailable)
            }
        }
    }

    /// Writes when keys were last used: those whose stored time is more than a minute behind. To be
    /// called every few seconds; does nothing if there is nothing to write.
    pub fn flush_last_used(&self) -> Result<usize, MetaError> {
        let uses = self.keys.take_uses();
        if uses.is_empty() {
            return Ok(0);
        }
        self.write("note when keys were used", |transaction| {
            let failed = |error| MetaError::database("note when keys were used", error);
            let mut statement = transaction
                .prepare_cached(
                    "INSERT INTO key_uses (id, last_used_at) SELECT id, ?2 FROM keys WHERE id = ?1
                     ON CONFLICT (id) DO UPDATE SET last_used_at = max(last_used_at, excluded.last_used_at)",
                )
                .map_err(failed)?;
            for (id, at) in &uses {
                statement.execute((id, at.0)).map_err(failed)?;
            }
            Ok(())
        })?;
        Ok(uses.len())
    }

    /// Whether a key that was verified earlier still holds, for requests that stay open: neither
    /// revoked nor expired since, its tenant not deleted.
    ///
    /// # Errors
    /// If the key cannot be read now.
    pub fn key_holds(&self, principal: &Principal) -> Result<bool, MetaError> {
        let key = read_key(&self.reader.lock(), &principal.key_id)?;
        let live = matches!(key, Some(Ok(key)) if key.record.is_live(self.clock.now()));
        Ok(live && self.tenant(&principal.tenant)?.is_some())
    }

    /// Whether that text is the key of that id, whatever its state. For the bootstrap.
    pub(crate) fn is_text_of_key(&self, text: &str, key_id: &str) -> Result<bool, MetaError> {
        let Some(parsed) = format::parse(text) else { return Ok(false) };
        if parsed.id != key_id {
            return Ok(false);
        }
        let key = read_key(&self.reader.lock(), key_id)?;
        let digest = self.keys.digest(parsed.body);
        Ok(matches!(key, Some(Ok(key)) if key.record.revoked_at.is_none() && bool::from(key.digest.ct_eq(&digest))))
    }
}

impl StoredKey {
    pub(crate) fn id(&self) -> &str {
        &self.record.id
    }
}

/// Marks a key as revoked inside a transaction, if it exists and can be read.
pub(crate) fn revoke_within(transaction: &Transaction<'_>, id: &str, now: Timestamp) -> Result<(), MetaError> {
    if let Some(Ok(mut key)) = read_key(transaction, id)?
        && key.record.revoked_at.is_none()
    {
        key.record.revoked_at = Some(now);
        write_key(transaction, &key)?;
    }
    Ok(())
}

/// HMAC-SHA-256 under a fixed key.
pub(crate) type KeyedHash = Hmac<Sha256>;

/// The keyed hash of `text`.
pub(crate) fn keyed_hash(hash: &KeyedHash, text: &str) -> Digest {
    let mut hash = hash.clone();
    hash.update(text.as_bytes());
    hash.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests;
