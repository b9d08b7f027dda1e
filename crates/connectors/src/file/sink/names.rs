//! What files are called: those that can be seen, and those beside them.

use std::path::{Path, PathBuf};

/// Digits of the number of a rolled file, at least.
const DIGITS: usize = 6;

/// The names of one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// The folder.
    pub(super) folder: PathBuf,
    file: String,
    rolled: bool,
}

impl Names {
    /// Those of a sink that writes `path`; `None` if that is no file's.
    pub(super) fn new(path: &Path, rolled: bool) -> Option<Self> {
        let file = path.file_name()?.to_str()?.to_owned();
        Some(Self { folder: path.parent()?.to_owned(), file, rolled })
    }

    /// The file of a number; the only one there is if files are not rolled.
    pub(super) fn target(&self, number: u64) -> String {
        if !self.rolled {
            return self.file.clone();
        }
        let (stem, extension) = self.parts();
        format!("{stem}-{number:0DIGITS$}{extension}")
    }

    /// The number of a file; `None` if it is none of this sink's.
    pub(super) fn number_of(&self, name: &str) -> Option<u64> {
        if !self.rolled {
            return (name == self.file).then_some(0);
        }
        let (stem, extension) = self.parts();
        let digits = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?;
        (digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
    }

    /// The name before and after the place of the number.
    fn parts(&self) -> (&str, &str) {
        match self.file.rfind('.') {
            Some(dot) if dot > 0 => self.file.split_at(dot),
            _ => (&self.file, ""),
        }
    }

    /// What the names of everything that cannot be seen yet begin with.
    pub(super) fn hidden(&self) -> String {
        format!(".{}.weir-", self.file)
    }

    /// Whether a file is this sink's, visible or not.
    pub(super) fn is_own(&self, name: &str) -> bool {
        self.number_of(name).is_some() || name.starts_with(&self.hidden())
    }

    /// The lock, held as long as the sink is open.
    pub(super) fn lock(&self) -> PathBuf {
        self.folder.join(format!("{}lock", self.hidden()))
    }

    /// The `count`-th stage of a generation.
    pub(super) fn stage(&self, generation: u64, count: u64) -> String {
        format!("{}g{generation}-s{count}", self.hidden())
    }

    /// The `count`-th version of a file that a generation makes.
    pub(super) fn version(&self, generation: u64, count: u64) -> String {
        format!("{}g{generation}-v{count}", self.hidden())
    }

    /// Whether a name is one of a stage or a version, of any generation.
    pub(super) fn is_scrap(&self, name: &str) -> bool {
        name.strip_prefix(&self.hidden()).is_some_and(|rest| rest.starts_with('g'))
    }
}
