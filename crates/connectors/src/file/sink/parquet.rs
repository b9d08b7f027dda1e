//! Two Parquet files as one, without decoding either: the row groups of the second after those of the
//! first, and a footer that tells of both.
//!
//! Row groups are told of by their places in the file. Those of the second move by the same distance;
//! the stages of this sink hold no other places (no indexes of pages, no bloom filters).

use std::io;
use std::ops::Range;
use std::sync::Arc;

use ::parquet::arrow::parquet_to_arrow_schema;
use ::parquet::errors::ParquetError;
use ::parquet::file::FOOTER_SIZE;
use ::parquet::file::metadata::{
    FileMetaData, FooterTail, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData,
};
use arrow::datatypes::SchemaRef;
use weir_base::disk::DiskFile;

/// The magic bytes a file begins with.
const MAGIC_BYTES: u64 = 4;

/// How two files become one.
pub(super) struct Joined {
    /// Bytes of the first file before its footer.
    pub(super) first_body: u64,
    /// The bytes of the second that go after them.
    pub(super) second_body: Range<u64>,
    /// What goes after these.
    pub(super) footer: Vec<u8>,
}

fn invalid(error: &ParquetError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// The footer of a file, and where it begins.
fn read(file: &Arc<dyn DiskFile>) -> io::Result<(ParquetMetaData, u64)> {
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "it is no Parquet file");
    let len = file.len()?;
    let mut tail = [0; FOOTER_SIZE];
    let tail_at = len.checked_sub(FOOTER_SIZE as u64).ok_or_else(cut)?;
    file.read_exact_at(&mut tail, tail_at)?;
    let tail = FooterTail::try_new(&tail).map_err(|error| invalid(&error))?;
    let metadata_bytes = tail.metadata_length();
    let metadata_at = tail_at.checked_sub(metadata_bytes as u64).ok_or_else(cut)?;
    let mut metadata = vec![0; metadata_bytes];
    file.read_exact_at(&mut metadata, metadata_at)?;
    let metadata = ParquetMetaDataReader::decode_metadata(&metadata).map_err(|error| invalid(&error))?;
    Ok((metadata, metadata_at))
}

/// How many rows a file has.
pub(super) fn rows(file: &Arc<dyn DiskFile>) -> io::Result<u64> {
    let (metadata, _) = read(file)?;
    u64::try_from(metadata.file_metadata().num_rows()).map_err(io::Error::other)
}

/// The columns of a file.
pub(super) fn schema(file: &Arc<dyn DiskFile>) -> io::Result<SchemaRef> {
    let (metadata, _) = read(file)?;
    let file_metadata = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(file_metadata.schema_descr(), file_metadata.key_value_metadata());
    Ok(Arc::new(schema.map_err(|error| invalid(&error))?))
}

/// How the row groups of `second` come after those of `first`.
pub(super) fn join(first: &Arc<dyn DiskFile>, second: &Arc<dyn DiskFile>) -> io::Result<Joined> {
    let (first_metadata, first_body) = read(first)?;
    let (second_metadata, second_end) = read(second)?;
    let by = i64::try_from(first_body).map_err(io::Error::other)? - MAGIC_BYTES as i64;
    let mut groups = first_metadata.row_groups().to_vec();
    for group in second_metadata.row_groups() {
        let ordinal = i16::try_from(groups.len()).unwrap_or(i16::MAX);
        groups.push(moved(group.clone(), by, ordinal).map_err(|error| invalid(&error))?);
    }
    let about = first_metadata.file_metadata();
    let file_metadata = FileMetaData::new(
        about.version(),
        about.num_rows() + second_metadata.file_metadata().num_rows(),
        about.created_by().map(str::to_owned),
        about.key_value_metadata().cloned(),
        about.schema_descr_ptr(),
        about.column_orders().cloned(),
    );
    let mut footer = Vec::new();
    let metadata = ParquetMetaData::new(file_metadata, groups);
    ParquetMetaDataWriter::new(&mut footer, &metadata).finish().map_err(|error| invalid(&error))?;
    Ok(Joined { first_body, second_body: MAGIC_BYTES..second_end, footer })
}

/// A row group that stands `by` bytes further on.
fn moved(group: RowGroupMetaData, by: i64, ordinal: i16) -> Result<RowGroupMetaData, ParquetError> {
    let file_offset = group.file_offset();
    let mut builder = group.into_builder();
    let mut columns = Vec::new();
    for column in builder.take_columns() {
        let (data, dictionary, index) =
            (column.data_page_offset(), column.dictionary_page_offset(), column.index_page_offset());
        let column = column
            .into_builder()
            .set_data_page_offset(data + by)
            .set_dictionary_page_offset(dictionary.map(|offset| offset + by))
            .set_index_page_offset(index.map(|offset| offset + by));
        columns.push(column.build()?);
    }
    builder = builder.set_column_metadata(columns).set_ordinal(ordinal);
    if let Some(offset) = file_offset {
        builder = builder.set_file_offset(offset + by);
    }
    builder.build()
}
