//! Arrow batches and schemas as bytes of the log.
//!
//! A body is one Arrow IPC record batch message, its buffers compressed together (LZ4), without the
//! schema, which is a record of its own. Arrow's own compression goes buffer by buffer, and begins
//! each of the some hundred buffers of a commit with a table to allocate and clear.
//!
//! Invariant: only bytes whose checksum matched are decoded; the Arrow decoder is not safe on bytes
//! of strangers.

mod lengths;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema, SchemaRef, TimestampNanosecondType};
use arrow::error::ArrowError;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_ipc::{MetadataVersion, root_as_message};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use siphasher::sip::SipHasher13;

use crate::format::{Cursor, Malformed};

/// Turns batches into bodies. Keeps buffers between calls.
pub(crate) struct Encoder {
    generator: IpcDataGenerator,
    options: IpcWriteOptions,
    context: IpcWriteContext,
    table: CompressTable,
}

/// How the buffers of a body are kept: as Arrow IPC has them, ...
const BUFFERS_PLAIN: u32 = 0;
/// ... or as their length (4), four zero bytes, and one block of LZ4, ...
const BUFFERS_LZ4: u32 = 1;
/// ... or the same with lengths in place of offsets.
const BUFFERS_LZ4_LENGTHS: u32 = 2;
/// LZ4 makes at most so much of a byte.
const LZ4_RATIO_MAX: usize = 255;

impl Encoder {
    pub(crate) fn new() -> Result<Self, ArrowError> {
        let options = IpcWriteOptions::try_new(8, false, MetadataVersion::V5)?;
        let mut context = IpcWriteContext::default();
        context.set_reserve_scratch(true);
        Ok(Self { generator: IpcDataGenerator {}, options, context, table: CompressTable::large() })
    }

    /// Appends the body of `batch`.
    pub(crate) fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let mut dictionaries = DictionaryTracker::new(true);
        let (encoded_dictionaries, mut encoded) =
            self.generator.encode(batch, &mut dictionaries, &self.options, &mut self.context)?;
        if !encoded_dictionaries.is_empty() {
            return Err(ArrowError::SchemaError("dictionary columns are not kept in the log".to_owned()));
        }
        out.extend_from_slice(&(encoded.ipc_message.len() as u32).to_le_bytes());
        let form_at = out.len();
        out.extend_from_slice(&BUFFERS_PLAIN.to_le_bytes());
        out.extend_from_slice(&encoded.ipc_message);
        out.resize(out.len().next_multiple_of(8), 0);
        let begin = out.len();
        if let Ok(len) = u32::try_from(encoded.arrow_data.len()) {
            let message =
                root_as_message(&encoded.ipc_message).ok().and_then(|message| message.header_as_record_batch());
            let fields = batch.schema_ref().fields();
            let has_lengths =
                message.is_some_and(|message| lengths::to_lengths(message, fields, &mut encoded.arrow_data));
            let plain = &encoded.arrow_data;
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            let packed_at = out.len();
            out.resize(packed_at + get_maximum_output_size(plain.len()), 0);
            match compress_into_with_table(plain, &mut out[packed_at..], &mut self.table) {
                Ok(packed) if packed + 8 < plain.len() => {
                    out.truncate(packed_at + packed);
                    let form = if has_lengths { BUFFERS_LZ4_LENGTHS } else { BUFFERS_LZ4 };
                    out[form_at..form_at + 4].copy_from_slice(&form.to_le_bytes());
                    return Ok(());
                }
                _ => {}
            }
            if has_lengths && let Some(message) = message {
                lengths::to_offsets(message, fields, &mut encoded.arrow_data);
            }
        }
        // It does not get smaller.
        out.truncate(begin);
        out.extend_from_slice(&encoded.arrow_data);
        Ok(())
    }

    /// The message of a schema, and its id.
    pub(crate) fn schema(&self, schema: &Schema) -> (u64, Vec<u8>) {
        let mut dictionaries = DictionaryTracker::new(true);
        let encoded = self.generator.schema_to_bytes_with_dictionary_tracker(schema, &mut dictionaries, &self.options);
        (schema_id(&encoded.ipc_message), encoded.ipc_message)
    }
}

/// The id of a schema message.
pub(crate) fn schema_id(message: &[u8]) -> u64 {
    SipHasher13::new().hash(message)
}

/// Reads a schema message back.
pub(crate) fn decode_schema(message: &[u8]) -> Result<SchemaRef, Malformed> {
    guarded(|| {
        let message = root_as_message(message).map_err(|_| Malformed("a schema record is not an Arrow message"))?;
        let schema = message.header_as_schema().ok_or(Malformed("a schema record holds no schema"))?;
        Ok(Arc::new(arrow_ipc::convert::fb_to_schema(schema)))
    })
}

/// Reads a body back.
pub(crate) fn decode_batch(body: &[u8], schema: &SchemaRef, rows: u32) -> Result<RecordBatch, Malformed> {
    decode(body, schema, rows, None)
}

/// Reads one column of a body back; `None` if the schema does not have it.
pub(crate) fn decode_column(
    body: &[u8],
    schema: &SchemaRef,
    rows: u32,
    column: &str,
) -> Result<Option<RecordBatch>, Malformed> {
    match schema.index_of(column) {
        Ok(at) => decode(body, schema, rows, Some(&[at])).map(Some),
        Err(_) => Ok(None),
    }
}

fn decode(body: &[u8], schema: &SchemaRef, rows: u32, columns: Option<&[usize]>) -> Result<RecordBatch, Malformed> {
    guarded(|| {
        let mut cursor = Cursor(body);
        let len = cursor.u32()? as usize;
        let form = cursor.u32()?;
        let metadata = cursor.take(len)?;
        cursor.take(len.next_multiple_of(8) - len)?;
        let message = root_as_message(metadata).map_err(|_| Malformed("a record is not an Arrow message"))?;
        let batch = message.header_as_record_batch().ok_or(Malformed("a record holds no batch"))?;
        let data = match form {
            // A copy, so that the buffers are aligned and do not keep the whole block alive.
            BUFFERS_PLAIN => Buffer::from(cursor.0),
            BUFFERS_LZ4 | BUFFERS_LZ4_LENGTHS => {
                let len = cursor.u32()? as usize;
                cursor.u32()?;
                if len > cursor.0.len().saturating_mul(LZ4_RATIO_MAX) {
                    return Err(Malformed("a record says it is larger than it can be"));
                }
                let mut plain = vec![0; len];
                match decompress_into(cursor.0, &mut plain) {
                    Ok(written) if written == len => {}
                    _ => return Err(Malformed("the buffers of a record do not decompress")),
                }
                if form == BUFFERS_LZ4_LENGTHS && !lengths::to_offsets(batch, schema.fields(), &mut plain) {
                    return Err(Malformed("the lengths of a record do not fit its schema"));
                }
                Buffer::from_vec(plain)
            }
            _ => return Err(Malformed("the buffers of a record are kept in an unknown way")),
        };
        let batch = arrow_ipc::reader::read_record_batch(
            &data,
            batch,
            Arc::clone(schema),
            &std::collections::HashMap::new(),
            columns,
            &message.version(),
        )
        .map_err(|_| Malformed("a record does not decode"))?;
        if batch.num_rows() != rows as usize {
            return Err(Malformed("a record has another number of rows than its directory says"));
        }
        Ok(batch)
    })
}

/// The Arrow decoder panics on some malformed input. The checksums keep such input away; this is
/// the second line.
fn guarded<T>(decode: impl FnOnce() -> Result<T, Malformed>) -> Result<T, Malformed> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or(Err(Malformed("the Arrow decoder failed")))
}

/// Merges batches whose columns are subsets of `schema`, in its order, leaving out the columns none
/// has. As `weir_data::batch::concat_sparse`, for many small batches: each is walked once beside the
/// schema instead of being searched for every field, and runs of batches without a column share one
/// slice of nulls.
pub(crate) fn merge(schema: &Schema, batches: &[RecordBatch]) -> Result<RecordBatch, ArrowError> {
    let n_rows = batches.iter().map(RecordBatch::num_rows).sum();
    let mut next = vec![0; batches.len()];
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    // What stands for one column: an array, or the number of rows without one.
    let mut pieces: Vec<Result<&ArrayRef, usize>> = Vec::with_capacity(batches.len());
    for field in schema.fields() {
        pieces.clear();
        let mut found = false;
        for (batch, next) in batches.iter().zip(&mut next) {
            let own = batch.schema_ref().fields().get(*next);
            if own.is_some_and(|own| Arc::ptr_eq(own, field) || own.name() == field.name()) {
                pieces.push(Ok(batch.column(*next)));
                *next += 1;
                found = true;
            } else if let Some(Err(rows)) = pieces.last_mut() {
                *rows += batch.num_rows();
            } else {
                pieces.push(Err(batch.num_rows()));
            }
        }
        if !found {
            continue;
        }
        let longest = pieces.iter().filter_map(|piece| piece.err()).max();
        let nulls = longest.map(|rows| new_null_array(field.data_type(), rows));
        let slices: Vec<ArrayRef> = match &nulls {
            Some(nulls) => pieces.iter().filter_map(|piece| piece.err()).map(|rows| nulls.slice(0, rows)).collect(),
            None => Vec::new(),
        };
        let mut slices = slices.iter();
        let arrays: Vec<&dyn Array> = pieces
            .iter()
            .filter_map(|piece| match piece {
                Ok(column) => Some(column.as_ref()),
                Err(_) => slices.next().map(AsRef::as_ref),
            })
            .collect();
        fields.push(Arc::clone(field));
        columns.push(arrow::compute::concat(&arrays)?);
    }
    if next.iter().zip(batches).any(|(next, batch)| *next < batch.num_columns()) {
        return Err(ArrowError::SchemaError("columns are not in the order of the schema".to_owned()));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// The smallest and largest value of the column `time`, or an empty range.
pub(crate) fn time_range(batch: &RecordBatch) -> (i64, i64) {
    let empty = (i64::MAX, i64::MIN);
    let Some(column) = batch.column_by_name("time") else { return empty };
    let Some(times) = column.as_primitive_opt::<TimestampNanosecondType>() else { return empty };
    match (arrow::compute::min(times), arrow::compute::max(times)) {
        (Some(min), Some(max)) => (min, max),
        _ => empty,
    }
}

/// Whether a batch can be kept: no dictionaries, whose values would need records of their own.
pub(crate) fn storable(schema: &Schema) -> Result<(), String> {
    fn nested(data_type: &DataType) -> bool {
        match data_type {
            DataType::Dictionary(..) | DataType::RunEndEncoded(..) => false,
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _) => nested(field.data_type()),
            DataType::Struct(fields) => fields.iter().all(|field| nested(field.data_type())),
            DataType::Union(fields, _) => fields.iter().all(|(_, field)| nested(field.data_type())),
            _ => true,
        }
    }
    match schema.fields().iter().find(|field| !nested(field.data_type())) {
        Some(field) => Err(format!("column {} has type {}", field.name(), field.data_type())),
        None => Ok(()),
    }
}

/// Calls `visit` with row number and text of every value of an id column that is not null.
pub(crate) fn for_each_id(batch: &RecordBatch, column: &str, mut visit: impl FnMut(usize, &str)) {
    let Some(column) = batch.column_by_name(column) else { return };
    match column.data_type() {
        DataType::Utf8 => {
            let ids = column.as_string::<i32>();
            for row in 0..ids.len() {
                if ids.is_valid(row) {
                    visit(row, ids.value(row));
                }
            }
        }
        DataType::LargeUtf8 => {
            let ids = column.as_string::<i64>();
            for row in 0..ids.len() {
                if ids.is_valid(row) {
                    visit(row, ids.value(row));
                }
            }
        }
        DataType::Utf8View => {
            let ids = column.as_string_view();
            for row in 0..ids.len() {
                if ids.is_valid(row) {
                    visit(row, ids.value(row));
                }
            }
        }
        _ => {}
    }
}
