//! The pepper: the secret under which keys are hashed, in a file of its own, so that the database
//! alone (or a backup of it) is of no use to anybody.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use weir_base::random;
use weir_base::secret::Secret;

use crate::MetaError;
use crate::database::sync_directory;

/// Bytes of a pepper.
pub const PEPPER_BYTES: usize = 32;

/// Reads the pepper, or makes one if the file does not exist: 32 random bytes, mode 0600, complete
/// and durable before it has its name.
///
/// # Errors
/// A file of another length is refused: a pepper that lost its end would refuse every key.
pub fn load_or_create(path: &Path) -> Result<Secret<[u8; PEPPER_BYTES]>, MetaError> {
    match fs::File::open(path) {
        Ok(file) => load(path, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pepper = random::bytes::<PEPPER_BYTES>();
            write_private(path, &pepper).map_err(|error| MetaError::io("create the pepper", path, error))?;
            sync_directory(path)?;
            Ok(Secret::new(pepper))
        }
        Err(error) => Err(MetaError::io("open the pepper", path, error)),
    }
}

fn load(path: &Path, file: fs::File) -> Result<Secret<[u8; PEPPER_BYTES]>, MetaError> {
    let failed = |error| MetaError::io("read the pepper", path, error);
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "pepper can be read by others");
    }
    let mut bytes = Vec::with_capacity(PEPPER_BYTES + 1);
    file.take(PEPPER_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    let n_bytes = bytes.len();
    let pepper = <[u8; PEPPER_BYTES]>::try_from(bytes).map_err(|_| {
        let shown = if n_bytes > PEPPER_BYTES { format!("more than {PEPPER_BYTES}") } else { n_bytes.to_string() };
        failed(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it has {shown} bytes instead of {PEPPER_BYTES}: restore it from a backup"),
        ))
    })?;
    Ok(Secret::new(pepper))
}

/// Writes a file only its owner can read: aside, synced, then renamed. Durable once the directory is
/// synced.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let aside = Path::new(&aside);
    match fs::remove_file(aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(aside, path)
}

#[cfg(test)]
mod tests;
