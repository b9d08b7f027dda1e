//! The next version of a file: the one that can be seen with a stage after it, ready to take its name.
//!
//! A whole copy for each commit would cost the square of the file. So the version before is kept under
//! a hidden name, and becomes the next one by what it lacks: the rows that were committed since, and
//! the stage. It was visible once, but nobody finds it under a name any more.
//!
//! Files that are rolled are there to be taken away, at any moment. So their next version is made before its epoch is decided,
//! and shown by one step that fails if the file is not there any more: it takes the place of the file, and the file that of it.
//! What was taken away before that goes without the stage, which becomes a file of its own.
//!
//! Invariant: as long as the stage is there and the version beside it has the rows of the stage, they were not shown; no other
//! version has its name before the stage is gone for good.

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
    foreseen: Option<Foreseen>,
}

/// A version that was made by this process and is not shown yet.
struct Foreseen {
    name: String,
    /// The stage it ends with.
    stage: String,
    /// With how many bytes of the visible one it begins.
    body: u64,
}

/// Where the rows of a stage can be seen now, or could before they were taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// In the file they are for.
    There,
    /// That file was taken away, perhaps without them: then they are in the spare one.
    Apart,
}

/// The version before the one that can be seen.
struct Before {
    name: String,
    path: PathBuf,
    /// The file it was, and would be again.
    target: String,
    /// Of how many bytes it is certain that the visible one begins with them.
    bytes: u64,
}

impl Versions {
    pub(super) fn new(generation: u64) -> Self {
        Self { generation, made: 0, before: None, foreseen: None }
    }

    /// Makes the version of a rolled file that has a stage after what it has; its name, and whether that name is new.
    pub(super) fn foresee(&mut self, plan: &Plan, piece: &Piece) -> Result<(String, bool), SinkError> {
        if let Some(foreseen) = self.foreseen.as_ref().filter(|foreseen| foreseen.stage == piece.stage) {
            return Ok((foreseen.name.clone(), true));
        }
        let folder = &plan.names.folder;
        let is_new = self.before.as_ref().is_none_or(|before| before.target != piece.file);
        let (name, body) = self.make(plan, piece, &folder.join(&piece.file))?;
        self.foreseen = Some(Foreseen { name: name.clone(), stage: piece.stage.clone(), body });
        Ok((name, is_new))
    }

    /// Makes a stage visible; doing it twice is the same as once. `spare` is the file it becomes if the one it is for was
    /// taken away. `verify`: the stage was written by another process, and is read before it becomes a file.
    pub(super) fn publish(
        &mut self,
        plan: &Plan,
        piece: &Piece,
        spare: &str,
        verify: bool,
    ) -> Result<Shown, SinkError> {
        let disk = plan.disk.as_ref();
        let folder = &plan.names.folder;
        let (stage, target) = (folder.join(&piece.stage), folder.join(&piece.file));
        let sync = || disk.sync_dir(folder).map_err(|error| disk_error("make names durable in", folder, &error));
        let staged = match disk.open_read(&stage) {
            Ok(file) => file,
            // It was published before, though that may not be durable yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let shown = check_published(plan, piece, &target)?;
                sync()?;
                return Ok(shown);
            }
            Err(error) => return Err(disk_error("open", &stage, &error)),
        };
        if piece.before == 0 {
            check_stage(&stage, staged.as_ref(), piece, verify)?;
            drop(staged);
            self.keep_none(disk);
            disk.rename(&stage, &target).map_err(|error| disk_error("rename a stage to", &target, &error))?;
            sync()?;
            return Ok(Shown::There);
        }
        if let Some(next) = &piece.next {
            check_stage(&stage, staged.as_ref(), piece, verify)?;
            return self.publish_rolled(plan, piece, next, spare);
        }
        let has = measure(plan, &target)?.ok_or_else(|| gone(&target, piece.before))?;
        if has != piece.after {
            if has != piece.before {
                return Err(other(plan, &target, has, piece.before));
            }
            check_stage(&stage, staged.as_ref(), piece, verify)?;
            drop(staged);
            let (next, body) = self.make(plan, piece, &target)?;
            let next = folder.join(next);
            self.replace(plan, piece, &next, body).inspect_err(|_| drop(disk.remove(&next)))?;
        }
        sync()?;
        // What is left of it is removed the next time the sink is opened.
        let _ = disk.remove(&stage);
        Ok(Shown::There)
    }

    /// Makes the rows of a stage visible whose file may have been taken away.
    fn publish_rolled(&mut self, plan: &Plan, piece: &Piece, next: &str, spare: &str) -> Result<Shown, SinkError> {
        let disk = plan.disk.as_ref();
        let folder = &plan.names.folder;
        let path = |name: &str| folder.join(name);
        let (stage, target) = (path(&piece.stage), path(&piece.file));
        let sync = || disk.sync_dir(folder).map_err(|error| disk_error("make names durable in", folder, &error));
        let has = measure(plan, &target)?;
        let made = size_of(plan, &path(next));
        let is_made = made.as_ref().is_ok_and(|made| *made == Some(piece.after));
        match has {
            // Whether the rows were shown is only known from it. Where the file is there, the next version can be made again.
            None if made.is_err() => {
                return made.map(|_| Shown::There).map_err(|error| disk_error("read", &path(next), &error));
            }
            None if is_made => {
                let spare = path(spare);
                disk.rename(&stage, &spare).map_err(|error| disk_error("rename a stage to", &spare, &error))?;
                sync()?;
                self.forget(disk, &path(next));
                return Ok(Shown::Apart);
            }
            Some(has) if has == piece.before => self.exchange(plan, piece, next, is_made)?,
            Some(has) if has != piece.after => return Err(other(plan, &target, has, piece.before)),
            Some(_) | None => {}
        }
        sync()?;
        // With the version beside it this tells that its rows were shown.
        match disk.remove(&stage) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk_error("remove", &stage, &error)),
            _ => Ok(Shown::There),
        }
    }

    /// Lets the next version of a rolled file and the file swap their places, if the file is still there.
    fn exchange(&mut self, plan: &Plan, piece: &Piece, next: &str, is_made: bool) -> Result<(), SinkError> {
        let disk = plan.disk.as_ref();
        let folder = &plan.names.folder;
        let (path, target) = (folder.join(next), folder.join(&piece.file));
        let foreseen = self.foreseen.take().filter(|foreseen| is_made && foreseen.name == next);
        let body = match foreseen {
            Some(foreseen) => foreseen.body,
            // What another process has made is not read but made again, under another name until it is whole.
            None => {
                let (made, body) = self.make(plan, piece, &target)?;
                let made = folder.join(made);
                disk.rename(&made, &path).map_err(|error| disk_error("rename a version to", &path, &error))?;
                body
            }
        };
        match disk.exchange(&path, &target) {
            Ok(()) => {
                self.before = Some(Before { name: next.to_owned(), path, target: piece.file.clone(), bytes: body });
                Ok(())
            }
            // Who takes the file away at this very moment has the rows of it that can be seen, and they come again.
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => self.replace(plan, piece, &path, body),
            Err(error) => Err(disk_error("put the next version in the place of", &target, &error)),
        }
    }

    /// Makes the next version of `target`: what it is called, and how many bytes of the visible one it begins with.
    fn make(&mut self, plan: &Plan, piece: &Piece, target: &Path) -> Result<(String, u64), SinkError> {
        let disk = plan.disk.as_ref();
        let stage = plan.names.folder.join(&piece.stage);
        let visible = disk.open_read(target).map_err(|error| disk_error("open", target, &error))?;
        let staged = disk.open_read(&stage).map_err(|error| disk_error("open", &stage, &error))?;
        let from = self.before.take().filter(|before| before.target == piece.file);
        let name = from.as_ref().map_or_else(|| self.fresh(plan), |from| from.name.clone());
        let path = plan.names.folder.join(&name);
        let body = build(plan, piece, &path, from.map(|from| from.bytes), &visible, &staged).map_err(|error| {
            // Whatever it is by now, the next attempt begins anew.
            let _ = disk.remove(&path);
            disk_error("write the next version of", target, &error)
        })?;
        Ok((name, body))
    }

    /// Puts the next version of a file in its place, whether the file is there or not.
    fn replace(&mut self, plan: &Plan, piece: &Piece, next: &Path, body: u64) -> Result<(), SinkError> {
        let disk = plan.disk.as_ref();
        let target = plan.names.folder.join(&piece.file);
        let name = self.fresh(plan);
        let kept = plan.names.folder.join(&name);
        let is_kept = disk.link(&target, &kept).is_ok();
        disk.rename(next, &target).map_err(|error| {
            let _ = disk.remove(&kept);
            disk_error("rename the next version to", &target, &error)
        })?;
        if is_kept {
            self.before = Some(Before { name, path: kept, target: piece.file.clone(), bytes: body });
        }
        Ok(())
    }

    /// Lets go of a version that was made and is of no use.
    pub(super) fn forget(&mut self, disk: &dyn Disk, path: &Path) {
        self.foreseen = None;
        // What is left of it is removed the next time the sink is opened.
        let _ = disk.remove(path);
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

    fn fresh(&mut self, plan: &Plan) -> String {
        self.made += 1;
        plan.names.version(self.generation, self.made)
    }
}

/// Writes the next version at `path`, which holds the first `certain` bytes already; how many bytes of the visible one it
/// begins with.
fn build(
    plan: &Plan,
    piece: &Piece,
    path: &Path,
    certain: Option<u64>,
    visible: &Arc<dyn DiskFile>,
    staged: &Arc<dyn DiskFile>,
) -> std::io::Result<u64> {
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
            copy(staged.as_ref(), piece.header, staged_bytes, next.as_ref(), body)?;
            body
        }
        FileFormat::Parquet => {
            let joined = parquet::join(visible, staged)?;
            at = at.min(joined.first_body);
            copy(visible.as_ref(), at, joined.first_body, next.as_ref(), at)?;
            let second = joined.second_body;
            copy(staged.as_ref(), second.start, second.end, next.as_ref(), joined.first_body)?;
            next.write_all_at(&joined.footer, joined.first_body + (second.end - second.start))?;
            joined.first_body
        }
    };
    next.sync_all()?;
    Ok(body)
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
    size_of(plan, path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => unfinished(path, &error),
        _ => disk_error("read", path, &error),
    })
}

fn size_of(plan: &Plan, path: &Path) -> std::io::Result<Option<u64>> {
    let file = match plan.disk.open_read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let size = match plan.format {
        FileFormat::Ndjson | FileFormat::Csv => file.len(),
        FileFormat::Parquet => parquet::rows(&file),
    };
    size.map(Some)
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
fn check_published(plan: &Plan, piece: &Piece, target: &Path) -> Result<Shown, SinkError> {
    match measure(plan, target)? {
        Some(has) if has >= piece.after => Ok(Shown::There),
        // Whoever takes rolled files away does what they are for.
        None if plan.roll.is_some() && piece.before == 0 => Ok(Shown::There),
        None if plan.roll.is_some() => Ok(Shown::Apart),
        // It was taken away, and has been put back.
        Some(has) if piece.next.is_some() && has == piece.before => Ok(Shown::Apart),
        Some(has) => Err(other(plan, target, has, piece.after)),
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
pub(super) fn other(plan: &Plan, target: &Path, has: u64, expected: u64) -> SinkError {
    let unit = if plan.format == FileFormat::Parquet { "rows" } else { "bytes" };
    let target = target.display();
    if has < expected && plan.roll.is_some() {
        let message = format!(
            "{target} has only {has} of the {expected} {unit} it had; it is waited for, as one that is being put back: put it back, or, if it was cut for good (as `copytruncate` of logrotate does), remove it, and rows go on in the next file"
        );
        return SinkError::new(ErrorKind::Transient, message);
    }
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
