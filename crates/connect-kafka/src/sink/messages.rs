//! From rows to messages: their values, keys and partitions.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use rdkafka::message::{Header, OwnedHeaders};
use weir_component::spec::Fault;
use weir_data::json::write_string;
use weir_data::json_rows;

use super::{Partitioning, Plan, SESSION_COLUMN};

/// The name of the header with the tenant.
const TENANT_HEADER: &str = "weir-tenant";

/// The column of a key that was computed; it is no part of the message.
pub(super) const KEY_COLUMN: &str = "_weir_key";

/// The column of the key.
fn key_column(key: &str, schema: &Schema) -> Option<usize> {
    schema.index_of(key).or_else(|_| schema.index_of(KEY_COLUMN)).ok()
}

/// What is wrong with the column of the key.
pub(super) fn check_key(key: Option<&str>, partition: Partitioning, schema: &Schema) -> Option<Fault> {
    let key = key?;
    match key_column(key, schema).map(|at| schema.field(at)) {
        Some(field) if field.data_type().is_nested() => {
            let message = format!("`{key}` has values of several parts, which are no keys");
            Some(Fault::new("/key", message, "make it a text"))
        }
        Some(_) => None,
        None => {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            let is_default = partition == Partitioning::Session && key == SESSION_COLUMN;
            let pointer = if is_default { "/partition" } else { "/key" };
            let hint = format!("the columns are {}", names.join(", "));
            Some(Fault::new(pointer, format!("there is no column `{key}`"), hint))
        }
    }
}

/// Makes messages of rows.
pub(super) struct Messages {
    /// The columns, as they are written in front of values; `None` of one that is no part of the message.
    names: Vec<Option<String>>,
    key: Option<usize>,
    /// The key of all messages.
    fixed_key: Option<String>,
    key_prefix: String,
    partition: Partitioning,
    n_partitions: i32,
    next_partition: i32,
    headers: Option<OwnedHeaders>,
    /// The message that is being made.
    value: String,
    text: String,
}

/// One message.
pub(super) struct OneMessage<'a> {
    pub(super) value: &'a str,
    pub(super) key: Option<&'a str>,
    /// `None`: the key decides.
    pub(super) partition: Option<i32>,
    pub(super) headers: Option<OwnedHeaders>,
}

impl Messages {
    pub(super) fn new(plan: &Plan, schema: &SchemaRef, n_partitions: i32) -> Self {
        let quoted = |name: &str| {
            if name == KEY_COLUMN {
                return None;
            }
            let mut quoted = String::new();
            write_string(&mut quoted, name);
            quoted.push(':');
            Some(quoted)
        };
        let tenant = plan.tenant.as_deref().unwrap_or("local");
        let header = |tenant: &String| {
            OwnedHeaders::new_with_capacity(1).insert(Header { key: TENANT_HEADER, value: Some(tenant) })
        };
        let key = plan.key.as_deref().and_then(|key| key_column(key, schema));
        let is_by_tenant = plan.partition == Partitioning::Tenant;
        Self {
            names: schema.fields().iter().map(|field| quoted(field.name())).collect(),
            key,
            fixed_key: (is_by_tenant && key.is_none()).then(|| tenant.to_owned()),
            key_prefix: if plan.key_with_tenant { format!("{tenant}/") } else { String::new() },
            partition: plan.partition,
            n_partitions: n_partitions.max(1),
            next_partition: match plan.partition {
                // All rows of a tenant go where its name would as a key.
                Partitioning::Tenant => murmur2_partition(tenant.as_bytes(), n_partitions.max(1)),
                _ => 0,
            },
            headers: plan.tenant.as_ref().map(header),
            value: String::new(),
            text: String::new(),
        }
    }

    /// A writer for the rows of a batch.
    pub(super) fn of<'a>(&'a mut self, rows: &'a RecordBatch) -> RowMessages<'a> {
        RowMessages {
            cells: json_rows::cells(rows),
            key: self.key.map(|at| Arc::clone(rows.column(at))),
            messages: self,
        }
    }
}

/// Makes messages of the rows of a batch.
pub(super) struct RowMessages<'a> {
    messages: &'a mut Messages,
    cells: Vec<json_rows::Cell<'a>>,
    key: Option<Arc<dyn Array>>,
}

impl RowMessages<'_> {
    /// The message of a row.
    pub(super) fn message(&mut self, row: usize) -> OneMessage<'_> {
        let Messages { names, value, text, key, key_prefix, .. } = &mut *self.messages;
        value.clear();
        value.push('{');
        for (cell, name) in self.cells.iter().zip(names.iter()) {
            let Some(name) = name else { continue };
            if value.len() > 1 {
                value.push(',');
            }
            value.push_str(name);
            cell(value, row);
        }
        value.push('}');
        let has_key = match (&self.key, *key) {
            (Some(column), Some(at)) if column.is_valid(row) => {
                text.clear();
                text.push_str(key_prefix);
                match column.data_type() {
                    DataType::Utf8 => text.push_str(column.as_string::<i32>().value(row)),
                    DataType::LargeUtf8 => text.push_str(column.as_string::<i64>().value(row)),
                    DataType::Utf8View => text.push_str(column.as_string_view().value(row)),
                    // As it is written in the value.
                    _ => (self.cells[at])(text, row),
                }
                true
            }
            _ => false,
        };
        let messages = &mut *self.messages;
        let partition = match messages.partition {
            Partitioning::Key | Partitioning::Session => None,
            Partitioning::Tenant => Some(messages.next_partition),
            Partitioning::RoundRobin => {
                let partition = messages.next_partition;
                messages.next_partition = (partition + 1) % messages.n_partitions;
                Some(partition)
            }
        };
        OneMessage {
            value: &messages.value,
            key: if has_key { Some(&messages.text) } else { messages.fixed_key.as_deref() },
            partition,
            headers: messages.headers.clone(),
        }
    }
}

/// The partition the clients of Java give a key: its murmur2 hash (Austin Appleby, 2008, with the seed of Kafka), as
/// a positive number, modulo how many there are.
fn murmur2_partition(key: &[u8], n_partitions: i32) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    i32::try_from(hash & 0x7fff_ffff).unwrap_or(0) % n_partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_java_sends_them() {
        // From the tests of org.apache.kafka.common.utils.Utils.murmur2.
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(murmur2_partition(key.as_bytes(), i32::MAX), (hash & 0x7fff_ffff) % i32::MAX, "{key}");
        }
    }
}
