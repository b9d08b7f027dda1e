//! The rows of a tail in the order and the form of their file, a batch at a time.

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use weir_meta::catalogue::PromotedKey;

use crate::order::{Run, RunCursor, gather};
use crate::promote::promote;
use crate::texts::{Coding, repeat};

/// Rows gathered and encoded at a time.
const BATCH_ROWS: u32 = 8192;
/// Rows looked at before it is decided which columns become numbers.
const SAMPLE_ROWS: usize = 8192;

/// Rows in their final order.
pub(crate) struct Sorted<'a> {
    /// What numbers in the batches mean.
    pub(crate) coding: Coding,
    cursor: RunCursor<'a>,
    form: Form<'a>,
}

enum Form<'a> {
    /// All sources have the form of the file already.
    Prepared(Vec<RecordBatch>),
    /// Every batch is brought into the form of the file.
    Plain { schema: &'a SchemaRef, batches: &'a [RecordBatch], promoted: &'a [PromotedKey], first: Option<RecordBatch> },
}

impl<'a> Sorted<'a> {
    /// Prepares whole sources first: attributes get their columns and texts their numbers where
    /// they lie in memory, and what is gathered in random order is mostly numbers. A source is given
    /// up as soon as it is prepared: rows that were read back from the log are nobody else's.
    pub(crate) fn prepared(
        batches: Vec<RecordBatch>,
        runs: &'a [Run],
        promoted: &[PromotedKey],
        file_schema: &SchemaRef,
    ) -> Result<Self, ArrowError> {
        let mut waiting: Vec<RecordBatch> = Vec::new();
        let mut coding: Option<Coding> = None;
        let mut prepared = Vec::with_capacity(batches.len());
        let mut rows = 0;
        for batch in batches {
            let batch = promote(&batch, promoted, file_schema)?;
            match &mut coding {
                Some(coding) => prepared.push(coding.encode(&batch)?),
                None => {
                    rows += batch.num_rows();
                    waiting.push(batch);
                    if rows >= SAMPLE_ROWS {
                        let coding = coding.insert(choose(file_schema, &waiting));
                        for batch in waiting.drain(..) {
                            prepared.push(coding.encode(&batch)?);
                        }
                    }
                }
            }
        }
        let mut coding = coding.unwrap_or_else(|| choose(file_schema, &waiting));
        for batch in waiting {
            prepared.push(coding.encode(&batch)?);
        }
        Ok(Self { coding, cursor: RunCursor::new(runs), form: Form::Prepared(prepared) })
    }

    /// Gathers first.
    pub(crate) fn plain(
        schema: &'a SchemaRef,
        batches: &'a [RecordBatch],
        runs: &'a [Run],
        promoted: &'a [PromotedKey],
        file_schema: &SchemaRef,
    ) -> Result<Self, ArrowError> {
        let mut cursor = RunCursor::new(runs);
        let first = promote(&gather(schema, batches, &cursor.next(BATCH_ROWS))?, promoted, file_schema)?;
        let coding = choose(file_schema, std::slice::from_ref(&first));
        Ok(Self { coding, cursor, form: Form::Plain { schema, batches, promoted, first: Some(first) } })
    }

    /// The next rows.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        if let Form::Plain { first, .. } = &mut self.form
            && let Some(first) = first.take()
        {
            return self.coding.encode(&first).map(Some);
        }
        let runs = self.cursor.next(BATCH_ROWS);
        if runs.is_empty() {
            return Ok(None);
        }
        match &self.form {
            Form::Prepared(sources) => gather(self.coding.coded(), sources, &runs).map(Some),
            Form::Plain { schema, batches, promoted, .. } => {
                let batch = promote(&gather(schema, batches, &runs)?, promoted, self.coding.plain())?;
                self.coding.encode(&batch).map(Some)
            }
        }
    }
}

/// Texts that repeat become numbers.
fn choose(schema: &SchemaRef, sample: &[RecordBatch]) -> Coding {
    Coding::new(schema, |field| {
        let column = |batch: &'_ RecordBatch| -> Option<StringArray> {
            let column = batch.column_by_name(field.name())?;
            (*column.data_type() == DataType::Utf8).then(|| column.as_string().clone())
        };
        let columns: Vec<StringArray> = sample.iter().filter_map(column).collect();
        repeat(columns.iter())
    })
}
