#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use weir_base::Timestamp;
use weir_base::clock::ManualClock;
use weir_base::secret::Secret;

use super::*;
use crate::limits::Tier;
use crate::tenants::NewTenant;

fn open(path: &Path) -> Arc<Meta> {
    Meta::open(&path.join("meta.db"), Secret::new([7; 32]), ManualClock::new(Timestamp(5))).unwrap()
}

fn fixture(path: &Path) -> Arc<Meta> {
    let meta = open(path);
    for tenant in ["acme", "blue"] {
        meta.create_tenant(NewTenant { id: id(tenant), name: String::new(), tier: Tier::Free }).unwrap();
    }
    meta
}

fn id(text: &str) -> TenantId {
    TenantId::new(text).unwrap()
}

fn key(stream: &str, key: &str, kind: AttributeKind) -> AttributeKey {
    AttributeKey {
        stream: StreamName::new(stream).unwrap(),
        column: "attributes".to_owned(),
        key: key.to_owned(),
        kind,
    }
}

#[test]
fn the_first_kind_stays() {
    use AttributeKind::{Bool, Number, Text};
    let directory = tempfile::tempdir().unwrap();
    let meta = fixture(directory.path());
    let acme = id("acme");
    let first = meta.declare_attributes(&acme, &[key("logs", "a", Number), key("spans", "a", Text)], 10).unwrap();
    // Once more in one call, and of other kinds.
    let second = [key("logs", "a", Text), key("logs", "b", Bool), key("logs", "b", Text)];
    let kinds = meta.declare_attributes(&acme, &second, 10).unwrap();
    assert_eq!(first.get("logs", "attributes", "b"), None, "a snapshot does not change");
    let check = |kinds: &AttributeKinds| {
        assert_eq!(kinds.get("logs", "attributes", "a"), Some(Number));
        assert_eq!(kinds.get("logs", "attributes", "b"), Some(Bool));
        assert_eq!(kinds.get("spans", "attributes", "a"), Some(Text));
        assert_eq!(kinds.get("logs", "resource", "a"), None);
        assert_eq!((kinds.len("logs"), kinds.len("spans"), kinds.is_empty("events")), (2, 1, true));
        assert_eq!(kinds.keys("logs", "attributes").count(), 2);
    };
    check(&kinds);
    check(&meta.attribute_kinds(&acme).unwrap());
    assert!(meta.attribute_kinds(&id("blue")).unwrap().is_empty("logs"));
    drop(meta);
    check(&open(directory.path()).attribute_kinds(&acme).unwrap());
}

#[test]
fn past_the_cap_keys_get_no_kind_and_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let meta = fixture(directory.path());
    let keys: Vec<_> = (0..5).map(|at| key("logs", &format!("k{at}"), AttributeKind::Number)).collect();
    let kinds = meta.declare_attributes(&id("acme"), &keys, 3).unwrap();
    assert_eq!((kinds.len("logs"), kinds.refused()), (3, 2));
    let kinds = meta.declare_attributes(&id("acme"), &keys, 3).unwrap();
    assert_eq!((kinds.len("logs"), kinds.refused()), (3, 4));
    let long = [key("spans", &"x".repeat(257), AttributeKind::Bool)];
    assert_eq!(meta.declare_attributes(&id("acme"), &long, 3).unwrap().refused(), 5);
    let kinds = meta.declare_attributes(&id("acme"), &keys, 4).unwrap();
    assert_eq!(kinds.len("logs"), 4, "a raised limit takes effect");
}

#[test]
fn unknown_and_deleted_tenants_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let meta = fixture(directory.path());
    meta.delete_tenant(&id("blue")).unwrap();
    for tenant in ["nobody", "blue"] {
        let keys = [key("logs", "a", AttributeKind::Bool)];
        assert!(matches!(meta.declare_attributes(&id(tenant), &keys, 3), Err(MetaError::NotFound { .. })));
        assert!(meta.attribute_kinds(&id(tenant)).unwrap().is_empty("logs"));
    }
    assert!(!meta.attributes.tenants.read().contains_key(&id("nobody")), "guesses take no room");
}

#[test]
fn concurrent_declarations_agree() {
    let directory = tempfile::tempdir().unwrap();
    let meta = fixture(directory.path());
    let kinds_of_threads = [AttributeKind::Bool, AttributeKind::Number, AttributeKind::Text, AttributeKind::Number];
    let seen: Vec<Vec<AttributeKind>> = std::thread::scope(|scope| {
        let threads = kinds_of_threads.map(|kind| {
            let meta = &meta;
            scope.spawn(move || {
                let declare = |at: usize| {
                    let keys = [key("logs", &format!("k{at}"), kind), key("logs", "shared", kind)];
                    meta.declare_attributes(&id("acme"), &keys, 100).unwrap();
                };
                (0..20).for_each(declare);
                let kinds = meta.attribute_kinds(&id("acme")).unwrap();
                (0..20).map(|at| kinds.get("logs", "attributes", &format!("k{at}")).unwrap()).collect()
            })
        });
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(seen.iter().all(|kinds| *kinds == seen[0]), "{seen:?}");
    drop(meta);
    let stored = open(directory.path()).attribute_kinds(&id("acme")).unwrap();
    assert_eq!(stored.len("logs"), 21);
    let stored: Vec<_> = (0..20).map(|at| stored.get("logs", "attributes", &format!("k{at}")).unwrap()).collect();
    assert_eq!(stored, seen[0], "what was answered is what is stored");
}

#[test]
fn a_damaged_key_stops_reading_but_not_ingest_nor_others() {
    for column in ATTRIBUTE_KEYS.key.iter().chain(ATTRIBUTE_KEYS.rest).chain(["crc"].iter()).skip(1) {
        let directory = tempfile::tempdir().unwrap();
        let meta = fixture(directory.path());
        for tenant in ["acme", "blue"] {
            meta.declare_attributes(&id(tenant), &[key("logs", "a", AttributeKind::Number)], 10).unwrap();
        }
        let value = if *column == "kind" { "'text'".to_owned() } else { format!("{column} || 'x'") };
        let value = if *column == "crc" { "crc + 1".to_owned() } else { value };
        let sql = format!("UPDATE attribute_keys SET {column} = {value} WHERE tenant = 'acme'");
        meta.writer.lock().execute(&sql, []).unwrap();
        drop(meta);
        let meta = open(directory.path());
        let error = meta.attribute_kinds(&id("acme")).unwrap_err();
        assert!(matches!(&error, MetaError::Corrupt(row) if row.tenant == Some(id("acme"))), "{column}: {error}");
        assert!(meta.attribute_kinds(&id("blue")).unwrap().get("logs", "attributes", "a").is_some());
        let kinds = meta.declare_attributes(&id("acme"), &[key("logs", "b", AttributeKind::Bool)], 10).unwrap();
        assert_eq!(kinds.get("logs", "attributes", "b"), Some(AttributeKind::Bool), "{column}");
    }
}
