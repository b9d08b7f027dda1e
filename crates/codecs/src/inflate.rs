//! The one place where anything is decompressed.
//!
//! Invariant: the output never takes more than the caller allows, the decoder's window never more
//! than [`WINDOW_BYTES_MAX`], and an input of a few bytes never makes work without bound: the output
//! is at most 1,000 times the input beyond the first MiB, and frames of almost nothing are counted.

#![allow(clippy::disallowed_types, reason = "this is the one place the decoders may be used")]

use std::io::{BufRead, Read};

use bytes::Bytes;

use crate::DecodeError;

/// How a body was compressed, one layer of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Not at all.
    #[default]
    Identity,
    /// RFC 1952, one member or several.
    Gzip,
    /// What HTTP calls `deflate`: RFC 1950, the zlib format.
    Deflate,
    /// RFC 8878, one frame or several.
    Zstd,
}

/// The most times larger the output may be than the input, beyond [`RATIO_FREE_BYTES`].
pub const RATIO_MAX: u64 = 1000;
/// Output up to this is not held against the ratio: short texts repeat themselves.
pub const RATIO_FREE_BYTES: u64 = 1 << 20;
/// The most members or frames of one body. Compressors that work in parallel write one for every
/// 128 KiB or more.
pub const MEMBERS_MAX: u64 = 1024;
/// The largest window a zstd frame may ask for.
pub const WINDOW_BYTES_MAX: u64 = 1 << WINDOW_LOG_MAX;
const WINDOW_LOG_MAX: u32 = 23;
/// How much is decompressed at once, so that no more than this stands beside the output.
const CHUNK_BYTES: usize = 32 * 1024;

/// Decompresses `bytes` to at most `out_max` bytes.
pub fn decompress(encoding: Encoding, bytes: &[u8], out_max: usize) -> Result<Bytes, DecodeError> {
    let mut output = Output::new(bytes.len(), out_max);
    match encoding {
        Encoding::Identity => output.append(bytes)?,
        Encoding::Gzip => gzip(bytes, &mut output)?,
        Encoding::Deflate => zlib(bytes, &mut output)?,
        Encoding::Zstd => zstd(bytes, &mut output)?,
    }
    Ok(output.bytes.into())
}

/// Decompresses a file while it is read. Memory is bounded by the window; how much comes out is up to
/// whoever reads, and the work is in proportion to it.
///
/// # Errors
/// If there is no memory for a decoder. What comes out ends in `UnexpectedEof` if the input is cut off.
pub fn reader(encoding: Encoding, input: Box<dyn BufRead + Send>) -> std::io::Result<Box<dyn Read + Send>> {
    Ok(match encoding {
        Encoding::Identity => Box::new(input),
        Encoding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Encoding::Deflate => Box::new(flate2::bufread::ZlibDecoder::new(input)),
        Encoding::Zstd => {
            let mut decoder = ::zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

fn gzip(mut rest: &[u8], output: &mut Output) -> Result<(), DecodeError> {
    for _ in 0..MEMBERS_MAX {
        let input = rest;
        let place = output.place(rest.len());
        let mut member = flate2::bufread::GzDecoder::new(rest);
        output.fill(&mut member, |error| malformed("gzip", &place, &error))?;
        rest = member.into_inner();
        if rest.is_empty() {
            return Ok(());
        }
        if rest.len() == input.len() {
            return Err(malformed("gzip", &place, &"the member is empty"));
        }
    }
    Err(too_many_members())
}

/// The library's reader takes a zlib body that is cut off for one that has ended, so this drives
/// the decompressor itself.
fn zlib(bytes: &[u8], output: &mut Output) -> Result<(), DecodeError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut decoder = flate2::Decompress::new(true);
    let mut rest = bytes;
    loop {
        let (in_before, out_before) = (decoder.total_in(), decoder.total_out());
        let place = output.place(rest.len());
        let status = decoder
            .decompress(rest, &mut chunk, flate2::FlushDecompress::None)
            .map_err(|error| malformed("zlib", &place, &error))?;
        let (n_in, n_out) = (decoder.total_in() - in_before, decoder.total_out() - out_before);
        output.append(&chunk[..usize::try_from(n_out).unwrap_or(0)])?;
        rest = &rest[usize::try_from(n_in).unwrap_or(0)..];
        match status {
            flate2::Status::StreamEnd if rest.is_empty() => return Ok(()),
            flate2::Status::StreamEnd => return Err(malformed("zlib", &place, &"something follows the end")),
            _ if n_in == 0 && n_out == 0 => return Err(malformed("zlib", &place, &"the body is cut off")),
            _ => {}
        }
    }
}

fn zstd(mut rest: &[u8], output: &mut Output) -> Result<(), DecodeError> {
    for _ in 0..MEMBERS_MAX {
        let place = output.place(rest.len());
        let mut frame = ::zstd::stream::read::Decoder::with_buffer(rest)
            .and_then(|mut frame| frame.window_log_max(WINDOW_LOG_MAX).map(|()| frame))
            .map_err(|error| malformed("zstd", &place, &error))?
            .single_frame();
        output.fill(&mut frame, |error| malformed("zstd", &place, &error))?;
        rest = frame.finish();
        if rest.fill_buf().is_ok_and(<[u8]>::is_empty) {
            return Ok(());
        }
    }
    Err(too_many_members())
}

/// Decompresses one LZ4 frame, as the buffers of Arrow messages are compressed.
pub(crate) fn lz4_frame(bytes: &[u8], out_max: usize) -> Result<Bytes, DecodeError> {
    let mut output = Output::new(bytes.len(), out_max);
    let place = output.place(bytes.len());
    let mut frame = lz4_flex::frame::FrameDecoder::new(bytes);
    output.fill(&mut frame, |error| malformed("lz4", &place, &error))?;
    Ok(output.bytes.into())
}

/// What comes out, and how much of it may.
struct Output {
    bytes: Vec<u8>,
    input_len: usize,
    out_max: u64,
    ratio_max: u64,
}

impl Output {
    fn new(input_len: usize, out_max: usize) -> Self {
        let ratio_max = (input_len as u64).saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES);
        Self { bytes: Vec::new(), input_len, out_max: out_max as u64, ratio_max }
    }

    /// The place in the input of which `rest` bytes are left.
    fn place(&self, rest: usize) -> String {
        format!("byte {}", self.input_len - rest)
    }

    fn max(&self) -> u64 {
        self.out_max.min(self.ratio_max)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let length = self.bytes.len() + bytes.len();
        self.check(length as u64)?;
        if length > self.bytes.capacity() {
            // Doubling, but never past what may come out at all.
            let capacity = length.max(self.bytes.capacity() * 2).max(4 * self.input_len);
            let capacity = capacity.min(usize::try_from(self.max()).unwrap_or(usize::MAX));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes all a decoder has, or stops within a chunk of what is allowed.
    fn fill(
        &mut self,
        decoder: &mut dyn Read,
        failed: impl Fn(std::io::Error) -> DecodeError,
    ) -> Result<(), DecodeError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match decoder.read(&mut chunk).map_err(&failed)? {
                0 => return Ok(()),
                n => self.append(&chunk[..n])?,
            }
        }
    }

    fn check(&self, actual: u64) -> Result<(), DecodeError> {
        if actual > self.out_max {
            return Err(DecodeError::TooLarge { limit: "decoded_bytes_max", value: self.out_max, actual });
        }
        if actual > self.ratio_max {
            let actual = actual.div_ceil(self.input_len.max(1) as u64);
            return Err(DecodeError::TooLarge { limit: "compression_ratio_max", value: RATIO_MAX, actual });
        }
        Ok(())
    }
}

fn malformed(what: &str, place: &str, error: &dyn std::fmt::Display) -> DecodeError {
    DecodeError::Malformed { message: format!("not valid {what}: {error}"), place: place.to_owned() }
}

fn too_many_members() -> DecodeError {
    DecodeError::TooLarge { limit: "compressed_members_max", value: MEMBERS_MAX, actual: MEMBERS_MAX + 1 }
}

#[cfg(test)]
mod tests;
