//! The `weir` program: reads the command line, runs one command, and turns its outcome into an exit
//! code. What each command does is in [`commands`]; the server is wired together in [`serve`].
//!
//! Exit codes are contract: 0 done, 1 failed, 2 wrong arguments or configuration.

mod cli;
mod client;
mod commands;
mod failure;
mod generate;
mod serve;
mod traces;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command_line = cli::CommandLine::parse();
    match commands::run(command_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !failure::is_closed_pipe(&error) {
                // With standard error gone there is nobody left to tell.
                let _ = writeln!(std::io::stderr(), "{}", failure::report(&error));
            }
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
