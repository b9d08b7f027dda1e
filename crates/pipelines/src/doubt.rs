//! What is known of rows behind something that is wrong.
//!
//! Planning goes on there, so that all that is wrong is reported at once, and nothing is that only follows from what was
//! reported already: with the columns before the wrong step, and with the names it speaks of, of which nobody knows
//! what they would be.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use serde_json::Value as Json;
use weir_component::spec::Fault;

/// What may not be as it seems in rows. The default is that nothing is in doubt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doubt {
    /// Nothing is known of the columns.
    is_unknown: bool,
    /// What may be a column, of any type.
    names: BTreeSet<String>,
    /// A step before is wrong, so there may be other columns.
    is_guess: bool,
}

/// How messages about a column that is not there begin, in expressions and in steps.
const NO_COLUMN: &str = "there is no column `";

/// The column that a fault says there is not.
fn missing(fault: &Fault) -> Option<&str> {
    fault.message.strip_prefix(NO_COLUMN)?.split_once('`').map(|(column, _)| column)
}

impl Doubt {
    /// Of rows whose columns are not known at all.
    pub(crate) fn unknown() -> Self {
        Self { is_unknown: true, ..Self::default() }
    }

    /// Of these names.
    pub(crate) fn of(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().collect(), ..Self::default() }
    }

    /// Whether all is known.
    pub(crate) fn is_none(&self) -> bool {
        !self.is_unknown && self.names.is_empty() && !self.is_guess
    }

    /// The same, and this.
    pub(crate) fn add(&mut self, other: &Self) {
        self.is_unknown |= other.is_unknown;
        self.is_guess |= other.is_guess;
        self.names.extend(other.names.iter().cloned());
    }

    /// Behind a step with such a configuration that has these faults: the names it may have given to columns.
    pub(crate) fn add_wrong(&mut self, config: &Json, faults: &[Fault]) {
        let missing: BTreeSet<&str> = faults.iter().filter_map(missing).collect();
        self.is_guess = true;
        if config.is_object() {
            // What a window makes beside what is written.
            self.names.insert("window".to_owned());
        }
        self.names.extend(names_in(config).into_iter().filter(|name| !missing.contains(name.as_str())));
    }

    /// Behind a step that was planned with rows in doubt: the columns it makes of them.
    pub(crate) fn add_planned(&mut self, config: &Json) {
        if !self.is_none() {
            self.names.extend(given_names(config));
        }
    }

    /// Whether a fault may be there only because of what was reported before. `config` is what has it, `when` the
    /// condition beside it.
    pub(crate) fn explains(&self, fault: &Fault, config: &Json, when: Option<&str>) -> bool {
        if fault.is_of_itself || self.is_none() {
            return false;
        }
        match missing(fault) {
            Some(column) => self.is_unknown || self.names.contains(column),
            None if self.is_unknown => true,
            None => {
                let mut texts = Vec::new();
                match when.filter(|_| fault.pointer == "/when") {
                    Some(when) => texts.push(when),
                    None => collect_texts(part_of(config, &fault.pointer), &mut texts),
                }
                texts.iter().flat_map(|text| words(text)).any(|word| self.names.contains(word))
            }
        }
    }

    /// The fault without the columns there seem to be.
    pub(crate) fn told(&self, fault: Fault) -> Fault {
        if !self.is_unknown && self.names.is_empty() {
            return fault;
        }
        let listed = |text: &str| text.find("the columns here are ").or_else(|| text.find("the columns are "));
        let mut fault = fault;
        if missing(&fault).is_some() {
            if let Some(at) = listed(&fault.message) {
                fault.message.truncate(at);
                fault.message.truncate(fault.message.trim_end_matches("; ").len());
            }
            if listed(&fault.hint).is_some() {
                fault.hint.clear();
            }
        }
        fault
    }

    /// The columns there may be: those of all that is read, and what is in doubt.
    pub(crate) fn columns<'a>(&self, read: impl IntoIterator<Item = &'a SchemaRef>) -> SchemaRef {
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut add = |field: FieldRef| {
            if known.insert(field.name().clone()) {
                fields.push(field);
            }
        };
        read.into_iter().flat_map(|schema| schema.fields()).cloned().for_each(&mut add);
        self.names.iter().map(|name| Arc::new(Field::new(name, DataType::Null, true))).for_each(add);
        Arc::new(Schema::new(fields))
    }
}

/// What may be names in an expression.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric() && character != '_').filter(|word| !word.is_empty())
}

/// The part of a configuration at a pointer, or all of it. Expressions are a list, and known by their names.
fn part_of<'a>(config: &'a Json, pointer: &str) -> &'a Json {
    let mut part = config;
    for name in pointer.split('/').skip(1) {
        let name = name.replace("~1", "/").replace("~0", "~");
        let found = match part {
            Json::Object(entries) => entries.get(&name),
            Json::Array(items) => items
                .iter()
                .find(|item| item.get("name").and_then(Json::as_str) == Some(&name))
                .or_else(|| name.parse::<usize>().ok().and_then(|at| items.get(at))),
            _ => None,
        };
        match found {
            Some(found) => part = found,
            None => return config,
        }
    }
    part
}

fn collect_texts<'a>(config: &'a Json, texts: &mut Vec<&'a str>) {
    match config {
        Json::String(text) => texts.push(text),
        Json::Array(items) => items.iter().for_each(|item| collect_texts(item, texts)),
        Json::Object(entries) => entries.values().for_each(|entry| collect_texts(entry, texts)),
        _ => {}
    }
}

/// Everything in a configuration that may be the name of a column: texts that are nothing but a name.
pub(crate) fn names_in(config: &Json) -> BTreeSet<String> {
    let mut texts = Vec::new();
    collect_texts(config, &mut texts);
    let is_name =
        |text: &&str| words(text).next() == Some(*text) && !text.starts_with(|first: char| first.is_ascii_digit());
    texts.into_iter().filter(is_name).map(str::to_owned).collect()
}

/// The names that a configuration gives to its expressions.
fn given_names(config: &Json) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    match config {
        Json::Array(items) => {
            for item in items {
                names.extend(item.get("name").and_then(Json::as_str).map(str::to_owned));
            }
        }
        Json::Object(entries) => names.extend(entries.values().flat_map(given_names)),
        _ => {}
    }
    names
}
