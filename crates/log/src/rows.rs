//! Arrow batches and schemas as bytes of the log.
//!
//! A body is one Arrow IPC record batch message (LZ4), without the schema, which is a record of its
//! own. Invariant: only bytes whose checksum matched are decoded; the Arrow decoder is not safe on
//! bytes of strangers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema, SchemaRef, TimestampNanosecondType};
use arrow::error::ArrowError;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_ipc::{CompressionType, MetadataVersion, root_as_message};
use siphasher::sip::SipHasher13;

use crate::format::{Cursor, Malformed};

/// Turns batches into bodies. Keeps buffers between calls.
pub(crate) struct Encoder {
    generator: IpcDataGenerator,
    compressed: IpcWriteOptions,
    plain: IpcWriteOptions,
    context: IpcWriteContext,
}

/// Below this many rows a batch is written as it is: LZ4 would be called once a buffer for a few
/// bytes each.
const COMPRESS_ROWS_MIN: usize = 8;

impl Encoder {
    pub(crate) fn new() -> Result<Self, ArrowError> {
        let plain = IpcWriteOptions::try_new(8, false, MetadataVersion::V5)?;
        let compressed = plain.clone().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        let mut context = IpcWriteContext::default();
        context.set_reserve_scratch(false);
        Ok(Self { generator: IpcDataGenerator {}, compressed, plain, context })
    }

    /// Appends the body of `batch`.
    pub(crate) fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let options = if batch.num_rows() < COMPRESS_ROWS_MIN { &self.plain } else { &self.compressed };
        let mut dictionaries = DictionaryTracker::new(true);
        let (encoded_dictionaries, encoded) =
            self.generator.encode(batch, &mut dictionaries, options, &mut self.context)?;
        if !encoded_dictionaries.is_empty() {
            return Err(ArrowError::SchemaError("dictionary columns are not kept in the log".to_owned()));
        }
        out.extend_from_slice(&(encoded.ipc_message.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&encoded.ipc_message);
        out.resize(out.len().next_multiple_of(8), 0);
        out.extend_from_slice(&encoded.arrow_data);
        Ok(())
    }

    /// The message of a schema, and its id.
    pub(crate) fn schema(&self, schema: &Schema) -> (u64, Vec<u8>) {
        let mut dictionaries = DictionaryTracker::new(true);
        let encoded = self.generator.schema_to_bytes_with_dictionary_tracker(schema, &mut dictionaries, &self.plain);
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
    guarded(|| {
        let mut cursor = Cursor(body);
        let len = cursor.u32()? as usize;
        cursor.u32()?;
        let metadata = cursor.take(len)?;
        cursor.take(len.next_multiple_of(8) - len)?;
        let message = root_as_message(metadata).map_err(|_| Malformed("a record is not an Arrow message"))?;
        let batch = message.header_as_record_batch().ok_or(Malformed("a record holds no batch"))?;
        // A copy, so that the buffers are aligned and do not keep the whole block alive.
        let data = Buffer::from(cursor.0);
        let batch = arrow_ipc::reader::read_record_batch(
            &data,
            batch,
            Arc::clone(schema),
            &std::collections::HashMap::new(),
            None,
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
