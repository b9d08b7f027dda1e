//! One file of text, NDJSON or CSV, from a place on.

use std::io::{self, BufReader, Read};
use std::sync::Arc;

use weir_base::ErrorKind;
use weir_base::disk::DiskFile;
use weir_codecs::inflate::{self, Encoding};
use weir_codecs::rows::{Columns, CsvDecoder, CsvOptions, DecodedRows, NdjsonDecoder, Progress};
use weir_component::source::SourceError;

use super::place::{Head, Place, truncated};
use super::{FileCompression, Plan, disk_error};
use crate::config::FileFormat;

/// How much is read from a file at once.
const CHUNK_BYTES: usize = 256 << 10;
/// How much is read before something is given out, whatever came of it.
const BYTES_A_CALL_MAX: u64 = 32 << 20;

/// A file being read.
pub(super) struct TextFile {
    name: Arc<str>,
    file: Arc<dyn DiskFile>,
    input: Input,
    decoder: Decoder,
    /// Bytes that were read and not yet decoded are `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The offset in the text of `buffer[end]`.
    read_up_to: u64,
    at_end: bool,
    follow: bool,
    compressed: bool,
    record_bytes_max: usize,
    place: Place,
    /// Lines before where the decoder began.
    first_line: u64,
}

/// What one call of [`TextFile::read`] gave.
pub(super) struct TextRows {
    /// Rows and rejects; lines of rejects are those of the file, from 1.
    pub(super) decoded: DecodedRows,
    /// Bytes they were read from.
    pub(super) bytes: u64,
    /// Whether the end of the file was met.
    pub(super) ended: bool,
}

enum Decoder {
    Ndjson(Box<NdjsonDecoder>),
    Csv(Box<CsvDecoder>),
}

impl Decoder {
    fn new(plan: &Plan, columns: &Arc<Columns>) -> Self {
        let columns = Arc::clone(columns);
        match plan.format {
            FileFormat::Csv => Self::Csv(Box::new(CsvDecoder::new(columns, plan.csv, plan.record_bytes_max))),
            FileFormat::Ndjson | FileFormat::Parquet => {
                Self::Ndjson(Box::new(NdjsonDecoder::new(columns, plan.record_bytes_max)))
            }
        }
    }

    fn read(&mut self, name: &str, bytes: &[u8], at_end: bool) -> Result<Progress, SourceError> {
        match self {
            Self::Ndjson(decoder) => Ok(decoder.read(bytes, at_end)),
            Self::Csv(decoder) => decoder.read(bytes, at_end).map_err(|error| bad_header(name, &error.message)),
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Self::Ndjson(decoder) => decoder.is_full(),
            Self::Csv(decoder) => decoder.is_full(),
        }
    }

    fn take(&mut self) -> DecodedRows {
        match self {
            Self::Ndjson(decoder) => decoder.take(),
            Self::Csv(decoder) => decoder.take(),
        }
    }
}

fn bad_header(name: &str, message: &str) -> SourceError {
    SourceError::new(ErrorKind::Input, format!("{name}:1: {message}"))
}

/// Where the bytes come from: a file as it is, or through a decompressor.
pub(super) enum Input {
    Plain { file: Arc<dyn DiskFile>, offset: u64 },
    Packed(Box<dyn Read + Send>),
}

impl Input {
    /// The bytes of a file from the first.
    pub(super) fn new(file: &Arc<dyn DiskFile>, encoding: Encoding) -> io::Result<Self> {
        let file = Arc::clone(file);
        if encoding == Encoding::Identity {
            return Ok(Self::Plain { file, offset: 0 });
        }
        let raw = BufReader::with_capacity(CHUNK_BYTES, RawFile { file, offset: 0 });
        Ok(Self::Packed(inflate::reader(encoding, Box::new(raw))?))
    }

    /// Fills what it can of `buffer`; 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain { file, offset } => {
                let n_bytes = read_at(file.as_ref(), *offset, buffer)?;
                *offset += n_bytes as u64;
                Ok(n_bytes)
            }
            Self::Packed(reader) => loop {
                match reader.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => return other,
                }
            },
        }
    }

    /// Goes on to `offset`.
    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        match self {
            Self::Plain { offset: at, .. } => *at = offset,
            Self::Packed(_) => {
                let mut chunk = vec![0; CHUNK_BYTES];
                let mut left = offset;
                while left > 0 {
                    let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
                    match self.read(&mut chunk[..wanted])? {
                        0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                        n_bytes => left -= n_bytes as u64,
                    }
                }
            }
        }
        Ok(())
    }
}

fn read_at(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let left = file.len()?.saturating_sub(offset);
    let n_bytes = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    file.read_exact_at(&mut buffer[..n_bytes], offset)?;
    Ok(n_bytes)
}

/// A file as what decompressors read from.
struct RawFile {
    file: Arc<dyn DiskFile>,
    offset: u64,
}

impl Read for RawFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_bytes = read_at(self.file.as_ref(), self.offset, buffer)?;
        self.offset += n_bytes as u64;
        Ok(n_bytes)
    }
}

/// How a file of this name is compressed.
pub(super) fn encoding(compression: FileCompression, name: &str) -> Encoding {
    match compression {
        FileCompression::Auto if name.ends_with(".gz") => Encoding::Gzip,
        FileCompression::Auto if name.ends_with(".zst") => Encoding::Zstd,
        FileCompression::Auto | FileCompression::None => Encoding::Identity,
        FileCompression::Gzip => Encoding::Gzip,
        FileCompression::Zstd => Encoding::Zstd,
    }
}

impl TextFile {
    /// Opens `file` at `place`.
    pub(super) fn open(
        plan: &Plan,
        columns: &Arc<Columns>,
        name: &Arc<str>,
        file: Arc<dyn DiskFile>,
        mut place: Place,
    ) -> Result<Self, SourceError> {
        let failed = |error: io::Error| disk_error("read", name, &error);
        let encoding = encoding(plan.compression, name);
        let compressed = encoding != Encoding::Identity;
        if place.offset > 0 {
            place.head.check(name, file.as_ref())?;
            if !compressed {
                check_border(name, file.as_ref(), place.offset)?;
            }
        } else if compressed {
            place.head = Head::of_whole(file.as_ref()).map_err(failed)?;
        }
        let mut decoder = Decoder::new(plan, columns);
        if let Decoder::Csv(decoder) = &mut decoder
            && place.offset > 0
            && plan.csv.header
        {
            let names = read_header(&file, encoding, plan.csv, plan.record_bytes_max).map_err(failed)?;
            decoder.set_header(&names).map_err(|error| bad_header(name, &error.message))?;
        }
        let mut input = Input::new(&file, encoding).map_err(failed)?;
        input.skip_to(place.offset).map_err(failed)?;
        place.done = false;
        Ok(Self {
            name: Arc::clone(name),
            file,
            input,
            decoder,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            read_up_to: place.offset,
            at_end: false,
            follow: plan.follow,
            compressed,
            record_bytes_max: plan.record_bytes_max,
            first_line: place.lines,
            place,
        })
    }

    /// Whether a place in it is found by reading from its beginning.
    pub(super) fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Whether it was to begin with a header, and none has come.
    pub(super) fn lacks_header(&self) -> bool {
        match &self.decoder {
            Decoder::Csv(decoder) => decoder.lacks_header(),
            Decoder::Ndjson(_) => false,
        }
    }

    /// The place after the last rows that were given.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Rows and rejects up to a batch, or to the end of the file.
    pub(super) fn read(&mut self) -> Result<TextRows, SourceError> {
        let mut bytes = 0;
        let mut ended = false;
        while !self.decoder.is_full() && bytes < BYTES_A_CALL_MAX {
            if self.start == self.end || !self.decode(&mut bytes)? {
                if self.at_end {
                    ended = true;
                    break;
                }
                self.fill()?;
                if self.at_end && self.start == self.end {
                    ended = true;
                    break;
                }
            }
        }
        if self.place.head.grows_with(self.place.offset) && !self.compressed {
            let head = Head::of_growing(self.file.as_ref(), self.place.offset);
            self.place.head = head.map_err(|error| disk_error("read", &self.name, &error))?;
        }
        self.place.done = ended && !self.follow;
        let mut decoded = self.decoder.take();
        let header = match &self.decoder {
            Decoder::Csv(decoder) => decoder.header(),
            Decoder::Ndjson(_) => None,
        };
        for reject in &mut decoded.rejects {
            reject.line += self.first_line + 1;
            // So that it can be tried again by itself.
            if let Some(header) = header {
                reject.payload.insert_str(0, header);
            }
        }
        Ok(TextRows { decoded, bytes, ended })
    }

    /// Decodes what is there; whether any of it could be used.
    fn decode(&mut self, bytes: &mut u64) -> Result<bool, SourceError> {
        // Who follows a file waits for the end of its last line.
        let is_last = self.at_end && !self.follow;
        let progress = self.decoder.read(&self.name, &self.buffer[self.start..self.end], is_last)?;
        self.start += progress.bytes;
        if progress.whole > 0 {
            self.place.offset = self.place_of_start() - (progress.bytes - progress.whole) as u64;
            self.place.lines += progress.lines;
        }
        *bytes += progress.bytes as u64;
        Ok(progress.bytes > 0)
    }

    /// The offset in the text of the first byte that was not decoded.
    fn place_of_start(&self) -> u64 {
        self.read_up_to - (self.end - self.start) as u64
    }

    /// Reads on, moving what is left to the front.
    fn fill(&mut self) -> Result<(), SourceError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        // One chunk beyond the longest record, so that a decoder that needs more says so first.
        let len = (self.end + CHUNK_BYTES).min(self.record_bytes_max + 2 * CHUNK_BYTES);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let n_bytes = self.input.read(&mut self.buffer[self.end..]);
        let n_bytes = n_bytes.map_err(|error| disk_error("read", &self.name, &error))?;
        self.end += n_bytes;
        self.read_up_to += n_bytes as u64;
        self.at_end = n_bytes == 0;
        Ok(())
    }
}

/// That a line ends where reading stopped.
fn check_border(name: &str, file: &dyn DiskFile, offset: u64) -> Result<(), SourceError> {
    let failed = |error| disk_error("read", name, &error);
    let len = file.len().map_err(failed)?;
    if len < offset {
        return Err(truncated(name, offset, len));
    }
    let mut last = [0];
    file.read_exact_at(&mut last, offset - 1).map_err(failed)?;
    if last != *b"\n" && len > offset {
        let message = format!(
            "{name} grew within a line: its last line was read as a whole at byte {offset}, where the file ended; start the pipeline anew"
        );
        return Err(SourceError::new(ErrorKind::Conflict, message));
    }
    Ok(())
}

/// The names in the first record.
fn read_header(
    file: &Arc<dyn DiskFile>,
    encoding: Encoding,
    options: CsvOptions,
    bytes_max: usize,
) -> io::Result<Vec<String>> {
    let mut input = Input::new(file, encoding)?;
    let mut bytes = Vec::new();
    loop {
        let len = bytes.len();
        bytes.resize(len + CHUNK_BYTES, 0);
        let n_bytes = input.read(&mut bytes[len..])?;
        bytes.truncate(len + n_bytes);
        if let Some(names) = weir_codecs::rows::csv_header(&bytes, options.delimiter, n_bytes == 0) {
            return Ok(names);
        }
        if n_bytes == 0 || bytes.len() > bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "there is no header"));
        }
    }
}
