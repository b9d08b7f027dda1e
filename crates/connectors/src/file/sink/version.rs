//! The next version of a file: the one that can be seen with a stage after it, ready to take its name.
//!
//! A whole copy for each commit would cost the square of the file. So the version before is kept under
//! a hidden name, and becomes the next one by what it lacks: the rows that were committed since, and
//! the stage. It was visible once, but nobody finds it under a name any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use weir_base::ErrorKind;
use weir_base::disk::{Disk, DiskFile};
use weir_component::sink::SinkError;

use super::stage::{Piece, create};
use super::{Plan, disk_error, parquet, place};
use crate::config::FileFormat;

/// How much is copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Makes stages visible.
pub(super) struct Versions {
    generation: u64,
    made: u64,
    before: Option<Before>,
}

/// The version before the one that can be seen.
struct Before {
    path: PathBuf,
    /// The file it was, and would be again.
    target: String,
    /// Of how many bytes it is certain that the visible one begins with them.
    bytes: u64,
}

impl Versions {
    pub(super) fn new(generation: u64) -> Self {
        Self { generation, made: 0, before: None }
    }

    /// Makes a stage visible; doing it twice is the same as once. `verify`: the stage was written by
    /// another process, and is read before it becomes a file.
    pub(super) fn publish(&mut self, plan: &Plan, piece: &Piece, verify: bool) -> Result<(), SinkError> {
        let disk = plan.disk.as_ref();
        let folder = &plan.names.folder;
        let (stage, target) = (folder.join(&piece.stage), folder.join(&piece.file));
        let sync = || disk.sync_dir(folder).map_err(|error| disk_error("make names durable in", folder, &error));
        let staged = match disk.open_read(&stage) {
            Ok(file) => file,
            // It was published before, though that may not be durable yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                check_published(plan, piece, &target)?;
                return sync();
            }
            Err(error) => return Err(disk_error("open", &stage, &error)),
        };
        if piece.before == 0 {
            check_stage(&stage, staged.as_ref(), piece, verify)?;
            drop(staged);
            self.keep_none(disk);
            disk.rename(&stage, &target).map_err(|error| disk_error("rename a stage to", &target, &error))?;
            return sync();
        }
        let has = measure(plan, &target)?.ok_or_else(|| gone(&target, piece.before))?;
        if has != piece.after {
            if has != piece.before {
                return Err(other(&target, plan.format, has, piece.before));
            }
            check_stage(&stage, staged.as_ref(), piece, verify)?;
            self.extend(plan, piece, staged, &target)?;
        }
        sync()?;
        // What is left of it is removed the next time the sink is opened.
        let _ = disk.remove(&stage);
        Ok(())
    }

    /// Puts the next version of `target` in its place.
    fn extend(
        &mut self,
        plan: &Plan,
        piece: &Piece,
        staged: Arc<dyn DiskFile>,
        target: &Path,
    ) -> Result<(), SinkError> {
        let disk = plan.disk.as_ref();
        let visible = disk.open_read(target).map_err(|error| disk_error("open", target, &error))?;
        let from = self.before.take().filter(|before| before.target == piece.file);
        let path = from.as_ref().map_or_else(|| self.fresh(plan), |from| from.path.clone());
        let built = build(plan, &path, from.map(|from| from.bytes), visible, staged);
        let (next, body) = built.map_err(|error| {
            // Whatever it is by now, the next attempt begins anew.
            let _ = disk.remove(&path);
            disk_error("write the next version of", target, &error)
        })?;
        let kept = self.fresh(plan);
        let is_kept = disk.link(target, &kept).is_ok();
        drop(next);
        disk.rename(&path, target).map_err(|error| {
            let _ = disk.remove(&path);
            let _ = disk.remove(&kept);
            disk_error("rename the next version to", target, &error)
        })?;
        if is_kept {
            self.before = Some(Before { path: kept, target: piece.file.clone(), bytes: body });
        }
        Ok(())
    }

    /// Lets go of the version before of every file but `target`, which is continued.
    pub(super) fn keep_only(&mut self, disk: &dyn Disk, target: &str) {
        if self.before.as_ref().is_some_and(|before| before.target != target)
            && let Some(before) = self.before.take()
        {
            let _ = disk.remove(&before.path);
        }
    }

    /// Lets go of the version before, of whatever file.
    pub(super) fn keep_none(&mut self, disk: &dyn Disk) {
        if let Some(before) = self.before.take() {
            let _ = disk.remove(&before.path);
        }
    }

    fn fresh(&mut self, plan: &Plan) -> PathBuf {
        self.made += 1;
        plan.names.folder.join(plan.names.version(self.generation, self.made))
    }
}

/// Writes the next version at `path`, which holds the first `certain` bytes already; the version, and
/// how many bytes of the visible one it begins with.
fn build(
    plan: &Plan,
    path: &Path,
    certain: Option<u64>,
    visible: Arc<dyn DiskFile>,
    staged: Arc<dyn DiskFile>,
) -> std::io::Result<(Arc<dyn DiskFile>, u64)> {
    let disk = plan.disk.as_ref();
    let next = match certain {
        Some(_) => disk.open(path)?,
        None => create(disk, path)?,
    };
    let mut at = certain.unwrap_or(0);
    next.set_len(at)?;
    let body = match plan.format {
        FileFormat::Ndjson | FileFormat::Csv => {
            let (body, staged_bytes) = (visible.len()?, staged.len()?);
            copy(visible.as_ref(), at, body, next.as_ref(), at)?;
            copy(staged.as_ref(), 0, staged_bytes, next.as_ref(), body)?;
            body
        }
        FileFormat::Parquet => {
            let joined = parquet::join(&visible, &staged)?;
            at = at.min(joined.first_body);
            copy(visible.as_ref(), at, joined.first_body, next.as_ref(), at)?;
            let second = joined.second_body;
            copy(staged.as_ref(), second.start, second.end, next.as_ref(), joined.first_body)?;
            next.write_all_at(&joined.footer, joined.first_body + (second.end - second.start))?;
            joined.first_body
        }
    };
    next.sync_all()?;
    Ok((next, body))
}

fn copy(from: &dyn DiskFile, start: u64, end: u64, to: &dyn DiskFile, at: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX))];
    let mut place = start;
    while place < end {
        let n_bytes = usize::try_from(end - place).unwrap_or(usize::MAX).min(buffer.len());
        from.read_exact_at(&mut buffer[..n_bytes], place)?;
        to.write_all_at(&buffer[..n_bytes], at + (place - start))?;
        place += n_bytes as u64;
    }
    Ok(())
}

/// What a file has: bytes, or rows of Parquet; `None` if there is no file.
pub(super) fn measure(plan: &Plan, path: &Path) -> Result<Option<u64>, SinkError> {
    // To open a pipe waits for somebody at its other end.
    place::check_regular(plan.disk.as_ref(), path)?;
    let file = match plan.disk.open_read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(disk_error("open", path, &error)),
    };
    let measured = match plan.format {
        FileFormat::Ndjson | FileFormat::Csv => file.len(),
        FileFormat::Parquet => parquet::rows(&file),
    };
    measured.map(Some).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => unfinished(path, &error),
        _ => disk_error("read", path, &error),
    })
}

/// What was a whole file, and is none: somebody may be putting it back.
fn unfinished(path: &Path, error: &std::io::Error) -> SinkError {
    let message = format!(
        "{} is no whole file any more ({error}); it is waited for, as one that is being put back: put it back, or begin anew with --restart",
        path.display()
    );
    SinkError::new(ErrorKind::Transient, message)
}

/// That a stage is what the receipt says.
fn check_stage(path: &Path, file: &dyn DiskFile, piece: &Piece, contents: bool) -> Result<(), SinkError> {
    let failed = |error: &std::io::Error| disk_error("read", path, error);
    let len = file.len().map_err(|error| failed(&error))?;
    let mut crc = piece.crc;
    if contents && len == piece.bytes {
        crc = 0;
        let mut buffer = vec![0; COPY_BYTES];
        let mut at = 0;
        while at < len {
            let n_bytes = usize::try_from(len - at).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact_at(&mut buffer[..n_bytes], at).map_err(|error| failed(&error))?;
            crc = crc32c::crc32c_append(crc, &buffer[..n_bytes]);
            at += n_bytes as u64;
        }
    }
    if len == piece.bytes && crc == piece.crc {
        return Ok(());
    }
    let message = format!("{} is damaged: it is not what was written before the checkpoint", path.display());
    Err(SinkError::new(ErrorKind::Corrupt, message))
}

/// That the rows of a stage that is gone are where they belong.
fn check_published(plan: &Plan, piece: &Piece, target: &Path) -> Result<(), SinkError> {
    match measure(plan, target)? {
        Some(has) if has >= piece.after => Ok(()),
        // Whoever takes rolled files away does what they are for.
        None if plan.roll.is_some() => Ok(()),
        Some(has) => Err(other(target, plan.format, has, piece.after)),
        None => Err(gone(target, piece.after)),
    }
}

/// The file is missing. Whoever has taken it away may put it back.
pub(super) fn gone(target: &Path, expected: u64) -> SinkError {
    let message = format!(
        "{} is gone, with what this pipeline has written ({expected}); put it back, or begin anew with --restart",
        target.display()
    );
    SinkError::new(ErrorKind::Transient, message)
}

/// The file is not as it was left. One that has less may be on its way back: a copy grows until it is whole.
pub(super) fn other(target: &Path, format: FileFormat, has: u64, expected: u64) -> SinkError {
    let unit = if format == FileFormat::Parquet { "rows" } else { "bytes" };
    let target = target.display();
    if has < expected {
        let message = format!(
            "{target} has only {has} of the {expected} {unit} it had; it is waited for, as one that is being put back: put it back, or begin anew with --restart"
        );
        return SinkError::new(ErrorKind::Transient, message);
    }
    let message = format!(
        "{target} was changed by something else: it has {has} {unit}, and had {expected}; put it back, or begin anew with --restart and `existing: append`"
    );
    SinkError::new(ErrorKind::Conflict, message)
}
