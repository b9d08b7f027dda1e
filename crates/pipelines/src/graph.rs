//! What reads what: inputs, steps and the branches of steps by their names.
//!
//! A step reads the step above it unless it says otherwise, and only what stands above it can be named; so
//! there are no circles.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use weir_component::operator::Branch;
use weir_engine::Input;
use weir_operators::Read;

use crate::doubt::Doubt;

/// Something that can be read, with its columns.
#[derive(Clone, Debug)]
pub(crate) struct Readable {
    name: String,
    pub(crate) input: Input,
    pub(crate) schema: SchemaRef,
    /// Where it is said in the document.
    pointer: String,
    is_table: bool,
    /// What is not known of its rows, because something above is wrong.
    pub(crate) doubt: Doubt,
}

/// Everything above a place of the document.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    readable: Vec<Readable>,
    read: BTreeSet<Input>,
    /// What a step reads that says nothing: an index of `readable`.
    flow: usize,
    /// What wrong steps may be called, and their branches.
    perhaps: BTreeSet<String>,
    /// Something above is wrong that may have any name.
    is_any_name: bool,
}

impl Graph {
    /// An input of the pipeline. The first one is what the first step reads.
    pub(crate) fn add_source(&mut self, name: &str, at: usize, schema: SchemaRef, pointer: String) {
        let name = name.to_owned();
        let doubt = Doubt::default();
        self.readable.push(Readable { name, input: Input::Source(at), schema, pointer, is_table: false, doubt });
    }

    /// An input or a table of which nothing is known but its name.
    pub(crate) fn add_unknown(&mut self, name: &str, at: usize, pointer: &str, is_table: bool) {
        let (name, input, pointer) = (name.to_owned(), Input::Source(at), pointer.to_owned());
        self.readable.push(Readable { name, input, pointer, is_table, ..self.unknown() });
    }

    /// A step that is wrong. `names` are those that it and its branches may have; `None` if that is not known either.
    pub(crate) fn add_wrong(&mut self, schema: SchemaRef, doubt: Doubt, names: Option<BTreeSet<String>>) {
        match names {
            Some(names) => self.perhaps.extend(names),
            None => self.is_any_name = true,
        }
        self.flow = self.readable.len();
        self.readable.push(Readable { schema, doubt, ..self.unknown() });
    }

    /// Whether an input or a table is not known.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.readable.iter().any(|readable| !readable.doubt.is_none())
    }

    /// Something of which nothing is known. Its place is none of the plan.
    pub(crate) fn unknown(&self) -> Readable {
        Readable {
            name: String::new(),
            input: Input::Step { step: usize::MAX, branch: self.readable.len() },
            schema: Arc::new(Schema::empty()),
            pointer: String::new(),
            is_table: false,
            doubt: Doubt::unknown(),
        }
    }

    /// A table of the pipeline, which is read by those that look rows up.
    pub(crate) fn add_table(&mut self, name: &str, at: usize, schema: SchemaRef, pointer: String) {
        let name = name.to_owned();
        let doubt = Doubt::default();
        self.readable.push(Readable { name, input: Input::Source(at), schema, pointer, is_table: true, doubt });
    }

    /// A step with its outputs; the next step reads the first of them. Gives the names that are taken.
    pub(crate) fn add_step(
        &mut self,
        id: &str,
        step: usize,
        outputs: Vec<Branch>,
        pointer: &str,
        doubt: &Doubt,
    ) -> Vec<String> {
        let mut taken = Vec::new();
        self.flow = self.readable.len();
        for (branch, Branch { name, schema }) in outputs.into_iter().enumerate() {
            let name = if branch == 0 { id.to_owned() } else { name };
            if self.readable.iter().any(|known| known.name == name) {
                taken.push(name.clone());
            }
            let input = Input::Step { step, branch };
            let (pointer, doubt) = (pointer.to_owned(), doubt.clone());
            self.readable.push(Readable { name, input, schema, pointer, is_table: false, doubt });
        }
        taken
    }

    /// What something reads: what it names, or what is above it.
    ///
    /// # Errors
    /// If there is nothing of that name above: what people are told, and a hint.
    pub(crate) fn read(&mut self, name: Option<&str>) -> Result<Readable, (String, String)> {
        self.read_one(name, false)
    }

    /// Something a step reads beside what it has `read`. In a query the same rows may be meant to come twice.
    ///
    /// # Errors
    /// If there is no such thing, or its rows come already: what people are told, and a hint.
    pub(crate) fn read_other(
        &mut self,
        other: &Read,
        read: &[Readable],
        is_of_query: bool,
    ) -> Result<Readable, (String, String)> {
        let found = self.read_one(Some(&other.name), other.is_table)?;
        if other.is_added && !is_of_query && read.iter().any(|known| known.input == found.input) {
            let message = format!("the step reads `{}` already, so each of its rows would come twice", other.name);
            return Err((message, "name what is to be added to it".to_owned()));
        }
        Ok(found)
    }

    fn read_one(&mut self, name: Option<&str>, is_table: bool) -> Result<Readable, (String, String)> {
        let found = match name {
            None => self.readable.get(self.flow),
            Some(name) => self.readable.iter().find(|readable| readable.name == name),
        };
        match found.cloned() {
            Some(found) if found.is_table == is_table => {
                self.read.insert(found.input);
                Ok(found)
            }
            Some(found) if is_table => {
                let message = format!("`{}` is no table", found.name);
                Err((message, "name one of the `tables`; rows of inputs and steps are joined with `join`".to_owned()))
            }
            Some(found) => {
                let message = format!("`{}` is a table, and not read row by row", found.name);
                Err((message, format!("look rows up in it: lookup: {{ table: {}, on: [...] }}", found.name)))
            }
            None => {
                let name = name.unwrap_or_default();
                if !is_table && (self.is_any_name || self.perhaps.contains(name)) {
                    return Ok(self.unknown());
                }
                let known = self.readable.iter().filter(|readable| readable.is_table == is_table);
                let known = known.filter(|readable| !readable.name.is_empty());
                let names: Vec<&str> = known.map(|readable| readable.name.as_str()).collect();
                let what = if is_table { "table" } else { "input, step or branch" };
                let hint = match names.is_empty() {
                    true => "name it in the `tables` of the document".to_owned(),
                    false => format!("there are {}", names.join(", ")),
                };
                Err((format!("there is no {what} `{name}` above"), hint))
            }
        }
    }

    /// What nobody reads: where it is said, what people are told, and what to do about it.
    pub(crate) fn unread(&self) -> impl Iterator<Item = (&str, String, String)> {
        let unread = self.readable.iter().filter(|readable| !self.read.contains(&readable.input));
        unread.map(|readable| {
            let what = match readable.input {
                Input::Source(_) if readable.is_table => "table",
                Input::Source(_) => "input",
                Input::Step { branch: 0, .. } => "step",
                Input::Step { .. } => "branch",
            };
            let hint = match readable.is_table {
                true => {
                    format!("look rows up in it: lookup: {{ table: {}, on: [...] }}; or leave it out", readable.name)
                }
                false => "let a step or a sink read it with `from`; what is not wanted can go to the sink `discard`"
                    .to_owned(),
            };
            (readable.pointer.as_str(), format!("nobody reads the {what} `{}`", readable.name), hint)
        })
    }
}

impl Readable {
    /// Its columns.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
