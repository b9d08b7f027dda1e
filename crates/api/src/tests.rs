//! The JSON of the types is contract: these are the shapes the documentation shows.
#![allow(clippy::unwrap_used, reason = "tests")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::ingest::{Durability, IngestReply, RowError};
use crate::key::{KeyCreate, Scope};
use crate::problem::{LimitPassed, Problem};
use crate::query::{QueryReply, QueryRequest};
use crate::tail::{TailMessage, TailParameters};
use crate::tenant::{TenantCreate, TenantSettings, Tier};

fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T, expected: Value) {
    assert_eq!(serde_json::to_value(value).unwrap(), expected);
    assert_eq!(&serde_json::from_value::<T>(expected).unwrap(), value);
}

#[test]
fn shapes() {
    check(
        &IngestReply {
            received: 2,
            stored: 1,
            rejected: 1,
            errors: vec![RowError {
                index: 1,
                field: "/depth".into(),
                code: "out_of_range".into(),
                message: "depth must lie in 0 to 100".into(),
            }],
            ..IngestReply::default()
        },
        json!({"received": 2, "stored": 1, "deduplicated": 0, "rejected": 1, "errors": [
            {"index": 1, "field": "/depth", "code": "out_of_range", "message": "depth must lie in 0 to 100"}]}),
    );
    check(
        &IngestReply { durability: Durability::Memory, ..IngestReply::default() },
        json!({"received": 0, "stored": 0, "deduplicated": 0, "rejected": 0, "errors": [], "durability": "memory"}),
    );
    check(
        &KeyCreate { scopes: vec![Scope::Ingest, Scope::Query], ..KeyCreate::default() },
        json!({"scopes": ["ingest", "query"]}),
    );
    check(
        &Problem {
            r#type: "urn:weir:problem:too_large".into(),
            title: "Payload Too Large".into(),
            status: 413,
            code: "too_large".into(),
            detail: "the body is larger than 16 bytes".into(),
            pointer: None,
            hint: None,
            limit: Some(LimitPassed { name: "body_bytes_max".into(), value: 16, current: Some(17) }),
            errors: Vec::new(),
            retry_after: None,
            request_id: Some("r".into()),
        },
        json!({"type": "urn:weir:problem:too_large", "title": "Payload Too Large", "status": 413,
            "code": "too_large", "detail": "the body is larger than 16 bytes",
            "limit": {"name": "body_bytes_max", "value": 16, "current": 17}, "request_id": "r"}),
    );
    check(&TailMessage::Skipped { rows: 3 }, json!({"kind": "skipped", "rows": 3}));
}

#[test]
fn requests_have_defaults_and_refuse_unknown_fields() {
    let tenant: TenantCreate = serde_json::from_value(json!({"id": "shop", "name": "Shop", "tier": "paid"})).unwrap();
    assert_eq!((tenant.tier, tenant.settings), (Tier::Paid, TenantSettings::default()));
    let query: QueryRequest = serde_json::from_value(json!({"sql": "select 1"})).unwrap();
    assert!(query.params.is_empty());
    let tail: TailParameters = serde_json::from_value(json!({"where": "x > 1"})).unwrap();
    assert_eq!(tail.predicate.as_deref(), Some("x > 1"));
    assert!(serde_json::from_value::<TenantCreate>(json!({"id": "shop", "teir": "paid"})).is_err());
    assert!(serde_json::from_value::<KeyCreate>(json!({"scopes": [], "scope": "ingest"})).is_err());
    // A reply of a newer server has more fields.
    assert!(serde_json::from_value::<QueryReply>(json!({"columns": [], "rows": [], "stats": {"new": 1}})).is_ok());
}
