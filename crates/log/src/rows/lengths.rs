//! Offsets as lengths, for the compression after it.
//!
//! Every text and list column of a body has a buffer of offsets, four bytes a row. Each is different from all others, so
//! LZ4 finds nothing in them and copies them. Lengths repeat.
//!
//! Both ways wrap around, so that any four bytes come back as they were: the numbers are judged by whoever builds arrays of them.

use arrow::datatypes::{DataType, Fields};
use arrow_ipc::RecordBatch as Message;

/// Which of the buffers of a record batch message are offsets of four bytes, in ascending order. `None`: a column has a
/// type whose buffers are not known here.
fn offset_buffers(fields: &Fields) -> Option<Vec<usize>> {
    fn walk(data_type: &DataType, next: &mut usize, out: &mut Vec<usize>) -> Option<()> {
        // First its validity, in all types that are known here.
        match data_type {
            DataType::Utf8 | DataType::Binary => {
                out.push(*next + 1);
                *next += 3;
            }
            DataType::List(field) | DataType::Map(field, _) => {
                out.push(*next + 1);
                *next += 2;
                walk(field.data_type(), next, out)?;
            }
            DataType::Struct(fields) => {
                *next += 1;
                for field in fields {
                    walk(field.data_type(), next, out)?;
                }
            }
            other if other.is_primitive() || matches!(other, DataType::Boolean | DataType::FixedSizeBinary(_)) => {
                *next += 2;
            }
            _ => return None,
        }
        Some(())
    }
    let (mut next, mut out) = (0, Vec::new());
    for field in fields {
        walk(field.data_type(), &mut next, &mut out)?;
    }
    Some(out)
}

/// Calls `each` with every buffer of offsets in the body of a message. Gives whether that was possible; if not, nothing
/// was called.
fn each_offsets(message: Message<'_>, fields: &Fields, body: &mut [u8], each: fn(&mut [[u8; 4]])) -> bool {
    let (Some(places), Some(buffers)) = (offset_buffers(fields), message.buffers()) else { return false };
    let mut ranges = Vec::with_capacity(places.len());
    for place in places {
        if place >= buffers.len() {
            return false;
        }
        let buffer = buffers.get(place);
        let (Ok(offset), Ok(length)) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length())) else {
            return false;
        };
        match offset.checked_add(length) {
            Some(end) if end <= body.len() => ranges.push(offset..end),
            _ => return false,
        }
    }
    for range in ranges {
        each(body[range].as_chunks_mut::<4>().0);
    }
    true
}

/// Makes lengths of the offsets in the body of a message. Gives whether it did; if not, nothing was changed.
pub(super) fn to_lengths(message: Message<'_>, fields: &Fields, body: &mut [u8]) -> bool {
    each_offsets(message, fields, body, |numbers| {
        let mut before = 0_u32;
        for number in numbers {
            let offset = u32::from_le_bytes(*number);
            *number = offset.wrapping_sub(before).to_le_bytes();
            before = offset;
        }
    })
}

/// Makes offsets of them again.
pub(super) fn to_offsets(message: Message<'_>, fields: &Fields, body: &mut [u8]) -> bool {
    each_offsets(message, fields, body, |numbers| {
        let mut offset = 0_u32;
        for number in numbers {
            offset = offset.wrapping_add(u32::from_le_bytes(*number));
            *number = offset.to_le_bytes();
        }
    })
}
