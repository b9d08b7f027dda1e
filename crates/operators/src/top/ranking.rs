//! The first rows of groups: what they are compared by, and how they are held.
//!
//! Rows are compared as bytes that compare as the rows do (`arrow::row`): what they are ordered by, their time, their
//! columns. They are held in the batches they came in.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{SortOptions, cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use weir_component::Batch;
use weir_component::operator::{OperatorError, Output, Share};
use weir_sql::SqlError;
use weir_sql::expressions::{Ordered, key_hashes};

use super::Ties;
use crate::by::By;
use crate::failing::{self, fatal};

/// Results are put out, and states are written, in batches of so many rows.
pub(super) const BATCH_ROWS: usize = 8192;
/// The column with a time, in a state. No name of a user has a space in front.
const TIME: &str = " time";

/// What the instances of a step share.
#[derive(Debug)]
pub(super) struct Ranking {
    /// So many rows, or so many places.
    pub(super) rows_max: usize,
    pub(super) ties: Ties,
    pub(super) order: Vec<Ordered>,
    pub(super) by: Arc<By>,
    /// The columns of the rows.
    pub(super) schema: SchemaRef,
    /// The same, and that of the place if there is one.
    pub(super) output: SchemaRef,
}

/// Turns rows into bytes and back.
pub(super) struct Encoder {
    ranking: Arc<Ranking>,
    order: RowConverter,
    keys: Option<RowConverter>,
    rows: RowConverter,
    /// How many bytes the time takes at the end of what rows are ordered by.
    time_bytes: usize,
    state_schema: SchemaRef,
}

/// Rows with their keys, and what they are ordered by: the last of that is their time.
pub(super) struct Evaluated {
    pub(super) batch: Batch,
    pub(super) keys: Vec<ArrayRef>,
    pub(super) order: Vec<ArrayRef>,
}

/// The keys of rows, and what they are ordered by, as bytes.
pub(super) struct Encoded {
    pub(super) batch: Batch,
    keys: Option<Rows>,
    order: Rows,
}

impl Ranking {
    /// Whether values in an order can be compared.
    pub(super) fn is_supported(order: &[Ordered]) -> bool {
        RowConverter::supports_fields(&Self::fields(order))
    }

    fn fields(order: &[Ordered]) -> Vec<SortField> {
        let field = |part: &Ordered| {
            let options = SortOptions { descending: part.is_descending, nulls_first: part.nulls_first };
            SortField::new_with_options(part.value.field().data_type().clone(), options)
        };
        order.iter().map(field).chain([SortField::new(DataType::Int64)]).collect()
    }

    /// Keys and order of rows, one array each.
    fn evaluate(&self, batch: &Batch) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>), SqlError> {
        let keys = self.by.columns(&batch.rows)?;
        let mut order = Vec::with_capacity(self.order.len() + 1);
        for part in &self.order {
            order.push(part.value.evaluate(&batch.rows)?);
        }
        order.push(Arc::new(Int64Array::new(batch.times.clone(), None)));
        Ok((keys, order))
    }

    /// The columns of a state.
    fn state_schema(&self) -> SchemaRef {
        let time: FieldRef = Arc::new(Field::new(TIME, DataType::Int64, false));
        Arc::new(Schema::new(self.schema.fields().iter().map(Arc::clone).chain([time]).collect::<Vec<_>>()))
    }
}

fn plain(schema: &SchemaRef) -> Vec<SortField> {
    schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect()
}

impl Evaluated {
    /// Some of the rows.
    pub(super) fn take(&self, rows: Vec<u32>) -> Result<Self, OperatorError> {
        let rows = UInt32Array::from(rows);
        let taken = |columns: &[ArrayRef]| {
            let columns = columns.iter().map(|column| take(column, &rows, None));
            columns.collect::<Result<Vec<ArrayRef>, _>>().map_err(OperatorError::internal)
        };
        let (keys, order) = (taken(&self.keys)?, taken(&self.order)?);
        Ok(Self { batch: self.batch.take(&rows).map_err(OperatorError::internal)?, keys, order })
    }
}

impl Encoded {
    /// The keys of a row.
    pub(super) fn key(&self, row: usize) -> &[u8] {
        self.keys.as_ref().map_or(&[], |keys| keys.row(row).data())
    }

    /// What a row is ordered by.
    pub(super) fn order(&self, row: usize) -> &[u8] {
        self.order.row(row).data()
    }
}

impl Encoder {
    pub(super) fn new(ranking: Arc<Ranking>) -> Result<Self, OperatorError> {
        let converter = |fields: Vec<SortField>| RowConverter::new(fields).map_err(OperatorError::internal);
        let keys = match ranking.by.schema.fields().is_empty() {
            true => None,
            false => Some(converter(plain(&ranking.by.schema))?),
        };
        // A row is the bytes of its columns one after the other, and those of a number are always as many.
        let time = converter(vec![SortField::new(DataType::Int64)])?;
        let time = time.convert_columns(&[Arc::new(Int64Array::from(vec![0]))]).map_err(OperatorError::internal)?;
        Ok(Self {
            order: converter(Ranking::fields(&ranking.order))?,
            time_bytes: time.row(0).data().len(),
            keys,
            rows: converter(plain(&ranking.schema))?,
            state_schema: ranking.state_schema(),
            ranking,
        })
    }

    /// Keys and order of rows; those it fails on are set aside.
    pub(super) fn evaluate(&self, batch: Batch, output: &mut dyn Output) -> Result<Vec<Evaluated>, OperatorError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let ranking = &self.ranking;
        let computed = failing::apply(batch, output, &mut |batch| ranking.evaluate(batch))?;
        Ok(computed.into_iter().map(|(batch, (keys, order))| Evaluated { batch, keys, order }).collect())
    }

    /// Keys and order of rows as bytes.
    pub(super) fn encoded(&self, rows: Evaluated) -> Result<Encoded, OperatorError> {
        let Evaluated { batch, keys, order } = rows;
        let order = self.order_as_bytes(&order)?;
        Ok(Encoded { keys: self.keys_as_bytes(&keys)?, order, batch })
    }

    /// What rows are ordered by, as bytes that compare as they do.
    pub(super) fn order_as_bytes(&self, order: &[ArrayRef]) -> Result<Rows, OperatorError> {
        self.order.convert_columns(order).map_err(OperatorError::internal)
    }

    /// Keys as columns.
    pub(super) fn keys<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, OperatorError> {
        let Some(converter) = &self.keys else { return Ok(Vec::new()) };
        let parser = converter.parser();
        let columns = converter.convert_rows(keys.map(|key| parser.parse(key))).map_err(OperatorError::internal)?;
        let fitted = |(column, field): (ArrayRef, &FieldRef)| match column.data_type() {
            same if same == field.data_type() => Ok(column),
            // Repeating values were written out.
            _ => cast(&column, field.data_type()).map_err(OperatorError::internal),
        };
        columns.into_iter().zip(self.key_schema().fields()).map(fitted).collect()
    }

    /// Key columns as bytes, as [`Encoded::key`] gives them.
    pub(super) fn keys_as_bytes(&self, keys: &[ArrayRef]) -> Result<Option<Rows>, OperatorError> {
        let rows = self.keys.as_ref().map(|converter| converter.convert_columns(keys));
        rows.transpose().map_err(OperatorError::internal)
    }

    /// The columns of rows as bytes.
    pub(super) fn columns_as_bytes(&self, rows: &RecordBatch) -> Result<Rows, OperatorError> {
        let columns = &rows.columns()[..self.ranking.schema.fields().len()];
        self.rows.convert_columns(columns).map_err(OperatorError::internal)
    }

    /// The columns of one row as bytes.
    pub(super) fn row_as_bytes(&self, row: Option<RecordBatch>) -> Result<Box<[u8]>, OperatorError> {
        let row = row.ok_or_else(|| OperatorError::internal("a row among the first is not held"))?;
        Ok(self.columns_as_bytes(&row)?.row(0).data().into())
    }

    pub(super) fn rows_max(&self) -> usize {
        self.ranking.rows_max
    }

    pub(super) fn ties(&self) -> Ties {
        self.ranking.ties
    }

    /// What a row is ordered by, without its time: rows for which that is equal may share a place.
    pub(super) fn without_time<'a>(&self, order: &'a [u8]) -> &'a [u8] {
        &order[..order.len().saturating_sub(self.time_bytes)]
    }

    pub(super) fn key_schema(&self) -> &SchemaRef {
        &self.ranking.by.schema
    }

    /// The columns that are put out.
    pub(super) fn output(&self) -> &SchemaRef {
        &self.ranking.output
    }

    /// Rows as they are in a state.
    pub(super) fn in_state(&self, rows: &RecordBatch, times: ScalarBuffer<i64>) -> Result<RecordBatch, OperatorError> {
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::new(times, None)));
        RecordBatch::try_new(Arc::clone(&self.state_schema), columns).map_err(OperatorError::internal)
    }

    /// The rows of a table of a state that an instance owns.
    pub(super) fn owned(&self, table: &RecordBatch, share: Share) -> Result<Evaluated, OperatorError> {
        let schema = &self.state_schema;
        let times = table.columns().last().and_then(|column| column.as_primitive_opt::<Int64Type>());
        let Some(times) = times.filter(|_| table.schema().fields() == schema.fields()) else {
            return Err(OperatorError::state("the first rows have other columns than this step gets"));
        };
        let columns = table.columns()[..table.num_columns() - 1].to_vec();
        let rows = RecordBatch::try_new(Arc::clone(&self.ranking.schema), columns).map_err(OperatorError::internal)?;
        let mut batch = Batch::new(rows, times.values().clone());
        let (keys, _) = self.ranking.evaluate(&batch).map_err(|error| fatal(&error))?;
        // Without keys all rows are in one place.
        let hashes = key_hashes(&keys, batch.len()).map_err(|error| fatal(&error))?;
        let is_own = |hash: u64| Some(if keys.is_empty() { share.index == 0 } else { share.owns(hash) });
        let own: BooleanArray = hashes.into_iter().map(is_own).collect();
        batch = batch.filter(&own).map_err(OperatorError::internal)?;
        let (keys, order) = self.ranking.evaluate(&batch).map_err(|error| fatal(&error))?;
        Ok(Evaluated { batch, keys, order })
    }
}
