#![allow(clippy::unwrap_used, reason = "tests")]

use arrow::array::{ArrayRef, Int64Array, RecordBatch};

use super::*;

struct Bench {
    lanes: Vec<Arc<Lane>>,
    inlets: Inlets,
}

impl Bench {
    /// Two inputs, and the lane of rows that are run again.
    fn new(reached: i64) -> Self {
        let lanes: Vec<_> = (0..3).map(|_| Lane::new(Waker::default(), Waker::default(), 10)).collect();
        let inputs = [0, 1, REPLAYS];
        let inlets = Inlets::new(lanes.iter().cloned().zip(inputs).collect(), reached);
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
fn the_slowest_input_says_how_far_time_has_come() {
    let mut bench = Bench::new(i64::MIN);
    assert_eq!(bench.takes([(0, Message::Watermark(20))]), [""; 0], "nothing is known of the other");
    assert_eq!(bench.takes([(1, Message::Watermark(15)), (1, rows(&[5, 25]))]), ["15", "rows None"]);
    assert_eq!(bench.takes([(1, Message::Watermark(40)), (0, rows(&[1]))]), ["20", "rows None"]);
    let ends = [(0, Message::Watermark(i64::MAX)), (1, Message::Watermark(i64::MAX))];
    assert_eq!(bench.takes(ends), ["40".to_owned(), i64::MAX.to_string()]);
}

#[test]
fn what_was_over_at_a_checkpoint_is_over_after_it() {
    let mut bench = Bench::new(20);
    assert_eq!(bench.takes([(1, rows(&[5, 25])), (1, Message::Watermark(4))]), ["rows Some([20, 20])"]);
    assert_eq!(bench.takes([(0, Message::Watermark(20))]), ["4"], "those behind it have to be told again");
    assert_eq!(bench.inlets.watermark(), 20);
}
