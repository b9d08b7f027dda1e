//! Which functions a query can call: an allow list, and caps on those whose result can be far
//! larger than their arguments.
//!
//! What is not here does not exist: functions that tell about the process (`version`), that make
//! values out of thin air (`generate_series`, `range`), that only make sense inside a plan
//! (`file_row_index`, `input_file_name`), that make any Arrow type out of its name, so that one null
//! can take all memory there is (`arrow_cast`), that take time by the product of their arguments
//! (`levenshtein`), and every table function.

mod capped;
mod operators;

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use datafusion::logical_expr::{AggregateUDF, Expr, ScalarUDF, WindowUDF};

use crate::aggregates;
use crate::arithmetic::CheckedInteger;
use crate::attributes::{AttributeFunction, Reading};
use crate::budget::Budget;
use capped::capped;
pub(crate) use operators::OperatorPlanner;

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

/// Everything a query can call.
#[derive(Debug)]
pub(crate) struct Functions {
    /// Without their caps, which belong to one query.
    scalar: Vec<Arc<ScalarUDF>>,
    pub(crate) aggregate: Vec<Arc<AggregateUDF>>,
    /// The same for pipelines: those whose result depends on the order of rows are others.
    pub(crate) aggregate_of_pipelines: Vec<Arc<AggregateUDF>>,
    pub(crate) window: Vec<Arc<WindowUDF>>,
}

/// The functions, put together once.
pub(crate) static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let allowed: HashSet<&str> = [CORE, TEXT, MATH, TIME, NESTED].concat().into_iter().collect();
    let mut scalar: Vec<Arc<ScalarUDF>> = datafusion::functions::all_default_functions()
        .into_iter()
        .chain(datafusion::functions_nested::all_default_nested_functions())
        .filter(|function| allowed.contains(function.name()))
        .collect();
    scalar.push(AttributeFunction::udf(Reading::AnyText));
    scalar.push(AttributeFunction::udf(Reading::Int));
    let mut aggregate: Vec<Arc<AggregateUDF>> = datafusion::functions_aggregate::all_default_aggregate_functions()
        .into_iter()
        .filter(|function| AGGREGATE.contains(&function.name()))
        .map(aggregates::centroids::bounded)
        .map(aggregates::extremes::ordered)
        .collect();
    aggregate.extend(aggregates::for_all());
    let mut aggregate_of_pipelines = aggregates::for_pipelines();
    let is_other =
        |function: &&Arc<AggregateUDF>| aggregate_of_pipelines.iter().all(|other| other.name() != function.name());
    let same: Vec<Arc<AggregateUDF>> = aggregate.iter().filter(is_other).cloned().collect();
    aggregate_of_pipelines.extend(same);
    let window = datafusion::functions_window::all_default_window_functions()
        .into_iter()
        .filter(|function| WINDOW.contains(&function.name()))
        .collect();
    Functions { scalar, aggregate, aggregate_of_pipelines, window }
});

impl Functions {
    /// Whether there is a function of that name, of whatever kind, in queries or in pipelines.
    pub(crate) fn has(&self, name: &str) -> bool {
        let is = |known: &str, aliases: &[String]| known == name || aliases.iter().any(|alias| alias == name);
        self.scalar.iter().any(|function| is(function.name(), function.aliases()))
            || self.aggregate.iter().any(|function| is(function.name(), function.aliases()))
            || self.aggregate_of_pipelines.iter().any(|function| is(function.name(), function.aliases()))
            || self.window.iter().any(|function| is(function.name(), function.aliases()))
    }

    /// The names of all that queries can call, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let scalar = self.scalar.iter().map(|function| (function.name(), function.aliases()));
        let aggregate = self.aggregate.iter().map(|function| (function.name(), function.aliases()));
        let window = self.window.iter().map(|function| (function.name(), function.aliases()));
        let all = scalar.chain(aggregate).chain(window);
        all.flat_map(|(name, aliases)| std::iter::once(name).chain(aliases.iter().map(String::as_str)))
    }

    /// The scalar functions as one query may call them.
    pub(crate) fn scalar(&self, budget: &Arc<Budget>) -> Vec<Arc<ScalarUDF>> {
        self.scalar.iter().map(|function| capped(Arc::clone(function), budget)).collect()
    }
}

/// Whether an expression makes values of any length: its results are held side by side with those
/// of others.
pub(crate) fn makes_values(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(call) => {
            let name = call.func.name();
            let function = call.func.inner();
            !MATH.contains(&name)
                && !TIME.contains(&name)
                && !function.is::<AttributeFunction>()
                && !function.is::<CheckedInteger>()
        }
        Expr::Cast(cast) => !cast.field.data_type().is_primitive(),
        Expr::TryCast(cast) => !cast.field.data_type().is_primitive(),
        Expr::Case(_) => true,
        _ => false,
    }
}
