//! The operating system's file system.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::{DirEntry, Disk, DiskFile, DiskLock, ZEROS_CHUNK, fill, in_chunks};

/// The operating system's file system.
#[derive(Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The disk of this machine.
    #[expect(clippy::new_ret_no_self, reason = "a disk is only ever used behind the seam")]
    pub fn new() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

/// What memory, offsets and lengths have to be a multiple of to go past the page cache, whatever the device.
const DIRECT_ALIGN: u64 = 4096;

#[derive(Debug)]
struct RealFile(File);

impl RealFile {
    /// Writes zeros to whole pages past the page cache, and answers up to where. Nobody else may use the file meanwhile. What
    /// cannot be written this way, because the file system or the device does not know it, is left to the caller.
    fn fill_directly(&self, len: u64) -> io::Result<u64> {
        let flags = fcntl_getfl(&self.0)?;
        if fcntl_setfl(&self.0, flags | OFlags::DIRECT).is_err() {
            return Ok(0);
        }
        let whole_pages = len - len % DIRECT_ALIGN;
        let room = vec![0_u8; (ZEROS_CHUNK.min(whole_pages) + DIRECT_ALIGN) as usize];
        let zeros = &room[room.as_ptr().align_offset(DIRECT_ALIGN as usize)..];
        let mut filled = 0;
        let written = in_chunks(0, whole_pages, |at, chunk| {
            self.0.write_all_at(&zeros[..chunk as usize], at)?;
            filled = at + chunk;
            self.0.sync_data()
        });
        fcntl_setfl(&self.0, flags)?;
        match written {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(filled),
            Err(error) => Err(error),
            Ok(()) => Ok(whole_pages),
        }
    }
}

impl DiskFile for RealFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            // File systems without fallocate: the length still grows, the promise of space is lost.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                if self.0.metadata()?.len() < len {
                    self.0.set_len(len)?;
                }
                Ok(())
            }
            other => other.map_err(io::Error::from),
        }
    }

    fn fill_with_zeros(&self, len: u64) -> io::Result<()> {
        fill(self, self.fill_directly(len)?, len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// The lock belongs to the open file, so closing it, or the end of the process, gives it back.
#[derive(Debug)]
struct RealLock {
    file: File,
    path: PathBuf,
    folder: (u64, u64),
}

impl DiskLock for RealLock {
    fn is_in_place(&self) -> io::Result<bool> {
        let named = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            named => named?,
        };
        let own = self.file.metadata()?;
        Ok((named.dev(), named.ino()) == (own.dev(), own.ino()))
    }

    fn is_same_folder(&self) -> io::Result<bool> {
        match folder_of(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            folder => Ok(folder? == self.folder),
        }
    }
}

/// What tells the folder of a file from others.
fn folder_of(path: &Path) -> io::Result<(u64, u64)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::metadata(folder)?;
    Ok((folder.dev(), folder.ino()))
}

fn wrap(file: File) -> Arc<dyn DiskFile> {
    Arc::new(RealFile(file))
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).map(wrap)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        OpenOptions::new().read(true).write(true).open(path).map(wrap)
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        File::open(path).map(wrap)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn exchange(&self, left: &Path, right: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        renameat_with(CWD, left, CWD, right, RenameFlags::EXCHANGE).map_err(|error| match error {
            Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => io::ErrorKind::Unsupported.into(),
            error => error.into(),
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut at = path;
        while !at.as_os_str().is_empty() && !at.is_dir() {
            missing.push(at);
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        for path in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.sync_dir(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn is_regular(&self, path: &Path) -> io::Result<bool> {
        Ok(fs::symlink_metadata(path)?.is_file())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed between listing and looking.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let Ok(name) = entry.file_name().into_string() else { continue };
            let len = if metadata.is_dir() { 0 } else { metadata.len() };
            entries.push(DirEntry { name, is_dir: metadata.is_dir(), len });
        }
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { file, folder: folder_of(path)?, path: path.to_owned() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever was there, on the file systems of a working folder and of one in memory, and past the last whole page.
    #[test]
    fn fills_with_zeros() -> io::Result<()> {
        let len = 3 * ZEROS_CHUNK + 2 * DIRECT_ALIGN + 700;
        for folder in [tempfile::tempdir()?, tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?] {
            for len in [0, 1, DIRECT_ALIGN - 1, DIRECT_ALIGN, len] {
                let path = folder.path().join(format!("file-{len}"));
                let file = RealDisk.create(&path)?;
                file.write_all_at(&vec![7; len as usize + 1], 0)?;
                file.fill_with_zeros(len)?;
                let mut wanted = vec![0; len as usize];
                wanted.push(7);
                assert_eq!(RealDisk.read(&path, len + 1)?, wanted, "{} bytes in {}", len, folder.path().display());
                // Bytes that are not whole pages can be written again.
                file.write_all_at(b"some", 1)?;
            }
        }
        Ok(())
    }
}
