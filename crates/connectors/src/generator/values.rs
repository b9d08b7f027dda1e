//! Made-up values of one column.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field};
use serde_json::Value as Json;
use weir_base::Timestamp;
use weir_codecs::rows::{ColumnType, EpochUnit, timestamp};
use weir_component::spec::Fault;

use super::ColumnGenerator;

/// The first moment if nothing else is said: 2026-01-01T00:00:00Z.
const START: Timestamp = Timestamp(1_767_225_600_000_000_000);

/// What a column holds, as a function of the row.
#[derive(Clone, Debug)]
pub(super) struct Values {
    kind: Kind,
    /// Of the seed and the column.
    salt: u64,
}

#[derive(Clone, Debug)]
enum Kind {
    Sequence {
        start: i64,
        step: i64,
    },
    Ints {
        min: i64,
        max: i64,
    },
    Floats {
        min: f64,
        max: f64,
    },
    IntChoice(Vec<Option<i64>>),
    FloatChoice(Vec<Option<f64>>),
    BoolChoice(Vec<Option<bool>>),
    TextChoice(Vec<Option<String>>),
    /// `None`: from when the pipeline was first started.
    Moments {
        start: Option<Timestamp>,
        every: u128,
        disorder: u64,
    },
}

/// SplitMix64: each number to another that looks unrelated.
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number below `options`.
fn below(options: u128, random: u64) -> u128 {
    (u128::from(random) * options) >> 64
}

impl Values {
    /// The values of the `column`-th column.
    pub(super) fn new(generator: &ColumnGenerator, seed: u64, column: u64, rate: Option<u64>) -> Result<Self, Fault> {
        let kind = match generator {
            ColumnGenerator::Sequence(sequence) => Kind::Sequence { start: sequence.start, step: sequence.step },
            ColumnGenerator::Uniform(uniform) => match (uniform.min.as_i64(), uniform.max.as_i64()) {
                (Some(min), Some(max)) if min <= max => Kind::Ints { min, max },
                _ => match (uniform.min.as_f64(), uniform.max.as_f64()) {
                    (Some(min), Some(max)) if min <= max && (max - min).is_finite() => Kind::Floats { min, max },
                    _ => return Err(Fault::new("/uniform", "`min` is more than `max`", "")),
                },
            },
            ColumnGenerator::Choice(values) => choice(values)?,
            ColumnGenerator::Timestamp(moments) => {
                let start = match moments.start.as_deref() {
                    None => Some(START),
                    Some("now") => None,
                    Some(text) => Some(timestamp(text).ok_or_else(|| {
                        let hint = "write RFC 3339, such as 2026-01-01T00:00:00Z, or now";
                        Fault::new("/timestamp/start", format!("`{text}` is not a time"), hint)
                    })?),
                };
                let every = match (moments.every, rate) {
                    (Some(every), _) => every.0.as_nanos(),
                    (None, Some(rate)) => u128::from(1_000_000_000 / rate.max(1)),
                    (None, None) => 1_000_000,
                };
                let disorder = u64::try_from(moments.disorder.0.as_nanos()).unwrap_or(u64::MAX);
                Kind::Moments { start, every, disorder }
            }
        };
        Ok(Self { kind, salt: mixed(mixed(seed).wrapping_add(column)) })
    }

    /// The field of the column.
    pub(super) fn field(&self, name: &str) -> Field {
        let field = match self.kind {
            Kind::Sequence { .. } | Kind::Ints { .. } | Kind::IntChoice(_) => ColumnType::Int64,
            Kind::Floats { .. } | Kind::FloatChoice(_) => ColumnType::Float64,
            Kind::BoolChoice(_) => ColumnType::Bool,
            Kind::TextChoice(_) => ColumnType::Text,
            Kind::Moments { .. } => ColumnType::Timestamp(EpochUnit::ByMagnitude),
        }
        .field(name);
        debug_assert_ne!(field.data_type(), &DataType::Null, "every kind has a type");
        field
    }

    /// The values of `count` rows from row `first` of a pipeline that first started at `began`.
    pub(super) fn rows(&self, first: u64, count: usize, began: Timestamp) -> ArrayRef {
        let rows = first..first.saturating_add(count as u64);
        let random = |row: u64| mixed(self.salt ^ row);
        match &self.kind {
            Kind::Sequence { start, step } => {
                let value = |row: u64| start.wrapping_add(step.wrapping_mul(row.cast_signed()));
                Arc::new(Int64Array::from_iter_values(rows.map(value)))
            }
            Kind::Ints { min, max } => {
                let options = u128::from(max.wrapping_sub(*min).cast_unsigned()) + 1;
                #[expect(clippy::cast_possible_truncation, reason = "it is at most the distance of two i64")]
                let value = |row| min.wrapping_add((below(options, random(row)) as u64).cast_signed());
                Arc::new(Int64Array::from_iter_values(rows.map(value)))
            }
            Kind::Floats { min, max } => {
                // 53 bits are all a double between 0 and 1 has.
                let unit = |row| (random(row) >> 11) as f64 / (1_u64 << 53) as f64;
                Arc::new(Float64Array::from_iter_values(rows.map(|row| min + (max - min) * unit(row))))
            }
            Kind::IntChoice(values) => Arc::new(Int64Array::from_iter(rows.map(|row| *one_of(values, random(row))))),
            Kind::FloatChoice(values) => {
                Arc::new(Float64Array::from_iter(rows.map(|row| *one_of(values, random(row)))))
            }
            Kind::BoolChoice(values) => Arc::new(BooleanArray::from_iter(rows.map(|row| *one_of(values, random(row))))),
            Kind::TextChoice(values) => {
                Arc::new(StringArray::from_iter(rows.map(|row| one_of(values, random(row)).as_deref())))
            }
            Kind::Moments { start, every, disorder } => {
                let start = i128::from(start.unwrap_or(began).0);
                #[expect(clippy::cast_possible_wrap, reason = "both are far below the end of i128")]
                let value = |row: u64| {
                    let on_time = start + (every.saturating_mul(u128::from(row)).min(u128::MAX >> 2)) as i128;
                    let early = below(u128::from(*disorder) + 1, random(row)) as i128;
                    i64::try_from(on_time - early).unwrap_or(i64::MAX)
                };
                Arc::new(TimestampNanosecondArray::from_iter_values(rows.map(value)).with_timezone("UTC"))
            }
        }
    }
}

fn one_of<T>(values: &[T], random: u64) -> &T {
    &values[usize::try_from(below(values.len() as u128, random)).unwrap_or(0)]
}

fn choice(values: &[Json]) -> Result<Kind, Fault> {
    let given: Vec<&Json> = values.iter().filter(|value| !value.is_null()).collect();
    if given.is_empty() {
        return Err(Fault::new("/choice", "there is nothing to choose from", "list at least one value"));
    }
    Ok(match () {
        () if given.iter().all(|value| value.is_string()) => {
            Kind::TextChoice(values.iter().map(|value| value.as_str().map(str::to_owned)).collect())
        }
        () if given.iter().all(|value| value.is_i64()) => Kind::IntChoice(values.iter().map(Json::as_i64).collect()),
        () if given.iter().all(|value| value.is_number()) => {
            Kind::FloatChoice(values.iter().map(Json::as_f64).collect())
        }
        () if given.iter().all(|value| value.is_boolean()) => {
            Kind::BoolChoice(values.iter().map(Json::as_bool).collect())
        }
        () => {
            return Err(Fault::new(
                "/choice",
                "the values are not of one kind",
                "all texts, all numbers or all booleans",
            ));
        }
    })
}
