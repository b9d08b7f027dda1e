//! What is on the disk before anything of it is read.

use std::path::{Path, PathBuf};

use weir_base::disk::Disk;

use super::JUMP;
use crate::LogError;
use crate::format::SegmentHeader;
use crate::segment::{Opened, SegmentFile, segment_number, segment_path};
use crate::state::Checkpoint;

/// The segments of a shard directory, oldest first, and what is wrong with the set of them.
pub(crate) struct Inventory {
    pub(crate) segments: Vec<(SegmentFile, Option<SegmentHeader>)>,
    /// Files that are named like segments and are none.
    pub(crate) strays: Vec<(PathBuf, &'static str)>,
    pub(crate) next_number: u64,
}

/// Opens every segment file of a shard.
pub(crate) fn take_inventory(disk: &dyn Disk, dir: &Path, log_id: u64, shard: u16) -> Result<Inventory, LogError> {
    let mut inventory = Inventory { segments: Vec::new(), strays: Vec::new(), next_number: 1 };
    for entry in disk.list(dir).map_err(|error| LogError::io("list", dir, error))? {
        let Some(number) = segment_number(&entry.name) else { continue };
        inventory.next_number = inventory.next_number.max(number.saturating_add(1));
        let path = segment_path(dir, number);
        let (segment, header) = match SegmentFile::open(disk, &path, number, log_id, shard)? {
            Opened::Good(segment, header) => (segment, Some(header)),
            Opened::BadHeader(Some(segment), _) => {
                tracing::error!(file = %path.display(), "the header of a segment is damaged, its place is taken from its blocks");
                (segment, None)
            }
            Opened::BadHeader(None, malformed) => {
                inventory.strays.push((path, malformed.0));
                continue;
            }
            Opened::Foreign => {
                inventory.strays.push((path, "the file belongs to another place or another log"));
                continue;
            }
        };
        if inventory.segments.last().is_some_and(|(before, _)| segment.base < before.base) {
            inventory.strays.push((path, "the segment begins before the one in front of it"));
            continue;
        }
        inventory.segments.push((segment, header));
    }
    for (file, what) in &inventory.strays {
        tracing::error!(file = %file.display(), what, "a file in the log is no segment, it is ignored");
    }
    Ok(inventory)
}

/// The newest segment is known to have existed and is not there: its number, and where the log goes
/// on. Nobody can say how far it reached.
pub(crate) fn lost_newest(inventory: &Inventory, checkpoint: &Checkpoint, end: u64) -> Option<(u64, u64)> {
    let newest = inventory.segments.last().map_or(0, |(segment, _)| segment.number);
    let strays = inventory.strays.iter().filter_map(|(path, _)| segment_number(path.file_name()?.to_str()?));
    let lost = strays.chain([checkpoint.newest_number]).filter(|number| *number > newest).min()?;
    Some((lost, end.max(checkpoint.newest_base).saturating_add(JUMP)))
}
