//! Tables of text in tests: rows under a line of column names, cells two spaces or more apart.
//!
//! A cell is `null`, a number, `true` or `false`, a time (`12:00:03`, on 1970-01-01, or a whole RFC 3339 time),
//! or text; text in single quotes is text in any case. The type of a column is the narrowest all its cells
//! fit, or what stands behind its name: `n:float64`.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampNanosecondType};
use arrow::temporal_conversions::timestamp_ns_to_datetime;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Rows as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextTable {
    /// Column names, with the type if there is one.
    pub columns: Vec<(String, Option<ColumnType>)>,
    /// Cells by row.
    pub rows: Vec<Vec<String>>,
}

/// The type of a column of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColumnType {
    /// Whole numbers.
    Int64,
    /// Numbers.
    Float64,
    /// `true` and `false`.
    Bool,
    /// Times.
    Timestamp,
    /// Anything.
    Text,
}

impl ColumnType {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "int64" => Self::Int64,
            "float64" => Self::Float64,
            "bool" => Self::Bool,
            "timestamp" => Self::Timestamp,
            "text" => Self::Text,
            _ => return None,
        })
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Int64 => DataType::Int64,
            Self::Float64 => DataType::Float64,
            Self::Bool => DataType::Boolean,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            Self::Text => DataType::Utf8,
        }
    }

    /// The narrowest type of a cell; `None` for null.
    fn of(cell: &str) -> Option<Self> {
        if cell == "null" {
            None
        } else if cell.starts_with('\'') {
            Some(Self::Text)
        } else if cell.parse::<i64>().is_ok() {
            Some(Self::Int64)
        } else if cell.parse::<f64>().is_ok() {
            Some(Self::Float64)
        } else if cell == "true" || cell == "false" {
            Some(Self::Bool)
        } else if time_of(cell).is_some() {
            Some(Self::Timestamp)
        } else {
            Some(Self::Text)
        }
    }

    /// The narrowest type that takes both.
    fn joined(self, other: Self) -> Self {
        match (self, other) {
            (one, two) if one == two => one,
            (Self::Int64, Self::Float64) | (Self::Float64, Self::Int64) => Self::Float64,
            _ => Self::Text,
        }
    }
}

/// A time of day, on the first day of 1970, or a whole time.
fn time_of(cell: &str) -> Option<i64> {
    let whole = if cell.contains('T') || cell.contains(' ') { cell.to_owned() } else { format!("1970-01-01T{cell}Z") };
    if cell.len() < 8 || !cell.as_bytes()[0].is_ascii_digit() || !cell.contains(':') {
        return None;
    }
    let parsed = cast(&StringArray::from(vec![whole]), &ColumnType::Timestamp.data_type()).ok()?;
    let parsed = parsed.as_primitive::<TimestampNanosecondType>();
    parsed.is_valid(0).then(|| parsed.value(0))
}

/// A time as it is shown: without the day if that is the first of 1970.
fn shown_time(nanos: i64) -> String {
    let Some(time) = timestamp_ns_to_datetime(nanos) else { return nanos.to_string() };
    let day = time.format("%Y-%m-%d").to_string();
    let clock = time.format("%H:%M:%S%.f").to_string();
    if day == "1970-01-01" { clock } else { format!("{day}T{clock}Z") }
}

/// The cells of a line: two spaces or a tab apart, as long as they are not within quotes.
fn cells(line: &str) -> Vec<String> {
    let mut cells = Vec::new();
    let mut cell = String::new();
    let mut is_quoted = false;
    let mut spaces = 0;
    for character in line.trim_end().chars() {
        // A quote begins a quoted cell only at its beginning; a doubled one within it is one.
        if character == '\'' && (is_quoted || cell.is_empty() || cell.ends_with('\'')) {
            is_quoted = !is_quoted;
        }
        let is_space = !is_quoted && (character == ' ' || character == '\t');
        if is_space {
            spaces += if character == '\t' { 2 } else { 1 };
            continue;
        }
        if spaces >= 2 && !cell.is_empty() {
            cells.push(std::mem::take(&mut cell));
        } else if spaces == 1 && !cell.is_empty() {
            cell.push(' ');
        }
        spaces = 0;
        cell.push(character);
    }
    if !cell.is_empty() {
        cells.push(cell);
    }
    cells
}

impl TextTable {
    /// Reads a table.
    ///
    /// # Errors
    /// The number of the line, from 0, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut table = Self::default();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let cells = cells(line);
            if table.columns.is_empty() {
                for cell in cells {
                    let column = match cell.split_once(':') {
                        None => (cell, None),
                        Some((name, kind)) => {
                            let kind = ColumnType::named(kind).ok_or_else(|| {
                                (
                                    number,
                                    format!(
                                        "there is no column type `{kind}`: int64, float64, bool, timestamp or text"
                                    ),
                                )
                            })?;
                            (name.to_owned(), Some(kind))
                        }
                    };
                    table.columns.push(column);
                }
            } else if cells.len() == table.columns.len() {
                table.rows.push(cells);
            } else {
                let message = format!("{} cells under {} columns", cells.len(), table.columns.len());
                return Err((number, message));
            }
        }
        Ok(table)
    }

    /// The narrowest columns that take the rows of all `tables`, in the order they are first named.
    pub fn schema<'a>(tables: impl IntoIterator<Item = &'a Self>) -> SchemaRef {
        let mut columns: Vec<(String, Option<ColumnType>, Option<ColumnType>)> = Vec::new();
        for table in tables {
            for (at, (name, given)) in table.columns.iter().enumerate() {
                let found = table.rows.iter().filter_map(|row| ColumnType::of(&row[at])).reduce(ColumnType::joined);
                match columns.iter_mut().find(|(known, _, _)| known == name) {
                    Some((_, known_given, known)) => {
                        *known_given = known_given.or(*given);
                        *known = match (*known, found) {
                            (Some(one), Some(two)) => Some(one.joined(two)),
                            (one, two) => one.or(two),
                        };
                    }
                    None => columns.push((name.clone(), *given, found)),
                }
            }
        }
        let field = |(name, given, found): (String, Option<ColumnType>, Option<ColumnType>)| {
            Field::new(name, given.or(found).unwrap_or(ColumnType::Text).data_type(), true)
        };
        Arc::new(Schema::new(columns.into_iter().map(field).collect::<Vec<_>>()))
    }

    /// The rows with the columns of `schema`; columns the table does not have are null.
    ///
    /// # Errors
    /// If a cell is not of its column's type.
    pub fn batch(&self, schema: &SchemaRef) -> Result<RecordBatch, String> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| {
                let Some(at) = self.columns.iter().position(|(name, _)| name == field.name()) else {
                    return Ok(arrow::array::new_null_array(field.data_type(), self.rows.len()));
                };
                column(field, self.rows.iter().map(|row| row[at].as_str()))
            })
            .collect::<Result<Vec<_>, String>>()?;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|error| error.to_string())
    }
}

fn column<'a>(field: &Field, cells: impl Iterator<Item = &'a str>) -> Result<ArrayRef, String> {
    let cells: Vec<Option<&str>> = cells.map(|cell| (cell != "null").then_some(cell)).collect();
    let wrong =
        |cell: &str| format!("`{cell}` is not of the type of the column {}, {}", field.name(), field.data_type());
    macro_rules! parsed {
        ($parse:expr) => {
            cells
                .iter()
                .map(|cell| cell.map(|cell| $parse(cell).ok_or_else(|| wrong(cell))).transpose())
                .collect::<Result<Vec<_>, String>>()?
        };
    }
    Ok(match field.data_type() {
        DataType::Int64 => Arc::new(Int64Array::from(parsed!(|cell: &str| cell.parse().ok()))),
        DataType::Float64 => Arc::new(Float64Array::from(parsed!(|cell: &str| cell.parse().ok()))),
        DataType::Boolean => Arc::new(BooleanArray::from(parsed!(|cell: &str| cell.parse().ok()))),
        DataType::Timestamp(..) => {
            Arc::new(TimestampNanosecondArray::from(parsed!(|cell: &str| time_of(cell))).with_timezone("UTC"))
        }
        other => {
            let text = |cell: &str| Some(unquoted(cell));
            let texts: ArrayRef = Arc::new(StringArray::from(parsed!(text)));
            match other {
                DataType::Utf8 => texts,
                other => cast(&texts, other).map_err(|error| format!("the column {}: {error}", field.name()))?,
            }
        }
    })
}

fn unquoted(cell: &str) -> String {
    match cell.strip_prefix('\'').and_then(|cell| cell.strip_suffix('\'')) {
        Some(text) => text.replace("''", "'").replace("\\n", "\n"),
        None => cell.to_owned(),
    }
}

/// The column at a path such as `window.start`.
fn at_path(rows: &RecordBatch, path: &str) -> Option<ArrayRef> {
    if let Some(column) = rows.column_by_name(path) {
        return Some(Arc::clone(column));
    }
    let (first, rest) = path.split_once('.')?;
    let outer = rows.column_by_name(first)?;
    let fields = outer.as_struct_opt()?;
    fields.column_by_name(rest).cloned()
}

/// The cells of the named columns of rows, as they would be written.
///
/// # Errors
/// If there is no such column.
pub fn shown(rows: &RecordBatch, columns: &[String]) -> Result<Vec<Vec<String>>, String> {
    let mut shown = vec![Vec::with_capacity(columns.len()); rows.num_rows()];
    for name in columns {
        let column = at_path(rows, name).ok_or_else(|| {
            let names: Vec<&str> = rows.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
            format!("there is no column `{name}` in the result; it has {}", names.join(", "))
        })?;
        for (row, cells) in shown.iter_mut().enumerate() {
            cells.push(cell(&column, row)?);
        }
    }
    Ok(shown)
}

fn cell(column: &ArrayRef, row: usize) -> Result<String, String> {
    if column.is_null(row) {
        return Ok("null".to_owned());
    }
    Ok(match column.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            shown_time(column.as_primitive::<TimestampNanosecondType>().value(row))
        }
        DataType::Utf8 => quoted(column.as_string::<i32>().value(row)),
        _ => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(column, &options).map_err(|error| error.to_string())?;
            formatter.value(row).to_string()
        }
    })
}

/// Text as a cell: in quotes if it would be read as something else, or not as one cell.
fn quoted(text: &str) -> String {
    let is_plain =
        !text.is_empty() && text.trim() == text && !text.contains("  ") && !text.contains(['\'', '\n', '\t']);
    if is_plain && !text.starts_with('#') && ColumnType::of(text) == Some(ColumnType::Text) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''").replace('\n', "\\n"))
    }
}

/// Text that may be a time, as a cell.
pub fn cell_of_text(text: &str) -> String {
    match time_of(text) {
        Some(time) if text.contains('T') => shown_time(time),
        _ => quoted(text),
    }
}

/// Rows under column names, each column as wide as its widest cell.
pub fn render(columns: &[String], rows: &[Vec<String>]) -> String {
    let width = |at: usize| {
        rows.iter().map(|row| row[at].chars().count()).chain([columns[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(columns).chain(rows.iter().map(Vec::as_slice)) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
