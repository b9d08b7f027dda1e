//! What all windows have in common: how results are put out, and which part of a state an instance owns.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StructArray, TimestampNanosecondArray, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use weir_component::Batch;
use weir_component::operator::{Aside, AsideNotes, AsideReason, OperatorError, Output, Share};
use weir_component::revision::Revision;
use weir_sql::expressions::{Aggregation, Finished, key_hashes};

use super::WINDOW_COLUMN;
use crate::failing::{self, fatal};

/// What the results of a window step look like.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) aggregation: Arc<Aggregation>,
    /// The columns: window, keys, values.
    pub(super) schema: SchemaRef,
}

/// What is known of results beside the values: for each the bounds of its window and its event time.
#[derive(Clone, Debug, Default)]
pub(super) struct About {
    pub(super) starts: Vec<i64>,
    pub(super) ends: Vec<i64>,
    pub(super) times: Vec<i64>,
    /// Which revisions they are; empty if they are never revised.
    pub(super) revisions: Vec<Revision>,
}

impl About {
    /// Of so many results of one window.
    pub(super) fn of_one(start: i64, end: i64, revisions: Vec<Revision>) -> Self {
        let of_all = |time: i64| vec![time; revisions.len()];
        Self { starts: of_all(start), ends: of_all(end), times: of_all(end - 1), revisions }
    }

    fn slice(&self, from: usize, to: usize) -> Self {
        let part = |times: &[i64]| times[from..to].to_vec();
        Self {
            starts: part(&self.starts),
            ends: part(&self.ends),
            times: part(&self.times),
            revisions: self.revisions.get(from..to).unwrap_or_default().to_vec(),
        }
    }

    fn batch(&self, rows: RecordBatch) -> Batch {
        let revisions = (!self.revisions.is_empty()).then(|| self.revisions.iter().copied().collect());
        Batch { revisions, ..Batch::new(rows, self.times.clone().into()) }
    }
}

impl Shape {
    /// The shape of results; if they may be retracted, values may be null.
    pub(super) fn new(aggregation: Arc<Aggregation>, may_be_retracted: bool) -> Self {
        let n_before = 1 + aggregation.n_keys();
        let schema = Arc::clone(aggregation.output_schema());
        if !may_be_retracted {
            return Self { aggregation, schema };
        }
        let fields = schema.fields().iter().enumerate().map(|(at, field)| {
            if at < n_before { Arc::clone(field) } else { Arc::new(field.as_ref().clone().with_nullable(true)) }
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self { aggregation, schema }
    }

    /// Puts out the results of groups. A group an expression fails on, such as a division by a sum that is 0, is
    /// set aside; the others come. Of one that is not final nothing comes; should it become final like that, what
    /// was put out of it before is taken back.
    pub(super) fn put_out(
        &self,
        about: &About,
        finished: &Finished,
        output: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        let n_rows = finished.rows();
        if n_rows == 0 {
            return Ok(());
        }
        match self.aggregation.results(vec![self.windows(about)], finished) {
            Ok(rows) => output.batch(0, about.batch(self.fitted(rows.columns().to_vec(), n_rows)?)),
            Err(error) if !failing::is_of_a_row(&error) => return Err(fatal(&error)),
            Err(error) if n_rows == 1 => {
                let revision = about.revisions.first().copied();
                if revision.is_some_and(|revision| !revision.is_final) {
                    return Ok(());
                }
                if let Some(revision) = revision.filter(|revision| revision.number > 1) {
                    let gone = Revision { is_retracted: true, ..revision };
                    self.retract(&About { revisions: vec![gone], ..about.clone() }, finished.keys().to_vec(), output)?;
                }
                let group = self.aggregation.group(vec![self.windows(about)], finished);
                output.aside(Aside {
                    reason: AsideReason::Failed,
                    rows: group.map_err(|error| fatal(&error))?,
                    times: Some(about.times.clone().into()),
                    notes: AsideNotes::Messages(vec![error.to_string()]),
                });
            }
            Err(_) => {
                let half = n_rows / 2;
                for (from, to) in [(0, half), (half, n_rows)] {
                    self.put_out(&about.slice(from, to), &finished.slice(from, to - from), output)?;
                }
            }
        }
        Ok(())
    }

    /// Puts out that results do not exist any more.
    pub(super) fn retract(
        &self,
        about: &About,
        keys: Vec<ArrayRef>,
        output: &mut dyn Output,
    ) -> Result<(), OperatorError> {
        let n_rows = about.times.len();
        if n_rows == 0 {
            return Ok(());
        }
        let groups = self.aggregation.group(vec![self.windows(about)], &Finished::of_keys(keys, n_rows));
        let mut columns = groups.map_err(|error| fatal(&error))?.columns().to_vec();
        for field in &self.schema.fields()[columns.len()..] {
            columns.push(new_null_array(field.data_type(), n_rows));
        }
        output.batch(0, about.batch(self.fitted(columns, n_rows)?));
        Ok(())
    }

    fn fitted(&self, columns: Vec<ArrayRef>, n_rows: usize) -> Result<RecordBatch, OperatorError> {
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(n_rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(OperatorError::internal)
    }

    /// The column with the windows.
    fn windows(&self, about: &About) -> ArrayRef {
        let time =
            |times: &[i64]| Arc::new(TimestampNanosecondArray::from(times.to_vec()).with_timezone("UTC")) as ArrayRef;
        let fields = match self.schema.field_with_name(WINDOW_COLUMN).map(|field| field.data_type()) {
            Ok(DataType::Struct(fields)) => fields.clone(),
            _ => unreachable!("the first column is the window"),
        };
        Arc::new(StructArray::new(fields, vec![time(&about.starts), time(&about.ends)], None))
    }
}

/// The rows of a state whose keys an instance owns. The first columns are those of the aggregation's state.
pub(super) fn share_of(
    aggregation: &Aggregation,
    batch: &RecordBatch,
    share: Share,
) -> Result<RecordBatch, OperatorError> {
    if batch.schema_ref() != aggregation.state_schema() {
        return Err(OperatorError::state("the state of a window step has other columns than this step needs"));
    }
    if share.count == 1 {
        return Ok(batch.clone());
    }
    let own = owned(aggregation, batch, share)?;
    filter_record_batch(batch, &own).map_err(OperatorError::internal)
}

/// Which rows of a state an instance owns; the first columns are the keys.
pub(super) fn owned(
    aggregation: &Aggregation,
    batch: &RecordBatch,
    share: Share,
) -> Result<BooleanArray, OperatorError> {
    let keys = &batch.columns()[..aggregation.n_keys()];
    let hashes = key_hashes(keys, batch.num_rows()).map_err(|error| fatal(&error))?;
    Ok(hashes.into_iter().map(|hash| Some(share.owns(hash))).collect())
}
