//! Rows as the bytes of a stage.

use std::io::Write;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use parking_lot::Mutex;
use weir_base::ErrorKind;
use weir_codecs::rows::{write_csv_header, write_csv_rows};
use weir_component::sink::SinkError;
use weir_data::json_rows;

use super::Plan;
use crate::config::FileFormat;

/// A row group ends when it would take so many bytes of memory.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// And when it has so many rows.
const ROW_GROUP_ROWS: usize = 1 << 20;

/// Turns rows into the bytes of one stage.
pub(super) enum Encoder {
    /// A JSON object a line, under these names.
    Ndjson(Vec<String>),
    /// Comma-separated values.
    Csv { delimiter: u8 },
    /// A Parquet file; `None` once it has ended.
    Parquet { writer: Option<Box<ArrowWriter<Shared>>>, out: Shared },
}

/// Where the writer of Parquet writes to; emptied after each step.
#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn failed(error: &ParquetError) -> SinkError {
    SinkError::new(ErrorKind::Internal, format!("cannot write rows as Parquet: {error}"))
}

/// Whether the columns can be written at all; said when the sink is opened, not with the first row.
pub(super) fn check(plan: &Plan, schema: &Schema) -> Result<(), SinkError> {
    let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let message = format!("there are two columns `{}`, and {} tells them by name", pair[0], plan.shown);
        return Err(SinkError::new(ErrorKind::Config, message));
    }
    Ok(())
}

impl Encoder {
    /// An encoder for a stage, each of which is a whole file: whatever file it was for may be gone when its rows are shown.
    pub(super) fn begin(plan: &Plan, schema: &SchemaRef, out: &mut Vec<u8>) -> Result<Self, SinkError> {
        Ok(match plan.format {
            FileFormat::Ndjson => Self::Ndjson(schema.fields().iter().map(|field| field.name().clone()).collect()),
            FileFormat::Csv => {
                if plan.csv_header {
                    write_csv_header(out, schema, plan.csv_delimiter);
                }
                Self::Csv { delimiter: plan.csv_delimiter }
            }
            FileFormat::Parquet => {
                // No indexes of pages: they hold places in the file, and a stage is put after others.
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                    .set_statistics_enabled(EnabledStatistics::Chunk)
                    .set_offset_index_disabled(true)
                    .build();
                let shared = Shared::default();
                let writer = ArrowWriter::try_new(shared.clone(), Arc::clone(schema), Some(properties));
                let writer = Some(Box::new(writer.map_err(|error| failed(&error))?));
                Self::Parquet { writer, out: shared }
            }
        })
    }

    /// Appends rows to `out`; Parquet holds them back until they are a row group.
    pub(super) fn rows(&mut self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<(), SinkError> {
        match self {
            Self::Ndjson(names) => out.extend_from_slice(&json_rows::lines(rows, names)),
            Self::Csv { delimiter } => write_csv_rows(out, rows, *delimiter),
            Self::Parquet { writer, out: shared } => {
                let Some(writer) = writer else {
                    return Err(SinkError::new(ErrorKind::Internal, "rows were given to a stage that has ended"));
                };
                writer.write(rows).map_err(|error| failed(&error))?;
                if writer.in_progress_size() > ROW_GROUP_BYTES {
                    writer.flush().map_err(|error| failed(&error))?;
                }
                out.append(&mut shared.0.lock());
            }
        }
        Ok(())
    }

    /// Bytes that are held back.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Parquet { writer: Some(writer), .. } => writer.in_progress_size(),
            _ => 0,
        }
    }

    /// Appends what ends a stage. Doing it twice is the same as once.
    pub(super) fn end(&mut self, out: &mut Vec<u8>) -> Result<(), SinkError> {
        if let Self::Parquet { writer, out: shared } = self {
            if let Some(writer) = writer.take() {
                writer.close().map_err(|error| failed(&error))?;
            }
            out.append(&mut shared.0.lock());
        }
        Ok(())
    }
}
