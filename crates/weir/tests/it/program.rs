//! The program as another process.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program with these arguments, and nothing of the environment of whoever runs the tests.
pub(crate) fn weir(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    // But where a binary built for coverage counts; else it leaves its counts in the folder it runs in.
    command.envs(std::env::var_os("LLVM_PROFILE_FILE").map(|file| ("LLVM_PROFILE_FILE", file)));
    command
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    weir(arguments).output().unwrap()
}

/// What a command wrote, for messages and for looking into.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits until `what` gives something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(PAUSE);
    }
    panic!("{what}: not in time");
}

/// Puts a file where others read, in one step.
pub(crate) fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let aside = path.with_extension("aside");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, path).unwrap();
}

/// All numbers `n` in the files of a folder that are called `out`, of all their versions, in order and with how often.
pub(crate) fn numbers(folder: &Path) -> Vec<i64> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let outputs = names.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("out"));
    let texts: Vec<String> = outputs.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect();
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_i64().unwrap();
    let mut numbers: Vec<i64> = texts.iter().flat_map(|text| text.lines().map(number)).collect();
    numbers.sort_unstable();
    numbers
}

/// A server; killed when dropped.
pub(crate) struct Serving {
    pub(crate) child: Child,
    pub(crate) http: String,
    pub(crate) otlp_grpc: String,
    pub(crate) otlp_http: String,
}

impl Serving {
    /// Starts a server on free ports and waits for its addresses.
    pub(crate) fn start(data_dir: &Path, more: &[&str]) -> Self {
        Self::start_on(data_dir, ["127.0.0.1:0"; 3], more)
    }

    /// The same where one was before, which is gone.
    pub(crate) fn start_again(data_dir: &Path, before: &[String; 3], more: &[&str]) -> Self {
        let [http, grpc, otlp] = before;
        Self::start_on(data_dir, [http, grpc, otlp], more)
    }

    /// Where it listens.
    pub(crate) fn addresses(&self) -> [String; 3] {
        [&self.http, &self.otlp_grpc, &self.otlp_http].map(Clone::clone)
    }

    fn start_on(data_dir: &Path, [http, otlp_grpc, otlp_http]: [&str; 3], more: &[&str]) -> Self {
        let addresses = data_dir.join("addresses.json");
        let _ = std::fs::remove_file(&addresses);
        let mut child = weir(&["serve", "--data-dir", data_dir.to_str().unwrap()])
            .args(["--http", http, "--otlp-grpc", otlp_grpc, "--otlp-http", otlp_http])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let [http, otlp_grpc, otlp_http] = until("the server writes its addresses", || {
            assert_eq!(child.try_wait().unwrap(), None, "the server ended");
            let text = std::fs::read_to_string(&addresses).ok()?;
            let addresses: serde_json::Value = serde_json::from_str(&text).ok()?;
            Some(["http", "otlp_grpc", "otlp_http"].map(|name| addresses[name].as_str().unwrap().to_owned()))
        });
        Self { child, http, otlp_grpc, otlp_http }
    }

    /// Whether it answers a probe.
    pub(crate) fn is_alive(&self) -> bool {
        let Ok(mut socket) = TcpStream::connect(&self.http) else { return false };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        socket.read_to_string(&mut reply).is_ok() && reply.starts_with("HTTP/1.1 200 ")
    }

    /// Processor time of all its threads since it was started.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name of the program may hold anything, and ends with the last parenthesis.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Asks it to stop, and returns its exit code.
    pub(crate) fn stop(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        until("the server ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
