//! Random requests, reproducible by seed.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
    NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use crate::oracle::RECEIVED_AT;

/// A source of random numbers (splitmix64).
pub(crate) struct Random {
    state: u64,
    finite: bool,
    sloppy: bool,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, finite: false, sloppy: false }
    }

    /// Without doubles that are not finite: the JSON writer of the generated structs has no words
    /// for most of them.
    pub(crate) fn finite(seed: u64) -> Self {
        Self { state: seed, finite: true, sloppy: false }
    }

    /// With an id of the wrong length now and then.
    pub(crate) fn sloppy(seed: u64) -> Self {
        Self { state: seed, finite: false, sloppy: true }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }

    pub(crate) fn many<T>(&mut self, up_to: u64, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(up_to + 1)).map(|_| make(self)).collect()
    }

    pub(crate) fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (!self.one_in(3)).then(|| make(self))
    }

    pub(crate) fn text(&mut self) -> String {
        self.pick(&[
            "",
            "a",
            "service.name",
            "http.route",
            "GET /häuser",
            "\"quoted\"\\",
            "line\nline\ttab\u{1}\u{7f}",
            "日本語の本文🦀",
            "a rather long text, longer than eight bytes at least",
            "\u{8}\u{c}\u{0}",
        ])
        .to_owned()
    }

    pub(crate) fn double(&mut self) -> f64 {
        let any = f64::from_bits(self.next());
        let specials = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, any];
        let finite = [0.0, -0.0, 1.0, 0.1, 1e300, -2.5e-300, f64::MAX, f64::MIN_POSITIVE, 637.704];
        let special = self.pick(&specials);
        if self.one_in(3) && (special.is_finite() || !self.finite) { special } else { self.pick(&finite) }
    }

    pub(crate) fn int(&mut self) -> i64 {
        let any = self.next() as i64;
        self.pick(&[0, 1, -1, 42, i64::MAX, i64::MIN, any, any >> 40])
    }

    pub(crate) fn count(&mut self) -> u64 {
        let any = self.next() >> 1;
        self.pick(&[0, 1, 2, 1000, any, any >> 50])
    }

    pub(crate) fn small(&mut self) -> u32 {
        let any = self.next() as u32;
        self.pick(&[0, 0, 1, 7, any])
    }

    pub(crate) fn time(&mut self) -> u64 {
        let around = RECEIVED_AT as u64 + self.below(1 << 50) - (1 << 49);
        self.pick(&[0, 1, around, around, around, RECEIVED_AT as u64, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX])
    }

    pub(crate) fn id(&mut self, length: usize) -> Vec<u8> {
        match self.below(6) {
            _ if self.sloppy && self.one_in(9) => vec![7; self.below(40) as usize],
            0 => Vec::new(),
            1 => vec![0; length],
            _ => (0..length).map(|_| self.next() as u8).collect(),
        }
    }

    pub(crate) fn value(&mut self, depth: u64) -> AnyValue {
        let kinds = if depth == 0 { 6 } else { 8 };
        let value = match self.below(kinds) {
            0 => None,
            1 => Some(Value::StringValue(self.text())),
            2 => Some(Value::BoolValue(self.one_in(2))),
            3 => Some(Value::IntValue(self.int())),
            4 => Some(Value::DoubleValue(self.double())),
            5 => Some(Value::BytesValue(self.many(9, |random| random.next() as u8))),
            6 => Some(Value::ArrayValue(ArrayValue { values: self.many(4, |random| random.value(depth - 1)) })),
            _ => Some(Value::KvlistValue(KeyValueList { values: self.many(4, |random| random.attribute(depth - 1)) })),
        };
        AnyValue { value }
    }

    pub(crate) fn attribute(&mut self, depth: u64) -> KeyValue {
        KeyValue { key: self.text(), value: self.maybe(|random| random.value(depth)), ..KeyValue::default() }
    }

    pub(crate) fn attributes(&mut self) -> Vec<KeyValue> {
        self.many(6, |random| random.attribute(3))
    }

    pub(crate) fn resource(&mut self) -> Resource {
        Resource { attributes: self.attributes(), dropped_attributes_count: self.small(), ..Resource::default() }
    }

    pub(crate) fn scope(&mut self) -> InstrumentationScope {
        InstrumentationScope {
            name: self.text(),
            version: self.text(),
            attributes: self.attributes(),
            dropped_attributes_count: self.small(),
        }
    }

    pub(crate) fn log(&mut self) -> LogRecord {
        LogRecord {
            time_unix_nano: self.time(),
            observed_time_unix_nano: self.time(),
            severity_number: self.pick(&[0, 1, 9, 24, 25, -1, i32::MAX]),
            severity_text: self.text(),
            body: self.maybe(|random| random.value(4)),
            attributes: self.attributes(),
            dropped_attributes_count: self.small(),
            flags: self.small(),
            trace_id: self.id(16),
            span_id: self.id(8),
            event_name: self.text(),
        }
    }

    pub(crate) fn logs(&mut self) -> ExportLogsServiceRequest {
        ExportLogsServiceRequest {
            resource_logs: self.many(3, |random| ResourceLogs {
                resource: random.maybe(Self::resource),
                scope_logs: random.many(3, |random| ScopeLogs {
                    scope: random.maybe(Self::scope),
                    log_records: random.many(5, Self::log),
                    schema_url: random.text(),
                }),
                schema_url: random.text(),
            }),
        }
    }

    pub(crate) fn span(&mut self) -> Span {
        Span {
            trace_id: self.id(16),
            span_id: self.id(8),
            trace_state: self.text(),
            parent_span_id: self.id(8),
            flags: self.small(),
            name: self.text(),
            kind: self.pick(&[0, 1, 2, 3, 4, 5, 6, -1]),
            start_time_unix_nano: self.time(),
            end_time_unix_nano: self.time(),
            attributes: self.attributes(),
            dropped_attributes_count: self.small(),
            events: self.many(3, |random| Event {
                time_unix_nano: random.time(),
                name: random.text(),
                attributes: random.attributes(),
                dropped_attributes_count: random.small(),
            }),
            dropped_events_count: self.small(),
            links: self.many(3, |random| Link {
                trace_id: random.id(16),
                span_id: random.id(8),
                trace_state: random.text(),
                attributes: random.attributes(),
                dropped_attributes_count: random.small(),
                flags: random.small(),
            }),
            dropped_links_count: self.small(),
            status: self.maybe(|random| Status { message: random.text(), code: random.pick(&[0, 1, 2, 3, -7]) }),
        }
    }

    pub(crate) fn spans(&mut self) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest {
            resource_spans: self.many(3, |random| ResourceSpans {
                resource: random.maybe(Self::resource),
                scope_spans: random.many(3, |random| ScopeSpans {
                    scope: random.maybe(Self::scope),
                    spans: random.many(5, Self::span),
                    schema_url: random.text(),
                }),
                schema_url: random.text(),
            }),
        }
    }

    fn exemplar(&mut self) -> Exemplar {
        Exemplar {
            filtered_attributes: self.attributes(),
            time_unix_nano: self.time(),
            span_id: self.id(8),
            trace_id: self.id(16),
            value: self.maybe(|random| match random.one_in(2) {
                true => exemplar::Value::AsDouble(random.double()),
                false => exemplar::Value::AsInt(random.int()),
            }),
        }
    }

    fn number_point(&mut self) -> NumberDataPoint {
        NumberDataPoint {
            attributes: self.attributes(),
            start_time_unix_nano: self.time(),
            time_unix_nano: self.time(),
            exemplars: self.many(2, Self::exemplar),
            flags: self.small(),
            value: self.maybe(|random| match random.one_in(2) {
                true => number_data_point::Value::AsDouble(random.double()),
                false => number_data_point::Value::AsInt(random.int()),
            }),
        }
    }

    fn histogram_point(&mut self) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes: self.attributes(),
            start_time_unix_nano: self.time(),
            time_unix_nano: self.time(),
            count: self.count(),
            sum: self.maybe(Self::double),
            bucket_counts: self.many(5, Self::count),
            explicit_bounds: self.many(4, Self::double),
            exemplars: self.many(2, Self::exemplar),
            flags: self.small(),
            min: self.maybe(Self::double),
            max: self.maybe(Self::double),
        }
    }

    fn buckets(&mut self) -> Buckets {
        Buckets { offset: self.int() as i32, bucket_counts: self.many(5, Self::count) }
    }

    fn exponential_point(&mut self) -> ExponentialHistogramDataPoint {
        ExponentialHistogramDataPoint {
            attributes: self.attributes(),
            start_time_unix_nano: self.time(),
            time_unix_nano: self.time(),
            count: self.count(),
            sum: self.maybe(Self::double),
            scale: self.int() as i32,
            zero_count: self.count(),
            positive: self.maybe(Self::buckets),
            negative: self.maybe(Self::buckets),
            flags: self.small(),
            exemplars: self.many(2, Self::exemplar),
            min: self.maybe(Self::double),
            max: self.maybe(Self::double),
            zero_threshold: self.double(),
        }
    }

    fn summary_point(&mut self) -> SummaryDataPoint {
        SummaryDataPoint {
            attributes: self.attributes(),
            start_time_unix_nano: self.time(),
            time_unix_nano: self.time(),
            count: self.count(),
            sum: self.double(),
            quantile_values: self
                .many(4, |random| ValueAtQuantile { quantile: random.double(), value: random.double() }),
            flags: self.small(),
        }
    }

    pub(crate) fn metric(&mut self) -> Metric {
        let temporality = self.pick(&[0, 1, 2, 3]);
        let data = match self.below(6) {
            0 => None,
            1 => Some(Data::Gauge(Gauge { data_points: self.many(4, Self::number_point) })),
            2 => Some(Data::Sum(Sum {
                data_points: self.many(4, Self::number_point),
                aggregation_temporality: temporality,
                is_monotonic: self.one_in(2),
            })),
            3 => Some(Data::Histogram(Histogram {
                data_points: self.many(4, Self::histogram_point),
                aggregation_temporality: temporality,
            })),
            4 => Some(Data::ExponentialHistogram(ExponentialHistogram {
                data_points: self.many(4, Self::exponential_point),
                aggregation_temporality: temporality,
            })),
            _ => Some(Data::Summary(Summary { data_points: self.many(4, Self::summary_point) })),
        };
        Metric { name: self.text(), description: self.text(), unit: self.text(), metadata: self.attributes(), data }
    }

    pub(crate) fn metrics(&mut self) -> ExportMetricsServiceRequest {
        ExportMetricsServiceRequest {
            resource_metrics: self.many(3, |random| ResourceMetrics {
                resource: random.maybe(Self::resource),
                scope_metrics: random.many(2, |random| ScopeMetrics {
                    scope: random.maybe(Self::scope),
                    metrics: random.many(5, Self::metric),
                    schema_url: random.text(),
                }),
                schema_url: random.text(),
            }),
        }
    }
}
