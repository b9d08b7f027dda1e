//! Integers that do not fit: an error, and no wrong number.
//!
//! The engine's `+`, `-` and `*` of integers begin again at the other end where the result does not fit its type, without
//! a word. Where types are settled, these operators are replaced by functions that fail instead: in queries by a rule
//! before constants are computed, in expressions of pipelines where they are compiled, so that the row becomes a dead
//! letter. `/` and `%`, and operators on times, fail by themselves; floating-point numbers become infinite. `sum` of integers is
//! as it was: its states are those of the engine. So is `-` of numbers without a sign, such as `row_number()`: of the numbers of
//! rows in two orders the difference is what is grouped by, and that is right also where it begins again at the other end.

use std::sync::Arc;

use arrow::array::{ArrayRef, Datum};
use arrow::compute::kernels::numeric::{add, mul, neg, sub};
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, ExprSchema, Result, internal_datafusion_err, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr_common::datum::apply;

use crate::error::SqlError;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
}

impl Operation {
    fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            _ => None,
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
        }
    }

    fn kernel(self) -> fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::Add => add,
            Self::Subtract => sub,
            Self::Multiply => mul,
        }
    }
}

/// Operators on integers of one type, from left to right, that fail where a result does not fit it. None: the one operand
/// with its sign turned. A chain is one call, because types of nested calls are looked up again on each level.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct CheckedInteger {
    operations: Vec<Operation>,
    signature: Signature,
}

impl CheckedInteger {
    fn call(operations: Vec<Operation>, arguments: Vec<Expr>) -> Expr {
        let function = Self { operations, signature: Signature::user_defined(Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), arguments))
    }

    /// The chain that an expression is.
    fn of(expr: &Expr) -> Option<(&[Operation], &[Expr])> {
        let Expr::ScalarFunction(call) = expr else { return None };
        let function = call.func.inner().downcast_ref::<Self>()?;
        (!function.operations.is_empty()).then_some((&function.operations, &call.args))
    }

    /// As the operators are written: names of columns come from it.
    fn written(&self, arguments: &[String]) -> Result<String> {
        let Some((first, rest)) = arguments.split_first() else { return internal_err!("operators without operands") };
        if self.operations.is_empty() {
            return Ok(format!("(- {first})"));
        }
        let steps = self.operations.iter().zip(rest).map(|(operation, right)| format!(" {} {right}", operation.sign()));
        Ok(std::iter::once(first.clone()).chain(steps).collect())
    }
}

impl ScalarUDFImpl for CheckedInteger {
    fn name(&self) -> &str {
        "weir_integers"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn display_name(&self, arguments: &[Expr]) -> Result<String> {
        self.written(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        self.written(&arguments.iter().map(|argument| argument.schema_name().to_string()).collect::<Vec<_>>())
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        arguments.first().cloned().ok_or_else(|| internal_datafusion_err!("operators without operands"))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        let Some(first) = arguments.arg_fields.first() else { return internal_err!("operators without operands") };
        let nullable = arguments.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), first.data_type().clone(), nullable)))
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut operands = arguments.args.into_iter();
        let Some(mut value) = operands.next() else { return internal_err!("operators without operands") };
        if self.operations.is_empty() {
            let turned = apply(&value, &value, |value, _| neg(value.get().0));
            return turned.map_err(|error| does_not_fit(error, &value));
        }
        for (operation, right) in self.operations.iter().zip(operands) {
            value = apply(&value, &right, operation.kernel()).map_err(|error| does_not_fit(error, &right))?;
        }
        Ok(value)
    }
}

/// The error of a kernel, as it is said to people.
fn does_not_fit(error: DataFusionError, value: &ColumnarValue) -> DataFusionError {
    match error {
        DataFusionError::ArrowError(inner, _) if matches!(*inner, ArrowError::ArithmeticOverflow(_)) => {
            let text = inner.to_string();
            let what = text.rsplit("Overflow happened on: ").next().unwrap_or(&text);
            let kind = value.data_type().to_string().to_lowercase();
            SqlError::invalid(format!("{what} does not fit {kind}; cast an operand to double or to decimal(38, 0)"))
                .into_datafusion()
        }
        other => other,
    }
}

/// An expression in which types are settled, with its operators on integers checked.
pub(crate) fn checked(expr: Expr, schema: &dyn ExprSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|part| {
        Ok(match part {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match Operation::of(op) {
                Some(operation) if are_integers(&left, operation, &right, schema)? => {
                    Transformed::yes(continued(*left, operation, *right))
                }
                _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            },
            Expr::Negative(value) if value.get_type(schema)?.is_signed_integer() => {
                Transformed::yes(CheckedInteger::call(Vec::new(), vec![*value]))
            }
            other => Transformed::no(other),
        })
    })
}

/// One operator more, behind the chain on its left if there is one.
fn continued(left: Expr, operation: Operation, right: Expr) -> Expr {
    let mut operations = CheckedInteger::of(&left).map(|(operations, _)| operations.to_vec()).unwrap_or_default();
    let mut arguments = match left {
        Expr::ScalarFunction(call) if !operations.is_empty() => call.args,
        first => vec![first],
    };
    operations.push(operation);
    arguments.push(right);
    CheckedInteger::call(operations, arguments)
}

fn are_integers(left: &Expr, operation: Operation, right: &Expr, schema: &dyn ExprSchema) -> Result<bool> {
    let kind = right.get_type(schema)?;
    if operation == Operation::Subtract && kind.is_unsigned_integer() {
        return Ok(false);
    }
    // All operands of a chain have one type.
    let first = CheckedInteger::of(left).and_then(|(_, arguments)| arguments.first()).unwrap_or(left);
    Ok(kind.is_integer() && first.get_type(schema)? == kind)
}

/// Checks the operators on integers of a query. To come after the rule that settles types.
#[derive(Debug)]
pub(crate) struct CheckIntegers;

impl AnalyzerRule for CheckIntegers {
    fn name(&self) -> &str {
        "check_integers"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let checked = plan.transform_up_with_subqueries(|node| {
            let mut schema = merge_schema(&node.inputs());
            if let LogicalPlan::TableScan(scan) = &node {
                schema.merge(&scan.projected_schema);
            }
            let names = NamePreserver::new(&node);
            let checked = node.map_expressions(|expr| {
                let name = names.save(&expr);
                Ok(checked(expr, &schema)?.update_data(|expr| name.restore(expr)))
            })?;
            if checked.transformed { checked.map_data(LogicalPlan::recompute_schema) } else { Ok(checked) }
        })?;
        Ok(checked.data)
    }
}

#[cfg(test)]
mod tests;
