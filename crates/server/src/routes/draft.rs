//! Bodies of requests that manage something. What is wrong with the shape of one is told with its place, all at once, and
//! together with what else is wrong with those parts that are right so far.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use weir_base::{Diagnostic, ErrorKind};
use weir_document::check::pointer;
use weir_document::shape::of_schema;
use weir_document::{Node, Problem as Found, Schema, Syntax, Value};

use super::MANAGEMENT_BODY_BYTES_MAX;
use crate::app::App;
use crate::net::body::BodyLimits;
use crate::problem::{Problem, Result, parse_json};

/// What is said of a body that is wrong.
const WRONG: &str = "the body is not what this route takes";

/// A body of the shape `T`, or what was meant to be one.
pub(crate) struct Draft<T> {
    /// What is right of it.
    value: Map<String, Json>,
    problems: Vec<Diagnostic>,
    shape: PhantomData<fn() -> T>,
}

/// A body of the shape `T`.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned + JsonSchema> Draft<T> {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is no JSON object.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let draft = |value, problems| Self { value, problems, shape: PhantomData };
        let value: Json = parse_json(bytes)?;
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        match (parse_json::<T>(bytes), value) {
            (Ok(_), Json::Object(value)) => Ok(draft(value, Vec::new())),
            (Ok(_), _) => Err(Problem::new(ErrorKind::Input, format!("{WRONG}: it is no JSON object"))),
            (Err(problem), _) => match check::<T>(text) {
                (_, problems) if problems.is_empty() => Err(problem),
                (value, problems) => Ok(draft(value, problems)),
            },
        }
    }

    /// What it says of something, if that is right.
    pub(crate) fn part<P: DeserializeOwned>(&self, name: &str) -> Option<P> {
        let place = format!("/{name}");
        let is_wrong = |problem: &Diagnostic| {
            problem.place.strip_prefix(&place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let value = self.value.get(name).filter(|_| !self.problems.iter().any(is_wrong))?;
        serde_json::from_value(value.clone()).ok()
    }

    /// Adds what else is wrong with it.
    pub(crate) fn add(&mut self, problems: impl IntoIterator<Item = Diagnostic>) {
        self.problems.extend(problems);
    }

    /// The body, if nothing is wrong with it.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn finish(self) -> Result<T> {
        match self.problems.as_slice() {
            [] => serde_json::from_value(Json::Object(self.value))
                .map_err(|error| Problem::new(ErrorKind::Input, format!("{WRONG}: {error}"))),
            [only] => {
                let told = format!("{WRONG}: {}", only.message);
                let problem = Problem::diagnostics(ErrorKind::Input, told, &self.problems).pointer(&only.place);
                Err(if only.hint.is_empty() { problem } else { problem.hint(&only.hint) })
            }
            all => Err(Problem::diagnostics(ErrorKind::Input, WRONG, all)),
        }
    }
}

/// What is right in a body, and everything that is not.
fn check<T: JsonSchema>(text: &str) -> (Map<String, Json>, Vec<Diagnostic>) {
    let parsed = Syntax::Json.parse("the body", text);
    let root = of_schema(schemars::schema_for!(T).as_value());
    let mut found = Vec::new();
    let checked = Schema { root, noun: "the body", unsuggested: &[] }.check(&parsed, &mut found);
    let mut pointers = BTreeMap::new();
    point(&parsed.root, &mut Vec::new(), &mut pointers);
    let mut problems = Found::all_shown(found);
    for problem in &mut problems {
        if let Some(pointer) = pointers.get(&problem.place) {
            problem.place.clone_from(pointer);
        }
    }
    (checked.value, problems)
}

/// The pointer of each place where something was written.
fn point(node: &Node, path: &mut Vec<String>, pointers: &mut BTreeMap<String, String>) {
    pointers.insert(node.place.to_string(), pointer(path));
    let mut inside = |name: String, key: Option<String>, child: &Node| {
        path.push(name);
        point(child, path, pointers);
        if let Some(key) = key {
            pointers.insert(key, pointer(path));
        }
        path.pop();
    };
    match &node.value {
        Value::Map(entries) => entries.iter().for_each(|(key, child)| {
            inside(key.name.clone(), Some(key.place.to_string()), child);
        }),
        Value::List(items) => items.iter().enumerate().for_each(|(at, item)| inside(at.to_string(), None, item)),
        _ => {}
    }
}

async fn bytes_of(request: Request, app: &Arc<App>) -> Result<bytes::Bytes> {
    let (parts, body) = request.into_parts();
    let limits = BodyLimits { body_bytes_max: MANAGEMENT_BODY_BYTES_MAX, decoded_bytes_max: MANAGEMENT_BODY_BYTES_MAX };
    Ok(app.bodies.read(&parts.headers, body, limits).await?.bytes)
}

impl<T: DeserializeOwned + JsonSchema> FromRequest<Arc<App>> for Draft<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        Self::read(&bytes_of(request, app).await?)
    }
}

impl<T: DeserializeOwned + JsonSchema> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self> {
        Draft::read(&bytes_of(request, app).await?)?.finish().map(Self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use weir_api::key::KeyCreate;
    use weir_api::tenant::{TenantChange, TenantCreate};

    use super::*;

    fn told<T: DeserializeOwned + JsonSchema>(body: &str) -> Vec<String> {
        let problem = Draft::<T>::read(body.as_bytes()).and_then(Draft::finish).err().unwrap();
        let body = problem.body(None);
        body.errors.iter().map(|error| format!("{} {}", error.pointer, error.detail)).collect()
    }

    #[test]
    fn everything_wrong_with_a_shape_is_told_where_it_is() {
        let body = r#"{"name": 7, "tier": "gold", "settings": {"allowed_origins": ["a", 1], "x/y": 1,
            "sessions": {"gap": "soon", "enabled": "no"}}, "limit": {}}"#;
        let expected = [
            " the body needs `id`",
            "/name `name` must be text, not the number 7",
            "/tier `tier` must be one of free, paid, enterprise, not `gold`",
            "/settings/allowed_origins/1 `settings.allowed_origins.1` must be text, not the number 1",
            "/settings/x~1y unknown field `x/y` in `settings`",
            "/settings/sessions/gap `settings.sessions.gap` must be a duration such as 250ms, 10s, 5m, 24h or 30d, not `soon`",
            "/settings/sessions/enabled `settings.sessions.enabled` must be true or false, not `no`",
            "/limit unknown field `limit`",
        ];
        assert_eq!(told::<TenantCreate>(body), expected);
        let expected = [
            "/tier `tier` must be one of free, paid, enterprise, not the number 1",
            "/settings `settings` must be a section with settings of its own, not the number 2",
        ];
        assert_eq!(told::<TenantChange>(r#"{"tier": 1, "settings": 2}"#), expected);
        let expected = [
            "/scopes/1 `scopes.1` must be one of ingest, query, admin, not `all`",
            "/scopes/2 `scopes.2` must be one of ingest, query, admin, not the number 3",
            "/expires_at `expires_at` must be text, not false",
        ];
        assert_eq!(told::<KeyCreate>(r#"{"scopes": ["ingest", "all", 3], "expires_at": false}"#), expected);
        assert_eq!(told::<KeyCreate>("{}"), [" the body needs `scopes`"]);
    }

    #[test]
    fn one_problem_is_told_by_itself() {
        let problem = Draft::<KeyCreate>::read(br#"{"scopes": "all"}"#).and_then(Draft::finish).err().unwrap();
        let body = problem.body(None);
        assert_eq!((body.pointer.as_deref(), body.status), (Some("/scopes"), 400));
        assert!(body.detail.starts_with(WRONG) && body.detail.contains("scopes"), "{}", body.detail);
        // What is no JSON, or no object.
        for text in ["{", "[]", "null", "{}{}"] {
            let problem = Draft::<KeyCreate>::read(text.as_bytes()).and_then(Draft::finish).err().unwrap();
            assert!(problem.message().starts_with(WRONG), "{text}: {}", problem.message());
        }
    }
}
