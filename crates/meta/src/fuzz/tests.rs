//! The corpora of the catalogue's fuzz targets, replayed, and all damage of one bit, one page or one
//! cut that a small database can have.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// The size of a page of the sample.
const PAGE: usize = 512;

/// In memory where there is such a place: thousands of databases are written.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn replay(target: &str, mut run: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut n_inputs = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let done = catch_unwind(AssertUnwindSafe(|| run(&input)));
        assert!(done.is_ok(), "{}", path.display());
        n_inputs += 1;
    }
    assert!(n_inputs > 0, "{target} has no corpus");
}

#[test]
fn catalogue_rows_corpus() {
    let directory = scratch();
    let rows = Rows::new(directory.path());
    replay("catalogue_rows", |input| rows.run(input));
}

#[test]
fn key_corpus() {
    let directory = scratch();
    let keys = Keys::new(directory.path());
    replay("key", |input| keys.run(input));
    keys.run(&[1]);
}

#[test]
fn catalogue_file_corpus() {
    let directory = scratch();
    let sample = Sample::new(directory.path());
    replay("catalogue_file", |input| sample.run(input));
}

/// Checks many files, and says how many ended how.
fn check_all(sample: &Sample, cases: impl Iterator<Item = (String, Vec<u8>)>) -> BTreeMap<Verdict, usize> {
    let mut verdicts = BTreeMap::new();
    let mut failed = Vec::new();
    for (what, bytes) in cases {
        match catch_unwind(AssertUnwindSafe(|| sample.check(&bytes))) {
            Ok(verdict) => *verdicts.entry(verdict).or_default() += 1,
            Err(_) => failed.push(what),
        }
    }
    assert!(failed.is_empty(), "{} of {verdicts:?}: {failed:?}", failed.len());
    verdicts
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// A bit of every fifth byte in an ordinary run, every bit of every byte with `WEIR_EVERY_BIT`.
#[test]
fn every_flipped_bit_is_named_or_harmless() {
    let directory = scratch();
    let sample = Sample::new(directory.path());
    let every = std::env::var_os("WEIR_EVERY_BIT").is_some();
    let bits = (0..sample.bytes.len() * 8).filter(|bit| every || (bit / 8 % 5 == 0 && bit % 8 == bit / 40 % 8));
    let cases = bits.map(|bit| (format!("bit {bit}, page {}", bit / 8 / PAGE + 1), flipped(&sample.bytes, bit)));
    let verdicts = check_all(&sample, cases);
    assert!(verdicts.contains_key(&Verdict::Named), "{verdicts:?}");
}

#[test]
fn every_truncation_is_named_or_harmless() {
    let directory = scratch();
    let sample = Sample::new(directory.path());
    // That there is nothing at all is for the server to judge, by what is beside the file.
    let lens = (PAGE..sample.bytes.len()).step_by(PAGE).chain((1..sample.bytes.len()).step_by(701));
    let mut cases: Vec<_> = lens.map(|len| (format!("cut to {len}"), sample.bytes[..len].to_vec())).collect();
    for more in [vec![0; PAGE], vec![0xa5; 3 * PAGE], sample.bytes[..100].to_vec()] {
        cases.push((format!("{} bytes more", more.len()), [sample.bytes.clone(), more].concat()));
    }
    check_all(&sample, cases.into_iter());
}

/// What a disk does that loses a write, or puts it in the wrong place.
#[test]
fn every_page_that_is_stale_or_in_the_wrong_place_is_named_or_harmless() {
    let directory = scratch();
    let sample = Sample::new(directory.path());
    let n_pages = sample.bytes.len() / PAGE;
    let place = |number: usize| number * PAGE..(number + 1) * PAGE;
    let mut cases = Vec::new();
    for one in 0..n_pages {
        let page = &sample.bytes[place(one)];
        let mut put = |what: String, at: usize, with: &[u8]| {
            let mut bytes = sample.bytes.clone();
            bytes[place(at)].copy_from_slice(with);
            cases.push((what, bytes));
        };
        put(format!("page {} of zeros", one + 1), one, &[0; PAGE]);
        if let Some(stale) = sample.stale.get(place(one)) {
            put(format!("page {} stale", one + 1), one, stale);
        }
        for other in (0..n_pages).filter(|other| *other != one) {
            put(format!("page {} over {}", one + 1, other + 1), other, page);
        }
        for other in 0..one {
            let mut bytes = sample.bytes.clone();
            bytes[place(one)].copy_from_slice(&sample.bytes[place(other)]);
            bytes[place(other)].copy_from_slice(page);
            cases.push((format!("pages {} and {} swapped", one + 1, other + 1), bytes));
        }
    }
    check_all(&sample, cases.into_iter());
}
