//! The server under test, as a process.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde::Deserialize;

use super::wire::Http;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// Where it listens, each `host:port`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Addresses {
    /// Everything over HTTP.
    pub http: String,
    /// OTLP over gRPC.
    pub otlp_grpc: String,
    /// OTLP over HTTP.
    pub otlp_http: String,
}

/// A server, running or not.
pub struct Server {
    weir: PathBuf,
    config: PathBuf,
    data_dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Of the last start.
    pub addresses: Addresses,
    /// The administrator's key.
    pub admin_key: String,
    /// A client for whoever needs one.
    pub http: Http,
}

impl Server {
    /// A server not yet started, with a configuration file of this text; its file and the server's log
    /// are written to `scratch`.
    pub fn new(weir: &Path, scratch: &Path, data_dir: &Path, config_text: &str) -> Result<Self> {
        let config = scratch.join("weir.yaml");
        std::fs::write(&config, config_text).context("cannot write the configuration")?;
        Ok(Self {
            weir: weir.to_owned(),
            config,
            data_dir: data_dir.to_owned(),
            log: scratch.join("server.log"),
            child: None,
            addresses: Addresses::default(),
            admin_key: String::new(),
            http: Http::default(),
        })
    }

    /// Starts the server; returns how long it took to be ready.
    pub async fn start(&mut self) -> Result<Duration> {
        let addresses = self.data_dir.join("addresses.json");
        if addresses.exists() {
            std::fs::remove_file(&addresses).context("cannot remove the old addresses.json")?;
        }
        let log = std::fs::File::options().create(true).append(true).open(&self.log).context("server log")?;
        let mut command = Command::new(&self.weir);
        command.arg("serve").arg("--config").arg(&self.config).arg("--data-dir").arg(&self.data_dir);
        command.args(["--http", "127.0.0.1:0", "--otlp-grpc", "127.0.0.1:0", "--otlp-http", "127.0.0.1:0"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        // A developer's settings must not leak into the test.
        for name in ["WEIR_CONFIG", "WEIR_DATA_DIR", "WEIR_HTTP", "WEIR_OTLP_GRPC", "WEIR_OTLP_HTTP"] {
            command.env_remove(name);
        }
        let begin = Instant::now();
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.weir.display()))?);
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                self.child = None;
                bail!("the server ended with {status} while starting");
            }
            if let Some(addresses) = read_addresses(&addresses)
                && self.http.get_status(&addresses.http, "/health/ready").await == Some(200)
            {
                self.addresses = addresses;
                break;
            }
            ensure!(begin.elapsed() < READY_TIMEOUT, "the server is not ready after {READY_TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ready = begin.elapsed();
        let key = std::fs::read_to_string(self.data_dir.join("admin.key")).context("admin.key")?;
        key.trim().clone_into(&mut self.admin_key);
        Ok(ready)
    }

    /// SIGKILL to the whole process group, and nothing before it. It does not wait.
    pub fn strike(&self) -> Result<()> {
        let child = self.child.as_ref().context("the server has ended by itself")?;
        rustix::process::kill_process_group(pid(child)?, Signal::KILL).context("cannot kill the server")
    }

    /// SIGKILL, and wait until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.strike()?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        tokio::task::spawn_blocking(move || child.wait()).await??;
        Ok(())
    }

    /// SIGTERM; the server has to end by itself and well.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { bail!("the server has ended by itself") };
        rustix::process::kill_process(pid(&child)?, Signal::TERM).context("cannot stop the server")?;
        let begin = Instant::now();
        loop {
            match child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the server ended with {status}"),
                None if begin.elapsed() > STOP_TIMEOUT => {
                    child.kill()?;
                    child.wait()?;
                    bail!("the server did not stop within {STOP_TIMEOUT:?}");
                }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// The process id, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The number of log segments on disk.
    pub fn n_segments(&self) -> usize {
        let mut segments = 0;
        // While segments come and go a listing may fail; the next one will not.
        let _ = walk(&self.data_dir.join("log"), &mut |path| {
            segments += usize::from(path.extension().is_some_and(|extension| extension == "seg" || extension == "log"));
        });
        segments
    }

    /// All that the server logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines the server logged.
    pub fn log_end(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        format!("the server's last words:\n{}\n", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // On the way out of a failure: whatever it answers, nothing may keep running.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn pid(child: &Child) -> Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process without an id")
}

fn read_addresses(path: &Path) -> Option<Addresses> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// After two clean restarts no temporary file may be left.
pub fn no_leftovers(data_dir: &Path) -> Result<()> {
    let mut left = Vec::new();
    let mut spares = std::collections::HashSet::new();
    walk(data_dir, &mut |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The log keeps one segment ready for the next change: a running server's file, not a leak.
        let is_spare = name.starts_with("spare-") && spares.insert(path.parent().map(Path::to_owned));
        if !is_spare && (name.contains("tmp") || name.contains("partial") || name.ends_with(".new")) {
            left.push(path.display().to_string());
        }
    })?;
    ensure!(left.is_empty(), "temporary files are left after two restarts: {}", left.join(", "));
    Ok(())
}

/// Calls `visit` for every file below `folder`.
pub fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), visit)?;
        } else {
            visit(&entry.path());
        }
    }
    Ok(())
}
