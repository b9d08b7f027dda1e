//! Rows of `metrics` as metrics and their points.
//!
//! A row without a `type` is a point of a gauge: what a pipeline counts needs a `name` and a `value` and no more.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::error::ArrowError;

use super::spans::{int_of, text_of, time_of};
use super::value::write_object;
use super::wire::Writer;
use super::{
    Attributes, Columns, Floats, Ints, Items, Texts, Times, Unfit, elements, enum_number, id, member, put_key,
};
use crate::otlp::metrics::{Kind, TEMPORALITIES};

/// The columns of `metrics` that are the metric's and the point's own.
pub(super) struct Metrics {
    time: Times,
    start_time: Times,
    name: Texts,
    unit: Texts,
    kind: Texts,
    temporality: Texts,
    is_monotonic: Option<BooleanArray>,
    value: Floats,
    value_int: Ints,
    count: Ints,
    sum: Floats,
    min: Floats,
    max: Floats,
    bounds: Option<ArrayRef>,
    bucket_counts: Option<ArrayRef>,
    scale: Ints,
    zero_count: Ints,
    zero_threshold: Floats,
    positive_offset: Ints,
    positive_counts: Option<ArrayRef>,
    negative_offset: Ints,
    negative_counts: Option<ArrayRef>,
    quantiles: Option<ArrayRef>,
    exemplars: Option<ArrayRef>,
    attributes: Attributes,
    description: Texts,
    flags: Ints,
    metadata: Texts,
}

impl Metrics {
    pub(super) fn new(columns: &Columns<'_>) -> Result<Self, ArrowError> {
        let array = |name: &str| columns.array(name).cloned();
        Ok(Self {
            time: columns.numbers("time"),
            start_time: columns.numbers("start_time"),
            name: columns.text("name"),
            unit: columns.text("unit"),
            kind: columns.text("type"),
            temporality: columns.text("temporality"),
            is_monotonic: columns.array("is_monotonic").and_then(|column| column.as_boolean_opt()).cloned(),
            value: columns.numbers("value"),
            value_int: columns.numbers("value_int"),
            count: columns.numbers("count"),
            sum: columns.numbers("sum"),
            min: columns.numbers("min"),
            max: columns.numbers("max"),
            bounds: array("bounds"),
            bucket_counts: array("bucket_counts"),
            scale: columns.numbers("scale"),
            zero_count: columns.numbers("zero_count"),
            zero_threshold: columns.numbers("zero_threshold"),
            positive_offset: columns.numbers("positive_offset"),
            positive_counts: array("positive_counts"),
            negative_offset: columns.numbers("negative_offset"),
            negative_counts: array("negative_counts"),
            quantiles: array("quantiles"),
            exemplars: array("exemplars"),
            attributes: columns.attributes("attributes"),
            description: columns.text("description"),
            flags: columns.numbers("flags"),
            metadata: columns.text("metadata"),
        })
    }

    fn kind(&self, row: usize) -> Result<Kind, Unfit> {
        let Some(name) = self.kind.get(row).filter(|name| !name.is_empty()) else { return Ok(Kind::Gauge) };
        Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("type is `{shown}`, not one of {}", known.join(", "))
        })
    }

    fn temporality(&self, row: usize) -> Result<u64, Unfit> {
        enum_number(self.temporality.get(row), &TEMPORALITIES, "temporality")
    }

    fn is_monotonic(&self, row: usize) -> bool {
        self.is_monotonic.as_ref().is_some_and(|column| column.is_valid(row) && column.value(row))
    }

    /// What points of one metric share.
    fn key(&self, row: usize, key: &mut Vec<u8>) {
        for texts in [&self.name, &self.unit, &self.kind, &self.temporality, &self.description, &self.metadata] {
            put_key(key, texts.get(row));
        }
        key.push(u8::from(self.is_monotonic(row)));
    }

    fn write_metric(&self, rows: &[usize], columns: &Columns<'_>, out: &mut Writer) {
        let Some(first) = rows.first().copied() else { return };
        let Ok(kind) = self.kind(first) else { return };
        out.text(1, self.name.get(first));
        out.text(2, self.description.get(first));
        out.text(3, self.unit.get(first));
        out.message(kind as u32, |out| {
            for row in rows.iter().copied() {
                out.message(1, |out| self.write_point(kind, row, columns, out));
            }
            if matches!(kind, Kind::Sum | Kind::Histogram | Kind::ExponentialHistogram) {
                out.nonzero(2, self.temporality(first).unwrap_or(0));
            }
            if kind == Kind::Sum {
                out.nonzero(3, u64::from(self.is_monotonic(first)));
            }
        });
        if let Some(metadata) = self.metadata.get(first) {
            write_object(12, metadata, out);
        }
    }

    fn write_point(&self, kind: Kind, row: usize, columns: &Columns<'_>, out: &mut Writer) {
        out.time(2, self.start_time.unix_nano(row));
        out.time(3, self.time.unix_nano(row));
        let flags = u64::try_from(self.flags.get(row).unwrap_or(0)).unwrap_or(0);
        let double = |out: &mut Writer, field: u32, value: Option<f64>| {
            if let Some(value) = value {
                out.double(field, value);
            }
        };
        let count = self.count.get(row).unwrap_or(0).cast_unsigned();
        match kind {
            Kind::Gauge | Kind::Sum => {
                columns.write_attributes(&self.attributes, row, 7, out);
                // The integer is exact, and the double beside it is the same.
                match self.value_int.get(row) {
                    Some(value) => out.fixed64(6, value.cast_unsigned()),
                    None => double(out, 4, self.value.get(row)),
                }
                self.write_exemplars(5, row, out);
                out.nonzero(8, flags);
            }
            Kind::Histogram => {
                columns.write_attributes(&self.attributes, row, 9, out);
                out.time(4, count);
                double(out, 5, self.sum.get(row));
                let counts = elements(self.bucket_counts.as_ref(), row);
                write_fixed64s(6, &whole_numbers(counts.as_ref()), out);
                let bounds = elements(self.bounds.as_ref(), row);
                let bounds = bounds.as_ref().and_then(|bounds| bounds.as_primitive_opt::<Float64Type>());
                let bounds: Vec<u64> = bounds
                    .map(|bounds| bounds.values().iter().map(|bound| bound.to_bits()).collect())
                    .unwrap_or_default();
                write_fixed64s(7, &bounds, out);
                self.write_exemplars(8, row, out);
                out.nonzero(10, flags);
                double(out, 11, self.min.get(row));
                double(out, 12, self.max.get(row));
            }
            Kind::ExponentialHistogram => {
                columns.write_attributes(&self.attributes, row, 1, out);
                out.time(4, count);
                double(out, 5, self.sum.get(row));
                out.sint32(6, int32(self.scale.get(row)));
                out.time(7, self.zero_count.get(row).unwrap_or(0).cast_unsigned());
                write_buckets(8, self.positive_offset.get(row), elements(self.positive_counts.as_ref(), row), out);
                write_buckets(9, self.negative_offset.get(row), elements(self.negative_counts.as_ref(), row), out);
                out.nonzero(10, flags);
                self.write_exemplars(11, row, out);
                double(out, 12, self.min.get(row));
                double(out, 13, self.max.get(row));
                double(out, 14, self.zero_threshold.get(row).filter(|threshold| threshold.to_bits() != 0));
            }
            Kind::Summary => {
                columns.write_attributes(&self.attributes, row, 7, out);
                out.time(4, count);
                double(out, 5, self.sum.get(row));
                if let Some(quantiles) = elements(self.quantiles.as_ref(), row) {
                    for at in 0..quantiles.len() {
                        out.message(6, |out| {
                            double(out, 1, float_of(quantiles.as_ref(), "quantile", at));
                            double(out, 2, float_of(quantiles.as_ref(), "value", at));
                        });
                    }
                }
                out.nonzero(8, flags);
            }
        }
    }

    fn write_exemplars(&self, field: u32, row: usize, out: &mut Writer) {
        let Some(exemplars) = elements(self.exemplars.as_ref(), row) else { return };
        let exemplars = exemplars.as_ref();
        for at in 0..exemplars.len() {
            out.message(field, |out| {
                out.time(2, time_of(exemplars, "time", at));
                match (int_of(exemplars, "value_int", at), float_of(exemplars, "value", at)) {
                    (Some(value), _) => out.fixed64(6, value.cast_unsigned()),
                    (None, Some(value)) => out.double(3, value),
                    (None, None) => {}
                }
                let (trace_id, span_id) = exemplar_ids(exemplars, at).unwrap_or_default();
                out.some_bytes(4, &span_id);
                out.some_bytes(5, &trace_id);
                if let Some(attributes) = text_of(exemplars, "attributes", at) {
                    write_object(7, attributes, out);
                }
            });
        }
    }
}

impl Items for Metrics {
    fn check(&self, row: usize) -> Result<(), Unfit> {
        self.kind(row)?;
        self.temporality(row)?;
        if let Some(exemplars) = elements(self.exemplars.as_ref(), row) {
            for at in 0..exemplars.len() {
                exemplar_ids(exemplars.as_ref(), at).map_err(|reason| format!("exemplars/{at}: {reason}"))?;
            }
        }
        Ok(())
    }

    fn write(&self, rows: &[usize], columns: &Columns<'_>, out: &mut Writer) {
        let (mut key, mut last) = (Vec::new(), Vec::new());
        let mut begun = 0;
        for at in 0..=rows.len() {
            key.clear();
            if let Some(row) = rows.get(at) {
                self.key(*row, &mut key);
            }
            if at > begun && (at == rows.len() || key != last) {
                out.message(2, |out| self.write_metric(&rows[begun..at], columns, out));
                begun = at;
            }
            std::mem::swap(&mut key, &mut last);
        }
    }
}

fn int32(value: Option<i64>) -> i32 {
    let value = value.unwrap_or(0);
    i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX })
}

fn float_of(structs: &dyn Array, name: &str, at: usize) -> Option<f64> {
    let numbers = member(structs, name, &DataType::Float64)?.as_primitive_opt::<Float64Type>()?;
    numbers.is_valid(at).then(|| numbers.value(at))
}

fn exemplar_ids(exemplars: &dyn Array, at: usize) -> Result<(Vec<u8>, Vec<u8>), Unfit> {
    Ok((id(text_of(exemplars, "trace_id", at), 16)?, id(text_of(exemplars, "span_id", at), 8)?))
}

/// Counts, which are not negative.
fn whole_numbers(counts: Option<&ArrayRef>) -> Vec<u64> {
    let counts = counts.and_then(|counts| counts.as_primitive_opt::<Int64Type>());
    counts.map(|counts| counts.values().iter().map(|count| count.cast_unsigned()).collect()).unwrap_or_default()
}

fn write_fixed64s(field: u32, values: &[u64], out: &mut Writer) {
    if !values.is_empty() {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        out.bytes(field, &bytes);
    }
}

fn write_buckets(field: u32, offset: Option<i64>, counts: Option<ArrayRef>, out: &mut Writer) {
    if offset.is_none() && counts.is_none() {
        return;
    }
    out.message(field, |out| {
        out.sint32(1, int32(offset));
        let counts = whole_numbers(counts.as_ref());
        if !counts.is_empty() {
            out.varints(2, &counts);
        }
    });
}
