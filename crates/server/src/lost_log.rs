//! A log that is gone. The metadata notes which log it belongs to, before the first row is acknowledged:
//! a start that finds no log, or not all of its shards, is refused instead of beginning an empty one, until
//! the operator brings it back or gives it up (`weir log fsck --repair`).

use std::path::Path;

use weir_base::disk::{Disk, RealDisk};
use weir_base::{ErrorKind, Kinded};
use weir_log::{Absent, Log, LogMark, LogOptions};
use weir_meta::{Meta, MetaError};

use crate::app::StartError;
use crate::stopped::Stopped;

/// The setting of the metadata with the note.
const SETTING: &str = "log";

/// Where the log must not begin before, by shard: tables take rows of earlier offsets for rows they
/// have already. Only a log that was lost, or restored from an older copy, ends before.
pub(crate) fn floors(meta: &Meta) -> Result<Vec<u64>, MetaError> {
    let mut floors: Vec<u64> = Vec::new();
    for position in meta.positions()?.entries {
        let shard = usize::from(position.shard);
        if floors.len() <= shard {
            floors.resize(shard + 1, 0);
        }
        floors[shard] = floors[shard].max(position.offset);
    }
    Ok(floors)
}

/// Refuses to go on without the log there was.
pub(crate) fn check(meta: &Meta, disk: &dyn Disk, options: &LogOptions) -> Result<(), StartError> {
    let absent = weir_log::absent(&options.dir, disk, mark(meta)?, &options.floors)?;
    if let Some(path) = absent.missing.into_iter().next() {
        return Err(StartError::LogLost { path });
    }
    if absent.is_another {
        return Err(StartError::LogIsAnother { path: options.dir.clone() });
    }
    Ok(())
}

/// Notes which log it is.
pub(crate) fn note(meta: &Meta, log: &Log) -> Result<(), MetaError> {
    let now = LogMark { id: log.id(), shards: log.shards() };
    if mark(meta)? == Some(now) { Ok(()) } else { meta.set_setting(SETTING, &now.to_string()) }
}

/// The note, if there is one that can be read.
fn mark(meta: &Meta) -> Result<Option<LogMark>, MetaError> {
    match meta.setting(SETTING) {
        Ok(text) => Ok(text.and_then(|text| text.parse().ok())),
        // It is named among the damage, and the positions of the tables still tell most.
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is gone of the log in the data directory of a stopped server. With `give_up`, it is made anew
/// without the rows that were in it. Without metadata nobody knows, and nothing is missing.
///
/// # Errors
/// Another process has the directory; or the metadata or the log cannot be read.
pub fn look(data_dir: &Path, give_up: bool) -> Result<Absent, StartError> {
    let Some(Stopped { meta, .. }) = &Stopped::open(data_dir)? else { return Ok(Absent::default()) };
    let disk = RealDisk::new();
    let (dir, mark, floors) = (data_dir.join("log"), mark(meta)?, floors(meta)?);
    let absent = weir_log::absent(&dir, disk.as_ref(), mark, &floors)?;
    if give_up && !absent.is_nothing() {
        let now = weir_log::begin_anew(&dir, disk.as_ref(), mark, &floors)?;
        meta.set_setting(SETTING, &now.to_string())?;
    }
    Ok(absent)
}
