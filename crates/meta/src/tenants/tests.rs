#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use weir_base::ErrorKind;
use weir_base::clock::ManualClock;
use weir_base::error::Kinded;
use weir_base::quantity::{ByteSize, Span};
use weir_base::secret::Secret;

use super::*;

fn open(path: &Path) -> Arc<Meta> {
    Meta::open(&path.join("meta.db"), Secret::new([7; 32]), ManualClock::new(Timestamp(5))).unwrap()
}

fn id(text: &str) -> TenantId {
    TenantId::new(text).unwrap()
}

fn create(meta: &Meta, tenant: &str) -> Tenant {
    meta.create_tenant(NewTenant { id: id(tenant), name: String::new(), tier: Tier::Free }).unwrap()
}

#[test]
fn tenants_are_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(directory.path());
    create(&meta, "acme");
    let patch = TenantPatch {
        name: Some("Acme".into()),
        tier: Some(Tier::Paid),
        overrides: Some(json!({ "keys_max": 3, "retention": "2d", "body_bytes_max": "1MiB", "rows_per_second": 0 })),
        settings: Some(TenantSettings {
            allowed_origins: vec!["https://shop.example".into()],
            durability: Durability::Memory,
            sessions: SessionSettings { gap: Some(Span(Duration::from_secs(60))), ..SessionSettings::default() },
        }),
    };
    let changed = meta.update_tenant(&id("acme"), patch).unwrap();
    assert_eq!(changed.limits.keys_max, 3);
    assert_eq!(changed.limits.body_bytes_max, ByteSize(1 << 20));
    assert_eq!(changed.limits.queries_concurrent_max, Limits::of_tier(Tier::Paid).queries_concurrent_max);
    drop(meta);
    let meta = open(directory.path());
    assert_eq!(meta.tenant(&id("acme")).unwrap(), Some(changed));
    let all: Vec<_> = meta.tenants().unwrap().iter().map(|tenant| tenant.id.to_string()).collect();
    assert_eq!(all, ["acme", "system"]);
    // `null` takes an override away; the others stay.
    let patch = TenantPatch { overrides: Some(json!({ "keys_max": null })), ..TenantPatch::default() };
    let changed = meta.update_tenant(&id("acme"), patch).unwrap();
    assert_eq!(changed.limits.keys_max, Limits::of_tier(Tier::Paid).keys_max);
    assert_eq!(changed.limits.retention, Span(Duration::from_secs(2 * 86_400)));
}

#[test]
fn all_problems_of_a_patch_are_reported_and_nothing_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(directory.path());
    create(&meta, "acme");
    let patch = TenantPatch {
        name: Some("x".repeat(201)),
        tier: None,
        overrides: Some(json!({ "key_max": 3, "retention": "2 weeks", "body_bytes_max": 0, "keys_max": -1, "zzz": 1 })),
        settings: Some(TenantSettings {
            allowed_origins: vec!["shop.example".into(), "*".into(), "https://a.example:99999".into()],
            durability: Durability::Disk,
            sessions: SessionSettings {
                enabled: None,
                gap: Some(Span(Duration::from_millis(10))),
                conversions: Some(vec!["ok".into(), String::new(), "${env:X}".into()]),
            },
        }),
    };
    let error = meta.update_tenant(&id("acme"), patch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    let MetaError::Invalid(problems) = error else { panic!("{error}") };
    let shown: Vec<String> = problems.iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect();
    assert_eq!(
        shown,
        [
            "/name: a name of 201 bytes is longer than 200",
            "/overrides/body_bytes_max: must be more than 0",
            "/overrides/key_max: there is no limit `key_max`",
            "/overrides/keys_max: invalid value: integer `-1`, expected u64",
            "/overrides/retention: `2 weeks` is not a duration such as 250ms, 10s or 24h",
            "/overrides/zzz: there is no limit `zzz`",
            "/settings/allowed_origins/0: `shop.example` is not a site",
            "/settings/allowed_origins/2: `https://a.example:99999` is not a site",
            "/settings/sessions/gap: 10ms is no gap",
            "/settings/sessions/conversions/1: a name has 1 to 200 bytes, no control character and no ${",
            "/settings/sessions/conversions/2: a name has 1 to 200 bytes, no control character and no ${",
        ]
    );
    assert_eq!(problems[2].hint, "did you mean `keys_max`?");
    assert_eq!(meta.tenant(&id("acme")).unwrap().unwrap().name, "acme");
}

#[test]
fn deleting() {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(directory.path());
    create(&meta, "acme");
    let kind = |result: Result<bool, MetaError>| result.unwrap_err().kind();
    assert_eq!(kind(meta.delete_tenant(&id("nobody"))), ErrorKind::NotFound);
    assert_eq!(kind(meta.delete_tenant(&TenantId::system())), ErrorKind::Conflict);
    assert!(meta.delete_tenant(&id("acme")).unwrap());
    assert!(!meta.delete_tenant(&id("acme")).unwrap());
    assert_eq!(meta.tenant(&id("acme")).unwrap(), None);
    assert_eq!(meta.tenant_state(&id("acme")).unwrap(), TenantState::Deleted);
    assert_eq!(meta.tenant_state(&id("nobody")).unwrap(), TenantState::Unknown);
    assert!(meta.tenants().unwrap().iter().any(|tenant| tenant.id == id("acme") && tenant.deleted_at.is_some()));
    let again = meta.create_tenant(NewTenant { id: id("acme"), name: String::new(), tier: Tier::Free });
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(meta.update_tenant(&id("acme"), TenantPatch::default()).unwrap_err().kind(), ErrorKind::NotFound);
    let system = meta.create_tenant(NewTenant { id: TenantId::system(), name: String::new(), tier: Tier::Free });
    assert_eq!(system.unwrap_err().to_string(), "tenant `system` exists already");
    meta.purge_tenant(&id("acme")).unwrap();
    assert_eq!(meta.tenant_state(&id("acme")).unwrap(), TenantState::Deleted, "purged");
}

#[test]
fn what_is_not_committed_is_not_seen() {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(directory.path());
    create(&meta, "acme");
    // Everything but the commit itself succeeds.
    let sql = "CREATE TABLE parents (id TEXT PRIMARY KEY);
        CREATE TABLE children (parent TEXT REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED);
        CREATE TRIGGER made AFTER INSERT ON tenants BEGIN INSERT INTO children VALUES ('x'); END;
        CREATE TRIGGER changed AFTER UPDATE ON tenants BEGIN INSERT INTO children VALUES ('x'); END;";
    meta.writer.lock().execute_batch(sql).unwrap();
    let new = NewTenant { id: id("blue"), name: String::new(), tier: Tier::Free };
    assert!(meta.create_tenant(new).unwrap_err().to_string().contains("cannot create"));
    assert_eq!(meta.tenant(&id("blue")).unwrap(), None);
    let patch = TenantPatch { name: Some("Acme".into()), ..TenantPatch::default() };
    assert!(meta.update_tenant(&id("acme"), patch).unwrap_err().to_string().contains("cannot change"));
    assert!(meta.delete_tenant(&id("acme")).unwrap_err().to_string().contains("cannot delete"));
    assert_eq!(meta.tenant(&id("acme")).unwrap().unwrap().name, "acme");
}

#[test]
fn a_damaged_tenant_harms_nobody_else() {
    for column in TENANTS.key.iter().chain(TENANTS.rest).chain(["crc"].iter()) {
        let directory = tempfile::tempdir().unwrap();
        let meta = open(directory.path());
        create(&meta, "acme");
        create(&meta, "blue");
        let sql = format!(
            "UPDATE tenants SET {column} = CASE typeof({column}) WHEN 'integer' THEN {column} + 1
             WHEN 'null' THEN 5 ELSE {column} || 'x' END WHERE id = 'acme'"
        );
        meta.writer.lock().execute(&sql, []).unwrap();
        drop(meta);
        let meta = open(directory.path());
        assert_eq!(meta.damage().len(), 1, "{column}");
        assert!(meta.tenant(&id("blue")).unwrap().is_some());
        assert_eq!(meta.tenants().unwrap().len(), 2, "{column}");
        match meta.tenant(&id("acme")) {
            Ok(None) => {
                assert_eq!(*column, "id");
                assert_eq!(meta.tenant_state(&id("acme")).unwrap(), TenantState::Unknown);
            }
            Err(MetaError::Corrupt(row)) => {
                assert_eq!((row.table, row.key.as_str(), row.tenant), ("tenants", "acme", Some(id("acme"))));
            }
            other => panic!("{column}: {other:?}"),
        }
    }
}

#[test]
fn the_configuration_changes_the_tiers() {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(directory.path());
    create(&meta, "acme");
    let patch = TenantPatch { overrides: Some(json!({ "keys_max": 3 })), ..TenantPatch::default() };
    meta.update_tenant(&id("acme"), patch).unwrap();
    let free = LimitOverrides { keys_max: Some(7), rows_burst: Some(9), ..LimitOverrides::default() };
    meta.set_tier_overrides([(Tier::Free, free)].into());
    let limits = |tenant: &str| Arc::clone(&meta.tenant(&id(tenant)).unwrap().unwrap().limits);
    assert_eq!((limits("acme").keys_max, limits("acme").rows_burst), (3, 9));
    create(&meta, "blue");
    assert_eq!(limits("blue").keys_max, 7);
    assert_eq!(limits("system").keys_max, Limits::of_tier(Tier::Enterprise).keys_max);
}

#[test]
fn origins() {
    let good = [
        "*",
        "https://a.example",
        "http://localhost:3000",
        "https://*.a.example",
        "http://[::1]:80",
        "http://10.0.0.1",
    ];
    let bad = [
        "",
        "a.example",
        "https://",
        "https://a.example/",
        "https://a.example/x",
        "https://a b",
        "ftp://a",
        "https://a:x",
    ];
    assert!(good.iter().all(|origin| is_origin(origin)));
    assert_eq!(bad.iter().filter(|origin| is_origin(origin)).collect::<Vec<_>>(), Vec::<&&str>::new());
}
