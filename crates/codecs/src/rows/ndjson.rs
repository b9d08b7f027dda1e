//! Newline-delimited JSON: an object a line.
//!
//! One pass over each line by our own reader, straight into the columns. Members are expected in
//! the order of the line before, so that a name costs one comparison of bytes; members that are no
//! column are checked and passed over. Of a member given twice the last one counts, a missing one
//! is null. Blank lines are nothing.

use std::collections::HashMap;
use std::sync::Arc;

use memchr::{memchr, memchr_iter};

use super::builder::RowsBuilder;
use super::{Columns, DecodedRows, Progress, RejectedRecord, keep_beginning};
use crate::json_reader::{Reader, Syntax};

/// How many members of a line are remembered for the next.
const EXPECTED_MEMBERS_MAX: usize = 4096;
/// The longest name that is remembered.
const EXPECTED_NAME_BYTES_MAX: usize = 256;

/// Reads lines into rows.
#[derive(Debug)]
pub struct NdjsonDecoder {
    rows: RowsBuilder,
    by_name: HashMap<String, usize>,
    /// The members of the lines before, in order: the name with its quotes and the colon, and its column.
    expected: Vec<(Vec<u8>, Option<usize>)>,
    record_bytes_max: usize,
    /// The beginning of a line that is too long, while it is passed over.
    passing: Option<Vec<u8>>,
    /// The line that comes next.
    line: u64,
    stack: Vec<u8>,
}

impl NdjsonDecoder {
    /// A decoder into `columns`; lines longer than `record_bytes_max` are rejected.
    pub fn new(columns: Arc<Columns>, record_bytes_max: usize) -> Self {
        let by_name = columns.columns().iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
        Self {
            rows: RowsBuilder::new(columns),
            by_name,
            expected: Vec::new(),
            record_bytes_max,
            passing: None,
            line: 0,
            stack: Vec::new(),
        }
    }

    /// Reads whole lines from the beginning of `bytes` until a batch is full. `at_end`: nothing
    /// follows, so that the last line may lack its end.
    pub fn read(&mut self, bytes: &[u8], at_end: bool) -> Progress {
        let mut progress = Progress::default();
        let mut record = 0;
        if self.passing.is_some() {
            let end = memchr(b'\n', bytes);
            keep_beginning(&mut self.passing, &bytes[..end.unwrap_or(bytes.len())]);
            match end {
                Some(end) => record = end + 1,
                None if at_end => record = bytes.len(),
                None => return Progress { bytes: bytes.len(), ..progress },
            }
            self.passed();
            progress = Progress { bytes: record, whole: record, lines: 1 };
        }
        for end in memchr_iter(b'\n', &bytes[record..]).map(|at| record + at) {
            if self.rows.is_full() {
                return progress;
            }
            self.record(&bytes[progress.whole..end]);
            progress = Progress { bytes: end + 1, whole: end + 1, lines: progress.lines + 1 };
        }
        let rest = &bytes[progress.whole..];
        if rest.is_empty() || self.rows.is_full() {
            return progress;
        }
        if at_end {
            self.record(rest);
            progress = Progress { bytes: bytes.len(), whole: bytes.len(), lines: progress.lines + 1 };
        } else if rest.len() > self.record_bytes_max {
            self.passing = Some(Vec::new());
            keep_beginning(&mut self.passing, rest);
            progress.bytes = bytes.len();
        }
        progress
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

    /// A message that is one record, as those of a broker.
    pub fn message(&mut self, bytes: &[u8]) {
        self.record(bytes);
    }

    fn passed(&mut self) {
        let begun = self.passing.take().unwrap_or_default();
        self.reject(self.too_long(), &begun);
        self.line += 1;
    }

    fn too_long(&self) -> String {
        format!("the line has more than {} bytes (record_bytes_max)", self.record_bytes_max)
    }

    fn reject(&mut self, message: String, record: &[u8]) {
        self.rows.reject(RejectedRecord::new(self.line, message, record));
    }

    fn record(&mut self, record: &[u8]) {
        if record.len() > self.record_bytes_max {
            self.reject(self.too_long(), record);
        } else if let Err(message) = self.parse(record) {
            self.rows.undo_row();
            let record = record.strip_suffix(b"\r").unwrap_or(record);
            self.reject(message, record);
        }
        self.line += 1;
    }

    fn parse(&mut self, record: &[u8]) -> Result<(), String> {
        let text = match std::str::from_utf8(record) {
            Ok(text) => text,
            Err(error) => return Err(format!("not valid UTF-8 at byte {}", error.valid_up_to())),
        };
        let text = if self.line == 0 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
        let mut reader = Reader::with_stack(text, std::mem::take(&mut self.stack));
        let result = self.object(&mut reader, record.len());
        self.stack = reader.into_stack();
        result
    }

    fn object(&mut self, reader: &mut Reader<'_>, record_bytes: usize) -> Result<(), String> {
        match reader.peek() {
            None => return Ok(()),
            Some(b'{') => reader.enter(),
            Some(_) => {
                let value = reader.value().map_err(|error| not_json(&error))?;
                return Err(format!("expected an object, got {}", value.describe()));
            }
        }
        let mut first = true;
        let mut place = 0;
        loop {
            let column = match self.expected.get(place) {
                Some((expected, column)) if reader.member_is(&mut first, expected) => *column,
                _ => {
                    let Some(name) = reader.member(&mut first).map_err(|error| not_json(&error))? else { break };
                    match self.expected.get(place) {
                        // Written with white space.
                        Some((expected, column)) if expected.strip_suffix(b":") == Some(name.quoted().as_bytes()) => {
                            *column
                        }
                        _ => {
                            let column = self.by_name.get(&*name.decode()).copied();
                            self.expect(place, name.quoted(), column);
                            column
                        }
                    }
                }
            };
            place += 1;
            let value = reader.value().map_err(|error| not_json(&error))?;
            if let Some(column) = column {
                self.rows.set(column, value)?;
            }
        }
        reader.end().map_err(|error| not_json(&error))?;
        self.rows.end_row(record_bytes);
        Ok(())
    }

    /// Remembers what stands at a place of a line.
    fn expect(&mut self, place: usize, name: &str, column: Option<usize>) {
        if place >= EXPECTED_MEMBERS_MAX || name.len() > EXPECTED_NAME_BYTES_MAX {
            return;
        }
        if self.expected.len() <= place {
            self.expected.resize_with(place + 1, Default::default);
        }
        if let Some(expected) = self.expected.get_mut(place) {
            expected.0.clear();
            expected.0.extend_from_slice(name.as_bytes());
            expected.0.push(b':');
            expected.1 = column;
        }
    }
}

fn not_json(syntax: &Syntax) -> String {
    format!("not valid JSON: {} at byte {}", syntax.what, syntax.at)
}
