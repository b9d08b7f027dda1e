//! Which functions a query can call: an allow list, and caps on those whose result can be far
//! larger than their arguments.
//!
//! What is not here does not exist: functions that tell about the process (`version`), that make
//! values out of thin air (`generate_series`, `range`), that only make sense inside a plan
//! (`file_row_index`, `input_file_name`), that make any Arrow type out of its name, so that one null
//! can take all memory there is (`arrow_cast`), that take time by the product of their arguments
//! (`levenshtein`), and every table function.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::kernels::concat_elements::concat_elements_utf8_many;
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::core::planner::CoreFunctionPlanner;
use datafusion::functions_nested::planner::NestedFunctionPlanner;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawDictionaryExpr};
use datafusion::logical_expr::{
    AggregateUDF, ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, WindowUDF,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::attributes::{AttributeFunction, Reading};
use crate::error::SqlError;

/// The most bytes one call may make out of one batch.
const RESULT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most elements one call may add to the lists of one batch.
const RESULT_ELEMENTS_MAX: usize = 4 * 1024 * 1024;

/// The most types within the type of a result: a structure of a structure twice, over and over,
/// doubles its type each time, and planning looks at types again and again.
const TYPE_NODES_MAX: usize = 500;

const CORE: &[&str] = &[
    "nullif",
    "nvl",
    "nvl2",
    "coalesce",
    "greatest",
    "least",
    "overlay",
    "arrow_typeof",
    "named_struct",
    "struct",
    "get_field",
];
const TEXT: &[&str] = &[
    "ascii",
    "bit_length",
    "btrim",
    "character_length",
    "chr",
    "concat",
    "concat_ws",
    "contains",
    "ends_with",
    "find_in_set",
    "initcap",
    "left",
    "lower",
    "lpad",
    "ltrim",
    "octet_length",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "starts_with",
    "strpos",
    "substr",
    "substr_index",
    "to_hex",
    "translate",
    "upper",
    "uuid",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "md5",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "digest",
    "encode",
    "decode",
];
const MATH: &[&str] = &[
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "ceil",
    "cos",
    "cosh",
    "cot",
    "degrees",
    "exp",
    "factorial",
    "floor",
    "gcd",
    "isnan",
    "iszero",
    "lcm",
    "ln",
    "log",
    "log10",
    "log2",
    "nanvl",
    "pi",
    "power",
    "radians",
    "random",
    "round",
    "signum",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "trunc",
];
const TIME: &[&str] = &[
    "current_date",
    "current_time",
    "date_bin",
    "date_part",
    "date_trunc",
    "from_unixtime",
    "make_date",
    "make_time",
    "now",
    "to_char",
    "to_date",
    "to_local_time",
    "to_time",
    "to_timestamp",
    "to_timestamp_micros",
    "to_timestamp_millis",
    "to_timestamp_nanos",
    "to_timestamp_seconds",
    "to_unixtime",
];
const NESTED: &[&str] = &[
    "array_any_value",
    "array_append",
    "array_avg",
    "array_compact",
    "array_concat",
    "array_dims",
    "array_distance",
    "array_distinct",
    "array_element",
    "array_except",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "array_length",
    "array_max",
    "array_min",
    "array_ndims",
    "array_pop_back",
    "array_pop_front",
    "array_position",
    "array_positions",
    "array_prepend",
    "array_product",
    "array_remove",
    "array_remove_all",
    "array_remove_n",
    "array_repeat",
    "array_replace",
    "array_replace_all",
    "array_replace_n",
    "array_resize",
    "array_reverse",
    "array_slice",
    "array_sort",
    "array_sum",
    "array_to_string",
    "array_union",
    "cardinality",
    "empty",
    "flatten",
    "make_array",
    "map",
    "map_entries",
    "map_extract",
    "map_keys",
    "map_values",
    "string_to_array",
];
const AGGREGATE: &[&str] = &[
    "any_value",
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "first_value",
    "grouping",
    "last_value",
    "max",
    "median",
    "min",
    "nth_value",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "string_agg",
    "sum",
    "var",
    "var_pop",
];
const WINDOW: &[&str] = &[
    "cume_dist",
    "dense_rank",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "nth_value",
    "ntile",
    "percent_rank",
    "rank",
    "row_number",
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

/// Everything a query can call.
#[derive(Debug)]
pub(crate) struct Functions {
    pub(crate) scalar: Vec<Arc<ScalarUDF>>,
    pub(crate) aggregate: Vec<Arc<AggregateUDF>>,
    pub(crate) window: Vec<Arc<WindowUDF>>,
}

/// The functions, put together once.
pub(crate) static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let allowed: HashSet<&str> = [CORE, TEXT, MATH, TIME, NESTED].concat().into_iter().collect();
    let mut scalar: Vec<Arc<ScalarUDF>> = datafusion::functions::all_default_functions()
        .into_iter()
        .chain(datafusion::functions_nested::all_default_nested_functions())
        .filter(|function| allowed.contains(function.name()))
        .map(capped)
        .collect();
    scalar.push(AttributeFunction::udf(Reading::AnyText));
    scalar.push(AttributeFunction::udf(Reading::Int));
    let aggregate = datafusion::functions_aggregate::all_default_aggregate_functions()
        .into_iter()
        .filter(|function| AGGREGATE.contains(&function.name()))
        .collect();
    let window = datafusion::functions_window::all_default_window_functions()
        .into_iter()
        .filter(|function| WINDOW.contains(&function.name()))
        .collect();
    Functions { scalar, aggregate, window }
});

/// The function with a cap on its result, if it needs one.
fn capped(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    if CAPPED.contains(&function.name()) {
        Arc::new(ScalarUDF::new_from_impl(Capped { inner: function }))
    } else {
        function
    }
}

/// A function whose result is bounded: estimated before the call where the arguments say how large
/// it will be, and measured after it always, so that feeding a function its own result over and
/// over ends soon.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Capped {
    inner: Arc<ScalarUDF>,
}

fn too_large(name: &str) -> datafusion::common::DataFusionError {
    SqlError::invalid(format!("the result of {name} would be larger than {} MiB", RESULT_BYTES_MAX >> 20))
        .into_datafusion()
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
        let result = self.inner.invoke_with_args(arguments)?;
        let bytes = match &result {
            ColumnarValue::Scalar(value) => value.size(),
            ColumnarValue::Array(array) => array.get_array_memory_size(),
        };
        if bytes > RESULT_BYTES_MAX { Err(too_large(self.name())) } else { Ok(result) }
    }

    /// Works through a batch in parts, each with a result of bounded size.
    fn invoke_in_parts(&self, arguments: &ScalarFunctionArgs, bounds: &[usize]) -> Result<ColumnarValue> {
        let mut results: Vec<ArrayRef> = Vec::new();
        let (mut bytes, mut start) = (0, 0);
        while start < bounds.len() {
            let mut end = start;
            let mut bound: usize = 0;
            while end < bounds.len() && (end == start || bound.saturating_add(bounds[end]) <= RESULT_BYTES_MAX) {
                bound = bound.saturating_add(bounds[end]);
                end += 1;
            }
            if bound > 4 * RESULT_BYTES_MAX {
                return Err(too_large(self.name()));
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
            if bytes > RESULT_BYTES_MAX {
                return Err(too_large(self.name()));
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
        let name = self.name();
        let rows = arguments.number_rows;
        let estimated =
            matches!(name, "repeat" | "lpad" | "rpad" | "replace" | "regexp_replace" | "array_repeat" | "array_resize");
        if !estimated {
            return self.invoke_checked(arguments);
        }
        let scalar = arguments.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { rows };
        let mut known = Vec::with_capacity(arguments.args.len());
        for (at, value) in arguments.args.iter().enumerate() {
            let argument = Argument::of(value)?;
            let counts = at == 1 && !matches!(name, "replace" | "regexp_replace");
            known.push(if counts { argument.into_ints()? } else { argument });
        }
        if elements(name, &known, rows).is_some_and(|elements| elements > RESULT_ELEMENTS_MAX) {
            return Err(too_large(name));
        }
        let bounds: Vec<usize> = (0..rows).map_while(|row| row_bound(name, &known, row)).collect();
        let total = bounds.iter().fold(0, |sum: usize, bound| sum.saturating_add(*bound));
        if total <= RESULT_BYTES_MAX {
            self.invoke_checked(arguments)
        } else if scalar {
            Err(too_large(name))
        } else {
            self.invoke_in_parts(&arguments, &bounds)
        }
    }
}

/// `left || right` for text: null if either is, and capped like `concat`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct JoinText {
    signature: Signature,
}

impl JoinText {
    fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for JoinText {
    fn name(&self) -> &str {
        "weir_join_text"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        Ok(arguments.iter().map(|argument| argument.schema_name().to_string()).collect::<Vec<_>>().join(" || "))
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![DataType::Utf8; arguments.len()])
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = arguments.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { arguments.number_rows };
        let arrays = arguments.args.iter().map(|value| value.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let bytes =
            arrays.iter().map(|array| array.as_string::<i32>().value_data().len()).fold(0, usize::saturating_add);
        if bytes > RESULT_BYTES_MAX {
            return Err(too_large("||"));
        }
        let texts: Vec<&StringArray> = arrays.iter().map(|array| array.as_string::<i32>()).collect();
        let joined = concat_elements_utf8_many(&texts)?;
        let joined: ArrayRef = Arc::new(joined);
        Ok(if scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?)
        } else {
            ColumnarValue::Array(joined)
        })
    }
}

/// The planners of operators and literals, with the functions they call replaced by ours: the
/// planner's own would be without their caps.
#[derive(Debug)]
pub(crate) struct OperatorPlanner;

/// Replaces the function at the top of a planned expression by its capped form.
fn with_caps(expr: Expr) -> Expr {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            Expr::ScalarFunction(ScalarFunction { func: capped(func), args: args.into_iter().map(with_caps).collect() })
        }
        other => other,
    }
}

fn map_planned<T>(result: PlannerResult<T>) -> PlannerResult<T> {
    match result {
        PlannerResult::Planned(expr) => PlannerResult::Planned(with_caps(expr)),
        original => original,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

impl ExprPlanner for OperatorPlanner {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        if expr.op == BinaryOperator::StringConcat {
            let (left, right) = (expr.left.get_type(schema)?, expr.right.get_type(schema)?);
            let lists = [&left, &right]
                .into_iter()
                .any(|side| matches!(side, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)));
            if !lists && (is_text(&left) || is_text(&right)) {
                // A chain becomes one call: types of nested calls are looked up again on each level.
                let mut arguments = match expr.left {
                    Expr::ScalarFunction(call) if call.func.inner().is::<JoinText>() => call.args,
                    other => vec![other],
                };
                arguments.push(expr.right);
                let function = Arc::new(ScalarUDF::new_from_impl(JoinText::new()));
                let call = ScalarFunction::new_udf(function, arguments);
                return Ok(PlannerResult::Planned(Expr::ScalarFunction(call)));
            }
        }
        Ok(map_planned(NestedFunctionPlanner.plan_binary_op(expr, schema)?))
    }

    fn plan_array_literal(&self, expressions: Vec<Expr>, schema: &DFSchema) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(map_planned(NestedFunctionPlanner.plan_array_literal(expressions, schema)?))
    }

    fn plan_make_map(&self, arguments: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(map_planned(NestedFunctionPlanner.plan_make_map(arguments)?))
    }

    fn plan_overlay(&self, arguments: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(map_planned(CoreFunctionPlanner::default().plan_overlay(arguments)?))
    }

    fn plan_dictionary_literal(
        &self,
        expr: RawDictionaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawDictionaryExpr>> {
        Ok(map_planned(CoreFunctionPlanner::default().plan_dictionary_literal(expr, schema)?))
    }

    fn plan_struct_literal(&self, arguments: Vec<Expr>, named: bool) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(map_planned(CoreFunctionPlanner::default().plan_struct_literal(arguments, named)?))
    }
}
