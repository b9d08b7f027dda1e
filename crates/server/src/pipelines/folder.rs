//! What is kept of pipelines on disk: `pipelines/TENANT/NAME/INCARNATION/checkpoints` in the data directory.
//!
//! Files that a document names by relative paths are in `files/TENANT`, and outlive the pipeline.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use weir_base::disk::Disk;
use weir_base::{ErrorKind, TenantId, Timestamp};
use weir_component::checkpoint::CheckpointError;
use weir_connectors::checkpoints::CheckpointFolder;
use weir_engine::{JobError, Plan, Saved};
use weir_meta::pipelines::{PipelinePut, PipelineRecord};
use weir_meta::tenants::TenantState;

use super::began::Began;
use super::{World, kinds, letters};

fn incarnation_name(incarnation: u64) -> String {
    format!("{incarnation:016x}")
}

fn of_pipeline(world: &World, tenant: &TenantId, name: &str) -> PathBuf {
    world.directory.join("pipelines").join(tenant.as_str()).join(name)
}

/// What is kept of one incarnation.
pub(super) fn of_incarnation(world: &World, record: &PipelineRecord) -> PathBuf {
    of_pipeline(world, &record.tenant, &record.name).join(incarnation_name(record.incarnation))
}

/// Where the files of a tenant's pipelines are that are named by relative paths.
pub(super) fn files(world: &World, tenant: &TenantId) -> PathBuf {
    world.directory.join("files").join(tenant.as_str())
}

/// The checkpoints of one incarnation.
pub(super) fn checkpoints(world: &World, record: &PipelineRecord) -> Result<CheckpointFolder, CheckpointError> {
    CheckpointFolder::open(&of_incarnation(world, record).join("checkpoints"), Arc::clone(&world.disk))
}

/// The folder of savepoints.
const SAVEPOINTS: &str = "savepoints";
/// The file of an incarnation that says how attribute keys read.
const KINDS: &str = kinds::FILE;

/// The savepoints of a pipeline.
pub(super) fn savepoints(world: &World, tenant: &TenantId, name: &str) -> PathBuf {
    of_pipeline(world, tenant, name).join(SAVEPOINTS)
}

/// One of them.
pub(super) fn savepoint(world: &World, tenant: &TenantId, name: &str, label: &str) -> PathBuf {
    savepoints(world, tenant, name).join(label)
}

/// Removes a folder with everything in it, or says in the log that it cannot.
pub(super) fn remove_path(world: &World, path: &Path) {
    remove_or_warn(world, path);
}

fn copy_kinds(world: &World, from: &Path, to: &Path) -> Result<(), CheckpointError> {
    let failed = |error: io::Error| {
        CheckpointError::new(ErrorKind::Transient, format!("cannot copy how attribute keys read: {error}"))
    };
    match world.disk.read(&from.join(KINDS), kinds::FILE_BYTES_MAX) {
        Ok(bytes) => world.disk.replace(&to.join(KINDS), &bytes).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Keeps how attribute keys read with a savepoint.
pub(super) fn save_kinds(world: &World, record: &PipelineRecord, label: &str) -> Result<(), CheckpointError> {
    let to = savepoint(world, &record.tenant, &record.name, label);
    copy_kinds(world, &of_incarnation(world, record), &to)
}

/// Lets attribute keys read as they did at a savepoint.
pub(super) fn restore_kinds(world: &World, record: &PipelineRecord, label: &str) -> Result<(), CheckpointError> {
    let from = savepoint(world, &record.tenant, &record.name, label);
    copy_kinds(world, &from, &of_incarnation(world, record))
}

/// Keeps since when an incarnation reads the streams of `plan`, where that is not kept yet.
pub(super) fn keep_began(world: &World, record: &PipelineRecord, plan: &Plan, since: Timestamp) -> io::Result<()> {
    let streams = plan.sources.iter().filter_map(|source| source.source.stream());
    let streams: Vec<String> = streams.map(str::to_owned).collect();
    Began::keep(world.disk.as_ref(), &of_incarnation(world, record), &streams, since)
}

/// The dead letters of one incarnation that are to be run again. Nobody else may be putting any in at that moment.
pub(super) fn replays(world: &World, record: &PipelineRecord) -> Result<CheckpointFolder, CheckpointError> {
    CheckpointFolder::open(&of_incarnation(world, record).join("replays"), Arc::clone(&world.disk))
}

/// The same, for whoever takes them out.
pub(super) fn replays_read(world: &World, record: &PipelineRecord) -> io::Result<CheckpointFolder> {
    let path = of_incarnation(world, record).join("replays");
    world.disk.create_dir_all(&path)?;
    Ok(CheckpointFolder::watch(&path, Arc::clone(&world.disk)))
}

/// Whether it is kept since when an incarnation reads streams.
pub(super) fn has_began(world: &World, record: &PipelineRecord) -> bool {
    of_incarnation(world, record).join(Began::FILE).is_file()
}

/// The checkpoint from which `plan` would go on, of those of a pipeline; `None` if that has done nothing yet.
pub(super) fn resumes(world: &World, record: &PipelineRecord, plan: &Plan) -> Result<Option<Saved>, JobError> {
    // Only looked at, while another one may be writing: what that has aside is not touched.
    let path = of_incarnation(world, record).join("checkpoints");
    if !path.is_dir() {
        return Ok(None);
    }
    let store = CheckpointFolder::watch(&path, Arc::clone(&world.disk));
    if Handle::current().block_on(plan.resumes(&store))?.is_none() {
        return Ok(None);
    }
    Handle::current().block_on(weir_engine::saved(&store))
}

/// Whether a pipeline has come to its end.
pub(super) fn is_finished(world: &World, record: &PipelineRecord) -> Result<bool, JobError> {
    let path = of_incarnation(world, record).join("checkpoints");
    if !path.is_dir() {
        return Ok(false);
    }
    let store = CheckpointFolder::watch(&path, Arc::clone(&world.disk));
    Ok(Handle::current().block_on(weir_engine::saved(&store))?.is_some_and(|saved| saved.finished))
}

/// Prepares an incarnation that begins where that of `record` stands; `None` if that has done nothing yet.
pub(super) fn begin_at(world: &World, record: &PipelineRecord) -> Result<Option<u64>, JobError> {
    let incarnation = PipelinePut::new_incarnation();
    let next = PipelineRecord { incarnation, ..record.clone() };
    let (from, to) = (checkpoints(world, record)?, checkpoints(world, &next)?);
    let begins = Handle::current().block_on(weir_engine::begin_at(&from, &to))?;
    Ok(begins.map(|_| incarnation))
}

/// Removes a folder with everything in it. What is gone already is no error.
fn remove_all(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let entries = match disk.list(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = path.join(&entry.name);
        if entry.is_dir { remove_all(disk, &path)? } else { disk.remove(&path)? }
    }
    disk.remove_dir(path)
}

fn remove_or_warn(world: &World, path: &Path) {
    if let Err(error) = remove_all(world.disk.as_ref(), path) {
        tracing::warn!(path = %path.display(), %error, "what is left of a pipeline cannot be removed now");
    }
}

/// Removes the checkpoints of a pipeline.
pub(super) fn remove(world: &World, tenant: &TenantId, name: &str) {
    remove_or_warn(world, &of_pipeline(world, tenant, name));
}

/// Removes everything pipelines of a tenant have, with the files.
pub(super) fn remove_tenant(world: &World, tenant: &TenantId) {
    remove_or_warn(world, &world.directory.join("pipelines").join(tenant.as_str()));
    remove_or_warn(world, &files(world, tenant));
    remove_or_warn(world, &letters::folder(&world.directory, tenant));
}

/// Removes the checkpoints of former incarnations.
pub(super) fn remove_other_incarnations(world: &World, record: &PipelineRecord) {
    let (folder, own) = (of_pipeline(world, &record.tenant, &record.name), incarnation_name(record.incarnation));
    for entry in world.disk.list(&folder).unwrap_or_default() {
        if entry.is_dir && entry.name != own && entry.name != SAVEPOINTS {
            remove_or_warn(world, &folder.join(&entry.name));
        }
    }
}

/// Removes the checkpoints of pipelines that are not among `records`, and all of deleted tenants, which a crash has left.
pub(super) fn remove_others(world: &World, records: &[PipelineRecord]) {
    let known: BTreeSet<(&str, &str)> =
        records.iter().map(|record| (record.tenant.as_str(), record.name.as_str())).collect();
    let all = world.directory.join("pipelines");
    for tenant in world.disk.list(&all).unwrap_or_default() {
        for pipeline in world.disk.list(&all.join(&tenant.name)).unwrap_or_default() {
            if !known.contains(&(tenant.name.as_str(), pipeline.name.as_str())) {
                remove_or_warn(world, &all.join(&tenant.name).join(&pipeline.name));
            }
        }
    }
    for record in records {
        remove_other_incarnations(world, record);
    }
    // And what a deletion has left that was interrupted.
    for kind in ["pipelines", "files", "deadletters"] {
        for entry in world.disk.list(&world.directory.join(kind)).unwrap_or_default() {
            let Ok(tenant) = TenantId::new(&entry.name) else { continue };
            if matches!(world.meta.tenant_state(&tenant), Ok(TenantState::Deleted)) {
                remove_tenant(world, &tenant);
            }
        }
    }
}
