//! Sorting rows that lie in several batches, without copying them first.
//!
//! The result is a list of [`Run`]s: consecutive rows of one batch. Telemetry arrives nearly in
//! order, so runs are often long, and long runs are copied as slices instead of row by row.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat, interleave};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimestampNanosecondType};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;
use weir_data::batch::conform;

/// Consecutive rows of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) source: u32,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// Appends one row, lengthening the last run if it follows.
pub(crate) fn push_run(runs: &mut Vec<Run>, source: u32, row: u32, len: u32) {
    if let Some(last) = runs.last_mut()
        && last.source == source
        && last.start + last.len == row
    {
        last.len += len;
    } else {
        runs.push(Run { source, start: row, len });
    }
}

/// Where a row is: its batch and its place in it.
pub(crate) type RowAt = (u32, u32);

/// The given rows in the order of `sort`, ascending, nulls first; equal rows keep their order.
pub(crate) fn sorted_runs(batches: &[RecordBatch], sort: &[&str], rows: &[RowAt]) -> Result<Vec<Run>, ArrowError> {
    let mut runs = Vec::new();
    match small_keys(batches, sort, rows) {
        Some(mut keys) => {
            if !keys.is_sorted() {
                keys.sort_unstable();
            }
            for (_, _, at) in keys {
                let (source, row) = rows[at as usize];
                push_run(&mut runs, source, row, 1);
            }
        }
        None => {
            let fields = sort_fields(batches, sort);
            let converter = RowConverter::new(fields.iter().map(|(_, kind)| SortField::new(kind.clone())).collect())?;
            let converted = batches
                .iter()
                .map(|batch| converter.convert_columns(&sort_columns(batch, &fields)))
                .collect::<Result<Vec<_>, _>>()?;
            let mut order: Vec<RowAt> = rows.to_vec();
            order.sort_by(|left, right| {
                let left = converted[left.0 as usize].row(left.1 as usize);
                left.cmp(&converted[right.0 as usize].row(right.1 as usize))
            });
            for (source, row) in order {
                push_run(&mut runs, source, row, 1);
            }
        }
    }
    Ok(runs)
}

/// The sort columns any batch has, with their types. A column no batch has orders nothing.
pub(crate) fn sort_fields<'a>(batches: &[RecordBatch], sort: &[&'a str]) -> Vec<(&'a str, DataType)> {
    let kind = |name: &str| batches.iter().find_map(|batch| Some(batch.column_by_name(name)?.data_type().clone()));
    sort.iter().filter_map(|name| Some((*name, kind(name)?))).collect()
}

/// A batch's sort columns, null where it lacks one.
pub(crate) fn sort_columns(batch: &RecordBatch, fields: &[(&str, DataType)]) -> Vec<ArrayRef> {
    fields
        .iter()
        .map(|(name, kind)| match batch.column_by_name(name) {
            Some(column) => column.clone(),
            None => arrow::array::new_null_array(kind, batch.num_rows()),
        })
        .collect()
}

/// At most two text columns followed by a time become two integers a row: every distinct text is
/// ranked once, and rows are compared as numbers. `None` for any other sort order.
fn small_keys(batches: &[RecordBatch], sort: &[&str], rows: &[RowAt]) -> Option<Vec<(u64, i64, u32)>> {
    let [texts @ .., time] = sort else { return None };
    if texts.len() > 2 || u32::try_from(rows.len()).is_err() {
        return None;
    }
    let times: Vec<_> = batches
        .iter()
        .map(|batch| batch.column_by_name(time)?.as_primitive_opt::<TimestampNanosecondType>())
        .collect::<Option<_>>()?;
    if times.iter().any(|column| column.null_count() > 0) {
        return None;
    }
    let mut keys: Vec<(u64, i64, u32)> =
        (0..).zip(rows).map(|(at, (source, row))| (0, times[*source as usize].value(*row as usize), at)).collect();
    for (place, name) in texts.iter().enumerate() {
        let shift = if place + 1 == texts.len() { 0 } else { 32 };
        let columns: Vec<_> = batches
            .iter()
            .map(|batch| match batch.column_by_name(name) {
                Some(column) => column.as_string_opt::<i32>().map(Some),
                None => Some(None),
            })
            .collect::<Option<_>>()?;
        let mut distinct: HashMap<&str, u32> = HashMap::new();
        let mut last: Option<(&str, u32)> = None;
        let mut ids = Vec::with_capacity(rows.len());
        for (source, row) in rows {
            let value = columns[*source as usize].and_then(|column| {
                let row = *row as usize;
                column.is_valid(row).then(|| column.value(row))
            });
            // Id 0 is null; equal neighbours are common and cost no hashing.
            let id = match (value, last) {
                (None, _) => 0,
                (Some(value), Some((text, id))) if text == value => id,
                (Some(value), _) => {
                    let next = u32::try_from(distinct.len() + 1).ok()?;
                    let id = *distinct.entry(value).or_insert(next);
                    last = Some((value, id));
                    id
                }
            };
            ids.push(id);
        }
        let mut by_text: Vec<(&str, u32)> = distinct.into_iter().collect();
        by_text.sort_unstable();
        let mut ranks = vec![0_u64; by_text.len() + 1];
        for (rank, (_, id)) in (1..).zip(by_text) {
            ranks[id as usize] = rank;
        }
        for (key, id) in keys.iter_mut().zip(ids) {
            key.0 |= ranks[id as usize] << shift;
        }
    }
    Some(keys)
}

/// Takes up to `rows_max` rows off the front of `runs` (whose first `*done` rows of the run at
/// `*at` are taken already).
#[derive(Debug)]
pub(crate) struct RunCursor<'a> {
    runs: &'a [Run],
    at: usize,
    done: u32,
}

impl<'a> RunCursor<'a> {
    pub(crate) fn new(runs: &'a [Run]) -> Self {
        Self { runs, at: 0, done: 0 }
    }

    /// The next rows, at most `rows_max`; empty at the end.
    pub(crate) fn next(&mut self, rows_max: u32) -> Vec<Run> {
        let mut out = Vec::new();
        let mut left = rows_max;
        while left > 0
            && let Some(run) = self.runs.get(self.at)
        {
            let len = (run.len - self.done).min(left);
            out.push(Run { source: run.source, start: run.start + self.done, len });
            left -= len;
            self.done += len;
            if self.done == run.len {
                self.at += 1;
                self.done = 0;
            }
        }
        out
    }
}

/// Average run length from which slices are cheaper to copy than single rows.
const SLICE_ROWS_MIN: usize = 16;

/// Copies the rows of `runs` into one batch. All sources have the schema `schema`.
pub(crate) fn gather(schema: &SchemaRef, sources: &[RecordBatch], runs: &[Run]) -> Result<RecordBatch, ArrowError> {
    let rows: usize = runs.iter().map(|run| run.len as usize).sum();
    if let [only] = runs {
        return Ok(sources[only.source as usize].slice(only.start as usize, only.len as usize));
    }
    let columns: Vec<ArrayRef> = if rows >= runs.len() * SLICE_ROWS_MIN {
        (0..schema.fields().len())
            .map(|column| {
                let slices: Vec<ArrayRef> = runs
                    .iter()
                    .map(|run| sources[run.source as usize].column(column).slice(run.start as usize, run.len as usize))
                    .collect();
                let slices: Vec<&dyn Array> = slices.iter().map(AsRef::as_ref).collect();
                concat(&slices)
            })
            .collect::<Result<_, _>>()?
    } else {
        // Only the sources that occur are handed over: the work of interleaving grows with them.
        let mut used: Vec<u32> = runs.iter().map(|run| run.source).collect();
        used.sort_unstable();
        used.dedup();
        let mut indices = Vec::with_capacity(rows);
        for run in runs {
            let source = used.binary_search(&run.source).unwrap_or(0);
            indices.extend((run.start..run.start + run.len).map(|row| (source, row as usize)));
        }
        (0..schema.fields().len())
            .map(|column| {
                let values: Vec<&dyn Array> =
                    used.iter().map(|source| sources[*source as usize].column(column).as_ref()).collect();
                interleave(&values, &indices)
            })
            .collect::<Result<_, _>>()?
    };
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

/// The columns of `full` that any of the batches has, and the batches with exactly these.
pub(crate) fn align(full: &SchemaRef, batches: &[RecordBatch]) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
    let present: Vec<_> = full
        .fields()
        .iter()
        .filter(|field| batches.iter().any(|batch| batch.schema_ref().index_of(field.name()).is_ok()))
        .cloned()
        .collect();
    let union: SchemaRef = std::sync::Arc::new(Schema::new(present));
    let aligned = batches.iter().map(|batch| conform(batch, &union)).collect::<Result<Vec<_>, _>>()?;
    Ok((union, aligned))
}

#[cfg(test)]
mod tests;
