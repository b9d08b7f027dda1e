//! q0 from a file: what reading JSON costs.

use std::path::Path;

use anyhow::{Result, anyhow};
use weir_base::clock::SystemClock;
use weir_base::disk::RealDisk;
use weir_component::spec::{Access, PlanContext};
use weir_engine::LONGEST_INTERVAL;
use weir_pipelines::ends::RealEnds;

use crate::run::{self, Cost};
use crate::tables::Tables;

const DOCUMENT: &str = include_str!("../../../tests/nexmark/q0_ndjson.yaml");
/// The file in the document.
const FILE: &str = "bid.ndjson";
const NAME: &str = "q0_ndjson";

/// Writes the bids to a file in a folder and reads them from there so many times; the least CPU time counts.
pub(crate) fn best(tables: &Tables, folder: &Path, runs: usize, threads: usize) -> Result<Cost> {
    tables.bid.to_ndjson(&folder.join(FILE))?;
    let context = PlanContext {
        directory: folder.to_owned(),
        pipeline: NAME.to_owned(),
        tenant: None,
        checkpoint_interval: LONGEST_INTERVAL,
        disk: RealDisk::new(),
        clock: SystemClock::new(),
        streams: None,
    };
    let ends = RealEnds {
        context,
        allowed: Access::ALL,
        state_bytes_max: run::STATE_BYTES_MAX as u64,
        late: None,
        dead: None,
        refreshes: None,
    };
    let mut best: Option<Cost> = None;
    for _ in 0..runs.max(1) {
        let prepared = run::prepare(NAME, DOCUMENT, &ends)?;
        let state = tempfile::tempdir_in(folder)?;
        let cost = run::run(&prepared, state.path(), threads)?;
        if best.as_ref().is_none_or(|best| cost.cpu < best.cpu) {
            best = Some(cost);
        }
    }
    std::fs::remove_file(folder.join(FILE))?;
    best.ok_or_else(|| anyhow!("no run"))
}
