//! Answers questions to Parquet files with stock DataFusion, for the benchmark to compare with.
//!
//! ```text
//! weir-stock DIR THREADS REPEATS < questions.json
//! weir-stock --memory FILE THREADS REPEATS < questions.json
//! ```
//!
//! The questions are a JSON array of SQL over a table `logs`. The answers are one of objects with the best
//! time of REPEATS after a first, in milliseconds, and the rows. With `--memory` the table is called `bid`, has the rows of
//! an Arrow IPC file and is in memory before anything is asked, and an answer says the best CPU time and how many rows
//! there are. A program of its own, because one
//! crate only names the engine, and an answer should not come out of a process that did other work.
#![allow(clippy::print_stdout, reason = "its answer is its output")]
#![allow(clippy::disallowed_methods, reason = "stock DataFusion is asked in the ordinary way, and time is measured")]

mod memory;
mod session;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use datafusion::common::{DataFusionError, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let answers = match arguments.as_slice() {
        [memory, file, threads, repeats] if memory == "--memory" => match (threads.parse(), repeats.parse()) {
            (Ok(threads), Ok(repeats)) => answer_from_memory(Path::new(file), threads, repeats),
            _ => Err(DataFusionError::External("THREADS and REPEATS are numbers".into())),
        },
        [folder, threads, repeats] => match (threads.parse(), repeats.parse()) {
            (Ok(threads), Ok(repeats)) => answer(Path::new(folder), threads, repeats),
            _ => Err(DataFusionError::External("THREADS and REPEATS are numbers".into())),
        },
        _ => Err(DataFusionError::External("DIR, THREADS and REPEATS are needed".into())),
    };
    match answers {
        Ok(answers) => {
            println!("{answers}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn questions() -> Result<Vec<String>> {
    let mut questions = String::new();
    std::io::stdin().read_to_string(&mut questions)?;
    serde_json::from_str(&questions).map_err(|error| DataFusionError::External(error.into()))
}

fn answer_from_memory(file: &Path, threads: usize, repeats: usize) -> Result<serde_json::Value> {
    let questions = questions()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        let context = memory::open(file, threads)?;
        let mut answers = Vec::new();
        for sql in &questions {
            let (_, rows) = memory::ask(&context, sql).await?;
            let mut best = Duration::MAX;
            for _ in 0..repeats {
                best = best.min(memory::ask(&context, sql).await?.0);
            }
            answers.push(serde_json::json!({ "cpu_ms": best.as_secs_f64() * 1e3, "rows": rows }));
        }
        Ok(serde_json::Value::from(answers))
    })
}

fn answer(folder: &Path, threads: usize, repeats: usize) -> Result<serde_json::Value> {
    let questions = questions()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        let context = session::open(folder, threads).await?;
        let mut answers = Vec::new();
        for sql in &questions {
            let (_, batches) = session::ask(&context, sql).await?;
            let mut best = Duration::MAX;
            for _ in 0..repeats {
                best = best.min(session::ask(&context, sql).await?.0);
            }
            answers.push(serde_json::json!({ "ms": best.as_secs_f64() * 1e3, "rows": session::shown(&batches)? }));
        }
        Ok(serde_json::Value::from(answers))
    })
}
