//! The star schema: columns by name, ids as they were before they were encoded for transport, and
//! the rows of a table that belong to a row of another.
//!
//! **Ids.** Senders replace ids by the difference to the row before ("delta"), or do so only
//! within runs of equal rows ("quasi-delta"). A column whose metadata `encoding` is `plain` is left
//! as it is; one without metadata is encoded: the collector's exporter writes none.

use super::column::Column;
use super::ipc::{Budget, Columns, Kind, broken};
use super::payload::PayloadType;
use super::protobuf::{Result, Writer};
use super::stream::Tables;

/// What each row of a table is counted as: its ids, and its place where rows are sorted.
const ROW_BYTES: usize = 24;

/// What a column must be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want {
    Int,
    Double,
    Bool,
    Text,
    /// Of any length.
    Bytes,
    Time,
    Duration,
    List,
    Struct,
}

impl Want {
    pub(super) fn takes(self, kind: Kind) -> bool {
        match self {
            Self::Int => matches!(kind, Kind::Int(_)),
            Self::Double => kind == Kind::Double,
            Self::Bool => kind == Kind::Bool,
            Self::Text => kind == Kind::Text,
            Self::Bytes => matches!(kind, Kind::Binary | Kind::Fixed(_)),
            Self::Time => kind == Kind::Time,
            Self::Duration => kind == Kind::Duration,
            Self::List => kind == Kind::List,
            Self::Struct => kind == Kind::Struct,
        }
    }
}

/// A column that may be absent: one that is all null.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells<'t>(Option<&'t Column<'t>>);

impl<'t> Cells<'t> {
    pub(super) fn int(self, row: usize) -> Option<i64> {
        self.0?.int(row)
    }

    pub(super) fn double(self, row: usize) -> Option<f64> {
        self.0?.double(row)
    }

    pub(super) fn bool(self, row: usize) -> Option<bool> {
        self.0?.bool(row)
    }

    pub(super) fn bytes(self, row: usize) -> Option<&'t [u8]> {
        self.0?.bytes(row)
    }

    pub(super) fn list(self, row: usize) -> Option<(&'t Column<'t>, std::ops::Range<usize>)> {
        self.0?.list(row)
    }

    /// Whether a struct is there.
    pub(super) fn is_some(self, row: usize) -> bool {
        self.0.is_some_and(|column| column.is_some(row))
    }

    /// The columns of a struct.
    pub(super) fn fields(self) -> &'t [Column<'t>] {
        self.0.map_or(&[], |column| column.columns())
    }

    fn is_plain(self) -> bool {
        self.0.and_then(|column| column.encoding()) == Some("plain")
    }

    /// Whether two rows have the same value, by its bytes.
    fn same(self, a: usize, b: usize) -> bool {
        self.bytes(a) == self.bytes(b) && self.bool(a) == self.bool(b)
    }

    fn id(self, row: usize) -> Option<u32> {
        // What does not fit is no id that anything has.
        self.int(row).and_then(|id| u32::try_from(id).ok())
    }
}

/// The column of that name.
pub(super) fn cells<'t>(columns: &'t [Column<'t>], name: &str, want: Want) -> Result<Cells<'t>> {
    let column = columns.iter().find(|column| column.name() == name);
    match column {
        Some(column) if !want.takes(column.kind()) => {
            Err(broken(format!("the column {name:?} is {:?}, and {want:?} is needed", column.kind())))
        }
        column => Ok(Cells(column)),
    }
}

/// The ids of a table's rows.
pub(super) type Ids = Vec<Option<u32>>;

/// Undoes delta encoding; rows without an id are passed over.
pub(super) fn ids(cells: Cells<'_>, rows: usize) -> Ids {
    let is_plain = cells.is_plain();
    let mut before = 0u32;
    (0..rows)
        .map(|row| {
            let id = cells.id(row)?;
            before = if is_plain { id } else { before.wrapping_add(id) };
            Some(before)
        })
        .collect()
}

/// Undoes quasi-delta encoding: an id is the difference to the one before it where `continues`
/// says that the row continues the run of the row before.
pub(super) fn run_ids(cells: Cells<'_>, rows: usize, continues: impl Fn(usize) -> bool) -> Ids {
    let is_plain = cells.is_plain();
    let mut before = 0u32;
    (0..rows)
        .map(|row| {
            let id = cells.id(row)?;
            before = if !is_plain && row > 0 && continues(row) { before.wrapping_add(id) } else { id };
            Some(before)
        })
        .collect()
}

/// The same where rows are a run while all of `columns` are equal; absent values are equal too.
pub(super) fn run_ids_by(parents: Cells<'_>, rows: usize, columns: &[Cells<'_>]) -> Ids {
    run_ids(parents, rows, |row| columns.iter().all(|column| column.same(row - 1, row)))
}

/// The rows of a table by the row of another table that they belong to.
#[derive(Debug)]
pub(super) struct Index(Vec<(u32, u32)>);

impl Index {
    pub(super) fn new(parents: &Ids) -> Self {
        let rows = parents.iter().zip(0u32..);
        let mut pairs: Vec<_> = rows.filter_map(|(parent, row)| Some(((*parent)?, row))).collect();
        // By row within the same parent, because pairs are compared whole.
        pairs.sort_unstable();
        Self(pairs)
    }

    /// The rows that belong to `parent`, in their order.
    pub(super) fn of(&self, parent: Option<u32>) -> impl Iterator<Item = usize> {
        let (begin, end) = match parent {
            None => (0, 0),
            Some(parent) => (
                self.0.partition_point(|(known, _)| *known < parent),
                self.0.partition_point(|(known, _)| *known <= parent),
            ),
        };
        self.0[begin..end].iter().map(|(_, row)| *row as usize)
    }
}

/// The columns of a payload, counted for what is made of its rows; none if it was not sent.
pub(super) fn table<'t>(tables: &'t Tables<'t>, kind: PayloadType, budget: &mut Budget) -> Result<&'t Columns<'t>> {
    static NOTHING: Columns<'static> = Columns { rows: 0, columns: Vec::new() };
    let Some(columns) = tables.get(kind) else { return Ok(&NOTHING) };
    budget.charge(columns.rows.saturating_mul(ROW_BYTES))?;
    Ok(columns)
}

/// Values of `AnyValue`: of attributes, and of the bodies of log records.
#[derive(Debug)]
pub(super) struct Values<'t> {
    kind: Cells<'t>,
    text: Cells<'t>,
    int: Cells<'t>,
    double: Cells<'t>,
    bool: Cells<'t>,
    bytes: Cells<'t>,
    /// Lists and maps as CBOR.
    nested: Cells<'t>,
}

impl<'t> Values<'t> {
    pub(super) fn new(columns: &'t [Column<'t>]) -> Result<Self> {
        Ok(Self {
            kind: cells(columns, "type", Want::Int)?,
            text: cells(columns, "str", Want::Text)?,
            int: cells(columns, "int", Want::Int)?,
            double: cells(columns, "double", Want::Double)?,
            bool: cells(columns, "bool", Want::Bool)?,
            bytes: cells(columns, "bytes", Want::Bytes)?,
            nested: cells(columns, "ser", Want::Bytes)?,
        })
    }

    /// Writes the fields of an `AnyValue`. Senders leave out values that are their type's default.
    pub(super) fn write(&self, row: usize, out: &mut Writer) -> Result {
        match self.kind.int(row) {
            None | Some(0) => Ok(()),
            Some(1) => out.bytes(1, Some(self.text.bytes(row).unwrap_or_default())),
            Some(2) => out.varint(3, Some(self.int.int(row).unwrap_or_default())),
            Some(3) => out.double(4, Some(self.double.double(row).unwrap_or_default())),
            Some(4) => out.bool(2, Some(self.bool.bool(row).unwrap_or_default())),
            Some(kind @ (5 | 6)) => match self.nested.bytes(row) {
                Some(bytes) => super::cbor::write_any(bytes, out),
                None => out.bytes(if kind == 5 { 6 } else { 5 }, Some(b"")),
            },
            Some(7) => out.bytes(7, Some(self.bytes.bytes(row).unwrap_or_default())),
            Some(kind) => Err(broken(format!("a value is of type {kind}, which is not known"))),
        }
    }

    /// Whether two rows have the same value, for the encoding of ids: nothing nested and nothing
    /// absent is equal to anything.
    fn same(&self, a: usize, b: usize) -> bool {
        let cells = match self.kind.int(a) {
            Some(1) => self.text,
            Some(2) => self.int,
            Some(3) => self.double,
            Some(4) => self.bool,
            Some(7) => self.bytes,
            _ => return false,
        };
        self.kind.same(a, b) && (cells.bytes(a).is_some() || cells.bool(a).is_some()) && cells.same(a, b)
    }
}

/// A table of attributes.
#[derive(Debug)]
pub(super) struct Attributes<'t> {
    keys: Cells<'t>,
    values: Values<'t>,
    index: Index,
}

impl<'t> Attributes<'t> {
    pub(super) fn new(tables: &'t Tables<'t>, kind: PayloadType, budget: &mut Budget) -> Result<Self> {
        let Columns { rows, columns } = table(tables, kind, budget)?;
        let (keys, values) = (cells(columns, "key", Want::Text)?, Values::new(columns)?);
        let parents = cells(columns, "parent_id", Want::Int)?;
        let parents = run_ids(parents, *rows, |row| keys.same(row - 1, row) && values.same(row - 1, row));
        Ok(Self { keys, values, index: Index::new(&parents) })
    }

    /// Writes the attributes of one parent as fields numbered `field`.
    pub(super) fn write(&self, field: u32, parent: Option<u32>, out: &mut Writer) -> Result {
        for row in self.index.of(parent) {
            out.message(field, |out| {
                out.bytes(1, self.keys.bytes(row))?;
                out.message(2, |out| self.values.write(row, out))
            })?;
        }
        Ok(())
    }
}

/// Resources and scopes, and which of them each row of the main table has.
#[derive(Debug)]
pub(super) struct Origins<'t> {
    rows: usize,
    resources: Ids,
    resource_urls: Cells<'t>,
    resource_attributes: Attributes<'t>,
    scopes: Ids,
    scope_names: Cells<'t>,
    scope_versions: Cells<'t>,
    scope_urls: Cells<'t>,
    scope_attributes: Attributes<'t>,
}

impl<'t> Origins<'t> {
    pub(super) fn new(main: &'t Columns<'t>, tables: &'t Tables<'t>, budget: &mut Budget) -> Result<Self> {
        let rows = main.rows;
        // Two more ids and a place in their order.
        budget.charge(rows.saturating_mul(ROW_BYTES))?;
        let resource = cells(&main.columns, "resource", Want::Struct)?.fields();
        let scope = cells(&main.columns, "scope", Want::Struct)?.fields();
        Ok(Self {
            rows,
            resources: ids(cells(resource, "id", Want::Int)?, rows),
            resource_urls: cells(resource, "schema_url", Want::Text)?,
            resource_attributes: Attributes::new(tables, PayloadType::ResourceAttrs, budget)?,
            scopes: ids(cells(scope, "id", Want::Int)?, rows),
            scope_names: cells(scope, "name", Want::Text)?,
            scope_versions: cells(scope, "version", Want::Text)?,
            scope_urls: cells(&main.columns, "schema_url", Want::Text)?,
            scope_attributes: Attributes::new(tables, PayloadType::ScopeAttrs, budget)?,
        })
    }

    fn resource(&self, row: usize) -> (Option<u32>, Option<&[u8]>) {
        (self.resources[row], self.resource_urls.bytes(row))
    }

    fn scope(&self, row: usize) -> (Option<u32>, [Option<&[u8]>; 3]) {
        (self.scopes[row], [self.scope_names, self.scope_versions, self.scope_urls].map(|cells| cells.bytes(row)))
    }

    /// Writes the request: each resource and scope once, with its items.
    pub(super) fn write(&self, out: &mut Writer, mut item: impl FnMut(usize, &mut Writer) -> Result) -> Result {
        let mut order: Vec<usize> = (0..self.rows).collect();
        order.sort_by(|a, b| {
            self.resource(*a).cmp(&self.resource(*b)).then_with(|| self.scope(*a).cmp(&self.scope(*b)))
        });
        for of_resource in order.chunk_by(|a, b| self.resource(*a) == self.resource(*b)) {
            let Some(&first) = of_resource.first() else { continue };
            out.group(1, |out| {
                out.message(1, |out| self.resource_attributes.write(1, self.resources[first], out))?;
                for of_scope in of_resource.chunk_by(|a, b| self.scope(*a) == self.scope(*b)) {
                    let Some(&first) = of_scope.first() else { continue };
                    out.group(2, |out| {
                        out.message(1, |out| {
                            out.bytes(1, self.scope_names.bytes(first))?;
                            out.bytes(2, self.scope_versions.bytes(first))?;
                            self.scope_attributes.write(3, self.scopes[first], out)
                        })?;
                        for row in of_scope {
                            item(*row, out)?;
                        }
                        out.bytes(3, self.scope_urls.bytes(first))
                    })?;
                }
                out.bytes(3, self.resource_urls.bytes(first))
            })?;
        }
        Ok(())
    }
}
