//! One event on its way into columns: what the SDK protocol and the Segment protocol share.
//!
//! A row is read completely before anything reaches a column, since Arrow builders cannot take
//! back; all its texts are slices of the request.
//!
//! Invariant: a row that has a problem adds nothing to any column, and becomes exactly one reject.

use std::borrow::Cow;
use std::collections::HashMap;

use uuid::Uuid;
use weir_base::Timestamp;
use weir_data::{Reject, RejectCode};

use crate::json_reader::{Text, Value};
use crate::json_time::{self, Notation};
use crate::{DecodeError, Decoded, IMPOSSIBLE, RowContext, time_flag};

pub(crate) use columns::EventColumns;

mod columns;
mod lazy;
#[cfg(test)]
mod tests;

/// How deep a value may be nested in a row, brackets of the row not counted.
pub(crate) const DEPTH_MAX: usize = 64;

/// The text columns a decoder fills, in schema order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextColumn {
    EventId,
    Type,
    Name,
    SessionId,
    UserId,
    AnonymousId,
    GroupId,
    PreviousId,
    Url,
    Path,
    Title,
    Referrer,
    UserAgent,
    Ip,
    Screen,
    Viewport,
    Timezone,
    Language,
    Selector,
}

const TEXT_COLUMNS: usize = TextColumn::Selector as usize + 1;

/// The float columns, in schema order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatColumn {
    X,
    Y,
    Depth,
    TtfbMs,
    FcpMs,
    LcpMs,
    InpMs,
    LoadMs,
    Cls,
}

const FLOAT_COLUMNS: usize = FloatColumn::Cls as usize + 1;

const LONE_SURROGATE: &str = "a surrogate without its other half is not a character";

/// Columns only enrichment fills: country, city, browser, os, device, is_bot.
const ENRICHED_COLUMNS: usize = 6;

/// Why a row is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    code: RejectCode,
    field: String,
    message: String,
}

/// An entry of an open column.
pub(crate) type Entry<'a> = (Cow<'a, str>, Value<'a>);

/// One event, as far as it has been read.
#[derive(Debug, Default)]
pub(crate) struct EventRow<'a> {
    texts: [Option<Cow<'a, str>>; TEXT_COLUMNS],
    floats: [Option<f64>; FLOAT_COLUMNS],
    time: Option<Timestamp>,
    flag: Option<&'static str>,
    sent_at: Option<Timestamp>,
    properties: Vec<Entry<'a>>,
    context: Vec<Entry<'a>>,
    problems: Vec<Problem>,
    value_bytes_max: usize,
}

/// A name as a reference token of a JSON pointer, cut to what helps.
pub(crate) fn pointer_token(name: &str) -> String {
    name.chars().take(128).collect::<String>().replace('~', "~0").replace('/', "~1")
}

/// A text as it may stand in a message.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("`{short}`")
}

impl<'a> EventRow<'a> {
    /// Forgets the row before, and keeps its memory.
    pub(crate) fn begin(&mut self, context: &RowContext<'_>) {
        self.texts = Default::default();
        self.floats = Default::default();
        (self.time, self.flag, self.sent_at) = (None, None, None);
        self.properties.clear();
        self.context.clear();
        self.problems.clear();
        self.value_bytes_max = context.value_bytes_max;
    }

    pub(crate) fn problem(&mut self, code: RejectCode, field: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { code, field: field.into(), message: message.into() });
    }

    pub(crate) fn wrong_type(&mut self, field: impl Into<String>, expected: &str, value: Value<'_>) {
        self.problem(RejectCode::WrongType, field, format!("expected {expected}, got {}", value.describe()));
    }

    /// A member given twice counts as given once, the last time: what was wrong with the first
    /// no longer matters.
    #[inline]
    pub(crate) fn forget_problems(&mut self, field: &str) {
        if self.problems.is_empty() {
            return;
        }
        self.problems.retain(|problem| {
            problem.field.strip_prefix(field).is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/'))
        });
    }

    /// The text of a value that must be one; null is as good as absent.
    #[inline]
    pub(crate) fn read_text(&mut self, field: &str, value: Value<'a>) -> Option<Cow<'a, str>> {
        match value {
            Value::Text(text) if text.has_lone_surrogate() => {
                self.problem(RejectCode::Malformed, field, LONE_SURROGATE);
                None
            }
            Value::Text(text) => {
                let text = text.decode();
                self.fits(field, text.len()).then_some(text)
            }
            Value::Null => None,
            other => {
                self.wrong_type(field, "a string", other);
                None
            }
        }
    }

    /// Sets a text column from a value that must be a string.
    #[inline]
    pub(crate) fn set_text(&mut self, column: TextColumn, field: &str, value: Value<'a>) {
        self.forget_problems(field);
        self.texts[column as usize] = self.read_text(field, value);
    }

    /// The same from a string of which nothing is escaped, with its quotes.
    #[inline(always)]
    pub(crate) fn set_plain(&mut self, column: TextColumn, field: &str, quoted: &'a str) {
        self.forget_problems(field);
        let text = &quoted[1..quoted.len() - 1];
        let is_fitting = text.len() <= self.value_bytes_max || self.fits(field, text.len());
        self.texts[column as usize] = is_fitting.then_some(Cow::Borrowed(text));
    }

    pub(crate) fn put(&mut self, column: TextColumn, text: Option<Cow<'a, str>>) {
        self.texts[column as usize] = text;
    }

    pub(crate) fn text(&self, column: TextColumn) -> Option<&str> {
        self.texts[column as usize].as_deref()
    }

    fn fits(&mut self, field: &str, bytes: usize) -> bool {
        let limit = self.value_bytes_max;
        if bytes > limit {
            let message = format!("value_bytes_max is {limit}, and the value has {bytes} bytes");
            self.problem(RejectCode::TooLarge, field, message);
        }
        bytes <= limit
    }

    /// Sets a float column from a value that must be a finite number within `range`.
    pub(crate) fn set_float(
        &mut self,
        column: FloatColumn,
        field: &str,
        range: std::ops::RangeInclusive<f64>,
        value: Value<'a>,
    ) {
        self.forget_problems(field);
        self.floats[column as usize] = None;
        match value {
            Value::Number(number) => match number.parse::<f64>() {
                Ok(float) if range.contains(&float) => self.floats[column as usize] = Some(float),
                _ if *range.end() < f64::MAX => {
                    let message = format!("expected a number from {} to {}", range.start(), range.end());
                    self.problem(RejectCode::OutOfRange, field, message);
                }
                _ => self.problem(RejectCode::OutOfRange, field, "expected a number a double can hold"),
            },
            Value::Null => {}
            other => self.wrong_type(field, "a number", other),
        }
    }

    /// Sets `event_id` to a UUID in lower case.
    pub(crate) fn set_uuid(&mut self, field: &str, value: Value<'a>) {
        self.forget_problems(field);
        self.texts[TextColumn::EventId as usize] = None;
        let Some(text) = self.read_text(field, value) else { return };
        match Uuid::try_parse(&text) {
            Ok(_) if text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                self.put(TextColumn::EventId, Some(text));
            }
            Ok(uuid) => self.put(TextColumn::EventId, Some(Cow::Owned(uuid.hyphenated().to_string()))),
            Err(_) => {
                let message = format!("expected a UUID, got {}", quoted(&text));
                self.problem(RejectCode::WrongType, field, message);
            }
        }
    }

    /// That a row does not claim to be another tenant's.
    pub(crate) fn check_tenant(&mut self, field: &str, value: Value<'a>, tenant: &str) {
        self.forget_problems(field);
        if let Some(named) = self.read_text(field, value)
            && named != tenant
        {
            self.problem(RejectCode::WrongTenant, field, "the row names another tenant than the key's");
        }
    }

    /// That a member's name is text; after the member is read, since reading it forgives what an
    /// earlier one of that name had wrong.
    pub(crate) fn check_name(&mut self, parent: &str, name: Text<'_>) {
        if name.has_lone_surrogate() {
            let field = format!("{parent}/{}", pointer_token(&name.decode()));
            self.problem(RejectCode::Malformed, field, LONE_SURROGATE);
        }
    }

    /// Adds to `properties`.
    #[inline]
    pub(crate) fn add_property(&mut self, field: &str, key: Cow<'a, str>, value: Value<'a>) {
        if self.check_entry(field, &key, value) {
            self.properties.push((key, value));
        }
    }

    /// The same for a text of which nothing is escaped, or a number.
    #[inline(always)]
    pub(crate) fn add_plain_property(&mut self, field: &str, key: &'a str, value: Value<'a>) {
        if self.problems.is_empty() && key.len().max(value.raw().len()) <= self.value_bytes_max {
            self.properties.push((Cow::Borrowed(key), value));
        } else {
            self.add_property(field, Cow::Borrowed(key), value);
        }
    }

    /// Adds to `context`.
    pub(crate) fn add_context(&mut self, field: &str, key: Cow<'a, str>, value: Value<'a>) {
        if self.check_entry(field, &key, value) {
            self.context.push((key, value));
        }
    }

    #[inline]
    fn check_entry(&mut self, parent: &str, key: &str, value: Value<'a>) -> bool {
        if !self.problems.is_empty() {
            self.forget_problems(&format!("{parent}/{}", pointer_token(key)));
        }
        let limit = self.value_bytes_max;
        let (code, message) = if value.depth() >= DEPTH_MAX {
            (RejectCode::TooLarge, format!("nested deeper than {DEPTH_MAX} levels"))
        } else if value.has_lone_surrogate() {
            (RejectCode::Malformed, LONE_SURROGATE.to_owned())
        } else if value.raw().len() > limit || key.len() > limit {
            let bytes = value.raw().len().max(key.len());
            (RejectCode::TooLarge, format!("value_bytes_max is {limit}, and the value has {bytes} bytes"))
        } else {
            return true;
        };
        self.problem(code, format!("{parent}/{}", pointer_token(key)), message);
        false
    }

    pub(crate) fn forget_properties(&mut self) {
        self.properties.clear();
    }

    /// Takes what `context` got under keys that begin so back.
    pub(crate) fn forget_context(&mut self, prefix: &str) {
        self.context.retain(|(key, _)| !key.starts_with(prefix));
    }

    /// Sets `time` from what the client gave, if anything: a text or a number of milliseconds.
    /// What cannot be a time is kept in `context` under `key`, and the row is flagged.
    pub(crate) fn set_time(&mut self, field: &str, given: Option<Value<'a>>, received_at: Timestamp) {
        let time = match given {
            None | Some(Value::Null) => return,
            Some(Value::Text(text)) => json_time::parse(&text.decode(), Notation::Rfc3339),
            Some(Value::Number(number)) => json_time::parse_millis(number),
            Some(other) => {
                return self.wrong_type(field, "an RFC 3339 text or milliseconds since 1970", other);
            }
        };
        self.set_moment(time, received_at);
        if let (None, Some(value)) = (self.time, given) {
            self.add_context("", Cow::Owned(field.trim_start_matches('/').to_owned()), value);
        }
    }

    /// Sets `time` to a moment, or flags that it could not be one.
    pub(crate) fn set_moment(&mut self, time: Option<Timestamp>, received_at: Timestamp) {
        self.time = time.filter(|time| time.0 > 0);
        // A time at or before 1970 is a clock that was never set.
        self.flag = self.time.map_or(Some(IMPOSSIBLE), |time| time_flag(time, received_at));
    }

    /// Whether nothing is wrong with it.
    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    pub(crate) fn set_sent_at(&mut self, sent_at: Option<Timestamp>) {
        self.sent_at = sent_at;
    }
}

/// Of entries with one key only the last stays, as `JSON.parse` has it.
fn keep_last(entries: &mut Vec<Entry<'_>>) {
    const FEW: usize = 24;
    let count = entries.len();
    let repeated: Vec<usize> = if count <= FEW {
        let mut repeated = Vec::new();
        for (at, (key, _)) in entries.iter().enumerate() {
            if entries[at + 1..].iter().any(|(later, _)| later == key) {
                repeated.push(at);
            }
        }
        repeated
    } else {
        let mut last = HashMap::with_capacity(count);
        entries.iter().enumerate().filter_map(|(at, (key, _))| last.insert(key.as_ref(), at)).collect()
    };
    if repeated.is_empty() {
        return;
    }
    let mut keep = vec![true; count];
    for at in repeated {
        keep[at] = false;
    }
    let mut at = 0;
    entries.retain(|_| {
        at += 1;
        keep[at - 1]
    });
}

/// Rows of one request, and the rejects beside them.
#[derive(Debug)]
pub(crate) struct EventRows<'c> {
    context: &'c RowContext<'c>,
    columns: EventColumns,
    rejects: Vec<Reject>,
    received: usize,
}

impl<'c> EventRows<'c> {
    /// Room for the rows a body of `body_bytes` is likely to have.
    pub(crate) fn new(context: &'c RowContext<'c>, body_bytes: usize) -> Self {
        let rows_hint = (body_bytes / 256).clamp(1, context.rows_max.clamp(1, 4096));
        Self { context, columns: EventColumns::new(rows_hint), rejects: Vec::new(), received: 0 }
    }

    /// That another row fits into the request.
    pub(crate) fn admit_row(&self) -> Result<(), DecodeError> {
        over("rows_per_request_max", self.context.rows_max, self.received + 1)
    }

    /// Ends a row: into the columns, or among the rejects.
    pub(crate) fn push(&mut self, row: &mut EventRow<'_>, raw: &str) -> Result<(), DecodeError> {
        let index = self.received;
        self.received += 1;
        let limit = self.context.row_bytes_max;
        if raw.len() > limit {
            row.problems.clear();
            let message = format!("row_bytes_max is {limit}, and the row has {} bytes", raw.len());
            row.problem(RejectCode::TooLarge, "", message);
        }
        if !row.problems.is_empty() {
            let Problem { code, field, message } = row.problems.swap_remove(0);
            self.rejects.push(Reject::new(index, code, &field, message, raw));
            return Ok(());
        }
        self.columns.append(row, self.context.received_at);
        over("decoded_bytes_max", self.context.decoded_bytes_max, self.columns.bytes())
    }

    /// What was gathered.
    pub(crate) fn finish(self) -> Decoded {
        let (rejects, received) = (self.rejects, self.received);
        Decoded { batches: self.columns.finish().into_iter().collect(), rejects, received }
    }
}

/// That a request stays within a limit.
pub(crate) fn over(limit: &'static str, value: usize, actual: usize) -> Result<(), DecodeError> {
    if actual <= value {
        return Ok(());
    }
    Err(DecodeError::TooLarge { limit, value: value as u64, actual: actual as u64 })
}
