//! The one place where anything is decompressed.
//!
//! Invariant: the output never takes more than the caller allows, the decoder's window never more
//! than [`WINDOW_BYTES_MAX`], and an input of a few bytes never makes work without bound: the output
//! is at most 100 times the input beyond the first MiB, and frames of almost nothing are counted.

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
    /// RFC 8878, one frame or several.
    Zstd,
}

/// The most times larger the output may be than the input, beyond [`RATIO_FREE_BYTES`].
pub const RATIO_MAX: u64 = 100;
/// Output up to this is not held against the ratio: short texts repeat themselves.
pub const RATIO_FREE_BYTES: u64 = 1 << 20;
/// The most members or frames of one body. Compressors that work in parallel write one for every
/// 128 KiB or more.
pub const MEMBERS_MAX: u64 = 1024;
/// The largest window a zstd frame may ask for.
pub const WINDOW_BYTES_MAX: u64 = 1 << WINDOW_LOG_MAX;
const WINDOW_LOG_MAX: u32 = 23;

/// Decompresses `bytes` to at most `out_max` bytes.
pub fn decompress(encoding: Encoding, bytes: &[u8], out_max: usize) -> Result<Bytes, DecodeError> {
    let mut output = Output::new(bytes.len(), out_max);
    match encoding {
        Encoding::Identity => output.append(bytes)?,
        Encoding::Gzip => gzip(bytes, &mut output)?,
        Encoding::Zstd => zstd(bytes, &mut output)?,
    }
    Ok(output.bytes.into())
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
        self.check(bytes.len() as u64)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes all a decoder has, or stops one byte past what is allowed.
    fn fill(
        &mut self,
        decoder: &mut dyn Read,
        failed: impl Fn(std::io::Error) -> DecodeError,
    ) -> Result<(), DecodeError> {
        let left = self.max() + 1 - self.bytes.len() as u64;
        // `Vec` grows by doubling, so that memory stays within twice the output.
        decoder.take(left).read_to_end(&mut self.bytes).map_err(failed)?;
        self.check(self.bytes.len() as u64)
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
