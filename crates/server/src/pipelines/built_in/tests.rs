//! When a pipeline is woken and laid to rest, step by step.

use super::*;

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One tenant's pipeline, told what happens.
struct Bench {
    known: Known,
    doing: Doing,
}

impl Bench {
    fn step(&mut self, now: u64, news: Option<News>) -> Act {
        let act = self.known.act(at(now), news, self.doing);
        if news == Some(News::Events) {
            (self.known.came, self.known.is_open) = (Some(at(now)), true);
        }
        match act {
            Act::Nothing => {}
            Act::Wake => self.known.wake(at(now)),
            Act::Rest => self.known.rest(at(100)),
        }
        act
    }
}

#[test]
fn a_pipeline_runs_while_events_come_and_once_its_sessions_are_over() {
    let mut bench = Bench { known: Known::default(), doing: Doing::Waiting };
    assert_eq!(bench.step(10, Some(News::Events)), Act::Wake);
    assert_eq!(bench.step(25, Some(News::Events)), Act::Nothing);
    assert_eq!(bench.step(40, None), Act::Nothing, "15 s are not quiet");
    assert_eq!(bench.known.look(at(40)), Some(at(45)));
    bench.doing = Doing::Working;
    assert_eq!(bench.step(45, None), Act::Nothing, "it has something to do");
    bench.doing = Doing::Waiting;
    assert_eq!(bench.step(46, None), Act::Rest);
    assert_eq!(bench.known.look(at(46)), Some(at(125)), "the last event came at 25");
    assert_eq!(bench.step(124, None), Act::Nothing);
    assert_eq!(bench.step(125, None), Act::Wake);
    assert_eq!(bench.step(128, None), Act::Nothing);
    assert_eq!(bench.step(130, None), Act::Rest);
    assert_eq!(bench.step(125 + 3600, None), Act::Wake, "clocks that were fast");
    assert_eq!(bench.step(130 + 3600, None), Act::Rest);
    assert_eq!(bench.known.look(at(130 + 3600)), None, "nothing is left to do");
}

#[test]
fn what_came_while_it_rests_wakes_it_and_moves_the_end_on() {
    let mut bench = Bench { known: Known::default(), doing: Doing::Waiting };
    bench.step(0, Some(News::Events));
    assert_eq!(bench.step(30, None), Act::Rest);
    assert_eq!(bench.step(60, Some(News::Events)), Act::Wake);
    assert_eq!(bench.step(90, None), Act::Rest);
    assert_eq!(bench.known.look(at(90)), Some(at(160)));
}

#[test]
fn one_that_has_failed_is_tried_again_now_and_then() {
    let mut bench = Bench { known: Known::default(), doing: Doing::Nothing };
    assert_eq!(bench.step(0, Some(News::Events)), Act::Wake);
    assert_eq!(bench.step(30, Some(News::Events)), Act::Nothing);
    assert_eq!(bench.step(60, Some(News::Events)), Act::Wake);
    assert_eq!(bench.step(61, Some(News::Settings)), Act::Wake, "somebody has done something");
}

#[test]
fn one_of_before_the_start_is_woken_and_its_open_sessions_end() {
    let mut bench =
        Bench { known: Known { is_open: true, due: [at(0)].into(), ..Known::default() }, doing: Doing::Waiting };
    assert_eq!(bench.step(1, None), Act::Wake);
    assert_eq!(bench.step(6, None), Act::Rest);
    assert_eq!(bench.known.look(at(6)), Some(at(101)));
}

#[test]
fn arrivals_wake_the_keeper_once() {
    let arrivals = Arrivals::default();
    let tenant = TenantId::new("acme").unwrap_or_else(|error| panic!("{error}"));
    arrivals.tell(&tenant, News::Events);
    arrivals.changed(&tenant);
    arrivals.tell(&tenant, News::Events);
    let news = arrivals.take();
    assert_eq!((news.len(), news.get(&tenant)), (1, Some(&News::Settings)));
    assert!(arrivals.take().is_empty());
}
