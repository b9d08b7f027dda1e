//! The built-in streams and their columns. Names and types are contract; schemas grow only by
//! adding columns at the end. Streams that tenants have defined are in [`crate::defined`].

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::defined::revision_columns;

/// Metadata key of a text field whose values are JSON: the map of open-ended attributes and the
/// attributes of nested structs. Query results embed such values instead of quoting them.
pub const JSON_MARK: &str = "weir.json";

/// A stream: one that is built in, or one of a tenant.
#[derive(Clone, Debug)]
pub struct StreamDef {
    /// The name of the stream and of its table.
    pub name: Cow<'static, str>,
    /// One line for people.
    pub summary: Cow<'static, str>,
    /// All columns.
    pub schema: SchemaRef,
    /// Columns files are sorted by, most significant first, all ascending, nulls first.
    pub sort: &'static [&'static str],
    /// The column whose value identifies a row, for deduplication.
    pub id_column: Option<&'static str>,
    /// The map columns that hold open-ended attributes.
    pub open_columns: Vec<Cow<'static, str>>,
    /// Text columns people search by substring; files carry an index for them.
    pub search_columns: &'static [&'static str],
    /// Columns with a bloom filter in every file.
    pub bloom_columns: &'static [&'static str],
    /// The columns a result is known by, where rows are revisions of results; else empty.
    pub key: Vec<Cow<'static, str>>,
}

/// The type of every time column.
pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

/// The type of an open-ended attribute map: key to JSON text.
pub fn attributes_type() -> DataType {
    let entries =
        Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, false)]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
}

/// Whether values of this type are open-ended attributes, so that the texts in them are JSON. The type alone says
/// so: results of expressions, and items of lists, have no metadata. Maps that are made in an expression have other
/// names inside, and their texts are texts.
pub fn is_attributes(data_type: &DataType) -> bool {
    let DataType::Map(entries, _) = data_type else { return false };
    let DataType::Struct(fields) = entries.data_type() else { return false };
    let is_text = |field: &Field, name: &str| {
        field.name() == name && field.data_type() == &DataType::Utf8 && !field.is_nullable()
    };
    entries.name() == "key_value"
        && matches!(fields.as_ref(), [key, value] if is_text(key, "key") && is_text(value, "value"))
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn float(name: &str) -> Field {
    Field::new(name, DataType::Float64, true)
}

fn int(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

fn boolean(name: &str) -> Field {
    Field::new(name, DataType::Boolean, true)
}

fn time(name: &str) -> Field {
    Field::new(name, timestamp_type(), true)
}

fn json_text(name: &str) -> Field {
    text(name).with_metadata([(JSON_MARK.to_owned(), "true".to_owned())].into())
}

fn open(name: &str) -> Field {
    Field::new(name, attributes_type(), true).with_metadata([(JSON_MARK.to_owned(), "true".to_owned())].into())
}

fn list(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new("item", item, true))), true)
}

fn structs(name: &str, fields: Vec<Field>) -> Field {
    list(name, DataType::Struct(Fields::from(fields)))
}

fn schema(rest: Vec<Field>) -> SchemaRef {
    let mut fields = vec![
        Field::new("time", timestamp_type(), false),
        Field::new("received_at", timestamp_type(), false),
        text("time_flag"),
    ];
    fields.extend(rest);
    Arc::new(Schema::new(fields))
}

/// The fields of one element of `spans.span_events`.
pub fn span_event_fields() -> Fields {
    vec![time("time"), text("name"), json_text("attributes"), int("dropped_attributes_count")].into()
}

/// The fields of one element of `spans.links`.
pub fn span_link_fields() -> Fields {
    vec![
        text("trace_id"),
        text("span_id"),
        text("trace_state"),
        json_text("attributes"),
        int("dropped_attributes_count"),
        int("flags"),
    ]
    .into()
}

/// The fields of one element of `metrics.quantiles`.
pub fn quantile_fields() -> Fields {
    vec![float("quantile"), float("value")].into()
}

/// The fields of one element of `metrics.exemplars`.
pub fn exemplar_fields() -> Fields {
    vec![time("time"), float("value"), int("value_int"), text("trace_id"), text("span_id"), json_text("attributes")]
        .into()
}

fn origin() -> Vec<Field> {
    vec![
        text("service_name"),
        text("scope_name"),
        text("scope_version"),
        open("attributes"),
        open("resource"),
        open("scope_attributes"),
        text("schema_url"),
        text("scope_schema_url"),
        int("dropped_attributes_count"),
    ]
}

fn events() -> SchemaRef {
    let mut fields: Vec<Field> = [
        "event_id",
        "type",
        "name",
        "session_id",
        "user_id",
        "anonymous_id",
        "group_id",
        "previous_id",
        "url",
        "path",
        "title",
        "referrer",
        "user_agent",
        "ip",
        "screen",
        "viewport",
        "timezone",
        "language",
        "selector",
    ]
    .map(text)
    .into();
    fields.extend(["x", "y", "depth", "ttfb_ms", "fcp_ms", "lcp_ms", "inp_ms", "load_ms", "cls"].map(float));
    fields.extend(["country", "city", "browser", "os", "device"].map(text));
    fields.extend([boolean("is_bot"), time("sent_at"), open("properties"), open("context")]);
    schema(fields)
}

fn logs() -> SchemaRef {
    let mut fields = vec![
        time("observed_time"),
        Field::new("severity_number", DataType::Int32, true),
        text("severity_text"),
        text("body"),
        text("event_name"),
        text("trace_id"),
        text("span_id"),
        int("flags"),
    ];
    fields.extend(origin());
    schema(fields)
}

fn spans() -> SchemaRef {
    let mut fields = vec![
        time("end_time"),
        int("duration_ns"),
        text("trace_id"),
        text("span_id"),
        text("parent_span_id"),
        text("trace_state"),
        text("name"),
        text("kind"),
        text("status_code"),
        text("status_message"),
        Field::new(
            "span_events",
            DataType::List(Arc::new(Field::new("item", DataType::Struct(span_event_fields()), true))),
            true,
        ),
        Field::new(
            "links",
            DataType::List(Arc::new(Field::new("item", DataType::Struct(span_link_fields()), true))),
            true,
        ),
    ];
    fields.extend(origin());
    fields.extend([int("dropped_events_count"), int("dropped_links_count"), int("flags")]);
    schema(fields)
}

fn metrics() -> SchemaRef {
    let mut fields = vec![
        text("name"),
        text("unit"),
        text("type"),
        text("temporality"),
        boolean("is_monotonic"),
        text("series"),
        time("start_time"),
        float("value"),
        int("value_int"),
        int("count"),
        float("sum"),
        float("min"),
        float("max"),
        list("bounds", DataType::Float64),
        list("bucket_counts", DataType::Int64),
        int("scale"),
        int("zero_count"),
        float("zero_threshold"),
        int("positive_offset"),
        list("positive_counts", DataType::Int64),
        int("negative_offset"),
        list("negative_counts", DataType::Int64),
        structs("quantiles", quantile_fields().iter().map(|field| field.as_ref().clone()).collect()),
        structs("exemplars", exemplar_fields().iter().map(|field| field.as_ref().clone()).collect()),
    ];
    fields.extend(origin());
    fields.extend([text("description"), int("flags"), json_text("metadata")]);
    schema(fields)
}

fn rejected() -> SchemaRef {
    schema(["stream", "source", "code", "message", "field", "payload", "request_id", "key_id"].map(text).into())
}

fn usage() -> SchemaRef {
    let mut fields: Vec<Field> = ["stream", "source"].map(text).into();
    fields.extend(
        [
            "requests",
            "bytes",
            "rows_received",
            "rows_stored",
            "rows_rejected",
            "rows_deduplicated",
            "queries",
            "query_ms",
            "query_rows",
        ]
        .map(int),
    );
    schema(fields)
}

fn sessions() -> SchemaRef {
    let mut fields: Vec<Field> = ["session_id", "visitor", "user_id", "anonymous_id"].map(text).into();
    fields.extend([time("end_time"), int("duration_ns")]);
    fields.extend(["entry_page", "exit_page", "referrer"].map(text));
    fields.extend(["pages", "events", "conversions"].map(int));
    fields.extend(["is_bounce", "is_converted"].map(boolean));
    fields.extend(revision_columns());
    schema(fields)
}

/// Every built-in stream.
pub static STREAMS: LazyLock<[Arc<StreamDef>; 7]> = LazyLock::new(|| {
    let built_in = [
        StreamDef {
            name: "events".into(),
            summary: "what people do in products: page views, clicks, tracked events, identities".into(),
            schema: events(),
            sort: &["name", "time"],
            id_column: Some("event_id"),
            open_columns: vec!["properties".into(), "context".into()],
            search_columns: &["url"],
            bloom_columns: &["user_id", "anonymous_id"],
            key: vec![],
        },
        StreamDef {
            name: "logs".into(),
            summary: "log records, one a row".into(),
            schema: logs(),
            sort: &["time"],
            id_column: None,
            open_columns: vec!["attributes".into(), "resource".into(), "scope_attributes".into()],
            search_columns: &["body"],
            bloom_columns: &["trace_id"],
            key: vec![],
        },
        StreamDef {
            name: "spans".into(),
            summary: "spans of traces, one a row".into(),
            schema: spans(),
            sort: &["service_name", "time"],
            id_column: None,
            open_columns: vec!["attributes".into(), "resource".into(), "scope_attributes".into()],
            search_columns: &["name"],
            bloom_columns: &["trace_id"],
            key: vec![],
        },
        StreamDef {
            name: "metrics".into(),
            summary: "metric data points, one a row".into(),
            schema: metrics(),
            sort: &["name", "series", "time"],
            id_column: None,
            open_columns: vec!["attributes".into(), "resource".into(), "scope_attributes".into()],
            search_columns: &[],
            bloom_columns: &["series"],
            key: vec![],
        },
        StreamDef {
            name: "sessions".into(),
            summary:
                "visits: the events of one visitor without a long gap between them, kept by a pipeline of Weir's own"
                    .into(),
            schema: sessions(),
            sort: &["time"],
            id_column: None,
            open_columns: vec![],
            search_columns: &[],
            bloom_columns: &["session_id", "visitor", "user_id", "anonymous_id"],
            key: vec!["time".into(), "visitor".into()],
        },
        StreamDef {
            name: "_rejected".into(),
            summary: "rows that were refused, with the reason and what was sent".into(),
            schema: rejected(),
            sort: &["time"],
            id_column: None,
            open_columns: vec![],
            search_columns: &["payload"],
            bloom_columns: &[],
            key: vec![],
        },
        StreamDef {
            name: "_usage".into(),
            summary: "what the tenant sent, stored and queried, a row a minute, stream and source".into(),
            schema: usage(),
            sort: &["time"],
            id_column: None,
            open_columns: vec![],
            search_columns: &[],
            bloom_columns: &[],
            key: vec![],
        },
    ];
    built_in.map(Arc::new)
});

impl StreamDef {
    /// Whether its rows are revisions of results, of which the newest one of each key counts.
    pub fn is_keyed(&self) -> bool {
        !self.key.is_empty()
    }

    /// Whether a column is a map of open-ended attributes.
    pub fn is_open(&self, column: &str) -> bool {
        self.open_columns.iter().any(|open| open == column)
    }
}

/// The built-in stream of that name.
pub fn stream(name: &str) -> Option<&'static Arc<StreamDef>> {
    STREAMS.iter().find(|stream| stream.name == name)
}
