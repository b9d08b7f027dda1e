//! Numbers of keys that are one column of eight bytes: identifiers and times. They need no room beside the table, and
//! telling them apart is comparing two numbers.

use std::hash::BuildHasher;

use arrow::array::{Array, ArrayRef, make_array};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Schema};
use hashbrown::HashTable;
use weir_component::operator::OperatorError;

use super::UNKNOWN;

pub(super) struct FixedKeys {
    data_type: DataType,
    /// Key and number.
    numbers: HashTable<(u64, u32)>,
    /// Key by number, whether the number is given out or not.
    keys: Vec<u64>,
    /// The number of null, if it is known.
    null: Option<u32>,
    free: Vec<u32>,
    hasher: foldhash::fast::FixedState,
}

/// The type of keys of such a schema, if this is for them. Floating-point numbers are not: two of them may be equal and
/// not the same.
pub(super) fn fixed_type(schema: &Schema) -> Option<&DataType> {
    let [field] = schema.fields().as_ref() else { return None };
    let data_type = field.data_type();
    let is_fixed = matches!(
        data_type,
        DataType::Int64
            | DataType::UInt64
            | DataType::Timestamp(..)
            | DataType::Date64
            | DataType::Time64(_)
            | DataType::Duration(_)
    );
    is_fixed.then_some(data_type)
}

impl FixedKeys {
    pub(super) fn new(data_type: DataType, hasher: foldhash::fast::FixedState) -> Self {
        Self { data_type, numbers: HashTable::new(), keys: Vec::new(), null: None, free: Vec::new(), hasher }
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len() + usize::from(self.null.is_some())
    }

    pub(super) fn bound(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<u64>() + self.numbers.capacity() * (size_of::<(u64, u32)>() + 1)
    }

    fn check(&self, column: &ArrayRef) -> Result<(), OperatorError> {
        if column.data_type() != &self.data_type {
            let message = format!("a key of type {} came where {} was expected", column.data_type(), self.data_type);
            return Err(OperatorError::internal(message));
        }
        Ok(())
    }

    pub(super) fn lookup(&self, column: &ArrayRef, numbers: &mut Vec<u32>) -> Result<(), OperatorError> {
        self.check(column)?;
        let data = column.to_data();
        let values: &[u64] = &data.buffer::<u64>(0)[..data.len()];
        numbers.extend(values.iter().map(|value| self.known(*value).unwrap_or(UNKNOWN)));
        for (number, row) in numbers.iter_mut().zip(0..) {
            if column.is_null(row) {
                *number = self.null.unwrap_or(UNKNOWN);
            }
        }
        Ok(())
    }

    pub(super) fn numbers(&mut self, column: &ArrayRef, numbers: &mut Vec<u32>) -> Result<(), OperatorError> {
        self.check(column)?;
        let data = column.to_data();
        let values: &[u64] = &data.buffer::<u64>(0)[..data.len()];
        match column.nulls() {
            None => numbers.extend(values.iter().map(|value| self.number(*value))),
            Some(nulls) => {
                for (value, is_there) in values.iter().zip(nulls) {
                    numbers.push(if is_there { self.number(*value) } else { self.number_of_null() });
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn known(&self, value: u64) -> Option<u32> {
        let hash = self.hasher.hash_one(value);
        self.numbers.find(hash, |(known, _)| *known == value).map(|(_, number)| *number)
    }

    #[inline]
    fn number(&mut self, value: u64) -> u32 {
        match self.known(value) {
            Some(number) => number,
            None => self.add(value),
        }
    }

    /// Gives a number to a key that has none.
    #[cold]
    fn add(&mut self, value: u64) -> u32 {
        let number = next_number(&mut self.free, &mut self.keys);
        self.keys[number as usize] = value;
        let (hash, hasher) = (self.hasher.hash_one(value), &self.hasher);
        self.numbers.insert_unique(hash, (value, number), |(known, _)| hasher.hash_one(*known));
        number
    }

    fn number_of_null(&mut self) -> u32 {
        *self.null.get_or_insert_with(|| next_number(&mut self.free, &mut self.keys))
    }

    pub(super) fn remove(&mut self, number: u32) {
        if self.null == Some(number) {
            self.null = None;
            self.free.push(number);
        } else {
            let hash = self.hasher.hash_one(self.keys[number as usize]);
            if let Ok(entry) = self.numbers.find_entry(hash, |(_, known)| *known == number) {
                entry.remove();
                self.free.push(number);
            }
        }
        if self.len() == 0 {
            self.keys = Vec::new();
            self.free = Vec::new();
            self.numbers = HashTable::new();
        }
    }

    pub(super) fn column(&self, numbers: impl Iterator<Item = u32>) -> Result<ArrayRef, OperatorError> {
        let numbers: Vec<u32> = numbers.collect();
        let values: Vec<u64> = numbers.iter().map(|number| self.keys[*number as usize]).collect();
        let nulls = self.null.filter(|null| numbers.contains(null));
        let nulls = nulls.map(|null| numbers.iter().map(|number| *number != null).collect::<NullBuffer>());
        let data = arrow::array::ArrayData::builder(self.data_type.clone())
            .len(values.len())
            .add_buffer(Buffer::from_vec(values))
            .nulls(nulls)
            .build();
        data.map(make_array).map_err(OperatorError::internal)
    }
}

fn next_number(free: &mut Vec<u32>, keys: &mut Vec<u64>) -> u32 {
    free.pop().unwrap_or_else(|| {
        keys.push(0);
        // The state of a step is bounded in bytes long before.
        u32::try_from(keys.len() - 1).unwrap_or(u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, TimestampNanosecondArray};
    use arrow::datatypes::{Field, SchemaRef};

    use crate::keys::KeyTable;

    fn schema(data_type: super::DataType) -> SchemaRef {
        Arc::new(super::Schema::new(vec![Field::new("k", data_type, true)]))
    }

    #[test]
    fn numbers_are_given_out_again_and_null_is_a_key() {
        let mut table = KeyTable::new(schema(super::DataType::Int64)).unwrap();
        let mut numbers = Vec::new();
        let keys = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as super::ArrayRef;
        table.numbers(&[keys(vec![Some(7), None, Some(0), Some(7), None])], 5, &mut numbers).unwrap();
        assert_eq!((numbers.as_slice(), table.len()), ([0, 1, 2, 0, 1].as_slice(), 3));
        let back = table.columns([2, 1, 0].into_iter()).unwrap();
        assert_eq!(&back[0], &keys(vec![Some(0), None, Some(7)]));
        table.lookup(&[keys(vec![Some(8), Some(0), None])], 3, &mut numbers).unwrap();
        assert_eq!((numbers.as_slice(), table.len()), ([crate::keys::UNKNOWN, 2, 1].as_slice(), 3));
        table.remove(1);
        table.lookup(&[keys(vec![Some(7), None])], 2, &mut numbers).unwrap();
        assert_eq!(numbers, [0, crate::keys::UNKNOWN]);
        table.remove(0);
        // Of a slice, so that values do not begin where their buffer does.
        let sliced = keys(vec![Some(1), Some(0), Some(-3), None]).slice(1, 3);
        table.numbers(&[sliced], 3, &mut numbers).unwrap();
        assert_eq!((numbers.as_slice(), table.len(), table.bound()), ([2, 0, 1].as_slice(), 3, 3));
        for number in 0..3 {
            table.remove(number);
        }
        assert_eq!((table.len(), table.bound()), (0, 0));
    }

    #[test]
    fn keys_keep_their_type() {
        let times = TimestampNanosecondArray::from(vec![5, -5]).with_timezone("UTC");
        let times = Arc::new(times) as super::ArrayRef;
        let mut table = KeyTable::new(schema(times.data_type().clone())).unwrap();
        let mut numbers = Vec::new();
        table.numbers(&[Arc::clone(&times)], 2, &mut numbers).unwrap();
        assert_eq!(table.columns(numbers.into_iter()).unwrap(), [times]);
    }
}
