//! The messages of OTLP as tables: which JSON name is which protobuf field of which type.

/// A protobuf message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) guard: Guard,
    pub(super) fields: &'static [Field],
}

/// What becomes of a fault inside a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// The message that holds it is faulty too.
    None,
    /// The row is refused.
    Row,
    /// The rows that depend on this message are refused.
    Group,
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// The lowerCamelCase name; the original name is the same in snake_case.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
    /// Members of the message's oneof exclude each other.
    pub(super) in_oneof: bool,
}

/// The type of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Bool,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Fixed32,
    Fixed64,
    Sfixed64,
    /// A `fixed64` of nanoseconds: what cannot be a time is no fault here, and flagged later.
    Time,
    Double,
    Text,
    /// Base64.
    Bytes,
    /// Hexadecimal.
    Id,
    /// By number, or by one of these names and the number that belongs to it.
    Enum(&'static [(&'static str, i32)]),
    Message(&'static Message),
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false, in_oneof: false }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: true, in_oneof: false }
}

const fn member(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false, in_oneof: true }
}

const fn plain(fields: &'static [Field]) -> Message {
    Message { guard: Guard::None, fields }
}

pub(super) static LOGS_REQUEST: Message = plain(&[many(1, "resourceLogs", Kind::Message(&RESOURCE_LOGS))]);
pub(super) static TRACES_REQUEST: Message = plain(&[many(1, "resourceSpans", Kind::Message(&RESOURCE_SPANS))]);
pub(super) static METRICS_REQUEST: Message = plain(&[many(1, "resourceMetrics", Kind::Message(&RESOURCE_METRICS))]);

static RESOURCE_LOGS: Message = plain(&[
    one(1, "resource", Kind::Message(&RESOURCE)),
    many(2, "scopeLogs", Kind::Message(&SCOPE_LOGS)),
    one(3, "schemaUrl", Kind::Text),
]);
static RESOURCE_SPANS: Message = plain(&[
    one(1, "resource", Kind::Message(&RESOURCE)),
    many(2, "scopeSpans", Kind::Message(&SCOPE_SPANS)),
    one(3, "schemaUrl", Kind::Text),
]);
static RESOURCE_METRICS: Message = plain(&[
    one(1, "resource", Kind::Message(&RESOURCE)),
    many(2, "scopeMetrics", Kind::Message(&SCOPE_METRICS)),
    one(3, "schemaUrl", Kind::Text),
]);
static SCOPE_LOGS: Message = plain(&[
    one(1, "scope", Kind::Message(&SCOPE)),
    many(2, "logRecords", Kind::Message(&LOG_RECORD)),
    one(3, "schemaUrl", Kind::Text),
]);
static SCOPE_SPANS: Message = plain(&[
    one(1, "scope", Kind::Message(&SCOPE)),
    many(2, "spans", Kind::Message(&SPAN)),
    one(3, "schemaUrl", Kind::Text),
]);
static SCOPE_METRICS: Message = plain(&[
    one(1, "scope", Kind::Message(&SCOPE)),
    many(2, "metrics", Kind::Message(&METRIC)),
    one(3, "schemaUrl", Kind::Text),
]);

static RESOURCE: Message = Message {
    guard: Guard::Group,
    fields: &[many(1, "attributes", Kind::Message(&KEY_VALUE)), one(2, "droppedAttributesCount", Kind::Uint32)],
};
static SCOPE: Message = Message {
    guard: Guard::Group,
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "version", Kind::Text),
        many(3, "attributes", Kind::Message(&KEY_VALUE)),
        one(4, "droppedAttributesCount", Kind::Uint32),
    ],
};

static KEY_VALUE: Message = plain(&[one(1, "key", Kind::Text), one(2, "value", Kind::Message(&ANY_VALUE))]);
static ANY_VALUE: Message = plain(&[
    member(1, "stringValue", Kind::Text),
    member(2, "boolValue", Kind::Bool),
    member(3, "intValue", Kind::Int64),
    member(4, "doubleValue", Kind::Double),
    member(5, "arrayValue", Kind::Message(&ARRAY_VALUE)),
    member(6, "kvlistValue", Kind::Message(&KEY_VALUE_LIST)),
    member(7, "bytesValue", Kind::Bytes),
]);
static ARRAY_VALUE: Message = plain(&[many(1, "values", Kind::Message(&ANY_VALUE))]);
static KEY_VALUE_LIST: Message = plain(&[many(1, "values", Kind::Message(&KEY_VALUE))]);

static LOG_RECORD: Message = Message {
    guard: Guard::Row,
    fields: &[
        one(1, "timeUnixNano", Kind::Time),
        one(2, "severityNumber", Kind::Enum(SEVERITIES)),
        one(3, "severityText", Kind::Text),
        one(5, "body", Kind::Message(&ANY_VALUE)),
        many(6, "attributes", Kind::Message(&KEY_VALUE)),
        one(7, "droppedAttributesCount", Kind::Uint32),
        one(8, "flags", Kind::Fixed32),
        one(9, "traceId", Kind::Id),
        one(10, "spanId", Kind::Id),
        one(11, "observedTimeUnixNano", Kind::Time),
        one(12, "eventName", Kind::Text),
    ],
};

static SPAN: Message = Message {
    guard: Guard::Row,
    fields: &[
        one(1, "traceId", Kind::Id),
        one(2, "spanId", Kind::Id),
        one(3, "traceState", Kind::Text),
        one(4, "parentSpanId", Kind::Id),
        one(5, "name", Kind::Text),
        one(6, "kind", Kind::Enum(SPAN_KINDS)),
        one(7, "startTimeUnixNano", Kind::Time),
        one(8, "endTimeUnixNano", Kind::Time),
        many(9, "attributes", Kind::Message(&KEY_VALUE)),
        one(10, "droppedAttributesCount", Kind::Uint32),
        many(11, "events", Kind::Message(&SPAN_EVENT)),
        one(12, "droppedEventsCount", Kind::Uint32),
        many(13, "links", Kind::Message(&SPAN_LINK)),
        one(14, "droppedLinksCount", Kind::Uint32),
        one(15, "status", Kind::Message(&STATUS)),
        one(16, "flags", Kind::Fixed32),
    ],
};
static SPAN_EVENT: Message = plain(&[
    one(1, "timeUnixNano", Kind::Time),
    one(2, "name", Kind::Text),
    many(3, "attributes", Kind::Message(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Kind::Uint32),
]);
static SPAN_LINK: Message = plain(&[
    one(1, "traceId", Kind::Id),
    one(2, "spanId", Kind::Id),
    one(3, "traceState", Kind::Text),
    many(4, "attributes", Kind::Message(&KEY_VALUE)),
    one(5, "droppedAttributesCount", Kind::Uint32),
    one(6, "flags", Kind::Fixed32),
]);
static STATUS: Message = plain(&[one(2, "message", Kind::Text), one(3, "code", Kind::Enum(STATUS_CODES))]);

static METRIC: Message = Message {
    guard: Guard::Group,
    fields: &[
        one(1, "name", Kind::Text),
        one(2, "description", Kind::Text),
        one(3, "unit", Kind::Text),
        member(5, "gauge", Kind::Message(&GAUGE)),
        member(7, "sum", Kind::Message(&SUM)),
        member(9, "histogram", Kind::Message(&HISTOGRAM)),
        member(10, "exponentialHistogram", Kind::Message(&EXPONENTIAL_HISTOGRAM)),
        member(11, "summary", Kind::Message(&SUMMARY)),
        many(12, "metadata", Kind::Message(&KEY_VALUE)),
    ],
};
static GAUGE: Message = plain(&[many(1, "dataPoints", Kind::Message(&NUMBER_POINT))]);
static SUM: Message = plain(&[
    many(1, "dataPoints", Kind::Message(&NUMBER_POINT)),
    one(2, "aggregationTemporality", Kind::Enum(TEMPORALITIES)),
    one(3, "isMonotonic", Kind::Bool),
]);
static HISTOGRAM: Message = plain(&[
    many(1, "dataPoints", Kind::Message(&HISTOGRAM_POINT)),
    one(2, "aggregationTemporality", Kind::Enum(TEMPORALITIES)),
]);
static EXPONENTIAL_HISTOGRAM: Message = plain(&[
    many(1, "dataPoints", Kind::Message(&EXPONENTIAL_POINT)),
    one(2, "aggregationTemporality", Kind::Enum(TEMPORALITIES)),
]);
static SUMMARY: Message = plain(&[many(1, "dataPoints", Kind::Message(&SUMMARY_POINT))]);

static NUMBER_POINT: Message = Message {
    guard: Guard::Row,
    fields: &[
        one(2, "startTimeUnixNano", Kind::Time),
        one(3, "timeUnixNano", Kind::Time),
        member(4, "asDouble", Kind::Double),
        many(5, "exemplars", Kind::Message(&EXEMPLAR)),
        member(6, "asInt", Kind::Sfixed64),
        many(7, "attributes", Kind::Message(&KEY_VALUE)),
        one(8, "flags", Kind::Uint32),
    ],
};
static HISTOGRAM_POINT: Message = Message {
    guard: Guard::Row,
    fields: &[
        one(2, "startTimeUnixNano", Kind::Time),
        one(3, "timeUnixNano", Kind::Time),
        one(4, "count", Kind::Fixed64),
        one(5, "sum", Kind::Double),
        many(6, "bucketCounts", Kind::Fixed64),
        many(7, "explicitBounds", Kind::Double),
        many(8, "exemplars", Kind::Message(&EXEMPLAR)),
        many(9, "attributes", Kind::Message(&KEY_VALUE)),
        one(10, "flags", Kind::Uint32),
        one(11, "min", Kind::Double),
        one(12, "max", Kind::Double),
    ],
};
static EXPONENTIAL_POINT: Message = Message {
    guard: Guard::Row,
    fields: &[
        many(1, "attributes", Kind::Message(&KEY_VALUE)),
        one(2, "startTimeUnixNano", Kind::Time),
        one(3, "timeUnixNano", Kind::Time),
        one(4, "count", Kind::Fixed64),
        one(5, "sum", Kind::Double),
        one(6, "scale", Kind::Sint32),
        one(7, "zeroCount", Kind::Fixed64),
        one(8, "positive", Kind::Message(&BUCKETS)),
        one(9, "negative", Kind::Message(&BUCKETS)),
        one(10, "flags", Kind::Uint32),
        many(11, "exemplars", Kind::Message(&EXEMPLAR)),
        one(12, "min", Kind::Double),
        one(13, "max", Kind::Double),
        one(14, "zeroThreshold", Kind::Double),
    ],
};
static BUCKETS: Message = plain(&[one(1, "offset", Kind::Sint32), many(2, "bucketCounts", Kind::Uint64)]);
static SUMMARY_POINT: Message = Message {
    guard: Guard::Row,
    fields: &[
        one(2, "startTimeUnixNano", Kind::Time),
        one(3, "timeUnixNano", Kind::Time),
        one(4, "count", Kind::Fixed64),
        one(5, "sum", Kind::Double),
        many(6, "quantileValues", Kind::Message(&QUANTILE)),
        many(7, "attributes", Kind::Message(&KEY_VALUE)),
        one(8, "flags", Kind::Uint32),
    ],
};
static QUANTILE: Message = plain(&[one(1, "quantile", Kind::Double), one(2, "value", Kind::Double)]);
static EXEMPLAR: Message = plain(&[
    one(2, "timeUnixNano", Kind::Time),
    member(3, "asDouble", Kind::Double),
    one(4, "spanId", Kind::Id),
    one(5, "traceId", Kind::Id),
    member(6, "asInt", Kind::Sfixed64),
    many(7, "filteredAttributes", Kind::Message(&KEY_VALUE)),
]);

const TEMPORALITIES: &[(&str, i32)] = &[
    ("AGGREGATION_TEMPORALITY_UNSPECIFIED", 0),
    ("AGGREGATION_TEMPORALITY_DELTA", 1),
    ("AGGREGATION_TEMPORALITY_CUMULATIVE", 2),
];
const STATUS_CODES: &[(&str, i32)] = &[("STATUS_CODE_UNSET", 0), ("STATUS_CODE_OK", 1), ("STATUS_CODE_ERROR", 2)];
const SPAN_KINDS: &[(&str, i32)] = &[
    ("SPAN_KIND_UNSPECIFIED", 0),
    ("SPAN_KIND_INTERNAL", 1),
    ("SPAN_KIND_SERVER", 2),
    ("SPAN_KIND_CLIENT", 3),
    ("SPAN_KIND_PRODUCER", 4),
    ("SPAN_KIND_CONSUMER", 5),
];
const SEVERITIES: &[(&str, i32)] = &[
    ("SEVERITY_NUMBER_UNSPECIFIED", 0),
    ("SEVERITY_NUMBER_TRACE", 1),
    ("SEVERITY_NUMBER_TRACE2", 2),
    ("SEVERITY_NUMBER_TRACE3", 3),
    ("SEVERITY_NUMBER_TRACE4", 4),
    ("SEVERITY_NUMBER_DEBUG", 5),
    ("SEVERITY_NUMBER_DEBUG2", 6),
    ("SEVERITY_NUMBER_DEBUG3", 7),
    ("SEVERITY_NUMBER_DEBUG4", 8),
    ("SEVERITY_NUMBER_INFO", 9),
    ("SEVERITY_NUMBER_INFO2", 10),
    ("SEVERITY_NUMBER_INFO3", 11),
    ("SEVERITY_NUMBER_INFO4", 12),
    ("SEVERITY_NUMBER_WARN", 13),
    ("SEVERITY_NUMBER_WARN2", 14),
    ("SEVERITY_NUMBER_WARN3", 15),
    ("SEVERITY_NUMBER_WARN4", 16),
    ("SEVERITY_NUMBER_ERROR", 17),
    ("SEVERITY_NUMBER_ERROR2", 18),
    ("SEVERITY_NUMBER_ERROR3", 19),
    ("SEVERITY_NUMBER_ERROR4", 20),
    ("SEVERITY_NUMBER_FATAL", 21),
    ("SEVERITY_NUMBER_FATAL2", 22),
    ("SEVERITY_NUMBER_FATAL3", 23),
    ("SEVERITY_NUMBER_FATAL4", 24),
];
