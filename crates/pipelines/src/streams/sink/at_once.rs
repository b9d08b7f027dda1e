//! A stream as a sink that does not wait for checkpoints: rows are appended as they come, and some of them once more after a
//! failure.
//!
//! An append is answered when it is durable, which takes a sync of the log. Some of them are under way at once, so that this
//! bounds how soon rows are seen and not how many. A checkpoint waits for all answers: what it holds is in the log.
//!
//! Appends carry no numbers: a start that goes on from the last checkpoint appends again what came after it, and the log
//! has no way to tell.

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, StreamExt};

use super::*;

/// So many appends are under way at once.
const UNDER_WAY_MAX: usize = 8;

/// An append that was answered: its rows, and the answer.
type Answered = (RecordBatch, Result<(), LogError>);

pub(super) struct AtOnce {
    /// What has settled the epochs of a pipeline that delivered exactly once before. It is given no rows.
    settled: StreamSink,
    under_way: FuturesOrdered<BoxFuture<'static, Answered>>,
    /// What could not be appended and is tried again before anything else.
    failed: Vec<RecordBatch>,
}

impl AtOnce {
    pub(super) fn new(settled: StreamSink) -> Self {
        Self { settled, under_way: FuturesOrdered::new(), failed: Vec::new() }
    }

    fn begin(&mut self, rows: RecordBatch) {
        let append = self.settled.appending(vec![rows.clone()], None);
        let appends = Arc::clone(&self.settled.shared.appends);
        self.under_way.push_back(async move { (rows, appends.append(append).await.map(|_| ())) }.boxed());
    }

    /// Begins anew with what has failed. Rows that came after it may be there before it.
    fn again(&mut self) {
        for rows in std::mem::take(&mut self.failed) {
            self.begin(rows);
        }
    }

    /// Waits until no more than so many are under way. What is new among them is on its way by then.
    ///
    /// # Errors
    /// If some have failed: all that have are tried again.
    async fn wait(&mut self, under_way_max: usize) -> Result<(), SinkError> {
        let mut failure = None;
        loop {
            let answered = if self.under_way.len() > under_way_max {
                self.under_way.next().await
            } else {
                self.under_way.next().now_or_never().flatten()
            };
            match answered {
                None => return failure.map_or(Ok(()), Err),
                Some((_, Ok(()))) => {}
                Some((rows, Err(error))) => {
                    self.failed.push(rows);
                    failure = Some(self.settled.of_log(&error));
                }
            }
        }
    }
}

#[async_trait]
impl Sink for AtOnce {
    async fn write(&mut self, rows: &RecordBatch) -> Result<(), SinkError> {
        let now = self.settled.shared.clock.now().0;
        self.write_timed(rows, &vec![now; rows.num_rows()].into()).await
    }

    async fn write_timed(&mut self, rows: &RecordBatch, times: &ScalarBuffer<i64>) -> Result<(), SinkError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.again();
        // An error from here is one of rows that were taken before: these are given again, and nothing of them is under way.
        self.wait(UNDER_WAY_MAX - 1).await?;
        let rows = self.settled.mapped(rows, times)?;
        let step = append_rows(&rows);
        for begin in (0..rows.num_rows()).step_by(step) {
            self.begin(rows.slice(begin, step.min(rows.num_rows() - begin)));
        }
        // What fails from here on is tried again by the next call, before anything else; soon, if no more rows come.
        if let Err(error) = self.wait(usize::MAX).await {
            tracing::debug!(stream = %self.settled.name, %error, "rows could not be appended, and are tried again");
        }
        Ok(())
    }

    fn is_unsettled(&self) -> bool {
        !self.under_way.is_empty() || !self.failed.is_empty()
    }

    async fn settle(&mut self) -> Result<(), SinkError> {
        self.again();
        self.wait(0).await
    }

    async fn prepare(&mut self, epoch: u64) -> Result<Receipt, SinkError> {
        self.settle().await?;
        self.settled.prepare(epoch).await
    }

    async fn commit(&mut self, epoch: u64, receipt: &Receipt) -> Result<(), SinkError> {
        self.settled.commit(epoch, receipt).await
    }
}
