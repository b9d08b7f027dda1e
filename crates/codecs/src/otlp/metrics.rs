//! Metrics to rows of `metrics`, one a data point.
//!
//! **Values.** `value` is the value of every gauge and sum as a double, so that SQL on it always
//! works; `value_int` beside it is exact where an integer was sent. A point flagged as having no
//! recorded value keeps its flag and has no values.
//!
//! What names the series of a point is in [`super::series`].

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use weir_data::RejectCode;
use weir_data::streams::{exemplar_fields, quantile_fields};

use super::columns::{Bools, Column, Floats, Ints, Lists, Text, Times, structs};
use super::origin::{Group, Origin};
use super::request::{Fault, Request, RowFault, Under, text};
use super::rows::{RowTimes, Table, other_time, set_id};
use super::series::{Sums, series};
use super::value::{Numbered, write_attributes};
use super::wire::{Fields, Part, Value, each_fixed64, each_varint};
use crate::DecodeError;

/// What one exemplar is counted as beside its texts.
const EXEMPLAR_BYTES: usize = 64;
/// The flag of a point that has no recorded value.
const NO_RECORDED_VALUE: u32 = 1;

/// `AggregationTemporality`, by number; unspecified is null.
pub(super) const TEMPORALITIES: [&str; 3] = ["", "delta", "cumulative"];

/// The columns of `metrics` that are the metric's and the point's own.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    times: RowTimes,
    name: Text,
    unit: Text,
    kind: Text,
    temporality: Text,
    is_monotonic: Bools,
    series: Text,
    start_time: Times,
    value: Floats,
    value_int: Ints,
    count: Ints,
    sum: Floats,
    min: Floats,
    max: Floats,
    bounds: Lists<Floats>,
    bucket_counts: Lists<Ints>,
    scale: Ints,
    zero_count: Ints,
    zero_threshold: Floats,
    positive_offset: Ints,
    positive_counts: Lists<Ints>,
    negative_offset: Ints,
    negative_counts: Lists<Ints>,
    quantiles: Lists<Quantiles>,
    exemplars: Lists<Exemplars>,
    description: Text,
    flags: Ints,
    metadata: Text,
    sums: Sums,
    scratch: String,
}

/// The kinds of metrics, by the number of their field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge = 5,
    Sum = 7,
    Histogram = 9,
    ExponentialHistogram = 10,
    Summary = 11,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Gauge, Self::Sum, Self::Histogram, Self::ExponentialHistogram, Self::Summary];

    fn of_field(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Sum => "sum",
            Self::Histogram => "histogram",
            Self::ExponentialHistogram => "exponential_histogram",
            Self::Summary => "summary",
        }
    }
}

/// What all points of a metric share.
struct Metric<'a> {
    name: &'a str,
    unit: &'a str,
    description: &'a str,
    metadata: String,
    data: Option<(Kind, Part<'a>)>,
    temporality: i32,
    is_monotonic: bool,
}

impl<'a> Metric<'a> {
    fn read(message: &'a [u8], request: &mut Request<'_>) -> Result<Self, Fault> {
        request.check_source(message)?;
        let (mut name, mut unit, mut description): (&[u8], &[u8], &[u8]) = (b"", b"", b"");
        let mut data: Option<(Kind, Part<'a>)> = None;
        let mut has_metadata = false;
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => name = value.len().under("name")?,
                2 => description = value.len().under("description")?,
                3 => unit = value.len().under("unit")?,
                12 => has_metadata = true,
                _ => {
                    if let Some(kind) = Kind::of_field(number) {
                        let slice = value.len().under(kind.name())?;
                        if data.as_ref().is_none_or(|(known, _)| *known != kind) {
                            data = Some((kind, Part::default()));
                        }
                        let copied = data.as_mut().map_or(0, |(_, part)| part.merge(slice));
                        request.charge(copied)?;
                    }
                }
            }
        }
        let mut metric = Self {
            name: text(name, "name")?,
            unit: text(unit, "unit")?,
            description: text(description, "description")?,
            metadata: String::new(),
            data: None,
            temporality: 0,
            is_monotonic: false,
        };
        if has_metadata {
            write_attributes(message, 12, "metadata", &mut metric.metadata, request)?;
        }
        if let Some((kind, part)) = &data {
            metric.read_data(*kind, part).under(kind.name())?;
        }
        metric.data = data;
        Ok(metric)
    }

    /// Reads what stands beside the points, and makes sure that they can be walked.
    fn read_data(&mut self, kind: Kind, part: &Part<'_>) -> Result<(), Fault> {
        let mut fields = Fields::new(part.bytes().unwrap_or_default());
        while let Some((number, value)) = fields.next()? {
            match (number, kind) {
                (1, _) => {
                    value.len().under("data_points")?;
                }
                (2, Kind::Sum | Kind::Histogram | Kind::ExponentialHistogram) => {
                    self.temporality = value.int32().under("aggregation_temporality")?;
                }
                (3, Kind::Sum) => self.is_monotonic = value.bool().under("is_monotonic")?,
                _ => {}
            }
        }
        Ok(())
    }

    /// What each point costs for what it shares.
    fn row_bytes(&self) -> usize {
        // The series and the names of kind and temporality.
        self.name.len() + self.unit.len() + self.description.len() + self.metadata.len() + 64
    }
}

/// How many points a metric that cannot be read seems to hold: what is refused is counted, and a
/// metric is refused as at least one row.
fn count_points(message: &[u8]) -> usize {
    let mut n_points = 0;
    let mut fields = Fields::new(message);
    while let Ok(Some((number, value))) = fields.next() {
        if let (Some(_), Ok(data)) = (Kind::of_field(number), value.len()) {
            let mut points = Fields::new(data);
            while let Ok(Some((number, _))) = points.next() {
                n_points += usize::from(number == 1);
            }
        }
    }
    n_points.max(1)
}

/// The fields that all kinds of points have, whatever their numbers.
#[derive(Debug, Default)]
struct Point {
    start_time: u64,
    time: u64,
    flags: u32,
    value: Option<f64>,
    value_int: Option<i64>,
    count: Option<u64>,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}

impl Metrics {
    fn read(
        &mut self,
        kind: Kind,
        message: &[u8],
        origin: &mut Origin,
        request: &mut Request<'_>,
    ) -> Result<(), Fault> {
        request.check_row(message)?;
        let row = request.rows;
        let point = match kind {
            Kind::Gauge | Kind::Sum => self.read_number(message, origin, request)?,
            Kind::Histogram => self.read_histogram(message, origin, request)?,
            Kind::ExponentialHistogram => self.read_exponential(row, message, origin, request)?,
            Kind::Summary => self.read_summary(message, origin, request)?,
        };
        self.times.set(row, point.time, request.context.received_at);
        self.start_time.set_some(row, other_time(point.start_time));
        self.flags.set_nonzero(row, point.flags);
        let count = point.count.map(signed).transpose().under("count")?;
        if point.flags & NO_RECORDED_VALUE == 0 {
            self.value.set_some(row, point.value);
            self.value_int.set_some(row, point.value_int);
            self.count.set_some(row, count);
            self.sum.set_some(row, point.sum);
            self.min.set_some(row, point.min);
            self.max.set_some(row, point.max);
        }
        self.bounds.end_row(row);
        self.bucket_counts.end_row(row);
        self.positive_counts.end_row(row);
        self.negative_counts.end_row(row);
        self.quantiles.end_row(row);
        self.exemplars.end_row(row);
        Ok(())
    }

    fn read_number(&mut self, message: &[u8], origin: &mut Origin, request: &mut Request<'_>) -> Result<Point, Fault> {
        let mut point = Point::default();
        let mut attributes = Numbered::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                2 => point.start_time = value.fixed64().under("start_time_unix_nano")?,
                3 => point.time = value.fixed64().under("time_unix_nano")?,
                4 => (point.value, point.value_int) = (Some(value.double().under("as_double")?), None),
                5 => self.push_exemplar(value, request)?,
                6 => (point.value, point.value_int) = integer(value.fixed64().under("as_int")?),
                7 => attributes.push(&mut origin.attributes, value, request)?,
                8 => point.flags = value.uint32().under("flags")?,
                _ => {}
            }
        }
        Ok(point)
    }

    fn read_histogram(
        &mut self,
        message: &[u8],
        origin: &mut Origin,
        request: &mut Request<'_>,
    ) -> Result<Point, Fault> {
        let mut point = Point { count: Some(0), ..Point::default() };
        let mut attributes = Numbered::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                2 => point.start_time = value.fixed64().under("start_time_unix_nano")?,
                3 => point.time = value.fixed64().under("time_unix_nano")?,
                4 => point.count = Some(value.fixed64().under("count")?),
                5 => point.sum = Some(value.double().under("sum")?),
                6 => {
                    request.charge(list_bytes(value))?;
                    each_fixed64(value, |count| push_count(&mut self.bucket_counts, count)).under("bucket_counts")?;
                }
                7 => {
                    request.charge(list_bytes(value))?;
                    let push = |bound| {
                        self.bounds.push(f64::from_bits(bound));
                        Ok::<_, Fault>(())
                    };
                    each_fixed64(value, push).under("explicit_bounds")?;
                }
                8 => self.push_exemplar(value, request)?,
                9 => attributes.push(&mut origin.attributes, value, request)?,
                10 => point.flags = value.uint32().under("flags")?,
                11 => point.min = Some(value.double().under("min")?),
                12 => point.max = Some(value.double().under("max")?),
                _ => {}
            }
        }
        Ok(point)
    }

    fn read_exponential(
        &mut self,
        row: usize,
        message: &[u8],
        origin: &mut Origin,
        request: &mut Request<'_>,
    ) -> Result<Point, Fault> {
        let mut point = Point { count: Some(0), ..Point::default() };
        let (mut scale, mut zero_count, mut zero_threshold) = (0, 0, 0.0);
        let (mut positive, mut negative) = (Part::default(), Part::default());
        let mut attributes = Numbered::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => attributes.push(&mut origin.attributes, value, request)?,
                2 => point.start_time = value.fixed64().under("start_time_unix_nano")?,
                3 => point.time = value.fixed64().under("time_unix_nano")?,
                4 => point.count = Some(value.fixed64().under("count")?),
                5 => point.sum = Some(value.double().under("sum")?),
                6 => scale = value.sint32().under("scale")?,
                7 => zero_count = value.fixed64().under("zero_count")?,
                8 => request.charge(positive.merge(value.len().under("positive")?))?,
                9 => request.charge(negative.merge(value.len().under("negative")?))?,
                10 => point.flags = value.uint32().under("flags")?,
                11 => self.push_exemplar(value, request)?,
                12 => point.min = Some(value.double().under("min")?),
                13 => point.max = Some(value.double().under("max")?),
                14 => zero_threshold = value.double().under("zero_threshold")?,
                _ => {}
            }
        }
        self.scale.set(row, i64::from(scale));
        self.zero_count.set(row, signed(zero_count).under("zero_count")?);
        self.zero_threshold.set(row, zero_threshold);
        if let Some(message) = positive.bytes() {
            let offset = read_buckets(message, &mut self.positive_counts, request).under("positive")?;
            self.positive_offset.set(row, i64::from(offset));
        }
        if let Some(message) = negative.bytes() {
            let offset = read_buckets(message, &mut self.negative_counts, request).under("negative")?;
            self.negative_offset.set(row, i64::from(offset));
        }
        Ok(point)
    }

    fn read_summary(&mut self, message: &[u8], origin: &mut Origin, request: &mut Request<'_>) -> Result<Point, Fault> {
        let mut point = Point { count: Some(0), sum: Some(0.0), ..Point::default() };
        let mut attributes = Numbered::default();
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                2 => point.start_time = value.fixed64().under("start_time_unix_nano")?,
                3 => point.time = value.fixed64().under("time_unix_nano")?,
                4 => point.count = Some(value.fixed64().under("count")?),
                5 => point.sum = Some(value.double().under("sum")?),
                6 => {
                    request.charge(16)?;
                    let n = self.quantiles.open_len();
                    self.push_quantile(value).map_err(|fault| fault.under(n).under("quantile_values"))?;
                }
                7 => attributes.push(&mut origin.attributes, value, request)?,
                8 => point.flags = value.uint32().under("flags")?,
                _ => {}
            }
        }
        Ok(point)
    }

    fn push_quantile(&mut self, value: Value<'_>) -> Result<(), Fault> {
        let (mut quantile, mut at) = (0.0, 0.0);
        let mut fields = Fields::new(value.len()?);
        while let Some((number, value)) = fields.next()? {
            match number {
                1 => quantile = value.double().under("quantile")?,
                2 => at = value.double().under("value")?,
                _ => {}
            }
        }
        let element = self.quantiles.elements();
        self.quantiles.items.quantile.set(element, quantile);
        self.quantiles.items.value.set(element, at);
        self.quantiles.end_element();
        Ok(())
    }

    fn push_exemplar(&mut self, value: Value<'_>, request: &mut Request<'_>) -> Result<(), Fault> {
        request.charge(EXEMPLAR_BYTES)?;
        let n = self.exemplars.open_len();
        self.read_exemplar(value, request).map_err(|fault| fault.under(n).under("exemplars"))
    }

    fn read_exemplar(&mut self, value: Value<'_>, request: &mut Request<'_>) -> Result<(), Fault> {
        let message = value.len()?;
        let (element, exemplars) = (self.exemplars.elements(), &mut self.exemplars.items);
        let (mut time, mut double, mut int) = (0, None, None);
        let (mut trace_id, mut span_id): (&[u8], &[u8]) = (b"", b"");
        let mut has_attributes = false;
        let mut fields = Fields::new(message);
        while let Some((number, value)) = fields.next()? {
            match number {
                2 => time = value.fixed64().under("time_unix_nano")?,
                3 => (double, int) = (Some(value.double().under("as_double")?), None),
                4 => span_id = value.len().under("span_id")?,
                5 => trace_id = value.len().under("trace_id")?,
                6 => (double, int) = integer(value.fixed64().under("as_int")?),
                7 => has_attributes = true,
                _ => {}
            }
        }
        request.charge(2 * (trace_id.len() + span_id.len()))?;
        exemplars.time.set_some(element, other_time(time));
        exemplars.value.set_some(element, double);
        exemplars.value_int.set_some(element, int);
        set_id(&mut exemplars.trace_id, element, trace_id, 16).under("trace_id")?;
        set_id(&mut exemplars.span_id, element, span_id, 8).under("span_id")?;
        if has_attributes {
            self.scratch.clear();
            write_attributes(message, 7, "filtered_attributes", &mut self.scratch, request)?;
            exemplars.attributes.set(element, &self.scratch);
        }
        self.exemplars.end_element();
        Ok(())
    }

    /// Refuses a metric whose points cannot be told apart, as the rows it seems to hold.
    #[cold]
    fn refuse_metric(message: &[u8], fault: &RowFault, request: &mut Request<'_>) -> Result<(), DecodeError> {
        for _ in 0..count_points(message) {
            request.receive()?;
            request.refuse(message, fault)?;
        }
        Ok(())
    }
}

/// An integer value, and the same as a double.
#[allow(clippy::cast_precision_loss, reason = "the exact value stands beside it")]
fn integer(bits: u64) -> (Option<f64>, Option<i64>) {
    let value = bits.cast_signed();
    (Some(value as f64), Some(value))
}

/// A count as the signed integer SQL has.
fn signed(count: u64) -> Result<i64, Fault> {
    i64::try_from(count).map_err(|_| Fault::row(RejectCode::OutOfRange, format!("{count} is above {}", i64::MAX)))
}

fn push_count(list: &mut Lists<Ints>, count: u64) -> Result<(), Fault> {
    list.push(signed(count)?);
    Ok(())
}

/// At least what the elements of a repeated numeric field take decoded.
fn list_bytes(value: Value<'_>) -> usize {
    if let Value::Len(bytes) = value { bytes.len() } else { 8 }
}

/// Reads the buckets of an exponential histogram and gives their offset.
fn read_buckets(message: &[u8], counts: &mut Lists<Ints>, request: &mut Request<'_>) -> Result<i32, Fault> {
    let mut offset = 0;
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => offset = value.sint32().under("offset")?,
            2 => {
                // A varint of one byte becomes eight.
                request.charge(list_bytes(value).saturating_mul(8))?;
                each_varint(value, |count| push_count(counts, count)).under("bucket_counts")?;
            }
            _ => {}
        }
    }
    Ok(offset)
}

impl Table for Metrics {
    const STREAM: &'static str = "metrics";
    const NOUN: &'static str = "metric";

    fn item(
        &mut self,
        message: &[u8],
        origin: &mut Origin,
        groups: [&Group; 2],
        request: &mut Request<'_>,
    ) -> Result<(), DecodeError> {
        let metric = match Metric::read(message, request) {
            Ok(metric) => metric,
            Err(Fault::Stop(error)) => return Err(*error),
            Err(Fault::Row(fault)) => return Self::refuse_metric(message, &fault, request),
        };
        let Some((kind, data)) = &metric.data else { return Ok(()) };
        let kind = *kind;
        let first_row = request.rows;
        let [resource, scope] = groups;
        let row_bytes = resource.row_bytes + scope.row_bytes + metric.row_bytes();
        let mut points = Fields::new(data.bytes().unwrap_or_default());
        while let Some((number, value)) = points.next().map_err(|broken| request.malformed(message, broken))? {
            let (1, Value::Len(point)) = (number, value) else { continue };
            request.receive()?;
            if let Some(fault) = resource.fault.as_ref().or(scope.fault.as_ref()) {
                request.refuse(point, fault)?;
                continue;
            }
            request.charge(row_bytes)?;
            match self.read(kind, point, origin, request) {
                Ok(()) => {
                    let sum = self.sums.of_open_row(&origin.attributes);
                    let series = series(groups, metric.name, kind.name(), sum);
                    self.series.set_hex(request.rows, &series.to_be_bytes());
                    origin.attributes.end_row();
                    request.rows += 1;
                }
                Err(Fault::Stop(error)) => return Err(*error),
                Err(Fault::Row(fault)) => {
                    origin.truncate(request.rows);
                    self.truncate(request.rows);
                    request.refuse(point, &fault)?;
                }
            }
        }
        let n_rows = request.rows - first_row;
        self.name.fill(first_row, metric.name, n_rows);
        self.unit.fill(first_row, metric.unit, n_rows);
        self.kind.fill(first_row, kind.name(), n_rows);
        self.description.fill(first_row, metric.description, n_rows);
        self.metadata.fill(first_row, &metric.metadata, n_rows);
        match usize::try_from(metric.temporality).ok().and_then(|number| TEMPORALITIES.get(number)) {
            Some(name) => self.temporality.fill(first_row, name, n_rows),
            None => self.temporality.fill(first_row, &metric.temporality.to_string(), n_rows),
        }
        if kind == Kind::Sum && n_rows > 0 {
            self.is_monotonic.fill(first_row, metric.is_monotonic, n_rows);
        }
        Ok(())
    }

    fn truncate(&mut self, rows: usize) {
        // The metric's own columns are filled when its points are done.
        self.times.truncate(rows);
        self.series.truncate(rows);
        self.start_time.truncate(rows);
        self.value.truncate(rows);
        self.value_int.truncate(rows);
        self.count.truncate(rows);
        self.sum.truncate(rows);
        self.min.truncate(rows);
        self.max.truncate(rows);
        self.bounds.truncate(rows);
        self.bucket_counts.truncate(rows);
        self.scale.truncate(rows);
        self.zero_count.truncate(rows);
        self.zero_threshold.truncate(rows);
        self.positive_offset.truncate(rows);
        self.positive_counts.truncate(rows);
        self.negative_offset.truncate(rows);
        self.negative_counts.truncate(rows);
        self.quantiles.truncate(rows);
        self.exemplars.truncate(rows);
        self.flags.truncate(rows);
    }

    fn finish(mut self, origin: Vec<Option<ArrayRef>>, request: &Request<'_>) -> Vec<Option<ArrayRef>> {
        let rows = request.rows;
        let mut columns = self.times.finish(rows, request.context.received_at);
        columns.extend([
            self.name.finish(rows),
            self.unit.finish(rows),
            self.kind.finish(rows),
            self.temporality.finish(rows),
            self.is_monotonic.finish(rows),
            self.series.finish(rows),
            self.start_time.finish(rows),
            self.value.finish(rows),
            self.value_int.finish(rows),
            self.count.finish(rows),
            self.sum.finish(rows),
            self.min.finish(rows),
            self.max.finish(rows),
            self.bounds.finish(rows, DataType::Float64),
            self.bucket_counts.finish(rows, DataType::Int64),
            self.scale.finish(rows),
            self.zero_count.finish(rows),
            self.zero_threshold.finish(rows),
            self.positive_offset.finish(rows),
            self.positive_counts.finish(rows, DataType::Int64),
            self.negative_offset.finish(rows),
            self.negative_counts.finish(rows, DataType::Int64),
            self.quantiles.finish(rows, DataType::Struct(quantile_fields())),
            self.exemplars.finish(rows, DataType::Struct(exemplar_fields())),
        ]);
        columns.extend(origin);
        columns.extend([self.description.finish(rows), self.flags.finish(rows), self.metadata.finish(rows)]);
        columns
    }
}

/// Elements of `quantiles`.
#[derive(Debug, Default)]
struct Quantiles {
    quantile: Floats,
    value: Floats,
}

impl Column for Quantiles {
    fn truncate(&mut self, rows: usize) {
        self.quantile.truncate(rows);
        self.value.truncate(rows);
    }

    fn finish(&mut self, rows: usize) -> Option<ArrayRef> {
        Some(structs(quantile_fields(), vec![self.quantile.finish(rows), self.value.finish(rows)], rows))
    }
}

/// Elements of `exemplars`.
#[derive(Debug, Default)]
struct Exemplars {
    time: Times,
    value: Floats,
    value_int: Ints,
    trace_id: Text,
    span_id: Text,
    attributes: Text,
}

impl Column for Exemplars {
    fn truncate(&mut self, rows: usize) {
        self.time.truncate(rows);
        self.value.truncate(rows);
        self.value_int.truncate(rows);
        self.trace_id.truncate(rows);
        self.span_id.truncate(rows);
        self.attributes.truncate(rows);
    }

    fn finish(&mut self, rows: usize) -> Option<ArrayRef> {
        let columns = vec![
            self.time.finish(rows),
            self.value.finish(rows),
            self.value_int.finish(rows),
            self.trace_id.finish(rows),
            self.span_id.finish(rows),
            self.attributes.finish(rows),
        ];
        Some(structs(exemplar_fields(), columns, rows))
    }
}
