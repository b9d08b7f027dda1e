//! From messages of one partition to a batch of rows.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, StringBuilder, TimestampNanosecondArray,
    new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rdkafka::message::{BorrowedMessage, Headers, Message, Timestamp};
use weir_base::ErrorKind;
use weir_codecs::rows::{Columns, NdjsonDecoder, REJECT_PAYLOAD_BYTES_MAX};
use weir_component::source::{SourceError, SourceReject, SourceRows};
use weir_data::json::write_string;
use weir_data::streams::{JSON_MARK, timestamp_type};

use super::{Metadata, Plan};

/// The most bytes of messages in a batch.
const BATCH_BYTES_MAX: u64 = 4 << 20;

/// The columns of the rows: those of the messages, and those of what Kafka says of them.
pub(super) fn schema(columns: &Columns, metadata: &Metadata) -> SchemaRef {
    let mut fields: Vec<Field> = columns.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    for (part, name) in metadata.names() {
        fields.push(match part {
            "timestamp" => Field::new(name, timestamp_type(), true),
            "partition" => Field::new(name, DataType::Int32, true),
            "offset" => Field::new(name, DataType::Int64, true),
            "headers" => {
                Field::new(name, DataType::Utf8, true).with_metadata([(JSON_MARK.to_owned(), "true".to_owned())].into())
            }
            _ => Field::new(name, DataType::Utf8, true),
        });
    }
    Arc::new(Schema::new(fields))
}

/// What Kafka says of messages, one entry each.
#[derive(Debug, Default)]
struct About {
    keys: Vec<Option<String>>,
    times: Vec<Option<i64>>,
    headers: StringBuilder,
    offsets: Vec<i64>,
}

/// Makes a batch of messages of one partition.
pub(super) struct Batcher {
    topic: String,
    partition: i32,
    name: Arc<str>,
    decoder: NdjsonDecoder,
    /// Messages the decoder has been given since it began.
    decoded: u64,
    /// Those before the batch.
    decoded_before: u64,
    metadata: Metadata,
    schema: SchemaRef,
    about: About,
    /// When each message was appended, if the brokers say.
    appended: Vec<i64>,
    rejects: Vec<SourceReject>,
    bytes: u64,
}

impl Batcher {
    pub(super) fn new(plan: &Plan, topic: &str, partition: i32, name: Arc<str>) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            name,
            decoder: NdjsonDecoder::new(Arc::clone(&plan.columns), plan.message_bytes_max),
            decoded: 0,
            decoded_before: 0,
            metadata: plan.metadata.clone(),
            schema: Arc::clone(&plan.schema),
            about: About::default(),
            appended: Vec::new(),
            rejects: Vec::new(),
            bytes: 0,
        }
    }

    /// Whether the batch is to be taken before more messages are added.
    pub(super) fn is_full(&self) -> bool {
        self.decoder.is_full() || self.bytes >= BATCH_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.about.offsets.is_empty() && self.rejects.is_empty()
    }

    /// Adds a message.
    pub(super) fn add(&mut self, message: &BorrowedMessage<'_>) {
        let payload = message.payload().unwrap_or_default();
        self.bytes += (payload.len() + message.key().map_or(0, <[u8]>::len)) as u64;
        if payload.iter().all(u8::is_ascii_whitespace) {
            let what = if message.payload().is_none() { "no value" } else { "an empty value" };
            // The key is no part of what could be tried again.
            let key = message.key().map(|key| String::from_utf8_lossy(key).chars().take(200).collect::<String>());
            let key = key.map_or_else(String::new, |key| format!(" (its key is `{key}`)"));
            self.rejects.push(SourceReject {
                place: self.place(message.offset()),
                message: format!("the message has {what}{key}"),
                payload: String::new(),
            });
            return;
        }
        self.decoder.message(payload);
        self.decoded += 1;
        self.about.offsets.push(message.offset());
        if self.metadata.key.is_some() {
            let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
            self.about.keys.push(key.map(str::to_owned));
        }
        if self.metadata.timestamp.is_some() {
            let millis = message.timestamp().to_millis();
            self.about.times.push(millis.map(|millis| millis.saturating_mul(1_000_000)));
        }
        if self.metadata.headers.is_some() {
            self.about.headers.append_option(headers(message));
        }
        if let Timestamp::LogAppendTime(millis) = message.timestamp() {
            self.appended.push(millis.saturating_mul(1_000_000));
        }
    }

    fn place(&self, offset: i64) -> String {
        format!("{}/{}/{offset}", self.topic, self.partition)
    }

    /// The batch. Rejects have the place of their message.
    pub(super) fn take(&mut self) -> Result<SourceRows, SourceError> {
        let About { keys, times, mut headers, offsets } = std::mem::take(&mut self.about);
        let before = std::mem::replace(&mut self.decoded_before, self.decoded);
        let decoded = self.decoder.take();
        let mut rejects = std::mem::take(&mut self.rejects);
        let mut is_row = vec![true; offsets.len()];
        for reject in decoded.rejects {
            let at = usize::try_from(reject.line - before).unwrap_or(0);
            is_row[at] = false;
            let place = self.place(offsets[at]);
            rejects.push(SourceReject { place, message: reject.message, payload: reject.payload });
        }
        let rows = decoded.rows.num_rows();
        let of_rows = |at: &usize| is_row[*at];
        let chosen: Vec<usize> = (0..offsets.len()).filter(of_rows).collect();
        let mut columns: Vec<ArrayRef> = decoded.rows.columns().to_vec();
        let headers = headers.finish();
        for (part, _) in self.metadata.names() {
            columns.push(match part {
                "key" => Arc::new(chosen.iter().map(|at| keys[*at].as_deref()).collect::<StringArray>()),
                "timestamp" => {
                    let times: TimestampNanosecondArray = chosen.iter().map(|at| times[*at]).collect();
                    Arc::new(times.with_timezone("UTC"))
                }
                "headers" => {
                    let texts = chosen.iter().map(|at| headers.is_valid(*at).then(|| headers.value(*at)));
                    Arc::new(texts.collect::<StringArray>())
                }
                "topic" => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&self.topic, rows))),
                "partition" => Arc::new(Int32Array::from(vec![self.partition; rows])),
                _ => Arc::new(Int64Array::from_iter_values(chosen.iter().map(|at| offsets[*at]))),
            });
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| {
            SourceError::new(ErrorKind::Internal, format!("cannot put messages of {} together: {error}", self.name))
        })?;
        // A topic whose configuration was changed has both kinds of times; then nothing is known of arrival.
        let appended = std::mem::take(&mut self.appended);
        let is_whole = !appended.is_empty() && appended.len() == offsets.len();
        let arrived = is_whole.then(|| chosen.iter().map(|at| appended[*at]).collect::<Vec<i64>>().into());
        let bytes = std::mem::take(&mut self.bytes);
        Ok(SourceRows { partition: Arc::clone(&self.name), rows: batch, arrived, rejects, bytes })
    }
}

/// The row in the value of a message that was none before. What Kafka said of the message is not known any more.
pub(super) fn again(plan: &Plan, payload: &str) -> Result<RecordBatch, String> {
    if payload.len() >= REJECT_PAYLOAD_BYTES_MAX {
        return Err(format!("it is longer than the {REJECT_PAYLOAD_BYTES_MAX} bytes that are kept"));
    }
    if payload.trim().is_empty() {
        return Err("the message has no value".to_owned());
    }
    let mut decoder = NdjsonDecoder::new(Arc::clone(&plan.columns), plan.message_bytes_max);
    decoder.message(payload.as_bytes());
    let decoded = decoder.take();
    if let Some(reject) = decoded.rejects.into_iter().next() {
        return Err(reject.message);
    }
    let of_message = decoded.rows.num_columns();
    let unknown = plan.schema.fields().iter().skip(of_message).map(|field| new_null_array(field.data_type(), 1));
    let columns = decoded.rows.columns().iter().cloned().chain(unknown).collect();
    RecordBatch::try_new(Arc::clone(&plan.schema), columns).map_err(|error| format!("it is not one record: {error}"))
}

/// The headers of a message as a JSON object; `None` if it has none. Of several with one name the last is kept.
fn headers(message: &BorrowedMessage<'_>) -> Option<String> {
    let headers = message.headers()?;
    let mut members: Vec<(&str, Option<&[u8]>)> = Vec::new();
    for header in headers.iter() {
        members.retain(|(name, _)| *name != header.key);
        members.push((header.key, header.value));
    }
    let mut text = String::from("{");
    for (at, (name, value)) in members.into_iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        write_string(&mut text, name);
        text.push(':');
        match value {
            Some(value) => write_string(&mut text, &String::from_utf8_lossy(value)),
            None => text.push_str("null"),
        }
    }
    text.push('}');
    Some(text)
}
