//! Where the data directory lives: a plain folder, or an ext4 file system of its own whose power can
//! be cut.
//!
//! The shutdown ioctl of ext4 without a flush of its journal stops every write in the middle, as a
//! power failure does: what was not fsynced is gone after the next mount.
//!
//! In one thing it is no power failure: the machine goes on for the millisecond that the ioctl takes,
//! and an fdatasync under way may return 0 in it although its extents were never converted
//! (`jbd2_complete_transaction` takes a transaction that the abort has ended for one that is stored).
//! Nobody without power says anything, so what is said after the cut has begun does not count.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};

const IMAGE_BYTES: u64 = 512 << 20;
/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`.
const EXT4_IOC_SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587D;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const NO_LOG_FLUSH: u32 = 2;

pub(crate) struct Disk {
    folder: PathBuf,
    image: Option<PathBuf>,
    is_off: Arc<AtomicBool>,
}

impl Disk {
    pub(crate) fn new(scratch: &Path, power_loss: bool) -> Result<Self> {
        let folder = scratch.join("disk");
        std::fs::create_dir(&folder).context("cannot make the data directory")?;
        let mut disk = Self { folder, image: None, is_off: Arc::default() };
        if power_loss {
            let image = scratch.join("disk.ext4");
            std::fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
            command("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_os_str()])?;
            disk.image = Some(image);
            disk.mount()?;
        }
        Ok(disk)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Whether power can be cut.
    pub(crate) fn is_real(&self) -> bool {
        self.image.is_some()
    }

    /// Whether power is off; true from just before it goes.
    pub(crate) fn is_off(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_off)
    }

    /// From now on nothing reaches the disk. Does nothing for a plain folder, or the second time.
    pub(crate) fn cut_power(&self) -> Result<()> {
        if self.image.is_none() || self.is_off.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let folder = std::fs::File::open(&self.folder).context("cannot open the mount point")?;
        shutdown(&folder).context("cannot cut the power of the file system")
    }

    /// Mounts the file system as after a power failure. The server must be dead.
    pub(crate) fn restore(&self) -> Result<()> {
        if self.image.is_none() {
            return Ok(());
        }
        command("umount", &[self.folder.as_os_str()])?;
        self.mount()?;
        self.is_off.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// The file system itself must be sound.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(image) = &self.image else { return Ok(()) };
        command("umount", &[self.folder.as_os_str()])?;
        self.is_off.store(true, Ordering::SeqCst);
        let checked = command("e2fsck", &["-f".as_ref(), "-n".as_ref(), image.as_os_str()]);
        self.mount()?;
        checked.context("the file system is damaged, so nothing can be said about Weir")
    }

    fn mount(&self) -> Result<()> {
        let image = self.image.as_deref().context("no image to mount")?;
        command("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), self.folder.as_os_str()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.image.is_some() {
            // Lazily, because on the way out of a failure something may still look into it.
            let _ = command("umount", &["-l".as_ref(), self.folder.as_os_str()]);
        }
    }
}

#[allow(unsafe_code, reason = "the one way to cut a file system's power is an ioctl without a safe wrapper")]
fn shutdown(folder: &std::fs::File) -> rustix::io::Result<()> {
    // SAFETY: the kernel reads one u32 through the pointer, which `Setter` keeps alive for the call
    // (fs/ext4/ioctl.c, ext4_ioctl_shutdown); the opcode says so in its size bits.
    unsafe {
        let setter = rustix::ioctl::Setter::<EXT4_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH);
        rustix::ioctl::ioctl(folder, setter)
    }
}

fn command(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("cannot run {program}; power loss needs it, and root"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// The cut must be a real one: what was synced stays, what was not is gone. Needs root, which is
    /// what the power loss cycles themselves need; without it there is nothing to test here.
    #[test]
    fn a_power_cut_keeps_what_was_synced_and_nothing_else() -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not run: mounting a file system needs root");
            return Ok(());
        }
        let scratch = tempfile::tempdir()?;
        let disk = Disk::new(scratch.path(), true)?;
        std::fs::create_dir(disk.data_dir())?;
        let synced = disk.data_dir().join("synced");
        let mut file = std::fs::File::create(&synced)?;
        file.write_all(b"kept")?;
        file.sync_all()?;
        std::fs::File::open(disk.data_dir())?.sync_all()?;
        std::fs::File::open(&disk.folder)?.sync_all()?;
        file.write_all(b" and lost")?;
        std::fs::write(disk.data_dir().join("not-synced"), b"lost")?;
        disk.cut_power()?;
        assert!(file.sync_all().is_err(), "a sync succeeded without power");
        drop(file);
        disk.restore()?;
        assert_eq!(std::fs::read(&synced)?, b"kept");
        assert!(!disk.data_dir().join("not-synced").exists());
        disk.check()
    }
}
