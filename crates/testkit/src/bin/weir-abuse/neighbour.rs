//! A tenant far over its limit is told to slow down; its neighbour notices nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::sender::{Outcome as Sent, Protocol, Sender, compare};
use crate::stage::Stage;
use crate::{Outcome, pulse};

const ROWS_PER_SECOND: u64 = 100;
const ROWS_PER_REQUEST: u64 = 50;
const TIME: Duration = Duration::from_secs(3);

pub(crate) async fn run(weir: &Path) -> Result<Outcome> {
    let stage = Stage::start(weir, "").await?;
    let outcome = scenario(&stage).await;
    stage.explain(outcome)
}

async fn scenario(stage: &Stage) -> Result<Outcome> {
    let limits = json!({ "rows_per_second": ROWS_PER_SECOND, "rows_burst": ROWS_PER_SECOND });
    let greedy = stage.tenant("greedy", "paid", &limits).await?;
    let modest = stage.tenant("modest", "paid", &json!({})).await?;
    let addresses = &stage.server.addresses;
    let healthy = pulse::begin(&addresses.http, &modest, Duration::from_millis(20));
    let mut sender = Sender::new("greedy", &greedy, "greedy", Protocol::Ingest).large(ROWS_PER_REQUEST, 100);
    let begin = Instant::now();
    // Twenty requests of fifty rows a second: ten times the limit.
    let mut interval = tokio::time::interval(Duration::from_millis(50));
    let mut n_refused = 0;
    while begin.elapsed() < TIME {
        interval.tick().await;
        match sender.send(addresses).await? {
            Sent::Acknowledged => {}
            Sent::Refused { status: 429, retry_after: true, .. } => n_refused += 1,
            other => bail!("a tenant over its limit was answered {other:?}"),
        }
    }
    let seconds = begin.elapsed().as_secs() + 1;
    let healthy = healthy.end().await?;
    healthy.expect_success(100)?;
    ensure!(n_refused > 0, "nothing was refused at ten times the limit");
    let most = ROWS_PER_SECOND * (seconds + 1) + ROWS_PER_REQUEST;
    ensure!(sender.acknowledged <= most, "{} rows were taken where {most} may be", sender.acknowledged);
    ensure!(sender.acknowledged >= ROWS_PER_SECOND, "only {} rows were taken", sender.acknowledged);
    compare(stage, &[sender]).await?;
    stage.no_panics().await?;
    Ok(Outcome::Kept(format!("{n_refused} greedy requests refused with 429; {healthy}")))
}
