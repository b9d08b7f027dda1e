//! The index never rules out a block that has a matching row, and a damaged one says nothing.

use arrow::array::{Array, BooleanArray, Scalar, StringArray};
use proptest::prelude::*;

use super::build::Builder;
use super::index::Segment;
use super::*;

/// The segments of an index over `texts`.
fn segments(texts: &[Option<&str>]) -> Vec<Vec<u8>> {
    let values = StringArray::from(texts.to_vec());
    let mut builder = Builder::new("body");
    // In unequal parts, as batches come.
    let mut at = 0;
    for part in [1, 700, 8192, 3, 5000].iter().cycle() {
        let len = (*part).min(values.len() - at);
        builder.add(&values.slice(at, len));
        at += len;
        if at == values.len() {
            break;
        }
    }
    let (bytes, entry) = builder.finish(100);
    let value = entry.value.unwrap();
    let lengths = value.split(' ').nth(2).unwrap();
    let mut rest = bytes.as_slice();
    let mut out = Vec::new();
    for length in lengths.split(',').filter(|length| !length.is_empty()) {
        let (segment, after) = rest.split_at(length.parse().unwrap());
        out.push(segment.to_vec());
        rest = after;
    }
    assert!(rest.is_empty());
    out
}

fn candidates(texts: &[Option<&str>], condition: &Condition) -> u32 {
    let segments = segments(texts);
    assert_eq!(segments.len(), 1);
    Segment::parse(&segments[0]).unwrap().candidates(condition)
}

#[test]
fn a_block_without_the_text_is_ruled_out() {
    let rows = BLOCK_ROWS as usize;
    let mut texts = vec![Some("GET /checkout took 30 ms"); rows];
    texts.extend(vec![Some("connection to 10.0.0.7 refused"); rows]);
    texts.extend(vec![None; rows]);
    texts.push(Some("zebra crossing"));
    let found = |text: &str, case| candidates(&texts, &Condition::contains(text, case));
    assert_eq!(found("checkout", Case::Sensitive), 0b0001);
    assert_eq!(found("CHECKout", Case::Insensitive), 0b0001);
    assert_eq!(found("refused", Case::Sensitive), 0b0010);
    assert_eq!(found("zebra cross", Case::Sensitive), 0b1000);
    assert_eq!(found("giraffe", Case::Sensitive), 0);
    assert_eq!(found("ms", Case::Sensitive), 0b1111, "too short to say anything");
    let like = |pattern: &str| candidates(&texts, &Condition::like(pattern, Case::Sensitive));
    assert_eq!(like("%checkout%30 ms"), 0b0001);
    assert_eq!(like("%checkout%refused%"), 0);
    assert_eq!(like(r"%check\out%"), 0b0001, "an escape nobody agrees about");
    let either = Condition::either([
        Condition::contains("zebra", Case::Sensitive),
        Condition::contains("refused", Case::Sensitive),
    ]);
    assert_eq!(candidates(&texts, &either), 0b1010);
}

/// Masks have one, two or four bytes.
#[test]
fn every_block_of_a_segment_is_told_apart() {
    let rows = BLOCK_ROWS as usize;
    for blocks in [1, 2, 8, 9, 16, 17, 31, 32] {
        for wanted in [0, blocks / 2, blocks - 1] {
            let texts: Vec<Option<&str>> =
                (0..blocks * rows).map(|row| Some(if row == wanted * rows + 7 { "zebra" } else { "row" })).collect();
            let found = candidates(&texts, &Condition::contains("zebra", Case::Sensitive));
            assert_eq!(found, 1 << wanted, "{wanted} of {blocks}");
            assert_eq!(candidates(&texts, &Condition::contains("row", Case::Sensitive)).count_ones() as usize, blocks);
        }
    }
}

#[test]
fn segments_follow_each_other() {
    let rows = SEGMENT_ROWS as usize + 10;
    let texts: Vec<String> =
        (0..rows).map(|row| if row == rows - 1 { "the last".into() } else { format!("row {row}") }).collect();
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    let segments = segments(&texts);
    assert_eq!(segments.len(), 2);
    let found = |at: usize| {
        Segment::parse(&segments[at]).unwrap().candidates(&Condition::contains("the last", Case::Sensitive))
    };
    assert_eq!((found(0), found(1)), (0, 1));
}

#[test]
fn what_is_damaged_says_nothing() {
    let texts: Vec<String> = (0..9000).map(|row| format!("{row:x} and {}", row * 77)).collect();
    let texts: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
    let whole = segments(&texts).remove(0);
    assert!(Segment::parse(&whole).is_some());
    for end in 0..whole.len() {
        assert!(Segment::parse(&whole[..end]).is_none(), "cut at {end}");
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(Segment::parse(&damaged).is_none(), "bit flipped at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing that parses panics or reads out of bounds, whatever its checksum covers.
    #[test]
    fn any_bytes_can_be_asked(mut bytes in prop::collection::vec(any::<u8>(), 0..200), slots in prop::collection::vec(any::<u16>(), 0..5)) {
        if let Some(rest) = bytes.get(4..) {
            let crc = weir_base::crc::crc32c(rest);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
        }
        if let Some(segment) = Segment::parse(&bytes) {
            let _ = segment.candidates(&Condition::Slots(slots));
        }
    }
}

/// Letters that meet: both cases, those that only look alike, wildcards and the escape.
fn letter() -> impl Strategy<Value = char> {
    prop_oneof![
        4 => prop::sample::select("abkKsSiI %_\\Z0".chars().collect::<Vec<_>>()),
        2 => prop::sample::select("\u{212a}\u{17f}İıßéÉσςΣµμ日本".chars().collect::<Vec<_>>()),
        1 => any::<char>(),
    ]
}

fn text(max: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(letter(), 0..max).prop_map(|letters| letters.into_iter().collect())
}

fn matches(kernel: Kernel, texts: &StringArray, pattern: &str) -> BooleanArray {
    kernel(texts, &Scalar::new(StringArray::from(vec![pattern]))).unwrap()
}

type Kernel = fn(&dyn arrow::array::Datum, &dyn arrow::array::Datum) -> Result<BooleanArray, arrow::error::ArrowError>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// For every way to search: if the engine's own kernel finds a row, the index does not rule it out.
    #[test]
    fn a_row_that_matches_is_never_ruled_out(
        texts in prop::collection::vec(text(12), 1..6),
        pattern in text(8),
        cut in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        wild in any::<bool>(),
    ) {
        use arrow::compute::kernels::comparison::{contains, ilike, like};
        // Half of the time a pattern that surely matches something: a part of a text.
        let pattern = if wild { pattern } else {
            let letters: Vec<char> = texts[cut.0.index(texts.len())].chars().collect();
            let (a, b) = (cut.1.index(letters.len() + 1), cut.2.index(letters.len() + 1));
            letters[a.min(b)..a.max(b)].iter().collect()
        };
        // Each text alone, so that no neighbour lends its trigrams.
        let indexes: Vec<Vec<u8>> = texts.iter().map(|text| segments(&[Some(text)]).remove(0)).collect();
        let (upper, lower) = (pattern.to_uppercase(), pattern.to_lowercase());
        for (kernel, pattern, condition) in [
            (like as Kernel, format!("%{pattern}%"), Condition::like(&format!("%{pattern}%"), Case::Sensitive)),
            (like, pattern.clone(), Condition::like(&pattern, Case::Sensitive)),
            (ilike, format!("%{pattern}%"), Condition::like(&format!("%{pattern}%"), Case::Insensitive)),
            (ilike, format!("%{upper}%"), Condition::like(&format!("%{upper}%"), Case::Insensitive)),
            (ilike, format!("%{lower}%"), Condition::like(&format!("%{lower}%"), Case::Insensitive)),
            (ilike, upper.clone(), Condition::like(&upper, Case::Insensitive)),
            (contains, pattern.clone(), Condition::contains(&pattern, Case::Sensitive)),
        ] {
            let found = matches(kernel, &StringArray::from(texts.clone()), &pattern);
            for (row, text) in texts.iter().enumerate().filter(|(row, _)| found.value(*row)) {
                let segment = Segment::parse(&indexes[row]).unwrap();
                prop_assert_eq!(segment.candidates(&condition), 1, "{:?} in {:?}", pattern, text);
            }
        }
    }
}
