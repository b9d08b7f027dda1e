//! What sinks are owed that do not take what they are given: nobody waits for them, and they are given each row once.

use weir_engine::BreakerOptions;

use super::pacing::{MS, row, running};
use super::*;

impl World {
    /// One whose second sink fails, beside the first, with or without much room for what it is owed.
    fn with_sinks_that_fail(seed: u64) -> Self {
        let mut world = if seed.is_multiple_of(4) { Self::with_decider(seed) } else { Self::new(seed) };
        world.sinks_fail = true;
        let backlog_bytes_max = [1 << 11, 1 << 20][world.seeded.below(2)];
        world.tune(BreakerOptions { backlog_bytes_max, budget: 1_000_000 * INTERVAL, ..BreakerOptions::default() });
        world
    }

    fn tune(&mut self, breaker: BreakerOptions) {
        self.plan.sinks[1].breaker = breaker;
    }

    /// Rows the first sink shows.
    fn seen(&self) -> usize {
        self.results().iter().map(RecordBatch::num_rows).sum()
    }

    /// Sends a row of each partition, for time waits for all of them, and lets some time pass. Whether results were seen then.
    fn goes_on(&mut self, steps: &mut Steps, time: i64, wait: Duration) -> bool {
        self.send(&[0, 1, 2].map(|partition| Row { partition, ..row(1000 * time) }));
        self.settles(steps);
        let seen = self.seen();
        self.clock.advance(wait);
        self.settles(steps);
        self.seen() > seen
    }
}

/// The same as without a sink that fails, whatever crashes beside it.
#[test]
fn what_a_sink_is_owed_it_is_given_once_whatever_crashes() {
    whatever_crashes(World::with_sinks_that_fail);
}

#[test]
fn a_crash_at_any_step_while_a_sink_fails_loses_and_repeats_nothing() {
    World::whatever_is_interrupted(3, World::with_sinks_that_fail, |world, at| {
        let may_fail = |world: &mut World| {
            if world.seeded.below(3) == 0 {
                world.passed.down(world.seeded.below(12));
                world.passed.slow(world.seeded.below(3));
            }
        };
        let crash = |world: &mut World, steps: Steps| {
            drop(steps);
            Ok(world.reopen(true))
        };
        world.run_interrupted(at, may_fail, crash)
    });
}

/// A sink that is down is not waited for by the one beside it: its rows are seen as soon as ever. When it is back, it is given all.
#[test]
fn a_sink_that_is_down_does_not_hold_up_another() {
    let (mut world, _) = running(1);
    world.tune(BreakerOptions { budget: 60 * INTERVAL, ..BreakerOptions::default() });
    world.lane_rows_max = 1000;
    let mut steps = world.open().unwrap().expect("the input has not ended");
    // Windows close all the time in the first sink, and every row goes to the second.
    for time in 0..20 {
        world.goes_on(&mut steps, time, 200 * MS);
    }
    world.clock.advance(INTERVAL);
    world.settles(&mut steps);
    let (before, passed) = (world.seen(), world.passed());
    assert!(before > 10 && passed == 60, "{before} {passed}");
    world.passed.down(usize::MAX);
    for time in 20..220 {
        // However the sink is tried and left alone: 200 ms, as if it were not there.
        assert!(world.goes_on(&mut steps, time, 200 * MS), "{time}");
    }
    assert_eq!(world.passed(), passed);
    // The next process does not wait for it either, and gives it what the one before owed it.
    drop(steps);
    let mut steps = world.open().unwrap().expect("the input has not ended");
    for time in 220..230 {
        assert!(world.goes_on(&mut steps, time, 300 * MS), "{time}");
    }
    world.passed.down(0);
    for _ in 0..20 {
        world.clock.advance(INTERVAL);
        world.settles(&mut steps);
    }
    assert_eq!(world.passed(), 3 * 230);
    assert_eq!(world.store.bytes("box-"), 0, "nothing is owed any more");
    // From then on it is as if it had never been down: nothing is written for it.
    for time in 230..250 {
        assert!(world.goes_on(&mut steps, time, 200 * MS), "{time}");
        assert_eq!(world.store.bytes("box-"), 0, "{time}");
    }
}

/// Nor is one that does not answer, once it was waited for a moment.
#[test]
fn a_sink_that_is_slow_does_not_hold_up_another() {
    let (mut world, _) = running(1);
    world.lane_rows_max = 1000;
    let mut steps = world.open().unwrap().expect("the input has not ended");
    world.passed.slow(usize::MAX);
    for time in 0..200 {
        assert!(world.goes_on(&mut steps, time, 200 * MS) || time < 4, "{time}");
    }
    assert_eq!(world.passed(), 0);
    // It catches up in its own time.
    world.passed.slow(3);
    for _ in 0..4000 {
        world.clock.advance(10 * MS);
        world.settles(&mut steps);
    }
    assert_eq!(world.passed(), 600);
}

/// Nor is one that takes all it is given, a little later than it comes: there is no one call that takes long.
#[test]
fn a_sink_that_falls_behind_does_not_hold_up_another() {
    for lane_rows_max in [1, 1000] {
        let (mut world, _) = running(1);
        world.lane_rows_max = lane_rows_max;
        let mut steps = world.open().unwrap().expect("the input has not ended");
        // Its answers take longer than it takes the next rows to come.
        let (mut seen, mut since, mut longest) = (0, 0, 0);
        world.passed.slow(60);
        for at in 0..1200 {
            world.send(&[Row { partition: at % 3, ..row(1000 * i64::try_from(at).unwrap()) }]);
            world.settles(&mut steps);
            world.clock.advance(10 * MS);
            if at > 200 && world.seen() == seen {
                since += 10;
                longest = longest.max(since);
            } else {
                (seen, since) = (world.seen(), 0);
            }
        }
        assert!(longest <= 320, "no result was seen for {longest} ms");
        assert!(world.passed() < 800, "it was not slow: {}", world.passed());
        world.passed.slow(0);
        for _ in 0..1200 {
            world.clock.advance(10 * MS);
            world.settles(&mut steps);
        }
        assert_eq!(world.passed(), 1200);
    }
}

/// What is owed takes as much room as it may, and then nothing is read any more until some of it was taken.
#[test]
fn what_is_owed_is_bounded_and_the_rest_stays_where_it_is() {
    let (mut world, _) = running(2);
    let backlog_bytes_max = 64 << 10;
    world.tune(BreakerOptions { backlog_bytes_max, budget: 1_000_000 * INTERVAL, ..BreakerOptions::default() });
    (world.lane_rows_max, world.kept_bytes_max) = (10, 4 << 10);
    let mut steps = world.open().unwrap().expect("the input has not ended");
    world.passed.down(usize::MAX);
    for time in 0..3000 {
        world.goes_on(&mut steps, time, 50 * MS);
        let bytes = world.store.bytes("box-") as u64;
        assert!(bytes < 2 * backlog_bytes_max, "{bytes} bytes after {time}");
    }
    let seen = world.seen();
    world.clock.advance(100 * INTERVAL);
    world.settles(&mut steps);
    assert!(seen < 9000 && world.seen() == seen, "there is no room, so all wait: {seen}");
    // Also the next process, which finds no room.
    let mut steps = world.open().unwrap().expect("the input has not ended");
    for _ in 0..10 {
        world.clock.advance(INTERVAL);
        world.settles(&mut steps);
    }
    assert!(world.seen() < 9000 && world.store.bytes("box-") as u64 <= 2 * backlog_bytes_max);
    world.passed.down(0);
    for _ in 0..2000 {
        world.clock.advance(INTERVAL);
        world.settles(&mut steps);
    }
    assert_eq!(world.passed(), 9000);
    assert_eq!(world.store.bytes("box-"), 0);
}

/// Also when it is full the job can be stopped: what comes before its last barrier is let through, which is little.
#[test]
fn a_job_with_no_room_for_what_is_owed_stops_in_time() {
    for (is_slow, lane_rows_max) in [(false, 1), (false, 10), (true, 1), (true, 10)] {
        let (mut world, _) = running(2);
        let backlog_bytes_max = 16 << 10;
        world.tune(BreakerOptions { backlog_bytes_max, budget: 1_000_000 * INTERVAL, ..BreakerOptions::default() });
        (world.lane_rows_max, world.kept_bytes_max) = (lane_rows_max, 4 << 10);
        let mut steps = world.open().unwrap().expect("the input has not ended");
        let fails = |world: &World| if is_slow { world.passed.slow(usize::MAX) } else { world.passed.down(usize::MAX) };
        fails(&world);
        let mut seen = (0, 0);
        for time in 0.. {
            world.goes_on(&mut steps, time, 50 * MS);
            seen = if world.seen() == seen.0 { (seen.0, seen.1 + 1) } else { (world.seen(), 0) };
            if seen.1 > 40 {
                break;
            }
            assert!(time < 3000, "there is always room");
        }
        steps.control().stop();
        let mut waited = Duration::ZERO;
        loop {
            match settle(&mut steps, &mut world.seeded, usize::MAX).unwrap() {
                Rest::Ended(end) => break assert_eq!(end, End::Stopped),
                rest => assert!(waited < 15 * INTERVAL, "{rest:?} after {waited:?}"),
            }
            world.clock.advance(50 * MS);
            waited += 50 * MS;
        }
        let bytes = world.store.bytes("box-") as u64;
        assert!(bytes < 4 * backlog_bytes_max, "{bytes} bytes");
        world.passed.down(0);
        world.passed.slow(0);
        let sent: usize = world.stream_rows();
        let mut steps = world.open().unwrap().expect("the input has not ended");
        for _ in 0..3000 {
            world.clock.advance(INTERVAL);
            world.settles(&mut steps);
        }
        assert_eq!((world.passed(), world.store.bytes("box-")), (sent, 0));
    }
}

/// A sink that has taken much since the last checkpoint and then fails is done without like any other, by the same job.
#[test]
fn a_sink_that_fails_after_it_has_taken_much_does_not_hold_up_another() {
    let (mut world, _) = running(1);
    world.tune(BreakerOptions { budget: 1_000_000 * INTERVAL, ..BreakerOptions::default() });
    (world.lane_rows_max, world.kept_bytes_max) = (1000, 2000);
    world.checkpoint_interval = Some(10 * INTERVAL);
    let mut steps = world.open().unwrap().expect("the input has not ended");
    for time in 0..200 {
        assert!(!world.goes_on(&mut steps, time, 40 * MS), "there is no checkpoint yet");
    }
    assert!(world.store.bytes("box-") > 10_000, "most of it is beside the checkpoints by now");
    world.passed.down(usize::MAX);
    for time in 200..260 {
        world.goes_on(&mut steps, time, 200 * MS);
    }
    assert!(world.seen() > 150 && world.passed() == 0, "{} results are seen", world.seen());
    world.passed.down(0);
    for _ in 0..40 {
        world.clock.advance(INTERVAL);
        world.settles(&mut steps);
    }
    assert_eq!((world.passed(), world.store.bytes("box-")), (3 * 260, 0));
}

/// What is kept in memory for sinks counts as state, and makes room for states.
#[test]
fn rows_for_sinks_leave_memory_where_states_need_it() {
    let (mut world, _) = running(1);
    world.tune(BreakerOptions { budget: 1_000_000 * INTERVAL, ..BreakerOptions::default() });
    world.passed.down(usize::MAX);
    world.kept_bytes_max = 1 << 20;
    let options = JobOptions { state_bytes_max: 400_000, ..world.options() };
    let store: Arc<MemoryStore> = Arc::clone(&world.store);
    let job = Job::open(&world.plan, store, world.clock.clone(), options).now_or_never().unwrap().unwrap();
    let progress = Arc::clone(job.progress());
    let (_, stats) = progress.sinks.iter().find(|(id, _)| id == "passed").unwrap();
    let mut steps = Steps::new(job);
    let mut most = 0;
    for time in 0..400 {
        world.goes_on(&mut steps, time, 10 * MS);
        most = most.max(weir_engine::NodeStats::get(&stats.state_bytes));
    }
    // A sixteenth of all for each of the two kinds and sinks.
    assert!(most > 0 && most <= 400_000 / 16, "{most} bytes");
}

/// A disk that is full makes all wait, and forgets nothing.
#[test]
fn a_store_without_room_for_what_is_owed_is_waited_for() {
    let (mut world, _) = running(3);
    world.kept_bytes_max = 2000;
    let mut steps = world.open().unwrap().expect("the input has not ended");
    for time in 0..10 {
        world.goes_on(&mut steps, time, 200 * MS);
    }
    world.passed.down(30);
    world.store.fail(std::iter::repeat_n(Some(StoreFault::Fails), 12));
    for time in 10..300 {
        world.goes_on(&mut steps, time, INTERVAL);
    }
    for _ in 0..100 {
        world.clock.advance(INTERVAL);
        world.settles(&mut steps);
    }
    assert_eq!(world.passed(), 900);
    assert_eq!(world.store.bytes("box-"), 0);
}

/// A sink that never comes back: the pipeline ends with its failure, once its time is over. All else is in place by then, and
/// who runs the pipeline again gives the sink the rest.
#[test]
fn at_the_end_of_input_a_sink_is_waited_for_as_long_as_it_may_fail() {
    let mut world = World::new(5);
    world.tune(BreakerOptions { budget: 60 * INTERVAL, ..BreakerOptions::default() });
    let mut steps = world.open().unwrap().expect("it has not run yet");
    let rows = world.rows.clone();
    world.send(&rows[..rows.len() / 2]);
    world.settles(&mut steps);
    world.clock.advance(INTERVAL);
    world.settles(&mut steps);
    world.passed.down(usize::MAX);
    world.send(&rows[rows.len() / 2..]);
    world.stream.end();
    let fails = |world: &mut World, mut steps: Steps| {
        for _ in 0..100 {
            match settle(&mut steps, &mut world.seeded, usize::MAX) {
                Ok(rest) => assert!(matches!(rest, Rest::Quiet(_)), "{rest:?}"),
                Err(error) => return error,
            }
            world.clock.advance(INTERVAL);
        }
        panic!("it goes on for ever");
    };
    let error = fails(&mut world, steps);
    assert!(matches!(&error, JobError::Component { node, .. } if node == "passed"), "{error}");
    assert_eq!(world.committed(), world.by_hand().0, "also what was not final before the end");
    // Again, by a process that finds all input read.
    let steps = world.open().unwrap().expect("something is owed");
    let error = fails(&mut world, steps);
    assert!(matches!(&error, JobError::Component { node, .. } if node == "passed"), "{error}");
    // And a last time, with a stop while it is waited for.
    let mut steps = world.open().unwrap().expect("something is owed");
    world.settles(&mut steps);
    steps.control().stop();
    let rest = settle(&mut steps, &mut world.seeded, usize::MAX).unwrap();
    assert_eq!(rest, Rest::Ended(End::Stopped));
    world.passed.down(0);
    let mut steps = world.open().unwrap().expect("something is owed");
    loop {
        match settle(&mut steps, &mut world.seeded, usize::MAX).unwrap() {
            Rest::Ended(end) => break assert_eq!(end, End::Finished),
            _ => world.clock.advance(INTERVAL),
        }
    }
    world.check(5);
    assert!(world.open().unwrap().is_none(), "there is nothing left to do");
}

/// What is owed is not part of a savepoint, so there is none meanwhile; one that is slow is waited for.
#[test]
fn a_savepoint_is_one_of_all_rows_or_none() {
    let (mut world, mut steps) = running(1);
    world.passed.slow(20);
    for time in 0..50 {
        world.goes_on(&mut steps, time, 50 * MS);
    }
    let wish = |world: &mut World, steps: &mut Steps, to: &Arc<MemoryStore>| {
        let to: Arc<MemoryStore> = Arc::clone(to);
        let mut saving = steps.control().savepoint(to);
        for _ in 0..2000 {
            world.settles(steps);
            if let Some(saved) = (&mut saving).now_or_never() {
                return saved;
            }
            world.clock.advance(5 * MS);
        }
        panic!("nothing came of it");
    };
    let store: Arc<MemoryStore> = Arc::default();
    wish(&mut world, &mut steps, &store).unwrap();
    assert_eq!(world.passed(), 150, "all that was read by then");
    world.passed.slow(0);
    world.passed.down(usize::MAX);
    for time in 50..60 {
        world.goes_on(&mut steps, time, 200 * MS);
    }
    let none: Arc<MemoryStore> = Arc::default();
    let error = wish(&mut world, &mut steps, &none).unwrap_err();
    assert!(error.to_string().contains("has not taken all"), "{error}");
    assert_eq!(none.names(), [""; 0]);
    world.passed.down(0);
    for _ in 0..20 {
        world.clock.advance(INTERVAL);
        world.settles(&mut steps);
    }
    wish(&mut world, &mut steps, &none).unwrap();
    // A document that puts out other columns has nobody to take what is owed.
    world.passed.down(usize::MAX);
    for time in 60..70 {
        world.goes_on(&mut steps, time, 200 * MS);
    }
    drop(steps);
    world.plan.sinks[1].input = world.plan.sinks[0].input;
    let error = world.open().err().unwrap();
    assert!(matches!(&error, JobError::Changed { reason } if reason.contains("passed")), "{error}");
    world.plan.sinks[1].input = Input::Step { step: 1, branch: 0 };
    world.passed.down(0);
    let mut steps = world.open().unwrap().expect("the input has not ended");
    for _ in 0..20 {
        world.clock.advance(INTERVAL);
        world.settles(&mut steps);
    }
    assert_eq!(world.passed(), 3 * 70);
}
