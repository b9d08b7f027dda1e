#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::json;

use super::*;

#[test]
fn a_larger_tier_allows_no_less() {
    let gauges = |tier| Limits::of_tier(tier).gauges();
    for (smaller, larger) in [(Tier::Free, Tier::Paid), (Tier::Paid, Tier::Enterprise)] {
        for ((name, small), (_, large)) in gauges(smaller).into_iter().zip(gauges(larger)) {
            assert!(large >= small || large == 0.0, "{name}: {smaller} has {small}, {larger} has {large}");
        }
    }
    assert_eq!(gauges(Tier::Free).len(), Limits::NAMES.len() - 1, "all but retention_by_stream");
}

#[test]
fn limits_survive_json() {
    for tier in Tier::ALL {
        let limits = Limits::of_tier(tier);
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits);
        assert_eq!(Tier::parse(tier.as_str()), Some(tier));
    }
    assert!(serde_json::from_value::<LimitOverrides>(json!({ "unknown": 1 })).is_err());
}

#[test]
fn retention_by_stream_goes_before_retention() {
    let overrides = LimitOverrides::default();
    let merged = overrides.merge(&json!({ "retention_by_stream": { "spans": "3d" }, "retention": "9d" }), "").unwrap();
    let limits = Limits::of_tier(Tier::Free).with(&merged);
    let stream = |name| StreamName::new(name).unwrap();
    assert_eq!(limits.retention_of(&stream("spans")), Duration::from_secs(3 * 86_400));
    assert_eq!(limits.retention_of(&stream("logs")), Duration::from_secs(9 * 86_400));
    let problems = overrides.merge(&json!({ "retention_by_stream": { "NO": "3d" } }), "/limits").unwrap_err();
    assert_eq!(problems[0].place, "/limits/retention_by_stream");
}

#[test]
fn overrides_of_overrides() {
    let base = LimitOverrides { keys_max: Some(1), rows_burst: Some(2), ..LimitOverrides::default() };
    let own = LimitOverrides { keys_max: Some(3), ..LimitOverrides::default() };
    let both = own.or(&base);
    assert_eq!((both.keys_max, both.rows_burst), (Some(3), Some(2)));
    assert_eq!(own.merge(&json!([]), "/x").unwrap_err()[0].message, "limits must be an object");
    let zero = LimitOverrides { keys_max: Some(0), rows_per_second: Some(0), ..LimitOverrides::default() };
    assert_eq!(zero.problems(), [("keys_max", "must be more than 0")]);
}

#[test]
fn every_limit_is_documented() {
    let schema = schemars::schema_for!(Limits);
    let properties = schema.get("properties").unwrap().as_object().unwrap();
    assert_eq!(properties.len(), Limits::NAMES.len());
    for (name, property) in properties {
        let text = property.get("description").and_then(|text| text.as_str()).unwrap_or("");
        assert!(text.ends_with('.'), "{name}: {text}");
    }
}
