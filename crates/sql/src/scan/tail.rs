//! The rows of a table that are not in files yet.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::common::cast::as_boolean_array;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_expr_common::physical_expr::PhysicalExpr;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

use crate::tables::TailView;

/// Parts with fewer rows are put together.
const MERGED_ROWS: usize = 4096;

/// The rows of the tail, newest first.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    pub(super) parts: Arc<[Arc<dyn TailView>]>,
    pub(super) schema: SchemaRef,
    pub(super) projection: ProjectionExprs,
    /// In terms of `schema`.
    pub(super) filter: Option<Arc<dyn PhysicalExpr>>,
    pub(super) limit: Option<usize>,
}

/// Columns taken out of a batch of the tail, with the expressions over them.
struct Take {
    indices: Vec<usize>,
    schema: SchemaRef,
}

impl Take {
    fn of<'e>(expressions: impl Iterator<Item = &'e Arc<dyn PhysicalExpr>>, schema: &SchemaRef) -> Result<Self> {
        let mut indices: Vec<usize> = expressions.flat_map(collect_columns).map(|column| column.index()).collect();
        indices.sort_unstable();
        indices.dedup();
        let schema = Arc::new(schema.project(&indices)?);
        Ok(Self { indices, schema })
    }

    /// The columns, in the types of the table; what a batch does not have is null.
    fn columns(&self, batch: &RecordBatch, table: &Schema) -> Result<RecordBatch> {
        let own = batch.schema_ref();
        let columns = self
            .indices
            .iter()
            .map(|at| {
                let field = table.field(*at);
                Ok(match own.index_of(field.name()) {
                    Ok(at) if batch.column(at).data_type() == field.data_type() => Arc::clone(batch.column(at)),
                    Ok(at) => cast(batch.column(at), field.data_type())?,
                    Err(_) => new_null_array(field.data_type(), batch.num_rows()),
                })
            })
            .collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}

impl Tail {
    pub(super) fn output_schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(self.projection.project_schema(&self.schema)?))
    }

    pub(super) fn open(&self) -> Result<SendableRecordBatchStream> {
        let output = self.output_schema()?;
        let filter = match &self.filter {
            Some(filter) => {
                let take = Take::of(std::iter::once(filter), &self.schema)?;
                let filter = reassign_expr_columns(Arc::clone(filter), &take.schema)?;
                Some((take, filter))
            }
            None => None,
        };
        let take = Take::of(self.projection.iter().map(|projected| &projected.expr), &self.schema)?;
        let projection = self.projection.clone().try_map_exprs(|expr| reassign_expr_columns(expr, &take.schema))?;
        let projector = projection.make_projector(&take.schema)?;
        let table = Arc::clone(&self.schema);
        let result_schema = Arc::clone(&output);
        let evaluate = move |batch: &RecordBatch| -> Result<RecordBatch> {
            let columns = match &filter {
                None => take.columns(batch, &table)?,
                Some((filter_take, filter)) => {
                    // Only what the filter needs is looked at before it is known which rows stay.
                    let seen = filter_take.columns(batch, &table)?;
                    let keep = filter.evaluate(&seen)?.into_array(seen.num_rows())?;
                    let keep = as_boolean_array(&keep)?;
                    let kept = keep.true_count();
                    if kept == 0 {
                        return Ok(RecordBatch::new_empty(Arc::clone(&result_schema)));
                    }
                    let columns = take.columns(batch, &table)?;
                    if kept == columns.num_rows() { columns } else { filter_record_batch(&columns, keep)? }
                }
            };
            projector.project_batch(&columns)
        };
        let rows = Rows {
            parts: Arc::clone(&self.parts),
            at: 0,
            left: self.limit.unwrap_or(usize::MAX),
            held: None,
            schema: Arc::clone(&output),
            evaluate,
        };
        let stream =
            futures::stream::try_unfold(
                rows,
                |mut rows| async move { Ok(rows.next().await?.map(|batch| (batch, rows))) },
            );
        Ok(Box::pin(datafusion::physical_plan::coop::cooperative(RecordBatchStreamAdapter::new(
            output,
            stream.boxed(),
        ))))
    }
}

/// The rows of the parts that pass, in batches of some thousand where parts are small: operators
/// work by the batch.
struct Rows<E> {
    parts: Arc<[Arc<dyn TailView>]>,
    at: usize,
    /// Rows still wanted.
    left: usize,
    /// What did not fit into the last batch.
    held: Option<RecordBatch>,
    schema: SchemaRef,
    evaluate: E,
}

impl<E: Fn(&RecordBatch) -> Result<RecordBatch>> Rows<E> {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let mut gathered: Vec<RecordBatch> = self.held.take().into_iter().collect();
        let mut rows = gathered.iter().map(RecordBatch::num_rows).sum::<usize>();
        while rows < MERGED_ROWS.min(self.left)
            && let Some(part) = self.parts.get(self.at)
        {
            let batch = (self.evaluate)(&load(part).await?)?;
            self.at += 1;
            if !gathered.is_empty() && rows + batch.num_rows() > MERGED_ROWS {
                self.held = Some(batch);
                break;
            }
            if batch.num_rows() > 0 {
                rows += batch.num_rows();
                gathered.push(batch);
            }
        }
        let batch = match gathered.as_slice() {
            [] => return Ok(None),
            [only] => only.clone(),
            several => concat_batches(&self.schema, several)?,
        };
        let batch = batch.slice(0, batch.num_rows().min(self.left));
        self.left -= batch.num_rows();
        Ok((batch.num_rows() > 0).then_some(batch))
    }
}

/// The rows of a part; one that has to be read back is read where blocking does no harm.
async fn load(part: &Arc<dyn TailView>) -> Result<RecordBatch> {
    let result = if part.is_resident() {
        part.batch()
    } else {
        let part = Arc::clone(part);
        tokio::task::spawn_blocking(move || part.batch())
            .await
            .map_err(|error| datafusion::common::DataFusionError::ExecutionJoin(Box::new(error)))?
    };
    result.map_err(crate::SqlError::into_datafusion)
}
