#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use expect_test::expect;
use proptest::prelude::*;
use weir_base::clock::ManualClock;
use weir_base::{Clock, ErrorKind, Timestamp};

use super::*;
use crate::limits::Tier;
use crate::tenants::NewTenant;

const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

struct Fixture {
    meta: Arc<Meta>,
    clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
}

fn open(path: &Path, clock: &Arc<ManualClock>) -> Arc<Meta> {
    let clock: Arc<ManualClock> = Arc::clone(clock);
    Meta::open(&path.join("meta.db"), Secret::new([7; 32]), clock).unwrap()
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(START);
    let meta = open(directory.path(), &clock);
    for tenant in ["acme", "blue"] {
        meta.create_tenant(NewTenant { id: id(tenant), name: String::new(), tier: Tier::Free }).unwrap();
    }
    Fixture { meta, clock, directory }
}

fn id(text: &str) -> TenantId {
    TenantId::new(text).unwrap()
}

fn new_key(tenant: &str) -> NewKey {
    NewKey {
        tenant: id(tenant),
        kind: KeyKind::Key,
        scopes: Scopes { ingest: true, query: true, admin: false },
        name: "site".to_owned(),
        expires_at: None,
    }
}

fn reason(meta: &Meta, text: &str) -> RefusedReason {
    meta.verify_key(text).unwrap_err().reason
}

#[test]
fn the_form_of_a_key() {
    // The check value of CRC-32 as everybody else computes it.
    assert_eq!(format::crc32(b"123456789"), 0xCBF4_3926);
    let body = format!("weir_key_{}_{}", "0".repeat(12), "0".repeat(43));
    let check: String = format::check_of(&body).iter().map(|byte| char::from(*byte)).collect();
    expect!["weir_key_000000000000_00000000000000000000000000000000000000000002DBOnl"]
        .assert_eq(&format!("{body}{check}"));
    for kind in [KeyKind::Key, KeyKind::Admin] {
        let (id, text) = format::generate(kind.as_str());
        assert_eq!(text.len(), format::KEY_LEN);
        let parsed = format::parse(&text).unwrap();
        assert_eq!((parsed.id, parsed.kind), (id.as_str(), kind.as_str()));
        assert_ne!(format::generate(kind.as_str()).1, text);
    }
}

#[test]
fn a_key_with_any_one_character_changed_is_malformed() {
    let (_, text) = format::generate("key");
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
        assert_eq!(format::parse(std::str::from_utf8(&bytes).unwrap()), None, "character {at}");
        assert_eq!(format::parse(&text[..at]), None, "cut at {at}");
    }
    assert_eq!(format::parse(&format!("{text}0")), None);
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".{0,90}") {
        format::parse(&text);
    }

    /// Of the right length, with bytes of several characters anywhere.
    #[test]
    fn parsing_the_right_length_never_panics(text in "weir_(key|adm)_[0-9A-Za-zäß€_]{40,62}") {
        format::parse(&text);
    }
}

#[test]
fn a_key_is_accepted_with_and_without_its_tenant() {
    let Fixture { meta, clock, directory } = fixture();
    let (record, key) = meta.create_key(new_key("acme")).unwrap();
    let key = key.expose();
    for text in [key.clone(), format!("acme:{key}")] {
        let principal = meta.verify_key(&text).unwrap();
        assert_eq!(principal.tenant, id("acme"));
        assert_eq!(principal.key_id, record.id);
        assert_eq!(principal.scopes, Scopes { ingest: true, query: true, admin: false });
    }
    assert_eq!(meta.keys(&id("acme")).unwrap(), [KeyRecord { last_used_at: Some(START), ..record.clone() }]);
    drop(meta);
    let meta = open(directory.path(), &clock);
    assert!(meta.verify_key(key).is_ok());
    assert_eq!(format!("{:?}", Secret::new(key.clone())), "***");
    let stored = std::fs::read(directory.path().join("meta.db")).unwrap();
    let wal = std::fs::read(directory.path().join("meta.db-wal")).unwrap_or_default();
    let secret = &key.as_bytes()[22..65];
    assert!(![stored, wal].concat().windows(secret.len()).any(|window| window == secret), "the secret is stored");
}

#[test]
fn every_way_to_a_wrong_key_is_refused_alike() {
    let Fixture { meta, clock, .. } = fixture();
    let key = |new: NewKey| meta.create_key(new).unwrap();
    let (_, good) = key(new_key("acme"));
    let (revoked_record, revoked) = key(new_key("acme"));
    meta.revoke_key(&id("acme"), &revoked_record.id).unwrap();
    let (_, expired) = key(NewKey { expires_at: Some(START.plus(Duration::from_secs(10))), ..new_key("acme") });
    assert!(meta.verify_key(expired.expose()).is_ok());
    clock.advance(Duration::from_secs(10));
    let (damaged_record, damaged) = key(new_key("acme"));
    meta.writer.lock().execute("UPDATE keys SET scopes = '[\"admin\"]' WHERE id = ?1", [&damaged_record.id]).unwrap();
    let (_, orphan) = key(new_key("blue"));
    meta.delete_tenant(&id("blue")).unwrap();
    // The right id with another secret, properly checked; and the right secret under the other kind.
    let resealed = |body: String| {
        let check: String = format::check_of(&body).iter().map(|byte| char::from(*byte)).collect();
        format!("{body}{check}")
    };
    let good = good.expose();
    let other_secret = resealed(format!("{}{}", &good[..22], "z".repeat(43)));
    let other_kind = resealed(good[..65].replace("weir_key_", "weir_adm_"));

    let cases = [
        (String::new(), RefusedReason::Malformed),
        ("acme:".to_owned(), RefusedReason::Malformed),
        ("secret".to_owned(), RefusedReason::Malformed),
        (good[1..].to_owned(), RefusedReason::Malformed),
        (format!("{good} "), RefusedReason::Malformed),
        (format!("acme:acme:{good}"), RefusedReason::Malformed),
        (format::generate("key").1, RefusedReason::Unknown),
        (other_secret, RefusedReason::WrongSecret),
        (other_kind, RefusedReason::WrongSecret),
        (format!("blue:{good}"), RefusedReason::OtherTenant),
        (format!(":{good}"), RefusedReason::OtherTenant),
        (format!("ACME:{good}"), RefusedReason::OtherTenant),
        (expired.expose().clone(), RefusedReason::Expired),
        (revoked.expose().clone(), RefusedReason::Revoked),
        (orphan.expose().clone(), RefusedReason::NoTenant),
        (damaged.expose().clone(), RefusedReason::Damaged),
    ];
    // Twice, as the second time the cache answers.
    for (text, expected) in cases.iter().chain(&cases) {
        let refused = meta.verify_key(text).unwrap_err();
        assert_eq!(refused.reason, *expected, "{text}");
        assert_eq!(
            (refused.to_string().as_str(), refused.kind()),
            ("the key is not valid", ErrorKind::Unauthenticated)
        );
    }
    assert!(meta.verify_key(good).is_ok());
}

#[test]
fn any_damaged_column_refuses_that_key_only() {
    for column in KEYS.key.iter().chain(KEYS.rest).chain(["crc"].iter()) {
        let Fixture { meta, .. } = fixture();
        let (_, other) = meta.create_key(new_key("acme")).unwrap();
        let later = Some(START.plus(Duration::from_secs(10)));
        let (record, key) = meta.create_key(NewKey { expires_at: later, ..new_key("acme") }).unwrap();
        meta.writer.lock().pragma_update(None, "foreign_keys", false).unwrap();
        let sql = format!(
            "UPDATE keys SET {column} = CASE typeof({column}) WHEN 'integer' THEN {column} + 1000000
             WHEN 'blob' THEN zeroblob(32) WHEN 'null' THEN 5 ELSE {column} || 'x' END WHERE id = ?1"
        );
        assert_eq!(meta.writer.lock().execute(&sql, [&record.id]).unwrap(), 1);
        let expected = if *column == "id" { RefusedReason::Unknown } else { RefusedReason::Damaged };
        assert_eq!(reason(&meta, key.expose()), expected, "{column}");
        assert!(meta.verify_key(other.expose()).is_ok(), "{column}");
        assert_eq!(meta.keys(&id("acme")).unwrap().len(), 1, "{column}");
    }
}

#[test]
fn a_revoked_key_is_refused_at_once() {
    let Fixture { meta, .. } = fixture();
    let (record, key) = meta.create_key(new_key("acme")).unwrap();
    assert!(meta.verify_key(key.expose()).is_ok());
    assert!(!meta.revoke_key(&id("blue"), &record.id).unwrap(), "another tenant's key");
    assert!(!meta.revoke_key(&id("acme"), "nothing").unwrap());
    assert!(meta.verify_key(key.expose()).is_ok());
    assert!(meta.revoke_key(&id("acme"), &record.id).unwrap());
    assert_eq!(reason(&meta, key.expose()), RefusedReason::Revoked);
    assert!(!meta.revoke_key(&id("acme"), &record.id).unwrap(), "already revoked");
    assert_eq!(meta.keys(&id("acme")).unwrap()[0].revoked_at, Some(START));
}

#[test]
fn a_key_read_before_a_revocation_is_not_kept_after_it() {
    let Fixture { meta, clock, .. } = fixture();
    let (record, key) = meta.create_key(new_key("acme")).unwrap();
    // A reader that is overtaken: it has read the row, then the key is revoked, then it stores.
    let generation = meta.keys.generation();
    let row = read_key(&meta.reader.lock(), &record.id).unwrap().unwrap().unwrap();
    meta.revoke_key(&id("acme"), &record.id).unwrap();
    meta.keys.remember(row, clock.monotonic(), generation);
    assert_eq!(reason(&meta, key.expose()), RefusedReason::Revoked);
}

#[test]
fn a_row_changed_behind_our_back_is_seen_within_a_minute() {
    let Fixture { meta, clock, .. } = fixture();
    let (record, key) = meta.create_key(new_key("acme")).unwrap();
    assert!(meta.verify_key(key.expose()).is_ok());
    meta.writer.lock().execute("DELETE FROM keys WHERE id = ?1", [&record.id]).unwrap();
    clock.advance(Duration::from_secs(60));
    assert_eq!(reason(&meta, key.expose()), RefusedReason::Unknown);
}

#[test]
fn keys_that_would_be_of_no_use_are_not_made() {
    let Fixture { meta, .. } = fixture();
    let check = |new: NewKey, kind: ErrorKind, message: &str| {
        let error = meta.create_key(new).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    };
    check(new_key("nobody"), ErrorKind::NotFound, "there is no tenant `nobody`");
    check(
        NewKey { scopes: Scopes::default(), ..new_key("acme") },
        ErrorKind::Input,
        "/scopes: a key needs a scope (known are ingest, query, admin)",
    );
    check(
        NewKey { kind: KeyKind::Admin, scopes: Scopes::ALL, ..new_key("acme") },
        ErrorKind::Input,
        "/kind: an administrator's key belongs to tenant `system` and has the scope admin",
    );
    check(
        NewKey { expires_at: Some(START), ..new_key("acme") },
        ErrorKind::Input,
        "/expires_at: the time has passed already",
    );
    check(
        NewKey { name: "a\nb".to_owned(), ..new_key("acme") },
        ErrorKind::Input,
        "/name: a name has at most 200 bytes and no control characters",
    );
    let mut records = Vec::new();
    for _ in 0..20 {
        records.push(meta.create_key(new_key("acme")).unwrap().0);
    }
    check(new_key("acme"), ErrorKind::Limit, "the limit keys_max is 20, and 20 are in use");
    meta.revoke_key(&id("acme"), &records[3].id).unwrap();
    meta.create_key(new_key("acme")).unwrap();
}

#[test]
fn the_last_use_is_written_at_most_once_a_minute() {
    let Fixture { meta, clock, directory } = fixture();
    let (_, key) = meta.create_key(new_key("acme")).unwrap();
    assert_eq!(meta.flush_last_used().unwrap(), 0);
    meta.verify_key(key.expose()).unwrap();
    assert_eq!(meta.flush_last_used().unwrap(), 1);
    clock.advance(Duration::from_secs(59));
    meta.verify_key(key.expose()).unwrap();
    assert_eq!(meta.flush_last_used().unwrap(), 0, "less than a minute later");
    clock.advance(Duration::from_secs(1));
    meta.verify_key(key.expose()).unwrap();
    assert_eq!(meta.flush_last_used().unwrap(), 1);
    drop(meta);
    let meta = open(directory.path(), &clock);
    let used = meta.keys(&id("acme")).unwrap()[0].last_used_at;
    assert_eq!(used, Some(START.plus(Duration::from_secs(60))));
}

#[test]
fn a_pepper_of_another_database_is_named() {
    let Fixture { meta, clock, directory } = fixture();
    drop(meta);
    let error = Meta::open(&directory.path().join("meta.db"), Secret::new([8; 32]), clock).unwrap_err();
    assert!(matches!(error, MetaError::WrongPepper), "{error}");
}

#[test]
fn scopes_as_json() {
    let scopes: Scopes = serde_json::from_str(r#"["query","ingest"]"#).unwrap();
    assert_eq!(serde_json::to_string(&scopes).unwrap(), r#"["ingest","query"]"#);
    let error = serde_json::from_str::<Scopes>(r#"["quarry"]"#).unwrap_err();
    assert!(error.to_string().starts_with("`quarry` is not a scope; known are ingest, query, admin"), "{error}");
    assert!(Scopes::ALL.contains(scopes) && !scopes.contains(Scopes::ALL));
}

#[test]
fn a_request_that_stays_open_learns_that_its_key_ended() {
    let Fixture { meta, clock, .. } = fixture();
    let accepted = |new: NewKey| {
        let (_, key) = meta.create_key(new).unwrap();
        meta.verify_key(key.expose()).unwrap()
    };
    let revoked = accepted(new_key("acme"));
    let expiring = accepted(NewKey { expires_at: Some(START.plus(Duration::from_secs(10))), ..new_key("acme") });
    let orphan = accepted(new_key("blue"));
    let kept = accepted(new_key("acme"));
    assert!([&revoked, &expiring, &orphan, &kept].iter().all(|principal| meta.key_holds(principal).unwrap()));
    meta.revoke_key(&id("acme"), &revoked.key_id).unwrap();
    clock.advance(Duration::from_secs(10));
    meta.delete_tenant(&id("blue")).unwrap();
    assert!([&revoked, &expiring, &orphan].iter().all(|principal| !meta.key_holds(principal).unwrap()));
    assert!(meta.key_holds(&kept).unwrap());
}
