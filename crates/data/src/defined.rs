//! Streams that tenants have defined: their columns, and who has which.
//!
//! A stream of a tenant begins with the columns every stream has; its own come after them. What its columns may be is
//! what the log, table files and answers can carry for certain: types are made the nearest of those, and what
//! has none is refused.
//!
//! A stream may have a key: its rows are then revisions of results, and the newest one of each key counts. Such a stream
//! has the [`revision_columns`], and keeps its key for good: rows of another key could not be told apart from revisions.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use hashbrown::HashMap;
use parking_lot::RwLock;
use weir_base::{StreamName, TenantId};

use crate::streams::{JSON_MARK, STREAMS, StreamDef, attributes_type, stream, timestamp_type};

/// Columns a stream of a tenant has at most, and fields within them, however deep.
pub const FIELDS_MAX: usize = 1024;
/// How deep a column may be nested.
const DEPTH_MAX: usize = 16;
/// The longest name of a column, in bytes.
pub const COLUMN_BYTES_MAX: usize = 128;
/// Columns a key has at most.
pub const KEY_COLUMNS_MAX: usize = 16;

/// The ending of the table with all revisions of a stream with a key.
pub const HISTORY: &str = "_history";
/// Whether a result will not change any more, in a stream with a key.
pub const IS_FINAL: &str = "is_final";
/// Which revision of a result a row is, in a stream with a key.
pub const REVISION: &str = "revision";
/// Whether a row takes back what was said under its key, in a stream with a key.
pub const RETRACTED: &str = "retracted";
/// When the pipeline was applied that wrote a row, in a stream with a key: one that begins anew counts its revisions
/// anew.
pub const BEGAN_AT: &str = "began_at";
/// Metadata key of a stored schema: the names of the columns of its key, as a JSON list.
const KEY_MARK: &str = "weir.key";

/// Why columns cannot be those of a stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// The name is one of a stream of Weir.
    #[error("`{name}` is a stream of Weir's own")]
    BuiltIn {
        /// The name.
        name: String,
    },
    /// The name is none that can be defined.
    #[error("`{name}` is not the name of a stream: 1 to 64 of a-z, 0-9 and _, beginning with a letter")]
    Name {
        /// The name.
        name: String,
    },
    /// A column that cannot be kept.
    #[error("column `{column}` {problem}")]
    Column {
        /// The column.
        column: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A key that cannot be one.
    #[error("the key of the stream `{name}` {problem}")]
    Key {
        /// The stream.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The columns are too many.
    #[error("the stream would have {fields} columns, counting those within others, and may have {max}")]
    TooMany {
        /// How many it would have.
        fields: usize,
        /// How many it may have.
        max: usize,
    },
}

/// The columns every stream begins with.
pub fn first_columns() -> Vec<Field> {
    vec![
        Field::new("time", timestamp_type(), false),
        Field::new("received_at", timestamp_type(), false),
        Field::new("time_flag", DataType::Utf8, true),
    ]
}

/// The columns that say which of the rows of a key counts: that of the last beginning, and of those the one of
/// the highest revision. Rows nobody numbers count by `received_at`, which rises from row to row.
pub fn revision_columns() -> Vec<Field> {
    vec![
        Field::new(IS_FINAL, DataType::Boolean, true),
        Field::new(REVISION, DataType::Int64, true),
        Field::new(RETRACTED, DataType::Boolean, true),
        Field::new(BEGAN_AT, timestamp_type(), true),
    ]
}

fn key_text(key: &[Cow<'static, str>]) -> String {
    if key.is_empty() { "no key".to_owned() } else { format!("the key [{}]", key.join(", ")) }
}

/// Whether rows can be told apart by the values of a column.
fn can_be_key(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) => fields.iter().all(|field| can_be_key(field.data_type())),
        data_type => !data_type.is_nested(),
    }
}

fn check_key(name: &str, key: &[Cow<'static, str>], fields: &[FieldRef]) -> Result<(), ColumnsError> {
    let failed = |problem: String| ColumnsError::Key { name: name.to_owned(), problem };
    if key.len() > KEY_COLUMNS_MAX {
        return Err(failed(format!("has {} columns, and may have {KEY_COLUMNS_MAX}", key.len())));
    }
    for (at, column) in key.iter().enumerate() {
        if key[..at].contains(column) {
            return Err(failed(format!("names the column `{column}` twice")));
        }
        let is_own = ["received_at", "time_flag", IS_FINAL, REVISION, RETRACTED, BEGAN_AT].contains(&column.as_ref());
        match fields.iter().find(|field| field.name() == column) {
            None => return Err(failed(format!("names the column `{column}`, which the rows do not have"))),
            Some(_) if is_own => return Err(failed(format!("names `{column}`, which differs between revisions"))),
            Some(field) if !can_be_key(field.data_type()) => {
                return Err(failed(format!("names `{column}`, a {}, which is no plain value", field.data_type())));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

impl StreamDef {
    /// A stream of a tenant, with all its columns.
    fn of_tenant(name: &str, schema: SchemaRef, key: Vec<Cow<'static, str>>) -> Self {
        let open = schema.fields().iter().filter(|field| *field.data_type() == attributes_type());
        let open_columns = open.map(|field| field.name().clone().into()).collect();
        Self {
            name: name.to_owned().into(),
            summary: match key.is_empty() {
                true => "written by a pipeline".into(),
                false => format!("written by a pipeline: the newest result for each {}", key.join(", ")).into(),
            },
            schema,
            sort: &["time"],
            id_column: None,
            open_columns,
            search_columns: &[],
            bloom_columns: &[],
            key,
        }
    }

    /// A stream whose definition cannot be read: all that is known for certain are the first columns.
    pub fn unreadable(name: &StreamName) -> Self {
        Self::of_tenant(name.as_str(), Arc::new(Schema::new(first_columns())), Vec::new())
    }

    /// The stream a tenant gets for rows of `columns`: as `before` was, with the columns that are new at the end.
    /// The columns that every stream begins with may be among them; a `time` that is a timestamp is one of those.
    /// With a `key` it has the [`revision_columns`], too.
    ///
    /// # Errors
    /// If the name is taken or none, a column cannot be kept or has another type than before, or the key is none or
    /// another one than before.
    pub fn define(name: &str, before: Option<&Self>, columns: &Schema, key: &[String]) -> Result<Self, ColumnsError> {
        if stream(name).is_some() {
            return Err(ColumnsError::BuiltIn { name: name.to_owned() });
        }
        // Names that begin with an underscore are Weir's own, also those that come later.
        if StreamName::new(name).is_err() || name.starts_with('_') {
            return Err(ColumnsError::Name { name: name.chars().take(80).collect() });
        }
        let mut fields: Vec<FieldRef> = match before {
            Some(before) => before.schema.fields().iter().cloned().collect(),
            None => first_columns().into_iter().map(Arc::new).collect(),
        };
        let mut own: Vec<&str> = Vec::new();
        for field in columns.fields() {
            let failed = |problem: String| ColumnsError::Column { column: field.name().clone(), problem };
            if own.contains(&field.name().as_str()) {
                return Err(failed("is there twice".to_owned()));
            }
            own.push(field.name());
            let kept = kept_field(field, 0).map_err(failed)?;
            match fields.iter().find(|known| known.name() == kept.name()) {
                None => fields.push(Arc::new(kept)),
                Some(known) if known.data_type() == kept.data_type() => {}
                Some(known) => {
                    let (was, is) = (known.data_type(), kept.data_type());
                    return Err(failed(format!("is {is}, and that of the stream `{name}` is {was}")));
                }
            }
        }
        let key: Vec<Cow<'static, str>> = key.iter().cloned().map(Cow::Owned).collect();
        if let Some(before) = before.filter(|before| before.key != key) {
            let problem =
                format!("cannot be changed: the stream has {}, not {}", key_text(&before.key), key_text(&key));
            return Err(ColumnsError::Key { name: name.to_owned(), problem });
        }
        if !key.is_empty() {
            check_key(name, &key, &fields)?;
            for column in revision_columns() {
                match fields.iter().find(|known| known.name() == column.name()) {
                    None => fields.push(Arc::new(column)),
                    Some(known) if known.data_type() == column.data_type() => {}
                    Some(known) => {
                        let (is, wanted) = (known.data_type(), column.data_type());
                        let problem = format!("is {is}, and is {wanted} in a stream with a key");
                        return Err(ColumnsError::Column { column: column.name().clone(), problem });
                    }
                }
            }
        }
        let count = fields.iter().map(|field| count_fields(field)).sum();
        if count > FIELDS_MAX {
            return Err(ColumnsError::TooMany { fields: count, max: FIELDS_MAX });
        }
        Ok(Self::of_tenant(name, Arc::new(Schema::new(fields)), key))
    }

    /// The columns and the key as they are stored.
    ///
    /// # Errors
    /// If Arrow cannot write them.
    pub fn encode(&self) -> Result<Vec<u8>, arrow::error::ArrowError> {
        let mut bytes = Vec::new();
        let mut schema = self.schema.as_ref().clone();
        if self.is_keyed() {
            let failed = |error| arrow::error::ArrowError::ExternalError(Box::new(error));
            schema.metadata.insert(KEY_MARK.to_owned(), serde_json::to_string(&self.key).map_err(failed)?);
        }
        let mut writer = StreamWriter::try_new(&mut bytes, &schema)?;
        writer.finish()?;
        drop(writer);
        Ok(bytes)
    }

    /// A stream by the columns that were stored, which the caller knows to be as they were written.
    ///
    /// # Errors
    /// If Arrow cannot read them.
    pub fn decode(name: &StreamName, bytes: &[u8]) -> Result<Self, arrow::error::ArrowError> {
        let reader = StreamReader::try_new(std::io::Cursor::new(bytes), None)?;
        let mut schema = reader.schema().as_ref().clone();
        let key = match schema.metadata.remove(KEY_MARK) {
            None => Vec::new(),
            Some(text) => {
                serde_json::from_str(&text).map_err(|error| arrow::error::ArrowError::ExternalError(Box::new(error)))?
            }
        };
        Ok(Self::of_tenant(name.as_str(), Arc::new(schema), key))
    }
}

/// Whether a stream that is built in can keep rows of these columns and this key.
///
/// # Errors
/// Why not.
pub fn has_columns(stream: &StreamDef, columns: &Schema, key: &[String]) -> Result<(), ColumnsError> {
    if !stream.key.iter().eq(key) {
        let key: Vec<Cow<'static, str>> = key.iter().cloned().map(Cow::Owned).collect();
        let problem = format!("is that of the stream: {}, not {}", key_text(&stream.key), key_text(&key));
        return Err(ColumnsError::Key { name: stream.name.to_string(), problem });
    }
    for field in columns.fields() {
        let failed = |problem: String| ColumnsError::Column { column: field.name().clone(), problem };
        let kept = kept_field(field, 0).map_err(failed)?;
        match stream.schema.field_with_name(field.name()) {
            Ok(known) if known.data_type() == kept.data_type() => {}
            Ok(known) => {
                let (was, is) = (known.data_type(), kept.data_type());
                return Err(failed(format!("is {is}, and that of the stream `{}` is {was}", stream.name)));
            }
            Err(_) => return Err(failed(format!("is none of the stream `{}`", stream.name))),
        }
    }
    Ok(())
}

fn count_fields(field: &Field) -> usize {
    1 + match field.data_type() {
        DataType::List(inner) | DataType::Map(inner, _) => count_fields(inner),
        DataType::Struct(fields) => fields.iter().map(|field| count_fields(field)).sum(),
        _ => 0,
    }
}

/// A column as it is kept, or why it cannot be.
fn kept_field(field: &Field, depth: usize) -> Result<Field, String> {
    if field.name().is_empty() || field.name().len() > COLUMN_BYTES_MAX {
        return Err(format!("has a name that is empty or longer than {COLUMN_BYTES_MAX} bytes"));
    }
    let data_type = kept_type(field.data_type(), depth)?;
    let is_first = depth == 0 && first_columns().iter().any(|first| first.name() == field.name());
    let is_json = field.metadata().get(JSON_MARK).is_some() || data_type == attributes_type();
    // A value may be missing in any row: another pipeline, or a later one, does not have the column.
    let kept = Field::new(field.name(), data_type, !(is_first && field.name() != "time_flag"));
    Ok(if is_json { kept.with_metadata([(JSON_MARK.to_owned(), "true".to_owned())].into()) } else { kept })
}

/// The type values are kept in.
fn kept_type(data_type: &DataType, depth: usize) -> Result<DataType, String> {
    if depth > DEPTH_MAX {
        return Err(format!("is nested deeper than {DEPTH_MAX}"));
    }
    if *data_type == attributes_type() {
        return Ok(data_type.clone());
    }
    let item = |field: &FieldRef| kept_type(field.data_type(), depth + 1);
    Ok(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Decimal128(..) => data_type.clone(),
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date64 => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        DataType::Timestamp(..) => timestamp_type(),
        DataType::Dictionary(_, values) => kept_type(values, depth + 1)?,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            DataType::List(Arc::new(Field::new("item", item(field)?, true)))
        }
        DataType::Struct(fields) => {
            let kept: Result<Vec<Field>, String> = fields.iter().map(|field| kept_field(field, depth + 1)).collect();
            DataType::Struct(Fields::from(kept?))
        }
        DataType::Null => return Err("has no type; give it one with CAST".to_owned()),
        other => return Err(format!("is {other}, which a stream does not keep; make it something else with CAST")),
    })
}

/// Makes the columns of rows those of a stream, as far as it has them; the others are left out, and what the rows
/// lack as well.
///
/// # Errors
/// If a value does not fit the type that is kept.
pub fn kept_rows(rows: &RecordBatch, stream: &StreamDef) -> Result<RecordBatch, arrow::error::ArrowError> {
    let options = arrow::compute::CastOptions { safe: false, ..Default::default() };
    let mut columns = Vec::new();
    for field in stream.schema.fields() {
        if let Some(column) = rows.column_by_name(field.name()) {
            let kept = if column.data_type() == field.data_type() {
                Arc::clone(column)
            } else {
                arrow::compute::cast_with_options(column, field.data_type(), &options)?
            };
            columns.push((Arc::clone(field), kept));
        }
    }
    let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

type Own = BTreeMap<String, Arc<StreamDef>>;

/// Which streams there are: those that are built in, and those of each tenant.
#[derive(Debug, Default)]
pub struct StreamRegistry {
    tenants: RwLock<HashMap<TenantId, Arc<Own>>>,
}

impl StreamRegistry {
    /// A stream a tenant has.
    pub fn get(&self, tenant: &TenantId, name: &str) -> Option<Arc<StreamDef>> {
        match stream(name) {
            Some(built_in) => Some(Arc::clone(built_in)),
            None => self.tenants.read().get(tenant)?.get(name).cloned(),
        }
    }

    /// All streams a tenant has: the built-in ones, then its own, by name.
    pub fn all(&self, tenant: &TenantId) -> Vec<Arc<StreamDef>> {
        let own = self.tenants.read().get(tenant).cloned().unwrap_or_default();
        STREAMS.iter().chain(own.values()).cloned().collect()
    }

    /// How many streams of its own a tenant has.
    pub fn count(&self, tenant: &TenantId) -> usize {
        self.tenants.read().get(tenant).map_or(0, |own| own.len())
    }

    /// A tenant has this stream, or has it with other columns, from now on.
    pub fn set(&self, tenant: &TenantId, stream: Arc<StreamDef>) {
        let mut tenants = self.tenants.write();
        let own = Arc::make_mut(tenants.entry(tenant.clone()).or_default());
        own.insert(stream.name.to_string(), stream);
    }

    /// A tenant is gone.
    pub fn forget(&self, tenant: &TenantId) {
        self.tenants.write().remove(tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, DictionaryArray, Int64Array, StringViewArray};
    use arrow::datatypes::Int32Type;

    fn define(before: Option<&StreamDef>, fields: Vec<Field>) -> Result<StreamDef, ColumnsError> {
        StreamDef::define("slow", before, &Schema::new(fields), &[])
    }

    #[test]
    fn a_stream_begins_as_all_do_and_grows_at_the_end() {
        let window = Fields::from(vec![
            Field::new("start", timestamp_type(), false),
            Field::new("end", DataType::Timestamp(TimeUnit::Millisecond, None), false),
        ]);
        let fields = vec![
            Field::new("window", DataType::Struct(window), false),
            Field::new("region", DataType::Utf8View, true),
            Field::new("n", DataType::Int64, false),
        ];
        let first = define(None, fields.clone()).unwrap();
        let names = |stream: &StreamDef| -> Vec<String> {
            stream.schema.fields().iter().map(|field| field.name().clone()).collect()
        };
        assert_eq!(names(&first), ["time", "received_at", "time_flag", "window", "region", "n"]);
        for (at, built_in) in STREAMS[0].schema.fields().iter().take(3).enumerate() {
            assert_eq!(first.schema.field(at), built_in.as_ref());
        }
        assert_eq!(first.schema.field(4).data_type(), &DataType::Utf8);
        assert!(first.schema.field(5).is_nullable(), "rows of others may lack it");
        // Another order and a new column: what was there stays where it is.
        let mut more = fields.clone();
        more.reverse();
        more.insert(0, Field::new("p95", DataType::Float64, true));
        let second = define(Some(&first), more).unwrap();
        assert_eq!(names(&second), ["time", "received_at", "time_flag", "window", "region", "n", "p95"]);
        // Fewer columns take nothing away.
        let third = define(Some(&second), vec![Field::new("n", DataType::Int64, true)]).unwrap();
        assert_eq!(third.schema, second.schema);
        let error = define(Some(&first), vec![Field::new("n", DataType::Utf8, true)]).unwrap_err();
        assert_eq!(error.to_string(), "column `n` is Utf8, and that of the stream `slow` is Int64");
        let decoded = StreamDef::decode(&StreamName::new("slow").unwrap(), &second.encode().unwrap()).unwrap();
        assert_eq!(decoded.schema, second.schema);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        for (name, message) in [
            ("events", "`events` is a stream of Weir's own"),
            ("_rejected", "`_rejected` is a stream of Weir's own"),
            ("_mine", "`_mine` is not the name of a stream: 1 to 64 of a-z, 0-9 and _, beginning with a letter"),
            ("No", "`No` is not the name of a stream: 1 to 64 of a-z, 0-9 and _, beginning with a letter"),
        ] {
            assert_eq!(StreamDef::define(name, None, &Schema::empty(), &[]).unwrap_err().to_string(), message);
        }
        let duration = DataType::Duration(TimeUnit::Second);
        for (data_type, part) in [(DataType::Null, "has no type"), (duration, "which a stream does not keep")] {
            let error = define(None, vec![Field::new("x", data_type, true)]).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        let twice = vec![Field::new("x", DataType::Int64, true), Field::new("x", DataType::Int64, true)];
        assert!(define(None, twice).unwrap_err().to_string().contains("twice"));
        let many = (0..FIELDS_MAX).map(|at| Field::new(format!("c{at}"), DataType::Int64, true)).collect();
        assert!(matches!(define(None, many), Err(ColumnsError::TooMany { .. })));
        // The time of a row is a time.
        assert!(define(None, vec![Field::new("time", DataType::Int64, true)]).is_err());
    }

    #[test]
    fn a_key_is_kept_for_good() {
        let schema = Schema::new(vec![
            Field::new("path", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
            Field::new("tags", attributes_type(), true),
        ]);
        let keyed = |before: Option<&StreamDef>, key: &[&str]| {
            let key: Vec<String> = key.iter().map(ToString::to_string).collect();
            StreamDef::define("visits", before, &schema, &key)
        };
        let first = keyed(None, &["time", "path"]).unwrap();
        for column in revision_columns() {
            assert_eq!(first.schema.field_with_name(column.name()).unwrap(), &column);
        }
        let again = StreamDef::decode(&StreamName::new("visits").unwrap(), &first.encode().unwrap()).unwrap();
        assert_eq!((&again.schema, &again.key), (&first.schema, &first.key));
        assert!(again.is_keyed() && again.schema.metadata().is_empty());
        assert_eq!(keyed(Some(&again), &["time", "path"]).unwrap().schema, first.schema);
        for (before, key, message) in [
            (None, vec!["where"], "names the column `where`, which the rows do not have"),
            (None, vec!["path", "path"], "names the column `path` twice"),
            (None, vec!["tags"], "which is no plain value"),
            (None, vec!["received_at"], "differs between revisions"),
            (Some(&first), vec!["path"], "cannot be changed: the stream has the key [time, path], not the key [path]"),
            (Some(&first), vec![], "cannot be changed: the stream has the key [time, path], not no key"),
        ] {
            let error = keyed(before, &key).unwrap_err().to_string();
            assert!(error.starts_with("the key of the stream `visits` ") && error.contains(message), "{error}");
        }
        let plain = keyed(None, &[]).unwrap();
        assert!(keyed(Some(&plain), &["path"]).unwrap_err().to_string().contains("has no key, not the key [path]"));
        let other = Schema::new(vec![Field::new("revision", DataType::Utf8, true)]);
        let error = StreamDef::define("visits", None, &other, &["time".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "column `revision` is Utf8, and is Int64 in a stream with a key");
    }

    #[test]
    fn rows_become_what_is_kept() {
        let dictionary: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("kind", Arc::new(dictionary)),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            ("text", Arc::new(StringViewArray::from(vec!["x", "y", "z"]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let stream = define(None, rows.schema().fields().iter().map(|field| field.as_ref().clone()).collect()).unwrap();
        let kept = kept_rows(&rows, &stream).unwrap();
        let types: Vec<_> = kept.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(types, [DataType::Utf8, DataType::Int64, DataType::Utf8]);
        assert_eq!(kept.num_rows(), 3);
    }

    #[test]
    fn tenants_have_their_own() {
        let registry = StreamRegistry::default();
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        registry.set(&a, Arc::new(define(None, vec![]).unwrap()));
        assert!(registry.get(&a, "slow").is_some() && registry.get(&b, "slow").is_none());
        assert!(registry.get(&b, "events").is_some());
        assert_eq!((registry.all(&a).len(), registry.all(&b).len()), (STREAMS.len() + 1, STREAMS.len()));
        registry.forget(&a);
        assert_eq!(registry.count(&a), 0);
    }
}
