//! Rows that are too late for steps that go by the order of event time, or whose time cannot be reckoned with.
//!
//! Such a step takes a row that is at most its lateness behind the watermark of the row's own partition. That
//! depends on nothing but the partition, so it is the same however partitions and batches come.

use arrow::array::UInt32Array;
use weir_component::Batch;
use weir_component::operator::{Aside, AsideNotes, AsideReason, OperatorError, Output};

/// The rows that are on time; the others are set aside. `passed` is what the step has told to be over, and
/// times nearer than `margin` to the ends of time are refused.
pub(crate) fn on_time(
    batch: Batch,
    lateness: i64,
    passed: i64,
    margin: i64,
    output: &mut dyn Output,
) -> Result<Batch, OperatorError> {
    on_time_until(batch, Limit { lateness, passed, margin }, &|time| time + 1, output)
}

/// What is too late, and what too far away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// How far behind the watermark of its partition a row may be.
    pub(crate) lateness: i64,
    /// What the step has told to be over.
    pub(crate) passed: i64,
    /// Times nearer to the ends of time are refused; at least 1.
    pub(crate) margin: i64,
}

/// The same for rows that count until some time after their own, which is `end` of it.
pub(crate) fn on_time_until(
    batch: Batch,
    limit: Limit,
    end: &dyn Fn(i64) -> i64,
    output: &mut dyn Output,
) -> Result<Batch, OperatorError> {
    let Limit { lateness, passed, margin } = limit;
    let margin = margin.max(1);
    let (first, last) = (i64::MIN.saturating_add(margin), i64::MAX.saturating_sub(margin));
    // Without a branch for each row: mostly all are on time.
    let (least, most) =
        batch.times.iter().fold((i64::MAX, i64::MIN), |(least, most), time| (least.min(*time), most.max(*time)));
    if batch.watermarks.is_none() && least >= passed.max(first) && most <= last {
        return Ok(batch);
    }
    let (mut kept, mut late, mut late_by, mut far) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (row, index) in (0..batch.len()).zip(0_u32..) {
        let time = batch.times[row];
        let watermark = batch.watermark(row);
        if time < first || time > last {
            far.push(index);
        } else if end(time) <= watermark.saturating_sub(lateness) || end(time) <= passed {
            // The second cannot be if sources keep their word; were it otherwise, the row is not lost.
            late.push(index);
            late_by.push(watermark.max(passed).saturating_sub(time));
        } else {
            kept.push(index);
        }
    }
    let part = |rows: Vec<u32>| batch.take(&UInt32Array::from(rows)).map_err(OperatorError::internal);
    if !late.is_empty() {
        let late = part(late)?;
        let notes = AsideNotes::LateBy(late_by);
        output.aside(Aside { reason: AsideReason::Late, rows: late.rows, times: Some(late.times), notes });
    }
    if !far.is_empty() {
        let message = "its time is so far away that nothing can be reckoned from it";
        let notes = AsideNotes::Messages(vec![message.to_owned(); far.len()]);
        let far = part(far)?;
        output.aside(Aside { reason: AsideReason::Failed, rows: far.rows, times: Some(far.times), notes });
    }
    if kept.len() == batch.len() { Ok(batch) } else { part(kept) }
}
