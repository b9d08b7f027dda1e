//! Stock DataFusion over rows that are in memory already.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_ipc::reader::FileReader;
use datafusion::common::Result;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;

/// A session whose table `bid` is the rows of an Arrow IPC file, in the batches they have there.
pub(crate) fn open(file: &Path, threads: usize) -> Result<SessionContext> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(threads));
    let reader = FileReader::try_new(BufReader::new(File::open(file)?), None)?;
    let schema = reader.schema();
    let batches: std::result::Result<Vec<_>, _> = reader.collect();
    context.register_table("bid", Arc::new(MemTable::try_new(schema, vec![batches?])?))?;
    Ok(context)
}

/// The CPU time an answer takes, and how many rows it has; they are not kept.
pub(crate) async fn ask(context: &SessionContext, sql: &str) -> Result<(Duration, usize)> {
    let begin = weir_base::cpu::of_this_process()?;
    let mut answer = context.sql(sql).await?.execute_stream().await?;
    let mut rows = 0;
    while let Some(batch) = answer.next().await {
        rows += batch?.num_rows();
    }
    Ok((weir_base::cpu::of_this_process()?.saturating_sub(begin), rows))
}
