//! The operators of SQL that are functions underneath, planned with our capped functions.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::compute::kernels::concat_elements::concat_elements_utf8_many;
use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::core::planner::CoreFunctionPlanner;
use datafusion::functions_nested::planner::NestedFunctionPlanner;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawDictionaryExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::capped::{capped, is_text};
use crate::budget::Budget;

/// `left || right` for text: null if either is, and capped like `concat`.
#[derive(Debug)]
struct JoinText {
    signature: Signature,
    budget: Arc<Budget>,
}

impl JoinText {
    fn new(budget: Arc<Budget>) -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable), budget }
    }
}

// As with what is capped.
impl PartialEq for JoinText {
    fn eq(&self, other: &Self) -> bool {
        self.signature == other.signature
    }
}

impl Eq for JoinText {}

impl std::hash::Hash for JoinText {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.signature.hash(state);
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
        self.budget.check_time()?;
        let scalar = arguments.args.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { arguments.number_rows };
        // What is scalar is written out for every row.
        let bytes = arguments
            .args
            .iter()
            .map(|value| match value {
                ColumnarValue::Scalar(ScalarValue::Utf8(Some(text))) => {
                    text.len().saturating_mul(arguments.number_rows)
                }
                ColumnarValue::Scalar(_) => 0,
                ColumnarValue::Array(array) => {
                    let offsets = array.as_string::<i32>().value_offsets();
                    let length = offsets.last().copied().unwrap_or(0) - offsets.first().copied().unwrap_or(0);
                    usize::try_from(length).unwrap_or(0)
                }
            })
            .fold(0, usize::saturating_add);
        self.budget.charge("||", bytes)?;
        let arrays = arguments.args.iter().map(|value| value.to_array(rows)).collect::<Result<Vec<_>>>()?;
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
pub(crate) struct OperatorPlanner {
    budget: Arc<Budget>,
}

impl OperatorPlanner {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self { budget }
    }

    /// Replaces the function at the top of a planned expression by its capped form.
    fn with_caps(&self, expr: Expr) -> Expr {
        match expr {
            Expr::ScalarFunction(ScalarFunction { func, args }) => Expr::ScalarFunction(ScalarFunction {
                func: capped(func, &self.budget),
                args: args.into_iter().map(|argument| self.with_caps(argument)).collect(),
            }),
            other => other,
        }
    }

    fn map_planned<T>(&self, result: PlannerResult<T>) -> PlannerResult<T> {
        match result {
            PlannerResult::Planned(expr) => PlannerResult::Planned(self.with_caps(expr)),
            original => original,
        }
    }
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
                let function = Arc::new(ScalarUDF::new_from_impl(JoinText::new(Arc::clone(&self.budget))));
                let call = ScalarFunction::new_udf(function, arguments);
                return Ok(PlannerResult::Planned(Expr::ScalarFunction(call)));
            }
        }
        // The operators are the same as the function, without its bound.
        let pattern = match expr.op {
            BinaryOperator::PGRegexMatch => Some((false, false)),
            BinaryOperator::PGRegexIMatch => Some((true, false)),
            BinaryOperator::PGRegexNotMatch => Some((false, true)),
            BinaryOperator::PGRegexNotIMatch => Some((true, true)),
            _ => None,
        };
        if let Some((any_case, negated)) = pattern
            && is_text(&expr.left.get_type(schema)?)
            && is_text(&expr.right.get_type(schema)?)
        {
            let mut arguments = vec![expr.left, expr.right];
            if any_case {
                arguments.push(Expr::Literal(ScalarValue::Utf8(Some("i".to_owned())), None));
            }
            let function = capped(datafusion::functions::regex::regexp_like(), &self.budget);
            let call = Expr::ScalarFunction(ScalarFunction::new_udf(function, arguments));
            return Ok(PlannerResult::Planned(if negated { Expr::Not(Box::new(call)) } else { call }));
        }
        Ok(self.map_planned(NestedFunctionPlanner.plan_binary_op(expr, schema)?))
    }

    fn plan_array_literal(&self, expressions: Vec<Expr>, schema: &DFSchema) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.map_planned(NestedFunctionPlanner.plan_array_literal(expressions, schema)?))
    }

    fn plan_make_map(&self, arguments: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.map_planned(NestedFunctionPlanner.plan_make_map(arguments)?))
    }

    fn plan_overlay(&self, arguments: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.map_planned(CoreFunctionPlanner::default().plan_overlay(arguments)?))
    }

    fn plan_dictionary_literal(
        &self,
        expr: RawDictionaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawDictionaryExpr>> {
        Ok(self.map_planned(CoreFunctionPlanner::default().plan_dictionary_literal(expr, schema)?))
    }

    fn plan_struct_literal(&self, arguments: Vec<Expr>, named: bool) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(self.map_planned(CoreFunctionPlanner::default().plan_struct_literal(arguments, named)?))
    }
}
