//! The table entry of a component, from which reference pages, schemas, `weir components` and the
//! contract tests follow.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::Schema;
use serde_json::Value as Json;
use weir_base::Clock;
use weir_base::disk::Disk;

use crate::sink::PlannedSink;
use crate::source::PlannedSource;
use crate::streams::Streams;

/// What a component needs of the world, which a tenant's policy reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Connects to other machines.
    pub connects: bool,
    /// Reads or writes files of this machine.
    pub files: bool,
    /// Uses credentials.
    pub credentials: bool,
    /// Writes to the terminal of the process.
    pub terminal: bool,
}

impl Access {
    /// Everything there is.
    pub const ALL: Self = Self { connects: true, files: true, credentials: true, terminal: true };

    /// What of this is not in `allowed`, in words; `None` if all of it is.
    pub fn beyond(self, allowed: Self) -> Option<&'static str> {
        let missing = |wants: bool, may: bool| wants && !may;
        if missing(self.terminal, allowed.terminal) {
            Some("writes to a terminal")
        } else if missing(self.files, allowed.files) {
            Some("reads or writes files of the machine")
        } else if missing(self.connects, allowed.connects) {
            Some("connects to other machines")
        } else if missing(self.credentials, allowed.credentials) {
            Some("uses credentials")
        } else {
            None
        }
    }
}

/// How finished a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// Its configuration only grows.
    Stable,
    /// Its configuration may change.
    Preview,
}

impl Stability {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Preview => "preview",
        }
    }
}

/// What all components have in common.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// The name in a pipeline: a noun.
    pub name: &'static str,
    /// One sentence: what it does.
    pub summary: &'static str,
    /// How finished it is.
    pub stability: Stability,
    /// What it needs of the world.
    pub access: Access,
    /// An example configuration, as YAML.
    pub example: &'static str,
    /// The JSON schema of its configuration. Unknown fields are refused; each field is documented.
    pub schema: fn() -> Schema,
}

/// A source, as an entry of a table.
#[derive(Clone, Copy, Debug)]
pub struct SourceSpec {
    /// Name, summary, schema.
    pub about: About,
    /// Checks a configuration that matches the schema, and plans the source. Reads local files only as
    /// far as needed to know the columns.
    pub plan: fn(&Json, &PlanContext) -> Result<Arc<dyn PlannedSource>, Vec<Fault>>,
}

/// A sink, as an entry of a table.
#[derive(Clone, Copy, Debug)]
pub struct SinkSpec {
    /// Name, summary, schema.
    pub about: About,
    /// What it promises at best.
    pub delivery: crate::sink::Delivery,
    /// Checks a configuration that matches the schema, and plans the sink. No input or output. Beside it is the key
    /// of the sink: the columns a result is known by, if it is given revisions, else none. The columns exist, and
    /// the rows end with [`crate::revision::COLUMNS`]; the engine has added them.
    pub plan: fn(&Json, &[String], &PlanContext) -> Result<Arc<dyn PlannedSink>, Vec<Fault>>,
}

/// What a component may know while it is planned.
#[derive(Clone, Debug)]
pub struct PlanContext {
    /// What relative paths are relative to.
    pub directory: PathBuf,
    /// The name of the pipeline.
    pub pipeline: String,
    /// The tenant it belongs to; `None` where there are none, as in `weir run`.
    pub tenant: Option<String>,
    /// The longest time from one checkpoint to the next, while there is something new.
    pub checkpoint_interval: Duration,
    /// The disk of files that are read and written.
    pub disk: Arc<dyn Disk>,
    /// The clock of whatever depends on arrival or age.
    pub clock: Arc<dyn Clock>,
    /// The streams of the pipeline's tenant; `None` where a pipeline runs by itself.
    pub streams: Option<Arc<dyn Streams>>,
}

impl PlanContext {
    /// A path of a configuration, made whole.
    pub fn path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }
}

/// Something wrong with a configuration, before its place in the file is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where in the component's configuration, as a JSON pointer; empty for all of it.
    pub pointer: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Where in the text at `pointer`, if that is an expression: line and column in characters, both
    /// from 1.
    pub inside: Option<(usize, usize)>,
    /// Whether it is wrong whatever the columns are. Other faults are not told where the columns are not known, because
    /// something before is wrong.
    pub is_of_itself: bool,
}

impl Fault {
    /// Something wrong at `pointer`.
    pub fn new(pointer: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let (pointer, message, hint) = (pointer.to_owned(), message.into(), hint.into());
        Self { pointer, message, hint, inside: None, is_of_itself: false }
    }

    /// The same, and wrong whatever the columns are.
    #[must_use]
    pub fn of_itself(self) -> Self {
        Self { is_of_itself: true, ..self }
    }

    /// Something wrong at that line and column of the text at its pointer.
    #[must_use]
    pub fn at(self, line: usize, column: usize) -> Self {
        Self { inside: Some((line, column)), ..self }
    }
}
