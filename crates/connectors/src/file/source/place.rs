//! How far a file has been read, and how to tell that it is still the same file.
//!
//! A file is known by its first bytes, not by its inode: a copy restored from a backup is the same
//! file, and a new one under an old name is not.

use serde::{Deserialize, Serialize};
use weir_base::ErrorKind;
use weir_base::disk::DiskFile;
use weir_component::source::SourceError;

use super::disk_error;

/// How many of its first bytes a file is known by.
const HEAD_BYTES: u64 = 1024;

/// A place in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Bytes of text before it, decompressed; or rows before it, of a file of rows.
    pub(super) offset: u64,
    /// Lines before it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) lines: u64,
    /// What the file began with.
    #[serde(default)]
    pub(super) head: Head,
    /// The file was read to its end.
    #[serde(default)]
    pub(super) done: bool,
}

/// What a file is known by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// How many of its first bytes.
    bytes: u64,
    /// The CRC32C of these.
    crc: u32,
    /// The whole length, of a file that is never appended to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    len: Option<u64>,
    /// The CRC32C of its last bytes, of such a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tail: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn crc_of(file: &dyn DiskFile, start: u64, len: u64) -> std::io::Result<u32> {
    let mut bytes = vec![0; usize::try_from(len).map_err(std::io::Error::other)?];
    file.read_exact_at(&mut bytes, start)?;
    Ok(crc32c::crc32c(&bytes))
}

impl Head {
    /// What a file that only grows is known by, once `read` bytes of it have been read.
    pub(super) fn of_growing(file: &dyn DiskFile, read: u64) -> std::io::Result<Self> {
        let bytes = read.min(HEAD_BYTES);
        Ok(Self { bytes, crc: crc_of(file, 0, bytes)?, len: None, tail: None })
    }

    /// What a file that stays as it is is known by.
    pub(super) fn of_whole(file: &dyn DiskFile) -> std::io::Result<Self> {
        let len = file.len()?;
        let bytes = len.min(HEAD_BYTES);
        let tail = crc_of(file, len - bytes, bytes)?;
        Ok(Self { bytes, crc: crc_of(file, 0, bytes)?, len: Some(len), tail: Some(tail) })
    }

    /// Whether more bytes would tell more.
    pub(super) fn grows_with(&self, read: u64) -> bool {
        self.len.is_none() && self.bytes < read.min(HEAD_BYTES)
    }

    /// That `file` is the one this is the head of.
    pub(super) fn check(&self, name: &str, file: &dyn DiskFile) -> Result<(), SourceError> {
        let failed = |error| disk_error("read", name, &error);
        let len = file.len().map_err(failed)?;
        let same = match self.len {
            Some(_) => Self::of_whole(file).map_err(failed)? == *self,
            None if len < self.bytes => false,
            None => crc_of(file, 0, self.bytes).map_err(failed)? == self.crc,
        };
        if same { Ok(()) } else { Err(replaced(name)) }
    }
}

/// The file under `name` is another one than before.
fn replaced(name: &str) -> SourceError {
    SourceError::new(
        ErrorKind::Conflict,
        format!(
            "{name} is not the file that was read before: it was replaced or rewritten; put the old file back, or start the pipeline anew"
        ),
    )
}

/// The file is shorter than what was read of it.
pub(super) fn truncated(name: &str, read: u64, len: u64) -> SourceError {
    SourceError::new(
        ErrorKind::Conflict,
        format!(
            "{name} was cut: it had at least {read} bytes when it was read and has {len}; put the old file back, or start the pipeline anew"
        ),
    )
}
