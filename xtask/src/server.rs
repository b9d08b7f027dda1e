//! A running `weir serve`, owned by whoever started it: stopped when dropped.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, http, process, signal};

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// What `DIR/addresses.json` says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) http: String,
    pub(crate) otlp_grpc: String,
    pub(crate) otlp_http: String,
}

/// A started server.
pub(crate) struct Server {
    child: Option<Child>,
    weir: PathBuf,
    pub(crate) data_dir: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) addresses: Addresses,
}

impl Server {
    /// Starts `weir serve` and waits until it is ready. `ports` are the three `--http`,
    /// `--otlp-grpc`, `--otlp-http`.
    pub(crate) fn start(weir: &Path, data_dir: &Path, log: &Path, ports: [&str; 3]) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let second = file.try_clone().map_err(|error| error.to_string())?;
        // What an earlier server left would be taken for the new one's.
        let addresses = data_dir.join("addresses.json");
        if addresses.exists() {
            std::fs::remove_file(&addresses).map_err(|error| format!("{}: {error}", addresses.display()))?;
        }
        let mut command = process::command(weir, &["serve", "--data-dir"]);
        command.arg(data_dir).args(["--http", ports[0], "--otlp-grpc", ports[1], "--otlp-http", ports[2]]);
        // A group of its own: Ctrl-C at the terminal reaches xtask alone, which stops things in order.
        command.process_group(0).stdout(Stdio::from(file)).stderr(Stdio::from(second));
        let child = command.spawn().map_err(|error| process::cannot_start(&command, &error))?;
        let mut server = Self {
            child: Some(child),
            weir: weir.to_owned(),
            data_dir: data_dir.to_owned(),
            log: log.to_owned(),
            addresses: Addresses::default(),
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                self.child = None;
                return Err(format!("weir serve ended with {status}\n{}", self.log_end()));
            }
            if let Ok(text) = std::fs::read_to_string(self.data_dir.join("addresses.json"))
                && let Some(addresses) = parse_addresses(&text)
                && matches!(http::get(&addresses.http, "/health/ready"), Ok((200, _)))
            {
                self.addresses = addresses;
                return Ok(());
            }
            if begin.elapsed() > READY_TIMEOUT || signal::stop_asked() {
                return Err(format!("weir serve is not ready after {:?}\n{}", begin.elapsed(), self.log_end()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last lines the server logged.
    pub(crate) fn log_end(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{}\n(all of it: {})", lines[lines.len().saturating_sub(40)..].join("\n"), self.log.display())
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// A client command of `weir` against this server.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = process::command(&self.weir, arguments);
        command.arg("--data-dir").arg(&self.data_dir).env_remove("WEIR_URL").env_remove("WEIR_KEY");
        command
    }

    /// The answer of a query with one value.
    pub(crate) fn query_value(&self, tenant: &str, sql: &str) -> Result<String> {
        let text = process::output(self.client(&["query", sql, "--tenant", tenant, "--format", "csv"]))?;
        let value = text.lines().nth(1).ok_or_else(|| format!("no row for {sql}"))?;
        Ok(value.trim().trim_matches('"').to_owned())
    }

    /// SIGTERM, and wait until it has drained.
    pub(crate) fn stop(mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Err("the server has stopped by itself".to_owned()) };
        match stop(&mut child, STOP_TIMEOUT) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("weir serve ended with {status}\n{}", self.log_end())),
            None => Err(format!("weir serve did not stop within {STOP_TIMEOUT:?}\n{}", self.log_end())),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            stop(&mut child, STOP_TIMEOUT);
        }
    }
}

/// Asks a child to stop and waits; after the timeout it is killed and `None` returned.
pub(crate) fn stop(child: &mut Child, timeout: Duration) -> Option<std::process::ExitStatus> {
    signal::terminate(child);
    let begin = Instant::now();
    while begin.elapsed() < timeout {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // It would not go: a leftover server would hold the ports and the data directory.
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn parse_addresses(text: &str) -> Option<Addresses> {
    let field = |name: &str| {
        let (_, rest) = text.split_once(&format!("\"{name}\""))?;
        let (_, rest) = rest.split_once('"')?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    Some(Addresses { http: field("http")?, otlp_grpc: field("otlp_grpc")?, otlp_http: field("otlp_http")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_half_a_file_is_not() {
        let whole = "{\n \"http\": \"127.0.0.1:1\",\n \"otlp_grpc\":\"127.0.0.1:2\", \"otlp_http\": \"[::1]:3\"\n}";
        let addresses = parse_addresses(whole).unwrap_or_default();
        assert_eq!((addresses.http.as_str(), addresses.otlp_grpc.as_str()), ("127.0.0.1:1", "127.0.0.1:2"));
        assert_eq!(addresses.otlp_http, "[::1]:3");
        assert!(parse_addresses(&whole[..60]).is_none());
    }
}
