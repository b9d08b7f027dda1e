//! Why a job stopped.

use weir_base::{ErrorKind, Kinded};
use weir_component::checkpoint::CheckpointError;
use weir_component::operator::OperatorError;
use weir_component::sink::SinkError;
use weir_component::source::SourceError;

/// Why a job stopped before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A component failed.
    #[error("{node}: {message}")]
    Component {
        /// Which one, by its id in the pipeline.
        node: String,
        /// What kind of error.
        kind: ErrorKind,
        /// What was attempted and what came of it.
        message: String,
    },
    /// A sink lost what it was given since the last decision, or nobody knows what became of it, or a source lost
    /// its share to other processes. Opening the job again shows, and goes on from there.
    #[error("{node}: {message}; it goes on from what was decided last once it is started again")]
    Undecided {
        /// Which one, by its id in the pipeline.
        node: String,
        /// What kind of error.
        kind: ErrorKind,
        /// What was attempted and what came of it.
        message: String,
    },
    /// The checkpoints cannot be read or written.
    #[error("checkpoint: {message}")]
    Checkpoint {
        /// What kind of error.
        kind: ErrorKind,
        /// What was attempted and what came of it.
        message: String,
    },
    /// Another process has taken over this pipeline.
    #[error("another process runs this pipeline since generation {generation}")]
    Fenced {
        /// The generation of the other.
        generation: u64,
    },
    /// What is kept of rows takes more memory than it may.
    #[error(
        "the state takes {bytes} bytes, more than the {max} it may (in a server the limit pipeline_state_bytes_max of the tenant): use smaller windows or tables, or fewer keys, or raise the limit"
    )]
    StateTooLarge {
        /// What it takes.
        bytes: usize,
        /// What it may take.
        max: usize,
    },
    /// The checkpoint is not one of this pipeline as it is now.
    #[error("the checkpoint cannot be taken over: {reason}")]
    Changed {
        /// What differs.
        reason: String,
    },
}

impl Kinded for JobError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Component { kind, .. } | Self::Undecided { kind, .. } | Self::Checkpoint { kind, .. } => *kind,
            Self::Fenced { .. } | Self::Changed { .. } => ErrorKind::Conflict,
            Self::StateTooLarge { .. } => ErrorKind::Limit,
        }
    }
}

impl JobError {
    pub(crate) fn operator(node: &str, error: OperatorError) -> Self {
        Self::Component { node: node.to_owned(), kind: error.kind, message: error.message }
    }

    pub(crate) fn source(node: &str, error: SourceError) -> Self {
        if error.is_lost {
            return Self::Undecided { node: node.to_owned(), kind: error.kind, message: error.message };
        }
        Self::Component { node: node.to_owned(), kind: error.kind, message: error.message }
    }

    pub(crate) fn sink(node: &str, error: SinkError) -> Self {
        if error.is_undecided {
            return Self::Undecided { node: node.to_owned(), kind: error.kind, message: error.message };
        }
        Self::Component { node: node.to_owned(), kind: error.kind, message: error.message }
    }

    pub(crate) fn internal(node: &str, error: impl std::fmt::Display) -> Self {
        Self::Component { node: node.to_owned(), kind: ErrorKind::Internal, message: error.to_string() }
    }

    /// Whether the same thing may go well later.
    pub fn may_pass(kind: ErrorKind) -> bool {
        matches!(kind, ErrorKind::Transient | ErrorKind::Timeout | ErrorKind::Limit | ErrorKind::Full)
    }
}

impl From<CheckpointError> for JobError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint { kind: error.kind, message: error.message }
    }
}
