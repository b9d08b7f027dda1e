//! The first and the last text of groups, in an order of time.
//!
//! DataFusion's accumulator keeps the order of each group as scalars of any type, and looks at all groups there are with every
//! batch; of sessions that was most of their memory. Here it is a time and the text.
//!
//! Rows of the same time are taken in the order of their texts, null last. So the state has the text twice in DataFusion's
//! form, as the value and as the second part of the order; here the second is left null and not looked at.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, PrimitiveArray, StringArray, TimestampNanosecondArray,
    new_null_array,
};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampNanosecondType};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;

use super::{Tally, counted};

/// The text a group has so far.
#[derive(Clone)]
struct Held {
    time: Option<i64>,
    text: Option<Box<str>>,
}

pub(super) struct Edges {
    is_first: bool,
    ignores_nulls: bool,
    is_descending: bool,
    nulls_first: bool,
    time_type: DataType,
    held: Vec<Option<Held>>,
    /// Bytes of all texts.
    text_bytes: usize,
}

/// The tally of `first_value` or `last_value` of a text by a time, and then by itself.
pub(super) fn of(function: &AggregateFunctionExpr) -> Option<Edges> {
    let is_first = match function.fun().name() {
        "first_value" => true,
        "last_value" => false,
        _ => return None,
    };
    let arguments = function.expressions();
    let ([value], [time, then]) = (arguments.as_slice(), function.order_bys()) else { return None };
    let by_itself = then.expr.as_ref() == value.as_ref() && !then.options.descending && !then.options.nulls_first;
    let states = function.state_fields().ok()?;
    let [text, time_field, text_again, _] = states.as_slice() else { return None };
    let is_text = [text, text_again].iter().all(|field| field.data_type() == &DataType::Utf8);
    let time_type = time_field.data_type().clone();
    let is_time = matches!(time_type, DataType::Int64 | DataType::Timestamp(TimeUnit::Nanosecond, _));
    (by_itself && is_text && is_time).then(|| Edges {
        is_first,
        ignores_nulls: function.ignore_nulls(),
        is_descending: time.options.descending,
        nulls_first: time.options.nulls_first,
        time_type,
        held: Vec::new(),
        text_bytes: 0,
    })
}

/// A column of times, whatever they are called.
fn times(column: &ArrayRef) -> PrimitiveArray<Int64Type> {
    match column.as_primitive_opt::<TimestampNanosecondType>() {
        Some(times) => times.reinterpret_cast(),
        None => column.as_primitive::<Int64Type>().clone(),
    }
}

impl Edges {
    /// Whether a row takes the place of what a group has.
    fn is_wanted(&self, held: &Held, time: Option<i64>, text: Option<&str>) -> bool {
        let of_time = match (time, held.time) {
            (Some(new), Some(old)) if self.is_descending => old.cmp(&new),
            (Some(new), Some(old)) => new.cmp(&old),
            (None, Some(_)) if self.nulls_first => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) if self.nulls_first => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (None, None) => Ordering::Equal,
        };
        let order = of_time.then_with(|| match (text, held.text.as_deref()) {
            (Some(new), Some(old)) => new.cmp(old),
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (None, None) => Ordering::Equal,
        });
        order == if self.is_first { Ordering::Less } else { Ordering::Greater }
    }

    fn add(&mut self, columns: (&ArrayRef, &ArrayRef), of_row: &[usize], counts: impl Fn(usize) -> bool, len: usize) {
        self.held.resize(len, None);
        let (texts, times) = (columns.0.as_string::<i32>(), times(columns.1));
        for (row, group) in of_row.iter().enumerate() {
            if !counts(row) || (self.ignores_nulls && texts.is_null(row)) {
                continue;
            }
            let time = times.is_valid(row).then(|| times.value(row));
            let text = texts.is_valid(row).then(|| texts.value(row));
            if self.held[*group].as_ref().is_none_or(|held| self.is_wanted(held, time, text)) {
                self.clear(*group);
                self.text_bytes += text.map_or(0, str::len);
                self.held[*group] = Some(Held { time, text: text.map(Into::into) });
            }
        }
    }

    fn texts<'a>(&'a self, groups: impl Iterator<Item = &'a Option<Held>>) -> ArrayRef {
        Arc::new(groups.map(|held| held.as_ref()?.text.as_deref()).collect::<StringArray>())
    }

    fn state_of<'a>(&'a self, groups: impl Iterator<Item = &'a Option<Held>> + Clone) -> Vec<ArrayRef> {
        let texts = self.texts(groups.clone());
        let times: Int64Array = groups.clone().map(|held| held.as_ref()?.time).collect();
        let times: ArrayRef = match &self.time_type {
            DataType::Timestamp(_, zone) => {
                let times: TimestampNanosecondArray = times.reinterpret_cast();
                Arc::new(times.with_timezone_opt(zone.clone()))
            }
            _ => Arc::new(times),
        };
        let is_set = groups.map(|held| Some(held.is_some())).collect::<BooleanArray>();
        let again = new_null_array(&DataType::Utf8, texts.len());
        vec![texts, times, again, Arc::new(is_set)]
    }

    fn forget(&mut self) {
        self.held = Vec::new();
        self.text_bytes = 0;
    }
}

impl Tally for Edges {
    fn update(&mut self, values: &[ArrayRef], of_row: &[usize], filter: Option<&BooleanArray>, len: usize) {
        let passed = counted(None, filter);
        let counts = |row| passed.as_ref().is_none_or(|passed| passed.is_valid(row));
        self.add((&values[0], &values[1]), of_row, counts, len);
    }

    fn merge(&mut self, state: &[ArrayRef], of_row: &[usize], len: usize) {
        let is_set = state[3].as_boolean().clone();
        self.add((&state[0], &state[1]), of_row, |row| is_set.is_valid(row) && is_set.value(row), len);
    }

    fn some(&self, groups: &[usize]) -> Vec<ArrayRef> {
        self.state_of(groups.iter().map(|group| &self.held[*group]))
    }

    fn take(&mut self) -> Vec<ArrayRef> {
        let state = self.state_of(self.held.iter());
        self.forget();
        state
    }

    fn finish(&mut self) -> ArrayRef {
        let texts = self.texts(self.held.iter());
        self.forget();
        texts
    }

    fn clear(&mut self, group: usize) {
        if let Some(gone) = self.held[group].take() {
            self.text_bytes -= gone.text.map_or(0, |text| text.len());
        }
    }

    fn bytes(&self) -> usize {
        self.held.capacity() * size_of::<Option<Held>>() + self.text_bytes
    }
}
