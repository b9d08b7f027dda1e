//! What is remembered between the batches of one stream: for each payload type its schema and the
//! dictionaries sent so far.

use super::ipc::{self, Budget, Columns, Dictionaries, Field, Header, Message, broken};
use super::payload::{Batch, PayloadType};
use crate::DecodeError;

/// The most bytes the dictionaries and schemas of one stream may have together.
const DICTIONARY_BYTES_MAX: usize = 16 << 20;
/// The most Arrow messages of one payload: a schema, a record batch, and dictionaries between.
const MESSAGES_MAX: u64 = 1024;

/// The schema and dictionaries of one payload type.
#[derive(Debug)]
struct Reader {
    kind: PayloadType,
    schema_id: Vec<u8>,
    fields: Vec<Field>,
    dictionaries: Dictionaries,
}

impl Reader {
    fn schema_bytes(&self) -> usize {
        self.schema_id.len() + self.fields.iter().map(Field::bytes).sum::<usize>()
    }
}

/// The readers of a stream: at most one for each payload type, since a sender that changes a
/// schema does not go back to the old one.
#[derive(Debug)]
pub(super) struct Readers {
    readers: Vec<Reader>,
    live: Budget,
}

/// The record batches of one `BatchArrowRecords`, by payload type.
#[derive(Debug)]
pub(super) struct Tables<'a>(Vec<(PayloadType, Columns<'a>)>);

impl<'a> Tables<'a> {
    pub(super) fn get(&self, kind: PayloadType) -> Option<&Columns<'a>> {
        self.0.iter().find(|(known, _)| *known == kind).map(|(_, columns)| columns)
    }
}

impl Readers {
    pub(super) fn new() -> Self {
        Self { readers: Vec::new(), live: Budget::new("otap_dictionary_bytes_max", DICTIONARY_BYTES_MAX) }
    }

    /// Bytes held in dictionaries and schemas.
    pub(super) fn bytes(&self) -> usize {
        self.live.used()
    }

    /// Reads all payloads. After an error the stream cannot go on: what its sender takes for
    /// known may not have been read.
    pub(super) fn read<'a>(&'a mut self, batch: &Batch<'a>, budget: &mut Budget) -> Result<Tables<'a>, DecodeError> {
        let mut records = Vec::with_capacity(batch.payloads.len());
        for payload in &batch.payloads {
            let record = self
                .advance(payload.kind, payload.schema_id, payload.record, budget)
                .map_err(|error| in_payload(error, payload.kind))?;
            records.push((payload.kind, record));
        }
        let mut tables = Vec::with_capacity(records.len());
        for (kind, message) in records {
            let reader = self.readers.iter().find(|reader| reader.kind == kind);
            let (Some(reader), Header::Record(table)) = (reader, message.header) else { continue };
            let columns = ipc::read_record(table, message.body, &reader.fields, &reader.dictionaries, budget)
                .map_err(|error| in_payload(error, kind))?;
            tables.push((kind, columns));
        }
        Ok(Tables(tables))
    }

    /// Takes in the schema and dictionaries of a payload and gives its record batch.
    fn advance<'a>(
        &mut self,
        kind: PayloadType,
        schema_id: &[u8],
        mut rest: &'a [u8],
        budget: &mut Budget,
    ) -> Result<Message<'a>, DecodeError> {
        let mut record = None;
        let mut n_messages = 0;
        while let Some(message) = ipc::next_message(&mut rest)? {
            n_messages += 1;
            if n_messages > MESSAGES_MAX {
                let limit = "arrow_messages_max";
                return Err(DecodeError::TooLarge { limit, value: MESSAGES_MAX, actual: n_messages });
            }
            if record.is_some() {
                return Err(broken("something follows the record batch"));
            }
            match message.header {
                Header::Schema(table) if n_messages == 1 => self.begin(kind, schema_id, ipc::read_schema(table)?)?,
                Header::Schema(_) => return Err(broken("a schema follows other messages")),
                Header::Dictionary(table) => {
                    let (reader, live) = self.reader(kind, schema_id)?;
                    reader.dictionaries.read(table, message.body, &reader.fields, budget, live)?;
                }
                Header::Record(_) => {
                    self.reader(kind, schema_id)?;
                    record = Some(message);
                }
            }
        }
        record.ok_or_else(|| broken("the payload has no record batch"))
    }

    fn begin(&mut self, kind: PayloadType, schema_id: &[u8], fields: Vec<Field>) -> Result<(), DecodeError> {
        if let Some(at) = self.readers.iter().position(|reader| reader.kind == kind) {
            let old = self.readers.swap_remove(at);
            self.live.release(old.dictionaries.bytes() + old.schema_bytes());
        }
        let dictionaries = Dictionaries::default();
        let reader = Reader { kind, schema_id: schema_id.to_owned(), fields, dictionaries };
        self.live.charge(reader.schema_bytes())?;
        self.readers.push(reader);
        Ok(())
    }

    fn reader(&mut self, kind: PayloadType, schema_id: &[u8]) -> Result<(&mut Reader, &mut Budget), DecodeError> {
        let reader = self.readers.iter_mut().find(|reader| reader.kind == kind && reader.schema_id == schema_id);
        match reader {
            Some(reader) => Ok((reader, &mut self.live)),
            None => Err(broken("the payload has a new schema id and does not begin with a schema")),
        }
    }
}

#[cold]
fn in_payload(error: DecodeError, kind: PayloadType) -> DecodeError {
    match error {
        DecodeError::Malformed { message, place } if place.is_empty() || place.starts_with("byte") => {
            DecodeError::Malformed { message, place: format!("payload {}", kind.name()) }
        }
        error => error,
    }
}
