//! What DataFusion takes to group the same rows at once: `weir-stock`, in a process of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The program, and the rows as a file it reads into memory first.
pub(crate) struct Batch {
    pub(crate) program: PathBuf,
    pub(crate) rows: PathBuf,
    pub(crate) n_rows: usize,
}

impl Batch {
    /// Rows for each second of CPU time, the best of some runs, on one thread.
    pub(crate) fn rate(&self, sql: &str) -> Result<f64> {
        let mut child = Command::new(&self.program)
            .arg("--memory")
            .arg(&self.rows)
            .args(["1", "3"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        child.stdin.take().context("no standard input")?.write_all(&serde_json::to_vec(&[sql])?)?;
        let output = child.wait_with_output()?;
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "DataFusion failed: {answer}");
        let answers: serde_json::Value = serde_json::from_str(&answer).context("DataFusion's answer is not JSON")?;
        let millis = answers[0]["cpu_ms"].as_f64().context("an answer has no time")?;
        Ok(self.n_rows as f64 / (millis / 1e3))
    }
}

/// Where the program is that was built beside this one.
pub(crate) fn beside(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let path = own.parent().unwrap_or(Path::new(".")).join(name);
    path.exists().then_some(path)
}
