#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use weir_base::clock::ManualClock;
use weir_base::error::Kinded;
use weir_base::secret::Secret;
use weir_base::{Clock, ErrorKind};

use super::*;
use crate::limits::Tier;
use crate::tenants::NewTenant;

fn open(path: &Path, clock: &Arc<ManualClock>) -> Arc<Meta> {
    let clock: Arc<ManualClock> = Arc::clone(clock);
    Meta::open(&path.join("meta.db"), Secret::new([7; 32]), clock).unwrap()
}

fn id(text: &str) -> TenantId {
    TenantId::new(text).unwrap()
}

fn put(tenant: &str, name: &str, document: &str) -> PipelinePut {
    PipelinePut {
        tenant: id(tenant),
        name: name.to_owned(),
        document: document.to_owned(),
        syntax: DocumentSyntax::Yaml,
        anew: false,
        incarnation: None,
        trust: Trust::Tenant,
        wanted: Wanted::Running,
        by: "k1".to_owned(),
    }
}

fn fixture() -> (tempfile::TempDir, Arc<ManualClock>, Arc<Meta>) {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp(1_700_000_000_000_000_000));
    let meta = open(directory.path(), &clock);
    for tenant in ["acme", "blue"] {
        meta.create_tenant(NewTenant { id: id(tenant), name: String::new(), tier: Tier::Free }).unwrap();
    }
    (directory, clock, meta)
}

#[test]
fn a_document_keeps_its_revision_until_it_changes() {
    let (directory, clock, meta) = fixture();
    let first = meta.put_pipeline(put("acme", "visits", "a")).unwrap();
    assert_eq!((first.revision, first.created_at, first.changed_at), (1, clock.now(), clock.now()));
    clock.advance(Duration::from_secs(5));
    let stopped = meta.put_pipeline(PipelinePut { wanted: Wanted::Stopped, ..put("acme", "visits", "a") }).unwrap();
    assert_eq!((stopped.revision, stopped.changed_at, stopped.wanted), (1, first.changed_at, Wanted::Stopped));
    let second = meta.put_pipeline(put("acme", "visits", "b")).unwrap();
    assert_eq!((second.revision, second.created_at, second.changed_at), (2, first.created_at, clock.now()));
    // Who vouches for it is part of what was applied.
    let trusted = PipelinePut { trust: Trust::Administrator, ..put("acme", "visits", "b") };
    assert_eq!(meta.put_pipeline(trusted).unwrap().revision, 3);
    let stopped = meta.want_pipeline(&id("acme"), "visits", Wanted::Stopped).unwrap();
    assert_eq!((stopped.revision, stopped.wanted), (3, Wanted::Stopped));
    assert_eq!(stopped.incarnation, first.incarnation);
    let stopped = PipelinePut { anew: true, wanted: Wanted::Stopped, ..put("acme", "visits", "c") };
    let stopped = meta.put_pipeline(stopped).unwrap();
    assert_ne!(stopped.incarnation, first.incarnation);
    drop(meta);
    let meta = open(directory.path(), &clock);
    assert_eq!(meta.pipeline(&id("acme"), "visits").unwrap(), Some(stopped.clone()));
    assert_eq!(meta.pipelines(&id("acme")).unwrap(), [stopped]);
    meta.delete_pipeline(&id("acme"), "visits").unwrap();
    assert_eq!(meta.pipeline(&id("acme"), "visits").unwrap(), None);
    assert_eq!(meta.delete_pipeline(&id("acme"), "visits").unwrap_err().kind(), ErrorKind::NotFound);
    let unknown = meta.want_pipeline(&id("acme"), "visits", Wanted::Running).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[test]
fn tenants_do_not_see_each_others_pipelines() {
    let (_directory, _clock, meta) = fixture();
    meta.put_pipeline(put("acme", "visits", "a")).unwrap();
    meta.put_pipeline(put("blue", "visits", "b")).unwrap();
    assert_eq!(meta.pipelines(&id("blue")).unwrap()[0].document, "b");
    meta.delete_pipeline(&id("blue"), "visits").unwrap();
    assert_eq!(meta.all_pipelines().unwrap()[0].document, "a");
    assert!(meta.damage().is_empty(), "{:?}", meta.damage());
}

#[test]
fn a_tenant_has_so_many_and_no_more() {
    let (_directory, _clock, meta) = fixture();
    for number in 0..5 {
        meta.put_pipeline(put("acme", &format!("p{number}"), "a")).unwrap();
    }
    let refused = meta.put_pipeline(put("acme", "p5", "a")).unwrap_err();
    assert!(matches!(refused, MetaError::Limit { name: "pipelines_max", value: 5, current: 5 }), "{refused:?}");
    // One that is there can be changed, and others have room of their own.
    meta.put_pipeline(put("acme", "p4", "b")).unwrap();
    meta.put_pipeline(put("blue", "p5", "a")).unwrap();
    let large = "x".repeat(DOCUMENT_BYTES_MAX + 1);
    assert_eq!(meta.put_pipeline(put("blue", "p6", &large)).unwrap_err().kind(), ErrorKind::Input);
    let nobody = meta.put_pipeline(put("nobody", "p", "a")).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
}

#[test]
fn a_deleted_tenant_takes_its_pipelines_along() {
    let (_directory, _clock, meta) = fixture();
    meta.put_pipeline(put("acme", "visits", "a")).unwrap();
    meta.put_pipeline(put("blue", "visits", "b")).unwrap();
    meta.delete_tenant(&id("acme")).unwrap();
    let left: Vec<_> = meta.all_pipelines().unwrap().into_iter().map(|pipeline| pipeline.tenant).collect();
    assert_eq!(left, [id("blue")]);
    meta.purge_tenant(&id("acme")).unwrap();
    assert!(meta.pipelines(&id("acme")).unwrap().is_empty());
}

/// A damaged row costs that pipeline, is named, and can be replaced or deleted.
#[test]
fn damage_costs_one_pipeline() {
    for lost in [false, true] {
        let (directory, clock, meta) = fixture();
        meta.put_pipeline(put("acme", "visits", "a")).unwrap();
        meta.put_pipeline(put("acme", "others", "a")).unwrap();
        let sql = if lost {
            "DELETE FROM pipelines WHERE name = 'visits'"
        } else {
            "UPDATE pipelines SET document = 'b' WHERE name = 'visits'"
        };
        meta.writer.lock().execute_batch(sql).unwrap();
        drop(meta);
        let meta = open(directory.path(), &clock);
        let left: Vec<_> = meta.all_pipelines().unwrap().into_iter().map(|pipeline| pipeline.name).collect();
        assert_eq!(left, ["others"]);
        let damage = meta.damage();
        assert!(damage.iter().any(|row| row.tenant == Some(id("acme")) || row.key == "acme/visits"), "{damage:?}");
        if !lost {
            assert_eq!(meta.pipeline(&id("acme"), "visits").unwrap_err().kind(), ErrorKind::Corrupt);
            assert_eq!(meta.put_pipeline(put("acme", "visits", "c")).unwrap().revision, 1);
            assert_eq!(meta.pipeline(&id("acme"), "visits").unwrap().unwrap().document, "c");
        }
    }
}
