//! The row groups of a file: text columns that come as numbers are written by
//! [`chunk`](crate::texts::chunk), all others by the Parquet library.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, SchemaRef, UInt32Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use crate::texts::Coding;
use crate::texts::chunk::{self, ChunkOptions};

/// How row groups are bounded, and their numbered columns written.
pub(crate) struct GroupOptions {
    /// The largest number of rows.
    pub(crate) rows_max: usize,
    /// A row group ends once it is encoded this large.
    pub(crate) bytes_max: usize,
    /// By column.
    pub(crate) chunks: Vec<ChunkOptions>,
}

/// One column of the row group under construction.
enum Column {
    /// Numbers, to be written when the row group ends; and the writer for texts, which is used if
    /// they turn out to repeat too little.
    Coded(Vec<UInt32Array>, Box<ArrowColumnWriter>),
    /// The writers of its leaves.
    Plain(Vec<ArrowColumnWriter>),
}

/// Writes row groups, one after the other.
pub(crate) struct RowGroups<W: Write + Send> {
    file: SerializedFileWriter<W>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    options: GroupOptions,
    /// Empty between row groups.
    columns: Vec<Column>,
    rows: usize,
}

impl<W: Write + Send> RowGroups<W> {
    /// Begins a file of columns `schema`.
    pub(crate) fn begin(
        out: W,
        schema: &SchemaRef,
        properties: WriterProperties,
        options: GroupOptions,
    ) -> Result<Self> {
        let writer = ArrowWriter::try_new(out, Arc::clone(schema), Some(properties))?;
        let (file, factory) = writer.into_serialized_writer()?;
        Ok(Self { file, factory, schema: Arc::clone(schema), options, columns: Vec::new(), rows: 0 })
    }

    /// Appends rows, numbered by `coding`.
    pub(crate) fn write(&mut self, batch: &RecordBatch, coding: &Coding) -> Result<()> {
        let mut done = 0;
        while done < batch.num_rows() {
            let rows = (self.options.rows_max - self.rows).min(batch.num_rows() - done);
            self.write_some(&batch.slice(done, rows), coding)?;
            done += rows;
            self.rows += rows;
            if self.rows >= self.options.rows_max || self.encoded_bytes() >= self.options.bytes_max {
                self.end_group(coding)?;
            }
        }
        Ok(())
    }

    fn write_some(&mut self, batch: &RecordBatch, coding: &Coding) -> Result<()> {
        if self.columns.is_empty() {
            self.begin_group(coding)?;
        }
        for ((column, array), field) in self.columns.iter_mut().zip(batch.columns()).zip(self.schema.fields()) {
            match column {
                Column::Coded(pieces, _) => pieces.push(numbers(array)?),
                Column::Plain(writers) => {
                    for (leaf, writer) in compute_leaves(field, array)?.iter().zip(writers) {
                        writer.write(leaf)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn begin_group(&mut self, coding: &Coding) -> Result<()> {
        let group = self.file.flushed_row_groups().len();
        let mut writers = self.factory.create_column_writers(group)?.into_iter();
        for (at, field) in self.schema.fields().iter().enumerate() {
            let mut own: Vec<ArrowColumnWriter> = writers.by_ref().take(leaves(field.data_type())).collect();
            self.columns.push(match (coding.texts(at), own.len()) {
                (Some(_), 1) => Column::Coded(Vec::new(), Box::new(own.remove(0))),
                _ => Column::Plain(own),
            });
        }
        Ok(())
    }

    fn encoded_bytes(&self) -> usize {
        let bytes = |column: &Column| match column {
            Column::Coded(..) => self.rows * size_of::<u32>(),
            Column::Plain(writers) => writers.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum(),
        };
        self.columns.iter().map(bytes).sum()
    }

    /// Whether the next row begins a row group.
    pub(crate) fn is_between(&self) -> bool {
        self.rows == 0
    }

    /// Ends the row group, if one has begun.
    pub(crate) fn end_group(&mut self, coding: &Coding) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        self.rows = 0;
        let columns = std::mem::take(&mut self.columns);
        let descriptors = self.file.schema_descr().columns().to_vec();
        let mut group = self.file.next_row_group()?;
        let mut leaf = 0;
        for (at, column) in columns.into_iter().enumerate() {
            let field = self.schema.field(at);
            match column {
                Column::Plain(writers) => {
                    for writer in writers {
                        writer.close()?.append_to_row_group(&mut group)?;
                    }
                }
                Column::Coded(pieces, mut writer) => {
                    let texts = coding.texts(at).ok_or_else(|| ParquetError::General("not numbered".to_owned()))?;
                    match chunk::encode(&pieces, texts, &descriptors[leaf], &self.options.chunks[at])? {
                        Some((bytes, close)) => group.append_column(&bytes, close)?,
                        None => {
                            for piece in &pieces {
                                let array: ArrayRef = Arc::new(texts.decode(piece));
                                for leaf in compute_leaves(field, &array)? {
                                    writer.write(&leaf)?;
                                }
                            }
                            writer.close()?.append_to_row_group(&mut group)?;
                        }
                    }
                }
            }
            leaf += leaves(field.data_type());
        }
        group.close()?;
        Ok(())
    }

    /// Bytes written so far, without the row group under construction.
    pub(crate) fn bytes_written(&self) -> usize {
        self.file.bytes_written()
    }

    /// Writes bytes between row groups.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Adds an entry to the footer.
    pub(crate) fn append_key_value_metadata(&mut self, entry: KeyValue) {
        self.file.append_key_value_metadata(entry);
    }

    /// Writes the footer.
    pub(crate) fn finish(&mut self, coding: &Coding) -> Result<ParquetMetaData> {
        self.end_group(coding)?;
        self.file.finish()
    }

    /// What is written to.
    pub(crate) fn inner_mut(&mut self) -> &mut W {
        self.file.inner_mut()
    }
}

fn numbers(array: &ArrayRef) -> Result<UInt32Array> {
    let numbers = array.as_primitive_opt::<UInt32Type>().cloned();
    numbers.ok_or_else(|| ParquetError::General(format!("a numbered column has type {}", array.data_type())))
}

/// How many leaf columns a type becomes in Parquet.
pub(crate) fn leaves(kind: &DataType) -> usize {
    match kind {
        DataType::Struct(fields) => fields.iter().map(|field| leaves(field.data_type())).sum(),
        DataType::List(field) | DataType::LargeList(field) | DataType::Map(field, _) => leaves(field.data_type()),
        _ => 1,
    }
}
