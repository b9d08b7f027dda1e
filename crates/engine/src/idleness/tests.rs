#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::lane::Waker;

struct Bench {
    idleness: Idleness,
    /// One of each source.
    lanes: Vec<Arc<Lane>>,
}

impl Bench {
    fn new(groups: &[usize]) -> Self {
        let idleness = Idleness::new(groups);
        let mut lanes = Vec::new();
        for source in 0..groups.len() {
            let lane = Lane::new(Waker::default(), Waker::default(), 10);
            let outlets = Outlets { late: Some(Arc::clone(&lane)), ..Outlets::default() };
            lanes.push(lane);
            idleness.lock().begin(source, &outlets, None, false);
        }
        Self { idleness, lanes }
    }

    /// What each source was told since the last time.
    fn told(&self) -> Vec<Option<i64>> {
        let newest = |lane: &Arc<Lane>| {
            let mut told = None;
            while let Some(message) = lane.pop() {
                match message {
                    Message::Watermark(time) => told = Some(time),
                    other => panic!("{other:?}"),
                }
            }
            told
        };
        self.lanes.iter().map(newest).collect()
    }
}

#[test]
fn who_is_idle_is_as_far_as_the_slowest_other() {
    let bench = Bench::new(&[0, 0, 0]);
    bench.idleness.lock().rise(0, 20);
    bench.idleness.lock().set_idle(2, true);
    assert_eq!(bench.told(), [Some(20), None, None], "nothing is known of the second");
    bench.idleness.lock().rise(1, 10);
    assert_eq!(bench.told(), [None, Some(10), Some(10)]);
    bench.idleness.lock().rise(1, 30);
    assert_eq!(bench.told(), [None, Some(30), Some(20)]);
    bench.idleness.lock().set_idle(2, false);
    bench.idleness.lock().rise(0, 40);
    assert_eq!((bench.told(), bench.idleness.lock().told(2)), (vec![Some(40), None, None], Some(20)));
}

#[test]
fn when_all_are_idle_the_furthest_counts_whoever_fell_silent_first() {
    for order in [[0, 1], [1, 0]] {
        let bench = Bench::new(&[0, 0]);
        bench.idleness.lock().rise(0, 20);
        bench.idleness.lock().rise(1, 4);
        order.iter().for_each(|source| bench.idleness.lock().set_idle(*source, true));
        assert_eq!(bench.told(), [Some(20), Some(20)], "{order:?}");
    }
}

#[test]
fn who_has_nothing_to_wait_for_is_not_followed() {
    let bench = Bench::new(&[0, 0, 0]);
    bench.idleness.lock().rise(0, i64::MAX);
    bench.idleness.lock().rise(1, 7);
    bench.idleness.lock().set_idle(2, true);
    assert_eq!(bench.told(), [Some(i64::MAX), Some(7), Some(7)]);
    bench.idleness.lock().set_idle(1, true);
    assert_eq!(bench.told(), [None; 3], "nor does the end of time come with it");
}

#[test]
fn who_is_read_by_others_does_not_matter() {
    let bench = Bench::new(&[0, 1, 1]);
    bench.idleness.lock().rise(0, 100);
    bench.idleness.lock().rise(1, 5);
    bench.idleness.lock().set_idle(2, true);
    assert_eq!(bench.told(), [Some(100), Some(5), Some(5)]);
}

proptest! {
    /// Time rises in every source, never past one that is to be waited for, and stands nowhere behind all of them.
    #[test]
    fn time_waits_for_who_speaks_and_for_nobody_else(
        events in proptest::collection::vec((0usize..3, prop_oneof![(0i64..1000).prop_map(Some), Just(None)]), 1..60),
    ) {
        let bench = Bench::new(&[0, 0, 0]);
        let (mut own, mut idle) = ([i64::MIN; 3], [false; 3]);
        for (source, event) in events {
            let mut places = bench.idleness.lock();
            match event {
                None => {
                    idle[source] = !idle[source];
                    places.set_idle(source, idle[source]);
                    own[source] = places.told(source).unwrap_or(i64::MIN);
                }
                Some(time) if !idle[source] && time > own[source] => {
                    own[source] = time;
                    places.rise(source, time);
                }
                Some(_) => {}
            }
            let told: Vec<i64> = (0..3).map(|source| places.told(source).unwrap_or(i64::MIN)).collect();
            let slowest = (0..3).filter(|source| !idle[*source]).map(|source| told[source]).min();
            for source in 0..3 {
                let is_right = match slowest {
                    Some(slowest) if idle[source] => told[source] >= slowest,
                    Some(_) => told[source] == own[source],
                    None => told.iter().all(|time| *time == told[source]),
                };
                prop_assert!(is_right, "{source} of {told:?}, {idle:?}");
                own[source] = told[source];
            }
        }
    }
}

#[test]
fn those_read_together_are_a_group_and_a_table_ties_nobody() {
    let step = |step| Input::Step { step, branch: 0 };
    // The first and the second are joined behind a step of the first; the third and the fourth each look into the table.
    let steps = [
        vec![Input::Source(0)],
        vec![step(0), Input::Source(1)],
        vec![Input::Source(2), Input::Source(4)],
        vec![Input::Source(3), Input::Source(4)],
    ];
    let groups = |tables: [bool; 5]| grouped(&tables, steps.iter().map(Vec::as_slice));
    assert_eq!(groups([false, false, false, false, true]), [0, 0, 2, 3, 4]);
    assert_eq!(groups([false; 5]), [0, 0, 3, 3, 3]);
}
