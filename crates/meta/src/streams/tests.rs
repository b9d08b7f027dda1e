#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::datatypes::{DataType, Field};
use weir_base::clock::ManualClock;
use weir_base::error::Kinded;
use weir_base::secret::Secret;
use weir_base::{ErrorKind, Timestamp};

use super::*;
use crate::limits::Tier;
use crate::tenants::NewTenant;

fn open(path: &std::path::Path) -> Arc<Meta> {
    let clock = ManualClock::new(Timestamp(1_700_000_000_000_000_000));
    Meta::open(&path.join("meta.db"), Secret::new([7; 32]), clock).unwrap()
}

fn id(text: &str) -> TenantId {
    TenantId::new(text).unwrap()
}

fn columns(names: &[&str]) -> Schema {
    Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect::<Vec<_>>())
}

fn fixture() -> (tempfile::TempDir, Arc<Meta>) {
    let directory = tempfile::tempdir().unwrap();
    let meta = open(directory.path());
    for tenant in ["acme", "blue"] {
        meta.create_tenant(NewTenant { id: id(tenant), name: String::new(), tier: Tier::Free }).unwrap();
    }
    (directory, meta)
}

fn names(meta: &Meta, tenant: &str, stream: &str) -> Vec<String> {
    let stream = meta.streams().get(&id(tenant), stream).unwrap();
    stream.schema.fields().iter().skip(3).map(|field| field.name().clone()).collect()
}

#[test]
fn definitions_outlive_the_process_and_grow_at_the_end() {
    let (directory, meta) = fixture();
    meta.define_stream(&id("acme"), "slow", &columns(&["a", "b"]), &[]).unwrap();
    meta.define_stream(&id("acme"), "slow", &columns(&["c", "a"]), &[]).unwrap();
    meta.define_stream(&id("blue"), "slow", &columns(&["x"]), &[]).unwrap();
    assert_eq!(names(&meta, "acme", "slow"), ["a", "b", "c"]);
    drop(meta);
    let meta = open(directory.path());
    assert_eq!(meta.damage(), []);
    assert_eq!(names(&meta, "acme", "slow"), ["a", "b", "c"]);
    assert_eq!(names(&meta, "blue", "slow"), ["x"]);
    // What is there already costs no transaction, and nothing is taken away.
    meta.define_stream(&id("acme"), "slow", &columns(&["b"]), &[]).unwrap();
    assert_eq!(names(&meta, "acme", "slow"), ["a", "b", "c"]);
    let wrong = Schema::new(vec![Field::new("a", DataType::Utf8, true)]);
    assert_eq!(meta.define_stream(&id("acme"), "slow", &wrong, &[]).unwrap_err().kind(), ErrorKind::Input);
    for name in ["events", "_rejected", "_own", "Slow", ""] {
        assert_eq!(
            meta.define_stream(&id("acme"), name, &columns(&[]), &[]).unwrap_err().kind(),
            ErrorKind::Input,
            "{name}"
        );
    }
    assert_eq!(meta.define_stream(&id("nobody"), "slow", &columns(&[]), &[]).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn the_streams_of_a_tenant_go_with_it() {
    let (directory, meta) = fixture();
    for tenant in ["acme", "blue"] {
        meta.define_stream(&id(tenant), "slow", &columns(&["a"]), &[]).unwrap();
    }
    meta.delete_tenant(&id("acme")).unwrap();
    meta.purge_tenant(&id("acme")).unwrap();
    assert!(meta.streams().get(&id("acme"), "slow").is_none());
    drop(meta);
    let meta = open(directory.path());
    assert!(meta.streams().get(&id("acme"), "slow").is_none());
    assert!(meta.streams().get(&id("blue"), "slow").is_some());
    assert_eq!(meta.damage(), []);
}

/// A flipped bit, or a row that is gone, is told; nobody defines over it.
#[test]
fn a_damaged_or_lost_definition_is_told_and_not_defined_anew() {
    for damage in
        ["UPDATE streams SET columns = zeroblob(8) WHERE tenant = 'acme'", "DELETE FROM streams WHERE tenant = 'acme'"]
    {
        let (directory, meta) = fixture();
        for tenant in ["acme", "blue"] {
            meta.define_stream(&id(tenant), "slow", &columns(&["a"]), &[]).unwrap();
        }
        meta.writer.lock().execute_batch(damage).unwrap();
        drop(meta);
        let meta = open(directory.path());
        assert!(!meta.damage().is_empty(), "{damage}");
        assert!(meta.streams().get(&id("acme"), "slow").is_none(), "{damage}");
        let error = meta.define_stream(&id("acme"), "slow", &columns(&["b"]), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damage}");
        meta.define_stream(&id("blue"), "slow", &columns(&["b"]), &[]).unwrap();
    }
}
