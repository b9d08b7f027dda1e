//! Text columns as numbers while their rows are sorted, merged and written.
//!
//! Most texts of telemetry repeat: paths, names, user agents. Handing them around as texts copies
//! every byte of every row, and the Parquet library looks each up in its dictionary once more.
//! Here a text is looked up once, where its batch lies in memory anyway, and from then on a row is
//! four bytes: the number of its text. [`chunk`] writes such columns as Parquet.
//!
//! Invariant: numbers of one [`Coding`] mean the same texts in all batches it has given out, until
//! [`Coding::renew`].

pub(crate) mod chunk;
mod hybrid;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, UInt32Type};
use arrow::error::ArrowError;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// Rows looked at to decide whether the texts of a column repeat.
const SAMPLE_ROWS: usize = 4096;
/// Past so many bytes of texts the numbering of a column begins anew at the next occasion.
const TEXTS_BYTES_MAX: usize = 4 << 20;

/// Different texts, numbered in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    bytes: Vec<u8>,
    /// Where each text ends.
    ends: Vec<usize>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Texts {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a text.
    pub(crate) fn get(&self, number: u32) -> &[u8] {
        get(&self.bytes, &self.ends, number)
    }

    /// The number of a text, a new one if it was never seen.
    pub(crate) fn number(&mut self, text: &[u8]) -> u32 {
        let Self { bytes, ends, table, hasher } = self;
        let hash = hasher.hash_one(text);
        let known = table.find(hash, |number| get(bytes, ends, *number) == text);
        if let Some(number) = known {
            return *number;
        }
        let number = u32::try_from(ends.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(text);
        ends.push(bytes.len());
        table.insert_unique(hash, number, |number| hasher.hash_one(get(bytes, ends, *number)));
        number
    }

    /// The numbers of a column's texts.
    fn encode(&mut self, column: &StringArray) -> UInt32Array {
        let mut numbers = Vec::with_capacity(column.len());
        // Equal neighbours are common and cost no hashing.
        let mut last: Option<(&str, u32)> = None;
        for row in 0..column.len() {
            if column.is_null(row) {
                numbers.push(0);
                continue;
            }
            let text = column.value(row);
            let number = match last {
                Some((before, number)) if before == text => number,
                _ => self.number(text.as_bytes()),
            };
            last = Some((text, number));
            numbers.push(number);
        }
        UInt32Array::new(numbers.into(), column.nulls().cloned())
    }

    /// The texts of numbers.
    pub(crate) fn decode(&self, numbers: &UInt32Array) -> StringArray {
        let text = |number: Option<u32>| number.map(|number| std::str::from_utf8(self.get(number)).unwrap_or_default());
        numbers.iter().map(text).collect()
    }
}

fn get<'a>(bytes: &'a [u8], ends: &[usize], number: u32) -> &'a [u8] {
    let at = number as usize;
    let begin = if at == 0 { 0 } else { ends[at - 1] };
    &bytes[begin..ends[at]]
}

/// The type of a column of numbers.
const NUMBER: DataType = DataType::UInt32;

/// The dictionary of a batch read from a file, and the numbers of its texts. The array is new in
/// every batch, what it points to is not.
#[derive(Debug)]
struct Known {
    /// Kept, so that its memory is not another one's.
    values: StringArray,
    numbers: Vec<u32>,
}

impl Known {
    fn is_of(&self, values: &StringArray) -> bool {
        self.values.value_offsets().as_ptr_range() == values.value_offsets().as_ptr_range()
            && self.values.value_data().as_ptr() == values.value_data().as_ptr()
    }
}

/// Which columns of a file are numbers, and of what.
#[derive(Debug)]
pub(crate) struct Coding {
    /// The columns as they are in the file.
    plain: SchemaRef,
    /// The columns as they are in batches given out.
    coded: SchemaRef,
    /// By column; none for those that are left as they are.
    texts: Vec<Option<Texts>>,
    /// By column, the last dictionaries of each source, newest last.
    known: Vec<Vec<Known>>,
}

/// So many dictionaries of a column are remembered: one for each file of a merge, about.
const KNOWN_MAX: usize = 64;

impl Coding {
    /// A coding of the columns of `plain` for which `wanted` says so.
    pub(crate) fn new(plain: &SchemaRef, wanted: impl Fn(&Field) -> bool) -> Self {
        let is_coded: Vec<bool> =
            plain.fields().iter().map(|field| *field.data_type() == DataType::Utf8 && wanted(field)).collect();
        let fields = plain.fields().iter().zip(&is_coded).map(|(field, is_coded)| {
            if *is_coded { Arc::new(Field::new(field.name(), NUMBER, field.is_nullable())) } else { Arc::clone(field) }
        });
        Self {
            plain: Arc::clone(plain),
            coded: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            texts: is_coded.into_iter().map(|is_coded| is_coded.then(Texts::default)).collect(),
            known: plain.fields().iter().map(|_| Vec::new()).collect(),
        }
    }

    /// The columns of the file.
    pub(crate) fn plain(&self) -> &SchemaRef {
        &self.plain
    }

    /// The columns of batches given out.
    pub(crate) fn coded(&self) -> &SchemaRef {
        &self.coded
    }

    /// What the numbers of a column mean; none if it is not numbers.
    pub(crate) fn texts(&self, column: usize) -> Option<&Texts> {
        self.texts.get(column)?.as_ref()
    }

    /// A batch with the columns of the file or some of them, texts as they are or by a dictionary.
    /// What it lacks is null.
    pub(crate) fn encode(&mut self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let mut columns = Vec::with_capacity(self.plain.fields().len());
        let mut taken = 0;
        for (at, (plain, coded)) in self.plain.fields().iter().zip(self.coded.fields()).enumerate() {
            let Some(column) = batch.column_by_name(plain.name()) else {
                columns.push(new_null_array(coded.data_type(), batch.num_rows()));
                continue;
            };
            taken += 1;
            columns.push(match (&mut self.texts[at], column.data_type()) {
                (Some(texts), DataType::Utf8) => Arc::new(texts.encode(column.as_string())) as ArrayRef,
                (Some(texts), DataType::Dictionary(..)) => {
                    Arc::new(encode_dictionary(texts, &mut self.known[at], column)?)
                }
                (None, DataType::Dictionary(..)) => cast(column, plain.data_type())?,
                _ => Arc::clone(column),
            });
        }
        if taken < batch.num_columns() {
            return Err(ArrowError::SchemaError("a batch has columns its file has not".to_owned()));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.coded), columns, &options)
    }

    /// Forgets texts that none of `batches` has, of columns that have very many. No other batch
    /// given out may be used afterwards.
    pub(crate) fn renew(&mut self, batches: &mut [RecordBatch]) -> Result<(), ArrowError> {
        let too_many = |texts: &Option<Texts>| texts.as_ref().is_some_and(|texts| texts.bytes.len() > TEXTS_BYTES_MAX);
        let places: Vec<usize> = (0..self.texts.len()).filter(|at| too_many(&self.texts[*at])).collect();
        if places.is_empty() {
            return Ok(());
        }
        for at in &places {
            self.known[*at].clear();
        }
        let mut fresh: Vec<Texts> = places.iter().map(|_| Texts::default()).collect();
        for batch in batches {
            let mut columns = batch.columns().to_vec();
            for (at, fresh) in places.iter().zip(&mut fresh) {
                let Some(texts) = &self.texts[*at] else { continue };
                let numbers = columns[*at].as_primitive::<UInt32Type>();
                let renumbered: UInt32Array =
                    numbers.iter().map(|number| number.map(|number| fresh.number(texts.get(number)))).collect();
                columns[*at] = Arc::new(renumbered);
            }
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            *batch = RecordBatch::try_new_with_options(Arc::clone(&self.coded), columns, &options)?;
        }
        for (at, fresh) in places.into_iter().zip(fresh) {
            self.texts[at] = Some(fresh);
        }
        Ok(())
    }
}

/// The numbers of a column that a file keeps by a dictionary: each text is looked up once a
/// dictionary, not once a row.
fn encode_dictionary(texts: &mut Texts, known: &mut Vec<Known>, column: &ArrayRef) -> Result<UInt32Array, ArrowError> {
    let wrong = || ArrowError::SchemaError(format!("a text column has type {}", column.data_type()));
    let dictionary = column.as_dictionary_opt::<Int32Type>().ok_or_else(wrong)?;
    let values = dictionary.values().as_string_opt::<i32>().ok_or_else(wrong)?;
    let at = match known.iter().rposition(|known| known.is_of(values)) {
        Some(at) => at,
        None => {
            let numbers = (0..values.len()).map(|at| texts.number(values.value(at).as_bytes())).collect();
            if known.len() >= KNOWN_MAX {
                known.remove(0);
            }
            known.push(Known { values: values.clone(), numbers });
            known.len() - 1
        }
    };
    let numbers = &known[at].numbers;
    let number = |key: i32| usize::try_from(key).ok().and_then(|key| numbers.get(key)).copied().unwrap_or(0);
    let out: Vec<u32> = dictionary.keys().values().iter().map(|key| number(*key)).collect();
    Ok(UInt32Array::new(out.into(), dictionary.keys().nulls().cloned()))
}

/// Whether the texts of a column may repeat often enough for numbers and a dictionary, going by a
/// sample out of the batches that have it. Of what hardly repeats in a sample there may still be few
/// different ones in a row group; whether a dictionary is written is decided then.
pub(crate) fn repeat<'a>(columns: impl Iterator<Item = &'a StringArray> + Clone) -> bool {
    let rows: usize = columns.clone().map(Array::len).sum();
    let step = (rows / SAMPLE_ROWS).max(1);
    let mut distinct = hashbrown::HashSet::new();
    let (mut valid, mut skip) = (0, 0);
    for column in columns {
        let mut row = skip;
        while row < column.len() {
            if column.is_valid(row) {
                valid += 1;
                distinct.insert(column.value(row));
            }
            row += step;
        }
        skip = row - column.len();
    }
    distinct.len() * 10 <= valid * 9 || valid < 16
}
