//! Functions whose result or work can be far larger than their arguments, with a cap on both.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::budget::Budget;
use crate::error::SqlError;

/// The most elements one call may add to the lists of one batch.
const RESULT_ELEMENTS_MAX: usize = 4 * 1024 * 1024;

/// The most types within the type of a result: a structure of a structure twice, over and over,
/// doubles its type each time, and planning looks at types again and again.
const TYPE_NODES_MAX: usize = 500;

/// Functions whose work can be far more than the length of their arguments.
const LABORIOUS: &[&str] = &[
    "array_has_all",
    "array_has_any",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
];

/// Functions whose result can be much larger than their arguments.
const CAPPED: &[&str] = &[
    "array_append",
    "array_concat",
    "array_prepend",
    "array_repeat",
    "array_resize",
    "array_to_string",
    "array_union",
    "concat",
    "concat_ws",
    "encode",
    "flatten",
    "lpad",
    "make_array",
    "map",
    "named_struct",
    "overlay",
    "regexp_match",
    "regexp_replace",
    "repeat",
    "replace",
    "rpad",
    "string_to_array",
    "struct",
    "translate",
];

/// The function with a cap on its result and its work, if it needs one.
pub(super) fn capped(function: Arc<ScalarUDF>, budget: &Arc<Budget>) -> Arc<ScalarUDF> {
    let name = function.name();
    if CAPPED.contains(&name) || LABORIOUS.contains(&name) {
        Arc::new(ScalarUDF::new_from_impl(Capped { inner: function, budget: Arc::clone(budget) }))
    } else {
        function
    }
}

pub(super) fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// A function whose result is bounded: estimated before the call where the arguments say how large
/// it will be, and measured after it always, so that feeding a function its own result over and
/// over ends soon. Its work is bounded likewise, and is done in parts between which the deadline of
/// the query holds.
#[derive(Debug)]
struct Capped {
    inner: Arc<ScalarUDF>,
    budget: Arc<Budget>,
}

// There is one budget a query, and functions of different queries never meet.
impl PartialEq for Capped {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Capped {}

impl std::hash::Hash for Capped {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

/// The most a pattern may weigh.
const PATTERN_WEIGHT_MAX: usize = 20_000;
/// Steps any row takes.
const ROW_WORK: usize = 64;

/// About how many states a pattern has: what one character of the text may cost at the worst.
fn pattern_weight(pattern: &str) -> usize {
    let mut open: Vec<usize> = Vec::new();
    // Of the group that is open, and of what a count behind it would repeat.
    let (mut sum, mut last) = (0_usize, 0_usize);
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        let atom = match character {
            '*' | '+' | '?' => continue,
            '{' => {
                let inside: String = characters.by_ref().take_while(|character| *character != '}').collect();
                let counts = inside.split(',').map(|part| part.split_whitespace().collect::<String>());
                let times = counts.filter_map(|digits| digits.parse::<usize>().ok()).max().unwrap_or(1).max(1);
                sum = sum.saturating_add(last.saturating_mul(times - 1));
                last = last.saturating_mul(times);
                continue;
            }
            '(' => {
                open.push(sum);
                (sum, last) = (0, 0);
                continue;
            }
            ')' => {
                let inner = sum;
                sum = open.pop().unwrap_or(0);
                inner
            }
            // A class of Unicode is many ranges of bytes.
            '[' => 20 + characters.by_ref().take_while(|character| *character != ']').count(),
            '\\' => match characters.next() {
                Some('w' | 'W' | 'd' | 'D' | 's' | 'S' | 'p' | 'P' | 'b' | 'B') => 20,
                _ => 1,
            },
            '.' => 4,
            _ => 1,
        };
        sum = sum.saturating_add(atom);
        last = atom;
    }
    open.into_iter().fold(sum, usize::saturating_add).max(1)
}

/// The length in bytes of the text in `row`.
fn text_len(array: &ArrayRef, row: usize) -> usize {
    if array.is_null(row) {
        return 0;
    }
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).len(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).len(),
        DataType::Utf8View => array.as_string_view().value(row).len(),
        _ => 64,
    }
}

fn int_at(array: &ArrayRef, row: usize) -> usize {
    let Ok(array) = arrow::compute::cast(array, &DataType::Int64) else { return 0 };
    if array.is_null(row) {
        return 0;
    }
    usize::try_from(array.as_primitive::<Int64Type>().value(row)).unwrap_or(0)
}

/// How many types there are in a type, counted up to a little more than `max`.
fn type_nodes(data_type: &DataType, max: usize) -> usize {
    let mut count = 1;
    let mut add = |inner: &DataType| {
        if count <= max {
            count += type_nodes(inner, max - count);
        }
    };
    match data_type {
        DataType::Struct(fields) => fields.iter().for_each(|field| add(field.data_type())),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => add(field.data_type()),
        _ => {}
    }
    count
}

/// What one argument is, row by row; a scalar is looked at once.
enum Argument {
    Scalar(ArrayRef),
    Array(ArrayRef),
}

impl Argument {
    fn of(value: &ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Scalar(scalar) => Self::Scalar(scalar.to_array()?),
            ColumnarValue::Array(array) => Self::Array(Arc::clone(array)),
        })
    }

    fn text_len(&self, row: usize) -> usize {
        match self {
            Self::Scalar(array) => text_len(array, 0),
            Self::Array(array) => text_len(array, row),
        }
    }

    /// How much the pattern in `row` weighs.
    fn pattern_weight(&self, row: usize) -> usize {
        let (array, row) = match self {
            Self::Scalar(array) => (array, 0),
            Self::Array(array) => (array, row),
        };
        if array.is_null(row) {
            return 1;
        }
        match array.data_type() {
            DataType::Utf8 => pattern_weight(array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => pattern_weight(array.as_string::<i64>().value(row)),
            DataType::Utf8View => pattern_weight(array.as_string_view().value(row)),
            _ => PATTERN_WEIGHT_MAX,
        }
    }

    /// Bytes of the value in `row`, about.
    fn bytes(&self, row: usize) -> usize {
        let (array, row) = match self {
            Self::Scalar(array) => (array, 0),
            Self::Array(array) => (array, row),
        };
        match array.data_type() {
            data_type if data_type.is_primitive() => 16,
            data_type if is_text(data_type) => text_len(array, row) + 16,
            _ => array.slice(row, 1).to_data().get_slice_memory_size().unwrap_or(usize::MAX),
        }
    }

    fn list_len(&self, row: usize) -> usize {
        let (array, row) = match self {
            Self::Scalar(array) => (array, 0),
            Self::Array(array) => (array, row),
        };
        if array.is_null(row) {
            return 0;
        }
        match array.data_type() {
            DataType::List(_) => array.as_list::<i32>().value(row).len(),
            DataType::LargeList(_) => array.as_list::<i64>().value(row).len(),
            _ => 1,
        }
    }

    fn int(&self, row: usize) -> usize {
        match self {
            Self::Scalar(array) => int_at(array, 0),
            Self::Array(array) => int_at(array, row),
        }
    }

    /// Casts a column of integers once, so that [`Argument::int`] does not do it row by row.
    fn into_ints(self) -> Result<Self> {
        Ok(match self {
            Self::Scalar(array) => Self::Scalar(arrow::compute::cast(&array, &DataType::Int64)?),
            Self::Array(array) => Self::Array(arrow::compute::cast(&array, &DataType::Int64)?),
        })
    }
}

/// A bound on the bytes of the result in `row`, for functions whose arguments say how large it is.
fn row_bound(name: &str, arguments: &[Argument], row: usize) -> Option<usize> {
    let first = arguments.first()?;
    Some(match name {
        "repeat" => first.text_len(row).saturating_mul(arguments.get(1)?.int(row)),
        "array_repeat" => first.bytes(row).saturating_mul(arguments.get(1)?.int(row)),
        "array_resize" => {
            let filler = arguments.get(2).map_or(16, |filler| filler.bytes(row));
            first.bytes(row).saturating_add(filler.saturating_mul(arguments.get(1)?.int(row)))
        }
        // A character takes up to four bytes.
        "lpad" | "rpad" => arguments.get(1)?.int(row).saturating_mul(4),
        "replace" => {
            let (from, to) = (arguments.get(1)?.text_len(row), arguments.get(2)?.text_len(row));
            let text = first.text_len(row);
            match from {
                0 => text,
                from if to <= from => text,
                from => text.saturating_add((text / from).saturating_mul(to)),
            }
        }
        "regexp_replace" => {
            // Every place between two characters can match, and the replacement can name groups.
            let (text, to) = (first.text_len(row), arguments.get(2)?.text_len(row));
            let groups = to / 2;
            text.saturating_add((text + 1).saturating_mul(to)).saturating_add(groups.saturating_mul(text))
        }
        _ => return None,
    })
}

/// The number of elements a function adds to lists, where its arguments say so.
fn elements(name: &str, arguments: &[Argument], rows: usize) -> Option<usize> {
    let at = match name {
        "array_repeat" | "array_resize" => 1,
        _ => return None,
    };
    let count = arguments.get(at)?;
    Some((0..rows).fold(0, |sum: usize, row| sum.saturating_add(count.int(row))))
}

impl Capped {
    fn invoke_checked(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows.max(1);
        let result = self.inner.invoke_with_args(arguments)?;
        let bytes = match &result {
            // It will be written out for every row.
            ColumnarValue::Scalar(value) => value.size().saturating_mul(rows),
            ColumnarValue::Array(array) => array.get_array_memory_size(),
        };
        self.budget.charge(self.name(), bytes)?;
        Ok(result)
    }

    /// The work in every row; nothing if the function works through its arguments once.
    fn works(&self, known: &[Argument], rows: usize) -> Result<Vec<usize>> {
        let name = self.name();
        let (true, Some(first), Some(second)) = (LABORIOUS.contains(&name), known.first(), known.get(1)) else {
            return Ok(Vec::new());
        };
        let max = self.budget.work_max();
        let too_much = || {
            self.budget.refuse(SqlError::invalid(format!(
                "{name} would have too much to do on one row: shorten its {}",
                if name.starts_with("regexp") { "pattern or its text" } else { "lists" }
            )))
        };
        let constant = matches!(second, Argument::Scalar(_)).then(|| second.pattern_weight(0));
        let mut works = Vec::with_capacity(rows);
        for row in 0..rows {
            let work = if name.starts_with("regexp") {
                let weight = constant.unwrap_or_else(|| second.pattern_weight(row));
                if weight > PATTERN_WEIGHT_MAX {
                    return Err(too_much());
                }
                (first.text_len(row) + ROW_WORK).saturating_mul(weight)
            } else {
                first.list_len(row).saturating_mul(second.list_len(row)).saturating_add(ROW_WORK)
            };
            if work > max {
                return Err(too_much());
            }
            works.push(work);
        }
        Ok(works)
    }

    /// Works through a batch in parts, each with a result and work of bounded size. `bounds` and
    /// `works` are empty where the function has none.
    fn invoke_in_parts(
        &self,
        arguments: &ScalarFunctionArgs,
        rows: usize,
        bounds: &[usize],
        works: &[usize],
    ) -> Result<ColumnarValue> {
        let (bytes_max, work_max) = (self.budget.call_bytes_max(), self.budget.work_max());
        let of = |sizes: &[usize], row: usize| sizes.get(row).copied().unwrap_or(0);
        let mut results: Vec<ArrayRef> = Vec::new();
        let (mut bytes, mut start) = (0, 0);
        while start < rows {
            self.budget.check_time()?;
            let mut end = start;
            let (mut bound, mut work) = (0_usize, 0_usize);
            while end < rows {
                let bound_with = bound.saturating_add(of(bounds, end));
                let work_with = work.saturating_add(of(works, end));
                if end > start && (bound_with > bytes_max || work_with > work_max) {
                    break;
                }
                (bound, work) = (bound_with, work_with);
                end += 1;
            }
            if bound > bytes_max.saturating_mul(4) {
                return Err(self.budget.too_large(self.name()));
            }
            let part = ScalarFunctionArgs {
                args: arguments
                    .args
                    .iter()
                    .map(|value| match value {
                        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(start, end - start)),
                        scalar => scalar.clone(),
                    })
                    .collect(),
                arg_fields: arguments.arg_fields.clone(),
                number_rows: end - start,
                return_field: Arc::clone(&arguments.return_field),
                config_options: Arc::clone(&arguments.config_options),
            };
            let result = self.invoke_checked(part)?.into_array(end - start)?;
            bytes += result.get_array_memory_size();
            if bytes > bytes_max {
                return Err(self.budget.too_large(self.name()));
            }
            results.push(result);
            start = end;
        }
        let parts: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(arrow::compute::concat(&parts)?))
    }
}

impl ScalarUDFImpl for Capped {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        self.inner.schema_name(arguments)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(arguments)?;
        if type_nodes(field.data_type(), TYPE_NODES_MAX) > TYPE_NODES_MAX {
            return Err(
                SqlError::invalid(format!("the type of the result of {} is too large", self.name())).into_datafusion()
            );
        }
        Ok(field)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.budget.check_time()?;
        let name = self.name();
        let rows = arguments.number_rows;
        let estimated =
            matches!(name, "repeat" | "lpad" | "rpad" | "replace" | "regexp_replace" | "array_repeat" | "array_resize");
        if !estimated && !LABORIOUS.contains(&name) {
            return self.invoke_checked(arguments);
        }
        let scalar = arguments.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { rows };
        let mut known = Vec::with_capacity(arguments.args.len());
        for (at, value) in arguments.args.iter().enumerate() {
            let argument = Argument::of(value)?;
            let counts = at == 1 && estimated && !matches!(name, "replace" | "regexp_replace");
            known.push(if counts { argument.into_ints()? } else { argument });
        }
        if elements(name, &known, rows).is_some_and(|elements| elements > RESULT_ELEMENTS_MAX) {
            return Err(self.budget.too_large(name));
        }
        let works = self.works(&known, rows)?;
        let bounds: Vec<usize> = (0..rows).map_while(|row| row_bound(name, &known, row)).collect();
        let sum = |sizes: &[usize]| sizes.iter().fold(0, |sum: usize, size| sum.saturating_add(*size));
        let (total, work) = (sum(&bounds), sum(&works));
        if total <= self.budget.call_bytes_max() && work <= self.budget.work_max() {
            self.invoke_checked(arguments)
        } else if scalar {
            Err(self.budget.too_large(name))
        } else {
            self.invoke_in_parts(&arguments, rows, &bounds, &works)
        }
    }
}
