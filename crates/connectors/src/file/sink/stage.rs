//! Rows of an epoch, durable and not yet visible.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use weir_base::ErrorKind;
use weir_base::disk::{Disk, DiskFile};
use weir_component::sink::SinkError;

use super::encode::Encoder;
use super::{Plan, disk_error};
use crate::config::FileFormat;

/// Bytes that are kept in memory before they are written.
const PENDING_BYTES: usize = 1 << 20;

/// A stage as a receipt tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    /// The file it is for.
    pub(super) file: String,
    /// The name of the stage.
    pub(super) stage: String,
    /// Bytes of the stage.
    pub(super) bytes: u64,
    /// The CRC32C of these.
    pub(super) crc: u32,
    /// What the file has before and after: bytes, or rows of Parquet. From 0 the stage itself becomes
    /// the file.
    pub(super) before: u64,
    pub(super) after: u64,
    /// The bytes at its beginning that are only for a file that begins with it: the header of CSV.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(super) header: u64,
    /// Of files that are rolled: the next version of the file, if it had something before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_none(bytes: &u64) -> bool {
    *bytes == 0
}

/// A stage that is being written.
pub(super) struct Stage {
    path: PathBuf,
    name: String,
    number: u64,
    target: String,
    before: u64,
    header: u64,
    next: Option<String>,
    encoder: Encoder,
    file: Option<Arc<dyn DiskFile>>,
    pending: Vec<u8>,
    written: u64,
    crc: u32,
    rows: u64,
    format: FileFormat,
    /// It was tried to end it.
    ending: bool,
    ended: bool,
    synced: bool,
    /// A failed fsync ends the trust in a file.
    lost: bool,
}

impl Stage {
    /// Begins a stage called `name` for the file of a number, which has `before` already.
    pub(super) fn begin(
        plan: &Plan,
        schema: &SchemaRef,
        name: String,
        number: u64,
        before: u64,
    ) -> Result<Self, SinkError> {
        let mut pending = Vec::new();
        let encoder = Encoder::begin(plan, schema, &mut pending)?;
        Ok(Self {
            path: plan.names.folder.join(&name),
            name,
            number,
            target: plan.names.target(number),
            before,
            header: pending.len() as u64,
            next: None,
            encoder,
            file: None,
            pending,
            written: 0,
            crc: 0,
            rows: 0,
            format: plan.format,
            ending: false,
            ended: false,
            synced: false,
            lost: false,
        })
    }

    /// Takes rows. Nothing can fail after they were taken, so they are never given twice.
    pub(super) fn write(&mut self, disk: &dyn Disk, rows: &RecordBatch) -> Result<(), SinkError> {
        if self.pending.len() >= PENDING_BYTES {
            self.flush(disk)?;
        }
        self.encoder.rows(rows, &mut self.pending)?;
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    /// Whether an attempt to end it has failed: nothing may be added, and it has to be tried again.
    pub(super) fn is_ending(&self) -> bool {
        self.ending && !self.ended
    }

    /// Whether rows for `target` may be added, or it has yet to be ended.
    pub(super) fn is_open_for(&self, target: &str) -> bool {
        !self.ended && self.target == target
    }

    /// Bytes the file gets by it so far, roughly if they are compressed.
    pub(super) fn bytes(&self) -> u64 {
        let header = if self.before > 0 { self.header } else { 0 };
        self.written + (self.pending.len() + self.encoder.held()) as u64 - header
    }

    /// What the file has after this stage: bytes, or rows of Parquet.
    pub(super) fn after(&self) -> u64 {
        match self.format {
            FileFormat::Parquet => self.before + self.rows,
            FileFormat::Ndjson | FileFormat::Csv => self.before + self.bytes(),
        }
    }

    /// The number of the file it is for.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether no more rows come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// It is for another file, which begins with it.
    pub(super) fn begin_file(&mut self, plan: &Plan, number: u64) {
        (self.number, self.target) = (number, plan.names.target(number));
        (self.before, self.next) = (0, None);
    }

    /// The next version of its file is there under this name.
    pub(super) fn set_next(&mut self, next: String) {
        self.next = Some(next);
    }

    /// No more rows come. If that fails, nothing is lost: it is done again.
    pub(super) fn end(&mut self, disk: &dyn Disk) -> Result<(), SinkError> {
        self.ending = true;
        self.encoder.end(&mut self.pending)?;
        self.flush(disk)?;
        self.ended = true;
        Ok(())
    }

    fn flush(&mut self, disk: &dyn Disk) -> Result<(), SinkError> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                let file = create(disk, &self.path).map_err(|error| disk_error("create", &self.path, &error))?;
                self.file = Some(Arc::clone(&file));
                file
            }
        };
        if self.pending.is_empty() {
            return Ok(());
        }
        // A write that failed is repeated at its place.
        file.write_all_at(&self.pending, self.written).map_err(|error| disk_error("write", &self.path, &error))?;
        self.crc = crc32c::crc32c_append(self.crc, &self.pending);
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Makes an ended stage durable, but for its name.
    pub(super) fn sync(&mut self) -> Result<(), SinkError> {
        if self.synced {
            return Ok(());
        }
        let result = match &self.file {
            Some(file) if !self.lost => file.sync_all(),
            _ => Err(std::io::Error::other("it was lost by a failed sync before")),
        };
        if let Err(error) = result {
            self.lost = true;
            let message = format!(
                "cannot make {} durable: {error}; the rows since the last checkpoint have to be computed again",
                self.path.display()
            );
            return Err(SinkError::new(ErrorKind::Corrupt, message));
        }
        self.synced = true;
        Ok(())
    }

    /// What a receipt says of it.
    pub(super) fn piece(&self) -> Piece {
        Piece {
            file: self.target.clone(),
            stage: self.name.clone(),
            bytes: self.written,
            crc: self.crc,
            before: self.before,
            after: self.after(),
            header: self.header,
            next: self.next.clone(),
        }
    }
}

/// Creates a file; one that an attempt before has left is replaced.
pub(super) fn create(disk: &dyn Disk, path: &Path) -> std::io::Result<Arc<dyn DiskFile>> {
    match disk.create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            disk.remove(path)?;
            disk.create(path)
        }
        other => other,
    }
}
