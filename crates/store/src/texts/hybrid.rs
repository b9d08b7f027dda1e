//! Numbers as Parquet writes levels and places in dictionaries: runs of equal ones as one, the
//! others packed in as few bits as the largest takes.

/// A run at least this long is written as one.
const RUN_MIN: usize = 8;

/// Bits of the largest number.
pub(super) fn width(most: u32) -> u8 {
    (u32::BITS - most.leading_zeros()) as u8
}

/// Appends `values`, each less than two to the power of `width`.
pub(super) fn write(values: &[u32], width: u8, out: &mut Vec<u8>) {
    let mut packed_from = 0;
    let mut at = 0;
    while at < values.len() {
        let value = values[at];
        let run = values[at..].iter().take_while(|next| **next == value).count();
        // Packed values come in eights: a run gives up what completes the last eight.
        let lent = (at - packed_from).next_multiple_of(8) - (at - packed_from);
        if run >= lent + RUN_MIN {
            pack(&values[packed_from..at + lent], width, out);
            varint(((run - lent) as u64) << 1, out);
            out.extend_from_slice(&value.to_le_bytes()[..usize::from(width.div_ceil(8))]);
            packed_from = at + run;
        }
        at += run;
    }
    pack(&values[packed_from..], width, out);
}

/// Writes values in groups of eight; the last group is filled up with zeros.
fn pack(values: &[u32], width: u8, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(8);
    varint((groups as u64) << 1 | 1, out);
    let end = out.len() + groups * usize::from(width);
    let (mut bits, mut held) = (0_u64, 0_u32);
    for value in values {
        bits |= u64::from(*value) << held;
        held += u32::from(width);
        if held >= 32 {
            out.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= 32;
            held -= 32;
        }
    }
    while held > 0 {
        out.push(bits as u8);
        bits >>= 8;
        held = held.saturating_sub(8);
    }
    out.resize(end, 0);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
