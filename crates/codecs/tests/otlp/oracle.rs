//! What rows a request should give, said naively from the structs that prost generates.

use base64::Engine;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, Metric, NumberDataPoint, exemplar, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use siphasher::sip128::SipHasher13;

use crate::cells::{Row, list, pairs, record};

/// When every request of these tests arrives.
pub(crate) const RECEIVED_AT: i64 = 1_700_000_000_000_000_000;
const DAY: i64 = 24 * 3600 * 1_000_000_000;
const HOUR: i64 = 3600 * 1_000_000_000;

pub(crate) fn logs(request: &ExportLogsServiceRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for resource in &request.resource_logs {
        for scope in &resource.scope_logs {
            for log in &scope.log_records {
                let mut row = Row::new();
                origin(
                    &mut row,
                    resource.resource.as_ref(),
                    &resource.schema_url,
                    scope.scope.as_ref(),
                    &scope.schema_url,
                );
                own_time(
                    &mut row,
                    if log.time_unix_nano == 0 { log.observed_time_unix_nano } else { log.time_unix_nano },
                );
                put(&mut row, "observed_time", time(log.observed_time_unix_nano));
                put(&mut row, "severity_number", nonzero(log.severity_number.into()));
                put(&mut row, "severity_text", text(&log.severity_text));
                put(&mut row, "event_name", text(&log.event_name));
                put(
                    &mut row,
                    "body",
                    log.body.as_ref().and_then(|body| match &body.value {
                        None => None,
                        Some(Value::StringValue(text)) => Some(text.clone()),
                        Some(_) => Some(json(body)),
                    }),
                );
                put(&mut row, "trace_id", id(&log.trace_id));
                put(&mut row, "span_id", id(&log.span_id));
                put(&mut row, "flags", nonzero(log.flags.into()));
                put(&mut row, "attributes", map(&log.attributes));
                put(&mut row, "dropped_attributes_count", nonzero(log.dropped_attributes_count.into()));
                rows.push(row);
            }
        }
    }
    rows
}

pub(crate) fn spans(request: &ExportTraceServiceRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for resource in &request.resource_spans {
        for scope in &resource.scope_spans {
            for span in &scope.spans {
                let mut row = Row::new();
                origin(
                    &mut row,
                    resource.resource.as_ref(),
                    &resource.schema_url,
                    scope.scope.as_ref(),
                    &scope.schema_url,
                );
                own_time(&mut row, span.start_time_unix_nano);
                put(&mut row, "end_time", time(span.end_time_unix_nano));
                let duration = time_number(span.end_time_unix_nano).zip(time_number(span.start_time_unix_nano));
                put(&mut row, "duration_ns", duration.map(|(end, start)| (end - start).to_string()));
                put(&mut row, "trace_id", id(&span.trace_id));
                put(&mut row, "span_id", id(&span.span_id));
                put(&mut row, "parent_span_id", id(&span.parent_span_id));
                put(&mut row, "trace_state", text(&span.trace_state));
                put(&mut row, "name", text(&span.name));
                let kinds = ["", "internal", "server", "client", "producer", "consumer"];
                put(&mut row, "kind", text(&named(&kinds, span.kind)));
                let status = span.status.clone().unwrap_or_default();
                put(&mut row, "status_code", Some(named(&["unset", "ok", "error"], status.code)));
                put(&mut row, "status_message", text(&status.message));
                put(&mut row, "flags", nonzero(span.flags.into()));
                put(&mut row, "attributes", map(&span.attributes));
                put(&mut row, "dropped_attributes_count", nonzero(span.dropped_attributes_count.into()));
                put(&mut row, "dropped_events_count", nonzero(span.dropped_events_count.into()));
                put(&mut row, "dropped_links_count", nonzero(span.dropped_links_count.into()));
                let events = span.events.iter().map(|event| {
                    record(
                        [
                            ("time", time(event.time_unix_nano)),
                            ("name", text(&event.name)),
                            ("attributes", object(&event.attributes)),
                            ("dropped_attributes_count", nonzero(event.dropped_attributes_count.into())),
                        ]
                        .into_iter(),
                    )
                });
                put(&mut row, "span_events", (!span.events.is_empty()).then(|| list(events)));
                let links = span.links.iter().map(|link| {
                    record(
                        [
                            ("trace_id", id(&link.trace_id)),
                            ("span_id", id(&link.span_id)),
                            ("trace_state", text(&link.trace_state)),
                            ("attributes", object(&link.attributes)),
                            ("dropped_attributes_count", nonzero(link.dropped_attributes_count.into())),
                            ("flags", nonzero(link.flags.into())),
                        ]
                        .into_iter(),
                    )
                });
                put(&mut row, "links", (!span.links.is_empty()).then(|| list(links)));
                rows.push(row);
            }
        }
    }
    rows
}

/// The rows of metrics; `series` as the documentation of the decoder describes it.
pub(crate) fn metrics(request: &ExportMetricsServiceRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for resource in &request.resource_metrics {
        for scope in &resource.scope_metrics {
            for metric in &scope.metrics {
                for mut row in points(metric) {
                    let (scope_message, resource_message) = (scope.scope.as_ref(), resource.resource.as_ref());
                    origin(&mut row, resource_message, &resource.schema_url, scope_message, &scope.schema_url);
                    put(&mut row, "name", text(&metric.name));
                    put(&mut row, "unit", text(&metric.unit));
                    put(&mut row, "description", text(&metric.description));
                    put(&mut row, "metadata", object(&metric.metadata));
                    let none = Vec::new();
                    let sums = [
                        resource_message.map_or(&none, |resource| &resource.attributes),
                        scope_message.map_or(&none, |scope| &scope.attributes),
                        &row_attributes(&mut row),
                    ]
                    .map(|attributes| attributes_sum(attributes).to_le_bytes());
                    let kind = row["type"].clone();
                    let (name, version) =
                        scope_message.map_or(("", ""), |scope| (scope.name.as_str(), scope.version.as_str()));
                    let mut bytes = sums.concat();
                    for text in [name, version, &metric.name, &kind] {
                        bytes.extend((text.len() as u64).to_le_bytes());
                        bytes.extend(text.as_bytes());
                    }
                    let series = SipHasher13::new().hash(&bytes).as_u128();
                    put(&mut row, "series", Some(format!("{series:032x}")));
                    rows.push(row);
                }
            }
        }
    }
    rows
}

fn attributes_sum(attributes: &[KeyValue]) -> u128 {
    let hashes = attributes.iter().map(|attribute| {
        let mut bytes = Vec::new();
        for text in [attribute.key.clone(), member(attribute)] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        SipHasher13::new().hash(&bytes).as_u128()
    });
    hashes.fold(0, u128::wrapping_add)
}

/// Where [`points`] leaves the attributes of a point for the series.
const ATTRIBUTES: &str = "attributes as protobuf";

fn row_attributes(row: &mut Row) -> Vec<KeyValue> {
    let bytes = hex::decode(row.remove(ATTRIBUTES).unwrap()).unwrap();
    InstrumentationScope::decode(bytes.as_slice()).unwrap().attributes
}

fn points(metric: &Metric) -> Vec<Row> {
    let temporality = |number| text(&named(&["", "delta", "cumulative"], number));
    match &metric.data {
        None => Vec::new(),
        Some(Data::Gauge(gauge)) => gauge.data_points.iter().map(|point| number_point("gauge", point)).collect(),
        Some(Data::Sum(sum)) => {
            let rows = sum.data_points.iter().map(|point| {
                let mut row = number_point("sum", point);
                put(&mut row, "temporality", temporality(sum.aggregation_temporality));
                put(&mut row, "is_monotonic", Some(sum.is_monotonic.to_string()));
                row
            });
            rows.collect()
        }
        Some(Data::Histogram(histogram)) => {
            let rows = histogram.data_points.iter().map(|point| {
                let times = [point.start_time_unix_nano, point.time_unix_nano];
                let mut row = any_point("histogram", times, point.flags, &point.attributes, &point.exemplars);
                put(&mut row, "temporality", temporality(histogram.aggregation_temporality));
                distribution(&mut row, point.flags, point.count, [point.sum, point.min, point.max]);
                put(&mut row, "bounds", doubles(&point.explicit_bounds));
                put(&mut row, "bucket_counts", counts(&point.bucket_counts));
                row
            });
            rows.collect()
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            let rows = histogram.data_points.iter().map(|point| {
                let times = [point.start_time_unix_nano, point.time_unix_nano];
                let kind = "exponential_histogram";
                let mut row = any_point(kind, times, point.flags, &point.attributes, &point.exemplars);
                put(&mut row, "temporality", temporality(histogram.aggregation_temporality));
                distribution(&mut row, point.flags, point.count, [point.sum, point.min, point.max]);
                put(&mut row, "scale", Some(point.scale.to_string()));
                put(&mut row, "zero_count", Some(point.zero_count.to_string()));
                put(&mut row, "zero_threshold", Some(format!("{:?}", point.zero_threshold)));
                buckets(&mut row, ["positive_offset", "positive_counts"], point.positive.as_ref());
                buckets(&mut row, ["negative_offset", "negative_counts"], point.negative.as_ref());
                row
            });
            rows.collect()
        }
        Some(Data::Summary(summary)) => {
            let rows = summary.data_points.iter().map(|point| {
                let times = [point.start_time_unix_nano, point.time_unix_nano];
                let mut row = any_point("summary", times, point.flags, &point.attributes, &[]);
                distribution(&mut row, point.flags, point.count, [Some(point.sum), None, None]);
                let quantiles = point.quantile_values.iter().map(|quantile| {
                    let fields = [("quantile", quantile.quantile), ("value", quantile.value)];
                    record(fields.into_iter().map(|(name, value)| (name, Some(format!("{value:?}")))))
                });
                put(&mut row, "quantiles", (!point.quantile_values.is_empty()).then(|| list(quantiles)));
                row
            });
            rows.collect()
        }
    }
}

fn any_point(kind: &str, times: [u64; 2], flags: u32, attributes: &[KeyValue], exemplars: &[Exemplar]) -> Row {
    let mut row = Row::new();
    put(&mut row, "type", text(kind));
    own_time(&mut row, times[1]);
    put(&mut row, "start_time", time(times[0]));
    put(&mut row, "flags", nonzero(flags.into()));
    put(&mut row, "attributes", map(attributes));
    let message = InstrumentationScope { attributes: attributes.to_vec(), ..InstrumentationScope::default() };
    put(&mut row, ATTRIBUTES, Some(hex::encode(message.encode_to_vec())));
    let elements = exemplars.iter().map(|exemplar| {
        let (value, value_int) = match exemplar.value {
            None => (None, None),
            Some(exemplar::Value::AsDouble(value)) => (Some(value), None),
            Some(exemplar::Value::AsInt(value)) => (Some(value as f64), Some(value)),
        };
        record(
            [
                ("time", time(exemplar.time_unix_nano)),
                ("value", value.map(|value| format!("{value:?}"))),
                ("value_int", value_int.map(|value| value.to_string())),
                ("trace_id", id(&exemplar.trace_id)),
                ("span_id", id(&exemplar.span_id)),
                ("attributes", object(&exemplar.filtered_attributes)),
            ]
            .into_iter(),
        )
    });
    put(&mut row, "exemplars", (!exemplars.is_empty()).then(|| list(elements)));
    row
}

fn number_point(kind: &str, point: &NumberDataPoint) -> Row {
    let times = [point.start_time_unix_nano, point.time_unix_nano];
    let mut row = any_point(kind, times, point.flags, &point.attributes, &point.exemplars);
    if point.flags & 1 == 0 {
        match point.value {
            None => {}
            Some(number_data_point::Value::AsDouble(value)) => put(&mut row, "value", Some(format!("{value:?}"))),
            Some(number_data_point::Value::AsInt(value)) => {
                put(&mut row, "value", Some(format!("{:?}", value as f64)));
                put(&mut row, "value_int", Some(value.to_string()));
            }
        }
    }
    row
}

fn distribution(row: &mut Row, flags: u32, count: u64, [sum, min, max]: [Option<f64>; 3]) {
    if flags & 1 == 0 {
        put(row, "count", Some(count.to_string()));
        put(row, "sum", sum.map(|sum| format!("{sum:?}")));
        put(row, "min", min.map(|min| format!("{min:?}")));
        put(row, "max", max.map(|max| format!("{max:?}")));
    }
}

fn buckets(row: &mut Row, [offset, list]: [&str; 2], buckets: Option<&Buckets>) {
    if let Some(buckets) = buckets {
        put(row, offset, Some(buckets.offset.to_string()));
        put(row, list, counts(&buckets.bucket_counts));
    }
}

fn counts(values: &[u64]) -> Option<String> {
    (!values.is_empty()).then(|| list(values.iter().map(u64::to_string)))
}

fn doubles(values: &[f64]) -> Option<String> {
    (!values.is_empty()).then(|| list(values.iter().map(|value| format!("{value:?}"))))
}

pub(crate) fn put(row: &mut Row, column: &str, value: Option<String>) {
    if let Some(value) = value {
        row.insert(column.to_owned(), value);
    }
}

pub(crate) fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

pub(crate) fn nonzero(number: i64) -> Option<String> {
    (number != 0).then(|| number.to_string())
}

pub(crate) fn named(names: &[&str], number: i32) -> String {
    names
        .get(usize::try_from(number).unwrap_or(usize::MAX))
        .map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

fn time_number(time: u64) -> Option<i64> {
    i64::try_from(time).ok().filter(|time| *time != 0)
}

pub(crate) fn time(time: u64) -> Option<String> {
    time_number(time).map(|time| time.to_string())
}

pub(crate) fn own_time(row: &mut Row, given: u64) {
    let (time, flag) = match i64::try_from(given) {
        Err(_) => (RECEIVED_AT, Some("impossible")),
        Ok(0) => (RECEIVED_AT, None),
        Ok(time) if time < RECEIVED_AT - 30 * DAY => (time, Some("late")),
        Ok(time) if time > RECEIVED_AT + HOUR => (time, Some("early")),
        Ok(time) => (time, None),
    };
    row.insert("time".to_owned(), time.to_string());
    row.insert("received_at".to_owned(), RECEIVED_AT.to_string());
    put(row, "time_flag", flag.map(str::to_owned));
}

pub(crate) fn id(id: &[u8]) -> Option<String> {
    id.iter().any(|byte| *byte != 0).then(|| hex::encode(id))
}

pub(crate) fn origin(
    row: &mut Row,
    resource: Option<&Resource>,
    url: &str,
    scope: Option<&InstrumentationScope>,
    scope_url: &str,
) {
    if let Some(resource) = resource {
        put(row, "resource", map(&resource.attributes));
        let service = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
        put(
            row,
            "service_name",
            service.and_then(|service| match service.value.as_ref()?.value.as_ref()? {
                Value::StringValue(name) => text(name),
                _ => Some(json(service.value.as_ref()?)),
            }),
        );
    }
    if let Some(scope) = scope {
        put(row, "scope_name", text(&scope.name));
        put(row, "scope_version", text(&scope.version));
        put(row, "scope_attributes", map(&scope.attributes));
    }
    put(row, "schema_url", text(url));
    put(row, "scope_schema_url", text(scope_url));
}

/// An attribute column.
pub(crate) fn map(attributes: &[KeyValue]) -> Option<String> {
    let values: Vec<_> = attributes.iter().map(member).collect();
    let entries = attributes.iter().zip(&values).map(|(attribute, value)| (attribute.key.as_str(), value.as_str()));
    (!attributes.is_empty()).then(|| pairs(entries))
}

/// The attributes of something nested.
pub(crate) fn object(attributes: &[KeyValue]) -> Option<String> {
    let members = attributes.iter().map(|attribute| format!("{}:{}", quoted(&attribute.key), member(attribute)));
    (!attributes.is_empty()).then(|| format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
}

fn member(attribute: &KeyValue) -> String {
    attribute.value.as_ref().map_or_else(|| "null".to_owned(), json)
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap().replace("\\b", "\\u0008").replace("\\f", "\\u000c")
}

pub(crate) fn double(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        serde_json::to_string(&value).unwrap().replace("e+", "e")
    }
}

pub(crate) fn json(value: &AnyValue) -> String {
    match &value.value {
        None | Some(Value::StringValueStrindex(_)) => "null".to_owned(),
        Some(Value::StringValue(text)) => quoted(text),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => double(*value),
        Some(Value::BytesValue(bytes)) => {
            format!("{{\"$bytes\":\"{}\"}}", base64::engine::general_purpose::STANDARD.encode(bytes))
        }
        Some(Value::ArrayValue(array)) => {
            format!("[{}]", array.values.iter().map(json).collect::<Vec<_>>().join(","))
        }
        Some(Value::KvlistValue(map)) => object(&map.values).unwrap_or_else(|| "{}".to_owned()),
    }
}
