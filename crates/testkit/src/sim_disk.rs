//! A disk in memory that fails on command and shows what a crash may leave behind.
//!
//! The model: every write, change of length, creation, renaming and removal is pending until the
//! file, or for names the directory, is synced. A crash keeps what was synced; of what was pending
//! it keeps any part: writes by sectors of 512 bytes, in any order; names each on their own, so a
//! renaming may be undone and a new file may be gone although its contents were synced. A sync that
//! fails loses what was pending for good while reads still see it, as the page cache of Linux does.
//!
//! It is deliberately harsher than a journaling file system: code that survives here does not lean
//! on the order such a file system happens to keep.

mod choices;
mod file;
#[cfg(test)]
mod tests;
mod thief;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weir_base::disk::{DirEntry, Disk, DiskFile, DiskLock};

pub use choices::Choices;
use file::SimFile;
use thief::Thief;

/// Writes are torn at multiples of this.
pub const SECTOR: usize = 512;

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device fails (EIO). Counts every operation.
    Io,
    /// The disk is full (ENOSPC). Counts only operations that may need space.
    Full,
    /// The power goes: this operation and all after it fail. The operation itself may take part
    /// effect. Counts every operation that changes something.
    PowerLoss,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

#[derive(Clone, Debug, Default)]
struct File {
    /// What the disk holds for certain.
    durable: Vec<u8>,
    /// What reads see.
    visible: Vec<u8>,
    /// What separates the two, in order.
    pending: Vec<Change>,
    /// Space reserved beyond the length.
    allocated: u64,
}

type FileId = u64;

#[derive(Clone, Debug)]
enum Naming {
    Create(String, FileId),
    Remove(String),
    Rename { from: String, to: String },
    Exchange(String, String),
}

#[derive(Clone, Debug, Default)]
struct Directory {
    durable: BTreeMap<String, FileId>,
    visible: BTreeMap<String, FileId>,
    pending: Vec<Naming>,
}

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<FileId, File>,
    directories: BTreeMap<PathBuf, Directory>,
    next_file: FileId,
    capacity: Option<u64>,
    locked: Vec<PathBuf>,
    /// Operations so far: all, those that may need space, those that change something.
    counted: [u64; 3],
    fault: Option<(Fault, u64)>,
    sticky: bool,
    powered_off: bool,
    /// Who takes a file away before which operation.
    thief: Option<(u64, Thief)>,
    taken: Vec<Vec<u8>>,
    no_exchange: bool,
    /// Every operation that went wrong, for messages of failing tests.
    faults_met: Vec<String>,
}

/// A disk in memory. Cloning the `Arc` shares it; [`SimDisk::fork`] copies it.
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SimDisk")
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an operation is, as far as faults are concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Read,
    /// Changes something without needing space.
    Change,
    /// Changes something and may need space.
    Grow,
}

fn normal(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

fn missing(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

fn split(path: &Path) -> io::Result<(PathBuf, String)> {
    let path = normal(path);
    match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_owned())),
        _ => Err(missing(&path)),
    }
}

fn write_at(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let from = offset as usize;
    let to = from + data.len();
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(data);
}

impl File {
    fn apply(&mut self, change: Change) {
        match &change {
            Change::Write { offset, bytes } => write_at(&mut self.visible, *offset, bytes),
            Change::SetLen(len) => self.visible.resize(*len as usize, 0),
        }
        self.pending.push(change);
    }

    /// Makes durable what is pending, and nothing else: what a failed sync lost stays lost.
    fn settle(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { offset, bytes } => write_at(&mut self.durable, offset, &bytes),
                Change::SetLen(len) => self.durable.resize(len as usize, 0),
            }
        }
    }

    fn space(&self) -> u64 {
        (self.visible.len() as u64).max(self.durable.len() as u64).max(self.allocated)
    }

    /// What a crash may leave.
    fn after_crash(&self, choices: &mut Choices) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in &self.pending {
            match change {
                Change::SetLen(len) => {
                    if choices.choose(2) == 1 {
                        bytes.resize(*len as usize, 0);
                    }
                }
                Change::Write { offset, bytes: data } => apply_torn(&mut bytes, *offset, data, choices),
            }
        }
        bytes
    }
}

/// Applies part of a write: nothing, all, the first sectors, the last ones, or any of them.
fn apply_torn(bytes: &mut Vec<u8>, offset: u64, data: &[u8], choices: &mut Choices) {
    let mut sectors = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let place = offset as usize + at;
        let len = (SECTOR - place % SECTOR).min(data.len() - at);
        sectors.push(at..at + len);
        at += len;
    }
    let n_sectors = sectors.len();
    let keep: Vec<bool> = match choices.choose(if n_sectors > 1 { 5 } else { 2 }) {
        0 => vec![false; n_sectors],
        1 => vec![true; n_sectors],
        2 => (0..n_sectors).map(|sector| sector < n_sectors.div_ceil(2)).collect(),
        3 => (0..n_sectors).map(|sector| sector >= n_sectors / 2).collect(),
        _ => (0..n_sectors).map(|_| choices.coin()).collect(),
    };
    for (sector, keep) in sectors.into_iter().zip(keep) {
        if keep {
            write_at(bytes, offset + sector.start as u64, &data[sector]);
        }
    }
}

impl Directory {
    fn apply(&mut self, naming: Naming) {
        Self::apply_to(&mut self.visible, &naming);
        self.pending.push(naming);
    }

    fn apply_to(entries: &mut BTreeMap<String, FileId>, naming: &Naming) {
        match naming {
            Naming::Create(name, file) => {
                entries.insert(name.clone(), *file);
            }
            Naming::Remove(name) => {
                entries.remove(name);
            }
            Naming::Rename { from, to } => {
                if let Some(file) = entries.remove(from) {
                    entries.insert(to.clone(), file);
                }
            }
            Naming::Exchange(left, right) => {
                if let (Some(one), Some(other)) = (entries.get(left).copied(), entries.get(right).copied()) {
                    entries.insert(left.clone(), other);
                    entries.insert(right.clone(), one);
                }
            }
        }
    }

    fn after_crash(&self, choices: &mut Choices) -> BTreeMap<String, FileId> {
        let mut entries = self.durable.clone();
        for naming in &self.pending {
            if choices.choose(2) == 1 {
                Self::apply_to(&mut entries, naming);
            }
        }
        entries
    }
}

impl State {
    fn used(&self) -> u64 {
        let named = self.directories.values().flat_map(|directory| directory.visible.values());
        named.filter_map(|file| self.files.get(file)).map(File::space).sum()
    }

    /// Fails with "no space" if `more` bytes do not fit.
    fn need(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used() + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// Counts an operation, and fails it if that is asked for. `Ok(true)` means that power goes
    /// during it: it may take part effect, and fails.
    fn count(&mut self, class: Class, what: &str) -> io::Result<bool> {
        if self.powered_off {
            return Err(io::Error::other("the power is off"));
        }
        self.counted[0] += 1;
        if let Some((_, thief)) = self.thief.take_if(|(at, _)| *at == self.counted[0]) {
            self.take_last(&thief);
        }
        self.counted[1] += u64::from(class == Class::Grow);
        self.counted[2] += u64::from(class != Class::Read);
        let Some((fault, at)) = self.fault else { return Ok(false) };
        let (kind, counted) = match fault {
            Fault::Io => (0, true),
            Fault::Full => (1, class == Class::Grow),
            Fault::PowerLoss => (2, class != Class::Read),
        };
        if !counted || self.counted[kind] < at || (self.counted[kind] > at && !self.sticky) {
            return Ok(false);
        }
        self.faults_met.push(format!("{fault:?} at {at}: {what}"));
        match fault {
            Fault::Io => Err(io::Error::from_raw_os_error(5)),
            Fault::Full => Err(io::ErrorKind::StorageFull.into()),
            Fault::PowerLoss => {
                self.powered_off = true;
                Ok(true)
            }
        }
    }

    fn file_at(&self, path: &Path) -> io::Result<FileId> {
        let (parent, name) = split(path)?;
        let directory = self.directories.get(&parent).ok_or_else(|| missing(path))?;
        directory.visible.get(&name).copied().ok_or_else(|| missing(path))
    }

    fn directory(&mut self, path: &Path) -> io::Result<&mut Directory> {
        self.directories.get_mut(&normal(path)).ok_or_else(|| missing(path))
    }

    fn file(&mut self, id: FileId) -> io::Result<&mut File> {
        self.files.get_mut(&id).ok_or_else(|| io::Error::other("the file is gone"))
    }

    /// Frees files that no directory names, now or after a crash. Open handles of such files fail.
    fn sweep_unnamed(&mut self) {
        let named: Vec<FileId> = self
            .directories
            .values()
            .flat_map(|directory| {
                let pending = directory.pending.iter().filter_map(|naming| match naming {
                    Naming::Create(_, file) => Some(*file),
                    Naming::Remove(_) | Naming::Rename { .. } | Naming::Exchange(..) => None,
                });
                directory.visible.values().chain(directory.durable.values()).copied().chain(pending)
            })
            .collect();
        self.files.retain(|id, _| named.contains(id));
    }
}

fn power_lost(lost: bool) -> io::Result<()> {
    if lost { Err(io::Error::other("the power went off")) } else { Ok(()) }
}

impl Default for SimDisk {
    fn default() -> Self {
        let mut state = State::default();
        state.directories.insert(PathBuf::from("/"), Directory::default());
        state.directories.insert(PathBuf::new(), Directory::default());
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl SimDisk {
    /// An empty disk without a limit.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// A copy that shares nothing, faults and locks excepted, which it does not have.
    pub fn fork(&self) -> Arc<Self> {
        let mut state = locked(&self.state).clone();
        state.fault = None;
        state.sticky = false;
        state.powered_off = false;
        state.locked.clear();
        state.thief = None;
        Arc::new(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// Fails the `at`-th operation from now on (1 is the next) that the fault counts.
    pub fn fail_at(&self, fault: Fault, at: u64) {
        let mut state = locked(&self.state);
        state.counted = [0; 3];
        state.fault = Some((fault, at));
        state.sticky = false;
    }

    /// Fails the `at`-th operation and all after it that the fault counts.
    pub fn fail_from(&self, fault: Fault, at: u64) {
        self.fail_at(fault, at);
        locked(&self.state).sticky = true;
    }

    /// Ends all faults.
    pub fn heal(&self) {
        let mut state = locked(&self.state);
        state.fault = None;
        state.sticky = false;
    }

    /// What went wrong on command so far.
    pub fn faults_met(&self) -> Vec<String> {
        locked(&self.state).faults_met.clone()
    }

    /// Operations since the last fault was set: all, those that may need space, those that change
    /// something.
    pub fn operations(&self) -> [u64; 3] {
        locked(&self.state).counted
    }

    /// Limits the space; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        locked(&self.state).capacity = bytes;
    }

    /// Lets it be a file system that cannot exchange files.
    pub fn forbid_exchange(&self) {
        locked(&self.state).no_exchange = true;
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        locked(&self.state).used()
    }

    /// A disk as a crash at this moment may leave it; what is left to chance is taken from
    /// `choices`. This disk stays as it is.
    pub fn after_crash(&self, choices: &mut Choices) -> Arc<Self> {
        let before = locked(&self.state);
        let mut state = State {
            next_file: before.next_file,
            capacity: before.capacity,
            taken: before.taken.clone(),
            no_exchange: before.no_exchange,
            ..State::default()
        };
        for (path, directory) in &before.directories {
            let entries = directory.after_crash(choices);
            state
                .directories
                .insert(path.clone(), Directory { durable: entries.clone(), visible: entries, pending: Vec::new() });
        }
        for (id, file) in &before.files {
            let named = state.directories.values().any(|directory| directory.visible.values().any(|name| name == id));
            if named {
                let bytes = file.after_crash(choices);
                let file = File { durable: bytes.clone(), visible: bytes, ..File::default() };
                state.files.insert(*id, file);
            }
        }
        Arc::new(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// The contents of a file, without counting as an operation.
    pub fn peek(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = locked(&self.state);
        let id = state.file_at(path)?;
        state.file(id).map(|file| file.visible.clone())
    }

    /// Replaces the contents of a file behind everybody's back, durably.
    pub fn poke(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = locked(&self.state);
        let id = state.file_at(path)?;
        let file = state.file(id)?;
        file.durable = bytes.to_vec();
        file.visible = bytes.to_vec();
        file.pending.clear();
        Ok(())
    }

    /// Removes a file behind everybody's back, durably.
    pub fn vanish(&self, path: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        let (parent, name) = split(path)?;
        let directory = state.directory(&parent)?;
        directory.visible.remove(&name);
        directory.durable.remove(&name);
        Ok(())
    }

    /// Every file under a directory, sorted.
    pub fn files_under(&self, path: &Path) -> Vec<PathBuf> {
        let state = locked(&self.state);
        let root = normal(path);
        state
            .directories
            .iter()
            .filter(|(directory, _)| directory.starts_with(&root))
            .flat_map(|(directory, entries)| entries.visible.keys().map(move |name| directory.join(name)))
            .collect()
    }

    fn handle(&self, id: FileId, writable: bool) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { state: Arc::clone(&self.state), id, writable })
    }
}

#[derive(Debug)]
struct SimLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("State")
    }
}

impl DiskLock for SimLock {
    fn is_in_place(&self) -> io::Result<bool> {
        let mut state = locked(&self.state);
        state.count(Class::Read, &format!("look at {}", self.path.display()))?;
        match state.file_at(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            found => found.map(|_| true),
        }
    }

    fn is_same_folder(&self) -> io::Result<bool> {
        Ok(false)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        locked(&self.state).locked.retain(|path| *path != self.path);
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = locked(&self.state);
        let lost = state.count(Class::Grow, &format!("create {}", path.display()))?;
        let (parent, name) = split(path)?;
        if state.directory(&parent)?.visible.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = state.next_file;
        state.next_file += 1;
        state.files.insert(id, File::default());
        state.directory(&parent)?.apply(Naming::Create(name, id));
        power_lost(lost)?;
        drop(state);
        Ok(self.handle(id, true))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = locked(&self.state);
        state.count(Class::Read, &format!("open {}", path.display()))?;
        let id = state.file_at(path)?;
        drop(state);
        Ok(self.handle(id, true))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = locked(&self.state);
        state.count(Class::Read, &format!("open {}", path.display()))?;
        let id = state.file_at(path)?;
        drop(state);
        Ok(self.handle(id, false))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        let lost = state.count(Class::Grow, &format!("rename {} {}", from.display(), to.display()))?;
        state.file_at(from)?;
        let (from_parent, from_name) = split(from)?;
        let (to_parent, to_name) = split(to)?;
        if from_parent != to_parent {
            return Err(io::Error::other("the simulated disk renames within a directory only"));
        }
        state.directory(&from_parent)?.apply(Naming::Rename { from: from_name, to: to_name });
        power_lost(lost)
    }

    fn exchange(&self, left: &Path, right: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        if state.no_exchange {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let lost = state.count(Class::Grow, &format!("exchange {} {}", left.display(), right.display()))?;
        state.file_at(left)?;
        state.file_at(right)?;
        let (left_parent, left_name) = split(left)?;
        let (right_parent, right_name) = split(right)?;
        if left_parent != right_parent {
            return Err(io::Error::other("the simulated disk exchanges within a directory only"));
        }
        state.directory(&left_parent)?.apply(Naming::Exchange(left_name, right_name));
        power_lost(lost)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        let lost = state.count(Class::Grow, &format!("link {} {}", from.display(), to.display()))?;
        let id = state.file_at(from)?;
        let (parent, name) = split(to)?;
        let directory = state.directory(&parent)?;
        if directory.visible.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        directory.apply(Naming::Create(name, id));
        power_lost(lost)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        state.file_at(path)?;
        let lost = state.count(Class::Change, &format!("remove {}", path.display()))?;
        let (parent, name) = split(path)?;
        state.directory(&parent)?.apply(Naming::Remove(name));
        power_lost(lost)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut state = locked(&self.state);
        for ancestor in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
            if !state.directories.contains_key(ancestor) {
                let lost = state.count(Class::Grow, &format!("mkdir {}", ancestor.display()))?;
                // The real disk makes a directory durable in its parent before it returns.
                power_lost(lost)?;
                state.directories.insert(ancestor.to_owned(), Directory::default());
            }
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        let path = normal(path);
        let directory = state.directory(&path)?;
        let has_files = !directory.visible.is_empty();
        if has_files || state.directories.keys().any(|other| other.parent() == Some(path.as_path())) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let lost = state.count(Class::Change, &format!("rmdir {}", path.display()))?;
        power_lost(lost)?;
        state.directories.remove(&path);
        Ok(())
    }

    fn is_regular(&self, path: &Path) -> io::Result<bool> {
        let mut state = locked(&self.state);
        state.count(Class::Read, &format!("look at {}", path.display()))?;
        if state.directories.contains_key(&normal(path)) {
            return Ok(false);
        }
        state.file_at(path).map(|_| true)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = locked(&self.state);
        state.count(Class::Read, &format!("list {}", path.display()))?;
        let path = normal(path);
        let files = state.directory(&path)?.visible.clone();
        let mut entries: Vec<DirEntry> = files
            .into_iter()
            .map(|(name, id)| DirEntry {
                name,
                is_dir: false,
                len: state.files.get(&id).map_or(0, |file| file.visible.len() as u64),
            })
            .collect();
        for directory in state.directories.keys() {
            if directory.parent() == Some(path.as_path())
                && let Some(name) = directory.file_name().and_then(|name| name.to_str())
            {
                entries.push(DirEntry { name: name.to_owned(), is_dir: true, len: 0 });
            }
        }
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = locked(&self.state);
        match state.count(Class::Change, &format!("sync {}", path.display())) {
            Ok(lost) => {
                power_lost(lost)?;
                let directory = state.directory(path)?;
                directory.durable.clone_from(&directory.visible);
                directory.pending.clear();
                state.sweep_unnamed();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let mut state = locked(&self.state);
        state.count(Class::Read, "free space")?;
        Ok(state.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(state.used())))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let path = normal(path);
        if locked(&self.state).locked.contains(&path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.create(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        locked(&self.state).locked.push(path.clone());
        Ok(Box::new(SimLock { state: Arc::clone(&self.state), path }))
    }
}
