//! Whether what is at the place of a sink is what it has written to.
//!
//! The folder of a file system that is not mounted is there, and empty. A stage that is put into it is lost with it once
//! the right one is back, after a checkpoint has counted its rows. So the lock of the sink tells its folder from others: who
//! writes looks first whether it is still where it was.

use std::path::Path;

use weir_base::ErrorKind;
use weir_base::disk::{Disk, DiskLock};
use weir_component::sink::SinkError;

use super::{Plan, disk_error};

/// Takes the lock of a sink, which creates it.
pub(super) fn lock(plan: &Plan) -> Result<Box<dyn DiskLock>, SinkError> {
    let path = plan.names.lock();
    plan.disk.lock(&path).map_err(|error| {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            let message = format!("{} is being written by another pipeline or process", plan.shown);
            return SinkError::new(ErrorKind::Transient, message);
        }
        disk_error("lock", &path, &error)
    })
}

/// That the folder of a sink that has written before has anything of it.
pub(super) fn check_known(plan: &Plan) -> Result<(), SinkError> {
    let folder = &plan.names.folder;
    let entries = match plan.disk.list(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        entries => entries.map_err(|error| disk_error("list", folder, &error))?,
    };
    match entries.iter().any(|entry| plan.names.is_own(&entry.name)) {
        true => Ok(()),
        false => Err(elsewhere(plan)),
    }
}

/// That the folder is the one in which `held` was locked, though the lock may be gone, or one that has taken its place with all that was in it:
/// `has_file` says whether it has the file. The lock from now on, if it is another one.
pub(super) fn check(
    plan: &Plan,
    held: &dyn DiskLock,
    has_file: impl FnOnce() -> Result<bool, SinkError>,
) -> Result<Option<Box<dyn DiskLock>>, SinkError> {
    let path = plan.names.lock();
    let failed = |error: std::io::Error| disk_error("look for", &path, &error);
    if held.is_in_place().map_err(failed)? {
        return Ok(None);
    }
    // Somebody who tidies up has removed it.
    if held.is_same_folder().map_err(failed)? {
        return lock(plan).map(Some);
    }
    // Only looked for: to take it would make it, wherever that is.
    match plan.disk.is_regular(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(elsewhere(plan)),
        found => found.map_err(failed)?,
    };
    if !has_file()? {
        return Err(elsewhere(plan));
    }
    lock(plan).map(Some)
}

fn elsewhere(plan: &Plan) -> SinkError {
    let (folder, lock) = (plan.names.folder.display(), plan.names.lock());
    let mut message = format!(
        "{folder} has nothing of what this pipeline has written to {}: it may not be mounted; put it back, or begin anew with --restart",
        plan.shown
    );
    // Files that are rolled are made to be taken away, and nothing tells that from a folder that is somewhere else.
    if plan.roll.is_some() {
        message.push_str(&format!(
            "; if its files were taken away for good, say so by an empty file {} in that folder",
            lock.display()
        ));
    }
    SinkError::new(ErrorKind::Transient, message)
}

/// What is said of the place of a sink that has written to it: whatever is in the way has come since, and may go.
pub(super) fn passing(error: SinkError) -> SinkError {
    match error.kind {
        ErrorKind::Config | ErrorKind::Forbidden => SinkError { kind: ErrorKind::Transient, ..error },
        _ => error,
    }
}

/// That a file which exists can be replaced by a longer one without harm: a device, a pipe or a link cannot.
pub(super) fn check_regular(disk: &dyn Disk, path: &Path) -> Result<(), SinkError> {
    match disk.is_regular(path) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let message = format!(
                "{} is no regular file but a folder, a device, a pipe or a link, which this sink cannot write to: take it away, or name another file",
                path.display()
            );
            Err(SinkError::new(ErrorKind::Config, message))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(disk_error("look at", path, &error)),
    }
}
