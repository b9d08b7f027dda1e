//! Attribute keys with a column of their own.
//!
//! A map of attributes is read as a whole: whoever wants one key pays for all of them. So the keys
//! that many rows of a file have become typed columns of that file, named `<open column>.<key>`.
//!
//! Invariant: the column of a promoted key holds, for every row, exactly what `column['key']` reads
//! as under the key's kind; null where that is null. A query on the key needs nothing else.
//!
//! Invariant: an entry leaves the map only if it can be rebuilt from the column to the letter: `1`
//! stays apart from `1.0`, a list from the text of a list. Otherwise column and map both have it,
//! which [`restore_map`] tells by the key still being in the map. The order of the entries within a
//! map is not kept.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayRef, AsArray, BooleanBuilder, Float64Builder, MapArray, RecordBatch, RecordBatchOptions,
    StringArray, StringBuilder, StructArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use hashbrown::HashMap;
use weir_data::attributes::{AttributeKind, as_bool, as_kind_text, as_number};
use weir_data::json;
use weir_data::streams::{self, StreamDef, attributes_type};
use weir_meta::catalogue::{FileEntry, PromotedKey};

use crate::StoreError;
use crate::order::RowAt;

/// Rows looked at to find the keys worth a column.
const SAMPLE_ROWS: usize = 4096;
/// A key gets a column if at least one row in so many has it.
const ONE_IN: usize = 10;
/// A longer key stays in the map.
const KEY_BYTES_MAX: usize = 128;
/// Integers up to here are the same as doubles.
const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// Chooses the keys of a new file by a sample of its rows. `kind` is the kind the catalogue has
/// fixed for a key; keys without one stay in the map.
pub(crate) fn choose(
    stream: &StreamDef,
    batches: &[RecordBatch],
    rows: &[RowAt],
    keys_max: usize,
    kind: &dyn Fn(&str, &str) -> Option<AttributeKind>,
) -> Vec<PromotedKey> {
    let mut chosen = Vec::new();
    if keys_max == 0 {
        return chosen;
    }
    let step = (rows.len() / SAMPLE_ROWS).max(1);
    let sampled = rows.len().div_ceil(step);
    for column in &stream.open_columns {
        let maps: Vec<Option<Maps<'_>>> = batches.iter().map(|batch| Maps::of(batch.column_by_name(column)?)).collect();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for (source, row) in rows.iter().step_by(step) {
            let Some(maps) = &maps[*source as usize] else { continue };
            for entry in maps.entries(*row as usize) {
                *counts.entry(maps.keys.value(entry)).or_default() += 1;
            }
        }
        let frequent = counts.into_iter().filter(|(_, count)| count * ONE_IN >= sampled);
        choose_among(column, frequent, keys_max, kind, &mut chosen);
    }
    chosen
}

/// Chooses the keys of a file that is merged out of others, by what is known of those.
pub(crate) fn choose_merged(
    stream: &StreamDef,
    inputs: &[&FileEntry],
    keys_max: usize,
    kind: &dyn Fn(&str, &str) -> Option<AttributeKind>,
) -> Vec<PromotedKey> {
    let total: u64 = inputs.iter().map(|input| input.rows).sum();
    let mut chosen = Vec::new();
    for column in &stream.open_columns {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for input in inputs {
            for promoted in input.promoted.iter().filter(|promoted| promoted.column == *column) {
                let nulls = input.columns.get(&promoted.file_column).map_or(input.rows, |stats| stats.nulls);
                let values = usize::try_from(input.rows.saturating_sub(nulls)).unwrap_or(usize::MAX);
                *counts.entry(promoted.key.as_str()).or_default() += values;
            }
        }
        let enough = usize::try_from(total).unwrap_or(usize::MAX);
        let frequent = counts.into_iter().filter(|(_, count)| count.saturating_mul(ONE_IN) >= enough);
        choose_among(column, frequent, keys_max, kind, &mut chosen);
    }
    chosen
}

fn choose_among<'a>(
    column: &str,
    counts: impl Iterator<Item = (&'a str, usize)>,
    keys_max: usize,
    kind: &dyn Fn(&str, &str) -> Option<AttributeKind>,
    chosen: &mut Vec<PromotedKey>,
) {
    let mut counts: Vec<(&str, usize)> = counts.filter(|(key, _)| key.len() <= KEY_BYTES_MAX).collect();
    counts.sort_unstable_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(right.0)));
    let kinds = counts.into_iter().filter_map(|(key, _)| Some((key, kind(column, key)?)));
    let mut keys: Vec<(&str, AttributeKind)> = kinds.take(keys_max).collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    chosen.extend(keys.into_iter().map(|(key, kind)| PromotedKey {
        column: column.to_owned(),
        key: key.to_owned(),
        kind: kind.as_str().to_owned(),
        file_column: format!("{column}.{key}"),
    }));
}

/// The schema of a file: the columns of its rows, then those of its promoted keys.
pub(crate) fn file_schema(rows: &SchemaRef, promoted: &[PromotedKey]) -> SchemaRef {
    if promoted.is_empty() {
        return Arc::clone(rows);
    }
    let mut fields: Vec<Arc<Field>> = rows.fields().iter().cloned().collect();
    fields.extend(promoted.iter().map(|promoted| {
        let kind = match AttributeKind::parse(&promoted.kind) {
            Some(AttributeKind::Bool) => DataType::Boolean,
            Some(AttributeKind::Number) => DataType::Float64,
            Some(AttributeKind::Text) | None => DataType::Utf8,
        };
        Arc::new(Field::new(&promoted.file_column, kind, true))
    }));
    Arc::new(Schema::new(fields))
}

/// A map column, taken apart once.
struct Maps<'a> {
    array: &'a MapArray,
    keys: &'a StringArray,
    values: &'a StringArray,
}

impl<'a> Maps<'a> {
    fn of(column: &'a ArrayRef) -> Option<Self> {
        let array = column.as_map_opt()?;
        Some(Self { array, keys: array.keys().as_string_opt()?, values: array.values().as_string_opt()? })
    }

    fn entries(&self, row: usize) -> std::ops::Range<usize> {
        if self.array.is_null(row) {
            return 0..0;
        }
        let offsets = self.array.value_offsets();
        let at = |offset: i32| usize::try_from(offset).unwrap_or(0);
        at(offsets[row])..at(offsets[row + 1])
    }
}

/// Builds a map column entry by entry.
struct MapBuilder {
    keys: StringBuilder,
    values: StringBuilder,
    offsets: Vec<i32>,
    valid: Vec<bool>,
}

impl MapBuilder {
    fn with_capacity(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { keys: StringBuilder::new(), values: StringBuilder::new(), offsets, valid: Vec::with_capacity(rows) }
    }

    fn push(&mut self, key: &str, value: &str) {
        self.keys.append_value(key);
        self.values.append_value(value);
    }

    fn end_row(&mut self, valid: bool) -> Result<(), ArrowError> {
        let end = i32::try_from(self.keys.len())
            .map_err(|_| ArrowError::ComputeError("too many attributes in one batch".to_owned()))?;
        self.offsets.push(end);
        self.valid.push(valid);
        Ok(())
    }

    fn row_is_empty(&self) -> bool {
        self.offsets.last().is_none_or(|begin| usize::try_from(*begin) == Ok(self.keys.len()))
    }

    fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let DataType::Map(entry, sorted) = attributes_type() else {
            return Err(ArrowError::SchemaError("attributes are a map".to_owned()));
        };
        let DataType::Struct(fields) = entry.data_type() else {
            return Err(ArrowError::SchemaError("entries of a map are a struct".to_owned()));
        };
        let columns: Vec<ArrayRef> = vec![Arc::new(self.keys.finish()), Arc::new(self.values.finish())];
        let entries = StructArray::try_new(fields.clone(), columns, None)?;
        let nulls = NullBuffer::from(self.valid);
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        let offsets = OffsetBuffer::new(self.offsets.into());
        Ok(Arc::new(MapArray::try_new(entry, offsets, entries, nulls, sorted)?))
    }
}

/// The column of one promoted key under construction.
enum Values {
    Bool(BooleanBuilder),
    Number(Float64Builder),
    Text(StringBuilder),
}

impl Values {
    fn new(kind: &str, rows: usize) -> Self {
        match AttributeKind::parse(kind) {
            Some(AttributeKind::Bool) => Self::Bool(BooleanBuilder::with_capacity(rows)),
            Some(AttributeKind::Number) => Self::Number(Float64Builder::with_capacity(rows)),
            Some(AttributeKind::Text) | None => Self::Text(StringBuilder::with_capacity(rows, rows * 16)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::Number(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    fn push_null(&mut self) {
        match self {
            Self::Bool(values) => values.append_null(),
            Self::Number(values) => values.append_null(),
            Self::Text(values) => values.append_null(),
        }
    }

    /// Appends what `json` reads as, and answers whether that says everything about it.
    fn push(&mut self, json: &str, scratch: &mut String) -> bool {
        match self {
            Self::Bool(values) => {
                let value = as_bool(json);
                values.append_option(value);
                value.is_some()
            }
            Self::Number(values) => {
                if let Some(value) = plain_number(json) {
                    values.append_value(value);
                    return true;
                }
                let value = as_number(json);
                values.append_option(value);
                value.is_some_and(|value| {
                    scratch.clear();
                    write_number(scratch, value);
                    scratch == json
                })
            }
            Self::Text(values) => {
                let inner = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                if let Some(plain) = inner.filter(|text| json::is_plain(text)) {
                    values.append_value(plain);
                    return true;
                }
                let value = as_kind_text(json);
                values.append_option(value.as_deref());
                value.is_some_and(|value| {
                    scratch.clear();
                    json::write_string(scratch, &value);
                    scratch == json
                })
            }
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Bool(mut values) => Arc::new(values.finish()),
            Self::Number(mut values) => Arc::new(values.finish()),
            Self::Text(mut values) => Arc::new(values.finish()),
        }
    }
}

/// The value of a number whose text is surely what [`write_number`] makes of it: of at most 15
/// digits, neither tiny nor with zeros to spare, as nearly all are. No two such texts are one
/// double, so the shortest text of the double is this one, and the digits divided by a power of ten
/// are the double. To read the number and to write it again in order to compare cost a twentieth of
/// a flush.
fn plain_number(text: &str) -> Option<f64> {
    const DIGITS_MAX: usize = 15;
    const POWERS: [f64; DIGITS_MAX + 1] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (is_negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned.as_bytes()),
        None => (false, text.as_bytes()),
    };
    if unsigned.len() > DIGITS_MAX + 1 {
        return None;
    }
    let mut digits: u64 = 0;
    let mut point = None;
    for (at, byte) in unsigned.iter().enumerate() {
        match byte {
            b'0'..=b'9' => digits = digits * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() && at > 0 => point = Some(at),
            _ => return None,
        }
    }
    let whole = point.unwrap_or(unsigned.len());
    let fraction = unsigned.len() - whole - usize::from(point.is_some());
    let n_digits = whole + fraction;
    let is_canonical = (1..=DIGITS_MAX).contains(&n_digits)
        && (whole == 1 || unsigned[0] != b'0')
        && match point {
            Some(_) => fraction > 0 && unsigned.last() != Some(&b'0'),
            None => !(is_negative && digits == 0),
        };
    #[allow(clippy::cast_precision_loss, reason = "at most 15 digits")]
    let value = digits as f64 / POWERS.get(fraction)?;
    // What is smaller may be written with an exponent.
    if !is_canonical || fraction > 0 && value < 1e-3 {
        return None;
    }
    Some(if is_negative { -value } else { value })
}

/// The text of a number whose column is all that is left of it: integers where it is one.
fn write_number(out: &mut String, value: f64) {
    if value.fract() == 0.0 && value.abs() <= EXACT_INTEGER_MAX {
        #[allow(clippy::cast_possible_truncation, reason = "integral and within 53 bits")]
        json::write_i64(out, value as i64);
    } else {
        json::write_f64(out, value);
    }
}

/// Rows as their file keeps them: promoted keys in columns of their own. The result has the schema
/// `schema`, made by [`file_schema`].
pub(crate) fn promote(
    batch: &RecordBatch,
    promoted: &[PromotedKey],
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let mut made: HashMap<&str, ArrayRef> = HashMap::new();
    for keys in promoted.chunk_by(|left, right| left.column == right.column) {
        let Some(maps) = batch.column_by_name(&keys[0].column).and_then(Maps::of) else { continue };
        let (rest, columns) = promote_column(&maps, keys)?;
        made.insert(&keys[0].column, rest);
        made.extend(keys.iter().map(|key| key.file_column.as_str()).zip(columns));
    }
    let columns = schema
        .fields()
        .iter()
        .map(|field| match (made.get(field.name().as_str()), batch.column_by_name(field.name())) {
            (Some(column), _) | (None, Some(column)) => Arc::clone(column),
            (None, None) => new_null_array(field.data_type(), batch.num_rows()),
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

fn promote_column(maps: &Maps<'_>, keys: &[PromotedKey]) -> Result<(ArrayRef, Vec<ArrayRef>), ArrowError> {
    let rows = maps.array.len();
    let index: HashMap<&str, usize> = keys.iter().enumerate().map(|(at, key)| (key.key.as_str(), at)).collect();
    let mut columns: Vec<Values> = keys.iter().map(|key| Values::new(&key.kind, rows)).collect();
    let mut rest = MapBuilder::with_capacity(rows);
    let mut scratch = String::new();
    // Which promoted key each entry of the row is. Rows mostly name their keys in the same order,
    // so the row before is asked first.
    let mut slots: Vec<Option<usize>> = Vec::new();
    let mut times_met: Vec<u32> = vec![0; keys.len()];
    for row in 0..rows {
        let entries = maps.entries(row);
        slots.resize(entries.len(), None);
        for (slot, entry) in slots.iter_mut().zip(entries.clone()) {
            let key = maps.keys.value(entry);
            if !slot.is_some_and(|at| keys[at].key == key) {
                *slot = index.get(key).copied();
            }
            if let Some(at) = *slot {
                times_met[at] += 1;
            }
        }
        for (slot, entry) in slots.iter().zip(entries.clone()) {
            let value = maps.values.value(entry);
            // Of a repeated key the first entry counts, and all of them stay in the map.
            let leaves = slot.is_some_and(|at| {
                columns[at].len() == row && columns[at].push(value, &mut scratch) && times_met[at] == 1
            });
            if !leaves {
                rest.push(maps.keys.value(entry), value);
            }
        }
        for at in slots.iter().flatten() {
            times_met[*at] = 0;
        }
        for column in &mut columns {
            if column.len() == row {
                column.push_null();
            }
        }
        // A map all of whose entries left is null here; the columns tell that it was not. An empty
        // map stays an empty map.
        let valid = maps.array.is_valid(row) && (entries.is_empty() || !rest.row_is_empty());
        rest.end_row(valid)?;
    }
    Ok((rest.finish()?, columns.into_iter().map(Values::finish).collect()))
}

/// Rows of a file as they were written: the entries of promoted keys are back in their maps, and
/// their columns are gone. To restore an open column, the batch must have the column itself (if the
/// file has it) and all columns of its promoted keys; open columns of which it has none are left
/// alone.
///
/// # Errors
/// If a column of a promoted key has another type than the catalogue says.
pub fn restore_map(batch: &RecordBatch, entry: &FileEntry) -> Result<RecordBatch, StoreError> {
    restore(batch, &entry.promoted, streams::stream(entry.stream.as_str()).map(Arc::as_ref))
        .map_err(StoreError::rows("put promoted attributes back into their maps"))
}

fn restore(
    batch: &RecordBatch,
    promoted: &[PromotedKey],
    stream: Option<&StreamDef>,
) -> Result<RecordBatch, ArrowError> {
    let mut restored: HashMap<&str, ArrayRef> = HashMap::new();
    for keys in promoted.chunk_by(|left, right| left.column == right.column) {
        let mut columns = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(column) = batch.column_by_name(&key.file_column) {
                columns.push((key.key.as_str(), Promoted::of(column, &key.kind)?));
            }
        }
        if columns.is_empty() {
            continue;
        }
        if columns.len() < keys.len() {
            return Err(ArrowError::SchemaError(format!("not all promoted keys of {} are there", keys[0].column)));
        }
        let rest = batch.column_by_name(&keys[0].column).and_then(Maps::of);
        restored.insert(&keys[0].column, restore_column(rest.as_ref(), &columns, batch.num_rows())?);
    }
    if restored.is_empty() {
        return Ok(batch.clone());
    }
    // In the order of the stream; a map that was wholly promoted may be missing in the file.
    let own = batch.schema();
    let order = |name: &str| stream.map_or(0, |stream| stream.schema.index_of(name).unwrap_or(usize::MAX));
    let mut fields: Vec<(Arc<Field>, ArrayRef)> = own
        .fields()
        .iter()
        .zip(batch.columns())
        .filter(|(field, _)| {
            !restored.contains_key(field.name().as_str())
                && !promoted.iter().any(|key| key.file_column == *field.name())
        })
        .map(|(field, column)| (Arc::clone(field), Arc::clone(column)))
        .collect();
    for (name, column) in restored {
        let field = match (own.field_with_name(name), stream.map(|stream| stream.schema.field_with_name(name))) {
            (Ok(field), _) | (Err(_), Some(Ok(field))) => Arc::new(field.clone()),
            _ => Arc::new(Field::new(name, attributes_type(), true)),
        };
        fields.push((field, column));
    }
    fields.sort_by_key(|(field, _)| order(field.name()));
    let (fields, columns): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// The column of a promoted key, read back.
enum Promoted<'a> {
    Bool(&'a arrow::array::BooleanArray),
    Number(&'a arrow::array::Float64Array),
    Text(&'a StringArray),
}

impl<'a> Promoted<'a> {
    fn of(column: &'a ArrayRef, kind: &str) -> Result<Self, ArrowError> {
        let typed = match AttributeKind::parse(kind) {
            Some(AttributeKind::Bool) => column.as_boolean_opt().map(Self::Bool),
            Some(AttributeKind::Number) => column.as_primitive_opt::<Float64Type>().map(Self::Number),
            Some(AttributeKind::Text) | None => column.as_string_opt().map(Self::Text),
        };
        typed.ok_or_else(|| ArrowError::SchemaError(format!("a promoted {kind} has type {}", column.data_type())))
    }

    /// Writes the value as JSON; false if it is null.
    fn write(&self, row: usize, out: &mut String) -> bool {
        match self {
            Self::Bool(values) if values.is_valid(row) => {
                out.push_str(if values.value(row) { "true" } else { "false" });
            }
            Self::Number(values) if values.is_valid(row) => write_number(out, values.value(row)),
            Self::Text(values) if values.is_valid(row) => json::write_string(out, values.value(row)),
            _ => return false,
        }
        true
    }
}

fn restore_column(
    rest: Option<&Maps<'_>>,
    columns: &[(&str, Promoted<'_>)],
    rows: usize,
) -> Result<ArrayRef, ArrowError> {
    let mut out = MapBuilder::with_capacity(rows);
    let mut scratch = String::new();
    for row in 0..rows {
        let kept = rest.map_or(0..0, |rest| rest.entries(row));
        for (key, column) in columns {
            scratch.clear();
            if column.write(row, &mut scratch) {
                let is_kept = rest.is_some_and(|rest| kept.clone().any(|entry| rest.keys.value(entry) == *key));
                if !is_kept {
                    out.push(key, &scratch);
                }
            }
        }
        if let Some(rest) = rest {
            for entry in kept {
                out.push(rest.keys.value(entry), rest.values.value(entry));
            }
        }
        let valid = !out.row_is_empty() || rest.is_some_and(|rest| rest.array.is_valid(row));
        out.end_row(valid)?;
    }
    out.finish()
}

#[cfg(test)]
mod tests;
