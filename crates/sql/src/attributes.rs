//! `attributes['k']` in SQL.
//!
//! An open column is a map from key to the JSON text of the value. The planner turns a subscript on
//! such a column into a scalar function that reads the value as the kind the catalogue fixed for
//! the key; a value of another kind is null there, and is reachable by `attribute_text` and
//! `attribute_int`. A key without a kind (of a stream that pipelines write, or one of too many) reads
//! as text, whatever its values are. Which stream and column a map comes from travels as field metadata, so it
//! survives aliases, subqueries, common table expressions, grouping and joins.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, MapArray, StringArray, StringViewBuilder,
};
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawFieldAccessExpr};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ExpressionPlacement, GetFieldAccess, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use weir_data::attributes::{self, AttributeKind};
use weir_data::streams::StreamDef;

use crate::tables::AttributeKindLookup;

/// Field metadata of an open column: the stream it belongs to.
const STREAM_MARK: &str = "weir.stream";
/// Field metadata of an open column: its name in the stream.
const COLUMN_MARK: &str = "weir.column";

/// The schema of a stream as SQL sees it: text as views, which are compared and moved without
/// copying, and open columns marked with where they come from.
pub(crate) fn sql_schema(stream: &StreamDef) -> SchemaRef {
    let fields: Vec<FieldRef> = stream
        .schema
        .fields()
        .iter()
        .map(|field| {
            if stream.is_open(field.name()) {
                mark_open(&stream.name, field)
            } else if field.data_type() == &DataType::Utf8 {
                Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View))
            } else {
                Arc::clone(field)
            }
        })
        .collect();
    Arc::new(arrow::datatypes::Schema::new(fields))
}

/// An open column of `stream`, marked with where it comes from.
pub(crate) fn mark_open(stream: &str, field: &Field) -> FieldRef {
    let mut metadata = field.metadata().clone();
    metadata.insert(STREAM_MARK.to_owned(), stream.to_owned());
    metadata.insert(COLUMN_MARK.to_owned(), field.name().clone());
    Arc::new(field.clone().with_metadata(metadata))
}

/// Whether a field of a schema made by [`sql_schema`] is an open column.
pub(crate) fn is_open_field(field: &Field) -> bool {
    field.metadata().contains_key(COLUMN_MARK)
}

/// Takes the marks of [`sql_schema`] off a field of a result.
pub(crate) fn unmarked(field: &Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.remove(STREAM_MARK);
    metadata.remove(COLUMN_MARK);
    field.clone().with_metadata(metadata)
}

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reading {
    /// As a boolean, or null.
    Bool,
    /// As a number, or null.
    Number,
    /// As text if it is text, a list or an object; or null.
    Text,
    /// As text whatever it is, because that was asked for.
    AnyText,
    /// As text whatever it is, because the key has no kind.
    Unfixed,
    /// As an integer, exactly, or null.
    Int,
}

impl Reading {
    fn of(kind: AttributeKind) -> Self {
        match kind {
            AttributeKind::Bool => Self::Bool,
            AttributeKind::Number => Self::Number,
            AttributeKind::Text => Self::Text,
        }
    }

    /// The kind it reads, if it reads one.
    pub(crate) fn kind(self) -> Option<AttributeKind> {
        match self {
            Self::Bool => Some(AttributeKind::Bool),
            Self::Number => Some(AttributeKind::Number),
            Self::Text => Some(AttributeKind::Text),
            Self::AnyText | Self::Unfixed | Self::Int => None,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Number => DataType::Float64,
            Self::Text | Self::AnyText | Self::Unfixed => DataType::Utf8View,
            Self::Int => DataType::Int64,
        }
    }

    fn function_name(self) -> &'static str {
        match self {
            Self::Bool => "weir_attribute_bool",
            Self::Number => "weir_attribute_number",
            Self::Text => "weir_attribute_value",
            Self::AnyText => "attribute_text",
            Self::Unfixed => "weir_attribute_unfixed",
            Self::Int => "attribute_int",
        }
    }
}

/// Reads one key of an open column.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct AttributeFunction {
    reading: Reading,
    signature: Signature,
}

impl AttributeFunction {
    pub(crate) fn new(reading: Reading) -> Self {
        Self { reading, signature: Signature::new(TypeSignature::UserDefined, Volatility::Immutable) }
    }

    pub(crate) fn reading(&self) -> Reading {
        self.reading
    }

    pub(crate) fn udf(reading: Reading) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Self::new(reading)))
    }
}

fn is_open_map(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => fields.iter().all(|field| field.data_type() == &DataType::Utf8),
            _ => false,
        },
        _ => false,
    }
}

fn written(expr: &Expr) -> String {
    match expr {
        Expr::Literal(value, _) => match value.try_as_str() {
            Some(Some(text)) => format!("'{}'", text.replace('\'', "''")),
            _ => value.to_string(),
        },
        other => other.schema_name().to_string(),
    }
}

impl ScalarUDFImpl for AttributeFunction {
    fn name(&self) -> &str {
        self.reading.function_name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.reading.data_type())
    }

    fn return_field_from_args(&self, _arguments: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), self.reading.data_type(), true)))
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        let [column, key] = arguments else { return internal_err!("an attribute has a column and a key") };
        let column = column.schema_name();
        Ok(match self.reading {
            Reading::Bool | Reading::Number | Reading::Text | Reading::Unfixed => format!("{column}[{}]", written(key)),
            Reading::AnyText | Reading::Int => format!("{}({column}, {})", self.name(), written(key)),
        })
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let [column, key] = arguments else {
            return plan_err!("{} takes a column of attributes and a key", self.name());
        };
        if !is_open_map(column) && column != &DataType::Null {
            return plan_err!("{} takes a column of attributes, such as attributes or properties", self.name());
        }
        if !matches!(key, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null) {
            return plan_err!("a key of attributes is text");
        }
        let column = if column == &DataType::Null { weir_data::streams::attributes_type() } else { column.clone() };
        Ok(vec![column, DataType::Utf8])
    }

    fn placement(&self, arguments: &[ExpressionPlacement]) -> ExpressionPlacement {
        // Reading a key next to the file spares everything above from carrying the map.
        match arguments {
            [ExpressionPlacement::Column | ExpressionPlacement::MoveTowardsLeafNodes, ExpressionPlacement::Literal] => {
                ExpressionPlacement::MoveTowardsLeafNodes
            }
            _ => ExpressionPlacement::KeepInPlace,
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [column, key] = arguments.args.as_slice() else {
            return internal_err!("an attribute has a column and a key");
        };
        let scalar = matches!((column, key), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { arguments.number_rows };
        let column = column.to_array(rows)?;
        let Some(map) = column.as_any().downcast_ref::<MapArray>() else {
            return exec_err!("not a column of attributes");
        };
        let result = match key {
            ColumnarValue::Scalar(value) => match value.try_as_str() {
                Some(Some(key)) => read(map, self.reading, |_| Some(key))?,
                _ => arrow::array::new_null_array(&self.reading.data_type(), rows),
            },
            ColumnarValue::Array(keys) => {
                let keys = arrow::compute::cast(keys, &DataType::Utf8)?;
                let Some(keys) = keys.as_any().downcast_ref::<StringArray>() else {
                    return exec_err!("not a column of keys");
                };
                read(map, self.reading, |row| keys.is_valid(row).then(|| keys.value(row)))?
            }
        };
        Ok(if scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)
        } else {
            ColumnarValue::Array(result)
        })
    }
}

/// Reads `key(row)` of every row of `map`.
fn read<'k>(map: &MapArray, reading: Reading, key: impl Fn(usize) -> Option<&'k str>) -> Result<ArrayRef> {
    let (Some(keys), Some(values)) =
        (map.keys().as_any().downcast_ref::<StringArray>(), map.values().as_any().downcast_ref::<StringArray>())
    else {
        return exec_err!("not a column of attributes");
    };
    let offsets = map.value_offsets();
    // Of a repeated key the first one counts.
    let find = |row: usize| -> Option<usize> {
        if map.is_null(row) {
            return None;
        }
        let key = key(row)?;
        let (start, end) = (usize::try_from(offsets[row]).ok()?, usize::try_from(offsets[row + 1]).ok()?);
        (start..end).find(|at| keys.value(*at) == key)
    };
    let rows = map.len();
    Ok(match reading {
        Reading::Bool => {
            let mut out = BooleanBuilder::with_capacity(rows);
            for row in 0..rows {
                out.append_option(find(row).and_then(|at| attributes::as_bool(values.value(at))));
            }
            Arc::new(out.finish())
        }
        Reading::Number => {
            let mut out = Float64Builder::with_capacity(rows);
            for row in 0..rows {
                out.append_option(find(row).and_then(|at| attributes::as_number(values.value(at))));
            }
            Arc::new(out.finish())
        }
        Reading::Int => {
            let mut out = Int64Builder::with_capacity(rows);
            for row in 0..rows {
                out.append_option(find(row).and_then(|at| attributes::as_int(values.value(at))));
            }
            Arc::new(out.finish())
        }
        Reading::Text | Reading::AnyText | Reading::Unfixed => {
            let mut out = StringViewBuilder::with_capacity(rows);
            for row in 0..rows {
                let text = find(row).and_then(|at| {
                    let value = values.value(at);
                    if reading == Reading::Text { attributes::as_kind_text(value) } else { attributes::as_text(value) }
                });
                out.append_option(text);
            }
            Arc::new(out.finish())
        }
    })
}

/// The call that reads `key` of `column` as `reading`.
fn call(reading: Reading, column: Expr, key: Expr) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(AttributeFunction::udf(reading), vec![column, key]))
}

/// Lets a comparison of an attribute with constants pass, or refuses it: the engine would only say that a text is no
/// number, and not that the attribute is one.
pub(crate) fn check_comparison(part: &Expr) -> Result<()> {
    let compared: Vec<&Expr> = match part {
        Expr::BinaryExpr(both) if both.op.supports_propagation() => vec![&both.left, &both.right],
        Expr::Like(like) => vec![&like.expr, &like.pattern],
        Expr::InList(list) => std::iter::once(list.expr.as_ref()).chain(&list.list).collect(),
        Expr::Between(between) => vec![&between.expr, &between.low, &between.high],
        _ => return Ok(()),
    };
    for attribute in &compared {
        let Expr::ScalarFunction(call) = attribute else { continue };
        let Some(function) = call.func.inner().downcast_ref::<AttributeFunction>() else { continue };
        let [column, key] = call.args.as_slice() else { continue };
        let what = match function.reading.kind() {
            Some(AttributeKind::Number) => "a number",
            Some(AttributeKind::Bool) => "true or false",
            Some(AttributeKind::Text) | None => continue,
        };
        let is_other = |other: &&&Expr| match other {
            Expr::Literal(value, _) => {
                matches!(value.try_as_str(), Some(Some(_))) && value.cast_to(&function.reading.data_type()).is_err()
            }
            _ => false,
        };
        if let Some(other) = compared.iter().find(is_other) {
            let (column, key, other) = (written(column), written(key), written(other));
            return plan_err!(
                "{column}[{key}] is {what}, and {other} is not: to compare it as text, write attribute_text({column}, {key})"
            );
        }
    }
    Ok(())
}

/// Plans subscripts on open columns.
pub(crate) struct AttributePlanner {
    kinds: Arc<dyn AttributeKindLookup>,
}

impl fmt::Debug for AttributePlanner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AttributePlanner")
    }
}

impl AttributePlanner {
    pub(crate) fn new(kinds: Arc<dyn AttributeKindLookup>) -> Self {
        Self { kinds }
    }
}

impl ExprPlanner for AttributePlanner {
    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let (_, field) = access.expr.to_field(schema)?;
        let (Some(stream), Some(column)) = (field.metadata().get(STREAM_MARK), field.metadata().get(COLUMN_MARK))
        else {
            return Ok(PlannerResult::Original(access));
        };
        if !is_open_map(field.data_type()) {
            return Ok(PlannerResult::Original(access));
        }
        let planned = match access.field_access {
            GetFieldAccess::NamedStructField { name: key } => match key.try_as_str().flatten() {
                Some(text) => {
                    let reading = self.kinds.kind(stream, column, text).map_or(Reading::Unfixed, Reading::of);
                    call(reading, access.expr, Expr::Literal(ScalarValue::from(text), None))
                }
                None => return plan_err!("a key of {column} is text, as in {column}['key']"),
            },
            // The key is an expression: its kind differs from row to row, so it reads as text.
            GetFieldAccess::ListIndex { key } => call(Reading::AnyText, access.expr, *key),
            GetFieldAccess::ListRange { .. } => {
                return plan_err!("{column} is not a list; its keys are read as in {column}['key']");
            }
        };
        Ok(PlannerResult::Planned(planned))
    }
}
