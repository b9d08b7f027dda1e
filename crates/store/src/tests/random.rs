//! Random histories against a model: after every step, every table shows exactly what was
//! committed, and every pinned snapshot still shows what it showed when it was taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use crate::Snapshot;
use crate::testing::{Bench, Fault, ids, log_rows, stream, tenant};
use weir_data::attributes::AttributeKind;

#[derive(Clone, Debug)]
enum Step {
    /// So many rows for a tenant, at these seconds.
    Append(u8, Vec<i16>),
    Flush(u8),
    FlushAll,
    Compact,
    MergeTails,
    Pin(u8),
    Unpin,
    Unlink,
    Release,
    Reopen,
    Fault(Fault),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_u8, prop::collection::vec(-20_000..3_000_i16, 1..20)).prop_map(|(at, rows)| Step::Append(at, rows)),
        3 => (0..3_u8).prop_map(Step::Flush),
        1 => Just(Step::FlushAll),
        3 => Just(Step::Compact),
        2 => Just(Step::MergeTails),
        2 => (0..3_u8).prop_map(Step::Pin),
        1 => Just(Step::Unpin),
        2 => Just(Step::Unlink),
        1 => Just(Step::Release),
        1 => Just(Step::Reopen),
        1 => prop_oneof![Just(Fault::Refused), Just(Fault::Unheard), Just(Fault::Silent), Just(Fault::Late)].prop_map(Step::Fault),
    ]
}

const TENANTS: [&str; 3] = ["a", "b", "c"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn tables_show_what_was_committed(steps in prop::collection::vec(step(), 1..60), budget in 500..20_000_u64) {
        let mut bench = Bench::new(|options| {
            options.tail_bytes_max = budget;
            options.flush_bytes = 6_000;
            options.compaction_files_max = 3;
            options.compaction_memory_max = 100_000;
            options.row_group_rows_max = 16;
            options.promoted_keys_max = 2;
        });
        bench.catalogue.declare("id", AttributeKind::Number);
        let mut model: BTreeMap<&str, Vec<i64>> = TENANTS.iter().map(|name| (*name, Vec::new())).collect();
        let mut pinned: Vec<(Arc<Snapshot>, Vec<i64>)> = Vec::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Append(at, seconds) => {
                    let name = TENANTS[usize::from(at)];
                    let rows: Vec<(i64, i64)> = (next..).zip(seconds.iter().map(|second| i64::from(*second))).collect();
                    next += rows.len() as i64;
                    model.get_mut(name).unwrap().extend(rows.iter().map(|(id, _)| *id));
                    bench.append(name, "logs", log_rows(&rows));
                }
                // What a fault makes of these is the point: the rows must be right either way.
                Step::Flush(at) => {
                    let _ = bench.store.flush(&tenant(TENANTS[usize::from(at)]), &stream("logs"));
                }
                Step::FlushAll => {
                    let _ = bench.store.flush_all();
                }
                Step::Compact => {
                    let _ = bench.store.compact_once();
                }
                Step::MergeTails => bench.store.merge_tails(),
                Step::Pin(at) => {
                    let name = TENANTS[usize::from(at)];
                    pinned.push((bench.snapshot(name, "logs"), model[name].clone()));
                }
                Step::Unpin => {
                    if !pinned.is_empty() {
                        pinned.remove(0);
                    }
                }
                Step::Unlink => bench.store.unlink_retired(),
                Step::Release => bench.store.release(),
                Step::Reopen => {
                    pinned.clear();
                    bench.reopen().unwrap();
                }
                Step::Fault(fault) => bench.catalogue.fail_next(fault),
            }
            prop_assert!(!bench.store.stats().fenced);
            for (name, rows) in &model {
                prop_assert_eq!(&bench.ids(name), rows);
            }
            for (snapshot, rows) in &pinned {
                prop_assert_eq!(&ids(snapshot).unwrap(), rows);
            }
        }
        pinned.clear();
        // What failed is made good: at the latest the second attempt succeeds.
        let _ = bench.store.flush_all();
        let _ = bench.store.flush_all();
        bench.store.flush_all().unwrap();
        let stats = bench.store.stats();
        prop_assert_eq!((stats.tail_memory_bytes, stats.tail_spilled_bytes), (0, 0));
        bench.reopen().unwrap();
        prop_assert_eq!(bench.files_on_disk().len(), bench.catalogue.files().len());
        for (name, rows) in &model {
            prop_assert_eq!(&bench.ids(name), rows);
        }
    }
}
