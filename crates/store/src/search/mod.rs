//! The search index: which blocks of rows of a file may hold a text, without reading them.
//!
//! A text that contains another contains all its trigrams: three bytes in a row, upper case folded
//! to lower. The index says, for a block of [`BLOCK_ROWS`] rows, which trigrams occur in it. A block
//! that lacks one trigram of what is searched has no matching row and is never read. Trigrams are
//! hashed to [`SLOTS`] slots; two that share a slot only make a block look possible that is not.
//!
//! Here is what is asked ([`Condition`]); [`index`] has how it is kept in a file.
//!
//! Invariant: folding goes character by character, so the folded form of a part of a text is a part
//! of the folded form of the text. Whatever equals an ASCII letter by Unicode's simple case folding
//! folds to it, which is what `ilike` goes by.

pub(crate) mod build;
pub mod index;

/// Rows of one block, counted from the first row of the file. Pages have as many, so that a block is a
/// page of its column.
pub const BLOCK_ROWS: u64 = 4096;
/// Blocks described together.
pub const SEGMENT_BLOCKS: u64 = 32;
/// Rows described together: as many as a row group has.
pub const SEGMENT_ROWS: u64 = BLOCK_ROWS * SEGMENT_BLOCKS;
/// Trigrams are hashed to so many slots.
pub const SLOTS: usize = 1 << 16;
/// A condition looks at no more trigrams than this of one text: more hardly rule out more.
const GRAMS_MAX: usize = 64;

/// The slot of a trigram, given as a number of 24 bits.
fn slot(gram: u32) -> u16 {
    // The upper half of a product with the golden ratio (Knuth): lower bits mix worse.
    (gram.wrapping_mul(0x9e37_79b1) >> 16) as u16
}

/// ASCII in lower case; everything else as it is.
const FOLDED: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).to_ascii_lowercase();
        byte += 1;
    }
    table
};

/// The two characters beside ASCII that are some ASCII letter in another case: the Kelvin sign and
/// the long s.
fn has_other_case(text: &str) -> bool {
    !text.is_ascii() && text.contains(['\u{212a}', '\u{17f}'])
}

fn replace_other_case(text: &str) -> String {
    text.replace('\u{212a}', "k").replace('\u{17f}', "s")
}

/// Hands the slot of every trigram of `text` to `see`.
fn each_slot(text: &[u8], mut see: impl FnMut(u16)) {
    let [first, second, rest @ ..] = text else { return };
    let folded = |byte: u8| u32::from(FOLDED[usize::from(byte)]);
    let mut gram = folded(*first) << 8 | folded(*second);
    for byte in rest {
        gram = (gram << 8 | folded(*byte)) & 0xff_ffff;
        see(slot(gram));
    }
}

/// Whether letters must be equal, or only equal but for their case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// As `like`.
    Sensitive,
    /// As `ilike`.
    Insensitive,
}

/// What is known of the values of one column that a query looks for. A condition may say less than
/// the query does, never more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing: every row may match.
    Anything,
    /// The value has all these slots.
    Slots(Vec<u16>),
    /// All hold.
    All(Vec<Condition>),
    /// At least one holds.
    Either(Vec<Condition>),
}

impl Condition {
    /// The value contains `text`.
    #[must_use]
    pub fn contains(text: &str, case: Case) -> Self {
        let mut slots = Vec::new();
        let replaced;
        let text = if has_other_case(text) {
            replaced = replace_other_case(text);
            &replaced
        } else {
            text
        };
        match case {
            Case::Sensitive => each_slot(text.as_bytes(), |slot| slots.push(slot)),
            // A letter beside ASCII may stand for another one, of other bytes.
            Case::Insensitive => {
                for run in text.split(|letter: char| !letter.is_ascii()) {
                    each_slot(run.as_bytes(), |slot| slots.push(slot));
                }
            }
        }
        slots.sort_unstable();
        slots.dedup();
        slots.truncate(GRAMS_MAX);
        if slots.is_empty() { Self::Anything } else { Self::Slots(slots) }
    }

    /// The value matches an SQL pattern: `%` is any text, `_` any letter, a backslash escapes.
    #[must_use]
    pub fn like(pattern: &str, case: Case) -> Self {
        let mut parts = Vec::new();
        let mut run = String::new();
        let mut letters = pattern.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' | '_' => parts.push(std::mem::take(&mut run)),
                '\\' => match letters.next() {
                    Some(escaped @ ('%' | '_')) => run.push(escaped),
                    // Implementations differ in what other escapes mean: both letters stay unknown.
                    _ => parts.push(std::mem::take(&mut run)),
                },
                letter => run.push(letter),
            }
        }
        parts.push(run);
        Self::all(parts.iter().map(|part| Self::contains(part, case)))
    }

    /// All of several hold.
    #[must_use]
    pub fn all(conditions: impl IntoIterator<Item = Self>) -> Self {
        let mut parts: Vec<Self> = conditions.into_iter().filter(|condition| *condition != Self::Anything).collect();
        match parts.len() {
            0 => Self::Anything,
            1 => parts.remove(0),
            _ => Self::All(parts),
        }
    }

    /// At least one of several holds.
    #[must_use]
    pub fn either(conditions: impl IntoIterator<Item = Self>) -> Self {
        let parts: Vec<Self> = conditions.into_iter().collect();
        if parts.contains(&Self::Anything) || parts.is_empty() {
            return Self::Anything;
        }
        Self::Either(parts)
    }
}

#[cfg(test)]
mod tests;
