//! Where rows come from: the resource and scope that all rows of a group share.
//!
//! They are decoded once a group, before its rows, and their columns are filled when the group
//! ends and the number of its rows is known.

use arrow::array::ArrayRef;
use weir_data::attributes::{AttributesBuilder, ObservedKey, as_text};

use super::columns::{Column, Ints, Text};
use super::request::{Fault, Request, RowFault, Under, text};
use super::series::attributes_sum;
use super::value::Numbered;
use super::wire::{Fields, Part};
use crate::DecodeError;

/// The columns that say where a row comes from, and the attributes of the row itself.
#[derive(Debug)]
pub(super) struct Origin {
    service_name: Text,
    scope_name: Text,
    scope_version: Text,
    /// Of the rows themselves.
    pub(super) attributes: AttributesBuilder,
    pub(super) resource: AttributesBuilder,
    pub(super) scope_attributes: AttributesBuilder,
    schema_url: Text,
    scope_schema_url: Text,
    /// Of the rows themselves.
    pub(super) dropped_attributes_count: Ints,
}

/// The keys met, by open column.
type Observed = Vec<(&'static str, Vec<ObservedKey>)>;

/// A resource or scope with the rows that follow it.
#[derive(Debug)]
pub(super) struct Group {
    first_row: usize,
    name: String,
    version: String,
    schema_url: String,
    /// What each row of the group costs for this.
    pub(super) row_bytes: usize,
    /// See [`attributes_sum`].
    pub(super) attributes_sum: u128,
    /// Why none of the group's rows can be stored.
    pub(super) fault: Option<Box<RowFault>>,
}

impl Origin {
    /// For a request of that many bytes.
    pub(super) fn new(body_bytes: usize) -> Self {
        Self {
            service_name: Text::default(),
            scope_name: Text::default(),
            scope_version: Text::default(),
            // About what the rows of a usual body need, so that little has to be moved while it
            // grows, and little is lost on a body of something else.
            attributes: AttributesBuilder::with_capacity((body_bytes / 320).min(1024)),
            resource: AttributesBuilder::with_capacity(0),
            scope_attributes: AttributesBuilder::with_capacity(0),
            schema_url: Text::default(),
            scope_schema_url: Text::default(),
            dropped_attributes_count: Ints::default(),
        }
    }

    /// Begins the rows of a resource.
    pub(super) fn begin_resource(
        &mut self,
        message: &Part<'_>,
        schema_url: &[u8],
        source_fault: Result<(), Fault>,
        request: &mut Request<'_>,
    ) -> Result<Group, DecodeError> {
        let read = source_fault.and_then(|()| {
            let mut fields = Fields::new(message.bytes().unwrap_or_default());
            let mut attributes = Numbered::default();
            while let Some((number, value)) = fields.next()? {
                if number == 1 {
                    attributes.push(&mut self.resource, value, request)?;
                }
            }
            Ok(())
        });
        let mut group = Group::new(request.rows);
        group.settle(read.under("resource"))?;
        group.set_schema_url(schema_url)?;
        let service = self.resource.open_row().find(|(key, _)| *key == "service.name");
        if let Some(name) = service.and_then(|(_, value)| as_text(value)) {
            group.name.push_str(&name);
        }
        group.count(&self.resource);
        Ok(group)
    }

    /// Ends the rows of a resource.
    pub(super) fn end_resource(&mut self, group: &Group, rows: usize) {
        let n_rows = rows - group.first_row;
        self.resource.end_row_times(n_rows);
        self.service_name.fill(group.first_row, &group.name, n_rows);
        self.schema_url.fill(group.first_row, &group.schema_url, n_rows);
    }

    /// Begins the rows of a scope.
    pub(super) fn begin_scope(
        &mut self,
        message: &Part<'_>,
        schema_url: &[u8],
        source_fault: Result<(), Fault>,
        request: &mut Request<'_>,
    ) -> Result<Group, DecodeError> {
        let mut group = Group::new(request.rows);
        let read = source_fault.and_then(|()| {
            let mut fields = Fields::new(message.bytes().unwrap_or_default());
            let mut attributes = Numbered::default();
            let (mut name, mut version): (&[u8], &[u8]) = (b"", b"");
            while let Some((number, value)) = fields.next()? {
                match number {
                    1 => name = value.len().under("name")?,
                    2 => version = value.len().under("version")?,
                    3 => attributes.push(&mut self.scope_attributes, value, request)?,
                    _ => {}
                }
            }
            group.name.push_str(text(name, "name")?);
            group.version.push_str(text(version, "version")?);
            Ok(())
        });
        group.settle(read.under("scope"))?;
        group.set_schema_url(schema_url)?;
        group.count(&self.scope_attributes);
        Ok(group)
    }

    /// Ends the rows of a scope.
    pub(super) fn end_scope(&mut self, group: &Group, rows: usize) {
        let n_rows = rows - group.first_row;
        self.scope_attributes.end_row_times(n_rows);
        self.scope_name.fill(group.first_row, &group.name, n_rows);
        self.scope_version.fill(group.first_row, &group.version, n_rows);
        self.scope_schema_url.fill(group.first_row, &group.schema_url, n_rows);
    }

    /// Takes back what the row being read has added.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.attributes.abandon_row();
        self.dropped_attributes_count.truncate(rows);
    }

    /// The columns in the order of the schema, and the keys met.
    pub(super) fn finish(mut self, rows: usize) -> (Vec<Option<ArrayRef>>, Observed) {
        let mut observed = Vec::new();
        let mut open = |name, builder: AttributesBuilder| {
            if builder.is_all_null() {
                return None;
            }
            let (column, keys) = builder.finish();
            if !keys.is_empty() {
                observed.push((name, keys));
            }
            Some(column)
        };
        let (attributes, resource, scope_attributes) = (
            open("attributes", self.attributes),
            open("resource", self.resource),
            open("scope_attributes", self.scope_attributes),
        );
        let columns = vec![
            self.service_name.finish(rows),
            self.scope_name.finish(rows),
            self.scope_version.finish(rows),
            attributes,
            resource,
            scope_attributes,
            self.schema_url.finish(rows),
            self.scope_schema_url.finish(rows),
            self.dropped_attributes_count.finish(rows),
        ];
        (columns, observed)
    }
}

impl Group {
    fn new(first_row: usize) -> Self {
        Self {
            first_row,
            name: String::new(),
            version: String::new(),
            schema_url: String::new(),
            row_bytes: 0,
            attributes_sum: 0,
            fault: None,
        }
    }

    /// Keeps the first fault, for all rows of the group; a refusal of the request goes on.
    fn settle(&mut self, result: Result<(), Fault>) -> Result<(), DecodeError> {
        match result {
            Ok(()) => Ok(()),
            Err(Fault::Stop(error)) => Err(*error),
            Err(Fault::Row(fault)) => {
                self.fault.get_or_insert(fault);
                Ok(())
            }
        }
    }

    fn set_schema_url(&mut self, schema_url: &[u8]) -> Result<(), DecodeError> {
        let read = text(schema_url, "schema_url").map(|url| url.clone_into(&mut self.schema_url));
        self.settle(read)
    }

    fn count(&mut self, attributes: &AttributesBuilder) {
        self.attributes_sum = attributes_sum(attributes.open_row());
        let entries = attributes.open_row().count() * 8;
        self.row_bytes =
            attributes.open_row_bytes() + entries + self.name.len() + self.version.len() + self.schema_url.len();
    }

    /// What the group is called: the service of a resource, the name of a scope.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }
}
