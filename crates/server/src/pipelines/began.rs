//! Since when a pipeline reads each of its streams: a source that begins with what comes, and has come to no checkpoint yet,
//! begins there, however often the document was changed or the server killed since.
//!
//! The times of an incarnation are in a file of its folder. Where it has none of a stream, the stream is read since the document
//! was changed last.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use weir_base::Timestamp;
use weir_base::disk::Disk;

/// The file is not larger: there is an entry for each stream that a document reads.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Since when streams are read, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Began(pub(super) BTreeMap<String, Timestamp>);

impl Began {
    /// The file of an incarnation.
    pub(super) const FILE: &str = "began.json";

    /// Those of the incarnation in `folder`.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what was written.
    pub(super) fn load(disk: &dyn Disk, folder: &Path) -> io::Result<Self> {
        let bytes = match disk.read(&folder.join(Self::FILE), FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let times: BTreeMap<String, i64> = serde_json::from_slice(&bytes)?;
        Ok(Self(times.into_iter().map(|(stream, time)| (stream, Timestamp(time))).collect()))
    }

    /// Keeps those of the incarnation in `folder` that it has not kept yet: the streams are read since then. Those of streams that
    /// are not read any more are forgotten.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub(super) fn keep(disk: &dyn Disk, folder: &Path, streams: &[String], since: Timestamp) -> io::Result<()> {
        let Self(known) = Self::load(disk, folder)?;
        let time = |stream: &String| (stream.clone(), known.get(stream).copied().unwrap_or(since));
        let times: BTreeMap<String, Timestamp> = streams.iter().map(time).collect();
        if times == known {
            return Ok(());
        }
        let times: BTreeMap<String, i64> = times.into_iter().map(|(stream, time)| (stream, time.0)).collect();
        disk.create_dir_all(folder)?;
        disk.replace(&folder.join(Self::FILE), &serde_json::to_vec_pretty(&times)?)
    }
}

#[cfg(test)]
mod tests {
    use weir_base::disk::RealDisk;

    use super::*;

    #[test]
    fn what_was_read_first_stays_as_long_as_it_is_read() {
        let (disk, place) = (RealDisk::new(), tempfile::tempdir().unwrap());
        let folder = &place.path().join("incarnation");
        let streams = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let keep =
            |names: &[&str], since| Began::keep(disk.as_ref(), folder, &streams(names), Timestamp(since)).unwrap();
        let times =
            || Began::load(disk.as_ref(), folder).unwrap().0.into_values().map(|time| time.0).collect::<Vec<_>>();
        assert!(times().is_empty());
        keep(&["a"], 1);
        keep(&["a", "b"], 2);
        keep(&["a", "b"], 3);
        assert_eq!(times(), [1, 2]);
        keep(&["b"], 4);
        keep(&["a", "b"], 5);
        assert_eq!(times(), [5, 2]);
    }
}
