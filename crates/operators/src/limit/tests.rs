//! Rows within a limit against what sorting all rows first gives.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use crate::testing::driven::{acts, batch, run};
use crate::testing::{lines, plan};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_rows_that_pass_are_the_first_ones(
        acts in acts(),
        rows_max in 1_i64..4,
        per in 1_i64..40,
        lateness in prop_oneof![Just(0_i64), 1_i64..25],
        disorder in 0_i64..40,
        slow in 0_u8..3,
        by_key in any::<bool>(),
    ) {
        let mut config = json!({
            "rows": rows_max, "per": format!("{per}ns"), "lateness": format!("{lateness}ns"), "over": "rest",
        });
        if by_key {
            config["by"] = json!(["k"]);
        }
        let step = plan("limit_rate", &config, &batch(&[]).rows.schema(), None).unwrap();
        let ran = run(&step, acts, disorder, lateness, slow, by_key);
        let mut expected = [Vec::new(), Vec::new()];
        for rows in ran.sorted() {
            let mut passed: BTreeMap<i64, i64> = BTreeMap::new();
            for row in rows {
                let passed = passed.entry(row.time.div_euclid(per)).or_default();
                *passed += 1;
                expected[usize::from(*passed > rows_max)].push(format!("{} {}", row.key, row.value));
            }
        }
        for (branch, mut expected) in expected.into_iter().enumerate() {
            expected.sort();
            let kept = &ran.instances.kept;
            let batches = kept.batches.iter().zip(&kept.branches).filter(|(_, of)| **of == branch);
            prop_assert_eq!(lines(batches.map(|(batch, _)| &batch.rows)), expected, "branch {}", branch);
        }
    }
}
