//! The Segment HTTP tracking API, as the official libraries of Segment and RudderStack speak it.
//!
//! | call | `type` | `name` | `properties` |
//! |---|---|---|---|
//! | track | custom | `event` | `properties` |
//! | page | pageview | `name` | `properties` |
//! | screen | screen | `name` | `properties` |
//! | identify | identify | | `traits`, else `context.traits` (where RudderStack puts them) |
//! | group | group | | `traits` |
//! | alias | alias | | |
//!
//! `context` goes to the column of that name by its members; what it says of page, device and
//! place is copied to the columns for it. Members of the event without a column go to `context`
//! under their own name, `integrations` among them unless it is empty. `context` and
//! `integrations` of a batch stand in for what its events lack, member by member.
//!
//! The client's clock is not trusted: with `sentAt` the time of an event is
//! `received_at - (sentAt - originalTimestamp)`, where `timestamp` stands in for a missing
//! `originalTimestamp`.
//!
//! The request's own address and user agent are taken for the person's only if a browser sent it;
//! a server's library sends for somebody else.

use std::borrow::Cow;

use weir_base::Timestamp;
use weir_data::RejectCode;

use crate::events::{misshapen, read_properties};
use crate::events_row::{EventRow, EventRows, TextColumn, over};
use crate::json_reader::{Reader, Syntax, Text, Value};
use crate::json_time::{self, Notation};
use crate::{DecodeError, Decoded, RowContext};

mod settings;
#[cfg(test)]
mod tests;

pub use settings::{rudder_source_config, settings};

/// The most bytes of one event, as the API documents it.
pub const EVENT_BYTES_MAX: usize = 32 * 1024;

/// The most bytes of a batch. The API documents 500 KB, and its SDKs keep to that; RudderStack's JavaScript
/// SDK fills batches up to 512 KiB by default, and counts without what stands around the events.
pub const BATCH_BYTES_MAX: usize = 512 * 1024 + 8 * 1024;

/// A call of the API, which is a route of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the API's")]
pub enum Call {
    Track,
    Identify,
    Page,
    Screen,
    Group,
    Alias,
    /// Events of any kind, each with its `type`.
    Batch,
}

impl Call {
    /// The call of a route: `track` and its one-letter form `t`, and so on. `import` is an old
    /// name of `batch`.
    pub fn of_route(name: &str) -> Option<Self> {
        Some(match name {
            "track" | "t" => Self::Track,
            "identify" | "i" => Self::Identify,
            "page" | "p" => Self::Page,
            "screen" | "s" => Self::Screen,
            "group" | "g" => Self::Group,
            "alias" | "a" => Self::Alias,
            "batch" | "b" | "import" => Self::Batch,
            _ => return None,
        })
    }

    /// The call an event of a batch names in `type`.
    fn of_type(name: &str) -> Option<Self> {
        match name {
            "track" | "identify" | "page" | "screen" | "group" | "alias" => Self::of_route(name),
            _ => None,
        }
    }

    /// The value of the column `type`.
    const fn event_type(self) -> &'static str {
        match self {
            Self::Track => "custom",
            Self::Identify => "identify",
            Self::Page => "pageview",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
            Self::Batch => "batch",
        }
    }
}

/// What a batch says for all its events.
#[derive(Clone, Copy, Debug, Default)]
struct Root<'a> {
    context: Option<Value<'a>>,
    integrations: Option<Value<'a>>,
    sent_at: Option<Value<'a>>,
}

/// Decodes the body of a call.
pub fn decode(call: Call, body: &[u8], context: &RowContext<'_>) -> Result<Decoded, DecodeError> {
    match call {
        Call::Batch => over("batch_bytes_max", BATCH_BYTES_MAX, body.len())?,
        _ => over("event_bytes_max", EVENT_BYTES_MAX, body.len())?,
    }
    let mut reader = Reader::of_bytes(body)?;
    let value = reader.value()?;
    reader.end()?;
    let Value::Object(_) = value else {
        return Err(misshapen("", "an object", value));
    };
    let mut rows = EventRows::new(context, body.len());
    let mut row = EventRow::default();
    if call != Call::Batch {
        rows.admit_row()?;
        row.begin(context);
        read_event(Some(call), value, &Root::default(), &mut row, context)?;
        rows.push(&mut row, value.raw())?;
        return Ok(rows.finish());
    }

    let mut root = Root::default();
    let mut batch = None;
    let mut members = Members::of(value);
    while let Some((name, value)) = members.next()? {
        match &*name.decode() {
            "batch" => batch = Some(value),
            "context" => root.context = Some(value),
            "integrations" => root.integrations = Some(value),
            "sentAt" => root.sent_at = Some(value),
            _ => {}
        }
    }
    let list = match batch {
        Some(Value::List(list)) => list,
        Some(other) => return Err(misshapen("/batch", "a list", other)),
        None => {
            let message = "`batch` is missing".to_owned();
            return Err(DecodeError::Malformed { message, place: "/batch".to_owned() });
        }
    };
    let mut items = Reader::new(list.raw);
    items.enter();
    let mut first = true;
    while items.item(&mut first)? {
        rows.admit_row()?;
        let event = items.value()?;
        row.begin(context);
        if event.raw().len() > EVENT_BYTES_MAX {
            let message =
                format!("event_bytes_max is {EVENT_BYTES_MAX}, and the event has {} bytes", event.raw().len());
            row.problem(RejectCode::TooLarge, "", message);
        } else {
            read_event(None, event, &root, &mut row, context)?;
        }
        rows.push(&mut row, event.raw())?;
    }
    Ok(rows.finish())
}

/// The members of an object that has been read.
struct Members<'a> {
    reader: Reader<'a>,
    first: bool,
    entered: bool,
}

impl<'a> Members<'a> {
    /// The members of `value`; none if it is not an object.
    fn of(value: Value<'a>) -> Self {
        let mut reader = Reader::new(value.raw());
        let entered = matches!(value, Value::Object(_));
        if entered {
            reader.enter();
        }
        Self { reader, first: true, entered }
    }

    fn next(&mut self) -> Result<Option<(Text<'a>, Value<'a>)>, Syntax> {
        if !self.entered {
            return Ok(None);
        }
        let Some(name) = self.reader.member(&mut self.first)? else { return Ok(None) };
        Ok(Some((name, self.reader.value()?)))
    }
}

/// A member of an object; of several of that name the last one.
fn member<'a>(value: Value<'a>, wanted: &str) -> Option<Value<'a>> {
    let mut found = None;
    let mut members = Members::of(value);
    while let Ok(Some((name, value))) = members.next() {
        if name.decode() == wanted {
            found = Some(value);
        }
    }
    found
}

/// A text that is there, or nothing: for what is copied from `context` to a column.
fn some_text(value: Option<Value<'_>>) -> Option<Cow<'_, str>> {
    match value? {
        Value::Text(text) if !text.has_lone_surrogate() => Some(text.decode()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(Cow::Borrowed(number)),
        _ => None,
    }
}

/// The members of an event that have a meaning here.
#[derive(Default)]
struct Event<'a> {
    call: Option<Value<'a>>,
    event: Option<Value<'a>>,
    name: Option<Value<'a>>,
    properties: Option<Value<'a>>,
    traits: Option<Value<'a>>,
    context: Option<Value<'a>>,
    integrations: Option<Value<'a>>,
    timestamp: Option<Value<'a>>,
    original_timestamp: Option<Value<'a>>,
    sent_at: Option<Value<'a>>,
    request_ip: Option<Value<'a>>,
}

fn read_event<'a>(
    route: Option<Call>,
    value: Value<'a>,
    root: &Root<'a>,
    row: &mut EventRow<'a>,
    context: &RowContext<'_>,
) -> Result<(), Syntax> {
    let Value::Object(_) = value else {
        row.wrong_type("", "an object", value);
        return Ok(());
    };
    let mut event = Event { sent_at: root.sent_at, integrations: root.integrations, ..Event::default() };
    if let Some(shared) = root.context {
        read_context(shared, row)?;
    }
    let mut members = Members::of(value);
    let mut others = Vec::new();
    while let Some((name, value)) = members.next()? {
        match &*name.decode() {
            "type" => event.call = Some(value),
            "event" => event.event = Some(value),
            "name" => event.name = Some(value),
            "properties" => event.properties = Some(value),
            "traits" => event.traits = Some(value),
            "context" => event.context = Some(value),
            "integrations" => event.integrations = Some(value),
            "timestamp" => event.timestamp = Some(value),
            "originalTimestamp" => event.original_timestamp = Some(value),
            "sentAt" if value != Value::Null => event.sent_at = Some(value),
            "request_ip" => event.request_ip = Some(value),
            "userId" => set_id(row, TextColumn::UserId, "/userId", value),
            "anonymousId" => set_id(row, TextColumn::AnonymousId, "/anonymousId", value),
            "groupId" => set_id(row, TextColumn::GroupId, "/groupId", value),
            "previousId" => set_id(row, TextColumn::PreviousId, "/previousId", value),
            "messageId" => set_id(row, TextColumn::EventId, "/messageId", value),
            // A secret, and what the server itself would say.
            "writeKey" | "receivedAt" | "sentAt" => {}
            _ => others.push((name, value)),
        }
    }
    if let Some(own) = event.context {
        read_context(own, row)?;
    }
    for (name, value) in others {
        row.add_context("", name.decode(), value);
        row.check_name("", name);
    }
    if let Some(integrations) = event.integrations
        && !matches!(integrations, Value::Null)
        && integrations.compact(&mut String::new()) != "{}"
    {
        row.add_context("", Cow::Borrowed("integrations"), integrations);
    }
    if let Some(call) = route.or_else(|| read_type(row, event.call)) {
        read_call(call, &mut event, row)?;
    }
    copy_context(&event, root, row);
    if context.user_agent.is_some_and(|agent| agent.starts_with("Mozilla/")) {
        for (column, fallback) in [(TextColumn::Ip, context.client_ip), (TextColumn::UserAgent, context.user_agent)] {
            if row.text(column).is_none() {
                row.put(column, fallback.map(|text| Cow::Owned(text.to_owned())));
            }
        }
    }
    set_times(&event, row, context.received_at);
    Ok(())
}

/// Ids are texts; numbers, which some libraries send, are taken by their digits, and an empty one
/// is none.
fn set_id<'a>(row: &mut EventRow<'a>, column: TextColumn, field: &str, value: Value<'a>) {
    if let Value::Number(number) = value {
        row.forget_problems(field);
        return row.put(column, Some(Cow::Borrowed(number)));
    }
    row.set_text(column, field, value);
    if row.text(column) == Some("") {
        row.put(column, None);
    }
}

fn read_type<'a>(row: &mut EventRow<'a>, given: Option<Value<'a>>) -> Option<Call> {
    let Some(given) = given.filter(|given| *given != Value::Null) else {
        row.problem(RejectCode::MissingField, "/type", "`type` is missing");
        return None;
    };
    let text = row.read_text("/type", given)?;
    let call = Call::of_type(&text);
    if call.is_none() {
        let shown: String = text.chars().take(80).collect();
        let message = format!("unknown type `{shown}`, expected one of track, identify, page, screen, group, alias");
        row.problem(RejectCode::UnknownType, "/type", message);
    }
    call
}

/// What differs between the calls: names, properties and what must be there.
fn read_call<'a>(call: Call, event: &mut Event<'a>, row: &mut EventRow<'a>) -> Result<(), Syntax> {
    row.put(TextColumn::Type, Some(Cow::Borrowed(call.event_type())));
    let (properties, other, other_name) = match call {
        Call::Identify | Call::Group => (event.traits, event.properties, "properties"),
        _ => (event.properties, event.traits, "traits"),
    };
    if let Some(value) = other.filter(|value| *value != Value::Null) {
        row.add_context("", Cow::Borrowed(other_name), value);
    }
    let field = if other_name == "traits" { "/properties" } else { "/traits" };
    match properties {
        Some(value) if call != Call::Identify || Members::of(value).next()?.is_some() => {
            read_properties(&mut Reader::new(value.raw()), row, field)?;
        }
        _ if call == Call::Identify => {
            if let Some(traits) = event.context.and_then(|context| member(context, "traits")) {
                read_properties(&mut Reader::new(traits.raw()), row, "/context/traits")?;
            }
        }
        _ => {}
    }

    let (name, field) = if call == Call::Track { (event.event, "/event") } else { (event.name, "/name") };
    if let Some(value) = name {
        row.set_text(TextColumn::Name, field, value);
    }
    let missing = |row: &mut EventRow<'a>, field: &str, message: &str| {
        row.problem(RejectCode::MissingField, field, message);
    };
    if call == Call::Track && row.text(TextColumn::Name).is_none_or(str::is_empty) {
        missing(row, "/event", "a track call needs an `event`");
    }
    if call == Call::Group && row.text(TextColumn::GroupId).is_none() {
        missing(row, "/groupId", "a group call needs a `groupId`");
    }
    if call == Call::Alias && row.text(TextColumn::PreviousId).is_none() {
        missing(row, "/previousId", "an alias call needs a `previousId`");
    }
    let known = row.text(TextColumn::UserId).or_else(|| row.text(TextColumn::AnonymousId)).is_some();
    if call == Call::Alias && row.text(TextColumn::UserId).is_none() {
        missing(row, "/userId", "an alias call needs a `userId`");
    } else if !known {
        missing(row, "/userId", "one of `userId` and `anonymousId` is needed");
    }
    Ok(())
}

/// Adds the members of a `context` to the column.
fn read_context<'a>(value: Value<'a>, row: &mut EventRow<'a>) -> Result<(), Syntax> {
    if !matches!(value, Value::Object(_) | Value::Null) {
        row.wrong_type("/context", "an object", value);
    }
    let mut members = Members::of(value);
    while let Some((name, value)) = members.next()? {
        row.add_context("/context", name.decode(), value);
        row.check_name("/context", name);
    }
    Ok(())
}

/// Copies what `context` and a page's properties say to the columns for it. Values of other types
/// than expected just stay where they are.
fn copy_context<'a>(event: &Event<'a>, root: &Root<'a>, row: &mut EventRow<'a>) {
    let of_context = |name: &str| {
        let own = event.context.and_then(|context| member(context, name));
        own.or_else(|| root.context.and_then(|context| member(context, name)))
    };
    let page = of_context("page");
    for (name, column) in [
        ("url", TextColumn::Url),
        ("path", TextColumn::Path),
        ("title", TextColumn::Title),
        ("referrer", TextColumn::Referrer),
    ] {
        let own = event.properties.filter(|_| row.text(TextColumn::Type) == Some("pageview"));
        let text = some_text(own.and_then(|properties| member(properties, name)))
            .or_else(|| some_text(page.and_then(|page| member(page, name))));
        row.put(column, text);
    }
    for (name, column) in [
        ("userAgent", TextColumn::UserAgent),
        ("ip", TextColumn::Ip),
        ("locale", TextColumn::Language),
        ("timezone", TextColumn::Timezone),
        ("sessionId", TextColumn::SessionId),
    ] {
        row.put(column, some_text(of_context(name)));
    }
    if row.text(TextColumn::Ip).is_none() {
        row.put(TextColumn::Ip, some_text(event.request_ip));
    }
    if row.text(TextColumn::GroupId).is_none() {
        row.put(TextColumn::GroupId, some_text(of_context("groupId")));
    }
    let Some(screen) = of_context("screen") else { return };
    for (width, height, column) in
        [("width", "height", TextColumn::Screen), ("innerWidth", "innerHeight", TextColumn::Viewport)]
    {
        if let (Some(width), Some(height)) = (some_text(member(screen, width)), some_text(member(screen, height))) {
            row.put(column, Some(Cow::Owned(format!("{width}x{height}"))));
        }
    }
}

fn parse_time(value: Value<'_>) -> Option<Timestamp> {
    let time = match value {
        Value::Text(text) => json_time::parse(&text.decode(), Notation::Iso8601),
        Value::Number(number) => json_time::parse_millis(number),
        _ => None,
    };
    time.filter(|time| time.0 > 0)
}

fn set_times<'a>(event: &Event<'a>, row: &mut EventRow<'a>, received_at: Timestamp) {
    let given = [(event.original_timestamp, "originalTimestamp"), (event.timestamp, "timestamp")];
    let sent_at = event.sent_at.and_then(parse_time);
    row.set_sent_at(sent_at);
    for (value, name) in given.into_iter().chain([(event.sent_at, "sentAt")]) {
        match value {
            None | Some(Value::Null) => {}
            Some(value @ (Value::Text(_) | Value::Number(_))) => {
                if parse_time(value).is_none() {
                    row.add_context("", Cow::Borrowed(name), value);
                }
            }
            Some(other) => row.wrong_type(format!("/{name}"), "an ISO 8601 text", other),
        }
    }
    let Some((original, _)) = given.into_iter().find(|(value, _)| value.is_some_and(|value| value != Value::Null))
    else {
        return;
    };
    let original = original.and_then(parse_time);
    let time = match (original, sent_at) {
        (Some(original), Some(sent_at)) => {
            received_at.0.checked_sub(sent_at.0).and_then(|skew| skew.checked_add(original.0)).map(Timestamp)
        }
        (original, _) => original,
    };
    row.set_moment(time, received_at);
}
