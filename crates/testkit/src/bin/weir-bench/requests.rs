//! Request bodies, made once and changed in place: the generator must cost less than the server.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a request holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// SDK events of about 300 bytes of JSON.
    Events { rows: usize },
    /// OpenTelemetry logs of about 270 bytes of protobuf.
    Logs { rows: usize },
}

impl Shape {
    pub(crate) fn rows(self) -> usize {
        match self {
            Self::Events { rows } | Self::Logs { rows } => rows,
        }
    }

    /// The table its rows are in.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Events { .. } => "events",
            Self::Logs { .. } => "logs",
        }
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

/// Where in a body the counter part of an id stands.
const COUNTER_DIGITS: usize = 12;

/// Bodies of one connection.
pub(crate) struct Bodies {
    body: Vec<u8>,
    /// Offsets of counters in the body, one an event.
    counters: Vec<usize>,
    /// Distinguishes connections.
    next: u64,
    random: ChaCha8Rng,
    shape: Shape,
}

impl Bodies {
    pub(crate) fn new(shape: Shape, connection: u64) -> Self {
        let mut bodies = Self {
            body: Vec::new(),
            counters: Vec::new(),
            next: connection << 32,
            random: ChaCha8Rng::seed_from_u64(connection),
            shape,
        };
        bodies.compose();
        bodies
    }

    /// The next request. Events get ids never used before; everything else repeats, and is composed
    /// anew now and then.
    pub(crate) fn next(&mut self) -> Bytes {
        if self.random.random_ratio(1, 64) {
            self.compose();
        }
        for place in &self.counters {
            self.next += 1;
            let digits = format!("{:0width$x}", self.next, width = COUNTER_DIGITS);
            self.body[*place..place + COUNTER_DIGITS].copy_from_slice(digits.as_bytes());
        }
        Bytes::copy_from_slice(&self.body)
    }

    fn compose(&mut self) {
        match self.shape {
            Shape::Events { rows } => self.compose_events(rows),
            Shape::Logs { rows } => self.compose_logs(rows),
        }
    }

    fn compose_events(&mut self, rows: usize) {
        self.counters.clear();
        let mut text = r#"{"events":["#.to_owned();
        for number in 0..rows {
            if number > 0 {
                text.push(',');
            }
            let path = PATHS[self.random.random_range(0..PATHS.len())];
            let user: u32 = self.random.random_range(0..5000);
            // The random half of the id stands first, as in a random UUID.
            text.push_str(&format!(r#"{{"id":"{:08x}-{:04x}-4000-8000-"#, self.random.random::<u32>(), user));
            self.counters.push(text.len());
            text.push_str(&"0".repeat(COUNTER_DIGITS));
            text.push_str(&format!(
                r#"","type":"pageview","session_id":"s-{:08x}","user_id":"user-{user}","url":"https://shop.example{path}","path":"{path}","title":"Shop {path}","referrer":"https://search.example/","properties":{{"plan":"free","items":{},"total":{}.5}},"metadata":{{"language":"en","timezone":"Europe/Berlin"}}}}"#,
                user / 7,
                self.random.random_range(0..9),
                self.random.random_range(1..200),
            ));
        }
        text.push_str("]}");
        self.body = text.into_bytes();
    }

    fn compose_logs(&mut self, rows: usize) {
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let text = |text: String| Some(AnyValue { value: Some(Value::StringValue(text)) });
        let pair = |key: &str, value: Value| KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        };
        let records = (0..rows).map(|number| {
            let route = ROUTES[self.random.random_range(0..ROUTES.len())];
            let body: Vec<&str> = (0..6).map(|_| WORDS[self.random.random_range(0..WORDS.len())]).collect();
            LogRecord {
                time_unix_nano: now + number as u64,
                severity_number: if self.random.random_ratio(1, 50) { 17 } else { 9 },
                severity_text: "INFO".to_owned(),
                body: text(format!("{} in {} ms", body.join(" "), self.random.random_range(1..900))),
                trace_id: self.random.random::<[u8; 16]>().to_vec(),
                span_id: self.random.random::<[u8; 8]>().to_vec(),
                attributes: vec![
                    pair("http.route", Value::StringValue(route.to_owned())),
                    pair("http.request.method", Value::StringValue("GET".to_owned())),
                    pair("http.response.status_code", Value::IntValue(200)),
                    pair("user.id", Value::StringValue(format!("user-{}", self.random.random_range(0..5000)))),
                    pair("thread.id", Value::IntValue(self.random.random_range(0..64))),
                ],
                ..LogRecord::default()
            }
        });
        let scope = ScopeLogs { log_records: records.collect(), ..ScopeLogs::default() };
        let service = SERVICES[self.random.random_range(0..SERVICES.len())].to_owned();
        let resource =
            Resource { attributes: vec![pair("service.name", Value::StringValue(service))], ..Resource::default() };
        let logs = ResourceLogs { resource: Some(resource), scope_logs: vec![scope], ..ResourceLogs::default() };
        self.body = ExportLogsServiceRequest { resource_logs: vec![logs] }.encode_to_vec();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn bodies_have_the_size_they_are_said_to_have() {
        let per_row = |shape: Shape| Bodies::new(shape, 1).next().len() / shape.rows();
        let (events, logs) = (per_row(Shape::Events { rows: 100 }), per_row(Shape::Logs { rows: 1000 }));
        assert!((270..=330).contains(&events), "{events} bytes an event");
        assert!((240..=300).contains(&logs), "{logs} bytes a log");
    }

    #[test]
    fn no_id_comes_twice() -> Result<(), serde_json::Error> {
        let mut seen = HashSet::new();
        for connection in 0..3 {
            let mut bodies = Bodies::new(Shape::Events { rows: 10 }, connection);
            for _ in 0..100 {
                let body: serde_json::Value = serde_json::from_slice(&bodies.next())?;
                for event in body["events"].as_array().into_iter().flatten() {
                    assert!(seen.insert(event["id"].to_string()), "{}", event["id"]);
                }
            }
        }
        assert_eq!(seen.len(), 3000);
        Ok(())
    }
}
