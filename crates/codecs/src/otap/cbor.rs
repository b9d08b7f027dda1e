//! Lists and maps, which OTAP sends as CBOR (RFC 8949), to `AnyValue`.

use super::ipc::broken;
use super::protobuf::{Result, Writer};

/// How deep lists and maps may nest: one more than rows may have, so that the row is refused and
/// not the batch.
const DEPTH_MAX: usize = 65;

/// The bytes of one value.
struct Reader<'a> {
    rest: &'a [u8],
}

/// What an item begins with.
struct Head {
    major: u8,
    /// The low bits of the first byte.
    info: u8,
    /// The number after it; `None` if the length is not known in advance.
    argument: Option<u64>,
}

/// Writes the fields of an `AnyValue` for one item of CBOR.
pub(super) fn write_any(bytes: &[u8], out: &mut Writer) -> Result {
    let mut reader = Reader { rest: bytes };
    let head = reader.head()?;
    reader.any(&head, out, 0)?;
    if reader.rest.is_empty() { Ok(()) } else { Err(broken("something follows a value in CBOR")) }
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (taken, rest) = split.ok_or_else(|| broken("a value in CBOR is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head> {
        let first = self.take(1)?.first().copied().unwrap_or_default();
        let (major, info) = (first >> 5, first & 31);
        let argument = match info {
            0..=23 => Some(u64::from(info)),
            24..=27 => {
                let bytes = self.take(1 << (info - 24))?;
                Some(bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
            }
            31 => None,
            _ => return Err(broken("a value in CBOR is not well formed")),
        };
        Ok(Head { major, info, argument })
    }

    /// Whether there is another element of a list or map; counts `left` down if it is known.
    fn next(&mut self, left: &mut Option<u64>) -> Result<Option<Head>> {
        match left {
            Some(0) => return Ok(None),
            Some(left) => *left -= 1,
            None => {}
        }
        let head = self.head()?;
        let is_break = head.major == 7 && head.argument.is_none();
        match (is_break, left) {
            (false, _) => Ok(Some(head)),
            (true, None) => Ok(None),
            (true, Some(_)) => Err(broken("a list in CBOR ends too early")),
        }
    }

    fn any(&mut self, head: &Head, out: &mut Writer, depth: usize) -> Result {
        let malformed = || broken("a value in CBOR is of a kind that attributes do not have");
        if matches!(head.major, 4 | 5) {
            if depth >= DEPTH_MAX {
                return Err(broken(format!("a value in CBOR is nested deeper than {} levels", DEPTH_MAX - 1)));
            }
            let mut left = head.argument;
            return if head.major == 4 {
                out.message(5, |out| {
                    while let Some(head) = self.next(&mut left)? {
                        out.message(1, |out| self.any(&head, out, depth + 1))?;
                    }
                    Ok(())
                })
            } else {
                out.message(6, |out| {
                    while let Some(key) = self.next(&mut left)? {
                        out.message(1, |out| {
                            match (key.major, key.argument, key.info) {
                                (3, Some(length), _) => out.bytes(1, Some(self.take(length)?))?,
                                // A key that is null is an empty one.
                                (7, Some(_), 22) => {}
                                _ => return Err(broken("a key of a map in CBOR is not text")),
                            }
                            let head = self.head()?;
                            out.message(2, |out| self.any(&head, out, depth + 1))
                        })?;
                    }
                    Ok(())
                })
            };
        }
        let argument = head.argument.ok_or_else(malformed)?;
        match head.major {
            0 => out.varint(3, Some(i64::try_from(argument).map_err(|_| malformed())?)),
            1 => out.varint(3, Some(-1 - i64::try_from(argument).map_err(|_| malformed())?)),
            2 => out.bytes(7, Some(self.take(argument)?)),
            3 => out.bytes(1, Some(self.take(argument)?)),
            7 => match head.info {
                20 | 21 => out.bool(2, Some(head.info == 21)),
                22 | 23 => Ok(()),
                25 => out.double(4, Some(half(argument))),
                26 => out.double(4, Some(f64::from(f32::from_bits(u32::try_from(argument).map_err(|_| malformed())?)))),
                27 => out.double(4, Some(f64::from_bits(argument))),
                _ => Err(malformed()),
            },
            _ => Err(malformed()),
        }
    }
}

/// A half-precision number.
fn half(bits: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "ten bits")]
    let mantissa = (bits & 0x3ff) as f64;
    let magnitude = match (bits >> 10) & 0x1f {
        0 => mantissa * f64::powi(2.0, -24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + mantissa / 1024.0) * f64::powi(2.0, i32::try_from(exponent).unwrap_or(0) - 15),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}
