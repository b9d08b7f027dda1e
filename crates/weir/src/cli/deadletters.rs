//! `weir deadletters`.

use clap::{Args, Subcommand};

use super::{ForTenant, ListFormat, RunState, Target};

/// `weir deadletters`
#[derive(Debug, Subcommand)]
pub(crate) enum DeadlettersCommand {
    /// List the rows of a pipeline that failed, newest first, with the error
    List {
        /// Name of the pipeline, or the file of one that `weir run` runs
        name: String,
        #[command(flatten)]
        which: Which,
        /// Also those that were run again
        #[arg(long)]
        all: bool,
        /// At most so many
        #[arg(long, short = 'n', value_name = "ROWS", default_value_t = 100)]
        limit: u64,
        /// Format of the answer
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        state: RunState,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Run rows that failed again, each once, at the step or source that had set them aside
    Replay {
        /// Name of the pipeline, or the file of one that `weir run` runs
        name: String,
        #[command(flatten)]
        which: Which,
        /// Only these; may be repeated
        #[arg(long = "id", value_name = "ID")]
        ids: Vec<String>,
        /// Only say how many could be run again, and why others could not
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        state: RunState,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Show rows that failed no more, neither here nor in queries
    Purge {
        /// Name of the pipeline, or the file of one that `weir run` runs
        name: String,
        #[command(flatten)]
        which: Which,
        /// Only these; may be repeated
        #[arg(long = "id", value_name = "ID")]
        ids: Vec<String>,
        /// All of them
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        state: RunState,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
}

/// Which dead letters.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// Only those set aside since: a time (RFC 3339), or how long ago, such as 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Only those of this class: malformed, no_time, failed, over_limit or refused
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<String>,
    /// Only those that this source or step has set aside, or that were refused at this sink (`to ID`)
    #[arg(long, value_name = "ID")]
    pub(crate) step: Option<String>,
}
