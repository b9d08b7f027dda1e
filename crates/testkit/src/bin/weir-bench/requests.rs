//! Request bodies: composed before the measurement and patched in place while it runs, because the
//! generator must cost less than the server. What is random or a time in real traffic is new in
//! every row; the rest repeats after [`TEMPLATES`] requests of a connection.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a request holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// SDK events of about 300 bytes of JSON.
    Events { rows: usize },
    /// SDK events with so many random characters each: much data from few rows.
    LargeEvents { rows: usize, random_bytes: usize },
    /// OpenTelemetry logs of about 270 bytes of protobuf.
    Logs { rows: usize },
}

impl Shape {
    pub(crate) fn rows(self) -> usize {
        match self {
            Self::Events { rows } | Self::LargeEvents { rows, .. } | Self::Logs { rows } => rows,
        }
    }

    /// The table its rows are in.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Events { .. } | Self::LargeEvents { .. } => "events",
            Self::Logs { .. } => "logs",
        }
    }

    /// Bytes a row takes as JSON: of an event as it is sent, of a log as OTLP writes it in JSON.
    pub(crate) fn json_bytes(self) -> f64 {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let bytes = match self {
            Self::Events { .. } | Self::LargeEvents { .. } => Template::compose(self, &mut random).body.len(),
            Self::Logs { rows } => serde_json::to_vec(&logs(rows, &mut random)).map_or(0, |json| json.len()),
        };
        bytes as f64 / self.rows() as f64
    }
}

const PATHS: [&str; 12] = [
    "/",
    "/shop",
    "/shop/shoes",
    "/shop/hats",
    "/cart",
    "/checkout",
    "/thanks",
    "/about",
    "/jobs",
    "/search",
    "/blog",
    "/help",
];
const SERVICES: [&str; 8] = ["checkout", "cart", "search", "payment", "mail", "users", "stock", "web"];
const ROUTES: [&str; 6] = ["/api/cart", "/api/cart/{id}", "/api/pay", "/api/search", "/api/user/{id}", "/health"];
const WORDS: [&str; 10] =
    ["request", "completed", "cache", "miss", "retrying", "upstream", "timeout", "connection", "opened", "closed"];

/// Different bodies a connection sends, in turn.
const TEMPLATES: usize = 24;

/// What is new in every row. Each stands in a body as its marker, [`MARK`] times its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patch {
    /// A random UUID in text.
    Uuid,
    /// Milliseconds since 1970 in 13 digits: now, or up to two seconds ago.
    Millis,
    /// A trace id of 16 bytes.
    TraceId,
    /// A span id of 8 bytes.
    SpanId,
    /// Nanoseconds since 1970 in 8 bytes.
    Nanos,
}

impl Patch {
    fn marker(self) -> &'static [u8] {
        match self {
            Self::Uuid => b"<<<<<<<<-<<<<-4<<<-8<<<-<<<<<<<<<<<<",
            Self::Millis => b"9999999999999",
            Self::TraceId => &[0xf1; 16],
            Self::SpanId => &[0xf2; 8],
            Self::Nanos => &[0xf3; 8],
        }
    }

    fn write(self, place: &mut [u8], now_nanos: u64, random: &mut ChaCha8Rng) {
        match self {
            Self::Uuid => {
                let bits: u128 = random.random();
                let digits = place.iter_mut().enumerate().filter(|(at, _)| !matches!(at, 8 | 13 | 14 | 18 | 19 | 23));
                for (number, (_, digit)) in digits.enumerate() {
                    *digit = b"0123456789abcdef"[(bits >> (4 * number)) as usize & 15];
                }
            }
            Self::Millis => {
                let mut millis = now_nanos / 1_000_000 - u64::from(random.random::<u32>() % 2000);
                for digit in place.iter_mut().rev() {
                    *digit = b'0' + (millis % 10) as u8;
                    millis /= 10;
                }
            }
            Self::TraceId | Self::SpanId => random.fill_bytes(place),
            Self::Nanos => {
                let nanos = now_nanos - u64::from(random.random::<u32>() % 1_000_000_000);
                place.copy_from_slice(&nanos.to_le_bytes());
            }
        }
    }
}

/// A body and what is new in it each time.
struct Template {
    body: Vec<u8>,
    patches: Vec<(usize, Patch)>,
}

impl Template {
    fn compose(shape: Shape, random: &mut ChaCha8Rng) -> Self {
        let (body, patches): (Vec<u8>, &[Patch]) = match shape {
            Shape::Events { rows } => (events(rows, 0, random), &[Patch::Uuid, Patch::Millis]),
            Shape::LargeEvents { rows, random_bytes } => {
                (events(rows, random_bytes, random), &[Patch::Uuid, Patch::Millis])
            }
            Shape::Logs { rows } => {
                (logs(rows, random).encode_to_vec(), &[Patch::TraceId, Patch::SpanId, Patch::Nanos])
            }
        };
        let mut template = Self { body, patches: Vec::new() };
        for patch in patches {
            let marker = patch.marker();
            let mut at = 0;
            while let Some(rest) = template.body.get(at..at + marker.len()) {
                if rest == marker {
                    template.patches.push((at, *patch));
                    at += marker.len();
                } else {
                    at += 1;
                }
            }
        }
        template
    }
}

/// Bodies of one connection.
pub(crate) struct Bodies {
    templates: Vec<Template>,
    next: usize,
    random: ChaCha8Rng,
}

impl Bodies {
    pub(crate) fn new(shape: Shape, connection: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(connection);
        let templates = (0..TEMPLATES).map(|_| Template::compose(shape, &mut random)).collect();
        Self { templates, next: 0, random }
    }

    /// The next request.
    pub(crate) fn next(&mut self) -> Bytes {
        let n_templates = self.templates.len();
        let template = &mut self.templates[self.next % n_templates];
        self.next += 1;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        for (at, patch) in &template.patches {
            let place = &mut template.body[*at..*at + patch.marker().len()];
            patch.write(place, now, &mut self.random);
        }
        Bytes::copy_from_slice(&template.body)
    }
}

fn events(rows: usize, random_bytes: usize, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut text = r#"{"events":["#.to_owned();
    for number in 0..rows {
        if number > 0 {
            text.push(',');
        }
        let path = PATHS[random.random_range(0..PATHS.len())];
        let user: u32 = random.random_range(0..5000);
        text.push_str(&format!(
            r#"{{"id":"<<<<<<<<-<<<<-4<<<-8<<<-<<<<<<<<<<<<","type":"pageview","timestamp":9999999999999,"session_id":"s-{:08x}","user_id":"user-{user}","url":"https://shop.example{path}","path":"{path}","title":"Shop {path}","properties":{{"plan":"free","items":{},"total":{}.5"#,
            user / 7,
            random.random_range(0..9),
            random.random_range(1..200),
        ));
        if random_bytes > 0 {
            text.push_str(r#","blob":""#);
            text.extend((0..random_bytes).map(|_| char::from(b'A' + random.random_range(0..26_u8))));
            text.push('"');
        }
        text.push_str(r#"},"metadata":{"language":"en","timezone":"Europe/Berlin"}}"#);
    }
    text.push_str("]}");
    text.into_bytes()
}

fn logs(rows: usize, random: &mut ChaCha8Rng) -> ExportLogsServiceRequest {
    let text = |text: String| Some(AnyValue { value: Some(Value::StringValue(text)) });
    let pair = |key: &str, value: Value| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    let records = (0..rows).map(|_| {
        let route = ROUTES[random.random_range(0..ROUTES.len())];
        let body: Vec<&str> = (0..6).map(|_| WORDS[random.random_range(0..WORDS.len())]).collect();
        let is_error = random.random_ratio(1, 50);
        let rare = if random.random_ratio(1, 16_000) { ": disk quota exceeded" } else { "" };
        LogRecord {
            time_unix_nano: u64::from_le_bytes([0xf3; 8]),
            severity_number: if is_error { 17 } else { 9 },
            severity_text: if is_error { "ERROR" } else { "INFO" }.to_owned(),
            body: text(format!("{} in {} ms{rare}", body.join(" "), random.random_range(1..900))),
            trace_id: vec![0xf1; 16],
            span_id: vec![0xf2; 8],
            attributes: vec![
                pair("http.route", Value::StringValue(route.to_owned())),
                pair("http.request.method", Value::StringValue("GET".to_owned())),
                pair("http.response.status_code", Value::IntValue(if is_error { 500 } else { 200 })),
                pair("user.id", Value::StringValue(format!("user-{}", random.random_range(0..5000)))),
                pair("thread.id", Value::IntValue(random.random_range(0..64))),
            ],
            ..LogRecord::default()
        }
    });
    let scope = ScopeLogs { log_records: records.collect(), ..ScopeLogs::default() };
    let service = SERVICES[random.random_range(0..SERVICES.len())].to_owned();
    let resource =
        Resource { attributes: vec![pair("service.name", Value::StringValue(service))], ..Resource::default() };
    let logs = ResourceLogs { resource: Some(resource), scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn bodies_have_the_size_they_are_said_to_have() {
        let per_row = |shape: Shape| Bodies::new(shape, 1).next().len() / shape.rows();
        let (events, logs) = (per_row(Shape::Events { rows: 100 }), per_row(Shape::Logs { rows: 1000 }));
        assert!((285..=330).contains(&events), "{events} bytes an event");
        assert!((240..=300).contains(&logs), "{logs} bytes a log");
        let large = per_row(Shape::LargeEvents { rows: 10, random_bytes: 500 });
        assert!((785..=850).contains(&large), "{large} bytes a large event");
    }

    #[test]
    fn no_id_comes_twice_and_every_event_is_of_now() -> Result<(), serde_json::Error> {
        let mut seen = HashSet::new();
        for connection in 0..3 {
            let mut bodies = Bodies::new(Shape::Events { rows: 10 }, connection);
            for _ in 0..100 {
                let body: serde_json::Value = serde_json::from_slice(&bodies.next())?;
                for event in body["events"].as_array().into_iter().flatten() {
                    assert!(seen.insert(event["id"].to_string()), "{}", event["id"]);
                    assert!(event["timestamp"].as_u64() > Some(1_600_000_000_000), "{}", event["timestamp"]);
                }
            }
        }
        assert_eq!(seen.len(), 3000);
        Ok(())
    }

    #[test]
    fn every_log_gets_ids_and_a_time() -> Result<(), prost::DecodeError> {
        let mut bodies = Bodies::new(Shape::Logs { rows: 50 }, 1);
        let mut traces = HashSet::new();
        for _ in 0..3 {
            let request = ExportLogsServiceRequest::decode(bodies.next())?;
            for record in &request.resource_logs[0].scope_logs[0].log_records {
                assert!(record.time_unix_nano < u64::from_le_bytes([0xf3; 8]));
                assert!(traces.insert(record.trace_id.clone()));
            }
        }
        assert_eq!(traces.len(), 150);
        Ok(())
    }
}
