#![allow(clippy::unwrap_used, reason = "tests")]

use expect_test::expect;

use super::*;

#[test]
fn text_format() {
    let requests: Family<Counter, 2> = Family::new("weir_requests_total", "requests", ["tenant", "route"]);
    requests.with(["b", "/x"]).add(2);
    requests.with(["a", "quote\"back\\line\n"]).add(1);
    let took: Family<Histogram, 0> = Family::new("weir_took_seconds", "time", []);
    took.with([]).observe(Duration::from_millis(2));
    took.with([]).observe(Duration::from_secs(11));
    let mut samples = Vec::new();
    requests.samples(&mut samples);
    took.samples(&mut samples);
    samples.push(gauge("weir_open", "open", 7));
    expect![[r#"
        # HELP weir_requests_total requests
        # TYPE weir_requests_total counter
        weir_requests_total{tenant="a",route="quote\"back\\line\n"} 1
        weir_requests_total{tenant="b",route="/x"} 2
        # HELP weir_took_seconds time
        # TYPE weir_took_seconds histogram
        weir_took_seconds_bucket{le="0.0005"} 0
        weir_took_seconds_bucket{le="0.001"} 0
        weir_took_seconds_bucket{le="0.0025"} 1
        weir_took_seconds_bucket{le="0.005"} 1
        weir_took_seconds_bucket{le="0.01"} 1
        weir_took_seconds_bucket{le="0.025"} 1
        weir_took_seconds_bucket{le="0.05"} 1
        weir_took_seconds_bucket{le="0.1"} 1
        weir_took_seconds_bucket{le="0.25"} 1
        weir_took_seconds_bucket{le="0.5"} 1
        weir_took_seconds_bucket{le="1"} 1
        weir_took_seconds_bucket{le="2.5"} 1
        weir_took_seconds_bucket{le="10"} 1
        weir_took_seconds_bucket{le="+Inf"} 2
        weir_took_seconds_sum 11.002
        weir_took_seconds_count 2
        # HELP weir_open open
        # TYPE weir_open gauge
        weir_open 7
    "#]]
    .assert_eq(&prometheus_text(&samples));
}

#[test]
fn samples_of_one_metric_stand_together() {
    let of = |sample: Sample, part: &str| Sample { labels: vec![("part", part.to_owned())], ..sample };
    let samples = [
        of(counter("weir_in_total", "in", 1), "a"),
        of(gauge("weir_state_bytes", "state", 2), "a"),
        of(counter("weir_in_total", "in", 3), "b"),
        of(gauge("weir_state_bytes", "state", 4), "b"),
    ];
    expect![[r#"
        # HELP weir_in_total in
        # TYPE weir_in_total counter
        weir_in_total{part="a"} 1
        weir_in_total{part="b"} 3
        # HELP weir_state_bytes state
        # TYPE weir_state_bytes gauge
        weir_state_bytes{part="a"} 2
        weir_state_bytes{part="b"} 4
    "#]]
    .assert_eq(&prometheus_text(&samples));
}

#[test]
fn label_sets_are_bounded() {
    let family: Family<Counter, 1> = Family::new("weir_x_total", "x", ["tenant"]);
    for at in 0..LABEL_SETS_MAX + 100 {
        family.with([&at.to_string()]).add(1);
    }
    let mut samples = Vec::new();
    family.samples(&mut samples);
    assert_eq!(samples.len(), LABEL_SETS_MAX + 1);
    let other = samples.iter().find(|sample| sample.labels[0].1 == "other").unwrap();
    assert_eq!(other.value, Value::Counter(100));
    // A long value takes no room of its own.
    family.with([&"x".repeat(100_000)]).add(1);
    assert_eq!(family.with(["other"]).value(), 101);
}
