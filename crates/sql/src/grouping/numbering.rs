//! Which group a row belongs to: a number for each combination of values met so far.
//!
//! Each column's values are numbered by themselves, then pairs of numbers, so that the work for a row
//! is a look into one small table for each column and one for each pair. A table forgets what another
//! entry takes the place of; then the value is looked up in full, and gets the number it had.

use arrow::array::{Array, ArrayRef, AsArray, StringViewArray, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{
    DataType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::common::{Result, internal_err};
use hashbrown::HashMap;

/// Entries of a table; 8 KiB.
const ENTRIES: usize = 256;
/// The number of null.
const NULL: u32 = 0;
/// Texts of up to so many bytes stand in their view as they are.
const INLINE_BYTES: u32 = 12;

/// Whether values of a type can be numbered.
pub(super) fn can_number(kind: &DataType) -> bool {
    // Doubles are left out: -0 and 0 are equal and NaN has many forms.
    kind.is_integer() || matches!(kind, DataType::Utf8View | DataType::Boolean)
}

/// Remembers the number of some bits.
#[derive(Clone)]
struct Recent {
    entries: Box<[(u128, u32); ENTRIES]>,
}

impl Recent {
    fn new() -> Self {
        Self { entries: Box::new([(0, u32::MAX); ENTRIES]) }
    }

    fn forget(&mut self) {
        self.entries.fill((0, u32::MAX));
    }

    /// The number of `bits`, looked up by `find` if it is not remembered.
    #[inline]
    fn number(&mut self, bits: u128, find: impl FnOnce() -> u32) -> u32 {
        let mixed = ((bits as u64) ^ ((bits >> 64) as u64).rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let entry = &mut self.entries[(mixed >> 56) as usize];
        if entry.0 != bits || entry.1 == u32::MAX {
            *entry = (bits, find());
        }
        entry.1
    }
}

/// The values of one column.
struct Column {
    recent: Recent,
    texts: HashMap<Box<str>, u32>,
    numbers: HashMap<u64, u32>,
    /// Numbers given; null has one from the start.
    count: u32,
}

impl Column {
    fn new() -> Self {
        Self { recent: Recent::new(), texts: HashMap::new(), numbers: HashMap::new(), count: 1 }
    }

    fn number_texts(&mut self, values: &StringViewArray, out: &mut Vec<u32>) {
        // A longer text's view says where it is, which means something else in the next batch.
        self.recent.forget();
        let Self { recent, texts, count, .. } = self;
        let is_inline = |view: u128| view as u32 <= INLINE_BYTES;
        let views = values.views();
        // Views of different buffers differ, or are of the same bytes: both find the same number.
        let mut number = |row: usize, view: u128| {
            recent.number(view, || {
                debug_assert!(is_inline(view) || values.value(row).len() > INLINE_BYTES as usize);
                let text = values.value(row);
                if let Some(known) = texts.get(text) {
                    return *known;
                }
                texts.insert(text.into(), *count);
                *count += 1;
                *count - 1
            })
        };
        if values.null_count() == 0 {
            out.extend(views.iter().enumerate().map(|(row, view)| number(row, *view)));
        } else {
            let views = views.iter().enumerate();
            out.extend(views.map(|(row, view)| if values.is_null(row) { NULL } else { number(row, *view) }));
        }
    }

    fn number_integers(&mut self, values: impl Iterator<Item = Option<u64>>, out: &mut Vec<u32>) {
        let Self { recent, numbers, count, .. } = self;
        out.extend(values.map(|value| match value {
            None => NULL,
            Some(value) => recent.number(u128::from(value), || {
                *numbers.entry(value).or_insert_with(|| {
                    *count += 1;
                    *count - 1
                })
            }),
        }));
    }

    fn number(&mut self, values: &ArrayRef, out: &mut Vec<u32>) -> Result<()> {
        macro_rules! integers {
            ($kind:ty) => {{
                let values = values.as_primitive::<$kind>();
                if values.null_count() == 0 {
                    self.number_integers(values.values().iter().map(|value| Some(*value as u64)), out)
                } else {
                    self.number_integers(values.iter().map(|value| value.map(|value| value as u64)), out)
                }
            }};
        }
        match values.data_type() {
            DataType::Utf8View => self.number_texts(values.as_string_view(), out),
            DataType::Boolean => {
                self.number_integers(values.as_boolean().iter().map(|value| value.map(u64::from)), out)
            }
            DataType::Int8 => integers!(Int8Type),
            DataType::Int16 => integers!(Int16Type),
            DataType::Int32 => integers!(Int32Type),
            DataType::Int64 => integers!(Int64Type),
            DataType::UInt8 => integers!(UInt8Type),
            DataType::UInt16 => integers!(UInt16Type),
            DataType::UInt32 => integers!(UInt32Type),
            DataType::UInt64 => integers!(UInt64Type),
            other => return internal_err!("values of type {other} are not numbered"),
        }
        Ok(())
    }
}

/// Pairs of numbers.
struct Pairs {
    recent: Recent,
    numbers: HashMap<u64, u32>,
}

/// The groups met so far.
pub(super) struct Numbering {
    columns: Vec<Column>,
    /// One fewer than columns.
    pairs: Vec<Pairs>,
    /// From the number of the last pair, or of the only column, to the group.
    group_of: Vec<u32>,
    groups: usize,
    /// The keys of groups, in their order.
    keys: Vec<Vec<ArrayRef>>,
    ids: Vec<u32>,
    column_ids: Vec<u32>,
}

const NO_GROUP: u32 = u32::MAX;

impl Numbering {
    pub(super) fn new(columns: usize) -> Self {
        let pairs = || Pairs { recent: Recent::new(), numbers: HashMap::new() };
        Self {
            columns: (0..columns).map(|_| Column::new()).collect(),
            pairs: (1..columns).map(|_| pairs()).collect(),
            group_of: Vec::new(),
            groups: 0,
            keys: Vec::new(),
            ids: Vec::new(),
            column_ids: Vec::new(),
        }
    }

    /// How many there are.
    pub(super) fn groups(&self) -> usize {
        self.groups
    }

    /// The group of each row.
    pub(super) fn number(&mut self, keys: &[ArrayRef], groups: &mut Vec<usize>) -> Result<()> {
        self.ids.clear();
        for (at, (column, values)) in self.columns.iter_mut().zip(keys).enumerate() {
            if at == 0 {
                column.number(values, &mut self.ids)?;
                continue;
            }
            self.column_ids.clear();
            column.number(values, &mut self.column_ids)?;
            let Pairs { recent, numbers } = &mut self.pairs[at - 1];
            for (id, own) in self.ids.iter_mut().zip(&self.column_ids) {
                let pair = u64::from(*id) << 32 | u64::from(*own);
                *id = recent.number(u128::from(pair), || {
                    let next = numbers.len() as u32;
                    *numbers.entry(pair).or_insert(next)
                });
            }
        }
        let mut first_rows: Vec<u32> = Vec::new();
        groups.clear();
        groups.reserve(self.ids.len());
        for (row, id) in self.ids.iter().enumerate() {
            let id = *id as usize;
            if id >= self.group_of.len() {
                self.group_of.resize(id + 1, NO_GROUP);
            }
            if self.group_of[id] == NO_GROUP {
                self.group_of[id] = self.groups as u32;
                self.groups += 1;
                first_rows.push(row as u32);
            }
            groups.push(self.group_of[id] as usize);
        }
        if !first_rows.is_empty() {
            let rows = UInt32Array::from(first_rows);
            self.keys.push(keys.iter().map(|key| take(key, &rows, None)).collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    /// The keys of all groups, in their order. Nothing is numbered after it.
    pub(super) fn take_keys(&mut self) -> Result<Vec<ArrayRef>> {
        let parts = std::mem::take(&mut self.keys);
        (0..self.columns.len())
            .map(|column| {
                let parts: Vec<&dyn Array> = parts.iter().map(|part| part[column].as_ref()).collect();
                Ok(concat(&parts)?)
            })
            .collect()
    }
}
