//! `approx_percentile_cont(x, p)` and `approx_median(x)` of pipelines: percentiles with a relative error of 1 %.
//!
//! Values are counted in buckets whose bounds grow by a constant factor, after "DDSketch: a fast and fully-mergeable
//! quantile sketch with relative-error guarantees" (Masson, Rim and Lee, 2019). Counting is the same in any order, so
//! the result is, too. There are [`BUCKETS_MAX`] buckets of either sign at most: values more than 10^35 times nearer
//! to zero than the largest are counted as if they were at that bound.

use std::collections::BTreeMap;
use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};

use super::constant;

/// How far from the right value a result may be, as a part of it.
const ERROR: f64 = 0.01;
/// The most buckets of either sign.
const BUCKETS_MAX: i32 = 4096;
/// The first byte of a state.
const FORMAT: u8 = 1;

/// A percentile, or the median.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Percentile {
    name: &'static str,
    signature: Signature,
}

impl Percentile {
    pub(super) fn new() -> Self {
        Self { name: "approx_percentile_cont", signature: Signature::user_defined(Volatility::Immutable) }
    }

    pub(super) fn median() -> Self {
        Self { name: "approx_median", signature: Signature::user_defined(Volatility::Immutable) }
    }

    fn is_median(&self) -> bool {
        self.name == "approx_median"
    }
}

impl AggregateUDFImpl for Percentile {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let wanted = if self.is_median() { 1 } else { 2 };
        if arguments.len() != wanted {
            return plan_err!(
                "{} takes {wanted} argument{}",
                self.name,
                if wanted == 1 { "" } else { "s: a value, and a percentile from 0 to 1" }
            );
        }
        match arguments.iter().find(|argument| !argument.is_numeric() && !argument.is_null()) {
            Some(other) => plan_err!("{} is of numbers, not of {other}", self.name),
            None => Ok(vec![DataType::Float64; wanted]),
        }
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "buckets"), DataType::Binary, true))])
    }

    fn supports_within_group_clause(&self) -> bool {
        !self.is_median()
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("{} counts every value as often as it comes", self.name);
        }
        let percentile = if self.is_median() { 0.5 } else { percentile(&args, self.name)? };
        let is_descending = args.order_bys.first().is_some_and(|order| order.options.descending);
        let percentile = if is_descending { 1.0 - percentile } else { percentile };
        Ok(Box::new(Sketch { percentile, buckets: Buckets::default() }))
    }
}

fn percentile(args: &AccumulatorArgs, name: &str) -> Result<f64> {
    let value = constant(args.exprs.get(1), name, "the percentile")?;
    match value.cast_to(&DataType::Float64)? {
        ScalarValue::Float64(Some(percentile)) if (0.0..=1.0).contains(&percentile) => Ok(percentile),
        _ => plan_err!("a percentile is from 0 to 1, such as 0.95"),
    }
}

/// Values counted by their size.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Buckets {
    /// How many are zero.
    zeros: u64,
    min: f64,
    max: f64,
    /// By bucket, of values above and of values below zero.
    above: BTreeMap<i32, u64>,
    below: BTreeMap<i32, u64>,
}

impl Default for Buckets {
    fn default() -> Self {
        let (above, below) = (BTreeMap::new(), BTreeMap::new());
        Self { zeros: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, above, below }
    }
}

/// The factor between the bounds of a bucket.
fn factor() -> f64 {
    (1.0 + ERROR) / (1.0 - ERROR)
}

/// The bucket of a size above zero.
fn bucket_of(size: f64) -> i32 {
    // Below 10^5 for all there are, so nothing is cut off.
    #[expect(clippy::cast_possible_truncation, reason = "the logarithm of a double is small")]
    let bucket = (size.min(f64::MAX).ln() / factor().ln()).ceil() as i32;
    bucket
}

/// The value that is nearest to all of a bucket, relatively.
fn value_of(bucket: i32) -> f64 {
    (f64::from(bucket) * factor().ln()).exp() * 2.0 / (factor() + 1.0)
}

/// Counts values of a bucket. Buckets too far below the highest one are put together.
fn count(buckets: &mut BTreeMap<i32, u64>, bucket: i32, n_values: u64) {
    let lowest = buckets.last_key_value().map_or(i32::MIN, |(last, _)| last.saturating_sub(BUCKETS_MAX - 1));
    *buckets.entry(bucket.max(lowest)).or_default() += n_values;
    let lowest = bucket.saturating_sub(BUCKETS_MAX - 1);
    while let Some(first) = buckets.first_entry().filter(|first| *first.key() < lowest) {
        let n_values = first.remove();
        *buckets.entry(lowest).or_default() += n_values;
    }
}

impl Buckets {
    pub(super) fn add(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if value > 0.0 {
            count(&mut self.above, bucket_of(value), 1);
        } else if value < 0.0 {
            count(&mut self.below, bucket_of(-value), 1);
        } else {
            self.zeros += 1;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.zeros += other.zeros;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        // From the highest on, so that what is put together is so once.
        other.above.iter().rev().for_each(|(bucket, n_values)| count(&mut self.above, *bucket, *n_values));
        other.below.iter().rev().for_each(|(bucket, n_values)| count(&mut self.below, *bucket, *n_values));
    }

    fn total(&self) -> u64 {
        self.zeros + self.above.values().sum::<u64>() + self.below.values().sum::<u64>()
    }

    /// The value at a percentile; `None` if there is no value.
    pub(super) fn at(&self, percentile: f64) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank is a whole number from 0 to the number of values"
        )]
        let rank = (percentile * (total - 1) as f64).floor() as u64;
        if rank == 0 {
            return Some(self.min);
        }
        if rank + 1 >= total {
            return Some(self.max);
        }
        let below = self.below.iter().rev().map(|(bucket, n_values)| (-value_of(*bucket), *n_values));
        let zeros = std::iter::once((0.0, self.zeros));
        let above = self.above.iter().map(|(bucket, n_values)| (value_of(*bucket), *n_values));
        let mut seen = 0;
        let at = below.chain(zeros).chain(above).find(|(_, n_values)| {
            seen += n_values;
            seen > rank
        });
        at.map(|(value, _)| value.clamp(self.min, self.max))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend(self.zeros.to_le_bytes());
        bytes.extend(self.min.to_le_bytes());
        bytes.extend(self.max.to_le_bytes());
        for buckets in [&self.above, &self.below] {
            bytes.extend((buckets.len() as u64).to_le_bytes());
            for (bucket, n_values) in buckets {
                bytes.extend(bucket.to_le_bytes());
                bytes.extend(n_values.to_le_bytes());
            }
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reading = Reading(bytes);
        if reading.take::<1>()? != [FORMAT] {
            return None;
        }
        let zeros = u64::from_le_bytes(reading.take()?);
        let (min, max) = (f64::from_le_bytes(reading.take()?), f64::from_le_bytes(reading.take()?));
        let mut parts = [BTreeMap::new(), BTreeMap::new()];
        for part in &mut parts {
            for _ in 0..u64::from_le_bytes(reading.take()?) {
                part.insert(i32::from_le_bytes(reading.take()?), u64::from_le_bytes(reading.take()?));
            }
        }
        let [above, below] = parts;
        reading.0.is_empty().then_some(Self { zeros, min, max, above, below })
    }
}

/// What is left of bytes that are read.
pub(super) struct Reading<'a>(pub(super) &'a [u8]);

impl<'a> Reading<'a> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    pub(super) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

#[derive(Debug)]
struct Sketch {
    percentile: f64,
    buckets: Buckets,
}

impl Accumulator for Sketch {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = cast(&values[0], &DataType::Float64)?;
        values.as_primitive::<Float64Type>().iter().flatten().for_each(|value| self.buckets.add(value));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.buckets.at(self.percentile)))
    }

    fn size(&self) -> usize {
        let n_buckets = self.buckets.above.len() + self.buckets.below.len();
        size_of_val(self) + n_buckets * 2 * size_of::<(i32, u64)>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Binary(Some(self.buckets.bytes()))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let states = states[0].as_binary::<i32>();
        for state in states.iter().flatten() {
            let other =
                Buckets::parse(state).ok_or_else(|| exec_datafusion_err!("this is no state of a percentile"))?;
            self.buckets.merge(&other);
        }
        Ok(())
    }
}
