//! How attribute keys read in a pipeline: as they did when it first asked for them, whatever is declared later. A key
//! that nobody had sent yet reads as text, as long as the pipeline does not begin anew.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use weir_base::disk::Disk;
use weir_data::attributes::AttributeKind;
use weir_meta::attributes::AttributeKinds;
use weir_sql::tables::AttributeKindLookup;

/// The file of an incarnation.
pub(super) const FILE: &str = "kinds.json";
/// The file is not larger: there is an entry for each key that is written in the document.
pub(super) const FILE_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    stream: String,
    column: String,
    key: String,
}

/// An entry of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    stream: String,
    column: String,
    key: String,
    /// As [`AttributeKind::as_str`]; nothing for one that had none.
    kind: Option<String>,
}

/// The kinds a pipeline uses.
#[derive(Debug)]
pub(super) struct FrozenKinds {
    current: Arc<AttributeKinds>,
    answers: Mutex<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    kinds: BTreeMap<Key, Option<AttributeKind>>,
    has_grown: bool,
}

impl FrozenKinds {
    /// Kinds as they are now, for a pipeline that begins.
    pub(super) fn new(current: Arc<AttributeKinds>) -> Self {
        Self { current, answers: Mutex::default() }
    }

    /// Kinds as the incarnation in `folder` has them; as they are now where it has not asked yet.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what was written.
    pub(super) fn load(current: Arc<AttributeKinds>, disk: &dyn Disk, folder: &Path) -> io::Result<Self> {
        let bytes = match disk.read(&folder.join(FILE), FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::new(current)),
            Err(error) => return Err(error),
        };
        let entries: Vec<Entry> = serde_json::from_slice(&bytes)?;
        let mut kinds = BTreeMap::new();
        for Entry { stream, column, key, kind } in entries {
            let kind = match kind {
                None => None,
                Some(text) => Some(AttributeKind::parse(&text).ok_or(io::ErrorKind::InvalidData)?),
            };
            kinds.insert(Key { stream, column, key }, kind);
        }
        Ok(Self { current, answers: Mutex::new(Answers { kinds, has_grown: false }) })
    }

    /// Keeps the answers, if there are new ones.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn save(&self, disk: &dyn Disk, folder: &Path) -> io::Result<()> {
        let mut answers = self.answers.lock();
        if !answers.has_grown {
            return Ok(());
        }
        let entry = |(Key { stream, column, key }, kind): (&Key, &Option<AttributeKind>)| Entry {
            stream: stream.clone(),
            column: column.clone(),
            key: key.clone(),
            kind: kind.map(|kind| kind.as_str().to_owned()),
        };
        let entries: Vec<Entry> = answers.kinds.iter().map(entry).collect();
        disk.create_dir_all(folder)?;
        disk.replace(&folder.join(FILE), &serde_json::to_vec_pretty(&entries)?)?;
        answers.has_grown = false;
        Ok(())
    }
}

impl AttributeKindLookup for FrozenKinds {
    fn kind(&self, stream: &str, column: &str, key: &str) -> Option<AttributeKind> {
        let asked = Key { stream: stream.to_owned(), column: column.to_owned(), key: key.to_owned() };
        let mut answers = self.answers.lock();
        if let Some(kind) = answers.kinds.get(&asked) {
            return *kind;
        }
        let kind = self.current.get(stream, column, key);
        answers.kinds.insert(asked, kind);
        answers.has_grown = true;
        kind
    }
}
