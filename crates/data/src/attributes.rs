//! Open-ended attributes: a map from key to JSON text, which keeps each value's own type.
//!
//! A key *reads* as one kind (boolean, number or text), fixed by the catalogue when it is first
//! seen; a value of another kind then reads as null, and is still there as text.
//!
//! Doubles that are not finite are written bare ([`json::write_f64`](crate::json::write_f64));
//! bytes are written as `{"$bytes":"<base64>"}`.

use std::borrow::Cow;
use std::hash::BuildHasher;

use arrow::array::{ArrayBuilder, ArrayRef, MapArray, StringBuilder, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use hashbrown::HashTable;

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

/// Builds one attribute column, row by row.
#[derive(Debug)]
pub struct AttributesBuilder {
    keys: StringBuilder,
    values: StringBuilder,
    offsets: Vec<i32>,
    valid: Vec<bool>,
    observed: Vec<ObservedKey>,
    index: HashTable<usize>,
    hasher: foldhash::fast::RandomState,
    scratch: String,
}

impl AttributesBuilder {
    /// A builder with room for `rows` rows of about 8 attributes.
    pub fn with_capacity(rows: usize) -> Self {
        Self {
            keys: StringBuilder::with_capacity(rows * 8, rows * 128),
            values: StringBuilder::with_capacity(rows * 8, rows * 128),
            offsets: {
                let mut offsets = Vec::with_capacity(rows + 1);
                offsets.push(0);
                offsets
            },
            valid: Vec::with_capacity(rows),
            observed: Vec::new(),
            index: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
            scratch: String::new(),
        }
    }

    fn observe(&mut self, key: &str, kind: AttributeKind) {
        let hash = self.hasher.hash_one(key);
        if let Some(at) = self.index.find(hash, |at| self.observed[*at].key == key) {
            self.observed[*at].count += 1;
            return;
        }
        let at = self.observed.len();
        self.observed.push(ObservedKey { key: key.to_owned(), kind, count: 1 });
        let (observed, hasher) = (&self.observed, &self.hasher);
        self.index.insert_unique(hash, at, |at| hasher.hash_one(observed[*at].key.as_str()));
    }

    /// Adds a string.
    pub fn push_str(&mut self, key: &str, value: &str) {
        self.observe(key, AttributeKind::Text);
        self.scratch.clear();
        json::write_string(&mut self.scratch, value);
        self.keys.append_value(key);
        self.values.append_value(&self.scratch);
    }

    /// Adds an integer.
    pub fn push_i64(&mut self, key: &str, value: i64) {
        self.observe(key, AttributeKind::Number);
        self.keys.append_value(key);
        self.values.append_value(itoa::Buffer::new().format(value));
    }

    /// Adds a double.
    pub fn push_f64(&mut self, key: &str, value: f64) {
        self.observe(key, AttributeKind::Number);
        self.scratch.clear();
        json::write_f64(&mut self.scratch, value);
        self.keys.append_value(key);
        self.values.append_value(&self.scratch);
    }

    /// Adds a boolean.
    pub fn push_bool(&mut self, key: &str, value: bool) {
        self.observe(key, AttributeKind::Bool);
        self.keys.append_value(key);
        self.values.append_value(if value { "true" } else { "false" });
    }

    /// Adds a value that is JSON text already (and known to be valid, without white space at the
    /// ends).
    pub fn push_json(&mut self, key: &str, value: &str) {
        if let Some(kind) = AttributeKind::of(value) {
            self.observe(key, kind);
        }
        self.keys.append_value(key);
        self.values.append_value(value);
    }

    fn close_row(&mut self, valid: bool) {
        let end = i32::try_from(self.keys.len()).unwrap_or(i32::MAX);
        self.offsets.push(end);
        self.valid.push(valid);
    }

    /// Ends the row: a map of what was added since the last one, null if nothing was.
    pub fn end_row(&mut self) {
        let begun = self.offsets.last().copied().unwrap_or(0);
        let added = self.keys.len() > usize::try_from(begun).unwrap_or(0);
        self.close_row(added);
    }

    /// Takes back what was added since the last row ended.
    pub fn abandon_row(&mut self) {
        // String builders cannot shrink, so the entries are kept and belong to no row: offsets of
        // a map may skip. Rebuilding happens on `finish`.
        let end = i32::try_from(self.keys.len()).unwrap_or(i32::MAX);
        if let Some(last) = self.offsets.last()
            && *last != end
        {
            self.rebuild(usize::try_from(*last).unwrap_or(0));
        }
    }

    fn rebuild(&mut self, entries: usize) {
        let keys = self.keys.finish();
        let values = self.values.finish();
        for at in 0..entries {
            self.keys.append_value(keys.value(at));
            self.values.append_value(values.value(at));
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
        !self.valid.contains(&true)
    }

    /// Bytes held in keys and values.
    pub fn bytes(&self) -> usize {
        self.keys.values_slice().len() + self.values.values_slice().len() + self.offsets.len() * 4
    }

    /// The column and the keys met in it.
    pub fn finish(mut self) -> (ArrayRef, Vec<ObservedKey>) {
        let DataType::Map(entries_field, sorted) = attributes_type() else { unreachable!("a map type") };
        let DataType::Struct(fields) = entries_field.data_type() else { unreachable!("entries are a struct") };
        let columns: Vec<ArrayRef> =
            vec![std::sync::Arc::new(self.keys.finish()), std::sync::Arc::new(self.values.finish())];
        let entries = StructArray::new(fields.clone(), columns, None);
        let nulls = NullBuffer::from(self.valid);
        let offsets = OffsetBuffer::new(self.offsets.into());
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        let map = MapArray::new(entries_field, offsets, entries, nulls, sorted);
        (std::sync::Arc::new(map), self.observed)
    }
}

/// The field of an open column of that name.
pub fn open_field(name: &str) -> Field {
    Field::new(name, attributes_type(), true)
}
