#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use super::*;

fn names(names: &[&str]) -> Vec<PartitionName> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn stamp(time: &mut SourceTime, partition: &str, times: &[i64], disorder: i64) -> Option<Vec<i64>> {
    time.stamp(&Arc::from(partition), times, None, disorder).watermarks.map(|watermarks| watermarks.to_vec())
}

#[test]
fn a_row_is_measured_by_the_rows_of_its_partition_before_it() {
    let mut time = SourceTime::default();
    time.set_partitions(&names(&["a", "b"]));
    assert_eq!(stamp(&mut time, "a", &[10, 20, 15, 30], 10), None, "all within the disorder");
    assert_eq!(stamp(&mut time, "a", &[19, 40, 25, 31], 10), Some(vec![20, 20, 30, 30]));
    assert_eq!(stamp(&mut time, "b", &[1, 2], 10), None, "another partition has its own time");
}

#[test]
fn the_slowest_partition_holds_back_the_source() {
    let mut time = SourceTime::default();
    time.set_partitions(&names(&["a", "b"]));
    stamp(&mut time, "a", &[100], 10);
    assert_eq!(time.risen(10), None, "nothing is known of b");
    assert_eq!(time.behind(10), Some("b"));
    stamp(&mut time, "b", &[50], 10);
    assert_eq!(time.risen(10), Some(40));
    assert_eq!(time.risen(10), None);
    assert_eq!(time.behind(10), Some("b"));
    time.set_partitions(&names(&["a"]));
    assert_eq!(time.risen(10), Some(90), "one that has ended holds back nobody");
    time.set_partitions(&names(&["a", "c"]));
    assert_eq!(stamp(&mut time, "c", &[70, 95], 10), Some(vec![90, 90]), "a new one begins where the source is");
}

#[test]
fn a_clock_in_the_future_advances_time_by_the_arrival() {
    let mut time = SourceTime::default();
    let far = time.stamp(&Arc::from("a"), &[1_000, 11], Some(&[10, 12]), 0);
    assert!(far.watermarks.is_none());
    assert_eq!(time.risen(0), Some(11));
}

#[test]
fn a_quiet_partition_does_not_hold_back_and_comes_back_where_the_source_is() {
    let mut time = SourceTime::default();
    time.set_partitions(&names(&["a", "b"]));
    stamp(&mut time, "a", &[100], 0);
    stamp(&mut time, "b", &[10], 0);
    assert_eq!(time.risen(0), Some(10));
    let (idle, half) = (Duration::from_secs(2), Duration::from_secs(1));
    time.quiet(half, idle);
    assert_eq!(time.risen(0), None);
    stamp(&mut time, "a", &[101], 0);
    time.quiet(half, idle);
    assert_eq!(time.risen(0), Some(101), "a has said something in between, b has not");
    let before = serde_json::to_string(&time).unwrap();
    let mut time: SourceTime = serde_json::from_str(&before).unwrap();
    assert_eq!(stamp(&mut time, "b", &[20, 200], 0), Some(vec![101, 101]));
    time.quiet(idle, idle);
    assert_eq!(time.risen(0), None, "if all are idle, time stands still");
}

#[test]
fn a_partition_can_be_idle_beside_busy_ones() {
    let mut time = SourceTime::default();
    time.set_partitions(&names(&["a", "b"]));
    stamp(&mut time, "a", &[100], 0);
    stamp(&mut time, "b", &[10], 0);
    assert_eq!(time.risen(0), Some(10));
    let (idle, half) = (Duration::from_secs(2), Duration::from_secs(1));
    time.quiet_one("b", half, idle);
    stamp(&mut time, "a", &[101], 0);
    assert_eq!(time.risen(0), None);
    time.quiet_one("b", half, idle);
    assert_eq!(time.risen(0), Some(101));
    assert_eq!(time.behind(0), Some("a"));
}

#[test]
fn a_source_is_idle_if_all_it_has_is() {
    let second = Duration::from_secs(1);
    let mut time = SourceTime::default();
    time.quiet(second, second * 2);
    assert!(!time.is_idle());
    time.quiet(second, second * 2);
    assert!(time.is_idle(), "it has no partition at all");
    time.set_partitions(&names(&["a", "b"]));
    assert!(!time.is_idle(), "others wait for what has begun");
    time.quiet_one("a", second * 2, second * 2);
    assert!(!time.is_idle());
    time.quiet(second * 2, second * 2);
    assert!(time.is_idle());
    stamp(&mut time, "b", &[1], 0);
    assert!(!time.is_idle());
}

#[test]
fn what_is_over_for_the_others_is_over_for_all_partitions_of_one_that_follows() {
    let mut time = SourceTime::default();
    time.set_partitions(&names(&["a", "b"]));
    stamp(&mut time, "a", &[100], 0);
    stamp(&mut time, "b", &[10], 0);
    assert_eq!(time.risen(0), Some(10));
    time.follow(Some(5));
    assert_eq!(time.told(), Some(10), "it does not go back");
    time.follow(Some(50));
    // One of which it is heard first meanwhile begins there, too.
    time.set_partitions(&names(&["a", "b", "c"]));
    for name in ["b", "c"] {
        assert_eq!(stamp(&mut time, name, &[49, 50], 0), Some(vec![50, 50]), "{name}");
    }
    assert_eq!(stamp(&mut time, "a", &[99, 100], 0), Some(vec![100, 100]), "it had come further by itself");
    assert_eq!(time.risen(0), None);
    stamp(&mut time, "b", &[60], 0);
    stamp(&mut time, "c", &[70], 0);
    assert_eq!(time.risen(0), Some(60));
}
