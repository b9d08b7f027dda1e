#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use proptest::prelude::*;

use super::*;

struct Bench {
    lanes: Vec<Arc<Lane>>,
    inlets: Inlets,
}

impl Bench {
    /// Two inputs, and the lane of rows that are run again.
    fn new(reached: i64) -> Self {
        Self::of(reached, false)
    }

    fn of(reached: i64, has_others: bool) -> Self {
        let lanes: Vec<_> = (0..3).map(|_| Lane::new(Waker::default(), Waker::default(), 10)).collect();
        let inputs = [0, 1, REPLAYS];
        let inlets = Inlets::new(lanes.iter().cloned().zip(inputs).collect(), reached, has_others);
        Self { lanes, inlets }
    }

    /// What the task does once it has taken everything: times it learns of, and watermarks of rows.
    fn takes(&mut self, messages: impl IntoIterator<Item = (usize, Message)>) -> Vec<String> {
        let mut taken = Vec::new();
        for (lane, message) in messages {
            self.lanes[lane].push(message);
            loop {
                match self.inlets.take() {
                    Arrival::Empty => break,
                    Arrival::Nothing => {}
                    Arrival::Watermark(time) => taken.push(format!("{time}")),
                    Arrival::Rows { batch, .. } => taken.push(format!("rows {:?}", batch.watermarks.as_deref())),
                    other => taken.push(format!("{other:?}")),
                }
            }
        }
        taken
    }
}

fn rows(times: &[i64]) -> Message {
    let column: ArrayRef = Arc::new(Int64Array::from(times.to_vec()));
    let rows = RecordBatch::try_from_iter([("n", column)]).unwrap();
    Message::Rows(Batch::new(rows, times.to_vec().into()))
}

#[test]
fn who_is_idle_holds_back_nobody_until_it_says_something() {
    let mut bench = Bench::new(i64::MIN);
    assert_eq!(bench.takes([(0, Message::Watermark(20))]), [""; 0], "nothing is known of the other");
    assert_eq!(bench.takes([(1, Message::Idle(true))]), ["20"], "which need not have said anything");
    assert!(!bench.inlets.are_idle());
    let back = [(1, Message::Idle(false)), (1, rows(&[5, 25])), (1, Message::Watermark(15))];
    assert_eq!(bench.takes(back), ["rows Some([20, 20])"], "what is over for others is over for it");
    assert_eq!(bench.takes([(1, rows(&[20])), (0, rows(&[1])), (0, Message::Watermark(40))]), ["rows None"; 2]);
    assert_eq!(bench.takes([(1, Message::Watermark(21)), (1, rows(&[1]))]), ["21", "rows None"]);
}

/// It does not matter who fell silent first.
#[test]
fn when_all_are_idle_the_furthest_counts() {
    for order in [[0, 1], [1, 0]] {
        let mut bench = Bench::new(i64::MIN);
        let told = bench.takes([(0, Message::Watermark(20)), (1, Message::Watermark(4))]);
        assert_eq!(told, ["4"]);
        assert_eq!(bench.takes(order.map(|lane| (lane, Message::Idle(true)))), ["20"]);
        assert!(bench.inlets.are_idle());
    }
}

#[test]
fn the_end_of_time_waits_for_who_is_idle() {
    let mut bench = Bench::new(i64::MIN);
    let told = bench.takes([(0, Message::Watermark(20)), (1, Message::Watermark(4)), (1, Message::Idle(true))]);
    assert_eq!(told, ["4", "20"]);
    // Rows of it may be on their way.
    assert_eq!(bench.takes([(0, Message::Watermark(i64::MAX)), (1, rows(&[30]))]), ["rows None"]);
    assert!(bench.inlets.are_idle(), "nobody waits for the other any more, as for a table");
    assert_eq!(bench.takes([(1, Message::Watermark(i64::MAX))]), [i64::MAX.to_string()]);
}

#[test]
fn what_was_over_at_a_checkpoint_is_over_after_it() {
    let mut bench = Bench::new(20);
    assert_eq!(bench.takes([(1, rows(&[5, 25])), (1, Message::Watermark(4))]), ["rows Some([20, 20])"]);
    assert_eq!(bench.takes([(0, Message::Watermark(20))]), ["4"], "those behind it have to be told again");
    assert_eq!(bench.inlets.watermark(), 20);
}

/// What one input tells between two barriers.
fn telling() -> impl Strategy<Value = Vec<Option<i64>>> {
    // A time, or a change between idle and not.
    proptest::collection::vec(prop_oneof![(0i64..1000).prop_map(Some), Just(None)], 0..6)
}

proptest! {
    /// Else who goes on from a checkpoint would lose what one instance had not yet put out, or put it out twice.
    #[test]
    fn instances_have_come_equally_far_at_every_barrier(
        epochs in proptest::collection::vec((telling(), telling(), any::<u64>(), any::<u64>()), 1..6),
    ) {
        let mut benches = [Bench::of(i64::MIN, true), Bench::of(i64::MIN, true)];
        let (mut times, mut idle) = ([0; 2], [false; 2]);
        for (epoch, (first, second, order, other)) in (1..).zip(epochs) {
            let mut told: [Vec<Message>; 2] = Default::default();
            for (lane, telling) in [first, second].into_iter().enumerate() {
                for said in telling {
                    told[lane].push(match said {
                        Some(time) => {
                            times[lane] = time.max(times[lane]);
                            Message::Watermark(times[lane])
                        }
                        None => {
                            idle[lane] = !idle[lane];
                            Message::Idle(idle[lane])
                        }
                    });
                }
            }
            for (bench, order) in benches.iter_mut().zip([order, other]) {
                let mut at = [0; 2];
                for step in 0..told[0].len() + told[1].len() {
                    let lane = (order >> (step % 64)) as usize & 1;
                    let lane = if at[lane] < told[lane].len() { lane } else { 1 - lane };
                    let message = match &told[lane][at[lane]] {
                        Message::Watermark(time) => Message::Watermark(*time),
                        Message::Idle(idle) => Message::Idle(*idle),
                        other => panic!("{other:?}"),
                    };
                    at[lane] += 1;
                    bench.takes([(lane, message)]);
                }
                let barriers = (0..3).map(|lane| (lane, Message::Barrier(epoch)));
                prop_assert_eq!(bench.takes(barriers), [format!("Barrier({epoch})")]);
            }
            prop_assert_eq!(benches[0].inlets.watermark(), benches[1].inlets.watermark());
            prop_assert_eq!(benches[0].inlets.are_idle(), benches[1].inlets.are_idle());
        }
    }
}
