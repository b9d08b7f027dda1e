#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use weir_base::clock::ManualClock;
use weir_base::secret::Secret;
use weir_base::{Clock, TenantId, Timestamp};
use weir_meta::Meta;
use weir_meta::keys::{KeyKind, NewKey, Scopes};
use weir_meta::limits::Tier;
use weir_meta::tenants::{NewTenant, TenantPatch, TenantSettings};

use super::failures::Failures;
use super::{AuthError, Authenticator, presented_key};
use crate::problem::Problem;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

#[test]
fn keys_are_found_wherever_they_stand() {
    let check = |lines: &[(&'static str, &str)], body_key: Option<&str>, expected: &str| {
        let found = match presented_key(&headers(lines), body_key) {
            Ok(key) => key.into_owned(),
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(found, expected, "{lines:?} {body_key:?}");
    };
    check(&[("authorization", "Bearer K")], None, "K");
    check(&[("authorization", "bearer   K ")], None, "K");
    check(&[("authorization", "Bearer shop:K")], None, "shop:K");
    check(&[("x-api-key", "K")], None, "K");
    check(&[("authorization", &basic("K:"))], None, "K");
    check(&[("authorization", &basic("K"))], None, "K");
    check(&[("authorization", &basic("shop:K"))], None, "shop:K");
    check(&[], Some("K"), "K");
    // The same key twice is one key.
    check(&[("authorization", "Bearer K"), ("x-api-key", "K")], Some("K"), "K");
    check(&[("authorization", &basic("K:"))], Some("K"), "K");
    check(&[("authorization", "Bearer K"), ("x-api-key", "L")], None, "Ambiguous");
    check(&[("authorization", "Bearer K"), ("authorization", "Bearer L")], None, "Ambiguous");
    check(&[("authorization", "Bearer K")], Some("L"), "Ambiguous");
    check(&[], None, "Missing");
    // Nothing at all is not a key.
    check(&[("authorization", "Bearer ")], None, "Refused");
    check(&[("authorization", "Bearer")], None, "Refused");
    check(&[("authorization", "Digest K")], None, "Refused");
    check(&[("authorization", &basic(":"))], None, "Refused");
    check(&[("authorization", &basic(""))], None, "Refused");
    check(&[("authorization", "Basic !!!")], None, "Refused");
    check(&[("x-api-key", "")], None, "Refused");
    check(&[("x-api-key", "\u{e9}\u{ff}")], None, "\u{e9}\u{ff}");
    check(&[], Some("  "), "Refused");
}

struct Setting {
    _directory: tempfile::TempDir,
    clock: Arc<ManualClock>,
    meta: Arc<Meta>,
    authenticator: Authenticator,
}

fn setting(failures_per_minute_max: u32) -> Setting {
    let directory = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::from_millis(1_800_000_000_000));
    let meta = Meta::open(&directory.path().join("meta.db"), Secret::new([7; 32]), Arc::clone(&clock) as _).unwrap();
    for id in ["shop", "bank"] {
        let new = NewTenant { id: TenantId::new(id).unwrap(), name: id.to_owned(), tier: Tier::Free };
        meta.create_tenant(new).unwrap();
    }
    let authenticator = Authenticator::new(Arc::clone(&meta), Arc::clone(&clock) as _, failures_per_minute_max);
    Setting { _directory: directory, clock, meta, authenticator }
}

impl Setting {
    fn key(&self, tenant: &str, kind: KeyKind, scopes: &[&str]) -> String {
        let new = NewKey {
            tenant: TenantId::new(tenant).unwrap(),
            kind,
            scopes: Scopes::from_names(scopes.iter().copied()).unwrap(),
            name: String::new(),
            expires_at: Some(self.clock.now().plus(Duration::from_secs(3600))),
        };
        self.meta.create_key(new).unwrap().1.expose().clone()
    }

    /// The tenant acted for, or the status and code of the refusal.
    fn ask(&self, lines: &[(&'static str, &str)]) -> String {
        match self.authenticator.authenticate(&headers(lines), None, CLIENT) {
            Ok(caller) => caller.tenant.id.to_string(),
            Err(error) => {
                let problem = Problem::from(error);
                format!("{} {}", problem.http_status().as_u16(), problem.code_text())
            }
        }
    }
}

#[test]
fn the_tenant_is_the_keys_and_only_administrators_choose() {
    let setting = setting(0);
    let key = setting.key("shop", KeyKind::Key, &["ingest"]);
    let admin = setting.key("system", KeyKind::Admin, &["ingest", "query", "admin"]);
    let tenant = "x-weir-tenant";
    for (lines, expected) in [
        (vec![("x-api-key", key.as_str())], "shop"),
        (vec![("x-api-key", &key), (tenant, "shop")], "shop"),
        (vec![("x-api-key", &key), (tenant, "bank")], "403 other_tenant"),
        // The same answer, whether the other tenant exists or not.
        (vec![("x-api-key", &key), (tenant, "nobody")], "403 other_tenant"),
        (vec![("x-api-key", &key), (tenant, "")], "403 other_tenant"),
        (vec![("x-api-key", &key), (tenant, "shop"), (tenant, "shop")], "403 other_tenant"),
        (vec![("x-api-key", &admin)], "system"),
        (vec![("x-api-key", &admin), (tenant, "bank")], "bank"),
        (vec![("x-api-key", &admin), (tenant, "nobody")], "404 not_found"),
        (vec![("x-api-key", &admin), (tenant, "../bank")], "404 not_found"),
        (vec![("x-api-key", &admin), (tenant, "shop|bank")], "404 not_found"),
        (vec![("x-api-key", &admin), (tenant, "shop"), (tenant, "bank")], "403 other_tenant"),
    ] {
        assert_eq!(setting.ask(&lines), expected, "{:?}", &lines[1..]);
    }
    let named = format!("shop:{key}");
    assert_eq!(setting.ask(&[("x-api-key", &named)]), "shop");
    let named = format!("bank:{key}");
    assert_eq!(setting.ask(&[("x-api-key", &named)]), "401 unauthenticated");
}

/// Rows of a sender that has forgotten the header would be among those of the operator, where nobody looks for them.
#[test]
fn an_administrator_says_whose_rows_are_sent() {
    let setting = setting(0);
    let admin = setting.key("system", KeyKind::Admin, &["ingest", "query", "admin"]);
    let caller =
        |lines: &[(&'static str, &str)]| setting.authenticator.authenticate(&headers(lines), None, CLIENT).unwrap();
    let unnamed = caller(&[("x-api-key", &admin)]);
    let refused = Problem::from(unnamed.require_ingest().unwrap_err());
    assert_eq!((refused.http_status().as_u16(), refused.code_text()), (400, "tenant_needed"));
    assert!(refused.message().contains("name the tenant in that header"), "{}", refused.message());
    unnamed.require_query().unwrap();
    for tenant in ["shop", "system"] {
        caller(&[("x-api-key", &admin), ("x-weir-tenant", tenant)]).require_ingest().unwrap();
    }
}

#[test]
fn every_refused_key_gets_the_same_answer() {
    let setting = setting(0);
    let live = setting.key("shop", KeyKind::Key, &["ingest"]);
    let revoked = setting.key("shop", KeyKind::Key, &["ingest"]);
    let id = setting.meta.verify_key(&revoked).unwrap().key_id.clone();
    setting.meta.revoke_key(&TenantId::new("shop").unwrap(), &id).unwrap();
    let orphan = setting.key("bank", KeyKind::Key, &["ingest"]);
    setting.meta.delete_tenant(&TenantId::new("bank").unwrap()).unwrap();
    let mut wrong = live.clone().into_bytes();
    wrong[25] ^= 1;
    let wrong = String::from_utf8(wrong).unwrap();
    let body = |lines: &[(&'static str, &str)]| {
        let error = setting.authenticator.authenticate(&headers(lines), None, CLIENT).unwrap_err();
        serde_json::to_string(&Problem::from(error).body(None)).unwrap()
    };
    let expected = body(&[]);
    assert!(expected.contains("\"status\":401"), "{expected}");
    for key in ["nonsense", "weir_key_000000000000_0", &revoked, &orphan, &wrong] {
        assert_eq!(body(&[("x-api-key", key)]), expected, "{key}");
    }
    setting.clock.advance(Duration::from_secs(3601));
    assert_eq!(body(&[("x-api-key", &live)]), expected, "expired");
}

#[test]
fn scopes_are_asked_for() {
    let setting = setting(0);
    let key = setting.key("shop", KeyKind::Key, &["ingest"]);
    let caller = setting.authenticator.authenticate(&headers(&[("x-api-key", &key)]), None, CLIENT).unwrap();
    caller.require_ingest().unwrap();
    assert!(matches!(caller.require_query(), Err(AuthError::Scope { scope: "query" })));
    assert!(matches!(caller.require_admin(), Err(AuthError::Scope { scope: "admin" })));
    assert!(matches!(caller.require_administrator(), Err(AuthError::NotAdministrator)));
}

#[test]
fn a_tenants_sites_are_applied() {
    let setting = setting(0);
    let key = setting.key("shop", KeyKind::Key, &["ingest"]);
    let settings = TenantSettings { allowed_origins: vec!["https://shop.example".into()], ..TenantSettings::default() };
    let patch = TenantPatch { settings: Some(settings), ..TenantPatch::default() };
    setting.meta.update_tenant(&TenantId::new("shop").unwrap(), patch).unwrap();
    assert_eq!(setting.ask(&[("x-api-key", &key)]), "shop");
    assert_eq!(setting.ask(&[("x-api-key", &key), ("origin", "https://shop.example")]), "shop");
    assert_eq!(setting.ask(&[("x-api-key", &key), ("origin", "https://evil.example")]), "403 origin_not_allowed");
}

#[test]
fn invalid_keys_slow_an_address_down_and_valid_ones_still_pass() {
    let setting = setting(3);
    let key = setting.key("shop", KeyKind::Key, &["ingest"]);
    for _ in 0..3 {
        assert_eq!(setting.ask(&[("x-api-key", "wrong")]), "401 unauthenticated");
    }
    assert_eq!(setting.ask(&[("x-api-key", "wrong")]), "429 auth_failures");
    assert_eq!(setting.ask(&[("x-api-key", &key)]), "shop");
    setting.clock.advance(Duration::from_secs(20));
    assert_eq!(setting.ask(&[("x-api-key", "wrong")]), "401 unauthenticated");
    assert_eq!(setting.ask(&[("x-api-key", "wrong")]), "429 auth_failures");
}

#[test]
fn the_table_of_addresses_is_bounded() {
    let failures = Failures::new(1);
    let address = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
    for n in 0..300_000 {
        assert_eq!(failures.count(address(n), Duration::ZERO), None);
        assert!(failures.len() <= 100_000);
    }
    // The last ones are remembered, the first ones are not; one subscriber's network is one address.
    assert!(failures.count(address(299_999), Duration::ZERO).is_some());
    assert!(failures.count(address(0), Duration::ZERO).is_none());
    assert!(failures.count("2001:db8::1".parse().unwrap(), Duration::ZERO).is_none());
    assert!(failures.count("2001:db8::2".parse().unwrap(), Duration::ZERO).is_some());
    assert!(failures.count("2001:db8:0:1::1".parse().unwrap(), Duration::ZERO).is_none());
}
