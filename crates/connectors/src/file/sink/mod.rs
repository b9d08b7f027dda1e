//! The sink `file`: rows to files, each row once, whatever happens in between.
//!
//! Rows of an epoch are staged beside the file they are for, under a name that begins with a dot, and
//! made durable by `prepare`. `commit` makes them visible by a renaming: the stage itself becomes the
//! file, or a next version of the file does, which is the file as it was with the stage after it.
//!
//! Invariant: a file that can be seen under its name is never written to. It is only ever replaced by
//! one that begins with the same rows; so no reader meets half a line, a row that was not decided, or
//! what a crash left of a write.

mod encode;
mod names;
mod open;
mod parquet;
mod place;
mod stage;
mod version;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use weir_base::disk::{Disk, is_full};
use weir_base::quantity::{ByteSize, Span};
use weir_base::{Clock, ErrorKind};
use weir_component::sink::{Delivery, Opening, PlannedSink, Sink, SinkError};
use weir_component::spec::{About, Access, Fault, PlanContext, SinkSpec, Stability};

use crate::config::{self, FileFormat};
use names::Names;

/// The entry of the table.
pub const SPEC: SinkSpec = SinkSpec {
    about: About {
        name: "file",
        summary: "Writes files of newline-delimited JSON, CSV or Parquet, each row exactly once.",
        stability: Stability::Preview,
        access: Access { connects: false, files: true, credentials: false, terminal: false },
        example: "path: out/visits.ndjson\nformat: ndjson\nroll: { bytes: 128MiB, every: 1h }\n",
        schema: || schemars::schema_for!(FileSinkConfig),
    },
    delivery: Delivery::ExactlyOnce,
    plan,
};

/// How often lines are shown: each time a file is replaced by a longer one.
const LINES_INTERVAL: Duration = Duration::from_secs(1);
/// How often rows of Parquet are shown: each time is a row group, and many small ones are bad to read.
const PARQUET_INTERVAL: Duration = Duration::from_secs(10);

/// The smallest size a file may be rolled at.
const ROLL_BYTES_MIN: u64 = 1024;

/// Writes files, each row exactly once.
///
/// Rows appear with the checkpoint that covers them, all rows of a checkpoint at once: of NDJSON and CSV about every
/// second while rows come, of Parquet every 10 s, unless the document says how often checkpoints are made. Who reads a file finds whole
/// lines, and none that a crash could take back. Each checkpoint that has rows replaces the file by one that is longer;
/// to see new rows, open it again. Without `roll` Weir keeps the version before beside it, so that only new rows have
/// to be written: count with twice the space. Times are RFC 3339 in UTC, NaN is null, structs such as a window are
/// objects (in CSV: as JSON text). Names that begin with a dot beside the file are Weir's; leave them alone: one of them
/// tells the folder from an empty one, such as that of a file system that is not mounted. What exists under the name of the
/// file and is no regular file (a device, a pipe, a link) is refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSinkConfig {
    /// The file, from the folder of the pipeline's document. Missing folders are created. With `roll` a number is put
    /// before the extension: `visits.ndjson` becomes `visits-000001.ndjson`, `visits-000002.ndjson`, ...
    pub path: String,
    /// How rows are written. Parquet is compressed with zstd and gets a row group, or several, for each checkpoint. In
    /// CSV texts stand as they are, so a spreadsheet may take one that begins with `=` for a formula.
    pub format: FileFormat,
    /// When a new file is begun. Without it there is one file.
    pub roll: Option<Roll>,
    /// What to do if the file exists when the pipeline starts for the first time. Files it has written itself are
    /// always continued.
    #[serde(default)]
    pub existing: Existing,
    /// CSV: begin each file with the names of the columns. Default: true.
    #[serde(default = "config::yes")]
    pub header: bool,
    /// CSV: what separates cells, one ASCII character. Default: a comma.
    #[serde(default = "config::comma")]
    pub delimiter: String,
}

/// When a new file is begun: as soon as either is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Roll {
    /// When the file has so many bytes. It may be larger by what one batch adds.
    pub bytes: Option<ByteSize>,
    /// When its first row was written so long ago.
    pub every: Option<Span>,
}

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// Do not start.
    #[default]
    Refuse,
    /// Go on after its last row; rolled files go on with the next number.
    Append,
    /// Replace it at the first checkpoint; of rolled files, all.
    Replace,
}

/// Where rows go, and how.
#[derive(Clone, Debug)]
struct Plan {
    names: Names,
    /// The path as it was written, for messages.
    shown: String,
    format: FileFormat,
    csv_delimiter: u8,
    csv_header: bool,
    roll: Option<Roll>,
    existing: Existing,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
}

fn plan(config: &Json, _: &[String], context: &PlanContext) -> Result<Arc<dyn PlannedSink>, Vec<Fault>> {
    let config: FileSinkConfig = config::parse(config)?;
    let mut faults = Vec::new();
    let path: PathBuf = context.path(config.path.as_ref());
    let names = Names::new(&path, config.roll.is_some());
    if names.is_none() || config.path.ends_with('/') {
        let hint = "name a file, such as out/visits.ndjson";
        faults.push(Fault::new("/path", format!("`{}` is not the name of a file", config.path), hint));
    } else if config.path.contains(['*', '?', '{']) {
        faults.push(Fault::new("/path", "a file that is written has one name, not a pattern", ""));
    }
    let delimiter = config::delimiter(&config.delimiter, "/delimiter").unwrap_or_else(|fault| {
        faults.push(fault);
        b','
    });
    if config.format != FileFormat::Csv {
        if !config.header {
            faults.push(Fault::new("/header", "only csv has a header", ""));
        }
        if config.delimiter != config::comma() {
            faults.push(Fault::new("/delimiter", "only csv has a delimiter", ""));
        }
    }
    if let Some(roll) = config.roll {
        if roll == Roll::default() {
            faults.push(Fault::new("/roll", "it does not say when", "set `bytes`, `every`, or both"));
        }
        if roll.bytes.is_some_and(|bytes| bytes.0 < ROLL_BYTES_MIN) {
            let message = format!("less than {}", ByteSize(ROLL_BYTES_MIN));
            faults.push(Fault::new("/roll/bytes", message, "files of a few rows each help nobody"));
        }
        if roll.every.is_some_and(|every| every.0.is_zero()) {
            faults.push(Fault::new("/roll/every", "no time at all", ""));
        }
    }
    let Some(names) = names.filter(|_| faults.is_empty()) else { return Err(faults) };
    Ok(Arc::new(Plan {
        names,
        shown: config.path,
        format: config.format,
        csv_delimiter: delimiter,
        csv_header: config.header,
        roll: config.roll,
        existing: config.existing,
        disk: Arc::clone(&context.disk),
        clock: Arc::clone(&context.clock),
    }))
}

#[async_trait]
impl PlannedSink for Plan {
    fn delivery(&self) -> Delivery {
        Delivery::ExactlyOnce
    }

    async fn open(&self, schema: SchemaRef, opened: Opening) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(open::FileSink::open(self.clone(), schema, opened)?))
    }

    async fn begins_anew(&self) -> Result<String, SinkError> {
        match (open::existing(self)?.last(), self.existing) {
            (None, _) => Ok("there is no file".to_owned()),
            (Some((_, name)), Existing::Refuse) => Err(open::refused(self, name)),
            (Some(_), Existing::Append) => Ok("rows are added to those that are there".to_owned()),
            (Some(_), Existing::Replace) => Ok("what is there is replaced by the rows from there on".to_owned()),
        }
    }

    fn commit_interval(&self) -> Option<Duration> {
        Some(match self.format {
            FileFormat::Ndjson | FileFormat::Csv => LINES_INTERVAL,
            FileFormat::Parquet => PARQUET_INTERVAL,
        })
    }

    fn describe(&self) -> String {
        format!("writes {} ({})", self.shown, self.format.as_str())
    }
}

/// An error of the disk with a file.
fn disk_error(doing: &str, path: &std::path::Path, error: &std::io::Error) -> SinkError {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        _ if is_full(error) => ErrorKind::Full,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Forbidden,
        Io::InvalidFilename | Io::IsADirectory | Io::NotADirectory => ErrorKind::Config,
        Io::InvalidData => ErrorKind::Conflict,
        _ => ErrorKind::Transient,
    };
    SinkError::new(kind, format!("cannot {doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
