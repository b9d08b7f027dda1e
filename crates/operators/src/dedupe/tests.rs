//! Rows that are the same against what sorting all rows first gives.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::json;

use crate::testing::driven::{Instances, Row, acts, batch, run};
use crate::testing::{lines, plan};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_first_rows_are_what_the_sorted_rows_give(
        acts in acts(),
        within in 1_i64..60,
        lateness in prop_oneof![Just(0_i64), 1_i64..25],
        disorder in 0_i64..40,
        slow in 0_u8..3,
    ) {
        let config = json!({
            "by": ["k"], "within": format!("{within}ns"), "lateness": format!("{lateness}ns"),
        });
        let step = plan("dedupe", &config, &batch(&[]).rows.schema(), None).unwrap();
        let ran = run(&step, acts, disorder, lateness, slow, true);
        let mut expected = Vec::new();
        for rows in ran.sorted() {
            let mut kept: Option<i64> = None;
            for row in rows {
                if kept.is_none_or(|kept| row.time - kept >= within) {
                    kept = Some(row.time);
                    expected.push(format!("{} {}", row.key, row.value));
                }
            }
        }
        expected.sort();
        prop_assert_eq!(lines(ran.instances.kept.batches.iter().map(|batch| &batch.rows)), expected);
        let late: usize = ran.instances.kept.asides.iter().map(|aside| aside.rows.num_rows()).sum();
        prop_assert_eq!(late, ran.late);
    }
}

/// A key is known as long as there can be repeats, and no longer, also in checkpoints.
#[test]
fn keys_are_forgotten() {
    let config = json!({"by": ["k"], "within": "100ns"});
    let step = plan("dedupe", &config, &batch(&[]).rows.schema(), None).unwrap();
    let mut instances = Instances::new(&step, 1);
    for time in 0..3000_i64 {
        let rows = [time, time, 7].map(|key| Row { time, key, value: 1, watermark: i64::MIN });
        instances.send(&rows);
        instances.watermark(time + 1);
        if time % 10 == 0 {
            let state = instances.operators[0].snapshot().unwrap();
            let known: usize = state.table("kept").iter().map(|batch| batch.num_rows()).sum();
            assert!(known <= 121, "{known} keys in a checkpoint");
        }
        let known = instances.operators[0].gauges().into_iter().find(|(name, _)| *name == "keys").unwrap().1;
        assert!(known <= 101, "{known} keys");
    }
    instances.watermark(i64::MAX);
    instances.assert_empty();
}

#[test]
fn what_has_no_meaning_is_refused() {
    let refused = |config: serde_json::Value| {
        let faults = plan("dedupe", &config, &batch(&[]).rows.schema(), None).err().unwrap();
        faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        refused(json!({"by": [], "within": "0s"})),
        "/within: within no time there are no repeats; /by: it is not said what is the same"
    );
    assert_eq!(
        refused(json!({"by": ["q"], "within": "1s"})),
        "/by/q: there is no column `q`; did you mean `k`?; the columns here are k, v"
    );
}
