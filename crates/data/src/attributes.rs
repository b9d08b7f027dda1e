//! Open-ended attributes: a map from key to JSON text, which keeps each value's own type.
//!
//! A key *reads* as one kind (boolean, number or text), fixed by the catalogue when it is first
//! seen; a value of another kind then reads as null, and is still there as text.
//!
//! Doubles that are not finite are written bare ([`json::write_f64`](crate::json::write_f64));
//! bytes are written as `{"$bytes":"<base64>"}`.

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{ArrayRef, MapArray, StringArray, StructArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use hashbrown::HashTable;

use crate::batch::fitted;
use crate::json;
use crate::streams::attributes_type;

/// How a key reads in SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttributeKind {
    /// `true` or `false`.
    Bool,
    /// Integers and doubles; reads as float64.
    Number,
    /// Everything else, lists and objects included (as JSON).
    Text,
}

impl AttributeKind {
    /// The stable text, as stored in the catalogue.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Number => "number",
            Self::Text => "text",
        }
    }

    /// The kind of that text.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Bool, Self::Number, Self::Text].into_iter().find(|kind| kind.as_str() == text)
    }

    /// The kind of a stored value; `None` for `null`.
    pub fn of(value: &str) -> Option<Self> {
        match value.as_bytes().first()? {
            b't' | b'f' => Some(Self::Bool),
            b'n' => None,
            b'0'..=b'9' | b'-' | b'N' | b'I' => Some(Self::Number),
            _ => Some(Self::Text),
        }
    }
}

/// A stored value as a boolean, if it is one.
pub fn as_bool(value: &str) -> Option<bool> {
    match value {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A stored value as a number, if it is one.
pub fn as_number(value: &str) -> Option<f64> {
    match AttributeKind::of(value)? {
        AttributeKind::Number => match value {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => value.parse().ok(),
        },
        _ => None,
    }
}

/// A stored value as an integer: exact for integers, null for anything else.
pub fn as_int(value: &str) -> Option<i64> {
    match AttributeKind::of(value)? {
        AttributeKind::Number => value.parse().ok(),
        _ => None,
    }
}

/// A stored value as text: strings unquoted, everything else as its JSON; `None` for `null`.
pub fn as_text(value: &str) -> Option<Cow<'_, str>> {
    match value.as_bytes() {
        b"null" => None,
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Some(Cow::Borrowed(&value[1..value.len() - 1])),
        [b'"', ..] => Some(serde_json::from_str::<String>(value).map_or(Cow::Borrowed(value), Cow::Owned)),
        _ => Some(Cow::Borrowed(value)),
    }
}

/// A stored value as the kind text reads: strings unquoted, lists and objects as JSON, null for
/// booleans and numbers.
pub fn as_kind_text(value: &str) -> Option<Cow<'_, str>> {
    match AttributeKind::of(value)? {
        AttributeKind::Text => as_text(value),
        _ => None,
    }
}

/// A key met while building, with the kind of its first value that is not null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedKey {
    /// The key.
    pub key: String,
    /// The kind of the first value.
    pub kind: AttributeKind,
    /// In how many rows it was met.
    pub count: u64,
}

/// Texts end to end, with the place where each ends.
#[derive(Debug)]
struct Texts {
    text: String,
    ends: Vec<i32>,
}

impl Texts {
    fn with_capacity(n_texts: usize, bytes: usize) -> Self {
        let mut ends = Vec::with_capacity(n_texts + 1);
        ends.push(0);
        Self { text: String::with_capacity(bytes), ends }
    }

    fn len(&self) -> usize {
        self.ends.len() - 1
    }

    fn end(&self, at: usize) -> usize {
        usize::try_from(self.ends[at]).unwrap_or(0)
    }

    fn get(&self, at: usize) -> &str {
        &self.text[self.end(at)..self.end(at + 1)]
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.close();
    }

    /// Ends a text that was written straight into `text`.
    fn close(&mut self) {
        assert!(self.text.len() <= MAX_BYTES, "attribute columns stay below 2 GiB");
        self.ends.push(i32::try_from(self.text.len()).unwrap_or(i32::MAX));
    }

    fn truncate(&mut self, n_texts: usize) {
        self.ends.truncate(n_texts + 1);
        self.text.truncate(self.end(n_texts));
    }

    /// Appends the texts from `begin` on `times` more times.
    fn repeat_from(&mut self, begin: usize, times: usize) {
        let (first, end) = (self.end(begin), self.text.len());
        let (length, n_texts) = (end - first, self.len() - begin);
        assert!(end + length * times <= MAX_BYTES, "attribute columns stay below 2 GiB");
        self.text.reserve(length * times);
        self.ends.reserve(n_texts * times);
        let step = i32::try_from(length).unwrap_or(i32::MAX);
        for _ in 0..times {
            self.text.extend_from_within(first..end);
            let newest = self.ends.len() - n_texts;
            for at in newest..newest + n_texts {
                self.ends.push(self.ends[at] + step);
            }
        }
    }

    fn finish(self) -> StringArray {
        let (ends, text) = (fitted(self.ends), fitted(self.text.into_bytes()));
        StringArray::new(OffsetBuffer::new(ends.into()), Buffer::from(text), None)
    }
}

/// Arrow's offsets are signed 32-bit; decoders refuse far earlier.
const MAX_BYTES: usize = i32::MAX as usize;

/// Stands for "no key" where a place in the list of observed keys is kept.
const NO_KEY: u32 = u32::MAX;

/// Builds one attribute column, row by row.
///
/// Rows of a request mostly have the same keys in the same order, so a key is first compared with
/// the one that stood at its place in the row before, and only then looked up by hash.
#[derive(Debug)]
pub struct AttributesBuilder {
    keys: Texts,
    values: Texts,
    offsets: Vec<i32>,
    valid: Vec<bool>,
    observed: Vec<ObservedKey>,
    index: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    /// Places in `observed` of the entries of the open row.
    row: Vec<u32>,
    /// The same of the last row that ended.
    row_before: Vec<u32>,
}

impl AttributesBuilder {
    /// A builder with room for `rows` rows of about 8 attributes.
    pub fn with_capacity(rows: usize) -> Self {
        Self {
            keys: Texts::with_capacity(rows * 8, rows * 128),
            values: Texts::with_capacity(rows * 8, rows * 128),
            offsets: {
                let mut offsets = Vec::with_capacity(rows + 1);
                offsets.push(0);
                offsets
            },
            valid: Vec::with_capacity(rows),
            observed: Vec::new(),
            index: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
            row: Vec::new(),
            row_before: Vec::new(),
        }
    }

    fn observe(&mut self, key: &str, kind: AttributeKind) {
        let place = match self.row_before.get(self.row.len()) {
            Some(place) if self.observed.get(*place as usize).is_some_and(|observed| observed.key == key) => *place,
            _ => self.find_or_add(key, kind),
        };
        let observed = &mut self.observed[place as usize];
        if observed.count == 0 {
            // Met before only in a row that was taken back.
            observed.kind = kind;
        }
        observed.count += 1;
        self.row.push(place);
    }

    fn find_or_add(&mut self, key: &str, kind: AttributeKind) -> u32 {
        let hash = self.hasher.hash_one(key);
        if let Some(place) = self.index.find(hash, |place| self.observed[*place as usize].key == key) {
            return *place;
        }
        let place = u32::try_from(self.observed.len()).unwrap_or(NO_KEY);
        self.observed.push(ObservedKey { key: key.to_owned(), kind, count: 0 });
        let (observed, hasher) = (&self.observed, &self.hasher);
        self.index.insert_unique(hash, place, |place| hasher.hash_one(observed[*place as usize].key.as_str()));
        place
    }

    /// Adds a string.
    pub fn push_str(&mut self, key: &str, value: &str) {
        self.observe(key, AttributeKind::Text);
        self.keys.push(key);
        json::write_string(&mut self.values.text, value);
        self.values.close();
    }

    /// Adds an integer.
    pub fn push_i64(&mut self, key: &str, value: i64) {
        self.observe(key, AttributeKind::Number);
        self.keys.push(key);
        json::write_i64(&mut self.values.text, value);
        self.values.close();
    }

    /// Adds a double.
    pub fn push_f64(&mut self, key: &str, value: f64) {
        self.observe(key, AttributeKind::Number);
        self.keys.push(key);
        json::write_f64(&mut self.values.text, value);
        self.values.close();
    }

    /// Adds a boolean.
    pub fn push_bool(&mut self, key: &str, value: bool) {
        self.observe(key, AttributeKind::Bool);
        self.keys.push(key);
        self.values.push(if value { "true" } else { "false" });
    }

    /// Adds a value that is JSON text already (and known to be valid, without white space at the
    /// ends).
    pub fn push_json(&mut self, key: &str, value: &str) {
        match AttributeKind::of(value) {
            Some(kind) => self.observe(key, kind),
            None => self.row.push(NO_KEY),
        }
        self.keys.push(key);
        self.values.push(value);
    }

    /// Adds a value whose JSON text `write` appends to what it is given; nothing is added if it
    /// fails.
    pub fn push_written<E>(&mut self, key: &str, write: impl FnOnce(&mut String) -> Result<(), E>) -> Result<(), E> {
        let begun = self.values.text.len();
        if let Err(error) = write(&mut self.values.text) {
            self.values.text.truncate(begun);
            return Err(error);
        }
        match AttributeKind::of(&self.values.text[begun..]) {
            Some(kind) => self.observe(key, kind),
            None => self.row.push(NO_KEY),
        }
        self.values.close();
        self.keys.push(key);
        Ok(())
    }

    /// What was added since the last row ended: keys and JSON texts.
    pub fn open_row(&self) -> impl Iterator<Item = (&str, &str)> {
        (self.row_begin()..self.keys.len()).map(|at| (self.keys.get(at), self.values.get(at)))
    }

    /// What the last row that ended has.
    pub fn last_row(&self) -> impl Iterator<Item = (&str, &str)> {
        let begin = self.offsets.iter().rev().nth(1).map_or(0, |offset| usize::try_from(*offset).unwrap_or(0));
        (begin..self.row_begin()).map(|at| (self.keys.get(at), self.values.get(at)))
    }

    /// Bytes of keys and values added since the last row ended.
    pub fn open_row_bytes(&self) -> usize {
        let begin = self.row_begin();
        self.keys.text.len() - self.keys.end(begin) + self.values.text.len() - self.values.end(begin)
    }

    /// The entry the open row begins with.
    fn row_begin(&self) -> usize {
        self.offsets.last().map_or(0, |offset| usize::try_from(*offset).unwrap_or(0))
    }

    /// Ends the row: a map of what was added since the last one, null if nothing was.
    pub fn end_row(&mut self) {
        let end = self.keys.len();
        self.valid.push(end > self.row_begin());
        self.offsets.push(i32::try_from(end).unwrap_or(i32::MAX));
        std::mem::swap(&mut self.row, &mut self.row_before);
        self.row.clear();
    }

    /// Ends the row as `times` equal rows: cheaper than adding the same values for each. None at
    /// all takes the row back.
    pub fn end_row_times(&mut self, times: usize) {
        if times == 0 {
            return self.abandon_row();
        }
        let begin = self.row_begin();
        let n_entries = self.keys.len() - begin;
        self.end_row();
        let more = times - 1;
        self.keys.repeat_from(begin, more);
        self.values.repeat_from(begin, more);
        self.valid.resize(self.valid.len() + more, n_entries > 0);
        let (mut end, step) = (self.row_begin(), n_entries);
        self.offsets.extend((0..more).map(|_| {
            end += step;
            i32::try_from(end).unwrap_or(i32::MAX)
        }));
        for place in &self.row_before {
            if let Some(observed) = self.observed.get_mut(*place as usize) {
                observed.count += more as u64;
            }
        }
    }

    /// Takes back what was added since the last row ended.
    pub fn abandon_row(&mut self) {
        let begin = self.row_begin();
        self.keys.truncate(begin);
        self.values.truncate(begin);
        for place in self.row.drain(..) {
            if let Some(observed) = self.observed.get_mut(place as usize) {
                observed.count -= 1;
            }
        }
    }

    /// How many rows have ended.
    pub fn len(&self) -> usize {
        self.valid.len()
    }

    /// Whether no row has ended.
    pub fn is_empty(&self) -> bool {
        self.valid.is_empty()
    }

    /// Whether every row so far is null.
    pub fn is_all_null(&self) -> bool {
        self.row_begin() == 0
    }

    /// How long all keys and values are.
    pub fn text_bytes(&self) -> usize {
        self.keys.text.len() + self.values.text.len()
    }

    /// Bytes held in keys and values.
    pub fn bytes(&self) -> usize {
        self.keys.text.len() + self.values.text.len() + self.keys.len() * 8 + self.offsets.len() * 4
    }

    /// The column and the keys met in it.
    pub fn finish(mut self) -> (ArrayRef, Vec<ObservedKey>) {
        self.abandon_row();
        let DataType::Map(entries_field, sorted) = attributes_type() else { unreachable!("a map type") };
        let DataType::Struct(fields) = entries_field.data_type() else { unreachable!("entries are a struct") };
        let columns: Vec<ArrayRef> = vec![Arc::new(self.keys.finish()), Arc::new(self.values.finish())];
        let entries = StructArray::new(fields.clone(), columns, None);
        let nulls = NullBuffer::from(self.valid);
        let offsets = OffsetBuffer::new(self.offsets.into());
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        let map = MapArray::new(entries_field, offsets, entries, nulls, sorted);
        self.observed.retain(|observed| observed.count > 0);
        (Arc::new(map), self.observed)
    }
}

/// The field of an open column of that name.
pub fn open_field(name: &str) -> Field {
    Field::new(name, attributes_type(), true)
}

#[cfg(test)]
mod tests;
