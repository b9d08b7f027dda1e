//! Expressions over the rows of a pipeline: the same language, functions and bounds as in a query,
//! compiled once against the columns of a step and applied to batch after batch.
//!
//! A pipeline's results must be a function of its input, so what depends on anything else
//! (`now()`, `random()`, the order rows happen to come in) is refused when an expression is compiled.

mod aggregate;
mod defined;
mod groups;
mod order;
mod scalar;
mod tally;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::context::SessionState;
use datafusion::execution::{SessionStateBuilder, SessionStateDefaults};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{AggregateUDF, Expr, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast::ExprWithAlias;
use weir_base::Clock;
use weir_data::streams::StreamDef;

use crate::aggregates::fold;
use crate::arithmetic::checked;
use crate::attributes::{AttributePlanner, mark_open};
use crate::budget::Budget;
use crate::environment::nothing_shared;
use crate::error::{ErrorContext, SqlError, from_datafusion};
use crate::functions::{FUNCTIONS, OperatorPlanner};
use crate::gate::gate_predicate;
use crate::plan_gate::check_types;
use crate::tables::AttributeKindLookup;

pub use aggregate::{Aggregation, Arguments, NamedExpression};
pub use defined::{Defined, DefinedAggregate, WrongDefinition};
pub use groups::{Finished, Groups, Slots, key_hashes};
pub use order::Ordered;
pub use scalar::Scalar;

/// How long compiling an expression may take, and applying it to one batch.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes the functions of one expression may hold.
const MEMORY_BYTES: usize = 256 << 20;

const CONTEXT: ErrorContext = ErrorContext::alone(MEMORY_BYTES);

/// What functions are called with. Without these each call in each expression of each tenant's pipelines would keep
/// defaults of its own, some kilobytes.
static CALL_OPTIONS: LazyLock<Arc<ConfigOptions>> = LazyLock::new(|| Arc::new(ConfigOptions::default()));

/// Compiles the expressions of one pipeline.
#[derive(Debug)]
pub struct Language {
    kinds: Arc<dyn AttributeKindLookup>,
    clock: Arc<dyn Clock>,
    defined: Defined,
    /// What the aggregates of the document are put together with.
    folds: Vec<Arc<AggregateUDF>>,
}

/// The columns of a built-in stream as a pipeline sees them: open columns can be subscripted.
pub fn stream_schema(stream: &StreamDef) -> SchemaRef {
    let mark = |field: &FieldRef| {
        if stream.is_open(field.name()) { mark_open(&stream.name, field) } else { Arc::clone(field) }
    };
    Arc::new(Schema::new(stream.schema.fields().iter().map(mark).collect::<Vec<_>>()))
}

/// No attribute key has a kind: every one reads as text.
#[derive(Debug)]
pub struct NoKinds;

impl AttributeKindLookup for NoKinds {
    fn kind(&self, _: &str, _: &str, _: &str) -> Option<weir_data::attributes::AttributeKind> {
        None
    }
}

/// An expression after planning, before it is made physical.
struct Planned {
    state: SessionState,
    budget: Arc<Budget>,
    schema: DFSchema,
    defined: Defined,
}

impl Language {
    /// A language in which attribute keys read as `kinds` says; the pipeline freezes them.
    pub fn new(kinds: Arc<dyn AttributeKindLookup>, clock: Arc<dyn Clock>) -> Self {
        Self { kinds, clock, defined: Defined::default(), folds: Vec::new() }
    }

    /// The same language with the functions of a document.
    #[must_use]
    pub fn with(&self, defined: Defined) -> Self {
        let plain = Arc::new(Self::new(Arc::clone(&self.kinds), Arc::clone(&self.clock)));
        let folds = defined.merges().iter().map(|merge| fold::function(merge, &plain)).collect();
        Self { kinds: Arc::clone(&self.kinds), clock: Arc::clone(&self.clock), defined, folds }
    }

    /// The text of an expression with the functions of the document written out: what it means, whatever these are
    /// called. One that calls none of them, or is wrong, is what it was.
    pub fn written_out(&self, text: &str) -> String {
        let Ok(mut parsed) = gate_predicate(text) else { return text.to_owned() };
        match self.defined.is_called_in(&parsed.expr) && self.defined.expand(&mut parsed.expr).is_ok() {
            true => parsed.expr.to_string(),
            false => text.to_owned(),
        }
    }

    fn planner(&self, schema: &SchemaRef) -> Result<Planned, SqlError> {
        let budget = Budget::new(Arc::clone(&self.clock), MEMORY_BYTES, self.clock.monotonic(), TIME_MAX);
        let mut config = SessionConfig::new().with_create_default_catalog_and_schema(false);
        config.options_mut().sql_parser.collect_spans = true;
        let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(AttributePlanner::new(Arc::clone(&self.kinds))),
            Arc::new(OperatorPlanner::new(Arc::clone(&budget))),
        ];
        planners.extend(SessionStateDefaults::default_expr_planners());
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(nothing_shared()?)
            .with_execution_props(ExecutionProps {
                config_options: Some(Arc::clone(&CALL_OPTIONS)),
                ..ExecutionProps::new()
            })
            .with_expr_planners(planners)
            .with_scalar_functions(FUNCTIONS.scalar(&budget))
            .with_aggregate_functions([FUNCTIONS.aggregate_of_pipelines.as_slice(), &self.folds].concat())
            .with_table_function_list(Vec::new())
            .with_table_factories(HashMap::new())
            .with_file_formats(Vec::new())
            .build();
        let schema = DFSchema::try_from(Arc::clone(schema)).map_err(|error| from_datafusion(&error, CONTEXT))?;
        Ok(Planned { state, budget, schema, defined: self.defined.clone() })
    }
}

impl Planned {
    /// The logical expression of a text, with the types made to fit.
    fn logical(&self, text: &str) -> Result<Expr, SqlError> {
        self.logical_of(gate_predicate(text)?)
    }

    /// The logical expression of one that was parsed.
    fn logical_of(&self, mut parsed: ExprWithAlias) -> Result<Expr, SqlError> {
        self.defined.expand(&mut parsed.expr)?;
        let failed = |error| from_datafusion(&error, CONTEXT);
        let expr = self.state.create_logical_expr_from_sql_expr(parsed, &self.schema).map_err(failed)?;
        check_types(&expr).map_err(failed)?;
        let mut refused = None;
        expr.apply(|part| {
            refused = match part {
                Expr::WindowFunction(_) => Some("functions with OVER have no meaning here".to_owned()),
                Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) => {
                    Some("subqueries have no meaning here".to_owned())
                }
                Expr::Placeholder(_) => Some("there are no parameters here".to_owned()),
                Expr::Unnest(_) => Some("use the step explode for unnest".to_owned()),
                Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                    Some(format!(
                        "{}() depends on more than the row, so the results would not be the same after a restart",
                        call.func.name()
                    ))
                }
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            Ok(TreeNodeRecursion::Stop)
        })
        .map_err(failed)?;
        match refused {
            Some(message) => Err(SqlError::invalid(message)),
            None => Ok(expr),
        }
    }

    /// Types made to fit, operators on integers checked and constants computed, against `schema`.
    fn simplified(&self, expr: Expr, schema: &DFSchema) -> Result<Expr, SqlError> {
        let simplifier = ExprSimplifier::new(
            SimplifyContext::builder()
                .with_schema(Arc::new(schema.clone()))
                .with_config_options(Arc::clone(self.state.config_options()))
                .build(),
        );
        simplifier
            .coerce(expr, schema)
            .and_then(|expr| checked(expr, schema))
            .and_then(|expr| simplifier.simplify(expr.data))
            .map_err(|error| from_datafusion(&error, CONTEXT))
    }
}

/// The one type of text on the edges of a pipeline; inside an expression it may be another.
fn edge_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Dictionary(_, value) => edge_type(value),
        other => other.clone(),
    }
}

fn edge_field(name: &str, field: &Field) -> FieldRef {
    Arc::new(Field::new(name, edge_type(field.data_type()), true).with_metadata(field.metadata().clone()))
}

#[cfg(test)]
mod tests;
