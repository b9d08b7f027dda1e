//! The metrics of a shop's services: what happened since the last export, so that sums over
//! exports are exact.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
    HistogramDataPoint, Metric, NumberDataPoint, Sum, exemplar, exponential_histogram_data_point::Buckets, metric,
    number_data_point,
};
use weir_base::Timestamp;

use super::services::{CHECKOUT, Route, SERVICES, attribute, int_attribute};

/// Upper bounds of the duration buckets in seconds, as the semantic conventions have them.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

const DELTA: i32 = AggregationTemporality::Delta as i32;

/// The scale of the exponential histogram: four buckets for every doubling.
const SCALE: i32 = 2;

/// Durations of the requests of one route with one status.
#[derive(Debug, Default)]
struct Durations {
    counts: [u64; BOUNDS.len() + 1],
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    exemplar: Option<Exemplar>,
}

/// Everything counted since the last export.
#[derive(Debug)]
pub(super) struct Measures {
    since: Timestamp,
    requests: BTreeMap<(usize, &'static str, &'static str, u16), Durations>,
    /// Orders by outcome: how many, and their sum in cents.
    orders: BTreeMap<&'static str, (u64, u64)>,
    /// Sums of orders that went through, in buckets of powers of 2^(1/4).
    order_sums: BTreeMap<i32, u64>,
    exports: u64,
}

impl Measures {
    pub(super) fn new(since: Timestamp) -> Self {
        Self { since, requests: BTreeMap::new(), orders: BTreeMap::new(), order_sums: BTreeMap::new(), exports: 0 }
    }

    pub(super) fn count_request(
        &mut self,
        route: Route,
        status: u16,
        took_ns: u64,
        time: Timestamp,
        trace_id: &[u8],
        span_id: &[u8],
    ) {
        let seconds = took_ns as f64 / 1e9;
        let durations = self.requests.entry((route.service, route.method, route.template, status)).or_default();
        durations.counts[BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        durations.min = if durations.count == 0 { seconds } else { durations.min.min(seconds) };
        durations.max = durations.max.max(seconds);
        durations.count += 1;
        durations.sum += seconds;
        // The slowest request is the one people want to see.
        if seconds >= durations.max {
            durations.exemplar = Some(Exemplar {
                time_unix_nano: u64::try_from(time.0).unwrap_or(0),
                trace_id: trace_id.to_vec(),
                span_id: span_id.to_vec(),
                value: Some(exemplar::Value::AsDouble(seconds)),
                ..Exemplar::default()
            });
        }
    }

    pub(super) fn count_order(&mut self, status: u16, amount_cents: u64) {
        let outcome = match status {
            201 => "placed",
            402 => "declined",
            _ => "failed",
        };
        let (count, cents) = self.orders.entry(outcome).or_default();
        *count += 1;
        *cents += amount_cents;
        if outcome == "placed" && amount_cents > 0 {
            let euros = amount_cents as f64 / 100.0;
            // A bucket holds (base^index, base^(index+1)].
            let index = (euros.log2() * f64::from(1 << SCALE)).ceil() as i32 - 1;
            *self.order_sums.entry(index).or_default() += 1;
        }
    }

    /// The metrics of every service since the last time, and how many data points they are.
    pub(super) fn export(&mut self, now: Timestamp) -> Vec<(usize, Vec<Metric>, u64)> {
        let window = Window {
            start_time_unix_nano: u64::try_from(self.since.0).unwrap_or(0),
            time_unix_nano: u64::try_from(now.0).unwrap_or(0),
        };
        self.since = now;
        self.exports += 1;
        let mut of_service: Vec<(Vec<Metric>, u64)> = SERVICES.iter().map(|_| (Vec::new(), 0)).collect();

        let mut points: Vec<Vec<HistogramDataPoint>> = SERVICES.iter().map(|_| Vec::new()).collect();
        for ((service, method, template, status), durations) in std::mem::take(&mut self.requests) {
            let attributes = vec![
                attribute("http.request.method", method),
                attribute("http.route", template),
                int_attribute("http.response.status_code", i64::from(status)),
            ];
            points[service].push(window.durations(attributes, durations));
        }
        for (service, points) in points.into_iter().enumerate().filter(|(_, points)| !points.is_empty()) {
            of_service[service].1 += points.len() as u64;
            of_service[service].0.push(Metric {
                name: "http.server.request.duration".to_owned(),
                description: "Duration of HTTP server requests".to_owned(),
                unit: "s".to_owned(),
                data: Some(metric::Data::Histogram(Histogram { data_points: points, aggregation_temporality: DELTA })),
                ..Metric::default()
            });
        }

        let orders = std::mem::take(&mut self.orders);
        if !orders.is_empty() {
            let (metrics, count) = &mut of_service[CHECKOUT];
            *count += 2 * orders.len() as u64;
            metrics.extend(window.orders(&orders));
        }
        let sums = std::mem::take(&mut self.order_sums);
        if !sums.is_empty() {
            let (metrics, count) = &mut of_service[CHECKOUT];
            *count += 1;
            let cents = orders.get("placed").map_or(0, |(_, cents)| *cents);
            metrics.push(window.order_sums(&sums, cents as f64 / 100.0));
        }

        for (service, (metrics, count)) in of_service.iter_mut().enumerate() {
            *count += 1;
            metrics.push(window.memory(service, self.exports));
        }
        of_service.into_iter().enumerate().map(|(service, (metrics, count))| (service, metrics, count)).collect()
    }
}

/// The times of an export.
struct Window {
    start_time_unix_nano: u64,
    time_unix_nano: u64,
}

impl Window {
    fn durations(&self, attributes: Vec<KeyValue>, durations: Durations) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes,
            start_time_unix_nano: self.start_time_unix_nano,
            time_unix_nano: self.time_unix_nano,
            count: durations.count,
            sum: Some(durations.sum),
            bucket_counts: durations.counts.to_vec(),
            explicit_bounds: BOUNDS.to_vec(),
            exemplars: durations.exemplar.into_iter().collect(),
            flags: 0,
            min: Some(durations.min),
            max: Some(durations.max),
        }
    }

    fn number(&self, attributes: Vec<KeyValue>, value: number_data_point::Value) -> NumberDataPoint {
        NumberDataPoint {
            attributes,
            start_time_unix_nano: self.start_time_unix_nano,
            time_unix_nano: self.time_unix_nano,
            value: Some(value),
            ..NumberDataPoint::default()
        }
    }

    /// How many orders, and for how much, by outcome.
    fn orders(&self, orders: &BTreeMap<&'static str, (u64, u64)>) -> [Metric; 2] {
        let (mut counts, mut sums) = (Vec::new(), Vec::new());
        for (outcome, (count, cents)) in orders {
            let attributes = vec![attribute("outcome", *outcome)];
            counts.push(self.number(attributes.clone(), number_data_point::Value::AsInt(*count as i64)));
            sums.push(self.number(attributes, number_data_point::Value::AsDouble(*cents as f64 / 100.0)));
        }
        let sum = |data_points| {
            Some(metric::Data::Sum(Sum { data_points, aggregation_temporality: DELTA, is_monotonic: true }))
        };
        [
            Metric {
                name: "shop.orders".to_owned(),
                description: "Orders tried, by what came of them".to_owned(),
                unit: "{order}".to_owned(),
                data: sum(counts),
                ..Metric::default()
            },
            Metric {
                name: "shop.order.value".to_owned(),
                unit: "EUR".to_owned(),
                data: sum(sums),
                ..Metric::default()
            },
        ]
    }

    fn order_sums(&self, sums: &BTreeMap<i32, u64>, total: f64) -> Metric {
        let first = sums.keys().next().copied().unwrap_or(0);
        let last = sums.keys().next_back().copied().unwrap_or(0);
        let point = ExponentialHistogramDataPoint {
            start_time_unix_nano: self.start_time_unix_nano,
            time_unix_nano: self.time_unix_nano,
            count: sums.values().sum(),
            sum: Some(total),
            scale: SCALE,
            positive: Some(Buckets {
                offset: first,
                bucket_counts: (first..=last).map(|index| sums.get(&index).copied().unwrap_or(0)).collect(),
            }),
            ..ExponentialHistogramDataPoint::default()
        };
        Metric {
            name: "shop.order.total".to_owned(),
            unit: "EUR".to_owned(),
            data: Some(metric::Data::ExponentialHistogram(ExponentialHistogram {
                data_points: vec![point],
                aggregation_temporality: DELTA,
            })),
            ..Metric::default()
        }
    }

    /// Memory in use: a saw tooth, as garbage collectors make.
    fn memory(&self, service: usize, exports: u64) -> Metric {
        let megabytes = 180 + 40 * service as i64 + ((exports + 3 * service as u64) % 12) as i64 * 9;
        let point = self.number(Vec::new(), number_data_point::Value::AsInt(megabytes << 20));
        Metric {
            name: "process.memory.usage".to_owned(),
            unit: "By".to_owned(),
            data: Some(metric::Data::Gauge(Gauge { data_points: vec![point] })),
            ..Metric::default()
        }
    }
}
