//! A `weir run` that is started, killed, stopped and woken.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A pipeline in a folder of its own.
pub(crate) struct Pipeline {
    weir: PathBuf,
    pub(crate) folder: PathBuf,
    state: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Pipeline {
    /// Writes the document. `name` is the pipeline's, too.
    pub(crate) fn new(weir: &Path, scratch: &Path, name: &str, document: &str) -> Result<Self> {
        let folder = scratch.join(name);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("pipeline.yaml"), format!("pipeline: {name}\n{document}"))?;
        let (state, log) = (folder.join("state"), folder.join("log"));
        Ok(Self { weir: weir.to_owned(), folder, state, log, child: None })
    }

    /// Another process of the same pipeline, with a copy of its state, as if it ran on another machine.
    pub(crate) fn twin(&self) -> Result<Self> {
        let state = self.folder.join("state-of-twin");
        copy(&self.state, &state)?;
        let (weir, folder) = (self.weir.clone(), self.folder.clone());
        Ok(Self { weir, log: folder.join("log-of-twin"), folder, state, child: None })
    }

    /// Another process of the same pipeline that has a state of its own.
    pub(crate) fn beside(&self, name: &str) -> Self {
        let (weir, folder) = (self.weir.clone(), self.folder.clone());
        let (state, log) = (folder.join(format!("state-of-{name}")), folder.join(format!("log-of-{name}")));
        Self { weir, log, folder, state, child: None }
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.weir)
            .args(["run", "pipeline.yaml", "--state"])
            .arg(&self.state)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", self.weir.display()))?;
        self.child = Some(child);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("it does not run")?;
        kill_process(Pid::from_child(child), signal).context("cannot send a signal")
    }

    /// SIGSTOP: it does nothing any more, and does not notice.
    pub(crate) fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub(crate) fn wake(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// kill -9. It must have run until now.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            bail!("weir run ended by itself with {status}:\n{}", self.log_end());
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM: one more checkpoint, and the end.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait(Duration::from_secs(60))?;
        ensure!(status.success(), "weir run ended with {status}:\n{}", self.log_end());
        Ok(())
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let mut child = self.child.take().context("it does not run")?;
        let begun = Instant::now();
        while begun.elapsed() < timeout {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill()?;
        child.wait()?;
        bail!("weir run did not end within {timeout:?}:\n{}", self.log_end())
    }

    /// The output so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of the output.
    pub(crate) fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// The rows of a file in its folder, or in that of its state.
    pub(crate) fn rows(&self, name: &str) -> Result<Vec<serde_json::Value>> {
        let path = if name == "dead.ndjson" { self.state.join(name) } else { self.folder.join(name) };
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let rows: serde_json::Result<Vec<_>> = text.lines().map(serde_json::from_str).collect();
        rows.with_context(|| format!("{} has a line that is no JSON", path.display()))
    }

    /// Whether it has begun to run.
    pub(crate) fn has_begun(&self) -> bool {
        let names = std::fs::read_dir(self.state.join("checkpoints")).into_iter().flatten().flatten();
        names.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("epoch-"))
    }

    /// How many lines a file of rows has by now.
    pub(crate) fn n_rows(&self, name: &str) -> usize {
        std::fs::read(self.folder.join(name)).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
