//! Streams that are written at least once.

use super::*;

fn open_at_once(bench: &Bench, generation: u64, last: Option<(u64, Receipt)>) -> Box<dyn Sink> {
    let write = WriteStream { delivery: Delivery::AtLeastOnce, ..write("out") };
    let plan = bench.streams().sink(&write).unwrap();
    assert_eq!((plan.delivery(), plan.commit_interval(), plan.keeps_rows()), (Delivery::AtLeastOnce, None, false));
    ready(plan.open(numbers(&[]).schema(), Opening { generation, last })).unwrap()
}

/// What is written is in the log before any checkpoint; a kill around any append loses nothing the sink has answered for.
#[test]
fn at_least_once_rows_are_there_at_once_and_after_a_failure_twice_at_most() {
    let bench = Bench::new();
    let mut sink = open_at_once(&bench, 1, None);
    give(sink.as_mut(), &[1, 2]);
    assert_eq!(bench.values("acme", "out", "v"), [1, 2], "nobody has made a checkpoint");
    let receipt = ready(sink.prepare(1)).unwrap();
    ready(sink.commit(1, &receipt)).unwrap();
    assert_eq!(ready(bench.store.list()).unwrap(), [""; 0], "nothing is kept beside the checkpoints");
    for kill in [Kill::Before(2), Kill::After(2)] {
        let bench = Bench::new();
        let mut sink = open_at_once(&bench, 1, None);
        *bench.appends.kill.lock() = Some(kill);
        let values: Vec<i64> = (0..6).collect();
        // What it does not take is given again.
        let mut refused = values.clone();
        refused.retain(|value| ready(sink.write_timed(&numbers(&[*value]), &vec![START.0].into())).is_err());
        assert!(refused.len() < values.len() - 2, "{kill:?}: {refused:?}");
        assert!(ready(sink.prepare(1)).is_err(), "{kill:?}: it must not say that all is safe");
        // The log answers again: what failed goes first, and then all is safe.
        *bench.appends.kill.lock() = None;
        *bench.appends.dead.lock() = false;
        give(sink.as_mut(), &refused);
        ready(sink.prepare(1)).unwrap();
        let mut found = bench.values("acme", "out", "v");
        assert!(found.len() <= values.len() + 1, "{kill:?}: {found:?}");
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, values, "{kill:?}");
    }
}

/// What failed after it was taken is known to have, and tried again where nothing comes after it.
#[test]
fn rows_that_failed_after_they_were_taken_are_settled_without_others() {
    let bench = Bench::new();
    let mut sink = open_at_once(&bench, 1, None);
    assert!(!sink.is_unsettled());
    *bench.appends.kill.lock() = Some(Kill::Before(0));
    give(sink.as_mut(), &[7]);
    assert!(sink.is_unsettled());
    assert!(ready(sink.settle()).is_err() && sink.is_unsettled());
    *bench.appends.kill.lock() = None;
    *bench.appends.dead.lock() = false;
    ready(sink.settle()).unwrap();
    assert!(!sink.is_unsettled());
    assert_eq!(bench.values("acme", "out", "v"), [7]);
}

/// One that delivered exactly once and does not any more carries out what was decided.
#[test]
fn a_sink_that_is_to_be_quicker_settles_what_was_decided() {
    let bench = Bench::new();
    let mut sink = open_sink(&bench, 1, None).unwrap();
    give(sink.as_mut(), &[1, 2]);
    let receipt = ready(sink.prepare(1)).unwrap();
    drop(sink);
    let mut sink = open_at_once(&bench, 2, Some((1, receipt)));
    give(sink.as_mut(), &[3]);
    assert_eq!(bench.values("acme", "out", "v"), [1, 2, 3]);
    let receipt = ready(sink.prepare(2)).unwrap();
    ready(sink.commit(2, &receipt)).unwrap();
    // And back again.
    drop(open_sink(&bench, 3, Some((2, receipt))).unwrap());
    assert_eq!(bench.values("acme", "out", "v"), [1, 2, 3]);
}
