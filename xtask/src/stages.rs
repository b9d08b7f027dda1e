//! A run of stages: each timed, its output in a file, its end in one line, its failure readable.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::process::{cannot_start, shown};
use crate::{Result, scratch};

/// How much of a failed stage's output is shown; the file has all of it.
const LINES_SHOWN: usize = 120;
/// Without a terminal, a long stage says this often that it still runs.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// How a stage ended.
pub(crate) enum Outcome {
    /// All well, with a remark worth a line (may be empty).
    Passed(String),
    /// Not run, and why. Always shown; in CI a failure unless the stage says otherwise.
    Skipped(String),
}

/// The stages so far.
pub(crate) struct Stages {
    begin: Instant,
    done: Vec<(String, Duration, String)>,
    failed: Vec<String>,
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), done: Vec::new(), failed: Vec::new() }
    }

    /// Runs one stage; a failure is kept for the end, and false says so.
    pub(crate) fn stage(&mut self, name: &str, work: impl FnOnce() -> Result<Outcome>) -> bool {
        println!("▶ {name}");
        let begin = Instant::now();
        let outcome = work();
        let took = begin.elapsed();
        let (mark, remark) = match outcome {
            Ok(Outcome::Passed(remark)) => ("ok", remark),
            Ok(Outcome::Skipped(reason)) => ("SKIPPED", reason),
            Err(message) => {
                println!("{message}");
                self.failed.push(name.to_owned());
                ("FAILED", String::new())
            }
        };
        let line = if remark.is_empty() { mark.to_owned() } else { format!("{mark}: {remark}") };
        println!("  {name}: {line} ({})", seconds(took));
        self.done.push((name.to_owned(), took, line));
        mark != "FAILED"
    }

    /// Runs one program as a stage.
    pub(crate) fn command(&mut self, name: &str, command: Command) -> bool {
        self.stage(name, || captured(name, command).map(|_| Outcome::Passed(String::new())))
    }

    /// The table of all stages, and the verdict.
    pub(crate) fn end(self) -> Result<()> {
        println!("\n{:<28} {:>9}  result", "stage", "time");
        for (name, took, line) in &self.done {
            println!("{name:<28} {:>9}  {line}", seconds(*took));
        }
        println!("{:<28} {:>9}", "all", seconds(self.begin.elapsed()));
        if self.failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", self.failed.join(", "))) }
    }
}

/// A duration for people.
pub(crate) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        format!("{:.1}s", time.as_secs_f64())
    } else {
        format!("{}m{:02}s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

/// Runs a program with its output in a file of the stage's name; returns the output. An error holds
/// the end of it.
pub(crate) fn captured(name: &str, mut command: Command) -> Result<String> {
    let file_name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = scratch().join("logs").join(format!("{file_name}.log"));
    let problem = |error: &std::io::Error| format!("cannot write {}: {error}", path.display());
    std::fs::create_dir_all(scratch().join("logs")).map_err(|error| problem(&error))?;
    let log = Arc::new(Mutex::new(Output {
        file: File::create(&path).map_err(|error| problem(&error))?,
        last: VecDeque::new(),
        all: String::new(),
    }));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| cannot_start(&command, &error))?;
    let pipes: [Option<Box<dyn Read + Send>>; 2] =
        [child.stdout.take().map(|pipe| Box::new(pipe) as _), child.stderr.take().map(|pipe| Box::new(pipe) as _)];
    let readers: Vec<_> = pipes.into_iter().flatten().map(|pipe| read_lines(pipe, Arc::clone(&log))).collect();
    let status = wait(name, &mut child, &log)?;
    for reader in readers {
        reader.join().map_err(|_| "a reader of output panicked".to_owned())?;
    }
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    if status.success() {
        return Ok(log.all.clone());
    }
    let lines: Vec<&str> = log.last.iter().map(String::as_str).collect();
    Err(format!("{}\n{} failed: {status}; all output: {}", lines.join("\n"), shown(&command), path.display()))
}

struct Output {
    file: File,
    last: VecDeque<String>,
    all: String,
}

fn read_lines(pipe: Box<dyn Read + Send>, log: Arc<Mutex<Output>>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not hide the outcome; the last lines stay in memory.
            let _ = writeln!(log.file, "{text}");
            log.all.push_str(&text);
            log.all.push('\n');
            log.last.push_back(text);
            if log.last.len() > LINES_SHOWN {
                log.last.pop_front();
            }
        }
    })
}

fn wait(name: &str, child: &mut std::process::Child, log: &Mutex<Output>) -> Result<std::process::ExitStatus> {
    let terminal = std::io::stdout().is_terminal();
    let begin = Instant::now();
    let mut told = begin;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                if terminal {
                    print!("\r\x1b[K");
                }
                return Ok(status);
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(format!("cannot wait for {name}: {error}")),
        }
        let every = if terminal { Duration::from_millis(500) } else { HEARTBEAT };
        if told.elapsed() >= every {
            told = Instant::now();
            let last = log.lock().unwrap_or_else(PoisonError::into_inner).last.back().cloned().unwrap_or_default();
            let last: String = last.trim().chars().filter(|c| !c.is_control()).take(90).collect();
            let line = format!("  … {} {last}", seconds(begin.elapsed()));
            if terminal {
                print!("\r\x1b[K{line}");
                // Progress is for the eye; a failed flush changes nothing.
                let _ = std::io::stdout().flush();
            } else {
                println!("{line}");
            }
        }
    }
}
