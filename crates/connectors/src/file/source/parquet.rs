//! One Parquet file, from a row on.
//!
//! Files differ in how they write the same columns: each batch is brought to the columns of the
//! source, by name. A column a file does not have is null; one that cannot be converted is an error,
//! since in a file with a schema it is not a row that is wrong.

use std::io::{BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use weir_base::ErrorKind;
use weir_base::disk::DiskFile;
use weir_codecs::rows::BATCH_ROWS_MAX;
use weir_component::source::SourceError;

use super::disk_error;
use super::place::{Head, Place};

/// A file being read.
pub(super) struct ParquetFile {
    name: Arc<str>,
    reader: ParquetRecordBatchReader,
    schema: SchemaRef,
    place: Place,
    /// Bytes of the file for each of its rows, roughly.
    bytes_a_row: u64,
}

/// A file of the disk as the library reads it.
struct Chunks {
    file: Arc<dyn DiskFile>,
    len: u64,
}

struct ChunksFrom {
    file: Arc<dyn DiskFile>,
    offset: u64,
    len: u64,
}

impl Read for ChunksFrom {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let n_bytes = left.min(buffer.len());
        self.file.read_exact_at(&mut buffer[..n_bytes], self.offset)?;
        self.offset += n_bytes as u64;
        Ok(n_bytes)
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<ChunksFrom>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(ChunksFrom { file: Arc::clone(&self.file), offset: start, len: self.len }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} are past the end")));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start).map_err(|error| ParquetError::External(Box::new(error)))?;
        Ok(bytes.into())
    }
}

fn open(file: &Arc<dyn DiskFile>) -> Result<ParquetRecordBatchReaderBuilder<Chunks>, ParquetError> {
    let len = file.len().map_err(|error| ParquetError::External(Box::new(error)))?;
    ParquetRecordBatchReaderBuilder::try_new(Chunks { file: Arc::clone(file), len })
}

/// Runs what reads foreign bytes with a library that may panic on hostile ones.
fn guarded<T>(name: &str, read: impl FnOnce() -> Result<T, String>) -> Result<T, SourceError> {
    let outcome = catch_unwind(AssertUnwindSafe(read));
    let message = match outcome {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(message)) => message,
        Err(_panic) => "its contents make no sense".to_owned(),
    };
    Err(SourceError::new(ErrorKind::Input, format!("{name} is no Parquet file that can be read: {message}")))
}

/// The columns of a file, all of them nullable and in their plain form.
pub(super) fn schema_of(name: &str, file: &Arc<dyn DiskFile>) -> Result<SchemaRef, SourceError> {
    let builder = guarded(name, || open(file).map_err(|error| error.to_string()))?;
    let fields: Vec<Field> = builder.schema().fields().iter().map(plain).collect();
    Ok(Arc::new(Schema::new(fields)))
}

/// The field as operators know it: no dictionaries and no views, which are a matter of storage.
fn plain(field: &FieldRef) -> Field {
    let kind = match field.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        other => other.clone(),
    };
    Field::new(field.name(), kind, true).with_metadata(field.metadata().clone())
}

impl ParquetFile {
    /// Opens `file` at `place`.
    pub(super) fn open(
        schema: &SchemaRef,
        name: &Arc<str>,
        file: &Arc<dyn DiskFile>,
        mut place: Place,
    ) -> Result<Self, SourceError> {
        if place.offset > 0 {
            place.head.check(name, file.as_ref())?;
        } else {
            place.head = Head::of_whole(file.as_ref()).map_err(|error| disk_error("read", name, &error))?;
        }
        let len = file.len().map_err(|error| disk_error("read", name, &error))?;
        let (reader, rows) = guarded(name, || {
            let builder = open(file).map_err(|error| error.to_string())?;
            let metadata = builder.metadata();
            let mut offset = usize::try_from(place.offset).unwrap_or(usize::MAX);
            let mut groups = Vec::new();
            let mut rows = 0_u64;
            for (at, group) in metadata.row_groups().iter().enumerate() {
                let group_rows = usize::try_from(group.num_rows()).map_err(|_| "a count of rows is negative")?;
                rows = rows.saturating_add(group_rows as u64);
                if groups.is_empty() && offset >= group_rows {
                    offset -= group_rows;
                } else {
                    groups.push(at);
                }
            }
            let reader = builder.with_row_groups(groups).with_offset(offset).with_batch_size(BATCH_ROWS_MAX).build();
            Ok((reader.map_err(|error| error.to_string())?, rows))
        })?;
        place.done = false;
        let (name, schema) = (Arc::clone(name), Arc::clone(schema));
        Ok(Self { name, reader, schema, place, bytes_a_row: len / rows.max(1) })
    }

    /// The place after the last rows that were given.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The next rows and roughly the bytes they were read from; `None` at the end.
    pub(super) fn read(&mut self) -> Result<Option<(RecordBatch, u64)>, SourceError> {
        let reader = &mut self.reader;
        let batch = guarded(&self.name, || reader.next().transpose().map_err(|error| error.to_string()))?;
        let Some(batch) = batch else {
            self.place.done = true;
            return Ok(None);
        };
        let rows = conform(&self.name, &batch, &self.schema)?;
        self.place.offset += rows.num_rows() as u64;
        Ok(Some((rows, self.bytes_a_row * batch.num_rows() as u64)))
    }
}

fn conform(name: &str, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, SourceError> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let Some(column) = batch.column_by_name(field.name()) else {
            columns.push(new_null_array(field.data_type(), batch.num_rows()));
            continue;
        };
        if column.data_type() == field.data_type() {
            columns.push(Arc::clone(column));
            continue;
        }
        let cast = cast_with_options(column, field.data_type(), &options).map_err(|error| {
            let message = format!(
                "{name}: column `{}` is {} and cannot be read as {}: {error}",
                field.name(),
                column.data_type(),
                field.data_type()
            );
            SourceError::new(ErrorKind::Input, message)
        })?;
        columns.push(cast);
    }
    let row_count = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &row_count)
        .map_err(|error| SourceError::new(ErrorKind::Internal, format!("{name}: {error}")))
}
