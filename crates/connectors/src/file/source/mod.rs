//! The source `file`: rows of files, read from a position and, if wished, as they grow.

pub mod glob;
mod infer;
mod open;
mod parquet;
mod place;
mod text;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use weir_base::disk::Disk;
use weir_base::quantity::ByteSize;
use weir_base::{Clock, ErrorKind};
use weir_codecs::rows::{Columns, CsvDecoder, CsvOptions, NdjsonDecoder, REJECT_PAYLOAD_BYTES_MAX};
use weir_component::source::{PlannedSource, Source, SourceError, SourcePosition};
use weir_component::spec::{About, Access, Fault, PlanContext, SourceSpec, Stability};

use crate::config::{self, DeclaredColumns, FileFormat};

/// The entry of the table.
pub const SPEC: SourceSpec = SourceSpec {
    about: About {
        name: "file",
        summary: "Reads files of newline-delimited JSON, CSV or Parquet, to their end or as they grow.",
        stability: Stability::Preview,
        access: Access { connects: false, files: true, credentials: false, terminal: false },
        example: "path: \"in/*.ndjson\"\nformat: ndjson\nschema: { time: timestamp, path: text, status: int64 }\n",
        schema: || schemars::schema_for!(FileSourceConfig),
    },
    plan,
};

/// The most a record may be allowed to have.
const RECORD_BYTES_LIMIT: u64 = 64 << 20;

/// Reads files.
///
/// A line that is no row is set aside with the name of the file and its line, and counted; the others go on. What has
/// been read is kept in the checkpoint, file by file. A file that was replaced or cut since then stops the pipeline
/// with an error: its rows would not be those that were counted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSourceConfig {
    /// The files: a path, or a list of them, from the folder of the pipeline's document. `*` and `?` stand for any
    /// characters of a name, `[a-z]` for one of them, `**` for any folders. Names that begin with a dot match only a
    /// pattern with the dot. Files are read in the order of their names.
    pub path: Paths,
    /// How the files are written.
    pub format: FileFormat,
    /// The columns, as `{name: type}`, or as a list of such pairs where their order matters. Types: `int64`, `float64`,
    /// `bool`, `text`, `timestamp`, `json` (any value, kept as JSON text). A `timestamp` is RFC 3339, or a number of
    /// milliseconds since 1970 (microseconds from 10^14 on, nanoseconds from 10^17 on); `timestamp_s`, `timestamp_ms`,
    /// `timestamp_us` and `timestamp_ns` say what a number counts. Members of a line that are no column are ignored,
    /// missing ones are null. Without it the columns are guessed from the first 1000 rows when the pipeline is
    /// checked; what runs for long should declare them.
    pub schema: Option<DeclaredColumns>,
    /// Go on reading what is appended to the files, and look for new ones. Without it the source ends with the files
    /// that are there when it starts. Files must only be appended to, and keep their names. Default: false.
    #[serde(default)]
    pub follow: bool,
    /// Whose time a file has.
    #[serde(default)]
    pub partitions: FilePartitions,
    /// How the files are compressed.
    #[serde(default)]
    pub compression: FileCompression,
    /// CSV: the first line names the columns. Without it they are those of `schema`, in its order, as a list; or
    /// `column_1`, `column_2`, ... Default: true.
    #[serde(default = "config::yes")]
    pub header: bool,
    /// CSV: what separates cells, one ASCII character. Default: a comma.
    #[serde(default = "config::comma")]
    pub delimiter: String,
    /// The most bytes one line, or one record of CSV, may have; a longer one is rejected. At most 64MiB. Default: 1MiB.
    #[serde(default = "record_bytes_max")]
    pub record_bytes_max: ByteSize,
}

/// One path or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Paths {
    /// A path.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Whose time a file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FilePartitions {
    /// Each file has a time of its own, and no row is late because its file was read after another. Results of
    /// windows come when the last file has been begun. A file that was read to its end holds nothing back.
    #[default]
    ByFile,
    /// The files continue one another in the order of their names, as rotated logs do: time goes on from one to the
    /// next, and windows close on the way. Rows older than those of the file before may be late.
    Single,
}

/// How files are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileCompression {
    /// As their names say: `.gz` and `.zst`, else not at all.
    #[default]
    Auto,
    /// Not at all.
    None,
    /// Gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

fn record_bytes_max() -> ByteSize {
    ByteSize(1 << 20)
}

impl Paths {
    fn patterns(&self) -> Vec<String> {
        match self {
            Self::One(path) => vec![path.clone()],
            Self::Many(paths) => paths.clone(),
        }
    }
}

/// The files a source reads, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    patterns: Vec<String>,
    directory: PathBuf,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    format: FileFormat,
    follow: bool,
    partitions: FilePartitions,
    compression: FileCompression,
    csv: CsvOptions,
    record_bytes_max: usize,
    rows: RowShape,
}

/// The columns of the rows, as far as the format makes a difference.
#[derive(Clone, Debug)]
enum RowShape {
    /// Decoded from text into these.
    Text(Arc<Columns>),
    /// Those of Parquet files, made equal.
    Arrow(SchemaRef),
}

fn plan(config: &Json, context: &PlanContext) -> Result<Arc<dyn PlannedSource>, Vec<Fault>> {
    Ok(Arc::new(make(config, context)?))
}

fn make(config: &Json, context: &PlanContext) -> Result<Plan, Vec<Fault>> {
    let config: FileSourceConfig = config::parse(config)?;
    let mut faults = Vec::new();
    let patterns = config.path.patterns();
    if patterns.is_empty() || patterns.iter().any(String::is_empty) {
        faults.push(Fault::new("/path", "there is no path", "name a file or a pattern, such as in/*.ndjson"));
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
    if config.record_bytes_max.0 == 0 || config.record_bytes_max.0 > RECORD_BYTES_LIMIT {
        let message = format!("{} is not between 1B and {}", config.record_bytes_max, ByteSize(RECORD_BYTES_LIMIT));
        faults.push(Fault::new("/record_bytes_max", message, ""));
    }
    if config.follow {
        check_follow(&config, &patterns, &mut faults);
    }
    let declared = config.schema.as_ref().map(|declared| declared.columns("/schema"));
    let declared = match declared {
        Some(Err(found)) => {
            faults.extend(found);
            None
        }
        Some(Ok(columns)) => Some(Arc::new(columns)),
        None => None,
    };
    if let Some(schema) = &config.schema
        && config.format == FileFormat::Csv
        && !config.header
        && !schema.is_ordered()
    {
        let hint = "without a header columns are told by their order: `[{id: int64}, {name: text}]`";
        faults.push(Fault::new("/schema", "the order of the columns is not known", hint));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut plan = Plan {
        patterns,
        directory: context.directory.clone(),
        disk: Arc::clone(&context.disk),
        clock: Arc::clone(&context.clock),
        format: config.format,
        follow: config.follow,
        partitions: config.partitions,
        compression: config.compression,
        csv: CsvOptions { delimiter, header: config.header },
        record_bytes_max: config.record_bytes_max.as_usize(),
        rows: RowShape::Arrow(Arc::new(arrow::datatypes::Schema::empty())),
    };
    plan.rows = match (declared, config.format) {
        (Some(columns), FileFormat::Parquet) => RowShape::Arrow(Arc::clone(columns.schema())),
        (Some(columns), _) => RowShape::Text(columns),
        (None, _) => infer::columns(&plan).map_err(|fault| vec![fault])?,
    };
    Ok(plan)
}

fn check_follow(config: &FileSourceConfig, patterns: &[String], faults: &mut Vec<Fault>) {
    if config.format == FileFormat::Parquet {
        faults.push(Fault::new("/follow", "a parquet file is never appended to", "leave out `follow`"));
    }
    let by_name = patterns.iter().any(|pattern| pattern.ends_with(".gz") || pattern.ends_with(".zst"));
    if matches!(config.compression, FileCompression::Gzip | FileCompression::Zstd)
        || (by_name && config.compression == FileCompression::Auto)
    {
        faults.push(Fault::new("/follow", "a compressed file cannot be followed", "leave out `follow`"));
    }
}

#[async_trait]
impl PlannedSource for Plan {
    fn schema(&self) -> SchemaRef {
        match &self.rows {
            RowShape::Text(columns) => Arc::clone(columns.schema()),
            RowShape::Arrow(schema) => Arc::clone(schema),
        }
    }

    fn is_bounded(&self) -> bool {
        !self.follow
    }

    async fn open(&self, position: Option<SourcePosition>) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(open::FileSource::open(self.clone(), position)?))
    }

    fn again(&self, payload: &str) -> Option<Result<RecordBatch, String>> {
        // Parquet has rows only.
        let RowShape::Text(columns) = &self.rows else { return None };
        if payload.len() >= REJECT_PAYLOAD_BYTES_MAX {
            return Some(Err(format!("it is longer than the {REJECT_PAYLOAD_BYTES_MAX} bytes that are kept")));
        }
        let columns = Arc::clone(columns);
        let decoded = if self.format == FileFormat::Csv {
            let mut decoder = CsvDecoder::new(columns, self.csv, self.record_bytes_max);
            // With a header the first record of it is that of its file.
            match decoder.read(payload.as_bytes(), true) {
                Ok(_) => decoder.take(),
                Err(error) => return Some(Err(error.message)),
            }
        } else {
            let mut decoder = NdjsonDecoder::new(columns, self.record_bytes_max);
            decoder.message(payload.as_bytes());
            decoder.take()
        };
        Some(match decoded.rejects.into_iter().next() {
            Some(reject) => Err(reject.message),
            None if decoded.rows.num_rows() != 1 => Err("it is not one record".to_owned()),
            None => Ok(decoded.rows),
        })
    }

    fn describe(&self) -> String {
        let what = if self.follow { "follows" } else { "reads" };
        format!("{what} {} ({})", self.patterns.join(", "), self.format.as_str())
    }
}

/// An error of the disk with a file.
fn disk_error(doing: &str, name: &str, error: &std::io::Error) -> SourceError {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied => ErrorKind::Forbidden,
        Io::IsADirectory | Io::NotADirectory | Io::InvalidFilename => ErrorKind::Config,
        Io::UnexpectedEof | Io::InvalidData | Io::InvalidInput => ErrorKind::Input,
        _ => ErrorKind::Transient,
    };
    SourceError::new(kind, format!("cannot {doing} {name}: {error}"))
}

#[cfg(test)]
mod tests;
