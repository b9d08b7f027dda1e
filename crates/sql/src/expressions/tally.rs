//! Counts, sums and extremes of numbers and times, and first and last texts, of groups that end one by one.
//!
//! DataFusion's accumulators give what they hold of all groups or of the first ones, and forget the rest of the order;
//! whoever wants to know about some of the groups has to take all out and put the others back. What most windows are made
//! of is simple enough to be held in a column by the number of the group, and looked up there. States and results are
//! those of DataFusion, so both can go on with what the other has begun.

mod edges;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Int64Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Float64Type, Int64Type, TimeUnit, TimestampNanosecondType, UInt64Type,
};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

/// One aggregate of groups that are numbered.
pub(super) trait Tally: Send {
    /// Adds rows; there are `len` groups now.
    fn update(&mut self, values: &[ArrayRef], of_row: &[usize], filter: Option<&BooleanArray>, len: usize);

    /// Adds states.
    fn merge(&mut self, state: &[ArrayRef], of_row: &[usize], len: usize);

    /// The state of some groups.
    fn some(&self, groups: &[usize]) -> Vec<ArrayRef>;

    /// The state of all groups, which are forgotten.
    fn take(&mut self) -> Vec<ArrayRef>;

    /// What all groups come to, which are forgotten.
    fn finish(&mut self) -> ArrayRef;

    /// Begins a group anew.
    fn clear(&mut self, group: usize);

    fn bytes(&self) -> usize;
}

/// The tally of an aggregate, if it is one that can be tallied.
pub(super) fn of(function: &AggregateFunctionExpr) -> Option<Box<dyn Tally>> {
    if function.is_distinct() || function.expressions().len() != 1 {
        return None;
    }
    if !function.order_bys().is_empty() {
        return edges::of(function).map(|edges| Box::new(edges) as Box<dyn Tally>);
    }
    let fold = match function.fun().name() {
        "count" => return Some(Box::new(Count::default())),
        "sum" => Fold::Sum,
        "min" => Fold::Min,
        "max" => Fold::Max,
        _ => return None,
    };
    let data_type = function.field().data_type().clone();
    match &data_type {
        DataType::Int64 => Some(Box::new(Folded::<Int64Type>::new(fold, data_type))),
        DataType::UInt64 => Some(Box::new(Folded::<UInt64Type>::new(fold, data_type))),
        // Which of two numbers that cannot be compared is the larger one is better left to one place.
        DataType::Float64 if fold == Fold::Sum => Some(Box::new(Folded::<Float64Type>::new(fold, data_type))),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Some(Box::new(Folded::<TimestampNanosecondType>::new(fold, data_type)))
        }
        _ => None,
    }
}

/// The rows that count: those with a value that pass the filter.
fn counted(nulls: Option<&NullBuffer>, filter: Option<&BooleanArray>) -> Option<NullBuffer> {
    let passed = filter.map(|filter| match filter.null_count() {
        0 => NullBuffer::new(filter.values().clone()),
        _ => NullBuffer::new(prep_null_mask_filter(filter).values().clone()),
    });
    NullBuffer::union(nulls, passed.as_ref())
}

#[derive(Default)]
struct Count(Vec<i64>);

impl Tally for Count {
    fn update(&mut self, values: &[ArrayRef], of_row: &[usize], filter: Option<&BooleanArray>, len: usize) {
        self.0.resize(len, 0);
        match counted(values[0].logical_nulls().as_ref(), filter) {
            None => of_row.iter().for_each(|group| self.0[*group] += 1),
            Some(counted) => {
                for (group, counts) in of_row.iter().zip(&counted) {
                    self.0[*group] += i64::from(counts);
                }
            }
        }
    }

    fn merge(&mut self, state: &[ArrayRef], of_row: &[usize], len: usize) {
        self.0.resize(len, 0);
        for (group, count) in of_row.iter().zip(state[0].as_primitive::<Int64Type>().values()) {
            self.0[*group] += count;
        }
    }

    fn some(&self, groups: &[usize]) -> Vec<ArrayRef> {
        vec![Arc::new(groups.iter().map(|group| self.0[*group]).collect::<Int64Array>())]
    }

    fn take(&mut self) -> Vec<ArrayRef> {
        vec![self.finish()]
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(Int64Array::from(std::mem::take(&mut self.0)))
    }

    fn clear(&mut self, group: usize) {
        self.0[group] = 0;
    }

    fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<i64>()
    }
}

/// How two values become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fold {
    Sum,
    Min,
    Max,
}

struct Folded<T: ArrowPrimitiveType> {
    fold: Fold,
    data_type: DataType,
    values: Vec<T::Native>,
    /// Whether a group has had a value.
    has_value: Vec<bool>,
}

impl<T: ArrowPrimitiveType> Folded<T> {
    fn new(fold: Fold, data_type: DataType) -> Self {
        Self { fold, data_type, values: Vec::new(), has_value: Vec::new() }
    }

    /// The value to begin with.
    fn first(&self) -> T::Native {
        match self.fold {
            Fold::Sum => T::Native::ZERO,
            Fold::Min => T::Native::MAX_TOTAL_ORDER,
            Fold::Max => T::Native::MIN_TOTAL_ORDER,
        }
    }

    fn each(
        &mut self,
        values: &PrimitiveArray<T>,
        of_row: &[usize],
        counted: Option<&NullBuffer>,
        fold: impl Fn(T::Native, T::Native) -> T::Native,
    ) {
        let mut add = |group: usize, value: T::Native| {
            self.values[group] = fold(self.values[group], value);
            self.has_value[group] = true;
        };
        match counted {
            None => of_row.iter().zip(values.values()).for_each(|(group, value)| add(*group, *value)),
            Some(counted) => {
                for ((group, value), counts) in of_row.iter().zip(values.values()).zip(counted) {
                    if counts {
                        add(*group, *value);
                    }
                }
            }
        }
    }

    fn array(&self, values: Vec<T::Native>, has_value: Vec<bool>) -> ArrayRef {
        let nulls = has_value.iter().any(|has| !has).then(|| NullBuffer::from(has_value));
        Arc::new(PrimitiveArray::<T>::new(values.into(), nulls).with_data_type(self.data_type.clone()))
    }
}

impl<T: ArrowPrimitiveType + Send> Tally for Folded<T> {
    fn update(&mut self, values: &[ArrayRef], of_row: &[usize], filter: Option<&BooleanArray>, len: usize) {
        self.values.resize(len, self.first());
        self.has_value.resize(len, false);
        let values = values[0].as_primitive::<T>();
        let counted = counted(values.nulls(), filter);
        match self.fold {
            Fold::Sum => self.each(values, of_row, counted.as_ref(), |one, other| one.add_wrapping(other)),
            Fold::Min => {
                self.each(values, of_row, counted.as_ref(), |one, other| if other.is_lt(one) { other } else { one });
            }
            Fold::Max => {
                self.each(values, of_row, counted.as_ref(), |one, other| if other.is_gt(one) { other } else { one });
            }
        }
    }

    fn merge(&mut self, state: &[ArrayRef], of_row: &[usize], len: usize) {
        self.update(state, of_row, None, len);
    }

    fn some(&self, groups: &[usize]) -> Vec<ArrayRef> {
        let values = groups.iter().map(|group| self.values[*group]).collect();
        vec![self.array(values, groups.iter().map(|group| self.has_value[*group]).collect())]
    }

    fn take(&mut self) -> Vec<ArrayRef> {
        vec![self.finish()]
    }

    fn finish(&mut self) -> ArrayRef {
        let (values, has_value) = (std::mem::take(&mut self.values), std::mem::take(&mut self.has_value));
        self.array(values, has_value)
    }

    fn clear(&mut self, group: usize) {
        self.values[group] = self.first();
        self.has_value[group] = false;
    }

    fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>() + self.has_value.capacity()
    }
}
