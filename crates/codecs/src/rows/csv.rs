//! Comma-separated values, as RFC 4180 has them and as they are met: any one-byte delimiter, lines
//! ended by `\n` or `\r\n`, line breaks in quotes, quotes within an unquoted cell taken as they are.
//!
//! An empty cell is null, `""` is the empty text. A record that is wrong costs itself alone: if its
//! quotes are never closed, only its first line, and reading goes on at the next.

use std::sync::Arc;

use memchr::{memchr, memchr2, memchr3};

use super::builder::RowsBuilder;
use super::{Columns, DecodedRows, Progress, RejectedRecord, csv_writer, keep_beginning};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    /// What separates cells.
    pub delimiter: u8,
    /// Whether the first record names the columns.
    pub header: bool,
}

/// The first record does not name the columns that are wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HeaderError {
    /// What is wrong with it.
    pub message: String,
}

/// Reads records into rows.
#[derive(Debug)]
pub struct CsvDecoder {
    rows: RowsBuilder,
    options: CsvOptions,
    /// Cell to column; `None` until the header has been read.
    layout: Option<Vec<Option<usize>>>,
    /// The header as it is written, if there is one.
    header: Option<String>,
    record_bytes_max: usize,
    /// The beginning of a line that is too long, while it is passed over.
    passing: Option<Vec<u8>>,
    line: u64,
    cells: Vec<Cell>,
    unquoted: String,
}

/// A cell of the record being read: its place, without quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    start: usize,
    end: usize,
    quoted: bool,
    /// Whether quotes within it are doubled.
    doubled: bool,
}

/// What stands at the beginning of some bytes.
enum Scanned {
    /// A record of so many bytes, its end included, and lines.
    Record { bytes: usize, content: usize, lines: u64 },
    /// One that is wrong.
    Wrong { message: String },
    /// One that does not end here.
    Unended,
}

impl CsvDecoder {
    /// A decoder into `columns`; records longer than `record_bytes_max` are rejected.
    pub fn new(columns: Arc<Columns>, options: CsvOptions, record_bytes_max: usize) -> Self {
        let layout = (!options.header).then(|| (0..columns.columns().len()).map(Some).collect());
        Self {
            rows: RowsBuilder::new(columns),
            options,
            layout,
            header: None,
            record_bytes_max,
            passing: None,
            line: 0,
            cells: Vec::new(),
            unquoted: String::new(),
        }
    }

    /// Takes the cells of a header that was read before: for reading on in the middle of a file.
    ///
    /// # Errors
    /// If a column is missing in it, or named twice.
    pub fn set_header(&mut self, names: &[String]) -> Result<(), HeaderError> {
        let columns = Arc::clone(self.rows.columns());
        for (column, _) in columns.columns() {
            let message = match names.iter().filter(|name| *name == column).count() {
                1 => continue,
                0 => format!("the header has no column `{column}`, only {}", listed(names)),
                _ => format!("the header has several columns `{column}`"),
            };
            return Err(HeaderError { message });
        }
        self.layout = Some(names.iter().map(|name| columns.index_of(name)).collect());
        self.header = Some(csv_writer::csv_record(names, self.options.delimiter));
        Ok(())
    }

    /// Reads whole records from the beginning of `bytes` until a batch is full. `at_end`: nothing
    /// follows, so that the last record may lack its end.
    ///
    /// # Errors
    /// If the header is not what it has to be.
    pub fn read(&mut self, bytes: &[u8], at_end: bool) -> Result<Progress, HeaderError> {
        let mut progress = Progress::default();
        if self.passing.is_some() {
            let end = memchr(b'\n', bytes);
            keep_beginning(&mut self.passing, &bytes[..end.unwrap_or(bytes.len())]);
            let end = match end {
                Some(end) => end + 1,
                None if at_end => bytes.len(),
                None => return Ok(Progress { bytes: bytes.len(), ..progress }),
            };
            let begun = self.passing.take().unwrap_or_default();
            self.reject(self.too_long(), &begun);
            self.line += 1;
            progress = Progress { bytes: end, whole: end, lines: 1 };
        }
        while progress.whole < bytes.len() && !self.rows.is_full() {
            let rest = &bytes[progress.whole..];
            let (used, lines) = match self.scan(rest, at_end) {
                Scanned::Record { bytes, content, lines } if content <= self.record_bytes_max => {
                    self.record(&rest[..content])?;
                    (bytes, lines)
                }
                // Where its end is must not matter, since with fewer bytes at hand it would not be known.
                Scanned::Record { .. } => (self.first_line(rest, self.too_long()), 1),
                Scanned::Wrong { message } if at_end || memchr(b'\n', rest).is_some() => {
                    (self.first_line(rest, message), 1)
                }
                _ if rest.len() <= self.record_bytes_max => break,
                _ if memchr(b'\n', rest).is_some() => (self.first_line(rest, self.too_long()), 1),
                _ => {
                    self.passing = Some(Vec::new());
                    keep_beginning(&mut self.passing, rest);
                    progress.bytes = bytes.len();
                    return Ok(progress);
                }
            };
            self.line += lines;
            let whole = progress.whole + used;
            progress = Progress { bytes: whole, whole, lines: progress.lines + lines };
        }
        Ok(progress)
    }

    /// The header with its end, once it was read: with it in front a record can be read by itself.
    pub fn header(&self) -> Option<&str> {
        self.header.as_deref()
    }

    /// Whether it still waits for the record that names the columns.
    pub fn lacks_header(&self) -> bool {
        self.layout.is_none()
    }

    /// Whether a batch is full and has to be taken before more is read.
    pub fn is_full(&self) -> bool {
        self.rows.is_full()
    }

    /// Whether there is neither a row nor a reject to take.
    pub fn is_empty(&self) -> bool {
        self.rows.n_rows() == 0 && self.rows.n_rejects() == 0
    }

    /// The rows and rejects since the last time.
    pub fn take(&mut self) -> DecodedRows {
        self.rows.take()
    }

    fn too_long(&self) -> String {
        format!("the record has more than {} bytes (record_bytes_max)", self.record_bytes_max)
    }

    fn reject(&mut self, message: String, record: &[u8]) {
        self.rows.reject(RejectedRecord::new(self.line, message, record));
    }

    /// Rejects the first line of `bytes`; its length.
    fn first_line(&mut self, bytes: &[u8], message: String) -> usize {
        let end = memchr(b'\n', bytes).unwrap_or(bytes.len());
        let line = &bytes[..end];
        self.reject(message, line.strip_suffix(b"\r").unwrap_or(line));
        (end + 1).min(bytes.len())
    }

    fn scan(&mut self, bytes: &[u8], at_end: bool) -> Scanned {
        scan(bytes, self.options.delimiter, at_end, self.record_bytes_max, &mut self.cells)
    }

    fn record(&mut self, record: &[u8]) -> Result<(), HeaderError> {
        if self.layout.is_none() {
            let names = names_of(record, &self.cells)?;
            return self.set_header(&names);
        }
        // A blank line is nothing, save where it is the only way to write a null.
        if record.is_empty() && self.rows.columns().columns().len() != 1 {
            return Ok(());
        }
        if let Err(message) = self.fill(record) {
            self.rows.undo_row();
            self.reject(message, record);
        } else {
            self.rows.end_row(record.len());
        }
        Ok(())
    }

    fn fill(&mut self, record: &[u8]) -> Result<(), String> {
        let text =
            std::str::from_utf8(record).map_err(|error| format!("not valid UTF-8 at byte {}", error.valid_up_to()))?;
        let layout = self.layout.as_deref().unwrap_or_default();
        if self.cells.len() != layout.len() {
            return Err(format!("expected {} cells, got {}", layout.len(), self.cells.len()));
        }
        for (cell, column) in self.cells.iter().zip(layout) {
            let Some(column) = *column else { continue };
            let written = &text[cell.start..cell.end];
            if written.is_empty() && !cell.quoted {
                self.rows.set_null(column);
            } else if cell.doubled {
                self.unquoted.clear();
                undouble(written, &mut self.unquoted);
                self.rows.set_text(column, &self.unquoted)?;
            } else {
                self.rows.set_text(column, written)?;
            }
        }
        Ok(())
    }
}

/// The names in a header, if all of it is there: for reading on in the middle of a file.
pub fn csv_header(bytes: &[u8], delimiter: u8, at_end: bool) -> Option<Vec<String>> {
    let mut cells = Vec::new();
    match scan(bytes, delimiter, at_end, bytes.len(), &mut cells) {
        Scanned::Record { content, .. } => names_of(&bytes[..content], &cells).ok(),
        Scanned::Wrong { .. } | Scanned::Unended => None,
    }
}

/// The cells of the first record of `bytes`, if it is whole: for headers.
pub(super) fn first_record(bytes: &[u8], delimiter: u8, at_end: bool) -> Option<(Vec<Option<String>>, usize)> {
    let bytes_max = bytes.len();
    let mut cells = Vec::new();
    match scan(bytes, delimiter, at_end, bytes_max, &mut cells) {
        Scanned::Record { bytes: used, content, .. } => {
            let text = std::str::from_utf8(&bytes[..content]).ok()?;
            let values = cells.iter().map(|cell| value_of(text, *cell)).collect();
            Some((values, used))
        }
        Scanned::Wrong { .. } | Scanned::Unended => None,
    }
}

fn value_of(text: &str, cell: Cell) -> Option<String> {
    let written = &text[cell.start..cell.end];
    if written.is_empty() && !cell.quoted {
        return None;
    }
    let mut value = String::new();
    if cell.doubled {
        undouble(written, &mut value)
    } else {
        value.push_str(written)
    }
    Some(value)
}

fn names_of(record: &[u8], cells: &[Cell]) -> Result<Vec<String>, HeaderError> {
    let text =
        std::str::from_utf8(record).map_err(|_| HeaderError { message: "the header is not valid UTF-8".to_owned() })?;
    let mut names: Vec<String> = cells.iter().map(|cell| value_of(text, *cell).unwrap_or_default()).collect();
    if let Some(first) = names.first_mut()
        && let Some(rest) = first.strip_prefix('\u{feff}')
    {
        *first = rest.to_owned();
    }
    Ok(names)
}

fn listed(names: &[String]) -> String {
    const NAMES_MAX: usize = 20;
    let shown: Vec<String> = names.iter().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    format!("{}{}", shown.join(", "), if names.len() > NAMES_MAX { ", …" } else { "" })
}

fn undouble(written: &str, out: &mut String) {
    let mut rest = written;
    while let Some(at) = rest.find("\"\"") {
        out.push_str(&rest[..=at]);
        rest = &rest[at + 2..];
    }
    out.push_str(rest);
}

/// Finds the cells of the first record.
fn scan(bytes: &[u8], delimiter: u8, at_end: bool, bytes_max: usize, cells: &mut Vec<Cell>) -> Scanned {
    cells.clear();
    let mut at = 0;
    let mut lines = 1;
    loop {
        if bytes.get(at) == Some(&b'"') {
            let start = at + 1;
            let mut doubled = false;
            let mut from = start;
            // The quote that closes the cell.
            let end = loop {
                match memchr(b'"', &bytes[from..]).map(|found| from + found) {
                    Some(quote) if bytes.get(quote + 1) == Some(&b'"') => {
                        doubled = true;
                        from = quote + 2;
                    }
                    // The byte that would say whether the quote is doubled has not come yet.
                    Some(quote) if quote + 1 == bytes.len() && !at_end => return Scanned::Unended,
                    Some(quote) => break quote,
                    None if at_end => return Scanned::Wrong { message: "a quote is never closed".to_owned() },
                    None => return Scanned::Unended,
                }
                if from > bytes_max.saturating_add(1) {
                    return Scanned::Wrong {
                        message: format!("a quote is not closed within {bytes_max} bytes (record_bytes_max)"),
                    };
                }
            };
            lines += memchr::memchr_iter(b'\n', &bytes[start..end]).count() as u64;
            cells.push(Cell { start, end, quoted: true, doubled });
            at = end + 1;
            match bytes.get(at) {
                None if at_end => return Scanned::Record { bytes: at, content: at, lines },
                None => return Scanned::Unended,
                Some(byte) if *byte == delimiter => at += 1,
                Some(b'\n') => return Scanned::Record { bytes: at + 1, content: at, lines },
                Some(b'\r') if bytes.get(at + 1) == Some(&b'\n') => {
                    return Scanned::Record { bytes: at + 2, content: at, lines };
                }
                Some(b'\r') if at + 1 == bytes.len() && !at_end => return Scanned::Unended,
                Some(_) => {
                    return Scanned::Wrong { message: "something follows the closing quote of a cell".to_owned() };
                }
            }
            continue;
        }
        let start = at;
        match memchr2(delimiter, b'\n', &bytes[start..]).map(|found| start + found) {
            Some(end) if bytes[end] == delimiter => {
                cells.push(Cell { start, end, quoted: false, doubled: false });
                at = end + 1;
            }
            Some(end) => {
                let content = if end > start && bytes[end - 1] == b'\r' { end - 1 } else { end };
                cells.push(Cell { start, end: content, quoted: false, doubled: false });
                return Scanned::Record { bytes: end + 1, content, lines };
            }
            None if at_end => {
                cells.push(Cell { start, end: bytes.len(), quoted: false, doubled: false });
                return Scanned::Record { bytes: bytes.len(), content: bytes.len(), lines };
            }
            None => return Scanned::Unended,
        }
    }
}

/// Whether a text has to stand in quotes.
pub(super) fn needs_quotes(text: &str, delimiter: u8) -> bool {
    let bytes = text.as_bytes();
    text.is_empty()
        || memchr3(delimiter, b'"', b'\n', bytes).is_some()
        || memchr(b'\r', bytes).is_some()
        || text.starts_with([' ', '\u{feff}'])
        || text.ends_with(' ')
}
