//! The small files beside the segments: who the log is, and what must outlive its segments. Each is
//! kept twice, so that one damaged copy costs nothing.

use std::io;
use std::path::{Path, PathBuf};

use weir_base::TenantId;
use weir_base::crc::crc32c;
use weir_base::disk::{Disk, with_suffix};

use crate::format::{ALIGN, Cursor, Malformed, put_text};
use crate::types::OFFSET_MAX;
use crate::{LogError, ProducerSequence};

const IDENTITY_MAGIC: [u8; 8] = *b"WEIRLOG1";
const CHECKPOINT_MAGIC: [u8; 8] = *b"WEIRCKP1";
const STATE_BYTES_MAX: u64 = 256 << 20;

/// Who a log is. Written once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) log_id: u64,
    pub(crate) shards: u16,
    /// The key of the dedup hashes: nobody outside can make two ids collide.
    pub(crate) dedup_key: [u8; 16],
}

/// The last sequence of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerState {
    pub(crate) tenant: TenantId,
    pub(crate) last: ProducerSequence,
    /// When it was committed, nanoseconds since 1970.
    pub(crate) time: i64,
}

/// What a shard knows independent of its segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Rises with every write, so that the newer copy wins.
    pub(crate) sequence: u64,
    /// Where the oldest segment that should exist begins.
    pub(crate) oldest: u64,
    /// The newest segment known to exist.
    pub(crate) newest_number: u64,
    /// Where it begins.
    pub(crate) newest_base: u64,
    /// Ids in the runs and `producers` cover everything before this offset.
    pub(crate) position: u64,
    pub(crate) producers: Vec<ProducerState>,
}

impl Identity {
    /// The identity of the log in `dir`, made if the log is new.
    pub(crate) fn load_or_create(disk: &dyn Disk, dir: &Path, shards: u16) -> Result<Self, LogError> {
        if let Some((identity, whole)) = Self::load(disk, dir)? {
            if !whole {
                // A copy is missing (a crash while the log was made) or damaged.
                identity.store(disk, dir)?;
            }
            return Ok(identity);
        }
        let random: [u8; 24] = weir_base::random::bytes();
        let mut log_id = [0; 8];
        log_id.copy_from_slice(&random[..8]);
        let mut dedup_key = [0; 16];
        dedup_key.copy_from_slice(&random[8..]);
        let identity = Self { log_id: u64::from_le_bytes(log_id), shards, dedup_key };
        identity.store(disk, dir)?;
        Ok(identity)
    }

    /// Writes both copies.
    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        let path = dir.join("identity");
        write_pair(disk, &path, &self.encode()).map_err(|error| LogError::io("write", &path, error))
    }

    /// The identity of the log in `dir`, if there is a log, and whether both copies are good.
    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<(Self, bool)>, LogError> {
        let path = dir.join("identity");
        let pair = read_pair(disk, &path, Self::decode)?;
        if let Some(identity) = pair.good.first() {
            return Ok(Some((identity.clone(), pair.good.len() == 2)));
        }
        let shard_there = disk
            .list(dir)
            .map_err(|error| LogError::io("list", dir, error))?
            .iter()
            .any(|entry| entry.is_dir && entry.name.starts_with("shard-"));
        if pair.damaged || shard_there {
            return Err(LogError::Corrupt {
                file: path,
                offset: 0,
                what: "no copy of the log's identity is readable".into(),
            });
        }
        Ok(None)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = IDENTITY_MAGIC.to_vec();
        out.extend_from_slice(&self.log_id.to_le_bytes());
        out.extend_from_slice(&self.shards.to_le_bytes());
        out.extend_from_slice(&self.dedup_key);
        seal(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(unseal(bytes, IDENTITY_MAGIC)?);
        let log_id = cursor.u64()?;
        let shards = cursor.u16()?;
        let mut dedup_key = [0; 16];
        dedup_key.copy_from_slice(cursor.take(16)?);
        if shards == 0 {
            return Err(Malformed("a log without shards"));
        }
        Ok(Self { log_id, shards, dedup_key })
    }
}

impl Checkpoint {
    /// The newest readable copy; also whether a copy is damaged.
    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<(Option<Self>, bool), LogError> {
        let pair = read_pair(disk, &dir.join("checkpoint"), Self::decode)?;
        Ok((pair.good.into_iter().max_by_key(|checkpoint| checkpoint.sequence), pair.damaged))
    }

    /// Whether there is a copy, readable or not. Each shard has one from when it is first opened.
    pub(crate) fn exists(disk: &dyn Disk, dir: &Path) -> Result<bool, LogError> {
        match disk.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(LogError::io("list", dir, error)),
            Ok(entries) => Ok(entries.iter().any(|entry| ["checkpoint", "checkpoint.copy"].contains(&&*entry.name))),
        }
    }

    /// Makes it durable under the next sequence.
    pub(crate) fn store(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        self.sequence += 1;
        let path = dir.join("checkpoint");
        write_pair(disk, &path, &self.encode()).map_err(|error| LogError::io("write", &path, error))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = CHECKPOINT_MAGIC.to_vec();
        for number in [self.sequence, self.oldest, self.newest_number, self.newest_base, self.position] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.producers.len() as u32).to_le_bytes());
        for producer in &self.producers {
            put_text(&mut out, producer.tenant.as_str());
            out.extend_from_slice(&producer.last.producer.to_le_bytes());
            out.extend_from_slice(&producer.last.epoch.to_le_bytes());
            out.extend_from_slice(&producer.last.sequence.to_le_bytes());
            out.extend_from_slice(&producer.time.to_le_bytes());
        }
        seal(out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(unseal(bytes, CHECKPOINT_MAGIC)?);
        let mut checkpoint = Self {
            sequence: cursor.u64()?,
            oldest: cursor.u64()?,
            newest_number: cursor.u64()?,
            newest_base: cursor.u64()?,
            position: cursor.u64()?,
            producers: Vec::new(),
        };
        let offsets = [checkpoint.oldest, checkpoint.newest_base, checkpoint.position];
        if offsets.iter().any(|offset| !offset.is_multiple_of(ALIGN) || *offset > OFFSET_MAX) {
            return Err(Malformed("a checkpoint with an offset that no block has"));
        }
        for _ in 0..cursor.u32()? {
            checkpoint.producers.push(ProducerState {
                tenant: cursor.tenant()?,
                last: ProducerSequence { producer: cursor.u128()?, epoch: cursor.u32()?, sequence: cursor.u64()? },
                time: cursor.i64()?,
            });
        }
        Ok(checkpoint)
    }
}

pub(crate) fn seal(mut out: Vec<u8>) -> Vec<u8> {
    let crc = crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn unseal(bytes: &[u8], magic: [u8; 8]) -> Result<&[u8], Malformed> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed("ends too early"))?;
    if crc32c(body) != u32::from_le_bytes(*crc) {
        return Err(Malformed("the checksum does not match"));
    }
    body.strip_prefix(&magic).ok_or(Malformed("not the expected kind of file"))
}

fn write_pair(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    disk.replace(path, bytes)?;
    disk.replace(&copy_of(path), bytes)
}

fn copy_of(path: &Path) -> PathBuf {
    with_suffix(path, ".copy")
}

struct Pair<T> {
    good: Vec<T>,
    damaged: bool,
}

fn read_pair<T>(disk: &dyn Disk, path: &Path, decode: fn(&[u8]) -> Result<T, Malformed>) -> Result<Pair<T>, LogError> {
    let mut pair = Pair { good: Vec::new(), damaged: false };
    for path in [path.to_owned(), copy_of(path)] {
        match disk.read(&path, STATE_BYTES_MAX) {
            Ok(bytes) => match decode(&bytes) {
                Ok(state) => pair.good.push(state),
                Err(Malformed(what)) => {
                    tracing::error!(file = %path.display(), what, "a copy of the log's state is damaged");
                    pair.damaged = true;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => pair.damaged = true,
            Err(error) => return Err(LogError::io("read", &path, error)),
        }
    }
    Ok(pair)
}
