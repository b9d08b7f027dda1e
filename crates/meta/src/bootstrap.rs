//! The first administrator's key, which nobody could make without having one.
//!
//! It may be killed at any point: the key and the marker "pending" are stored in one transaction
//! before the file is written, and the marker becomes "done" only when the file is durable. A start
//! that finds "pending" either finds the complete file, or revokes the key (nobody ever saw it) and
//! makes another.

use std::fs;
use std::io;
use std::path::Path;

use weir_base::TenantId;
use weir_base::secret::Secret;

use crate::database::{read_setting, sync_directory, write_setting};
use crate::keys::{KeyKind, NewKey, Scopes, revoke_within, write_key};
use crate::pepper::write_private;
use crate::{Meta, MetaError};

const MARKER: &str = "admin_key";
/// Longer files are not read.
const KEY_FILE_BYTES_MAX: u64 = 4_096;

/// What [`Meta::ensure_admin_key`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminKey {
    /// The file was written now; the id of its key.
    Created(String),
    /// An earlier start wrote it. Whether it is still there is the operator's business.
    Kept,
}

/// How far an earlier start came.
#[derive(Debug, PartialEq, Eq)]
enum Marker {
    Absent,
    Pending(String),
    Done,
}

impl Meta {
    /// Makes sure that there was once an administrator's key in the file at `path` (mode 0600).
    ///
    /// The first start creates it; later starts leave the file and the key alone, also if the
    /// operator removed or revoked them.
    pub fn ensure_admin_key(&self, path: &Path) -> Result<AdminKey, MetaError> {
        match self.admin_key_marker()? {
            Marker::Done => return Ok(AdminKey::Kept),
            Marker::Pending(id) if self.is_complete(path, &id)? => {
                sync_file(path)?;
                self.finish_admin_key(path, &id)?;
                return Ok(AdminKey::Created(id));
            }
            Marker::Pending(_) | Marker::Absent => {}
        }
        self.renew_admin_key(path).map(AdminKey::Created)
    }

    /// Makes another administrator's key, puts it into the file at `path`, and returns its id: for whoever has the
    /// data directory and no key any more. Keys there are stay as they are.
    pub fn renew_admin_key(&self, path: &Path) -> Result<String, MetaError> {
        let (id, text) = self.begin_admin_key()?;
        write_private(path, format!("{}\n", text.expose()).as_bytes())
            .map_err(|error| MetaError::io("write the administrator's key to", path, error))?;
        self.finish_admin_key(path, &id)?;
        Ok(id)
    }

    fn admin_key_marker(&self) -> Result<Marker, MetaError> {
        match self.setting(MARKER) {
            Ok(None) => Ok(Marker::Absent),
            Ok(Some(text)) => Ok(match text.strip_prefix("pending:") {
                Some(id) => Marker::Pending(id.to_owned()),
                None => Marker::Done,
            }),
            // Making a key nobody asked for would be worse than having to ask for one.
            Err(MetaError::Corrupt(_)) => Ok(Marker::Done),
            Err(error) => Err(error),
        }
    }

    /// Stores a new key and the marker that its file is not complete; revokes the one before it.
    fn begin_admin_key(&self) -> Result<(String, Secret<String>), MetaError> {
        let new = NewKey {
            tenant: TenantId::system(),
            kind: KeyKind::Admin,
            scopes: Scopes::ALL,
            name: "administrator, from the data directory".to_owned(),
            expires_at: None,
        };
        let (key, text) = self.prepare_key(new);
        let id = key.id().to_owned();
        self.write("create the administrator's key", |transaction| {
            if let Some(marker) = read_setting(transaction, MARKER)?
                && let Some(unfinished) = marker.strip_prefix("pending:")
            {
                revoke_within(transaction, unfinished, self.clock.now())?;
            }
            write_key(transaction, &key)?;
            write_setting(transaction, MARKER, &format!("pending:{id}"))
        })?;
        Ok((id, text))
    }

    /// The file is complete: makes its name durable, then says so.
    fn finish_admin_key(&self, path: &Path, id: &str) -> Result<(), MetaError> {
        sync_directory(path)?;
        self.set_setting(MARKER, &format!("done:{id}"))
    }

    /// Whether the file holds exactly that key.
    fn is_complete(&self, path: &Path, id: &str) -> Result<bool, MetaError> {
        let failed = |error| MetaError::io("read the administrator's key from", path, error);
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > KEY_FILE_BYTES_MAX => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
        let bytes = fs::read(path).map_err(failed)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => self.is_text_of_key(text.trim(), id),
            Err(_) => Ok(false),
        }
    }
}

fn sync_file(path: &Path) -> Result<(), MetaError> {
    fs::File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| MetaError::io("sync the administrator's key", path, error))
}

#[cfg(test)]
mod tests;
