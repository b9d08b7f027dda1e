//! Summaries against what all values give, put together in any way.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;

use proptest::prelude::*;

use super::frequent::Frequent;
use super::quantiles::Buckets;

/// Values in parts, in another order, put together from the last part on.
fn parts<T: Clone>(values: &[T], cut: usize, is_turned: bool) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = values.chunks(cut.max(1)).map(<[T]>::to_vec).collect();
    if is_turned {
        parts.reverse();
        parts.iter_mut().for_each(|part| part.reverse());
    }
    parts
}

fn buckets(parts: &[Vec<f64>]) -> Buckets {
    let mut whole = Buckets::default();
    for part in parts {
        let mut one = Buckets::default();
        part.iter().for_each(|value| one.add(*value));
        whole.merge(&one);
    }
    whole
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -1e6_f64..1e6,
        2 => (-300_f64..300.0, any::<bool>()).prop_map(|(power, is_below)| {
            if is_below { -(10_f64.powf(power)) } else { 10_f64.powf(power) }
        }),
        1 => Just(0.0),
        1 => Just(f64::NAN),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn percentiles_do_not_depend_on_the_order(
        values in prop::collection::vec(number(), 1..200),
        cut in 1_usize..50,
    ) {
        let whole = buckets(&parts(&values, values.len(), false));
        prop_assert_eq!(&buckets(&parts(&values, cut, false)), &whole);
        prop_assert_eq!(&buckets(&parts(&values, cut, true)), &whole);
    }

    #[test]
    fn percentiles_are_near(
        values in prop::collection::vec(prop_oneof![-1e9_f64..1e9, Just(0.0)], 1..300),
        percentile in 0.0_f64..=1.0,
    ) {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
        let right = sorted[(percentile * (sorted.len() - 1) as f64).floor() as usize];
        let found = buckets(&[values]).at(percentile).unwrap();
        prop_assert!((found - right).abs() <= 0.0101 * right.abs(), "{found} is far from {right}");
    }
}

#[test]
fn buckets_are_bounded() {
    let mut all = Buckets::default();
    for power in -3000..3000 {
        all.add(10_f64.powf(f64::from(power) / 10.0));
        all.add(-(10_f64.powf(f64::from(-power) / 10.0)));
    }
    let size = format!("{all:?}").matches(": ").count();
    assert!(size < 2 * 4096 + 10, "{size} buckets");
    let (found, right) = (all.at(0.99).unwrap().log10(), 287.9);
    assert!((found - right).abs() < 0.01, "10^{found}");
    assert_eq!(Buckets::default().at(0.5), None);
}

fn frequent(parts: &[Vec<u16>], candidates: usize) -> Frequent {
    let mut whole = Frequent::new(candidates);
    for part in parts {
        let mut one = Frequent::new(candidates);
        part.iter().for_each(|value| one.add(&value.to_be_bytes(), 1));
        // As a checkpoint has it.
        let one = Frequent::parse(&one.to_bytes()).unwrap();
        whole.merge(&one);
    }
    whole
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Values by a power law, so that some are frequent and most are not, in all orders of parts.
    #[test]
    fn frequent_values_do_not_depend_on_the_order(
        seeds in prop::collection::vec(0.0_f64..1.0, 1..4000),
        steepness in 1.0_f64..6.0,
        cut in 50_usize..1500,
        n_values in 1_usize..20,
    ) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 3000")]
        let values: Vec<u16> = seeds.iter().map(|seed| (seed.powf(steepness) * 3000.0) as u16).collect();
        let whole = frequent(&parts(&values, values.len(), false), 32);
        let most = whole.most(n_values);
        for parts in [parts(&values, cut, false), parts(&values, cut, true), parts(&values, values.len(), true)] {
            prop_assert_eq!(&frequent(&parts, 32).most(n_values), &most);
        }
        let mut counts: HashMap<u16, u64> = HashMap::new();
        values.iter().for_each(|value| *counts.entry(*value).or_default() += 1);
        // Counts are never too small, and those that have a larger share than the bound are there.
        for counted in &most {
            let right = counts[&u16::from_be_bytes(counted.value[..].try_into().unwrap())];
            prop_assert!(counted.count >= right);
        }
        let is_exact = counts.len() <= 32;
        let total = values.len() as u64;
        let mut right: Vec<(u64, u16)> = counts.iter().map(|(value, count)| (*count, *value)).collect();
        right.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
        if is_exact {
            let expected: Vec<u64> = right.iter().take(n_values).map(|(count, _)| *count).collect();
            let found: Vec<u64> = most.iter().map(|counted| counted.count).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(whole.error(), 0);
        } else {
            let large = right.iter().filter(|(count, _)| *count >= (2 * total).div_ceil(32)).count();
            prop_assert!(most.len() >= large.min(n_values), "{} of {large} values", most.len());
        }
    }
}

/// However many values there are, what is held is bounded, and what is no state is refused.
#[test]
fn frequent_values_are_bounded() {
    let mut frequent = Frequent::new(64);
    let mut largest = 0;
    for value in 0..200_000_u64 {
        frequent.add(&value.to_be_bytes(), 1);
        frequent.add(&(value % 3).to_be_bytes(), 1);
        if value == 1000 {
            largest = frequent.size();
        }
        assert!(value <= 1000 || frequent.size() <= largest + 4096, "{} after {value}", frequent.size());
    }
    let most = frequent.most(10);
    assert_eq!(most.len(), 3, "the others have no share worth naming");
    assert!(most.iter().all(|counted| counted.count >= 66_666 && counted.count <= 66_667 + frequent.error()));
    let bytes = frequent.to_bytes();
    assert!(Frequent::parse(&bytes[..bytes.len() - 1]).is_none());
    assert!(Frequent::parse(&[]).is_none());
    assert!(Frequent::parse(&[9; 40]).is_none());
}
