//! Answers questions to Parquet files with stock DataFusion, for the benchmark to compare with.
//!
//! ```text
//! weir-stock DIR THREADS REPEATS < questions.json
//! ```
//!
//! The questions are a JSON array of SQL over a table `logs`. The answers are one of objects with the best
//! time of REPEATS after a first, in milliseconds, and the rows. A program of its own, because one
//! crate only names the engine, and an answer should not come out of a process that did other work.
#![allow(clippy::print_stdout, reason = "its answer is its output")]
#![allow(clippy::disallowed_methods, reason = "stock DataFusion is asked in the ordinary way, and time is measured")]

mod session;

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use datafusion::common::{DataFusionError, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let answers = match arguments.as_slice() {
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

fn answer(folder: &Path, threads: usize, repeats: usize) -> Result<serde_json::Value> {
    let mut questions = String::new();
    std::io::stdin().read_to_string(&mut questions)?;
    let external = |error: serde_json::Error| DataFusionError::External(error.into());
    let questions: Vec<String> = serde_json::from_str(&questions).map_err(external)?;
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
