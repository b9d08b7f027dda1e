//! The keys that are known at the moment, each with a small number: an index into whatever is kept by key.
//!
//! A number is given out again once its key was removed, so what is indexed by it stays as large as the most
//! keys there were at a time.

mod fixed;

use std::hash::BuildHasher;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashTable;
use weir_component::operator::OperatorError;

use fixed::{FixedKeys, fixed_type};

/// The number of no key.
pub(crate) const UNKNOWN: u32 = u32::MAX;

/// Numbers by key.
pub(crate) struct KeyTable(Keys);

enum Keys {
    Fixed(FixedKeys),
    Any(AnyKeys),
}

/// Numbers of keys of any columns that can be told apart, as rows of bytes.
struct AnyKeys {
    schema: SchemaRef,
    /// `None`: there are no key columns, so all rows have the same key.
    rows: Option<(RowConverter, Rows)>,
    numbers: HashTable<u32>,
    /// Key by number; empty if the number is free.
    keys: Vec<Key>,
    free: Vec<u32>,
    bytes: usize,
    hasher: foldhash::fast::FixedState,
}

#[derive(Default)]
struct Key {
    hash: u64,
    bytes: Box<[u8]>,
}

/// Whether rows with such keys can be told apart.
pub(crate) fn are_supported(schema: &SchemaRef) -> bool {
    RowConverter::supports_fields(&sort_fields(schema))
}

fn sort_fields(schema: &SchemaRef) -> Vec<SortField> {
    schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect()
}

impl KeyTable {
    /// A table for keys with such columns.
    pub(crate) fn new(schema: SchemaRef) -> Result<Self, OperatorError> {
        let hasher = foldhash::fast::FixedState::with_seed(0x6b65_7973);
        Ok(Self(match fixed_type(&schema) {
            Some(data_type) => Keys::Fixed(FixedKeys::new(data_type.clone(), hasher)),
            None => Keys::Any(AnyKeys::new(schema, hasher)?),
        }))
    }

    /// How many keys are known.
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Keys::Fixed(keys) => keys.len(),
            Keys::Any(keys) => keys.numbers.len(),
        }
    }

    /// Every number given out so far is below this.
    pub(crate) fn bound(&self) -> usize {
        match &self.0 {
            Keys::Fixed(keys) => keys.bound(),
            Keys::Any(keys) => keys.keys.len(),
        }
    }

    /// Bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        match &self.0 {
            Keys::Fixed(keys) => keys.bytes(),
            Keys::Any(keys) => keys.bytes + keys.keys.capacity() * size_of::<Key>() + keys.numbers.capacity() * 5,
        }
    }

    /// The number of each row's key, into `numbers`. A key that is not known becomes so.
    pub(crate) fn numbers(
        &mut self,
        columns: &[ArrayRef],
        n_rows: usize,
        numbers: &mut Vec<u32>,
    ) -> Result<(), OperatorError> {
        numbers.clear();
        if n_rows == 0 {
            // Without columns there would be a key that nobody has.
            return Ok(());
        }
        numbers.reserve(n_rows);
        match (&mut self.0, columns) {
            (Keys::Fixed(keys), [column]) => keys.numbers(column, numbers),
            (Keys::Fixed(_), _) => Err(OperatorError::internal("a key has another number of columns")),
            (Keys::Any(keys), columns) => keys.numbers(columns, n_rows, numbers),
        }
    }

    /// The number of each row's key, into `numbers`; [`UNKNOWN`] of one that is not known.
    pub(crate) fn lookup(
        &mut self,
        columns: &[ArrayRef],
        n_rows: usize,
        numbers: &mut Vec<u32>,
    ) -> Result<(), OperatorError> {
        numbers.clear();
        numbers.reserve(n_rows);
        match (&mut self.0, columns) {
            (Keys::Fixed(keys), [column]) => keys.lookup(column, numbers),
            (Keys::Fixed(_), _) => Err(OperatorError::internal("a key has another number of columns")),
            (Keys::Any(keys), columns) => keys.lookup(columns, n_rows, numbers),
        }
    }

    /// Forgets a key.
    pub(crate) fn remove(&mut self, number: u32) {
        match &mut self.0 {
            Keys::Fixed(keys) => keys.remove(number),
            Keys::Any(keys) => keys.remove(number),
        }
    }

    /// The keys with these numbers, as columns.
    pub(crate) fn columns(&self, numbers: impl Iterator<Item = u32>) -> Result<Vec<ArrayRef>, OperatorError> {
        match &self.0 {
            Keys::Fixed(keys) => Ok(vec![keys.column(numbers)?]),
            Keys::Any(keys) => keys.columns(numbers),
        }
    }
}

impl AnyKeys {
    fn new(schema: SchemaRef, hasher: foldhash::fast::FixedState) -> Result<Self, OperatorError> {
        let rows = match schema.fields().is_empty() {
            true => None,
            false => {
                let converter = RowConverter::new(sort_fields(&schema)).map_err(OperatorError::internal)?;
                let rows = converter.empty_rows(0, 0);
                Some((converter, rows))
            }
        };
        let numbers = HashTable::new();
        Ok(Self { schema, rows, numbers, keys: Vec::new(), free: Vec::new(), bytes: 0, hasher })
    }

    fn numbers(&mut self, columns: &[ArrayRef], n_rows: usize, numbers: &mut Vec<u32>) -> Result<(), OperatorError> {
        let Some((converter, rows)) = &mut self.rows else {
            let number = number_of(&mut self.numbers, &mut self.keys, &mut self.free, &mut self.bytes, 0, &[]);
            numbers.resize(n_rows, number);
            return Ok(());
        };
        rows.clear();
        converter.append(rows, columns).map_err(OperatorError::internal)?;
        for row in rows.iter() {
            let bytes = row.as_ref();
            let hash = self.hasher.hash_one(bytes);
            let number = number_of(&mut self.numbers, &mut self.keys, &mut self.free, &mut self.bytes, hash, bytes);
            numbers.push(number);
        }
        Ok(())
    }

    fn lookup(&mut self, columns: &[ArrayRef], n_rows: usize, numbers: &mut Vec<u32>) -> Result<(), OperatorError> {
        let Some((converter, rows)) = &mut self.rows else {
            let known = self.numbers.iter().next().copied().unwrap_or(UNKNOWN);
            numbers.resize(n_rows, known);
            return Ok(());
        };
        rows.clear();
        converter.append(rows, columns).map_err(OperatorError::internal)?;
        for row in rows.iter() {
            let bytes = row.as_ref();
            let hash = self.hasher.hash_one(bytes);
            let is_same = |number: &u32| {
                let key = &self.keys[*number as usize];
                key.hash == hash && *key.bytes == *bytes
            };
            numbers.push(self.numbers.find(hash, is_same).copied().unwrap_or(UNKNOWN));
        }
        Ok(())
    }

    fn remove(&mut self, number: u32) {
        let key = std::mem::take(&mut self.keys[number as usize]);
        if let Ok(entry) = self.numbers.find_entry(key.hash, |known| *known == number) {
            entry.remove();
            self.bytes -= key.bytes.len();
            self.free.push(number);
        }
        if self.numbers.is_empty() {
            // Whoever had many keys once does not keep the room for them.
            self.keys = Vec::new();
            self.free = Vec::new();
            self.numbers = HashTable::new();
        }
    }

    fn columns(&self, numbers: impl Iterator<Item = u32>) -> Result<Vec<ArrayRef>, OperatorError> {
        let Some((converter, _)) = &self.rows else { return Ok(Vec::new()) };
        let parser = converter.parser();
        let rows = numbers.map(|number| parser.parse(&self.keys[number as usize].bytes));
        let columns = converter.convert_rows(rows).map_err(OperatorError::internal)?;
        let fitted = |(column, field): (ArrayRef, &arrow::datatypes::FieldRef)| match column.data_type() {
            same if same == field.data_type() => Ok(column),
            // Repeating values were written out.
            _ => cast(&column, field.data_type()).map_err(OperatorError::internal),
        };
        columns.into_iter().zip(self.schema.fields()).map(fitted).collect()
    }
}

fn number_of(
    numbers: &mut HashTable<u32>,
    keys: &mut Vec<Key>,
    free: &mut Vec<u32>,
    total: &mut usize,
    hash: u64,
    bytes: &[u8],
) -> u32 {
    let is_same = |number: &u32| {
        let key = &keys[*number as usize];
        key.hash == hash && *key.bytes == *bytes
    };
    if let Some(number) = numbers.find(hash, is_same) {
        return *number;
    }
    let number = free.pop().unwrap_or_else(|| {
        keys.push(Key::default());
        u32::try_from(keys.len() - 1).unwrap_or(u32::MAX)
    });
    keys[number as usize] = Key { hash, bytes: bytes.into() };
    *total += bytes.len();
    numbers.insert_unique(hash, number, |number| keys[*number as usize].hash);
    number
}
