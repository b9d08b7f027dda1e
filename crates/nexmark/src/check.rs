//! Asks DuckDB the same questions over the same events, and compares.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::memory::{Kept, TableEnds};
use crate::queries::Query;
use crate::run;
use crate::tables::{Tables, to_parquet};

/// What it takes to ask DuckDB.
#[derive(Debug)]
pub(crate) struct Checker {
    /// A Python with the package.
    pub(crate) python: PathBuf,
    /// `tests/nexmark/check.py`.
    pub(crate) program: PathBuf,
}

impl Checker {
    /// Runs the queries over tables and compares all results; fails if one is not what DuckDB says.
    pub(crate) fn check(&self, queries: &[&Query], tables: &Tables, folder: &Path, threads: usize) -> Result<()> {
        for (name, table) in tables.all() {
            table.to_parquet(&folder.join(format!("{name}.parquet")))?;
        }
        for query in queries {
            let ends = TableEnds { tables: tables.by_name(), kept: Kept::all(), laps: None };
            let prepared = run::prepare(query.name, query.document, &ends)?;
            let state = folder.join(format!("{}-state", query.name));
            let cost = run::run(&prepared, &state, threads).with_context(|| query.name)?;
            let (schema, rows) = ends.kept.take().context("the sink was never opened")?;
            to_parquet(&schema, &rows, &folder.join(format!("{}.parquet", query.name)))?;
            println!("{}: {} results of {} events", query.name, cost.results, cost.events);
        }
        let names = queries.iter().map(|query| query.name);
        let status = Command::new(&self.python).arg(&self.program).arg(folder).args(names).status();
        let status = status.with_context(|| format!("cannot run {}", self.python.display()))?;
        ensure!(status.success(), "results are not those of DuckDB");
        Ok(())
    }
}
