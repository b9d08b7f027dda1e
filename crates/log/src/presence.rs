//! Whether a log that was made is still there: for those who keep, in another place, a note of which
//! log it was. The log cannot tell by itself: a directory that is gone, or a disk that is not mounted,
//! looks like a log that was never made.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use weir_base::disk::Disk;

use crate::LogError;
use crate::format::align;
use crate::recovery::JUMP;
use crate::state::{Checkpoint, Identity};

/// The note: which log it is, and how many shards it has. As text `0123456789abcdef/3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMark {
    /// As [`crate::Log::id`].
    pub id: u64,
    /// As [`crate::Log::shards`].
    pub shards: u16,
}

impl fmt::Display for LogMark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}/{}", self.id, self.shards)
    }
}

impl FromStr for LogMark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (id, shards) = text.split_once('/').ok_or(())?;
        let id = u64::from_str_radix(id, 16).map_err(|_| ())?;
        Ok(Self { id, shards: shards.parse().map_err(|_| ())? })
    }
}

/// What of the log is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Absent {
    /// Directories that are not there, or are empty: that of the log, or of some of its shards.
    pub missing: Vec<PathBuf>,
    /// There is a log, and it is not the one of the note.
    pub is_another: bool,
}

impl Absent {
    /// Whether everything is there.
    pub fn is_nothing(&self) -> bool {
        self.missing.is_empty() && !self.is_another
    }
}

/// Looks whether the log in `dir` is the one of the note, with all of its shards. Without a note those
/// shards must be there that `floors` knows of (see [`crate::LogOptions::floors`]).
pub fn absent(dir: &Path, disk: &dyn Disk, mark: Option<LogMark>, floors: &[u64]) -> Result<Absent, LogError> {
    let identity = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(LogError::io("list", dir, error)),
        Ok(_) => Identity::load(disk, dir)?.map(|(identity, _)| identity),
    };
    let was_used = |shard: u16| mark.is_some() || floors.get(usize::from(shard)).is_some_and(|floor| *floor > 0);
    let mut absent = Absent::default();
    let Some(identity) = identity else {
        if mark.is_some() || floors.iter().any(|floor| *floor > 0) {
            absent.missing.push(dir.to_owned());
        }
        return Ok(absent);
    };
    absent.is_another = mark.is_some_and(|mark| mark.id != identity.log_id);
    for shard in (0..identity.shards).filter(|shard| was_used(*shard)) {
        let shard_dir = shard_dir(dir, shard);
        if !Checkpoint::exists(disk, &shard_dir)? {
            absent.missing.push(shard_dir);
        }
    }
    Ok(absent)
}

/// Makes what is missing anew, empty: the operator's word that what was only there is given up. It goes
/// on far behind all that may have been given out, so whoever stood in what is lost is told so. Nobody may have
/// the log open.
pub fn begin_anew(dir: &Path, disk: &dyn Disk, mark: Option<LogMark>, floors: &[u64]) -> Result<LogMark, LogError> {
    disk.create_dir_all(dir).map_err(|error| LogError::io("create", dir, error))?;
    let _lock = crate::log::lock(disk, dir)?;
    let known = u16::try_from(floors.len()).unwrap_or(u16::MAX).max(1);
    let identity = Identity::load_or_create(disk, dir, mark.map_or(known, |mark| mark.shards.max(1)))?;
    for shard in 0..identity.shards {
        let shard_dir = shard_dir(dir, shard);
        if Checkpoint::exists(disk, &shard_dir)? {
            continue;
        }
        disk.create_dir_all(&shard_dir).map_err(|error| LogError::io("create", &shard_dir, error))?;
        let floor = floors.get(usize::from(shard)).copied().unwrap_or(0);
        let mut checkpoint = Checkpoint { oldest: align(floor).saturating_add(JUMP), ..Checkpoint::default() };
        checkpoint.store(disk, &shard_dir)?;
    }
    Ok(LogMark { id: identity.log_id, shards: identity.shards })
}

fn shard_dir(dir: &Path, shard: u16) -> PathBuf {
    dir.join(format!("shard-{shard}"))
}
