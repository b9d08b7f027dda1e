//! Expressions over groups of rows: keys, and values made with aggregate functions.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, ExprSchemable};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;

use super::groups::{self, Finished, Groups, Slots};
use super::{CONTEXT, Language, Planned, edge_field};
use crate::aggregates::fold::FOLD;
use crate::budget::{Budget, Places};
use crate::error::{SqlError, from_datafusion};
use crate::plan_gate::check_order;

/// Aggregates whose result does not depend on the order of rows, up to rounding.
const ANY_ORDER: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_top_k",
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
    "max",
    "median",
    "min",
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
    "sum",
    "var",
    "var_pop",
];

/// Aggregates whose result depends on the order of rows, which therefore must be said. Rows that are equal in it
/// are taken in the order of their values.
const BY_ORDER: &[&str] = &["array_agg", "first_value", "last_value", "string_agg"];

/// An expression and what its value is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedExpression {
    /// The column.
    pub name: String,
    /// The expression.
    pub text: String,
}

impl NamedExpression {
    /// The expression `text`, called `name`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// One aggregate function with its arguments.
pub(super) struct Aggregate {
    pub(super) function: Arc<AggregateFunctionExpr>,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    pub(super) states: usize,
}

/// Keys and aggregates, compiled. What it computes: rows with the same keys make a group; of each
/// group, the values of `select`.
pub struct Aggregation {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) key_schema: SchemaRef,
    pub(super) aggregates: Vec<Aggregate>,
    /// Columns of what is kept of groups: keys, then the states of the aggregates.
    state_schema: SchemaRef,
    /// What the values of `select` are computed from: prefix, keys, aggregates.
    inner_schema: SchemaRef,
    select: Vec<Arc<dyn PhysicalExpr>>,
    output_schema: SchemaRef,
    budget: Arc<Budget>,
}

impl fmt::Debug for Aggregation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Aggregation").field("output", &self.output_schema).finish_non_exhaustive()
    }
}

/// What a batch of rows adds to groups: keys, and arguments of the aggregates.
#[derive(Clone, Debug)]
pub struct Arguments {
    pub(super) keys: Vec<ArrayRef>,
    pub(super) values: Vec<Vec<ArrayRef>>,
    pub(super) filters: Vec<Option<BooleanArray>>,
    pub(super) rows: usize,
}

impl Language {
    /// Compiles keys and values over the columns of `schema`. `prefix` are columns that stand before the
    /// keys in the result, and that `select` may use.
    ///
    /// # Errors
    /// The expressions that cannot be compiled; indices count keys, then `select`.
    pub fn aggregation(
        &self,
        schema: &SchemaRef,
        prefix: &[FieldRef],
        keys: &[NamedExpression],
        select: &[NamedExpression],
    ) -> Result<Aggregation, Vec<(usize, SqlError)>> {
        let failed = |error| from_datafusion(&error, CONTEXT);
        let planned = self.planner(schema).map_err(|error| vec![(0, error)])?;
        let mut wrong: Vec<(usize, SqlError)> = Vec::new();
        let mut places = Places::default();
        let mut physical_keys = Vec::new();
        let mut key_fields: Vec<FieldRef> = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            let compiled = (|| {
                let expr = planned.logical(&key.text)?;
                if contains_aggregate(&expr).map_err(failed)? {
                    return Err(SqlError::invalid("a key is computed for each row; aggregates belong into `select`"));
                }
                // A key may have the name of a column only if it is that column.
                let is_column = matches!(&expr, Expr::Column(column) if column.name == key.name);
                if !is_column && schema.column_with_name(&key.name).is_some() {
                    return Err(SqlError::invalid(format!(
                        "the key {} hides the column of that name: give it another",
                        key.name
                    )));
                }
                let expr = planned.simplified(expr, &planned.schema)?;
                places.add(&expr).map_err(failed)?;
                let (_, field) = expr.to_field(&planned.schema).map_err(failed)?;
                let physical = planned.state.create_physical_expr(expr, &planned.schema).map_err(failed)?;
                Ok((physical, Arc::new(field.as_ref().clone().with_name(&key.name).with_nullable(true))))
            })();
            match compiled {
                Ok((physical, field)) => {
                    physical_keys.push(physical);
                    key_fields.push(field);
                }
                Err(error) => {
                    wrong.push((at, error));
                    // So that nobody is told there is no such column.
                    key_fields.push(Arc::new(Field::new(&key.name, DataType::Null, true)));
                }
            }
        }
        let in_doubt: Vec<&str> = wrong.iter().map(|(at, _)| keys[*at].name.as_str()).collect();
        let mut builder = Builder { planned: &planned, places, aggregates: Vec::new(), written: Vec::new() };
        let known: Vec<FieldRef> = prefix.iter().chain(&key_fields).map(Arc::clone).collect();
        let mut values = Vec::new();
        for (at, value) in select.iter().enumerate() {
            match builder.outer(schema, &known, &value.text) {
                Ok(expr) => values.push(expr),
                // It may be wrong because the key is.
                Err(_) if words(&value.text).any(|word| in_doubt.contains(&word)) => {}
                Err(error) => wrong.push((keys.len() + at, error)),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        builder.finish(physical_keys, key_fields, prefix, select, values).map_err(|error| vec![error])
    }
}

/// What may be names in an expression.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric() && character != '_').filter(|word| !word.is_empty())
}

fn contains_aggregate(expr: &Expr) -> Result<bool, DataFusionError> {
    let mut found = false;
    expr.apply(|part| {
        found |= matches!(part, Expr::AggregateFunction(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn cast_to_text(expr: Expr) -> Expr {
    Expr::Cast(datafusion::logical_expr::Cast::new(Box::new(expr), DataType::Utf8))
}

/// Refuses an aggregate that takes such values by its signature and then cannot do anything with them: it would fail
/// with the first row.
fn try_out(aggregate: &Aggregate, name: &str, schema: &Schema) -> Result<(), SqlError> {
    let types: Result<Vec<DataType>, _> =
        aggregate.arguments.iter().map(|argument| argument.data_type(schema)).collect();
    let types = types.map_err(|error| from_datafusion(&error, CONTEXT))?;
    check_order(name, &types)?;
    groups::try_out(aggregate, &types).map_err(|error| {
        tracing::debug!(%error, "an aggregate was refused");
        let types: Vec<String> = types.iter().map(ToString::to_string).collect();
        SqlError::invalid(format!("{name}() cannot be computed of {}", types.join(", ")))
    })
}

struct Builder<'a> {
    planned: &'a Planned,
    places: Places,
    /// What was found in the values of `select` so far, each once.
    written: Vec<Expr>,
    aggregates: Vec<Aggregate>,
}

/// The name of an aggregate among the columns the values are computed from. No name of a user has
/// a space in front.
fn inner_name(at: usize) -> String {
    format!(" {at}")
}

impl Builder<'_> {
    /// A value of `select`, with its aggregates replaced by columns that hold their results.
    fn outer(&mut self, schema: &SchemaRef, known: &[FieldRef], text: &str) -> Result<Expr, SqlError> {
        let failed = |error| from_datafusion(&error, CONTEXT);
        // Planned against columns, keys and prefix together; which of them may stand where is
        // looked at afterwards.
        let extra = known.iter().filter(|field| schema.column_with_name(field.name()).is_none());
        let fields: Vec<FieldRef> = schema.fields().iter().chain(extra).map(Arc::clone).collect();
        let all = DFSchema::try_from(Schema::new(fields)).map_err(failed)?;
        let planned = Planned {
            state: self.planned.state.clone(),
            budget: Arc::clone(&self.planned.budget),
            schema: all,
            defined: self.planned.defined.clone(),
        };
        let expr = planned.logical(text)?;
        let expr = planned.simplified(expr, &planned.schema)?;
        let mut problem = None;
        let replaced = expr
            .transform_down(|part| match part {
                Expr::AggregateFunction(_) => match self.aggregate(part) {
                    Ok(at) => Ok(Transformed::new(
                        Expr::Column(Column::new_unqualified(inner_name(at))),
                        true,
                        TreeNodeRecursion::Jump,
                    )),
                    Err(error) => {
                        problem.get_or_insert(error);
                        Ok(Transformed::new(Expr::Literal(ScalarValue::Null, None), true, TreeNodeRecursion::Stop))
                    }
                },
                other => Ok(Transformed::no(other)),
            })
            .map_err(failed)?
            .data;
        if let Some(error) = problem {
            return Err(error);
        }
        for column in replaced.column_refs() {
            let is_known = known.iter().any(|field| field.name() == &column.name);
            if !is_known && !column.name.starts_with(' ') {
                return Err(SqlError::invalid(format!(
                    "the rows of a group may differ in {}: put it into an aggregate such as max({0}), or group by it",
                    column.name
                )));
            }
        }
        Ok(replaced)
    }

    /// The index of an aggregate.
    fn aggregate(&mut self, expr: Expr) -> Result<usize, SqlError> {
        let failed = |error| from_datafusion(&error, CONTEXT);
        if let Some(at) = self.written.iter().position(|known| known == &expr) {
            return Ok(at);
        }
        let written = expr.clone();
        let mut expr = expr;
        let mut called = String::new();
        if let Expr::AggregateFunction(call) = &mut expr {
            let name = call.func.name();
            called = name.to_owned();
            if name == "approx_distinct" {
                // DataFusion counts no floating-point numbers. Their shortest texts are as different as they are.
                for argument in &mut call.params.args {
                    if argument.get_type(&self.planned.schema).map_err(failed)?.is_floating() {
                        *argument = cast_to_text(std::mem::take(argument));
                    }
                }
            }
            let is_ordered = BY_ORDER.contains(&name) && !call.params.order_by.is_empty();
            if is_ordered {
                let value = call.params.args.first().map(|value| value.clone().sort(true, false));
                call.params.order_by.extend(value);
                // What is ordered by twice says nothing the second time, and DataFusion counts it once in one place
                // and twice in another.
                let order = std::mem::take(&mut call.params.order_by);
                for sort in order {
                    if call.params.order_by.iter().all(|known| known.expr != sort.expr) {
                        call.params.order_by.push(sort);
                    }
                }
            } else if !ANY_ORDER.contains(&name) && !name.starts_with(FOLD) {
                let hint = match name {
                    "approx_percentile_cont_with_weight" => "use approx_percentile_cont".to_owned(),
                    "string_agg" => "say which order, as in string_agg(x, ',' ORDER BY time)".to_owned(),
                    name if BY_ORDER.contains(&name) => format!("say which order, as in {name}(x ORDER BY time)"),
                    _ => "use an aggregate such as min, max or count".to_owned(),
                };
                return Err(SqlError::invalid(format!(
                    "the result of {name}() depends on the order rows come in, so it would not be the same after a restart: {hint}"
                )));
            }
        }
        let schema = &self.planned.schema;
        self.places.add(&expr).map_err(failed)?;
        for column in expr.column_refs() {
            schema.field_with_unqualified_name(&column.name).map_err(|_| {
                SqlError::invalid(format!("{} is made by the window and is not a column of its rows", column.name))
            })?;
        }
        let lowered = LoweredAggregateBuilder::new(
            &expr,
            schema,
            schema.as_arrow(),
            self.planned.state.execution_props(),
            &PhysicalPlanningContext::default(),
        )
        .with_name(inner_name(self.aggregates.len()))
        .build()
        .map_err(failed)?;
        let mut arguments = lowered.aggregate.expressions();
        arguments.extend(lowered.order_bys.iter().map(|sort| Arc::clone(&sort.expr)));
        let states = lowered.aggregate.state_fields().map_err(failed)?.len();
        let aggregate = Aggregate { function: lowered.aggregate, arguments, filter: lowered.filter, states };
        try_out(&aggregate, &called, schema.as_arrow())?;
        self.aggregates.push(aggregate);
        self.written.push(written);
        Ok(self.aggregates.len() - 1)
    }

    fn finish(
        self,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        key_fields: Vec<FieldRef>,
        prefix: &[FieldRef],
        names: &[NamedExpression],
        values: Vec<Expr>,
    ) -> Result<Aggregation, (usize, SqlError)> {
        let failed = |error| from_datafusion(&error, CONTEXT);
        let first = key_fields.len();
        let mut state_fields = key_fields.clone();
        for (at, aggregate) in self.aggregates.iter().enumerate() {
            let fields = aggregate.function.state_fields().map_err(|error| (first, failed(error)))?;
            state_fields.extend(
                fields
                    .iter()
                    .enumerate()
                    .map(|(part, field)| Arc::new(Field::new(format!("{at}.{part}"), field.data_type().clone(), true))),
            );
        }
        let key_edges = key_fields.iter().map(|field| edge_field(field.name(), field));
        let before: Vec<FieldRef> = prefix.iter().map(Arc::clone).chain(key_edges).collect();
        let results = self.aggregates.iter().enumerate().map(|(at, aggregate)| {
            let field = aggregate.function.field();
            Arc::new(Field::new(inner_name(at), field.data_type().clone(), true))
        });
        let inner_schema: SchemaRef =
            Arc::new(Schema::new(before.iter().map(Arc::clone).chain(results).collect::<Vec<_>>()));
        let inner = DFSchema::try_from(Arc::clone(&inner_schema)).map_err(|error| (first, failed(error)))?;
        let mut select = Vec::new();
        let mut output = before;
        for (at, (expr, name)) in values.into_iter().zip(names).enumerate() {
            let compiled = (|| {
                let expr = self.planned.simplified(expr, &inner)?;
                let (_, field) = expr.to_field(&inner).map_err(failed)?;
                let physical = self.planned.state.create_physical_expr(expr, &inner).map_err(failed)?;
                Ok((physical, edge_field(&name.name, &field)))
            })();
            let (physical, field) = compiled.map_err(|error| (first + at, error))?;
            select.push(physical);
            output.push(field);
        }
        self.planned.budget.planned(self.places).map_err(|error| (first, error))?;
        Ok(Aggregation {
            keys,
            key_schema: Arc::new(Schema::new(key_fields)),
            aggregates: self.aggregates,
            state_schema: Arc::new(Schema::new(state_fields)),
            inner_schema,
            select,
            output_schema: Arc::new(Schema::new(output)),
            budget: Arc::clone(&self.planned.budget),
        })
    }
}

impl Aggregation {
    /// The columns of the result: prefix, keys, values.
    pub fn output_schema(&self) -> &SchemaRef {
        &self.output_schema
    }

    /// The columns of what is kept of groups: keys, then what the aggregates need to go on.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// How many keys there are.
    pub fn n_keys(&self) -> usize {
        self.keys.len()
    }

    /// The keys of rows, one array a key.
    ///
    /// # Errors
    /// If one cannot be computed.
    pub fn keys(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, SqlError> {
        self.budget.renew();
        self.keys.iter().map(|key| evaluate(key, rows)).collect()
    }

    /// Keys and arguments of rows.
    ///
    /// # Errors
    /// If one cannot be computed for one of the rows.
    pub fn arguments(&self, rows: &RecordBatch) -> Result<Arguments, SqlError> {
        let keys = self.keys(rows)?;
        let mut values = Vec::with_capacity(self.aggregates.len());
        let mut filters = Vec::with_capacity(self.aggregates.len());
        for aggregate in &self.aggregates {
            values.push(aggregate.arguments.iter().map(|part| evaluate(part, rows)).collect::<Result<Vec<_>, _>>()?);
            filters.push(match &aggregate.filter {
                None => None,
                Some(filter) => {
                    let keep = evaluate(filter, rows)?;
                    Some(as_boolean_array(&keep).map_err(|error| from_datafusion(&error, CONTEXT))?.clone())
                }
            });
        }
        Ok(Arguments { keys, values, filters, rows: rows.num_rows() })
    }

    /// Groups, none yet.
    ///
    /// # Errors
    /// If an aggregate cannot be begun.
    pub fn groups(&self) -> Result<Groups, SqlError> {
        Groups::new(self)
    }

    /// Groups the caller tells apart, none yet.
    ///
    /// # Errors
    /// If an aggregate cannot be begun.
    pub fn slots(&self) -> Result<Slots, SqlError> {
        Slots::single(self)
    }

    /// The keys, as they are in [`Aggregation::state_schema`].
    pub fn key_schema(&self) -> &SchemaRef {
        &self.key_schema
    }

    /// Prefix and keys of finished groups, without the values.
    ///
    /// # Errors
    /// If the keys are not those of this aggregation.
    pub fn group(&self, prefix: Vec<ArrayRef>, finished: &Finished) -> Result<RecordBatch, SqlError> {
        let columns = self.before(prefix, finished)?;
        let indices: Vec<usize> = (0..columns.len()).collect();
        self.output_schema
            .project(&indices)
            .and_then(|schema| RecordBatch::try_new(Arc::new(schema), columns))
            .map_err(|error| from_datafusion(&error.into(), CONTEXT))
    }

    /// The columns before the values.
    fn before(&self, prefix: Vec<ArrayRef>, finished: &Finished) -> Result<Vec<ArrayRef>, SqlError> {
        let mut columns = prefix;
        for (key, field) in finished.keys.iter().zip(&self.inner_schema.fields()[columns.len()..]) {
            columns.push(cast(key, field.data_type()).map_err(|error| from_datafusion(&error.into(), CONTEXT))?);
        }
        Ok(columns)
    }

    /// The result for finished groups. `prefix` are the columns before the keys.
    ///
    /// # Errors
    /// If a value cannot be computed.
    pub fn results(&self, prefix: Vec<ArrayRef>, finished: &Finished) -> Result<RecordBatch, SqlError> {
        let failed = |error: arrow::error::ArrowError| from_datafusion(&error.into(), CONTEXT);
        self.budget.renew();
        let options = RecordBatchOptions::new().with_row_count(Some(finished.rows));
        let mut columns = self.before(prefix, finished)?;
        let n_before = columns.len();
        columns.extend(finished.values.iter().map(Arc::clone));
        let inner =
            RecordBatch::try_new_with_options(Arc::clone(&self.inner_schema), columns, &options).map_err(failed)?;
        let mut output: Vec<ArrayRef> = inner.columns()[..n_before].to_vec();
        for (value, field) in self.select.iter().zip(&self.output_schema.fields()[n_before..]) {
            let value = evaluate(value, &inner)?;
            output.push(if value.data_type() == field.data_type() {
                value
            } else {
                cast(&value, field.data_type()).map_err(failed)?
            });
        }
        RecordBatch::try_new_with_options(Arc::clone(&self.output_schema), output, &options).map_err(failed)
    }
}

fn evaluate(expr: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<ArrayRef, SqlError> {
    expr.evaluate(rows)
        .and_then(|value| value.into_array(rows.num_rows()))
        .map_err(|error| from_datafusion(&error, CONTEXT))
}

impl Arguments {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The keys of the rows, one array a key.
    pub fn keys(&self) -> &[ArrayRef] {
        &self.keys
    }

    /// Those of `len` rows from `start`; copies nothing.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        let part = |array: &ArrayRef| array.slice(start, len);
        Self {
            keys: self.keys.iter().map(part).collect(),
            values: self.values.iter().map(|values| values.iter().map(part).collect()).collect(),
            filters: self.filters.iter().map(|filter| filter.as_ref().map(|filter| filter.slice(start, len))).collect(),
            rows: len,
        }
    }

    /// Those of the rows at `indices`.
    ///
    /// # Errors
    /// If an index is out of bounds.
    pub fn take(&self, indices: &UInt32Array) -> Result<Self, SqlError> {
        let part =
            |array: &ArrayRef| take(array, indices, None).map_err(|error| from_datafusion(&error.into(), CONTEXT));
        Ok(Self {
            keys: self.keys.iter().map(part).collect::<Result<_, _>>()?,
            values: self
                .values
                .iter()
                .map(|values| values.iter().map(part).collect::<Result<_, _>>())
                .collect::<Result<_, _>>()?,
            filters: self
                .filters
                .iter()
                .map(|filter| match filter {
                    None => Ok(None),
                    Some(filter) => take(filter, indices, None)
                        .map_err(DataFusionError::from)
                        .and_then(|array| as_boolean_array(&array).cloned())
                        .map(Some)
                        .map_err(|error| from_datafusion(&error, CONTEXT)),
                })
                .collect::<Result<_, _>>()?,
            rows: indices.len(),
        })
    }
}
