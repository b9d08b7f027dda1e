//! The whole command line. Doc comments here are what `--help` prints, so they are written for the
//! person at the terminal.

mod deadletters;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_base::quantity::Span;

use crate::serve::ServeArgs;
pub(crate) use deadletters::{DeadlettersCommand, Which};

/// Telemetry and product events for many tenants: durable before the reply, queryable at once.
#[derive(Debug, Parser)]
#[command(name = "weir", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong arguments or configuration.\n\
    `weir serve` starts a server; every other command that needs one finds it by --url and --key, or by --data-dir.")]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Create, list, show and delete tenants
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Create, list and revoke the keys of a tenant
    #[command(subcommand)]
    Key(KeyCommand),
    /// Ask a question in SQL
    Query(QueryArgs),
    /// Follow a stream: every row accepted from now on
    Tail(TailArgs),
    /// Make believable traffic and send it to a server: the simulator
    Generate(GenerateArgs),
    /// Run a pipeline without a server, until its input ends
    Run(RunArgs),
    /// Apply, list, show, stop, start and delete pipelines that run in a server
    #[command(subcommand)]
    Pipeline(PipelineCommand),
    /// List, run again and purge the rows of a pipeline that failed
    #[command(subcommand)]
    Deadletters(DeadlettersCommand),
    /// Watch the pipelines of a tenant: rates, lag, time, state and errors of every part
    Top(TopArgs),
    /// Follow the rows that pass a part of a pipeline in a server, without disturbing it
    Tap(TapArgs),
    /// Run text tests of pipelines, in simulated time
    Test(TestArgs),
    /// Check a configuration file or a pipeline without starting anything
    Check(CheckArgs),
    /// Inspect and repair the log of a stopped server
    #[command(subcommand)]
    Log(LogCommand),
    /// List what this program can receive, and what pipelines are made of
    Components(ComponentsArgs),
    /// Write the reference pages of the documentation
    #[command(hide = true)]
    Reference(ReferenceArgs),
}

/// Which server to talk to.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server")]
pub(crate) struct Target {
    /// Address of the server, such as https://weir.example.org; without it the server of the data
    /// directory is used
    #[arg(long, value_name = "URL", env = "WEIR_URL")]
    pub(crate) url: Option<String>,

    /// Key to use; without it the administrator's key of the data directory
    #[arg(long, value_name = "KEY", env = "WEIR_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,

    /// Data directory of a server on this machine
    #[arg(long, value_name = "DIR", env = "WEIR_DATA_DIR", default_value = crate::serve::DATA_DIR_DEFAULT)]
    pub(crate) data_dir: PathBuf,

    /// PEM file with the certificate authority to trust, for servers with a certificate of their own
    #[arg(long, value_name = "FILE", env = "WEIR_CA_FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// Tenant an administrator's key acts for.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ForTenant {
    /// Tenant to act for; only an administrator's key may choose one
    #[arg(long, value_name = "TENANT", env = "WEIR_TENANT")]
    pub(crate) tenant: Option<String>,
}

/// How lists of things are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// A table for people
    #[default]
    Table,
    /// The server's JSON
    Json,
}

/// A tier, as the command line writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TierName {
    /// The smallest limits
    #[default]
    Free,
    /// The middle ones
    Paid,
    /// The largest
    Enterprise,
}

impl From<TierName> for weir_api::tenant::Tier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Free => Self::Free,
            TierName::Paid => Self::Paid,
            TierName::Enterprise => Self::Enterprise,
        }
    }
}

/// A scope, as the command line writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScopeName {
    /// Sending rows
    Ingest,
    /// Asking queries and following streams
    Query,
    /// Managing the tenant's own keys
    Admin,
}

impl From<ScopeName> for weir_api::key::Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Ingest => Self::Ingest,
            ScopeName::Query => Self::Query,
            ScopeName::Admin => Self::Admin,
        }
    }
}

/// `weir tenant`
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Create a tenant
    Create {
        /// Identifier: 1 to 64 of a-z, 0-9, _ and -, beginning with a letter or digit
        id: String,
        /// Name for people; the identifier if absent
        #[arg(long)]
        name: Option<String>,
        /// Tier, which decides the limits
        #[arg(long, value_enum, default_value_t)]
        tier: TierName,
        /// Format of the answer
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        target: Target,
    },
    /// List all tenants
    List {
        /// Format of the answer
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        target: Target,
    },
    /// Show one tenant with its limits
    Show {
        /// Identifier of the tenant
        id: String,
        /// Format of the answer
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        target: Target,
    },
    /// Delete a tenant, its keys and all its data; there is no way back
    Delete {
        /// Identifier of the tenant
        id: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        target: Target,
    },
}

/// `weir key`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Create a key and print it, this once, on standard output
    Create {
        #[command(flatten)]
        tenant: ForTenant,
        /// What the key allows, separated by commas; with admin for tenant system it is an administrator's key
        #[arg(long, value_name = "SCOPES", value_enum, value_delimiter = ',', default_value = "ingest,query")]
        scopes: Vec<ScopeName>,
        /// Note that says what the key is for
        #[arg(long)]
        name: Option<String>,
        /// Last moment of the key, such as 2027-01-31T00:00:00Z; it never ends if absent
        #[arg(long, value_name = "TIME", conflicts_with = "expires_in")]
        expires_at: Option<String>,
        /// Life of the key from now, such as 90d
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Span>,
        /// json prints the server's whole answer instead of the key alone
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        target: Target,
    },
    /// List the keys of a tenant, without their secrets
    List {
        #[command(flatten)]
        tenant: ForTenant,
        /// Format of the answer
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        target: Target,
    },
    /// Make another administrator's key in admin.key of the data directory, when every other is lost; the server must be
    /// stopped
    Rescue {
        /// Data directory
        #[arg(long, value_name = "DIR", env = "WEIR_DATA_DIR", default_value = crate::serve::DATA_DIR_DEFAULT)]
        data_dir: PathBuf,
    },
    /// Revoke a key; it stops working within a second
    Revoke {
        /// Identifier of the key: the part after weir_key_ or weir_adm_, as `weir key list` shows it
        id: String,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
}

/// `weir pipeline`
#[derive(Debug, Subcommand)]
pub(crate) enum PipelineCommand {
    /// Check a pipeline and let the server run it, in place of the one of the same name
    Apply {
        /// Pipeline, YAML, TOML or JSON
        file: PathBuf,
        /// Only check it, and say what would happen
        #[arg(long)]
        dry_run: bool,
        /// Begin anew, without the checkpoints there are
        #[arg(long)]
        restart: bool,
        /// Format of the answer
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List the pipelines of a tenant
    List {
        /// Format of the answer
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Show one pipeline with its state and the counters of its parts
    Show {
        /// Name of the pipeline
        name: String,
        /// Format of the answer; json has the document, too
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Say what time waits for in a pipeline, and which part the others wait for
    Explain {
        /// Name of the pipeline
        name: String,
        /// Format of the answer
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Stop a pipeline after one more checkpoint
    Stop {
        /// Name of the pipeline
        name: String,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Let a pipeline that was stopped or has failed go on from its checkpoint
    Start {
        /// Name of the pipeline
        name: String,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Make a checkpoint of a pipeline now, and keep it under a name
    Savepoint {
        /// Name of the pipeline, or the file of one that `weir run` runs and that does not run now
        name: String,
        /// Name of the savepoint: a-z, 0-9, _ and -; the time if absent
        #[arg(long = "as", value_name = "LABEL")]
        label: Option<String>,
        #[command(flatten)]
        state: RunState,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// List the savepoints of a pipeline
    Savepoints {
        /// Name of the pipeline, or the file of one that `weir run` runs and that does not run now
        name: String,
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
    /// Let a pipeline go on from a savepoint
    Restore {
        /// Name of the pipeline, or the file of one that `weir run` runs and that does not run now
        name: String,
        /// Name of the savepoint
        label: String,
        /// With this document, YAML, TOML or JSON, in place of the one it has
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Only check it, and say what would happen
        #[arg(long)]
        dry_run: bool,
        /// Also if the pipeline has read on since, so that the rows after the savepoint are written again
        #[arg(long)]
        write_again: bool,
        #[command(flatten)]
        state: RunState,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Delete a savepoint
    DeleteSavepoint {
        /// Name of the pipeline, or the file of one that `weir run` runs and that does not run now
        name: String,
        /// Name of the savepoint
        label: String,
        #[command(flatten)]
        state: RunState,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
    /// Stop a pipeline and forget it with its checkpoints and savepoints; what it has written stays
    Delete {
        /// Name of the pipeline
        name: String,
        #[command(flatten)]
        tenant: ForTenant,
        #[command(flatten)]
        target: Target,
    },
}

/// Where `weir run` keeps what it knows of a pipeline.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunState {
    /// If NAME is a file: where `weir run` keeps its state; `.weir/PIPELINE` beside the file if absent
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

/// `weir tap`
#[derive(Args, Debug)]
pub(crate) struct TapArgs {
    /// Pipeline, or PIPELINE.PART with the id of a source, step or sink as `weir pipeline show` has it; the rows
    /// that come to the first sink without it
    pub(crate) place: String,
    /// Only rows for which this SQL condition is true
    #[arg(long = "where", value_name = "SQL")]
    pub(crate) filter: Option<String>,
    /// Show one row of so many
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) every: Option<u64>,
    /// End after this many rows
    #[arg(long, short = 'n', value_name = "ROWS")]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) tenant: ForTenant,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `weir top`
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Only this pipeline
    pub(crate) name: Option<String>,
    /// Time between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(crate) every: Span,
    /// End after this many looks; it goes on until it is interrupted if absent
    #[arg(long, short = 'n', value_name = "LOOKS")]
    pub(crate) looks: Option<u64>,
    #[command(flatten)]
    pub(crate) tenant: ForTenant,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// How query results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueryFormat {
    /// A table for people, as wide as the terminal
    #[default]
    Table,
    /// One JSON document with columns, rows and statistics
    Json,
    /// One JSON object a row
    Ndjson,
    /// Comma-separated values with a header line
    Csv,
    /// Arrow IPC stream
    Arrow,
    /// Parquet file
    Parquet,
}

/// `weir query`
#[derive(Args, Debug)]
pub(crate) struct QueryArgs {
    /// The question, such as "select count(*) from events"; `-` reads it from standard input
    pub(crate) sql: String,
    #[command(flatten)]
    pub(crate) tenant: ForTenant,
    /// Format of the answer
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) format: QueryFormat,
    /// Value of the next parameter ($1, $2, ...): JSON, or text if it is not JSON; may be repeated
    #[arg(long = "param", short, value_name = "VALUE")]
    pub(crate) params: Vec<String>,
    /// Write the answer to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `weir tail`
#[derive(Args, Debug)]
pub(crate) struct TailArgs {
    /// Stream to follow: events, logs, spans, metrics, ...
    pub(crate) stream: String,
    /// Only rows for which this SQL condition is true, such as "severity_number >= 17"
    #[arg(long = "where", value_name = "SQL")]
    pub(crate) filter: Option<String>,
    /// End after this many rows
    #[arg(long, short = 'n', value_name = "ROWS")]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) tenant: ForTenant,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `weir generate`
#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    /// Number of demo tenants; those that do not exist are created, with an administrator's key
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) tenants: u32,
    /// Rows a second, over all tenants
    #[arg(long, value_name = "ROWS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rate: u32,
    /// Stop after this long, such as 30s; it runs until interrupted if absent
    #[arg(long, value_name = "DURATION")]
    pub(crate) duration: Option<Span>,
    /// Seed: the same seed makes the same traffic
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Include an incident: errors and latency rise for a while
    #[arg(long)]
    pub(crate) incident: bool,
    /// Address of OTLP over gRPC, host:port; needed only together with --url
    #[arg(long, value_name = "ADDR", env = "WEIR_OTLP_GRPC")]
    pub(crate) otlp_grpc: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}

/// `weir run`
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Pipeline, YAML, TOML or JSON
    pub(crate) file: PathBuf,
    /// Folder for checkpoints and for rows that were set aside; .weir/PIPELINE beside the file if absent
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Forget the checkpoint of a run that did not end, and begin anew
    #[arg(long)]
    pub(crate) restart: bool,
}

/// `weir test`
#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Tests, or folders with tests: files that end in .wt
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Rewrite what is expected with what a straight run gives
    #[arg(long)]
    pub(crate) bless: bool,
}

/// `weir check`
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Configuration file or pipeline, YAML, TOML or JSON
    pub(crate) file: PathBuf,
}

/// `weir log`
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Check every record of the log; the server must be stopped
    Fsck {
        /// Data directory
        #[arg(long, value_name = "DIR", env = "WEIR_DATA_DIR", default_value = crate::serve::DATA_DIR_DEFAULT)]
        data_dir: PathBuf,
        /// Cut torn ends and set damaged segments aside, as recovery would
        #[arg(long)]
        repair: bool,
    },
}

/// `weir components`
#[derive(Args, Debug)]
pub(crate) struct ComponentsArgs {
    /// Source, step or sink to describe; all are listed without it
    pub(crate) name: Option<String>,
    /// Only print an example of it, as it stands in a pipeline
    #[arg(long, requires = "name")]
    pub(crate) example: bool,
    /// Format of the answer
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ListFormat,
}

/// `weir reference`
#[derive(Args, Debug)]
pub(crate) struct ReferenceArgs {
    /// Directory of the pages
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Write nothing; fail if a page is not what would be written
    #[arg(long)]
    pub(crate) check: bool,
}

#[cfg(test)]
mod tests;
