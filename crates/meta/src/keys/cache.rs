//! Keys that were looked up lately, so that a request costs one hash and no query.
//!
//! Only keys that exist are kept, so nobody can fill the cache with guesses.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use hmac::Mac;
use parking_lot::{Mutex, RwLock};
use weir_base::secret::Secret;
use weir_base::{TenantId, Timestamp};

use super::{Digest, KeyedHash, Principal, StoredKey, keyed_hash};

/// Keys kept at most; about 400 bytes each.
const CACHED_KEYS_MAX: usize = 10_000;
/// How long a key is taken from memory before it is read again.
const CACHED_FOR: Duration = Duration::from_secs(60);
/// How far the stored time of the last use may lie behind.
const LAST_USED_BEHIND_MAX: Duration = Duration::from_secs(60);
/// Uses of keys that fell out of the cache, kept until they are written.
const PENDING_USES_MAX: usize = 10_000;
/// How many entries are compared to find one that can go.
const EVICTION_SAMPLE: usize = 16;

/// A key that was looked up.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) principal: Arc<Principal>,
    pub(super) digest: Digest,
    pub(super) is_revoked: bool,
    read_at: Duration,
    /// Nanoseconds since 1970; 0 for never.
    used_at: AtomicI64,
    written_at: AtomicI64,
}

impl Entry {
    /// Takes note of a use.
    pub(super) fn used(&self, now: Timestamp) {
        self.used_at.fetch_max(now.0, Ordering::Relaxed);
    }

    /// The last use, if it is to be written: unwritten, or a minute ahead of what is.
    fn unwritten(&self) -> Option<Timestamp> {
        let used = Timestamp(self.used_at.load(Ordering::Relaxed));
        let written = Timestamp(self.written_at.load(Ordering::Relaxed));
        (used > written && used.since(written) >= LAST_USED_BEHIND_MAX).then_some(used)
    }
}

#[derive(Debug, Default)]
struct Uses {
    pending: HashMap<String, Timestamp>,
}

/// The cache, and the hash under the pepper.
pub(crate) struct KeyStore {
    hash: KeyedHash,
    entries: RwLock<HashMap<String, Arc<Entry>>>,
    /// Changes with every revocation: an entry read before one must not be kept after it.
    generation: AtomicU64,
    uses: Mutex<Uses>,
}

impl fmt::Debug for KeyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyStore").field("entries", &self.entries.read().len()).finish_non_exhaustive()
    }
}

impl KeyStore {
    pub(crate) fn new(pepper: &Secret<[u8; 32]>) -> Self {
        #[allow(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let hash = KeyedHash::new_from_slice(pepper.expose()).expect("a key of any length");
        Self { hash, entries: RwLock::default(), generation: AtomicU64::new(0), uses: Mutex::default() }
    }

    /// The keyed hash of a text.
    pub(crate) fn digest(&self, text: &str) -> Digest {
        keyed_hash(&self.hash, text)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn cached(&self, id: &str, now: Duration) -> Option<Arc<Entry>> {
        let entries = self.entries.read();
        let entry = entries.get(id)?;
        (now.saturating_sub(entry.read_at) < CACHED_FOR).then(|| Arc::clone(entry))
    }

    /// Keeps a key that was read when the generation was `generation`.
    pub(super) fn remember(&self, key: StoredKey, now: Duration, generation: u64) -> Arc<Entry> {
        let StoredKey { record, digest } = key;
        let mut entries = self.entries.write();
        let (used, written) = entries
            .get(&record.id)
            .map_or((0, 0), |old| (old.used_at.load(Ordering::Relaxed), old.written_at.load(Ordering::Relaxed)));
        let entry = Arc::new(Entry {
            is_revoked: record.revoked_at.is_some(),
            digest,
            read_at: now,
            used_at: AtomicI64::new(used),
            written_at: AtomicI64::new(written),
            principal: Arc::new(Principal {
                tenant: record.tenant,
                key_id: record.id.clone(),
                kind: record.kind,
                scopes: record.scopes,
                expires_at: record.expires_at,
            }),
        });
        if self.generation() != generation {
            return entry;
        }
        if entries.len() >= CACHED_KEYS_MAX && !entries.contains_key(&record.id) {
            let oldest =
                entries.iter().take(EVICTION_SAMPLE).min_by_key(|(_, old)| old.used_at.load(Ordering::Relaxed));
            if let Some(id) = oldest.map(|(id, _)| id.clone())
                && let Some(old) = entries.remove(&id)
            {
                self.keep_use(id, &old);
            }
        }
        entries.insert(record.id, Arc::clone(&entry));
        entry
    }

    fn keep_use(&self, id: String, entry: &Entry) {
        if let Some(at) = entry.unwritten() {
            let mut uses = self.uses.lock();
            if uses.pending.len() < PENDING_USES_MAX {
                uses.pending.insert(id, at);
            }
        }
    }

    /// Forgets a key whose row has changed.
    pub(super) fn forget(&self, id: &str) {
        let mut entries = self.entries.write();
        self.generation.fetch_add(1, Ordering::AcqRel);
        if let Some(old) = entries.remove(id) {
            self.keep_use(id.to_owned(), &old);
        }
    }

    /// Forgets all keys of a tenant.
    pub(crate) fn forget_tenant(&self, tenant: &TenantId) {
        let mut entries = self.entries.write();
        self.generation.fetch_add(1, Ordering::AcqRel);
        entries.retain(|_, entry| entry.principal.tenant != *tenant);
    }

    /// When a key was last used, as far as memory knows.
    pub(super) fn last_used(&self, id: &str) -> Option<Timestamp> {
        let at = self.entries.read().get(id)?.used_at.load(Ordering::Relaxed);
        (at != 0).then_some(Timestamp(at))
    }

    /// Uses that are to be written now; they count as written.
    pub(super) fn take_uses(&self) -> Vec<(String, Timestamp)> {
        let mut uses = std::mem::take(&mut self.uses.lock().pending);
        for (id, entry) in self.entries.read().iter() {
            if let Some(at) = entry.unwritten() {
                entry.written_at.store(at.0, Ordering::Relaxed);
                uses.insert(id.clone(), at);
            }
        }
        uses.into_iter().collect()
    }
}
