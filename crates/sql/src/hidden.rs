//! Rows that are stored and are not to be seen any more: a table that has some is planned as what is left of it.
//!
//! The rows are told by one column of text, and left out right above the scan, whatever the query asks.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlanBuilder, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use weir_base::TenantId;

/// Which rows of which table are not to be seen.
pub trait Hides: Send + Sync + fmt::Debug {
    /// The rows of a stream that are not to be seen at this moment; `None` if all are.
    ///
    /// # Errors
    /// If that cannot be said: then nothing of the table is shown.
    fn hidden(&self, tenant: &TenantId, stream: &str) -> Result<Option<Arc<dyn HiddenRows>>, std::io::Error>;
}

/// Rows of one table that are not to be seen.
pub trait HiddenRows: Send + Sync + fmt::Debug {
    /// The column of text that tells them.
    fn column(&self) -> &str;

    /// Whether the row with this value is one of them. A row without a value is not.
    fn hides(&self, value: &str) -> bool;
}

/// What is left of a table.
pub(crate) fn without(
    name: &str,
    table: Arc<dyn TableProvider>,
    hidden: Arc<dyn HiddenRows>,
) -> Result<Arc<dyn TableProvider>> {
    let schema = table.schema();
    if schema.field_with_name(hidden.column()).is_err() {
        return Ok(table);
    }
    let column = Expr::Column(datafusion::common::Column::new_unqualified(hidden.column()));
    let is_seen = ScalarUDF::from(IsSeen { signature: Signature::user_defined(Volatility::Immutable), hidden });
    let plan = LogicalPlanBuilder::scan(name, provider_as_source(table), None)?.filter(is_seen.call(vec![column]))?;
    Ok(Arc::new(ViewTable::new(plan.build()?, None)))
}

#[derive(Debug)]
struct IsSeen {
    signature: Signature,
    hidden: Arc<dyn HiddenRows>,
}

impl PartialEq for IsSeen {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.hidden, &other.hidden)
    }
}

impl Eq for IsSeen {}

impl Hash for IsSeen {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.signature.hash(state);
    }
}

impl ScalarUDFImpl for IsSeen {
    fn name(&self) -> &str {
        "weir_is_seen"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(vec![DataType::Utf8; arguments.len()])
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [column] = arguments.args.as_slice() else { return internal_err!("a row is told by one column") };
        let values = column.to_array(arguments.number_rows)?;
        let seen = values.as_string::<i32>().iter().map(|value| value.is_none_or(|value| !self.hidden.hides(value)));
        Ok(ColumnarValue::Array(Arc::new(seen.map(Some).collect::<BooleanArray>())))
    }
}
