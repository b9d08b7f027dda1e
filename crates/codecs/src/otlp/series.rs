//! What names a time series of metrics.
//!
//! `series` is 32 hexadecimal digits: the 128-bit SipHash-1-3 with a zero key over, in this order, the
//! attribute sums of resource, scope and point (16 bytes each, little endian), then scope name, scope
//! version, metric name and type, each as its length (8 bytes, little endian) and its bytes. An
//! attribute sum is the sum modulo 2^128 of the 128-bit SipHash-1-3 of every attribute: key, then
//! value as the JSON text it is stored as, each with its length before it. So the order of attributes
//! does not matter, and both encodings agree.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};
use weir_data::attributes::AttributesBuilder;

use super::origin::Group;

/// The sum of the hashes of attributes.
pub(super) fn attributes_sum<'a>(attributes: impl Iterator<Item = (&'a str, &'a str)>) -> u128 {
    let mut scratch = Vec::new();
    attributes.fold(0u128, |sum, (key, value)| sum.wrapping_add(attribute_hash(key, value, &mut scratch)))
}

/// The hash of one attribute. Hashing it in one piece is twice as fast as in four.
fn attribute_hash(key: &str, value: &str, scratch: &mut Vec<u8>) -> u128 {
    scratch.clear();
    for text in [key, value] {
        scratch.extend_from_slice(&(text.len() as u64).to_le_bytes());
        scratch.extend_from_slice(text.as_bytes());
    }
    SipHasher13::new().hash(scratch).as_u128()
}

/// Sums for one point after the other. Neighbours mostly differ in one attribute or two, so the
/// hash of one that equals its predecessor at the same place is not computed again.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// The hashes of the last point that was stored, and of the one being read.
    before: Vec<u128>,
    now: Vec<u128>,
    scratch: Vec<u8>,
}

impl Sums {
    /// The sum of the attributes of the row that is open.
    pub(super) fn of_open_row(&mut self, attributes: &AttributesBuilder) -> u128 {
        self.now.clear();
        let mut row_before = attributes.last_row();
        let mut sum = 0u128;
        for (at, (key, value)) in attributes.open_row().enumerate() {
            let hash = match (row_before.next(), self.before.get(at)) {
                (Some(same), Some(hash)) if same == (key, value) => *hash,
                _ => attribute_hash(key, value, &mut self.scratch),
            };
            self.now.push(hash);
            sum = sum.wrapping_add(hash);
        }
        std::mem::swap(&mut self.now, &mut self.before);
        sum
    }
}

fn write_text(hasher: &mut SipHasher13, text: &str) {
    hasher.write(&(text.len() as u64).to_le_bytes());
    hasher.write(text.as_bytes());
}

/// The name of a series, as a number: of the attributes of its resource and its scope, of the metric, and of the sum
/// of the point's attributes.
pub(super) fn series(groups: [&Group; 2], metric: &str, kind: &str, point: u128) -> u128 {
    let [resource, scope] = groups;
    let mut hasher = SipHasher13::new();
    hasher.write(&resource.attributes_sum.to_le_bytes());
    hasher.write(&scope.attributes_sum.to_le_bytes());
    hasher.write(&point.to_le_bytes());
    for text in [scope.name(), scope.version(), metric, kind] {
        write_text(&mut hasher, text);
    }
    hasher.finish128().as_u128()
}
