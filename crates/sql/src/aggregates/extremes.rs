//! `min` and `max` of floating point numbers, for which a NaN is greater than every other number: as in `ORDER BY`, and as in
//! PostgreSQL.
//!
//! DataFusion's compare the numbers of a group with `<`, so a NaN makes a group forget all that came before it, and what the group
//! comes to depends on the order of its rows. Here its accumulators see whole numbers in their place that are in the wanted order.
//! States and results are numbers as before.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};

/// The function with that order, if it is one of the two.
pub(crate) fn ordered(function: Arc<AggregateUDF>) -> Arc<AggregateUDF> {
    match function.name() {
        "min" | "max" => Arc::new(AggregateUDF::from(Extreme(function))),
        _ => function,
    }
}

/// `min` or `max`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme(Arc<AggregateUDF>);

impl Extreme {
    /// Arguments of an accumulator of the numbers that stand for those of `args`.
    fn of_places<T>(&self, args: &AccumulatorArgs, make: impl FnOnce(AccumulatorArgs) -> Result<T>) -> Result<T> {
        let return_field: FieldRef = Arc::new(Field::new(args.return_field.name(), DataType::Int64, true));
        make(AccumulatorArgs { return_field, ..args.clone() })
    }
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(arguments)
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.0.return_type(arguments)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.0.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let Some(kind) = float(&args) else { return self.0.accumulator(args) };
        let inner = self.of_places(&args, |args| self.0.accumulator(args))?;
        Ok(Box::new(OfPlaces { kind, inner }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let Some(kind) = float(&args) else { return self.0.create_sliding_accumulator(args) };
        let inner = self.of_places(&args, |args| self.0.create_sliding_accumulator(args))?;
        Ok(Box::new(OfPlaces { kind, inner }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let Some(kind) = float(&args) else { return self.0.create_groups_accumulator(args) };
        let inner = self.of_places(&args, |args| self.0.create_groups_accumulator(args))?;
        Ok(Box::new(OfPlaces { kind, inner }))
    }

    fn is_descending(&self) -> Option<bool> {
        self.0.is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.0.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.0.reverse_udf()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs) -> Option<ScalarValue> {
        // Those of files leave NaN out.
        if statistics.return_type.is_floating() { None } else { self.0.value_from_stats(statistics) }
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.0.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }
}

/// The type of the argument, if it is a floating point number.
fn float(args: &AccumulatorArgs) -> Option<DataType> {
    let kind = args.return_field.data_type();
    kind.is_floating().then(|| kind.clone())
}

/// The place of a number in the order of all: the whole numbers that the bits of numbers are have their order, in which the
/// negative ones stand the wrong way round (as in [`f64::total_cmp`]).
fn place(number: f64) -> i64 {
    // The sign of a NaN says nothing, and processors disagree on it.
    let bits = if number.is_nan() { f64::NAN } else { number }.to_bits().cast_signed();
    turned(bits)
}

fn turned(bits: i64) -> i64 {
    bits ^ (bits >> 63).cast_unsigned().wrapping_shr(1).cast_signed()
}

fn number(place: i64) -> f64 {
    f64::from_bits(turned(place).cast_unsigned())
}

/// An accumulator of places, seen as one of numbers.
#[derive(Debug)]
struct OfPlaces<A> {
    /// The type of the numbers.
    kind: DataType,
    inner: A,
}

impl<A> OfPlaces<A> {
    fn places(&self, values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let of_one = |values: &ArrayRef| -> Result<ArrayRef> {
            let numbers = cast(values, &DataType::Float64)?;
            let places: Int64Array = numbers.as_primitive::<Float64Type>().unary(place);
            Ok(Arc::new(places))
        };
        values.iter().map(of_one).collect()
    }

    fn numbers(&self, places: &ArrayRef) -> Result<ArrayRef> {
        let numbers: Float64Array = places.as_primitive::<Int64Type>().unary(number);
        Ok(cast(&numbers, &self.kind)?)
    }

    fn number(&self, place: &ScalarValue) -> Result<ScalarValue> {
        let found = match place {
            ScalarValue::Int64(place) => place.map(number),
            _ => None,
        };
        ScalarValue::Float64(found).cast_to(&self.kind)
    }
}

impl Accumulator for OfPlaces<Box<dyn Accumulator>> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.update_batch(&self.places(values)?)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(&self.places(states)?)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.inner.retract_batch(&self.places(values)?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let found = self.inner.evaluate()?;
        self.number(&found)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let state = self.inner.state()?;
        state.iter().map(|place| self.number(place)).collect()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }
}

impl GroupsAccumulator for OfPlaces<Box<dyn GroupsAccumulator>> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let places = self.places(values)?;
        self.inner.update_batch(&places, group_indices, filter, total_num_groups)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        let places = self.places(states)?;
        self.inner.merge_batch(&places, group_indices, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let places = self.inner.evaluate(emit_to)?;
        self.numbers(&places)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let state = self.inner.state(emit_to)?;
        state.iter().map(|places| self.numbers(places)).collect()
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let state = self.inner.convert_to_state(&self.places(values)?, filter)?;
        state.iter().map(|places| self.numbers(places)).collect()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
