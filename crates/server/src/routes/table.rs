//! Every route of the main port in one table: the router, the OpenAPI document, the reference page
//! and the test that tries every route with everybody's key are made from it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use http::header::CONTENT_TYPE;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use weir_api::{
    deadletter as deadletter_api, health as health_api, ingest as ingest_api, key as key_api, problem as problem_api,
};
use weir_api::{pipeline as pipeline_api, query as query_api, tail as tail_api, tenant as tenant_api};

use super::{
    deadletters, events, health, keys, metrics, otap, otlp, pipelines, query, savepoints, segment, tail, tap, tenants,
};
use crate::app::App;

/// Whose requests a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody's.
    Anyone,
    /// Those with a valid write key in the address.
    WriteKey,
    /// Keys with scope `ingest`.
    Ingest,
    /// Keys with scope `query`.
    Query,
    /// Keys with scope `admin`.
    Admin,
    /// Any key of the tenant in the address, and administrators.
    OwnTenant,
    /// Keys with scope `admin` of the tenant in the address, and administrators.
    TenantAdmin,
    /// Administrators' keys.
    Administrator,
}

impl Access {
    fn text(self) -> &'static str {
        match self {
            Self::Anyone => "no key needed",
            Self::WriteKey => "a valid write key in the address",
            Self::Ingest => "a key with scope `ingest`",
            Self::Query => "a key with scope `query`",
            Self::Admin => "a key with scope `admin`",
            Self::OwnTenant => "a key of the tenant, or an administrator's",
            Self::TenantAdmin => "a key of the tenant with scope `admin`, or an administrator's",
            Self::Administrator => "an administrator's key",
        }
    }
}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What a request or a reply carries.
#[derive(Clone, Copy, Debug)]
enum Body {
    None,
    Json(SchemaOf),
    /// Something the protocol's own specification describes: media type, description.
    Other(&'static str, &'static str),
}

/// One route.
#[derive(Clone)]
pub(crate) struct Route {
    method: &'static str,
    path: &'static str,
    access: Access,
    summary: &'static str,
    request: Body,
    status: u16,
    reply: Body,
    handler: MethodRouter<Arc<App>>,
}

impl Route {
    fn new(method: &'static str, path: &'static str, access: Access, handler: MethodRouter<Arc<App>>) -> Self {
        Self { method, path, access, summary: "", request: Body::None, status: 200, reply: Body::None, handler }
    }

    fn summary(self, summary: &'static str) -> Self {
        Self { summary, ..self }
    }

    fn takes(self, request: Body) -> Self {
        Self { request, ..self }
    }

    fn gives(self, status: u16, reply: Body) -> Self {
        Self { status, reply, ..self }
    }

    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    pub(crate) fn handler(&self) -> MethodRouter<Arc<App>> {
        self.handler.clone()
    }
}

/// Method, path and access of every route of the main port.
pub fn listed() -> Vec<(&'static str, &'static str, Access)> {
    routes().iter().map(|route| (route.method, route.path, route.access)).collect()
}

/// Every route of the main port.
pub(crate) fn routes() -> Vec<Route> {
    use Access::{Admin, Administrator, Anyone, Ingest, OwnTenant, Query, TenantAdmin, WriteKey};
    let segment_body = Body::Other("application/json", "A call, or a batch of calls, of the Segment tracking API.");
    let otlp_body = Body::Other("application/x-protobuf", "An OTLP export request; `application/json` likewise.");
    let otlp_reply =
        Body::Other("application/x-protobuf", "An OTLP export response, with `partial_success` if rows were refused.");
    let mut routes = vec![
        Route::new("POST", "/ingest", Ingest, post(events::ingest))
            .summary("Send events of SDKs")
            .takes(Body::Other("application/json", "`{\"events\":[...]}`; see Ingest protocols."))
            .gives(200, Body::Json(schema::<ingest_api::IngestReply>)),
        Route::new("POST", "/v1/{call}", Ingest, post(segment::track))
            .summary("Segment tracking API: track, identify, page, screen, group, alias, batch, and one-letter forms")
            .takes(segment_body)
            .gives(200, Body::Json(schema::<ingest_api::SegmentReply>)),
        Route::new("GET", "/v1/projects/{write_key}/settings", WriteKey, get(segment::settings))
            .summary("What Segment's browser SDK fetches first")
            .gives(200, Body::Other("application/json", "Settings for the SDK.")),
        Route::new("GET", "/sourceConfig", WriteKey, get(segment::source_config))
            .summary("What RudderStack's browser SDK fetches first")
            .gives(200, Body::Other("application/json", "Settings for the SDK.")),
        Route::new("GET", "/sourceConfig/", WriteKey, get(segment::source_config))
            .summary("What RudderStack's browser SDK fetches first")
            .gives(200, Body::Other("application/json", "Settings for the SDK.")),
    ];
    for (path, summary, handler) in otlp::http_handlers() {
        let route = Route::new("POST", path, Ingest, handler).summary(summary);
        routes.push(route.takes(otlp_body).gives(200, otlp_reply));
    }
    for (path, summary, handler) in otap::http_handlers() {
        let route = Route::new("POST", path, Ingest, handler).summary(summary);
        let body = Body::Other("application/x-protobuf", "A `BatchArrowRecords` that needs no other.");
        let reply = Body::Other("application/x-protobuf", "A `BatchStatus`.");
        routes.push(route.takes(body).gives(200, reply));
    }
    routes.extend([
        Route::new("POST", "/api/v1/query", Query, post(query::query))
            .summary("Ask an SQL query")
            .takes(Body::Json(schema::<query_api::QueryRequest>))
            .gives(200, Body::Json(schema::<query_api::QueryReply>)),
        Route::new("GET", "/api/v1/tail/{stream}", Query, get(tail::tail))
            .summary("Follow a stream, over server-sent events or WebSocket")
            .gives(200, Body::Json(schema::<tail_api::TailMessage>)),
        Route::new("GET", "/api/v1/pipelines", Query, get(pipelines::list))
            .summary("List pipelines with their state and counters")
            .gives(200, Body::Json(schema::<pipeline_api::PipelineList>)),
        Route::new("POST", "/api/v1/pipelines", Admin, post(pipelines::apply))
            .summary("Check a pipeline and run it, in place of the one of the same name")
            .takes(Body::Json(schema::<pipeline_api::PipelineApply>))
            .gives(200, Body::Json(schema::<pipeline_api::PipelineApplied>)),
        Route::new("GET", "/api/v1/pipelines/{name}", Query, get(pipelines::show))
            .summary("Show a pipeline with its document, state and counters")
            .gives(200, Body::Json(schema::<pipeline_api::Pipeline>)),
        Route::new("DELETE", "/api/v1/pipelines/{name}", Admin, delete(pipelines::delete))
            .summary("Stop a pipeline and forget it with its checkpoints; what it has written stays")
            .gives(204, Body::None),
        Route::new("POST", "/api/v1/pipelines/{name}/stop", Admin, post(pipelines::stop))
            .summary("Stop a pipeline after one more checkpoint")
            .gives(200, Body::Json(schema::<pipeline_api::Pipeline>)),
        Route::new("POST", "/api/v1/pipelines/{name}/start", Admin, post(pipelines::start))
            .summary("Let a pipeline go on from its checkpoint")
            .gives(200, Body::Json(schema::<pipeline_api::Pipeline>)),
        Route::new("GET", "/api/v1/pipelines/{name}/explain", Query, get(pipelines::explain))
            .summary("Say what time waits for in a pipeline, and which part the others wait for")
            .gives(200, Body::Json(schema::<pipeline_api::PipelineExplanation>)),
        Route::new("GET", "/api/v1/pipelines/{name}/tap", Query, get(tap::tap))
            .summary("Follow the rows that pass a part of a pipeline, over server-sent events or WebSocket")
            .gives(200, Body::Json(schema::<tail_api::TailMessage>)),
        Route::new("GET", "/api/v1/pipelines/{name}/savepoints", Query, get(savepoints::list))
            .summary("List the savepoints of a pipeline")
            .gives(200, Body::Json(schema::<pipeline_api::SavepointList>)),
        Route::new("POST", "/api/v1/pipelines/{name}/savepoints", Admin, post(savepoints::create))
            .summary("Make a checkpoint of a pipeline now, and keep it under a name")
            .takes(Body::Json(schema::<pipeline_api::SavepointCreate>))
            .gives(201, Body::Json(schema::<pipeline_api::Savepoint>)),
        Route::new("DELETE", "/api/v1/pipelines/{name}/savepoints/{label}", Admin, delete(savepoints::delete))
            .summary("Delete a savepoint")
            .gives(204, Body::None),
        Route::new("POST", "/api/v1/pipelines/{name}/savepoints/{label}/restore", Admin, post(savepoints::restore))
            .summary("Let a pipeline go on from a savepoint, also with another document")
            .takes(Body::Json(schema::<pipeline_api::SavepointRestore>))
            .gives(200, Body::Json(schema::<pipeline_api::SavepointRestored>)),
        Route::new("GET", "/api/v1/pipelines/{name}/deadletters", Query, get(deadletters::list))
            .summary("List the dead letters of a pipeline, newest first, with what became of them")
            .gives(200, Body::Json(schema::<deadletter_api::DeadLetterList>)),
        Route::new("POST", "/api/v1/pipelines/{name}/deadletters/replay", Admin, post(deadletters::replay))
            .summary("Run dead letters again, each once, at the step or source that had set them aside")
            .takes(Body::Json(schema::<deadletter_api::DeadLetterReplay>))
            .gives(200, Body::Json(schema::<deadletter_api::DeadLettersReplayed>)),
        Route::new("POST", "/api/v1/pipelines/{name}/deadletters/purge", Admin, post(deadletters::purge))
            .summary("Show dead letters no more: not in queries, not in lists")
            .takes(Body::Json(schema::<deadletter_api::DeadLetterPurge>))
            .gives(200, Body::Json(schema::<deadletter_api::DeadLettersPurged>)),
        Route::new("GET", "/api/v1/graph", Query, get(pipelines::graph))
            .summary("All pipelines with the streams between them, and rows a second")
            .gives(200, Body::Json(schema::<pipeline_api::Graph>)),
        Route::new("GET", "/api/v1/tenants", Administrator, get(tenants::list))
            .summary("List tenants")
            .gives(200, Body::Json(schema::<tenant_api::TenantList>)),
        Route::new("POST", "/api/v1/tenants", Administrator, post(tenants::create))
            .summary("Create a tenant")
            .takes(Body::Json(schema::<tenant_api::TenantCreate>))
            .gives(201, Body::Json(schema::<tenant_api::Tenant>)),
        Route::new("GET", "/api/v1/tenants/{id}", OwnTenant, get(tenants::show))
            .summary("Show a tenant with its limits")
            .gives(200, Body::Json(schema::<tenant_api::Tenant>)),
        Route::new("PATCH", "/api/v1/tenants/{id}", Administrator, patch(tenants::change))
            .summary("Change a tenant's name, tier, limits or settings")
            .takes(Body::Json(schema::<tenant_api::TenantChange>))
            .gives(200, Body::Json(schema::<tenant_api::Tenant>)),
        Route::new("DELETE", "/api/v1/tenants/{id}", Administrator, delete(tenants::delete))
            .summary("Delete a tenant with its keys and rows")
            .gives(204, Body::None),
        Route::new("GET", "/api/v1/tenants/{id}/keys", TenantAdmin, get(keys::list))
            .summary("List a tenant's keys")
            .gives(200, Body::Json(schema::<key_api::KeyList>)),
        Route::new("POST", "/api/v1/tenants/{id}/keys", TenantAdmin, post(keys::create))
            .summary("Create a key; the reply is the only one that shows it")
            .takes(Body::Json(schema::<key_api::KeyCreate>))
            .gives(201, Body::Json(schema::<key_api::KeyCreated>)),
        Route::new("DELETE", "/api/v1/tenants/{id}/keys/{key}", TenantAdmin, delete(keys::revoke))
            .summary("Revoke a key, at once")
            .gives(204, Body::None),
        Route::new(
            "POST",
            "/api/v1/tenants/{id}/streams/{stream}/expire",
            Administrator,
            post(tenants::expire),
        )
        .summary("Let retention remove more than half of a table at once, which it does not do by itself")
        .gives(204, Body::None),
        Route::new("GET", "/health", Anyone, get(health::report))
            .summary("How the parts of the server are")
            .gives(200, Body::Json(schema::<health_api::HealthReport>)),
        Route::new("GET", "/health/live", Anyone, get(health::live))
            .summary("Whether the process runs")
            .gives(200, Body::Json(schema::<health_api::HealthProbe>)),
        Route::new("GET", "/health/ready", Anyone, get(health::ready))
            .summary("Whether the server takes requests")
            .gives(200, Body::Json(schema::<health_api::HealthProbe>)),
        Route::new("GET", "/metrics", Anyone, get(metrics::metrics))
            .summary("Metrics for Prometheus: with an administrator's key of every tenant, with a tenant's key its own, without one sums that name no tenant")
            .gives(200, Body::Other("text/plain; version=0.0.4", "The Prometheus text format.")),
        Route::new("GET", "/api/openapi.json", Anyone, get(openapi))
            .summary("This description")
            .gives(200, Body::Other("application/json", "OpenAPI 3.1.")),
    ]);
    routes
}

async fn openapi(State(_): State<Arc<App>>) -> Response {
    ([(CONTENT_TYPE, "application/json")], document().to_string()).into_response()
}

/// The OpenAPI document of the main port.
pub fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let problem = schema::<problem_api::Problem>(&mut generator).to_value();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes() {
        let parameters: Vec<Value> = route
            .path
            .split(['{', '}'])
            .skip(1)
            .step_by(2)
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .chain(parameters_of(route.path))
            .collect();
        let mut operation = json!({
            "summary": route.summary,
            "description": format!("Needs {}.", route.access.text()).replace("Needs no key needed", "No key is needed"),
            "responses": {
                route.status.to_string(): reply(route.status, route.reply, &mut generator),
                "default": {
                    "description": "The request failed.",
                    "content": {problem_api::MEDIA_TYPE: {"schema": problem}},
                },
            },
        });
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(content) = content(route.request, &mut generator) {
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        if !matches!(route.access, Access::Anyone | Access::WriteKey) {
            operation["security"] = json!([{"bearer": []}, {"apiKey": []}, {"basic": []}]);
        }
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.to_ascii_lowercase()] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weir",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "basic": {"type": "http", "scheme": "basic", "description": "The key is the user name."},
            },
        },
    })
}

/// The parameters in the query of an address.
fn parameters_of(path: &str) -> Vec<Value> {
    let parameter = |name: &str, kind: &str, description: &str| json!({"name": name, "in": "query", "required": false, "description": description, "schema": {"type": kind}});
    let condition = || parameter("where", "string", "A condition in SQL that rows must meet.");
    let limit = || parameter("limit", "integer", "The end after this many rows.");
    match path {
        "/api/v1/tail/{stream}" => vec![condition(), limit()],
        "/api/v1/pipelines/{name}/tap" => vec![
            parameter("part", "string", "The id of the part whose rows are shown; the first sink if absent."),
            condition(),
            parameter("every", "integer", "Show one row of so many."),
            limit(),
        ],
        "/api/v1/pipelines/{name}/deadletters" => vec![
            parameter("since", "string", "Only those set aside since then, RFC 3339."),
            parameter(
                "class",
                "string",
                "Only those of this class: `malformed`, `no_time`, `failed`, `over_limit` or `refused`.",
            ),
            parameter("step", "string", "Only those that this source or step has set aside."),
            parameter("all", "boolean", "Also those that were run again."),
            parameter("limit", "integer", "At most so many; 100 if absent, at most 10000."),
        ],
        _ => Vec::new(),
    }
}

fn content(body: Body, generator: &mut SchemaGenerator) -> Option<Value> {
    match body {
        Body::None => None,
        Body::Json(schema) => Some(json!({"application/json": {"schema": schema(generator).to_value()}})),
        Body::Other(media_type, description) => Some(json!({media_type: {"schema": {"description": description}}})),
    }
}

fn reply(status: u16, body: Body, generator: &mut SchemaGenerator) -> Value {
    let description = match (status, body) {
        (_, Body::Other(_, description)) => description,
        (201, _) => "Created.",
        (204, _) => "Done.",
        _ => "The answer.",
    };
    match content(body, generator) {
        Some(content) => json!({"description": description, "content": content}),
        None => json!({"description": description}),
    }
}

/// The reference page of the HTTP API, made from the same table.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# HTTP API\n\n\
         <!-- Made from the route table by `cargo xtask gen`; do not edit. -->\n\n\
         The whole API with its types is at `/api/openapi.json` of a running server. Errors are\n\
         `application/problem+json` with a stable `code`. Keys are sent as `Authorization: Bearer KEY`,\n\
         `X-API-Key: KEY`, or as the user name of HTTP Basic.\n\n\
         | route | what it does | who may |\n|---|---|---|\n",
    );
    for route in routes() {
        let line = format!("| `{} {}` | {} | {} |\n", route.method, route.path, route.summary, route.access.text());
        page.push_str(&line);
    }
    page
}
