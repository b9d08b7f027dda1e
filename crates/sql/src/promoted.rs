//! Attribute keys that have a column of their own in a file.
//!
//! A file says which by the names of its columns: `<open column>.<key>`. Expressions over the table
//! are rewritten for each file: reading a promoted key as its kind becomes reading its column, and
//! whoever wants the whole map gets it with the promoted entries put back. The user never sees the
//! difference; only the columns a query needs are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr_adapter::{DefaultPhysicalExprAdapter, PhysicalExprAdapter, PhysicalExprAdapterFactory};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use weir_base::{StreamName, TenantId, Timestamp};
use weir_data::attributes::AttributeKind;
use weir_data::streams::attributes_type;
use weir_meta::catalogue::{FileEntry, FileId, PromotedKey};
use weir_store::promote::restore_map;

use crate::attributes::{AttributeFunction, is_open_field};

/// Makes an adapter for each file.
#[derive(Debug)]
pub(crate) struct PromotedKeys;

impl PhysicalExprAdapterFactory for PromotedKeys {
    fn create(
        &self,
        logical_file_schema: SchemaRef,
        physical_file_schema: SchemaRef,
    ) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let keys = promoted_keys(&logical_file_schema, &physical_file_schema);
        let rest = DefaultPhysicalExprAdapter::new(Arc::clone(&logical_file_schema), Arc::clone(&physical_file_schema));
        if keys.is_empty() {
            return Ok(Arc::new(rest));
        }
        Ok(Arc::new(Adapter { keys, rest, logical: logical_file_schema, physical: physical_file_schema }))
    }
}

/// The promoted keys of a file, by the names and types of its columns.
fn promoted_keys(logical: &Schema, physical: &Schema) -> Vec<PromotedKey> {
    let open: Vec<&str> =
        logical.fields().iter().filter(|field| is_open_field(field)).map(|field| field.name().as_str()).collect();
    physical
        .fields()
        .iter()
        .filter(|field| logical.index_of(field.name()).is_err())
        .filter_map(|field| {
            let (column, key) = field.name().split_once('.')?;
            let kind = match field.data_type() {
                DataType::Boolean => AttributeKind::Bool,
                DataType::Float64 => AttributeKind::Number,
                DataType::Utf8 => AttributeKind::Text,
                _ => return None,
            };
            open.contains(&column).then(|| PromotedKey {
                column: column.to_owned(),
                key: key.to_owned(),
                kind: kind.as_str().to_owned(),
                file_column: field.name().clone(),
            })
        })
        .collect()
}

/// Rewrites expressions over the table for one file.
#[derive(Debug)]
struct Adapter {
    keys: Vec<PromotedKey>,
    rest: DefaultPhysicalExprAdapter,
    logical: SchemaRef,
    physical: SchemaRef,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = expr
            .transform_down(|expr| match self.replacement(&expr)? {
                Some(replacement) => Ok(Transformed::new(replacement, true, TreeNodeRecursion::Jump)),
                None => Ok(Transformed::no(expr)),
            })
            .data()?;
        self.rest.rewrite(expr)
    }
}

impl Adapter {
    /// What takes the place of an expression, which is then not looked into any more.
    fn replacement(&self, expr: &Arc<dyn PhysicalExpr>) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        if let Some(column) = expr.downcast_ref::<Column>() {
            let keys: Vec<&PromotedKey> = self.keys.iter().filter(|key| key.column == column.name()).collect();
            return if keys.is_empty() { Ok(None) } else { self.restored(expr, &keys).map(Some) };
        }
        let Some(call) = ScalarFunctionExpr::try_downcast_func::<AttributeFunction>(expr.as_ref()) else {
            return Ok(None);
        };
        let [map, key] = call.args() else { return Ok(None) };
        let (Some(column), Some(key)) = (map.downcast_ref::<Column>(), key.downcast_ref::<Literal>()) else {
            return Ok(None);
        };
        let Some(Some(key)) = key.value().try_as_str() else { return Ok(None) };
        let Some(promoted) = self.keys.iter().find(|own| own.column == column.name() && own.key == key) else {
            // The key is in the map, if anywhere: the promoted ones do not matter.
            return Ok(Some(Arc::clone(expr)));
        };
        let Some(function) = call.fun().inner().downcast_ref::<AttributeFunction>() else { return Ok(None) };
        match function.reading().kind() {
            Some(kind) if kind.as_str() == promoted.kind => {
                let own: Arc<dyn PhysicalExpr> = self.file_column(promoted)?;
                Ok(Some(if kind == AttributeKind::Text {
                    Arc::new(CastExpr::new(own, DataType::Utf8View, None))
                } else {
                    own
                }))
            }
            // Read as something else than it is kept as: from the entry itself.
            _ => {
                let entry = self.restored(map, &[promoted])?;
                let config = Arc::new(ConfigOptions::default());
                let arguments = vec![entry, Arc::clone(&call.args()[1])];
                let function = Arc::new(call.fun().clone());
                Ok(Some(Arc::new(ScalarFunctionExpr::try_new(function, arguments, &self.both(), config)?)))
            }
        }
    }

    fn file_column(&self, promoted: &PromotedKey) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Column::new(&promoted.file_column, self.physical.index_of(&promoted.file_column)?)))
    }

    /// A map with the entries of `keys` in it.
    fn restored(&self, map: &Arc<dyn PhysicalExpr>, keys: &[&PromotedKey]) -> Result<Arc<dyn PhysicalExpr>> {
        let mut arguments = vec![Arc::clone(map)];
        for key in keys {
            arguments.push(self.file_column(key)?);
        }
        let function = RestoreFunction {
            keys: keys.iter().map(|key| (key.column.clone(), key.key.clone(), key.kind.clone())).collect(),
            signature: Signature::variadic_any(Volatility::Immutable),
        };
        let field = Arc::new(Field::new(&keys[0].column, attributes_type(), true));
        Ok(Arc::new(ScalarFunctionExpr::new(
            "weir_restore",
            Arc::new(ScalarUDF::new_from_impl(function)),
            arguments,
            field,
            Arc::new(ConfigOptions::default()),
        )))
    }

    /// The columns an expression may name while it is being rewritten: those of the table, then
    /// those only the file has.
    fn both(&self) -> Schema {
        let mut fields: Vec<FieldRef> = self.logical.fields().iter().cloned().collect();
        let len = fields.len().max(self.physical.fields().len());
        let filler = Arc::new(Field::new("", DataType::Null, true));
        fields.resize(len, filler);
        for key in &self.keys {
            if let Ok(at) = self.physical.index_of(&key.file_column) {
                fields[at] = Arc::clone(&self.physical.fields()[at]);
            }
        }
        Schema::new(fields)
    }
}

/// Puts promoted entries back into a map: `(map, column of the first key, ...)`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RestoreFunction {
    /// Open column, key and kind.
    keys: Vec<(String, String, String)>,
    signature: Signature,
}

impl ScalarUDFImpl for RestoreFunction {
    fn name(&self) -> &str {
        "weir_restore"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(attributes_type())
    }

    fn return_field_from_args(&self, _arguments: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), attributes_type(), true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let arrays = arguments.args.iter().map(|value| value.to_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
        let (Some((column, _, _)), true) = (self.keys.first(), arrays.len() == self.keys.len() + 1) else {
            return internal_err!("a map is restored from itself and the columns of its keys");
        };
        let promoted: Vec<PromotedKey> = self
            .keys
            .iter()
            .map(|(column, key, kind)| PromotedKey {
                column: column.clone(),
                key: key.clone(),
                kind: kind.clone(),
                file_column: format!("{column}.{key}"),
            })
            .collect();
        let mut fields = vec![Field::new(column, arrays[0].data_type().clone(), true)];
        fields.extend(
            promoted
                .iter()
                .zip(&arrays[1..])
                .map(|(key, own)| Field::new(&key.file_column, own.data_type().clone(), true)),
        );
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)?;
        let restored = restore_map(&batch, &entry_of(promoted)).map_err(|error| {
            tracing::error!(error = weir_base::error::chain(&error), "cannot restore attributes");
            crate::SqlError::Internal.into_datafusion()
        })?;
        match restored.column_by_name(column) {
            Some(map) => Ok(ColumnarValue::Array(Arc::clone(map))),
            None => internal_err!("a map is gone after it was restored"),
        }
    }
}

/// As much of a catalogue entry as restoring looks at.
fn entry_of(promoted: Vec<PromotedKey>) -> FileEntry {
    let nobody = TenantId::system();
    #[allow(clippy::expect_used, reason = "a constant that is a name")]
    let stream = StreamName::new("none").expect("a stream's name");
    FileEntry {
        id: FileId(0),
        tenant: nobody,
        stream,
        partition: String::new(),
        path: String::new(),
        bytes: 0,
        rows: 0,
        min_time: Timestamp::default(),
        max_time: Timestamp::default(),
        max_received_at: Timestamp::default(),
        level: 0,
        columns: BTreeMap::new(),
        promoted,
        block_crcs: Vec::new(),
        footer_bytes: 0,
        created_at: Timestamp::default(),
    }
}
