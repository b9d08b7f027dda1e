//! Guessing the columns of a file from its first rows, for those who have not declared them.
//!
//! | values seen | type |
//! |---|---|
//! | whole numbers | int64 |
//! | numbers | float64 |
//! | `true`, `false` | bool |
//! | texts that are all RFC 3339 with an offset | timestamp |
//! | texts, or scalars of several kinds, or none at all | text |
//! | a list or an object among them | json |

use std::collections::HashMap;

use super::csv::first_record;
use super::{ColumnType, CsvOptions, EpochUnit};
use crate::json_reader::{Reader, Syntax, Value};
use crate::json_time::{self, Notation};

/// The most columns a guess may have.
const COLUMNS_MAX: usize = 2000;

/// What has been seen of a column.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    int: bool,
    float: bool,
    boolean: bool,
    time: bool,
    text: bool,
    compound: bool,
}

impl Seen {
    fn kind(self) -> ColumnType {
        let Self { int, float, boolean, time, text, compound } = self;
        if compound {
            return ColumnType::Json;
        }
        match (int || float, boolean, time, text) {
            (true, false, false, false) if float => ColumnType::Float64,
            (true, false, false, false) => ColumnType::Int64,
            (false, true, false, false) => ColumnType::Bool,
            (false, false, true, false) => ColumnType::Timestamp(EpochUnit::ByMagnitude),
            _ => ColumnType::Text,
        }
    }

    fn text(&mut self, text: &str) {
        // Only what is a moment beyond doubt: `2024-05` may be anything.
        match json_time::parse(text, Notation::Rfc3339) {
            Some(_) => self.time = true,
            None => self.text = true,
        }
    }

    fn number(&mut self, number: &str) {
        match number.parse::<i64>() {
            Ok(_) => self.int = true,
            Err(_) => self.float = true,
        }
    }

    fn cell(&mut self, text: &str) {
        let digits = text.strip_prefix('-').unwrap_or(text);
        // `007` is a code, not a number.
        let coded = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
        let numeric = digits.starts_with(|first: char| first.is_ascii_digit());
        match text {
            "true" | "false" | "TRUE" | "FALSE" | "True" | "False" => self.boolean = true,
            _ if numeric && !coded && text.parse::<i64>().is_ok() => self.int = true,
            _ if numeric && !coded && text.parse::<f64>().is_ok_and(f64::is_finite) => self.float = true,
            _ => self.text(text),
        }
    }
}

/// A guess in the making, over one file or several.
#[derive(Clone, Debug, Default)]
pub struct Inference {
    names: Vec<String>,
    by_name: HashMap<String, usize>,
    seen: Vec<Seen>,
    n_rows: usize,
}

impl Inference {
    /// How many rows it is founded on.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The columns, in the order they were first met.
    pub fn columns(&self) -> Vec<(String, ColumnType)> {
        self.names.iter().cloned().zip(self.seen.iter().map(|seen| seen.kind())).collect()
    }

    fn column(&mut self, name: &str) -> Option<&mut Seen> {
        let at = match self.by_name.get(name) {
            Some(at) => *at,
            None if self.names.len() >= COLUMNS_MAX => return None,
            None => {
                self.names.push(name.to_owned());
                self.seen.push(Seen::default());
                self.by_name.insert(name.to_owned(), self.names.len() - 1);
                self.names.len() - 1
            }
        };
        self.seen.get_mut(at)
    }
}

/// Learns from the lines of `bytes`, up to `rows_max` rows in all. Lines that are no objects are
/// passed over; the last line counts only if it is complete or `at_end`.
pub fn infer_ndjson(inference: &mut Inference, bytes: &[u8], at_end: bool, rows_max: usize) {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let whole = if at_end { bytes.len() } else { memchr::memrchr(b'\n', bytes).map_or(0, |end| end + 1) };
    for line in bytes[..whole].split(|byte| *byte == b'\n') {
        if inference.n_rows >= rows_max {
            return;
        }
        // A line counts as a whole or not at all.
        if let Ok(text) = std::str::from_utf8(line)
            && let Ok(Some(members)) = members(text)
        {
            inference.n_rows += 1;
            for (name, value) in members {
                let Some(seen) = inference.column(&name) else { continue };
                match value {
                    Value::Null => {}
                    Value::Bool(_) => seen.boolean = true,
                    Value::Number(number) => seen.number(number),
                    Value::Text(text) => seen.text(&text.decode()),
                    Value::List(_) | Value::Object(_) => seen.compound = true,
                }
            }
        }
    }
}

fn members(line: &str) -> Result<Option<Vec<(String, Value<'_>)>>, Syntax> {
    let mut reader = Reader::new(line);
    if reader.peek() != Some(b'{') {
        return Ok(None);
    }
    reader.enter();
    let mut members = Vec::new();
    let mut first = true;
    while let Some(name) = reader.member(&mut first)? {
        members.push((name.decode().into_owned(), reader.value()?));
    }
    reader.end()?;
    Ok(Some(members))
}

/// Learns from the records of `bytes`, up to `rows_max` rows in all; columns without a header are
/// called `column_1`, `column_2`, ... The last record counts only if it is complete or `at_end`.
pub fn infer_csv(inference: &mut Inference, bytes: &[u8], options: CsvOptions, at_end: bool, rows_max: usize) {
    let mut rest = bytes;
    let mut names: Option<Vec<String>> = None;
    while inference.n_rows < rows_max && !rest.is_empty() {
        let Some((cells, used)) = first_record(rest, options.delimiter, at_end) else {
            // A record that is wrong is passed over by its line.
            match memchr::memchr(b'\n', rest) {
                Some(end) => rest = &rest[end + 1..],
                None => return,
            }
            continue;
        };
        rest = &rest[used..];
        let Some(names) = &names else {
            if options.header {
                let mut header: Vec<String> = cells.into_iter().map(Option::unwrap_or_default).collect();
                if let Some(first) = header.first_mut() {
                    *first = first.trim_start_matches('\u{feff}').to_owned();
                }
                for name in &header {
                    inference.column(name);
                }
                names = Some(header);
            } else {
                let header: Vec<String> = (1..=cells.len()).map(|at| format!("column_{at}")).collect();
                learn(inference, &header, &cells);
                names = Some(header);
            }
            continue;
        };
        if cells.len() == names.len() {
            learn(inference, names, &cells);
        }
    }
}

fn learn(inference: &mut Inference, names: &[String], cells: &[Option<String>]) {
    inference.n_rows += 1;
    for (name, cell) in names.iter().zip(cells) {
        if let Some(seen) = inference.column(name)
            && let Some(cell) = cell
        {
            seen.cell(cell);
        }
    }
}
