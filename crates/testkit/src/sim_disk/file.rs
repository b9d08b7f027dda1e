//! An open file of the simulated disk.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use weir_base::disk::DiskFile;

use super::{Change, Class, File, FileId, State, locked, power_lost};

pub(super) struct SimFile {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) id: FileId,
    pub(super) writable: bool,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimFile({})", self.id)
    }
}

impl SimFile {
    fn change(&self, class: Class, what: &str, more: impl Fn(&File) -> u64, change: Change) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = locked(&self.state);
        let lost = state.count(class, what)?;
        let more = more(state.file(self.id)?);
        if more > 0 {
            state.need(more)?;
        }
        state.file(self.id)?.apply(change);
        power_lost(lost)
    }

    fn sync(&self, what: &str) -> io::Result<()> {
        let mut state = locked(&self.state);
        match state.count(Class::Change, what) {
            Ok(false) => {
                state.file(self.id)?.settle();
                Ok(())
            }
            // What was to be synced stays pending: a crash keeps any part of it.
            Ok(true) => power_lost(true),
            Err(error) => {
                if !state.powered_off {
                    // The pages count as clean from now on, and are lost by the next crash.
                    state.file(self.id)?.pending.clear();
                }
                Err(error)
            }
        }
    }
}

impl DiskFile for SimFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let more = |file: &File| end.saturating_sub(file.space());
        self.change(Class::Grow, "write", more, Change::Write { offset, bytes: bytes.to_vec() })
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = locked(&self.state);
        state.count(Class::Read, "read")?;
        let file = state.file(self.id)?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        match from.checked_add(buffer.len()).and_then(|to| file.visible.get(from..to)) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync("fdatasync")
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync("fsync")
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Class::Change, "set length", |_| 0, Change::SetLen(len))?;
        let mut state = locked(&self.state);
        let file = state.file(self.id)?;
        file.allocated = file.allocated.min(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let more = |file: &File| len.saturating_sub(file.space());
        let longer = len.max(self.len_uncounted()?);
        self.change(Class::Grow, "allocate", more, Change::SetLen(longer))?;
        let mut state = locked(&self.state);
        let file = state.file(self.id)?;
        file.allocated = file.allocated.max(len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        locked(&self.state).count(Class::Read, "length")?;
        self.len_uncounted()
    }
}

impl SimFile {
    fn len_uncounted(&self) -> io::Result<u64> {
        Ok(locked(&self.state).file(self.id)?.visible.len() as u64)
    }
}
