//! The step while it runs: rows that wait for the table, and the version that counts.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use weir_base::Timestamp;
use weir_component::Batch;
use weir_component::operator::{
    Aside, AsideNotes, AsideReason, KeyHash, Operator, OperatorError, OperatorState, Output, Share,
};
use weir_component::table::Part;

use super::failed::{Asides, Failed};
use super::index::{FOUND_MAX, Found, Index, Version};
use super::{Kind, Lookup};
use crate::{clock, failing};

/// Results are put out in batches of about so many rows: a row may find many.
const BATCH_ROWS: usize = 8192;
const WAITING: &str = "waiting";
/// The columns with the times of a row, in a state. No name of a user has a space in front.
const TIMES: [&str; 2] = [" time", " watermark"];

pub(super) struct LookUp {
    lookup: Arc<Lookup>,
    /// Rows that came before the first version.
    waiting: Vec<Batch>,
    /// The version that is coming in.
    coming: Version,
    /// The version that counts.
    index: Option<Index>,
    /// Rows of the table on which an expression fails.
    failed: Failed,
    /// The latest watermark, and what of it was told: rows that wait are not passed by it.
    reached: i64,
    told: i64,
    versions: u64,
    missed: u64,
}

impl LookUp {
    pub(super) fn new(lookup: Arc<Lookup>) -> Result<Self, OperatorError> {
        let coming = Version::new(i64::MIN);
        let (waiting, failed) = (Vec::new(), Failed::default());
        let (reached, told) = (i64::MIN, i64::MIN);
        Ok(Self { lookup, waiting, coming, index: None, failed, reached, told, versions: 0, missed: 0 })
    }

    /// Takes rows of the table, or marks that a version is whole.
    fn table(&mut self, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let Some(part) = Part::of(&batch.rows) else {
            return Err(OperatorError::internal("a table without its versions"));
        };
        let mut at = 0;
        while at < batch.len() {
            let (version, is_mark) = (part.versions.value(at), part.is_mark(at));
            let same = |row: &usize| part.versions.value(*row) == version && part.is_mark(*row) == is_mark;
            let end = (at..batch.len()).find(|row| !same(row)).unwrap_or(batch.len());
            if version > self.coming.number {
                self.coming = Version::new(version);
                self.failed.begin();
            }
            if is_mark {
                self.whole(version, output)?;
            } else {
                self.rows_of_table(
                    &Batch::new(part.rows.slice(at, end - at), batch.times.slice(at, end - at)),
                    output,
                )?;
            }
            at = end;
        }
        Ok(())
    }

    fn rows_of_table(&mut self, rows: &Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let lookup = Arc::clone(&self.lookup);
        let mut asides = Asides::default();
        let computed = failing::apply(rows.clone(), &mut asides, &mut |rows| {
            let keys = lookup.table_by.columns(&rows.rows)?;
            let selected =
                lookup.select.iter().map(|value| value.evaluate(&rows.rows)).collect::<Result<Vec<_>, _>>()?;
            Ok((keys, selected))
        })?;
        for aside in asides.0 {
            if let Some(aside) = self.failed.new_ones(aside)? {
                output.aside(aside);
            }
        }
        for (rows, (keys, selected)) in computed {
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let selected = RecordBatch::try_new_with_options(Arc::clone(&lookup.selected), selected, &options);
            self.coming.add(keys, selected.map_err(OperatorError::internal)?);
        }
        Ok(())
    }

    /// A version is whole: it counts from now on.
    fn whole(&mut self, version: i64, output: &mut dyn Output) -> Result<(), OperatorError> {
        if self.index.as_ref().is_some_and(|index| index.number >= version) {
            return Ok(());
        }
        self.failed.whole();
        let coming = std::mem::replace(&mut self.coming, Version::new(version));
        self.index = Some(coming.index(&self.lookup.table_by.schema, &self.lookup.selected)?);
        self.versions += 1;
        for batch in std::mem::take(&mut self.waiting) {
            self.look_up(batch, output)?;
        }
        Ok(())
    }

    fn look_up(&mut self, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        let lookup = Arc::clone(&self.lookup);
        for (batch, keys) in failing::apply(batch, output, &mut |batch| lookup.rows_by.columns(&batch.rows))? {
            let Some(index) = &self.index else { continue };
            let Found { rows, found, too_many, none } = index.find(&keys, batch.len(), lookup.kind == Kind::Left)?;
            let fail = |rows: Vec<u32>, message: String, output: &mut dyn Output| {
                let notes = AsideNotes::Messages(vec![message; rows.len()]);
                let rows = batch.take(&UInt32Array::from(rows)).map_err(OperatorError::internal)?;
                output.aside(Aside { reason: AsideReason::Failed, rows: rows.rows, times: Some(rows.times), notes });
                Ok::<(), OperatorError>(())
            };
            if !too_many.is_empty() {
                fail(too_many, format!("it finds more than {FOUND_MAX} rows of the table"), output)?;
            }
            self.missed += none.len() as u64;
            if lookup.kind == Kind::Required && !none.is_empty() {
                fail(none, format!("it finds no row of the table `{}`", lookup.table), output)?;
            }
            for (rows, found) in rows.chunks(BATCH_ROWS).zip(found.chunks(BATCH_ROWS)) {
                let own = batch.take(&UInt32Array::from(rows.to_vec())).map_err(OperatorError::internal)?;
                let found = UInt32Array::from(found.to_vec());
                let of_table = index.rows.columns().iter().map(|column| take(column, &found, None));
                let of_table: Vec<ArrayRef> = of_table.collect::<Result<_, _>>().map_err(OperatorError::internal)?;
                let columns = [own.rows.columns(), &of_table].concat();
                let rows = RecordBatch::try_new(Arc::clone(&lookup.output), columns);
                output.batch(0, own.with_rows(rows.map_err(OperatorError::internal)?));
            }
        }
        Ok(())
    }

    /// The earliest time of a row that waits.
    fn earliest(&self) -> i64 {
        self.waiting.iter().flat_map(|batch| batch.times.iter().copied()).min().unwrap_or(i64::MAX)
    }

    /// The columns of rows that wait, in a state.
    fn state_schema(&self) -> SchemaRef {
        let times = TIMES.map(|name| Arc::new(Field::new(name, DataType::Int64, false)) as FieldRef);
        Arc::new(Schema::new(self.lookup.input.fields().iter().map(Arc::clone).chain(times).collect::<Vec<_>>()))
    }
}

impl Operator for LookUp {
    fn on_batch(&mut self, input: usize, batch: Batch, output: &mut dyn Output) -> Result<(), OperatorError> {
        if input == 1 {
            return self.table(batch, output);
        }
        if self.index.is_none() {
            self.waiting.push(batch);
            return Ok(());
        }
        self.look_up(batch, output)
    }

    fn on_watermark(&mut self, watermark: Timestamp, _output: &mut dyn Output) -> Result<Timestamp, OperatorError> {
        self.reached = self.reached.max(watermark.0);
        self.told = self.told.max(self.reached.min(self.earliest()));
        Ok(Timestamp(self.told))
    }

    /// The watermark that rows have held back while they waited is told when they have gone on: there may be no other one
    /// for long.
    fn has_more(&self) -> bool {
        self.waiting.is_empty() && self.told < self.reached
    }

    fn snapshot(&mut self) -> Result<OperatorState, OperatorError> {
        let mut state = OperatorState::default();
        if !self.waiting.is_empty() {
            let schema = self.state_schema();
            let with_times = |batch: &Batch| {
                let mut columns = batch.rows.columns().to_vec();
                columns.push(Arc::new(Int64Array::new(batch.times.clone(), None)));
                columns.push(Arc::new((0..batch.len()).map(|row| batch.watermark(row)).collect::<Int64Array>()));
                RecordBatch::try_new(Arc::clone(&schema), columns)
            };
            let rows: Result<Vec<RecordBatch>, _> = self.waiting.iter().map(with_times).collect();
            let rows = rows.and_then(|rows| concat_batches(&schema, &rows)).map_err(OperatorError::internal)?;
            state.tables.insert(WAITING.to_owned(), vec![rows]);
        }
        clock::put(&mut state, &[("told", self.told), ("reached", self.reached)])?;
        Ok(state)
    }

    fn restore(&mut self, states: &[OperatorState], share: Share) -> Result<(), OperatorError> {
        let schema = self.state_schema();
        // Rows wait in some instances and not in others, and all wait here now.
        let told = states.iter().map(|state| clock::get(state, "told")).collect::<Result<Vec<i64>, _>>()?;
        self.told = told.iter().copied().min().unwrap_or(i64::MIN);
        for (state, told) in states.iter().zip(told) {
            // Once it was not in a state.
            self.reached = self.reached.max(clock::find(state, "reached").unwrap_or(told));
            for table in state.table(WAITING) {
                let n_own = self.lookup.input.fields().len();
                let numbers = |at: usize| table.columns().get(at).and_then(|part| part.as_primitive_opt::<Int64Type>());
                let times = numbers(n_own).zip(numbers(n_own + 1)).filter(|_| table.schema_ref() == &schema);
                let Some((times, watermarks)) = times else {
                    return Err(OperatorError::state("rows that wait have other columns than this step gets"));
                };
                let columns = table.columns()[..n_own].to_vec();
                let rows = RecordBatch::try_new(Arc::clone(&self.lookup.input), columns);
                let mut batch = Batch::new(rows.map_err(OperatorError::internal)?, times.values().clone());
                if watermarks.values().iter().any(|watermark| *watermark > i64::MIN) {
                    batch.watermarks = Some(watermarks.values().clone());
                }
                let own: BooleanArray =
                    self.lookup.rows_by.hashes(&batch)?.into_iter().map(|hash| Some(share.owns(hash))).collect();
                let own = batch.filter(&own).map_err(OperatorError::internal)?;
                if !own.is_empty() {
                    self.waiting.push(own);
                }
            }
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(Batch::bytes).sum();
        waiting + self.failed.bytes() + self.coming.bytes() + self.index.as_ref().map_or(0, Index::bytes)
    }

    fn gauges(&self) -> Vec<(&'static str, u64)> {
        let (rows, keys) = self.index.as_ref().map_or((0, 0), |index| (index.rows.num_rows(), index.keys()));
        let waiting: usize = self.waiting.iter().map(Batch::len).sum();
        vec![("waiting_rows", waiting as u64), ("table_rows", rows as u64), ("table_keys", keys as u64)]
    }

    fn totals(&self) -> Vec<(&'static str, u64)> {
        vec![("table_versions", self.versions), ("rows_without_match", self.missed)]
    }
}
